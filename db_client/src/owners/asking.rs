//! What is asked of the db_proxies, and which answers are taken.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use daemon::{CallError, Link};
use proto::StorageCommand;
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    AdminAnswer, AdminRequest, Answer, Ask, AskStatus, FetchRequest, Fetched, GroupChange,
    GroupDelete, GroupMembers, Membership, Memberships, MembershipsRequest, Origin, Owned, Rest,
    Resume, TokenAnswer, TokenQuestion, Verified, Verify,
};
use proto::cluster::{Kind, rendezvous_weight};
use proto::command::{Repeat, Route};
use proto::ids::{ConversationId, GroupId, UserId};
use tokio::time::Instant;

use super::{Owners, PAUSE, Question, Round};
use crate::merge::merge;

/// How long a client's request may take: Android waits this long.
pub const ASK_LIMIT: Duration = Duration::from_secs(8);

/// How long the check of a password may take.
const VERIFY_LIMIT: Duration = Duration::from_secs(5);

/// How long something about tokens may take: a logout waits for it, and clients wait 5 s for that.
const TOKEN_LIMIT: Duration = Duration::from_secs(2);

/// How long a login may wait for its groups: as long as for the rest that its client will ask.
const MEMBERSHIPS_LIMIT: Duration = Duration::from_secs(8);

/// How soon they are asked for again if they are not complete. The reason may be a move, which is
/// noticed at once, or a store that cannot be reached: then this keeps the waiting callers from
/// asking it more often.
const MEMBERSHIPS_PAUSE: Duration = Duration::from_secs(1);

/// How long questions of our own may take, which are asked until they are answered.
const OWN_LIMIT: Duration = Duration::from_secs(5);

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The request.
    pub command: StorageCommand,
    /// Its message, encoded.
    pub body: Bytes,
    /// Where the answer goes on, if its beginning was told before.
    pub rest: Option<Rest>,
}

