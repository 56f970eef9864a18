//! Logins.

use std::time::{Duration, Instant};

use futures_util::future::{FutureExt as _, join_all};
use logins::login::guesses::{Seen, Who, network};
use logins::passwords::weak_hash;
use partition::test::gated::Gate;
use partition::test::{USERS, user};
use proto::client::{LoginResult, UserInfo};
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    Kick, SessionInfo, Sessions, SessionsRequest, UserAdd, UserDisable, UserKick, UserPassword,
    UserSessions, UserUnlock,
};
use proto::credential;
use store::{NewUser, UserChange};

use super::*;

/// Failures of a name in one network that have no consequence.
const FREE: u32 = 10;

#[tokio::test]
async fn a_right_password_logs_in_and_everything_else_does_not() {
    let server = Server::with_alice().await;
    let alice = server.verify("alice", "correct horse", "10.0.0.1").await;
    assert_eq!(alice.result, LoginResult::Accepted as u32);
    let info = UserInfo::decode(alice.user_info.unwrap()).unwrap();
    assert_eq!((Some(info.user_id), &*info.nick_name), (alice.user, "Alice"));

    let wrong = server.verify("alice", "wrong horse", "10.0.0.1").await;
    let unknown = server.verify("nobody", "correct horse", "10.0.0.1").await;
    server.administer(What::UserDisable(disable("alice", false))).await;
    let disabled = server.verify("alice", "correct horse", "10.0.0.1").await;
    assert_eq!(wrong.result, LoginResult::BadCredentials as u32);
    assert_eq!((&unknown, &disabled), (&wrong, &wrong), "none can be told from the others");
    assert_eq!((wrong.user, &wrong.user_info), (None, &None));

    server.administer(What::UserDisable(disable("alice", true))).await;
    let again = server.verify("alice", "correct horse", "10.0.0.1").await;
    assert_eq!(again.result, LoginResult::Accepted as u32);
    server.stop().await;
}

