//! What it takes to take partitions over: seconds, processor time and memory until a window's worth
//! of records has been read from the log, for one partition and for several at once.
//!
//! ```text
//! cargo bench -p db_proxy --features kafka --bench takeover
//! cargo bench -p db_proxy --features kafka --bench takeover -- 200000    # shorter
//! cargo bench -p db_proxy --features kafka --bench takeover -- 1100000 keep
//! ```
//!
//! The last one goes on until its input ends, and says how one takeover is repeated, for a profiler
//! or for another build.
//!
//! A private broker, or the embedded log, gets the records of an owner that was busy; the store's
//! progress is at their end. Each measurement is a process of its own, whose client is cold, with
//! the allocator of the daemon. The broker shares the processors, which it would not elsewhere: its
//! share is told apart. The records have just been written, so that they are in the memory of the
//! broker's machine, as the newest ones mostly are.

use std::error::Error;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backends::Kafka;
use bytes::Bytes;
use daemon::clock::unix_ms;
use partition::open;
use prost::Message as _;
use proto::ids::Offset;
use proto::log::{Epoch, Message, Record, record};
use proto::record::fingerprint;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use record_log::embedded::{self, EmbeddedLog};
use record_log::kafka::{KafkaTopic, NewTopic, Options, ensure_topic};
use record_log::{Log as _, LogId, LogReader as _, Unopened};
use store::sqlite::{SqliteOptions, SqliteStore};
use store::{Batch, ConversationStore as _, Store};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Somewhat more than the window has.
const RECORDS: u32 = 1_100_000;

/// The partitions of the topic, as many as are taken at once.
const PARTITIONS: u32 = 4;

/// How many records an owner appends at once, under some load.
const AT_ONCE: usize = 64;

/// How often each measurement is made.
const RUNS: usize = 3;

/// Owners repeat their epoch that often.
const EPOCH_EVERY: u64 = 1 << 16;

/// The epoch of the owner that was busy.
const EPOCH: u64 = 1;

/// The bytes of a short sentence, as clients send it: encrypted, in base64.
const BODY_BYTES: usize = 88;

/// Ticks of processor time in a second, as `/proc` counts them.
const TICKS: f64 = 100.0;

fn main() -> Outcome<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let is_bench = args.iter().any(|arg| arg == "--bench");
    args.retain(|arg| arg != "--bench");
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["take", folder, bootstrap, partitions] => take(folder, bootstrap, partitions.parse()?),
        // A run of all tests is none of the benchmarks.
        _ if !is_bench => Ok(()),
        [] => measure(RECORDS, false),
        [records] => measure(records.parse()?, false),
        [records, "keep"] => measure(records.parse()?, true),
        _ => Err("one number: how many records".into()),
    }
}

