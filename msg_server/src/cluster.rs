//! The links to other daemons.
//!
//! - [`links`] is what comes in on them.
//! - [`hub`]: what the route_servers are told and asked.
//! - [`ownership`]: what follows when a partition goes from one db_proxy to another.
//! - [`load`]: what the login_servers are told; [`readiness`]: whether storage can serve logins.

pub(crate) mod hub;
pub(crate) mod links;
pub(crate) mod load;
mod ownership;
pub(crate) mod readiness;
