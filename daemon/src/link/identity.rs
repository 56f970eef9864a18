//! What identifies a daemon, and how it proves that.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use ring::hmac;
use rustls::{ClientConfig, ServerConfig};

use crate::config::ConfigError;
use crate::random::{random_bytes, random_u64};
use crate::tls;

/// What a daemon is for. The numbers are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Role {
    /// Tells clients where to go.
    LoginServer = 1,
    /// A gateway.
    MsgServer = 2,
    /// A replica of the hub.
    RouteServer = 3,
    /// Owns log and store.
    DbProxy = 4,
    /// A person with a tool.
    Admin = 5,
    /// Sends and asks on behalf of programs.
    ApiServer = 6,
    /// Reads the log.
    Consumer = 7,
}

impl Role {
    /// The role with this number on the wire.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::LoginServer),
            2 => Some(Self::MsgServer),
            3 => Some(Self::RouteServer),
            4 => Some(Self::DbProxy),
            5 => Some(Self::Admin),
            6 => Some(Self::ApiServer),
            7 => Some(Self::Consumer),
            _ => None,
        }
    }

    /// The daemon's name, as in `msg_server`.
    pub fn name(self) -> &'static str {
        match self {
            Self::LoginServer => "login_server",
            Self::MsgServer => "msg_server",
            Self::RouteServer => "route_server",
            Self::DbProxy => "db_proxy",
            Self::Admin => "admin",
            Self::ApiServer => "api_server",
            Self::Consumer => "consumer",
        }
    }

    /// The DNS name that a certificate for this role is valid for.
    pub(super) fn certificate_name(self) -> String {
        format!("{}.talkhub", self.name())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a daemon shows to the others.
#[derive(Debug, Clone)]
pub struct Identity {
    /// What it is for.
    pub role: Role,
    /// Its name: no other daemon of the role has it. Cut to 255 bytes on the wire.
    pub name: String,
    /// A random number of this start, which tells it from the start before.
    pub boot: u64,
    /// The key that all daemons of the cluster share.
    pub key: LinkKey,
    /// Certificates, if the links are to be encrypted. Both ends must agree.
    pub tls: Option<LinkTls>,
}

/// The daemon at the other end of a link, as proven by the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What it is for.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// The random number of its start.
    pub boot: u64,
    /// The address at the other end of the socket.
    pub addr: SocketAddr,
}

/// The cluster's key. Never shown.
#[derive(Clone)]
pub struct LinkKey(pub(super) Arc<hmac::Key>);

impl LinkKey {
    /// A key of any length; it should hold 16 bytes of randomness or more.
    pub fn new(key: &[u8]) -> Self {
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key)))
    }

    /// A key that is known only inside this process; for daemons that share one process.
    pub fn random() -> Self {
        Self::new(&random_bytes::<32>())
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey")
    }
}

/// Certificates for both ends of links. Clones share them.
#[derive(Clone)]
pub struct LinkTls(Arc<RwLock<Ends>>);

/// What each end of a link shows and believes.
struct Ends {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Ends {
    fn read(cert: &Path, key: &Path, ca: &Path) -> Result<Self, ConfigError> {
        Ok(Self {
            server: tls::link_server_config(cert, key, ca)?,
            client: tls::link_client_config(cert, key, ca)?,
        })
    }
}

impl LinkTls {
    /// Reads the daemon's certificate, its key, and the cluster's authority.
    pub fn load(cert: &Path, key: &Path, ca: &Path) -> Result<Self, ConfigError> {
        Ok(Self(Arc::new(RwLock::new(Ends::read(cert, key, ca)?))))
    }

    /// Reads them again, for the handshakes that follow: links that are up stay. If that fails, those
    /// that were read before stay in use.
    pub(crate) fn renew(&self, cert: &Path, key: &Path, ca: &Path) -> Result<(), ConfigError> {
        let ends = Ends::read(cert, key, ca)?;
        *self.0.write() = ends;
        Ok(())
    }

    /// For the next handshake of the listening end.
    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.read().server)
    }

    /// For the next handshake of the dialing end.
    pub(super) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0.read().client)
    }
}

impl fmt::Debug for LinkTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkTls")
    }
}

/// A random number for [`Identity::boot`].
pub fn new_boot() -> u64 {
    random_u64()
}
