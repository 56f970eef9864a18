//! Where messages wait that have no answer yet, so that they outlive the program.
//!
//! A message is saved before it is sent for the first time and removed when the server has said
//! what became of it. After a crash the next run sends what it finds, with the ids it had, and the
//! server recognises what it has stored already.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use proto::ids::ClientMsgId;
use serde_json::{Value, json};

use crate::file;
use crate::message::{Conversation, Draft, Kind};

/// A message without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsent {
    /// The id that it keeps for ever.
    pub id: ClientMsgId,
    /// Where it goes.
    pub conversation: Conversation,
    /// What the data is.
    pub kind: Kind,
    /// The content as it goes over the wire.
    pub data: Bytes,
}

/// Keeps messages that have no answer yet. One outbox belongs to one user and one client at a time.
///
/// The methods may block: a client calls them on a thread of their own.
pub trait Outbox: Send + 'static {
    /// Returns everything that was saved and not removed, in the order in which it was saved.
    fn load(&mut self) -> io::Result<Vec<Unsent>>;

    /// Saves messages. They are safe when this returns.
    fn save(&mut self, messages: &[Unsent]) -> io::Result<()>;

    /// Removes messages that have their outcome. A crash may undo this.
    fn remove(&mut self, ids: &[ClientMsgId]) -> io::Result<()>;
}

impl Unsent {
    /// The message as it is sent for the first time.
    pub(crate) fn draft(&self) -> Draft {
        Draft {
            conversation: self.conversation,
            kind: self.kind,
            data: self.data.clone(),
            client_msg_id: Some(self.id),
            resend: false,
        }
    }
}

/// An outbox that lives as long as the process. Clones share their messages, so one of them can be
/// handed to the next client.
#[derive(Debug, Clone, Default)]
pub struct MemoryOutbox {
    messages: Arc<Mutex<VecDeque<Unsent>>>,
}

