//! An old client as people use it: it keeps what it has seen on its own disk, fetches what it missed
//! when it logs in, and lives on pushes from then on. It gives up connections and makes new ones.
//!
//! What it sees is held against the simplest promises at once ([`Book`]): a number stands for one
//! message for ever, and what is pushed on one connection leaves nothing out and repeats nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::time::{Duration, Instant};

use client::{
    ClientType, Connection, ConnectionError, Conversation, FrameReader, FrameWriter, LoginError,
    Message,
};
use proto::client::{
    GroupMembersNotify, KickNotify, KickReason, LatestMessageIdReply, LatestMessageIdRequest,
    MessageInfo, MessageListReply, RecentSessionsReply, RecentSessionsRequest, UnreadCountReply,
    UnreadCountRequest,
};
use proto::ids::UserId;
use proto::{Command, Frame, encode_message};
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};

use crate::device::page_request;
use crate::{PASSWORD, PATIENCE};

/// Messages on one page of history.
const PAGE: u32 = 100;
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Where a device learned of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// It was pushed.
    Push,
    /// It was in the history.
    History,
}

/// What one device has seen, over all its connections.
#[derive(Debug)]
pub(super) struct Book {
    user: u32,
    name: String,
    conversations: BTreeMap<Conversation, Pages>,
    /// What contradicts the promises.
    pub(super) wrong: Vec<String>,
    /// Why it was thrown out, if it was.
    pub(super) kicked: Option<KickReason>,
    /// What was pushed, in order.
    pub(super) heard: Vec<Heard>,
}

/// A message that was pushed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard {
    pub(super) conversation: Conversation,
    pub(super) msg_id: u32,
    pub(super) content: u64,
    pub(super) at: Instant,
}

#[derive(Debug, Default)]
struct Pages {
    seen: BTreeMap<u32, u64>,
    /// Those that were pushed, and those that the history had.
    by_push: BTreeSet<u32>,
    by_history: BTreeSet<u32>,
    /// Everything up to here has been seen.
    run: u32,
    /// The last one that was pushed on this connection.
    pushed: Option<u32>,
}

/// A number that stands for a sender and a content, and for no others.
pub(super) fn content(from: u32, data: &[u8]) -> u64 {
    // Its keys are fixed, so that two processes agree. No attacker chooses the contents here.
    let mut hasher = DefaultHasher::new();
    (from, data).hash(&mut hasher);
    hasher.finish()
}

impl Book {
    /// The empty book of a device of this user.
    pub(super) fn new(user: u32, name: &str) -> Self {
        let name = format!("u{user} ({name})");
        Self {
            user,
            name,
            conversations: BTreeMap::new(),
            wrong: Vec::new(),
            kicked: None,
            heard: Vec::new(),
        }
    }

    /// Up to where a conversation has been seen without a hole.
    pub(super) fn run(&self, conversation: Conversation) -> u32 {
        self.conversations.get(&conversation).map_or(0, |pages| pages.run)
    }

    /// What was seen under a number.
    pub(super) fn seen(&self, conversation: Conversation, msg_id: u32) -> Option<u64> {
        self.conversations.get(&conversation)?.seen.get(&msg_id).copied()
    }

    /// Whose it is.
    pub(super) const fn user(&self) -> u32 {
        self.user
    }

    /// Whether a message was pushed, and whether it was in a history.
    pub(super) fn sources(&self, conversation: Conversation, msg_id: u32) -> (bool, bool) {
        let pages = self.conversations.get(&conversation);
        pages.map_or((false, false), |pages| {
            (pages.by_push.contains(&msg_id), pages.by_history.contains(&msg_id))
        })
    }

    /// Everything that was seen of a conversation.
    pub(super) fn all(&self, conversation: Conversation) -> impl Iterator<Item = (u32, u64)> {
        let pages = self.conversations.get(&conversation);
        pages.into_iter().flat_map(|pages| pages.seen.iter().map(|(id, content)| (*id, *content)))
    }

