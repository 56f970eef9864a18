//! Numbers, order, batches, and what must be looked up first.

use std::sync::Arc;
use std::time::Duration;

use fold::admission::Change;
use fold::conversation::Conversation;
use parking_lot::Mutex;
use proto::cluster::wire::Reason;
use proto::ids::{GroupId, MsgId, UserId};
use store::UserStore;
use tokio::time::timeout;

use crate::Outcome;
use crate::test::gated::Gate;
use crate::test::{PATIENCE, Proxy, Setup, USERS, group, message, resent, single, user};

#[tokio::test]
async fn messages_of_each_conversation_are_numbered_from_one() {
    let proxy = Proxy::start().await;
    let group = proxy.make_group(1, &[1, 2, 3]).await;
    for expected in 1..=40 {
        assert_eq!(proxy.send(message(single(1, 2), 1 + expected % 2)).await, expected);
        assert_eq!(proxy.send(message(group, 1 + expected % 3)).await, expected);
    }
    assert_eq!(proxy.send(message(single(1, 3), 1)).await, 1);
    proxy.stop().await;
}

#[tokio::test]
async fn how_long_the_append_and_the_commit_took_is_shown() {
    let proxy = Proxy::start().await;
    proxy.send(message(single(1, 2), 1)).await;
    proxy.stored().await;
    let page = proxy.page.encode().unwrap();
    let shown = |name: &str| {
        let line = format!("talkhub_db_proxy_{name} ");
        let value = page.lines().find_map(|found| found.strip_prefix(&line)).unwrap();
        value.parse::<u64>().unwrap()
    };
    assert_eq!(shown("log_append_seconds_count"), 1);
    assert_eq!(shown("log_batches_total"), 1, "once for each batch");
    assert!(shown("store_commit_seconds_count") > 0);
    assert_eq!(shown("store_commit_seconds_count"), shown("store_batches_total"));
    proxy.stop().await;
}

#[tokio::test]
async fn a_message_sent_again_keeps_its_number() {
    let proxy = Proxy::start().await;
    let first = message(single(1, 2), 1);
    assert_eq!(proxy.send(first.clone()).await, 1);
    assert_eq!(proxy.send(message(single(1, 2), 1)).await, 2);
    for again in [first.clone(), resent(&first)] {
        assert_eq!(proxy.send(again).await, 1);
    }
    assert_eq!(proxy.send(message(single(1, 2), 1)).await, 3);
    proxy.stop().await;
}

/// The second of two changes is no repeat of how things were before the first.
#[tokio::test]
async fn a_change_of_members_is_judged_by_those_before_it_in_its_batch() {
    // Nothing is held, so that all of them are one batch.
    let proxy = Setup { hold: Duration::ZERO, ..Setup::new() }.start().await;
    let id = proxy.make_group(1, &[1, 2]).await;
    let outcomes = Outcomes::default();
    let change = |add: &[u32], remove: &[u32]| Change::Members {
        group: GroupId(1),
        actor: Some(UserId(1)),
        add: add.iter().copied().map(UserId).collect(),
        remove: remove.iter().copied().map(UserId).collect(),
    };
    let inner = proxy.state().lock();
    // 3 comes and goes, 2 goes and comes back.
    for (number, (add, remove)) in
        [(&[3][..], &[][..]), (&[], &[3]), (&[], &[2]), (&[2], &[])].into_iter().enumerate()
    {
        let number = u32::try_from(number).unwrap();
        outcomes.submit(&proxy, number, change(add, remove));
    }
    drop(inner);
    outcomes.wait_for(4).await;
    let members = proxy.state().with(id, Conversation::current_members).await.unwrap();
    assert_eq!(members, [UserId(1), UserId(2)]);
    proxy.stop().await;
}

