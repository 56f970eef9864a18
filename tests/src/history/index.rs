//! One pass over a history, so that the rules can look things up.

use std::collections::HashMap;

use super::event::{Conv, Event, Mid, Phase, Row, Sha, What};

/// Points at an event, and at one message in it where it has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cite {
    pub(super) event: usize,
    pub(super) row: Option<usize>,
}

/// What a device said, and what became of it.
#[derive(Debug)]
pub(super) struct Send {
    pub(super) invoke: usize,
    pub(super) user: u32,
    pub(super) device: u32,
    pub(super) conv: Conv,
    pub(super) sha: Sha,
    /// The number that it was acknowledged with first, and where.
    pub(super) ok: Option<(u32, usize)>,
    pub(super) info: Option<usize>,
    pub(super) fail: Option<usize>,
    /// Its number in the history of the end, and its row there.
    pub(super) stored: Option<(u32, Cite)>,
}

/// What tells messages apart for devices that see no ids: the conversation, the sender and the words.
/// What the same user says twice in one conversation has one name, and is two messages.
pub(super) type Words = (Conv, u32, Sha);

/// All that was said in the same words, and the rows with those words in the history of the end.
#[derive(Debug, Default)]
pub(super) struct Same {
    /// By their place in [`Index::sends`], as they were said.
    pub(super) sends: Vec<usize>,
    /// Numbers, rising, each once.
    pub(super) rows: Vec<(u32, Cite)>,
    /// Whether the client of one of them gives no names.
    pub(super) has_unnamed: bool,
    /// The rows that no acknowledgement names.
    pub(super) unclaimed: Vec<Cite>,
    /// Those of them that can only be messages which were refused, and which these are.
    pub(super) refused: Vec<(Cite, usize)>,
    /// Those of them that are more than was said.
    pub(super) surplus: Vec<Cite>,
}

/// A conversation's history as it was in the end.
#[derive(Debug)]
pub(super) struct Dump {
    pub(super) event: usize,
    /// The first number that its reader may see.
    pub(super) from: u32,
    /// Its numbers, rising, and which row each is.
    pub(super) rows: Vec<(u32, usize)>,
}

/// What was said and acknowledged in one conversation, in order.
#[derive(Debug, Default)]
struct Flow {
    /// Where something was acknowledged, the highest number so far, and where that was.
    acks: Vec<(usize, u32, usize)>,
    /// Where something was said whose number is known, the lowest number from there on, and where
    /// that was said.
    said: Vec<(usize, u32, usize)>,
}

/// A history that can be looked up.
#[derive(Debug)]
pub(super) struct Index<'a> {
    pub(super) events: &'a [Event],
    pub(super) sends: Vec<Send>,
    pub(super) dumps: HashMap<Conv, Dump>,
    /// Where the last fault ended.
    pub(super) healed: Option<usize>,
    /// Where something was said under a name that something else has.
    pub(super) unsound: Vec<(usize, usize)>,
    by_mid: HashMap<Mid, usize>,
    /// Where words were said first, by anybody.
    by_sha: HashMap<Sha, usize>,
    same: HashMap<Words, Same>,
    flows: HashMap<Conv, Flow>,
}

impl Cite {
    pub(super) const fn event(event: usize) -> Self {
        Self { event, row: None }
    }

    pub(super) const fn row(event: usize, row: usize) -> Self {
        Self { event, row: Some(row) }
    }
}

impl Send {
    /// Its number, by its acknowledgement or else by the history.
    pub(super) fn number(&self) -> Option<u32> {
        let stored = self.stored.map(|(msg_id, _)| msg_id);
        self.ok.map(|(msg_id, _)| msg_id).or(stored)
    }
}

impl Dump {
    /// Which row has this number.
    pub(super) fn at(&self, msg_id: u32) -> Option<usize> {
        let place = self.rows.binary_search_by_key(&msg_id, |(id, _)| *id).ok()?;
        self.rows.get(place).map(|(_, row)| *row)
    }
}

impl<'a> Index<'a> {
    pub(super) fn new(events: &'a [Event]) -> Self {
        let mut index = Self {
            events,
            sends: Vec::new(),
            dumps: HashMap::new(),
            healed: None,
            unsound: Vec::new(),
            by_mid: HashMap::new(),
            by_sha: HashMap::new(),
            same: HashMap::new(),
            flows: HashMap::new(),
        };
        for (place, event) in events.iter().enumerate() {
            index.take(place, &event.what);
        }
        index.match_rows();
        index.take_flows();
        index
    }

