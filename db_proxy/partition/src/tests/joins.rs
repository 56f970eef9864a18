//! Members who join one after another: told of in one notice, and in the right order with everything
//! else.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use fold::admission::Change;
use fold::conversation::Conversation;
use prost::Message as _;
use proto::cluster::wire::Reason;
use proto::ids::{ConversationId, GroupId, MsgId, Offset, UserId};
use proto::log::{MembersChanged, Record, record};
use record_log::LogReader as _;
use record_log::embedded::EmbeddedLog;
use tokio::time::timeout;

use super::restarts::options;
use super::sending::Outcomes;
use crate::test::gated::Gate;
use crate::test::{PATIENCE, Proxy, Setup, group, message, single};
use crate::worker::IDLE_AFTER;
use crate::{HOLD, Outcome};

/// So long that only what is to release them can have done it.
const LONG: Duration = Duration::from_hours(1);

/// A group of users 1 to 20, whose first add after `opened` is behind it, of user 99 by user 1. So
/// the next ones are held.
struct Joins {
    proxy: Proxy,
    id: ConversationId,
    opened: Offset,
    outcomes: Outcomes,
}

impl Joins {
    async fn start(setup: Setup) -> Self {
        let proxy = setup.start().await;
        let id = proxy.make_group(1, &(1..=20).collect::<Vec<_>>()).await;
        let opened = proxy.state().last();
        let first = proxy.change(add(Some(1), &[99])).await;
        assert!(matches!(first, Outcome::Members { .. }), "{first:?}");
        Self { proxy, id, opened, outcomes: Outcomes::default() }
    }

    async fn long() -> Self {
        Self::start(Setup { hold: LONG, ..Setup::new() }).await
    }

    fn submit(&self, number: u32, change: Change) {
        self.outcomes.submit(&self.proxy, number, change);
    }

    /// Waits until so many wait.
    async fn held(&self, count: i64) {
        let all = async {
            while self.proxy.metrics.waiting.get() != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, all).await.expect("they are held");
    }

    /// Who was added since, record by record.
    fn records(&self) -> Vec<Vec<u32>> {
        let inner = self.proxy.state().lock();
        let records = inner.fold.published.members_of(self.id, self.opened, inner.fold.last);
        let added = records.filter(|(_, touched)| !touched.added.is_empty());
        added.map(|(_, touched)| touched.added.iter().map(|user| user.0).collect()).collect()
    }

    async fn members(&self) -> Vec<UserId> {
        self.proxy.state().with(self.id, Conversation::current_members).await.unwrap()
    }

    async fn visible_from(&self, user: u32) -> Option<MsgId> {
        self.proxy.state().with(self.id, |group| group.visible_from(UserId(user))).await.unwrap()
    }

    /// Who joined by a change that has been answered.
    fn joined(&self, number: u32) -> Vec<u32> {
        match self.outcomes.of(number) {
            Some(Outcome::Members { current, added, removed }) => {
                let is_one = |user| current.binary_search(user).is_ok();
                assert!(added.iter().all(is_one), "{number}");
                assert_eq!(removed, [], "{number}");
                added.into_iter().map(|user| user.0).collect()
            }
            other => panic!("{number}: {other:?}"),
        }
    }
}

fn users(numbers: &[u32]) -> Vec<UserId> {
    numbers.iter().copied().map(UserId).collect()
}

fn add(actor: Option<u32>, who: &[u32]) -> Change {
    let (group, actor) = (GroupId(1), actor.map(UserId));
    Change::Members { group, actor, add: users(who), remove: Vec::new() }
}

fn remove(actor: Option<u32>, who: &[u32]) -> Change {
    let (group, actor) = (GroupId(1), actor.map(UserId));
    Change::Members { group, actor, add: Vec::new(), remove: users(who) }
}

