//! Logins without a password: resume tokens, and tickets that are good once.
//!
//! After a login a client that asks for it gets a token. With that it logs in the next time, and gets
//! another ([`rules`]). No hash is computed that costs anything: a secret of 256 random bits cannot be
//! guessed, however fast one tries.
//!
//! # Invariants
//!
//! - The store has the hashes of secrets, never a secret; no log line has either.
//! - Where the store answers, it alone decides. While it is away a token is believed by its signature,
//!   if it was not revoked as far as the store had told ([`revoked`]). No newer one is given then, so that
//!   nothing has to be remembered that the store does not know.
//! - The user and the client kind of a token are those of the login it follows. Nothing that a
//!   client writes beside it counts.
//! - A ticket is given only for a token that has not ended, and ends with it. It is good for one login,
//!   however many clients show it.
//!
//! # What bounds it
//!
//! Requests take the room of logins (`Bounds` in db_proxy's `links.rs`). A user has as many families as
//! [`FAMILIES_MAX`](store::tokens::FAMILIES_MAX) says. The store is waited for [`STORE_LIMIT`]
//! where a signature can stand in for it.

use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use parking_lot::Mutex;
use proto::client::ClientType;
use proto::cluster::wire::token_question::What;
use proto::cluster::wire::{TicketGive, TokenGive, TokenQuestion};
use proto::ids::UserId;
use store::tokens::{FamilyId, FamilyRow, NewFamily, TicketRow};
use store::{Store, StoreError, UserRow};
use tokio::time::timeout;
use tracing::{debug, info_span, warn};

use self::clock::Clock;
use self::revoked::Revoked;
use self::rules::{SKEW_S, Shown};
use self::text::{Keys, SECRET_LEN, Token, hash, random};

pub mod clock;
mod revoked;
mod rules;
pub mod text;

/// How long a ticket is good for.
pub const TICKET_LIFE: Duration = Duration::from_mins(1);

/// How long the store may take where a login can do without it: gateways wait 5 s for one.
pub const STORE_LIMIT: Duration = Duration::from_secs(1);

/// How often the store is asked what was revoked.
const REVOCATIONS_EVERY: Duration = Duration::from_secs(1);

/// Revocations that are read at once.
const PAGE: usize = 10_000;

/// What became of a token or a ticket that was shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Resumed {
    /// It is good; its user, and the kind of its client.
    Good(Box<UserRow>, u32),
    /// It is good as far as can be told without the store.
    Alone(UserId, u32),
    /// It was copied: everything that follows from its login has ended, but for open sessions.
    Copied(UserId, u32),
    /// It is of no use.
    Void,
    /// It cannot be told now.
    NotNow,
}

/// What becomes of a question about tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It is done.
    Done,
    /// A secret, and how long it is good for, in seconds.
    Secret(Vec<u8>, u32),
    /// What was shown is of no use.
    Refused,
    /// The store is away.
    NotNow,
}

impl From<StoreError> for Told {
    fn from(error: StoreError) -> Self {
        debug!(%error, "nothing is done about tokens now");
        Self::NotNow
    }
}

/// Tokens and tickets. Clones share everything.
#[derive(Debug, Clone)]
pub struct Tokens {
    store: Arc<dyn Store>,
    keys: Arc<Keys>,
    life: Duration,
    clock: Clock,
    revoked: Arc<Mutex<Revoked>>,
}

impl Tokens {
    /// Tokens of the users of `store` that last for `life`, signed with `keys` if there are any.
    pub fn new(store: Arc<dyn Store>, keys: Keys, life: Duration, clock: Clock) -> Self {
        Self { store, keys: Arc::new(keys), life, clock, revoked: Arc::default() }
    }

    /// Keeps reading what is revoked, if a signature may have to stand in for the store.
    pub fn follow_revocations(&self, shutdown: &Shutdown) {
        if self.keys.is_empty() {
            return;
        }
        let (this, stop) = (self.clone(), shutdown.clone());
        shutdown.spawn(info_span!("revocations"), async move {
            loop {
                if let Err(error) = this.read_revocations().await {
                    debug!(%error, "revocations are not known now");
                }
                tokio::select! {
                    () = stop.begun() => return,
                    () = tokio::time::sleep(REVOCATIONS_EVERY) => {}
                }
            }
        });
    }

    /// Reads what was revoked since the last time.
    pub async fn read_revocations(&self) -> Result<(), StoreError> {
        loop {
            let after = self.revoked.lock().newest();
            let page = self.store.revocations_after(after, PAGE).await?;
            let is_all = page.len() < PAGE;
            self.revoked.lock().note(&page, is_all);
            if is_all {
                return Ok(());
            }
        }
    }

