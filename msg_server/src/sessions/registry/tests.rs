//! Who is entered, who leaves, and what a delivery sees of it.

use super::*;
use crate::client::outbox::{Outbox, OutboxPool};
use crate::config::LimitsConfig;
use crate::metrics::GatewayMetrics;
use crate::sessions::session::Login;

/// The group of most tests.
const NINE: GroupId = GroupId(9);
const WINDOWS: u32 = 1;
const MAC: u32 = 2;
const ANDROID: u32 = 0x12;

fn session(registry: &Registry, user: u32, client_type: u32) -> Arc<Session> {
    let pool = OutboxPool::new(&LimitsConfig::default(), GatewayMetrics::default());
    let outbox = Arc::new(Outbox::queued(Arc::new(pool)));
    Arc::new(Session::new(
        Login { id: registry.next_session_id(), user: UserId(user), client_type },
        outbox,
        2,
        0,
    ))
}

fn entered(registry: &Registry, user: u32, client_type: u32) -> Arc<Session> {
    let session = session(registry, user, client_type);
    registry.enter(&session, 1000);
    session
}

fn membership(group: u32, join_msg_id: u32, version: u64) -> Membership {
    Membership { group, join_msg_id, version }
}

fn members(registry: &Registry, group: GroupId) -> Vec<(u64, u32)> {
    let group = registry.group(group).expect("known");
    group.iter().map(|member| (member.session.id(), member.join)).collect()
}

#[test]
fn the_session_that_enters_last_has_the_largest_epoch_even_if_the_clock_went_back() {
    let registry = Registry::default();
    let first = session(&registry, 7, WINDOWS);
    assert!(registry.enter(&first, 5000).is_empty());
    let phone = session(&registry, 7, ANDROID);
    assert!(registry.enter(&phone, 4000).is_empty(), "another class is not displaced");
    let second = session(&registry, 7, MAC);
    let displaced: Vec<u64> = registry.enter(&second, 3000).iter().map(|s| s.id()).collect();
    assert_eq!(displaced, [first.id()]);
    assert!(second.epoch() > first.epoch());
    assert_eq!((first.is_over(), phone.is_over(), second.is_over()), (true, false, false));
    assert_eq!(phone.epoch(), 4000);
}

#[test]
fn a_login_that_came_before_another_one_does_not_displace_it() {
    let registry = Registry::default();
    let at = |came_us| {
        let pool = OutboxPool::new(&LimitsConfig::default(), GatewayMetrics::default());
        let outbox = Arc::new(Outbox::queued(Arc::new(pool)));
        let login = Login { id: registry.next_session_id(), user: UserId(7), client_type: WINDOWS };
        Arc::new(Session::new(login, outbox, 1, 0).came_at(came_us))
    };
    let (late, newer) = (at(1_000_000), at(2_000_000));
    assert!(registry.enter(&newer, 2000).is_empty());
    assert!(newer.settle());
    // Its password was checked for so long, and its clock says more.
    assert!(registry.enter(&late, 3000).is_empty());
    assert!(late.is_over() && !late.settle() && late.epoch() < newer.epoch());
    assert!(!newer.is_over());
    let newest = at(3_000_000);
    let displaced: Vec<u64> = registry.enter(&newest, 1000).iter().map(|s| s.id()).collect();
    assert_eq!(displaced, [newer.id()], "who is over already is not told again");
    assert!(newest.epoch() > newer.epoch());
}

#[test]
fn a_session_that_leaves_is_in_no_group_and_leaves_once() {
    let registry = Registry::default();
    let (one, other) = (entered(&registry, 7, WINDOWS), entered(&registry, 8, WINDOWS));
    for session in [&one, &other] {
        assert_eq!(registry.join_all(session, &[membership(9, 3, 1)]), [NINE]);
    }
    assert!(registry.leave(&one) && !registry.leave(&one));
    assert_eq!(members(&registry, NINE), [(other.id(), 3)]);
    assert!(registry.take_empty_groups().is_empty());
    registry.leave(&other);
    assert_eq!(registry.take_empty_groups(), [NINE]);
    assert_eq!(registry.size(), (0, 0));
}

#[test]
fn a_group_that_every_replica_knows_is_not_announced_again() {
    let registry = Registry::default();
    let (one, other) = (entered(&registry, 7, WINDOWS), entered(&registry, 8, WINDOWS));
    assert_eq!(registry.join_all(&one, &[membership(9, 1, 1)]), [NINE]);
    assert_eq!(registry.join_all(&other, &[membership(9, 1, 1)]), [NINE], "not confirmed yet");
    registry.confirm(&[NINE]);
    let third = entered(&registry, 9, WINDOWS);
    assert!(registry.join_all(&third, &[membership(9, 1, 1)]).is_empty());
}

