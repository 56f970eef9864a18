//! The gateway as its clients see it, over real sockets, with storage and hub that the test plays.

mod answers;
mod delivering;
mod edge;
mod encrypted;
mod following;
mod harness;
mod in_parts;
mod limiting;
mod logging_in;
mod marking;
mod measuring;
mod memory;
mod moving;
mod not_answered;
mod resuming;
mod sending;
mod session_lines;
mod several;
mod spending;
mod stopping;
mod too_long;
mod watching;
