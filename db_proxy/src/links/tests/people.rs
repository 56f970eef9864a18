//! Users, departments, and what users change in their own records.

use std::collections::BTreeSet;

use partition::test::{USERS, user};
use proto::client::{
    AllUsersReply, AllUsersRequest, ChangeAvatarReply, ChangeAvatarRequest, ChangeSignatureReply,
    ChangeSignatureRequest, ClientType, DepartmentsReply, DepartmentsRequest, DeviceTokenRequest,
    GetPushShieldReply, GetPushShieldRequest, LogoutReply, LogoutRequest, SetPushShieldReply,
    SetPushShieldRequest, UsersInfoReply, UsersInfoRequest,
};
use store::{NewUser, UserChange, UserStore};

use super::*;

#[tokio::test]
async fn five_thousand_users_come_in_as_many_replies_as_it_takes() {
    let server = Server::start().await;
    let users = (1_000..6_000).map(|id| {
        let nick = format!("{id:0>90}");
        NewUser { nick, ..user(id, &format!("p{id}")) }
    });
    server.proxy.store.add_users(users.collect(), false).await.unwrap();
    let expected: BTreeSet<u32> = (1..=USERS).chain(1_000..6_000).collect();
    let parts = server.user_parts(0).await;
    assert!(parts.len() > 1);
    let stamps: Vec<u32> = parts.iter().map(|part| part.latest_update_time).collect();
    assert!(stamps.is_sorted_by(|one, next| one < next), "{stamps:?}");
    assert!(parts.iter().all(|part| part.user_id == 1), "Android takes no other");
    let told = parts.iter().flat_map(|part| &part.users).map(|user| user.user_id);
    let told: Vec<u32> = told.collect();
    assert_eq!(told.len(), expected.len(), "each once");
    assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), expected);
    // A client that takes only the first part of each answer gets on from login to login.
    assert_eq!(server.first_parts(0).await, expected);
    server.stop().await;
}

#[tokio::test]
async fn a_list_of_users_gets_on_whatever_their_records_hold() {
    let server = Server::start().await;
    // More of one stamp than a frame takes, as only another program could have written them.
    let users = (1_000..1_200).map(|id| {
        let nick = format!("{id:x>5000}");
        NewUser { nick, ..user(id, &format!("p{id}")) }
    });
    server.proxy.store.add_users(users.collect(), false).await.unwrap();
    server.proxy.store.add_users(vec![user(2_000, "last")], false).await.unwrap();
    let expected: BTreeSet<u32> = (1..=USERS).chain(1_000..1_200).chain([2_000]).collect();
    assert_eq!(server.all_users(0).await, expected);
    server.stop().await;
}

#[tokio::test]
async fn those_who_have_left_are_told_of_only_to_those_who_knew_them() {
    let server = Server::start().await;
    let users = (1_000..10_000).map(|id| user(id, &format!("p{id}")));
    server.proxy.store.add_users(users.collect(), false).await.unwrap();
    let path = server.proxy.setup.store_path();
    tokio::task::spawn_blocking(move || {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection
            .execute("UPDATE user SET status = 3 WHERE id BETWEEN 1000 AND 9990", [])
            .unwrap();
    })
    .await
    .unwrap();
    let seen = server.all_users(0).await;
    let expected: BTreeSet<u32> = (1..=USERS).chain(9_991..10_000).collect();
    assert_eq!(seen, expected, "those behind 8,991 who have left, and none of these");

    let before = server.users_since(0).await.latest_update_time;
    server.proxy.store.change_user(UserId(5), UserChange::Status(3)).await.unwrap();
    let changed = server.users_since(before.max(1)).await;
    let left = changed.users.iter().find(|user| user.user_id == 5);
    assert!(left.is_none_or(|user| user.employment == 3));
    let newest = server.newest().await;
    let changed = server.users_since(newest).await;
    assert_eq!(changed.users.iter().map(|user| user.user_id).collect::<Vec<_>>(), [5]);
    assert_eq!(changed.users[0].employment, 3);
    server.stop().await;
}

