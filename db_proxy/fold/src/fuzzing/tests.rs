//! The corpus of the target that folds records, and random bytes.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proto::log::{self, record::Change};

use super::*;

#[test]
fn the_corpus_of_the_record_target_holds() {
    let corpus = corpus();
    assert!(corpus.len() >= 10, "{} files", corpus.len());
    for data in &corpus {
        log_record(data);
    }
}

#[test]
fn a_corpus_with_wrong_bytes_holds() {
    let records = corpus();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    let which = any::<prop::sample::Index>();
    proptest!(config(), |(which in which, changes in changes)| {
        let mut data = which.get(&records).clone();
        for (place, byte) in &changes {
            let place = place.index(data.len());
            data[place] = *byte;
        }
        log_record(&data);
    });
}

#[test]
fn arbitrary_bytes_are_folded() {
    let data = prop::collection::vec(any::<u8>(), 0..600);
    proptest!(config(), |(data in data)| log_record(&data));
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() }
}

/// To be run by hand when the bytes of a record change: it makes the corpus anew.
#[test]
#[ignore = "writes into the source tree"]
fn the_corpus_is_written() {
    for (name, data) in record_corpus() {
        fs::write(corpus_dir().join(name), data).unwrap();
    }
}

fn corpus_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/log_record")
}

fn corpus() -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(corpus_dir()).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

fn record_corpus() -> Vec<(&'static str, Vec<u8>)> {
    let message = |conversation: u64, id: u8, fingerprint| {
        Change::Message(log::Message {
            conversation,
            sender: 1,
            client_msg_id: Bytes::from(vec![id; 16]),
            fingerprint,
            r#type: 1,
            body: Bytes::from_static(b"body"),
            ..Default::default()
        })
    };
    let (two, group) = (1 << 32 | 2, 7);
    let created = || {
        Change::GroupCreated(log::GroupCreated {
            group: 7,
            creator: 1,
            group_type: 2,
            name: "name".to_owned(),
            avatar: String::new(),
            members: vec![1, 2],
        })
    };
    let changed = |added: &[u32], removed: &[u32]| {
        Change::MembersChanged(log::MembersChanged {
            group: 7,
            actor: 1,
            added: added.to_vec(),
            removed: removed.to_vec(),
            deleted: None,
        })
    };
    let read = |conversation, msg_id| {
        Change::Read(log::Read { conversation, user: 2, msg_id, own_up_to: 0 })
    };
    let removed = || Change::SessionRemoved(log::SessionRemoved { conversation: two, user: 2 });
    let shield = || Change::Shield(log::Shield { conversation: two, user: 2, on: true });
    let epoch = |epoch| Change::Epoch(log::Epoch { epoch, owner: "owner".to_owned() });
    let version = |version| Change::FoldVersion(log::FoldVersion { version });
    let of = |changes: Vec<Change>| file(changes.into_iter().map(|one| (one, 1)).collect());
    let group = |id| message(group, id, None);
    vec![
        ("message", of(vec![message(two, 1, None)])),
        ("messages", of(vec![message(two, 1, None), message(two, 2, None)])),
        ("repeated_id", of(vec![message(two, 1, None), message(two, 1, None)])),
        ("fingerprint", of(vec![message(two, 1, Some(9)), message(two, 2, Some(9))])),
        ("group", of(vec![created(), group(1), group(2)])),
        ("joined", of(vec![created(), group(1), changed(&[3], &[]), group(2)])),
        ("left_and_back", of(vec![created(), changed(&[], &[2]), group(1), changed(&[2], &[])])),
        ("read", of(vec![message(two, 1, None), read(two, 1)])),
        ("session_removed", of(vec![message(two, 1, None), removed()])),
        ("shield", of(vec![shield(), message(two, 1, None)])),
        ("epochs", file(vec![(epoch(1), 1), (epoch(2), 2), (message(two, 1, None), 1)])),
        ("version", of(vec![version(1), message(two, 1, None)])),
        ("version_of_the_future", of(vec![message(two, 1, None), version(2)])),
        ("short_id", {
            let mut data = of(vec![message(two, 1, None)]);
            data.truncate(20);
            data
        }),
        ("garbage", b"\x03\xff\xff\xff\x00\x02\xa2\x06".to_vec()),
    ]
}

fn file(changes: Vec<(Change, u64)>) -> Vec<u8> {
    let mut data = Vec::new();
    for (change, epoch) in changes {
        let payload = crate::admission::record(change, epoch).encode_to_vec();
        data.push(u8::try_from(payload.len()).unwrap());
        data.extend(payload);
    }
    data
}
