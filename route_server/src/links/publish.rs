//! What is passed on and not kept: folded records, frames between clients, kicks.

use daemon::link::{Link, LinkFrame};
use proto::cluster::{Kind, wire};
use proto::ids::ClientMsgId;
use tracing::debug;

use super::{Links, Tables, deliver};
use crate::metrics::ReplicaMetrics;

impl Links {
    /// Passes a folded record on, as the bytes it came in, and says which gateways have missed it.
    pub(super) fn publish(&self, link: &Link, frame: &LinkFrame, publish: &wire::Publish) {
        self.metrics.publishes.inc();
        if let Some(id) = publish.client_msg_id.as_deref().and_then(ClientMsgId::from_slice) {
            debug!(message = %id, msg_id = publish.msg_id, "passing on");
        }
        let missed = self.tables.lock().publish(publish, frame, &self.metrics);
        let newcomer = self.has_just_started().then_some(true);
        let ack = wire::PublishAck { missed_gateway_boots: missed, newcomer };
        Self::answer(link, frame, Kind::Publish, &ack);
    }

    /// Passes on what a client tells others.
    pub(super) fn forward(&self, frame: &LinkFrame, forward: &wire::Forward) {
        self.metrics.forwards.inc();
        let mut tables = self.tables.lock();
        let Tables { interest, fanout, links, .. } = &mut *tables;
        for slot in fanout.forward(interest, forward) {
            if let Some(Some(link)) = links.get(slot.index()) {
                let sent = deliver(link, Kind::Forward, &frame.body);
                if sent {
                    self.metrics.copies.inc()
                } else {
                    self.metrics.missed.inc()
                };
            }
        }
    }

    /// Passes a kick on to where there is a session that it ends.
    pub(super) fn kick(&self, frame: &LinkFrame, kick: &wire::Kick) {
        let mut tables = self.tables.lock();
        let Tables { interest, fanout, links, .. } = &mut *tables;
        for slot in fanout.kick(interest, kick) {
            if let Some(Some(link)) = links.get(slot.index()) {
                deliver(link, Kind::Kick, &frame.body);
            }
        }
    }
}

impl Tables {
    /// Returns the boot numbers of gateways that were not reached. Allocates only if there are any.
    fn publish(
        &mut self,
        publish: &wire::Publish,
        frame: &LinkFrame,
        metrics: &ReplicaMetrics,
    ) -> Vec<u64> {
        let Self { interest, fanout, links, lost, .. } = self;
        let mut missed: Vec<u64> = lost.iter().map(|lost| lost.boot).collect();
        let mut copies = 0;
        for slot in fanout.publish(interest, publish) {
            let Some(Some(link)) = links.get(slot.index()) else { continue };
            if deliver(link, Kind::Publish, &frame.body) {
                copies += 1;
            } else {
                missed.push(link.peer().boot);
            }
        }
        if let Some(origin) = &publish.origin
            && interest.by_boot(origin.gateway_boot).is_none()
            && !missed.contains(&origin.gateway_boot)
        {
            missed.push(origin.gateway_boot);
        }
        metrics.copies.inc_by(copies);
        metrics.missed.inc_by(missed.len() as u64);
        missed
    }
}
