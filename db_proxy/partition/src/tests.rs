//! The partition over a real log and a real store.

mod eviction;
mod hooks;
mod joins;
mod large;
mod limits;
pub(crate) mod restarts;
mod sending;
