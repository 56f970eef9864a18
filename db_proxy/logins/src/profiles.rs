//! Profiles of users: from the cache where they may be, from the store otherwise.
//!
//! # Invariants
//!
//! - Lists of what changed since a stamp come from the store. A client that got one from this process
//!   gets no older profile of the same user afterwards, whatever the cache holds: it would take the
//!   older profile for a change, and never be told of the newer one again.
//! - No user gets their own profile from the cache: they see at once what they have changed.
//! - A change that the cache did not take is seen by others after [`PROFILES_KEPT`] at the latest.
//!
//! [`PROFILES_KEPT`]: cache::PROFILES_KEPT

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use cache::{Cache, Profile, bounded};
use lru::LruCache;
use parking_lot::Mutex;
use proto::client::UserInfo;
use proto::ids::UserId;
use store::{Store, StoreError, UserChange, UserRow};

/// Users for whom it is known which profile was told last. Only the changes of the last minute matter:
/// after that time, an older profile has expired in every cache.
const TOLD_MAX: usize = 65_536;

/// Reads and changes users, with a cache beside the store. Clones share everything.
#[derive(Clone)]
pub struct Profiles {
    store: Arc<dyn Store>,
    cache: Arc<dyn Cache>,
    /// The newest stamp of each user's row that this process has told of.
    told: Arc<Mutex<LruCache<UserId, u32>>>,
}

impl fmt::Debug for Profiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profiles").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl Profiles {
    /// Users of `store`, kept in `cache`.
    pub(crate) fn new(store: Arc<dyn Store>, cache: Arc<dyn Cache>) -> Self {
        Self { store, cache, told: Arc::new(Mutex::new(bounded(TOLD_MAX))) }
    }

    /// What `asker` may be told of these users, those that exist, in the order of `users`.
    pub async fn of(&self, asker: UserId, users: &[UserId]) -> Result<Vec<UserInfo>, StoreError> {
        let others: Vec<UserId> = users.iter().copied().filter(|user| *user != asker).collect();
        let mut found: HashMap<UserId, UserInfo> = HashMap::with_capacity(users.len());
        let kept = self.cache.profiles(&others).await;
        {
            let mut told = self.told.lock();
            let new_enough = |profile: &Profile| {
                let user = UserId(profile.info.user_id);
                told.get(&user).is_none_or(|told| profile.stamp >= *told)
            };
            let kept = kept.into_iter().filter(new_enough);
            found.extend(kept.map(|profile| (UserId(profile.info.user_id), profile.info)));
        }
        let missing: Vec<UserId> =
            users.iter().copied().filter(|user| !found.contains_key(user)).collect();
        if !missing.is_empty() {
            let rows = self.store.users(missing).await?;
            found.extend(self.keep(rows).into_iter().map(|p| (UserId(p.info.user_id), p.info)));
        }
        Ok(users.iter().filter_map(|user| found.remove(user)).collect())
    }

    /// What the cache has of one user, for the time when the store is away.
    pub(crate) async fn kept(&self, user: UserId) -> Option<UserInfo> {
        let kept = self.cache.profiles(&[user]).await;
        kept.into_iter().next().map(|profile| profile.info)
    }

    /// Notes that these rows, which come from the store, are sent to a client.
    pub fn told(&self, rows: &[UserRow]) {
        let mut told = self.told.lock();
        for row in rows {
            let newest = told.get_or_insert_mut(row.id, || row.stamp);
            *newest = row.stamp.max(*newest);
        }
    }

    /// Changes one user's record.
    pub async fn change(&self, user: UserId, change: UserChange) -> Result<(), StoreError> {
        self.store.change_user(user, change).await?;
        // What was kept is older now. It ends by itself if this cannot be read or kept.
        if let Ok(rows) = self.store.users(vec![user]).await {
            self.told(&rows);
            self.keep(rows);
        }
        Ok(())
    }

    fn keep(&self, rows: Vec<UserRow>) -> Vec<Profile> {
        let profile = |row: UserRow| Profile { stamp: row.stamp, info: row.into_info() };
        let profiles: Vec<Profile> = rows.into_iter().map(profile).collect();
        self.cache.keep_profiles(&profiles);
        profiles
    }
}
