//! Which requests are answered at all: keys, scopes, rates and places.

use proto::cluster::wire::ApiKeyLine;
use serde_json::json;

use crate::metrics::ApiMetrics;
use crate::test::{PATIENCE, Site, done, key};

/// Each call, and the scope that it needs.
const CALLS: [(&str, &str, &str); 17] = [
    ("GET", "/v1/users", "read"),
    ("POST", "/v1/users", "users"),
    ("GET", "/v1/users/1", "read"),
    ("PUT", "/v1/users/1/password", "users"),
    ("PUT", "/v1/users/1/disabled", "users"),
    ("DELETE", "/v1/users/1/disabled", "users"),
    ("GET", "/v1/users/1/sessions", "read"),
    ("DELETE", "/v1/users/1/sessions", "users"),
    ("POST", "/v1/users/1/tickets", "users"),
    ("GET", "/v1/users/1/messages", "read"),
    ("GET", "/v1/users/1/unread", "read"),
    ("GET", "/v1/groups", "read"),
    ("POST", "/v1/groups", "groups"),
    ("DELETE", "/v1/groups/1", "groups"),
    ("GET", "/v1/groups/1/members", "read"),
    ("POST", "/v1/groups/1/members", "groups"),
    ("POST", "/v1/messages", "send"),
];

#[tokio::test]
async fn each_call_needs_its_scope_and_no_other_one_will_do() {
    for (method, path, scope) in CALLS {
        let others: Vec<&str> =
            ["read", "send", "users", "groups"].into_iter().filter(|it| *it != scope).collect();
        let site = Site::with(&others, "").await;
        let (status, problem) = site.call(method, path, Some(&json!({}))).await;
        let refused = (403, Some("scope_missing"));
        assert_eq!((status, problem["code"].as_str()), refused, "{method} {path}");
        assert_eq!(site.asked(), [], "{method} {path}");
        site.stop().await;
    }
}

#[tokio::test]
async fn without_a_good_key_nothing_is_asked() {
    let site = Site::start().await;
    let mut wrong = key();
    wrong.secret = [3; 32];
    let wrong = format!("Authorization: Bearer {}", wrong.to_text());
    for lines in [&[][..], &["Authorization: Bearer x"], &[wrong.as_str()]] {
        for (method, path, _scope) in CALLS {
            let (status, problem) = site.send(method, path, lines, None).await;
            // After twenty wrong keys the address has to wait.
            assert!(status == 401 || status == 429, "{method} {path} {problem}");
        }
    }
    assert_eq!(site.asked(), []);
    site.stop().await;
}

#[tokio::test]
async fn a_key_that_is_revoked_or_over_is_refused_soon() {
    for change in [|_line| None, |line: ApiKeyLine| Some(ApiKeyLine { expires: 1, ..line })] {
        let site = Site::start().await;
        site.answers([done()]);
        assert_eq!(site.get("/v1/groups").await.0, 200);
        site.change_key(change);
        let began = tokio::time::Instant::now();
        loop {
            site.answers([done()]);
            let (status, _body) = site.get("/v1/groups").await;
            if status == 401 {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "it is refused soon");
        }
        // The last answer was for a request that was refused.
        site.answers_nothing();
        site.stop().await;
    }
}

#[tokio::test]
async fn a_key_has_the_rate_of_the_site_and_is_told_when_to_ask_again() {
    let site = Site::with(&["read"], "requests_per_s = 1").await;
    site.answers([done(), done(), done()]);
    let (first, second, third) =
        tokio::join!(site.get("/v1/groups"), site.get("/v1/groups"), site.get("/v1/groups"));
    let mut statuses = [first.0, second.0, third.0];
    statuses.sort_unstable();
    assert_eq!((statuses[0], statuses[2]), (200, 429));
    site.answers_nothing();
    site.stop().await;
}

#[tokio::test]
async fn requests_beyond_those_that_are_answered_at_once_are_told_to_come_again() {
    let site = Site::with(&["read"], "requests_max = 1").await;
    site.hangs();
    tokio::select! {
        answer = site.get("/v1/groups") => panic!("nobody answers, but {answer:?}"),
        () = async {
            while site.db_proxy.asked.lock().is_empty() {
                tokio::task::yield_now().await;
            }
            let (status, problem) = site.get("/v1/groups").await;
            assert_eq!((status, problem["code"].as_str()), (503, Some("unavailable")));
        } => {}
    }
    site.stop().await;
}

#[tokio::test]
async fn a_request_is_counted_until_it_is_answered_or_nobody_waits_for_it() {
    let metrics = ApiMetrics::register(&daemon::Metrics::new("api_server"));
    let (one, other) = (metrics.is_asked(), metrics.is_asked());
    assert_eq!(metrics.being_answered(), 2);
    drop(one);
    assert_eq!(metrics.being_answered(), 1);
    drop(other);
    assert_eq!(metrics.being_answered(), 0);
}

#[tokio::test]
async fn what_is_no_call_is_told_so() {
    let site = Site::start().await;
    for path in ["/", "/v1", "/v1/users/", "/v2/users", "/v1/users/1/2"] {
        let (status, problem) = site.get(path).await;
        assert_eq!((status, problem["code"].as_str()), (404, Some("not_found")), "{path}");
    }
    for (method, path) in [("DELETE", "/v1/messages"), ("PATCH", "/v1/users/1")] {
        let (status, problem) = site.call(method, path, None).await;
        assert_eq!((status, problem["code"].as_str()), (405, Some("method_not_allowed")));
    }
    site.stop().await;
}
