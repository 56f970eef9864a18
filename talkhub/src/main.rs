//! The `talkhub` command. Everything it does is in the library: start reading at `lib.rs`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    talkhub::main(std::env::args_os())
}
