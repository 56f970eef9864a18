//! Groups: which users may make and change them, which hear of it, and what outsiders get.

use client::{Conversation, Draft, SendReply, hello};
use proto::Command;
use proto::client::{
    ClientType, GroupChange, GroupChangeMembersReply, GroupChangeMembersRequest, GroupCreateReply,
    GroupCreateRequest, GroupDeleteReply, GroupDeleteRequest, GroupInfo, GroupInfoReply,
    GroupInfoRequest, GroupMembersNotify, GroupMuteReply, GroupMuteRequest, GroupType,
    GroupVersion, MessagesByIdReply, MessagesByIdRequest, NormalGroupsReply, NormalGroupsRequest,
    RefuseReason, SendOutcome,
};
use tests::{Cluster, Device, PASSWORD};

#[tokio::test]
async fn a_user_makes_a_group_and_all_members_hear_its_messages() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let mut anna = Device::pc(here, 1).await;
    let mut ben = Device::pc(there, 2).await;
    let mut carl = Device::mobile(here, 3).await;
    let group = create(&mut anna, &[1, 2, 3, 2]).await;
    let conversation = Conversation::group(group);
    anna.say(conversation, "welcome").await;
    for member in [&mut ben, &mut carl] {
        assert_eq!(member.hears(1, conversation, "welcome").await.msg_id, 1);
        assert_eq!(member.unread().await, [(conversation, 1)].into());
    }
    let record = info(&mut ben, group, 0).await.expect("a member may look");
    assert_eq!((record.version, record.creator_id), (1, 1));
    assert_eq!((record.name.as_str(), record.group_type()), ("climbing", GroupType::Temporary));
    assert_eq!(record.member_ids, [1, 2, 3]);
    assert_eq!(info(&mut ben, group, 1).await, None, "this is the newest version");
    // Made by a user, so it is not among the normal ones.
    assert_eq!(normal_groups(&mut anna).await, [(1, 1)]);
}

#[tokio::test]
async fn members_come_and_go_and_everybody_concerned_is_told() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let mut anna = Device::pc(here, 1).await;
    let mut annas_phone = Device::mobile(there, 1).await;
    let mut ben = Device::pc(there, 2).await;
    let mut carl = Device::pc(there, 3).await;
    let group = create(&mut anna, &[1, 2]).await;
    let conversation = Conversation::group(group);
    anna.say(conversation, "before carl").await;
    ben.hears(1, conversation, "before carl").await;

    // Every member may add, and only the ids that are really new count.
    let reply = change(&mut ben, group, GroupChange::Add, &[3, 1]).await;
    assert_eq!((reply.result_code, &reply.current_ids[..]), (0, &[1, 2, 3][..]));
    assert_eq!(reply.changed_ids, [3]);
    for device in [&mut anna, &mut annas_phone, &mut carl] {
        let told: GroupMembersNotify = device.push(Command::GroupMembersNotify).await;
        assert_eq!((told.user_id, told.group_id), (2, group));
        assert_eq!(told.change(), GroupChange::Add);
        assert_eq!((told.current_ids, told.changed_ids), (vec![1, 2, 3], vec![3]));
    }
    ben.heard_nothing(Command::GroupMembersNotify).await;
    assert_eq!(info(&mut carl, group, 1).await.expect("a newer version").version, 2);

    // A member who came later hears what is said from then on, and sees nothing from before.
    anna.say(conversation, "hello carl").await;
    carl.hears(1, conversation, "hello carl").await;
    assert_eq!(carl.texts(conversation).await, ["hello carl"]);
    assert_eq!(carl.unread().await, [(conversation, 1)].into());

    let reply = change(&mut anna, group, GroupChange::Remove, &[3]).await;
    assert_eq!((reply.result_code, reply.changed_ids), (0, vec![3]));
    for device in [&mut ben, &mut annas_phone, &mut carl] {
        let told: GroupMembersNotify = device
            .push_that(Command::GroupMembersNotify, |told: &GroupMembersNotify| {
                told.change() == GroupChange::Remove
            })
            .await;
        assert_eq!((told.user_id, told.changed_ids, told.current_ids), (1, vec![3], vec![1, 2]));
    }
    anna.say(conversation, "without carl").await;
    ben.hears(1, conversation, "without carl").await;
    carl.heard_nothing(Command::MessageData).await;
    assert_sees_nothing(&mut carl, group).await;
    assert_eq!(carl.unread().await, [].into());
}

