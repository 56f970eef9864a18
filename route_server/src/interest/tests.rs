//! Tables of interest under every order of news.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const NOBODY: [UserId; 0] = [];
const USER: UserId = UserId(7);
const GROUP: GroupId = GroupId(9);
const ANDROID: u32 = 0x12;
const WINDOWS: u32 = 1;

fn session(user: UserId, session: u64, epoch: u64) -> Announcement {
    let client_type = if session.is_multiple_of(2) { WINDOWS } else { ANDROID };
    Announcement { user, session, client_type, epoch, age_us: None }
}

fn known(interest: &mut Interest, boot: u64) -> Slot {
    let slot = interest.connect(boot);
    interest.begin(slot);
    interest.complete(slot);
    slot
}

fn gateways_of(interest: &Interest, user: UserId) -> BTreeSet<Slot> {
    interest.sessions(user).iter().map(Session::slot).collect()
}

#[test]
fn a_late_removal_cannot_undo_a_newer_login() {
    let mut interest = Interest::default();
    let slot = known(&mut interest, 1);
    interest.add_session(slot, &session(USER, 2, 100), 0);
    interest.add_session(slot, &session(USER, 2, 200), 0);
    assert!(!interest.remove_session(slot, &session(USER, 2, 100)));
    assert!(!interest.remove_session(slot, &session(USER, 4, 200)), "another session");
    assert!(interest.pc_online(USER));
    assert!(interest.remove_session(slot, &session(USER, 2, 200)));
    assert!(!interest.pc_online(USER));
}

#[test]
fn one_gateway_cannot_remove_what_another_has_said() {
    let mut interest = Interest::default();
    let (one, other) = (known(&mut interest, 1), known(&mut interest, 2));
    interest.add_session(one, &session(USER, 2, 100), 0);
    interest.add_group(one, GROUP);
    assert!(!interest.remove_session(other, &session(USER, 2, 100)));
    interest.remove_group(other, GROUP);
    assert_eq!(gateways_of(&interest, USER), BTreeSet::from([one]));
    assert_eq!(interest.gateways_of_group(GROUP), [one]);
}

#[test]
fn a_gateway_is_unknown_until_its_table_is_complete_and_while_it_is_sent_again() {
    let mut interest = Interest::default();
    let slot = interest.connect(1);
    assert_eq!(interest.unknown(), [slot]);
    interest.begin(slot);
    interest.add_session(slot, &session(USER, 2, 100), 0);
    assert_eq!(interest.unknown(), [slot]);
    assert_eq!(interest.complete(slot), NOBODY);
    assert_eq!(interest.unknown(), []);
    interest.begin(slot);
    assert_eq!(interest.unknown(), [slot]);
    assert!(interest.pc_online(USER), "what was known stays until the table is complete");
    interest.begin(slot);
    assert_eq!(interest.unknown(), [slot], "beginning twice is beginning once");
    assert_eq!(interest.complete(slot), [USER], "the new table is without this user");
    assert!(!interest.pc_online(USER));
}

#[test]
fn changes_between_the_parts_of_a_table_count() {
    let mut interest = Interest::default();
    let slot = known(&mut interest, 1);
    interest.add_session(slot, &session(UserId(1), 2, 10), 0);
    interest.begin(slot);
    interest.add_session(slot, &session(UserId(1), 2, 10), 0);
    interest.add_session(slot, &session(UserId(3), 6, 30), 0);
    interest.remove_session(slot, &session(UserId(1), 2, 10));
    interest.add_group(slot, GROUP);
    interest.remove_group(slot, GROUP);
    assert_eq!(interest.complete(slot), NOBODY);
    assert_eq!(interest.size(), Size { gateways_known: 1, users: 1, ..Size::default() });
    assert!(interest.pc_online(UserId(3)));
}

