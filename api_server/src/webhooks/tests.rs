//! Webhooks with a db_proxy and endpoints that do what the test says.

mod db;
mod failing;
mod receiver;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::clock::{unix_ms, unix_s};
use daemon::http_client::AnswerLimits;
use daemon::webhook_signature::WebhookSecret;
use daemon::{LinkOptions, Metrics, Role, Shutdown};
use db_client::{Consumer, DbClient, Reading};
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{ConsumerForget, WebhookLine, WebhookState};
use proto::text::TextCipher;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::Span;

use self::db::{DbProxy, Told, identity, message};
use self::receiver::{Receiver, Reply};
use super::endpoint::Endpoint;
use super::fleet::{Fleet, WebhooksConfig};
use super::metrics::{OneMetrics, WebhookMetrics};
use super::worker::{Tools, Worker};
use crate::test::PATIENCE;

/// A site with one db_proxy.
struct Bench {
    db: Arc<DbProxy>,
    told: mpsc::Receiver<Told>,
    targets: watch::Receiver<Vec<String>>,
    client: Arc<DbClient>,
    shutdown: Shutdown,
    ca: tempfile::NamedTempFile,
    metrics: OneMetrics,
    allow_private: bool,
    answer_limit: Duration,
}

impl Bench {
    async fn new() -> Self {
        let shutdown = Shutdown::default();
        let (db, addr, told) = DbProxy::start(&shutdown).await;
        let (_unchanging, targets) = watch::channel(vec![SocketAddr::to_string(&addr)]);
        let (us, options) = (identity(Role::ApiServer), LinkOptions::default());
        let client = DbClient::connect(targets.clone(), us, options, &shutdown);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let ca = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca.path(), made.cert.pem()).unwrap();
        let metrics = WebhookMetrics::register(&Metrics::new("api_server")).of(7);
        let answer_limit = PATIENCE;
        let (allow_private, metrics) = (true, metrics);
        Self { db, told, targets, client, shutdown, ca, metrics, allow_private, answer_limit }
    }

    /// All that the settings of webhooks say.
    fn settings(&self) -> WebhooksConfig {
        let ca = Some(self.ca.path().to_owned());
        WebhooksConfig { allow_private: self.allow_private, ca }
    }

    /// Serves one webhook, and waits until it reads the log.
    async fn serve(&mut self, line: &WebhookLine) {
        let endpoint = Endpoint::read(line).unwrap();
        let WebhooksConfig { allow_private, ca } = self.settings();
        let options = daemon::http_client::HttpClientOptions { allow_private, ca };
        let tools = Tools {
            client: daemon::http_client::HttpClient::new(&options).unwrap(),
            limits: AnswerLimits { time: self.answer_limit, body_len: 1_000 },
            db: Arc::clone(&self.client),
            cipher: TextCipher::default(),
            metrics: self.metrics.clone(),
        };
        let (name, from_ms) = (endpoint.consumer.clone(), Some(endpoint.from_ms));
        let reading = Reading { name, from_oldest: true, from_ms };
        let (us, options) = (identity(Role::Consumer), LinkOptions::default());
        let consumer =
            Consumer::connect(self.targets.clone(), us, options, reading, &self.shutdown);
        let worker = Worker::new(endpoint, tools).run(consumer, self.shutdown.clone());
        self.shutdown.spawn(Span::none(), worker);
        self.consumes().await;
    }

    /// Keeps workers for the webhooks that the db_proxy names.
    fn keep(&self) {
        let fleet = Fleet {
            db: Arc::clone(&self.client),
            cipher: TextCipher::default(),
            settings: self.settings(),
            targets: self.targets.clone(),
            identity: identity(Role::Consumer),
            options: LinkOptions::default(),
        };
        fleet.spawn(&Metrics::new("api_server"), &self.shutdown).unwrap();
    }

    async fn told(&mut self) -> Told {
        timeout(PATIENCE, self.told.recv()).await.expect("it is told in time").unwrap()
    }

    async fn consumes(&mut self) -> (String, Option<u64>) {
        let told = self.told().await;
        let Told::Consume(consume) = told else { panic!("{told:?}") };
        (consume.name, consume.from_ms)
    }

    /// Everything up to there is handled, and nothing else is said before.
    async fn handled(&mut self, upto: u64) {
        assert_eq!(self.told().await, Told::Handled(upto));
    }

    async fn stop(self) {
        self.shutdown.begin();
        self.shutdown.drain(PATIENCE).await.unwrap();
    }
}

