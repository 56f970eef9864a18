//! Which of several logins stays: each user has one seat for each class of device.
//!
//! Every login has an epoch, and of those that claim a seat the one with the largest epoch keeps it.
//! That is decided in several places (the gateway of each session, every route_server) from news that
//! comes in any order, so there is one number and one direction: an epoch only rises.
//!
//! An epoch begins as the time of day at which the request for the login came to its gateway, so that
//! of two logins the later one stays, however long each took to be checked. Clocks of different hosts
//! differ, though. So a login says with its epoch how long ago it came. A session that is told of a
//! larger epoch goes, unless it can show that it came later than the other one: then it raises its own
//! above it, and the other goes.
//!
//! # Why exactly one stays
//!
//! - How long ago the other came is only ever told too short: on the way, time passes. So a session
//!   that finds that it came later is right, and of two never both find that. So the session that came
//!   first never rises, and every other at most once for each epoch of those before it: raising ends.
//! - A session goes only because of an epoch that is larger than its last one. The largest of all is
//!   above none.
//!
//! Pure: times are arguments, in microseconds of one steady clock, that of the gateway.

/// Unsettled, nothing heard: every epoch is enough.
const NOTHING: u64 = 0;

/// A login that claims the same seat, as a route_server or a session here knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rival {
    /// The smallest epoch with which one stays: more than this and the rival goes.
    pub below: u64,
    /// When it came or later, by the clock of the one that hears of it; negative if that began later.
    pub came_us: Option<i64>,
}

impl Rival {
    /// A rival of which one is told that it came `age_us` ago.
    pub fn told(below: u64, age_us: Option<u64>, now_us: u64) -> Self {
        Self { below, came_us: age_us.and_then(|age_us| now_us.checked_signed_diff(age_us)) }
    }
}

/// What follows for a session from hearing of a rival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing, for now.
    Stays,
    /// Its epoch was raised, which is to be told to everybody.
    Rises,
    /// It is over.
    Goes,
}

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its login is under way and its epoch may still rise.
    Entering {
        /// With less it will go: the largest of what it was told by rivals that it could not show to be
        /// older.
        below: u64,
    },
    /// Its login is registered.
    Settled,
    /// It is over, and only has to be closed.
    Over,
}

/// What the gateway of a session knows of its claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its epoch.
    pub epoch: u64,
    /// When the request for the login came.
    pub came_us: u64,
    /// How far it is.
    pub phase: Phase,
}

impl Standing {
    /// A login that came then, and has no epoch yet.
    pub fn new(came_us: u64) -> Self {
        Self { epoch: 0, came_us, phase: Phase::Entering { below: NOTHING } }
    }

    /// Gives the session its first epoch: `epoch`, the time of day at which it came, but more than that
    /// of every session here which it displaces. `others` are those of the same user and class on this
    /// gateway, where it is exactly known which came later: either it displaces all of them, or it
    /// is over itself. So of one user and class at most one session of a gateway is not over.
    pub fn enter(&mut self, epoch: u64, others: impl IntoIterator<Item = Self>) {
        self.epoch = epoch;
        for other in others {
            if self.displaces(&other) {
                self.epoch = self.epoch.max(other.epoch.saturating_add(1));
            } else {
                self.phase = Phase::Over;
                self.epoch = self.epoch.min(other.epoch.saturating_sub(1));
            }
        }
    }

    /// Whether it takes the seat from another session of the same gateway, to which it comes.
    pub fn displaces(&self, other: &Self) -> bool {
        other.phase == Phase::Over || other.came_us <= self.came_us
    }

    /// Takes in what a route_server answers to the registration. A rival of unknown age is one of a
    /// release that does not tell it: there a newcomer always rises.
    pub fn on_answer(&mut self, rival: Rival) -> Judgement {
        self.hear(rival, true)
    }

    /// Takes in that it is to end because of a rival. A rival of unknown age counts as younger.
    pub fn on_kick(&mut self, rival: Rival) -> Judgement {
        self.hear(rival, false)
    }

    /// The login is registered, and the epoch no longer rises by its answers. Whether it stays.
    pub fn settle(&mut self) -> bool {
        if let Phase::Entering { below } = self.phase {
            self.phase = if self.epoch < below { Phase::Over } else { Phase::Settled };
        }
        self.phase == Phase::Settled
    }

    fn hear(&mut self, rival: Rival, unknown_is_older: bool) -> Judgement {
        if self.epoch >= rival.below || self.phase == Phase::Over {
            return Judgement::Stays;
        }
        let came_us = i64::try_from(self.came_us).unwrap_or(i64::MAX);
        if rival.came_us.map_or(unknown_is_older, |rival_us| rival_us < came_us) {
            self.epoch = rival.below.saturating_add(1);
            return Judgement::Rises;
        }
        if self.phase == Phase::Settled {
            self.phase = Phase::Over;
            return Judgement::Goes;
        }
        self.remember(rival.below);
        Judgement::Stays
    }

