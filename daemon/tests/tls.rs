//! TLS on the ports for clients: what gets through, and what does not.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use daemon::tls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// An authority, and a certificate of it for `gateway.example`.
struct Files {
    dir: TempDir,
}

impl Files {
    fn new(valid_until: i32) -> Self {
        const FINE: &str = "certificates can be made";
        let dir = TempDir::new().expect(FINE);
        let mut authority = CertificateParams::new(Vec::new()).expect(FINE);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect(FINE);
        let authority = CertifiedIssuer::self_signed(authority, key).expect(FINE);
        let mut params = CertificateParams::new(vec!["gateway.example".to_owned()]).expect(FINE);
        params.not_after = date_time_ymd(valid_until, 1, 1);
        let key = KeyPair::generate().expect(FINE);
        let cert = params.signed_by(&key, &authority).expect(FINE);
        for (name, text) in [
            ("ca.pem", authority.pem()),
            ("cert.pem", cert.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            fs::write(dir.path().join(name), text).expect(FINE);
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn server(&self) -> Arc<ServerConfig> {
        tls::server_config(&self.path("cert.pem"), &self.path("key.pem")).expect("right files")
    }

    fn client(&self) -> Arc<ClientConfig> {
        tls::client_config(Some(&self.path("ca.pem"))).expect("a right file")
    }
}

/// Whether a message gets from one end to the other.
async fn talks(server: Arc<ServerConfig>, client: Arc<ClientConfig>, name: &'static str) -> bool {
    let (near, far) = duplex(1 << 16);
    let name = name.try_into().expect("a name");
    let listen = async {
        let mut socket = TlsAcceptor::from(server).accept(far).await?;
        socket.read_u8().await
    };
    let dial = async {
        let mut socket = TlsConnector::from(client).connect(name, near).await?;
        socket.write_u8(7).await?;
        socket.flush().await?;
        // Kept until the other end has read: it may still have something to write.
        Ok::<_, io::Error>(socket)
    };
    let (heard, said) = tokio::join!(listen, dial);
    said.is_ok() && heard.is_ok_and(|byte| byte == 7)
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_gets_through() {
    let files = Files::new(4000);
    assert!(talks(files.server(), files.client(), "gateway.example").await);
    assert!(!talks(files.server(), files.client(), "other.example").await, "another host's name");
    let strangers = Files::new(4000);
    assert!(!talks(files.server(), strangers.client(), "gateway.example").await);
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let files = Files::new(2020);
    assert!(!talks(files.server(), files.client(), "gateway.example").await);
}

#[tokio::test]
async fn clients_may_use_1_2_and_links_may_not() {
    let files = Files::new(4000);
    let mut roots = RootCertStore::empty();
    let ca = fs::read(files.path("ca.pem")).unwrap();
    let ca = rustls::pki_types::pem::PemObject::from_pem_slice(&ca).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = Arc::new(old);
    assert!(talks(files.server(), Arc::clone(&old), "gateway.example").await);

    let (cert, key, ca) = (files.path("cert.pem"), files.path("key.pem"), files.path("ca.pem"));
    let link = tls::link_server_config(&cert, &key, &ca).unwrap();
    assert!(!talks(Arc::clone(&link), old, "gateway.example").await, "links are 1.3 only");
    assert!(!talks(link, files.client(), "gateway.example").await, "no certificate of its own");
}

#[tokio::test]
async fn early_data_is_never_taken() {
    let files = Files::new(4000);
    assert_eq!(files.server().max_early_data_size, 0);
    assert!(!files.client().enable_early_data);
}

#[tokio::test]
async fn plain_text_is_refused() {
    let files = Files::new(4000);
    let (mut near, far) = duplex(1 << 16);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let accepted = TlsAcceptor::from(files.server()).accept(far).await;
    accepted.map(drop).expect_err("this is no TLS");
}

#[test]
fn a_wrong_file_is_named() {
    let files = Files::new(4000);
    let (cert, key) = (files.path("cert.pem"), files.path("key.pem"));
    let error = |cert: &PathBuf, key: &PathBuf| {
        tls::server_config(cert, key).expect_err("a wrong file").to_string()
    };
    assert!(error(&files.path("nowhere.pem"), &key).contains("nowhere.pem: "));
    assert!(error(&cert, &cert).contains("cert.pem: "));
    assert!(error(&key, &key).contains("key.pem: holds no certificate in PEM"));
}
