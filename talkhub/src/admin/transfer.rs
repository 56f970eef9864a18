//! `talkhub admin export` and `talkhub admin import`: a site from the embedded store to MySQL, while it
//! stands still. The work is db_proxy's ([`db_proxy::transfer`]).

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use db_proxy::PARTITIONS_MAX;
use db_proxy::transfer::{self as moving, MoveError, Moved, Step};
#[cfg(feature = "mysql")]
use store::mysql::MySqlOptions;

use super::bar::{Bar, grouped};
use crate::failure::Failure;
use crate::terminal::print;

/// The arguments of `export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The data_dir of the stopped db_proxy, if it is not the one of the cluster in --data
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The folder to write to: a new one, or that of an export that was interrupted
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
}

/// The arguments of `import`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The folder of a finished export
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
    /// An empty database; several times if messages are spread over several, in the order of
    /// `store.mysql`
    #[arg(long, value_name = "URL", required = true)]
    mysql: Vec<String>,
    /// A database of its own for users, if `store.mysql_logins` names one
    #[arg(long, value_name = "URL")]
    mysql_logins: Option<String>,
    /// Authorities of the servers' certificates, if `store.mysql_ca` names them
    #[arg(long, value_name = "FILE")]
    mysql_ca: Option<PathBuf>,
    /// The partitions of the new site, for ever: `kafka.partitions`, or 1 without Kafka
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(PARTITIONS_MAX)))]
    partitions: u32,
    /// Makes the tables first, as `db_proxy migrate` does
    #[arg(long, conflicts_with = "verify_only")]
    migrate: bool,
    /// Only compares what is there with the export
    #[arg(long)]
    verify_only: bool,
}

/// Writes a stopped site to files. `cluster_db` is where that of `talkhub up` is.
pub(super) fn export(args: &ExportArgs, cluster_db: &Path) -> Result<(), Failure> {
    let from = args.data_dir.clone().unwrap_or_else(|| cluster_db.to_owned());
    let to = args.to.clone();
    let moved = carried_out(async |watched: Arc<Watched>| {
        let work = move || moving::export(&from, &to, &|step| watched.step(step));
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| MoveError::Failed(error.to_string()))?
    })?;
    let how = if moved.already { "was exported already" } else { "exported" };
    say(&format!("{how}: {}, in {}", amount(&moved), args.to.display()))
}

/// Brings files into databases, or compares the two.
pub(super) fn import(args: &ImportArgs) -> Result<(), Failure> {
    let moved = imported(args)?;
    let how = match (args.verify_only, moved.already) {
        (true, _) => "the same as was exported",
        (false, true) => "was imported already",
        (false, false) => "imported, read back, and the same",
    };
    say(&format!("{how}: {}", amount(&moved)))?;
    match moved.of("unreadable") {
        0 => Ok(()),
        some => say(&format!(
            "{} records of the old log that nobody could read stay in {}",
            grouped(some),
            args.from.display()
        )),
    }
}

#[cfg(feature = "mysql")]
fn imported(args: &ImportArgs) -> Result<Moved, Failure> {
    let options = args.options();
    carried_out(async |watched: Arc<Watched>| {
        let watch = |step| watched.step(step);
        if args.verify_only {
            moving::verify(&args.from, &options, &watch).await
        } else {
            moving::import(&args.from, &options, args.migrate, &watch).await
        }
    })
}

#[cfg(not(feature = "mysql"))]
fn imported(_args: &ImportArgs) -> Result<Moved, Failure> {
    Err(Failure::config("this talkhub was built without MySQL: build it with `--features mysql`"))
}

#[cfg(feature = "mysql")]
impl ImportArgs {
    fn options(&self) -> MySqlOptions {
        MySqlOptions {
            shards: self.mysql.clone(),
            users: self.mysql_logins.clone(),
            authorities: self.mysql_ca.clone(),
            partitions: self.partitions,
            ..MySqlOptions::new(String::new())
        }
    }
}

fn amount(moved: &Moved) -> String {
    let mib = moved.bytes.div_ceil(1 << 20);
    let (rows, messages) = (grouped(moved.rows()), grouped(moved.of("message")));
    format!("{rows} rows, {messages} of them messages, {} MiB", grouped(mib))
}

fn say(line: &str) -> Result<(), Failure> {
    let cannot = |error| Failure::new(format!("cannot write to standard output: {error}"));
    print(line, io::stdout()).map_err(cannot)
}

