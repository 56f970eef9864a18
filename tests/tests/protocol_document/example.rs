//! An example of the document: the bytes of one frame, and beside them what each of them means.
//!
//! What stands beside the bytes is made here from the bytes and the schemas. So an example is right if
//! it is what is made of its own bytes.

use std::iter;

use bytes::BytesMut;
use data_encoding::HEXLOWER;
use proto::frame::decode;
use proto::limits::{HEADER_LEN, LIMIT_AFTER_LOGIN};
use proto::{Command, Direction, Frame};

use crate::document::Block;
use crate::schema::{Kind, Schema};

/// Bytes in one line.
const LINE_LEN: usize = 16;
/// What these bytes take in a line, with two spaces behind them.
const HEX_WIDTH: usize = LINE_LEN * 3 + 1;

/// One frame of the document.
#[derive(Debug)]
pub(crate) struct Example {
    /// The number of its line in the document.
    pub(crate) line: usize,
    /// Whether a client sends it.
    pub(crate) is_clients: bool,
    /// The connection that it goes over, if it belongs to the dialogue.
    pub(crate) connection: Option<String>,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// The lines as they stand in the document.
    pub(crate) shown: Vec<String>,
}

impl Example {
    /// Reads a block. Behind the fence stand `frame`, the sender, and perhaps a connection.
    pub(crate) fn read(block: &Block) -> Self {
        let line = block.line;
        let is_clients = match block.info.get(1).map(String::as_str) {
            Some("client") => true,
            Some("server") => false,
            other => panic!("line {line}: a client or a server sends a frame, not {other:?}"),
        };
        let hex: String = block.lines.iter().map(|line| hex_of(line)).collect();
        let bytes = HEXLOWER.decode(hex.as_bytes());
        let bytes = bytes.unwrap_or_else(|error| panic!("line {line}: {error}"));
        let connection = block.info.get(2).cloned();
        Self { line, is_clients, connection, bytes, shown: block.lines.clone() }
    }

    /// The frame, which must be one that its sender may send, in the form that we write.
    pub(crate) fn frame(&self) -> (Frame, Command) {
        let line = self.line;
        let mut rest = BytesMut::from(&*self.bytes);
        let frame = decode(&mut rest, LIMIT_AFTER_LOGIN);
        let frame = frame.unwrap_or_else(|error| panic!("line {line}: {error}"));
        let frame = frame.unwrap_or_else(|| panic!("line {line}: bytes are missing"));
        assert!(rest.is_empty(), "line {line}: there is more than one frame");
        assert_eq!(frame.encode(), self.bytes, "line {line}: the header as we write it");
        let command = frame.known_command();
        let command = command.unwrap_or_else(|| panic!("line {line}: there is no such command"));
        let wrong =
            if self.is_clients { Direction::ServerToClient } else { Direction::ClientToServer };
        assert_ne!(command.direction(), wrong, "line {line}: {command:?} goes the other way");
        let body = command.reencode(frame.body.clone());
        let body = body.unwrap_or_else(|error| panic!("line {line}: {error}"));
        assert_eq!(body, frame.body, "line {line}: the body as we write it");
        (frame, command)
    }
}

/// The digits of a line, without what stands beside them.
fn hex_of(line: &str) -> String {
    let digits = line.split("  ").next().unwrap_or_default();
    digits.split(' ').collect()
}

/// A frame as the document shows it.
pub(crate) fn explain(schema: &Schema, frame: &Frame, command: Command) -> Vec<String> {
    let bytes = frame.encode();
    let (header, body) = bytes.split_at(HEADER_LEN);
    let mut lines = Vec::new();
    let note = format!(
        "length {}, version 1, flag 0, service {:#04x}, command {:#06x} {}, seq {}, reserved 0",
        bytes.len(),
        frame.command >> 8,
        frame.command,
        command.name(),
        frame.seq,
    );
    put(&mut lines, header, &note);
    put_message(&mut lines, &Reading { schema, message: command.name(), depth: 0 }, body);
    lines
}

