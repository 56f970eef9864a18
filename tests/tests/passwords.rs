//! Wrong passwords, changed ones, and what an administrator can do about sessions.

use std::time::{Duration, Instant};

use client::{Conversation, LoginError};
use proto::Command;
use proto::client::{KickNotify, KickReason, LoginResult};
use tests::{Cluster, Device, PASSWORD};

/// How soon sessions end.
const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_changed_password_ends_both_devices_within_a_second_and_others_notice_nothing() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let (pc, phone) = (Device::pc(here, 1).await, Device::mobile(there, 1).await);
    let (mut ben, mut carl) = (Device::pc(here, 2).await, Device::mobile(there, 3).await);

    admin(&cluster, &["user", "passwd", "u1", "--password", "battery staple"]);
    let began = Instant::now();
    assert_kicked(pc).await;
    assert_kicked(phone).await;
    assert!(began.elapsed() <= AT_ONCE, "they ended after {:?}", began.elapsed());

    for gateway in [here, there] {
        let old = Device::try_log_in(gateway, "u1", PASSWORD).await;
        let Err(LoginError::Refused { result, .. }) = old else { panic!("the old one: {old:?}") };
        assert_eq!(result, i32::from(LoginResult::BadCredentials));
        Device::try_log_in(gateway, "u1", "battery staple").await.expect("the new one");
    }
    ben.say(Conversation::user(3), "still here").await;
    carl.hears(2, Conversation::user(3), "still here").await;
    ben.heard_nothing(Command::KickNotify).await;
    carl.heard_nothing(Command::KickNotify).await;
}

#[tokio::test]
async fn a_disabled_or_kicked_user_is_told_and_let_go_and_an_administrator_sees_who_is_there() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    assert!(admin(&cluster, &["user", "sessions", "u1"]).contains("no session"));
    let (pc, phone) = (Device::pc(here, 1).await, Device::mobile(there, 1).await);
    let mut ben = Device::pc(here, 2).await;
    let seen = admin(&cluster, &["user", "sessions", "u1"]);
    assert_eq!(seen.lines().count(), 3, "{seen}");
    for expected in ["Windows", "Android", "127.0.0.1", "0 min"] {
        assert!(seen.contains(expected), "{expected}: {seen}");
    }
    admin(&cluster, &["user", "kick", "u1"]);
    assert_kicked(pc).await;
    assert_kicked(phone).await;
    let pc = Device::pc(here, 1).await;
    admin(&cluster, &["user", "disable", "u1"]);
    assert_kicked(pc).await;
    assert!(Device::try_log_in(here, "u1", PASSWORD).await.is_err(), "it is disabled");
    ben.heard_nothing(Command::KickNotify).await;
}

#[tokio::test]
async fn wrong_passwords_keep_nobody_else_out_and_an_unlock_lifts_what_they_brought() {
    let cluster = Cluster::start();
    let gateway = &cluster.gateways[0];
    for number in 0..=100 {
        let name = format!("nobody{number}");
        assert!(Device::try_log_in(gateway, &name, "wrong").await.is_err());
    }
    Device::try_log_in(gateway, "u2", PASSWORD).await.expect("somebody else is let in");

    for guess in 0..=10 {
        assert!(Device::try_log_in(gateway, "u1", &format!("wrong {guess}")).await.is_err());
    }
    let waits = Device::try_log_in(gateway, "u1", PASSWORD).await;
    assert!(waits.is_err(), "for a moment");
    admin(&cluster, &["user", "unlock", "u1"]);
    Device::try_log_in(gateway, "u1", PASSWORD).await.expect("the delay is lifted");
}

#[tokio::test]
async fn a_forgotten_device_with_the_old_password_does_not_keep_its_owner_out() {
    let cluster = Cluster::start();
    let gateway = &cluster.gateways[0];
    admin(&cluster, &["user", "passwd", "u1", "--password", "battery staple"]);
    for _again in 0..30 {
        assert!(Device::try_log_in(gateway, "u1", PASSWORD).await.is_err());
    }
    Device::try_log_in(gateway, "u1", "battery staple").await.expect("the owner is let in");
}

#[tokio::test]
async fn people_are_called_as_they_are_and_log_in_so() {
    let cluster = Cluster::start();
    let long = "\u{5f20}".repeat(30);
    let names = ["Li Lei", "o'brien", "a%b", &long, "\u{e9}", "e\u{301}", "Anna", "anna"];
    for name in names {
        admin(&cluster, &["user", "add", name, "--password", "correct horse"]);
    }
    for name in names {
        let login = Device::try_log_in(&cluster.gateways[0], name, "correct horse").await;
        assert_eq!(login.expect("it is let in").user.real_name, name);
    }
    admin(&cluster, &["group", "create", "Tea at five", "Li Lei", "u1"]);
    for (name, why) in [(" x", "white space"), ("a\u{202e}b", "direction"), ("a\nb", "control")] {
        let refused = refused(&cluster, &["user", "add", name, "--password", "correct horse"]);
        assert!(refused.contains(why), "{name:?}: {refused}");
    }
    let refused = refused(&cluster, &["user", "add", "carl", "--password", "Password123"]);
    assert!(refused.contains("everybody tries"), "{refused}");
}

/// What an administrator reads.
fn admin(cluster: &Cluster, args: &[&str]) -> String {
    cluster.admin(args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

/// What an administrator is told is wrong.
fn refused(cluster: &Cluster, args: &[&str]) -> String {
    cluster.admin(args).expect_err("it is refused")
}

async fn assert_kicked(device: Device) {
    let user = device.user;
    let pushes = device.closed().await;
    let kick = pushes.last().expect("a notice before the end");
    assert_eq!(kick.known_command(), Some(Command::KickNotify), "{pushes:?}");
    let kick: KickNotify = kick.parse().expect("it can be read");
    assert_eq!((kick.user_id, kick.reason()), (user, KickReason::DuplicateLogin));
}
