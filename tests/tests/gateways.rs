//! One user on two gateways: logins at the same moment, and a gateway that dies.

use client::Conversation;
use proto::client::{KickNotify, KickReason, MessageData, ReadNotify};
use proto::{Command, Frame};
use tests::{Cluster, Device};

/// Pairs of logins; more with `TALKHUB_ROUNDS`.
const ROUNDS: u32 = 50;

#[tokio::test]
async fn of_two_logins_at_the_same_moment_on_two_gateways_exactly_one_stays() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let mut ben = Device::pc(here, 2).await;
    let mut last: Option<Device> = None;
    let rounds = std::env::var("TALKHUB_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    for round in 0..rounds.unwrap_or(ROUNDS) {
        let (mut one, mut other) = tokio::join!(Device::pc(here, 1), Device::pc(there, 1));
        let (kick, loser, mut winner) = tokio::select! {
            kick = one.push::<KickNotify>(Command::KickNotify) => (kick, one, other),
            kick = other.push::<KickNotify>(Command::KickNotify) => (kick, other, one),
        };
        assert_eq!(kick.reason(), KickReason::DuplicateLogin, "round {round}");
        loser.closed().await;
        if let Some(last) = last.take() {
            let pushes = last.closed().await;
            let kick = pushes.last().and_then(Frame::known_command);
            assert_eq!(kick, Some(Command::KickNotify), "round {round}: the one before them");
        }
        let text = format!("round {round}");
        ben.say(Conversation::user(1), &text).await;
        winner.hears(2, Conversation::user(1), &text).await;
        winner.heard_nothing(Command::MessageData).await;
        winner.heard_nothing(Command::KickNotify).await;
        last = Some(winner);
    }
}

/// Says two things to user 1, who has heard both.
async fn two_messages(ben: &mut Device, phone: &mut Device) {
    for text in ["one", "two"] {
        ben.say(Conversation::user(1), text).await;
        let heard: MessageData = phone.hears(2, Conversation::user(1), text).await;
        assert!(heard.msg_id > 0, "it is numbered");
    }
}

#[tokio::test]
async fn what_another_device_was_told_is_read_survives_the_gateway() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let (mut phone, mut pc) = (Device::mobile(here, 1).await, Device::pc(there, 1).await);
    let mut ben = Device::pc(there, 2).await;
    two_messages(&mut ben, &mut phone).await;
    phone.read(Conversation::user(2), 1).await;
    phone.read(Conversation::user(2), 2).await;
    pc.push_that(Command::ReadNotify, |told: &ReadNotify| told.msg_id == 2).await;
    cluster.kill_and_wait("msg_server-1");
    let mut pc = Device::pc(there, 1).await;
    assert_eq!(pc.unread().await, [].into());
}

#[tokio::test]
async fn marks_that_were_read_before_an_answer_survive_the_gateway() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let mut phone = Device::mobile(here, 1).await;
    let mut ben = Device::pc(there, 2).await;
    two_messages(&mut ben, &mut phone).await;
    // Both within a second, and then an answer to something else: the gateway has come that far.
    phone.read(Conversation::user(2), 1).await;
    phone.read(Conversation::user(2), 2).await;
    phone.forget().await;
    cluster.kill_and_wait("msg_server-1");
    let mut pc = Device::pc(there, 1).await;
    assert_eq!(pc.unread().await, [].into());
}
