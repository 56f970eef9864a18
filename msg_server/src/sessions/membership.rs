//! What one session knows of the groups that its user is in.
//!
//! News comes on two ways, an answer from storage at login and changes as they are published, and
//! either may be late. Each piece carries the version of the group's member list, and the newest
//! wins; so a change that overtakes the answer is not undone by it.
//!
//! Pure.

use proto::ids::GroupId;

/// The groups of one session.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Sorted by group. A user who was removed keeps an entry, so that late news cannot
    /// undo the removal. No larger than it must be, since there is one for each session.
    known: Box<[Known]>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    group: GroupId,
    version: u64,
    member: bool,
}

/// What a piece of news means for the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// The user is a member from now on.
    Entered,
    /// The user is no longer a member.
    Left,
}

impl Groups {
    /// Takes in that at `version` of the group's member list the user was a member, or not.
    pub(crate) fn learn(&mut self, group: GroupId, version: u64, member: bool) -> Change {
        let was = match self.known.binary_search_by_key(&group, |known| known.group) {
            Ok(index) => match self.known.get_mut(index) {
                Some(known) if version > known.version => {
                    let was = known.member;
                    *known = Known { group, version, member };
                    was
                }
                _ => return Change::None,
            },
            Err(index) => {
                let mut known = std::mem::take(&mut self.known).into_vec();
                known.insert(index, Known { group, version, member });
                self.known = known.into_boxed_slice();
                false
            }
        };
        match (was, member) {
            (false, true) => Change::Entered,
            (true, false) => Change::Left,
            _ => Change::None,
        }
    }

    /// The groups that the user is in.
    pub(crate) fn joined(&self) -> impl Iterator<Item = GroupId> {
        self.known.iter().filter(|known| known.member).map(|known| known.group)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_change_that_overtakes_the_answer_is_not_undone_by_it() {
        let mut groups = Groups::default();
        assert_eq!(
            groups.learn(GroupId(7), 5, false),
            Change::None,
            "removed before the answer came"
        );
        assert_eq!(groups.learn(GroupId(7), 4, true), Change::None, "the answer is older");
        assert_eq!(groups.joined().count(), 0);
        assert_eq!(groups.learn(GroupId(7), 6, true), Change::Entered);
        assert_eq!(groups.learn(GroupId(7), 6, true), Change::None);
        assert_eq!(groups.learn(GroupId(7), 7, false), Change::Left);
    }

    proptest! {
        #[test]
        fn the_order_of_the_news_does_not_matter(
            news in prop::collection::vec((1_u32..4, any::<bool>()), 1..12),
            seed in any::<u64>(),
        ) {
            // Each piece of news has a version of its own, as a group's list has.
            let news: Vec<(u32, u64, bool)> =
                (1..).zip(news).map(|(version, (group, member))| (group, version, member)).collect();
            let mut shuffled = news.clone();
            shuffled.sort_by_key(|(_group, version, _member)| version.wrapping_mul(seed | 1));
            let joined = |news: &[(u32, u64, bool)]| {
                let mut groups = Groups::default();
                for &(group, version, member) in news {
                    groups.learn(GroupId(group), version, member);
                }
                groups.joined().collect::<Vec<_>>()
            };
            prop_assert_eq!(joined(&news), joined(&shuffled));
        }
    }
}
