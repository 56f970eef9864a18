//! Messages that hooks are asked about, over real links and by real requests.

use std::sync::Arc;

use proto::client::MessageType;
use proto::log::HookOutcome;
use proto::record::content_crc;
use proto::text::TextCipher;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::hooks::test::{Asked, HookServer, Reply, options, settings};
use crate::hooks::{AskedType, HookSettings, Hooks, Source};

/// A hook, a db_proxy that owns the only partition in epoch 5, and the messages between them.
struct Site {
    sends: Arc<Sends<u8>>,
    hook: HookServer,
    one: Proxy,
    ended: mpsc::Receiver<(u8, End)>,
    _asking: JoinSet<()>,
    shutdown: Shutdown,
}

impl Site {
    async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let shutdown = Shutdown::default();
        let (sends, one) = owned(&shutdown).await;
        let (sends, hook) = (Arc::new(sends), HookServer::start(script).await);
        let (tell, ended) = mpsc::channel(64);
        let asked = Arc::clone(&sends);
        let mut asking = JoinSet::new();
        asking.spawn(async move {
            asked.ask_hooks(|ended| tell.try_send(told(&ended)).unwrap()).await;
        });
        let site = Self { sends, hook, one, ended, _asking: asking, shutdown };
        let types = vec![AskedType::Text];
        site.set(&[HookSettings { types, ..settings("words", &site.hook.url) }]);
        site
    }

    fn set(&self, settings: &[HookSettings]) {
        self.sends.set_hooks(Hooks::new(settings, &options(Source::Client)).unwrap());
    }

    async fn ended(&mut self) -> (u8, End) {
        timeout(PATIENCE, self.ended.recv()).await.unwrap().unwrap()
    }

    fn answers(&self, answer: &SubmitAnswer) -> Vec<(u8, End)> {
        answered(&self.sends, &self.one.link, answer)
    }

    async fn stop(self) {
        self.shutdown.drain(PATIENCE).await.unwrap();
    }
}

/// A message that says its number, to a conversation.
fn saying(id: u8, conversation: u64) -> Outgoing<u8> {
    let mut outgoing = outgoing(id, true);
    outgoing.submit.conversation = conversation;
    outgoing.submit.r#type = 1;
    outgoing.submit.body = TextCipher::default().encrypt(&id.to_string());
    outgoing
}

/// A voice message, which the hook is not asked about.
fn voice(id: u8) -> Outgoing<u8> {
    let mut outgoing = saying(id, CONVERSATION);
    outgoing.submit.r#type = MessageType::SingleVoice as u32;
    outgoing
}

/// The same, sent again.
fn again(id: u8) -> Outgoing<u8> {
    let mut outgoing = saying(id, CONVERSATION);
    outgoing.submit.resend = Some(true);
    outgoing
}

fn not_known(id: u8, epoch: u64) -> SubmitAnswer {
    let reason = Some(Reason::NotKnown.into());
    SubmitAnswer { reason, ..answer(id, Outcome::Refused, None, epoch) }
}

fn says(asked: &Asked, id: u8) -> bool {
    asked.data()["text"].as_str().and_then(|text| text.parse().ok()) == Some(id)
}

fn allow() -> Reply {
    Reply::Say(json!({ "verdict": "allow" }))
}

fn stored(msg_id: u32) -> End {
    End::Stored { msg_id, create_time: None }
}

#[tokio::test]
async fn what_a_hook_says_goes_with_the_message_and_its_line_stays_in_order() {
    let (gate, open) = watch::channel(false);
    let mut site = Site::start(move |asked| match asked.data()["text"].as_str() {
        Some("1") => Reply::Then(open.clone(), json!({ "verdict": "allow" })),
        _ => Reply::Say(json!({ "verdict": "change", "text": "changed" })),
    })
    .await;
    site.sends.submit(saying(1, CONVERSATION));
    site.sends.submit(saying(2, CONVERSATION));
    site.sends.submit(voice(3));
    site.sends.submit(saying(4, CONVERSATION + 1));
    site.hook.asked(3).await;
    // While the first one waits, the line waits with it, and no other line does.
    let (id, submit) = site.one.next().await;
    assert_eq!((id, &submit.body), (4, &TextCipher::default().encrypt("changed")));
    assert_eq!(submit.sent_crc, Some(content_crc(1, &saying(4, 0).submit.body)));
    assert_eq!(submit.hooks.len(), 1);
    let outcome = HookOutcome::Changed as u32;
    assert_eq!((submit.hooks[0].hook.as_str(), submit.hooks[0].outcome), ("words", outcome));
    assert_eq!(site.sends.size().0, 4);
    gate.send_replace(true);
    for (expected, hooks) in [(1, 1), (2, 1), (3, 0)] {
        let (id, submit) = site.one.next().await;
        assert_eq!((id, submit.hooks.len(), submit.known_only()), (expected, hooks, false));
    }
    assert_eq!(site.hook.count(), 3, "no rule is about voice messages");
    site.stop().await;
}

