//! How many messages programs send by the HTTP API, and what each costs, beside the same by gateways; and how
//! long it takes to list all users.

use std::fmt::{self, Display};
use std::io;
use std::time::{Duration, Instant};

use client::Conversation;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::{TEXT, Talker, WARM_UP, all, answers, calm, cpu_of, log_in, percentiles, unlimited};
use crate::fault::hold;
use crate::{Options, Site, SiteOptions};

/// Users of a page: the most that one may have.
const PAGE: usize = 1_000;

/// What to run, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct ApiOptions {
    /// Connections, each with one message at a time: so many to gateways, and then so many to an api_server.
    pub connections: u32,
    /// How long each of the two is measured.
    pub lasts: Duration,
    /// Users that are listed.
    pub users: u32,
}

/// The figures.
#[derive(Debug)]
pub struct ApiLines {
    connections: u32,
    gateways: Sends,
    api: Sends,
    listed: usize,
    listing: Duration,
}

/// How messages are sent in one of the two ways.
#[derive(Debug)]
struct Sends {
    per_second: f64,
    took: [Duration; 2],
    /// CPU for each message: of the db_proxy, and of what the messages come in by.
    cpu: [Duration; 2],
}

impl Display for Sends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { per_second, took: [p50, p99], cpu: [db_proxy, edge] } = self;
        write!(f, "{per_second:>7.0} {p50:>10.2?} {p99:>10.2?} | {db_proxy:>9.1?} {edge:>9.1?}")
    }
}

impl Display for ApiLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, gateways, api, listed, listing } = self;
        writeln!(f, "{connections} connections, one message each until it is acknowledged")?;
        writeln!(f, "          | acked/s        p50        p99 | CPU: db_proxy, edge")?;
        writeln!(f, "gateways  | {gateways}")?;
        writeln!(f, "HTTP API  | {api}")?;
        write!(f, "{listed} users listed by pages of {PAGE} in {listing:.2?}")
    }
}

/// Measures both on one site. Blocks.
pub fn measure(options: ApiOptions) -> ApiLines {
    let ApiOptions { connections, lasts, users } = options;
    let mut settings = unlimited(1);
    settings.push(("api_server", "", "requests_per_s", "1000000".to_owned()));
    let cluster = Options { users: users.max(2 * connections), group: 0, ..Options::default() };
    let site = Site::start(&SiteOptions { cluster, settings, ..SiteOptions::default() });
    let runtime = Runtime::new().expect("start a runtime");
    let key = key(&site);

    let logged_in = (1..).zip(runtime.block_on(log_in(&site, connections)));
    let talker =
        |(user, connection)| Talker::new(connection, Conversation::user(connections + user));
    let talkers: Vec<_> = logged_in.map(talker).collect();
    let gateways = sends(&site, &runtime, ("msg_server", lasts), |until| {
        let talking = runtime.spawn(all(talkers, move |talker| talker.saturate(1, until)));
        move |runtime: &Runtime, within| {
            let mut talkers = runtime.block_on(talking).expect("everything is answered");
            answers(&mut talkers, within)
        }
    });

    let caller = |user| Caller::connect(&site.api, &key, (user, connections + user));
    let callers: io::Result<Vec<_>> =
        (1..=connections).map(|user| runtime.block_on(caller(user))).collect();
    let callers = callers.expect("an api_server listens");
    let api = sends(&site, &runtime, ("api_server", lasts), |until| {
        let calling = runtime.spawn(all(callers, move |caller| caller.saturate(until)));
        move |runtime: &Runtime, within: std::ops::Range<Instant>| {
            let callers = runtime.block_on(calling).expect("everything is answered");
            let all = callers.into_iter().flat_map(|caller| caller.answers);
            all.filter(|(at, _took)| within.contains(at)).map(|(_at, took)| took).collect()
        }
    });

    let began = Instant::now();
    let listed = runtime.block_on(async {
        let mut caller = Caller::connect(&site.api, &key, (1, 2)).await?;
        caller.list().await
    });
    let (listed, listing) = (listed.expect("users are listed"), began.elapsed());
    ApiLines { connections, gateways, api, listed, listing }
}

