//! What the program can do besides serving: one word before the flags.
//!
//! | Command | |
//! |---|---|
//! | (none) | serves |
//! | `migrate` | brings the databases to the version of this program, and ends |

use std::ffi::OsString;
use std::process::ExitCode;

use daemon::run::{run_command, run_with_args};

/// Runs what the arguments, without the program's name, ask for.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter().peekable();
    if args.next_if(|word| word == "migrate").is_some() {
        return run_command(args, crate::migrate);
    }
    run_with_args(args, crate::run)
}
