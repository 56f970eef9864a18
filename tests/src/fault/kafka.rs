//! Several db_proxies that share a log on Kafka: they die and stand still, and so do the brokers.

mod brokers;
mod pulse;
mod takeover;

use backends::{Kafka, MariaDb};

use super::daemons::site_of;
use super::{Scenario, Skipped};
use crate::{KafkaLog, Site, SiteOptions};

/// How many people talk in the crowd.
const PEOPLE: u32 = 12;
/// Partitions of the log.
const PARTITIONS: u32 = 8;
/// The topic that `talkhub up` makes.
const TOPIC: &str = "talkhub";
/// Shown for each partition that a db_proxy owns, and for no other.
const OWNED: &str = "talkhub_db_proxy_log_offset{";

/// The scenarios of this folder.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "takeover",
        about: "two db_proxies on Kafka, then three: kill -9 and SIGSTOP beyond the end of the session in turn: nothing lost or doubled, every partition acknowledges again ≤ 10 s later, no client is told to try again, those that come back as if nothing had been are fenced",
        short: 2,
        long: 100,
        run: takeover::run,
    },
    Scenario {
        name: "brokers",
        about: "three brokers, min.insync.replicas 2: the leader of a partition is killed every 20 s; then two are stopped: nothing is acknowledged until they are back; nothing lost or doubled",
        short: 1,
        long: 15,
        run: brokers::run,
    },
];

/// The log is in programs that are built with it only.
fn needs_kafka() -> Result<(), Skipped> {
    if cfg!(feature = "kafka") {
        return Ok(());
    }
    Err(Skipped("the programs are built without Kafka: `--features kafka`".to_owned()))
}

/// A site of so many db_proxies, whose last users are for the pulse.
fn shared_site(kafka: &Kafka, database: &MariaDb, db_proxies: u16) -> SiteOptions {
    let mut options = site_of(PEOPLE);
    options.cluster.users += pulse::USERS;
    options.cluster.mysql.push(database.fresh_database());
    options.cluster.kafka = Some(KafkaLog {
        bootstrap: kafka.bootstrap(),
        partitions: PARTITIONS,
        is_unsafe: kafka.brokers() < 3,
    });
    options.cluster.db_proxies = db_proxies;
    options
}

/// How many partitions a db_proxy owns; zero if it does not answer.
fn owned(site: &Site, name: &str) -> usize {
    let page = site.metrics(name).unwrap_or_default();
    page.lines().filter(|line| line.starts_with(OWNED)).count()
}

/// How many messages gateways have answered with *retry*, and how many they have refused.
fn turned_away(site: &Site) -> (u64, u64) {
    let count = |outcome: &str| {
        site.metric_sum(
            "msg_server",
            &format!("talkhub_msg_server_sends_total{{outcome={outcome:?}}}"),
        )
    };
    (count("Retry"), count("Refused"))
}
