//! Every command that a client may send: what comes back, under which seq, and which others are told.

use client::{ClientType, Connection, Conversation, Draft};
use proto::client::{
    AllUsersReply, AllUsersRequest, AvatarChangedNotify, ChangeAvatarReply, ChangeAvatarRequest,
    ChangeSignatureReply, ChangeSignatureRequest, DepartmentsReply, DepartmentsRequest,
    DeviceTokenReply, DeviceTokenRequest, FileSendReply, FileSendRequest, GetPushShieldReply,
    GetPushShieldRequest, MessageData, MessageListReply, MessageListRequest, MessagesByIdReply,
    MessagesByIdRequest, OfflineFilesReply, OfflineFilesRequest, PeerSignal, RecentSessionsReply,
    RecentSessionsRequest, RemoveSessionReply, RemoveSessionRequest, SessionRemovedNotify,
    SetPushShieldReply, SetPushShieldRequest, SignatureChangedNotify, TimeReply, TimeRequest,
    TransferMode, UsersInfoReply, UsersInfoRequest, UsersStatusRequest,
};
use proto::{Command, Frame, encode_message};
use tests::{Cluster, Device, PASSWORD, PATIENCE};

#[tokio::test]
async fn every_request_is_answered_by_the_next_number_under_its_own_seq() {
    let cluster = Cluster::start();
    let mut phone = Device::mobile(&cluster.gateways[0], 1).await;
    phone.say(Conversation::user(2), "so that there is something").await;
    // The body in hex, with the user id 0 that iOS sends.
    let requests: [(Command, &str); 22] = [
        (Command::DeviceTokenRequest, "0800120474657374"),
        (Command::KickPcRequest, "0800"),
        (Command::SetPushShieldRequest, "08001001"),
        (Command::GetPushShieldRequest, "0800"),
        (Command::RecentSessionsRequest, "08001000"),
        (Command::UsersInfoRequest, "080010011002"),
        (Command::RemoveSessionRequest, "080010011803"),
        (Command::AllUsersRequest, "08001000"),
        (Command::UsersStatusRequest, "080010011002"),
        (Command::ChangeAvatarRequest, "08001200"),
        (Command::DepartmentsRequest, "08001000"),
        (Command::ChangeSignatureRequest, "08001200"),
        (Command::TimeRequest, ""),
        (Command::UnreadCountRequest, "0800"),
        (Command::MessageListRequest, "0800100118022000280a"),
        (Command::LatestMessageIdRequest, "080010011802"),
        (Command::MessagesByIdRequest, "0800100118022001"),
        (Command::NormalGroupsRequest, "0800"),
        (Command::GroupInfoRequest, "0800120408011000"),
        (Command::GroupCreateRequest, "080010021a0167220028012802"),
        (Command::GroupChangeMembersRequest, "0800100118012001"),
        (Command::GroupMuteRequest, "080010011801"),
    ];
    for seq in [1, 0xFF01, 0, u16::MAX] {
        for (command, body) in &requests {
            let frame = Frame { command: command.number(), seq, body: bytes(body) };
            phone.connection().send_frame(&frame).await.expect("send a request");
            let answer = next_answer(phone.connection(), command.number() + 1).await;
            assert_eq!(answer.seq, seq, "the answer to {command:?}");
            assert!(!answer.body.is_empty(), "iOS skips an empty answer to {command:?}");
        }
        let beat = Frame { command: Command::Heartbeat.number(), seq, body: bytes("") };
        phone.connection().send_frame(&beat).await.expect("send a heartbeat");
        assert_eq!(next_answer(phone.connection(), beat.command).await, beat, "an echo");
    }
}

