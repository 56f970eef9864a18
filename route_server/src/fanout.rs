//! To which gateways something must go: each of them once.
//!
//! Nothing is allocated per recipient: a slot that is already among the recipients carries the
//! number of the round, and the list is used again and again.
//!
//! No socket, no clock.

use proto::cluster::wire::{Forward, Kick, Publish};
use proto::ids::{ConversationId, Parties, UserId};

use crate::interest::{Interest, Slot};

/// The recipients of one frame at a time.
#[derive(Debug, Default)]
pub(crate) struct Fanout {
    round: u64,
    /// For each slot, the last round in which it was a recipient.
    chosen: Vec<u64>,
    recipients: Vec<Slot>,
}

impl Fanout {
    /// A folded record: the gateways of both users or of the group, those of the users who were added or
    /// removed, the gateway it came from, and every unknown one.
    pub(crate) fn publish(&mut self, interest: &Interest, publish: &Publish) -> &[Slot] {
        self.begin(interest);
        match ConversationId::from_number(publish.conversation).map(ConversationId::parties) {
            Some(Parties::Single(low, high)) => {
                self.add_user(interest, low, None);
                self.add_user(interest, high, None);
            }
            Some(Parties::Group(group)) => {
                self.add_all(interest.gateways_of_group(group));
            }
            // No conversation has this number, so no gateway can be interested in it.
            None => {}
        }
        for &user in publish.added.iter().chain(&publish.removed) {
            self.add_user(interest, UserId(user), None);
        }
        if let Some(slot) = publish.origin.and_then(|origin| interest.by_boot(origin.gateway_boot))
        {
            self.add(slot);
        }
        &self.recipients
    }

    /// What clients tell each other: the gateways of these users, or all gateways.
    pub(crate) fn forward(&mut self, interest: &Interest, forward: &Forward) -> &[Slot] {
        if forward.everybody() {
            return self.everybody(interest);
        }
        self.begin(interest);
        for &user in &forward.users {
            self.add_user(interest, UserId(user), forward.device_class);
        }
        &self.recipients
    }

    /// The gateways with a session that the kick ends.
    pub(crate) fn kick(&mut self, interest: &Interest, kick: &Kick) -> &[Slot] {
        self.begin(interest);
        for session in interest.sessions(UserId(kick.user)) {
            let class = kick.device_class.is_none_or(|class| session.device_class() == class);
            let epoch = kick.below_epoch.is_none_or(|below| session.epoch < below);
            if class && epoch {
                self.add(session.slot());
            }
        }
        &self.recipients
    }

    /// Every connected gateway.
    pub(crate) fn everybody(&mut self, interest: &Interest) -> &[Slot] {
        self.begin(interest);
        for slot in interest.connected() {
            self.add(slot);
        }
        &self.recipients
    }

    fn begin(&mut self, interest: &Interest) {
        self.round += 1;
        self.recipients.clear();
        self.chosen.resize(interest.slots(), 0);
        self.add_all(interest.unknown());
    }

    fn add_user(&mut self, interest: &Interest, user: UserId, class: Option<u32>) {
        for session in interest.sessions(user) {
            if class.is_none_or(|class| session.device_class() == class) {
                self.add(session.slot());
            }
        }
    }

    fn add_all(&mut self, slots: &[Slot]) {
        for &slot in slots {
            self.add(slot);
        }
    }

