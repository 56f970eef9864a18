//! Webhooks, as administrators and api_servers ask for them.

use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    AdminAnswer, AdminError, WebhookAdd, WebhookFailureLine, WebhookFailures, WebhookGaveUp,
    WebhookGone, WebhookLine, WebhookList, WebhookRemove, WebhookReplay, WebhookRotate,
    WebhookState, WebhookSwitch,
};
use proto::webhook::EventType;

use super::*;
use crate::admin::webhooks::{FAILURES_MAX, OLD_SECRET_MAX_S, URL_LEN_MAX, WEBHOOKS_MAX};

fn add(name: Option<&str>) -> WebhookAdd {
    WebhookAdd {
        name: name.map(str::to_owned),
        url: "https://example.com/talkhub".to_owned(),
        events: vec!["message.created".to_owned(), "members.changed".to_owned()],
    }
}

fn failure(event: u32) -> WebhookFailureLine {
    WebhookFailureLine {
        number: 0,
        event_id: format!("msg_1-2_{event}"),
        event_type: "message.created".to_owned(),
        happened_ms: 5,
        given_up_ms: 6,
        status: 500,
        tries: 5,
    }
}

async fn code(server: &Server, what: What) -> AdminError {
    let answer = server.try_administer(what).await;
    assert!(!answer.done && answer.error.is_some(), "{answer:?}");
    answer.error_code()
}

impl Server {
    async fn added(&self, name: Option<&str>) -> AdminAnswer {
        self.administer(What::WebhookAdd(add(name))).await
    }

    async fn webhook(&self) -> WebhookLine {
        let list = What::WebhookList(WebhookList { secrets: Some(true) });
        let mut lines = self.administer(list).await.webhooks;
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }

    async fn switch(&self, webhook: u32, on: bool) {
        self.administer(What::WebhookSwitch(WebhookSwitch { webhook, on })).await;
    }
}

#[tokio::test]
async fn a_secret_is_told_once_and_to_those_who_sign_with_it() {
    let server = Server::start().await;
    let made = server.added(Some("hr")).await;
    let secret = made.webhook_secret.unwrap();
    let number = made.id.unwrap();
    let line = server.webhook().await;
    assert_eq!(line.secret.as_deref(), Some(secret.as_str()));
    assert!(secret.parse::<daemon::webhook_signature::WebhookSecret>().is_ok(), "{secret}");
    assert_eq!((line.number, line.name.as_str(), line.state()), (number, "hr", WebhookState::On));
    assert_eq!(line.events, ["message.created", "members.changed"]);
    assert_eq!((line.from_ms, line.begun_ms, line.run), (line.made_ms, line.made_ms, 0));
    let listed = server.administer(What::WebhookList(WebhookList::default())).await.webhooks;
    assert_eq!(listed, [WebhookLine { secret: None, ..line }], "a list has no secrets");
    let unnamed = server.added(None).await;
    let name = format!("webhook-{}", unnamed.id.unwrap());
    assert_eq!(unnamed.webhooks[0].name, name);
    server.stop().await;
}

#[tokio::test]
async fn webhooks_that_cannot_be_are_refused() {
    let server = Server::start().await;
    server.added(Some("hr")).await;
    let refused = async |add| code(&server, What::WebhookAdd(add)).await;
    assert_eq!(refused(add(Some("hr"))).await, AdminError::Taken);
    let url = |url: &str| WebhookAdd { url: url.to_owned(), ..add(None) };
    let long = format!("https://example.com/{}", "x".repeat(URL_LEN_MAX));
    for wrong in [
        add(Some("h r")),
        add(Some("")),
        url(""),
        url("ftp://example.com/"),
        url("https://user:secret@example.com/"),
        url(&long),
        WebhookAdd { events: Vec::new(), ..add(None) },
        WebhookAdd { events: vec!["message.read".to_owned()], ..add(None) },
    ] {
        assert_eq!(refused(wrong.clone()).await, AdminError::Invalid, "{wrong:?}");
    }
    let unknown = WebhookAdd { events: vec!["all".to_owned()], ..add(None) };
    let known = server.refused(What::WebhookAdd(unknown)).await;
    assert!(EventType::ALL.iter().all(|event| known.contains(event.name())), "{known}");
    for _webhook in 1..WEBHOOKS_MAX {
        server.added(None).await;
    }
    assert_eq!(refused(add(None)).await, AdminError::Invalid, "a site has so many");
    server.stop().await;
}

