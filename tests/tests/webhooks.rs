//! Webhooks: what an endpoint is told, through failures of its own and kills of everything else.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tests::{Cluster, Got, Options, Program, Receiver, Reply, free_base, verify, wait_until};
use tokio::task::JoinSet;

/// Long enough for a loaded machine on which all daemons are started again, and for an event that has to be
/// sent three times.
const PATIENCE: Duration = Duration::from_mins(3);

/// The pairs that talk.
const PAIRS: [(u32, u32); 4] = [(1, 2), (3, 4), (5, 6), (7, 8)];

/// How many texts each pair says in a round.
const ROUND: usize = 20;

fn cluster() -> Cluster {
    Cluster::start_with(&Options { private_webhooks: true, ..Options::default() })
}

fn program(cluster: &Cluster) -> Program {
    let made = cluster.admin(&["key", "create", "all", "--scope", "send,groups,admin"]);
    Program::new(&cluster.api, Some(made.expect("a key").trim()))
}

/// A webhook, and its secret.
async fn webhook(program: &Program, url: &str, events: &[&str]) -> (u64, String) {
    let wanted = json!({ "url": url, "events": events });
    let made = program.call("POST", "/v1/webhooks", &wanted).await;
    assert_eq!(made.status, 201, "{made:?}");
    let secret = made.body["secret"].as_str().expect("a secret is a text").to_owned();
    (made.body["id"].as_u64().expect("a number"), secret)
}

/// Says a text, again and again until that is answered.
async fn say(program: &Program, (from, to): (u32, u32), number: usize) {
    let name = format!("{from}-{to}-{number}");
    let body = json!({ "from": from, "to": { "user": to }, "text": name });
    program.say_until_stored(&name, &body, PATIENCE).await;
}

/// Lets all pairs talk: a round of texts, numbered after so many.
fn talk(program: &Program, after: usize) -> JoinSet<()> {
    let mut talk = JoinSet::new();
    for pair in PAIRS {
        let program = program.clone();
        talk.spawn(async move {
            for number in 1..=ROUND {
                say(&program, pair, after + number).await;
            }
        });
    }
    talk
}

/// One more api_server of a cluster.
struct Second(Child);

