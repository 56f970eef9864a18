//! What a db_proxy is asked for each call about users, and what the program is told.

use proto::cluster::wire::{AdminError, SessionLine};
use serde_json::{Value, json};

use super::*;
use crate::test::{Asked, Site, done, refused};

fn line(id: u32, name: &str) -> UserLine {
    let nick = format!("{name}'s nick");
    UserLine { id, name: name.to_owned(), nick, department: 3, disabled: false }
}

fn shown(id: u32, name: &str) -> Value {
    let nick = format!("{name}'s nick");
    json!({ "id": id, "name": name, "nick": nick, "department": 3, "disabled": false })
}

fn users(users: &[UserLine]) -> AdminAnswer {
    AdminAnswer { users: users.to_vec(), ..done() }
}

fn find_id(id: u32) -> Asked {
    Asked::Admin(What::UserFind(UserFind { id: Some(id), name: None }))
}

fn find_name(name: &str) -> Asked {
    Asked::Admin(What::UserFind(UserFind { id: None, name: Some(name.to_owned()) }))
}

#[tokio::test]
async fn users_are_listed_by_name_page_by_page() {
    let site = Site::start().await;
    let more = AdminAnswer { more: Some(true), ..users(&[line(2, "anna"), line(1, "ben")]) };
    site.answers([more, users(&[line(3, "carl")])]);
    let (status, page) = site.get("/v1/users?limit=2").await;
    assert_eq!((status, &page["items"]), (200, &json!([shown(2, "anna"), shown(1, "ben")])));
    let next = page["next"].as_str().unwrap();
    let (status, page) = site.get(&format!("/v1/users?limit=2&cursor={next}")).await;
    assert_eq!((status, page), (200, json!({ "items": [shown(3, "carl")] })));
    let list = |after: Option<&str>| {
        let after = after.map(str::to_owned);
        Asked::Admin(What::UserList(UserList { after, count: Some(2) }))
    };
    assert_eq!(site.asked(), [list(None), list(Some("ben"))]);
    site.stop().await;
}

#[tokio::test]
async fn a_page_that_is_the_last_names_no_next_one() {
    let site = Site::start().await;
    // It says that there is more, and names nobody.
    site.answers([AdminAnswer { more: Some(true), ..users(&[]) }]);
    assert_eq!(site.get("/v1/users").await, (200, json!({ "items": [] })));
    let all = UserList { after: None, count: Some(paging::LIMIT) };
    assert_eq!(site.asked(), [Asked::Admin(What::UserList(all))]);
    site.stop().await;
}

#[tokio::test]
async fn one_user_is_found_by_name_or_number() {
    let site = Site::start().await;
    site.answers([users(&[line(2, "anna")]), refused(AdminError::NotFound)]);
    let (status, page) = site.get("/v1/users?name=anna").await;
    assert_eq!((status, page), (200, json!({ "items": [shown(2, "anna")] })));
    assert_eq!(site.get("/v1/users?name=nobody").await, (200, json!({ "items": [] })));
    site.answers([refused(AdminError::NotNow)]);
    assert_eq!(site.get("/v1/users?name=anna").await.0, 503);
    assert_eq!(site.asked(), [find_name("anna"), find_name("nobody"), find_name("anna")]);

    site.answers([users(&[line(7, "ben")]), refused(AdminError::NotFound), users(&[])]);
    assert_eq!(site.get("/v1/users/7").await, (200, shown(7, "ben")));
    for _missing in 0..2 {
        let (status, problem) = site.get("/v1/users/8").await;
        assert_eq!((status, problem["code"].as_str()), (404, Some("not_found")));
    }
    assert_eq!(site.asked(), [find_id(7), find_id(8), find_id(8)]);
    site.stop().await;
}

#[tokio::test]
async fn a_user_is_made_as_asked_for_and_shown() {
    let site = Site::start().await;
    site.answers([done(), users(&[line(9, "anna")]), done(), users(&[line(9, "anna")])]);
    let whole = json!({ "name": "anna", "password": "secret", "nick": "A", "department": 4 });
    let made = site.call("POST", "/v1/users", Some(&whole)).await;
    assert_eq!(made, (201, shown(9, "anna")));
    let least = json!({ "name": "anna", "password": "secret" });
    assert_eq!(site.call("POST", "/v1/users", Some(&least)).await.0, 201);
    let add = |nick: Option<&str>, department| {
        let (name, password) = ("anna".to_owned(), "secret".to_owned());
        let nick = nick.map(str::to_owned);
        Asked::Admin(What::UserAdd(UserAdd { name, password, nick, department }))
    };
    let asked = [add(Some("A"), Some(4)), find_name("anna"), add(None, None), find_name("anna")];
    assert_eq!(site.asked(), asked);
    site.stop().await;
}

