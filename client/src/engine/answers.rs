//! What the engine makes of frames, and of answers that did not come.

use proto::client::{
    Heartbeat, LatestMessageIdReply, MessageAck, MessageListReply, RecentSessionsReply,
    RecentSessionsRequest, RefuseReason, Refused, ResumeToken, SendOutcome, SendResult,
    UnreadCountReply, UnreadCountRequest,
};
use proto::ids::{ClientMsgId, MsgId};
use proto::{Command, Frame};
use tokio::time::Instant;

use super::pending::Waits;
use super::sync::Sync;
use super::timers::Due;
use super::{End, Engine, NOTICES_MAX};
use crate::call::CallError;
use crate::event::Event;
use crate::message::{Conversation, Kind, Message, Outcome};
use crate::push::Push;
use crate::timeline::Ask;

/// A question that failed waits as long as a message that failed so often: about half a second.
const QUESTION_FAILURES: u32 = 4;
/// Against a server that cannot say "refused": after so many tries a message is given up.
const TRIES_MAX: u32 = 2;

impl Engine {
    /// Asks which conversations there are and how far they reach.
    pub(super) fn start_sync(&mut self) {
        self.sync = Sync::default();
        let recent = RecentSessionsRequest { user_id: self.me.0, ..Default::default() };
        self.ask(Command::RecentSessionsRequest, &recent, Waits::Recent);
        let unread = UnreadCountRequest { user_id: self.me.0, attach_data: None };
        self.ask(Command::UnreadCountRequest, &unread, Waits::Unread);
    }

    pub(super) fn on_frame(&mut self, frame: Frame) -> Option<End> {
        if let Some(watcher) = &self.watcher {
            watcher.heard(&frame);
        }
        if frame.seq != 0
            && let Some((waits, timer)) = self.pending.remove(frame.seq)
        {
            self.timers.cancel(timer);
            self.on_answer(frame, waits);
            return None;
        }
        if frame.is(Command::HelloReply) {
            self.is_extended = true;
        } else if frame.is(Command::ResumeToken) {
            let kept = frame.parse::<ResumeToken>().ok().map(|given| given.token);
            if let Some(kept) = kept.and_then(|token| self.keeper.take(token)) {
                self.on_kept(kept);
            }
        } else if frame.is(Command::SendResult) {
            // The answer to a try that was given up; the outcome counts all the same.
            self.on_send_result(&frame, None);
        } else if !frame.is(Command::Heartbeat) {
            return self.on_push(frame);
        }
        None
    }

    fn on_push(&mut self, frame: Frame) -> Option<End> {
        match Push::from_frame(frame) {
            Push::Kick(kick) => return Some(End::Kicked(kick.reason.try_into().ok())),
            Push::Message(data) => match Message::from_push(&data, self.me) {
                Some(message) => self.timelines.on_message(message),
                None => self.notices.push_back(Event::Push(Push::Message(data))),
            },
            push => self.notices.push_back(Event::Push(push)),
        }
        None
    }

    fn on_answer(&mut self, frame: Frame, waits: Waits) {
        match waits {
            Waits::Call(answer) => drop(answer.send(Ok(frame))),
            Waits::Message(id) => self.on_message_answer(&frame, id),
            Waits::Page(ask) => self.on_page(&frame, ask),
            Waits::Recent => {
                let reply = parse::<RecentSessionsReply>(&frame, Command::RecentSessionsReply);
                self.sync.recent = reply.map(|reply| reply.sessions);
                self.after_sync_answer(self.sync.recent.is_some());
            }
            Waits::Unread => {
                let reply = parse::<UnreadCountReply>(&frame, Command::UnreadCountReply);
                self.sync.unread = reply.map(|reply| reply.sessions);
                self.after_sync_answer(self.sync.unread.is_some());
            }
            Waits::Latest(conversation) => {
                self.questions = self.questions.saturating_sub(1);
                let reply = parse::<LatestMessageIdReply>(&frame, Command::LatestMessageIdReply);
                if let Some(reply) = reply {
                    self.timelines.on_head(conversation, reply.latest_msg_id);
                } else if !is_final(&frame) {
                    self.head_failed(conversation);
                }
            }
            Waits::Heartbeat => {}
        }
    }

