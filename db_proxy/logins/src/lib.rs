//! Logins: passwords, tokens and tickets, what slows down guessing, and how sessions end.
//!
//! - [`login`]: one login from its name and password, or its token, to its answer.
//! - [`passwords`]: hashes, and how many of them are computed at once.
//! - [`tokens`]: what a client that has logged in shows instead of its password.
//! - [`profiles`]: what every user may know of a user.
//! - [`kicks`]: ending the sessions of a user on every gateway.
//! - [`names`]: which names users and groups may have.

pub mod kicks;
pub mod login;
mod metrics;
pub mod names;
pub mod passwords;
pub mod profiles;
pub mod tokens;

pub use metrics::LoginMetrics;