#[tokio::test]
async fn old_clients_hear_of_a_deleted_group_as_of_a_removal_and_it_is_gone() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let mut ben = Device::pc(there, 2).await;
    let mut carl = Device::mobile(here, 3).await;
    // The creator's client knows the extension.
    let mut anna = client::Connection::connect(there, None).await.expect("connect");
    anna.login("u1", PASSWORD, ClientType::Mac, Some(hello())).await.expect("u1 logs in");
    let mut annas_phone = Device::mobile(here, 1).await;
    let group = create(&mut annas_phone, &[1, 2, 3]).await;
    let conversation = Conversation::group(group);
    annas_phone.say(conversation, "soon over").await;
    ben.hears(1, conversation, "soon over").await;

    // An old client cannot ask for it, nor can a member who has not made the group.
    let request = GroupDeleteRequest { group_id: group };
    annas_phone.send(Command::GroupDeleteRequest, &request).await;
    annas_phone.heard_nothing(Command::GroupDeleteReply).await;
    assert!(info(&mut ben, group, 0).await.is_some(), "it is still there");

    let reply: GroupDeleteReply =
        anna.call(Command::GroupDeleteRequest, &request).await.expect("an answer");
    assert_eq!((reply.group_id, reply.result_code), (group, 0));
    for device in [&mut ben, &mut carl, &mut annas_phone] {
        let told: GroupMembersNotify = device.push(Command::GroupMembersNotify).await;
        assert_eq!((told.user_id, told.group_id), (1, group));
        assert_eq!(told.change(), GroupChange::Remove);
        assert_eq!((told.current_ids, told.changed_ids), (vec![], vec![1, 2, 3]));
        assert_sees_nothing(device, group).await;
        assert_eq!(device.unread().await, [].into());
    }
    assert_eq!(change(&mut ben, group, GroupChange::Add, &[2]).await.result_code, 1);
}

#[tokio::test]
async fn outsiders_get_nothing_and_change_nothing() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let mut stranger = Device::pc(&cluster.gateways[1], 11).await;
    anna.say(Conversation::group(1), "among ourselves").await;
    assert_sees_nothing(&mut stranger, 1).await;
    for (kind, ids) in [(GroupChange::Add, &[11][..]), (GroupChange::Remove, &[2])] {
        let reply = change(&mut stranger, 1, kind, ids).await;
        assert_eq!((reply.result_code, reply.current_ids, reply.changed_ids), (1, vec![], vec![]));
    }
    let reply = change(&mut stranger, 4711, GroupChange::Add, &[11]).await;
    assert_eq!(reply.result_code, 1, "there is no such group");
    let request = GroupMuteRequest { group_id: 1, muted: 1, ..Default::default() };
    let reply: GroupMuteReply = stranger.ask(Command::GroupMuteRequest, &request).await;
    assert_eq!((reply.group_id, reply.result_code), (1, 1));
    // Not even the creator's number helps.
    let forged = GroupChangeMembersRequest {
        user_id: 1,
        change: GroupChange::Add.into(),
        group_id: 1,
        member_ids: vec![11],
        ..GroupChangeMembersRequest::default()
    };
    let reply: GroupChangeMembersReply =
        stranger.ask(Command::GroupChangeMembersRequest, &forged).await;
    assert_eq!(reply.result_code, 1);
    anna.heard_nothing(Command::GroupMembersNotify).await;
    assert_eq!(info(&mut anna, 1, 0).await.expect("the group").version, 1);
}

#[tokio::test]
async fn only_the_creator_removes_and_changes_a_normal_group() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let mut ben = Device::pc(&cluster.gateways[1], 2).await;
    let group = create(&mut anna, &[1, 2, 3]).await;
    assert_eq!(change(&mut ben, group, GroupChange::Remove, &[3]).await.result_code, 1);
    assert_eq!(change(&mut ben, 1, GroupChange::Add, &[11]).await.result_code, 1);
    assert_eq!(change(&mut anna, 1, GroupChange::Add, &[11]).await.result_code, 0);
    assert_eq!(normal_groups(&mut ben).await, [(1, 2)], "the version has risen");
    assert_eq!(info(&mut ben, 1, 1).await.expect("it is newer").member_ids.len(), 11);
}

#[tokio::test]
async fn a_group_without_a_name_or_members_or_of_the_wrong_type_is_not_made() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let good = GroupCreateRequest {
        group_type: GroupType::Temporary.into(),
        name: "climbing".into(),
        member_ids: vec![1, 2],
        ..GroupCreateRequest::default()
    };
    let nameless = GroupCreateRequest { name: String::new(), ..good.clone() };
    let empty = GroupCreateRequest { member_ids: vec![], ..good.clone() };
    for request in [&nameless, &empty] {
        let reply: GroupCreateReply = anna.ask(Command::GroupCreateRequest, request).await;
        assert_eq!((reply.result_code, reply.group_id), (1, None));
    }
    // Normal ones are made by administrators; the original does not even answer.
    let normal = GroupCreateRequest { group_type: GroupType::Normal.into(), ..good };
    anna.send(Command::GroupCreateRequest, &normal).await;
    anna.heard_nothing(Command::GroupCreateReply).await;
    assert_eq!(normal_groups(&mut anna).await, [(1, 1)]);
}

