//! What programs of TeamTalk's http_msg_server are answered.

use proto::cluster::wire::{AdminAnswer, AdminError};
use serde_json::{Value, json};

use super::*;
use crate::test::{Asked, Site, done, key, refused};

fn group(app_key: &str) -> Value {
    json!({
        "req_user_id": 0, "app_key": app_key, "group_name": "team", "group_type": 2,
        "group_avatar": "a.png", "user_id_list": [5, 1, 2],
    })
}

fn members(modify_type: u32) -> Value {
    json!({
        "req_user_id": 0, "app_key": key().to_text(), "group_id": 7,
        "modify_type": modify_type, "user_id_list": [1, 2],
    })
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

async fn code(site: &Site, call: &str, body: &Value) -> (u16, Option<u64>) {
    let (status, answer) = site.send("POST", &format!("/query/{call}"), &[], Some(body)).await;
    (status, answer["error_code"].as_u64())
}

#[tokio::test]
async fn a_group_is_made_and_its_number_told_in_the_form_of_the_original() {
    let site = Site::start().await;
    site.answers([AdminAnswer { id: Some(31), ..done() }]);
    let body = group(&key().to_text()).to_string();
    // The original asks neither for a method nor for a type of the body.
    let request = format!(
        "PUT /query/CreateGroup HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = site.raw(&request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        body,
        "{\n   \"error_code\" : 0,\n   \"error_msg\" : \"\",\n   \"group_id\" : 31\n}\n"
    );
    for line in [
        "HTTP/1.1 200 OK",
        "Content-Type: text/html;charset=utf-8",
        "Cache-Control: no-cache",
        "Connection: close",
        "Content-Length: 65",
    ] {
        assert!(head.lines().any(|other| other == line), "{line}: {head}");
    }
    let create = GroupCreate {
        name: "team".to_owned(),
        group_type: Some(2),
        avatar: Some("a.png".to_owned()),
        member_ids: vec![5, 1, 2],
        ..GroupCreate::default()
    };
    assert_eq!(site.asked(), [Asked::Admin(What::GroupCreate(create))]);
    site.stop().await;
}

#[tokio::test]
async fn the_user_who_asks_is_the_creator_and_a_member_once() {
    let site = Site::start().await;
    site.answers([AdminAnswer { id: Some(31), ..done() }]);
    let body = with(group(&key().to_text()), "req_user_id", json!(2));
    assert_eq!(code(&site, "CreateGroup", &body).await, (200, Some(0)));
    let asked = site.asked();
    let [Asked::Admin(What::GroupCreate(create))] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(create.member_ids, [2, 5, 1]);
    site.stop().await;
}

#[tokio::test]
async fn members_are_added_by_1_and_removed_by_2() {
    let site = Site::start().await;
    for (kind, add, remove) in [(1, vec![1, 2], vec![]), (2, vec![], vec![1, 2])] {
        site.answers([done()]);
        assert_eq!(code(&site, "ChangeMembers", &members(kind)).await, (200, Some(0)));
        let (add_ids, remove_ids) = (add, remove);
        let change = GroupChange { group: 7, add_ids, remove_ids, ..GroupChange::default() };
        assert_eq!(site.asked(), [Asked::Admin(What::GroupChange(change))]);
    }
    site.stop().await;
}

#[tokio::test]
async fn what_is_missing_null_or_of_another_kind_is_a_wrong_parameter() {
    let site = Site::start().await;
    let good = group(&key().to_text());
    for field in good.as_object().unwrap().keys() {
        let mut missing = good.clone();
        missing.as_object_mut().unwrap().remove(field);
        assert_eq!(code(&site, "CreateGroup", &missing).await, (200, Some(1)), "{field}");
        let null = with(good.clone(), field, Value::Null);
        assert_eq!(code(&site, "CreateGroup", &null).await, (200, Some(1)), "{field}");
    }
    for (field, value) in [
        ("group_type", json!(3)),
        ("user_id_list", json!([])),
        ("user_id_list", json!(["1"])),
        ("user_id_list", json!((0..=MEMBERS_MAX).collect::<Vec<_>>())),
        ("req_user_id", json!(-1)),
    ] {
        let wrong = with(good.clone(), field, value);
        assert_eq!(code(&site, "CreateGroup", &wrong).await, (200, Some(1)), "{wrong}");
    }
    assert_eq!(code(&site, "ChangeMembers", &members(3)).await, (200, Some(1)));
    let list = json!([0, key().to_text(), 7, 1, [1, 2]]);
    assert_eq!(code(&site, "ChangeMembers", &list).await, (200, Some(1)));
    assert_eq!(site.asked(), []);
    site.stop().await;
}

#[tokio::test]
async fn a_body_that_is_no_json_is_answered_400_and_another_path_404() {
    let site = Site::start().await;
    let broken = "POST /query/CreateGroup HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{";
    let answer = site.raw(broken).await;
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"error_code\" : 1"),
        "{answer}"
    );
    assert_eq!(site.send("POST", "/query/Other", &[], None).await.0, 404);
    let huge = format!(
        "POST /query/CreateGroup HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        64 << 20
    );
    assert!(site.raw(&huge).await.starts_with("HTTP/1.1 413 "));
    site.stop().await;
}

#[tokio::test]
async fn a_key_must_be_known_and_be_for_groups() {
    let site = Site::with(&["read", "send"], "").await;
    assert_eq!(code(&site, "CreateGroup", &group(&key().to_text())).await, (200, Some(5)));
    for unknown in ["", "asdfasdf", &ApiKey { id: [1; 8], secret: [9; 32] }.to_text()] {
        assert_eq!(code(&site, "CreateGroup", &group(unknown)).await, (200, Some(2)), "{unknown}");
    }
    assert_eq!(site.asked(), []);
    site.stop().await;
}

#[tokio::test]
async fn what_storage_refuses_is_a_failed_call_and_what_it_cannot_do_now_a_fault_of_the_server() {
    let site = Site::start().await;
    let good = group(&key().to_text());
    for (call, body, failed) in [("CreateGroup", &good, 11), ("ChangeMembers", &members(1), 12)] {
        for (why, expected) in [
            (AdminError::NotFound, failed),
            (AdminError::Invalid, failed),
            (AdminError::NotNow, 10),
            (AdminError::Other, 10),
        ] {
            site.answers([refused(why)]);
            assert_eq!(code(&site, call, body).await, (200, Some(expected)), "{call} {why:?}");
        }
    }
    site.stop().await;
}
