//! Hooks that are asked by real requests, and answer as the test says.

use std::time::Duration;

use daemon::clock::unix_s;
use proto::client::MessageType;
use serde_json::json;
use tokio::time::{advance, pause, resume};

use super::test::{HookServer, Reply, options, settings, submit};
use super::*;

fn allow() -> Reply {
    Reply::Say(json!({ "verdict": "allow" }))
}

/// A verdict as it stands in a record.
fn verdict(hook: &str, outcome: HookOutcome) -> HookVerdict {
    HookVerdict { hook: hook.to_owned(), outcome: outcome as u32 }
}

fn passes(hooks: &[HookVerdict]) -> Verdict {
    Verdict::Passes { body: None, hooks: hooks.to_vec() }
}

fn hooks(settings: &[HookSettings]) -> Arc<Hooks> {
    Hooks::new(settings, &options(Source::Client)).unwrap().unwrap()
}

#[tokio::test]
async fn a_hook_is_asked_by_a_signed_request_with_the_same_id_each_time() {
    let server = HookServer::start(|_asked| allow()).await;
    let settings = settings("words", &server.url);
    let hooks = hooks(std::slice::from_ref(&settings));
    let text = submit(MessageType::GroupText, 5);
    for _ in 0..2 {
        assert_eq!(hooks.ask(&text).await, passes(&[verdict("words", HookOutcome::Allowed)]));
    }
    for asked in server.asked(2).await {
        assert!(asked.head.starts_with("POST /hook "), "{}", asked.head);
        let id = asked.header("webhook-id");
        assert_eq!(id, "hook_5_09090909090909090909090909090909");
        let timestamp_s: u64 = asked.header("webhook-timestamp").parse().unwrap();
        assert!(timestamp_s.abs_diff(unix_s().into()) <= 60);
        let signature =
            settings.read_secret().unwrap().sign(id, timestamp_s, asked.body.as_bytes());
        assert_eq!(asked.header("webhook-signature"), signature);
        assert_eq!(asked.header("content-type"), "application/json");
        assert_eq!(asked.data()["text"], "h\u{e9}llo");
    }
}

#[tokio::test]
async fn each_hook_sees_what_those_before_it_have_made_of_the_text() {
    let server = HookServer::start(|asked| match asked.data()["text"].as_str() {
        Some("h\u{e9}llo") => Reply::Say(json!({ "verdict": "change", "text": "one" })),
        Some("one") => Reply::Say(json!({ "verdict": "change", "text": "two" })),
        _ => Reply::Say(json!({ "verdict": "refuse", "reason": "that is enough" })),
    });
    let server = server.await;
    let of = |names: &[&str]| {
        let all: Vec<_> = names.iter().map(|name| settings(name, &server.url)).collect();
        hooks(&all)
    };
    let text = submit(MessageType::SingleText, 5);
    let expected = Verdict::Passes {
        body: Some(TextCipher::default().encrypt("two")),
        hooks: vec![verdict("a", HookOutcome::Changed), verdict("b", HookOutcome::Changed)],
    };
    assert_eq!(of(&["a", "b"]).ask(&text).await, expected);
    let reason = "that is enough".to_owned();
    assert_eq!(of(&["a", "b", "c", "d"]).ask(&text).await, Verdict::Refused { reason });
    assert_eq!(server.count(), 5, "nobody is asked after a refusal");
}

#[tokio::test]
async fn without_an_answer_a_message_passes_or_not_as_the_settings_say() {
    let server = HookServer::start(|asked| match asked.data()["from"].as_u64() {
        Some(1) => Reply::Status(500),
        Some(2) => Reply::Close,
        Some(3) => Reply::Hang,
        Some(4) => Reply::Say(json!({ "verdict": "perhaps" })),
        _ => Reply::Say(json!({ "verdict": "change", "text": "no sound" })),
    });
    let server = server.await;
    for sender in 1..=5 {
        let kind = if sender == 5 { MessageType::SingleVoice } else { MessageType::SingleText };
        let message = submit(kind, sender);
        let hook = HookSettings { limit_ms: 50, ..settings("words", &server.url) };
        assert_eq!(hooks(std::slice::from_ref(&hook)).ask(&message).await, Verdict::Failed);
        let open = HookSettings { on_failure: Some(OnFailure::Allow), ..hook };
        let expected = passes(&[verdict("words", HookOutcome::Failed)]);
        assert_eq!(hooks(&[open]).ask(&message).await, expected, "{sender}");
    }
}

#[tokio::test]
async fn a_hook_that_is_only_told_cannot_refuse() {
    let server = HookServer::start(|asked| match asked.data()["from"].as_u64() {
        Some(1) => Reply::Say(json!({ "verdict": "refuse" })),
        Some(2) => Reply::Status(204),
        _ => Reply::Status(500),
    });
    let server = server.await;
    let hooks = hooks(&[HookSettings { kind: HookKind::Notify, ..settings("told", &server.url) }]);
    for (sender, outcome) in
        [(1, HookOutcome::Allowed), (2, HookOutcome::Allowed), (3, HookOutcome::Failed)]
    {
        let said = hooks.ask(&submit(MessageType::SingleText, sender)).await;
        assert_eq!(said, passes(&[verdict("told", outcome)]), "{sender}");
    }
}

