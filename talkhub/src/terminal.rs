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

    /// Cannot be written to, or only not to its end.
    struct Full {
        at: &'static str,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.at == "write" {
                Err(io::ErrorKind::StorageFull.into())
            } else {
                Ok(bytes.len())
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            if self.at == "flush" { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
    }

    #[test]
    fn a_text_is_a_line_and_one_that_was_not_written_is_an_error() {
        let mut line = Vec::new();
        print("text", &mut line).unwrap();
        assert_eq!(line, b"text\n");
        for at in ["write", "flush"] {
            let error = print("text", Full { at }).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{at}");
        }
        print("text", Full { at: "never" }).unwrap();
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}
