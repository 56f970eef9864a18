//! Whether a change may be appended: known already, allowed, or in need of more facts.
//!
//! Pure: reads the fold's state, changes nothing. In this order, so that a retry of a stored message
//! is never refused: known in the window by its id, by its frame, known in the store (for resends),
//! and only then whether the sender may write here now. An id that stands for another message of the
//! sender is refused: the answer to it would be about that one.

use bytes::Bytes;
use proto::client::{GroupType, MessageType};
use proto::cluster::wire::{Origin, Reason};
use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Offset, Parties, UserId};
use proto::limits::MESSAGE_BODY_MAX;
use proto::log::{self, Record, record};

use crate::conversation::Conversation;
use crate::effects::Fold;
use crate::faults::{self, Fault};
use crate::window::{Connection, Frame, Identity, Known, content_crc};

/// A voice message of no more than its length field has no voice in it.
const VOICE_HEADER_LEN: usize = 4;

/// Members that the record of a deletion names at most, at up to 6 bytes each: a record of the log has
/// room for them.
const NAMED_MAX: usize = 50_000;

/// The most changes that are judged before the first of them is folded.
pub const BATCH_MAX: u32 = 8_192;

/// Something that a client or an administrator wants changed in one conversation.
#[derive(Debug, Clone)]
pub enum Change {
    /// A message.
    Send(Message),
    /// A new group, whose number has been allocated and whose members exist.
    CreateGroup(log::GroupCreated),
    /// Members added or removed, who exist.
    Members {
        /// Which group.
        group: GroupId,
        /// Who wants it; `None` = an administrator.
        actor: Option<UserId>,
        /// To be added.
        add: Vec<UserId>,
        /// To be removed.
        remove: Vec<UserId>,
    },
    /// A group deleted.
    DeleteGroup {
        /// Which group.
        group: GroupId,
        /// Who wants it; `None` = an administrator.
        actor: Option<UserId>,
    },
    /// Everything up to `upto` was read; 0 = everything there is.
    Read {
        /// Where.
        conversation: ConversationId,
        /// By whom.
        user: UserId,
        /// Up to which message.
        upto: MsgId,
    },
    /// The session was removed from the user's list.
    RemoveSession {
        /// Which.
        conversation: ConversationId,
        /// Whose list.
        user: UserId,
    },
    /// Push notifications off, or on again.
    Shield {
        /// For which conversation.
        conversation: ConversationId,
        /// For whom.
        user: UserId,
        /// Off.
        on: bool,
    },
}

/// A message on its way in.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its conversation.
    pub conversation: ConversationId,
    /// Who sends it, and under which ids.
    pub identity: Identity,
    /// Whether it may have been sent before.
    pub resend: bool,
    /// Whether no earlier message of its line (one gateway, sender and conversation) is unanswered.
    pub first: bool,
    /// Its frame came so long ago, and is not answered, if it is handed over again.
    pub waited_ms: Option<u64>,
    /// The client protocol's message type.
    pub kind: u32,
    /// What the client sent.
    pub body: Bytes,
    /// The session it came from.
    pub origin: Option<Origin>,
    /// It is only looked for: a new one is refused.
    pub known_only: bool,
    /// What hooks have said of it.
    pub hooks: Vec<log::HookVerdict>,
}

impl Message {
    /// The checksum of what its sender sent, if that is not the body.
    fn sent_crc(&self) -> Option<u32> {
        let sent = self.identity.content_crc;
        // Only a message that a hook was asked about may have another body.
        let changed = !self.hooks.is_empty() && sent != content_crc(self.kind, &self.body);
        changed.then_some(sent)
    }
}

/// What had to be looked up for a change, as far as it has been.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts {
    /// For a resend: what the store says of it.
    pub stored: InStore,
    /// For a read mark: how many of the messages up to it are the reader's own.
    pub own_up_to: Option<(MsgId, u32)>,
    /// For a message to a user who did not exist when the conversation was loaded: whether they do now.
    pub peers_exist: Option<bool>,
    /// For a frame that may repeat an earlier one: whether it repeats that of the record here.
    pub repeats: Option<(Offset, bool)>,
    /// For a change of members: whether others of the same group are appended and not folded yet. Then
    /// it is not known who is a member when this one is folded, and whether it changes anything.
    pub changing: bool,
}

/// What the store says of a message.
#[derive(Debug, Clone, Copy, Default)]
pub enum InStore {
    /// It has not been asked.
    #[default]
    NotAsked,
    /// It does not have it.
    Missing,
    /// It has it here.
    Found(Known),
}