#[test]
fn a_lost_gateway_leaves_nothing_and_tells_which_users_are_gone() {
    let mut interest = Interest::default();
    let (one, other) = (known(&mut interest, 1), known(&mut interest, 2));
    interest.add_session(one, &session(UserId(1), 2, 10), 0);
    interest.add_session(one, &session(UserId(2), 4, 10), 0);
    interest.add_session(one, &session(UserId(3), 5, 10), 0);
    interest.add_session(other, &session(UserId(2), 4, 20), 0);
    interest.add_group(one, GROUP);
    assert_eq!(interest.disconnect(one), [UserId(1)], "2 is elsewhere too, 3 was on a phone");
    assert_eq!(interest.disconnect(one), NOBODY, "once");
    assert_eq!(interest.sessions(UserId(1)), []);
    assert_eq!(gateways_of(&interest, UserId(2)), BTreeSet::from([other]));
    assert_eq!(interest.gateways_of_group(GROUP), []);
    assert_eq!(interest.by_boot(1), None);
    assert_eq!(interest.size(), Size { gateways_known: 1, users: 1, ..Size::default() });
}

#[test]
fn a_table_is_asked_for_again_when_checksums_differ_twice_in_a_row() {
    let mut interest = Interest::default();
    let slot = known(&mut interest, 1);
    interest.add_session(slot, &session(USER, 2, 100), 0);
    interest.add_group(slot, GROUP);
    let right = InterestChecksum {
        users: 1,
        users_xor: interest_hash_user(USER.0, 2, 100),
        groups: 1,
        groups_xor: interest_hash_group(GROUP.0),
    };
    let wrong = InterestChecksum { users_xor: 5, ..right };
    assert!(!interest.must_send_again(slot, &right));
    assert!(!interest.must_send_again(slot, &wrong));
    assert!(!interest.must_send_again(slot, &right), "they had crossed");
    assert!(!interest.must_send_again(slot, &wrong));
    assert!(interest.must_send_again(slot, &wrong));
    assert!(!interest.must_send_again(slot, &wrong), "asked only just now");
    interest.begin(slot);
    assert!(!interest.must_send_again(slot, &wrong), "it is being sent");
    assert!(!interest.must_send_again(slot, &wrong));
}

/// What a gateway has said, kept in the most obvious way.
#[derive(Debug, Default, Clone)]
struct Said {
    sessions: BTreeMap<(UserId, u64), u64>,
    groups: BTreeSet<GroupId>,
    known: bool,
    new_table: Option<SaidAgain>,
}

#[derive(Debug, Default, Clone)]
struct SaidAgain {
    sessions: BTreeSet<(UserId, u64)>,
    groups: BTreeSet<GroupId>,
}

#[derive(Debug, Clone)]
enum Step {
    Connect,
    Disconnect,
    Begin,
    Complete,
    Add(Announcement),
    Remove(Announcement),
    AddGroup(GroupId),
    RemoveGroup(GroupId),
}

fn step() -> impl Strategy<Value = Step> {
    let login = || {
        (0..4_u32, 0..4_u64, 0..3_u64)
            .prop_map(|(user, number, epoch)| session(UserId(user), number, epoch))
    };
    let group = || (0..4_u32).prop_map(GroupId);
    prop_oneof![
        2 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        1 => Just(Step::Begin),
        1 => Just(Step::Complete),
        8 => login().prop_map(Step::Add),
        6 => login().prop_map(Step::Remove),
        4 => group().prop_map(Step::AddGroup),
        3 => group().prop_map(Step::RemoveGroup),
    ]
}

impl Said {
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Connect | Step::Disconnect => {}
            Step::Begin => {
                self.known = false;
                self.new_table = Some(SaidAgain::default());
            }
            Step::Complete => {
                self.known = true;
                if let Some(SaidAgain { sessions, groups }) = self.new_table.take() {
                    self.sessions.retain(|key, _epoch| sessions.contains(key));
                    self.groups.retain(|group| groups.contains(group));
                }
            }
            Step::Add(Announcement { user, session, epoch, .. }) => {
                self.sessions.insert((user, session), epoch);
                if let Some(new_table) = &mut self.new_table {
                    new_table.sessions.insert((user, session));
                }
            }
            Step::Remove(Announcement { user, session, epoch, .. }) => {
                if self.sessions.get(&(user, session)) == Some(&epoch) {
                    self.sessions.remove(&(user, session));
                    if let Some(new_table) = &mut self.new_table {
                        new_table.sessions.remove(&(user, session));
                    }
                }
            }
            Step::AddGroup(group) => {
                self.groups.insert(group);
                if let Some(new_table) = &mut self.new_table {
                    new_table.groups.insert(group);
                }
            }
            Step::RemoveGroup(group) => {
                self.groups.remove(&group);
                if let Some(new_table) = &mut self.new_table {
                    new_table.groups.remove(&group);
                }
            }
        }
    }

    fn sum(&self) -> InterestChecksum {
        let xor = |hashes: &mut dyn Iterator<Item = u64>| hashes.fold(0, |sum, hash| sum ^ hash);
        InterestChecksum {
            users: u32::try_from(self.sessions.len()).unwrap(),
            users_xor: xor(&mut self
                .sessions
                .iter()
                .map(|(&(user, session), &epoch)| interest_hash_user(user.0, session, epoch))),
            groups: u32::try_from(self.groups.len()).unwrap(),
            groups_xor: xor(&mut self.groups.iter().map(|group| interest_hash_group(group.0))),
        }
    }
}

