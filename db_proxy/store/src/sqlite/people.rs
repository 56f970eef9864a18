//! The login side: users, departments, device tokens, and the numbers of groups.

use proto::ids::{GroupId, UserId};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::history::collect;
use super::row::{self, limit};
use super::tokens;
use crate::{DepartmentRow, NewUser, Since, StoreError, UserChange, UserRow, rules};

/// The user with this login name.
pub(super) fn user_by_name(
    connection: &Connection,
    name: &str,
) -> Result<Option<UserRow>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT * FROM user WHERE name = ?1")?;
    Ok(statement.query_row([name], row::user).optional()?)
}

/// Users by number.
pub(super) fn users(
    connection: &mut Connection,
    ids: &[UserId],
) -> Result<Vec<UserRow>, StoreError> {
    let snapshot = connection.transaction()?;
    let mut statement = snapshot.prepare_cached("SELECT * FROM user WHERE id = ?1")?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        found.extend(statement.query_row([id.0], row::user).optional()?);
    }
    Ok(found)
}

/// Users changed since, and the newest stamp.
pub(super) fn users_since(
    connection: &mut Connection,
    since: Since,
    count: usize,
) -> Result<(Vec<UserRow>, u32), StoreError> {
    let snapshot = connection.transaction()?;
    let changed = collect(
        &snapshot,
        "SELECT * FROM user WHERE stamp >= ?1 AND (stamp > ?1 OR id >= ?2)
         ORDER BY stamp, id LIMIT ?3",
        params![since.stamp, since.id, limit(count)],
        row::user,
    )?;
    Ok((changed, newest_stamp(&snapshot)?))
}

/// Users by name.
pub(super) fn users_by_name(
    connection: &Connection,
    after: &str,
    count: usize,
) -> Result<Vec<UserRow>, StoreError> {
    collect(
        connection,
        "SELECT * FROM user WHERE name > ?1 ORDER BY name LIMIT ?2",
        params![after, limit(count)],
        row::user,
    )
}

/// Makes users, all or none.
pub(super) fn add_users(
    connection: &mut Connection,
    users: &[NewUser],
    skip_existing: bool,
) -> Result<Vec<UserId>, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let highest: u32 =
        transaction.query_row("SELECT COALESCE(MAX(id), 0) FROM user", [], |row| row.get(0))?;
    let mut making = Making {
        transaction: &transaction,
        stamp: next_stamp(&transaction)?,
        highest,
        made: Vec::with_capacity(users.len()),
    };
    for user in users {
        if !making.name_exists(&user.name)? {
            making.make(user)?;
        } else if !skip_existing {
            return Err(StoreError::Taken(format!("the name {}", user.name)));
        }
    }
    let made = making.made;
    transaction.commit()?;
    Ok(made)
}

/// Changes one user's record.
pub(super) fn change_user(
    connection: &mut Connection,
    user: UserId,
    change: &UserChange,
) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let stamp = next_stamp(&transaction)?;
    let changed = match change {
        UserChange::Rehash { from, to } => {
            transaction.execute(
                "UPDATE user SET password_hash = ?3 WHERE id = ?1 AND password_hash = ?2",
                params![user.0, from, to],
            )?;
            transaction.commit()?;
            return Ok(());
        }
        UserChange::Password(hash) => transaction.execute(
            "UPDATE user SET stamp = ?2, password_hash = ?3 WHERE id = ?1",
            params![user.0, stamp, hash],
        ),
        UserChange::Status(status) => transaction.execute(
            "UPDATE user SET stamp = ?2, status = ?3 WHERE id = ?1",
            params![user.0, stamp, status],
        ),
        UserChange::Sign(sign) => transaction.execute(
            "UPDATE user SET stamp = ?2, sign = ?3 WHERE id = ?1",
            params![user.0, stamp, sign],
        ),
        UserChange::Avatar(avatar) => transaction.execute(
            "UPDATE user SET stamp = ?2, avatar = ?3 WHERE id = ?1",
            params![user.0, stamp, avatar],
        ),
        UserChange::PushShield(shield) => transaction.execute(
            "UPDATE user SET stamp = ?2, push_shield = ?3 WHERE id = ?1",
            params![user.0, stamp, shield],
        ),
    }?;
    if changed == 0 {
        return Err(StoreError::Missing(format!("user {}", user.0)));
    }
    if change.ends_tokens() {
        tokens::end(&transaction, user, None)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Departments changed since, and the newest stamp.
pub(super) fn departments_since(
    connection: &mut Connection,
    since: Since,
    count: usize,
) -> Result<(Vec<DepartmentRow>, u32), StoreError> {
    let snapshot = connection.transaction()?;
    let changed = collect(
        &snapshot,
        "SELECT id, priority, name, parent, status, stamp FROM department
         WHERE stamp >= ?1 AND (stamp > ?1 OR id >= ?2) ORDER BY stamp, id LIMIT ?3",
        params![since.stamp, since.id, limit(count)],
        row::department,
    )?;
    let newest =
        snapshot
            .query_row("SELECT COALESCE(MAX(stamp), 0) FROM department", [], |row| row.get(0))?;
    Ok((changed, newest))
}

/// Keeps or forgets a phone's token.
pub(super) fn set_device_token(
    connection: &mut Connection,
    user: UserId,
    client_type: u32,
    token: Option<&str>,
) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // A token is one phone: what comes for its last user must not be shown to the next.
    transaction.execute(
        "DELETE FROM device_token WHERE token = ?3 OR (user_id = ?1 AND client_type = ?2)",
        params![user.0, client_type, token],
    )?;
    if let Some(token) = token {
        transaction.execute(
            "INSERT INTO device_token (user_id, client_type, token) VALUES (?1, ?2, ?3)",
            params![user.0, client_type, token],
        )?;
    }
    transaction.commit()?;
    Ok(())
}

