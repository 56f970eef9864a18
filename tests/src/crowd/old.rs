//! Clients of the original protocol, as people use them: they read what they missed after each login,
//! and from then on they only hear what they are told. They ask for nothing again and repair nothing.
//!
//! They say things too, each with its habits: all frames with one number, or numbers that begin anew
//! on each connection; Windows sends again what is not answered. They log out, or are just gone, come
//! back as another kind of client, and throw each other out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use client::{ClientType, Connection, ConnectionError, Conversation, Message, Servers, TlsConfig};
use proto::client::{
    GroupMuteReply, GroupMuteRequest, LatestMessageIdReply, LatestMessageIdRequest, LogoutReply,
    LogoutRequest, MessageData, MessageInfo, MessageListReply, ReadAck, RecentSessionsReply,
    RecentSessionsRequest, RemoveSessionReply, RemoveSessionRequest, TimeRequest, UnreadCountReply,
    UnreadCountRequest, UsersStatusReply, UsersStatusRequest,
};
use proto::ids::UserId;
use proto::{Command, Frame};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::mouth::{Mouth, Numbers};
use super::notices::take_notice;
use super::shared::{DeviceId, Shared, Stage, conv, delivery, row};
use crate::device::page_request;
use crate::history::{Class, Connection as State, Progress, Row, What};
use crate::{PASSWORD, Random};

/// Messages on one page of history.
const PAGE: u32 = 100;
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long nothing may come before the client shows that it is there.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The longest wait before the next attempt.
const AGAIN_MS: u64 = 300;
/// How long a client stays away that was thrown out, about.
const SULK_MS: u64 = 2_000;
/// Between two things that a client does by itself, about.
const DOES_MS: u64 = 400;
/// How long a client stays that comes and goes, about.
const STAYS_MS: u64 = 3_000;

/// What kind of client it is, and what it does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits {
    /// Its kinds, in turn from one connection to the next; all of one class.
    pub(super) kinds: &'static [ClientType],
    /// How it numbers what it says; nothing if it says nothing.
    pub(super) numbers: Option<Numbers>,
    /// It comes and goes.
    pub(super) wanders: bool,
    /// It must be there in the end, and have read everything.
    pub(super) stays: bool,
}

/// A client.
pub(super) struct OldClient {
    pub(super) device: DeviceId,
    pub(super) habits: Habits,
    pub(super) servers: Servers,
    pub(super) tls: Option<TlsConfig>,
    /// The users that it asks about, if it is a PC.
    pub(super) watched: Vec<u32>,
    pub(super) shared: Arc<Shared>,
    pub(super) stage: watch::Receiver<Stage>,
}

/// Why a connection ended.
enum End {
    /// It was lost, or there was none.
    Lost,
    /// Another device has the seat now.
    Kicked,
    /// The client left by itself.
    Left,
}

impl From<ConnectionError> for End {
    fn from(_why: ConnectionError) -> Self {
        // Whatever ends a connection, an old client connects again.
        Self::Lost
    }
}

impl OldClient {
    /// Connects again and again.
    pub(super) async fn run(mut self) {
        let (user, number) = self.device;
        let mut random = Random::from_seed(u64::from(user) << 8 | u64::from(number));
        let mut mouth = self
            .habits
            .numbers
            .map(|numbers| Mouth::new(self.device, numbers, Arc::clone(&self.shared)));
        for attempt in 0.. {
            // One that has no seat to defend stays out; one that is there stays until it is thrown out.
            if !self.habits.stays && self.stage() != Stage::Talking {
                return;
            }
            let seed = random.below(u64::MAX);
            let ended = self.connect(attempt, seed, &mut mouth).await;
            if let Some(mouth) = &mut mouth {
                mouth.lost();
            }
            self.shared.disconnected(self.device);
            let wait = match ended {
                End::Kicked => SULK_MS,
                End::Left | End::Lost => AGAIN_MS,
            };
            sleep(Duration::from_millis(wait / 3 + random.below(wait))).await;
        }
    }

    fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    const fn class(&self) -> Class {
        match self.habits.kinds {
            [ClientType::Windows | ClientType::Mac, ..] => Class::Pc,
            _ => Class::Mobile,
        }
    }

    async fn address(&self, attempt: usize) -> Option<String> {
        match &self.servers {
            Servers::Gateways(all) => all.get(attempt % all.len()).cloned(),
            Servers::Login(urls) => {
                let gateway = client::lookup_any(urls, self.tls.as_ref()).await.ok()?;
                let port = if self.tls.is_some() { gateway.tls_port? } else { gateway.port };
                Some(format!("{}:{port}", gateway.host))
            }
        }
    }

