//! A program that uses the HTTP API: one request on each connection.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::PATIENCE;

/// How long a program waits before it sends again what was not stored.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A program with a key.
#[derive(Debug, Clone)]
pub struct Program {
    addr: String,
    key: Option<String>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header as it came.
    pub head: String,
    /// The body, if it is JSON; else null.
    pub body: Value,
}

impl Answer {
    /// The stable code of an error.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// The value of a header, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _value)| found.eq_ignore_ascii_case(name)).map(|(_name, value)| value)
    }
}

impl Program {
    /// Uses the API at a URL, as `talkhub up` names it.
    pub fn new(url: &str, key: Option<&str>) -> Self {
        let addr = url.strip_prefix("http://").expect("a URL without TLS").to_owned();
        Self { addr, key: key.map(str::to_owned) }
    }

    /// Asks without a body.
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None).await
    }

    /// Asks with a body of JSON.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        let json = [("Content-Type", "application/json")];
        self.send(method, path, &json, Some(body.to_string().as_bytes())).await
    }

    /// Sends a message that has a name, so that it may be sent again.
    pub async fn say(&self, name: &str, body: &Value) -> Answer {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", name)];
        self.send("POST", "/v1/messages", &headers, Some(body.to_string().as_bytes())).await
    }

    /// The same, again and again until it is stored, where servers are killed. Returns its number.
    pub async fn say_until_stored(&self, name: &str, body: &Value, patience: Duration) -> u32 {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", name)];
        let body = body.to_string();
        let stored = async {
            loop {
                let sent = self.try_send("POST", "/v1/messages", &headers, Some(body.as_bytes()));
                if let Some(answer) = sent.await.ok().filter(|answer| answer.status == 201) {
                    let msg_id = answer.body["msg_id"].as_u64().expect("a number");
                    return u32::try_from(msg_id).expect("a number of a message");
                }
                sleep(AGAIN_AFTER).await;
            }
        };
        timeout(patience, stored).await.unwrap_or_else(|_late| panic!("{name} is stored in time"))
    }

    /// Asks with any header and body.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Answer {
        let answer = timeout(PATIENCE, self.try_send(method, path, headers, body)).await;
        answer.expect("an answer in time").expect("an answer")
    }

    /// The same, where the server may be killed.
    pub async fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> std::io::Result<Answer> {
        let mut socket = TcpStream::connect(&self.addr).await?;
        let mut lines = vec![format!("{method} {path} HTTP/1.1"), "Host: api".to_owned()];
        lines.push("Connection: close".to_owned());
        lines.extend(self.key.iter().map(|key| format!("Authorization: Bearer {key}")));
        lines.extend(headers.iter().map(|(name, value)| format!("{name}: {value}")));
        lines.extend(body.map(|body| format!("Content-Length: {}", body.len())));
        socket.write_all(lines.join("\r\n").as_bytes()).await?;
        socket.write_all(b"\r\n\r\n").await?;
        // A server that has read enough may answer and close before it has read everything.
        socket.write_all(body.unwrap_or_default()).await.ok();
        let mut answer = Vec::new();
        let read = socket.read_to_end(&mut answer).await;
        let text = String::from_utf8(answer).map_err(std::io::Error::other)?;
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            read?;
            return Err(std::io::Error::other("no answer"));
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other("no HTTP"))?;
        let body = serde_json::from_str(body).unwrap_or(Value::Null);
        Ok(Answer { status, head: head.to_owned(), body })
    }
}
