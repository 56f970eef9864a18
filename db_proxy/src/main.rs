//! The db_proxy process. Everything it does is in the library: start reading at `lib.rs`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    db_proxy::cli::main()
}
