//! Statements with many rows, of few sizes.
//!
//! The server prepares each text once per connection, so the texts must be few: rows go out in
//! statements of fixed numbers of rows, the largest first. Where a row may be written twice, the
//! last one fills up a statement that is nearly full.

use mysql_async::Value;

use super::failure::Failure;
use super::link::Link;

/// Rows per statement, largest first. 14 columns and 1,024 rows are far below the 65,535
/// placeholders of a statement.
const SIZES: [usize; 11] = [1_024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1];

/// A statement is filled up if no more than one in so many of its rows is there twice.
const FILLED_UP: usize = 8;

/// The values of one statement. Half of the smallest `max_allowed_packet` that is accepted at start,
/// which leaves room for one row of the greatest body.
const BYTES_MAX: usize = 8 << 20;

/// Lists of values in a query: padded up to one of these lengths.
const LENGTHS: [usize; 3] = [1, 16, 128];

/// What is inserted into one table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Insert {
    /// `INSERT INTO table (columns) VALUES `
    pub(super) head: &'static str,
    /// The placeholders of one row, in parentheses.
    pub(super) row: &'static str,
    /// What to do with rows that are there already; empty: nothing, it is an error.
    pub(super) tail: &'static str,
}

impl Insert {
    /// Inserts any number of rows of about `weight` bytes each.
    pub(super) async fn put_all<T>(
        &self,
        link: &mut Link,
        rows: &[T],
        weight: impl Fn(&T) -> usize,
        values: impl Fn(&T, &mut Vec<Value>),
    ) -> Result<(), Failure> {
        for (piece, size) in self.pieces(rows, weight) {
            self.put(link, piece, size, &values).await?;
        }
        Ok(())
    }

    /// Inserts rows with a statement of `size` rows, as [`Self::pieces`] says.
    pub(super) async fn put<T>(
        &self,
        link: &mut Link,
        rows: &[T],
        size: usize,
        values: impl Fn(&T, &mut Vec<Value>),
    ) -> Result<(), Failure> {
        let columns = self.row.matches('?').count();
        let mut all = Vec::with_capacity(columns * size);
        let last = rows.last().into_iter();
        for row in rows.iter().chain(last.cycle()).take(size) {
            values(row, &mut all);
        }
        link.execute(&repeated(self.head, self.row, self.tail, size), all).await?;
        Ok(())
    }

    /// Rows in pieces, none of more than the bytes of a statement unless it is one row; each with
    /// the size of its statement.
    pub(super) fn pieces<'a, T>(
        &self,
        rows: &'a [T],
        weight: impl Fn(&T) -> usize,
    ) -> impl Iterator<Item = (&'a [T], usize)> {
        pieces(rows, weight, !self.tail.is_empty())
    }
}

/// As [`Insert::pieces`]; `may_repeat` if a row may be written twice.
pub(super) fn pieces<T>(
    mut rows: &[T],
    weight: impl Fn(&T) -> usize,
    may_repeat: bool,
) -> impl Iterator<Item = (&[T], usize)> {
    std::iter::from_fn(move || {
        let mut bytes = 0_usize;
        let fits = |row: &&T| {
            bytes = bytes.saturating_add(weight(row));
            bytes <= BYTES_MAX
        };
        let fit = rows.iter().take(SIZES[0]).take_while(fits).count();
        let size = SIZES.into_iter().find(|size| *size <= fit).unwrap_or(1);
        let above = SIZES.into_iter().rev().find(|size| *size >= fit).unwrap_or(size);
        if may_repeat && fit == rows.len() && above - fit <= above / FILLED_UP && fit > 0 {
            let piece = std::mem::take(&mut rows);
            return Some((piece, above));
        }
        let (piece, rest) = rows.split_at_checked(size)?;
        rows = rest;
        Some((piece, size))
    })
}

/// `head`, then `count` times `item` with commas between, then `tail`.
pub(super) fn repeated(head: &str, item: &str, tail: &str, count: usize) -> String {
    joined((head, item, tail), ",", count)
}

/// The same with something else between.
pub(super) fn joined(
    (head, item, tail): (&str, &str, &str),
    between: &str,
    count: usize,
) -> String {
    let each = item.len() + between.len();
    let mut text = String::with_capacity(head.len() + tail.len() + each * count);
    text.push_str(head);
    for number in 0..count {
        if number > 0 {
            text.push_str(between);
        }
        text.push_str(item);
    }
    text.push_str(tail);
    text
}

/// Keys to look up, in lists of few lengths. The last key is repeated to fill a list: a key
/// that is looked up twice finds one row.
pub(super) fn lists<T: Copy>(keys: &[T]) -> impl Iterator<Item = Vec<T>> {
    let longest = LENGTHS[LENGTHS.len() - 1];
    keys.chunks(longest).filter_map(move |chunk| {
        let length = LENGTHS.into_iter().find(|length| *length >= chunk.len())?;
        let mut list = chunk.to_vec();
        list.resize(length, *chunk.last()?);
        Some(list)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONCE: Insert = Insert { head: "", row: "(?)", tail: "" };
    const OFTEN: Insert = Insert { tail: " ON DUPLICATE KEY UPDATE", ..ONCE };

    #[test]
    fn pieces_have_few_sizes_and_leave_nothing_out() {
        for count in [0, 1, 3, 4, 700, 1_000, 1_023, 1_024, 1_025, 5_000] {
            let rows: Vec<usize> = (0..count).collect();
            for insert in [ONCE, OFTEN] {
                let pieces: Vec<_> = insert.pieces(&rows, |_| 100).collect();
                assert!(pieces.iter().all(|(_, size)| SIZES.contains(size)), "{count}");
                let all: Vec<usize> = pieces.iter().flat_map(|(piece, _)| piece.to_vec()).collect();
                assert_eq!(all, rows);
            }
            assert!(ONCE.pieces(&rows, |_| 100).all(|(piece, size)| piece.len() == size));
        }
        assert_eq!(OFTEN.pieces(&[1; 1_000], |_| 100).count(), 1);
        assert_eq!(ONCE.pieces(&[1; 1_000], |_| 100).count(), 6);
    }

    #[test]
    fn a_piece_is_kept_below_the_bytes_of_a_statement() {
        let rows = [1 << 20; 100];
        for insert in [ONCE, OFTEN] {
            let sizes: Vec<_> =
                insert.pieces(&rows, |bytes| *bytes).map(|(_, size)| size).collect();
            assert!(sizes.iter().all(|size| *size <= 8), "{sizes:?}");
            assert_eq!(sizes.iter().sum::<usize>(), 100);
            let large = [BYTES_MAX * 2, 1, 1];
            let first = insert.pieces(&large, |bytes| *bytes).next().unwrap();
            assert_eq!((first.0.len(), first.1), (1, 1));
        }
    }

    #[test]
    fn lists_are_filled_up() {
        let keys: Vec<u32> = (0..130).collect();
        let lists: Vec<_> = lists(&keys).collect();
        assert_eq!(lists.iter().map(Vec::len).collect::<Vec<_>>(), [128, 16]);
        assert_eq!(lists[1][..3], [128, 129, 129]);
    }
}
