//! The log on Apache Kafka: one partition of one topic is one partition's log.
//!
//! An append hands its payloads to a producer of its own, waits until Kafka says where each of them
//! is, and reads the topic back up to there: what is returned is what every other reader will get,
//! with whatever others appended in between. The offset here is Kafka's and one more, so that the
//! first record has offset 1.
//!
//! ```text
//! topic       what is asked once: does the topic exist, and can it keep the promise
//!   ├─ rules      which settings it must have
//!   └─ probe      why there is no answer
//! KafkaLog    one partition, for its owner's thread
//!   ├─ sender     the producer: appends as a whole, or with an unknown result
//!   ├─ reader     the consumer: every offset in order, none left out
//!   └─ numbers    how far everything is, for the metrics
//! read_only   one partition, read beside its owner, as it is now
//! tail        the same, going on with what is appended
//! replay      where other consumers of the topic go on
//! ownership   which db_proxy has which partition, by a consumer group
//! client      what every client of Kafka's is told here
//! options     where the topic is, and how patient to be with it
//! ```
//!
//! # Invariants
//!
//! - A record is returned by an append only when all in-sync replicas have it and it was read back.
//! - Of an append that failed, what comes into the topic is the beginning, without gaps; then nothing
//!   more is appended by this value.
//! - A record that is not where it must be is an error that names it, never skipped.
//! - Offsets that Kafka keeps for consumer groups are there for operators; none is ever read here.
//!
//! Everything here blocks the calling thread: to be called off the async workers.

mod client;
mod failure;
mod numbers;
mod options;
mod ownership;
mod probe;
mod read_only;
mod reader;
mod replay;
mod rules;
mod sender;
mod tail;
#[cfg(test)]
mod tests;
mod topic;

use std::cell::Cell;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::ids::Offset;

use crate::{Appended, Log, LogError, LogId, LogReader, LogRecord, Tails, Unopened, check_here};

pub use numbers::Numbers;
pub use options::Options;
pub use ownership::{Ack, Event, Ownership};
pub use read_only::KafkaView;
pub use topic::{ConnectError, KafkaTopic, NewTopic, PartitionLog, ensure_topic};

use client::{close, close_within};
use numbers::NUMBERS_EVERY;
use reader::{LOOK_EVERY, Reader};
use sender::Sender;
use tail::KafkaTails;

/// How long a producer may take to end. After that it is not waited for: it has nothing left to send.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// The most records of others that are taken at once when nothing is appended.
const AT_ONCE: usize = 4096;

/// How long the confirmation of a record that was read back is waited for without a pause.
const WORD_SOON: Duration = Duration::from_millis(1);

/// One partition of the topic, for its owner.
pub struct KafkaLog {
    id: LogId,
    name: String,
    options: Arc<Options>,
    partition: u32,
    /// Both are there until the log is lost, and go without waiting for each other.
    reader: Option<Reader>,
    sender: Option<Sender>,
    lost: Option<String>,
    numbers: Arc<Numbers>,
    /// Everything before has been returned, by an append, by [`Log::idle`] or by reading.
    next: Offset,
    /// The greatest of all that were read; `None` before the first.
    timestamp_ms: Cell<Option<u64>>,
    /// When Kafka was last told how far the store is.
    noted_at: Instant,
}

impl KafkaLog {
    /// Opens a partition up to which everything to `applied` is stored.
    fn open(partition: PartitionLog, applied: Offset) -> Result<Self, LogError> {
        let PartitionLog { options, partition, id, numbers, .. } = partition;
        let name = format!("partition {partition} of the topic {}", options.topic);
        let reader = Reader::new(&options, partition, Arc::clone(&numbers))?;
        let sender = Sender::new(&options, partition)?;
        let (first, next) = reader.range(applied)?;
        if applied.next() < first {
            let missing = if applied.next().0 + 1 == first.0 {
                format!("the record with offset {} is gone", applied.next().0)
            } else {
                format!("those from offset {} to {} are gone", applied.next().0, first.0 - 1)
            };
            return Err(LogError::Damaged(format!(
                "retention has deleted records of {name} that were not stored: {missing}. Put the \
                 newest copy of the store in place, and raise retention.ms of the topic",
            )));
        }
        numbers.set_applied(applied);
        numbers.set_range(first, next);
        Ok(Self {
            id,
            name,
            options,
            partition,
            reader: Some(reader),
            sender: Some(sender),
            lost: None,
            numbers,
            next,
            timestamp_ms: Cell::new(None),
            noted_at: Instant::now(),
        })
    }

