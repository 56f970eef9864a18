//! Hurts a cluster of real processes on purpose, and says whether every promise held.
//!
//! `talkhub-fault all` runs the long form of every scenario and ends with a table; `talkhub-fault kill
//! --seed 7 --rounds 50` repeats one. Exit code: 0 held, 1 failed.

use std::process::ExitCode;

use clap::Parser;
use tests::fault::{Asked, End, Report, SCENARIOS, Scenario, find, run, say};

/// Hurts a cluster of real processes on purpose, and says whether every promise held
#[derive(Debug, Parser)]
#[command(name = "talkhub-fault")]
struct Args {
    /// Scenarios to run; `all` for every one, `list` to see what there is
    #[arg(required = true)]
    scenarios: Vec<String>,
    /// Repeats the choices of an earlier run
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How often, instead of as often as the form says
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// The short forms, as the everyday suite runs them
    #[arg(long)]
    short: bool,
    /// With this fault planted in the servers (`daemon/src/faults/mutant.rs`); of `mutants`, only this
    /// hunt
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
}

#[expect(clippy::print_stdout, reason = "a program for a person at a terminal")]
fn main() -> ExitCode {
    let args = Args::parse();
    let mut chosen: Vec<&'static Scenario> = Vec::new();
    for name in &args.scenarios {
        match (name.as_str(), find(name)) {
            ("list", _) => {
                for scenario in SCENARIOS.iter().copied().flatten() {
                    println!("{:<14} {}", scenario.name, scenario.about);
                }
                return ExitCode::SUCCESS;
            }
            ("all", _) => chosen.extend(SCENARIOS.iter().copied().flatten()),
            (_, Some(scenario)) => chosen.push(scenario),
            (_, None) => {
                say(format_args!("no scenario {name}; `talkhub-fault list` shows what there is"));
                return ExitCode::from(64);
            }
        }
    }
    let mutant = args.mutant.map(|name| &*name.leak());
    let asked = Asked { seed: args.seed, rounds: args.rounds, is_long: !args.short, mutant };
    let reports: Vec<Report> = chosen
        .into_iter()
        .map(|scenario| {
            let report = run(scenario, asked);
            say(&report);
            report
        })
        .collect();
    for report in &reports {
        println!("{report}");
    }
    let failed = reports.iter().filter(|report| matches!(report.end, End::Failed(_))).count();
    let skipped = reports.iter().filter(|report| matches!(report.end, End::Skipped(_))).count();
    println!("{} held, {failed} failed, {skipped} skipped", reports.len() - failed - skipped);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
