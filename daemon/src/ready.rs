//! Whether a daemon may be given work (ready), and whether it still moves (alive).
//!
//! Both are asked by the admin page and by the service manager. A daemon is ready when every
//! condition that one of its parts has named is met; with no conditions it is ready. It is alive
//! while every pulse has been beaten within its limit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The conditions and pulses of one daemon. Clones are handles to the same daemon.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    parts: Vec<Readiness>,
    /// Those that this one is a part of. They hold it, not the other way round.
    wholes: Vec<Weak<Inner>>,
    conditions: Vec<(&'static str, bool)>,
    /// Of the loops and threads that have not ended.
    pulses: Vec<Weak<Beats>>,
}

/// One condition of readiness, not met at first.
#[derive(Debug)]
pub struct Condition {
    readiness: Readiness,
    index: usize,
}

/// The sign of life of one loop or thread. It is looked for until it is dropped.
#[derive(Debug)]
pub struct Pulse(Arc<Beats>);

#[derive(Debug)]
struct Beats {
    name: &'static str,
    limit: Duration,
    began: Instant,
    /// When it was beaten last, in microseconds since it began.
    last_us: AtomicU64,
}

impl Readiness {
    /// Adds a condition that must be met before the daemon is ready, and again after it is unmet.
    pub fn condition(&self, name: &'static str) -> Condition {
        let mut state = self.inner.state.lock();
        state.conditions.push((name, false));
        Condition { readiness: self.clone(), index: state.conditions.len() - 1 }
    }

    /// Adds a pulse that must be beaten at least once in every `limit`, beginning here.
    pub fn pulse(&self, name: &'static str, limit: Duration) -> Pulse {
        let (began, last_us) = (Instant::now(), AtomicU64::new(0));
        let beats = Arc::new(Beats { name, limit, began, last_us });
        let mut state = self.inner.state.lock();
        state.pulses.retain(|beats| beats.strong_count() > 0);
        state.pulses.push(Arc::downgrade(&beats));
        Pulse(beats)
    }

    /// Makes another daemon of this process a part of this one, which is then ready and alive only
    /// if that is. A daemon must not be made a part of itself.
    pub fn include(&self, part: &Self) {
        part.inner.state.lock().wholes.push(Arc::downgrade(&self.inner));
        self.inner.state.lock().parts.push(part.clone());
        self.inner.tell();
    }

    /// Whether every condition is met.
    pub fn is_ready(&self) -> bool {
        self.unmet().is_empty()
    }

