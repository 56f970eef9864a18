//! What every client of Kafka is told here, and how it ends.
//!
//! A client of the library is a handful of threads. It reports what goes wrong in lines of its own,
//! many of them while a broker is away: the last one is kept, to be part of an error's text, and the
//! lines themselves are shown at the log level `debug`.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proto::ids::Offset;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::statistics::Statistics;

use super::numbers::{NUMBERS_EVERY, Numbers};
use super::options::Options;

/// How soon a broker that is away is tried again.
const RECONNECT_MS: &str = "50";
const RECONNECT_MAX_MS: &str = "1000";

/// How long a refusal counts. The library tells of an error that comes again every 30 s.
const REFUSAL_COUNTS: Duration = Duration::from_secs(31);

/// How the library's lines about TLS that does not come about begin, behind the broker's address.
const HANDSHAKE: &str = "SSL handshake failed: ";

/// What the library says if a broker hangs up during a handshake, as one that is stopping does.
const HUNG_UP: &str = "Disconnected";

/// What is common to all clients: the operator's settings first, so that they cannot undo ours.
pub(super) fn config(options: &Options) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in &options.settings {
        config.set(name, value);
    }
    config
        .set("bootstrap.servers", &options.bootstrap)
        .set("client.id", "talkhub")
        .set("socket.nagle.disable", "true")
        .set("reconnect.backoff.ms", RECONNECT_MS)
        .set("reconnect.backoff.max.ms", RECONNECT_MAX_MS)
        .set("log.connection.close", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    config
}

/// What a client reports.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// The last thing that went wrong.
    trouble: Mutex<Option<String>>,
    /// The last time that a broker and this client did not come to terms. Other troubles do not undo it: of
    /// a name with two addresses one may refuse and the other not answer.
    refusal: Mutex<Option<(Instant, Refusal)>>,
    /// Where the messages of a producer are, in the order of the reports.
    delivered: Mutex<Vec<(usize, Result<Offset, String>)>>,
    /// Kept up to date by a consumer, with the place of its partition.
    watched: Option<(String, i32, Arc<Numbers>)>,
}

/// Why a broker that is there is not talked to. Trying again does not help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It cannot prove that it is the broker it should be, or the two cannot agree on how to encrypt.
    Tls(String),
    /// It does not take the login.
    Login(String),
}

impl Refusal {
    fn of(error: &KafkaError, reason: &str) -> Option<Self> {
        let reason = without_how_often(reason);
        match error.rdkafka_error_code()? {
            RDKafkaErrorCode::SSL if reason.contains(HUNG_UP) => None,
            RDKafkaErrorCode::SSL => Some(Self::Tls(reason.to_owned())),
            RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism => Some(Self::Login(reason.to_owned())),
            _ => None,
        }
    }

    /// The refusal that a line of the library's log tells of. Where a name has several addresses,
    /// such a line is all that the library says.
    fn in_line(text: &str) -> Option<Self> {
        let (_broker, why) = text.split_once(HANDSHAKE)?;
        let why = without_how_often(why);
        (!why.contains(HUNG_UP)).then(|| Self::Tls(format!("{HANDSHAKE}{why}")))
    }
}

/// Without what stands behind `SASL authentication error: … (after 311ms in state AUTH_REQ, 1 identical
/// error(s) …)`.
fn without_how_often(reason: &str) -> &str {
    reason.rsplit_once(" (after ").map_or(reason, |(why, _how_often)| why)
}

impl Reports {
    /// Also keeps the beginning of a partition up to date.
    pub(super) fn watching(topic: &str, partition: i32, numbers: Arc<Numbers>) -> Self {
        Self { watched: Some((topic.to_owned(), partition, numbers)), ..Self::default() }
    }

    /// What went wrong last.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Why a broker is not talked to, if that has just gone wrong.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refusal_at(Instant::now())
    }

    fn refusal_at(&self, now: Instant) -> Option<Refusal> {
        let refusal = self.refusal.lock().clone();
        let counts = |at: &Instant| now.saturating_duration_since(*at) < REFUSAL_COUNTS;
        refusal.filter(|(at, _why)| counts(at)).map(|(_at, why)| why)
    }

    /// Notes that all is well again.
    pub(super) fn is_well(&self) {
        *self.trouble.lock() = None;
        *self.refusal.lock() = None;
    }

    /// What was reported of messages since the last call.
    pub(super) fn take_delivered(&self) -> Vec<(usize, Result<Offset, String>)> {
        std::mem::take(&mut self.delivered.lock())
    }

    fn refuse(&self, refusal: Option<Refusal>) {
        if let Some(refusal) = refusal {
            *self.refusal.lock() = Some((Instant::now(), refusal));
        }
    }

    fn note(&self, what: &str) {
        *self.trouble.lock() = Some(what.to_owned());
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // `[thrd:127.0.0.1:9092/bootstrap]: 127.0.0.1:9092/bootstrap: Connect to …`
        let text = message.split_once("]: ").map_or(message, |(_thread, text)| text);
        if (level as i32) <= RDKafkaLogLevel::Error as i32 {
            self.note(text);
            self.refuse(Refusal::in_line(text));
        }
        tracing::debug!(facility, text, "of the Kafka library");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "of the Kafka library");
        // Comes after what is wrong with each, and says less.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            return;
        }
        self.refuse(Refusal::of(&error, reason));
        self.note(reason);
    }

    fn stats(&self, statistics: Statistics) {
        let Some((topic, partition, numbers)) = &self.watched else { return };
        let topic = statistics.topics.get(topic);
        let first = topic.and_then(|topic| topic.partitions.get(partition)).map(|of| of.lo_offset);
        // Below zero while it is not known.
        if let Some(first) = first.and_then(|first| u64::try_from(first).ok()) {
            numbers.set_first(Offset(first + 1));
        }
    }
}

