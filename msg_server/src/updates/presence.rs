//! Who came and went, on its way to the clients that care.
//!
//! As long as few are online every PC client hears of everybody, as in the original; beyond, only of
//! those it asked about, the last [`LimitsConfig::watched_max`](crate::LimitsConfig::watched_max) of
//! them. A user's own phones hear of the user's PC clients in any case.
//!
//! What a client was told last of a user is true, or news of it are on their way: news are told in the
//! order in which they came, and those that overtook the answer to a question are told after it.
//!
//! # What bounds it
//!
//! News that wait, and those kept while clients wait for answers, are one entry of 16 bytes for each
//! user, whose last news replace earlier ones.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use daemon::Link;
use parking_lot::Mutex;
use proto::client::{self, UserStatus};
use proto::cluster::wire::PresenceChanges;
use proto::ids::UserId;
use proto::{Command, encode_message};
use tokio::task::yield_now;
use tracing::Span;

use crate::parts::Parts;
use crate::sessions::session::Session;

/// While fewer PC users than this are online, every PC client hears of every change.
const TELL_ALL_BELOW: u32 = 1000;

/// Sessions that are told before others get their turn.
const SESSIONS_AT_ONCE: usize = 500;

/// Changes that are joined into one push at most.
const CHANGES_AT_ONCE: usize = 200;

/// A change, encoded.
#[derive(Debug, PartialEq)]
struct News {
    user: UserId,
    frame: Bytes,
}

/// What the hub has said of users.
#[derive(Debug, Default)]
pub(crate) struct Presence(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    /// Not told yet.
    untold: BTreeMap<UserId, UserStatus>,
    /// A task tells, and will tell what is added.
    is_being_told: bool,
    /// Questions of clients that are not answered yet.
    questions: usize,
    /// What was said since the first of them came.
    meanwhile: HashMap<UserId, UserStatus>,
}

/// A question of a client. Over when dropped.
#[derive(Debug)]
pub(crate) struct Question<'a>(&'a Presence);

impl Presence {
    /// Takes in what one replica of the hub has said, as far as it speaks for the users, and tells it.
    pub(crate) fn changed(
        self: &Arc<Self>,
        parts: &Arc<Parts>,
        link: &Link,
        changes: &PresenceChanges,
    ) {
        parts.hub.set_pc_users_online(Some(changes.pc_users_online));
        let online = changes.online.iter().map(|user| (UserId(*user), UserStatus::Online));
        let offline = changes.offline.iter().map(|user| (UserId(*user), UserStatus::Offline));
        let believed: Vec<(UserId, UserStatus)> =
            online.chain(offline).filter(|(user, _)| parts.hub.speaks_for(link, *user)).collect();
        if self.said(&believed) {
            let (presence, to) = (Arc::clone(self), Arc::clone(parts));
            // Beside the link's task: with many sessions this takes a while.
            parts.shutdown.spawn(Span::current(), async move {
                while let Some(changes) = presence.take_untold() {
                    tell(&to, changes).await;
                }
            });
        }
    }

    /// Takes in what was said. Whether the caller is to tell it, by [`Self::take_untold`].
    fn said(&self, news: &[(UserId, UserStatus)]) -> bool {
        let mut said = self.0.lock();
        said.untold.extend(news.iter().copied());
        if said.questions > 0 {
            said.meanwhile.extend(news.iter().copied());
        }
        !news.is_empty() && !std::mem::replace(&mut said.is_being_told, true)
    }

    /// What is to be told next, sorted by user. `None` ends the task that tells.
    fn take_untold(&self) -> Option<Vec<(UserId, UserStatus)>> {
        let mut said = self.0.lock();
        let untold = std::mem::take(&mut said.untold);
        said.is_being_told = !untold.is_empty();
        said.is_being_told.then(|| untold.into_iter().collect())
    }

    /// A client asks about users.
    pub(crate) fn asks(&self) -> Question<'_> {
        self.0.lock().questions += 1;
        Question(self)
    }
}

