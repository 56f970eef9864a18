//! The process of route_server. Everything it does is in the library: start reading at `lib.rs`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    daemon::run(route_server::run)
}
