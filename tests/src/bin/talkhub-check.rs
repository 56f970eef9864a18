//! `talkhub-check`: whether the history of a run, as tests write it, keeps what the system promises.
//!
//! Exit codes: 0 it does, 1 it does not, 2 too little happened to tell, 64 it cannot be read.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tests::history::{
    Event, Report, Thresholds, Verdict, check, generate, read_lines, shrink, write_line,
};

/// The exit code for input that cannot be read, and for wrong arguments.
const BAD_INPUT: u8 = 64;

/// Checks the history of a run: one event per line of JSON
#[derive(Debug, Parser)]
#[command(name = "talkhub-check")]
struct Args {
    /// The history; standard input if not given
    file: Option<PathBuf>,
    /// Messages acknowledged, at least
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_acked: u64,
    /// Faults that really happened, at least
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_faults: u64,
    /// Messages sent again, at least
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_retries: u64,
    /// Messages missed and fetched, at least
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_repairs: u64,
    /// How long everybody who is online may take to have everything after the last fault
    #[arg(long, value_name = "MS")]
    freshness_ms: Option<u64>,
    /// Prints the result as JSON
    #[arg(long)]
    json: bool,
    /// Prints the part of the history that the first violation is about, as JSON lines
    #[arg(long)]
    shrink: bool,
    /// Prints a history of about this many events in which nothing is wrong, instead
    #[arg(long, value_name = "N", conflicts_with_all = ["file", "shrink", "json"])]
    generate: Option<usize>,
    /// Which one of all such histories
    #[arg(long, value_name = "S", default_value_t = 1, requires = "generate")]
    seed: u64,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let code = if error.use_stderr() { BAD_INPUT } else { 0 };
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    match run(&args) {
        Ok(code) => ExitCode::from(code),
        // The reader has closed the pipe: it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "talkhub-check: {error}").ok();
            ExitCode::from(BAD_INPUT)
        }
    }
}

fn run(args: &Args) -> io::Result<u8> {
    if let Some(count) = args.generate {
        print(&generate(count, args.seed))?;
        return Ok(0);
    }
    let events = read(args)?;
    let thresholds = Thresholds {
        min_acked: args.min_acked,
        min_faults: args.min_faults,
        min_retries: args.min_retries,
        min_repairs: args.min_repairs,
        freshness: args.freshness_ms.map(Duration::from_millis),
    };
    if args.shrink {
        return print_shrunk(&events, &thresholds);
    }
    let report = check(&events, &thresholds);
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    out.flush()?;
    Ok(code(&report))
}

fn read(args: &Args) -> io::Result<Vec<Event>> {
    let named =
        |name: &str, error: &dyn std::fmt::Display| io::Error::other(format!("{name}: {error}"));
    match &args.file {
        Some(path) => {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|error| named(&name, &error))?;
            read_lines(BufReader::new(file)).map_err(|error| named(&name, &error))
        }
        None => read_lines(io::stdin().lock()).map_err(|error| named("standard input", &error)),
    }
}

const fn code(report: &Report) -> u8 {
    match report.verdict {
        Verdict::Clean => 0,
        Verdict::Broken => 1,
        Verdict::Void => 2,
    }
}

fn print_shrunk(events: &[Event], thresholds: &Thresholds) -> io::Result<u8> {
    let Some(shrunk) = shrink(events, thresholds) else {
        return Ok(code(&check(events, thresholds)));
    };
    print(&shrunk.events)?;
    let (rule, left, all) = (shrunk.rule, shrunk.events.len(), events.len());
    let how = if shrunk.is_smaller { "still breaks" } else { "cannot be made smaller; breaks" };
    writeln!(io::stderr(), "talkhub-check: {left} of {all} events, which {how} {rule}")?;
    Ok(1)
}

fn print(events: &[Event]) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    events.iter().try_for_each(|event| write_line(&mut out, event))?;
    out.flush()
}
