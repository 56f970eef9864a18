//! One user does as much as one user can of what costs all others something: pictures that everybody is
//! told of, groups, bytes. The others must not notice.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use client::{ClientType, Connection};
use proto::client::{
    ChangeAvatarReply, ChangeAvatarRequest, GroupCreateReply, GroupCreateRequest, GroupType,
    MessageData, MessageType,
};
use proto::{Command, Frame};
use tokio::runtime::{Builder, Runtime};

use super::beside::Notice;
use super::daemons::site_of;
use super::{Run, Scenario, Skipped, hold};
use crate::device::get_in;
use crate::{Device, Probe, Site, SiteOptions};

/// A pair that talks, the user who spends, and a user who is never there.
const PAIR: (u32, u32) = (1, 2);
const SPENDER: u32 = 3;
const ABSENT: u32 = 4;
/// Users who are logged in, half of them at each gateway, and never read.
const SILENT: Range<u32> = 5..45;
/// Requests that the spender does not wait for.
const WINDOW: u32 = 8;
/// A picture's address, and a voice message, in bytes.
const ADDRESS: usize = 1_000;
const VOICE: u32 = 390_000;
/// What one user may do, as the settings have it by themselves.
const TOLD_EVERY: Duration = Duration::from_secs(10);
const GROUPS_PER_MINUTE: u64 = 10;
const BYTES_PER_S: f64 = 2e6;
const BYTES_BURST: f64 = 20e6;
/// How much the others may notice.
const NOTICE: Notice = Notice { slower_max: 2.0, floor: Duration::from_millis(50) };
/// What a daemon may have more in memory than before.
const GROWTH_MAX: u64 = 64 << 20;

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "fairness",
    about: "one user changes the picture, makes groups and sends 390 KB messages as fast as answers come, 60 s each: one change in 10 s is told, 10 groups a minute are made, 2 MB/s are taken after the first 20 MB; nobody who does not read is closed, the others' p99 is ≤ 2× of before, no daemon grows by more than 64 MiB",
    short: 1,
    long: 1,
    run,
}];

fn run(run: &mut Run) -> Result<(), Skipped> {
    let site = run.start(&options());
    let runtime = Builder::new_current_thread().enable_all().build().expect("start a runtime");
    let silent = runtime.block_on(log_in_silent(&site));
    let mut spender = Spender::log_in(&site, &runtime);
    let probe = Probe::start((&site.gateways[0], PAIR.0), (&site.gateways[1], PAIR.1));
    let began = Instant::now();
    hold(run.lasts(Duration::from_secs(20), Duration::from_secs(1)));
    let mut before = probe.answers_since(began);
    let (memory, closed) = (memory_of(&site), closed(&site));

    let began = Instant::now();
    let lasts = run.lasts(Duration::from_mins(1), Duration::from_secs(2));
    spender.pictures(run, &site, lasts);
    spender.groups(run, lasts);
    spender.bytes(run, lasts);
    let mut meanwhile = probe.answers_since(began);
    probe.finish();

    let grown = grown(&site, &memory);
    let closed = self::closed(&site) - closed;
    run.figure(
        "memory grew by at most",
        format!("{} MiB (≤ {} MiB)", grown >> 20, GROWTH_MAX >> 20),
    );
    run.figure("closed for not reading", format!("{closed} of {} (0)", silent.len()));
    NOTICE.check(run, "others' messages", &mut before, &mut meanwhile);
    assert!(grown <= GROWTH_MAX, "a daemon grows by {grown} bytes");
    assert_eq!(closed, 0, "a client that does not read is not closed for what one user does");
    drop(silent);
    Ok(())
}

fn options() -> SiteOptions {
    let mut options = site_of(SILENT.end - 1);
    // Other scenarios let their people make more groups than a person may.
    let limit = ("msg_server", "limits", "group_changes_per_minute", GROUPS_PER_MINUTE.to_string());
    options.settings.push(limit);
    options
}

async fn log_in_silent(site: &Site) -> Vec<Device> {
    let mut silent = Vec::new();
    for (user, gateway) in SILENT.zip(site.gateways.iter().cycle()) {
        silent.push(Device::pc(gateway, user).await);
    }
    silent
}

/// The user who spends.
struct Spender<'a> {
    connection: Connection,
    runtime: &'a Runtime,
}

impl<'a> Spender<'a> {
    fn log_in(site: &Site, runtime: &'a Runtime) -> Self {
        let spender = (SPENDER, ClientType::Windows);
        let login = get_in(&site.gateways[0], None, spender, None);
        let (connection, _login) = runtime.block_on(login);
        Self { connection, runtime }
    }

    /// Asks as fast as answers come. Returns the answers.
    fn ask<M: prost::Message>(
        &mut self,
        lasts: Duration,
        command: Command,
        message: impl Fn(usize) -> M,
    ) -> Vec<Frame> {
        let connection = &mut self.connection;
        self.runtime.block_on(async {
            let (mut asked, mut answers) = (VecDeque::new(), Vec::new());
            let until = Instant::now() + lasts;
            let mut number = 0;
            loop {
                while asked.len() < WINDOW as usize && Instant::now() < until {
                    number += 1;
                    let seq = connection.send(command, &message(number)).await;
                    asked.push_back(seq.expect("the spender stays connected"));
                }
                let Some(seq) = asked.pop_front() else { return answers };
                answers.push(connection.reply_to(seq).await.expect("everything is answered"));
            }
        })
    }

