//! What is said of single records, of those that are listed, and of all of them together.

use std::fmt;
use std::io::{self, Write};
use std::ops::ControlFlow;

use daemon::BoxError;
use fold::effects::Fold;
use jiff::Timestamp;
use partition::open::OpenError;
use prost::Message as _;
use proto::ids::{ClientMsgId, ConversationId, GroupId, Offset};
use proto::log::Record;
use proto::log::record::Change;
use record_log::{LogError, LogReader, LogRecord};

/// How many records are listed if no count is given.
const COUNT: u64 = 20;

/// Which records are listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The first of them. `None`: the last ones, if any.
    pub(crate) from: Option<Offset>,
    /// How many. `None`: some, if `from` is given.
    pub(crate) count: Option<u64>,
    /// The partition of a topic that is listed. `None`: all of them.
    pub(crate) partition: Option<u32>,
}

/// What another consumer of a topic is to read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replay<'a> {
    /// The name of its group.
    pub(crate) consumer: &'a str,
    /// Where it goes on from.
    pub(crate) from: Offset,
    /// In which partition. `None`: in each.
    pub(crate) partition: Option<u32>,
}

impl Shown {
    /// Whether any records are listed.
    pub(super) fn lists(self) -> bool {
        self.from.is_some() || self.count.is_some()
    }
}

/// Prints one line for each record that is to be shown.
pub(super) fn list(log: &dyn LogReader, shown: Shown, out: &mut dyn Write) -> Result<(), BoxError> {
    let (first, next) = log.range();
    let count = shown.count.unwrap_or(COUNT);
    let last = || Offset(next.0.saturating_sub(count).max(first.0));
    let from = shown.from.unwrap_or_else(last);
    let mut left = count;
    let mut failed = None;
    writeln!(out, "{}", RecordLine::HEADINGS)?;
    let read = log.read(from, &mut |record| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        left -= 1;
        match writeln!(out, "{}", RecordLine(&record)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    match (failed, read) {
        (Some(error), _) => Err(error.into()),
        (None, Ok(())) => Ok(()),
        (None, Err(LogError::Damaged(what))) => Ok(writeln!(out, "{what}")?),
        (None, Err(error @ LogError::NotHere { .. })) => {
            Err(OpenError::Refused(error.to_string()).boxed())
        }
        (None, Err(error)) => Err(OpenError::from(error).boxed()),
    }
}

/// A record in one line, without anything that a person has written.
pub(super) struct RecordLine<'a>(pub(super) &'a LogRecord);

impl RecordLine<'_> {
    pub(super) const HEADINGS: &'static str = "offset      time                      epoch  change           conversation          \
         sender      client_msg_id                     body";
}

impl fmt::Display for RecordLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (offset, time) = (self.0.offset.0, utc(self.0.timestamp_ms));
        let Some(record) = readable(self.0) else {
            let len = self.0.payload.len();
            return write!(f, "{offset:<10}  {time:<24}  unreadable, {len} bytes");
        };
        let epoch = record.written_in_epoch.map_or_else(dash, |epoch| epoch.to_string());
        let facts = record.change.as_ref().map_or_else(Facts::default, Facts::of);
        let conversation = facts.conversation.map_or_else(dash, |id| id.to_string());
        let sender = facts.sender.map_or_else(dash, |user| user.to_string());
        let id = facts.client_msg_id.map_or_else(dash, |id| id.to_string());
        let body = facts.body.map_or_else(dash, |len| len.to_string());
        write!(
            f,
            "{offset:<10}  {time:<24}  {epoch:<5}  {:<15}  {conversation:<20}  {sender:<10}  \
             {id:<32}  {body}",
            facts.change
        )
    }
}

fn dash() -> String {
    "-".to_owned()
}

