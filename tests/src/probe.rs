//! A pair of old-style devices on two gateways: one speaks all the time, the other takes down when it
//! hears it. Old clients repair nothing by themselves, so what they hear late the servers were late
//! with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::{ClientType, Connection, Conversation, Draft, SendReply};
use proto::Command;
use proto::client::{MessageData, MessageListReply};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::PASSWORD;
use crate::device::page_request;

/// Between two messages.
const PAUSE: Duration = Duration::from_millis(25);
/// Before something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// How long an answer may take before the connection is given up, as an old client would.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Messages on one page of history, when the hearer was disconnected.
const PAGE: u32 = 1_000;

/// The pair, which talks in a thread of its own.
#[derive(Debug)]
pub struct Probe {
    stop: watch::Sender<bool>,
    told: watch::Receiver<Told>,
    thread: Option<JoinHandle<()>>,
}

/// When each message was acknowledged, and when it was heard, by msg_id.
#[derive(Debug, Default)]
struct Told {
    acked: BTreeMap<u32, Instant>,
    heard: BTreeMap<u32, Instant>,
    /// Of each acknowledgement, when it came and how long it took.
    took: Vec<(Instant, Duration)>,
    /// What was pushed out of order or twice to one connection.
    wrong: Vec<String>,
}

impl Probe {
    /// Lets `speaker` talk to `hearer`: each is a gateway and a demo user, both in no crowd.
    pub fn start(speaker: (&str, u32), hearer: (&str, u32)) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let (told, seen) = watch::channel(Told::default());
        let told = Arc::new(told);
        let (speaker, hearer) =
            ((speaker.0.to_owned(), speaker.1), (hearer.0.to_owned(), hearer.1));
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.expect("start a runtime").block_on(async {
                let hears = hear(&hearer.0, (hearer.1, speaker.1), &told);
                tokio::select! {
                    () = speak(&speaker.0, (speaker.1, hearer.1), &told) => {}
                    () = hears => {}
                    // The servers may be gone, so that neither of the two would come to an end.
                    _stop = stopped.wait_for(|stop| *stop) => {}
                }
            });
        });
        let mut probe = Self { stop, told: seen, thread: Some(thread) };
        probe.wait("the first message is heard", |heard| !heard.heard.is_empty());
        probe
    }

    /// How many messages were acknowledged.
    pub fn acked(&self) -> usize {
        self.told.borrow().acked.len()
    }

    /// How long the acknowledgements took that came since, the shortest first.
    pub fn answers_since(&self, since: Instant) -> Vec<Duration> {
        let told = self.told.borrow();
        let late = told.took.iter().filter(|(at, _took)| *at >= since);
        let mut took: Vec<_> = late.map(|(_at, took)| *took).collect();
        took.sort_unstable();
        took
    }

    /// Waits until everything that is acknowledged now was heard. Returns how long after `healed`
    /// the last of it came; zero if all came before.
    pub fn converged_after(&mut self, healed: Instant) -> Duration {
        let last = self.told.borrow().acked.keys().next_back().copied().unwrap_or_default();
        self.wait("everything that was acknowledged is heard", |heard| {
            heard.acked.range(..=last).all(|(msg_id, _)| heard.heard.contains_key(msg_id))
        });
        let heard = self.told.borrow();
        let times = heard.acked.range(..=last).filter_map(|(msg_id, _)| heard.heard.get(msg_id));
        times.map(|at| at.saturating_duration_since(healed)).max().unwrap_or_default()
    }

    /// The longest time from an acknowledgement to hearing, of what was acknowledged since.
    pub fn slowest_since(&mut self, since: Instant) -> Duration {
        self.converged_after(since);
        let heard = self.told.borrow();
        let of = |(msg_id, acked): (&u32, &Instant)| {
            let at = heard.heard.get(msg_id).filter(|_| *acked >= since)?;
            Some(at.saturating_duration_since(*acked))
        };
        heard.acked.iter().filter_map(of).max().unwrap_or_default()
    }

    /// Waits until that many more messages were acknowledged.
    pub fn wait_for_acks(&mut self, more: usize) {
        let wanted = self.acked() + more;
        self.wait("more messages are acknowledged", |heard| heard.acked.len() >= wanted);
    }

    /// Ends it. Everything that was acknowledged must have been heard, in order.
    pub fn finish(mut self) -> usize {
        self.converged_after(Instant::now());
        let heard = self.told.borrow();
        assert!(heard.wrong.is_empty(), "old clients hear in order: {:?}", heard.wrong);
        heard.acked.len()
    }

    fn wait(&mut self, what: &str, holds: impl Fn(&Told) -> bool) {
        let runtime = Builder::new_current_thread().enable_all().build().expect("start a runtime");
        let waited = runtime.block_on(async {
            timeout(crate::PATIENCE * 2, self.told.wait_for(|heard| holds(heard))).await.is_ok()
        });
        let heard = self.told.borrow();
        let missing: Vec<_> =
            heard.acked.keys().filter(|msg_id| !heard.heard.contains_key(msg_id)).take(9).collect();
        assert!(waited, "{what}; not heard: {missing:?} of {}", heard.acked.len());
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // Its panics have been printed; here it only has to end.
            thread.join().ok();
        }
    }
}

