//! What happens between daemons: they lose sight of each other, wholly, one way, or now and then.

use std::panic::resume_unwind;
use std::time::{Duration, Instant};

use super::daemons::{CONVERGE_LIMIT, PHONES, SILENCE, site_of};
use super::{Run, Scenario, Skipped, hold, percentile};
use crate::history::Thresholds;
use crate::{
    Crowd, CrowdOptions, Ends, Manner, Namespace, Nemesis, PATIENCE, Probe, Programs, Random, Site,
    SiteOptions,
};

const PEOPLE: u32 = 10;
/// The pair that listens to how fast things are, beside the crowd.
const PAIR: (u32, u32) = (PEOPLE + 1, PEOPLE + 2);

/// The scenarios of this file.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "hub",
        about: "one route_server is killed, then cut off, then both: live delivery resumes ≤ 1 s after the death of one or all, everything is where it belongs ≤ 5 s after the heal",
        short: 1,
        long: 2,
        run: hub,
    },
    Scenario {
        name: "partitions",
        about: "random two-way splits of the daemons, 20 s each: nothing lost or out of order, converged ≤ 5 s after the heal",
        short: 2,
        long: 100,
        run: partitions,
    },
    Scenario {
        name: "one-way",
        about: "random links pass on only one direction, 10 s each: the same",
        short: 3,
        long: 40,
        run: one_way,
    },
    Scenario {
        name: "answers-cut",
        about: "the answers of the owner to one gateway are lost for a second, and the link with them: what was stored is recognised when it is sent again",
        short: 4,
        long: 100,
        run: answers_cut,
    },
    Scenario {
        name: "links",
        about: "links are reset, left half-open, and every chunk on every link is held up for up to 500 ms",
        short: 6,
        long: 600,
        run: links,
    },
    Scenario {
        name: "loss",
        about: "10 % of all packets are lost, then 30 %, in a network namespace; rounds are seconds",
        short: 4,
        long: 180,
        run: loss,
    },
];

/// A site with wires, a crowd, and the pair.
struct Wired {
    site: Site,
    crowd: Crowd,
    probe: Probe,
    /// How many faults there were.
    faults: u64,
    /// How long everything may take to come together again.
    limit: Duration,
}

impl Wired {
    fn start(run: &Run) -> Self {
        let mut options = SiteOptions { wires: true, ..site_of(PEOPLE) };
        options.cluster.users = PAIR.1.max(options.cluster.users);
        let site = run.start(&options);
        // Several of these run side by side.
        let mut options = CrowdOptions::new(&site.login, PEOPLE);
        options.listeners = PHONES;
        options.pause = Duration::from_millis(100);
        let mut crowd = Crowd::with(&options);
        crowd.wait_for_acks(50);
        let [one, other] = [0, 1].map(|index| site.gateways[index].clone());
        let probe = Probe::start((&one, PAIR.0), (&other, PAIR.1));
        // In the everyday form the machine does something else as well.
        let limit = if run.is_long { CONVERGE_LIMIT } else { PATIENCE };
        Self { site, crowd, probe, faults: 0, limit }
    }

    /// A fault begins; it ends when what is returned is dropped.
    fn fault(&mut self, what: &str, target: &str) -> Nemesis {
        self.faults += 1;
        self.crowd.nemesis(what, target)
    }

    /// How long after the heal everything was where it belongs.
    fn converged(&mut self, healed: Instant) -> Duration {
        // New messages pass too, not only those that waited.
        self.probe.wait_for_acks(3);
        self.crowd.settle(PATIENCE);
        let crowd = healed.elapsed();
        let took = self.probe.converged_after(healed).max(crowd);
        assert!(took <= self.limit, "converged {took:?} after the heal");
        took
    }

    /// Ends it. Returns how many messages were acknowledged, and how many connections were lost.
    fn finish(self) -> (usize, usize) {
        let said = self.probe.finish();
        let wanted =
            Thresholds { min_acked: 100, min_faults: self.faults, ..Thresholds::default() };
        let (summary, _report) = self.crowd.verdict(&self.site.gateways[0], None, &wanted);
        (summary.acked + said, summary.reconnects)
    }
}

