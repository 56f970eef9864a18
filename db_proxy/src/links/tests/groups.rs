//! Groups: making, changing, muting, describing.

use partition::test::{group, message, user};
use proto::client::{
    GroupChange, GroupChangeMembersReply, GroupChangeMembersRequest, GroupCreateReply,
    GroupCreateRequest, GroupDeleteReply, GroupDeleteRequest, GroupInfo, GroupInfoReply,
    GroupInfoRequest, GroupMuteReply, GroupMuteRequest, GroupType, GroupVersion, NormalGroupsReply,
    NormalGroupsRequest,
};
use proto::cluster::partition_of;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{GroupCreate, Owned};
use proto::ids::GroupId;
use store::{Store, StoreError, UserStore};

use super::missed::notices;
use super::*;
use crate::commands::groups::{NewGroup, NotMade, make};

#[tokio::test]
async fn a_client_makes_a_temporary_group_of_users_who_exist() {
    let server = Server::start().await;
    let reply = server.create(1, "us", &[2, 3, 3, 999]).await;
    assert_eq!((reply.result_code, reply.group_id, &*reply.name), (0, Some(1), "us"));
    assert_eq!(reply.member_ids, [1, 2, 3], "the creator too");
    let long = "x".repeat(257);
    let names = ["", &long, " us", "us\n", "u\u{202e}s"];
    let refused = names.into_iter().map(|name| (name, &[2][..])).chain([("us", &[][..])]);
    for (name, members) in refused {
        let reply = server.create(1, name, members).await;
        assert_eq!((reply.result_code, reply.group_id), (1, None));
    }
    assert_eq!(server.create(1, "Tea at five", &[2]).await.result_code, 0);
    let normal = GroupCreateRequest { group_type: GroupType::Normal as i32, ..create("us", &[2]) };
    assert_eq!(server.answer(1, Command::GroupCreateRequest, &normal).await, ignored());
    server.stop().await;
}

