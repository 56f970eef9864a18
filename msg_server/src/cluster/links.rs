//! What the other daemons say to us.

use std::sync::Arc;

use daemon::link::{Link, LinkFrame, LinkHandler};
use daemon::ready::Condition;
use parking_lot::Mutex;
use proto::cluster::Kind;
use proto::cluster::wire::{
    Changes, Forward, FrameQuestion, Kick, LoadVerdict, Ownership, PresenceChanges, Publish,
    SessionsRequest, SubmitAnswer,
};
use proto::ids::UserId;
use tokio::time::Instant;
use tracing::debug;

use crate::cluster::load::Load;
use crate::cluster::readiness::StorageReadiness;
use crate::delivery::{Batch, Delivery};
use crate::gateway::Gateway;

/// The links to the route_servers.
#[derive(Debug)]
pub(crate) struct HubLinks {
    pub(crate) gateway: Arc<Gateway>,
    /// Met from the first link on: a login does not need the hub, but one that was never there is a
    /// mistake in the settings.
    pub(crate) ready: Condition,
    /// Taken from in the links' own tasks, for the length of one frame.
    pub(crate) batches: Batches,
}

/// The links to the db_proxies.
#[derive(Debug)]
pub(crate) struct StorageLinks {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) ready: Arc<StorageReadiness>,
    pub(crate) batches: Batches,
}

impl StorageLinks {
    fn show_readiness(&self) {
        self.ready.look(&self.gateway.parts.storage);
    }
}

/// The links to the login_servers.
#[derive(Debug)]
pub(crate) struct LoginLinks {
    pub(crate) load: Arc<Load>,
}

/// What each link has brought in the read that is being handled.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    /// One for each link, of which there are few.
    open: Mutex<Vec<(u64, Batch)>>,
}

impl Batches {
    fn with<R>(&self, link: &Link, work: impl FnOnce(&mut Batch) -> R) -> R {
        // Taken out, so that two links never wait for each other's deliveries.
        let mut open = self.open.lock();
        let found = open.iter().position(|(id, _batch)| *id == link.id());
        let (_id, mut batch) =
            found.map_or_else(|| (link.id(), Batch::default()), |index| open.swap_remove(index));
        drop(open);
        let result = work(&mut batch);
        self.open.lock().push((link.id(), batch));
        result
    }

    /// The link is down.
    fn close(&self, delivery: &Delivery, link: &Link) {
        self.with(link, |batch| delivery.deliver(batch));
        self.open.lock().retain(|(id, _batch)| *id != link.id());
    }
}

impl LinkHandler for HubLinks {
    fn up(&self, link: &Link) {
        let parts = &self.gateway.parts;
        parts.hub.up(link, &parts.registry, parts.now_us());
        self.ready.set(true);
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        let Self { gateway, batches, .. } = self;
        let parts = &gateway.parts;
        match Kind::from_number(frame.kind) {
            Some(Kind::Publish) => take_publish(&gateway.delivery, batches, link, &frame),
            Some(Kind::InterestChange) if frame.answer => parts.hub.registered(link, &frame),
            Some(Kind::InterestAgain) => {
                parts.hub.send_again(link, &parts.registry, parts.now_us());
            }
            Some(Kind::Kick) => {
                if let Some(kick) = link.read::<Kick>(&frame) {
                    gateway.kicked(&kick);
                }
            }
            Some(Kind::Forward) => {
                if let Some(forward) = link.read::<Forward>(&frame) {
                    gateway.forwarded(&forward);
                }
            }
            Some(Kind::PresenceChanges) => {
                if let Some(changes) = link.read::<PresenceChanges>(&frame) {
                    gateway.presence.changed(parts, link, &changes);
                }
            }
            _ => debug!(kind = frame.kind, ?link, "not for a gateway"),
        }
    }

    fn batch_end(&self, link: &Link) {
        self.batches.with(link, |batch| self.gateway.delivery.deliver(batch));
    }

    fn down(&self, link: &Link) {
        self.gateway.parts.hub.down(link);
        self.batches.close(&self.gateway.delivery, link);
    }
}

impl LinkHandler for StorageLinks {
    fn up(&self, link: &Link) {
        // Nothing is asked of it before it has said what it owns.
        self.gateway.parts.storage.up(link);
        self.show_readiness();
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        let Self { gateway, batches, .. } = self;
        let parts = &gateway.parts;
        match Kind::from_number(frame.kind) {
            Some(Kind::Ownership) => {
                if let Some(ownership) = link.read::<Ownership>(&frame) {
                    gateway.ownership_came(link, ownership);
                    self.show_readiness();
                }
            }
            Some(Kind::SubmitAnswer) => {
                if let Some(answer) = link.read::<SubmitAnswer>(&frame) {
                    parts.unanswered.answered(link, &answer);
                }
            }
            Some(Kind::FrameFate) => {
                if let Some(question) = link.read::<FrameQuestion>(&frame) {
                    let (unanswered, registry) = (&parts.unanswered, &parts.registry);
                    let fate = parts.frames.fate(unanswered, registry, &question, Instant::now());
                    if link.answer(&frame, frame.kind, &fate).is_err() {
                        debug!(?link, "who asked about a frame has gone");
                    }
                }
            }
            Some(Kind::Changes) => {
                if let Some(changes) = link.read::<Changes>(&frame) {
                    gateway.delivery.changes_came(link, changes);
                }
            }
            Some(Kind::Publish) => take_publish(&gateway.delivery, batches, link, &frame),
            Some(Kind::Kick) => {
                if let Some(kick) = link.read::<Kick>(&frame) {
                    gateway.kicked(&kick);
                }
            }
            Some(Kind::Sessions) => {
                if let Some(SessionsRequest { user }) = link.read::<SessionsRequest>(&frame) {
                    let sessions = parts.logbook.of(UserId(user), &parts.registry);
                    if let Err(error) = link.answer(&frame, frame.kind, &sessions) {
                        debug!(%error, ?link, "an administrator is not answered");
                    }
                }
            }
            _ => debug!(kind = frame.kind, ?link, "not for a gateway"),
        }
    }

    fn batch_end(&self, link: &Link) {
        self.batches.with(link, |batch| self.gateway.delivery.deliver(batch));
    }

    fn down(&self, link: &Link) {
        let Self { gateway, batches, .. } = self;
        gateway.ownership_lost(link);
        batches.close(&gateway.delivery, link);
        self.show_readiness();
    }
}

impl LinkHandler for LoginLinks {
    fn up(&self, link: &Link) {
        self.load.up(link);
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        match Kind::from_number(frame.kind) {
            Some(Kind::LoadReport) if frame.answer => {
                if let Some(verdict) = link.read::<LoadVerdict>(&frame) {
                    self.load.judged(link, verdict);
                }
            }
            _ => debug!(kind = frame.kind, ?link, "not for a gateway"),
        }
    }

    fn down(&self, link: &Link) {
        self.load.down(link);
    }
}

fn take_publish(delivery: &Delivery, batches: &Batches, link: &Link, frame: &LinkFrame) {
    if let Some(publish) = link.read::<Publish>(frame) {
        batches.with(link, |batch| delivery.take_publish(publish, batch));
    }
}
