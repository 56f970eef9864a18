//! The kind of record that there are millions of, read where it lies.
//!
//! Whoever takes a partition over looks at a million records and keeps a few numbers of each. A
//! message in the form in which owners write it is read here without making anything of its other
//! parts. Whatever differs from that form is left to the decoder, whose word counts.
//!
//! # Invariants
//!
//! - What is read here, the decoder reads alike.

use proto::ids::ClientMsgId;

/// The tags of a record's fields, in the order in which they are written.
const MESSAGE: u8 = 1 << 3 | BYTES;
const WRITTEN_IN_EPOCH: u8 = 15 << 3;

/// Those of a message's.
const CONVERSATION: u8 = 1 << 3;
const SENDER: u8 = 2 << 3;
const CLIENT_MSG_ID: u8 = 3 << 3 | BYTES;
const FINGERPRINT: u8 = 4 << 3 | FIXED_64;
const TYPE: u8 = 5 << 3;
const BODY: u8 = 6 << 3 | BYTES;

const BYTES: u8 = 2;
const FIXED_64: u8 = 1;

/// What is kept of a message that the store has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Glance {
    pub(super) written_in_epoch: u64,
    pub(super) conversation: u64,
    pub(super) sender: u32,
    pub(super) client_msg_id: ClientMsgId,
    pub(super) fingerprint: u64,
}

/// Reads the payload of a record; `None` if it is not a message of the usual form.
pub(super) fn message(payload: &[u8]) -> Option<Glance> {
    let mut record = Rest(payload);
    record.tag(MESSAGE)?;
    let mut message = record.bytes()?;
    record.tag(WRITTEN_IN_EPOCH)?;
    let written_in_epoch = record.varint()?;
    message.tag(CONVERSATION)?;
    let conversation = message.varint()?;
    message.tag(SENDER)?;
    let sender = message.number()?;
    message.tag(CLIENT_MSG_ID)?;
    let client_msg_id = ClientMsgId::from_slice(message.bytes()?.0)?;
    let fingerprint = match message.tag(FINGERPRINT) {
        Some(()) => u64::from_le_bytes(message.take(8)?.try_into().ok()?),
        None => 0,
    };
    message.tag(TYPE)?;
    message.number()?;
    message.tag(BODY)?;
    message.bytes()?;
    (record.0.is_empty() && message.0.is_empty()).then_some(Glance {
        written_in_epoch,
        conversation,
        sender,
        client_msg_id,
        fingerprint,
    })
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// Takes this tag; nothing, if another one comes next.
    fn tag(&mut self, tag: u8) -> Option<()> {
        let (first, rest) = self.0.split_first()?;
        (*first == tag).then(|| self.0 = rest)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of up to nine bytes: one that takes ten is for the decoder.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn number(&mut self) -> Option<u32> {
        u32::try_from(self.varint()?).ok()
    }

    fn bytes(&mut self) -> Option<Self> {
        let len = usize::try_from(self.varint()?).ok()?;
        self.take(len).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message as _;
    use proto::log::record::Change;
    use proto::log::{Message, Record};

    use super::*;

    /// What the decoder makes of it.
    fn decoded(payload: &[u8]) -> Option<Glance> {
        let Record { change: Some(Change::Message(message)), written_in_epoch } =
            Record::decode(payload).ok()?
        else {
            return None;
        };
        Some(Glance {
            written_in_epoch: written_in_epoch?,
            conversation: message.conversation,
            sender: message.sender,
            client_msg_id: ClientMsgId::from_slice(&message.client_msg_id)?,
            fingerprint: message.fingerprint.unwrap_or(0),
        })
    }

    fn record() -> impl Strategy<Value = Record> {
        let message = (
            any::<u64>(),
            any::<u32>(),
            any::<[u8; 16]>(),
            any::<Option<u64>>(),
            any::<u32>(),
            prop::collection::vec(any::<u8>(), 0..300),
        );
        let message = message.prop_map(|(conversation, sender, id, fingerprint, r#type, body)| {
            let client_msg_id = Bytes::copy_from_slice(&id);
            let body = Bytes::from(body);
            Message { conversation, sender, client_msg_id, fingerprint, r#type, body }
        });
        (message, 0_u64..1 << 40).prop_map(|(message, epoch)| Record {
            change: Some(Change::Message(message)),
            written_in_epoch: Some(epoch),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(2_000)
        })]

        #[test]
        fn the_usual_form_is_read_as_the_decoder_reads_it(mut record in record()) {
            let Some(Change::Message(message)) = &mut record.change else { unreachable!() };
            // Greater ones are left to the decoder.
            message.conversation >>= 1;
            let payload = record.encode_to_vec();
            let glance = super::message(&payload);
            prop_assert!(glance.is_some());
            prop_assert_eq!(glance, decoded(&payload));
        }

        #[test]
        fn what_is_damaged_is_read_as_the_decoder_reads_it_or_left_to_it(
            record in record(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cut in any::<prop::sample::Index>(),
            more in prop::collection::vec(any::<u8>(), 0..3),
        ) {
            let mut payload = record.encode_to_vec();
            for (place, value) in changes {
                // Mostly where the tags and lengths are.
                let place = place.index(payload.len().min(48));
                payload[place] = value;
            }
            payload.extend(more);
            for payload in [&payload[..], &payload[..cut.index(payload.len())]] {
                if let Some(glance) = message(payload) {
                    prop_assert_eq!(Some(glance), decoded(payload));
                }
            }
        }
    }
}
