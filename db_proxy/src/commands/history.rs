//! Messages of one conversation, in pages for clients.
//!
//! Answered from the unstored tail in memory and the store together. Visible to members only, and
//! only from where a member joined.
//!
//! A client that was given fewer messages than it asked for takes the last of them for the beginning.
//! So what does not fit one frame follows in another, until everything that was asked for is told.

use bytes::Bytes;
use daemon::faults::{self, Mutant};
use partition::messages::{MsgRange, at, range};
use partition::publisher::seconds;
use partition::state::State;
use prost::Message as _;
use proto::Command;
use proto::client::{
    LatestMessageIdReply, LatestMessageIdRequest, MessageInfo, MessageListReply,
    MessageListRequest, MessagesByIdReply, MessagesByIdRequest,
};
use proto::cluster::wire::{Answer, Rest};
use proto::ids::{ConversationId, MsgId, UserId};
use proto::limits::{HEADER_LEN, LIMIT_TO_CLIENT};
use store::{MessageRow, StoreError};

use crate::commands::asker::Asker;
use crate::commands::reply::{NoReply, Reply, answered};

/// Messages on one page at most, however many are asked for.
pub(super) const PAGE_MAX: u32 = 1_000;

/// Messages asked for by id at most, as in the original.
const IDS_MAX: usize = 100;

/// What a message takes in a reply besides its body: tags, lengths and numbers.
const MESSAGE_OVERHEAD: usize = 40;

/// What all messages of a reply may take: a frame, without what the rest of a reply takes.
const PAGE_BYTES_MAX: usize = LIMIT_TO_CLIENT - 64 - HEADER_LEN;

/// Messages read at once before it is known how large they are: each may be as large as a frame.
pub(super) const FIRST_PIECE: u32 = 16;

/// 0x0309: the newest messages up to an id, newest first, in as many parts as it takes.
pub(crate) async fn page(asker: &Asker, body: Bytes) -> Reply {
    let request = MessageListRequest::decode(body)?;
    let id = ConversationId::of_session(asker.user, request.session_type, request.session_id);
    let id = id.ok_or(NoReply::Ignored)?;
    let (begin, count) = match &asker.rest {
        Some(rest) => (rest.id(), rest.count()),
        None => (request.msg_id_begin, request.msg_count),
    };
    let count = count.min(PAGE_MAX);
    let served = asker.of(id)?;
    let state = served.partition.state();
    let (mut page, mut rest) = (Page::default(), None);
    if let Some((first, head)) = visible(state, id, asker.user).await?
        && count > 0
    {
        let begin = if begin == 0 { head.0 } else { begin };
        let mut to = MsgId(begin.min(head.0));
        let from = MsgId(to.0.saturating_sub(count - 1)).max(first);
        while from <= to && !page.is_full {
            let first = MsgId(to.0.saturating_sub(page.next_piece() - 1)).max(from);
            for message in range(state, id, MsgRange { from: first, to }).await? {
                page.add(message);
            }
            to = MsgId(first.0 - 1);
        }
        if page.is_full {
            rest = page.rest(from);
        }
    }
    let reply = MessageListReply {
        user_id: asker.user.0,
        session_type: request.session_type,
        session_id: request.session_id,
        msg_id_begin: request.msg_id_begin,
        messages: page.messages,
        attach_data: None,
    };
    Ok(Answer { rest, ..answered(Command::MessageListReply, &reply) })
}

/// 0x030b: the newest id that the user may see.
pub(crate) async fn latest(asker: &Asker, body: Bytes) -> Reply {
    let request = LatestMessageIdRequest::decode(body)?;
    let id = ConversationId::of_session(asker.user, request.session_type, request.session_id);
    let id = id.ok_or(NoReply::Ignored)?;
    let visible = visible(asker.of(id)?.partition.state(), id, asker.user).await?;
    let latest = visible.filter(|(first, head)| first <= head).map_or(0, |(_, head)| head.0);
    Ok(answered(
        Command::LatestMessageIdReply,
        &LatestMessageIdReply {
            user_id: asker.user.0,
            session_type: request.session_type,
            session_id: request.session_id,
            latest_msg_id: latest,
            attach_data: None,
        },
    ))
}