#[tokio::test]
async fn why_a_user_is_not_made_is_told() {
    let site = Site::start().await;
    let body = json!({ "name": "anna", "password": "secret" });
    for (why, status, code) in [
        (AdminError::Taken, 409, "taken"),
        (AdminError::Invalid, 422, "invalid"),
        (AdminError::NotNow, 503, "unavailable"),
        (AdminError::Other, 500, "internal"),
    ] {
        site.answers([refused(why)]);
        let (told, problem) = site.call("POST", "/v1/users", Some(&body)).await;
        assert_eq!((told, problem["code"].as_str()), (status, Some(code)));
        assert_eq!(problem["status"], status);
        let detail = problem["detail"].as_str().unwrap();
        assert_eq!(detail == "no", why != AdminError::Other, "what is ours is not told: {detail}");
    }
    assert_eq!(site.asked().len(), 4);
    for body in [json!({ "name": "x" }), json!({ "name": "x", "password": "y", "role": 1 })] {
        assert_eq!(site.call("POST", "/v1/users", Some(&body)).await.0, 422, "{body}");
    }
    assert_eq!(site.asked(), [], "nobody is asked");
    site.stop().await;
}

#[tokio::test]
async fn what_is_done_to_a_user_is_done_by_name() {
    let site = Site::start().await;
    let name = || "anna".to_owned();
    let password = json!({ "password": "another one" });
    let set = UserPassword { name: name(), password: "another one".to_owned() };
    let disabled = |enable| What::UserDisable(UserDisable { name: name(), enable: Some(enable) });
    for (method, path, body, what) in [
        ("PUT", "password", Some(&password), What::UserPassword(set)),
        ("PUT", "disabled", None, disabled(false)),
        ("DELETE", "disabled", None, disabled(true)),
        ("DELETE", "sessions", None, What::UserKick(UserKick { name: name() })),
    ] {
        site.answers([users(&[line(5, "anna")]), done()]);
        let path = format!("/v1/users/5/{path}");
        assert_eq!(site.call(method, &path, body).await, (204, Value::Null), "{path}");
        assert_eq!(site.asked(), [find_id(5), Asked::Admin(what)], "{path}");
        site.answers([refused(AdminError::NotFound)]);
        assert_eq!(site.call(method, &path, body).await.0, 404, "{path}");
        assert_eq!(site.asked(), [find_id(5)], "{path}");
    }
    site.stop().await;
}

#[tokio::test]
async fn sessions_are_shown_with_their_devices_and_the_gateways_that_are_silent() {
    let site = Site::start().await;
    let session = |client_type| SessionLine {
        client_type,
        address: "192.0.2.1".to_owned(),
        since: 9,
        gateway: "gate".to_owned(),
    };
    let answer = AdminAnswer {
        sessions: [1, 2, 0x11, 0x12, 0x99].map(session).to_vec(),
        silent: vec!["other".to_owned()],
        ..done()
    };
    site.answers([users(&[line(5, "anna")]), answer]);
    let (status, shown) = site.get("/v1/users/5/sessions").await;
    assert_eq!((status, &shown["silent_gateways"]), (200, &json!(["other"])));
    let items = shown["items"].as_array().unwrap();
    let devices: Vec<_> = items.iter().map(|item| item["device"].as_str().unwrap()).collect();
    assert_eq!(devices, ["windows", "mac", "ios", "android", "other"]);
    let first =
        json!({ "device": "windows", "address": "192.0.2.1", "since": 9, "gateway": "gate" });
    assert_eq!(items[0], first);
    let of = What::UserSessions(UserSessions { name: "anna".to_owned() });
    assert_eq!(site.asked(), [find_id(5), Asked::Admin(of)]);
    site.stop().await;
}

#[tokio::test]
async fn a_ticket_is_for_the_kind_of_client_that_was_named() {
    let site = Site::start().await;
    for (device, client_type) in [("windows", 1), ("mac", 2), ("ios", 0x11), ("android", 0x12)] {
        let ticket =
            AdminAnswer { ticket: Some(vec![0, 0xaf].into()), lifetime_s: Some(60), ..done() };
        site.answers([users(&[line(5, "anna")]), ticket]);
        let body = json!({ "device": device });
        let made = site.call("POST", "/v1/users/5/tickets", Some(&body)).await;
        assert_eq!(made, (201, json!({ "ticket": "00af", "lifetime": 60 })));
        let wanted = What::UserTicket(UserTicket { name: "anna".to_owned(), client_type });
        assert_eq!(site.asked(), [find_id(5), Asked::Admin(wanted)]);
    }
    let unknown = json!({ "device": "fridge" });
    assert_eq!(site.call("POST", "/v1/users/5/tickets", Some(&unknown)).await.0, 422);
    site.stop().await;
}
