//! Which link is used for which partition: the one that claims it with the largest epoch now.
//!
//! Pure: a link is a type of the caller's.
//!
//! # Invariants
//!
//! - A partition's owner is a link that claims it now, and none claims it with a larger epoch.
//! - Of two with the same epoch the one that is used stays.
//! - Every change of an owner is told once, by the call that made it; a larger epoch of the same link
//!   is a change too, since the link may have forgotten what it was given before.

use proto::cluster::wire::Owned;

/// The links, what each of them claims, and what follows from it.
#[derive(Debug)]
pub struct Claims<L> {
    /// Oldest first.
    links: Vec<Claim<L>>,
    /// By partition.
    owners: Vec<Place<L>>,
    /// How many changes of owners there were.
    moves: u64,
}

#[derive(Debug)]
struct Claim<L> {
    link: L,
    owned: Vec<Owned>,
    logins: bool,
}

#[derive(Debug)]
struct Place<L> {
    owner: Option<Owner<L>>,
    /// The epoch of the last owner.
    last_epoch: u64,
    /// Which change of owners was its last one.
    moved: u64,
}

/// The db_proxy that owns a partition, and the link to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner<L> {
    /// The link to it.
    pub link: L,
    /// Since which epoch.
    pub epoch: u64,
}

/// A partition whose owner has changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Move<L> {
    /// Which partition.
    pub partition: u32,
    /// Its owner now.
    pub owner: Option<Owner<L>>,
    /// Whether another owner had it before. False for the first owner, and for the same owner on
    /// another link.
    pub is_takeover: bool,
}

impl<L> Default for Claims<L> {
    fn default() -> Self {
        Self { links: Vec::new(), owners: Vec::new(), moves: 0 }
    }
}

impl<L: Clone + PartialEq> Claims<L> {
    /// A link is up. It claims nothing yet.
    pub fn add(&mut self, link: L) {
        self.links.push(Claim { link, owned: Vec::new(), logins: false });
    }

    /// Sets how many partitions there are. Returns whether that was unknown before.
    pub fn set_partitions(&mut self, partitions: u32) -> bool {
        let is_news = self.owners.is_empty();
        let place = || Place { owner: None, last_epoch: 0, moved: 0 };
        self.owners.resize_with(partitions as usize, place);
        is_news
    }

    /// A link claims these partitions and no others. Returns what that changes.
    pub fn claim(&mut self, link: &L, owned: Vec<Owned>, logins: bool) -> Vec<Move<L>> {
        // A link that is down already claims nothing.
        if let Some(claim) = self.links.iter_mut().find(|claim| claim.link == *link) {
            claim.owned = owned;
            claim.logins = logins;
        }
        self.choose()
    }

    /// A link is down. Returns what that changes.
    pub fn remove(&mut self, link: &L) -> Vec<Move<L>> {
        self.links.retain(|claim| claim.link != *link);
        self.choose()
    }

    fn choose(&mut self) -> Vec<Move<L>> {
        let mut moves = Vec::new();
        for (partition, place) in (0..).zip(&mut self.owners) {
            let mut best: Option<Owner<L>> = None;
            for Claim { link, owned, .. } in &self.links {
                let epochs = owned.iter().filter(|owned| owned.partition == partition);
                let Some(epoch) = epochs.map(|owned| owned.epoch).max() else { continue };
                let is_used = place.owner.as_ref().is_some_and(|owner| owner.link == *link);
                let is_better = best
                    .as_ref()
                    .is_none_or(|best| epoch > best.epoch || epoch == best.epoch && is_used);
                if is_better {
                    best = Some(Owner { link: link.clone(), epoch });
                }
            }
            if place.owner != best {
                let epoch = best.as_ref().map_or(0, |owner| owner.epoch);
                let is_takeover = place.last_epoch > 0 && epoch > place.last_epoch;
                place.last_epoch = place.last_epoch.max(epoch);
                place.owner.clone_from(&best);
                self.moves += 1;
                place.moved = self.moves;
                moves.push(Move { partition, owner: best, is_takeover });
            }
        }
        moves
    }

