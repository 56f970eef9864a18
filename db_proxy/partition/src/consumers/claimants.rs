//! The consumers that ask for records under one name: the first of them is served.

use std::collections::VecDeque;

use daemon::Link;
use parking_lot::Mutex;
use proto::cluster::wire::Consume;
use proto::ids::Offset;
use tokio::sync::Notify;

/// The consumers that ask under one name.
#[derive(Debug)]
pub(super) struct Claimants {
    pub(super) name: String,
    queue: Mutex<VecDeque<Claimant>>,
    /// Told when the queue changes, or what the first of them has handled.
    pub(super) changed: Notify,
}

/// A link that asks.
#[derive(Debug, Clone)]
pub(super) struct Claimant {
    pub(super) link: Link,
    pub(super) consume: Consume,
    /// The last place that it said it handled.
    pub(super) handled: Offset,
}

impl Claimant {
    /// A link that asks from now on.
    pub(super) fn new(link: &Link, consume: Consume) -> Self {
        let handled = Offset(consume.handled_offset.unwrap_or(0));
        Self { link: link.clone(), consume, handled }
    }
}

impl Claimants {
    /// The first consumer that asks under a name.
    pub(super) fn new(name: &str, first: Claimant) -> Self {
        let queue = Mutex::new(VecDeque::from([first]));
        Self { name: name.to_owned(), queue, changed: Notify::new() }
    }

    /// One more asks, or the same link asks for something else.
    pub(super) fn add(&self, claimant: Claimant) {
        let mut queue = self.queue.lock();
        match queue.iter_mut().find(|known| known.link == claimant.link) {
            Some(known) => *known = claimant,
            None => queue.push_back(claimant),
        }
    }

    /// What the served link has handled; `None` if it is not the first any longer.
    pub(super) fn handled(&self, link: &Link) -> Option<Offset> {
        let queue = self.queue.lock();
        queue.front().filter(|first| first.link == *link).map(|first| first.handled)
    }

    /// Notes what a link has handled. Only of the one that is served this is believed.
    pub(super) fn note_handled(&self, link: &Link, upto: Offset) {
        let mut queue = self.queue.lock();
        if let Some(first) = queue.front_mut().filter(|first| first.link == *link) {
            first.handled = first.handled.max(upto);
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// A link is down.
    pub(super) fn remove(&self, link: &Link) {
        self.queue.lock().retain(|claimant| claimant.link != *link);
        self.changed.notify_one();
    }

    /// The one that is to be served.
    pub(super) fn first(&self) -> Option<Claimant> {
        self.queue.lock().front().cloned()
    }
}
