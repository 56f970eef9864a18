//! TLS settings from PEM files: rustls with the ring provider, and no early data anywhere, since
//! what arrives before the handshake is complete can be replayed.

mod renewed;

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::config::ConfigError;

pub use renewed::RenewedTls;

/// Where Debian keeps the authorities that browsers trust.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// TLS 1.3, and 1.2 for clients that have nothing better.
const FOR_CLIENTS: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];
/// Both ends of a link are ours.
const FOR_LINKS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// For a port that clients connect to.
pub fn server_config(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, ConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(FOR_CLIENTS)
        .map_err(|error| wrong(cert, &error))?
        .with_no_client_auth()
        .with_single_cert(certificates(cert)?, private_key(key)?)
        .map_err(|error| wrong(cert, &error))?;
    // Tickets instead of a table: a storm of clients that come back costs no memory here.
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(|error| wrong(cert, &error))?;
    Ok(Arc::new(config))
}

/// For connecting to such a port: trusts the authorities in `ca`, or those of the system.
pub fn client_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, ConfigError> {
    let ca = ca.unwrap_or(Path::new(SYSTEM_AUTHORITIES));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(FOR_CLIENTS)
        .map_err(|error| wrong(ca, &error))?
        .with_root_certificates(authorities(ca)?)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// For the listening end of links: the peer must show a certificate of the cluster's authority.
pub fn link_server_config(
    cert: &Path,
    key: &Path,
    ca: &Path,
) -> Result<Arc<ServerConfig>, ConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(authorities(ca)?.into(), Arc::clone(&provider))
            .build()
            .map_err(|error| wrong(ca, &error))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(FOR_LINKS)
        .map_err(|error| wrong(cert, &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(cert)?, private_key(key)?)
        .map_err(|error| wrong(cert, &error))?;
    Ok(Arc::new(config))
}

/// For the dialing end of links: shows its own certificate, trusts the cluster's authority only.
pub(crate) fn link_client_config(
    cert: &Path,
    key: &Path,
    ca: &Path,
) -> Result<Arc<ClientConfig>, ConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(authorities(ca)?.into(), Arc::clone(&provider))
            .build()
            .map_err(|error| wrong(ca, &error))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(FOR_LINKS)
        .map_err(|error| wrong(cert, &error))?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(certificates(cert)?, private_key(key)?)
        .map_err(|error| wrong(cert, &error))?;
    Ok(Arc::new(config))
}

fn wrong(file: &Path, problem: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::general(Some(file.display().to_string()), problem.to_string())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let found = CertificateDer::pem_file_iter(file).map_err(|error| wrong(file, &error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| wrong(file, &error))?;
    if found.is_empty() {
        return Err(wrong(file, &"holds no certificate in PEM"));
    }
    Ok(found)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| wrong(file, &error))
}

fn authorities(file: &Path) -> Result<RootCertStore, ConfigError> {
    let mut store = RootCertStore::empty();
    // The system's collection may hold one that we cannot read; then the others still count.
    let (added, _ignored) = store.add_parsable_certificates(certificates(file)?);
    if added == 0 {
        return Err(wrong(file, &"holds no authority that can be used"));
    }
    Ok(store)
}