    fn take(&mut self, place: usize, what: &What) {
        match what {
            What::Invoke { .. } => self.take_invoke(place, what),
            What::Ok { mid, msg_id, .. } => {
                if let Some(send) = self.outcome(*mid) {
                    send.ok = send.ok.or(Some((*msg_id, place)));
                }
            }
            What::Info { mid } => {
                if let Some(send) = self.outcome(*mid) {
                    send.info = send.info.or(Some(place));
                }
            }
            What::Fail { mid, .. } => {
                if let Some(send) = self.outcome(*mid) {
                    send.fail = send.fail.or(Some(place));
                }
            }
            What::Stored { conv, from, rows } => self.take_dump(place, *conv, *from, rows),
            What::Nemesis { phase: Phase::End, .. } => self.healed = Some(place),
            _ => {}
        }
    }

    fn take_invoke(&mut self, place: usize, what: &What) {
        let What::Invoke { user, device, conv, mid, sha, unnamed, .. } = *what else { return };
        let number = self.sends.len();
        if let Some(first) = self.by_mid.insert(mid, number).and_then(|it| self.sends.get(it)) {
            self.unsound.push((first.invoke, place));
        }
        self.by_sha.entry(sha).or_insert(number);
        let same = self.same.entry((conv, user, sha)).or_default();
        same.sends.push(number);
        same.has_unnamed |= unnamed;
        let (ok, info, fail, stored) = (None, None, None, None);
        self.sends.push(Send { invoke: place, user, device, conv, sha, ok, info, fail, stored });
    }

    fn take_dump(&mut self, place: usize, conv: Conv, from: u32, rows: &[Row]) {
        if self.dumps.contains_key(&conv) {
            return; // Read again: one more observation.
        }
        let mut sorted: Vec<_> =
            rows.iter().enumerate().map(|(row, it)| (it.msg_id, row)).collect();
        sorted.sort_unstable();
        let mut last = None;
        for &(msg_id, row) in &sorted {
            // A number that is listed twice is reported as such.
            if last.replace(msg_id) != Some(msg_id)
                && let Some(it) = rows.get(row)
            {
                let same = self.same.entry((conv, it.sender, it.sha)).or_default();
                same.rows.push((msg_id, Cite::row(place, row)));
            }
        }
        self.dumps.insert(conv, Dump { event: place, from, rows: sorted });
    }

    /// Finds out which row is which message. Of messages in the same words those that were
    /// acknowledged have the rows of their numbers. The other rows go to the others as these were
    /// said: if any assignment keeps the order, this one does.
    fn match_rows(&mut self) {
        for same in self.same.values_mut() {
            let mut rows: HashMap<u32, Cite> = same.rows.iter().copied().collect();
            let mut left: Vec<usize> = Vec::new();
            for &number in &same.sends {
                let send = &mut self.sends[number];
                let own = send.ok.and_then(|(msg_id, _)| Some((msg_id, rows.remove(&msg_id)?)));
                send.stored = own;
                if own.is_none() {
                    left.push(number);
                }
            }
            // What was refused comes last: it should have none.
            left.sort_by_key(|number| {
                let send = &self.sends[*number];
                (send.ok.is_none(), send.fail.is_some())
            });
            let unclaimed = same.rows.iter().filter(|(msg_id, _)| rows.contains_key(msg_id));
            let mut free = unclaimed.clone().copied();
            for number in left {
                let send = &mut self.sends[number];
                send.stored = free.next();
                if send.ok.is_none() && send.fail.is_some() {
                    same.refused.extend(send.stored.map(|(_, cite)| (cite, number)));
                }
            }
            same.surplus = free.map(|(_, cite)| cite).collect();
            same.unclaimed = unclaimed.map(|(_, cite)| *cite).collect();
        }
    }

