//! A storage that does what the test says.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use daemon::Link;
use daemon::link::{LinkFrame, LinkHandler};
use parking_lot::Mutex;
use prost::Message;
use proto::client;
use proto::cluster::{Kind, wire};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{ANDROID, LIMIT, WINDOWS};

/// What a client's request is answered with.
pub(in crate::tests) type Reply = Box<dyn Fn(&FakeDb, &wire::Ask) -> wire::Answer + Send>;

/// Storage. Answers at once unless told otherwise.
pub(in crate::tests) struct FakeDb {
    pub(in crate::tests) links: Mutex<Vec<Link>>,
    /// How many partitions there are, which of them are owned here, and whether logins are served.
    pub(in crate::tests) partitions: AtomicU32,
    pub(in crate::tests) owned: Mutex<Vec<wire::Owned>>,
    pub(in crate::tests) logins: AtomicBool,
    /// Whether sends are answered by themselves.
    pub(in crate::tests) answers_sends: AtomicBool,
    pub(in crate::tests) groups: Mutex<HashMap<u32, Vec<wire::Membership>>>,
    /// How many of the next questions about groups cannot be answered completely.
    pub(in crate::tests) groups_incomplete: AtomicU32,
    /// What was published, in the order of the log.
    pub(in crate::tests) history: Mutex<Vec<wire::Publish>>,
    /// Whether it knows of cursors and floors. Otherwise it is one of an older release.
    pub(in crate::tests) has_cursors: AtomicBool,
    /// The last record of its log.
    pub(in crate::tests) head: AtomicU64,
    /// Whether it has forgotten what changed before its head.
    pub(in crate::tests) forgets: AtomicBool,
    /// Whether fetches are answered completely.
    pub(in crate::tests) answers_fetches: AtomicBool,
    /// Whether fetches are not answered at all.
    pub(in crate::tests) holds_fetches: AtomicBool,
    /// Messages in one answer to a fetch.
    pub(in crate::tests) page: AtomicUsize,
    pub(super) follows: mpsc::Sender<wire::Follow>,
    pub(in crate::tests) followed: tokio::sync::Mutex<mpsc::Receiver<wire::Follow>>,
    fetches: mpsc::Sender<wire::FetchRequest>,
    pub(in crate::tests) fetched: tokio::sync::Mutex<mpsc::Receiver<wire::FetchRequest>>,
    /// Whether what clients ask is answered, and with "changed".
    pub(in crate::tests) answers_asks: AtomicBool,
    /// What clients are answered, if not that.
    pub(in crate::tests) reply: Mutex<Option<Reply>>,
    submits: mpsc::Sender<wire::Submit>,
    asks: mpsc::Sender<wire::Ask>,
    pub(in crate::tests) submitted: tokio::sync::Mutex<mpsc::Receiver<wire::Submit>>,
    pub(in crate::tests) asked: tokio::sync::Mutex<mpsc::Receiver<wire::Ask>>,
    next_id: AtomicU64,
    /// Whether passwords are checked by themselves, and the questions that wait otherwise.
    pub(in crate::tests) answers_verifies: AtomicBool,
    verifies: mpsc::Sender<(Link, LinkFrame)>,
    pub(in crate::tests) verifying: tokio::sync::Mutex<mpsc::Receiver<(Link, LinkFrame)>>,
    /// What is asked about tokens, and how it is answered; with a secret if it is done.
    token_questions: mpsc::Sender<wire::TokenQuestion>,
    pub(in crate::tests) asked_of_tokens: tokio::sync::Mutex<mpsc::Receiver<wire::TokenQuestion>>,
    pub(in crate::tests) token_outcome: Mutex<wire::token_answer::Outcome>,
    /// Whether the store answers: else tokens are taken without, and users are not known.
    pub(in crate::tests) store_is_there: AtomicBool,
    /// Of every user's row.
    pub(in crate::tests) stamp: AtomicU32,
    /// Not answered yet: a login is checked only once the test says so.
    pub(in crate::tests) holds_verdicts: AtomicBool,
    pub(in crate::tests) verdicts: Mutex<Vec<(Link, LinkFrame, wire::Verified)>>,
}

