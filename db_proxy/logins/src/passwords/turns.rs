//! Whose hash is computed next: in turn by network, so that a flood from some waits for itself.
//!
//! ```text
//! names that exist ──► networks in turn ──┐
//!                                         ├─► one of each, in turn ──► as many cores as are allowed
//! names that do not ─► networks in turn ──┘
//! ```
//!
//! # Invariants
//!
//! - Names that exist get at least half of the turns and half of the places, as long as any wait.
//! - Of several networks the one with the fewest recent wrong passwords is next, then the one whose last
//!   turn is the longest ago.
//! - A login that has its turn keeps it until its hash is computed, even if it no longer waits.
//!
//! # What bounds it
//!
//! As many wait as the caller allows. When the places are taken, the newest of the network with the most
//! waiting gives way, and is told that there are too many. [`NETWORKS_MAX`] networks of which it is known
//! what was wrong.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cache::bounded;
use daemon::metrics::Gauge;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Networks whose wrong passwords are remembered.
const NETWORKS_MAX: usize = 65_536;

/// How long they are.
const WRONG_KEPT: Duration = Duration::from_mins(10);

/// The logins that wait for a core. Clones share everything.
#[derive(Clone)]
pub(super) struct Turns {
    state: Arc<Mutex<State>>,
    /// How many wait or have a core.
    shown: Gauge,
}

struct State {
    running: usize,
    running_max: usize,
    /// The lane of names that do not exist, and that of names that do.
    lanes: [Lane; 2],
    /// Which lane is next if both wait.
    next: usize,
    /// Counts turns.
    turn: u64,
    wrong: LruCache<String, (u32, Instant)>,
}

#[derive(Default)]
struct Lane {
    networks: HashMap<String, NetworkQueue>,
    waiting: usize,
}

/// The logins of one network. Never empty.
struct NetworkQueue {
    waiting: VecDeque<oneshot::Sender<Core>>,
    /// When it came, or had its last turn.
    turn: u64,
}

/// The right to compute a hash, until it is dropped.
pub(super) struct Core {
    turns: Option<Turns>,
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Turns").field("running", &state.running).finish_non_exhaustive()
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

/// Counts a login for as long as it waits.
struct Shown<'a>(&'a Gauge);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Turns {
    pub(super) fn new(running_max: usize) -> Self {
        let state = State {
            running: 0,
            running_max,
            lanes: [Lane::default(), Lane::default()],
            next: 1,
            turn: 0,
            wrong: bounded(NETWORKS_MAX),
        };
        Self { state: Arc::new(Mutex::new(state)), shown: Gauge::default() }
    }

    /// How many wait or have a core.
    pub(super) fn shown(&self) -> &Gauge {
        &self.shown
    }

    /// Waits for a core, among at most `places` others. `None`: there are too many.
    ///
    /// Cancel-safe: a login that no longer waits is passed over.
    pub(super) async fn wait(&self, network: &str, exists: bool, places: usize) -> Option<Core> {
        let turn = {
            let mut state = self.state.lock();
            if state.running < state.running_max {
                state.running += 1;
                drop(state);
                return Some(Core::new(self));
            }
            state.enter(network, usize::from(exists), places)?
        };
        self.shown.inc();
        let _shown = Shown(&self.shown);
        turn.await.ok()
    }

    /// A password from this network was wrong.
    pub(super) fn was_wrong(&self, network: &str, now: Instant) {
        let mut state = self.state.lock();
        let wrong = state.wrong.get_or_insert_mut(network.to_owned(), || (0, now));
        let kept = if now - wrong.1 < WRONG_KEPT { wrong.0 } else { 0 };
        *wrong = (kept.saturating_add(1), now);
    }

    /// Hands a core on, or puts it back.
    fn hand_on(&self) {
        let mut state = self.state.lock();
        while let Some(next) = state.next() {
            let core = Core::new(self);
            match next.send(core) {
                Ok(()) => return,
                Err(core) => core.forget(),
            }
        }
        state.running -= 1;
    }
}

impl Core {
    fn new(turns: &Turns) -> Self {
        turns.shown.inc();
        Self { turns: Some(turns.clone()) }
    }

