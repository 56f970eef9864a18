//! Conversations that leave memory all the time: the same answers, and complete reads meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use fold::admission::{Change, Message};
use proto::ids::{ConversationId, MsgId, UserId};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::Outcome;
use crate::messages::{self, MsgRange};
use crate::test::gated::Gate;
use crate::test::{PATIENCE, Proxy, Setup, group, message, resent, single};

/// A generator that gives the same numbers at every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u32::try_from((self.0 >> 33) % u64::from(sides)).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(number(from.len())) as usize]
    }
}

fn number(len: usize) -> u32 {
    u32::try_from(len).unwrap()
}

/// What each conversation must hold.
#[derive(Default)]
struct Model {
    authors: BTreeMap<ConversationId, Vec<u32>>,
    read: BTreeMap<(ConversationId, u32), u32>,
}

impl Model {
    fn unread(&self, id: ConversationId, user: u32) -> u32 {
        let read = self.read.get(&(id, user)).copied().unwrap_or(0);
        let authors = self.authors.get(&id).map_or(&[][..], Vec::as_slice);
        let unread =
            (1..).zip(authors).filter(|(msg_id, author)| *msg_id > read && **author != user);
        u32::try_from(unread.count()).unwrap()
    }
}

fn conversations() -> Vec<ConversationId> {
    let singles = (1..=6).flat_map(|one| (one + 1..=7).map(move |other| single(one, other)));
    singles.chain((1..=4).map(group)).collect()
}

fn parties(id: ConversationId) -> Vec<u32> {
    match id.parties() {
        proto::ids::Parties::Single(low, high) => vec![low.0, high.0],
        proto::ids::Parties::Group(_) => (1..=7).collect(),
    }
}

async fn tiny() -> Proxy {
    let mut setup = Setup::new();
    setup.limits.conversations_max = 4;
    let proxy = setup.start().await;
    for number in 1..=4 {
        proxy.make_group(number, &[1, 2, 3, 4, 5, 6, 7]).await;
    }
    proxy
}

#[tokio::test]
async fn a_memory_of_four_conversations_gives_the_same_answers_as_one_of_all() {
    let mut proxy = tiny().await;
    let ids = conversations();
    let mut dice = Dice(7);
    let mut model = Model::default();
    let mut sent: Vec<(Message, u32)> = Vec::new();
    for step in 0..1_200_u32 {
        let id = *dice.pick(&ids);
        let parties = parties(id);
        let user = *dice.pick(&parties);
        match dice.roll(10) {
            0..6 => {
                let send = message(id, user);
                let authors = model.authors.entry(id).or_default();
                authors.push(user);
                assert_eq!(proxy.send(send.clone()).await as usize, authors.len(), "step {step}");
                sent.push((send, number(authors.len())));
            }
            6 if !sent.is_empty() => {
                let (send, msg_id) = dice.pick(&sent);
                assert_eq!(proxy.send(resent(send)).await, *msg_id, "step {step}");
            }
            7 | 8 => {
                let head = number(model.authors.get(&id).map_or(0, Vec::len));
                let upto = dice.roll(head + 1);
                let (conversation, reader) = (id, UserId(user));
                let read = Change::Read { conversation, user: reader, upto: MsgId(upto) };
                let Outcome::Marked { .. } = proxy.change(read).await else { panic!("no mark") };
                let mark = model.read.entry((id, user)).or_default();
                *mark = (*mark).max(if upto == 0 { head } else { upto });
            }
            _ => same(&proxy, &model, user).await,
        }
        if step % 400 == 399 {
            proxy = proxy.kill().await.start().await;
        }
    }
    proxy.stored().await;
    for user in 1..=7 {
        same(&proxy, &model, user).await;
    }
    let evicted = async {
        while proxy.state().lock().fold.conversations.len() > 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, evicted).await.expect("reads alone do not fill the memory for good");
    proxy.stop().await;
}

