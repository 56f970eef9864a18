//! From records to sockets.

use std::sync::Arc;

use proto::ids::ConversationId;

use super::members::{change_members, ensure_members};
use super::parcel::{deliver_parcel, parcel_len};
use super::record::{Record, changes_members};
use super::shared::Shared;

/// Delivers what a conversation has got, unless another task does: then that one delivers this, too.
pub(super) fn deliver(shared: &Arc<Shared>, conversation: ConversationId) {
    let Some((mut right, mut records)) = shared.delivered.deliverer(conversation) else { return };
    loop {
        deliver_records(shared, conversation, &records);
        match right.more() {
            Some(more) => records = more,
            None => return,
        }
    }
}

fn deliver_records(shared: &Arc<Shared>, conversation: ConversationId, mut records: &[Record]) {
    while let Some((first, rest)) = records.split_first() {
        if changes_members(&first.publish) {
            if first.sums_up {
                ensure_members(shared, conversation, &first.publish);
            } else {
                change_members(shared, conversation, &first.publish);
            }
            records = rest;
            continue;
        }
        let (parcel, rest) = records.split_at(parcel_len(records));
        deliver_parcel(&shared.parts, conversation, parcel);
        records = rest;
    }
}