/// A message that is being read.
struct Reading<'a> {
    schema: &'a Schema,
    message: &'a str,
    /// How many messages it is in.
    depth: usize,
}

fn put_message(lines: &mut Vec<String>, reading: &Reading<'_>, mut body: &[u8]) {
    while !body.is_empty() {
        let Record { number, value, len, head_len } = record(body);
        let (bytes, rest) = body.split_at(len);
        let field = reading.schema.field(reading.message, number);
        let field = field.unwrap_or_else(|| panic!("{} has no field {number}", reading.message));
        let indent = "  ".repeat(reading.depth);
        let name = format!("{indent}{number} {}", field.name);
        match (&field.kind, value) {
            (Kind::Named(inner), Value::Bytes(inside)) => {
                let (head, _inside) = bytes.split_at(head_len);
                put(lines, head, &format!("{name}: {inner}, {} bytes", inside.len()));
                let depth = reading.depth + 1;
                put_message(lines, &Reading { message: inner, depth, ..*reading }, inside);
            }
            (kind, value) => {
                let value = shown(reading.schema, kind, value, &field.name);
                put(lines, bytes, &format!("{name} = {value}"));
            }
        }
        body = rest;
    }
}

fn shown(schema: &Schema, kind: &Kind, value: Value<'_>, name: &str) -> String {
    match (kind, value) {
        (Kind::Number, Value::Number(number)) => number.to_string(),
        (Kind::Bool, Value::Number(number)) => (number != 0).to_string(),
        (Kind::Named(of), Value::Number(number)) => {
            let values = schema.values(of).unwrap_or_else(|| panic!("{of} is an enum"));
            let value = values.get(&number).unwrap_or_else(|| panic!("{of} has no {number}"));
            format!("{number} {value}")
        }
        (Kind::Text, Value::Bytes(text)) => format!("{:?}", String::from_utf8_lossy(text)),
        // Texts are Base64.
        (Kind::Bytes, Value::Bytes(data)) if name == "msg_data" && data.is_ascii() => {
            format!("{:?}", String::from_utf8_lossy(data))
        }
        (Kind::Bytes, Value::Bytes(data)) => format!("{} bytes", data.len()),
        (kind, value) => panic!("{name} is {kind:?}, not {value:?}"),
    }
}

/// Puts bytes into as many lines as it takes, with a note beside the first.
fn put(lines: &mut Vec<String>, bytes: &[u8], note: &str) {
    let notes = iter::once(note).chain(iter::repeat(""));
    for (piece, note) in bytes.chunks(LINE_LEN).zip(notes) {
        let hex: Vec<String> = piece.iter().map(|byte| format!("{byte:02x}")).collect();
        lines.push(format!("{:HEX_WIDTH$}{note}", hex.join(" ")).trim_end().to_owned());
    }
}

/// What a field holds, as it goes over the wire.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// One field on the wire.
struct Record<'a> {
    number: u32,
    value: Value<'a>,
    /// Of all its bytes.
    len: usize,
    /// Of what stands before the bytes of its value.
    head_len: usize,
}

fn record(bytes: &[u8]) -> Record<'_> {
    let (key, key_len) = varint(bytes);
    let number = u32::try_from(key >> 3).expect("fields have small numbers");
    let (value, value_len) = varint(&bytes[key_len..]);
    let head_len = key_len + value_len;
    match key & 7 {
        0 => Record { number, value: Value::Number(value), len: head_len, head_len },
        2 => {
            let len = head_len + usize::try_from(value).expect("a length fits");
            let inside = bytes.get(head_len..len).expect("the bytes of a field are there");
            Record { number, value: Value::Bytes(inside), len, head_len }
        }
        other => panic!("no field of ours has the wire type {other}"),
    }
}

fn varint(bytes: &[u8]) -> (u64, usize) {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return (number, at + 1);
        }
    }
    panic!("a number does not end: {bytes:02x?}")
}
