//! Tells the gateways what was folded: through a route_server, or directly where there is none.
//!
//! A publication goes to the replica that its conversation ranks first. That replica acknowledges it
//! with the gateways it could not reach, which are then served from here. Without an acknowledgement
//! in 300 ms the next replica gets it; after the last one, every gateway gets it directly. Gateways
//! drop what they have seen, so sending twice is harmless.
//!
//! # Invariants
//!
//! - Publishing never waits: it is called between two appends.
//! - What was published stays here until it is acknowledged or was sent to every gateway.
//!
//! # When it is full
//!
//! Beyond [`PENDING_MAX`] unacknowledged publications new ones go directly to every gateway.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::faults::{self, Mutant};
use daemon::{Link, LinkFrame, LinkHandler, LinkTable, Shutdown};
use parking_lot::Mutex;
use prost::Message as _;
use proto::client::{GroupChange, GroupMembersNotify, MessageData};
use proto::cluster::wire::{Origin, Owned, Publish, PublishAck};
use proto::cluster::{Kind, rendezvous_weight};
use proto::ids::{ConversationId, GroupId, MsgId, Offset, Parties, UserId};
use proto::limits::LIMIT_TO_CLIENT;
use proto::{Command, encode_message};
use store::MessageRow;
use tokio::time::Instant;
use tracing::{debug, info_span, warn};

use crate::metrics::PublishMetrics;

/// Publications that wait for an acknowledgement at most.
const PENDING_MAX: usize = 65_536;

/// How long a replica may take to acknowledge.
const ACK_LIMIT: Duration = Duration::from_millis(300);

/// How often unacknowledged publications are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Members named in one notice at most, so that it fits a frame: each takes up to 6 bytes, and the
/// changed are named twice.
const MEMBERS_NAMED_MAX: usize = LIMIT_TO_CLIENT / 14;

/// A message with its number, as it is told.
#[derive(Debug)]
pub struct FoldedMessage<'a> {
    /// The message.
    pub row: &'a MessageRow,
    /// The record before it in its conversation.
    pub previous: Offset,
    /// The version of the group's member list.
    pub member_version: u32,
    /// The session that sent it, which is answered instead of told.
    pub origin: Option<Origin>,
}

/// Where a record is, and the one before it in its conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordPlace {
    /// The record.
    pub(crate) offset: Offset,
    /// The one before it.
    pub(crate) previous: Offset,
}

/// A change of a group's members, as it is told.
#[derive(Debug)]
pub(crate) struct MembersChange<'a> {
    /// Which group.
    pub(crate) group: GroupId,
    /// Who asked for it.
    pub(crate) actor: UserId,
    /// The members after it.
    pub(crate) current: &'a [UserId],
    /// Who joined.
    pub(crate) added: &'a [UserId],
    /// Who left.
    pub(crate) removed: &'a [UserId],
    /// Whether only gateways are told, not clients.
    pub(crate) quiet: bool,
    /// The version of the member list after it.
    pub(crate) version: u32,
    /// The first message that the added may see, if it is the same for all.
    pub(crate) first_visible: Option<MsgId>,
    /// The session that asked for it, which is answered instead of told.
    pub(crate) origin: Option<Origin>,
}

/// The way from the fold to the gateways.
#[derive(Debug)]
pub struct Publisher {
    routes: LinkTable,
    gateways: Arc<LinkTable>,
    pending: Mutex<Pending>,
    metrics: PublishMetrics,
}

#[derive(Debug, Default)]
struct Pending {
    last_request: u64,
    /// By request number, and so in order of publication.
    unacknowledged: BTreeMap<u64, Unacknowledged>,
}

#[derive(Debug)]
struct Unacknowledged {
    conversation: ConversationId,
    body: Bytes,
    /// The replicas that had it, the last one first asked last.
    tried: Vec<u64>,
    /// When the last of them got it.
    since: Instant,
    folded: Instant,
}

impl Publisher {
    /// A publisher that serves `gateways` directly where it must.
    pub fn new(gateways: Arc<LinkTable>, metrics: PublishMetrics) -> Arc<Self> {
        Arc::new(Self {
            routes: LinkTable::default(),
            gateways,
            pending: Mutex::default(),
            metrics,
        })
    }

