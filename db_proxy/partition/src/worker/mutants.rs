//! What the partition's thread does too early if it is told to misbehave. Compiled with the feature
//! `faults` only.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use daemon::clock::unix_ms;
use daemon::faults::{self, Mutant};
use prost::Message as _;
use proto::cluster::wire::Origin;
use proto::ids::{ClientMsgId, ConversationId, MsgId, Offset, UserId};
use proto::log::Record;
use proto::log::record::Change;
use store::MessageRow;

use super::{Admitted, Worker};
use crate::publisher::FoldedMessage;
use crate::request::{Outcome, Waiter};
use crate::state::Inner;

/// Between what is done too early and the append.
const EARLY_BY: Duration = Duration::from_millis(20);

/// The session of no client: the sender of a message is not answered by its early publication.
const NOBODY: Origin = Origin { gateway_boot: 0, session: 0 };

/// A message that is not in the log yet, with the number that it should get there.
struct Guess {
    row: MessageRow,
    previous: Offset,
    member_version: u32,
}

impl Worker {
    /// Before the append: answers or publishes what is about to be appended.
    pub(super) fn too_early(
        &self,
        payloads: &[Bytes],
        mut admitted: Vec<Admitted>,
    ) -> Vec<Admitted> {
        let answers = faults::planted(Mutant::AckBeforeAppend);
        let publishes = faults::planted(Mutant::PushBeforeDurable);
        if !answers && !publishes {
            return admitted;
        }
        let guesses = self.guess(payloads);
        for (admitted, guess) in admitted.iter_mut().zip(guesses) {
            let Some(Guess { row, previous, member_version }) = guess else { continue };
            if publishes {
                let origin = Some(NOBODY);
                let message = FoldedMessage { row: &row, previous, member_version, origin };
                self.owner.publisher.message(&message, self.owner.owned);
            }
            if answers {
                let waiter = std::mem::replace(&mut admitted.waiter, Waiter(None));
                waiter.tell(Outcome::Sent {
                    conversation: row.conversation,
                    msg_id: row.msg_id,
                    timestamp_ms: row.timestamp_ms,
                });
            }
        }
        faults::pause(EARLY_BY);
        admitted
    }

    /// What the fold will make of these records, if they come to be; `None` where that is nothing to
    /// tell of.
    fn guess(&self, payloads: &[Bytes]) -> Vec<Option<Guess>> {
        let (_first, next) = self.owner.log.range();
        let inner = self.owner.state.lock();
        let mut heads = HashMap::new();
        let mut seen = HashSet::new();
        (payloads.iter().zip((next.0..).map(Offset)))
            .map(|(payload, offset)| {
                let row = message(payload, offset)?;
                let is_new = seen.insert((row.sender, row.client_msg_id));
                is_new.then(|| number(&inner, &mut heads, row))?
            })
            .collect()
    }
}

fn message(payload: &Bytes, offset: Offset) -> Option<MessageRow> {
    let Change::Message(message) = Record::decode(payload.clone()).ok()?.change? else {
        return None;
    };
    Some(MessageRow {
        conversation: ConversationId::from_number(message.conversation)?,
        msg_id: MsgId(0),
        sender: UserId(message.sender),
        client_msg_id: ClientMsgId::from_slice(&message.client_msg_id)?,
        offset,
        timestamp_ms: unix_ms(),
        kind: message.r#type,
        body: message.body,
    })
}

/// Gives a message the next number of its conversation, counting those before it in `heads`.
fn number(
    inner: &Inner,
    heads: &mut HashMap<ConversationId, (MsgId, Offset)>,
    row: MessageRow,
) -> Option<Guess> {
    let conversation = inner.fold.conversations.get(&row.conversation)?;
    let head =
        heads.entry(row.conversation).or_insert((conversation.head, conversation.last_offset));
    let (msg_id, previous) = (head.0.next(), head.1);
    *head = (msg_id, row.offset);
    let member_version = conversation.group.as_ref().map_or(0, |group| group.version);
    Some(Guess { row: MessageRow { msg_id, ..row }, previous, member_version })
}