    /// Whether each of these conversations has been seen up to its number.
    pub(super) fn reaches(&self, heads: &BTreeMap<Conversation, u32>) -> bool {
        heads.iter().all(|(conversation, head)| self.run(*conversation) >= *head)
    }

    /// What is missing of it.
    pub(super) fn missing(&self, heads: &BTreeMap<Conversation, u32>) -> String {
        let behind = heads.iter().filter(|(conversation, head)| self.run(**conversation) < **head);
        let text = behind.map(|(conversation, head)| {
            let seen =
                self.conversations.get(conversation).and_then(|pages| pages.seen.last_key_value());
            let top = seen.map_or(0, |(id, _content)| *id);
            format!(
                "{conversation:?}: {} of {head} without a hole, {top} seen",
                self.run(*conversation)
            )
        });
        format!("{}: {}", self.name, text.collect::<Vec<_>>().join(", "))
    }

    /// Takes down one message.
    pub(super) fn note(&mut self, message: &Message, source: Source) {
        let Message { conversation, msg_id, from, data, .. } = message;
        let content = content(from.0, data);
        let pages = self.conversations.entry(*conversation).or_default();
        let name = &self.name;
        let mut wrong = |what: String| self.wrong.push(format!("{name}, {conversation:?}: {what}"));
        if let Some(other) = pages.seen.insert(msg_id.0, content)
            && other != content
        {
            wrong(format!("{} is one message and then another", msg_id.0));
        }
        while pages.seen.contains_key(&(pages.run + 1)) {
            pages.run += 1;
        }
        if source == Source::History {
            pages.by_history.insert(msg_id.0);
            return;
        }
        pages.by_push.insert(msg_id.0);
        let at = Instant::now();
        self.heard.push(Heard { conversation: *conversation, msg_id: msg_id.0, content, at });
        match pages.pushed {
            Some(before) if msg_id.0 <= before => {
                wrong(format!("{} is pushed after {before}", msg_id.0));
            }
            Some(before) if msg_id.0 > before + 1 => {
                wrong(format!("{} is pushed when {} is next", msg_id.0, before + 1));
            }
            _ => {}
        }
        pages.pushed = Some(msg_id.0);
    }

    /// A new connection: nothing was pushed on it yet.
    pub(super) fn begin(&mut self) {
        self.kicked = None;
        for pages in self.conversations.values_mut() {
            pages.pushed = None;
        }
    }

    /// Takes what came unasked. Returns the message, if it was one.
    pub(super) fn take(&mut self, frame: &Frame) -> Option<Message> {
        if frame.seq != 0 && frame.known_command() == Some(Command::MessageData) {
            self.wrong.push(format!("{}: a push with seq {}", self.name, frame.seq));
        }
        match frame.known_command() {
            Some(Command::MessageData) => {
                let read = frame.parse().ok();
                let message = read.and_then(|data| Message::from_push(&data, UserId(self.user)));
                match &message {
                    Some(message) => self.note(message, Source::Push),
                    None => self.wrong.push(format!("{}: what is {frame:?}?", self.name)),
                }
                return message;
            }
            Some(Command::KickNotify) => {
                let kick: Option<KickNotify> = frame.parse().ok();
                self.kicked = kick.map(|kick| kick.reason());
            }
            Some(Command::GroupMembersNotify) => {
                let told: Option<GroupMembersNotify> = frame.parse().ok();
                if let Some(told) = told.filter(|told| told.changed_ids.contains(&self.user))
                    && let Some(pages) =
                        self.conversations.get_mut(&Conversation::group(told.group_id))
                {
                    // What is said while the user is no member is not for the user: the numbers jump.
                    pages.pushed = None;
                }
            }
            _ => {}
        }
        None
    }
}

/// A connection that is logged in.
#[derive(Debug)]
pub(super) struct Line {
    reader: FrameReader,
    writer: FrameWriter,
    seq: u16,
}

impl Line {
    /// Logs in. What is pushed before the answer is wrong.
    pub(super) async fn open(
        gateway: &str,
        kind: ClientType,
        book: &mut Book,
    ) -> Result<Self, LoginError> {
        let connect = timeout(ANSWER_LIMIT, Connection::connect(gateway, None)).await;
        let connection = connect.unwrap_or(Err(ConnectionError::TimedOut))?;
        Self::log_in(connection, kind, book).await
    }