/// A time of the log, in UTC.
fn utc(timestamp_ms: u64) -> String {
    let time = i64::try_from(timestamp_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{timestamp_ms} ms"), |time| format!("{time:.3}"))
}

/// What may be said of a change.
#[derive(Debug, Default)]
struct Facts {
    change: &'static str,
    conversation: Option<ConversationId>,
    /// The user that asked for it.
    sender: Option<u32>,
    client_msg_id: Option<ClientMsgId>,
    /// The length of what was written.
    body: Option<usize>,
}

impl Facts {
    fn of(change: &Change) -> Self {
        let group = |number| ConversationId::group(GroupId(number));
        let (change, conversation, sender) = match change {
            Change::Message(message) => {
                return Self {
                    change: "message",
                    conversation: ConversationId::from_number(message.conversation),
                    sender: Some(message.sender),
                    client_msg_id: ClientMsgId::from_slice(&message.client_msg_id),
                    body: Some(message.body.len()),
                };
            }
            Change::GroupCreated(it) => ("group_created", group(it.group), Some(it.creator)),
            Change::MembersChanged(it) if it.deleted() => {
                ("group_deleted", group(it.group), Some(it.actor))
            }
            Change::MembersChanged(it) => ("members_changed", group(it.group), Some(it.actor)),
            Change::Read(it) => {
                ("read", ConversationId::from_number(it.conversation), Some(it.user))
            }
            Change::SessionRemoved(it) => {
                ("session_removed", ConversationId::from_number(it.conversation), Some(it.user))
            }
            Change::Shield(it) => {
                ("shield", ConversationId::from_number(it.conversation), Some(it.user))
            }
            Change::Epoch(_) => ("epoch", None, None),
            Change::FoldVersion(_) => ("fold_version", None, None),
        };
        Self { change, conversation, sender, ..Self::default() }
    }
}

/// The record, if the fold can make sense of it.
fn readable(record: &LogRecord) -> Option<Record> {
    let decoded = Record::decode(record.payload.clone()).ok()?;
    let makes_sense = match decoded.change.as_ref()? {
        Change::Epoch(_) | Change::FoldVersion(_) => true,
        Change::Message(message) => {
            Fold::needs(&decoded).is_some()
                && ClientMsgId::from_slice(&message.client_msg_id).is_some()
        }
        _ => Fold::needs(&decoded).is_some(),
    };
    makes_sense.then_some(decoded)
}

/// What all records have to keep to.
#[derive(Debug)]
pub(super) struct Check {
    applied: Offset,
    /// The checksum of the record that the store has applied last.
    pub(super) crc_of_applied: Option<u32>,
    bytes: u64,
    /// The times of the oldest and the newest record.
    times: Option<(u64, u64)>,
    /// The epoch and the time of the record before.
    last_of: Option<(u64, u64)>,
    /// The first record that is older than the one of the same owner before it.
    fell: Option<Offset>,
    first_epoch: Option<u64>,
    epoch: u64,
    zombies: u64,
    unreadable: u64,
}

impl Check {
    pub(super) fn new(applied: Offset) -> Self {
        Self {
            applied,
            crc_of_applied: None,
            bytes: 0,
            times: None,
            last_of: None,
            fell: None,
            first_epoch: None,
            epoch: 0,
            zombies: 0,
            unreadable: 0,
        }
    }

    /// Takes the next record.
    pub(super) fn record(&mut self, record: &LogRecord) {
        self.bytes += record.payload.len() as u64;
        if record.offset == self.applied {
            self.crc_of_applied = Some(record.crc);
        }
        let now = record.timestamp_ms;
        let (first, last) = self.times.unwrap_or((now, now));
        self.times = Some((first.min(now), last.max(now)));
        let decoded = readable(record);
        // Another owner's clock may have been another one.
        let owner =
            decoded.as_ref().map_or(self.epoch, |record| record.written_in_epoch.unwrap_or(0));
        let (before, then) = self.last_of.replace((owner, now)).unwrap_or((owner, now));
        if before == owner && now < then {
            self.fell.get_or_insert(record.offset);
        }
        let Some(decoded) = decoded else {
            self.unreadable += 1;
            return;
        };
        let Some(mut epoch) = decoded.written_in_epoch else { return };
        if epoch < self.epoch {
            self.zombies += 1;
            return;
        }
        if let Some(Change::Epoch(begun)) = decoded.change {
            epoch = epoch.max(begun.epoch);
        }
        self.first_epoch.get_or_insert(epoch);
        self.epoch = epoch;
    }

    pub(super) fn is_fine(&self) -> bool {
        self.fell.is_none()
    }

    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "payloads    {} bytes", self.bytes)?;
        if let Some((first, last)) = self.times {
            writeln!(out, "time        {} to {}", utc(first), utc(last))?;
        }
        if let Some(offset) = self.fell {
            writeln!(out, "time        WRONG: falls at offset {}", offset.0)?;
        }
        if let Some(first) = self.first_epoch {
            writeln!(out, "epochs      {first} to {}", self.epoch)?;
        }
        writeln!(out, "zombies     {} records of owners that were none any more", self.zombies)?;
        writeln!(out, "unreadable  {} records, which the fold leaves out", self.unreadable)
    }
}