#[tokio::test]
async fn members_add_and_the_creator_removes() {
    let server = Server::start().await;
    server.create(1, "us", &[2, 3]).await;
    for (actor, kind, users, code, current, changed) in [
        (2, GroupChange::Add, vec![4, 3], 0, vec![1, 2, 3, 4], vec![4]),
        (2, GroupChange::Add, vec![4], 0, vec![1, 2, 3, 4], vec![]),
        (2, GroupChange::Add, vec![999], 0, vec![1, 2, 3, 4], vec![]),
        (2, GroupChange::Remove, vec![3], 1, vec![], vec![]),
        (5, GroupChange::Add, vec![5], 1, vec![], vec![]),
        (1, GroupChange::Remove, vec![2, 9], 0, vec![1, 3, 4], vec![2]),
    ] {
        let request = GroupChangeMembersRequest {
            user_id: 0,
            change: kind as i32,
            group_id: 1,
            member_ids: users,
            attach_data: None,
        };
        let answer = server.answer(actor, Command::GroupChangeMembersRequest, &request).await;
        assert_eq!(answer.changed, Some(!changed.is_empty()));
        let reply = GroupChangeMembersReply::decode(answer.body.unwrap()).unwrap();
        assert_eq!((reply.user_id, reply.change, reply.group_id), (actor, kind as i32, 1));
        assert_eq!(reply.result_code, code, "{kind:?} {:?} by {actor}", request.member_ids);
        assert_eq!((reply.current_ids, reply.changed_ids), (current, changed));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_change_that_is_none_is_not_answered_and_one_of_no_group_is_refused() {
    let server = Server::start().await;
    server.create(1, "us", &[2]).await;
    let request = |group_id, change| GroupChangeMembersRequest {
        user_id: 0,
        change,
        group_id,
        member_ids: vec![3],
        attach_data: None,
    };
    let command = Command::GroupChangeMembersRequest;
    for change in [-1, 0, 3, i32::MAX] {
        assert_eq!(server.answer(1, command, &request(1, change)).await, ignored(), "{change}");
    }
    for group in [0, 99, u32::MAX] {
        let add = request(group, GroupChange::Add as i32);
        let answer = server.answer(1, command, &add).await;
        assert_eq!(answer.changed, Some(false));
        let reply = GroupChangeMembersReply::decode(answer.body.unwrap()).unwrap();
        assert_eq!((reply.result_code, reply.group_id), (1, group));
        assert!(reply.current_ids.is_empty() && reply.changed_ids.is_empty());
    }
    let delete = GroupDeleteRequest { group_id: 0 };
    let answer = server.answer(1, Command::GroupDeleteRequest, &delete).await;
    let reply = GroupDeleteReply::decode(answer.body.unwrap()).unwrap();
    assert_ne!(reply.result_code, 0);
    server.stop().await;
}

/// A user that adds others is answered about those added at its own request; all members are told of
/// all of them, and the user that asked too.
#[tokio::test]
async fn those_who_join_soon_after_each_other_are_in_one_notice() {
    let setup = Setup { hold: Duration::from_hours(1), segment_bytes: 32 << 20, ..Setup::new() };
    let mut server = Server::with(setup.start().await).await;
    server.create(1, "us", &[2, 3, 4]).await;
    let created = server.publication().await;
    assert!(created.frame.is_empty());
    let add = async |actor, user| {
        let change = GroupChange::Add as i32;
        let member_ids = vec![user];
        let request =
            GroupChangeMembersRequest { change, group_id: 1, member_ids, ..Default::default() };
        let answer = server.answer(actor, Command::GroupChangeMembersRequest, &request).await;
        assert_eq!(answer.changed, Some(true));
        let reply = GroupChangeMembersReply::decode(answer.body.unwrap()).unwrap();
        assert_eq!((reply.result_code, reply.user_id), (0, actor));
        (reply.changed_ids, reply.current_ids)
    };
    assert_eq!(add(1, 11).await, (vec![11], vec![1, 2, 3, 4, 11]));
    let release = async {
        while server.proxy.metrics.waiting.get() != 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // It removes no member.
        server.proxy.change_members(1, &[], &[20]).await
    };
    let (two, three, four, _released) =
        tokio::join!(add(2, 12), add(3, 13), add(4, 14), timeout(PATIENCE, release));
    let all = vec![1, 2, 3, 4, 11, 12, 13, 14];
    for (answer, user) in [(two, 12), (three, 13), (four, 14)] {
        assert_eq!(answer, (vec![user], all.clone()));
    }

    let first = server.publication().await;
    assert_eq!((first.added, first.origin), (vec![11], Some(origin())), "who asked is answered");
    let second = server.publication().await;
    let [told] = &notices(&second)[..] else { panic!("{second:?}") };
    assert_eq!((&told.changed_ids, &told.current_ids), (&second.added, &all));
    let added: std::collections::BTreeSet<_> = second.added.into_iter().collect();
    assert_eq!((added, second.origin), ([12, 13, 14].into(), None), "told beside the answer");
    server.proxy.send(message(group(1), 14)).await;
    assert_eq!(server.publication().await.msg_id, 1, "there is no third notice");
    server.stop().await;
}

#[tokio::test]
async fn a_deleted_group_has_no_members_and_its_number_is_not_given_out_again() {
    let server = Server::start().await;
    server.create(1, "us", &[2, 3]).await;
    let delete = async |user, group_id| {
        let commands = (Command::GroupDeleteRequest, Command::GroupDeleteReply);
        let request = GroupDeleteRequest { group_id };
        let reply: GroupDeleteReply = server.ask(user, commands, &request).await;
        assert_eq!(reply.group_id, group_id);
        reply.result_code
    };
    assert_eq!(delete(2, 1).await, 1, "who is not the creator");
    assert_eq!(delete(1, 4711).await, 1, "there is no such group");
    assert_eq!(server.info(2, &[(1, 0)]).await.len(), 1);
    for _again in 0..2 {
        assert_eq!(delete(1, 1).await, 0);
    }
    for user in [1, 2, 3] {
        assert!(server.info(user, &[(1, 0)]).await.is_empty(), "user {user}");
    }
    let add = GroupChangeMembersRequest {
        change: GroupChange::Add as i32,
        group_id: 1,
        member_ids: vec![2],
        ..Default::default()
    };
    let commands = (Command::GroupChangeMembersRequest, Command::GroupChangeMembersReply);
    let reply: GroupChangeMembersReply = server.ask(1, commands, &add).await;
    assert_eq!((reply.result_code, reply.changed_ids), (1, vec![]));
    assert_eq!(server.create(1, "again", &[2]).await.group_id, Some(2));
    server.stop().await;
}

#[tokio::test]
async fn a_user_makes_so_many_groups_and_is_in_so_many() {
    let server = Server::start().await;
    for _ in 0..20 {
        assert_eq!(server.create(1, "mine", &[2]).await.result_code, 0);
    }
    assert_eq!(server.create(1, "mine", &[2]).await.result_code, 1, "one too many");
    let commands = (Command::GroupDeleteRequest, Command::GroupDeleteReply);
    let request = GroupDeleteRequest { group_id: 7 };
    let reply: GroupDeleteReply = server.ask(1, commands, &request).await;
    assert_eq!(reply.result_code, 0);
    assert_eq!(server.create(1, "mine", &[2]).await.result_code, 0, "one less");

    for _ in 0..10 {
        assert_eq!(server.create(3, "theirs", &[2]).await.member_ids, [2, 3]);
    }
    server.proxy.stored().await;
    let made = server.create(3, "theirs", &[2, 4]).await;
    assert_eq!((made.result_code, made.member_ids), (0, vec![3, 4]), "u2 is in thirty");
    let group_id = made.group_id.unwrap();
    let commands = (Command::GroupChangeMembersRequest, Command::GroupChangeMembersReply);
    for (member_ids, code, changed) in [(vec![2], 1, vec![]), (vec![2, 5], 0, vec![5])] {
        let change = GroupChange::Add as i32;
        let request =
            GroupChangeMembersRequest { change, group_id, member_ids, ..Default::default() };
        let reply: GroupChangeMembersReply = server.ask(3, commands, &request).await;
        assert_eq!((reply.result_code, reply.changed_ids), (code, changed));
    }
    assert_eq!(server.create(2, "mine", &[5]).await.result_code, 1, "u2 would be in it as well");
    server.stop().await;
}

#[tokio::test]
async fn groups_that_others_have_made_do_not_count_as_made() {
    let server = Server::start().await;
    for _ in 0..BOUNDS.groups.made {
        assert_eq!(server.create(1, "theirs", &[2]).await.result_code, 0);
    }
    assert_eq!(server.create(2, "mine", &[3]).await.result_code, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_member_mutes_a_group_only_for_that_member() {
    let server = Server::start().await;
    server.create(1, "us", &[2, 6]).await;
    server.proxy.change_members(1, &[], &[6]).await;
    // 6 has left, and may still change what is its own; 5 never was there.
    for (user, muted, code) in [(2, 1, 0), (2, 1, 0), (6, 1, 0), (6, 0, 0), (5, 1, 1)] {
        let request = GroupMuteRequest { user_id: 0, group_id: 1, muted, attach_data: None };
        let commands = (Command::GroupMuteRequest, Command::GroupMuteReply);
        let reply: GroupMuteReply = server.ask(user, commands, &request).await;
        assert_eq!((reply.result_code, reply.group_id), (code, 1));
    }
    assert_eq!(server.info(2, &[(1, 0)]).await[0].muted, 1);
    assert_eq!(server.info(1, &[(1, 0)]).await[0].muted, 0);
    server.stop().await;
}

#[tokio::test]
async fn only_normal_groups_are_listed_and_only_to_members() {
    let server = Server::start().await;
    server.create(1, "us", &[2]).await;
    let (name, members) = ("team".to_owned(), vec!["u1".to_owned(), "u2".to_owned()]);
    let team = GroupCreate { name, members, ..GroupCreate::default() };
    let team = server.administer(What::GroupCreate(team)).await.id.unwrap();
    server.proxy.change_members(team, &[], &[2]).await;
    // One is a member, one was, and one never.
    for (user, expected) in [(1, vec![(team, 2)]), (2, vec![]), (3, vec![])] {
        let commands = (Command::NormalGroupsRequest, Command::NormalGroupsReply);
        let request = NormalGroupsRequest::default();
        let reply: NormalGroupsReply = server.ask(user, commands, &request).await;
        let groups: Vec<_> = reply.groups.iter().map(|g| (g.group_id, g.version)).collect();
        assert_eq!(groups, expected);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_group_is_described_to_members_who_do_not_know_its_newest_version() {
    let server = Server::start().await;
    server.create(1, "us", &[2]).await;
    server.create(1, "others", &[3]).await;
    server.proxy.change_members(1, &[4], &[]).await;
    let infos = server.info(1, &[(1, 1), (2, 1), (3, 0)]).await;
    let [info] = &infos[..] else { panic!("{infos:?}") };
    assert_eq!((info.group_id, info.version, &*info.name, info.creator_id), (1, 2, "us", 1));
    assert_eq!(
        (info.group_type, &info.member_ids[..]),
        (GroupType::Temporary as i32, &[1, 2, 4][..])
    );
    assert_eq!(server.info(2, &[(1, 0), (2, 0)]).await.len(), 1, "not a member of the other");
    assert_eq!(server.info(1, &[(1, 2)]).await, []);
    server.stop().await;
}

#[tokio::test]
async fn groups_that_do_not_fit_a_frame_come_in_parts_with_all_their_members() {
    let server = Server::start().await;
    let ids = 1_000_000..1_030_000;
    let users = ids.clone().map(|id| user(id, &format!("p{id}"))).collect();
    server.proxy.store.add_users(users, false).await.unwrap();
    let members: Vec<u32> = ids.collect();
    for number in 0..5 {
        server.create(1, &format!("group {number}"), &members).await;
    }
    let parts = server.info_parts(1, &[(3, 0), (1, 0), (77, 0), (5, 0), (2, 9), (4, 0)]).await;
    assert!(parts.len() > 1);
    let infos: Vec<&GroupInfo> = parts.iter().flatten().collect();
    let ids: Vec<u32> = infos.iter().map(|info| info.group_id).collect();
    assert_eq!(ids, [3, 1, 5, 4], "in the order in which they were asked for");
    assert!(infos.iter().all(|info| info.member_ids.len() == members.len() + 1));
    server.stop().await;
}

#[tokio::test]
async fn more_groups_than_are_looked_at_for_one_frame_are_described_as_well() {
    let server = Server::start().await;
    server.create(1, "us", &[2]).await;
    let nobody = (0..2_500).map(|number| (100 + number, 0));
    let asked: Vec<(u32, u32)> = nobody.chain([(1, 0)]).collect();
    let parts = server.info_parts(1, &asked).await;
    assert_eq!(parts.iter().flatten().map(|info| info.group_id).collect::<Vec<_>>(), [1]);
    server.stop().await;
}

#[tokio::test]
async fn a_group_too_large_for_a_frame_is_cut() {
    let server = Server::start().await;
    let ids = 1_000_000_000..1_000_090_000;
    let users = ids.clone().map(|id| user(id, &format!("p{id}"))).collect();
    server.proxy.store.add_users(users, false).await.unwrap();
    let reply = server.create(1, "all", &ids.collect::<Vec<_>>()).await;
    assert!(reply.member_ids.len() > 60_000, "{}", reply.member_ids.len());
    let infos = server.info(1, &[(1, 0), (1, 0)]).await;
    assert_eq!(infos.len(), 1);
    assert!(infos[0].member_ids.len() > 60_000, "{}", infos[0].member_ids.len());
    // A client whose user is not in the list may think that the user is no member.
    let last = 1_000_089_999;
    let infos = server.info(last, &[(1, 0)]).await;
    assert!(infos[0].member_ids.contains(&last) && infos[0].member_ids.contains(&1));
    server.stop().await;
}

#[tokio::test]
async fn numbers_of_partitions_that_others_own_are_passed_over_and_not_without_end() {
    let server = Server::start().await;
    // One of 256 partitions, which has its first group among the second 128 numbers.
    let first_of = |partition: u32| {
        let mut numbers = 1..100_000_u32;
        numbers.find(|number| partition_of(group(*number).number(), 256) == partition).unwrap()
    };
    let partition = (0..256).find(|one| (129..=256).contains(&first_of(*one))).unwrap();
    let store: Arc<dyn Store> = Arc::<_>::clone(&server.proxy.store) as _;
    let gateways = Arc::clone(&server.proxy.gateways);
    let partitions = Partitions::new(vec![store; 256], gateways, false, None);
    let served = server.requests.partitions.owned(0).unwrap();
    partitions.add(Served {
        owned: Owned { partition, ..served.owned },
        partition: served.partition.clone(),
        followers: Arc::clone(&served.followers),
        consumers: Arc::clone(&served.consumers),
        confirmed: served.confirmed.clone(),
    });
    let made = || {
        let (kind, name, avatar) = (GroupType::Normal, "us".to_owned(), String::new());
        let us = NewGroup { wanted: None, creator: UserId(1), kind, name, avatar };
        make(&partitions, us, vec![UserId(1)])
    };
    let first = made().await;
    assert!(matches!(first, Err(NotMade::Store(StoreError::Unavailable(_)))), "{first:?}");
    let second = made().await.unwrap();
    assert_eq!(second, Some((GroupId(first_of(partition)), vec![UserId(1)])), "it goes on");
    drop((partitions, served));
    server.stop().await;
}

fn create(name: &str, members: &[u32]) -> GroupCreateRequest {
    GroupCreateRequest {
        user_id: 0,
        group_type: GroupType::Temporary as i32,
        name: name.to_owned(),
        avatar_url: String::new(),
        member_ids: members.to_vec(),
        attach_data: None,
    }
}

impl Server {
    async fn create(&self, user: u32, name: &str, members: &[u32]) -> GroupCreateReply {
        let commands = (Command::GroupCreateRequest, Command::GroupCreateReply);
        self.ask(user, commands, &create(name, members)).await
    }

    async fn info(&self, user: u32, groups: &[(u32, u32)]) -> Vec<GroupInfo> {
        let commands = (Command::GroupInfoRequest, Command::GroupInfoReply);
        self.ask::<GroupInfoReply>(user, commands, &info_of(groups)).await.groups
    }

    async fn info_parts(&self, user: u32, groups: &[(u32, u32)]) -> Vec<Vec<GroupInfo>> {
        let commands = (Command::GroupInfoRequest, Command::GroupInfoReply);
        let parts: Vec<GroupInfoReply> = self.parts(user, commands, &info_of(groups)).await;
        parts.into_iter().map(|part| part.groups).collect()
    }
}

fn info_of(groups: &[(u32, u32)]) -> GroupInfoRequest {
    let groups = groups
        .iter()
        .map(|(group_id, version)| GroupVersion { group_id: *group_id, version: *version })
        .collect();
    GroupInfoRequest { user_id: 0, groups, attach_data: None }
}
