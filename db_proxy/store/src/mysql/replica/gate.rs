//! Whether a replica is asked at all.
//!
//! ```text
//!           a failed or late answer
//!   open ────────────────────────────► shut for a rest ──► one call tries ──► shut for another rest
//!    ▲                                                           │
//!    └───────────────────────────────────────────────────────────┘ it was answered in time
//! ```
//!
//! Behind a shut gate no call waits. The one that tries waits for the limit of a call at most, once in a
//! rest.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What a call does about the replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Asks it.
    Ask,
    /// Looks whether it is the right one and back, then asks it.
    Try,
    /// Leaves it alone.
    Leave,
}

/// Open until it is shut.
#[derive(Debug)]
pub(super) struct Gate {
    rest: Duration,
    /// While it is shut: when a call tries next.
    next_try: Mutex<Option<Instant>>,
}

impl Gate {
    /// An open gate, which will be shut for `rest` at a time.
    pub(super) fn new(rest: Duration) -> Self {
        Self { rest, next_try: Mutex::new(None) }
    }

    /// What the call that comes now does.
    pub(super) fn turn(&self, now: Instant) -> Turn {
        let mut next_try = self.next_try.lock();
        match *next_try {
            None => Turn::Ask,
            Some(at) if now < at => Turn::Leave,
            Some(_) => {
                // Before it is known how the try ends: it may be dropped, and never says.
                *next_try = Some(now + self.rest);
                Turn::Try
            }
        }
    }

    /// A call has failed. Whether that has shut the gate: it may have been shut already.
    pub(super) fn shut(&self, now: Instant) -> bool {
        let mut next_try = self.next_try.lock();
        let was_open = next_try.is_none();
        if was_open {
            *next_try = Some(now + self.rest);
        }
        was_open
    }

    /// A try has succeeded. Whether that has opened the gate.
    pub(super) fn open(&self) -> bool {
        self.next_try.lock().take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(5);

    #[test]
    fn behind_a_shut_gate_one_call_tries_in_each_rest() {
        let (gate, began) = (Gate::new(REST), Instant::now());
        assert_eq!(gate.turn(began), Turn::Ask);
        assert!(gate.shut(began));
        assert_eq!(gate.turn(began), Turn::Leave);
        for rests in 1..4 {
            let now = began + REST * rests;
            assert_eq!(gate.turn(now), Turn::Try);
            assert_eq!(gate.turn(now), Turn::Leave);
            assert_eq!(gate.turn(now + REST / 2), Turn::Leave);
        }
        assert!(gate.open());
        assert_eq!(gate.turn(began), Turn::Ask);
    }

    #[test]
    fn only_the_first_failure_and_the_first_answer_are_a_change() {
        let (gate, now) = (Gate::new(REST), Instant::now());
        assert!(!gate.open());
        assert!(gate.shut(now));
        assert!(!gate.shut(now + REST / 2));
        // Nor does a later failure make the rest longer.
        assert_eq!(gate.turn(now + REST), Turn::Try);
        assert!(gate.open());
        assert!(!gate.open());
    }
}