#[tokio::test]
async fn every_change_of_a_user_raises_the_stamp() {
    let server = Server::start().await;
    let first = server.newest().await;
    let asked_again = server.users_since(first + 1_000_000).await;
    assert_eq!(asked_again.latest_update_time, first + 1_000_000, "never less than was asked");
    assert!(asked_again.users.is_empty());

    let signature = "至少一百二十八".to_owned();
    let request = ChangeSignatureRequest { signature: signature.clone(), ..Default::default() };
    let answer = server.answer(3, Command::ChangeSignatureRequest, &request).await;
    assert_eq!(answer.changed, Some(true));
    let reply = ChangeSignatureReply::decode(answer.body.unwrap()).unwrap();
    assert_eq!((reply.user_id, reply.result_code), (3, 0));
    let second = server.newest().await;
    assert!(second > first);
    let changed = server.users_since(second).await;
    assert_eq!(changed.users[0].signature, Some(signature));

    let avatar_url = "http://example/1.png".to_owned();
    let request = ChangeAvatarRequest { avatar_url: avatar_url.clone(), ..Default::default() };
    let answer = server.answer(4, Command::ChangeAvatarRequest, &request).await;
    assert_eq!(answer.changed, Some(true));
    assert!(server.newest().await > second);
    assert_eq!(server.users_info(&[4]).await.users[0].avatar_url, avatar_url);
    server.stop().await;
}

#[tokio::test]
async fn what_is_too_long_is_refused() {
    let server = Server::start().await;
    let request = ChangeSignatureRequest { signature: "x".repeat(129), ..Default::default() };
    let answer = server.answer(3, Command::ChangeSignatureRequest, &request).await;
    assert_eq!(answer.changed, Some(false));
    let reply = ChangeSignatureReply::decode(answer.body.unwrap()).unwrap();
    assert_eq!((reply.result_code, reply.signature), (1, None));
    let request = ChangeAvatarRequest { avatar_url: "x".repeat(1_025), ..Default::default() };
    let answer = server.answer(3, Command::ChangeAvatarRequest, &request).await;
    assert_eq!(answer.changed, Some(false));
    assert_eq!(ChangeAvatarReply::decode(answer.body.unwrap()).unwrap().result_code, 1);
    server.stop().await;
}

#[tokio::test]
async fn what_is_just_short_enough_is_taken() {
    let server = Server::start().await;
    let request = ChangeSignatureRequest { signature: "x".repeat(128), ..Default::default() };
    let answer = server.answer(3, Command::ChangeSignatureRequest, &request).await;
    assert_eq!(answer.changed, Some(true));
    let request = ChangeAvatarRequest { avatar_url: "x".repeat(1_024), ..Default::default() };
    let answer = server.answer(3, Command::ChangeAvatarRequest, &request).await;
    assert_eq!(answer.changed, Some(true));
    let user = server.users_info(&[3]).await.users.remove(0);
    assert_eq!((user.signature.map(|it| it.len()), user.avatar_url.len()), (Some(128), 1_024));
    let request = DeviceTokenRequest { device_token: "x".repeat(512), ..Default::default() };
    let body = request.encode_to_vec();
    server.answer_to(3, ClientType::Ios as u32, Command::DeviceTokenRequest, body).await;
    assert_eq!(server.tokens().await, ["x".repeat(512)]);
    server.stop().await;
}

#[tokio::test]
async fn a_token_is_that_of_the_kind_of_phone_that_the_request_names() {
    const IOS: u32 = ClientType::Ios as u32;
    let server = Server::start().await;
    let kinds = [(None, "of the login"), (Some(ClientType::Windows), "of no PC")];
    for (client_type, device_token) in kinds {
        let client_type = client_type.map(i32::from);
        let device_token = device_token.to_owned();
        let request = DeviceTokenRequest { device_token, client_type, ..Default::default() };
        let body = request.encode_to_vec();
        server.answer_to(1, IOS, Command::DeviceTokenRequest, body).await;
        // The newer token of one kind takes the place of the older one.
        let expected = [(IOS, request.device_token)];
        assert_eq!(server.kinds_and_tokens().await, expected, "a PC has no token");
    }
    let request = DeviceTokenRequest {
        device_token: "of another phone".to_owned(),
        client_type: Some(ClientType::Android.into()),
        ..Default::default()
    };
    server.answer_to(1, IOS, Command::DeviceTokenRequest, request.encode_to_vec()).await;
    let kinds: Vec<u32> = server.kinds_and_tokens().await.into_iter().map(|it| it.0).collect();
    assert_eq!(kinds, [IOS, ClientType::Android as u32]);
    server.stop().await;
}

