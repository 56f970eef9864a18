//! What administrators do: users, passwords, groups, and the users of a demonstration.

mod audit;
mod consumers;
pub(crate) mod keys;
pub(crate) mod webhooks;

use std::collections::HashSet;
use std::time::Duration;

use fold::admission::Change;
use fold::conversation::Conversation;
use futures_util::future::join_all;
use logins::kicks::Kicks;
use logins::login::Logins;
use logins::names::{check_group_name, check_name, check_password};
use logins::tokens::Told;
use partition::Outcome;
use proto::client::GroupType;
use proto::cluster::Kind;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    AdminAnswer, AdminError, AdminRequest, ApiKeyList, ConsumerForget, ConsumerList, DemoUsers,
    GroupChange, GroupCreate, GroupDelete, GroupLine, GroupList, GroupMembers, Reason, SessionInfo,
    SessionLine, Sessions, SessionsRequest, UserAdd, UserDisable, UserFind, UserKick, UserLine,
    UserList, UserPassword, UserSessions, UserTicket, UserUnlock,
};
use proto::ids::{ConversationId, GroupId, UserId};
use store::{NewUser, StoreError, UserChange, UserRow};
use tracing::debug;

use crate::commands::groups::{NewGroup, NotMade, make};
use crate::commands::people::AVATAR_MAX;
use crate::partitions::Partitions;

/// Lines in one answer at most.
const LINES_MAX: u32 = 1_000;

/// How long a gateway may take to say which sessions a user has.
const SESSIONS_LIMIT: Duration = Duration::from_secs(2);

/// Users that one demonstration may have.
const DEMO_USERS_MAX: u32 = 1_000_000;

/// Members that one change of the demonstration's group adds: a change must fit a record of the log.
const DEMO_MEMBERS_MAX: usize = 50_000;

/// The longest nick, in bytes.
const NICK_LEN_MAX: usize = 128;

/// Carries out one request.
pub(crate) async fn answer(
    partitions: &Partitions,
    logins: &Logins,
    kicks: &Kicks,
    request: AdminRequest,
) -> AdminAnswer {
    let admin = Admin { partitions, logins, kicks };
    let change = audit::Change::of(request.by.as_deref(), request.what.as_ref());
    let result = match request.what {
        Some(What::UserAdd(add)) => admin.add_user(add).await,
        Some(What::UserPassword(password)) => admin.set_password(password).await,
        Some(What::UserList(list)) => admin.list_users(list).await,
        Some(What::UserDisable(disable)) => admin.disable(disable).await,
        Some(What::GroupCreate(create)) => admin.create_group(create).await,
        Some(What::GroupChange(change)) => admin.change_group(change).await,
        Some(What::GroupList(list)) => admin.list_groups(list).await,
        Some(What::GroupDelete(delete)) => admin.delete_group(delete).await,
        Some(What::GroupMembers(page)) => admin.group_members(page).await,
        Some(What::DemoUsers(demo)) => admin.demo_users(demo).await,
        Some(What::UserKick(kick)) => admin.kick(kick).await,
        Some(What::UserUnlock(unlock)) => admin.unlock(unlock).await,
        Some(What::UserSessions(of)) => admin.sessions(of).await,
        Some(What::UserTicket(ticket)) => admin.ticket(ticket).await,
        Some(What::ConsumerList(ConsumerList {})) => admin.list_consumers().await,
        Some(What::ConsumerForget(forget)) => admin.forget_consumer(forget).await,
        Some(What::ApiKeyCreate(create)) => admin.create_key(create).await,
        Some(What::ApiKeyList(ApiKeyList {})) => admin.list_keys().await,
        Some(What::ApiKeyRevoke(revoke)) => admin.revoke_key(revoke).await,
        Some(What::ApiKeyFind(find)) => admin.find_key(find).await,
        Some(What::UserFind(find)) => admin.find_user(find).await,
        Some(What::WebhookAdd(add)) => admin.add_webhook(add).await,
        Some(What::WebhookList(list)) => admin.list_webhooks(list).await,
        Some(What::WebhookRemove(remove)) => admin.remove_webhook(remove).await,
        Some(What::WebhookSwitch(switch)) => admin.switch_webhook(switch).await,
        Some(What::WebhookRotate(rotate)) => admin.rotate_webhook(rotate).await,
        Some(What::WebhookReplay(replay)) => admin.replay_webhook(replay).await,
        Some(What::WebhookFailures(failures)) => admin.webhook_failures(failures).await,
        Some(What::WebhookGaveUp(gave_up)) => admin.give_up_event(gave_up).await,
        Some(What::WebhookGone(gone)) => admin.webhook_gone(gone).await,
        None => Err("this db_proxy does not know the request: upgrade it".into()),
    };
    let answer = result.unwrap_or_else(|problem| {
        let not_here = matches!(problem, Problem::NotHere).then_some(true);
        let (code, error) = match problem {
            Problem::NotHere => (AdminError::NotNow, "another db_proxy owns the group".to_owned()),
            Problem::Said(code, error) => (code, error),
        };
        let (error, error_code) = (Some(error), Some(code.into()));
        AdminAnswer { done: false, error, error_code, not_here, ..AdminAnswer::default() }
    });
    if let Some(change) = change {
        change.log(&answer);
    }
    answer
}

