//! What has come in each conversation, what is missing, and what may be handed out.
//!
//! Pure: no socket, no clock, no task. The engine reports what came and asks what to do.
//!
//! Messages are numbered without a hole, so each conversation has a *mark*: everything up to it has
//! been handed out. A message above the next number is held until the numbers before it have come,
//! by themselves or from the history. A window of history is asked for from the mark upwards, so
//! that memory stays bounded however much was missed; inside a window pages go downwards, because
//! that is how the server pages.
//!
//! # Invariants
//!
//! - A mark rises over handed-out numbers only, or over numbers that the history does not have.
//! - A number is handed out once. Two numbers with one `(sender, client_msg_id)` are handed out
//!   once, as long as the first is among the last [`RECENT_IDS_MAX`].
//! - Per conversation at most [`HELD_MAX`] messages plus one page are held. Past that the highest
//!   are dropped and fetched again later: nothing is lost, and nothing blocks.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use proto::ids::{ClientMsgId, MsgId, UserId};

#[cfg(feature = "faults")]
use crate::faults::watermark_max;
use crate::message::{Conversation, Message};

/// Messages in one page of history.
const PAGE: u32 = 100;
/// Messages held per conversation.
const HELD_MAX: usize = 512;
/// How many `(sender, client_msg_id)` are remembered.
const RECENT_IDS_MAX: usize = 4096;

/// Where a conversation begins that the program has no mark for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartFrom {
    /// At what is new after the first login. (What was there before is in the history.)
    #[default]
    Newest,
    /// At its first message that this user may see.
    Beginning,
}

/// One conversation, as the server lists it after a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) conversation: Conversation,
    pub(crate) latest: u32,
    pub(crate) unread: u32,
}

/// Something to hand out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Delivery {
    Message(Message),
    /// Numbers that the history does not have for this user.
    Skipped {
        conversation: Conversation,
        first: MsgId,
        last: MsgId,
    },
}

/// A page of history to ask for: `count` messages back from `begin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) conversation: Conversation,
    pub(crate) begin: u32,
    pub(crate) count: u32,
    /// The upper end of the window that this page belongs to.
    window: u32,
}

/// All conversations.
#[derive(Debug)]
pub(crate) struct Timelines {
    start_from: StartFrom,
    /// Whether the first list of conversations was complete; none before it came.
    first_list_complete: Option<bool>,
    lines: HashMap<Conversation, Timeline>,
    /// Conversations that may have something to hand out.
    ready: VecDeque<Conversation>,
    /// Conversations that want a page.
    asks: VecDeque<Conversation>,
    /// Conversations with a fresh gap, which may close by itself.
    gaps: Vec<Conversation>,
    recent: RecentIds,
}

/// One conversation.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent marks, most of them of queues")]
struct Timeline {
    /// Everything up to here is done with. None until the first list of conversations has come.
    mark: Option<u32>,
    /// Whether there is something below the mark that this user may see. Before the first message
    /// that a user may see there is nothing to tell about.
    has_begun: bool,
    /// Numbers up to here that are not held do not exist for this user.
    covered: u32,
    /// The highest number known to exist.
    head: u32,
    /// Messages above the mark; none where only the number counts.
    held: BTreeMap<u32, Option<Message>>,
    /// How far above the mark a window may reach; 0 counts as [`PAGE`].
    stride: u32,
    /// How often pages got no answer at all since nothing was missing. Large messages may not fit in
    /// one page, so pages shrink.
    silences: u32,
    /// The page that is asked for.
    asked: Option<Ask>,
    /// The next page of a window that is half read.
    resume: Option<Ask>,
    /// Whether a gap is known not to close by itself.
    is_behind: bool,
    is_in_ready: bool,
    is_in_asks: bool,
    is_in_gaps: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Condition {
    /// Nothing is missing.
    Quiet,
    /// The next number can be handed out or skipped.
    Ready,
    /// The next number exists and is not here.
    Gap,
}

impl Timelines {
    pub(crate) fn new(start_from: StartFrom, marks: &HashMap<Conversation, MsgId>) -> Self {
        let line = |mark: &MsgId| Timeline {
            mark: Some(mark.0),
            head: mark.0,
            covered: mark.0,
            has_begun: mark.0 > 0,
            ..Timeline::default()
        };
        Self {
            start_from,
            first_list_complete: None,
            lines: marks.iter().map(|(conversation, mark)| (*conversation, line(mark))).collect(),
            ready: VecDeque::new(),
            asks: VecDeque::new(),
            gaps: Vec::new(),
            recent: RecentIds::default(),
        }
    }

