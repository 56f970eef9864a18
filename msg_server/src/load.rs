//! How full this gateway is, for the login_servers, which send clients here.

use std::sync::atomic::{AtomicBool, Ordering};

use daemon::{Link, LinkTable};
use parking_lot::Mutex;
use proto::cluster::Kind;
use proto::cluster::wire::LoadReport;
use tracing::debug;

/// What is told, and to whom.
#[derive(Debug)]
pub(crate) struct Load {
    links: LinkTable,
    draining: AtomicBool,
    /// The last report, for links that come up.
    report: Mutex<LoadReport>,
}

impl Load {
    /// `report` says what does not change: names, addresses and limits.
    pub(crate) fn new(report: LoadReport) -> Self {
        Self {
            links: LinkTable::default(),
            draining: AtomicBool::new(false),
            report: Mutex::new(report),
        }
    }

    /// A login_server is linked.
    pub(crate) fn up(&self, link: &Link) {
        self.links.add(link);
        send(link, &self.report.lock());
    }

    /// A login_server is gone.
    pub(crate) fn down(&self, link: &Link) {
        self.links.remove(link);
    }

    /// From now on no clients should be sent here.
    pub(crate) fn drain(&self, connections: usize) {
        self.draining.store(true, Ordering::Relaxed);
        self.tell(connections);
    }

    /// Tells all login_servers how many clients there are.
    pub(crate) fn tell(&self, connections: usize) {
        let mut report = self.report.lock();
        report.connections = u32::try_from(connections).unwrap_or(u32::MAX);
        report.draining = self.draining.load(Ordering::Relaxed);
        for link in self.links.all().iter() {
            send(link, &report);
        }
    }
}

fn send(link: &Link, report: &LoadReport) {
    if let Err(error) = link.send(Kind::LoadReport.number(), 0, report) {
        // The next report says all that this one said.
        debug!(%error, ?link, "no load report");
    }
}
