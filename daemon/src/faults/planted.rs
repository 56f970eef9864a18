//! Which mutant lives in this process. Compiled with the feature `faults` only.

use std::env;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::mutant::Mutant;

const VARIABLE: &str = "TALKHUB_MUTANT";

/// `TALKHUB_MUTANT` names none of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("TALKHUB_MUTANT: there is no mutant {0:?}")]
pub struct UnknownMutant(
    /// What it says.
    String,
);

/// The mutant that the environment names, if any. Read once: it does not change while a process
/// runs.
pub fn from_environment() -> Result<Option<Mutant>, UnknownMutant> {
    static PLANTED: OnceLock<Result<Option<Mutant>, UnknownMutant>> = OnceLock::new();
    PLANTED
        .get_or_init(|| match env::var_os(VARIABLE) {
            Some(name) => named(&name.to_string_lossy()),
            None => Ok(None),
        })
        .clone()
}

/// Whether an environment variable of this name is meant for us, and so is no setting.
pub fn is_variable(name: &str) -> bool {
    [VARIABLE, crate::clock::VARIABLE].contains(&name)
}

/// Whether this process is to misbehave in this way.
pub fn planted(mutant: Mutant) -> bool {
    from_environment() == Ok(Some(mutant))
}

/// Whether this call is an `n`th one, as counted by `calls`.
pub fn nth(calls: &AtomicU64, n: u64) -> bool {
    (calls.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(n)
}

/// Widens the moment in which a kill does harm.
#[expect(clippy::disallowed_methods, reason = "a mutant's purpose is to keep its thread")]
pub fn pause(how_long: Duration) {
    std::thread::sleep(how_long);
}

fn named(name: &str) -> Result<Option<Mutant>, UnknownMutant> {
    if name.is_empty() {
        return Ok(None);
    }
    let found = Mutant::ALL.into_iter().find(|mutant| mutant.name() == name);
    found.map(Some).ok_or_else(|| UnknownMutant(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_is_found_by_its_name_and_by_nothing_else() {
        for mutant in Mutant::ALL {
            assert_eq!(named(mutant.name()), Ok(Some(mutant)));
        }
        assert_eq!(named(""), Ok(None));
        let error = named("skip_dedupe").unwrap_err();
        assert_eq!(error.to_string(), "TALKHUB_MUTANT: there is no mutant \"skip_dedupe\"");
    }

    #[test]
    fn every_nth_call_is_one() {
        let calls = AtomicU64::new(0);
        let hits: Vec<u64> = (1..=10).filter(|_call| nth(&calls, 4)).collect();
        assert_eq!(hits, [4, 8]);
    }
}
