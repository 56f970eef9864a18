//! Connecting to Redis, and trying again when it is away.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, ServerErrorKind, Value};
use daemon::Shutdown;
use daemon::backoff::Backoff;
use tokio::time::{sleep, timeout};
use tracing::info_span;

use super::gate::Gate;
use super::options::RedisOptions;

/// How long a new connection may take: a name may have to be looked up, keys to be exchanged.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// How long a try may stay in Redis.
const PROBE_KEPT_MS: u64 = 1_000;

/// Requests that wait for the one connection. More requests wait for a place, each until its deadline
/// at most.
const REQUESTS_MAX: usize = 1_024;

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Trying again will not help: an operator must look. Names what it is, without the password.
    #[error("{0}")]
    Refused(String),
}

/// The server, and how it is connected to.
pub(super) struct Server {
    client: Client,
    config: AsyncConnectionConfig,
    deadline: Duration,
    probe: Vec<u8>,
}

impl fmt::Display for Server {
    /// Its address: the rest of the URL may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.get_connection_info().addr().fmt(f)
    }
}

/// Why a try failed.
pub(super) struct Failure {
    pub(super) why: String,
    /// Whether the same would come of every other try.
    pub(super) is_final: bool,
}

impl Failure {
    fn late() -> Self {
        Self { why: "no answer in time".to_owned(), is_final: false }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let text = error.to_string();
        // Some errors have several lines.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        match hint(&error) {
            Some(hint) => Self { is_final: true, why: format!("{hint} ({text})") },
            None => Self { is_final: false, why: text },
        }
    }
}

/// What an operator has to do, if trying again would come to the same.
fn hint(error: &RedisError) -> Option<&'static str> {
    use ServerErrorKind::{CrossSlot, Moved, NoPerm, ResponseError};
    match error.kind() {
        ErrorKind::AuthenticationFailed => Some("correct user and password in the URL"),
        ErrorKind::Server(NoPerm) => Some("let the user read, write and run scripts"),
        ErrorKind::Server(Moved | CrossSlot) => Some("give a server that is not part of a cluster"),
        // One of the few of this kind that pass.
        ErrorKind::Server(_) if error.to_string().contains("max number of clients") => None,
        ErrorKind::Server(ResponseError) => Some("correct the URL, or give a newer server"),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
            Some("this is no Redis: correct the URL")
        }
        ErrorKind::InvalidClientConfig => Some("correct the URL"),
        ErrorKind::Io if io_kind(error) == Some(io::ErrorKind::InvalidData) => {
            Some("no TLS with it: correct the URL, or trust its certificate")
        }
        _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => {
            Some("correct user and password in the URL")
        }
        _ => None,
    }
}

fn io_kind(error: &RedisError) -> Option<io::ErrorKind> {
    // What is inside is shared, so the source is the handle to it.
    let inside = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    inside.downcast_ref::<io::Error>().map(io::Error::kind)
}

impl Server {
    pub(super) fn new(options: &RedisOptions, probe: Vec<u8>) -> Result<Self, CacheError> {
        let client = Client::open(options.url.as_str());
        let client = client.map_err(|_may_repeat_it| {
            let must = "redis://[[user]:password@]host[:port][/db] or rediss://…";
            CacheError::Refused(format!("the URL of Redis cannot be read: it must be {must}"))
        })?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(REQUESTS_MAX);
        Ok(Self { client, config, deadline: options.deadline, probe })
    }

    /// A connection that can read, write, run scripts and ask for many keys, and does so in time.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, Failure> {
        let connect = self.client.get_multiplexed_async_connection_with_config(&self.config);
        let connected =
            timeout(CONNECT_WITHIN, connect).await.map_err(|_elapsed| Failure::late())?;
        let mut connection = connected?;
        let other = [&self.probe, b"other".as_slice()].concat();
        let mut set = ::redis::cmd("SET");
        set.arg(&self.probe).arg(1).arg("PX").arg(PROBE_KEPT_MS);
        let mut ask = ::redis::cmd("MGET");
        ask.arg(&self.probe).arg(other);
        let mut run = ::redis::cmd("EVAL");
        run.arg("return 1").arg(0);
        for probe in [set, ask, run] {
            let answer = probe.query_async::<Value>(&mut connection);
            timeout(self.deadline, answer).await.map_err(|_elapsed| Failure::late())??;
        }
        Ok(connection)
    }
}

/// Connects again whenever the gate was shut, until shutdown begins.
pub(super) fn probe(server: Server, gate: Arc<Gate>, shutdown: &Shutdown) {
    let stop = shutdown.clone();
    shutdown.spawn(info_span!("cache"), async move {
        tokio::select! {
            () = stop.begun() => {}
            () = keep_trying(&server, &gate) => {}
        }
    });
}

async fn keep_trying(server: &Server, gate: &Gate) {
    loop {
        gate.shutting().await;
        let mut backoff = Backoff::jittered();
        loop {
            match server.connect().await {
                Ok(connection) => break gate.open(connection),
                Err(failure) => gate.failed(server, &failure.why),
            }
            sleep(backoff.next_wait()).await;
        }
    }
}