    /// A message came, pushed or acknowledged.
    pub(crate) fn on_message(&mut self, message: Message) {
        let (conversation, id) = (message.conversation, message.msg_id.0);
        let repeats = self.recent.is_repeat(&message);
        let line = self.line(conversation, id);
        line.head = line.head.max(id);
        if line.mark.is_none_or(|mark| id > mark) {
            line.held.entry(id).or_insert((!repeats).then_some(message));
            line.drop_overflow();
        }
        self.settle(conversation);
    }

    /// A conversation is known to reach up to `id`.
    pub(crate) fn on_head(&mut self, conversation: Conversation, id: u32) {
        let line = self.line(conversation, id);
        line.head = line.head.max(id);
        line.is_behind = true;
        self.settle(conversation);
    }

    /// The list of conversations came, as it is after every login.
    pub(crate) fn on_list(&mut self, list: &[Listed], is_complete: bool) {
        let is_first = self.first_list_complete.is_none();
        let all_known = *self.first_list_complete.get_or_insert(is_complete);
        for listed in list {
            let line = self.lines.entry(listed.conversation).or_default();
            line.head = line.head.max(listed.latest);
            let base = match self.start_from {
                StartFrom::Beginning => 0,
                StartFrom::Newest if is_first => listed.latest,
                // It was not in the first list, so all of it is new since.
                StartFrom::Newest if all_known => 0,
                StartFrom::Newest => listed.latest.saturating_sub(listed.unread),
            };
            line.set_mark(base);
        }
        let base = self.base_of_unlisted(u32::MAX);
        let conversations: Vec<Conversation> = self.lines.keys().copied().collect();
        for conversation in conversations {
            if let Some(line) = self.lines.get_mut(&conversation) {
                line.set_mark(base);
                line.is_behind = true;
                line.is_in_gaps = false;
            }
            self.settle(conversation);
        }
    }

    /// The conversations with a mark that are not in `list`.
    pub(crate) fn not_in(&self, list: &[Listed]) -> Vec<Conversation> {
        let listed: HashSet<Conversation> = list.iter().map(|listed| listed.conversation).collect();
        self.lines.keys().filter(|conversation| !listed.contains(conversation)).copied().collect()
    }

    /// A gap had its time to close by itself, or a question that failed may be asked again.
    pub(crate) fn on_gap_due(&mut self, conversation: Conversation) {
        if let Some(line) = self.lines.get_mut(&conversation) {
            line.is_in_gaps = false;
            line.is_behind = true;
        }
        self.settle(conversation);
    }

    /// The gaps that appeared since this was asked last. Each wants [`Timelines::on_gap_due`] after
    /// a while.
    pub(crate) fn take_gaps(&mut self) -> Vec<Conversation> {
        std::mem::take(&mut self.gaps)
    }

    /// The next page to ask for.
    pub(crate) fn next_ask(&mut self) -> Option<Ask> {
        while let Some(conversation) = self.asks.pop_front() {
            let Some(line) = self.lines.get_mut(&conversation) else { continue };
            line.is_in_asks = false;
            if line.asked.is_none() && line.condition() == Condition::Gap {
                let resume = line.resume.take().filter(|ask| line.mark < Some(ask.begin));
                let ask = resume.or_else(|| line.first_ask(conversation));
                line.asked = ask;
                return ask;
            }
        }
        None
    }

    /// A page came: those messages of `ask` that there are.
    pub(crate) fn on_page(&mut self, ask: Ask, page: Vec<Message>) {
        if let Some(line) = self.lines.get_mut(&ask.conversation)
            && line.asked == Some(ask)
        {
            line.asked = None;
            line.take_page(ask, page);
        }
        self.settle(ask.conversation);
    }

