//! Unread counts and visible ranges against a model that keeps every message.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::admission::{self, Admission, Facts, Message, Need};

const USERS: std::ops::RangeInclusive<u32> = 1..=4;

/// What a user asks for. It may not be allowed.
#[derive(Debug, Clone, Copy)]
enum Wish {
    Send {
        user: u32,
        count: u32,
    },
    /// Up to so many messages before the newest.
    Read {
        user: u32,
        before_newest: u32,
    },
    ReadAll {
        user: u32,
    },
    RemoveSession {
        user: u32,
    },
    Join {
        user: u32,
    },
    Leave {
        user: u32,
    },
    /// What was admitted is folded.
    Flush,
    /// It is stored too, and forgotten but for the newest messages.
    Store,
    /// All of it leaves memory.
    Evict,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn unread_counts_are_those_of_a_model_that_keeps_every_message(
        in_group in any::<bool>(),
        wishes in prop::collection::vec(wish(), 1..120),
    ) {
        let mut world = World::new(in_group);
        for wish in wishes {
            world.grant(wish);
            for user in USERS {
                let expected = world.model.unread(user);
                let conversation = world.conversation();
                prop_assert_eq!(conversation.unread(UserId(user)), expected, "{} {:?}", user, wish);
                let seen = conversation.seen_by(UserId(user));
                if conversation.has_member(UserId(user)) {
                    prop_assert_eq!(seen.unread(), expected, "in a list of {}", user);
                }
            }
        }
    }
}

/// Every message's author, and where each user's view begins.
struct Model {
    authors: Vec<u32>,
    /// The first message that a member may see.
    members: BTreeMap<u32, usize>,
    /// Up to where each has read.
    read: BTreeMap<u32, usize>,
}

impl Model {
    fn unread(&self, user: u32) -> u32 {
        let Some(first) = self.members.get(&user) else { return 0 };
        let read = self.read.get(&user).copied().unwrap_or(0);
        let unread = self.authors.iter().enumerate().filter(|(at, author)| {
            let msg_id = at + 1;
            msg_id >= *first && msg_id > read && **author != user
        });
        u32::try_from(unread.count()).unwrap()
    }

    fn count_own(&self, user: u32, from: MsgId, to: MsgId) -> u32 {
        let range = from.0 as usize - 1..to.0 as usize;
        let own = self.authors[range].iter().filter(|author| **author == user);
        u32::try_from(own.count()).unwrap()
    }

    fn apply(&mut self, change: &Change) {
        let head = self.authors.len();
        match change {
            Change::Message(message) => self.authors.push(message.sender),
            Change::MembersChanged(changed) => {
                for user in &changed.added {
                    if !self.members.contains_key(user) {
                        self.members.insert(*user, head + 1);
                    }
                }
                for user in &changed.removed {
                    self.members.remove(user);
                }
            }
            Change::Read(read) => {
                let mark = self.read.entry(read.user).or_default();
                *mark = (*mark).max(read.msg_id as usize);
            }
            Change::SessionRemoved(removed) => drop(self.read.insert(removed.user, head)),
            _ => {}
        }
    }
}

struct World {
    partition: Partition,
    model: Model,
    id: ConversationId,
    /// Admitted, not folded.
    admitted: Vec<Change>,
}

impl World {
    fn new(in_group: bool) -> Self {
        let mut partition = Partition::new();
        let users = [ALICE, BOB];
        if in_group {
            partition.fold(created(&users));
        } else {
            partition.send(two(), ALICE, id());
        }
        let model = Model {
            authors: if in_group { Vec::new() } else { vec![ALICE] },
            members: users.map(|user| (user, 1)).into(),
            read: BTreeMap::new(),
        };
        let id = if in_group { group() } else { two() };
        Self { partition, model, id, admitted: Vec::new() }
    }

    fn grant(&mut self, wish: Wish) {
        let conversation = self.id;
        match wish {
            Wish::Send { user, count } => {
                for _ in 0..count {
                    self.admit(&admission::Change::Send(send(conversation, user)));
                }
            }
            Wish::Read { user, before_newest } => {
                let head = self.conversation().head.0;
                let upto = MsgId(head.saturating_sub(before_newest));
                let user = UserId(user);
                self.admit(&admission::Change::Read { conversation, user, upto });
            }
            Wish::ReadAll { user } => {
                let (user, upto) = (UserId(user), MsgId(0));
                self.admit(&admission::Change::Read { conversation, user, upto });
            }
            Wish::RemoveSession { user } => {
                let user = UserId(user);
                self.admit(&admission::Change::RemoveSession { conversation, user });
            }
            Wish::Join { user } => self.change_members(vec![UserId(user)], Vec::new()),
            Wish::Leave { user } => self.change_members(Vec::new(), vec![UserId(user)]),
            Wish::Flush => self.flush(),
            Wish::Store => {
                self.flush();
                self.partition.store();
            }
            Wish::Evict => {
                self.flush();
                self.partition.store();
                self.partition.fold.conversations.clear();
            }
        }
    }

    fn change_members(&mut self, add: Vec<UserId>, remove: Vec<UserId>) {
        if let Some(group) = self.id.as_group() {
            self.admit(&admission::Change::Members { group, actor: None, add, remove });
        }
    }

    /// Judges as the partition does: all of a batch as of the state before the batch.
    fn admit(&mut self, change: &admission::Change) {
        self.conversation();
        let mut facts = Facts::default();
        loop {
            match admission::admit(&self.partition.fold, change, &facts, 0) {
                Admission::Append(change) => return self.admitted.push(change),
                Admission::Refused(_) | Admission::Unchanged => return,
                Admission::Needs(Need::Own { user, from, to, before }) => {
                    let own = self.model.count_own(user.0, from, to);
                    facts.own_up_to = Some((to, before + own));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn flush(&mut self) {
        for change in std::mem::take(&mut self.admitted) {
            self.model.apply(&change);
            self.partition.fold(change);
        }
    }

    fn conversation(&mut self) -> &Conversation {
        let Partition { fold, stored, .. } = &mut self.partition;
        let id = self.id;
        let load = || Conversation::from_stored(id, stored.conversation(id));
        fold.conversations.entry(id).or_insert_with(load)
    }
}

fn send(conversation: ConversationId, user: u32) -> Message {
    Message {
        conversation,
        identity: Identity {
            sender: UserId(user),
            client_msg_id: id(),
            content_crc: 0,
            frame: Frame::default(),
        },
        resend: false,
        first: false,
        waited_ms: None,
        kind: if conversation.as_group().is_some() { 0x11 } else { 1 },
        body: Bytes::from_static(b"body"),
        origin: None,
        known_only: false,
        hooks: Vec::new(),
    }
}

fn wish() -> impl Strategy<Value = Wish> {
    let user = || USERS;
    prop_oneof![
        6 => (user(), prop_oneof![4 => 1_u32..4, 1 => 10_u32..40])
            .prop_map(|(user, count)| Wish::Send { user, count }),
        3 => (user(), prop_oneof![0_u32..4, 0_u32..80])
            .prop_map(|(user, before_newest)| Wish::Read { user, before_newest }),
        1 => user().prop_map(|user| Wish::ReadAll { user }),
        1 => user().prop_map(|user| Wish::RemoveSession { user }),
        1 => user().prop_map(|user| Wish::Join { user }),
        1 => user().prop_map(|user| Wish::Leave { user }),
        4 => Just(Wish::Flush),
        2 => Just(Wish::Store),
        1 => Just(Wish::Evict),
    ]
}
