//! What of a segment was never written is zero: finding that out, and making it so again.

use std::io;

use super::files::LogFile;
use super::format::ALIGNMENT;

/// How much is compared with zeros, or zeroed, at once.
pub(super) const BLOCK_LEN: usize = 4096;

static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];

const _: () = assert!(BLOCK_LEN.is_multiple_of(ALIGNMENT), "no header begins in two blocks");

/// Returns the place of the last byte that is not zero.
pub(super) fn last_byte_set(window: &[u8]) -> Option<usize> {
    // One comparison of memory: nearly all blocks are zero.
    if ZEROS.starts_with(window) {
        return None;
    }
    window.iter().rposition(|byte| *byte != 0)
}

/// Writes zeros from `from` up to `end`.
pub(super) fn zero(file: &dyn LogFile, from: u64, end: u64) -> io::Result<()> {
    let mut at = from;
    while at < end {
        let len = usize::try_from(end - at).map_or(BLOCK_LEN, |left| left.min(BLOCK_LEN));
        file.write_all_at(&ZEROS[..len], at)?;
        at += len as u64;
    }
    Ok(())
}
