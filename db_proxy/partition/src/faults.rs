//! Breaks the rules of the fold if this process is told to. Compiled with the feature `faults` only.

use daemon::faults::{Mutant, planted};
use fold::faults::{Fault, plant};

/// The fold knows no environment: what this process is to do wrong there is said to it.
pub(crate) fn plant_in_fold() {
    let faults = [
        (Mutant::SkipDedupe, Fault::SkipDedupe),
        (Mutant::DedupeByWallClock, Fault::DedupeByWallClock),
        (Mutant::FormerMembersWrite, Fault::FormerMembersWrite),
        (Mutant::OwnIsUnread, Fault::OwnIsUnread),
    ];
    for (_mutant, fault) in faults.into_iter().filter(|(mutant, _fault)| planted(*mutant)) {
        plant(fault);
    }
}
