//! Tables that forget what was used longest ago.

use std::hash::Hash;
use std::num::NonZeroUsize;

use lru::LruCache;

/// A table of so many entries at most.
///
/// # Panics
///
/// If `max` is 0. It is a constant wherever this is called.
pub fn bounded<K: Hash + Eq, V>(max: usize) -> LruCache<K, V> {
    LruCache::new(NonZeroUsize::new(max).expect("a constant above zero"))
}
