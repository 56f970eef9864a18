//! A group whose members come and go while others talk in it: a user hears and reads everything from
//! the time as a member, and nothing from before or after.
//!
//! What the server itself says about places and ranges is not asked. A message that was acknowledged
//! before a user was to be added came before the addition; one that was sent after the addition was
//! answered came after it. The same holds at the other end.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use client::{CallError, Client, ClientType, Conversation, Options, Servers};
use proto::client::GroupChange;
use proto::ids::{GroupId, UserId};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::daemons::{site_of, speakers_of, tell_spoken};
use super::old::{Book, Line, content};
use super::talk::{Talker, Talkers, Truth, conversation_id, nothing_wrong};
use super::{Run, Scenario, Skipped};
use crate::{PASSWORD, PATIENCE, Random, Site, run_program};

mod range;

use range::{Comings, Kill, Pull, Seen, Stay};

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "members",
    about: "a group's members change while others talk in it and daemons are killed: nobody hears or reads anything outside his time as a member, and everything within it",
    short: 16,
    long: 200,
    run,
}];

/// Always members; the first one made the group.
const TALKERS: u32 = 5;
/// They come and go.
const COMERS: u32 = 4;
/// All talkers together: 50 messages a second.
const TALK_EVERY: Duration = Duration::from_millis(100);
/// Changes between two kills.
const KILL_EVERY: usize = 40;
/// So long after a kill everybody online has everything again.
const HEALED: Duration = Duration::from_secs(6);
/// From the end of a membership until the last push of it has come.
const PUSH_LIMIT: Duration = Duration::from_secs(1);

fn run(run: &mut Run) -> Result<(), Skipped> {
    let mut site = run.start(&site_of(TALKERS + COMERS));
    let runtime = Runtime::new().expect("start a runtime");
    let truth = Truth::default();
    let office = runtime.block_on(Office::open(&site));
    let conversation = Conversation::Group(office.group);
    let talker = |user| Talker { user, to: vec![conversation], every: TALK_EVERY };
    let talkers = (1..=TALKERS).map(talker).collect();
    let talkers = Talkers::start(runtime.handle(), &site.login, talkers, &truth);
    let (changes, changed) = watch::channel(0_usize);
    let mut comers = JoinSet::new();
    for user in TALKERS + 1..=TALKERS + COMERS {
        let comer = Comer {
            user,
            office: office.clone(),
            gateways: site.gateways.clone(),
            random: Random::from_seed(run.random.below(u64::MAX)),
            book: Book::new(user, "comer"),
            line: None,
            lines: 0,
            seen: Comings { user, ..Comings::default() },
        };
        comers.spawn_on(comer.come_and_go(changes.clone(), run.rounds), runtime.handle());
    }
    let speakers = speakers_of(&site, TALKERS + COMERS, run);
    let kills = kill_now_and_then(run, &mut site, &runtime, changed);
    let spoken = speakers.finish(&site);
    let seen: Vec<Comings> = runtime.block_on(async {
        let mut seen = Vec::new();
        while let Some(comings) = comers.join_next().await {
            seen.push(comings.expect("a comer does not panic"));
        }
        talkers.stop().await;
        seen
    });
    let sayings = truth.sayings(conversation_id(1, conversation));
    let mut wrong = runtime.block_on(everything_is_there(&site, &truth, conversation));
    let mut sum = BTreeMap::<&str, usize>::new();
    for comings in &seen {
        let verdict = comings.check(&sayings, &kills, HEALED, PUSH_LIMIT);
        wrong.extend(verdict.wrong);
        for (what, count) in verdict.counts {
            *sum.entry(what).or_default() += count;
        }
    }
    let count = |what| sum.get(what).copied().unwrap_or(0);
    run.figure("changes, kills", format!("{}, {}", 2 * count("stays"), kills.len()));
    run.figure("acknowledged in the group", truth.count());
    run.figure("checked", format!("{sum:?}"));
    nothing_wrong(&wrong);
    truth.check();
    tell_spoken(run, &spoken);
    assert!(2 * count("stays") >= run.rounds, "there were changes: {sum:?}");
    assert!(count("pushed inside") > 0 && count("read inside") > 0, "members heard: {sum:?}");
    assert!(count("certainly before") > 0 && count("certainly after") > 0, "{sum:?}");
    assert!(!kills.is_empty(), "daemons were killed");
    Ok(())
}

