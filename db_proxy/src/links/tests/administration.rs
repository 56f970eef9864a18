//! What administrators do.

use std::time::Duration;

use partition::test::USERS;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    DemoUsers, GroupChange, GroupCreate, GroupDelete, GroupList, Kick, Publish, UserAdd,
    UserDisable, UserList, UserPassword,
};
use tokio::time::timeout;

use super::*;
use crate::commands::people::AVATAR_MAX;

#[tokio::test]
async fn users_are_made_listed_and_disabled() {
    let mut server = Server::start().await;
    let made = server.administer(What::UserAdd(add("alice", "correct horse"))).await;
    assert_eq!(made.id, Some(USERS + 1));
    for (name, password, why) in [
        ("alice", "correct horse", "the name alice is taken"),
        ("", "correct horse", "1 to 128 bytes"),
        (" bob", "correct horse", "white space"),
        ("bob\u{202e}", "correct horse", "direction"),
        (&*"x".repeat(129), "correct horse", "1 to 128 bytes"),
        ("bob", "short", "8 to 128 bytes"),
        ("bob", "Password1", "everybody tries"),
    ] {
        let error = server.refused(What::UserAdd(add(name, password))).await;
        assert!(error.contains(why), "{error}");
    }
    for (name, number) in [("Li Lei", 2), (&*"\u{5f20}".repeat(42), 3)] {
        let made = server.administer(What::UserAdd(add(name, "correct horse"))).await;
        assert_eq!(made.id, Some(USERS + number), "{name}");
    }
    let long = UserAdd { nick: Some("x".repeat(129)), ..add("bob", "correct horse") };
    assert!(server.refused(What::UserAdd(long)).await.contains("nick"));
    let (name, password) = ("nobody".to_owned(), "correct horse".to_owned());
    let error = server.refused(What::UserPassword(UserPassword { name, password })).await;
    assert!(error.contains("user nobody does not exist"), "{error}");

    let (name, enable) = ("alice".to_owned(), None);
    server.administer(What::UserDisable(UserDisable { name, enable })).await;
    let (_link, kick) = server.gateway.frame().await;
    assert_eq!(kick.kind, Kind::Kick.number());
    assert_eq!(kick.parse::<Kick>().unwrap().user, USERS + 1);

    let listed = server.administer(What::UserList(UserList { after: None, count: Some(3) })).await;
    let names: Vec<_> = listed.users.iter().map(|user| (&*user.name, user.disabled)).collect();
    assert_eq!(names, [("Li Lei", false), ("alice", true), ("u1", false)]);
    assert_eq!(listed.more, Some(true));
    let after = Some("u8".to_owned());
    let rest = server.administer(What::UserList(UserList { after, count: Some(3) })).await;
    assert_eq!((rest.users.len(), rest.more), (2, Some(false)));
    server.stop().await;
}

#[tokio::test]
async fn an_administrator_is_told_that_there_is_no_room_and_does_nothing() {
    let server = Server::start().await;
    let all = u32::try_from(BOUNDS.requests).unwrap();
    let taken = server.requests.slots.requests.acquire_many(all).await.unwrap();
    let error = server.refused(What::UserAdd(add("alice", "correct horse"))).await;
    assert_eq!(error, "too many requests are being answered");
    drop(taken);
    server.administer(What::UserAdd(add("alice", "correct horse"))).await;
    server.stop().await;
}

