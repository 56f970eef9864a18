//! What goes in comes out, byte by byte, whatever it is.

use bytes::Bytes;
use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Offset, UserId};

use super::{Owner, group, message, row, single, someone};
use crate::{
    Batch, ConversationRow, GroupRow, MarkRow, MemberRow, MessageRow, NewUser, Store, UserChange,
};

/// Text that a careless store cuts, folds, unquotes or refuses: four-byte characters, NUL, quotes,
/// backslashes, wildcards, blanks at the ends, two spellings of one accent.
const AWKWARD: [&str; 9] = [
    "\u{1F600}\u{10FFFF}",
    "before\0after",
    "'; DROP TABLE message; --",
    "\"`\\\\'%_",
    " blanks ",
    "blanks  ",
    "\u{e9}",
    "e\u{301}",
    "\r\n\t\u{202e}\u{feff}\u{7f}",
];

pub(crate) async fn every_text_of_a_user_comes_back_as_it_was(store: &dyn Store) {
    for text in AWKWARD.map(str::to_owned) {
        let new = NewUser { nick: text.clone(), password_hash: text.clone(), ..someone(&text) };
        let id = store.add_users(vec![new], false).await.unwrap()[0];
        store.change_user(id, UserChange::Sign(text.clone())).await.unwrap();
        store.change_user(id, UserChange::Avatar(text.clone())).await.unwrap();
        store.set_device_token(id, 0x11, Some(text.clone())).await.unwrap();

        let user = store.user_by_name(text.clone()).await.unwrap().unwrap();
        assert_eq!(user.id, id, "{text:?}");
        let texts = [user.name, user.nick, user.password_hash, user.sign, user.avatar];
        assert_eq!(texts, [(); 5].map(|()| text.clone()));
        assert_eq!(user.domain, text.to_lowercase());
    }
}

pub(crate) async fn every_text_of_a_group_comes_back_as_it_was(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    for (text, number) in AWKWARD.iter().zip(1..) {
        let group_row = GroupRow {
            name: (*text).to_owned(),
            avatar: (*text).to_owned(),
            creator: UserId(1),
            kind: 2,
            version: 1,
            deleted: false,
        };
        let made = ConversationRow { group: Some(group_row), ..row(group(number), 0) };
        owner.write(Batch { conversations: vec![made.clone()], ..Batch::default() }).await;
        assert_eq!(store.conversation(group(number), 0).await.unwrap().row, Some(made));
    }
    let unnamed = GroupRow {
        name: String::new(),
        avatar: String::new(),
        creator: UserId(0),
        kind: 0,
        version: 0,
        deleted: false,
    };
    let made = ConversationRow { group: Some(unnamed), ..row(group(99), 0) };
    owner.write(Batch { conversations: vec![made.clone()], ..Batch::default() }).await;
    assert_eq!(store.conversation(group(99), 0).await.unwrap().row, Some(made));
}

pub(crate) async fn every_body_comes_back_as_it_was(store: &dyn Store) {
    let mut bodies = vec![
        Bytes::new(),
        Bytes::from_static(b"\0"),
        (0..=255).collect(),
        Bytes::from(vec![0xff; 65_536]),
    ];
    bodies.extend(AWKWARD.map(Bytes::from));
    let messages: Vec<_> = bodies
        .into_iter()
        .zip(1..)
        .map(|(body, id)| MessageRow { body, ..message(single(1, 2), id, 1) })
        .collect();
    let mut owner = Owner::of(store).await;
    owner.write(Batch { messages: messages.clone(), ..Batch::default() }).await;

    let stored = store.conversation(single(1, 2), usize::MAX).await.unwrap().recent;
    assert_eq!(stored, messages);
}

pub(crate) async fn the_greatest_numbers_come_back_as_they_were(store: &dyn Store) {
    const USERS_MAX: u32 = i32::MAX.unsigned_abs();
    let two = single(USERS_MAX - 1, USERS_MAX);
    let last = MessageRow {
        conversation: two,
        msg_id: MsgId::MAX,
        sender: UserId(USERS_MAX),
        client_msg_id: ClientMsgId([0xff; 16]),
        offset: Offset(u64::MAX),
        timestamp_ms: u64::MAX,
        kind: u32::MAX,
        body: Bytes::new(),
    };
    let mark = MarkRow {
        conversation: two,
        user: UserId(USERS_MAX),
        read: MsgId::MAX,
        own_up_to_read: u32::MAX,
        own_total: u32::MAX,
        removed_at: MsgId::MAX,
        shield: true,
    };
    let of_two = ConversationRow {
        head: MsgId::MAX,
        last_offset: Offset(u64::MAX),
        last_message_ms: u64::MAX,
        ..row(two, 0)
    };
    let member = MemberRow {
        group: GroupId(u32::MAX),
        user: UserId(USERS_MAX),
        join: MsgId::MAX,
        leave: Some(MsgId::MAX),
    };
    let mut of_group = row(group(u32::MAX), 1);
    of_group.group = of_group.group.map(|group| GroupRow {
        creator: UserId(u32::MAX),
        kind: u32::MAX,
        version: u32::MAX,
        ..group
    });
    let mut owner = Owner::of(store).await;
    owner
        .write(Batch {
            messages: vec![last.clone()],
            conversations: vec![of_two.clone(), of_group.clone()],
            members: vec![member],
            marks: vec![mark],
            ..Batch::default()
        })
        .await;

    let stored = store.conversation(two, 1).await.unwrap();
    assert_eq!(stored.row, Some(of_two.clone()));
    assert_eq!(stored.recent, std::slice::from_ref(&last));
    assert_eq!(stored.marks, [mark]);
    let found = store.find_message(UserId(USERS_MAX), last.client_msg_id).await.unwrap();
    let found = found.map(|found| found.row);
    assert_eq!(found, Some(last.clone()));
    let of_group_stored = store.conversation(group(u32::MAX), 1).await.unwrap();
    assert_eq!(of_group_stored.row, Some(of_group));
    assert_eq!(of_group_stored.members, [member]);

    let mut ids = listed(store, USERS_MAX).await;
    ids.sort();
    assert_eq!(ids, [group(u32::MAX), two]);
    assert_eq!(listed(store, USERS_MAX - 1).await, [two]);
}

async fn listed(store: &dyn Store, user: u32) -> Vec<ConversationId> {
    let list = store.conversations_of(UserId(user)).await.unwrap();
    list.into_iter().map(|entry| entry.row.id).collect()
}
