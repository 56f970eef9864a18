//! What clients send in place of a password.

use md5::{Digest as _, Md5};

/// The MD5 of a typed password as 32 lower-case hex digits: what every client sends at login, and
/// so what a server's stronger hash is made of (TeamTalk protocol, login).
pub fn of_password(typed: &str) -> String {
    use std::fmt::Write as _;

    Md5::digest(typed.as_bytes()).iter().fold(String::with_capacity(32), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("a string takes everything");
        digits
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_typed_password_becomes_these_digits() {
        assert_eq!(super::of_password("123456"), "e10adc3949ba59abbe56e057f20f883e");
    }
}
