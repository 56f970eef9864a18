//! What happened in a run, in numbers, and how long answers took.
//!
//! Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use serde::Serialize;

use super::event::{Event, Mid, Phase, What};
use super::index::Index;

/// A run in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Events.
    pub events: usize,
    /// Microseconds from the first to the last.
    pub us: u64,
    /// Conversations in which something was said.
    pub conversations: usize,
    /// Devices that were told something.
    pub devices: usize,
    /// Messages said.
    pub said: u64,
    /// Messages acknowledged.
    pub acked: u64,
    /// Messages refused.
    pub failed: u64,
    /// Messages of which it is not known.
    pub unknown: u64,
    /// Messages that devices received, by push, history or library.
    pub received: u64,
    /// Messages in the histories of the end.
    pub stored: u64,
    /// Faults that really happened, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Messages sent again.
    pub retries: u64,
    /// Messages missed and fetched.
    pub repairs: u64,
    /// How long answers took.
    pub latency: Latency,
    /// How soon everybody had everything after the last fault.
    pub freshness: Option<Freshness>,
    /// Outcomes in each second.
    pub timeline: Vec<Second>,
    /// Outcomes while each fault lasted.
    pub windows: Vec<Window>,
}

/// How long answers took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Answers.
    pub count: usize,
    /// Half of them took no longer.
    pub p50_us: u64,
    /// All but one in a hundred took no longer.
    pub p99_us: u64,
    /// None took longer.
    pub max_us: u64,
}

/// How soon everybody who is online had everything after the last fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Freshness {
    /// Devices.
    pub devices: usize,
    /// All but one in a hundred took no longer.
    pub p99_us: u64,
    /// None took longer.
    pub max_us: u64,
    /// How long the last one took to be connected again, which is not counted above.
    pub reconnected_us: u64,
}

/// Outcomes in one second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Second {
    /// Messages acknowledged.
    pub ok: u32,
    /// Messages of which it is not known.
    pub info: u32,
    /// Messages refused.
    pub fail: u32,
}

/// Outcomes while a fault lasted.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Window {
    /// Which fault.
    pub what: String,
    /// To whom.
    pub target: String,
    /// When it began.
    pub start_us: u64,
    /// When it ended; the end of the run if it did not.
    pub end_us: u64,
    /// Outcomes meanwhile.
    pub outcomes: Second,
    /// How long answers took that came meanwhile.
    pub latency: Latency,
    /// The longest time without an acknowledgement.
    pub stall_us: u64,
}

/// An acknowledgement: when it came, and how long it took.
type Ack = (u64, u64);

impl Figures {
    pub(super) fn new(index: &Index<'_>, freshness: Option<Freshness>) -> Self {
        let events = index.events;
        let first = events.first().map_or(0, |event| event.us);
        let last = events.last().map_or(0, |event| event.us);
        let acks = acks(events);
        let mut figures = Self {
            events: events.len(),
            us: last.saturating_sub(first),
            conversations: index.said_in().count(),
            said: index.sends.len() as u64,
            latency: Latency::of(&acks, 0..u64::MAX),
            freshness,
            ..Self::default()
        };
        for send in &index.sends {
            match (send.ok, send.fail) {
                (Some(_), _) => figures.acked += 1,
                (None, Some(_)) => figures.failed += 1,
                (None, None) => figures.unknown += 1,
            }
        }
        let mut devices = HashSet::new();
        for event in events {
            figures.count(event, &mut devices);
        }
        figures.devices = devices.len();
        figures.windows = windows(events, last, &acks);
        figures
    }

    fn count(&mut self, event: &Event, devices: &mut HashSet<(u32, u32)>) {
        let second = usize::try_from(event.us / 1_000_000).unwrap_or(usize::MAX);
        match &event.what {
            What::Push(it) | What::Shown(it) => {
                self.received += 1;
                devices.insert((it.user, it.device));
            }
            What::Pull { user, device, rows, .. } => {
                self.received += rows.len() as u64;
                devices.insert((*user, *device));
            }
            What::Stored { rows, .. } => self.stored += rows.len() as u64,
            What::Nemesis { what, phase: Phase::End, fired, .. } => {
                *self.faults.entry(what.clone()).or_default() += fired;
            }
            What::Counters { retries, repairs } => {
                self.retries += retries;
                self.repairs += repairs;
            }
            what if what.outcome_of().is_some() && second < SECONDS_MAX => {
                if self.timeline.len() <= second {
                    self.timeline.resize(second + 1, Second::default());
                }
                self.timeline.iter_mut().skip(second).take(1).for_each(|it| it.count(what));
            }
            _ => {}
        }
    }
}

/// Seconds in a timeline: a week. Nothing lasts longer; a clock that is wrong takes no memory.
const SECONDS_MAX: usize = 7 * 24 * 3600;

