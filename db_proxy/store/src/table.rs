//! What is moved: which tables and columns, and how a row is written down.
//!
//! A row is written field by field: 0 for nothing; 1 and a number; 2, a length and that many bytes.
//! Numbers are in groups of seven bits, the lowest first, each but the last with its highest bit set.
//! There is one way to write a row, so that equal rows have equal checksums wherever they are read.

use bytes::{Buf, Bytes};
use ring::digest;

/// The table of messages.
pub const MESSAGE: &str = "message";

/// One table. Its columns are called the same in every store.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What is moved of it; the primary key first.
    pub columns: &'static [&'static str],
    /// How many columns the primary key has.
    pub keys: usize,
    /// Where it belongs.
    pub place: Place,
    /// Which rows are moved, if not all: a condition of SQL.
    pub only: Option<&'static str>,
}

/// Where a table's rows are in a site of several databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// With the conversation whose number is in the first column.
    Conversations,
    /// With the logins.
    Logins,
    /// Only in the files: kept for inspection.
    Files,
}

/// All tables, in the order in which they are moved.
pub static TABLES: [Table; 14] = [
    Table {
        name: "counter",
        columns: &["name", "value"],
        keys: 1,
        place: Place::Logins,
        only: Some("name = 'group'"),
    },
    Table { name: "wanted_group", columns: &["id"], keys: 1, place: Place::Logins, only: None },
    Table {
        name: "department",
        columns: &["id", "priority", "name", "parent", "status", "stamp"],
        keys: 1,
        place: Place::Logins,
        only: None,
    },
    Table {
        name: "user",
        columns: &[
            "id",
            "name",
            "password_hash",
            "nick",
            "gender",
            "avatar",
            "department",
            "email",
            "tel",
            "domain",
            "status",
            "sign",
            "stamp",
            "push_shield",
        ],
        keys: 1,
        place: Place::Logins,
        only: None,
    },
    Table {
        name: "device_token",
        columns: &["user_id", "client_type", "token"],
        keys: 2,
        place: Place::Logins,
        only: None,
    },
    Table {
        name: "api_key",
        columns: &["name", "id", "hash", "scopes", "rate", "made_s", "expires_s", "used_s"],
        keys: 1,
        place: Place::Logins,
        only: None,
    },
    Table {
        name: "webhook",
        columns: &[
            "number",
            "name",
            "url",
            "events",
            "state",
            "secret",
            "old_secret",
            "old_until_s",
            "made_ms",
            "from_ms",
            "begun_ms",
            "run",
            "version",
            "failures",
        ],
        keys: 1,
        place: Place::Logins,
        only: None,
    },
    Table {
        name: "webhook_failure",
        columns: &[
            "webhook",
            "number",
            "event_id",
            "event_type",
            "happened_ms",
            "given_up_ms",
            "status",
            "tries",
        ],
        keys: 2,
        place: Place::Logins,
        only: None,
    },
    Table {
        name: "conversation",
        columns: &[
            "id",
            "higher_user",
            "head",
            "last_message_ms",
            "group_name",
            "group_avatar",
            "group_creator",
            "group_kind",
            "group_version",
            "group_deleted",
        ],
        keys: 1,
        place: Place::Conversations,
        only: None,
    },
    Table {
        name: "member",
        columns: &["group_id", "user_id", "join_msg_id", "leave_msg_id"],
        keys: 2,
        place: Place::Conversations,
        only: None,
    },
    Table {
        name: "mark",
        columns: &[
            "conversation",
            "user_id",
            "read_msg_id",
            "own_up_to_read",
            "own_total",
            "removed_at",
            "shield",
        ],
        keys: 2,
        place: Place::Conversations,
        only: None,
    },
    Table {
        name: MESSAGE,
        columns: &[
            "conversation",
            "msg_id",
            "sender",
            "client_msg_id",
            "timestamp_ms",
            "kind",
            "body",
        ],
        keys: 2,
        place: Place::Conversations,
        only: None,
    },
    Table {
        name: "changed_message",
        columns: &["conversation", "msg_id", "sent_crc"],
        keys: 2,
        place: Place::Conversations,
        only: None,
    },
    Table {
        name: "unreadable",
        columns: &["log_offset", "payload"],
        keys: 1,
        place: Place::Files,
        only: None,
    },
];

