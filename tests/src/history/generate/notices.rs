//! What devices are told besides messages: read marks, members, which users are online, and that they
//! are thrown out.

use super::people::Kind;
use super::{PEOPLE, PHONES, World};
use crate::history::event::{Change, Class, Connection, Conv, Progress, What};

/// How many users record which users are online.
const WATCHERS: u32 = 2;
/// The user who has two phones, and the number of the second.
const RIVALS: (u32, u32) = (4, 3);

impl World {
    /// A user with a phone reads what the other device has been shown, and the phone is told.
    pub(super) fn mark(&mut self) {
        let which = self.pick((PEOPLE / PHONES) as usize);
        let place = PHONES as usize * (1 + which) - 1;
        let user = self.devices[place].user;
        let device = &self.devices[place];
        let convs: Vec<Conv> = device.next.keys().copied().collect();
        if convs.is_empty() || !device.is_online {
            return;
        }
        let conv = convs[self.pick(convs.len())];
        let upto = self.devices[place].next[&conv] - 1;
        let before = self.marks.get(&(user, conv)).copied().unwrap_or(0);
        if upto <= before {
            return;
        }
        self.marks.insert((user, conv), upto);
        self.add(What::Mark { user, conv, upto, phase: Progress::Invoke });
        let phone = self.devices.iter().find(|it| it.user == user && it.kind == Kind::Phone);
        if let Some(device) = phone.filter(|it| it.is_online).map(|it| it.number) {
            self.add(What::MarkTold { user, device, conv, upto });
        }
        if self.chance(2) {
            self.add(What::Mark { user, conv, upto, phase: Progress::Ok });
        }
    }

    /// All members are told, except the one who asked.
    pub(super) fn tell_members(&mut self, conv: Conv, change: Change, who: u32) {
        for user in 2..=PEOPLE {
            if self.devices[user as usize - 1].is_online {
                self.add(What::MembersTold { user, device: 1, conv, change, who: vec![who] });
            }
        }
    }

    /// A user's PC came or went: the users who watch are told. If it is the PC of one that watches,
    /// it asks for all.
    pub(super) fn tell_presence(&mut self, who: u32, device: usize) {
        let is_online = |world: &Self, user: u32| world.devices[user as usize - 1].is_online;
        let online = self.devices[device].is_online;
        for user in (1..=WATCHERS).filter(|user| *user != who) {
            if is_online(self, user) {
                self.add(What::Presence { user, device: 1, who, online });
            }
        }
        if who <= WATCHERS && online {
            for other in (1..=PEOPLE).filter(|other| *other != who) {
                let online = is_online(self, other);
                self.add(What::Presence { user: who, device: 1, who: other, online });
            }
        }
    }

    /// The second phone comes, and throws the first one out; or it goes.
    pub(super) fn toggle_rival(&mut self) {
        let (user, device) = RIVALS;
        if self.rival {
            self.rival = false;
            self.add_session(user, device, Connection::Disconnected, Class::Mobile);
            return;
        }
        self.rival = true;
        self.add_session(user, device, Connection::Connecting, Class::Mobile);
        self.add_session(user, device, Connection::Connected, Class::Mobile);
        let phone = self.devices.iter().position(|it| it.user == user && it.kind == Kind::Phone);
        if let Some(phone) = phone.filter(|phone| self.devices[*phone].is_online) {
            let device = self.devices[phone].number;
            self.add(What::Kicked { user, device });
            self.disconnect(phone);
        }
    }

    /// The first phone comes, and throws the second one out.
    pub(super) fn displace_rival(&mut self, user: u32) {
        let (of, device) = RIVALS;
        if self.rival && user == of {
            self.rival = false;
            self.add(What::Kicked { user, device });
            self.add_session(user, device, Connection::Disconnected, Class::Mobile);
        }
    }
}
