//! The HTTP API: what programs do with it, what they get for bad requests, and what stays true when daemons
//! are killed.

use std::process::{self, Stdio};
use std::time::Instant;

use client::Conversation;
use proto::Command;
use proto::client::{GroupInfoReply, GroupInfoRequest, GroupMembersNotify, GroupVersion};
use serde_json::{Value, json};
use tests::{Cluster, Device, Options, PASSWORD, PATIENCE, Program, wait_until};

/// A key with these scopes.
fn key(cluster: &Cluster, name: &str, scopes: &str) -> String {
    let made = cluster.admin(&["key", "create", name, "--scope", scopes, "--json"]);
    let made: Value = serde_json::from_str(made.expect("a key").trim()).expect("JSON");
    made["key"].as_str().expect("a key is a text").to_owned()
}

fn program(cluster: &Cluster, name: &str, scopes: &str) -> Program {
    Program::new(&cluster.api, Some(&key(cluster, name, scopes)))
}

fn text(from: u32, to: &Value, text: &str) -> Value {
    json!({ "from": from, "to": to, "text": text })
}

#[tokio::test]
async fn a_program_makes_users_and_a_group_and_is_heard() {
    let cluster = Cluster::start();
    let all = program(&cluster, "all", "read,send,users,groups");
    let made = json!({ "name": "anna", "password": "a long password", "nick": "Anna" });
    let anna = all.call("POST", "/v1/users", &made).await;
    assert_eq!((anna.status, anna.body["nick"].as_str()), (201, Some("Anna")), "{anna:?}");
    let id = u32::try_from(anna.body["id"].as_u64().unwrap()).unwrap();
    assert_eq!(all.get(&format!("/v1/users/{id}")).await.body, anna.body);
    assert_eq!(all.get("/v1/users?name=anna").await.body["items"][0], anna.body);
    assert_eq!(all.call("POST", "/v1/users", &made).await.code(), "taken");

    let team = json!({ "name": "team", "members": [id, 1, 2] });
    let team = all.call("POST", "/v1/groups", &team).await;
    assert_eq!(team.status, 201, "{team:?}");
    let group = u32::try_from(team.body["id"].as_u64().unwrap()).unwrap();
    let conversation = Conversation::group(group);
    let mut ben = Device::pc(&cluster.gateways[0], 1).await;
    let said = all.call("POST", "/v1/messages", &text(id, &json!({"group": group}), "héllo")).await;
    assert_eq!((said.status, said.body["msg_id"].as_u64()), (201, Some(1)), "{said:?}");
    assert!(said.body["created"].is_u64(), "{said:?}");
    assert_eq!(ben.hears(id, conversation, "héllo").await.msg_id, 1);
    ben.say(conversation, "heard").await;
    let said = all.call("POST", "/v1/messages", &text(id, &json!({"user": 1}), "you alone")).await;
    assert_eq!(said.body["msg_id"].as_u64(), Some(1), "{said:?}");
    ben.hears(id, Conversation::user(1), "you alone").await;

    let path = format!("/v1/users/2/messages?in_group={group}");
    let page = all.get(&format!("{path}&limit=1")).await.body;
    let newest = &page["items"][0];
    assert_eq!((newest["text"].as_str(), newest["from"].as_u64()), (Some("heard"), Some(1)));
    let cursor = page["next"].as_str().expect("there is an older message");
    let page = all.get(&format!("{path}&limit=1&cursor={cursor}")).await.body;
    assert_eq!((page["items"][0]["text"].as_str(), &page["next"]), (Some("héllo"), &Value::Null));
    let unread = all.get("/v1/users/2/unread").await.body;
    assert_eq!(unread["total"].as_u64(), Some(2), "{unread}");
    assert_eq!(unread["items"][0]["group"].as_u64(), Some(group.into()), "{unread}");

    let members = format!("/v1/groups/{group}/members");
    let first = all.get(&format!("{members}?limit=2")).await.body;
    assert_eq!(first["items"], json!([1, 2]));
    let rest = format!("{members}?cursor={}", first["next"].as_str().unwrap());
    assert_eq!(all.get(&rest).await.body, json!({ "items": [id] }));
    let change = json!({ "add": [3], "remove": [2] });
    assert_eq!(all.call("POST", &members, &change).await.status, 204);
    assert_eq!(all.get(&members).await.body["items"], json!([1, 3, id]));
    let outsider = text(2, &json!({"group": group}), "I was here");
    assert_eq!(all.call("POST", "/v1/messages", &outsider).await.code(), "not_member");
    assert_eq!(all.send("DELETE", &format!("/v1/groups/{group}"), &[], None).await.status, 204);
    assert_eq!(all.get(&members).await.status, 404);
}