/// No user has such a name.
#[tokio::test]
async fn a_name_beyond_128_bytes_is_not_looked_at() {
    let server = Server::start().await;
    let longest = "x".repeat(128);
    let users = [128, 129].map(|len| NewUser {
        password_hash: weak_hash(&longest),
        ..user(1_000 + len, &"n".repeat(len as usize))
    });
    let store = Arc::clone(server.requests.logins.store());
    store.add_users(users.to_vec(), false).await.unwrap();
    drop(store);
    for (len, is_let_in) in [(128, true), (129, false)] {
        let verified = server.verify_as(&"n".repeat(len), longest.clone(), "10.0.0.1").await;
        assert_eq!(verified.user.is_some(), is_let_in, "{len}");
        assert_eq!(verified.result == LoginResult::BadCredentials as u32, !is_let_in, "{len}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_changed_password_counts_at_once() {
    let server = Server::with_alice().await;
    assert!(server.verify("alice", "correct horse", "").await.user.is_some());
    let (name, password) = ("alice".to_owned(), "battery staple".to_owned());
    server.administer(What::UserPassword(UserPassword { name, password })).await;
    assert!(server.verify("alice", "correct horse", "").await.user.is_none());
    assert!(server.verify("alice", "battery staple", "").await.user.is_some());
    server.stop().await;
}

#[tokio::test]
async fn a_name_has_to_wait_only_where_it_failed() {
    let server = Server::with_alice().await;
    for guess in 0..=FREE {
        assert!(server.verify("alice", &format!("guess {guess}"), "10.0.0.1").await.user.is_none());
    }
    let wrong = server.verify("nobody", "guess", "10.0.0.1").await;
    let waits = server.verify("alice", "correct horse", "10.0.0.2").await;
    assert_eq!(waits.result, LoginResult::BadCredentials as u32);
    assert!(waits.user.is_none(), "the right password too, in the same network");
    assert_ne!(waits.text, wrong.text, "it is told to wait");
    assert!(server.verify("alice", "correct horse", "10.0.1.1").await.user.is_some());
    let (name, password) = ("bob".to_owned(), "correct horse".to_owned());
    let bob = UserAdd { name, password, nick: None, department: None };
    server.administer(What::UserAdd(bob)).await;
    assert!(server.verify("bob", "correct horse", "10.0.0.1").await.user.is_some());

    // The first delay is a second.
    let began = Instant::now();
    while server.verify("alice", "correct horse", "10.0.0.1").await.user.is_none() {
        assert!(began.elapsed() < Duration::from_secs(3), "the delay is over");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn many_wrong_names_from_one_address_keep_nobody_there_out() {
    let server = Server::with_alice().await;
    for number in 0..=100 {
        let name = format!("name{number}");
        assert!(server.verify(&name, "guess", "10.0.0.1").await.user.is_none());
    }
    assert!(server.verify("alice", "correct horse", "10.0.0.1").await.user.is_some());
    server.stop().await;
}

#[tokio::test]
async fn an_old_password_that_is_repeated_is_one_guess_and_one_hash() {
    let server = Server::with_alice().await;
    for _again in 0..5 * FREE {
        let told = server.verify("alice", "an old password", "10.0.0.1").await;
        assert_eq!(told.text, "用户名/密码错误");
    }
    assert_eq!(server.logins.hashes.get(), 1);
    assert!(server.verify("alice", "correct horse", "10.0.0.1").await.user.is_some());
    server.stop().await;
}

#[tokio::test]
async fn a_reset_an_enabling_and_an_unlock_let_in_at_once() {
    let server = Server::with_alice().await;
    let (name, password) = ("alice".to_owned(), "battery staple".to_owned());
    let lifts = [
        What::UserUnlock(UserUnlock { name: name.clone() }),
        What::UserDisable(disable("alice", true)),
        What::UserPassword(UserPassword { name, password }),
    ];
    for (round, lift) in lifts.into_iter().enumerate() {
        // Where it has not logged in yet. The last delay is longer than what follows.
        let address = format!("10.0.{round}.1");
        let mut guess = 0;
        let began = Instant::now();
        while guess <= FREE + 3 {
            assert!(began.elapsed() < PATIENCE);
            let typed = format!("guess {round} {guess}");
            let told = server.verify("alice", &typed, &address).await;
            guess += u32::from(told.text == "用户名/密码错误");
        }
        let typed = if round == 2 { "battery staple" } else { "correct horse" };
        let before = server.verify("alice", typed, &address).await;
        assert!(before.user.is_none(), "round {round}");
        server.administer(lift).await;
        let after = server.verify("alice", typed, &address).await;
        assert!(after.user.is_some(), "round {round}: {after:?}");
    }
    let (name, error) = ("nobody".to_owned(), "user nobody does not exist");
    let refused = server.refused(What::UserUnlock(UserUnlock { name })).await;
    assert!(refused.contains(error), "{refused}");
    server.stop().await;
}

#[tokio::test]
async fn a_changed_password_and_a_disabled_account_end_what_was_checked_before() {
    let mut server = Server::with_alice().await;
    let old = server.verify("alice", "correct horse", "").await;
    let (name, password) = ("alice".to_owned(), "battery staple".to_owned());
    server.administer(What::UserPassword(UserPassword { name, password })).await;
    let (_link, frame) = server.gateway.frame().await;
    assert_eq!(frame.kind, Kind::Kick.number());
    let kick: Kick = frame.parse().unwrap();
    assert_eq!((Some(kick.user), kick.reason, kick.device_class), (old.user, Some(1), None));
    let new = server.verify("alice", "battery staple", "").await;
    let before = kick.verified_before.expect("it says what has ended");
    assert!(
        old.stamp.unwrap() < before && before <= new.stamp.unwrap(),
        "{old:?} {kick:?} {new:?}"
    );

    server.administer(What::UserDisable(disable("alice", false))).await;
    let (_link, frame) = server.gateway.frame().await;
    let kick: Kick = frame.parse().unwrap();
    assert!(new.stamp < kick.verified_before && kick.reason == Some(1), "{new:?} {kick:?}");

    server.administer(What::UserKick(UserKick { name: "alice".to_owned() })).await;
    let (_link, frame) = server.gateway.frame().await;
    let kick: Kick = frame.parse().unwrap();
    assert_eq!((kick.reason, kick.verified_before), (Some(1), None), "all there are, once");
    server.stop().await;
}

#[tokio::test]
async fn a_gateway_that_links_later_hears_whose_sessions_have_ended() {
    let server = Server::with_alice().await;
    server.administer(What::UserDisable(disable("alice", false))).await;
    server.administer(What::UserKick(UserKick { name: "alice".to_owned() })).await;
    let who = far::identity(Role::MsgServer, "late", GATEWAY_BOOT + 1);
    let (mut late, _link) = Far::dial(server.addr, who, &server.proxy.shutdown).await;
    let (_link, first) = late.frame().await;
    assert_eq!(first.kind, Kind::Ownership.number());
    let (_link, frame) = late.frame().await;
    assert_eq!(frame.kind, Kind::Kick.number());
    assert!(frame.parse::<Kick>().unwrap().verified_before.is_some(), "the other is not repeated");
    server.stop().await;
}

#[tokio::test]
async fn without_a_store_a_login_is_not_a_wrong_one() {
    let server = Server::with_alice().await;
    server.proxy.store.reads.send_replace(Gate::Away);
    for _ in 0..=FREE {
        let verified = server.verify("alice", "correct horse", "10.0.0.1").await;
        assert_eq!(verified.result, LoginResult::NoDbServer as u32);
    }
    server.proxy.store.reads.send_replace(Gate::Open);
    assert!(server.verify("alice", "correct horse", "10.0.0.1").await.user.is_some());
    server.stop().await;
}

#[tokio::test]
async fn a_login_that_is_one_too_many_may_be_right_and_is_told_to_come_back() {
    let server = Server::with_alice().await;
    server.requests.logins.passwords().pretend(Duration::from_mins(1));
    let names: Vec<String> = (0..60).map(|number| format!("name{number}")).collect();
    let tries = names.iter().map(|name| server.verify(name, "guess", "10.0.0.1"));
    let told = join_all(tries).await;
    let count = |result: LoginResult| told.iter().filter(|one| one.result == result as u32).count();
    assert!(count(LoginResult::BadCredentials) > 0, "some are checked");
    assert!(count(LoginResult::NoDbServer) > 0, "the others are told to try again");
    assert_eq!(count(LoginResult::BadCredentials) + count(LoginResult::NoDbServer), 60);
    assert!(server.verify("alice", "correct horse", "10.0.0.1").await.user.is_some());
    server.stop().await;
}

#[tokio::test]
async fn the_login_of_a_disabled_user_makes_no_network_known() {
    let server = Server::with_alice().await;
    server.administer(What::UserDisable(disable("alice", false))).await;
    assert!(server.verify("alice", "correct horse", "10.0.0.1").await.user.is_none());
    let seen = server.requests.logins.guesses().seen(&alice_at("10.0.0.1")).await;
    assert!(!seen.known);
    server.stop().await;
}

#[tokio::test]
async fn a_password_that_is_only_looked_up_counts_once() {
    let server = Server::with_alice().await;
    let guesses = server.requests.logins.guesses();
    let stranger = Who { name: "nobody".to_owned(), ..alice_at("10.0.0.1") };
    for _guess in 0..GuessLimits::default().network_failures + 2 * FREE {
        guesses.failed(&stranger, &Seen::default());
    }
    for _again in 0..3 {
        let told = server.verify("alice", "guess", "10.0.0.1").await;
        assert_eq!(told.text, "登录失败次数过多，请稍后再试");
    }
    assert_eq!(guesses.seen(&alice_at("10.0.0.1")).await.pair.failures, 1);
    assert_eq!(server.logins.hashes.get(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_login_that_is_locked_out_while_waiting_for_a_core_has_no_hash_computed() {
    let server = Server::with_alice().await;
    let logins = &server.requests.logins;
    let mut held = Vec::new();
    while let Some(turn) = logins.passwords().turn("", true).now_or_never() {
        held.extend(turn);
    }
    let waiting = logins.passwords().waiting();
    let before = waiting.get();
    let fails = async {
        while waiting.get() == before {
            tokio::task::yield_now().await;
        }
        for _guess in 0..2 * FREE {
            logins.guesses().failed(&alice_at("10.0.0.1"), &Seen::default());
        }
        held.clear();
    };
    let (told, ()) = tokio::join!(server.verify("alice", "correct horse", "10.0.0.1"), fails);
    assert_eq!(told.text, "登录失败次数过多，请稍后再试");
    assert_eq!(server.logins.hashes.get(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_hash_of_another_pepper_is_no_failure_of_the_user_who_logs_in() {
    let server = Server::with_alice().await;
    let other = "$argon2id$v=19$m=19456,t=2,p=1,keyid=00000000$c2FsdHNhbHQ$aGFzaA".to_owned();
    let alice = UserId(USERS + 1);
    let store = server.requests.logins.store();
    store.change_user(alice, UserChange::Password(other)).await.unwrap();
    let told = server.verify("alice", "correct horse", "10.0.0.1").await;
    assert_eq!(told.result, LoginResult::NoDbServer as u32);
    let seen = server.requests.logins.guesses().seen(&alice_at("10.0.0.1")).await;
    assert_eq!(seen, Seen::default());
    server.stop().await;
}

#[tokio::test]
async fn a_credential_that_no_client_sends_is_not_looked_at() {
    let server = Server::start().await;
    for (len, hashes) in [(129, 0), (128, 1)] {
        let told = server.verify_as("u1", "a".repeat(len), "10.0.0.1").await;
        assert_eq!(told.text, "用户名/密码错误");
        assert_eq!(server.logins.hashes.get(), hashes, "{len}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_hash_below_the_policy_is_made_anew_at_the_next_login_unless_it_was_changed() {
    let server = Server::with_alice().await;
    let credential = credential::of_password("an old password");
    let store = Arc::clone(server.requests.logins.store());
    let alice = || async { store.user_by_name("alice".to_owned()).await.unwrap().unwrap() };
    let weak = weak_hash(&credential);
    store.change_user(alice().await.id, UserChange::Password(weak.clone())).await.unwrap();
    let before = alice().await;

    assert!(server.verify("alice", "an old password", "10.0.0.1").await.user.is_some());
    let began = Instant::now();
    while alice().await.password_hash == weak {
        assert!(began.elapsed() < PATIENCE, "it is made anew");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let after = alice().await;
    assert!(after.password_hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{after:?}");
    assert_eq!(after.stamp, before.stamp, "nobody is told of a change");
    assert!(server.verify("alice", "an old password", "10.0.0.1").await.user.is_some());

    // A password that was changed meanwhile stays.
    let late = UserChange::Rehash { from: weak, to: "late".to_owned() };
    store.change_user(after.id, late).await.unwrap();
    assert_eq!(alice().await.password_hash, after.password_hash);
    drop(store);
    server.stop().await;
}

#[tokio::test]
async fn an_administrator_sees_a_users_sessions_and_which_gateway_does_not_answer() {
    let mut server = Server::with_alice().await;
    let who = far::identity(Role::MsgServer, "silent", GATEWAY_BOOT + 1);
    let (_silent, _link) = Far::dial(server.addr, who, &server.proxy.shutdown).await;
    let (_far, admin) = server.admin().await;
    let of = UserSessions { name: "alice".to_owned() };
    let request = AdminRequest { what: Some(What::UserSessions(of)), by: None };
    let asked = admin.call::<AdminAnswer>(Kind::Admin.number(), &request, PATIENCE);
    let answers = async {
        let (link, frame) = server.gateway.frame().await;
        assert_eq!(frame.kind, Kind::Sessions.number());
        assert_eq!(frame.parse::<SessionsRequest>().unwrap().user, USERS + 1);
        let session =
            SessionInfo { client_type: 0x12, address: "10.0.0.9".to_owned(), since: 1_700_000_000 };
        link.answer(&frame, frame.kind, &Sessions { sessions: vec![session] }).unwrap();
    };
    let (answer, ()) = tokio::join!(asked, answers);
    let answer = answer.unwrap();
    assert!(answer.done, "{answer:?}");
    let [line] = &answer.sessions[..] else { panic!("{answer:?}") };
    assert_eq!((line.client_type, &*line.address, &*line.gateway), (0x12, "10.0.0.9", "gateway"));
    assert_eq!((line.since, &answer.silent[..]), (1_700_000_000, &["silent".to_owned()][..]));
    server.stop().await;
}

fn alice_at(address: &str) -> Who {
    Who { name: "alice".to_owned(), network: network(address) }
}

fn disable(name: &str, enable: bool) -> UserDisable {
    UserDisable { name: name.to_owned(), enable: Some(enable) }
}

impl Server {
    async fn with_alice() -> Self {
        let server = Self::start().await;
        let (name, password) = ("alice".to_owned(), "correct horse".to_owned());
        let alice = UserAdd { name, password, nick: Some("Alice".to_owned()), department: None };
        server.administer(What::UserAdd(alice)).await;
        server
    }

    async fn verify(&self, name: &str, typed: &str, address: &str) -> Verified {
        self.verify_as(name, credential::of_password(typed), address).await
    }

    /// With exactly this credential.
    async fn verify_as(&self, name: &str, credential: String, address: &str) -> Verified {
        let (name, address) = (name.to_owned(), address.to_owned());
        let verify = Verify { name, credential, client_type: 1, address };
        self.link.call(Kind::Verify.number(), &verify, PATIENCE).await.unwrap()
    }
}
