//! How a client is started: which user logs in and where, and its times and bounds.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::client::ClientType;
use proto::ids::MsgId;
use proto::text::TextCipher;

use crate::backoff::Backoff;
use crate::dialer::Servers;
use crate::message::Conversation;
use crate::outbox::Outbox;
use crate::timeline::StartFrom;
use crate::tls::TlsConfig;
use crate::watcher::Watcher;

/// Which user logs in, where and how.
pub struct Options {
    /// Where the servers are.
    pub servers: Servers,
    /// Login name.
    pub name: String,
    /// Password as typed.
    pub password: String,
    /// Kind of client; decides the device class.
    pub client_type: ClientType,
    /// Which certificates to believe. With this, gateways and https login servers are spoken to
    /// with TLS, and a gateway without TLS is not spoken to.
    pub tls: Option<TlsConfig>,
    /// Where the token survives the program that it logs in with instead of the password: a file that
    /// only its owner may read. None: it is kept in memory, for the next connections of this program.
    pub token_file: Option<PathBuf>,
    /// What another client of the user has got for this one
    /// ([`Client::ticket`](crate::Client::ticket)), to log in without a password. The password may be
    /// empty then.
    pub ticket: Option<Bytes>,
    /// How texts are encrypted at this site. The default is the key of the original clients.
    pub cipher: TextCipher,
    /// Where messages without an answer survive the program. None: they do not.
    pub outbox: Option<Box<dyn Outbox>>,
    /// Where conversations begin that have no mark.
    pub start_from: StartFrom,
    /// The newest message of each conversation that the program has dealt with.
    pub marks: HashMap<Conversation, MsgId>,
    /// What else sees what comes, if anything does.
    pub watcher: Option<Arc<dyn Watcher>>,
    /// Times and bounds.
    pub limits: Limits,
}

/// Times and bounds of a client.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long connecting may take, and logging in.
    pub connect: Duration,
    /// How long an answer may take. After that a message is sent again.
    pub answer: Duration,
    /// How often the client sends a heartbeat.
    pub heartbeat: Duration,
    /// How long a gap may close by itself before the history is asked.
    pub gap_wait: Duration,
    /// Waits before a message is sent again.
    pub retry: Backoff,
    /// Waits before the next attempt to connect.
    pub reconnect: Backoff,
    /// Messages sent and unanswered at the same time. Gateways stop reading at more than 32.
    pub window: usize,
    /// Messages without an outcome at the same time. Past it, sending answers
    /// [`NotSent::Full`](crate::NotSent::Full) at once.
    pub unanswered_max: usize,
    /// Events that wait for the program. Past it, messages are held and then only counted, to be
    /// fetched later, and other events make the client stop reading.
    pub events_max: usize,
}

impl Options {
    /// The usual options: a PC client without TLS and without an outbox, from the newest on.
    pub fn new(servers: Servers, name: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            servers,
            name: name.into(),
            password: password.into(),
            client_type: ClientType::Mac,
            tls: None,
            token_file: None,
            ticket: None,
            cipher: TextCipher::default(),
            outbox: None,
            start_from: StartFrom::default(),
            marks: HashMap::new(),
            watcher: None,
            limits: Limits::default(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("servers", &self.servers)
            .field("name", &self.name)
            .finish_non_exhaustive() // The password is not shown.
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            heartbeat: Duration::from_secs(30),
            gap_wait: Duration::from_millis(200),
            retry: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            reconnect: Backoff::new(Duration::from_millis(200), Duration::from_secs(5)),
            window: 32,
            unanswered_max: 1024,
            events_max: 1024,
        }
    }
}