/// The thread, once it gets the lock of the state, takes all that came meanwhile.
#[tokio::test]
async fn what_comes_while_a_batch_is_made_is_the_next_batch() {
    let proxy = Proxy::start().await;
    proxy.send(message(single(1, 2), 1)).await;
    let before = proxy.metrics.batches.get();
    let outcomes = Outcomes::default();
    let inner = proxy.state().lock();
    for number in 0..500 {
        outcomes.submit(&proxy, number, Change::Send(message(single(1, 2), 1)));
    }
    drop(inner);
    outcomes.wait_for(500).await;
    assert_eq!(proxy.metrics.batches.get() - before, 1, "one flush for all");
    let numbers: Vec<_> = outcomes.sent();
    assert_eq!(numbers, (0..500).map(|number| (number, number + 2)).collect::<Vec<_>>());
    proxy.stop().await;
}

#[tokio::test]
async fn a_message_sent_twice_in_one_batch_has_one_number() {
    let proxy = Proxy::start().await;
    proxy.send(message(single(1, 2), 1)).await;
    let twice = message(single(1, 2), 1);
    let outcomes = Outcomes::default();
    let inner = proxy.state().lock();
    outcomes.submit(&proxy, 0, Change::Send(twice.clone()));
    outcomes.submit(&proxy, 1, Change::Send(twice.clone()));
    outcomes.submit(&proxy, 2, Change::Send(message(single(1, 2), 1)));
    outcomes.submit(&proxy, 3, Change::Send(resent(&twice)));
    drop(inner);
    outcomes.wait_for(4).await;
    let mut sent = outcomes.sent();
    sent.sort_unstable();
    assert_eq!(sent, [(0, 2), (1, 2), (2, 3), (3, 2)]);
    proxy.stop().await;
}

#[tokio::test]
async fn a_conversation_keeps_its_order_while_it_is_loaded() {
    let proxy = Proxy::start().await;
    proxy.send(message(single(1, 3), 1)).await;
    let asked = *proxy.store.asked.borrow();
    proxy.store.reads.send_replace(Gate::Closed);
    let outcomes = Outcomes::default();
    for number in 0..20 {
        outcomes.submit(&proxy, number, Change::Send(message(single(1, 2), 1 + number % 2)));
    }
    assert_eq!(proxy.send(message(single(1, 3), 3)).await, 2, "another one need not wait");
    proxy.store.was_asked(asked + 1).await;
    outcomes.submit(&proxy, 20, Change::Send(message(single(1, 2), 1)));
    assert_eq!(outcomes.sent(), []);
    proxy.store.reads.send_replace(Gate::Open);
    outcomes.wait_for(21).await;
    assert_eq!(outcomes.sent(), (0..21).map(|number| (number, number + 1)).collect::<Vec<_>>());
    proxy.stop().await;
}

#[tokio::test]
async fn a_conversation_keeps_its_order_while_a_resent_message_is_looked_up() {
    let proxy = Proxy::start().await;
    proxy.send(message(single(1, 2), 1)).await;
    proxy.store.reads.send_replace(Gate::Closed);
    let outcomes = Outcomes::default();
    // Sent before by a gateway that has gone, but it never arrived.
    outcomes.submit(&proxy, 0, Change::Send(resent(&message(single(1, 2), 1))));
    for number in 1..10 {
        outcomes.submit(&proxy, number, Change::Send(message(single(1, 2), 1)));
    }
    proxy.store.reads.send_replace(Gate::Open);
    outcomes.wait_for(10).await;
    assert_eq!(outcomes.sent(), (0..10).map(|number| (number, number + 2)).collect::<Vec<_>>());
    proxy.stop().await;
}

