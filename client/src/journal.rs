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

/// Takes the place of an outbox that panicked: from then on nothing can be saved.
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use bytes::Bytes;

    use super::*;
    use crate::message::{Conversation, Kind};
    use crate::outgoing::Ticket;

    /// What an outbox was told, and what it is to answer.
    struct Told {
        calls: Receiver<String>,
        answers: Sender<Answer>,
    }

    enum Answer {
        Fine,
        Fails,
        Panics,
    }

    /// Does what the test says, when it says so.
    struct Played {
        calls: Sender<String>,
        answers: Receiver<Answer>,
    }

    impl Played {
        fn new() -> (Box<Self>, Told) {
            let ((calls, told), (answers, answered)) = (channel(), channel());
            (Box::new(Self { calls, answers: answered }), Told { calls: told, answers })
        }

        fn call(&self, what: String) -> io::Result<()> {
            self.calls.send(what).unwrap();
            match self.answers.recv().unwrap() {
                Answer::Fine => Ok(()),
                Answer::Fails => Err(io::Error::other("on purpose")),
                Answer::Panics => std::panic::panic_any("on purpose"),
            }
        }
    }

    impl Outbox for Played {
        fn load(&mut self) -> io::Result<Vec<Unsent>> {
            Ok(Vec::new())
        }

        fn save(&mut self, messages: &[Unsent]) -> io::Result<()> {
            let numbers: Vec<_> = messages.iter().map(|message| message.id.0[0]).collect();
            self.call(format!("save {numbers:?}"))
        }

        fn remove(&mut self, ids: &[ClientMsgId]) -> io::Result<()> {
            let numbers: Vec<_> = ids.iter().map(|id| id.0[0]).collect();
            self.call(format!("remove {numbers:?}"))
        }
    }

    fn entry(number: u8) -> Entry {
        let (conversation, data) = (Conversation::user(2), Bytes::new());
        let unsent = Unsent { id: ClientMsgId([number; 16]), conversation, kind: Kind::Text, data };
        Entry::new(unsent, Ticket::default())
    }

    /// The numbers of what was saved, and whether that went well.
    async fn saved(journal: &mut Journal) -> (Vec<u8>, bool) {
        let Saved { entries, result } = journal.next().await;
        (entries.iter().map(|entry| entry.unsent.id.0[0]).collect(), result.is_ok())
    }

    #[tokio::test]
    async fn without_an_outbox_everything_passes_through() {
        let mut journal = Journal::new(None);
        assert_eq!(journal.save(entry(1)).unwrap().unsent, entry(1).unsent);
        journal.remove(entry(1).unsent.id);
        {
            let next = std::pin::pin!(journal.next());
            assert!(futures_util::poll!(next).is_pending());
        }
        journal.finish().await;
    }

    #[tokio::test]
    async fn what_comes_in_while_the_outbox_works_is_one_job_together() {
        let (outbox, told) = Played::new();
        let mut journal = Journal::new(Some(outbox));
        assert!(journal.save(entry(1)).is_none(), "it must not be sent yet");
        for number in [2, 3] {
            assert!(journal.save(entry(number)).is_none());
        }
        journal.remove(entry(9).unsent.id);
        told.answers.send(Answer::Fine).unwrap();
        assert_eq!(saved(&mut journal).await, (vec![1], true));
        for _call in 0..2 {
            told.answers.send(Answer::Fine).unwrap();
        }
        assert_eq!(saved(&mut journal).await, (vec![2, 3], true));
        let calls: Vec<_> = told.calls.try_iter().collect();
        assert_eq!(calls, ["save [1]", "save [2, 3]", "remove [9]"]);
    }

    #[tokio::test]
    async fn what_could_not_be_saved_is_told_and_what_could_not_be_removed_is_not() {
        let (outbox, told) = Played::new();
        let mut journal = Journal::new(Some(outbox));
        assert!(journal.save(entry(1)).is_none());
        told.answers.send(Answer::Fails).unwrap();
        assert_eq!(saved(&mut journal).await, (vec![1], false));
        journal.remove(entry(1).unsent.id);
        told.answers.send(Answer::Fails).unwrap();
        assert_eq!(saved(&mut journal).await, (vec![], true));
        assert!(journal.save(entry(2)).is_none());
        told.answers.send(Answer::Fine).unwrap();
        assert_eq!(saved(&mut journal).await, (vec![2], true), "the outbox is still there");
    }

    #[tokio::test]
    async fn after_a_panic_of_the_outbox_nothing_is_safe() {
        let (outbox, told) = Played::new();
        let mut journal = Journal::new(Some(outbox));
        assert!(journal.save(entry(1)).is_none());
        assert!(journal.save(entry(2)).is_none());
        told.answers.send(Answer::Panics).unwrap();
        assert_eq!(saved(&mut journal).await, (vec![1], false));
        assert_eq!(saved(&mut journal).await, (vec![2], false));
        assert!(journal.save(entry(3)).is_none(), "it is not sent unsaved");
        assert_eq!(saved(&mut journal).await, (vec![3], false));
    }

    #[tokio::test]
    async fn at_the_end_everything_is_saved_and_removed_first() {
        let (outbox, told) = Played::new();
        let mut journal = Journal::new(Some(outbox));
        assert!(journal.save(entry(1)).is_none());
        assert!(journal.save(entry(2)).is_none());
        journal.remove(entry(8).unsent.id);
        for _call in 0..3 {
            told.answers.send(Answer::Fine).unwrap();
        }
        journal.finish().await;
        let calls: Vec<_> = told.calls.try_iter().collect();
        assert_eq!(calls, ["save [1]", "save [2]", "remove [8]"]);
    }
}
