//! The links of gateways, which report how full they are.

use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use daemon::link::{Link, LinkFrame, LinkHandler};
use parking_lot::Mutex;
use proto::cluster::Kind;
use tracing::{debug, warn};

use crate::gateways::{Choice, Gateways};
use crate::metrics::LoginMetrics;

/// The table of gateways, as links and clients share it.
#[derive(Debug)]
pub(crate) struct Reports {
    gateways: Mutex<Gateways>,
    metrics: LoginMetrics,
}

impl Reports {
    pub(crate) fn new(metrics: LoginMetrics) -> Self {
        Self { gateways: Mutex::default(), metrics }
    }

    /// Chooses a gateway, counts that, and returns what `answer` makes of the choice.
    pub(crate) fn choose<T>(&self, answer: impl FnOnce(&Choice<'_>) -> T) -> T {
        let mut gateways = self.gateways.lock();
        let choice = gateways.choose(Instant::now(), random_below);
        self.metrics.answered(&choice);
        answer(&choice)
    }

    /// What is done once per second: forgets the silent, shows the figures.
    pub(crate) fn tick(&self) {
        let now = Instant::now();
        let mut gateways = self.gateways.lock();
        gateways.expire(now);
        self.metrics.show(&gateways.totals(now));
    }
}

/// The standard library keys each map anew, from the kernel's random bytes: good enough to spread
/// clients.
fn random_below(below: usize) -> usize {
    let random = RandomState::new().hash_one(());
    let below = u64::try_from(below).unwrap_or(u64::MAX).max(1);
    usize::try_from(random % below).expect("below a usize")
}

impl LinkHandler for Reports {
    fn up(&self, _link: &Link) {
        // A gateway counts from its first report on.
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        if Kind::from_number(frame.kind) != Some(Kind::LoadReport) {
            debug!(kind = frame.kind, "a message that is not for a login_server");
            return;
        }
        let report = frame.parse().map_err(|_error| "a report that cannot be read");
        let taken = report
            .and_then(|report| self.gateways.lock().report(report, link.id(), Instant::now()));
        match taken {
            Ok(()) => {
                self.metrics.reports.inc();
            }
            Err(problem) => {
                warn!(gateway = link.peer().name, problem, "closing the link");
                link.reset(problem);
            }
        }
    }

    fn down(&self, link: &Link) {
        self.gateways.lock().lost(link.id());
    }
}