impl Table {
    /// The table of this name.
    pub fn called(name: &str) -> Option<&'static Self> {
        TABLES.iter().find(|table| table.name == name)
    }

    /// The columns of the primary key.
    pub(crate) fn key_columns(&self) -> &'static [&'static str] {
        self.columns.split_at(self.keys).0
    }

    /// The columns as SQL lists them.
    pub fn list(&self) -> String {
        let quoted: Vec<String> = self.columns.iter().map(|column| format!("`{column}`")).collect();
        quoted.join(", ")
    }
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// Nothing.
    Null,
    /// A number without a sign.
    Number(u64),
    /// A text, or bytes.
    Bytes(Bytes),
}

/// The values of a table's columns.
pub type Row = Vec<Field>;

const NULL: u8 = 0;
const NUMBER: u8 = 1;
const BYTES: u8 = 2;

/// Writes fields down.
pub fn encode(fields: &[Field], to: &mut Vec<u8>) {
    for field in fields {
        match field {
            Field::Null => to.push(NULL),
            Field::Number(number) => {
                to.push(NUMBER);
                put_number(*number, to);
            }
            Field::Bytes(bytes) => {
                to.push(BYTES);
                put_number(bytes.len() as u64, to);
                to.extend_from_slice(bytes);
            }
        }
    }
}

/// Reads as many fields. `None` if that is not what was written.
pub fn decode(from: &mut Bytes, count: usize) -> Option<Row> {
    (0..count).map(|_| field(from)).collect()
}

fn field(from: &mut Bytes) -> Option<Field> {
    match from.try_get_u8().ok()? {
        NULL => Some(Field::Null),
        NUMBER => Some(Field::Number(number(from)?)),
        BYTES => {
            let length = usize::try_from(number(from)?).ok()?;
            (length <= from.len()).then(|| Field::Bytes(from.split_to(length)))
        }
        _ => None,
    }
}

fn put_number(mut number: u64, to: &mut Vec<u8>) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return to.push(low);
        }
        to.push(low | 0x80);
    }
}

fn number(from: &mut Bytes) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = from.try_get_u8().ok()?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// How many rows there are, and a sum over all of them that does not depend on their order: that of
/// the first 16 bytes of each row's SHA-256, as numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub rows: u64,
    /// What they add up to.
    pub sum: u128,
}

impl Sum {
    /// Counts a row that was written down as `encoded`.
    pub fn add(&mut self, encoded: &[u8]) {
        let hash = digest::digest(&digest::SHA256, encoded);
        let first = hash.as_ref().first_chunk().expect("a SHA-256 has 32 bytes");
        self.rows += 1;
        self.sum = self.sum.wrapping_add(u128::from_be_bytes(*first));
    }

    /// Counts what was counted elsewhere.
    pub fn join(&mut self, other: Self) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_row_comes_back_as_it_was_written() {
        let numbers = [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX];
        let mut row: Row = numbers.into_iter().map(Field::Number).collect();
        row.extend([Field::Null, Field::Bytes(Bytes::new()), Field::Bytes(vec![0xff; 200].into())]);
        let mut written = Vec::new();
        encode(&row, &mut written);
        let mut read = Bytes::from(written.clone());
        assert_eq!(decode(&mut read, row.len()).unwrap(), row);
        assert!(read.is_empty());
        for length in 0..written.len() {
            let mut cut = Bytes::copy_from_slice(&written[..length]);
            assert_eq!(decode(&mut cut, row.len()), None, "{length}");
        }
    }

    #[test]
    fn bytes_that_were_never_written_are_no_row() {
        for wrong in [&[9_u8][..], &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
            assert_eq!(decode(&mut Bytes::copy_from_slice(wrong), 1), None);
        }
        // A length beyond everything there is.
        let mut long = vec![2];
        put_number(u64::MAX, &mut long);
        assert_eq!(decode(&mut long.into(), 1), None);
    }

    #[test]
    fn a_sum_tells_rows_but_not_their_order() {
        let sum = |rows: &[&[u8]]| {
            let mut sum = Sum::default();
            for row in rows {
                sum.add(row);
            }
            sum
        };
        assert_eq!(sum(&[b"one", b"two"]), sum(&[b"two", b"one"]));
        assert_ne!(sum(&[b"one", b"two"]), sum(&[b"one", b"one"]));
        let (mut joined, rest) = (sum(&[b"one"]), sum(&[b"two"]));
        joined.join(rest);
        assert_eq!(joined, sum(&[b"one", b"two"]));
    }

