//! What a run is made of: one event per line of JSON.
//!
//! # Invariants
//!
//! - [`Event::at`] is given out by one [`Recorder`](super::Recorder): of two events, the one with
//!   the lower number was written down first. An invocation is written down before anything is
//!   sent and an answer after it has come, so what the numbers put in order really had that order.
//! - A message is named by its [`Mid`], and no two of a run have the same. Old clients have no ids
//!   of their own, and histories do not show ids: there a message is known by its conversation, its
//!   sender and its [`Sha`], and the same words twice are two messages that look alike.

use std::io::{self, BufRead, Write};

use serde::de::Error as _;
use serde::{Deserialize, Serialize};

pub use super::names::{Conv, Mid, Sha};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its place among all events of the run.
    pub at: u64,
    /// Microseconds since the run began.
    pub us: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// A message as a device received it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Whose device it is.
    pub user: u32,
    /// Which of the user's devices.
    pub device: u32,
    /// Where it was said.
    pub conv: Conv,
    /// Its place there.
    pub msg_id: u32,
    /// Who said it.
    pub sender: u32,
    /// What was said.
    pub sha: Sha,
    /// The sender's id for it, where shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mid: Option<Mid>,
    /// When the server took it, in unix seconds, where shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<u32>,
}

/// A message in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its place.
    pub msg_id: u32,
    /// Who said it.
    pub sender: u32,
    /// What was said.
    pub sha: Sha,
    /// The sender's id for it, where shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mid: Option<Mid>,
    /// When the server took it, in unix seconds, where shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<u32>,
}

/// The classes of devices, of which a user has one seat each (TeamTalk protocol, client types).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Windows, Mac.
    Pc,
    /// iOS, Android.
    Mobile,
}

/// The states of a device's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Connection {
    /// About to log in.
    Connecting,
    /// Logged in.
    Connected,
    /// Has read what it missed: from here on, pushes alone keep it complete.
    Synced,
    /// Gone.
    Disconnected,
}

/// Whether a fault begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// From here on it may disturb.
    Start,
    /// From here on it does not.
    End,
}

/// What happens to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The user becomes a member.
    Add,
    /// The user is no longer a member.
    Remove,
}

impl Change {
    /// What takes it back.
    pub const fn opposite(self) -> Self {
        match self {
            Self::Add => Self::Remove,
            Self::Remove => Self::Add,
        }
    }
}

/// How far a change of members is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// It is about to be asked for.
    Invoke,
    /// It is done.
    Ok,
    /// Not known.
    Info,
    /// It was certainly not done.
    Fail,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event")]
