//! Which users may log in, what a login does to the user's other devices, and which devices are told.

use client::{ClientType, Connection, Conversation, LoginError};
use proto::client::{
    KickNotify, KickPcReply, KickPcRequest, KickReason, LoginResult, LogoutReply, LogoutRequest,
    PcStatusNotify, UserStatus, UserStatusNotify, UsersStatusReply, UsersStatusRequest,
};
use proto::{Command, Frame};
use tests::{Cluster, Device, PASSWORD};

#[tokio::test]
async fn a_login_of_the_same_class_on_another_gateway_throws_the_first_one_out() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let first = Device::pc(here, 1).await;
    let mut phone = Device::mobile(here, 1).await;
    let mut second = Device::log_in(there, 1, ClientType::Mac).await;
    assert_kicked(first, KickReason::DuplicateLogin).await;

    // The newer one is whole: it sends, and it is sent to.
    let mut ben = Device::pc(here, 2).await;
    second.say(Conversation::user(2), "still here").await;
    ben.hears(1, Conversation::user(2), "still here").await;
    ben.say(Conversation::user(1), "good").await;
    second.hears(2, Conversation::user(1), "good").await;
    phone.hears(2, Conversation::user(1), "good").await;
    second.heard_nothing(Command::KickNotify).await;
    phone.heard_nothing(Command::KickNotify).await;
}

#[tokio::test]
async fn a_login_of_the_same_class_on_the_same_gateway_throws_the_first_one_out() {
    let cluster = Cluster::start();
    let first = Device::mobile(&cluster.gateways[0], 1).await;
    let mut second = Device::log_in(&cluster.gateways[0], 1, ClientType::Ios).await;
    assert_kicked(first, KickReason::DuplicateLogin).await;
    second.heard_nothing(Command::KickNotify).await;
}

#[tokio::test]
async fn of_many_logins_in_a_row_exactly_the_last_one_stays() {
    let cluster = Cluster::start();
    let mut devices = Vec::new();
    for login in 0..8 {
        devices.push(Device::pc(&cluster.gateways[login % 2], 1).await);
    }
    let mut last = devices.pop().expect("there were eight");
    for device in devices {
        assert_kicked(device, KickReason::DuplicateLogin).await;
    }
    let mut ben = Device::pc(&cluster.gateways[0], 2).await;
    ben.say(Conversation::user(1), "are you there?").await;
    last.hears(2, Conversation::user(1), "are you there?").await;
    last.heard_nothing(Command::KickNotify).await;
}

#[tokio::test]
async fn the_phone_throws_the_pc_out_and_the_pc_cannot_do_that() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let mut pc = Device::pc(here, 1).await;
    let mut phone = Device::mobile(there, 1).await;

    pc.send(Command::KickPcRequest, &KickPcRequest { user_id: 1 }).await;
    pc.heard_nothing(Command::KickNotify).await;

    let request = KickPcRequest { user_id: 0 };
    let reply: KickPcReply = phone.ask(Command::KickPcRequest, &request).await;
    assert_eq!((reply.user_id, reply.result_code), (1, 0));
    assert_kicked(pc, KickReason::ByMobile).await;
    phone
        .push_that(Command::PcStatusNotify, |told: &PcStatusNotify| {
            told.status == i32::from(UserStatus::Offline)
        })
        .await;
    // There is none left to kick, and that is no failure.
    let reply: KickPcReply = phone.ask(Command::KickPcRequest, &request).await;
    assert_eq!(reply.result_code, 0);
}

#[tokio::test]
async fn pc_clients_hear_who_comes_and_goes_and_phones_hear_of_their_own_pc() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let mut watcher = Device::pc(here, 3).await;
    let mut near = Device::mobile(here, 4).await;
    let mut phone = Device::mobile(here, 1).await;
    assert_eq!(status(&mut watcher, 1).await, UserStatus::Offline, "a phone does not count");
    watcher.forget().await;

    let pc = Device::pc(there, 1).await;
    assert_eq!(told(&mut watcher, 1).await, UserStatus::Online);
    assert_eq!(status(&mut watcher, 1).await, UserStatus::Online);
    let own: PcStatusNotify = phone.push(Command::PcStatusNotify).await;
    assert_eq!((own.user_id, own.status()), (1, UserStatus::Online));
    // And a phone that comes later.
    drop(phone);
    let mut phone = Device::mobile(there, 1).await;
    let own: PcStatusNotify = phone.push(Command::PcStatusNotify).await;
    assert_eq!(own.status(), UserStatus::Online);

    drop(pc);
    assert_eq!(told(&mut watcher, 1).await, UserStatus::Offline);
    assert_eq!(status(&mut watcher, 1).await, UserStatus::Offline);
    let own: PcStatusNotify = phone.push(Command::PcStatusNotify).await;
    assert_eq!(own.status(), UserStatus::Offline);

    near.heard_nothing(Command::UserStatusNotify).await;
    near.heard_nothing(Command::PcStatusNotify).await;
    phone.heard_nothing(Command::UserStatusNotify).await;
    watcher.heard_nothing(Command::PcStatusNotify).await;
}

