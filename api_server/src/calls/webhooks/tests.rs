//! What a db_proxy is asked for each call about webhooks, and what the program is told.

use proto::cluster::wire::{AdminAnswer, AdminError};
use serde_json::{Value, json};

use super::*;
use crate::test::{Asked, Site, done, refused};

async fn site() -> Site {
    Site::with(&["admin"], "").await
}

fn line(number: u32, state: WebhookState) -> WebhookLine {
    WebhookLine {
        number,
        name: format!("webhook-{number}"),
        url: "https://example.com/".to_owned(),
        events: vec!["message.created".to_owned()],
        state: state.into(),
        made_ms: 5_999,
        forgotten_failures: 3,
        ..WebhookLine::default()
    }
}

fn shown(id: u32, state: &str) -> Value {
    json!({ "id": id, "name": format!("webhook-{id}"), "url": "https://example.com/",
        "events": ["message.created"], "state": state, "created": 5, "forgotten_failures": 3 })
}

fn asked(what: What) -> [Asked; 1] {
    [Asked::Admin(what)]
}

#[tokio::test]
async fn webhooks_are_listed_and_each_is_found_by_its_number() {
    let site = site().await;
    let webhooks = || {
        let states = [WebhookState::On, WebhookState::Off, WebhookState::Gone];
        let webhooks = (1..).zip(states).map(|(number, state)| line(number, state)).collect();
        AdminAnswer { webhooks, ..done() }
    };
    site.answers([webhooks(), webhooks(), webhooks()]);
    let all = json!({ "items": [shown(1, "on"), shown(2, "off"), shown(3, "gone")] });
    assert_eq!(site.get("/v1/webhooks").await, (200, all));
    assert_eq!(site.asked(), asked(What::WebhookList(WebhookList { secrets: None })));
    assert_eq!(site.get("/v1/webhooks/2").await, (200, shown(2, "off")));
    assert_eq!(site.get("/v1/webhooks/4").await.0, 404);
    assert_eq!(site.get("/v1/webhooks/0").await.0, 404);
    site.stop().await;
}

#[tokio::test]
async fn a_webhook_that_is_made_is_told_with_its_secret() {
    let site = site().await;
    let webhook_secret = Some("whsec_1".to_owned());
    let webhooks = vec![line(7, WebhookState::On)];
    site.answers([AdminAnswer { webhooks, webhook_secret, ..done() }]);
    let body = json!({ "url": "https://example.com/", "events": ["message.created"] });
    let (status, made) = site.call("POST", "/v1/webhooks", Some(&body)).await;
    let mut expected = shown(7, "on");
    expected["secret"] = json!("whsec_1");
    assert_eq!((status, made), (201, expected));
    let (url, events) = ("https://example.com/".to_owned(), vec!["message.created".to_owned()]);
    assert_eq!(site.asked(), asked(What::WebhookAdd(WebhookAdd { name: None, url, events })));
    for (why, status) in [(AdminError::Taken, 409), (AdminError::Invalid, 422)] {
        site.answers([refused(why)]);
        assert_eq!(site.call("POST", "/v1/webhooks", Some(&body)).await.0, status);
    }
    for wrong in [json!({}), json!({ "url": "x", "events": [], "secret": "mine" })] {
        assert_eq!(site.call("POST", "/v1/webhooks", Some(&wrong)).await.0, 422, "{wrong}");
    }
    site.stop().await;
}

#[tokio::test]
async fn a_webhook_is_switched_replayed_and_removed() {
    let site = site().await;
    let on = |on| What::WebhookSwitch(WebhookSwitch { webhook: 7, on });
    let replay = What::WebhookReplay(WebhookReplay { webhook: 7, since_ms: 9_000 });
    let since = json!({ "since": 9 });
    for (method, path, body, what) in [
        ("PUT", "/v1/webhooks/7/disabled", None, on(false)),
        ("DELETE", "/v1/webhooks/7/disabled", None, on(true)),
        ("POST", "/v1/webhooks/7/replays", Some(&since), replay),
        ("DELETE", "/v1/webhooks/7", None, What::WebhookRemove(WebhookRemove { webhook: 7 })),
    ] {
        site.answers([done()]);
        assert_eq!(site.call(method, path, body).await.0, 204, "{method} {path}");
        assert_eq!(site.asked(), asked(what));
        site.answers([refused(AdminError::NotFound)]);
        assert_eq!(site.call(method, path, body).await.0, 404, "{method} {path}");
        site.asked();
    }
    site.stop().await;
}

#[tokio::test]
async fn a_new_secret_is_told_and_the_one_before_lasts_a_day_if_nothing_else_is_said() {
    let site = site().await;
    for (body, old_for_s) in [(json!({}), OLD_FOR_S.into()), (json!({ "old_for": 0 }), 0)] {
        site.answers([AdminAnswer { webhook_secret: Some("whsec_2".to_owned()), ..done() }]);
        let made = site.call("POST", "/v1/webhooks/7/secrets", Some(&body)).await;
        assert_eq!(made, (201, json!({ "secret": "whsec_2" })));
        let rotate = What::WebhookRotate(WebhookRotate { webhook: 7, old_for_s });
        assert_eq!(site.asked(), asked(rotate));
    }
    site.stop().await;
}

#[tokio::test]
async fn what_was_given_up_is_listed_page_by_page() {
    let site = site().await;
    let failure = |number, status| WebhookFailureLine {
        number,
        event_id: format!("msg_1-2_{number}"),
        event_type: "message.created".to_owned(),
        happened_ms: 1_999,
        given_up_ms: 2_001,
        status,
        tries: 5,
    };
    let page = |failures: Vec<_>, more| AdminAnswer {
        webhook_failures: failures,
        more: Some(more),
        ..done()
    };
    site.answers([page(vec![failure(9, 500), failure(8, 0)], true), page(Vec::new(), false)]);
    let (status, first) = site.get("/v1/webhooks/7/failures?limit=2").await;
    let items = json!([
        { "event": "msg_1-2_9", "type": "message.created", "happened": 1, "given_up": 2,
          "status": 500, "tries": 5 },
        { "event": "msg_1-2_8", "type": "message.created", "happened": 1, "given_up": 2,
          "tries": 5 },
    ]);
    assert_eq!((status, &first["items"]), (200, &items));
    let next = first["next"].as_str().unwrap();
    let last = site.get(&format!("/v1/webhooks/7/failures?cursor={next}")).await;
    assert_eq!(last, (200, json!({ "items": [] })));
    let list = |before, count| {
        let count = Some(count);
        Asked::Admin(What::WebhookFailures(WebhookFailures { webhook: 7, before, count }))
    };
    assert_eq!(site.asked(), [list(None, 2), list(Some(8), paging::LIMIT)]);
    let of_another = format!("/v1/webhooks/8/failures?cursor={next}");
    assert_eq!(site.get(&of_another).await.0, 422);
    site.stop().await;
}

#[tokio::test]
async fn webhooks_need_a_scope_of_their_own() {
    let site = Site::with(&["read", "send", "users", "groups"], "").await;
    let (status, problem) = site.get("/v1/webhooks").await;
    assert_eq!((status, &problem["code"]), (403, &json!("scope_missing")));
    site.stop().await;
}
