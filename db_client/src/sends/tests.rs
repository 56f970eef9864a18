//! Messages over real links to db_proxies that do what the test says.

use daemon::Shutdown;

use super::*;
use crate::test::{Far, PATIENCE};

mod hooks;

const CONVERSATION: u64 = 1 << 32 | 2;
const SESSION: u64 = 70;

/// A db_proxy, and the link to it.
struct Proxy {
    link: Link,
    far: Far,
}

impl Proxy {
    async fn start(name: &str, shutdown: &Shutdown) -> Self {
        let (far, addr) = Far::listen(name, shutdown).await;
        Self { link: Far::dial(addr, shutdown).link().await, far }
    }

    /// The next message that is handed over, by its name.
    async fn next(&mut self) -> (u8, Submit) {
        let submit: Submit = self.far.frame().await.parse().unwrap();
        (submit.client_msg_id[0], submit)
    }

    fn owns(&self, epoch: u64) -> Move<Link> {
        let owner = Some(Owner { link: self.link.clone(), epoch });
        Move { partition: 0, owner, is_takeover: true }
    }
}

/// What a db_proxy answers in an epoch.
fn answer(id: u8, outcome: Outcome, msg_id: Option<u32>, epoch: u64) -> SubmitAnswer {
    SubmitAnswer {
        sender: 1,
        client_msg_id: vec![id; 16].into(),
        outcome: outcome.into(),
        msg_id,
        epoch: Some(epoch),
        ..SubmitAnswer::default()
    }
}

fn sends() -> Sends<u8> {
    let sends = Sends::new(8);
    sends.set_partitions(1);
    sends
}

/// A db_proxy that owns the only partition, in epoch 5.
async fn owned(shutdown: &Shutdown) -> (Sends<u8>, Proxy) {
    let one = Proxy::start("one", shutdown).await;
    let sends = sends();
    sends.moved(&[one.owns(5)]);
    (sends, one)
}

fn key(id: u8) -> Key {
    Key { sender: UserId(1), id: ClientMsgId([id; 16]) }
}

fn outgoing(id: u8, is_named: bool) -> Outgoing<u8> {
    let submit = Submit {
        sender: 1,
        conversation: CONVERSATION,
        client_msg_id: vec![id; 16].into(),
        body: vec![id; 10].into(),
        ..Submit::default()
    };
    Outgoing { submit, key: key(id), session: SESSION, is_named, waiter: id }
}

/// The waiter of an ended message, and what it is told.
fn told(ended: &Ended<u8>) -> (u8, End) {
    (ended.waiter, ended.end.clone())
}

/// The waiters of the messages that an answer ends, and what each is told.
fn answered(sends: &Sends<u8>, link: &Link, answer: &SubmitAnswer) -> Vec<(u8, End)> {
    let mut all = Vec::new();
    sends.answered(link, answer, |ended| all.push(told(&ended)));
    all
}

/// The waiters of the messages that a tick ends, what each is told, and how many messages are handed
/// over again.
fn tick(sends: &Sends<u8>, now: Instant) -> (Vec<(u8, End)>, usize) {
    let mut all = Vec::new();
    let again = sends.tick(now, |ended| all.push(told(&ended)));
    (all, again)
}

