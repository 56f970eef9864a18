//! The fold: from the log's records, in order, to message numbers and what follows from them.
//!
//! The one place where a message gets its number. It reads its state and the record, nothing else:
//! no clock, no store, no randomness, no order of a hash map. So every replay, and every owner that
//! does not know yet that it has been replaced, computes the same numbers.
//!
//! # Invariants
//!
//! - The fold refuses nothing that was made durable: authorisation happened at admission.
//! - A record that cannot be read consumes no number, is counted and kept, and stops nothing.
//! - Records of an epoch older than the newest epoch record are ignored.
//! - The conversation a record belongs to must be in the state ([`Fold::needs`]).

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Offset, UserId};
use proto::log::record::Change;
use proto::log::{self, Record};
use proto::record::LogRecord;

use crate::conversation::{Conversation, Mark, Member};
use crate::publications::{MemberChange, Published};
use crate::rows::{Batch, ChangedRow, GroupRow, MessageRow};
use crate::window::{Connection, Frame, Identity, Known, Seen, Window, content_crc};

/// The rules this build folds by. A log that asks for newer ones is a roll-out error.
///
/// - 1: the first.
/// - 2: a message carries the connection that its frame came on, and which records the frame may
///   repeat ([`crate::window`]).
/// - 3: a message whose body a hook has changed carries the checksum of what its sender sent.
pub const FOLD_VERSION: u32 = 3;

/// Skipping such a record instead would change the number of every later message.
const LOADED: &str = "admission and replay load the conversation of a record before it is folded";

/// What one record came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// A message got its number.
    Message {
        /// The message as it will be stored.
        row: MessageRow,
        /// The record of this conversation that was published before.
        previous: Offset,
        /// The version of the group's member list; 0 for two users.
        member_version: u32,
    },
    /// The message was known: nothing happened.
    Duplicate(Known),
    /// Another message of the sender is known under its id: nothing happened.
    IdReused,
    /// A group was made or its members changed.
    Members {
        /// Which group.
        group: GroupId,
        /// Who asked for it.
        actor: UserId,
        /// Those who really joined.
        added: Vec<UserId>,
        /// Those who really left.
        removed: Vec<UserId>,
        /// The record of this group that was published before.
        previous: Offset,
        /// Whether the group was made by this record: its members are not told.
        created: bool,
    },
    /// A user's mark was changed, or not.
    Marked {
        /// Whether it was.
        changed: bool,
    },
    /// Nothing that a client could see.
    Nothing,
}

/// What the store does not have yet.
#[derive(Debug, Default)]
pub struct Unstored {
    /// New messages, in order.
    pub messages: Vec<MessageRow>,
    /// Those of them whose body a hook has changed.
    pub changed: Vec<ChangedRow>,
    /// Conversations that changed.
    pub conversations: BTreeSet<ConversationId>,
    /// Memberships that changed.
    pub members: BTreeSet<(ConversationId, UserId)>,
    /// Marks that changed.
    pub marks: BTreeSet<(ConversationId, UserId)>,
    /// Records that could not be read.
    pub unreadable: Vec<(Offset, Bytes)>,
    /// Roughly how many bytes all of this holds.
    pub bytes: usize,
}

/// The log asks for rules that this build does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log asks for fold version {asked}, this build knows up to {FOLD_VERSION}: upgrade it")]
pub struct UnknownVersion {
    /// The version asked for.
    pub asked: u32,
}

/// How many records may follow one that began or repeated the epoch before the owner repeats it. So a
/// reader that begins in the middle of the log learns the epoch in force.
pub const EPOCH_EVERY: u64 = 1 << 16;

/// How many records are read before those that are entered into the window, to learn the epoch in
/// force there. One of them began or repeated that epoch: an owner counts all records of the log
/// towards its next repetition, also those of a replaced owner, and a replaced owner appends at most one
/// more batch before it notices.
pub const EPOCH_LEAD: u64 = 2 * EPOCH_EVERY;

