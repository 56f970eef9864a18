//! `kill -9` of every process while people talk: whatever was acknowledged is in history once, in
//! order, under the number that was acknowledged.
//!
//! `TALKHUB_ROUNDS` sets how often every process is killed, `TALKHUB_SEED` repeats the choices of an
//! earlier run.

use tests::{Cluster, Crowd, Options, Random};

const PEOPLE: u32 = 20;
/// Acknowledgements between two kills.
const ACKS_BETWEEN: usize = 30;

#[test]
fn nothing_acknowledged_is_lost_when_any_process_is_killed() {
    let rounds = std::env::var("TALKHUB_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let rounds: usize = rounds.unwrap_or(10);
    let mut random = Random::from_env();
    let cluster =
        Cluster::start_with(&Options { users: PEOPLE, group: PEOPLE, ..Options::default() });
    let mut crowd = Crowd::start(&cluster.login, None, PEOPLE);
    crowd.wait_for_acks(100);

    let mut names = cluster.names();
    let (mut kills, mut recognised) = (0, 0);
    for _round in 0..rounds {
        random.shuffle(&mut names);
        for name in &names {
            if name == "db_proxy" {
                recognised += cluster.metric(name, "talkhub_db_proxy_duplicates_total");
            }
            cluster.kill_and_wait(name);
            kills += 1;
            crowd.wait_for_acks(ACKS_BETWEEN);
        }
    }
    // And all of them at once.
    let killed: Vec<_> = names.iter().map(|name| (name, cluster.kill(name))).collect();
    for (name, pid) in killed {
        cluster.wait_restarted(name, pid);
        kills += 1;
    }
    crowd.wait_for_acks(ACKS_BETWEEN);

    let summary = crowd.finish(&cluster.gateways[0], None);
    // A run in which nothing happened proves nothing.
    assert_eq!(kills, (rounds + 1) * names.len());
    assert!(summary.acked >= kills * ACKS_BETWEEN, "{summary:?}");
    assert!(summary.reconnects >= rounds, "gateways were killed under people: {summary:?}");
    assert!(recognised > 0, "some messages were sent again: {summary:?}");
    assert!(summary.heard > summary.acked, "{summary:?}");
    println!("{kills} kills, {recognised} resends recognised, {summary:?}");
}
