//! One frame's part of a list that is ordered by stamps: users and departments.
//!
//! Pure. A client keeps the stamp of the last reply it has taken and asks next time for what has
//! that stamp or a later one. So a part that is not the last says a stamp below which nothing is
//! missing, and it may be the last that its client takes:
//!
//! - what is told is everything before the first record that did not fit, so that record's stamp is
//!   said;
//! - each part says more than the one before, since Windows takes a list only if its stamp differs
//!   from the one it has, and iOS leaves out a list whose stamp is the one it asked with. A part
//!   that ends within a stamp says the least that means the same, to leave room for that.

use prost::Message;
use proto::cluster::wire::Rest;
use proto::lists::Room;
use store::Since;

/// So many parts may hold nothing but one stamp without saying more than is told. At some 3,500 users
/// a part that is far more users than ever get one stamp.
const PARTS_OF_ONE_STAMP_MAX: u32 = 64;

/// A part of a list.
#[derive(Debug)]
pub(super) struct Part<R> {
    from: Since,
    until: Option<Since>,
    said: u32,
    is_first: bool,
    room: Room,
    records: Vec<R>,
    reached: Option<Since>,
    /// The stamp before that of `reached`, if this part has come past it.
    below: Option<u32>,
    cut_at: Option<Since>,
}

/// What becomes of a part.
#[derive(Debug, PartialEq)]
pub(super) struct Filled<R> {
    pub(super) records: Vec<R>,
    /// What the client is told.
    pub(super) latest_update_time: u32,
    /// Where the next part begins, if there is one.
    pub(super) rest: Option<Rest>,
}

impl<R: Message> Part<R> {
    /// The first part for a client that asks with `asked`, or one that goes on where another ended.
    pub(super) fn begin(asked: u32, rest: Option<&Rest>) -> Self {
        let from = rest.map_or(Since::stamp(asked), |rest| Since {
            stamp: rest.stamp().max(asked),
            id: if rest.stamp() < asked { 0 } else { rest.id() },
        });
        let until = rest.and_then(|rest| {
            let stamp = rest.until_stamp?;
            Some(Since { stamp, id: rest.until_id() })
        });
        Self {
            from,
            until,
            said: rest.map_or(asked, |rest| rest.said().max(asked)),
            is_first: rest.is_none(),
            room: Room::of_records(),
            records: Vec::new(),
            reached: None,
            below: None,
            cut_at: None,
        }
    }

    /// From where on the store is to be read next; `None` if nothing more belongs here.
    pub(super) fn next(&self) -> Option<Since> {
        let next = self.reached.map_or(self.from, |Since { stamp, id }| match id.checked_add(1) {
            Some(id) => Since { stamp, id },
            None => Since { stamp: stamp.saturating_add(1), id: 0 },
        });
        let is_open = self.cut_at.is_none() && self.until.is_none_or(|until| next < until);
        is_open.then_some(next)
    }

    /// Takes the record at a place, in order; `None` for one that is not told. Whether the next may
    /// come.
    pub(super) fn take(&mut self, at: Since, record: Option<R>) -> bool {
        if self.until.is_some_and(|until| at >= until) {
            self.reach(at);
            return false;
        }
        let Some(record) = record else {
            self.reach(at);
            return true;
        };
        if self.room.take_record(&record) {
            self.records.push(record);
        } else if self.records.is_empty() {
            tracing::warn!(number = at.id, "a record that no client takes is left out");
        } else {
            self.cut_at = Some(at);
            return false;
        }
        self.reach(at);
        true
    }

    fn reach(&mut self, at: Since) {
        if let Some(before) = self.reached.replace(at)
            && before.stamp < at.stamp
        {
            self.below = Some(before.stamp);
        }
    }

    /// Ends the part. `newest` is the newest stamp that there is.
    pub(super) fn end(self, newest: u32) -> Filled<R> {
        let Self { until, said, is_first, records, reached, below, cut_at, .. } = self;
        let newest = newest.max(said);
        let Some(cut_at) = cut_at else {
            let latest_update_time = match until {
                None if !is_first && newest == said => said.saturating_add(1),
                _ => newest,
            };
            return Filled { records, latest_update_time, rest: None };
        };
        let is_within = reached.is_some_and(|reached| reached.stamp == cut_at.stamp);
        let told = match below {
            _ if !is_within => cut_at.stamp,
            Some(below) => below.saturating_add(1),
            None => cut_at.stamp.saturating_sub(PARTS_OF_ONE_STAMP_MAX),
        };
        let latest_update_time = match until {
            // What comes after this was told before, the newest stamp with it.
            Some(_) => newest,
            None => told.max(said.saturating_add(1)),
        };
        let rest = Rest {
            id: Some(cut_at.id),
            stamp: Some(cut_at.stamp),
            said: Some(latest_update_time),
            until_id: until.map(|until| until.id),
            until_stamp: until.map(|until| until.stamp),
            ..Rest::default()
        };
        Filled { records, latest_update_time, rest: Some(rest) }
    }
}

#[cfg(test)]
mod tests {
    use proto::client::UserInfo;

    use super::*;

    /// Some 40 of these fill a part.
    fn user(user_id: u32) -> UserInfo {
        UserInfo { user_id, nick_name: "x".repeat(10_000), ..UserInfo::default() }
    }

