//! One client's place in the cluster, from its accepted login to its end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use daemon::faults::{self, Mutant};
use parking_lot::Mutex;
use proto::client::ClientType;
use proto::cluster::device_class;
use proto::cluster::wire::{Kick, Origin, Registered, UserInterest};
use proto::ids::UserId;
use proto::seat::{Judgement, Phase, Rival, Standing};
use proto::{Command, client, encode_message};

use crate::client::closing::CloseReason;
use crate::client::outbox::Outbox;
use crate::sessions::membership::Groups;
use crate::sessions::watched::Watched;

/// A floor that is not known yet.
const NO_FLOOR: u64 = u64::MAX;

/// [`Session::phase`] of a session that is settled.
const SETTLED: u64 = u64::MAX;

/// That of one that is over, plus the reason that its client is given (0: none, or not yet known). What
/// is smaller is the epoch that is needed to stay.
const OVER: u64 = SETTLED - 1 - u32::MAX as u64;

/// What [`Session::came`] is counted in, as a power of two of microseconds: 8 ms, of which 32 bits hold
/// 400 days. Logins that came closer together are told apart by their epochs alone, and so are all
/// logins of a gateway that runs for longer.
const CAME_UNIT: u32 = 13;

/// It came too late for the unit above to say when.
const CAME_TOO_LATE: u32 = u32::MAX;

/// What distinguishes one login from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Login {
    /// Unique in this process.
    pub(crate) id: u64,
    pub(crate) user: UserId,
    /// Windows 1, Mac 2, iOS 0x11, Android 0x12.
    pub(crate) client_type: u32,
}

/// Up to where in the log of each partition the client asks for everything itself. With one partition
/// there is nothing to allocate, and a session is as small as can be.
enum Floors {
    One(AtomicU64),
    Many(Box<[AtomicU64]>),
}

/// A logged-in client.
pub(crate) struct Session {
    pub(crate) login: Login,
    pub(crate) outbox: Arc<Outbox>,
    /// Of two sessions of one user and device class, the one with the larger epoch stays. Changed, like
    /// the phase, only under the hub's order.
    epoch: AtomicU64,
    /// Its [`Phase`], in one word.
    phase: AtomicU64,
    /// When the request for the login came, since the start of the gateway.
    came: u32,
    /// The stamp of the user's row that the login was checked against; 0 if it is not known.
    pub(crate) verified: u32,
    floors: Floors,
    /// Changed only by the registry.
    pub(crate) groups: Mutex<Groups>,
    watched: Mutex<Watched>,
}

impl Session {
    /// `partitions` is the number of the log's partitions. The login was checked against the user's
    /// row at the stamp `verified`.
    pub(crate) fn new(login: Login, outbox: Arc<Outbox>, partitions: u32, verified: u32) -> Self {
        Self {
            login,
            outbox,
            epoch: AtomicU64::new(0),
            phase: AtomicU64::new(0),
            came: 0,
            verified,
            floors: Floors::new(partitions),
            groups: Mutex::default(),
            watched: Mutex::default(),
        }
    }

    /// The request for the login came then, in microseconds since the start of the gateway.
    pub(crate) fn came_at(self, came_us: u64) -> Self {
        Self { came: u32::try_from(came_us >> CAME_UNIT).unwrap_or(CAME_TOO_LATE), ..self }
    }

    pub(crate) fn id(&self) -> u64 {
        self.login.id
    }

    pub(crate) fn user(&self) -> UserId {
        self.login.user
    }

    pub(crate) fn class(&self) -> u32 {
        device_class(self.login.client_type)
    }

    pub(crate) fn is_pc(&self) -> bool {
        self.class() == 0
    }

