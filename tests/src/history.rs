//! Everything that was said and seen, and whether it fits together.
//!
//! Senders report what they are about to say and what became of it, readers what they saw, and at
//! the end the histories come in. [`History::check`] then holds all of it against the promises:
//!
//! - **lost**: what was acknowledged is in the history, under the number that was acknowledged;
//! - **once**: nothing is there twice;
//! - **stable**: whoever saw `(conversation, msg_id)` saw the same message;
//! - **order**: what was acknowledged before something else was said has the lower number, and each
//!   sender's messages keep the order in which they were said;
//! - **dense**: the numbers of a conversation are 1, 2, 3 … without a hole;
//! - **no phantom**: what is there was said, and not refused.
//!
//! Bodies tell messages apart, since old histories carry no ids: no two may be equal.
//!
//! Pure. Everything takes O(n log n).

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use proto::client::MessageInfo;
use proto::ids::ConversationId;

/// A message, as its sender knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Said(usize);

#[derive(Debug)]
struct Message {
    sender: u32,
    conversation: ConversationId,
    body: Bytes,
    said_at: u64,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unknown,
    Acked { msg_id: u32, at: u64 },
    Refused,
}

/// What was seen somewhere: author and content.
type Seen = (u32, Bytes);

/// Everything that was said and seen.
#[derive(Debug, Default)]
pub struct History {
    /// Counts events: two events in one order here happened in that order.
    clock: u64,
    said: Vec<Message>,
    seen: HashMap<(ConversationId, u32), Seen>,
    stored: HashMap<ConversationId, BTreeMap<u32, Seen>>,
    wrong: Vec<String>,
}

impl History {
    /// A sender is about to say something. The body must be one that nobody else says.
    pub fn says(&mut self, sender: u32, conversation: ConversationId, body: Bytes) -> Said {
        self.clock += 1;
        let fate = Fate::Unknown;
        self.said.push(Message { sender, conversation, body, said_at: self.clock, fate });
        Said(self.said.len() - 1)
    }

    /// The server has acknowledged it.
    pub fn acked(&mut self, said: Said, msg_id: u32) {
        self.clock += 1;
        let message = &mut self.said[said.0];
        let (conversation, seen) = (message.conversation, (message.sender, message.body.clone()));
        message.fate = Fate::Acked { msg_id, at: self.clock };
        self.saw_content(conversation, msg_id, &seen);
    }

    /// The server has refused it.
    pub fn refused(&mut self, said: Said) {
        self.said[said.0].fate = Fate::Refused;
    }

    /// Somebody was shown a message.
    pub fn saw(&mut self, conversation: ConversationId, msg_id: u32, sender: u32, body: Bytes) {
        self.saw_content(conversation, msg_id, &(sender, body));
    }

    /// The whole history of a conversation, in any order.
    pub fn stored(&mut self, conversation: ConversationId, history: &[MessageInfo]) {
        let mut rows = BTreeMap::new();
        for info in history {
            let row = (info.from_user_id, info.msg_data.clone());
            self.saw_content(conversation, info.msg_id, &row);
            if rows.insert(info.msg_id, row).is_some() {
                self.wrong.push(format!("{conversation}: {} is listed twice", info.msg_id));
            }
        }
        self.stored.insert(conversation, rows);
    }

    /// How many messages were acknowledged.
    pub fn acked_count(&self) -> usize {
        self.said.iter().filter(|said| matches!(said.fate, Fate::Acked { .. })).count()
    }

    /// Everything that does not fit together, one line each.
    pub fn check(&self) -> Vec<String> {
        let mut wrong = self.wrong.clone();
        self.check_acked(&mut wrong);
        self.check_stored(&mut wrong);
        self.check_order(&mut wrong);
        wrong
    }

    fn saw_content(&mut self, conversation: ConversationId, msg_id: u32, seen: &Seen) {
        let place = (conversation, msg_id);
        let known = self.seen.entry(place).or_insert_with(|| seen.clone());
        if known != seen {
            let line = format!(
                "{conversation}: {msg_id} was {} and is {}",
                show(known.0, &known.1),
                show(seen.0, &seen.1)
            );
            self.wrong.push(line);
        }
    }

    /// Lost.
    fn check_acked(&self, wrong: &mut Vec<String>) {
        for said in &self.said {
            let Fate::Acked { msg_id, .. } = said.fate else { continue };
            let row = self.stored.get(&said.conversation).and_then(|rows| rows.get(&msg_id));
            if row.is_none_or(|row| row.0 != said.sender || row.1 != said.body) {
                wrong.push(format!(
                    "{}: {} was acknowledged as {msg_id} and is not there",
                    said.conversation,
                    show(said.sender, &said.body)
                ));
            }
        }
    }

    /// Once, dense, no phantom.
    fn check_stored(&self, wrong: &mut Vec<String>) {
        let by_body: HashMap<&Bytes, &Message> =
            self.said.iter().map(|said| (&said.body, said)).collect();
        assert_eq!(by_body.len(), self.said.len(), "no two messages have one body");
        for (conversation, rows) in &self.stored {
            let mut places: HashMap<&Bytes, u32> = HashMap::new();
            for (expected, (&msg_id, (sender, body))) in (1..).zip(rows) {
                if msg_id != expected {
                    wrong.push(format!("{conversation}: {expected} is missing before {msg_id}"));
                    break;
                }
                if let Some(first) = places.insert(body, msg_id) {
                    let what = show(*sender, body);
                    wrong.push(format!("{conversation}: {what} is {first} and again {msg_id}"));
                }
                let said = by_body.get(body).filter(|said| {
                    said.sender == *sender
                        && said.conversation == *conversation
                        && said.fate != Fate::Refused
                });
                if said.is_none() {
                    let what = show(*sender, body);
                    wrong.push(format!("{conversation}: {msg_id} is {what}, which nobody said"));
                }
            }
        }
    }

