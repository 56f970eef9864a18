//! Serves one webhook: reads the log, sends events, and says what is handled.
//!
//! When shutdown begins, no further request is begun, and those under way have [`LAST_ANSWERS`] to be
//! answered: what was taken by then does not come again.

use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use daemon::clock::unix_ms;
use daemon::http_client::{AnswerLimits, HttpClient};
use daemon::random::random_u64;
use db_client::{Batch, Consumer, DbClient};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use proto::cluster::wire::WebhookFailureLine;
use proto::text::TextCipher;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at};
use tracing::{debug, info, warn};

use super::attempt::{self, Outcome};
use super::endpoint::Endpoint;
use super::event::{Event, Lane};
use super::lanes::{Job, Lanes};
use super::metrics::OneMetrics;
use super::pace::Pace;
use super::reports;
use super::schedule::{self, Next};

/// How long requests may take to be answered when the webhook's worker ends.
pub(super) const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How often the age of the oldest event is shown.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// What a worker works with.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) client: HttpClient,
    /// What an answer may cost.
    pub(super) limits: AnswerLimits,
    pub(super) db: Arc<DbClient>,
    pub(super) cipher: TextCipher,
    pub(super) metrics: OneMetrics,
}

/// Serves one webhook.
pub(super) struct Worker {
    endpoint: Arc<Endpoint>,
    tools: Tools,
    lanes: Lanes<Batch>,
    pace: Pace,
    /// Requests to the endpoint, and reports to a db_proxy: at most one for each lane.
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// How many of those are requests.
    under_way: usize,
    /// The endpoint has said that it is gone: nothing more is sent.
    is_gone: bool,
}

/// Something that was running has ended.
#[derive(Debug)]
enum Done {
    Tried(Job, Outcome),
    /// A db_proxy has noted that the event of a lane is given up.
    GaveUp(Lane),
    /// A db_proxy has noted that the endpoint is gone.
    Gone,
}

impl Worker {
    pub(super) fn new(endpoint: Endpoint, tools: Tools) -> Self {
        Self {
            endpoint: Arc::new(endpoint),
            tools,
            lanes: Lanes::new(),
            pace: Pace::new(),
            running: FuturesUnordered::new(),
            under_way: 0,
            is_gone: false,
        }
    }