    fn on_message_answer(&mut self, frame: &Frame, id: ClientMsgId) {
        if frame.is(Command::SendResult) {
            self.on_send_result(frame, Some(id));
        } else if frame.is(Command::MessageAck) {
            // The form without the extension does not tell the time.
            let ack: MessageAck = frame.parse().unwrap_or_default();
            self.on_stored(id, ack.msg_id, 0);
        } else if frame.is(Command::Refused) {
            let refused: Refused = frame.parse().unwrap_or_default();
            let reason = i32::try_from(refused.reason).unwrap_or_default();
            self.on_refused(id, reason, None);
        } else {
            self.on_unknown(id, frame.seq);
        }
    }

    fn on_send_result(&mut self, frame: &Frame, asked: Option<ClientMsgId>) {
        let Ok(result) = frame.parse::<SendResult>() else { return };
        let Some(id) = ClientMsgId::from_slice(&result.client_msg_id).or(asked) else { return };
        match SendOutcome::try_from(result.outcome) {
            Ok(SendOutcome::Ok) => {
                let time = result.create_time.unwrap_or_default();
                self.on_stored(id, result.msg_id.unwrap_or_default(), time);
            }
            Ok(SendOutcome::Refused) => {
                self.on_refused(id, result.reason.unwrap_or_default(), result.reason_text);
            }
            Ok(SendOutcome::Retry) | Err(_) => self.on_unknown(id, frame.seq),
        }
    }

    fn on_stored(&mut self, id: ClientMsgId, msg_id: u32, create_time: u32) {
        let Some(entry) = self.outgoing.take(id) else { return };
        let msg_id = MsgId(msg_id);
        if msg_id.0 != 0 {
            self.timelines.on_message(Message {
                conversation: entry.unsent.conversation,
                msg_id,
                from: self.me,
                create_time,
                kind: entry.unsent.kind,
                data: entry.unsent.data.clone(),
                client_msg_id: Some(id),
            });
        }
        self.settle(entry, Outcome::Ok { msg_id, create_time });
    }

    fn on_refused(&mut self, id: ClientMsgId, reason: i32, text: Option<String>) {
        if let Some(entry) = self.outgoing.take(id) {
            let reason = RefuseReason::try_from(reason).ok();
            self.settle(entry, Outcome::Refused { reason, text });
        }
    }

    /// It is unknown what became of a try: the message is sent once more, with the same id.
    fn on_unknown(&mut self, id: ClientMsgId, seq: u16) {
        if !self.is_extended && self.outgoing.tries(id) >= TRIES_MAX {
            if let Some(entry) = self.outgoing.take(id) {
                self.settle(entry, Outcome::Unknown);
            }
            return;
        }
        if let Some((conversation, until)) = self.outgoing.retry(id, seq, Instant::now()) {
            self.timers.set(until, Due::Lane(conversation));
        }
    }

    fn on_page(&mut self, frame: &Frame, ask: Ask) {
        self.questions = self.questions.saturating_sub(1);
        if let Some(reply) = parse::<MessageListReply>(frame, Command::MessageListReply) {
            let read = |info| {
                Message::from_history(info, ask.conversation)
                    .unwrap_or_else(|| odd(info, ask.conversation))
            };
            self.timelines.on_page(ask, reply.messages.iter().map(read).collect());
        } else if is_final(frame) {
            self.timelines.on_page_denied(ask);
        } else {
            self.page_failed(ask, false);
        }
    }

    fn page_failed(&mut self, ask: Ask, is_silent: bool) {
        self.timelines.on_page_failed(ask, is_silent);
        let wait = self.limits.retry.wait(QUESTION_FAILURES);
        self.timers.set(Instant::now() + wait, Due::Gap(ask.conversation));
    }

    /// The server cannot say now how far a conversation reaches.
    fn head_failed(&mut self, conversation: Conversation) {
        let wait = self.limits.retry.wait(QUESTION_FAILURES);
        self.timers.set(Instant::now() + wait, Due::Head(conversation));
    }