/// Everything of one sender comes in its order, through whichever queues it went; others go on.
#[tokio::test]
async fn a_resent_message_that_is_looked_up_holds_up_its_sender_alone() {
    let proxy = Proxy::start().await;
    let group = proxy.make_group(1, &[1, 2, 3]).await;
    proxy.send(message(group, 1)).await;
    proxy.store.reads.send_replace(Gate::Closed);
    let outcomes = Outcomes::default();
    outcomes.submit(&proxy, 0, Change::Send(resent(&message(group, 1))));
    outcomes.submit(&proxy, 1, Change::Send(message(group, 1)));
    assert_eq!(proxy.send(message(group, 2)).await, 2, "another member");
    outcomes.submit(&proxy, 2, Change::Shield { conversation: group, user: UserId(1), on: true });
    outcomes.submit(&proxy, 3, Change::DeleteGroup { group: GroupId(1), actor: Some(UserId(1)) });
    assert_eq!(proxy.send(message(group, 3)).await, 3, "it is not deleted yet");
    // Now they wait for their conversation, too, and so does what comes next.
    proxy.stored().await;
    proxy.state().lock().fold.conversations.clear();
    outcomes.submit(&proxy, 4, Change::Send(message(group, 3)));
    outcomes.submit(&proxy, 5, Change::Send(message(group, 1)));
    proxy.store.reads.send_replace(Gate::Open);
    outcomes.wait_for(6).await;
    let sent = outcomes.sent();
    let place = |number| sent.iter().position(|(one, _)| *one == number).unwrap();
    assert!(place(0) < place(1), "{sent:?}");
    assert!(sent[place(0)].1 < sent[place(1)].1, "{sent:?}");
    // In the batch of the deletion it is still taken.
    match outcomes.of(5).unwrap() {
        Outcome::Sent { msg_id, .. } => assert!(msg_id.0 > sent[place(1)].1, "{sent:?}"),
        other => assert_eq!(other, Outcome::Refused(Reason::NotMember)),
    }
    assert_eq!(outcomes.of(2), Some(Outcome::Marked { changed: true }));
    assert!(matches!(outcomes.of(3), Some(Outcome::Members { .. })), "{:?}", outcomes.of(3));
    proxy.stop().await;
}

#[tokio::test]
async fn what_cannot_be_looked_up_is_to_be_tried_again() {
    let proxy = Proxy::start().await;
    proxy.store.reads.send_replace(Gate::Away);
    let send = message(single(1, 2), 1);
    assert_eq!(proxy.change(Change::Send(send.clone())).await, Outcome::Retry);
    proxy.store.reads.send_replace(Gate::Open);
    assert_eq!(proxy.send(resent(&send)).await, 1);
    proxy.stop().await;
}

#[tokio::test]
async fn a_store_that_does_not_answer_keeps_no_request_waiting_for_ever() {
    let proxy = Proxy::start().await;
    proxy.store.reads.send_replace(Gate::Closed);
    let outcomes = Outcomes::default();
    for number in 0..3 {
        outcomes.submit(&proxy, number, Change::Send(message(single(1, 2), 1)));
    }
    outcomes.wait_for(3).await;
    assert!(outcomes.all(|outcome| *outcome == Outcome::Retry));
    proxy.store.reads.send_replace(Gate::Open);
    assert_eq!(proxy.send(message(single(1, 2), 1)).await, 1);
    proxy.stop().await;
}

#[tokio::test]
async fn a_peer_can_be_written_to_as_soon_as_they_exist() {
    let proxy = Proxy::start().await;
    let to_nobody = || Change::Send(message(single(1, USERS + 1), 1));
    for _ in 0..2 {
        assert_eq!(proxy.change(to_nobody()).await, Outcome::Refused(Reason::NoSuchPeer));
    }
    proxy.store.add_users(vec![user(USERS + 1, "late")], false).await.unwrap();
    assert_eq!(proxy.send(message(single(1, USERS + 1), 1)).await, 1);
    assert_eq!(proxy.send(message(single(1, USERS + 1), USERS + 1)).await, 2);
    proxy.stop().await;
}

#[tokio::test]
async fn a_removed_member_hears_what_became_of_the_messages_sent_before() {
    let proxy = Proxy::start().await;
    let group = proxy.make_group(1, &[1, 2]).await;
    let sent = message(group, 2);
    assert_eq!(proxy.send(sent.clone()).await, 1);
    proxy.change_members(1, &[], &[2]).await;
    assert_eq!(proxy.send(resent(&sent)).await, 1);
    assert_eq!(
        proxy.change(Change::Send(message(group, 2))).await,
        Outcome::Refused(Reason::NotMember)
    );
    assert_eq!(
        proxy.change(Change::Send(resent(&message(group, 2)))).await,
        Outcome::Refused(Reason::NotMember),
        "one that never arrived"
    );
    proxy.stop().await;
}

