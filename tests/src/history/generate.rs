//! Histories as a system without faults writes them, for measuring the checker and for testing it.
//!
//! Twenty people talk to their neighbours, to a group, and to a second group that others enter and
//! leave. Some say the same twice. They read, and their other devices are told; some watch who is
//! online; two phones of one user throw each other out. Some answers never come, some messages are
//! refused, some connections are lost, and a fault begins and ends now and then.

mod notices;
mod people;

use std::collections::{HashMap, VecDeque};

use super::event::{
    Change, Class, Connection, Conv, Delivery, Event, Mid, Phase, Progress, Row, Sha, What,
};
use crate::Random;
use people::{Device, Kind};

/// How many users talk.
const PEOPLE: u32 = 20;
/// How many users enter and leave the second group.
const OUTSIDERS: u32 = 3;
/// Every how manieth user has an old phone as well.
const PHONES: u32 = 4;
/// One of so many messages says the same as the one before it.
const AGAIN: u64 = 12;
/// When the first message was taken, in unix seconds.
const BEGINNING: u32 = 1_700_000_000;
/// Messages of one user that are unanswered at the same time.
const AHEAD: usize = 4;
/// The device that reads the histories of the end.
const READER: u32 = 100;

/// Makes a history of about `count` events, always the same from the same seed.
pub fn generate(count: usize, seed: u64) -> Vec<Event> {
    let mut world = World::new(seed);
    world.begin();
    // What is left to do in the end grows with what was said.
    while world.events.len() + world.backlog() < count {
        world.step();
    }
    world.end();
    world.events
}

/// Something that was said.
#[derive(Debug, Clone, Copy)]
struct Said {
    conv: Conv,
    mid: Mid,
    sha: Sha,
}