#[tokio::test]
async fn people_have_records_pictures_and_signatures_that_others_hear_of() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let mut phone = Device::mobile(&cluster.gateways[1], 2).await;

    let all: AllUsersReply = anna.ask(Command::AllUsersRequest, &AllUsersRequest::default()).await;
    assert_eq!((all.user_id, all.users.len()), (1, 20));
    assert!(all.latest_update_time > 0);

    let signature = "busy: 忙".to_owned();
    let request =
        ChangeSignatureRequest { user_id: 2, signature: signature.clone(), ..Default::default() };
    let reply: ChangeSignatureReply = anna.ask(Command::ChangeSignatureRequest, &request).await;
    assert_eq!((reply.user_id, reply.result_code), (1, 0), "of who asks, not of who is named");
    for device in [&mut phone, &mut anna] {
        let told: SignatureChangedNotify = device.push(Command::SignatureChangedNotify).await;
        assert_eq!((told.user_id, &told.signature), (1, &signature));
    }
    let long = ChangeSignatureRequest { signature: "x".repeat(129), ..Default::default() };
    let reply: ChangeSignatureReply = anna.ask(Command::ChangeSignatureRequest, &long).await;
    assert_eq!(reply.result_code, 1, "128 bytes at most");

    let request = ChangeAvatarRequest { avatar_url: "http://h/1.png".into(), ..Default::default() };
    let reply: ChangeAvatarReply = anna.ask(Command::ChangeAvatarRequest, &request).await;
    assert_eq!(reply.result_code, 0);
    let told: AvatarChangedNotify = phone.push(Command::AvatarChangedNotify).await;
    assert_eq!((told.user_id, told.avatar_url.as_str()), (1, "http://h/1.png"));

    let request = UsersInfoRequest { user_ids: vec![1, 3, 4711], ..Default::default() };
    let found: UsersInfoReply = phone.ask(Command::UsersInfoRequest, &request).await;
    let mut ids: Vec<u32> = found.users.iter().map(|user| user.user_id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 3], "who does not exist is not there");
    let anna_record = found.users.iter().find(|user| user.user_id == 1).expect("anna");
    assert_eq!(anna_record.signature.as_deref(), Some(signature.as_str()));
    assert_eq!(anna_record.avatar_url, "http://h/1.png");

    // A change of any user raises the stamp, and is in what is asked for from the stamp on.
    let since =
        AllUsersRequest { latest_update_time: all.latest_update_time, ..Default::default() };
    let changed: AllUsersReply = phone.ask(Command::AllUsersRequest, &since).await;
    assert!(changed.latest_update_time > all.latest_update_time, "iOS ignores an equal stamp");
    assert!(changed.users.iter().any(|user| user.user_id == 1));

    let request = DepartmentsRequest::default();
    let departments: DepartmentsReply = anna.ask(Command::DepartmentsRequest, &request).await;
    assert_eq!(departments.user_id, 1);
    let later =
        DepartmentsRequest { latest_update_time: departments.latest_update_time, ..request };
    let again: DepartmentsReply = anna.ask(Command::DepartmentsRequest, &later).await;
    assert_eq!(again, departments, "one may have changed in that very second");
    let latest_update_time = departments.latest_update_time + 1;
    let later = DepartmentsRequest { latest_update_time, ..later };
    let later: DepartmentsReply = anna.ask(Command::DepartmentsRequest, &later).await;
    assert_eq!(later.departments, [], "nothing has changed since");
}

#[tokio::test]
async fn sessions_are_listed_for_both_sides_and_come_back_with_the_next_message() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let mut phone = Device::mobile(&cluster.gateways[1], 1).await;
    let mut ben = Device::pc(&cluster.gateways[1], 2).await;
    assert_eq!(conversations(&mut anna).await, [], "a conversation without a message is left out");
    anna.say(Conversation::user(2), "hello").await;
    anna.say(Conversation::group(1), "hello, all").await;
    assert_eq!(
        conversations(&mut anna).await,
        [(Conversation::user(2), 1), (Conversation::group(1), 1)]
    );
    assert_eq!(
        conversations(&mut ben).await,
        [(Conversation::user(1), 1), (Conversation::group(1), 1)]
    );

    let request = RemoveSessionRequest {
        session_type: Conversation::user(2).session_type().into(),
        session_id: 2,
        ..RemoveSessionRequest::default()
    };
    let reply: RemoveSessionReply = anna.ask(Command::RemoveSessionRequest, &request).await;
    assert_eq!((reply.user_id, reply.result_code, reply.session_id), (1, 0, 2));
    let told: SessionRemovedNotify = phone.push(Command::SessionRemovedNotify).await;
    assert_eq!((told.user_id, told.session_id), (1, 2));
    assert_eq!(conversations(&mut anna).await, [(Conversation::group(1), 1)]);
    assert_eq!(conversations(&mut ben).await.len(), 2, "it is gone for one side only");
    assert_eq!(anna.texts(Conversation::user(2)).await, ["hello"], "the history stays");
    anna.heard_nothing(Command::SessionRemovedNotify).await;
    ben.heard_nothing(Command::SessionRemovedNotify).await;

    ben.say(Conversation::user(1), "are you still there?").await;
    anna.hears(2, Conversation::user(1), "are you still there?").await;
    assert!(conversations(&mut anna).await.contains(&(Conversation::user(2), 2)));
    assert_eq!(anna.unread().await, [(Conversation::user(2), 1)].into());

    let all: RecentSessionsReply =
        anna.ask(Command::RecentSessionsRequest, &RecentSessionsRequest::default()).await;
    let newest = all.sessions.iter().map(|conversation| conversation.updated_time).max();
    let since = RecentSessionsRequest {
        latest_update_time: newest.expect("there are some"),
        ..RecentSessionsRequest::default()
    };
    let again: RecentSessionsReply = anna.ask(Command::RecentSessionsRequest, &since).await;
    assert!(!again.sessions.is_empty(), "more may have been said in that very second");
    assert!(again.sessions.iter().all(|conversation| Some(conversation.updated_time) == newest));
    let latest_update_time = since.latest_update_time + 1;
    let since = RecentSessionsRequest { latest_update_time, ..since };
    let changed: RecentSessionsReply = anna.ask(Command::RecentSessionsRequest, &since).await;
    assert_eq!(changed.sessions, [], "nothing has happened since");
}

