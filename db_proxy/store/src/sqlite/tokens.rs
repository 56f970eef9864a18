//! Resume tokens and tickets.

use daemon::clock::unix_s;
use proto::ids::UserId;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::history::collect;
use super::row::{limit, number};
use crate::StoreError;
use crate::tokens::{
    EXPIRED_PAGE, FAMILIES_MAX, FamilyId, FamilyRow, KEPT_AFTER_S, NewFamily, Revocation,
    SecretHash, TicketRow, joined, split,
};

const FAMILY: &str = "SELECT id, user_id, client_type, current, next, replaced, used_s, expires_s
                      FROM token_family";

/// Begins a family.
pub(super) fn add_family(
    connection: &mut Connection,
    NewFamily { row, stamp }: &NewFamily,
) -> Result<bool, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_as_checked: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM user WHERE id = ?1 AND stamp = ?2 AND status = 0)",
        params![row.user.0, stamp],
        |row| row.get(0),
    )?;
    if !is_as_checked {
        return Ok(false);
    }
    transaction.execute(
        "DELETE FROM token_family WHERE id IN
         (SELECT id FROM token_family WHERE user_id = ?1
          ORDER BY used_s DESC, id LIMIT -1 OFFSET ?2)",
        params![row.user.0, limit(FAMILIES_MAX - 1)],
    )?;
    transaction.execute(
        "DELETE FROM token_family WHERE id IN
         (SELECT id FROM token_family WHERE expires_s < ?1 ORDER BY expires_s LIMIT ?2)",
        params![row.used_s.saturating_sub(KEPT_AFTER_S).cast_signed(), limit(EXPIRED_PAGE)],
    )?;
    transaction.execute(
        "INSERT INTO token_family
         (id, user_id, client_type, current, next, replaced, used_s, expires_s)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            row.id.0,
            row.user.0,
            row.client_type,
            row.current.0,
            row.next.map(|next| next.0),
            joined(&row.replaced),
            row.used_s.cast_signed(),
            row.expires_s.cast_signed(),
        ],
    )?;
    transaction.commit()?;
    Ok(true)
}

/// One family.
pub(super) fn family(
    connection: &Connection,
    id: FamilyId,
) -> Result<Option<FamilyRow>, StoreError> {
    let mut statement = connection.prepare_cached(&format!("{FAMILY} WHERE id = ?1"))?;
    Ok(statement.query_row([id.0], family_row).optional()?)
}

/// Replaces a family's row, if it is as expected.
pub(super) fn change_family(
    connection: &mut Connection,
    from: &FamilyRow,
    to: &FamilyRow,
) -> Result<bool, StoreError> {
    let changed = connection.execute(
        "UPDATE token_family SET current = ?4, next = ?5, replaced = ?6, used_s = ?7, expires_s = ?8
         WHERE id = ?1 AND current = ?2 AND next IS ?3",
        params![
            from.id.0,
            from.current.0,
            from.next.map(|next| next.0),
            to.current.0,
            to.next.map(|next| next.0),
            joined(&to.replaced),
            to.used_s.cast_signed(),
            to.expires_s.cast_signed(),
        ],
    )?;
    Ok(changed > 0)
}

/// Ends one family of a user, or all.
pub(super) fn revoke(
    connection: &mut Connection,
    user: UserId,
    family: Option<FamilyId>,
    forget_before_s: u64,
) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction
        .execute("DELETE FROM revocation WHERE noted_s < ?1", [forget_before_s.cast_signed()])?;
    end(&transaction, user, family)?;
    transaction.commit()?;
    Ok(())
}

/// The same, as a part of what else happens to a user.
pub(super) fn end(
    transaction: &Transaction<'_>,
    user: UserId,
    family: Option<FamilyId>,
) -> Result<(), StoreError> {
    if let Some(family) = family {
        let one = "DELETE FROM token_family WHERE id = ?1 AND user_id = ?2";
        transaction.execute(one, params![family.0, user.0])?;
    } else {
        transaction.execute("DELETE FROM token_family WHERE user_id = ?1", [user.0])?;
        transaction.execute("DELETE FROM ticket WHERE user_id = ?1", [user.0])?;
    }
    let number = newest_revocation(transaction)?.saturating_add(1);
    transaction.execute("UPDATE counter SET value = ?1 WHERE name = 'token'", [number])?;
    transaction.execute(
        "INSERT INTO revocation (number, user_id, family, noted_s) VALUES (?1, ?2, ?3, ?4)",
        params![number, user.0, family.map(|family| family.0), unix_s()],
    )?;
    Ok(())
}

/// The number of the newest revocation.
pub(super) fn newest_revocation(connection: &Connection) -> Result<u32, StoreError> {
    let statement = "SELECT value FROM counter WHERE name = 'token'";
    Ok(connection.query_row(statement, [], |row| row.get(0))?)
}

/// What ended after the revocation `after`.
pub(super) fn revocations_after(
    connection: &Connection,
    after: u32,
    count: usize,
) -> Result<Vec<Revocation>, StoreError> {
    collect(
        connection,
        "SELECT number, user_id, family FROM revocation WHERE number > ?1
         ORDER BY number LIMIT ?2",
        params![after, limit(count)],
        |row| {
            Ok(Revocation {
                number: row.get(0)?,
                user: UserId(row.get(1)?),
                family: row.get::<_, Option<_>>(2)?.map(FamilyId),
            })
        },
    )
}

/// Keeps a ticket.
pub(super) fn add_ticket(
    connection: &mut Connection,
    ticket: TicketRow,
    family: Option<FamilyId>,
    now_s: u64,
) -> Result<bool, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Some(family) = family {
        let there = "SELECT EXISTS (SELECT 1 FROM token_family WHERE id = ?1 AND user_id = ?2)";
        if !transaction.query_row(there, params![family.0, ticket.user.0], |row| row.get(0))? {
            return Ok(false);
        }
    }
    transaction.execute("DELETE FROM ticket WHERE expires_s < ?1", [now_s.cast_signed()])?;
    transaction.execute(
        "INSERT INTO ticket (hash, user_id, client_type, expires_s) VALUES (?1, ?2, ?3, ?4)",
        params![ticket.hash.0, ticket.user.0, ticket.client_type, ticket.expires_s.cast_signed()],
    )?;
    transaction.commit()?;
    Ok(true)
}

/// Gives a ticket out for good.
pub(super) fn take_ticket(
    connection: &mut Connection,
    hash: SecretHash,
) -> Result<Option<TicketRow>, StoreError> {
    let mut statement = connection.prepare_cached(
        "DELETE FROM ticket WHERE hash = ?1 RETURNING hash, user_id, client_type, expires_s",
    )?;
    let ticket = statement.query_row([hash.0], |row| {
        Ok(TicketRow {
            hash: SecretHash(row.get(0)?),
            user: UserId(row.get(1)?),
            client_type: row.get(2)?,
            expires_s: number(row, 3)?,
        })
    });
    Ok(ticket.optional()?)
}

fn family_row(row: &Row<'_>) -> rusqlite::Result<FamilyRow> {
    Ok(FamilyRow {
        id: FamilyId(row.get(0)?),
        user: UserId(row.get(1)?),
        client_type: row.get(2)?,
        current: SecretHash(row.get(3)?),
        next: row.get::<_, Option<_>>(4)?.map(SecretHash),
        replaced: split(row.get_ref(5)?.as_blob()?),
        used_s: number(row, 6)?,
        expires_s: number(row, 7)?,
    })
}
