//! A history in which nothing is wrong, spoilt in one place: the right rules find it, and no others.

mod notices;
mod said;
mod told;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::OnceLock;
use std::time::Duration;

use super::broken;
use crate::Random;
use crate::history::check::{Rule, Thresholds, Verdict, check};
use crate::history::event::{Event, Mid, Phase, Row, Sha, What};
use crate::history::{generate, shrink};

const SEEDS: u64 = 8;
const EVENTS: usize = 4_500;

/// Spoils a history. `None` if it has no place for that.
type Mutation = fn(&mut Vec<Event>, &mut Random) -> Option<()>;

/// All of them, and the rules that must find each.
const MUTATIONS: &[(&str, &[Rule], Mutation)] = &[
    ("the last row of a history is gone", &[Rule::H1], said::drop_last_row),
    ("a row in the middle is gone", &[Rule::H1, Rule::H5], said::drop_middle_row),
    ("a device does not have a message in the end", &[Rule::H1], said::drop_from_final),
    ("a row is there again", &[Rule::H2, Rule::H10], said::repeat_row),
    ("a row is listed twice", &[Rule::H2], said::list_row_twice),
    ("of two in the same words one is not there", &[Rule::H1, Rule::H5], said::drop_second),
    ("two in the same words are one", &[Rule::H2, Rule::H3, Rule::H4], said::join_two),
    ("words are there once more than they were said", &[Rule::H2, Rule::H10], said::store_third),
    ("a message is shown under another id", &[Rule::H2], said::change_mid),
    ("two rows have changed places", &[Rule::H3], said::swap_rows),
    ("the last row has another number", &[Rule::H3, Rule::H5, Rule::H10], said::renumber_row),
    ("an acknowledgement names another number", &[Rule::H3, Rule::H4], said::change_ack),
    ("a device was shown something else", &[Rule::H3], said::change_shown),
    ("two messages of one device changed places", &[Rule::H4], said::swap_invokes),
    ("a message was said later than it seemed", &[Rule::H4], said::delay_invoke),
    ("there is a row that nobody said", &[Rule::H6, Rule::H10], said::invent_row),
    ("a message that is there was refused", &[Rule::H6], said::refuse_stored),
    ("a device was told what nobody said", &[Rule::H6], told::invent_push),
    ("a client left a message out", &[Rule::H7], told::drop_shown),
    ("a client showed a message twice", &[Rule::H7], told::repeat_shown),
    ("a client passed a message", &[Rule::H7], told::skip_shown),
    ("a push is lost", &[Rule::H7], told::drop_push),
    ("two pushes changed places", &[Rule::H7], told::swap_pushes),
    ("a push came twice", &[Rule::H7], told::repeat_push),
    ("a history claims to be complete", &[Rule::H7], told::drop_pulled_row),
    ("a history claims to be empty", &[Rule::H7], told::empty_pull),
    ("a watermark passes what was not seen", &[Rule::H7], told::raise_watermark),
    ("a watermark goes back", &[Rule::H7], told::lower_watermark),
    ("somebody else was told a message", &[Rule::H8], told::tell_stranger),
    ("a former member reads on", &[Rule::H8], told::read_on),
    ("a device was late", &[Rule::H9], told::delay_delivery),
    ("an unread count is wrong", &[Rule::H10], said::change_unread),
    ("a newest number is wrong", &[Rule::H10], said::change_head),
    ("an acknowledgement is taken back", &[Rule::H11], said::take_back),
    ("something is answered that nobody said", &[Rule::H11], said::answer_nothing),
    ("a message has two times", &[Rule::H3], notices::change_time),
    ("time goes back", &[Rule::H4], notices::turn_time_back),
    ("a frame is lost on the way", &[Rule::H7], notices::drop_frame),
    ("a frame comes twice", &[Rule::H7], notices::repeat_frame),
    ("two frames changed places", &[Rule::H7], notices::swap_frames),
    ("a connection is told what it said", &[Rule::H7], notices::tell_own),
    ("a frame comes to a stranger", &[Rule::H8], notices::send_frame_to_stranger),
    ("a device is told of a mark that nobody set", &[Rule::H10], notices::tell_false_mark),
    ("a device is told of a mark twice", &[Rule::H10], notices::tell_mark_twice),
    ("a device is thrown out for nobody", &[Rule::H13], notices::throw_out),
    ("two phones of a user are there in the end", &[Rule::H13], notices::seat_two),
    ("a device is not told of a change", &[Rule::H14], notices::tell_no_members),
    ("a device is told of a change twice", &[Rule::H14], notices::tell_members_twice),
    ("a device is told of a change that was not made", &[Rule::H14], notices::tell_false_members),
    ("a device takes somebody for offline", &[Rule::H14], notices::tell_false_presence),
];