    /// Starts looking after unacknowledged publications.
    pub fn watch(self: &Arc<Self>, shutdown: &Shutdown) {
        let (publisher, stop) = (Arc::clone(self), shutdown.clone());
        // Ends with the links, not before: what is folded during the drain is published too.
        shutdown.spawn_link(info_span!("publisher"), async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => publisher.send_late_again(),
                    () = stop.closing_links() => return,
                }
            }
        });
    }

    /// Publishes a message.
    pub(crate) fn message(&self, message: &FoldedMessage<'_>, owned: Owned) {
        let row = message.row;
        debug!(message = %row.client_msg_id, conversation = %row.conversation, msg_id = row.msg_id.0, "publishing");
        let publish = publication(message, owned);
        self.publish(row.conversation, &publish);
    }

    /// Publishes a change of members.
    pub(crate) fn members(&self, change: &MembersChange<'_>, place: RecordPlace, owned: Owned) {
        let Some(conversation) = ConversationId::group(change.group) else { return };
        let publish = members_publication(conversation, change, place, owned);
        self.publish(conversation, &publish);
    }

    fn publish(&self, conversation: ConversationId, publish: &Publish) {
        self.metrics.publications.inc();
        let body = Bytes::from(publish.encode_to_vec());
        let mut pending = self.pending.lock();
        if pending.unacknowledged.len() >= PENDING_MAX {
            drop(pending);
            self.serve_directly(&body);
            return;
        }
        pending.last_request += 1;
        let request = pending.last_request;
        let folded = Instant::now();
        let mut entry =
            Unacknowledged { conversation, body, tried: Vec::new(), since: folded, folded };
        if self.send_to_next(request, &mut entry) {
            pending.unacknowledged.insert(request, entry);
        } else {
            drop(pending);
            self.serve_directly(&entry.body);
        }
    }

    /// Sends to the best replica that has not had it. False if there is none.
    fn send_to_next(&self, request: u64, entry: &mut Unacknowledged) -> bool {
        let routes = self.routes.all();
        let key = entry.conversation.number();
        loop {
            let best = routes
                .iter()
                .filter(|route| !entry.tried.contains(&route.id()))
                .max_by_key(|route| rendezvous_weight(key, &route.peer().name));
            let Some(route) = best else { return false };
            entry.tried.push(route.id());
            entry.since = Instant::now();
            match route.send_raw(Kind::Publish.number(), request, &entry.body) {
                Ok(()) => return true,
                Err(daemon::LinkError::Full) => route.reset("it does not take publications"),
                Err(daemon::LinkError::Closed | daemon::LinkError::TooLong) => {}
            }
        }
    }

    /// The link to the gateway of this boot, if there is one.
    pub(crate) fn gateway(&self, boot: u64) -> Option<Link> {
        self.gateways.all().iter().find(|gateway| gateway.peer().boot == boot).cloned()
    }

    fn serve_directly(&self, body: &[u8]) {
        self.metrics.direct.inc();
        for gateway in self.gateways.all().iter() {
            self.serve(gateway, body);
        }
    }

    fn serve(&self, gateway: &Link, body: &[u8]) {
        if let Err(daemon::LinkError::Full) = gateway.send_raw(Kind::Publish.number(), 0, body) {
            // It asks again for what it has not seen once it is back.
            self.metrics.gateways_reset.inc();
            gateway.reset("it does not take what is published");
        }
    }

    fn acknowledged(&self, request: u64, ack: &PublishAck) {
        let Some(entry) = self.pending.lock().unacknowledged.remove(&request) else { return };
        self.metrics.publish.observe(entry.folded.elapsed());
        if ack.newcomer() {
            self.serve_directly(&entry.body);
            return;
        }
        if ack.missed_gateway_boots.is_empty() {
            return;
        }
        for gateway in self.gateways.all().iter() {
            if ack.missed_gateway_boots.contains(&gateway.peer().boot) {
                self.metrics.missed.inc();
                self.serve(gateway, &entry.body);
            }
        }
    }

    fn send_late_again(&self) {
        let late = |entry: &Unacknowledged| entry.since.elapsed() >= ACK_LIMIT;
        self.send_again(late);
    }

    /// Sends those again that `which` chooses, in order of publication.
    fn send_again(&self, which: impl Fn(&Unacknowledged) -> bool) {
        let mut pending = self.pending.lock();
        let chosen: Vec<u64> = pending
            .unacknowledged
            .iter()
            .filter(|(_, entry)| which(entry))
            .map(|(request, _)| *request)
            .collect();
        for request in chosen {
            let Some(entry) = pending.unacknowledged.get_mut(&request) else { continue };
            self.metrics.sent_again.inc();
            if !self.send_to_next(request, entry)
                && let Some(entry) = pending.unacknowledged.remove(&request)
            {
                self.serve_directly(&entry.body);
            }
        }
    }
}

