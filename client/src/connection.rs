//! One connection to a gateway, by hand.
//!
//! No task, no clock, no retry: frames go out when told to and are read when asked for, which is
//! what a test or a tool needs that wants to see exactly what the server does. Programs that want
//! messages to arrive use [`Client`](crate::Client).
//!
//! # Invariants
//!
//! - Frames are handed out in the order in which they came. A call that waits for one frame sets
//!   the others aside, and the next question about frames looks there first.
//! - Nothing is sent unasked, heartbeats included.
//! - Every wait has a limit. Waiting is cancel-safe: a frame that came is never lost.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::time::Duration;

use proto::client::{
    Heartbeat, Hello, HelloReply, LoginReply, LoginRequest, LoginResult, MessageAck, Refused,
    ResumeRequest, SendResult, UserInfo, UserStatus,
};
use proto::{Command, Frame, FrameError, encode_message};
use tokio::time::{Instant, timeout_at};

use crate::message::Draft;
use crate::push::Push;
use crate::socket::{self, FrameReader, FrameWriter, Socket};
use crate::tls::TlsConfig;

pub use proto::client::ClientType;

/// How long a call waits for its answer, unless set otherwise.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A connection to a gateway.
#[derive(Debug)]
pub struct Connection {
    reader: FrameReader,
    writer: FrameWriter,
    /// Frames that came while another one was waited for. Bounded by how long calls wait: nothing
    /// is read at other times, and then TCP slows the server down.
    set_aside: VecDeque<Frame>,
    last_seq: u16,
    limit: Duration,
}

/// What a successful login tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Login {
    /// The user's own record.
    pub user: UserInfo,
    /// Unix seconds.
    pub server_time: u32,
    /// The server's text for the user.
    pub text: String,
    /// The answer to the hello, if one was sent and has been answered by now. A server that does
    /// not know the extension never answers it.
    pub hello: Option<HelloReply>,
}

