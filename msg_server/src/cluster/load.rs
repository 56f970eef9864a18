//! What the login_servers, which send clients here, are told: how full this gateway is, and whether a
//! client can log in here at all. And what they say to it.
//!
//! # Invariants
//!
//! - A change of readiness is told at once; how full it is, every second.
//! - The name counts as taken only if every login_server that is linked says so: one that knows this
//!   gateway alone gives it to clients.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use daemon::ready::Condition;
use daemon::{Link, LinkTable, Readiness, Shutdown};
use parking_lot::Mutex;
use proto::cluster::Kind;
use proto::cluster::wire::{LoadReport, LoadVerdict};
use tracing::{debug, error, info, info_span};

/// What is told, and to whom.
#[derive(Debug)]
pub(crate) struct Load {
    links: LinkTable,
    draining: AtomicBool,
    /// The last report, for links that come up.
    report: Mutex<LoadReport>,
    verdicts: Mutex<Verdicts>,
}

/// What the login_servers make of the reports.
#[derive(Debug)]
struct Verdicts {
    /// The links on which they are refused.
    refused: HashSet<u64>,
    own_name: Condition,
}

impl Load {
    /// `report` says what does not change: names, addresses and limits. `own_name` is met unless
    /// another gateway has the name.
    pub(crate) fn new(report: LoadReport, own_name: Condition) -> Self {
        own_name.set(true);
        Self {
            links: LinkTable::default(),
            draining: AtomicBool::new(false),
            report: Mutex::new(report),
            verdicts: Mutex::new(Verdicts { refused: HashSet::new(), own_name }),
        }
    }

    /// Tells the login_servers what a client lacks to log in here, at once and at every change. Before
    /// the first report, so that none says more than is so.
    pub(crate) fn follow(self: &Arc<Self>, able: Readiness, shutdown: &Shutdown) {
        let load = Arc::clone(self);
        let mut unmet = able.unmet();
        load.say(&unmet);
        let closing = shutdown.clone();
        shutdown.spawn_link(info_span!("readiness"), async move {
            let follow = async {
                loop {
                    unmet = able.differs_from(&unmet).await;
                    info!(missing = ?unmet, "what clients need to log in here has changed");
                    load.say(&unmet);
                }
            };
            tokio::select! {
                () = closing.closing_links() => {}
                () = follow => {}
            }
        });
    }

    fn say(&self, unmet: &[&'static str]) {
        let mut report = self.report.lock();
        report.not_ready = (!unmet.is_empty()).then(|| unmet.join(", "));
        self.send_to_all(&report);
    }

    /// A login_server is linked.
    pub(crate) fn up(&self, link: &Link) {
        // Added first, with the report held: no change is between what it is told and what follows.
        let report = self.report.lock();
        self.links.add(link);
        send(link, &report);
        drop(report);
        self.judge(|_refused| ());
    }

    /// A login_server is gone.
    pub(crate) fn down(&self, link: &Link) {
        self.links.remove(link);
        self.judge(|refused| refused.remove(&link.id()));
    }

    /// A login_server says what it makes of the reports.
    pub(crate) fn judged(&self, link: &Link, verdict: LoadVerdict) {
        match verdict.refused {
            Some(why) => {
                let name = &self.report.lock().name;
                let login_server = &link.peer().name;
                error!(
                    name,
                    login_server,
                    why,
                    "refused by a login_server: no client is sent here. Give each gateway a name of \
                     its own in cluster.name"
                );
                self.judge(|refused| refused.insert(link.id()));
            }
            None if self.judge(|refused| refused.remove(&link.id())) => {
                info!(login_server = link.peer().name, "no longer refused");
            }
            None => {}
        }
    }

    fn judge<T>(&self, change: impl FnOnce(&mut HashSet<u64>) -> T) -> T {
        let mut verdicts = self.verdicts.lock();
        let changed = change(&mut verdicts.refused);
        let links = self.links.all();
        let all_refuse =
            !links.is_empty() && links.iter().all(|link| verdicts.refused.contains(&link.id()));
        verdicts.own_name.set(!all_refuse);
        changed
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
        self.send_to_all(&report);
    }

    fn send_to_all(&self, report: &LoadReport) {
        for link in self.links.all().iter() {
            send(link, report);
        }
    }
}

fn send(link: &Link, report: &LoadReport) {
    if let Err(error) = link.send(Kind::LoadReport.number(), 0, report) {
        // The next report says all that this one said.
        debug!(%error, ?link, "no load report");
    }
}
