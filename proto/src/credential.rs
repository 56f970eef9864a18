//! What clients send in place of a password.

use std::borrow::Cow;

use icu_normalizer::ComposingNormalizerBorrowed;
use md5::{Digest as _, Md5};

/// A typed password in Unicode's normalisation form C, which most keyboards produce: the same
/// characters are the same bytes, on whatever machine they are typed.
pub fn normalized(typed: &str) -> Cow<'_, str> {
    ComposingNormalizerBorrowed::new_nfc().normalize(typed)
}

/// The MD5 of a typed password as 32 lower-case hex digits: what every client sends at login, and
/// so what a server's stronger hash is made of (TeamTalk protocol, login). The password is
/// [`normalized`] first.
pub fn of_password(typed: &str) -> String {
    use std::fmt::Write as _;

    Md5::digest(normalized(typed).as_bytes()).iter().fold(
        String::with_capacity(32),
        |mut digits, byte| {
            write!(digits, "{byte:02x}").expect("a string takes everything");
            digits
        },
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_typed_password_becomes_these_digits() {
        assert_eq!(super::of_password("123456"), "e10adc3949ba59abbe56e057f20f883e");
    }

    #[test]
    fn a_letter_and_its_accent_are_the_same_password_as_the_accented_letter() {
        assert_eq!(super::normalized("cafe\u{301}"), "caf\u{e9}");
        assert_eq!(super::of_password("cafe\u{301}"), super::of_password("caf\u{e9}"));
        assert_ne!(super::of_password("cafe"), super::of_password("caf\u{e9}"));
        // Compatible is not the same: nothing is lost.
        assert_eq!(super::normalized("\u{fb01}\u{ff11}"), "\u{fb01}\u{ff11}");
    }
}
