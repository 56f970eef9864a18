//! What a cache changes for clients: nothing, but where it comes from.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cache::{Cache, Counts, Profile, Throttle, WINDOW};
use fold::conversation::RECENT_KEPT;
use futures_util::future::{BoxFuture, FutureExt as _};
use partition::test::{message, single};
use proto::client::{
    AllUsersReply, AllUsersRequest, ChangeSignatureReply, ChangeSignatureRequest, MessageListReply,
    MessageListRequest, RecentSessionsReply, RecentSessionsRequest, UsersInfoReply,
    UsersInfoRequest,
};
use proto::ids::MsgId;
use record_log::LogId;
use store::{MessageRow, UserChange, UserStore};

use super::*;

/// A cache that counts what it gives, and does not give what it is told to hide.
#[derive(Debug, Default)]
struct Spy {
    cache: MemoryCache,
    given: AtomicUsize,
    hides_some: AtomicBool,
    takes_no_profiles: AtomicBool,
}

impl Spy {
    /// How much it gave since the last time.
    fn given(&self) -> usize {
        self.given.swap(0, Ordering::Relaxed)
    }
}

impl Cache for Spy {
    fn failures<'a>(&'a self, name: &'a str, throttles: &'a [Throttle]) -> BoxFuture<'a, Counts> {
        self.cache.failures(name, throttles)
    }

    fn forget_failures(&self, throttle: &Throttle) {
        self.cache.forget_failures(throttle);
    }

    fn lift(&self, name: &str) {
        self.cache.lift(name);
    }

    fn count_failure(&self, throttles: &[Throttle]) {
        self.cache.count_failure(throttles);
    }

    fn profiles<'a>(&'a self, users: &'a [UserId]) -> BoxFuture<'a, Vec<Profile>> {
        async {
            let profiles = self.cache.profiles(users).await;
            self.given.fetch_add(profiles.len(), Ordering::Relaxed);
            profiles
        }
        .boxed()
    }

    fn keep_profiles(&self, profiles: &[Profile]) {
        if !self.takes_no_profiles.load(Ordering::Relaxed) {
            self.cache.keep_profiles(profiles);
        }
    }

    fn messages<'a>(
        &'a self,
        log: LogId,
        places: &'a [(ConversationId, MsgId)],
    ) -> BoxFuture<'a, Vec<MessageRow>> {
        async move {
            let mut messages = self.cache.messages(log, places).await;
            if self.hides_some.load(Ordering::Relaxed) {
                messages.retain(|message| message.msg_id.0 % 7 < 4);
            }
            self.given.fetch_add(messages.len(), Ordering::Relaxed);
            messages
        }
        .boxed()
    }

    fn keep_messages(&self, log: LogId, messages: &[MessageRow]) {
        self.cache.keep_messages(log, messages);
    }
}

impl Server {
    async fn with_cache() -> (Self, Arc<Spy>) {
        let spy = Arc::new(Spy::default());
        let cache = Some(Arc::<Spy>::clone(&spy) as _);
        let setup = Setup { segment_bytes: 32 << 20, cache, ..Setup::new() };
        (Self::with(setup.start().await).await, spy)
    }

    async fn talks(&self, count: u32) {
        for number in 1..=count {
            assert_eq!(self.proxy.send(message(single(1, 2), 1 + number % 2)).await, number);
        }
        self.proxy.stored().await;
    }

    /// The messages 1's client gets up to `begin`.
    async fn history(&self, begin: u32) -> Vec<client::MessageInfo> {
        let request = MessageListRequest {
            session_type: SINGLE,
            session_id: 2,
            msg_id_begin: begin,
            msg_count: 1_000,
            ..Default::default()
        };
        let commands = (Command::MessageListRequest, Command::MessageListReply);
        self.ask::<MessageListReply>(1, commands, &request).await.messages
    }

    /// The signature of 3, as `asker` gets it.
    async fn signature(&self, asker: u32) -> String {
        let request = UsersInfoRequest { user_ids: vec![3], ..Default::default() };
        let commands = (Command::UsersInfoRequest, Command::UsersInfoReply);
        let reply: UsersInfoReply = self.ask(asker, commands, &request).await;
        reply.users.into_iter().next().unwrap().signature.unwrap()
    }

    /// Changes 3's signature as another process does whose cache is away.
    async fn sign_elsewhere(&self, text: &str) {
        let change = UserChange::Sign(text.to_owned());
        self.proxy.store.change_user(UserId(3), change).await.unwrap();
    }
}

