//! Logins by a token or a ticket, and what is asked about these over links.

use bytes::Bytes;
use logins::tokens::TICKET_LIFE;
use partition::test::gated::Gate;
use proto::client::{LoginResult, UserInfo};
use proto::cluster::wire::admin_request::What as Wanted;
use proto::cluster::wire::token_answer::Outcome;
use proto::cluster::wire::token_question::What;
use proto::cluster::wire::{Kick, TicketGive, TokenGive, UserKick, UserTicket};
use store::UserStore as _;

use super::*;

/// The user whose tokens these are.
const USER: UserId = UserId(2);
const ANDROID: u32 = 0x12;
const WINDOWS: u32 = 0x01;

#[tokio::test]
async fn a_token_and_a_ticket_log_in_as_whom_and_what_they_are_for() {
    let server = Server::start().await;
    let token = server.begin().await;
    let by_token = server.resume(Some(&token), None).await;
    assert_eq!((by_token.result, by_token.user), (LoginResult::Accepted as u32, Some(USER.0)));
    assert_eq!((by_token.client_type, by_token.stamp), (Some(ANDROID), Some(server.stamp().await)));
    let info = UserInfo::decode(by_token.user_info.unwrap()).unwrap();
    assert_eq!(info.user_id, USER.0);

    let give = TicketGive { token: token.clone(), client_type: WINDOWS };
    let given = server.of_tokens(What::Ticket(give)).await;
    assert_eq!((given.outcome(), given.lifetime_s), (Outcome::Done, Some(life_s(TICKET_LIFE))));
    let ticket = given.secret.unwrap();
    for (token, ticket) in [(Some(&token), Some(&ticket)), (None, None)] {
        let refused = server.resume(token, ticket).await;
        assert_eq!(refused.result, LoginResult::BadCredentials as u32, "one of the two is shown");
    }
    let by_ticket = server.resume(None, Some(&ticket)).await;
    assert_eq!((by_ticket.user, by_ticket.client_type), (Some(USER.0), Some(WINDOWS)));
    let again = server.resume(None, Some(&ticket)).await;
    assert_eq!((again.result, again.user), (LoginResult::BadCredentials as u32, None));
    server.stop().await;
}

#[tokio::test]
async fn what_becomes_of_a_question_about_tokens_is_said() {
    let server = Server::start().await;
    let token = server.begin().await;
    let nonsense = server.of_tokens(What::Kept(Bytes::from_static(b"nonsense"))).await;
    assert_eq!((nonsense.outcome(), nonsense.secret), (Outcome::Refused, None));
    server.proxy.store.reads.send_replace(Gate::Away);
    let away = server.of_tokens(What::Kept(token.clone())).await;
    assert_eq!((away.outcome(), away.secret), (Outcome::NotNow, None));
    let resumed = server.resume(Some(&token), None).await;
    assert_eq!(resumed.result, LoginResult::NoDbServer as u32, "it may be good");
    server.proxy.store.reads.send_replace(Gate::Open);
    let kept = server.of_tokens(What::Kept(token.clone())).await;
    assert_eq!((kept.outcome(), kept.secret), (Outcome::Done, None));
    server.stop().await;
}

#[tokio::test]
async fn of_a_token_that_was_copied_the_sessions_on_devices_of_its_class_end() {
    let mut server = Server::start().await;
    let old = server.begin().await;
    let give = TokenGive { client_type: ANDROID, stamp: 0, shown: Some(old.clone()) };
    let newer = server.of_tokens(What::Give(give)).await.secret.unwrap();
    server.of_tokens(What::Kept(newer)).await;
    assert!(server.gateway.try_frame().is_none(), "nobody has a copy yet");
    let copied = server.resume(Some(&old), None).await;
    assert_eq!((copied.result, copied.user), (LoginResult::BadCredentials as u32, None));
    let (_link, frame) = server.gateway.frame().await;
    assert_eq!(frame.kind, Kind::Kick.number());
    let kick: Kick = frame.parse().unwrap();
    assert_eq!((kick.user, kick.device_class), (USER.0, Some(device_class(ANDROID))));
    assert_eq!((kick.reason, kick.verified_before), (Some(1), None), "all there are, once");
    server.stop().await;
}

