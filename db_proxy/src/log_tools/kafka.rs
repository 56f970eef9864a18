//! What is in a topic: each partition, its owner, and how far the store is.

use std::io::Write;
use std::ops::{ControlFlow, Range};

use daemon::{BoxError, StartRefused};
use partition::open::OpenError;
use record_log::kafka::{ConnectError, KafkaTopic, KafkaView};
use record_log::{LogError, LogReader as _};
use store::Claimed;
use store::mysql::MySqlStore;
use tokio::runtime::Handle;

use super::health::{Health, pairing};
use super::records::{Check, Replay, Shown, list};
use crate::config::Config;

/// Prints one line for each partition, and the records asked for.
pub(super) fn inspect(
    config: &Config,
    shown: Shown,
    out: &mut dyn Write,
) -> Result<Health, BoxError> {
    let site = Site::reach(config, shown)?;
    writeln!(out, "topic       {} at {}", config.kafka.topic, config.kafka.bootstrap)?;
    writeln!(out, "partition   records               store applied         lag  epoch  owner")?;
    for partition in site.partitions.clone() {
        let claimed = site.claimed(partition);
        let log = site.look(partition)?;
        let (first, next) = log.range();
        let records = format!("{} to {}", first.0, next.0 - 1);
        match &claimed {
            Ok(Some(Claimed { owner, progress, .. })) => {
                let (applied, epoch) = (progress.applied.0, progress.epoch);
                let lag = (next.0 - 1).saturating_sub(applied);
                writeln!(
                    out,
                    "{partition:<10}  {records:<20}  {applied:<14}  {lag:>9}  {epoch:<5}  {owner}"
                )?;
            }
            Ok(None) => writeln!(out, "{partition:<10}  {records:<20}  never owned")?,
            Err(why) => writeln!(out, "{partition:<10}  {records:<20}  not asked: {why}")?,
        }
        if shown.lists() {
            writeln!(out)?;
            list(&log, shown, out)?;
            writeln!(out)?;
        }
    }
    Ok(Health::Fine)
}

/// Reads every record of every partition, and prints whether they are as they should be.
pub(super) fn verify(
    config: &Config,
    shown: Shown,
    out: &mut dyn Write,
) -> Result<Health, BoxError> {
    let site = Site::reach(config, shown)?;
    let mut health = Health::Fine;
    for partition in site.partitions.clone() {
        writeln!(out, "partition   {partition} of the topic {}", config.kafka.topic)?;
        if !site.verify(partition, out)? {
            health = Health::Damaged;
        }
    }
    let summary = match health {
        Health::Fine => "all is well",
        Health::Damaged => "NOT WELL: see above. Nothing was changed",
    };
    writeln!(out, "{summary}")?;
    Ok(health)
}

/// Lets another consumer go on from an offset.
pub(super) fn replay(
    config: &Config,
    replay: Replay<'_>,
    out: &mut dyn Write,
) -> Result<Health, BoxError> {
    let Replay { consumer, from, partition } = replay;
    let partitions = chosen(config, partition)?;
    let topic = KafkaTopic::connect(config.kafka.options()).map_err(unusable)?;
    writeln!(out, "partition   {consumer} goes on from")?;
    for (partition, from) in topic.replay(consumer, from, partitions).map_err(unusable)? {
        writeln!(out, "{partition:<10}  {}", from.0)?;
    }
    Ok(Health::Fine)
}

/// The partitions that are meant.
fn chosen(config: &Config, only: Option<u32>) -> Result<Range<u32>, BoxError> {
    let count = config.kafka.partitions;
    match only {
        None => Ok(0..count),
        Some(only) if only < count => Ok(only..only + 1),
        Some(only) => {
            let why = format!("there is no partition {only}: they go from 0 to {}", count - 1);
            Err(Box::new(StartRefused(why)))
        }
    }
}

fn unusable(error: ConnectError) -> BoxError {
    match error {
        ConnectError::Refused(why) => Box::new(StartRefused(why)),
        ConnectError::Away(why) => why.into(),
    }
}

/// The topic, and the store that belongs to it.
struct Site {
    topic: KafkaTopic,
    /// Or why it cannot be asked.
    store: Result<MySqlStore, String>,
    partitions: Range<u32>,
}

impl Site {
    fn reach(config: &Config, shown: Shown) -> Result<Self, BoxError> {
        let partitions = chosen(config, shown.partition)?;
        let topic = KafkaTopic::connect(config.kafka.options()).map_err(unusable)?;
        let options = config.mysql().ok_or("a log in Kafka belongs to a store on MySQL")?;
        let store = Handle::current().block_on(MySqlStore::open(options));
        let store = store.map_err(|error| error.to_string());
        Ok(Self { topic, store, partitions })
    }

    fn look(&self, partition: u32) -> Result<KafkaView, BoxError> {
        let view = self.topic.partition(partition).look();
        view.map_err(|error| OpenError::from(error).boxed())
    }

    fn claimed(&self, partition: u32) -> Result<Option<Claimed>, String> {
        let store = self.store.as_ref().map_err(Clone::clone)?;
        let store = store.for_partition(partition).ok_or("it has no such partition")?;
        Handle::current().block_on(store.look()).map_err(|error| error.to_string())
    }

    /// Whether all is well with a partition.
    fn verify(&self, partition: u32, out: &mut dyn Write) -> Result<bool, BoxError> {
        // Before the log is looked at: what is stored meanwhile may be newer than that.
        let claimed = self.claimed(partition);
        let known = claimed.as_ref().ok().and_then(Option::as_ref);
        let mut check = Check::new(known.map(|known| known.progress.applied).unwrap_or_default());
        let log = self.look(partition)?;
        let (first, next) = log.range();
        writeln!(out, "records     {} to {}", first.0, next.0 - 1)?;
        let read = log.read(first, &mut |record| {
            check.record(&record);
            ControlFlow::Continue(())
        });
        match read {
            Ok(()) => {}
            Err(LogError::Damaged(what)) => {
                writeln!(out, "WRONG: {what}")?;
                return Ok(false);
            }
            Err(error) => return Err(OpenError::from(error).boxed()),
        }
        check.print(out)?;
        let pairing = match (&claimed, known) {
            (_, Some(known)) => {
                pairing(&log, &check, known, || self.claimed(partition).ok().flatten())
            }
            (Err(why), None) => Ok(format!("not asked: {why}")),
            (Ok(_), None) => Ok("nobody has ever owned it".to_owned()),
        };
        match &pairing {
            Ok(fine) => writeln!(out, "store       {fine}")?,
            Err(wrong) => writeln!(out, "store       WRONG: {wrong}")?,
        }
        Ok(check.is_fine() && pairing.is_ok())
    }
}