    /// Exports and their sums are read by other versions, too.
    #[test]
    fn a_row_is_written_as_it_always_was() {
        let written = |fields: &[Field]| {
            let mut written = Vec::new();
            encode(fields, &mut written);
            written
        };
        assert_eq!(written(&[Field::Null, Field::Null]), [0, 0]);
        assert_eq!(written(&[Field::Number(0), Field::Number(127)]), [1, 0, 1, 127]);
        assert_eq!(written(&[Field::Number(128), Field::Number(300)]), [1, 128, 1, 1, 172, 2]);
        let greatest = [1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(written(&[Field::Number(u64::MAX)]), greatest);
        let texts = ["", "ab"].map(|text| Field::Bytes(text.into()));
        assert_eq!(written(&texts), [2, 0, 2, 2, b'a', b'b']);
        assert_eq!(written(&[Field::Bytes(vec![7; 200].into())])[..3], [2, 200, 1]);
    }

    /// The first 16 bytes of the SHA-256 of "abc" and of nothing.
    #[test]
    fn a_sum_is_what_it_always_was_and_goes_round() {
        const ABC: u128 = 0xba78_16bf_8f01_cfea_4141_40de_5dae_2223;
        const NOTHING: u128 = 0xe3b0_c442_98fc_1c14_9afb_f4c8_996f_b924;
        let mut sum = Sum::default();
        sum.add(b"abc");
        assert_eq!(sum, Sum { rows: 1, sum: ABC });
        sum.add(b"");
        assert_eq!(sum, Sum { rows: 2, sum: ABC.wrapping_add(NOTHING) });
        assert!(sum.sum < ABC, "it went round");
        sum.join(Sum { rows: 3, sum: u128::MAX });
        assert_eq!(sum, Sum { rows: 5, sum: ABC.wrapping_add(NOTHING) - 1 });
    }

    #[test]
    fn a_table_is_found_by_its_name_and_its_key_comes_first() {
        for table in &TABLES {
            let found = Table::called(table.name).unwrap();
            assert!(std::ptr::eq(found, table), "{}", table.name);
            assert_eq!(table.key_columns(), &table.columns[..table.keys], "{}", table.name);
            assert!((1..=2).contains(&table.keys), "{}", table.name);
        }
        assert!(Table::called("progress").is_none() && Table::called("").is_none());
        let member = Table::called("member").unwrap();
        assert_eq!(member.key_columns(), ["group_id", "user_id"]);
        assert_eq!(member.list(), "`group_id`, `user_id`, `join_msg_id`, `leave_msg_id`");
    }

    #[test]
    fn what_belongs_to_a_conversation_begins_with_its_number_and_the_rest_to_logins() {
        let of = |place| {
            let of_place = TABLES.iter().filter(move |table| table.place == place);
            of_place.map(|table| (table.name, table.columns[0])).collect::<Vec<_>>()
        };
        let conversations = [
            ("conversation", "id"),
            ("member", "group_id"),
            ("mark", "conversation"),
            (MESSAGE, "conversation"),
            ("changed_message", "conversation"),
        ];
        assert_eq!(of(Place::Conversations), conversations);
        assert_eq!(of(Place::Files), [("unreadable", "log_offset")]);
        let logins: Vec<_> = of(Place::Logins).into_iter().map(|(name, _column)| name).collect();
        // A counter is there before the users and groups that it counts.
        assert_eq!(
            logins,
            [
                "counter",
                "wanted_group",
                "department",
                "user",
                "device_token",
                "api_key",
                "webhook",
                "webhook_failure"
            ]
        );
    }

    fn any_field() -> impl Strategy<Value = Field> {
        prop_oneof![
            Just(Field::Null),
            any::<u64>().prop_map(Field::Number),
            (0_u32..64, any::<u64>()).prop_map(|(by, number)| Field::Number(number >> by)),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Field::Bytes(bytes.into())),
        ]
    }

    proptest! {
        #[test]
        fn rows_that_follow_each_other_are_told_apart(
            rows in prop::collection::vec(prop::collection::vec(any_field(), 3), 0..8),
        ) {
            let mut written = Vec::new();
            for row in &rows {
                encode(row, &mut written);
            }
            let mut read = Bytes::from(written);
            for row in rows {
                prop_assert_eq!(decode(&mut read, 3), Some(row));
            }
            prop_assert!(read.is_empty());
        }

        #[test]
        fn whatever_is_read_was_there_to_be_read(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            count in 0_usize..6,
        ) {
            let mut left = Bytes::from(bytes.clone());
            if let Some(row) = decode(&mut left, count) {
                prop_assert_eq!(row.len(), count);
                let mut again = Vec::new();
                encode(&row, &mut again);
                // It may have been written with more bytes than it needs, never with fewer.
                prop_assert!(again.len() + left.len() <= bytes.len());
            }
        }
    }
}
