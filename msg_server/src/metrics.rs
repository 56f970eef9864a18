//! What the gateway counts.

use daemon::Metrics;
use daemon::metrics::{Counter, EncodeLabelSet, EncodeLabelValue, Family, Gauge, Histogram};
use daemon::places::PlaceMetrics;

use crate::client::closing::CloseReason;

/// The gateway's figures.
#[derive(Debug, Clone, Default)]
pub(crate) struct GatewayMetrics {
    pub(crate) connections: Gauge,
    pub(crate) sessions: Gauge,
    pub(crate) groups: Gauge,
    pub(crate) outbox_bytes: Gauge,
    pub(crate) unanswered: Gauge,
    pub(crate) unanswered_bytes: Gauge,
    pub(crate) opened: Counter,
    pub(crate) places: PlaceMetrics,
    pub(crate) closed: Family<ClosedLabel, Counter>,
    pub(crate) logins: Family<LoginLabel, Counter>,
    pub(crate) frames_in: Counter,
    pub(crate) answers_out: Counter,
    pub(crate) pushes_out: Counter,
    pub(crate) pushes_dropped: Counter,
    pub(crate) sends: Family<SendLabel, Counter>,
    pub(crate) resubmitted: Counter,
    pub(crate) frames_repeated: Counter,
    pub(crate) refused_commands: Counter,
    pub(crate) malformed: Counter,
    pub(crate) receipts: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) stale_publishes: Counter,
    pub(crate) misplaced_publishes: Counter,
    pub(crate) partitions_without_owner: Gauge,
    pub(crate) ownership_moves: Counter,
    pub(crate) gaps: Family<GapLabel, Counter>,
    pub(crate) cursor_lag: Gauge,
    pub(crate) cursor_repairs: Counter,
    pub(crate) cursor_holes: Counter,
    pub(crate) cursor_forgotten: Counter,
    pub(crate) asks_unanswered: Counter,
    pub(crate) marks_lost: Counter,
    pub(crate) forwards_lost: Counter,
    pub(crate) signals_dropped: Counter,
    pub(crate) parts: Counter,
    pub(crate) news_joined: Counter,
    pub(crate) slowed: Family<SlowedLabel, Counter>,
    pub(crate) too_long: Counter,
    pub(crate) acknowledge: Histogram,
    pub(crate) login: Histogram,
    pub(crate) delivery: Histogram,
}

/// Why a connection was closed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ClosedLabel {
    pub(crate) reason: CloseReason,
}

/// How a login ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LoginLabel {
    pub(crate) result: u32,
}

/// How a send ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SendLabel {
    pub(crate) outcome: SendEnd,
}

/// How a send ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum SendEnd {
    Accepted,
    Refused,
    Retry,
    /// Refused here, before storage was asked.
    Invalid,
}

/// What a user had to wait with, or was refused, for having done too much of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SlowedLabel {
    pub(crate) what: Slowed,
}

/// What a user had to wait with, or was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Slowed {
    Send,
    Question,
    ProfileChange,
    GroupChange,
}

/// How a gap in a conversation was closed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct GapLabel {
    pub(crate) by: GapEnd,
}

/// How a gap in a conversation was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum GapEnd {
    LateCopy,
    Fetch,
}

impl GatewayMetrics {
    /// Registers all figures on `page`.
    pub(crate) fn new(page: &Metrics) -> Self {
        let new = Self { places: PlaceMetrics::register(page), ..Self::default() };
        new.register_clients(page);
        new.register_cluster(page);
        new.register_durations(page);
        new
    }

