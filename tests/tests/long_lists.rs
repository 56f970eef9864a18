//! What does not fit one frame, as each of the original clients takes it: everything is there after
//! one login.

use std::collections::{BTreeMap, BTreeSet};

use client::{ClientType, Conversation, Draft};
use proto::client::{
    AllUsersReply, AllUsersRequest, MessageListReply, MessageListRequest, TimeRequest,
};
use proto::{Command, Frame, encode_message};
use tests::{Cluster, Device, Options, PATIENCE};

/// What Android's client takes.
const FRAME_MAX: usize = 409_600;

const CLIENTS: [ClientType; 4] =
    [ClientType::Windows, ClientType::Mac, ClientType::Ios, ClientType::Android];

/// The frames that answer a request, in their order. All of them have come when the request behind it
/// is answered.
async fn frames(
    device: &mut Device,
    (command, seq): (Command, u16),
    request: &impl prost::Message,
) -> Vec<Frame> {
    const NEXT: u16 = 32_000;
    let connection = device.connection();
    connection.send_bytes(&encode_message(command, seq, request)).await.expect("send a request");
    let next = encode_message(Command::TimeRequest, NEXT, &TimeRequest {});
    connection.send_bytes(&next).await.expect("send another");
    let mut frames = Vec::new();
    loop {
        let frame = connection.next_frame(PATIENCE).await.expect("a frame");
        assert!(16 + frame.body.len() < FRAME_MAX, "{} bytes", frame.body.len());
        if frame.seq == NEXT {
            return frames;
        }
        if frame.command == command.number() + 1 {
            assert_eq!(frame.seq, seq, "an answer has the seq of its request");
            frames.push(frame);
        } else {
            assert_eq!(frame.seq, 0, "the rest are pushes: {:#06x}", frame.command);
        }
    }
}

#[tokio::test]
async fn a_long_history_of_large_messages_is_walked_back_to_its_beginning() {
    const MESSAGES: u32 = 20;
    const PAGE: u32 = 18;
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    for number in 1..=MESSAGES {
        let audio = vec![u8::try_from(number).expect("few"); 60_000];
        let voice = Draft::voice(Conversation::user(2), 9, &audio).without_id();
        anna.connection().send_message(&voice).await.expect("it is acknowledged");
    }
    for client_type in CLIENTS {
        let mut ben = Device::log_in(&cluster.gateways[1], 2, client_type).await;
        // Windows marks its requests for history by these numbers; others count.
        let seq = if client_type == ClientType::Windows { 0xFF01 } else { 40 };
        let (mut seen, mut begin) = (BTreeMap::new(), 0);
        loop {
            let request = MessageListRequest {
                session_type: 1,
                session_id: 1,
                msg_id_begin: begin,
                msg_count: PAGE,
                ..MessageListRequest::default()
            };
            let frames = frames(&mut ben, (Command::MessageListRequest, seq), &request).await;
            let mut count = 0;
            for frame in &frames {
                let reply: MessageListReply = frame.parse().expect("a page");
                assert_eq!((reply.user_id, reply.session_id), (2, 1));
                count += reply.messages.len();
                let bodies = reply.messages.into_iter().map(|one| (one.msg_id, one.msg_data));
                seen.extend(bodies);
            }
            // Original clients go on below the lowest unless there was less than they asked for.
            begin = seen.keys().next().map_or(0, |lowest| lowest - 1);
            if count < PAGE as usize || begin == 0 {
                break;
            }
        }
        assert_eq!(seen.len(), MESSAGES as usize, "{client_type:?}");
        for (msg_id, body) in seen {
            assert_eq!(body.len(), 4 + 60_000);
            assert_eq!(u32::from(body[4]), msg_id, "{client_type:?}");
        }
    }
}

#[tokio::test]
async fn twelve_thousand_colleagues_are_known_after_one_login() {
    const USERS: u32 = 12_000;
    let cluster = Cluster::start_with(&Options { users: USERS, ..Options::default() });
    let all: BTreeSet<u32> = (1..=USERS).collect();
    for client_type in CLIENTS {
        let mut device = Device::log_in(&cluster.gateways[0], 2, client_type).await;
        let seq = if client_type == ClientType::Windows { 0 } else { 40 };
        let request = AllUsersRequest::default();
        let asked = (Command::AllUsersRequest, seq);
        // What the client keeps: the known users, and the stamp to ask with next time.
        let (mut known, mut stamp) = (BTreeSet::new(), 0);
        for frame in frames(&mut device, asked, &request).await {
            let reply: AllUsersReply = frame.parse().expect("users");
            // Android takes only its own; Windows only a stamp that it does not have.
            assert_eq!(reply.user_id, 2);
            assert_ne!(reply.latest_update_time, stamp, "{client_type:?}");
            stamp = reply.latest_update_time;
            known.extend(reply.users.iter().map(|user| user.user_id));
        }
        assert!(known == all, "{client_type:?} knows {} users", known.len());

        let request = AllUsersRequest { latest_update_time: stamp, ..request };
        let again = frames(&mut device, asked, &request).await;
        let again: Vec<AllUsersReply> =
            again.iter().map(|frame| frame.parse().expect("users")).collect();
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].latest_update_time, stamp, "iOS leaves that out: nothing is new");
    }
}

#[tokio::test]
async fn a_client_that_takes_only_the_first_frame_knows_all_colleagues_after_asking_twice() {
    const USERS: u32 = 12_000;
    let cluster = Cluster::start_with(&Options { users: USERS, ..Options::default() });
    // iOS asks twice when its store is empty, and does not wait for the first answer.
    let mut ios = Device::log_in(&cluster.gateways[0], 2, ClientType::Ios).await;
    let (mut known, mut stamp) = (BTreeSet::new(), 0);
    for seq in [5, 6] {
        let asked = (Command::AllUsersRequest, seq);
        let frames = frames(&mut ios, asked, &AllUsersRequest::default()).await;
        let first: AllUsersReply = frames[0].parse().expect("users");
        assert!(first.latest_update_time > stamp, "it goes on from there at the next login");
        stamp = first.latest_update_time;
        known.extend(first.users.iter().map(|user| user.user_id));
    }
    assert_eq!(known.len(), USERS as usize);
}
