//! Answers that claim more than is known, or come late, for mutants. Compiled with the feature `faults`
//! only.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use daemon::faults::{self, Mutant};
use prost::Message as _;
use proto::client::{
    MessageListReply, MessageListRequest, MessagesByIdReply, MessagesByIdRequest, UnreadCountReply,
};
use proto::cluster::wire::{Answer, FetchRequest, Fetched};
use proto::{Command, StorageCommand};
use tokio::time::sleep;

use crate::commands::asker::Asker;
use crate::commands::reply::answered;

/// Every so many reads of the store "fail".
const FAILS_EVERY: u64 = 20;
/// Every so many reads of history are late, by so much.
const LATE_EVERY: u64 = 10;
const LATE_BY: Duration = Duration::from_secs(7);

fn read_fails() -> bool {
    static READS: AtomicU64 = AtomicU64::new(0);
    faults::planted(Mutant::PullEmptyOnError) && faults::nth(&READS, FAILS_EVERY)
}

/// Takes longer than a client waits for an answer.
pub(super) async fn be_late(command: StorageCommand) {
    static READS: AtomicU64 = AtomicU64::new(0);
    let is_read = command == StorageCommand::MessageListRequest;
    if is_read && faults::planted(Mutant::ReadsLate) && faults::nth(&READS, LATE_EVERY) {
        sleep(LATE_BY).await;
    }
}

/// "There is nothing", for a request whose read of the store has failed.
pub(super) fn nothing(asker: &Asker, command: StorageCommand, body: &Bytes) -> Option<Answer> {
    type Nothing = fn(u32, Bytes) -> Option<Answer>;
    const READS: [(StorageCommand, Nothing); 3] = [
        (StorageCommand::MessageListRequest, no_page),
        (StorageCommand::MessagesByIdRequest, no_messages),
        (StorageCommand::UnreadCountRequest, |user_id, _body| Some(nothing_unread(user_id))),
    ];
    let (_, nothing) = READS.iter().find(|(read, _)| *read == command)?;
    if read_fails() { nothing(asker.user.0, body.clone()) } else { None }
}

fn no_page(user_id: u32, body: Bytes) -> Option<Answer> {
    let request = MessageListRequest::decode(body).ok()?;
    let reply = MessageListReply {
        user_id,
        session_type: request.session_type,
        session_id: request.session_id,
        msg_id_begin: request.msg_id_begin,
        messages: Vec::new(),
        attach_data: None,
    };
    Some(answered(Command::MessageListReply, &reply))
}

fn no_messages(user_id: u32, body: Bytes) -> Option<Answer> {
    let request = MessagesByIdRequest::decode(body).ok()?;
    let reply = MessagesByIdReply {
        user_id,
        session_type: request.session_type,
        session_id: request.session_id,
        messages: Vec::new(),
        attach_data: None,
    };
    Some(answered(Command::MessagesByIdReply, &reply))
}

fn nothing_unread(user_id: u32) -> Answer {
    let reply =
        UnreadCountReply { user_id, total_count: 0, sessions: Vec::new(), attach_data: None };
    answered(Command::UnreadCountReply, &reply)
}

/// "You have missed nothing", for a fetch whose read of the store has failed.
pub(crate) fn nothing_missed(request: &FetchRequest) -> Option<Fetched> {
    let complete_upto = request.from.saturating_sub(1);
    read_fails().then(|| Fetched { complete: true, complete_upto, ..Fetched::default() })
}
