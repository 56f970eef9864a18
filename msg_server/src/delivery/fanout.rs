//! From records to sockets.

use std::cell::OnceCell;
use std::slice;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proto::cluster::wire::{InterestChange, Publish};
use proto::frame;
use proto::ids::{ConversationId, GroupId, Parties};
use tracing::Span;

use super::{Record, changes_members, extension, repair};
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

/// Delivers records. Those of one conversation stay in order; conversations may change places.
pub(super) fn deliver(gateway: &Arc<Gateway>, mut records: Vec<Record>) {
    // Stable, so the order within each conversation is kept.
    records.sort_by_key(|record| record.publish.conversation);
    let same =
        |one: &Record, other: &Record| one.publish.conversation == other.publish.conversation;
    for records in records.chunk_by(same) {
        deliver_conversation(gateway, records);
    }
}

fn deliver_conversation(gateway: &Arc<Gateway>, mut records: &[Record]) {
    let conversation = records.first().map_or(0, |record| record.publish.conversation);
    let Some(conversation) = ConversationId::from_number(conversation) else { return };
    while let Some((first, rest)) = records.split_first() {
        if changes_members(&first.publish) {
            change_members(gateway, conversation, &first.publish);
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
    let parcel = Parcel::new(records, gateway.boot);
    match conversation.parties() {
        Parties::Single(low, high) => {
            for user in [low, high] {
                for session in gateway.registry.sessions_of(user.0) {
                    parcel.push(&session, 0);
                }
            }
        }
        Parties::Group(group) => {
            let Some(group) = gateway.registry.group(group.0) else { return };
            for member in group.members.iter() {
                parcel.push(&member.session, member.join);
            }
        }
    }
}

/// Pushes one message to one session, if it may see it. For what only this session has missed.
pub(super) fn deliver_to(gateway: &Gateway, session: &Session, publish: Publish, join: u32) {
    let record = gateway.record(publish);
    Parcel::new(slice::from_ref(&record), gateway.boot).push(session, join);
}

impl<'a> Parcel<'a> {
    fn new(records: &'a [Record], gateway_boot: u64) -> Self {
        let joined = match records {
            [one] => one.publish.frame.clone(),
            many => join(many.iter().map(|record| record.publish.frame.clone())),
        };
        Self { records, joined, extended: OnceCell::new(), gateway_boot }
    }

    fn push(&self, session: &Session, join_msg_id: u32) {
        let wanted = |record: &Record| {
            record.publish.msg_id >= join_msg_id && !record.is_from(session, self.gateway_boot)
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
    let mut concerned: Vec<Arc<Session>> = match gateway.registry.group(group.0) {
        Some(group) => group.members.iter().map(|member| Arc::clone(&member.session)).collect(),
        None => Vec::new(),
    };
    for &user in publish.added.iter().chain(&publish.removed) {
        concerned.extend(gateway.registry.sessions_of(user));
    }
    concerned.sort_by_key(|session| session.id());
    concerned.dedup_by_key(|session| session.id());

    for &user in &publish.removed {
        for session in gateway.registry.sessions_of(user) {
            gateway.registry.change(&session, group.0, publish.member_version, false);
        }
    }
    enter(gateway, group, publish);
    if publish.frame.is_empty() {
        // A change that clients are not told of, such as a new group.
        return;
    }
    for session in concerned {
        if publish.origin != Some(session.origin(gateway.boot)) {
            session.push(&publish.frame);
        }
    }
}

/// Enters the sessions of added users. They see nothing until the hub knows that we are interested
/// in the group: then they get what they may see from the start, and nothing is missing.
fn enter(gateway: &Arc<Gateway>, group: GroupId, publish: &Publish) {
    let order = gateway.hub.in_order();
    let added = publish.added.iter().flat_map(|user| gateway.registry.sessions_of(*user));
    let entered: Vec<Arc<Session>> = added
        .filter(|session| {
            let version = publish.member_version;
            gateway.registry.change(session, group.0, version, true) == Change::Entered
        })
        .collect();
    let Some(first) = entered.first() else { return };
    let announced = order.announce(&InterestChange {
        // A change that adds a user is confirmed; to add the same one again changes nothing.
        add_users: vec![first.interest()],
        add_groups: vec![group.0],
        ..InterestChange::default()
    });
    drop(order);
    let (gateway, first_visible) = (Arc::clone(gateway), publish.first_visible);
    let shutdown = gateway.shutdown.clone();
    shutdown.spawn(Span::current(), async move {
        gateway.hub.settle(announced).await;
        gateway.registry.confirm(&[group.0]);
        match first_visible {
            Some(join) => repair::begin(&gateway, &entered, group, join).await,
            None => repair::begin_unknown(&gateway, &entered, group).await,
        }
    });
}
