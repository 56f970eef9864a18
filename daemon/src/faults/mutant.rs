//! The list of mutants: what each breaks, and its name.

/// One way to break the promise.
///
/// `H1` to `H9` are the rules of the history checker: lost, once, stable, order, dense, phantom,
/// view, entitlement, freshness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// db_proxy: an append returns without a flush. A power cut takes what was acknowledged (H1),
    /// and the numbers are given out again (H3); a kill of the process alone shows nothing.
    AckBeforeFlush,
    /// db_proxy: senders are answered when their message is admitted; it is appended 20 ms later. A
    /// kill in between takes what was acknowledged (H1), and the numbers are given out again (H3).
    AckBeforeAppend,
    /// db_proxy: a repeated `(sender, client_msg_id)` or fingerprint is never recognised, neither
    /// here nor in the store. Every resend of a stored message gets a second number (H2).
    SkipDedupe,
    /// db_proxy: a repeat is recognised for 200 ms of wall-clock time only. Later resends get a
    /// second number (H2), and a replay numbers other than the first time (H3).
    DedupeByWallClock,
    /// msg_server: no gap is ever noticed and nothing is repaired by cursor, so devices that only
    /// hear pushes miss messages (H7, H9). Client library: the highest number seen counts as the
    /// mark, so whatever lies below is never fetched (H7, H1 in the device's final set).
    WatermarkMax,
    /// db_proxy: messages are published, with the numbers they should get, 20 ms before they are
    /// appended. After a kill in between devices have what is not stored (H6), or is stored under a
    /// number that means another message there (H3).
    PushBeforeDurable,
    /// db_proxy: the store commits its progress first, and the rows 50 ms later. A kill in between
    /// leaves acknowledged messages out of the store for ever (H1); their numbers are given out
    /// again (H3).
    OffsetApartFromRows,
    /// db_proxy: after a start the fold begins at the end of the log instead of behind what is
    /// stored. What was not stored yet is lost (H1), and numbers are given out again (H3).
    ReplayFromEnd,
    /// db_proxy: the rows of every 50th batch are not written, but its progress moves on all the same.
    /// Once out of memory, messages are missing (H1) and the history has holes (H5).
    IgnoreInsertError,
    /// route_server and msg_server: a session that ends takes the user's other sessions out of the
    /// tables with it, and a kick of older logins ends newer ones too. A device that moved is
    /// connected and is told of no message (H7, H9).
    OfflineWithoutEpoch,
    /// db_proxy: every 20th read of history, of unread counts or of what a gateway missed "fails",
    /// and is answered as if there were nothing. Devices step over messages (H7), the final read
    /// lacks them (H1, H5).
    PullEmptyOnError,
    /// db_proxy: a frame that equals one of an earlier connection counts as its repeat, however that
    /// connection ended. Programs that number all frames alike are acknowledged what is stored
    /// nowhere (two messages under one number).
    EqualIsRepeated,
    /// db_proxy: a record that cannot be read is a torn tail wherever it is, and the log is cut
    /// there. It serves instead of refusing, and what the store does not have yet is lost (H1).
    TruncateMidLog,
    /// db_proxy: a user who is no member of a group may write there all the same (H8).
    FormerMembersWrite,
    /// db_proxy: a user who joins a group may read what was said before (H8).
    JoinersReadAll,
    /// db_proxy: the times of messages are those of the second before or after, so that they go back
    /// every other second (H4).
    TimeGoesBack,
    /// db_proxy: in histories voice messages are text (H3).
    TypeForgotten,
    /// db_proxy: what users say themselves counts as unread (H10).
    OwnIsUnread,
    /// db_proxy: every tenth read of history takes seven seconds, so that devices stay behind after a
    /// fault (H9).
    ReadsLate,
    /// db_proxy: no client is told of every third change of members (H14).
    NoticesForgotten,
    /// msg_server: of some messages that are stored their senders are told that they may not write
    /// there (H6, H11).
    RefusedIsStored,
    /// msg_server: a later login ends no earlier session (H13).
    TwoSeats,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::AckBeforeFlush,
        Self::AckBeforeAppend,
        Self::SkipDedupe,
        Self::DedupeByWallClock,
        Self::WatermarkMax,
        Self::PushBeforeDurable,
        Self::OffsetApartFromRows,
        Self::ReplayFromEnd,
        Self::IgnoreInsertError,
        Self::OfflineWithoutEpoch,
        Self::PullEmptyOnError,
        Self::EqualIsRepeated,
        Self::TruncateMidLog,
        Self::FormerMembersWrite,
        Self::JoinersReadAll,
        Self::TimeGoesBack,
        Self::TypeForgotten,
        Self::OwnIsUnread,
        Self::ReadsLate,
        Self::NoticesForgotten,
        Self::RefusedIsStored,
        Self::TwoSeats,
    ];

    /// The name that `TALKHUB_MUTANT` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeFlush => "ack-before-flush",
            Self::AckBeforeAppend => "ack-before-append",
            Self::SkipDedupe => "skip-dedupe",
            Self::DedupeByWallClock => "dedupe-by-wall-clock",
            Self::WatermarkMax => "watermark-max",
            Self::PushBeforeDurable => "push-before-durable",
            Self::OffsetApartFromRows => "offset-apart-from-rows",
            Self::ReplayFromEnd => "replay-from-end",
            Self::IgnoreInsertError => "ignore-insert-error",
            Self::OfflineWithoutEpoch => "offline-without-epoch",
            Self::PullEmptyOnError => "pull-empty-on-error",
            Self::EqualIsRepeated => "equal-is-repeated",
            Self::TruncateMidLog => "truncate-mid-log",
            Self::FormerMembersWrite => "former-members-write",
            Self::JoinersReadAll => "joiners-read-all",
            Self::TimeGoesBack => "time-goes-back",
            Self::TypeForgotten => "type-forgotten",
            Self::OwnIsUnread => "own-is-unread",
            Self::ReadsLate => "reads-late",
            Self::NoticesForgotten => "notices-forgotten",
            Self::RefusedIsStored => "refused-is-stored",
            Self::TwoSeats => "two-seats",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_has_a_name_of_its_own() {
        let mut names = Mutant::ALL.map(Mutant::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Mutant::ALL.len());
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-')));
    }
}