    /// A page will not come now: the server said so, or was silent. The engine calls [`Timelines::on_gap_due`] later.
    pub(crate) fn on_page_failed(&mut self, ask: Ask, is_silent: bool) {
        if let Some(line) = self.lines.get_mut(&ask.conversation)
            && line.asked == Some(ask)
        {
            line.asked = None;
            line.resume = None;
            line.is_in_gaps = true;
            line.silences = line.silences.saturating_add(u32::from(is_silent));
        }
    }

    /// A page will never come: this user may not read the conversation. What came by itself is
    /// handed out, the rest is skipped.
    pub(crate) fn on_page_denied(&mut self, ask: Ask) {
        if let Some(line) = self.lines.get_mut(&ask.conversation)
            && line.asked == Some(ask)
        {
            line.asked = None;
            line.resume = None;
            line.covered = line.head;
        }
        self.settle(ask.conversation);
    }

    /// The connection is gone, and with it what was asked.
    pub(crate) fn on_lost(&mut self) {
        self.asks.clear();
        self.gaps.clear();
        for line in self.lines.values_mut() {
            line.asked = None;
            line.resume = None;
            line.is_in_asks = false;
            line.is_in_gaps = false;
        }
    }

    /// Whether [`Timelines::next_delivery`] may have something.
    pub(crate) fn has_delivery(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next thing to hand out.
    pub(crate) fn next_delivery(&mut self) -> Option<Delivery> {
        while let Some(&conversation) = self.ready.front() {
            if let Some(line) = self.lines.get_mut(&conversation) {
                if let Some(delivery) = line.next_delivery(conversation) {
                    return Some(delivery);
                }
                line.is_in_ready = false;
            }
            self.ready.pop_front();
            self.settle(conversation);
        }
        None
    }

    /// The conversation, which begins with `id` if it is new.
    fn line(&mut self, conversation: Conversation, id: u32) -> &mut Timeline {
        let mark = self.first_list_complete.map(|_| self.base_of_unlisted(id));
        self.lines.entry(conversation).or_insert_with(|| Timeline {
            mark,
            covered: mark.unwrap_or(0),
            has_begun: mark > Some(0),
            ..Timeline::default()
        })
    }

    /// Where a conversation begins that was in no list and is seen at `id`.
    fn base_of_unlisted(&self, id: u32) -> u32 {
        match (self.start_from, self.first_list_complete) {
            // A complete list would have named it, had there been anything to see.
            (StartFrom::Beginning, _) | (_, Some(true)) => 0,
            (StartFrom::Newest, _) => id.saturating_sub(1),
        }
    }

    /// Queues a conversation for whatever its condition asks for.
    fn settle(&mut self, conversation: Conversation) {
        let Some(line) = self.lines.get_mut(&conversation) else { return };
        match line.condition() {
            Condition::Quiet => {
                line.is_behind = false;
                line.stride = PAGE;
                line.silences = 0;
            }
            Condition::Ready if !line.is_in_ready => {
                line.is_in_ready = true;
                self.ready.push_back(conversation);
            }
            Condition::Gap if line.asked.is_some() || line.is_in_asks || line.is_in_gaps => {}
            Condition::Gap if line.is_behind => {
                line.is_in_asks = true;
                self.asks.push_back(conversation);
            }
            Condition::Gap => {
                line.is_in_gaps = true;
                self.gaps.push(conversation);
            }
            Condition::Ready => {}
        }
    }
}

impl Timeline {
    fn condition(&self) -> Condition {
        let Some(mark) = self.mark else { return Condition::Quiet };
        #[cfg(feature = "faults")]
        if !self.held.is_empty() && watermark_max() {
            return Condition::Ready;
        }
        if self.held.contains_key(&(mark + 1)) || self.covered > mark {
            Condition::Ready
        } else if self.head > mark {
            Condition::Gap
        } else {
            Condition::Quiet
        }
    }

    /// Sets the mark if there is none: to `base`, but below everything that has come already.
    fn set_mark(&mut self, base: u32) {
        if self.mark.is_none() {
            let first = self.held.first_key_value().map_or(u32::MAX, |(&id, _)| id);
            let mark = base.min(first - 1);
            self.mark = Some(mark);
            self.covered = mark;
            self.has_begun = mark > 0;
        }
    }

