//! Which messages of a conversation are for which user.
//!
//! Of two users, everything, always. In a group, from joining to leaving. Where a change of members
//! lies among the messages is mostly not told, but it is known to lie after everything that was
//! acknowledged before it was asked for, and before everything that was said after it was done. So
//! there are messages that a user *may* get, fewer that the user *must* get, and some about which
//! nothing can be said.

use std::collections::HashMap;

use proto::ids::{Parties, UserId};

use super::event::{Change, Conv, Progress, What};
use super::index::{Cite, Index};

/// A user's time in a group.
#[derive(Debug)]
struct Span {
    /// The user may get everything from here on …
    join_min: u32,
    /// … and must get everything from here on.
    join_max: u32,
    /// The user must get nothing after this.
    leave_max: u32,
    /// The event from which on the user may be a member, …
    asked: usize,
    /// … the one from which on the user certainly is one …
    since: usize,
    /// … and the one from which on the user may no longer be one.
    until: usize,
    /// What shows all that.
    cites: Vec<Cite>,
}

#[derive(Debug, Default)]
struct Member {
    spans: Vec<Span>,
    /// For each span, the last number that the user may get by it or by one before it.
    may_upto: Vec<u32>,
    /// The change that is under way, and where it was asked for.
    pending: Option<(Change, usize)>,
}

/// Which messages are for which user.
#[derive(Debug, Default)]
pub(super) struct Entitled {
    members: HashMap<(Conv, u32), Member>,
}

impl Entitled {
    pub(super) fn new(index: &Index<'_>) -> Self {
        let mut entitled = Self::default();
        for (place, event) in index.events.iter().enumerate() {
            match event.what {
                What::Member { conv, user, join, leave } => {
                    let member = entitled.members.entry((conv, user)).or_default();
                    member.spans.push(Span {
                        join_min: join,
                        join_max: join,
                        leave_max: leave.unwrap_or(u32::MAX),
                        asked: 0,
                        since: 0,
                        until: if leave.is_some() { 0 } else { usize::MAX },
                        cites: vec![Cite::event(place)],
                    });
                }
                What::Change { conv, user, change, phase, .. } => {
                    let member = entitled.members.entry((conv, user)).or_default();
                    match phase {
                        Progress::Invoke => {
                            member.unknown(index, conv);
                            member.pending = Some((change, place));
                        }
                        Progress::Fail => member.pending = None,
                        Progress::Info => member.unknown(index, conv),
                        Progress::Ok => member.done(index, conv, place),
                    }
                }
                _ => {}
            }
        }
        for ((conv, _), member) in &mut entitled.members {
            member.unknown(index, *conv);
            member.spans.sort_by_key(|span| (span.asked, span.join_min));
            let mut upto = 0;
            for span in &member.spans {
                upto = upto.max(span.leave_max);
                member.may_upto.push(upto);
            }
        }
        entitled
    }

    /// Whether a user may get a message at event `place`.
    pub(super) fn may(&self, conv: Conv, user: u32, msg_id: u32, place: usize) -> bool {
        if let Some(is_party) = is_party(conv, user) {
            return is_party;
        }
        let Some(member) = self.members.get(&(conv, user)) else { return false };
        // Spans are in the order of both.
        let spans = member.spans.partition_point(|it| it.join_min <= msg_id && it.asked <= place);
        let upto = spans.checked_sub(1).and_then(|last| member.may_upto.get(last));
        upto.is_some_and(|upto| *upto >= msg_id)
    }

    /// The first message that a user who looks at event `place` must get; none if the user must get
    /// none.
    pub(super) fn must_from(&self, conv: Conv, user: u32, place: usize) -> Option<u32> {
        if let Some(is_party) = is_party(conv, user) {
            return is_party.then_some(1);
        }
        let spans = &self.members.get(&(conv, user))?.spans;
        let now = spans.iter().rev().find(|span| span.since <= place && place < span.until);
        now.map(|span| span.join_max).filter(|join| *join < u32::MAX)
    }

    /// Since which event a user certainly is a member at event `place`.
    pub(super) fn member_since(&self, conv: Conv, user: u32, place: usize) -> Option<usize> {
        if let Some(is_party) = is_party(conv, user) {
            return is_party.then_some(0);
        }
        let spans = &self.members.get(&(conv, user))?.spans;
        let now = spans.iter().rev().find(|span| span.since <= place && place < span.until);
        now.map(|span| span.since)
    }

