//! The partition over a real log and a real store.

mod eviction;
mod large;
mod limits;
mod restarts;
mod sending;