/// Kills a random daemon now and then, until all changes are made. Returns when.
fn kill_now_and_then(
    run: &mut Run,
    site: &mut Site,
    runtime: &Runtime,
    mut changed: watch::Receiver<usize>,
) -> Vec<Kill> {
    let mut kills = Vec::new();
    // In a short run when everybody has been a member once.
    let mut next = KILL_EVERY.min(run.rounds * 3 / 4);
    loop {
        let reached = changed.wait_for(|done| *done >= next.min(run.rounds));
        // If the number can no longer be reached, all comers have ended.
        let Ok(done) = runtime.block_on(reached).map(|done| *done) else { return kills };
        if done >= run.rounds {
            return kills;
        }
        let names = site.names();
        let name = names.get(run.random.index(names.len())).expect("there are daemons");
        let killed = Instant::now();
        site.kill_and_restart(name);
        kills.push((killed, Instant::now()));
        next = done + KILL_EVERY;
        run.progress(done, format_args!("{name} was killed"));
    }
}

/// A user who was always a member reads everything that was acknowledged.
async fn everything_is_there(
    site: &Site,
    truth: &Truth,
    conversation: Conversation,
) -> Vec<String> {
    let mut book = Book::new(2, "always a member");
    let gateway = site.gateways.first().expect("there is a gateway");
    let mut line = Line::open_when_back(gateway, ClientType::Android, &mut book).await;
    line.catch_up(&mut book).await.expect("the history is there");
    let mut wrong = truth.against(2, &book, &[conversation]);
    let heads = truth.heads(2, &[conversation]);
    if !book.reaches(&heads) {
        wrong.push(book.missing(&heads));
    }
    for saying in truth.sayings(conversation_id(2, conversation)) {
        if let Some((_at, msg_id)) = saying.acked
            && book.seen(conversation, msg_id) != Some(saying.content)
        {
            wrong.push(format!("{msg_id} was acknowledged and is not there"));
        }
    }
    wrong
}

/// Where members are added and removed.
#[derive(Debug, Clone)]
struct Office {
    group: GroupId,
    creator: Client,
    programs: crate::Programs,
    /// For `talkhub admin`.
    db: String,
    key_file: String,
}

impl Office {
    /// Makes the group.
    async fn open(site: &Site) -> Self {
        let servers = Servers::Login(vec![site.login.clone()]);
        let mut options = Options::new(servers, "u1", PASSWORD);
        options.client_type = ClientType::Ios;
        let (creator, events) = Client::start(options).await.expect("a client without an outbox");
        drop(events);
        creator.online().await.expect("the creator gets in");
        let members: Vec<UserId> = (1..=TALKERS).map(UserId).collect();
        let group = creator.create_group("coming and going", &members).await;
        let data = site.db_folder().parent().expect("the data of the site");
        let conf = std::fs::read_to_string(data.join("conf/db_proxy.toml")).expect("settings");
        let conf: toml::Table = conf.parse().expect("the settings are TOML");
        let text = |value: Option<&toml::Value>| {
            value.and_then(toml::Value::as_str).expect("the settings say where").to_owned()
        };
        Self {
            group: group.expect("a new group"),
            creator,
            programs: site.programs().clone(),
            db: text(conf.get("link_addr")),
            key_file: text(conf.get("cluster").and_then(|cluster| cluster.get("key_file"))),
        }
    }

