//! The links of gateways, which report how full they are.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use daemon::link::{Link, LinkFrame, LinkHandler};
use parking_lot::Mutex;
use proto::cluster::Kind;
use proto::cluster::wire::{LoadReport, LoadVerdict};
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::gateways::{Choice, Gateways, Place, Source, Verdict};
use crate::metrics::LoginMetrics;

/// For so long after its start a login_server lets a client wait for the first gateway that can be
/// given: gateways dial it again within a second, and old clients take "nowhere" for final.
const FIRST_REPORTS: Duration = Duration::from_secs(2);

/// The table of gateways, as links and clients share it.
#[derive(Debug)]
pub(crate) struct Reports {
    gateways: Mutex<Gateways>,
    /// What was answered last on each link that is up.
    verdicts: Mutex<HashMap<u64, Verdict>>,
    started: Instant,
    /// Told when a gateway may have become one to give.
    taken: Notify,
    metrics: LoginMetrics,
}

impl Reports {
    pub(crate) fn new(metrics: LoginMetrics) -> Self {
        Self {
            gateways: Mutex::default(),
            verdicts: Mutex::default(),
            started: Instant::now(),
            taken: Notify::new(),
            metrics,
        }
    }

    /// Waits until there is a gateway for a client, full or not, if this daemon has only just started.
    /// Cancel-safe.
    pub(crate) async fn first(&self) {
        let left = FIRST_REPORTS.saturating_sub(self.started.elapsed());
        if left.is_zero() {
            return;
        }
        let some_gateway = async {
            loop {
                let mut taken = std::pin::pin!(self.taken.notified());
                // From here on no report is missed.
                taken.as_mut().enable();
                if self.gateways.lock().is_any_ready(Instant::now()) {
                    return;
                }
                taken.await;
            }
        };
        if timeout(left, some_gateway).await.is_err() {
            debug!("no gateway yet");
        }
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

impl Reports {
    fn take(&self, link: &Link, frame: &LinkFrame, report: LoadReport) -> Result<(), &'static str> {
        let name = report.name.clone();
        let source = Source { link: link.id(), boot: link.peer().boot };
        let verdict = self.gateways.lock().report(report, source, Instant::now())?;
        if verdict == Verdict::Taken {
            self.metrics.reports.inc();
            self.taken.notify_waiters();
        } else {
            self.metrics.refused_reports.inc();
        }
        let before = self.verdicts.lock().insert(link.id(), verdict.clone());
        if before.as_ref() != Some(&verdict) {
            tell(link, frame, &name, &verdict);
        }
        Ok(())
    }
}

/// Says once to each side what becomes of a gateway's reports from now on.
fn tell(link: &Link, frame: &LinkFrame, name: &str, verdict: &Verdict) {
    let peer = link.peer().addr;
    let refused = match verdict {
        Verdict::Taken => {
            info!(name, %peer, "a gateway reports");
            None
        }
        Verdict::NameTaken(Place { host, port, .. }) => {
            warn!(
                name, %peer, given = %format_args!("{host}:{port}"),
                "a second gateway of this name is refused: set cluster.name to a name of its own"
            );
            Some(format!("the gateway at {host}:{port} has the name {name}"))
        }
    };
    let verdict = LoadVerdict { refused };
    if let Err(error) = link.answer(frame, Kind::LoadReport.number(), &verdict) {
        debug!(%error, ?link, "no verdict");
    }
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
        if let Err(problem) = report.and_then(|report| self.take(link, &frame, report)) {
            warn!(gateway = link.peer().name, problem, "closing the link");
            link.reset(problem);
        }
    }

    fn down(&self, link: &Link) {
        self.gateways.lock().lost(link.id());
        self.verdicts.lock().remove(&link.id());
    }
}
