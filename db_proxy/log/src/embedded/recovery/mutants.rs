//! Cutting the log in its middle. Compiled with the feature `faults` only.

use std::io;

use daemon::faults::{self, Mutant};
use proto::ids::Offset;

use crate::LogError;

use super::super::files::{Folder, io_error};
use super::super::scan::{Scan, Tail};
use super::super::segment::{self, Reader};
use super::super::zeros::zero;

/// Deletes the segments behind the one that the scan has ended in, which without a mutant is the last
/// one. If not even that reaches as far as the store does, the log begins anew behind the store.
/// Returns the segments that are left.
pub(super) fn give_up_the_rest(
    folder: &dyn Folder,
    mut segments: Vec<u64>,
    scan: &mut Scan<'_>,
    stored: Offset,
) -> Result<Vec<u64>, LogError> {
    if !faults::planted(Mutant::TruncateMidLog) {
        return Ok(segments);
    }
    let failed = |source| io_error("cut", folder.describe(""), source);
    let Some(tail) = &scan.tail else { return Ok(segments) };
    let kept = segments.iter().position(|base| segment::name(*base) == tail.name);
    for base in segments.split_off(kept.map_or(segments.len(), |at| at + 1)) {
        folder.remove(&segment::name(base)).map_err(failed)?;
    }
    if stored.0 < scan.next {
        return Ok(segments);
    }
    let last = segments.pop();
    for base in segments.drain(..) {
        folder.remove(&segment::name(base)).map_err(failed)?;
    }
    let next = stored.0 + 1;
    if let Some(last) = last {
        scan.tail = Some(begin_anew(folder, last, next).map_err(failed)?);
        (scan.next, scan.proven) = (next, stored.0);
        segments.push(next);
    }
    Ok(segments)
}

/// Empties the segment of `last`, and lets it begin with `next`.
fn begin_anew(folder: &dyn Folder, last: u64, next: u64) -> io::Result<Tail> {
    let name = segment::name(next);
    let file = folder.open(&segment::name(last))?;
    zero(&*file, 0, file.size()?)?;
    file.sync()?;
    folder.rename(&segment::name(last), &name)?;
    folder.sync()?;
    Ok(Tail { name, reader: Reader::new(file)?, last_batch: 0, end: 0, dirty_end: 0 })
}
