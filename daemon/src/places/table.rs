//! Which guests have a place, and which one gives way. Pure: time is an argument.
//!
//! # Invariants
//!
//! - There are never more guests than places.
//! - The guest that is named to give way is one that may, has been silent for [`SILENT_MIN`], and is the one
//!   that has been silent for longest; no guest is named twice.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::network::Origin;

/// A guest gives way only after so much silence: what a client has sent may be on its way, or wait for
/// its turn here when many come at once.
pub(super) const SILENT_MIN: Duration = Duration::from_millis(20);

/// The guests of one port. `T` is how a guest is told to go.
#[derive(Debug)]
pub(super) struct Table<T> {
    places: usize,
    /// For each origin; 0 is no limit.
    per_origin: usize,
    guests: HashMap<u64, Guest<T>>,
    origins: HashMap<Origin, Share>,
    /// Those that may have to go, longest silent first.
    silent: BTreeMap<u64, u64>,
    next: u64,
}

#[derive(Debug)]
struct Guest<T> {
    origin: Option<Origin>,
    /// Its number among the silent, if it is one of them.
    since: Option<u64>,
    heard: Instant,
    tell: T,
}

/// What one origin has.
#[derive(Debug, Default)]
struct Share {
    guests: usize,
    /// As [`Table::silent`], of this origin alone.
    silent: BTreeMap<u64, u64>,
}

/// Which guest gives way to a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way<T> {
    /// The one that is told so.
    Made(T),
    /// None yet: one may be told to after this time.
    In(Duration),
    /// None can be told to give way.
    Barred,
}

impl<T: Clone> Table<T> {
    pub(super) fn new(places: usize, per_origin: usize) -> Self {
        Self {
            places,
            per_origin,
            guests: HashMap::new(),
            origins: HashMap::new(),
            silent: BTreeMap::new(),
            next: 0,
        }
    }

    /// Gives a place to a newcomer that is known by nothing yet; `None` if all are taken.
    pub(super) fn enter(&mut self, tell: T, now: Instant) -> Option<u64> {
        if self.guests.len() >= self.places {
            return None;
        }
        let id = self.number();
        self.guests.insert(id, Guest { origin: None, since: Some(id), heard: now, tell });
        self.silent.insert(id, id);
        Some(id)
    }

    /// Counts a guest for its origin. If the origin has too many, says which of them gives way; if none
    /// can, the guest has to go itself.
    pub(super) fn belongs(&mut self, id: u64, origin: Origin, now: Instant) -> Option<Way<T>> {
        let guests = self.origins.get(&origin).map_or(0, |share| share.guests);
        let way = if self.per_origin > 0 && guests >= self.per_origin {
            let silent = self.origins.get(&origin).and_then(|share| share.silent.first_key_value());
            match self.way(silent.map(|(_since, id)| *id), now) {
                Way::Made(tell) => Some(Way::Made(tell)),
                barred => return Some(barred),
            }
        } else {
            None
        };
        let guest = self.guests.get_mut(&id)?;
        guest.origin = Some(origin);
        let share = self.origins.entry(origin).or_default();
        share.guests += 1;
        if let Some(since) = guest.since {
            share.silent.insert(since, id);
        }
        way
    }

    /// Which guest gives way to a newcomer when all places are taken.
    pub(super) fn make_way(&mut self, now: Instant) -> Way<T> {
        let longest = self.silent.first_key_value().map(|(_since, id)| *id);
        self.way(longest, now)
    }

    fn way(&mut self, longest: Option<u64>, now: Instant) -> Way<T> {
        let Some(guest) = longest.and_then(|id| self.guests.get(&id)) else { return Way::Barred };
        let silent = now.saturating_duration_since(guest.heard);
        let left = SILENT_MIN.saturating_sub(silent);
        if !left.is_zero() {
            return Way::In(left);
        }
        let tell = guest.tell.clone();
        if let Some(id) = longest {
            self.settle(id);
        }
        Way::Made(tell)
    }

    /// A guest has sent something: it is the last of those that give way.
    pub(super) fn heard(&mut self, id: u64, now: Instant) {
        let number = self.number();
        let Some(guest) = self.guests.get_mut(&id) else { return };
        // One that was told to go, or need not, stays what it is.
        let Some(since) = guest.since else { return };
        guest.since = Some(number);
        guest.heard = now;
        self.silent.remove(&since);
        self.silent.insert(number, id);
        if let Some(share) = guest.origin.and_then(|origin| self.origins.get_mut(&origin)) {
            share.silent.remove(&since);
            share.silent.insert(number, id);
        }
    }

