//! A moved site goes on as if nothing had happened: the same numbers, members and unread messages,
//! with a new log.

use std::time::Duration;

use daemon::{LinkTable, Metrics, Readiness, Shutdown};
use fold::conversation::Conversation;
use partition::metrics::PublishMetrics;
use partition::publisher::Publisher;
use partition::stall::StallDetector;
use partition::state::State;
use partition::store_writer;
use partition::test::{PATIENCE, resent};
use partition::{Outcome, Owner, Partition, STALLED_AFTER, open};
use proto::cluster::wire::{FetchRequest, Owned};
use proto::ids::Offset;
use record_log::embedded::{EmbeddedLog, Options};
use store::{Store, UserConversation};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::*;
use crate::commands::missed;
use crate::metrics::OwnedMetrics;

/// The owner of the new site's partition, with a log that was never used.
struct NewSite {
    partition: Partition,
    owned: Owned,
    store_writer: store_writer::StopStoreWriter,
    shutdown: Shutdown,
}

impl NewSite {
    async fn start(options: &MySqlOptions, dir: &TempDir) -> Self {
        let store: Arc<dyn Store> = Arc::new(MySqlStore::open(options.clone()).await.unwrap());
        let mut log = Options::new(dir.path().join("log"));
        (log.segment_bytes, log.spare_segments) = (2 << 20, 1);
        let runtime = Handle::current();
        let opening = blocking(move || {
            let log = EmbeddedLog::prepare(log).unwrap();
            let progress = runtime.block_on(store.claim("owner".to_owned(), log.id())).unwrap();
            assert_eq!(progress.applied, Offset(0));
            open::open(Box::new(log), store, progress, "owner", &runtime).unwrap()
        });
        let opened = opening.await;
        let (shutdown, metrics, setup) =
            (Shutdown::default(), Metrics::new("db_proxy"), Setup::new());
        let owned = Owned { partition: 0, epoch: opened.epoch };
        let one = OwnedMetrics::new(&metrics).of(0);
        let owner = Owner {
            log: opened.log,
            state: opened.state,
            owned,
            name: opened.owner,
            epoch_every: setup.epoch_every,
            limits: setup.limits,
            hold: setup.hold,
            publisher: Publisher::new(
                Arc::new(LinkTable::default()),
                PublishMetrics::new(&metrics),
            ),
            metrics: one.partition,
            confirmed: StallDetector::default().confirmed(),
            last_clock: partition::last_clock::LastClock::default(),
            pulse: Readiness::default().pulse("partition", STALLED_AFTER),
        };
        let partition = owner.start(&shutdown);
        let store_writer = store_writer::start(
            partition.clone(),
            one.store_writer,
            Duration::from_hours(1),
            &shutdown,
        );
        Self { partition, owned, store_writer, shutdown }
    }

    fn state(&self) -> &State {
        self.partition.state()
    }

    async fn send(&self, send: Message) -> u32 {
        match self.partition.change(Change::Send(send)).await {
            Outcome::Sent { msg_id: MsgId(msg_id), .. } => msg_id,
            other => panic!("{other:?}"),
        }
    }

    /// What a gateway is told that asks for messages from the first one on.
    async fn fetch(&self, id: ConversationId, after_offset: Option<u64>) -> Vec<u32> {
        let request =
            FetchRequest { conversation: id.number(), from: 1, to: u32::MAX, after_offset };
        let fetched = missed::fetch(self.state(), &request, self.owned).await;
        assert!(fetched.complete);
        fetched.publishes.iter().map(|publish| publish.msg_id).collect()
    }

    /// Stores everything and ends.
    async fn stop(self) -> Arc<dyn Store> {
        let store = Arc::clone(self.state().store());
        self.partition.stop().await;
        timeout(PATIENCE, self.store_writer.finish()).await.unwrap();
        self.shutdown.begin();
        self.shutdown.drain(PATIENCE).await.unwrap();
        store
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_site_goes_on_where_it_was() {
    let site = site().await;
    let (temp, _moved) = exported(&site.setup).await;
    let options = databases(1, false, 1).await;
    import(&folder(&temp), &options, true, &on).await.unwrap();

    let old = site.setup.start().await;
    let dir = TempDir::new().unwrap();
    let new = NewSite::start(&options, &dir).await;
    for user in (1..=10).map(UserId) {
        let before = lists(old.state(), user).await;
        assert_eq!(lists(new.state(), user).await, before, "{user:?}");
    }
    assert_eq!(new.send(resent(&site.known)).await, 7, "it is known from before the move");

    for (id, sender, head) in [(single(1, 2), 1, 8), (group(GROUP), 5, 4), (single(3, 4), 3, 1)] {
        let before = old.state().with(id, Conversation::clone).await.unwrap();
        assert_eq!(before.head, MsgId(head));
        assert!(new.fetch(id, Some(0)).await.is_empty(), "nothing was missed");
        assert_eq!(new.fetch(id, None).await, (1..=head).collect::<Vec<_>>());
        assert_eq!(new.send(message(id, sender)).await, head + 1);
        assert_eq!(new.fetch(id, Some(0)).await, [head + 1]);
        let after = new.state().with(id, Conversation::clone).await.unwrap();
        assert_eq!((&before.members, &before.group), (&after.members, &after.group));
        let reader = UserId(if sender == 1 { 2 } else { 1 });
        if before.has_member(reader) {
            assert_eq!(after.unread(reader), before.unread(reader) + 1);
        }
        assert_eq!(texts(&after)[..head as usize], texts(&before));
        assert_eq!(after.recent.len(), head as usize + 1);
    }

    let store = new.stop().await;
    let all = store.messages(single(1, 2), MsgId(1), MsgId(u32::MAX), 100).await.unwrap();
    let numbers: Vec<u32> = all.iter().rev().map(|row| row.msg_id.0).collect();
    assert_eq!(numbers, (1..=9).collect::<Vec<_>>());
    let is_sorted = all.iter().rev().is_sorted_by_key(|row| row.offset);
    assert!(is_sorted, "later messages have later records");
}

fn texts(of: &Conversation) -> Vec<(MsgId, bytes::Bytes, u64)> {
    of.recent.iter().map(|row| (row.msg_id, row.body.clone(), row.timestamp_ms)).collect()
}

/// What a user's lists show, and how much of it is unread.
async fn lists(state: &State, user: UserId) -> Vec<(u64, bool, u32, u64, Option<u32>)> {
    let seen = state.conversations_of(user).await.unwrap();
    let line = |seen: &UserConversation| {
        let (id, row) = (seen.row.id.number(), &seen.row);
        let version = row.group.as_ref().map(|group| group.version);
        (id, seen.listed(), seen.unread(), row.last_message_ms, version)
    };
    let mut lines: Vec<_> = seen.iter().map(line).collect();
    lines.sort_unstable();
    lines
}