pub enum What {
    /// A device is about to say something.
    #[serde(rename = "send.invoke")]
    Invoke {
        /// The user who says it.
        user: u32,
        /// On which device.
        device: u32,
        /// Where.
        conv: Conv,
        /// Its name.
        mid: Mid,
        /// Counts what this device says here, from 1.
        idx: u32,
        /// What it said here before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prev: Option<Mid>,
        /// What it says.
        sha: Sha,
        /// Whether the client gives it no name, so that others are shown one of the server's.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unnamed: bool,
    },
    /// It is stored, the server says.
    #[serde(rename = "send.ok")]
    Ok {
        /// Its name.
        mid: Mid,
        /// Its place.
        msg_id: u32,
        /// When the server took it, in unix seconds, where the answer says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time: Option<u32>,
    },
    /// What became of it is not known.
    #[serde(rename = "send.info")]
    Info {
        /// Its name.
        mid: Mid,
    },
    /// It is certainly not stored, the server says.
    #[serde(rename = "send.fail")]
    Fail {
        /// Its name.
        mid: Mid,
        /// Why.
        code: u32,
    },
    /// A device was told a message unasked.
    #[serde(rename = "push")]
    Push(Delivery),
    /// A message came on the connection of a client that keeps its contract, which puts in order and
    /// fetches what is missing before it hands anything out.
    #[serde(rename = "wire")]
    Wire(Delivery),
    /// A client that keeps its contract handed a message out: the next one, once, in order.
    #[serde(rename = "shown")]
    Shown(Delivery),
    /// Such a client passed numbers that it says are not for this user.
    #[serde(rename = "skipped")]
    Skipped {
        /// Whose device it is.
        user: u32,
        /// Which of the user's devices.
        device: u32,
        /// Where.
        conv: Conv,
        /// The first of them.
        first: u32,
        /// The last of them.
        last: u32,
    },
    /// A device has read a piece of history, and takes it for everything from `from` to
    /// `complete_upto`.
    #[serde(rename = "pull")]
    Pull {
        /// Whose device it is.
        user: u32,
        /// Which of the user's devices.
        device: u32,
        /// Where.
        conv: Conv,
        /// The first number that it covers.
        from: u32,
        /// The last number that it covers.
        complete_upto: u32,
        /// The event before which it was not asked yet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asked: Option<u64>,
        /// Whether it reaches to the newest message there was.
        #[serde(default)]
        to_head: bool,
        /// What came.
        rows: Vec<Row>,
    },
    /// A device takes everything up to here for known. The first one of a device may be above what
    /// it has seen: there it begins.
    #[serde(rename = "watermark")]
    Watermark {
        /// Whose device it is.
        user: u32,
        /// Which of the user's devices.
        device: u32,
        /// Where.
        conv: Conv,
        /// The last number of the run without a hole.
        upto: u32,
    },
    /// What a device has in the end.
    #[serde(rename = "final")]
    Final {
        /// Whose device it is.
        user: u32,
        /// Which of the user's devices.
        device: u32,
        /// Where.
        conv: Conv,
        /// First and last number of each run without a hole.
        has: Vec<(u32, u32)>,
    },
    /// A fault begins or ends.
    #[serde(rename = "nemesis")]
    Nemesis {
        /// Which fault.
        what: String,
        /// To whom.
        target: String,
        /// Which of the two.
        phase: Phase,
        /// How often it really happened, counted at the target; told at the end.
        #[serde(default)]
        fired: u64,
    },
    /// A user is a member from one number to another, both included.
    #[serde(rename = "member")]
    Member {
        /// Of which group.
        conv: Conv,
        /// Who.
        user: u32,
        /// The first number that is for the user.
        join: u32,
        /// The last one, if the user has left.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        leave: Option<u32>,
    },
    /// A device is told that members came or went.
    #[serde(rename = "member.told")]
    MembersTold {
        /// Whose device it is.
        user: u32,
        /// Which of the user's devices.
        device: u32,
        /// Of which group.
        conv: Conv,
        /// What happened.
        change: Change,
        /// The users to whom it happened.
        who: Vec<u32>,
    },
    /// Members are being changed; where between the messages follows from what was said before and
    /// after. Changes of one user in one group follow one another.
    #[serde(rename = "member.change")]
    Change {
        /// Of which group.
        conv: Conv,
        /// Who.
        user: u32,
        /// What happens to the user.
        change: Change,
        /// How far it is.
        phase: Progress,
        /// The device that asks for it, and so is not told of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<(u32, u32)>,
    },
    /// The history of a conversation as it was in the end.
    #[serde(rename = "stored")]
    Stored {
        /// Where.
        conv: Conv,
        /// The first number that the reader may see.
        #[serde(default = "one")]
        from: u32,
        /// All of it.
        rows: Vec<Row>,
    },
    /// A user has read everything up to here: about to be said (`invoke`), or known to be kept
    /// (`ok`).
    #[serde(rename = "mark")]
    Mark {
        /// Who.
        user: u32,
        /// Where.
        conv: Conv,
        /// Up to where.
        upto: u32,
        /// How far it is.
        phase: Progress,
    },
    /// A device is told that its user has read something elsewhere.
    #[serde(rename = "mark.told")]
    MarkTold {
        /// Whose device it is.
        user: u32,
        /// Which of the user's devices.
        device: u32,
        /// Where.
        conv: Conv,
        /// Up to where.
        upto: u32,
    },
    /// A device is told whether a user's PC is online, unasked or because it asked.
    #[serde(rename = "presence")]
    Presence {
        /// Whose device it is.
        user: u32,
        /// Which of the user's devices.
        device: u32,
        /// The user whose state is told.
        who: u32,
        /// Whether that user is.
        online: bool,
    },
    /// What the server makes of a conversation for a user, in the end.
    #[serde(rename = "derived")]
    Derived {
        /// Who.
        user: u32,
        /// Where.
        conv: Conv,
        /// How many messages are unread.
        unread: u32,
        /// The newest number.
        head: u32,
    },
    /// A device's connection changed.
    #[serde(rename = "session")]
    Session {
        /// Whose device it is.
        user: u32,
        /// Which of the user's devices.
        device: u32,
        /// To what.
        state: Connection,
        /// Which class of devices it is one of, where that matters.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class: Option<Class>,
    },
    /// A device is told that another one has taken its seat.
    #[serde(rename = "kicked")]
    Kicked {
        /// Whose device it is.
        user: u32,
        /// Which of the user's devices.
        device: u32,
    },
    /// Something to be counted happened this often since the last time.
    #[serde(rename = "counters")]
    Counters {
        /// Messages that had to be sent again.
        #[serde(default)]
        retries: u64,
        /// Messages that a device had missed and fetched.
        #[serde(default)]
        repairs: u64,
    },
}

