//! Endpoints that fail.

use proto::cluster::wire::{WebhookFailureLine, WebhookGaveUp, WebhookGone};

use super::super::schedule::{GIVEN_UP_AFTER, WAITS};
use super::*;

#[tokio::test]
async fn an_event_that_failed_is_sent_again_with_its_id_and_holds_up_its_conversation_alone() {
    let (mut bench, mut receiver) = (Bench::new().await, Receiver::start().await);
    bench.serve(&line(&receiver.url)).await;
    receiver.replies("msg_1-2_1", &[Reply::Status(500, "")]);
    let now_ms = unix_ms();
    bench.db.send(vec![message(2, 1, now_ms), message(2, 2, now_ms), message(3, 1, now_ms)]);
    bench.db.send(vec![message(3, 2, now_ms)]);
    let (mut first, mut others) = (None, Vec::new());
    for _request in 0..3 {
        let got = receiver.next().await;
        if got.id() == "msg_1-2_1" { first = Some(got) } else { others.push(got.id().to_owned()) }
    }
    assert_eq!(others, ["msg_1-3_1", "msg_1-3_2"], "another conversation goes on");
    let (first, again) = (first.unwrap(), receiver.next().await);
    assert_eq!((again.id(), &again.body), (first.id(), &first.body));
    assert!(again.at - first.at >= WAITS[0]);
    assert_ne!(again.headers["webhook-timestamp"], first.headers["webhook-timestamp"]);
    assert_eq!(receiver.next().await.id(), "msg_1-2_2");
    bench.handled(3).await;
    bench.handled(4).await;
    assert_eq!((bench.metrics.failed.get(), bench.metrics.delivered.get()), (1, 4));
    bench.stop().await;
}

