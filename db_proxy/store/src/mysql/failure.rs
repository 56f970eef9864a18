//! What an error of MySQL means for the caller.
//!
//! # Invariants
//!
//! - No text has a password, or anything that a client sent: of errors about data only the number
//!   is told, since the server quotes the data in its words.

use std::io::ErrorKind;
use std::time::Duration;

use mysql_async::{DriverError, Error, IoError, ServerError};

use super::address::Address;
use crate::StoreError;

/// Why a statement, or what was made of its answer, failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server or the way to it.
    Driver(Error),
    /// No answer in time. The connection can no longer be used.
    Slow(Duration),
    /// All connections were taken for that long, or too many wait already.
    Busy(&'static str),
    /// The store's own answer.
    Store(StoreError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Driver(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The same again, on the same server: another transaction was in the way.
    Again,
    /// The same again on a new connection: this one is lost.
    Reconnect,
    /// Later: the server is away, full, or not for writing.
    Later,
    /// Nothing helps but a change of data, schema or program.
    None,
}

/// Deadlock, lock wait timeout, a statement that the server forgot or wants prepared again.
const AGAIN: [u16; 4] = [1213, 1205, 1243, 1615];

/// Shutdown, a connection that was killed, closed for idleness, or broken on the way (MySQL's
/// numbers and MariaDB's).
const LOST: [u16; 9] = [1053, 1077, 1158, 1159, 1160, 1161, 1927, 3169, 4031];

/// Values that do not fit a column, or rows that do not fit a key.
const DATA: [u16; 10] = [1048, 1062, 1264, 1265, 1292, 1366, 1406, 1411, 1526, 3819];

/// Statements that do not fit the tables; damaged tables.
const SCHEMA: [u16; 9] = [1034, 1054, 1064, 1136, 1146, 1364, 1712, 1877, 1932];

/// Values of a unique key that are there already.
const DUPLICATE: u16 = 1062;

impl Failure {
    /// What to do about it.
    pub(super) fn remedy(&self) -> Remedy {
        match self {
            Self::Driver(Error::Server(error)) => match error.code {
                code if AGAIN.contains(&code) => Remedy::Again,
                code if LOST.contains(&code) => Remedy::Reconnect,
                code if DATA.contains(&code) || SCHEMA.contains(&code) => Remedy::None,
                _ => Remedy::Later,
            },
            Self::Driver(Error::Io(_)) => Remedy::Reconnect,
            Self::Driver(Error::Driver(error)) => match error {
                DriverError::ConnectionClosed
                | DriverError::PacketOutOfOrder
                | DriverError::UnexpectedPacket { .. } => Remedy::Reconnect,
                _ => Remedy::None,
            },
            Self::Slow(_) | Self::Busy(_) => Remedy::Later,
            Self::Driver(_) | Self::Store(_) => Remedy::None,
        }
    }

    /// Whether a row's key is taken.
    pub(super) fn is_duplicate(&self) -> bool {
        self.code() == Some(DUPLICATE)
    }

    /// The server's number for it.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Driver(Error::Server(error)) => Some(error.code),
            _ => None,
        }
    }

    /// For the caller; `server` says where it happened.
    pub(super) fn into_store_error(self, server: &str) -> StoreError {
        let remedy = self.remedy();
        match self {
            Self::Store(error) => error,
            other if remedy == Remedy::None => {
                StoreError::Refused(format!("{server}: {}", other.text()))
            }
            other => StoreError::Unavailable(format!("{server}: {}", other.text())),
        }
    }

    /// The failure in words.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Driver(Error::Server(error)) => server_text(error),
            Self::Driver(Error::Io(IoError::Io(error))) => error.to_string(),
            Self::Driver(Error::Io(IoError::Tls(error))) => format!("TLS: {error}"),
            // These hold rows and packets, which their texts do not show.
            Self::Driver(other) => other.to_string(),
            Self::Slow(limit) => format!("no answer within {limit:?}"),
            Self::Busy(why) => (*why).to_owned(),
            Self::Store(error) => error.to_string(),
        }
    }

    /// Whether the server asks for the password in a way that the driver does not know.
    pub(super) fn is_unknown_login(&self) -> bool {
        matches!(self, Self::Driver(Error::Driver(DriverError::UnknownAuthPlugin { .. })))
    }

    /// Whether the two sides do not agree on how to speak: TLS, certificates, something that is no
    /// MySQL.
    pub(super) fn is_disagreement(&self) -> bool {
        match self {
            Self::Driver(Error::Io(IoError::Tls(_)) | Error::Url(_) | Error::Other(_)) => true,
            Self::Driver(Error::Io(IoError::Io(error))) => error.kind() == ErrorKind::InvalidData,
            Self::Driver(Error::Driver(error)) => !matches!(error, DriverError::ConnectionClosed),
            _ => false,
        }
    }
}

fn server_text(error: &ServerError) -> String {
    let ServerError { code, state, message } = error;
    if DATA.contains(code) || SCHEMA.contains(code) {
        return format!("error {code} ({state})");
    }
    format!("error {code} ({state}): {message}")
}

