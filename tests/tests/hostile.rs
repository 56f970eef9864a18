//! Bytes that no correct client sends: they cost their own connection, and no other client
//! notices.

use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{ClientType, Connection, Conversation};
use proto::client::LoginRequest;
use proto::limits::{LIMIT_AFTER_LOGIN, LIMIT_BEFORE_LOGIN};
use proto::{Command, Frame, encode_message};
use tests::{Cluster, Device, PASSWORD, PATIENCE, Random};

#[tokio::test]
async fn a_length_that_cannot_be_closes_the_connection_on_its_header() {
    let mut bystanders = Bystanders::new().await;
    let too_much = u32::try_from(LIMIT_BEFORE_LOGIN + 1).expect("a few KiB");
    for length in (0..16).chain([too_much, 1 << 26, i32::MAX as u32, u32::MAX]) {
        let mut connection = bystanders.connect().await;
        let mut header = *b"\0\0\0\0\0\x01\0\0\0\x01\x01\x03\0\x01\0\0";
        header[..4].copy_from_slice(&length.to_be_bytes());
        connection.send_bytes(&header).await.expect("send a header");
        let frames = connection.expect_close(SOON).await;
        let frames = frames.unwrap_or_else(|error| panic!("length {length}: {error}"));
        assert_eq!(frames, [], "length {length}");
    }
    bystanders.notice_nothing().await;
}

#[tokio::test]
async fn a_logged_in_client_may_send_voice_and_no_more() {
    let mut bystanders = Bystanders::new().await;
    for (command, length) in [
        (Command::MessageData, LIMIT_AFTER_LOGIN + 1),
        (Command::Heartbeat, 4096),
        (Command::ReadAck, 64 << 10),
    ] {
        let mut device = Device::pc(bystanders.gateway(), 5).await;
        let length = u32::try_from(length).expect("half a megabyte");
        let mut header =
            Frame { command: command.number(), seq: 1, body: Bytes::new() }.encode().to_vec();
        header[..4].copy_from_slice(&length.to_be_bytes());
        device.connection().send_bytes(&header).await.expect("send a header");
        device.closed().await;
    }
    bystanders.notice_nothing().await;
}

#[tokio::test]
async fn before_the_login_every_command_but_three_ends_the_connection() {
    let mut bystanders = Bystanders::new().await;
    let allowed = [Command::LoginRequest, Command::Heartbeat, Command::Hello];
    let unknown = [0, 0x0100, 0x0702, 0x070b, 0x0801, 0x2005, 0xffff];
    let known = Command::ALL.iter().filter(|command| !allowed.contains(command));
    for number in known.map(|command| command.number()).chain(unknown) {
        let mut connection = bystanders.connect().await;
        connection.heartbeat().await.expect("a heartbeat is answered before the login");
        // In the form of the read mark it would be taken for, were it taken.
        let frame = Frame {
            command: number,
            seq: 1,
            body: Bytes::from_static(b"\x08\x01\x10\x02\x18\x09\x20\x01"),
        };
        connection.send_frame(&frame).await.expect("send a frame");
        let frames = connection.expect_close(SOON).await;
        let frames = frames.unwrap_or_else(|error| panic!("{number:#06x}: {error}"));
        assert_eq!(frames, [], "{number:#06x}");
    }
    bystanders.notice_nothing().await;
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_skipped() {
    let mut bystanders = Bystanders::new().await;
    let mut device = Device::pc(bystanders.gateway(), 5).await;
    let bodies: [&'static [u8]; 5] = [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", // A number without end.
        b"\x0a\xff\xff\xff\xff\x0f",                     // A text of four gigabytes.
        b"\x0b\x0b\x0b\x0b\x0b\x0b",                     // Groups within groups, never closed.
        b"\x12\x02\xff\xfe\x08",                         // No UTF-8, and a field that is cut.
        b"\x07\x00",                                     // A kind of field that there is none of.
    ];
    for number in SERVED {
        for body in bodies {
            let frame = Frame { command: number, seq: 1, body: Bytes::from_static(body) };
            device.connection().send_frame(&frame).await.expect("send a frame");
        }
    }
    assert!(device.say(Conversation::user(6), "and still served").await > 0);
    // What is not for a gateway is skipped too, ten times a minute; more than that is no mistake.
    let junk = Frame { command: 0x0504, seq: 1, body: Bytes::new() };
    for _junk in 0..10 {
        device.connection().send_frame(&junk).await.expect("send a frame");
    }
    device.say(Conversation::user(6), "and still").await;
    for _junk in 0..10 {
        device.connection().send_frame(&junk).await.ok();
    }
    device.connection().expect_close(SOON).await.expect("too much is too much");
    bystanders.notice_nothing().await;
}

#[tokio::test]
async fn bytes_at_random_cost_only_their_own_connection() {
    let mut random = Random::from_env();
    let mut bystanders = Bystanders::new().await;
    for _connection in 0..200 {
        let mut connection = bystanders.connect().await;
        let len = 1 + random.below(2_000);
        let mut bytes: Vec<u8> =
            (0..len).map(|_| u8::try_from(random.below(256)).expect("a byte")).collect();
        if random.below(2) == 0 && bytes.len() >= 16 {
            // A header that is one, so that what follows is read.
            bytes[..4].copy_from_slice(&u32::try_from(len).expect("2,000").to_be_bytes());
            bytes[8..12].copy_from_slice(b"\0\x01\x01\x03");
        }
        // The gateway may close while this is being sent.
        connection.send_bytes(&bytes).await.ok();
        drop(connection);
    }
    bystanders.notice_nothing().await;
}

#[tokio::test]
async fn frames_that_come_byte_by_byte_or_all_at_once_are_the_same() {
    let mut bystanders = Bystanders::new().await;
    let mut connection = bystanders.connect().await;
    let login = encode_message(Command::LoginRequest, 7, &login("u5"));
    for byte in &login {
        connection.send_bytes(&[*byte]).await.expect("send a byte");
    }
    let reply = connection.next_frame(PATIENCE).await.expect("an answer");
    assert_eq!((reply.known_command(), reply.seq), (Some(Command::LoginReply), 7));
    let mut many = Vec::new();
    for seq in 1..=100 {
        let beat = Frame { command: Command::Heartbeat.number(), seq, body: Bytes::new() };
        many.extend_from_slice(&beat.encode());
    }
    connection.send_bytes(&many).await.expect("send a hundred frames");
    for seq in 1..=100 {
        let echo = connection.reply_to(seq).await.expect("each is answered");
        assert_eq!(echo.known_command(), Some(Command::Heartbeat));
    }
    bystanders.notice_nothing().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_before_the_login_is_let_go() {
    let mut bystanders = Bystanders::new().await;
    let began = Instant::now();
    let mut silent = bystanders.connect().await;
    let mut slow = bystanders.connect().await;
    slow.send_bytes(b"\0\0\0\x40\0").await.expect("send a piece of a header");
    slow.expect_close(PATIENCE).await.expect("half a frame is not waited for");
    silent.expect_close(PATIENCE).await.expect("15 s are for the login");
    assert!(began.elapsed() >= Duration::from_secs(9), "there is time to type a password");
    bystanders.notice_nothing().await;
}

#[tokio::test]
async fn a_client_that_never_reads_costs_no_other_client() {
    let mut bystanders = Bystanders::new().await;
    let mut deaf = Device::pc(bystanders.gateway(), 7).await;
    let mut author = Device::pc(bystanders.gateway(), 8).await;
    let mut other = Device::pc(bystanders.gateway(), 9).await;
    // More than the kernel and the outbox hold together; nothing of it is read.
    let text = "x".repeat(45_000);
    let group = Conversation::group(1);
    for number in 1..=250 {
        assert_eq!(author.say(group, &text).await, number);
        assert_eq!(other.hears(8, group, &text).await.msg_id, number, "others hear all of it");
    }
    bystanders.notice_nothing().await;
    // It was let go, and it can come back: nothing is lost.
    let metrics = bystanders.cluster.metrics("msg_server-1");
    assert!(metrics.contains("closed_total{reason=\"SlowReader\"} 1"), "{metrics}");
    deaf.connection().expect_close(SOON).await.expect("it is not waited for");
    let mut deaf = Device::pc(bystanders.gateway(), 7).await;
    assert_eq!(deaf.history(group).await.len(), 250);
}

#[tokio::test]
async fn a_client_that_sends_faster_than_its_limit_is_slowed_down_and_loses_nothing() {
    let mut bystanders = Bystanders::new().await;
    let mut fast = Device::pc(bystanders.gateway(), 5).await;
    let began = Instant::now();
    // The burst is 200, and then 50 a second.
    for number in 1..=300 {
        let draft = client::Draft::text(Conversation::user(6), &format!("{number}")).without_id();
        fast.connection().post_message(&draft).await.expect("send a message");
    }
    assert_eq!(fast.say(Conversation::user(6), "301").await, 301);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1_500), "it took {took:?}");
    bystanders.notice_nothing().await;
}

