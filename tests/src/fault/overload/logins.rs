//! More logins than passwords can be checked, and a login now and then that must not suffer from
//! something else.
//!
//! Each attempt of the flood is under a name that does not exist, which costs as much as a wrong
//! password, and comes from an address with few other attempts: none is locked out for failing too
//! often.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::{ClientType, Connection, LoginError};
use proto::client::LoginResult;
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::PASSWORD;

/// How long an answer is waited for: longer than a gateway takes at most.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at how many are due.
const TICK: Duration = Duration::from_millis(10);
/// Addresses that they come from.
const ADDRESSES: u32 = 250;
/// The pause between two logins of the known users.
const PAUSE: Duration = Duration::from_millis(50);
/// Logins whose end was not asked for yet. If there are more, the next one waits.
const ENDED_MAX: usize = 65_536;

/// What became of an attempt to log in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) end: End,
    pub(super) took: Duration,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Accepted,
    /// The password was checked.
    Wrong,
    /// It was not, and may be tried again.
    Later,
    /// Anything else, such as no answer.
    Broken,
}

/// Strangers who try to log in. One thread serves them all.
pub(super) struct Strangers {
    runtime: Runtime,
    gateways: Arc<[SocketAddr]>,
    attempts: JoinSet<Vec<Attempt>>,
    number: Arc<AtomicU32>,
    /// Where they come from, by number.
    address: fn(u32) -> Ipv4Addr,
}

/// Users whose passwords were right before: one of them logs in all the time.
pub(super) struct Known {
    stop: Arc<AtomicBool>,
    ended: Receiver<Attempt>,
    thread: Option<JoinHandle<()>>,
}

impl Strangers {
    pub(super) fn new(gateways: &[String]) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let gateways = gateways.iter().map(|one| one.parse().expect("gateways are addresses"));
        Self {
            runtime: runtime.expect("start a runtime"),
            gateways: gateways.collect(),
            attempts: JoinSet::new(),
            number: Arc::default(),
            address: |number| Ipv4Addr::new(127, 0, 1, host(number)),
        }
    }

    /// The same, each address in a network of its own.
    pub(super) fn apart(gateways: &[String]) -> Self {
        Self { address: |number| Ipv4Addr::new(127, 1, host(number), 1), ..Self::new(gateways) }
    }

    /// Lets `count` of them try one login after another for a while. Returns at once.
    pub(super) fn in_turn(&mut self, count: usize, lasts: Duration) {
        let until = Instant::now() + lasts;
        for _one in 0..count {
            let (gateways, number) = (Arc::clone(&self.gateways), Arc::clone(&self.number));
            let address = self.address;
            let tries = async move {
                let mut ended = Vec::new();
                while Instant::now() < until {
                    ended.push(stranger(&gateways, &number, address).await);
                }
                ended
            };
            self.attempts.spawn_on(tries, self.runtime.handle());
        }
    }

    /// Lets so many a second try for a while, whatever they are answered. Returns at once.
    pub(super) fn per_second(&mut self, rate: f64, lasts: Duration) {
        let (gateways, number) = (Arc::clone(&self.gateways), Arc::clone(&self.number));
        let address = self.address;
        let tries = async move {
            let began = Instant::now();
            let mut under_way = JoinSet::new();
            let mut ended = Vec::new();
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut count = 0.0;
            while began.elapsed() < lasts {
                ticks.tick().await;
                while count < rate * began.elapsed().as_secs_f64() {
                    count += 1.0;
                    let (gateways, number) = (Arc::clone(&gateways), Arc::clone(&number));
                    under_way.spawn(async move { stranger(&gateways, &number, address).await });
                }
                while let Some(attempt) = under_way.try_join_next() {
                    ended.push(attempt.expect("nobody panics"));
                }
            }
            ended.extend(under_way.join_all().await);
            ended
        };
        self.attempts.spawn_on(tries, self.runtime.handle());
    }

    /// Waits until all are answered.
    pub(super) fn finish(&mut self) -> Vec<Attempt> {
        let Self { runtime, attempts, .. } = self;
        runtime.block_on(async {
            let mut all = Vec::new();
            while let Some(ended) = attempts.join_next().await {
                all.extend(ended.expect("nobody panics"));
            }
            all
        })
    }
}

impl Known {
    /// Lets these users log in in turn. Returns once each of them has.
    pub(super) fn start(gateways: &[String], users: Vec<u32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, ended) = sync_channel(ENDED_MAX);
        let count = users.len();
        let (stopped, gateways) = (Arc::clone(&stop), gateways.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.expect("start a runtime").block_on(async {
                for (user, gateway) in users.iter().cycle().zip(gateways.iter().cycle()) {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let gateway = gateway.parse().expect("gateways are addresses");
                    let (name, from) = (format!("u{user}"), Ipv4Addr::LOCALHOST);
                    let attempt = attempt(gateway, from, (&name, PASSWORD)).await;
                    if sender.send(attempt).is_err() {
                        return;
                    }
                    sleep(PAUSE).await;
                }
            });
        });
        let known = Self { stop, ended, thread: Some(thread) };
        for first in known.ended.iter().take(count) {
            assert_eq!(first.end, End::Accepted, "whoever is right is let in");
        }
        known
    }

    /// What has become of the logins that ended since the last such call, or since the start.
    pub(super) fn ended(&self) -> Vec<Attempt> {
        self.ended.try_iter().collect()
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panics have been printed; here it only has to end.
            thread.join().ok();
        }
    }
}

/// One attempt of a stranger.
async fn stranger(
    gateways: &[SocketAddr],
    number: &AtomicU32,
    address: fn(u32) -> Ipv4Addr,
) -> Attempt {
    let number = number.fetch_add(1, Ordering::Relaxed);
    let gateway = gateways.get(number as usize % gateways.len()).expect("there are gateways");
    let (from, name) = (address(number), format!("stranger-{number}"));
    attempt(*gateway, from, (&name, "a guess")).await
}

fn host(number: u32) -> u8 {
    u8::try_from(number % ADDRESSES).expect("it is below 250") + 1
}

pub(super) async fn attempt(
    gateway: SocketAddr,
    from: Ipv4Addr,
    (name, password): (&str, &str),
) -> Attempt {
    let began = Instant::now();
    let end = try_login(gateway, from, (name, password)).await;
    Attempt { end, took: began.elapsed() }
}

async fn try_login(gateway: SocketAddr, from: Ipv4Addr, (name, password): (&str, &str)) -> End {
    let connect = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        socket.connect(gateway).await
    };
    let Ok(socket) = connect.await else { return End::Broken };
    let mut connection = Connection::over(socket);
    connection.set_limit(ANSWER_LIMIT);
    match connection.login(name, password, ClientType::Windows, None).await {
        Ok(_login) => End::Accepted,
        Err(LoginError::Refused { result, .. }) => match LoginResult::try_from(result) {
            Ok(LoginResult::BadCredentials) => End::Wrong,
            Ok(LoginResult::NoDbServer) => End::Later,
            _ => End::Broken,
        },
        Err(LoginError::Connection(_)) => End::Broken,
    }
}