#[tokio::test]
async fn a_message_that_is_sent_again_is_looked_for_before_anybody_is_asked() {
    let mut site = Site::start(|_asked| allow()).await;
    for id in [1, 2] {
        site.sends.submit(again(id));
        let (next, submit) = site.one.next().await;
        assert_eq!((next, submit.known_only()), (id, true));
    }
    assert_eq!(site.answers(&answer(1, Outcome::Ok, Some(7), 5)), [(1, stored(7))]);
    assert_eq!(site.answers(&not_known(2, 4)), [], "of an owner that has lost the partition");
    assert_eq!(site.hook.count(), 0);
    assert_eq!(site.answers(&not_known(2, 5)), []);
    let (next, submit) = site.one.next().await;
    assert_eq!((next, submit.known_only(), submit.resend()), (2, false, true));
    assert_eq!(submit.hooks.len(), 1);
    assert_eq!(site.answers(&not_known(2, 5)), [], "it is with its owner now");
    assert!(site.sends.is_unanswered(&key(2)));
    assert_eq!(site.answers(&answer(2, Outcome::Ok, Some(8), 5)), [(2, stored(8))]);
    assert_eq!(site.hook.count(), 1);
    // What it may not do is told without a question.
    site.sends.submit(again(3));
    site.one.next().await;
    let reason = Some(Reason::NotMember.into());
    let refused = SubmitAnswer { reason, ..answer(3, Outcome::Refused, None, 5) };
    assert_eq!(site.answers(&refused), [(3, End::Refused(Some(Reason::NotMember as u32)))]);
    site.stop().await;
}

#[tokio::test]
async fn if_the_partition_moves_the_next_owner_looks_and_nothing_is_asked_or_handed_over_twice() {
    let (gate, open) = watch::channel(false);
    let mut site =
        Site::start(move |_asked| Reply::Then(open.clone(), json!({ "verdict": "allow" }))).await;
    site.sends.submit(saying(1, CONVERSATION));
    site.sends.submit(again(2));
    assert!(site.one.next().await.1.known_only());
    site.hook.asked(1).await;
    let mut other = Proxy::start("other", &site.shutdown).await;
    assert_eq!(site.sends.moved(&[other.owns(6)]), 1, "the other one is with nobody");
    let (next, submit) = other.next().await;
    assert_eq!((next, submit.known_only(), submit.epoch), (2, true, Some(6)));
    assert_eq!(site.answers(&not_known(2, 5)), []);
    assert_eq!(answered(&site.sends, &other.link, &answer(2, Outcome::Moved, None, 6)), []);
    let soon = Instant::now() + Duration::from_secs(1);
    assert_eq!(tick(&site.sends, soon), (vec![], 1));
    assert!(other.next().await.1.known_only(), "it is looked for again");
    assert_eq!(answered(&site.sends, &other.link, &not_known(2, 6)), []);
    site.hook.asked(2).await;
    assert_eq!(site.sends.moved(&[other.owns(7)]), 0);
    gate.send_replace(true);
    for id in [1, 2] {
        let (next, submit) = other.next().await;
        assert_eq!((next, submit.known_only(), submit.epoch), (id, false, Some(7)));
    }
    assert_eq!(site.hook.count(), 2);
    site.stop().await;
}

#[tokio::test]
async fn a_refused_message_ends_and_what_waited_behind_it_goes_on() {
    let mut site = Site::start(|asked| {
        if says(asked, 1) {
            return Reply::Say(json!({ "verdict": "refuse", "reason": "not here" }));
        }
        allow()
    })
    .await;
    for id in [1, 2] {
        site.sends.submit(saying(id, CONVERSATION));
    }
    assert_eq!(site.ended().await, (1, End::RefusedByHook("not here".to_owned())));
    let (next, submit) = site.one.next().await;
    assert_eq!((next, submit.first()), (2, true));
    // It was never stored: sent again, it is looked for and asked about again.
    site.sends.submit(again(1));
    assert!(site.one.next().await.1.known_only());
    site.answers(&not_known(1, 5));
    assert_eq!(site.ended().await.0, 1);
    assert_eq!(site.sends.size().0, 1);
    site.stop().await;
}