#[test]
fn a_delivery_works_on_the_group_as_it_was() {
    let registry = Registry::default();
    let session = entered(&registry, 7, WINDOWS);
    registry.join_all(&session, &[membership(9, 1, 1)]);
    let view = registry.group(NINE).unwrap();
    registry.leave(&session);
    assert_eq!(view.len(), 1);
    assert!(registry.group(NINE).unwrap().is_empty());
}

#[test]
fn a_session_that_is_added_sees_nothing_until_its_join_is_known() {
    let registry = Registry::default();
    let session = entered(&registry, 7, WINDOWS);
    assert_eq!(registry.change(&session, NINE, 4, Some(30)), Change::Entered);
    assert_eq!(members(&registry, NINE), [(session.id(), JOIN_UNKNOWN)]);
    registry.set_join(&session, NINE, Beginning { added_at: 30, join: 12, given: 0 });
    assert_eq!(members(&registry, NINE), [(session.id(), 12)]);
    assert_eq!(registry.change(&session, NINE, 5, None), Change::Left);
    assert!(registry.join_all(&session, &[membership(9, 1, 4)]).is_empty(), "an older list");
    assert!(members(&registry, NINE).is_empty());
}

/// What is on its way to the session because of the first time must not come after what is because of
/// the second.
#[test]
fn a_session_that_is_added_once_more_begins_once_more_and_not_twice() {
    let registry = Registry::default();
    let session = entered(&registry, 7, WINDOWS);
    registry.change(&session, NINE, 4, Some(30));
    assert!(registry.is_beginning(&session, NINE, 30));
    registry.change(&session, NINE, 5, None);
    assert!(!registry.is_beginning(&session, NINE, 30));
    registry.change(&session, NINE, 6, Some(50));
    assert!(
        registry.is_beginning(&session, NINE, 50) && !registry.is_beginning(&session, NINE, 30)
    );
    registry.set_join(&session, NINE, Beginning { added_at: 30, join: 12, given: 40 });
    assert_eq!(members(&registry, NINE), [(session.id(), JOIN_UNKNOWN)], "not from there");
    registry.set_join(&session, NINE, Beginning { added_at: 50, join: 20, given: 60 });
    registry.set_join(&session, NINE, Beginning { added_at: 50, join: 12, given: 40 });
    assert_eq!(members(&registry, NINE), [(session.id(), 20)]);
    assert!(!registry.is_beginning(&session, NINE, 50), "it has begun");
}

#[test]
fn a_session_that_has_left_cannot_enter_a_group() {
    let registry = Registry::default();
    let session = entered(&registry, 7, WINDOWS);
    registry.leave(&session);
    assert!(registry.join_all(&session, &[membership(9, 1, 1)]).is_empty());
    assert_eq!(registry.change(&session, NINE, 4, Some(30)), Change::None);
    assert!(registry.group(NINE).is_none());
}

#[test]
fn the_checksum_is_that_of_the_table() {
    let registry = Registry::default();
    let session = entered(&registry, 7, WINDOWS);
    registry.join_all(&session, &[membership(9, 1, 1)]);
    let (users, groups) = registry.interest(0);
    let user = users.first().unwrap();
    let checksum = registry.checksum();
    assert_eq!((checksum.users, checksum.groups), (1, 1));
    assert_eq!(checksum.users_xor, interest_hash_user(user.user, user.session, user.epoch));
    assert_eq!(checksum.groups_xor, interest_hash_group(groups[0].0));
}

#[test]
fn a_conversation_is_served_from_the_smallest_floor_of_those_who_are_in_it() {
    let registry = Registry::default();
    let single = Parties::Single(UserId(7), UserId(8));
    let group = Parties::Group(NINE);
    let (one, other) = (entered(&registry, 7, WINDOWS), entered(&registry, 8, WINDOWS));
    assert_eq!(registry.floor(single, 0), None, "nobody's login is that far");
    one.set_floors(&[50, 5]);
    assert_eq!(registry.floor(single, 0), Some(50));
    other.set_floors(&[40, 6]);
    assert_eq!(registry.floor(single, 0), Some(40));
    assert_eq!(registry.smallest_floor(0), Some(40));
    assert_eq!(registry.floor(single, 1), Some(5), "each partition has floors of its own");
    assert_eq!(registry.smallest_floor(1), Some(5));

    registry.join_all(&one, &[membership(9, 1, 1)]);
    assert_eq!(registry.floor(group, 0), Some(50));
    registry.change(&other, NINE, 2, Some(30));
    assert_eq!(registry.floor(group, 0), Some(50), "not served yet");
    registry.set_join(&other, NINE, Beginning { added_at: 30, join: 12, given: 45 });
    assert_eq!(registry.floor(group, 0), Some(45), "it was given what came before");
    registry.leave(&other);
    assert_eq!(registry.floor(single, 0), Some(50));
}
