//! What a daemon does again and again by the clock.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::Span;

use crate::shutdown::Shutdown;

/// Calls `work` at once and then every `every`, until the links close: it goes on while the daemon
/// drains. Ticks that were missed, because the process stood still, are not made up for. The daemon
/// cannot do without it: if it ends by a panic, the daemon stops.
pub fn spawn(
    span: Span,
    every: Duration,
    shutdown: &Shutdown,
    mut work: impl FnMut() + Send + 'static,
) {
    let (closing, vital) = (shutdown.clone(), shutdown.vital());
    shutdown.spawn_link(span, async move {
        let _ends_with_the_task = vital;
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = closing.closing_links() => return,
                _tick = ticks.tick() => work(),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::{Instant, timeout};

    use super::*;

    const EVERY: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_until_the_links_close() {
        let (shutdown, began) = (Shutdown::default(), Instant::now());
        let (tell, mut ticks) = mpsc::channel(9);
        spawn(Span::none(), EVERY, &shutdown, move || tell.try_send(()).expect("there is room"));
        for second in 0..3 {
            ticks.recv().await.unwrap();
            assert_eq!(began.elapsed().as_secs(), second);
        }
        shutdown.begin();
        ticks.recv().await.expect("during the drain too");
        shutdown.drain(EVERY).await.unwrap();
        assert!(ticks.recv().await.is_none() && !shutdown.failed());
    }

    #[tokio::test]
    async fn a_panic_is_the_end_of_the_daemon() {
        let shutdown = Shutdown::default();
        spawn(Span::none(), EVERY, &shutdown, || panic!("on purpose"));
        timeout(Duration::from_secs(10), shutdown.begun()).await.unwrap();
        assert!(shutdown.failed());
    }
}
