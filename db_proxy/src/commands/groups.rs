//! Groups: lists, records, making and changing them, and what gateways ask about memberships.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use fold::admission::Change;
use fold::conversation::Conversation;
use futures_util::future::try_join_all;
use logins::names::check_group_name;
use logins::tokens::STORE_LIMIT;
use partition::Outcome;
use prost::Message as _;
use proto::Command;
use proto::client::{
    GroupChange, GroupChangeMembersReply, GroupChangeMembersRequest, GroupCreateReply,
    GroupCreateRequest, GroupDeleteReply, GroupDeleteRequest, GroupInfo, GroupInfoReply,
    GroupInfoRequest, GroupMuteReply, GroupMuteRequest, GroupType, GroupVersion, NormalGroupsReply,
};
use proto::cluster::wire::{Answer, Membership, Memberships, Reached, Reason, Rest};
use proto::ids::{ConversationId, GroupId, UserId};
use proto::limits::LIMIT_TO_CLIENT;
use proto::lists::{GROUPS_MAX, NORMAL_GROUPS_MAX, Room};
use proto::log::GroupCreated;
use store::{Store, StoreError};
use tokio::time::timeout;

use crate::commands::asker::Asker;
use crate::commands::lists;
use crate::commands::people::AVATAR_MAX;
use crate::commands::reply::{NoReply, Reply, answered};
use crate::partitions::{Partitions, Served};

/// What one member takes in a reply, at most.
const MEMBER_LEN: usize = 6;

/// Numbers that are passed over at most for one that belongs here: with 8 db_proxies all but one of a
/// million groups are made.
const NUMBERS_PASSED_MAX: usize = 128;

/// 0x0401: the user's normal groups and their versions, by number, in as many parts as it takes.
pub(crate) async fn normal(asker: &Asker) -> Reply {
    let conversations = lists::conversations_of(asker).await?;
    let from = asker.rest.as_ref().map_or(0, Rest::id);
    let mut groups: Vec<GroupVersion> = conversations
        .iter()
        .filter(|(_, seen)| seen.visible_from().is_some())
        .filter_map(|(_, seen)| {
            let group = seen.row.group.as_ref()?;
            (group.kind == GroupType::Normal as u32).then_some(GroupVersion {
                group_id: seen.row.id.as_group()?.0,
                version: group.version,
            })
        })
        .filter(|group| group.group_id >= from)
        .collect();
    groups.sort_unstable_by_key(|group| group.group_id);
    let next = groups.get(NORMAL_GROUPS_MAX);
    let rest = next.map(|next| Rest { id: Some(next.group_id), ..Rest::default() });
    groups.truncate(NORMAL_GROUPS_MAX);
    let reply = NormalGroupsReply { user_id: asker.user.0, groups, attach_data: None };
    Ok(Answer { rest, ..answered(Command::NormalGroupsReply, &reply) })
}

/// 0x0403: records of those groups, of which the asker is a member, that are newer than the version
/// asked with, in as many parts as it takes. The member list of a group that does not fit a frame even
/// alone is cut.
pub(crate) async fn info(asker: &Asker, body: Bytes) -> Reply {
    let request = GroupInfoRequest::decode(body)?;
    let mut room = Room::of_records();
    let mut groups: Vec<GroupInfo> = Vec::new();
    let from = asker.rest.as_ref().map_or(0, |rest| rest.id() as usize);
    let mut next = request.groups.len().min(from.saturating_add(GROUPS_MAX));
    for (at, asked) in request.groups.iter().enumerate().take(next).skip(from) {
        let id = ConversationId::group(GroupId(asked.group_id));
        let Some(id) = id.filter(|id| asker.asks_about(*id)) else { continue };
        let served = asker.of(id)?;
        let look = served.partition.state().with(id, |conversation| {
            let newer = conversation.group.as_ref().is_some_and(|g| g.version > asked.version);
            (newer && conversation.has_member(asker.user))
                .then(|| describe(conversation, asker.user))
                .flatten()
        });
        let Some(mut info) = look.await? else { continue };
        if groups.is_empty() {
            room.cut_members(&mut info, asker.user.0);
        }
        if !room.take_record(&info) {
            next = at;
            break;
        }
        groups.push(info);
    }
    let rest = (next < request.groups.len())
        .then(|| Rest { id: u32::try_from(next).ok(), ..Rest::default() });
    let reply = GroupInfoReply { user_id: asker.user.0, groups, attach_data: None };
    Ok(Answer { rest, ..answered(Command::GroupInfoReply, &reply) })
}

