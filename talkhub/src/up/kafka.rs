//! The topic of a log on Kafka, which is there before the first daemon starts.

use super::plan::KafkaLog;
use crate::failure::Failure;

/// Makes the topic, unless there is one that can keep the promise.
#[cfg(feature = "kafka")]
pub(super) async fn make_topic(log: &KafkaLog) -> Result<(), Failure> {
    use record_log::kafka::{ConnectError, NewTopic, Options, ensure_topic};

    use super::plan::TOPIC;

    let mut options = Options::new(log.bootstrap.clone(), TOPIC, log.partitions);
    options.allow_unsafe_topic = log.allow_unsafe;
    let making = tokio::task::spawn_blocking(move || ensure_topic(&options, NewTopic::default()));
    let made = making.await;
    match made.map_err(|error| Failure::new(format!("the topic on Kafka: {error}")))? {
        Ok(_is_new) => Ok(()),
        Err(ConnectError::Away(why)) => Err(Failure::new(why)),
        Err(ConnectError::Refused(why)) => {
            let way_out = if log.allow_unsafe { "" } else { "; --kafka-unsafe is for trying" };
            Err(Failure::config(format!("{why}{way_out}")))
        }
    }
}

/// Says what is missing.
#[cfg(not(feature = "kafka"))]
#[expect(clippy::unused_async, reason = "with Kafka it waits")]
pub(super) async fn make_topic(log: &KafkaLog) -> Result<(), Failure> {
    Err(Failure::config(format!(
        "--kafka {}: this program is built without Kafka; build it with `--features kafka`",
        log.bootstrap
    )))
}