#[tokio::test]
async fn users_are_given_by_number() {
    let server = Server::start().await;
    let reply = server.users_info(&[3, 999, 1]).await;
    let mut ids: Vec<u32> = reply.users.iter().map(|user| user.user_id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 3]);
    let again_and_again: Vec<u32> = (0..20_000).map(|number| 1 + number % USERS).collect();
    server.users_info(&again_and_again).await;
    server.stop().await;
}

#[tokio::test]
async fn more_records_than_fit_a_frame_come_in_parts() {
    let server = Server::start().await;
    let users = (1_000..4_000).map(|id| {
        let nick = format!("{id:x>300}");
        NewUser { nick, ..user(id, &format!("p{id}")) }
    });
    server.proxy.store.add_users(users.collect(), false).await.unwrap();
    let mut asked: Vec<u32> = (1_000..4_000).rev().collect();
    // No user, and one user for a second time.
    asked.splice(1_500..1_500, [999_999, 3_999]);
    let request = UsersInfoRequest { user_ids: asked, ..Default::default() };
    let commands = (Command::UsersInfoRequest, Command::UsersInfoReply);
    let parts: Vec<UsersInfoReply> = server.parts(1, commands, &request).await;
    assert!(parts.len() > 1);
    let told = parts.iter().flat_map(|part| &part.users).map(|user| user.user_id);
    assert_eq!(told.collect::<BTreeSet<u32>>(), (1_000..4_000).collect());
    server.stop().await;
}

#[tokio::test]
async fn ten_thousand_departments_come_in_parts() {
    let server = Server::start().await;
    let path = server.proxy.setup.store_path();
    tokio::task::spawn_blocking(move || {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection
            .execute(
                "INSERT INTO department (id, priority, name, parent, status, stamp)
                 WITH RECURSIVE n(id) AS (SELECT 2 UNION ALL SELECT id + 1 FROM n WHERE id < 10000)
                 SELECT id, id, printf('department %029d', id), 1, 0, 5 FROM n",
                [],
            )
            .unwrap();
    })
    .await
    .unwrap();
    let commands = (Command::DepartmentsRequest, Command::DepartmentsReply);
    let parts: Vec<DepartmentsReply> =
        server.parts(1, commands, &DepartmentsRequest::default()).await;
    assert!(parts.len() > 1);
    let told = parts.iter().flat_map(|part| &part.departments).map(|one| one.department_id);
    assert_eq!(told.collect::<Vec<u32>>(), (1..=10_000).collect::<Vec<_>>());
    assert!(parts.is_sorted_by(|one, next| one.latest_update_time < next.latest_update_time));
    server.stop().await;
}

#[tokio::test]
async fn departments_of_the_second_that_a_client_names_come_again() {
    let server = Server::start().await;
    let commands = (Command::DepartmentsRequest, Command::DepartmentsReply);
    let all: DepartmentsReply = server.ask(1, commands, &DepartmentsRequest::default()).await;
    assert_eq!((all.departments.len(), all.departments[0].department_id), (1, 1));
    let request = DepartmentsRequest {
        latest_update_time: all.latest_update_time,
        ..DepartmentsRequest::default()
    };
    let again: DepartmentsReply = server.ask(1, commands, &request).await;
    assert_eq!(again, all, "one that changed in this very second must not be missed");
    let latest_update_time = all.latest_update_time + 1;
    let request = DepartmentsRequest { latest_update_time, ..request };
    let none: DepartmentsReply = server.ask(1, commands, &request).await;
    assert_eq!((none.departments, none.latest_update_time), (Vec::new(), latest_update_time));
    server.stop().await;
}