#[tokio::test]
async fn every_way_to_fail_is_a_failure_and_a_huge_answer_of_a_success_is_none() {
    let (mut bench, mut receiver) = (Bench::new().await, Receiver::start().await);
    bench.answer_limit = Duration::from_millis(500);
    bench.serve(&line(&receiver.url)).await;
    let redirect: &'static str =
        Box::leak(format!("location: {}\r\n", receiver.url).into_boxed_str());
    let ways = [
        Reply::Status(500, ""),
        Reply::Status(301, redirect),
        Reply::Status(404, ""),
        Reply::Status(429, "retry-after: 1\r\n"),
        Reply::Hang,
        Reply::Drip,
        Reply::Reset,
    ];
    let now_ms = unix_ms();
    for (other, reply) in (2..).zip(&ways) {
        receiver.replies(&format!("msg_1-{other}_1"), std::slice::from_ref(reply));
        bench.db.send(vec![message(other, 1, now_ms)]);
    }
    let mut seen = Vec::new();
    for _request in 0..2 * ways.len() {
        seen.push(receiver.next().await.id().to_owned());
    }
    seen.sort();
    let expected = (2..2 + ways.len()).flat_map(|other| {
        let id = format!("msg_1-{other}_1");
        [id.clone(), id]
    });
    assert_eq!(seen, expected.collect::<Vec<_>>(), "each is sent twice");
    for offset in 1..=ways.len() {
        bench.handled(offset as u64).await;
    }
    assert_eq!(bench.metrics.failed.get(), ways.len() as u64);
    receiver.replies("msg_1-2_2", &[Reply::Huge(1 << 20)]);
    bench.db.send(vec![message(2, 2, now_ms)]);
    bench.handled(ways.len() as u64 + 1).await;
    assert_eq!(bench.metrics.failed.get(), ways.len() as u64, "it has taken the event");
    bench.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_told_once_and_sent_nothing_more() {
    let (mut bench, mut receiver) = (Bench::new().await, Receiver::start().await);
    bench.serve(&line(&receiver.url)).await;
    for other in [2, 3] {
        receiver.replies(&format!("msg_1-{other}_1"), &[Reply::Status(410, "")]);
    }
    bench.db.send(vec![message(2, 1, 1), message(3, 1, 1)]);
    let gone = WebhookGone { webhook: 7, version: 3 };
    assert_eq!(bench.told().await, Told::Admin(What::WebhookGone(gone)));
    bench.db.send(vec![message(4, 1, 1)]);
    bench.shutdown.begin();
    bench.shutdown.drain(PATIENCE).await.unwrap();
    assert_eq!(bench.told.try_recv().ok(), None, "nothing is handled");
    let mut ids = Vec::new();
    while let Some(got) = receiver.try_next() {
        ids.push(got.id().to_owned());
    }
    assert!(!ids.is_empty() && !ids.contains(&"msg_1-4_1".to_owned()), "{ids:?}");
}

#[tokio::test]
async fn an_event_that_is_given_up_is_listed_before_anything_behind_it_goes_on() {
    let (mut bench, mut receiver) = (Bench::new().await, Receiver::start().await);
    bench.serve(&line(&receiver.url)).await;
    receiver.replies("msg_1-2_1", &[Reply::Status(503, "")]);
    *bench.db.not_now.lock() = 1;
    let old_ms = ago(GIVEN_UP_AFTER);
    bench.db.send(vec![message(2, 1, old_ms), message(2, 2, old_ms)]);
    assert_eq!(receiver.next().await.id(), "msg_1-2_1");
    for told in ["refused for now", "noted"] {
        let Told::Admin(What::WebhookGaveUp(WebhookGaveUp { webhook, failure })) =
            bench.told().await
        else {
            panic!("{told}")
        };
        let given_up_ms = failure.given_up_ms;
        assert!(given_up_ms > old_ms);
        let expected = WebhookFailureLine {
            number: 0,
            event_id: "msg_1-2_1".to_owned(),
            event_type: "message.created".to_owned(),
            happened_ms: old_ms,
            given_up_ms,
            status: 503,
            tries: 1,
        };
        assert_eq!((webhook, failure), (7, expected));
        if told == "refused for now" {
            assert!(receiver.try_next().is_none(), "what is behind it waits");
        }
    }
    assert_eq!(receiver.next().await.id(), "msg_1-2_2");
    bench.handled(2).await;
    assert_eq!(bench.metrics.given_up.get(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn what_is_old_when_a_webhook_begins_is_tried_for_as_long_as_what_is_new() {
    let (mut bench, mut receiver) = (Bench::new().await, Receiver::start().await);
    let replayed = WebhookLine { begun_ms: unix_ms(), ..line(&receiver.url) };
    bench.serve(&replayed).await;
    receiver.replies("msg_1-2_1", &[Reply::Status(500, "")]);
    bench.db.send(vec![message(2, 1, ago(GIVEN_UP_AFTER))]);
    for _try in 0..2 {
        assert_eq!(receiver.next().await.id(), "msg_1-2_1");
    }
    bench.handled(1).await;
    assert_eq!(bench.metrics.given_up.get(), 0);
    bench.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_asks_to_be_left_alone_is() {
    let (mut bench, mut receiver) = (Bench::new().await, Receiver::start().await);
    bench.serve(&line(&receiver.url)).await;
    receiver.replies("msg_1-2_1", &[Reply::Status(503, "retry-after: 2\r\n")]);
    let now_ms = unix_ms();
    bench.db.send(vec![message(2, 1, now_ms)]);
    let first = receiver.next().await;
    while bench.metrics.failed.get() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.db.send(vec![message(3, 1, now_ms)]);
    let other = receiver.next().await;
    assert_eq!(other.id(), "msg_1-3_1");
    assert!(other.at - first.at >= Duration::from_secs(2), "{:?}", other.at - first.at);
    bench.stop().await;
}

#[tokio::test]
async fn an_address_that_is_not_of_the_internet_is_not_connected_to() {
    let (mut bench, mut receiver) = (Bench::new().await, Receiver::start().await);
    bench.allow_private = false;
    bench.serve(&line(&receiver.url)).await;
    bench.db.send(vec![message(2, 1, ago(GIVEN_UP_AFTER))]);
    let Told::Admin(What::WebhookGaveUp(WebhookGaveUp { failure, .. })) = bench.told().await else {
        panic!("it is given up")
    };
    assert_eq!(failure.status, 0);
    bench.handled(1).await;
    assert!(receiver.try_next().is_none());
    bench.stop().await;
}
