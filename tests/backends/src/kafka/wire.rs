//! As much of Kafka's protocol as it takes to see that a broker is ready, and to make a topic.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::Resource;

/// A broker that needs longer is asked again, or another one is.
const LIMIT: Duration = Duration::from_secs(5);
/// More than any answer to our questions.
const ANSWER_MAX: usize = 16 << 20;

const METADATA: (i16, i16) = (3, 5);
const CREATE_TOPICS: (i16, i16) = (19, 4);
const CREATE_ACLS: (i16, i16) = (30, 1);

/// What a broker knows of its cluster.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    /// The numbers of the brokers that can be talked to.
    pub(super) brokers: Vec<i32>,
    pub(super) topics: Vec<Topic>,
}

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) partitions: Vec<Partition>,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) index: i32,
    /// −1 if there is none.
    pub(super) leader: i32,
    pub(super) in_sync: Vec<i32>,
}

/// A topic to make.
#[derive(Debug)]
pub(super) struct NewTopic<'a> {
    pub(super) name: &'a str,
    pub(super) partitions: i32,
    pub(super) replicas: i16,
    pub(super) settings: &'a [(&'a str, &'a str)],
}

/// Asks a broker what it knows of all topics; `None` if it does not answer.
pub(super) fn metadata(port: u16) -> Option<Metadata> {
    let mut body = Vec::new();
    // No list: all of them. Nothing is to be made.
    put_i32(&mut body, -1);
    body.push(0);
    let answer = ask(port, METADATA, &body)?;
    let mut reader = Reader(&answer);
    let _throttle = reader.i32()?;
    let brokers = reader.list(|reader| {
        let (id, _host, _port) = (reader.i32()?, reader.text()?, reader.i32()?);
        let _rack = reader.text()?;
        Some(id)
    })?;
    let (_cluster, _controller) = (reader.text()?, reader.i32()?);
    let topics = reader.list(|reader| {
        let _error = reader.i16()?;
        let name = reader.text()?;
        let _internal = reader.take(1)?;
        Some(Topic { name, partitions: reader.list(partition)? })
    })?;
    Some(Metadata { brokers, topics })
}

fn partition(reader: &mut Reader<'_>) -> Option<Partition> {
    let _error = reader.i16()?;
    let (index, leader) = (reader.i32()?, reader.i32()?);
    let _replicas = reader.list(Reader::i32)?;
    let in_sync = reader.list(Reader::i32)?;
    let _offline = reader.list(Reader::i32)?;
    Some(Partition { index, leader, in_sync })
}

/// Asks a broker to make a topic; `None` if it does not answer, an error if it will not.
pub(super) fn create_topic(port: u16, topic: &NewTopic<'_>) -> Option<Result<(), String>> {
    const TIMEOUT_MS: i32 = 4_000;
    let mut body = Vec::new();
    put_i32(&mut body, 1);
    put_text(&mut body, topic.name);
    put_i32(&mut body, topic.partitions);
    body.extend(topic.replicas.to_be_bytes());
    // Where the partitions go is the cluster's business.
    put_i32(&mut body, 0);
    put_i32(&mut body, i32::try_from(topic.settings.len()).expect("a few settings"));
    for (name, value) in topic.settings {
        put_text(&mut body, name);
        put_text(&mut body, value);
    }
    put_i32(&mut body, TIMEOUT_MS);
    body.push(0);
    let answer = ask(port, CREATE_TOPICS, &body)?;
    let mut reader = Reader(&answer);
    let _throttle = reader.i32()?;
    let errors = reader.list(|reader| {
        let _name = reader.text()?;
        Some((reader.i16()?, reader.text()?))
    })?;
    Some(match errors.first()? {
        (0, _text) => Ok(()),
        (code, text) => Err(format!("error {code}: {text}")),
    })
}

/// Allows operations, in Kafka's names, to a principal from everywhere; the error if the broker does
/// not take that, and `None` if it does not answer.
pub(super) fn allow(
    port: u16,
    principal: &str,
    resource: Resource<'_>,
    operations: &[&str],
) -> Option<Result<(), String>> {
    const LITERAL: u8 = 3;
    const ALLOW: u8 = 3;
    let (kind, name) = match resource {
        Resource::Topic(name) => (2, name),
        Resource::Group(name) => (3, name),
    };
    let mut body = Vec::new();
    put_i32(&mut body, i32::try_from(operations.len()).expect("a few operations"));
    for operation in operations {
        let operation = match *operation {
            "Read" => 3,
            "Write" => 4,
            "Create" => 5,
            "Describe" => 8,
            "DescribeConfigs" => 10,
            other => panic!("{other} is one of these"),
        };
        body.push(kind);
        put_text(&mut body, name);
        body.push(LITERAL);
        put_text(&mut body, principal);
        put_text(&mut body, "*");
        body.extend([operation, ALLOW]);
    }
    let answer = ask(port, CREATE_ACLS, &body)?;
    let mut reader = Reader(&answer);
    let _throttle = reader.i32()?;
    let errors = reader.list(|reader| Some((reader.i16()?, reader.text()?)))?;
    let refused = errors.into_iter().find(|(code, _text)| *code != 0);
    Some(refused.map_or(Ok(()), |(code, text)| Err(format!("error {code}: {text}"))))
}

/// Sends one request and returns the answer without its header.
fn ask(port: u16, (api, version): (i16, i16), body: &[u8]) -> Option<Vec<u8>> {
    const ID: i32 = 1;
    let mut request = Vec::new();
    request.extend(api.to_be_bytes());
    request.extend(version.to_be_bytes());
    put_i32(&mut request, ID);
    put_text(&mut request, "test");
    request.extend(body);
    let length = i32::try_from(request.len()).expect("a request is small");
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    socket.set_read_timeout(Some(LIMIT)).ok()?;
    socket.write_all(&[&length.to_be_bytes(), &request[..]].concat()).ok()?;
    let mut length = [0; 4];
    socket.read_exact(&mut length).ok()?;
    let length = usize::try_from(i32::from_be_bytes(length)).ok()?;
    let mut answer = vec![0; Some(length).filter(|&length| length <= ANSWER_MAX)?];
    socket.read_exact(&mut answer).ok()?;
    answer.strip_prefix(&ID.to_be_bytes()).map(<[u8]>::to_vec)
}

fn put_i32(bytes: &mut Vec<u8>, number: i32) {
    bytes.extend(number.to_be_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(i16::try_from(text.len()).expect("a text is short").to_be_bytes());
    bytes.extend(text.as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A text; empty if there is none.
    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        Some(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        (0..self.i32()?).map(|_| item(self)).collect()
    }
}
