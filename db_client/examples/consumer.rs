//! Prints each message of the log as `<conversation> <msg_id>`, from where the consumer of this name was. It
//! goes on through restarts of the db_proxies and its own, and moves between them; after a restart the
//! messages of the last second may be printed again.
//!
//! `cargo run -p db_client --example consumer -- <db_proxy,…> <key file> <name>`
//!
//! With `talkhub up` the addresses and the key file stand in the settings below its data folder.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::error::Error;
use std::io::{Write as _, stdout};

use daemon::{ClusterConfig, LinkOptions, Role, Shutdown};
use db_client::{Consumer, Reading};
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [addrs, key_file, name] = args.as_slice() else {
        return Err("usage: consumer <db_proxy,…> <key file> <name>".into());
    };
    let cluster = ClusterConfig {
        key_file: Some(key_file.into()),
        name: format!("{name}-{}", std::process::id()),
        ..ClusterConfig::default()
    };
    let identity = cluster.link_identity(Role::Consumer, daemon::link::new_boot())?;
    let (_unchanging, targets) = watch::channel(addrs.split(',').map(str::to_owned).collect());
    let reading = Reading { name: name.clone(), from_oldest: true, from_ms: None };
    let (options, shutdown) = (LinkOptions::default(), Shutdown::default());
    let mut consumer = Consumer::connect(targets, identity, options, reading, &shutdown);
    loop {
        let batch = consumer.next().await;
        if batch.lost {
            println!("partition {}: records are lost", batch.partition);
        }
        for (conversation, msg_id, _message) in batch.records.iter().filter_map(|one| one.message())
        {
            println!("{conversation} {}", msg_id.0);
        }
        // What was not printed is not handled.
        stdout().flush()?;
        batch.handled();
    }
}
