//! Images of logs of every kind, damaged or torn: as many as one likes.
//!
//! ```text
//! TALKHUB_IMAGES=10000 cargo test --release -p record_log images -- --nocapture
//! ```
//!
//! `TALKHUB_IMAGES` is how many images there are of each kind; `TALKHUB_SEED` makes other ones. What
//! was looked at is printed, and a run in which something never came up fails.
//!
//! # What is promised
//!
//! A batch is *proven* if a header on the disk says that it was flushed, or if a later segment
//! exists. Damage to what is proven is found at the opening: the log is refused, with file, place
//! and remedy, and no byte is changed (`damaged`). What is not proven is at most the last batch: of
//! that, after a torn write, there is all or nothing, and everything before it is there (`torn`).
//!
//! # What cannot be promised
//!
//! The last batch is proven by the next header: the next batch, or the marker of an idle or closed
//! log. Until then nothing tells bit rot in it from a write that was torn, although its append may
//! have returned: it is cut off. The same goes for the last segment as a whole, put back as it was
//! at an earlier time: only the store can tell, if it has applied more, and then it does.

mod damaged;
mod torn;
mod written;

use std::collections::BTreeMap;

use super::*;
use written::{Piece, Written};

/// How many images of each kind there are, if the environment does not say.
const IMAGES: u64 = 150;

fn images_wanted() -> usize {
    usize::try_from(number_from_env("TALKHUB_IMAGES", IMAGES)).unwrap()
}

fn seed() -> u64 {
    number_from_env("TALKHUB_SEED", 1)
}

/// Counts what came up, and sees to it that everything did.
#[derive(Debug, Default)]
struct Tally(BTreeMap<String, (usize, usize)>);

impl Tally {
    /// One more of these, which was, or was not, as it should be.
    fn count(&mut self, what: &str, is_right: bool) {
        let (seen, right) = self.0.entry(what.to_owned()).or_default();
        *seen += 1;
        *right += usize::from(is_right);
    }

    /// Prints the counts. Fails if there are fewer than `min` of one of `expected`, or if something
    /// was not as it should be.
    fn finish(&self, title: &str, expected: &[&str], min: usize) {
        let total: usize = expected.iter().map(|what| self.seen(what)).sum();
        println!("{title}: {total} images, TALKHUB_SEED={}", seed());
        for (what, (seen, right)) in &self.0 {
            println!("  {what:50} {seen:8}, as it should be {right:8}");
            assert_eq!(seen, right, "{what}");
        }
        for what in expected {
            assert!(self.seen(what) >= min, "only {} of: {what}", self.seen(what));
        }
    }

    fn seen(&self, what: &str) -> usize {
        self.0.get(what).map_or(0, |(seen, _)| *seen)
    }
}

/// Says which image it was if a check fails.
struct OnFailure<'a>(&'a str, u64, usize);

impl Drop for OnFailure<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(kind, seed, number) = self;
            println!("TALKHUB_SEED={seed}: image {number} of kind: {kind}");
        }
    }
}

/// A number from the environment, or what it is if there is none.
fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text}")),
        Err(_) => default,
    }
}
