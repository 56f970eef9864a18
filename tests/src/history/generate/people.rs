//! The devices of a generated history, and what is for them.

use std::collections::BTreeMap;

use super::{OUTSIDERS, PEOPLE};
use crate::history::entitled::is_party;
use crate::history::event::Conv;

/// How a device receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As a client that keeps its contract.
    Library,
    /// As an old one.
    Phone,
}

/// A user's device.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) user: u32,
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) is_online: bool,
    /// The next number of each conversation, where it is not 1.
    pub(super) next: BTreeMap<Conv, u32>,
}

impl Device {
    pub(super) const fn new(user: u32, number: u32, kind: Kind) -> Self {
        Self { user, number, kind, is_online: false, next: BTreeMap::new() }
    }

    const fn is_outsider(&self) -> bool {
        self.user > PEOPLE
    }

    /// The conversations that may be for it.
    pub(super) fn convs(&self) -> impl Iterator<Item = Conv> + use<> {
        let user = self.user;
        let all = if self.is_outsider() {
            vec![Conv::group(2)]
        } else {
            let (next, before) = (user % PEOPLE + 1, (user + PEOPLE - 2) % PEOPLE + 1);
            let pairs = [Conv::single(user, next), Conv::single(user, before)];
            [Conv::group(2), Conv::group(1)].into_iter().chain(pairs).collect()
        };
        all.into_iter()
    }

    /// Whether a conversation is for it at present.
    pub(super) fn is_in(&self, conv: Conv, joined: &[Option<u32>]) -> bool {
        match is_party(conv, self.user) {
            Some(is_party) => is_party,
            None if self.is_outsider() => conv == Conv::group(2) && self.joined(joined).is_some(),
            None => true,
        }
    }

    /// The first number of a conversation that is for it.
    pub(super) fn first(&self, conv: Conv, joined: &[Option<u32>]) -> u32 {
        let is_group = is_party(conv, self.user).is_none();
        self.joined(joined).filter(|_| is_group).unwrap_or(1)
    }

    fn joined(&self, joined: &[Option<u32>]) -> Option<u32> {
        debug_assert_eq!(joined.len(), OUTSIDERS as usize);
        let outsider = self.user.checked_sub(PEOPLE + 1)?;
        joined.get(outsider as usize).copied().flatten()
    }

    /// Whether the history has something that it has not got.
    pub(super) fn lacks(&self, conv: Conv, stored: usize) -> bool {
        self.next.get(&conv).copied().unwrap_or(1) as usize <= stored
    }
}
