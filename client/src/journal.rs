//! Saves messages before they are sent for the first time, without holding up the engine.
//!
//! The outbox may block, so it works on a thread of the blocking pool, one job at a time. What comes
//! in meanwhile is one job together: one flush for many messages. Its length is bounded by the
//! room that each message takes in the client ([`crate::Limits::unanswered_max`]).

use std::io;

use proto::ids::ClientMsgId;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::outbox::{Outbox, Unsent};
use crate::outgoing::Entry;

/// The way of every message from the program to [`Outgoing`](crate::outgoing::Outgoing).
#[derive(Default)]
pub(crate) struct Journal {
    /// None while a job has it, and always if there is none.
    outbox: Option<Box<dyn Outbox>>,
    job: Option<Job>,
    /// What waits for the next job.
    new: Vec<Entry>,
    done: Vec<ClientMsgId>,
    has_outbox: bool,
}

struct Job {
    entries: Vec<Entry>,
    work: JoinHandle<(Box<dyn Outbox>, io::Result<()>)>,
}

/// Messages that a job tried to save.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) entries: Vec<Entry>,
    /// Whether they are safe. If not, they must not be sent.
    pub(crate) result: io::Result<()>,
}

impl Journal {
    /// Without an outbox everything passes through.
    pub(crate) fn new(outbox: Option<Box<dyn Outbox>>) -> Self {
        Self { has_outbox: outbox.is_some(), outbox, ..Self::default() }
    }

    /// Takes a message in. Returns it if there is no outbox and it may be sent at once.
    pub(crate) fn save(&mut self, entry: Entry) -> Option<Entry> {
        if !self.has_outbox {
            return Some(entry);
        }
        self.new.push(entry);
        self.start();
        None
    }

    /// The message has its outcome.
    pub(crate) fn remove(&mut self, id: ClientMsgId) {
        if self.has_outbox {
            self.done.push(id);
            self.start();
        }
    }

    /// Waits until messages have been saved, or could not be; for ever if none are to be.
    /// Cancel-safe.
    pub(crate) async fn next(&mut self) -> Saved {
        let Some(job) = &mut self.job else {
            return std::future::pending().await;
        };
        let worked = (&mut job.work).await;
        let entries = self.job.take().map(|job| job.entries).unwrap_or_default();
        let result = match worked {
            Ok((outbox, result)) => {
                self.outbox = Some(outbox);
                result
            }
            Err(error) => {
                self.outbox = Some(Box::new(NoOutbox));
                Err(io::Error::other(error))
            }
        };
        self.start();
        Saved { entries, result }
    }

    /// Waits until everything that has its outcome is removed, as the last act.
    pub(crate) async fn finish(mut self) {
        while self.job.is_some() {
            drop(self.next().await);
        }
    }

    fn start(&mut self) {
        if self.job.is_some() || (self.new.is_empty() && self.done.is_empty()) {
            return;
        }
        let Some(mut outbox) = self.outbox.take() else { return };
        let entries = std::mem::take(&mut self.new);
        let done = std::mem::take(&mut self.done);
        let messages: Vec<Unsent> = entries.iter().map(|entry| entry.unsent.clone()).collect();
        let work = spawn_blocking(move || {
            let saved = if messages.is_empty() { Ok(()) } else { outbox.save(&messages) };
            if !done.is_empty()
                && let Err(error) = outbox.remove(&done)
            {
                // They are sent once more after a restart, and the server recognises them.
                tracing::warn!(%error, "cannot remove answered messages from the outbox");
            }
            (outbox, saved)
        });
        self.job = Some(Job { entries, work });
    }
}

/// Takes the place of an outbox that panicked: nothing can be saved any more.
struct NoOutbox;

impl Outbox for NoOutbox {
    fn load(&mut self) -> io::Result<Vec<Unsent>> {
        Ok(Vec::new())
    }

    fn save(&mut self, _messages: &[Unsent]) -> io::Result<()> {
        Err(io::Error::other("the outbox is gone"))
    }

    fn remove(&mut self, _ids: &[ClientMsgId]) -> io::Result<()> {
        Ok(())
    }
}