/// 0x030d: these messages, newest first, in as many parts as it takes. If more are asked for than are
/// answered, the newest.
pub(crate) async fn by_id(asker: &Asker, body: Bytes) -> Reply {
    let request = MessagesByIdRequest::decode(body)?;
    let id = ConversationId::of_session(asker.user, request.session_type, request.session_id);
    let id = id.ok_or(NoReply::Ignored)?;
    let served = asker.of(id)?;
    let state = served.partition.state();
    let (mut page, mut rest) = (Page::default(), None);
    if let Some((first, head)) = visible(state, id, asker.user).await? {
        let (upto, count) = asker
            .rest
            .as_ref()
            .map_or((head, IDS_MAX), |rest| (MsgId(rest.id()).min(head), rest.count() as usize));
        let mut wanted: Vec<MsgId> = request.msg_ids.iter().copied().map(MsgId).collect();
        wanted.retain(|wanted| (first..=upto).contains(wanted));
        wanted.sort_unstable();
        wanted.dedup();
        wanted.drain(..wanted.len().saturating_sub(count));
        for piece in wanted.rchunks(FIRST_PIECE as usize) {
            let mut messages = at(state, id, piece).await?;
            messages.sort_unstable_by_key(|message| std::cmp::Reverse(message.msg_id));
            for message in messages {
                page.add(message);
            }
            if page.is_full {
                let given = page.messages.len();
                rest = page.rest_of(wanted.len().saturating_sub(given));
                break;
            }
        }
    }
    let reply = MessagesByIdReply {
        user_id: asker.user.0,
        session_type: request.session_type,
        session_id: request.session_id,
        messages: page.messages,
        attach_data: None,
    };
    Ok(Answer { rest, ..answered(Command::MessagesByIdReply, &reply) })
}

/// The range of ids that `user` may see; `None` if the user takes no part.
async fn visible(
    state: &State,
    id: ConversationId,
    user: UserId,
) -> Result<Option<(MsgId, MsgId)>, StoreError> {
    state
        .with(id, |conversation| {
            let all = faults::planted(Mutant::JoinersReadAll).then_some(MsgId(1));
            conversation.visible_from(user).map(|first| (all.unwrap_or(first), conversation.head))
        })
        .await
}

/// Messages of one reply: as many as fit a frame, from the first on; at least one.
#[derive(Debug, Default)]
struct Page {
    messages: Vec<MessageInfo>,
    bytes: usize,
    is_full: bool,
}

impl Page {
    fn add(&mut self, message: MessageRow) {
        let size = message.body.len() + MESSAGE_OVERHEAD;
        self.is_full |= self.bytes + size > PAGE_BYTES_MAX && !self.messages.is_empty();
        if self.is_full {
            return;
        }
        self.bytes += size;
        // The types of texts are odd, and those of voice messages follow on them.
        let is_text = faults::planted(Mutant::TypeForgotten);
        let kind = if is_text { (message.kind - 1) | 1 } else { message.kind };
        self.messages.push(MessageInfo {
            msg_id: message.msg_id.0,
            from_user_id: message.sender.0,
            create_time: seconds(message.timestamp_ms),
            msg_type: i32::try_from(kind).unwrap_or_default(),
            msg_data: message.body,
        });
    }

    /// What is still to come of the messages from `from` on.
    fn rest(&self, from: MsgId) -> Option<Rest> {
        let lowest = self.messages.last()?.msg_id;
        self.rest_of(usize::try_from(lowest.saturating_sub(from.0)).unwrap_or_default())
    }

    /// Where it goes on, if so many messages below these are still to come.
    fn rest_of(&self, count: usize) -> Option<Rest> {
        let below = self.messages.last()?.msg_id.checked_sub(1)?;
        let count = u32::try_from(count).ok().filter(|count| *count > 0)?;
        Some(Rest { id: Some(below), count: Some(count), ..Rest::default() })
    }

    /// How many messages to read next, so that little is read that does not fit.
    fn next_piece(&self) -> u32 {
        let Some(average) = self.bytes.checked_div(self.messages.len()) else {
            return FIRST_PIECE;
        };
        let fit = PAGE_BYTES_MAX.saturating_sub(self.bytes) / average.max(1);
        u32::try_from(fit).unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX)
    }
}
