//! What every cache must do, in memory or shared.
//!
//! Each check gets an empty cache. [`suite`] makes one test of each for one kind of cache.

use std::time::Duration;

use bytes::Bytes;
use fold::rows::MessageRow;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use proto::client::UserInfo;
use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Offset, UserId};
use proto::record::LogId;
use tokio::time::{Instant, sleep};

use super::{BODY_LEN_MAX, Cache, Count, Profile, Throttle};

/// Long enough for a loaded machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An empty cache, which goes when this is dropped.
pub(super) trait Fresh {
    fn cache(&self) -> &dyn Cache;

    /// Waits until everything that was written can be read.
    async fn settled(&self);
}

/// Makes a test of each check. `$fresh` is an async function that returns a [`Fresh`].
macro_rules! suite {
    ($fresh:path) => {
        crate::conformance::suite! { $fresh:
            as_many_failures_as_allowed_throttle_nobody,
            one_failure_more_throttles,
            one_of_several_is_enough,
            what_counts_for_one_does_not_count_for_another,
            a_throttle_ends_with_the_time_that_began_at_the_first_failure,
            failures_beyond_the_free_ones_make_wait_and_longer_each_time,
            what_is_forgotten_counts_as_none,
            a_lift_forgets_what_is_of_the_name_and_nothing_else,
            a_profile_comes_back_as_it_was,
            what_was_not_kept_is_not_found,
            an_older_profile_never_replaces_a_newer_one,
            a_newer_profile_replaces_an_older_one,
            profiles_of_the_greatest_stamps_are_compared_as_numbers,
            a_message_comes_back_as_it_was,
            every_body_and_number_comes_back_as_it_was,
            messages_of_other_places_and_logs_are_not_found,
            a_long_message_is_not_kept,
            many_are_asked_for_at_once,
        }
    };
    ($fresh:path: $($check:ident,)*) => {
        $(
            #[tokio::test]
            async fn $check() {
                crate::conformance::$check(&$fresh().await).await;
            }
        )*
    };
}
pub(super) use suite;

/// The log of the checks' messages.
pub(super) const LOG: LogId = LogId([7; 16]);

const LONG: Duration = Duration::from_mins(30);

pub(super) fn throttle(name: &str) -> Throttle {
    Throttle::new(format!("name:{name}"), 3, LONG)
}

pub(super) fn profile(user: u32, stamp: u32, nick: &str) -> Profile {
    let info = UserInfo {
        user_id: user,
        gender: 1,
        nick_name: nick.to_owned(),
        avatar_url: "/a b/\u{1f600}.png".to_owned(),
        department_id: 2,
        email: String::new(),
        real_name: format!("u{user}"),
        phone: "+49 1".to_owned(),
        latin_name: "u".to_owned(),
        employment: 0,
        signature: Some("\0\r\n".to_owned()),
    };
    Profile { stamp, info }
}

pub(super) fn message(low: u32, high: u32, msg_id: u32, body: &[u8]) -> MessageRow {
    let conversation = ConversationId::single(UserId(low), UserId(high)).unwrap();
    MessageRow {
        conversation,
        msg_id: MsgId(msg_id),
        sender: UserId(low),
        client_msg_id: ClientMsgId([9; 16]),
        offset: Offset(1_000 + u64::from(msg_id)),
        timestamp_ms: 1_800_000_000_000 + u64::from(msg_id),
        kind: 1,
        body: Bytes::copy_from_slice(body),
    }
}

pub(super) fn place(message: &MessageRow) -> (ConversationId, MsgId) {
    (message.conversation, message.msg_id)
}

async fn is_throttled(fresh: &impl Fresh, throttle: &Throttle) -> bool {
    fresh.settled().await;
    fresh.cache().is_throttled(std::slice::from_ref(throttle)).await
}

pub(super) async fn as_many_failures_as_allowed_throttle_nobody(fresh: &impl Fresh) {
    let throttle = throttle("u1");
    assert!(!is_throttled(fresh, &throttle).await);
    for _ in 0..3 {
        fresh.cache().count_failure(std::slice::from_ref(&throttle));
    }
    assert!(!is_throttled(fresh, &throttle).await);
}

pub(super) async fn one_failure_more_throttles(fresh: &impl Fresh) {
    let throttle = throttle("u1");
    for _ in 0..4 {
        fresh.cache().count_failure(std::slice::from_ref(&throttle));
    }
    assert!(is_throttled(fresh, &throttle).await);
}

pub(super) async fn one_of_several_is_enough(fresh: &impl Fresh) {
    let both = [throttle("u1"), Throttle::new("network:10.0.0.1".to_owned(), 30, LONG)];
    for _ in 0..4 {
        fresh.cache().count_failure(&both);
    }
    fresh.settled().await;
    assert!(fresh.cache().is_throttled(&both).await);
    assert!(!fresh.cache().is_throttled(&both[1..]).await);
    assert!(!fresh.cache().is_throttled(&[]).await);
}

