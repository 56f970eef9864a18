//! Logs in and answers every text with the same text.
//!
//! `cargo run --example echo -- http://127.0.0.1:8080 <name> <password>`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;

use client::{Client, Event, Kind, Options, Servers};
use proto::ids::UserId;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [url, name, password] = args.as_slice() else {
        return Err("usage: echo <login server> <name> <password>".into());
    };
    let servers = Servers::Login(vec![url.clone()]);
    let (client, mut events) = Client::start(Options::new(servers, name, password)).await?;

    let mut me = UserId(0);
    while let Some(event) = events.next().await {
        match event {
            Event::Connected { user, .. } => {
                me = UserId(user.user_id);
                println!("logged in as {} ({})", user.nick_name, user.user_id);
            }
            Event::Message(message) if message.from != me && message.kind == Kind::Text => {
                let Ok(text) = message.text() else { continue };
                println!("{:?} #{}: {text}", message.conversation, message.msg_id.0);
                // Not awaited: the message is on its way in any case.
                drop(client.send_text(message.conversation, &text));
                drop(client.mark_read(message.conversation, message.msg_id).await);
            }
            Event::Message(_) => {}
            other => println!("{other:?}"),
        }
    }
    Ok(())
}
