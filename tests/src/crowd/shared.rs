//! What all tasks of a crowd share: the record, and how far everybody is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

use client::{Conversation, Message};
use proto::client::MessageInfo;
use proto::ids::GroupId;
use tokio::sync::watch;

use crate::history::{Class, Connection, Conv, Delivery, Mid, Ranges, Recorder, Row, Sha, What};

/// The device that keeps the client contract.
pub(super) const LIBRARY: u32 = 1;
/// An old phone.
pub(super) const PHONE: u32 = 2;
/// A second old phone of the same user.
pub(super) const RIVAL: u32 = 3;
/// An old PC, of users without the library.
pub(super) const OLD_PC: u32 = 4;
/// The one that reads everything in the end.
pub(super) const READER: u32 = 100;

/// A user's device.
pub(super) type DeviceId = (u32, u32);

/// What everybody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// They talk, come and go.
    Talking,
    /// They wait for what is under way.
    Settling,
    /// Old clients read everything that they have.
    Reading,
}

/// Everything that is shared.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) recorder: Recorder,
    pub(super) acked: watch::Sender<usize>,
    /// Counts all steps of all devices.
    pub(super) steps: watch::Sender<u64>,
    people: u32,
    has_group: bool,
    state: Mutex<State>,
}

/// How far everybody is.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The group that others enter and leave.
    pub(super) open_group: Option<GroupId>,
    /// The highest number acknowledged in each conversation.
    heads: HashMap<Conv, Head>,
    /// What each device has of each conversation.
    views: BTreeMap<DeviceId, HashMap<Conv, View>>,
    /// The devices that are waited for.
    entered: BTreeSet<DeviceId>,
    /// Since which event each outsider certainly is a member.
    pub(super) members: HashMap<u32, u64>,
    /// What has no answer yet.
    open: HashMap<DeviceId, HashMap<Mid, (Conv, u64)>>,
    /// The conversations that each user has taken out of the list, for all devices.
    removed: HashSet<(u32, Conversation)>,
    /// Old clients that have not read everything yet.
    pub(super) reading: BTreeSet<DeviceId>,
    online: HashSet<DeviceId>,
    pub(super) reconnects: usize,
    pub(super) heard: usize,
    retries: u64,
    repairs: u64,
    /// What went wrong.
    pub(super) wrong: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Head {
    acked: u32,
    /// The last of all events in which something was said that is acknowledged.
    said_at: u64,
}

#[derive(Debug, Default)]
struct View {
    has: Ranges,
    /// Everything up to here was handed out or passed by the library.
    upto: u32,
}

impl Shared {
    pub(super) fn new(recorder: Recorder, people: u32, has_group: bool) -> Self {
        let (acked, steps) = (watch::Sender::new(0), watch::Sender::new(0));
        Self { recorder, acked, steps, people, has_group, state: Mutex::default() }
    }

    /// How many talk. Users with higher numbers only enter and leave.
    pub(super) const fn people(&self) -> u32 {
        self.people
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panicked with it")
    }

    pub(super) fn complain(&self, what: String) {
        self.state().wrong.push(what);
    }

    /// The conversations that a user talks in, in turn: with neighbours and in groups.
    pub(super) fn places(&self, user: u32) -> Vec<Conversation> {
        let open = self.state().open_group.map(Conversation::Group);
        if user > self.people {
            return open.into_iter().collect();
        }
        let next = user % self.people + 1;
        let before = (user + self.people - 2) % self.people + 1;
        let group = self.has_group.then_some(Conversation::group(1));
        let places =
            [Some(Conversation::user(next)), group, Some(Conversation::user(before)), open];
        let mut places: Vec<Conversation> = places.into_iter().flatten().collect();
        if next == before {
            places.retain({
                let mut seen = HashSet::new();
                move |place| seen.insert(*place)
            });
        }
        places
    }

    pub(super) fn convs(&self, user: u32) -> Vec<Conv> {
        self.places(user).into_iter().map(|place| conv(user, place)).collect()
    }

    /// An old client is about to log in.
    pub(super) fn connecting(&self, (user, device): DeviceId, class: Class) {
        let (state, class) = (Connection::Connecting, Some(class));
        self.recorder.record(What::Session { user, device, state, class });
    }