    fn take_flows(&mut self) {
        let mut acks: Vec<(usize, Conv, u32)> = Vec::new();
        let mut said: Vec<(usize, Conv, u32)> = Vec::new();
        for send in &self.sends {
            acks.extend(send.ok.map(|(msg_id, place)| (place, send.conv, msg_id)));
            said.extend(send.number().map(|msg_id| (send.invoke, send.conv, msg_id)));
        }
        acks.sort_unstable_by_key(|(place, ..)| *place);
        for (place, conv, msg_id) in acks {
            let acks = &mut self.flows.entry(conv).or_default().acks;
            let highest = acks.last().map_or((msg_id, place), |(_, highest, by)| {
                if *highest >= msg_id { (*highest, *by) } else { (msg_id, place) }
            });
            acks.push((place, highest.0, highest.1));
        }
        for (place, conv, msg_id) in said.into_iter().rev() {
            let said = &mut self.flows.entry(conv).or_default().said;
            let lowest = said.last().map_or((msg_id, place), |(_, lowest, by)| {
                if *lowest <= msg_id { (*lowest, *by) } else { (msg_id, place) }
            });
            said.push((place, lowest.0, lowest.1));
        }
        for flow in self.flows.values_mut() {
            flow.said.reverse();
        }
    }

    fn outcome(&mut self, mid: Mid) -> Option<&mut Send> {
        self.by_mid.get(&mid).and_then(|number| self.sends.get_mut(*number))
    }

    pub(super) fn what(&self, place: usize) -> &'a What {
        &self.events[place].what
    }

    pub(super) fn us(&self, place: usize) -> u64 {
        self.events[place].us
    }

    /// How many events lie at or before number `at`.
    pub(super) fn place_after(&self, at: u64) -> usize {
        self.events.partition_point(|event| event.at <= at)
    }

    pub(super) fn by_mid(&self, mid: Mid) -> Option<&Send> {
        self.by_mid.get(&mid).and_then(|number| self.sends.get(*number))
    }

    /// The first message with these words, in any conversation.
    pub(super) fn by_sha(&self, sha: Sha) -> Option<&Send> {
        self.by_sha.get(&sha).and_then(|number| self.sends.get(*number))
    }

    /// What was said in these words, and the rows that there are of it.
    pub(super) fn same(&self, words: Words) -> Option<&Same> {
        self.same.get(&words)
    }

    /// What a user said in these words, as it was said; nothing if it was said by others only.
    pub(super) fn said(&self, words: Words) -> impl Iterator<Item = &Send> {
        let numbers = self.same(words).map_or(&[][..], |same| &same.sends);
        numbers.iter().filter_map(|number| self.sends.get(*number))
    }

    /// A row of a history or of a pull.
    pub(super) fn row(&self, cite: Cite) -> Option<&'a Row> {
        let (What::Stored { rows, .. } | What::Pull { rows, .. }) = self.what(cite.event) else {
            return None;
        };
        rows.get(cite.row?)
    }

    /// The highest number that was acknowledged before an event, and where that was.
    pub(super) fn acked_before(&self, conv: Conv, place: usize) -> Option<(u32, usize)> {
        let acks = &self.flows.get(&conv)?.acks;
        let count = acks.partition_point(|(at, ..)| *at < place);
        acks.get(count.checked_sub(1)?).map(|(_, highest, by)| (*highest, *by))
    }

    /// The lowest number of all that was said after an event, and where that was said.
    pub(super) fn said_after(&self, conv: Conv, place: usize) -> Option<(u32, usize)> {
        let said = &self.flows.get(&conv)?.said;
        let next = said.get(said.partition_point(|(at, ..)| *at <= place));
        next.map(|(_, lowest, by)| (*lowest, *by))
    }

    /// What shows the number of something that is said or acknowledged in an event.
    pub(super) fn evidence(&self, place: usize) -> Vec<Cite> {
        let what = self.what(place);
        let mid = match what {
            What::Invoke { mid, .. } => Some(*mid),
            what => what.outcome_of(),
        };
        let Some(send) = mid.and_then(|mid| self.by_mid(mid)) else { return Vec::new() };
        let number = match send.ok {
            Some((_, ok)) => Some(Cite::event(ok)),
            None => send.stored.map(|(_, cite)| cite),
        };
        [Cite::event(send.invoke)].into_iter().chain(number).collect()
    }

    /// The conversations in which something was said.
    pub(super) fn said_in(&self) -> impl Iterator<Item = Conv> + '_ {
        self.flows.keys().copied()
    }
}
