//! Names and numbers of users and groups, from what the server tells.

use std::collections::HashMap;
use std::time::Duration;

use client::{CallError, Client, Session};
use proto::client::{GroupVersion, UserInfo};
use proto::ids::UserId;
use tokio::time::{sleep, timeout};

use crate::failure::Failure;

/// How long a line may wait for the name of its sender.
const NAME_LIMIT: Duration = Duration::from_secs(2);
/// How long to wait before a question is asked again that got lost.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// The names seen so far.
#[derive(Debug, Default)]
pub(super) struct People {
    names: HashMap<UserId, String>,
}

impl People {
    /// The login name of a user, asked for if it has not been seen.
    pub(super) async fn name(&mut self, client: &Client, user: UserId) -> String {
        if !self.names.contains_key(&user)
            && let Ok(Ok(users)) = timeout(NAME_LIMIT, client.users(&[user])).await
        {
            for user in &users {
                self.learn(user);
            }
        }
        self.names.get(&user).cloned().unwrap_or_else(|| format!("user {}", user.0))
    }

    /// Takes in what a user's record says.
    pub(super) fn learn(&mut self, user: &UserInfo) {
        self.names.insert(UserId(user.user_id), login_name(user).to_owned());
    }

    /// Asks for the names of several users at once. Those that do not come are asked for later.
    pub(super) async fn learn_all(&mut self, client: &Client, users: &[UserId]) {
        let mut unknown: Vec<_> =
            users.iter().copied().filter(|user| !self.names.contains_key(user)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        if !unknown.is_empty()
            && let Ok(users) = client.users(&unknown).await
        {
            for user in &users {
                self.learn(user);
            }
        }
    }
}

/// The name to log in with, which the record has by custom as the real name.
fn login_name(user: &UserInfo) -> &str {
    if user.real_name.is_empty() { &user.nick_name } else { &user.real_name }
}

/// Whom a person means by `--to`: a login name, or `group:` and a number or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A user's login name.
    User(String),
    /// A group's number.
    Group(u32),
    /// A group's name.
    GroupName(String),
}

impl Target {
    /// Reads the argument.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("group:").map(|group| (group, group.parse())) {
            Some((_group, Ok(number))) if number > 0 => Ok(Self::Group(number)),
            Some(("" | "0", _)) => Err("must be group:NUMBER or group:NAME".to_owned()),
            Some((name, _)) => Ok(Self::GroupName(name.to_owned())),
            None if text.is_empty() => Err("must be a login name, or group:NUMBER".to_owned()),
            None => Ok(Self::User(text.to_owned())),
        }
    }

    /// Finds the conversation. Asks again when the connection is lost meanwhile.
    pub(super) async fn find(&self, client: &Client) -> Result<Session, Failure> {
        match self {
            Self::Group(number) => Ok(Session::group(*number)),
            Self::GroupName(name) => {
                let found = persist(|| find_group(client, name)).await?;
                found.ok_or_else(|| Failure::new(format!("you are in no group called {name}")))
            }
            Self::User(name) => {
                let found = persist(|| find_user(client, name)).await?;
                found.ok_or_else(|| Failure::new(format!("there is no user called {name}")))
            }
        }
    }
}

/// Asks until there is an answer, whatever happens to the connection.
pub(super) async fn persist<T, F>(ask: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, CallError>>,
{
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(CallError::TimedOut | CallError::Lost) => sleep(RETRY_WAIT).await,
            Err(error) => return Err(Failure::new(error.to_string())),
        }
    }
}

async fn find_user(client: &Client, name: &str) -> Result<Option<Session>, CallError> {
    // A demo user's number is in the name: that saves going through the list of all.
    if let Some(number) = name.strip_prefix('u').and_then(|number| number.parse().ok()) {
        let users = client.users(&[UserId(number)]).await?;
        if let Some(user) = users.iter().find(|user| login_name(user) == name) {
            return Ok(Some(Session::user(user.user_id)));
        }
    }
    let mut since = 0;
    loop {
        let page = client.all_users(since).await?;
        if let Some(user) = page.users.iter().find(|user| login_name(user) == name) {
            return Ok(Some(Session::user(user.user_id)));
        }
        // A long list comes in parts, in order of change.
        if page.users.is_empty() || page.latest_update_time <= since {
            return Ok(None);
        }
        since = page.latest_update_time;
    }
}

async fn find_group(client: &Client, name: &str) -> Result<Option<Session>, CallError> {
    let groups = client.groups().await?;
    let any: Vec<_> = groups.iter().map(|group| GroupVersion { version: 0, ..*group }).collect();
    let groups = client.group_info(&any).await?;
    let found = groups.iter().find(|group| group.name == name);
    Ok(found.map(|group| Session::group(group.group_id)))
}

#[cfg(test)]
mod tests {
    use client::{Options, Servers};
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn whom_to_write_to_is_a_name_or_a_group() {
        assert_eq!(Target::parse("u2"), Ok(Target::User("u2".to_owned())));
        assert_eq!(Target::parse("group:1"), Ok(Target::Group(1)));
        assert_eq!(Target::parse("group:all"), Ok(Target::GroupName("all".to_owned())));
        Target::parse("group:").unwrap_err();
        Target::parse("group:0").unwrap_err();
        Target::parse("").unwrap_err();
    }

    /// There is no server. Time is paused: it jumps to the next timer whenever everybody waits.
    #[tokio::test(start_paused = true)]
    async fn who_has_no_name_within_two_seconds_is_shown_by_number() {
        let nowhere = Options::new(Servers::Gateways(Vec::new()), "anna", "password");
        let (client, _events) = Client::start(nowhere).await.unwrap();
        let began = Instant::now();
        assert_eq!(People::default().name(&client, UserId(7)).await, "user 7");
        assert_eq!(began.elapsed().as_secs(), 2);
    }
}