struct World {
    random: Random,
    events: Vec<Event>,
    us: u64,
    /// What each user said that has no outcome, and its number if it is stored already.
    open: Vec<VecDeque<(Said, Option<u32>)>>,
    /// The history of each conversation.
    logs: HashMap<Conv, Vec<Row>>,
    said: u64,
    /// How much each user said where, and the last of it.
    counts: HashMap<(u32, Conv), (u32, Mid)>,
    /// The words of that.
    words: HashMap<(u32, Conv), Sha>,
    devices: Vec<Device>,
    /// Whether each outsider is a member, and since which number.
    joined: Vec<Option<u32>>,
    /// Up to where each user has read each conversation.
    marks: HashMap<(u32, Conv), u32>,
    /// Whether the second phone of the user with two phones is online.
    rival: bool,
    fault: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut devices: Vec<Device> =
            (1..=PEOPLE + OUTSIDERS).map(|user| Device::new(user, 1, Kind::Library)).collect();
        devices.extend(
            (1..=PEOPLE)
                .filter(|user| user % PHONES == 0)
                .map(|user| Device::new(user, 2, Kind::Phone)),
        );
        Self {
            random: Random::from_seed(seed),
            events: Vec::new(),
            us: 0,
            open: (0..=PEOPLE).map(|_| VecDeque::new()).collect(),
            logs: HashMap::new(),
            said: 0,
            counts: HashMap::new(),
            words: HashMap::new(),
            devices,
            joined: vec![None; OUTSIDERS as usize],
            marks: HashMap::new(),
            rival: false,
            fault: false,
        }
    }

    fn add(&mut self, what: What) -> u64 {
        self.us += 1 + self.random.below(200);
        let at = self.events.len() as u64 + 1;
        self.events.push(Event { at, us: self.us, what });
        at
    }

    fn chance(&mut self, of: u64) -> bool {
        self.random.below(of) == 0
    }

    fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.random.below(count as u64)).unwrap_or(0)
    }

    fn backlog(&self) -> usize {
        // Every message has an outcome and two or more receivers.
        self.open.iter().map(VecDeque::len).sum::<usize>() * 4
    }

    fn begin(&mut self) {
        for user in 1..=PEOPLE {
            for group in [1, 2] {
                let conv = Conv::group(group);
                self.add(What::Member { conv, user, join: 1, leave: None });
            }
        }
        for device in 0..self.devices.len() {
            self.connect(device);
        }
    }

    fn step(&mut self) {
        match self.random.below(1_000) {
            0 => self.toggle_fault(),
            1..=6 => self.change_members(),
            7..=11 => {
                let device = self.pick(self.devices.len());
                if self.devices[device].is_online {
                    self.disconnect(device);
                } else {
                    self.connect(device);
                }
            }
            12..=17 => self.mark(),
            18 => self.toggle_rival(),
            19..=300 => self.talk(),
            _ => {
                let device = self.pick(self.devices.len());
                for _ in 0..8 {
                    self.deliver(device);
                }
            }
        }
    }

    fn talk(&mut self) {
        let user = 1 + self.pick(PEOPLE as usize);
        if self.open[user].len() < AHEAD && !self.chance(2) {
            self.say(u32::try_from(user).unwrap_or(1));
        } else if let Some(next) = self.open[user].iter().position(|(_, id)| id.is_none())
            && !self.chance(3)
        {
            self.store(user, next);
        } else if self.open[user].front().is_some_and(|(_, id)| id.is_some()) {
            self.answer(user);
        }
    }

    fn say(&mut self, user: u32) {
        let conv = match self.random.below(4) {
            0 => Conv::single(user, user % PEOPLE + 1),
            1 => Conv::single(user, (user + PEOPLE - 2) % PEOPLE + 1),
            2 => Conv::group(1),
            _ => Conv::group(2),
        };
        self.said += 1;
        let mid = Mid(u128::from(self.said).to_be_bytes());
        let again =
            self.words.get(&(user, conv)).copied().filter(|_| self.random.below(AGAIN) == 0);
        let sha = again.unwrap_or_else(|| Sha::of(client::Kind::Text, &self.said.to_be_bytes()));
        self.words.insert((user, conv), sha);
        let before = self.counts.get(&(user, conv)).copied();
        let (idx, prev) = before.map_or((1, None), |(idx, prev)| (idx + 1, Some(prev)));
        self.counts.insert((user, conv), (idx, mid));
        self.add(What::Invoke { user, device: 1, conv, mid, idx, prev, sha, unnamed: false });
        if self.chance(500) {
            self.add(What::Fail { mid, code: 3 });
            return;
        }
        self.open[user as usize].push_back((Said { conv, mid, sha }, None));
    }

    fn store(&mut self, user: usize, next: usize) {
        let (said, id) = &mut self.open[user][next];
        let log = self.logs.entry(said.conv).or_default();
        let msg_id = u32::try_from(log.len()).unwrap_or(0) + 1;
        let sender = u32::try_from(user).unwrap_or(0);
        let time = Some(BEGINNING + msg_id / 4);
        log.push(Row { msg_id, sender, sha: said.sha, mid: Some(said.mid), time });
        *id = Some(msg_id);
    }

    fn answer(&mut self, user: usize) {
        let Some((Said { mid, .. }, Some(msg_id))) = self.open[user].pop_front() else { return };
        if self.chance(200) {
            self.add(What::Info { mid });
            return;
        }
        let time = Some(BEGINNING + msg_id / 4);
        self.add(What::Ok { mid, msg_id, time });
    }

    fn toggle_fault(&mut self) {
        let phase = if self.fault { Phase::End } else { Phase::Start };
        let fired = u64::from(self.fault);
        let (what, target) = ("kill".to_owned(), "db_proxy".to_owned());
        self.add(What::Nemesis { what, target, phase, fired });
        self.fault = !self.fault;
    }

    fn change_members(&mut self) {
        let outsider = self.pick(OUTSIDERS as usize);
        let user = PEOPLE + 1 + u32::try_from(outsider).unwrap_or(0);
        let conv = Conv::group(2);
        let head = self.logs.get(&conv).map_or(0, Vec::len);
        let head = u32::try_from(head).unwrap_or(0);
        let member = self.joined[outsider];
        let change = if member.is_some() { Change::Remove } else { Change::Add };
        self.add(What::Change { conv, user, change, phase: Progress::Invoke, by: None });
        let device = usize::try_from(user - 1).unwrap_or(0);
        if member.is_some() {
            // From now on the user gets nothing, not even messages from before that have not come yet.
            self.joined[outsider] = None;
            self.devices[device].next.remove(&conv);
        } else {
            self.joined[outsider] = Some(head + 1);
            self.devices[device].next.insert(conv, head + 1);
        }
        self.add(What::Change { conv, user, change, phase: Progress::Ok, by: None });
        self.tell_members(conv, change, user);
    }

    /// The runs of numbers that a device has.
    fn has(&self, device: &Device, conv: Conv) -> Vec<(u32, u32)> {
        let next = device.next.get(&conv).copied().unwrap_or(1);
        if next > 1 { vec![(device.first(conv, &self.joined), next - 1)] } else { Vec::new() }
    }

    fn end(&mut self) {
        if self.fault {
            self.toggle_fault();
        }
        self.add(What::Counters { retries: 50, repairs: 50 });
        for user in 1..self.open.len() {
            while let Some(next) = self.open[user].iter().position(|(_, id)| id.is_none()) {
                self.store(user, next);
            }
            while !self.open[user].is_empty() {
                self.answer(user);
            }
        }
        for device in 0..self.devices.len() {
            if !self.devices[device].is_online {
                self.connect(device);
            }
            while self.deliver(device) {}
        }
        let mut convs: Vec<Conv> = self.logs.keys().copied().collect();
        convs.sort_unstable();
        for device in self.devices.clone() {
            for conv in convs.clone() {
                if !device.is_in(conv, &self.joined) {
                    continue;
                }
                let (user, has) = (device.user, self.has(&device, conv));
                self.add(What::Final { user, device: device.number, conv, has });
            }
        }
        for conv in convs {
            self.read(conv);
        }
    }

    /// What the server makes of a conversation, and its history.
    fn read(&mut self, conv: Conv) {
        let log = self.logs.get(&conv).cloned().unwrap_or_default();
        let head = u32::try_from(log.len()).unwrap_or(0);
        let readers = self.devices.clone();
        for device in &readers {
            if device.number != 1 || !device.is_in(conv, &self.joined) {
                continue;
            }
            let (user, join) = (device.user, device.first(conv, &self.joined));
            let read = u32::try_from(self.random.below(u64::from(head) + 1)).unwrap_or(0);
            self.add(What::Mark { user, conv, upto: read, phase: Progress::Ok });
            let read = read.max(self.marks.get(&(user, conv)).copied().unwrap_or(0));
            let above = log.iter().filter(|row| row.msg_id > read.max(join - 1));
            let unread = above.filter(|row| row.sender != user).count();
            let unread = u32::try_from(unread).unwrap_or(0);
            self.add(What::Derived { user, conv, unread, head });
        }
        let user = readers.iter().find(|it| it.is_in(conv, &self.joined)).map_or(0, |it| it.user);
        let (device, state) = (READER, Connection::Connected);
        self.add(What::Session { user, device, state, class: None });
        let asked = Some(self.events.len() as u64);
        let rows: Vec<Row> = log.iter().map(|row| Row { mid: None, ..*row }).collect();
        let from = head.saturating_sub(99).max(1);
        let page = rows.iter().copied().skip(from as usize - 1).collect();
        let (device, complete_upto, to_head) = (READER, head, true);
        self.add(What::Pull {
            user,
            device,
            conv,
            from,
            complete_upto,
            asked,
            to_head,
            rows: page,
        });
        self.add(What::Stored { conv, from: 1, rows });
    }

    /// Gives a device the next message that it lacks. Returns whether there was one.
    fn deliver(&mut self, device: usize) -> bool {
        let it = &self.devices[device];
        if !it.is_online {
            return false;
        }
        let lacking = it.convs().find(|conv| {
            it.is_in(*conv, &self.joined)
                && it.lacks(*conv, self.logs.get(conv).map_or(0, Vec::len))
        });
        let Some(conv) = lacking else { return false };
        let (user, number, kind) = (it.user, it.number, it.kind);
        let next = it.next.get(&conv).copied().unwrap_or(1);
        let Row { msg_id, sender, sha, mid, time } = self.logs[&conv][next as usize - 1];
        self.devices[device].next.insert(conv, next + 1);
        let delivery = Delivery { user, device: number, conv, msg_id, sender, sha, mid, time };
        match kind {
            Kind::Library => {
                // Its own messages are answered.
                if sender != user {
                    self.add(What::Wire(delivery));
                }
                self.add(What::Shown(delivery));
            }
            Kind::Phone => {
                self.add(What::Push(Delivery { mid: None, ..delivery }));
            }
        }
        true
    }

    fn connect(&mut self, device: usize) {
        let Device { user, number, kind, .. } = self.devices[device];
        self.devices[device].is_online = true;
        if kind == Kind::Library {
            self.add_session(user, number, Connection::Connected, Class::Pc);
            self.tell_presence(user, device);
            return;
        }
        self.add_session(user, number, Connection::Connecting, Class::Mobile);
        self.add_session(user, number, Connection::Connected, Class::Mobile);
        self.displace_rival(user);
        let convs: Vec<Conv> = self.devices[device].convs().collect();
        for conv in convs {
            let log = self.logs.get(&conv).map(Vec::as_slice).unwrap_or_default();
            let next = self.devices[device].next.get(&conv).copied().unwrap_or(1);
            let head = u32::try_from(log.len()).unwrap_or(0);
            if next > head {
                continue;
            }
            let rows = log[next as usize - 1..].iter().map(|row| Row { mid: None, ..*row });
            let rows: Vec<Row> = rows.collect();
            let asked = Some(self.events.len() as u64);
            self.devices[device].next.insert(conv, head + 1);
            let (device, from, complete_upto, to_head) = (number, next, head, true);
            self.add(What::Pull { user, device, conv, from, complete_upto, asked, to_head, rows });
        }
        self.add_session(user, number, Connection::Synced, Class::Mobile);
    }

    fn disconnect(&mut self, device: usize) {
        let Device { user, number, kind, .. } = self.devices[device];
        self.devices[device].is_online = false;
        let class = if kind == Kind::Library { Class::Pc } else { Class::Mobile };
        self.add_session(user, number, Connection::Disconnected, class);
        if kind == Kind::Library {
            self.tell_presence(user, device);
        }
    }

    fn add_session(&mut self, user: u32, device: u32, state: Connection, class: Class) {
        self.add(What::Session { user, device, state, class: Some(class) });
    }
}
