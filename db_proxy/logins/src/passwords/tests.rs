//! Hashes, and what is remembered of them.

use futures_util::poll;
use tokio::sync::Semaphore;

use super::*;

impl Passwords {
    /// As a login is checked; whether a hash had to be computed.
    async fn verify(&self, stored: Option<&str>, credential: &str) -> (Verdict, bool) {
        let pair = Pair { name: "somebody", stored, credential };
        if let Some(known) = self.recall(&pair) {
            return (known, false);
        }
        let Some(turn) = self.turn("10.0.0.0/24", stored.is_some()).await else {
            return (Verdict::Busy, false);
        };
        (self.check(turn, &pair, "10.0.0.0/24").await, true)
    }
}

#[tokio::test]
async fn a_right_credential_costs_one_hash_and_then_none() {
    let passwords = Passwords::new(0, None).unwrap();
    let stored = passwords.hash("secret".to_owned()).await.unwrap();
    assert!(stored.starts_with("$argon2id$"), "{stored}");
    assert_eq!(passwords.verify(Some(&stored), "secret").await, (Verdict::Right, true));
    assert_eq!(passwords.verify(Some(&stored), "secret").await, (Verdict::Right, false));
    assert_eq!(passwords.verify(Some(&stored), "Secret").await, (Verdict::Wrong, true));
    assert_eq!(passwords.verify(None, "nobody has this").await, (Verdict::Wrong, true));
}

#[tokio::test]
async fn hashes_give_way_and_nothing_else_does() {
    let nice = || rustix::process::getpriority_process(None).unwrap();
    let before = nice();
    let core = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    assert_eq!(giving_way(core, nice).await.unwrap(), NICE.max(before));
    assert_eq!(nice(), before);
    assert_eq!(tokio::task::spawn_blocking(nice).await.unwrap(), before);
}

#[tokio::test]
async fn a_core_is_taken_until_the_hash_is_computed_though_no_caller_waits_for_it() {
    let cores = Arc::new(Semaphore::new(1));
    let core = Arc::clone(&cores).try_acquire_owned().unwrap();
    let (go_on, waits) = std::sync::mpsc::channel::<()>();
    let mut given_up = Box::pin(giving_way(core, move || waits.recv()));
    assert!(poll!(&mut given_up).is_pending());
    drop(given_up);
    assert_eq!(cores.available_permits(), 0);
    drop(go_on);
    drop(cores.acquire().await.unwrap());
}

#[tokio::test]
async fn a_login_that_would_wait_too_long_is_turned_away_at_once_and_later_there_is_room_again() {
    let passwords = Passwords::new(1, None).unwrap();
    let stored = passwords.hash("secret".to_owned()).await.unwrap();
    passwords.pretend(WAIT_MAX / 2);
    let check = || passwords.verify(Some(&stored), "guess");
    let (first, second, third) = tokio::join!(check(), check(), check());
    assert_eq!([first.0, second.0, third.0], [Verdict::Wrong, Verdict::Wrong, Verdict::Busy]);
    assert!(!third.1, "it cost no hash");
    assert_eq!(passwords.waiting().get(), 0);
    assert_eq!(check().await.0, Verdict::Wrong);
}

#[tokio::test]
async fn one_login_is_checked_however_long_that_takes() {
    let passwords = Passwords::new(1, None).unwrap();
    passwords.pretend(WAIT_MAX * 9);
    let before = passwords.hash_us.load(Ordering::Relaxed);
    assert_eq!(passwords.verify(None, "guess").await, (Verdict::Wrong, true));
    assert!(passwords.hash_us.load(Ordering::Relaxed) < before, "it is known to be faster");
}

#[tokio::test]
async fn a_changed_hash_is_not_remembered() {
    let passwords = Passwords::new(0, None).unwrap();
    let old = passwords.hash("secret".to_owned()).await.unwrap();
    assert_eq!(passwords.verify(Some(&old), "secret").await.0, Verdict::Right);
    let new = passwords.hash("other".to_owned()).await.unwrap();
    assert_eq!(passwords.verify(Some(&new), "secret").await, (Verdict::Wrong, true));
}

#[tokio::test]
async fn what_is_right_is_remembered_for_all_of_one_hash_and_what_is_wrong_for_its_name_alone() {
    let passwords = Passwords::new(1, None).unwrap();
    let stored = passwords.hash("secret".to_owned()).await.unwrap();
    passwords.verify(Some(&stored), "secret").await;
    passwords.verify(Some(&stored), "guess").await;
    for (name, wrong) in [("somebody", Some(Verdict::Wrong)), ("another", None)] {
        let pair = |credential| Pair { name, stored: Some(&stored), credential };
        assert_eq!(passwords.recall(&pair("secret")), Some(Verdict::Right), "{name}");
        assert_eq!(passwords.recall(&pair("guess")), wrong, "{name}");
    }
    // The network that it came from is served after others.
    let held = passwords.turn("x", true).await.unwrap();
    let mut wrong = Box::pin(passwords.turn("10.0.0.0/24", true));
    let mut other = Box::pin(passwords.turn("10.0.1.0/24", true));
    assert!(poll!(&mut wrong).is_pending() && poll!(&mut other).is_pending());
    drop(held);
    assert!(poll!(&mut wrong).is_pending() && poll!(&mut other).is_ready());
}

#[test]
fn of_too_many_credentials_the_one_used_longest_ago_is_forgotten() {
    let tags = Tags::new();
    let tag = |number: usize| {
        let mut tag = [0; 32];
        tag[..8].copy_from_slice(&number.to_be_bytes());
        tag
    };
    for number in 0..=REMEMBERED_MAX {
        assert!(tags.put(tag(number)));
    }
    assert_eq!([0, 1, REMEMBERED_MAX].map(|number| tags.has(&tag(number))), [false, true, true]);
}
