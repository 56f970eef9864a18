//! Messages and conversations, read.

use proto::ids::{ClientMsgId, MsgId, Offset, UserId};

use super::{Owner, group, mark, member, message, numbered, row, single, talk};
use crate::{Batch, ChangedRow, FoundMessage, MessageRow, Store};

pub(crate) async fn a_page_is_newest_first_and_within_its_range(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    for other in [2, 3, 4] {
        owner.write(talk(1, other, 20)).await;
    }
    let page = async |from, to, count| {
        let page = store.messages(single(1, 3), MsgId(from), MsgId(to), count).await.unwrap();
        assert!(page.iter().all(|message| message.conversation == single(1, 3)));
        page.iter().map(|message| message.msg_id.0).collect::<Vec<_>>()
    };

    assert_eq!(page(5, 8, 100).await, [8, 7, 6, 5]);
    assert_eq!(page(5, 8, 2).await, [8, 7]);
    assert_eq!(page(19, u32::MAX, 100).await, [20, 19]);
    assert_eq!(page(0, 1, 100).await, [1]);
    assert_eq!(page(8, 5, 100).await, [0_u32; 0]);
    assert_eq!(page(5, 8, 0).await, [0_u32; 0]);
    assert_eq!(page(21, 40, usize::MAX).await, [0_u32; 0]);
}

pub(crate) async fn messages_are_found_by_their_places(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    owner.write(talk(1, 2, 3)).await;
    owner.write(talk(1, 3, 3)).await;

    let places = [(single(1, 3), 2), (single(1, 2), 3), (single(1, 2), 4), (single(5, 6), 1)];
    let places = places.map(|(conversation, id)| (conversation, MsgId(id))).to_vec();
    let mut found = store.messages_at(places).await.unwrap();
    found.sort_by_key(|message| message.conversation);
    assert_eq!(found, [message(single(1, 2), 3, 1), message(single(1, 3), 2, 3)]);

    assert_eq!(store.messages_at(Vec::new()).await.unwrap(), []);
}

pub(crate) async fn a_message_is_found_by_its_senders_id(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    owner.write(talk(1, 2, 3)).await;
    let second = message(single(1, 2), 2, 2);

    let found = store.find_message(UserId(2), second.client_msg_id).await.unwrap();
    assert_eq!(found, Some(FoundMessage { row: second.clone(), sent_crc: None }));
    let of_another = store.find_message(UserId(1), second.client_msg_id).await.unwrap();
    assert_eq!(of_another, None);
    assert_eq!(store.find_message(UserId(2), ClientMsgId([0xff; 16])).await.unwrap(), None);
}

/// The fold lets an id pass twice once it has forgotten the first; the store must take it.
pub(crate) async fn of_two_messages_with_one_id_the_first_is_found(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    let id = ClientMsgId([9; 16]);
    let early = MessageRow { client_msg_id: id, ..message(single(1, 3), 1, 1) };
    let late = MessageRow { client_msg_id: id, ..message(single(1, 2), 2, 1) };
    assert!(early.offset < late.offset);

    owner.write(Batch { messages: vec![early, late], ..Batch::default() }).await;

    let found = store.find_message(UserId(1), id).await.unwrap().unwrap();
    assert_eq!((found.row.conversation, found.row.msg_id), (single(1, 3), MsgId(1)));
}

pub(crate) async fn a_changed_message_is_found_with_the_checksum_of_what_was_sent(
    store: &dyn Store,
) {
    let mut owner = Owner::of(store).await;
    let rows = [message(single(1, 2), 1, 1), message(single(1, 2), 2, 2)];
    let (conversation, sent_crc) = (single(1, 2), u32::MAX);
    let changed = vec![ChangedRow { conversation, msg_id: MsgId(2), sent_crc }];
    owner.write(Batch { messages: rows.to_vec(), changed, ..Batch::default() }).await;

    for (row, sent_crc) in rows.into_iter().zip([None, Some(sent_crc)]) {
        let found = store.find_message(row.sender, row.client_msg_id).await.unwrap();
        assert_eq!(found, Some(FoundMessage { row, sent_crc }));
    }
}

pub(crate) async fn own_messages_are_counted_within_the_range(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    owner.write(talk(1, 2, 9)).await; // User 1 has the odd ones.
    owner.write(talk(1, 3, 9)).await;
    let count = async |sender, from, to| {
        store.count_own(single(1, 2), UserId(sender), MsgId(from), MsgId(to)).await.unwrap()
    };

    assert_eq!(count(1, 1, 9).await, 5);
    assert_eq!(count(2, 1, 9).await, 4);
    assert_eq!(count(1, 3, 5).await, 2);
    assert_eq!(count(1, 4, 4).await, 0);
    assert_eq!(count(1, 5, 4).await, 0);
    assert_eq!(count(3, 0, u32::MAX).await, 0);
}

