//! Resume tokens and tickets.
//!
//! A family begins while the user's row is locked against changes, and whatever ends all tokens of a
//! user locks it too: so no family begins behind the end of the login that it follows.

use daemon::clock::unix_s;
use mysql_async::Row;
use proto::ids::UserId;

use super::failure::Failure;
use super::link::Link;
use super::row::{self, Columns, exact, limit, values};
use crate::StoreError;
use crate::tokens::{
    EXPIRED_PAGE, FAMILIES_MAX, FamilyId, FamilyRow, KEPT_AFTER_S, NewFamily, Revocation,
    SecretHash, TicketRow, joined, split,
};

/// More families of one user than can come about before one more begins.
const SURPLUS_MAX: u32 = 1_000;

/// Begins a family.
pub(super) async fn add_family(link: &mut Link, family: NewFamily) -> Result<bool, Failure> {
    let NewFamily { row: family, stamp } = family;
    link.begin().await?;
    let as_checked = "SELECT 1 FROM user WHERE id = ? AND stamp = ? AND status = 0
                      LOCK IN SHARE MODE";
    if link.row(as_checked, values![family.user.0, stamp]).await?.is_none() {
        link.roll_back().await?;
        return Ok(false);
    }
    end_surplus(link, family.user, family.used_s).await?;
    link.execute(
        "INSERT INTO token_family
         (id, user_id, client_type, current, next, replaced, used_s, expires_s)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE used_s = VALUES(used_s)",
        values![
            family.id.0,
            family.user.0,
            family.client_type,
            family.current.0,
            family.next.map(|next| next.0),
            joined(&family.replaced),
            family.used_s,
            family.expires_s,
        ],
    )
    .await?;
    link.commit().await?;
    Ok(true)
}

/// Makes room for one more family, and takes out some that have expired. Each by its key, so that nothing
/// else is locked.
async fn end_surplus(link: &mut Link, user: UserId, now_s: u64) -> Result<(), Failure> {
    let surplus = link
        .rows(
            "SELECT id FROM token_family WHERE user_id = ? ORDER BY used_s DESC, id
             LIMIT ? OFFSET ?",
            values![user.0, SURPLUS_MAX, limit(FAMILIES_MAX - 1)],
        )
        .await?;
    let expired = link
        .rows(
            "SELECT id FROM token_family WHERE expires_s < ? ORDER BY expires_s LIMIT ?",
            values![now_s.saturating_sub(KEPT_AFTER_S), limit(EXPIRED_PAGE)],
        )
        .await?;
    let mut ended: Vec<Vec<u8>> = row::all(surplus, Columns::next)?;
    ended.append(&mut row::all(expired, Columns::next)?);
    for id in ended {
        link.execute("DELETE FROM token_family WHERE id = ?", values![id]).await?;
    }
    Ok(())
}

/// One family.
pub(super) async fn family(link: &mut Link, id: FamilyId) -> Result<Option<FamilyRow>, Failure> {
    let row = link
        .row(
            "SELECT id, user_id, client_type, current, next, replaced, used_s, expires_s
             FROM token_family WHERE id = ?",
            values![id.0],
        )
        .await?;
    row::one(row, family_row)
}

/// Replaces a family's row, if it is as expected.
pub(super) async fn change_family(
    link: &mut Link,
    (from, to): (FamilyRow, FamilyRow),
) -> Result<bool, Failure> {
    let changed = link
        .execute(
            "UPDATE token_family
             SET current = ?, next = ?, replaced = ?, used_s = ?, expires_s = ?
             WHERE id = ? AND current = ? AND next <=> ?",
            values![
                to.current.0,
                to.next.map(|next| next.0),
                joined(&to.replaced),
                to.used_s,
                to.expires_s,
                from.id.0,
                from.current.0,
                from.next.map(|next| next.0),
            ],
        )
        .await?;
    Ok(changed > 0)
}

/// Ends one family of a user, or all.
pub(super) async fn revoke(
    link: &mut Link,
    user: UserId,
    family: Option<FamilyId>,
    forget_before_s: u64,
) -> Result<(), Failure> {
    link.begin().await?;
    // Families of the user do not begin meanwhile.
    link.row("SELECT 1 FROM user WHERE id = ? FOR UPDATE", values![user.0]).await?;
    end(link, user, family).await?;
    link.execute("DELETE FROM revocation WHERE noted_s < ?", values![forget_before_s]).await?;
    link.commit().await
}

