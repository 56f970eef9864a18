//! Who stays when one user is logged in twice on devices of one class.
//!
//! Every login has an epoch, and the larger one wins everywhere ([`proto::seat`]); the others are
//! kicked. Two logins with equal epochs are told apart by boot and session number, so that every
//! replica decides alike.
//!
//! A login that finds a larger epoch already there is a different matter: its gateway learns of the
//! larger one from the answer and may raise its own. So a newcomer is spared for [`GRACE`].
//!
//! A kick may get lost, or come to a gateway that has just said something newer. So a session that was
//! judged is judged again after [`GRACE`], until there is nobody to kick.
//!
//! No socket, no clock: time is an argument.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::interest::{Claim, Interest, Slot};

/// How long a newcomer has to raise its epoch: a login waits 500 ms for the answers of all replicas.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// End all sessions of the user and class on this gateway with an epoch below this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) slot: Slot,
    pub(crate) below_epoch: u64,
    /// How long ago the winner came, or less; microseconds.
    pub(crate) winner_age_us: Option<u64>,
}

/// One user and device class, in which something was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) user: u32,
    pub(crate) class: u32,
    /// A session that has just been announced, by gateway and number.
    pub(crate) newcomer: Option<(Slot, u64)>,
    /// Microseconds since the start of this replica.
    pub(crate) now_us: u64,
}

/// Returns what the newcomer of a case is told: the epoch that it needs to stay, and how long ago the
/// other login came, if that is not itself.
pub(crate) fn needed_epoch(interest: &Interest, case: Case) -> Option<(u64, Option<u64>)> {
    let winner = winner(interest, case)?;
    let newcomer = of_case(interest, case)
        .find(|claim| case.newcomer == Some((claim.slot, claim.session)))
        .filter(|newcomer| !is_one(newcomer, winner));
    match newcomer {
        // Told no more than its own, it would believe that it has won.
        Some(newcomer) if newcomer.epoch == winner.epoch && newcomer.slot != winner.slot => {
            Some((winner.epoch.saturating_add(1), winner.age_us(case.now_us)))
        }
        Some(_smaller) => Some((winner.epoch, winner.age_us(case.now_us))),
        None => Some((winner.epoch, None)),
    }
}

/// Finds who must go: one verdict for each gateway. Remembers the case in `docket` if there is anything
/// to look at again, at `now`.
pub(crate) fn judge(
    interest: &Interest,
    docket: &mut Docket,
    case: Case,
    now: Instant,
) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = Vec::new();
    let Some(winner) = winner(interest, case) else { return verdicts };
    let winner_age_us = winner.age_us(case.now_us);
    let mut spared = false;
    for loser in of_case(interest, case) {
        // A gateway that holds both has seen both, and an epoch cannot tell two equal ones apart.
        // This skips the winner, too.
        let tie = loser.epoch == winner.epoch;
        if tie && loser.slot == winner.slot {
            continue;
        }
        if case.newcomer == Some((loser.slot, loser.session)) {
            spared = true;
            continue;
        }
        let below_epoch = if tie { winner.epoch.saturating_add(1) } else { winner.epoch };
        match verdicts.iter_mut().find(|verdict| verdict.slot == loser.slot) {
            Some(verdict) => verdict.below_epoch = verdict.below_epoch.max(below_epoch),
            None => verdicts.push(Verdict { slot: loser.slot, below_epoch, winner_age_us }),
        }
    }
    if spared || !verdicts.is_empty() {
        docket.add(case.user, case.class, now);
    }
    verdicts
}

fn winner(interest: &Interest, case: Case) -> Option<&Claim> {
    let boot = |slot| interest.boot(slot).unwrap_or_default();
    of_case(interest, case).max_by_key(|claim| (claim.epoch, boot(claim.slot), claim.session))
}

fn is_one(claim: &Claim, other: &Claim) -> bool {
    (claim.slot, claim.session) == (other.slot, other.session)
}

fn of_case(interest: &Interest, case: Case) -> impl Iterator<Item = &Claim> {
    let claims = interest.claims(case.user).iter();
    claims.filter(move |claim| claim.device_class() == case.class)
}

/// Users and classes to be judged again. Each is here once, so it is bounded by the users who were
/// logged in twice in the last two seconds.
#[derive(Debug, Default)]
pub(crate) struct Docket {
    /// In order of time.
    waiting: VecDeque<(Instant, u32, u32)>,
    known: HashSet<(u32, u32)>,
}

impl Docket {
    fn add(&mut self, user: u32, class: u32, now: Instant) {
        if self.known.insert((user, class)) {
            self.waiting.push_back((now + GRACE, user, class));
        }
    }

    /// The next user and class whose time has come.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(u32, u32)> {
        let (_due, user, class) = self.waiting.pop_front_if(|(due, ..)| *due <= now)?;
        self.known.remove(&(user, class));
        Some((user, class))
    }
}

#[cfg(test)]
mod tests;
