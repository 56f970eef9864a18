//! The lists of users and groups, and the states they are made of.

use futures_util::future::join_all;
use proto::ids::{ConversationId, MsgId, UserId};

use super::{Owner, group, mark, member, row, single, talk};
use crate::{Batch, GroupRow, MarkRow, MemberRow, Store, UserConversation};

pub(crate) async fn both_users_of_a_conversation_have_it_in_their_lists(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    for (one, other) in [(1, 2), (2, 3), (1, 3), (3, 4)] {
        owner.write(talk(one, other, 2)).await;
    }

    assert_eq!(listed(store, 2).await, [single(1, 2), single(2, 3)]);
    assert_eq!(listed(store, 3).await, [single(1, 3), single(2, 3), single(3, 4)]);
    assert_eq!(listed(store, 5).await, []);
    assert_eq!(list(store, 4).await[0].row, row(single(3, 4), 2));
}

pub(crate) async fn a_conversation_without_a_message_is_in_no_list(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    owner.write(Batch { conversations: vec![row(single(1, 2), 0)], ..Batch::default() }).await;

    assert_eq!(listed(store, 1).await, []);
    assert_eq!(listed(store, 2).await, []);
}

pub(crate) async fn a_group_is_in_the_lists_of_members_past_and_present(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    owner
        .write(Batch {
            conversations: vec![row(group(1), 0), row(group(2), 5)],
            members: vec![member(1, 1, None), member(1, 2, None), member(2, 1, Some(3))],
            ..Batch::default()
        })
        .await;
    owner.write(talk(1, 2, 1)).await;

    let of_one = list(store, 1).await;
    let ids: Vec<_> = of_one.iter().map(|entry| entry.row.id).collect();
    assert_eq!(ids, [group(1), group(2), single(1, 2)]);
    assert_eq!(of_one[0].member, Some(member(1, 1, None)));
    assert_eq!(of_one[1].member, Some(member(2, 1, Some(3))));
    assert_eq!(of_one[1].row, row(group(2), 5));
    assert_eq!(of_one[2].member, None);
    assert_eq!(listed(store, 2).await, [group(1), single(1, 2)]);
}

pub(crate) async fn groups_are_counted_that_users_are_in_now(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    owner
        .write(Batch {
            conversations: vec![row(group(1), 3), row(group(2), 1)],
            members: vec![
                member(1, 1, None),
                member(2, 1, None),
                member(1, 2, Some(3)),
                member(2, 2, None),
                member(1, 3, Some(1)),
            ],
            ..Batch::default()
        })
        .await;

    let asked = [4, 3, 2, 1].map(UserId).to_vec();
    let mut joined = store.groups_joined(asked).await.unwrap();
    joined.sort_unstable();
    assert_eq!(joined, [(UserId(1), 2), (UserId(2), 1)]);
    assert_eq!(store.groups_joined(Vec::new()).await.unwrap(), []);
}

pub(crate) async fn a_deleted_group_stays_and_is_in_no_list_of_groups(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    let mut deleted = row(group(1), 3);
    deleted.group = deleted.group.map(|group| GroupRow { deleted: true, version: 2, ..group });
    owner
        .write(Batch {
            conversations: vec![row(group(1), 3), row(group(2), 1)],
            members: vec![member(1, 1, None), member(2, 1, None)],
            ..Batch::default()
        })
        .await;
    owner
        .write(Batch {
            conversations: vec![deleted.clone()],
            members: vec![member(1, 1, Some(3))],
            ..Batch::default()
        })
        .await;

    assert_eq!(store.conversation(group(1), 0).await.unwrap().row, Some(deleted.clone()));
    assert_eq!(list(store, 1).await[0].row, deleted);
    assert_eq!(store.groups(0, 10).await.unwrap(), [(row(group(2), 1), 1)]);
}

pub(crate) async fn a_list_has_the_users_own_marks(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    owner.write(talk(1, 2, 4)).await;
    owner.write(talk(2, 3, 4)).await;
    let of_the_group = MarkRow { removed_at: MsgId(3), shield: true, ..mark(group(1), 2, 2) };
    owner
        .write(Batch {
            conversations: vec![row(group(1), 3)],
            members: vec![member(1, 2, None)],
            marks: vec![mark(single(1, 2), 1, 1), mark(single(1, 2), 2, 4), of_the_group],
            ..Batch::default()
        })
        .await;

    let marks: Vec<_> = list(store, 2).await.into_iter().map(|entry| entry.mark).collect();
    assert_eq!(marks, [Some(of_the_group), Some(mark(single(1, 2), 2, 4)), None]);
}

pub(crate) async fn lists_that_are_asked_for_together_are_those_of_each_user(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    for (one, other) in [(1, 2), (2, 3), (1, 3)] {
        owner.write(talk(one, other, 2)).await;
    }

    let asked = [1, 2, 4, 3, 2, 0, 2];
    let lists = asked.map(|user| listed(store, user));
    let of_one = vec![single(1, 2), single(1, 3)];
    let of_two = vec![single(1, 2), single(2, 3)];
    let of_three = vec![single(1, 3), single(2, 3)];
    let expected = [of_one, of_two.clone(), vec![], of_three, of_two.clone(), vec![], of_two];
    assert_eq!(join_all(lists).await, expected);
}

