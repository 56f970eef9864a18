//! The login side: users, departments, device tokens, and the numbers of groups.
//!
//! Several db_proxies write here. They take turns by locking a row of `counter` first, so that what
//! one reads within its transaction (the newest stamp, the highest number, the names taken) stays
//! true until it commits, and stamps become visible in their order.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mysql_async::Value;
use parking_lot::Mutex;
use proto::ids::{GroupId, UserId};

use super::bulk::{self, Insert};
use super::failure::Failure;
use super::link::Link;
use super::row::{self, Columns, limit, values};
use super::tokens;
use crate::{DepartmentRow, NewUser, Since, StoreError, UserChange, UserRow, rules};

/// What a row weighs besides its texts.
const ROW_BYTES: usize = 128;

const USERS: Insert = Insert {
    head: "INSERT INTO user \
           (id, name, password_hash, nick, department, domain, stamp, \
            gender, avatar, email, tel, status, sign, push_shield) VALUES ",
    row: "(?,?,?,?,?,?,?,0,'','','',0,'',0)",
    tail: "",
};

/// Whose turn it is: a row of `counter`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Turn {
    Users,
    Groups,
    Tokens,
    Webhooks,
}

impl Turn {
    /// Begins a transaction and waits for the turn. Returns the row's value.
    pub(super) async fn take(self, link: &mut Link) -> Result<u32, Failure> {
        let name = match self {
            Self::Users => "user",
            Self::Groups => "group",
            Self::Tokens => "token",
            Self::Webhooks => "webhook",
        };
        link.begin().await?;
        let row =
            link.row("SELECT value FROM counter WHERE name = ? FOR UPDATE", values![name]).await?;
        row::one(row, Columns::next)?
            .ok_or_else(|| StoreError::Refused(format!("the store lost its counter {name}")).into())
    }
}

/// The user with this login name.
pub(super) async fn user_by_name(
    link: &mut Link,
    name: Arc<str>,
) -> Result<Option<UserRow>, Failure> {
    let row = link.row("SELECT * FROM user WHERE name = ?", values![name.as_bytes()]).await?;
    row::one(row, Columns::user)
}

/// Users by number, in the order asked for.
pub(super) async fn users(link: &mut Link, ids: Arc<[UserId]>) -> Result<Vec<UserRow>, Failure> {
    let mut found = Vec::with_capacity(ids.len());
    for list in bulk::lists(&ids) {
        let query = bulk::repeated("SELECT * FROM user WHERE id IN (", "?", ")", list.len());
        let numbers = list.iter().map(|id| Value::from(id.0)).collect();
        found.append(&mut row::all(link.rows(&query, numbers).await?, Columns::user)?);
    }
    found.sort_unstable_by_key(|user| user.id);
    let of = |id: &UserId| {
        let at = found.binary_search_by_key(id, |user| user.id).ok()?;
        found.get(at).cloned()
    };
    Ok(ids.iter().filter_map(of).collect())
}

/// Users changed since, and the newest stamp.
pub(super) async fn users_since(
    link: &mut Link,
    since: Since,
    count: usize,
) -> Result<(Vec<UserRow>, u32), Failure> {
    // Read before the users: a client that asks again from this stamp on misses no user.
    let newest = newest_stamp(link).await?;
    let rows = link
        .rows(
            "SELECT * FROM user WHERE stamp >= ? AND (stamp > ? OR id >= ?)
             ORDER BY stamp, id LIMIT ?",
            values![since.stamp, since.stamp, since.id, limit(count)],
        )
        .await?;
    Ok((row::all(rows, Columns::user)?, newest))
}

/// Users by name.
pub(super) async fn users_by_name(
    link: &mut Link,
    after: Arc<str>,
    count: usize,
) -> Result<Vec<UserRow>, Failure> {
    let rows = link
        .rows(
            "SELECT * FROM user WHERE name > ? ORDER BY name LIMIT ?",
            values![after.as_bytes(), limit(count)],
        )
        .await?;
    row::all(rows, Columns::user)
}

/// Users to be made.
#[derive(Debug, Clone)]
pub(super) struct Adding {
    users: Arc<[NewUser]>,
    skip_existing: bool,
    /// What a try made whose COMMIT had no answer.
    doubt: Arc<Mutex<Option<Vec<UserId>>>>,
}

impl Adding {
    pub(super) fn new(users: Vec<NewUser>, skip_existing: bool) -> Self {
        Self { users: users.into(), skip_existing, doubt: Arc::default() }
    }
}

