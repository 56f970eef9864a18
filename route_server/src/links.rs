//! What comes in on links: frames of gateways and db_proxies, and what follows from each.
//!
//! One lock covers all tables and is held for one frame: everything that a frame changes or asks is
//! done before the next one of any link. Sending never waits, so neither does the lock.
//!
//! # When a gateway does not keep up
//!
//! Its link is reset and it is named in the acknowledgement, so that the owner serves it directly.
//! A gateway whose link was lost in the last [`LOST_KEPT`] is named too: what it wanted is not known,
//! and unknown means "send to it".

mod publish;
mod register;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use daemon::link::{Link, LinkError, LinkFrame, LinkHandler, Role};
use parking_lot::Mutex;
use prost::Message;
use proto::cluster::{Kind, wire};
use proto::ids::UserId;
use tracing::{debug, info, warn};

use crate::fanout::Fanout;
use crate::interest::{Interest, Slot};
use crate::metrics::ReplicaMetrics;
use crate::presence::Presence;
use crate::seats::{self, Case, Rechecks};

/// How long a lost gateway is named in acknowledgements: as long as its users count as online.
const LOST_KEPT: Duration = crate::presence::LOST_GRACE;

/// Users in one message about presence: a frame of 64 KiB at most.
const USERS_PER_MESSAGE: usize = 10_000;

/// The reason of the client protocol for "logged in elsewhere".
const OTHER_LOGIN: u32 = 1;

/// How long a replica that has just started says so: gateways reconnect within 5 s.
pub(crate) const JUST_STARTED_FOR: Duration = Duration::from_secs(10);

/// The handler of all links to one replica.
#[derive(Debug)]
pub(crate) struct Links {
    tables: Mutex<Tables>,
    metrics: ReplicaMetrics,
    just_started_until: Option<Instant>,
    started: Instant,
}

/// What the replica knows of the cluster.
#[derive(Debug, Default)]
struct Tables {
    interest: Interest,
    fanout: Fanout,
    presence: Presence,
    rechecks: Rechecks,
    /// By [`Slot::index`].
    links: Vec<Option<Link>>,
    /// By the link's number.
    slots: HashMap<u64, Slot>,
    lost: Vec<LostGateway>,
}

/// A gateway whose link was lost.
#[derive(Debug)]
struct LostGateway {
    boot: u64,
    /// How long it is remembered.
    until: Instant,
}

impl Links {
    pub(crate) fn new(metrics: ReplicaMetrics) -> Self {
        let (tables, started) = (Mutex::default(), Instant::now());
        Self { tables, metrics, just_started_until: None, started }
    }

    /// Until then, gateways that it has never heard of may exist, and owners are told so.
    pub(crate) fn just_started_until(self, until: Instant) -> Self {
        Self { just_started_until: Some(until), ..self }
    }

    fn has_just_started(&self) -> bool {
        self.just_started_until.is_some_and(|until| Instant::now() < until)
    }

    /// Microseconds since the start.
    fn since_start_us(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.started);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// What is done once per second: announces presence, judges again the seats that are due, shows the
    /// figures.
    pub(crate) fn tick(&self, now: Instant) {
        let mut tables = self.tables.lock();
        tables.lost.retain(|lost| lost.until > now);
        // This ends: a seat that is judged now is due again later.
        while let Some(seat) = tables.rechecks.pop(now) {
            let case = Case { seat, newcomer: None, now_us: self.since_start_us(now) };
            tables.judge(case, now, &self.metrics);
        }
        tables.announce(now, &self.metrics);
        self.metrics.show(tables.interest.size(), tables.presence.online());
    }

    /// Takes one frame, or says what is wrong with it.
    fn take(&self, link: &Link, frame: &LinkFrame) -> Result<(), &'static str> {
        let malformed = |_error| "a message that cannot be read";
        let Some(kind) = Kind::from_number(frame.kind) else {
            debug!(kind = frame.kind, "a kind that this release does not know");
            return Ok(());
        };
        match (kind, link.peer().role) {
            (Kind::Publish, Role::DbProxy) => {
                self.publish(link, frame, &frame.parse().map_err(malformed)?);
            }
            (Kind::Kick, Role::DbProxy | Role::MsgServer) => {
                self.kick(frame, &frame.parse().map_err(malformed)?);
            }
            (Kind::Forward, Role::MsgServer) => {
                self.forward(frame, &frame.parse().map_err(malformed)?);
            }
            (Kind::InterestTable, Role::MsgServer) => {
                self.table(link, &frame.parse().map_err(malformed)?);
            }
            (Kind::InterestChange, Role::MsgServer) => {
                self.change(link, frame, &frame.parse().map_err(malformed)?);
            }
            (Kind::InterestChecksum, Role::MsgServer) => {
                self.checksum(link, &frame.parse().map_err(malformed)?);
            }
            (Kind::Status, Role::MsgServer) => {
                self.status(link, frame, &frame.parse().map_err(malformed)?);
            }
            _ => return Err("a message that is not for a route_server, or not from this daemon"),
        }
        Ok(())
    }

    /// Answers. The link of a peer that does not take its answers is reset.
    fn answer(link: &Link, frame: &LinkFrame, kind: Kind, message: &impl Message) {
        if link.answer(frame, kind.number(), message) == Err(LinkError::Full) {
            link.reset("it does not take its answers");
        }
    }
}

