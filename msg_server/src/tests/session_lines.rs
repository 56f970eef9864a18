//! What the log says of a session at its end.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use proto::cluster::Kind;
use proto::{Command, client, encode_message};
use tokio::time::timeout;
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Level};
use tracing_subscriber::fmt::MakeWriter;

use super::harness::*;

/// What this thread has logged, at info and above.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// All lines about ends of sessions, once there is one.
    async fn ends(&self) -> Vec<String> {
        let ends = async {
            loop {
                let text = self.text();
                let ends = text.lines().filter(|line| line.contains("session ended"));
                let ends: Vec<String> = ends.map(str::to_owned).collect();
                if !ends.is_empty() {
                    return ends;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, ends).await.expect("a line in time")
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_session_ends_with_one_line_that_counts_and_repeats_nothing() {
    let log = Log::default();
    let lines = tracing_subscriber::fmt().with_max_level(Level::INFO).with_ansi(false);
    let _logged = tracing::subscriber::set_default(lines.with_writer(log.clone()).finish());
    // With only one listener, another test that comes first to a line asks its own thread whether somebody
    // listens, and that answer counts for all threads. With two, it asks both.
    let _second_listener = Dispatch::new(NoSubscriber::default());
    tracing::callsite::rebuild_interest_cache();
    let world = World::start().await;

    // A client that does not log in leaves no line at this level.
    let mut stranger = world.connect().await;
    stranger.expect_quiet().await;
    drop(stranger);

    let mut client = world.connect().await;
    let login = encode_message(Command::LoginRequest, 1, &login(5, ANDROID));
    client.write(&login).await;
    let mut got = client.next().await.expect("the answer to the login").encode().len();
    world.hub.send(Kind::Publish, &publish(single(5, 6), 1, 6));
    got += client.next().await.expect("the push").encode().len();
    client.write(&heartbeat(7)).await;
    got += client.next().await.expect("the heartbeat").encode().len();
    let logout = encode_message(Command::LogoutRequest, 8, &client::LogoutRequest::default());
    client.write(&logout).await;
    got += client.next().await.expect("the answer to the logout").encode().len();
    client.expect_closed().await;

    let [line] = &log.ends().await[..] else { panic!("one line: {}", log.text()) };
    let sent = login.len() + heartbeat(7).len() + logout.len();
    let counts =
        format!(" frames_in=3 bytes_in={sent} frames_out=4 bytes_out={got} reason=LoggedOut");
    // Operators choose these lines by the name in front.
    let name = " INFO msg_server::connection: session ended ";
    for expected in [name, " user=5 client=\"Android\" seconds=", &counts] {
        assert!(line.contains(expected), "{expected}: {line}");
    }
    let text = log.text();
    for told in ["u5", "pw", "content"] {
        assert!(!text.contains(told), "{told}: {text}");
    }
    world.stop().await;
}