/// What is to be done with a change.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// Append this.
    Append(record::Change),
    /// It was taken before.
    Known(Known),
    /// It is not allowed, and never stored.
    Refused(Reason),
    /// It would change nothing.
    Unchanged,
    /// A fact is missing. What comes later in the conversation, or of the same user there, waits too.
    Needs(Need),
}

/// A fact that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The conversation's state.
    Conversation,
    /// Whether the store has this message.
    Stored(UserId, ClientMsgId),
    /// Whether both of these users exist.
    PeersExist(UserId, UserId),
    /// Whether a frame repeats an earlier one.
    Repeats {
        /// Where the earlier one came in.
        connection: Connection,
        /// Whose both are.
        sender: UserId,
        /// The message of the earlier one.
        client_msg_id: ClientMsgId,
        /// Its record.
        offset: Offset,
        /// How long ago it was.
        age_ms: u64,
    },
    /// How many messages of `from..=to` are by the user, to be added to `before`.
    Own {
        /// Whose.
        user: UserId,
        /// First message to look at.
        from: MsgId,
        /// Last message to look at.
        to: MsgId,
        /// How many there are below `from`.
        before: u32,
    },
}

impl Change {
    /// The conversation that is changed. `None` only for group 0.
    pub fn conversation(&self) -> Option<ConversationId> {
        match self {
            Self::Send(send) => Some(send.conversation),
            Self::CreateGroup(created) => ConversationId::group(GroupId(created.group)),
            Self::Members { group, .. } | Self::DeleteGroup { group, .. } => {
                ConversationId::group(*group)
            }
            Self::Read { conversation, .. }
            | Self::RemoveSession { conversation, .. }
            | Self::Shield { conversation, .. } => Some(*conversation),
        }
    }
}

/// Judges a change as of now. `now_ms` is the owner's clock, for fingerprints only.
pub fn admit(fold: &Fold, change: &Change, facts: &Facts, now_ms: u64) -> Admission {
    if let Change::Send(send) = change
        && let Some(known) = known(fold, send, facts, now_ms)
    {
        return known;
    }
    let Some(conversation) = change.conversation() else {
        return Admission::Refused(Reason::NoSuchGroup);
    };
    let Some(conversation) = fold.conversations.get(&conversation) else {
        return Admission::Needs(Need::Conversation);
    };
    match change {
        Change::Send(send) => may_send(conversation, send, facts),
        Change::CreateGroup(_) if conversation.group.is_some() => {
            Admission::Refused(Reason::NoSuchGroup)
        }
        Change::CreateGroup(created) => {
            Admission::Append(record::Change::GroupCreated(created.clone()))
        }
        Change::Members { group, actor, add, remove } => {
            let changing = facts.changing;
            may_change_members(conversation, (*group, changing), *actor, (add, remove))
        }
        Change::DeleteGroup { group, actor } => may_delete(conversation, *group, *actor),
        Change::Read { user, upto, .. } => read(conversation, *user, *upto, facts),
        // Lists, marks and settings are the user's own, also after the user has left.
        Change::RemoveSession { user, .. } | Change::Shield { user, .. }
            if conversation.newest_seen_by(*user).is_none() =>
        {
            Admission::Refused(Reason::NotMember)
        }
        Change::RemoveSession { user, .. } => {
            Admission::Append(record::Change::SessionRemoved(log::SessionRemoved {
                conversation: conversation.id.number(),
                user: user.0,
            }))
        }
        Change::Shield { user, on, .. } => Admission::Append(record::Change::Shield(log::Shield {
            conversation: conversation.id.number(),
            user: user.0,
            on: *on,
        })),
    }
}

fn known(fold: &Fold, send: &Message, facts: &Facts, now_ms: u64) -> Option<Admission> {
    let Identity { sender, client_msg_id, content_crc, .. } = send.identity;
    let in_window = match fold.window.find_id(send.identity, fold.last.next()) {
        Some(known) => Some(known),
        None => match repeated(fold, send, facts, now_ms) {
            Ok(known) => known,
            Err(need) => return Some(Admission::Needs(need)),
        },
    };
    if forgets() && in_window.is_none() {
        return None;
    }
    let is_other = |known: &Known| {
        known.client_msg_id == client_msg_id && !known.is_of(send.conversation, content_crc)
    };
    match (in_window, facts.stored) {
        (Some(known), _) | (None, InStore::Found(known)) if is_other(&known) => {
            Some(Admission::Refused(Reason::IdReused))
        }
        // It was stored before this owner started, so the store has its number.
        (Some(Known { msg_id: None, client_msg_id, .. }), InStore::NotAsked) => {
            Some(Admission::Needs(Need::Stored(sender, client_msg_id)))
        }
        (Some(Known { msg_id: None, .. }) | None, InStore::Found(known)) | (Some(known), _) => {
            Some(Admission::Known(known))
        }
        (None, InStore::NotAsked) if send.resend => {
            Some(Admission::Needs(Need::Stored(sender, client_msg_id)))
        }
        (None, _) => None,
    }
}

