//! The topic as a whole: whether it is there and can keep the promise, and how it is made.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use ring::digest::{Context, SHA256};

use super::client::{self, Refusal, Reports};
use super::numbers::Numbers;
use super::options::Options;
use super::probe::{self, Answer};
use super::rules;
use crate::LogId;

/// How often a new topic is looked at until it is ready.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why a topic cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Trying again will not help: an operator must look.
    #[error("{0}")]
    Refused(String),
    /// There is no answer now. Try again.
    #[error("{0}")]
    Away(String),
}

/// A topic that exists, with the right number of partitions, and that keeps the promise.
#[derive(Clone)]
pub struct KafkaTopic {
    options: Arc<Options>,
    cluster: String,
    numbers: Arc<[Arc<Numbers>]>,
}

/// A partition's log that is not opened.
#[derive(Debug)]
pub struct PartitionLog {
    pub(super) options: Arc<Options>,
    pub(super) partition: u32,
    pub(super) id: LogId,
    pub(super) numbers: Arc<Numbers>,
}

/// How a topic is to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewTopic {
    /// How many brokers have each record. An unsafe topic has fewer if there are fewer.
    pub replicas: usize,
    /// How long a record stays.
    pub retention: Duration,
}

impl Default for NewTopic {
    fn default() -> Self {
        let retention = Duration::from_millis(rules::RETENTION_MS);
        Self { replicas: rules::REPLICAS, retention }
    }
}

impl KafkaTopic {
    /// Finds the topic and looks at its settings.
    pub fn connect(options: Options) -> Result<Self, ConnectError> {
        let cluster = Cluster::reach(&options)?;
        cluster.check(&cluster.replicas()?)?;
        let id = cluster.id()?;
        let numbers = (0..options.partitions).map(|_| Arc::new(Numbers::default())).collect();
        Ok(Self { options: Arc::new(options), cluster: id, numbers })
    }

    /// One partition of it.
    ///
    /// # Panics
    ///
    /// If there is none of that number.
    pub fn partition(&self, partition: u32) -> PartitionLog {
        PartitionLog {
            options: Arc::clone(&self.options),
            partition,
            id: log_id(&self.cluster, &self.options.topic, partition),
            numbers: Arc::clone(&self.numbers[partition as usize]),
        }
    }

    /// How far each partition is that was opened here, in their order.
    pub fn numbers(&self) -> &[Arc<Numbers>] {
        &self.numbers
    }

    /// Where it is, and what it is called.
    pub fn options(&self) -> &Options {
        &self.options
    }
}

impl fmt::Debug for KafkaTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaTopic")
            .field("options", &self.options)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// The same for as long as the cluster and the topic's name are. A topic that was made anew under its
/// name is told by the fingerprint of its records.
fn log_id(cluster: &str, topic: &str, partition: u32) -> LogId {
    let mut digest = Context::new(&SHA256);
    for part in ["TalkHub log in Kafka", cluster, topic] {
        digest.update(part.as_bytes());
        digest.update(&[0]);
    }
    digest.update(&partition.to_be_bytes());
    let digest = digest.finish();
    LogId(*digest.as_ref().first_chunk().expect("a digest is longer than that"))
}

/// Makes the topic with the settings that the promise needs, unless there is one, which must be one that
/// can be used. Returns whether it was made here.
pub fn ensure_topic(options: &Options, new: NewTopic) -> Result<bool, ConnectError> {
    let cluster = Cluster::reach(options)?;
    if cluster.replicas()?.is_empty() && cluster.create(new)? {
        return Ok(true);
    }
    cluster.check(&cluster.replicas()?)?;
    Ok(false)
}

/// A cluster that has answered.
struct Cluster<'a> {
    options: &'a Options,
    consumer: BaseConsumer<Reports>,
    brokers: usize,
}

impl<'a> Cluster<'a> {
    fn reach(options: &'a Options) -> Result<Self, ConnectError> {
        let mut config = client::config(options);
        config.set("topic.metadata.refresh.fast.interval.ms", "50");
        let consumer = BaseConsumer::from_config_and_context(&config, Reports::default());
        let consumer = consumer.map_err(|error| {
            refused(format!("the settings for Kafka cannot be used: {}", told(&error)))
        })?;
        let mut cluster = Self { options, consumer, brokers: 0 };
        let metadata = cluster.consumer.fetch_metadata(Some(&options.topic), options.patience);
        let metadata = metadata.map_err(|error| cluster.why_away(&error))?;
        cluster.brokers = metadata.brokers().len();
        Ok(cluster)
    }

