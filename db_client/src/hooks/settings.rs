//! The settings of hooks: the tables `[[hooks]]` of every daemon that takes messages in.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use daemon::ConfigError;
use daemon::config::{Secret, read_secret};
use daemon::http_client::HttpUrl;
use daemon::webhook_signature::{BadSecret, WebhookSecret};
use proto::cluster::wire::Submit;
use proto::content::is_voice;
use proto::ids::{ConversationId, GroupId};
use proto::limits::{HOOK_NAME_LEN_MAX, HOOKS_MAX};
use serde::Deserialize;

/// How long a message waits for a hook if nothing else is said, in milliseconds.
const LIMIT_MS: u64 = 500;

/// The longest time that a message may wait for all hooks together, in milliseconds: well below the time in which
/// its sender expects an answer.
const LIMITS_MS_MAX: u64 = 5_000;

/// The most questions to one hook that may be open at once.
const AT_ONCE_MAX: usize = 4_096;

/// The most groups or senders that a rule may name.
const NAMED_MAX: usize = 10_000;

/// One hook: a program of the site that is asked about messages before they are admitted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookSettings {
    /// Its name, in records and figures: 1 to 64 letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// Where it is asked.
    pub url: HttpUrl,
    /// The file with what the questions are signed with: `whsec_` and the Base64 of 24 to 64 bytes.
    pub secret_file: Option<PathBuf>,
    /// The secret itself, instead of the file.
    pub secret: Option<Secret>,
    /// The authorities that are believed if the URL is one of https, as a PEM file. Those of the system, if it is
    /// not said.
    pub ca: Option<PathBuf>,
    /// Whether its answer counts.
    #[serde(default)]
    pub kind: HookKind,
    /// How long a message waits for it, in milliseconds: at least 1, and those of all hooks together at most 5,000;
    /// 500 if it is not said.
    #[serde(default = "default_limit_ms")]
    pub limit_ms: u64,
    /// Questions that may be open at once. Others wait as long as the limit says.
    #[serde(default = "default_at_once")]
    pub at_once: usize,
    /// What becomes of a message if there is no answer. If it is not said: `refuse` for a hook that decides,
    /// `allow` for one that is only told.
    pub on_failure: Option<OnFailure>,
    /// Only messages of these types; all, if there is none.
    #[serde(default)]
    pub types: Vec<AskedType>,
    /// Only messages to these groups; if there is none, all messages, also those from one user to another.
    #[serde(default)]
    pub groups: BTreeSet<u32>,
    /// Only messages of these users; all, if there is none.
    #[serde(default)]
    pub senders: BTreeSet<u32>,
    /// Whether it is asked about what programs send by the HTTP API.
    #[serde(default = "default_api")]
    pub api: bool,
}

/// Whether the answer of a hook counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookKind {
    /// It lets a message pass, refuses it, or changes it.
    #[default]
    Decide,
    /// It is told. Every answer of 2xx lets the message pass.
    Notify,
}

/// What becomes of a message that a hook could not be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It is refused.
    Refuse,
    /// It passes.
    Allow,
}

/// A type of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AskedType {
    /// Text.
    Text,
    /// A voice message.
    Voice,
}

fn default_limit_ms() -> u64 {
    LIMIT_MS
}

fn default_at_once() -> usize {
    64
}

fn default_api() -> bool {
    true
}

impl HookSettings {
    /// How long a message waits for it.
    pub(super) fn limit(&self) -> Duration {
        Duration::from_millis(self.limit_ms)
    }

    /// What becomes of a message if there is no answer.
    pub(super) fn on_failure(&self) -> OnFailure {
        self.on_failure.unwrap_or(match self.kind {
            HookKind::Decide => OnFailure::Refuse,
            HookKind::Notify => OnFailure::Allow,
        })
    }