struct Admin<'a> {
    partitions: &'a Partitions,
    logins: &'a Logins,
    kicks: &'a Kicks,
}

/// Why a request is not carried out.
#[derive(Debug)]
enum Problem {
    /// Another db_proxy must be asked; nothing was done.
    NotHere,
    /// What an administrator is told.
    Said(AdminError, String),
}

impl Problem {
    fn missing(what: impl std::fmt::Display) -> Self {
        Self::Said(AdminError::NotFound, format!("{what} does not exist"))
    }

    fn not_now(why: &str) -> Self {
        Self::Said(AdminError::NotNow, format!("not now: {why}"))
    }
}

/// What is asked for is not allowed.
impl From<String> for Problem {
    fn from(error: String) -> Self {
        Self::Said(AdminError::Invalid, error)
    }
}

impl From<&str> for Problem {
    fn from(error: &str) -> Self {
        error.to_owned().into()
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Unavailable(_) => AdminError::NotNow,
            StoreError::Taken(_) => AdminError::Taken,
            StoreError::Missing(_) => AdminError::NotFound,
            StoreError::Fenced(_) | StoreError::Refused(_) => AdminError::Other,
        };
        Self::Said(code, error.to_string())
    }
}

type Done = Result<AdminAnswer, Problem>;

fn done() -> AdminAnswer {
    AdminAnswer { done: true, ..AdminAnswer::default() }
}