fn line(url: &str) -> WebhookLine {
    WebhookLine {
        number: 7,
        url: url.to_owned(),
        events: vec!["message.created".to_owned()],
        state: WebhookState::On.into(),
        version: 3,
        secret: Some(WebhookSecret::random().expose()),
        ..WebhookLine::default()
    }
}

#[tokio::test]
async fn events_are_signed_and_sent_in_order_and_then_handled() {
    let (mut bench, mut receiver) = (Bench::new().await, Receiver::start().await);
    let old_secret = Some(WebhookSecret::random().expose());
    let both = WebhookLine {
        old_secret: old_secret.clone(),
        old_until_s: u64::from(unix_s()) + 600,
        ..line(&receiver.url)
    };
    bench.serve(&both).await;
    bench.db.send((1..=5).map(|msg_id| message(2, msg_id, 1_000 + u64::from(msg_id))).collect());
    for msg_id in 1..=5 {
        let got = receiver.next().await;
        assert_eq!(got.id(), format!("msg_1-2_{msg_id}"));
        let timestamp: u64 = got.headers["webhook-timestamp"].parse().unwrap();
        assert!(timestamp.abs_diff(u64::from(unix_s())) < 100, "the time of this try: {timestamp}");
        let signatures = [both.secret.as_deref(), old_secret.as_deref()].map(|secret| {
            let secret: WebhookSecret = secret.unwrap().parse().unwrap();
            secret.sign(got.id(), timestamp, &got.body)
        });
        assert_eq!(got.headers["webhook-signature"], signatures.join(" "));
        let body: Value = serde_json::from_slice(&got.body).unwrap();
        assert_eq!(
            (&body["type"], &body["data"]["msg_id"]),
            (&"message.created".into(), &msg_id.into())
        );
    }
    bench.handled(5).await;
    assert_eq!(bench.metrics.delivered.get(), 5);
    bench.stop().await;
}

#[tokio::test]
async fn what_happened_before_the_webhook_and_what_it_does_not_want_is_handled_at_once() {
    let (mut bench, mut receiver) = (Bench::new().await, Receiver::start().await);
    let later = WebhookLine { from_ms: 2_000, ..line(&receiver.url) };
    bench.serve(&later).await;
    let unwanted = proto::log::GroupCreated { group: 9, ..Default::default() };
    let unwanted = (3_000, None, proto::log::record::Change::GroupCreated(unwanted));
    bench.db.send(vec![message(2, 1, 1_999), unwanted]);
    bench.handled(2).await;
    bench.db.send(vec![message(2, 2, 2_000)]);
    assert_eq!(receiver.next().await.id(), "msg_1-2_2");
    bench.handled(3).await;
    bench.stop().await;
}

#[tokio::test]
async fn records_that_are_lost_are_told_as_a_gap() {
    let (mut bench, mut receiver) = (Bench::new().await, Receiver::start().await);
    bench.serve(&line(&receiver.url)).await;
    bench.db.send_lost(40);
    let got = receiver.next().await;
    assert_eq!(got.id(), "gap_p0_40");
    let body: Value = serde_json::from_slice(&got.body).unwrap();
    assert_eq!((&body["type"], &body["data"]["upto"]), (&"gap".into(), &"40".into()));
    bench.handled(40).await;
    assert_eq!(bench.metrics.gaps.get(), 1);
    bench.stop().await;
}