impl FakeDb {
    pub(super) fn new() -> Arc<Self> {
        let (submits, submitted) = mpsc::channel(10_000);
        let (asks, asked) = mpsc::channel(10_000);
        let (follows, followed) = mpsc::channel(10_000);
        let (fetches, fetched) = mpsc::channel(10_000);
        let (verifies, verifying) = mpsc::channel(100);
        let (token_questions, asked_of_tokens) = mpsc::channel(100);
        Arc::new(Self {
            links: Mutex::default(),
            partitions: AtomicU32::new(1),
            owned: Mutex::new(vec![wire::Owned { partition: 0, epoch: 1 }]),
            logins: AtomicBool::new(true),
            answers_sends: AtomicBool::new(true),
            groups: Mutex::default(),
            groups_incomplete: AtomicU32::new(0),
            history: Mutex::default(),
            has_cursors: AtomicBool::new(false),
            head: AtomicU64::new(0),
            forgets: AtomicBool::new(false),
            answers_fetches: AtomicBool::new(true),
            holds_fetches: AtomicBool::new(false),
            page: AtomicUsize::new(1000),
            follows,
            followed: followed.into(),
            fetches,
            fetched: fetched.into(),
            answers_asks: AtomicBool::new(true),
            reply: Mutex::default(),
            submits,
            asks,
            submitted: submitted.into(),
            asked: asked.into(),
            next_id: AtomicU64::new(1),
            answers_verifies: AtomicBool::new(true),
            verifies,
            verifying: verifying.into(),
            token_questions,
            asked_of_tokens: asked_of_tokens.into(),
            token_outcome: Mutex::new(wire::token_answer::Outcome::Done),
            store_is_there: AtomicBool::new(true),
            stamp: AtomicU32::new(1),
            holds_verdicts: AtomicBool::new(false),
            verdicts: Mutex::default(),
        })
    }

    pub(in crate::tests) fn join(&self, user: u32, group: u32, join_msg_id: u32, version: u64) {
        let membership = wire::Membership { group, join_msg_id, version };
        self.groups.lock().entry(user).or_default().push(membership);
    }

    pub(in crate::tests) async fn next_submit(&self) -> wire::Submit {
        timeout(LIMIT, self.submitted.lock().await.recv()).await.expect("in time").unwrap()
    }

    pub(in crate::tests) async fn next_ask(&self) -> wire::Ask {
        timeout(LIMIT, self.asked.lock().await.recv()).await.expect("in time").unwrap()
    }

    /// The next password that is to be checked, of those that are not checked by themselves.
    pub(in crate::tests) async fn next_verify(&self) -> (Link, LinkFrame) {
        timeout(LIMIT, self.verifying.lock().await.recv()).await.expect("in time").unwrap()
    }

    /// Checks a password.
    pub(in crate::tests) fn verify(&self, link: &Link, frame: LinkFrame) {
        let verify: wire::Verify = frame.parse().unwrap();
        let user = verify.name.strip_prefix('u').and_then(|id| id.parse().ok());
        let accepted = user.filter(|_id| verify.credential == "pw");
        let info = accepted.map(|user_id| client::UserInfo { user_id, ..Default::default() });
        let verified = wire::Verified {
            result: if accepted.is_some() { 0 } else { 6 },
            text: "says storage".to_owned(),
            user_info: info.map(|info| info.encode_to_vec().into()),
            user: accepted,
            stamp: accepted.map(|_user| self.stamp.load(Ordering::SeqCst)),
            client_type: None,
        };
        if self.holds_verdicts.load(Ordering::SeqCst) {
            self.verdicts.lock().push((link.clone(), frame, verified));
        } else {
            link.answer(&frame, frame.kind, &verified).unwrap();
        }
    }

