//! Small histories made by hand: each rule at its edges.

use std::time::Duration;

use client::Kind;
use proto::client::RefuseReason;

use super::broken;
use crate::history::check::{Rule, Thresholds, Verdict, check};
use crate::history::event::{
    Change, Connection, Conv, Delivery, Event, Mid, Phase, Progress, Row, Sha, What,
};
use crate::history::{latency, next_ack, stalls};

/// What two users say to each other, and what becomes of it. A millisecond passes at each event.
#[derive(Clone, Default)]
pub(super) struct Run {
    pub(super) events: Vec<Event>,
}

pub(super) fn pair() -> Conv {
    Conv::single(1, 2)
}

pub(super) fn mid(number: u32) -> Mid {
    Mid(u128::from(number).to_be_bytes())
}

fn sender(number: u32) -> u32 {
    number % 2 + 1
}

pub(super) fn row(msg_id: u32, number: u32) -> Row {
    Row {
        msg_id,
        sender: sender(number),
        sha: Sha::of(Kind::Text, &number.to_be_bytes()),
        mid: None,
        time: None,
    }
}

impl Run {
    /// Four messages, acknowledged in order.
    pub(super) fn new() -> Self {
        let mut run = Self::default();
        for number in 1..=4 {
            run.invoke(number).ok(number, number);
        }
        run
    }

    pub(super) fn add(&mut self, what: What) -> &mut Self {
        let at = self.events.len() as u64 + 1;
        self.events.push(Event { at, us: at * 1_000, what });
        self
    }

    pub(super) fn invoke(&mut self, number: u32) -> &mut Self {
        self.invoke_in(pair(), number)
    }

    fn invoke_in(&mut self, conv: Conv, number: u32) -> &mut Self {
        let (user, sha) = (sender(number), row(1, number).sha);
        let (mid, idx, prev) = (mid(number), number, None);
        self.add(What::Invoke { user, device: 1, conv, mid, idx, prev, sha, unnamed: false })
    }

    pub(super) fn ok(&mut self, number: u32, msg_id: u32) -> &mut Self {
        self.add(What::Ok { mid: mid(number), msg_id, time: None })
    }

    pub(super) fn delivery(user: u32, msg_id: u32, number: u32) -> Delivery {
        let Row { sender, sha, .. } = row(1, number);
        Delivery { user, device: 2, conv: pair(), msg_id, sender, sha, mid: None, time: None }
    }

    fn push(&mut self, user: u32, msg_id: u32, number: u32) -> &mut Self {
        self.add(What::Push(Self::delivery(user, msg_id, number)))
    }

    fn shown(&mut self, user: u32, msg_id: u32, number: u32) -> &mut Self {
        self.add(What::Shown(Self::delivery(user, msg_id, number)))
    }

    fn session(&mut self, state: Connection) -> &mut Self {
        self.add(What::Session { user: 1, device: 2, state, class: None })
    }

    fn pull(&mut self, (from, complete_upto): (u32, u32), rows: &[Row]) -> &mut Self {
        let (asked, rows) = (None, rows.to_vec());
        let (user, device, conv, to_head) = (1, 2, pair(), false);
        self.add(What::Pull { user, device, conv, from, complete_upto, asked, to_head, rows })
    }

    pub(super) fn stored(&mut self, rows: &[(u32, u32)]) -> &mut Self {
        let rows = rows.iter().map(|(msg_id, number)| row(*msg_id, *number)).collect();
        self.add(What::Stored { conv: pair(), from: 1, rows })
    }

    pub(super) fn all_stored(&mut self) -> &mut Self {
        self.stored(&[(1, 1), (2, 2), (3, 3), (4, 4)])
    }

    #[track_caller]
    pub(super) fn breaks(&mut self, rules: &[Rule]) {
        let found: Vec<Rule> = broken(&self.events, &Thresholds::default()).into_iter().collect();
        assert_eq!(found, rules, "{}", check(&self.events, &Thresholds::default()));
    }
}

