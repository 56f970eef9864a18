//! Pages of history, from a replica of a shard as far as it has them.
//!
//! Only messages are ever read there. What one says at its place never changes, and every number from 1
//! to the head is a message: so an answer is complete exactly if every number that was asked for is in
//! it, however far the replica is behind, and whatever holes it has while it catches up. What it lacks
//! the primary has. Everything else changes: a head, a list, a mark, a member of a moment ago looks just
//! like that of now. That is read from the primary alone. So is the place of a message by its sender's
//! id, and a count: there "not there" is an answer, and a replica cannot give it.
//!
//! # Invariants
//!
//! - Nothing is left out of an answer because a replica lacked it.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::FutureExt;
use proto::ids::{ConversationId, MsgId};

use super::history;
use super::site::Database;
use crate::{MessageRow, StoreError};

/// A range of messages, newest first: from the shard's replica, and what that lacks from the shard.
pub(super) async fn messages(
    shard: &Database,
    id: ConversationId,
    (from, to): (MsgId, MsgId),
    count: usize,
) -> Result<Vec<MessageRow>, StoreError> {
    let primary = async |range, count| {
        shard.reads.run(move |link| history::messages(link, id, range, count).boxed()).await
    };
    let Some(replica) = &shard.replica else { return primary((from, to), count).await };
    let Some(page) = Page::of(from, to, count) else { return primary((from, to), count).await };
    let range = (page.first, page.last);
    let asking = replica.ask(move |link| history::messages(link, id, range, count).boxed());
    let Some(mut rows) = asking.await else { return primary((from, to), count).await };
    let found = rows.len();
    match page.missing(&rows) {
        None => {}
        Some(_) if rows.is_empty() => rows = primary((from, to), count).await?,
        Some((low, high)) => {
            // One read of everything between the lowest and the highest that are missing.
            let between = primary((low, high), count).await?;
            fill(&mut rows, (low, high), between);
            if page.missing(&rows).is_some() {
                // The range goes beyond the head, and so the page is not where it would have been.
                return primary((from, to), count).await;
            }
        }
    }
    replica.count(found, rows.len());
    Ok(rows)
}

/// Messages by their places: from the shard's replica, and what that lacks from the shard.
pub(super) async fn messages_at(
    shard: &Database,
    places: Arc<[(ConversationId, MsgId)]>,
) -> Result<Vec<MessageRow>, StoreError> {
    let primary = async |places: Arc<[_]>| {
        shard.reads.run(move |link| history::messages_at(link, Arc::clone(&places)).boxed()).await
    };
    let Some(replica) = &shard.replica else { return primary(places).await };
    let asked = Arc::clone(&places);
    let asking =
        replica.ask(move |link| history::messages_at(link, Arc::clone(&asked)).boxed()).await;
    let Some(mut rows) = asking else { return primary(places).await };
    let found = rows.len();
    let there: HashSet<_> = rows.iter().map(|row| (row.conversation, row.msg_id)).collect();
    let missing: Arc<[_]> = places.iter().filter(|place| !there.contains(place)).copied().collect();
    if !missing.is_empty() {
        rows.append(&mut primary(missing).await?);
    }
    replica.count(found, rows.len());
    Ok(rows)
}

/// The numbers of a page, if all of them are messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    first: MsgId,
    last: MsgId,
}

impl Page {
    /// The newest `count` of `from..=to`; `None` if that is nothing.
    fn of(from: MsgId, to: MsgId, count: usize) -> Option<Self> {
        let others = u32::try_from(count.checked_sub(1)?).unwrap_or(u32::MAX);
        let first = MsgId(to.0.saturating_sub(others)).max(from).max(MsgId(1));
        (first <= to).then_some(Self { first, last: to })
    }

    /// The lowest and the highest number that are not among `rows`, which are of this page, newest
    /// first.
    fn missing(self, rows: &[MessageRow]) -> Option<(MsgId, MsgId)> {
        let all = self.first.0..=self.last.0;
        let numbers = rows.iter().map(|row| row.msg_id.0);
        let same = |(number, row): &(u32, u32)| number == row;
        let high = all.clone().rev().zip(numbers.clone()).take_while(same).count();
        let low = all.clone().zip(numbers.rev()).take_while(same).count();
        let lowest = all.clone().nth(low)?;
        let highest = all.rev().nth(high)?;
        Some((MsgId(lowest), MsgId(highest)))
    }
}

/// Puts what is `between` two numbers, newest first, in the place of whatever a page had there.
fn fill(rows: &mut Vec<MessageRow>, (low, high): (MsgId, MsgId), between: Vec<MessageRow>) {
    let above = rows.partition_point(|row| row.msg_id > high);
    let below = rows.partition_point(|row| row.msg_id >= low);
    rows.splice(above..below, between);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proto::ids::{ClientMsgId, Offset, UserId};

    use super::*;

    #[test]
    fn a_page_is_the_newest_of_its_range() {
        let page = |from, to, count| {
            Page::of(MsgId(from), MsgId(to), count).map(|page| (page.first.0, page.last.0))
        };
        assert_eq!(page(1, 100, 10), Some((91, 100)));
        assert_eq!(page(95, 100, 10), Some((95, 100)));
        assert_eq!(page(0, 3, usize::MAX), Some((1, 3)));
        assert_eq!(page(0, u32::MAX, usize::MAX), Some((1, u32::MAX)));
        assert_eq!(page(7, 7, 1), Some((7, 7)));
        for (from, to, count) in [(1, 100, 0), (8, 7, 10), (0, 0, 1)] {
            assert_eq!(page(from, to, count), None);
        }
    }

    #[test]
    fn what_is_missing_is_found_and_filled_in() {
        let page = Page { first: MsgId(3), last: MsgId(9) };
        for (there, missing) in [
            (vec![9, 8, 7, 6, 5, 4, 3], None),
            (vec![8, 7, 6, 5, 4, 3], Some((9, 9))),
            (vec![5, 4, 3], Some((6, 9))),
            (vec![9, 8, 7, 6, 5, 4], Some((3, 3))),
            (vec![9, 8, 6, 4, 3], Some((5, 7))),
            (vec![6], Some((3, 9))),
            (vec![], Some((3, 9))),
        ] {
            let mut rows: Vec<_> = there.iter().copied().map(row).collect();
            let found = page.missing(&rows);
            assert_eq!(found.map(|(low, high)| (low.0, high.0)), missing, "{there:?}");
            if let Some((low, high)) = found {
                fill(&mut rows, (low, high), (low.0..=high.0).rev().map(row).collect());
            }
            assert_eq!(rows, (3..=9).rev().map(row).collect::<Vec<_>>(), "{there:?}");
        }
    }

    fn row(number: u32) -> MessageRow {
        MessageRow {
            conversation: ConversationId::single(UserId(1), UserId(2)).unwrap(),
            msg_id: MsgId(number),
            sender: UserId(1),
            client_msg_id: ClientMsgId([0; 16]),
            offset: Offset(1),
            timestamp_ms: 1,
            kind: 1,
            body: Bytes::new(),
        }
    }
}