/// Gives out a group number that was never given out.
pub(super) fn allocate_group(
    connection: &mut Connection,
    wanted: Option<GroupId>,
) -> Result<GroupId, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let counter: u32 =
        transaction
            .query_row("SELECT value FROM counter WHERE name = 'group'", [], |row| row.get(0))?;
    let given = match wanted {
        Some(wanted) => wanted,
        None => next_group(&transaction, counter)?,
    };
    if given.0 <= counter || group_exists(&transaction, given)? {
        return Err(StoreError::Taken(format!("group number {}", given.0)));
    }
    let keep = if wanted.is_some() {
        "INSERT INTO wanted_group (id) VALUES (?1)"
    } else {
        "UPDATE counter SET value = ?1 WHERE name = 'group'"
    };
    transaction.execute(keep, [given.0])?;
    transaction.commit()?;
    Ok(given)
}

/// Users in the making, in one transaction.
struct Making<'a> {
    transaction: &'a Transaction<'a>,
    stamp: u32,
    highest: u32,
    made: Vec<UserId>,
}

impl Making<'_> {
    fn name_exists(&self, name: &str) -> Result<bool, StoreError> {
        let mut statement = self
            .transaction
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM user WHERE name = ?1)")?;
        Ok(statement.query_row([name], |row| row.get(0))?)
    }

    fn number_exists(&self, id: u32) -> Result<bool, StoreError> {
        let mut statement =
            self.transaction.prepare_cached("SELECT EXISTS (SELECT 1 FROM user WHERE id = ?1)")?;
        Ok(statement.query_row([id], |row| row.get(0))?)
    }

    fn make(&mut self, user: &NewUser) -> Result<(), StoreError> {
        let id = match user.id {
            Some(UserId(0)) => return Err(StoreError::Taken("user number 0".to_owned())),
            Some(UserId(id)) if self.number_exists(id)? => {
                return Err(StoreError::Taken(format!("user number {id}")));
            }
            Some(UserId(id)) => id,
            None => rules::number_after(self.highest, "user")?,
        };
        let stamp = self.stamp.saturating_add(rules::stamps_for(self.made.len()));
        let mut statement = self.transaction.prepare_cached(
            "INSERT INTO user
                (id, name, password_hash, nick, department, domain, stamp,
                 gender, avatar, email, tel, status, sign, push_shield)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, '', '', '', 0, '', 0)",
        )?;
        statement.execute(params![
            id,
            user.name,
            user.password_hash,
            user.nick,
            user.department,
            rules::domain(&user.name),
            stamp,
        ])?;
        self.highest = self.highest.max(id);
        self.made.push(UserId(id));
        Ok(())
    }
}

fn next_stamp(connection: &Connection) -> Result<u32, StoreError> {
    Ok(rules::stamp_after(newest_stamp(connection)?))
}

fn newest_stamp(connection: &Connection) -> Result<u32, StoreError> {
    let mut statement = connection.prepare_cached("SELECT COALESCE(MAX(stamp), 0) FROM user")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

fn group_exists(connection: &Connection, group: GroupId) -> Result<bool, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM wanted_group WHERE id = ?1)
             OR EXISTS (SELECT 1 FROM conversation WHERE id = ?1)",
    )?;
    Ok(statement.query_row([group.0], |row| row.get(0))?)
}

/// The first number after the counter that was not asked for by number.
fn next_group(connection: &Connection, counter: u32) -> Result<GroupId, StoreError> {
    let mut number = counter;
    loop {
        number = rules::number_after(number, "group")?;
        if !group_exists(connection, GroupId(number))? {
            return Ok(GroupId(number));
        }
    }
}
