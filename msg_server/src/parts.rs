//! What everything above works with: which sessions are here, which daemons are linked, what is under
//! way and what is counted.
//!
//! # How the parts know each other
//!
//! They do not, except where one is given another as an argument. Nor do they know what stands above
//! them: delivery, presence and the gateway.

use std::sync::Arc;

use daemon::{Metrics, Shutdown};
use db_client::Partitions;
use db_client::{Asker, Owners};
use proto::cluster::wire::Origin;
use proto::ids::ConversationId;
use proto::lists::Placeholders;
use proto::text::TextCipher;
use tokio::time::Instant;
use tracing::Span;

use crate::client::connections::Connections;
use crate::client::outbox::OutboxPool;
use crate::cluster::hub::Hub;
use crate::commands::allowances::{Allowances, Rates};
use crate::config::{Config, LimitsConfig};
use crate::metrics::GatewayMetrics;
use crate::sessions::kicks::Kicks;
use crate::sessions::logbook::Logbook;
use crate::sessions::registry::Registry;
use crate::sessions::session::{Login, Session};
use crate::submission::frames::EndedFrames;
use crate::submission::unanswered::Unanswered;
use daemon::rates::Rate;

/// Signals that one client passes on in a second, and at once. They are not stored, so they have a
/// limit of their own; beyond it they are dropped.
const SIGNALS_PER_S: u32 = 20;
const SIGNALS_BURST: u32 = 100;

/// The parts of a gateway.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) boot: u64,
    pub(crate) limits: LimitsConfig,
    pub(crate) rates: Rates,
    pub(crate) signal_rate: Rate,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) shutdown: Shutdown,
    pub(crate) outboxes: Arc<OutboxPool>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) registry: Registry,
    pub(crate) kicks: Kicks,
    pub(crate) logbook: Logbook,
    pub(crate) hub: Hub,
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) storage: Owners,
    pub(crate) unanswered: Unanswered,
    pub(crate) frames: EndedFrames,
    pub(crate) allowances: Allowances,
    started: Instant,
}

impl Parts {
    pub(crate) fn new(
        config: &Config,
        cipher: &TextCipher,
        boot: u64,
        page: &Metrics,
        shutdown: Shutdown,
    ) -> Self {
        let limits = config.limits.clone();
        let metrics = GatewayMetrics::new(page);
        let partitions = Arc::new(Partitions::default());
        Self {
            boot,
            rates: Rates::new(&limits),
            signal_rate: Rate::new(SIGNALS_PER_S, SIGNALS_BURST),
            outboxes: Arc::new(OutboxPool::new(&limits, metrics.clone())),
            connections: Arc::default(),
            registry: Registry::default(),
            kicks: Kicks::default(),
            logbook: Logbook::default(),
            hub: Hub::default(),
            storage: Owners::new(Arc::clone(&partitions))
                .with_placeholders(Placeholders::new(cipher)),
            partitions,
            unanswered: Unanswered::new(&limits, metrics.clone()),
            frames: EndedFrames::default(),
            allowances: Allowances::default(),
            started: Instant::now(),
            limits,
            metrics,
            shutdown,
        }
    }

    /// Microseconds since the start, for rates.
    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Does something beside everything else. Clients are served until the links close, so it goes on
    /// until then.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.shutdown.spawn_link(Span::current(), async move {
            tokio::select! {
                () = shutdown.closing_links() => {}
                () = work => {}
            }
        });
    }

    /// On whose behalf something is asked.
    pub(crate) fn asker(&self, session: &Session) -> Asker {
        let Login { user, client_type, .. } = session.login;
        Asker { user, client_type, origin: session.origin(self.boot) }
    }

    /// An origin that says only that something comes from this gateway.
    pub(crate) fn own_origin(&self) -> Origin {
        Origin { gateway_boot: self.boot, session: 0 }
    }

    /// The smallest floor of those here who are in a conversation.
    pub(crate) fn floor(&self, conversation: ConversationId) -> Option<u64> {
        self.registry.floor(conversation.parties(), self.partition_of(conversation))
    }

    /// The partition of a conversation. Not asked before it is known how many there are.
    pub(crate) fn partition_of(&self, conversation: ConversationId) -> u32 {
        self.partitions.of(conversation).unwrap_or(0)
    }
}
