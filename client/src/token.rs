//! The token that the next login is with, instead of the password.
//!
//! # Invariants
//!
//! - The server hears that a token is kept only when it is: in its file, if there is one. Until then it
//!   takes the one before, so that no crash in between costs the login.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::file;

/// Tokens are shorter. A longer file is none of ours.
const LEN_MAX: usize = 256;

/// The newest token that is kept. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf {
    token: Arc<Mutex<Option<Bytes>>>,
    file: Option<Arc<Path>>,
}

impl Shelf {
    /// What an earlier run has left in `file`, if that is given.
    pub(crate) async fn open(file: Option<PathBuf>) -> io::Result<Self> {
        let Some(file) = file else { return Ok(Self::default()) };
        let file: Arc<Path> = file.into();
        let found = Arc::clone(&file);
        let token = spawn_blocking(move || read(&found)).await.map_err(io::Error::other)??;
        Ok(Self { token: Arc::new(Mutex::new(token)), file: Some(file) })
    }

    pub(crate) fn token(&self) -> Option<Bytes> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, token: Option<Bytes>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// The token is over. Nothing happens if a newer one is kept by now.
    pub(crate) async fn forget(&self, token: &Bytes) {
        if self.token().as_ref() != Some(token) {
            return;
        }
        self.put(None);
        if let Some(file) = self.file.clone() {
            let removed = spawn_blocking(move || fs::remove_file(file)).await;
            if let Ok(Err(error)) = removed {
                // It is refused again at the next start, and then the password is used.
                tracing::debug!(%error, "the file of a token that is over stays");
            }
        }
    }
}

/// Saves tokens one after another.
#[derive(Debug)]
pub(crate) struct Keeper {
    shelf: Shelf,
    saving: Option<JoinHandle<io::Result<Bytes>>>,
    /// Came while another one was being saved; of several the newest.
    waiting: Option<Bytes>,
}

impl Keeper {
    pub(crate) fn new(shelf: Shelf) -> Self {
        Self { shelf, saving: None, waiting: None }
    }

    /// A token came. Returns it if it is kept already, as it is without a file.
    pub(crate) fn take(&mut self, token: Bytes) -> Option<Bytes> {
        let Some(path) = self.shelf.file.clone() else {
            self.shelf.put(Some(token.clone()));
            return Some(token);
        };
        if self.saving.is_some() {
            self.waiting = Some(token);
            return None;
        }
        self.saving = Some(spawn_blocking(move || {
            file::replace(&path, &token)?;
            Ok(token)
        }));
        None
    }

    /// Waits until a token is kept. Cancel-safe; never returns while nothing is being saved.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let Some(saving) = &mut self.saving else { return std::future::pending().await };
        let saved = saving.await.map_err(io::Error::other).and_then(|saved| saved);
        self.saving = None;
        let kept = match saved {
            Ok(token) => {
                self.shelf.put(Some(token.clone()));
                Some(token)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot save the token to log in with next time");
                None
            }
        };
        if let Some(newer) = self.waiting.take() {
            self.take(newer);
        }
        kept
    }
}

fn read(file: &Path) -> io::Result<Option<Bytes>> {
    match fs::read(file) {
        Ok(token) if (1..=LEN_MAX).contains(&token.len()) => Ok(Some(token.into())),
        Ok(_other) => {
            let text = format!("{} is no file of a token", file.display());
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
