//! Tables of interest under every order of news.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const NOBODY: [u32; 0] = [];
const ANDROID: u32 = 0x12;
const WINDOWS: u32 = 1;

fn session(user: u32, session: u64, epoch: u64) -> UserInterest {
    let client_type = if session.is_multiple_of(2) { WINDOWS } else { ANDROID };
    UserInterest { user, session, client_type, epoch, age_us: None }
}

fn known(interest: &mut Interest, boot: u64) -> Slot {
    let slot = interest.connect(boot);
    interest.begin(slot);
    interest.complete(slot);
    slot
}

fn gateways_of(interest: &Interest, user: u32) -> BTreeSet<Slot> {
    interest.claims(user).iter().map(|claim| claim.slot).collect()
}

#[test]
fn a_late_removal_cannot_undo_a_newer_login() {
    let mut interest = Interest::default();
    let slot = known(&mut interest, 1);
    interest.add_user(slot, &session(7, 2, 100), 0);
    interest.add_user(slot, &session(7, 2, 200), 0);
    assert!(!interest.remove_user(slot, &session(7, 2, 100)));
    assert!(!interest.remove_user(slot, &session(7, 4, 200)), "another session");
    assert!(interest.pc_online(7));
    assert!(interest.remove_user(slot, &session(7, 2, 200)));
    assert!(!interest.pc_online(7));
}

#[test]
fn one_gateway_cannot_remove_what_another_has_said() {
    let mut interest = Interest::default();
    let (one, other) = (known(&mut interest, 1), known(&mut interest, 2));
    interest.add_user(one, &session(7, 2, 100), 0);
    interest.add_group(one, 9);
    assert!(!interest.remove_user(other, &session(7, 2, 100)));
    interest.remove_group(other, 9);
    assert_eq!(gateways_of(&interest, 7), BTreeSet::from([one]));
    assert_eq!(interest.gateways_of_group(9), [one]);
}

#[test]
fn a_gateway_is_unknown_until_its_table_is_complete_and_while_it_is_sent_again() {
    let mut interest = Interest::default();
    let slot = interest.connect(1);
    assert_eq!(interest.unknown(), [slot]);
    interest.begin(slot);
    interest.add_user(slot, &session(7, 2, 100), 0);
    assert_eq!(interest.unknown(), [slot]);
    assert_eq!(interest.complete(slot), NOBODY);
    assert_eq!(interest.unknown(), []);
    interest.begin(slot);
    assert_eq!(interest.unknown(), [slot]);
    assert!(interest.pc_online(7), "what was known stays until the table is complete");
    interest.begin(slot);
    assert_eq!(interest.unknown(), [slot], "beginning twice is beginning once");
    assert_eq!(interest.complete(slot), [7], "he was not in the new table");
    assert!(!interest.pc_online(7));
}

#[test]
fn changes_between_the_parts_of_a_table_count() {
    let mut interest = Interest::default();
    let slot = known(&mut interest, 1);
    interest.add_user(slot, &session(1, 2, 10), 0);
    interest.begin(slot);
    interest.add_user(slot, &session(1, 2, 10), 0);
    interest.add_user(slot, &session(3, 6, 30), 0);
    interest.remove_user(slot, &session(1, 2, 10));
    interest.add_group(slot, 9);
    interest.remove_group(slot, 9);
    assert_eq!(interest.complete(slot), NOBODY);
    assert_eq!(interest.size(), Size { gateways_known: 1, users: 1, ..Size::default() });
    assert!(interest.pc_online(3));
}

#[test]
fn a_lost_gateway_leaves_nothing_and_tells_who_is_gone() {
    let mut interest = Interest::default();
    let (one, other) = (known(&mut interest, 1), known(&mut interest, 2));
    interest.add_user(one, &session(1, 2, 10), 0);
    interest.add_user(one, &session(2, 4, 10), 0);
    interest.add_user(one, &session(3, 5, 10), 0);
    interest.add_user(other, &session(2, 4, 20), 0);
    interest.add_group(one, 9);
    assert_eq!(interest.disconnect(one), [1], "2 is elsewhere too, 3 was on a phone");
    assert_eq!(interest.disconnect(one), NOBODY, "once");
    assert_eq!(interest.claims(1), []);
    assert_eq!(gateways_of(&interest, 2), BTreeSet::from([other]));
    assert_eq!(interest.gateways_of_group(9), []);
    assert_eq!(interest.by_boot(1), None);
    assert_eq!(interest.size(), Size { gateways_known: 1, users: 1, ..Size::default() });
}