    /// Logs in as soon as that works: a daemon may still be on its way back.
    pub(super) async fn open_when_back(gateway: &str, kind: ClientType, book: &mut Book) -> Self {
        let began = Instant::now();
        loop {
            match Self::open(gateway, kind, book).await {
                Ok(line) => return line,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{} gets in: {error}", book.name),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Logs in over a socket of the caller's.
    pub(super) async fn over(
        socket: TcpStream,
        kind: ClientType,
        book: &mut Book,
    ) -> Result<Self, LoginError> {
        Self::log_in(Connection::over(socket), kind, book).await
    }

    async fn log_in(
        mut connection: Connection,
        kind: ClientType,
        book: &mut Book,
    ) -> Result<Self, LoginError> {
        connection.set_limit(ANSWER_LIMIT);
        connection.login(&format!("u{}", book.user), PASSWORD, kind, None).await?;
        book.begin();
        let seq = connection.next_seq();
        let (reader, writer, early) = connection.split();
        for frame in &early {
            book.wrong.push(format!("{}: before the answer to the login: {frame:?}", book.name));
        }
        Ok(Self { reader, writer, seq })
    }

    /// Waits for the next frame and takes it down. Returns the message, if it was one. Cancel-safe.
    pub(super) async fn next(&mut self, book: &mut Book) -> io::Result<Option<Message>> {
        let frame = self.reader.next().await.map_err(io::Error::other)?;
        Ok(book.take(&frame.ok_or(io::ErrorKind::UnexpectedEof)?))
    }

    /// Takes down what comes until `holds` or the deadline. Returns whether it held.
    pub(super) async fn listen(
        &mut self,
        book: &mut Book,
        deadline: Instant,
        mut holds: impl FnMut(&Book) -> bool,
    ) -> io::Result<bool> {
        while !holds(book) {
            match timeout_at(deadline.into(), self.next(book)).await {
                Ok(taken) => drop(taken?),
                Err(_elapsed) => return Ok(holds(book)),
            }
        }
        Ok(true)
    }

    /// Asks, and takes down what comes before the answer.
    pub(super) async fn ask<R: prost::Message + Default>(
        &mut self,
        book: &mut Book,
        command: Command,
        request: &impl prost::Message,
    ) -> io::Result<R> {
        self.seq = self.seq.checked_add(1).unwrap_or(1);
        self.writer.queue(&encode_message(command, self.seq, request));
        let answer = async {
            self.writer.flush().await?;
            loop {
                let frame = self.reader.next().await.map_err(io::Error::other)?;
                let frame = frame.ok_or(io::ErrorKind::UnexpectedEof)?;
                if frame.seq == self.seq {
                    return frame.parse().map_err(io::Error::other);
                }
                book.take(&frame);
            }
        };
        timeout(ANSWER_LIMIT, answer).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    /// What an old client does after its login: it asks which conversations have something new, and
    /// reads each back to where it has seen everything.
    pub(super) async fn catch_up(&mut self, book: &mut Book) -> io::Result<()> {
        for (conversation, head) in self.heads(book).await? {
            self.read_back(book, conversation, head).await?;
        }
        Ok(())
    }

    /// The newest number of each conversation that the server lists.
    pub(super) async fn heads(
        &mut self,
        book: &mut Book,
    ) -> io::Result<BTreeMap<Conversation, u32>> {
        let unread: UnreadCountReply =
            self.ask(book, Command::UnreadCountRequest, &UnreadCountRequest::default()).await?;
        let recent: RecentSessionsReply = self
            .ask(book, Command::RecentSessionsRequest, &RecentSessionsRequest::default())
            .await?;
        let unread = unread.sessions.iter().filter_map(|unread| {
            let conversation = Conversation::from_wire(unread.session_type, unread.session_id)?;
            Some((conversation, unread.latest_msg_id))
        });
        let recent = recent.sessions.iter().filter_map(|recent| {
            let conversation = Conversation::from_wire(recent.session_type, recent.session_id)?;
            Some((conversation, recent.latest_msg_id))
        });
        let mut heads = BTreeMap::new();
        for (conversation, head) in unread.chain(recent) {
            let highest = heads.entry(conversation).or_default();
            *highest = head.max(*highest);
        }
        Ok(heads)
    }

    /// Reads a conversation back from `head` to what has been seen without a hole.
    pub(super) async fn read_back(
        &mut self,
        book: &mut Book,
        conversation: Conversation,
        head: u32,
    ) -> io::Result<()> {
        let mut next = head;
        while next > book.run(conversation) {
            let count = (next - book.run(conversation)).min(PAGE);
            let page = self.page(book, conversation, next, count).await?;
            let Some(oldest) = page.last() else { break };
            next = oldest.msg_id.saturating_sub(1);
        }
        Ok(())
    }

    /// One page of history, the newest first, which is taken down.
    pub(super) async fn page(
        &mut self,
        book: &mut Book,
        conversation: Conversation,
        begin: u32,
        count: u32,
    ) -> io::Result<Vec<MessageInfo>> {
        let request = page_request(conversation, begin, count);
        let reply: MessageListReply = self.ask(book, Command::MessageListRequest, &request).await?;
        for info in &reply.messages {
            match Message::from_history(info, conversation) {
                Some(message) => book.note(&message, Source::History),
                None => book.wrong.push(format!("{}: what is {info:?}?", book.name)),
            }
        }
        Ok(reply.messages)
    }

    /// The newest number of a conversation.
    pub(super) async fn latest(
        &mut self,
        book: &mut Book,
        conversation: Conversation,
    ) -> io::Result<u32> {
        let request = LatestMessageIdRequest {
            session_type: conversation.session_type().into(),
            session_id: conversation.number(),
            ..LatestMessageIdRequest::default()
        };
        let reply: LatestMessageIdReply =
            self.ask(book, Command::LatestMessageIdRequest, &request).await?;
        Ok(reply.latest_msg_id)
    }

    /// Takes down what comes until the gateway has closed the connection. Returns whether it did.
    pub(super) async fn closes(mut self, book: &mut Book, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        self.listen(book, deadline, |_book| false).await.is_err()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use client::Kind;
    use proto::ids::MsgId;

    use super::*;

    fn message(msg_id: u32, data: &'static [u8]) -> Message {
        Message {
            conversation: Conversation::user(2),
            msg_id: MsgId(msg_id),
            from: UserId(2),
            create_time: 0,
            kind: Kind::Text,
            data: Bytes::from_static(data),
            client_msg_id: None,
        }
    }

    fn wrong(notes: &[(u32, &'static [u8], Source)]) -> Vec<String> {
        let mut book = Book::new(1, "test");
        for (msg_id, data, source) in notes {
            book.note(&message(*msg_id, data), *source);
        }
        book.wrong
    }

    #[test]
    fn history_and_pushes_may_overlap_and_fill_each_other() {
        let mut book = Book::new(1, "test");
        for (msg_id, source) in
            [(3, Source::Push), (2, Source::History), (3, Source::History), (4, Source::Push)]
        {
            book.note(&message(msg_id, b"m"), source);
        }
        assert_eq!((book.run(Conversation::user(2)), book.wrong.len()), (0, 0));
        book.note(&message(1, b"m"), Source::History);
        assert_eq!(book.run(Conversation::user(2)), 4);
    }

    #[test]
    fn a_number_with_two_messages_is_wrong() {
        assert_eq!(wrong(&[(1, b"a", Source::Push), (1, b"b", Source::History)]).len(), 1);
    }

    #[test]
    fn pushes_leave_nothing_out_and_repeat_nothing() {
        assert_eq!(wrong(&[(1, b"a", Source::Push), (3, b"c", Source::Push)]).len(), 1);
        assert_eq!(wrong(&[(1, b"a", Source::Push), (1, b"a", Source::Push)]).len(), 1);
        assert_eq!(wrong(&[(2, b"a", Source::Push), (1, b"a", Source::Push)]).len(), 1);
    }
}