/// User 0 stands in the place where a group's number says "group".
pub(crate) async fn user_zero_has_no_conversations(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    owner
        .write(Batch {
            conversations: vec![row(group(1), 3)],
            members: vec![member(1, 1, None)],
            ..Batch::default()
        })
        .await;

    assert_eq!(listed(store, 0).await, []);
}

pub(crate) async fn members_marks_and_conversations_keep_their_last_state(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    let first = Batch {
        conversations: vec![row(group(1), 1)],
        members: vec![member(1, 1, None), member(1, 2, Some(1))],
        marks: vec![mark(group(1), 1, 1)],
        ..Batch::default()
    };
    owner.write(first).await;

    let mut renamed = row(group(1), 9);
    renamed.group = Some(GroupRow {
        name: "renamed".to_owned(),
        avatar: "avatar.png".to_owned(),
        creator: UserId(2),
        kind: 2,
        version: 3,
        deleted: false,
    });
    let back = MemberRow { join: MsgId(5), ..member(1, 2, None) };
    let moved = MarkRow {
        read: MsgId(8),
        own_up_to_read: 3,
        own_total: 4,
        removed_at: MsgId(2),
        shield: true,
        ..mark(group(1), 1, 1)
    };
    owner
        .write(Batch {
            conversations: vec![renamed.clone()],
            members: vec![member(1, 1, Some(8)), back],
            marks: vec![moved],
            ..Batch::default()
        })
        .await;

    let mut stored = store.conversation(group(1), 0).await.unwrap();
    stored.members.sort_by_key(|member| member.user);
    assert_eq!(stored.row, Some(renamed));
    assert_eq!(stored.members, [member(1, 1, Some(8)), back]);
    assert_eq!(stored.marks, [moved]);
}

pub(crate) async fn groups_come_by_number_with_their_present_members(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    owner.write(talk(1, 2, 1)).await;
    owner
        .write(Batch {
            conversations: [30, 10, 20].map(|number| row(group(number), 0)).to_vec(),
            members: vec![
                member(10, 1, None),
                member(10, 2, None),
                member(10, 3, Some(1)),
                member(20, 1, Some(1)),
            ],
            ..Batch::default()
        })
        .await;
    let page = async |after, count| {
        let groups = store.groups(after, count).await.unwrap();
        groups.into_iter().map(|(row, members)| (row.id, members)).collect::<Vec<_>>()
    };

    assert_eq!(page(0, 10).await, [(group(10), 2), (group(20), 0), (group(30), 0)]);
    assert_eq!(page(10, 1).await, [(group(20), 0)]);
    assert_eq!(page(30, 10).await, []);
    assert_eq!(store.groups(0, 1).await.unwrap()[0].0, row(group(10), 0));
}

async fn listed(store: &dyn Store, user: u32) -> Vec<ConversationId> {
    list(store, user).await.into_iter().map(|entry| entry.row.id).collect()
}

async fn list(store: &dyn Store, user: u32) -> Vec<UserConversation> {
    let mut list = store.conversations_of(UserId(user)).await.unwrap();
    list.sort_by_key(|entry| entry.row.id);
    list
}

pub(crate) async fn groups_of_many_users_are_counted(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    let members = (1..=300).flat_map(|user| {
        let left = (user % 3 == 0).then_some(1);
        [member(1, user, None), member(2, user, left)]
    });
    owner
        .write(Batch {
            conversations: vec![row(group(1), 0), row(group(2), 1)],
            members: members.collect(),
            ..Batch::default()
        })
        .await;
    let asked: Vec<_> = (0..=301).rev().map(UserId).collect();
    let mut joined = store.groups_joined(asked).await.unwrap();
    joined.sort_unstable();
    let expected = (1..=300).map(|user| (UserId(user), if user % 3 == 0 { 1 } else { 2 }));
    assert_eq!(joined, expected.collect::<Vec<_>>());
}

pub(crate) async fn a_member_who_is_back_is_counted_again(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    let conversations = vec![row(group(1), 5)];
    for (leave, counted) in [(None, 1), (Some(3), 0), (None, 1)] {
        let members = vec![member(1, 9, leave)];
        owner
            .write(Batch { conversations: conversations.clone(), members, ..Batch::default() })
            .await;
        let joined = store.groups_joined(vec![UserId(9)]).await.unwrap();
        assert_eq!(joined.len(), counted, "{leave:?}");
        let groups = store.groups(0, 9).await.unwrap();
        assert_eq!(groups[0].1 as usize, counted, "{leave:?}");
        assert_eq!(list(store, 9).await[0].member, Some(member(1, 9, leave)));
    }
}
