//! From nothing to a connection that is logged in: which gateway, connect, hello, login.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proto::client::{Hello, LoginRequest, LoginResult, ResumeRequest};
use proto::features::KEEPS_TOKENS;
use tokio::time::timeout;

use crate::balancer::{LookupError, lookup_any};
use crate::connection::{Connection, ConnectionError, Login, LoginError, hello};
use crate::tls::TlsConfig;
use crate::token::Shelf;

/// Where the servers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// Base addresses of login servers, which name the gateway to use. If one is of no help, the
    /// next one is asked.
    Login(Vec<String>),
    /// Gateways, as `host:port`. If one is of no help, the next one is tried.
    Gateways(Vec<String>),
}

/// Everything that it takes to log in again and again.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) servers: Servers,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) request: LoginRequest,
    /// Whether the request has a password in it.
    pub(crate) has_password: bool,
    /// What is shown in place of the password, as long as there is one.
    pub(crate) shelf: Shelf,
    /// Shown if there is no token, until there is an answer to it.
    pub(crate) ticket: Mutex<Option<Bytes>>,
    /// The last one that was shown had no answer: a gateway of an older release may not know them.
    pub(crate) had_no_answer: AtomicBool,
    /// For each of: connecting, logging in.
    pub(crate) limit: Duration,
}

/// A connection that is logged in.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) connection: Connection,
    pub(crate) login: Login,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("no gateway is known: {0}")]
    Lookup(#[from] LookupError),
    #[error("cannot connect to a gateway: {0}")]
    Connection(#[from] ConnectionError),
    #[error("{0}")]
    Login(#[from] LoginError),
}

impl DialError {
    /// Whether trying again would not help: the result and the text of the server, if so.
    pub(crate) fn rejection(&self) -> Option<(LoginResult, &str)> {
        let Self::Login(LoginError::Refused { result, text }) = self else { return None };
        match LoginResult::try_from(*result) {
            Ok(result @ (LoginResult::BadCredentials | LoginResult::VersionTooOld)) => {
                Some((result, text))
            }
            _ => None,
        }
    }
}

impl Dialer {
    /// Logs in. `attempt` numbers the tries, so that each begins with another server.
    pub(crate) async fn dial(self: Arc<Self>, attempt: usize) -> Result<Box<Dialed>, DialError> {
        let hello = || Hello { features: Some(KEEPS_TOKENS), ..hello() };
        let mut connection = self.connect_anywhere(attempt).await?;
        if let Some(shown) = self.shown() {
            match connection.resume_with(&shown, hello()).await {
                Ok(login) => return Ok(Box::new(Dialed { connection, login })),
                Err(error) => self.on_not_resumed(&shown, error).await?,
            }
            connection = self.connect_anywhere(attempt).await?;
        }
        let login = connection.login_with(&self.request, Some(hello())).await?;
        Ok(Box::new(Dialed { connection, login }))
    }

    /// Fine if the password is to be tried next.
    async fn on_not_resumed(
        &self,
        shown: &ResumeRequest,
        error: LoginError,
    ) -> Result<(), LoginError> {
        match error {
            LoginError::Refused { result, .. }
                if result == i32::from(LoginResult::BadCredentials) =>
            {
                if let Some(token) = &shown.token {
                    self.shelf.forget(token).await;
                }
                if self.has_password { Ok(()) } else { Err(error) }
            }
            error => {
                let is_silent = matches!(error, LoginError::Connection(ConnectionError::Closed));
                self.had_no_answer.store(is_silent && self.has_password, Ordering::Relaxed);
                // It may not have been used up.
                self.ticket().clone_from(&shown.ticket);
                Err(error)
            }
        }
    }

    fn ticket(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.ticket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be shown in place of the password.
    fn shown(&self) -> Option<ResumeRequest> {
        if self.had_no_answer.swap(false, Ordering::Relaxed) {
            return None;
        }
        let token = self.shelf.token();
        let ticket = if token.is_none() { self.ticket().take() } else { None };
        (token.is_some() || ticket.is_some()).then_some(ResumeRequest {
            token,
            ticket,
            online_status: Some(self.request.online_status),
        })
    }

    async fn connect_anywhere(&self, attempt: usize) -> Result<Connection, DialError> {
        let mut connection = match &self.servers {
            Servers::Login(urls) => {
                let gateway = lookup_any(&turned(urls, attempt), self.tls.as_ref()).await?;
                let port = match &self.tls {
                    Some(_) => gateway.tls_port.unwrap_or(gateway.port),
                    None => gateway.port,
                };
                let hosts = [Some(gateway.host), gateway.backup_host].into_iter().flatten();
                let addrs: Vec<String> = hosts.map(|host| addr(&host, port)).collect();
                self.connect(&addrs).await?
            }
            Servers::Gateways(addrs) => self.connect(&turned(addrs, attempt)).await?,
        };
        connection.set_limit(self.limit);
        Ok(connection)
    }

    /// Connects to the first of `addrs` that can be reached.
    async fn connect(&self, addrs: &[String]) -> Result<Connection, ConnectionError> {
        let mut error = ConnectionError::TimedOut;
        for addr in addrs {
            match timeout(self.limit, Connection::connect(addr, self.tls.as_ref())).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(next)) => error = next,
                Err(_elapsed) => error = ConnectionError::TimedOut,
            }
        }
        Err(error)
    }
}

/// The list, beginning with another element at each attempt.
fn turned(list: &[String], attempt: usize) -> Vec<String> {
    let mut list = list.to_vec();
    if !list.is_empty() {
        let by = attempt % list.len();
        list.rotate_left(by);
    }
    list
}

fn addr(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attempt_begins_with_another_server() {
        let list = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(turned(&list, 0), ["a", "b", "c"]);
        assert_eq!(turned(&list, 4), ["b", "c", "a"]);
        assert!(turned(&[], 4).is_empty());
    }

    #[test]
    fn only_a_refusal_that_stays_one_is_a_rejection() {
        let refused = |result| {
            DialError::Login(LoginError::Refused { result, text: "no".into() })
                .rejection()
                .map(|(result, _)| result)
        };
        assert_eq!(refused(6), Some(LoginResult::BadCredentials));
        assert_eq!(refused(7), Some(LoginResult::VersionTooOld));
        for passing in [1, 2, 3, 4, 5, 99] {
            assert_eq!(refused(passing), None, "{passing}");
        }
        assert!(DialError::Connection(ConnectionError::Closed).rejection().is_none());
    }

    #[test]
    fn an_address_of_version_6_is_written_in_brackets() {
        assert_eq!(addr("im.example.org", 8000), "im.example.org:8000");
        assert_eq!(addr("10.0.0.1", 8000), "10.0.0.1:8000");
        assert_eq!(addr("2001:db8::1", 8000), "[2001:db8::1]:8000");
    }
}
