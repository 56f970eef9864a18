//! What the store keeps of resume tokens and tickets: hashes, never what a client shows.

use std::fmt;

use proto::ids::UserId;

use crate::error::Stored;

/// How many tokens that were replaced are remembered of each family: one that is shown again was
/// copied.
pub const REPLACED_MAX: usize = 16;

/// How many families a user has at most. With one more, the one used longest ago ends.
pub const FAMILIES_MAX: usize = 16;

/// How long a family is kept after it expired, seconds: longer than clocks differ.
pub(super) const KEPT_AFTER_S: u64 = 3_600;

/// How many that expired go when one begins.
pub(super) const EXPIRED_PAGE: usize = 16;

/// The number of a family: all tokens that followed one login with a password.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FamilyId(pub [u8; 16]);

/// The SHA-256 of a token or a ticket. With 256 random bits in it, it needs no salt and no slow hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretHash(pub [u8; 32]);

/// One family as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyRow {
    /// Its number.
    pub id: FamilyId,
    /// Whose it is.
    pub user: UserId,
    /// The client kind of the login, for good.
    pub client_type: u32,
    /// The token in use.
    pub current: SecretHash,
    /// A newer one that was sent to the client, of which it is not known whether the client has kept it.
    pub next: Option<SecretHash>,
    /// Those that were replaced, the newest last, at most [`REPLACED_MAX`].
    pub replaced: Vec<SecretHash>,
    /// When it was used last, Unix seconds.
    pub used_s: u64,
    /// When it ends unless it is used, Unix seconds.
    pub expires_s: u64,
}

/// A family that begins.
#[derive(Debug, Clone)]
pub struct NewFamily {
    /// How it begins.
    pub row: FamilyRow,
    /// The stamp of the user's row that the login was checked against: the family does not begin if
    /// the row is another by now.
    pub stamp: u32,
}

/// A ticket as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketRow {
    /// The hash of its secret.
    pub hash: SecretHash,
    /// Who may log in with it.
    pub user: UserId,
    /// As which client kind.
    pub client_type: u32,
    /// When it ends, Unix seconds.
    pub expires_s: u64,
}

/// Tokens that ended before their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    /// Rises with each. A token says up to which one it is not concerned.
    pub number: u32,
    /// Whose.
    pub user: UserId,
    /// Which family; `None` = all that the user had.
    pub family: Option<FamilyId>,
}

/// The tokens' side of the store: written directly.
///
/// Whatever ends tokens of a user ([`super::UserChange::Password`], [`super::UserChange::Status`],
/// [`revoke_tokens`](Self::revoke_tokens)) ends all families and tickets of theirs, and notes a
/// revocation, in one transaction.
pub trait TokenStore: Send + Sync {
    /// Begins a family, unless the user's row is not at the stamp, or the user may not log in. The family
    /// used longest ago ends if there are [`FAMILIES_MAX`]. A few families of any user that expired an
    /// hour before `used_s` end as well, so that none stay for ever. Whether it has begun.
    fn add_family(&self, family: NewFamily) -> Stored<'_, bool>;

    /// One family, if it has not ended.
    fn family(&self, id: FamilyId) -> Stored<'_, Option<FamilyRow>>;

    /// Replaces the row `from` by `to`, which has the same number, if it is still as it was. Whether
    /// it was.
    fn change_family(&self, from: FamilyRow, to: FamilyRow) -> Stored<'_, bool>;

    /// Ends one family of a user, or all, and with all the user's tickets. Revocations noted before
    /// `forget_before_s`, Unix seconds, are forgotten.
    fn revoke_tokens(
        &self,
        user: UserId,
        family: Option<FamilyId>,
        forget_before_s: u64,
    ) -> Stored<'_, ()>;

    /// The number of the newest revocation; 0 if there was none.
    fn newest_revocation(&self) -> Stored<'_, u32>;

    /// Revocations with a number above `after`, by number, at most `count`.
    fn revocations_after(&self, after: u32, count: usize) -> Stored<'_, Vec<Revocation>>;

    /// Keeps a ticket, unless the family that it is made for has ended; `None` if an administrator
    /// makes it. Tickets that have ended by `now_s`, Unix seconds, are forgotten. Whether it is kept.
    fn add_ticket(
        &self,
        ticket: TicketRow,
        family: Option<FamilyId>,
        now_s: u64,
    ) -> Stored<'_, bool>;

    /// Takes a ticket out of the store: of several that ask for it, one gets it.
    fn take_ticket(&self, hash: SecretHash) -> Stored<'_, Option<TicketRow>>;
}

/// The columns `replaced` in bytes.
pub(super) fn joined(hashes: &[SecretHash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// What [`joined`] made.
pub(super) fn split(bytes: &[u8]) -> Vec<SecretHash> {
    bytes.as_chunks().0.iter().copied().map(SecretHash).collect()
}

impl fmt::Debug for FamilyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_kept_one_after_the_other() {
        let hashes: Vec<SecretHash> = (1..=3).map(|number| SecretHash([number; 32])).collect();
        let bytes = joined(&hashes);
        assert_eq!((bytes.len(), bytes[31], bytes[32]), (96, 1, 2));
        assert_eq!(split(&bytes), hashes);
        assert_eq!(split(&[]), []);
        assert_eq!(split(&bytes[..95]), hashes[..2], "a piece of one is none");
    }

    #[test]
    fn a_family_is_shown_by_all_digits_of_its_number() {
        let mut number = [0; 16];
        number[15] = 0xa5;
        assert_eq!(format!("{:?}", FamilyId(number)), format!("{:0>32}", "a5"));
    }

    /// A family that was replaced as often as is remembered fits its column.
    #[test]
    fn as_many_replaced_tokens_as_are_remembered_fit_their_column() {
        let replaced = vec![SecretHash([1; 32]); REPLACED_MAX];
        assert!(joined(&replaced).len() <= 1_024);
        assert!(include_str!("mysql/migrations/people_0002.sql").contains("VARBINARY(1024)"));
    }
}
