//! What all tasks of the scenario share: what was said, what went wrong.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

/// What all tasks share.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) began: Instant,
    pub(super) body: usize,
    /// Nothing more will be said.
    pub(super) is_over: AtomicBool,
    pub(super) is_saying: AtomicBool,
    pub(super) seconds: AtomicU64,
    /// How far those who speak may be ahead of those who listen; as far as it comes, if it is not said.
    ahead_max: Option<u32>,
    said: AtomicU32,
    /// By user who listens: the number of the newest message that the user has, or need not have.
    heard: Mutex<HashMap<u32, u32>>,
    /// By number of the message: its number in the group.
    pub(super) places: Mutex<HashMap<u64, u32>>,
    pub(super) latencies: Mutex<Vec<Duration>>,
    pub(super) wrong: Mutex<Vec<String>>,
}

impl Told {
    pub(super) fn new(body: usize, ahead_max: Option<u32>) -> Self {
        Self {
            began: Instant::now(),
            body,
            is_over: AtomicBool::new(false),
            is_saying: AtomicBool::new(false),
            seconds: AtomicU64::new(0),
            ahead_max,
            said: AtomicU32::new(0),
            heard: Mutex::default(),
            places: Mutex::default(),
            latencies: Mutex::default(),
            wrong: Mutex::default(),
        }
    }

    pub(super) fn wrong(&self, what: String) {
        self.wrong.lock().expect("nobody panicked with it").push(what);
    }

    pub(super) fn count(&self) -> u32 {
        let places = self.places.lock().expect("nobody panicked with it").len();
        u32::try_from(places).unwrap_or(u32::MAX)
    }

    /// A user begins to listen.
    pub(super) fn listens(&self, user: u32) {
        self.hears(user, self.said.load(Ordering::Relaxed));
    }

    /// A user has heard this message.
    pub(super) fn hears(&self, user: u32, msg_id: u32) {
        self.heard.lock().expect("nobody panicked with it").insert(user, msg_id);
    }

    /// A user listens no longer.
    pub(super) fn leaves(&self, user: u32) {
        self.heard.lock().expect("nobody panicked with it").remove(&user);
    }

    /// One more message may be said now; it is counted.
    pub(super) fn may_say(&self) -> bool {
        let heard = self.heard.lock().expect("nobody panicked with it");
        let said = self.said.load(Ordering::Relaxed);
        let behind = heard.values().map(|heard| said.saturating_sub(*heard)).max().unwrap_or(0);
        let may = self.ahead_max.is_none_or(|ahead_max| behind < ahead_max);
        self.said.fetch_add(u32::from(may), Ordering::Relaxed);
        may
    }

    /// A body that says which it is and when it was sent.
    pub(super) fn body(&self, number: u64) -> Bytes {
        let mut body = BytesMut::with_capacity(self.body);
        body.put_u32(1);
        body.put_u64(number);
        body.put_u64(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX));
        body.resize(self.body, u8::try_from(number % 251).unwrap_or(0));
        body.freeze()
    }

    /// The number of a message, and how long ago it was sent.
    pub(super) fn read(&self, body: &[u8]) -> Option<(u64, Duration)> {
        let number = u64::from_be_bytes(*body.get(4..12)?.first_chunk()?);
        let sent = u64::from_be_bytes(*body.get(12..20)?.first_chunk()?);
        let filled = u8::try_from(number % 251).unwrap_or(0);
        let whole = body.len() == self.body && body.last() == Some(&filled);
        let age = self.began.elapsed().saturating_sub(Duration::from_micros(sent));
        whole.then_some((number, age))
    }

    /// Whether that is the message with this number in the group.
    pub(super) fn is_at(&self, body: &[u8], msg_id: u32) -> bool {
        let places = self.places.lock().expect("nobody panicked with it");
        self.read(body).is_some_and(|(number, _age)| places.get(&number) == Some(&msg_id))
    }
}