    fn drop_overflow(&mut self) {
        while self.held.len() > HELD_MAX
            && let Some((id, _)) = self.held.pop_last()
        {
            self.covered = self.covered.min(id - 1);
            self.is_behind = true;
        }
    }

    /// The topmost page of the window above the mark.
    fn first_ask(&self, conversation: Conversation) -> Option<Ask> {
        let mark = self.mark?;
        let held_from = self.held.first_key_value().map_or(u32::MAX, |(&id, _)| id);
        let stride = self.stride.max(PAGE);
        let window = mark.saturating_add(stride).min(self.head).min(held_from - 1);
        let count = (window - mark).min(self.page_len());
        Some(Ask { conversation, begin: window, count, window })
    }

    fn page_len(&self) -> u32 {
        PAGE.checked_shr(self.silences).unwrap_or(0).max(1)
    }

    fn take_page(&mut self, ask: Ask, mut page: Vec<Message>) {
        let Some(mark) = self.mark else { return };
        page.retain(|message| message.msg_id.0 > mark && message.msg_id.0 <= ask.begin);
        let Some(lowest) = page.iter().map(|message| message.msg_id.0).min() else {
            // There is nothing below. If there was nothing above either, this may be a long way
            // without anything to see (a group joined late): look further ahead.
            if ask.begin == ask.window {
                self.stride = self.stride.max(PAGE).saturating_mul(2);
            }
            self.covered = self.covered.max(ask.window);
            return;
        };
        if self.stride > PAGE && lowest > mark + 1 {
            // Overshot. Find the first message by halves rather than page down to it.
            self.stride = (self.stride / 2).max(PAGE);
            return;
        }
        for message in page {
            self.held.entry(message.msg_id.0).or_insert(Some(message));
        }
        if lowest == mark + 1 {
            self.stride = PAGE;
            self.covered = self.covered.max(ask.window);
        } else {
            // A page may be short because its messages are large, so only an empty one is the end.
            let (begin, count) = (lowest - 1, (lowest - 1 - mark).min(self.page_len()));
            self.resume = Some(Ask { begin, count, ..ask });
        }
    }

    fn next_delivery(&mut self, conversation: Conversation) -> Option<Delivery> {
        loop {
            #[cfg(feature = "faults")]
            if watermark_max()
                && let Some((&lowest, _)) = self.held.first_key_value()
            {
                self.mark = Some(lowest - 1);
            }
            let mark = self.mark?;
            let next = mark + 1;
            if let Some(message) = self.held.remove(&next) {
                self.mark = Some(next);
                self.has_begun = true;
                if let Some(message) = message {
                    return Some(Delivery::Message(message));
                }
                continue;
            }
            if self.covered <= mark {
                return None;
            }
            let held_from = self.held.first_key_value().map_or(u32::MAX, |(&id, _)| id);
            let last = self.covered.min(held_from - 1);
            self.mark = Some(last);
            if self.has_begun {
                return Some(Delivery::Skipped {
                    conversation,
                    first: MsgId(next),
                    last: MsgId(last),
                });
            }
        }
    }
}

/// The last ids that senders chose, to recognise a message that has two numbers.
#[derive(Debug, Default)]
struct RecentIds {
    places: HashMap<(UserId, ClientMsgId), (Conversation, MsgId)>,
    order: VecDeque<(UserId, ClientMsgId)>,
}

impl RecentIds {
    /// Whether the sender's id was seen at another place. Remembers it otherwise.
    fn is_repeat(&mut self, message: &Message) -> bool {
        let Some(id) = message.client_msg_id else { return false };
        let key = (message.from, id);
        let place = (message.conversation, message.msg_id);
        if let Some(first) = self.places.get(&key) {
            return *first != place;
        }
        if self.order.len() >= RECENT_IDS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.places.remove(&oldest);
        }
        self.order.push_back(key);
        self.places.insert(key, place);
        false
    }
}

#[cfg(test)]
mod tests;
