//! Turns.

use std::pin::Pin;

use futures_util::poll;

use super::*;

const MANY: usize = 256;

type Wait<'a> = Pin<Box<dyn Future<Output = Option<Core>> + 'a>>;

/// A login that has been queued. The core that is taken must be held meanwhile.
async fn queued<'a>(turns: &'a Turns, network: &'a str, exists: bool) -> Wait<'a> {
    let mut wait: Wait<'_> = Box::pin(turns.wait(network, exists, MANY));
    assert!(poll!(&mut wait).is_pending(), "{network} waits");
    wait
}

/// Gives the core to one after another; the order in which they get it.
async fn order(turns: &Turns, held: Core, mut waiting: Vec<(usize, Wait<'_>)>) -> Vec<usize> {
    let mut order = Vec::new();
    let mut core = Some(held);
    while !waiting.is_empty() {
        drop(core.take());
        for index in 0..waiting.len() {
            if let std::task::Poll::Ready(got) = poll!(&mut waiting[index].1) {
                order.push(waiting.remove(index).0);
                core = got;
                break;
            }
        }
        assert!(core.is_some(), "somebody is next");
    }
    drop(core);
    assert_eq!((turns.shown().get(), turns.state.lock().running), (0, 0));
    order
}

#[tokio::test]
async fn networks_take_turns_however_many_wait_in_one() {
    let turns = Turns::new(1);
    let held = turns.wait("x", true, MANY).await.unwrap();
    let mut waiting = Vec::new();
    for number in 0..20 {
        waiting.push((number, queued(&turns, "flood", true).await));
    }
    for (number, network) in [(100, "a"), (101, "b"), (102, "a")] {
        waiting.push((number, queued(&turns, network, true).await));
    }
    let order = order(&turns, held, waiting).await;
    let place = |number| order.iter().position(|one| *one == number).unwrap();
    assert!(place(100) <= 2 && place(101) <= 2 && place(102) <= 5, "{order:?}");
    let flood: Vec<_> = order.iter().filter(|one| **one < 100).collect();
    assert!(flood.is_sorted(), "within a network the first comes first: {order:?}");
}

#[tokio::test]
async fn names_that_exist_have_every_other_turn() {
    let turns = Turns::new(1);
    let held = turns.wait("x", true, MANY).await.unwrap();
    let networks: Vec<String> = (0..30).map(|number| format!("flood{number}")).collect();
    let mut waiting = Vec::new();
    for (number, network) in networks.iter().enumerate() {
        waiting.push((number, queued(&turns, network, false).await));
    }
    for number in 100..105 {
        waiting.push((number, queued(&turns, "office", true).await));
    }
    let order = order(&turns, held, waiting).await;
    let last = order.iter().position(|one| *one == 104).unwrap();
    assert!(last <= 10, "five of the first ten or so: {order:?}");
}

#[tokio::test]
async fn a_network_with_wrong_passwords_comes_after_one_without() {
    let turns = Turns::new(1);
    for _wrong in 0..3 {
        turns.was_wrong("flood", Instant::now());
    }
    let held = turns.wait("x", true, MANY).await.unwrap();
    let waiting = vec![
        (1, queued(&turns, "flood", true).await),
        (2, queued(&turns, "flood", true).await),
        (3, queued(&turns, "office", true).await),
    ];
    assert_eq!(order(&turns, held, waiting).await, [3, 1, 2]);

    let turns = Turns::new(1);
    turns.was_wrong("flood", Instant::now() - WRONG_KEPT);
    let held = turns.wait("x", true, MANY).await.unwrap();
    let waiting =
        vec![(1, queued(&turns, "flood", true).await), (2, queued(&turns, "office", true).await)];
    assert_eq!(order(&turns, held, waiting).await, [1, 2], "and is forgiven");
}

#[tokio::test]
async fn when_it_is_full_the_network_with_the_most_waiting_gives_way() {
    let turns = Turns::new(1);
    let held = turns.wait("x", true, MANY).await.unwrap();
    let mut flood = Vec::new();
    for _number in 0..4 {
        flood.push(queued(&turns, "flood", true).await);
    }
    assert!(turns.wait("flood", true, 4).await.is_none(), "the flood does not push others out");
    let mut other: Wait<'_> = Box::pin(turns.wait("office", true, 4));
    assert!(poll!(&mut other).is_pending());
    let mut newest = flood.pop().unwrap();
    assert!(matches!(poll!(&mut newest), std::task::Poll::Ready(None)), "the newest is told");
    assert!(poll!(&mut flood[0]).is_pending());
    drop(held);
    drop((flood, other));
    assert_eq!(turns.state.lock().running, 0);
}

#[tokio::test]
async fn names_that_do_not_exist_leave_half_of_the_places() {
    let turns = Turns::new(1);
    let held = turns.wait("x", true, MANY).await.unwrap();
    let networks: Vec<String> = (0..4).map(|number| format!("flood{number}")).collect();
    let mut flood = Vec::new();
    for network in &networks {
        flood.push(queued(&turns, network, false).await);
    }
    let mut inside = Vec::new();
    for network in ["a", "b"] {
        let mut wait: Wait<'_> = Box::pin(turns.wait(network, true, 4));
        assert!(poll!(&mut wait).is_pending(), "{network} has a place");
        inside.push(wait);
    }
    assert!(turns.wait("c", true, 4).await.is_none(), "beyond its half it is one of many");
    let mut away = 0;
    for wait in &mut flood {
        away += usize::from(poll!(wait).is_ready());
    }
    assert_eq!(away, 2);
    drop(held);
    drop((flood, inside));
    assert_eq!(turns.state.lock().running, 0);
}

#[tokio::test]
async fn a_login_that_no_longer_waits_is_passed_over() {
    let turns = Turns::new(1);
    let held = turns.wait("x", true, MANY).await.unwrap();
    let gone = queued(&turns, "a", true).await;
    let stays = queued(&turns, "b", true).await;
    drop(gone);
    drop(held);
    drop(stays.await.expect("it is next"));
    // A login that gives up after it was given the core leaves it to the next.
    let held = turns.wait("x", true, MANY).await.unwrap();
    let (given, next) = (queued(&turns, "a", true).await, queued(&turns, "b", true).await);
    drop(held);
    drop(given);
    drop(next.await.expect("it is next"));
    assert_eq!((turns.shown().get(), turns.state.lock().running), (0, 0));
}

#[tokio::test]
async fn a_login_that_no_longer_waits_leaves_its_place() {
    let turns = Turns::new(1);
    let held = turns.wait("x", true, MANY).await.unwrap();
    drop(queued(&turns, "a", true).await);
    let mut next: Wait<'_> = Box::pin(turns.wait("b", true, 1));
    assert!(poll!(&mut next).is_pending(), "there is a place");
    drop(held);
    drop(next.await.expect("it is next"));
}

#[tokio::test]
async fn what_was_wrong_long_ago_is_not_added_to_what_is_wrong_now() {
    let turns = Turns::new(1);
    for _wrong in 0..3 {
        turns.was_wrong("shop", Instant::now() - WRONG_KEPT);
    }
    for network in ["shop", "flood", "flood"] {
        turns.was_wrong(network, Instant::now());
    }
    let held = turns.wait("x", true, MANY).await.unwrap();
    let waiting =
        vec![(1, queued(&turns, "flood", true).await), (2, queued(&turns, "shop", true).await)];
    assert_eq!(order(&turns, held, waiting).await, [2, 1]);
}

#[tokio::test]
async fn neither_a_first_letter_nor_a_name_that_exists_has_all_turns() {
    let turns = Turns::new(1);
    let held = turns.wait("x", true, MANY).await.unwrap();
    let mut waiting = Vec::new();
    for number in 0..9 {
        waiting.push((number, queued(&turns, "a", true).await));
    }
    waiting.push((100, queued(&turns, "b", true).await));
    waiting.push((101, queued(&turns, "c", false).await));
    let order = order(&turns, held, waiting).await;
    for number in [100, 101] {
        let place = order.iter().position(|one| *one == number).unwrap();
        assert!(place <= 3, "{order:?}");
    }
}

#[tokio::test]
async fn of_those_with_as_many_waiting_the_one_with_wrong_passwords_gives_way() {
    let turns = Turns::new(1);
    turns.was_wrong("shop", Instant::now());
    let held = turns.wait("x", true, MANY).await.unwrap();
    let mut wrong = queued(&turns, "shop", true).await;
    let mut other = queued(&turns, "office", true).await;
    let mut third: Wait<'_> = Box::pin(turns.wait("home", true, 2));
    assert!(poll!(&mut third).is_pending(), "there is a place");
    assert!(matches!(poll!(&mut wrong), std::task::Poll::Ready(None)));
    assert!(poll!(&mut other).is_pending());
    drop(held);
}

#[test]
fn of_too_many_networks_the_one_that_was_wrong_longest_ago_is_forgotten() {
    let (turns, now) = (Turns::new(1), Instant::now());
    for network in 0..=NETWORKS_MAX {
        turns.was_wrong(&network.to_string(), now);
    }
    let state = turns.state.lock();
    let wrong = [0, 1, NETWORKS_MAX].map(|one| wrong_of(&state.wrong, &one.to_string(), now));
    assert_eq!(wrong, [0, 1, 1]);
}
