//! What is under way, in order.

use proptest::prelude::*;

use super::*;

mod hooks;

fn key(sender: u32, id: u8) -> Key {
    Key { sender: UserId(sender), id: ClientMsgId([id; 16]) }
}

fn submit(conversation: u64) -> Submit {
    Submit { conversation, body: vec![0; 10].into(), ..Submit::default() }
}

#[test]
fn what_is_unanswered_goes_again_in_the_order_it_came() {
    let (mut table, now) = (Table::default(), Instant::now());
    for id in 1..=9 {
        assert_eq!(
            table.put(key(1, id), submit(u64::from(id % 3)), (), (Stage::Ready, now)),
            Put::Submit
        );
    }
    table.take(&key(1, 4)).unwrap();
    let ids = |keys: Vec<Key>| keys.iter().map(|key| key.id.0[0]).collect::<Vec<u8>>();
    assert_eq!(ids(table.all_again(|conversation| conversation != 1, now)), [2, 3, 5, 6, 8, 9]);
    assert!(table.submit(&key(1, 2)).unwrap().resend());
    assert!(!table.submit(&key(1, 1)).unwrap().resend(), "elsewhere");
    assert_eq!(ids(table.all_again(|_conversation| true, now)), [1, 2, 3, 5, 6, 7, 8, 9]);
    assert!(table.submit(&key(1, 1)).unwrap().resend());
}

#[test]
fn what_was_handed_back_waits_with_its_line_until_all_of_it_goes_again() {
    let (mut table, now) = (Table::default(), Instant::now());
    for (id, conversation) in [(1, 7), (2, 7), (3, 8)] {
        table.put(key(1, id), submit(conversation), (), (Stage::Ready, now));
    }
    for id in [1, 2, 3] {
        table.retry_later(&key(1, id), now);
    }
    assert_eq!(table.put(key(1, 4), submit(7), (), (Stage::Ready, now)), Put::Waits);
    let again = table.all_again(|conversation| conversation == 7, now);
    assert_eq!(again, [key(1, 1), key(1, 2), key(1, 4)]);
    assert_eq!(table.put(key(1, 5), submit(7), (), (Stage::Ready, now)), Put::Submit);
    assert_eq!(
        table.put(key(1, 6), submit(8), (), (Stage::Ready, now)),
        Put::Waits,
        "still without an owner"
    );
}

#[test]
fn nothing_of_the_same_sender_overtakes_a_message_that_waits() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.put(key(1, 1), submit(7), (), (Stage::Ready, now));
    assert!(table.retry_later(&key(1, 1), now));
    assert_eq!(table.put(key(1, 2), submit(7), (), (Stage::Ready, now)), Put::Waits);
    assert_eq!(table.put(key(1, 3), submit(8), (), (Stage::Ready, now)), Put::Submit, "elsewhere");
    assert_eq!(
        table.put(key(2, 4), submit(7), (), (Stage::Ready, now)),
        Put::Submit,
        "somebody else"
    );

    assert!(table.due(now + FIRST_RETRY / 2).is_empty());
    assert_eq!(table.due(now + FIRST_RETRY), [key(1, 1), key(1, 2)]);
    assert_eq!(
        table.put(key(1, 5), submit(7), (), (Stage::Ready, now)),
        Put::Submit,
        "nobody waits now"
    );
    assert!(table.due(now + FIRST_RETRY * 9).is_empty());
}

#[test]
fn waits_grow_and_end_when_the_answer_comes() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.put(key(1, 1), submit(7), (), (Stage::Ready, now));
    table.retry_later(&key(1, 1), now);
    table.due(now + FIRST_RETRY);
    table.retry_later(&key(1, 1), now);
    assert!(table.due(now + FIRST_RETRY).is_empty(), "the second wait is longer");
    table.take(&key(1, 1)).unwrap();
    assert_eq!(table.put(key(1, 2), submit(7), (), (Stage::Ready, now)), Put::Submit);
    assert_eq!(table.size(), (1, 10));
}

#[test]
fn a_repeat_changes_only_what_waits_for_the_answer() {
    let (mut table, now) = (Table::default(), Instant::now());
    assert_eq!(table.put(key(1, 1), submit(7), "old", (Stage::Ready, now)), Put::Submit);
    assert_eq!(table.put(key(1, 1), submit(7), "new", (Stage::Ready, now)), Put::Repeated("old"));
    assert_eq!(table.take(&key(1, 1)).unwrap().waiter, "new");
    assert_eq!(table.size(), (0, 0));
}