#[test]
fn a_run_without_faults_is_clean_in_whatever_order_its_history_comes() {
    let mut run = Run::new();
    run.invoke(5).add(What::Fail { mid: mid(5), code: 3 });
    run.invoke(6).add(What::Info { mid: mid(6) }); // Stored nevertheless.
    run.stored(&[(5, 6), (1, 1), (3, 3), (2, 2), (4, 4)]);
    let report = check(&run.events, &Thresholds::default());
    assert_eq!((report.verdict, report.figures.acked), (Verdict::Clean, 4), "{report}");
    assert_eq!((report.figures.failed, report.figures.unknown), (1, 1));
}

#[test]
fn lost_is_what_was_acknowledged_and_is_nowhere() {
    Run::new().stored(&[(1, 1), (2, 2), (3, 3)]).breaks(&[Rule::H1]);
    // It was never acknowledged or shown, so it may be missing.
    Run::new().invoke(5).all_stored().breaks(&[]);
}

#[test]
fn lost_is_also_what_a_device_does_not_have_in_the_end() {
    let mut run = Run::new();
    run.all_stored();
    let last = |has: Vec<(u32, u32)>| What::Final { user: 2, device: 1, conv: pair(), has };
    run.add(last(vec![(1, 4)])).breaks(&[]);
    run.events.pop();
    run.add(last(vec![(1, 2), (4, 4)])).breaks(&[Rule::H1]);
    run.events.pop();
    run.add(last(vec![])).breaks(&[Rule::H1]);
}

#[test]
fn once_means_one_place_for_one_message() {
    Run::new().stored(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 2)]).breaks(&[Rule::H2]);
    let mut run = Run::new();
    let other = Conv::group(7);
    run.all_stored().add(What::Stored { conv: other, from: 1, rows: vec![row(1, 1)] });
    run.breaks(&[Rule::H6]); // It was said elsewhere.
}

/// Says the words of message 1 under other names.
fn say_again(run: &mut Run, name: u32) -> &mut Run {
    let (user, sha) = (sender(1), row(1, 1).sha);
    let (mid, idx, prev) = (mid(name), name, None);
    run.add(What::Invoke { user, device: 1, conv: pair(), mid, idx, prev, sha, unnamed: false })
}

#[test]
fn the_same_words_twice_are_two_messages() {
    let twice = || {
        let mut run = Run::new();
        say_again(&mut run, 11);
        run
    };
    let rows = |more: &[(u32, u32)]| [&[(1, 1), (2, 2), (3, 3), (4, 4)][..], more].concat();
    // Acknowledged, both are there.
    twice().ok(11, 5).stored(&rows(&[(5, 1)])).breaks(&[]);
    twice().ok(11, 5).stored(&rows(&[])).breaks(&[Rule::H1]);
    // Acknowledged with the number of the first, which is there once.
    twice().ok(11, 1).stored(&rows(&[])).breaks(&[Rule::H1, Rule::H4]);
    twice().ok(11, 1).stored(&rows(&[(5, 1)])).breaks(&[Rule::H3, Rule::H4]);
    // Not acknowledged, the second may be there or not, and not twice.
    twice().stored(&rows(&[])).breaks(&[]);
    twice().stored(&rows(&[(5, 1)])).breaks(&[]);
    twice().stored(&rows(&[(5, 1), (6, 1)])).breaks(&[Rule::H2]);
    // Refused, it must not be there.
    let refused = What::Fail { mid: mid(11), code: 3 };
    twice().add(refused.clone()).stored(&rows(&[])).breaks(&[]);
    twice().add(refused).stored(&rows(&[(5, 1)])).breaks(&[Rule::H6]);
    // Another user's words are another message.
    let mut run = twice();
    run.add(What::Stored {
        conv: pair(),
        from: 1,
        rows: (1..=4).map(|n| row(n, n)).chain([Row { sender: 1, ..row(5, 1) }]).collect(),
    });
    run.breaks(&[Rule::H6]);
}

