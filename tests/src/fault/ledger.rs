//! Two people who say one thing at a time, and what became of each.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{Client, Conversation, Event, Events, Kind, Options, Outcome, Servers, StartFrom};
use tokio::runtime::Runtime;

use super::hold;
use crate::{Device, PASSWORD, Site, wait_until};

/// How long a message may take to be through, once everything runs.
const THROUGH_LIMIT: Duration = Duration::from_secs(30);

/// A user who speaks, on the first gateway, and a user who listens, on the second.
#[derive(Debug)]
pub(super) struct Pair {
    runtime: Runtime,
    speaker: Client,
    _listener: Client,
    ledger: Arc<Mutex<Ledger>>,
}

/// What was said and heard.
#[derive(Debug, Default)]
struct Ledger {
    /// In the order in which it was said: where, what, and the number that it was given.
    said: Vec<(Conversation, Bytes, Option<u32>)>,
    /// What the listener was shown: where, what, and its number.
    heard: HashMap<Bytes, (Conversation, u32)>,
    connected: [bool; 2],
    wrong: Vec<String>,
}

/// The user who speaks, and the user who listens. Both are in group 1.
pub(super) const SPEAKER: u32 = 1;
pub(super) const LISTENER: u32 = 2;
/// A user who does neither.
const OTHER: u32 = 3;

/// Where it is said: to the listener alone, and in the group.
pub(super) const PLACES: [Conversation; 2] = [Conversation::user(LISTENER), Conversation::group(1)];

impl Pair {
    /// Connects both.
    pub(super) fn start(site: &Site) -> Self {
        let runtime = Runtime::new().expect("start a runtime");
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let [speaker, listener] = [0, 1].map(|index| {
            let gateway = site.gateways[index].clone();
            let name = format!("u{}", [SPEAKER, LISTENER][index]);
            let mut options = Options::new(Servers::Gateways(vec![gateway]), name, PASSWORD);
            options.start_from = StartFrom::Beginning;
            let started = runtime.block_on(Client::start(options));
            let (client, events) = started.expect("a client starts");
            runtime.spawn(listen(index, events, Arc::clone(&ledger)));
            client
        });
        let pair = Self { runtime, speaker, _listener: listener, ledger };
        pair.wait_connected();
        pair
    }

    /// Waits until both are connected.
    pub(super) fn wait_connected(&self) {
        wait_until("both are connected", THROUGH_LIMIT, || {
            self.ledger().connected.iter().all(|connected| *connected)
        });
    }

    /// Says something new, and returns at once.
    pub(super) fn say(&self, place: Conversation) {
        let mut ledger = self.ledger();
        let index = ledger.said.len();
        let body = proto::text::encrypt(&format!("this is {index}"));
        ledger.said.push((place, body.clone(), None));
        drop(ledger);
        let sending = self.speaker.send(place, Kind::Text, body);
        let ledger = Arc::clone(&self.ledger);
        self.runtime.spawn(async move {
            let outcome = sending.await;
            let mut ledger = lock(&ledger);
            match outcome {
                Outcome::Ok { msg_id, .. } => ledger.said[index].2 = Some(msg_id.0),
                // The client ends with the test.
                Outcome::Unknown => {}
                other => ledger.wrong.push(format!("message {index} ended with {other:?}")),
            }
        });
    }

    /// Whether everything that was said is acknowledged and heard.
    pub(super) fn is_through(&self) -> bool {
        let ledger = self.ledger();
        ledger
            .said
            .iter()
            .all(|(_place, body, msg_id)| msg_id.is_some() && ledger.heard.contains_key(body))
    }

    /// What is not acknowledged, and what is not heard.
    fn missing(&self) -> String {
        let ledger = self.ledger();
        let mut missing = Vec::new();
        for (index, (place, body, msg_id)) in ledger.said.iter().enumerate() {
            match (msg_id, ledger.heard.get(body)) {
                (Some(_), Some(_)) => {}
                (Some(msg_id), None) => {
                    missing.push(format!(
                        "H7: {index} was acknowledged as {msg_id} of {place:?} and is not shown"
                    ));
                }
                (None, heard) => {
                    missing.push(format!(
                        "{index} in {place:?} is not acknowledged, shown as {heard:?}"
                    ));
                }
            }
        }
        missing.join("; ")
    }

    /// Waits until everything is through, and holds it against the promises: each message has the
    /// next number of its conversation, and was shown under it.
    pub(super) fn check(&self, after: &dyn Debug) {
        let began = Instant::now();
        while !self.is_through() {
            let late = began.elapsed() > THROUGH_LIMIT;
            assert!(!late, "not through {THROUGH_LIMIT:?} after {after:?}: {}", self.missing());
            hold(Duration::from_millis(5));
        }
        let ledger = self.ledger();
        assert!(ledger.wrong.is_empty(), "{}", ledger.wrong.join("\n"));
        for place in PLACES {
            let said = ledger.said.iter().filter(|(where_to, ..)| *where_to == place);
            for ((_place, body, msg_id), expected) in said.zip(1..) {
                assert_eq!(*msg_id, Some(expected), "H5: next in {place:?} after {after:?}");
                let heard = ledger.heard.get(body).copied();
                let seen_as = match place {
                    Conversation::User(_) => Conversation::user(SPEAKER),
                    Conversation::Group(_) => place,
                };
                assert_eq!(heard, Some((seen_as, expected)), "H3: shown as told after {after:?}");
            }
        }
    }

    /// Reads the histories as an old client does, and checks that each message is there once, under
    /// its number. Returns how many there are.
    pub(super) fn finish(self, gateway: &str) -> usize {
        self.check(&"all");
        let histories = self.runtime.block_on(async {
            // The daemon that died last may still be on its way back to the others.
            wait_for_logins(gateway).await;
            let mut device = Device::mobile(gateway, SPEAKER).await;
            [device.history(PLACES[0]).await, device.history(PLACES[1]).await]
        });
        let ledger = self.ledger();
        for (place, history) in PLACES.into_iter().zip(&histories) {
            let stored: Vec<(u32, &Bytes)> =
                history.iter().rev().map(|info| (info.msg_id, &info.msg_data)).collect();
            let said: Vec<(u32, &Bytes)> = (1..)
                .zip(ledger.said.iter().filter(|(where_to, ..)| *where_to == place))
                .map(|(msg_id, (_place, body, _))| (msg_id, body))
                .collect();
            assert_eq!(stored, said, "H1, H2, H6: the history of {place:?} is what was said");
        }
        ledger.said.len()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }
}

async fn wait_for_logins(gateway: &str) {
    let began = Instant::now();
    while let Err(error) = Device::try_log_in(gateway, &format!("u{OTHER}"), PASSWORD).await {
        assert!(began.elapsed() < THROUGH_LIMIT, "users can log in, not: {error:?}");
    }
}

async fn listen(index: usize, mut events: Events, ledger: Arc<Mutex<Ledger>>) {
    while let Some(event) = events.next().await {
        let mut ledger = lock(&ledger);
        match event {
            Event::Connected { .. } => ledger.connected[index] = true,
            Event::Disconnected { .. } => ledger.connected[index] = false,
            Event::Message(message) if index == 1 => {
                let seen = (message.conversation, message.msg_id.0);
                if let Some(first) = ledger.heard.insert(message.data, seen) {
                    ledger.wrong.push(format!("H2: {first:?} was shown again as {seen:?}"));
                }
            }
            Event::Message(_) | Event::Push(_) | Event::Sent { .. } => {}
            other => ledger.wrong.push(format!("H7: {other:?}")),
        }
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().expect("nobody panicked with it")
}
