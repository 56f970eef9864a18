//! Messages that hooks are asked about, among others.

use super::*;

/// A message that hooks are asked about at once.
fn ask(table: &mut Table<()>, id: u8, now: Instant) -> QuestionId {
    match table.put(key(1, id), submit(7), (), (Stage::Asked, now)) {
        Put::Ask(question) => question,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_that_hooks_are_asked_about_holds_its_line_and_no_other_one() {
    let (mut table, now) = (Table::default(), Instant::now());
    let one = ask(&mut table, 1, now);
    assert_eq!(table.put(key(1, 2), submit(7), (), (Stage::Ready, now)), Put::Waits);
    let three = ask(&mut table, 3, now);
    assert_eq!(table.put(key(1, 4), submit(8), (), (Stage::Ready, now)), Put::Submit, "elsewhere");
    assert_eq!(table.put(key(2, 1), submit(7), (), (Stage::Ready, now)), Put::Submit, "another");
    check_counts(&table);
    // However long it takes, and though the hook answers about a later one first.
    assert!(table.due(now + LAST_RETRY).is_empty());
    assert_eq!(table.passes(&three, None, Vec::new(), now), []);
    assert_eq!(table.all_again(|conversation| conversation == 7, now), [key(2, 1)]);
    check_counts(&table);
    let all = [key(1, 1), key(1, 2), key(1, 3)];
    assert_eq!(table.passes(&one, None, Vec::new(), now), all);
    assert_eq!(table.passes(&one, None, Vec::new(), now), [], "once");
    check_counts(&table);
    assert_eq!(table.put(key(1, 5), submit(7), (), (Stage::Ready, now)), Put::Submit);
}

#[test]
fn what_waited_behind_a_refused_message_goes_on_at_once() {
    let (mut table, now) = (Table::default(), Instant::now());
    ask(&mut table, 1, now);
    table.put(key(1, 2), submit(7), (), (Stage::Ready, now));
    assert!(table.take(&key(1, 1)).unwrap().holds());
    assert_eq!(table.wake(Queue::of(&key(1, 2), &submit(7))), [key(1, 2)]);
    check_counts(&table);
}

/// Else it would be stored before that one.
#[test]
fn a_message_that_passes_waits_behind_one_that_is_to_be_tried_again() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.put(key(1, 1), submit(7), (), (Stage::Ready, now));
    let two = ask(&mut table, 2, now);
    table.retry_later(&key(1, 1), now);
    assert_eq!(table.passes(&two, None, Vec::new(), now), []);
    check_counts(&table);
    assert_eq!(table.due(now + FIRST_RETRY), [key(1, 1), key(1, 2)]);
    check_counts(&table);
}

#[test]
fn a_message_that_is_looked_for_says_so_until_it_passes() {
    let (mut table, now) = (Table::default(), Instant::now());
    let again = Submit { resend: Some(true), ..submit(7) };
    assert_eq!(table.put(key(1, 1), again, (), (Stage::LookedFor, now)), Put::Submit);
    assert_eq!(table.put(key(1, 2), submit(7), (), (Stage::Ready, now)), Put::Waits);
    assert!(table.addressed(&key(1, 1), 3, now).unwrap().known_only());
    // The owner has moved before it answered: the next one looks.
    assert_eq!(table.all_again(|_all| true, now), [key(1, 1)]);
    assert!(table.addressed(&key(1, 1), 4, now).unwrap().known_only());
    let question = table.is_not_known(&key(1, 1)).unwrap();
    assert_eq!(table.is_not_known(&key(1, 1)), None, "it is asked about once");
    assert_eq!(table.passes(&question, None, Vec::new(), now), [key(1, 1), key(1, 2)]);
    assert!(!table.addressed(&key(1, 1), 4, now).unwrap().known_only());
    assert_eq!(table.is_not_known(&key(1, 1)), None, "that was an answer to an earlier look");
    check_counts(&table);
}

/// What is said of a message that was given back, and came again, may be something else.
#[test]
fn what_hooks_said_of_an_earlier_try_does_not_count() {
    let (mut table, now) = (Table::default(), Instant::now());
    let old = ask(&mut table, 1, now);
    table.take(&key(1, 1)).unwrap();
    let new = ask(&mut table, 1, now);
    assert_eq!(table.passes(&old, None, Vec::new(), now), []);
    assert!(table.asked(&old).is_none() && table.asked(&new).is_some());
    assert_eq!(table.passes(&new, None, Vec::new(), now), [key(1, 1)]);
}

#[test]
fn a_changed_message_says_what_was_sent_and_its_repeat_is_the_same_message() {
    let (mut table, now) = (Table::default(), Instant::now());
    let sent = Submit { fingerprint: Some(9), ..submit(7) };
    let put = table.put(key(1, 1), sent.clone(), "one", (Stage::Asked, now));
    let Put::Ask(question) = put else { panic!() };
    let verdict = HookVerdict { hook: "words".to_owned(), outcome: 1 };
    let body = Bytes::from_static(b"other");
    table.passes(&question, Some(body.clone()), vec![verdict.clone()], now);
    assert_eq!(table.size(), (1, 15), "both are kept");
    let later = now + Duration::from_millis(40);
    let changed = table.addressed(&key(1, 1), 3, later).unwrap();
    assert_eq!((&changed.body, &changed.hooks[..]), (&body, &[verdict][..]));
    assert_eq!(changed.sent_crc, Some(content_crc(sent.r#type, &sent.body)));
    let frame = (changed.may_repeat, changed.waited_ms, changed.resend);
    assert_eq!(frame, (Some(true), Some(40), None), "its frame may have come again meanwhile");
    let again = table.put(key(1, 1), sent.clone(), "two", (Stage::Asked, now));
    assert_eq!(again, Put::Repeated("one"));
    let as_changed = Submit { body, ..sent };
    let reused = table.put(key(1, 1), as_changed.clone(), "three", (Stage::Asked, now));
    assert_eq!(reused, Put::Reused(Box::new(as_changed), "three"));
    table.take(&key(1, 1)).unwrap();
    assert_eq!(table.size(), (0, 0));
}

#[test]
fn what_hooks_leave_as_it_is_has_no_second_body() {
    let (mut table, now) = (Table::default(), Instant::now());
    let one = ask(&mut table, 1, now);
    table.passes(&one, Some(submit(7).body), Vec::new(), now);
    let same = table.addressed(&key(1, 1), 3, now).unwrap();
    assert_eq!((&same.body, same.sent_crc), (&submit(7).body, None));
    assert_eq!(table.size(), (1, 10));
}

/// One line, its storage, and hooks.
struct Line {
    table: Table<()>,
    now: Instant,
    next: u8,
    /// With storage, and unanswered.
    handed: Vec<u8>,
    /// An owner looks for these.
    looked: Vec<u8>,
    questions: Vec<QuestionId>,
}

impl Line {
    fn put(&mut self, stage: Stage) {
        self.next += 1;
        let id = self.next;
        match self.table.put(key(1, id), submit(7), (), (stage, self.now)) {
            Put::Submit => self.give(&[key(1, id)]),
            Put::Ask(question) => self.questions.push(question),
            other => assert_eq!(other, Put::Waits),
        }
    }

    fn give(&mut self, keys: &[Key]) {
        for handed in keys {
            let id = handed.id.0[0];
            if self.table.addressed(handed, 5, self.now).unwrap().known_only() {
                self.looked.push(id);
                continue;
            }
            let entry = self.table.entry(handed).unwrap();
            assert_eq!(entry.stage, Stage::Ready, "{id} is handed over unasked");
            let is_before =
                |id: &u8| self.table.entry(&key(1, *id)).is_some() && !self.handed.contains(id);
            let before: Vec<u8> = (1..id).filter(is_before).collect();
            assert!(before.is_empty(), "{id} overtakes {before:?}");
            assert!(self.handed.iter().all(|earlier| *earlier < id), "{id} again");
            self.handed.push(id);
        }
    }

    fn end(&mut self, id: u8) {
        let entry = self.table.take(&key(1, id)).unwrap();
        if entry.holds() {
            let woken = self.table.wake(Queue::of(&key(1, id), &entry.submit));
            self.give(&woken);
        }
    }

    /// The owner has looked for a message.
    fn has_looked(&mut self, id: u8, what: usize) {
        self.looked.retain(|other| *other != id);
        match what {
            0 => self.end(id),
            1 => assert!(self.table.retry_later(&key(1, id), self.now)),
            _ => self.questions.extend(self.table.is_not_known(&key(1, id))),
        }
    }

    fn hook_says(&mut self, question: QuestionId, passes: bool) {
        self.questions.retain(|other| *other != question);
        if passes {
            let keys = self.table.passes(&question, None, Vec::new(), self.now);
            self.give(&keys);
        } else {
            self.end(question.key.id.0[0]);
        }
    }

    /// Storage refuses one message for now and, as a real one does, all it was given after that.
    fn refuse(&mut self, from: usize) {
        for id in self.handed.split_off(from) {
            self.table.retry_later(&key(1, id), self.now);
        }
    }

    /// Another owner: what the earlier one had is lost.
    fn move_on(&mut self) {
        self.handed.clear();
        self.looked.clear();
        let keys = self.table.all_again(|_all| true, self.now);
        self.give(&keys);
    }

    fn step(&mut self, step: u8, choice: usize) {
        self.now += Duration::from_millis(100);
        match step {
            0 | 1 => self.put(Stage::Ready),
            2 | 3 => self.put(Stage::Asked),
            4 | 5 => self.put(Stage::LookedFor),
            6 if !self.handed.is_empty() => self.refuse(choice % self.handed.len()),
            7 => self.move_on(),
            8 if !self.handed.is_empty() => {
                let id = self.handed.remove(choice % self.handed.len());
                self.end(id);
            }
            9 | 10 if !self.looked.is_empty() => {
                let id = self.looked[choice % self.looked.len()];
                self.has_looked(id, choice % 3);
            }
            11 | 12 if !self.questions.is_empty() => {
                let question = self.questions[choice % self.questions.len()];
                self.hook_says(question, choice < 6);
            }
            _ => {
                let keys = self.table.due(self.now);
                self.give(&keys);
            }
        }
        check_counts(&self.table);
    }

    /// Everybody answers. Then storage has everything.
    fn settle(&mut self) {
        for _ in 0..3 {
            while let Some(id) = self.looked.first() {
                self.has_looked(*id, 2);
            }
            while let Some(question) = self.questions.first() {
                self.hook_says(*question, true);
            }
            self.now += LAST_RETRY;
            let keys = self.table.due(self.now);
            self.give(&keys);
        }
        check_counts(&self.table);
        assert_eq!(self.handed.len(), self.table.size().0, "something waits for nobody");
        assert_eq!(self.table.holding, 0);
    }
}

proptest! {
    #[test]
    fn a_line_with_hooks_is_handed_over_in_order_and_asked_about_and_whole(
        steps in prop::collection::vec((0_u8..15, 0_usize..8), 1..80),
    ) {
        let mut line = Line {
            table: Table::default(),
            now: Instant::now(),
            next: 0,
            handed: Vec::new(),
            looked: Vec::new(),
            questions: Vec::new(),
        };
        for (step, choice) in steps {
            line.step(step, choice);
        }
        line.settle();
    }
}
