//! What is to be sent and has no answer yet, in the order in which it must reach the server.
//!
//! Pure: no socket, no clock, no task; time enters as an argument.
//!
//! Each conversation is a lane. The front of a lane has been sent on this connection, the rest has
//! not. When one message must be sent again, everything behind it in its lane goes back with it, so
//! that the server never gets a message before one that was handed in earlier.
//!
//! # Invariants
//!
//! - A message leaves only with an outcome; until then every try carries the same id.
//! - Within a lane, messages are sent in the order in which they were handed in, on every
//!   connection anew.
//! - Every try but the first is marked `resend`.
//! - At most `window` messages are counted as sent and unanswered: a gateway stops reading a
//!   connection that has more.

use std::collections::{HashMap, VecDeque};

use proto::ids::ClientMsgId;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::message::{Conversation, Draft, Outcome};
use crate::outbox::Unsent;

/// What waits for the outcome of a message, and the room that the message takes until then.
#[derive(Debug, Default)]
pub(crate) struct Ticket {
    pub(crate) answer: Option<oneshot::Sender<Outcome>>,
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// A message without an outcome.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) unsent: Unsent,
    pub(crate) ticket: Ticket,
    /// Whether it may have reached a server before.
    was_tried: bool,
    /// How often it was sent since the program started.
    tries: u32,
    /// The seq of the try that is under way.
    seq: Option<u16>,
}

/// All messages without an outcome.
#[derive(Debug)]
pub(crate) struct Outgoing {
    lanes: HashMap<Conversation, Lane>,
    conversations: HashMap<ClientMsgId, Conversation>,
    /// Lanes that may have something to send, in turn.
    ready: VecDeque<Conversation>,
    in_flight: usize,
    window: usize,
    backoff: Backoff,
}

#[derive(Debug, Default)]
struct Lane {
    entries: VecDeque<Entry>,
    /// How many from the front have been sent and have no answer.
    sent: usize,
    /// Failures since the front of the lane moved last.
    failures: u32,
    paused_until: Option<Instant>,
    is_ready: bool,
}

impl Entry {
    pub(crate) const fn new(unsent: Unsent, ticket: Ticket) -> Self {
        Self { unsent, ticket, was_tried: false, tries: 0, seq: None }
    }

    /// A message that an earlier run of the program left behind.
    pub(crate) fn left_behind(unsent: Unsent) -> Self {
        Self { was_tried: true, ..Self::new(unsent, Ticket::default()) }
    }
}

impl Outgoing {
    pub(crate) fn new(window: usize, backoff: Backoff) -> Self {
        Self {
            lanes: HashMap::new(),
            conversations: HashMap::new(),
            ready: VecDeque::new(),
            in_flight: 0,
            window,
            backoff,
        }
    }

    /// Takes in a message, behind those of its conversation that are here already.
    pub(crate) fn push(&mut self, entry: Entry) {
        let conversation = entry.unsent.conversation;
        self.conversations.insert(entry.unsent.id, conversation);
        self.lanes.entry(conversation).or_default().entries.push_back(entry);
        self.make_ready(conversation);
    }

    /// Returns the next message to send, under `seq`. It counts as sent.
    pub(crate) fn next(&mut self, now: Instant, seq: u16) -> Option<Draft> {
        while self.in_flight < self.window {
            let conversation = self.ready.pop_front()?;
            let Some(lane) = self.lanes.get_mut(&conversation) else { continue };
            lane.is_ready = false;
            if lane.paused_until.is_some_and(|until| until > now) {
                continue; // The engine's timer calls `wake`.
            }
            lane.paused_until = None;
            let Some(entry) = lane.entries.get_mut(lane.sent) else { continue };
            let draft = entry.start_try(seq);
            lane.sent += 1;
            self.in_flight += 1;
            self.make_ready(conversation);
            return Some(draft);
        }
        None
    }

