//! Which event is sent next. Pure: time is an argument.
//!
//! Events of one conversation stand in one lane, and only the first of a lane is sent. A batch of records is
//! finished when all its events are, and all batches of its partition before it.
//!
//! It holds what its caller adds, and so is bounded by how many batches the caller takes before the first of
//! them is finished.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::event::{Event, Lane};
use super::schedule::Tries;

/// The events of some batches, each of which is a `B`.
#[derive(Debug)]
pub(super) struct Lanes<B> {
    queues: HashMap<Lane, Queue>,
    /// The lanes whose first event is to be sent, and when; those of one moment in the order in which they came
    /// to be here.
    due: BTreeSet<(Instant, u64, Lane)>,
    order: u64,
    /// By partition, in the order of its log.
    batches: HashMap<u32, VecDeque<Open<B>>>,
    /// Batches so far.
    added: u64,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Waiting>,
    /// Its place among those that are due; none while the first event is under way.
    due: Option<(Instant, u64)>,
}

#[derive(Debug)]
struct Waiting {
    event: Arc<Event>,
    tries: Tries,
    /// How many events the endpoint had taken at the last try of this one.
    taken_before: Option<u64>,
    /// The batch that it is of.
    of: (u32, u64),
}

/// A batch that is not finished.
#[derive(Debug)]
struct Open<B> {
    number: u64,
    batch: B,
    events_left: usize,
}

/// An event that is to be sent.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) event: Arc<Event>,
    /// This time included.
    pub(super) tries: Tries,
}

impl<B> Lanes<B> {
    /// There is nothing.
    pub(super) fn new() -> Self {
        Self {
            queues: HashMap::new(),
            due: BTreeSet::new(),
            order: 0,
            batches: HashMap::new(),
            added: 0,
        }
    }

    /// Adds the next batch of a partition, and its events in order.
    pub(super) fn add(&mut self, partition: u32, batch: B, events: Vec<Event>, now: Instant) {
        self.added += 1;
        let open = Open { number: self.added, batch, events_left: events.len() };
        self.batches.entry(partition).or_default().push_back(open);
        for event in events {
            let (lane, of) = (event.lane, (partition, self.added));
            let waiting =
                Waiting { event: Arc::new(event), tries: Tries::default(), taken_before: None, of };
            let queue = self.queues.entry(lane).or_default();
            queue.events.push_back(waiting);
            if queue.events.len() == 1 {
                self.set_due(lane, now);
            }
        }
    }

    fn set_due(&mut self, lane: Lane, at: Instant) {
        let Some(queue) = self.queues.get_mut(&lane) else { return };
        self.order += 1;
        queue.due = Some((at, self.order));
        self.due.insert((at, self.order, lane));
    }

    /// The event that is to be sent now, if there is one. Its lane waits until it is [`Self::done`] or
    /// [`Self::again`]. `taken`: how many events the endpoint has taken.
    pub(super) fn next(&mut self, now: Instant, taken: u64) -> Option<Job> {
        let first = *self.due.first().filter(|(at, ..)| *at <= now)?;
        self.due.remove(&first);
        let queue = self.queues.get_mut(&first.2)?;
        queue.due = None;
        let waiting = queue.events.front_mut()?;
        waiting.tries.all = waiting.tries.all.saturating_add(1);
        if waiting.taken_before.replace(taken).is_some_and(|before| before < taken) {
            waiting.tries.of_a_working_endpoint += 1;
        }
        Some(Job { event: Arc::clone(&waiting.event), tries: waiting.tries })
    }

    /// When the next event is to be sent.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// The event that was under way in a lane is delivered, or given up.
    pub(super) fn done(&mut self, lane: Lane, now: Instant) {
        let Some(queue) = self.queues.get_mut(&lane) else { return };
        if let Some(Waiting { of: (partition, number), .. }) = queue.events.pop_front() {
            let batches = self.batches.get_mut(&partition).into_iter().flatten();
            for open in batches.filter(|open| open.number == number) {
                open.events_left -= 1;
            }
        }
        if queue.events.is_empty() {
            self.queues.remove(&lane);
        } else {
            self.set_due(lane, now);
        }
    }

    /// The event that was under way in a lane is to be sent again then.
    pub(super) fn again(&mut self, lane: Lane, at: Instant) {
        self.set_due(lane, at);
    }

    /// What waits for its next try is due now.
    pub(super) fn wake(&mut self, now: Instant) {
        let waiting: Vec<_> = self.due.iter().filter(|(at, ..)| *at > now).copied().collect();
        for place in waiting {
            self.due.remove(&place);
            self.set_due(place.2, now);
        }
    }

    /// Takes out the batches that are finished, those of each partition in order.
    pub(super) fn finished(&mut self) -> Vec<B> {
        let mut finished = Vec::new();
        for batches in self.batches.values_mut() {
            while let Some(open) = batches.pop_front_if(|open| open.events_left == 0) {
                finished.push(open.batch);
            }
        }
        finished
    }

