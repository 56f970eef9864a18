//! Rows of any table, written and read back.

use std::fmt::Write;

use bytes::Bytes;
use mysql_async::Value;
use proto::cluster::partition_of;

use super::super::bulk;
use super::super::failure::Failure;
use super::super::link::Link;
use super::super::row::{Columns, values};
use crate::StoreError;
use crate::table::{self, Field, MESSAGE, Place, Row, Sum, Table};

/// Rows that are read back with one statement.
const PAGE: u64 = 20_000;

/// What a row weighs besides its texts.
const ROW_BYTES: usize = 64;

const FITS: &str = "a string takes everything";

/// Some rows that were read back.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) sum: Sum,
    /// The primary key of the last one, if there may be more.
    pub(super) last: Option<Row>,
}

/// What a table has in the databases besides what is moved: places in the log, and the partition.
fn more(table: &Table) -> &'static [&'static str] {
    match table.name {
        MESSAGE => &["log_offset"],
        "conversation" => &["last_offset", "part"],
        _ => &[],
    }
}

fn more_values(table: &Table, row: &[Field], partitions: u32) -> Vec<Value> {
    match (more(table).len(), row) {
        (1, _) => values![0_u64],
        (2, [Field::Number(id), ..]) => values![0_u64, partition_of(*id, partitions)],
        _ => Vec::new(),
    }
}

/// Writes rows; those that are there already are as they were.
pub(super) async fn put(
    link: &mut Link,
    table: &'static Table,
    rows: &[Row],
    partitions: u32,
) -> Result<(), Failure> {
    let columns = table.columns.iter().chain(more(table)).map(|column| format!("`{column}`"));
    let columns: Vec<String> = columns.collect();
    let head = format!("INSERT INTO `{}` ({}) VALUES ", table.name, columns.join(", "));
    let row = format!("({})", vec!["?"; columns.len()].join(","));
    let set: Vec<String> =
        columns.iter().map(|column| format!("{column} = VALUES({column})")).collect();
    let tail = format!(" ON DUPLICATE KEY UPDATE {}", set.join(", "));
    for (piece, size) in bulk::pieces(rows, |row| weight(row), true) {
        let mut all = Vec::with_capacity(columns.len() * size);
        let last = piece.last().into_iter();
        for fields in piece.iter().chain(last.cycle()).take(size) {
            all.extend(fields.iter().map(value));
            all.append(&mut more_values(table, fields, partitions));
        }
        link.execute(&bulk::repeated(&head, &row, &tail, size), all).await?;
    }
    Ok(())
}

/// Roughly how many bytes a row holds.
pub(super) fn weight(row: &[Field]) -> usize {
    let texts = row.iter().map(|field| match field {
        Field::Bytes(bytes) => bytes.len(),
        Field::Null | Field::Number(_) => 0,
    });
    texts.sum::<usize>() + ROW_BYTES
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::NULL,
        Field::Number(number) => Value::from(*number),
        Field::Bytes(bytes) => Value::from(bytes.as_ref()),
    }
}

/// Reads rows of a table after the one whose primary key is `after`.
pub(super) async fn page(
    link: &mut Link,
    table: &'static Table,
    after: Option<&[Field]>,
    place: (usize, usize, u32),
) -> Result<Page, Failure> {
    let (mut bound, mut all) = (table.only.unwrap_or("TRUE").to_owned(), Vec::new());
    match (table.key_columns(), after) {
        ([first], Some([one])) => {
            write!(bound, " AND `{first}` > ?").expect(FITS);
            all.push(value(one));
        }
        ([first, second], Some([one, two])) => {
            let more = format!("`{first}` > ? OR (`{first}` = ? AND `{second}` > ?)");
            write!(bound, " AND ({more})").expect(FITS);
            all.extend([value(one), value(one), value(two)]);
        }
        _ => {}
    }
    all.push(Value::from(PAGE));
    let more: Vec<String> = more(table).iter().map(|column| format!(", `{column}`")).collect();
    let query = format!(
        "SELECT {}{} FROM `{}` FORCE INDEX (PRIMARY) WHERE {bound} ORDER BY {} LIMIT ?",
        table.list(),
        more.concat(),
        table.name,
        table.key_columns().join(", "),
    );
    let (mut page, mut encoded) = (Page::default(), Vec::new());
    link.each_row(&query, all, |row| {
        let mut columns = Columns::of(row);
        let fields = (0..table.columns.len()).map(|_| columns.next().and_then(field));
        let fields: Row = fields.collect::<Result<_, _>>()?;
        check_place(table, &fields, &mut columns, place)?;
        encoded.clear();
        table::encode(&fields, &mut encoded);
        page.sum.add(&encoded);
        let mut fields = fields;
        fields.truncate(table.keys);
        page.last = Some(fields);
        Ok(())
    })
    .await?;
    if page.sum.rows < PAGE {
        page.last = None;
    }
    Ok(page)
}

/// Whether a row is in the right database and partition, and before the log.
fn check_place(
    table: &Table,
    row: &[Field],
    columns: &mut Columns,
    (database, shards, partitions): (usize, usize, u32),
) -> Result<(), Failure> {
    let expected = more_values(table, row, partitions);
    for (expected, column) in expected.into_iter().zip(more(table)) {
        let expected = match field(expected)? {
            Field::Number(number) => number,
            Field::Null | Field::Bytes(_) => 0,
        };
        if columns.next::<u64>()? != expected {
            let text = format!("{} has a row with another {column} than it was given", table.name);
            return Err(StoreError::Refused(text).into());
        }
    }
    if let (Place::Conversations, [Field::Number(conversation), ..]) = (table.place, row)
        && partition_of(*conversation, partitions) as usize % shards != database
    {
        let text = format!("{} has a row that belongs to another database", table.name);
        return Err(StoreError::Refused(text).into());
    }
    Ok(())
}

fn field(value: Value) -> Result<Field, Failure> {
    match value {
        Value::NULL => Ok(Field::Null),
        Value::UInt(number) => Ok(Field::Number(number)),
        Value::Int(number) if number >= 0 => Ok(Field::Number(number.cast_unsigned())),
        Value::Bytes(bytes) => Ok(Field::Bytes(Bytes::from(bytes))),
        _ => Err(StoreError::Refused("the store is damaged: a value".to_owned()).into()),
    }
}
