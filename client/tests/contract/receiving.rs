//! What a program may rely on when it receives.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::fake::{Gateway, PEER, next, numbers, within};
use client::{Backoff, Conversation, Event, Options, Outcome, Push, StartFrom, Watcher};
use proto::client::{
    LatestMessageIdReply, MessageListReply, PeerSignal, RefuseReason, Refused, TimeReply,
};
use proto::ids::MsgId;
use proto::{Command, Frame};

#[tokio::test]
async fn messages_come_once_and_in_order_whatever_the_pushes_do() {
    let gateway = Gateway::start().await;
    let (_client, mut events, mut served) = gateway.client(&[(PEER, 4)]).await;

    served.push_messages([5, 6, 6, 5, 8, 7, 7, 4, 9]).await;
    assert_eq!(numbers(&mut events, 5).await, [5, 6, 7, 8, 9]);
    served.push_messages([9, 10]).await;
    let message = crate::fake::message(&mut events).await;
    assert_eq!(message.msg_id.0, 10);
    assert_eq!(message.text().as_deref(), Ok("text 10"));
    assert_eq!(message.conversation, PEER);
}

/// Takes down what it sees.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<String>>);

impl Notes {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

impl Watcher for Notes {
    fn logged_in(&self) {
        self.note("logged in".to_owned());
    }

    fn heard(&self, frame: &Frame) {
        if let Push::Message(data) = Push::from_frame(frame.clone()) {
            self.note(format!("heard {}", data.msg_id));
        }
    }

