//! Names and numbers of users and groups, from what the server tells.

use std::collections::HashMap;
use std::time::Duration;

use client::{CallError, Client, Conversation};
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

/// What `--to` means: a login name, or `group:` and a number or a name.
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
    pub(super) async fn find(&self, client: &Client) -> Result<Conversation, Failure> {
        match self {
            Self::Group(number) => Ok(Conversation::group(*number)),
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

async fn find_user(client: &Client, name: &str) -> Result<Option<Conversation>, CallError> {
    // A demo user's number is in the name: that saves going through the list of all.
    if let Some(number) = name.strip_prefix('u').and_then(|number| number.parse().ok()) {
        let users = client.users(&[UserId(number)]).await?;
        if let Some(user) = users.iter().find(|user| login_name(user) == name) {
            return Ok(Some(Conversation::user(user.user_id)));
        }
    }
    let mut since = 0;
    loop {
        let page = client.all_users(since).await?;
        if let Some(user) = page.users.iter().find(|user| login_name(user) == name) {
            return Ok(Some(Conversation::user(user.user_id)));
        }
        // A long list comes in parts, in order of change.
        if page.users.is_empty() || page.latest_update_time <= since {
            return Ok(None);
        }
        since = page.latest_update_time;
    }
}

async fn find_group(client: &Client, name: &str) -> Result<Option<Conversation>, CallError> {
    let groups = client.groups().await?;
    let any: Vec<_> = groups.iter().map(|group| GroupVersion { version: 0, ..*group }).collect();
    let groups = client.group_info(&any).await?;
    let found = groups.iter().find(|group| group.name == name);
    Ok(found.map(|group| Conversation::group(group.group_id)))
}

#[cfg(test)]
mod tests {
    use client::{Options, Servers};
    use proto::client::{
        AllUsersReply, AllUsersRequest, GroupInfo, GroupInfoReply, GroupInfoRequest,
        NormalGroupsReply, UsersInfoReply, UsersInfoRequest,
    };
    use proto::{Command, encode_message};
    use tokio::time::Instant;

    use super::super::testing::{Gateway, user};
    use super::*;

    /// The next request for all users is of those since then, and is answered with these.
    async fn all_users(gateway: &mut Gateway, since: u32, users: &[(u32, &str)], latest: u32) {
        let asked = gateway.next(Command::AllUsersRequest).await;
        let request: AllUsersRequest = asked.parse().unwrap();
        assert_eq!(request.latest_update_time, since);
        let users = users.iter().map(|(id, name)| user(*id, name)).collect();
        let reply = AllUsersReply { users, latest_update_time: latest, ..AllUsersReply::default() };
        gateway.say(&encode_message(Command::AllUsersReply, asked.seq, &reply)).await;
    }

    /// The next request for users by number is answered with these.
    async fn users(gateway: &mut Gateway, numbers: &[u32], users: &[(u32, &str)]) {
        let asked = gateway.next(Command::UsersInfoRequest).await;
        let request: UsersInfoRequest = asked.parse().unwrap();
        assert_eq!(request.user_ids, numbers);
        let users = users.iter().map(|(id, name)| user(*id, name)).collect();
        let reply = UsersInfoReply { users, ..UsersInfoReply::default() };
        gateway.say(&encode_message(Command::UsersInfoReply, asked.seq, &reply)).await;
    }

    fn target(text: &str) -> Target {
        Target::parse(text).unwrap()
    }

    #[tokio::test]
    async fn a_long_list_of_users_is_gone_through_until_the_name_is_found() {
        let (mut gateway, client, _events) = Gateway::linked().await;
        let serve = async {
            all_users(&mut gateway, 0, &[(3, "cleo"), (4, "ben2")], 10).await;
            all_users(&mut gateway, 10, &[(2, "ben")], 20).await;
        };
        let ben = target("ben");
        let (found, ()) = tokio::join!(ben.find(&client), serve);
        assert_eq!(found, Ok(Conversation::user(2)));
    }

    #[tokio::test]
    async fn an_unknown_name_is_reported_when_the_list_is_at_its_end() {
        let (mut gateway, client, _events) = Gateway::linked().await;
        let dora = target("dora");
        for (last, latest) in [(&[][..], 30), (&[(5, "eve")][..], 20)] {
            let serve = async {
                all_users(&mut gateway, 0, &[(2, "ben")], 20).await;
                all_users(&mut gateway, 20, last, latest).await;
            };
            let (found, ()) = tokio::join!(dora.find(&client), serve);
            let failure = found.unwrap_err().to_string();
            assert_eq!(failure, "there is no user called dora");
        }
    }

    #[tokio::test]
    async fn the_number_in_a_demo_users_name_counts_only_if_the_user_has_that_name() {
        let (mut gateway, client, _events) = Gateway::linked().await;
        let demo = target("u7");
        let serve = users(&mut gateway, &[7], &[(7, "u7")]);
        let (found, ()) = tokio::join!(demo.find(&client), serve);
        assert_eq!(found, Ok(Conversation::user(7)));
        let serve = async {
            users(&mut gateway, &[7], &[(7, "somebody else")]).await;
            all_users(&mut gateway, 0, &[(9, "u7")], 10).await;
        };
        let (found, ()) = tokio::join!(demo.find(&client), serve);
        assert_eq!(found, Ok(Conversation::user(9)));
    }

    #[tokio::test]
    async fn a_group_is_found_by_its_name_among_ones_own_whatever_its_version() {
        let (mut gateway, client, _events) = Gateway::linked().await;
        for (name, found_as) in [("friends", Some(9)), ("strangers", None)] {
            let serve = async {
                let asked = gateway.next(Command::NormalGroupsRequest).await;
                let groups = [8, 9].map(|group_id| GroupVersion { group_id, version: 5 }).to_vec();
                let reply = NormalGroupsReply { groups, ..NormalGroupsReply::default() };
                gateway.say(&encode_message(Command::NormalGroupsReply, asked.seq, &reply)).await;
                let asked = gateway.next(Command::GroupInfoRequest).await;
                let request: GroupInfoRequest = asked.parse().unwrap();
                let any = [8, 9].map(|group_id| GroupVersion { group_id, version: 0 });
                assert_eq!(request.groups, any);
                let groups = [(8, "family"), (9, "friends")].map(|(group_id, name)| GroupInfo {
                    group_id,
                    name: name.to_owned(),
                    ..GroupInfo::default()
                });
                let groups = groups.to_vec();
                let reply = GroupInfoReply { groups, ..GroupInfoReply::default() };
                gateway.say(&encode_message(Command::GroupInfoReply, asked.seq, &reply)).await;
            };
            let target = target(&format!("group:{name}"));
            let (found, ()) = tokio::join!(target.find(&client), serve);
            let found = found.map_err(|failure| failure.to_string());
            let nowhere = "you are in no group called strangers".to_owned();
            assert_eq!(found, found_as.map(Conversation::group).ok_or(nowhere));
        }
        assert_eq!(
            target("group:7").find(&client).await,
            Ok(Conversation::group(7)),
            "nobody is asked"
        );
    }

    /// Time is paused: it jumps to the next timer whenever all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn a_question_that_got_lost_is_asked_again_and_one_that_is_refused_is_not() {
        let left = std::cell::Cell::new(3);
        let began = Instant::now();
        let answer = persist(async || {
            left.set(left.get() - 1);
            match left.get() {
                2 => Err(CallError::TimedOut),
                1 => Err(CallError::Lost),
                _ => Ok(7),
            }
        });
        assert_eq!(answer.await, Ok(7));
        assert_eq!(began.elapsed(), 2 * RETRY_WAIT);
        for error in [CallError::Refused(1), CallError::Ended, CallError::Failed(2)] {
            let why = error.to_string();
            let error = std::cell::Cell::new(Some(error));
            let answer = persist::<(), _>(async || Err(error.take().expect("asked once")));
            assert_eq!(answer.await.unwrap_err().to_string(), why);
        }
    }

    #[tokio::test]
    async fn a_name_is_asked_for_once_and_those_that_do_not_come_are_asked_for_later() {
        let (mut gateway, client, _events) = Gateway::linked().await;
        let mut people = People::default();
        people.learn(&user(1, "anna"));
        let all = [3, 2, 3, 1].map(UserId);
        let serve = users(&mut gateway, &[2, 3], &[(2, "ben")]);
        let ((), ()) = tokio::join!(people.learn_all(&client, &all), serve);
        for (number, name) in [(1, "anna"), (2, "ben")] {
            assert_eq!(people.name(&client, UserId(number)).await, name, "nobody is asked");
        }
        let serve = users(&mut gateway, &[3], &[(3, "")]);
        let (name, ()) = tokio::join!(people.name(&client, UserId(3)), serve);
        assert_eq!(name, "nick of ", "one without a real name has a nick name");
    }

    #[test]
    fn whom_to_write_to_is_a_name_or_a_group() {
        assert_eq!(Target::parse("u2"), Ok(Target::User("u2".to_owned())));
        assert_eq!(Target::parse("group:1"), Ok(Target::Group(1)));
        assert_eq!(Target::parse("group:all"), Ok(Target::GroupName("all".to_owned())));
        Target::parse("group:").unwrap_err();
        Target::parse("group:0").unwrap_err();
        Target::parse("").unwrap_err();
    }

    /// There is no server. Time is paused: it jumps to the next timer whenever all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn a_user_without_a_name_after_two_seconds_is_shown_by_number() {
        let nowhere = Options::new(Servers::Gateways(Vec::new()), "anna", "password");
        let (client, _events) = Client::start(nowhere).await.unwrap();
        let began = Instant::now();
        assert_eq!(People::default().name(&client, UserId(7)).await, "user 7");
        assert_eq!(began.elapsed().as_secs(), 2);
    }
}