    fn pictures(&mut self, run: &mut Run, site: &Site, lasts: Duration) {
        let told =
            |site: &Site| site.metric_sum("msg_server", "talkhub_msg_server_pushes_out_total");
        // The pair's messages are pushes as well: one for each.
        let acknowledged =
            |site: &Site| site.metric("db_proxy", "talkhub_db_proxy_publications_total");
        let before = (told(site), acknowledged(site));
        let answers = self.ask(lasts, Command::ChangeAvatarRequest, |number| {
            let avatar_url = format!("http://pictures.example/{number:0ADDRESS$}");
            ChangeAvatarRequest { avatar_url, ..Default::default() }
        });
        let failed = |frame: &&Frame| {
            frame.parse::<ChangeAvatarReply>().is_ok_and(|reply| reply.result_code != 0)
        };
        let failed = answers.iter().filter(failed).count();
        let pushed = told(site) - before.0;
        let pushed = pushed.saturating_sub(acknowledged(site) - before.1);
        let sessions = u64::from(SILENT.end - SILENT.start) + 3;
        let times = 2 + lasts.as_secs() / TOLD_EVERY.as_secs();
        run.figure(
            "pictures changed, failed, told to the sessions in all",
            format!(
                "{:.1}/s, {failed} (0), {pushed} (≤ {})",
                per_second(answers.len(), lasts),
                times * sessions
            ),
        );
        assert!(answers.len() > 1 && failed == 0, "each change is stored and answered");
        assert!(pushed >= sessions, "everybody is told of the first: {pushed}");
        assert!(pushed <= times * sessions, "one change in {TOLD_EVERY:?} is told: {pushed}");
    }

    fn groups(&mut self, run: &mut Run, lasts: Duration) {
        let answers = self.ask(lasts, Command::GroupCreateRequest, |number| GroupCreateRequest {
            group_type: GroupType::Temporary.into(),
            name: format!("group {number}"),
            member_ids: SILENT.collect(),
            ..Default::default()
        });
        let made = |frame: &&Frame| {
            frame.parse::<GroupCreateReply>().is_ok_and(|reply| reply.result_code == 0)
        };
        let made = answers.iter().filter(made).count() as u64;
        let may = GROUPS_PER_MINUTE + 1 + GROUPS_PER_MINUTE * lasts.as_secs() / 60;
        let asked = per_second(answers.len(), lasts);
        run.figure("groups made of those asked for", format!("{made} (≤ {may}) of {asked:.0}/s"));
        assert!(made >= GROUPS_PER_MINUTE && made <= may, "{made} groups are made");
        assert!(answers.len() as u64 > made, "there was more to be had");
    }

    fn bytes(&mut self, run: &mut Run, lasts: Duration) {
        let began = Instant::now();
        let answers = self.ask(lasts, Command::MessageData, |number| {
            let mut data = vec![0; VOICE as usize];
            data.iter_mut().zip(number.to_be_bytes()).for_each(|(place, byte)| *place = byte);
            MessageData {
                to_session_id: ABSENT,
                msg_type: MessageType::SingleVoice.into(),
                msg_data: data.into(),
                ..Default::default()
            }
        });
        let lasted = began.elapsed().as_secs_f64();
        let acked =
            answers.iter().filter(|frame| frame.known_command() == Some(Command::MessageAck));
        let acked = u32::try_from(acked.count()).unwrap_or(u32::MAX);
        let bytes = f64::from(acked) * f64::from(VOICE);
        // What the window holds may have been taken before the first answer.
        let may = BYTES_BURST + BYTES_PER_S * lasted + f64::from(WINDOW * VOICE);
        run.figure(
            "bytes sent and acknowledged",
            format!("{:.1} MB (≤ {:.1}) in {lasted:.1} s", bytes / 1e6, may / 1e6),
        );
        assert!(bytes > 0.0 && bytes <= may, "{bytes} bytes are taken");
        assert!(!run.is_long || bytes >= BYTES_BURST, "the burst is taken at least: {bytes}");
    }
}

/// In memory, of each daemon, in bytes.
fn memory_of(site: &Site) -> Vec<(String, u64)> {
    site.names().into_iter().map(|name| (name.clone(), site.resident_bytes(&name))).collect()
}

fn grown(site: &Site, before: &[(String, u64)]) -> u64 {
    let grown = |(name, bytes): &(String, u64)| site.resident_bytes(name).saturating_sub(*bytes);
    before.iter().map(grown).max().unwrap_or(0)
}

/// Sessions that were closed since they do not read.
fn closed(site: &Site) -> u64 {
    let line = "talkhub_msg_server_closed_total{reason=\"SlowReader\"}";
    let pages = site.names().into_iter().filter(|name| name.starts_with("msg_server"));
    let pages = pages.filter_map(|name| site.metrics(&name));
    pages
        .filter_map(|page| {
            let count = page.lines().find_map(|other| other.strip_prefix(line))?;
            count.trim().parse::<u64>().ok()
        })
        .sum()
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(count: usize, lasts: Duration) -> f64 {
    count as f64 / lasts.as_secs_f64()
}
