//! Where each session came from, and since when: what an administrator is told.
//!
//! Beside the sessions, which are kept small: nothing else needs it.
//!
//! # What bounds it
//!
//! One entry for each session.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use proto::cluster::wire::{SessionInfo, Sessions};
use proto::ids::UserId;

use crate::sessions::registry::Registry;
use crate::sessions::session::Session;

/// Sessions told of at once: a user has one of each device class, and those that are about to end.
const TOLD_MAX: usize = 64;

/// The logins of the sessions there are.
#[derive(Debug, Default)]
pub(crate) struct Logbook {
    logins: Mutex<HashMap<u64, Login>>,
}

#[derive(Debug, Clone, Copy)]
struct Login {
    address: IpAddr,
    since_s: u32,
}

impl Logbook {
    /// A session has begun.
    pub(crate) fn enter(&self, session: &Session, address: IpAddr, now_s: u32) {
        self.logins.lock().insert(session.id(), Login { address, since_s: now_s });
    }

    /// It has ended.
    pub(crate) fn leave(&self, session: &Session) {
        self.logins.lock().remove(&session.id());
    }

    /// The sessions of a user.
    pub(crate) fn of(&self, user: UserId, registry: &Registry) -> Sessions {
        let sessions = registry.sessions_of(user);
        let logins = self.logins.lock();
        let told = |session: &Arc<Session>| {
            let login = logins.get(&session.id())?;
            Some(SessionInfo {
                client_type: session.login.client_type,
                address: login.address.to_string(),
                since: login.since_s,
            })
        };
        Sessions { sessions: sessions.iter().filter_map(told).take(TOLD_MAX).collect() }
    }
}
