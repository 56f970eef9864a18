//! What was never published, or was lost on its way, and how it comes to its clients all the same.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proto::cluster::{Kind, wire};
use proto::{Command, client, encode_message};
use tokio::time::timeout;

use super::harness::*;

/// Message `msg_id` of a conversation, as it lies in a log.
fn at(conversation: u64, msg_id: u32, offset: u64, prev_offset: u64) -> wire::Publish {
    wire::Publish { offset, prev_offset, ..publish(conversation, msg_id, 6) }
}

/// A change of the members of group 9.
fn change(
    version: u64,
    (offset, prev_offset): (u64, u64),
    added: Vec<u32>,
    removed: Vec<u32>,
) -> wire::Publish {
    let notify = client::GroupMembersNotify { group_id: 9, ..Default::default() };
    wire::Publish {
        member_version: version,
        frame: encode_message(Command::GroupMembersNotify, 0, &notify),
        first_visible: (!added.is_empty()).then_some(1),
        added,
        removed,
        ..at(group(9), 0, offset, prev_offset)
    }
}

/// Waits until the gateway's cursor is at the head of the log: a hole makes it name the cursor.
async fn settle(world: &World) {
    world.db.settle(0, world.db.head.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn what_was_never_published_comes_with_the_next_message_of_the_stream() {
    let world = World::start_at(100).await;
    let mut client = world.client(5, WINDOWS).await;
    // The first ones of their conversations, folded before their owner died.
    world.db.fold([at(single(5, 6), 1, 110, 0), at(single(5, 7), 1, 120, 0)]);
    world.db.tell(100);
    let mut got = [client.expect_push().await.msg_id, client.expect_push().await.msg_id];
    got.sort_unstable();
    assert_eq!(got, [1, 1]);
    client.expect_quiet().await;

    world.db.fold([at(single(5, 6), 2, 130, 110)]);
    world.db.tell(120);
    assert_eq!(client.expect_push().await.msg_id, 2);
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn what_is_below_the_cursor_and_forgotten_is_still_known_as_a_duplicate() {
    let world = World::start_at(100).await;
    let mut client = world.client(5, WINDOWS).await;
    let first = at(single(5, 6), 1, 110, 0);
    world.hub.send(Kind::Publish, &first);
    assert_eq!(client.expect_push().await.msg_id, 1);
    world.db.fold([first.clone()]);
    world.db.tell(100);
    settle(&world).await;

    world.hub.send(Kind::Publish, &first);
    world.hub.send(Kind::Publish, &at(single(5, 6), 2, 120, 110));
    assert_eq!(client.expect_push().await.msg_id, 2);
    client.expect_quiet().await;
    assert!(world.db.fetched.lock().await.try_recv().is_err(), "nothing was missing");
    world.stop().await;
}

#[tokio::test]
async fn the_cursor_outlives_the_link_and_what_it_missed_is_repaired() {
    let world = World::start_at(100).await;
    let mut client = world.client(5, WINDOWS).await;
    world.db.fold([at(single(5, 6), 1, 110, 0)]);
    world.db.tell(100);
    assert_eq!(client.expect_push().await.msg_id, 1);
    settle(&world).await;

    world.stop_db().await;
    world.db.fold([at(single(5, 6), 2, 120, 110), at(single(5, 6), 3, 130, 120)]);
    world.restart_db().await;
    assert_eq!(world.db.next_follow().await, Some(110), "first of all on the link");
    for msg_id in [2, 3] {
        assert_eq!(client.expect_push().await.msg_id, msg_id);
    }
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_hole_in_the_stream_is_asked_for_again_from_the_cursor() {
    let world = World::start_at(100).await;
    let mut client = world.client(5, WINDOWS).await;
    world.db.fold([at(single(5, 6), 1, 110, 0), at(single(5, 7), 1, 120, 0)]);
    // The part up to 110 never comes.
    world.db.tell(110);
    assert_eq!(world.db.next_follow().await, Some(100));
    let mut from = [client.expect_push().await.msg_id, client.expect_push().await.msg_id];
    from.sort_unstable();
    assert_eq!(from, [1, 1]);
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn changes_of_a_former_owner_are_refused() {
    let world = World::start_at(100).await;
    let mut client = world.client(5, WINDOWS).await;
    let newer = wire::Publish { epoch: 2, ..at(single(5, 6), 1, 110, 0) };
    world.hub.send(Kind::Publish, &newer);
    assert_eq!(client.expect_push().await.msg_id, 1);
    let forgotten = wire::Changes { forgotten: Some(true), ..world.db.changes(100) };
    world.db.send_changes(&forgotten);
    // A later one that counts: its answer says that the one before was taken and had no effect.
    let hole =
        wire::Changes { epoch: 2, after_offset: 500, upto_offset: 510, ..world.db.changes(100) };
    world.db.send_changes(&hole);
    assert_eq!(world.db.next_follow().await, Some(100));
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_missed_change_of_members_is_made_up_for() {
    let world = World::start_at(100).await;
    world.db.join(5, 9, 1, 1);
    let mut member = world.client(5, WINDOWS).await;
    let mut added = world.client(6, WINDOWS).await;
    world.db.join(6, 9, 1, 2);
    world.db.fold([change(2, (110, 0), vec![6], vec![])]);
    world.db.tell(100);
    for client in [&mut member, &mut added] {
        client.expect::<client::GroupMembersNotify>(Command::GroupMembersNotify, 0).await;
    }
    settle(&world).await;
    world.hub.send(Kind::Publish, &at(group(9), 1, 120, 110));
    assert_eq!(member.expect_push().await.msg_id, 1);
    assert_eq!(added.expect_push().await.msg_id, 1);

    let removed = change(3, (130, 120), vec![], vec![5]);
    world.db.fold([at(group(9), 1, 120, 110), removed]);
    world.db.tell(110);
    for client in [&mut member, &mut added] {
        client.expect::<client::GroupMembersNotify>(Command::GroupMembersNotify, 0).await;
    }
    world.hub.send(Kind::Publish, &at(group(9), 2, 140, 130));
    assert_eq!(added.expect_push().await.msg_id, 2);
    member.expect_quiet().await;
    added.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_user_who_was_added_to_a_group_that_nobody_here_was_in_sees_it_all_the_same() {
    let world = World::start_at(100).await;
    let mut added = world.client(6, WINDOWS).await;
    world.db.join(6, 9, 1, 2);
    world.db.fold([change(2, (110, 0), vec![6], vec![]), at(group(9), 1, 120, 110)]);
    world.db.tell(100);
    added.expect::<client::GroupMembersNotify>(Command::GroupMembersNotify, 0).await;
    assert_eq!(added.expect_push().await.msg_id, 1);
    settle(&world).await;
    added.expect_quiet().await;
    world.stop().await;
}

/// Storage cannot say what was said until then, so that both times are still beginning.
#[tokio::test]
async fn a_user_who_is_added_removed_and_added_again_gets_what_was_said_once() {
    let world = World::start_at(100).await;
    world.db.answers_fetches.store(false, Ordering::SeqCst);
    let mut added = world.client(6, WINDOWS).await;
    let changes = [
        change(2, (110, 0), vec![6], vec![]),
        change(3, (120, 110), vec![], vec![6]),
        change(4, (130, 120), vec![6], vec![]),
    ];
    for change in changes {
        world.db.fold([change.clone()]);
        world.hub.send(Kind::Publish, &change);
        added.expect::<client::GroupMembersNotify>(Command::GroupMembersNotify, 0).await;
        if change.removed.is_empty() {
            world.db.next_fetch().await;
        }
    }
    // Who asked for the list again because of the first time would find the group there.
    world.db.join(6, 9, 1, 4);
    world.db.fold([at(group(9), 1, 140, 130), at(group(9), 2, 150, 140)]);
    world.db.answers_fetches.store(true, Ordering::SeqCst);
    for msg_id in [1, 2] {
        assert_eq!(added.expect_push().await.msg_id, msg_id);
    }
    world.hub.send(Kind::Publish, &at(group(9), 3, 160, 150));
    assert_eq!(added.expect_push().await.msg_id, 3);
    // The first time would have asked again by now.
    let asks_again = async { while world.db.next_fetch().await.from <= 2 {} };
    timeout(Duration::from_secs(1), asks_again).await.unwrap_err();
    added.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn nobody_hears_what_was_said_after_a_removal_that_was_missed() {
    let world = World::start_at(100).await;
    for user in [5, 6] {
        world.db.join(user, 9, 1, 1);
    }
    let mut member = world.client(5, WINDOWS).await;
    let mut removed = world.client(6, WINDOWS).await;
    // What storage makes of two changes: 6 removed, then a message, then 7 added.
    let first =
        wire::Publish { frame: bytes::Bytes::new(), ..change(2, (110, 100), vec![], vec![6]) };
    let net = change(3, (130, 100), vec![7], vec![6]);
    world.db.fold([first, at(group(9), 1, 120, 0), net]);
    world.db.tell(100);
    assert_eq!(member.expect_push().await.msg_id, 1);
    for client in [&mut member, &mut removed] {
        client.expect::<client::GroupMembersNotify>(Command::GroupMembersNotify, 0).await;
        client.expect_quiet().await;
    }
    world.stop().await;
}

#[tokio::test]
async fn when_storage_has_forgotten_everybody_must_ask() {
    let world = World::start_at(100).await;
    let mut old = world.client(5, WINDOWS).await;
    let mut extended = world.extended(6, WINDOWS).await;
    world.stop_db().await;
    world.db.forgets.store(true, Ordering::SeqCst);
    world.db.head.store(500, Ordering::SeqCst);
    world.restart_db().await;
    assert_eq!(world.db.next_follow().await, Some(100));
    old.expect_closed().await;
    extended.expect_closed().await;

    // Who comes back is served from there on.
    let mut client = world.client(5, WINDOWS).await;
    world.hub.send(Kind::Publish, &at(single(5, 6), 9, 510, 400));
    assert_eq!(client.expect_push().await.msg_id, 9);
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn who_must_ask_is_let_go_after_8_seconds_although_a_message_is_not_answered() {
    let world = World::start_at(100).await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut client = world.client(5, WINDOWS).await;
    client.send(Command::MessageData, 3, &text(6, "never answered")).await;
    world.db.next_submit().await;
    let forgotten =
        wire::Changes { upto_offset: 150, forgotten: Some(true), ..world.db.changes(100) };
    let began = Instant::now();
    world.db.send_changes(&forgotten);
    timeout(Duration::from_secs(6), client.next()).await.unwrap_err();
    client.expect_closed().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(13), "{took:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_gap_while_storage_is_away_is_closed_when_it_is_back_and_never_delivered_before() {
    let world = World::start_at(100).await;
    let mut client = world.client(5, WINDOWS).await;
    world.stop_db().await;
    let conversation = single(5, 6);
    world.db.fold((1..=4).map(|n| {
        at(conversation, n, 100 + u64::from(n), if n == 1 { 0 } else { 99 + u64::from(n) })
    }));
    world.hub.send(Kind::Publish, &at(conversation, 4, 104, 103));
    client.expect_quiet().await;
    world.restart_db().await;
    for msg_id in 1..=4 {
        assert_eq!(client.expect_push().await.msg_id, msg_id);
    }
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_gap_that_storage_cannot_fill_yet_is_asked_for_until_it_can() {
    let world = World::start_at(100).await;
    let mut client = world.client(5, WINDOWS).await;
    world.db.answers_fetches.store(false, Ordering::SeqCst);
    world.db.fold([at(single(5, 6), 1, 110, 0), at(single(5, 6), 2, 120, 110)]);
    world.hub.send(Kind::Publish, &at(single(5, 6), 2, 120, 110));
    for _try in 0..2 {
        let request = world.db.next_fetch().await;
        assert_eq!((request.from, request.after_offset), (1, Some(100)));
    }
    client.expect_quiet().await;
    world.db.answers_fetches.store(true, Ordering::SeqCst);
    for msg_id in [1, 2] {
        assert_eq!(client.expect_push().await.msg_id, msg_id);
    }
    world.stop().await;
}

#[tokio::test]
async fn much_is_fetched_in_pages() {
    let world = World::start_at(100).await;
    let mut client = world.client(5, WINDOWS).await;
    world.db.page.store(7, Ordering::SeqCst);
    world.db.fold((1..=40).map(|n| at(single(5, 6), n, 100 + u64::from(n), 99 + u64::from(n))));
    world.db.tell(100);
    for msg_id in 1..=40 {
        assert_eq!(client.expect_push().await.msg_id, msg_id);
    }
    for page in 0..6 {
        let request = world.db.next_fetch().await;
        assert_eq!(request.from, 1 + 7 * page);
        assert_eq!(request.after_offset, Some(100 + 7 * u64::from(page)));
    }
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn sixteen_pages_are_fetched_at_a_time_and_what_does_not_come_in_5_seconds_is_asked_for_again()
 {
    let world = World::start_at(100).await;
    let mut client = world.client(5, WINDOWS).await;
    world.db.holds_fetches.store(true, Ordering::SeqCst);
    // Seventeen conversations.
    world.db.fold((6..=22).map(|peer| at(single(5, peer), 1, 104 + u64::from(peer), 0)));
    world.db.tell(100);
    for _page in 0..16 {
        world.db.next_fetch().await;
    }
    client.expect_quiet().await;
    assert!(world.db.fetched.lock().await.try_recv().is_err(), "the last one waits");
    world.db.holds_fetches.store(false, Ordering::SeqCst);
    for _conversation in 6..=22 {
        assert_eq!(client.expect_push().await.msg_id, 1);
    }
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn repair_brings_nothing_that_a_client_asks_for_itself() {
    let world = World::start_at(100).await;
    let mut first = world.client(5, WINDOWS).await;
    world.db.fold([at(single(5, 6), 1, 110, 0)]);
    // The log is at 110 now, so this one asks for the message.
    let mut second = world.client(6, WINDOWS).await;
    world.db.fold([at(single(5, 6), 2, 120, 110)]);
    world.db.tell(100);
    for msg_id in [1, 2] {
        assert_eq!(first.expect_push().await.msg_id, msg_id);
    }
    assert_eq!(second.expect_push().await.msg_id, 2);
    first.expect_quiet().await;
    second.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn too_long_a_stream_is_dropped_and_asked_for_again() {
    let world = World::start_at(100).await;
    let mut client = world.client(5, WINDOWS).await;
    world.db.answers_fetches.store(false, Ordering::SeqCst);
    world.db.fold([at(single(5, 6), 1, 110, 0)]);
    world.db.tell(100);
    world.db.next_fetch().await;
    // The task waits for the message; all of these wait behind it.
    for after in 110..300 {
        world.db.head.store(after + 1, Ordering::SeqCst);
        world.db.tell(after);
    }
    client.expect_quiet().await;
    world.db.answers_fetches.store(true, Ordering::SeqCst);
    assert_eq!(client.expect_push().await.msg_id, 1);
    assert_eq!(world.db.next_follow().await, Some(110));
    settle(&world).await;
    client.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_message_that_is_fetched_does_not_go_to_the_session_it_came_from() {
    let world = World::start_at(100).await;
    world.db.answers_sends.store(false, Ordering::SeqCst);
    let mut sender = world.client(5, WINDOWS).await;
    let mut phone = world.client(5, ANDROID).await;
    sender.send(Command::MessageData, 3, &text(6, "hello")).await;
    let submit = world.db.next_submit().await;
    world.db.answer(&submit, wire::Outcome::Ok, Some(1));
    sender.expect::<client::MessageAck>(Command::MessageAck, 3).await;
    let client_msg_id = Some(submit.client_msg_id);
    world.db.fold([wire::Publish { client_msg_id, sender: 5, ..at(single(5, 6), 1, 110, 0) }]);
    world.db.tell(100);
    assert_eq!(phone.expect_push().await.msg_id, 1);
    sender.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn what_nobody_here_needs_any_more_holds_up_nothing() {
    let world = World::start_at(100).await;
    let mut leaves = world.client(7, WINDOWS).await;
    let mut stays = world.client(5, WINDOWS).await;
    world.db.answers_fetches.store(false, Ordering::SeqCst);
    world.db.fold([at(single(7, 8), 1, 110, 0)]);
    world.db.tell(100);
    world.db.next_fetch().await;
    leaves.send(Command::LogoutRequest, 3, &client::LogoutRequest::default()).await;
    leaves.expect::<client::LogoutReply>(Command::LogoutReply, 3).await;
    leaves.expect_closed().await;

    // What it missed is never fetched, and the cursor goes on all the same.
    settle(&world).await;
    world.hub.send(Kind::Publish, &at(single(5, 6), 1, 120, 0));
    assert_eq!(stays.expect_push().await.msg_id, 1);
    stays.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn who_misses_something_of_a_conversation_that_is_forgotten_must_ask_and_nobody_else() {
    let world = World::start_with(|limits| limits.conversations_max = 1).await;
    let mut misses = world.client(5, WINDOWS).await;
    let mut other = world.client(7, WINDOWS).await;
    world.db.holds_fetches.store(true, Ordering::SeqCst);
    world.hub.send(Kind::Publish, &at(single(5, 6), 1, 10, 0));
    assert_eq!(misses.expect_push().await.msg_id, 1);
    world.hub.send(Kind::Publish, &at(single(5, 6), 3, 30, 20));
    misses.expect_quiet().await;

    world.hub.send(Kind::Publish, &at(single(7, 8), 1, 40, 0));
    assert_eq!(other.expect_push().await.msg_id, 1);
    misses.expect_closed().await;
    other.expect_quiet().await;
    world.stop().await;
}
