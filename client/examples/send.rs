//! Sends texts to a user and prints what becomes of each. With an outbox in a file, so that a run
//! that is killed and started again sends what is left.
//!
//! `cargo run --example send -- http://127.0.0.1:8080 <name> <password> <to user> <how many>`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::VecDeque;
use std::env;
use std::error::Error;

use client::{Client, Conversation, FileOutbox, Options, Sending, Servers};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [url, name, password, to, count] = args.as_slice() else {
        return Err("usage: send <login server> <name> <password> <to user> <how many>".into());
    };
    let (to, count): (u32, u32) = (to.parse()?, count.parse()?);

    let outbox = env::temp_dir().join(format!("outbox-{name}"));
    let servers = Servers::Login(vec![url.clone()]);
    let options = Options {
        outbox: Some(Box::new(FileOutbox::open(outbox)?)),
        ..Options::new(servers, name, password)
    };
    let (client, events) = Client::start(options).await?;
    drop(events); // We only send.
    if client.online().await.is_none() {
        return Err("the server does not let us in".into());
    }

    let mut under_way: VecDeque<Sending> = VecDeque::new();
    for number in 1..=count {
        if under_way.len() == 32
            && let Some(oldest) = under_way.pop_front()
        {
            println!("{:?}", oldest.await);
        }
        under_way.push_back(client.send_text(Conversation::user(to), &format!("message {number}")));
    }
    for sending in under_way {
        println!("{:?}", sending.await);
    }
    Ok(())
}