/// The commands that a gateway serves and that have a body.
const SERVED: [u16; 31] = [
    0x0103, 0x0108, 0x010a, 0x010c, 0x010e, 0x0201, 0x0204, 0x0206, 0x0208, 0x020a, 0x020c, 0x0210,
    0x0213, 0x0301, 0x0302, 0x0303, 0x0307, 0x0309, 0x030b, 0x030d, 0x0401, 0x0403, 0x0405, 0x0407,
    0x0409, 0x0506, 0x0509, 0x050b, 0x050c, 0x0601, 0x0701,
];

/// Long enough for a loaded machine, and below the limits that apply to silence.
const SOON: Duration = Duration::from_secs(8);

/// Two clients that talk to each other while others misbehave.
struct Bystanders {
    cluster: Cluster,
    one: Device,
    other: Device,
    said: u32,
}

impl Bystanders {
    async fn new() -> Self {
        let cluster = Cluster::start();
        // Not in the group, whose messages they would have to read.
        let one = Device::pc(&cluster.gateways[0], 19).await;
        let other = Device::pc(&cluster.gateways[0], 20).await;
        Self { cluster, one, other, said: 0 }
    }

    fn gateway(&self) -> &str {
        &self.cluster.gateways[0]
    }

    async fn connect(&self) -> Connection {
        let mut connection = Connection::connect(self.gateway(), None).await.expect("connect");
        connection.set_limit(PATIENCE);
        connection
    }

    /// Both are still connected, are served, and hear each other as if nothing had happened.
    async fn notice_nothing(&mut self) {
        for _exchange in 0..3 {
            self.said += 1;
            let text = format!("exchange {}", self.said);
            self.one.say(Conversation::user(20), &text).await;
            self.other.hears(19, Conversation::user(20), &text).await;
            self.other.say(Conversation::user(19), &text).await;
            self.one.hears(20, Conversation::user(19), &text).await;
        }
    }
}

fn login(name: &str) -> LoginRequest {
    LoginRequest {
        user_name: name.to_owned(),
        password: client::password_field(PASSWORD),
        online_status: 1,
        client_type: ClientType::Windows.into(),
        client_version: None,
    }
}