/// Prepares the logs, and has them taken.
fn measure(records: u32, keep: bool) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Runtime::new()?;
    say(&machine());
    let dir = folder.path().join("log");
    let began_ms = unix_ms() - u64::from(records);
    let last = write_embedded(&dir, records, began_ms)?;
    runtime.block_on(store(folder.path(), EMBEDDED, last))?;

    let kafka = Kafka::start(1);
    let topic_options = options(&kafka.bootstrap());
    ensure_topic(&topic_options, NewTopic::default())?;
    let topic = KafkaTopic::connect(topic_options)?;
    for partition in 0..PARTITIONS {
        let last = write_kafka(&kafka.bootstrap(), partition, records, began_ms)?;
        let last = Last { log: topic.partition(partition).id(), ..last };
        runtime.block_on(store(folder.path(), &partition.to_string(), last))?;
    }
    say(&format!(
        "{records} records of about {} bytes in each partition, {AT_ONCE} in a batch",
        payload(2, began_ms, &mut Random(1)).len(),
    ));
    say(
        "log        taken  seconds  records/s    CPU s/million  broker's  MiB after, peak/partition",
    );
    for (name, partitions) in [(EMBEDDED, 0), ("kafka", 1), ("kafka", PARTITIONS)] {
        for _run in 0..RUNS {
            let line = run(folder.path(), &kafka, partitions, records)?;
            say(&format!("{name:<10} {line}   load {}", load()));
        }
    }
    if keep {
        let (exe, bootstrap) = (std::env::current_exe()?, kafka.bootstrap());
        let (exe, folder) = (exe.display(), folder.path().display());
        say(&format!("{exe} take {folder} {bootstrap} {PARTITIONS}    # or fewer"));
        std::io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

/// Has partitions taken by a process of its own.
fn run(folder: &Path, kafka: &Kafka, partitions: u32, records: u32) -> Outcome<String> {
    let before = cpu_seconds(kafka.pid(1))?;
    let taken = Command::new(std::env::current_exe()?)
        .args(["take".as_ref(), folder.as_os_str()])
        .args([&kafka.bootstrap(), &partitions.to_string()])
        .output()?;
    if !taken.status.success() {
        return Err(String::from_utf8_lossy(&taken.stderr).into());
    }
    let broker = cpu_seconds(kafka.pid(1))? - before;
    let numbers = String::from_utf8(taken.stdout)?;
    let numbers: Result<Vec<f64>, _> = numbers.split_whitespace().map(str::parse).collect();
    let [seconds, cpu, after, peak] = numbers?[..] else { return Err("no numbers".into()) };
    let count = f64::from(partitions.max(1));
    let all = count * f64::from(records);
    Ok(format!(
        "{count:>5} {seconds:>8.2} {:>10.0} {:>16.2} {:>9.2} {:>10.0} {:>6.0}",
        all / seconds,
        cpu / all * 1e6,
        broker / all * 1e6,
        after / count,
        peak / count,
    ))
}

/// What the store is told of a log.
struct Last {
    log: LogId,
    offset: Offset,
    crc: u32,
}

/// Makes a store that has everything.
async fn store(folder: &Path, name: &str, last: Last) -> Outcome<()> {
    let store = open_store(folder, name)?;
    let progress = store.claim("before".to_owned(), last.log).await?;
    let batch =
        Batch { applied: last.offset, applied_crc: last.crc, fold_version: 1, ..Batch::default() };
    store.commit(progress.epoch, Offset(0), batch).await?;
    Ok(())
}

fn open_store(folder: &Path, name: &str) -> Outcome<SqliteStore> {
    Ok(SqliteStore::open(&folder.join(format!("{name}.sqlite")), SqliteOptions::default())?)
}

/// The name of the store of the embedded log.
const EMBEDDED: &str = "embedded";

fn write_embedded(dir: &Path, records: u32, began_ms: u64) -> Outcome<Last> {
    let mut log = EmbeddedLog::open(embedded::Options::new(dir), Offset(0))?.log;
    let mut random = Random(42);
    let mut last = None;
    let offsets: Vec<u64> = (1..=records.into()).collect();
    // Few and large, since each is flushed.
    for offsets in offsets.chunks(64 * AT_ONCE) {
        let payloads: Vec<Bytes> =
            offsets.iter().map(|offset| payload(*offset, began_ms, &mut random)).collect();
        last = log.append(&payloads, began_ms + offsets[0])?.pop();
    }
    let last = last.ok_or("at least one record")?.record;
    Ok(Last { log: log.id(), offset: last.offset, crc: last.crc })
}

fn options(bootstrap: &str) -> Options {
    Options { allow_unsafe_topic: true, ..Options::new(bootstrap, "takeover", PARTITIONS) }
}

/// The log of the answer is another one.
fn write_kafka(bootstrap: &str, partition: u32, records: u32, began_ms: u64) -> Outcome<Last> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("batch.num.messages", AT_ONCE.to_string())
        .set("linger.ms", "50")
        .create()?;
    let mut random = Random(u64::from(partition) + 1);
    let mut last = Last { log: LogId([0; 16]), offset: Offset(0), crc: 0 };
    for offset in 1..=u64::from(records) {
        let timestamp_ms = began_ms + offset;
        let payload = payload(offset, timestamp_ms, &mut random);
        let crc = fingerprint(Offset(offset), timestamp_ms, &payload);
        last = Last { offset: Offset(offset), crc, ..last };
        let mut record: BaseRecord<'_, (), [u8]> = BaseRecord::to("takeover")
            .partition(i32::try_from(partition)?)
            .payload(&payload[..])
            .timestamp(i64::try_from(timestamp_ms)?);
        while let Err((_full, again)) = producer.send(record) {
            record = again;
            producer.poll(Duration::from_millis(10));
        }
    }
    producer.flush(Duration::from_mins(1))?;
    Ok(last)
}

