//! A message on its way from its sender to storage.
//!
//! - [`message_rules`] has the rules for what a message must look like.
//! - [`unanswered`] hands it to storage, and tells the sender what became of it.
//! - [`frames`] answers storage's questions about frames that a Windows client has sent twice.

pub(crate) mod frames;
pub(crate) mod message_rules;
pub(crate) mod unanswered;