    /// The first message that a user must have in the end.
    pub(super) fn must_have_from(&self, conv: Conv, user: u32) -> Option<u32> {
        self.must_from(conv, user, usize::MAX - 1)
    }

    /// The first message of a user's membership in the end, if it is certain which one that is.
    pub(super) fn joined_at(&self, conv: Conv, user: u32) -> Option<u32> {
        if let Some(is_party) = is_party(conv, user) {
            return is_party.then_some(1);
        }
        let spans = &self.members.get(&(conv, user))?.spans;
        let now = spans.iter().rev().find(|span| span.until == usize::MAX)?;
        (now.join_min == now.join_max).then_some(now.join_min)
    }

    /// What shows whether a message is for a user at event `place`.
    pub(super) fn cites(&self, conv: Conv, user: u32, msg_id: u32, place: usize) -> &[Cite] {
        let Some(member) = self.members.get(&(conv, user)) else { return &[] };
        let earlier = |it: &Span| it.join_min <= msg_id && it.asked <= place;
        let last = member.spans.partition_point(earlier).saturating_sub(1);
        member.spans.get(last).map(|span| &span.cites[..]).unwrap_or_default()
    }

    /// Groups, and users who are or were members as far as was told.
    pub(super) fn users(&self) -> impl Iterator<Item = (Conv, u32)> + '_ {
        self.members.keys().copied()
    }
}

impl Member {
    /// The pending change may have happened or not.
    fn unknown(&mut self, index: &Index<'_>, conv: Conv) {
        match self.pending.take() {
            Some((Change::Add, asked)) => self.spans.push(Span::new(index, conv, asked)),
            Some((Change::Remove, asked)) => {
                for span in &mut self.spans {
                    span.until = span.until.min(asked);
                }
            }
            None => {}
        }
    }

    fn done(&mut self, index: &Index<'_>, conv: Conv, place: usize) {
        let Some((change, asked)) = self.pending.take() else { return };
        let next = index.said_after(conv, place);
        let mut cites = vec![Cite::event(asked), Cite::event(place)];
        cites.extend(next.into_iter().flat_map(|(_, by)| index.evidence(by)));
        match change {
            Change::Add => {
                let mut span = Span::new(index, conv, asked);
                span.join_max = next.map_or(u32::MAX, |(next, _)| next);
                span.since = place;
                span.cites.extend(cites);
                self.spans.push(span);
            }
            Change::Remove => {
                let leave = next.map_or(u32::MAX, |(next, _)| next - 1);
                // Also if nothing was said after that, so that no last number is known.
                for span in self.spans.iter_mut().filter(|span| span.until > asked) {
                    span.until = asked;
                    span.leave_max = span.leave_max.min(leave);
                    span.cites.extend(&cites);
                }
            }
        }
    }
}

impl Span {
    /// A user is asked to be made a member, and it is not known yet whether that has happened.
    fn new(index: &Index<'_>, conv: Conv, asked: usize) -> Self {
        let acked = index.acked_before(conv, asked);
        let shown = acked.into_iter().flat_map(|(_, by)| index.evidence(by));
        Self {
            join_min: acked.map_or(1, |(highest, _)| highest + 1),
            join_max: u32::MAX,
            leave_max: u32::MAX,
            asked,
            since: usize::MAX,
            until: usize::MAX,
            cites: [Cite::event(asked)].into_iter().chain(shown).collect(),
        }
    }
}

