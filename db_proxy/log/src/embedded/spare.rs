//! Empty segments, made before they are needed.
//!
//! A segment is written full of zeros and flushed before it has its name, so that a full disk shows
//! here and never in the middle of an append, and so that an append changes no metadata, which makes
//! its flush quick.
//!
//! # Invariants
//!
//! - A file with the suffix of a spare has its full size and is zero all over, on disk.
//! - The zeros are written in slices, each flushed, with pauses as long as another spare is ready:
//!   appends flush the same disk.
//! - Trouble ends nothing. It is told once, and tried again until it is over.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::LogError;

use super::files::{Folder, LogFile, is_full};

/// How much is zeroed between two pauses.
const SLICE_LEN: usize = 1 << 20;

/// Between two slices, while another spare is ready: at most 50 MB/s go to spares then.
const PAUSE: Duration = Duration::from_millis(20);

/// Between two tries when the disk is full or broken.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

const READY: &str = ".spare";
const UNFINISHED: &str = ".making";

/// An empty segment without a place yet. The file is open, so that taking it needs no descriptor.
#[derive(Debug)]
pub(super) struct Spare {
    /// Its name.
    pub(super) name: String,
    /// The file.
    pub(super) file: Box<dyn LogFile>,
}

/// Zeroes one file after the other.
#[derive(Debug)]
pub(super) struct Maker {
    folder: Arc<dyn Folder>,
    segment_bytes: u64,
    zeros: Vec<u8>,
    /// Numbers the files; none is used twice while the process lives.
    made: u64,
    unfinished: Option<Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    file: Box<dyn LogFile>,
    name: String,
    written: u64,
}

impl Maker {
    /// Makes spares of this size.
    pub(super) fn new(folder: Arc<dyn Folder>, segment_bytes: u64) -> Self {
        let slice = usize::try_from(segment_bytes).map_or(SLICE_LEN, |size| size.min(SLICE_LEN));
        Self { folder, segment_bytes, zeros: vec![0; slice], made: 0, unfinished: None }
    }

    /// Takes over what an earlier process has left: spares are used, the rest is deleted.
    pub(super) fn adopt(&mut self, names: &[String]) -> io::Result<Vec<Spare>> {
        let mut spares = Vec::new();
        for name in names {
            if name.ends_with(UNFINISHED) {
                self.folder.remove(name)?;
            } else if let Some(number) = name.strip_suffix(READY) {
                let file = self.folder.open(name)?;
                if file.size()? == self.segment_bytes {
                    self.made = self.made.max(number.parse().unwrap_or(0));
                    spares.push(Spare { name: name.clone(), file });
                } else {
                    self.folder.remove(name)?;
                }
            }
        }
        Ok(spares)
    }

    /// Zeroes one more slice. Returns the spare if that was the last one.
    pub(super) fn slice(&mut self) -> io::Result<Option<Spare>> {
        let mut unfinished = match self.unfinished.take() {
            Some(unfinished) => unfinished,
            None => self.begin()?,
        };
        let left = self.segment_bytes - unfinished.written;
        let len = usize::try_from(left).map_or(self.zeros.len(), |left| left.min(self.zeros.len()));
        match unfinished.file.write_all_at(&self.zeros[..len], unfinished.written) {
            Ok(()) => {}
            Err(error) if is_full(&error) => {
                // What there is stays, so that the next try writes only what is missing.
                self.unfinished = Some(unfinished);
                return Err(error);
            }
            Err(error) => return Err(self.give_up(&unfinished, error)),
        }
        // After a failed flush it is unknown what is in the file, so it is made anew.
        unfinished.file.sync().map_err(|error| self.give_up(&unfinished, error))?;
        unfinished.written += len as u64;
        if unfinished.written < self.segment_bytes {
            self.unfinished = Some(unfinished);
            return Ok(None);
        }
        self.finish(unfinished).map(Some)
    }

    /// Makes a whole spare without a pause.
    pub(super) fn make(&mut self) -> io::Result<Spare> {
        loop {
            if let Some(spare) = self.slice()? {
                return Ok(spare);
            }
        }
    }

    fn begin(&mut self) -> io::Result<Unfinished> {
        self.made += 1;
        let name = format!("{:020}{UNFINISHED}", self.made);
        let file = self.folder.create(&name)?;
        Ok(Unfinished { file, name, written: 0 })
    }

