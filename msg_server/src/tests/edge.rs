//! Who is let in, and whether anybody can be.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::harness::*;

#[tokio::test]
async fn silent_connections_make_way_and_sessions_do_not() {
    let world = World::start_with(|limits| limits.connections_max = 8).await;
    let mut anna = world.client(1, WINDOWS).await;
    let mut silent = Vec::new();
    for _connection in 0..32 {
        silent.push(TcpStream::connect(world.addr).await.unwrap());
    }
    let began = Instant::now();
    let mut bob = world.client(2, WINDOWS).await;
    // Without giving way, the first place would be free after the login limit.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for client in [&mut anna, &mut bob] {
        client.expect_quiet().await;
    }
    drop(silent);
    world.stop().await;
}

#[tokio::test]
async fn a_gateway_without_storage_for_a_second_is_not_ready_until_it_is_back() {
    let world = World::start().await;
    let ready = world.ready();
    let began = Instant::now();
    world.stop_db().await;
    let unmet = timeout(LIMIT, ready.differs_from(&[])).await.unwrap();
    assert_eq!(unmet, ["db_proxy"]);
    assert!(began.elapsed() >= Duration::from_millis(900), "a shorter gap is none");
    world.restart_db().await;
    timeout(LIMIT, ready.ready()).await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn behind_a_listed_proxy_a_clients_own_address_counts() {
    let world = World::start_behind("127.0.0.1", 1).await;
    let connect = async |from: &str| {
        let mut client = world.connect().await;
        let header = format!("PROXY TCP4 {from} 192.0.2.1 5 6\r\n");
        client.write(header.as_bytes()).await;
        client
    };
    let mut anna = connect("192.0.2.7").await;
    anna.log_in(1, WINDOWS).await;
    let mut bob = connect("192.0.2.8").await;
    bob.log_in(2, WINDOWS).await;
    let mut third = connect("192.0.2.7").await;
    third.expect_end_of_stream().await;
    anna.expect_quiet().await;

    let mut without = world.connect().await;
    without.write(&heartbeat(1)).await;
    without.expect_closed().await;
    world.stop().await;
}