/// What a failure means while the store is opened: what will not pass by itself is refused, with
/// what to do.
pub(super) fn refusal(failure: Failure, address: &Address) -> StoreError {
    let name = address.name();
    let text = failure.text();
    let what_to_do = match failure.code() {
        Some(1045 | 1698) => "the server refuses this user with this password: correct the URL",
        Some(1044) => "the user may not use the database: grant it",
        Some(1049) => "there is no such database: make it, then run `db_proxy migrate`",
        Some(1142 | 1143 | 1227 | 1370) => "the user lacks a right: grant it",
        Some(1251 | 1275) => "the server wants another way to log in: change the user's",
        // MySQL asks users that it does not have for a password in any of its ways.
        None if failure.is_unknown_login() => {
            "the server refuses this user with this password, or wants a way to log in that this \
             program does not know: correct the URL, or change the user's way"
        }
        None if failure.is_disagreement() => "no way to speak: correct the URL, or its TLS part",
        _ => return failure.into_store_error(name),
    };
    StoreError::Refused(format!("{name}: {what_to_do} ({text})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_asks_to_try_again_and_what_the_data_is_does_not() {
        for code in [1021, 1040, 1053, 1114, 1205, 1213, 1290, 1836, 1927, 4031] {
            let error = server(code).into_store_error("here");
            assert!(matches!(error, StoreError::Unavailable(_)), "code {code}: {error}");
        }
        for code in [1054, 1062, 1146, 1264, 1366, 1406] {
            let error = server(code).into_store_error("here");
            assert!(matches!(error, StoreError::Refused(_)), "code {code}: {error}");
        }
    }

    #[test]
    fn an_error_about_data_does_not_quote_it() {
        for code in DATA.into_iter().chain(SCHEMA) {
            let text = server(code).into_store_error("here").to_string();
            assert!(!text.contains("secret") && text.contains(&code.to_string()), "{text}");
        }
    }

    #[test]
    fn each_failure_says_whether_and_where_the_same_may_be_tried_again() {
        let io = |kind: ErrorKind| Failure::from(Error::Io(IoError::Io(kind.into())));
        let driver = |error| Failure::from(Error::Driver(error));
        for (remedy, failures) in [
            (Remedy::Again, AGAIN.map(server).into_iter().collect()),
            (Remedy::Reconnect, LOST.map(server).into_iter().collect()),
            (Remedy::None, DATA.map(server).into_iter().collect()),
            (Remedy::None, SCHEMA.map(server).into_iter().collect()),
            (Remedy::Reconnect, vec![io(ErrorKind::BrokenPipe), io(ErrorKind::UnexpectedEof)]),
            (Remedy::Reconnect, vec![driver(DriverError::ConnectionClosed)]),
            (Remedy::Reconnect, vec![driver(DriverError::PacketOutOfOrder)]),
            (Remedy::None, vec![driver(DriverError::NoClientSslFlagFromServer)]),
            (Remedy::Later, vec![server(1040), server(1290), server(9_999)]),
            (Remedy::Later, vec![Failure::Slow(Duration::from_secs(2)), Failure::Busy("taken")]),
            (Remedy::None, vec![StoreError::Missing("user 1".to_owned()).into()]),
        ] {
            for failure in failures {
                assert_eq!(failure.remedy(), remedy, "{failure:?}");
            }
        }
        assert!(server(DUPLICATE).is_duplicate() && !server(1061).is_duplicate());
    }

    #[test]
    fn a_failure_is_told_with_its_place_and_an_answer_of_ours_as_it_is() {
        let told = |failure: Failure| failure.into_store_error("MySQL a@b").to_string();
        let slow = told(Failure::Slow(Duration::from_millis(1_500)));
        assert_eq!(slow, "the store is unavailable: MySQL a@b: no answer within 1.5s");
        assert!(told(Failure::Busy("all are taken")).ends_with("MySQL a@b: all are taken"));
        let lost = told(server(1053));
        assert!(lost.contains("error 1053 (HY000): ") && lost.contains("Incorrect"), "{lost}");
        assert_eq!(told(StoreError::Missing("user 1".to_owned()).into()), "user 1 does not exist");
    }

    #[test]
    fn what_is_wrong_at_the_start_is_refused_with_what_to_do() {
        let address = Address::parse("mysql://u:s3cret@h/chat", None).unwrap();
        let refused = |failure| refusal(failure, &address);
        let plugin = DriverError::UnknownAuthPlugin { name: "ed25519".to_owned() };
        let no_mysql = || std::io::Error::new(ErrorKind::InvalidData, "what is that?");
        for (failure, what_to_do) in [
            (server(1045), "correct the URL"),
            (server(1698), "correct the URL"),
            (server(1044), "may not use the database"),
            (server(1049), "run `db_proxy migrate`"),
            (server(1142), "lacks a right"),
            (server(1227), "lacks a right"),
            (server(1251), "another way to log in"),
            (Error::Driver(plugin).into(), "does not know"),
            (Error::Io(IoError::Io(no_mysql())).into(), "no way to speak"),
            (Error::Driver(DriverError::NoClientSslFlagFromServer).into(), "no way to speak"),
        ] {
            let error = refused(failure);
            let StoreError::Refused(text) = error else { panic!("{error}") };
            assert!(text.starts_with("MySQL u@h:3306/chat: "), "{text}");
            assert!(text.contains(what_to_do) && !text.contains("s3cret"), "{text}");
        }
        let closed = Failure::from(Error::Driver(DriverError::ConnectionClosed));
        let gone = Failure::from(Error::Io(IoError::Io(ErrorKind::ConnectionRefused.into())));
        for failure in [closed, gone, server(1040), Failure::Busy("taken")] {
            let error = refused(failure);
            assert!(matches!(error, StoreError::Unavailable(_)), "it may pass: {error}");
        }
    }

    fn server(code: u16) -> Failure {
        let message = "Incorrect value: 'secret'".to_owned();
        Failure::Driver(Error::Server(ServerError { code, message, state: "HY000".to_owned() }))
    }
}