impl MemoryOutbox {
    fn with<R>(&self, action: impl FnOnce(&mut VecDeque<Unsent>) -> R) -> R {
        action(&mut self.messages.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Outbox for MemoryOutbox {
    fn load(&mut self) -> io::Result<Vec<Unsent>> {
        Ok(self.with(|messages| messages.iter().cloned().collect()))
    }

    fn save(&mut self, new: &[Unsent]) -> io::Result<()> {
        self.with(|messages| messages.extend(new.iter().cloned()));
        Ok(())
    }

    fn remove(&mut self, ids: &[ClientMsgId]) -> io::Result<()> {
        self.with(|messages| messages.retain(|message| !ids.contains(&message.id)));
        Ok(())
    }
}

/// How much of what is done with a file may hold before it is written anew.
const DONE_MAX: usize = 4096;

/// An outbox in a file of JSON lines.
///
/// ```text
/// {"save":"<id>","to":"user:2","kind":"text","data":"<hex>"}
/// {"done":"<id>"}
/// ```
///
/// # Invariants
///
/// - `save` returns only after its lines are on disk.
/// - A line that cannot be read is what a crash left of a `save` that never returned: it is skipped.
/// - After a failed write or flush nothing more is saved, since it is unknown what the file holds.
/// - A lock on `<path>.lock` keeps a second client off the file.
#[derive(Debug)]
pub struct FileOutbox {
    path: PathBuf,
    file: File,
    _lock: File,
    live: VecDeque<Unsent>,
    done: usize,
    is_broken: bool,
}

impl FileOutbox {
    /// Opens the outbox in the file `path`, which is created if need be.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let mut lock_path = path.clone().into_os_string();
        lock_path.push(".lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(lock_path)?;
        lock.try_lock().map_err(io::Error::from)?;

        let live = match fs::read_to_string(&path) {
            Ok(text) => read_lines(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => VecDeque::new(),
            Err(error) => return Err(error),
        };
        let file = write_anew(&path, &live)?;
        Ok(Self { path, file, _lock: lock, live, done: 0, is_broken: false })
    }

    fn append(&mut self, lines: &str, is_durable: bool) -> io::Result<()> {
        if self.is_broken {
            return Err(io::Error::other("an earlier write to the outbox failed"));
        }
        let written = self.file.write_all(lines.as_bytes());
        let written = match written {
            Ok(()) if is_durable => self.file.sync_data(),
            other => other,
        };
        self.is_broken = written.is_err();
        written
    }
}

impl Outbox for FileOutbox {
    fn load(&mut self) -> io::Result<Vec<Unsent>> {
        Ok(self.live.iter().cloned().collect())
    }

    fn save(&mut self, messages: &[Unsent]) -> io::Result<()> {
        let lines: String = messages.iter().map(save_line).collect();
        self.append(&lines, true)?;
        self.live.extend(messages.iter().cloned());
        Ok(())
    }

    fn remove(&mut self, ids: &[ClientMsgId]) -> io::Result<()> {
        self.live.retain(|message| !ids.contains(&message.id));
        self.done += ids.len();
        if self.done > DONE_MAX.max(self.live.len()) && !self.is_broken {
            self.file = write_anew(&self.path, &self.live)?;
            self.done = 0;
            return Ok(());
        }
        let lines: String = ids.iter().map(done_line).collect();
        self.append(&lines, false)
    }
}

/// Replaces the file by one with these messages.
fn write_anew(path: &Path, messages: &VecDeque<Unsent>) -> io::Result<File> {
    let lines: String = messages.iter().map(save_line).collect();
    file::replace(path, lines.as_bytes())
}

fn done_line(id: &ClientMsgId) -> String {
    format!("{}\n", json!({ "done": HEXLOWER.encode(&id.0) }))
}

fn save_line(message: &Unsent) -> String {
    let to = match message.conversation {
        Conversation::User(user) => format!("user:{}", user.0),
        Conversation::Group(group) => format!("group:{}", group.0),
    };
    let kind = match message.kind {
        Kind::Text => "text",
        Kind::Voice => "voice",
    };
    let (id, data) = (HEXLOWER.encode(&message.id.0), HEXLOWER.encode(&message.data));
    format!("{}\n", json!({ "save": id, "to": to, "kind": kind, "data": data }))
}

fn read_lines(text: &str) -> VecDeque<Unsent> {
    let mut live: VecDeque<Unsent> = VecDeque::new();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            tracing::warn!("skip a line of the outbox that cannot be read");
            continue;
        };
        if let Some(done) = id_in(&line, "done") {
            live.retain(|message| message.id != done);
        } else if let Some(message) = read_save(&line) {
            live.push_back(message);
        } else {
            tracing::warn!("skip a line of the outbox that cannot be read");
        }
    }
    live
}

fn read_save(line: &Value) -> Option<Unsent> {
    let (sort, number) = line.get("to")?.as_str()?.split_once(':')?;
    let number: u32 = number.parse().ok()?;
    let conversation = match sort {
        "user" => Conversation::user(number),
        "group" => Conversation::group(number),
        _ => return None,
    };
    let kind = match line.get("kind")?.as_str()? {
        "text" => Kind::Text,
        "voice" => Kind::Voice,
        _ => return None,
    };
    let data = HEXLOWER_PERMISSIVE.decode(line.get("data")?.as_str()?.as_bytes()).ok()?.into();
    Some(Unsent { id: id_in(line, "save")?, conversation, kind, data })
}

fn id_in(line: &Value, key: &str) -> Option<ClientMsgId> {
    let digits = line.get(key)?.as_str()?;
    ClientMsgId::from_slice(&HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_and_not_removed_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox");
        let mut outbox = FileOutbox::open(&path).unwrap();
        outbox.save(&[message(1), message(2)]).unwrap();
        outbox.save(&[message(3)]).unwrap();
        outbox.remove(&[message(2).id]).unwrap();
        drop(outbox);

        for _ in 0..2 {
            let mut outbox = FileOutbox::open(&path).unwrap();
            assert_eq!(outbox.load().unwrap(), [message(1), message(3)]);
        }
    }

    #[test]
    fn every_cut_of_the_file_leaves_whole_messages() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox");
        let lines: String = [1, 2, 3].map(|number| save_line(&message(number))).concat();
        for cut in 0..=lines.len() {
            fs::write(&path, &lines.as_bytes()[..cut]).unwrap();
            let found = FileOutbox::open(&path).unwrap().load().unwrap();
            let whole = lines.bytes().take(cut).filter(|&byte| byte == b'\n').count();
            // A line is whole without its line end, too.
            assert!(found.len() == whole || found.len() == whole + 1, "cut at {cut}");
            assert!(found.iter().zip(1..).all(|(found, number)| *found == message(number)));
        }
    }

    #[test]
    fn lines_that_a_crash_left_behind_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox");
        let lines = format!("{}\0\0\0\n{{\"save\":1}}\n{}", save_line(&message(1)), "{\"sa");
        fs::write(&path, lines).unwrap();
        assert_eq!(FileOutbox::open(&path).unwrap().load().unwrap(), [message(1)]);
    }

