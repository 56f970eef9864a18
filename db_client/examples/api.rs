//! Sends texts as one user to another, as an HTTP API would, and reads the newest page of what was said.
//! It goes on through restarts of the db_proxies and moves between them; each text is stored once.
//!
//! `cargo run -p db_client --example api -- <db_proxy,…> <key file> <from user> <to user> <how many>`
//!
//! With `talkhub up` the addresses and the key file stand in the settings below its data folder.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;
use std::time::Duration;

use daemon::{ClusterConfig, LinkOptions, Role, Shutdown};
use db_client::{DbClient, NewMessage};
use prost::Message as _;
use proto::client::{MessageListReply, MessageListRequest, MessageType, SessionType};
use proto::ids::{ClientMsgId, ConversationId, UserId};
use proto::{StorageCommand, text};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long one call may take: longer than a db_proxy needs to start again.
const LIMIT: Duration = Duration::from_mins(1);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [addrs, key_file, from, to, count] = args.as_slice() else {
        return Err("usage: api <db_proxy,…> <key file> <from user> <to user> <how many>".into());
    };
    let (from, to, count) = (UserId(from.parse()?), UserId(to.parse()?), count.parse::<u32>()?);
    let conversation = ConversationId::single(from, to).ok_or("two users talk")?;

    let cluster = ClusterConfig {
        key_file: Some(key_file.into()),
        name: format!("example-{}", std::process::id()),
        ..ClusterConfig::default()
    };
    let boot = daemon::link::new_boot();
    let identity = cluster.link_identity(Role::ApiServer, boot)?;
    let (_unchanging, targets) = watch::channel(addrs.split(',').map(str::to_owned).collect());
    let shutdown = Shutdown::default();
    let client = DbClient::connect(targets, identity, LinkOptions::default(), &shutdown);

    for number in 1..=count {
        let mut name = [0; 16];
        name[..8].copy_from_slice(&boot.to_be_bytes());
        name[12..].copy_from_slice(&number.to_be_bytes());
        let message = NewMessage {
            sender: from,
            conversation,
            client_msg_id: ClientMsgId(name),
            kind: MessageType::SingleText as u32,
            body: text::encrypt(&format!("message {number}")),
            resend: false,
        };
        let sent = client.send(message, Instant::now() + LIMIT).await?;
        println!("{number} is stored as {}", sent.msg_id.0);
    }

    let request = MessageListRequest {
        session_type: SessionType::Single as i32,
        session_id: to.0,
        msg_count: 100,
        ..MessageListRequest::default()
    };
    let until = Instant::now() + LIMIT;
    let answer = client.ask(from, StorageCommand::MessageListRequest, &request, until).await?;
    let page = MessageListReply::decode(answer.body.unwrap_or_default())?;
    for message in &page.messages {
        println!("{}: {}", message.msg_id, text::decrypt(&message.msg_data)?);
    }
    Ok(())
}
