//! One user, two gateways, two replicas: what is said between them, in an order that a test chooses.
//!
//! The replicas are real ([`Interest`], [`Rechecks`], [`judge`]), and so is what a session knows of its
//! claim ([`Standing`]). What is played is what lies between: the gateway's part as in its
//! `login.rs` and `gateway.rs`, and the links.

use std::collections::VecDeque;

use proto::seat::{Judgement, Phase, Rival, Standing};

use super::*;

pub(super) const BOTH: [usize; 2] = [0, 1];
/// How long a login waits for the replicas, and how often it raises its epoch.
const REGISTER_US: u64 = 500_000;
const ROUNDS: u32 = 3;

/// What happens next.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A request for a login comes to a gateway.
    Come(usize),
    /// Of those whose password is being checked, one is let in.
    Enter(usize),
    /// The first message on a link arrives.
    Up(usize, usize),
    Down(usize, usize),
    Cut(usize, usize),
    Link(usize, usize),
    /// A replica starts anew.
    Restart(usize),
    /// A session that is over is closed, and everybody is told.
    Close(usize),
    /// Milliseconds go by.
    Wait(u16),
    Tick(usize),
}

enum ToReplica {
    Table(Vec<Announcement>),
    Change(u64, Announcement),
    Gone(Announcement),
}

pub(super) enum ToGateway {
    Registered { request: u64, largest: Option<u64>, age_us: Option<u64> },
    Kick { below: u64, age_us: Option<u64> },
}

/// A login that waits for the answers to these requests.
struct Registering {
    waiting: Vec<(usize, u64)>,
    rises: bool,
    rounds: u32,
    until_us: u64,
}

pub(super) struct Session {
    gateway: usize,
    pub(super) id: u64,
    unix_ms: u64,
    pub(super) standing: Standing,
    /// Its password is checked.
    entered: bool,
    registering: Option<Registering>,
    closed: bool,
}

struct Replica {
    interest: Interest,
    rechecks: Rechecks,
    started_us: u64,
    slots: [Option<Slot>; 2],
}

pub(super) struct World {
    now_us: u64,
    start: Instant,
    /// What each gateway's clock is ahead.
    ahead_ms: [u64; 2],
    pub(super) sessions: Vec<Session>,
    replicas: [Replica; 2],
    /// By gateway and replica.
    up: [[VecDeque<ToReplica>; 2]; 2],
    pub(super) down: [[VecDeque<ToGateway>; 2]; 2],
    last_request: u64,
}

impl Replica {
    fn new(started_us: u64) -> Self {
        let (interest, rechecks) = (Interest::default(), Rechecks::default());
        Self { interest, rechecks, started_us, slots: [None; 2] }
    }
}

