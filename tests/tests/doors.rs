//! The examples of db_client beside a running system: what other daemons can stand on.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use client::Session;
use tests::{Cluster, Device, Programs};

/// How many texts the example sends, and after how many of them db_proxy is killed.
const TEXTS: u32 = 60;
const KILLED_AFTER: [u32; 2] = [20, 40];

#[tokio::test(flavor = "multi_thread")]
async fn an_api_sends_each_text_once_through_kills_of_db_proxy_and_reads_them_back() {
    let cluster = Cluster::start();
    let mut ben = Device::pc(&cluster.gateways[0], 2).await;
    let mut api = Command::new(Programs::example("api"))
        .args([setting(&cluster, "link_addr"), key_file(&cluster)])
        .args(["1", "2", &TEXTS.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example can be run");
    let mut lines = BufReader::new(api.stdout.take().expect("it is piped")).lines();
    let mut next = || lines.next().expect("it goes on").expect("it writes text");
    for number in 1..=TEXTS {
        assert_eq!(next(), format!("{number} is stored as {number}"));
        if KILLED_AFTER.contains(&number) {
            cluster.kill("db_proxy");
        }
    }
    for number in (1..=TEXTS).rev() {
        assert_eq!(next(), format!("{number}: message {number}"), "the newest first");
    }
    assert!(api.wait().expect("it ends").success());
    for number in 1..=TEXTS {
        ben.hears(1, Session::user(2), &format!("message {number}")).await;
    }
}

/// The cluster's key.
fn key_file(cluster: &Cluster) -> String {
    cluster.data().join("cluster.key").display().to_string()
}

/// A setting of db_proxy that is a text.
fn setting(cluster: &Cluster, name: &str) -> String {
    let file: PathBuf = cluster.data().join("conf").join("db_proxy.toml");
    let settings = std::fs::read_to_string(file).expect("db_proxy has settings");
    let settings: toml::Table = settings.parse().expect("they are TOML");
    settings[name].as_str().expect("it is a text").to_owned()
}
