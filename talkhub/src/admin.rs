//! `talkhub admin`: users and groups, by requests to db_proxy on a link of its own; and whole sites, to
//! other databases.
//!
//! Nothing is decided here: db_proxy checks names, passwords and members, and says what is wrong.

mod bar;
mod consumers;
mod keys;
mod password;
mod sessions;
pub(crate) mod ticket;
mod transfer;
mod webhooks;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use daemon::config::ClusterTlsConfig;
use daemon::{ClusterConfig, Role};
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    AdminAnswer, ApiKeyCreate, ApiKeyList, ConsumerForget, ConsumerList, GroupChange, GroupCreate,
    GroupDelete, GroupLine, GroupList, UserAdd, UserDisable, UserKick, UserLine, UserList,
    UserPassword, UserSessions, UserTicket, UserUnlock,
};
use tokio::time::{Instant, sleep};

use crate::admin_link::AdminLink;
use crate::failure::Failure;
use crate::terminal::{print, printable};
use crate::up::folder;
use crate::up::report::Status;

/// Lines of one answer to a list.
const PAGE: u32 = 500;
/// Lists are read from the store, which is a moment behind what has been done.
const LIST_LAG_LIMIT: Duration = Duration::from_secs(1);

/// The arguments of `talkhub admin`.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// The data folder of a cluster that `talkhub up` runs
    #[arg(long, value_name = "DIR", default_value = "data", global = true)]
    data: PathBuf,
    /// The db_proxies, with commas between, if not those of that cluster
    #[arg(long, value_name = "HOST:PORT", global = true, value_delimiter = ',')]
    db: Vec<String>,
    /// The cluster's key, if not the one in that folder
    #[arg(long, value_name = "FILE", global = true)]
    cluster_key_file: Option<PathBuf>,
    /// A certificate for `admin.talkhub`, where links are encrypted
    #[arg(long, value_name = "FILE", global = true, requires_all = ["link_key", "link_ca"])]
    link_cert: Option<PathBuf>,
    /// The certificate's key
    #[arg(long, value_name = "FILE", global = true, requires = "link_cert")]
    link_key: Option<PathBuf>,
    /// The authority of the cluster's certificates
    #[arg(long, value_name = "FILE", global = true, requires = "link_cert")]
    link_ca: Option<PathBuf>,
    #[command(subcommand)]
    what: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    #[command(flatten)]
    Asked(Asked),
    /// Writes a stopped site of the embedded store to files
    Export(transfer::ExportArgs),
    /// Brings such files into empty databases of MySQL or MariaDB
    Import(transfer::ImportArgs),
}

/// What a running db_proxy is asked for.
#[derive(Debug, Subcommand)]
enum Asked {
    /// Users: add, passwd, list, disable, enable, unlock, kick, sessions, ticket
    #[command(subcommand)]
    User(UserCommand),
    /// Groups: create, add, remove, delete, list
    #[command(subcommand)]
    Group(GroupCommand),
    /// Consumers of the log: list, forget
    #[command(subcommand)]
    Consumer(consumers::Command),
    /// Keys for the HTTP API: create, list, revoke
    #[command(subcommand)]
    Key(keys::Command),
    /// Webhooks: add, list, show, remove, enable, disable, rotate, failures, replay
    #[command(subcommand)]
    Webhook(webhooks::Command),
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Makes a user
    Add {
        /// The name to log in with
        name: String,
        /// The password; asked for if not given, which keeps it out of the shell's history
        #[arg(long)]
        password: Option<String>,
        /// The name that others see; the login name if not given
        #[arg(long)]
        nick: Option<String>,
        /// The number of a department
        #[arg(long, value_name = "ID")]
        department: Option<u32>,
    },
    /// Changes a password
    Passwd {
        /// The name to log in with
        name: String,
        /// The password; asked for if not given
        #[arg(long)]
        password: Option<String>,
    },
    /// Shows all users
    List,
    /// Ends a user's sessions and refuses new ones
    Disable {
        /// The name to log in with
        name: String,
    },
    /// Takes that back
    Enable {
        /// The name to log in with
        name: String,
    },
    /// Lifts the delays that wrong passwords have brought upon a user
    Unlock {
        /// The name to log in with
        name: String,
    },
    /// Ends a user's sessions and tokens; the user may log in again with the password
    Kick {
        /// The name to log in with
        name: String,
    },
    /// Shows a user's sessions: device, address, since when, gateway
    Sessions {
        /// The name to log in with
        name: String,
    },
    /// Makes something to log in with as that user, once, within a minute
    Ticket {
        /// The name to log in with
        name: String,
        /// The kind of the client that it is for
        #[arg(long, value_enum, default_value_t = ticket::Device::Mac)]
        device: ticket::Device,
    },
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// Makes a group; the first member is its creator
    Create {
        /// The group's name
        name: String,
        /// Login names
        #[arg(required = true)]
        members: Vec<String>,
    },
    /// Adds members
    Add {
        /// The group's number or name
        group: String,
        /// Login names
        #[arg(required = true)]
        members: Vec<String>,
    },
    /// Removes members
    Remove {
        /// The group's number or name
        group: String,
        /// Login names
        #[arg(required = true)]
        members: Vec<String>,
    },
    /// Deletes a group: all members leave, and nobody can be added afterwards
    Delete {
        /// The group's number or name
        group: String,
    },
    /// Shows all groups
    List,
}

