//! The same gateway over TLS.

use std::sync::Arc;

use daemon::ListenTlsConfig;
use proto::cluster::Kind;
use proto::{Command, client, encode_message};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::harness::*;

/// A certificate that trusts itself, in files.
fn certificate() -> (TempDir, ListenTlsConfig) {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    (folder, ListenTlsConfig { listen, cert, key })
}

async fn connect(world: &World, tls: &ListenTlsConfig) -> Client<TlsStream<TcpStream>> {
    let config = daemon::tls::client_config(Some(&tls.cert)).unwrap();
    let socket = TcpStream::connect(world.tls_addr()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::clone(&config)).connect(name, socket).await.unwrap();
    Client::new(stream)
}

#[tokio::test]
async fn a_client_with_tls_is_served_like_any_other() {
    let (_folder, tls) = certificate();
    let world = World::start_with_tls(tls.clone()).await;
    let mut encrypted = connect(&world, &tls).await;
    encrypted.log_in(5, WINDOWS).await;
    let mut plain = world.client(6, WINDOWS).await;

    encrypted.send(Command::MessageData, 3, &text(6, "hello")).await;
    encrypted.expect::<client::MessageAck>(Command::MessageAck, 3).await;
    for msg_id in 1..=100 {
        world.hub.send(Kind::Publish, &publish(single(5, 6), msg_id, 7));
    }
    for msg_id in 1..=100 {
        assert_eq!(encrypted.expect_push().await.msg_id, msg_id);
        assert_eq!(plain.expect_push().await.msg_id, msg_id);
    }
    encrypted.expect_quiet().await;
    encrypted.send(Command::LogoutRequest, 9, &client::LogoutRequest::default()).await;
    encrypted.expect::<client::LogoutReply>(Command::LogoutReply, 9).await;
    encrypted.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn what_is_no_handshake_is_closed() {
    let (_folder, tls) = certificate();
    let world = World::start_with_tls(tls).await;
    let mut client = Client::new(TcpStream::connect(world.tls_addr()).await.unwrap());
    client.write(&encode_message(Command::LoginRequest, 1, &login(5, WINDOWS))).await;
    client.expect_end_of_stream().await;
    world.stop().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_come_ends_the_connection() {
    let (_folder, tls) = certificate();
    let world = World::start_with_tls(tls).await;
    let mut silent = Client::new(TcpStream::connect(world.tls_addr()).await.unwrap());
    silent.expect_end_of_stream().await;
    world.stop().await;
}

#[tokio::test]
async fn a_large_push_goes_through_tls() {
    let (_folder, tls) = certificate();
    let world = World::start_with_tls(tls.clone()).await;
    let mut encrypted = connect(&world, &tls).await;
    encrypted.log_in(5, WINDOWS).await;
    let message = client::MessageData { msg_data: vec![7; 390_000].into(), ..Default::default() };
    let mut published = publish(single(5, 6), 1, 6);
    published.frame = encode_message(Command::MessageData, 0, &message);
    world.hub.send(Kind::Publish, &published);
    assert_eq!(encrypted.expect_push().await.msg_data.len(), 390_000);
    world.stop().await;
}