    /// No login took it, so it was not handed out.
    fn forget(mut self) {
        if let Some(turns) = self.turns.take() {
            turns.shown.dec();
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.shown.dec();
            turns.hand_on();
        }
    }
}

impl State {
    /// Queues a login; `None` if there are too many.
    fn enter(
        &mut self,
        network: &str,
        lane: usize,
        places: usize,
    ) -> Option<oneshot::Receiver<Core>> {
        let waiting: usize = self.lanes.iter().map(|lane| lane.waiting).sum();
        if waiting >= places {
            self.tidy();
        }
        let waiting: usize = self.lanes.iter().map(|lane| lane.waiting).sum();
        if waiting >= places {
            let own = self.lanes.get(lane)?.waiting;
            // The other has more than its half if this one has less.
            let gives = if own < places.div_ceil(2) { 1 - lane } else { lane };
            self.give_way(gives, (gives == lane).then_some(network))?;
        }
        let (sender, receiver) = oneshot::channel();
        let turn = self.turn;
        let lane = self.lanes.get_mut(lane)?;
        lane.waiting += 1;
        let queue = lane.networks.entry(network.to_owned());
        let queue = queue.or_insert_with(|| NetworkQueue { waiting: VecDeque::new(), turn });
        queue.waiting.push_back(sender);
        Some(receiver)
    }

    /// Turns away the newest login of the network with the most waiting. `None` if that is `newcomer`,
    /// which is not among them yet.
    fn give_way(&mut self, lane: usize, newcomer: Option<&str>) -> Option<()> {
        let now = Instant::now();
        let lane = self.lanes.get_mut(lane)?;
        let wrong = |network: &str| wrong_of(&self.wrong, network, now);
        let weight = |network: &str, waiting: usize| (waiting, wrong(network));
        let (network, queue) = lane
            .networks
            .iter()
            .max_by_key(|(network, queue)| weight(network, queue.waiting.len()))?;
        if let Some(newcomer) = newcomer {
            let own = lane.networks.get(newcomer).map_or(0, |queue| queue.waiting.len());
            if weight(newcomer, own + 1) >= weight(network, queue.waiting.len()) {
                return None;
            }
        }
        let network = network.clone();
        lane.take(&network, VecDeque::pop_back).map(drop)
    }

    /// The login that is next.
    fn next(&mut self) -> Option<oneshot::Sender<Core>> {
        let now = Instant::now();
        for lane in [self.next, 1 - self.next] {
            let wrong = |network: &str| wrong_of(&self.wrong, network, now);
            let of_lane = self.lanes.get_mut(lane)?;
            let network = of_lane
                .networks
                .iter()
                .min_by_key(|(network, queue)| (wrong(network), queue.turn, network.as_str()))
                .map(|(network, _queue)| network.clone());
            let Some(network) = network else { continue };
            self.turn += 1;
            let turn = self.turn;
            if let Some(queue) = of_lane.networks.get_mut(&network) {
                queue.turn = turn;
            }
            self.next = 1 - lane;
            return of_lane.take(&network, VecDeque::pop_front);
        }
        None
    }

    /// Forgets the logins that no longer wait.
    fn tidy(&mut self) {
        for lane in &mut self.lanes {
            for queue in lane.networks.values_mut() {
                queue.waiting.retain(|waiting| !waiting.is_closed());
            }
            lane.networks.retain(|_network, queue| !queue.waiting.is_empty());
            lane.waiting = lane.networks.values().map(|queue| queue.waiting.len()).sum();
        }
    }
}

impl Lane {
    fn take(
        &mut self,
        network: &str,
        pop: fn(&mut VecDeque<oneshot::Sender<Core>>) -> Option<oneshot::Sender<Core>>,
    ) -> Option<oneshot::Sender<Core>> {
        let queue = self.networks.get_mut(network)?;
        let taken = pop(&mut queue.waiting)?;
        self.waiting -= 1;
        if queue.waiting.is_empty() {
            self.networks.remove(network);
        }
        Some(taken)
    }
}

/// How many passwords of a network were wrong recently.
fn wrong_of(wrong: &LruCache<String, (u32, Instant)>, network: &str, now: Instant) -> u32 {
    wrong.peek(network).filter(|(_, at)| now - *at < WRONG_KEPT).map_or(0, |(wrong, _at)| *wrong)
}

#[cfg(test)]
mod tests;