pub(crate) async fn a_conversation_is_read_whole(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    let mut members = vec![member(7, 3, None), member(7, 1, Some(2)), member(7, 2, None)];
    let mut marks = vec![mark(group(7), 2, 1), mark(group(7), 1, 2)];
    let messages: Vec<_> = (1..=5).map(|id| message(group(7), id, 3)).collect();
    owner
        .write(Batch {
            messages: messages.clone(),
            conversations: vec![row(group(7), 5)],
            members: members.clone(),
            marks: marks.clone(),
            ..Batch::default()
        })
        .await;
    owner
        .write(Batch {
            members: vec![member(8, 1, None)],
            marks: vec![mark(single(1, 7), 7, 1)],
            ..Batch::default()
        })
        .await;

    let mut stored = store.conversation(group(7), 3).await.unwrap();
    stored.members.sort_by_key(|member| member.user);
    stored.marks.sort_by_key(|mark| mark.user);
    members.sort_by_key(|member| member.user);
    marks.sort_by_key(|mark| mark.user);

    assert_eq!(stored.row, Some(row(group(7), 5)));
    assert_eq!(stored.members, members);
    assert_eq!(stored.marks, marks);
    assert_eq!(stored.recent, messages[2..]);
    assert_eq!(stored.epoch, owner.epoch);
    assert_eq!(store.conversation(group(7), 0).await.unwrap().recent, []);
}

pub(crate) async fn an_unknown_conversation_is_empty_and_has_the_epoch(store: &dyn Store) {
    assert_eq!(store.conversation(single(1, 2), 10).await.unwrap().epoch, 0);
    for epoch in [1, 2] {
        Owner::of(store).await;
        let stored = store.conversation(single(1, 2), 10).await.unwrap();
        assert_eq!(stored.epoch, epoch);
        assert_eq!(stored.row, None);
        assert_eq!(stored.recent, []);
        assert!(stored.members.is_empty() && stored.marks.is_empty());
    }
    assert_eq!(store.flushed_progress().await.unwrap(), Offset(0));
}

pub(crate) async fn two_users_exist_only_if_both_do(store: &dyn Store) {
    let users = vec![numbered(1, "one"), numbered(2, "two")];
    store.add_users(users, false).await.unwrap();

    for (one, other, expected) in [(1, 2, true), (2, 3, false), (1, 3, false), (3, 4, false)] {
        let stored = store.conversation(single(one, other), 0).await.unwrap();
        assert_eq!(stored.peers_exist, expected, "users {one} and {other}");
    }
}

pub(crate) async fn a_group_has_no_two_users(store: &dyn Store) {
    store.add_users(vec![numbered(1, "one"), numbered(7, "seven")], false).await.unwrap();
    let mut owner = Owner::of(store).await;
    owner.write(Batch { conversations: vec![row(group(7), 0)], ..Batch::default() }).await;
    assert!(!store.conversation(group(7), 0).await.unwrap().peers_exist);
    assert!(store.conversation(single(1, 7), 0).await.unwrap().peers_exist);
}

pub(crate) async fn many_messages_are_found_by_their_places(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    owner.write(talk(1, 2, 200)).await;
    owner.write(talk(1, 3, 100)).await;
    for count in [1, 2, 16, 17, 128, 129, 290] {
        // By turns of both conversations, beyond the head of the second.
        let place = |n: u32| (single(1, 2 + n % 2), MsgId(n / 2 + 1));
        let places: Vec<_> = (0..count).map(place).collect();
        let mut found = store.messages_at(places.clone()).await.unwrap();
        found.sort_by_key(|message| (message.conversation, message.msg_id));
        let is_there = |(id, msg_id): &(_, MsgId)| *id == single(1, 2) || msg_id.0 <= 100;
        let mut expected: Vec<_> = places.into_iter().filter(is_there).collect();
        expected.sort_unstable();
        let found: Vec<_> = found.iter().map(|row| (row.conversation, row.msg_id)).collect();
        assert_eq!(found, expected, "{count}");
    }
}

pub(crate) async fn a_place_that_is_asked_for_twice_is_no_harm(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    owner.write(talk(1, 2, 3)).await;
    let place = (single(1, 2), MsgId(2));
    let found = store.messages_at(vec![place, place, place]).await.unwrap();
    assert!(!found.is_empty());
    assert!(found.iter().all(|found| *found == message(single(1, 2), 2, 2)), "{found:?}");
}
