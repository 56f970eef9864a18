//! The fold on hand-made records; on random logs, cut by restarts, in `replay`; against models that
//! keep everything in `reference` and `unread`.

use proto::ids::Parties;
use proto::record::fingerprint;

use super::*;
use crate::conversation::RECENT_KEPT;
use crate::rows::{ConversationRow, MarkRow, MemberRow, StoredConversation};

mod random_log;
mod reference;
mod replay;
mod unread;

const ALICE: u32 = 1;
const BOB: u32 = 2;
const CAROL: u32 = 3;
const GROUP: u32 = 7;

#[test]
fn messages_of_each_conversation_are_numbered_from_one() {
    let mut partition = Partition::new();
    for expected in 1..=3 {
        assert_eq!(partition.send(two(), ALICE, id()).0, expected);
    }
    assert_eq!(partition.send(group(), ALICE, id()).0, 1);
    assert_eq!(partition.send(two(), BOB, id()).0, 4);
}

#[test]
fn a_message_names_the_record_that_was_published_before_it() {
    let mut partition = Partition::new();
    partition.fold(created(&[ALICE, BOB]));
    partition.send(two(), ALICE, id());
    let Effect::Message { previous, member_version, .. } =
        partition.fold(message(group(), ALICE, id(), 0))
    else {
        panic!("a message")
    };
    assert_eq!((previous, member_version), (Offset(1), 1), "the group was made by record 1");
}