/// A line that is no event.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {source}")]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    #[source]
    pub source: io::Error,
}

impl What {
    /// The conversation that it is about, where it says so.
    pub const fn conv(&self) -> Option<Conv> {
        match self {
            Self::Push(Delivery { conv, .. })
            | Self::Shown(Delivery { conv, .. })
            | Self::Wire(Delivery { conv, .. })
            | Self::Invoke { conv, .. }
            | Self::Skipped { conv, .. }
            | Self::Pull { conv, .. }
            | Self::Watermark { conv, .. }
            | Self::Final { conv, .. }
            | Self::Member { conv, .. }
            | Self::Change { conv, .. }
            | Self::Stored { conv, .. }
            | Self::Mark { conv, .. }
            | Self::MarkTold { conv, .. }
            | Self::MembersTold { conv, .. }
            | Self::Derived { conv, .. } => Some(*conv),
            Self::Ok { .. }
            | Self::Info { .. }
            | Self::Fail { .. }
            | Self::Nemesis { .. }
            | Self::Session { .. }
            | Self::Kicked { .. }
            | Self::Presence { .. }
            | Self::Counters { .. } => None,
        }
    }

    /// The message whose outcome it is.
    pub const fn outcome_of(&self) -> Option<Mid> {
        match self {
            Self::Ok { mid, .. } | Self::Info { mid } | Self::Fail { mid, .. } => Some(*mid),
            _ => None,
        }
    }

    /// The messages in it.
    pub const fn rows_mut(&mut self) -> Option<&mut Vec<Row>> {
        match self {
            Self::Pull { rows, .. } | Self::Stored { rows, .. } => Some(rows),
            _ => None,
        }
    }
}

const fn one() -> u32 {
    1
}

/// Writes one line.
pub fn write_line(to: &mut impl Write, event: &Event) -> io::Result<()> {
    serde_json::to_writer(&mut *to, event)?;
    to.write_all(b"\n")
}

/// Reads all lines, which must be in the order of [`Event::at`]. Empty ones are passed over.
pub fn read_lines(mut from: impl BufRead) -> Result<Vec<Event>, BadLine> {
    let mut events: Vec<Event> = Vec::new();
    let mut text = String::new();
    for line in 1.. {
        let bad = |source| BadLine { line, source };
        text.clear();
        if from.read_line(&mut text).map_err(bad)? == 0 {
            break;
        }
        if text.trim().is_empty() {
            continue;
        }
        let event: Event = serde_json::from_str(&text).map_err(|error| bad(error.into()))?;
        if events.last().is_some_and(|last| last.at >= event.at) {
            let error = serde_json::Error::custom("`at` does not rise");
            return Err(bad(error.into()));
        }
        events.push(event);
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(what: What) -> Event {
        Event { at: 7, us: 1_000_000, what }
    }

    #[test]
    fn an_event_is_one_line_with_its_fields_side_by_side() {
        let mut line = Vec::new();
        let (mid, sha) = (Mid([1; 16]), Sha([2; 16]));
        let push = Delivery {
            user: 1,
            device: 2,
            conv: Conv::single(3, 1),
            msg_id: 9,
            sender: 3,
            sha,
            mid: Some(mid),
            time: None,
        };
        write_line(&mut line, &event(What::Push(push))).unwrap();
        let expected = concat!(
            r#"{"at":7,"us":1000000,"event":"push","user":1,"device":2,"conv":"single:1-3","#,
            r#""msg_id":9,"sender":3,"sha":"02020202020202020202020202020202","#,
            r#""mid":"01010101010101010101010101010101"}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(line.clone()).unwrap(), expected);
        assert_eq!(read_lines(&line[..]).unwrap(), [event(What::Push(push))]);
    }

    #[test]
    fn whatever_is_written_is_read_back() {
        let events = crate::history::generate(2_000, 3);
        let mut lines = Vec::new();
        for event in &events {
            write_line(&mut lines, event).unwrap();
        }
        assert_eq!(read_lines(&lines[..]).unwrap(), events);
    }

    #[test]
    fn a_bad_line_is_named() {
        let good = r#"{"at":1,"us":0,"event":"counters","retries":2}"#;
        for bad in [
            "{",
            r#"{"at":2,"us":0,"event":"counted"}"#,
            r#"{"at":1,"us":0,"event":"counters"}"#,
            r#"{"at":2,"us":0,"event":"member","conv":"group:0","user":1,"join":1}"#,
            r#"{"at":2,"us":0,"event":"send.info","mid":"0102"}"#,
        ] {
            let error = read_lines(format!("{good}\n\n{bad}\n").as_bytes()).unwrap_err();
            assert_eq!(error.line, 3, "{bad}: {error}");
        }
    }
}
