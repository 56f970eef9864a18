//! How texts are written to a terminal, those of other people among them.

use std::io::{self, Write};

/// Prints a text as a line. It is no error if the reader has gone, as in `talkhub admin user list | head`.
pub(crate) fn print(text: &str, mut to: impl Write) -> io::Result<()> {
    match writeln!(to, "{text}").and_then(|()| to.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// A text without control characters. What others have written, such as a name, must not move the cursor
/// of the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_has_seen_enough_is_no_error() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        print("more than anybody wants to read", writer).unwrap();
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}
