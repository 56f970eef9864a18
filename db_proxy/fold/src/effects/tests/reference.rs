//! The fold against a model that keeps everything and computes nothing ahead: every question is
//! answered by looking through all that there was.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::random_log::{Counts, LEN_MAX, WINDOW, Writing, conversations, entry, for_all, start};
use super::*;
use crate::window::{Connection, FINGERPRINT_MS, Frame, content_crc};

#[test]
fn the_fold_comes_to_what_a_model_without_shortcuts_comes_to() {
    let zombie = prop::option::weighted(0.1, 1_u64..3);
    let entries = prop::collection::vec((entry(), 0_u64..9_000, zombie), 1..=LEN_MAX);
    let expected = [
        "messages",
        "repetitions",
        "changes of members",
        "marks",
        "unreadable",
        "zombies",
        "left",
        "ids of other messages",
    ];
    for_all("reference model", (300, &expected), entries, |entries, counts| {
        let mut writing = Writing::begin();
        for (entry, pause_ms, zombie) in entries {
            writing.now_ms += pause_ms;
            match zombie {
                Some(ago) if ago < writing.epoch => writing.write(entry, writing.epoch - ago),
                _ => writing.by_owner(entry),
            }
        }
        let mut model = Model::default();
        let mut partition = start(&Stored::default(), &[]);
        for record in &writing.log {
            let expected = model.take(record);
            counts.add_effect(&expected);
            prop_assert_eq!(partition.fold_record(record), expected, "record {}", record.offset.0);
        }
        model.count(counts);
        partition.store();
        model.check(&partition)
    });
}

/// A message that is known from some record on, and for how long.
#[derive(Debug)]
struct Entered {
    offset: Offset,
    timestamp_ms: u64,
    identity: Identity,
    known: Known,
}

/// Where a user is or was in the group.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stay {
    join: MsgId,
    leave: Option<MsgId>,
}

/// What a user did, besides sending.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Did {
    read: MsgId,
    own_up_to_read: u32,
    removed_at: MsgId,
    shield: bool,
}

#[derive(Debug, Default)]
struct Model {
    epoch: u64,
    version: u32,
    messages: Vec<MessageRow>,
    entered: Vec<Entered>,
    /// Every record that was published.
    published: Vec<(ConversationId, Offset)>,
    /// The group, and how often its members changed.
    made: Option<(log::GroupCreated, u32)>,
    deleted: bool,
    stays: BTreeMap<u32, Stay>,
    did: BTreeMap<(ConversationId, u32), Did>,
    unreadable: Vec<(Offset, Bytes)>,
    ignored: usize,
}

impl Model {
    fn take(&mut self, record: &LogRecord) -> Effect {
        let decoded = Record::decode(record.payload.clone()).ok();
        let Some((change, written_in)) =
            decoded.and_then(|decoded| Some((decoded.change?, decoded.written_in_epoch)))
        else {
            return self.unreadable(record);
        };
        if written_in.is_some_and(|epoch| epoch < self.epoch) {
            self.ignored += 1;
            return Effect::Nothing;
        }
        self.epoch = written_in.unwrap_or(self.epoch);
        match change {
            Change::Message(message) => self.message(record, message),
            Change::GroupCreated(created) => self.created(record, created),
            Change::MembersChanged(changed) => self.members(record, &changed),
            Change::Read(read) => {
                let upto = MsgId(read.msg_id.min(self.head(named(read.conversation)).0));
                self.mark(named(read.conversation), read.user, |did, _head, _own| {
                    if upto > did.read {
                        (did.read, did.own_up_to_read) = (upto, read.own_up_to);
                    }
                })
            }
            Change::SessionRemoved(gone) => {
                self.mark(named(gone.conversation), gone.user, |did, head, own| {
                    *did = Did { read: head, own_up_to_read: own, removed_at: head, ..*did };
                })
            }
            Change::Shield(shield) => {
                self.mark(named(shield.conversation), shield.user, |did, _head, _own| {
                    did.shield = shield.on;
                })
            }
            Change::Epoch(epoch) => {
                self.epoch = self.epoch.max(epoch.epoch);
                Effect::Nothing
            }
            Change::FoldVersion(version) => {
                self.version = version.version;
                Effect::Nothing
            }
        }
    }

    fn unreadable(&mut self, record: &LogRecord) -> Effect {
        self.unreadable.push((record.offset, record.payload.clone()));
        Effect::Nothing
    }

