//! A report for people.

use std::fmt::{self, Write as _};

use super::check::{Report, Verdict, Violation};
use super::event::{Event, write_line};
use super::figures::{Figures, Latency};

/// Windows and seconds that are shown, beyond which only a summary is.
const SHOWN_MAX: usize = 20;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clean => "CLEAN",
            Self::Void => "VOID",
            Self::Broken => "BROKEN",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.verdict)?;
        for (rule, count) in &self.broken {
            writeln!(f, "  {rule}: {count} times")?;
        }
        for reason in &self.void {
            writeln!(f, "  void: {reason}")?;
        }
        self.violations.iter().try_for_each(|violation| write!(f, "\n{violation}"))?;
        write!(f, "\n{}", self.figures)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.rule, self.text)?;
        self.example.iter().try_for_each(|event| writeln!(f, "    {}", line(event)))
    }
}

/// An event as its line of JSON, without the end of the line.
pub fn line(event: &Event) -> String {
    let mut line = Vec::new();
    match write_line(&mut line, event) {
        Ok(()) => String::from_utf8_lossy(&line).trim_end().to_owned(),
        Err(error) => error.to_string(),
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [self.p50_us, self.p99_us, self.max_us].map(millis);
        write!(f, "p50 {p50} p99 {p99} max {max} ms")
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, conversations, devices, .. } = self;
        writeln!(
            f,
            "{events} events in {} s, {conversations} conversations, {devices} devices",
            self.us / 1_000_000
        )?;
        writeln!(
            f,
            "said {}: acknowledged {}, refused {}, unknown {}; received {}, in histories {}",
            self.said, self.acked, self.failed, self.unknown, self.received, self.stored
        )?;
        writeln!(f, "answers took {}", self.latency)?;
        writeln!(f, "sent again {}, missed and fetched {}", self.retries, self.repairs)?;
        for (what, fired) in &self.faults {
            writeln!(f, "fault {what}: {fired} times")?;
        }
        if let Some(fresh) = &self.freshness {
            let [p99, max, connected] =
                [fresh.p99_us, fresh.max_us, fresh.reconnected_us].map(millis);
            writeln!(
                f,
                "{} devices had everything p99 {p99} max {max} ms after the last fault; the last \
                 one was connected after {connected} ms",
                fresh.devices
            )?;
        }
        self.write_timeline(f)
    }
}

impl Figures {
    fn write_timeline(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for window in self.windows.iter().take(SHOWN_MAX) {
            let [start, end, stall] = [window.start_us, window.end_us, window.stall_us].map(millis);
            writeln!(
                f,
                "{} of {} from {start} to {end} ms: ok {} unknown {} refused {}, {}, longest \
                 without an acknowledgement {stall} ms",
                window.what,
                window.target,
                window.outcomes.ok,
                window.outcomes.info,
                window.outcomes.fail,
                window.latency,
            )?;
        }
        if self.windows.len() > SHOWN_MAX {
            let worst = self.windows.iter().max_by_key(|window| window.stall_us);
            let (what, stall) = worst.map_or(("", 0), |it| (it.what.as_str(), it.stall_us));
            let more = self.windows.len() - SHOWN_MAX;
            let stall = millis(stall);
            writeln!(f, "and {more} more faults; the longest without one was {what}: {stall} ms")?;
        }
        let empty = self.timeline.iter().filter(|second| second.ok == 0).count();
        let mut line = String::new();
        for second in self.timeline.iter().take(3 * SHOWN_MAX) {
            write!(line, " {}", second.ok)?;
            match (second.info, second.fail) {
                (0, 0) => {}
                (info, fail) => write!(line, "/{info}/{fail}")?,
            }
        }
        let more = if self.timeline.len() > 3 * SHOWN_MAX { " …" } else { "" };
        writeln!(
            f,
            "acknowledged (/unknown/refused) by second, {empty} of {} without any:{line}{more}",
            self.timeline.len()
        )
    }
}

const fn millis(us: u64) -> u64 {
    us.div_ceil(1_000)
}