#[tokio::test]
async fn a_request_that_is_under_way_at_the_end_is_waited_for() {
    let (mut bench, mut receiver) = (Bench::new().await, Receiver::start().await);
    bench.serve(&line(&receiver.url)).await;
    receiver.replies("msg_1-3_1", &[Reply::Hang]);
    bench.db.send(vec![message(2, 1, 1)]);
    bench.db.send(vec![message(3, 1, 1), message(2, 2, 2)]);
    for _message in 0..3 {
        receiver.next().await;
    }
    bench.shutdown.begin();
    bench.handled(1).await;
    // The one that hangs is not waited for for ever: it comes again, and is not handled.
    bench.shutdown.drain(PATIENCE).await.unwrap();
    assert_eq!(bench.told.try_recv().ok(), None);
}

#[tokio::test]
async fn webhooks_are_served_as_the_db_proxies_say() {
    let (mut bench, mut receiver) = (Bench::new().await, Receiver::start().await);
    bench.db.webhooks.lock().push(line(&receiver.url));
    bench.keep();
    assert_eq!(bench.consumes().await, ("webhook.7".to_owned(), Some(0)));
    bench.db.send(vec![message(2, 1, 1)]);
    assert_eq!(receiver.next().await.id(), "msg_1-2_1");
    bench.handled(1).await;

    // A replay is another consumer. The worker before has ended by then.
    let replayed = WebhookLine { run: 1, version: 4, from_ms: 5, ..line(&receiver.url) };
    *bench.db.webhooks.lock() = vec![replayed.clone()];
    assert_eq!(bench.consumes().await, ("webhook.7.1".to_owned(), Some(5)));
    bench.db.send(vec![message(2, 2, 5)]);
    assert_eq!(receiver.next().await.id(), "msg_1-2_2");
    bench.handled(2).await;

    let off = WebhookLine { state: WebhookState::Off.into(), version: 5, ..replayed.clone() };
    *bench.db.webhooks.lock() = vec![off];
    let on = WebhookLine { version: 6, ..replayed };
    // Nobody reads the log for a webhook that is off: the next one who asks is of one that was switched on.
    let switched = async {
        tokio::time::sleep(super::fleet::LOOK_EVERY * 2).await;
        *bench.db.webhooks.lock() = vec![on];
    };
    switched.await;
    assert_eq!(bench.consumes().await.0, "webhook.7.1");
    assert!(receiver.try_next().is_none());
    bench.stop().await;
}

#[tokio::test]
async fn places_that_no_webhook_needs_are_forgotten_when_that_is_so_twice() {
    let mut bench = Bench::new().await;
    let names = ["push", "webhook.7", "webhook.8", "webhook.7.1"];
    *bench.db.consumers.lock() = names.map(str::to_owned).to_vec();
    let mut workers = super::fleet::Workers::of(
        Fleet {
            db: Arc::clone(&bench.client),
            cipher: TextCipher::default(),
            settings: bench.settings(),
            targets: bench.targets.clone(),
            identity: identity(Role::Consumer),
            options: LinkOptions::default(),
        },
        &Metrics::new("api_server"),
        &bench.shutdown,
    );
    let lines = [line("http://127.0.0.1/")];
    workers.clean(&[]).await;
    workers.clean(&lines).await;
    let mut forgotten = Vec::new();
    for _leftover in 0..2 {
        let Told::Admin(What::ConsumerForget(ConsumerForget { name })) = bench.told().await else {
            panic!("a consumer is forgotten")
        };
        forgotten.push(name);
    }
    assert_eq!(forgotten, ["webhook.7.1", "webhook.8"]);
    assert_eq!(bench.told.try_recv().ok(), None, "webhook.7 is needed by now");
    bench.stop().await;
}

/// A time that long ago.
fn ago(time: Duration) -> u64 {
    unix_ms() - u64::try_from(time.as_millis()).unwrap()
}
