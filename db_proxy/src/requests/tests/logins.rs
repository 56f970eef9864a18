//! Logins.

use std::time::Duration;

use futures_util::future::join_all;
use proto::client::{LoginResult, UserInfo};
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{UserAdd, UserDisable, UserPassword};
use proto::credential;

use super::*;
use crate::login::FAILURES_MAX;
use crate::testing::gated::Gate;

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
async fn a_name_has_to_wait_after_too_many_failures_and_another_has_not() {
    let server = Server::with_alice().await;
    for _ in 0..=FAILURES_MAX {
        assert!(server.verify("alice", "guess", "10.0.0.1").await.user.is_none());
    }
    let throttled = server.verify("alice", "correct horse", "10.0.0.2").await;
    assert_eq!(throttled.result, LoginResult::BadCredentials as u32);
    assert!(throttled.user.is_none(), "the right password too");
    let (name, password) = ("bob".to_owned(), "correct horse".to_owned());
    let bob = UserAdd { name, password, nick: None, department: None };
    server.administer(What::UserAdd(bob)).await;
    assert!(server.verify("bob", "correct horse", "10.0.0.1").await.user.is_some());
    server.stop().await;
}

#[tokio::test]
async fn an_address_has_to_wait_after_too_many_failures_of_any_names() {
    let server = Server::with_alice().await;
    for number in 0..=10 * FAILURES_MAX {
        let name = format!("name{number}");
        assert!(server.verify(&name, "guess", "10.0.0.1").await.user.is_none());
    }
    assert!(server.verify("alice", "correct horse", "10.0.0.1").await.user.is_none());
    assert!(server.verify("alice", "correct horse", "10.0.0.2").await.user.is_some());
    server.stop().await;
}

#[tokio::test]
async fn without_a_store_a_login_is_not_a_wrong_one() {
    let server = Server::with_alice().await;
    server.proxy.store.reads.send_replace(Gate::Away);
    for _ in 0..=FAILURES_MAX {
        let verified = server.verify("alice", "correct horse", "10.0.0.1").await;
        assert_eq!(verified.result, LoginResult::NoDbServer as u32);
    }
    server.proxy.store.reads.send_replace(Gate::Open);
    assert!(server.verify("alice", "correct horse", "10.0.0.1").await.user.is_some());
    server.stop().await;
}

#[tokio::test]
async fn whoever_is_one_too_many_may_be_right_and_come_back() {
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
        let verify = Verify {
            name: name.to_owned(),
            credential: credential::of_password(typed),
            client_type: 1,
            address: address.to_owned(),
        };
        self.link.call(Kind::Verify.number(), &verify, PATIENCE).await.unwrap()
    }
}
