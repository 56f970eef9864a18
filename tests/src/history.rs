//! Everything that was said and seen, and whether it fits together.
//!
//! ```text
//! recorder ──► event ──► names      what happened, one line of JSON each
//!    crowd        │
//!                 ▼
//!               index ──► entitled      what can be looked up, and which users may and must get what
//!                 │           │
//!                 ▼           ▼
//!               check ──► order, stored, view, …      the rules, H1 to H14
//!                 │
//!                 ├──► figures, render      what is told
//!                 └──► shrink               what is left of a history that breaks a rule
//! generate                                  histories in which nothing is wrong
//! ```
//!
//! A test or scenario writes down, through a [`Recorder`], what it is about to do, what came of it, and
//! what it saw; in the end, what every device has and what the histories say. [`check()`] then checks
//! all of it against the promises. The program `talkhub-check` does the same to a file.
//!
//! Only the recorder knows a clock or a file; everything else is pure.

mod check;
mod entitled;
mod event;
mod figures;
mod generate;
mod index;
mod names;
mod ranges;
mod recorder;
mod render;
mod shrink;
#[cfg(test)]
mod tests;

pub use check::{Report, Rule, Thresholds, Verdict, Violation, check};
pub use event::{
    BadLine, Change, Class, Connection, Conv, Delivery, Event, Mid, Phase, Progress, Row, Sha,
    What, read_lines, write_line,
};
pub use figures::{Figures, Freshness, Latency, Second, Window, latency, next_ack, stalls};
pub use generate::generate;
pub use ranges::Ranges;
pub use recorder::Recorder;
pub use render::line;
pub use shrink::{Shrunk, shrink};
