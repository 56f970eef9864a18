//! From records to sockets.

use std::cell::OnceCell;
use std::slice;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proto::cluster::wire::{InterestChange, Publish};
use proto::frame;
use proto::ids::{ConversationId, GroupId, Parties};

use super::progress::concerns;
use super::repair::{self, Beginners};
use super::{Record, changes_members, extension};
use crate::gateway::Gateway;
use crate::membership::Change;
use crate::session::Session;

/// Bytes that are joined into one write at most, so that a client that reads a little slowly can
/// still take it.
const PARCEL_BYTES_MAX: usize = 32 << 10;

/// Frames that are joined into one write at most.
const PARCEL_FRAMES_MAX: usize = 64;

/// Messages of one conversation that go to its sessions together.
struct Parcel<'a> {
    records: &'a [Record],
    joined: Bytes,
    extended: OnceCell<Bytes>,
    gateway_boot: u64,
}

/// Delivers what a conversation has got, unless somebody else does: then he delivers this, too.
pub(super) fn deliver(gateway: &Arc<Gateway>, conversation: u64) {
    let Some((mut right, mut records)) = gateway.delivery.deliverer(conversation) else { return };
    loop {
        if let Some(conversation) = ConversationId::from_number(conversation) {
            deliver_records(gateway, conversation, &records);
        }
        match right.more() {
            Some(more) => records = more,
            None => return,
        }
    }
}

/// The sessions of a conversation.
pub(super) fn concerned(gateway: &Gateway, conversation: u64) -> Vec<Arc<Session>> {
    match ConversationId::from_number(conversation).map(ConversationId::parties) {
        None => Vec::new(),
        Some(Parties::Single(low, high)) => {
            [low, high].iter().flat_map(|user| gateway.parts.registry.sessions_of(user.0)).collect()
        }
        Some(Parties::Group(group)) => {
            let members = gateway.parts.registry.group(group.0).unwrap_or_default();
            members.iter().map(|member| Arc::clone(&member.session)).collect()
        }
    }
}

fn deliver_records(gateway: &Arc<Gateway>, conversation: ConversationId, mut records: &[Record]) {
    while let Some((first, rest)) = records.split_first() {
        if changes_members(&first.publish) {
            if first.sums_up {
                ensure_members(gateway, conversation, &first.publish);
            } else {
                change_members(gateway, conversation, &first.publish);
            }
            records = rest;
            continue;
        }
        let (parcel, rest) = records.split_at(parcel_len(records));
        deliver_parcel(gateway, conversation, parcel);
        records = rest;
    }
}

/// How many records go together: at least one.
fn parcel_len(records: &[Record]) -> usize {
    let mut bytes = 0_usize;
    let joined = records.iter().take(PARCEL_FRAMES_MAX).take_while(|record| {
        bytes = bytes.saturating_add(record.publish.frame.len());
        !changes_members(&record.publish) && bytes <= PARCEL_BYTES_MAX
    });
    joined.count().max(1)
}

fn deliver_parcel(gateway: &Gateway, conversation: ConversationId, records: &[Record]) {
    let parcel = Parcel::new(records, gateway.parts.boot);
    let partition = gateway.parts.partition_of(conversation.number());
    match conversation.parties() {
        Parties::Single(low, high) => {
            for user in [low, high] {
                for session in gateway.parts.registry.sessions_of(user.0) {
                    parcel.push(&session, 0, session.floor(partition));
                }
            }
        }
        Parties::Group(group) => {
            let Some(group) = gateway.parts.registry.group(group.0) else { return };
            for member in group.iter() {
                parcel.push(&member.session, member.join, member.floor(partition));
            }
        }
    }
}

/// Pushes one message to sessions that may see it from `join` on. For what only they have missed.
pub(super) fn deliver_to(
    gateway: &Gateway,
    sessions: &[Arc<Session>],
    publish: Publish,
    join: u32,
) {
    let record = gateway.record(publish, true);
    let parcel = Parcel::new(slice::from_ref(&record), gateway.parts.boot);
    for session in sessions {
        // Their clients have asked before they were members.
        parcel.push(session, join, Some(0));
    }
}

impl<'a> Parcel<'a> {
    fn new(records: &'a [Record], gateway_boot: u64) -> Self {
        let joined = match records {
            [one] => one.publish.frame.clone(),
            many => join(many.iter().map(|record| record.publish.frame.clone())),
        };
        Self { records, joined, extended: OnceCell::new(), gateway_boot }
    }

    /// Pushes what the session may see from `join_msg_id` on, and does not ask for itself up to
    /// `floor`.
    fn push(&self, session: &Session, join_msg_id: u32, floor: Option<u64>) {
        let wanted = |record: &Record| {
            record.publish.msg_id >= join_msg_id
                && concerns(floor, record.publish.offset, record.repaired)
                && !record.is_from(session, self.gateway_boot)
        };
        let is_extended = session.outbox.is_extended();
        if self.records.iter().all(wanted) {
            let bytes = if is_extended { self.extended() } else { &self.joined };
            let frames = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
            session.outbox.push(bytes, frames);
            return;
        }
        for Record { publish, .. } in self.records.iter().filter(|record| wanted(record)) {
            if is_extended {
                session.push(&frame::extend(&publish.frame, &extension(publish)));
            } else {
                session.push(&publish.frame);
            }
        }
    }

    fn extended(&self) -> &Bytes {
        self.extended.get_or_init(|| {
            join(
                self.records.iter().map(|record| {
                    frame::extend(&record.publish.frame, &extension(&record.publish))
                }),
            )
        })
    }
}