/// How far it is, and whether it is to end.
#[derive(Debug)]
struct Watched {
    bar: Bar,
    stop: AtomicBool,
}

impl Watched {
    fn step(&self, step: Step) -> ControlFlow<()> {
        if self.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        self.bar.show(step);
        ControlFlow::Continue(())
    }
}

/// Carries it out with a bar. Ctrl-C ends it at the next step.
fn carried_out<W>(work: W) -> Result<Moved, Failure>
where
    W: AsyncFnOnce(Arc<Watched>) -> Result<Moved, MoveError>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start a runtime: {error}")))?;
    let watched = Arc::new(Watched { bar: Bar::new(), stop: AtomicBool::new(false) });
    let done = runtime.block_on(async {
        let mut work = pin!(work(Arc::clone(&watched)));
        tokio::select! {
            done = &mut work => return done,
            Ok(()) = tokio::signal::ctrl_c() => watched.stop.store(true, Ordering::Relaxed),
        }
        work.await
    });
    watched.bar.end();
    done.map_err(|error| match error {
        MoveError::Refused(_) => Failure::config(error.to_string()),
        MoveError::Failed(_) | MoveError::Differs(_) | MoveError::Stopped => {
            Failure::new(error.to_string())
        }
    })
}

#[cfg(test)]
#[cfg(feature = "mysql")]
mod tests {
    use clap::{Parser, Subcommand};
    use db_proxy::transfer::Phase;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        what: What,
    }

    #[derive(Debug, Subcommand)]
    enum What {
        Import(ImportArgs),
    }

    fn parse(line: &str) -> Result<ImportArgs, String> {
        let parsed = Cli::try_parse_from(format!("admin import --from f {line}").split(' '));
        let What::Import(args) = parsed.map_err(|error| error.render().to_string())?.what;
        Ok(args)
    }

    #[test]
    fn the_databases_are_those_that_were_named_in_their_order() {
        let all = "--mysql m1 --mysql m2 --mysql-logins u --mysql-ca ca --partitions 12";
        let options = parse(all).unwrap().options();
        assert_eq!(
            (options.shards, options.partitions),
            (["m1", "m2"].map(str::to_owned).to_vec(), 12)
        );
        assert_eq!((options.users.as_deref(), options.authorities), (Some("u"), Some("ca".into())));
        let least = parse("--mysql m --partitions 1").unwrap().options();
        assert_eq!((least.users, least.authorities), (None, None));
        assert!(parse("--mysql m").unwrap_err().contains("--partitions"));
        assert!(parse("--partitions 1").unwrap_err().contains("--mysql"));
        assert!(parse("--mysql m --partitions 0").unwrap_err().contains("1..="));
        let both = parse("--mysql m --partitions 1 --migrate --verify-only").unwrap_err();
        assert!(both.contains("cannot be used with"), "{both}");
    }

    #[test]
    fn what_was_moved_is_told_in_rows_messages_and_megabytes() {
        let tables = vec![("user", 2_000), ("message", 1_234_567)];
        let moved = |bytes| Moved { tables: tables.clone(), bytes, already: false };
        let expected = "1,236,567 rows, 1,234,567 of them messages, ";
        assert_eq!(amount(&moved(1 << 20)), format!("{expected}1 MiB"));
        assert_eq!(amount(&moved((1 << 20) + 1)), format!("{expected}2 MiB"));
    }

    #[test]
    fn what_is_to_end_ends_at_its_next_step() {
        let watched = Watched { bar: Bar::new(), stop: AtomicBool::new(false) };
        let step = Step { phase: Phase::Checking, table: "user", done: 0, total: 1 };
        assert_eq!(watched.step(step), ControlFlow::Continue(()));
        watched.stop.store(true, Ordering::Relaxed);
        assert_eq!(watched.step(step), ControlFlow::Break(()));
    }

    #[test]
    fn only_what_a_second_try_will_not_help_ends_with_78() {
        let failed = |error| carried_out(async |_watched: Arc<Watched>| Err(error)).unwrap_err();
        let refused = failed(MoveError::Refused("there is no export".to_owned()));
        assert_eq!((refused.code(), refused.to_string().as_str()), (78, "there is no export"));
        for error in [MoveError::Failed("gone".to_owned()), MoveError::Stopped] {
            assert_eq!(failed(error).code(), 1);
        }
    }
}