    fn finish(&self, unfinished: Unfinished) -> io::Result<Spare> {
        let name = unfinished.name.replace(UNFINISHED, READY);
        self.folder
            .rename(&unfinished.name, &name)
            .map_err(|error| self.give_up(&unfinished, error))?;
        // The folder is flushed when the spare gets its place.
        Ok(Spare { name, file: unfinished.file })
    }

    /// Deletes what cannot be used; if even that fails, the next start does it.
    fn give_up(&self, unfinished: &Unfinished, error: io::Error) -> io::Error {
        if let Err(second) = self.folder.remove(&unfinished.name) {
            tracing::debug!(name = unfinished.name, %second, "an unfinished spare stays behind");
        }
        error
    }
}

/// The spares that are ready, and what makes more of them.
#[derive(Debug)]
pub(super) struct Spares {
    shared: Arc<Shared>,
    making: Making,
}

#[derive(Debug)]
enum Making {
    /// In the background, until this is dropped.
    Thread(Option<JoinHandle<()>>),
    /// By the caller, when one is needed: for tests that want one order of events.
    #[cfg(test)]
    OnDemand(Maker),
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something changed that the maker should look at.
    changed: Condvar,
    wanted: usize,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<Spare>,
    /// Why there are not more of them, if something is wrong.
    trouble: Option<String>,
    closing: bool,
}

impl Spares {
    /// Keeps `wanted` spares ready from now on, at least one.
    pub(super) fn keep(maker: Maker, ready: Vec<Spare>, wanted: usize) -> Result<Self, LogError> {
        let shared = Shared::new(ready, wanted);
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("log-spare".to_owned())
            .spawn(move || worker.run(maker))
            .map_err(|source| LogError::Io { what: "cannot start a thread".to_owned(), source })?;
        Ok(Self { shared, making: Making::Thread(Some(thread)) })
    }

    /// Makes spares only when one is asked for.
    #[cfg(test)]
    pub(super) fn on_demand(maker: Maker, ready: Vec<Spare>) -> Self {
        Self { shared: Shared::new(ready, 0), making: Making::OnDemand(maker) }
    }

    /// Takes a spare; the text says why there is none.
    pub(super) fn take(&mut self) -> Result<Spare, String> {
        #[cfg(test)]
        self.make_if_on_demand();
        let mut state = self.shared.state.lock();
        let Some(spare) = state.ready.pop() else {
            return Err(state
                .trouble
                .clone()
                .unwrap_or_else(|| "the next segment is still being made".to_owned()));
        };
        self.shared.changed.notify_one();
        Ok(spare)
    }

    /// Takes back a spare that could not be used.
    pub(super) fn put_back(&self, spare: Spare) {
        self.shared.state.lock().ready.push(spare);
    }

    #[cfg(test)]
    fn make_if_on_demand(&mut self) {
        let Making::OnDemand(maker) = &mut self.making else { return };
        let mut state = self.shared.state.lock();
        if state.ready.is_empty() {
            match maker.make() {
                Ok(spare) => state.ready.push(spare),
                Err(error) => state.trouble = Some(error.to_string()),
            }
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.changed.notify_one();
        if let Making::Thread(thread) = &mut self.making
            && let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the maker of spare segments panicked");
        }
    }
}

impl Shared {
    fn new(ready: Vec<Spare>, wanted: usize) -> Arc<Self> {
        let state = Mutex::new(State { ready, ..State::default() });
        Arc::new(Self { state, changed: Condvar::new(), wanted: wanted.max(1) })
    }

    /// The thread: makes a spare whenever one is missing.
    fn run(&self, mut maker: Maker) {
        while self.wait_until_wanted() {
            let made = maker.slice();
            let mut state = self.state.lock();
            let pause = match made {
                Ok(made) => {
                    state.ready.extend(made);
                    if state.trouble.take().is_some() {
                        tracing::info!("spare log segments can be made again");
                    }
                    if state.ready.is_empty() { Duration::ZERO } else { PAUSE }
                }
                Err(error) => {
                    let trouble = format!("no spare segment can be made: {error}");
                    if state.trouble.as_ref() != Some(&trouble) {
                        tracing::warn!(%error, "no spare log segment can be made; trying again");
                    }
                    state.trouble = Some(trouble);
                    RETRY_PAUSE
                }
            };
            if !pause.is_zero() && !state.closing {
                self.changed.wait_for(&mut state, pause);
            }
        }
    }

    /// Waits until there are too few spares. Returns false when no more will be wanted.
    fn wait_until_wanted(&self) -> bool {
        let mut state = self.state.lock();
        while !state.closing && state.ready.len() >= self.wanted {
            self.changed.wait(&mut state);
        }
        !state.closing
    }
}
