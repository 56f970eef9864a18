//! The arguments of `talkhub up` that say what is behind the gateways.

use clap::Args;
use db_proxy::PARTITIONS_MAX;

use super::plan::KafkaLog;
use super::ports::DB_PROXIES_MAX;
use crate::failure::Failure;

/// Partitions of a log on Kafka, if nothing else is said.
const PARTITIONS: u32 = 8;

/// Where everything is logged, stored and cached, if not in the data folder.
#[derive(Debug, Args)]
pub struct StorageArgs {
    /// Stores in a MySQL or MariaDB database, mysql://USER:PASSWORD@HOST/DATABASE; once for each shard
    #[arg(long, value_name = "URL")]
    pub mysql: Vec<String>,
    /// Caches in a Redis, redis://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Keeps the log on Kafka, in the topic `talkhub`, which is made; needs --mysql
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// Partitions of that log, 8 if not given; fixed once it is made
    #[arg(long, value_name = "N", requires = "kafka",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(PARTITIONS_MAX)))]
    pub kafka_partitions: Option<u32>,
    /// Takes a Kafka that may lose what was acknowledged, such as a single broker; for trying
    #[arg(long, requires = "kafka")]
    pub kafka_unsafe: bool,
    /// How many db_proxies; more than one needs --kafka
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(DB_PROXIES_MAX)))]
    pub db_proxies: u16,
}

impl StorageArgs {
    /// What the arguments alone cannot rule out.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.kafka.is_some() && self.mysql.is_empty() {
            return Err(Failure::config(
                "--kafka needs --mysql: db_proxies that share a log share a database",
            ));
        }
        if self.db_proxies > 1 && self.kafka.is_none() {
            return Err(Failure::config(
                "--db-proxies above 1 needs --kafka: the log in a data folder has one owner",
            ));
        }
        Ok(())
    }

    /// The log on Kafka, if it is to be there.
    pub(super) fn kafka_log(&self) -> Option<KafkaLog> {
        self.kafka.as_ref().map(|bootstrap| KafkaLog {
            bootstrap: bootstrap.clone(),
            partitions: self.kafka_partitions.unwrap_or(PARTITIONS),
            allow_unsafe: self.kafka_unsafe,
        })
    }
}
