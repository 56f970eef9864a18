//! Answers that do not fit one frame: they are written as several, one after the other.
//!
//! No client takes a cut list for what it is. A page of history that is shorter than asked is the
//! beginning of the conversation to it, and a list of colleagues is all of them until the next login.
//! So everything that is asked for is told to its end, in frames that have the command and the seq of
//! the answer:
//!
//! | Client | What it does with a second frame | So |
//! |---|---|---|
//! | Windows | goes by the command, with the seq as a tag of what it asked | it takes every frame; of 0x0209 only one whose stamp differs from the one it has, and stamps rise |
//! | Android | the first frame under the seq is the answer; that seq waits for nothing from then on, and what comes under it is handled by its command, as a push is | it takes every frame; each is below 409,600 bytes |
//! | iOS, Mac | go by (service, command, seq), then by (service, command) | where that is taken, every frame is; where not, the first is, and it is one more with every request: see below |
//! | with the hello | knows that an answer may be cut, and asks on: below the last message, from the stamp that it was told, for what is missing | one frame, except of lists that have no place to ask on from |
//!
//! # Who takes one frame only
//!
//! iOS asks for all users twice when its store is empty, and for departments whenever the screen opens.
//! The same question on the same connection is answered with the same list, but beginning where the
//! first frame of the last answer ended, and with that beginning last ([`Begun`]). A client that takes
//! only the first frame of each answer has two frames of colleagues after one login that way, more than
//! 7,000 of them with picture and mail, and goes on at the next one from the stamp that it was told.
//!
//! # What bounds it
//!
//! A part is asked of storage when the one before is written: an answer takes the memory of one frame
//! here, however long it is. Nothing else is read from the client meanwhile. Pushes go out between the
//! parts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use db_client::owners::{ASK_LIMIT, Asked};
use parking_lot::Mutex;
use proto::cluster::wire::{Answer, AskStatus, Rest};
use proto::limits::{HEADER_LEN, LIMIT_TO_CLIENT};
use proto::{Frame, StorageCommand};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::client::closing::CloseReason;
use crate::client::outbox::Outbox;
use crate::commands::terms::Continuation;
use crate::parts::Parts;
use crate::sessions::session::Session;

/// How often a part is asked for that cannot be had. After that the client is closed: it would take
/// what it has for everything.
const TRIES_MAX: u32 = 5;

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// Parts of one answer at most; beyond, something goes in circles, and the client is closed. A page of
/// history has a thousand at most.
pub(crate) const PARTS_MAX: u32 = 10_000;

/// Where the first frames of answers ended that one client was given, of lists that clients ask for
/// again. At most one of each kind of list is kept.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    lists: Mutex<Vec<(StorageCommand, Bytes, Rest)>>,
}

impl Begun {
    /// Where the answer to a request begins; `None` if at the beginning.
    pub(crate) fn begins_at(&self, command: StorageCommand, body: &Bytes) -> Option<Rest> {
        let lists = self.lists.lock();
        let is_it =
            |(of, asked, _): &&(StorageCommand, Bytes, Rest)| *of == command && asked == body;
        lists.iter().find(is_it).map(|(_, _, rest)| *rest)
    }

    /// The first frame of an answer is written, and `rest` is left.
    pub(crate) fn told(&self, command: StorageCommand, body: &Bytes, rest: Option<Rest>) {
        let mut lists = self.lists.lock();
        lists.retain(|(of, _, _)| *of != command);
        lists.extend(rest.map(|rest| (command, body.clone(), rest)));
    }
}

/// What is to be told after a first frame.
struct Course {
    rest: Option<Rest>,
    /// Where the first frame began, if not at the beginning.
    began_at: Option<Rest>,
}

impl Course {
    /// What to ask for next.
    fn next(&mut self) -> Option<Rest> {
        self.rest.take().or_else(|| {
            let until = self.began_at.take()?;
            let (until_id, until_stamp) = (until.id, until.stamp);
            Some(Rest { until_id, until_stamp, ..Rest::default() })
        })
    }
}