/// Makes users, all or none.
pub(super) async fn add_users(link: &mut Link, adding: Adding) -> Result<Vec<UserId>, Failure> {
    Turn::Users.take(link).await?;
    let doubt = adding.doubt.lock().take();
    if let Some(made) = doubt
        && is_made(link, &adding.users, &made).await?
    {
        link.roll_back().await?;
        return Ok(made);
    }
    let made = plan(link, &adding).await?;
    let stamp = rules::stamp_after(newest_stamp(link).await?);
    let numbered: Vec<(u32, u32, &NewUser)> = (made.iter().enumerate())
        .map(|(at, (id, user))| (*id, stamp.saturating_add(rules::stamps_for(at)), *user))
        .collect();
    USERS
        .put_all(
            link,
            &numbered,
            |(_, _, user)| {
                2 * user.name.len() + user.nick.len() + user.password_hash.len() + ROW_BYTES
            },
            |(id, stamp, user), to| {
                to.extend(values![
                    *id,
                    user.name.as_bytes(),
                    user.password_hash.as_bytes(),
                    user.nick.as_bytes(),
                    user.department,
                    rules::domain(&user.name),
                    *stamp,
                ]);
            },
        )
        .await?;
    let made: Vec<UserId> = made.into_iter().map(|(id, _)| UserId(id)).collect();
    *adding.doubt.lock() = Some(made.clone());
    link.commit().await?;
    Ok(made)
}

/// Whether a try that made these is in the store. No other call makes the same user with the same
/// number, name and password in between.
async fn is_made(link: &mut Link, users: &[NewUser], made: &[UserId]) -> Result<bool, Failure> {
    let Some(first) = made.first() else { return Ok(false) };
    let row = link.row("SELECT * FROM user WHERE id = ?", values![first.0]).await?;
    let stored = row::one(row, Columns::user)?;
    Ok(stored.is_some_and(|stored| {
        let is_it =
            |user: &NewUser| user.name == stored.name && user.password_hash == stored.password_hash;
        users.iter().any(is_it)
    }))
}

/// The users to be made, each with its number.
async fn plan<'a>(link: &mut Link, adding: &'a Adding) -> Result<Vec<(u32, &'a NewUser)>, Failure> {
    let (mut names, mut numbers) = taken(link, &adding.users).await?;
    let highest = link.row("SELECT COALESCE(MAX(id), 0) FROM user", Vec::new()).await?;
    let mut highest: u32 = row::one(highest, Columns::next)?.unwrap_or_default();
    let mut made = Vec::with_capacity(adding.users.len());
    for user in adding.users.iter() {
        if !names.insert(user.name.clone()) {
            if adding.skip_existing {
                continue;
            }
            return Err(StoreError::Taken(format!("the name {}", user.name)).into());
        }
        let id = match user.id {
            Some(UserId(id)) => id,
            None => rules::number_after(highest, "user")?,
        };
        if id == 0 || !numbers.insert(id) {
            return Err(StoreError::Taken(format!("user number {id}")).into());
        }
        highest = highest.max(id);
        made.push((id, user));
    }
    Ok(made)
}

/// Which of the names and numbers asked for are taken.
async fn taken(
    link: &mut Link,
    users: &[NewUser],
) -> Result<(HashSet<String>, HashSet<u32>), Failure> {
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    let asked: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
    for list in bulk::lists(&asked) {
        let query = bulk::repeated("SELECT name FROM user WHERE name IN (", "?", ")", list.len());
        let list = list.into_iter().map(|name| Value::from(name.as_bytes())).collect();
        names.extend(row::all(link.rows(&query, list).await?, Columns::next::<String>)?);
    }
    let asked: Vec<u32> = users.iter().filter_map(|user| user.id).map(|id| id.0).collect();
    for list in bulk::lists(&asked) {
        let query = bulk::repeated("SELECT id FROM user WHERE id IN (", "?", ")", list.len());
        let list = list.into_iter().map(Value::from).collect();
        numbers.extend(row::all(link.rows(&query, list).await?, Columns::next::<u32>)?);
    }
    Ok((names, numbers))
}

/// Changes one user's record.
pub(super) async fn change_user(
    link: &mut Link,
    user: UserId,
    change: Arc<UserChange>,
) -> Result<(), Failure> {
    Turn::Users.take(link).await?;
    if let UserChange::Rehash { from, to } = &*change {
        let raise = "UPDATE user SET password_hash = ? WHERE id = ? AND password_hash = ?";
        link.execute(raise, values![to, user.0, from]).await?;
        return link.commit().await;
    }
    let stamp = rules::stamp_after(newest_stamp(link).await?);
    let (statement, value) = match &*change {
        // Done above.
        UserChange::Rehash { .. } => return Ok(()),
        UserChange::Password(hash) => {
            ("UPDATE user SET stamp = ?, password_hash = ? WHERE id = ?", Value::from(hash))
        }
        UserChange::Status(status) => {
            ("UPDATE user SET stamp = ?, status = ? WHERE id = ?", Value::from(status))
        }
        UserChange::Sign(sign) => {
            ("UPDATE user SET stamp = ?, sign = ? WHERE id = ?", Value::from(sign))
        }
        UserChange::Avatar(avatar) => {
            ("UPDATE user SET stamp = ?, avatar = ? WHERE id = ?", Value::from(avatar))
        }
        UserChange::PushShield(shield) => {
            ("UPDATE user SET stamp = ?, push_shield = ? WHERE id = ?", Value::from(*shield))
        }
    };
    if link.execute(statement, values![stamp, value, user.0]).await? == 0 {
        return Err(StoreError::Missing(format!("user {}", user.0)).into());
    }
    if change.ends_tokens() {
        tokens::end(link, user, None).await?;
    }
    link.commit().await
}