    /// What the questions are signed with.
    pub(super) fn read_secret(&self) -> Result<WebhookSecret, ConfigError> {
        let (named, secret) = match (&self.secret, &self.secret_file) {
            (Some(secret), _) => ("hooks.secret", secret.clone()),
            (None, Some(file)) => ("hooks.secret_file", read_secret("hooks.secret_file", file)?),
            (None, None) => return Err(ConfigError::new("hooks.secret_file", "must be set")),
        };
        let wrong = |error: BadSecret| ConfigError::new(named, error.to_string());
        secret.expose().parse().map_err(wrong)
    }

    /// Whether it is asked about a message.
    pub(super) fn is_about(&self, submit: &Submit) -> bool {
        let group = || ConversationId::from_number(submit.conversation)?.as_group();
        let kind = if is_voice(submit.r#type) { AskedType::Voice } else { AskedType::Text };
        (self.types.is_empty() || self.types.contains(&kind))
            && (self.senders.is_empty() || self.senders.contains(&submit.sender))
            && (self.groups.is_empty()
                || group().is_some_and(|GroupId(group)| self.groups.contains(&group)))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, allowed: &str| {
            Err(ConfigError::new(format!("hooks.{key}"), format!("of `{}`: {allowed}", self.name)))
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        let fits = (1..=HOOK_NAME_LEN_MAX).contains(&self.name.len());
        if !fits || !self.name.bytes().all(is_plain) {
            return Err(ConfigError::new(
                "hooks.name",
                format!("must have 1 to {HOOK_NAME_LEN_MAX} letters, digits, `_`, `-` and `.`"),
            ));
        }
        if self.secret.is_some() == self.secret_file.is_some() {
            return wrong("secret_file", "must be set, or `secret`, and not both");
        }
        if self.limit_ms == 0 {
            return wrong("limit_ms", "must be at least 1");
        }
        if !(1..=AT_ONCE_MAX).contains(&self.at_once) {
            return wrong("at_once", &format!("must be 1 to {AT_ONCE_MAX}"));
        }
        for (key, named) in [("groups", &self.groups), ("senders", &self.senders)] {
            if named.len() > NAMED_MAX {
                return wrong(key, &format!("must be at most {NAMED_MAX}"));
            }
        }
        Ok(())
    }
}

/// Checks the settings of all hooks.
///
/// # Errors
///
/// What is wrong with them.
pub fn check(hooks: &[HookSettings]) -> Result<(), ConfigError> {
    if hooks.len() > HOOKS_MAX {
        return Err(ConfigError::new("hooks", format!("must be at most {HOOKS_MAX}")));
    }
    let limits_ms = hooks.iter().fold(0_u64, |sum, hook| sum.saturating_add(hook.limit_ms));
    if limits_ms > LIMITS_MS_MAX {
        return Err(ConfigError::new(
            "hooks.limit_ms",
            format!("must be at most {LIMITS_MS_MAX} for all hooks together"),
        ));
    }
    for (place, hook) in hooks.iter().enumerate() {
        hook.check()?;
        if hooks.iter().take(place).any(|before| before.name == hook.name) {
            return Err(ConfigError::new("hooks.name", format!("`{}` is there twice", hook.name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use proto::client::MessageType;

    use super::*;
    use crate::hooks::test::{settings, submit};

    #[test]
    fn a_hook_is_asked_about_everything_unless_its_rule_says_less() {
        let kinds = [MessageType::SingleText, MessageType::SingleVoice, MessageType::GroupText];
        let messages = kinds.map(|kind| submit(kind, 5));
        let about = |rule: &dyn Fn(&mut HookSettings)| {
            let mut settings = settings("words", "http://127.0.0.1:9/");
            rule(&mut settings);
            messages.each_ref().map(|message| settings.is_about(message))
        };
        assert_eq!(about(&|_all| {}), [true; 3]);
        assert_eq!(about(&|hook| hook.types = vec![AskedType::Text]), [true, false, true]);
        assert_eq!(about(&|hook| hook.types = vec![AskedType::Voice]), [false, true, false]);
        assert_eq!(about(&|hook| hook.groups = [7, 8].into()), [false, false, true]);
        assert_eq!(about(&|hook| hook.groups = [9].into()), [false; 3]);
        assert_eq!(about(&|hook| hook.senders = [4, 5].into()), [true; 3]);
        assert_eq!(about(&|hook| hook.senders = [4].into()), [false; 3]);
    }

    #[test]
    fn a_hook_that_decides_refuses_what_it_could_not_be_asked_about_unless_the_settings_say_otherwise()
     {
        let mut hook = settings("words", "http://127.0.0.1:9/");
        assert_eq!(hook.on_failure(), OnFailure::Refuse);
        hook.kind = HookKind::Notify;
        assert_eq!(hook.on_failure(), OnFailure::Allow);
        hook.on_failure = Some(OnFailure::Refuse);
        assert_eq!(hook.on_failure(), OnFailure::Refuse);
    }

    #[test]
    fn a_secret_may_stand_in_a_file_that_only_its_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hook.secret");
        let secret = WebhookSecret::random();
        let hook = HookSettings {
            secret: None,
            secret_file: Some(file.clone()),
            ..settings("words", "http://127.0.0.1:9/")
        };
        let write = |text: &str, mode| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        };
        write(&format!("{}\n", secret.expose()), 0o600);
        assert_eq!(hook.read_secret().unwrap(), secret);
        write(&secret.expose(), 0o640);
        assert!(hook.read_secret().unwrap_err().to_string().contains("0640"));
        write("a secret that is none", 0o600);
        assert!(hook.read_secret().unwrap_err().to_string().contains("whsec_"));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let one = HookSettings { limit_ms: 500, ..settings("words", "http://127.0.0.1:9/") };
        let refused = |change: &dyn Fn(&mut HookSettings)| {
            let mut hook = one.clone();
            change(&mut hook);
            check(&[hook]).unwrap_err().to_string()
        };
        for name in [String::new(), "n".repeat(65), "a name".to_owned(), "na\u{ef}ve".to_owned()] {
            assert!(refused(&|hook| hook.name.clone_from(&name)).contains("`hooks.name`"));
        }
        let file = Some(PathBuf::from("/somewhere"));
        assert!(refused(&|hook| hook.secret = None).contains("`hooks.secret_file`"));
        assert!(refused(&|hook| hook.secret_file = file.clone()).contains("`hooks.secret_file`"));
        for limit_ms in [0, LIMITS_MS_MAX + 1, u64::MAX] {
            assert!(refused(&|hook| hook.limit_ms = limit_ms).contains("`hooks.limit_ms`"));
        }
        for at_once in [0, AT_ONCE_MAX + 1] {
            assert!(refused(&|hook| hook.at_once = at_once).contains("`hooks.at_once`"));
        }
        let many: BTreeSet<u32> = (0..).take(NAMED_MAX + 1).collect();
        assert!(refused(&|hook| hook.groups = many.clone()).contains("`hooks.groups`"));
        assert!(refused(&|hook| hook.senders = many.clone()).contains("`hooks.senders`"));
        let twice = check(&[one.clone(), one.clone()]).unwrap_err().to_string();
        assert!(twice.contains("`words` is there twice"), "{twice}");
        let hook = |number| HookSettings { name: format!("hook-{number}"), ..one.clone() };
        let many: Vec<_> = (0..=HOOKS_MAX).map(hook).collect();
        assert!(check(&many).unwrap_err().to_string().contains("at most 8"));
        check(&many[1..]).unwrap();
        let slow = |name: &str| {
            let limit_ms = LIMITS_MS_MAX / 2 + 1;
            HookSettings { name: name.to_owned(), limit_ms, ..one.clone() }
        };
        check(&[slow("one")]).unwrap();
        let together = check(&[slow("one"), slow("two")]).unwrap_err().to_string();
        assert!(together.contains("at most 5000 for all"), "{together}");
    }
}