/// The message whose frame is repeated.
fn repeated(
    fold: &Fold,
    send: &Message,
    facts: &Facts,
    now_ms: u64,
) -> Result<Option<Known>, Need> {
    let now_ms = now_ms.max(fold.last_ms);
    let Some(earlier) = fold.window.find_frame(send.identity, fold.last.next(), now_ms) else {
        return Ok(None);
    };
    // Before fold version 2 nothing more was known of it.
    let Some(connection) = earlier.connection else { return Ok(Some(earlier.known)) };
    let age_ms = now_ms.saturating_sub(earlier.known.timestamp_ms);
    // The other one came while this one was not answered, so it is the repeat, and only came first.
    if send.waited_ms.is_some_and(|waited_ms| age_ms <= waited_ms) {
        return Ok(Some(earlier.known));
    }
    match facts.repeats {
        Some((offset, repeats)) if offset == earlier.offset => Ok(repeats.then_some(earlier.known)),
        _ => Err(Need::Repeats {
            connection,
            sender: send.identity.sender,
            client_msg_id: earlier.known.client_msg_id,
            offset: earlier.offset,
            age_ms,
        }),
    }
}

/// Whether a mutant keeps from recognising what the window does not know.
fn forgets() -> bool {
    faults::planted(Fault::SkipDedupe) || faults::planted(Fault::DedupeByWallClock)
}

fn may_send(conversation: &Conversation, send: &Message, facts: &Facts) -> Admission {
    let sender = send.identity.sender;
    let peers_exist = conversation.peers_exist || facts.peers_exist == Some(true);
    let refusal = match conversation.id.parties() {
        Parties::Single(..) if !conversation.has_member(sender) => Some(Reason::NotMember),
        // The user may have been made since.
        Parties::Single(low, high) if !peers_exist && facts.peers_exist.is_none() => {
            return Admission::Needs(Need::PeersExist(low, high));
        }
        Parties::Single(..) if !peers_exist => Some(Reason::NoSuchPeer),
        // A user who is not in a group is not told whether it exists.
        Parties::Group(_)
            if !conversation.has_member(sender) && !faults::planted(Fault::FormerMembersWrite) =>
        {
            Some(Reason::NotMember)
        }
        // What is judged in the same batch is not counted yet.
        _ if conversation.head.0 + BATCH_MAX > MsgId::MAX.0 => Some(Reason::Full),
        _ => bad_content(conversation.id, send),
    };
    if let Some(reason) = refusal {
        return Admission::Refused(reason);
    }
    if send.known_only {
        return Admission::Refused(Reason::NotKnown);
    }
    Admission::Append(record::Change::Message(message(conversation.id, send, facts)))
}

fn message(conversation: ConversationId, send: &Message, facts: &Facts) -> log::Message {
    let Frame { fingerprint, connection, repeats_after } = send.identity.frame;
    let connection = connection.filter(|_| fingerprint != 0);
    // What was looked at and is not repeated must not be found by the fold either.
    let not_repeated = facts.repeats.filter(|(_, repeats)| !repeats).map(|(offset, _)| offset);
    let repeats_after = repeats_after.map(|after| after.max(not_repeated.unwrap_or_default()).0);
    log::Message {
        conversation: conversation.number(),
        sender: send.identity.sender.0,
        client_msg_id: Bytes::copy_from_slice(&send.identity.client_msg_id.0),
        fingerprint: (fingerprint != 0).then_some(fingerprint),
        r#type: send.kind,
        body: send.body.clone(),
        gateway_boot: connection.map(|connection| connection.gateway_boot),
        session: connection.map(|connection| connection.session),
        repeats_after: connection.and(repeats_after),
        sent_crc: send.sent_crc(),
        hooks: send.hooks.clone(),
    }
}

