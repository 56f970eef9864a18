//! Faults on purpose: each scenario runs a site of real processes, hurts it, and holds everything that
//! was said and seen against the promises.
//!
//! Every scenario has a short form, which the everyday suite runs (`tests/faults.rs`), and a long
//! one, which the program `talkhub-fault` runs. A scenario fails by a panic. What it did is told in
//! figures; a run in which no fault fired or nothing was acknowledged is a failure too.

#![expect(clippy::panic_in_result_fn, reason = "a scenario fails by a panic")]
#![expect(clippy::unnecessary_wraps, reason = "all scenarios look alike")]

mod beside;
mod clients;
mod clock;
mod daemons;
mod disk;
mod fairness;
mod full;
mod kafka;
mod ledger;
mod logbits;
mod members;
mod mutants;
mod network;
mod old;
mod overload;
mod power;
mod resumer;
mod seeds;
mod slow;
mod speakers;
mod store;
mod syscalls;
mod talk;

use std::fmt::{self, Display};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::{Random, Site, SiteOptions};

/// A scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does, and what must hold.
    pub about: &'static str,
    /// Rounds of the short form.
    pub short: usize,
    /// Rounds of the long form.
    pub long: usize,
    /// Runs it. Panics if a promise is broken.
    pub run: fn(&mut Run) -> Result<(), Skipped>,
}

/// Why a scenario cannot be run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped(pub String);

/// All scenarios, in the order in which `all` runs them.
pub const SCENARIOS: &[&[Scenario]] = &[
    clock::SCENARIOS,
    mutants::SCENARIOS,
    daemons::SCENARIOS,
    network::SCENARIOS,
    power::SCENARIOS,
    disk::SCENARIOS,
    full::SCENARIOS,
    logbits::SCENARIOS,
    syscalls::SCENARIOS,
    clients::SCENARIOS,
    slow::SCENARIOS,
    members::SCENARIOS,
    store::SCENARIOS,
    kafka::SCENARIOS,
    overload::SCENARIOS,
    fairness::SCENARIOS,
];

/// One run of a scenario.
#[derive(Debug)]
pub struct Run {
    /// Where its choices come from.
    pub random: Random,
    /// How often.
    pub rounds: usize,
    /// Whether it is the long form: then faults last as long as they would in earnest.
    pub is_long: bool,
    name: &'static str,
    mutant: Option<&'static str>,
    figures: Vec<(String, String)>,
    told: Instant,
}

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// The scenario.
    pub name: &'static str,
    /// The seed to run it with again.
    pub seed: u64,
    /// How many rounds.
    pub rounds: usize,
    /// What was counted and measured.
    pub figures: Vec<(String, String)>,
    /// How long it took.
    pub took: Duration,
    /// Whether the promises held.
    pub end: End,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Everything held.
    Held,
    /// It cannot be run here.
    Skipped(String),
    /// A promise was broken, or the run proved nothing.
    Failed(String),
}

/// How a run is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// Repeats the choices of an earlier run.
    pub seed: Option<u64>,
    /// How often; otherwise as the form says.
    pub rounds: Option<usize>,
    /// The long form.
    pub is_long: bool,
    /// A fault of the servers themselves, which must be noticed.
    pub mutant: Option<&'static str>,
}

/// The scenario of this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().copied().flatten().find(|scenario| scenario.name == name)
}

impl Run {
    /// Starts a site, with the mutant that the run is to notice, if there is one.
    pub fn start(&self, options: &SiteOptions) -> Site {
        Site::start(&self.planted(options))
    }

    /// As [`Self::start`], but no daemon runs yet.
    pub fn prepare(&self, options: &SiteOptions) -> Site {
        Site::prepare(&self.planted(options))
    }

    fn planted(&self, options: &SiteOptions) -> SiteOptions {
        let mut options = options.clone();
        if let Some(mutant) = self.mutant {
            options.cluster.faults = true;
            options.env.push(("TALKHUB_MUTANT", mutant.to_owned()));
        }
        options
    }

    /// Notes a figure for the summary.
    pub fn figure(&mut self, what: &str, value: impl Display) {
        self.figures.push((what.to_owned(), value.to_string()));
    }

    /// Says how far it has come, now and then.
    pub fn progress(&mut self, round: usize, what: impl Display) {
        const EVERY: Duration = Duration::from_secs(10);
        if self.told.elapsed() > EVERY {
            self.told = Instant::now();
            say(format_args!("{}: {round} of {}: {what}", self.name, self.rounds));
        }
    }

