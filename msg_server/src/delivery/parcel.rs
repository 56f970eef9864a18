//! Messages of one conversation, written to each of its sessions at once.

use std::cell::OnceCell;
use std::slice;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proto::frame;
use proto::ids::{ConversationId, Parties};

use super::progress::concerns;
use super::record::{Record, changes_members, extension};
use crate::parts::Parts;
use crate::sessions::session::Session;

/// Bytes that are joined into one write at most, so that a client that reads a little slowly can
/// still take it.
const PARCEL_BYTES_MAX: usize = 32 << 10;

/// Frames that are joined into one write at most.
const PARCEL_FRAMES_MAX: usize = 64;

/// Messages of one conversation that go to its sessions together.
struct Parcel<'a> {
    records: &'a [Record],
    joined: Bytes,
    extended: OnceCell<Bytes>,
    gateway_boot: u64,
}

/// How many records go together: at least one.
pub(super) fn parcel_len(records: &[Record]) -> usize {
    let mut bytes = 0_usize;
    let joined = records.iter().take(PARCEL_FRAMES_MAX).take_while(|record| {
        bytes = bytes.saturating_add(record.publish.frame.len());
        !changes_members(&record.publish) && bytes <= PARCEL_BYTES_MAX
    });
    joined.count().max(1)
}

/// Pushes records of one conversation to those of its sessions that may see them.
pub(super) fn deliver_parcel(parts: &Parts, conversation: ConversationId, records: &[Record]) {
    let parcel = Parcel::new(records, parts.boot);
    let partition = parts.partition_of(conversation);
    match conversation.parties() {
        Parties::Single(low, high) => {
            for user in [low, high] {
                for session in parts.registry.sessions_of(user) {
                    parcel.push(&session, 0, session.floor(partition));
                }
            }
        }
        Parties::Group(group) => {
            let Some(group) = parts.registry.group(group) else { return };
            for member in group.iter() {
                parcel.push(&member.session, member.join, member.floor(partition));
            }
        }
    }
}

/// Pushes one message to sessions that may see it from `join` on. For what only they have missed.
pub(super) fn deliver_to(parts: &Parts, sessions: &[Arc<Session>], record: &Record, join: u32) {
    let parcel = Parcel::new(slice::from_ref(record), parts.boot);
    for session in sessions {
        // Their clients have asked before they were members.
        parcel.push(session, join, Some(0));
    }
}

impl<'a> Parcel<'a> {
    fn new(records: &'a [Record], gateway_boot: u64) -> Self {
        let joined = match records {
            [one] => one.publish.frame.clone(),
            many => join(many.iter().map(|record| record.publish.frame.clone())),
        };
        Self { records, joined, extended: OnceCell::new(), gateway_boot }
    }

    /// Pushes what the session may see from `join_msg_id` on, and does not ask for itself up to
    /// `floor`.
    fn push(&self, session: &Session, join_msg_id: u32, floor: Option<u64>) {
        let wanted = |record: &Record| {
            record.publish.msg_id >= join_msg_id
                && concerns(floor, record.publish.offset, record.repaired)
                && !record.is_from(session, self.gateway_boot)
        };
        let is_extended = session.outbox.is_extended();
        if self.records.iter().all(wanted) {
            let bytes = if is_extended { self.extended() } else { &self.joined };
            let frames = u32::try_from(self.records.len()).unwrap_or(u32::MAX);
            session.outbox.push(bytes, frames);
            return;
        }
        for Record { publish, .. } in self.records.iter().filter(|record| wanted(record)) {
            if is_extended {
                session.push(&frame::extend(&publish.frame, &extension(publish)));
            } else {
                session.push(&publish.frame);
            }
        }
    }

    fn extended(&self) -> &Bytes {
        self.extended.get_or_init(|| {
            join(
                self.records.iter().map(|record| {
                    frame::extend(&record.publish.frame, &extension(&record.publish))
                }),
            )
        })
    }
}

fn join(frames: impl Iterator<Item = Bytes>) -> Bytes {
    let mut joined = BytesMut::new();
    frames.for_each(|frame| joined.extend_from_slice(&frame));
    joined.freeze()
}

#[cfg(test)]
mod tests {
    use proto::cluster::wire::Publish;
    use proto::ids::GroupId;

    use super::*;
    use crate::config::LimitsConfig;

    fn records(count: usize, len: usize) -> Vec<Record> {
        let record = |msg_id| {
            let publish = Publish { msg_id, frame: vec![0; len].into(), ..Publish::default() };
            let conversation = ConversationId::group(GroupId(7)).unwrap();
            Record { conversation, publish, answered: None, repaired: false, sums_up: false }
        };
        (1..).take(count).map(record).collect()
    }

    #[test]
    fn so_many_frames_and_bytes_go_together_and_never_less_than_one_record() {
        assert_eq!(parcel_len(&records(PARCEL_FRAMES_MAX + 1, 100)), PARCEL_FRAMES_MAX);
        assert_eq!(parcel_len(&records(9, PARCEL_BYTES_MAX / 8)), 8);
        assert_eq!(parcel_len(&records(9, PARCEL_BYTES_MAX / 8 + 1)), 7);
        assert_eq!(parcel_len(&records(2, 10 * PARCEL_BYTES_MAX)), 1);
        let mut changed = records(3, 100);
        changed[2].publish.msg_id = 0;
        assert_eq!(parcel_len(&changed), 2, "a change of members goes by itself");
    }

    #[test]
    fn a_client_that_has_not_read_one_parcel_can_take_the_next() {
        let limits = LimitsConfig::default();
        assert!(2 * PARCEL_BYTES_MAX <= limits.outbox_bytes_max);
        assert!(2 * PARCEL_FRAMES_MAX <= usize::try_from(limits.outbox_frames_max).unwrap());
    }
}