/// Whether a user is one of the two; `None` for a group.
pub(super) fn is_party(conv: Conv, user: u32) -> Option<bool> {
    match conv.0.parties() {
        Parties::Single(low, high) => Some(UserId(user) == low || UserId(user) == high),
        Parties::Group(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use client::Kind;

    use super::*;
    use crate::history::event::{Event, Mid, Sha};

    const GROUP: u32 = 2;
    const USER: u32 = 9;

    /// Says something and has it acknowledged as the next number, between changes of members.
    #[derive(Default)]
    struct Run {
        events: Vec<Event>,
        head: u32,
    }

    impl Run {
        fn add(&mut self, what: What) {
            let at = self.events.len() as u64 + 1;
            self.events.push(Event { at, us: at, what });
        }

        fn invoke(&mut self, number: u32) {
            let (mid, sha) = names(number);
            let conv = Conv::group(GROUP);
            self.add(What::Invoke {
                user: 1,
                device: 1,
                conv,
                mid,
                idx: number,
                prev: None,
                sha,
                unnamed: false,
            });
        }

        fn ok(&mut self, number: u32) {
            self.head += 1;
            let msg_id = self.head;
            self.add(What::Ok { mid: names(number).0, msg_id, time: None });
        }

        fn say(&mut self, number: u32) {
            self.invoke(number);
            self.ok(number);
        }

        fn change(&mut self, change: Change, phase: Progress) {
            self.add(What::Change {
                conv: Conv::group(GROUP),
                user: USER,
                change,
                phase,
                by: None,
            });
        }

        /// First and last number that the user may get, out of the first 20; and the first that the
        /// user must get.
        fn result(&self) -> (Vec<u32>, Option<u32>) {
            let index = Index::new(&self.events);
            let entitled = Entitled::new(&index);
            let conv = Conv::group(GROUP);
            let may = (1..=20).filter(|id| entitled.may(conv, USER, *id, usize::MAX)).collect();
            (may, entitled.must_have_from(conv, USER))
        }
    }

    fn names(number: u32) -> (Mid, Sha) {
        (Mid(u128::from(number).to_be_bytes()), Sha::of(Kind::Text, &number.to_be_bytes()))
    }

    #[test]
    fn a_change_lies_between_what_was_acknowledged_before_and_what_was_said_after() {
        let mut run = Run::default();
        run.say(1);
        run.invoke(2);
        run.change(Change::Add, Progress::Invoke);
        run.ok(2);
        run.say(3);
        run.change(Change::Add, Progress::Ok);
        run.say(4);
        assert_eq!(run.result(), ((2..=20).collect(), Some(4)));

        run.invoke(5);
        run.change(Change::Remove, Progress::Invoke);
        run.change(Change::Remove, Progress::Ok);
        run.ok(5);
        run.say(6);
        assert_eq!(run.result(), ((2..=5).collect(), None));
        run.change(Change::Add, Progress::Invoke);
        run.change(Change::Add, Progress::Ok);
        run.say(7);
        run.say(8);
        assert_eq!(run.result(), ([2, 3, 4, 5].into_iter().chain(7..=20).collect(), Some(7)));
    }

    #[test]
    fn a_user_who_leaves_when_nothing_more_is_said_must_have_nothing() {
        let mut run = Run::default();
        run.change(Change::Add, Progress::Invoke);
        run.change(Change::Add, Progress::Ok);
        run.say(1);
        run.invoke(2);
        run.change(Change::Remove, Progress::Invoke);
        run.change(Change::Remove, Progress::Ok);
        run.ok(2);
        assert_eq!(run.result(), ((1..=20).collect(), None));
    }

    #[test]
    fn what_is_not_known_allows_and_demands_nothing() {
        let mut run = Run::default();
        run.say(1);
        run.change(Change::Add, Progress::Invoke);
        run.change(Change::Add, Progress::Info);
        run.say(2);
        assert_eq!(run.result(), ((2..=20).collect(), None));
        run.change(Change::Remove, Progress::Invoke);
        run.change(Change::Remove, Progress::Ok);
        run.say(3);
        assert_eq!(run.result(), (vec![2], None));
        run.change(Change::Add, Progress::Invoke);
        run.change(Change::Add, Progress::Fail);
        run.say(4);
        assert_eq!(run.result(), (vec![2], None));
    }

    #[test]
    fn what_is_stated_holds_and_others_get_nothing() {
        let mut run = Run::default();
        let conv = Conv::group(GROUP);
        assert_eq!(run.result(), (vec![], None));
        run.add(What::Member { conv, user: USER, join: 3, leave: Some(5) });
        assert_eq!(run.result(), ((3..=5).collect(), None));
        run.add(What::Member { conv, user: USER, join: 8, leave: None });
        assert_eq!(run.result(), ([3, 4, 5].into_iter().chain(8..=20).collect(), Some(8)));
        let index = Index::new(&run.events);
        let entitled = Entitled::new(&index);
        let pair = Conv::single(1, 2);
        assert!(entitled.may(pair, 2, 1, 0) && !entitled.may(pair, 3, 1, 0));
        assert_eq!(
            (entitled.must_from(pair, 1, 0), entitled.must_from(pair, 3, 0)),
            (Some(1), None)
        );
    }
}
