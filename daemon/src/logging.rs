//! Log lines go to standard error, as text or as JSON; panics go there too.

use std::io;
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;

use serde::Deserialize;
use tracing::error;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// The filter of the one logger that a process can have.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// Starts logging at `level`, which is a level or a list of directives.
///
/// A process has one logger: called again, as each of several daemons in one process does, this only
/// takes up the level. Without effect if the program has installed a logger of its own.
pub fn init(level: &str, format: LogFormat) {
    if FILTER.get().is_some() {
        set_level(level);
        return;
    }
    let (filter, handle) =
        reload::Layer::new(filter(level).unwrap_or_else(|_| EnvFilter::new("info")));
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        panic::set_hook(Box::new(log_panic));
        if FILTER.set(handle).is_err() {
            error!("two loggers were started at once");
        }
    }
}

/// Changes the level of a running logger.
pub(crate) fn set_level(level: &str) {
    if let (Some(handle), Ok(filter)) = (FILTER.get(), filter(level))
        && let Err(error) = handle.reload(filter)
    {
        error!(%error, "cannot change the log level");
    }
}

/// Says what is allowed if `level` is not.
pub(crate) fn check(level: &str) -> Result<(), String> {
    filter(level).map(|_filter| ()).map_err(|_error| {
        "must be error, warn, info, debug or trace, or directives such as info,daemon=debug".into()
    })
}

/// A bare word is taken by `EnvFilter` for the name of a module, so a mistyped level would silence
/// everything: it must be a level.
fn filter(level: &str) -> Result<EnvFilter, Box<dyn std::error::Error>> {
    let level = level.replace(' ', "");
    for directive in level.split(',').filter(|directive| !directive.contains('=')) {
        directive.parse::<tracing_subscriber::filter::LevelFilter>()?;
    }
    Ok(EnvFilter::try_new(level)?)
}

/// A panic is a bug of ours, and in a task it would otherwise end nothing and say little.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let text = panic.payload_as_str().unwrap_or("no text");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    error!(panic = text, place, "a task or thread has panicked");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_level_is_refused() {
        check("info").unwrap();
        check("info,daemon::link=debug").unwrap();
        check("warn, tokio=error").unwrap();
        check("verbose").unwrap_err();
        check("daemon=loud").unwrap_err();
    }
}