impl World {
    pub(super) fn new(ahead_ms: [u64; 2]) -> Self {
        let mut world = Self {
            // The gateways have been up for an hour, and so have the replicas.
            now_us: 3_600_000_000,
            start: Instant::now(),
            ahead_ms,
            sessions: Vec::new(),
            replicas: [Replica::new(0), Replica::new(0)],
            up: Default::default(),
            down: Default::default(),
            last_request: 0,
        };
        for (gateway, replica) in pairs() {
            world.link(gateway, replica);
        }
        world
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_micros(self.now_us)
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Come(gateway) => self.come(gateway),
            Step::Enter(index) => {
                let checked = self.sessions.iter().enumerate();
                let mut checked = checked.filter(|(_index, session)| !session.entered);
                let count = checked.clone().count();
                if let Some((index, _session)) = checked.nth(index % count.max(1)) {
                    self.enter(index);
                }
            }
            Step::Up(gateway, replica) => drop(self.deliver_up(gateway, replica)),
            Step::Down(gateway, replica) => drop(self.deliver_down(gateway, replica)),
            Step::Cut(gateway, replica) => self.cut(gateway, replica),
            Step::Link(gateway, replica) => self.link(gateway, replica),
            Step::Restart(replica) => {
                for gateway in BOTH {
                    self.cut(gateway, replica);
                }
                self.replicas[replica] = Replica::new(self.now_us);
            }
            Step::Close(index) => self.close(index),
            Step::Wait(ms) => self.wait(u64::from(ms) * 1000),
            Step::Tick(replica) => self.tick(replica),
        }
    }

    fn come(&mut self, gateway: usize) {
        // No two at exactly the same time.
        self.wait(1_000);
        let unix_ms = self.now_us / 1000 + self.ahead_ms[gateway];
        self.sessions.push(Session {
            gateway,
            id: self.sessions.len() as u64 + 1,
            unix_ms,
            standing: Standing::new(self.now_us),
            entered: false,
            registering: None,
            closed: false,
        });
    }

    fn enter(&mut self, index: usize) {
        let gateway = self.sessions[index].gateway;
        let here =
            |session: &&Session| session.gateway == gateway && session.entered && !session.closed;
        let others: Vec<Standing> =
            self.sessions.iter().filter(here).map(|other| other.standing).collect();
        let session = &mut self.sessions[index];
        session.entered = true;
        session.standing.enter(session.unix_ms, others);
        let standing = session.standing;
        for (other, session) in self.sessions.iter_mut().enumerate() {
            let is_here = session.gateway == gateway && session.entered && !session.closed;
            if other != index && is_here && standing.displaces(&session.standing) {
                session.standing.phase = Phase::Over;
            }
        }
        self.announce(index, ROUNDS);
    }

    fn said(&self, index: usize) -> Announcement {
        let Session { id, standing, .. } = self.sessions[index];
        Announcement {
            user: USER,
            session: id,
            client_type: WINDOWS,
            epoch: standing.epoch,
            age_us: Some(self.now_us - standing.came_us),
        }
    }

    fn announce(&mut self, index: usize, rounds: u32) {
        let gateway = self.sessions[index].gateway;
        let mut waiting = Vec::new();
        for replica in BOTH {
            if self.replicas[replica].slots[gateway].is_some() {
                self.last_request += 1;
                waiting.push((replica, self.last_request));
                let change = ToReplica::Change(self.last_request, self.said(index));
                self.up[gateway][replica].push_back(change);
            }
        }
        let until_us = self.now_us + REGISTER_US;
        let registering = Registering { waiting, rises: false, rounds, until_us };
        self.sessions[index].registering = Some(registering);
        self.go_on(index);
    }

    /// Ends a round of a login if all have answered.
    fn go_on(&mut self, index: usize) {
        let session = &mut self.sessions[index];
        let Some(registering) = &session.registering else { return };
        let (rises, rounds) = (registering.rises, registering.rounds);
        if !registering.waiting.is_empty() {
            return;
        }
        session.registering = None;
        if rises && rounds > 0 {
            self.announce(index, rounds - 1);
        } else {
            session.standing.settle();
        }
    }

    fn deliver_up(&mut self, gateway: usize, to: usize) -> bool {
        let Some(message) = self.up[gateway][to].pop_front() else { return false };
        let replica = &mut self.replicas[to];
        let now_us = self.now_us - replica.started_us;
        let slot = replica.slots[gateway].expect("what is on a link that is cut is gone");
        let case = |newcomer| Case { seat: seat(PC), newcomer, now_us };
        match message {
            ToReplica::Table(sessions) => {
                replica.interest.begin(slot);
                for said in sessions {
                    self.replicas[to].interest.add_session(slot, &said, now_us);
                    self.judge(to, case(None));
                }
                self.replicas[to].interest.complete(slot);
            }
            ToReplica::Change(request, said) => {
                let case = case(Some(SessionKey { slot, session: said.session }));
                replica.interest.add_session(slot, &said, now_us);
                self.judge(to, case);
                if request > 0 {
                    let needed = needed_epoch(&self.replicas[to].interest, case);
                    let largest = needed.map(|needed| needed.epoch);
                    let age_us = needed.and_then(|needed| needed.other_age_us);
                    let registered = ToGateway::Registered { request, largest, age_us };
                    self.down[gateway][to].push_back(registered);
                }
            }
            ToReplica::Gone(said) => {
                replica.interest.remove_session(slot, &said);
            }
        }
        true
    }

    fn judge(&mut self, by: usize, case: Case) {
        let now = self.now();
        let replica = &mut self.replicas[by];
        for verdict in judge(&replica.interest, &mut replica.rechecks, case, now) {
            let to = replica.slots.iter().position(|slot| *slot == Some(verdict.slot));
            let kick =
                ToGateway::Kick { below: verdict.below_epoch, age_us: verdict.winner_age_us };
            self.down[to.expect("it is linked")][by].push_back(kick);
        }
    }

    fn deliver_down(&mut self, gateway: usize, from: usize) -> bool {
        let Some(message) = self.down[gateway][from].pop_front() else { return false };
        let now_us = self.now_us;
        match message {
            ToGateway::Registered { request, largest, age_us } => {
                for index in 0..self.sessions.len() {
                    let Session { standing, registering, .. } = &mut self.sessions[index];
                    let Some(registering) = registering else { continue };
                    let before = registering.waiting.len();
                    registering.waiting.retain(|waiting| *waiting != (from, request));
                    if registering.waiting.len() < before {
                        let rival = Rival::told(largest.unwrap_or(0), age_us, now_us);
                        registering.rises |= standing.on_answer(rival) == Judgement::Rises;
                        self.go_on(index);
                    }
                }
            }
            ToGateway::Kick { below, age_us } => {
                let rival = Rival::told(below, age_us, now_us);
                for index in 0..self.sessions.len() {
                    let session = &mut self.sessions[index];
                    let is_here = session.gateway == gateway && session.entered && !session.closed;
                    if is_here && session.standing.on_kick(rival) == Judgement::Rises {
                        self.tell(gateway, |world| ToReplica::Change(0, world.said(index)));
                    }
                }
            }
        }
        true
    }

    fn tell(&mut self, gateway: usize, message: impl Fn(&Self) -> ToReplica) {
        for replica in BOTH {
            if self.replicas[replica].slots[gateway].is_some() {
                let message = message(self);
                self.up[gateway][replica].push_back(message);
            }
        }
    }

    fn cut(&mut self, gateway: usize, replica: usize) {
        if let Some(slot) = self.replicas[replica].slots[gateway].take() {
            self.replicas[replica].interest.disconnect(slot);
        }
        self.up[gateway][replica].clear();
        self.down[gateway][replica].clear();
        for index in 0..self.sessions.len() {
            let session = &mut self.sessions[index];
            if session.gateway == gateway
                && let Some(registering) = &mut session.registering
            {
                registering.waiting.retain(|(of, _request)| *of != replica);
                self.go_on(index);
            }
        }
    }

    fn link(&mut self, gateway: usize, replica: usize) {
        if self.replicas[replica].slots[gateway].is_some() {
            return;
        }
        let slot = self.replicas[replica].interest.connect(gateway as u64 + 1);
        self.replicas[replica].slots[gateway] = Some(slot);
        let here = (0..self.sessions.len()).filter(|index| {
            let session = &self.sessions[*index];
            session.gateway == gateway && session.entered && !session.closed
        });
        let table = here.map(|index| self.said(index)).collect();
        self.up[gateway][replica].push_back(ToReplica::Table(table));
    }

    fn close(&mut self, index: usize) {
        let over = |session: &Session| session.standing.phase == Phase::Over && !session.closed;
        let Some(session) = self.sessions.get_mut(index).filter(|session| over(session)) else {
            return;
        };
        session.closed = true;
        session.registering = None;
        let gateway = session.gateway;
        self.tell(gateway, |world| ToReplica::Gone(world.said(index)));
    }

    fn wait(&mut self, us: u64) {
        self.now_us += us;
        for index in 0..self.sessions.len() {
            if let Some(registering) = &mut self.sessions[index].registering
                && registering.until_us <= self.now_us
            {
                // A gateway that has not answered is given up: its link is reset.
                let gateway = self.sessions[index].gateway;
                let late = self.sessions[index].registering.iter();
                let late: Vec<usize> =
                    late.flat_map(|one| &one.waiting).map(|(replica, _request)| *replica).collect();
                for replica in late {
                    self.cut(gateway, replica);
                }
            }
        }
    }

    fn tick(&mut self, replica: usize) {
        let now = self.now();
        let now_us = self.now_us - self.replicas[replica].started_us;
        while let Some(seat) = self.replicas[replica].rechecks.pop(now) {
            self.judge(replica, Case { seat, newcomer: None, now_us });
        }
    }

    /// Everything heals, and time goes by until nothing happens.
    pub(super) fn heal(&mut self) {
        for index in 0..self.sessions.len() {
            if !self.sessions[index].entered {
                self.enter(index);
            }
        }
        for _second in 0..20 {
            for (gateway, replica) in pairs() {
                self.link(gateway, replica);
            }
            while pairs().any(|(gateway, replica)| {
                self.deliver_up(gateway, replica) | self.deliver_down(gateway, replica)
            }) {}
            for index in 0..self.sessions.len() {
                self.close(index);
            }
            self.wait(1_000_000);
            for replica in BOTH {
                self.tick(replica);
            }
        }
    }

    /// The one session that is left; all others must have been closed.
    pub(super) fn survivor(&self) -> &Session {
        let mut left = self.sessions.iter().filter(|session| !session.closed);
        let (one, other) = (left.next(), left.next());
        let survivor = one.unwrap_or_else(|| panic!("nobody stays: {self:?}"));
        assert!(other.is_none(), "two stay: {self:?}");
        assert_eq!(survivor.standing.phase, Phase::Settled, "{self:?}");
        let largest = self.sessions.iter().map(|session| session.standing.epoch).max();
        assert_eq!(Some(survivor.standing.epoch), largest, "{self:?}");
        survivor
    }

    pub(super) fn came_last(&self) -> u64 {
        self.sessions.iter().max_by_key(|session| session.standing.came_us).map_or(0, |one| one.id)
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sessions = self.sessions.iter();
        f.debug_list().entries(sessions.map(|one| (one.gateway, one.id, one.standing))).finish()
    }
}

pub(super) fn pairs() -> impl Iterator<Item = (usize, usize)> {
    BOTH.into_iter().flat_map(|gateway| BOTH.map(|replica| (gateway, replica)))
}