fn hub(run: &mut Run) -> Result<(), Skipped> {
    const RESUME_LIMIT: Duration = Duration::from_secs(1);
    let lasts = run.lasts(Duration::from_secs(30), Duration::from_secs(2));
    let mut wired = Wired::start(run);
    let hubs = ["route_server-1".to_owned(), "route_server-2".to_owned()];
    let (mut slowest, mut converged) = (Vec::new(), Vec::new());
    for round in 0..run.rounds {
        for (away, killed) in [(1, true), (1, false), (2, true), (2, false)] {
            let away: Vec<String> =
                hubs.iter().cycle().skip(round % 2).take(away).cloned().collect();
            let how = if killed { "killed" } else { "cut off" };
            let fault = wired.fault(how, &away.join(" and "));
            let began = Instant::now();
            if killed {
                for name in &away {
                    wired.site.kill(name);
                }
            } else {
                assert!(wired.site.wires().part(&away) > 0, "something is cut");
            }
            hold(lasts);
            let slow = wired.probe.slowest_since(began);
            assert!(slow <= RESUME_LIMIT, "{} {how}: live after {slow:?}", away.join(" and "));
            slowest.push(slow);
            let healed = Instant::now();
            if killed {
                for name in &away {
                    wired.site.start_daemon(name);
                }
            } else {
                wired.site.wires().heal();
            }
            fault.end();
            converged.push(wired.converged(healed));
            run.progress(round, format_args!("{} {how}", away.join(" and ")));
        }
    }
    let direct = wired.site.metric_sum("db_proxy", "talkhub_db_proxy_publications_direct_total");
    assert!(direct > 0, "without a hub the owner serves the gateways");
    let (acked, _reconnects) = wired.finish();
    run.figure("faults of each of 4 kinds, each for", format!("{}, {lasts:?}", run.rounds));
    run.figure("acknowledged, served directly", format_args!("{acked}, {direct}"));
    run.figure("slowest live delivery", format_args!("{:.2?} (≤ 1 s)", most(&slowest)));
    run.figure("converged after the heal", format_args!("{:.2?} (≤ 5 s)", most(&converged)));
    Ok(())
}

fn partitions(run: &mut Run) -> Result<(), Skipped> {
    let lasts = run.lasts(Duration::from_secs(20), Duration::from_secs(3));
    side_by_side(run, ("split", lasts), |site, random| {
        let names = site.names();
        let side = loop {
            let side: Vec<String> =
                names.iter().filter(|_name| random.below(2) == 0).cloned().collect();
            if !side.is_empty() && side.len() < names.len() {
                break side;
            }
        };
        (side.join(" and "), site.wires().part(&side))
    });
    Ok(())
}

fn one_way(run: &mut Run) -> Result<(), Skipped> {
    let lasts = run.lasts(Duration::from_secs(10), Duration::from_secs(3));
    side_by_side(run, ("one way", lasts), |site, random| {
        let links = site.wires().between_daemons();
        let ends = &links[random.index(links.len())];
        let forward_cut = random.below(2) == 0;
        let manner = Manner { forward_cut, backward_cut: !forward_cut, ..Manner::default() };
        site.wires().set(ends, manner);
        let way = if forward_cut { "to" } else { "from" };
        (format!("{} {way} {}", ends.from, ends.to), 1)
    });
    Ok(())
}

fn answers_cut(run: &mut Run) -> Result<(), Skipped> {
    let mut wired = Wired::start(run);
    let gateways = ["msg_server-1", "msg_server-2"];
    for round in 0..run.rounds {
        let gateway = gateways[run.random.index(gateways.len())];
        let fault = wired.fault("answers cut", gateway);
        let wires = wired.site.wires();
        // The hub would bring the answers too, as what is published.
        let links = wires.between_daemons().into_iter().filter(|ends| ends.from == gateway);
        let links: Vec<Ends> = links.collect();
        for ends in &links {
            wires.set(ends, Manner { backward_cut: true, ..Manner::default() });
        }
        hold(Duration::from_secs(1));
        for ends in &links {
            wires.reset(ends);
        }
        wires.heal();
        fault.end();
        wired.crowd.wait_for_acks(50);
        run.progress(round, format_args!("{} acknowledged", wired.crowd.acked()));
    }
    let recognised = wired.site.metric("db_proxy", "talkhub_db_proxy_duplicates_total");
    let converged = wired.converged(Instant::now());
    let (acked, _reconnects) = wired.finish();
    assert!(recognised > 0, "what was sent again was recognised");
    run.figure("answers cut, resends recognised", format!("{}, {recognised}", run.rounds));
    run.figure("acknowledged", acked);
    run.figure("converged after the last", format_args!("{converged:.2?} (≤ 5 s)"));
    Ok(())
}

fn links(run: &mut Run) -> Result<(), Skipped> {
    let mut wired = Wired::start(run);
    let links: Vec<Ends> = wired.site.wires().between_daemons();
    let (mut resets, mut frozen) = (0, 0);
    for round in 0..run.rounds {
        let ends = &links[run.random.index(links.len())];
        let _fault = wired.fault("link", &format!("{} to {}", ends.from, ends.to));
        if run.random.below(4) == 0 {
            wired.site.wires().freeze(ends);
            frozen += 1;
        } else {
            wired.site.wires().reset(ends);
            resets += 1;
        }
        if round == run.rounds / 2 {
            let delay_max = Duration::from_millis(500);
            wired.site.wires().set_all(Manner { delay_max, ..Manner::default() });
        }
        hold(Duration::from_millis(200));
        run.progress(round, format_args!("{} acknowledged", wired.crowd.acked()));
    }
    hold(run.lasts(Duration::from_mins(1), Duration::from_secs(1)));
    let healed = Instant::now();
    wired.site.wires().heal();
    let converged = wired.converged(healed);
    let (acked, reconnects) = wired.finish();
    assert!(resets > 0, "some links were reset");
    run.figure("links reset, left half-open", format_args!("{resets}, {frozen}"));
    run.figure("acknowledged, clients' reconnects", format_args!("{acked}, {reconnects}"));
    run.figure("converged after the heal", format_args!("{converged:.2?} (≤ 5 s)"));
    Ok(())
}

