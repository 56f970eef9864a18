//! What tests of several crates need: a store that answers when the test lets it, and users.

use std::time::Duration;

use proto::ids::UserId;

use crate::NewUser;

pub mod gated;

/// Long enough for a loaded machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn user(id: u32, name: &str) -> NewUser {
    NewUser {
        id: Some(UserId(id)),
        name: name.to_owned(),
        nick: name.to_owned(),
        password_hash: String::new(),
        department: 1,
    }
}