/// The gateway has checked the same before; a gateway that did not is not believed.
fn bad_content(conversation: ConversationId, send: &Message) -> Option<Reason> {
    let kind = i32::try_from(send.kind).ok().and_then(|kind| MessageType::try_from(kind).ok());
    let (fits, voice) = match kind {
        Some(MessageType::SingleText) => (conversation.as_group().is_none(), false),
        Some(MessageType::SingleVoice) => (conversation.as_group().is_none(), true),
        Some(MessageType::GroupText) => (conversation.as_group().is_some(), false),
        Some(MessageType::GroupVoice) => (conversation.as_group().is_some(), true),
        None => (false, false),
    };
    if !fits {
        return Some(Reason::BadType);
    }
    if send.body.is_empty() || voice && send.body.len() <= VOICE_HEADER_LEN {
        return Some(Reason::Empty);
    }
    (send.body.len() > MESSAGE_BODY_MAX).then_some(Reason::TooLarge)
}

/// In a group made by users every member may add; removing, and any change of a normal group, is
/// for its creator (TeamTalk protocol, groups) and for administrators.
fn may_change_members(
    conversation: &Conversation,
    (group, changing): (GroupId, bool),
    actor: Option<UserId>,
    (add, remove): (&[UserId], &[UserId]),
) -> Admission {
    let Some(row) = &conversation.group else {
        return Admission::Refused(Reason::NotMember);
    };
    if row.deleted {
        return Admission::Refused(Reason::NoSuchGroup);
    }
    let temporary = row.kind == GroupType::Temporary as u32;
    let allowed = actor.is_none_or(|actor| {
        row.creator == actor && (conversation.has_member(actor) || !temporary)
            || temporary && remove.is_empty() && conversation.has_member(actor)
    });
    if !allowed {
        return Admission::Refused(Reason::NotMember);
    }
    let changes = changing
        || add.iter().any(|user| !conversation.has_member(*user))
        || remove.iter().any(|user| conversation.has_member(*user));
    if !changes {
        return Admission::Unchanged;
    }
    let numbers = |users: &[UserId]| users.iter().map(|user| user.0).collect();
    Admission::Append(record::Change::MembersChanged(log::MembersChanged {
        group: group.0,
        actor: actor.unwrap_or_default().0,
        added: numbers(add),
        removed: numbers(remove),
        deleted: None,
    }))
}

/// A group is deleted by its creator, of one made by users only as long as the creator is a member,
/// and by administrators. To delete it again changes nothing.
fn may_delete(conversation: &Conversation, group: GroupId, actor: Option<UserId>) -> Admission {
    let Some(row) = &conversation.group else {
        return Admission::Refused(Reason::NoSuchGroup);
    };
    if actor.is_some_and(|actor| row.creator != actor) {
        return Admission::Refused(Reason::NotMember);
    }
    if row.deleted {
        return Admission::Unchanged;
    }
    let temporary = row.kind == GroupType::Temporary as u32;
    if actor.is_some_and(|actor| temporary && !conversation.has_member(actor)) {
        return Admission::Refused(Reason::NotMember);
    }
    // For readers of the record that do not have the state. If the group is too large for that, only
    // the fold can say who leaves.
    let members = conversation.current_members();
    let named = if members.len() <= NAMED_MAX { members } else { Vec::new() };
    Admission::Append(record::Change::MembersChanged(log::MembersChanged {
        group: group.0,
        actor: actor.unwrap_or_default().0,
        added: Vec::new(),
        removed: named.into_iter().map(|user| user.0).collect(),
        deleted: Some(true),
    }))
}

fn read(conversation: &Conversation, user: UserId, upto: MsgId, facts: &Facts) -> Admission {
    let mark = conversation.marks.get(&user).copied().unwrap_or_default();
    let Some(newest) = conversation.newest_seen_by(user) else { return Admission::Unchanged };
    // What was said while the store counted is not meant.
    let counted_to = facts.own_up_to.map(|(to, _)| to);
    let asked = if upto.0 == 0 { newest } else { upto };
    let upto = counted_to.unwrap_or(asked).min(newest);
    if upto <= mark.read {
        return Admission::Unchanged;
    }
    let counted = facts.own_up_to.filter(|_| counted_to == Some(upto));
    let own_up_to = counted.map(|(_, own)| own).or_else(|| conversation.own_up_to(user, upto));
    match own_up_to {
        Some(own_up_to) => Admission::Append(record::Change::Read(log::Read {
            conversation: conversation.id.number(),
            user: user.0,
            msg_id: upto.0,
            own_up_to,
        })),
        None => Admission::Needs(Need::Own {
            user,
            from: mark.read.next(),
            to: upto,
            before: mark.own_up_to_read,
        }),
    }
}

/// Wraps a change into the record that is appended.
pub fn record(change: record::Change, epoch: u64) -> Record {
    Record { change: Some(change), written_in_epoch: Some(epoch) }
}

#[cfg(test)]
mod tests;
