//! Delivery and repair against a log that is known in full.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use proto::ids::GroupId;

use super::*;
use crate::delivery::seen::Position;

const CONVERSATIONS: u32 = 3;

fn conversation(number: u32) -> ConversationId {
    ConversationId::group(GroupId(number)).expect("not 0")
}

/// One record of the model's log.
#[derive(Debug, Clone, Copy)]
struct Logged {
    conversation: ConversationId,
    position: Position,
}

/// A session that is in one conversation, from a floor on.
#[derive(Debug)]
struct Session {
    conversation: ConversationId,
    floor: u64,
    gone: bool,
    got: Vec<u64>,
}

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// A record is appended to a conversation, as a change of members or a message, and published
    /// unless it is lost.
    Publish { conversation: ConversationId, change: bool, lost: bool },
    /// Of the published that are on their way, one arrives; it may be sent twice.
    Arrive { which: usize, twice: bool },
    /// A client logs in.
    Enter { conversation: ConversationId },
    /// A client goes.
    Leave { which: usize },
    /// The owner tells of changes; the message may be lost, and is then asked for again.
    Tell { lost: bool },
    /// The gateway fetches a page of what one conversation lacks.
    Fetch { conversation: ConversationId, page: usize },
}

fn event() -> impl Strategy<Value = Event> {
    let conversation = (1..=CONVERSATIONS).prop_map(conversation);
    prop_oneof![
        4 => (conversation.clone(), prop::bool::weighted(0.2), prop::bool::weighted(0.3))
            .prop_map(|(conversation, change, lost)| Event::Publish { conversation, change, lost }),
        4 => (0_usize..8, prop::bool::weighted(0.3))
            .prop_map(|(which, twice)| Event::Arrive { which, twice }),
        1 => conversation.clone().prop_map(|conversation| Event::Enter { conversation }),
        1 => (0_usize..16).prop_map(|which| Event::Leave { which }),
        1 => prop::bool::weighted(0.2).prop_map(|lost| Event::Tell { lost }),
        1 => (conversation, 1_usize..4)
            .prop_map(|(conversation, page)| Event::Fetch { conversation, page }),
    ]
}

struct Model {
    progress: Progress<Logged>,
    log: Vec<Logged>,
    under_way: Vec<Logged>,
    sessions: Vec<Session>,
    /// What the message that is being worked on names.
    applying: Option<(u64, BTreeMap<ConversationId, u64>)>,
    /// Places that were fetched: they must not reach a session whose floor is above them.
    fetched: BTreeSet<u64>,
}

impl Model {
    fn new() -> Self {
        let mut progress = Progress::new(64);
        let first = Range { after: 0, upto: 0, forgotten: false };
        assert_eq!(progress.judge(first), Step::Known);
        Self {
            progress,
            log: Vec::new(),
            under_way: Vec::new(),
            sessions: Vec::new(),
            applying: None,
            fetched: BTreeSet::new(),
        }
    }

    fn floor(&self, conversation: ConversationId) -> Option<u64> {
        let is_here = |one: &&Session| one.conversation == conversation && !one.gone;
        let here = self.sessions.iter().filter(is_here);
        here.map(|session| session.floor).min()
    }

    fn deliver(&mut self, records: Vec<Logged>, repaired: bool) {
        for Logged { conversation, position } in records {
            for session in &mut self.sessions {
                if session.conversation == conversation
                    && !session.gone
                    && concerns(Some(session.floor), position.offset, repaired)
                {
                    session.got.push(position.offset);
                }
            }
        }
    }

    fn publish(&mut self, conversation: ConversationId, change: bool, lost: bool) {
        let mut before = self.log.iter().filter(|logged| logged.conversation == conversation);
        let last = before.next_back().map(|logged| logged.position);
        let messages = self
            .log
            .iter()
            .filter(|logged| logged.conversation == conversation && logged.position.msg_id > 0);
        let next = u32::try_from(messages.count()).unwrap() + 1;
        let position = Position {
            msg_id: if change { 0 } else { next },
            offset: self.log.len() as u64 + 1,
            prev_offset: last.map_or(0, |position| position.offset),
        };
        let logged = Logged { conversation, position };
        self.log.push(logged);
        if !lost {
            self.under_way.push(logged);
        }
    }

    fn arrive(&mut self, which: usize, twice: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let index = which % self.under_way.len();
        let logged = if twice { self.under_way[index] } else { self.under_way.swap_remove(index) };
        let mut out = Vec::new();
        let floor = self.floor(logged.conversation);
        self.progress.take(
            logged.conversation,
            Placed { position: logged.position, record: logged },
            || floor,
            &mut out,
        );
        self.deliver(out, false);
        self.settle();
    }

