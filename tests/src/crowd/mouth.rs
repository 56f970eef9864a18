//! What an old client says: one message at a time, known by the number of its frame.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Connection, ConnectionError, Conversation, Draft, new_client_msg_id};
use prost::Message as _;
use proto::client::MessageAck;
use proto::{Command, Frame};
use tokio::time::Instant;

use super::shared::{DeviceId, Shared, conv};
use super::words::Words;
use crate::Random;
use crate::history::{Conv, Mid, Sha, What};

/// Numbers of messages lie above those of other requests.
const FIRST: u16 = 20_000;
/// Between two messages, about.
const PAUSE_MS: u64 = 300;
/// How long a client waits for an answer before it gives up; Windows sends the frame once more after
/// half of it (TeamTalk protocol, timing).
const GIVE_UP: Duration = Duration::from_secs(12);

/// How a client numbers its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbers {
    /// They rise from connection to connection, and what is not answered is sent once more: Windows.
    Repeating,
    /// They rise, from the same one on each connection.
    FromOne,
    /// All have the same.
    One,
}

/// What is said and not answered.
#[derive(Debug)]
struct Said {
    mid: Mid,
    conv: Conv,
    frame: Frame,
    since: Instant,
    is_repeated: bool,
}

#[derive(Debug)]
pub(super) struct Mouth {
    device: DeviceId,
    numbers: Numbers,
    shared: Arc<Shared>,
    words: Words,
    random: Random,
    seq: u16,
    said: HashMap<Conv, (u32, Mid)>,
    unanswered: Option<Said>,
    /// What was given up on this connection, and may be answered yet, by number.
    given_up: HashMap<u16, (Mid, Conv)>,
    next: Instant,
}

impl Mouth {
    pub(super) fn new(device: DeviceId, numbers: Numbers, shared: Arc<Shared>) -> Self {
        let (user, number) = device;
        Self {
            device,
            numbers,
            shared,
            words: Words::new(user, number),
            random: Random::from_seed(u64::from(user) << 24 | u64::from(number)),
            seq: FIRST,
            said: HashMap::new(),
            unanswered: None,
            given_up: HashMap::new(),
            next: Instant::now(),
        }
    }

    /// Whether nothing waits for an answer.
    pub(super) const fn is_idle(&self) -> bool {
        self.unanswered.is_none()
    }

    /// The connection is lost. Only Windows keeps what it said for the next one.
    pub(super) fn lost(&mut self) {
        self.given_up.clear();
        if self.numbers != Numbers::Repeating {
            self.give_up();
        }
    }

    /// On a new connection: what was not answered is sent once more.
    pub(super) async fn logged_in(
        &mut self,
        connection: &mut Connection,
    ) -> Result<(), ConnectionError> {
        if self.numbers == Numbers::FromOne {
            self.seq = FIRST;
        }
        if self
            .unanswered
            .as_ref()
            .is_some_and(|said| said.is_repeated || said.since.elapsed() >= GIVE_UP)
        {
            self.give_up();
        }
        self.repeat(connection).await
    }

    async fn repeat(&mut self, connection: &mut Connection) -> Result<(), ConnectionError> {
        let Some(said) = &mut self.unanswered else { return Ok(()) };
        said.is_repeated = true;
        self.shared.repeats();
        connection.send_frame(&said.frame).await
    }

    /// Says the next thing, says it again or gives it up, when it is time to. Returns when to ask next.
    pub(super) async fn act(
        &mut self,
        connection: &mut Connection,
        may_talk: bool,
    ) -> Result<Instant, ConnectionError> {
        let now = Instant::now();
        match &self.unanswered {
            Some(said) if now >= said.since + GIVE_UP => {
                let (seq, about) = (said.frame.seq, (said.mid, said.conv));
                self.give_up();
                if self.numbers == Numbers::One {
                    // The next answer could be taken for that of the next message.
                    return Err(ConnectionError::TimedOut);
                }
                self.given_up.insert(seq, about);
            }
            Some(said)
                if self.numbers == Numbers::Repeating
                    && !said.is_repeated
                    && now >= said.since + GIVE_UP / 2 =>
            {
                self.repeat(connection).await?;
            }
            None if may_talk && now >= self.next => self.say(connection).await?,
            Some(_) | None => {}
        }
        Ok(match &self.unanswered {
            Some(said) if self.numbers == Numbers::Repeating && !said.is_repeated => {
                said.since + GIVE_UP / 2
            }
            Some(said) => said.since + GIVE_UP,
            None => self.next.max(now + Duration::from_millis(20)),
        })
    }

    async fn say(&mut self, connection: &mut Connection) -> Result<(), ConnectionError> {
        let (user, device) = self.device;
        let places = self.shared.places(user);
        let Some(place) = places.get(self.random.index(places.len().max(1))).copied() else {
            return Ok(());
        };
        let (kind, body) = self.words.next(place);
        let (mid, conv) = (Mid(new_client_msg_id().0), conv(user, place));
        let before = self.said.get(&conv).copied();
        let (idx, prev) = before.map_or((1, None), |(idx, prev)| (idx + 1, Some(prev)));
        self.said.insert(conv, (idx, mid));
        let sha = Sha::of(kind, &body);
        let body = Draft::new(place, kind, body).without_id().to_wire().encode_to_vec().into();
        if self.numbers != Numbers::One {
            self.seq = self.seq.checked_add(1).unwrap_or(FIRST);
        }
        let frame = Frame { command: Command::MessageData.number(), seq: self.seq, body };
        self.shared.invoke(What::Invoke { user, device, conv, mid, idx, prev, sha, unnamed: true });
        let now = Instant::now();
        self.next = now + Duration::from_millis(PAUSE_MS / 2 + self.random.below(PAUSE_MS));
        let said = Said { mid, conv, frame, since: now, is_repeated: false };
        let sent = connection.send_frame(&said.frame).await;
        self.unanswered = Some(said);
        sent
    }

    /// What became of it is not known.
    fn give_up(&mut self) {
        if let Some(said) = self.unanswered.take() {
            self.shared.not_acknowledged(self.device, What::Info { mid: said.mid });
        }
    }

    /// A message is stored, the server says.
    pub(super) fn answered(&mut self, frame: &Frame) {
        let (user, device) = self.device;
        let complain = |what: &str| self.shared.complain(format!("u{user}/{device} {what}"));
        let ack = match frame.parse::<MessageAck>() {
            Ok(ack) => ack,
            Err(error) => return complain(&format!("cannot read an answer: {error}")),
        };
        let is_this = |said: &mut Said| said.frame.seq == frame.seq;
        let waited = self.unanswered.take_if(is_this).map(|said| (said.mid, said.conv));
        let about = waited.or_else(|| self.given_up.remove(&frame.seq));
        let Some((mid, said_in)) = about else {
            return complain(&format!("is answered twice: {ack:?}"));
        };
        let conversation = Conversation::from_wire(ack.session_type, ack.session_id);
        if conversation.map(|conversation| conv(user, conversation)) != Some(said_in) {
            complain(&format!("said something in {said_in}, and is answered {ack:?}"));
        }
        self.shared.acknowledged(self.device, (mid, said_in), (ack.msg_id, None));
    }
}