    fn message(&mut self, record: &LogRecord, message: log::Message) -> Effect {
        let (Some(conversation), Ok(id)) = (
            ConversationId::from_number(message.conversation),
            <[u8; 16]>::try_from(&message.client_msg_id[..]),
        ) else {
            return self.unreadable(record);
        };
        let sender = UserId(message.sender);
        let connection = message.session.map(|session| Connection {
            gateway_boot: message.gateway_boot.unwrap_or_default(),
            session,
        });
        let repeats_after = match connection {
            Some(_) => message.repeats_after.map(Offset),
            None => Some(Offset(0)),
        };
        let fingerprint = message.fingerprint.unwrap_or(0);
        let identity = Identity {
            sender,
            client_msg_id: ClientMsgId(id),
            content_crc: content_crc(message.r#type, &message.body),
            frame: Frame { fingerprint, connection, repeats_after },
        };
        let (offset, timestamp_ms) = (record.offset, record.timestamp_ms);
        if let Some(known) = self.known(identity, record) {
            self.entered.push(Entered { offset, timestamp_ms, identity, known });
            // All bodies here are equal.
            let is_other =
                known.client_msg_id == identity.client_msg_id && known.conversation != conversation;
            return if is_other { Effect::IdReused } else { Effect::Duplicate(known) };
        }
        let msg_id = self.head(conversation).next();
        let row = MessageRow {
            conversation,
            msg_id,
            sender,
            client_msg_id: identity.client_msg_id,
            offset,
            timestamp_ms,
            kind: message.r#type,
            body: message.body,
        };
        let known = Known {
            conversation,
            msg_id: Some(msg_id),
            client_msg_id: identity.client_msg_id,
            content_crc: identity.content_crc,
            timestamp_ms,
        };
        self.entered.push(Entered { offset, timestamp_ms, identity, known });
        let previous = self.last_published(conversation);
        self.published.push((conversation, offset));
        self.messages.push(row.clone());
        let own = self.own(conversation, sender.0);
        let did = self.did.entry((conversation, sender.0)).or_default();
        if did.read.next() == msg_id {
            (did.read, did.own_up_to_read) = (msg_id, own);
        }
        Effect::Message { row, previous, member_version: self.member_version(conversation) }
    }

    /// The newest record with this id, or else with this fingerprint, if it is near enough.
    fn known(&self, identity: Identity, now: &LogRecord) -> Option<Known> {
        let of_sender =
            || self.entered.iter().rev().filter(|old| old.identity.sender == identity.sender);
        let near = |old: &&Entered| now.offset.0 - old.offset.0 <= WINDOW;
        let by_id = of_sender()
            .find(|old| old.identity.client_msg_id == identity.client_msg_id)
            .filter(near);
        let frame = identity.frame;
        let by_frame = of_sender()
            .find(|old| old.identity.frame.fingerprint == frame.fingerprint)
            .filter(|_| frame.fingerprint != 0)
            .filter(near)
            .filter(|old| now.timestamp_ms - old.timestamp_ms <= FINGERPRINT_MS)
            .filter(|old| {
                let there = old.identity.frame.connection;
                there.is_none() || there != frame.connection
            })
            .filter(|old| frame.repeats_after.is_some_and(|after| old.offset > after));
        by_id.or(by_frame).map(|old| old.known)
    }

    fn created(&mut self, record: &LogRecord, created: log::GroupCreated) -> Effect {
        if self.made.is_some() {
            return Effect::Nothing;
        }
        let previous = self.last_published(group());
        let mut added = Vec::new();
        for &user in &created.members {
            // A user who was here before it was made stays what they were.
            if let std::collections::btree_map::Entry::Vacant(place) = self.stays.entry(user) {
                place.insert(Stay { join: MsgId(1), leave: None });
                added.push(UserId(user));
            }
        }
        self.published.push((group(), record.offset));
        let actor = UserId(created.creator);
        self.made = Some((created, 1));
        let group = GroupId(GROUP);
        Effect::Members { group, actor, added, removed: Vec::new(), previous, created: true }
    }

    fn members(&mut self, record: &LogRecord, changed: &log::MembersChanged) -> Effect {
        let head = self.head(group());
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        if self.deleted || changed.deleted == Some(true) {
            return self.nobody_stays(record, changed, head);
        }
        for &user in &changed.added {
            if self.stays.get(&user).is_none_or(|stay| stay.leave.is_some()) {
                self.stays.insert(user, Stay { join: head.next(), leave: None });
                let own = self.own(group(), user);
                if let Some(did) = self.did.get_mut(&(group(), user)) {
                    (did.read, did.own_up_to_read) = (head, own);
                }
                added.push(UserId(user));
            }
        }
        for &user in &changed.removed {
            if let Some(stay) = self.stays.get_mut(&user).filter(|stay| stay.leave.is_none()) {
                stay.leave = Some(head);
                removed.push(UserId(user));
            }
        }
        let previous = self.last_published(group());
        if !added.is_empty() || !removed.is_empty() {
            self.published.push((group(), record.offset));
            if let Some((_, version)) = &mut self.made {
                *version += 1;
            }
        }
        let actor = UserId(changed.actor);
        Effect::Members { group: GroupId(GROUP), actor, added, removed, previous, created: false }
    }

    /// The group is deleted, or was before.
    fn nobody_stays(
        &mut self,
        record: &LogRecord,
        changed: &log::MembersChanged,
        head: MsgId,
    ) -> Effect {
        let mut removed = Vec::new();
        for (user, stay) in &mut self.stays {
            if stay.leave.is_none() {
                stay.leave = Some(head);
                removed.push(UserId(*user));
            }
        }
        let previous = self.last_published(group());
        // A group that was never made cannot be deleted: its members only leave.
        let is_new = !self.deleted;
        self.deleted = self.made.is_some();
        if is_new || !removed.is_empty() {
            self.published.push((group(), record.offset));
            if let Some((_, version)) = &mut self.made {
                *version += 1;
            }
        }
        let (group, actor) = (GroupId(GROUP), UserId(changed.actor));
        Effect::Members { group, actor, added: Vec::new(), removed, previous, created: false }
    }

    fn mark(
        &mut self,
        conversation: ConversationId,
        user: u32,
        change: impl FnOnce(&mut Did, MsgId, u32),
    ) -> Effect {
        let (head, own) = (self.head(conversation), self.own(conversation, user));
        let before = self.did.get(&(conversation, user)).copied();
        let mut after = before.unwrap_or_default();
        change(&mut after, head, own);
        if after == before.unwrap_or_default() {
            return Effect::Marked { changed: false };
        }
        self.did.insert((conversation, user), after);
        Effect::Marked { changed: true }
    }

    fn head(&self, conversation: ConversationId) -> MsgId {
        let count = self.messages.iter().filter(|row| row.conversation == conversation).count();
        MsgId(u32::try_from(count).unwrap())
    }

    fn own(&self, conversation: ConversationId, user: u32) -> u32 {
        let own = |row: &&MessageRow| row.conversation == conversation && row.sender.0 == user;
        u32::try_from(self.messages.iter().filter(own).count()).unwrap()
    }

    fn last_published(&self, conversation: ConversationId) -> Offset {
        let last = self.published.iter().rev().find(|(id, _)| *id == conversation);
        last.map_or(Offset(0), |(_, offset)| *offset)
    }

    fn member_version(&self, conversation: ConversationId) -> u32 {
        self.made.as_ref().filter(|_| conversation == group()).map_or(0, |(_, version)| *version)
    }

    fn count(&self, counts: &Counts) {
        counts.add("unreadable", self.unreadable.len());
        counts.add("zombies", self.ignored);
        counts.add("left", self.stays.values().filter(|stay| stay.leave.is_some()).count());
    }

    /// What is in memory and what was stored is what the model says.
    fn check(&self, partition: &Partition) -> Result<(), TestCaseError> {
        let stored = &partition.stored;
        let mut messages: Vec<MessageRow> = stored.messages.values().cloned().collect();
        messages.sort_by_key(|row| row.offset);
        prop_assert_eq!(&messages, &self.messages);
        let mut unreadable: Vec<_> = stored.unreadable.clone().into_iter().collect();
        unreadable.sort_by_key(|(offset, _)| *offset);
        prop_assert_eq!(&unreadable, &self.unreadable);
        prop_assert_eq!(partition.fold.epoch, self.epoch);
        prop_assert_eq!(stored.applied.2, self.version);
        for id in conversations() {
            let row = stored.rows.get(&id);
            prop_assert_eq!(row.map_or(MsgId(0), |row| row.head), self.head(id));
            let last = row.map_or(Offset(0), |row| row.last_offset);
            prop_assert_eq!(last, self.last_published(id));
            let newest = self.messages.iter().rev().find(|message| message.conversation == id);
            let newest_ms = newest.map_or(0, |message| message.timestamp_ms);
            prop_assert_eq!(row.map_or(0, |row| row.last_message_ms), newest_ms);
            for user in 1..5 {
                self.check_mark(stored.marks.get(&(id, UserId(user))), (id, user))?;
            }
        }
        self.check_group(stored)
    }

    fn check_mark(
        &self,
        row: Option<&MarkRow>,
        (id, user): (ConversationId, u32),
    ) -> Result<(), TestCaseError> {
        let did = self.did.get(&(id, user));
        prop_assert_eq!(row.is_some(), did.is_some());
        let found = row.map(|row| Did {
            read: row.read,
            own_up_to_read: row.own_up_to_read,
            removed_at: row.removed_at,
            shield: row.shield,
        });
        prop_assert_eq!(found, did.copied());
        prop_assert_eq!(row.map_or(0, |row| row.own_total), self.own(id, user));
        Ok(())
    }

    fn check_group(&self, stored: &Stored) -> Result<(), TestCaseError> {
        let found = stored.rows.get(&group()).and_then(|row| row.group.clone());
        let expected = self.made.clone().map(|(created, version)| GroupRow {
            name: created.name,
            avatar: created.avatar,
            creator: UserId(created.creator),
            kind: created.group_type,
            version,
            deleted: self.deleted,
        });
        prop_assert_eq!(found, expected);
        for user in 1..5 {
            let row = stored.members.get(&(GroupId(GROUP), UserId(user)));
            let found = row.map(|row| Stay { join: row.join, leave: row.leave });
            prop_assert_eq!(found, self.stays.get(&user).copied());
        }
        Ok(())
    }
}

fn named(number: u64) -> ConversationId {
    ConversationId::from_number(number).expect("random logs name conversations that can be")
}
