//! What a client needs to know to trust a server: the certificate authority to believe in.
//!
//! No root certificates of the system are taken. A self-hosted server has an authority of its own,
//! and believing in that one alone is the stronger check.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How to open TLS connections: which certificates to believe, and optionally which name to expect.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

/// Why there is no [`TlsConfig`].
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// The file cannot be read.
    #[error("read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// The text is not PEM.
    #[error("read certificates from PEM")]
    Pem(#[source] pem::Error),
    /// There is no certificate, or one that is no authority.
    #[error("take certificates as authorities")]
    Certificate(#[source] rustls::Error),
    /// The text holds no certificate at all.
    #[error("there is no certificate")]
    Empty,
    /// The name is neither a DNS name nor an address.
    #[error("take a server name")]
    Name(#[source] InvalidDnsNameError),
}

impl TlsConfig {
    /// Believes in the authorities in a PEM file.
    pub fn from_ca_file(path: impl AsRef<Path>) -> Result<Self, TlsConfigError> {
        let path = path.as_ref();
        let pem =
            std::fs::read(path).map_err(|error| TlsConfigError::Read(path.to_owned(), error))?;
        Self::from_ca_pem(&pem)
    }

    /// Believes in the authorities in a PEM text.
    pub fn from_ca_pem(pem: &[u8]) -> Result<Self, TlsConfigError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(TlsConfigError::Pem)?;
            roots.add(certificate).map_err(TlsConfigError::Certificate)?;
        }
        if roots.is_empty() {
            return Err(TlsConfigError::Empty);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsConfigError::Certificate)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self::from(Arc::new(config)))
    }

    /// Expects this name in the server's certificate, instead of the host that is connected to.
    pub fn with_server_name(self, name: &str) -> Result<Self, TlsConfigError> {
        let name = ServerName::try_from(name.to_owned()).map_err(TlsConfigError::Name)?;
        Ok(Self { server_name: Some(name), ..self })
    }

    /// Shakes hands with `host` over `socket`.
    pub(crate) async fn shake(
        &self,
        host: &str,
        socket: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        };
        TlsConnector::from(Arc::clone(&self.config)).connect(name, socket).await
    }
}

impl From<Arc<ClientConfig>> for TlsConfig {
    /// Takes settings made elsewhere, for example with a client certificate.
    fn from(config: Arc<ClientConfig>) -> Self {
        Self { config, server_name: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_certificates_is_refused() {
        assert!(matches!(TlsConfig::from_ca_pem(b""), Err(TlsConfigError::Empty)));
        assert!(matches!(TlsConfig::from_ca_pem(b"hello"), Err(TlsConfigError::Empty)));
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(TlsConfig::from_ca_pem(broken), Err(TlsConfigError::Certificate(_))));
        assert!(matches!(
            TlsConfig::from_ca_file("/nowhere/ca.pem"),
            Err(TlsConfigError::Read(..))
        ));
    }
}
