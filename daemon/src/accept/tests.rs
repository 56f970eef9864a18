//! Accept loops whose clients wait, make way, panic, and come through a proxy.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::Span;

use super::*;
use crate::places::Heard;

/// A port with so many places, none of which is given up.
fn listening(slots_max: usize) -> (Acceptor, SocketAddr) {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    (Acceptor::new(listener, Doors::new(slots_max)), addr)
}

/// Serves each connection until its client has gone. No connection gives way.
fn start(acceptor: Acceptor, shutdown: &Shutdown) -> tokio::sync::mpsc::Receiver<()> {
    let (served, servings) = tokio::sync::mpsc::channel(16);
    let accept = acceptor.run(shutdown.clone(), move |guest: Guest| {
        let served = served.clone();
        guest.place.settle();
        async move {
            let Guest { mut socket, place: _held, .. } = guest;
            served.send(()).await.expect("the test still counts");
            socket.read_u8().await.expect_err("the client only goes away");
        }
    });
    shutdown.spawn(Span::none(), accept);
    servings
}

#[tokio::test]
async fn a_connection_over_the_limit_waits_for_a_slot() {
    let shutdown = Shutdown::default();
    let (acceptor, addr) = listening(1);
    let mut servings = start(acceptor, &shutdown);

    let first = TcpStream::connect(addr).await.unwrap();
    servings.recv().await.unwrap();
    let second = TcpStream::connect(addr).await.unwrap();
    tokio::task::yield_now().await;
    assert!(servings.try_recv().is_err(), "the second waits in the backlog");
    drop(first);
    servings.recv().await.unwrap();

    drop(second);
    shutdown.begin();
    shutdown.drain(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_panic_frees_the_slot() {
    let shutdown = Shutdown::default();
    let (acceptor, addr) = listening(1);
    let accept = acceptor.run(shutdown.clone(), |guest| async move {
        drop(guest);
        panic!("on purpose");
    });
    shutdown.spawn(Span::none(), accept);
    for _ in 0..3 {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.read_u8().await.unwrap_err();
    }
    shutdown.begin();
    shutdown.drain(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_cancelled_token_stops_accepting_and_keeps_the_connections() {
    let shutdown = Shutdown::default();
    let (acceptor, addr) = listening(8);
    let token = CancellationToken::new();
    let mut servings = start(acceptor.until(token.clone()), &shutdown);
    let client = TcpStream::connect(addr).await.unwrap();
    servings.recv().await.unwrap();

    token.cancel();
    while TcpStream::connect(addr).await.is_ok() {
        // Until the loop has seen the token, the kernel still takes connections.
        tokio::task::yield_now().await;
    }
    assert!(!shutdown.is_begun());
    drop(client);
    shutdown.begin();
    shutdown.drain(Duration::from_secs(5)).await.unwrap();
}

#[test]
fn only_a_shortage_pauses_the_loop() {
    // Files of this process and of the machine, buffers, memory.
    for shortage in [24, 23, 105, 12] {
        assert!(is_shortage(&io::Error::from_raw_os_error(shortage)), "{shortage}");
    }
    for other in [103, 104, 4, 1] {
        assert!(!is_shortage(&io::Error::from_raw_os_error(other)), "{other}");
    }
    assert!(!is_shortage(&io::Error::from(io::ErrorKind::ConnectionAborted)));
}

/// Echoes what each client sends, after the client's address, unless it has to give way.
fn echo(doors: Doors, shutdown: &Shutdown) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    let serve = |guest: Guest| async move {
        let Guest { socket, peer, place } = guest;
        let mut socket = Heard::new(socket, place.clone());
        let echo = async {
            socket.write_all(format!("{}\n", peer.ip()).as_bytes()).await?;
            let (mut from, mut to) = tokio::io::split(socket);
            tokio::io::copy(&mut from, &mut to).await
        };
        place.unless_told(echo).await.map(drop).unwrap_or_default();
    };
    let accept = Acceptor::new(listener, doors).run(shutdown.clone(), serve);
    shutdown.spawn(Span::none(), accept);
    addr
}

async fn line(socket: &mut TcpStream) -> String {
    let read = async {
        let mut line = Vec::new();
        loop {
            match socket.read_u8().await.unwrap() {
                b'\n' => return String::from_utf8(line).unwrap(),
                byte => line.push(byte),
            }
        }
    };
    timeout(Duration::from_secs(10), read).await.expect("a line in time")
}

#[tokio::test]
async fn silent_connections_make_way_for_the_next_client() {
    let shutdown = Shutdown::default();
    let addr = echo(Doors::new(16), &shutdown);
    let mut silent = Vec::new();
    for _connection in 0..40 {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        line(&mut socket).await;
        silent.push(socket);
    }
    let mut next = TcpStream::connect(addr).await.unwrap();
    assert_eq!(line(&mut next).await, "127.0.0.1");
    next.write_all(b"still here\n").await.unwrap();
    assert_eq!(line(&mut next).await, "still here");
    assert_eq!(silent[0].read(&mut [0; 1]).await.unwrap_or(0), 0, "the first has made way");
    silent[39].write_all(b"so am I\n").await.unwrap();
    assert_eq!(line(&mut silent[39]).await, "so am I");
    shutdown.begin();
}

#[tokio::test]
async fn only_a_listed_proxy_can_say_where_the_client_is() {
    let shutdown = Shutdown::default();
    let proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let metrics = PlaceMetrics::default();
    let doors = Doors { proxies, metrics: metrics.clone(), ..Doors::new(16) };
    let addr = echo(doors, &shutdown);
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 5 6\r\nhello\n").await.unwrap();
    assert_eq!(line(&mut socket).await, "192.0.2.7");
    assert_eq!(line(&mut socket).await, "hello");

    let mut wrong = TcpStream::connect(addr).await.unwrap();
    wrong.write_all(b"hello\n").await.unwrap();
    assert_eq!(wrong.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed without an answer");
    assert_eq!(metrics.bad_proxy_headers.get(), 1);

    let direct = echo(Doors::new(16), &shutdown);
    let mut socket = TcpStream::connect(direct).await.unwrap();
    assert_eq!(line(&mut socket).await, "127.0.0.1");
    socket.write_all(b"PROXY UNKNOWN\n").await.unwrap();
    assert_eq!(line(&mut socket).await, "PROXY UNKNOWN", "the client's own bytes");
    shutdown.begin();
}

#[tokio::test]
async fn one_address_behind_a_proxy_has_its_share_and_others_have_theirs() {
    let shutdown = Shutdown::default();
    let proxies = vec!["127.0.0.1".parse().unwrap()];
    let doors = Doors { proxies, places_per_address: 2, ..Doors::new(16) };
    let addr = echo(doors, &shutdown);
    let connect = async |from: &str| {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        let header = format!("PROXY TCP6 {from} ::1 5 6\r\n");
        socket.write_all(header.as_bytes()).await.unwrap();
        line(&mut socket).await;
        socket
    };
    let mut other = connect("2001:db8:0:2::1").await;
    let mut mine = Vec::new();
    for host in 1..=3 {
        // Time enough for the one before to count as silent.
        tokio::task::yield_now().await;
        sleep(Duration::from_millis(25)).await;
        mine.push(connect(&format!("2001:db8:0:1::{host}")).await);
    }
    assert_eq!(mine[0].read(&mut [0; 1]).await.unwrap_or(0), 0, "the third of one /64");
    for socket in [&mut mine[2], &mut other] {
        socket.write_all(b"here\n").await.unwrap();
        assert_eq!(line(socket).await, "here");
    }
    shutdown.begin();
}

#[test]
fn the_last_numbers_of_files_are_not_for_clients() {
    let max = i32::try_from(files_max().min(1 << 30)).unwrap();
    let kept = i32::try_from(FILES_KEPT).unwrap();
    spare(max - kept - 1).unwrap();
    assert!(is_shortage(&spare(max - kept).unwrap_err()));
}

/// Time is paused: it jumps to the next timer whenever all tasks wait.
#[tokio::test(start_paused = true)]
async fn a_proxy_that_dawdles_is_let_go_after_three_seconds_and_one_that_leaves_is_no_fault() {
    let shutdown = Shutdown::default();
    let metrics = PlaceMetrics::default();
    let proxies = vec!["127.0.0.1".parse().unwrap()];
    let doors = Doors { proxies, metrics: metrics.clone(), ..Doors::new(16) };
    let addr = echo(doors, &shutdown);
    // A health check: it connects, and leaves.
    drop(TcpStream::connect(addr).await.unwrap());
    let began = tokio::time::Instant::now();
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(b"PROXY TCP4 192.0.2.7").await.unwrap();
    assert_eq!(socket.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed without an answer");
    let took = began.elapsed();
    let limit = Duration::from_secs(3);
    assert!((limit..limit + Duration::from_millis(100)).contains(&took), "{took:?}");
    assert_eq!(metrics.bad_proxy_headers.get(), 1, "the one that dawdled");
    shutdown.begin();
    shutdown.drain(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_proxy_that_waits_with_its_header_makes_way_too() {
    let shutdown = Shutdown::default();
    let metrics = PlaceMetrics::default();
    let proxies = vec!["127.0.0.1".parse().unwrap()];
    let doors = Doors { proxies, metrics: metrics.clone(), ..Doors::new(2) };
    let addr = echo(doors, &shutdown);
    let mut silent = Vec::new();
    for _connection in 0..6 {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    let mut next = TcpStream::connect(addr).await.unwrap();
    next.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 5 6\r\n").await.unwrap();
    assert_eq!(line(&mut next).await, "192.0.2.7");
    assert!(metrics.gave_way.get() >= 5, "{}", metrics.gave_way.get());
    assert_eq!(metrics.bad_proxy_headers.get(), 0);
    shutdown.begin();
}

#[tokio::test]
async fn connections_of_links_outlive_the_beginning_of_the_end() {
    let shutdown = Shutdown::default();
    let (acceptor, addr) = listening(8);
    let (served, mut servings) = tokio::sync::mpsc::channel(8);
    let serve = move |guest: Guest| {
        let served = served.clone();
        async move { served.send(guest).await.expect("the test holds them") }
    };
    shutdown.spawn_link(Span::none(), acceptor.run_in(Group::Links, shutdown.clone(), serve));
    shutdown.begin();
    let _client = TcpStream::connect(addr).await.unwrap();
    let guest = servings.recv().await.unwrap();
    assert!(guest.peer.ip().is_loopback());
    shutdown.drain(Duration::from_secs(5)).await.unwrap();
    TcpStream::connect(addr).await.expect_err("the loop has ended, and with it the listener");
}
