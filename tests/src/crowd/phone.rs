//! An old-style phone: after each login it reads what it missed, and from then on it only hears what
//! it is told. It asks for nothing again and repairs nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{ClientType, Connection, ConnectionError, Message, Servers, Session, TlsConfig};
use proto::Command;
use proto::client::{
    MessageData, MessageInfo, MessageListReply, RecentSessionsReply, RecentSessionsRequest,
    UnreadCountReply, UnreadCountRequest,
};
use proto::ids::UserId;
use tokio::time::sleep;

use super::shared::{PHONE, Shared, conv, delivery, row};
use crate::device::page_request;
use crate::history::{Class, Connection as State, Row, What};
use crate::{PASSWORD, Random};

/// Messages on one page of history.
const PAGE: u32 = 100;
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long nothing may come before the phone shows that it is there.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The longest wait before the next attempt.
const AGAIN_MS: u64 = 300;

/// A phone.
pub(super) struct Phone {
    pub(super) user: u32,
    pub(super) servers: Servers,
    pub(super) tls: Option<TlsConfig>,
    pub(super) shared: Arc<Shared>,
}

impl Phone {
    /// Connects again and again.
    pub(super) async fn run(self) {
        let mut random = Random::from_seed(self.user.into());
        let device = (self.user, PHONE);
        for attempt in 0.. {
            // Whatever ends a connection, an old client connects again.
            let _reason: Option<ConnectionError> = self.connect(attempt).await.err();
            self.shared.disconnected(device);
            sleep(Duration::from_millis(AGAIN_MS / 3 + random.below(AGAIN_MS))).await;
        }
    }

    /// One connection, to its end.
    async fn connect(&self, attempt: usize) -> Result<(), ConnectionError> {
        let Some(address) = self.address(attempt).await else { return Ok(()) };
        let mut connection = Connection::connect(&address, self.tls.as_ref()).await?;
        connection.set_limit(ANSWER_LIMIT);
        let name = format!("u{}", self.user);
        if connection.login(&name, PASSWORD, ClientType::Android, None).await.is_err() {
            return Ok(());
        }
        self.shared.connected((self.user, PHONE), Class::Mobile);
        self.catch_up(&mut connection).await?;
        let (user, device, state) = (self.user, PHONE, State::Synced);
        self.shared.recorder.record(What::Session { user, device, state, class: None });
        loop {
            match connection.next_frame(HEARTBEAT).await {
                Ok(frame) => match frame.known_command() {
                    Some(Command::MessageData) => self.told(&frame.parse()?),
                    Some(Command::KickNotify) => {
                        self.shared.complain(format!("the phone of u{user} was thrown out"));
                    }
                    _ => {}
                },
                Err(ConnectionError::TimedOut) => connection.heartbeat().await?,
                Err(error) => return Err(error),
            }
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

    /// Reads what was said since this phone was last complete.
    async fn catch_up(&self, connection: &mut Connection) -> Result<(), ConnectionError> {
        let asked = self.shared.recorder.last();
        let request = RecentSessionsRequest::default();
        let recent: RecentSessionsReply =
            connection.call(Command::RecentSessionsRequest, &request).await?;
        let unread: UnreadCountReply =
            connection.call(Command::UnreadCountRequest, &UnreadCountRequest::default()).await?;
        let mut heads: HashMap<Session, u32> = HashMap::new();
        let recent =
            recent.sessions.iter().map(|it| (it.session_type, it.session_id, it.latest_msg_id));
        let unread =
            unread.sessions.iter().map(|it| (it.session_type, it.session_id, it.latest_msg_id));
        for (kind, id, latest) in recent.chain(unread) {
            if let Some(session) = Session::from_wire(kind, id) {
                let head = heads.entry(session).or_default();
                *head = latest.max(*head);
            }
        }
        for session in self.shared.places(self.user) {
            let (user, device, conv) = (self.user, PHONE, conv(self.user, session));
            let head = heads.get(&session).copied().unwrap_or(0);
            let from = self.shared.complete_upto((user, device), conv) + 1;
            let rows = history(connection, session, (from, head)).await?;
            let (asked, to_head, complete_upto) = (Some(asked), true, head);
            let pull = What::Pull { user, device, conv, from, complete_upto, asked, to_head, rows };
            self.shared.pulled(pull);
        }
        Ok(())
    }

    fn told(&self, data: &MessageData) {
        let Some(message) = Message::from_push(data, UserId(self.user)) else {
            self.shared.complain(format!("the phone of u{} was told {data:?}", self.user));
            return;
        };
        self.shared.pushed(delivery((self.user, PHONE), &message));
    }
}

/// Reads these numbers, the newest first, until there are no more.
async fn history(
    connection: &mut Connection,
    session: Session,
    (from, head): (u32, u32),
) -> Result<Vec<Row>, ConnectionError> {
    let mut rows: Vec<Row> = Vec::new();
    let mut begin = head;
    while begin >= from {
        let request = page_request(session, begin, (begin - from + 1).min(PAGE));
        let reply: MessageListReply =
            connection.call(Command::MessageListRequest, &request).await?;
        let lowest = reply.messages.iter().map(|info: &MessageInfo| info.msg_id).min();
        rows.extend(reply.messages.iter().map(|info| row(info, session)));
        match lowest {
            Some(lowest) if lowest > 1 && lowest <= begin => begin = lowest - 1,
            _ => break,
        }
    }
    Ok(rows)
}
