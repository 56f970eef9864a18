//! The list of conversations that is asked for after a login, put together from its two halves.

use std::collections::HashMap;

use proto::client::{RecentSession, UnreadSession};

use crate::message::Session;
use crate::timeline::Listed;

/// The server lists at most this many recent conversations; with fewer, it has listed all.
const LIST_MAX: usize = 100;

/// The two halves of the list of conversations.
#[derive(Debug, Default)]
pub(super) struct Sync {
    pub(super) recent: Option<Vec<RecentSession>>,
    pub(super) unread: Option<Vec<UnreadSession>>,
    /// A half failed, and a timer will ask for both again.
    pub(super) has_failed: bool,
}

impl Sync {
    /// Takes the list out once both halves are there, and says whether it names all conversations.
    pub(super) fn take(&mut self) -> Option<(Vec<Listed>, bool)> {
        if self.recent.is_none() || self.unread.is_none() {
            return None;
        }
        let Self { recent, unread, .. } = std::mem::take(self);
        let (recent, unread) = (recent.unwrap_or_default(), unread.unwrap_or_default());
        Some((merge(&recent, &unread), recent.len() < LIST_MAX))
    }
}

fn merge(recent: &[RecentSession], unread: &[UnreadSession]) -> Vec<Listed> {
    let mut list: HashMap<Session, Listed> = HashMap::new();
    let mut add = |session_type, id, latest: u32, count: u32| {
        if let Some(session) = Session::from_wire(session_type, id) {
            let listed = list.entry(session).or_insert(Listed { session, latest: 0, unread: 0 });
            listed.latest = listed.latest.max(latest);
            listed.unread = listed.unread.max(count);
        }
    };
    for session in recent {
        add(session.session_type, session.session_id, session.latest_msg_id, 0);
    }
    for session in unread {
        let (id, count) = (session.session_id, session.unread_count);
        add(session.session_type, id, session.latest_msg_id, count);
    }
    list.into_values().collect()
}