pub(super) async fn what_counts_for_one_does_not_count_for_another(fresh: &impl Fresh) {
    for _ in 0..4 {
        fresh.cache().count_failure(&[throttle("u1")]);
    }
    for other in [
        throttle("u2"),
        throttle("u1 "),
        throttle(""),
        Throttle::new("network:u1".to_owned(), 3, LONG),
    ] {
        assert!(!is_throttled(fresh, &other).await, "{other:?}");
    }
}

/// What is known of one.
async fn count(fresh: &impl Fresh, name: &str, throttle: &Throttle) -> Count {
    fresh.settled().await;
    fresh.cache().failures(name, std::slice::from_ref(throttle)).await.of[0]
}

pub(super) async fn failures_beyond_the_free_ones_make_wait_and_longer_each_time(
    fresh: &impl Fresh,
) {
    let first = Duration::from_millis(300);
    let throttle = throttle("u1").delaying(first, first * 2);
    assert_eq!(count(fresh, "u1", &throttle).await, Count::default());
    for failures in 1..=3 {
        fresh.cache().count_failure(std::slice::from_ref(&throttle));
        assert_eq!(count(fresh, "u1", &throttle).await, Count { failures, waits: false });
    }
    for (failures, delay) in [(4, first), (5, first * 2), (6, first * 2)] {
        let before = Instant::now();
        fresh.cache().count_failure(std::slice::from_ref(&throttle));
        assert_eq!(count(fresh, "u1", &throttle).await, Count { failures, waits: true });
        let after = Instant::now();
        while count(fresh, "u1", &throttle).await.waits {
            assert!(after.elapsed() < PATIENCE, "the delay ends");
            sleep(Duration::from_millis(5)).await;
        }
        assert!(before.elapsed() >= delay, "{failures}: {:?}", before.elapsed());
    }
}

pub(super) async fn what_is_forgotten_counts_as_none(fresh: &impl Fresh) {
    let [one, other] = ["u1", "u2"].map(|name| throttle(name).delaying(LONG, LONG));
    for _ in 0..4 {
        fresh.cache().count_failure(&[one.clone(), other.clone()]);
    }
    fresh.cache().forget_failures(&one);
    assert_eq!(count(fresh, "", &one).await, Count::default());
    assert_eq!(count(fresh, "", &other).await, Count { failures: 4, waits: true });
}

pub(super) async fn a_lift_forgets_what_is_of_the_name_and_nothing_else(fresh: &impl Fresh) {
    let of = |key: &str, name: &str| throttle(key).delaying(LONG, LONG).of(name);
    let all = [of("a", "u1"), of("b", "u1"), of("c", "u2"), throttle("d")];
    for _ in 0..4 {
        fresh.cache().count_failure(&all);
    }
    fresh.settled().await;
    assert!(!fresh.cache().failures("u1", &all).await.lifted);
    fresh.cache().lift("u1");
    fresh.settled().await;
    let counts = fresh.cache().failures("u1", &all).await;
    assert!(counts.lifted && !fresh.cache().failures("u2", &all).await.lifted);
    let failures: Vec<u32> = counts.of.iter().map(|count| count.failures).collect();
    assert_eq!(failures, [0, 0, 4, 4]);
    // It counts again from then on, and can be lifted again.
    for round in 1..=2 {
        fresh.cache().count_failure(&all[..1]);
        assert_eq!(count(fresh, "u1", &all[0]).await.failures, 1, "round {round}");
        fresh.cache().lift("u1");
        assert_eq!(count(fresh, "u1", &all[0]).await, Count::default(), "round {round}");
    }
}

pub(super) async fn a_throttle_ends_with_the_time_that_began_at_the_first_failure(
    fresh: &impl Fresh,
) {
    let within = Duration::from_millis(1_500);
    let throttle = Throttle::new("name:u1".to_owned(), 3, within);
    for _ in 0..4 {
        fresh.cache().count_failure(std::slice::from_ref(&throttle));
    }
    assert!(is_throttled(fresh, &throttle).await);
    // One that fails again and again waits no longer than others.
    let start = Instant::now();
    while is_throttled(fresh, &throttle).await {
        assert!(start.elapsed() < PATIENCE, "the time ends");
        fresh.cache().count_failure(std::slice::from_ref(&throttle));
        sleep(Duration::from_millis(20)).await;
    }
}

pub(super) async fn a_profile_comes_back_as_it_was(fresh: &impl Fresh) {
    let profiles = [profile(1, 5, "one"), profile(2, 0, ""), profile(u32::MAX, 7, "\u{1f600}")];
    fresh.cache().keep_profiles(&profiles);
    fresh.settled().await;
    for profile in profiles {
        let user = UserId(profile.info.user_id);
        assert_eq!(fresh.cache().profiles(&[user]).await, [profile]);
    }
}

pub(super) async fn what_was_not_kept_is_not_found(fresh: &impl Fresh) {
    assert!(fresh.cache().profiles(&[]).await.is_empty());
    fresh.cache().keep_profiles(&[profile(1, 5, "one")]);
    fresh.settled().await;
    assert!(fresh.cache().profiles(&[UserId(2), UserId(11)]).await.is_empty());
    assert!(fresh.cache().messages(LOG, &[]).await.is_empty());
    assert!(fresh.cache().messages(LOG, &[place(&message(1, 2, 1, b""))]).await.is_empty());
}

