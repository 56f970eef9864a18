//! Sets of message numbers, which mostly are few runs without a hole.

use std::collections::BTreeMap;

/// A set of numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    /// The first number of each run and its last one. Runs do not touch.
    runs: BTreeMap<u32, u32>,
}

impl Ranges {
    /// Adds a number. Returns whether it is new.
    pub fn insert(&mut self, number: u32) -> bool {
        let is_new = !self.contains(number);
        if is_new {
            self.insert_run(number, number);
        }
        is_new
    }

    /// Adds all numbers from `first` to `last`.
    pub fn insert_run(&mut self, first: u32, last: u32) {
        if first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        while let Some((&start, &end)) = self.runs.range(..=last.saturating_add(1)).next_back()
            && end.saturating_add(1) >= first
        {
            self.runs.remove(&start);
            first = first.min(start);
            last = last.max(end);
        }
        self.runs.insert(first, last);
    }

    /// Whether a number is in it.
    pub fn contains(&self, number: u32) -> bool {
        self.runs.range(..=number).next_back().is_some_and(|(_, end)| *end >= number)
    }

    /// The last number of the run that begins at or before `first`; below `first` if there is none.
    pub fn complete_upto(&self, first: u32) -> u32 {
        let run = self.runs.range(..=first).next_back().map(|(_, end)| *end);
        run.filter(|end| *end >= first).unwrap_or_else(|| first.saturating_sub(1))
    }

    /// The highest number; 0 if there is none.
    pub fn highest(&self) -> u32 {
        self.runs.last_key_value().map_or(0, |(_, end)| *end)
    }

    /// First and last number of every run.
    pub fn runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.runs.iter().map(|(start, end)| (*start, *end))
    }

    /// First and last number of everything from `first` to `last` that is not in it.
    pub fn holes(&self, first: u32, last: u32) -> Vec<(u32, u32)> {
        let mut holes = Vec::new();
        let mut next = self.complete_upto(first).max(first.saturating_sub(1)) + 1;
        for (&start, &end) in self.runs.range(next..) {
            if next > last || start > last {
                break;
            }
            holes.push((next, start - 1));
            next = end.saturating_add(1);
        }
        if next <= last {
            holes.push((next, last));
        }
        holes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::Random;

    #[test]
    fn it_is_a_set() {
        let mut random = Random::from_seed(1);
        let mut number = |bound| u32::try_from(random.below(bound)).unwrap();
        let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
        for _ in 0..500 {
            let first = number(300) + 1;
            let last = first + number(4);
            if first % 2 == 0 {
                assert_eq!(ranges.insert(first), model.insert(first));
            } else {
                ranges.insert_run(first, last);
                model.extend(first..=last);
            }
            let (low, high) = (number(300) + 1, number(300) + 1);
            let holes = ranges.holes(low, high).into_iter().flat_map(|(from, to)| from..=to);
            let expected: Vec<u32> = (low..=high).filter(|one| !model.contains(one)).collect();
            assert_eq!(holes.collect::<Vec<_>>(), expected);
            let run = (low..=400).take_while(|one| model.contains(one)).count();
            assert_eq!(ranges.complete_upto(low), low - 1 + u32::try_from(run).unwrap());
            assert_eq!(ranges.highest(), model.last().copied().unwrap_or(0));
            let runs = ranges.runs().flat_map(|(from, to)| from..=to);
            assert!(runs.eq(model.iter().copied()));
        }
    }
}