/// Carries out what is asked for.
pub fn run(args: &AdminArgs) -> Result<(), Failure> {
    match &args.what {
        Noun::Asked(asked) => ask(args, asked),
        Noun::Export(export) => transfer::export(export, &args.data.join("db")),
        Noun::Import(import) => transfer::import(import),
    }
}

/// Connects, asks, and shows the answer.
fn ask(args: &AdminArgs, asked: &Asked) -> Result<(), Failure> {
    let target = Target::find(args)?;
    let command = Ready::new(asked)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start a runtime: {error}")))?;
    runtime.block_on(async {
        let identity = target.cluster.link_identity(Role::Admin, daemon::link::new_boot())?;
        let link = AdminLink::connect(&target.db, identity).await?;
        let told = command.carry_out(&link).await;
        link.close().await;
        let cannot = |error| Failure::new(format!("cannot write to standard output: {error}"));
        print(&told?, io::stdout()).map_err(cannot)
    })
}

/// The db_proxies, and what proves to them that this command may administer them.
#[derive(Debug)]
struct Target {
    db: Vec<String>,
    cluster: ClusterConfig,
}

impl Target {
    fn find(args: &AdminArgs) -> Result<Self, Failure> {
        let key_file =
            args.cluster_key_file.clone().unwrap_or_else(|| folder::key_file(&args.data));
        let db = if args.db.is_empty() { running_db(&args.data)? } else { args.db.clone() };
        let tls = match (&args.link_cert, &args.link_key, &args.link_ca) {
            (Some(cert), Some(key), Some(ca)) => {
                Some(ClusterTlsConfig { cert: cert.clone(), key: key.clone(), ca: ca.clone() })
            }
            _ => None,
        };
        let name = format!("talkhub-{}", std::process::id());
        let key_file = Some(key_file);
        let cluster = ClusterConfig { key_file, name, tls, ..ClusterConfig::default() };
        Ok(Self { db, cluster })
    }
}

/// The db_proxies of the cluster that runs on `data`.
fn running_db(data: &Path) -> Result<Vec<String>, Failure> {
    let file = folder::status_file(data);
    let none = || {
        Failure::new(format!(
            "no cluster of `talkhub up` runs on the data folder {}: name another with --data, or its db_proxy with --db and --cluster-key-file",
            data.display()
        ))
    };
    let text = fs::read_to_string(&file).map_err(|_error| none())?;
    let status: Status = serde_json::from_str(&text)
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    if status.db.is_empty() {
        return Err(none());
    }
    Ok(status.db.iter().map(ToString::to_string).collect())
}

/// A command for which everything has been asked that a person must say.
enum Ready {
    /// What to ask, and what to say when it is done.
    Once(What, String),
    Users,
    Consumers,
    Keys,
    /// A key to be made, and whether it is shown as JSON.
    Key(ApiKeyCreate, bool),
    /// What is done with webhooks.
    Webhook(webhooks::Command),
    Sessions(String),
    Ticket(UserTicket),
    Groups,
    /// A group to delete, which may be named.
    Delete(String),
    /// Members to add or to remove, of a group that may be named.
    Change {
        group: String,
        add: Vec<String>,
        remove: Vec<String>,
    },
}

