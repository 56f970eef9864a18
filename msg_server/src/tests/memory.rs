//! What an idle connection costs.

use super::harness::*;

/// The marginal cost of an idle connection. The client's end lives in this process too, so its share
/// is measured first and taken off.
#[tokio::test]
#[ignore = "measures memory: run it alone, with --release"]
async fn an_idle_connection_costs_little() {
    const CLIENTS: u32 = 2_000;
    let world = World::start().await;
    let mut clients = Vec::with_capacity(4 * CLIENTS as usize);
    for user in 1..=CLIENTS {
        clients.push(world.client(user, WINDOWS).await);
    }
    let before = resident();
    for user in CLIENTS + 1..=3 * CLIENTS {
        clients.push(world.client(user, WINDOWS).await);
    }
    let each = (resident() - before) / (2 * CLIENTS as usize);
    println!("{each} bytes for both ends of one more idle connection");
    assert!(each < 5_000, "{each}");
    drop(clients);
    world.stop().await;
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<usize>().unwrap() * 1024
}