    /// How long a fault lasts that takes `long` in earnest.
    pub fn lasts(&self, long: Duration, short: Duration) -> Duration {
        if self.is_long { long } else { short }
    }
}

/// Lines of a failure that the summary repeats.
const WHY_LINES: usize = 12;

/// Runs a scenario to its end, whatever that is.
pub fn run(scenario: &'static Scenario, asked: Asked) -> Report {
    let seed = asked.seed.unwrap_or_else(Random::new_seed);
    let rounds = asked.rounds.unwrap_or(if asked.is_long { scenario.long } else { scenario.short });
    say(format_args!("{}: --seed {seed} --rounds {rounds}", scenario.name));
    let began = Instant::now();
    let mut run = Run {
        random: Random::from_seed(seed),
        rounds,
        is_long: asked.is_long,
        name: scenario.name,
        mutant: asked.mutant,
        figures: Vec::new(),
        told: began,
    };
    // The panic has been printed where it happened; what is left is to go on with the next scenario.
    let end = match catch_unwind(AssertUnwindSafe(|| (scenario.run)(&mut run))) {
        Ok(Ok(())) => End::Held,
        Ok(Err(Skipped(why))) => End::Skipped(why),
        Err(panic) => End::Failed(text_of(&*panic)),
    };
    let Run { figures, .. } = run;
    Report { name: scenario.name, seed, rounds, figures, took: began.elapsed(), end }
}

/// Runs the short form of a scenario as a test: what failed before first, then with a new seed. With
/// `TALKHUB_SEED` in the environment, only with that.
pub fn check(name: &str) {
    let scenario = find(name).unwrap_or_else(|| panic!("there is a scenario {name}"));
    let seed = std::env::var("TALKHUB_SEED").ok().and_then(|seed| seed.parse().ok());
    let kept = if seed.is_none() { seeds::kept(name) } else { Vec::new() };
    for seeds::Kept { seed, rounds } in kept {
        let asked = Asked { seed: Some(seed), rounds: Some(rounds), ..Asked::default() };
        if !has_held(&run(scenario, asked)) {
            return;
        }
    }
    let has_held = has_held(&run(scenario, Asked { seed, ..Asked::default() }));
    if has_held && seed.is_none() {
        seeds::forget(name);
    }
}

/// Whether a run has held; otherwise it could not be run here. Panics if it failed.
fn has_held(report: &Report) -> bool {
    say(report);
    match &report.end {
        End::Held => return true,
        End::Skipped(why) => backends::skip(&format!("{}: {why}", report.name)),
        End::Failed(_) => {
            seeds::keep(report);
            // In short: the whole was printed where it happened, and what comes last is what is read.
            panic!("{report}");
        }
    }
    false
}

/// Tells a person, on standard error.
pub fn say(text: impl Display) {
    // Not by a macro, which panics if standard error is closed.
    writeln!(std::io::stderr(), "{text}").ok();
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match &self.end {
            End::Held => "held".to_owned(),
            End::Skipped(why) => format!("SKIPPED: {why}"),
            End::Failed(why) => {
                // The panic itself may be far above, behind the log of the cluster.
                let first = why.lines().take(WHY_LINES).collect::<Vec<_>>().join("\n    ");
                let Self { name, seed, rounds, .. } = self;
                format!("FAILED: {first}\n  talkhub-fault {name} --seed {seed} --rounds {rounds}")
            }
        };
        write!(f, "{:<14} {:>6.1} s  {end}", self.name, self.took.as_secs_f64())?;
        for (what, value) in &self.figures {
            write!(f, "\n{:>26}  {what}: {value}", "")?;
        }
        Ok(())
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without a text".to_owned())
}

/// Lets a fault last.
#[expect(clippy::disallowed_methods, reason = "a fault lasts as long as it is to last")]
pub(crate) fn hold(time: Duration) {
    std::thread::sleep(time);
}

/// The value below which `share` (of 1.0) of the durations lie; zero of none.
pub fn percentile(durations: &mut [Duration], share: f64) -> Duration {
    durations.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in a list"
    )]
    let place = ((durations.len() as f64 * share).ceil() as usize).saturating_sub(1);
    durations.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        let mut names: Vec<_> = SCENARIOS.iter().copied().flatten().map(|one| one.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let mut durations: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut durations, 0.99), Duration::from_millis(99));
        assert_eq!(percentile(&mut durations, 1.0), Duration::from_millis(100));
        assert_eq!(percentile(&mut [], 0.5), Duration::ZERO);
    }
}