#[tokio::test]
async fn what_is_unanswered_goes_to_the_next_owner_in_order_and_marked_as_sent_again() {
    let shutdown = Shutdown::default();
    let (mut one, mut other) =
        (Proxy::start("one", &shutdown).await, Proxy::start("other", &shutdown).await);
    let sends = sends();
    assert!(matches!(sends.submit(outgoing(1, true)), Taken::UnderWay), "there is no owner yet");
    assert_eq!(sends.moved(&[one.owns(5)]), 1);
    assert!(matches!(sends.submit(outgoing(2, true)), Taken::UnderWay));
    assert_eq!(sends.size(), (2, 20));
    for id in [1, 2] {
        let (next, submit) = one.next().await;
        assert_eq!((next, submit.epoch, submit.resend()), (id, Some(5), id == 1));
        assert_eq!(submit.first(), id == 1, "what is unanswered before it goes before it");
    }
    let gone = Move { owner: None, ..one.owns(5) };
    assert_eq!(sends.moved(&[gone]), 0);
    assert_eq!(sends.moved(&[other.owns(6)]), 2);
    for id in [1, 2] {
        let (next, submit) = other.next().await;
        assert_eq!((next, submit.epoch, submit.resend()), (id, Some(6), true));
    }
    assert!(sends.is_unanswered(&key(1)) && !sends.is_unanswered(&key(3)));

    // From the owner before it only "stored" is true.
    for outcome in [Outcome::Refused, Outcome::Retry, Outcome::Moved] {
        let late = answer(1, outcome, None, 5);
        assert_eq!(answered(&sends, &one.link, &late), []);
    }
    let stored = answer(1, Outcome::Ok, Some(9), 5);
    let end = End::Stored { msg_id: 9, create_time: None };
    assert_eq!(answered(&sends, &one.link, &stored), [(1, end)]);
    assert_eq!(answered(&sends, &one.link, &stored), [], "once");
    let refused = answer(2, Outcome::Refused, None, 6);
    let of_before = SubmitAnswer { epoch: Some(5), ..refused.clone() };
    assert_eq!(answered(&sends, &other.link, &of_before), [], "of an ownership that is over");
    assert_eq!(answered(&sends, &other.link, &refused), [(2, End::Refused(None))]);
    assert_eq!(sends.size(), (0, 0));
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn what_comes_behind_a_message_that_is_to_be_tried_again_is_given_back_until_it_comes_again()
{
    let shutdown = Shutdown::default();
    let (sends, mut one) = owned(&shutdown).await;
    for id in [1, 2, 3] {
        assert!(matches!(sends.submit(outgoing(id, true)), Taken::UnderWay));
        one.next().await;
    }
    let retry = answer(2, Outcome::Retry, None, 5);
    assert_eq!(answered(&sends, &one.link, &retry), [(2, End::Retry), (3, End::Retry)]);
    let Taken::Ended(ended) = sends.submit(outgoing(4, true)) else {
        panic!("its turn has not come")
    };
    assert_eq!(told(&ended), (4, End::Retry));
    let elsewhere = Outgoing { session: SESSION + 1, ..outgoing(5, true) };
    assert!(
        matches!(sends.submit(elsewhere), Taken::UnderWay),
        "another session knows nothing of it"
    );
    assert!(matches!(sends.submit(outgoing(2, true)), Taken::UnderWay));
    assert!(matches!(sends.submit(outgoing(4, true)), Taken::UnderWay));
    assert_eq!([one.next().await.0, one.next().await.0, one.next().await.0], [5, 2, 4]);
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_message_without_a_name_is_tried_again_here_and_given_up_after_its_time() {
    let shutdown = Shutdown::default();
    let (sends, mut one) = owned(&shutdown).await;
    sends.submit(outgoing(1, false));
    one.next().await;
    let retry = answer(1, Outcome::Retry, None, 5);
    assert_eq!(answered(&sends, &one.link, &retry), []);
    let now = Instant::now();
    assert_eq!(tick(&sends, now), (vec![], 0), "not yet");
    assert_eq!(tick(&sends, now + Duration::from_secs(1)), (vec![], 1));
    assert_eq!(one.next().await.0, 1);
    let late = now + SEND_LIMIT + Duration::from_secs(1);
    assert_eq!(tick(&sends, late), (vec![(1, End::Retry)], 0));
    assert_eq!(sends.size(), (0, 0));
    assert_eq!(sends.published(&key(1), 7).1, Told::Nobody, "if it is stored after all");
    shutdown.drain(PATIENCE).await.unwrap();
}

#[test]
fn a_repeat_takes_over_the_wait_and_another_message_under_the_same_name_is_refused() {
    let sends = sends();
    sends.submit(outgoing(1, true));
    let again = Outgoing { waiter: 9, ..outgoing(1, true) };
    assert!(matches!(sends.submit(again), Taken::Repeated(1)));
    let mut other = outgoing(1, true);
    other.submit.body = vec![0; 3].into();
    let Taken::Ended(ended) = sends.submit(other) else { panic!("it is refused") };
    assert_eq!(told(&ended), (1, End::Refused(Some(Reason::IdReused as u32))));
    let (ended, to) = sends.published(&key(1), 4);
    let end = End::Stored { msg_id: 4, create_time: None };
    assert_eq!((told(&ended.unwrap()), to), ((9, end), Told::Session(SESSION)));
    let (ended, to) = sends.published(&key(1), 4);
    assert!(ended.is_none() && to == Told::Session(SESSION), "it is known who was told");
    assert_eq!(sends.published(&key(2), 4).1, Told::Unknown);
}

#[test]
fn a_frame_that_repeats_an_unanswered_one_of_its_session_is_answered_with_it() {
    let sends = sends();
    let framed = |id: u8, session: u64, fingerprint: u64| {
        let mut outgoing = Outgoing { session, ..outgoing(id, false) };
        outgoing.submit.fingerprint = Some(fingerprint);
        outgoing
    };
    assert!(matches!(sends.submit(framed(1, SESSION, 5)), Taken::UnderWay));
    assert!(matches!(sends.submit(framed(2, SESSION, 5)), Taken::FrameRepeated(2)));
    assert!(matches!(sends.submit(framed(3, SESSION + 1, 5)), Taken::UnderWay), "another session");
    assert!(matches!(sends.submit(framed(4, SESSION, 6)), Taken::UnderWay), "another frame");
    assert_eq!(sends.size().0, 3);
}

#[test]
fn of_too_many_queues_that_were_given_back_the_oldest_is_forgotten() {
    let sends = sends();
    let mut state = sends.state.lock();
    for session in 0..=u64::try_from(GIVEN_BACK_MAX.get()).unwrap() {
        let waiting = Waiting { session, is_named: true, waiter: 0 };
        state.table.put(key(1), Submit::default(), waiting, (Stage::Ready, Instant::now()));
        assert_eq!(state.give_back(&[key(1)]).len(), 1);
    }
    assert_eq!(state.given_back.len(), GIVEN_BACK_MAX.get());
    let next = ClientMsgId([2; 16]);
    assert!(state.is_in_turn(0, 0, next), "forgotten");
    assert!(!state.is_in_turn(1, 0, next));
}

#[test]
fn a_sender_that_never_begins_again_loses_its_order_after_so_many_messages() {
    let sends = sends();
    let mut state = sends.state.lock();
    let waiting = Waiting { session: SESSION, is_named: true, waiter: 0 };
    state.table.put(key(1), Submit::default(), waiting, (Stage::Ready, Instant::now()));
    state.give_back(&[key(1)]);
    for id in 2..=8 {
        assert!(!state.is_in_turn(SESSION, 0, ClientMsgId([id; 16])), "{id}");
    }
    assert!(state.is_in_turn(SESSION, 0, ClientMsgId([9; 16])), "eight are remembered");
    assert!(state.is_in_turn(SESSION, 0, ClientMsgId([10; 16])));
}

#[tokio::test]
async fn what_an_owner_hands_back_waits_for_the_next_and_what_cannot_be_read_is_no_answer() {
    let shutdown = Shutdown::default();
    let (sends, mut one) = owned(&shutdown).await;
    sends.submit(outgoing(1, true));
    one.next().await;
    let short =
        SubmitAnswer { client_msg_id: vec![1; 15].into(), ..answer(1, Outcome::Ok, Some(9), 5) };
    assert_eq!(answered(&sends, &one.link, &short), []);
    assert_eq!(answered(&sends, &one.link, &answer(1, Outcome::Moved, None, 5)), []);
    assert!(matches!(sends.submit(outgoing(2, true)), Taken::UnderWay), "it waits behind");
    assert_eq!(tick(&sends, Instant::now()), (vec![], 0), "nobody is told, and it waits");
    assert_eq!(sends.moved(&[one.owns(6)]), 2);
    for id in [1, 2] {
        let (next, submit) = one.next().await;
        assert_eq!((next, submit.epoch, submit.resend()), (id, Some(6), true));
    }
    // "Stored" without a number says nothing: it is to be sent again, and what came behind it.
    let unnumbered = SubmitAnswer { epoch: None, ..answer(1, Outcome::Ok, None, 6) };
    assert_eq!(answered(&sends, &one.link, &unnumbered), [(1, End::Retry), (2, End::Retry)]);
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn of_another_session_or_without_a_name_nothing_is_given_back() {
    let shutdown = Shutdown::default();
    let (sends, mut one) = owned(&shutdown).await;
    let elsewhere = Outgoing { session: SESSION + 1, ..outgoing(2, true) };
    for outgoing in [outgoing(1, true), elsewhere, outgoing(3, false), outgoing(4, true)] {
        sends.submit(outgoing);
        one.next().await;
    }
    let retry = answer(1, Outcome::Retry, None, 5);
    assert_eq!(answered(&sends, &one.link, &retry), [(1, End::Retry), (4, End::Retry)]);
    assert!(sends.is_unanswered(&key(2)) && sends.is_unanswered(&key(3)));
    assert_eq!(sends.size(), (2, 20));
    let stored = answer(2, Outcome::Ok, Some(8), 5);
    let stored = SubmitAnswer { create_time: Some(77), ..stored };
    let end = End::Stored { msg_id: 8, create_time: Some(77) };
    assert_eq!(answered(&sends, &one.link, &stored), [(2, end)]);
    assert_eq!(
        sends.published(&key(2), 8).1,
        Told::Session(SESSION + 1),
        "it is known who was told"
    );
    shutdown.drain(PATIENCE).await.unwrap();
}