    /// The conditions that are not met.
    pub fn unmet(&self) -> Vec<&'static str> {
        let state = self.inner.state.lock();
        let own = state.conditions.iter().filter(|(_name, met)| !met).map(|(name, _met)| *name);
        own.chain(state.parts.iter().flat_map(Self::unmet)).collect()
    }

    /// The pulses that have not been beaten in time: the daemon is alive while there are none.
    pub fn stalled(&self) -> Vec<&'static str> {
        let state = self.inner.state.lock();
        let late = state.pulses.iter().filter_map(Weak::upgrade).filter(|beats| beats.are_late());
        let own = late.map(|beats| beats.name);
        own.chain(state.parts.iter().flat_map(Self::stalled)).collect()
    }

    /// Completes when every condition is met. Cancel-safe.
    pub async fn ready(&self) {
        self.when(|unmet| unmet.is_empty().then_some(())).await;
    }

    /// Completes when other conditions are unmet than those in `known`, and returns these. Cancel-safe.
    pub async fn differs_from(&self, known: &[&'static str]) -> Vec<&'static str> {
        self.when(|unmet| (unmet != known).then_some(unmet)).await
    }

    async fn when<T>(&self, look: impl Fn(Vec<&'static str>) -> Option<T>) -> T {
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            // Enabled before looking, so that a change between the look and the wait is not lost.
            changed.as_mut().enable();
            if let Some(found) = look(self.unmet()) {
                return found;
            }
            changed.await;
        }
    }
}

impl Inner {
    /// Wakes the tasks that wait for a change of this, or of anything that this is a part of.
    fn tell(&self) {
        self.changed.notify_waiters();
        // Not under the lock: a whole takes its own first, and then those of its parts.
        let wholes = self.state.lock().wholes.clone();
        wholes.iter().filter_map(Weak::upgrade).for_each(|whole| whole.tell());
    }
}

impl Condition {
    /// Says whether the condition is met.
    pub fn set(&self, met: bool) {
        let Self { readiness, index } = self;
        if let Some(condition) = readiness.inner.state.lock().conditions.get_mut(*index) {
            condition.1 = met;
        }
        readiness.inner.tell();
    }
}

impl Pulse {
    /// Shows that the loop still moves. Costs a look at the clock.
    pub fn beat(&self) {
        self.0.last_us.store(self.0.age_us(), Ordering::Relaxed);
    }
}

impl Beats {
    fn age_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn are_late(&self) -> bool {
        let silent_us = self.age_us().saturating_sub(self.last_us.load(Ordering::Relaxed));
        Duration::from_micros(silent_us) > self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_all_conditions_are_met_and_only_as_long() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready(), "nothing was asked for");
        let (store, hub) = (readiness.condition("store"), readiness.condition("hub"));
        store.set(true);
        assert_eq!(readiness.unmet(), ["hub"]);

        let waiting = readiness.clone();
        tokio::join!(async move { waiting.ready().await }, async { hub.set(true) });
        store.set(false);
        assert!(!readiness.is_ready());
    }

    #[tokio::test]
    async fn each_change_of_what_is_unmet_is_told_and_nothing_else() {
        let readiness = Readiness::default();
        let (store, hub) = (readiness.condition("store"), readiness.condition("hub"));
        let first = readiness.differs_from(&[]).await;
        assert_eq!(first, ["store", "hub"]);
        store.set(true);
        let second = readiness.differs_from(&first).await;
        assert_eq!(second, ["hub"]);
        store.set(true);
        let third = readiness.differs_from(&second);
        let (last, ()) = tokio::join!(third, async { hub.set(true) });
        assert!(last.is_empty(), "{last:?}");
    }

    #[tokio::test]
    async fn a_whole_is_ready_when_its_parts_are() {
        let (whole, part) = (Readiness::default(), Readiness::default());
        whole.include(&part);
        let store = part.condition("store");
        assert_eq!(whole.unmet(), ["store"]);
        let waiting = whole.clone();
        tokio::join!(async move { waiting.ready().await }, async { store.set(true) });
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_waits_for_a_whole_hears_of_the_parts_of_its_parts() {
        let (whole, part, inner) = <(Readiness, Readiness, Readiness)>::default();
        part.include(&inner);
        let hub = inner.condition("hub");
        whole.include(&part);
        let limit = Duration::from_secs(1);
        let ready = tokio::time::timeout(limit, whole.ready());
        let (ready, ()) = tokio::join!(ready, async { hub.set(true) });
        ready.expect("it is told");

        // So it does when another part is added, and when one is not ready again.
        let late = Readiness::default();
        let _store = late.condition("store");
        let differs = tokio::time::timeout(limit, whole.differs_from(&[]));
        let (unmet, ()) = tokio::join!(differs, async { inner.include(&late) });
        assert_eq!(unmet.expect("it is told"), ["store"]);
        let differs = tokio::time::timeout(limit, whole.differs_from(&["store"]));
        let (unmet, ()) = tokio::join!(differs, async { hub.set(false) });
        assert_eq!(unmet.expect("it is told"), ["hub", "store"]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_pulse_is_its_own_and_those_of_parts_count() {
        let (whole, part) = (Readiness::default(), Readiness::default());
        whole.include(&part);
        let reader = whole.pulse("reader", Duration::from_secs(10));
        let writer = part.pulse("writer", Duration::from_secs(10));
        let slow = part.pulse("slow", Duration::from_mins(1));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(whole.stalled(), ["reader", "writer"]);
        assert_eq!(part.stalled(), ["writer"]);
        slow.beat();
        assert_eq!(part.stalled(), ["writer"]);
        writer.beat();
        assert_eq!(whole.stalled(), ["reader"]);
        reader.beat();
        assert!(whole.stalled().is_empty());
        assert!(whole.is_ready(), "that it moves is another matter");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pulse_that_is_not_beaten_in_time_is_stalled_until_it_is() {
        let readiness = Readiness::default();
        let pulse = readiness.pulse("writer", Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(readiness.stalled().is_empty());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(readiness.stalled(), ["writer"]);
        pulse.beat();
        assert!(readiness.stalled().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_ended_is_not_looked_for() {
        let (whole, part) = (Readiness::default(), Readiness::default());
        whole.include(&part);
        let (first, _second) =
            (part.pulse("first", Duration::ZERO), part.pulse("second", Duration::ZERO));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(whole.stalled(), ["first", "second"]);
        drop(first);
        assert_eq!(whole.stalled(), ["second"]);
        let _third = part.pulse("third", Duration::from_hours(1));
        assert_eq!(part.inner.state.lock().pulses.len(), 2, "no place is kept for it");
    }
}