impl Admin<'_> {
    async fn list_consumers(&self) -> Done {
        let consumers = consumers::list(self.partitions.stores()).await?;
        Ok(AdminAnswer { consumers, ..done() })
    }

    async fn forget_consumer(&self, ConsumerForget { name }: ConsumerForget) -> Done {
        if consumers::forget(self.partitions.stores(), &name).await? {
            return Ok(done());
        }
        Err(Problem::missing(format_args!("consumer {name}")))
    }

    async fn add_user(&self, add: UserAdd) -> Done {
        check_name(&add.name).map_err(|problem| format!("a login name {problem}"))?;
        if add.nick.as_ref().is_some_and(|nick| nick.len() > NICK_LEN_MAX) {
            return Err(format!("a nick must have at most {NICK_LEN_MAX} bytes").into());
        }
        let user = NewUser {
            id: None,
            nick: add.nick.unwrap_or_else(|| add.name.clone()),
            password_hash: self.hash(&add.password).await?,
            department: add.department.unwrap_or(1),
            name: add.name,
        };
        let made = self.logins.store().add_users(vec![user], false).await?;
        Ok(AdminAnswer { id: made.first().map(|user| user.0), ..done() })
    }

    async fn set_password(&self, password: UserPassword) -> Done {
        let user = self.user(&password.name).await?;
        let hash = self.hash(&password.password).await?;
        let before = self.change_user(&user, UserChange::Password(hash)).await?;
        // A user whose logins failed until now has a new password to try.
        self.logins.guesses().lift(&user.name);
        self.kicks.end_logins_before(user.id, before);
        Ok(done())
    }

    async fn list_users(&self, list: UserList) -> Done {
        let count = list.count.unwrap_or(LINES_MAX).clamp(1, LINES_MAX) as usize;
        let after = list.after.unwrap_or_default();
        let rows = self.logins.store().users_by_name(after, count + 1).await?;
        let more = Some(rows.len() > count);
        let users = rows.into_iter().take(count).map(user_line).collect();
        Ok(AdminAnswer { users, more, ..done() })
    }

    async fn disable(&self, disable: UserDisable) -> Done {
        let user = self.user(&disable.name).await?;
        let status = if disable.enable.unwrap_or(false) { 0 } else { UserRow::LEFT };
        let before = self.change_user(&user, UserChange::Status(status)).await?;
        if status == UserRow::LEFT {
            self.kicks.end_logins_before(user.id, before);
        } else {
            self.logins.guesses().lift(&user.name);
        }
        Ok(done())
    }

    async fn unlock(&self, unlock: UserUnlock) -> Done {
        let user = self.user(&unlock.name).await?;
        self.logins.guesses().lift(&user.name);
        Ok(done())
    }

    /// Asks every gateway that is linked which sessions the user has there.
    async fn sessions(&self, of: UserSessions) -> Done {
        let user = self.user(&of.name).await?;
        let gateways = self.kicks.gateways().all();
        let asked = gateways.iter().map(|gateway| async {
            let request = SessionsRequest { user: user.id.0 };
            let kind = Kind::Sessions.number();
            let answer = gateway.call::<Sessions>(kind, &request, SESSIONS_LIMIT).await;
            (gateway.peer().name.clone(), answer)
        });
        let (mut sessions, mut silent) = (Vec::new(), Vec::new());
        for (gateway, answer) in join_all(asked).await {
            match answer {
                Ok(answer) => {
                    let line = |session: SessionInfo| SessionLine {
                        client_type: session.client_type,
                        address: session.address,
                        since: session.since,
                        gateway: gateway.clone(),
                    };
                    sessions.extend(answer.sessions.into_iter().map(line));
                }
                Err(error) => {
                    debug!(%error, gateway, "it does not say which sessions it has");
                    silent.push(gateway);
                }
            }
        }
        sessions.sort_by_key(|session| session.since);
        sessions.truncate(LINES_MAX as usize);
        Ok(AdminAnswer { sessions, silent, ..done() })
    }

    async fn kick(&self, kick: UserKick) -> Done {
        let user = self.user(&kick.name).await?;
        // First: a client that is thrown out would come back with its token.
        self.logins.tokens().revoke(user.id, None).await?;
        self.kicks.end_sessions(user.id);
        Ok(done())
    }

    async fn ticket(&self, ticket: UserTicket) -> Done {
        let user = self.user(&ticket.name).await?;
        match self.logins.tokens().ticket_for(user.id, ticket.client_type).await {
            Told::Secret(secret, lifetime_s) => Ok(AdminAnswer {
                ticket: Some(secret.into()),
                lifetime_s: Some(lifetime_s),
                ..done()
            }),
            Told::NotNow => Err(Problem::not_now("the store is away")),
            Told::Done | Told::Refused => Err("there is no such kind of client".into()),
        }
    }

    /// Changes a user's row. Returns a stamp: whatever was read of the row below it was before.
    async fn change_user(&self, user: &UserRow, change: UserChange) -> Result<u32, Problem> {
        self.logins.profiles().change(user.id, change).await?;
        let now = self.logins.store().users(vec![user.id]).await;
        let now = now.ok().and_then(|rows| rows.first().map(|row| row.stamp));
        // Without the row as it is now: every change raises the stamp above what it was.
        Ok(now.unwrap_or(user.stamp.saturating_add(1)))
    }

    async fn create_group(&self, create: GroupCreate) -> Done {
        check_group_name(&create.name)
            .map_err(|problem| format!("the name of a group {problem}"))?;
        let members = self.users(&create.members, create.member_ids).await?;
        let creator = *members.first().ok_or("a group needs at least one member, its creator")?;
        let kind = create.group_type.and_then(|kind| i32::try_from(kind).ok());
        let kind = GroupType::try_from(kind.unwrap_or(GroupType::Normal as i32))
            .map_err(|error| error.to_string())?;
        let (wanted, avatar) = (create.group.map(GroupId), create.avatar.unwrap_or_default());
        if avatar.len() > AVATAR_MAX {
            return Err(format!("the location of a picture has at most {AVATAR_MAX} bytes").into());
        }
        let group = NewGroup { wanted, creator, kind, name: create.name, avatar };
        let made = self.make(group, members).await?;
        let (id, _members) = made.ok_or("the group was refused")?;
        Ok(AdminAnswer { id: Some(id.0), ..done() })
    }

    async fn change_group(&self, change: GroupChange) -> Done {
        let group = GroupId(change.group);
        let add = self.users(&change.add, change.add_ids).await?;
        let remove = self.users(&change.remove, change.remove_ids).await?;
        // One after the other: a notice to clients is about the one or the other.
        let mut changes = vec![(add, Vec::new()), (Vec::new(), remove)];
        changes.retain(|(add, remove)| !add.is_empty() || !remove.is_empty());
        if changes.is_empty() {
            return Err("nobody is named".into());
        }
        for (add, remove) in changes {
            if !self.change_members(group, add, remove).await? {
                return Err(missing_group(group));
            }
        }
        Ok(done())
    }

    async fn delete_group(&self, delete: GroupDelete) -> Done {
        let group = GroupId(delete.group);
        let missing = || missing_group(group);
        let id = ConversationId::group(group).ok_or_else(missing)?;
        let served = self.partitions.of(id).ok_or(Problem::NotHere)?;
        let change = Change::DeleteGroup { group, actor: None };
        match served.partition.change(change).await {
            // To delete it again changes nothing.
            Outcome::Members { .. } => Ok(done()),
            Outcome::Moved => Err(Problem::NotHere),
            Outcome::Retry => Err(Problem::not_now("the partition has no room")),
            _ => Err(missing()),
        }
    }

    async fn change_members(
        &self,
        group: GroupId,
        add: Vec<UserId>,
        remove: Vec<UserId>,
    ) -> Result<bool, Problem> {
        let Some(id) = ConversationId::group(group) else { return Ok(false) };
        let served = self.partitions.of(id).ok_or(Problem::NotHere)?;
        let change = Change::Members { group, actor: None, add, remove };
        match served.partition.change(change).await {
            Outcome::Members { .. } => Ok(true),
            // Users that are members already stay so: the change may be made again.
            Outcome::Moved => Err(Problem::NotHere),
            Outcome::Retry => Err(Problem::not_now("the partition has no room")),
            Outcome::Refused(Reason::TooLarge) => Err("too many members at once".into()),
            _ => Ok(false),
        }
    }

    async fn make(
        &self,
        group: NewGroup,
        members: Vec<UserId>,
    ) -> Result<Option<(GroupId, Vec<UserId>)>, Problem> {
        let made = make(self.partitions, group, members).await;
        made.map_err(|not_made| match not_made {
            NotMade::NotOwner => Problem::NotHere,
            NotMade::Store(error) => error.into(),
        })
    }

    async fn list_groups(&self, list: GroupList) -> Done {
        let count = list.count.unwrap_or(LINES_MAX).clamp(1, LINES_MAX) as usize;
        let after = list.after.unwrap_or(0);
        let mut rows = Vec::new();
        for store in self.partitions.stores() {
            rows.extend(store.groups(after, count + 1).await?);
        }
        rows.sort_unstable_by_key(|(row, _members)| row.id);
        let more = Some(rows.len() > count);
        let groups = rows
            .into_iter()
            .take(count)
            .filter_map(|(row, members)| {
                let group = row.group?;
                Some(GroupLine {
                    id: row.id.as_group()?.0,
                    name: group.name,
                    group_type: group.kind,
                    creator: group.creator.0,
                    members,
                })
            })
            .collect();
        Ok(AdminAnswer { groups, more, ..done() })
    }

    async fn demo_users(&self, demo: DemoUsers) -> Done {
        if demo.count > DEMO_USERS_MAX {
            return Err(format!("at most {DEMO_USERS_MAX} demo users").into());
        }
        let members = demo.group_members.unwrap_or(0).min(demo.count);
        let everyone = ConversationId::group(GroupId(1)).ok_or("group 1 is a group")?;
        if members > 0 && self.partitions.of(everyone).is_none() {
            return Err(Problem::NotHere);
        }
        let hash = self.hash(&demo.password).await?;
        let users = (1..=demo.count).map(|number| NewUser {
            id: Some(UserId(number)),
            name: format!("u{number}"),
            nick: format!("u{number}"),
            password_hash: hash.clone(),
            department: 1,
        });
        let store = self.logins.store();
        store.add_users(users.collect(), true).await?;
        if members > 0 {
            self.demo_group(members).await?;
        }
        Ok(done())
    }

    /// Group 1, `everyone`, with the first users; those that are in it already stay.
    async fn demo_group(&self, members: u32) -> Result<(), Problem> {
        let group = GroupId(1);
        let members: Vec<UserId> = (1..=members).map(UserId).collect();
        let id = ConversationId::group(group).ok_or("group 1 is a group")?;
        let served = self.partitions.of(id).ok_or(Problem::NotHere)?;
        let exists = served.partition.state().with(id, |group| group.group.is_some());
        if !exists.await? {
            let new = NewGroup {
                wanted: Some(group),
                creator: UserId(1),
                kind: GroupType::Normal,
                name: "everyone".to_owned(),
                avatar: String::new(),
            };
            let first = members.iter().copied().take(DEMO_MEMBERS_MAX).collect();
            self.make(new, first).await?;
        }
        for some in members.chunks(DEMO_MEMBERS_MAX) {
            self.change_members(group, some.to_vec(), Vec::new()).await?;
        }
        Ok(())
    }

    async fn user(&self, name: &str) -> Result<UserRow, Problem> {
        let row = self.logins.store().user_by_name(name.to_owned()).await?;
        row.ok_or_else(|| Problem::missing(format_args!("user {name}")))
    }

    async fn find_user(&self, find: UserFind) -> Done {
        let row = match (find.id, find.name) {
            (Some(id), None) => {
                let rows = self.logins.store().users(vec![UserId(id)]).await?;
                rows.into_iter()
                    .next()
                    .ok_or_else(|| Problem::missing(format_args!("user {id}")))?
            }
            (None, Some(name)) => self.user(&name).await?,
            (Some(_), Some(_)) | (None, None) => return Err("a number or a name".into()),
        };
        Ok(AdminAnswer { users: vec![user_line(row)], ..done() })
    }

    /// Users by their names and by their numbers. All of them exist.
    async fn users(&self, names: &[String], ids: Vec<u32>) -> Result<Vec<UserId>, Problem> {
        let mut users = Vec::with_capacity(names.len() + ids.len());
        for name in names {
            users.push(self.user(name).await?.id);
        }
        let ids: Vec<UserId> = ids.into_iter().map(UserId).collect();
        let found = self.logins.store().users(ids.clone()).await?;
        let found: HashSet<UserId> = found.iter().map(|row| row.id).collect();
        if let Some(missing) = ids.iter().find(|id| !found.contains(*id)) {
            return Err(Problem::missing(format_args!("user {}", missing.0)));
        }
        users.extend(ids);
        Ok(users)
    }

    async fn group_members(&self, page: GroupMembers) -> Done {
        let group = GroupId(page.group);
        let id = ConversationId::group(group).ok_or_else(|| missing_group(group))?;
        let served = self.partitions.of(id).ok_or(Problem::NotHere)?;
        let members = |group: &Conversation| {
            let is_there = group.group.as_ref().is_some_and(|group| !group.deleted);
            is_there.then(|| group.current_members())
        };
        let members = served.partition.state().with(id, members).await?;
        let members = members.ok_or_else(|| missing_group(group))?;
        let after = UserId(page.after.unwrap_or(0));
        let count = page.count.unwrap_or(LINES_MAX).clamp(1, LINES_MAX) as usize;
        let from = members.partition_point(|member| *member <= after);
        let mut rest = members.into_iter().skip(from);
        let member_ids = rest.by_ref().take(count).map(|member| member.0).collect();
        Ok(AdminAnswer { member_ids, more: Some(rest.next().is_some()), ..done() })
    }

    /// Clients send the MD5 of what is typed, so that is what is hashed.
    async fn hash(&self, typed: &str) -> Result<String, Problem> {
        let typed = &check_password(typed)?;
        let hashed = self.logins.passwords().hash(proto::credential::of_password(typed)).await;
        hashed.map_err(|error| Problem::Said(AdminError::Other, error.to_string()))
    }
}

fn missing_group(group: GroupId) -> Problem {
    Problem::missing(format_args!("group {}", group.0))
}

fn user_line(row: UserRow) -> UserLine {
    UserLine {
        id: row.id.0,
        name: row.name,
        nick: row.nick,
        department: row.department,
        disabled: row.status == UserRow::LEFT,
    }
}