    pub(super) fn connected(&self, device: DeviceId, class: Class) {
        let (user, number) = device;
        let mut all = self.state();
        all.online.insert(device);
        let (state, class) = (Connection::Connected, Some(class));
        self.recorder.record(What::Session { user, device: number, state, class });
        drop(all);
    }

    /// Also when connecting failed. Old clients come and go, and are thrown out: only what the library
    /// loses is counted.
    pub(super) fn disconnected(&self, device: DeviceId) {
        let (user, number) = device;
        let mut all = self.state();
        all.reconnects += usize::from(number == LIBRARY);
        // The library sends all of these again.
        let open = all.open.get(&device).map_or(0, HashMap::len);
        let was_online = all.online.remove(&device);
        all.retries += if was_online && number == LIBRARY { open as u64 } else { 0 };
        // Of an old client also an attempt is told, which ends here.
        if was_online || number != LIBRARY {
            let state = Connection::Disconnected;
            self.recorder.record(What::Session { user, device: number, state, class: None });
        }
        drop(all);
        self.step();
    }

    /// A user is about to take a conversation out of the list.
    pub(super) fn remove(&self, user: u32, conversation: Conversation) {
        self.state().removed.insert((user, conversation));
    }

    pub(super) fn is_removed(&self, user: u32, conversation: Conversation) -> bool {
        self.state().removed.contains(&(user, conversation))
    }

    /// An old client sends something again.
    pub(super) fn repeats(&self) {
        self.state().retries += 1;
    }

    pub(super) fn invoke(&self, what: What) {
        let What::Invoke { user, device, mid, conv, .. } = what else { return };
        let mut state = self.state();
        let at = self.recorder.record(what);
        state.open.entry((user, device)).or_default().insert(mid, (conv, at));
    }

    /// `time` is that of the answer, where it tells one.
    pub(super) fn acknowledged(
        &self,
        device: DeviceId,
        (mid, conv): (Mid, Conv),
        (msg_id, time): (u32, Option<u32>),
    ) {
        let mut state = self.state();
        self.recorder.record(What::Ok { mid, msg_id, time });
        // An old client shows what it said itself; the library hands it out.
        if device.1 != LIBRARY {
            state.view(device, conv).has.insert(msg_id);
        }
        if let Some((conv, said_at)) = state.close(device, mid) {
            let head = state.heads.entry(conv).or_default();
            head.acked = head.acked.max(msg_id);
            head.said_at = head.said_at.max(said_at);
        }
        drop(state);
        self.acked.send_modify(|acked| *acked += 1);
        self.step();
    }

    pub(super) fn not_acknowledged(&self, device: DeviceId, what: What) {
        let mut state = self.state();
        if let Some(mid) = what.outcome_of() {
            state.close(device, mid);
        }
        self.recorder.record(what);
    }

    /// The library has handed something out.
    pub(super) fn shown(&self, it: Delivery) {
        let mut state = self.state();
        self.recorder.record(What::Shown(it));
        state.heard += 1;
        // History does not tell the sender's id.
        state.repairs += u64::from(it.mid.is_none());
        let view = state.view((it.user, it.device), it.conv);
        view.has.insert(it.msg_id);
        view.upto = it.msg_id;
        drop(state);
        self.step();
    }

    /// The library has passed some numbers.
    pub(super) fn skipped(&self, (user, device): DeviceId, conv: Conv, (first, last): (u32, u32)) {
        let mut state = self.state();
        self.recorder.record(What::Skipped { user, device, conv, first, last });
        state.view((user, device), conv).upto = last;
        drop(state);
        self.step();
    }

    pub(super) fn pushed(&self, it: Delivery) {
        let mut state = self.state();
        self.recorder.record(What::Push(it));
        state.heard += 1;
        state.view((it.user, it.device), it.conv).has.insert(it.msg_id);
        drop(state);
        self.step();
    }

    /// An old device has read history up to the newest message.
    pub(super) fn pulled(&self, what: What) {
        let What::Pull { user, device, conv, from, complete_upto, ref rows, .. } = what else {
            return;
        };
        let mut state = self.state();
        let view = state.view((user, device), conv);
        for row in rows {
            view.has.insert(row.msg_id);
        }
        view.has.insert_run(from, complete_upto);
        state.repairs += rows.len() as u64;
        self.recorder.record(what);
        drop(state);
        self.step();
    }

