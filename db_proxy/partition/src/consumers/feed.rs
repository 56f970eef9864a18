//! Serves one link of a consumer: reads the log from its place, sends, and moves the place.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use daemon::LinkError;
use proto::cluster::wire::{NumberedRecord, Records};
use proto::cluster::{Kind, RECORDS_UNHANDLED_MAX, SMALL_RECORDS_UNHANDLED_MAX};
use proto::ids::Offset;
use record_log::{LogError, LogRecord, Tail};
use store::{ConsumerCursor, StoreError};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::claimants::{Claimant, Claimants};
use super::numbering::{self, NotNow};
use super::shared::Shared;

/// How soon a consumer that has everything hears of what is new.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often a place that moves is written: so much is sent again after a kill.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Before something that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What one batch holds at most, but for the last record in it.
const BATCH_BYTES: usize = 256 << 10;

/// Records of one batch at most.
const BATCH_RECORDS_MAX: usize = 512;

/// A place in the log, and the epoch in force behind it.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: Offset,
    /// 0 = not known.
    epoch: u64,
}

/// A batch that was sent and is not handled.
#[derive(Debug, Clone, Copy)]
struct Sent {
    /// Where it ends.
    upto: Place,
    records: usize,
    bytes: usize,
}

/// What serves one link.
pub(super) struct Feed<'a> {
    shared: &'a Shared,
    claimants: &'a Claimants,
    claimant: Claimant,
    /// What the store has.
    saved: Option<ConsumerCursor>,
    saved_at: Instant,
    /// Everything up to here was handled.
    handled: Place,
    /// Batches that were sent, in order.
    sent: VecDeque<Sent>,
    /// Everything up to here was read.
    read: Place,
    tail: Option<Box<dyn Tail>>,
    /// Records that were read and are not sent yet.
    unsent: Vec<LogRecord>,
    /// A record was found that the consumer wants.
    has_begun: bool,
}

/// The link is not served any longer.
#[derive(Debug)]
struct Over;

impl<'a> Feed<'a> {
    pub(super) fn new(shared: &'a Shared, claimants: &'a Claimants, claimant: Claimant) -> Self {
        let nowhere = Place { offset: Offset(0), epoch: 0 };
        Self {
            shared,
            claimants,
            claimant,
            saved: None,
            saved_at: Instant::now(),
            handled: nowhere,
            sent: VecDeque::new(),
            read: nowhere,
            tail: None,
            unsent: Vec::new(),
            has_begun: false,
        }
    }

    /// Serves until the link is down or asks for something else.
    pub(super) async fn run(mut self) {
        if let Err(Over) = self.serve().await {
            debug!(consumer = %self.claimant.link.peer().name, "it is not served any longer");
        }
        // For the next one, or for the next owner.
        if let Err(error) = self.save().await {
            debug!(%error, "a consumer's place is not written: some records will be sent again");
        }
    }

    async fn serve(&mut self) -> Result<(), Over> {
        self.find().await?;
        self.skip_what_was_received().await?;
        loop {
            self.note_handled()?;
            let is_due = self.saved_at.elapsed() >= SAVE_EVERY || self.shared.shutdown.is_begun();
            if is_due && let Err(error) = self.save().await {
                warn!(%error, "a consumer's place is not written now");
            }
            if self.may_send() && self.step().await? {
                continue;
            }
            let look = Instant::now() + LOOK_EVERY;
            tokio::select! {
                () = self.claimants.changed.notified() => {}
                () = sleep_until(look) => {}
            }
        }
    }

    /// Finds the consumer's place in the store, or makes one.
    async fn find(&mut self) -> Result<(), Over> {
        let Shared { source, .. } = self.shared;
        let cursor = loop {
            self.note_handled()?;
            match self.find_cursor().await {
                Ok(cursor) => break cursor,
                Err(error) => debug!(%error, "a consumer's place cannot be read now"),
            }
            sleep(RETRY_PAUSE).await;
        };
        self.saved = Some(cursor);
        // In another log no place of an earlier one means anything.
        let is_here = cursor.log == source.log;
        self.handled = if is_here {
            Place { offset: cursor.offset, epoch: cursor.epoch }
        } else {
            Place { offset: Offset(0), epoch: 0 }
        };
        self.read = self.handled;
        if !is_here {
            let first = self.first().await?;
            self.send_lost(first)?;
        }
        Ok(())
    }