/// The user's list has every conversation of the user with the right head and count, and their histories
/// are whole.
async fn same(proxy: &Proxy, model: &Model, user: u32) {
    let listed = proxy.state().conversations_of(UserId(user)).await.unwrap();
    let listed: BTreeMap<_, _> = listed.into_iter().map(|seen| (seen.row.id, seen)).collect();
    for id in conversations() {
        let authors = model.authors.get(&id).map_or(&[][..], Vec::as_slice);
        let is_his =
            parties(id).contains(&user) && (id.as_group().is_some() || !authors.is_empty());
        assert_eq!(listed.contains_key(&id), is_his, "{id} in the list of {user}");
        let Some(seen) = listed.get(&id) else { continue };
        assert_eq!(seen.row.head.0 as usize, authors.len(), "{id}");
        assert_eq!(seen.unread(), model.unread(id, user), "{id} of {user}");
        let all = messages::range(proxy.state(), id, from_the_first(seen.row.head)).await.unwrap();
        let found: Vec<u32> = all.iter().rev().map(|message| message.sender.0).collect();
        assert_eq!(found, authors, "{id}");
    }
}

#[tokio::test]
async fn a_read_that_is_overtaken_does_not_bring_back_what_was() {
    let mut setup = Setup::new();
    setup.limits.conversations_max = 1;
    let proxy = Arc::new(setup.start().await);
    let (cold, other) = (single(1, 2), single(3, 4));
    proxy.send(message(cold, 1)).await;
    let only_the_other = async || {
        proxy.stored().await;
        let evicted = async {
            proxy.send(message(other, 3)).await;
            proxy.stored().await;
            while proxy.state().lock().fold.conversations.contains_key(&cold) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(1), evicted).await
    };
    only_the_other().await.expect("it is evicted");

    let asked = *proxy.store.asked.borrow();
    let release = proxy.store.hold_next();
    let (done, slow) = oneshot::channel();
    let reader = Arc::clone(&proxy);
    proxy.shutdown.spawn(tracing::Span::none(), async move {
        let seen = reader.state().with(cold, |conversation| conversation.head).await.unwrap();
        drop(reader);
        done.send(seen).unwrap();
    });
    proxy.store.was_asked(asked + 1).await;
    assert_eq!(proxy.send(message(cold, 1)).await, 2);
    only_the_other().await.expect_err("it must stay until the slow read has ended");
    release.send(()).unwrap();
    assert_eq!(slow.await.unwrap(), MsgId(2));
    assert_eq!(proxy.send(message(cold, 1)).await, 3);
    only_the_other().await.expect("it is evicted again");
    Arc::into_inner(proxy).expect("nobody else has it").stop().await;
}

/// Of what is not stored yet a list knows from memory.
#[tokio::test]
async fn what_changes_while_a_list_is_read_is_listed_as_it_is_now() {
    let proxy = Proxy::start().await;
    let id = single(1, 2);
    for is_stored_and_evicted in [false, true] {
        proxy.store.commits.send_replace(Gate::Closed);
        let head = proxy.send(message(id, 1)).await;
        let asked = *proxy.store.asked.borrow();
        proxy.store.reads.send_replace(Gate::Closed);
        let changes = async {
            proxy.store.was_asked(asked + 1).await;
            assert_eq!(proxy.send(message(id, 2)).await, head + 1);
            if is_stored_and_evicted {
                proxy.store.commits.send_replace(Gate::Open);
                proxy.stored().await;
                let mut inner = proxy.state().lock();
                inner.next_round();
                inner.idle();
                inner.evict(0, |_id| false);
                assert!(inner.fold.conversations.is_empty());
            }
            proxy.store.reads.send_replace(Gate::Open);
        };
        let (listed, ()) = tokio::join!(proxy.state().conversations_of(UserId(1)), changes);
        assert_eq!(listed.unwrap()[0].row.head, MsgId(head + 1));
        proxy.store.commits.send_replace(Gate::Open);
        proxy.stored().await;
    }
    proxy.stop().await;
}