/// The frame that a client gets, unless no client would take it.
pub(crate) fn reply(answer: &Answer, seq: u16) -> Option<Bytes> {
    let command = u16::try_from(answer.command?).ok()?;
    let body = answer.body.clone().unwrap_or_default();
    if HEADER_LEN.saturating_add(body.len()) > LIMIT_TO_CLIENT {
        warn!(command, len = body.len(), "an answer too long for clients");
        return None;
    }
    Some(Frame { command, seq, body }.encode())
}

/// Tells what is left of an answer after its first frame. `asked` is what that was asked with.
pub(crate) async fn go_on(
    parts: &Parts,
    session: &Session,
    asked: Asked,
    seq: u16,
    rest: Option<Rest>,
) {
    let mut course = Course { rest, began_at: asked.rest };
    for _part in 0..PARTS_MAX {
        let Some(next) = course.next() else { return };
        session.outbox.written().await;
        let asked = Asked { rest: Some(next), ..asked.clone() };
        let Some((answer, frame)) = part(parts, session, &asked, seq).await else {
            parts.metrics.asks_unanswered.inc();
            session.outbox.finish(None, CloseReason::MustSync);
            return;
        };
        parts.metrics.parts.inc();
        course.rest = answer.rest;
        session.outbox.answer(frame);
    }
    if course.next().is_some() {
        warn!(command = asked.command.command().name(), "an answer without an end");
        session.outbox.finish(None, CloseReason::MustSync);
    }
}

/// One part, asked for as often as it makes sense.
async fn part(
    parts: &Parts,
    session: &Session,
    asked: &Asked,
    seq: u16,
) -> Option<(Answer, Bytes)> {
    for tries in 1..=TRIES_MAX {
        let until = Instant::now() + ASK_LIMIT;
        let answer = parts.storage.ask(parts.asker(session), asked.clone(), until).await;
        match answer {
            Ok(answer) if answer.status() == AskStatus::Answered => {
                let frame = reply(&answer, seq)?;
                return Some((answer, frame));
            }
            Ok(answer) => debug!(status = ?answer.status(), tries, "a part is not answered"),
            Err(error) => debug!(%error, tries, "a part is not answered"),
        }
        sleep(PAUSE).await;
    }
    None
}

/// The memory of a connection for a list that original clients ask for again, made when it is needed
/// first.
pub(crate) fn begun(
    of: &mut Option<Arc<Begun>>,
    outbox: &Outbox,
    continuation: Continuation,
) -> Option<Arc<Begun>> {
    let is_kept = continuation == Continuation::AskedAgain && !outbox.is_extended();
    is_kept.then(|| Arc::clone(of.get_or_insert_with(Arc::default)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(id: u32) -> Rest {
        Rest { id: Some(id), stamp: Some(10 * id), ..Rest::default() }
    }

    #[test]
    fn the_same_list_asked_for_again_begins_where_the_first_frame_ended() {
        let (begun, zero, later) = (Begun::default(), Bytes::from("0"), Bytes::from("9"));
        let command = StorageCommand::AllUsersRequest;
        assert_eq!(begun.begins_at(command, &zero), None);
        begun.told(command, &zero, Some(rest(5)));
        begun.told(StorageCommand::DepartmentsRequest, &zero, Some(rest(7)));
        assert_eq!(begun.begins_at(command, &zero), Some(rest(5)));
        assert_eq!(begun.begins_at(command, &later), None, "asked with another stamp");
        begun.told(command, &zero, Some(rest(6)));
        assert_eq!(begun.begins_at(command, &zero), Some(rest(6)));
        begun.told(command, &zero, None);
        assert_eq!(begun.begins_at(command, &zero), None, "after the end comes the beginning");
        assert_eq!(begun.begins_at(StorageCommand::DepartmentsRequest, &zero), Some(rest(7)));
    }

    #[test]
    fn what_began_in_the_middle_comes_back_to_there() {
        let mut course = Course { rest: Some(rest(8)), began_at: Some(rest(5)) };
        assert_eq!(course.next(), Some(rest(8)));
        let before = course.next().expect("the beginning is told last");
        assert_eq!((before.id, before.until_id, before.until_stamp), (None, Some(5), Some(50)));
        course.rest = Some(rest(2));
        assert_eq!(course.next(), Some(rest(2)));
        assert_eq!(course.next(), None);
        assert_eq!(Course { rest: None, began_at: None }.next(), None);
    }
}