    /// An old client has read everything, and the server knows.
    pub(super) fn has_read(&self, device: DeviceId) {
        self.state().reading.remove(&device);
        self.step();
    }

    /// Whether old clients have read everything, and none is there whose seat another has taken.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state();
        let is_there = |device: DeviceId| state.online.contains(&device);
        let is_two = |user: u32| is_there((user, PHONE)) && is_there((user, RIVAL));
        state.reading.is_empty() && !(1..=self.people).any(is_two)
    }

    fn step(&self) {
        self.steps.send_modify(|steps| *steps += 1);
    }

    /// The first number from which on a device lacks something.
    pub(super) fn complete_upto(&self, device: DeviceId, conv: Conv) -> u32 {
        self.state().view(device, conv).has.complete_upto(1)
    }

    pub(super) fn heads(&self) -> HashMap<Conv, Head> {
        self.state().heads.clone()
    }

    /// The devices that do not have everything up to these numbers, and what they lack.
    pub(super) fn missing(&self, heads: &HashMap<Conv, Head>) -> Vec<String> {
        let devices = self.state().entered.clone();
        let mut missing = Vec::new();
        for device in devices {
            let (user, number) = device;
            for conv in self.convs(user) {
                let Some(head) = heads.get(&conv) else { continue };
                let mut state = self.state();
                // Only what was said after the user joined is certainly for the user.
                let joined = state.members.get(&user).copied();
                if user > self.people && joined.is_none_or(|joined| head.said_at < joined) {
                    continue;
                }
                let view = state.view(device, conv);
                let upto = view.upto.max(view.has.complete_upto(1));
                if upto < head.acked {
                    missing.push(format!("u{user}/{number}: {upto} of {} of {conv}", head.acked));
                }
            }
        }
        missing
    }

    /// Makes a device known, which is waited for from now on.
    pub(super) fn enter(&self, device: DeviceId) {
        self.state().entered.insert(device);
    }

    /// Takes down what everybody has.
    pub(super) fn record_finals(&self) {
        let devices = self.state().entered.clone();
        for (user, device) in devices {
            for conv in self.convs(user) {
                let has = self.state().view((user, device), conv).has.runs().collect();
                self.recorder.record(What::Final { user, device, conv, has });
            }
        }
        let state = self.state();
        let (retries, repairs) = (state.retries, state.repairs);
        self.recorder.record(What::Counters { retries, repairs });
    }
}

impl State {
    fn view(&mut self, device: DeviceId, conv: Conv) -> &mut View {
        self.views.entry(device).or_default().entry(conv).or_default()
    }

    fn close(&mut self, device: DeviceId, mid: Mid) -> Option<(Conv, u64)> {
        self.open.get_mut(&device)?.remove(&mid)
    }
}

/// The conversation that `user` names so, as the checker names it.
pub(super) fn conv(user: u32, conversation: Conversation) -> Conv {
    match conversation {
        Conversation::User(other) => Conv::single(user, other.0),
        Conversation::Group(GroupId(group)) => Conv::group(group),
    }
}

/// A row of the history of `conversation`.
pub(super) fn row(info: &MessageInfo, conversation: Conversation) -> Row {
    let of_conversation =
        |it: &Message| i32::from(it.kind.message_type(conversation)) == info.msg_type;
    let message = Message::from_history(info, conversation).filter(of_conversation);
    // If no client sends this type, it counts as something that was never said.
    let sha = message.map_or(Sha([0; 16]), |it| Sha::of(it.kind, &it.data));
    let (msg_id, sender, time) = (info.msg_id, info.from_user_id, Some(info.create_time));
    Row { msg_id, sender, sha, mid: None, time }
}

/// A message that came to a device.
pub(super) fn delivery((user, device): DeviceId, message: &Message) -> Delivery {
    Delivery {
        user,
        device,
        conv: conv(user, message.conversation),
        msg_id: message.msg_id.0,
        sender: message.from.0,
        sha: Sha::of(message.kind, &message.data),
        mid: message.client_msg_id.map(|id| Mid(id.0)),
        time: Some(message.create_time),
    }
}
