//! Verdicts on tables of claims.

use proto::cluster::wire::UserInterest;

use super::*;

mod interleavings;
mod model;

const NOBODY: [(u64, u64); 0] = [];
const ANDROID: u32 = 0x12;
const WINDOWS: u32 = 1;

/// Sessions of user 7, each given as (gateway, session, client type, epoch), and their gateways.
fn table(sessions: &[(u64, u64, u32, u64)]) -> Interest {
    let mut interest = Interest::default();
    for &(boot, session, client_type, epoch) in sessions {
        let slot = interest.by_boot(boot).unwrap_or_else(|| interest.connect(boot));
        let said = UserInterest { user: 7, session, client_type, epoch, age_us: None };
        interest.add_user(slot, &said, 0);
    }
    interest
}

fn case(interest: &Interest, class: u32, newcomer: Option<(u64, u64)>) -> Case {
    let newcomer = newcomer.map(|(boot, session)| (interest.by_boot(boot).unwrap(), session));
    Case { user: 7, class, newcomer, now_us: 0 }
}

fn verdicts(interest: &Interest, class: u32, newcomer: Option<(u64, u64)>) -> Vec<(u64, u64)> {
    let (mut docket, now) = (Docket::default(), Instant::now());
    let verdicts = judge(interest, &mut docket, case(interest, class, newcomer), now);
    let again = docket.pop(now + GRACE) == Some((7, class));
    assert_eq!(again, newcomer.is_some() || !verdicts.is_empty(), "it is judged again");
    let boot = |slot| interest.boot(slot).unwrap();
    verdicts.iter().map(|verdict| (boot(verdict.slot), verdict.below_epoch)).collect()
}

fn needed(interest: &Interest, class: u32, newcomer: (u64, u64)) -> Option<u64> {
    needed_epoch(interest, case(interest, class, Some(newcomer))).map(|(epoch, _age)| epoch)
}

#[test]
fn the_larger_epoch_stays_whichever_session_came_first() {
    let one = table(&[(1, 10, WINDOWS, 100), (2, 20, WINDOWS, 200)]);
    assert_eq!(verdicts(&one, 0, None), [(1, 200)]);
    let other = table(&[(2, 20, WINDOWS, 200), (1, 10, WINDOWS, 100)]);
    assert_eq!(verdicts(&other, 0, None), [(1, 200)]);
}

#[test]
fn a_pc_and_a_mobile_do_not_meet() {
    let interest = table(&[(1, 10, WINDOWS, 100), (2, 20, ANDROID, 200)]);
    assert_eq!(verdicts(&interest, 0, None), NOBODY);
    assert_eq!(verdicts(&interest, 1, None), NOBODY);
    assert_eq!(needed(&interest, 0, (1, 10)), Some(100));
    assert_eq!(needed(&interest, 1, (2, 20)), Some(200));
    let nobody = Case { user: 8, ..case(&interest, 0, None) };
    assert_eq!(needed_epoch(&interest, nobody), None);
}

#[test]
fn equal_epochs_have_one_winner_on_every_replica() {
    let one = table(&[(1, 10, WINDOWS, 100), (2, 20, WINDOWS, 100)]);
    let other = table(&[(2, 20, WINDOWS, 100), (1, 10, WINDOWS, 100)]);
    for interest in [one, other] {
        assert_eq!(verdicts(&interest, 0, None), [(1, 101)]);
        assert_eq!(needed(&interest, 0, (1, 10)), Some(101), "it hears at once that it has lost");
        assert_eq!(needed(&interest, 0, (2, 20)), Some(100), "this one is enough");
    }
}

#[test]
fn equal_epochs_on_one_gateway_are_its_own_business() {
    let interest = table(&[(1, 10, WINDOWS, 100), (1, 11, WINDOWS, 100)]);
    assert_eq!(verdicts(&interest, 0, None), NOBODY);
    assert_eq!(needed(&interest, 0, (1, 10)), Some(100));
}

#[test]
fn each_gateway_gets_one_verdict() {
    let interest = table(&[(1, 10, WINDOWS, 100), (1, 11, WINDOWS, 90), (2, 20, WINDOWS, 300)]);
    assert_eq!(verdicts(&interest, 0, None), [(1, 300)]);
}

#[test]
fn a_newcomer_is_spared_for_a_while() {
    let interest = table(&[(1, 10, WINDOWS, 100), (2, 20, WINDOWS, 50)]);
    assert_eq!(verdicts(&interest, 0, Some((2, 20))), NOBODY);
    assert_eq!(needed(&interest, 0, (2, 20)), Some(100));
    assert_eq!(verdicts(&interest, 0, None), [(2, 100)], "and not longer");
}

#[test]
fn a_user_is_judged_again_when_the_grace_is_over_and_once() {
    let (mut docket, start) = (Docket::default(), Instant::now());
    docket.add(7, 0, start);
    docket.add(7, 0, start + GRACE / 2);
    docket.add(7, 1, start + GRACE / 2);
    assert_eq!(docket.pop(start + GRACE / 2), None);
    assert_eq!(docket.pop(start + GRACE), Some((7, 0)));
    assert_eq!(docket.pop(start + GRACE), None);
    assert_eq!(docket.pop(start + GRACE * 2), Some((7, 1)));
    assert_eq!(docket.pop(start + GRACE * 4), None);
    assert!(docket.known.is_empty(), "nothing is kept");
}

#[test]
fn everybody_is_told_how_long_ago_the_winner_came_and_never_too_long() {
    let mut interest = Interest::default();
    let (one, other) = (interest.connect(1), interest.connect(2));
    let said = |session, epoch, age_us| UserInterest {
        user: 7,
        session,
        client_type: WINDOWS,
        epoch,
        age_us: Some(age_us),
    };
    interest.add_user(one, &said(10, 200, 4_000), 10_000);
    // What is said again on a slower way makes nobody younger.
    interest.add_user(one, &said(10, 200, 4_500), 12_000);
    interest.add_user(other, &said(20, 100, 0), 12_000);
    let case = Case { user: 7, class: 0, newcomer: Some((other, 20)), now_us: 13_000 };
    assert_eq!(needed_epoch(&interest, case), Some((200, Some(7_000))));
    let winner = Case { newcomer: Some((one, 10)), ..case };
    assert_eq!(needed_epoch(&interest, winner), Some((200, None)), "there is no other");
    let mut docket = Docket::default();
    let verdicts = judge(&interest, &mut docket, Case { newcomer: None, ..case }, Instant::now());
    let kicked = Verdict { slot: other, below_epoch: 200, winner_age_us: Some(7_000) };
    assert_eq!(verdicts, [kicked]);
}
