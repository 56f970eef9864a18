//! The examples as a dialogue with a cluster: what clients send is sent, and what the server is said to
//! answer must be what it answers.
//!
//! What differs from run to run is left out of the comparison: times, tokens, and the names that a
//! gateway gives to messages of clients without the extension. Each connection is to a gateway that the
//! login server names.

use std::collections::BTreeMap;

use bytes::Bytes;
use client::{Connection, lookup};
use proto::client::{ResumeRequest, ResumeToken, ResumeTokenKept};
use proto::{Command, Frame, encode_message};
use tests::PATIENCE;

use crate::example::{Example, explain};
use crate::schema::Schema;

/// Fields that have another value in each run.
const CHANGING: [&str; 3] = ["server_time", "create_time", "server"];

/// A dialogue that is under way.
pub(crate) struct Dialogue {
    schema: Schema,
    login: String,
    connections: BTreeMap<String, Connection>,
    /// The token that came last.
    token: Option<Bytes>,
    answers: usize,
}

impl Dialogue {
    /// With the cluster of the login server at this address.
    pub(crate) fn begin(login: &str) -> Self {
        Self {
            schema: Schema::read(),
            login: login.to_owned(),
            connections: BTreeMap::new(),
            token: None,
            answers: 0,
        }
    }

    /// Sends what a client says, or waits for what the server says. Examples without a connection are
    /// no part of the dialogue.
    pub(crate) async fn take(&mut self, example: &Example) {
        let Some(name) = &example.connection else { return };
        if !self.connections.contains_key(name) {
            let gateway = lookup(&self.login, None).await.expect("a gateway");
            let addr = format!("{}:{}", gateway.host, gateway.port);
            let connection = Connection::connect(addr, None).await.expect("it can be reached");
            self.connections.insert(name.clone(), connection);
        }
        let (frame, command) = example.frame();
        let sent = example.is_clients.then(|| self.with_token(&frame, command));
        let connection = self.connections.get_mut(name).expect("it is there");
        if let Some(bytes) = sent {
            connection.send_bytes(&bytes).await.expect("it is sent");
            return;
        }
        let answer = connection.next_frame(PATIENCE).await;
        let answer = answer.unwrap_or_else(|error| panic!("line {}: {error}", example.line));
        let came = answer.known_command();
        let came = came.unwrap_or_else(|| panic!("line {}: {answer:?} came", example.line));
        if let Ok(ResumeToken { token, .. }) = answer.parse()
            && came == Command::ResumeToken
        {
            self.token = Some(token);
        }
        let notes = |frame, command| notes(&explain(&self.schema, frame, command));
        assert_eq!(notes(&answer, came), notes(&frame, command), "line {}", example.line);
        self.answers += 1;
    }

    /// The bytes of a frame, with the token of this run in place of that of the document.
    fn with_token(&self, frame: &Frame, command: Command) -> Bytes {
        let token = || self.token.clone().expect("a token has come");
        match command {
            Command::ResumeTokenKept => {
                encode_message(command, frame.seq, &ResumeTokenKept { token: token() })
            }
            Command::ResumeRequest => {
                let shown: ResumeRequest = frame.parse().expect("it can be read");
                let shown = ResumeRequest { token: Some(token()), ..shown };
                encode_message(command, frame.seq, &shown)
            }
            _ => frame.encode(),
        }
    }

    /// Everything was said.
    pub(crate) fn end(self) {
        assert!(self.answers >= 10, "there is a dialogue: {}", self.answers);
    }
}

/// What stands beside the bytes, without the values that differ from run to run.
fn notes(lines: &[String]) -> Vec<String> {
    let note = |line: &String| line.split_once("  ").map(|(_hex, note)| note.trim().to_owned());
    lines
        .iter()
        .filter_map(note)
        .map(|note| match note.split_once(" = ") {
            Some((name, _value)) if CHANGING.iter().any(|it| name.ends_with(&format!(" {it}"))) => {
                name.to_owned()
            }
            _ => note,
        })
        .collect()
}