#[tokio::test]
async fn a_change_of_members_tells_who_really_came_and_went() {
    let proxy = Proxy::start().await;
    proxy.make_group(1, &[1, 2]).await;
    let users = |users: &[u32]| users.iter().copied().map(UserId).collect::<Vec<_>>();
    assert_eq!(
        proxy.change_members(1, &[2, 3, 3], &[1, 9]).await,
        Outcome::Members {
            current: users(&[2, 3]).into(),
            added: users(&[3]),
            removed: users(&[1])
        }
    );
    assert_eq!(
        proxy.change_members(1, &[3], &[1]).await,
        Outcome::Members { current: users(&[2, 3]).into(), added: Vec::new(), removed: Vec::new() }
    );
    assert_eq!(proxy.change_members(2, &[3], &[]).await, Outcome::Refused(Reason::NotMember));
    proxy.stop().await;
}

#[tokio::test]
async fn own_messages_of_a_partial_read_are_counted_by_the_store() {
    let proxy = Proxy::start().await;
    for number in 0..120 {
        proxy.send(message(single(1, 2), 1 + number % 3 % 2)).await;
    }
    proxy.stored().await;
    let (conversation, user) = (single(1, 2), UserId(2));
    let read = |upto| Change::Read { conversation, user, upto: MsgId(upto) };
    let unread = async || proxy.state().with(conversation, |seen| seen.unread(user)).await.unwrap();
    assert_eq!(unread().await, 80);
    for (upto, left) in [(30, 60), (20, 60), (31, 59), (0, 0)] {
        proxy.change(read(upto)).await;
        assert_eq!(unread().await, left, "after reading up to {upto}");
    }
    assert_eq!(proxy.change(read(0)).await, Outcome::Marked { changed: false });
    proxy.stop().await;
}

#[tokio::test]
async fn while_the_store_counts_for_a_mark_messages_go_on_and_later_marks_wait() {
    let proxy = Proxy::start().await;
    for number in 0..120 {
        proxy.send(message(single(1, 2), 1 + number % 3 % 2)).await;
    }
    proxy.stored().await;
    let conversation = single(1, 2);
    let read = |user, upto| Change::Read { conversation, user: UserId(user), upto: MsgId(upto) };
    let unread = async |user| {
        proxy.state().with(conversation, |seen| seen.unread(UserId(user))).await.unwrap()
    };
    let outcomes = Outcomes::default();
    proxy.store.reads.send_replace(Gate::Closed);
    outcomes.submit(&proxy, 0, read(2, 30));
    outcomes.submit(&proxy, 1, read(2, 0));
    assert_eq!(proxy.send(message(conversation, 1)).await, 121);
    assert_eq!(proxy.change(read(1, 0)).await, Outcome::Marked { changed: true }, "of another");
    assert_eq!((outcomes.count(), unread(2).await), (0, 81));
    proxy.store.reads.send_replace(Gate::Open);
    outcomes.wait_for(2).await;
    assert!(outcomes.all(|outcome| *outcome == Outcome::Marked { changed: true }));
    assert_eq!(unread(2).await, 0);

    proxy.store.reads.send_replace(Gate::Away);
    for number in 0..60 {
        proxy.send(message(conversation, 1 + number % 2)).await;
    }
    proxy.stored().await;
    outcomes.submit(&proxy, 2, read(2, 123));
    outcomes.submit(&proxy, 3, Change::Send(message(conversation, 1)));
    outcomes.wait_for(4).await;
    assert_eq!(outcomes.of(2), Some(Outcome::Retry));
    assert_eq!(outcomes.sent(), [(3, 182)], "it is not turned away with the mark");
    proxy.stop().await;
}