fn thresholds() -> Thresholds {
    Thresholds {
        min_acked: 100,
        min_faults: 1,
        min_retries: 10,
        min_repairs: 10,
        freshness: Some(Duration::from_secs(5)),
    }
}

/// A generated history with a fault, at the end of which something is outstanding.
fn clean(seed: u64) -> Vec<Event> {
    static MADE: OnceLock<Vec<Vec<Event>>> = OnceLock::new();
    let made = MADE.get_or_init(|| (0..SEEDS).map(make).collect());
    made[usize::try_from(seed).expect("it is small")].clone()
}

fn make(seed: u64) -> Vec<Event> {
    let mut events = generate(EVENTS, seed);
    let nemesis = |phase, fired| What::Nemesis {
        what: "kill".to_owned(),
        target: "msg_server-1".to_owned(),
        phase,
        fired,
    };
    // A tenth before the end: what is delivered after that was partly said before.
    let (start, end) = (events.len() / 2, events.len() * 7 / 10);
    events.insert(end, Event { what: nemesis(Phase::End, 1), ..events[end].clone() });
    events.insert(start, Event { what: nemesis(Phase::Start, 0), ..events[start].clone() });
    events.retain(
        |event| !matches!(&event.what, What::Nemesis { target, .. } if target == "db_proxy"),
    );
    renumber(&mut events);
    events
}

fn renumber(events: &mut [Event]) {
    // What was asked before an event is still asked before that event.
    let old: Vec<u64> = events.iter().map(|event| event.at).collect();
    for (event, at) in events.iter_mut().zip(1..) {
        event.at = at;
        if let What::Pull { asked: Some(asked), .. } = &mut event.what {
            *asked = old.partition_point(|at| *at <= *asked) as u64;
        }
    }
}

#[test]
fn a_history_without_faults_is_clean() {
    for seed in 0..SEEDS {
        let report = check(&clean(seed), &thresholds());
        assert_eq!(report.verdict, Verdict::Clean, "seed {seed}: {report}");
        assert!(report.figures.acked > 150 && report.figures.windows.len() == 1);
    }
}

#[test]
fn every_mutation_is_found_by_its_rules_and_by_no_others() {
    for (name, rules, mutation) in MUTATIONS {
        let mut applied = 0;
        for seed in 0..SEEDS {
            let mut events = clean(seed);
            if mutation(&mut events, &mut Random::from_seed(seed)).is_none() {
                continue;
            }
            applied += 1;
            renumber(&mut events);
            let report = check(&events, &thresholds());
            let found: BTreeSet<Rule> = report.broken.keys().copied().collect();
            let expected: BTreeSet<Rule> = rules.iter().copied().collect();
            assert_eq!(found, expected, "{name}, seed {seed}: {report}");
            assert_eq!(report.verdict, Verdict::Broken);
        }
        assert!(applied >= SEEDS / 3, "{name}: there is a place for it in enough histories");
    }
}

