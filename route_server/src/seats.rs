//! Which session stays when one user is logged in twice on devices of one class.
//!
//! Every login has an epoch. Of the sessions that claim a seat, the one with the largest epoch stays
//! everywhere ([`proto::seat`]), and the others are kicked. Two sessions with equal epochs are told apart
//! by the boot number of the gateway and the session number, so that every replica decides alike.
//!
//! A login may find a larger epoch already there. Then its gateway learns of the larger one from the
//! answer and may raise its own. So a newcomer is not kicked for [`NEWCOMER_GRACE`].
//!
//! A kick may get lost, or come to a gateway that has just announced a larger epoch. So a seat for which
//! a session was kicked is judged again after [`NEWCOMER_GRACE`], until there is no session to kick.
//!
//! No socket, no clock: time is an argument.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use proto::ids::UserId;

use crate::interest::{Interest, Session, SessionKey, Slot};

/// How long a newcomer has to raise its epoch: a login waits 500 ms for the answers of all replicas.
pub(crate) const NEWCOMER_GRACE: Duration = Duration::from_secs(2);

/// What one session at a time may hold: a user's place for one class of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Seat {
    pub(crate) user: UserId,
    pub(crate) device_class: u32,
}

/// A seat that is to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) seat: Seat,
    /// A session that has just been announced.
    pub(crate) newcomer: Option<SessionKey>,
    /// Microseconds since the start of this replica.
    pub(crate) now_us: u64,
}

/// What a newcomer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needed {
    /// The epoch that it needs to stay.
    pub(crate) epoch: u64,
    /// How long ago the other login came, or less; microseconds. `None` if no other is ahead of it, or
    /// if that is not known.
    pub(crate) other_age_us: Option<u64>,
}

/// End all sessions of a seat on this gateway with an epoch below this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) slot: Slot,
    pub(crate) below_epoch: u64,
    /// How long ago the winner came, or less; microseconds.
    pub(crate) winner_age_us: Option<u64>,
}

/// Returns what the newcomer of a case is told.
pub(crate) fn needed_epoch(interest: &Interest, case: Case) -> Option<Needed> {
    let winner = winner(interest, case.seat)?;
    let newcomer = sessions(interest, case.seat)
        .find(|session| case.newcomer == Some(session.key))
        .filter(|newcomer| newcomer.key != winner.key);
    let Some(newcomer) = newcomer else {
        return Some(Needed { epoch: winner.epoch, other_age_us: None });
    };
    // If it were told its own epoch, it would believe that it has won.
    let is_tie = newcomer.epoch == winner.epoch && newcomer.slot() != winner.slot();
    let epoch = if is_tie { winner.epoch.saturating_add(1) } else { winner.epoch };
    Some(Needed { epoch, other_age_us: winner.age_us(case.now_us) })
}

/// Finds which sessions must go: one verdict for each gateway. Remembers the seat in `rechecks` if it is
/// to be judged again.
pub(crate) fn judge(
    interest: &Interest,
    rechecks: &mut Rechecks,
    case: Case,
    now: Instant,
) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = Vec::new();
    let Some(winner) = winner(interest, case.seat) else { return verdicts };
    let winner_age_us = winner.age_us(case.now_us);
    let mut newcomer_lost = false;
    for loser in sessions(interest, case.seat) {
        // A gateway that holds both has seen both, and an epoch cannot tell two equal ones apart.
        // This skips the winner, too.
        let is_tie = loser.epoch == winner.epoch;
        if is_tie && loser.slot() == winner.slot() {
            continue;
        }
        if case.newcomer == Some(loser.key) {
            newcomer_lost = true;
            continue;
        }
        let below_epoch = if is_tie { winner.epoch.saturating_add(1) } else { winner.epoch };
        match verdicts.iter_mut().find(|verdict| verdict.slot == loser.slot()) {
            Some(verdict) => verdict.below_epoch = verdict.below_epoch.max(below_epoch),
            None => verdicts.push(Verdict { slot: loser.slot(), below_epoch, winner_age_us }),
        }
    }
    if newcomer_lost || !verdicts.is_empty() {
        rechecks.add(case.seat, now);
    }
    verdicts
}

fn winner(interest: &Interest, seat: Seat) -> Option<&Session> {
    sessions(interest, seat).max_by_key(|session| {
        let boot = interest.boot(session.slot()).unwrap_or_default();
        (session.epoch, boot, session.key.session)
    })
}

/// The sessions that claim a seat.
fn sessions(interest: &Interest, seat: Seat) -> impl Iterator<Item = &Session> {
    let sessions = interest.sessions(seat.user).iter();
    sessions.filter(move |session| session.device_class() == seat.device_class)
}

/// Seats to be judged again. Each is here once, so there are no more than seats that were claimed twice
/// in the last two seconds.
#[derive(Debug, Default)]
pub(crate) struct Rechecks {
    /// In order of time.
    waiting: VecDeque<Recheck>,
    known: HashSet<Seat>,
}

#[derive(Debug, Clone, Copy)]
struct Recheck {
    due: Instant,
    seat: Seat,
}

impl Rechecks {
    fn add(&mut self, seat: Seat, now: Instant) {
        if self.known.insert(seat) {
            self.waiting.push_back(Recheck { due: now + NEWCOMER_GRACE, seat });
        }
    }

    /// The next seat that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Seat> {
        let Recheck { seat, .. } = self.waiting.pop_front_if(|recheck| recheck.due <= now)?;
        self.known.remove(&seat);
        Some(seat)
    }
}

#[cfg(test)]
mod tests;