/// The state of one partition.
#[derive(Debug)]
pub struct Fold {
    /// The newest epoch that the log has shown. An owner begins its epoch with a record before it
    /// writes in it, and each of its records carries the epoch.
    pub epoch: u64,
    /// The last record that began or repeated that epoch.
    pub epoch_at: Offset,
    /// The rules in force.
    pub version: u32,
    /// The last record folded.
    pub last: Offset,
    /// The fingerprint of that record.
    pub(crate) last_crc: u32,
    /// Unix milliseconds of the last record that counts: log time, which never falls.
    pub last_ms: u64,
    /// Conversations in memory.
    pub conversations: HashMap<ConversationId, Conversation>,
    /// Messages seen lately.
    pub window: Window,
    /// What was published lately.
    pub published: Published,
    /// What the store does not have yet.
    pub unstored: Unstored,
    /// How many records could not be read.
    pub unreadable: u64,
}

impl Fold {
    /// The state after the record at `applied`, with no conversation in memory. The records before
    /// it are entered by [`Fold::remember`].
    pub fn new(version: u32, applied: Offset, applied_crc: u32) -> Self {
        Self {
            epoch: 0,
            epoch_at: Offset(0),
            version,
            last: applied,
            last_crc: applied_crc,
            last_ms: 0,
            conversations: HashMap::new(),
            window: Window::default(),
            published: Published::new(applied),
            unstored: Unstored::default(),
            unreadable: 0,
        }
    }

    /// The conversation that must be in memory before the record is folded.
    pub fn needs(record: &Record) -> Option<ConversationId> {
        let group = |number| ConversationId::group(GroupId(number));
        match record.change.as_ref()? {
            Change::Message(message) => ConversationId::from_number(message.conversation),
            Change::GroupCreated(created) => group(created.group),
            Change::MembersChanged(changed) => group(changed.group),
            Change::Read(read) => ConversationId::from_number(read.conversation),
            Change::SessionRemoved(removed) => ConversationId::from_number(removed.conversation),
            Change::Shield(shield) => ConversationId::from_number(shield.conversation),
            Change::Epoch(_) | Change::FoldVersion(_) => None,
        }
    }

    /// Takes a record that lies before those that are remembered, and looks only at its epoch. After
    /// [`EPOCH_LEAD`] such records the epoch in force is known, so that [`Fold::remember`] leaves out
    /// what a replaced owner wrote in an older epoch.
    pub fn hear(&mut self, record: &LogRecord) {
        let Ok(decoded) = Record::decode(record.payload.clone()) else { return };
        self.epoch = self.epoch.max(decoded.written_in_epoch.unwrap_or(0));
    }

    /// Takes a record that the store has already: it is only entered into the window and among the
    /// published records. A record that was a duplicate when it was folded may be entered here as a
    /// new message, because the records that would show the duplicate lie before the window.
    pub fn remember(&mut self, record: &LogRecord) {
        let Ok(Record { change: Some(change), written_in_epoch }) =
            Record::decode(record.payload.clone())
        else {
            return;
        };
        let written_in_epoch = written_in_epoch.unwrap_or(self.epoch);
        if written_in_epoch < self.epoch {
            return;
        }
        self.epoch = written_in_epoch;
        match change {
            Change::Message(message) => self.remember_message(record, &message),
            Change::GroupCreated(created) => {
                let Some(id) = ConversationId::group(GroupId(created.group)) else { return };
                let actor = UserId(created.creator);
                let member_change =
                    member_change(actor, (users(&created.members), Vec::new()), true);
                self.published.enter(record.offset, id, member_change);
            }
            Change::MembersChanged(changed) => {
                let Some(id) = ConversationId::group(GroupId(changed.group)) else { return };
                let who = (users(&changed.added), users(&changed.removed));
                let member_change = member_change(UserId(changed.actor), who, false);
                self.published.enter(record.offset, id, member_change);
            }
            Change::Read(_)
            | Change::SessionRemoved(_)
            | Change::Shield(_)
            | Change::Epoch(_)
            | Change::FoldVersion(_) => {}
        }
    }

