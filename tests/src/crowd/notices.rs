//! Takes down what devices are told besides messages.

use std::sync::Arc;

use client::{Conversation, Message, Watcher};
use proto::client::{
    GroupChange, GroupMembersNotify, MessageData, ReadNotify, UserStatus, UserStatusEntry,
    UserStatusNotify, UsersStatusReply,
};
use proto::ids::UserId;
use proto::{Command, Frame};

use super::shared::{DeviceId, LIBRARY, Shared, conv, delivery};
use crate::history::{Change, Class, Conv, What};

/// Takes down what a frame says besides messages.
pub(super) fn take_notice(shared: &Shared, (user, device): DeviceId, class: Class, frame: &Frame) {
    let record = |what| {
        shared.recorder.record(what);
    };
    let complain = |what: String| shared.complain(format!("u{user}/{device} {what}"));
    let about_presence = |of: &UserStatusEntry| {
        let (who, online) = (of.user_id, of.status == i32::from(UserStatus::Online));
        record(What::Presence { user, device, who, online });
    };
    match frame.known_command() {
        Some(Command::KickNotify) => record(What::Kicked { user, device }),
        Some(Command::ReadNotify) => match frame.parse::<ReadNotify>() {
            Ok(told) if told.user_id == user => {
                match Conversation::from_wire(told.session_type, told.session_id) {
                    Some(conversation) => {
                        let (conv, upto) = (conv(user, conversation), told.msg_id);
                        record(What::MarkTold { user, device, conv, upto });
                    }
                    None => complain(format!("is told of a mark nowhere: {told:?}")),
                }
            }
            told => complain(format!("is told of somebody else's mark: {told:?}")),
        },
        Some(Command::GroupMembersNotify) => match frame.parse::<GroupMembersNotify>() {
            Ok(told) => {
                let change = match told.change() {
                    GroupChange::Add => Change::Add,
                    GroupChange::Remove => Change::Remove,
                };
                let (conv, who) = (Conv::group(told.group_id), told.changed_ids);
                record(What::MembersTold { user, device, conv, change, who });
            }
            Err(error) => complain(format!("cannot read a notice: {error}")),
        },
        Some(Command::UserStatusNotify) if class == Class::Mobile => {
            complain("is told who is online, and is no PC".to_owned());
        }
        Some(Command::UserStatusNotify) => match frame.parse::<UserStatusNotify>() {
            Ok(told) => about_presence(&told.user),
            Err(error) => complain(format!("cannot read a notice: {error}")),
        },
        Some(Command::UsersStatusReply) => match frame.parse::<UsersStatusReply>() {
            Ok(told) => told.users.iter().for_each(about_presence),
            Err(error) => complain(format!("cannot read who is online: {error}")),
        },
        _ => {}
    }
}

/// What comes to the connection of the library, before it puts anything in order.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) user: u32,
    pub(super) shared: Arc<Shared>,
}

impl Watcher for Wire {
    fn logged_in(&self) {
        self.shared.connected((self.user, LIBRARY), Class::Pc);
    }

    fn heard(&self, frame: &Frame) {
        let device = (self.user, LIBRARY);
        if frame.seq == 0 && frame.known_command() == Some(Command::MessageData) {
            let data: Option<MessageData> = frame.parse().ok();
            let message = data.and_then(|data| Message::from_push(&data, UserId(self.user)));
            match message {
                Some(message) => {
                    self.shared.recorder.record(What::Wire(delivery(device, &message)));
                }
                None => self.shared.complain(format!("u{} was told {frame:?}", self.user)),
            }
        }
        take_notice(&self.shared, device, Class::Pc, frame);
    }

    fn lost(&self) {
        self.shared.disconnected((self.user, LIBRARY));
    }
}