/// Departments changed since, and the newest stamp.
pub(super) async fn departments_since(
    link: &mut Link,
    since: Since,
    count: usize,
) -> Result<(Vec<DepartmentRow>, u32), Failure> {
    // Read before the departments, for the same reason as that of users.
    let newest = link.row("SELECT COALESCE(MAX(stamp), 0) FROM department", Vec::new()).await?;
    let newest = row::one(newest, Columns::next)?.unwrap_or_default();
    let rows = link
        .rows(
            "SELECT id, priority, name, parent, status, stamp FROM department
             WHERE stamp >= ? AND (stamp > ? OR id >= ?) ORDER BY stamp, id LIMIT ?",
            values![since.stamp, since.stamp, since.id, limit(count)],
        )
        .await?;
    Ok((row::all(rows, Columns::department)?, newest))
}

/// Keeps or forgets a phone's token.
pub(super) async fn set_device_token(
    link: &mut Link,
    user: UserId,
    client_type: u32,
    token: Option<Arc<str>>,
) -> Result<(), Failure> {
    Turn::Tokens.take(link).await?;
    // A token is one phone: what comes for its last user must not be shown to the next. Two
    // statements, so that each has its index and locks little.
    link.execute(
        "DELETE FROM device_token WHERE user_id = ? AND client_type = ?",
        values![user.0, client_type],
    )
    .await?;
    if let Some(token) = token {
        let token = token.as_bytes();
        link.execute("DELETE FROM device_token WHERE token = ?", values![token]).await?;
        link.execute(
            "INSERT INTO device_token (user_id, client_type, token) VALUES (?, ?, ?)",
            values![user.0, client_type, token],
        )
        .await?;
    }
    link.commit().await
}

/// The last group number that the counter gave out.
pub(super) async fn group_counter(link: &mut Link) -> Result<u32, Failure> {
    let row = link.row("SELECT value FROM counter WHERE name = 'group'", Vec::new()).await?;
    Ok(row::one(row, Columns::next)?.unwrap_or_default())
}

/// Group numbers of which it is known whether they have a conversation.
///
/// No conversation comes to a number that was not given out, so that what was true before the
/// transaction is still true in it.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) in_use: HashSet<u32>,
    /// A try whose COMMIT had no answer.
    pub(super) in_doubt: AtomicBool,
}

/// Gives out the wanted group number, or the next one. `None` if that is beyond the numbers that
/// are known.
pub(super) async fn give_group(
    link: &mut Link,
    wanted: Option<GroupId>,
    numbers: Arc<Numbers>,
) -> Result<Option<GroupId>, Failure> {
    let counter = Turn::Groups.take(link).await?;
    let given = if let Some(GroupId(wanted)) = wanted {
        keep_wanted(link, counter, wanted, &numbers).await?;
        wanted
    } else {
        let next = next_group(link, counter, &numbers).await?;
        if next < numbers.first || next > numbers.last {
            link.roll_back().await?;
            return Ok(None);
        }
        link.execute("UPDATE counter SET value = ? WHERE name = 'group'", values![next]).await?;
        next
    };
    numbers.in_doubt.store(true, Ordering::Relaxed);
    link.commit().await?;
    Ok(Some(GroupId(given)))
}

async fn keep_wanted(
    link: &mut Link,
    counter: u32,
    wanted: u32,
    numbers: &Numbers,
) -> Result<(), Failure> {
    let is_free = wanted > counter && !numbers.in_use.contains(&wanted);
    if is_free && !is_wanted(link, wanted).await? {
        link.execute("INSERT INTO wanted_group (id) VALUES (?)", values![wanted]).await?;
        return Ok(());
    }
    if numbers.in_doubt.load(Ordering::Relaxed) {
        let text = "it is not known whether the number was given out".to_owned();
        return Err(StoreError::Unavailable(text).into());
    }
    Err(StoreError::Taken(format!("group number {wanted}")).into())
}

/// The first number after the counter that was not asked for by number and that has no conversation.
async fn next_group(link: &mut Link, counter: u32, numbers: &Numbers) -> Result<u32, Failure> {
    let mut next = rules::number_after(counter, "group")?;
    while numbers.in_use.contains(&next) || is_wanted(link, next).await? {
        next = rules::number_after(next, "group")?;
    }
    Ok(next)
}

async fn is_wanted(link: &mut Link, number: u32) -> Result<bool, Failure> {
    let row = link.row("SELECT 1 FROM wanted_group WHERE id = ?", values![number]).await?;
    Ok(row.is_some())
}

async fn newest_stamp(link: &mut Link) -> Result<u32, Failure> {
    let row = link.row("SELECT COALESCE(MAX(stamp), 0) FROM user", Vec::new()).await?;
    Ok(row::one(row, Columns::next)?.unwrap_or_default())
}
