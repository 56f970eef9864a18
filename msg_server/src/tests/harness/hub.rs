//! A hub that does what the test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use daemon::Link;
use daemon::link::{LinkFrame, LinkHandler};
use parking_lot::Mutex;
use prost::Message;
use proto::cluster::{Kind, wire};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::LIMIT;

/// The hub. Confirms at once unless told otherwise, and echoes what is forwarded.
pub(in crate::tests) struct FakeHub {
    pub(in crate::tests) links: Mutex<Vec<Link>>,
    pub(in crate::tests) confirms: AtomicBool,
    /// Told of as the largest epoch of any user, once.
    pub(in crate::tests) larger_epoch: AtomicU64,
    /// How long ago the login with that came; unknown to an older release.
    pub(in crate::tests) larger_age_us: Mutex<Option<u64>>,
    pub(in crate::tests) pc_online: AtomicBool,
    /// Whether it says who is online.
    pub(in crate::tests) answers_status: AtomicBool,
    /// What it says of users just before it answers who is online.
    pub(in crate::tests) says_before: Mutex<Option<wire::PresenceChanges>>,
    /// Whether it knows of a larger epoch whatever it is told.
    pub(in crate::tests) stays_ahead: AtomicBool,
    changes: mpsc::Sender<wire::InterestChange>,
    pub(in crate::tests) changed: tokio::sync::Mutex<mpsc::Receiver<wire::InterestChange>>,
}

impl FakeHub {
    pub(super) fn new() -> Arc<Self> {
        let (changes, changed) = mpsc::channel(10_000);
        Arc::new(Self {
            links: Mutex::default(),
            confirms: AtomicBool::new(true),
            larger_epoch: AtomicU64::new(0),
            larger_age_us: Mutex::default(),
            pc_online: AtomicBool::new(false),
            answers_status: AtomicBool::new(true),
            says_before: Mutex::default(),
            stays_ahead: AtomicBool::new(false),
            changes,
            changed: changed.into(),
        })
    }

    pub(in crate::tests) fn send(&self, kind: Kind, message: &impl Message) {
        self.links.lock().last().unwrap().send(kind.number(), 0, message).unwrap();
    }

    pub(in crate::tests) async fn next_change(&self) -> wire::InterestChange {
        timeout(LIMIT, self.changed.lock().await.recv()).await.expect("in time").unwrap()
    }
}

impl LinkHandler for FakeHub {
    fn up(&self, link: &Link) {
        self.links.lock().push(link.clone());
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        match Kind::from_number(frame.kind).unwrap() {
            Kind::InterestChange => {
                let change: wire::InterestChange = frame.parse().unwrap();
                if frame.request != 0 && self.confirms.load(Ordering::SeqCst) {
                    let own = change.add_users.first().map_or(0, |user| user.epoch);
                    let once = self.larger_epoch.swap(0, Ordering::SeqCst);
                    let is_ahead = self.stays_ahead.load(Ordering::SeqCst);
                    let larger = if is_ahead { own + 1 } else { once };
                    let registered = wire::Registered {
                        largest_epoch: Some(own.max(larger)),
                        pc_online: Some(self.pc_online.load(Ordering::SeqCst)),
                        pc_users_online: Some(1),
                        largest_age_us: (larger > 0).then(|| *self.larger_age_us.lock()).flatten(),
                    };
                    link.answer(&frame, frame.kind, &registered).unwrap();
                }
                self.changes.try_send(change).unwrap();
            }
            Kind::Forward => link.send_raw(frame.kind, 0, &frame.body).unwrap(),
            Kind::Status if !self.answers_status.load(Ordering::SeqCst) => {}
            Kind::Status => {
                let request: wire::StatusRequest = frame.parse().unwrap();
                if let Some(changes) = self.says_before.lock().take() {
                    link.send(Kind::PresenceChanges.number(), 0, &changes).unwrap();
                }
                let online = request.users.into_iter().filter(|user| user % 2 == 1).collect();
                link.answer(&frame, frame.kind, &wire::Status { online }).unwrap();
            }
            Kind::InterestTable | Kind::InterestChecksum | Kind::Kick => {}
            other => panic!("{other:?} is not for the hub"),
        }
    }

    fn down(&self, link: &Link) {
        self.links.lock().retain(|other| other != link);
    }
}