    fn remember(&mut self, needed: u64) {
        if let Phase::Entering { below } = &mut self.phase {
            *below = needed.max(*below);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Came at 1,000 with epoch 100.
    fn entering() -> Standing {
        let mut standing = Standing::new(1_000);
        standing.enter(100, []);
        standing
    }

    fn settled() -> Standing {
        let mut standing = entering();
        assert!(standing.settle());
        standing
    }

    const YOUNGER: Option<i64> = Some(2_000);
    const OLDER: Option<i64> = Some(500);

    #[test]
    fn a_kick_by_epoch_hits_what_is_below_it_and_cannot_show_that_it_came_later() {
        use Judgement::{Goes, Rises, Stays};
        let table = [
            // Below, equal, above; of a session that is settled.
            (settled(), 101, YOUNGER, Goes, 100, Phase::Over),
            (settled(), 100, YOUNGER, Stays, 100, Phase::Settled),
            (settled(), 99, YOUNGER, Stays, 100, Phase::Settled),
            // A rival of unknown age, and one that came at the same time.
            (settled(), 101, None, Goes, 100, Phase::Over),
            (settled(), 101, Some(1_000), Goes, 100, Phase::Over),
            // It came later.
            (settled(), 101, OLDER, Rises, 102, Phase::Settled),
            (settled(), 100, OLDER, Stays, 100, Phase::Settled),
            // A login under way waits for its last epoch.
            (entering(), 101, YOUNGER, Stays, 100, Phase::Entering { below: 101 }),
            (entering(), 100, YOUNGER, Stays, 100, Phase::Entering { below: 0 }),
            (entering(), 101, None, Stays, 100, Phase::Entering { below: 101 }),
            (entering(), 101, OLDER, Rises, 102, Phase::Entering { below: 0 }),
        ];
        for (mut standing, below, came_us, judgement, epoch, phase) in table {
            let case = format!("{standing:?}, {below}, {came_us:?}");
            assert_eq!(standing.on_kick(Rival { below, came_us }), judgement, "{case}");
            assert_eq!((standing.epoch, standing.phase), (epoch, phase), "{case}");
        }
    }

    #[test]
    fn what_was_heard_during_the_login_is_judged_by_the_last_epoch() {
        let kick = Rival { below: 101, came_us: YOUNGER };
        let mut loses = entering();
        loses.on_kick(kick);
        assert!(!loses.settle());
        assert_eq!(loses.phase, Phase::Over);

        let mut wins = entering();
        wins.on_kick(kick);
        wins.on_kick(Rival { below: 90, ..kick });
        let answer = Rival { below: 150, came_us: OLDER };
        assert_eq!(wins.on_answer(answer), Judgement::Rises);
        assert!(wins.settle(), "with 151 it is above both");
    }

    #[test]
    fn an_answer_of_a_release_that_tells_no_age_makes_a_newcomer_rise() {
        let mut standing = entering();
        let answer = Rival { below: 150, came_us: None };
        assert_eq!(standing.on_answer(answer), Judgement::Rises);
        assert_eq!(standing.epoch, 151);
    }

    #[test]
    fn a_session_that_is_over_never_rises_again() {
        let mut standing = settled();
        standing.on_kick(Rival { below: 101, came_us: YOUNGER });
        assert_eq!(standing.on_kick(Rival { below: 200, came_us: OLDER }), Judgement::Stays);
        assert_eq!((standing.epoch, standing.settle()), (100, false));
    }

    #[test]
    fn on_one_gateway_the_login_that_came_last_stays_whichever_was_checked_first() {
        let later = settled();
        let mut late = Standing::new(900);
        assert!(!late.displaces(&later) && later.displaces(&late));
        // Even if its clock says more, and the route_servers tell it of a session before both.
        late.enter(5_000, [later]);
        assert!(late.epoch < later.epoch);
        let answer = Rival { below: 700, came_us: Some(100) };
        assert_eq!(late.on_answer(answer), Judgement::Stays);
        assert!(!late.settle());

        let mut newer = Standing::new(1_001);
        newer.enter(50, [later, late]);
        assert!(newer.displaces(&later));
        assert_eq!(newer.epoch, 101, "even if the clock went back");
        assert!(newer.settle());
    }

    #[test]
    fn a_rival_of_before_the_clock_began_is_older_than_everybody() {
        let rival = Rival::told(101, Some(1_000_000), 2_000);
        let mut first = Standing { came_us: 0, ..settled() };
        assert_eq!(first.on_kick(rival), Judgement::Rises);
        assert_eq!(Rival::told(101, None, 2_000).came_us, None);
        assert_eq!(Rival::told(101, Some(500), 2_000).came_us, Some(1_500));
    }
}
