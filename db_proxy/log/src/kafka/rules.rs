//! Which settings a topic must have to keep the promise: what was acknowledged stays, in order, until
//! the store has it.

use std::fmt;

use crate::embedded::MAX_PAYLOAD_BYTES;

/// What a record may take in Kafka, besides its payload.
const MESSAGE_OVERHEAD_BYTES: usize = 1024;

/// The largest message that a topic must take.
pub(super) const MAX_MESSAGE_BYTES: usize = MAX_PAYLOAD_BYTES + MESSAGE_OVERHEAD_BYTES;

/// How many brokers have each record.
pub(super) const REPLICAS: usize = 3;

/// How many of them must have a record before it counts as written.
pub(super) const IN_SYNC: u64 = 2;

/// For how long the store may be away before a record that it does not have is deleted.
pub(super) const RETENTION_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// After a clock that went ahead and was set right, records keep the time that it had gone to: they
/// must be taken all the same.
const AHEAD_MS: u64 = 365 * 24 * 60 * 60 * 1000;

/// Retention goes by the owner's clock. A record that is dated so far back that it would soon be
/// deleted must not be taken: the least part of the retention that is left to it.
const LEFT_OF_RETENTION: u64 = 2;

/// Compressed by the broker, a record is not what was sent, and may need what this program lacks.
const AS_SENT: &str = "producer";

/// A setting that cannot keep the promise.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    setting: &'static str,
    is: String,
    must_be: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, must be {}", self.setting, self.is, self.must_be)
    }
}

/// What is wrong with a topic of so many replicas with such settings; `setting` is asked by name.
pub(super) fn findings<'a>(
    replicas: usize,
    setting: &dyn Fn(&str) -> Option<&'a str>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if replicas < REPLICAS {
        findings.push(Finding {
            setting: "the replication factor",
            is: replicas.to_string(),
            must_be: format!("at least {REPLICAS}"),
        });
    }
    let mut check = |name: &'static str, is_good: &dyn Fn(&str) -> bool, must_be: String| {
        let value = setting(name);
        if !value.is_some_and(is_good) {
            let is = value.map_or_else(|| "not known".to_owned(), str::to_owned);
            findings.push(Finding { setting: name, is, must_be });
        }
    };
    let at_least = |least: u64| {
        move |value: &str| value.parse().is_ok_and(|value: i128| value >= i128::from(least))
    };
    let or_unlimited = |least: u64| move |value: &str| value == "-1" || at_least(least)(value);
    check("min.insync.replicas", &at_least(IN_SYNC), format!("at least {IN_SYNC}"));
    check("unclean.leader.election.enable", &|value| value == "false", "false".to_owned());
    check("cleanup.policy", &|value| value == "delete", "delete".to_owned());
    check(
        "retention.ms",
        &or_unlimited(RETENTION_MS),
        format!("at least {RETENTION_MS} (7 days), or -1"),
    );
    check("retention.bytes", &|value| value == "-1", "-1".to_owned());
    check("message.timestamp.type", &|value| value == "CreateTime", "CreateTime".to_owned());
    check(
        "max.message.bytes",
        &at_least(MAX_MESSAGE_BYTES as u64),
        format!("at least {MAX_MESSAGE_BYTES}"),
    );
    check("compression.type", &|value| value == AS_SENT, AS_SENT.to_owned());
    // Brokers before Kafka 3.6 do not have these two.
    let (ahead, behind) = ("message.timestamp.after.max.ms", "message.timestamp.before.max.ms");
    if setting(ahead).is_some() {
        check(ahead, &at_least(AHEAD_MS), format!("at least {AHEAD_MS} (365 days)"));
    }
    let retention = setting("retention.ms").and_then(|value| value.parse::<u64>().ok());
    if let (Some(retention), Some(_)) = (retention, setting(behind)) {
        let most = behind_ms(retention);
        let at_most = |value: &str| value.parse().is_ok_and(|value: u64| value <= most);
        check(behind, &at_most, format!("at most {most} (half of retention.ms)"));
    }
    findings
}

/// How far back a record may be dated.
fn behind_ms(retention_ms: u64) -> u64 {
    retention_ms / LEFT_OF_RETENTION
}

/// All findings, in one line.
pub(super) fn line(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The settings of a new topic.
pub(super) fn settings(replicas: usize, retention_ms: u64) -> Vec<(&'static str, String)> {
    let in_sync = IN_SYNC.min(replicas as u64);
    vec![
        ("min.insync.replicas", in_sync.to_string()),
        ("unclean.leader.election.enable", "false".to_owned()),
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", retention_ms.to_string()),
        ("retention.bytes", "-1".to_owned()),
        ("message.timestamp.type", "CreateTime".to_owned()),
        ("max.message.bytes", MAX_MESSAGE_BYTES.to_string()),
        ("compression.type", AS_SENT.to_owned()),
        ("message.timestamp.after.max.ms", i64::MAX.to_string()),
        ("message.timestamp.before.max.ms", behind_ms(retention_ms).to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The findings for a new topic that differs in one setting.
    fn with(replicas: usize, name: &str, value: Option<&str>) -> String {
        let settings = settings(3, RETENTION_MS);
        line(&findings(replicas, &|asked| {
            if asked == name {
                return value;
            }
            if asked == "message.timestamp.before.max.ms" {
                return Some("1000"); // Good for every retention.
            }
            settings.iter().find(|(name, _)| *name == asked).map(|(_, value)| value.as_str())
        }))
    }

    #[test]
    fn a_topic_made_here_is_good() {
        assert_eq!(with(3, "", None), "");
        assert_eq!(with(5, "min.insync.replicas", Some("3")), "");
        assert_eq!(with(3, "retention.ms", Some("-1")), "");
    }

    #[test]
    fn every_bad_setting_is_named_with_what_it_must_be() {
        let cases = [
            ("min.insync.replicas", "1", "at least 2"),
            ("unclean.leader.election.enable", "true", "false"),
            ("cleanup.policy", "compact", "delete"),
            ("cleanup.policy", "compact,delete", "delete"),
            ("retention.ms", "604799999", "at least 604800000 (7 days), or -1"),
            ("retention.bytes", "1073741824", "-1"),
            ("message.timestamp.type", "LogAppendTime", "CreateTime"),
            ("max.message.bytes", "1048588", "at least 1115136"),
            ("compression.type", "gzip", "producer"),
            ("message.timestamp.after.max.ms", "3600000", "at least 31536000000 (365 days)"),
            (
                "message.timestamp.before.max.ms",
                "302400001",
                "at most 302400000 (half of retention.ms)",
            ),
        ];
        for (name, value, must_be) in cases {
            assert_eq!(with(3, name, Some(value)), format!("{name} is {value}, must be {must_be}"));
        }
        assert_eq!(with(2, "", None), "the replication factor is 2, must be at least 3");
    }

    #[test]
    fn a_setting_that_is_not_told_is_not_good() {
        let line = with(3, "min.insync.replicas", None);
        assert_eq!(line, "min.insync.replicas is not known, must be at least 2");
    }

    #[test]
    fn several_findings_are_one_line() {
        let line = with(1, "retention.ms", Some("1"));
        assert!(
            line.starts_with("the replication factor is 1, must be at least 3; retention.ms is 1")
        );
        assert!(!line.contains('\n'));
    }
}
