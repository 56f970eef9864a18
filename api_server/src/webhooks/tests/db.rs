//! A db_proxy that has a log of one partition, as the test says, and notes what it is told.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use daemon::link::{self, LinkHandler, LinkKey};
use daemon::{Identity, Link, LinkFrame, LinkOptions, Role, Shutdown};
use parking_lot::Mutex;
use prost::Message as _;
use proto::cluster::Kind;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    AdminAnswer, AdminRequest, Consume, ConsumerLine, Handled, NumberedRecord, Owned, Ownership,
    Records, WebhookLine,
};
use proto::log;
use proto::log::record::Change;
use tokio::sync::mpsc;

/// What it is told.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Told {
    Consume(Consume),
    Handled(u64),
    Admin(What),
}

/// The db_proxy.
#[derive(Debug)]
pub(super) struct DbProxy {
    told: mpsc::Sender<Told>,
    /// The link of the consumer that asked last, and its name.
    consumer: Mutex<Option<(Link, String)>>,
    pub(super) webhooks: Mutex<Vec<WebhookLine>>,
    pub(super) consumers: Mutex<Vec<String>>,
    /// So many reports are answered with "not now".
    pub(super) not_now: Mutex<u32>,
    sent: Mutex<u64>,
}

impl DbProxy {
    /// Listens. Returns what it is told, too.
    pub(super) async fn start(
        shutdown: &Shutdown,
    ) -> (Arc<Self>, SocketAddr, mpsc::Receiver<Told>) {
        let (told, tells) = mpsc::channel(1_024);
        let db = Arc::new(Self {
            told,
            consumer: Mutex::default(),
            webhooks: Mutex::default(),
            consumers: Mutex::default(),
            not_now: Mutex::default(),
            sent: Mutex::default(),
        });
        let accepts = [Role::ApiServer, Role::Consumer];
        let handler: Arc<dyn LinkHandler> = Arc::clone(&db) as _;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (us, options) = (identity(Role::DbProxy), LinkOptions::default());
        let addr = link::listen(any, us, &accepts, handler, options, shutdown).await.unwrap();
        (db, addr, tells)
    }

    /// Sends records that come next in the log. Their offsets are counted from 1.
    pub(super) fn send(&self, records: Vec<(u64, Option<u32>, Change)>) {
        self.send_batch(records, None);
    }

    /// Tells that everything up to this offset is lost.
    pub(super) fn send_lost(&self, upto: u64) {
        *self.sent.lock() = upto;
        self.send_batch(Vec::new(), Some(true));
    }

    fn send_batch(&self, records: Vec<(u64, Option<u32>, Change)>, lost: Option<bool>) {
        let mut sent = self.sent.lock();
        let after_offset = *sent;
        let mut numbered = |(timestamp_ms, msg_id, change)| {
            *sent += 1;
            let record = log::Record { change: Some(change), written_in_epoch: None };
            let record = record.encode_to_vec().into();
            NumberedRecord { offset: *sent, timestamp_ms, msg_id, record }
        };
        let records = records.into_iter().map(&mut numbered).collect();
        let (link, name) = self.consumer.lock().clone().expect("a consumer has asked");
        let (partition, epoch, upto_offset) = (0, 1, *sent);
        let records = Records { name, partition, epoch, after_offset, upto_offset, records, lost };
        link.send(Kind::Records.number(), 0, &records).unwrap();
    }

    fn tell(&self, told: Told) {
        // The test may have ended.
        self.told.try_send(told).ok();
    }

    fn answer(&self, what: &What) -> AdminAnswer {
        let done = AdminAnswer { done: true, ..AdminAnswer::default() };
        match what {
            What::WebhookList(_) => AdminAnswer { webhooks: self.webhooks.lock().clone(), ..done },
            What::ConsumerList(_) => {
                let names = self.consumers.lock().clone();
                let line = |name| ConsumerLine { name, ..ConsumerLine::default() };
                AdminAnswer { consumers: names.into_iter().map(line).collect(), ..done }
            }
            _ => {
                let mut not_now = self.not_now.lock();
                let is_done = *not_now == 0;
                *not_now = not_now.saturating_sub(1);
                AdminAnswer { done: is_done, ..done }
            }
        }
    }
}

impl LinkHandler for DbProxy {
    fn up(&self, link: &Link) {
        let owned = vec![Owned { partition: 0, epoch: 1 }];
        let ownership = Ownership { partitions: 1, owned, logins: true };
        link.send(Kind::Ownership.number(), 0, &ownership).unwrap();
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        match Kind::from_number(frame.kind) {
            Some(Kind::Consume) => {
                let consume: Consume = frame.parse().unwrap();
                *self.consumer.lock() = Some((link.clone(), consume.name.clone()));
                self.tell(Told::Consume(consume));
            }
            Some(Kind::Handled) => {
                let handled: Handled = frame.parse().unwrap();
                self.tell(Told::Handled(handled.upto_offset));
            }
            Some(Kind::Admin) => {
                let request: AdminRequest = frame.parse().unwrap();
                let what = request.what.unwrap();
                let answer = self.answer(&what);
                if !matches!(what, What::WebhookList(_) | What::ConsumerList(_)) {
                    self.tell(Told::Admin(what));
                }
                link.answer(&frame, Kind::Admin.number(), &answer).unwrap();
            }
            other => panic!("nobody asks {other:?}"),
        }
    }

    fn down(&self, _link: &Link) {}
}

pub(super) fn identity(role: Role) -> Identity {
    let key = LinkKey::new(b"the key of these tests");
    Identity { role, name: "one".to_owned(), boot: 1, key, tls: None }
}

/// A message from user 1 to another one.
pub(super) fn message(other: u32, msg_id: u32, at_ms: u64) -> (u64, Option<u32>, Change) {
    let conversation = (1_u64 << 32) | u64::from(other);
    let message = log::Message {
        conversation,
        sender: 1,
        r#type: 1,
        body: Bytes::from_static(b"not encrypted"),
        ..log::Message::default()
    };
    (at_ms, Some(msg_id), Change::Message(message))
}
