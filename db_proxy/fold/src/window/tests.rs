//! The window beside one that keeps every record and looks at all of them.

use proptest::prelude::*;

use super::*;

/// How many records the windows of these tests have.
const RECORDS: u64 = 12;

/// A record that was a message; what lies between it and the one before.
#[derive(Debug, Clone, Copy)]
struct Sent {
    sender: u32,
    id: u8,
    frame: Frame,
    others_before: u64,
    pause_ms: u64,
    /// Whether it got a number.
    has_number: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    let pause_ms = prop_oneof![8 => 0_u64..3_000, 1 => 29_990_u64..30_010];
    let connection = |session| Connection { gateway_boot: session % 2, session };
    let frame = (
        0_u64..6,
        prop::option::weighted(0.8, (0_u64..3).prop_map(connection)),
        prop::option::weighted(0.7, prop_oneof![2 => Just(0), 1 => 0_u64..300].prop_map(Offset)),
    );
    let frame = frame.prop_map(|(fingerprint, connection, repeats_after)| Frame {
        fingerprint,
        connection,
        repeats_after,
    });
    (1_u32..3, 1_u8..30, frame, 0_u64..4, pause_ms, any::<bool>()).prop_map(
        |(sender, id, frame, others_before, pause_ms, has_number)| Sent {
            sender,
            id,
            frame,
            others_before,
            pause_ms,
            has_number,
        },
    )
}

impl Sent {
    fn identity(self) -> Identity {
        Identity {
            sender: UserId(self.sender),
            client_msg_id: ClientMsgId([self.id; 16]),
            content_crc: u32::from(self.id) / 2,
            frame: self.frame,
        }
    }
}

/// Every record, as the module's documentation has it, and the new messages among them.
#[derive(Default)]
struct Plain(Vec<(Identity, Known, Offset, u64)>, Vec<Numbered>);

impl Plain {
    fn find(&self, identity: Identity, offset: Offset, now_ms: u64) -> Option<Known> {
        let Identity { sender, client_msg_id, frame, .. } = identity;
        let newest = |is: &dyn Fn(&Identity) -> bool| {
            let found = self.0.iter().rev().find(|(of, ..)| of.sender == sender && is(of));
            found.filter(|(_, _, at, _)| offset.0 - at.0 <= RECORDS)
        };
        let by_id = newest(&|of| of.client_msg_id == client_msg_id);
        let is_equal = |of: &Identity| of.frame.fingerprint == frame.fingerprint;
        let by_frame = newest(&|of| frame.fingerprint != 0 && is_equal(of))
            .filter(|(.., timestamp_ms)| now_ms - timestamp_ms <= FINGERPRINT_MS)
            .filter(|(of, ..)| {
                of.frame.connection.is_none() || of.frame.connection != frame.connection
            })
            .filter(|(_, _, at, _)| frame.repeats_after.is_some_and(|after| *at > after));
        by_id.or(by_frame).map(|(_, known, ..)| *known)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn what_is_known_depends_on_the_last_records_alone(
        all in prop::collection::vec(sent(), 1..120),
        reserved in 0_u64..2 * RECORDS,
        ahead in 0_u64..3,
    ) {
        let (mut window, mut plain) = (Window::of(RECORDS), Plain::default());
        window.reserve(reserved);
        let (mut offset, mut now_ms) = (Offset(0), 1_000);
        for sent in &all {
            offset = Offset(offset.0 + 1 + sent.others_before);
            now_ms += sent.pause_ms;
            let identity = sent.identity();
            let found = plain.find(identity, offset, now_ms);
            prop_assert_eq!(window.find(identity, offset, now_ms), found);
            let new = Known {
                conversation: ConversationId::single(UserId(sent.sender), UserId(9)).unwrap(),
                msg_id: sent.has_number.then_some(MsgId(u32::from(sent.id))),
                client_msg_id: identity.client_msg_id,
                content_crc: identity.content_crc,
                timestamp_ms: now_ms,
            };
            let known = found.unwrap_or(new);
            if sent.has_number {
                let seen = found.map_or(Seen::New(new), Seen::Again);
                window.insert(identity, seen, offset, now_ms);
            } else {
                window.enter(identity, new, offset, now_ms);
            }
            plain.0.push((identity, known, offset, now_ms));
            if found.is_none() {
                plain.1.push(Numbered { offset, msg_id: new.msg_id });
            }
        }
        let asked = Offset(offset.0 + ahead);
        for sent in &all {
            let identity = sent.identity();
            prop_assert_eq!(window.find(identity, asked, now_ms), plain.find(identity, asked, now_ms));
        }
        check_size(&window, &plain, offset)?;
        for from in [0, asked.0 / 2, offset.0.saturating_sub(RECORDS / 2), offset.0] {
            let from = Offset(from);
            let new: Vec<_> = window.new_messages(from).collect();
            let first = from.max(window.reaches_back_to(offset));
            let expected = plain.1.iter().filter(|one| one.offset >= first).copied();
            prop_assert_eq!(new, expected.collect::<Vec<_>>());
        }
    }
}

/// It has the records of the window and nothing else.
fn check_size(window: &Window, plain: &Plain, newest: Offset) -> Result<(), TestCaseError> {
    let within =
        |(_, _, offset, _): &&(Identity, Known, Offset, u64)| newest.0 - offset.0 <= RECORDS;
    let inside: Vec<_> = plain.0.iter().filter(within).collect();
    let mut keys: Vec<_> = inside.iter().map(|(of, ..)| (of.sender, of.client_msg_id)).collect();
    keys.sort_unstable();
    keys.dedup();
    prop_assert_eq!(window.len(), keys.len());
    prop_assert_eq!(window.entries.items.len(), inside.len());
    prop_assert!(window.repeated.len() <= inside.len());
    prop_assert!(window.fingerprints.items.len() <= inside.len());
    prop_assert!(window.by_fingerprint.len() <= window.fingerprints.items.len());
    Ok(())
}

#[test]
fn a_full_window_never_has_room_for_twice_as_many() {
    let mut window = Window::of(10_000);
    for number in 1..=40_000_u64 {
        let client_msg_id = ClientMsgId(u128::from(number).to_be_bytes());
        let frame = Frame { fingerprint: number, ..Frame::default() };
        let identity = Identity { sender: UserId(1), client_msg_id, content_crc: 0, frame };
        let known = Known {
            conversation: ConversationId::single(UserId(1), UserId(2)).unwrap(),
            msg_id: None,
            client_msg_id,
            content_crc: 0,
            timestamp_ms: 1,
        };
        window.enter(identity, known, Offset(number), 1);
    }
    assert_eq!(window.len(), 10_001);
    assert!(window.entries.items.capacity() < 10_100);
    assert!(window.fingerprints.items.capacity() < 10_100);
    assert!(window.repeated.is_empty());
}