/// The links to the route_servers.
impl LinkHandler for Publisher {
    fn up(&self, link: &Link) {
        self.routes.add(link);
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        if frame.kind != Kind::Publish.number() || !frame.answer {
            return;
        }
        let Ok(ack) = frame.parse::<PublishAck>() else {
            warn!(peer = %link.peer().name, "an acknowledgement cannot be read");
            link.reset("it sends what cannot be read");
            return;
        };
        self.acknowledged(frame.request, &ack);
    }

    fn down(&self, link: &Link) {
        self.routes.remove(link);
        let id = link.id();
        self.send_again(|entry| entry.tried.last() == Some(&id));
    }
}

/// A message as it is published, or fetched again later.
pub fn publication(message: &FoldedMessage<'_>, owned: Owned) -> Publish {
    let FoldedMessage { row, previous, member_version, origin } = *message;
    Publish {
        conversation: row.conversation.number(),
        msg_id: row.msg_id.0,
        offset: row.offset.0,
        prev_offset: previous.0,
        member_version: u64::from(member_version),
        sender: row.sender.0,
        client_msg_id: Some(Bytes::copy_from_slice(&row.client_msg_id.0)),
        origin,
        frame: message_frame(row),
        added: Vec::new(),
        removed: Vec::new(),
        epoch: owned.epoch,
        partition: owned.partition,
        first_visible: None,
    }
}

/// A change of members as it is published, or told again later.
pub(crate) fn members_publication(
    conversation: ConversationId,
    change: &MembersChange<'_>,
    place: RecordPlace,
    owned: Owned,
) -> Publish {
    let RecordPlace { offset, previous } = place;
    let numbers = |users: &[UserId]| users.iter().map(|user| user.0).collect::<Vec<_>>();
    let is_forgotten =
        faults::planted(Mutant::NoticesForgotten) && change.version.is_multiple_of(3);
    Publish {
        conversation: conversation.number(),
        msg_id: 0,
        offset: offset.0,
        prev_offset: previous.0,
        member_version: u64::from(change.version),
        sender: change.actor.0,
        client_msg_id: None,
        origin: change.origin,
        frame: if is_forgotten { Bytes::new() } else { notices(change) },
        added: numbers(change.added),
        removed: numbers(change.removed),
        epoch: owned.epoch,
        partition: owned.partition,
        first_visible: change.first_visible.map(|first| first.0),
    }
}

fn message_frame(row: &MessageRow) -> Bytes {
    let to = match row.conversation.parties() {
        Parties::Group(group) => group.0,
        Parties::Single(low, high) => {
            if low == row.sender {
                high.0
            } else {
                low.0
            }
        }
    };
    let message = MessageData {
        from_user_id: row.sender.0,
        to_session_id: to,
        msg_id: row.msg_id.0,
        create_time: seconds(row.timestamp_ms),
        msg_type: i32::try_from(row.kind).unwrap_or_default(),
        msg_data: row.body.clone(),
        attach_data: None,
        client_msg_id: None,
        resend: None,
    };
    encode_message(Command::MessageData, 0, &message)
}

/// What clients are told of a change: of those who left, then of those who joined. A notice is of one
/// kind (TeamTalk protocol, groups), so a change that has both is two frames.
pub(crate) fn notices(change: &MembersChange<'_>) -> Bytes {
    let removal = || notice(change, GroupChange::Remove, change.removed);
    let addition = || notice(change, GroupChange::Add, change.added);
    match (change.added.is_empty(), change.removed.is_empty()) {
        _ if change.quiet => Bytes::new(),
        (true, _) => removal(),
        (false, true) => addition(),
        (false, false) => [removal(), addition()].concat().into(),
    }
}

/// Long lists are cut so that the notice fits a frame; clients ask for the group's record anyway.
fn notice(change: &MembersChange<'_>, kind: GroupChange, changed: &[UserId]) -> Bytes {
    let numbers = |users: &[UserId]| {
        users.iter().take(MEMBERS_NAMED_MAX).map(|user| user.0).collect::<Vec<_>>()
    };
    let notify = GroupMembersNotify {
        user_id: change.actor.0,
        change: kind as i32,
        group_id: change.group.0,
        current_ids: numbers(change.current),
        changed_ids: numbers(changed),
    };
    encode_message(Command::GroupMembersNotify, 0, &notify)
}

/// Unix seconds, as clients get them.
pub fn seconds(timestamp_ms: u64) -> u32 {
    let moved = u32::from(faults::planted(Mutant::TimeGoesBack));
    u32::try_from(timestamp_ms / 1000).unwrap_or(u32::MAX) ^ moved
}

#[cfg(test)]
mod tests;
