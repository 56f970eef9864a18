//! The producer of one partition's owner.
//!
//! # Invariants
//!
//! - One append at a time: nothing is sent while something sent before is not confirmed.
//! - What comes into the topic is a beginning of what was sent, in order. The library sends batches in
//!   order and the broker takes none out of order; and the library gives nothing up by itself while
//!   this value lives, so that nothing later can be taken in the place of something given up.

use std::time::Duration;

use bytes::Bytes;
use proto::ids::Offset;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::util::Timeout;

use super::client::{self, Reports};
use super::failure::other;
use super::options::Options;
use super::rules::MAX_MESSAGE_BYTES;
use crate::LogError;

/// The most that the library holds of one append.
const QUEUE_KBYTES: &str = "65536";

/// A producer, and what it was told of the append under way.
pub(super) struct Sender {
    producer: BaseProducer<Reports>,
    topic: String,
    partition: i32,
    /// Where each payload of the append under way is.
    offsets: Vec<Option<Offset>>,
    confirmed: usize,
}

impl Sender {
    /// Makes a producer, which introduces itself to Kafka at once.
    pub(super) fn new(options: &Options, partition: u32) -> Result<Self, LogError> {
        let mut config = client::config(options);
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("enable.gapless.guarantee", "true")
            .set("max.in.flight.requests.per.connection", "5")
            .set("linger.ms", "0")
            .set("compression.type", "none")
            // The append gives up by itself, everything at once.
            .set("message.timeout.ms", "0")
            .set("message.send.max.retries", i32::MAX.to_string())
            .set("retry.backoff.ms", "20")
            .set("retry.backoff.max.ms", "500")
            .set("request.timeout.ms", options.delivery_timeout.as_millis().to_string())
            .set("message.max.bytes", MAX_MESSAGE_BYTES.to_string())
            .set("queue.buffering.max.kbytes", QUEUE_KBYTES)
            .set("topic.metadata.refresh.fast.interval.ms", "50");
        let producer = config.create_with_context(Reports::default()).map_err(|error| {
            LogError::Io { what: "cannot make a producer".to_owned(), source: other(error) }
        })?;
        Ok(Self {
            producer,
            topic: options.topic.clone(),
            partition: client::partition_number(partition),
            offsets: Vec::new(),
            confirmed: 0,
        })
    }

    /// Hands over the payloads of an append.
    pub(super) fn send(&mut self, payloads: &[Bytes], timestamp_ms: u64) -> Result<(), String> {
        self.offsets = vec![None; payloads.len()];
        self.confirmed = 0;
        let timestamp = i64::try_from(timestamp_ms).unwrap_or(i64::MAX);
        for (of, payload) in payloads.iter().enumerate() {
            let record: BaseRecord<'_, (), [u8], usize> =
                BaseRecord::with_opaque_to(&self.topic, of)
                    .partition(self.partition)
                    .payload(&payload[..])
                    .timestamp(timestamp);
            if let Err((error, _record)) = self.producer.send(record) {
                return Err(format!("a record cannot be sent: {}", self.explain(&error)));
            }
        }
        Ok(())
    }

    /// Takes what is known by now. Returns the last place if everything has one.
    pub(super) fn last_place(&mut self) -> Result<Option<Offset>, String> {
        self.producer.poll(Timeout::After(Duration::ZERO));
        for (of, place) in self.producer.context().take_delivered() {
            let offset = place.map_err(|why| {
                let reason = self.fatal().or_else(|| self.trouble());
                let reason = reason.map_or(String::new(), |reason| format!(" ({reason})"));
                format!("a record was not taken: {why}{reason}")
            })?;
            if let Some(place @ None) = self.offsets.get_mut(of) {
                *place = Some(offset);
                self.confirmed += 1;
            }
        }
        if self.confirmed < self.offsets.len() {
            return self.fatal().map_or(Ok(None), Err);
        }
        Ok(self.offsets.last().copied().flatten())
    }

    /// Where the payloads of the append are, all of which have a place.
    pub(super) fn take_offsets(&mut self) -> Vec<Offset> {
        self.producer.context().is_well();
        self.offsets.drain(..).flatten().collect()
    }

    /// How many of the append's records have a place.
    pub(super) fn confirmed(&self) -> usize {
        self.confirmed
    }

    /// Takes what the producer reports while nothing is sent.
    pub(super) fn idle(&mut self) {
        self.producer.poll(Timeout::After(Duration::ZERO));
    }

    /// What went wrong last.
    pub(super) fn trouble(&self) -> Option<String> {
        self.producer.context().trouble()
    }

    /// Why this producer sends nothing more, if that is so.
    fn fatal(&self) -> Option<String> {
        let fatal = self.producer.client().fatal_error();
        fatal.map(|(code, why)| format!("the producer has ended: {code}: {why}"))
    }

    fn explain(&self, error: &KafkaError) -> String {
        self.fatal().unwrap_or_else(|| error.to_string())
    }
}