#[tokio::test]
async fn an_administrators_kick_ends_tokens_and_a_ticket_from_one_logs_in() {
    let server = Server::start().await;
    let token = server.begin().await;
    let name = format!("u{}", USER.0);
    server.administer(Wanted::UserKick(UserKick { name: name.clone() })).await;
    let kicked = server.resume(Some(&token), None).await;
    assert_eq!(kicked.result, LoginResult::BadCredentials as u32, "it would come back with it");

    let ticket = |client_type| Wanted::UserTicket(UserTicket { name: name.clone(), client_type });
    let made = server.administer(ticket(ANDROID)).await;
    assert_eq!(made.lifetime_s, Some(life_s(TICKET_LIFE)));
    let resumed = server.resume(None, made.ticket.as_ref()).await;
    assert_eq!((resumed.user, resumed.client_type), (Some(USER.0), Some(ANDROID)));
    assert!(server.refused(ticket(77)).await.contains("kind of client"));
    server.stop().await;
}

#[tokio::test]
async fn tokens_take_the_room_of_logins() {
    let server = Server::start().await;
    let token = server.begin().await;
    let all = u32::try_from(BOUNDS.logins).unwrap();
    for floods_logins in [true, false] {
        let Slots { requests, logins } = &server.requests.slots;
        let flooded = if floods_logins { logins } else { requests };
        let taken = flooded.acquire_many(all).await.unwrap();
        let resumed = server.resume(Some(&token), None).await;
        assert_eq!(resumed == login::unavailable(), floods_logins, "{resumed:?}");
        let kept = server.of_tokens(What::Kept(token.clone())).await;
        assert_eq!(kept.outcome() == Outcome::NotNow, floods_logins, "{kept:?}");
        drop(taken);
    }
    server.stop().await;
}

#[tokio::test]
async fn while_the_store_is_away_a_login_says_what_is_known_and_that_it_is_older_than_any_change() {
    let server = Server::start().await;
    let keys = Keys::read(&format!("1 {}", "ab".repeat(32))).unwrap();
    let store: Arc<dyn store::Store> = Arc::<_>::clone(&server.proxy.store) as _;
    let tokens = Tokens::new(Arc::clone(&store), keys, TOKENS, Clock::default());
    let of = &server.requests.logins;
    let checks = Checks { passwords: of.passwords().clone(), guesses: of.guesses().clone() };
    let cache = Arc::new(MemoryCache::default());
    let metrics = LoginMetrics::new(&Metrics::new("db_proxy"));
    let logins = Logins::new(store, cache, checks, tokens, metrics);
    logins.tokens().read_revocations().await.unwrap();
    let give = TokenGive { client_type: ANDROID, stamp: server.stamp().await, shown: None };
    let question = TokenQuestion { user: USER.0, what: Some(What::Give(give)) };
    let Told::Secret(token, _life) = logins.tokens().answer(question).await else {
        panic!("a token is given");
    };

    server.proxy.store.reads.send_replace(Gate::Away);
    let shown = || Resume { token: Some(token.clone().into()), ticket: None };
    let (alone, copied) = logins.resume(shown()).await;
    assert_eq!((alone.result, alone.user, copied), (0, Some(USER.0), None));
    assert_eq!((alone.client_type, alone.stamp), (Some(ANDROID), Some(0)));
    assert_eq!(alone.user_info, None, "nobody has asked for it yet");
    // Another user has.
    logins.profiles().of(UserId(3), &[USER]).await.unwrap();
    let (alone, _copied) = logins.resume(shown()).await;
    assert_eq!(UserInfo::decode(alone.user_info.unwrap()).unwrap().user_id, USER.0);
    server.proxy.store.reads.send_replace(Gate::Open);
    drop(logins);
    server.stop().await;
}

fn life_s(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap()
}

impl Server {
    async fn stamp(&self) -> u32 {
        self.proxy.store.users(vec![USER]).await.unwrap()[0].stamp
    }

    /// The first token of a login with a password.
    async fn begin(&self) -> Bytes {
        let give = TokenGive { client_type: ANDROID, stamp: self.stamp().await, shown: None };
        let given = self.of_tokens(What::Give(give)).await;
        assert_eq!((given.outcome(), given.lifetime_s), (Outcome::Done, Some(life_s(TOKENS))));
        given.secret.unwrap()
    }

    async fn of_tokens(&self, what: What) -> TokenAnswer {
        let question = TokenQuestion { user: USER.0, what: Some(what) };
        self.link.call(Kind::Token.number(), &question, PATIENCE).await.unwrap()
    }

    async fn resume(&self, token: Option<&Bytes>, ticket: Option<&Bytes>) -> Verified {
        let shown = Resume { token: token.cloned(), ticket: ticket.cloned() };
        self.link.call(Kind::Resume.number(), &shown, PATIENCE).await.unwrap()
    }
}
