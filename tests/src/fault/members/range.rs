//! What a user who came and went may have seen, and must have seen. Pure: times and messages.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::super::talk::Saying;

/// One membership: when each end of it was asked for and answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stay {
    pub(super) add_asked: Instant,
    pub(super) added: Instant,
    pub(super) remove_asked: Instant,
    pub(super) removed: Instant,
    /// The connection was the same from beginning to end.
    pub(super) one_line: bool,
}

/// A message that was pushed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) msg_id: u32,
    pub(super) content: u64,
    pub(super) at: Instant,
}

/// All of the history that could be read.
#[derive(Debug, Clone)]
pub(super) struct Pull {
    pub(super) asked: Instant,
    pub(super) answered: Instant,
    /// The newest number, as the server says.
    pub(super) head: u32,
    /// Numbers and contents, the newest first.
    pub(super) rows: Vec<(u32, u64)>,
}

/// When a daemon was killed, and when it was back.
pub(super) type Kill = (Instant, Instant);

/// Everything that one user has to do with the group.
#[derive(Debug, Default)]
pub(super) struct Comings {
    pub(super) user: u32,
    pub(super) stays: Vec<Stay>,
    pub(super) pushes: Vec<Seen>,
    pub(super) pulls: Vec<Pull>,
    pub(super) wrong: Vec<String>,
}

/// What is wrong, and how much was looked at.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) wrong: Vec<String>,
    pub(super) counts: BTreeMap<&'static str, usize>,
}

impl Verdict {
    fn count(&mut self, what: &'static str, more: usize) {
        *self.counts.entry(what).or_default() += more;
    }
}

impl Stay {
    /// Whether a message can have a number within this membership.
    fn may_hold(&self, saying: &Saying) -> bool {
        !self.is_certainly_before(saying) && saying.asked <= self.removed
    }

    fn is_certainly_before(&self, saying: &Saying) -> bool {
        saying.acked.is_some_and(|(at, _msg_id)| at < self.add_asked)
    }

    /// Whether a message certainly has a number within this membership, and below whatever came
    /// after `end`.
    fn holds(&self, saying: &Saying, end: Instant) -> bool {
        saying.asked > self.added && saying.acked.is_some_and(|(at, _msg_id)| at < end)
    }

    /// Whether nothing was hurt that could keep a push away.
    fn is_calm(&self, kills: &[Kill], healed: Duration, late: Duration) -> bool {
        let away =
            |(begin, end): &Kill| *end + healed < self.add_asked || *begin > self.removed + late;
        self.one_line && kills.iter().all(away)
    }
}

impl Comings {
    /// Holds everything against what was said.
    pub(super) fn check(
        &self,
        sayings: &[Saying],
        kills: &[Kill],
        healed: Duration,
        late: Duration,
    ) -> Verdict {
        let mut verdict = Verdict { wrong: self.wrong.clone(), ..Verdict::default() };
        let by_content: HashMap<u64, &Saying> =
            sayings.iter().map(|saying| (saying.content, saying)).collect();
        for seen in &self.pushes {
            let asked_by = |stay: &&Stay| stay.add_asked <= seen.at;
            let stays: Vec<&Stay> = self.stays.iter().filter(asked_by).collect();
            let row = (seen.msg_id, seen.content);
            verdict.wrong.extend(self.trespass("pushed", &stays, &by_content, row));
        }
        for pull in &self.pulls {
            self.check_pull(&mut verdict, pull, sayings, &by_content);
        }
        let pushed: HashSet<u64> = self.pushes.iter().map(|seen| seen.content).collect();
        for stay in &self.stays {
            verdict.count("stays", 1);
            let before = sayings.iter().filter(|saying| stay.is_certainly_before(saying));
            verdict.count("certainly before", before.count());
            let after = sayings.iter().filter(|saying| saying.asked > stay.removed);
            verdict.count("certainly after", after.count());
            if !stay.is_calm(kills, healed, late) {
                continue;
            }
            verdict.count("calm stays", 1);
            for saying in sayings.iter().filter(|saying| stay.holds(saying, stay.remove_asked)) {
                verdict.count("pushed inside", 1);
                if !pushed.contains(&saying.content) {
                    let number = saying.acked.map(|(_at, msg_id)| msg_id);
                    let user = self.user;
                    verdict.wrong.push(format!("{number:?} was never pushed to u{user}, a member"));
                }
            }
        }
        verdict
    }

    /// What is wrong if a message is seen in one of these memberships.
    fn trespass(
        &self,
        how: &str,
        stays: &[&Stay],
        by_content: &HashMap<u64, &Saying>,
        (msg_id, content): (u32, u64),
    ) -> Option<String> {
        let user = self.user;
        let Some(saying) = by_content.get(&content) else {
            return Some(format!("{msg_id} is {how} to u{user}, and nobody said it"));
        };
        let place = saying.acked.map(|(_at, number)| number);
        (!stays.iter().any(|stay| stay.may_hold(saying))).then(|| {
            format!("{msg_id} (acknowledged as {place:?}) is {how} to u{user}, no member then")
        })
    }