/// Why a connection is of no use, or a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The gateway cannot be reached.
    #[error("connect to the gateway")]
    Connect(#[source] io::Error),
    /// Reading or writing broke off, or bytes came that are no frame.
    #[error("exchange frames")]
    Frame(#[from] FrameError),
    /// The gateway closed the connection.
    #[error("the gateway closed the connection")]
    Closed,
    /// Nothing came in time.
    #[error("nothing came in time")]
    TimedOut,
    /// The server will not do what was asked: a `RefuseReason`.
    #[error("refused with reason {0}")]
    Refused(u32),
    /// Something else came than what was waited for.
    #[error("a frame of command {:#06x} came instead", .0.command)]
    Unexpected(Frame),
    /// The body of the answer cannot be read.
    #[error("read the body of an answer")]
    Body(#[from] prost::DecodeError),
}

/// Why a login did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The server does not let the user in.
    #[error("login refused with {result}: {text}")]
    Refused {
        /// A [`LoginResult`].
        result: i32,
        /// The server's text for the user.
        text: String,
    },
    /// The connection failed.
    #[error("log in")]
    Connection(#[from] ConnectionError),
}

/// How the server answered a message.
#[derive(Debug, Clone, PartialEq)]
pub enum SendReply {
    /// Stored; what clients without the extension are told.
    Ack(MessageAck),
    /// What became of it; only on a connection that said hello.
    Result(SendResult),
}

pub use proto::credential::of_password as password_field;

impl Connection {
    /// Connects to `addr` (`host:port`), with TLS if told how.
    pub async fn connect(
        addr: impl Display,
        tls: Option<&TlsConfig>,
    ) -> Result<Self, ConnectionError> {
        let socket = socket::connect(&addr.to_string(), tls).await;
        socket.map(Self::over_boxed).map_err(ConnectionError::Connect)
    }

    /// Speaks over a socket that is connected already.
    pub fn over(socket: impl Socket) -> Self {
        Self::over_boxed(Box::new(socket))
    }

    fn over_boxed(socket: Box<dyn Socket>) -> Self {
        let (reader, writer) = socket::halves(socket);
        let set_aside = VecDeque::new();
        Self { reader, writer, set_aside, last_seq: 0, limit: ANSWER_LIMIT }
    }

    /// Sets how long calls wait for their answers and writes for their end.
    pub const fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Logs in with a typed password. With a `hello` the server may use the extension.
    pub async fn login(
        &mut self,
        name: &str,
        password: &str,
        client_type: ClientType,
        hello: Option<Hello>,
    ) -> Result<Login, LoginError> {
        let request = LoginRequest {
            user_name: name.to_owned(),
            password: password_field(password),
            online_status: UserStatus::Online.into(),
            client_type: client_type.into(),
            client_version: Some(concat!("talkhub/", env!("CARGO_PKG_VERSION")).to_owned()),
        };
        self.login_with(&request, hello).await
    }

    /// Logs in with exactly this request.
    pub async fn login_with(
        &mut self,
        request: &LoginRequest,
        hello: Option<Hello>,
    ) -> Result<Login, LoginError> {
        self.log_in(Command::LoginRequest, request, hello).await
    }

    /// Logs in with a token or a ticket.
    pub async fn resume_with(
        &mut self,
        request: &ResumeRequest,
        hello: Hello,
    ) -> Result<Login, LoginError> {
        self.log_in(Command::ResumeRequest, request, Some(hello)).await
    }

    async fn log_in(
        &mut self,
        command: Command,
        request: &impl prost::Message,
        hello: Option<Hello>,
    ) -> Result<Login, LoginError> {
        let said_hello = hello.is_some();
        if let Some(hello) = hello {
            self.send(Command::Hello, &hello).await?;
        }
        let seq = self.send(command, request).await?;
        let frame = self.reply_to(seq).await?;
        let reply: LoginReply = frame.parse().map_err(ConnectionError::from)?;
        let text = reply.result_text.unwrap_or_default();
        if !frame.is(Command::LoginReply) {
            return Err(ConnectionError::Unexpected(frame).into());
        }
        if reply.result != i32::from(LoginResult::Accepted) {
            return Err(LoginError::Refused { result: reply.result, text });
        }
        let hello = if said_hello { self.take_hello_reply() } else { None };
        let user = reply.user_info.unwrap_or_default();
        Ok(Login { user, server_time: reply.server_time, text, hello })
    }

    fn take_hello_reply(&mut self) -> Option<HelloReply> {
        let is_it = |frame: &Frame| frame.is(Command::HelloReply);
        let index = self.set_aside.iter().position(is_it)?;
        self.set_aside.remove(index)?.parse().ok()
    }

    /// Returns a seq that no recent request had; never 0.
    pub const fn next_seq(&mut self) -> u16 {
        self.last_seq = if self.last_seq == u16::MAX { 1 } else { self.last_seq + 1 };
        self.last_seq
    }

    /// Sends a message under a new seq, which it returns.
    pub async fn send(
        &mut self,
        command: Command,
        message: &impl prost::Message,
    ) -> Result<u16, ConnectionError> {
        let seq = self.next_seq();
        self.send_bytes(&encode_message(command, seq, message)).await?;
        Ok(seq)
    }

    /// Sends a frame as it is.
    pub async fn send_frame(&mut self, frame: &Frame) -> Result<(), ConnectionError> {
        self.send_bytes(&frame.encode()).await
    }

    /// Sends bytes, which need not be a frame.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        self.writer.queue(bytes);
        let deadline = Instant::now() + self.limit;
        match timeout_at(deadline, self.writer.flush()).await {
            Ok(written) => Ok(written.map_err(FrameError::from)?),
            Err(_elapsed) => Err(ConnectionError::TimedOut),
        }
    }

    /// Sends a request and waits for its answer. Other frames are set aside.
    pub async fn call<R: prost::Message + Default>(
        &mut self,
        command: Command,
        message: &impl prost::Message,
    ) -> Result<R, ConnectionError> {
        let seq = self.send(command, message).await?;
        let frame = self.reply_to(seq).await?;
        read_reply(command, frame)
    }

    /// Waits for the frame that answers the request with this seq. Other frames are set aside.
    pub async fn reply_to(&mut self, seq: u16) -> Result<Frame, ConnectionError> {
        if let Some(index) = self.set_aside.iter().position(|frame| frame.seq == seq)
            && let Some(frame) = self.set_aside.remove(index)
        {
            return Ok(frame);
        }
        let deadline = Instant::now() + self.limit;
        loop {
            let frame = self.read(deadline).await?;
            if frame.seq == seq {
                return Ok(frame);
            }
            self.set_aside.push_back(frame);
        }
    }

    /// Sends a heartbeat and waits for its echo.
    pub async fn heartbeat(&mut self) -> Result<(), ConnectionError> {
        self.call::<Heartbeat>(Command::Heartbeat, &Heartbeat {}).await.map(drop)
    }

    /// Sends a message without waiting; returns its seq, for [`Connection::send_reply`].
    pub async fn post_message(&mut self, draft: &Draft) -> Result<u16, ConnectionError> {
        self.send(Command::MessageData, &draft.to_wire()).await
    }

    /// Waits for the answer to the message that was sent with this seq.
    pub async fn send_reply(&mut self, seq: u16) -> Result<SendReply, ConnectionError> {
        let frame = self.reply_to(seq).await?;
        if frame.is(Command::MessageAck) {
            Ok(SendReply::Ack(frame.parse()?))
        } else if frame.is(Command::SendResult) {
            Ok(SendReply::Result(frame.parse()?))
        } else if frame.is(Command::Refused) {
            Err(refused(&frame))
        } else {
            Err(ConnectionError::Unexpected(frame))
        }
    }

    /// Sends a message and waits for its answer.
    pub async fn send_message(&mut self, draft: &Draft) -> Result<SendReply, ConnectionError> {
        let seq = self.post_message(draft).await?;
        self.send_reply(seq).await
    }

    /// Waits for the next frame of any kind.
    pub async fn next_frame(&mut self, limit: Duration) -> Result<Frame, ConnectionError> {
        match self.set_aside.pop_front() {
            Some(frame) => Ok(frame),
            None => self.read(Instant::now() + limit).await,
        }
    }

    /// Waits for the next frame and sorts it.
    pub async fn next_push(&mut self, limit: Duration) -> Result<Push, ConnectionError> {
        self.next_frame(limit).await.map(Push::from_frame)
    }

    /// Waits for the next frame, which must have this command. Returns its seq and its message.
    pub async fn expect<M: prost::Message + Default>(
        &mut self,
        command: Command,
        limit: Duration,
    ) -> Result<(u16, M), ConnectionError> {
        let frame = self.next_frame(limit).await?;
        if !frame.is(command) {
            return Err(ConnectionError::Unexpected(frame));
        }
        Ok((frame.seq, frame.parse()?))
    }

    /// Waits out `limit`, during which nothing may come and the connection must stay open.
    pub async fn expect_silence(&mut self, limit: Duration) -> Result<(), ConnectionError> {
        match self.next_frame(limit).await {
            Err(ConnectionError::TimedOut) => Ok(()),
            Err(error) => Err(error),
            Ok(frame) => Err(ConnectionError::Unexpected(frame)),
        }
    }

    /// Waits until the gateway has closed the connection. Returns the frames that came before.
    pub async fn expect_close(&mut self, limit: Duration) -> Result<Vec<Frame>, ConnectionError> {
        let deadline = Instant::now() + limit;
        let mut frames: Vec<Frame> = self.set_aside.drain(..).collect();
        loop {
            match self.read(deadline).await {
                Ok(frame) => frames.push(frame),
                // A reset is a close too: it is one when the gateway had not read everything.
                Err(ConnectionError::Closed | ConnectionError::Frame(FrameError::Io(_))) => {
                    return Ok(frames);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the connection apart, for programs that read and write at the same time. Frames that
    /// were set aside come third.
    pub fn split(self) -> (FrameReader, FrameWriter, Vec<Frame>) {
        (self.reader, self.writer, self.set_aside.into())
    }

    /// Says goodbye in order: everything is written, then the connection ends.
    pub async fn close(mut self) -> io::Result<()> {
        self.writer.shut_down().await
    }

    async fn read(&mut self, deadline: Instant) -> Result<Frame, ConnectionError> {
        match timeout_at(deadline, self.reader.next()).await {
            Ok(frame) => frame?.ok_or(ConnectionError::Closed),
            Err(_elapsed) => Err(ConnectionError::TimedOut),
        }
    }
}

/// Reads what answers `command`.
///
/// Every answer has the number after its request; a heartbeat is answered by itself.
pub(crate) fn read_reply<R: prost::Message + Default>(
    command: Command,
    frame: Frame,
) -> Result<R, ConnectionError> {
    let number = command.number();
    if frame.is(Command::Refused) {
        return Err(refused(&frame));
    }
    let is_answer = frame.command == number.wrapping_add(1)
        || (command == Command::Heartbeat && frame.command == number);
    if is_answer { Ok(R::decode(frame.body)?) } else { Err(ConnectionError::Unexpected(frame)) }
}

fn refused(frame: &Frame) -> ConnectionError {
    match frame.parse::<Refused>() {
        Ok(refused) => ConnectionError::Refused(refused.reason),
        Err(error) => error.into(),
    }
}

/// The hello of this library.
pub fn hello() -> Hello {
    let client = concat!("talkhub-client/", env!("CARGO_PKG_VERSION")).to_owned();
    Hello { client, features: Some(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_goes_over_the_wire_as_its_md5() {
        assert_eq!(password_field("123456"), "e10adc3949ba59abbe56e057f20f883e");
        assert_eq!(password_field("123"), "202cb962ac59075b964b07152d234b70");
    }

    #[tokio::test]
    async fn seqs_never_are_zero() {
        let (socket, _peer) = tokio::io::duplex(16);
        let mut connection = Connection::over(socket);
        let seqs: Vec<u16> = (0..70_000).map(|_| connection.next_seq()).collect();
        assert!(!seqs.contains(&0));
    }
}