    /// Changes the members until that is answered.
    async fn change(&self, change: GroupChange, user: u32, by_command: bool) {
        let began = Instant::now();
        while !self.try_change(change, user, by_command).await {
            assert!(began.elapsed() < PATIENCE, "{change:?} u{user} is answered");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn try_change(&self, change: GroupChange, user: u32, by_command: bool) -> bool {
        if by_command {
            let this = self.clone();
            let work = tokio::task::spawn_blocking(move || this.run_command(change, user));
            return work.await.expect("it does not panic");
        }
        match self.creator.change_group(self.group, change, &[UserId(user)]).await {
            Ok(_reply) => true,
            Err(CallError::Refused(reason)) => panic!("{change:?} u{user}: reason {reason}"),
            Err(_unknown) => false,
        }
    }

    fn run_command(&self, change: GroupChange, user: u32) -> bool {
        let verb = if change == GroupChange::Add { "add" } else { "remove" };
        let (group, user) = (self.group.0.to_string(), format!("u{user}"));
        let mut args = vec!["admin", "group", verb, &group, &user];
        args.extend(["--db", &self.db, "--cluster-key-file", &self.key_file]);
        run_program(&self.programs, "talkhub", &args).0 == Some(0)
    }
}

/// A user who comes and goes, with an old client.
struct Comer {
    user: u32,
    office: Office,
    gateways: Vec<String>,
    random: Random,
    book: Book,
    line: Option<Line>,
    lines: usize,
    seen: Comings,
}

impl Comer {
    async fn come_and_go(mut self, changes: watch::Sender<usize>, rounds: usize) -> Comings {
        self.for_a_while(200).await;
        while *changes.borrow() < rounds {
            let add_asked = Instant::now();
            self.change(GroupChange::Add).await;
            let added = Instant::now();
            let lines = self.lines;
            changes.send_modify(|done| *done += 1);
            self.for_a_while(1_000).await;
            self.read().await;
            let remove_asked = Instant::now();
            self.change(GroupChange::Remove).await;
            let removed = Instant::now();
            changes.send_modify(|done| *done += 1);
            self.read().await;
            self.listen_until(removed + PUSH_LIMIT).await;
            self.for_a_while(300).await;
            self.read().await;
            let one_line = lines == self.lines;
            let stay = Stay { add_asked, added, remove_asked, removed, one_line };
            self.seen.stays.push(stay);
        }
        let group = Conversation::Group(self.office.group);
        let heard = self.book.heard.iter().filter(|heard| heard.conversation == group);
        self.seen.pushes = heard
            .map(|heard| Seen { msg_id: heard.msg_id, content: heard.content, at: heard.at })
            .collect();
        self.seen.wrong.append(&mut self.book.wrong);
        self.seen
    }

    async fn change(&mut self, change: GroupChange) {
        let (office, user) = (self.office.clone(), self.user);
        let by_command = self.random.below(3) == 0;
        let mut answered = std::pin::pin!(office.change(change, user, by_command));
        loop {
            tokio::select! {
                () = &mut answered => return,
                () = self.hear() => {}
            }
        }
    }

    async fn for_a_while(&mut self, ms: u64) {
        let while_ = Duration::from_millis(ms + self.random.below(ms));
        self.listen_until(Instant::now() + while_).await;
    }

    async fn listen_until(&mut self, deadline: Instant) {
        let over = tokio::time::sleep_until(deadline.into());
        let mut over = std::pin::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return,
                () = self.hear() => {}
            }
        }
    }

    /// Takes down the next push, on a new connection if the old one is lost. Cancel-safe.
    async fn hear(&mut self) {
        let Some(line) = &mut self.line else { return self.connect().await };
        match line.next(&mut self.book).await {
            Ok(_taken_down) => {}
            Err(_lost) => self.line = None,
        }
    }

    async fn connect(&mut self) {
        let index = self.random.index(self.gateways.len());
        let gateway = self.gateways.get(index).cloned().unwrap_or_default();
        match Line::open(&gateway, ClientType::Android, &mut self.book).await {
            Ok(line) => {
                self.line = Some(line);
                self.lines += 1;
            }
            Err(_not_now) => sleep(Duration::from_millis(50)).await,
        }
    }

    /// Reads all of the group's history that the user may read, and asks for its head.
    async fn read(&mut self) {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "u{} may read or not", self.user);
            let Some(line) = &mut self.line else {
                self.connect().await;
                continue;
            };
            let conversation = Conversation::Group(self.office.group);
            let asked = Instant::now();
            match read_all(line, &mut self.book, conversation).await {
                Ok((head, rows)) => {
                    self.seen.pulls.push(Pull { asked, answered: Instant::now(), head, rows });
                    return;
                }
                Err(_lost) => self.line = None,
            }
        }
    }
}

/// The newest number of a conversation as the server tells it, and all that it shows, the newest
/// first.
async fn read_all(
    line: &mut Line,
    book: &mut Book,
    conversation: Conversation,
) -> io::Result<(u32, Vec<(u32, u64)>)> {
    const PAGE: u32 = 100;
    let head = line.latest(book, conversation).await?;
    let (mut rows, mut begin) = (Vec::new(), 0);
    loop {
        let page = line.page(book, conversation, begin, PAGE).await?;
        rows.extend(
            page.iter().map(|info| (info.msg_id, content(info.from_user_id, &info.msg_data))),
        );
        let oldest = page.last().map_or(0, |info| info.msg_id);
        if oldest <= 1 {
            return Ok((head, rows));
        }
        begin = oldest - 1;
    }
}
