//! The links to the route_servers: what we tell them, and whom of them we ask.
//!
//! # Invariants
//!
//! - The hub hears of changes of our interest in the order in which the registry has seen them, and
//!   a replica that comes up gets a whole table that no change is missing from: both happen under
//!   one lock, [`Hub::in_order`].
//! - A replica that does not answer a registration in time has its link reset: it is unknown to us
//!   what it knows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use daemon::{Link, LinkError, LinkFrame, LinkTable};
use parking_lot::{Mutex, MutexGuard};
use proto::cluster::wire::{
    Forward, InterestChange, InterestTable, Kick, Registered, Status, StatusRequest, UserInterest,
};
use proto::cluster::{Kind, rendezvous_weight};
use proto::ids::{GroupId, UserId};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::sessions::registry::Registry;

/// How long a login waits for the replicas to register it.
const REGISTER_LIMIT: Duration = Duration::from_millis(500);

/// How long one replica may take to say who is online.
const STATUS_LIMIT: Duration = Duration::from_secs(1);

/// Entries of one part of a table, so that a part stays below 64 KiB.
const PART_USERS: usize = 1_200;
const PART_GROUPS: usize = 10_000;

/// The links to the route_servers.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    links: LinkTable,
    order: Mutex<()>,
    waiting: Mutex<HashMap<u64, Registration>>,
    last_request: AtomicU64,
    pc_users_online: AtomicU32,
}

/// A change that one replica is to confirm.
#[derive(Debug)]
struct Registration {
    link: u64,
    answer: oneshot::Sender<Registered>,
}

/// The right to change our interest.
#[derive(Debug)]
pub(crate) struct InOrder<'a> {
    hub: &'a Hub,
    _held: MutexGuard<'a, ()>,
}

/// A change that the replicas were told of and have not confirmed yet.
#[derive(Debug)]
pub(crate) struct Announced {
    answers: Vec<(Link, u64, oneshot::Receiver<Registered>)>,
}

/// What the replicas said together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Settled {
    /// What each said that answered in time.
    pub(crate) answers: Vec<Registered>,
}

impl Settled {
    /// Whether a PC client of the user is logged in anywhere.
    pub(crate) fn pc_online(&self) -> bool {
        self.answers.iter().any(Registered::pc_online)
    }
}

impl Hub {
    /// For changes of our interest: the registry's, and then the announcement.
    pub(crate) fn in_order(&self) -> InOrder<'_> {
        InOrder { hub: self, _held: self.order.lock() }
    }

    /// A replica is linked: it is told everything.
    pub(crate) fn up(&self, link: &Link, registry: &Registry, now_us: u64) {
        let _order = self.in_order();
        // After the table, so that no change is sent before it; the lock keeps changes waiting.
        send_table(link, registry, now_us);
        self.links.add(link);
    }

    /// A replica noticed that it knows something else.
    pub(crate) fn send_again(&self, link: &Link, registry: &Registry, now_us: u64) {
        let _order = self.in_order();
        send_table(link, registry, now_us);
    }

    /// A replica is gone: its answers are not waited for.
    pub(crate) fn down(&self, link: &Link) {
        self.links.remove(link);
        self.waiting.lock().retain(|_request, waiting| waiting.link != link.id());
    }

    /// A replica has confirmed a change.
    pub(crate) fn registered(&self, link: &Link, frame: &LinkFrame) {
        let waiting = self.waiting.lock().remove(&frame.request);
        let Some(waiting) = waiting else { return };
        match frame.parse::<Registered>() {
            Ok(registered) => {
                self.set_pc_users_online(registered.pc_users_online);
                if waiting.answer.send(registered).is_err() {
                    // The login was given up.
                }
            }
            Err(_malformed) => link.reset("it confirms in a form that we cannot read"),
        }
    }

    /// Tells every replica how our table should look.
    pub(crate) fn send_checksums(&self, registry: &Registry) {
        let _order = self.in_order();
        let checksum = registry.checksum();
        for link in self.links.all().iter() {
            sent(link, link.send(Kind::InterestChecksum.number(), 0, &checksum));
        }
    }

    /// Waits until every replica has confirmed, or was given up.
    pub(crate) async fn settle(&self, announced: Announced) -> Settled {
        let deadline = Instant::now() + REGISTER_LIMIT;
        let mut settled = Settled::default();
        for (link, request, answer) in announced.answers {
            match timeout_at(deadline, answer).await {
                Ok(Ok(registered)) => settled.answers.push(registered),
                // The link is down; when it comes up again the replica gets the whole table.
                Ok(Err(_gone)) => {}
                Err(_elapsed) => {
                    self.waiting.lock().remove(&request);
                    link.reset("it did not confirm a registration in time");
                }
            }
        }
        settled
    }

    /// The linked replicas, the one that serves `key` first.
    pub(crate) fn ranked(&self, key: u64) -> Vec<Link> {
        let mut links: Vec<Link> = self.links.all().to_vec();
        links.sort_by_cached_key(|link| u64::MAX - rendezvous_weight(key, &link.peer().name));
        links
    }

    /// Whether `link` is the one to believe about a user's presence.
    pub(crate) fn speaks_for(&self, link: &Link, user: UserId) -> bool {
        let links = self.links.all();
        let weight = |link: &Link| rendezvous_weight(u64::from(user.0), &link.peer().name);
        links.iter().max_by_key(|link| weight(link)).is_some_and(|first| {
            // Two links to one peer, an old and a new one, say the same.
            first.peer().name == link.peer().name
        })
    }

    /// Passes something on to the other gateways. Whether a replica took it.
    pub(crate) fn forward(&self, forward: &Forward, key: u64) -> bool {
        self.send_to_one(Kind::Forward, forward, key)
    }

    /// Asks the other gateways to end sessions. Whether a replica took it.
    pub(crate) fn kick(&self, kick: &Kick) -> bool {
        self.send_to_one(Kind::Kick, kick, u64::from(kick.user))
    }

    fn send_to_one(&self, kind: Kind, message: &impl prost::Message, key: u64) -> bool {
        self.ranked(key).iter().any(|link| sent(link, link.send(kind.number(), 0, message)))
    }

    /// Asks which users are online; `None` if no replica answers.
    pub(crate) async fn status(&self, request: &StatusRequest, key: u64) -> Option<Status> {
        for link in self.ranked(key) {
            match link.call(Kind::Status.number(), request, STATUS_LIMIT).await {
                Ok(status) => return Some(status),
                Err(error) => debug!(%error, ?link, "no status"),
            }
        }
        None
    }

    /// PC users online in all, as far as the hub has said.
    pub(crate) fn pc_users_online(&self) -> u32 {
        self.pc_users_online.load(Ordering::Relaxed)
    }

    /// A replica has said how many PC users are online.
    pub(crate) fn set_pc_users_online(&self, users: Option<u32>) {
        if let Some(users) = users {
            self.pc_users_online.store(users, Ordering::Relaxed);
        }
    }
}

