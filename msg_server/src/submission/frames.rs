//! What became of the frames of clients that repeat frames by themselves.
//!
//! A frame on one connection may repeat one that came on an earlier connection, to any gateway. The
//! owner of the conversation finds the earlier one in its log, and asks the gateway that it came to
//! ([`FrameQuestion`]): was it answered, and may the answer not have arrived? Only this gateway knows
//! how the connection ended. What follows from it is the owner's to say.
//!
//! Pure but for the clock that is handed in.
//!
//! # What bounds it
//!
//! [`ENDED_MAX`] connections that have ended are remembered. Of one that is forgotten nothing can be
//! said: its frames count as answered, so that what may be new is stored.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use proto::cluster::wire::frame_fate::{Answered, End};
use proto::cluster::wire::{FrameFate, FrameQuestion};
use proto::ids::{ClientMsgId, UserId};
use tokio::time::Instant;

use crate::client::closing::CloseReason;
use crate::client::frames_told::FramesTold;
use crate::sessions::registry::Registry;
use crate::sessions::session::Session;
use crate::submission::unanswered::Unanswered;

/// Connections that are remembered after their end, of 96 bytes each. At 500 that end in a second,
/// for as long as a frame may be repeated (30 s of log time).
const ENDED_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

#[derive(Debug, Clone, Copy)]
struct EndedConnection {
    told: FramesTold,
    end: End,
    at: Instant,
}

/// The connections that have ended lately.
#[derive(Debug)]
pub(crate) struct EndedFrames(Mutex<LruCache<u64, EndedConnection>>);

impl Default for EndedFrames {
    fn default() -> Self {
        // Bounded, but without taking the memory for all of them at once.
        let mut ended = LruCache::unbounded();
        ended.resize(ENDED_MAX);
        Self(Mutex::new(ended))
    }
}

impl EndedFrames {
    /// The connection of a session has ended.
    pub(crate) fn ended(&self, session: &Session, reason: CloseReason, now: Instant) {
        let told = session.outbox.frames_told();
        if !session.repeats_frames() || told.last.is_none() && !told.unanswered {
            return;
        }
        let end = match reason {
            CloseReason::LoggedOut => End::LoggedOut,
            CloseReason::ClientLeft => End::Closed,
            CloseReason::ClientReset => End::Reset,
            _ => End::Other,
        };
        self.0.lock().put(session.id(), EndedConnection { told, end, at: now });
    }

    /// Answers the owner of a conversation.
    pub(crate) fn fate(
        &self,
        messages: &Unanswered,
        registry: &Registry,
        question: &FrameQuestion,
        now: Instant,
    ) -> FrameFate {
        let Some(id) = ClientMsgId::from_slice(&question.client_msg_id) else {
            return told_of(None, ClientMsgId([0; 16]));
        };
        if messages.is_unanswered(UserId(question.sender), id) {
            let (answered, end) = (Answered::No.into(), End::Open.into());
            return FrameFate { answered, end, kept_ms: None };
        }
        let sessions = registry.sessions_of(UserId(question.sender));
        let open = sessions.iter().find(|session| session.id() == question.session);
        let open = open.map(|session| EndedConnection {
            told: session.outbox.frames_told(),
            end: End::Open,
            at: now,
        });
        told_of(open.or_else(|| self.of(question.session)), id)
    }

    fn of(&self, session: u64) -> Option<EndedConnection> {
        self.0.lock().peek(&session).copied()
    }
}

