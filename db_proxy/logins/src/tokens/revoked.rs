//! Which tokens ended before their time, as far as the store has told: for the time when it is away.
//!
//! # What bounds it
//!
//! [`KEPT_MAX`] revocations. With more, nothing is believed while the store is away.

use std::collections::{HashMap, HashSet};

use store::tokens::{FamilyId, Revocation};

use crate::tokens::text::Token;

/// Revocations that are known at most, of 30 days as a rule: some 40 MB.
pub(super) const KEPT_MAX: usize = 1_000_000;

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    /// For each user, the newest number by which everything ended.
    users: HashMap<u32, u32>,
    families: HashSet<FamilyId>,
    newest: u32,
    /// All that the store had at some moment has been read.
    is_complete: bool,
}

impl Revoked {
    /// The number of the newest that is known.
    pub(super) fn newest(&self) -> u32 {
        self.newest
    }

    /// Notes what came after [`newest`](Self::newest); `is_all` if the store has no more.
    pub(super) fn note(&mut self, revocations: &[Revocation], is_all: bool) {
        for revocation in revocations {
            self.newest = self.newest.max(revocation.number);
            match revocation.family {
                Some(family) => {
                    self.families.insert(family);
                }
                None => {
                    self.users.insert(revocation.user.0, revocation.number);
                }
            }
        }
        self.is_complete |= is_all;
    }

    /// Whether the token had not ended when the store was read last. False as well if that is not
    /// known.
    pub(super) fn is_alive(&self, token: &Token) -> bool {
        self.is_complete
            && self.users.len() + self.families.len() <= KEPT_MAX
            && !self.families.contains(&token.family)
            && self.users.get(&token.user).is_none_or(|number| *number <= token.revoked)
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::UserId;

    use super::*;

    fn token(user: u32, family: u8, revoked: u32) -> Token {
        Token {
            family: FamilyId([family; 16]),
            user,
            client_type: 1,
            revoked,
            expires_s: 0,
            secret: [0; 32],
        }
    }

    fn all(number: u32, user: u32) -> Revocation {
        Revocation { number, user: UserId(user), family: None }
    }

    #[test]
    fn nothing_is_alive_before_the_store_was_heard() {
        let mut revoked = Revoked::default();
        assert!(!revoked.is_alive(&token(1, 1, 0)));
        revoked.note(&[all(1, 2)], false);
        assert!(!revoked.is_alive(&token(1, 1, 0)), "there may be more");
        revoked.note(&[], true);
        assert!(revoked.is_alive(&token(1, 1, 0)));
    }

    #[test]
    fn what_began_before_a_revocation_of_all_has_ended_and_what_began_later_has_not() {
        let mut revoked = Revoked::default();
        revoked.note(&[all(4, 1), all(6, 1)], true);
        for (user, since, alive) in
            [(1, 0, false), (1, 5, false), (1, 6, true), (1, 7, true), (2, 0, true)]
        {
            assert_eq!(revoked.is_alive(&token(user, 1, since)), alive, "{user} {since}");
        }
        assert_eq!(revoked.newest(), 6);
    }

    #[test]
    fn one_family_ends_alone() {
        let mut revoked = Revoked::default();
        let one = Revocation { number: 1, user: UserId(1), family: Some(FamilyId([1; 16])) };
        revoked.note(&[one], true);
        assert!(!revoked.is_alive(&token(1, 1, 9)) && revoked.is_alive(&token(1, 2, 0)));
    }

    #[test]
    fn with_more_than_can_be_kept_nothing_is_believed() {
        let mut revoked = Revoked::default();
        let most = u32::try_from(KEPT_MAX).unwrap();
        let many: Vec<_> = (1..=most).map(|user| all(user, user)).collect();
        revoked.note(&many, true);
        assert!(revoked.is_alive(&token(most + 1, 1, 0)));
        revoked.note(&[all(most + 2, most + 2)], true);
        assert!(!revoked.is_alive(&token(most + 1, 1, 0)));
    }

    #[test]
    fn what_was_heard_completely_stays_so_while_more_is_read() {
        let mut revoked = Revoked::default();
        revoked.note(&[], true);
        revoked.note(&[all(1, 2)], false);
        assert!(revoked.is_alive(&token(1, 1, 0)) && !revoked.is_alive(&token(2, 1, 0)));
    }
}
