//! Who may do what, and in which order that is asked.

use bytes::Bytes;
use proto::ids::Offset;

use super::*;
use crate::conversation::{Mark, Member};
use crate::rows::{GroupRow, StoredConversation};
use crate::window::Seen;

mod frames;
mod hooks;

const NOW_MS: u64 = 1_800_000_000_000;
/// Of the body of every message here.
const CONTENT_CRC: u32 = 9;

/// Made the group. A member.
const CREATOR: u32 = 1;
const MEMBER: u32 = 2;
const FORMER: u32 = 3;
const OUTSIDER: u32 = 4;
const EVERYBODY: [u32; 4] = [CREATOR, MEMBER, FORMER, OUTSIDER];

#[test]
fn only_members_write_to_a_group_and_nobody_else_hears_of_it() {
    let state = with_group(GroupType::Normal);
    for user in EVERYBODY {
        let admission = judge(&state, &Change::Send(send(group(), user)));
        if [CREATOR, MEMBER].contains(&user) {
            assert!(matches!(admission, Admission::Append(record::Change::Message(_))), "{user}");
        } else {
            assert_eq!(admission, Admission::Refused(Reason::NotMember), "{user}");
        }
    }
    let no_group = loaded(ConversationId::group(GroupId(8)).unwrap(), false);
    let to_none = Change::Send(send(ConversationId::group(GroupId(8)).unwrap(), OUTSIDER));
    assert_eq!(
        judge(&no_group, &to_none),
        Admission::Refused(Reason::NotMember),
        "as for a group that exists"
    );
}

#[test]
fn two_users_write_to_each_other_if_both_exist_and_no_third_does() {
    let exist = loaded(two(), true);
    for user in [CREATOR, MEMBER] {
        let admission = judge(&exist, &Change::Send(send(two(), user)));
        assert!(matches!(admission, Admission::Append(_)), "{admission:?}");
    }
    for user in [FORMER, OUTSIDER] {
        let admission = judge(&exist, &Change::Send(send(two(), user)));
        assert_eq!(admission, Admission::Refused(Reason::NotMember));
    }
}

#[test]
fn a_peer_who_did_not_exist_is_looked_up_again() {
    let state = loaded(two(), false);
    let change = Change::Send(send(two(), CREATOR));
    let need = Need::PeersExist(UserId(CREATOR), UserId(MEMBER));
    assert_eq!(judge(&state, &change), Admission::Needs(need));
    let told = |exist| Facts { peers_exist: Some(exist), ..Facts::default() };
    assert_eq!(
        admit(&state, &change, &told(false), NOW_MS),
        Admission::Refused(Reason::NoSuchPeer)
    );
    assert!(matches!(admit(&state, &change, &told(true), NOW_MS), Admission::Append(_)));
}

#[test]
fn content_that_the_gateway_should_have_refused_is_refused_here() {
    let state = with_group(GroupType::Normal);
    let voice = |len| Bytes::from(vec![0; len]);
    for (conversation, kind, body, expected) in [
        (group(), 0x11, Bytes::from_static(b"text"), None),
        (group(), 0x12, voice(5), None),
        (group(), 1, Bytes::from_static(b"text"), Some(Reason::BadType)),
        (group(), 3, Bytes::from_static(b"text"), Some(Reason::BadType)),
        (group(), 0, Bytes::from_static(b"text"), Some(Reason::BadType)),
        (group(), u32::MAX, Bytes::from_static(b"text"), Some(Reason::BadType)),
        (group(), 0x11, Bytes::new(), Some(Reason::Empty)),
        (group(), 0x12, voice(4), Some(Reason::Empty)),
        (group(), 0x11, voice(MESSAGE_BODY_MAX), None),
        (group(), 0x11, voice(MESSAGE_BODY_MAX + 1), Some(Reason::TooLarge)),
    ] {
        let send = Message { kind, body: body.clone(), ..send(conversation, MEMBER) };
        let admission = judge(&state, &Change::Send(send));
        match expected {
            None => assert!(matches!(admission, Admission::Append(_)), "type {kind:#x}"),
            Some(reason) => {
                let len = body.len();
                assert_eq!(admission, Admission::Refused(reason), "type {kind:#x}, {len} bytes");
            }
        }
    }
    let to_a_user = loaded(two(), true);
    for (kind, fits) in [(1, true), (2, true), (0x11, false), (0x12, false)] {
        let send = Message { kind, body: voice(9), ..send(two(), CREATOR) };
        let admission = judge(&to_a_user, &Change::Send(send));
        assert_eq!(matches!(admission, Admission::Append(_)), fits, "type {kind:#x}");
    }
}