    fn after_sync_answer(&mut self, is_good: bool) {
        if !is_good {
            if std::mem::replace(&mut self.sync.has_failed, true) {
                return;
            }
            let wait = self.limits.retry.wait(QUESTION_FAILURES);
            self.timers.set(Instant::now() + wait, Due::Sync);
            return;
        }
        let Some((list, is_complete)) = self.sync.take() else { return };
        self.failures = 0;
        if !is_complete {
            self.heads = self.timelines.not_in(&list).into();
        }
        self.timelines.on_list(&list, is_complete);
    }

    pub(super) fn on_due(&mut self, due: Due, now: Instant) {
        match due {
            // The answer may be in the frame that is coming, or behind it.
            Due::Answer(seq) if self.link.is_reading(now, self.limits.answer) => {
                if let Some((waits, _)) = self.pending.remove(seq) {
                    self.wait_for(seq, waits);
                }
            }
            Due::Answer(seq) => {
                if let Some((waits, _)) = self.pending.remove(seq) {
                    self.on_no_answer(waits, seq);
                }
            }
            Due::Lane(conversation) => self.outgoing.wake(conversation),
            Due::Gap(conversation) => self.timelines.on_gap_due(conversation),
            Due::Head(conversation) => self.heads.push_back(conversation),
            Due::Heartbeat => {
                self.ask(Command::Heartbeat, &Heartbeat {}, Waits::Heartbeat);
                self.timers.set(now + self.limits.heartbeat, Due::Heartbeat);
            }
            Due::Sync => self.start_sync(),
        }
    }

    fn on_no_answer(&mut self, waits: Waits, seq: u16) {
        match waits {
            Waits::Call(answer) => drop(answer.send(Err(CallError::TimedOut))),
            Waits::Message(id) => self.on_unknown(id, seq),
            Waits::Page(ask) => {
                self.questions = self.questions.saturating_sub(1);
                self.page_failed(ask, true);
            }
            Waits::Recent | Waits::Unread => self.after_sync_answer(false),
            Waits::Latest(conversation) => {
                self.questions = self.questions.saturating_sub(1);
                self.heads.push_back(conversation);
            }
            // With too many events waiting for the program nothing is read, and silence tells
            // nothing.
            Waits::Heartbeat if self.notices.len() >= NOTICES_MAX => {}
            Waits::Heartbeat => self.lose("the gateway is silent".to_owned()),
        }
    }
}

fn parse<M: prost::Message + Default>(frame: &Frame, command: Command) -> Option<M> {
    if frame.is(command) { frame.parse().ok() } else { None }
}

/// Whether the server says that this user may not read a conversation at all.
fn is_final(frame: &Frame) -> bool {
    let Some(refused) = parse::<Refused>(frame, Command::Refused) else { return false };
    let reason = i32::try_from(refused.reason).ok().and_then(|reason| reason.try_into().ok());
    matches!(
        reason,
        Some(
            RefuseReason::NotMember
                | RefuseReason::Blocked
                | RefuseReason::NoSuchPeer
                | RefuseReason::NoSuchGroup
                | RefuseReason::Self_
        )
    )
}

/// A message of the history whose type this build does not know. Its number counts, so it is
/// handed out as it is.
fn odd(info: &proto::client::MessageInfo, conversation: Conversation) -> Message {
    Message {
        conversation,
        msg_id: MsgId(info.msg_id),
        from: proto::ids::UserId(info.from_user_id),
        create_time: info.create_time,
        kind: Kind::Text,
        data: info.msg_data.clone(),
        client_msg_id: None,
    }
}

#[cfg(test)]
mod tests {
    use proto::encode_message;

    use super::*;

    #[test]
    fn only_a_user_who_may_never_read_a_conversation_is_denied_it_for_good() {
        let refused = |reason: u32, command| {
            let refused = Refused { command: Command::MessageListRequest.number().into(), reason };
            let mut bytes = bytes::BytesMut::from(&encode_message(command, 1, &refused)[..]);
            proto::frame::decode(&mut bytes, 1 << 10).unwrap().expect("a whole frame")
        };
        let denied: Vec<u32> =
            (0..20).filter(|&reason| is_final(&refused(reason, Command::Refused))).collect();
        // No member, blocked, no such user, no such group, oneself.
        assert_eq!(denied, [1, 2, 3, 4, 9]);
        assert!(!is_final(&refused(1, Command::MessageListReply)), "it is no refusal");
        assert!(!is_final(&refused(u32::MAX, Command::Refused)));
    }
}