#[tokio::test]
async fn lists_come_page_by_page_without_holes() {
    let cluster = Cluster::start_with(&Options { users: 25, ..Options::default() });
    let reads = program(&cluster, "reads", "read");
    let (mut path, mut names) = ("/v1/users?limit=10".to_owned(), Vec::new());
    loop {
        let page = reads.get(&path).await.body;
        let items = page["items"].as_array().unwrap();
        names.extend(items.iter().map(|user| user["name"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next"].as_str() else { break };
        path = format!("/v1/users?limit=10&cursor={cursor}");
    }
    let mut expected: Vec<String> = (1..=25).map(|number| format!("u{number}")).collect();
    expected.sort();
    assert_eq!(names, expected);
    let groups = reads.get("/v1/groups").await.body;
    assert_eq!(groups["items"][0]["name"], "everyone");
}

#[tokio::test]
async fn a_page_of_history_has_at_most_a_hundred_messages() {
    let cluster = Cluster::start();
    let reads = program(&cluster, "reads", "read");
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    for number in 1..=120 {
        anna.say(Conversation::user(2), &format!("message {number}")).await;
    }
    let mut path = "/v1/users/2/messages?with_user=1&limit=1000".to_owned();
    let (mut sizes, mut numbers) = (Vec::new(), Vec::new());
    loop {
        let page = reads.get(&path).await.body;
        let items = page["items"].as_array().unwrap();
        sizes.push(items.len());
        numbers.extend(items.iter().map(|item| item["msg_id"].as_u64().unwrap()));
        let Some(cursor) = page["next"].as_str() else { break };
        path = format!("/v1/users/2/messages?with_user=1&limit=1000&cursor={cursor}");
    }
    assert_eq!(sizes, [100, 20]);
    assert_eq!(numbers, (1..=120).rev().collect::<Vec<_>>());
    let before = reads.get("/v1/users/2/messages?with_user=1&before=3").await.body;
    let numbers: Vec<_> =
        before["items"].as_array().unwrap().iter().map(|it| &it["msg_id"]).collect();
    assert_eq!(numbers, [2, 1]);
    let before = reads.get("/v1/users/2/messages?with_user=1&before=1").await.body;
    assert_eq!(before, json!({ "items": [] }));
}

#[tokio::test]
async fn a_users_sessions_are_listed_and_ended_and_a_ticket_logs_in_once() {
    let cluster = Cluster::start();
    let users = program(&cluster, "users", "read,users");
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let sessions = users.get("/v1/users/1/sessions").await.body;
    assert_eq!(sessions["items"][0]["device"], "windows", "{sessions}");
    assert_eq!(users.send("DELETE", "/v1/users/1/sessions", &[], None).await.status, 204);
    anna.push::<proto::client::KickNotify>(Command::KickNotify).await;

    let device = json!({ "device": "android" });
    let made = users.call("POST", "/v1/users/1/tickets", &device).await;
    assert_eq!((made.status, made.body["lifetime"].as_u64()), (201, Some(60)), "{made:?}");
    assert_eq!(made.body["ticket"].as_str().unwrap().len(), 64);

    assert_eq!(users.send("PUT", "/v1/users/2/disabled", &[], None).await.status, 204);
    assert_eq!(users.get("/v1/users/2").await.body["disabled"], true);
    assert_eq!(users.send("DELETE", "/v1/users/2/disabled", &[], None).await.status, 204);
    let password = json!({ "password": "another long one" });
    assert_eq!(users.call("PUT", "/v1/users/2/password", &password).await.status, 204);
    let login = Device::try_log_in(&cluster.gateways[0], "u2", PASSWORD).await;
    assert!(login.is_err(), "the password is another one now");
}

#[tokio::test]
async fn a_named_message_is_stored_once_whatever_is_killed_and_however_often_it_is_sent() {
    let cluster = Cluster::start();
    let program = program(&cluster, "ci", "send,read");
    let to = json!({ "user": 2 });
    let first = program.say("build 7", &text(1, &to, "passed")).await;
    assert_eq!(first.body["msg_id"].as_u64(), Some(1), "{first:?}");
    for daemon in ["api_server", "db_proxy"] {
        cluster.kill_and_wait(daemon);
        let again = program.say("build 7", &text(1, &to, "passed")).await;
        assert_eq!((again.status, again.body["msg_id"].as_u64()), (201, Some(1)), "{again:?}");
    }
    // Many at once, of which the first is under way.
    let body = text(1, &to, "at once");
    let say = || program.say("build 8", &body);
    let (first, second, third) = tokio::join!(say(), say(), say());
    for answer in [first, second, third] {
        assert_eq!(answer.body["msg_id"].as_u64(), Some(2), "{answer:?}");
    }
    for other in [
        text(1, &to, "failed"),
        text(1, &json!({ "user": 3 }), "passed"),
        text(1, &json!({ "group": 1 }), "passed"),
    ] {
        let reused = program.say("build 7", &other).await;
        assert_eq!((reused.status, reused.code()), (422, "idempotency_key_reused"), "{reused:?}");
    }
    // Another sender's name is another message, and so is that of another key.
    let other = program.say("build 7", &text(3, &to, "passed")).await;
    assert_eq!(other.body["msg_id"].as_u64(), Some(1), "of another conversation");
    let stored = program.get("/v1/users/2/messages?with_user=1").await.body;
    let texts: Vec<_> = stored["items"].as_array().unwrap().iter().map(|it| &it["text"]).collect();
    assert_eq!(texts, ["at once", "passed"]);
}

#[tokio::test]
async fn a_request_waits_for_storage_that_is_away() {
    let cluster = Cluster::start();
    let program = program(&cluster, "ci", "send");
    cluster.kill("db_proxy");
    let sent = program.call("POST", "/v1/messages", &text(1, &json!({"user": 2}), "late")).await;
    assert_eq!(sent.status, 201, "{sent:?}");
}

#[tokio::test]
async fn a_key_is_good_for_its_scopes_until_it_is_revoked() {
    let cluster = Cluster::start();
    let shown = key(&cluster, "reads", "read");
    let reads = Program::new(&cluster.api, Some(&shown));
    assert_eq!(reads.get("/v1/users").await.status, 200);
    let said = reads.call("POST", "/v1/messages", &text(1, &json!({"user": 2}), "no")).await;
    assert_eq!((said.status, said.code()), (403, "scope_missing"));
    for (method, path) in [("POST", "/v1/users"), ("POST", "/v1/groups")] {
        assert_eq!(reads.call(method, path, &json!({})).await.code(), "scope_missing", "{path}");
    }
    let mut wrong = shown.clone();
    wrong.replace_range(shown.len() - 2.., "AA");
    for bad in [None, Some("nonsense"), Some(wrong.as_str())] {
        let answer = Program::new(&cluster.api, bad).get("/v1/users").await;
        assert_eq!((answer.status, answer.code()), (401, "unauthorized"), "{bad:?}");
        assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer"));
    }
    let listed = cluster.admin(&["key", "list"]).unwrap();
    assert!(listed.contains("reads") && !listed.contains(&shown), "{listed}");
    cluster.admin(&["key", "revoke", "reads"]).unwrap();
    // How long that may take is tried in api_server itself.
    let began = Instant::now();
    while reads.get("/v1/users").await.status != 401 {
        assert!(began.elapsed() < PATIENCE, "it is refused soon");
    }
}

#[tokio::test]
async fn a_key_and_an_address_may_ask_so_often() {
    let cluster = Cluster::start();
    let made = cluster.admin(&["key", "create", "slow", "--scope", "read", "--rate", "1"]).unwrap();
    let slow = Program::new(&cluster.api, Some(made.trim()));
    let (first, second, third) =
        tokio::join!(slow.get("/v1/groups"), slow.get("/v1/groups"), slow.get("/v1/groups"));
    let answers = [first, second, third];
    assert!(answers.iter().any(|answer| answer.status == 200), "{answers:?}");
    let refused = answers.iter().find(|answer| answer.status == 429);
    let refused = refused.unwrap_or_else(|| panic!("one a second: {answers:?}"));
    assert_eq!((refused.code(), refused.header("Retry-After")), ("too_many_requests", Some("1")));

    let known = program(&cluster, "known", "read");
    assert_eq!(known.get("/v1/groups").await.status, 200);
    let guesses = Program::new(&cluster.api, Some("nonsense"));
    let mut statuses = Vec::new();
    for _guess in 0..30 {
        statuses.push(guesses.get("/v1/users").await.status);
    }
    assert_eq!(statuses[..20], [401; 20]);
    assert!(statuses.contains(&429), "{statuses:?}");
    let beside = known.get("/v1/groups").await;
    assert_eq!(beside.status, 200, "a program at the same address is served: {beside:?}");
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong_with_them() {
    let cluster = Cluster::start();
    let all = program(&cluster, "all", "read,send,users,groups");
    let json = ("Content-Type", "application/json");
    let good = text(1, &json!({"user": 2}), "x").to_string();
    let gzip = ("Content-Encoding", "gzip");
    let long = format!("{{\"text\":\"{}\"}}", "x".repeat(600 << 10));
    let long_text = text(1, &json!({"user": 2}), &"x".repeat(33 << 10)).to_string();
    let empty = text(1, &json!({"user": 2}), "").to_string();
    let many = json!({ "name": "many", "members": (1..=1_001).collect::<Vec<u32>>() }).to_string();
    let messages = "/v1/messages";
    for (path, headers, body, status, code) in [
        (messages, &[json][..], "{", 400, "not_json"),
        (messages, &[json], "{\"from\":1,\"from\":1}", 422, "invalid"),
        (messages, &[json], "{\"from\":1,\"colour\":1}", 422, "invalid"),
        (messages, &[json], "{\"from\":-1,\"to\":{\"user\":2},\"text\":\"x\"}", 422, "invalid"),
        (
            messages,
            &[json],
            "{\"from\":4294967296,\"to\":{\"user\":2},\"text\":\"x\"}",
            422,
            "invalid",
        ),
        (messages, &[json], "{\"from\":1,\"to\":{\"user\":1},\"text\":\"x\"}", 422, "invalid"),
        (
            messages,
            &[json],
            "{\"from\":1,\"to\":{\"user\":4000000},\"text\":\"x\"}",
            404,
            "not_found",
        ),
        (
            messages,
            &[json],
            "{\"from\":1,\"to\":{\"group\":4000},\"text\":\"x\"}",
            403,
            "not_member",
        ),
        (messages, &[json], &empty, 422, "invalid"),
        (messages, &[json], &long_text, 422, "invalid"),
        (messages, &[json], &long, 413, "too_large"),
        (messages, &[json, gzip], &good, 415, "compressed"),
        (messages, &[], &good, 415, "not_json"),
        (messages, &[json, ("Idempotency-Key", "")], &good, 400, "bad_idempotency_key"),
        ("/v1/groups", &[json], &many, 422, "invalid"),
        ("/v1/groups", &[json], "{\"name\":\"x\",\"members\":[4000000]}", 404, "not_found"),
        ("/v1/groups", &[json], "{\"name\":\"x\",\"members\":[]}", 422, "invalid"),
        ("/v1/users", &[json], "{\"name\":\"x\",\"password\":\"short\"}", 422, "invalid"),
        ("/v1/nowhere", &[json], "{}", 404, "not_found"),
        ("/", &[], "", 404, "not_found"),
    ] {
        let answer = all.send("POST", path, headers, Some(body.as_bytes())).await;
        let shown: String = body.chars().take(80).collect();
        assert_eq!((answer.status, answer.code()), (status, code), "{path} {shown} {answer:?}");
        assert_eq!(answer.header("Content-Type"), Some("application/problem+json"), "{answer:?}");
    }
    let answer = all.send("POST", messages, &[json], Some(b"{\"from\":1,\"\xff\":1}")).await;
    assert_eq!(answer.status / 100, 4, "{answer:?}");
    let answer = all.send("DELETE", messages, &[], None).await;
    assert_eq!((answer.status, answer.header("Allow")), (405, Some("POST")), "{answer:?}");
    let metrics = cluster.metrics("api_server");
    assert!(metrics.contains("call=\"POST /v1/messages\",status=\"415\""), "{metrics}");
    assert!(!metrics.contains("nowhere"), "what programs make up is no name of a call");
}

#[tokio::test]
async fn bad_questions_are_told_what_is_wrong_with_them() {
    let cluster = Cluster::start();
    let all = program(&cluster, "reads", "read");
    let users = all.get("/v1/users?limit=1").await.body;
    let cursor = users["next"].as_str().unwrap();
    for (path, status) in [
        (format!("/v1/groups?cursor={cursor}"), 422),
        ("/v1/users?cursor=nonsense".to_owned(), 422),
        ("/v1/users?limit=0".to_owned(), 422),
        ("/v1/users?limit=1001".to_owned(), 422),
        ("/v1/users?colour=1".to_owned(), 422),
        ("/v1/users/0".to_owned(), 404),
        ("/v1/users/x".to_owned(), 404),
        ("/v1/users/4294967296".to_owned(), 404),
        ("/v1/users/4000000".to_owned(), 404),
        ("/v1/users/1/messages".to_owned(), 422),
        ("/v1/users/1/messages?with_user=2&in_group=1".to_owned(), 422),
        ("/v1/users/1/messages?with_user=2&before=5&cursor=x".to_owned(), 422),
        ("/v1/groups/4000/members".to_owned(), 404),
    ] {
        let answer = all.get(&path).await;
        assert_eq!(answer.status, status, "{path} {answer:?}");
    }
}

/// What was written for TeamTalk's http_msg_server.
#[tokio::test]
async fn a_program_of_the_original_makes_a_group_and_changes_its_members() {
    let cluster = Cluster::start();
    let program = Program::new(&cluster.api, None);
    let app_key = key(&cluster, "php", "groups");
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let made = json!({
        "req_user_id": 0, "app_key": app_key, "group_name": "team", "group_type": 1,
        "group_avatar": "http://127.0.0.1/team.png", "user_id_list": [1, 2],
    });
    let made = program.call("POST", "/query/CreateGroup", &made).await.body;
    assert_eq!(made["error_code"].as_u64(), Some(0), "{made}");
    let group_id = u32::try_from(made["group_id"].as_u64().unwrap()).unwrap();

    let groups = vec![GroupVersion { group_id, version: 0 }];
    let asked = GroupInfoRequest { groups, ..GroupInfoRequest::default() };
    let info: GroupInfoReply = anna.ask(Command::GroupInfoRequest, &asked).await;
    let [info] = &info.groups[..] else { panic!("{info:?}") };
    assert_eq!((&*info.name, &*info.avatar_url), ("team", "http://127.0.0.1/team.png"));
    assert_eq!((info.creator_id, &info.member_ids[..]), (1, &[1, 2][..]));

    let change = json!({
        "req_user_id": 0, "app_key": app_key, "group_id": group_id, "modify_type": 1,
        "user_id_list": [3],
    });
    let changed = program.call("POST", "/query/ChangeMembers", &change).await.body;
    assert_eq!(changed["error_code"].as_u64(), Some(0), "{changed}");
    let told: GroupMembersNotify = anna.push(Command::GroupMembersNotify).await;
    assert_eq!((told.group_id, &told.current_ids[..]), (group_id, &[1, 2, 3][..]));
}

/// The bots of the documentation.
#[tokio::test]
async fn a_bot_answers_in_a_group_once_also_when_it_is_started_again() {
    for (runs, bot) in [("python3", "bot.py"), ("sh", "bot.sh")] {
        answers_once(runs, bot).await;
    }
}

async fn answers_once(runs: &str, bot: &str) {
    let cluster = Cluster::start();
    let key = key(&cluster, "bot", "read,send");
    let bot = format!("{}/../api_server/examples/{bot}", env!("CARGO_MANIFEST_DIR"));
    let start = || {
        let mut program = process::Command::new(runs);
        program.args([&bot, &cluster.api, &key, "3", "1"]).stdin(Stdio::null());
        program.spawn().unwrap_or_else(|error| panic!("{runs} can be run: {error}"))
    };
    let everyone = Conversation::group(1);
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    for round in 0..2 {
        let mut running = start();
        anna.say(everyone, "ping").await;
        let heard = anna.hears(3, everyone, "pong").await;
        running.kill().expect("it runs");
        running.wait().expect("it was started");
        assert_eq!(heard.msg_id, 2 * (round + 1), "nothing else was said");
    }
}

#[tokio::test]
async fn what_a_key_changes_stands_in_the_log_with_its_name() {
    let cluster = Cluster::start();
    let users = program(&cluster, "hr-sync", "users");
    let made = json!({ "name": "anna", "password": "a long password" });
    assert_eq!(users.call("POST", "/v1/users", &made).await.status, 201);
    let log = cluster.stop().log;
    let line = log.lines().find(|line| line.contains("user added"));
    let line = line.unwrap_or_else(|| panic!("no line in\n{log}"));
    assert!(line.contains("API key hr-sync") && line.contains("anna"), "{line}");
    assert!(!log.contains("a long password"), "no secret stands there");
}

/// Not on the way of messages, it must not hold up the others when it dies.
#[tokio::test]
async fn an_api_server_that_is_killed_is_back_and_ready() {
    let cluster = Cluster::start();
    let program = program(&cluster, "reads", "read");
    cluster.kill_and_wait("api_server");
    wait_until("it answers again", PATIENCE, || {
        cluster.metrics("api_server").contains("talkhub_api_server")
    });
    assert_eq!(program.get("/v1/users").await.status, 200);
}
