//! Who stays when one user is logged in twice on devices of one class.
//!
//! Every login has an epoch, and the larger one wins everywhere; the others are kicked. Two logins
//! with equal epochs are told apart by boot and session number, so that every replica decides alike.
//!
//! A login that finds a larger epoch already there is a different matter: its gateway learns of the
//! larger one from the answer and raises its own. So a newcomer is spared for [`GRACE`] and judged
//! again after that.
//!
//! No socket, no clock: time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::interest::{Claim, Slot};

/// How long a newcomer has to raise its epoch: a login waits 500 ms for the answers of all replicas.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// End all sessions of the user and class on this gateway with an epoch below this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) slot: Slot,
    pub(crate) below_epoch: u64,
}

/// Returns the largest epoch that `claims`, all of one user, hold for a device class.
pub(crate) fn largest_epoch(claims: &[Claim], class: u32) -> Option<u64> {
    of_class(claims, class).map(|claim| claim.epoch).max()
}

/// Finds who must go of `claims`, all of one user: one verdict for each gateway, and whether
/// `newcomer` (gateway and session) would have been among them. `boot` tells a slot's boot number.
pub(crate) fn judge(
    claims: &[Claim],
    class: u32,
    boot: impl Fn(Slot) -> u64,
    newcomer: Option<(Slot, u64)>,
) -> (Vec<Verdict>, bool) {
    let mut verdicts: Vec<Verdict> = Vec::new();
    let mut spared = false;
    let rank = |claim: &Claim| (claim.epoch, boot(claim.slot), claim.session);
    let Some(winner) = of_class(claims, class).max_by_key(|claim| rank(claim)) else {
        return (verdicts, spared);
    };
    for loser in of_class(claims, class) {
        // A gateway that holds both has seen both, and an epoch cannot tell two equal ones apart.
        // This skips the winner, too.
        let tie = loser.epoch == winner.epoch;
        if tie && loser.slot == winner.slot {
            continue;
        }
        if newcomer == Some((loser.slot, loser.session)) {
            spared = true;
            continue;
        }
        let below_epoch = if tie { winner.epoch.saturating_add(1) } else { winner.epoch };
        match verdicts.iter_mut().find(|verdict| verdict.slot == loser.slot) {
            Some(verdict) => verdict.below_epoch = verdict.below_epoch.max(below_epoch),
            None => verdicts.push(Verdict { slot: loser.slot, below_epoch }),
        }
    }
    (verdicts, spared)
}

fn of_class(claims: &[Claim], class: u32) -> impl Iterator<Item = &Claim> {
    claims.iter().filter(move |claim| claim.device_class() == class)
}

/// Users whose newest login was spared, to be judged again. Bounded by the logins of two seconds
/// that met a larger epoch.
#[derive(Debug, Default)]
pub(crate) struct Spared {
    /// In order of time.
    waiting: VecDeque<(Instant, u32, u32)>,
}

impl Spared {
    /// Remembers a user and class in which a newcomer was spared.
    pub(crate) fn add(&mut self, user: u32, class: u32, now: Instant) {
        self.waiting.push_back((now + GRACE, user, class));
    }

    /// The next user and class whose grace is over.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(u32, u32)> {
        let (_due, user, class) = self.waiting.pop_front_if(|(due, ..)| *due <= now)?;
        Some((user, class))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interest::Interest;
    use proto::cluster::wire::UserInterest;

    const NOBODY: [(u64, u64); 0] = [];
    const ANDROID: u32 = 0x12;
    const WINDOWS: u32 = 1;

    /// Sessions of user 7, each given as (gateway, session, client type, epoch), and their gateways.
    fn table(sessions: &[(u64, u64, u32, u64)]) -> Interest {
        let mut interest = Interest::default();
        for &(boot, session, client_type, epoch) in sessions {
            let slot = interest.by_boot(boot).unwrap_or_else(|| interest.connect(boot));
            interest.add_user(slot, &UserInterest { user: 7, session, client_type, epoch });
        }
        interest
    }

    fn verdicts(interest: &Interest, class: u32, newcomer: Option<(u64, u64)>) -> Vec<(u64, u64)> {
        let boot = |slot| interest.boot(slot).unwrap();
        let newcomer = newcomer.map(|(boot, session)| (interest.by_boot(boot).unwrap(), session));
        let (verdicts, spared) = judge(interest.claims(7), class, boot, newcomer);
        assert_eq!(spared, newcomer.is_some());
        verdicts.iter().map(|verdict| (boot(verdict.slot), verdict.below_epoch)).collect()
    }

    #[test]
    fn the_larger_epoch_stays_whoever_came_first() {
        let one = table(&[(1, 10, WINDOWS, 100), (2, 20, WINDOWS, 200)]);
        assert_eq!(verdicts(&one, 0, None), [(1, 200)]);
        let other = table(&[(2, 20, WINDOWS, 200), (1, 10, WINDOWS, 100)]);
        assert_eq!(verdicts(&other, 0, None), [(1, 200)]);
    }

    #[test]
    fn a_pc_and_a_mobile_do_not_meet() {
        let interest = table(&[(1, 10, WINDOWS, 100), (2, 20, ANDROID, 200)]);
        assert_eq!(verdicts(&interest, 0, None), NOBODY);
        assert_eq!(verdicts(&interest, 1, None), NOBODY);
        assert_eq!(largest_epoch(interest.claims(7), 0), Some(100));
        assert_eq!(largest_epoch(interest.claims(7), 1), Some(200));
        assert_eq!(largest_epoch(interest.claims(8), 0), None);
    }

    #[test]
    fn equal_epochs_have_one_winner_on_every_replica() {
        let one = table(&[(1, 10, WINDOWS, 100), (2, 20, WINDOWS, 100)]);
        let other = table(&[(2, 20, WINDOWS, 100), (1, 10, WINDOWS, 100)]);
        assert_eq!(verdicts(&one, 0, None), [(1, 101)]);
        assert_eq!(verdicts(&other, 0, None), [(1, 101)]);
    }

    #[test]
    fn equal_epochs_on_one_gateway_are_its_own_business() {
        let interest = table(&[(1, 10, WINDOWS, 100), (1, 11, WINDOWS, 100)]);
        assert_eq!(verdicts(&interest, 0, None), NOBODY);
    }

    #[test]
    fn each_gateway_gets_one_verdict() {
        let interest = table(&[(1, 10, WINDOWS, 100), (1, 11, WINDOWS, 90), (2, 20, WINDOWS, 300)]);
        assert_eq!(verdicts(&interest, 0, None), [(1, 300)]);
    }

    #[test]
    fn a_newcomer_is_spared_for_a_while() {
        let interest = table(&[(1, 10, WINDOWS, 100), (2, 20, WINDOWS, 50)]);
        assert_eq!(verdicts(&interest, 0, Some((2, 20))), NOBODY);

        let mut spared = Spared::default();
        let start = Instant::now();
        spared.add(7, 0, start);
        assert_eq!(spared.pop(start + GRACE / 2), None);
        assert_eq!(spared.pop(start + GRACE), Some((7, 0)));
        assert_eq!(spared.pop(start + GRACE), None);
    }
}
