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

/// Tokens are shorter. A longer file is no token file.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn token(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    /// A shelf with this token in its file.
    async fn shelf(folder: &TempDir, content: &[u8]) -> Shelf {
        let file = folder.path().join("token");
        fs::write(&file, content).unwrap();
        Shelf::open(Some(file)).await.unwrap()
    }

    #[tokio::test]
    async fn the_longest_token_is_read_and_a_folder_is_none() {
        let folder = TempDir::new().unwrap();
        let longest = shelf(&folder, &[7; LEN_MAX]).await;
        assert_eq!(longest.token().unwrap(), vec![7; LEN_MAX]);
        Shelf::open(Some(folder.path().to_owned())).await.unwrap_err();
        let none = Shelf::open(Some(folder.path().join("nowhere"))).await.unwrap();
        assert_eq!(none.token(), None);
    }

    #[tokio::test]
    async fn without_a_file_a_token_is_kept_at_once() {
        let shelf = Shelf::open(None).await.unwrap();
        let mut keeper = Keeper::new(shelf.clone());
        assert_eq!(keeper.take(token("one")), Some(token("one")));
        assert_eq!(shelf.token(), Some(token("one")));
    }

    #[tokio::test]
    async fn a_token_is_shown_only_when_it_is_in_its_file_and_of_several_the_newest_is_kept() {
        let folder = TempDir::new().unwrap();
        let shelf = shelf(&folder, b"old").await;
        let mut keeper = Keeper::new(shelf.clone());
        for new in ["one", "two", "three"] {
            assert_eq!(keeper.take(token(new)), None, "{new}");
            assert_eq!(
                shelf.token(),
                Some(token("old")),
                "the server takes it until it hears more"
            );
        }
        assert_eq!(keeper.next().await, Some(token("one")));
        assert_eq!(shelf.token(), Some(token("one")));
        let next = tokio::time::timeout(SOON, keeper.next()).await.expect("it was not the last");
        assert_eq!(next, Some(token("three")), "the second is over already");
        assert_eq!(fs::read(folder.path().join("token")).unwrap(), b"three");
        let next = std::pin::pin!(keeper.next());
        assert!(futures_util::poll!(next).is_pending(), "there is nothing to wait for");
    }

    #[tokio::test]
    async fn a_token_that_cannot_be_saved_leaves_the_one_before_and_does_not_stop_the_next() {
        let folder = TempDir::new().unwrap();
        let shelf = shelf(&folder, b"old").await;
        let mut keeper = Keeper::new(shelf.clone());
        // What is written first is in the way.
        let in_the_way = folder.path().join("token.new");
        fs::create_dir(&in_the_way).unwrap();
        assert_eq!(keeper.take(token("one")), None);
        assert_eq!(keeper.next().await, None, "it is not kept, and the server is not told so");
        assert_eq!(shelf.token(), Some(token("old")));
        assert_eq!(fs::read(folder.path().join("token")).unwrap(), b"old");

        fs::remove_dir(in_the_way).unwrap();
        assert_eq!(keeper.take(token("two")), None);
        assert_eq!(keeper.next().await, Some(token("two")));
    }

    #[tokio::test]
    async fn only_the_token_that_is_over_is_forgotten_and_its_file_with_it() {
        let folder = TempDir::new().unwrap();
        let shelf = shelf(&folder, b"new").await;
        let file = folder.path().join("token");
        shelf.forget(&token("old")).await;
        assert_eq!(shelf.token(), Some(token("new")));
        assert!(file.exists());
        shelf.clone().forget(&token("new")).await;
        assert_eq!(shelf.token(), None, "clones are the same");
        assert!(!file.exists());
    }
}
