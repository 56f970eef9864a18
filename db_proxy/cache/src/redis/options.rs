//! Where Redis is, and how it is used.

use std::fmt;
use std::time::Duration;

/// Where Redis is, and how it is used.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://[[user]:password@]host[:port][/db]`, or `rediss://` for TLS, which trusts what the
    /// machine trusts.
    pub url: String,
    /// What every key begins with. Clusters that share a server have different ones.
    pub prefix: String,
    /// How long a request waits for an answer.
    pub deadline: Duration,
    /// How long messages are kept after they were last written.
    pub messages_kept: Duration,
}

impl RedisOptions {
    /// The usual ones. The deadline is 4 ms: timers tick in milliseconds, so that it is 5 at most.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: "talkhub".to_owned(),
            deadline: Duration::from_millis(4),
            messages_kept: Duration::from_hours(1),
        }
    }
}

impl fmt::Debug for RedisOptions {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
