//! What is found of a log, and whether log and store belong together.

use record_log::LogReader;
use store::Claimed;

use super::records::Check;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// All is as it should be.
    Fine,
    /// Something that was promised to be there is not, or log and store do not belong together.
    Damaged,
}

/// Whether the store has been filled from this log. `now` looks at it again.
pub(super) fn pairing(
    log: &dyn LogReader,
    check: &Check,
    claimed: &Claimed,
    now: impl FnOnce() -> Option<Claimed>,
) -> Result<String, String> {
    let (first, next) = log.range();
    let applied = claimed.progress.applied;
    if claimed.log != log.id() {
        return Err(format!("it belongs to log {}", claimed.log));
    }
    if applied >= next {
        return Err(format!(
            "it has applied records up to {}, and the log ends before {}",
            applied.0, next.0
        ));
    }
    if applied < first {
        // A db_proxy that runs may have stored, and then trimmed, more than was known at first.
        let applied = now().map_or(applied, |claimed| claimed.progress.applied.max(applied));
        if applied.next() < first {
            return Err(format!(
                "it has applied records up to {}, and the log begins at {}",
                applied.0, first.0
            ));
        }
        return Ok(format!("applied up to {}, which the log has no more", applied.0));
    }
    match check.crc_of_applied {
        Some(crc) if crc == claimed.progress.applied_crc => {
            Ok(format!("applied up to {}, the same record as in the log", applied.0))
        }
        Some(_) => Err(format!("the record it applied at {} is not the one in the log", applied.0)),
        None => Err(format!("the record it applied at {} cannot be read", applied.0)),
    }
}
