//! Random choices that can be made again.

use std::time::{SystemTime, UNIX_EPOCH};

/// Sets the seed.
const SEED: &str = "TALKHUB_SEED";

/// A source of random numbers (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A source with the seed of the environment, or a new one. Says which.
    #[expect(clippy::print_stderr, reason = "a failure must be repeatable")]
    pub fn from_env() -> Self {
        let seed = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(Self::new_seed);
        eprintln!("{SEED}={seed}");
        Self::from_seed(seed)
    }

    /// A new seed, from the clock.
    pub fn new_seed() -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::from(now.subsec_nanos()) << 20 ^ now.as_secs()
    }

    /// The source with this seed.
    pub const fn from_seed(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number from 0 up to, and without, `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is a number to choose");
        // The bias is of no consequence for bounds far below 2^64.
        self.next() % bound
    }

    /// A place in a list of this length, which has some.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("an index fits")
    }

    /// Puts `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.index(last + 1);
            items.swap(last, other);
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_choices_again() {
        let choices = || {
            let mut random = Random::from_seed(7);
            let mut items = [1, 2, 3, 4, 5, 6];
            random.shuffle(&mut items);
            (items, random.below(1000))
        };
        assert_eq!(choices(), choices());
    }
}