    /// One connection, to its end.
    async fn connect(&mut self, attempt: usize, seed: u64, mouth: &mut Option<Mouth>) -> End {
        let Some(address) = self.address(attempt).await else { return End::Lost };
        self.shared.connecting(self.device, self.class());
        let connect = Connection::connect(&address, self.tls.as_ref());
        let Ok(Ok(mut connection)) = timeout(ANSWER_LIMIT, connect).await else { return End::Lost };
        connection.set_limit(ANSWER_LIMIT);
        let (user, device) = self.device;
        let kind = self.habits.kinds[attempt % self.habits.kinds.len()];
        if connection.login(&format!("u{user}"), PASSWORD, kind, None).await.is_err() {
            return End::Lost;
        }
        self.shared.connected(self.device, self.class());
        let random = Random::from_seed(seed);
        let mut visit = Visit { of: self, connection, kept: VecDeque::new(), random };
        let synced = visit.catch_up().await;
        if let Err(end) = synced {
            return end;
        }
        let state = State::Synced;
        visit.of.shared.recorder.record(What::Session { user, device, state, class: None });
        visit.stay(mouth).await.err().unwrap_or(End::Lost)
    }
}

/// One connection that is logged in.
struct Visit<'a> {
    of: &'a mut OldClient,
    connection: Connection,
    /// What came while something else was waited for.
    kept: VecDeque<Frame>,
    random: Random,
}