/// The same, as a part of what else happens to a user, whose row is locked.
pub(super) async fn end(
    link: &mut Link,
    user: UserId,
    family: Option<FamilyId>,
) -> Result<(), Failure> {
    let newest = "SELECT value FROM counter WHERE name = 'token' FOR UPDATE";
    let newest = counted(link.row(newest, Vec::new()).await?)?;
    match family {
        Some(family) => {
            let one = "DELETE FROM token_family WHERE id = ? AND user_id = ?";
            link.execute(one, values![family.0, user.0]).await?;
        }
        None => {
            // Tickets last: one that is being kept for a family is kept by now.
            for table in ["token_family", "ticket"] {
                let all = format!("DELETE FROM {table} WHERE user_id = ?");
                link.execute(&all, values![user.0]).await?;
            }
        }
    }
    let number = newest.saturating_add(1);
    link.execute("UPDATE counter SET value = ? WHERE name = 'token'", values![number]).await?;
    link.execute(
        "INSERT INTO revocation (number, user_id, family, noted_s) VALUES (?, ?, ?, ?)",
        values![number, user.0, family.map(|family| family.0), unix_s()],
    )
    .await?;
    Ok(())
}

/// The number of the newest revocation.
pub(super) async fn newest_revocation(link: &mut Link) -> Result<u32, Failure> {
    counted(link.row("SELECT value FROM counter WHERE name = 'token'", Vec::new()).await?)
}

/// The value of the counter, which is there from the beginning.
fn counted(row: Option<Row>) -> Result<u32, Failure> {
    let lost = || StoreError::Refused("the store lost its counter token".to_owned());
    Ok(row::one(row, Columns::next)?.ok_or_else(lost)?)
}

/// What ended after the revocation `after`.
pub(super) async fn revocations_after(
    link: &mut Link,
    after: u32,
    count: usize,
) -> Result<Vec<Revocation>, Failure> {
    let rows = link
        .rows(
            "SELECT number, user_id, family FROM revocation WHERE number > ?
             ORDER BY number LIMIT ?",
            values![after, limit(count)],
        )
        .await?;
    row::all(rows, |columns| {
        Ok(Revocation {
            number: columns.next()?,
            user: UserId(columns.next()?),
            family: columns.next::<Option<Vec<u8>>>()?.map(exact).transpose()?.map(FamilyId),
        })
    })
}

/// Keeps a ticket.
pub(super) async fn add_ticket(
    link: &mut Link,
    ticket: TicketRow,
    family: Option<FamilyId>,
    now_s: u64,
) -> Result<bool, Failure> {
    link.begin().await?;
    if let Some(family) = family {
        // It does not end before the ticket is kept, and then the ticket ends with it.
        let there = "SELECT 1 FROM token_family WHERE id = ? AND user_id = ? LOCK IN SHARE MODE";
        if link.row(there, values![family.0, ticket.user.0]).await?.is_none() {
            link.roll_back().await?;
            return Ok(false);
        }
    }
    link.execute("DELETE FROM ticket WHERE expires_s < ?", values![now_s]).await?;
    link.execute(
        "INSERT INTO ticket (hash, user_id, client_type, expires_s) VALUES (?, ?, ?, ?)
         ON DUPLICATE KEY UPDATE hash = VALUES(hash)",
        values![ticket.hash.0, ticket.user.0, ticket.client_type, ticket.expires_s],
    )
    .await?;
    link.commit().await?;
    Ok(true)
}

/// Gives a ticket out and deletes it. If the answer is lost, the ticket is lost too.
pub(super) async fn take_ticket(
    link: &mut Link,
    hash: SecretHash,
) -> Result<Option<TicketRow>, Failure> {
    link.begin().await?;
    let row = link
        .row(
            "SELECT hash, user_id, client_type, expires_s FROM ticket WHERE hash = ? FOR UPDATE",
            values![hash.0],
        )
        .await?;
    let ticket = row::one(row, |columns| {
        Ok(TicketRow {
            hash: SecretHash(exact(columns.next()?)?),
            user: UserId(columns.next()?),
            client_type: columns.next()?,
            expires_s: columns.next()?,
        })
    })?;
    link.execute("DELETE FROM ticket WHERE hash = ?", values![hash.0]).await?;
    link.commit().await?;
    Ok(ticket)
}

fn family_row(columns: &mut Columns) -> Result<FamilyRow, Failure> {
    Ok(FamilyRow {
        id: FamilyId(exact(columns.next()?)?),
        user: UserId(columns.next()?),
        client_type: columns.next()?,
        current: SecretHash(exact(columns.next()?)?),
        next: columns.next::<Option<Vec<u8>>>()?.map(exact).transpose()?.map(SecretHash),
        replaced: split(&columns.next::<Vec<u8>>()?),
        used_s: columns.next()?,
        expires_s: columns.next()?,
    })
}