#[test]
fn what_has_no_answer_takes_the_places_that_are_left_as_it_was_said() {
    // Two in the same words, neither answered, and something of the other user between them.
    let run = |rows: &[(u32, u32)]| {
        let mut run = Run::default();
        run.invoke(1).invoke(2).ok(2, 2);
        say_again(&mut run, 11).stored(rows).clone()
    };
    // One is there: the first, since the second was said after number 2.
    run(&[(1, 1), (2, 2)]).breaks(&[]);
    run(&[(1, 1), (2, 2), (3, 1)]).breaks(&[]);
    // Whichever is which, one of them is before what was acknowledged before it was said.
    let mut early = Run::default();
    early.invoke(2).ok(2, 3).invoke(1);
    say_again(&mut early, 11).stored(&[(1, 1), (2, 1), (3, 2)]).breaks(&[Rule::H4]);
}

#[test]
fn a_name_is_that_of_one_message() {
    let named = |msg_id, number, name| {
        let mid = Some(mid(name));
        What::Shown(Delivery { mid, ..Run::delivery(2, msg_id, number) })
    };
    Run::new().all_stored().add(named(1, 1, 1)).breaks(&[]);
    Run::new().all_stored().add(named(1, 1, 2)).breaks(&[Rule::H2]);
    Run::new().all_stored().add(named(1, 1, 77)).breaks(&[Rule::H2]);
    let mut run = Run::new();
    say_again(&mut run, 11).ok(11, 5).stored(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 1)]);
    run.add(named(1, 1, 11)).breaks(&[Rule::H2]); // Its own number is 5.
}

#[test]
fn what_a_client_does_not_name_has_one_name_of_the_server() {
    let named = |msg_id, number, name| {
        let mid = Some(mid(name));
        What::Shown(Delivery { mid, ..Run::delivery(2, msg_id, number) })
    };
    let old = || {
        let mut run = Run::new();
        for event in &mut run.events {
            if let What::Invoke { unnamed, .. } = &mut event.what {
                *unnamed = true;
            }
        }
        run.all_stored().clone()
    };
    old().add(named(1, 1, 77)).add(named(2, 2, 78)).breaks(&[]);
    old().add(named(1, 1, 77)).add(named(2, 2, 77)).breaks(&[Rule::H2]);
    old().add(named(1, 1, 2)).breaks(&[Rule::H2]); // That is the name of something else.
}

#[test]
fn two_messages_with_one_name_make_a_run_void() {
    let mut run = Run::default();
    run.invoke(1).invoke(2).invoke(1).ok(2, 2).stored(&[(1, 1), (2, 2)]);
    let report = check(&run.events, &Thresholds::default());
    assert_eq!(report.verdict, Verdict::Void, "{report}");
}

#[test]
fn stable_means_that_all_agree() {
    let mut run = Run::new();
    run.push(2, 3, 4).all_stored().breaks(&[Rule::H3]);
    // Before anything is durable, its number is a guess.
    let mut run = Run::new();
    run.invoke(5).push(2, 5, 5).all_stored().breaks(&[Rule::H3]);
    // It was acknowledged as one number and is another.
    let mut run = Run::new();
    run.stored(&[(1, 1), (2, 2), (3, 3), (5, 4)]).breaks(&[Rule::H3, Rule::H5]);
}

#[test]
fn order_is_that_of_each_device_and_that_of_real_time() {
    let mut run = Run::default();
    run.invoke(1).invoke(3).ok(3, 1).ok(1, 2).stored(&[(1, 3), (2, 1)]);
    run.breaks(&[Rule::H4]);
    let mut run = Run::default();
    run.invoke(1).ok(1, 2).invoke(2).ok(2, 1).stored(&[(1, 2), (2, 1)]);
    run.breaks(&[Rule::H4]);
    // Never acknowledged, but it is in the history where it cannot be.
    let mut run = Run::default();
    run.invoke(1).ok(1, 2).invoke(2).stored(&[(1, 2), (2, 1)]).breaks(&[Rule::H4]);
    // Said at the same time by two users: either order will do.
    let mut run = Run::default();
    run.invoke(1).invoke(2).ok(1, 2).ok(2, 1).stored(&[(1, 2), (2, 1)]).breaks(&[]);
}

