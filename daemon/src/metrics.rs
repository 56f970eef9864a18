//! The numbers a daemon shows on `/metrics`.
//!
//! A component registers its counters once, at start, and keeps the handles; counting is an atomic
//! addition or two. Every name begins with `talkhub_` and the daemon, so that names of several daemons do not
//! meet where they are collected.

mod histogram;

use std::fmt;
use std::fs;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Metric, Registry};

use crate::process_limits::files_max;

pub use histogram::Histogram;
pub use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;

/// Where the components of one daemon register their metrics. Clones share the page.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    prefix: String,
}

impl Metrics {
    /// A page of its own for `daemon`, with the figures of the process on it.
    pub fn new(daemon: &str) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessFigures));
        Self { registry: Arc::new(Mutex::new(registry)), prefix: format!("talkhub_{daemon}") }
    }

    /// Shows `metric` as `talkhub_<daemon>_<name>` (counters get `_total` appended), explained by
    /// `help`, and returns it, so that it can be registered where it is made. Register a name once.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        let name = format!("{}_{name}", self.prefix);
        self.registry.lock().register(name, help.trim_end_matches('.'), metric.clone());
        metric
    }

    /// A new counter on the page.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// A new gauge on the page.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// A new histogram of durations on the page, from 0.1 ms to 10 s. Its name ends in `_seconds`.
    pub fn seconds(&self, name: &str, help: &str) -> Histogram {
        self.register(name, help, Histogram::default())
    }

    /// The page, in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry.lock())?;
        Ok(page)
    }
}

/// What the kernel says about this process, read when the page is asked for.
#[derive(Debug)]
struct ProcessFigures;

impl prometheus_client::collector::Collector for ProcessFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut show = |name: &str, help: &str, value: Option<u64>| match value {
            Some(value) => {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
            }
            // No /proc, or not readable: the figure is left out.
            None => Ok(()),
        };
        show("process_resident_memory_bytes", "Resident memory of the process", resident_bytes())?;
        show("process_open_fds", "Open file descriptors of the process", open_files())?;
        show("process_max_fds", "Most file descriptors it may open", Some(files_max()))
    }
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn open_files() -> Option<u64> {
    u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_page_shows_the_daemon_and_its_process() {
        let metrics = Metrics::new("db_proxy");
        metrics.counter("sends", "Messages taken from clients.").inc_by(3);
        metrics.gauge("tail", "Records not stored yet.").set(7);
        let page = metrics.encode().unwrap();
        assert!(page.contains("\ntalkhub_db_proxy_sends_total 3\n"), "{page}");
        assert!(page.contains("\ntalkhub_db_proxy_tail 7\n"), "{page}");
        assert!(page.contains("\nprocess_open_fds "), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }

    /// The value on the line that begins with this name.
    fn shown(page: &str, name: &str) -> u64 {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }

    #[test]
    fn what_the_kernel_says_is_told_in_bytes_and_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let held: Vec<_> = (0..200).map(|_file| fs::File::open(&file).unwrap()).collect();
        let page = Metrics::new("test").encode().unwrap();
        let open = shown(&page, "process_open_fds");
        assert!((200..5_000).contains(&open), "{open}");
        assert_eq!(shown(&page, "process_max_fds"), files_max());
        drop(held);
        // A test program takes some megabytes, and far less than a terabyte.
        let resident = shown(&page, "process_resident_memory_bytes");
        assert!((1 << 20..1 << 40).contains(&resident), "{resident}");
    }

    #[test]
    fn clones_share_a_page_and_help_is_one_sentence() {
        let metrics = Metrics::new("db_proxy");
        let shared = metrics.clone();
        let seconds = shared.seconds("flush_seconds", "Time that a flush takes.");
        seconds.observe(Duration::from_micros(150));
        seconds.observe(Duration::from_secs(20));
        let page = metrics.encode().unwrap();
        let line = |line: &str| page.lines().any(|shown| shown == line);
        assert!(
            line("# HELP talkhub_db_proxy_flush_seconds Time that a flush takes."),
            "the full stop comes once: {page}"
        );
        for (bucket, count) in [("0.0001", 0), ("0.00025", 1), ("10.0", 1), ("+Inf", 2)] {
            let bucket =
                format!("talkhub_db_proxy_flush_seconds_bucket{{le=\"{bucket}\"}} {count}");
            assert!(line(&bucket), "{bucket}: {page}");
        }
    }
}