    fn remember_message(&mut self, record: &LogRecord, message: &log::Message) {
        let Some((conversation, identity)) = identify(message) else { return };
        let (offset, timestamp_ms) = (record.offset, record.timestamp_ms);
        let Identity { client_msg_id, content_crc, .. } = identity;
        let new = Known { conversation, msg_id: None, client_msg_id, content_crc, timestamp_ms };
        self.window.enter(identity, new, offset, timestamp_ms);
        self.published.enter(offset, conversation, None);
    }

    /// Folds the next record.
    pub fn fold(&mut self, record: &LogRecord) -> Result<Effect, UnknownVersion> {
        debug_assert_eq!(record.offset, self.last.next(), "records are folded in order");
        self.last = record.offset;
        self.last_crc = record.crc;
        let Ok(Record { change: Some(change), written_in_epoch }) =
            Record::decode(record.payload.clone())
        else {
            return Ok(self.keep_unreadable(record));
        };
        let written_in_epoch = written_in_epoch.unwrap_or(self.epoch);
        if written_in_epoch < self.epoch {
            return Ok(Effect::Nothing);
        }
        self.epoch = written_in_epoch;
        // Only here: the clock of a replaced owner does not count.
        self.last_ms = record.timestamp_ms;
        let effect = match change {
            Change::Message(message) => self.message(record, message),
            Change::GroupCreated(created) => self.group_created(record, created),
            Change::MembersChanged(changed) => self.members_changed(record, &changed),
            Change::Read(read) => self.read(record, read),
            Change::SessionRemoved(removed) => self.session_removed(record, removed),
            Change::Shield(shield) => self.shield(record, shield),
            Change::Epoch(epoch) => {
                self.epoch = self.epoch.max(epoch.epoch);
                self.epoch_at = record.offset;
                Some(Effect::Nothing)
            }
            Change::FoldVersion(version) if version.version > FOLD_VERSION => {
                return Err(UnknownVersion { asked: version.version });
            }
            Change::FoldVersion(version) => {
                self.version = version.version;
                Some(Effect::Nothing)
            }
        };
        Ok(effect.unwrap_or_else(|| self.keep_unreadable(record)))
    }

    /// Takes out what the store does not have, as the batch that brings it up to date.
    pub fn take_batch(&mut self) -> Batch {
        let unstored = std::mem::take(&mut self.unstored);
        let conversation = |id: &ConversationId| self.conversations.get(id);
        Batch {
            applied: self.last,
            applied_crc: self.last_crc,
            fold_version: self.version,
            conversations: unstored
                .conversations
                .iter()
                .filter_map(conversation)
                .map(Conversation::row)
                .collect(),
            members: unstored
                .members
                .iter()
                .filter_map(|(id, user)| conversation(id)?.member_row(*user))
                .collect(),
            marks: unstored
                .marks
                .iter()
                .filter_map(|(id, user)| conversation(id)?.mark_row(*user))
                .collect(),
            messages: unstored.messages,
            changed: unstored.changed,
            unreadable: unstored.unreadable,
        }
    }

    fn keep_unreadable(&mut self, record: &LogRecord) -> Effect {
        self.unreadable += 1;
        self.unstored.bytes += record.payload.len();
        self.unstored.unreadable.push((record.offset, record.payload.clone()));
        Effect::Nothing
    }