/// Writers, readers of histories, readers of lists, and a memory that is always too small.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_complete_while_everything_moves() {
    let proxy = Arc::new(tiny().await);
    let heads: Arc<BTreeMap<ConversationId, AtomicU32>> =
        Arc::new(conversations().into_iter().map(|id| (id, AtomicU32::new(0))).collect());
    let is_over = Arc::new(AtomicBool::new(false));
    let (mut readers, mut writers) = (Vec::new(), Vec::new());
    for seed in 0..3 {
        let (done, finished) = oneshot::channel();
        readers.push(finished);
        let (proxy, heads, is_over) = (proxy.clone(), heads.clone(), is_over.clone());
        proxy.shutdown.clone().spawn(tracing::Span::none(), async move {
            let mut dice = Dice(100 + seed);
            let mut rounds = 0;
            while !is_over.load(Ordering::Acquire) {
                read(&proxy, &heads, &mut dice).await;
                rounds += 1;
            }
            drop(proxy);
            done.send(rounds).unwrap();
        });
    }
    for seed in 0..4 {
        let (done, finished) = oneshot::channel();
        let (proxy, heads) = (proxy.clone(), heads.clone());
        writers.push(finished);
        proxy.shutdown.clone().spawn(tracing::Span::none(), async move {
            let mut dice = Dice(seed);
            for _ in 0..300 {
                let (id, head) = heads.iter().nth(dice.roll(number(heads.len())) as usize).unwrap();
                let sender = parties(*id)[0];
                let msg_id = proxy.send(message(*id, sender)).await;
                head.fetch_max(msg_id, Ordering::AcqRel);
            }
            drop(proxy);
            done.send(()).unwrap();
        });
    }
    for writer in writers {
        writer.await.expect("no writer panicked");
    }
    is_over.store(true, Ordering::Release);
    for reader in readers {
        assert!(reader.await.expect("no reader panicked") > 10, "it had time to read");
    }
    let proxy = Arc::into_inner(proxy).expect("nobody else has it");
    assert_eq!(proxy.metrics.retries.get(), 0);
    proxy.stop().await;
}

/// Reads a history and a list; what was acknowledged before must be in both.
async fn read(proxy: &Proxy, heads: &BTreeMap<ConversationId, AtomicU32>, dice: &mut Dice) {
    let (id, head) = heads.iter().nth(dice.roll(number(heads.len())) as usize).unwrap();
    let acknowledged = head.load(Ordering::Acquire);
    let seen = proxy.state().with(*id, |conversation| conversation.head.0).await.unwrap();
    assert!(seen >= acknowledged, "{id}: {seen} of {acknowledged}");
    let range = messages::range(proxy.state(), *id, from_the_first(MsgId(seen))).await.unwrap();
    let numbers: Vec<u32> = range.iter().map(|message| message.msg_id.0).collect();
    assert_eq!(numbers, (1..=seen).rev().collect::<Vec<_>>(), "{id}");

    let user = 1 + dice.roll(7);
    let acknowledged: Vec<_> = heads
        .iter()
        .filter(|(id, _head)| parties(**id).contains(&user))
        .map(|(id, head)| (*id, head.load(Ordering::Acquire)))
        .collect();
    let listed = proxy.state().conversations_of(UserId(user)).await.unwrap();
    let listed: BTreeMap<_, _> = listed.into_iter().map(|seen| (seen.row.id, seen)).collect();
    for (id, head) in acknowledged {
        let found = listed.get(&id).map_or(0, |seen| seen.row.head.0);
        assert!(found >= head, "{id} in the list of {user}: {found} of {head}");
        if let Some(seen) = listed.get(&id)
            && parties(id)[0] != user
        {
            assert_eq!(seen.unread(), seen.row.head.0, "nothing was read, and nothing is his own");
        }
    }
}

fn from_the_first(to: MsgId) -> MsgRange {
    MsgRange { from: MsgId(1), to }
}
