//! What the daemons tell each other: the kinds of link frames and their messages.
//!
//! The messages are generated from `schema/cluster.proto`; this file holds the one table of kinds,
//! and what several daemons must compute alike.

/// The messages, generated from `schema/cluster.proto`.
#[expect(missing_docs, clippy::pedantic, reason = "generated; documented in the schema")]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/talkhub.cluster.rs"));
}

/// Declares [`Kind`] from one table, so that no number is written twice.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a link frame carries. Kinds from 0xff00 on belong to the link itself.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Kind { $($(#[$doc])* $name = $number,)* }

        impl Kind {
            /// Every kind, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the kind that `number` stands for, if any.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Returns the number that stands for this kind on a link.
            pub const fn number(self) -> u16 {
                self as u16
            }
        }
    };
}

kinds! {
    /// Gateway to login_server: [`wire::LoadReport`], answered by [`wire::LoadVerdict`] when that is
    /// another one than before.
    LoadReport = 0x0101,
    /// Gateway to db_proxy: [`wire::Submit`].
    Submit = 0x0201,
    /// db_proxy to gateway: [`wire::SubmitAnswer`]. Not paired by request id.
    SubmitAnswer = 0x0202,
    /// Gateway to db_proxy: [`wire::Ask`], answered by [`wire::Answer`].
    Ask = 0x0203,
    /// Gateway to db_proxy: [`wire::Verify`], answered by [`wire::Verified`].
    Verify = 0x0204,
    /// Gateway to db_proxy: [`wire::MembershipsRequest`], answered by [`wire::Memberships`].
    Memberships = 0x0205,
    /// Gateway to db_proxy: [`wire::FetchRequest`], answered by [`wire::Fetched`].
    Fetch = 0x0206,
    /// Admin to db_proxy: [`wire::AdminRequest`], answered by [`wire::AdminAnswer`].
    Admin = 0x0207,
    /// Gateway to db_proxy: [`wire::Follow`], answered by nothing but changes.
    Follow = 0x0208,
    /// db_proxy to gateway: [`wire::Changes`].
    Changes = 0x0209,
    /// db_proxy to gateway: [`wire::Ownership`].
    Ownership = 0x020a,
    /// db_proxy to gateway: [`wire::SessionsRequest`], answered by [`wire::Sessions`].
    Sessions = 0x020b,
    /// db_proxy to gateway: [`wire::FrameQuestion`], answered by [`wire::FrameFate`].
    FrameFate = 0x020c,
    /// Gateway to db_proxy: [`wire::Resume`], answered by [`wire::Verified`].
    Resume = 0x020d,
    /// Gateway to db_proxy: [`wire::TokenQuestion`], answered by [`wire::TokenAnswer`].
    Token = 0x020e,
    /// Consumer to db_proxy: [`wire::Consume`], answered by nothing but records.
    Consume = 0x020f,
    /// db_proxy to consumer: [`wire::Records`].
    Records = 0x0210,
    /// Consumer to db_proxy: [`wire::Handled`].
    Handled = 0x0211,
    /// db_proxy to route_server: [`wire::Publish`], answered by [`wire::PublishAck`]. To a gateway,
    /// from either: the same message, without an answer.
    Publish = 0x0301,
    /// Gateway to route_server: [`wire::InterestTable`].
    InterestTable = 0x0302,
    /// Gateway to route_server: [`wire::InterestChange`], answered by [`wire::Registered`].
    InterestChange = 0x0303,
    /// Gateway to route_server: [`wire::InterestChecksum`].
    InterestChecksum = 0x0304,
    /// route_server to gateway: [`wire::InterestAgain`].
    InterestAgain = 0x0305,
    /// route_server or db_proxy to gateway, and gateway to route_server: [`wire::Kick`].
    Kick = 0x0306,
    /// Gateway to route_server, and on to gateways: [`wire::Forward`].
    Forward = 0x0307,
    /// route_server to gateway: [`wire::PresenceChanges`].
    PresenceChanges = 0x0308,
    /// Gateway to route_server: [`wire::StatusRequest`], answered by [`wire::Status`].
    Status = 0x0309,
}

/// How many [`wire::Records`] may be on their way to a consumer before it has said that it handled the
/// first of them.
pub const RECORDS_UNHANDLED_MAX: usize = 4;

/// The same, if they are small: all together not more than [`RECORDS_UNHANDLED_MAX`] full ones. What is told as it
/// happens comes in small ones, and a consumer that waits with one of them goes on with the others.
pub const SMALL_RECORDS_UNHANDLED_MAX: usize = 256;

/// Whether a consumer of the log may have this name: 1 to 64 letters, digits, `_`, `-` and `.`, so that it
/// is the same in files, metrics and commands.
pub fn is_consumer_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(is_plain)
}