#[test]
fn the_last_numbers_are_kept_for_the_batch_that_is_being_judged() {
    let mut state = with_group(GroupType::Normal);
    let change = Change::Send(send(group(), MEMBER));
    state.conversations.get_mut(&group()).unwrap().head = MsgId(MsgId::MAX.0 - BATCH_MAX);
    assert!(matches!(judge(&state, &change), Admission::Append(_)));
    state.conversations.get_mut(&group()).unwrap().head = MsgId(MsgId::MAX.0 - BATCH_MAX + 1);
    assert_eq!(judge(&state, &change), Admission::Refused(Reason::Full));
}

/// Who may add, who may remove, in which kind of group.
#[test]
fn members_are_changed_by_those_who_may() {
    for kind in [GroupType::Normal, GroupType::Temporary] {
        let state = with_group(kind);
        for actor in EVERYBODY.map(Some).into_iter().chain([None]) {
            let (is_creator, is_member) = (actor == Some(CREATOR), actor == Some(MEMBER));
            let owner = is_creator || actor.is_none();
            let may_add = owner || is_member && kind == GroupType::Temporary;
            let cases = [
                (vec![OUTSIDER], vec![], may_add),
                (vec![], vec![MEMBER], owner),
                (vec![OUTSIDER], vec![MEMBER], owner),
            ];
            for (add, remove, may) in cases {
                let admission = judge(&state, &change(actor, &add, &remove));
                if may {
                    let Admission::Append(record::Change::MembersChanged(changed)) = admission
                    else {
                        panic!("{actor:?} may {add:?} {remove:?} in {kind:?}: {admission:?}")
                    };
                    assert_eq!((changed.added, changed.removed), (add, remove));
                    assert_eq!(changed.actor, actor.unwrap_or(0));
                } else {
                    assert_eq!(
                        admission,
                        Admission::Refused(Reason::NotMember),
                        "{actor:?} may not {add:?} {remove:?} in {kind:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn outsiders_cannot_add_themselves() {
    let state = with_group(GroupType::Temporary);
    for user in [OUTSIDER, FORMER] {
        let admission = judge(&state, &change(Some(user), &[user], &[]));
        assert_eq!(admission, Admission::Refused(Reason::NotMember));
    }
}

#[test]
fn a_creator_who_was_removed_keeps_a_normal_group_but_not_a_temporary_one() {
    for (kind, may) in [(GroupType::Normal, true), (GroupType::Temporary, false)] {
        let mut state = with_group(kind);
        let conversation = state.conversations.get_mut(&group()).unwrap();
        conversation.members.get_mut(&UserId(CREATOR)).unwrap().leave = Some(MsgId(1));
        let admission = judge(&state, &change(Some(CREATOR), &[], &[MEMBER]));
        assert_eq!(matches!(admission, Admission::Append(_)), may, "{kind:?}");
    }
}

#[test]
fn a_change_of_members_that_changes_nothing_is_not_appended() {
    let state = with_group(GroupType::Temporary);
    for (add, remove) in [(vec![MEMBER], vec![]), (vec![], vec![OUTSIDER, FORMER])] {
        assert_eq!(judge(&state, &change(Some(CREATOR), &add, &remove)), Admission::Unchanged);
    }
    let no_group = loaded(group(), false);
    assert_eq!(
        judge(&no_group, &change(None, &[MEMBER], &[])),
        Admission::Refused(Reason::NotMember)
    );
}

#[test]
fn a_group_is_made_once_and_group_zero_never() {
    let made = |group| {
        let (name, avatar) = ("group".to_owned(), String::new());
        let (group_type, members) = (2, vec![MEMBER]);
        Change::CreateGroup(log::GroupCreated {
            group,
            creator: 1,
            group_type,
            name,
            avatar,
            members,
        })
    };
    let new = loaded(group(), false);
    assert!(matches!(judge(&new, &made(7)), Admission::Append(_)));
    let exists = with_group(GroupType::Normal);
    assert_eq!(judge(&exists, &made(7)), Admission::Refused(Reason::NoSuchGroup));
    assert_eq!(judge(&exists, &made(0)), Admission::Refused(Reason::NoSuchGroup));
}

#[test]
fn only_present_and_former_members_mark_remove_and_mute() {
    let mut state = with_group(GroupType::Normal);
    let conversation = state.conversations.get_mut(&group()).unwrap();
    conversation.head = MsgId(3);
    conversation.members.get_mut(&UserId(FORMER)).unwrap().leave = Some(MsgId(2));
    for user in EVERYBODY {
        let took_part = [CREATOR, MEMBER, FORMER].contains(&user);
        let (conversation, user) = (group(), UserId(user));
        let read = judge(&state, &Change::Read { conversation, user, upto: MsgId(0) });
        let remove = judge(&state, &Change::RemoveSession { conversation, user });
        let mute = judge(&state, &Change::Shield { conversation, user, on: true });
        if took_part {
            for admission in [read, remove, mute] {
                assert!(matches!(admission, Admission::Append(_)), "{user:?}: {admission:?}");
            }
        } else {
            assert_eq!(read, Admission::Unchanged);
            assert_eq!(remove, Admission::Refused(Reason::NotMember));
            assert_eq!(mute, Admission::Refused(Reason::NotMember));
        }
    }
}

#[test]
fn a_message_is_known_before_anything_else_is_asked() {
    let mut state = with_group(GroupType::Normal);
    let sent = Message { resend: true, ..send(group(), FORMER) };
    let known = known_at(5);
    state.window.insert(sent.identity, Seen::New(known), Offset(9), NOW_MS);
    state.last = Offset(9);
    assert_eq!(judge(&state, &Change::Send(sent.clone())), Admission::Known(known));
    state.conversations.clear();
    assert_eq!(
        judge(&state, &Change::Send(sent)),
        Admission::Known(known),
        "not even the conversation is needed"
    );
}

#[test]
fn the_retry_of_a_stored_message_is_answered_though_its_sender_has_been_removed() {
    let state = with_group(GroupType::Normal);
    let sent = Message { resend: true, ..send(group(), FORMER) };
    let need = Need::Stored(UserId(FORMER), sent.identity.client_msg_id);
    let change = Change::Send(sent);
    assert_eq!(judge(&state, &change), Admission::Needs(need), "before it is refused");
    let told = |stored| Facts { stored, ..Facts::default() };
    let found = admit(&state, &change, &told(InStore::Found(known_at(5))), NOW_MS);
    assert_eq!(found, Admission::Known(known_at(5)));
    let missing = admit(&state, &change, &told(InStore::Missing), NOW_MS);
    assert_eq!(missing, Admission::Refused(Reason::NotMember));
}

#[test]
fn a_first_try_is_not_looked_up_in_the_store() {
    let state = with_group(GroupType::Normal);
    let change = Change::Send(send(group(), MEMBER));
    assert!(matches!(judge(&state, &change), Admission::Append(_)));
}

#[test]
fn a_message_of_an_earlier_owner_is_known_and_its_number_is_in_the_store() {
    let mut state = with_group(GroupType::Normal);
    let sent = Message { identity: framed(9, 2, Some(0)), ..send(group(), 2) };
    let original =
        Identity { frame: Frame { connection: None, ..framed(8, 1, None).frame }, ..identity(8) };
    let known = Known { msg_id: None, client_msg_id: original.client_msg_id, ..known_at(5) };
    state.window.insert(original, Seen::New(known), Offset(4), NOW_MS);
    let change = Change::Send(sent);
    assert_eq!(
        judge(&state, &change),
        Admission::Needs(Need::Stored(UserId(MEMBER), original.client_msg_id)),
        "under the id it was appended with"
    );
    let told = |stored| Facts { stored, ..Facts::default() };
    let found = admit(&state, &change, &told(InStore::Found(known_at(5))), NOW_MS);
    assert_eq!(found, Admission::Known(known_at(5)));
    let missing = admit(&state, &change, &told(InStore::Missing), NOW_MS);
    assert_eq!(missing, Admission::Known(known), "never appended a second time");
}

#[test]
fn fingerprints_count_by_the_later_of_the_clock_and_the_log() {
    let mut state = with_group(GroupType::Normal);
    let original =
        Identity { frame: Frame { connection: None, ..framed(8, 1, None).frame }, ..identity(8) };
    state.window.insert(original, Seen::Again(known_at(5)), Offset(4), NOW_MS);
    state.last_ms = NOW_MS;
    let again = Message { identity: framed(9, 2, Some(0)), ..send(group(), 2) };
    let change = Change::Send(again);
    let at = |now_ms| admit(&state, &change, &Facts::default(), now_ms);
    assert_eq!(at(NOW_MS + 30_000), Admission::Known(known_at(5)));
    assert!(matches!(at(NOW_MS + 30_001), Admission::Append(_)));
    assert_eq!(at(0), Admission::Known(known_at(5)), "the clock was set back");
}

#[test]
fn an_id_that_stands_for_another_message_is_refused() {
    let mut state = with_group(GroupType::Normal);
    state.window.insert(identity(1), Seen::New(known_at(5)), Offset(4), NOW_MS);
    let sent = send(group(), MEMBER);
    assert_eq!(judge(&state, &Change::Send(sent.clone())), Admission::Known(known_at(5)));
    let other_content = Identity { content_crc: CONTENT_CRC + 1, ..sent.identity };
    let others = [
        Message { identity: other_content, ..sent.clone() },
        Message { conversation: two(), ..sent.clone() },
    ];
    for other in others {
        assert_eq!(judge(&state, &Change::Send(other)), Admission::Refused(Reason::IdReused));
    }
    // And the same where only the store knows it.
    let state = with_group(GroupType::Normal);
    let resent = Message { resend: true, identity: other_content, ..sent };
    let facts = Facts { stored: InStore::Found(known_at(5)), ..Facts::default() };
    let judged = admit(&state, &Change::Send(resent), &facts, NOW_MS);
    assert_eq!(judged, Admission::Refused(Reason::IdReused));
}

#[test]
fn a_group_is_deleted_by_its_creator_and_by_administrators_and_then_nobody_is_added() {
    let delete = |actor: Option<u32>| {
        let (group, actor) = (GroupId(7), actor.map(UserId));
        Change::DeleteGroup { group, actor }
    };
    let refused = Admission::Refused(Reason::NotMember);
    for kind in [GroupType::Temporary, GroupType::Normal] {
        let mut state = with_group(kind);
        assert_eq!(judge(&state, &delete(Some(MEMBER))), refused);
        assert_eq!(judge(&state, &delete(Some(FORMER))), refused);
        for actor in [Some(CREATOR), None] {
            let Admission::Append(record::Change::MembersChanged(appended)) =
                judge(&state, &delete(actor))
            else {
                panic!("{actor:?} may")
            };
            let mut named = [CREATOR, MEMBER];
            named.sort_unstable();
            assert_eq!((appended.removed, appended.deleted), (named.to_vec(), Some(true)));
        }
        let conversation = state.conversations.get_mut(&group()).unwrap();
        conversation.group.as_mut().unwrap().deleted = true;
        for actor in [Some(CREATOR), None] {
            assert_eq!(judge(&state, &delete(actor)), Admission::Unchanged);
            let add = judge(&state, &change(actor, &[9], &[]));
            assert_eq!(add, Admission::Refused(Reason::NoSuchGroup));
        }
        assert_eq!(judge(&state, &delete(Some(MEMBER))), refused);
    }
    // A user who has left a group that users made has no say in it.
    for kind in [GroupType::Temporary, GroupType::Normal] {
        let mut state = with_group(kind);
        let conversation = state.conversations.get_mut(&group()).unwrap();
        let left = Member { join: MsgId(1), leave: Some(MsgId(0)) };
        conversation.members.insert(UserId(CREATOR), left);
        let judged = judge(&state, &delete(Some(CREATOR)));
        assert_eq!(judged == refused, kind == GroupType::Temporary, "{judged:?}");
    }
    let nothing = loaded(group(), false);
    assert_eq!(judge(&nothing, &delete(None)), Admission::Refused(Reason::NoSuchGroup));
}

#[test]
fn the_end_of_a_group_names_its_members_if_a_record_has_room_for_them() {
    let mut state = with_group(GroupType::Normal);
    let delete = Change::DeleteGroup { group: GroupId(7), actor: None };
    let most = u32::try_from(NAMED_MAX).unwrap();
    for (count, named) in [(most, NAMED_MAX), (most + 1, 0)] {
        let member = |user| (UserId(user), Member { join: MsgId(1), leave: None });
        state.conversations.get_mut(&group()).unwrap().members = (1..=count).map(member).collect();
        let judged = judge(&state, &delete);
        let Admission::Append(record::Change::MembersChanged(appended)) = judged else {
            panic!("{judged:?}")
        };
        assert_eq!((appended.removed.len(), appended.deleted), (named, Some(true)));
    }
}

#[test]
fn a_conversation_that_is_not_in_memory_is_needed() {
    let state = Fold::new(1, Offset(0), 0);
    let (conversation, user) = (two(), UserId(CREATOR));
    for change in [
        Change::Send(send(two(), CREATOR)),
        Change::Read { conversation, user, upto: MsgId(1) },
        Change::RemoveSession { conversation, user },
        Change::Shield { conversation, user, on: true },
        change(None, &[1], &[]),
    ] {
        assert_eq!(judge(&state, &change), Admission::Needs(Need::Conversation), "{change:?}");
    }
}

#[test]
fn a_read_mark_never_goes_back_nor_past_the_newest() {
    let mut state = read_up_to(MsgId(4), MsgId(10));
    for upto in [1, 4] {
        assert_eq!(judge(&state, &read(upto)), Admission::Unchanged, "up to {upto}");
    }
    for upto in [0, 10, 11, u32::MAX] {
        assert_eq!(mark_of(&judge(&state, &read(upto))), (10, 6), "up to {upto}");
    }
    state.conversations.get_mut(&two()).unwrap().head = MsgId(4);
    assert_eq!(judge(&state, &read(0)), Admission::Unchanged, "everything was read");
}

#[test]
fn own_messages_of_a_partial_read_are_counted_where_memory_does_not_reach() {
    let state = read_up_to(MsgId(4), MsgId(10));
    let user = UserId(CREATOR);
    let need = Need::Own { user, from: MsgId(5), to: MsgId(7), before: 2 };
    assert_eq!(judge(&state, &read(7)), Admission::Needs(need));
    let counted = Facts { own_up_to: Some((MsgId(7), 3)), ..Facts::default() };
    assert_eq!(mark_of(&admit(&state, &read(7), &counted, NOW_MS)), (7, 3));
}

/// Messages come while the store counts: a mark of everything would never be done, if they were meant.
#[test]
fn a_mark_means_what_there_was_when_the_store_was_asked() {
    let state = read_up_to(MsgId(4), MsgId(10));
    let counted = |to| Facts { own_up_to: Some((MsgId(to), 3)), ..Facts::default() };
    for upto in [0, 12] {
        assert_eq!(mark_of(&admit(&state, &read(upto), &counted(9), NOW_MS)), (9, 3), "{upto}");
    }
    let past = admit(&state, &read(0), &counted(12), NOW_MS);
    assert_eq!(mark_of(&past), (10, 6), "never past the newest that the user may see");
}

/// Up to where is marked as read, and how many of these messages are the reader's own.
fn mark_of(admission: &Admission) -> (u32, u32) {
    let Admission::Append(record::Change::Read(mark)) = admission else { panic!("{admission:?}") };
    (mark.msg_id, mark.own_up_to)
}

fn judge(fold: &Fold, change: &Change) -> Admission {
    admit(fold, change, &Facts::default(), NOW_MS)
}

fn two() -> ConversationId {
    ConversationId::single(UserId(CREATOR), UserId(MEMBER)).unwrap()
}

fn group() -> ConversationId {
    ConversationId::group(GroupId(7)).unwrap()
}

/// A fold with one conversation in memory, of which nothing was stored.
fn loaded(id: ConversationId, peers_exist: bool) -> Fold {
    let mut fold = Fold::new(1, Offset(0), 0);
    let stored = StoredConversation { peers_exist, ..StoredConversation::default() };
    fold.conversations.insert(id, Conversation::from_stored(id, stored));
    fold
}

fn with_group(kind: GroupType) -> Fold {
    let mut fold = loaded(group(), false);
    let conversation = fold.conversations.get_mut(&group()).unwrap();
    conversation.group = Some(GroupRow {
        name: "group".to_owned(),
        avatar: String::new(),
        creator: UserId(CREATOR),
        kind: kind as u32,
        version: 3,
        deleted: false,
    });
    let member = |leave| Member { join: MsgId(1), leave };
    conversation.members = [
        (UserId(CREATOR), member(None)),
        (UserId(MEMBER), member(None)),
        (UserId(FORMER), member(Some(MsgId(0)))),
    ]
    .into();
    fold
}

/// Two users; the first has read, and sent two messages before that and four after.
fn read_up_to(read: MsgId, head: MsgId) -> Fold {
    let mut fold = loaded(two(), true);
    let conversation = fold.conversations.get_mut(&two()).unwrap();
    conversation.head = head;
    let mark = Mark { read, own_up_to_read: 2, own_total: 6, ..Mark::default() };
    conversation.marks.insert(UserId(CREATOR), mark);
    fold
}

fn read(upto: u32) -> Change {
    Change::Read { conversation: two(), user: UserId(CREATOR), upto: MsgId(upto) }
}

fn change(actor: Option<u32>, add: &[u32], remove: &[u32]) -> Change {
    let users = |users: &[u32]| users.iter().copied().map(UserId).collect();
    Change::Members {
        group: GroupId(7),
        actor: actor.map(UserId),
        add: users(add),
        remove: users(remove),
    }
}

fn identity(number: u8) -> Identity {
    Identity {
        sender: UserId(MEMBER),
        client_msg_id: ClientMsgId([number; 16]),
        content_crc: CONTENT_CRC,
        frame: Frame::default(),
    }
}

/// A frame of equal fingerprint that came on this connection.
fn framed(number: u8, session: u64, repeats_after: Option<u64>) -> Identity {
    let frame = Frame {
        fingerprint: 3,
        connection: Some(Connection { gateway_boot: 77, session }),
        repeats_after: repeats_after.map(Offset),
    };
    Identity { frame, ..identity(number) }
}

fn send(conversation: ConversationId, sender: u32) -> Message {
    Message {
        conversation,
        identity: Identity { sender: UserId(sender), ..identity(1) },
        resend: false,
        first: false,
        waited_ms: None,
        kind: if conversation.as_group().is_some() { 0x11 } else { 1 },
        body: Bytes::from_static(b"body"),
        origin: None,
        known_only: false,
        hooks: Vec::new(),
    }
}

fn known_at(msg_id: u32) -> Known {
    Known {
        conversation: group(),
        msg_id: Some(MsgId(msg_id)),
        client_msg_id: identity(1).client_msg_id,
        content_crc: CONTENT_CRC,
        timestamp_ms: NOW_MS,
    }
}
