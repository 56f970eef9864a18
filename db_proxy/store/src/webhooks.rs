//! What the store keeps of webhooks: URLs of other systems that are told of events.

use std::fmt;

use crate::error::Stored;

/// A webhook as stored.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookRow {
    /// Its number, never given out twice.
    pub number: u32,
    /// What people call it. Unique.
    pub name: String,
    /// Where events are sent.
    pub url: String,
    /// Which events, one bit for each type.
    pub events: u32,
    /// 1 on, 2 switched off, 3 gone.
    pub state: u32,
    /// What events are signed with: readable, since a signature needs it.
    pub secret: String,
    /// The secret before; empty if there is none.
    pub old_secret: String,
    /// Until when that one signs as well, Unix seconds.
    pub old_until_s: u64,
    /// When it was made, Unix milliseconds.
    pub made_ms: u64,
    /// What happened before is not sent, Unix milliseconds.
    pub from_ms: u64,
    /// When it was last made, switched on or replayed, Unix milliseconds.
    pub begun_ms: u64,
    /// How many replays there were.
    pub run: u32,
    /// Rises with every change.
    pub version: u64,
    /// How many events were given up, ever.
    pub failures: u64,
}

impl WebhookRow {
    /// Events are sent.
    pub const ON: u32 = 1;

    /// An administrator has switched it off.
    pub const OFF: u32 = 2;

    /// The endpoint has said that it is gone.
    pub const GONE: u32 = 3;
}

/// An event that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookFailureRow {
    /// Its place in the list of the webhook, from 1. Given by the store.
    pub number: u64,
    /// Which event.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// When it happened, Unix milliseconds.
    pub happened_ms: u64,
    /// When it was given up, Unix milliseconds.
    pub given_up_ms: u64,
    /// The last status; 0 = there was no answer.
    pub status: u32,
    /// How often it was tried since the start of the daemon that gave it up.
    pub tries: u32,
}

/// The webhooks' side of the store: written directly.
pub trait WebhookStore: Send + Sync {
    /// Keeps a webhook, under a new number, and under a name that is made of it if the row has none. `None` if
    /// the name is taken.
    fn add_webhook(&self, row: WebhookRow) -> Stored<'_, Option<u32>>;

    /// All webhooks, by number.
    fn webhooks(&self) -> Stored<'_, Vec<WebhookRow>>;

    /// Changes a webhook whose version is that: everything but its number, its name, when it was made, and
    /// what was given up. Whether there was one.
    fn change_webhook(&self, version: u64, row: WebhookRow) -> Stored<'_, bool>;

    /// Forgets a webhook and what of it was given up. Whether there was one.
    fn forget_webhook(&self, number: u32) -> Stored<'_, bool>;

    /// Notes an event that was given up, unless it is noted; the last `keep` of the webhook stay. Whether there
    /// is such a webhook.
    fn give_up(&self, webhook: u32, failure: WebhookFailureRow, keep: u32) -> Stored<'_, bool>;

    /// Events of a webhook that were given up before the one of that number, the last first, at most `count`.
    fn webhook_failures(
        &self,
        webhook: u32,
        before: u64,
        count: u32,
    ) -> Stored<'_, Vec<WebhookFailureRow>>;
}

impl fmt::Debug for WebhookRow {
    /// Without its secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookRow")
            .field("number", &self.number)
            .field("name", &self.name)
            .field("state", &self.state)
            .field("run", &self.run)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