#[test]
fn an_example_breaks_the_rule_by_itself_and_is_small() {
    for (name, _rules, mutation) in MUTATIONS {
        let mut events = clean(1);
        if mutation(&mut events, &mut Random::from_seed(1)).is_none() {
            continue;
        }
        renumber(&mut events);
        for violation in check(&events, &thresholds()).violations {
            let rule = violation.rule;
            // Mostly three or four; more where it takes events to show who was a member when.
            assert!(violation.example.len() <= 12, "{name}: {violation}");
            // These compare with everything that there is.
            if ![Rule::H9, Rule::H10, Rule::H14].contains(&rule) {
                let found = broken(&violation.example, &thresholds());
                assert!(found.contains(&rule), "{name}: {found:?} {violation}");
            }
        }
    }
}

#[test]
fn a_broken_history_shrinks_and_stays_broken() {
    for (name, rules, mutation) in MUTATIONS {
        let mut events = clean(2);
        if mutation(&mut events, &mut Random::from_seed(2)).is_none() {
            continue;
        }
        renumber(&mut events);
        let shrunk = shrink(&events, &thresholds()).expect("it is broken");
        assert!(rules.contains(&shrunk.rule), "{name}: {:?}", shrunk.rule);
        assert!(broken(&shrunk.events, &thresholds()).contains(&shrunk.rule), "{name}");
        let (left, all) = (shrunk.events.len(), events.len());
        assert!(shrunk.is_smaller && left < all / 2, "{name}: {left} of {all}");
    }
    assert_eq!(shrink(&clean(2), &thresholds()), None);
}

#[test]
fn a_run_in_which_too_little_happened_is_void() {
    let events = clean(3);
    let figures = check(&events, &thresholds()).figures;
    let limits = thresholds();
    let faults: u64 = figures.faults.values().sum();
    for (needs, text) in [
        (Thresholds { min_acked: figures.acked + 1, ..limits }, "acknowledged"),
        (Thresholds { min_faults: faults + 1, ..limits }, "faults"),
        (Thresholds { min_retries: figures.retries + 1, ..limits }, "again"),
        (Thresholds { min_repairs: figures.repairs + 1, ..limits }, "fetched"),
    ] {
        let report = check(&events, &needs);
        assert_eq!(report.verdict, Verdict::Void);
        assert!(report.void.len() == 1 && report.void[0].contains(text), "{:?}", report.void);
    }
    let mut unread = events;
    let place = unread.iter().position(|event| matches!(event.what, What::Stored { .. }));
    unread.remove(place.expect("histories are read in the end"));
    let report = check(&unread, &limits);
    assert_eq!(report.verdict, Verdict::Void, "{report}");
}

#[test]
fn what_was_neither_shown_nor_acknowledged_may_be_missing() {
    let mut changed = 0;
    for seed in 0..SEEDS {
        let mut events = clean(seed);
        for event in &mut events {
            if let What::Fail { mid, .. } = event.what {
                event.what = What::Info { mid };
                changed += 1;
            }
        }
        assert_eq!(broken(&events, &thresholds()), BTreeSet::new(), "seed {seed}");
    }
    assert!(changed > 0, "some are refused");
}

/// A random one of the events that fit.
fn any(events: &[Event], random: &mut Random, fits: impl Fn(&What) -> bool) -> Option<usize> {
    let places: Vec<usize> = (0..events.len()).filter(|place| fits(&events[*place].what)).collect();
    let count = u64::try_from(places.len()).ok().filter(|count| *count > 0)?;
    Some(places[usize::try_from(random.below(count)).ok()?])
}

fn acked(events: &[Event]) -> HashSet<Mid> {
    let oks = events.iter().filter(|event| matches!(event.what, What::Ok { .. }));
    oks.filter_map(|event| event.what.outcome_of()).collect()
}

/// Words that are one message.
fn said_once(events: &[Event]) -> HashSet<Sha> {
    let mut counts: HashMap<Sha, u32> = HashMap::new();
    for event in events {
        if let What::Invoke { sha, .. } = event.what {
            *counts.entry(sha).or_default() += 1;
        }
    }
    counts.retain(|_, count| *count == 1);
    counts.into_keys().collect()
}

fn rows(event: &mut Event) -> &mut Vec<Row> {
    event.what.rows_mut().expect("it has rows")
}
