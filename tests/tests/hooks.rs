//! Hooks: programs that are asked about messages before they are stored.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use client::{Client, Conversation, Draft, Outcome, Servers};
use proto::Command;
use proto::client::RefuseReason;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{Cluster, Device, Got, Options, PASSWORD, Program, Receiver, Reply, verify};
use tokio::task::JoinSet;

/// Long enough for a loaded machine on which all daemons are started again.
const PATIENCE: Duration = Duration::from_mins(3);

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A cluster with these hooks; each is given the secret.
fn cluster(hooks: &[&str]) -> (Cluster, TempDir) {
    let folder = TempDir::new().expect("a folder");
    let (file, secret) = (folder.path().join("hooks.toml"), folder.path().join("secret"));
    fs::write(&secret, SECRET).expect("keep the secret");
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("close it");
    let table = |hook: &&str| format!("[[hooks]]\nsecret_file = '{}'\n{hook}\n", secret.display());
    fs::write(&file, hooks.iter().map(table).collect::<String>()).expect("keep the hooks");
    (Cluster::start_with(&Options { hooks: Some(file), ..Options::default() }), folder)
}

fn program(cluster: &Cluster) -> Program {
    let made = cluster.admin(&["key", "create", "all", "--scope", "send,read"]);
    Program::new(&cluster.api, Some(made.expect("a key").trim()))
}

async fn library(cluster: &Cluster, user: u32) -> Client {
    let servers = Servers::Login(vec![cluster.login.clone()]);
    let options = client::Options::new(servers, format!("u{user}"), PASSWORD);
    Client::start(options).await.expect("a client starts").0
}

fn refused(text: &str) -> Outcome {
    Outcome::Refused { reason: Some(RefuseReason::ByHook), text: Some(text.to_owned()) }
}

fn text_of(got: &Got) -> String {
    got.event()["data"]["text"].as_str().unwrap_or_default().to_owned()
}

