//! Tokens and tickets over a real store.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use store::sqlite::{SqliteOptions, SqliteStore};
use store::test::gated::{Gate, GatedStore};
use store::test::{PATIENCE, user};
use store::{UserChange, UserStore};
use tempfile::TempDir;

use super::*;

const ALICE: UserId = UserId(1);
const BOB: UserId = UserId(2);
const ANDROID: u32 = 0x12;
const LIFE: Duration = Duration::from_hours(24);
const BEGAN_S: u64 = 2_000_000_000;

/// A store with two users, and tokens of theirs.
struct Site {
    tokens: Tokens,
    store: Arc<GatedStore>,
    now_s: Arc<AtomicU64>,
    dir: TempDir,
}

impl Site {
    async fn new(keys: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("store.db");
        let store = SqliteStore::open(&path, SqliteOptions::default()).unwrap();
        let store = Arc::new(GatedStore::new(store));
        store.add_users(vec![user(1, "alice"), user(2, "bob")], false).await.unwrap();
        let now_s = Arc::new(AtomicU64::new(BEGAN_S));
        let keys = if keys.is_empty() { Keys::default() } else { Keys::read(keys).unwrap() };
        let clock = Clock::set_by(Arc::clone(&now_s));
        let tokens = Tokens::new(Arc::clone(&store) as _, keys, LIFE, clock);
        Self { tokens, store, now_s, dir }
    }

    async fn signing() -> Self {
        let site = Self::new(&format!("1 {}", "ab".repeat(32))).await;
        site.tokens.read_revocations().await.unwrap();
        site
    }

    async fn row(&self, user: UserId) -> UserRow {
        self.store.users(vec![user]).await.unwrap().remove(0)
    }

    async fn ask(&self, user: UserId, what: What) -> Told {
        self.tokens.answer(TokenQuestion { user: user.0, what: Some(what) }).await
    }

    /// The first token of a login with a password.
    async fn begin(&self, user: UserId) -> Vec<u8> {
        let stamp = self.row(user).await.stamp;
        let give = TokenGive { client_type: ANDROID, stamp, shown: None };
        secret(self.ask(user, What::Give(give)).await)
    }

    async fn go_on(&self, user: UserId, shown: &[u8]) -> Told {
        let shown = Some(shown.to_vec().into());
        let give = TokenGive { client_type: ANDROID, stamp: 0, shown };
        self.ask(user, What::Give(give)).await
    }

    async fn kept(&self, user: UserId, token: &[u8]) -> Told {
        self.ask(user, What::Kept(token.to_vec().into())).await
    }

    async fn ticket(&self, user: UserId, token: &[u8], client_type: u32) -> Told {
        let give = TicketGive { token: token.to_vec().into(), client_type };
        self.ask(user, What::Ticket(give)).await
    }

    /// What becomes of a question of Alice's, whose login ends after it was looked up and before
    /// anything is done.
    async fn ended_meanwhile(&self, token: &[u8], what: What) -> Told {
        let family = text::read(token).unwrap().family;
        let asked = *self.store.asked.borrow();
        self.store.reads.send_replace(Gate::One);
        let ends = async {
            self.store.was_asked(asked + 2).await;
            self.tokens.revoke(ALICE, Some(family)).await.unwrap();
            self.store.reads.send_replace(Gate::Open);
        };
        tokio::join!(self.ask(ALICE, what), ends).0
    }

    async fn good(&self, user: UserId) -> Resumed {
        Resumed::Good(Box::new(self.row(user).await), ANDROID)
    }

    fn away(&self, is_away: bool) {
        self.store.reads.send_replace(if is_away { Gate::Away } else { Gate::Open });
    }

