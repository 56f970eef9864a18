//! Which part of the gateway serves a frame, and which frames are refused.
//!
//! Pure. The protocol's table says who serves a command, and in which state of a connection
//! ([`Command::accepted`]); this module says what follows from it.

use proto::{Command, ServedBy, State};

use crate::client::closing::CloseReason;

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// It is served.
    Serve(ServedBy),
    /// It is skipped, and counted: too many of these end the connection.
    Unknown,
    /// It ends the connection.
    Close(CloseReason),
}

/// Decides what becomes of a frame, by its header alone. Total: every number has an answer in every
/// state, of clients that said hello and of others.
pub(crate) fn route(number: u16, state: State, said_hello: bool) -> Route {
    let command = Command::from_number(number);
    match (command.and_then(|command| command.accepted(state, said_hello)), state) {
        (Some(by), _) => Route::Serve(by),
        (None, State::LoggedIn) => Route::Unknown,
        (None, State::Any) => Route::Close(CloseReason::NotLoggedIn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_login_every_number_but_four_ends_the_connection() {
        let served = |said_hello| -> Vec<u16> {
            let ends = Route::Close(CloseReason::NotLoggedIn);
            (0..=u16::MAX).filter(|&number| route(number, State::Any, said_hello) != ends).collect()
        };
        assert_eq!(served(true), [0x0103, 0x0701, 0x2001, 0x2007]);
        assert_eq!(served(false), [0x0103, 0x0701, 0x2001], "a resume needs a hello");
    }

    #[test]
    fn who_said_no_hello_does_not_know_the_extension() {
        for number in 0..=u16::MAX {
            let is_extension = number >> 8 == 0x20 && number != Command::Hello.number();
            let with_hello = route(number, State::LoggedIn, true);
            let expected = if is_extension { Route::Unknown } else { with_hello };
            assert_eq!(route(number, State::LoggedIn, false), expected, "{number:#06x}");
        }
        for number in [0x2005, 0x2007, 0x2009, 0x200a] {
            let with_hello = route(number, State::LoggedIn, true);
            assert!(matches!(with_hello, Route::Serve(_)), "{number:#06x}");
        }
    }

    #[test]
    fn after_login_nothing_ends_the_connection_at_once() {
        for number in 0..=u16::MAX {
            assert!(
                !matches!(route(number, State::LoggedIn, true), Route::Close(_)),
                "{number:#06x}"
            );
        }
    }

    #[test]
    fn what_only_the_server_says_is_unknown_from_a_client() {
        for number in [0x0104, 0x0107, 0x0202, 0x0304, 0x040b, 0x2003, 0x0101, 0x0501, 0xFFFF] {
            assert_eq!(route(number, State::LoggedIn, true), Route::Unknown, "{number:#06x}");
        }
    }

    #[test]
    fn requests_about_stored_data_go_to_storage_and_no_others_of_the_original_protocol() {
        let asked: Vec<_> = (0..0x2000)
            .filter(|&number| {
                let routed = route(number, State::LoggedIn, true);
                matches!(routed, Route::Serve(ServedBy::Storage(_)))
            })
            .collect();
        assert_eq!(
            asked,
            [
                0x0105, 0x0108, 0x010c, 0x010e, 0x0201, 0x0204, 0x0206, 0x0208, 0x020c, 0x0210,
                0x0213, 0x0303, 0x0307, 0x0309, 0x030b, 0x030d, 0x0401, 0x0403, 0x0405, 0x0407,
                0x0409
            ]
        );
    }
}