#[tokio::test]
async fn a_webhook_is_switched_off_and_on_and_removed() {
    let server = Server::start().await;
    let number = server.added(Some("hr")).await.id.unwrap();
    let made = server.webhook().await;
    server.switch(number, false).await;
    let off = server.webhook().await;
    let expected = WebhookLine { version: 2, ..made.clone() };
    assert_eq!(off, WebhookLine { state: WebhookState::Off.into(), ..expected });
    server.switch(number, true).await;
    let on = server.webhook().await;
    assert!(on.begun_ms >= off.begun_ms, "{on:?}");
    assert_eq!((on.state(), on.version, on.from_ms), (WebhookState::On, 3, made.from_ms));
    let remove = || What::WebhookRemove(WebhookRemove { webhook: number });
    server.administer(remove()).await;
    let missing = [
        remove(),
        What::WebhookSwitch(WebhookSwitch { webhook: number, on: true }),
        What::WebhookRotate(WebhookRotate { webhook: number, old_for_s: 0 }),
        What::WebhookReplay(WebhookReplay { webhook: number, since_ms: 0 }),
        What::WebhookFailures(WebhookFailures { webhook: number, before: None, count: None }),
        What::WebhookGaveUp(WebhookGaveUp { webhook: number, failure: failure(1) }),
        What::WebhookGone(WebhookGone { webhook: number, version: 3 }),
    ];
    for what in missing {
        assert_eq!(code(&server, what).await, AdminError::NotFound);
    }
    server.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_off_unless_it_was_changed_meanwhile() {
    let server = Server::start().await;
    let number = server.added(Some("hr")).await.id.unwrap();
    let gone = |version| What::WebhookGone(WebhookGone { webhook: number, version });
    server.administer(gone(7)).await;
    assert_eq!(server.webhook().await.state(), WebhookState::On, "that was another version");
    server.administer(gone(1)).await;
    assert_eq!(server.webhook().await.state(), WebhookState::Gone);
    server.switch(number, true).await;
    server.administer(gone(1)).await;
    assert_eq!(server.webhook().await.state(), WebhookState::On);
    server.stop().await;
}

#[tokio::test]
async fn a_new_secret_signs_beside_the_one_before_for_as_long_as_was_said() {
    let server = Server::start().await;
    let made = server.added(Some("hr")).await;
    let number = made.id.unwrap();
    let rotate = |old_for_s| What::WebhookRotate(WebhookRotate { webhook: number, old_for_s });
    let new = server.administer(rotate(60)).await.webhook_secret;
    let line = server.webhook().await;
    assert_eq!((&line.secret, &line.old_secret), (&new, &made.webhook_secret));
    let left = line.old_until_s.saturating_sub(u64::from(daemon::clock::unix_s()));
    assert!((1..=60).contains(&left), "{left}");
    let newest = server.administer(rotate(0)).await.webhook_secret;
    let line = server.webhook().await;
    assert_eq!((&line.secret, &line.old_secret, line.old_until_s), (&newest, &None, 0));
    assert_eq!(code(&server, rotate(OLD_SECRET_MAX_S + 1)).await, AdminError::Invalid);
    server.stop().await;
}

#[tokio::test]
async fn a_replay_reads_the_log_anew_from_a_time_in_the_past() {
    let server = Server::start().await;
    let number = server.added(Some("hr")).await.id.unwrap();
    let replay = |since_ms| What::WebhookReplay(WebhookReplay { webhook: number, since_ms });
    server.administer(replay(1_000)).await;
    let line = server.webhook().await;
    assert_eq!((line.from_ms, line.run, line.version), (1_000, 1, 2));
    assert!(line.begun_ms >= line.made_ms);
    let later = daemon::clock::unix_ms() + 60_000;
    assert_eq!(code(&server, replay(later)).await, AdminError::Invalid);
    server.stop().await;
}

#[tokio::test]
async fn what_is_given_up_is_listed_once_page_by_page_and_the_oldest_are_counted() {
    let server = Server::start().await;
    let number = server.added(Some("hr")).await.id.unwrap();
    let give_up =
        |event| What::WebhookGaveUp(WebhookGaveUp { webhook: number, failure: failure(event) });
    for event in [1, 2, 2, 1] {
        server.administer(give_up(event)).await;
    }
    let list =
        |before, count| What::WebhookFailures(WebhookFailures { webhook: number, before, count });
    let page = server.administer(list(None, Some(1))).await;
    let line = |number: u32| WebhookFailureLine { number: number.into(), ..failure(number) };
    assert_eq!((page.webhook_failures, page.more), (vec![line(2)], Some(true)));
    let page = server.administer(list(Some(2), None)).await;
    assert_eq!((page.webhook_failures, page.more), (vec![line(1)], Some(false)));
    assert_eq!(server.webhook().await.forgotten_failures, 0);
    for event in 3..=FAILURES_MAX + 2 {
        server.administer(give_up(event)).await;
    }
    let page = server.administer(list(None, None)).await.webhook_failures;
    assert_eq!((page.len(), page.last().unwrap().number), (FAILURES_MAX as usize, 3));
    assert_eq!(server.webhook().await.forgotten_failures, 2);
    server.stop().await;
}
