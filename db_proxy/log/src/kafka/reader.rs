//! The consumer of one partition's owner: it reads from where it is told, never from where Kafka
//! thinks it was.
//!
//! # Invariants
//!
//! - Records come in the order of their offsets, and none is left out.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::ids::Offset;
use proto::record::fingerprint;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset as Place, TopicPartitionList};

use super::client::{self, Reports, kafkas, ours};
use super::failure::other;
use super::numbers::Numbers;
use super::options::Options;
use crate::{LogError, LogRecord};

/// How long an append or a read waits for records before it looks whether something has failed.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a leader may be behind with what its followers have before its word counts: one that has
/// just become leader does not know yet what they have.
const CATCH_UP: Duration = Duration::from_secs(3);

/// How long one question for the ends of the partition waits.
const ENDS_LIMIT: Duration = Duration::from_secs(2);

/// A consumer, and where it is.
pub(super) struct Reader {
    consumer: BaseConsumer<Reports>,
    topic: String,
    partition: i32,
    patience: Duration,
    /// What it delivers next; `None` before the first time.
    at: Cell<Option<Offset>>,
    /// Where it was when it delivered a later one than the next.
    gap: Cell<Option<Offset>>,
}

impl Reader {
    /// Makes a consumer of one partition that is nowhere yet. It keeps the beginning of `numbers` up
    /// to date.
    pub(super) fn new(
        options: &Options,
        partition: u32,
        numbers: Arc<Numbers>,
    ) -> Result<Self, LogError> {
        let partition = client::partition_number(partition);
        let reports = Reports::watching(&options.topic, partition, numbers);
        let consumer = client::reading(options).create_with_context(reports);
        let consumer = consumer.map_err(|error| LogError::Io {
            what: "cannot make a consumer".to_owned(),
            source: other(error),
        })?;
        Ok(Self {
            consumer,
            topic: options.topic.clone(),
            partition,
            patience: options.patience,
            at: Cell::new(None),
            gap: Cell::new(None),
        })
    }

    /// The first record, and the one that comes next. Does not believe at once that there are fewer
    /// than `applied`.
    pub(super) fn range(&self, applied: Offset) -> Result<(Offset, Offset), LogError> {
        let began = Instant::now();
        loop {
            let ends =
                self.end(Place::Beginning).and_then(|first| Ok((first, self.end(Place::End)?)));
            let why = match ends {
                Ok((Some(first), Some(next)))
                    if next > applied || began.elapsed() >= CATCH_UP.min(self.patience) =>
                {
                    return Ok((first, next));
                }
                Ok(_) => "it does not know".to_owned(),
                Err(error) => error.to_string(),
            };
            if began.elapsed() >= self.patience {
                let trouble =
                    self.trouble().map_or(String::new(), |trouble| format!(" ({trouble})"));
                return Err(LogError::Io {
                    what: format!("cannot ask for the ends of {}", self.name()),
                    source: std::io::Error::other(format!("{why}{trouble}")),
                });
            }
            // Also takes what the consumer reports. It has nothing to deliver yet.
            drop(self.consumer.poll(Duration::from_millis(50)));
        }
    }

    /// One end of the partition, if its leader knows it. The library's own question for both ends at
    /// once takes one for the other when one of the two answers is an error.
    fn end(&self, which: Place) -> Result<Option<Offset>, KafkaError> {
        let mut places = TopicPartitionList::new();
        places.add_partition_offset(&self.topic, self.partition, which)?;
        let found = self.consumer.offsets_for_times(places, ENDS_LIMIT.min(self.patience))?;
        let Some(found) = found.find_partition(&self.topic, self.partition) else {
            return Ok(None);
        };
        found.error()?;
        Ok(match found.offset() {
            Place::Offset(offset) => ours(offset),
            _ => None,
        })
    }