    /// What is to be thought of a token.
    pub(crate) async fn resume(&self, shown: &[u8]) -> Resumed {
        let Some(token) = text::read(shown) else { return Resumed::Void };
        let looked = self.look(shown, &token);
        let looked = if self.keys.is_empty() {
            looked.await
        } else {
            let late = || Err(StoreError::Unavailable("no answer in time".to_owned()));
            timeout(STORE_LIMIT, looked).await.unwrap_or_else(|_elapsed| late())
        };
        match looked {
            Ok(Resumed::Copied(user, client_type)) => {
                self.end_copied(user, token.family).await;
                Resumed::Copied(user, client_type)
            }
            Ok(resumed) => resumed,
            Err(error) => {
                debug!(%error, "a token is judged without the store");
                self.judge_alone(shown, &token)
            }
        }
    }

    async fn look(&self, shown: &[u8], token: &Token) -> Result<Resumed, StoreError> {
        let Some(family) = self.store.family(token.family).await? else {
            return Ok(Resumed::Void);
        };
        match rules::judge(&family, hash(shown), self.clock.now_s()) {
            Shown::Good => self.user(family.user, family.client_type).await,
            Shown::Replaced => Ok(Resumed::Copied(family.user, family.client_type)),
            Shown::Void => Ok(Resumed::Void),
        }
    }

    /// Ends a family whose token was copied. If the store does not take that now, the copy is noticed
    /// again when it is shown again; it is refused in any case.
    async fn end_copied(&self, user: UserId, family: FamilyId) {
        let ended = self.revoke(user, Some(family)).await;
        warn!(
            user = user.0,
            error = ended.err().map(tracing::field::display),
            "a token was shown again that a newer one has replaced: somebody has a copy, and what \
             follows from its login ends"
        );
    }

    async fn user(&self, user: UserId, client_type: u32) -> Result<Resumed, StoreError> {
        let row = self.store.users(vec![user]).await?.into_iter().next();
        let row = row.filter(|row| row.status == UserRow::EMPLOYED);
        Ok(row.map_or(Resumed::Void, |row| Resumed::Good(Box::new(row), client_type)))
    }

    fn judge_alone(&self, shown: &[u8], token: &Token) -> Resumed {
        let in_time = self.clock.now_s() <= token.expires_s.saturating_add(SKEW_S);
        if self.keys.signed(shown) && in_time && self.revoked.lock().is_alive(token) {
            Resumed::Alone(UserId(token.user), token.client_type)
        } else {
            // It may be signed with a key that is not known here.
            Resumed::NotNow
        }
    }

    /// What is to be thought of a ticket, which is used up by that.
    pub(crate) async fn redeem(&self, ticket: &[u8]) -> Resumed {
        let redeemed = async {
            let Some(ticket) = self.store.take_ticket(hash(ticket)).await? else {
                return Ok(Resumed::Void);
            };
            if self.clock.now_s() > ticket.expires_s {
                return Ok(Resumed::Void);
            }
            self.user(ticket.user, ticket.client_type).await
        };
        if ticket.len() != SECRET_LEN {
            return Resumed::Void;
        }
        redeemed.await.unwrap_or_else(|error: StoreError| {
            debug!(%error, "a ticket cannot be looked up");
            Resumed::NotNow
        })
    }

    /// Answers a question of a session about its tokens.
    pub async fn answer(&self, question: TokenQuestion) -> Told {
        let user = UserId(question.user);
        let told = match question.what {
            Some(What::Give(give)) => match give.shown.as_deref() {
                None => self.begin(user, &give).await,
                Some(shown) => self.go_on(user, shown).await,
            },
            Some(What::Kept(token)) => self.kept(user, &token).await,
            Some(What::End(token)) => self.end(user, &token).await,
            Some(What::Ticket(give)) => self.ticket(user, &give).await,
            None => Ok(Told::Refused),
        };
        told.unwrap_or_else(Told::from)
    }

    async fn begin(&self, user: UserId, give: &TokenGive) -> Result<Told, StoreError> {
        // What is revoked from here on counts as later than the token.
        let revoked = self.store.newest_revocation().await?;
        let (Some(family), Some(secret)) = (random().map(FamilyId), random()) else {
            return Ok(Told::NotNow);
        };
        let used_s = self.clock.now_s();
        let expires_s = used_s + self.life.as_secs();
        let client_type = give.client_type;
        let token = Token { family, user: user.0, client_type, revoked, expires_s, secret };
        let token = self.keys.write(&token);
        let row = FamilyRow {
            id: family,
            user,
            client_type,
            current: hash(&token),
            next: None,
            replaced: Vec::new(),
            used_s,
            expires_s,
        };
        // The password was changed since, or only a picture: the next login gets one.
        let begun = self.store.add_family(NewFamily { row, stamp: give.stamp }).await?;
        Ok(if begun { self.secret(token) } else { Told::NotNow })
    }