impl ConsumerContext for Reports {}

impl ProducerContext for Reports {
    /// Which payload of the append it is.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, of: usize) {
        let place = match result {
            Ok(message) => ours(message.offset()).ok_or_else(|| "no offset was told".to_owned()),
            Err((error, _message)) => Err(error.to_string()),
        };
        self.delivered.lock().push((of, place));
    }
}

/// The group in which it is noted how far the store is, for operators to see.
pub(super) fn applied_group(options: &Options) -> String {
    format!("{}.applied", options.group)
}

/// Settings of a consumer that reads one partition.
pub(super) fn reading(options: &Options) -> ClientConfig {
    let mut config = config(options);
    config
        .set("group.id", applied_group(options))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        // Every record in the topic counts, also one written in a transaction: a transaction that stays
        // open must not hide what was acknowledged.
        .set("isolation.level", "read_uncommitted")
        .set("check.crcs", "true")
        .set("enable.partition.eof", "false")
        // A fetch is answered as soon as there is a record: then it costs no time to wait long.
        .set("fetch.min.bytes", "1")
        .set("fetch.wait.max.ms", "500")
        .set("fetch.error.backoff.ms", "20")
        .set("fetch.queue.backoff.ms", "2")
        // As much as one partition may hold in memory ahead of the fold.
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.message.max.bytes", "4194304")
        .set("topic.metadata.refresh.fast.interval.ms", "50")
        .set("statistics.interval.ms", NUMBERS_EVERY.as_millis().to_string());
    config
}

/// Kafka's offset as ours.
pub(super) fn ours(kafka: i64) -> Option<Offset> {
    u64::try_from(kafka).ok().map(|offset| Offset(offset + 1))
}

/// Our offset as Kafka's.
pub(super) fn kafkas(ours: Offset) -> i64 {
    i64::try_from(ours.0.saturating_sub(1)).unwrap_or(i64::MAX)
}

/// Ends a client, which may take a while, without waiting for it.
pub(super) fn close(client: impl Send + 'static) {
    close_within(client, Duration::ZERO);
}

/// Ends a client. Returns whether it has ended within `limit`.
pub(super) fn close_within(client: impl Send + 'static, limit: Duration) -> bool {
    let (ended, end) = mpsc::sync_channel::<()>(1);
    let closing = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || {
        drop(client);
        drop(ended);
    });
    match closing {
        Ok(_thread) => end.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected),
        // The client went with what was to run there.
        Err(_no_thread) => true,
    }
}

/// A partition's number as Kafka has it.
pub(super) fn partition_number(partition: u32) -> i32 {
    i32::try_from(partition).expect("Kafka has fewer partitions than that")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once, where a name had an IPv6 address besides, "connection refused" there hid the certificate that
    /// was wrong at the other one, and db_proxy tried again for ever instead of saying so.
    #[test]
    fn regression_a_refusal_counts_whatever_else_goes_wrong_until_all_is_well_or_it_is_long_ago() {
        let reports = Reports::default();
        let away = KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure);
        reports.error(away.clone(), "Connect to [::1] failed");
        let hung_up = "SSL handshake failed: Disconnected: connecting to a PLAINTEXT listener?";
        reports.error(KafkaError::Global(RDKafkaErrorCode::SSL), hung_up);
        assert_eq!(reports.refusal(), None);
        reports.error(KafkaError::Global(RDKafkaErrorCode::SSL), "no (after 3ms in state X)");
        reports.error(away, "Connect to [::1] failed");
        let tls = Some(Refusal::Tls("no".to_owned()));
        assert_eq!(reports.refusal(), tls);
        assert_eq!(reports.trouble().as_deref(), Some("Connect to [::1] failed"));
        let later = |by| reports.refusal_at(Instant::now() + by);
        assert_eq!(later(REFUSAL_COUNTS / 2), tls);
        assert_eq!(later(REFUSAL_COUNTS), None);
        reports.is_well();
        assert_eq!(reports.refusal(), None);
    }

    #[test]
    fn a_handshake_that_fails_is_a_refusal_where_the_library_only_logs_it() {
        let log = |why: &str| {
            let reports = Reports::default();
            let line = format!("[thrd:x]: ssl://x:1/bootstrap: {why} (after 5ms in state X)");
            reports.log(RDKafkaLogLevel::Error, "FAIL", &line);
            reports.refusal()
        };
        let refused = |why: &str| Some(Refusal::Tls(why.to_owned()));
        let failed = "SSL handshake failed: certificate verify failed";
        assert_eq!(log(failed), refused(failed));
        for other in ["SSL handshake failed: Disconnected: plain?", "Connect to [::1] failed"] {
            assert_eq!(log(other), None, "{other}");
        }
    }
}
