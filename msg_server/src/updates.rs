//! What users do besides writing, on its way to storage and to other clients. It may wait a moment, and
//! then the last value counts.
//!
//! - [`presence`]: which users came and went.
//! - [`profiles`] and [`news`]: signatures and pictures.
//! - [`marks`]: up to where a user has read a conversation.

pub(crate) mod marks;
pub(crate) mod news;
pub(crate) mod presence;
mod profiles;
