//! Webhooks: what may be asked, and how they are shown.

use std::time::Duration;

use clap::Subcommand;
use daemon::clock::unix_ms;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    AdminAnswer, WebhookAdd, WebhookFailureLine, WebhookFailures, WebhookLine, WebhookList,
    WebhookRemove, WebhookReplay, WebhookRotate, WebhookState, WebhookSwitch,
};
use serde::Serialize;

use super::sessions::utc;
use crate::admin_link::AdminLink;
use crate::failure::Failure;
use crate::terminal::printable;

/// What is done with webhooks.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Command {
    /// Makes a webhook, and shows its secret once
    Add {
        /// Where events are sent: an http or https URL
        url: String,
        /// Which events: message.created, group.created, members.changed
        #[arg(long, value_name = "EVENT", required = true, value_delimiter = ',')]
        events: Vec<String>,
        /// What it is called; made of its number if not given
        #[arg(long)]
        name: Option<String>,
        /// Shows it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows all webhooks
    List,
    /// Shows one webhook, and the events of it that were given up last
    Show {
        /// The webhook's number
        webhook: u32,
    },
    /// Forgets a webhook, for good
    Remove {
        /// The webhook's number
        webhook: u32,
    },
    /// Sends events again, from where it was
    Enable {
        /// The webhook's number
        webhook: u32,
    },
    /// Sends nothing until it is enabled
    Disable {
        /// The webhook's number
        webhook: u32,
    },
    /// Makes a new secret, and shows it once
    Rotate {
        /// The webhook's number
        webhook: u32,
        /// How long the secret before signs as well
        #[arg(long, value_name = "DAYS", default_value_t = 1,
              value_parser = clap::value_parser!(u32).range(0..=365))]
        secret_days: u32,
    },
    /// Shows the events that were given up
    Failures {
        /// The webhook's number
        webhook: u32,
    },
    /// Sends what happened since then again
    Replay {
        /// The webhook's number
        webhook: u32,
        /// From how long ago: a number and s, m, h or d
        #[arg(long, value_name = "TIME", value_parser = ago)]
        last: Duration,
    },
}

/// How long ago, as it is typed.
fn ago(text: &str) -> Result<Duration, String> {
    let unit = text.chars().next_back().unwrap_or_default();
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err("must be a number and one of s, m, h, d".to_owned()),
    };
    let count = text.strip_suffix(unit).and_then(|count| count.parse::<u32>().ok());
    let count = count.ok_or_else(|| "must be a number and one of s, m, h, d".to_owned())?;
    Ok(Duration::from_secs(u64::from(count) * seconds))
}

/// Asks, and says what is shown.
pub(super) async fn carry_out(command: Command, link: &AdminLink) -> Result<String, Failure> {
    Ok(match command {
        Command::Add { url, events, name, json } => {
            let answer = link.ask(What::WebhookAdd(WebhookAdd { name, url, events })).await?;
            made(&answer, json)
        }
        Command::List => list(&all(link).await?),
        Command::Show { webhook } => {
            let lines = all(link).await?;
            let Some(line) = lines.iter().find(|line| line.number == webhook) else {
                return Err(Failure::new(format!("webhook {webhook} does not exist")));
            };
            let failed = failures(link, webhook).await?;
            let shown = [whole(line), String::new(), failed];
            shown.join("\n")
        }
        Command::Remove { webhook } => {
            link.ask(What::WebhookRemove(WebhookRemove { webhook })).await?;
            format!("webhook {webhook} removed")
        }
        Command::Enable { webhook } => {
            link.ask(What::WebhookSwitch(WebhookSwitch { webhook, on: true })).await?;
            format!("webhook {webhook} enabled")
        }
        Command::Disable { webhook } => {
            link.ask(What::WebhookSwitch(WebhookSwitch { webhook, on: false })).await?;
            format!("webhook {webhook} disabled")
        }
        Command::Rotate { webhook, secret_days } => {
            let old_for_s = u64::from(secret_days) * 86_400;
            let rotate = What::WebhookRotate(WebhookRotate { webhook, old_for_s });
            link.ask(rotate).await?.webhook_secret.unwrap_or_default()
        }
        Command::Failures { webhook } => failures(link, webhook).await?,
        Command::Replay { webhook, last } => {
            let last_ms = u64::try_from(last.as_millis()).unwrap_or(u64::MAX);
            let since_ms = unix_ms().saturating_sub(last_ms);
            link.ask(What::WebhookReplay(WebhookReplay { webhook, since_ms })).await?;
            format!("webhook {webhook} is sent again what happened since {}", time(since_ms))
        }
    })
}

async fn all(link: &AdminLink) -> Result<Vec<WebhookLine>, Failure> {
    Ok(link.ask(What::WebhookList(WebhookList { secrets: None })).await?.webhooks)
}

async fn failures(link: &AdminLink, webhook: u32) -> Result<String, Failure> {
    let wanted = WebhookFailures { webhook, before: None, count: None };
    let answer = link.ask(What::WebhookFailures(wanted)).await?;
    let head = format!(
        "{:>8}  {:<20} {:<20} {:>6} {:>6}  {:<18} event",
        "number", "happened (UTC)", "given up (UTC)", "status", "tries", "type"
    );
    Ok(answer.webhook_failures.iter().map(failure).fold(head, |text, line| text + "\n" + &line))
}

