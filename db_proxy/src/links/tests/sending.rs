//! Messages on their way in, and what gateways fetch to repair.

use partition::test::gated::Gate;
use partition::test::{group, message, new_id, out_of_the_log, single};
use proto::cluster::wire::{HookVerdict, Membership, Publish, Reason};
use tokio::time::timeout;

use super::*;

pub(super) fn submit(conversation: ConversationId, sender: u32) -> Submit {
    Submit {
        origin: origin(),
        sender,
        conversation: conversation.number(),
        client_msg_id: Bytes::copy_from_slice(&new_id().0),
        resend: None,
        fingerprint: None,
        r#type: if conversation.as_group().is_some() { 0x11 } else { 1 },
        body: Bytes::from_static(b"body"),
        first: None,
        epoch: None,
        may_repeat: None,
        waited_ms: None,
        known_only: None,
        sent_crc: None,
        hooks: Vec::new(),
    }
}

#[tokio::test]
async fn what_was_meant_for_an_earlier_owner_is_not_taken() {
    let mut server = Server::start().await;
    let epoch = server.proxy.epoch;
    for (asked, outcome) in [(epoch - 1, Outcome::Moved), (epoch, Outcome::Ok)] {
        let submit = Submit { epoch: Some(asked), ..submit(single(1, 2), 1) };
        let answer = server.submit(&submit).await;
        assert_eq!((answer.outcome, answer.epoch), (outcome as i32, Some(asked)));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_message_is_answered_and_published() {
    let mut server = Server::start().await;
    let submit = submit(single(1, 2), 1);
    let answer = server.submit(&submit).await;
    assert_eq!((answer.outcome, answer.msg_id), (Outcome::Ok as i32, Some(1)));
    assert_eq!((answer.sender, &answer.client_msg_id), (1, &submit.client_msg_id));
    assert_eq!(answer.conversation, single(1, 2).number());
    assert!(answer.create_time.unwrap() > 1_700_000_000);

    let (_link, frame) = server.gateway.frame().await;
    let publish: Publish = frame.parse().unwrap();
    assert_eq!((publish.msg_id, publish.client_msg_id), (1, Some(submit.client_msg_id.clone())));
    assert_eq!((publish.origin, publish.epoch), (Some(origin()), server.proxy.epoch));

    let again = Submit { resend: Some(true), ..submit };
    let answer = server.submit(&again).await;
    assert_eq!((answer.outcome, answer.msg_id), (Outcome::Ok as i32, Some(1)));
    assert!(server.gateway.try_frame().is_none(), "published once");
    server.stop().await;
}

#[tokio::test]
async fn a_message_sent_again_through_another_gateway_and_another_owner_keeps_its_number() {
    let mut server = Server::start().await;
    let first = submit(single(1, 2), 1);
    let told = server.submit(&first).await;
    let again = Submit { resend: Some(true), ..first };
    for restarted in [false, true] {
        if restarted {
            let Server { proxy, link, gateway, requests, .. } = server;
            drop((link, gateway));
            let setup = proxy.stop_with(requests).await;
            server = Server::with(setup.start().await).await;
        }
        let who = far::identity(Role::MsgServer, "other", GATEWAY_BOOT + 1);
        let (mut other, link) = Far::dial(server.addr, who, &server.proxy.shutdown).await;
        link.send(Kind::Submit.number(), 0, &again).unwrap();
        let (_link, frame) = loop {
            let (link, frame) = other.frame().await;
            if frame.kind == Kind::SubmitAnswer.number() {
                break (link, frame);
            }
        };
        assert_eq!(frame.parse::<SubmitAnswer>().unwrap(), told, "restarted: {restarted}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_has_a_reason_and_trouble_asks_to_try_again() {
    let mut server = Server::start().await;
    let refused = server.submit(&submit(group(3), 1)).await;
    assert_eq!(refused.outcome, Outcome::Refused as i32);
    assert_eq!(refused.reason, Some(Reason::NotMember as i32));
    assert_eq!(refused.msg_id, None);
    server.proxy.store.reads.send_replace(Gate::Away);
    let retry = server.submit(&submit(single(1, 2), 1)).await;
    assert_eq!((retry.outcome, retry.reason), (Outcome::Retry as i32, None));
    server.proxy.store.reads.send_replace(Gate::Open);
    server.stop().await;
}

#[tokio::test]
async fn messages_of_one_link_are_numbered_in_the_order_they_were_sent() {
    let mut server = Server::start().await;
    let sent: Vec<Submit> = (0..300).map(|_| submit(single(1, 2), 1)).collect();
    for submit in &sent {
        server.link.send(Kind::Submit.number(), 0, submit).unwrap();
    }
    let (mut answered, mut published) = (Vec::new(), Vec::new());
    while answered.len() + published.len() < 2 * sent.len() {
        let (_link, frame) = server.gateway.frame().await;
        if frame.kind == Kind::SubmitAnswer.number() {
            let answer: SubmitAnswer = frame.parse().unwrap();
            answered.push((answer.client_msg_id, answer.msg_id.unwrap()));
        } else {
            let publish: Publish = frame.parse().unwrap();
            published.push((publish.client_msg_id.unwrap(), publish.msg_id));
        }
    }
    let expected: Vec<_> = sent.into_iter().map(|submit| submit.client_msg_id).zip(1..).collect();
    assert_eq!(answered, expected);
    assert_eq!(published, expected);
    server.stop().await;
}

#[tokio::test]
async fn a_message_that_a_hook_was_asked_about_is_looked_for_first_and_known_by_what_was_sent() {
    let mut server = Server::start().await;
    let sent = submit(single(1, 2), 1);
    let looked = Submit { known_only: Some(true), resend: Some(true), ..sent.clone() };
    let not_known = server.submit(&looked).await;
    assert_eq!(not_known.outcome(), Outcome::Refused);
    assert_eq!(not_known.reason, Some(Reason::NotKnown.into()));

    let changed = Submit {
        body: Bytes::from_static(b"other words"),
        sent_crc: Some(content_crc(sent.r#type, &sent.body)),
        hooks: vec![verdict("n", 0), verdict(&"n".repeat(HOOK_NAME_LEN_MAX), 1)],
        ..sent.clone()
    };
    assert_eq!(server.submit(&changed).await.msg_id, Some(1));
    let (_link, frame) = server.gateway.frame().await;
    let publish: Publish = frame.parse().unwrap();
    let has_new_body = publish.frame.windows(11).any(|part| part == &changed.body[..]);
    assert!(has_new_body, "{publish:?}");
    for again in [looked.clone(), Submit { resend: Some(true), ..sent }, changed] {
        assert_eq!(server.submit(&again).await.msg_id, Some(1));
    }
    let other = Submit { body: Bytes::from_static(b"never sent"), ..looked };
    assert_eq!(server.submit(&other).await.reason, Some(Reason::IdReused.into()));
    server.stop().await;
}

fn verdict(hook: &str, outcome: u32) -> HookVerdict {
    HookVerdict { hook: hook.to_owned(), outcome }
}

#[tokio::test]
async fn a_gateway_that_submits_nonsense_is_cut_off() {
    for nonsense in [
        Submit { client_msg_id: Bytes::from_static(b"short"), ..submit(single(1, 2), 1) },
        Submit { conversation: 0, ..submit(single(1, 2), 1) },
        Submit { conversation: 2 << 32 | 1, ..submit(single(1, 2), 1) },
        Submit { hooks: vec![verdict("", 0)], ..submit(single(1, 2), 1) },
        Submit { hooks: vec![verdict(&"n".repeat(65), 0)], ..submit(single(1, 2), 1) },
        Submit { hooks: vec![verdict("words", 9)], ..submit(single(1, 2), 1) },
        Submit { hooks: vec![verdict("words", 0); HOOKS_MAX + 1], ..submit(single(1, 2), 1) },
    ] {
        let server = Server::start().await;
        server.link.send(Kind::Submit.number(), 0, &nonsense).unwrap();
        let cut_off = async {
            while !server.link.is_closed() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, cut_off).await.unwrap();
        server.stop().await;
    }
}

#[tokio::test]
async fn a_gateway_fetches_what_it_missed_in_pieces_that_say_how_far_they_reach() {
    let server = Server::start().await;
    for number in 1..=60_u32 {
        let mut send = message(single(1, 2), 1 + number % 2);
        send.body = Bytes::from(vec![1; 200_000]);
        assert_eq!(server.proxy.send(send).await, number);
    }
    server.proxy.stored().await;
    let (mut next, mut pieces) = (5, 0);
    while next <= 50 {
        let fetched = server.fetch(next, 50).await;
        let ids: Vec<u32> = fetched.publishes.iter().map(|publish| publish.msg_id).collect();
        assert_eq!(ids, (next..=fetched.complete_upto).collect::<Vec<_>>());
        assert_eq!(fetched.complete, fetched.complete_upto == 50);
        assert!(fetched.publishes.iter().all(|publish| publish.epoch == server.proxy.epoch));
        next = fetched.complete_upto + 1;
        pieces += 1;
    }
    assert!((2..=4).contains(&pieces), "{pieces}");
    let beyond = server.fetch(58, 1_000).await;
    assert_eq!((beyond.complete, beyond.complete_upto, beyond.publishes.len()), (true, 60, 3));
    let nothing = server.fetch(70, 1_000).await;
    assert_eq!(
        (nothing.complete, nothing.complete_upto),
        (true, 60),
        "no promise of what may come"
    );
    assert!(nothing.publishes.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_gateway_hears_in_which_groups_a_user_is() {
    let server = Server::start().await;
    server.proxy.make_group(1, &[1, 2]).await;
    server.proxy.make_group(2, &[1, 2]).await;
    server.proxy.send(message(group(2), 1)).await;
    server.proxy.change_members(2, &[3], &[2]).await;
    for (user, expected) in
        [(1, vec![(1, 1, 1), (2, 1, 2)]), (2, vec![(1, 1, 1)]), (3, vec![(2, 2, 2)]), (4, vec![])]
    {
        assert_eq!(server.groups_of(user).await, Some(expected), "user {user}");
    }
    server.stop().await;
}

/// Beyond the window of the log only the store knows it, and only a repeat is looked up there.
#[tokio::test]
async fn a_gateways_repeat_is_recognised_although_the_log_has_the_message_no_more() {
    let early = message(single(1, 2), 1);
    let (setup, _filler) = out_of_the_log(&early).await;
    let mut server = Server::with(setup.start().await).await;
    let again = Submit {
        client_msg_id: Bytes::copy_from_slice(&early.identity.client_msg_id.0),
        r#type: early.kind,
        body: early.body.clone(),
        resend: Some(true),
        ..submit(early.conversation, 1)
    };
    for _again in 0..2 {
        let answer = server.submit(&again).await;
        assert_eq!((answer.outcome(), answer.msg_id), (Outcome::Ok, Some(1)));
    }
    let new = server.submit(&submit(early.conversation, 1)).await;
    assert_eq!((new.outcome(), new.msg_id), (Outcome::Ok, Some(10)));
    server.stop().await;
}

#[tokio::test]
async fn while_the_store_is_away_the_groups_of_those_who_asked_before_are_known_as_they_are_now() {
    let server = Server::start().await;
    server.proxy.make_group(1, &[1, 2]).await;
    server.proxy.make_group(2, &[1, 2]).await;
    server.proxy.make_group(3, &[9]).await;
    for user in [1, 2, 3] {
        server.groups_of(user).await.expect("the store is there");
    }
    server.proxy.stored().await;
    server.proxy.store.reads.send_replace(Gate::Away);
    server.proxy.send(message(group(2), 1)).await;
    server.proxy.change_members(2, &[3, 4], &[2]).await;
    server.proxy.change_members(3, &[1, 3], &[9]).await;
    for (user, expected) in [
        (1, Some(vec![(1, 1, 1), (2, 1, 1), (3, 1, 2)])),
        (2, Some(vec![(1, 1, 1)])),
        (3, Some(vec![(2, 2, 2), (3, 1, 2)])),
        (4, None),
    ] {
        assert_eq!(server.groups_of(user).await, expected, "user {user}");
    }
    // The store says nothing instead: what is known is answered all the same.
    server.proxy.store.reads.send_replace(Gate::Closed);
    assert_eq!(server.groups_of(2).await, Some(vec![(1, 1, 1)]));
    server.proxy.store.reads.send_replace(Gate::Open);
    server.stop().await;
}

impl Server {
    /// Number, first message and version of each of a user's groups, if it is said completely.
    async fn groups_of(&self, user: u32) -> Option<Vec<(u32, u32, u64)>> {
        let request = MembershipsRequest { user, partitions: Vec::new() };
        let memberships: Memberships =
            self.link.call(Kind::Memberships.number(), &request, PATIENCE).await.unwrap();
        let group = |group: &Membership| (group.group, group.join_msg_id, group.version);
        let mut groups: Vec<_> = memberships.groups.iter().map(group).collect();
        groups.sort_unstable();
        memberships.complete.then_some(groups)
    }

    async fn submit(&mut self, submit: &Submit) -> SubmitAnswer {
        self.link.send(Kind::Submit.number(), 0, submit).unwrap();
        let (_link, frame) = self.gateway.frame().await;
        assert_eq!(frame.kind, Kind::SubmitAnswer.number());
        frame.parse().unwrap()
    }

    async fn fetch(&self, from: u32, to: u32) -> Fetched {
        let request =
            FetchRequest { conversation: single(1, 2).number(), from, to, after_offset: None };
        self.link.call(Kind::Fetch.number(), &request, PATIENCE).await.unwrap()
    }
}
