//! Users, departments, signatures, avatars, device tokens: the login side, straight from the store.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use proto::Command;
use proto::client::{
    AllUsersReply, AllUsersRequest, ChangeAvatarReply, ChangeAvatarRequest, ChangeSignatureReply,
    ChangeSignatureRequest, ClientType, Department, DepartmentStatus, DepartmentsReply,
    DepartmentsRequest, DeviceTokenReply, DeviceTokenRequest, GetPushShieldReply, LogoutReply,
    SetPushShieldReply, SetPushShieldRequest, UserInfo, UsersInfoReply, UsersInfoRequest,
};
use proto::cluster::device_class;
use proto::cluster::wire::{Answer, Rest};
use proto::ids::UserId;
use proto::lists::Room;
use store::{DepartmentRow, Since, StoreError, UserChange, UserRow};

use crate::commands::asker::Asker;
use crate::commands::parts::{Filled, Part};
use crate::commands::reply::{NoReply, Reply, answered};

/// The longest signature line, in bytes (TeamTalk protocol).
const SIGNATURE_MAX: usize = 128;

/// The longest avatar location and device token, in bytes.
pub(crate) const AVATAR_MAX: usize = 1024;
const TOKEN_MAX: usize = 512;

/// Users or departments read from the store at once: of what was read, no more than this is dropped
/// because it does not fit.
const PIECE: usize = 1_024;

/// 0x0208: users changed since, in order of their stamps, in as many parts as it takes.
pub(crate) async fn all_users(asker: &Asker, body: Bytes) -> Reply {
    let asked = AllUsersRequest::decode(body)?.latest_update_time;
    let store = asker.logins.store();
    let mut part = Part::begin(asked, asker.rest.as_ref());
    let mut newest = asked;
    while let Some(since) = part.next() {
        let (rows, stamp) = store.users_since(since, PIECE).await?;
        newest = newest.max(stamp);
        asker.logins.profiles().told(&rows);
        let is_last = rows.len() < PIECE;
        let takes_more = rows.into_iter().all(|row| {
            let at = Since { stamp: row.stamp, id: row.id.0 };
            // At the first request the client need not hear of users that have left.
            let is_told = row.status != UserRow::LEFT || asked != 0;
            part.take(at, is_told.then(|| row.into_info()))
        });
        if is_last || !takes_more {
            break;
        }
    }
    let Filled { records: users, latest_update_time, rest } = part.end(newest);
    let user_id = asker.user.0;
    let reply = AllUsersReply { user_id, latest_update_time, users, attach_data: None };
    Ok(Answer { rest, ..answered(Command::AllUsersReply, &reply) })
}

/// 0x0204: the records of these users, in as many parts as it takes.
pub(crate) async fn users_info(asker: &Asker, body: Bytes) -> Reply {
    let ids = UsersInfoRequest::decode(body)?.user_ids;
    let from = asker.rest.as_ref().map_or(0, |rest| rest.id() as usize);
    let (mut room, mut users, mut rest) = (Room::of_records(), Vec::new(), None);
    let mut at = from;
    'asked: for piece in ids.get(from..).unwrap_or_default().chunks(PIECE) {
        let piece: Vec<UserId> = piece.iter().copied().map(UserId).collect();
        let found = asker.logins.profiles().of(asker.user, &piece).await?;
        let mut found: HashMap<u32, UserInfo> =
            found.into_iter().map(|info| (info.user_id, info)).collect();
        for id in piece {
            // A user that is asked for twice is told once.
            let Some(info) = found.remove(&id.0) else {
                at += 1;
                continue;
            };
            if room.take_record(&info) {
                users.push(info);
            } else if !users.is_empty() {
                let id = u32::try_from(at).ok();
                rest = Some(Rest { id, ..Rest::default() });
                break 'asked;
            }
            at += 1;
        }
    }
    let reply = UsersInfoReply { user_id: asker.user.0, users, attach_data: None };
    Ok(Answer { rest, ..answered(Command::UsersInfoReply, &reply) })
}

/// 0x0210: departments changed since, in as many parts as it takes.
pub(crate) async fn departments(asker: &Asker, body: Bytes) -> Reply {
    let asked = DepartmentsRequest::decode(body)?.latest_update_time;
    let store = asker.logins.store();
    let mut part = Part::begin(asked, asker.rest.as_ref());
    let mut newest = asked;
    while let Some(since) = part.next() {
        let (rows, stamp) = store.departments_since(since, PIECE).await?;
        newest = newest.max(stamp);
        let is_last = rows.len() < PIECE;
        let takes_more = rows.into_iter().all(|row| {
            let at = Since { stamp: row.stamp, id: row.id };
            part.take(at, Some(department(row)))
        });
        if is_last || !takes_more {
            break;
        }
    }
    let Filled { records: departments, latest_update_time, rest } = part.end(newest);
    let user_id = asker.user.0;
    let reply = DepartmentsReply { user_id, latest_update_time, departments, attach_data: None };
    Ok(Answer { rest, ..answered(Command::DepartmentsReply, &reply) })
}

