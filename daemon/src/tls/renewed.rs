//! The certificate of a port that clients connect to, read again with each reload of the settings.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tracing::{error, info, info_span};

use crate::config::{ConfigError, ListenTlsConfig, Settings};
use crate::follow;
use crate::shutdown::Shutdown;

/// The newest certificate that could be read. Connections that are open keep the one they began with.
pub struct RenewedTls {
    newest: RwLock<TlsAcceptor>,
}

impl std::fmt::Debug for RenewedTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RenewedTls")
    }
}

impl RenewedTls {
    /// Reads the files for the first time.
    pub fn read(files: &ListenTlsConfig) -> Result<Arc<Self>, ConfigError> {
        Ok(Arc::new(Self { newest: RwLock::new(acceptor(files)?) }))
    }

    /// For the next handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.newest.read().clone()
    }

    /// Reads the files that `pick` names again with each reload. Files that cannot be used are told in one
    /// line, and the old certificate stays.
    pub fn follow<S: Settings>(
        self: &Arc<Self>,
        reloads: &watch::Receiver<Arc<S>>,
        shutdown: &Shutdown,
        pick: fn(&S) -> Option<&ListenTlsConfig>,
    ) {
        let tls = Arc::clone(self);
        follow::each_reload(info_span!("certificate"), reloads, shutdown, move |settings| {
            if let Some(files) = pick(settings) {
                tls.renew(files);
            }
        });
    }

    fn renew(&self, files: &ListenTlsConfig) {
        match acceptor(files) {
            Ok(acceptor) => {
                *self.newest.write() = acceptor;
                info!("certificate read again");
            }
            Err(error) => error!(%error, "the old certificate stays"),
        }
    }
}

fn acceptor(files: &ListenTlsConfig) -> Result<TlsAcceptor, ConfigError> {
    Ok(TlsAcceptor::from(super::server_config(&files.cert, &files.key)?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use rustls::pki_types::CertificateDer;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::config::testing::TestConfig;

    /// Writes another certificate under the same name, and returns it.
    fn make(folder: &Path) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(vec!["gate.example".to_owned()]).unwrap();
        fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
        fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    }

    /// The certificate that is seen by a client that believes the one in the file.
    async fn seen(tls: &RenewedTls, believed: &Path) -> Option<CertificateDer<'static>> {
        let (near, far) = tokio::io::duplex(16 << 10);
        let connector = TlsConnector::from(super::super::client_config(Some(believed)).unwrap());
        let name = "gate.example".try_into().unwrap();
        let acceptor = tls.acceptor();
        let (client, _server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        let client = client.ok()?;
        let (_io, state) = client.get_ref();
        Some(state.peer_certificates()?.first()?.clone().into_owned())
    }

    #[tokio::test]
    async fn a_reload_brings_the_new_certificate_and_a_broken_file_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let first = make(folder.path());
        let listen = "127.0.0.1:0".parse().unwrap();
        let files = ListenTlsConfig { listen, cert: cert.clone(), key: key.clone() };
        let config = Arc::new(TestConfig { tls: Some(files.clone()), ..TestConfig::default() });
        let (reload, reloads) = watch::channel(Arc::clone(&config));
        let (tls, shutdown) = (RenewedTls::read(&files).unwrap(), Shutdown::default());
        tls.follow(&reloads, &shutdown, |config: &TestConfig| config.tls.as_ref());
        assert_eq!(seen(&tls, &cert).await, Some(first));

        let second = make(folder.path());
        assert_eq!(seen(&tls, &cert).await, None, "not before a reload");
        reload.send_replace(Arc::clone(&config));
        let renewed = async {
            while seen(&tls, &cert).await.as_ref() != Some(&second) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), renewed).await.unwrap();

        let believed = folder.path().join("believed.pem");
        fs::copy(&cert, &believed).unwrap();
        fs::write(&key, "no key").unwrap();
        tls.renew(&files);
        assert_eq!(seen(&tls, &believed).await, Some(second));
        shutdown.begin();
        shutdown.drain(Duration::from_secs(5)).await.unwrap();
    }
}
