//! Where programs go on that read the topic by themselves, each as a consumer group of its own. The fold is
//! none of them, and goes by what the store says; nor are the consumers that a db_proxy serves.

use std::time::Duration;

use proto::ids::Offset;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset as Place, TopicPartitionList};

use super::client::{self, kafkas};
use super::{ConnectError, KafkaTopic};
use crate::LogReader as _;

/// How long the group's coordinator may take to be found.
const COORDINATOR_LIMIT: Duration = Duration::from_secs(15);

impl KafkaTopic {
    /// Lets the group `consumer` go on from `from` in these partitions, or from the nearest offset that
    /// there is. Returns where it goes on in each. The group must have no members meanwhile.
    pub fn replay(
        &self,
        consumer: &str,
        from: Offset,
        partitions: impl Iterator<Item = u32>,
    ) -> Result<Vec<(u32, Offset)>, ConnectError> {
        let options = self.options();
        let own = [options.group.clone(), client::applied_group(options)];
        if consumer.is_empty() || own.iter().any(|own| own == consumer) {
            return Err(ConnectError::Refused(format!(
                "{consumer:?} is no consumer that can be set back: the fold goes by the store"
            )));
        }
        let away = |error: &dyn std::fmt::Display| ConnectError::Away(error.to_string());
        let mut places = TopicPartitionList::new();
        let mut goes_on = Vec::new();
        for partition in partitions {
            let log = self.partition(partition).look().map_err(|error| away(&error))?;
            let (first, next) = log.range();
            let place = from.clamp(first, next);
            let added = places.add_partition_offset(
                &options.topic,
                client::partition_number(partition),
                Place::Offset(kafkas(place)),
            );
            added.map_err(|error| away(&error))?;
            goes_on.push((partition, place));
        }
        let mut config = client::config(options);
        config.set("group.id", consumer).set("enable.auto.commit", "false");
        let group: BaseConsumer = config.create().map_err(|error| away(&error))?;
        // The first question finds the broker that keeps the group's offsets.
        let found = group.committed_offsets(places.clone(), COORDINATOR_LIMIT);
        found.map_err(|error| away(&error))?;
        group.commit(&places, CommitMode::Sync).map_err(|error| {
            let has_members = [
                RDKafkaErrorCode::UnknownMemberId,
                RDKafkaErrorCode::IllegalGeneration,
                RDKafkaErrorCode::RebalanceInProgress,
            ];
            match error.rdkafka_error_code() {
                Some(code) if has_members.contains(&code) => ConnectError::Refused(format!(
                    "the consumer {consumer} is running: stop it, and then set it back"
                )),
                _ => away(&error),
            }
        })?;
        Ok(goes_on)
    }
}