    /// `None` stands for a record that means nothing: a number that stands for no conversation, an
    /// id of the wrong length.
    fn message(&mut self, record: &LogRecord, message: log::Message) -> Option<Effect> {
        let (conversation_id, identity) = identify(&message)?;
        let (offset, timestamp_ms) = (record.offset, record.timestamp_ms);
        if let Some(known) = self.window.find(identity, offset, timestamp_ms) {
            self.window.insert(identity, Seen::Again(known), offset, timestamp_ms);
            // A frame without an id that is repeated has the content of the first.
            let is_other = known.client_msg_id == identity.client_msg_id
                && !known.is_of(conversation_id, identity.content_crc);
            return Some(if is_other { Effect::IdReused } else { Effect::Duplicate(known) });
        }
        let conversation = self.conversations.get_mut(&conversation_id).expect(LOADED);
        let msg_id = conversation.head.next();
        if let Some(sent_crc) = message.sent_crc {
            let changed = ChangedRow { conversation: conversation_id, msg_id, sent_crc };
            self.unstored.changed.push(changed);
        }
        let row = MessageRow {
            conversation: conversation_id,
            msg_id,
            sender: identity.sender,
            client_msg_id: identity.client_msg_id,
            offset,
            timestamp_ms,
            kind: message.r#type,
            body: message.body,
        };
        let previous = conversation.last_offset;
        conversation.head = msg_id;
        conversation.last_offset = offset;
        conversation.changed_at = offset;
        conversation.last_message_ms = timestamp_ms;
        conversation.recent.push_back(row.clone());
        sent(conversation.marks.entry(identity.sender).or_default(), msg_id);
        let member_version = conversation.group.as_ref().map_or(0, |group| group.version);

        let known = Known {
            conversation: conversation_id,
            msg_id: Some(msg_id),
            client_msg_id: identity.client_msg_id,
            content_crc: identity.content_crc,
            timestamp_ms,
        };
        self.window.insert(identity, Seen::New(known), offset, timestamp_ms);
        self.published.enter(offset, conversation_id, None);
        self.unstored.bytes += 160 + row.body.len();
        self.unstored.messages.push(row.clone());
        self.unstored.conversations.insert(conversation_id);
        self.unstored.marks.insert((conversation_id, identity.sender));
        Some(Effect::Message { row, previous, member_version })
    }

    fn group_created(&mut self, record: &LogRecord, created: log::GroupCreated) -> Option<Effect> {
        let group = GroupId(created.group);
        let id = ConversationId::group(group)?;
        let conversation = self.conversations.get_mut(&id).expect(LOADED);
        if conversation.group.is_some() {
            return Some(Effect::Nothing);
        }
        let previous = conversation.last_offset;
        conversation.group = Some(GroupRow {
            name: created.name,
            avatar: created.avatar,
            creator: UserId(created.creator),
            kind: created.group_type,
            version: 1,
            deleted: false,
        });
        conversation.last_offset = record.offset;
        conversation.changed_at = record.offset;
        let mut added = Vec::with_capacity(created.members.len());
        for user in created.members.into_iter().map(UserId) {
            if let Entry::Vacant(place) = conversation.members.entry(user) {
                place.insert(Member { join: MsgId(1), leave: None });
                added.push(user);
                self.unstored.members.insert((id, user));
            }
        }
        self.unstored.conversations.insert(id);
        self.unstored.bytes += 200 + added.len() * 32;
        let actor = UserId(created.creator);
        let member_change = member_change(actor, (added.clone(), Vec::new()), true);
        self.published.enter(record.offset, id, member_change);
        Some(Effect::Members { group, actor, added, removed: Vec::new(), previous, created: true })
    }

    fn members_changed(
        &mut self,
        record: &LogRecord,
        changed: &log::MembersChanged,
    ) -> Option<Effect> {
        let group = GroupId(changed.group);
        let id = ConversationId::group(group)?;
        let conversation = self.conversations.get_mut(&id).expect(LOADED);
        let was_deleted = conversation.group.as_ref().is_some_and(|group| group.deleted);
        let is_deleted = was_deleted || changed.deleted();
        // A change that was admitted before the deletion was folded adds no members either.
        let joining = if is_deleted { Vec::new() } else { users(&changed.added) };
        let added = conversation.join(joining);
        // Whether or not the record names them: it was written before what came just before it.
        let leaving =
            if is_deleted { conversation.current_members() } else { users(&changed.removed) };
        let removed = conversation.leave(leaving);
        let previous = conversation.last_offset;
        let actor = UserId(changed.actor);
        if added.is_empty() && removed.is_empty() && is_deleted == was_deleted {
            return Some(Effect::Members {
                group,
                actor,
                added,
                removed,
                previous,
                created: false,
            });
        }
        conversation.last_offset = record.offset;
        conversation.changed_at = record.offset;
        if let Some(group) = &mut conversation.group {
            group.version += 1;
            group.deleted = is_deleted;
        }
        for &user in added.iter().chain(&removed) {
            self.unstored.members.insert((id, user));
        }
        let marked = added.iter().filter(|user| conversation.marks.contains_key(user));
        self.unstored.marks.extend(marked.map(|user| (id, *user)));
        self.unstored.conversations.insert(id);
        self.unstored.bytes += 64 + (added.len() + removed.len()) * 32;
        let member_change = member_change(actor, (added.clone(), removed.clone()), false);
        self.published.enter(record.offset, id, member_change);
        Some(Effect::Members { group, actor, added, removed, previous, created: false })
    }