#[tokio::test]
async fn muting_is_remembered_and_delivery_goes_on() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let mut ben = Device::pc(&cluster.gateways[1], 2).await;
    for muted in [1, 0, 1] {
        let request = GroupMuteRequest { group_id: 1, muted, ..Default::default() };
        let reply: GroupMuteReply = ben.ask(Command::GroupMuteRequest, &request).await;
        assert_eq!((reply.user_id, reply.group_id, reply.result_code), (2, 1, 0));
        assert_eq!(info(&mut ben, 1, 0).await.expect("the group").muted, muted);
        assert_eq!(info(&mut anna, 1, 0).await.expect("the group").muted, 0, "for him alone");
    }
    anna.say(Conversation::group(1), "still heard").await;
    ben.hears(1, Conversation::group(1), "still heard").await;
}

#[tokio::test]
async fn a_client_with_the_extension_is_told_why_a_message_is_refused() {
    let cluster = Cluster::start();
    let mut connection =
        client::Connection::connect(&cluster.gateways[0], None).await.expect("connect");
    let login = connection.login("u11", PASSWORD, ClientType::Mac, Some(hello())).await;
    assert!(login.expect("u11 logs in").hello.is_some(), "the server knows the extension");
    let cases = [
        (Conversation::group(1), RefuseReason::NotMember),
        // A stranger does not learn which groups there are.
        (Conversation::group(4711), RefuseReason::NotMember),
        (Conversation::user(4711), RefuseReason::NoSuchPeer),
        (Conversation::user(11), RefuseReason::Self_),
    ];
    for (conversation, reason) in cases {
        let draft = Draft::text(conversation, "may I?");
        let reply = connection.send_message(&draft).await.expect("an answer");
        let SendReply::Result(result) = reply else { panic!("{conversation:?}: {reply:?}") };
        assert_eq!(result.outcome(), SendOutcome::Refused, "{conversation:?}: {result:?}");
        assert_eq!(result.reason, Some(reason.into()), "{conversation:?}: {result:?}");
        assert_eq!(
            Some(&result.client_msg_id[..]),
            draft.client_msg_id.as_ref().map(|id| &id.0[..])
        );
    }
    let draft = Draft::text(Conversation::user(1), "may I?");
    for draft in [draft.clone(), draft.again()] {
        let reply = connection.send_message(&draft).await.expect("an answer");
        let SendReply::Result(result) = reply else { panic!("{reply:?}") };
        assert_eq!((result.outcome(), result.msg_id), (SendOutcome::Ok, Some(1)));
    }
}

async fn create(creator: &mut Device, members: &[u32]) -> u32 {
    let request = GroupCreateRequest {
        group_type: GroupType::Temporary.into(),
        name: "climbing".into(),
        member_ids: members.to_vec(),
        ..GroupCreateRequest::default()
    };
    let reply: GroupCreateReply = creator.ask(Command::GroupCreateRequest, &request).await;
    assert_eq!((reply.user_id, reply.result_code), (creator.user, 0));
    assert_eq!(reply.name, "climbing");
    let mut expected = members.to_vec();
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(reply.member_ids, expected, "each once");
    reply.group_id.expect("a group that was made has a number")
}

async fn change(
    device: &mut Device,
    group: u32,
    change: GroupChange,
    members: &[u32],
) -> GroupChangeMembersReply {
    let request = GroupChangeMembersRequest {
        change: change.into(),
        group_id: group,
        member_ids: members.to_vec(),
        ..GroupChangeMembersRequest::default()
    };
    let reply: GroupChangeMembersReply =
        device.ask(Command::GroupChangeMembersRequest, &request).await;
    assert_eq!((reply.user_id, reply.group_id), (device.user, group));
    assert_eq!(reply.change(), change, "as asked");
    reply
}

/// The record of a group, if it is newer than `version` and the device may see it.
async fn info(device: &mut Device, group: u32, version: u32) -> Option<GroupInfo> {
    let groups = vec![GroupVersion { group_id: group, version }];
    let request = GroupInfoRequest { groups, ..GroupInfoRequest::default() };
    let reply: GroupInfoReply = device.ask(Command::GroupInfoRequest, &request).await;
    assert_eq!(reply.user_id, device.user, "Android ignores the reply otherwise");
    assert!(reply.groups.len() <= 1);
    reply.groups.into_iter().next()
}

async fn normal_groups(device: &mut Device) -> Vec<(u32, u32)> {
    let request = NormalGroupsRequest::default();
    let reply: NormalGroupsReply = device.ask(Command::NormalGroupsRequest, &request).await;
    assert_eq!(reply.user_id, device.user);
    reply.groups.iter().map(|group| (group.group_id, group.version)).collect()
}

async fn assert_sees_nothing(device: &mut Device, group: u32) {
    let conversation = Conversation::group(group);
    assert_eq!(device.history(conversation).await, []);
    assert_eq!(device.latest(conversation).await, 0);
    let request = MessagesByIdRequest {
        session_type: conversation.session_type().into(),
        session_id: group,
        msg_ids: (1..=10).collect(),
        ..MessagesByIdRequest::default()
    };
    let reply: MessagesByIdReply = device.ask(Command::MessagesByIdRequest, &request).await;
    assert_eq!(reply.messages, []);
    assert_eq!(info(device, group, 0).await, None);
}
