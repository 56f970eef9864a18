//! Reading whole tables of a store that no process writes to.

use std::path::Path;

use bytes::Bytes;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::{read_only, schema};
use crate::StoreError;
use crate::table::{Field, Row, Table};

/// A store to be read row by row. Its calls block on the disk.
#[derive(Debug)]
pub struct Tables(Connection);

impl Tables {
    /// Opens the store at `path`, which must be of the current version. Makes no file beside it:
    /// the user who reads may be another one than the user who writes.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = read_only::open(path)?;
        let version = schema::version_of(&connection)?;
        if version != schema::VERSION {
            return Err(StoreError::Refused(format!(
                "{} has version {version} instead of {}: start db_proxy of this version once and stop \
                 it with SIGTERM",
                path.display(),
                schema::VERSION,
            )));
        }
        Ok(Self(connection))
    }

    /// How many rows a table has.
    pub fn count(&self, table: &Table) -> Result<u64, StoreError> {
        let query = format!("SELECT COUNT(*) FROM `{}` WHERE {}", table.name, condition(table));
        Ok(self.0.query_row(&query, [], |row| row.get::<_, i64>(0))?.cast_unsigned())
    }

    /// How many messages there must be, going by what conversations say.
    pub fn messages(&self) -> Result<u64, StoreError> {
        let query = "SELECT COALESCE(SUM(head), 0) FROM conversation";
        Ok(self.0.query_row(query, [], |row| row.get::<_, i64>(0))?.cast_unsigned())
    }

    /// The highest number of a message in a conversation, as the conversation says.
    pub fn head(&self, conversation: u64) -> Result<Option<u64>, StoreError> {
        let mut query = self.0.prepare_cached("SELECT head FROM conversation WHERE id = ?1")?;
        let head = query.query_row([conversation.cast_signed()], |row| row.get::<_, i64>(0));
        Ok(head.optional()?.map(i64::cast_unsigned))
    }

    /// Calls `each` with every row after the one whose primary key is `after`, in order of that key,
    /// until it fails.
    pub fn rows<E: From<StoreError>>(
        &self,
        table: &Table,
        after: Option<&[Field]>,
        each: &mut dyn FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        let keys = table.key_columns().join(", ");
        let after = after.unwrap_or_default();
        let bound = match after {
            [] => String::new(),
            [_one] => format!("AND {keys} > ?"),
            _several => format!("AND ({keys}) > (?, ?)"),
        };
        let (columns, name, condition) = (table.list(), table.name, condition(table));
        let query =
            format!("SELECT {columns} FROM `{name}` WHERE {condition} {bound} ORDER BY {keys}");
        let mut statement = self.0.prepare(&query).map_err(StoreError::from)?;
        let mut rows = statement.query(params_from_iter(after)).map_err(StoreError::from)?;
        while let Some(row) = rows.next().map_err(StoreError::from)? {
            let fields = (0..table.columns.len()).map(|at| row.get_ref(at).map(field));
            let fields: Row = fields.collect::<Result<_, _>>().map_err(StoreError::from)?;
            each(fields)?;
        }
        Ok(())
    }
}

fn condition(table: &Table) -> &str {
    table.only.unwrap_or("TRUE")
}

fn field(value: ValueRef<'_>) -> Field {
    match value {
        // 64-bit numbers are kept bit by bit.
        ValueRef::Integer(number) => Field::Number(number.cast_unsigned()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            Field::Bytes(Bytes::copy_from_slice(bytes))
        }
        // No column of ours holds a real number.
        ValueRef::Null | ValueRef::Real(_) => Field::Null,
    }
}

/// As the value of a primary key.
impl ToSql for Field {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Self::Number(number) => ToSqlOutput::from(number.cast_signed()),
            // The only such key is a name.
            Self::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Text(bytes)),
        })
    }
}