    fn tell(&mut self, lost: bool) {
        if self.applying.is_some() {
            return;
        }
        let Some(after) = self.progress.cursor() else { return };
        let upto = self.log.len() as u64;
        if lost {
            // The next one starts behind it: a hole, and the stream is asked for again.
            let range = Range { after: upto + 1, upto: upto + 2, forgotten: false };
            assert_eq!(self.progress.judge(range), Step::Hole);
        }
        let range = Range { after, upto, forgotten: false };
        let step = self.progress.judge(range);
        assert_eq!(step, if upto > after { Step::Apply } else { Step::Known });
        if step == Step::Known {
            return;
        }
        let changed = self.log.iter().filter(|logged| logged.position.offset > after);
        let named: BTreeMap<ConversationId, u64> =
            changed.map(|logged| (logged.conversation, logged.position.offset)).collect();
        for (&conversation, &offset) in &named {
            let (mut out, floor) = (Vec::new(), self.floor(conversation));
            self.progress.changed(conversation, offset, floor, &mut out);
            self.deliver(out, false);
        }
        self.applying = Some((upto, named));
        self.settle();
    }

    /// What the task of the cursor does whenever something has ended.
    fn settle(&mut self) {
        let Some((upto, named)) = &self.applying else { return };
        let complete = |(conversation, offset): (&ConversationId, &u64)| {
            self.progress.is_complete(*conversation, *offset)
        };
        if named.iter().all(complete) {
            self.progress.move_cursor(*upto);
            self.applying = None;
        }
    }

    /// One page of storage's answer: messages, and the changes of members as one.
    fn fetch(&mut self, conversation: ConversationId, page: usize) {
        let Some(missing) = self.progress.missing(conversation) else { return };
        if self.floor(conversation).is_none() {
            self.progress.give_up(conversation, &mut Vec::new());
            return self.settle();
        }
        let wanted = |logged: &&Logged| {
            logged.conversation == conversation && logged.position.offset > missing.after_offset
        };
        let (changes, messages): (Vec<Logged>, Vec<Logged>) =
            self.log.iter().filter(wanted).partition(|logged| logged.position.msg_id == 0);
        let complete = messages.len() <= page;
        let mut answer: Vec<Logged> = messages.into_iter().take(page).collect();
        answer.extend(changes.last());
        self.fetched.extend(answer.iter().map(|logged| logged.position.offset));
        let placed = answer
            .into_iter()
            // A fetched record does not say what was before it.
            .map(|logged| {
                let position = Position { prev_offset: 0, ..logged.position };
                Placed { position, record: logged }
            })
            .collect();
        let mut out = Vec::new();
        self.progress.fetched(conversation, placed, complete.then_some(missing.known), &mut out);
        self.deliver(out, true);
        self.settle();
    }

    fn step(&mut self, event: &Event) {
        match *event {
            Event::Publish { conversation, change, lost } => {
                self.publish(conversation, change, lost);
            }
            Event::Arrive { which, twice } => self.arrive(which, twice),
            Event::Enter { conversation } => {
                let floor = self.log.len() as u64;
                self.sessions.push(Session { conversation, floor, gone: false, got: Vec::new() });
            }
            Event::Leave { which } => {
                if let Some(session) = self.sessions.get_mut(which) {
                    session.gone = true;
                }
            }
            Event::Tell { lost } => self.tell(lost),
            Event::Fetch { conversation, page } => self.fetch(conversation, page),
        }
    }

    /// Nothing more is published: the stream and repair bring everything.
    fn converge(&mut self) {
        for _round in 0..1_000 {
            self.tell(false);
            for number in 1..=CONVERSATIONS {
                self.fetch(conversation(number), 2);
            }
            if self.applying.is_none() && self.progress.cursor() == Some(self.log.len() as u64) {
                return;
            }
        }
        panic!("the cursor does not come to the end: {:?}", self.progress);
    }

