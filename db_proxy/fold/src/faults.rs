//! Ways to break the rules on purpose, so that tests of the whole system can prove that they would
//! notice. Without the feature `faults`, which is never on by default, nothing is ever broken.

/// One broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A repeated message is never recognised.
    SkipDedupe,
    /// A repeated message is recognised for 200 ms of the wall clock's time only.
    DedupeByWallClock,
    /// A user who is no member of a group may write there.
    FormerMembersWrite,
    /// What users say themselves counts as unread.
    OwnIsUnread,
}

#[cfg(feature = "faults")]
static PLANTED: std::sync::OnceLock<Fault> = std::sync::OnceLock::new();

/// From now on this process breaks a rule. Only the first call counts.
#[cfg(feature = "faults")]
pub fn plant(fault: Fault) {
    PLANTED.get_or_init(|| fault);
}

/// Whether this process breaks a rule.
#[cfg(feature = "faults")]
pub(crate) fn planted(fault: Fault) -> bool {
    PLANTED.get() == Some(&fault)
}

/// Whether this process breaks a rule: never, without the feature.
#[cfg(not(feature = "faults"))]
pub(crate) const fn planted(_fault: Fault) -> bool {
    false
}

/// The wall clock in Unix milliseconds, which only a broken rule looks at.
#[cfg(feature = "faults")]
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The wall clock, which nothing looks at without the feature.
#[cfg(not(feature = "faults"))]
pub(crate) const fn unix_ms() -> u64 {
    0
}