/// A record of an owner that is busy: half of its clients make ids of their own.
fn payload(offset: u64, now_ms: u64, random: &mut Random) -> Bytes {
    let change = if offset % EPOCH_EVERY == 1 {
        record::Change::Epoch(Epoch { epoch: EPOCH, owner: "before".to_owned() })
    } else {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let sender = random.next() % 20_000 + 1;
        let peer = (sender + random.next() % 10) % 20_000 + 1;
        let is_new = random.next().is_multiple_of(2);
        let high = if is_new { now_ms << 16 } else { random.next() };
        let id = u128::from(high) << 64 | u128::from(random.next());
        let letter = |_| ALPHABET[(random.next() % 64) as usize];
        let body: Vec<u8> = (0..BODY_BYTES).map(letter).collect();
        record::Change::Message(Message {
            conversation: (sender.min(peer) << 32) | (sender.max(peer) + u64::from(sender == peer)),
            sender: u32::try_from(sender).unwrap_or(1),
            client_msg_id: Bytes::copy_from_slice(&id.to_be_bytes()),
            fingerprint: (!is_new).then(|| random.next() | 1),
            r#type: 1,
            body: body.into(),
            ..Default::default()
        })
    };
    Record { change: Some(change), written_in_epoch: Some(EPOCH) }.encode_to_vec().into()
}

/// The same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// Takes that many partitions at once, or the embedded log, and says what it took.
fn take(folder: &str, bootstrap: &str, partitions: u32) -> Outcome<()> {
    let folder = PathBuf::from(folder);
    let runtime = tokio::runtime::Runtime::new()?;
    let logs: Vec<(Box<dyn Unopened>, String)> = if partitions == 0 {
        let log = EmbeddedLog::prepare(embedded::Options::new(folder.join("log")))?;
        vec![(Box::new(log), EMBEDDED.to_owned())]
    } else {
        let topic = KafkaTopic::connect(options(bootstrap))?;
        let named = |partition: u32| -> (Box<dyn Unopened>, String) {
            (Box::new(topic.partition(partition)), partition.to_string())
        };
        (0..partitions).map(named).collect()
    };
    let stores =
        logs.iter().map(|(_, name)| Ok(Arc::new(open_store(&folder, name)?) as Arc<dyn Store>));
    let stores = stores.collect::<Outcome<Vec<_>>>()?;
    let (before, began, cpu_before) = (memory("VmRSS")?, Instant::now(), cpu_seconds(own_pid())?);
    let opened = runtime.block_on(async {
        let mut opening = tokio::task::JoinSet::new();
        for ((log, _), store) in logs.into_iter().zip(stores) {
            opening.spawn(async move { open::take(log, store, "after").await });
        }
        opening.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()
    })?;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds(own_pid())? - cpu_before);
    say(&format!("{seconds} {cpu} {} {}", memory("VmRSS")? - before, memory("VmHWM")? - before));
    drop(opened);
    Ok(())
}

fn own_pid() -> u32 {
    std::process::id()
}

/// The processor time that a process has taken.
fn cpu_seconds(pid: u32) -> Outcome<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_name, rest) = stat.rsplit_once(')').ok_or("no name in stat")?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
}

/// One of this process's sizes, in MiB.
fn memory(which: &str) -> Outcome<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("no such size")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

/// How busy the machine has been in the last minute.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unknown processor", |(_, model)| model);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{processors} x {model}, the broker on the same ones; load {}", load())
}

#[expect(clippy::print_stdout, reason = "this is what a benchmark is for")]
fn say(line: &str) {
    println!("{line}");
}
