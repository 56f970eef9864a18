//! A password, from the arguments or typed at the terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::failure::Failure;

/// The password in the arguments, or the one that is asked for. A program may write it to standard
/// input as one line.
pub(super) fn given_or_asked(given: Option<&str>, user: &str) -> Result<String, Failure> {
    let password = match given {
        Some(password) => password.to_owned(),
        None => ask(&format!("Password for {user}: "))
            .map_err(|error| Failure::new(format!("cannot read a password: {error}")))?,
    };
    if password.is_empty() {
        return Err(Failure::new("a password must not be empty"));
    }
    Ok(password)
}

fn ask(prompt: &str) -> io::Result<String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return read_line(&mut stdin.lock());
    }
    let mut stderr = io::stderr();
    write!(stderr, "{prompt}").and_then(|()| stderr.flush())?;
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let line = read_line(&mut stdin.lock());
    tcsetattr(&stdin, OptionalActions::Now, &before)?;
    line
}

fn read_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no password was given"));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_password_without_its_end() {
        assert_eq!(read_line(&mut " se cret \r\nmore".as_bytes()).unwrap(), " se cret ");
        read_line(&mut "".as_bytes()).unwrap_err();
    }

    #[test]
    fn an_empty_password_is_refused() {
        given_or_asked(Some(""), "anna").unwrap_err();
        assert_eq!(given_or_asked(Some("x"), "anna").unwrap(), "x");
    }
}
