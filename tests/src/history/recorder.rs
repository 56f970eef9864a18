//! Takes down what happens, from many tasks at once.
//!
//! A line costs one short lock: giving out the number and keeping the event are one step, because
//! the order of the numbers must be the order in which things happened.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::event::{Event, What, write_line};

/// Where everything is taken down. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    events: Vec<Event>,
    file: Option<BufWriter<File>>,
}

impl Recorder {
    /// Keeps everything in memory.
    pub fn new() -> Self {
        Self::with(Inner::default())
    }

    /// Keeps everything in memory and writes it to a file at the same time, so that it outlives
    /// this process; of a process that is killed, the last lines may be missing.
    pub fn into_file(path: &Path) -> io::Result<Self> {
        let file = Some(BufWriter::new(File::create(path)?));
        Ok(Self::with(Inner { file, ..Inner::default() }))
    }

    fn with(inner: Inner) -> Self {
        let shared = Shared { began: Instant::now(), inner: Mutex::new(inner) };
        Self { shared: Arc::new(shared) }
    }

    /// Takes something down. Returns its number.
    pub fn record(&self, what: What) -> u64 {
        let mut inner = self.inner();
        // Looked up under the lock, so that times rise with the numbers.
        let us = self.now_us();
        let at = inner.events.len() as u64 + 1;
        let event = Event { at, us, what };
        if let Some(file) = &mut inner.file {
            write_line(file, &event).expect("write the history");
        }
        inner.events.push(event);
        at
    }

    /// The number of the last event; 0 before the first.
    pub fn last(&self) -> u64 {
        self.inner().events.len() as u64
    }

    /// How long the run lasts by now.
    pub fn now(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Looks at everything so far. Nothing is taken down meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&[Event]) -> T) -> T {
        look(&self.inner().events)
    }

    /// Looks at everything after event `at`.
    pub fn read_after<T>(&self, at: u64, look: impl FnOnce(&[Event]) -> T) -> T {
        let inner = self.inner();
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(inner.events.len());
        look(inner.events.split_at(from).1)
    }

    /// Writes everything so far to a file.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        self.inner().events.iter().try_for_each(|event| write_line(&mut file, event))?;
        file.flush()
    }

    /// Returns when everything so far is in the file, if there is one.
    pub fn flush(&self) -> io::Result<()> {
        self.inner().file.as_mut().map_or(Ok(()), BufWriter::flush)
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.now().as_micros()).unwrap_or(u64::MAX)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().expect("nobody panicked with it")
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::event::read_lines;

    #[test]
    fn numbers_and_times_rise_also_if_several_threads_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let recorder = Recorder::into_file(&path).unwrap();
        std::thread::scope(|scope| {
            for _thread in 0..4 {
                scope.spawn(|| {
                    for retries in 0..100 {
                        recorder.record(What::Counters { retries, repairs: 0 });
                    }
                });
            }
        });
        recorder.flush().unwrap();
        let lines = read_lines(&std::fs::read(&path).unwrap()[..]).unwrap();
        recorder.read(|events| assert_eq!(events, lines));
        assert_eq!(recorder.last(), 400);
        assert!(lines.is_sorted_by(|one, next| one.at < next.at && one.us <= next.us));
        recorder.read_after(398, |tail| assert_eq!(tail, &lines[398..]));

        let copy = folder.path().join("copy.jsonl");
        recorder.save(&copy).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&copy).unwrap());
    }
}
