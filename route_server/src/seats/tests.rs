//! Verdicts on tables of sessions.

use super::*;
use crate::interest::{Announcement, PC};

mod interleavings;
mod model;

const NOBODY: [(u64, u64); 0] = [];
const ANDROID: u32 = 0x12;
const WINDOWS: u32 = 1;
const MOBILE: u32 = 1;

const USER: UserId = UserId(7);

/// Sessions of one user, each given as (gateway, session, client type, epoch), and their gateways.
fn table(sessions: &[(u64, u64, u32, u64)]) -> Interest {
    let mut interest = Interest::default();
    for &(boot, session, client_type, epoch) in sessions {
        let slot = interest.by_boot(boot).unwrap_or_else(|| interest.connect(boot));
        let said = Announcement { user: USER, session, client_type, epoch, age_us: None };
        interest.add_session(slot, &said, 0);
    }
    interest
}

fn seat(device_class: u32) -> Seat {
    Seat { user: USER, device_class }
}

fn case(interest: &Interest, class: u32, newcomer: Option<(u64, u64)>) -> Case {
    let newcomer = newcomer.map(|(boot, session)| {
        let slot = interest.by_boot(boot).unwrap();
        SessionKey { slot, session }
    });
    Case { seat: seat(class), newcomer, now_us: 0 }
}

fn verdicts(interest: &Interest, class: u32, newcomer: Option<(u64, u64)>) -> Vec<(u64, u64)> {
    let (mut rechecks, now) = (Rechecks::default(), Instant::now());
    let verdicts = judge(interest, &mut rechecks, case(interest, class, newcomer), now);
    let again = rechecks.pop(now + NEWCOMER_GRACE) == Some(seat(class));
    assert_eq!(again, newcomer.is_some() || !verdicts.is_empty(), "it is judged again");
    let boot = |slot| interest.boot(slot).unwrap();
    verdicts.iter().map(|verdict| (boot(verdict.slot), verdict.below_epoch)).collect()
}

fn needed(interest: &Interest, class: u32, newcomer: (u64, u64)) -> Option<u64> {
    needed_epoch(interest, case(interest, class, Some(newcomer))).map(|needed| needed.epoch)
}

#[test]
fn the_larger_epoch_stays_whichever_session_came_first() {
    let one = table(&[(1, 10, WINDOWS, 100), (2, 20, WINDOWS, 200)]);
    assert_eq!(verdicts(&one, PC, None), [(1, 200)]);
    let other = table(&[(2, 20, WINDOWS, 200), (1, 10, WINDOWS, 100)]);
    assert_eq!(verdicts(&other, PC, None), [(1, 200)]);
}

#[test]
fn a_pc_and_a_mobile_do_not_meet() {
    let interest = table(&[(1, 10, WINDOWS, 100), (2, 20, ANDROID, 200)]);
    assert_eq!(verdicts(&interest, PC, None), NOBODY);
    assert_eq!(verdicts(&interest, MOBILE, None), NOBODY);
    assert_eq!(needed(&interest, PC, (1, 10)), Some(100));
    assert_eq!(needed(&interest, MOBILE, (2, 20)), Some(200));
    let nobody = Case { seat: Seat { user: UserId(8), ..seat(PC) }, ..case(&interest, PC, None) };
    assert_eq!(needed_epoch(&interest, nobody), None);
}

#[test]
fn equal_epochs_have_one_winner_on_every_replica() {
    let one = table(&[(1, 10, WINDOWS, 100), (2, 20, WINDOWS, 100)]);
    let other = table(&[(2, 20, WINDOWS, 100), (1, 10, WINDOWS, 100)]);
    for interest in [one, other] {
        assert_eq!(verdicts(&interest, PC, None), [(1, 101)]);
        assert_eq!(needed(&interest, PC, (1, 10)), Some(101), "it hears at once that it has lost");
        assert_eq!(needed(&interest, PC, (2, 20)), Some(100), "this one is enough");
    }
}

#[test]
fn equal_epochs_on_one_gateway_are_left_to_that_gateway() {
    let interest = table(&[(1, 10, WINDOWS, 100), (1, 11, WINDOWS, 100)]);
    assert_eq!(verdicts(&interest, PC, None), NOBODY);
    assert_eq!(needed(&interest, PC, (1, 10)), Some(100));
}

#[test]
fn each_gateway_gets_one_verdict() {
    let interest = table(&[(1, 10, WINDOWS, 100), (1, 11, WINDOWS, 90), (2, 20, WINDOWS, 300)]);
    assert_eq!(verdicts(&interest, PC, None), [(1, 300)]);
}

#[test]
fn a_newcomer_is_spared_for_a_while() {
    let interest = table(&[(1, 10, WINDOWS, 100), (2, 20, WINDOWS, 50)]);
    assert_eq!(verdicts(&interest, PC, Some((2, 20))), NOBODY);
    assert_eq!(needed(&interest, PC, (2, 20)), Some(100));
    assert_eq!(verdicts(&interest, PC, None), [(2, 100)], "and not longer");
}

#[test]
fn a_seat_is_judged_again_when_the_grace_is_over_and_once() {
    let (mut rechecks, start) = (Rechecks::default(), Instant::now());
    rechecks.add(seat(PC), start);
    rechecks.add(seat(PC), start + NEWCOMER_GRACE / 2);
    rechecks.add(seat(MOBILE), start + NEWCOMER_GRACE / 2);
    assert_eq!(rechecks.pop(start + NEWCOMER_GRACE / 2), None);
    assert_eq!(rechecks.pop(start + NEWCOMER_GRACE), Some(seat(PC)));
    assert_eq!(rechecks.pop(start + NEWCOMER_GRACE), None);
    assert_eq!(rechecks.pop(start + NEWCOMER_GRACE * 2), Some(seat(MOBILE)));
    assert_eq!(rechecks.pop(start + NEWCOMER_GRACE * 4), None);
    assert!(rechecks.known.is_empty(), "nothing is kept");
}

#[test]
fn everybody_is_told_how_long_ago_the_winner_came_and_never_too_long() {
    let mut interest = Interest::default();
    let (one, other) = (interest.connect(1), interest.connect(2));
    let said = |session, epoch, age_us| Announcement {
        user: USER,
        session,
        client_type: WINDOWS,
        epoch,
        age_us: Some(age_us),
    };
    interest.add_session(one, &said(10, 200, 4_000), 10_000);
    // A session that is announced again on a slower way does not become younger.
    interest.add_session(one, &said(10, 200, 4_500), 12_000);
    interest.add_session(other, &said(20, 100, 0), 12_000);
    let newcomer = |slot, session| Some(SessionKey { slot, session });
    let case = Case { seat: seat(PC), newcomer: newcomer(other, 20), now_us: 13_000 };
    let needed = |other_age_us| Some(Needed { epoch: 200, other_age_us });
    assert_eq!(needed_epoch(&interest, case), needed(Some(7_000)));
    let winner = Case { newcomer: newcomer(one, 10), ..case };
    assert_eq!(needed_epoch(&interest, winner), needed(None), "there is no other");
    let mut rechecks = Rechecks::default();
    let verdicts = judge(&interest, &mut rechecks, Case { newcomer: None, ..case }, Instant::now());
    let kicked = Verdict { slot: other, below_epoch: 200, winner_age_us: Some(7_000) };
    assert_eq!(verdicts, [kicked]);
}