    /// Serves until shutdown begins.
    pub(super) async fn run(mut self, mut consumer: Consumer, shutdown: Shutdown) {
        let mut shows = interval(SHOWN_EVERY);
        shows.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.start();
            let due_at = self.due_at();
            let far = Instant::now() + SHOWN_EVERY;
            // Whichever is looked at first: each of them is looked at soon, for none is always ready.
            tokio::select! {
                () = shutdown.begun() => break,
                batch = consumer.next() => self.add(batch),
                Some(done) = self.running.next(), if !self.running.is_empty() => self.take(done),
                () = sleep_until(due_at.unwrap_or(far)), if due_at.is_some() => {}
                _tick = shows.tick() => self.show(),
            }
            self.say_what_is_handled();
        }
        let until = Instant::now() + LAST_ANSWERS;
        while let Ok(Some(done)) = timeout_at(until, self.running.next()).await {
            self.take(done);
        }
        self.say_what_is_handled();
        self.tools.metrics.oldest_s.set(0);
    }

    /// Takes a batch of records.
    fn add(&mut self, mut batch: Batch) {
        let Endpoint { number, from_ms, events, .. } = *self.endpoint;
        let mut wanted = Vec::new();
        if batch.lost {
            warn!(webhook = number, partition = batch.partition, "records are lost to a webhook");
            self.tools.metrics.gaps.inc();
            wanted.push(Event::gap(batch.partition, batch.upto(), unix_ms()));
        }
        let records = std::mem::take(&mut batch.records);
        let records = records.iter().filter(|record| record.timestamp_ms >= from_ms);
        wanted.extend(records.filter_map(|record| Event::of(record, events, &self.tools.cipher)));
        self.lanes.add(batch.partition, batch, wanted, Instant::now());
    }

    /// Begins as many requests as may be.
    fn start(&mut self) {
        let now = Instant::now();
        while !self.is_gone && self.pace.allows(self.under_way, now) {
            let Some(job) = self.lanes.next(now, self.pace.taken()) else { return };
            let (client, endpoint) = (self.tools.client.clone(), Arc::clone(&self.endpoint));
            let limits = self.tools.limits;
            self.under_way += 1;
            self.running.push(
                async move {
                    let outcome = attempt::send(client, endpoint, &job.event, limits).await;
                    Done::Tried(job, outcome)
                }
                .boxed(),
            );
        }
    }

    /// When a request may begin that may not begin now. `None`: when something that is running has ended.
    fn due_at(&self) -> Option<Instant> {
        let due_at = self.lanes.due_at().filter(|_| !self.is_gone)?;
        let at = due_at.max(self.pace.until().unwrap_or(due_at));
        self.pace.allows(self.under_way, at).then_some(at)
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Tried(job, outcome) => {
                self.under_way -= 1;
                self.tried(&job, outcome);
            }
            Done::GaveUp(lane) => self.lanes.done(lane, Instant::now()),
            Done::Gone => {}
        }
    }

    fn tried(&mut self, job: &Job, outcome: Outcome) {
        let (now, lane) = (Instant::now(), job.event.lane);
        match outcome {
            Outcome::Taken => {
                self.tools.metrics.delivered.inc();
                self.lanes.done(lane, now);
                if self.pace.took(now) {
                    info!(webhook = self.endpoint.number, "an endpoint is back");
                    self.lanes.wake(now);
                }
            }
            Outcome::Gone => self.gone(lane, now),
            Outcome::Failed { status, retry_after } => {
                self.tools.metrics.failed.inc();
                // Other answers say something of this event alone.
                let of_all = matches!(status, 429 | 502..=504);
                self.pace.failed(retry_after.filter(|_| of_all).map(bounded), now);
                self.failed(job, status, retry_after, now);
            }
        }
    }

    fn failed(&mut self, job: &Job, status: u16, retry_after: Option<Duration>, now: Instant) {
        let (event, webhook) = (&job.event, self.endpoint.number);
        let since_ms = event.happened_ms.max(self.endpoint.begun_ms);
        let age = Duration::from_millis(unix_ms().saturating_sub(since_ms));
        match schedule::next(job.tries, age, retry_after, random_u64()) {
            Next::After(wait) => {
                debug!(
                    webhook,
                    event = event.id,
                    status,
                    tries = job.tries.all,
                    ?wait,
                    "again later"
                );
                self.lanes.again(event.lane, now + wait);
            }
            Next::GiveUp => {
                warn!(webhook, event = event.id, status, tries = job.tries.all, "given up");
                self.tools.metrics.given_up.inc();
                self.give_up(job, status);
            }
        }
    }

    fn give_up(&mut self, job: &Job, status: u16) {
        let (db, webhook, lane) =
            (Arc::clone(&self.tools.db), self.endpoint.number, job.event.lane);
        let line = WebhookFailureLine {
            number: 0,
            event_id: job.event.id.clone(),
            event_type: job.event.kind.to_owned(),
            happened_ms: job.event.happened_ms,
            given_up_ms: unix_ms(),
            status: status.into(),
            tries: job.tries.all,
        };
        let told = async move {
            reports::gave_up(&db, webhook, line).await;
            Done::GaveUp(lane)
        };
        self.running.push(told.boxed());
    }

    /// The event that was answered so is sent first if the webhook is switched on again.
    fn gone(&mut self, lane: Lane, now: Instant) {
        self.lanes.again(lane, now);
        if self.is_gone {
            return;
        }
        self.is_gone = true;
        let Endpoint { number, version, .. } = *self.endpoint;
        warn!(webhook = number, "an endpoint is gone (410): its webhook is switched off");
        let db = Arc::clone(&self.tools.db);
        let told = async move {
            reports::gone(&db, number, version).await;
            Done::Gone
        };
        self.running.push(told.boxed());
    }

    fn say_what_is_handled(&mut self) {
        for batch in self.lanes.finished() {
            batch.handled();
        }
    }

    fn show(&self) {
        let age_ms = self.lanes.oldest_ms().map(|oldest_ms| unix_ms().saturating_sub(oldest_ms));
        let age_s = i64::try_from(age_ms.unwrap_or(0) / 1_000).unwrap_or(i64::MAX);
        self.tools.metrics.oldest_s.set(age_s);
    }
}

fn bounded(retry_after: Duration) -> Duration {
    retry_after.min(schedule::RETRY_AFTER_MAX)
}