    /// What clients do, and what they are sent.
    fn register_clients(&self, page: &Metrics) {
        let gauge = |name, help, metric: &Gauge| page.register(name, help, metric.clone());
        let counter = |name, help, metric: &Counter| page.register(name, help, metric.clone());
        gauge("connections", "Clients connected.", &self.connections);
        gauge("sessions", "Clients logged in.", &self.sessions);
        gauge("groups", "Groups with a member logged in here.", &self.groups);
        gauge("outbox_bytes", "Bytes of pushes that wait for slow clients.", &self.outbox_bytes);
        counter("opened", "Connections accepted.", &self.opened);
        counter("frames_in", "Frames from clients.", &self.frames_in);
        counter("answers_out", "Answers to clients.", &self.answers_out);
        counter("pushes_out", "Pushes to clients.", &self.pushes_out);
        let help = "Pushes dropped because a client, or all together, left too much unread.";
        counter("pushes_dropped", help, &self.pushes_dropped);
        let help = "Frames of clients that repeat one of theirs that is not answered yet.";
        counter("frames_repeated", help, &self.frames_repeated);
        let help = "Commands that the client may not send, or that nobody knows.";
        counter("refused_commands", help, &self.refused_commands);
        counter("malformed", "Frames or bodies that could not be read.", &self.malformed);
        counter("receipts", "Receipts of clients, which carry no weight.", &self.receipts);
        let help = "Signals dropped because their client sent too many.";
        counter("signals_dropped", help, &self.signals_dropped);
        counter("parts", "Further frames of answers that take several.", &self.parts);
        let help = "Changes of signatures and pictures that are told with the next one.";
        counter("news_joined", help, &self.news_joined);
        let help = "Frames refused, and their connections closed, for being too long.";
        counter("too_long", help, &self.too_long);
        let help = "Times that a user had to wait, or was refused, for doing too much.";
        page.register("slowed", help, self.slowed.clone());
        page.register("closed", "Connections closed, by reason.", self.closed.clone());
        page.register("logins", "Logins, by result code (0 accepted).", self.logins.clone());
        page.register("sends", "Messages from clients, by outcome.", self.sends.clone());
    }

    /// What comes from the other daemons, and what they are asked.
    fn register_cluster(&self, page: &Metrics) {
        let gauge = |name, help, metric: &Gauge| page.register(name, help, metric.clone());
        let counter = |name, help, metric: &Counter| page.register(name, help, metric.clone());
        gauge("unanswered", "Messages that storage has not answered yet.", &self.unanswered);
        gauge("unanswered_bytes", "Their bytes.", &self.unanswered_bytes);
        counter("resubmitted", "Messages handed to storage again.", &self.resubmitted);
        counter("duplicates", "Messages that came a second time.", &self.duplicates);
        counter(
            "stale_publishes",
            "Messages of an owner that was replaced.",
            &self.stale_publishes,
        );
        let help = "Messages of a partition that their conversation does not belong to.";
        counter("misplaced_publishes", help, &self.misplaced_publishes);
        let help = "Partitions that no db_proxy claims: what is sent there waits.";
        gauge("partitions_without_owner", help, &self.partitions_without_owner);
        let help = "Times that a partition went to another owner.";
        counter("ownership_moves", help, &self.ownership_moves);
        let help = "Records of the log between the cursor and what storage has told of, in the \
                    partition where they are most.";
        gauge("cursor_lag", help, &self.cursor_lag);
        let help = "Conversations in which something had not come, as storage has told.";
        counter("cursor_repairs", help, &self.cursor_repairs);
        let help = "Times that a part of storage's stream of changes was asked for again.";
        counter("cursor_holes", help, &self.cursor_holes);
        let help = "Times that all clients had to synchronise: changes were forgotten.";
        counter("cursor_forgotten", help, &self.cursor_forgotten);
        let help = "Requests that storage did not answer in time.";
        counter("asks_unanswered", help, &self.asks_unanswered);
        let help = "Read marks given up, because storage did not take them for ten minutes or too \
                    many waited.";
        counter("marks_lost", help, &self.marks_lost);
        let help = "Signals between clients that found no route_server.";
        counter("forwards_lost", help, &self.forwards_lost);
        page.register("gaps", "Gaps in conversations, by what closed them.", self.gaps.clone());
    }

    /// How long things take.
    fn register_durations(&self, page: &Metrics) {
        let seconds = |name, help, metric: &Histogram| page.register(name, help, metric.clone());
        let help = "From handing a message to storage to its client's answer that it is stored, as that \
                    is written or queued.";
        seconds("acknowledge_seconds", help, &self.acknowledge);
        let help = "From the request of a login to its answer, whatever that says.";
        seconds("login_seconds", help, &self.login);
        let help = "From what one read of a link has brought of messages to all of it being written to \
                    the clients here, or queued for them.";
        seconds("delivery_seconds", help, &self.delivery);
    }

    pub(crate) fn send_ended(&self, outcome: SendEnd) {
        self.sends.get_or_create(&SendLabel { outcome }).inc();
    }

    pub(crate) fn slowed(&self, what: Slowed) {
        self.slowed.get_or_create(&SlowedLabel { what }).inc();
    }

    pub(crate) fn gap_ended(&self, by: GapEnd) {
        self.gaps.get_or_create(&GapLabel { by }).inc();
    }
}
