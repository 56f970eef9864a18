//! A client command is added in three crates and is served, as CONTRIBUTING.md says.
//!
//! `tests/added-command` adds one to a copy of the tree, builds that, and runs the last test here with it.
//! That takes minutes, so that the everyday tests only hold what it adds against the tree and the page.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use client::{ClientType, Connection, hello};
use proto::Frame;
use tests::{Cluster, PASSWORD};

/// What is added.
const PATCH: &str = include_str!("../added-command.patch");

/// The page, and where on it the example is.
const PAGE: &str = include_str!("../../CONTRIBUTING.md");
const SECTION: &str = "## How to add a client command\n";

/// The number of the added command. The next one is its reply's.
const ADDED: u16 = 0x20fe;

#[test]
fn a_command_is_added_in_three_crates() {
    let crates: BTreeSet<&str> = files().filter_map(|(path, _)| path.split('/').next()).collect();
    assert_eq!(crates, ["db_proxy", "msg_server", "proto"].into());
}

#[test]
fn what_is_added_fits_the_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (path, hunks) in files() {
        let text = fs::read_to_string(root.join(path)).unwrap_or_default();
        for hunk in hunks.split("\n@@").skip(1) {
            let lines = hunk.lines().skip(1);
            let kept: Vec<&str> = lines.filter_map(|line| line.strip_prefix(' ')).collect();
            let kept = kept.join("\n");
            assert!(
                text.contains(&kept),
                "{path} has other lines than tests/added-command.patch expects there:\n{kept}"
            );
        }
    }
}

#[test]
fn the_page_shows_what_is_added() {
    let section = PAGE.split(SECTION).nth(1).and_then(|rest| rest.split("\n## ").next());
    let examples = section.expect("the page has the section").split("```").skip(1).step_by(2);
    let shown: Vec<&str> = examples
        .flat_map(|example| example.lines().skip(1))
        .filter(|line| !line.is_empty())
        .collect();
    assert!(shown.len() > 20, "the page has an example");
    for line in shown {
        let added = PATCH.lines().filter_map(|line| line.strip_prefix('+')).map(str::trim);
        assert!(added.into_iter().any(|added| added == line.trim()), "not in the patch: {line}");
    }
}

/// The files that are changed, and how.
fn files() -> impl Iterator<Item = (&'static str, &'static str)> {
    PATCH
        .split("\n+++ b/")
        .skip(1)
        .filter_map(|file| file.split_once('\n').map(|(path, _)| (path, file)))
}

#[tokio::test]
#[ignore = "the command is in what tests/added-command builds, and nowhere else"]
async fn an_added_command_is_served() {
    let cluster = Cluster::start();
    let mut anna = log_in(&cluster, "u1").await;
    let request = Frame { command: ADDED, seq: 7, body: vec![0x08, 1].into() };
    anna.send_frame(&request).await.expect("ask how many are in group 1");
    let reply = anna.reply_to(7).await.expect("an answer");
    assert_eq!((reply.command, &reply.body[..]), (ADDED + 1, &[0x08, 1, 0x10, 10][..]));

    let mut stranger = log_in(&cluster, "u11").await;
    stranger.send_frame(&request).await.expect("ask about a group of others");
    stranger.heartbeat().await.expect("the connection goes on");
    let answer = stranger.expect_silence(Duration::ZERO).await;
    assert!(answer.is_ok(), "{answer:?}");
}

async fn log_in(cluster: &Cluster, name: &str) -> Connection {
    let gateway = &cluster.gateways[0];
    let mut connection = Connection::connect(gateway, None).await.expect("connect");
    connection.login(name, PASSWORD, ClientType::Mac, Some(hello())).await.expect("log in");
    connection
}