#[test]
fn dense_means_from_one_on_without_a_hole() {
    let mut run = Run::default();
    run.invoke(1).invoke(2).stored(&[(1, 1), (3, 2)]).breaks(&[Rule::H5]);
    let mut run = Run::default();
    run.invoke(1).stored(&[(2, 1)]).breaks(&[Rule::H5]);
    // A reader who entered later sees no beginning.
    let mut run = Run::default();
    run.invoke(1).add(What::Stored { conv: pair(), from: 2, rows: vec![row(2, 1)] }).breaks(&[]);
}

#[test]
fn a_phantom_was_not_said_or_was_refused() {
    Run::new().stored(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 9)]).breaks(&[Rule::H6]);
    let mut run = Run::new();
    run.invoke(5).add(What::Fail { mid: mid(5), code: 3 });
    run.stored(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]).breaks(&[Rule::H6]);
    Run::new().push(2, 5, 9).all_stored().breaks(&[Rule::H6]);
}

#[test]
fn an_old_device_is_told_everything_in_order_while_it_is_connected() {
    use Connection::{Connected, Disconnected, Synced};
    let rows = [row(1, 1), row(2, 2)];
    let caught_up = |run: &mut Run| {
        run.all_stored().session(Connected).pull((1, 2), &rows).session(Synced);
    };
    let mut run = Run::new();
    caught_up(&mut run);
    run.push(1, 3, 3).push(1, 4, 4).session(Disconnected).breaks(&[]);
    let mut run = Run::new();
    caught_up(&mut run);
    run.push(1, 4, 4).breaks(&[Rule::H7]); // Three is missing.
    let mut run = Run::new();
    caught_up(&mut run);
    run.push(1, 3, 3).push(1, 3, 3).breaks(&[Rule::H7]);
    // What is read may be told again, and what was told before may be told after a reconnect.
    let mut run = Run::new();
    caught_up(&mut run);
    run.push(1, 2, 2).push(1, 3, 3).session(Disconnected).session(Connected).push(1, 3, 3);
    run.breaks(&[]);
    // Before it has caught up, only what follows one another has to.
    Run::new().all_stored().session(Connected).push(1, 3, 3).push(1, 4, 4).breaks(&[]);
    // Its own messages are acknowledged, not told.
    let mut run = Run::new();
    for event in &mut run.events {
        if let What::Invoke { user: 1, device, .. } = &mut event.what {
            *device = 2;
        }
    }
    run.all_stored().session(Connected).session(Synced).push(1, 1, 1).push(1, 3, 3).breaks(&[]);
}

#[test]
fn a_library_hands_out_everything_in_order() {
    let skip = |first, last| What::Skipped { user: 2, device: 2, conv: pair(), first, last };
    Run::new().all_stored().shown(2, 1, 1).shown(2, 2, 2).breaks(&[]);
    Run::new().all_stored().shown(2, 1, 1).shown(2, 3, 3).breaks(&[Rule::H7]);
    Run::new().all_stored().shown(2, 2, 2).breaks(&[Rule::H7]);
    Run::new().all_stored().shown(2, 1, 1).shown(2, 1, 1).breaks(&[Rule::H7]);
    Run::new().all_stored().add(skip(1, 2)).shown(2, 3, 3).breaks(&[Rule::H7]);
}

