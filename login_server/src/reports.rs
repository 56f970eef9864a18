//! The table of gateways, as links and clients share it.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proto::cluster::wire::LoadReport;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::debug;

use crate::gateways::{Choice, Gateways, Source, Verdict};
use crate::metrics::LoginMetrics;

/// For so long after its start a login_server lets a client wait for the first gateway that can be
/// given: gateways dial it again within a second, and old clients do not ask again after "nowhere".
const FIRST_REPORTS: Duration = Duration::from_secs(2);

/// The table, with the clock, chance and metrics.
#[derive(Debug)]
pub(crate) struct Reports {
    gateways: Mutex<Gateways>,
    started: Instant,
    /// Told when a report was taken.
    taken: Notify,
    metrics: LoginMetrics,
}

impl Reports {
    pub(crate) fn new(metrics: LoginMetrics) -> Self {
        Self { gateways: Mutex::default(), started: Instant::now(), taken: Notify::new(), metrics }
    }

    /// Takes what a gateway reports. An error says what is wrong with it.
    pub(crate) fn take(&self, report: LoadReport, source: Source) -> Result<Verdict, &'static str> {
        let verdict = self.gateways.lock().report(report, source, Instant::now())?;
        if verdict == Verdict::Taken {
            self.metrics.reports.inc();
            self.taken.notify_waiters();
        } else {
            self.metrics.refused_reports.inc();
        }
        Ok(verdict)
    }

    /// The link is down, and the gateway that reported there is gone.
    pub(crate) fn lost(&self, link: u64) {
        self.gateways.lock().lost(link);
    }

    /// Waits until there is a gateway for a client, full or not, if this daemon has only just started.
    /// Cancel-safe.
    pub(crate) async fn wait_for_a_gateway(&self) {
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

    /// What is done once per second: forgets silent gateways, shows the figures.
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