    fn reader(&self) -> Result<&Reader, LogError> {
        self.reader.as_ref().ok_or_else(|| self.was_lost())
    }

    fn was_lost(&self) -> LogError {
        LogError::Lost(self.lost.clone().unwrap_or_default())
    }

    /// The next record, unless there is none within `wait`.
    fn take(&mut self, wait: Duration) -> Result<Option<LogRecord>, LogError> {
        let record = self.reader()?.next(self.next, wait)?;
        if let Some(record) = &record {
            self.next = record.offset.next();
            self.saw(record);
        }
        Ok(record)
    }

    fn saw(&self, record: &LogRecord) {
        self.timestamp_ms.set(self.timestamp_ms.get().max(Some(record.timestamp_ms)));
    }

    /// The least timestamp that the next record may have. An owner that opens a log mostly reads
    /// it as well; if not, the last record is read.
    fn least_timestamp(&self) -> Result<u64, LogError> {
        if self.timestamp_ms.get().is_none() && self.next > self.numbers.first() {
            self.read(Offset(self.next.0 - 1), &mut |_last| ControlFlow::Continue(()))?;
        }
        Ok(self.timestamp_ms.get().unwrap_or(0))
    }

    /// Sends everything and reads it back.
    fn send(&mut self, payloads: &[Bytes], now_ms: u64) -> Result<Vec<Appended>, LogError> {
        let deadline = Instant::now() + self.options.delivery_timeout;
        // The library takes 0 for "now".
        let timestamp_ms = self.least_timestamp()?.max(now_ms).max(1);
        let from = self.next;
        let sender = self.sender.as_mut().ok_or_else(|| LogError::Lost(String::new()))?;
        sender.send(payloads, timestamp_ms).map_err(LogError::Lost)?;
        let mut records = Vec::with_capacity(payloads.len());
        let mut complete = None;
        while !self.is_complete()? {
            let now = Instant::now();
            if now >= deadline {
                return Err(LogError::Lost(self.not_in_time(&records)));
            }
            // All are read back, and Kafka will soon confirm them. A confirmation does not wake a wait
            // for records.
            if records.len() >= payloads.len() && now - *complete.get_or_insert(now) < WORD_SOON {
                std::thread::yield_now();
                continue;
            }
            let wait = if complete.is_some() { WORD_SOON } else { LOOK_EVERY };
            records.extend(self.take(wait.min(deadline - now))?);
        }
        let offsets = self.sender.as_mut().map(Sender::take_offsets).unwrap_or_default();
        appended(records, from, (payloads, timestamp_ms), &offsets).map_err(LogError::Lost)
    }

    /// Whether everything sent has its place and was read back.
    fn is_complete(&mut self) -> Result<bool, LogError> {
        let Some(sender) = &mut self.sender else { return Err(LogError::Lost(String::new())) };
        let last = sender.last_place().map_err(LogError::Lost)?;
        Ok(last.is_some_and(|last| last < self.next))
    }

    fn not_in_time(&self, read_back: &[LogRecord]) -> String {
        let known = self.sender.as_ref().map_or(0, Sender::confirmed);
        let reasons = [
            self.sender.as_ref().and_then(Sender::trouble),
            self.reader.as_ref().and_then(Reader::trouble),
        ];
        let reason = reasons.into_iter().flatten().next();
        let reason = reason.map_or(String::new(), |reason| format!(" ({reason})"));
        format!(
            "{} did not confirm an append within {} s: {known} records confirmed, {} read back{reason}",
            self.name,
            self.options.delivery_timeout.as_secs_f32(),
            read_back.len(),
        )
    }