/// Neither is in memory when they come: the message after the marks does not wait for their count.
#[tokio::test]
async fn marks_that_wait_for_their_conversation_leave_its_queue_when_it_is_there() {
    let proxy = Proxy::start().await;
    for number in 0..120 {
        proxy.send(message(single(1, 2), 1 + number % 3 % 2)).await;
    }
    proxy.stored().await;
    proxy.state().lock().fold.conversations.clear();
    let conversation = single(1, 2);
    let read = |upto| Change::Read { conversation, user: UserId(2), upto: MsgId(upto) };
    let outcomes = Outcomes::default();
    proxy.store.reads.send_replace(Gate::Closed);
    outcomes.submit(&proxy, 0, read(30));
    outcomes.submit(&proxy, 1, read(40));
    outcomes.submit(&proxy, 2, Change::Send(message(conversation, 1)));
    proxy.store.reads.send_replace(Gate::One);
    outcomes.wait_for(1).await;
    assert_eq!(outcomes.sent(), [(2, 121)]);
    proxy.store.reads.send_replace(Gate::Open);
    outcomes.wait_for(3).await;
    let unread = proxy.state().with(conversation, |seen| seen.unread(UserId(2))).await.unwrap();
    assert_eq!(unread, 54, "121 messages: 40 are read, 27 of the later ones are the user's own");
    proxy.stop().await;
}

#[tokio::test]
async fn a_group_is_known_to_its_members_at_once() {
    let proxy = Proxy::start().await;
    proxy.stored().await;
    proxy.store.commits.send_replace(Gate::Closed);
    proxy.make_group(4, &[5, 6]).await;
    is_listed(&proxy).await;
    let is_being_written = async {
        while !proxy.state().lock().fold.unstored.conversations.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, is_being_written).await.expect("the store worker takes it");
    is_listed(&proxy).await;
    proxy.store.commits.send_replace(Gate::Open);
    proxy.stored().await;
    is_listed(&proxy).await;
    proxy.stop().await;
}

async fn is_listed(proxy: &Proxy) {
    for (member, expected) in [(5, 1), (6, 1), (7, 0)] {
        let listed = proxy.state().conversations_of(UserId(member)).await.unwrap();
        assert_eq!(listed.len(), expected, "of user {member}");
        assert!(listed.iter().all(|seen| seen.row.id == group(4)));
    }
}

/// Outcomes in the order in which they came, by the number of the change.
#[derive(Clone, Default)]
pub(super) struct Outcomes(Arc<Mutex<Vec<(u32, Outcome)>>>, Arc<tokio::sync::Notify>);

impl Outcomes {
    pub(super) fn submit(&self, proxy: &Proxy, number: u32, change: Change) {
        let Self(outcomes, told) = self.clone();
        let reply = move |outcome| {
            outcomes.lock().push((number, outcome));
            told.notify_one();
        };
        proxy.partition.submit(change, Box::new(reply));
    }

    pub(super) async fn wait_for(&self, count: usize) {
        let all = async {
            while self.0.lock().len() < count {
                self.1.notified().await;
            }
        };
        timeout(PATIENCE, all).await.expect("outcomes in time");
    }

    /// What became of a change, if it is known yet.
    pub(super) fn of(&self, number: u32) -> Option<Outcome> {
        let outcomes = self.0.lock();
        outcomes.iter().find(|(one, _)| *one == number).map(|(_, outcome)| outcome.clone())
    }

    pub(super) fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// Those that were sent, and their numbers.
    pub(super) fn sent(&self) -> Vec<(u32, u32)> {
        let sent = |(number, outcome): &(u32, Outcome)| match outcome {
            Outcome::Sent { msg_id, .. } => Some((*number, msg_id.0)),
            _ => None,
        };
        self.0.lock().iter().filter_map(sent).collect()
    }

    pub(super) fn all(&self, is: impl Fn(&Outcome) -> bool) -> bool {
        self.0.lock().iter().all(|(_, outcome)| is(outcome))
    }
}
