//! A client of the gateway.

use bytes::BytesMut;
use prost::Message;
use proto::limits::LIMIT_AFTER_LOGIN;
use proto::{Command, Frame, client, encode_message, frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{LIMIT, heartbeat, login};

/// A client of the gateway.
pub(in crate::tests) struct Client<S = TcpStream> {
    socket: S,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(in crate::tests) fn new(socket: S) -> Self {
        Self { socket, buffer: BytesMut::new() }
    }

    pub(in crate::tests) async fn log_in(&mut self, user: u32, client_type: u32) {
        self.send(Command::LoginRequest, 1, &login(user, client_type)).await;
        let reply: client::LoginReply = self.expect(Command::LoginReply, 1).await;
        assert_eq!(reply.result, 0, "{:?}", reply.result_text);
    }

    pub(in crate::tests) async fn send(
        &mut self,
        command: Command,
        seq: u16,
        message: &impl Message,
    ) {
        self.write(&encode_message(command, seq, message)).await;
    }

    pub(in crate::tests) async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// The next frame; `None` when the gateway has closed.
    pub(in crate::tests) async fn next(&mut self) -> Option<Frame> {
        let next = async {
            loop {
                if let Some(frame) = frame::decode(&mut self.buffer, LIMIT_AFTER_LOGIN).unwrap() {
                    return Some(frame);
                }
                match self.socket.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_read) => {}
                }
            }
        };
        timeout(LIMIT, next).await.expect("a frame in time")
    }

    /// The next frame, which must be this one.
    pub(in crate::tests) async fn expect<M: Message + Default>(
        &mut self,
        command: Command,
        seq: u16,
    ) -> M {
        let frame = self.next().await.expect("a frame, not the end");
        assert_eq!((frame.known_command(), frame.seq), (Some(command), seq));
        frame.parse().unwrap()
    }

    /// Everything that was said to the client so far has been read, and nothing else came.
    pub(in crate::tests) async fn expect_quiet(&mut self) {
        self.write(&heartbeat(999)).await;
        self.expect::<client::Heartbeat>(Command::Heartbeat, 999).await;
    }

    pub(in crate::tests) async fn expect_closed(&mut self) {
        let frame = self.next().await;
        assert!(frame.is_none(), "{frame:?}");
    }

    /// The gateway closes, whatever it says before.
    pub(in crate::tests) async fn expect_end_of_stream(&mut self) {
        let mut rest = Vec::new();
        let end = timeout(LIMIT, self.socket.read_to_end(&mut rest)).await.expect("in time");
        if end.is_err() {
            // Reset is an end as well.
        }
    }

    pub(in crate::tests) async fn expect_push(&mut self) -> client::MessageData {
        self.expect(Command::MessageData, 0).await
    }
}