    /// All parts of a list of `(stamp, id)`, read from a store in pieces.
    fn parts(list: &[(u32, u32)], asked: u32, first: Option<Rest>) -> Vec<Filled<UserInfo>> {
        let newest = list.last().map_or(0, |(stamp, _)| *stamp);
        let (mut parts, mut rest) = (Vec::new(), first);
        loop {
            let mut part = Part::begin(asked, rest.as_ref());
            while let Some(next) = part.next() {
                let places = list.iter().map(|&(stamp, id)| Since { stamp, id });
                let piece: Vec<Since> = places.filter(|at| *at >= next).take(7).collect();
                if !piece.iter().all(|at| part.take(*at, Some(user(at.id)))) || piece.len() < 7 {
                    break;
                }
            }
            let filled = part.end(newest);
            rest = filled.rest;
            parts.push(filled);
            assert!(parts.len() < 1_000, "it comes to an end");
            if rest.is_none() {
                return parts;
            }
        }
    }

    fn ids(parts: &[Filled<UserInfo>]) -> Vec<u32> {
        parts.iter().flat_map(|part| &part.records).map(|user| user.user_id).collect()
    }

    fn stamps(parts: &[Filled<UserInfo>]) -> Vec<u32> {
        parts.iter().map(|part| part.latest_update_time).collect()
    }

    #[test]
    fn all_parts_together_are_the_list_and_each_says_what_was_told() {
        let mut sorted: Vec<(u32, u32)> = (0..300).map(|n| (1_000 + n / 7, 900 - n)).collect();
        sorted.sort_unstable();
        for asked in [0, 1_000, 1_020] {
            let parts = parts(&sorted, asked, None);
            let expected: Vec<u32> =
                sorted.iter().filter(|(stamp, _)| *stamp >= asked).map(|(_, id)| *id).collect();
            assert_eq!(ids(&parts), expected, "asked with {asked}");
            assert!(parts.len() > 3);
            assert!(stamps(&parts).is_sorted_by(|one, next| one < next), "{:?}", stamps(&parts));
            assert_eq!(parts.last().map(|part| part.latest_update_time), Some(1_042));
            for (at, part) in parts.iter().enumerate() {
                let told = ids(&parts[..=at]);
                let said = part.latest_update_time;
                let missing = sorted
                    .iter()
                    .filter(|(stamp, id)| (asked..said).contains(stamp) && !told.contains(id));
                assert_eq!(missing.count(), 0, "part {at} says {said}");
            }
        }
    }

    #[test]
    fn a_list_of_one_stamp_comes_whole_and_its_stamps_rise_up_to_it() {
        let list: Vec<(u32, u32)> = (1..=500).map(|id| (1_000, id)).collect();
        let parts = parts(&list, 0, None);
        assert_eq!(ids(&parts), (1..=500).collect::<Vec<_>>());
        let said = stamps(&parts);
        assert!(said.is_sorted_by(|one, next| one < next), "{said:?}");
        assert_eq!(said.last(), Some(&1_000), "{said:?}");
    }

    #[test]
    fn what_is_asked_with_the_only_stamp_gets_on_as_well() {
        let list: Vec<(u32, u32)> = (1..=200).map(|id| (1_000, id)).collect();
        let parts = parts(&list, 1_000, None);
        assert_eq!(ids(&parts).len(), 200);
        assert!(stamps(&parts).is_sorted_by(|one, next| one < next), "{:?}", stamps(&parts));
    }

    #[test]
    fn what_was_told_before_is_told_up_to_that_place_and_says_the_newest() {
        let list: Vec<(u32, u32)> = (1..=200).map(|id| (1_000 + id, id)).collect();
        let (until_stamp, until_id) = (Some(1_100), Some(100));
        let rest = Rest { until_stamp, until_id, ..Rest::default() };
        let parts = parts(&list, 0, Some(rest));
        assert_eq!(ids(&parts), (1..=99).collect::<Vec<_>>());
        assert!(stamps(&parts).iter().all(|said| *said == 1_200), "{:?}", stamps(&parts));
    }

    #[test]
    fn a_client_that_takes_only_the_first_part_of_each_answer_gets_on_from_login_to_login() {
        let list: Vec<(u32, u32)> = (1..=300).map(|id| (1_000 + id / 9, id)).collect();
        let (mut asked, mut seen) = (0, std::collections::BTreeSet::new());
        for _login in 0..30 {
            let first = &parts(&list, asked, None)[0];
            seen.extend(first.records.iter().map(|user| user.user_id));
            asked = first.latest_update_time;
        }
        assert_eq!(seen.len(), 300);
    }

    #[test]
    fn an_empty_list_and_one_of_hidden_records_have_one_part() {
        let parts = parts(&[], 77, None);
        assert_eq!((ids(&parts), stamps(&parts)), (Vec::new(), vec![77]));
        let mut part = Part::<UserInfo>::begin(0, None);
        assert!(part.take(Since { stamp: 5, id: 9 }, None));
        assert_eq!(part.next(), Some(Since { stamp: 5, id: 10 }));
        assert_eq!(part.end(5).records, []);
    }

    #[test]
    fn a_record_that_fits_no_frame_is_left_out_and_holds_up_no_other() {
        let mut part = Part::begin(0, None);
        let huge = UserInfo { nick_name: "x".repeat(500_000), ..UserInfo::default() };
        assert!(part.take(Since { stamp: 1, id: 1 }, Some(huge)));
        assert!(part.take(Since { stamp: 1, id: 2 }, Some(user(2))));
        let filled = part.end(1);
        assert_eq!((filled.records.len(), filled.rest), (1, None));
    }
}
