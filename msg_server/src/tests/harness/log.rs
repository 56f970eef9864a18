//! The log of the storage that the test plays: what was folded, and what is told of it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use daemon::Link;
use proto::cluster::{Kind, partition_of, wire};

use super::FakeDb;

impl FakeDb {
    /// Folds records: whether they are published is another matter.
    pub(in crate::tests) fn fold(&self, records: impl IntoIterator<Item = wire::Publish>) {
        let mut history = self.history.lock();
        history.extend(records);
        let head = history.last().map_or(0, |publish| publish.offset);
        self.head.fetch_max(head, Ordering::SeqCst);
    }

    /// Tells of what has changed after `after`.
    pub(in crate::tests) fn tell(&self, after: u64) {
        self.send_changes(&self.changes(after));
    }

    pub(in crate::tests) fn send_changes(&self, changes: &wire::Changes) {
        self.link().send(Kind::Changes.number(), 0, changes).unwrap();
    }

    pub(in crate::tests) fn changes(&self, after: u64) -> wire::Changes {
        self.changes_of(0, after)
    }

    pub(in crate::tests) fn changes_of(&self, partition: u32, after: u64) -> wire::Changes {
        let upto_offset = self.head.load(Ordering::SeqCst);
        let mut changed: HashMap<u64, wire::Changed> = HashMap::new();
        let here =
            |publish: &&wire::Publish| publish.partition == partition && publish.offset > after;
        for publish in self.history.lock().iter().filter(here) {
            let wire::Publish { conversation, offset, .. } = *publish;
            let members = (publish.msg_id == 0)
                .then(|| wire::Publish { prev_offset: after, ..publish.clone() });
            let entry = changed.entry(conversation).or_default();
            let members = members.or_else(|| entry.members.take());
            *entry = wire::Changed { conversation, offset, members };
        }
        wire::Changes {
            partition,
            epoch: self.by(&[partition]).first().map_or(1, |owned| owned.epoch),
            after_offset: after,
            upto_offset,
            conversations: changed.into_values().collect(),
            forgotten: None,
        }
    }

    /// Waits until the gateway's cursor is at the head of a log: a hole makes it name the cursor.
    pub(in crate::tests) async fn settle(&self, partition: u32, head: u64) {
        loop {
            let beyond = wire::Changes {
                after_offset: head + 1,
                upto_offset: head + 1,
                conversations: Vec::new(),
                ..self.changes_of(partition, head)
            };
            self.send_changes(&beyond);
            if self.next_follow_of().await == (wire::Follow { partition, after_offset: Some(head) })
            {
                return;
            }
        }
    }

    pub(super) fn follow(&self, link: &Link, request: &wire::Follow) {
        let wire::Follow { partition, after_offset } = *request;
        self.follows.try_send(*request).unwrap();
        if !self.has_cursors.load(Ordering::SeqCst) {
            return;
        }
        let head = self.head.load(Ordering::SeqCst);
        let forgotten = after_offset.is_some() && self.forgets.load(Ordering::SeqCst);
        let after = after_offset.filter(|_after| !forgotten).unwrap_or(head);
        let mut changes = self.changes_of(partition, after);
        changes.forgotten = forgotten.then_some(true);
        link.send(Kind::Changes.number(), 0, &changes).unwrap();
    }

    pub(super) fn fetch(&self, request: &wire::FetchRequest) -> wire::Fetched {
        if !self.answers_fetches.load(Ordering::SeqCst) {
            return wire::Fetched::default();
        }
        let after = request.after_offset.unwrap_or(0);
        let history = self.history.lock();
        let wanted = |publish: &&wire::Publish| {
            publish.conversation == request.conversation
                && publish.offset > after
                && (publish.msg_id == 0 || (request.from..=request.to).contains(&publish.msg_id))
        };
        let wanted: Vec<_> = history.iter().filter(wanted).cloned().collect();
        let page = self.page.load(Ordering::SeqCst);
        let complete = wanted.len() <= page;
        let publishes: Vec<_> = wanted.into_iter().take(page).collect();
        let last = publishes.iter().map(|publish| publish.msg_id).max().unwrap_or(request.to);
        let complete_upto = if complete { request.to } else { last };
        let partitions = self.partitions.load(Ordering::SeqCst);
        let by = self.by(&[partition_of(request.conversation, partitions)]).pop();
        wire::Fetched { complete, complete_upto, publishes, by }
    }
}