    /// Order: in real time over all senders, and for each sender also where he did not wait.
    fn check_order(&self, wrong: &mut Vec<String>) {
        let mut events: Vec<(u64, bool, &Message)> = Vec::new();
        let mut last_of_sender: HashMap<(ConversationId, u32), u32> = HashMap::new();
        for said in &self.said {
            let Fate::Acked { msg_id, at } = said.fate else { continue };
            events.push((said.said_at, false, said));
            events.push((at, true, said));
            let last = last_of_sender.entry((said.conversation, said.sender)).or_default();
            if msg_id <= *last {
                let what = show(said.sender, &said.body);
                wrong.push(format!("{}: {what} is {msg_id}, after {last}", said.conversation));
            }
            *last = msg_id;
        }
        events.sort_by_key(|(at, _is_ack, _said)| *at);
        let mut highest_acked: HashMap<ConversationId, u32> = HashMap::new();
        let mut floor: HashMap<&Bytes, u32> = HashMap::new();
        for (_at, is_ack, said) in events {
            let Fate::Acked { msg_id, .. } = said.fate else { continue };
            let highest = highest_acked.entry(said.conversation).or_default();
            if !is_ack {
                floor.insert(&said.body, *highest);
                continue;
            }
            let floor = floor.get(&said.body).copied().unwrap_or_default();
            if msg_id <= floor {
                let what = show(said.sender, &said.body);
                wrong.push(format!(
                    "{}: {what} is {msg_id}, and was said after {floor} was acknowledged",
                    said.conversation
                ));
            }
            *highest = msg_id.max(*highest);
        }
    }
}

fn show(sender: u32, body: &Bytes) -> String {
    match proto::text::decrypt(body) {
        Ok(text) => format!("{text:?} of u{sender}"),
        Err(_) => format!("{} bytes of u{sender}", body.len()),
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::UserId;

    use super::*;

    /// Two senders, four messages, all in order.
    struct Run {
        history: History,
        rows: Vec<MessageInfo>,
    }

    impl Run {
        fn new() -> Self {
            let mut run = Self { history: History::default(), rows: Vec::new() };
            for number in 1..=4 {
                let said = run.says(number);
                run.history.acked(said, number);
                run.rows.push(row(number, number));
            }
            run
        }

        fn says(&mut self, number: u32) -> Said {
            self.history.says(sender(number), conversation(), body(number))
        }

        fn verdict(mut self) -> String {
            self.history.stored(conversation(), &self.rows);
            self.history.check().join("\n")
        }
    }

    fn sender(number: u32) -> u32 {
        number % 2 + 1
    }

    fn conversation() -> ConversationId {
        ConversationId::single(UserId(1), UserId(2)).unwrap()
    }

    fn body(number: u32) -> Bytes {
        Bytes::from(format!("body {number}"))
    }

    fn row(msg_id: u32, number: u32) -> MessageInfo {
        MessageInfo {
            msg_id,
            from_user_id: sender(number),
            msg_data: body(number),
            ..MessageInfo::default()
        }
    }

    #[test]
    fn a_run_without_faults_passes() {
        let mut run = Run::new();
        let said = run.says(5);
        run.history.refused(said);
        run.says(6); // Never answered, and stored nevertheless.
        run.rows.push(row(5, 6));
        run.rows.reverse();
        assert_eq!(run.history.acked_count(), 4);
        assert_eq!(run.verdict(), "");
    }

    #[test]
    fn an_acknowledged_message_that_is_not_stored_is_lost() {
        let mut run = Run::new();
        run.rows.pop();
        assert!(run.verdict().contains("acknowledged as 4 and is not there"));
    }

    #[test]
    fn a_message_that_is_stored_twice_is_found() {
        let mut run = Run::new();
        run.rows.push(row(5, 2));
        assert!(run.verdict().contains("is 2 and again 5"));
    }

    #[test]
    fn a_number_that_stood_for_something_else_is_found() {
        let mut run = Run::new();
        run.history.saw(conversation(), 3, 1, body(9));
        assert!(run.verdict().contains("3 was"));
    }

    #[test]
    fn a_hole_is_found() {
        let mut run = Run::new();
        run.says(6);
        run.rows.push(row(6, 6));
        assert!(run.verdict().contains("5 is missing before 6"));
    }

    #[test]
    fn a_message_that_nobody_said_is_found() {
        let mut run = Run::new();
        run.rows.push(row(5, 9));
        assert!(run.verdict().contains("which nobody said"));
    }

    #[test]
    fn a_refused_message_that_is_stored_is_found() {
        let mut run = Run::new();
        let said = run.says(5);
        run.history.refused(said);
        run.rows.push(row(5, 5));
        assert!(run.verdict().contains("which nobody said"));
    }

    #[test]
    fn messages_of_one_sender_that_changed_places_are_found() {
        let mut run = Run { history: History::default(), rows: vec![row(1, 3), row(2, 1)] };
        let (first, second) = (run.says(1), run.says(3));
        run.history.acked(second, 1);
        run.history.acked(first, 2);
        assert!(run.verdict().contains("is 1, after 2"));
    }

    #[test]
    fn a_message_that_comes_before_one_acknowledged_earlier_is_found() {
        let mut run = Run { history: History::default(), rows: vec![row(1, 2), row(2, 1)] };
        let first = run.says(1);
        run.history.acked(first, 2);
        let second = run.says(2);
        run.history.acked(second, 1);
        assert!(run.verdict().contains("was said after 2 was acknowledged"));
    }
}