#[tokio::test]
async fn recent_history_that_was_read_once_comes_from_the_cache() {
    let (server, spy) = Server::with_cache().await;
    server.talks(100).await;
    let first = server.history(0).await;
    assert_eq!(first.len(), 100);
    spy.given();
    assert_eq!(server.history(0).await, first);
    assert_eq!(spy.given(), 100 - RECENT_KEPT);
    // Whatever it has lost, nothing is missing.
    spy.hides_some.store(true, Ordering::Relaxed);
    for begin in [0, 99, 68, 50, 7, 1] {
        let upto = if begin == 0 { 100 } else { begin as usize };
        assert_eq!(server.history(begin).await, first[100 - upto..], "from {begin}");
    }
    assert!(spy.given() > 0);
    server.stop().await;
}

#[tokio::test]
async fn only_the_newest_messages_are_kept() {
    let (server, spy) = Server::with_cache().await;
    server.talks(300).await;
    let first = server.history(0).await;
    assert_eq!(first.len(), 300);
    spy.given();
    assert_eq!(server.history(0).await, first);
    assert_eq!(spy.given(), WINDOW as usize - RECENT_KEPT);
    server.stop().await;
}

#[tokio::test]
async fn the_heads_of_a_list_come_from_the_cache_once_they_are_stored() {
    let (server, spy) = Server::with_cache().await;
    server.talks(5).await;
    let list = |server: Server| async {
        let request = RecentSessionsRequest::default();
        let commands = (Command::RecentSessionsRequest, Command::RecentSessionsReply);
        (server.ask::<RecentSessionsReply>(1, commands, &request).await, server)
    };
    let (before, server) = list(server).await;
    assert_eq!(before.sessions.len(), 1);
    assert_eq!(spy.given(), 0, "the conversation is in memory");
    let Server { proxy, link, gateway, requests, .. } = server;
    drop((link, gateway));
    let setup = proxy.stop_with(requests).await;
    let (after, server) = list(Server::with(setup.start().await).await).await;
    assert_eq!(after, before);
    assert_eq!(spy.given(), 1, "nobody has read it before");
    server.stop().await;
}

#[tokio::test]
async fn profiles_come_from_the_cache_and_ones_own_does_not() {
    let (server, spy) = Server::with_cache().await;
    server.sign_elsewhere("first").await;
    assert_eq!(server.signature(1).await, "first");
    assert_eq!(spy.given(), 0);
    server.sign_elsewhere("second").await;
    assert_eq!(server.signature(2).await, "first", "for a minute at most");
    assert_eq!(spy.given(), 1);
    assert_eq!(server.signature(3).await, "second", "he has written it");
    assert_eq!(spy.given(), 0);
    assert_eq!(server.signature(2).await, "second", "what was read is kept");
    server.stop().await;
}

#[tokio::test]
async fn a_user_who_got_a_list_gets_no_older_profile_afterwards() {
    let (server, spy) = Server::with_cache().await;
    server.sign_elsewhere("first").await;
    assert_eq!(server.signature(1).await, "first");
    spy.takes_no_profiles.store(true, Ordering::Relaxed);
    server.sign_elsewhere("second").await;
    let request = AllUsersRequest { latest_update_time: 1, ..Default::default() };
    let commands = (Command::AllUsersRequest, Command::AllUsersReply);
    let list: AllUsersReply = server.ask(1, commands, &request).await;
    let listed = list.users.iter().find(|user| user.user_id == 3).unwrap();
    assert_eq!(listed.signature.as_deref(), Some("second"));
    for _ in 0..2 {
        assert_eq!(server.signature(1).await, "second");
    }
    assert_eq!(spy.given(), 2, "it still has the older one");
    server.stop().await;
}

#[tokio::test]
async fn a_change_is_seen_by_others_at_once() {
    let (server, spy) = Server::with_cache().await;
    assert_eq!(server.signature(1).await, "");
    let request = ChangeSignatureRequest { signature: "new".to_owned(), ..Default::default() };
    let commands = (Command::ChangeSignatureRequest, Command::ChangeSignatureReply);
    let reply: ChangeSignatureReply = server.ask(3, commands, &request).await;
    assert_eq!(reply.result_code, 0);
    assert_eq!(server.signature(1).await, "new");
    assert_eq!(spy.given(), 1);
    // A slow read that began before the change does not bring the older profile back.
    let rows = server.proxy.store.users(vec![UserId(3)]).await.unwrap();
    let row = rows.into_iter().next().unwrap();
    let older = Profile { stamp: row.stamp - 1, info: row.into_info() };
    let info = client::UserInfo { signature: Some("old".to_owned()), ..older.info };
    spy.keep_profiles(&[Profile { info, ..older }]);
    assert_eq!(server.signature(1).await, "new");
    server.stop().await;
}