impl LinkHandler for Links {
    fn up(&self, link: &Link) {
        if link.peer().role == Role::MsgServer {
            self.tables.lock().connect(link, Instant::now());
        }
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        if frame.answer {
            // A replica asks no questions on links.
            return;
        }
        if let Err(problem) = self.take(link, &frame) {
            warn!(kind = frame.kind, problem, "closing the link");
            link.reset(problem);
        }
    }

    fn down(&self, link: &Link) {
        self.tables.lock().disconnect(link, Instant::now());
    }
}

impl Tables {
    fn connect(&mut self, link: &Link, now: Instant) {
        let boot = link.peer().boot;
        if let Some(older) = self.interest.by_boot(boot)
            && let Some(older) = self.links.get(older.index()).cloned().flatten()
        {
            // The gateway has dialled again before this replica saw that the old link is dead.
            older.reset("the gateway has dialled again");
            self.disconnect(&older, now);
        }
        self.lost.retain(|lost| lost.boot != boot);
        let slot = self.interest.connect(boot);
        if self.links.len() <= slot.index() {
            self.links.resize(slot.index() + 1, None);
        }
        if let Some(place) = self.links.get_mut(slot.index()) {
            *place = Some(link.clone());
        }
        self.slots.insert(link.id(), slot);
    }

    fn disconnect(&mut self, link: &Link, now: Instant) {
        // A link of another role, or one that was replaced, has no slot.
        let Some(slot) = self.slots.remove(&link.id()) else { return };
        if let Some(place) = self.links.get_mut(slot.index()) {
            *place = None;
        }
        self.lost.push(LostGateway { boot: link.peer().boot, until: now + LOST_KEPT });
        let gone = self.interest.disconnect(slot);
        info!(gateway = link.peer().name, users = gone.len(), "a gateway is lost");
        for user in gone {
            self.presence.lost(user, now);
        }
    }

    /// Kicks the sessions that have lost against a larger epoch.
    fn judge(&mut self, case: Case, now: Instant, metrics: &ReplicaMetrics) {
        for verdict in seats::judge(&self.interest, &mut self.rechecks, case, now) {
            metrics.kicks.inc();
            let kick = wire::Kick {
                verified_before: None,
                user: case.seat.user.0,
                device_class: Some(case.seat.device_class),
                below_epoch: Some(verdict.below_epoch),
                reason: Some(OTHER_LOGIN),
                winner_age_us: verdict.winner_age_us,
            };
            self.tell(verdict.slot, Kind::Kick, &kick);
        }
    }

    /// Tells every gateway what has changed since the last time.
    fn announce(&mut self, now: Instant, metrics: &ReplicaMetrics) {
        let news = self.presence.flush(now);
        metrics.presence_changes.inc_by((news.online.len() + news.offline.len()) as u64);
        for online in news.online.chunks(USERS_PER_MESSAGE) {
            self.tell_all(&self.presence_message(online, &[]));
        }
        for offline in news.offline.chunks(USERS_PER_MESSAGE) {
            self.tell_all(&self.presence_message(&[], offline));
        }
    }

    fn presence_message(&self, online: &[UserId], offline: &[UserId]) -> wire::PresenceChanges {
        let numbers = |users: &[UserId]| users.iter().map(|user| user.0).collect();
        wire::PresenceChanges {
            online: numbers(online),
            offline: numbers(offline),
            pc_users_online: self.users_online(),
        }
    }

    fn users_online(&self) -> u32 {
        u32::try_from(self.presence.online()).unwrap_or(u32::MAX)
    }

    fn tell_all(&self, changes: &wire::PresenceChanges) {
        let body = changes.encode_to_vec();
        for link in self.links.iter().flatten() {
            deliver(link, Kind::PresenceChanges, &body);
        }
    }

    fn tell(&self, slot: Slot, kind: Kind, message: &impl Message) {
        if let Some(link) = self.link(slot)
            && link.send(kind.number(), 0, message) == Err(LinkError::Full)
        {
            link.reset(NOT_READING);
        }
    }

    fn link(&self, slot: Slot) -> Option<&Link> {
        self.links.get(slot.index())?.as_ref()
    }
}

const NOT_READING: &str = "it does not read what is sent to it";

/// Sends a body as it is. Returns whether that was possible.
fn deliver(link: &Link, kind: Kind, body: &[u8]) -> bool {
    match link.send_raw(kind.number(), 0, body) {
        Ok(()) => true,
        Err(LinkError::Full) => {
            link.reset(NOT_READING);
            false
        }
        Err(LinkError::Closed | LinkError::TooLong) => false,
    }
}

#[cfg(test)]
mod tests;