fn apply(interest: &mut Interest, slot: Slot, step: &Step) {
    match *step {
        Step::Connect | Step::Disconnect => {}
        Step::Begin => interest.begin(slot),
        Step::Complete => {
            interest.complete(slot);
        }
        Step::Add(added) => interest.add_session(slot, &added, 0),
        Step::Remove(removed) => {
            interest.remove_session(slot, &removed);
        }
        Step::AddGroup(group) => interest.add_group(slot, group),
        Step::RemoveGroup(group) => interest.remove_group(slot, group),
    }
}

proptest! {
    #[test]
    fn the_indexes_hold_what_the_gateways_have_said(
        steps in prop::collection::vec((0..3_u64, step()), 0..120),
    ) {
        let mut interest = Interest::default();
        let mut model: BTreeMap<u64, (Slot, Said)> = BTreeMap::new();
        for (boot, step) in steps {
            match (step, model.contains_key(&boot)) {
                (Step::Connect, false) => {
                    model.insert(boot, (interest.connect(boot), Said::default()));
                }
                (Step::Disconnect, true) => {
                    let (slot, _said) = model.remove(&boot).unwrap();
                    interest.disconnect(slot);
                }
                (step, true) => {
                    let (slot, said) = model.get_mut(&boot).unwrap();
                    said.take(&step);
                    apply(&mut interest, *slot, &step);
                }
                (_step, false) => {}
            }
        }

        for (boot, (slot, said)) in &model {
            prop_assert_eq!(interest.by_boot(*boot), Some(*slot));
            prop_assert_eq!(interest.boot(*slot), Some(*boot));
            prop_assert_eq!(interest.unknown().contains(slot), !said.known);
            let sum = interest.gateway_mut(*slot).unwrap().sum;
            prop_assert_eq!(sum, said.sum());
        }
        for user in (0..4).map(UserId) {
            let mut sessions: Vec<_> = interest
                .sessions(user)
                .iter()
                .map(|session| (session.slot(), session.key.session, session.epoch))
                .collect();
            sessions.sort_unstable();
            let mut expected: Vec<_> = model
                .values()
                .flat_map(|(slot, said)| {
                    let own = said.sessions.range((user, 0)..=(user, u64::MAX));
                    own.map(|(&(_user, session), &epoch)| (*slot, session, epoch))
                })
                .collect();
            expected.sort_unstable();
            prop_assert_eq!(sessions, expected);
        }
        for group in (0..4).map(GroupId) {
            let mut expected: Vec<Slot> = model
                .values()
                .filter(|(_slot, said)| said.groups.contains(&group))
                .map(|(slot, _said)| *slot)
                .collect();
            expected.sort_unstable();
            prop_assert_eq!(interest.gateways_of_group(group), expected);
        }
        let slots: BTreeSet<Slot> = model.values().map(|(slot, _said)| *slot).collect();
        prop_assert_eq!(interest.connected().collect::<BTreeSet<Slot>>(), slots);

        // When all are gone, nothing is left.
        for (slot, _said) in model.values() {
            interest.disconnect(*slot);
        }
        prop_assert_eq!(interest.size(), Size::default());
        prop_assert!(interest.by_boot.is_empty());
    }
}