    /// When the oldest event that is here happened, Unix milliseconds.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        let firsts = self.queues.values().filter_map(|queue| queue.events.front());
        firsts.map(|waiting| waiting.event.happened_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn event(conversation: u64, number: u64) -> Event {
        Event {
            id: format!("{conversation}:{number}"),
            kind: "message.created",
            lane: Lane::Conversation(conversation),
            happened_ms: 100 * conversation + number,
            body: bytes::Bytes::new(),
        }
    }

    fn events(of: &[(u64, u64)]) -> Vec<Event> {
        of.iter().map(|(conversation, number)| event(*conversation, *number)).collect()
    }

    fn taken(lanes: &mut Lanes<&'static str>, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| lanes.next(now, 0)).map(|job| job.event.id.clone()).collect()
    }

    #[test]
    fn of_each_conversation_one_event_is_under_way() {
        let (mut lanes, now) = (Lanes::new(), Instant::now());
        lanes.add(0, "a", events(&[(1, 1), (1, 2), (2, 1)]), now);
        assert_eq!(taken(&mut lanes, now), ["1:1", "2:1"]);
        lanes.add(0, "b", events(&[(1, 3), (3, 1)]), now);
        assert_eq!(taken(&mut lanes, now), ["3:1"]);
        lanes.done(Lane::Conversation(1), now);
        assert_eq!(taken(&mut lanes, now), ["1:2"]);
        assert_eq!(lanes.due_at(), None);
    }

    #[test]
    fn a_batch_is_finished_with_its_last_event_and_after_those_before_it() {
        let (mut lanes, now) = (Lanes::new(), Instant::now());
        lanes.add(0, "a", events(&[(1, 1), (2, 1)]), now);
        lanes.add(0, "b", events(&[(3, 1)]), now);
        lanes.add(0, "empty", Vec::new(), now);
        lanes.add(1, "of another partition", Vec::new(), now);
        taken(&mut lanes, now);
        assert_eq!(lanes.finished(), ["of another partition"]);
        lanes.done(Lane::Conversation(3), now);
        lanes.done(Lane::Conversation(1), now);
        assert_eq!(lanes.finished(), [""; 0]);
        lanes.done(Lane::Conversation(2), now);
        assert_eq!(lanes.finished(), ["a", "b", "empty"]);
        assert_eq!(lanes.finished(), [""; 0]);
        assert!(lanes.queues.is_empty(), "nothing is left of a conversation that is done");
    }

    #[test]
    fn an_event_that_failed_holds_up_its_conversation_until_its_time_alone() {
        let (mut lanes, now) = (Lanes::new(), Instant::now());
        lanes.add(0, "a", events(&[(1, 1), (1, 2), (2, 1), (2, 2)]), now);
        taken(&mut lanes, now);
        let later = now + Duration::from_secs(5);
        lanes.again(Lane::Conversation(1), later);
        lanes.done(Lane::Conversation(2), now);
        assert_eq!(taken(&mut lanes, now), ["2:2"]);
        assert_eq!(lanes.due_at(), Some(later));
        assert_eq!(taken(&mut lanes, later - Duration::from_millis(1)), [""; 0]);
        let job = lanes.next(later, 0).unwrap();
        assert_eq!((job.event.id.as_str(), job.tries.all), ("1:1", 2));
    }

    #[test]
    fn a_try_is_of_a_working_endpoint_if_it_has_taken_others_since_the_try_before() {
        let (mut lanes, now) = (Lanes::new(), Instant::now());
        lanes.add(0, "a", events(&[(1, 1), (1, 2)]), now);
        let mut refusals = Vec::new();
        for taken in [5, 5, 6, 6, 9] {
            let job = lanes.next(now, taken).unwrap();
            refusals.push(job.tries.of_a_working_endpoint);
            lanes.again(Lane::Conversation(1), now);
        }
        assert_eq!(refusals, [0, 0, 1, 1, 2]);
        lanes.next(now, 9).unwrap();
        lanes.done(Lane::Conversation(1), now);
        assert_eq!(lanes.next(now, 20).unwrap().tries, Tries { all: 1, of_a_working_endpoint: 0 });
    }

    #[test]
    fn what_waits_is_due_at_once_when_the_endpoint_is_back() {
        let (mut lanes, now) = (Lanes::new(), Instant::now());
        lanes.add(0, "a", events(&[(1, 1), (2, 1), (3, 1)]), now);
        taken(&mut lanes, now);
        lanes.again(Lane::Conversation(2), now + Duration::from_hours(2));
        lanes.again(Lane::Conversation(1), now + Duration::from_hours(1));
        lanes.wake(now);
        assert_eq!(taken(&mut lanes, now), ["1:1", "2:1"], "3:1 is under way");
    }

    #[test]
    fn the_oldest_event_is_known() {
        let (mut lanes, now) = (Lanes::new(), Instant::now());
        assert_eq!(lanes.oldest_ms(), None);
        lanes.add(0, "a", events(&[(2, 1), (1, 5), (1, 6)]), now);
        assert_eq!(lanes.oldest_ms(), Some(105));
        taken(&mut lanes, now);
        lanes.done(Lane::Conversation(1), now);
        assert_eq!(lanes.oldest_ms(), Some(106));
    }
}