    /// The token of `n` is `token n`, for a phone; the ticket `ticket n`, for a PC.
    fn resume(&self, shown: &wire::Resume) -> wire::Verified {
        let read = |bytes: &Option<Bytes>, what: &str| {
            let text = String::from_utf8(bytes.as_ref()?.to_vec()).ok()?;
            text.strip_prefix(what)?.trim().parse::<u32>().ok()
        };
        let by_token = read(&shown.token, "token").map(|user| (user, ANDROID));
        let found = by_token.or(read(&shown.ticket, "ticket").map(|user| (user, WINDOWS)));
        let is_there = self.store_is_there.load(Ordering::SeqCst);
        let info = found.filter(|_found| is_there);
        let info = info.map(|(user_id, _)| client::UserInfo { user_id, ..Default::default() });
        wire::Verified {
            result: if found.is_some() { 0 } else { 6 },
            text: "says storage".to_owned(),
            user_info: info.map(|info| info.encode_to_vec().into()),
            user: found.map(|(user, _)| user),
            stamp: Some(if is_there { self.stamp.load(Ordering::SeqCst) } else { 0 }),
            client_type: found.map(|(_, client_type)| client_type),
        }
    }

    /// The next question about tokens.
    pub(in crate::tests) async fn next_token(&self) -> wire::TokenQuestion {
        timeout(LIMIT, self.asked_of_tokens.lock().await.recv()).await.expect("in time").unwrap()
    }

    fn answer_of_tokens(&self) -> wire::TokenAnswer {
        let outcome = *self.token_outcome.lock();
        let is_done = outcome == wire::token_answer::Outcome::Done;
        wire::TokenAnswer {
            outcome: outcome.into(),
            secret: is_done.then(|| Bytes::from_static(b"secret")),
            lifetime_s: is_done.then_some(60),
        }
    }

    pub(in crate::tests) async fn next_follow(&self) -> Option<u64> {
        self.next_follow_of().await.after_offset
    }

    pub(in crate::tests) async fn next_follow_of(&self) -> wire::Follow {
        timeout(LIMIT, self.followed.lock().await.recv()).await.expect("in time").unwrap()
    }

    /// From now on owns these partitions in these epochs, and says so.
    pub(in crate::tests) fn own(&self, owned: &[(u32, u64)]) {
        let owned = owned.iter().map(|&(partition, epoch)| wire::Owned { partition, epoch });
        *self.owned.lock() = owned.collect();
        for link in self.links.lock().iter() {
            self.say_what_is_owned(link);
        }
    }

    fn say_what_is_owned(&self, link: &Link) {
        let ownership = wire::Ownership {
            partitions: self.partitions.load(Ordering::SeqCst),
            owned: self.owned.lock().clone(),
            logins: self.logins.load(Ordering::SeqCst),
        };
        link.send(Kind::Ownership.number(), 0, &ownership).ok();
    }

    /// Those of the partitions that are owned here.
    pub(in crate::tests) fn by(&self, partitions: &[u32]) -> Vec<wire::Owned> {
        let owned = self.owned.lock();
        owned.iter().filter(|owned| partitions.contains(&owned.partition)).copied().collect()
    }

    fn reached(&self, partitions: &[u32]) -> Vec<wire::Reached> {
        let has_cursors = self.has_cursors.load(Ordering::SeqCst);
        let upto_offset = if has_cursors { self.head.load(Ordering::SeqCst) } else { 0 };
        let reached = |by| wire::Reached { by, upto_offset };
        self.by(partitions).into_iter().map(reached).collect()
    }

    pub(in crate::tests) async fn next_fetch(&self) -> wire::FetchRequest {
        timeout(LIMIT, self.fetched.lock().await.recv()).await.expect("in time").unwrap()
    }

    /// What the gateway says became of a frame.
    pub(in crate::tests) async fn ask_fate(
        &self,
        question: &wire::FrameQuestion,
    ) -> wire::FrameFate {
        self.link().call(Kind::FrameFate.number(), question, LIMIT).await.unwrap()
    }

    /// The link that came up last.
    pub(in crate::tests) fn link(&self) -> Link {
        self.links.lock().last().cloned().expect("linked")
    }