/// The device class of a client kind: 0 PC, 1 mobile (TeamTalk protocol, login: value >> 4).
pub const fn device_class(client_type: u32) -> u32 {
    if client_type >> 4 == 0 { 0 } else { 1 }
}

/// Ranks replicas for a key: the one with the greatest weight serves it, the next one takes over.
///
/// Rendezvous hashing (Thaler and Ravishankar 1998): every daemon ranks the same way without
/// agreement, and a lost replica moves only its own keys.
pub fn rendezvous_weight(key: u64, replica: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64; // FNV-1a over the name, then mixed with the key.
    for byte in replica.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    mix(hash ^ mix(key))
}

/// The partition that a conversation belongs to, of `partitions`, for ever.
///
/// # Panics
///
/// If there are no partitions.
#[expect(clippy::cast_possible_truncation, reason = "below the divisor, which has 32 bits")]
pub const fn partition_of(conversation: u64, partitions: u32) -> u32 {
    (mix(conversation.wrapping_add(GAMMA)) % partitions as u64) as u32
}

/// What one session adds to the checksum of a gateway's interest table ([`wire::InterestChecksum`]):
/// `users_xor` is the exclusive or of these over all sessions, `users` their number.
pub const fn interest_hash_user(user: u32, session: u64, epoch: u64) -> u64 {
    let hash = mix((user as u64).wrapping_add(GAMMA));
    mix(mix(hash ^ session).wrapping_add(GAMMA) ^ epoch)
}

/// What one group adds to that checksum: `groups_xor` is the exclusive or of these over all groups.
pub const fn interest_hash_group(group: u32) -> u64 {
    mix((group as u64).wrapping_add(GAMMA))
}

/// The step of SplitMix64. Keeps [`mix`] away from 0, which it leaves as it is.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finisher of SplitMix64 (Steele, Lea and Flood 2014): every input bit moves every output bit.
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::RefuseReason;

    #[test]
    fn every_kind_is_found_by_its_number() {
        for &kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind.number()), Some(kind));
            assert!(kind.number() < 0xff00, "{kind:?} lies in the link's own range");
        }
        assert_eq!(Kind::from_number(0), None);
    }

    /// Gateways pass the number on as it is.
    #[test]
    fn a_reason_has_the_number_and_the_name_that_clients_know() {
        let without = |name: &'static str| name.trim_start_matches("REFUSE_REASON_");
        let mut reasons = 0;
        for number in 1..=1_000 {
            let inside = wire::Reason::try_from(number).ok().map(|reason| reason.as_str_name());
            let outside = RefuseReason::try_from(number).ok().map(|reason| reason.as_str_name());
            assert_eq!(inside, outside.map(without), "{number}");
            reasons += usize::from(inside.is_some());
        }
        assert!(reasons >= 12, "they are found: {reasons}");
        // To clients 0 says "not now", which is no reason for a refusal.
        assert_eq!(wire::Reason::try_from(0), Ok(wire::Reason::None));
        assert!(RefuseReason::try_from(0).is_err());
    }

    #[test]
    fn sessions_that_differ_in_one_number_have_other_hashes() {
        let hash = interest_hash_user(1, 2, 3);
        for other in
            [interest_hash_user(2, 2, 3), interest_hash_user(1, 3, 3), interest_hash_user(1, 2, 4)]
        {
            assert_ne!(hash, other);
        }
        assert_ne!(interest_hash_user(0, 0, 0), 0, "else nobody would count as somebody");
        assert_ne!(interest_hash_group(1), interest_hash_group(2));
    }

    #[test]
    fn partitions_share_the_conversations_about_evenly_and_never_change() {
        let counts = (0..10_000_u64).fold([0; 4], |mut counts, conversation| {
            counts[partition_of(conversation << 32 | 7, 4) as usize] += 1;
            counts
        });
        assert!(counts.iter().all(|count| (2_200..2_800).contains(count)), "{counts:?}");
        assert_eq!(partition_of(u64::MAX, 1), 0);
        // Where a conversation's history is: another answer would lose it.
        let places = [1, 2, 1 << 32 | 2, 7 << 32 | 9].map(|number| partition_of(number, 16));
        assert_eq!(places, [1, 14, 2, 11]);
    }

    #[test]
    fn two_replicas_share_the_keys_about_evenly() {
        let firsts = (0..10_000_u64)
            .filter(|&key| rendezvous_weight(key, "r1") > rendezvous_weight(key, "r2"))
            .count();
        assert!((4_700..5_300).contains(&firsts), "r1 serves {firsts} of 10,000");
    }
}