#[test]
fn a_pull_that_says_it_is_complete_is() {
    Run::new().all_stored().pull((2, 3), &[row(2, 2), row(3, 3)]).breaks(&[]);
    Run::new().all_stored().pull((1, 3), &[row(1, 1), row(3, 3)]).breaks(&[Rule::H7]);
    let newest = |asked| What::Pull {
        user: 1,
        device: 2,
        conv: pair(),
        from: 1,
        complete_upto: 0,
        asked: Some(asked),
        to_head: true,
        rows: vec![],
    };
    // Asked before the first acknowledgement, and after it.
    Run::new().all_stored().add(newest(1)).breaks(&[]);
    Run::new().all_stored().add(newest(2)).breaks(&[Rule::H7]);
}

#[test]
fn a_watermark_rises_over_what_was_seen() {
    let mark = |upto| What::Watermark { user: 2, device: 2, conv: pair(), upto };
    Run::new().all_stored().push(2, 1, 1).add(mark(1)).add(mark(1)).breaks(&[]);
    // It begins where the program had come to before.
    Run::new().all_stored().add(mark(3)).push(2, 4, 4).add(mark(4)).breaks(&[]);
    Run::new().all_stored().add(mark(2)).push(2, 4, 4).add(mark(4)).breaks(&[Rule::H7]);
    Run::new().all_stored().add(mark(2)).add(mark(1)).breaks(&[Rule::H7]);
}

#[test]
fn no_user_gets_what_is_not_for_that_user() {
    Run::new().push(3, 1, 1).all_stored().breaks(&[Rule::H8]);
    let group = Conv::group(2);
    let told =
        |user, number| What::Push(Delivery { conv: group, ..Run::delivery(user, number, number) });
    let change = |change, phase| What::Change { conv: group, user: 9, change, phase, by: None };
    let said = |run: &mut Run, number| {
        run.invoke_in(group, number).ok(number, number);
    };
    let rows: Vec<Row> = (1..=3).map(|number| row(number, number)).collect();
    for (numbers, rules) in [(&[2][..], &[][..]), (&[1], &[Rule::H8]), (&[3], &[Rule::H8])] {
        let mut run = Run::default();
        for user in [1, 2] {
            run.add(What::Member { conv: group, user, join: 1, leave: None });
        }
        said(&mut run, 1);
        run.add(change(Change::Add, Progress::Invoke)).add(change(Change::Add, Progress::Ok));
        said(&mut run, 2);
        run.add(change(Change::Remove, Progress::Invoke));
        run.add(change(Change::Remove, Progress::Ok));
        said(&mut run, 3);
        for number in numbers {
            run.add(told(9, *number));
        }
        run.add(What::Stored { conv: group, from: 1, rows: rows.clone() }).breaks(rules);
    }
}

#[test]
fn members_write_and_others_are_refused() {
    let group = Conv::group(2);
    let change = |user, change, phase| What::Change { conv: group, user, change, phase, by: None };
    let run = |outcome: Option<What>, was: Change| {
        let mut run = Run::default();
        // User 1 is the one who says the even ones.
        for phase in [Progress::Invoke, Progress::Ok] {
            run.add(change(1, Change::Add, phase));
        }
        if was == Change::Remove {
            for phase in [Progress::Invoke, Progress::Ok] {
                run.add(change(1, Change::Remove, phase));
            }
        }
        let number = 2;
        run.invoke_in(group, number);
        let is_said = outcome.is_none();
        run.add(outcome.unwrap_or(What::Ok { mid: mid(number), msg_id: 1, time: None }));
        let rows = if is_said { vec![row(1, number)] } else { vec![] };
        run.add(What::Stored { conv: group, from: 1, rows }).clone()
    };
    let refused = |code: RefuseReason| Some(What::Fail { mid: mid(2), code: code as u32 });
    run(None, Change::Add).breaks(&[]);
    run(None, Change::Remove).breaks(&[Rule::H8]);
    run(refused(RefuseReason::NotMember), Change::Remove).breaks(&[]);
    run(refused(RefuseReason::NotMember), Change::Add).breaks(&[Rule::H11]);
    run(refused(RefuseReason::TooLarge), Change::Add).breaks(&[]);
}

