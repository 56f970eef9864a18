//! Keeps a worker for each webhook that is switched on, as the db_proxies say.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daemon::http_client::{HttpClient, HttpClientOptions};
use daemon::{BoxError, Identity, LinkOptions, Metrics, Shutdown};
use db_client::{Consumer, DbClient, Reading};
use futures_util::future::join_all;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    AdminAnswer, AdminRequest, ConsumerForget, ConsumerList, WebhookLine, WebhookList,
};
use proto::text::TextCipher;
use proto::webhook::consumer_name;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, error, info, info_span, warn};

use super::attempt::LIMITS;
use super::endpoint::Endpoint;
use super::metrics::WebhookMetrics;
use super::worker::{LAST_ANSWERS, Tools, Worker};

/// How often it is asked which webhooks there are.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a db_proxy may take to say so. What is known stays until then.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long a worker may take to end.
const END_LIMIT: Duration = LAST_ANSWERS.saturating_add(Duration::from_secs(1));

/// Each so many looks, places in the log are forgotten that no webhook needs.
const LOOKS_PER_CLEANING: u64 = 60;

/// The settings of webhooks.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhooksConfig {
    /// Lets webhooks be sent to addresses that are not of the public internet, such as those of the site's own
    /// machines. Somebody who may add webhooks then reaches everything that this machine reaches.
    #[serde(default)]
    pub allow_private: bool,
    /// The authorities of the endpoints' certificates, as a PEM file. Those of the system, if it is not said.
    pub ca: Option<PathBuf>,
}

/// What all webhooks share.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) db: Arc<DbClient>,
    pub(crate) cipher: TextCipher,
    pub(crate) settings: WebhooksConfig,
    pub(crate) targets: watch::Receiver<Vec<String>>,
    pub(crate) identity: Identity,
    pub(crate) options: LinkOptions,
}

/// The workers that there are.
#[derive(Debug)]
pub(super) struct Workers {
    fleet: Fleet,
    /// None before the first webhook, and while the authorities cannot be read.
    client: Option<HttpClient>,
    /// It has been said that there is none: it is tried with each look.
    is_told: bool,
    metrics: WebhookMetrics,
    shutdown: Shutdown,
    /// By the number of the webhook: which version was looked at, and what stops its worker, if it has one.
    known: HashMap<u32, (u64, Option<Shutdown>)>,
    /// Consumers that seemed to be needed by no webhook.
    leftovers: BTreeSet<String>,
}

impl Fleet {
    /// Serves webhooks until shutdown begins.
    ///
    /// # Errors
    ///
    /// If the authorities that the settings name cannot be read.
    pub(crate) fn spawn(self, page: &Metrics, shutdown: &Shutdown) -> Result<(), BoxError> {
        if self.settings.ca.is_some() {
            self.client()?;
        }
        let mut workers = Workers::of(self, page, shutdown);
        let begun = shutdown.clone();
        shutdown.spawn_vital(info_span!("webhooks"), async move {
            tokio::select! {
                () = begun.begun() => {}
                () = workers.keep() => {}
            }
        });
        Ok(())
    }

    fn client(&self) -> Result<HttpClient, daemon::ConfigError> {
        let WebhooksConfig { allow_private, ca } = self.settings.clone();
        HttpClient::new(&HttpClientOptions { allow_private, ca })
    }

    async fn ask(&self, what: What) -> Option<AdminAnswer> {
        let request = AdminRequest { what: Some(what), by: None };
        let until = Instant::now() + ANSWER_LIMIT;
        let answer = self.db.administer(&request, until, Duration::ZERO).await;
        answer.ok().filter(|answer| answer.done)
    }
}

impl Workers {
    /// There is none yet.
    pub(super) fn of(fleet: Fleet, page: &Metrics, shutdown: &Shutdown) -> Self {
        Self {
            fleet,
            client: None,
            is_told: false,
            metrics: WebhookMetrics::register(page),
            shutdown: shutdown.clone(),
            known: HashMap::new(),
            leftovers: BTreeSet::new(),
        }
    }

    /// Never returns.
    async fn keep(&mut self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for look in 0_u64.. {
            looks.tick().await;
            let list = What::WebhookList(WebhookList { secrets: Some(true) });
            let Some(answer) = self.fleet.ask(list).await else {
                debug!("no db_proxy says which webhooks there are");
                continue;
            };
            self.follow(&answer.webhooks).await;
            if look % LOOKS_PER_CLEANING == 0 {
                self.clean(&answer.webhooks).await;
            }
        }
    }