    /// Whether [`Outgoing::next`] may have something.
    pub(crate) fn may_send(&self) -> bool {
        self.in_flight < self.window && !self.ready.is_empty()
    }

    /// How often the message was sent since the program started.
    pub(crate) fn tries(&self, id: ClientMsgId) -> u32 {
        self.find(id).map_or(0, |(_, entry)| entry.tries)
    }

    /// Takes out a message that has an outcome; `None` if it has left before.
    pub(crate) fn take(&mut self, id: ClientMsgId) -> Option<Entry> {
        let (index, _) = self.find(id)?;
        let conversation = self.conversations.remove(&id)?;
        let lane = self.lanes.get_mut(&conversation)?;
        let entry = lane.entries.remove(index);
        if index < lane.sent {
            lane.sent -= 1;
            self.in_flight -= 1;
        }
        if index == 0 {
            lane.failures = 0;
        }
        if lane.entries.is_empty() {
            self.lanes.remove(&conversation);
        }
        entry
    }

    /// The try with this seq did not lead to an outcome: this message, and all behind it in its
    /// lane, will be sent again after the time that is returned. `None` if that is settled already.
    pub(crate) fn retry(
        &mut self,
        id: ClientMsgId,
        seq: u16,
        now: Instant,
    ) -> Option<(Conversation, Instant)> {
        let (index, entry) = self.find(id)?;
        let conversation = entry.unsent.conversation;
        let is_this_try = entry.seq == Some(seq);
        let lane = self.lanes.get_mut(&conversation)?;
        if !is_this_try || index >= lane.sent {
            return None;
        }
        self.in_flight -= lane.sent - index;
        lane.sent = index;
        for entry in lane.entries.range_mut(index..) {
            entry.seq = None;
        }
        lane.failures = lane.failures.saturating_add(1);
        let until = now + self.backoff.wait(lane.failures);
        lane.paused_until = Some(until);
        Some((conversation, until))
    }

    /// A pause is over.
    pub(crate) fn wake(&mut self, conversation: Conversation) {
        self.make_ready(conversation);
    }

    /// The connection is gone: everything is to be sent again, in the original order.
    pub(crate) fn on_lost(&mut self) {
        self.in_flight = 0;
        let conversations: Vec<Conversation> = self.lanes.keys().copied().collect();
        for conversation in conversations {
            if let Some(lane) = self.lanes.get_mut(&conversation) {
                lane.sent = 0;
                lane.paused_until = None;
                for entry in &mut lane.entries {
                    entry.seq = None;
                }
            }
            self.make_ready(conversation);
        }
    }

    fn find(&self, id: ClientMsgId) -> Option<(usize, &Entry)> {
        let lane = self.lanes.get(self.conversations.get(&id)?)?;
        lane.entries.iter().enumerate().find(|(_, entry)| entry.unsent.id == id)
    }

    fn make_ready(&mut self, conversation: Conversation) {
        if let Some(lane) = self.lanes.get_mut(&conversation)
            && !lane.is_ready
            && lane.sent < lane.entries.len()
        {
            lane.is_ready = true;
            self.ready.push_back(conversation);
        }
    }
}