#[tokio::test]
async fn groups_are_made_changed_and_listed() {
    let mut server = Server::start().await;
    let created = server.administer(What::GroupCreate(create("team", &["u2", "u1"], None))).await;
    assert_eq!(created.id, Some(1));
    let (_link, frame) = server.gateway.frame().await;
    let publish: Publish = frame.parse().unwrap();
    assert!(publish.frame.is_empty() && publish.added == [2, 1], "quietly: {publish:?}");

    let error = server.refused(What::GroupCreate(create("team", &["u1"], Some(1)))).await;
    assert!(error.contains("group number 1 is taken"), "{error}");
    assert!(!server.refused(What::GroupCreate(create("", &["u1"], None))).await.is_empty());
    assert!(!server.refused(What::GroupCreate(create("team", &[], None))).await.is_empty());
    let pictured = |len: usize| {
        let avatar = Some("p".repeat(len));
        What::GroupCreate(GroupCreate { avatar, ..create("pictured", &["u9"], None) })
    };
    let error = server.refused(pictured(AVATAR_MAX + 1)).await;
    assert!(error.contains("at most 1024 bytes"), "{error}");
    let error = server.refused(What::GroupCreate(create("team", &["nobody"], None))).await;
    assert!(error.contains("user nobody does not exist"), "{error}");

    server.administer(What::GroupChange(change(1, &["u3"], &["u1"]))).await;
    for (added, removed) in [(vec![3], vec![]), (vec![], vec![1])] {
        let (_link, frame) = server.gateway.frame().await;
        let publish: Publish = frame.parse().unwrap();
        assert_eq!((publish.added, publish.removed), (added, removed), "one notice for each");
    }
    let error = server.refused(What::GroupChange(change(9, &["u3"], &[]))).await;
    assert!(error.contains("group 9 does not exist"), "{error}");
    assert!(!server.refused(What::GroupChange(change(1, &[], &[]))).await.is_empty());

    server.proxy.stored().await;
    let listed = server.administer(What::GroupList(GroupList { after: None, count: None })).await;
    let [line] = &listed.groups[..] else { panic!("{listed:?}") };
    assert_eq!((line.id, &*line.name, line.group_type), (1, "team", 1));
    assert_eq!((line.creator, line.members, listed.more), (2, 2, Some(false)));

    server.administer(What::GroupDelete(GroupDelete { group: 1 })).await;
    let (_link, frame) = server.gateway.frame().await;
    let publish: Publish = frame.parse().unwrap();
    assert_eq!((publish.added, publish.removed), (vec![], vec![2, 3]), "all have left");
    server.administer(What::GroupDelete(GroupDelete { group: 1 })).await;
    let error = server.refused(What::GroupDelete(GroupDelete { group: 9 })).await;
    assert!(error.contains("group 9 does not exist"), "{error}");
    let error = server.refused(What::GroupChange(change(1, &["u3"], &[]))).await;
    assert!(error.contains("group 1 does not exist"), "{error}");
    server.proxy.stored().await;
    let listed = server.administer(What::GroupList(GroupList { after: None, count: None })).await;
    assert!(listed.groups.is_empty(), "{listed:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_demonstration_has_users_and_a_group_however_often_it_is_asked_for() {
    let server = Server::start().await;
    let demo = |count, members| {
        let password = "demonstration".to_owned();
        What::DemoUsers(DemoUsers { count, password, group_members: Some(members) })
    };
    for (count, members, expected) in [(30, 10, 10), (40, 40, 40), (40, 5, 40)] {
        server.administer(demo(count, members)).await;
        let everyone = partition::test::group(1);
        let members = server.proxy.state().with(everyone, |group| group.current_members().len());
        assert_eq!(members.await.unwrap(), expected);
    }
    let login = Verify {
        name: "u40".to_owned(),
        credential: proto::credential::of_password("demonstration"),
        client_type: 1,
        address: String::new(),
    };
    let verified: Verified =
        server.link.call(Kind::Verify.number(), &login, PATIENCE).await.unwrap();
    assert_eq!(verified.user, Some(40));
    assert!(server.refused(demo(2_000_000, 0)).await.contains("at most"));
    server.stop().await;
}

#[tokio::test]
async fn a_demonstration_may_have_a_group_that_no_single_record_could_make() {
    let server = Server::start().await;
    let count = 120_000;
    let password = "demonstration".to_owned();
    let demo = DemoUsers { count, password, group_members: Some(count) };
    server.administer(What::DemoUsers(demo)).await;
    let everyone = partition::test::group(1);
    let members = server.proxy.state().with(everyone, |group| group.current_members().len());
    assert_eq!(members.await.unwrap(), count as usize);
    server.stop().await;
}

#[tokio::test]
async fn neither_role_may_ask_what_is_for_the_other() {
    let server = Server::start().await;
    let (_far, admin) = server.admin().await;
    let unread = Ask {
        user: 1,
        client_type: 1,
        origin: origin(),
        command: u32::from(Command::UnreadCountRequest.number()),
        ..Ask::default()
    };
    admin.call::<Answer>(Kind::Ask.number(), &unread, PATIENCE).await.unwrap_err();

    let list = AdminRequest { what: Some(What::UserList(UserList::default())), by: None };
    let short = Duration::from_millis(200);
    server.link.call::<AdminAnswer>(Kind::Admin.number(), &list, short).await.unwrap_err();
    let gone = timeout(PATIENCE, async {
        while !admin.is_closed() {
            tokio::task::yield_now().await;
        }
    });
    gone.await.expect("the link of such an administrator is reset");
    server.stop().await;
}

fn add(name: &str, password: &str) -> UserAdd {
    let (name, password) = (name.to_owned(), password.to_owned());
    UserAdd { name, password, nick: None, department: None }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn create(name: &str, members: &[&str], group: Option<u32>) -> GroupCreate {
    GroupCreate { name: name.to_owned(), members: names(members), group, ..GroupCreate::default() }
}

fn change(group: u32, add: &[&str], remove: &[&str]) -> GroupChange {
    GroupChange { group, add: names(add), remove: names(remove), ..GroupChange::default() }
}

impl Server {
    /// Carries out one request as an administrator.
    pub(super) async fn administer(&self, what: What) -> AdminAnswer {
        let answer = self.try_administer(what).await;
        assert!(answer.done, "{answer:?}");
        answer
    }

    pub(super) async fn refused(&self, what: What) -> String {
        let answer = self.try_administer(what).await;
        assert!(!answer.done, "{answer:?}");
        answer.error.expect("a reason")
    }

    pub(super) async fn try_administer(&self, what: What) -> AdminAnswer {
        let (_far, admin) = self.admin().await;
        let request = AdminRequest { what: Some(what), by: None };
        admin.call(Kind::Admin.number(), &request, PATIENCE).await.unwrap()
    }
}