    async fn find_cursor(&mut self) -> Result<ConsumerCursor, StoreError> {
        let Shared { source, .. } = self.shared;
        let (store, name) = (source.state.store(), &self.claimants.name);
        loop {
            let consumers = store.consumers().await?;
            if let Some(known) = consumers.into_iter().find(|consumer| consumer.name == *name) {
                return Ok(known.cursor);
            }
            let (offset, epoch) = if self.claimant.consume.from_oldest() {
                let first = self.shared.first().await;
                (first.map_err(|error| StoreError::Unavailable(error.to_string()))?, 0)
            } else {
                let inner = source.state.lock();
                (inner.fold.last.next(), inner.fold.epoch)
            };
            let offset = Offset(offset.0.saturating_sub(1));
            let cursor = ConsumerCursor { log: source.log, offset, epoch };
            if store.move_consumer(source.owned.epoch, name.clone(), None, cursor).await? {
                return Ok(cursor);
            }
        }
    }

    /// What this process has handled or received from another owner is not sent to it again.
    async fn skip_what_was_received(&mut self) -> Result<(), Over> {
        let last = self.shared.source.state.last();
        let received = self.claimant.consume.received_offset.map_or(Offset(0), Offset);
        let handled = self.claimant.handled.min(last);
        for (upto, is_handled) in [(handled, true), (received.min(last), false)] {
            if !self.skip(upto).await? {
                continue;
            }
            if is_handled {
                self.handled = self.read;
            } else {
                self.sent.push_back(Sent { upto: self.read, records: 0, bytes: 0 });
            }
        }
        Ok(())
    }

    /// Reads on to an offset and sends nothing. Whether there was anything to read.
    async fn skip(&mut self, upto: Offset) -> Result<bool, Over> {
        let begin = self.read.offset;
        while self.read.offset < upto {
            self.note_handled()?;
            let Some(records) = self.read_some(upto).await? else { continue };
            self.read.epoch = numbering::epoch_after(self.read.epoch, &records);
            self.read.offset = records.last().map_or(self.read.offset, |record| record.offset);
        }
        Ok(self.read.offset > begin)
    }

    /// Whether one more batch may be on its way: so many full ones, or more that are small.
    fn may_send(&self) -> bool {
        let full = RECORDS_UNHANDLED_MAX;
        let wanted = usize::try_from(self.claimant.consume.unhandled_max()).unwrap_or(full);
        let records: usize = self.sent.iter().map(|sent| sent.records).sum();
        let bytes: usize = self.sent.iter().map(|sent| sent.bytes).sum();
        let are_small =
            records <= (full - 1) * BATCH_RECORDS_MAX && bytes <= (full - 1) * BATCH_BYTES;
        let most = wanted.min(SMALL_RECORDS_UNHANDLED_MAX);
        self.sent.len() < full || (are_small && self.sent.len() < most)
    }

    /// Sends one batch, if there is something to send. Whether it did.
    async fn step(&mut self) -> Result<bool, Over> {
        if self.unsent.is_empty() {
            let last = self.shared.source.state.last();
            if self.read.offset >= last {
                return Ok(false);
            }
            let Some(records) = self.read_some(last).await? else { return Ok(true) };
            if self.are_unwanted(&records) {
                self.read.epoch = numbering::epoch_after(self.read.epoch, &records);
                self.read.offset = records.last().map_or(self.read.offset, |last| last.offset);
                if self.sent.is_empty() {
                    self.handled = self.read;
                }
                return Ok(true);
            }
            self.has_begun = true;
            self.unsent = records;
        }
        let Some(last) = self.unsent.last().map(|record| record.offset) else { return Ok(false) };
        let mut epoch = self.read.epoch;
        match numbering::number(&self.shared.source.state, &mut epoch, &self.unsent).await {
            Ok(records) => {
                self.send(Place { offset: last, epoch }, records, false)?;
                self.unsent = Vec::new();
                Ok(true)
            }
            Err(error @ (NotNow::Store(_) | NotNow::Unstored)) => {
                debug!(%error, "records cannot be numbered now");
                sleep(RETRY_PAUSE).await;
                Ok(false)
            }
        }
    }

    /// Whether all of these are older than what the consumer wants. Only at the beginning: the time of records
    /// may fall where the owner changes.
    fn are_unwanted(&self, records: &[LogRecord]) -> bool {
        let from_ms = self.claimant.consume.from_ms();
        !self.has_begun && records.iter().all(|record| record.timestamp_ms < from_ms)
    }