impl Visit<'_> {
    fn shared(&self) -> &Shared {
        &self.of.shared
    }

    fn user(&self) -> u32 {
        self.of.device.0
    }

    fn complain(&self, what: &str) {
        let (user, device) = self.of.device;
        self.shared().complain(format!("u{user}/{device} {what}"));
    }

    /// What the server says can be read.
    fn read<M: prost::Message + Default>(&self, frame: &Frame) -> Result<M, End> {
        frame.parse().map_err(|error| {
            self.complain(&format!("cannot read {frame:?}: {error}"));
            End::Lost
        })
    }

    async fn call<R: prost::Message + Default>(
        &mut self,
        command: Command,
        request: &impl prost::Message,
    ) -> Result<R, End> {
        Ok(self.connection.call(command, request).await?)
    }

    /// Reads what was said since this client was last complete.
    async fn catch_up(&mut self) -> Result<(), End> {
        if self.of.class() == Class::Pc {
            let user_ids = self.of.watched.clone();
            let request = UsersStatusRequest { user_ids, ..UsersStatusRequest::default() };
            let seq = self.connection.send(Command::UsersStatusRequest, &request).await?;
            let reply = self.connection.reply_to(seq).await?;
            take_notice(self.shared(), self.of.device, Class::Pc, &reply);
            self.read::<UsersStatusReply>(&reply)?;
        }
        let asked = self.shared().recorder.last();
        let recent: RecentSessionsReply =
            self.call(Command::RecentSessionsRequest, &RecentSessionsRequest::default()).await?;
        let unread: UnreadCountReply =
            self.call(Command::UnreadCountRequest, &UnreadCountRequest::default()).await?;
        let recent: HashMap<Conversation, u32> = recent
            .sessions
            .iter()
            .filter_map(|it| {
                let conversation = Conversation::from_wire(it.session_type, it.session_id)?;
                Some((conversation, it.latest_msg_id))
            })
            .collect();
        for it in &unread.sessions {
            if let Some(conversation) = Conversation::from_wire(it.session_type, it.session_id) {
                self.is_newest(conversation, it.latest_msg_id, asked);
            }
        }
        for conversation in self.shared().places(self.user()) {
            let head = match recent.get(&conversation) {
                Some(head) => *head,
                None if self.shared().is_removed(self.user(), conversation) => {
                    self.latest(conversation).await?
                }
                // A list without it says that nothing was said there.
                None => 0,
            };
            self.is_newest(conversation, head, asked);
            self.read_from(conversation, head, asked).await?;
        }
        Ok(())
    }

    /// A list says that this is the newest message of a conversation.
    fn is_newest(&self, conversation: Conversation, head: u32, asked: u64) {
        let (user, device) = self.of.device;
        let (conv, from, complete_upto, asked) =
            (conv(user, conversation), head + 1, head, Some(asked));
        let (to_head, rows) = (true, Vec::new());
        let pull = What::Pull { user, device, conv, from, complete_upto, asked, to_head, rows };
        self.shared().recorder.record(pull);
    }

    async fn latest(&mut self, conversation: Conversation) -> Result<u32, End> {
        let request = LatestMessageIdRequest {
            session_type: conversation.session_type().into(),
            session_id: conversation.number(),
            ..LatestMessageIdRequest::default()
        };
        let reply: LatestMessageIdReply =
            self.call(Command::LatestMessageIdRequest, &request).await?;
        Ok(reply.latest_msg_id)
    }

    async fn read_from(
        &mut self,
        conversation: Conversation,
        head: u32,
        asked: u64,
    ) -> Result<(), End> {
        let (user, device) = self.of.device;
        let conv = conv(user, conversation);
        let from = self.shared().complete_upto(self.of.device, conv) + 1;
        let rows = self.history(conversation, (from, head)).await?;
        let (asked, to_head, complete_upto) = (Some(asked), true, head);
        let pull = What::Pull { user, device, conv, from, complete_upto, asked, to_head, rows };
        self.shared().pulled(pull);
        Ok(())
    }

    /// Reads these numbers, the newest first, until there are no more.
    async fn history(
        &mut self,
        conversation: Conversation,
        (from, head): (u32, u32),
    ) -> Result<Vec<Row>, End> {
        let mut rows: Vec<Row> = Vec::new();
        let mut begin = head;
        while begin >= from {
            let page = self.page(conversation, begin, (begin - from + 1).min(PAGE)).await?;
            let lowest = page.iter().map(|info: &MessageInfo| info.msg_id).min();
            rows.extend(page.iter().map(|info| row(info, conversation)));
            match lowest {
                Some(lowest) if lowest > 1 && lowest <= begin => begin = lowest - 1,
                _ => break,
            }
        }
        Ok(rows)
    }

    /// One page of history. What does not fit one frame follows in others. What cannot be read now is
    /// not answered at all.
    async fn page(
        &mut self,
        conversation: Conversation,
        begin: u32,
        count: u32,
    ) -> Result<Vec<MessageInfo>, End> {
        let request = page_request(conversation, begin, count);
        let seq = self.connection.send(Command::MessageListRequest, &request).await?;
        let end = self.connection.send(Command::TimeRequest, &TimeRequest {}).await?;
        let mut page: Option<Vec<MessageInfo>> = None;
        loop {
            let frame = self.connection.next_frame(ANSWER_LIMIT).await?;
            if frame.seq == end {
                return page.ok_or(End::Lost);
            }
            if frame.seq == seq {
                let more = self.read::<MessageListReply>(&frame)?.messages;
                page.get_or_insert_default().extend(more);
            } else {
                self.kept.push_back(frame);
            }
        }
    }

    /// Hears, says and does things until the connection ends.
    async fn stay(&mut self, mouth: &mut Option<Mouth>) -> Result<(), End> {
        let now = Instant::now();
        let leaves = now + self.about(STAYS_MS);
        let mut does = now + self.about(DOES_MS);
        if let Some(mouth) = mouth {
            mouth.logged_in(&mut self.connection).await?;
        }
        let mut has_read = false;
        let mut stage = self.of.stage.clone();
        loop {
            let stage_now = *stage.borrow_and_update();
            let is_idle = mouth.as_ref().is_none_or(Mouth::is_idle);
            let now = Instant::now();
            if stage_now == Stage::Reading && is_idle && !has_read {
                has_read = self.read_everything().await?;
            }
            if stage_now == Stage::Talking && is_idle && now >= does {
                if self.of.habits.wanders && now >= leaves {
                    return self.leave().await;
                }
                does = now + self.about(DOES_MS);
                self.do_something().await?;
            }
            let mut due = now + HEARTBEAT;
            if let Some(mouth) = mouth {
                let may_talk = stage_now == Stage::Talking;
                due = due.min(mouth.act(&mut self.connection, may_talk).await?);
            }
            if stage_now == Stage::Talking {
                due = due.min(does.max(now + Duration::from_millis(20)));
            } else if stage_now == Stage::Reading && !has_read {
                due = due.min(now + Duration::from_millis(100));
            }
            let limit = due.saturating_duration_since(now);
            tokio::select! {
                frame = next(&mut self.kept, &mut self.connection, limit) => match frame {
                    Ok(frame) => self.take(&frame, mouth)?,
                    Err(ConnectionError::TimedOut) if limit >= HEARTBEAT => {
                        self.connection.heartbeat().await?;
                    }
                    Err(ConnectionError::TimedOut) => {}
                    Err(error) => return Err(error.into()),
                },
                changed = stage.changed() => changed.map_err(|_gone| End::Left)?,
            }
        }
    }

    fn about(&mut self, ms: u64) -> Duration {
        Duration::from_millis(ms / 2 + self.random.below(ms))
    }

    fn take(&self, frame: &Frame, mouth: &mut Option<Mouth>) -> Result<(), End> {
        match frame.known_command() {
            Some(Command::MessageData) if frame.seq == 0 => {
                let data: MessageData = self.read(frame)?;
                match Message::from_push(&data, UserId(self.user())) {
                    Some(message) => self.shared().pushed(delivery(self.of.device, &message)),
                    None => self.complain(&format!("was told {data:?}")),
                }
            }
            Some(Command::MessageAck) => {
                if let Some(mouth) = mouth {
                    mouth.answered(frame);
                }
            }
            known => {
                if frame.seq != 0 {
                    self.complain(&format!("would take {frame:?} for an answer"));
                }
                take_notice(self.shared(), self.of.device, self.of.class(), frame);
                if known == Some(Command::KickNotify) {
                    return Err(End::Kicked);
                }
            }
        }
        Ok(())
    }

    /// One of the things that people do besides talking.
    async fn do_something(&mut self) -> Result<(), End> {
        let places = self.shared().places(self.user());
        let Some(place) = places.get(self.random.index(places.len().max(1))).copied() else {
            return Ok(());
        };
        match (self.random.below(12), place) {
            (0..=4, _) => self.mark(place).await,
            (5, Conversation::Group(group)) => {
                let muted = u32::from(self.random.below(2) == 0);
                let request =
                    GroupMuteRequest { group_id: group.0, muted, ..GroupMuteRequest::default() };
                self.call::<GroupMuteReply>(Command::GroupMuteRequest, &request).await.map(drop)
            }
            (6, _) => {
                let request = RemoveSessionRequest {
                    session_type: place.session_type().into(),
                    session_id: place.number(),
                    ..RemoveSessionRequest::default()
                };
                self.shared().remove(self.user(), place);
                let command = Command::RemoveSessionRequest;
                self.call::<RemoveSessionReply>(command, &request).await.map(drop)
            }
            (7, _) => self.keep_marks().await.map(drop),
            _ => Ok(()),
        }
    }

    /// Says that everything which this client has seen is read. It has no answer.
    async fn mark(&mut self, place: Conversation) -> Result<(), End> {
        let conv = conv(self.user(), place);
        let upto = self.shared().complete_upto(self.of.device, conv);
        if upto > 0 {
            let (user, phase) = (self.user(), Progress::Invoke);
            self.shared().recorder.record(What::Mark { user, conv, upto, phase });
            let mark = ReadAck {
                user_id: 0,
                session_id: place.number(),
                msg_id: upto,
                session_type: place.session_type().into(),
            };
            self.connection.send(Command::ReadAck, &mark).await?;
        }
        Ok(())
    }

    /// Marks everything and asks what is unread: what is not listed is read. Returns whether nothing
    /// is.
    async fn keep_marks(&mut self) -> Result<bool, End> {
        let places = self.shared().places(self.user());
        let mut marked = Vec::new();
        for place in places {
            let conv = conv(self.user(), place);
            marked.push((place, conv, self.shared().complete_upto(self.of.device, conv)));
            self.mark(place).await?;
        }
        let unread: UnreadCountReply =
            self.call(Command::UnreadCountRequest, &UnreadCountRequest::default()).await?;
        let listed = unread.sessions.iter();
        let listed: HashSet<Conversation> = listed
            .filter_map(|it| Conversation::from_wire(it.session_type, it.session_id))
            .collect();
        for (place, conv, upto) in &marked {
            if !listed.contains(place) {
                let (user, conv, upto, phase) = (self.user(), *conv, *upto, Progress::Ok);
                self.shared().recorder.record(What::Mark { user, conv, upto, phase });
            }
        }
        Ok(!marked.iter().any(|(place, ..)| listed.contains(place)))
    }

    /// In the end: returns whether the server knows that everything is read.
    async fn read_everything(&mut self) -> Result<bool, End> {
        let is_read = self.keep_marks().await?;
        if is_read {
            self.shared().has_read(self.of.device);
        }
        Ok(is_read)
    }

    /// Logs out, or is just gone.
    async fn leave(&mut self) -> Result<(), End> {
        if self.random.below(2) == 0 {
            let request = LogoutRequest::default();
            self.call::<LogoutReply>(Command::LogoutRequest, &request).await?;
        }
        Err(End::Left)
    }
}

/// The next frame, of those that came earlier first. Cancel-safe.
async fn next(
    kept: &mut VecDeque<Frame>,
    connection: &mut Connection,
    limit: Duration,
) -> Result<Frame, ConnectionError> {
    match kept.pop_front() {
        Some(frame) => Ok(frame),
        None => connection.next_frame(limit).await,
    }
}