#[tokio::test]
async fn of_twenty_users_who_join_within_a_second_all_but_the_first_are_one_record() {
    let proxy = Proxy::start().await;
    let id = proxy.make_group(1, &(1..=20).collect::<Vec<_>>()).await;
    let (opened, published) = (proxy.state().last(), proxy.published.get());
    let (outcomes, began) = (Outcomes::default(), Instant::now());
    let inner = proxy.state().lock();
    for number in 1..=20 {
        outcomes.submit(&proxy, number, add(Some(number), &[100 + number]));
    }
    drop(inner);
    outcomes.wait_for(1).await;
    assert!(outcomes.of(1).is_some(), "the first does not wait for the others");
    outcomes.wait_for(20).await;
    assert!(began.elapsed() >= HOLD, "{:?}", began.elapsed());
    let joins = Joins { proxy, id, opened, outcomes };
    assert_eq!(joins.records(), [vec![101], (102..=120).collect()]);
    let (records, published) =
        (joins.proxy.state().last().0 - opened.0, joins.proxy.published.get() - published);
    assert_eq!((records, published), (2, 2), "nothing else was appended or published");
    let all = joins.members().await;
    assert_eq!(all, users(&(1..=20).chain(101..=120).collect::<Vec<_>>()));
    for number in 1..=20 {
        assert_eq!(joins.joined(number), [100 + number]);
        let Some(Outcome::Members { current, .. }) = joins.outcomes.of(number) else { panic!() };
        assert_eq!(current.len(), if number == 1 { 21 } else { 40 }, "{number}");
    }
    assert_eq!(joins.proxy.metrics.waiting.get(), 0);

    joins.submit(21, add(Some(1), &[121]));
    joins.outcomes.wait_for(21).await;
    assert!(began.elapsed() >= 2 * HOLD, "the next second begins with the second record");
    assert_eq!(joins.joined(21), [121]);
    joins.proxy.stop().await;
}

/// The thread wakes when a second is over, and not only when something comes or it is idle.
#[tokio::test]
async fn what_is_held_is_released_in_time() {
    let hold = Duration::from_millis(10);
    // Nothing comes that could wake it.
    let joins = Joins::start(Setup { hold, store_writer: false, ..Setup::new() }).await;
    let mut fastest = PATIENCE;
    for number in (0..100).step_by(2) {
        let began = Instant::now();
        let inner = joins.proxy.state().lock();
        joins.submit(number, add(Some(1), &[1_000 + number]));
        joins.submit(number + 1, add(Some(2), &[1_001 + number]));
        drop(inner);
        joins.outcomes.wait_for(number as usize + 2).await;
        fastest = fastest.min(began.elapsed());
        if fastest < IDLE_AFTER / 2 {
            break;
        }
    }
    assert!(fastest < IDLE_AFTER / 2, "{fastest:?}");
    joins.proxy.stop().await;
}

#[tokio::test]
async fn a_message_of_the_user_who_adds_comes_after_the_add_and_that_of_another_does_not_wait() {
    let joins = Joins::long().await;
    joins.submit(1, add(Some(2), &[31]));
    joins.submit(2, add(Some(3), &[32]));
    joins.held(2).await;
    assert_eq!(joins.proxy.send(message(joins.id, 4)).await, 1, "not concerned");
    assert_eq!(joins.proxy.send(message(joins.id, 1)).await, 2, "the add of user 1 is done");
    assert_eq!(joins.outcomes.count(), 0, "others release nothing");
    assert_eq!(joins.proxy.send(message(joins.id, 2)).await, 3);
    assert_eq!((joins.joined(1), joins.joined(2)), (vec![31], vec![32]));
    assert_eq!(joins.records(), [vec![99], vec![31, 32]]);
    for user in [31, 32] {
        assert_eq!(joins.visible_from(user).await, Some(MsgId(3)), "{user} sees it");
    }
    joins.proxy.stop().await;
}

/// A user that is added cannot know it yet; but an add that came first is first.
#[tokio::test]
async fn what_comes_from_the_added_user_is_judged_after_the_add() {
    let joins = Joins::long().await;
    joins.submit(1, add(Some(2), &[31]));
    joins.submit(2, Change::Send(message(joins.id, 31)));
    joins.outcomes.wait_for(2).await;
    assert_eq!((joins.joined(1), joins.outcomes.sent()), (vec![31], vec![(2, 1)]));

    // A user who is added adds others.
    joins.submit(3, add(Some(2), &[32]));
    joins.submit(4, add(Some(32), &[33]));
    joins.submit(5, add(Some(33), &[34]));
    joins.held(1).await;
    assert_eq!(joins.proxy.send(message(joins.id, 33)).await, 2);
    joins.outcomes.wait_for(5).await;
    assert_eq!([3, 4, 5].map(|number| joins.joined(number)), [[32], [33], [34]]);
    assert_eq!(joins.records(), [[99], [31], [32], [33], [34]]);
    joins.proxy.stop().await;
}

#[tokio::test]
async fn a_mark_or_a_setting_of_the_user_who_adds_releases_the_add() {
    let joins = Joins::long().await;
    let (conversation, user) = (joins.id, UserId(2));
    joins.proxy.send(message(joins.id, 1)).await;
    let changes = [
        Change::Read { conversation, user, upto: MsgId(1) },
        Change::Shield { conversation, user, on: true },
        Change::RemoveSession { conversation, user },
    ];
    for (number, change) in (0..).zip(changes) {
        joins.submit(number, add(Some(2), &[31 + number]));
        joins.held(1).await;
        let other = Change::Shield { conversation, user: UserId(9), on: number % 2 == 0 };
        assert_eq!(joins.proxy.change(other).await, Outcome::Marked { changed: true });
        assert!(joins.outcomes.of(number).is_none(), "it is of another user");
        let outcome = joins.proxy.change(change.clone()).await;
        assert_eq!(outcome, Outcome::Marked { changed: true }, "{change:?}");
        assert_eq!(joins.joined(number), [31 + number], "{change:?}");
    }
    joins.proxy.stop().await;
}

