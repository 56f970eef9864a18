//! What becomes of a family of tokens when one is shown, sent and kept.
//!
//! A family has a token in use. After each login a newer one is sent. Only when the client says that it
//! has kept that, or shows it, the older one ends: an answer that is lost on the way does not end a
//! login. A token that is shown after it ended has two holders, of which one is not its owner: the family
//! ends, and the password is needed again (RFC 9700, section 4.14.2).
//!
//! Pure: rows and times are arguments, in Unix seconds.

use store::tokens::{FamilyRow, REPLACED_MAX, SecretHash};

/// How far the clocks of db_proxies may differ, in seconds: so much later a token is still taken.
pub(super) const SKEW_S: u64 = 60;

/// What is to be thought of a token that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// It is the one in use, or the one that was sent last.
    Good,
    /// It ended when a newer one took its place.
    Replaced,
    /// It is none of the family, or its time is over.
    Void,
}

/// Judges a token by its hash.
pub(super) fn judge(family: &FamilyRow, shown: SecretHash, now_s: u64) -> Shown {
    // A clock that was set back does not make a token last longer than it was seen to.
    let now_s = now_s.max(family.used_s);
    if now_s > family.expires_s.saturating_add(SKEW_S) {
        return Shown::Void;
    }
    // Only hashes are compared: how long that takes tells nothing about a token.
    if family.current == shown || family.next == Some(shown) {
        Shown::Good
    } else if family.replaced.contains(&shown) {
        Shown::Replaced
    } else {
        Shown::Void
    }
}

/// The family after a newer token was made, good until `expires_s`, for a client that shows `shown` at
/// `now_s`. `None` if that is none to go on from.
pub(super) fn sent(
    family: &FamilyRow,
    shown: SecretHash,
    newer: SecretHash,
    now_s: u64,
    expires_s: u64,
) -> Option<FamilyRow> {
    if judge(family, shown, now_s) != Shown::Good {
        return None;
    }
    let mut family = kept(family, shown)?;
    // A token that was sent and never kept is known only to a program that read what was sent.
    replace(&mut family.replaced, family.next.replace(newer));
    Some(FamilyRow { used_s: now_s.max(family.used_s), expires_s, ..family })
}

/// The family once its client has that token. `None` if it is none of the two that it may have.
pub(super) fn kept(family: &FamilyRow, token: SecretHash) -> Option<FamilyRow> {
    let mut family = family.clone();
    if family.next == Some(token) {
        let older = std::mem::replace(&mut family.current, token);
        family.next = None;
        replace(&mut family.replaced, Some(older));
    }
    (family.current == token).then_some(family)
}

fn replace(replaced: &mut Vec<SecretHash>, older: Option<SecretHash>) {
    replaced.extend(older);
    let surplus = replaced.len().saturating_sub(REPLACED_MAX);
    replaced.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::ids::UserId;
    use store::tokens::FamilyId;

    use super::*;

    const LIFE_S: u64 = 1_000;

    fn hash(number: u8) -> SecretHash {
        SecretHash([number; 32])
    }

    fn family() -> FamilyRow {
        FamilyRow {
            id: FamilyId([1; 16]),
            user: UserId(1),
            client_type: 1,
            current: hash(0),
            next: None,
            replaced: Vec::new(),
            used_s: 100,
            expires_s: 100 + LIFE_S,
        }
    }

    fn next(family: &FamilyRow, shown: u8, newer: u8) -> Option<FamilyRow> {
        sent(family, hash(shown), hash(newer), 100, 100 + LIFE_S)
    }

    #[test]
    fn a_token_goes_on_until_a_newer_one_is_kept_or_shown() {
        let sent = next(&family(), 0, 1).unwrap();
        for shown in [0, 1] {
            assert_eq!(judge(&sent, hash(shown), 100), Shown::Good, "{shown}");
        }
        let said = kept(&sent, hash(1)).unwrap();
        let shown = next(&sent, 1, 2).unwrap();
        for family in [said, shown] {
            assert_eq!(judge(&family, hash(0), 100), Shown::Replaced);
            assert_eq!(judge(&family, hash(1), 100), Shown::Good);
        }
        assert_eq!(kept(&sent, hash(0)), Some(sent.clone()), "nothing new");
        assert_eq!(kept(&sent, hash(9)), None);
        assert_eq!(next(&sent, 9, 2), None);
    }

    #[test]
    fn one_that_was_sent_and_not_kept_ends_with_the_next_one_that_is_sent() {
        let again = next(&next(&family(), 0, 1).unwrap(), 0, 2).unwrap();
        assert_eq!(judge(&again, hash(0), 100), Shown::Good);
        assert_eq!(judge(&again, hash(1), 100), Shown::Replaced);
        assert_eq!(judge(&again, hash(2), 100), Shown::Good);
    }

    #[test]
    fn of_many_that_were_replaced_the_newest_are_remembered() {
        let mut family = family();
        let last = u8::try_from(REPLACED_MAX + 2).unwrap();
        for newer in 1..=last {
            family = kept(&next(&family, newer - 1, newer).unwrap(), hash(newer)).unwrap();
        }
        for (shown, expected) in [
            (last, Shown::Good),
            (last - 1, Shown::Replaced),
            (2, Shown::Replaced),
            (1, Shown::Void),
        ] {
            assert_eq!(judge(&family, hash(shown), 100), expected, "{shown}");
        }
    }

    #[test]
    fn a_token_ends_in_time_and_no_clock_that_goes_back_makes_it_last() {
        let end_s = 100 + LIFE_S + SKEW_S;
        assert_eq!(judge(&family(), hash(0), end_s), Shown::Good);
        assert_eq!(judge(&family(), hash(0), end_s + 1), Shown::Void);
        let used_late = FamilyRow { used_s: end_s + 1, ..family() };
        assert_eq!(judge(&used_late, hash(0), 0), Shown::Void);
        assert_eq!(sent(&family(), hash(0), hash(1), end_s + 1, u64::MAX), None);

        for (now_s, used_s) in [(50, 100), (200, 200)] {
            let renewed = sent(&family(), hash(0), hash(1), now_s, 9_000).unwrap();
            assert_eq!((renewed.used_s, renewed.expires_s), (used_s, 9_000));
        }
    }

    proptest! {
        /// Two hold copies of one token and do as they like. Once one of them has a newer one for good,
        /// whatever the other shows is noticed or of no use.
        #[test]
        fn of_two_with_copies_one_at_most_goes_on(
            steps in prop::collection::vec((0..2_usize, any::<bool>()), 1..60),
        ) {
            let mut row = Some(family());
            let mut holds = [0_u8, 0];
            let mut newest = 0;
            for (who, keeps) in steps {
                let Some(now) = &row else { break };
                match judge(now, hash(holds[who]), 100) {
                    Shown::Good => {
                        newest += 1;
                        let after = next(now, holds[who], newest).unwrap();
                        row = Some(after.clone());
                        if keeps {
                            holds[who] = newest;
                            row = kept(&after, hash(newest));
                            prop_assert!(row.is_some());
                            let other = judge(row.as_ref().unwrap(), hash(holds[1 - who]), 100);
                            prop_assert_ne!(other, Shown::Good);
                        }
                    }
                    Shown::Replaced => row = None,
                    Shown::Void => prop_assert!(usize::from(newest) > REPLACED_MAX),
                }
            }
        }
    }
}