fn loss(run: &mut Run) -> Result<(), Skipped> {
    Programs::build();
    // In a thread of its own, which goes with its network.
    std::thread::scope(|scope| {
        scope.spawn(|| loss_in_namespace(run)).join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

fn loss_in_namespace(run: &mut Run) -> Result<(), Skipped> {
    let namespace = Namespace::enter().map_err(Skipped)?;
    namespace.lose(0).map_err(Skipped)?;
    let mut wired = Wired::start(run);
    let seconds = |share: usize| Duration::from_secs((run.rounds / share).max(1) as u64);
    let (before, mild, heavy) = (seconds(4), seconds(2), seconds(4));
    let mut rates = Vec::new();
    let mut lost = 0;
    for (percent, time) in [(0, before), (10, mild), (30, heavy)] {
        let _fault = wired.fault("loss", &format!("{percent} %"));
        namespace.lose(percent).expect("it worked before");
        let acked = wired.crowd.acked();
        hold(time);
        lost += namespace.lost();
        let more = wired.crowd.acked() - acked;
        rates.push(format!("{percent} %: {}", more as u64 / time.as_secs()));
    }
    namespace.lose(0).expect("it worked before");
    let converged = wired.converged(Instant::now());
    let (acked, reconnects) = wired.finish();
    assert!(lost > 0, "packets were lost");
    run.figure("packets lost", lost);
    run.figure("acknowledged in a second", rates.join(", "));
    run.figure("acknowledged, clients' reconnects", format_args!("{acked}, {reconnects}"));
    run.figure("converged after the heal", format_args!("{converged:.2?} (≤ 5 s)"));
    Ok(())
}

/// What several sites saw.
#[derive(Default)]
struct Seen {
    cut: usize,
    converged: Vec<Duration>,
    acked: usize,
    reconnects: usize,
}

/// Shares the rounds of a long run among sites that run at the same time: they mostly wait. `cut` says
/// what it has cut, and how many wires; that lasts, and then everything must come together again.
fn side_by_side(
    run: &mut Run,
    (what, lasts): (&str, Duration),
    cut: impl Fn(&Site, &mut Random) -> (String, usize) + Sync,
) {
    let sites = if run.is_long { 4 } else { 1 };
    let share = run.rounds.div_ceil(sites);
    let seeds: Vec<u64> = (0..sites).map(|_site| run.random.below(u64::MAX)).collect();
    let one_site = |run: &Run, mut random: Random| {
        let mut wired = Wired::start(run);
        let mut seen = Seen::default();
        for round in 0..share {
            let (target, wires) = cut(&wired.site, &mut random);
            let fault = wired.fault(what, &target);
            seen.cut += wires;
            // Once in each run, longer than anybody waits for a sign of life.
            hold(if round == 0 { lasts.max(SILENCE) } else { lasts });
            let healed = Instant::now();
            wired.site.wires().heal();
            fault.end();
            seen.converged.push(wired.converged(healed));
        }
        (seen.acked, seen.reconnects) = wired.finish();
        seen
    };
    let all: Vec<Seen> = std::thread::scope(|scope| {
        let (one_site, run) = (&one_site, &*run);
        let threads: Vec<_> = (seeds.iter())
            .map(|seed| scope.spawn(move || one_site(run, Random::from_seed(*seed))))
            .collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.map(|seen| seen.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let mut converged: Vec<Duration> =
        all.iter().flat_map(|seen| seen.converged.iter().copied()).collect();
    let total = |count: fn(&Seen) -> usize| all.iter().map(count).sum::<usize>();
    assert!(total(|seen| seen.cut) > 0, "something was cut");
    run.figure(
        "faults, wires cut",
        format_args!("{}, {}", converged.len(), total(|seen| seen.cut)),
    );
    run.figure(
        "acknowledged, clients' reconnects",
        format_args!("{}, {}", total(|seen| seen.acked), total(|seen| seen.reconnects)),
    );
    let p99 = percentile(&mut converged, 0.99);
    let worst = most(&converged);
    run.figure("converged, p99 and most", format_args!("{p99:.2?}, {worst:.2?} (≤ 5 s)"));
}

fn most(durations: &[Duration]) -> Duration {
    durations.iter().max().copied().unwrap_or_default()
}
