//! What follows the settings when they are read again.
//!
//! It goes on while the daemon drains: what is finished then needs the links, and the others may move
//! meanwhile.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::Span;

use crate::config::Settings;
use crate::shutdown::Shutdown;

/// Calls `work` with the settings each time that they have been read again, until the links close.
pub(crate) fn each_reload<S: Settings>(
    span: Span,
    reloads: &watch::Receiver<Arc<S>>,
    shutdown: &Shutdown,
    mut work: impl FnMut(&S) + Send + 'static,
) {
    // Has seen what the daemon began with, and nothing since.
    let (mut reloads, closing, vital) = (reloads.clone(), shutdown.clone(), shutdown.vital());
    shutdown.spawn_link(span, async move {
        let _ends_with_the_task = vital;
        loop {
            tokio::select! {
                () = closing.closing_links() => return,
                changed = reloads.changed() => if changed.is_err() {
                    // There will be no reload, and what was made of the last one stays in use.
                    return closing.closing_links().await;
                },
            }
            let settings = Arc::clone(&reloads.borrow_and_update());
            work(&settings);
        }
    });
}

/// The part of the settings that `pick` names: what it is now, and again when a reload has changed it.
pub fn part<S, T>(
    span: Span,
    reloads: &watch::Receiver<Arc<S>>,
    shutdown: &Shutdown,
    pick: fn(&S) -> &T,
) -> watch::Receiver<T>
where
    S: Settings,
    T: Clone + PartialEq + Send + Sync + 'static,
{
    let (part, newest) = watch::channel(pick(&reloads.borrow()).clone());
    each_reload(span, reloads, shutdown, move |settings| {
        let now = pick(settings);
        part.send_if_modified(|part| {
            let changes = part != now;
            part.clone_from(now);
            changes
        });
    });
    newest
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::Deserialize;
    use tokio::time::timeout;

    use super::*;
    use crate::config::{ConfigError, ProcessConfig};

    const SOON: Duration = Duration::from_secs(10);

    #[derive(Debug, Clone, Default, Deserialize)]
    struct Config {
        targets: Vec<u8>,
        other: u8,
        process: ProcessConfig,
    }

    impl Settings for Config {
        const NAME: &'static str = "test";

        fn check(&self) -> Result<(), ConfigError> {
            Ok(())
        }

        fn process(&self) -> &ProcessConfig {
            &self.process
        }
    }

    fn settings(targets: &[u8], other: u8) -> Arc<Config> {
        Arc::new(Config { targets: targets.to_vec(), other, ..Config::default() })
    }

    #[tokio::test]
    async fn a_part_of_the_settings_is_followed_until_the_links_close_and_told_only_if_it_changes()
    {
        let shutdown = Shutdown::default();
        let (reload, reloads) = watch::channel(settings(&[1], 0));
        let mut targets = part(Span::none(), &reloads, &shutdown, |config| &config.targets);
        assert_eq!(*targets.borrow_and_update(), [1]);
        reload.send_replace(settings(&[1], 7));
        reload.send_replace(settings(&[1, 2], 7));
        timeout(SOON, targets.changed()).await.unwrap().unwrap();
        assert_eq!(*targets.borrow_and_update(), [1, 2]);
        assert_eq!(reloads.borrow().other, 7);

        shutdown.begin();
        // A task that waits for the shutdown sees it here.
        tokio::task::yield_now().await;
        reload.send_replace(settings(&[3], 7));
        timeout(SOON, targets.changed()).await.expect("during the drain too").unwrap();
        assert_eq!(*targets.borrow_and_update(), [3]);
        shutdown.drain(SOON).await.unwrap();
        targets.changed().await.expect_err("it is final");
    }

    #[tokio::test]
    async fn each_reload_is_told_and_not_what_the_daemon_began_with() {
        let shutdown = Shutdown::default();
        let (reload, reloads) = watch::channel(settings(&[], 1));
        let (told, mut hears) = tokio::sync::mpsc::channel(9);
        each_reload(Span::none(), &reloads, &shutdown, move |config: &Config| {
            told.try_send(config.other).expect("there is room");
        });
        for other in [2, 2, 3] {
            reload.send_replace(settings(&[], other));
            assert_eq!(timeout(SOON, hears.recv()).await.unwrap(), Some(other));
        }
        drop(reload);
        shutdown.begin();
        shutdown.drain(SOON).await.unwrap();
        assert!(!shutdown.failed(), "that there will be no reload is no failure");
    }
}
