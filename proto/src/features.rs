//! What clients and servers can do beyond the protocol's messages: the bits of
//! [`Hello::features`](crate::client::Hello::features).

/// The client keeps resume tokens: it gets one after each login.
pub const KEEPS_TOKENS: u32 = 1;
