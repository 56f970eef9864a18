//! Where the topic is, and how it is used.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Where the topic is, and how patient to be with it.
#[derive(Clone)]
pub struct Options {
    /// The brokers to begin with, as `host:port` with commas between.
    pub bootstrap: String,
    /// The topic.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// The consumer group that shares the partitions. Where each owner is in its partition is noted
    /// in the group of this name with `.applied` at its end.
    pub group: String,
    /// How long an append may take. After that its result is unknown.
    pub delivery_timeout: Duration,
    /// How long a broker may take to answer when a partition is opened or read.
    pub patience: Duration,
    /// Whether a topic is taken that cannot keep the promise. For development.
    pub allow_unsafe_topic: bool,
    /// More settings of the Kafka library: `security.protocol`, `ssl.ca.location`, `sasl.mechanism` and
    /// what else TLS and a login need. Those that the promise rests on cannot be set here.
    pub settings: BTreeMap<String, String>,
}

impl Options {
    /// The usual times, and nothing unsafe.
    pub fn new(bootstrap: impl Into<String>, topic: impl Into<String>, partitions: u32) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            topic: topic.into(),
            partitions,
            group: "talkhub".to_owned(),
            delivery_timeout: Duration::from_secs(30),
            patience: Duration::from_secs(10),
            allow_unsafe_topic: false,
            settings: BTreeMap::new(),
        }
    }

    /// Whether brokers are only talked to over TLS.
    pub(super) fn wants_tls(&self) -> bool {
        let protocol = self.settings.get("security.protocol");
        protocol.is_some_and(|protocol| protocol.to_ascii_lowercase().ends_with("ssl"))
    }
}

/// Without the values of the settings, some of which are passwords.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("bootstrap", &self.bootstrap)
            .field("topic", &self.topic)
            .field("partitions", &self.partitions)
            .field("group", &self.group)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("patience", &self.patience)
            .field("allow_unsafe_topic", &self.allow_unsafe_topic)
            .field("settings", &self.settings.keys())
            .finish()
    }
}
