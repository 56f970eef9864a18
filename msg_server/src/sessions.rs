//! The clients that are logged in here.
//!
//! - [`session`] is one of them, with what it knows of its groups ([`membership`]) and the users that
//!   it asked about ([`watched`]).
//! - [`registry`] finds sessions by user and by group.
//! - [`kicks`] remembers which older logins of a user have ended; [`logbook`] remembers where each
//!   session came from, for administrators.

pub(crate) mod kicks;
pub(crate) mod logbook;
pub(crate) mod membership;
pub(crate) mod registry;
pub(crate) mod session;
pub(crate) mod watched;
