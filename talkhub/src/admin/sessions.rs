//! The sessions of a user, as an administrator reads them.

use daemon::clock::unix_s;
use jiff::Timestamp;
use proto::cluster::wire::{AdminAnswer, SessionLine};

use crate::terminal::printable;

/// The lines of an answer, and which gateways did not answer.
pub(super) fn shown(answer: &AdminAnswer) -> String {
    let head =
        format!("{:<8} {:<40} {:<20} {:>14}  gateway", "device", "address", "since (UTC)", "for");
    let mut lines = vec![head];
    lines.extend(answer.sessions.iter().map(|session| line(session, unix_s())));
    if answer.sessions.is_empty() {
        lines.push("no session".to_owned());
    }
    if !answer.silent.is_empty() {
        let silent: Vec<_> = answer.silent.iter().map(|name| printable(name)).collect();
        lines.push(format!("no answer within 2 s from: {}", silent.join(", ")));
    }
    lines.join("\n")
}

fn line(session: &SessionLine, now_s: u32) -> String {
    format!(
        "{:<8} {:<40} {:<20} {:>14}  {}",
        device(session.client_type),
        printable(&session.address),
        utc(session.since),
        lasting(now_s.saturating_sub(session.since)),
        printable(&session.gateway),
    )
}

fn device(client_type: u32) -> String {
    match client_type {
        0x01 => "Windows".to_owned(),
        0x02 => "Mac".to_owned(),
        0x11 => "iOS".to_owned(),
        0x12 => "Android".to_owned(),
        other => format!("0x{other:02x}"),
    }
}

fn lasting(seconds: u32) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3_600);
    match hours {
        0 => format!("{minutes} min"),
        1..48 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// A time of Unix as `2026-11-30 00:10:05`.
pub(super) fn utc(unix_s: u32) -> String {
    let time = Timestamp::from_second(unix_s.into()).unwrap_or_default();
    time.strftime("%F %T").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_as_a_date() {
        for (unix_s, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_795_996_799, "2026-11-29 23:59:59"),
            (u32::MAX, "2106-02-07 06:28:15"),
        ] {
            assert_eq!(utc(unix_s), expected);
        }
    }

    #[test]
    fn a_session_is_a_line_and_gateways_that_did_not_answer_are_named() {
        let session = SessionLine {
            client_type: 0x12,
            address: "10.0.0.1".to_owned(),
            since: unix_s() - 3_700,
            gateway: "gateway\u{1b}[2J".to_owned(),
        };
        let answer = AdminAnswer {
            sessions: vec![session],
            silent: vec!["far".to_owned()],
            ..AdminAnswer::default()
        };
        let text = shown(&answer);
        for expected in ["Android", "10.0.0.1", "1 h 1 min", "gateway\u{fffd}[2J", "from: far"] {
            assert!(text.contains(expected), "{expected} is missing: {text}");
        }
        assert!(shown(&AdminAnswer::default()).contains("no session"));
    }

    #[test]
    fn every_kind_of_device_is_named_and_a_clock_that_is_behind_is_no_harm() {
        let devices = [0x01, 0x02, 0x11, 0x12, 0x0a].map(device);
        assert_eq!(devices, ["Windows", "Mac", "iOS", "Android", "0x0a"]);
        let session = SessionLine { client_type: 1, since: 100, ..SessionLine::default() };
        let shown = line(&session, 99);
        assert!(shown.contains("1970-01-01 00:01:40") && shown.contains(" 0 min "), "{shown}");
    }

    #[test]
    fn a_time_that_is_over_is_short() {
        let shown = [59, 3_599, 3_600, 172_799, 172_800].map(lasting);
        assert_eq!(shown, ["0 min", "59 min", "1 h 0 min", "47 h 59 min", "2 d 0 h"]);
    }
}
