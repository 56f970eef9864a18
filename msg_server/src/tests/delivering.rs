//! From published records to the clients that may see them.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use proto::cluster::{Kind, wire};
use proto::{Command, client, encode_message};

use super::harness::*;

#[tokio::test]
async fn a_message_reaches_every_session_of_both_users_but_the_one_it_came_from() {
    let world = World::start().await;
    let mut sender = world.client(5, WINDOWS).await;
    let own_session = world.hub.next_change().await.add_users[0].session;
    let mut phone = world.client(5, ANDROID).await;
    let mut peer = world.client(6, WINDOWS).await;
    let mut stranger = world.client(7, WINDOWS).await;
    let gateway_boot = world.hub.links.lock()[0].peer().boot;
    let origin = Some(wire::Origin { gateway_boot, session: own_session });
    let published = wire::Publish { origin, ..publish(single(5, 6), 1, 5) };
    world.hub.send(Kind::Publish, &published);
    assert_eq!(phone.expect_push().await.msg_id, 1);
    assert_eq!(peer.expect_push().await.msg_id, 1);
    sender.expect_quiet().await;
    stranger.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn duplicates_and_records_of_a_former_owner_are_dropped() {
    let world = World::start().await;
    let mut client = world.client(5, WINDOWS).await;
    for msg_id in [1, 2, 2, 1] {
        world.hub.send(Kind::Publish, &publish(single(5, 6), msg_id, 6));
    }
    let newer = wire::Publish { epoch: 2, ..publish(single(5, 6), 3, 6) };
    world.hub.send(Kind::Publish, &newer);
    world.hub.send(Kind::Publish, &publish(single(5, 6), 4, 6));
    let current = wire::Publish { epoch: 2, ..publish(single(5, 6), 4, 6) };
    world.hub.send(Kind::Publish, &current);
    for msg_id in [1, 2, 3, 4] {
        assert_eq!(client.expect_push().await.msg_id, msg_id);
    }
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_group_message_goes_to_its_members_from_their_join_on() {
    let world = World::start().await;
    world.db.join(5, 9, 1, 3);
    world.db.join(6, 9, 2, 3);
    let mut old = world.client(5, WINDOWS).await;
    let mut new = world.client(6, WINDOWS).await;
    let mut outsider = world.client(7, WINDOWS).await;
    for msg_id in 1..=2 {
        world.hub.send(Kind::Publish, &publish(group(9), msg_id, 8));
    }
    assert_eq!(old.expect_push().await.msg_id, 1);
    assert_eq!(old.expect_push().await.msg_id, 2);
    assert_eq!(new.expect_push().await.msg_id, 2);
    new.expect_quiet().await;
    outsider.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn the_hub_hears_of_a_group_once() {
    let world = World::start().await;
    for user in [5, 6] {
        world.db.join(user, 9, 1, 3);
    }
    let _first = world.client(5, WINDOWS).await;
    let _second = world.client(6, WINDOWS).await;
    let mut groups = Vec::new();
    for _ in 0..3 {
        groups.extend(world.hub.next_change().await.add_groups);
    }
    assert_eq!(groups, [9]);
    world.stop().await;
}

#[tokio::test]
async fn clients_with_the_extension_get_the_senders_name_of_the_message() {
    let world = World::start().await;
    let mut old = world.client(5, WINDOWS).await;
    let mut new = world.extended(5, ANDROID).await;
    world.hub.send(Kind::Publish, &publish(single(5, 6), 1, 6));
    assert_eq!(old.expect_push().await.client_msg_id, None);
    assert_eq!(new.expect_push().await.client_msg_id, Some(Bytes::from_static(&[1; 16])));
    world.stop().await;
}

/// There it may be another message of the same name: only storage can tell.
#[tokio::test]
async fn a_message_from_another_gateway_answers_none_that_was_sent_here() {
    let world = World::start().await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.extended(5, WINDOWS).await;
    let message = client::MessageData { client_msg_id: Some(vec![1; 16].into()), ..text(6, "x") };
    client.send(Command::MessageData, 3, &message).await;
    let submit = world.db.next_submit().await;
    let origin = wire::Origin { gateway_boot: !submit.origin.gateway_boot, ..submit.origin };
    let elsewhere = wire::Publish { origin: Some(origin), ..publish(single(5, 6), 1, 5) };
    assert_eq!(elsewhere.client_msg_id, Some(submit.client_msg_id.clone()));
    world.hub.send(Kind::Publish, &elsewhere);
    assert_eq!(client.expect_push().await.msg_id, 1);
    world.db.answer(&submit, wire::Outcome::Refused, None);
    let result: client::SendResult = client.expect(Command::SendResult, 3).await;
    assert_eq!(result.outcome(), client::SendOutcome::Refused);
    world.stop().await;
}

#[tokio::test]
async fn a_late_copy_is_waited_for() {
    let world = World::start().await;
    let mut client = world.client(5, WINDOWS).await;
    for msg_id in [1, 3, 4, 2] {
        world.hub.send(Kind::Publish, &publish(single(5, 6), msg_id, 6));
    }
    for msg_id in 1..=4 {
        assert_eq!(client.expect_push().await.msg_id, msg_id);
    }
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn what_never_came_is_fetched() {
    let world = World::start().await;
    let mut client = world.client(5, WINDOWS).await;
    let conversation = single(5, 6);
    *world.db.history.lock() = (1..=5).map(|msg_id| publish(conversation, msg_id, 6)).collect();
    for msg_id in [1, 5] {
        world.hub.send(Kind::Publish, &publish(conversation, msg_id, 6));
    }
    for msg_id in 1..=5 {
        assert_eq!(client.expect_push().await.msg_id, msg_id);
    }
    client.expect_quiet().await;
    world.stop().await;
}

fn change(version: u64, added: Vec<u32>, removed: Vec<u32>) -> wire::Publish {
    let notify = client::GroupMembersNotify { group_id: 9, ..Default::default() };
    wire::Publish {
        conversation: group(9),
        msg_id: 0,
        offset: 1000 + version,
        prev_offset: 999 + version,
        member_version: version,
        frame: encode_message(Command::GroupMembersNotify, 0, &notify),
        first_visible: (!added.is_empty()).then_some(2),
        added,
        removed,
        ..publish(group(9), 0, 5)
    }
}

#[tokio::test]
async fn a_user_who_is_added_gets_what_is_said_from_the_join_on() {
    let world = World::start().await;
    world.db.join(5, 9, 1, 1);
    let mut member = world.client(5, WINDOWS).await;
    let mut added = world.client(6, WINDOWS).await;
    world.db.join(6, 9, 2, 2);
    *world.db.history.lock() = (1..=2).map(|msg_id| publish(group(9), msg_id, 5)).collect();

    world.hub.send(Kind::Publish, &change(2, vec![6], vec![]));
    member.expect::<client::GroupMembersNotify>(Command::GroupMembersNotify, 0).await;
    added.expect::<client::GroupMembersNotify>(Command::GroupMembersNotify, 0).await;
    assert_eq!(added.expect_push().await.msg_id, 2, "fetched");
    let offset = 1002;
    let next = wire::Publish { offset: offset + 1, prev_offset: offset, ..publish(group(9), 3, 5) };
    world.hub.send(Kind::Publish, &next);
    assert_eq!(added.expect_push().await.msg_id, 3);
    assert_eq!(member.expect_push().await.msg_id, 3);
    world.stop().await;
}

#[tokio::test]
async fn a_user_who_is_removed_is_told_so_and_gets_nothing_more() {
    let world = World::start().await;
    for user in [5, 6] {
        world.db.join(user, 9, 1, 1);
    }
    let mut member = world.client(5, WINDOWS).await;
    let mut removed = world.client(6, WINDOWS).await;
    world.hub.send(Kind::Publish, &change(2, vec![], vec![6]));
    removed.expect::<client::GroupMembersNotify>(Command::GroupMembersNotify, 0).await;
    let next = wire::Publish { offset: 1003, prev_offset: 1002, ..publish(group(9), 3, 5) };
    world.hub.send(Kind::Publish, &next);
    member.expect::<client::GroupMembersNotify>(Command::GroupMembersNotify, 0).await;
    assert_eq!(member.expect_push().await.msg_id, 3);
    removed.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_change_during_the_login_wins_over_the_older_list() {
    let world = World::start().await;
    world.db.join(6, 9, 1, 1);
    world.hub.confirms.store(false, Ordering::SeqCst);
    let mut client = world.connect().await;
    client.send(Command::LoginRequest, 7, &login(6, WINDOWS)).await;
    let registered = world.hub.next_change().await;
    world.hub.send(Kind::Publish, &change(2, vec![], vec![6]));
    world.hub.confirms.store(true, Ordering::SeqCst);
    let answer = wire::Registered {
        largest_epoch: Some(registered.add_users[0].epoch),
        ..wire::Registered::default()
    };
    let link = world.hub.links.lock().last().cloned().unwrap();
    link.answer_request(1, Kind::InterestChange.number(), &answer).unwrap();
    client.expect::<client::LoginReply>(Command::LoginReply, 7).await;
    client.expect::<client::GroupMembersNotify>(Command::GroupMembersNotify, 0).await;
    world.hub.send(Kind::Publish, &publish(group(9), 3, 5));
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn read_marks_are_collected_and_the_users_other_devices_told() {
    let world = World::start().await;
    let mut pc = world.client(5, WINDOWS).await;
    let mut phone = world.client(5, ANDROID).await;
    let mark = |msg_id| client::ReadAck { user_id: 0, session_id: 6, msg_id, session_type: 1 };
    for msg_id in 1..=20 {
        pc.send(Command::ReadAck, 0, &mark(msg_id)).await;
    }
    let request = client::UnreadCountRequest::default();
    pc.send(Command::UnreadCountRequest, 3, &request).await;
    let stored = [1, 2, 3, 4, 20];
    for msg_id in stored {
        let mark = client::ReadAck::decode_ask(world.db.next_ask().await);
        assert_eq!((mark.user_id, mark.msg_id), (5, msg_id));
    }
    assert_eq!(world.db.next_ask().await.command, 0x0307, "after the marks");
    pc.expect::<client::UnreadCountReply>(Command::UnreadCountReply, 3).await;
    for msg_id in stored {
        let notify: client::ReadNotify = phone.expect(Command::ReadNotify, 0).await;
        assert_eq!((notify.session_id, notify.msg_id), (6, msg_id));
    }
    pc.expect_quiet().await;
    world.stop().await;
}

trait DecodeAsk {
    fn decode_ask(ask: wire::Ask) -> Self;
}

impl DecodeAsk for client::ReadAck {
    fn decode_ask(ask: wire::Ask) -> Self {
        assert_eq!(ask.command, 0x0303);
        prost::Message::decode(ask.body).unwrap()
    }
}

#[tokio::test]
async fn a_signal_reaches_the_other_user_and_the_senders_other_devices_once() {
    let world = World::start().await;
    let mut sender = world.client(5, WINDOWS).await;
    let mut phone = world.client(5, ANDROID).await;
    let mut peer = world.client(6, WINDOWS).await;
    let signal = client::PeerSignal { from_user_id: 99, to_user_id: 6, data: "{}".to_owned() };
    sender.send(Command::PeerSignal, 8, &signal).await;
    for other in [&mut phone, &mut peer] {
        let got: client::PeerSignal = other.expect(Command::PeerSignal, 0).await;
        assert_eq!(got.from_user_id, 5, "filled in by the server");
        other.expect_quiet().await;
    }
    sender.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn presence_goes_to_pcs_and_to_the_users_own_phones() {
    let world = World::start().await;
    let mut pc = world.client(5, WINDOWS).await;
    let mut phone = world.client(6, ANDROID).await;
    let changes = |online, offline, pc_users_online| wire::PresenceChanges {
        online,
        offline,
        pc_users_online,
    };
    world.hub.send(Kind::PresenceChanges, &changes(vec![6], vec![], 2));
    let notify: client::UserStatusNotify = pc.expect(Command::UserStatusNotify, 0).await;
    assert_eq!(notify.user.user_id, 6);
    let own: client::PcStatusNotify = phone.expect(Command::PcStatusNotify, 0).await;
    assert_eq!(own.status, 1);

    // Where many are online, only those that were asked about.
    let ask = client::UsersStatusRequest { user_ids: vec![70, 71], ..Default::default() };
    pc.send(Command::UsersStatusRequest, 5, &ask).await;
    let reply: client::UsersStatusReply = pc.expect(Command::UsersStatusReply, 5).await;
    let told: Vec<_> = reply.users.iter().map(|user| (user.user_id, user.status)).collect();
    assert_eq!(told, [(70, 2), (71, 1)]);
    world.hub.send(Kind::PresenceChanges, &changes(vec![], vec![6, 71, 80], 1000));
    let notify: client::UserStatusNotify = pc.expect(Command::UserStatusNotify, 0).await;
    assert_eq!((notify.user.user_id, notify.user.status), (71, 2));
    pc.expect_quiet().await;
    world.stop().await;
}
