//! A client in another language, written from the protocol's description alone.

use std::process::Command;

use tests::{Cluster, PASSWORD};

#[test]
fn an_independent_client_logs_in_and_chats() {
    let python = Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|output| output.status.success()) {
        backends::skip("there is no python3 on this machine");
        return;
    }
    let cluster = Cluster::start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/teamtalk_client.py");
    let output = Command::new("python3")
        .arg("-B") // No compiled files in the source tree.
        .arg(script)
        .args([&cluster.login, "u1", "u2", PASSWORD, "1"])
        .output()
        .expect("python3 can be run");
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{wrong}");
    assert!(said.contains("ok:"), "{said}{wrong}");
    println!("{said}");
}
