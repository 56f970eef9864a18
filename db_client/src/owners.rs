//! The links to the db_proxies: which of them owns what, and how a question about a partition goes
//! to its new owner when the partition moves.
//!
//! Messages go their own way ([`crate::sends`]): they are answered by name, not by request number.
//!
//! # Invariants
//!
//! - A question goes to the db_proxy that owns the partition in question now, as far as is known here
//!   ([`Claims`]).
//! - An answer of an older epoch than the newest known is not taken: it may leave out what was
//!   acknowledged since. The exception is an answer about a change that was carried out: what it
//!   says is true.
//! - A request that was refused because another db_proxy owns the partition was not carried out, and is
//!   asked again. A request that may have been carried out is not asked again, unless twice does
//!   the same as once.
//!
//! # What bounds it
//!
//! Each caller waits for its answer, for a limited time: nothing is queued here.

mod asking;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use daemon::{CallError, Link};
use futures_util::future::join_all;
use parking_lot::RwLock;
use prost::Message;
use proto::cluster::wire::Ownership;
use proto::cluster::{Kind, rendezvous_weight};
use proto::lists::Placeholders;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::claims::{Claims, Move};
use crate::partitions::Partitions;

pub use asking::{ASK_LIMIT, Asked, Asker, Joined};

/// How soon a db_proxy that has refused is asked again, if the owner does not change before.
const PAUSE: Duration = Duration::from_millis(200);

/// The links to the db_proxies.
#[derive(Debug)]
pub struct Owners {
    partitions: Arc<Partitions>,
    claims: RwLock<Claims<Link>>,
    /// Told whenever what is claimed has changed.
    changed: Notify,
    /// What lists show that are merged here.
    placeholders: Placeholders,
}

/// A question to one db_proxy.
struct Question<'a, Q> {
    kind: Kind,
    message: &'a Q,
    /// Whether it may be asked again when it is unknown whether it was carried out.
    repeatable: bool,
    /// The partition that it is about, if it is about one.
    about: Option<u32>,
    /// When it is asked for the last time.
    until: Instant,
    /// How much longer than that the answer may take.
    grace: Duration,
}

impl<'a, Q> Question<'a, Q> {
    /// One that may be asked again, is about no partition, and is to be answered by `until`.
    fn new(kind: Kind, message: &'a Q, until: Instant) -> Self {
        Self { kind, message, repeatable: true, about: None, until, grace: Duration::ZERO }
    }
}

/// A question to the owners of several partitions.
#[derive(Clone, Copy)]
struct Round<'a> {
    kind: Kind,
    partitions: &'a [u32],
    /// How soon a db_proxy that has refused is asked again, if no owner changes before.
    pause: Duration,
    until: Instant,
}

impl Owners {
    /// No db_proxy is linked yet. What is learnt of the partitions is kept in `partitions`.
    pub fn new(partitions: Arc<Partitions>) -> Self {
        let placeholders = Placeholders::default();
        Self { partitions, claims: RwLock::default(), changed: Notify::new(), placeholders }
    }

    /// The same for clients that have another key than the original ones.
    #[must_use]
    pub fn with_placeholders(self, placeholders: Placeholders) -> Self {
        Self { placeholders, ..self }
    }

    /// A db_proxy is linked. It is asked nothing before it has said what it owns.
    pub fn up(&self, link: &Link) {
        self.claims.write().add(link.clone());
    }