#[tokio::test]
async fn a_removal_by_anybody_releases() {
    let joins = Joins::long().await;
    joins.submit(1, add(Some(2), &[31]));
    joins.submit(2, add(Some(3), &[32]));
    joins.held(2).await;
    let Outcome::Members { current, removed, .. } =
        joins.proxy.change(remove(None, &[20, 32])).await
    else {
        panic!("an administrator may")
    };
    assert_eq!((removed, current.len()), (users(&[20, 32]), 21), "32 had been added");
    assert_eq!((joins.joined(1), joins.joined(2)), (vec![31], vec![32]));
    assert_eq!(joins.records(), [vec![99], vec![31, 32]]);
    joins.proxy.stop().await;
}

#[tokio::test]
async fn what_a_removed_member_had_asked_for_is_done() {
    let joins = Joins::long().await;
    joins.submit(1, add(Some(2), &[31]));
    joins.submit(2, remove(Some(1), &[2]));
    joins.outcomes.wait_for(2).await;
    joins.submit(3, add(Some(2), &[32]));
    joins.outcomes.wait_for(3).await;
    assert_eq!(joins.joined(1), [31]);
    assert_eq!(joins.outcomes.of(3), Some(Outcome::Refused(Reason::NotMember)), "too late");
    let members = joins.members().await;
    assert_eq!((members.contains(&UserId(31)), members.contains(&UserId(2))), (true, false));
    joins.proxy.stop().await;
}

#[tokio::test]
async fn the_end_of_a_group_releases() {
    let joins = Joins::long().await;
    joins.submit(1, add(Some(2), &[31]));
    joins.held(1).await;
    let delete = Change::DeleteGroup { group: GroupId(1), actor: Some(UserId(1)) };
    let Outcome::Members { removed, .. } = joins.proxy.change(delete).await else {
        panic!("its creator may")
    };
    assert_eq!(joins.joined(1), [31]);
    assert!(removed.contains(&UserId(31)), "user 31 was a member for a moment");
    joins.proxy.stop().await;
}

/// An add can be allowed when it comes and not when it is released: what was appended just before it
/// was not folded yet.
#[tokio::test]
async fn what_is_no_longer_allowed_is_refused_and_holds_up_no_other() {
    let joins = Joins::long().await;
    let inner = joins.proxy.state().lock();
    joins.submit(1, remove(None, &[2]));
    joins.submit(2, add(Some(2), &[31]));
    joins.submit(3, add(Some(3), &[32, 99]));
    joins.submit(4, add(Some(4), &[32, 32, 33]));
    joins.submit(5, add(Some(5), &[33]));
    drop(inner);
    joins.held(4).await;
    // It removes no member.
    joins.submit(6, remove(None, &[50]));
    joins.outcomes.wait_for(6).await;
    assert_eq!(joins.outcomes.of(2), Some(Outcome::Refused(Reason::NotMember)));
    assert_eq!((joins.joined(3), joins.joined(4)), (vec![32], vec![33]));
    assert_eq!(joins.joined(5), [0; 0], "somebody else was first");
    assert_eq!(joins.records(), [vec![99], vec![32, 33]]);
    let setup = joins.proxy.kill().await;
    let added =
        MembersChanged { group: 1, added: vec![32, 99, 33], actor: 3, ..Default::default() };
    assert_eq!(last_record(&setup), Some(record::Change::MembersChanged(added)));
}

fn last_record(setup: &Setup) -> Option<record::Change> {
    let log = EmbeddedLog::open(options(setup), Offset(0)).unwrap().log;
    let mut last = None;
    let read = log.read(Offset(1), &mut |record| {
        last = Record::decode(record.payload).unwrap().change;
        ControlFlow::Continue(())
    });
    read.unwrap();
    last
}

#[tokio::test]
async fn a_request_that_waits_when_the_partition_stops_goes_to_the_next_owner() {
    let joins = Joins::long().await;
    for number in 1..=3 {
        joins.submit(number, add(Some(number), &[30 + number]));
    }
    joins.held(3).await;
    joins.proxy.partition.stop().await;
    joins.outcomes.wait_for(3).await;
    assert!(joins.outcomes.all(|outcome| *outcome == Outcome::Moved));
    assert_eq!(joins.records(), [[99]]);
    assert_eq!(joins.proxy.metrics.waiting.get(), 0);
    joins.proxy.stop().await;
}