#[test]
fn what_is_never_answered_is_found_by_its_age() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.put(key(1, 1), submit(7), (), (Stage::Ready, now));
    let limit = Duration::from_secs(10);
    assert!(table.older_than(limit, now + limit / 2).is_empty());
    assert_eq!(table.older_than(limit, now + limit), [key(1, 1)]);
}

#[test]
fn a_message_that_is_given_up_takes_those_behind_it_along() {
    let (mut table, now) = (Table::default(), Instant::now());
    let limit = Duration::from_secs(10);
    table.put(key(1, 1), submit(7), (), (Stage::Ready, now));
    table.put(key(1, 2), submit(8), (), (Stage::Ready, now + limit / 2));
    table.put(key(1, 3), submit(7), (), (Stage::Ready, now + limit / 2));
    assert_eq!(table.older_than(limit, now + limit), [key(1, 1), key(1, 3)]);
    assert_eq!(table.from(&key(1, 3)), [key(1, 3)]);
}

#[test]
fn the_first_of_a_line_is_the_one_with_nothing_unanswered_before_it() {
    let (mut table, now) = (Table::default(), Instant::now());
    for id in 1..=2 {
        table.put(key(1, id), submit(7), (), (Stage::Ready, now));
        table.addressed(&key(1, id), 3, now).unwrap();
    }
    assert!(table.submit(&key(1, 1)).unwrap().first());
    assert!(!table.submit(&key(1, 2)).unwrap().first());
    table.take(&key(1, 1)).unwrap();
    table.addressed(&key(1, 2), 3, now).unwrap();
    assert!(table.submit(&key(1, 2)).unwrap().first());
}

/// The running counts equal what counting all entries gives.
fn check_counts(table: &Table<()>) {
    let waiting = |of: &dyn Fn(&Key, &Entry<()>) -> bool| {
        let waits = |(key, entry): &(&Key, &Entry<()>)| entry.holds() && of(key, entry);
        table.entries.iter().filter(waits).count()
    };
    assert_eq!(table.holding, waiting(&|_key, _entry| true));
    for (queue, unanswered) in &table.queues {
        let is_of = |key: &Key, entry: &Entry<()>| Queue::of(key, &entry.submit) == *queue;
        assert_eq!(unanswered.holding, waiting(&is_of), "{queue:?}");
        assert!(!unanswered.keys.is_empty(), "{queue:?} has nothing");
    }
    let queues = table.queues.values().map(|unanswered| unanswered.keys.len());
    assert_eq!(queues.sum::<usize>(), table.entries.len());
    let bytes = table.entries.values().map(Entry::bytes);
    assert_eq!(table.size(), (table.entries.len(), bytes.sum()));
}

#[test]
fn when_what_waited_is_answered_nothing_waits_behind_it() {
    let (mut table, now) = (Table::default(), Instant::now());
    assert_eq!(table.put(key(1, 1), submit(7), (), (Stage::Ready, now)), Put::Submit);
    assert_eq!(table.put(key(1, 2), submit(7), (), (Stage::Ready, now)), Put::Submit);
    assert!(table.retry_later(&key(1, 1), now));
    assert_eq!(table.put(key(1, 3), submit(7), (), (Stage::Ready, now)), Put::Waits);
    check_counts(&table);
    table.take(&key(1, 1)).unwrap();
    table.take(&key(1, 3)).unwrap();
    check_counts(&table);
    assert_eq!(table.put(key(1, 4), submit(7), (), (Stage::Ready, now)), Put::Submit);
    assert!(table.due(now + LAST_RETRY).is_empty());
    assert!(table.take(&key(1, 3)).is_none());
}