    /// Ends and starts workers, so that they are as the lines say.
    async fn follow(&mut self, lines: &[WebhookLine]) {
        let is_as_known = |number: &u32, version: u64| {
            lines.iter().any(|line| line.number == *number && line.version == version)
        };
        let changed = self.known.extract_if(|number, (version, _)| !is_as_known(number, *version));
        let (gone, ends): (Vec<_>, Vec<_>) =
            changed.map(|(number, (_version, worker))| (number, worker)).unzip();
        join_all(ends.into_iter().flatten().map(end)).await;
        for number in gone {
            if lines.iter().all(|line| line.number != number) {
                self.metrics.forget(number);
            }
        }
        for line in lines {
            if !self.known.contains_key(&line.number) {
                self.start(line);
            }
        }
    }

    fn start(&mut self, line: &WebhookLine) {
        let webhook = line.number;
        let endpoint = match Endpoint::read(line) {
            Ok(endpoint) => endpoint,
            Err(why) => {
                info!(webhook, why, "a webhook is not sent");
                self.known.insert(webhook, (line.version, None));
                return;
            }
        };
        if self.client.is_none() {
            match self.fleet.client() {
                Ok(client) => self.client = Some(client),
                Err(error) if !self.is_told => error!(%error, "no webhook can be sent"),
                Err(_told_before) => {}
            }
            self.is_told = self.client.is_none();
        }
        // It is tried again at the next look.
        let Some(client) = self.client.clone() else { return };
        let Fleet { db, cipher, targets, identity, options, .. } = &self.fleet;
        let metrics = self.metrics.of(webhook);
        let (db, cipher) = (Arc::clone(db), cipher.clone());
        let tools = Tools { client, limits: LIMITS, db, cipher, metrics };
        let reading = Reading {
            name: endpoint.consumer.clone(),
            from_oldest: true,
            from_ms: Some(endpoint.from_ms),
        };
        info!(webhook, version = endpoint.version, "a webhook is sent");
        let shutdown = self.shutdown.child();
        let (identity, options) = (identity.clone(), options.clone());
        let consumer = Consumer::connect(targets.clone(), identity, options, reading, &shutdown);
        let worker = Worker::new(endpoint, tools).run(consumer, shutdown.clone());
        shutdown.spawn(info_span!("webhook", webhook), worker);
        self.known.insert(webhook, (line.version, Some(shutdown)));
    }

    /// Forgets the places of webhooks that were removed, and those before a replay. Only what is not needed at two
    /// looks in a row: another api_server may not have heard of the change yet, and would begin anew.
    pub(super) async fn clean(&mut self, lines: &[WebhookLine]) {
        let Some(answer) = self.fleet.ask(What::ConsumerList(ConsumerList {})).await else {
            return;
        };
        let names = answer.consumers.into_iter().map(|consumer| consumer.name);
        let unneeded: BTreeSet<String> = names.filter(|name| is_leftover(name, lines)).collect();
        for name in unneeded.intersection(&self.leftovers) {
            info!(consumer = name, "no webhook needs this place in the log any longer");
            let forget = What::ConsumerForget(ConsumerForget { name: name.clone() });
            // If it fails, the next look finds it again.
            self.fleet.ask(forget).await;
        }
        self.leftovers = unneeded;
    }
}

/// Whether a consumer is one of webhooks, and none of these.
fn is_leftover(name: &str, lines: &[WebhookLine]) -> bool {
    let numbers: Option<Vec<u32>> = name
        .strip_prefix("webhook.")
        .and_then(|numbers| numbers.split('.').map(|number| number.parse().ok()).collect());
    let Some(numbers) = numbers else { return false };
    let (webhook, run) = match numbers[..] {
        [webhook] => (webhook, 0),
        [webhook, run] => (webhook, run),
        _ => return false,
    };
    name == consumer_name(webhook, run)
        && lines.iter().all(|line| (line.number, line.run) != (webhook, run))
}

async fn end(worker: Shutdown) {
    worker.begin();
    if let Err(error) = worker.drain(END_LIMIT).await {
        warn!(%error, "a webhook's worker does not end");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_places_of_webhooks_that_are_not_there_are_forgotten() {
        let line = |number, run| WebhookLine { number, run, ..WebhookLine::default() };
        let lines = [line(7, 0), line(8, 2)];
        for kept in [
            "webhook.7",
            "webhook.8.2",
            "push",
            "webhook",
            "webhook.",
            "webhook.x",
            "webhook.07",
            "webhook.9.0",
            "webhook.1.2.3",
            "webhooks.9",
        ] {
            assert!(!is_leftover(kept, &lines), "{kept}");
        }
        for leftover in ["webhook.9", "webhook.7.1", "webhook.8", "webhook.8.1"] {
            assert!(is_leftover(leftover, &lines), "{leftover}");
        }
    }
}
