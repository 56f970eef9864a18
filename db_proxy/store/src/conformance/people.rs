//! Users, departments, device tokens, group numbers.

use std::collections::BTreeMap;

use proto::ids::{GroupId, UserId};

use super::{Owner, group, numbered, row, someone};
use crate::{Batch, DepartmentRow, NewUser, Since, Store, StoreError, UserChange, UserRow};

pub(crate) async fn a_user_is_found_by_exact_name_and_by_number(store: &dyn Store) {
    store.add_users(vec![numbered(5, "Alice"), numbered(6, "bob")], false).await.unwrap();

    let alice = store.user_by_name("Alice".to_owned()).await.unwrap().unwrap();
    let expected = UserRow {
        id: UserId(5),
        name: "Alice".to_owned(),
        password_hash: "$argon2id$Alice".to_owned(),
        nick: "Alice the user".to_owned(),
        gender: 0,
        avatar: String::new(),
        department: 1,
        email: String::new(),
        tel: String::new(),
        domain: "alice".to_owned(),
        status: 0,
        sign: String::new(),
        stamp: alice.stamp,
        push_shield: false,
    };
    assert_eq!(alice, expected);
    for other in ["alice", "ALICE", "Alice ", " Alice", "Àlice", "Alice\0", ""] {
        assert_eq!(store.user_by_name(other.to_owned()).await.unwrap(), None, "{other:?}");
    }

    let found = store.users(vec![UserId(6), UserId(7), UserId(5)]).await.unwrap();
    assert_eq!(numbers(found), [5, 6]);
}

pub(crate) async fn users_without_a_number_get_the_next_one(store: &dyn Store) {
    let made = store.add_users(vec![someone("a"), numbered(10, "b"), someone("c")], false).await;
    assert_eq!(made.unwrap(), [1, 10, 11].map(UserId));
    let made = store.add_users(vec![numbered(4, "d"), someone("e")], false).await;
    assert_eq!(made.unwrap(), [4, 12].map(UserId));
}

pub(crate) async fn a_taken_name_refuses_all(store: &dyn Store) {
    store.add_users(vec![someone("taken"), someone("Taken")], false).await.unwrap();

    assert_taken(store.add_users(vec![someone("new"), someone("taken")], false).await, "taken");
    assert_taken(store.add_users(vec![someone("twice"), someone("twice")], false).await, "twice");
    for name in ["new", "twice"] {
        assert_eq!(store.user_by_name(name.to_owned()).await.unwrap(), None, "{name}");
    }
}

pub(crate) async fn a_taken_number_refuses_all(store: &dyn Store) {
    store.add_users(vec![numbered(7, "seven")], false).await.unwrap();

    for (number, skip_existing) in [(7, false), (7, true), (0, false)] {
        let users = vec![someone("new"), numbered(number, "newer")];
        assert_taken(store.add_users(users, skip_existing).await, &number.to_string());
        assert_eq!(store.user_by_name("new".to_owned()).await.unwrap(), None, "{number}");
    }
}

pub(crate) async fn existing_names_are_skipped_when_asked_for(store: &dyn Store) {
    store.add_users(vec![numbered(3, "old")], false).await.unwrap();
    let before = store.users(vec![UserId(3)]).await.unwrap();

    let users = vec![someone("a"), numbered(9, "old"), someone("b"), someone("a")];
    assert_eq!(store.add_users(users, true).await.unwrap(), [4, 5].map(UserId));
    assert_eq!(store.users(vec![UserId(3), UserId(9)]).await.unwrap(), before);
    assert_eq!(store.add_users(Vec::new(), true).await.unwrap(), []);
}

pub(crate) async fn users_come_by_name_in_pages(store: &dyn Store) {
    let users = ["c", "a", "b", "B", "ä"].map(someone).to_vec();
    store.add_users(users, false).await.unwrap();
    let page = async |after: &str, count| {
        let users = store.users_by_name(after.to_owned(), count).await.unwrap();
        users.into_iter().map(|user| user.name).collect::<Vec<_>>()
    };

    assert_eq!(page("", 3).await, ["B", "a", "b"]);
    assert_eq!(page("b", 3).await, ["c", "ä"]);
    assert_eq!(page("ä", 3).await, Vec::<String>::new());
}