#[tokio::test]
async fn what_a_body_says_about_its_author_and_time_means_nothing() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let mut ben = Device::pc(&cluster.gateways[1], 2).await;
    let mut carl = Device::pc(&cluster.gateways[1], 3).await;
    let forged = MessageData {
        from_user_id: 3,
        msg_id: 77,
        create_time: 5,
        attach_data: Some("for servers only".into()),
        client_msg_id: Some("sixteen bytes!!!".into()),
        ..Draft::text(Conversation::user(2), "guess who").to_wire()
    };
    let ack: proto::client::MessageAck =
        read_ack(anna.connection(), encode_message(Command::MessageData, 9, &forged)).await;
    assert_eq!((ack.user_id, ack.session_id, ack.msg_id), (1, 2, 1));
    let heard = ben.hears(1, Conversation::user(2), "guess who").await;
    assert!(heard.create_time > 1_000_000_000, "the time is the server's");
    carl.heard_nothing(Command::MessageData).await;
    assert_eq!(ben.history(Conversation::user(1)).await[0].from_user_id, 1);

    // Asking in another user's name gives the asker's own.
    let request = MessageListRequest {
        user_id: 2,
        session_type: Conversation::user(1).session_type().into(),
        session_id: 1,
        msg_id_begin: 0,
        msg_count: 10,
        ..MessageListRequest::default()
    };
    let reply: MessageListReply = carl.ask(Command::MessageListRequest, &request).await;
    assert_eq!((reply.user_id, reply.messages.len()), (3, 0));
    let request = MessagesByIdRequest {
        user_id: 2,
        session_type: Conversation::user(1).session_type().into(),
        session_id: 1,
        msg_ids: vec![1],
        ..MessagesByIdRequest::default()
    };
    let reply: MessagesByIdReply = ben.ask(Command::MessagesByIdRequest, &request).await;
    assert_eq!((reply.user_id, reply.messages.len()), (2, 1));
    let reply: MessagesByIdReply = carl.ask(Command::MessagesByIdRequest, &request).await;
    assert_eq!((reply.user_id, reply.messages.len()), (3, 0));
}

#[tokio::test]
async fn messages_that_cannot_be_are_not_answered_and_not_stored() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let mut outsider = Device::pc(&cluster.gateways[1], 11).await;
    let good = Draft::text(Conversation::user(2), "good").to_wire();
    let bad = [
        MessageData { msg_data: bytes(""), ..good.clone() },
        MessageData { to_session_id: 1, ..good.clone() },
        MessageData { to_session_id: 0, ..good.clone() },
        MessageData { msg_type: 3, ..good.clone() },
        MessageData { msg_type: 0x11, to_session_id: 4711, ..good.clone() },
        MessageData { msg_type: 0x02, msg_data: bytes("00000003"), ..good.clone() },
        MessageData { msg_data: vec![b'x'; 70_000].into(), ..good.clone() },
    ];
    for message in &bad {
        anna.send(Command::MessageData, message).await;
    }
    outsider
        .send(Command::MessageData, &Draft::text(Conversation::group(1), "let me in").to_wire())
        .await;
    // What is answered next is what was right.
    assert_eq!(anna.say(Conversation::user(2), "good").await, 1);
    assert_eq!(outsider.say(Conversation::user(2), "good").await, 1);
    anna.heard_nothing(Command::MessageAck).await;
    outsider.heard_nothing(Command::MessageAck).await;
    assert_eq!(anna.latest(Conversation::group(1)).await, 0);
}