#[test]
fn the_same_id_again_is_the_same_message_and_never_another_one() {
    let mut partition = Partition::new();
    let again = id();
    let first = partition.send(two(), ALICE, again);
    let Change::Message(same) = message(two(), ALICE, again, 0) else { unreachable!() };
    let other_body = log::Message { body: Bytes::from_static(b"other"), ..same.clone() };
    let other_type = log::Message { r#type: 2, ..same.clone() };
    let to_others = log::Message { conversation: group().number(), ..same.clone() };
    for _ in 0..2 {
        let effect = partition.fold(Change::Message(same.clone()));
        let Effect::Duplicate(known) = effect else { panic!("{effect:?}") };
        assert_eq!((known.conversation, known.msg_id), (two(), Some(first)));
        for other in [&other_body, &other_type, &to_others] {
            assert_eq!(partition.fold(Change::Message(other.clone())), Effect::IdReused);
        }
    }
    assert_eq!(partition.send(two(), BOB, again), MsgId(2), "another sender's id is another id");
}

/// Its repeat comes with the body that was sent, if another hook or none is asked then.
#[test]
fn a_message_that_a_hook_changed_is_known_by_what_was_sent() {
    let mut partition = Partition::new();
    let again = id();
    let Change::Message(sent) = message(two(), ALICE, again, 0) else { unreachable!() };
    let changed = |body: &'static str| log::Message {
        body: Bytes::from_static(body.as_bytes()),
        sent_crc: Some(content_crc(sent.r#type, &sent.body)),
        ..sent.clone()
    };
    let Effect::Message { row, .. } = partition.fold(Change::Message(changed("one"))) else {
        panic!("a new message")
    };
    assert_eq!((row.msg_id, &row.body[..]), (MsgId(1), &b"one"[..]));
    let is_one =
        |effect| matches!(effect, Effect::Duplicate(known) if known.msg_id == Some(MsgId(1)));
    assert!(is_one(partition.fold(Change::Message(sent.clone()))));
    assert!(is_one(partition.fold(Change::Message(changed("two")))));
    let as_stored = log::Message { body: Bytes::from_static(b"one"), ..sent.clone() };
    assert_eq!(partition.fold(Change::Message(as_stored)), Effect::IdReused, "never sent so");
    let batch = partition.fold.take_batch();
    let (conversation, sent_crc) = (two(), content_crc(sent.r#type, &sent.body));
    assert_eq!(batch.changed, [ChangedRow { conversation, msg_id: MsgId(1), sent_crc }]);
    assert!(partition.fold.take_batch().changed.is_empty(), "written once");
}

#[test]
fn a_frame_repeats_one_of_another_connection_and_only_behind_the_place_that_its_record_names() {
    let mut partition = Partition::new();
    let is_new = |effect: Effect| matches!(effect, Effect::Message { .. });
    assert!(is_new(partition.fold(framed(9, 1, None))));
    assert!(is_new(partition.fold(framed(9, 1, Some(0)))), "on the same connection");
    let last = partition.fold.last.0;
    let effect = partition.fold(framed(9, 2, Some(0)));
    assert!(matches!(effect, Effect::Duplicate(known) if known.msg_id == Some(MsgId(2))));
    // That record was itself a frame of connection 2.
    assert!(is_new(partition.fold(framed(9, 2, Some(0)))));
    assert!(is_new(partition.fold(framed(9, 3, None))), "it repeats none");
    assert!(is_new(partition.fold(framed(9, 4, Some(last + 3)))), "the one there was answered");
    let effect = partition.fold(framed(9, 5, Some(last + 3)));
    assert!(matches!(effect, Effect::Duplicate(known) if known.msg_id == Some(MsgId(5))));
}

#[test]
fn before_version_2_an_equal_fingerprint_within_thirty_seconds_is_the_same_message() {
    let mut partition = Partition::new();
    partition.fold(message(two(), ALICE, id(), 99));
    partition.now_ms += FINGERPRINT_LIMIT;
    assert!(matches!(
        partition.fold(message(two(), ALICE, id(), 99)),
        Effect::Duplicate(known) if known.msg_id == Some(MsgId(1))
    ));
    assert!(
        matches!(partition.fold(message(two(), BOB, id(), 99)), Effect::Message { .. }),
        "another sender's fingerprint is another one"
    );
    partition.now_ms += FINGERPRINT_LIMIT + 1;
    assert!(matches!(partition.fold(message(two(), ALICE, id(), 99)), Effect::Message { .. }));
    for _ in 0..2 {
        assert!(
            matches!(partition.fold(message(two(), ALICE, id(), 0)), Effect::Message { .. }),
            "0 is no fingerprint"
        );
    }
}

#[test]
fn an_id_is_forgotten_after_as_many_records_as_the_window_has() {
    let mut partition = Partition::new();
    partition.fold.window = Window::of(10);
    let again = id();
    partition.send(two(), ALICE, again);
    for _ in 0..9 {
        partition.send(two(), BOB, id());
    }
    assert!(matches!(partition.fold(message(two(), ALICE, again, 0)), Effect::Duplicate(_)));
    for _ in 0..10 {
        partition.send(two(), BOB, id());
    }
    assert!(matches!(partition.fold(message(two(), ALICE, again, 0)), Effect::Message { .. }));
    assert!(partition.fold.window.len() <= 11, "{}", partition.fold.window.len());
}

#[test]
fn of_a_deleted_group_everybody_leaves_whom_the_record_names_or_not_and_nobody_comes_back() {
    let mut partition = Partition::new();
    partition.fold(created(&[ALICE, BOB]));
    partition.send(group(), ALICE, id());
    // It was judged in one batch with the deletion, which does not name Carol.
    partition.fold(changed(&[CAROL], &[]));
    let Effect::Members { added, removed, created: is_new, .. } =
        partition.fold(deleted(&[ALICE, BOB]))
    else {
        panic!("all members left")
    };
    assert_eq!((added, is_new), (Vec::new(), false));
    assert_eq!(removed, [ALICE, BOB, CAROL].map(UserId));
    for late in [changed(&[CAROL, 4], &[]), deleted(&[ALICE]), created(&[BOB])] {
        match partition.fold(late) {
            Effect::Members { added, removed, .. } => {
                assert!(added.is_empty() && removed.is_empty());
            }
            effect => assert_eq!(effect, Effect::Nothing),
        }
    }
    let conversation = &partition.fold.conversations[&group()];
    let row = conversation.group.clone().unwrap();
    assert_eq!((row.deleted, row.version, conversation.head), (true, 3, MsgId(1)));
    assert!(conversation.current_members().is_empty());
    assert_eq!(conversation.visible_from(UserId(ALICE)), None);
    partition.store();
    assert!(partition.stored.rows[&group()].group.as_ref().unwrap().deleted);
}

#[test]
fn records_of_an_older_epoch_change_nothing() {
    let mut partition = Partition::new();
    partition.epoch = 1;
    partition.send(two(), ALICE, id());
    partition.epoch = 2;
    partition.fold(epoch(2));
    partition.epoch = 1;
    let of_the_old_owner = id();
    for change in [
        message(two(), ALICE, of_the_old_owner, 5),
        created(&[ALICE]),
        read(two(), BOB, 1, 0),
        Change::FoldVersion(log::FoldVersion { version: 99 }),
    ] {
        assert_eq!(partition.fold(change), Effect::Nothing);
    }
    partition.epoch = 2;
    let Effect::Message { row, .. } = partition.fold(message(two(), ALICE, of_the_old_owner, 5))
    else {
        panic!("what the old owner wrote is not known")
    };
    assert_eq!(row.msg_id, MsgId(2));
    assert_eq!(partition.fold.conversations[&group()].group, None);
}

#[test]
fn unreadable_records_consume_no_number_and_are_kept() {
    let mut partition = Partition::new();
    partition.send(two(), ALICE, id());
    let mut no_conversation = message(two(), ALICE, id(), 0);
    let mut short_id = message(two(), ALICE, id(), 0);
    if let (Change::Message(one), Change::Message(other)) = (&mut no_conversation, &mut short_id) {
        one.conversation = 5 << 32 | 4;
        other.client_msg_id = Bytes::from_static(b"short");
    }
    let of_the_future = Bytes::from_static(&[0xa2, 0x06, 0]); // Field 100, which nobody knows.
    let payloads = [
        encode(no_conversation, 1),
        encode(short_id, 1),
        Bytes::from_static(b"\xff\xff\xff"),
        Bytes::new(),
        of_the_future,
    ];
    for payload in &payloads {
        assert_eq!(partition.fold_payload(payload.clone()), Effect::Nothing);
    }
    assert_eq!(partition.send(two(), ALICE, id()), MsgId(2));
    assert_eq!(partition.fold.unreadable, 5);
    let kept: Vec<_> = (2..).map(Offset).zip(payloads).collect();
    assert_eq!(partition.fold.take_batch().unreadable, kept);
}

#[test]
fn rules_that_this_build_does_not_know_stop_it() {
    let mut partition = Partition::new();
    let version = |version| Change::FoldVersion(log::FoldVersion { version });
    assert_eq!(partition.fold(version(FOLD_VERSION)), Effect::Nothing);
    assert_eq!(partition.fold.version, FOLD_VERSION);
    let newer = partition.record(encode(version(FOLD_VERSION + 1), 1));
    assert_eq!(partition.fold.fold(&newer), Err(UnknownVersion { asked: FOLD_VERSION + 1 }));
}

#[test]
fn what_a_member_may_see_is_fixed_by_the_places_of_joining_and_leaving() {
    let mut partition = Partition::new();
    partition.fold(created(&[ALICE, BOB, BOB]));
    partition.send(group(), ALICE, id());
    partition.send(group(), ALICE, id());
    let Effect::Members { added, removed, created, .. } =
        partition.fold(changed(&[BOB, CAROL, CAROL], &[BOB, 99]))
    else {
        panic!("a change of members")
    };
    assert_eq!((added, removed, created), (vec![UserId(CAROL)], vec![UserId(BOB)], false));
    partition.send(group(), ALICE, id());

    let conversation = &partition.fold.conversations[&group()];
    let range = |user| conversation.members[&UserId(user)];
    assert_eq!(range(ALICE), Member { join: MsgId(1), leave: None });
    assert_eq!(range(BOB), Member { join: MsgId(1), leave: Some(MsgId(2)) });
    assert_eq!(range(CAROL), Member { join: MsgId(3), leave: None });
    assert_eq!(conversation.visible_from(UserId(BOB)), None);
    assert_eq!(conversation.current_members(), [UserId(ALICE), UserId(CAROL)]);
    assert_eq!(conversation.group.as_ref().unwrap().version, 2);

    partition.fold(changed(&[BOB], &[]));
    let conversation = &partition.fold.conversations[&group()];
    assert_eq!(conversation.visible_from(UserId(BOB)), Some(MsgId(4)), "not what he missed");
    assert_eq!(conversation.unread(UserId(BOB)), 0);
}

#[test]
fn a_change_that_changes_nobody_keeps_version_and_place() {
    let mut partition = Partition::new();
    partition.fold(created(&[ALICE]));
    let Effect::Members { added, removed, .. } = partition.fold(changed(&[ALICE], &[BOB])) else {
        panic!("a change of members")
    };
    assert!(added.is_empty() && removed.is_empty());
    let conversation = &partition.fold.conversations[&group()];
    assert_eq!(conversation.group.as_ref().unwrap().version, 1);
    assert_eq!(conversation.last_offset, Offset(1));
}

/// The store worker goes by this estimate: what waits for it may not take more memory than is allowed.
#[test]
fn what_the_store_lacks_is_counted_in_bytes_by_what_it_takes() {
    let mut partition = Partition::new();
    let many: Vec<u32> = (1..=1_000).collect();
    let mut took = |change: Change| {
        let before = partition.fold.unstored.bytes;
        partition.fold(change);
        partition.fold.unstored.bytes - before
    };
    let steps = [
        (took(created(&many)), 1_000 * size_of::<MemberRow>()),
        (took(changed(&[], &many)), 1_000 * size_of::<MemberRow>()),
        (took(changed(&many, &[])), 1_000 * size_of::<MemberRow>()),
        (took(message(two(), ALICE, id(), 0)), size_of::<MessageRow>()),
    ];
    for (number, (counted, least)) in steps.into_iter().enumerate() {
        assert!((least..3 * least).contains(&counted), "{number}: {counted}, at least {least}");
    }
    partition.store();
    assert_eq!(partition.fold.unstored.bytes, 0);
}

/// 64 KiB of the newest messages stay in memory, to the byte.
#[test]
fn stored_messages_stay_in_memory_up_to_their_bounds() {
    let kept = |lens: &[usize]| {
        let mut partition = Partition::new();
        for len in lens {
            let Change::Message(message) = message(two(), ALICE, id(), 0) else {
                panic!("it is one")
            };
            let body = vec![0; *len].into();
            partition.fold(Change::Message(log::Message { body, ..message }));
        }
        partition.store();
        partition.fold.conversations[&two()].recent.len()
    };
    assert_eq!(kept(&[32 << 10, 32 << 10]), 2);
    assert_eq!(kept(&[1, 32 << 10, 32 << 10]), 2);
    assert_eq!(kept(&[(64 << 10) + 1]), 0);
    assert_eq!(kept(&[1; RECENT_KEPT + 1]), RECENT_KEPT);
}

#[test]
fn a_group_is_made_once() {
    let mut partition = Partition::new();
    partition.fold(created(&[ALICE]));
    assert_eq!(partition.fold(created(&[BOB])), Effect::Nothing);
    assert_eq!(partition.fold.conversations[&group()].current_members(), [UserId(ALICE)]);
}

#[test]
fn a_removed_session_is_read_and_listed_again_with_the_next_message() {
    let mut partition = Partition::new();
    partition.send(two(), ALICE, id());
    let removed = || {
        let conversation = two().number();
        Change::SessionRemoved(log::SessionRemoved { conversation, user: BOB })
    };
    assert_eq!(partition.fold(removed()), Effect::Marked { changed: true });
    assert_eq!(partition.fold(removed()), Effect::Marked { changed: false });
    let seen = partition.fold.conversations[&two()].seen_by(UserId(BOB));
    assert!(!seen.listed() && seen.unread() == 0);
    partition.send(two(), ALICE, id());
    let seen = partition.fold.conversations[&two()].seen_by(UserId(BOB));
    assert!(seen.listed() && seen.unread() == 1);
}

const FINGERPRINT_LIMIT: u64 = crate::window::FINGERPRINT_MS;

/// A fold, and what a store would hold of it.
struct Partition {
    fold: Fold,
    stored: Stored,
    epoch: u64,
    now_ms: u64,
}

impl Partition {
    fn new() -> Self {
        let fold = Fold::new(FOLD_VERSION, Offset(0), 0);
        Self { fold, stored: Stored::default(), epoch: 1, now_ms: 1_800_000_000_000 }
    }

    fn send(&mut self, conversation: ConversationId, sender: u32, id: ClientMsgId) -> MsgId {
        match self.fold(message(conversation, sender, id, 0)) {
            Effect::Message { row, .. } => row.msg_id,
            other => panic!("{other:?}"),
        }
    }

    fn fold(&mut self, change: Change) -> Effect {
        self.fold_payload(encode(change, self.epoch))
    }

    fn fold_payload(&mut self, payload: Bytes) -> Effect {
        let record = self.record(payload);
        self.fold_record(&record)
    }

    /// The next record of the log.
    fn record(&self, payload: Bytes) -> LogRecord {
        log_record(self.fold.last.next(), self.now_ms, payload)
    }

    fn fold_record(&mut self, record: &LogRecord) -> Effect {
        if let Ok(decoded) = Record::decode(record.payload.clone())
            && let Some(id) = Fold::needs(&decoded)
            && !self.fold.conversations.contains_key(&id)
        {
            let stored = self.stored.conversation(id);
            self.fold.conversations.insert(id, Conversation::from_stored(id, stored));
        }
        self.fold.fold(record).unwrap()
    }

    /// Brings the store up to date, as the store worker does.
    fn store(&mut self) {
        self.stored.apply(self.fold.take_batch());
        for conversation in self.fold.conversations.values_mut() {
            conversation.forget_stored(self.fold.last);
        }
    }
}

/// What a store holds, without a database.
#[derive(Debug, Clone, Default, PartialEq)]
struct Stored {
    rows: HashMap<ConversationId, ConversationRow>,
    members: HashMap<(GroupId, UserId), MemberRow>,
    marks: HashMap<(ConversationId, UserId), MarkRow>,
    messages: HashMap<(ConversationId, MsgId), MessageRow>,
    unreadable: HashMap<Offset, Bytes>,
    applied: (Offset, u32, u32),
}

impl Stored {
    fn apply(&mut self, batch: Batch) {
        for message in batch.messages {
            let place = (message.conversation, message.msg_id);
            assert_eq!(self.messages.insert(place, message), None, "a number given twice");
        }
        self.rows.extend(batch.conversations.into_iter().map(|row| (row.id, row)));
        let members = batch.members.into_iter().map(|row| ((row.group, row.user), row));
        self.members.extend(members);
        let marks = batch.marks.into_iter().map(|row| ((row.conversation, row.user), row));
        self.marks.extend(marks);
        self.unreadable.extend(batch.unreadable);
        self.applied = (batch.applied, batch.applied_crc, batch.fold_version);
    }

    fn conversation(&self, id: ConversationId) -> StoredConversation {
        let row = self.rows.get(&id).cloned();
        let head = row.as_ref().map_or(0, |row| row.head.0);
        let newest = head.saturating_sub(32) + 1..=head;
        StoredConversation {
            row,
            members: match id.parties() {
                Parties::Group(group) => {
                    self.members.values().filter(|row| row.group == group).copied().collect()
                }
                Parties::Single(..) => Vec::new(),
            },
            marks: self.marks.values().filter(|row| row.conversation == id).copied().collect(),
            recent: newest.map(|msg_id| self.messages[&(id, MsgId(msg_id))].clone()).collect(),
            peers_exist: true,
            epoch: 1,
        }
    }
}

fn log_record(offset: Offset, timestamp_ms: u64, payload: Bytes) -> LogRecord {
    let crc = fingerprint(offset, timestamp_ms, &payload);
    LogRecord { offset, timestamp_ms, crc, payload }
}

fn encode(change: Change, epoch: u64) -> Bytes {
    crate::admission::record(change, epoch).encode_to_vec().into()
}

fn two() -> ConversationId {
    ConversationId::single(UserId(ALICE), UserId(BOB)).unwrap()
}

fn group() -> ConversationId {
    ConversationId::group(GroupId(GROUP)).unwrap()
}

/// An id that no other message has.
fn id() -> ClientMsgId {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    numbered_id(number)
}

fn numbered_id(number: u64) -> ClientMsgId {
    ClientMsgId((1 << 100 | u128::from(number)).to_be_bytes())
}

fn message(conversation: ConversationId, sender: u32, id: ClientMsgId, fingerprint: u64) -> Change {
    Change::Message(log::Message {
        conversation: conversation.number(),
        sender,
        client_msg_id: Bytes::copy_from_slice(&id.0),
        fingerprint: (fingerprint != 0).then_some(fingerprint),
        r#type: 1,
        body: Bytes::from_static(b"body"),
        ..Default::default()
    })
}

/// A frame that came on this connection.
fn framed(fingerprint: u64, session: u64, repeats_after: Option<u64>) -> Change {
    let Change::Message(message) = message(two(), ALICE, id(), fingerprint) else { unreachable!() };
    Change::Message(log::Message {
        gateway_boot: Some(5),
        session: Some(session),
        repeats_after,
        ..message
    })
}

fn created(members: &[u32]) -> Change {
    Change::GroupCreated(log::GroupCreated {
        group: GROUP,
        creator: ALICE,
        group_type: 2,
        name: "group".to_owned(),
        avatar: String::new(),
        members: members.to_vec(),
    })
}

fn changed(added: &[u32], removed: &[u32]) -> Change {
    let (added, removed) = (added.to_vec(), removed.to_vec());
    let deleted = None;
    Change::MembersChanged(log::MembersChanged {
        group: GROUP,
        actor: ALICE,
        added,
        removed,
        deleted,
    })
}

fn deleted(named: &[u32]) -> Change {
    let (added, removed) = (Vec::new(), named.to_vec());
    let deleted = Some(true);
    Change::MembersChanged(log::MembersChanged {
        group: GROUP,
        actor: ALICE,
        added,
        removed,
        deleted,
    })
}

fn read(conversation: ConversationId, user: u32, msg_id: u32, own_up_to: u32) -> Change {
    Change::Read(log::Read { conversation: conversation.number(), user, msg_id, own_up_to })
}

fn epoch(epoch: u64) -> Change {
    Change::Epoch(log::Epoch { epoch, owner: "owner".to_owned() })
}
