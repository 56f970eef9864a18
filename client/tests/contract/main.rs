//! The client against a gateway that the test plays.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod asking;
mod connecting;
mod fake;
mod receiving;
mod resuming;
mod sending;
mod tls;
mod trouble;