fn department(row: DepartmentRow) -> Department {
    let deleted = row.status != DepartmentStatus::Ok as u32;
    Department {
        department_id: row.id,
        priority: row.priority,
        name: row.name,
        parent_id: row.parent,
        status: if deleted { DepartmentStatus::Deleted } else { DepartmentStatus::Ok } as i32,
    }
}

/// 0x0213: a new signature line.
pub(crate) async fn change_signature(asker: &Asker, body: Bytes) -> Reply {
    let request = ChangeSignatureRequest::decode(body)?;
    let fits = request.signature.len() <= SIGNATURE_MAX;
    if fits {
        change(asker, UserChange::Sign(request.signature.clone())).await?;
    }
    let reply = ChangeSignatureReply {
        user_id: asker.user.0,
        result_code: u32::from(!fits),
        signature: fits.then_some(request.signature),
        attach_data: None,
    };
    let mut answer = answered(Command::ChangeSignatureReply, &reply);
    answer.changed = Some(fits);
    Ok(answer)
}

/// 0x020c: a new avatar.
pub(crate) async fn change_avatar(asker: &Asker, body: Bytes) -> Reply {
    let request = ChangeAvatarRequest::decode(body)?;
    let fits = request.avatar_url.len() <= AVATAR_MAX;
    if fits {
        change(asker, UserChange::Avatar(request.avatar_url)).await?;
    }
    let reply = ChangeAvatarReply {
        user_id: asker.user.0,
        result_code: u32::from(!fits),
        attach_data: None,
    };
    let mut answer = answered(Command::ChangeAvatarReply, &reply);
    answer.changed = Some(fits);
    Ok(answer)
}

/// 0x0108: the push token of a phone. The kind of client is the login's if the request has none.
pub(crate) async fn device_token(asker: &Asker, body: Bytes) -> Reply {
    let request = DeviceTokenRequest::decode(body)?;
    let mobile = device_class(asker.client_type) == 1;
    if !mobile || request.device_token.len() > TOKEN_MAX {
        return Err(NoReply::Ignored);
    }
    let kind = request.client_type.and_then(|kind| ClientType::try_from(kind).ok());
    let kind = kind.map(|kind| kind as u32).filter(|kind| device_class(*kind) == 1);
    let store = asker.logins.store();
    let token = (!request.device_token.is_empty()).then_some(request.device_token);
    store.set_device_token(asker.user, kind.unwrap_or(asker.client_type), token).await?;
    let reply = DeviceTokenReply { user_id: asker.user.0, attach_data: None };
    Ok(answered(Command::DeviceTokenReply, &reply))
}

/// 0x0105: a phone that logs out gets no more pushes.
pub(crate) async fn logout(asker: &Asker) -> Reply {
    if device_class(asker.client_type) == 1 {
        let store = asker.logins.store();
        store.set_device_token(asker.user, asker.client_type, None).await?;
    }
    Ok(answered(Command::LogoutReply, &LogoutReply { result_code: 0 }))
}

/// 0x010c: no pushes at night, or again.
pub(crate) async fn set_push_shield(asker: &Asker, body: Bytes) -> Reply {
    let request = SetPushShieldRequest::decode(body)?;
    let on = request.shield == 1;
    change(asker, UserChange::PushShield(on)).await?;
    let reply = SetPushShieldReply {
        user_id: asker.user.0,
        result_code: 0,
        shield: Some(u32::from(on)),
        attach_data: None,
    };
    Ok(answered(Command::SetPushShieldReply, &reply))
}

/// 0x010e: whether pushes at night are off.
pub(crate) async fn push_shield(asker: &Asker) -> Reply {
    let rows = asker.logins.store().users(vec![asker.user]).await?;
    let row = rows.into_iter().next().ok_or(NoReply::Ignored)?;
    let reply = GetPushShieldReply {
        user_id: asker.user.0,
        result_code: 0,
        shield: Some(u32::from(row.push_shield)),
        attach_data: None,
    };
    Ok(answered(Command::GetPushShieldReply, &reply))
}

async fn change(asker: &Asker, change: UserChange) -> Result<(), StoreError> {
    asker.logins.profiles().change(asker.user, change).await
}