impl Ready {
    fn new(what: &Asked) -> Result<Self, Failure> {
        Ok(match what {
            Asked::User(UserCommand::Add { name, password, nick, department }) => Self::Once(
                What::UserAdd(UserAdd {
                    name: name.clone(),
                    password: password::given_or_asked(password.as_deref(), name)?,
                    nick: nick.clone(),
                    department: *department,
                }),
                format!("user {name} added"),
            ),
            Asked::User(UserCommand::Passwd { name, password }) => Self::Once(
                What::UserPassword(UserPassword {
                    name: name.clone(),
                    password: password::given_or_asked(password.as_deref(), name)?,
                }),
                format!("password of {name} changed"),
            ),
            Asked::User(UserCommand::List) => Self::Users,
            Asked::User(UserCommand::Disable { name }) => Self::disable(name, true),
            Asked::User(UserCommand::Enable { name }) => Self::disable(name, false),
            Asked::User(UserCommand::Unlock { name }) => Self::Once(
                What::UserUnlock(UserUnlock { name: name.clone() }),
                format!("delays of {name} lifted"),
            ),
            Asked::User(UserCommand::Kick { name }) => Self::Once(
                What::UserKick(UserKick { name: name.clone() }),
                format!("sessions of {name} ended"),
            ),
            Asked::User(UserCommand::Sessions { name }) => Self::Sessions(name.clone()),
            Asked::User(UserCommand::Ticket { name, device }) => {
                Self::Ticket(ticket::wanted(name, *device))
            }
            Asked::Group(GroupCommand::Create { name, members }) => Self::Once(
                What::GroupCreate(GroupCreate {
                    name: name.clone(),
                    members: members.clone(),
                    ..GroupCreate::default()
                }),
                format!("group {name} created"),
            ),
            Asked::Group(GroupCommand::Add { group, members }) => {
                Self::Change { group: group.clone(), add: members.clone(), remove: Vec::new() }
            }
            Asked::Group(GroupCommand::Remove { group, members }) => {
                Self::Change { group: group.clone(), add: Vec::new(), remove: members.clone() }
            }
            Asked::Group(GroupCommand::Delete { group }) => Self::Delete(group.clone()),
            Asked::Group(GroupCommand::List) => Self::Groups,
            Asked::Key(key) => Self::key(key),
            Asked::Webhook(webhook) => Self::Webhook(webhook.clone()),
            Asked::Consumer(consumers::Command::List) => Self::Consumers,
            Asked::Consumer(consumers::Command::Forget { name }) => Self::Once(
                What::ConsumerForget(ConsumerForget { name: name.clone() }),
                format!("consumer {name} forgotten"),
            ),
        })
    }

    fn key(key: &keys::Command) -> Self {
        match key {
            keys::Command::Create { name, scope, days, rate, json } => {
                Self::Key(keys::wanted(name, scope, (*days, *rate)), *json)
            }
            keys::Command::List => Self::Keys,
            keys::Command::Revoke { name } => {
                let (what, done) = keys::revoked(name);
                Self::Once(what, done)
            }
        }
    }

    fn disable(name: &str, disable: bool) -> Self {
        let done = if disable { "disabled" } else { "enabled" };
        Self::Once(
            What::UserDisable(UserDisable { name: name.to_owned(), enable: Some(!disable) }),
            format!("user {name} {done}"),
        )
    }