fn describe(conversation: &Conversation, user: UserId) -> Option<GroupInfo> {
    let group = conversation.group.as_ref()?;
    let muted = conversation.marks.get(&user).is_some_and(|mark| mark.shield);
    Some(GroupInfo {
        group_id: conversation.id.as_group()?.0,
        version: group.version,
        name: group.name.clone(),
        avatar_url: group.avatar.clone(),
        creator_id: group.creator.0,
        group_type: i32::try_from(group.kind).unwrap_or(GroupType::Temporary as i32),
        muted: u32::from(muted),
        member_ids: conversation.current_members().into_iter().map(|user| user.0).collect(),
    })
}

/// 0x0405: clients make temporary groups only.
pub(crate) async fn create(asker: &Asker, body: Bytes) -> Reply {
    let request = GroupCreateRequest::decode(body)?;
    if request.group_type != GroupType::Temporary as i32 {
        return Err(NoReply::Ignored);
    }
    let mut reply = GroupCreateReply {
        user_id: asker.user.0,
        result_code: 1,
        group_id: None,
        name: request.name.clone(),
        member_ids: Vec::new(),
        attach_data: None,
    };
    let fits = check_group_name(&request.name).is_ok() && request.avatar_url.len() <= AVATAR_MAX;
    if fits && !request.member_ids.is_empty() {
        let members = request.member_ids.iter().copied().map(UserId).chain([asker.user]);
        let group = NewGroup {
            wanted: None,
            creator: asker.user,
            kind: GroupType::Temporary,
            name: request.name,
            avatar: request.avatar_url,
        };
        let members = existing(asker.logins.store(), members).await?;
        let members = asker.groups.with_room(&asker.partitions, members).await?;
        if members.contains(&asker.user)
            && asker.groups.may_make(&asker.partitions, asker.user).await?
            && let Some((group, members)) = make(&asker.partitions, group, members).await?
        {
            reply.result_code = 0;
            reply.group_id = Some(group.0);
            reply.member_ids = fitting(&members, LIMIT_TO_CLIENT - 512);
        }
    }
    Ok(answered(Command::GroupCreateReply, &reply))
}

/// A group that is to be made.
#[derive(Debug)]
pub(crate) struct NewGroup {
    pub(crate) wanted: Option<GroupId>,
    pub(crate) creator: UserId,
    pub(crate) kind: GroupType,
    pub(crate) name: String,
    pub(crate) avatar: String,
}

/// Why a group is not made.
#[derive(Debug)]
pub(crate) enum NotMade {
    /// No partition for it is owned here. Nothing was done.
    NotOwner,
    /// It cannot be made now, or its number is taken.
    Store(StoreError),
}