    async fn go_on(&self, user: UserId, shown: &[u8]) -> Result<Told, StoreError> {
        let Some((token, family)) = self.family_of(user, shown).await? else {
            return Ok(Told::Refused);
        };
        let Some(secret) = random() else { return Ok(Told::NotNow) };
        let now_s = self.clock.now_s().max(family.used_s);
        let expires_s = now_s + self.life.as_secs();
        let newer = self.keys.write(&Token { expires_s, secret, ..token });
        let next = rules::sent(&family, hash(shown), hash(&newer), now_s, expires_s);
        let Some(next) = next else { return Ok(Told::Refused) };
        // Else another connection has just got one.
        let done = self.store.change_family(family, next).await?;
        Ok(if done { self.secret(newer) } else { Told::NotNow })
    }

    fn secret(&self, token: Vec<u8>) -> Told {
        Told::Secret(token, u32::try_from(self.life.as_secs()).unwrap_or(u32::MAX))
    }

    /// The client has the token: the one before it ends.
    async fn kept(&self, user: UserId, kept: &[u8]) -> Result<Told, StoreError> {
        let Some((_token, family)) = self.family_of(user, kept).await? else {
            return Ok(Told::Refused);
        };
        let Some(now) = rules::kept(&family, hash(kept)) else {
            return Ok(Told::Refused);
        };
        // Said before, or another connection was faster: then it may have ended already.
        let done = now == family || self.store.change_family(family, now).await?;
        Ok(if done { Told::Done } else { Told::Refused })
    }

    /// The client logs out.
    async fn end(&self, user: UserId, token: &[u8]) -> Result<Told, StoreError> {
        let Some(family) = self.good(user, token).await? else { return Ok(Told::Refused) };
        self.revoke(user, Some(family)).await?;
        Ok(Told::Done)
    }

    /// A ticket for the owner of a token.
    async fn ticket(&self, user: UserId, give: &TicketGive) -> Result<Told, StoreError> {
        match self.good(user, &give.token).await? {
            Some(family) => self.make_ticket(user, give.client_type, Some(family)).await,
            None => Ok(Told::Refused),
        }
    }

    /// A ticket that an administrator asks for.
    pub async fn ticket_for(&self, user: UserId, client_type: u32) -> Told {
        self.make_ticket(user, client_type, None).await.unwrap_or_else(Told::from)
    }

    async fn make_ticket(
        &self,
        user: UserId,
        client_type: u32,
        family: Option<FamilyId>,
    ) -> Result<Told, StoreError> {
        let is_known =
            i32::try_from(client_type).is_ok_and(|kind| ClientType::try_from(kind).is_ok());
        if !is_known {
            return Ok(Told::Refused);
        }
        let Some(secret) = random::<SECRET_LEN>() else { return Ok(Told::NotNow) };
        let now_s = self.clock.now_s();
        let expires_s = now_s + TICKET_LIFE.as_secs();
        let ticket = TicketRow { hash: hash(&secret), user, client_type, expires_s };
        if !self.store.add_ticket(ticket, family, now_s).await? {
            return Ok(Told::Refused);
        }
        let life_s = u32::try_from(TICKET_LIFE.as_secs()).unwrap_or(u32::MAX);
        Ok(Told::Secret(secret.to_vec(), life_s))
    }

    /// Ends one family of a user, or everything that the user has.
    pub async fn revoke(&self, user: UserId, family: Option<FamilyId>) -> Result<(), StoreError> {
        let kept_s = self.life.as_secs() + 2 * SKEW_S;
        let forget_before_s = self.clock.now_s().saturating_sub(kept_s);
        self.store.revoke_tokens(user, family, forget_before_s).await
    }

    async fn good(&self, user: UserId, shown: &[u8]) -> Result<Option<FamilyId>, StoreError> {
        let found = self.family_of(user, shown).await?;
        Ok(found.and_then(|(_token, family)| {
            let judged = rules::judge(&family, hash(shown), self.clock.now_s());
            (judged == Shown::Good).then_some(family.id)
        }))
    }

    async fn family_of(
        &self,
        user: UserId,
        shown: &[u8],
    ) -> Result<Option<(Token, FamilyRow)>, StoreError> {
        let Some(token) = text::read(shown) else { return Ok(None) };
        let family = self.store.family(token.family).await?.filter(|row| row.user == user);
        Ok(family.map(|family| (token, family)))
    }
}

#[cfg(test)]
mod tests;