/// Refuses what is bad, lowers what is loud, and lets the rest pass.
fn moderate(got: &Got, _before: usize) -> Reply {
    let text = text_of(got);
    Reply::Says(if text.contains("bad") {
        json!({ "verdict": "refuse", "reason": "not here" })
    } else if text.contains("LOUD") {
        json!({ "verdict": "change", "text": text.to_lowercase() })
    } else {
        json!({ "verdict": "allow" })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_lets_messages_pass_changes_them_and_refuses_them_and_everybody_is_told() {
    let moderator = Receiver::start(moderate).await;
    let (cluster, _folder) =
        cluster(&[&format!("name = 'words'\nurl = '{}'\nlimit_ms = 5000", moderator.url)]);
    let program = program(&cluster);
    let (anna, to_ben) = (library(&cluster, 1).await, Conversation::user(2));
    let mut ben = Device::pc(&cluster.gateways[0], 2).await;

    // A client that knows the extension is told why.
    assert_eq!(anna.send_text(to_ben, "a bad word").await, refused("not here"));
    assert!(matches!(anna.send_text(to_ben, "LOUD").await, Outcome::Ok { .. }));
    ben.hears(1, to_ben, "loud").await;

    // One that does not gets no answer, and its line goes on.
    let mut carl = Device::pc(&cluster.gateways[1], 3).await;
    let bad = Draft::text(to_ben, "bad again").without_id();
    carl.send(Command::MessageData, &bad.to_wire()).await;
    assert_eq!(carl.say(to_ben, "good").await, 1, "what was refused has no number");
    ben.hears(3, to_ben, "good").await;
    ben.heard_nothing(Command::MessageData).await;

    // A program is told as well, and its repeat is the same message, which no hook is asked about again.
    let bad = json!({ "from": 1, "to": { "group": 1 }, "text": "bad" });
    let answer = program.say("bad", &bad).await;
    assert_eq!((answer.status, answer.code()), (403, "refused_by_hook"), "{answer:?}");
    assert_eq!(answer.body["detail"], "not here");
    let loud = json!({ "from": 1, "to": { "group": 1 }, "text": "LOUD" });
    let asked = |moderator: &Receiver| moderator.got().len();
    assert_eq!(program.say("loud", &loud).await.body["msg_id"], 1);
    let before = asked(&moderator);
    assert_eq!(program.say("loud", &loud).await.body["msg_id"], 1);
    assert_eq!(asked(&moderator), before);
    let other = json!({ "from": 1, "to": { "group": 1 }, "text": "loud" });
    assert_eq!(program.say("loud", &other).await.code(), "idempotency_key_reused");

    assert_eq!(ben.texts(Conversation::user(1)).await, ["loud"]);
    assert_eq!(ben.texts(Conversation::group(1)).await, ["loud"]);
    // What is no message is not asked about.
    ben.read(Conversation::user(1), 1).await;
    let got = moderator.got();
    verify(&got, SECRET);
    // What is said in one line is asked about at once: only what comes of it is in order.
    let asked: BTreeSet<_> = got.iter().map(|got| (text_of(got), source(got))).collect();
    assert_eq!(got.len(), asked.len(), "each once");
    let expected = [
        ("a bad word", "client"),
        ("LOUD", "client"),
        ("bad again", "client"),
        ("good", "client"),
        ("bad", "api"),
        ("LOUD", "api"),
    ];
    assert_eq!(asked, expected.map(|(text, source)| (text.to_owned(), source.to_owned())).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_hooks_away() {
    let moderator = Receiver::start(moderate).await;
    let (cluster, _folder) =
        cluster(&[&format!("name = 'words'\nurl = '{}'\nlimit_ms = 5000", moderator.url)]);
    let program = program(&cluster);
    let bad = json!({ "from": 1, "to": { "user": 2 }, "text": "bad" });
    assert_eq!(program.say("before", &bad).await.code(), "refused_by_hook");
    let conf = cluster.data().join("conf").join("api_server.toml");
    let mut settings: toml::Table = fs::read_to_string(&conf).unwrap().parse().unwrap();
    settings.remove("hooks").expect("they are there");
    fs::write(&conf, settings.to_string()).unwrap();
    cluster.reload("api_server");
    assert_eq!(program.say_until_stored("after", &bad, PATIENCE).await, 1);
}

fn source(got: &Got) -> String {
    got.event()["data"]["source"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_hangs_costs_only_those_it_is_asked_about_and_its_rule_says_what_becomes_of_them()
 {
    let hangs = Receiver::start(|_got, _before| Reply::Hang).await;
    let hook = |name: &str, sender: u32, rule: &str| {
        let url = &hangs.url;
        format!("name = '{name}'\nurl = '{url}'\nlimit_ms = 100\nsenders = [{sender}]\n{rule}")
    };
    let (closed, open) = (hook("closed", 1, ""), hook("open", 3, "on_failure = 'allow'"));
    let (cluster, _folder) = cluster(&[&closed, &open]);
    let (anna, ben, carl) =
        (library(&cluster, 1).await, library(&cluster, 2).await, library(&cluster, 3).await);
    let held: Vec<_> =
        (0..10).map(|number| anna.send_text(Conversation::user(4), &format!("{number}"))).collect();
    for number in 1..=100 {
        let sent = ben.send_text(Conversation::user(4), "hello").await;
        assert!(matches!(sent, Outcome::Ok { msg_id, .. } if msg_id.0 == number), "{sent:?}");
    }
    for sending in held {
        assert_eq!(sending.await, refused("it could not be checked"));
    }
    assert!(matches!(carl.send_text(Conversation::user(4), "hello").await, Outcome::Ok { .. }));
    let asked: Vec<_> = hangs.got().iter().map(|got| got.event()["data"]["from"].clone()).collect();
    assert!(!asked.is_empty() && !asked.contains(&Value::from(2)), "{asked:?}");
    let mut dora = Device::pc(&cluster.gateways[0], 4).await;
    assert_eq!(dora.texts(Conversation::user(1)).await, [""; 0]);
    assert_eq!(dora.texts(Conversation::user(3)).await, ["hello"]);
}

/// Fails, is late, and changes what it lets pass.
fn unsteady() -> impl Fn(&Got, usize) -> Reply + Send + Sync + 'static {
    let asked = AtomicUsize::new(0);
    move |got, _before| match asked.fetch_add(1, Ordering::Relaxed) % 23 {
        5 => Reply::Status(500, String::new()),
        11 => Reply::Closed,
        17 => Reply::Hang,
        _ => Reply::Says(json!({ "verdict": "change", "text": format!("{}!", text_of(got)) })),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hook_has_changed_is_stored_once_through_kills_of_everything() {
    const PAIRS: [(u32, u32); 4] = [(1, 2), (3, 4), (5, 6), (7, 8)];
    const ROUND: u32 = 25;
    let hook = Receiver::start(unsteady()).await;
    let rule = format!("name = 'marks'\nurl = '{}'\nlimit_ms = 500", hook.url);
    let (cluster, _folder) = cluster(&[&rule]);
    let program = program(&cluster);
    for round in 0..4 {
        let mut talk = JoinSet::new();
        for (from, to) in PAIRS {
            let program = program.clone();
            talk.spawn(async move {
                for number in round * ROUND + 1..=(round + 1) * ROUND {
                    let name = format!("{from}-{number}");
                    let body = json!({ "from": from, "to": { "user": to }, "text": name });
                    let msg_id = program.say_until_stored(&name, &body, PATIENCE).await;
                    assert_eq!(msg_id, number, "{name}");
                }
            });
        }
        let so_far = hook.got().len();
        tests::wait_until("the hook is asked", PATIENCE, || hook.got().len() > so_far + 10);
        match round {
            0 => {
                cluster.kill("db_proxy");
            }
            1 => {
                cluster.kill("api_server");
            }
            2 => {
                for name in cluster.names() {
                    cluster.kill(&name);
                }
            }
            _ => {}
        }
        talk.join_all().await;
    }
    for (from, to) in PAIRS {
        let mut reader = Device::pc(&cluster.gateways[0], to).await;
        let expected: Vec<_> = (1..=4 * ROUND).map(|number| format!("{from}-{number}!")).collect();
        assert_eq!(reader.texts(Conversation::user(from)).await, expected);
    }
    println!("{} questions about {} messages", hook.got().len(), PAIRS.len() * 4 * 25);
    verify(&hook.got(), SECRET);
}