#[test]
fn freshness_counts_from_the_end_of_the_last_fault() {
    let nemesis = |phase, fired| What::Nemesis {
        what: "kill".to_owned(),
        target: "db_proxy".to_owned(),
        phase,
        fired,
    };
    let mut run = Run::new();
    run.shown(2, 1, 1).add(nemesis(Phase::Start, 0)).add(nemesis(Phase::End, 3));
    run.shown(2, 2, 2).shown(2, 3, 3).shown(2, 4, 4).all_stored();
    let within = |ms| Thresholds {
        freshness: Some(Duration::from_millis(ms)),
        min_faults: 3,
        ..Thresholds::default()
    };
    let report = check(&run.events, &within(3));
    assert_eq!(report.verdict, Verdict::Clean, "{report}");
    let fresh = report.figures.freshness.expect("a fault ended");
    assert_eq!((fresh.max_us, fresh.p99_us), (3_000, 3_000));
    assert!(broken(&run.events, &within(2)).contains(&Rule::H9));
    // What is acknowledged later does not count.
    run.invoke(5).ok(5, 5);
    let what = What::Shown(Run::delivery(2, 5, 5));
    run.events.push(Event { at: 100, us: 900_000, what });
    assert!(!broken(&run.events, &within(3)).contains(&Rule::H9));
}

#[test]
fn derived_numbers_are_recomputed() {
    let derived = |user, unread, head| What::Derived { user, conv: pair(), unread, head };
    // Even numbers are said by user 1.
    Run::new().all_stored().add(derived(1, 2, 4)).add(derived(2, 2, 4)).breaks(&[]);
    Run::new().all_stored().add(derived(1, 3, 4)).breaks(&[Rule::H10]);
    Run::new().all_stored().add(derived(1, 2, 3)).breaks(&[Rule::H10]);
    let mark = What::Mark { user: 1, conv: pair(), upto: 2, phase: Progress::Ok };
    Run::new().all_stored().add(mark.clone()).add(derived(1, 1, 4)).breaks(&[]);
    Run::new().all_stored().add(mark).add(derived(1, 2, 4)).breaks(&[Rule::H10]);
}

#[test]
fn an_answer_is_given_once_and_to_something_that_was_said() {
    let fail = |number| What::Fail { mid: mid(number), code: 1 };
    Run::new().all_stored().add(fail(2)).breaks(&[Rule::H11]);
    Run::new().all_stored().add(fail(9)).breaks(&[Rule::H11]);
    Run::new().all_stored().ok(2, 2).breaks(&[]); // The same again is no other answer.
}

#[test]
fn a_run_without_anything_is_void() {
    let report = check(&[], &Thresholds::default());
    assert_eq!(report.verdict, Verdict::Void, "{report}");
}

#[test]
fn figures_tell_how_long_answers_took() {
    let mut run = Run::new(); // Each is answered a millisecond after it is said.
    run.invoke(5).invoke(7).add(What::Counters { retries: 2, repairs: 1 }).ok(5, 5).ok(7, 6);
    let whole = latency(&run.events, 0..u64::MAX);
    assert_eq!((whole.count, whole.p50_us, whole.max_us), (6, 1_000, 3_000));
    assert_eq!(latency(&run.events, 0..8_500).max_us, 1_000);
    assert_eq!(next_ack(&run.events, 8_000), Some(12_000));
    assert_eq!(next_ack(&run.events, 13_000), None);
    // User 2 says the odd ones.
    assert_eq!(stalls(&run.events, 0..u64::MAX), [(1, 1_000), (2, 3_000)].into());
    assert_eq!(stalls(&run.events, 0..10_000)[&2], 1_000);
    let figures = check(&run.events, &Thresholds::default()).figures;
    assert_eq!((figures.retries, figures.repairs, figures.timeline[0].ok), (2, 1, 6));
}