impl Question<'_> {
    /// News of these users that came while the question was asked: they may be newer than its answer.
    pub(crate) fn news_of(&self, users: &[client::UserStatusEntry]) -> Vec<Bytes> {
        let said = self.0.0.lock();
        let news = users.iter().filter_map(|told| {
            let status = *said.meanwhile.get(&UserId(told.user_id))?;
            (status != told.status()).then(|| encode(UserId(told.user_id), status).frame)
        });
        news.collect()
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let mut said = self.0.0.lock();
        said.questions -= 1;
        if said.questions == 0 {
            said.meanwhile = HashMap::new();
        }
    }
}

async fn tell(parts: &Parts, changes: Vec<(UserId, UserStatus)>) {
    for (user, status) in &changes {
        tell_phones(parts, *user, *status);
    }
    let news: Vec<News> = changes.into_iter().map(|(user, status)| encode(user, status)).collect();
    let to_all = parts.hub.pc_users_online() < TELL_ALL_BELOW;
    let joined: Vec<(Bytes, u32)> = news.chunks(CHANGES_AT_ONCE).map(join).collect();
    let sessions = parts.registry.all();
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

fn tell_phones(parts: &Parts, user: UserId, status: UserStatus) {
    let sessions = parts.registry.sessions_of(user);
    let mut phones = sessions.iter().filter(|session| !session.is_pc()).peekable();
    if phones.peek().is_none() {
        return;
    }
    let notify = client::PcStatusNotify { user_id: user.0, status: status.into() };
    let notify = encode_message(Command::PcStatusNotify, 0, &notify);
    phones.for_each(|phone| {
        phone.push(&notify);
    });
}

fn tell_watcher(session: &Session, news: &[News]) {
    for news in session.watched_of(news, |news| news.user) {
        session.push(&news.frame);
    }
}

fn encode(user: UserId, status: UserStatus) -> News {
    let entry = client::UserStatusEntry { user_id: user.0, status: status.into() };
    let notify = client::UserStatusNotify { user: entry };
    News { user, frame: encode_message(Command::UserStatusNotify, 0, &notify) }
}

fn join(news: &[News]) -> (Bytes, u32) {
    let mut joined = BytesMut::new();
    for news in news {
        joined.extend_from_slice(&news.frame);
    }
    (joined.freeze(), u32::try_from(news.len()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: UserStatus = UserStatus::Online;
    const OFF: UserStatus = UserStatus::Offline;

    #[test]
    fn one_tells_at_a_time_and_of_each_user_the_last() {
        let presence = Presence::default();
        assert!(!presence.said(&[]), "nothing is to be told");
        assert!(presence.said(&[(UserId(7), OFF), (UserId(5), ON)]));
        assert!(!presence.said(&[(UserId(7), ON)]), "it is being told");
        assert_eq!(presence.take_untold(), Some(vec![(UserId(5), ON), (UserId(7), ON)]));
        assert!(!presence.said(&[(UserId(7), OFF)]), "it will be told");
        assert_eq!(presence.take_untold(), Some(vec![(UserId(7), OFF)]));
        assert_eq!(presence.take_untold(), None);
        assert!(presence.said(&[(UserId(7), ON)]), "the task has ended");
    }

    #[test]
    fn news_are_kept_as_long_as_anybody_asks() {
        let presence = Presence::default();
        let told = |user_id, status: UserStatus| client::UserStatusEntry {
            user_id,
            status: status.into(),
        };
        let answer = [told(5, OFF), told(6, ON), told(7, OFF)];
        presence.said(&[(UserId(7), ON)]);
        let first = presence.asks();
        assert!(first.news_of(&answer).is_empty(), "it came before");
        presence.said(&[(UserId(5), ON), (UserId(6), ON), (UserId(8), ON)]);
        let second = presence.asks();
        drop(first);
        assert_eq!(second.news_of(&answer), [encode(UserId(5), ON).frame], "that alone is news");
        drop(second);
        assert!(presence.asks().news_of(&answer).is_empty());
    }
}