/// Lets `begin` send, and measures what comes of it.
fn sends<E>(
    site: &Site,
    runtime: &Runtime,
    (edge, lasts): (&str, Duration),
    begin: impl FnOnce(Instant) -> E,
) -> Sends
where
    E: FnOnce(&Runtime, std::ops::Range<Instant>) -> Vec<Duration>,
{
    let until = Instant::now() + WARM_UP + lasts;
    let end = begin(until);
    hold(WARM_UP);
    let kinds = ["db_proxy", edge];
    let (began, before) = (Instant::now(), cpu_of(site, kinds));
    hold(until.saturating_duration_since(began));
    let (lasted, after) = (began.elapsed(), cpu_of(site, kinds));
    let mut took = end(runtime, began..began + lasted);
    calm(site);
    let acked = u32::try_from(took.len()).expect("a few million at most").max(1);
    Sends {
        per_second: f64::from(acked) / lasted.as_secs_f64(),
        took: percentiles(&mut took),
        cpu: [0, 1].map(|who| after[who].saturating_sub(before[who]) / acked),
    }
}

/// A key that may do both.
fn key(site: &Site) -> String {
    let said = site.admin(&["key", "create", "load", "--scope", "read,send"]);
    said.split_whitespace().find(|word| word.starts_with("thk_")).expect("a key").to_owned()
}

/// A program with one connection.
struct Caller {
    socket: BufReader<TcpStream>,
    key: String,
    between: (u32, u32),
    said: u64,
    answers: Vec<(Instant, Duration)>,
}

impl Caller {
    async fn connect(url: &str, key: &str, between: (u32, u32)) -> io::Result<Self> {
        let addr = url.strip_prefix("http://").expect("a URL without TLS");
        let socket = TcpStream::connect(addr).await?;
        socket.set_nodelay(true)?;
        let key = key.to_owned();
        Ok(Self { socket: BufReader::new(socket), key, between, said: 0, answers: Vec::new() })
    }

    /// Sends one message after another.
    async fn saturate(mut self, until: Instant) -> io::Result<Self> {
        let (from, to) = self.between;
        let body = json!({ "from": from, "to": { "user": to }, "text": TEXT }).to_string();
        while Instant::now() < until {
            self.said += 1;
            let name = format!("Idempotency-Key: {from}-{}\r\n", self.said);
            let sent = Instant::now();
            let (status, answer) = self.ask("POST /v1/messages", &name, &body).await?;
            assert_eq!(status, 201, "{answer}");
            let now = Instant::now();
            self.answers.push((now, now - sent));
        }
        Ok(self)
    }

    /// Lists all users, page by page. Returns how many there are.
    async fn list(&mut self) -> io::Result<usize> {
        let (mut listed, mut cursor) = (0, String::new());
        loop {
            let line = format!("GET /v1/users?limit={PAGE}{cursor}");
            let (status, page) = self.ask(&line, "", "").await?;
            assert_eq!(status, 200, "{page}");
            listed += page["items"].as_array().map_or(0, Vec::len);
            let Some(next) = page["next"].as_str() else { return Ok(listed) };
            cursor = format!("&cursor={next}");
        }
    }

    async fn ask(&mut self, line: &str, header: &str, body: &str) -> io::Result<(u16, Value)> {
        let (key, len) = (&self.key, body.len());
        let request = format!(
            "{line} HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {key}\r\n{header}\
             content-type: application/json\r\ncontent-length: {len}\r\n\r\n{body}"
        );
        self.socket.write_all(request.as_bytes()).await?;
        let (mut status, mut len) = (None, 0);
        loop {
            let mut line = String::new();
            self.socket.read_line(&mut line).await?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                len = value.parse().map_err(io::Error::other)?;
            }
            status = status.or_else(|| line.split(' ').nth(1)?.parse().ok());
        }
        let mut body = vec![0; len];
        self.socket.read_exact(&mut body).await?;
        let status = status.ok_or_else(|| io::Error::other("the connection ended"))?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }
}