    /// A db_proxy says what it owns. `begin` is called with the number of partitions by the first that says
    /// so, and gives every part a place for each before it sets [`Partitions`]. `then` is done with what
    /// moves before a new owner is asked anything, and before the next change.
    ///
    /// # Errors
    ///
    /// Why the db_proxy is not believed: it is one of another cluster, and its link should be reset.
    pub fn claimed(
        &self,
        link: &Link,
        ownership: Ownership,
        begin: impl FnOnce(u32),
        then: impl FnOnce(&[Move<Link>]),
    ) -> Result<(), &'static str> {
        let Ownership { partitions, owned, logins } = ownership;
        let mut believed = Ok(());
        self.change(
            |claims| {
                if !self.partitions.can_be(partitions) {
                    believed = Err("it has another number of partitions");
                } else if owned.iter().any(|owned| owned.partition >= partitions) {
                    believed = Err("it claims a partition that does not exist");
                }
                if believed.is_err() {
                    return Vec::new();
                }
                if claims.set_partitions(partitions) {
                    begin(partitions);
                }
                // Whether or not it is the newest: the newest is known then.
                self.partitions.are_current(&owned);
                claims.claim(link, owned, logins)
            },
            then,
        );
        if let Err(why) = believed {
            let known = self.partitions.count();
            warn!(partitions, known, ?link, why, "a db_proxy of another cluster");
        }
        believed
    }

    /// A link is down. `then` is done with what that moves, as in [`Self::claimed`].
    pub fn down(&self, link: &Link, then: impl FnOnce(&[Move<Link>])) {
        self.change(|claims| claims.remove(link), then);
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Claims<Link>) -> Vec<Move<Link>>,
        then: impl FnOnce(&[Move<Link>]),
    ) {
        let mut claims = self.claims.write();
        let moves = change(&mut claims);
        then(&moves);
        drop(claims);
        self.changed.notify_waiters();
    }

    /// Whether a linked db_proxy serves logins.
    pub fn serves_logins(&self) -> bool {
        self.claims.read().serve_logins().any(|link| !link.is_closed())
    }

    /// Whether every partition has an owner, and it is known how many there are.
    pub fn is_whole(&self) -> bool {
        self.claims.read().is_whole()
    }

    /// How many partitions have no owner.
    pub fn without_owner(&self) -> usize {
        self.claims.read().without_owner()
    }

    /// Whether a partition has an owner.
    pub fn is_owned(&self, partition: u32) -> bool {
        self.owner(partition).is_some()
    }

    /// Waits until a partition has an owner. Cancel-safe.
    pub async fn owned(&self, partition: u32) {
        self.until(|| self.is_owned(partition)).await;
    }

    /// Waits until every partition has an owner. Cancel-safe.
    pub async fn whole(&self) {
        self.until(|| self.is_whole()).await;
    }

    /// Waits until something is true that only changes of what is claimed can make true.
    async fn until(&self, is_true: impl Fn() -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if is_true() {
                return;
            }
            changed.await;
        }
    }

    fn owner(&self, partition: u32) -> Option<Link> {
        open(self.claims.read().owner(partition))
    }

    /// Any db_proxy that owns a partition. It is chosen by `key`, so that all are asked about as often.
    fn any_owner(&self, key: u32) -> Option<Link> {
        let (claims, count) = (self.claims.read(), self.partitions.count());
        let partitions = (0..count).map(|n| (u64::from(key) + u64::from(n)) % u64::from(count));
        let mut partitions = partitions.filter_map(|partition| u32::try_from(partition).ok());
        partitions.find_map(|partition| open(claims.owner(partition)))
    }

    /// A db_proxy that serves logins. For the same `key` it is the same one as long as that serves
    /// logins, since it may remember what was tried before.
    fn login_side(&self, key: u64) -> Option<Link> {
        let claims = self.claims.read();
        let links = claims.serve_logins().filter(|link| !link.is_closed());
        links.max_by_key(|link| rendezvous_weight(key, &link.peer().name)).cloned()
    }

    /// Asks the db_proxy that `find` returns, and again after every refusal, until an answer `counts`.
    async fn ask_one<Q: Message, A: Message + Default>(
        &self,
        question: Question<'_, Q>,
        find: impl Fn() -> Option<Link>,
        counts: impl Fn(&A) -> bool,
    ) -> Result<A, CallError> {
        let Question { kind, message, repeatable, about, until, grace } = question;
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let about = about.filter(|_partition| repeatable);
            let moved = self.claims.read().moved(about);
            let link = find();
            if let Some(link) = &link {
                let call = link.call(kind.number(), message, left(until + grace));
                let is_owner =
                    || self.claims.read().moved(about).is_none_or(|now| Some(now) == moved);
                match self.while_true(is_owner, call).await {
                    Some(Ok(answer)) if counts(&answer) => return Ok(answer),
                    Some(Err(error)) if error != CallError::Closed || !repeatable => {
                        return Err(error);
                    }
                    // It has refused, its link is down, or another db_proxy is the one to ask now.
                    Some(Ok(_) | Err(_)) | None => {}
                }
            }
            wait(changed, link.map(|_asked| PAUSE), until).await?;
        }
    }

    /// What `work` comes to, unless `is_true` ends before, which only changes of what is claimed can do.
    async fn while_true<T>(
        &self,
        is_true: impl Fn() -> bool,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.until(|| !is_true()) => None,
        }
    }

    /// Asks the owners of all those partitions at the same time, each about its own, until every
    /// answer `counts`.
    async fn ask_all<Q: Message, A: Message + Default>(
        &self,
        round: Round<'_>,
        question: impl Fn(Vec<u32>) -> Q,
        counts: impl Fn(&A, &[u32]) -> bool,
    ) -> Result<Vec<A>, CallError> {
        let Round { kind, partitions, pause, until } = round;
        let partitions = || partitions.iter().copied();
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let moved = self.claims.read().moved(partitions());
            let shares = self.claims.read().shares(partitions());
            if let Some(shares) = &shares {
                let calls = shares.iter().map(|(link, partitions)| {
                    let message = question(partitions.clone());
                    async move { link.call::<A>(kind.number(), &message, left(until)).await }
                });
                let are_owners =
                    || self.claims.read().moved(partitions()).is_none_or(|now| Some(now) == moved);
                let came = self.while_true(are_owners, join_all(calls)).await.unwrap_or_default();
                let mut answers = Vec::with_capacity(shares.len());
                for (answer, (_link, partitions)) in came.into_iter().zip(shares) {
                    match answer {
                        Ok(answer) if counts(&answer, partitions) => answers.push(answer),
                        Err(error) if error != CallError::Closed => return Err(error),
                        // It has refused, or its link is down.
                        Ok(_) | Err(_) => {}
                    }
                }
                if answers.len() == shares.len() {
                    return Ok(answers);
                }
            }
            wait(changed, shares.map(|_asked| pause), until).await?;
        }
    }
}

fn open(link: Option<&Link>) -> Option<Link> {
    link.filter(|link| !link.is_closed()).cloned()
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Waits until it makes sense to ask again. A db_proxy that has refused may answer after `pause`.
/// Without a `pause` there was no db_proxy to ask: then only a change of what is claimed helps.
async fn wait(
    changed: Pin<&mut Notified<'_>>,
    pause: Option<Duration>,
    until: Instant,
) -> Result<(), CallError> {
    let at = pause.map_or(until, |pause| until.min(Instant::now() + pause));
    let elapsed = timeout_at(at, changed).await.is_err();
    if elapsed && at == until { Err(CallError::TimedOut) } else { Ok(()) }
}
