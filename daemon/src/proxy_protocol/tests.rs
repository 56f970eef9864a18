//! Headers as balancers write them, and what is none.

use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A header of version 2.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend_from_slice(&[0x20 | command, family]);
    header.extend_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
    header.extend_from_slice(rest);
    header
}

/// The addresses of version 2: source, destination, ports.
fn binary_from(source: SocketAddr, extra: &[u8]) -> Vec<u8> {
    let (family, ip) = match source.ip() {
        IpAddr::V4(ip) => (0x11, ip.octets().to_vec()),
        IpAddr::V6(ip) => (0x21, ip.octets().to_vec()),
    };
    let mut rest = ip.clone();
    rest.extend_from_slice(&ip);
    rest.extend_from_slice(&source.port().to_be_bytes());
    rest.extend_from_slice(&8000_u16.to_be_bytes());
    rest.extend_from_slice(extra);
    binary(1, family, &rest)
}

fn header_of(source: SocketAddr, version: u8) -> Vec<u8> {
    if version == 2 {
        return binary_from(source, b"");
    }
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (ip, port) = (source.ip(), source.port());
    format!("PROXY {family} {ip} {ip} {port} 8000\r\n").into_bytes()
}

#[test]
fn the_examples_of_the_specification_are_read() {
    for (line, source) in [
        ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", Some("192.168.0.1:56324")),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            Some("255.255.255.255:65535"),
        ),
        ("PROXY TCP6 2001:db8::7 ::1 1 2\r\n", Some("[2001:db8::7]:1")),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    ] {
        let found = parse(line.as_bytes());
        assert_eq!(found, Ok(Found::Header(line.len(), source.map(addr))), "{line}");
    }
}

#[test]
fn version_2_keeps_the_proxys_address_where_it_speaks_for_itself() {
    let four = binary_from(addr("192.0.2.7:56324"), b"");
    assert_eq!(parse(&four), Ok(Found::Header(28, Some(addr("192.0.2.7:56324")))));
    let more = binary_from(addr("[2001:db8::1]:9"), &[4, 0, 1, 0]);
    assert_eq!(parse(&more), Ok(Found::Header(56, Some(addr("[2001:db8::1]:9")))));
    for local in [
        binary(0, 0, b""),
        binary(0, 0x11, &[0; 12]),
        binary(1, 0, b"x"),
        binary(1, 0x31, &[0; 216]),
    ] {
        assert_eq!(parse(&local), Ok(Found::Header(local.len(), None)));
    }
}

#[test]
fn what_is_no_header_is_refused() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "PROXY\r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        "PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n\r\n",
        "proxy UNKNOWN\r\n",
        "\0\0\0\x10",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(NotAHeader), "{line:?}");
    }
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_LEN_MAX));
    assert_eq!(parse(long.as_bytes()), Err(NotAHeader));
    let mut other_version = binary(1, 0x11, &[0; 12]);
    other_version[12] = 0x31;
    assert_eq!(parse(&other_version), Err(NotAHeader));
    for wrong in [
        binary(2, 0x11, &[0; 12]),
        binary(1, 0x11, &[0; 11]),
        binary(1, 0x21, &[0; 35]),
        binary(1, 0x12, &[0; 12]),
    ] {
        assert_eq!(parse(&wrong), Err(NotAHeader));
    }
    assert_eq!(parse(&binary(1, 0x11, &[0; HEADER_LEN_MAX])), Err(NotAHeader), "too long");
}

#[test]
fn the_longest_line_of_all_is_read() {
    let line =
        format!("PROXY TCP6 {0} {0} 65535 65535\r\n", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    assert!(line.len() <= LINE_LEN_MAX);
    assert!(matches!(parse(line.as_bytes()), Ok(Found::Header(_, Some(_)))));
}

fn any_source() -> impl Strategy<Value = SocketAddr> {
    let four = any::<[u8; 4]>().prop_map(IpAddr::from);
    let six = any::<[u8; 16]>().prop_map(IpAddr::from);
    (prop_oneof![four, six], any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

proptest! {
    #[test]
    fn a_header_says_its_source_whatever_follows_and_is_a_part_until_it_is_whole(
        source in any_source(),
        version in 1..=2_u8,
        after in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let header = header_of(source, version);
        for len in 0..header.len() {
            prop_assert_eq!(parse(&header[..len]), Ok(Found::Part), "{} bytes", len);
        }
        let mut bytes = header.clone();
        bytes.extend_from_slice(&after);
        prop_assert_eq!(parse(&bytes), Ok(Found::Header(header.len(), Some(source))));
    }

    #[test]
    fn nothing_is_found_beyond_what_there_is(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let marked = [SIGNATURE.as_slice(), &bytes].concat();
        for bytes in [bytes, marked] {
            match parse(&bytes) {
                Ok(Found::Header(len, _source)) => prop_assert!(len <= bytes.len()),
                Ok(Found::Part) => prop_assert!(bytes.len() < HEADER_LEN_MAX),
                Err(NotAHeader) => {}
            }
        }
    }
}

#[tokio::test]
async fn the_clients_bytes_behind_the_header_are_left_however_they_arrive() {
    let source = addr("192.0.2.7:56324");
    for version in [1, 2] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut socket, _peer) = listener.accept().await.unwrap();
        let header = header_of(source, version);
        let write = async {
            for byte in &header {
                client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.write_all(b"client").await.unwrap();
        };
        let (read, ()) = tokio::join!(read(&mut socket), write);
        assert_eq!(read.unwrap(), Some(source));
        let mut rest = [0; 6];
        socket.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"client");
    }
}

#[tokio::test]
async fn a_connection_that_ends_within_its_header_is_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut socket, _peer) = listener.accept().await.unwrap();
    client.write_all(b"PROXY TC").await.unwrap();
    drop(client);
    assert!(matches!(read(&mut socket).await, Err(HeaderError::Io(_))));
}