    fn check(&self) {
        for session in &self.sessions {
            let mine = |logged: &&Logged| {
                logged.conversation == session.conversation
                    && logged.position.offset > session.floor
            };
            // Changes of members may come as one; the last of them tells all.
            let messages =
                |offset: &u64| self.log[usize::try_from(*offset).unwrap() - 1].position.msg_id > 0;
            let want: Vec<u64> = self
                .log
                .iter()
                .filter(mine)
                .map(|logged| logged.position.offset)
                .filter(messages)
                .collect();
            let got: Vec<u64> = session.got.iter().copied().filter(messages).collect();
            assert!(session.got.is_sorted(), "{session:?}");
            if session.gone {
                assert!(want.starts_with(&got), "{session:?}");
                continue;
            }
            assert_eq!(got, want, "{session:?}");
            let last =
                self.log.iter().filter(mine).map(|logged| logged.position.offset).next_back();
            assert_eq!(session.got.last().copied(), last, "{session:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_session_gets_every_record_after_its_floor_once_and_in_order(
        events in prop::collection::vec(event(), 1..80),
    ) {
        let mut model = Model::new();
        for event in &events {
            model.step(event);
        }
        model.converge();
        model.check();
        prop_assert_eq!(model.progress.conversations.len(), 0, "nothing is kept");
        for which in 0..model.under_way.len() {
            model.arrive(which, true);
        }
        model.check();
    }
}

fn message(msg_id: u32) -> Position {
    let offset = u64::from(msg_id) * 10;
    Position { msg_id, offset, prev_offset: offset - 10 }
}

fn at_cursor(cursor: u64) -> Progress<u32> {
    let mut progress = Progress::new(2);
    progress.judge(Range { after: cursor, upto: cursor, forgotten: false });
    progress
}

fn take(progress: &mut Progress<u32>, number: u32, msg_id: u32) -> Verdict {
    let placed = Placed { position: message(msg_id), record: msg_id };
    progress.take(conversation(number), placed, || Some(0), &mut Vec::new())
}

#[test]
fn what_is_forgotten_at_the_cursor_is_a_duplicate_when_it_comes_again() {
    let mut progress = at_cursor(0);
    assert_eq!(take(&mut progress, 7, 1), Verdict::Delivered { closed: false });
    progress.move_cursor(10);
    assert!(progress.conversations.is_empty());
    assert_eq!(take(&mut progress, 7, 1), Verdict::Duplicate);
    assert_eq!(take(&mut progress, 7, 2), Verdict::Delivered { closed: false });
}

#[test]
fn what_lacks_something_is_kept_when_the_cursor_moves() {
    let mut progress = at_cursor(0);
    assert_eq!(take(&mut progress, 7, 2), Verdict::Held { opened: true });
    progress.move_cursor(20);
    assert!(progress.missing(conversation(7)).is_some());
}

#[test]
fn old_messages_mean_nothing_and_a_later_one_is_a_hole() {
    let mut progress = at_cursor(50);
    let judge = |progress: &mut Progress<u32>, after, upto| {
        progress.judge(Range { after, upto, forgotten: false })
    };
    assert_eq!(judge(&mut progress, 40, 50), Step::Known);
    assert_eq!(judge(&mut progress, 51, 60), Step::Hole);
    assert_eq!(judge(&mut progress, 40, 60), Step::Apply, "partly known");
    assert_eq!(progress.lag(), 10);
    let forgotten = Range { after: 20, upto: 20, forgotten: true };
    assert_eq!(progress.judge(forgotten), Step::Forgotten);
    progress.reset(20);
    assert_eq!(progress.cursor(), Some(20));
}

#[test]
fn where_nobody_is_nothing_is_missing() {
    let mut progress = at_cursor(0);
    assert_eq!(
        progress.changed(conversation(7), 10, None, &mut Vec::new()),
        Completeness::Complete
    );
    let placed = Placed { position: message(5), record: 5 };
    let verdict = progress.take(conversation(7), placed, || None, &mut Vec::new());
    assert_eq!(verdict, Verdict::Delivered { closed: false });
}

#[test]
fn of_too_many_conversations_one_that_lacks_nothing_is_forgotten_first() {
    let mut progress = at_cursor(0);
    take(&mut progress, 1, 2);
    take(&mut progress, 2, 1);
    take(&mut progress, 3, 2);
    assert!(progress.take_lost().is_empty(), "number 2 went");
    take(&mut progress, 4, 1);
    assert_eq!(progress.take_lost(), [conversation(1)], "and now one that lacks something");
}

#[test]
fn of_very_many_that_lack_something_only_those_silent_for_longest_are_looked_at() {
    // Behind so many with a gap stands one that lacks nothing, and then one more comes.
    let lost_behind = |gaps: u32| {
        let mut progress = Progress::new(usize::try_from(gaps).unwrap() + 1);
        progress.judge(Range { after: 0, upto: 0, forgotten: false });
        for number in 1..=gaps {
            assert_eq!(take(&mut progress, number, 2), Verdict::Held { opened: true });
        }
        for number in [gaps + 1, gaps + 2] {
            take(&mut progress, number, 1);
        }
        progress.take_lost()
    };
    let looked_at = u32::try_from(LOOK_MAX).unwrap();
    assert!(lost_behind(looked_at - 1).is_empty(), "the one that lacks nothing went");
    assert_eq!(lost_behind(looked_at), [conversation(1)]);
}