    fn read(&mut self, record: &LogRecord, read: log::Read) -> Option<Effect> {
        self.mark(record, read.conversation, read.user, |mark, head| {
            let upto = MsgId(read.msg_id.min(head.0));
            if upto > mark.read {
                mark.read = upto;
                mark.own_up_to_read = read.own_up_to;
            }
        })
    }

    fn session_removed(
        &mut self,
        record: &LogRecord,
        removed: log::SessionRemoved,
    ) -> Option<Effect> {
        self.mark(record, removed.conversation, removed.user, |mark, head| {
            mark.removed_at = head;
            mark.read = head;
            mark.own_up_to_read = mark.own_total;
        })
    }

    fn shield(&mut self, record: &LogRecord, shield: log::Shield) -> Option<Effect> {
        self.mark(record, shield.conversation, shield.user, |mark, _head| mark.shield = shield.on)
    }

    fn mark(
        &mut self,
        record: &LogRecord,
        conversation: u64,
        user: u32,
        change: impl FnOnce(&mut Mark, MsgId),
    ) -> Option<Effect> {
        let id = ConversationId::from_number(conversation)?;
        let user = UserId(user);
        let conversation = self.conversations.get_mut(&id).expect(LOADED);
        let before = conversation.marks.get(&user).copied().unwrap_or_default();
        let mut after = before;
        change(&mut after, conversation.head);
        if after == before {
            return Some(Effect::Marked { changed: false });
        }
        conversation.marks.insert(user, after);
        conversation.changed_at = record.offset;
        self.unstored.marks.insert((id, user));
        self.unstored.bytes += 64;
        Some(Effect::Marked { changed: true })
    }
}

/// Sending moves the sender's mark along only if nothing before was unread.
fn sent(mark: &mut Mark, msg_id: MsgId) {
    mark.own_total += 1;
    if mark.read.next() == msg_id {
        mark.read = msg_id;
        mark.own_up_to_read = mark.own_total;
    }
}

fn users(numbers: &[u32]) -> Vec<UserId> {
    numbers.iter().copied().map(UserId).collect()
}

/// `None` if no user joined or left: a group that was made without members.
fn member_change(
    actor: UserId,
    (added, removed): (Vec<UserId>, Vec<UserId>),
    created: bool,
) -> Option<MemberChange> {
    if added.is_empty() && removed.is_empty() {
        return None;
    }
    Some(MemberChange { actor, added: added.into(), removed: removed.into(), created })
}

fn identify(message: &log::Message) -> Option<(ConversationId, Identity)> {
    let identity = Identity {
        sender: UserId(message.sender),
        client_msg_id: ClientMsgId::from_slice(&message.client_msg_id)?,
        content_crc: message.sent_crc.unwrap_or_else(|| content_crc(message.r#type, &message.body)),
        frame: frame(message),
    };
    Some((ConversationId::from_number(message.conversation)?, identity))
}

fn frame(message: &log::Message) -> Frame {
    let fingerprint = message.fingerprint.unwrap_or(0);
    let connection = match (message.gateway_boot, message.session) {
        (Some(gateway_boot), Some(session)) => Some(Connection { gateway_boot, session }),
        _ => None,
    };
    let repeats_after = match connection {
        Some(_) => message.repeats_after.map(Offset),
        // Before version 2 every frame could repeat every other.
        None => Some(Offset(0)),
    };
    Frame { fingerprint, connection, repeats_after }
}

#[cfg(test)]
mod tests;