    /// How many replicas each partition of the topic has; nothing if there is no such topic.
    fn replicas(&self) -> Result<Vec<usize>, ConnectError> {
        let topic = &self.options.topic;
        let metadata = self.consumer.fetch_metadata(Some(topic), self.options.patience);
        let metadata = metadata.map_err(|error| Self::unanswered("look at the topic", &error))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
            return Ok(Vec::new());
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Ok(Vec::new());
            }
            Some(code @ RDKafkaErrorCode::LeaderNotAvailable) => {
                return Err(ConnectError::Away(format!("the topic {topic}: {}", explain(code))));
            }
            Some(code) => {
                return Err(refused(format!(
                    "the topic {topic} cannot be used: {}",
                    explain(code)
                )));
            }
        }
        leaders(found)
    }

    /// Whether the topic can be used, each of whose partitions has so many replicas.
    fn check(&self, replicas: &[usize]) -> Result<(), ConnectError> {
        let options = self.options;
        let Some(fewest) = replicas.iter().min() else {
            return Err(refused(format!(
                "there is no topic {} at {}: make it with `db_proxy create-topic`",
                options.topic, options.bootstrap,
            )));
        };
        if replicas.len() != options.partitions as usize {
            return Err(refused(format!(
                "the topic {} has {} partitions, and {} are configured: the number never changes, since \
                 it says where each conversation is; configure {}, or another topic",
                options.topic,
                replicas.len(),
                options.partitions,
                replicas.len(),
            )));
        }
        self.check_settings(*fewest)
    }

    /// Makes the topic, unless another process has just done so, and waits until it can be used. Returns
    /// whether it was made here.
    fn create(&self, new: NewTopic) -> Result<bool, ConnectError> {
        let (options, topic) = (self.options, &self.options.topic);
        let replicas = self.allowed_replicas(new.replicas)?;
        let retention_ms = u64::try_from(new.retention.as_millis()).unwrap_or(u64::MAX);
        let settings = rules::settings(replicas, retention_ms);
        let found = rules::findings(replicas, &|name| {
            settings.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
        });
        self.judge(&found)?;

        let count = client::partition_number(options.partitions);
        let fixed = TopicReplication::Fixed(i32::try_from(replicas).unwrap_or(i32::MAX));
        let mut request = rdkafka::admin::NewTopic::new(topic, count, fixed);
        for (name, value) in &settings {
            request = request.set(name, value);
        }
        let admin = self.admin()?;
        let times = self.times().operation_timeout(Some(options.patience));
        let made = wait(admin.create_topics([&request], &times))?;
        let made = made.map_err(|error| Self::unanswered("make a topic", &error))?.pop();
        let is_ours = match made {
            Some(Ok(_topic)) => true,
            Some(Err((_topic, RDKafkaErrorCode::TopicAlreadyExists))) => false,
            Some(Err((_topic, code))) => {
                let why = match code {
                    RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::ClusterAuthorizationFailed => {
                        "not allowed; its user needs Create on the topic".to_owned()
                    }
                    code => code.to_string(),
                };
                return Err(refused(format!("Kafka does not make the topic {topic}: {why}")));
            }
            None => return Err(refused("Kafka says nothing of the topic".to_owned())),
        };
        let began = Instant::now();
        let is_ready =
            |count| if is_ours { count == options.partitions as usize } else { count > 0 };
        while !is_ready(self.replicas().map_or(0, |replicas| replicas.len())) {
            if began.elapsed() >= options.patience {
                return Err(ConnectError::Away(format!(
                    "the topic {topic} is made, but is not ready"
                )));
            }
            self.pause();
        }
        Ok(is_ours)
    }

    fn check_settings(&self, replicas: usize) -> Result<(), ConnectError> {
        let admin = self.admin()?;
        let topic = &self.options.topic;
        let asked = [ResourceSpecifier::Topic(topic)];
        let told = wait(admin.describe_configs(&asked, &self.times()))?;
        let told =
            told.map_err(|error| Self::unanswered("ask for the topic's settings", &error))?;
        let settings = match told.into_iter().next() {
            Some(Ok(settings)) => settings,
            Some(Err(code)) => {
                return Err(refused(format!(
                    "Kafka does not tell the settings of the topic {topic}: {}",
                    explain(code)
                )));
            }
            None => return Err(refused(format!("Kafka says nothing of the topic {topic}"))),
        };
        // The library keeps to itself that it was not allowed to ask.
        if settings.entries.is_empty() {
            let code = RDKafkaErrorCode::TopicAuthorizationFailed;
            return Err(refused(format!(
                "Kafka does not tell the settings of the topic {topic}: {}",
                explain(code)
            )));
        }
        let entries = settings.entry_map();
        let found = rules::findings(replicas, &|name| {
            entries.get(name).and_then(|entry| entry.value.as_deref())
        });
        self.judge(&found)
    }

    /// What cannot keep the promise is refused, unless that is known.
    fn judge(&self, found: &[rules::Finding]) -> Result<(), ConnectError> {
        if found.is_empty() {
            return Ok(());
        }
        let text = format!(
            "the topic {} cannot keep what was acknowledged: {}",
            self.options.topic,
            rules::line(found)
        );
        if self.options.allow_unsafe_topic {
            tracing::warn!("{text}");
            return Ok(());
        }
        Err(refused(format!("{text} (allow_unsafe_topic = true takes it for development)")))
    }

    fn allowed_replicas(&self, wanted: usize) -> Result<usize, ConnectError> {
        if wanted <= self.brokers {
            return Ok(wanted);
        }
        if self.options.allow_unsafe_topic {
            return Ok(self.brokers);
        }
        Err(refused(format!(
            "a topic with {wanted} replicas needs as many brokers, and there are {} \
             (allow_unsafe_topic = true makes one with fewer replicas, for development)",
            self.brokers,
        )))
    }

    fn id(&self) -> Result<String, ConnectError> {
        let id = self.consumer.client().fetch_cluster_id(self.options.patience);
        id.ok_or_else(|| ConnectError::Away("Kafka does not say which cluster it is".to_owned()))
    }

    fn admin(&self) -> Result<AdminClient<Reports>, ConnectError> {
        let made =
            AdminClient::from_config_and_context(&client::config(self.options), Reports::default());
        made.map_err(|error| refused(format!("the settings for Kafka: {}", told(&error))))
    }

    fn times(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.options.patience))
    }

    fn pause(&self) {
        drop(self.consumer.poll(LOOK_EVERY));
    }

    /// Takes what the consumer has to report.
    fn reports(&self) -> &Reports {
        // As many as can have come in the time that was waited.
        for _ in 0..100 {
            drop(self.consumer.poll(Duration::ZERO));
        }
        self.consumer.context()
    }

    /// The error for a cluster that answered before and does not answer now.
    fn unanswered(what: &str, error: &KafkaError) -> ConnectError {
        match error.rdkafka_error_code() {
            Some(code) if is_forbidden(code) => {
                refused(format!("Kafka does not let us {what}: {}", explain(code)))
            }
            _ => ConnectError::Away(format!("cannot {what}: {}", told(error))),
        }
    }

    fn why_away(&self, error: &KafkaError) -> ConnectError {
        let (reports, bootstrap) = (self.reports(), &self.options.bootstrap);
        let trouble = reports.trouble();
        match reports.refusal() {
            Some(Refusal::Login(why)) => {
                return refused(format!(
                    "Kafka at {bootstrap} does not take the login: {why}; look at sasl.mechanism, \
                     sasl.username and sasl.password in [kafka.settings]"
                ));
            }
            Some(Refusal::Tls(why)) => {
                return refused(format!(
                    "there is no TLS with Kafka at {bootstrap}: {why}; its certificate must be for the \
                     name that it is reached by, from an authority in ssl.ca.location of \
                     [kafka.settings]"
                ));
            }
            None => {}
        }
        let code = error.rdkafka_error_code();
        if let Some(code) = code.filter(|code| is_forbidden(*code)) {
            return refused(format!("Kafka at {bootstrap}: {}", explain(code)));
        }
        let answers = probe::ask_all(bootstrap);
        let all = |answer: &Answer| answers.iter().all(|(_, found)| found == answer);
        if !answers.is_empty() && self.options.wants_tls() && all(&Answer::Kafka) {
            return refused(format!(
                "Kafka at {bootstrap} speaks no TLS, which security.protocol in [kafka.settings] asks \
                 for: name the port where it does"
            ));
        }
        if !answers.is_empty() && !self.options.wants_tls() && all(&Answer::NotKafka) {
            return refused(format!(
                "{bootstrap} is not Kafka, or wants TLS, which the settings do not say: name the \
                 brokers' own port, or set security.protocol in [kafka.settings]"
            ));
        }
        let nobody = answers.iter().find_map(|(address, answer)| match answer {
            Answer::Nobody(why) => Some(format!("{address}: {why}")),
            Answer::Kafka | Answer::NotKafka => None,
        });
        let why = nobody.or(trouble).unwrap_or_else(|| told(error));
        ConnectError::Away(format!("no answer from Kafka at {bootstrap}: {why}"))
    }
}