    /// From now on a guest need not give way.
    pub(super) fn settle(&mut self, id: u64) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let Some(since) = guest.since.take() else { return };
        self.silent.remove(&since);
        if let Some(share) = guest.origin.and_then(|origin| self.origins.get_mut(&origin)) {
            share.silent.remove(&since);
        }
    }

    /// A guest has gone.
    pub(super) fn leave(&mut self, id: u64) {
        self.settle(id);
        let Some(guest) = self.guests.remove(&id) else { return };
        let Some(origin) = guest.origin else { return };
        if let Some(share) = self.origins.get_mut(&origin) {
            share.guests -= 1;
            if share.guests == 0 {
                self.origins.remove(&origin);
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin(last: u8) -> Origin {
        Origin::of([192, 0, 2, last].into()).unwrap()
    }

    /// A table whose guests are told by their names, and a clock that goes on by more than a moment.
    fn table(places: usize, per_origin: usize) -> (Table<char>, impl FnMut() -> Instant) {
        let mut now = Instant::now();
        let clock = move || {
            now += SILENT_MIN;
            now
        };
        (Table::new(places, per_origin), clock)
    }

    #[test]
    fn the_one_that_has_been_silent_for_longest_gives_way() {
        let (mut table, mut clock) = table(3, 0);
        let ids = ['a', 'b', 'c'].map(|name| table.enter(name, clock()).unwrap());
        assert_eq!(table.enter('d', clock()), None, "all places are taken");
        table.heard(ids[0], clock());
        assert_eq!(table.make_way(clock()), Way::Made('b'));
        assert_eq!(table.enter('d', clock()), None, "until it has gone");
        assert_eq!(table.make_way(clock()), Way::Made('c'), "nobody is told twice");
        table.leave(ids[1]);
        assert!(table.enter('d', clock()).is_some());
        assert_eq!(table.make_way(clock()), Way::Made('a'));
    }

    #[test]
    fn a_guest_that_is_settled_or_has_just_come_does_not_give_way() {
        let (mut table, mut clock) = table(2, 0);
        let (first, now) = (table.enter('a', clock()).unwrap(), clock());
        table.settle(first);
        table.heard(first, now);
        assert_eq!(table.make_way(clock()), Way::Barred);
        let now = clock();
        table.enter('b', now).unwrap();
        assert_eq!(table.make_way(now), Way::In(SILENT_MIN));
        assert_eq!(table.make_way(now + SILENT_MIN), Way::Made('b'));
    }

    #[test]
    fn one_origin_has_only_so_many_and_makes_way_for_itself() {
        let (mut table, mut clock) = table(10, 2);
        let mut enter = |table: &mut Table<char>, name, from| {
            let id = table.enter(name, clock()).unwrap();
            (id, table.belongs(id, origin(from), clock()))
        };
        let (a, _) = enter(&mut table, 'a', 1);
        let (b, way) = enter(&mut table, 'b', 1);
        assert_eq!(way, None);
        assert_eq!(enter(&mut table, 'x', 2).1, None, "another origin has its own");
        let (c, way) = enter(&mut table, 'c', 1);
        assert_eq!(way, Some(Way::Made('a')));
        table.leave(a);
        table.settle(b);
        table.settle(c);
        let (d, way) = enter(&mut table, 'd', 1);
        assert_eq!(way, Some(Way::Barred), "nobody may have to go but the newcomer");
        table.leave(d);
        table.leave(b);
        assert_eq!(enter(&mut table, 'e', 1).1, None);
    }

    proptest! {
        #[test]
        fn whatever_happens_nothing_is_left_behind_and_no_bound_is_passed(
            steps in prop::collection::vec((0..5_u8, 0..12_usize, 0..3_u8), 0..200),
        ) {
            let (mut table, mut clock) = table(6, 3);
            let mut there: Vec<u64> = Vec::new();
            for (step, which, from) in steps {
                let id = there.get(which % there.len().max(1)).copied().unwrap_or(0);
                match step {
                    0 => if let Some(id) = table.enter('x', clock()) {
                        there.push(id);
                        if matches!(table.belongs(id, origin(from), clock()), Some(Way::Barred)) {
                            table.leave(id);
                            there.pop();
                        }
                    },
                    1 => table.heard(id, clock()),
                    2 => table.settle(id),
                    3 => { table.make_way(clock()); }
                    _ => { table.leave(id); there.retain(|other| *other != id); }
                }
                prop_assert!(table.guests.len() == there.len() && there.len() <= 6);
                let counted: usize = table.origins.values().map(|share| share.guests).sum();
                prop_assert_eq!(counted, there.len());
                let silent: usize = table.origins.values().map(|share| share.silent.len()).sum();
                prop_assert_eq!(silent, table.silent.len());
            }
            for id in there {
                table.leave(id);
            }
            prop_assert!(table.guests.is_empty() && table.origins.is_empty());
            prop_assert!(table.silent.is_empty());
        }
    }
}
