//! What a client is told, as the JSON that TeamTalk clients read.

use serde::Serialize;

use crate::config::Config;
use crate::gateways::{Choice, ClientAddress};

const NOWHERE: u32 = 1;
const FULL: u32 = 2;

/// The answer's JSON object. Android demands `backupIP` and `msfsBackup`; `port` is a string, as
/// every client expects. `tlsPort` is ours: older clients skip it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Success<'a> {
    code: u32,
    msg: &'a str,
    #[serde(rename = "priorIP")]
    prior_ip: &'a str,
    #[serde(rename = "backupIP")]
    backup_ip: &'a str,
    port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_port: Option<String>,
    msfs_prior: &'a str,
    msfs_backup: &'a str,
    discovery: &'a str,
}

#[derive(Debug, Serialize)]
struct Refusal<'a> {
    code: u32,
    /// Shown to the user.
    msg: &'a str,
}

/// The body of an answer.
pub(crate) fn json(choice: &Choice<'_>, config: &Config) -> String {
    match *choice {
        Choice::Given { address, .. } => encode(&success(address, config)),
        Choice::Nowhere => encode(&Refusal {
            code: NOWHERE,
            msg: "No chat server is running. Please try again later.",
        }),
        Choice::Full => encode(&Refusal {
            code: FULL,
            msg: "All chat servers are full. Please try again later.",
        }),
    }
}

fn success<'a>(address: &'a ClientAddress, config: &'a Config) -> Success<'a> {
    let Config { msfs_prior, msfs_backup, discovery, .. } = config;
    Success {
        code: 0,
        msg: "",
        prior_ip: &address.host,
        backup_ip: address.backup_host.as_ref().unwrap_or(&address.host),
        port: address.port.to_string(),
        tls_port: address.tls_port.map(|port| port.to_string()),
        msfs_prior,
        msfs_backup: if msfs_backup.is_empty() { msfs_prior } else { msfs_backup },
        discovery,
    }
}

fn encode(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).expect("strings and numbers are always JSON")
}
