//! What a client may ask, how much of it, and what it is answered.
//!
//! - [`routing`] says which frames are served. [`client_commands`] serves those of one client.
//! - [`login`] makes a session of a name and a password, [`tokens`] are for logins without one.
//! - [`answers`] waits for what others answer: storage, the route_servers, or another client. [`terms`]
//!   says on what terms storage is asked, [`answer_parts`] writes what does not fit one frame, and
//!   [`refusals`] tells a client that a request will not be done.
//! - [`allowances`] are what each user may spend, [`costs`] what a request costs.

pub(crate) mod allowances;
pub(crate) mod answer_parts;
pub(crate) mod answers;
pub(crate) mod client_commands;
pub(crate) mod costs;

pub(crate) mod login;
pub(crate) mod refusals;
pub(crate) mod routing;
pub(crate) mod terms;
pub(crate) mod tokens;
