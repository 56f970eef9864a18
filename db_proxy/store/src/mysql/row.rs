//! Between columns and rows of ours.

use bytes::Bytes;
use mysql_async::prelude::FromValue;
use mysql_async::{Row, Value};
use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Offset, UserId};

use super::failure::Failure;
use crate::{
    ConversationRow, DepartmentRow, GroupRow, MarkRow, MemberRow, MessageRow, StoreError, UserRow,
};

/// Makes a list of values for placeholders.
macro_rules! values {
    ($($value:expr),* $(,)?) => { vec![$(mysql_async::Value::from($value)),*] };
}
pub(super) use values;

/// Bytes that are always as many.
pub(super) fn exact<const LEN: usize>(bytes: Vec<u8>) -> Result<[u8; LEN], Failure> {
    bytes.try_into().map_err(|_other| {
        StoreError::Refused("the store is damaged: a hash of another length".to_owned()).into()
    })
}

/// Takes one row's columns from left to right.
pub(super) struct Columns {
    row: Row,
    at: usize,
}

impl Columns {
    pub(super) fn of(row: Row) -> Self {
        Self { row, at: 0 }
    }

    /// The next column's value.
    pub(super) fn next<T: FromValue>(&mut self) -> Result<T, Failure> {
        let at = self.at;
        self.at += 1;
        let value = self.row.take_opt(at).and_then(Result::ok);
        // A column holds what no version of ours has written.
        value.ok_or_else(|| {
            StoreError::Refused(format!("the store is damaged: column {at} of an answer")).into()
        })
    }

    /// Leaves out some columns.
    pub(super) fn skip(&mut self, count: usize) {
        self.at += count;
    }

    /// Whether the next column is empty.
    pub(super) fn is_null(&self) -> bool {
        matches!(self.row.as_ref(self.at), None | Some(Value::NULL))
    }

    pub(super) fn conversation_id(&mut self) -> Result<ConversationId, Failure> {
        let number = self.next()?;
        ConversationId::from_number(number).ok_or_else(|| {
            StoreError::Refused(format!("the store is damaged: conversation {number}")).into()
        })
    }

    pub(super) fn client_msg_id(&mut self) -> Result<ClientMsgId, Failure> {
        let bytes: Vec<u8> = self.next()?;
        ClientMsgId::from_slice(&bytes).ok_or_else(|| {
            StoreError::Refused("the store is damaged: a client's message id".to_owned()).into()
        })
    }

    /// `conversation, msg_id, sender, client_msg_id, log_offset, timestamp_ms, kind, body`
    pub(super) fn message(&mut self) -> Result<MessageRow, Failure> {
        Ok(MessageRow {
            conversation: self.conversation_id()?,
            msg_id: MsgId(self.next()?),
            sender: UserId(self.next()?),
            client_msg_id: self.client_msg_id()?,
            offset: Offset(self.next()?),
            timestamp_ms: self.next()?,
            kind: self.next()?,
            body: Bytes::from(self.next::<Vec<u8>>()?),
        })
    }

    /// `id, head, last_offset, last_message_ms, group_name, group_avatar, group_creator,
    /// group_kind, group_version, group_deleted`
    pub(super) fn conversation(&mut self) -> Result<ConversationRow, Failure> {
        Ok(ConversationRow {
            id: self.conversation_id()?,
            head: MsgId(self.next()?),
            last_offset: Offset(self.next()?),
            last_message_ms: self.next()?,
            group: self.group()?,
        })
    }

    fn group(&mut self) -> Result<Option<GroupRow>, Failure> {
        const COLUMNS: usize = 6;
        if self.is_null() {
            self.skip(COLUMNS);
            return Ok(None);
        }
        Ok(Some(GroupRow {
            name: self.next()?,
            avatar: self.next()?,
            creator: UserId(self.next()?),
            kind: self.next()?,
            version: self.next()?,
            deleted: self.next::<Option<bool>>()?.unwrap_or(false),
        }))
    }

    /// `group_id, user_id, join_msg_id, leave_msg_id`, all of which may be empty.
    pub(super) fn member(&mut self) -> Result<Option<MemberRow>, Failure> {
        const COLUMNS: usize = 4;
        if self.is_null() {
            self.skip(COLUMNS);
            return Ok(None);
        }
        Ok(Some(MemberRow {
            group: GroupId(self.next()?),
            user: UserId(self.next()?),
            join: MsgId(self.next()?),
            leave: self.next::<Option<u32>>()?.map(MsgId),
        }))
    }

    /// `conversation, user_id, read_msg_id, own_up_to_read, own_total, removed_at, shield`, all of
    /// which may be empty.
    pub(super) fn mark(&mut self) -> Result<Option<MarkRow>, Failure> {
        const COLUMNS: usize = 7;
        if self.is_null() {
            self.skip(COLUMNS);
            return Ok(None);
        }
        Ok(Some(MarkRow {
            conversation: self.conversation_id()?,
            user: UserId(self.next()?),
            read: MsgId(self.next()?),
            own_up_to_read: self.next()?,
            own_total: self.next()?,
            removed_at: MsgId(self.next()?),
            shield: self.next()?,
        }))
    }

    /// The columns of `user` in the order of the table.
    pub(super) fn user(&mut self) -> Result<UserRow, Failure> {
        Ok(UserRow {
            id: UserId(self.next()?),
            name: self.next()?,
            password_hash: self.next()?,
            nick: self.next()?,
            gender: self.next()?,
            avatar: self.next()?,
            department: self.next()?,
            email: self.next()?,
            tel: self.next()?,
            domain: self.next()?,
            status: self.next()?,
            sign: self.next()?,
            stamp: self.next()?,
            push_shield: self.next()?,
        })
    }

    /// `id, priority, name, parent, status, stamp`
    pub(super) fn department(&mut self) -> Result<DepartmentRow, Failure> {
        Ok(DepartmentRow {
            id: self.next()?,
            priority: self.next()?,
            name: self.next()?,
            parent: self.next()?,
            status: self.next()?,
            stamp: self.next()?,
        })
    }
}

/// Reads every row of an answer.
pub(super) fn all<T>(
    rows: Vec<Row>,
    mut read: impl FnMut(&mut Columns) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    rows.into_iter().map(|row| read(&mut Columns::of(row))).collect()
}

/// Reads the row of an answer that has at most one.
pub(super) fn one<T>(
    row: Option<Row>,
    read: impl FnOnce(&mut Columns) -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    row.map(|row| read(&mut Columns::of(row))).transpose()
}

/// A limit as SQL takes it.
pub(super) fn limit(count: usize) -> u64 {
    count as u64
}