impl Entry {
    fn start_try(&mut self, seq: u16) -> Draft {
        let draft = Draft { resend: self.was_tried, ..self.unsent.draft() };
        self.was_tried = true;
        self.tries = self.tries.saturating_add(1);
        self.seq = Some(seq);
        draft
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::message::Kind;

    const ONE: Conversation = Conversation::user(1);
    const TWO: Conversation = Conversation::group(1);

    #[test]
    fn every_message_is_sent_once_and_in_order() {
        let mut outgoing = filled(&[(ONE, 1), (ONE, 2), (ONE, 3)]);
        assert_eq!(send_all(&mut outgoing, 1), ["1", "2", "3"]);
        assert_eq!(send_all(&mut outgoing, 9), [""; 0]);
    }

    #[test]
    fn conversations_take_turns() {
        let mut outgoing = filled(&[(ONE, 1), (ONE, 2), (ONE, 3), (TWO, 4), (TWO, 5)]);
        assert_eq!(send_all(&mut outgoing, 1), ["1", "4", "2", "5", "3"]);
    }

    #[test]
    fn no_more_is_under_way_than_the_window_allows() {
        let mut outgoing = Outgoing::new(2, BACKOFF);
        for number in 1..=4 {
            outgoing.push(entry(ONE, number));
        }
        assert_eq!(send_all(&mut outgoing, 1), ["1", "2"]);
        assert!(outgoing.take(id(2)).is_some());
        assert_eq!(send_all(&mut outgoing, 3), ["3"]);
    }

    #[test]
    fn a_lost_connection_sends_everything_unanswered_again_before_anything_new() {
        let mut outgoing = filled(&[(ONE, 1), (ONE, 2), (ONE, 3)]);
        send_all(&mut outgoing, 1);
        outgoing.take(id(2)).unwrap();
        outgoing.on_lost();
        outgoing.push(entry(ONE, 4));
        assert_eq!(send_all(&mut outgoing, 4), ["1 again", "3 again", "4"]);
    }

    #[test]
    fn a_retry_takes_those_behind_it_along_and_waits() {
        let now = Instant::now();
        let mut outgoing = filled(&[(ONE, 1), (ONE, 2), (ONE, 3), (TWO, 4)]);
        assert_eq!(send_all(&mut outgoing, 1), ["1", "4", "2", "3"]);
        let (conversation, until) = outgoing.retry(id(2), 3, now).unwrap();
        assert_eq!(conversation, ONE);
        // The others hear the same; the pause is not made longer for it.
        assert_eq!(outgoing.retry(id(3), 4, now), None);
        outgoing.push(entry(ONE, 5));
        assert_eq!(send_at(&mut outgoing, now, 5), [""; 0]);
        outgoing.wake(ONE);
        assert_eq!(send_at(&mut outgoing, until, 5), ["2 again", "3 again", "5"]);
        assert!(outgoing.take(id(1)).is_some());
    }

    #[test]
    fn a_late_word_about_an_earlier_try_does_not_matter_but_a_late_outcome_does() {
        let now = Instant::now();
        let mut outgoing = filled(&[(ONE, 1)]);
        send_all(&mut outgoing, 1);
        let (_, until) = outgoing.retry(id(1), 1, now).unwrap();
        outgoing.wake(ONE);
        assert_eq!(send_at(&mut outgoing, until, 2), ["1 again"]);
        assert_eq!(outgoing.retry(id(1), 1, now), None);
        assert!(outgoing.take(id(1)).is_some());
        assert!(outgoing.take(id(1)).is_none());
    }

    #[test]
    fn an_outcome_that_comes_during_the_pause_ends_the_matter() {
        let now = Instant::now();
        let mut outgoing = filled(&[(ONE, 1), (ONE, 2)]);
        send_all(&mut outgoing, 1);
        let (_, until) = outgoing.retry(id(1), 1, now).unwrap();
        assert!(outgoing.take(id(1)).is_some());
        outgoing.wake(ONE);
        assert_eq!(send_at(&mut outgoing, until, 3), ["2 again"]);
        assert!(outgoing.take(id(2)).is_some());
        assert_eq!(outgoing.in_flight, 0);
    }

    #[test]
    fn what_was_left_behind_may_have_been_sent() {
        let mut outgoing = Outgoing::new(32, BACKOFF);
        outgoing.push(Entry::left_behind(entry(ONE, 1).unsent));
        assert_eq!(send_all(&mut outgoing, 1), ["1 again"]);
    }

    #[test]
    fn each_failure_of_a_lane_doubles_its_pause_until_its_front_moves() {
        let mut now = Instant::now();
        let mut outgoing = filled(&[(ONE, 1), (ONE, 2)]);
        let mut pause = |outgoing: &mut Outgoing, number, seq| {
            send_at(outgoing, now, seq);
            let (_lane, until) = outgoing.retry(id(number), seq, now).unwrap();
            let pause = until - now;
            assert!(!outgoing.may_send(), "the lane is asleep");
            outgoing.wake(ONE);
            assert_eq!(send_at(outgoing, until - Duration::from_nanos(1), 99), [""; 0]);
            outgoing.wake(ONE);
            now = until;
            pause
        };
        for (seq, most) in [(1, 10), (10, 20), (20, 40)] {
            let pause = pause(&mut outgoing, 1, seq);
            let most = Duration::from_millis(most);
            assert!((most / 2..=most).contains(&pause), "{pause:?} of {most:?}");
        }
        assert_eq!(outgoing.tries(id(1)), 3);
        outgoing.take(id(1)).unwrap();
        assert!(pause(&mut outgoing, 2, 30) <= Duration::from_millis(10), "it begins anew");
        assert_eq!((outgoing.tries(id(1)), outgoing.tries(id(2))), (0, 4));
    }

    #[test]
    fn a_pause_holds_up_its_own_lane_only_and_ends_with_the_connection() {
        let now = Instant::now();
        let mut outgoing = filled(&[(ONE, 1), (TWO, 2)]);
        send_at(&mut outgoing, now, 1);
        outgoing.retry(id(1), 1, now).unwrap();
        outgoing.push(entry(TWO, 3));
        outgoing.push(entry(ONE, 4));
        assert_eq!(send_at(&mut outgoing, now, 5), ["3"]);
        outgoing.on_lost();
        let mut again = send_at(&mut outgoing, now, 10);
        again.sort();
        assert_eq!(again, ["1 again", "2 again", "3 again", "4"]);
    }

    #[test]
    fn an_outcome_for_one_that_is_not_under_way_frees_no_place() {
        let now = Instant::now();
        let mut outgoing = Outgoing::new(2, BACKOFF);
        for number in 1..=4 {
            outgoing.push(entry(ONE, number));
        }
        assert_eq!(send_at(&mut outgoing, now, 1), ["1", "2"]);
        // It was sent by an earlier connection, say, and its answer came late.
        assert!(outgoing.take(id(3)).is_some());
        assert_eq!(send_at(&mut outgoing, now, 3), [""; 0]);
        // A retry gives back the places of all that go back.
        outgoing.retry(id(1), 1, now).unwrap();
        assert_eq!(outgoing.in_flight, 0);
        outgoing.push(entry(TWO, 5));
        outgoing.push(entry(TWO, 6));
        outgoing.push(entry(TWO, 7));
        assert_eq!(send_at(&mut outgoing, now, 10), ["5", "6"]);
    }

    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));

    fn filled(messages: &[(Conversation, u8)]) -> Outgoing {
        let mut outgoing = Outgoing::new(32, BACKOFF);
        for &(conversation, number) in messages {
            outgoing.push(entry(conversation, number));
        }
        outgoing
    }

    fn entry(conversation: Conversation, number: u8) -> Entry {
        let data = Bytes::copy_from_slice(&[number]);
        let unsent = Unsent { id: id(number), conversation, kind: Kind::Text, data };
        Entry::new(unsent, Ticket::default())
    }

    fn id(number: u8) -> ClientMsgId {
        ClientMsgId([number; 16])
    }

    fn send_all(outgoing: &mut Outgoing, first_seq: u16) -> Vec<String> {
        send_at(outgoing, Instant::now(), first_seq)
    }

    fn send_at(outgoing: &mut Outgoing, now: Instant, first_seq: u16) -> Vec<String> {
        let mut sent = Vec::new();
        for seq in first_seq.. {
            let Some(draft) = outgoing.next(now, seq) else { break };
            let again = if draft.resend { " again" } else { "" };
            sent.push(format!("{}{again}", draft.data[0]));
        }
        sent
    }
}
