//! What is asked of the db_proxies, and which answers are taken.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use daemon::{CallError, Link};
use proto::Command;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    AdminAnswer, AdminRequest, Answer, Ask, AskStatus, FetchRequest, Fetched, GroupChange,
    GroupDelete, Membership, Memberships, MembershipsRequest, Origin, Owned, Rest, Resume,
    TokenAnswer, TokenQuestion, Verified, Verify,
};
use proto::cluster::{Kind, rendezvous_weight};
use proto::ids::{ConversationId, GroupId};
use tokio::time::Instant;

use super::{Owners, PAUSE, Question, Round};
use crate::merge::merge;
use crate::routing::{Route, is_repeatable, route};

/// How long a client's request may take: Android waits this long.
pub const ASK_LIMIT: Duration = Duration::from_secs(8);

/// How long the check of a password may take.
const VERIFY_LIMIT: Duration = Duration::from_secs(5);

/// How long something about tokens may take: a logout waits for it, and clients wait 5 s for that.
const TOKEN_LIMIT: Duration = Duration::from_secs(2);

/// How long a login may wait for its groups: as long as for the rest that its client will ask.
const MEMBERSHIPS_LIMIT: Duration = Duration::from_secs(8);

/// How soon they are asked for again if they are not complete. That may be because of a move, which is
/// noticed at once, or because the store is away, which then is not asked more often by all who wait.
const MEMBERSHIPS_PAUSE: Duration = Duration::from_secs(1);

/// How long questions of our own may take, which are asked until they are answered.
const OWN_LIMIT: Duration = Duration::from_secs(5);

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The request.
    pub command: Command,
    /// Its message, encoded.
    pub body: Bytes,
    /// Where the answer goes on, if its beginning was told before.
    pub rest: Option<Rest>,
}

/// On whose behalf something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The user's number.
    pub user: u32,
    /// The kind of device, as the client protocol has it.
    pub client_type: u32,
    /// The session that the request came from; it hears the answer, and no notice beside it.
    pub origin: Origin,
}

/// The groups of a user, and up to where that is complete.
#[derive(Debug)]
pub struct Joined {
    /// The groups.
    pub groups: Vec<Membership>,
    /// By partition: up to this place in its log the groups are complete, and whatever the client asks
    /// from now on will be.
    pub reached: Vec<u64>,
}

impl Owners {
    /// Asks whether a client is who it says.
    pub async fn verify(&self, verify: &Verify) -> Result<Verified, CallError> {
        let question = Question::new(Kind::Verify, verify, Instant::now() + VERIFY_LIMIT);
        let key = rendezvous_weight(0, &verify.name);
        self.ask_one(question, || self.login_side(key), |_verified| true).await
    }

    /// Asks whom a token or a ticket is for.
    pub async fn resume(&self, shown: &Resume) -> Result<Verified, CallError> {
        let until = Instant::now() + VERIFY_LIMIT;
        // A ticket whose answer was lost may have been used up.
        let repeatable = shown.ticket.is_none();
        let question = Question { repeatable, ..Question::new(Kind::Resume, shown, until) };
        let bytes = shown.token.as_ref().or(shown.ticket.as_ref());
        // Any will do. The same for the same token, as long as it is there.
        let key =
            bytes.and_then(|bytes| bytes.last_chunk()).map_or(0, |last| u64::from_be_bytes(*last));
        self.ask_one(question, || self.login_side(key), |_verified| true).await
    }

    /// Asks what a session wants of tokens.
    pub async fn token(&self, question: &TokenQuestion) -> Result<TokenAnswer, CallError> {
        let key = u64::from(question.user);
        let question = Question::new(Kind::Token, question, Instant::now() + TOKEN_LIMIT);
        self.ask_one(question, || self.login_side(key), |_answer| true).await
    }