    /// The owner of a partition.
    pub fn owner(&self, partition: u32) -> Option<&L> {
        let place = self.owners.get(partition as usize)?;
        place.owner.as_ref().map(|owner| &owner.link)
    }

    /// A number that changes whenever the owner of one of these partitions changes; `None` while one of
    /// them has no owner.
    pub fn moved(&self, partitions: impl IntoIterator<Item = u32>) -> Option<u64> {
        partitions.into_iter().try_fold(0, |last: u64, partition| {
            let place = self.owners.get(partition as usize)?;
            place.owner.as_ref().map(|_owner| last.max(place.moved))
        })
    }

    /// How many partitions have no owner.
    pub fn without_owner(&self) -> usize {
        self.owners.iter().filter(|place| place.owner.is_none()).count()
    }

    /// Whether every partition has an owner, and it is known how many there are.
    pub fn is_whole(&self) -> bool {
        !self.owners.is_empty() && self.without_owner() == 0
    }

    /// The links that serve what belongs to users.
    pub(crate) fn serve_logins(&self) -> impl Iterator<Item = &L> {
        self.links.iter().filter(|claim| claim.logins).map(|claim| &claim.link)
    }

    /// The links to ask about these partitions, each with the partitions to ask it about; `None` if one
    /// of them has no owner.
    pub(crate) fn shares(
        &self,
        partitions: impl IntoIterator<Item = u32>,
    ) -> Option<Vec<(L, Vec<u32>)>> {
        let mut shares: Vec<(L, Vec<u32>)> = Vec::new();
        for partition in partitions {
            let owner = self.owner(partition)?;
            match shares.iter_mut().find(|(link, _partitions)| link == owner) {
                Some((_link, partitions)) => partitions.push(partition),
                None => shares.push((owner.clone(), vec![partition])),
            }
        }
        Some(shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u8 = b'A';
    const B: u8 = b'B';

    fn claims(partitions: u32) -> Claims<u8> {
        let mut claims = Claims::default();
        claims.set_partitions(partitions);
        claims.add(A);
        claims.add(B);
        claims
    }

    fn owned(pairs: &[(u32, u64)]) -> Vec<Owned> {
        pairs.iter().map(|&(partition, epoch)| Owned { partition, epoch }).collect()
    }

    fn told(moves: &[Move<u8>]) -> Vec<(u32, Option<u8>, bool)> {
        let told = |one: &Move<u8>| {
            (one.partition, one.owner.as_ref().map(|owner| owner.link), one.is_takeover)
        };
        moves.iter().map(told).collect()
    }

    #[test]
    fn the_largest_epoch_wins_and_the_smaller_comes_back_when_it_is_given_up() {
        let mut claims = claims(2);
        let moves = claims.claim(&A, owned(&[(0, 5), (1, 5)]), true);
        assert_eq!(told(&moves), [(0, Some(A), false), (1, Some(A), false)]);
        let moves = claims.claim(&B, owned(&[(1, 6)]), false);
        assert_eq!(told(&moves), [(1, Some(B), true)], "A has not noticed yet");
        assert!(claims.claim(&A, owned(&[(0, 5)]), true).is_empty());
        assert_eq!((claims.owner(0), claims.owner(1)), (Some(&A), Some(&B)));
        assert_eq!(told(&claims.remove(&B)), [(1, None, false)]);
        assert_eq!((claims.owner(1), claims.without_owner()), (None, 1));
        let moves = claims.claim(&A, owned(&[(0, 5), (1, 7)]), true);
        assert_eq!(told(&moves), [(1, Some(A), true)]);
    }

    #[test]
    fn of_two_with_the_same_epoch_the_one_that_is_used_stays() {
        let mut claims = claims(1);
        claims.claim(&B, owned(&[(0, 5)]), true);
        assert!(claims.claim(&A, owned(&[(0, 5)]), true).is_empty());
        assert_eq!(claims.owner(0), Some(&B));
        // The same owner on another link: no takeover.
        assert_eq!(told(&claims.remove(&B)), [(0, Some(A), false)]);
    }

    #[test]
    fn a_link_that_has_a_partition_again_is_a_new_owner() {
        let mut claims = claims(1);
        claims.claim(&A, owned(&[(0, 5)]), true);
        assert_eq!(told(&claims.claim(&A, owned(&[(0, 6)]), true)), [(0, Some(A), true)]);
        assert!(claims.claim(&A, owned(&[(0, 6)]), true).is_empty());
        let before = claims.moved([0]);
        claims.claim(&A, owned(&[(0, 7)]), true);
        assert!(before.is_some() && claims.moved([0]).is_some_and(|now| Some(now) != before));
        assert_eq!(told(&claims.claim(&A, Vec::new(), true)), [(0, None, false)]);
    }

    #[test]
    fn a_link_that_is_down_claims_nothing() {
        let mut claims = claims(1);
        claims.remove(&A);
        assert!(claims.claim(&A, owned(&[(0, 5)]), true).is_empty());
        assert!(!claims.is_whole());
        claims.claim(&B, owned(&[(0, 5), (9, 5)]), false);
        assert!(claims.is_whole() && claims.serve_logins().next().is_none());
        claims.claim(&B, owned(&[(0, 5)]), true);
        assert!(claims.is_whole() && claims.serve_logins().eq([&B]));
    }

    #[test]
    fn each_owner_is_asked_about_what_it_owns_and_none_if_a_partition_has_no_owner() {
        let mut claims = claims(4);
        claims.claim(&A, owned(&[(0, 1), (2, 1)]), true);
        claims.claim(&B, owned(&[(1, 1)]), true);
        assert_eq!(claims.shares(0..3), Some(vec![(A, vec![0, 2]), (B, vec![1])]));
        assert_eq!(claims.shares(0..4), None);
        assert_eq!(claims.moved(0..4), None);
        assert_eq!(claims.shares([2]), Some(vec![(A, vec![2])]));
    }

    #[test]
    fn only_an_epoch_beyond_all_before_it_is_a_takeover() {
        let mut claims = claims(1);
        let one = |link, epoch| (link, owned(&[(0, epoch)]));
        for ((link, owned), is_takeover) in [
            (one(A, 5), false),
            // An owner of before, which is heard of late.
            (one(B, 4), false),
            (one(B, 5), false),
            (one(B, 6), true),
            (one(A, 3), false),
            (one(A, 6), false),
            (one(A, 7), true),
        ] {
            let other = if link == A { B } else { A };
            claims.claim(&other, Vec::new(), true);
            let moves = claims.claim(&link, owned, true);
            assert_eq!(told(&moves), [(0, Some(link), is_takeover)], "{moves:?}");
        }
    }

    #[test]
    fn of_a_link_that_claims_a_partition_twice_the_larger_epoch_counts() {
        let mut claims = claims(1);
        let moves = claims.claim(&A, owned(&[(0, 3), (0, 8), (0, 5)]), true);
        assert_eq!(moves[0].owner, Some(Owner { link: A, epoch: 8 }));
        assert!(claims.claim(&B, owned(&[(0, 7)]), true).is_empty());
    }

    #[test]
    fn a_move_of_a_partition_is_none_of_another() {
        let mut claims = claims(3);
        assert!(!claims.set_partitions(3), "it is known");
        assert_eq!((claims.without_owner(), claims.moved([])), (3, Some(0)));
        claims.claim(&A, owned(&[(0, 1), (1, 1)]), true);
        let before = [claims.moved([0]), claims.moved([1]), claims.moved([0, 1])];
        claims.claim(&B, owned(&[(1, 2)]), true);
        assert_eq!(claims.moved([0]), before[0]);
        assert!(claims.moved([1]) > before[1] && claims.moved([0, 1]) > before[2]);
        assert_eq!((claims.moved([1, 2]), claims.moved([9])), (None, None));
        assert_eq!(claims.shares([9]), None, "there is no such partition");
    }

    #[test]
    fn logins_are_served_by_the_links_that_say_so_now() {
        let mut claims = claims(1);
        claims.claim(&A, Vec::new(), true);
        claims.claim(&B, Vec::new(), true);
        assert!(claims.serve_logins().eq([&A, &B]));
        claims.claim(&A, Vec::new(), false);
        assert!(claims.serve_logins().eq([&B]));
        claims.remove(&B);
        assert_eq!(claims.serve_logins().next(), None);
    }
}