proptest! {
    #[test]
    fn a_line_is_never_handed_over_out_of_order(
        steps in prop::collection::vec((0_u8..6, 0_usize..8), 1..60),
    ) {
        let (mut table, start) = (Table::default(), Instant::now());
        let (mut now, mut next, mut with_storage) = (start, 0_u8, Vec::<u8>::new());
        let mut handed = Vec::<u8>::new();
        for (step, choice) in steps {
            now += Duration::from_millis(100);
            let mut given: Vec<u8> = Vec::new();
            match step {
                0 | 1 => {
                    next += 1;
                    if table.put(key(1, next), submit(7), (), (Stage::Ready, now)) == Put::Submit {
                        given.push(next);
                    }
                }
                2 if !with_storage.is_empty() => {
                    // Storage refuses one message and, as a real one does, all it was given
                    // after that.
                    let from = choice % with_storage.len();
                    for id in with_storage.split_off(from) {
                        table.retry_later(&key(1, id), now);
                        handed.retain(|other| *other != id);
                    }
                }
                3 => {
                    // Another owner: what the earlier owner had is lost.
                    with_storage.clear();
                    handed.clear();
                    given = table.all_again(|_all| true, now).iter().map(|key| key.id.0[0]).collect();
                    prop_assert_eq!(given.len(), table.size().0);
                }
                4 if !handed.is_empty() => {
                    // Storage answers one.
                    let id = handed.remove(choice % handed.len());
                    with_storage.retain(|other| *other != id);
                    table.take(&key(1, id)).unwrap();
                }
                _ => given = table.due(now).iter().map(|key| key.id.0[0]).collect(),
            }
            check_counts(&table);
            for id in given {
                prop_assert!(handed.iter().all(|earlier| *earlier < id), "{id} after {handed:?}");
                handed.push(id);
                with_storage.push(id);
            }
        }
    }
}

#[test]
fn another_kind_body_or_conversation_under_the_same_name_is_another_message() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.put(key(1, 1), submit(7), "first", (Stage::Ready, now));
    let others = [
        submit(8),
        Submit { r#type: 2, ..submit(7) },
        Submit { body: vec![1; 10].into(), ..submit(7) },
    ];
    for other in others {
        let put = table.put(key(1, 1), other.clone(), "other", (Stage::Ready, now));
        assert_eq!(put, Put::Reused(Box::new(other), "other"));
    }
    assert_eq!(table.put(key(2, 1), submit(8), "somebody else", (Stage::Ready, now)), Put::Submit);
    assert_eq!((table.entry(&key(1, 1)).unwrap().waiter, table.size()), ("first", (2, 20)));
}

#[test]
fn each_wait_is_twice_as_long_as_the_last_up_to_the_longest() {
    let (mut table, mut now) = (Table::default(), Instant::now());
    table.put(key(1, 1), submit(7), (), (Stage::Ready, now));
    for wait_ms in [200, 400, 800, 1_600, 2_000, 2_000] {
        assert!(table.retry_later(&key(1, 1), now));
        let wait = Duration::from_millis(wait_ms);
        assert!(table.due(now + wait - Duration::from_millis(1)).is_empty(), "{wait_ms}");
        now += wait;
        assert_eq!(table.due(now), [key(1, 1)], "{wait_ms}");
    }
    assert!(!table.retry_later(&key(1, 2), now), "there is none");
}

/// A frame may have been repeated while its message waited, which its owner must look for.
#[test]
fn a_frame_that_goes_again_says_how_long_it_waited_and_that_it_may_repeat_another() {
    let (mut table, now) = (Table::default(), Instant::now());
    let framed = Submit { fingerprint: Some(5), ..submit(7) };
    table.put(key(1, 1), framed, (), (Stage::Ready, now));
    table.put(key(1, 2), submit(8), (), (Stage::Ready, now));
    let later = now + Duration::from_millis(1_500);
    for id in [1, 2] {
        let submit = table.addressed(&key(1, id), 3, later).unwrap();
        assert_eq!((submit.waited_ms, submit.may_repeat), (None, None), "{id} is new");
    }
    table.all_again(|_conversation| true, now);
    let submit = table.addressed(&key(1, 1), 4, later).unwrap();
    assert_eq!((submit.waited_ms, submit.may_repeat), (Some(1_500), Some(true)));
    assert_eq!(submit.epoch, Some(4));
    let submit = table.addressed(&key(1, 2), 4, later).unwrap();
    assert_eq!((submit.waited_ms, submit.may_repeat), (None, None), "it has a name");
    assert!(table.addressed(&key(1, 3), 4, later).is_none());
}
