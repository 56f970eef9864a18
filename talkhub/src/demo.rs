//! The users that `talkhub up --demo-users` makes, for those who try the system out.

/// The password of the demo users.
pub(crate) const DEMO_PASSWORD: &str = "talkhub-demo";