pub(crate) async fn every_change_raises_the_stamp(store: &dyn Store) {
    let (users, none) = store.users_since(Since::default(), 10).await.unwrap();
    assert_eq!((users, none), (Vec::new(), 0));
    store.add_users(vec![someone("a"), someone("b")], false).await.unwrap();
    let (_, mut newest) = store.users_since(Since::default(), 10).await.unwrap();
    assert!(newest > 0);

    for change in changes() {
        store.change_user(UserId(1), change.clone()).await.unwrap();
        let (changed, stamp) = store.users_since(Since::stamp(newest + 1), 10).await.unwrap();
        assert!(stamp > newest, "{change:?}");
        assert_eq!(changed.iter().map(|user| user.stamp).collect::<Vec<_>>(), [stamp]);
        assert_eq!(numbers(changed), [1], "{change:?}");
        newest = stamp;
    }
    store.add_users(vec![someone("c")], false).await.unwrap();
    assert!(store.users_since(Since::default(), 10).await.unwrap().1 > newest);
}

pub(crate) async fn a_change_is_kept(store: &dyn Store) {
    store.add_users(vec![someone("a"), someone("b")], false).await.unwrap();
    let other = store.users(vec![UserId(2)]).await.unwrap();
    for change in changes() {
        store.change_user(UserId(1), change).await.unwrap();
    }

    let user = store.user_by_name("a".to_owned()).await.unwrap().unwrap();
    assert_eq!(user.password_hash, "$new");
    assert_eq!(user.status, 3);
    assert_eq!(user.sign, "away");
    assert_eq!(user.avatar, "a.png");
    assert!(user.push_shield);
    assert_eq!(user.nick, "a the user");
    assert_eq!(store.users(vec![UserId(2)]).await.unwrap(), other);
}

pub(crate) async fn a_change_of_an_unknown_user_is_an_error(store: &dyn Store) {
    for change in changes() {
        let error = store.change_user(UserId(1), change).await.unwrap_err();
        assert!(matches!(error, StoreError::Missing(_)), "{error}");
    }
}

/// A client asks again with the newest stamp it has; if more users than a page had that one, it
/// would never get further.
pub(crate) async fn a_hash_made_anew_replaces_only_the_one_it_was_made_of(store: &dyn Store) {
    store.add_users(vec![numbered(5, "Alice"), numbered(6, "bob")], false).await.unwrap();
    let before = store.users(vec![UserId(5)]).await.unwrap().remove(0);
    let rehash = |from: &str, to: &str| UserChange::Rehash { from: from.into(), to: to.into() };
    for (from, to, expected) in [
        ("$argon2id$other", "new", "$argon2id$Alice"),
        ("$argon2id$alice", "new", "$argon2id$Alice"),
        ("$argon2id$Alice", "new", "new"),
        ("$argon2id$Alice", "newer", "new"),
    ] {
        store.change_user(UserId(5), rehash(from, to)).await.unwrap();
        let after = store.users(vec![UserId(5)]).await.unwrap().remove(0);
        assert_eq!(after, UserRow { password_hash: expected.to_owned(), ..before.clone() });
    }
    let bob = store.users(vec![UserId(6)]).await.unwrap().remove(0);
    assert_eq!(bob.password_hash, "$argon2id$bob");
}

pub(crate) async fn few_users_share_a_stamp(store: &dyn Store) {
    let users = (0..5_000).map(|number| someone(&format!("user{number}"))).collect();
    assert_eq!(store.add_users(users, false).await.unwrap().len(), 5_000);

    let (users, newest) = store.users_since(Since::default(), usize::MAX).await.unwrap();
    let mut sharing = BTreeMap::<u32, u32>::new();
    for user in &users {
        *sharing.entry(user.stamp).or_default() += 1;
    }
    assert_eq!(users.len(), 5_000);
    assert!(sharing.values().all(|count| *count <= 256), "{sharing:?}");
    assert_eq!(sharing.last_key_value().map(|(stamp, _)| *stamp), Some(newest));
}