/// A webhook that was made, for programs.
#[derive(Debug, Serialize)]
struct Made<'a> {
    number: u32,
    name: &'a str,
    secret: &'a str,
}

/// The number and the secret; or all of it as JSON.
fn made(answer: &AdminAnswer, json: bool) -> String {
    let secret = answer.webhook_secret.as_deref().unwrap_or_default();
    let Some(line) = answer.webhooks.first() else { return secret.to_owned() };
    if json {
        let made = Made { number: line.number, name: &line.name, secret };
        return serde_json::to_string(&made).unwrap_or_default();
    }
    format!("webhook {} is called {}; its secret is\n{secret}", line.number, line.name)
}

fn list(lines: &[WebhookLine]) -> String {
    let head = format!("{:>6}  {:<20} {:<8} {:<48} URL", "number", "name", "state", "events");
    let line = |line: &WebhookLine| {
        format!(
            "{:>6}  {:<20} {:<8} {:<48} {}",
            line.number,
            printable(&line.name),
            state(line),
            line.events.join(","),
            printable(&line.url)
        )
    };
    lines.iter().map(line).fold(head, |text, line| text + "\n" + &line)
}

fn whole(line: &WebhookLine) -> String {
    let old = match u32::try_from(line.old_until_s) {
        Ok(0) => "none".to_owned(),
        Ok(until) => format!("signs until {} UTC", utc(until)),
        Err(_beyond) => "signs until after 2106".to_owned(),
    };
    let lines = [
        ("number", line.number.to_string()),
        ("name", printable(&line.name)),
        ("URL", printable(&line.url)),
        ("events", line.events.join(",")),
        ("state", state(line).to_owned()),
        ("made", time(line.made_ms)),
        ("sent from", time(line.from_ms)),
        ("consumer", proto::webhook::consumer_name(line.number, line.run)),
        ("old secret", old),
        ("given up and not listed", line.forgotten_failures.to_string()),
    ];
    lines.map(|(name, value)| format!("{name:<24} {value}")).join("\n")
}

fn failure(failure: &WebhookFailureLine) -> String {
    let status = match failure.status {
        0 => "-".to_owned(),
        status => status.to_string(),
    };
    format!(
        "{:>8}  {:<20} {:<20} {status:>6} {:>6}  {:<18} {}",
        failure.number,
        time(failure.happened_ms),
        time(failure.given_up_ms),
        failure.tries,
        printable(&failure.event_type),
        printable(&failure.event_id)
    )
}

fn state(line: &WebhookLine) -> &'static str {
    match line.state() {
        WebhookState::On => "on",
        WebhookState::Off => "off",
        WebhookState::Gone => "gone",
    }
}

fn time(unix_ms: u64) -> String {
    u32::try_from(unix_ms / 1_000).map_or_else(|_beyond| "after 2106".to_owned(), utc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> WebhookLine {
        WebhookLine {
            number: 7,
            name: "hr\u{1b}[2J".to_owned(),
            url: "https://example.com/hr".to_owned(),
            events: vec!["message.created".to_owned(), "group.created".to_owned()],
            state: WebhookState::Gone.into(),
            made_ms: 1_796_088_571_000,
            run: 2,
            ..WebhookLine::default()
        }
    }

    #[test]
    fn times_are_typed_with_their_unit() {
        let of = |text| ago(text).map(|ago| ago.as_secs());
        assert_eq!(of("90s"), Ok(90));
        assert_eq!((of("2m"), of("3h"), of("4d")), (Ok(120), Ok(10_800), Ok(345_600)));
        for wrong in ["", "5", "d", "-1d", "1.5h", "1w", "1é"] {
            assert!(ago(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_webhook_that_was_made_is_shown_with_its_secret() {
        let answer = AdminAnswer {
            webhooks: vec![WebhookLine { name: "hr".to_owned(), ..line() }],
            webhook_secret: Some("whsec_1".to_owned()),
            ..AdminAnswer::default()
        };
        assert!(made(&answer, false).ends_with("\nwhsec_1"));
        let json = r#"{"number":7,"name":"hr","secret":"whsec_1"}"#;
        assert_eq!(made(&answer, true), json);
    }

    #[test]
    fn a_webhook_is_a_line_or_a_table_of_its_own() {
        let shown = list(&[line()]);
        for expected in ["hr\u{fffd}[2J", " gone ", "message.created,group.created", "/hr"] {
            assert!(shown.contains(expected), "{expected}: {shown}");
        }
        let shown = whole(&WebhookLine { old_until_s: 1_796_088_571, ..line() });
        for expected in ["webhook.7.2", "signs until 2026-12-01 01:29:31 UTC"] {
            assert!(shown.contains(expected), "{expected}: {shown}");
        }
        assert!(whole(&line()).contains("none"));
    }

    #[test]
    fn an_event_that_was_given_up_is_a_line() {
        let one = WebhookFailureLine {
            number: 3,
            event_id: "msg_1-2_9".to_owned(),
            event_type: "message.created".to_owned(),
            happened_ms: 1_796_088_571_000,
            given_up_ms: u64::MAX,
            status: 0,
            tries: 5,
        };
        let words = failure(&one);
        let words: Vec<_> = words.split_whitespace().collect();
        let expected =
            ["3", "2026-12-01", "01:29:31", "after", "2106", "-", "5", "message.created"];
        assert_eq!(words[..8], expected);
        assert!(failure(&WebhookFailureLine { status: 500, ..one }).contains(" 500 "));
    }
}