fn told_of(connection: Option<EndedConnection>, id: ClientMsgId) -> FrameFate {
    let Some(EndedConnection { told, end, at }) = connection else {
        return FrameFate {
            answered: Answered::Earlier.into(),
            end: End::Other.into(),
            kept_ms: None,
        };
    };
    let FramesTold { last, written, unanswered, given_up } = told;
    let (answered, kept_ms) = match last {
        _ if given_up == Some(id) => (Answered::No, None),
        Some((last, _)) if last == id && !written => (Answered::No, None),
        Some((last, answered_at)) if last == id => {
            let kept = at.saturating_duration_since(answered_at).as_millis();
            (Answered::Last, Some(u64::try_from(kept).unwrap_or(u64::MAX)))
        }
        Some(_) if !unanswered => (Answered::Earlier, None),
        _ => (Answered::No, None),
    };
    FrameFate { answered: answered.into(), end: end.into(), kept_ms }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::client::outbox::{Outbox, OutboxPool};
    use crate::config::LimitsConfig;
    use crate::metrics::GatewayMetrics;
    use crate::sessions::session::Login;

    const WINDOWS: u32 = 1;
    const ANDROID: u32 = 0x12;
    const ONE: ClientMsgId = ClientMsgId([1; 16]);
    const TWO: ClientMsgId = ClientMsgId([2; 16]);

    fn session(client_type: u32) -> Arc<Session> {
        let pool = OutboxPool::new(&LimitsConfig::default(), GatewayMetrics::default());
        let outbox = Arc::new(Outbox::queued(Arc::new(pool)));
        let login = Login { id: u64::from(client_type), user: UserId(5), client_type };
        Arc::new(Session::new(login, outbox, 2, 0))
    }

    #[test]
    fn only_clients_that_repeat_frames_and_have_sent_any_are_remembered() {
        let (ended, now) = (EndedFrames::default(), Instant::now());
        let (repeats, does_not) = (session(WINDOWS), session(ANDROID));
        let is_known = |session: &Session| ended.0.lock().contains(&session.id());
        ended.ended(&repeats, CloseReason::ClientReset, now);
        assert!(!is_known(&repeats), "it has sent nothing");
        for session in [&repeats, &does_not] {
            assert!(session.outbox.begin_send());
            ended.ended(session, CloseReason::ClientReset, now);
        }
        assert!(is_known(&repeats), "what it has sent is not answered");
        assert!(!is_known(&does_not));
        repeats.outbox.end_frame(ONE, Bytes::new());
        ended.0.lock().clear();
        ended.ended(&repeats, CloseReason::ClientReset, now);
        assert!(is_known(&repeats), "what it has sent is answered");
    }

    #[test]
    fn the_owner_is_told_how_a_connection_ended() {
        for (reason, end) in [
            (CloseReason::LoggedOut, End::LoggedOut),
            (CloseReason::ClientLeft, End::Closed),
            (CloseReason::ClientReset, End::Reset),
            (CloseReason::SlowReader, End::Other),
        ] {
            let (ended, session) = (EndedFrames::default(), session(WINDOWS));
            session.outbox.end_frame(ONE, Bytes::new());
            ended.ended(&session, reason, Instant::now());
            let fate = told_of(ended.of(session.id()), ONE);
            assert_eq!((fate.answered(), fate.end()), (Answered::Last, end), "{reason:?}");
        }
    }

    fn fate_of(last: Option<ClientMsgId>, unanswered: bool, asked: ClientMsgId) -> FrameFate {
        let answered_at = Instant::now();
        let last = last.map(|id| (id, answered_at));
        let told = FramesTold { last, written: true, unanswered, ..FramesTold::default() };
        let at = answered_at + Duration::from_millis(1234);
        told_of(Some(EndedConnection { told, end: End::Closed, at }), asked)
    }

    #[test]
    fn the_last_answer_is_told_with_how_long_the_connection_was_kept_after_it() {
        let fate = fate_of(Some(ONE), false, ONE);
        assert_eq!(
            (fate.answered(), fate.end(), fate.kept_ms()),
            (Answered::Last, End::Closed, 1234)
        );
        assert_eq!(fate_of(Some(ONE), true, ONE).answered(), Answered::Last);
    }

    #[test]
    fn what_was_answered_before_another_is_told_apart_from_what_never_was() {
        assert_eq!(fate_of(Some(TWO), false, ONE).answered(), Answered::Earlier);
        assert_eq!(fate_of(Some(TWO), true, ONE).answered(), Answered::No);
        assert_eq!(fate_of(None, true, ONE).answered(), Answered::No);
    }

    #[test]
    fn what_was_given_up_was_never_answered_though_its_client_went_on() {
        let session = session(WINDOWS);
        for _message in [ONE, TWO] {
            assert!(session.outbox.begin_send());
        }
        session.outbox.give_up_frame(ONE);
        session.outbox.end_frame(TWO, Bytes::new());
        let (told, end) = (session.outbox.frames_told(), End::Open);
        assert!(!told.unanswered, "nobody waits");
        let fate = told_of(Some(EndedConnection { told, end, at: Instant::now() }), ONE);
        assert_eq!(fate.answered(), Answered::No);
    }

    #[test]
    fn an_answer_that_was_never_written_is_none_and_those_before_it_were_read() {
        let answered_at = Instant::now();
        let told = FramesTold { last: Some((TWO, answered_at)), ..FramesTold::default() };
        let ended = EndedConnection { told, end: End::Other, at: answered_at };
        assert_eq!(told_of(Some(ended), TWO).answered(), Answered::No);
        assert_eq!(told_of(Some(ended), ONE).answered(), Answered::Earlier);
    }

    #[test]
    fn of_a_connection_that_is_not_remembered_every_frame_counts_as_answered() {
        assert_eq!(told_of(None, ONE).answered(), Answered::Earlier);
    }
}
