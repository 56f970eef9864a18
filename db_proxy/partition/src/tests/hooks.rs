//! Messages that are only looked for, and messages that a hook has changed.

use bytes::Bytes;
use fold::admission::{Change, Message};
use proto::cluster::wire::Reason;
use proto::log::{HookOutcome, HookVerdict};

use super::sending::Outcomes;
use crate::Outcome;
use crate::test::{Proxy, group, message, out_of_the_log, resent, single};

/// The same message, only looked for.
fn looked_for(send: &Message) -> Message {
    Message { known_only: true, ..resent(send) }
}

/// As it is sent, and as it is once a hook has changed it.
fn changed(send: &Message, body: &'static [u8]) -> Message {
    let hook = "words".to_owned();
    let hooks = vec![HookVerdict { hook, outcome: HookOutcome::Changed.into() }];
    Message { body: Bytes::from_static(body), hooks, ..send.clone() }
}

async fn is_known(proxy: &Proxy, send: &Message) -> Option<u32> {
    match proxy.change(Change::Send(looked_for(send))).await {
        Outcome::Sent { msg_id, .. } => Some(msg_id.0),
        Outcome::Refused(Reason::NotKnown) => None,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_only_looked_for_has_no_number_until_it_is_sent() {
    let proxy = Proxy::start().await;
    let one = message(single(1, 2), 1);
    for _ in 0..2 {
        assert_eq!(is_known(&proxy, &one).await, None);
    }
    assert_eq!(proxy.send(message(single(1, 2), 1)).await, 1);
    assert_eq!(proxy.send(one.clone()).await, 2);
    assert_eq!(is_known(&proxy, &one).await, Some(2));
    // Of a new owner too, whether the log or the store knows it.
    let proxy = proxy.stop().await.start().await;
    assert_eq!(is_known(&proxy, &one).await, Some(2));
    assert_eq!(proxy.send(message(single(1, 2), 1)).await, 3);
    proxy.stop().await;
}

/// Otherwise a hook would be asked about it, and could refuse what is stored.
#[tokio::test]
async fn what_is_looked_for_while_it_is_on_its_way_into_the_log_is_known() {
    let proxy = Proxy::start().await;
    proxy.send(message(single(1, 2), 1)).await;
    let (one, other) = (message(single(1, 2), 1), message(single(1, 2), 1));
    let outcomes = Outcomes::default();
    let inner = proxy.state().lock();
    outcomes.submit(&proxy, 0, Change::Send(one.clone()));
    outcomes.submit(&proxy, 1, Change::Send(looked_for(&one)));
    outcomes.submit(&proxy, 2, Change::Send(looked_for(&other)));
    drop(inner);
    outcomes.wait_for(3).await;
    assert_eq!(outcomes.sent(), [(0, 2), (1, 2)]);
    assert!(outcomes.all(|outcome| match outcome {
        Outcome::Refused(reason) => *reason == Reason::NotKnown,
        outcome => matches!(outcome, Outcome::Sent { .. }),
    }));
    proxy.stop().await;
}

#[tokio::test]
async fn a_changed_message_is_known_by_what_was_sent_in_the_window_and_after_a_restart() {
    let mut proxy = Proxy::start().await;
    proxy.make_group(1, &[1, 2]).await;
    let sent = message(group(1), 1);
    assert_eq!(proxy.send(changed(&sent, b"other words")).await, 1);
    let mut other = resent(&sent);
    other.identity.content_crc ^= 1;
    for _ in 0..2 {
        assert_eq!(is_known(&proxy, &sent).await, Some(1));
        assert_eq!(proxy.send(resent(&sent)).await, 1, "no hook was asked");
        assert_eq!(proxy.send(resent(&changed(&sent, b"yet others"))).await, 1);
        let refused = proxy.change(Change::Send(other.clone())).await;
        assert_eq!(refused, Outcome::Refused(Reason::IdReused));
        proxy = proxy.stop().await.start().await;
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_changed_message_that_only_the_store_has_is_known_by_what_was_sent() {
    let sent = message(single(1, 2), 1);
    let (setup, _filler) = out_of_the_log(&changed(&sent, b"other words")).await;
    let proxy = setup.start().await;
    assert_eq!(is_known(&proxy, &sent).await, Some(1));
    assert_eq!(proxy.send(resent(&sent)).await, 1);
    let mut other = looked_for(&sent);
    other.identity.content_crc ^= 1;
    let refused = proxy.change(Change::Send(other)).await;
    assert_eq!(refused, Outcome::Refused(Reason::IdReused));
    proxy.stop().await;
}