#[tokio::test]
async fn more_than_may_be_held_are_appended_at_once() {
    let mut setup = Setup { hold: LONG, ..Setup::new() };
    setup.limits.held_max = 3;
    let joins = Joins::start(setup).await;
    for number in 1..=3 {
        joins.submit(number, add(Some(number), &[30 + number]));
    }
    joins.held(3).await;
    assert_eq!(joins.outcomes.count(), 0);
    joins.submit(4, add(Some(4), &[34]));
    joins.outcomes.wait_for(4).await;
    assert_eq!(joins.records(), [vec![99], vec![31, 32, 33, 34]]);
    joins.proxy.stop().await;
}

#[tokio::test]
async fn what_is_held_takes_its_place_in_the_waiting_room() {
    let mut setup = Setup { hold: LONG, ..Setup::new() };
    setup.limits.waiting_max = 3;
    let joins = Joins::start(setup).await;
    joins.submit(1, add(Some(1), &[31]));
    joins.submit(2, add(Some(2), &[32]));
    joins.held(2).await;
    joins.proxy.store.reads.send_replace(Gate::Closed);
    joins.submit(3, Change::Send(message(single(1, 2), 1)));
    joins.held(3).await;
    joins.submit(4, Change::Send(message(single(3, 4), 3)));
    joins.outcomes.wait_for(1).await;
    assert_eq!(joins.outcomes.of(4), Some(Outcome::Retry), "there is no place");
    joins.submit(5, add(Some(5), &[35]));
    joins.outcomes.wait_for(4).await;
    assert_eq!(joins.records(), [vec![99], vec![31, 32, 35]], "turned away nobody");
    joins.submit(6, Change::Send(message(single(3, 4), 3)));
    joins.held(2).await;
    joins.proxy.store.reads.send_replace(Gate::Open);
    joins.outcomes.wait_for(6).await;
    let mut sent = joins.outcomes.sent();
    sent.sort_unstable();
    assert_eq!(sent, [(3, 1), (6, 1)]);
    joins.proxy.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_one_record_becomes_several() {
    let setup = Setup { hold: LONG, segment_bytes: 32 << 20, ..Setup::new() };
    let joins = Joins::start(setup).await;
    // Four bytes each, so that twice as many fit, and not three times.
    for number in 1..=4 {
        let who: Vec<_> = (number * 100_000..(number + 1) * 100_000).collect();
        joins.submit(number, add(Some(number), &who));
    }
    joins.outcomes.wait_for(2).await;
    joins.held(2).await;
    joins.proxy.send(message(joins.id, 4)).await;
    let records: Vec<_> = joins.records().iter().map(Vec::len).collect();
    assert_eq!(records, [1, 200_000, 200_000]);
    for number in 1..=4 {
        assert_eq!(joins.joined(number).len(), 100_000);
    }
    joins.proxy.stop().await;
}

#[tokio::test]
async fn a_group_for_which_something_is_held_stays_in_memory() {
    let mut setup = Setup { hold: LONG, ..Setup::new() };
    setup.limits.conversations_max = 4;
    let joins = Joins::start(setup).await;
    joins.submit(1, add(Some(2), &[31]));
    joins.held(1).await;
    joins.proxy.stored().await;
    for peer in 3..=14 {
        joins.proxy.send(message(single(1, peer), 1)).await;
        joins.proxy.stored().await;
    }
    let in_memory = |id| joins.proxy.state().lock().fold.conversations.contains_key(&id);
    assert!(!in_memory(single(1, 3)), "others have left");
    assert!(in_memory(joins.id));
    joins.submit(2, remove(None, &[20]));
    joins.outcomes.wait_for(2).await;
    assert_eq!(joins.joined(1), [31]);
    joins.proxy.stop().await;
}

/// Each group has a second of its own.
#[tokio::test]
async fn groups_do_not_wait_for_each_other() {
    let joins = Joins::long().await;
    joins.proxy.make_group(2, &[1, 2]).await;
    joins.submit(1, add(Some(2), &[31]));
    joins.held(1).await;
    let other = joins.proxy.change_members(2, &[3], &[]).await;
    assert!(matches!(other, Outcome::Members { .. }), "{other:?}");
    assert_eq!(joins.proxy.send(message(group(2), 2)).await, 1, "in another group");
    assert_eq!(joins.proxy.change_members(2, &[], &[3]).await, removed_3());
    assert!(joins.outcomes.of(1).is_none());
    joins.proxy.stop().await;
}

fn removed_3() -> Outcome {
    Outcome::Members { current: users(&[1, 2]).into(), added: Vec::new(), removed: users(&[3]) }
}