    /// The next records of the log, up to `upto`, a batch of them at most. `None` if there were none, since
    /// they are lost or cannot be read now.
    async fn read_some(&mut self, upto: Offset) -> Result<Option<Vec<LogRecord>>, Over> {
        let tails = Arc::clone(&self.shared.source.tails);
        let (tail, from) = (self.tail.take(), self.read.offset.next());
        let reading = spawn_blocking(move || {
            let mut tail = match tail {
                Some(tail) => tail,
                None => tails.tail(from)?,
            };
            let (mut records, mut bytes) = (Vec::new(), 0);
            tail.read(upto, &mut |record| {
                bytes += record.payload.len();
                records.push(record);
                if bytes >= BATCH_BYTES || records.len() == BATCH_RECORDS_MAX {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
            Ok((tail, records))
        });
        let read = match reading.await {
            Ok(read) => read,
            // The runtime ends.
            Err(_ended) => return Err(Over),
        };
        match read {
            Ok((tail, records)) => {
                self.tail = Some(tail);
                Ok((!records.is_empty()).then_some(records))
            }
            Err(LogError::NotHere { first, .. }) if first > from.0 => {
                self.send_lost(Offset(first))?;
                Ok(None)
            }
            Err(error) => {
                warn!(%error, "the log cannot be read for a consumer now");
                sleep(RETRY_PAUSE).await;
                Ok(None)
            }
        }
    }

    /// The first record that the log has.
    async fn first(&mut self) -> Result<Offset, Over> {
        loop {
            self.handled_now()?;
            match self.shared.first().await {
                Ok(first) => return Ok(first),
                Err(error) => warn!(%error, "the log's beginning cannot be found now"),
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Tells that everything before `first` is lost.
    fn send_lost(&mut self, first: Offset) -> Result<(), Over> {
        self.shared.note_fallen(&self.claimants.name, first);
        let upto = Offset(first.0.saturating_sub(1));
        self.send(Place { offset: upto, epoch: 0 }, Vec::new(), true)
    }

    fn send(&mut self, upto: Place, records: Vec<NumberedRecord>, lost: bool) -> Result<(), Over> {
        let owned = self.shared.source.owned;
        let batch = Records {
            name: self.claimants.name.clone(),
            partition: owned.partition,
            epoch: owned.epoch,
            after_offset: self.read.offset.0,
            upto_offset: upto.offset.0,
            records,
            lost: lost.then_some(true),
        };
        let link = &self.claimant.link;
        match link.send(Kind::Records.number(), 0, &batch) {
            Ok(()) => {}
            Err(LinkError::Closed) => return Err(Over),
            // A few batches are far below what may wait on a link.
            Err(LinkError::Full | LinkError::TooLong) => {
                link.reset("it does not take records");
                return Err(Over);
            }
        }
        self.shared.metrics.records.inc_by(batch.records.len() as u64);
        self.read = upto;
        let bytes = batch.records.iter().map(|record| record.record.len()).sum();
        self.sent.push_back(Sent { upto, records: batch.records.len(), bytes });
        Ok(())
    }

    fn handled_now(&self) -> Result<Offset, Over> {
        self.claimants.handled(&self.claimant.link).ok_or(Over)
    }

    /// Takes note of what was handled: whole batches.
    fn note_handled(&mut self) -> Result<(), Over> {
        let handled = self.handled_now()?;
        while let Some(sent) = self.sent.pop_front_if(|sent| sent.upto.offset <= handled) {
            self.handled = sent.upto;
        }
        Ok(())
    }

    /// Writes the place into the store, if it has moved.
    async fn save(&mut self) -> Result<(), StoreError> {
        let Shared { source, .. } = self.shared;
        let Some(from) = self.saved else { return Ok(()) };
        let Place { offset, epoch } = self.handled;
        let to = ConsumerCursor { log: source.log, offset, epoch };
        if (from.log, from.offset) == (to.log, to.offset) {
            return Ok(());
        }
        self.saved_at = Instant::now();
        let name = self.claimants.name.clone();
        if source.state.store().move_consumer(source.owned.epoch, name, Some(from), to).await? {
            self.saved = Some(to);
            self.shared.note_within(&self.claimants.name);
            return Ok(());
        }
        // An administrator has forgotten it, or moved it by hand: it goes on from there.
        self.claimant.link.reset("its place was changed by somebody else");
        Ok(())
    }
}