    fn later(&self, by: Duration) {
        self.now_s.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}

fn secret(told: Told) -> Vec<u8> {
    let Told::Secret(secret, _life) = told else { panic!("{told:?}") };
    secret
}

#[tokio::test]
async fn a_token_logs_in_and_gets_a_newer_one_that_does() {
    let site = Site::new("").await;
    let mut token = site.begin(ALICE).await;
    for _login in 0..40 {
        assert_eq!(site.tokens.resume(&token).await, site.good(ALICE).await);
        let newer = secret(site.go_on(ALICE, &token).await);
        assert_ne!(newer, token);
        assert_eq!(site.kept(ALICE, &newer).await, Told::Done);
        assert_eq!(site.kept(ALICE, &newer).await, Told::Done, "said twice");
        token = newer;
        // Each lasts as long as the first one.
        site.later(LIFE);
    }
}

#[tokio::test]
async fn a_token_that_was_replaced_ends_everything_that_follows_from_its_login() {
    let site = Site::new("").await;
    let (old, other) = (site.begin(ALICE).await, site.begin(ALICE).await);
    let newer = secret(site.go_on(ALICE, &old).await);
    site.kept(ALICE, &newer).await;
    assert_eq!(site.tokens.resume(&old).await, Resumed::Copied(ALICE, ANDROID));
    for token in [&old, &newer] {
        assert_eq!(site.tokens.resume(token).await, Resumed::Void);
        assert_eq!(site.go_on(ALICE, token).await, Told::Refused);
    }
    assert_eq!(site.tokens.resume(&other).await, site.good(ALICE).await, "it is another login's");
}

/// Once, a copy was believed by its signature when the store went away while the family was being ended.
#[tokio::test]
async fn regression_a_copy_is_refused_even_if_the_store_does_not_take_the_end_of_its_family() {
    let site = Site::signing().await;
    let copied = site.begin(ALICE).await;
    let newer = secret(site.go_on(ALICE, &copied).await);
    site.kept(ALICE, &newer).await;
    site.store.commits.send_replace(Gate::Away);
    assert_eq!(site.tokens.resume(&copied).await, Resumed::Copied(ALICE, ANDROID));
    assert_eq!(site.tokens.resume(&newer).await, site.good(ALICE).await, "it has not ended yet");
    site.store.commits.send_replace(Gate::Open);
    assert_eq!(site.tokens.resume(&copied).await, Resumed::Copied(ALICE, ANDROID));
    assert_eq!(site.tokens.resume(&newer).await, Resumed::Void);
}

#[tokio::test]
async fn an_answer_that_is_lost_ends_no_login() {
    let site = Site::new("").await;
    let token = site.begin(ALICE).await;
    let lost = secret(site.go_on(ALICE, &token).await);
    assert_eq!(site.tokens.resume(&token).await, site.good(ALICE).await);
    assert_eq!(
        site.tokens.resume(&lost).await,
        site.good(ALICE).await,
        "it may have come after all"
    );
    let newer = secret(site.go_on(ALICE, &token).await);
    assert_eq!(site.kept(ALICE, &lost).await, Told::Refused, "too late");
    assert_eq!(site.kept(ALICE, &newer).await, Told::Done);
    assert_eq!(site.tokens.resume(&lost).await, Resumed::Copied(ALICE, ANDROID));
}

#[tokio::test]
async fn whatever_is_changed_in_a_token_it_is_void_and_the_right_one_goes_on() {
    let site = Site::signing().await;
    let token = site.begin(ALICE).await;
    for bit in 0..token.len() * 8 {
        let mut other = token.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(site.tokens.resume(&other).await, Resumed::Void, "bit {bit}");
    }
    for len in 0..token.len() {
        assert_eq!(site.tokens.resume(&token[..len]).await, Resumed::Void, "{len}");
    }
    assert_eq!(site.tokens.resume(&token).await, site.good(ALICE).await);
}

#[tokio::test]
async fn the_store_has_no_secret() {
    let site = Site::new("").await;
    let token = site.begin(ALICE).await;
    let ticket = secret(site.ticket(ALICE, &token, ANDROID).await);
    let secret = text::read(&token).unwrap().secret;
    let mut stored = Vec::new();
    for file in std::fs::read_dir(site.dir.path()).unwrap() {
        stored.extend(std::fs::read(file.unwrap().path()).unwrap());
    }
    let has = |bytes: &[u8]| stored.windows(bytes.len()).any(|window| window == bytes);
    assert!(!has(&secret) && !has(&ticket));
    assert!(has(&hash(&token).0) && has(&hash(&ticket).0), "it was looked for in the right place");
}

#[tokio::test]
async fn a_token_ends_with_its_time_its_user_and_its_users_password() {
    let site = Site::new("").await;
    let token = site.begin(ALICE).await;
    site.later(LIFE + Duration::from_secs(SKEW_S));
    assert_eq!(site.tokens.resume(&token).await, site.good(ALICE).await);
    site.later(Duration::from_secs(1));
    assert_eq!(site.tokens.resume(&token).await, Resumed::Void);
    assert_eq!(site.go_on(ALICE, &token).await, Told::Refused);

    for change in [UserChange::Password("new".to_owned()), UserChange::Status(3)] {
        let (alice, bob) = (site.begin(ALICE).await, site.begin(BOB).await);
        site.store.change_user(ALICE, change.clone()).await.unwrap();
        assert_eq!(site.tokens.resume(&alice).await, Resumed::Void, "{change:?}");
        assert_eq!(site.tokens.resume(&bob).await, site.good(BOB).await, "{change:?}");
    }
    site.store.change_user(ALICE, UserChange::Status(0)).await.unwrap();
    let token = site.begin(ALICE).await;
    site.tokens.revoke(ALICE, None).await.unwrap();
    assert_eq!(site.tokens.resume(&token).await, Resumed::Void);
}

#[tokio::test]
async fn a_login_that_was_checked_before_the_password_changed_gets_no_token() {
    let site = Site::new("").await;
    let stamp = site.row(ALICE).await.stamp;
    site.store.change_user(ALICE, UserChange::Password("new".to_owned())).await.unwrap();
    let give = TokenGive { client_type: ANDROID, stamp, shown: None };
    assert_eq!(site.ask(ALICE, What::Give(give)).await, Told::NotNow);
}

#[tokio::test]
async fn no_user_can_do_anything_with_the_token_of_another() {
    let site = Site::new("").await;
    let token = site.begin(ALICE).await;
    let newer = secret(site.go_on(ALICE, &token).await);
    assert_eq!(site.go_on(BOB, &token).await, Told::Refused);
    assert_eq!(site.kept(BOB, &newer).await, Told::Refused);
    assert_eq!(site.ticket(BOB, &token, ANDROID).await, Told::Refused);
    assert_eq!(site.ask(BOB, What::End(token.clone().into())).await, Told::Refused);
    assert_eq!(site.tokens.resume(&token).await, site.good(ALICE).await);

    assert_eq!(site.ask(ALICE, What::End(token.clone().into())).await, Told::Done);
    for token in [&token, &newer] {
        assert_eq!(site.tokens.resume(token).await, Resumed::Void, "she has logged out");
    }
}

#[tokio::test]
async fn a_logout_ends_the_tokens_of_its_own_login_alone() {
    let site = Site::new("").await;
    let (token, other) = (site.begin(ALICE).await, site.begin(ALICE).await);
    assert_eq!(site.ask(ALICE, What::End(token.clone().into())).await, Told::Done);
    assert_eq!(site.tokens.resume(&token).await, Resumed::Void);
    assert_eq!(site.tokens.resume(&other).await, site.good(ALICE).await);
}

#[tokio::test]
async fn with_a_token_that_a_newer_one_has_replaced_nothing_is_done() {
    let site = Site::new("").await;
    let old = site.begin(ALICE).await;
    let newer = secret(site.go_on(ALICE, &old).await);
    assert_eq!(site.kept(ALICE, &newer).await, Told::Done);
    assert_eq!(site.ticket(ALICE, &old, ANDROID).await, Told::Refused);
    assert_eq!(site.ask(ALICE, What::End(old.into())).await, Told::Refused);
    assert_eq!(site.tokens.resume(&newer).await, site.good(ALICE).await);
}

#[tokio::test]
async fn what_ends_while_something_is_done_with_it_stays_ended() {
    let site = Site::new("").await;
    for (name, expected) in
        [("a newer one", Told::NotNow), ("kept", Told::Refused), ("a ticket", Told::Refused)]
    {
        let token = site.begin(ALICE).await;
        let newer = secret(site.go_on(ALICE, &token).await);
        let shown = Bytes::from(token.clone());
        let what = match name {
            "a newer one" => {
                let shown = Some(shown);
                What::Give(TokenGive { client_type: ANDROID, stamp: 0, shown })
            }
            "kept" => What::Kept(newer.into()),
            _ => What::Ticket(TicketGive { token: shown, client_type: ANDROID }),
        };
        assert_eq!(site.ended_meanwhile(&token, what).await, expected, "{name}");
    }
}

#[tokio::test]
async fn a_clock_that_is_behind_makes_no_token_end_earlier() {
    let site = Site::new("").await;
    let token = site.begin(ALICE).await;
    site.later(Duration::from_mins(1));
    let newer = secret(site.go_on(ALICE, &token).await);
    site.now_s.store(BEGAN_S, Ordering::Relaxed);
    let newest = secret(site.go_on(ALICE, &newer).await);
    let ends = |token: &[u8]| text::read(token).unwrap().expires_s;
    assert_eq!(ends(&newest), ends(&newer));
}

#[tokio::test]
async fn what_was_revoked_is_remembered_until_no_token_of_before_can_be_believed() {
    let site = Site::new("").await;
    site.now_s.store(u64::from(daemon::clock::unix_s()), Ordering::Relaxed);
    site.tokens.revoke(ALICE, None).await.unwrap();
    let all = LIFE + Duration::from_secs(2 * SKEW_S);
    for (later, is_known) in [(all, true), (Duration::from_mins(1), false)] {
        site.later(later);
        site.tokens.revoke(BOB, None).await.unwrap();
        let noted = site.tokens.store.revocations_after(0, 10).await.unwrap();
        assert_eq!(noted.iter().any(|noted| noted.user == ALICE), is_known, "{noted:?}");
    }
}

#[tokio::test]
async fn while_the_store_is_away_a_signed_token_logs_in_and_stays_the_one_in_use() {
    let site = Site::signing().await;
    let token = site.begin(ALICE).await;
    site.away(true);
    assert_eq!(site.tokens.resume(&token).await, Resumed::Alone(ALICE, ANDROID));
    assert_eq!(site.go_on(ALICE, &token).await, Told::NotNow);
    for bit in 0..token.len() * 8 {
        let mut other = token.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        let judged = site.tokens.resume(&other).await;
        assert!(matches!(judged, Resumed::NotNow | Resumed::Void), "bit {bit}: {judged:?}");
    }
    site.later(LIFE + Duration::from_secs(SKEW_S + 1));
    assert_eq!(site.tokens.resume(&token).await, Resumed::NotNow, "its time is over");
    site.now_s.store(BEGAN_S, Ordering::Relaxed);
    site.away(false);
    assert_eq!(site.tokens.resume(&token).await, site.good(ALICE).await);
    assert!(matches!(site.go_on(ALICE, &token).await, Told::Secret(..)));
}

#[tokio::test]
async fn while_the_store_is_away_a_token_lasts_as_long_as_with_it() {
    let site = Site::signing().await;
    let token = site.begin(ALICE).await;
    site.away(true);
    site.later(LIFE + Duration::from_secs(SKEW_S));
    assert_eq!(site.tokens.resume(&token).await, Resumed::Alone(ALICE, ANDROID));
    site.later(Duration::from_secs(1));
    assert_eq!(site.tokens.resume(&token).await, Resumed::NotNow);
}

#[tokio::test]
async fn while_the_store_is_away_what_was_revoked_before_does_not_log_in() {
    let site = Site::signing().await;
    let copied = site.begin(ALICE).await;
    let newer = secret(site.go_on(ALICE, &copied).await);
    site.kept(ALICE, &newer).await;
    let (bob, still) = (site.begin(BOB).await, site.begin(ALICE).await);
    assert_eq!(site.tokens.resume(&copied).await, Resumed::Copied(ALICE, ANDROID));
    site.store.change_user(BOB, UserChange::Password("new".to_owned())).await.unwrap();
    let bob_again = site.begin(BOB).await;
    site.tokens.read_revocations().await.unwrap();

    site.away(true);
    for (token, expected) in [
        (&copied, Resumed::NotNow),
        (&newer, Resumed::NotNow),
        (&bob, Resumed::NotNow),
        (&still, Resumed::Alone(ALICE, ANDROID)),
        (&bob_again, Resumed::Alone(BOB, ANDROID)),
    ] {
        assert_eq!(site.tokens.resume(token).await, expected);
    }
}

#[tokio::test]
async fn while_the_store_is_away_nothing_is_believed_without_a_signature_or_before_it_was_heard() {
    let unsigned = Site::new("").await;
    let token = unsigned.begin(ALICE).await;
    unsigned.away(true);
    assert_eq!(unsigned.tokens.resume(&token).await, Resumed::NotNow);

    let unheard = Site::new(&format!("1 {}", "ab".repeat(32))).await;
    let token = unheard.begin(ALICE).await;
    unheard.away(true);
    assert_eq!(unheard.tokens.resume(&token).await, Resumed::NotNow);
}

#[tokio::test]
async fn a_store_that_says_nothing_is_not_waited_for_where_a_signature_stands_in() {
    let site = Site::signing().await;
    let token = site.begin(ALICE).await;
    site.store.reads.send_replace(Gate::Closed);
    let resumed = timeout(PATIENCE, site.tokens.resume(&token)).await;
    assert_eq!(resumed, Ok(Resumed::Alone(ALICE, ANDROID)));
}

#[tokio::test]
async fn what_was_revoked_is_heard_without_being_asked_for() {
    let site = Site::new(&format!("1 {}", "ab".repeat(32))).await;
    let token = text::read(&site.begin(ALICE).await).unwrap();
    let shutdown = Shutdown::default();
    site.tokens.follow_revocations(&shutdown);
    for is_alive in [true, false] {
        let heard = async {
            while site.tokens.revoked.lock().is_alive(&token) != is_alive {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, heard).await.expect("it hears what there is, again and again");
        // As another db_proxy does it.
        site.tokens.store.revoke_tokens(ALICE, None, 0).await.unwrap();
    }
    shutdown.begin();
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_ticket_logs_in_once_from_any_client() {
    let site = Site::new("").await;
    let token = site.begin(ALICE).await;
    let ticket = secret(site.ticket(ALICE, &token, 1).await);
    let shown = join_all((0..20).map(|_try| site.tokens.redeem(&ticket))).await;
    let good = Resumed::Good(Box::new(site.row(ALICE).await), 1);
    assert_eq!(shown.iter().filter(|shown| **shown == good).count(), 1);
    assert_eq!(shown.iter().filter(|shown| **shown == Resumed::Void).count(), 19);
    assert_eq!(site.tokens.redeem(&[]).await, Resumed::Void);
}

#[tokio::test]
async fn a_ticket_ends_after_a_minute_with_its_token_and_with_its_user() {
    let site = Site::new("").await;
    let token = site.begin(ALICE).await;
    let (late, later) = (
        secret(site.ticket(ALICE, &token, ANDROID).await),
        secret(site.ticket(ALICE, &token, ANDROID).await),
    );
    site.later(TICKET_LIFE);
    assert_eq!(site.tokens.redeem(&late).await, site.good(ALICE).await);
    site.later(Duration::from_secs(1));
    assert_eq!(site.tokens.redeem(&later).await, Resumed::Void);

    assert_eq!(site.ticket(ALICE, &token, 77).await, Told::Refused, "no kind of client");
    let made = secret(site.tokens.ticket_for(ALICE, ANDROID).await);
    let ticket = secret(site.ticket(ALICE, &token, ANDROID).await);
    site.store.change_user(ALICE, UserChange::Status(3)).await.unwrap();
    for ticket in [made, ticket] {
        assert_eq!(site.tokens.redeem(&ticket).await, Resumed::Void);
    }
    assert_eq!(site.ticket(ALICE, &token, ANDROID).await, Told::Refused);
    let made = secret(site.tokens.ticket_for(ALICE, ANDROID).await);
    assert_eq!(site.tokens.redeem(&made).await, Resumed::Void, "she may not log in");
}