    /// Carries it out. Returns what a person wants to read of it.
    async fn carry_out(self, link: &AdminLink) -> Result<String, Failure> {
        match self {
            Self::Once(what, done) => {
                let answer = link.ask(what).await?;
                Ok(with_id(&done, &answer))
            }
            Self::Users => {
                let head = format!(
                    "{:>8}  {:<20} {:<20} {:>10}  state",
                    "id", "name", "nick", "department"
                );
                let users = all_users(link).await?;
                Ok(table(head, users.iter().map(user_line)))
            }
            Self::Sessions(name) => {
                Ok(sessions::shown(&link.ask(What::UserSessions(UserSessions { name })).await?))
            }
            Self::Ticket(wanted) => Ok(ticket::shown(&link.ask(What::UserTicket(wanted)).await?)),
            Self::Groups => {
                let head = format!("{:>8}  {:<28} {:>8} {:>8}", "id", "name", "members", "creator");
                let groups = all_groups(link).await?;
                Ok(table(head, groups.iter().map(group_line)))
            }
            Self::Consumers => {
                let answer = link.ask(What::ConsumerList(ConsumerList {})).await?;
                Ok(table(consumers::head(), answer.consumers.iter().map(consumers::line)))
            }
            Self::Keys => {
                let answer = link.ask(What::ApiKeyList(ApiKeyList {})).await?;
                Ok(table(keys::head(), answer.api_keys.iter().map(keys::line)))
            }
            Self::Key(wanted, json) => {
                Ok(keys::shown(&link.ask(What::ApiKeyCreate(wanted)).await?, json))
            }
            Self::Webhook(command) => webhooks::carry_out(command, link).await,
            Self::Delete(group) => {
                let (number, name) = find_group(link, &group).await?;
                link.ask(What::GroupDelete(GroupDelete { group: number })).await?;
                Ok(format!("group {name} deleted (id {number})"))
            }
            Self::Change { group, add, remove } => {
                let (number, name) = find_group(link, &group).await?;
                let (count, what) =
                    if add.is_empty() { (remove.len(), "removed") } else { (add.len(), "added") };
                let change = GroupChange { group: number, add, remove, ..GroupChange::default() };
                link.ask(What::GroupChange(change)).await?;
                let members = if count == 1 { "member" } else { "members" };
                Ok(format!("{count} {members} {what}: group {name} (id {number})"))
            }
        }
    }
}

fn table(head: String, lines: impl Iterator<Item = String>) -> String {
    lines.fold(head, |text, line| text + "\n" + &line)
}

fn with_id(done: &str, answer: &AdminAnswer) -> String {
    match answer.id {
        Some(id) => format!("{done} (id {id})"),
        None => done.to_owned(),
    }
}

fn user_line(user: &UserLine) -> String {
    let state = if user.disabled { "disabled" } else { "active" };
    format!(
        "{:>8}  {:<20} {:<20} {:>10}  {state}",
        user.id,
        printable(&user.name),
        printable(&user.nick),
        user.department
    )
}

fn group_line(group: &GroupLine) -> String {
    format!(
        "{:>8}  {:<28} {:>8} {:>8}",
        group.id,
        printable(&group.name),
        group.members,
        group.creator
    )
}

async fn all_users(link: &AdminLink) -> Result<Vec<UserLine>, Failure> {
    let mut users: Vec<UserLine> = Vec::new();
    loop {
        let after = users.last().map(|user| user.name.clone());
        let page = link.ask(What::UserList(UserList { after, count: Some(PAGE) })).await?;
        let end = !page.more.unwrap_or(false) || page.users.is_empty();
        users.extend(page.users);
        if end {
            return Ok(users);
        }
    }
}

async fn all_groups(link: &AdminLink) -> Result<Vec<GroupLine>, Failure> {
    let mut groups: Vec<GroupLine> = Vec::new();
    loop {
        let after = groups.last().map(|group| group.id);
        let page = link.ask(What::GroupList(GroupList { after, count: Some(PAGE) })).await?;
        let end = !page.more.unwrap_or(false) || page.groups.is_empty();
        groups.extend(page.groups);
        if end {
            return Ok(groups);
        }
    }
}

async fn groups_called(link: &AdminLink, name: &str) -> Result<Vec<GroupLine>, Failure> {
    let mut groups = all_groups(link).await?;
    groups.retain(|group| group.name == name);
    Ok(groups)
}

/// The group that a person means by its number or its name.
async fn find_group(link: &AdminLink, named: &str) -> Result<(u32, String), Failure> {
    if let Ok(number) = named.parse() {
        return Ok((number, named.to_owned()));
    }
    let deadline = Instant::now() + LIST_LAG_LIMIT;
    let mut found = groups_called(link, named).await?;
    while found.is_empty() && Instant::now() < deadline {
        sleep(LIST_LAG_LIMIT / 10).await;
        found = groups_called(link, named).await?;
    }
    match found.as_slice() {
        [group] => Ok((group.id, group.name.clone())),
        [] => Err(Failure::new(format!("there is no group called {named}"))),
        several => {
            let ids: Vec<_> = several.iter().map(|group| group.id.to_string()).collect();
            let ids = ids.join(", ");
            Err(Failure::new(format!("several groups are called {named}: use an id of {ids}")))
        }
    }
}

#[cfg(test)]
mod tests;
