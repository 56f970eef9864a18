//! What people and groups may be called, and what a password must be.
//!
//! Names are compared byte by byte and never changed: what a site has is what it gets. White space may
//! stand inside of them. What cannot be seen, or changes how the text around it is shown, may not.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use proto::credential::normalized;

/// The longest name of a user, in bytes of UTF-8.
pub(crate) const NAME_MAX: usize = 128;

/// The longest name of a group: old clients make them of their members' names.
const GROUP_NAME_MAX: usize = 256;

/// The longest name of an API key, in bytes.
const KEY_NAME_MAX: usize = 64;

/// Lengths of a password, in bytes, once it is normalised.
const PASSWORD_LEN: std::ops::RangeInclusive<usize> = 8..=128;

/// The passwords that are guessed first, one in a line, in lower case.
static COMMON: LazyLock<HashSet<&str>> =
    LazyLock::new(|| include_str!("names/common_passwords.txt").lines().collect());

/// Whether a user may be called so; else what is wrong with it.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err("must have 1 to 128 bytes");
    }
    check_characters(name)
}

/// Whether a group may be called so; else what is wrong with it.
pub fn check_group_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > GROUP_NAME_MAX {
        return Err("must have 1 to 256 bytes");
    }
    check_characters(name)
}

/// Whether an API key may be called so; else what is wrong with it. It stands in logs and metrics.
pub fn check_key_name(name: &str) -> Result<(), &'static str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > KEY_NAME_MAX || !name.bytes().all(fits) {
        return Err("must have 1 to 64 letters, digits, -, _ and .");
    }
    Ok(())
}

fn check_characters(name: &str) -> Result<(), &'static str> {
    if name.trim() != name {
        return Err("must not begin or end with white space");
    }
    if name.chars().any(|char| char.is_control() || is_line_break(char)) {
        return Err("must not contain control characters or line breaks");
    }
    if name.chars().any(turns_direction) {
        return Err("must not contain characters that turn the direction of text");
    }
    Ok(())
}

/// U+2028 and U+2029 are no control characters.
fn is_line_break(char: char) -> bool {
    matches!(char, '\u{2028}' | '\u{2029}')
}

/// Embeddings, overrides and isolates: they make one name look like another.
fn turns_direction(char: char) -> bool {
    matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A typed password, normalised, if it may be one; else what is wrong with it. It is never cut.
pub fn check_password(typed: &str) -> Result<Cow<'_, str>, &'static str> {
    let password = normalized(typed);
    if !PASSWORD_LEN.contains(&password.len()) {
        return Err("a password must have 8 to 128 bytes");
    }
    if COMMON.contains(password.to_lowercase().as_str()) {
        return Err("this password is one of those that everybody tries first: take another one");
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_called_by_letters_digits_and_three_signs() {
        let longest = "k".repeat(KEY_NAME_MAX);
        for name in ["hr", "CI-2", "a.b_c", "7", longest.as_str()] {
            assert_eq!(check_key_name(name), Ok(()), "{name}");
        }
        let longer = "k".repeat(KEY_NAME_MAX + 1);
        for name in ["", "h r", "h\u{e9}", "a/b", "a\n", longer.as_str()] {
            assert!(check_key_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn names_are_as_people_have_them() {
        let long = "\u{5f20}".repeat(42);
        let names = [
            "Li Lei",
            "o'brien",
            "a%b",
            "Anna",
            "\u{e9}",
            "e\u{301}",
            "a\u{3000}b",
            "\u{1f600}",
            "\"",
            &long,
        ];
        for name in names {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let (fits, too_long) = ("x".repeat(128), "x".repeat(129));
        assert_eq!(check_name(&fits), Ok(()));
        let bad = [
            "",
            " a",
            "a ",
            "\u{3000}a",
            "a\u{a0}",
            "a\nb",
            "a\0b",
            "a\u{7f}",
            "a\u{2028}b",
            "a\u{202e}b",
            "a\u{2066}b\u{2069}",
            &too_long,
        ];
        for name in bad {
            assert!(check_name(name).is_err(), "{name:?}");
            assert!(name == too_long || check_group_name(name).is_err(), "{name:?}");
        }
        let (fits, too_long) = ("x".repeat(256), "x".repeat(257));
        assert!(check_group_name(&fits).is_ok() && check_group_name(&too_long).is_err());
    }

    #[test]
    fn a_password_is_long_enough_not_too_long_and_not_what_everybody_tries() {
        let (fits, too_long) = ("x".repeat(128), "x".repeat(129));
        for typed in ["correct horse", "talkhub-demo", fits.as_str()] {
            assert_eq!(check_password(typed).as_deref(), Ok(typed));
        }
        for typed in
            ["short", "", too_long.as_str(), "password", "PassWord1", "12345678", "qwertyuiop"]
        {
            assert!(check_password(typed).is_err(), "{typed}");
        }
        // 10 bytes as typed, 8 in form C: what counts is what is hashed.
        assert_eq!(
            check_password("e\u{301}e\u{301}e\u{301}a").map(|p| p.len()),
            Err("a password must have 8 to 128 bytes")
        );
        assert_eq!(check_password("e\u{301}e\u{301}e\u{301}abc").map(|p| p.len()), Ok(9));
    }

    #[test]
    fn the_list_of_common_passwords_has_what_it_says() {
        let lines: Vec<&str> = include_str!("names/common_passwords.txt").lines().collect();
        assert_eq!(lines.len(), COMMON.len(), "no line twice");
        for line in lines {
            assert!(
                line.len() >= 8 && line == line.trim().to_lowercase(),
                "{line:?} has no effect"
            );
        }
    }
}
