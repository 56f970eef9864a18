//! How far the consumers of a partition's log are, and the numbers of messages in it.

use proto::ids::{ClientMsgId, ConversationId, MsgId, Offset, UserId};
use proto::record::LogId;

use crate::error::Stored;

/// The place of a consumer in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerCursor {
    /// Which log.
    pub log: LogId,
    /// Everything up to and including this record was handled.
    pub offset: Offset,
    /// The epoch in force behind that record; 0 = not known.
    pub epoch: u64,
}

/// A consumer as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRow {
    /// Its name, unique in the partition.
    pub name: String,
    /// Its place.
    pub cursor: ConsumerCursor,
}

/// A message's record in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageRecord {
    /// Where it is.
    pub offset: Offset,
    /// What the record says of the message.
    pub conversation: ConversationId,
    /// Its author.
    pub sender: UserId,
    /// The author's id for it.
    pub client_msg_id: ClientMsgId,
}

/// What consumers of a partition need. Their places are written directly, by the partition's owner.
pub trait ConsumerStore: Send + Sync {
    /// Every consumer of the partition, by name.
    fn consumers(&self) -> Stored<'_, Vec<ConsumerRow>>;

    /// Moves a consumer from one place to another one, if it is at the first; with `from` = `None`, makes
    /// it, if there is none of that name. Whether that was so. `epoch` must be that of `progress`, else
    /// `Fenced`.
    fn move_consumer(
        &self,
        epoch: u64,
        name: String,
        from: Option<ConsumerCursor>,
        to: ConsumerCursor,
    ) -> Stored<'_, bool>;

    /// Forgets a consumer. Whether there was one.
    fn forget_consumer(&self, name: String) -> Stored<'_, bool>;

    /// The numbers of the messages that these records became, in no order. Records that became none (sent
    /// again, of a replaced owner) are left out. All of them must be stored: at most `progress`.
    fn numbers(&self, records: Vec<MessageRecord>) -> Stored<'_, Vec<(Offset, MsgId)>>;
}
