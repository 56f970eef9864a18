//! Links under TLS: whose certificates count, and what a reload does.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daemon::config::ClusterTlsConfig;
use daemon::link::LinkTls;
use daemon::{
    ClusterConfig, ConfigError, Context, Identity, Metrics, ProcessConfig, Role, Secret, Settings,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{ASK, Number, Party, SOON, any_port, identity, refused};

/// Certificates of one authority, as files.
struct Authority {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        Self::over(tempfile::TempDir::new().expect("certificates can be made"))
    }

    /// Another authority, in the same files.
    fn over(dir: tempfile::TempDir) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("certificates can be made");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(
            params,
            KeyPair::generate().expect("certificates can be made"),
        )
        .expect("certificates can be made");
        fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("certificates can be made");
        Self { dir, issuer }
    }

    fn ca(&self) -> std::path::PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for `role`, trusting the authority in `ca`.
    fn tls(&self, role: &str, ca: &Path) -> LinkTls {
        let mut params = CertificateParams::new(vec![format!("{role}.talkhub")])
            .expect("certificates can be made");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("certificates can be made");
        let cert = params.signed_by(&key, &self.issuer).expect("certificates can be made");
        let file = |end: &str| self.dir.path().join(format!("{role}.{end}"));
        fs::write(file("pem"), cert.pem()).expect("certificates can be made");
        fs::write(file("key"), key.serialize_pem()).expect("certificates can be made");
        LinkTls::load(&file("pem"), &file("key"), ca).expect("certificates can be made")
    }
}

/// The settings of a daemon whose certificates are those of an authority.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    cluster: ClusterConfig,
    process: ProcessConfig,
}

impl Settings for Config {
    const NAME: &'static str = "test";

    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn process(&self) -> &ProcessConfig {
        &self.process
    }
}

impl Party {
    /// Its identity with the certificates that are in the folder, and what reads its settings again.
    fn renewed(&self, role: Role, folder: &Path) -> (Identity, watch::Sender<Arc<Config>>) {
        let file = |end: &str| folder.join(format!("{role}.{end}"));
        let files =
            ClusterTlsConfig { cert: file("pem"), key: file("key"), ca: folder.join("ca.pem") };
        let key = Some(Secret::new("a key of this test"));
        let cluster = ClusterConfig { key, tls: Some(files), ..ClusterConfig::default() };
        let settings = Config { cluster, process: ProcessConfig::default() };
        let (reload, reloads) = watch::channel(Arc::new(settings.clone()));
        let (shutdown, metrics) = (self.shutdown.clone(), Metrics::new("test"));
        let boot = daemon::link::new_boot();
        let context = Context { settings, shutdown, reloads, metrics, boot };
        (context.link_identity(role, |config| &config.cluster).expect("right files"), reload)
    }
}

fn read_again(reload: &watch::Sender<Arc<Config>>) {
    reload.send_modify(|_same_files| {});
}

#[tokio::test]
async fn a_reload_renews_the_certificates_of_both_ends_and_leaves_the_links_that_are_up() {
    let first = Authority::new();
    first.tls("db_proxy", &first.ca());
    first.tls("msg_server", &first.ca());
    let (store, mut gateway, mut late) = (Party::new(), Party::new(), Party::new());
    let (listener, renew_listener) = store.renewed(Role::DbProxy, first.dir.path());
    let (dialer, renew_dialer) = gateway.renewed(Role::MsgServer, first.dir.path());
    let addr = store.listen(any_port(), listener).await;
    gateway.dial(addr, dialer);
    let link = gateway.up().await;

    let second = Authority::over(first.dir);
    second.tls("db_proxy", &second.ca());
    second.tls("msg_server", &second.ca());
    read_again(&renew_listener);
    // It has only ever seen the new ones, and believes no other.
    let (newcomer, _never) = late.renewed(Role::MsgServer, second.dir.path());
    late.dial(addr, newcomer);
    late.up().await;
    let answer: Number = link.call(ASK, &Number { value: 1 }, SOON).await.unwrap();
    assert_eq!(answer.value, 2, "the old link is up");

    read_again(&renew_dialer);
    link.reset("the test dials again");
    gateway.down().await;
    gateway.up().await;
    for party in [late, gateway, store] {
        party.stop().await;
    }
}

fn with_tls(role: Role, tls: LinkTls) -> Identity {
    Identity { tls: Some(tls), ..identity(role, "key") }
}

#[tokio::test]
async fn under_tls_a_link_works_as_without() {
    let authority = Authority::new();
    let (store, mut gateway) = (Party::new(), Party::new());
    let listener = with_tls(Role::DbProxy, authority.tls("db_proxy", &authority.ca()));
    let addr = store.listen(any_port(), listener).await;
    gateway.dial(addr, with_tls(Role::MsgServer, authority.tls("msg_server", &authority.ca())));
    let link = gateway.up().await;
    let answer: Number = link.call(ASK, &Number { value: 1 }, SOON).await.unwrap();
    assert_eq!(answer.value, 2);
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test]
async fn a_certificate_for_another_role_makes_no_link() {
    let authority = Authority::new();
    let listener = with_tls(Role::DbProxy, authority.tls("db_proxy", &authority.ca()));
    refused(listener, with_tls(Role::MsgServer, authority.tls("login_server", &authority.ca())))
        .await;
}

/// The dialer cannot even begin: the listener never sees a link, and the dialer goes on trying.
async fn no_tls(listener: Identity, dialer: Identity) {
    let (mut store, mut gateway) = (Party::new(), Party::new());
    store.options.handshake_limit = Duration::from_millis(500);
    let relay = TcpListener::bind(any_port()).await.expect("the ends connect");
    let addr = store.listen(any_port(), listener).await;
    gateway.dial(relay.local_addr().expect("the ends connect"), dialer);
    for _attempt in 0..2 {
        let (mut near, _) = relay.accept().await.expect("the ends connect");
        let mut far = TcpStream::connect(addr).await.expect("the ends connect");
        tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
    }
    assert!(store.events.try_recv().is_err() && gateway.events.try_recv().is_err());
    gateway.stop().await;
    store.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_makes_no_link() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let listener = with_tls(Role::DbProxy, ours.tls("db_proxy", &ours.ca()));
    no_tls(listener, with_tls(Role::MsgServer, theirs.tls("msg_server", &ours.ca()))).await;
}

#[tokio::test]
async fn without_tls_there_is_no_link_to_a_listener_that_has_it() {
    let authority = Authority::new();
    let listener = with_tls(Role::DbProxy, authority.tls("db_proxy", &authority.ca()));
    no_tls(listener, identity(Role::MsgServer, "key")).await;
}