impl Second {
    const fn count(&mut self, what: &What) {
        match what {
            What::Ok { .. } => self.ok += 1,
            What::Info { .. } => self.info += 1,
            What::Fail { .. } => self.fail += 1,
            _ => {}
        }
    }
}

impl Latency {
    fn of(acks: &[Ack], within: Range<u64>) -> Self {
        let inside = acks.iter().filter(|(us, _)| within.contains(us));
        let mut took: Vec<u64> = inside.map(|(_, took)| *took).collect();
        took.sort_unstable();
        Self {
            count: took.len(),
            p50_us: quantile(&took, 0.5),
            p99_us: quantile(&took, 0.99),
            max_us: took.last().copied().unwrap_or(0),
        }
    }
}

/// How long the answers took that came between two moments, in microseconds of the run.
pub fn latency(events: &[Event], within: Range<u64>) -> Latency {
    Latency::of(&acks(events), within)
}

/// When the next acknowledgement came after a moment.
pub fn next_ack(events: &[Event], after_us: u64) -> Option<u64> {
    let from = events.partition_point(|event| event.us <= after_us);
    let mut later = events.iter().skip(from);
    later.find(|event| matches!(event.what, What::Ok { .. })).map(|event| event.us)
}

/// For each user, the longest time during which the user waited for acknowledgements and none
/// came.
pub fn stalls(events: &[Event], within: Range<u64>) -> BTreeMap<u32, u64> {
    let mut senders: HashMap<Mid, u32> = HashMap::new();
    // By user: what is unanswered, and since when nothing came.
    let mut waits: BTreeMap<u32, (u32, u64)> = BTreeMap::new();
    let mut stalls: BTreeMap<u32, u64> = BTreeMap::new();
    let mut note = |user, since: u64, until: u64| {
        let (since, until) = (since.max(within.start), until.min(within.end));
        let longest = stalls.entry(user).or_default();
        *longest = until.saturating_sub(since).max(*longest);
    };
    for event in events {
        if let What::Invoke { user, mid, .. } = event.what {
            senders.insert(mid, user);
            let (open, since) = waits.entry(user).or_default();
            if *open == 0 {
                *since = event.us;
            }
            *open += 1;
        } else if let Some(user) = event.what.outcome_of().and_then(|mid| senders.remove(&mid))
            && let Some((open, since)) = waits.get_mut(&user)
        {
            note(user, *since, event.us);
            *open -= 1;
            *since = event.us;
        }
    }
    let end = events.last().map_or(0, |event| event.us);
    for (user, (open, since)) in waits {
        if open > 0 {
            note(user, since, end);
        }
    }
    stalls
}

fn acks(events: &[Event]) -> Vec<Ack> {
    let mut said: HashMap<Mid, u64> = HashMap::new();
    let mut acks = Vec::new();
    for event in events {
        match event.what {
            What::Invoke { mid, .. } => drop(said.insert(mid, event.us)),
            What::Ok { mid, .. } => {
                if let Some(began) = said.remove(&mid) {
                    acks.push((event.us, event.us.saturating_sub(began)));
                }
            }
            _ => {}
        }
    }
    acks
}

fn windows(events: &[Event], end_us: u64, acks: &[Ack]) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    let mut open: HashMap<(&str, &str), usize> = HashMap::new();
    for event in events {
        match &event.what {
            What::Nemesis { what, target, phase: Phase::Start, .. } => {
                open.insert((what, target), windows.len());
                let (what, target) = (what.clone(), target.clone());
                let (start_us, end_us) = (event.us, end_us);
                windows.push(Window { what, target, start_us, end_us, ..Window::default() });
            }
            What::Nemesis { what, target, phase: Phase::End, .. } => {
                if let Some(window) = open.remove(&(what.as_str(), target.as_str()))
                    && let Some(window) = windows.get_mut(window)
                {
                    window.end_us = event.us;
                }
            }
            _ => {}
        }
    }
    let outcomes: Vec<&Event> =
        events.iter().filter(|event| event.what.outcome_of().is_some()).collect();
    for window in &mut windows {
        let from = outcomes.partition_point(|event| event.us < window.start_us);
        let upto = outcomes.partition_point(|event| event.us <= window.end_us);
        let mut last = window.start_us;
        for event in outcomes.iter().take(upto).skip(from) {
            window.outcomes.count(&event.what);
            if matches!(event.what, What::Ok { .. }) {
                window.stall_us = window.stall_us.max(event.us - last);
                last = event.us;
            }
        }
        window.stall_us = window.stall_us.max(window.end_us.saturating_sub(last));
        let (from, upto) = (
            acks.partition_point(|(us, _)| *us < window.start_us),
            acks.partition_point(|(us, _)| *us <= window.end_us),
        );
        window.latency = Latency::of(acks.get(from..upto).unwrap_or_default(), 0..u64::MAX);
    }
    windows
}

/// The value that this part of a sorted list does not exceed.
pub(super) fn quantile(sorted: &[u64], part: f64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "lists are shorter than 2^52"
    )]
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(0)
}
