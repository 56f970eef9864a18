//! What it costs to deliver the messages of a group to its members, who are all there.
//!
//! In each round a few members speak, each as much as a gateway takes unanswered, and all others read
//! until they have everything: somebody who reads too slowly would be let go. They see that no message is
//! missing, doubled or out of order. The CPU of db_proxies and gateways is divided by the messages that
//! readers have got: to take the message in is a part of it, which gets smaller with more members.

use std::fmt::{self, Display};
use std::time::{Duration, Instant};

use client::{Connection, ConnectionError, Conversation, Push};
use proto::ids::MsgId;
use tokio::runtime::Runtime;

use super::{KINDS, Talker, all, cpu_of, log_in, unlimited};
use crate::{Options, PATIENCE, Site, SiteOptions};

/// Messages of each speaker in a round.
const WINDOW: u32 = 64;

/// Before anything is measured there are a tenth as many rounds.
const WARM_UP: u32 = 10;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct FanoutOptions {
    /// Members, each with a connection of its own.
    pub members: u32,
    /// How many of them speak.
    pub speakers: u32,
    /// Messages of all speakers together, as whole rounds.
    pub messages: u32,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct FanoutLine {
    options: FanoutOptions,
    messages: u32,
    lasted: Duration,
    /// Of the db_proxies, of the gateways.
    cpu: [Duration; 2],
}

/// The head of the table.
pub const HEAD: &str = concat!(
    "                          |               |          |  CPU per delivery\n",
    "a group whose members read| deliveries/s  | messages | db_proxy   gateways",
);

impl Display for FanoutLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FanoutOptions { members, speakers, .. } = self.options;
        let messages = self.messages;
        let deliveries = f64::from(messages) * f64::from(members - speakers);
        let per_second = deliveries / self.lasted.as_secs_f64();
        let [db_proxy, gateways] = self.cpu.map(|cpu| cpu.as_secs_f64() * 1e9 / deliveries);
        let about = format!("{members} members, {speakers} speak");
        write!(
            f,
            "{about:<25} | {per_second:>12.0}  | {messages:>8} | {db_proxy:>5.0} ns   {gateways:>5.0} ns"
        )
    }
}

/// A member who only reads.
struct Reader {
    connection: Connection,
    newest: Option<MsgId>,
}

/// Runs a cluster with everything embedded, and measures it. Blocks.
pub fn measure(options: FanoutOptions) -> FanoutLine {
    let FanoutOptions { members, speakers, messages } = options;
    let cluster = Options { users: members, group: members, ..Options::default() };
    let site = SiteOptions { cluster, settings: unlimited(WINDOW), ..SiteOptions::default() };
    let (site, runtime) = (Site::start(&site), Runtime::new().expect("start a runtime"));
    let mut connections: Vec<_> = runtime.block_on(log_in(&site, members));
    let readers = connections.split_off(speakers as usize);
    let to = Conversation::group(1);
    let talker = |connection| Talker::new(connection, to);
    let mut talkers: Vec<_> = connections.into_iter().map(talker).collect();
    let mut readers: Vec<_> =
        readers.into_iter().map(|connection| Reader { connection, newest: None }).collect();

    let in_round = speakers * WINDOW;
    let rounds = messages.div_ceil(in_round);
    let mut run = |rounds: u32| {
        let (began, before) = (Instant::now(), cpu_of(&site, KINDS));
        for _round in 0..rounds {
            let speaking = all(std::mem::take(&mut talkers), Talker::speak);
            let reading = all(std::mem::take(&mut readers), move |reader| reader.read(in_round));
            let both = runtime.spawn(async { tokio::join!(speaking, reading) });
            (talkers, readers) = runtime.block_on(both).expect("everybody is served");
        }
        let (lasted, after) = (began.elapsed(), cpu_of(&site, KINDS));
        (lasted, [0, 1].map(|who| after[who].saturating_sub(before[who])))
    };
    run(rounds.div_ceil(WARM_UP));
    let (lasted, cpu) = run(rounds);
    FanoutLine { options, messages: rounds * in_round, lasted, cpu }
}

impl Talker {
    /// Says what it may say in a round.
    async fn speak(mut self) -> Result<Self, ConnectionError> {
        self.burst(WINDOW).await?;
        assert_eq!(self.turned_away, 0, "the readers wait for every message");
        Ok(self)
    }
}

impl Reader {
    /// Reads so many messages: each has the number after that of the one before.
    async fn read(mut self, messages: u32) -> Result<Self, ConnectionError> {
        for _message in 0..messages {
            let number = loop {
                if let Push::Message(message) = self.connection.next_push(PATIENCE).await? {
                    break MsgId(message.msg_id);
                }
            };
            let expected = self.newest.map(|newest| MsgId(newest.0 + 1));
            assert!(
                expected.is_none_or(|expected| number == expected),
                "{number:?} after {:?}",
                self.newest
            );
            self.newest = Some(number);
        }
        Ok(self)
    }
}
