//! How many groups one user may make, and be in.
//!
//! What a user has made is known exactly. What others are in is read from the store, which is a moment
//! behind, so that the bound may be passed by what was added in that moment. Administrators are not
//! bound.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use proto::ids::UserId;
use store::{StoreError, UserConversation};

use crate::partitions::Partitions;

/// How many groups one user may make, and be in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupLimits {
    /// Made by the user, and not deleted.
    pub(crate) made: u32,
    /// The user is a member of.
    pub(crate) joined: u32,
}

impl GroupLimits {
    /// Whether the user may make one more group.
    pub(super) async fn may_make(
        self,
        partitions: &Partitions,
        user: UserId,
    ) -> Result<bool, StoreError> {
        let stores = (0..).zip(partitions.stores());
        let lists = stores.map(|(number, store)| async move {
            match partitions.get(number) {
                Some(served) => served.partition.state().conversations_of(user).await,
                None => store.conversations_of(user).await,
            }
        });
        let lists: Vec<Vec<UserConversation>> = try_join_all(lists).await?;
        let is_made = |seen: &&UserConversation| {
            let group = seen.row.group.as_ref();
            group.is_some_and(|group| group.creator == user && !group.deleted)
        };
        let made = lists.iter().flatten().filter(is_made).count();
        Ok(made < self.made as usize)
    }

    /// Those of the users that may be in one more group.
    pub(super) async fn with_room(
        self,
        partitions: &Partitions,
        users: Vec<UserId>,
    ) -> Result<Vec<UserId>, StoreError> {
        let stores = partitions.stores().iter();
        let counts = try_join_all(stores.map(|store| store.groups_joined(users.clone()))).await?;
        let mut joined: BTreeMap<UserId, u32> = BTreeMap::new();
        for (user, count) in counts.into_iter().flatten() {
            *joined.entry(user).or_default() += count;
        }
        let has_room = |user: &UserId| joined.get(user).is_none_or(|count| *count < self.joined);
        Ok(users.into_iter().filter(has_room).collect())
    }
}