async fn log_in(gateway: &str, user: u32) -> Connection {
    loop {
        if let Ok(mut connection) = Connection::connect(gateway, None).await {
            connection.set_limit(ANSWER_LIMIT);
            let name = format!("u{user}");
            if connection.login(&name, PASSWORD, ClientType::Windows, None).await.is_ok() {
                return connection;
            }
        }
        sleep(AGAIN).await;
    }
}

/// Says one thing after another, each under an id of its own, until it is acknowledged.
async fn speak(gateway: &str, (me, other): (u32, u32), told: &watch::Sender<Told>) {
    let conversation = Conversation::user(other);
    let mut connection = log_in(gateway, me).await;
    for number in 0_u64.. {
        let draft = Draft::text(conversation, &format!("probe {number}")).without_id();
        loop {
            let began = Instant::now();
            match connection.send_message(&draft).await {
                Ok(SendReply::Ack(ack)) => {
                    let now = Instant::now();
                    told.send_modify(|heard| {
                        heard.acked.insert(ack.msg_id, now);
                        heard.took.push((now, now - began));
                    });
                    break;
                }
                // What became of it is unknown: a person would say it again, as something new.
                _unknown => connection = log_in(gateway, me).await,
            }
        }
        sleep(PAUSE).await;
    }
}

/// Hears, and reads after every login what was said meanwhile, as an old client does.
async fn hear(gateway: &str, (me, other): (u32, u32), told: &watch::Sender<Told>) {
    let mut last = 0;
    loop {
        let mut connection = log_in(gateway, me).await;
        if read_missed(&mut connection, (me, other), &mut last, told).await.is_err() {
            continue;
        }
        while let Ok(frame) = connection.next_frame(Duration::from_hours(1)).await {
            if frame.known_command() != Some(Command::MessageData) {
                continue;
            }
            let message: MessageData = frame.parse().expect("a push can be read");
            take(message.msg_id, &mut last, told);
        }
    }
}

async fn read_missed(
    connection: &mut Connection,
    (_me, other): (u32, u32),
    last: &mut u32,
    told: &watch::Sender<Told>,
) -> Result<(), ()> {
    let conversation = Conversation::user(other);
    let request = page_request(conversation, 0, PAGE);
    let reply: MessageListReply =
        connection.call(Command::MessageListRequest, &request).await.map_err(|_error| ())?;
    let now = Instant::now();
    told.send_modify(|heard| {
        for message in &reply.messages {
            heard.heard.entry(message.msg_id).or_insert(now);
            *last = (*last).max(message.msg_id);
        }
    });
    Ok(())
}

fn take(msg_id: u32, last: &mut u32, told: &watch::Sender<Told>) {
    told.send_modify(|heard| {
        if msg_id > *last + 1 {
            heard.wrong.push(format!("{msg_id} after {last}"));
        }
        heard.heard.entry(msg_id).or_insert_with(Instant::now);
    });
    *last = (*last).max(msg_id);
}
