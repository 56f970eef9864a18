//! Closing many connections, some at a time: their clients come back at once, here or elsewhere.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::client::closing::CloseReason;
use crate::client::outbox::Outbox;

/// Closes connections, some at a time, so that their clients do not all come back at once. What is in
/// flight on each is finished first.
pub(crate) async fn close_in_waves(
    mut outboxes: Vec<Arc<Outbox>>,
    reason: CloseReason,
    within: Duration,
) {
    const WAVES: u32 = 20;
    let count = outboxes.len();
    for wave in 0..WAVES {
        let left = usize::try_from(WAVES - wave).unwrap_or(1);
        let share = outboxes.len().div_ceil(left);
        for outbox in outboxes.drain(..share.min(outboxes.len())) {
            outbox.close_after_work(reason);
        }
        if outboxes.is_empty() {
            break;
        }
        // A handful of clients need no spreading.
        if count > 100 {
            sleep(jittered(within / WAVES)).await;
        }
    }
}

/// A pause of about this length, so that gateways that have begun together do not go on together.
pub(crate) fn jittered(pause: Duration) -> Duration {
    // Each `RandomState` has keys of its own.
    let random = RandomState::new().hash_one(0) % 1000;
    let random = u32::try_from(random).unwrap_or(0);
    pause / 2 + pause / 1000 * random
}