    fn add(&mut self, slot: Slot) {
        if let Some(chosen) = self.chosen.get_mut(slot.index())
            && *chosen != self.round
        {
            *chosen = self.round;
            self.recipients.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proto::cluster::wire::Origin;
    use proto::ids::GroupId;

    use super::*;
    use crate::interest::Announcement;

    const NOBODY: [u64; 0] = [];
    const ANDROID: u32 = 0x12;
    const WINDOWS: u32 = 1;

    /// Gateways 1 to 4, all known; user N has a PC session on gateway N, user 1 also a mobile one on
    /// gateway 4, user 2 two on gateway 2; group 9 is on 3 and 4.
    fn table() -> Interest {
        let mut interest = Interest::default();
        let slots: Vec<Slot> = (1..=4).map(|boot| interest.connect(boot)).collect();
        for (user, &slot) in (1..).zip(&slots) {
            interest.begin(slot);
            interest.add_session(slot, &session(user, u64::from(user), WINDOWS), 0);
        }
        interest.add_session(slots[3], &session(1, 11, ANDROID), 0);
        interest.add_session(slots[1], &session(2, 12, ANDROID), 0);
        interest.add_group(slots[2], GroupId(9));
        interest.add_group(slots[3], GroupId(9));
        for slot in slots {
            interest.complete(slot);
        }
        interest
    }

    fn session(user: u32, session: u64, client_type: u32) -> Announcement {
        let epoch = 10 * session;
        Announcement { user: UserId(user), session, client_type, epoch, age_us: None }
    }

    fn boots(interest: &Interest, recipients: &[Slot]) -> Vec<u64> {
        let mut boots: Vec<u64> =
            recipients.iter().map(|slot| interest.boot(*slot).unwrap()).collect();
        boots.sort_unstable();
        boots
    }

    fn publish(conversation: ConversationId) -> Publish {
        Publish {
            conversation: conversation.number(),
            frame: Bytes::from_static(b"frame"),
            ..Publish::default()
        }
    }

    fn single(one: u32, other: u32) -> Publish {
        publish(ConversationId::single(UserId(one), UserId(other)).unwrap())
    }

    fn group(group: u32) -> Publish {
        publish(ConversationId::group(GroupId(group)).unwrap())
    }

    #[test]
    fn a_message_of_two_users_goes_to_the_gateways_of_both_and_once_to_each() {
        let (interest, mut fanout) = (table(), Fanout::default());
        let recipients = fanout.publish(&interest, &single(1, 2)).to_vec();
        assert_eq!(boots(&interest, &recipients), [1, 2, 4]);
        let again = fanout.publish(&interest, &single(1, 2)).to_vec();
        assert_eq!(boots(&interest, &again), [1, 2, 4], "each publish is a round of its own");
    }

    #[test]
    fn a_message_of_a_group_goes_to_the_gateways_with_members() {
        let (interest, mut fanout) = (table(), Fanout::default());
        assert_eq!(boots(&interest, fanout.publish(&interest, &group(9))), [3, 4]);
        assert_eq!(boots(&interest, fanout.publish(&interest, &group(8))), NOBODY);
    }

    #[test]
    fn the_gateway_that_a_message_came_from_always_gets_it() {
        let (interest, mut fanout) = (table(), Fanout::default());
        let origin = |gateway_boot| Some(Origin { gateway_boot, session: 1 });
        let from_one = Publish { origin: origin(1), ..group(9) };
        assert_eq!(boots(&interest, fanout.publish(&interest, &from_one)), [1, 3, 4]);
        let from_interested = Publish { origin: origin(3), ..group(9) };
        assert_eq!(boots(&interest, fanout.publish(&interest, &from_interested)), [3, 4]);
        let from_nowhere = Publish { origin: origin(99), ..group(9) };
        assert_eq!(boots(&interest, fanout.publish(&interest, &from_nowhere)), [3, 4]);
    }

    #[test]
    fn users_who_were_added_or_removed_hear_of_it() {
        let (interest, mut fanout) = (table(), Fanout::default());
        let change = Publish { added: vec![1], removed: vec![2, 77], ..group(9) };
        assert_eq!(boots(&interest, fanout.publish(&interest, &change)), [1, 2, 3, 4]);
    }

    #[test]
    fn an_unknown_gateway_gets_everything() {
        let (mut interest, mut fanout) = (table(), Fanout::default());
        let slot = interest.connect(5);
        assert_eq!(boots(&interest, fanout.publish(&interest, &single(1, 3))), [1, 3, 4, 5]);
        let kick = Kick { user: 3, ..Kick::default() };
        assert_eq!(boots(&interest, fanout.kick(&interest, &kick)), [3, 5]);
        interest.begin(slot);
        interest.complete(slot);
        assert_eq!(boots(&interest, fanout.publish(&interest, &single(1, 3))), [1, 3, 4]);
    }

    #[test]
    fn a_number_that_is_no_conversation_reaches_no_gateway() {
        let (interest, mut fanout) = (table(), Fanout::default());
        let nothing = Publish { conversation: 0, ..Publish::default() };
        assert_eq!(boots(&interest, fanout.publish(&interest, &nothing)), NOBODY);
    }

    #[test]
    fn what_clients_tell_each_other_goes_to_users_or_to_everybody() {
        let (interest, mut fanout) = (table(), Fanout::default());
        let to = |users: &[u32], device_class| Forward {
            users: users.to_vec(),
            device_class,
            ..Forward::default()
        };
        assert_eq!(boots(&interest, fanout.forward(&interest, &to(&[1, 3], None))), [1, 3, 4]);
        assert_eq!(boots(&interest, fanout.forward(&interest, &to(&[1], Some(0)))), [1]);
        assert_eq!(boots(&interest, fanout.forward(&interest, &to(&[1], Some(1)))), [4]);
        let all = Forward { everybody: Some(true), ..Forward::default() };
        assert_eq!(boots(&interest, fanout.forward(&interest, &all)), [1, 2, 3, 4]);
    }

    #[test]
    fn a_kick_goes_where_there_is_something_to_end() {
        let (interest, mut fanout) = (table(), Fanout::default());
        let kick = |device_class, below_epoch| Kick {
            user: 1,
            device_class,
            below_epoch,
            ..Kick::default()
        };
        assert_eq!(boots(&interest, fanout.kick(&interest, &kick(None, None))), [1, 4]);
        assert_eq!(boots(&interest, fanout.kick(&interest, &kick(Some(0), None))), [1]);
        assert_eq!(boots(&interest, fanout.kick(&interest, &kick(None, Some(110)))), [1]);
        assert_eq!(boots(&interest, fanout.kick(&interest, &kick(None, Some(10)))), NOBODY);
    }
}
