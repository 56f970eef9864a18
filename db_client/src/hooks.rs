//! Hooks: programs of the site that are asked about messages before they are admitted.
//!
//! ```text
//! follow ──► Hooks ──► hook ──► question      one HTTP request, and what its answer means
//!              └─────────┴────► settings      which messages a hook is asked about
//! ```
//!
//! # Invariants
//!
//! - A hook is asked at the edge, before a message is handed over, never by the fold: what it said stands in
//!   the record.
//! - The hooks of a message are asked one after the other, in the order of the settings; each sees what those
//!   before it have made of the text.
//! - The id of a question is the same each time that a message is asked about, so that a hook can say the same.
//!
//! # What bounds it
//!
//! At most [`HOOKS_MAX`](proto::limits::HOOKS_MAX) hooks, each with its number of open questions and its limit of
//! time: a message waits for the sum of the limits of its hooks at most. After failures in a row a hook is left
//! alone for seconds, and what its settings say for failures applies at once.

mod hook;
mod metrics;
mod question;
mod settings;
#[cfg(test)]
pub(crate) mod test;

use std::sync::Arc;

use bytes::Bytes;
use daemon::{ConfigError, Shutdown};
use proto::cluster::wire::{HookVerdict, Submit};
use proto::content::is_voice;
use proto::log::HookOutcome;
use proto::text::TextCipher;
use tokio::sync::watch;
use tracing::{error, info, info_span};

use hook::Hook;
use question::Said;

pub use metrics::HookMetrics;
pub use question::Source;
pub use settings::{AskedType, HookKind, HookSettings, OnFailure, check};

/// How messages are shown to hooks.
#[derive(Debug, Clone)]
pub struct HookOptions {
    /// The key of the site's texts.
    pub cipher: TextCipher,
    /// Where the messages of this daemon come from.
    pub source: Source,
    /// What is counted.
    pub metrics: HookMetrics,
}

/// All hooks of a daemon, as one version of the settings has them.
#[derive(Debug)]
pub struct Hooks {
    hooks: Vec<Hook>,
    options: HookOptions,
}

/// What the hooks of a message say.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It passes.
    Passes {
        /// Its new body, if one of them has changed it.
        body: Option<Bytes>,
        /// What each of them said.
        hooks: Vec<HookVerdict>,
    },
    /// One of them has refused it.
    Refused {
        /// Why, for its sender.
        reason: String,
    },
    /// One of them could not be asked, and lets nothing pass unasked.
    Failed,
}

impl Hooks {
    /// The hooks of these settings; `None` if there is none that is asked about messages of this source.
    ///
    /// # Errors
    ///
    /// If the secret or the authorities of one cannot be read.
    pub fn new(
        settings: &[HookSettings],
        options: &HookOptions,
    ) -> Result<Option<Arc<Self>>, ConfigError> {
        let is_meant = |hook: &&HookSettings| options.source == Source::Client || hook.api;
        let make = |hook: &HookSettings| Hook::new(hook.clone(), &options.metrics);
        let hooks: Vec<_> = settings.iter().filter(is_meant).map(make).collect::<Result<_, _>>()?;
        let options = options.clone();
        Ok((!hooks.is_empty()).then(|| Arc::new(Self { hooks, options })))
    }

    /// Whether any of them is asked about a message.
    pub fn want(&self, submit: &Submit) -> bool {
        self.hooks.iter().any(|hook| hook.settings.is_about(submit))
    }

    /// Asks them about a message. Takes as long as the sum of their limits at most. Cancel-safe.
    pub async fn ask(&self, submit: &Submit) -> Verdict {
        let HookOptions { cipher, source, .. } = &self.options;
        let (id, may_change) = (question::id(submit), !is_voice(submit.r#type));
        let (mut shown, mut hooks) = (submit.clone(), Vec::new());
        for hook in self.hooks.iter().filter(|hook| hook.settings.is_about(submit)) {
            let body = question::body(&shown, cipher, *source);
            let outcome = match hook.ask(&id, body, may_change).await {
                Some(Said::Allow) => HookOutcome::Allowed,
                Some(Said::Refuse(reason)) => return Verdict::Refused { reason },
                Some(Said::Change(text)) => {
                    shown.body = cipher.encrypt(&text);
                    HookOutcome::Changed
                }
                None if hook.settings.on_failure() == OnFailure::Refuse => return Verdict::Failed,
                None => HookOutcome::Failed,
            };
            hooks.push(HookVerdict { hook: hook.settings.name.clone(), outcome: outcome as u32 });
        }
        Verdict::Passes { body: (shown.body != submit.body).then_some(shown.body), hooks }
    }
}

/// Makes the hooks of the settings, and makes them anew when a reload has changed the settings. `set` is called with
/// what there is now, and with every change. Settings that cannot be used leave the hooks as they are.
///
/// # Errors
///
/// If the hooks of the settings as they are now cannot be made.
pub fn follow(
    mut settings: watch::Receiver<Vec<HookSettings>>,
    options: HookOptions,
    shutdown: &Shutdown,
    set: impl Fn(Option<Arc<Hooks>>) + Send + 'static,
) -> Result<(), ConfigError> {
    set(Hooks::new(&settings.borrow_and_update(), &options)?);
    let closing = shutdown.clone();
    shutdown.spawn_link(info_span!("hooks"), async move {
        loop {
            tokio::select! {
                () = closing.closing_links() => return,
                changed = settings.changed() => if changed.is_err() {
                    return;
                },
            }
            let hooks = Hooks::new(&settings.borrow_and_update(), &options);
            match hooks {
                Ok(hooks) => {
                    info!(count = hooks.as_ref().map_or(0, |all| all.hooks.len()), "hooks");
                    set(hooks);
                }
                Err(error) => error!(%error, "the hooks stay as they were"),
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests;
