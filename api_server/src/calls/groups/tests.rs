//! What a db_proxy is asked for each call about groups, and what the program is told.

use proto::cluster::wire::{AdminAnswer, AdminError};
use serde_json::{Value, json};

use super::*;
use crate::test::{Asked, Site, done, refused};

fn line(id: u32) -> GroupLine {
    GroupLine { id, name: format!("group {id}"), group_type: 1, creator: 2, members: 3 }
}

fn shown(id: u32) -> Value {
    json!({ "id": id, "name": format!("group {id}"), "creator": 2, "members": 3 })
}

#[tokio::test]
async fn groups_are_listed_by_number_page_by_page() {
    let site = Site::start().await;
    let page = |ids: &[u32], more| AdminAnswer {
        groups: ids.iter().copied().map(line).collect(),
        more: Some(more),
        ..done()
    };
    site.answers([page(&[7, 9], true), page(&[12], false)]);
    let (status, first) = site.get("/v1/groups?limit=2").await;
    assert_eq!((status, &first["items"]), (200, &json!([shown(7), shown(9)])));
    let next = first["next"].as_str().unwrap();
    let (_status, last) = site.get(&format!("/v1/groups?cursor={next}")).await;
    assert_eq!(last, json!({ "items": [shown(12)] }));
    let list =
        |after, count| Asked::Admin(What::GroupList(GroupList { after, count: Some(count) }));
    assert_eq!(site.asked(), [list(None, 2), list(Some(9), paging::LIMIT)]);
    site.stop().await;
}

#[tokio::test]
async fn a_group_is_made_of_numbers_the_first_of_which_is_the_creator() {
    let site = Site::start().await;
    site.answers([AdminAnswer { id: Some(31), ..done() }]);
    let body = json!({ "name": "team", "members": [5, 1, 2] });
    assert_eq!(site.call("POST", "/v1/groups", Some(&body)).await, (201, json!({ "id": 31 })));
    let name = "team".to_owned();
    let create = GroupCreate { name, member_ids: vec![5, 1, 2], ..GroupCreate::default() };
    assert_eq!(site.asked(), [Asked::Admin(What::GroupCreate(create))]);
    for (why, status) in [(AdminError::NotFound, 404), (AdminError::Invalid, 422)] {
        site.answers([refused(why)]);
        assert_eq!(site.call("POST", "/v1/groups", Some(&body)).await.0, status);
    }
    site.stop().await;
}

#[tokio::test]
async fn members_come_and_go_by_their_numbers() {
    let site = Site::start().await;
    let change = |add: &[u32], remove: &[u32]| {
        let (add_ids, remove_ids) = (add.to_vec(), remove.to_vec());
        let change = GroupChange { group: 7, add_ids, remove_ids, ..GroupChange::default() };
        Asked::Admin(What::GroupChange(change))
    };
    for (body, asks) in [
        (json!({ "add": [1, 2], "remove": [3] }), change(&[1, 2], &[3])),
        (json!({ "add": [1] }), change(&[1], &[])),
        (json!({ "remove": [1] }), change(&[], &[1])),
    ] {
        site.answers([done()]);
        let changed = site.call("POST", "/v1/groups/7/members", Some(&body)).await;
        assert_eq!(changed, (204, Value::Null), "{body}");
        assert_eq!(site.asked(), [asks], "{body}");
    }
    site.stop().await;
}

#[tokio::test]
async fn more_users_than_one_request_may_name_are_refused_before_anybody_is_asked() {
    let site = Site::start().await;
    let most: Vec<usize> = (1..=MEMBERS_MAX).collect();
    let more: Vec<usize> = (1..=MEMBERS_MAX + 1).collect();
    for (path, body) in [
        ("/v1/groups", json!({ "name": "x", "members": more })),
        ("/v1/groups/7/members", json!({ "add": more })),
        ("/v1/groups/7/members", json!({ "remove": more })),
    ] {
        let (status, problem) = site.call("POST", path, Some(&body)).await;
        assert_eq!((status, problem["code"].as_str()), (422, Some("invalid")), "{path}");
    }
    assert_eq!(site.asked(), []);
    site.answers([done()]);
    let body = json!({ "add": most });
    assert_eq!(site.call("POST", "/v1/groups/7/members", Some(&body)).await.0, 204);
    site.stop().await;
}

#[tokio::test]
async fn the_members_of_a_group_come_page_by_page_with_a_cursor_of_that_group() {
    let site = Site::start().await;
    let page =
        |ids: &[u32], more| AdminAnswer { member_ids: ids.to_vec(), more: Some(more), ..done() };
    site.answers([page(&[1, 5], true), page(&[8], false)]);
    let (status, first) = site.get("/v1/groups/7/members?limit=2").await;
    assert_eq!((status, &first["items"]), (200, &json!([1, 5])));
    let next = first["next"].as_str().unwrap();
    let (_status, last) = site.get(&format!("/v1/groups/7/members?limit=2&cursor={next}")).await;
    assert_eq!(last, json!({ "items": [8] }));
    let asked =
        |after| Asked::Admin(What::GroupMembers(GroupMembers { group: 7, after, count: Some(2) }));
    assert_eq!(site.asked(), [asked(None), asked(Some(5))]);
    let (status, _problem) = site.get(&format!("/v1/groups/8/members?cursor={next}")).await;
    assert_eq!(status, 422, "it is of another group");
    site.answers([refused(AdminError::NotFound)]);
    assert_eq!(site.get("/v1/groups/9/members").await.0, 404);
    site.stop().await;
}

#[tokio::test]
async fn a_group_is_deleted_by_its_number() {
    let site = Site::start().await;
    site.answers([done(), refused(AdminError::NotFound)]);
    assert_eq!(site.call("DELETE", "/v1/groups/7", None).await, (204, Value::Null));
    assert_eq!(site.call("DELETE", "/v1/groups/8", None).await.0, 404);
    let delete = |group| Asked::Admin(What::GroupDelete(GroupDelete { group }));
    assert_eq!(site.asked(), [delete(7), delete(8)]);
    site.stop().await;
}