#[tokio::test]
async fn a_logout_is_answered_ends_the_connection_and_is_told_to_others() {
    let cluster = Cluster::start();
    let mut watcher = Device::pc(&cluster.gateways[1], 2).await;
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    assert_eq!(told(&mut watcher, 1).await, UserStatus::Online);
    let reply: LogoutReply = anna.ask(Command::LogoutRequest, &LogoutRequest::default()).await;
    assert_eq!(reply.result_code, 0);
    anna.closed().await;
    assert_eq!(told(&mut watcher, 1).await, UserStatus::Offline);
    // No device of the user is left that could get this, and it waits.
    watcher.say(Conversation::user(1), "gone already?").await;
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    assert_eq!(anna.unread().await, [(Conversation::user(2), 1)].into());
}

#[tokio::test]
async fn only_the_right_name_and_password_get_in() {
    let cluster = Cluster::start();
    let gateway = &cluster.gateways[0];
    for (name, password) in [("u1", "wrong"), ("nobody", PASSWORD), ("", PASSWORD), ("u1", "")] {
        match Device::try_log_in(gateway, name, password).await {
            Err(LoginError::Refused { result, text }) => {
                assert_eq!(result, i32::from(LoginResult::BadCredentials), "{name}/{password}");
                assert!(!text.is_empty(), "clients show it");
            }
            other => panic!("{name}/{password}: {other:?}"),
        }
    }
    let login = Device::try_log_in(gateway, "u1", PASSWORD).await.expect("the right one");
    assert_eq!(login.user.real_name, "u1");
}

#[tokio::test]
async fn a_name_with_too_many_failures_waits_and_others_do_not() {
    let cluster = Cluster::start();
    let gateway = &cluster.gateways[0];
    for guess in 0..11 {
        assert!(Device::try_log_in(gateway, "u1", &format!("wrong {guess}")).await.is_err());
    }
    assert!(Device::try_log_in(&cluster.gateways[1], "u1", PASSWORD).await.is_err(), "it waits");
    Device::try_log_in(gateway, "u2", PASSWORD).await.expect("somebody else");
}

#[tokio::test]
async fn nothing_comes_before_the_login_answer() {
    let cluster = Cluster::start();
    let mut ben = Device::pc(&cluster.gateways[1], 2).await;
    for round in 0..10 {
        // Both push something at a client that logs in: a kick to the device before it, a message.
        let mut connection =
            Connection::connect(&cluster.gateways[0], None).await.expect("connect");
        let request = proto::client::LoginRequest {
            user_name: "u1".to_owned(),
            password: client::password_field(PASSWORD),
            online_status: UserStatus::Online.into(),
            client_type: ClientType::Windows.into(),
            client_version: None,
        };
        let seq = connection.send(Command::LoginRequest, &request).await.expect("send");
        ben.say(Conversation::user(1), &format!("message {round}")).await;
        let first: Frame = connection.next_frame(tests::PATIENCE).await.expect("an answer");
        assert_eq!(first.known_command(), Some(Command::LoginReply), "{first:?}");
        assert_eq!(first.seq, seq);
    }
}

async fn assert_kicked(device: Device, reason: KickReason) {
    let user = device.user;
    let pushes = device.closed().await;
    let kick = pushes.last().expect("a kick before the end");
    assert_eq!(kick.known_command(), Some(Command::KickNotify), "{pushes:?}");
    let kick: KickNotify = kick.parse().expect("a kick can be read");
    assert_eq!((kick.user_id, kick.reason()), (user, reason));
}

/// What the device is told next about a user.
async fn told(device: &mut Device, user: u32) -> UserStatus {
    let notify: UserStatusNotify = device
        .push_that(Command::UserStatusNotify, |told: &UserStatusNotify| told.user.user_id == user)
        .await;
    notify.user.status()
}

/// What the device hears when it asks about a user.
async fn status(device: &mut Device, user: u32) -> UserStatus {
    let request = UsersStatusRequest { user_ids: vec![user], ..UsersStatusRequest::default() };
    let reply: UsersStatusReply = device.ask(Command::UsersStatusRequest, &request).await;
    assert_eq!(reply.users.len(), 1, "one entry for every user asked for");
    assert_eq!(reply.users[0].user_id, user);
    reply.users[0].status()
}