    fn lost(&self) {
        self.note("lost".to_owned());
    }
}

#[tokio::test]
async fn a_watcher_sees_what_comes_as_it_comes_and_on_which_connection() {
    let gateway = Gateway::start().await;
    let notes = Arc::new(Notes::default());
    let watcher: Option<Arc<dyn Watcher>> = Some(Arc::<Notes>::clone(&notes));
    let options = Options { watcher, ..gateway.options() };
    let (_client, mut events, mut served) = gateway.client_with(options, &[(PEER, 4)]).await;
    served.push_messages([5, 7, 7, 6]).await;
    assert_eq!(numbers(&mut events, 3).await, [5, 6, 7], "the client puts them in order");
    drop(served);
    assert!(matches!(next(&mut events).await, Event::Disconnected { .. }));
    let mut served = gateway.accept().await;
    served.list(&[(PEER, 7)]).await;
    assert!(matches!(next(&mut events).await, Event::Connected { .. }));
    served.push_messages([8]).await;
    assert_eq!(numbers(&mut events, 1).await, [8]);
    let seen = notes.0.lock().unwrap().join(", ");
    assert_eq!(seen, "logged in, heard 5, heard 7, heard 7, heard 6, lost, logged in, heard 8");
}

#[tokio::test]
async fn a_gap_is_filled_from_the_history() {
    let gateway = Gateway::start().await;
    let (_client, mut events, mut served) = gateway.client(&[(PEER, 1)]).await;

    served.push_messages([2, 6]).await;
    let request = served.answer_history(&[1, 2, 3, 4, 5, 6]).await;
    assert_eq!((request.msg_id_begin, request.msg_count), (5, 3));
    assert_eq!(numbers(&mut events, 5).await, [2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn numbers_that_the_history_does_not_have_are_told() {
    let gateway = Gateway::start().await;
    let (_client, mut events, mut served) = gateway.client(&[(PEER, 1)]).await;

    served.push_messages([5]).await;
    served.answer_history(&[1, 4, 5]).await;
    served.answer_history(&[1, 4, 5]).await;
    let skipped = Event::Skipped { conversation: PEER, first: MsgId(2), last: MsgId(3) };
    assert_eq!(next(&mut events).await, skipped);
    assert_eq!(numbers(&mut events, 2).await, [4, 5]);
}

#[tokio::test]
async fn history_that_is_refused_for_now_is_asked_for_again() {
    let gateway = Gateway::start().await;
    let (_client, mut events, mut served) = gateway.client(&[(PEER, 1)]).await;

    served.push_messages([3]).await;
    let frame = served.next_of(Command::MessageListRequest).await;
    let refused = Refused { command: frame.command.into(), reason: 0 };
    served.answer(&frame, Command::Refused, &refused).await;
    served.answer_history(&[1, 2, 3]).await;
    assert_eq!(numbers(&mut events, 2).await, [2, 3]);

    served.push_messages([5]).await;
    let frame = served.next_of(Command::MessageListRequest).await;
    let reason = i32::from(RefuseReason::NotMember).unsigned_abs();
    let refused = Refused { command: frame.command.into(), reason };
    served.answer(&frame, Command::Refused, &refused).await;
    assert!(matches!(next(&mut events).await, Event::Skipped { first: MsgId(4), .. }));
    assert_eq!(numbers(&mut events, 1).await, [5]);
}

#[tokio::test]
async fn history_that_is_refused_for_now_is_not_asked_for_again_at_once() {
    let gateway = Gateway::start().await;
    let mut options = gateway.options();
    let pause = Duration::from_millis(300);
    options.limits.retry = Backoff::new(pause, pause);
    let (_client, _events, mut served) = gateway.client_with(options, &[(PEER, 1)]).await;
    served.push_messages([3]).await;
    let frame = served.next_of(Command::MessageListRequest).await;
    let (refused_at, refused) = (Instant::now(), Refused { command: 0x0309, reason: 0 });
    served.answer(&frame, Command::Refused, &refused).await;
    served.answer_history(&[1, 2, 3]).await;
    // A pause is half as long at least.
    let after = refused_at.elapsed();
    assert!(after >= pause / 2, "{after:?}");
}

#[tokio::test]
async fn what_was_missed_while_offline_is_fetched_after_the_reconnect() {
    let gateway = Gateway::start().await;
    let (_client, mut events, mut served) = gateway.client(&[(PEER, 1)]).await;
    served.push_messages([2]).await;
    assert_eq!(numbers(&mut events, 1).await, [2]);
    drop(served);
    assert!(matches!(next(&mut events).await, Event::Disconnected { .. }));

    let history: Vec<u32> = (1..=251).collect();
    let mut served = gateway.accept().await;
    served.push_messages([251]).await; // Faster than the list.
    served.list(&[(PEER, 250)]).await;
    for begin in [102, 202, 250] {
        assert_eq!(served.answer_history(&history).await.msg_id_begin, begin);
    }
    assert!(matches!(next(&mut events).await, Event::Connected { .. }));
    assert_eq!(numbers(&mut events, 249).await, (3..=251).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_program_that_knows_where_it_stopped_goes_on_there() {
    let gateway = Gateway::start().await;
    let marks = HashMap::from([(PEER, MsgId(7))]);
    let options = Options { marks, ..gateway.options() };
    let (_client, mut events, mut served) = gateway.client_with(options, &[(PEER, 9)]).await;
    assert_eq!(served.answer_history(&[7, 8, 9]).await.msg_id_begin, 9);
    assert_eq!(numbers(&mut events, 2).await, [8, 9]);

    let gateway = Gateway::start().await;
    let options = Options { start_from: StartFrom::Beginning, ..gateway.options() };
    let (_client, mut events, mut served) = gateway.client_with(options, &[(PEER, 3)]).await;
    served.answer_history(&[1, 2, 3]).await;
    assert_eq!(numbers(&mut events, 3).await, [1, 2, 3]);
}

#[tokio::test]
async fn no_more_than_four_questions_about_history_are_under_way() {
    let many: Vec<_> = (100..106).map(|user| (Conversation::user(user), 1)).collect();
    let gateway = Gateway::start().await;
    let options = Options { start_from: StartFrom::Beginning, ..gateway.options() };
    let (client, _events, mut served) = gateway.client_with(options, &many).await;

    let mut asked = Vec::new();
    for _question in 0..4 {
        asked.push(served.next_of(Command::MessageListRequest).await);
    }
    // A fifth would be ahead of this.
    let (time, ()) = tokio::join!(client.server_time(), async {
        let frame = served.next_of(Command::TimeRequest).await;
        served.answer(&frame, Command::TimeReply, &TimeReply { server_time: 42 }).await;
    });
    assert_eq!(time.unwrap(), 42);
    let nothing = MessageListReply::default();
    served.answer(&asked[0], Command::MessageListReply, &nothing).await;
    served.next_of(Command::MessageListRequest).await;
}

#[tokio::test]
async fn own_messages_take_their_place_among_those_of_others() {
    let gateway = Gateway::start().await;
    let (client, mut events, mut served) = gateway.client(&[]).await;

    let sending = client.send_text(PEER, "mine");
    let message = served.message().await;
    // The answer overtakes the push of what was said before.
    served.accept(&message, 2).await;
    assert!(matches!(within(sending).await, Outcome::Ok { .. }));
    served.push_messages([1, 3]).await;
    let mut from = Vec::new();
    for _ in 0..3 {
        let message = crate::fake::message(&mut events).await;
        from.push((message.msg_id.0, message.from.0));
    }
    assert_eq!(from, [(1, 2), (2, 1), (3, 2)]);
}

#[tokio::test]
async fn a_program_that_takes_no_events_can_still_send_and_loses_nothing() {
    let gateway = Gateway::start().await;
    let mut options = gateway.options();
    options.limits.events_max = 1;
    let (client, mut events, mut served) = gateway.client_with(options, &[]).await;

    served.push_messages(1..=2000).await;
    let sending = client.send_text(PEER, "still here");
    let message = served.message().await;
    served.accept(&message, 2001).await;
    assert!(matches!(within(sending).await, Outcome::Ok { .. }));

    let history: Vec<u32> = (1..=2001).collect();
    let expected = history.clone();
    let take = async { numbers(&mut events, 2001).await };
    let serve = async {
        loop {
            served.answer_history(&history).await;
        }
    };
    tokio::select! {
        taken = take => assert_eq!(taken, expected),
        () = serve => {}
    }
}

#[tokio::test]
async fn with_too_many_events_not_taken_nothing_is_read_and_nothing_is_lost() {
    let gateway = Gateway::start().await;
    let mut options = gateway.options();
    options.limits.events_max = 1;
    let (client, mut events, mut served) = gateway.client_with(options, &[]).await;

    let signal =
        |number: u32| PeerSignal { from_user_id: 2, to_user_id: 1, data: number.to_string() };
    let mut time = pin!(client.server_time());
    let serve = async {
        let frame = served.next_of(Command::TimeRequest).await;
        for number in 0..2000 {
            served.push(Command::PeerSignal, &signal(number)).await;
        }
        served.answer(&frame, Command::TimeReply, &TimeReply { server_time: 42 }).await;
        // Time enough for a client that would read it.
        for _turn in 0..10_000 {
            tokio::task::yield_now().await;
        }
        // What it says still goes out.
        drop(client.send_text(PEER, "hello"));
        served.next_of(Command::MessageData).await;
    };
    tokio::select! {
        early = &mut time => panic!("{early:?} was read behind 2,000 events"),
        () = serve => {}
    }
    for number in 0..2000 {
        assert_eq!(next(&mut events).await, Event::Push(Push::P2p(signal(number))));
    }
    assert_eq!(within(time).await.unwrap(), 42);
}

#[tokio::test]
async fn everything_else_is_passed_on_as_it_is() {
    let gateway = Gateway::start().await;
    let (_client, mut events, mut served) = gateway.client(&[]).await;
    let signal = PeerSignal { from_user_id: 2, to_user_id: 1, data: "{}".into() };
    served.push(Command::PeerSignal, &signal).await;
    assert_eq!(next(&mut events).await, Event::Push(Push::P2p(signal)));
}

#[tokio::test]
async fn a_program_that_dropped_its_events_can_still_send() {
    let gateway = Gateway::start().await;
    let (client, events, mut served) = gateway.client(&[]).await;
    drop(events);
    let signal = PeerSignal { from_user_id: 2, to_user_id: 1, data: "{}".into() };
    for _ in 0..3000 {
        served.push(Command::PeerSignal, &signal).await;
    }
    served.push_messages(1..=3000).await;
    let sending = client.send_text(PEER, "still here");
    let message = served.message().await;
    served.accept(&message, 3001).await;
    assert!(matches!(within(sending).await, Outcome::Ok { .. }));
}

#[tokio::test]
async fn a_list_that_is_cut_off_is_completed_by_asking() {
    let many: Vec<_> = (1000..1100).map(|user| (Conversation::user(user), 5)).collect();
    let gateway = Gateway::start().await;
    let marks = HashMap::from([(PEER, MsgId(7))]);
    let options = Options { marks, ..gateway.options() };
    let (_client, mut events, mut served) = gateway.client_with(options, &many).await;

    let frame = served.next_of(Command::LatestMessageIdRequest).await;
    let reply = LatestMessageIdReply {
        user_id: 1,
        session_type: 1,
        session_id: PEER.number(),
        latest_msg_id: 9,
        attach_data: None,
    };
    served.answer(&frame, Command::LatestMessageIdReply, &reply).await;
    served.answer_history(&[7, 8, 9]).await;
    assert_eq!(numbers(&mut events, 2).await, [8, 9]);
}