    pub(in crate::tests) fn answer(
        &self,
        submit: &wire::Submit,
        outcome: wire::Outcome,
        msg_id: Option<u32>,
    ) {
        answer(&self.link(), submit, outcome, msg_id);
    }
}

fn answer(link: &Link, submit: &wire::Submit, outcome: wire::Outcome, msg_id: Option<u32>) {
    let answer = wire::SubmitAnswer {
        sender: submit.sender,
        client_msg_id: submit.client_msg_id.clone(),
        outcome: outcome.into(),
        msg_id,
        create_time: Some(1_700_000_000),
        reason: (outcome == wire::Outcome::Refused).then_some(wire::Reason::NotMember.into()),
        conversation: submit.conversation,
        epoch: submit.epoch,
    };
    link.send(Kind::SubmitAnswer.number(), 0, &answer).ok();
}

impl LinkHandler for FakeDb {
    fn up(&self, link: &Link) {
        // First of all.
        self.say_what_is_owned(link);
        self.links.lock().push(link.clone());
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        match Kind::from_number(frame.kind).unwrap() {
            Kind::Verify if !self.answers_verifies.load(Ordering::SeqCst) => {
                self.verifies.try_send((link.clone(), frame)).unwrap();
            }
            Kind::Verify => self.verify(link, frame),
            Kind::Resume => {
                let verified = self.resume(&frame.parse().unwrap());
                link.answer(&frame, frame.kind, &verified).unwrap();
            }
            Kind::Token => {
                self.token_questions.try_send(frame.parse().unwrap()).unwrap();
                link.answer(&frame, frame.kind, &self.answer_of_tokens()).unwrap();
            }
            Kind::Memberships => {
                let request: wire::MembershipsRequest = frame.parse().unwrap();
                let incomplete = self.groups_incomplete.load(Ordering::SeqCst);
                if incomplete > 0 {
                    self.groups_incomplete.store(incomplete - 1, Ordering::SeqCst);
                    link.answer(&frame, frame.kind, &wire::Memberships::default()).unwrap();
                    return;
                }
                let groups = self.groups.lock().get(&request.user).cloned().unwrap_or_default();
                let reached = self.reached(&request.partitions);
                let answer = wire::Memberships { complete: true, groups, reached };
                link.answer(&frame, frame.kind, &answer).unwrap();
            }
            Kind::Submit => {
                let submit: wire::Submit = frame.parse().unwrap();
                if self.answers_sends.load(Ordering::SeqCst) {
                    let id = self.next_id.fetch_add(1, Ordering::SeqCst);
                    answer(link, &submit, wire::Outcome::Ok, Some(u32::try_from(id).unwrap()));
                }
                self.submits.try_send(submit).unwrap();
            }
            Kind::Ask => {
                let ask: wire::Ask = frame.parse().unwrap();
                let reply = self.reply.lock().as_ref().map(|reply| reply(self, &ask));
                if let Some(answer) = reply {
                    link.answer(&frame, frame.kind, &answer).unwrap();
                } else if self.answers_asks.load(Ordering::SeqCst) {
                    let answer = wire::Answer {
                        status: wire::AskStatus::Answered.into(),
                        command: Some(ask.command + 1),
                        body: Some(Bytes::from_static(b"\x08\x07")),
                        changed: Some(true),
                        by: self.by(&ask.partitions),
                        ..wire::Answer::default()
                    };
                    link.answer(&frame, frame.kind, &answer).unwrap();
                }
                self.asks.try_send(ask).unwrap();
            }
            Kind::Fetch => {
                let request: wire::FetchRequest = frame.parse().unwrap();
                if !self.holds_fetches.load(Ordering::SeqCst) {
                    link.answer(&frame, frame.kind, &self.fetch(&request)).unwrap();
                }
                self.fetches.try_send(request).unwrap();
            }
            Kind::Follow => {
                let request: wire::Follow = frame.parse().unwrap();
                self.follow(link, &request);
            }
            other => panic!("{other:?} is not for storage"),
        }
    }

    fn down(&self, link: &Link) {
        self.links.lock().retain(|other| other != link);
    }
}
