//! The smallest daemon that does everything a daemon does: it greets each client that connects, and
//! keeps the connection until the client closes it. Also what `tests/process.rs` runs.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use daemon::{
    Acceptor, BoxError, ConfigError, Context, Doors, Guest, ProcessConfig, Readiness, Serving,
    Settings, StartRefused, accept,
};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::{debug, info_span};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    listen: SocketAddr,
    greeting: String,
    #[serde(default)]
    trouble: Trouble,
    #[serde(default)]
    process: ProcessConfig,
}

/// What goes wrong, for the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Trouble {
    #[default]
    None,
    StartHangs,
    StartRefused,
    Stalls,
    VitalTaskPanics,
}

impl Settings for Config {
    const NAME: &'static str = "greeter";

    fn check(&self) -> Result<(), ConfigError> {
        if self.greeting.is_empty() {
            return Err(ConfigError::new("greeting", "must say something"));
        }
        Ok(())
    }

    fn process(&self) -> &ProcessConfig {
        &self.process
    }
}

async fn serve(context: Context<Config>) -> Result<Serving, BoxError> {
    let Context { settings, shutdown, reloads, metrics, .. } = context;
    if settings.trouble == Trouble::StartRefused {
        return Err(StartRefused("there is nobody to greet".to_owned()).into());
    }
    if settings.trouble == Trouble::StartHangs {
        debug!("the start hangs");
        std::future::pending::<()>().await;
    }
    let listener = accept::bind(settings.listen)?;
    let addr = listener.local_addr()?;
    let greeted = metrics.counter("greeted", "Clients greeted.");
    let acceptor = Acceptor::new(listener, Doors::new(100));
    let accept = acceptor.run(shutdown.clone(), move |guest: Guest| {
        let settings = Arc::clone(&reloads.borrow());
        greeted.inc();
        guest.place.settle();
        async move {
            let Guest { mut socket, place: _held, .. } = guest;
            if let Err(error) = socket.write_all(settings.greeting.as_bytes()).await {
                debug!(%error, "gone before the greeting");
            }
            while socket.read_u8().await.is_ok() {}
        }
    });
    shutdown.spawn_vital(info_span!("clients"), accept);
    if settings.trouble == Trouble::VitalTaskPanics {
        shutdown.spawn_vital(info_span!("trouble"), async { panic!("on purpose") });
    }
    let ready = Readiness::default();
    if settings.trouble == Trouble::Stalls {
        let (pulse, stop) = (ready.pulse("greeting", Duration::ZERO), shutdown.clone());
        shutdown.spawn(info_span!("stalls"), async move {
            stop.begun().await;
            drop(pulse);
        });
    }
    Ok(Serving::new(Config::NAME).listens("clients", addr).ready(ready))
}

fn main() -> ExitCode {
    daemon::run(serve)
}