    /// Ends all appending: what the producer has not sent yet, it never sends.
    fn give_up(&mut self, why: String) -> LogError {
        self.lost = Some(why.clone());
        if let Some(sender) = self.sender.take()
            && !close_within(sender, CLOSE_LIMIT)
        {
            tracing::warn!(
                log = self.name,
                "a producer that has nothing more to send does not end"
            );
        }
        if let Some(reader) = self.reader.take() {
            close(reader);
        }
        LogError::Lost(why)
    }

    /// Tells Kafka how far the store is, for operators to see.
    fn note(&mut self) {
        self.numbers.set_next(self.next);
        if let Some(reader) = &self.reader {
            reader.is_well();
        }
        if self.noted_at.elapsed() < NUMBERS_EVERY {
            return;
        }
        self.noted_at = Instant::now();
        if let Some(reader) = &self.reader {
            reader.note_applied(self.numbers.applied());
        }
    }
}

impl Unopened for PartitionLog {
    fn id(&self) -> LogId {
        self.id
    }

    fn open(self: Box<Self>, applied: Offset) -> Result<Box<dyn Log>, LogError> {
        Ok(Box::new(KafkaLog::open(*self, applied)?))
    }
}

impl LogReader for KafkaLog {
    fn id(&self) -> LogId {
        self.id
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn range(&self) -> (Offset, Offset) {
        (self.numbers.first(), self.next)
    }

    fn read(
        &self,
        from: Offset,
        each: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        check_here(from, self.range())?;
        self.reader()?.read((from, self.next), self.options.patience, &mut |record| {
            self.saw(&record);
            each(record)
        })
    }
}

impl Log for KafkaLog {
    fn append(&mut self, payloads: &[Bytes], now_ms: u64) -> Result<Vec<Appended>, LogError> {
        if self.lost.is_some() {
            return Err(self.was_lost());
        }
        if payloads.is_empty() {
            return Ok(Vec::new());
        }
        // The producer may send them after any error: the result of this append is unknown.
        let appended = self.send(payloads, now_ms).map_err(|error| match error {
            LogError::Lost(why) => self.give_up(why),
            other => self.give_up(other.to_string()),
        })?;
        self.note();
        Ok(appended)
    }

    fn idle(&mut self) -> Result<Vec<LogRecord>, LogError> {
        if self.lost.is_some() {
            return Err(self.was_lost());
        }
        let mut records = Vec::new();
        while records.len() < AT_ONCE {
            match self.take(Duration::ZERO) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => break,
                Err(error) => return Err(self.give_up(error.to_string())),
            }
        }
        if let Some(sender) = &mut self.sender {
            sender.idle();
        }
        self.note();
        Ok(records)
    }

    /// Retention deletes, not this; but how much of a margin it leaves is worth watching.
    fn trim(&mut self, up_to: Offset) {
        self.numbers.set_applied(up_to);
        self.note();
    }

    fn tails(&self) -> Arc<dyn Tails> {
        let options = Arc::clone(&self.options);
        Arc::new(KafkaTails::new(options, self.partition, Arc::clone(&self.numbers)))
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            close(sender);
        }
        if let Some(reader) = self.reader.take() {
            close(reader);
        }
    }
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaLog")
            .field("name", &self.name)
            .field("range", &self.range())
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

/// Marks those of `records`, which begin at `from`, that are the payloads, by where Kafka has said
/// they are. Each must be there as it was sent.
fn appended(
    records: Vec<LogRecord>,
    from: Offset,
    (payloads, timestamp_ms): (&[Bytes], u64),
    offsets: &[Offset],
) -> Result<Vec<Appended>, String> {
    let mut appended: Vec<_> =
        records.into_iter().map(|record| Appended { record, of: None }).collect();
    let mut before = None;
    for (of, (payload, offset)) in payloads.iter().zip(offsets).enumerate() {
        let index = offset.0.checked_sub(from.0).and_then(|index| usize::try_from(index).ok());
        let found = index.and_then(|index| appended.get_mut(index));
        let found = found.filter(|found| {
            found.record.payload == *payload && found.record.timestamp_ms == timestamp_ms
        });
        let Some(found) = found.filter(|_| before < Some(*offset)) else {
            return Err(format!(
                "Kafka said that a record was at offset {}, and another one is there",
                offset.0,
            ));
        };
        found.of = Some(of);
        before = Some(*offset);
    }
    Ok(appended)
}