impl Record {
    fn is_from(&self, session: &Session, gateway_boot: u64) -> bool {
        self.answered == Some(session.id())
            || self.publish.origin == Some(session.origin(gateway_boot))
    }
}

fn join(frames: impl Iterator<Item = Bytes>) -> Bytes {
    let mut joined = BytesMut::new();
    frames.for_each(|frame| joined.extend_from_slice(&frame));
    joined.freeze()
}

/// Carries out a change of a group's members, and tells all who are concerned.
fn change_members(gateway: &Arc<Gateway>, conversation: ConversationId, publish: &Publish) {
    let Some(group) = conversation.as_group() else { return };
    let mut concerned: Vec<Arc<Session>> = match gateway.parts.registry.group(group.0) {
        Some(group) => group.iter().map(|member| Arc::clone(&member.session)).collect(),
        None => Vec::new(),
    };
    for &user in publish.added.iter().chain(&publish.removed) {
        concerned.extend(gateway.parts.registry.sessions_of(user));
    }
    concerned.sort_by_key(|session| session.id());
    concerned.dedup_by_key(|session| session.id());

    leave(gateway, group, publish);
    enter(gateway, group, publish);
    if publish.frame.is_empty() {
        // A change that clients are not told of, such as a new group.
        return;
    }
    for session in concerned {
        if publish.origin != Some(session.origin(gateway.parts.boot)) {
            session.push(&publish.frame);
        }
    }
}

/// Carries out what changes of members came to, as far as it is not yet, and tells whom it was news. A
/// client whose login is not answered yet asks for its groups anyway.
fn ensure_members(gateway: &Arc<Gateway>, conversation: ConversationId, publish: &Publish) {
    let Some(group) = conversation.as_group() else { return };
    let mut changed = leave(gateway, group, publish);
    changed.extend(enter(gateway, group, publish));
    let is_told = |session: &&Arc<Session>| !publish.frame.is_empty() && !session.outbox.is_held();
    for session in changed.iter().filter(is_told) {
        session.push(&publish.frame);
    }
}

/// Takes the removed out already, before the messages that may have been said after that.
pub(super) fn withdraw(gateway: &Gateway, publish: &Publish) {
    let conversation = ConversationId::from_number(publish.conversation);
    if let Some(group) = conversation.and_then(ConversationId::as_group) {
        leave(gateway, group, publish);
    }
}

/// Takes the sessions of removed users out. Returns those that were in.
fn leave(gateway: &Gateway, group: GroupId, publish: &Publish) -> Vec<Arc<Session>> {
    let removed = publish.removed.iter().flat_map(|user| gateway.parts.registry.sessions_of(*user));
    let version = publish.member_version;
    let left = |session: &Arc<Session>| {
        gateway.parts.registry.change(session, group.0, version, None) == Change::Left
    };
    removed.filter(left).collect()
}

/// Enters the sessions of added users. They see nothing until the hub knows that we are interested
/// in the group: then they get what they may see from the start, and nothing is missing. Returns
/// those that were not in.
fn enter(gateway: &Arc<Gateway>, group: GroupId, publish: &Publish) -> Vec<Arc<Session>> {
    let order = gateway.parts.hub.in_order();
    let added = publish.added.iter().flat_map(|user| gateway.parts.registry.sessions_of(*user));
    let entered: Vec<Arc<Session>> = added
        .filter(|session| {
            let (version, added_at) = (publish.member_version, Some(publish.offset));
            gateway.parts.registry.change(session, group.0, version, added_at) == Change::Entered
        })
        .collect();
    let Some(first) = entered.first() else { return entered };
    let announced = order.announce(&InterestChange {
        // A change that adds a user is confirmed; to add the same one again changes nothing.
        add_users: vec![first.interest()],
        add_groups: vec![group.0],
        ..InterestChange::default()
    });
    drop(order);
    let beginners = Beginners {
        sessions: entered.clone(),
        group,
        added_at: publish.offset,
        changed_at: publish.offset,
    };
    repair::start_begin(gateway, beginners, publish.first_visible, announced);
    entered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimitsConfig;

    fn records(count: usize, len: usize) -> Vec<Record> {
        let record = |msg_id| {
            let publish = Publish { msg_id, frame: vec![0; len].into(), ..Publish::default() };
            Record { publish, answered: None, repaired: false, sums_up: false }
        };
        (1..).take(count).map(record).collect()
    }

    #[test]
    fn so_many_frames_and_bytes_go_together_and_never_less_than_one_record() {
        assert_eq!(parcel_len(&records(PARCEL_FRAMES_MAX + 1, 100)), PARCEL_FRAMES_MAX);
        assert_eq!(parcel_len(&records(9, PARCEL_BYTES_MAX / 8)), 8);
        assert_eq!(parcel_len(&records(9, PARCEL_BYTES_MAX / 8 + 1)), 7);
        assert_eq!(parcel_len(&records(2, 10 * PARCEL_BYTES_MAX)), 1);
        let mut changed = records(3, 100);
        changed[2].publish.msg_id = 0;
        assert_eq!(parcel_len(&changed), 2, "a change of members goes by itself");
    }

    #[test]
    fn a_client_that_has_not_read_one_parcel_can_take_the_next() {
        let limits = LimitsConfig::default();
        assert!(2 * PARCEL_BYTES_MAX <= limits.outbox_bytes_max);
        assert!(2 * PARCEL_FRAMES_MAX <= usize::try_from(limits.outbox_frames_max).unwrap());
    }
}