#[tokio::test]
async fn after_failures_in_a_row_a_hook_is_left_alone_and_then_one_message_tries() {
    const FAILURES_MAX: usize = 5;
    let (works, script) = watch::channel(false);
    let server = HookServer::start(
        move |_asked| {
            if *script.borrow() { allow() } else { Reply::Status(500) }
        },
    );
    let server = server.await;
    let page = daemon::Metrics::new("test");
    let metrics = HookMetrics::register(&page);
    let options = HookOptions { metrics, ..options(Source::Client) };
    let hook =
        HookSettings { on_failure: Some(OnFailure::Allow), ..settings("words", &server.url) };
    let hooks = Hooks::new(&[hook], &options).unwrap().unwrap();
    let text = submit(MessageType::SingleText, 5);
    let failed = passes(&[verdict("words", HookOutcome::Failed)]);
    // A success in between begins the count anew.
    for is_right in [false, false, false, false, true, false, false, false, false, false] {
        works.send_replace(is_right);
        let outcome = if is_right { HookOutcome::Allowed } else { HookOutcome::Failed };
        assert_eq!(hooks.ask(&text).await, passes(&[verdict("words", outcome)]));
    }
    assert_eq!(server.count(), 5 + FAILURES_MAX);
    works.send_replace(true);
    for _ in 0..3 {
        assert_eq!(hooks.ask(&text).await, failed);
    }
    assert_eq!(server.count(), 5 + FAILURES_MAX, "it is not asked");
    let shown = |line: &str| page.encode().unwrap().lines().any(|shown| shown == line);
    assert!(shown("talkhub_test_hook_resting{hook=\"words\"} 1"));
    pause();
    advance(Duration::from_secs(5)).await;
    resume();
    for count in 1..=2 {
        let allowed = passes(&[verdict("words", HookOutcome::Allowed)]);
        assert_eq!(hooks.ask(&text).await, allowed);
        assert_eq!(server.count(), 5 + FAILURES_MAX + count);
    }
    assert!(shown("talkhub_test_hook_resting{hook=\"words\"} 0"));
    for (outcome, count) in [("Allowed", 3), ("Failed", 9), ("NotAsked", 3)] {
        let of = format!("{{hook=\"words\",outcome=\"{outcome}\"}} {count}");
        assert!(shown(&format!("talkhub_test_hook_questions_total{of}")), "{of}");
    }
}

#[tokio::test]
async fn questions_beyond_those_that_may_be_open_wait_as_long_as_the_limit_says() {
    let (gate, open) = watch::channel(false);
    let server =
        HookServer::start(move |_asked| Reply::Then(open.clone(), json!({ "verdict": "allow" })));
    let server = server.await;
    let patient = HookSettings { at_once: 1, ..settings("words", &server.url) };
    let hooks = hooks(&[HookSettings { limit_ms: 100, ..patient }]);
    let (one, two) = (submit(MessageType::SingleText, 1), submit(MessageType::SingleText, 2));
    let (one, two) = tokio::join!(hooks.ask(&one), hooks.ask(&two));
    assert_eq!((one, two), (Verdict::Failed, Verdict::Failed));
    assert!(server.count() <= 1, "the other one has waited for its place");
    gate.send_replace(true);
    let free = async {
        let three = submit(MessageType::SingleText, 3);
        while hooks.ask(&three).await != passes(&[verdict("words", HookOutcome::Allowed)]) {}
    };
    tokio::time::timeout(crate::test::PATIENCE, free).await.expect("the place is free again");
}

#[test]
fn hooks_that_are_not_asked_about_the_api_are_not_there() {
    let all = [HookSettings { api: false, ..settings("words", "http://127.0.0.1:9/") }];
    let of = |source| Hooks::new(&all, &options(source)).unwrap();
    assert!(of(Source::Client).is_some() && of(Source::Api).is_none());
    assert!(Hooks::new(&[], &options(Source::Client)).unwrap().is_none());
    let missing = HookSettings { ca: Some("/nowhere/ca.pem".into()), ..all[0].clone() };
    Hooks::new(&[missing], &options(Source::Client)).unwrap_err();
}

#[tokio::test]
async fn a_reload_makes_other_hooks_and_one_that_cannot_be_used_leaves_them() {
    let shutdown = Shutdown::default();
    let (settings_now, followed) = watch::channel(Vec::new());
    let (told, mut hooks) = watch::channel(None);
    let set = move |hooks: Option<Arc<Hooks>>| {
        let names = hooks.map(|all| all.hooks.len());
        told.send_replace(Some(names));
    };
    follow(followed, options(Source::Client), &shutdown, set).unwrap();
    assert_eq!(*hooks.borrow_and_update(), Some(None));
    let good = settings("words", "http://127.0.0.1:9/");
    let bad = HookSettings { ca: Some("/nowhere/ca.pem".into()), ..good.clone() };
    settings_now.send_replace(vec![bad]);
    settings_now.send_replace(vec![good.clone(), HookSettings { name: "b".to_owned(), ..good }]);
    let two = hooks.wait_for(|hooks| *hooks == Some(Some(2)));
    tokio::time::timeout(crate::test::PATIENCE, two).await.unwrap().unwrap();
    shutdown.begin();
    shutdown.drain(crate::test::PATIENCE).await.unwrap();
}
