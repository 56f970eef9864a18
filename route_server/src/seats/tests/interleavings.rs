//! Logins of one user on two gateways with two replicas, in every interleaving: messages that are
//! late, links that are cut with all that is on them, replicas that start anew, clocks that differ.
//! More cases, of each of three properties:
//!
//! ```text
//! TALKHUB_CASES=250000 cargo test --release -p route_server interleavings
//! ```

use std::collections::VecDeque;

use proptest::prelude::*;
use proto::seat::Phase;

use super::model::{BOTH, Step, World, pairs};

fn cases() -> u32 {
    std::env::var("TALKHUB_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_000)
}

fn chaos() -> impl Strategy<Value = Step> {
    let pair = || (0..2_usize, 0..2_usize);
    prop_oneof![
        3 => (0..4_usize).prop_map(Step::Enter),
        10 => pair().prop_map(|(gateway, replica)| Step::Up(gateway, replica)),
        10 => pair().prop_map(|(gateway, replica)| Step::Down(gateway, replica)),
        1 => pair().prop_map(|(gateway, replica)| Step::Cut(gateway, replica)),
        2 => pair().prop_map(|(gateway, replica)| Step::Link(gateway, replica)),
        1 => (0..2_usize).prop_map(Step::Restart),
        1 => (0..4_usize).prop_map(Step::Close),
        2 => (0..400_u16).prop_map(Step::Wait),
        1 => (0..2_usize).prop_map(Step::Tick),
    ]
}

fn with_logins() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![1 => (0..2_usize).prop_map(Step::Come), 12 => chaos()];
    let coming = (0..2_usize).prop_map(Step::Come);
    (coming, prop::collection::vec(step, 0..60)).prop_map(|(first, mut rest)| {
        rest.insert(0, first);
        rest
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn of_logins_at_about_the_same_time_exactly_the_one_with_the_largest_epoch_stays(
        ahead_ms in [0..3_000_u64, 0..3_000_u64],
        steps in with_logins(),
    ) {
        let mut world = World::new(ahead_ms);
        for step in &steps {
            world.step(step);
        }
        world.heal();
        world.survivor();
    }

    #[test]
    fn with_clocks_that_agree_the_login_that_came_last_stays(steps in with_logins()) {
        let mut world = World::new([0, 0]);
        for step in &steps {
            world.step(step);
        }
        world.heal();
        prop_assert_eq!(world.survivor().id, world.came_last(), "{:?}", world);
    }

    #[test]
    fn whatever_the_clocks_say_the_login_that_came_well_after_the_others_stays(
        ahead_ms in [0..300_000_u64, 0..300_000_u64],
        logins in prop::collection::vec(
            (0..2_usize, prop::collection::vec(chaos(), 0..40)), 1..5),
    ) {
        let mut world = World::new(ahead_ms);
        for (gateway, steps) in logins {
            world.step(&Step::Come(gateway));
            for step in &steps {
            world.step(step);
        }
            world.heal();
            prop_assert_eq!(world.survivor().id, world.came_last(), "{:?}", world);
        }
    }
}

/// What once threw out the newer of two sessions: a client gives up a login whose check takes long, and
/// logs in on the other gateway; then the check ends, and the first gateway has not heard that its
/// client has gone.
#[test]
fn regression_a_login_that_was_given_up_does_not_throw_out_the_one_that_came_after_it() {
    let mut world = World::new([0, 0]);
    world.step(&Step::Come(0));
    world.step(&Step::Wait(1_000));
    world.step(&Step::Come(1));
    world.step(&Step::Enter(1));
    for (gateway, replica) in pairs() {
        world.step(&Step::Up(gateway, replica));
        world.step(&Step::Up(gateway, replica));
        world.step(&Step::Down(gateway, replica));
    }
    assert_eq!(world.sessions[1].standing.phase, Phase::Settled);
    world.step(&Step::Enter(0));
    world.heal();
    assert_eq!(world.survivor().id, 2);
}

/// What once let both stay: each replica hears first of another one, and the kick comes before the
/// answers to the login.
#[test]
fn regression_a_kick_that_comes_before_the_login_is_settled_counts() {
    let mut world = World::new([0, 0]);
    world.step(&Step::Come(0));
    world.step(&Step::Come(1));
    world.step(&Step::Enter(0));
    world.step(&Step::Enter(0));
    for gateway in BOTH {
        for replica in BOTH {
            world.step(&Step::Up(gateway, replica));
        }
        for replica in BOTH {
            world.step(&Step::Up(gateway, replica));
        }
    }
    // The answers and the kick arrive together, and only after that the login goes on.
    assert_eq!(world.down[0].iter().map(VecDeque::len).max(), Some(2), "an answer and a kick");
    for replica in BOTH {
        world.down[0][replica].rotate_left(1);
    }
    for replica in BOTH {
        world.step(&Step::Down(0, replica));
    }
    assert!(matches!(world.sessions[0].standing.phase, Phase::Entering { below } if below > 0));
    for replica in BOTH {
        world.step(&Step::Down(0, replica));
    }
    assert_eq!(world.sessions[0].standing.phase, Phase::Over, "without being told again");
    world.heal();
    assert_eq!(world.survivor().id, 2);
}
