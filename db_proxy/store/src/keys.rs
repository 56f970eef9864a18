//! What the store keeps of the keys that programs show to the HTTP API: hashes, never the secrets.

use std::fmt;

use crate::error::Stored;
use crate::tokens::SecretHash;

/// The public part of a key, by which it is found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiKeyId(pub [u8; 8]);

/// A key as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRow {
    /// Its public part.
    pub id: ApiKeyId,
    /// What people call it. Unique.
    pub name: String,
    /// The hash of its secret part.
    pub hash: SecretHash,
    /// What it may be used for, one bit for each scope.
    pub scopes: u32,
    /// Requests a second that it may make; 0 = as many as the site allows.
    pub rate: u32,
    /// When it was made, Unix seconds.
    pub made_s: u64,
    /// When it ends, Unix seconds; 0 = never.
    pub expires_s: u64,
    /// When it was used last, Unix seconds, about; 0 = never.
    pub used_s: u64,
}

/// The keys' side of the store: written directly.
pub trait KeyStore: Send + Sync {
    /// Keeps a key, unless there is one of its name or with its id. Whether it is kept.
    fn add_key(&self, key: ApiKeyRow) -> Stored<'_, bool>;

    /// One key.
    fn key(&self, id: ApiKeyId) -> Stored<'_, Option<ApiKeyRow>>;

    /// All keys, by name.
    fn keys(&self) -> Stored<'_, Vec<ApiKeyRow>>;

    /// Notes when a key was used, unless a later time is noted.
    fn use_key(&self, id: ApiKeyId, used_s: u64) -> Stored<'_, ()>;

    /// Forgets a key, for good. Whether there was one.
    fn forget_key(&self, name: String) -> Stored<'_, bool>;
}

impl fmt::Debug for ApiKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_by_all_digits_of_its_public_part() {
        assert_eq!(format!("{:?}", ApiKeyId([0, 0, 0, 0, 0, 0, 0, 0xa5])), "00000000000000a5");
    }
}