/// On whose behalf something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The user's number.
    pub user: UserId,
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
    /// Asks whether a user's name and password are right.
    pub async fn verify(&self, verify: &Verify) -> Result<Verified, CallError> {
        let question = Question::new(Kind::Verify, verify, Instant::now() + VERIFY_LIMIT);
        let key = rendezvous_weight(0, &verify.name);
        self.ask_one(question, || self.login_side(key), |_verified| true).await
    }

    /// Asks which user a token or a ticket is for.
    pub async fn resume(&self, shown: &Resume) -> Result<Verified, CallError> {
        let until = Instant::now() + VERIFY_LIMIT;
        // A ticket whose answer was lost may have been used up.
        let repeatable = shown.ticket.is_none();
        let question = Question { repeatable, ..Question::new(Kind::Resume, shown, until) };
        let bytes = shown.token.as_ref().or(shown.ticket.as_ref());
        // Any db_proxy that serves logins will do. For the same token it is the same one while it
        // is there.
        let key =
            bytes.and_then(|bytes| bytes.last_chunk()).map_or(0, |last| u64::from_be_bytes(*last));
        self.ask_one(question, || self.login_side(key), |_verified| true).await
    }

    /// Asks a session's question about tokens.
    pub async fn token(&self, question: &TokenQuestion) -> Result<TokenAnswer, CallError> {
        let key = u64::from(question.user);
        let question = Question::new(Kind::Token, question, Instant::now() + TOKEN_LIMIT);
        self.ask_one(question, || self.login_side(key), |_answer| true).await
    }

    /// Asks which groups a user is in; `None` if it cannot be said completely.
    pub async fn memberships(&self, user: UserId) -> Option<Joined> {
        let all: Vec<u32> = (0..self.partitions.count()).collect();
        if all.is_empty() {
            return None;
        }
        let until = Instant::now() + MEMBERSHIPS_LIMIT;
        let (kind, pause) = (Kind::Memberships, MEMBERSHIPS_PAUSE);
        let round = Round { kind, partitions: &all, pause, until };
        let question = |partitions| MembershipsRequest { user: user.0, partitions };
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
    pub async fn memberships_in(&self, user: UserId, partition: u32) -> Option<Vec<Membership>> {
        let link = self.owner(partition)?;
        let request = MembershipsRequest { user: user.0, partitions: vec![partition] };
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
        let conversation = ConversationId::from_number(request.conversation);
        let partition = conversation.and_then(|one| self.partitions.of(one));
        let partition = partition.ok_or(CallError::Closed)?;
        let link = self.owner(partition).ok_or(CallError::Closed)?;
        let fetched: Fetched = link.call(Kind::Fetch.number(), request, OWN_LIMIT).await?;
        let current = self.partitions.are_current(&fetched.by);
        if current && covers(&fetched.by, &[partition]) {
            Ok(fetched)
        } else {
            // It is not the owner, or is no longer the owner: treated as if its link were down.
            Err(CallError::Closed)
        }
    }

    /// Has an administrator's request carried out. A request about a group goes to the group's
    /// owner. One that makes or lists groups, or is about consumers, goes to one owner after the
    /// other until one carries it out. Everything else goes to a db_proxy that serves logins.
    ///
    /// It is asked until `until`, and the answer may take `grace` longer.
    ///
    /// # Errors
    ///
    /// [`CallError::TimedOut`] if no db_proxy could be asked until then, or the answer took too
    /// long. After any error it is unknown whether the request was carried out. Only what changes nothing is
    /// asked again when a link is lost.
    pub async fn administer(
        &self,
        request: &AdminRequest,
        until: Instant,
        grace: Duration,
    ) -> Result<AdminAnswer, CallError> {
        let about = match &request.what {
            Some(
                What::GroupChange(GroupChange { group, .. })
                | What::GroupDelete(GroupDelete { group })
                | What::GroupMembers(GroupMembers { group, .. }),
            ) => ConversationId::group(GroupId(*group)),
            _ => None,
        };
        let partition = about.and_then(|group| self.partitions.of(group));
        let is_of_any_owner = matches!(
            request.what,
            Some(
                What::GroupCreate(_)
                    | What::GroupList(_)
                    | What::DemoUsers(_)
                    | What::ConsumerList(_)
                    | What::ConsumerForget(_)
            )
        );
        // The demonstration's group belongs to one of them: after a refusal the next one is asked.
        let turn = AtomicU32::new(0);
        let find = || match partition {
            Some(partition) => self.owner(partition),
            None if is_of_any_owner => self.any_owner(turn.fetch_add(1, Ordering::Relaxed)),
            None => self.login_side(0),
        };
        let once = Question::new(Kind::Admin, request, until);
        let question = Question { repeatable: changes_nothing(request), grace, ..once };
        // A db_proxy that answers "not here" has done nothing.
        self.ask_one(question, find, |answer: &AdminAnswer| answer.not_here != Some(true)).await
    }

    /// Whether there is a db_proxy that can be asked about a client's request now.
    pub fn is_served(&self, asker: Asker, command: StorageCommand, body: &Bytes) -> bool {
        match command.route(body, asker.user) {
            Route::Conversation(conversation) => {
                let partition = self.partitions.of(conversation);
                partition.is_some_and(|partition| self.is_owned(partition))
            }
            Route::Everything(_) | Route::Conversations(..) | Route::Logins | Route::AnyOwner => {
                true
            }
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
        let route = command.route(&asked.body, user);
        let ask = asker.ask(asked);
        let question = Question {
            repeatable: command.repeat() == Repeat::Repeatable,
            ..Question::new(Kind::Ask, &ask, until)
        };
        // Asked about several conversations, an owner stops at the first that does not fit.
        let (merged, wanted, of_all) = match route {
            Route::Conversation(conversation) => {
                let partition = self.partitions.of(conversation).ok_or(CallError::Closed)?;
                let question = Question { about: Some(partition), ..question };
                return self.pass_on(question, || self.owner(partition)).await;
            }
            Route::Logins => {
                return self.pass_on(question, || self.login_side(u64::from(user.0))).await;
            }
            Route::AnyOwner => {
                return self.pass_on(question, || self.any_owner(user.0)).await;
            }
            Route::Everything(merged) => (merged, (0..self.partitions.count()).collect(), true),
            Route::Conversations(merged, conversations) => {
                (merged, self.partitions_of(&conversations), false)
            }
        };
        if wanted.is_empty() {
            // No db_proxy has said yet how many partitions there are. Asking none of them would give an
            // empty list, which would be wrong.
            return Err(CallError::Closed);
        }
        let round = Round { kind: Kind::Ask, partitions: &wanted, pause: PAUSE, until };
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
        Ok(merge(merged, &ask, answers, &self.placeholders))
    }

    fn partitions_of(&self, conversations: &[ConversationId]) -> Vec<u32> {
        let partitions = conversations.iter().map(|one| self.partitions.of(*one));
        let mut partitions: Vec<u32> = partitions.flatten().collect();
        partitions.sort_unstable();
        partitions.dedup();
        partitions
    }

    async fn pass_on(
        &self,
        question: Question<'_, Ask>,
        find: impl Fn() -> Option<Link>,
    ) -> Result<Answer, CallError> {
        let repeatable = question.repeatable;
        let counts = |answer: &Answer| {
            let current = self.partitions.are_current(&answer.by);
            // If the request changes something, only the answer "nothing was changed" can be out of
            // date.
            let may_be_old = !repeatable && answer.changed != Some(false);
            answer.status() != AskStatus::NotOwner && (current || may_be_old)
        };
        self.ask_one(question, find, counts).await
    }
}

impl Asked {
    /// From the beginning.
    pub fn of(command: StorageCommand, body: Bytes) -> Self {
        Self { command, body, rest: None }
    }
}

impl Asker {
    fn ask(self, asked: Asked) -> Ask {
        let Asked { command, body, rest } = asked;
        let Self { user, client_type, origin } = self;
        Ask {
            user: user.0,
            client_type,
            origin,
            command: u32::from(command.command().number()),
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

/// Whether an administrator's request may be asked again when it is not known what became of it.
fn changes_nothing(request: &AdminRequest) -> bool {
    matches!(
        request.what,
        Some(
            What::UserFind(_)
                | What::UserList(_)
                | What::UserSessions(_)
                | What::GroupList(_)
                | What::GroupMembers(_)
                | What::ConsumerList(_)
                | What::ApiKeyList(_)
                | What::ApiKeyFind(_)
                | What::WebhookList(_)
                | What::WebhookFailures(_)
                // Told twice, these are noted once.
                | What::WebhookGaveUp(_)
                | What::WebhookGone(_)
        )
    )
}