#[tokio::test]
async fn what_was_answered_is_not_repeated_but_said_again() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let mut ben = Device::pc(&cluster.gateways[1], 2).await;
    let frame = encode_message(
        Command::MessageData,
        4711,
        &Draft::text(Conversation::user(2), "once").without_id().to_wire(),
    );
    let first = read_ack(anna.connection(), frame.clone()).await;
    let again = read_ack(anna.connection(), frame.clone()).await;
    assert_eq!((first.msg_id, again.msg_id), (1, 2), "some clients number every frame alike");
    // A program that logs in for each message, and closes when it was answered.
    drop(anna);
    let mut anna = Device::pc(&cluster.gateways[1], 1).await;
    assert_eq!(read_ack(anna.connection(), frame).await.msg_id, 3);
    for msg_id in 1..=3 {
        assert_eq!(ben.hears(1, Conversation::user(2), "once").await.msg_id, msg_id);
    }
    ben.heard_nothing(Command::MessageData).await;
    assert_eq!(ben.texts(Conversation::user(1)).await, ["once"; 3]);
}

#[tokio::test]
async fn signals_pass_to_all_devices_of_the_other_and_to_ones_own_others() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let mut anna = Device::pc(here, 1).await;
    let mut own_phone = Device::mobile(there, 1).await;
    let mut ben = Device::pc(there, 2).await;
    let mut bens_phone = Device::mobile(here, 2).await;
    let mut carl = Device::pc(here, 3).await;
    let data = r#"{"service_id":2,"cmd_id":131073,"content":"writing"}"#.to_owned();
    let signal = PeerSignal { from_user_id: 3, to_user_id: 2, data: data.clone() };
    anna.send(Command::PeerSignal, &signal).await;
    for device in [&mut ben, &mut bens_phone, &mut own_phone] {
        let heard: PeerSignal = device.push(Command::PeerSignal).await;
        assert_eq!(heard, PeerSignal { from_user_id: 1, to_user_id: 2, data: data.clone() });
    }
    anna.heard_nothing(Command::PeerSignal).await;
    carl.heard_nothing(Command::PeerSignal).await;
    assert_eq!(ben.unread().await, [].into(), "signals are not stored");
}

#[tokio::test]
async fn push_settings_are_kept_for_the_user() {
    let cluster = Cluster::start();
    let mut phone = Device::log_in(&cluster.gateways[0], 1, ClientType::Ios).await;
    let request = GetPushShieldRequest::default();
    let shield: GetPushShieldReply = phone.ask(Command::GetPushShieldRequest, &request).await;
    assert_eq!((shield.user_id, shield.result_code, shield.shield), (1, 0, Some(0)));
    let set = SetPushShieldRequest { user_id: 2, shield: 1, ..Default::default() };
    let reply: SetPushShieldReply = phone.ask(Command::SetPushShieldRequest, &set).await;
    assert_eq!((reply.user_id, reply.result_code, reply.shield), (1, 0, Some(1)));

    let mut pc = Device::pc(&cluster.gateways[1], 1).await;
    let shield: GetPushShieldReply = pc.ask(Command::GetPushShieldRequest, &request).await;
    assert_eq!(shield.shield, Some(1));
    let mut other = Device::pc(&cluster.gateways[1], 2).await;
    let shield: GetPushShieldReply = other.ask(Command::GetPushShieldRequest, &request).await;
    assert_eq!(shield.shield, Some(0), "who was named is not meant");

    let token = DeviceTokenRequest { device_token: "ab".repeat(32), ..Default::default() };
    let reply: DeviceTokenReply = phone.ask(Command::DeviceTokenRequest, &token).await;
    assert_eq!(reply.user_id, 1, "the original forgets this");
    // Only phones have one; a PC gets no answer, and is served as before.
    pc.send(Command::DeviceTokenRequest, &token).await;
    pc.heard_nothing(Command::DeviceTokenReply).await;
}

#[tokio::test]
async fn files_are_refused_in_the_form_that_clients_know() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let mut ben = Device::pc(&cluster.gateways[1], 2).await;
    let request = FileSendRequest {
        to_user_id: 2,
        file_name: "plan.pdf".into(),
        file_size: 1 << 20,
        mode: TransferMode::Online.into(),
        ..FileSendRequest::default()
    };
    let reply: FileSendReply = anna.ask(Command::FileSendRequest, &request).await;
    assert_ne!(reply.result_code, 0);
    assert_eq!((reply.from_user_id, reply.to_user_id), (1, 2));
    let request = OfflineFilesRequest::default();
    let reply: OfflineFilesReply = anna.ask(Command::OfflineFilesRequest, &request).await;
    assert_eq!(reply.user_id, 1);
    ben.heard_nothing(Command::FileNotify).await;
}

