//! Changes of a group's members, carried out for the sessions here.

use std::sync::Arc;

use proto::cluster::wire::{InterestChange, Publish};
use proto::ids::{ConversationId, GroupId, UserId};

use super::joiners::{self, Joiners};
use super::shared::Shared;
use crate::parts::Parts;
use crate::sessions::membership::Change;
use crate::sessions::session::Session;

/// Carries out a change of a group's members, and tells all who are concerned.
pub(super) fn change_members(
    shared: &Arc<Shared>,
    conversation: ConversationId,
    publish: &Publish,
) {
    let parts = &shared.parts;
    let Some(group) = conversation.as_group() else { return };
    let mut concerned: Vec<Arc<Session>> = match parts.registry.group(group) {
        Some(group) => group.iter().map(|member| Arc::clone(&member.session)).collect(),
        None => Vec::new(),
    };
    for &user in publish.added.iter().chain(&publish.removed) {
        concerned.extend(parts.registry.sessions_of(UserId(user)));
    }
    concerned.sort_by_key(|session| session.id());
    concerned.dedup_by_key(|session| session.id());

    leave(parts, group, publish);
    enter(shared, group, publish);
    if publish.frame.is_empty() {
        // A change that clients are not told of, such as a new group.
        return;
    }
    for session in concerned {
        if publish.origin != Some(session.origin(parts.boot)) {
            session.push(&publish.frame);
        }
    }
}

/// Carries out what changes of members came to, as far as it is not yet, and tells whom it was news. A
/// client whose login is not answered yet asks for its groups anyway.
pub(super) fn ensure_members(
    shared: &Arc<Shared>,
    conversation: ConversationId,
    publish: &Publish,
) {
    let Some(group) = conversation.as_group() else { return };
    let mut changed = leave(&shared.parts, group, publish);
    changed.extend(enter(shared, group, publish));
    let is_told = |session: &&Arc<Session>| !publish.frame.is_empty() && !session.outbox.is_held();
    for session in changed.iter().filter(is_told) {
        session.push(&publish.frame);
    }
}

/// Takes the removed out already, before the messages that may have been said after that.
pub(super) fn withdraw(parts: &Parts, publish: &Publish) {
    let conversation = ConversationId::from_number(publish.conversation);
    if let Some(group) = conversation.and_then(ConversationId::as_group) {
        leave(parts, group, publish);
    }
}

/// Takes the sessions of removed users out. Returns those that were in.
fn leave(parts: &Parts, group: GroupId, publish: &Publish) -> Vec<Arc<Session>> {
    let removed = publish.removed.iter().flat_map(|user| parts.registry.sessions_of(UserId(*user)));
    let version = publish.member_version;
    let left = |session: &Arc<Session>| {
        parts.registry.change(session, group, version, None) == Change::Left
    };
    removed.filter(left).collect()
}

/// Enters the sessions of added users. They see nothing until the hub knows that we are interested
/// in the group: then they get what they may see from the start, and nothing is missing. Returns
/// those that were not in.
fn enter(shared: &Arc<Shared>, group: GroupId, publish: &Publish) -> Vec<Arc<Session>> {
    let parts = &shared.parts;
    let order = parts.hub.in_order();
    let added = publish.added.iter().flat_map(|user| parts.registry.sessions_of(UserId(*user)));
    let entered: Vec<Arc<Session>> = added
        .filter(|session| {
            let (version, added_at) = (publish.member_version, Some(publish.offset));
            parts.registry.change(session, group, version, added_at) == Change::Entered
        })
        .collect();
    let Some(first) = entered.first() else { return entered };
    let announced = order.announce(&InterestChange {
        // A change that adds a user is confirmed; to add the same one again changes nothing.
        add_users: vec![first.interest()],
        add_groups: vec![group.0],
        ..InterestChange::default()
    });
    drop(order);
    let joiners = Joiners {
        sessions: entered.clone(),
        group,
        added_at: publish.offset,
        changed_at: publish.offset,
    };
    joiners::start(shared, joiners, publish.first_visible, announced);
    entered
}