#[tokio::test]
async fn a_phone_gives_its_token_and_takes_it_back_at_logout() {
    const IOS: u32 = ClientType::Ios as u32;
    let server = Server::start().await;
    let token = |text: &str| {
        let device_token = text.to_owned();
        DeviceTokenRequest { device_token, ..Default::default() }.encode_to_vec()
    };
    let asked = Command::DeviceTokenRequest;
    let reply = server.answer_to(1, IOS, asked, token("token")).await;
    assert_eq!(reply.command, Some(u32::from(Command::DeviceTokenReply.number())));
    assert_eq!(server.tokens().await, ["token"]);
    assert_eq!(server.answer_to(1, 1, asked, token("pc")).await, ignored());
    assert_eq!(server.answer_to(1, IOS, asked, token(&"x".repeat(513))).await, ignored());
    for client_type in [1, IOS] {
        let body = LogoutRequest::default().encode_to_vec();
        let reply = server.answer_to(1, client_type, Command::LogoutRequest, body).await;
        let reply = LogoutReply::decode(reply.body.unwrap()).unwrap();
        assert_eq!(reply.result_code, 0);
        let left = server.tokens().await;
        assert_eq!(left.is_empty(), client_type == IOS, "a PC's logout is not the phone's");
    }
    server.stop().await;
}

#[tokio::test]
async fn pushes_at_night_are_turned_off_and_on() {
    let server = Server::start().await;
    for shield in [1, 0, 1] {
        let request = SetPushShieldRequest { user_id: 0, shield, attach_data: None };
        let commands = (Command::SetPushShieldRequest, Command::SetPushShieldReply);
        let set: SetPushShieldReply = server.ask(2, commands, &request).await;
        assert_eq!((set.result_code, set.shield), (0, Some(shield)));
        let commands = (Command::GetPushShieldRequest, Command::GetPushShieldReply);
        let got: GetPushShieldReply =
            server.ask(2, commands, &GetPushShieldRequest::default()).await;
        assert_eq!((got.result_code, got.shield), (0, Some(shield)));
    }
    server.stop().await;
}

impl Server {
    async fn users_since(&self, latest_update_time: u32) -> AllUsersReply {
        let request = AllUsersRequest { latest_update_time, ..Default::default() };
        let commands = (Command::AllUsersRequest, Command::AllUsersReply);
        self.ask(1, commands, &request).await
    }

    /// The newest stamp there is.
    async fn newest(&self) -> u32 {
        let mut stamp = 0;
        loop {
            let reply = self.users_since(stamp).await.latest_update_time;
            if reply == stamp {
                return stamp;
            }
            stamp = reply;
        }
    }

    async fn user_parts(&self, latest_update_time: u32) -> Vec<AllUsersReply> {
        let request = AllUsersRequest { latest_update_time, ..Default::default() };
        self.parts(1, (Command::AllUsersRequest, Command::AllUsersReply), &request).await
    }

    /// All users that one request brings.
    async fn all_users(&self, since: u32) -> BTreeSet<u32> {
        let parts = self.user_parts(since).await;
        parts.iter().flat_map(|part| &part.users).map(|user| user.user_id).collect()
    }

    /// All users that the first parts of requests, one after the other, bring, until nothing is new.
    async fn first_parts(&self, since: u32) -> BTreeSet<u32> {
        let (mut stamp, mut seen) = (since, BTreeSet::new());
        for requests in 0.. {
            let reply = self.users_since(stamp).await;
            seen.extend(reply.users.iter().map(|user| user.user_id));
            if reply.latest_update_time == stamp {
                return seen;
            }
            assert!(reply.latest_update_time > stamp && requests < 100, "it gets on");
            stamp = reply.latest_update_time;
        }
        seen
    }

    async fn users_info(&self, ids: &[u32]) -> UsersInfoReply {
        let request = UsersInfoRequest { user_ids: ids.to_vec(), ..Default::default() };
        self.ask(1, (Command::UsersInfoRequest, Command::UsersInfoReply), &request).await
    }

    async fn tokens(&self) -> Vec<String> {
        self.kinds_and_tokens().await.into_iter().map(|(_kind, token)| token).collect()
    }

    async fn kinds_and_tokens(&self) -> Vec<(u32, String)> {
        let path = self.proxy.setup.store_path();
        let read = move || {
            let connection = rusqlite::Connection::open(path).unwrap();
            let query = "SELECT client_type, token FROM device_token ORDER BY client_type";
            let mut statement = connection.prepare(query).unwrap();
            let tokens = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            tokens.collect::<Result<_, _>>().unwrap()
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }
}