    #[test]
    fn two_clients_cannot_have_one_outbox() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox");
        let first = FileOutbox::open(&path).unwrap();
        assert_eq!(FileOutbox::open(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        assert!(FileOutbox::open(&path).is_ok());
    }

    #[test]
    fn a_file_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox");
        let mut outbox = FileOutbox::open(&path).unwrap();
        outbox.save(&[message(7)]).unwrap();
        let ids: Vec<_> = vec![message(1).id; 1000];
        for _ in 0..20 {
            outbox.remove(&ids).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() < 400_000);
        outbox.save(&[message(8)]).unwrap();
        drop(outbox);
        let found = FileOutbox::open(&path).unwrap().load().unwrap();
        assert_eq!(found, [message(7), message(8)]);
    }

    #[test]
    fn after_a_write_that_failed_nothing_more_is_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox");
        let mut outbox = FileOutbox::open(&path).unwrap();
        outbox.save(&[message(1)]).unwrap();
        // Nothing can be written here, as on a disk that fails.
        let works = std::mem::replace(&mut outbox.file, File::open(&path).unwrap());
        outbox.save(&[message(2)]).unwrap_err();
        outbox.file = works;
        // It would work, but it is unknown what the file holds.
        let error = outbox.save(&[message(3)]).unwrap_err();
        assert!(error.to_string().contains("earlier write"), "{error}");
        let many = vec![message(9).id; DONE_MAX + 1];
        outbox.remove(&many).expect_err("neither is it written anew");
        assert_eq!(outbox.load().unwrap(), [message(1)], "what is not safe is not taken");
        drop(outbox);
        assert_eq!(FileOutbox::open(&path).unwrap().load().unwrap(), [message(1)]);
    }

    #[test]
    fn a_file_is_written_anew_when_more_is_done_than_it_may_hold_and_than_lives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox");
        let mut outbox = FileOutbox::open(&path).unwrap();
        outbox.save(&[message(7)]).unwrap();
        let lines = || fs::read_to_string(&path).unwrap().lines().count();
        outbox.remove(&vec![message(1).id; DONE_MAX]).unwrap();
        assert_eq!(lines(), 1 + DONE_MAX);
        outbox.remove(&[message(1).id]).unwrap();
        assert_eq!(lines(), 1, "one more was too many");
        outbox.remove(&[message(1).id]).unwrap();
        assert_eq!(lines(), 2, "it is counted from the start again");
    }

    #[test]
    fn every_sort_of_message_is_read_as_it_was_written_and_nothing_else_is() {
        let sorts = [Conversation::user(7), Conversation::group(7)].into_iter();
        let sorts = sorts.flat_map(|to| [Kind::Text, Kind::Voice].map(|kind| (to, kind)));
        for (conversation, kind) in sorts {
            let (id, data) = (ClientMsgId([0xAB; 16]), Bytes::from_static(b"\x00\xff\n"));
            let message = Unsent { id, conversation, kind, data };
            assert_eq!(read_lines(&save_line(&message)), std::slice::from_ref(&message));
            let done = save_line(&message) + &done_line(&message.id);
            assert!(read_lines(&done).is_empty());
        }
        let line = save_line(&message(2));
        for (good, bad) in [
            ("user:7", "person:7"),
            ("user:7", "user:-7"),
            ("user:7", "user"),
            ("text", "picture"),
            ("0200ff", "0200f"),
            ("02020202\"", "0202\""),
        ] {
            let spoiled = line.replace(good, bad);
            assert_ne!(spoiled, line, "{good}");
            assert!(read_lines(&spoiled).is_empty(), "{bad}");
        }
        assert_eq!(read_lines(&line.replace("ff", "FF")), [message(2)], "digits are digits");
    }

    #[test]
    fn a_memory_outbox_is_shared_by_its_clones() {
        let mut outbox = MemoryOutbox::default();
        outbox.save(&[message(1), message(2)]).unwrap();
        outbox.clone().remove(&[message(1).id]).unwrap();
        assert_eq!(outbox.load().unwrap(), [message(2)]);
    }

    fn message(number: u8) -> Unsent {
        let conversation =
            if number.is_multiple_of(2) { Conversation::user(7) } else { Conversation::group(9) };
        let kind = if number == 3 { Kind::Voice } else { Kind::Text };
        let data = Bytes::copy_from_slice(&[number, 0, 255]);
        Unsent { id: ClientMsgId([number; 16]), conversation, kind, data }
    }
}
