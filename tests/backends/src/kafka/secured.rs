//! A broker that also listens with TLS, for clients that log in.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use super::{Kafka, wire};
use crate::folder;

/// The user that the broker knows.
const USER: &str = "talkhub";
const PASSWORD: &str = "correct-horse-battery";
const MECHANISM: &str = "SCRAM-SHA-512";

/// One broker that has a listener for SASL_SSL beside the plain one. A client that logs in may do what
/// was [allowed](Self::allow), and one that does not may do everything.
#[derive(Debug)]
pub struct SecuredKafka {
    kafka: Kafka,
    authority: PathBuf,
    _folder: TempDir,
}

impl SecuredKafka {
    /// Starts it.
    pub fn start() -> Self {
        let identity = Identity::new();
        let folder = folder::new("kafka");
        let authority = folder.path().join("authority.pem");
        fs::write(&authority, &identity.authority).expect("write the authority's certificate");

        let login = format!("listener.name.sasl_ssl.{}.sasl.jaas.config", MECHANISM.to_lowercase());
        let settings = [
            (
                "listener.security.protocol.map",
                "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
            ),
            ("sasl.enabled.mechanisms", MECHANISM),
            (&login, "org.apache.kafka.common.security.scram.ScramLoginModule required;"),
            ("ssl.keystore.type", "PEM"),
            ("ssl.keystore.certificate.chain", &one_line(&identity.certificate)),
            ("ssl.keystore.key", &one_line(&identity.key)),
            ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
            ("super.users", "User:ANONYMOUS"),
        ];
        let user = format!("{MECHANISM}=[name={USER},password={PASSWORD}]");
        let kafka = Kafka::start_for(Some(&user), 1, &settings);
        Self { kafka, authority, _folder: folder }
    }

    /// The one that all tests of this process share: each takes topics and groups of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<SecuredKafka> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// The broker, as it is without TLS.
    pub fn plain(&self) -> &Kafka {
        &self.kafka
    }

    /// Where it listens with TLS, as `host:port`.
    pub fn bootstrap(&self) -> String {
        let port = self.kafka.broker(1).secured.as_ref().expect("it was started with one");
        format!("127.0.0.1:{}", port.number)
    }

    /// The certificate of the authority that has signed the broker's, in PEM.
    pub fn authority(&self) -> &Path {
        &self.authority
    }

    /// What a client of the Kafka library is told to get in.
    pub fn settings(&self) -> [(&'static str, String); 5] {
        [
            ("security.protocol", "SASL_SSL".to_owned()),
            ("ssl.ca.location", self.authority.display().to_string()),
            ("sasl.mechanism", MECHANISM.to_owned()),
            ("sasl.username", USER.to_owned()),
            ("sasl.password", PASSWORD.to_owned()),
        ]
    }

    /// Allows these operations, in Kafka's names, to clients that log in.
    pub fn allow(&self, resource: Resource<'_>, operations: &[&str]) {
        let principal = format!("User:{USER}");
        let allowed = wire::allow(self.kafka.port(1), &principal, resource, operations);
        let allowed = allowed.expect("the broker answers");
        allowed.unwrap_or_else(|why| panic!("{operations:?} of {resource:?} are allowed: {why}"));
    }
}

/// What something can be allowed with.
#[derive(Debug, Clone, Copy)]
pub enum Resource<'a> {
    /// A topic.
    Topic(&'a str),
    /// A consumer group.
    Group(&'a str),
}

/// A certificate for 127.0.0.1, its key and the certificate that signed it, in PEM.
struct Identity {
    authority: String,
    certificate: String,
    key: String,
}

impl Identity {
    fn new() -> Self {
        let key = || KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new([]).expect("no names are wrong");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A certificate with the name of its issuer would be taken for one that signs itself.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let authority = CertifiedIssuer::self_signed(params, key()).expect("it signs itself");
        let own = key();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("it is an address");
        let certificate = params.signed_by(&own, &authority).expect("it is signed");
        Self {
            authority: authority.pem(),
            certificate: certificate.pem(),
            key: own.serialize_pem(),
        }
    }
}

/// As the value of a property.
fn one_line(pem: &str) -> String {
    pem.replace('\n', "\\n")
}