#[tokio::test]
async fn commands_that_are_not_for_clients_are_skipped() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    // A second login, something that only servers say, unknown numbers.
    for command in [0x0103, 0x0104, 0x0702, 0x0801, 0xffff] {
        let frame = Frame { command, seq: 5, body: bytes("") };
        anna.connection().send_frame(&frame).await.expect("send a frame");
    }
    anna.send(Command::LoginRequest, &login("u2")).await;
    anna.say(Conversation::user(3), "it is still me").await;
    let asked = UsersStatusRequest { user_ids: vec![1, 2, 2, 4711], ..Default::default() };
    let reply: proto::client::UsersStatusReply =
        anna.ask(Command::UsersStatusRequest, &asked).await;
    let ids: Vec<u32> = reply.users.iter().map(|user| user.user_id).collect();
    assert_eq!(ids, [1, 2, 2, 4711], "one entry for every id asked");
    let time: TimeReply = anna.ask(Command::TimeRequest, &TimeRequest {}).await;
    assert!(time.server_time >= anna.login.server_time);
}

#[tokio::test]
async fn headers_of_every_client_are_taken() {
    let cluster = Cluster::start();
    // Version, flag and reserved as seen from Windows, iOS, Android and others.
    for (version, flag, reserved) in [(1, 0, 0), (13, 0, 1), (6, 0, 48), (0, 1, 0), (9, 9, 9)] {
        let mut connection =
            Connection::connect(&cluster.gateways[0], None).await.expect("connect");
        let mut login = encode_message(Command::LoginRequest, 3, &login("u1")).to_vec();
        login[4..6].copy_from_slice(&u16::to_be_bytes(version));
        login[6..8].copy_from_slice(&u16::to_be_bytes(flag));
        login[14..16].copy_from_slice(&u16::to_be_bytes(reserved));
        // The service number is not looked at either.
        login[8..10].copy_from_slice(&u16::to_be_bytes(version));
        connection.send_bytes(&login).await.expect("send");
        let answer = connection.next_frame(PATIENCE).await.expect("an answer");
        assert_eq!((answer.known_command(), answer.seq), (Some(Command::LoginReply), 3));
    }
}

fn login(name: &str) -> proto::client::LoginRequest {
    proto::client::LoginRequest {
        user_name: name.to_owned(),
        password: client::password_field(PASSWORD),
        online_status: 0, // Anything outside 1 to 3 counts as online.
        client_type: ClientType::Windows.into(),
        client_version: None,
    }
}

/// Sends a whole frame with a message, and returns its ack.
async fn read_ack(connection: &mut Connection, frame: bytes::Bytes) -> proto::client::MessageAck {
    connection.send_bytes(&frame).await.expect("send a message");
    let answer = next_answer(connection, Command::MessageAck.number()).await;
    assert_eq!(answer.seq.to_be_bytes(), frame[12..14], "the ack has the seq of the message");
    answer.parse().expect("an ack can be read")
}

/// The next frame that is no push. The first with this command is, even if its seq is 0.
async fn next_answer(connection: &mut Connection, command: u16) -> Frame {
    loop {
        let frame = connection.next_frame(PATIENCE).await.expect("an answer");
        if frame.seq != 0 || frame.command == command {
            assert_eq!(frame.command, command, "{frame:?}");
            return frame;
        }
    }
}

/// Listed conversations with their newest ids, singles first.
async fn conversations(device: &mut Device) -> Vec<(Conversation, u32)> {
    let request = RecentSessionsRequest::default();
    let reply: RecentSessionsReply = device.ask(Command::RecentSessionsRequest, &request).await;
    assert_eq!(reply.user_id, device.user);
    assert!(
        reply
            .sessions
            .is_sorted_by_key(|conversation| std::cmp::Reverse(conversation.updated_time))
    );
    let listed = reply.sessions.iter().map(|listed| {
        let conversation = Conversation::from_wire(listed.session_type, listed.session_id);
        (conversation.expect("a known type"), listed.latest_msg_id)
    });
    let mut listed: Vec<_> = listed.collect();
    listed.sort_unstable();
    listed
}

fn bytes(hex: &str) -> bytes::Bytes {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a hex digit");
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::try_from(digit(pair[0]) << 4 | digit(pair[1])).expect("a byte")).collect()
}