impl From<StoreError> for NotMade {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<NotMade> for NoReply {
    fn from(not_made: NotMade) -> Self {
        match not_made {
            NotMade::NotOwner => Self::NotOwner,
            NotMade::Store(error) => error.into(),
        }
    }
}

/// Makes a group of members that exist, in a partition that is owned here. `None` if it was refused.
pub(crate) async fn make(
    partitions: &Partitions,
    group: NewGroup,
    members: Vec<UserId>,
) -> Result<Option<(GroupId, Vec<UserId>)>, NotMade> {
    let (id, served) = place(partitions, group.wanted).await?;
    let created = GroupCreated {
        group: id.0,
        creator: group.creator.0,
        group_type: group.kind as u32,
        name: group.name,
        avatar: group.avatar,
        members: members.iter().map(|user| user.0).collect(),
    };
    match served.partition.change(Change::CreateGroup(created)).await {
        Outcome::Members { current, .. } => Ok(Some((id, current.to_vec()))),
        // To make it again would make another one.
        Outcome::Retry | Outcome::Moved => Err(no_room("the partition has no room")),
        _ => Ok(None),
    }
}

/// A number for a new group, and its partition. Numbers of partitions that others own are passed over.
async fn place(
    partitions: &Partitions,
    wanted: Option<GroupId>,
) -> Result<(GroupId, Arc<Served>), NotMade> {
    let served = |id| ConversationId::group(id).and_then(|id| partitions.of(id));
    let store = partitions.stores().first().ok_or(NotMade::NotOwner)?;
    if let Some(wanted) = wanted {
        // A number that is given out and not used is not given out again.
        let served = served(wanted).ok_or(NotMade::NotOwner)?;
        return Ok((store.allocate_group(Some(wanted)).await?, served));
    }
    for _ in 0..NUMBERS_PASSED_MAX {
        if !partitions.owns_some() {
            return Err(NotMade::NotOwner);
        }
        let id = store.allocate_group(None).await?;
        if let Some(served) = served(id) {
            return Ok((id, served));
        }
    }
    Err(no_room("no number belongs to a partition that is owned here"))
}

fn no_room(why: &str) -> NotMade {
    NotMade::Store(StoreError::Unavailable(why.to_owned()))
}

/// 0x0407: adds or removes members.
pub(crate) async fn change_members(asker: &Asker, body: Bytes) -> Reply {
    let request = GroupChangeMembersRequest::decode(body)?;
    let users = request.member_ids.iter().copied().map(UserId);
    // None of the users that are to be added may be in one more group.
    let mut full = false;
    let (add, remove) = match GroupChange::try_from(request.change) {
        Ok(GroupChange::Add) => {
            let users = existing(asker.logins.store(), users).await?;
            let nobody = users.is_empty();
            let users = asker.groups.with_room(&asker.partitions, users).await?;
            full = users.is_empty() && !nobody;
            (users, Vec::new())
        }
        Ok(GroupChange::Remove) => (Vec::new(), users.collect()),
        Err(_) => return Err(NoReply::Ignored),
    };
    let group = GroupId(request.group_id);
    let change = Change::Members { group, actor: Some(asker.user), add, remove };
    let mut reply = GroupChangeMembersReply {
        user_id: asker.user.0,
        change: request.change,
        result_code: 1,
        group_id: request.group_id,
        current_ids: Vec::new(),
        changed_ids: Vec::new(),
        attach_data: None,
    };
    let mut changed = false;
    let outcome = match ConversationId::group(group) {
        Some(_) if full => Outcome::Refused(Reason::Full),
        Some(id) => asker.of(id)?.partition.change_from(Some(asker.origin), change).await,
        None => Outcome::Refused(Reason::NoSuchGroup),
    };
    match outcome {
        Outcome::Members { current, added, removed } => {
            let changes = if added.is_empty() { removed } else { added };
            changed = !changes.is_empty();
            reply.result_code = 0;
            reply.changed_ids = fitting(&changes, LIMIT_TO_CLIENT / 2 - 64);
            reply.current_ids = fitting(&current, LIMIT_TO_CLIENT / 2 - 64);
        }
        outcome => {
            if let Some(none) = NoReply::of(&outcome) {
                return Err(none);
            }
        }
    }
    let mut answer = answered(Command::GroupChangeMembersReply, &reply);
    answer.changed = Some(changed);
    Ok(answer)
}

/// 0x2005: deletes a group. Its history stays, but there is no member that could read it.
pub(crate) async fn delete(asker: &Asker, body: Bytes) -> Reply {
    let request = GroupDeleteRequest::decode(body)?;
    let group = GroupId(request.group_id);
    let outcome = match ConversationId::group(group) {
        Some(id) => {
            let change = Change::DeleteGroup { group, actor: Some(asker.user) };
            asker.of(id)?.partition.change_from(Some(asker.origin), change).await
        }
        None => Outcome::Refused(Reason::NoSuchGroup),
    };
    if let Some(none) = NoReply::of(&outcome) {
        return Err(none);
    }
    let done = matches!(outcome, Outcome::Members { .. });
    let reply = GroupDeleteReply { group_id: request.group_id, result_code: u32::from(!done) };
    Ok(answered(Command::GroupDeleteReply, &reply))
}

/// 0x0409: no push notifications for a group, or again.
pub(crate) async fn mute(asker: &Asker, body: Bytes) -> Reply {
    let request = GroupMuteRequest::decode(body)?;
    let outcome = match ConversationId::group(GroupId(request.group_id)) {
        Some(conversation) => {
            let (user, on) = (asker.user, request.muted == 1);
            let change = Change::Shield { conversation, user, on };
            asker.of(conversation)?.partition.change(change).await
        }
        None => Outcome::Refused(Reason::NotMember),
    };
    if let Some(none) = NoReply::of(&outcome) {
        return Err(none);
    }
    let reply = GroupMuteReply {
        user_id: asker.user.0,
        group_id: request.group_id,
        result_code: u32::from(!matches!(outcome, Outcome::Marked { .. })),
        attach_data: None,
    };
    Ok(answered(Command::GroupMuteReply, &reply))
}

/// Which groups a user is in now, for the gateway that the user logs in at.
pub(crate) async fn memberships(asker: &Asker) -> Memberships {
    // Read first: what was folded up to here is certainly in what is read after it.
    let Ok(asked) = asker.all_asked() else { return Memberships::default() };
    let reached = |served: &Arc<Served>| Reached {
        by: served.owned,
        upto_offset: served.partition.state().last().0,
    };
    let reached: Vec<_> = asked.iter().map(reached).collect();
    let of = |served: &Arc<Served>| {
        let state = served.partition.state().clone();
        async move { state.groups_of(asker.user).await }
    };
    // Together: those in one database are one query there.
    let read = try_join_all(asked.iter().map(of));
    let read = match remembered(&asked, asker.user) {
        None => read.await,
        // Logins wait for this, and need not.
        Some(_) => timeout(STORE_LIMIT, read).await.unwrap_or_else(|_elapsed| {
            Err(StoreError::Unavailable("no answer in time".to_owned()))
        }),
    };
    let groups = match read {
        Ok(groups) => Some(groups.into_iter().flatten().collect()),
        Err(StoreError::Unavailable(_)) => remembered(&asked, asker.user),
        Err(_other) => None,
    };
    match groups {
        Some(groups) => Memberships { complete: true, groups, reached },
        None => Memberships::default(),
    }
}

/// The user's groups without the store, if all of them are remembered.
fn remembered(asked: &[Arc<Served>], user: UserId) -> Option<Vec<Membership>> {
    let of = |served: &Arc<Served>| served.partition.state().groups_remembered(user);
    let groups: Option<Vec<_>> = asked.iter().map(of).collect();
    groups.map(|groups| groups.into_iter().flatten().collect())
}

/// Those of the users that exist, each once, in order.
pub(crate) async fn existing(
    store: &Arc<dyn Store>,
    users: impl IntoIterator<Item = UserId>,
) -> Result<Vec<UserId>, StoreError> {
    let wanted: BTreeSet<UserId> = users.into_iter().collect();
    let found = store.users(wanted.into_iter().collect()).await?;
    let mut found: Vec<UserId> = found.into_iter().map(|row| row.id).collect();
    found.sort_unstable();
    Ok(found)
}

fn fitting(users: &[UserId], room: usize) -> Vec<u32> {
    users.iter().take(room / MEMBER_LEN).map(|user| user.0).collect()
}
