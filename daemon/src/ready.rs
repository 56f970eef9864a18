//! Whether a daemon may be given work (ready), and whether it still moves (alive).
//!
//! Both are asked by the admin page and by the service manager. A daemon is ready when every
//! condition that one of its parts has named is met; with no conditions it is ready. It is alive
//! while every pulse has been beaten within its limit.

use std::sync::Arc;
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
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    parts: Vec<Readiness>,
    /// Of those that this one is a part of.
    wholes: Vec<Arc<Notify>>,
    conditions: Vec<(&'static str, bool)>,
    pulses: Vec<(&'static str, Duration, Instant)>,
}

/// One condition of readiness, not met at first.
#[derive(Debug)]
pub struct Condition {
    readiness: Readiness,
    index: usize,
}

/// The sign of life of one loop or thread.
#[derive(Debug)]
pub struct Pulse {
    readiness: Readiness,
    index: usize,
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
        let mut state = self.inner.state.lock();
        state.pulses.push((name, limit, Instant::now()));
        Pulse { readiness: self.clone(), index: state.pulses.len() - 1 }
    }

    /// Makes another daemon of this process a part of this one, which is then ready and alive only
    /// if that is. A daemon must not be made a part of itself.
    pub fn include(&self, part: &Self) {
        part.inner.state.lock().wholes.push(Arc::clone(&self.inner.changed));
        self.inner.state.lock().parts.push(part.clone());
        self.inner.changed.notify_waiters();
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
        let now = Instant::now();
        let state = self.inner.state.lock();
        let late = state.pulses.iter().filter(|(_name, limit, last)| now - *last > *limit);
        let own = late.map(|(name, _limit, _last)| *name);
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

impl Condition {
    /// Says whether the condition is met.
    pub fn set(&self, met: bool) {
        let Self { readiness, index } = self;
        let mut state = readiness.inner.state.lock();
        if let Some(condition) = state.conditions.get_mut(*index) {
            condition.1 = met;
        }
        readiness.inner.changed.notify_waiters();
        state.wholes.iter().for_each(|whole| whole.notify_waiters());
    }
}

impl Pulse {
    /// Shows that the loop still moves.
    pub fn beat(&self) {
        let now = Instant::now();
        if let Some(pulse) = self.readiness.inner.state.lock().pulses.get_mut(self.index) {
            pulse.2 = now;
        }
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
}