pub(crate) async fn users_come_by_stamp_and_number(store: &dyn Store) {
    store.add_users(vec![numbered(9, "a"), numbered(2, "b")], false).await.unwrap();
    store.add_users(vec![numbered(1, "c"), numbered(8, "d")], false).await.unwrap();
    store.change_user(UserId(2), UserChange::Sign(String::new())).await.unwrap();

    let order = async |stamp, count| {
        let (users, _) = store.users_since(Since::stamp(stamp), count).await.unwrap();
        users.into_iter().map(|user| user.id.0).collect::<Vec<_>>()
    };
    let stamp_of_8 = store.users(vec![UserId(8)]).await.unwrap()[0].stamp;
    assert_eq!(order(0, 10).await, [9, 1, 8, 2]);
    assert_eq!(order(0, 2).await, [9, 1]);
    assert_eq!(order(stamp_of_8, 10).await, [1, 8, 2]);
    assert_eq!(order(stamp_of_8 + 1, 10).await, [2]);
    // A list that was cut goes on in the middle of a stamp.
    let from_8 = Since { stamp: stamp_of_8, id: 8 };
    let (users, _) = store.users_since(from_8, 10).await.unwrap();
    assert_eq!(users.iter().map(|user| user.id.0).collect::<Vec<_>>(), [8, 2]);
}

pub(crate) async fn there_is_one_department_to_begin_with(store: &dyn Store) {
    let (departments, newest) = store.departments_since(Since::default(), 10).await.unwrap();

    let name = "All".to_owned();
    let first = DepartmentRow { id: 1, priority: 0, name, parent: 0, status: 0, stamp: newest };
    assert_eq!(departments, [first]);
    assert!(newest > 0);
    // What a client has, it gets again: something may have changed in the same second.
    let again = store.departments_since(Since::stamp(newest), 10).await.unwrap();
    assert_eq!(again, (departments, newest));
    let later = Since { stamp: newest, id: 2 };
    assert_eq!(store.departments_since(later, 10).await.unwrap(), (Vec::new(), newest));
    assert_eq!(store.departments_since(Since::default(), 0).await.unwrap().0, []);
}

pub(crate) async fn device_tokens_are_taken_and_forgotten(store: &dyn Store) {
    let set = async |user, client_type, token: Option<&str>| {
        let token = token.map(str::to_owned);
        store.set_device_token(UserId(user), client_type, token).await.unwrap();
    };
    set(1, 0x11, Some("token")).await;
    set(1, 0x11, Some("token")).await;
    set(1, 0x12, Some("another")).await;
    set(2, 0x11, Some("token")).await;
    set(2, 0x11, None).await;
    set(3, 0x11, None).await;
}

pub(crate) async fn a_group_number_is_given_out_once(store: &dyn Store) {
    assert_eq!(store.allocate_group(None).await.unwrap(), GroupId(1));
    assert_eq!(store.allocate_group(None).await.unwrap(), GroupId(2));
    for number in [0, 1, 2] {
        let wanted = store.allocate_group(Some(GroupId(number))).await;
        assert_taken(wanted, &number.to_string());
    }
    assert_eq!(store.allocate_group(None).await.unwrap(), GroupId(3));
}

pub(crate) async fn a_chosen_group_number_is_given_out_once(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    owner.write(Batch { conversations: vec![row(group(3), 0)], ..Batch::default() }).await;

    for number in [2, 4_000_000_000] {
        let wanted = Some(GroupId(number));
        assert_eq!(store.allocate_group(wanted).await.unwrap(), GroupId(number));
        assert_taken(store.allocate_group(wanted).await, &number.to_string());
    }
    assert_taken(store.allocate_group(Some(GroupId(3))).await, "3");
    // Neither the chosen 2 nor the 3 that has a conversation.
    assert_eq!(store.allocate_group(None).await.unwrap(), GroupId(1));
    assert_eq!(store.allocate_group(None).await.unwrap(), GroupId(4));
}