    /// Whether the client repeats frames by itself, those that were not answered: of the original's
    /// clients only Windows does (TeamTalk protocol, timers of clients).
    pub(crate) fn repeats_frames(&self) -> bool {
        self.login.client_type == ClientType::Windows as u32
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// What is known of its claim.
    pub(crate) fn standing(&self) -> Standing {
        let phase = match self.phase.load(Ordering::Relaxed) {
            SETTLED => Phase::Settled,
            over if over >= OVER => Phase::Over,
            below => Phase::Entering { below },
        };
        Standing { epoch: self.epoch(), came_us: u64::from(self.came) << CAME_UNIT, phase }
    }

    /// Changes what is known of its claim. Only under the hub's order.
    pub(crate) fn set_standing(&self, standing: Standing) {
        self.epoch.store(standing.epoch, Ordering::Relaxed);
        let phase = match standing.phase {
            Phase::Settled => SETTLED,
            // What was over before keeps its reason.
            Phase::Over if self.is_over() => return,
            Phase::Over => OVER,
            Phase::Entering { below } => below.min(OVER - 1),
        };
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// The epoch is final: judges what was heard until now. Whether the session stays. Only under the
    /// hub's order.
    pub(crate) fn settle(&self) -> bool {
        let mut standing = self.standing();
        let stays = standing.settle();
        self.set_standing(standing);
        stays
    }

    /// Whether it has lost its place, and is only to be closed.
    pub(crate) fn is_over(&self) -> bool {
        self.standing().phase == Phase::Over
    }

    /// Up to where in the log of a partition the client asks for everything itself; `None` before its
    /// login is that far: then it will ask for everything that is known to exist now.
    pub(crate) fn floor(&self, partition: u32) -> Option<u64> {
        let floor = self.floors.get(partition)?.load(Ordering::Relaxed);
        Some(floor).filter(|floor| *floor != NO_FLOOR)
    }

    /// Sets the floors, by partition.
    pub(crate) fn set_floors(&self, floors: &[u64]) {
        for (partition, floor) in (0..).zip(floors) {
            if let Some(place) = self.floors.get(partition) {
                place.store((*floor).min(NO_FLOOR - 1), Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn origin(&self, gateway_boot: u64) -> Origin {
        Origin { gateway_boot, session: self.id() }
    }

    /// By what the hub knows this session.
    pub(crate) fn interest(&self) -> UserInterest {
        UserInterest {
            user: self.user().0,
            session: self.id(),
            client_type: self.login.client_type,
            epoch: self.epoch(),
            age_us: None,
        }
    }

    /// What the hub is told of this session, `now_us` after the start of the gateway. Its age is counted
    /// from the end of the unit in which it came: told too long, an earlier login could believe that it
    /// came later than this one ([`proto::seat`]).
    pub(crate) fn claim(&self, now_us: u64) -> UserInterest {
        let came_by_us = (u64::from(self.came) + 1) << CAME_UNIT;
        let age_us = now_us.saturating_sub(came_by_us);
        let age_us = Some(age_us).filter(|_age| self.came != CAME_TOO_LATE);
        UserInterest { age_us, ..self.interest() }
    }

    /// Takes in what a replica answers to the login. Only under the hub's order.
    pub(crate) fn hear(&self, answer: &Registered, now_us: u64) -> Judgement {
        let Some(largest) = answer.largest_epoch.filter(|_| !faults::planted(Mutant::TwoSeats))
        else {
            return Judgement::Stays;
        };
        let mut standing = self.standing();
        let judgement = standing.on_answer(Rival::told(largest, answer.largest_age_us, now_us));
        self.set_standing(standing);
        judgement
    }

    /// What a kick means for this session. Only under the hub's order.
    pub(crate) fn judge(&self, kick: &Kick, now_us: u64) -> Judgement {
        let class = kick.device_class.is_none_or(|class| class == self.class());
        let login = kick.verified_before.is_none_or(|before| self.verified < before);
        let mut standing = self.standing();
        let is_meant = UserId(kick.user) == self.user() && class && login;
        if !is_meant || standing.phase == Phase::Over || faults::planted(Mutant::TwoSeats) {
            return Judgement::Stays;
        }
        let judgement = match kick.below_epoch {
            Some(below) if !faults::planted(Mutant::OfflineWithoutEpoch) => {
                standing.on_kick(Rival::told(below, kick.winner_age_us, now_us))
            }
            _ => {
                standing.phase = Phase::Over;
                Judgement::Goes
            }
        };
        self.set_standing(standing);
        judgement
    }

    /// Ends the session, telling the client why if there is a reason that clients know. A client whose
    /// login is not answered yet is told after the answer ([`Self::login_answered`]): one that heard
    /// neither would come back and throw out the session that replaced it.
    pub(crate) fn kick(&self, reason: Option<u32>) {
        let over = OVER + u64::from(reason.unwrap_or(0));
        // The reason first, and then the look: `login_answered` does it the other way round.
        let first = |phase: u64| (phase <= OVER || phase == SETTLED).then_some(over);
        let _told_before = self.phase.fetch_update(Ordering::Relaxed, Ordering::Relaxed, first);
        let notice = self.notice(reason);
        if notice.is_none() || !self.outbox.is_held() {
            self.outbox.finish(notice, CloseReason::Kicked);
        }
    }

    /// The login is answered: a kick that came before is told now.
    pub(crate) fn login_answered(&self) {
        let phase = self.phase.load(Ordering::Relaxed);
        let reason = phase.checked_sub(OVER).filter(|reason| phase != SETTLED && *reason > 0);
        if let Some(reason) = reason {
            self.outbox.finish(self.notice(u32::try_from(reason).ok()), CloseReason::Kicked);
        }
    }

    fn notice(&self, reason: Option<u32>) -> Option<Bytes> {
        let reason = reason.and_then(|reason| i32::try_from(reason).ok())?;
        let notice = client::KickNotify { user_id: self.user().0, reason };
        Some(encode_message(Command::KickNotify, 0, &notice))
    }

    /// Remembers that the client asked about these users; of all it has asked about, the last `max`.
    pub(crate) fn watch(&self, users: impl ExactSizeIterator<Item = UserId>, max: usize) {
        self.watched.lock().ask(users, max);
    }

    /// Those that are about a user whom the client asked about.
    pub(crate) fn watched_of<'a, T>(
        &self,
        all: &'a [T],
        user: impl Fn(&T) -> UserId,
    ) -> Vec<&'a T> {
        self.watched.lock().among(all, user)
    }

    /// Pushes one frame.
    pub(crate) fn push(&self, frame: &Bytes) -> bool {
        self.outbox.push(frame, 1)
    }
}

impl Floors {
    fn new(partitions: u32) -> Self {
        let unknown = || AtomicU64::new(NO_FLOOR);
        match partitions {
            0 | 1 => Self::One(unknown()),
            many => Self::Many((0..many).map(|_partition| unknown()).collect()),
        }
    }

    fn get(&self, partition: u32) -> Option<&AtomicU64> {
        match self {
            Self::One(floor) => (partition == 0).then_some(floor),
            Self::Many(floors) => floors.get(partition as usize),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session {} of user {}", self.id(), self.user().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::outbox::OutboxPool;
    use crate::config::LimitsConfig;
    use crate::metrics::GatewayMetrics;

    #[test]
    fn floors_are_unknown_until_they_are_set_and_each_partition_has_its_own() {
        for partitions in [1, 3] {
            let floors = Floors::new(partitions);
            let unknown = |one| {
                floors
                    .get(one)
                    .is_some_and(|floor: &AtomicU64| floor.load(Ordering::Relaxed) == NO_FLOOR)
            };
            assert!((0..partitions).all(unknown));
            assert!(floors.get(partitions).is_none());
        }
    }

    fn session() -> Session {
        let pool = OutboxPool::new(&LimitsConfig::default(), GatewayMetrics::default());
        let outbox = Arc::new(Outbox::queued(Arc::new(pool)));
        let session = Session::new(Login { id: 1, user: UserId(5), client_type: 1 }, outbox, 1, 0);
        let session = session.came_at(1_000_000);
        session.set_standing(Standing { epoch: 100, ..session.standing() });
        session
    }

    #[test]
    fn a_kick_is_meant_for_its_user_and_class_and_for_smaller_epochs() {
        use Judgement::{Goes, Rises, Stays};
        let kick = Kick { user: 5, reason: Some(1), ..Kick::default() };
        let below = |below| Kick { below_epoch: Some(below), device_class: Some(0), ..kick };
        let older = |below_epoch| Kick { winner_age_us: Some(3_000_000), ..below(below_epoch) };
        let table = [
            (kick, true, Goes),
            (kick, false, Goes),
            (Kick { user: 6, ..kick }, true, Stays),
            (Kick { device_class: Some(0), ..kick }, true, Goes),
            (Kick { device_class: Some(1), ..kick }, true, Stays),
            (Kick { device_class: Some(1), ..below(101) }, true, Stays),
            (Kick { user: 6, ..below(101) }, true, Stays),
            (below(99), true, Stays),
            (below(100), true, Stays),
            (below(101), true, Goes),
            (older(100), true, Stays),
            (older(101), true, Rises),
            // Not settled: it is remembered, and judged then.
            (below(100), false, Stays),
            (below(101), false, Stays),
            (older(101), false, Rises),
        ];
        for (kick, settled, expected) in table {
            let session = session();
            assert!(!settled || session.settle());
            assert_eq!(session.judge(&kick, 2_000_000), expected, "{kick:?}");
            assert_eq!(session.epoch(), if expected == Rises { 102 } else { 100 }, "{kick:?}");
            let stays = expected != Goes && (settled || kick != below(101));
            assert_eq!(session.settle(), stays, "{kick:?}");
            assert_eq!(session.is_over(), !stays, "{kick:?}");
        }
    }

    #[test]
    fn what_is_known_of_a_claim_survives_its_short_form() {
        let session = session();
        for phase in [
            Phase::Entering { below: 0 },
            Phase::Entering { below: 1_700_000_000_000 },
            Phase::Settled,
            Phase::Over,
        ] {
            let standing = Standing { phase, ..session.standing() };
            session.set_standing(standing);
            assert_eq!(session.standing(), standing);
        }
        // The reason stays as well.
        session.kick(Some(2));
        session.set_standing(session.standing());
        assert!(session.is_over() && !session.settle());
        assert_eq!(session.phase.load(Ordering::Relaxed), OVER + 2);
    }

    #[test]
    fn when_a_login_came_is_told_never_too_long_ago_and_not_at_all_after_a_year() {
        let unit = 1 << CAME_UNIT;
        let claim = session().claim(3_000_000);
        assert!((2_000_000 - unit..=2_000_000).contains(&claim.age_us.unwrap()), "{claim:?}");
        assert_eq!(session().claim(1_000_000).age_us, Some(0), "it has only just come");
        let late = session().came_at(u64::MAX / 2);
        assert_eq!(late.claim(u64::MAX / 2).age_us, None);
    }

    /// Whatever the clocks of the two gateways and whatever is lost by rounding.
    #[test]
    fn the_earlier_of_two_logins_never_finds_that_it_came_later() {
        let offsets = (0..3 * 64).map(|part| part << (CAME_UNIT - 6));
        for (offset, gap) in offsets.flat_map(|offset| (0..40).map(move |gap| (offset, gap * 250)))
        {
            // By the clock of the gateway that the earlier one is on; the other's began `offset` earlier.
            let came = 5_000_000;
            let (earlier, later) =
                (session().came_at(came), session().came_at(came + gap + offset));
            let asked = came + gap + 1_000;
            let claim = later.claim(asked + offset);
            let answer = Registered {
                largest_epoch: Some(earlier.epoch() + 3),
                largest_age_us: claim.age_us,
                ..Registered::default()
            };
            assert_eq!(earlier.hear(&answer, asked), Judgement::Stays, "{offset} {gap}");
        }
    }

    #[test]
    fn a_session_stays_small() {
        // One allocation of 128 bytes, with the counts of its `Arc`.
        assert!(size_of::<Session>() <= 112, "{}", size_of::<Session>());
    }
}
