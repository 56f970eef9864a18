//! The same over TLS: login, chat, and `kill -9` of a gateway.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use client::{ClientType, Connection, Conversation, Servers, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tests::{Cluster, Crowd, Device, Options, PASSWORD, PATIENCE, wait_until};

#[tokio::test]
async fn people_log_in_and_talk_over_tls_and_to_those_without() {
    let files = Files::new();
    let cluster = files.cluster(20);
    let tls = files.believed();
    let told = client::lookup(&cluster.login_tls, Some(&tls)).await.expect("a gateway");
    assert!(told.tls_port.is_some(), "who asks over https is told where TLS is spoken");
    let [here, there] = &cluster.gateways_tls[..] else { panic!("there are two gateways") };
    let mut anna = Device::log_in_over(here, Some(&tls), 1, ClientType::Mac).await;
    let mut ben = Device::log_in_over(there, Some(&tls), 2, ClientType::Windows).await;
    let mut old_phone = Device::mobile(&cluster.gateways[1], 2).await;
    for number in 1..=20 {
        let text = format!("secret {number}");
        assert_eq!(anna.say(Conversation::user(2), &text).await, 2 * number - 1);
        ben.hears(1, Conversation::user(2), &text).await;
        old_phone.hears(1, Conversation::user(2), &text).await;
        assert_eq!(ben.say(Conversation::user(1), &text).await, 2 * number);
        anna.hears(2, Conversation::user(1), &text).await;
    }
    let long = "x".repeat(40_000);
    anna.say(Conversation::group(1), &long).await;
    ben.hears(1, Conversation::group(1), &long).await;
    assert_eq!(ben.texts(Conversation::user(1)).await.len(), 40);
}

#[test]
fn nothing_acknowledged_over_tls_is_lost_when_a_gateway_is_killed() {
    const PEOPLE: u32 = 8;
    let files = Files::new();
    let cluster = files.cluster(PEOPLE);
    let tls = files.believed();
    let mut crowd = Crowd::start(&cluster.login_tls, Some(&tls), PEOPLE);
    crowd.wait_for_acks(40);
    for name in ["msg_server-1", "msg_server-2", "msg_server-1"] {
        cluster.kill_and_wait(name);
        crowd.wait_for_acks(40);
    }
    let summary = crowd.finish(&cluster.gateways_tls[1], Some(&tls));
    assert!(summary.acked >= 160 && summary.reconnects >= 3, "{summary:?}");
}

#[tokio::test]
async fn the_wrong_authority_and_plain_text_get_nowhere() {
    let files = Files::new();
    let cluster = files.cluster(20);
    let gateway = &cluster.gateways_tls[0];
    let stranger = Files::new().believed();
    let refused = Connection::connect(gateway, Some(&stranger)).await;
    assert!(refused.is_err(), "a certificate of somebody else is not believed");
    assert!(client::lookup(&cluster.login_tls, Some(&stranger)).await.is_err());
    // Plain text on the port for TLS, and the other way round.
    let mut plain = Connection::connect(gateway, None).await.expect("TCP connects");
    let login = plain.login("u1", PASSWORD, ClientType::Mac, None).await;
    assert!(login.is_err(), "nobody logs in without TLS there: {login:?}");
    let turned = Connection::connect(&cluster.gateways[0], Some(&files.believed())).await;
    assert!(turned.is_err(), "the plain port speaks no TLS");
    // Clients that do it right notice nothing.
    let mut right = Device::log_in_over(gateway, Some(&files.believed()), 1, ClientType::Mac).await;
    right.say(Conversation::user(2), "still here").await;
    // What was opened and is not closed is what is open, whatever became of it.
    drop(plain);
    let number = |name: &str| cluster.metric("msg_server-1", &format!("talkhub_msg_server_{name}"));
    wait_until("those that have left are counted", PATIENCE, || {
        let (opened, closed) = (number("opened_total"), number("closed_total"));
        opened >= 3 && opened == closed + number("connections") && number("connections") == 1
    });
}

#[tokio::test]
async fn a_client_with_tls_never_falls_back_to_plain_text() {
    let files = Files::new();
    let cluster = files.cluster(20);
    let servers = Servers::Gateways(vec![cluster.gateways[0].clone()]);
    let mut options = client::Options::new(servers, "u1", PASSWORD);
    options.tls = Some(files.believed());
    let (client, mut events) = client::Client::start(options).await.expect("it starts");
    // Not at once, and not when it has failed for a while.
    for attempt in 0..3 {
        let event =
            tokio::time::timeout(PATIENCE, events.next()).await.expect("an attempt is made");
        assert!(matches!(event, Some(client::Event::Disconnected { .. })), "{attempt}: {event:?}");
        assert_eq!(client.user(), None);
    }
}

#[tokio::test]
async fn both_ports_show_a_new_certificate_once_they_are_told_to_reload() {
    let files = Files::new();
    let cluster = files.cluster(20);
    let gateway = &cluster.gateways_tls[0];
    let mut early = Device::log_in_over(gateway, Some(&files.believed()), 1, ClientType::Mac).await;
    files.write();
    let believed = files.believed();
    let looks_up = async || client::lookup(&cluster.login_tls, Some(&believed)).await.is_ok();
    let connects = async || Connection::connect(gateway, Some(&believed)).await.is_ok();
    assert!(!looks_up().await && !connects().await, "not before they are told");
    for name in ["login_server", "msg_server-1"] {
        cluster.reload(name);
    }
    let both_show_it = async {
        while !looks_up().await || !connects().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, both_show_it).await.expect("the new certificate is shown");
    assert_eq!(early.say(Conversation::user(2), "still here").await, 1);
}

/// An authority, and a certificate of it for this machine.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: TempDir::new().expect("make a folder") };
        files.write();
        files
    }

    /// Makes new ones in their place.
    fn write(&self) {
        const FINE: &str = "certificates can be made";
        let mut authority = CertificateParams::new(Vec::new()).expect(FINE);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect(FINE);
        let authority = CertifiedIssuer::self_signed(authority, key).expect(FINE);
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect(FINE);
        let key = KeyPair::generate().expect(FINE);
        let cert = params.signed_by(&key, &authority).expect(FINE);
        let files = [
            ("ca.pem", authority.pem()),
            ("cert.pem", cert.pem()),
            ("key.pem", key.serialize_pem()),
        ];
        for (name, text) in files {
            fs::write(self.path(name), text).expect(FINE);
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn cluster(&self, group: u32) -> Cluster {
        let tls = Some((self.path("cert.pem"), self.path("key.pem")));
        Cluster::start_with(&Options { group, tls, ..Options::default() })
    }

    fn believed(&self) -> TlsConfig {
        TlsConfig::from_ca_file(self.path("ca.pem")).expect("a certificate that was just made")
    }
}