/// The number of replicas of each partition. All of them must have a leader.
fn leaders(topic: &MetadataTopic) -> Result<Vec<usize>, ConnectError> {
    let replicas = topic.partitions().iter().map(|partition| {
        if partition.leader() < 0 {
            return Err(ConnectError::Away(format!(
                "partition {} of the topic {} has no leader",
                partition.id(),
                topic.name(),
            )));
        }
        Ok(partition.replicas().len())
    });
    replicas.collect()
}

fn is_forbidden(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism
    )
}

/// What an operator can do about it, where that is known.
fn explain(code: RDKafkaErrorCode) -> String {
    match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            "not allowed; its user needs Describe, DescribeConfigs, Read and Write on the topic"
                .to_owned()
        }
        RDKafkaErrorCode::GroupAuthorizationFailed => {
            "not allowed; its user needs Read on the group".to_owned()
        }
        code => code.to_string(),
    }
}

/// The library's text without its prefix for programmers, and without values: one may be a password
/// under a name that is not spelled right.
fn told(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_result, why, name, _value) => format!("{name}: {why}"),
        KafkaError::ClientCreation(why) => why.clone(),
        error => {
            error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string())
        }
    }
}

fn refused(why: String) -> ConnectError {
    ConnectError::Refused(why)
}

/// The administrative client answers in a thread of its own.
fn wait<T>(answer: impl Future<Output = T>) -> Result<T, ConnectError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|error| ConnectError::Away(error.to_string()))?;
    Ok(runtime.block_on(answer))
}