/// An earlier try may be under way through another gateway, whose hook has let it pass.
#[tokio::test]
async fn without_an_answer_a_new_message_is_refused_and_one_sent_again_is_to_be_tried_again() {
    let mut site = Site::start(|_asked| Reply::Status(500)).await;
    site.sends.submit(saying(1, CONVERSATION));
    let (waiter, end) = site.ended().await;
    assert!(waiter == 1 && matches!(end, End::RefusedByHook(_)), "{end:?}");
    site.sends.submit(again(2));
    site.one.next().await;
    site.sends.submit(voice(3));
    site.answers(&not_known(2, 5));
    assert_eq!([site.ended().await, site.ended().await], [(2, End::Retry), (3, End::Retry)]);
    // As after any other answer of that kind, the line goes on with the first of them.
    let Taken::Ended(ended) = site.sends.submit(saying(4, CONVERSATION)) else { panic!() };
    assert_eq!(told(&ended), (4, End::Retry));
    site.set(&[]);
    for id in [2, 3] {
        site.sends.submit(again(id));
        assert_eq!(site.one.next().await.0, id);
    }
    site.stop().await;
}

#[tokio::test]
async fn a_message_that_is_given_up_while_a_hook_is_asked_is_not_handed_over_afterwards() {
    let (gate, open) = watch::channel(false);
    let mut site =
        Site::start(move |_asked| Reply::Then(open.clone(), json!({ "verdict": "allow" }))).await;
    site.sends.submit(saying(1, CONVERSATION));
    site.sends.submit(saying(2, CONVERSATION + 1));
    site.hook.asked(2).await;
    // Another gateway has had it stored.
    let (ended, _session) = site.sends.published(&key(2), 9);
    assert_eq!(told(&ended.unwrap()), (2, stored(9)));
    let late = Instant::now() + SEND_LIMIT + Duration::from_secs(1);
    assert_eq!(tick(&site.sends, late), (vec![(1, End::Retry)], 0));
    gate.send_replace(true);
    for id in [1, 3] {
        site.sends.submit(voice(id));
    }
    for id in [1, 3] {
        let (next, submit) = site.one.next().await;
        assert_eq!((next, submit.hooks.len()), (id, 0));
    }
    assert_eq!(site.sends.size().0, 2);
    site.stop().await;
}

#[tokio::test]
async fn when_a_reload_takes_the_hooks_away_what_was_looked_for_goes_on() {
    let mut site = Site::start(|_asked| allow()).await;
    site.sends.submit(again(1));
    assert!(site.one.next().await.1.known_only());
    site.set(&[]);
    site.answers(&not_known(1, 5));
    let (next, submit) = site.one.next().await;
    assert_eq!((next, submit.known_only(), submit.hooks.len()), (1, false, 0));
    site.sends.submit(saying(2, CONVERSATION));
    assert!(!site.one.next().await.1.known_only());
    assert_eq!(site.hook.count(), 0);
    site.stop().await;
}

/// A Windows client repeats a frame after a while by itself: on one connection it is the same message, on
/// another one its owner must look.
#[tokio::test]
async fn a_frame_is_looked_for_if_it_may_repeat_another_and_says_how_long_it_waited() {
    let (gate, open) = watch::channel(false);
    let mut site =
        Site::start(move |_asked| Reply::Then(open.clone(), json!({ "verdict": "allow" }))).await;
    let framed = |id: u8, session: u64, may_repeat: bool| {
        let mut framed = Outgoing { is_named: false, session, ..saying(id, CONVERSATION) };
        framed.submit.fingerprint = Some(9);
        framed.submit.may_repeat = Some(may_repeat);
        framed
    };
    site.sends.submit(framed(1, SESSION, false));
    assert!(matches!(site.sends.submit(framed(2, SESSION, false)), Taken::FrameRepeated(2)));
    site.sends.submit(framed(3, SESSION + 1, true));
    let (next, submit) = site.one.next().await;
    assert_eq!((next, submit.known_only()), (3, true));
    site.hook.asked(1).await;
    gate.send_replace(true);
    let (next, submit) = site.one.next().await;
    assert_eq!((next, submit.may_repeat()), (1, true), "it may have come again elsewhere");
    assert!(submit.waited_ms.is_some());
    assert_eq!(site.answers(&answer(1, Outcome::Ok, Some(1), 5)), [(1, stored(1))]);
    assert_eq!(site.answers(&answer(3, Outcome::Ok, Some(1), 5)), [(3, stored(1))]);
    assert_eq!(site.hook.count(), 1);
    site.stop().await;
}