fn changes() -> [UserChange; 5] {
    [
        UserChange::Password("$new".to_owned()),
        UserChange::Status(3),
        UserChange::Sign("away".to_owned()),
        UserChange::Avatar("a.png".to_owned()),
        UserChange::PushShield(true),
    ]
}

fn numbers(users: Vec<UserRow>) -> Vec<u32> {
    let mut numbers: Vec<_> = users.into_iter().map(|user| user.id.0).collect();
    numbers.sort_unstable();
    numbers
}

fn assert_taken<T: std::fmt::Debug>(result: Result<T, StoreError>, what: &str) {
    let error = result.unwrap_err();
    let StoreError::Taken(text) = error else { panic!("{error}") };
    assert!(text.contains(what), "{text}");
}

pub(crate) async fn numbers_that_are_taken_in_a_row_are_passed_over(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    let conversations = (1..=60).map(|number| row(group(number), 0)).collect();
    owner.write(Batch { conversations, ..Batch::default() }).await;
    for number in 61..=70 {
        store.allocate_group(Some(GroupId(number))).await.unwrap();
    }
    assert_eq!(store.allocate_group(None).await.unwrap(), GroupId(71));
    assert_eq!(store.allocate_group(None).await.unwrap(), GroupId(72));
}

pub(crate) async fn many_users_come_in_the_order_asked_for(store: &dyn Store) {
    let users = (1..=300).map(|number| numbered(number, &format!("user{number}"))).collect();
    store.add_users(users, false).await.unwrap();
    for count in [1, 2, 15, 16, 17, 127, 128, 129, 290] {
        // Every second one is asked for twice, and some do not exist.
        let asked: Vec<u32> = (0..count).map(|n| 305 - n / 2).collect();
        let found = store.users(asked.iter().copied().map(UserId).collect()).await.unwrap();
        let found: Vec<u32> = found.into_iter().map(|user| user.id.0).collect();
        let expected: Vec<u32> = asked.into_iter().filter(|id| *id <= 300).collect();
        assert_eq!(found, expected, "{count}");
    }
    assert_eq!(store.users(Vec::new()).await.unwrap(), []);
}

pub(crate) async fn what_is_taken_is_found_among_many(store: &dyn Store) {
    store.add_users(vec![numbered(900, "taken")], false).await.unwrap();
    for place in [0, 130, 299] {
        let many = |at_place: NewUser| {
            let mut many: Vec<_> = (0..300).map(|n| someone(&format!("{place}-{n}"))).collect();
            many[place] = at_place;
            many
        };
        assert_taken(store.add_users(many(someone("taken")), false).await, "taken");
        assert_taken(store.add_users(many(numbered(900, "new")), false).await, "900");
        let made = store.add_users(many(numbered(900, "taken")), true).await;
        assert_eq!(made.unwrap().len(), 299, "{place}");
    }
}

pub(crate) async fn a_page_of_users_ends_in_the_middle_of_a_stamp(store: &dyn Store) {
    let users = [9, 4, 7, 1].map(|number| numbered(number, &format!("user{number}"))).to_vec();
    store.add_users(users, false).await.unwrap();
    let (mut since, mut seen) = (Since::default(), Vec::new());
    loop {
        let (page, newest) = store.users_since(since, 1).await.unwrap();
        let [user] = &page[..] else { break };
        assert_eq!(user.stamp, newest);
        seen.push(user.id.0);
        since = Since { stamp: user.stamp, id: user.id.0 + 1 };
    }
    assert_eq!(seen, [1, 4, 7, 9]);
}

pub(crate) async fn no_users_are_made_of_none(store: &dyn Store) {
    for skip_existing in [false, true] {
        assert_eq!(store.add_users(Vec::new(), skip_existing).await.unwrap(), []);
    }
    assert_eq!(store.users_since(Since::default(), 9).await.unwrap(), (Vec::new(), 0));
    assert_eq!(store.add_users(vec![someone("first")], false).await.unwrap(), [UserId(1)]);
}