    /// Asks which groups a user is in; `None` if it cannot be said completely.
    pub async fn memberships(&self, user: u32) -> Option<Joined> {
        let all: Vec<u32> = (0..self.partitions.count()).collect();
        if all.is_empty() {
            return None;
        }
        let until = Instant::now() + MEMBERSHIPS_LIMIT;
        let (kind, pause) = (Kind::Memberships, MEMBERSHIPS_PAUSE);
        let round = Round { kind, partitions: &all, pause, until };
        let question = |partitions| MembershipsRequest { user, partitions };
        let answers: Vec<Memberships> =
            self.ask_all(round, question, |answer, of| self.is_about(answer, of)).await.ok()?;
        let mut joined = Joined { groups: Vec::new(), reached: vec![0; all.len()] };
        for answer in answers {
            for reached in answer.reached {
                if let Some(place) = joined.reached.get_mut(reached.by.partition as usize) {
                    *place = reached.upto_offset;
                }
            }
            // Mostly there is one answer, which is not copied.
            if joined.groups.is_empty() {
                joined.groups = answer.groups;
            } else {
                joined.groups.extend(answer.groups);
            }
        }
        Some(joined)
    }

    /// Asks once which of the groups of one partition a user is in.
    pub async fn memberships_in(&self, user: u32, partition: u32) -> Option<Vec<Membership>> {
        let link = self.owner(partition)?;
        let request = MembershipsRequest { user, partitions: vec![partition] };
        let answer = link.call(Kind::Memberships.number(), &request, OWN_LIMIT).await;
        let answer: Memberships = answer.ok()?;
        self.is_about(&answer, &[partition]).then_some(answer.groups)
    }

    /// Whether an answer is complete for all of those partitions, and of their newest owners.
    fn is_about(&self, answer: &Memberships, partitions: &[u32]) -> bool {
        let by = answer.reached.iter().map(|reached| &reached.by);
        self.partitions.are_current(by.clone()) && answer.complete && covers(by, partitions)
    }

    /// Asks once for messages as they were published.
    pub async fn fetch(&self, request: &FetchRequest) -> Result<Fetched, CallError> {
        let partition = self.partitions.of(request.conversation).ok_or(CallError::Closed)?;
        let link = self.owner(partition).ok_or(CallError::Closed)?;
        let fetched: Fetched = link.call(Kind::Fetch.number(), request, OWN_LIMIT).await?;
        let current = self.partitions.are_current(&fetched.by);
        if current && covers(&fetched.by, &[partition]) {
            Ok(fetched)
        } else {
            // It is not the owner, or not any more: as if it had gone.
            Err(CallError::Closed)
        }
    }

    /// Has an administrator's request carried out. Its owner is asked what is about a group, one owner after
    /// the other what makes or lists groups, and one that serves logins anything else.
    ///
    /// It is asked until `until`, and the answer may take `grace` longer.
    ///
    /// # Errors
    ///
    /// [`CallError::TimedOut`] if nobody could be asked until then, or the answer took too long. After any
    /// error it is unknown whether the request was carried out.
    pub async fn administer(
        &self,
        request: &AdminRequest,
        until: Instant,
        grace: Duration,
    ) -> Result<AdminAnswer, CallError> {
        let about = match &request.what {
            Some(
                What::GroupChange(GroupChange { group, .. })
                | What::GroupDelete(GroupDelete { group }),
            ) => ConversationId::group(GroupId(*group)),
            _ => None,
        };
        let partition = about.and_then(|group| self.partitions.of(group.number()));
        let is_of_groups = matches!(
            request.what,
            Some(What::GroupCreate(_) | What::GroupList(_) | What::DemoUsers(_))
        );
        // The demonstration's group belongs to one of them: after a refusal the next one is asked.
        let turn = AtomicU32::new(0);
        let find = || match partition {
            Some(partition) => self.owner(partition),
            None if is_of_groups => self.any_owner(turn.fetch_add(1, Ordering::Relaxed)),
            None => self.login_side(0),
        };
        let once = Question::new(Kind::Admin, request, until);
        let question = Question { repeatable: false, grace, ..once };
        // What is not here was not done.
        self.ask_one(question, find, |answer: &AdminAnswer| answer.not_here != Some(true)).await
    }