#[test]
fn a_table_is_asked_for_again_when_checksums_differ_twice_in_a_row() {
    let mut interest = Interest::default();
    let slot = known(&mut interest, 1);
    interest.add_user(slot, &session(7, 2, 100), 0);
    interest.add_group(slot, 9);
    let right = InterestChecksum {
        users: 1,
        users_xor: interest_hash_user(7, 2, 100),
        groups: 1,
        groups_xor: interest_hash_group(9),
    };
    let wrong = InterestChecksum { users_xor: 5, ..right };
    assert!(!interest.differs(slot, &right));
    assert!(!interest.differs(slot, &wrong));
    assert!(!interest.differs(slot, &right), "they had crossed");
    assert!(!interest.differs(slot, &wrong));
    assert!(interest.differs(slot, &wrong));
    assert!(!interest.differs(slot, &wrong), "asked only just now");
    interest.begin(slot);
    assert!(!interest.differs(slot, &wrong), "it is being sent");
    assert!(!interest.differs(slot, &wrong));
}

type Sent = (BTreeSet<(u32, u64)>, BTreeSet<u32>);

/// What a gateway has said, kept in the most obvious way.
#[derive(Debug, Default, Clone)]
struct Said {
    sessions: BTreeMap<(u32, u64), u64>,
    groups: BTreeSet<u32>,
    known: bool,
    sending: Option<Sent>,
}

#[derive(Debug, Clone)]
enum Step {
    Connect,
    Disconnect,
    Begin,
    Complete,
    Add(u32, u64, u64),
    Remove(u32, u64, u64),
    AddGroup(u32),
    RemoveGroup(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let login = || (0..4_u32, 0..4_u64, 0..3_u64);
    prop_oneof![
        2 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        1 => Just(Step::Begin),
        1 => Just(Step::Complete),
        8 => login().prop_map(|(user, session, epoch)| Step::Add(user, session, epoch)),
        6 => login().prop_map(|(user, session, epoch)| Step::Remove(user, session, epoch)),
        4 => (0..4_u32).prop_map(Step::AddGroup),
        3 => (0..4_u32).prop_map(Step::RemoveGroup),
    ]
}

impl Said {
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Connect | Step::Disconnect => {}
            Step::Begin => {
                self.known = false;
                self.sending = Some(Default::default());
            }
            Step::Complete => {
                self.known = true;
                if let Some((sessions, groups)) = self.sending.take() {
                    self.sessions.retain(|key, _epoch| sessions.contains(key));
                    self.groups.retain(|group| groups.contains(group));
                }
            }
            Step::Add(user, session, epoch) => {
                self.sessions.insert((user, session), epoch);
                if let Some((sessions, _groups)) = &mut self.sending {
                    sessions.insert((user, session));
                }
            }
            Step::Remove(user, session, epoch) => {
                if self.sessions.get(&(user, session)) == Some(&epoch) {
                    self.sessions.remove(&(user, session));
                    if let Some((sessions, _groups)) = &mut self.sending {
                        sessions.remove(&(user, session));
                    }
                }
            }
            Step::AddGroup(group) => {
                self.groups.insert(group);
                if let Some((_sessions, groups)) = &mut self.sending {
                    groups.insert(group);
                }
            }
            Step::RemoveGroup(group) => {
                self.groups.remove(&group);
                if let Some((_sessions, groups)) = &mut self.sending {
                    groups.remove(&group);
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
                .map(|(&(user, session), &epoch)| interest_hash_user(user, session, epoch))),
            groups: u32::try_from(self.groups.len()).unwrap(),
            groups_xor: xor(&mut self.groups.iter().map(|&group| interest_hash_group(group))),
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
        Step::Add(user, number, epoch) => interest.add_user(slot, &session(user, number, epoch), 0),
        Step::Remove(user, number, epoch) => {
            interest.remove_user(slot, &session(user, number, epoch));
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
        for user in 0..4 {
            let mut claims: Vec<_> = interest
                .claims(user)
                .iter()
                .map(|claim| (claim.slot, claim.session, claim.epoch))
                .collect();
            claims.sort_unstable();
            let mut expected: Vec<_> = model
                .values()
                .flat_map(|(slot, said)| {
                    let own = said.sessions.range((user, 0)..=(user, u64::MAX));
                    own.map(|(&(_user, session), &epoch)| (*slot, session, epoch))
                })
                .collect();
            expected.sort_unstable();
            prop_assert_eq!(claims, expected);
        }
        for group in 0..4 {
            let mut expected: Vec<Slot> = model
                .values()
                .filter(|(_slot, said)| said.groups.contains(&group))
                .map(|(slot, _said)| *slot)
                .collect();
            expected.sort_unstable();
            prop_assert_eq!(interest.gateways_of_group(group), expected);
        }
        let slots: BTreeSet<Slot> = model.values().map(|(slot, _said)| *slot).collect();
        prop_assert_eq!(interest.all().collect::<BTreeSet<Slot>>(), slots);

        // When all are gone, nothing is left.
        for (slot, _said) in model.values() {
            interest.disconnect(*slot);
        }
        prop_assert_eq!(interest.size(), Size::default());
        prop_assert!(interest.by_boot.is_empty());
    }
}
