//! Webhooks, and events that were given up.

use super::*;
use crate::webhooks::{WebhookFailureRow, WebhookRow};

fn webhook(name: &str) -> WebhookRow {
    WebhookRow {
        number: 0,
        name: name.to_owned(),
        url: "https://example.com/talkhub".to_owned(),
        events: 5,
        state: WebhookRow::ON,
        secret: format!("whsec_{name}"),
        old_secret: String::new(),
        old_until_s: 0,
        made_ms: 1_000,
        from_ms: 1_000,
        begun_ms: 1_000,
        run: 0,
        version: 1,
        failures: 0,
    }
}

fn failure(event: u64) -> WebhookFailureRow {
    WebhookFailureRow {
        number: 0,
        event_id: format!("msg_1-2_{event}"),
        event_type: "message.created".to_owned(),
        happened_ms: 1_000 + event,
        given_up_ms: 2_000 + event,
        status: 500,
        tries: 10,
    }
}

async fn added(store: &dyn Store, name: &str) -> u32 {
    store.add_webhook(webhook(name)).await.unwrap().unwrap()
}

async fn given_up(store: &dyn Store, webhook: u32, before: u64, count: u32) -> Vec<(u64, String)> {
    let failures = store.webhook_failures(webhook, before, count).await.unwrap();
    failures.into_iter().map(|failure| (failure.number, failure.event_id)).collect()
}

pub(crate) async fn a_webhook_comes_back_as_it_was_kept(store: &dyn Store) {
    assert_eq!(store.webhooks().await.unwrap(), []);
    let greatest = WebhookRow {
        url: "u".repeat(2_048),
        events: u32::MAX,
        secret: "s".repeat(128),
        old_secret: "o".repeat(128),
        old_until_s: u64::MAX >> 1,
        made_ms: u64::MAX >> 1,
        from_ms: u64::MAX >> 1,
        begun_ms: u64::MAX >> 1,
        run: u32::MAX,
        version: u64::MAX >> 1,
        failures: u64::MAX >> 1,
        ..webhook(&"n".repeat(64))
    };
    assert_eq!(store.add_webhook(greatest.clone()).await.unwrap(), Some(1));
    assert_eq!(added(store, "hr").await, 2);
    let expected =
        [WebhookRow { number: 1, ..greatest }, WebhookRow { number: 2, ..webhook("hr") }];
    assert_eq!(store.webhooks().await.unwrap(), expected);
}

pub(crate) async fn a_number_is_given_once_and_a_name_to_one_webhook(store: &dyn Store) {
    let first = added(store, "hr").await;
    let other = WebhookRow { secret: "whsec_other".to_owned(), ..webhook("hr") };
    assert_eq!(store.add_webhook(other.clone()).await.unwrap(), None, "its name is taken");
    assert!(store.forget_webhook(first).await.unwrap());
    assert!(!store.forget_webhook(first).await.unwrap());
    let second = store.add_webhook(other).await.unwrap().unwrap();
    assert!(second > first, "{second}");
    let unnamed = WebhookRow { secret: "whsec_unnamed".to_owned(), ..webhook("") };
    let third = store.add_webhook(unnamed).await.unwrap().unwrap();
    let names: Vec<_> = store.webhooks().await.unwrap().into_iter().map(|row| row.name).collect();
    assert_eq!(names, ["hr".to_owned(), format!("webhook-{third}")]);
}

pub(crate) async fn a_webhook_is_changed_by_those_who_know_its_version(store: &dyn Store) {
    let number = added(store, "hr").await;
    let changed = WebhookRow {
        number,
        url: "https://example.com/other".to_owned(),
        events: 1,
        state: WebhookRow::GONE,
        secret: "whsec_new".to_owned(),
        old_secret: "whsec_hr".to_owned(),
        old_until_s: 9,
        from_ms: 10,
        begun_ms: 11,
        run: 12,
        version: 2,
        ..webhook("hr")
    };
    assert!(!store.change_webhook(2, changed.clone()).await.unwrap(), "another version");
    let other = WebhookRow { number: number + 1, ..changed.clone() };
    assert!(!store.change_webhook(1, other).await.unwrap(), "another webhook");
    assert!(store.change_webhook(1, changed.clone()).await.unwrap());
    assert_eq!(store.webhooks().await.unwrap(), [changed]);
}

pub(crate) async fn what_is_given_up_is_listed_once_and_the_oldest_go_first(store: &dyn Store) {
    let (number, other) = (added(store, "hr").await, added(store, "ci").await);
    assert!(store.give_up(other, failure(1), 3).await.unwrap());
    for event in [1, 2, 2, 3, 1, 4, 5] {
        assert!(store.give_up(number, failure(event), 3).await.unwrap());
    }
    let id = |event: u64| failure(event).event_id;
    let all = [(5, id(5)), (4, id(4)), (3, id(3))];
    assert_eq!(given_up(store, number, u64::MAX, 10).await, all);
    assert_eq!(given_up(store, number, 5, 1).await, all[1..2]);
    assert_eq!(given_up(store, other, u64::MAX, 10).await, [(1, id(1))], "another webhook");
    let rows = store.webhook_failures(number, u64::MAX, 1).await.unwrap();
    assert_eq!(rows, [WebhookFailureRow { number: 5, ..failure(5) }]);
    let counts: Vec<_> = store.webhooks().await.unwrap().iter().map(|row| row.failures).collect();
    assert_eq!(counts, [5, 1]);
}

pub(crate) async fn what_is_given_up_goes_with_its_webhook(store: &dyn Store) {
    assert!(!store.give_up(7, failure(1), 3).await.unwrap(), "there is none");
    let number = added(store, "hr").await;
    assert!(store.give_up(number, failure(1), 3).await.unwrap());
    assert!(store.forget_webhook(number).await.unwrap());
    assert_eq!(given_up(store, number, u64::MAX, 10).await, []);
    assert!(!store.give_up(number, failure(2), 3).await.unwrap());
}