    fn check_pull(
        &self,
        verdict: &mut Verdict,
        pull: &Pull,
        sayings: &[Saying],
        by_content: &HashMap<u64, &Saying>,
    ) {
        let user = self.user;
        let overlaps = |stay: &&Stay| stay.add_asked <= pull.answered && pull.asked <= stay.removed;
        let stays: Vec<&Stay> = self.stays.iter().filter(overlaps).collect();
        for row in &pull.rows {
            verdict.wrong.extend(self.trespass("shown", &stays, by_content, *row));
        }
        if stays.is_empty() {
            verdict.count("read outside", 1);
            if pull.head != 0 {
                verdict.wrong.push(format!("u{user} is told the head {} as a stranger", pull.head));
            }
        }
        if !pull.rows.is_sorted_by(|one, next| one.0 == next.0 + 1) {
            let numbers: Vec<u32> = pull.rows.iter().map(|(msg_id, _content)| *msg_id).collect();
            verdict.wrong.push(format!("u{user} reads with holes: {numbers:?}"));
        }
        let within = |stay: &&&Stay| stay.added <= pull.asked && pull.answered <= stay.remove_asked;
        let Some(stay) = stays.iter().find(within) else { return };
        let rows: HashSet<u64> = pull.rows.iter().map(|(_msg_id, content)| *content).collect();
        for saying in sayings.iter().filter(|saying| stay.holds(saying, pull.asked)) {
            verdict.count("read inside", 1);
            if !rows.contains(&saying.content) {
                let number = saying.acked.map(|(_at, msg_id)| msg_id);
                verdict.wrong.push(format!("{number:?} is not shown to u{user}, a member"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::{ConversationId, GroupId};

    use super::*;

    /// A member from second 10 to second 20, asked for one second before.
    struct Story {
        zero: Instant,
        comings: Comings,
    }

    impl Story {
        fn new() -> Self {
            let zero = Instant::now();
            let at = |second| zero + Duration::from_secs(second);
            let stay = Stay {
                add_asked: at(9),
                added: at(10),
                remove_asked: at(19),
                removed: at(20),
                one_line: true,
            };
            Self { zero, comings: Comings { user: 7, stays: vec![stay], ..Comings::default() } }
        }

        fn at(&self, second: u64) -> Instant {
            self.zero + Duration::from_secs(second)
        }

        /// Said in that second, acknowledged half a second later.
        fn said(&self, second: u64) -> Saying {
            let asked = self.at(second);
            Saying {
                conversation: ConversationId::group(GroupId(1)).unwrap(),
                content: second,
                asked,
                acked: Some((asked + Duration::from_millis(500), u32::try_from(second).unwrap())),
            }
        }

        fn wrong(&self, said: &[u64]) -> Vec<String> {
            let sayings: Vec<Saying> = said.iter().map(|second| self.said(*second)).collect();
            let second = Duration::from_secs(1);
            self.comings.check(&sayings, &[], second, second).wrong
        }

        fn pushed(mut self, message: u64, second: u64) -> Self {
            let (msg_id, at) = (u32::try_from(message).unwrap(), self.at(second));
            self.comings.pushes.push(Seen { msg_id, content: message, at });
            self
        }

        fn read(mut self, second: u64, head: u32, rows: &[u32]) -> Self {
            let asked = self.at(second);
            let rows = rows.iter().map(|row| (*row, u64::from(*row))).collect();
            let answered = asked + Duration::from_millis(100);
            self.comings.pulls.push(Pull { asked, answered, head, rows });
            self
        }
    }

    #[test]
    fn a_member_hears_and_reads_the_time_of_membership_and_at_its_edges_either_is_right() {
        let story = Story::new().pushed(9, 10).pushed(12, 12).pushed(19, 20);
        let story = story.read(5, 0, &[]).read(15, 12, &[12]).read(25, 0, &[]);
        assert_eq!(story.wrong(&[9, 12, 19]), [""; 0]);
    }

    #[test]
    fn what_was_said_before_or_after_must_not_come() {
        assert_eq!(Story::new().pushed(8, 12).wrong(&[8]).len(), 1);
        assert_eq!(Story::new().pushed(21, 22).wrong(&[21]).len(), 1);
        assert_eq!(Story::new().read(15, 8, &[8]).wrong(&[8]).len(), 1);
        assert_eq!(Story::new().read(25, 0, &[19]).wrong(&[19]).len(), 1);
        assert_eq!(Story::new().read(25, 19, &[]).wrong(&[19]).len(), 1);
    }

    #[test]
    fn what_was_said_during_the_membership_must_come() {
        assert_eq!(Story::new().wrong(&[12]).len(), 1, "never pushed");
        assert_eq!(Story::new().pushed(12, 12).read(15, 12, &[]).wrong(&[12]).len(), 1);
    }

    #[test]
    fn a_page_with_holes_and_a_message_that_was_never_said_are_wrong() {
        let story = Story::new().pushed(11, 11).pushed(12, 12).pushed(13, 13);
        assert_eq!(story.read(15, 13, &[13, 11]).wrong(&[11, 12, 13]).len(), 2);
        assert_eq!(Story::new().pushed(12, 12).wrong(&[]).len(), 1);
    }
}
