//! Mutants: faults of our own that a build may carry, so that tests can prove that they would notice.
//!
//! A mutant breaks one promise on purpose. It exists only in a build with the feature `faults`, which
//! is never on by default, and a process has only the one that its environment variable
//! `TALKHUB_MUTANT` names. Without the feature [`planted`] is a constant, the wrong behaviour is
//! not compiled, and the variable is refused like every setting that does not exist.
//!
//! ```text
//! cargo build --workspace --bins --features faults --target-dir target/faults
//! TALKHUB_MUTANT=skip-dedupe target/faults/debug/db_proxy …
//! ```
//!
//! An unknown name ends the start with exit code 78. A process with a mutant warns of it in one line.

mod mutant;
#[cfg(feature = "faults")]
mod planted;

pub use mutant::Mutant;
#[cfg(feature = "faults")]
pub use planted::{UnknownMutant, from_environment, is_variable, nth, pause, planted};

/// Whether this process is to misbehave in this way: never, in a build without the feature.
#[cfg(not(feature = "faults"))]
pub const fn planted(_mutant: Mutant) -> bool {
    false
}

/// Whether an environment variable of this name is meant for us, and so is no setting.
#[cfg(not(feature = "faults"))]
pub const fn is_variable(_name: &str) -> bool {
    false
}

#[cfg(all(test, not(feature = "faults")))]
mod tests {
    use super::*;

    #[test]
    fn a_usual_build_has_no_mutants() {
        // Not even where the environment asks for one: this is decided while compiling.
        const NONE: bool = {
            let (mut index, mut any) = (0, false);
            while index < Mutant::ALL.len() {
                any |= planted(Mutant::ALL[index]);
                index += 1;
            }
            !any
        };
        const { assert!(NONE, "a mutant lives without the feature") };
    }
}