pub(super) async fn an_older_profile_never_replaces_a_newer_one(fresh: &impl Fresh) {
    fresh.cache().keep_profiles(&[profile(1, 5, "new"), profile(1, 4, "old")]);
    fresh.settled().await;
    fresh.cache().keep_profiles(&[profile(1, 3, "older")]);
    fresh.settled().await;
    assert_eq!(fresh.cache().profiles(&[UserId(1)]).await, [profile(1, 5, "new")]);
}

pub(super) async fn a_newer_profile_replaces_an_older_one(fresh: &impl Fresh) {
    for newer in [profile(1, 4, "old"), profile(1, 5, "new"), profile(1, 5, "as new")] {
        fresh.cache().keep_profiles(std::slice::from_ref(&newer));
        fresh.settled().await;
        assert_eq!(fresh.cache().profiles(&[UserId(1)]).await, [newer]);
    }
}

pub(super) async fn profiles_of_the_greatest_stamps_are_compared_as_numbers(fresh: &impl Fresh) {
    let stamps = [9, 10, 255, 256, 65_535, 65_536, 1 << 24, i32::MAX as u32, 1 << 31, u32::MAX];
    for stamps in stamps.windows(2) {
        fresh.cache().keep_profiles(&[profile(1, stamps[1], "new")]);
        fresh.cache().keep_profiles(&[profile(1, stamps[0], "old")]);
        fresh.settled().await;
        assert_eq!(fresh.cache().profiles(&[UserId(1)]).await, [profile(1, stamps[1], "new")]);
    }
}

pub(super) async fn a_message_comes_back_as_it_was(fresh: &impl Fresh) {
    let group = ConversationId::group(GroupId(5)).unwrap();
    let in_group = MessageRow { conversation: group, ..message(1, 2, 3, b"in a group") };
    let messages = [message(1, 2, 3, b"one"), message(1, 2, 4, b""), in_group];
    fresh.cache().keep_messages(LOG, &messages);
    fresh.settled().await;
    for message in messages {
        assert_eq!(fresh.cache().messages(LOG, &[place(&message)]).await, [message]);
    }
}

pub(super) async fn every_body_and_number_comes_back_as_it_was(fresh: &impl Fresh) {
    let rows = (any::<[u32; 4]>(), any::<[u64; 2]>(), any::<[u8; 16]>(), vec(any::<u8>(), 0..300));
    let mut runner = TestRunner::deterministic();
    for low in 1..100 {
        let (numbers, offsets, client_msg_id, body) = rows.new_tree(&mut runner).unwrap().current();
        let mut row = message(low, low + 1, numbers[0], &body);
        row.sender = UserId(numbers[1]);
        row.kind = numbers[2];
        row.client_msg_id = ClientMsgId(client_msg_id);
        (row.offset, row.timestamp_ms) = (Offset(offsets[0]), offsets[1]);
        fresh.cache().keep_messages(LOG, std::slice::from_ref(&row));
        fresh.settled().await;
        assert_eq!(fresh.cache().messages(LOG, &[place(&row)]).await, [row]);
    }
}

pub(super) async fn messages_of_other_places_and_logs_are_not_found(fresh: &impl Fresh) {
    fresh.cache().keep_messages(LOG, &[message(1, 2, 11, b"one")]);
    fresh.settled().await;
    for other in [message(1, 2, 1, b""), message(1, 2, 12, b""), message(1, 3, 11, b"")] {
        assert!(fresh.cache().messages(LOG, &[place(&other)]).await.is_empty(), "{other:?}");
    }
    let same_place = place(&message(1, 2, 11, b""));
    assert!(fresh.cache().messages(LogId([8; 16]), &[same_place]).await.is_empty());
}

pub(super) async fn a_long_message_is_not_kept(fresh: &impl Fresh) {
    let fits = message(1, 2, 1, &vec![7; BODY_LEN_MAX]);
    let too_long = message(1, 2, 2, &vec![7; BODY_LEN_MAX + 1]);
    fresh.cache().keep_messages(LOG, &[fits.clone(), too_long.clone()]);
    fresh.settled().await;
    let kept = fresh.cache().messages(LOG, &[place(&fits), place(&too_long)]).await;
    assert_eq!(kept, [fits]);
}

pub(super) async fn many_are_asked_for_at_once(fresh: &impl Fresh) {
    let messages: Vec<_> = (1..=600).map(|msg_id| message(1, 2, msg_id, b"text")).collect();
    fresh.cache().keep_messages(LOG, &messages);
    fresh.settled().await;
    let places: Vec<_> = (0..=700).map(|msg_id| place(&message(1, 2, msg_id, b""))).collect();
    let mut kept = fresh.cache().messages(LOG, &places).await;
    kept.sort_by_key(|message| message.msg_id);
    assert_eq!(kept, messages);
}