    /// The record at `wanted`, unless it does not come within `wait`.
    pub(super) fn next(
        &self,
        wanted: Offset,
        wait: Duration,
    ) -> Result<Option<LogRecord>, LogError> {
        loop {
            if self.at.get() != Some(wanted) {
                self.go_to(wanted)?;
            }
            let Some(message) = self.consumer.poll(wait) else { return Ok(None) };
            let message = match message {
                Ok(message) => message,
                Err(error) => return self.failed(&error, wanted),
            };
            let found = ours(message.offset());
            if found == Some(wanted) {
                self.at.set(Some(wanted.next()));
                return Ok(Some(record(wanted, &message)));
            }
            let Some(later) = found.filter(|found| *found > wanted) else { continue };
            // One may be left from where it read before: read again, it is not.
            if self.gap.replace(Some(wanted)) == Some(wanted) {
                return Err(LogError::Damaged(format!(
                    "the record with offset {} is missing in {}, which goes on with offset {}. Nothing \
                     but db_proxy may write to the topic, and its cleanup.policy must be delete",
                    wanted.0,
                    self.name(),
                    later.0,
                )));
            }
            self.at.set(None);
        }
    }

    /// Calls `each` with every record from `from` up to `next`, until it breaks off. A record may take
    /// as long as `patience` to come.
    pub(super) fn read(
        &self,
        (from, next): (Offset, Offset),
        patience: Duration,
        each: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        let mut wanted = from;
        // The clock is looked at only while nothing comes: there may be millions of records.
        let mut silent_since = None;
        while wanted < next {
            if let Some(record) = self.next(wanted, LOOK_EVERY)? {
                wanted = record.offset.next();
                if each(record).is_break() {
                    break;
                }
                silent_since = None;
            } else if silent_since.get_or_insert_with(Instant::now).elapsed() >= patience {
                return Err(self.silent(wanted, patience));
            }
        }
        Ok(())
    }

    /// The error for a record that must be there and does not come.
    fn silent(&self, wanted: Offset, patience: Duration) -> LogError {
        let trouble = self.trouble().unwrap_or_else(|| "nothing comes".to_owned());
        LogError::Io {
            what: format!("cannot read offset {} of {}", wanted.0, self.name()),
            source: std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("{trouble} (waited {} s)", patience.as_secs_f32()),
            ),
        }
    }

    /// What went wrong last.
    pub(super) fn trouble(&self) -> Option<String> {
        self.consumer.context().trouble()
    }

    /// Notes that all is well again.
    pub(super) fn is_well(&self) {
        self.consumer.context().is_well();
    }

    /// Notes in Kafka that everything up to `applied` is stored. Whether that worked is not looked at.
    pub(super) fn note_applied(&self, applied: Offset) {
        let Ok(offset) = i64::try_from(applied.0) else { return };
        let mut places = TopicPartitionList::new();
        let noted = places
            .add_partition_offset(&self.topic, self.partition, Place::Offset(offset))
            .and_then(|()| self.consumer.commit(&places, CommitMode::Async));
        if let Err(error) = noted {
            tracing::debug!(%error, "Kafka is not told how far the store is");
        }
    }

    fn go_to(&self, wanted: Offset) -> Result<(), LogError> {
        let mut places = TopicPartitionList::new();
        let assigned = places
            .add_partition_offset(&self.topic, self.partition, Place::Offset(kafkas(wanted)))
            .and_then(|()| self.consumer.assign(&places));
        assigned.map_err(|error| LogError::Io {
            what: format!("cannot read {}", self.name()),
            source: other(error),
        })?;
        self.at.set(Some(wanted));
        Ok(())
    }

    /// Most errors pass: the library tries again by itself.
    fn failed(&self, error: &KafkaError, wanted: Offset) -> Result<Option<LogRecord>, LogError> {
        let gone = [
            RDKafkaErrorCode::AutoOffsetReset,
            RDKafkaErrorCode::LogTruncation,
            RDKafkaErrorCode::OffsetOutOfRange,
        ];
        if !error.rdkafka_error_code().is_some_and(|code| gone.contains(&code)) {
            tracing::debug!(%error, "while a partition is read");
            return Ok(None);
        }
        self.at.set(None);
        Err(LogError::Damaged(format!(
            "{} does not have offset {} any more: deleted by its retention, or the topic was made anew",
            self.name(),
            wanted.0,
        )))
    }

    fn name(&self) -> String {
        format!("partition {} of the topic {}", self.partition, self.topic)
    }
}

fn record(offset: Offset, message: &BorrowedMessage<'_>) -> LogRecord {
    let timestamp = message.timestamp().to_millis();
    let timestamp_ms = timestamp.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
    let payload = message.payload().unwrap_or_default();
    LogRecord {
        offset,
        timestamp_ms,
        crc: fingerprint(offset, timestamp_ms, payload),
        payload: Bytes::copy_from_slice(payload),
    }
}