impl InOrder<'_> {
    /// Tells every replica of a change, and lets the caller wait for all of them.
    pub(crate) fn announce(&self, change: &InterestChange) -> Announced {
        let links = self.hub.links.all();
        let mut answers = Vec::with_capacity(links.len());
        for link in links.iter() {
            let request = self.hub.last_request.fetch_add(1, Ordering::Relaxed) + 1;
            let (answer, answered) = oneshot::channel();
            self.hub.waiting.lock().insert(request, Registration { link: link.id(), answer });
            if sent(link, link.send(Kind::InterestChange.number(), request, change)) {
                answers.push((link.clone(), request, answered));
            } else {
                self.hub.waiting.lock().remove(&request);
            }
        }
        Announced { answers }
    }

    /// Tells every replica of a change that nobody waits for.
    pub(crate) fn tell(&self, change: &InterestChange) {
        for link in self.hub.links.all().iter() {
            sent(link, link.send(Kind::InterestChange.number(), 0, change));
        }
    }
}

/// Whether a frame was queued. A link that takes no more is of no use: it is reset, and the replica
/// gets everything again.
fn sent(link: &Link, result: Result<(), LinkError>) -> bool {
    match result {
        Ok(()) => true,
        Err(LinkError::Closed) => false,
        Err(LinkError::Full | LinkError::TooLong) => {
            link.reset("it takes no more");
            false
        }
    }
}

fn send_table(link: &Link, registry: &Registry, now_us: u64) {
    let (users, groups) = registry.interest(now_us);
    let mut parts = table_parts(&users, &groups).into_iter();
    if !parts.all(|part| sent(link, link.send(Kind::InterestTable.number(), 0, &part))) {
        debug!(?link, "it went while it was told of our sessions");
    }
}

fn table_parts(users: &[UserInterest], groups: &[GroupId]) -> Vec<InterestTable> {
    let begin = InterestTable { begin: Some(true), ..InterestTable::default() };
    let users = users
        .chunks(PART_USERS)
        .map(|users| InterestTable { users: users.to_vec(), ..InterestTable::default() });
    let groups = groups.chunks(PART_GROUPS).map(|groups| InterestTable {
        groups: groups.iter().map(|group| group.0).collect(),
        ..InterestTable::default()
    });
    let complete = InterestTable { complete: Some(true), ..InterestTable::default() };
    [begin].into_iter().chain(users).chain(groups).chain([complete]).collect()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_table_goes_in_parts_of_less_than_64_kib_and_lacks_nobody() {
        let users: Vec<UserInterest> = (0..10_000)
            .map(|user| UserInterest {
                user: u32::MAX - user,
                session: u64::MAX,
                client_type: 0x12,
                epoch: u64::MAX,
                age_us: Some(u64::MAX),
            })
            .collect();
        let groups: Vec<GroupId> = (0..50_000).map(|group| GroupId(u32::MAX - group)).collect();
        let parts = table_parts(&users, &groups);

        assert!(parts.iter().all(|part| part.encoded_len() <= 64 << 10));
        assert!(parts.first().unwrap().begin() && parts.last().unwrap().complete());
        assert_eq!(parts.iter().filter(|part| part.begin() || part.complete()).count(), 2);
        assert_eq!(parts.iter().map(|part| part.users.len()).sum::<usize>(), 10_000);
        assert_eq!(parts.iter().map(|part| part.groups.len()).sum::<usize>(), 50_000);
    }

    #[test]
    fn even_an_empty_table_is_begun_and_completed() {
        let parts = table_parts(&[], &[]);
        let flags: Vec<_> = parts.iter().map(|part| (part.begin(), part.complete())).collect();
        assert_eq!(flags, [(true, false), (false, true)]);
    }
}
