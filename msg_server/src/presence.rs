//! Who came and went, on its way to the clients that care.
//!
//! As long as few are online every PC client hears of everybody, as in the original; beyond, only of
//! those it asked about, the last [`LimitsConfig::watched_max`](crate::LimitsConfig::watched_max) of
//! them. A user's own phones hear of the user's PC clients in any case.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use daemon::Link;
use proto::client::{self, UserStatus};
use proto::cluster::wire::PresenceChanges;
use proto::{Command, encode_message};
use tokio::task::yield_now;
use tracing::Span;

use crate::gateway::Gateway;
use crate::session::Session;

/// While fewer PC users than this are online, every PC client hears of every change.
const TELL_ALL_BELOW: u32 = 1000;

/// Sessions that are told before others get their turn.
const SESSIONS_AT_ONCE: usize = 500;

/// Changes that are joined into one push at most.
const CHANGES_AT_ONCE: usize = 200;

/// A change, encoded.
type News = (u32, Bytes);

impl Gateway {
    /// Takes in what one replica of the hub has said, as far as it speaks for the users.
    pub(crate) fn presence_changed(self: &Arc<Self>, link: &Link, changes: &PresenceChanges) {
        self.hub.set_pc_users_online(Some(changes.pc_users_online));
        let online = changes.online.iter().map(|user| (*user, UserStatus::Online));
        let offline = changes.offline.iter().map(|user| (*user, UserStatus::Offline));
        let mut believed: Vec<(u32, UserStatus)> =
            online.chain(offline).filter(|(user, _)| self.hub.speaks_for(link, *user)).collect();
        if believed.is_empty() {
            return;
        }
        believed.sort_by_key(|(user, _status)| *user);
        let gateway = Arc::clone(self);
        // Beside the link's task: with many sessions this takes a while.
        self.shutdown.spawn(Span::current(), async move { gateway.tell_presence(believed).await });
    }

    async fn tell_presence(&self, changes: Vec<(u32, UserStatus)>) {
        for (user, status) in &changes {
            self.tell_phones(*user, *status);
        }
        let news: Vec<News> = changes.into_iter().map(encode).collect();
        let to_all = self.hub.pc_users_online() < TELL_ALL_BELOW;
        let joined: Vec<(Bytes, u32)> = news.chunks(CHANGES_AT_ONCE).map(join).collect();
        let sessions = self.registry.all();
        for some in sessions.chunks(SESSIONS_AT_ONCE) {
            for session in some.iter().filter(|session| session.is_pc()) {
                if to_all {
                    for (bytes, frames) in &joined {
                        session.outbox.push(bytes, *frames);
                    }
                } else {
                    tell_watcher(session, &news);
                }
            }
            yield_now().await;
        }
    }

    fn tell_phones(&self, user_id: u32, status: UserStatus) {
        let sessions = self.registry.sessions_of(user_id);
        let mut phones = sessions.iter().filter(|session| !session.is_pc()).peekable();
        if phones.peek().is_none() {
            return;
        }
        let notify = client::PcStatusNotify { user_id, status: status.into() };
        let notify = encode_message(Command::PcStatusNotify, 0, &notify);
        phones.for_each(|phone| {
            phone.push(&notify);
        });
    }
}

fn tell_watcher(session: &Session, news: &[News]) {
    for (_user, frame) in session.watched_of(news) {
        session.push(frame);
    }
}

fn encode((user_id, status): (u32, UserStatus)) -> News {
    let user = client::UserStatusEntry { user_id, status: status.into() };
    let notify = client::UserStatusNotify { user };
    (user_id, encode_message(Command::UserStatusNotify, 0, &notify))
}

fn join(news: &[News]) -> (Bytes, u32) {
    let mut joined = BytesMut::new();
    for (_user, frame) in news {
        joined.extend_from_slice(frame);
    }
    (joined.freeze(), u32::try_from(news.len()).unwrap_or(u32::MAX))
}