    /// Whether somebody can be asked about a client's request now.
    pub fn is_served(&self, asker: Asker, command: Command, body: &Bytes) -> bool {
        match route(command, body, asker.user) {
            Route::Conversation(conversation) => {
                let partition = self.partitions.of(conversation.number());
                partition.is_some_and(|partition| self.is_owned(partition))
            }
            _ => true,
        }
    }

    /// Passes a client's request on.
    pub async fn ask(
        &self,
        asker: Asker,
        asked: Asked,
        until: Instant,
    ) -> Result<Answer, CallError> {
        let (user, command) = (asker.user, asked.command);
        let route = route(command, &asked.body, user);
        let ask = asker.ask(asked);
        let wanted = match &route {
            Route::Conversation(conversation) => {
                let partition =
                    self.partitions.of(conversation.number()).ok_or(CallError::Closed)?;
                let find = || self.owner(partition);
                return self.pass_on(&ask, Some(partition), until, find).await;
            }
            Route::Logins => {
                let find = || self.login_side(u64::from(user));
                return self.pass_on(&ask, None, until, find).await;
            }
            Route::AnyOwner => {
                return self.pass_on(&ask, None, until, || self.any_owner(user)).await;
            }
            Route::Everything => (0..self.partitions.count()).collect(),
            Route::Conversations(conversations) => {
                let partitions = conversations.iter().map(|one| self.partitions.of(one.number()));
                let mut partitions: Vec<u32> = partitions.flatten().collect();
                partitions.sort_unstable();
                partitions.dedup();
                partitions
            }
        };
        if wanted.is_empty() {
            // Nobody has said what there is: of nothing, everything would be an empty list.
            return Err(CallError::Closed);
        }
        let round = Round { kind: Kind::Ask, partitions: &wanted, pause: PAUSE, until };
        // Of several, an owner stops at the first that does not fit any more.
        let of_all = route == Route::Everything;
        let question = |partitions| Ask { partitions, ..ask.clone() };
        let counts = |answer: &Answer, of: &[u32]| {
            self.partitions.are_current(&answer.by)
                && match answer.status() {
                    AskStatus::NotOwner => false,
                    AskStatus::Answered => !of_all || covers(&answer.by, of),
                    AskStatus::Unavailable | AskStatus::Ignored => true,
                }
        };
        let answers = self.ask_all(round, question, counts).await?;
        Ok(merge(command, &ask, answers))
    }

    async fn pass_on(
        &self,
        ask: &Ask,
        about: Option<u32>,
        until: Instant,
        find: impl Fn() -> Option<Link>,
    ) -> Result<Answer, CallError> {
        let command = u16::try_from(ask.command).ok().and_then(Command::from_number);
        let repeatable = command.is_some_and(is_repeatable);
        let counts = |answer: &Answer| {
            let current = self.partitions.are_current(&answer.by);
            // Of what changes something, only "nothing was changed" may be out of date.
            let may_be_old = !repeatable && answer.changed != Some(false);
            answer.status() != AskStatus::NotOwner && (current || may_be_old)
        };
        let question = Question { repeatable, about, ..Question::new(Kind::Ask, ask, until) };
        self.ask_one(question, find, counts).await
    }
}

impl Asked {
    /// From the beginning.
    pub fn of(command: Command, body: Bytes) -> Self {
        Self { command, body, rest: None }
    }
}

impl Asker {
    fn ask(self, asked: Asked) -> Ask {
        let Asked { command, body, rest } = asked;
        let Self { user, client_type, origin } = self;
        Ask {
            user,
            client_type,
            origin,
            command: u32::from(command.number()),
            body,
            partitions: Vec::new(),
            rest,
        }
    }
}

/// Whether an answer was read from all of those partitions.
fn covers<'a>(by: impl IntoIterator<Item = &'a Owned>, partitions: &[u32]) -> bool {
    let mut by: Vec<u32> = by.into_iter().map(|owned| owned.partition).collect();
    by.sort_unstable();
    partitions.iter().all(|partition| by.binary_search(partition).is_ok())
}