impl Second {
    fn start(cluster: &Cluster) -> Self {
        let base = free_base();
        let conf = cluster.data().join("conf").join("api_server.toml");
        let api = Command::new(cluster.programs().path("api_server"))
            .arg("--config")
            .arg(conf)
            .args(["--set", &format!("http_addr=127.0.0.1:{base}")])
            .args(["--set", &format!("process.metrics_addr=127.0.0.1:{}", base + 1)])
            .args(["--set", "cluster.name=api_server-2"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(api.expect("api_server can be run"))
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Checks what came of each conversation: all events, in the order of their first coming, with the same id and
/// body each time. Returns how many requests were repeats.
fn check(got: &[Got], texts: usize) -> usize {
    let mut bodies: HashMap<&str, &str> = HashMap::new();
    let mut newest: HashMap<String, u64> = HashMap::new();
    for one in got {
        if let Some(before) = bodies.insert(one.id(), &one.body) {
            assert_eq!(before, one.body, "{} is always the same", one.id());
            continue;
        }
        let event = one.event();
        let (from, msg_id) = (event["data"]["from"].to_string(), &event["data"]["msg_id"]);
        let msg_id = msg_id.as_u64().unwrap_or_else(|| panic!("no message: {event}"));
        let before = newest.insert(from, msg_id).unwrap_or(0);
        assert_eq!(msg_id, before + 1, "in order and without a hole: {event}");
        assert_eq!(event["data"]["text"].as_str().and_then(number), usize::try_from(msg_id).ok());
    }
    assert_eq!(bodies.len(), texts, "every event came");
    got.len() - bodies.len()
}

fn number(text: &str) -> Option<usize> {
    text.rsplit('-').next()?.parse().ok()
}

/// Whether each of these many events was taken.
fn all_taken(receiver: &Receiver, events: usize) -> bool {
    let got = receiver.got();
    let taken: std::collections::HashSet<_> =
        got.iter().filter(|one| one.is_taken).map(Got::id).collect();
    taken.len() == events
}

#[tokio::test(flavor = "multi_thread")]
async fn without_faults_each_event_comes_once_signed_and_in_order() {
    let (cluster, receiver) = (cluster(), Receiver::start(|_got, _before| Reply::Taken).await);
    let program = program(&cluster);
    let events = ["message.created", "group.created", "members.changed"];
    let (_webhook, secret) = webhook(&program, &receiver.url, &events).await;
    let talk = talk(&program, 0);
    talk.join_all().await;
    let texts = PAIRS.len() * ROUND;
    wait_until("all events came", PATIENCE, || all_taken(&receiver, texts));
    assert_eq!(check(&receiver.got(), texts), 0, "nothing came twice");

    let team = json!({ "name": "team", "members": [1, 2] });
    let group = program.call("POST", "/v1/groups", &team).await.body["id"].as_u64().unwrap();
    let change = json!({ "add": [3], "remove": [2] });
    let members = format!("/v1/groups/{group}/members");
    assert_eq!(program.call("POST", &members, &change).await.status, 204);
    let long = json!({ "from": 1, "to": { "group": group }, "text": "x".repeat(30_000) });
    assert_eq!(program.call("POST", "/v1/messages", &long).await.status, 201);
    wait_until("the group's events came", PATIENCE, || all_taken(&receiver, texts + 4));
    let got = receiver.got();
    let of_group: Vec<_> = got.iter().skip(texts).map(Got::event).collect();
    let types: Vec<_> = of_group.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["group.created", "members.changed", "members.changed", "message.created"]);
    assert_eq!(of_group[0]["data"]["members"], json!([1, 2]));
    // Who joins and who leaves are records of their own.
    let changed = |key: &str| {
        let of_key = of_group[1..3].iter().map(|event| event["data"][key].clone());
        of_key.filter(|users| *users != json!([])).collect::<Vec<_>>()
    };
    assert_eq!((changed("joined"), changed("left")), (vec![json!([3])], vec![json!([2])]));
    assert_eq!(of_group[3]["data"]["truncated"], true);
    let fetch = of_group[3]["data"]["fetch"].as_str().unwrap().to_owned();
    let reads = cluster.admin(&["key", "create", "reads", "--scope", "read"]).unwrap();
    let fetched = Program::new(&cluster.api, Some(reads.trim())).get(&fetch).await.body;
    assert_eq!(fetched["items"][0]["text"].as_str().map(str::len), Some(30_000));
    verify(&got, &secret);
}

/// How an endpoint fails now and then: each event at most once, so that it comes again after some seconds.
fn failing() -> impl Fn(&Got, usize) -> Reply + Send + Sync + 'static {
    let requests = AtomicUsize::new(0);
    move |_got, before| {
        let request = requests.fetch_add(1, Ordering::Relaxed);
        if before > 0 {
            return Reply::Taken;
        }
        match request % 80 {
            5 | 45 => Reply::Status(500, String::new()),
            15 => Reply::Closed,
            25 => Reply::Status(301, "location: http://127.0.0.1:1/\r\n".to_owned()),
            35 => Reply::Status(429, "retry-after: 1\r\n".to_owned()),
            50 | 51 => Reply::Late(Duration::from_millis(500)),
            55 => Reply::Huge(5 << 20),
            65 => Reply::Hang,
            75 => Reply::Drip,
            _ => Reply::Taken,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_misses_nothing_through_kills_of_everything() {
    let (cluster, receiver) = (cluster(), Receiver::start(failing()).await);
    let program = program(&cluster);
    let (_webhook, secret) = webhook(&program, &receiver.url, &["message.created"]).await;
    let mut second = Second::start(&cluster);
    for round in 0..4 {
        let talk = talk(&program, round * ROUND);
        let so_far = receiver.got().len();
        wait_until("some events came", PATIENCE, || receiver.got().len() > so_far + 20);
        match round {
            0 => {}
            1 => drop(cluster.kill("db_proxy")),
            2 => {
                cluster.kill("api_server");
                drop(second);
                second = Second::start(&cluster);
            }
            _ => {
                for name in cluster.names() {
                    cluster.kill(&name);
                }
            }
        }
        talk.join_all().await;
    }
    let texts = 4 * ROUND * PAIRS.len();
    wait_until("all events came", PATIENCE, || all_taken(&receiver, texts));
    let got = receiver.got();
    let repeats = check(&got, texts);
    let failed = got.iter().filter(|one| !one.is_taken).count();
    println!("{} requests, {failed} failed on purpose, {repeats} repeats", got.len());
    println!("{}", verify(&got, &secret));
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_is_switched_off_and_misses_nothing_when_it_is_switched_on() {
    let cluster = cluster();
    let receiver = Receiver::start(|got, before| {
        let is_second = got.event()["data"]["msg_id"] == 2;
        if is_second && before == 0 { Reply::Status(410, String::new()) } else { Reply::Taken }
    });
    let (receiver, other) = (receiver.await, Receiver::start(|_got, _before| Reply::Taken).await);
    let program = program(&cluster);
    let added = cluster.admin(&[
        "webhook",
        "add",
        &receiver.url,
        "--events",
        "message.created",
        "--name",
        "crm",
        "--json",
    ]);
    let added: Value = serde_json::from_str(&added.unwrap()).unwrap();
    let number = added["number"].to_string();
    webhook(&program, &other.url, &["message.created"]).await;
    for number in 1..=3 {
        say(&program, PAIRS[0], number).await;
    }
    let show = || cluster.admin(&["webhook", "show", &number]).unwrap();
    wait_until("it is switched off", PATIENCE, || show().contains("gone"));
    wait_until("the other webhook goes on", PATIENCE, || all_taken(&other, 3));
    assert_eq!(receiver.got().len(), 2, "nothing is sent to an endpoint that is gone");
    cluster.admin(&["webhook", "enable", &number]).unwrap();
    wait_until("it goes on", PATIENCE, || all_taken(&receiver, 3));
    check(&receiver.got(), 3);

    // What was in one batch with the event that was refused came again.
    let before = receiver.got().len();
    let second = cluster.admin(&["webhook", "rotate", &number, "--secret-days", "1"]).unwrap();
    cluster.admin(&["webhook", "replay", &number, "--last", "1h"]).unwrap();
    wait_until("everything came again", PATIENCE, || receiver.got().len() >= before + 3);
    let got = receiver.got();
    check(&got, 3);
    let again: Vec<_> = got.iter().skip(before).cloned().collect();
    verify(&again, second.trim());
    verify(&again, added["secret"].as_str().unwrap());

    cluster.admin(&["webhook", "disable", &number]).unwrap();
    assert!(show().contains("off"));
    cluster.admin(&["webhook", "remove", &number]).unwrap();
    assert!(
        cluster.admin(&["webhook", "failures", &number]).unwrap_err().contains("does not exist")
    );
    let listed = cluster.admin(&["webhook", "list"]).unwrap();
    assert!(!listed.contains("crm") && listed.contains(&other.url), "{listed}");
    let log = cluster.stop().log;
    for line in
        ["webhook added", "webhook gone", "webhook on", "webhook replayed", "webhook removed"]
    {
        assert!(log.contains(line), "{line} is missing in\n{log}");
    }
    assert!(!log.contains("whsec_"), "no secret stands there");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_leave_nothing_is_sent_to_a_private_address() {
    let cluster = Cluster::start();
    let receiver = Receiver::start(|_got, _before| Reply::Taken).await;
    let program = program(&cluster);
    webhook(&program, &receiver.url, &["message.created"]).await;
    say(&program, PAIRS[0], 1).await;
    let is_failed = |line: &str| {
        line.starts_with("talkhub_api_server_webhook_failed_tries_total{") && !line.ends_with(" 0")
    };
    let tried = || cluster.metrics("api_server").lines().any(is_failed);
    wait_until("it was tried", PATIENCE, tried);
    assert_eq!(receiver.got().len(), 0);
}

/// The endpoint of the documentation.
#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_of_the_documentation_prints_each_event_once_and_refuses_what_is_not_signed() {
    let cluster = cluster();
    let program = program(&cluster);
    let addr = format!("127.0.0.1:{}", free_base());
    let (number, secret) =
        webhook(&program, &format!("http://{addr}/"), &["message.created"]).await;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../api_server/examples/receiver.py");
    let mut python = Command::new("python3")
        .args(["-B", example, addr.rsplit(':').next().unwrap(), &secret])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 can be run");
    let lines = BufReader::new(python.stdout.take().expect("it is piped")).lines();
    let mut texts = lines.map(|line| {
        let event: Value = serde_json::from_str(&line.expect("it writes text")).expect("JSON");
        event["data"]["text"].as_str().map(str::to_owned)
    });
    wait_until("it listens", PATIENCE, || std::net::TcpStream::connect(&addr).is_ok());
    say(&program, (1, 2), 1).await;
    assert_eq!(texts.next().unwrap().as_deref(), Some("1-2-1"));
    let forged = Program::new(&format!("http://{addr}"), None);
    let headers =
        [("webhook-id", "forged"), ("webhook-timestamp", "1"), ("webhook-signature", "v1,AAAA")];
    assert_eq!(forged.send("POST", "/", &headers, Some(b"{}")).await.status, 401);
    let replay = json!({ "since": 1 });
    let path = format!("/v1/webhooks/{number}/replays");
    assert_eq!(program.call("POST", &path, &replay).await.status, 204);
    say(&program, (1, 2), 2).await;
    assert_eq!(texts.next().unwrap().as_deref(), Some("1-2-2"), "the first one is known");
    python.kill().expect("it runs");
    python.wait().expect("it was started");
}
