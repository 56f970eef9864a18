//! A replica as a process runs it: from settings to a drained stop.

use std::time::Duration;

use daemon::config::parse;
use daemon::{Context, Running, Shutdown};
use route_server::Config;

const SETTINGS: &str = "
link_addr = '127.0.0.1:0'

[cluster]
key = 'sixteen bytes, at least'
name = 'r1'
";

#[tokio::test]
async fn a_replica_listens_for_links_and_stops() {
    let settings: Config = parse(SETTINGS).unwrap();
    let context = Context::fixed(settings, Shutdown::default());
    let (metrics, shutdown) = (context.metrics.clone(), context.shutdown.clone());
    let serving = route_server::run(context).await.unwrap();
    assert_ne!(serving.addr("links").unwrap().port(), 0);
    assert!(metrics.encode().unwrap().contains("talkhub_route_server_publishes_total 0"));
    Running { serving, shutdown }.stop(Duration::from_secs(5)).await.unwrap();
}

#[test]
fn settings_without_a_key_are_refused() {
    let error = parse::<Config>("link_addr = '127.0.0.1:0'").unwrap_err();
    assert!(error.to_string().contains("cluster.key_file"), "{error}");
}
