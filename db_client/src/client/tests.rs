//! A client between db_proxies that do what the test says.

use proto::client::{MessageListReply, MessageListRequest, RemoveSessionRequest};
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    Ask, AskStatus, DemoUsers, GroupChange, GroupCreate, GroupMembers, Membership, Memberships,
    MembershipsRequest, Outcome, Owned, Reached, Reason, UserFind, UserKick, UserList,
};
use proto::ids::GroupId;

use super::*;
use crate::test::{Far, PATIENCE, identity};

const ALICE: UserId = UserId(1);

/// A db_proxy of a cluster of one partition.
struct Proxy {
    far: Far,
    link: Link,
}

impl Proxy {
    fn says_it_owns(&self, epoch: Option<u64>) {
        let owned = epoch.map(|epoch| Owned { partition: 0, epoch }).into_iter().collect();
        let ownership = Ownership { partitions: 1, owned, logins: true };
        self.link.send(Kind::Ownership.number(), 0, &ownership).unwrap();
    }

    /// Says what became of a change that it is asked for, as the owner of an epoch.
    async fn answer_change(&mut self, epoch: u64, changed: bool) {
        let frame = self.far.frame().await;
        let answer = Answer {
            status: AskStatus::Answered.into(),
            changed: Some(changed),
            by: vec![Owned { partition: 0, epoch }],
            ..Answer::default()
        };
        self.link.answer(&frame, Kind::Ask.number(), &answer).unwrap();
    }

    /// The next message that is handed over.
    async fn submit(&mut self) -> Submit {
        let frame = self.far.frame().await;
        assert_eq!(Kind::from_number(frame.kind), Some(Kind::Submit));
        frame.parse().unwrap()
    }

    fn answer(&self, submit: &Submit, outcome: Outcome, msg_id: Option<u32>) {
        let answer = SubmitAnswer {
            sender: submit.sender,
            client_msg_id: submit.client_msg_id.clone(),
            outcome: outcome.into(),
            msg_id,
            epoch: submit.epoch,
            reason: (outcome == Outcome::Refused).then_some(Reason::NotMember as i32),
            ..SubmitAnswer::default()
        };
        self.link.send(Kind::SubmitAnswer.number(), 0, &answer).unwrap();
    }
}

/// A client, and so many db_proxies.
async fn linked<const N: usize>(shutdown: &Shutdown) -> (Arc<DbClient>, [Proxy; N]) {
    let (mut fars, mut addrs) = (Vec::new(), Vec::new());
    for number in 0..N {
        let (far, addr) = Far::listen(&format!("db{number}"), shutdown).await;
        fars.push(far);
        addrs.push(addr.to_string());
    }
    let (_unchanging, targets) = watch::channel(addrs);
    let us = identity(Role::ApiServer, "api");
    let client = DbClient::connect(targets, us, LinkOptions::default(), shutdown);
    let mut proxies = Vec::new();
    for mut far in fars {
        let link = far.link().await;
        proxies.push(Proxy { far, link });
    }
    (client, proxies.try_into().ok().expect("as many as were made"))
}

/// A client, and the db_proxy that owns the only partition.
async fn owned(shutdown: &Shutdown) -> (Arc<DbClient>, Proxy) {
    let (client, [one]) = linked(shutdown).await;
    one.says_it_owns(Some(1));
    assert!(client.ready(soon()).await);
    (client, one)
}

/// A question about the conversation with user 2.
fn history() -> MessageListRequest {
    MessageListRequest { session_type: 1, session_id: 2, ..Default::default() }
}

/// A client, and two db_proxies that own one partition each.
async fn two_owners(shutdown: &Shutdown) -> (Arc<DbClient>, [Proxy; 2]) {
    let (client, proxies) = linked(shutdown).await;
    for (partition, proxy) in (0..).zip(&proxies) {
        let owned = vec![Owned { partition, epoch: 1 }];
        let ownership = Ownership { partitions: 2, owned, logins: true };
        proxy.link.send(Kind::Ownership.number(), 0, &ownership).unwrap();
    }
    assert!(client.ready(soon()).await);
    (client, proxies)
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

fn message(id: u8) -> NewMessage {
    NewMessage {
        sender: ALICE,
        conversation: ConversationId::single(ALICE, UserId(2)).unwrap(),
        client_msg_id: ClientMsgId([id; 16]),
        kind: 1,
        body: Bytes::from_static(b"hello"),
        resend: false,
    }
}

#[tokio::test]
async fn a_message_follows_its_conversation_to_the_next_owner_and_is_stored_once() {
    let shutdown = Shutdown::default();
    let (client, [mut one, mut other]) = linked(&shutdown).await;
    assert!(!client.ready(Instant::now()).await, "nobody owns anything");
    one.says_it_owns(Some(1));
    assert!(client.ready(soon()).await);
    let sending = client.send(message(7), soon());
    let answering = async {
        let first = one.submit().await;
        assert_eq!((first.epoch, first.resend(), first.first()), (Some(1), false, true));
        one.says_it_owns(None);
        other.says_it_owns(Some(2));
        let again = other.submit().await;
        assert_eq!((again.epoch, again.resend()), (Some(2), true));
        assert_eq!(again.client_msg_id, first.client_msg_id);
        other.answer(&again, Outcome::Ok, Some(5));
    };
    let (sent, ()) = tokio::join!(sending, answering);
    assert_eq!(sent, Ok(Sent { msg_id: MsgId(5), create_time: None }));
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_message_that_cannot_be_stored_now_is_sent_again_by_the_same_name_and_a_refused_one_is_not()
 {
    let shutdown = Shutdown::default();
    let (client, [mut one]) = linked(&shutdown).await;
    one.says_it_owns(Some(1));
    let (first, second) = (client.send(message(1), soon()), client.send(message(2), soon()));
    let answering = async {
        let submits = [one.submit().await, one.submit().await];
        let [first, second] = submits.map(|submit| {
            let is_first = submit.client_msg_id[0] == 1;
            one.answer(&submit, if is_first { Outcome::Retry } else { Outcome::Refused }, None);
            submit
        });
        assert_ne!(first.origin, second.origin, "none waits for the other to begin again");
        let again = one.submit().await;
        assert_eq!((again.client_msg_id[0], again.resend()), (1, true));
        one.answer(&again, Outcome::Ok, Some(9));
    };
    let (first, second, ()) = tokio::join!(first, second, answering);
    assert_eq!(first.map(|sent| sent.msg_id), Ok(MsgId(9)));
    assert_eq!(second, Err(SendError::Refused(Some(Reason::NotMember as u32))));
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_message_that_no_db_proxy_answers_ends_by_its_time() {
    let shutdown = Shutdown::default();
    let (client, [one]) = linked(&shutdown).await;
    let until = Instant::now() + Duration::from_millis(50);
    assert_eq!(client.send(message(1), until).await, Err(SendError::TimedOut), "nobody owns it");
    one.says_it_owns(Some(1));
    assert!(client.ready(soon()).await);
    let until = Instant::now() + Duration::from_millis(50);
    assert_eq!(client.send(message(2), until).await, Err(SendError::TimedOut));
    shutdown.drain(PATIENCE).await.unwrap();
}

/// What an owner answers to a question about its only partition.
fn answer(epoch: u64) -> Answer {
    Answer {
        status: AskStatus::Answered.into(),
        by: vec![Owned { partition: 0, epoch }],
        ..Answer::default()
    }
}

#[tokio::test]
async fn a_question_that_no_db_proxy_can_be_asked_ends_at_once_or_by_its_time() {
    let shutdown = Shutdown::default();
    let (client, [one]) = linked(&shutdown).await;
    let request = history();
    let ask =
        async |until| client.ask(ALICE, StorageCommand::MessageListRequest, &request, until).await;
    let limit = Duration::from_millis(50);
    // It is not known to how many partitions it might belong.
    assert_eq!(client.partitions(), 0);
    assert_eq!(ask(soon()).await.unwrap_err(), CallError::Closed);
    one.says_it_owns(None);
    assert!(!client.ready(Instant::now() + limit).await);
    assert_eq!(client.partitions(), 1);
    assert_eq!(ask(Instant::now() + limit).await.unwrap_err(), CallError::TimedOut);
    let request = AdminRequest { what: Some(What::GroupCreate(GroupCreate::default())), by: None };
    let asking = client.administer(&request, Instant::now() + limit, Duration::ZERO);
    assert_eq!(asking.await.unwrap_err(), CallError::TimedOut);
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_question_goes_to_the_next_owner_and_an_answer_of_the_last_one_does_not_count() {
    let shutdown = Shutdown::default();
    let (client, [mut one, mut other]) = linked(&shutdown).await;
    one.says_it_owns(Some(1));
    assert!(client.ready(soon()).await);
    let request = history();
    let asking = client.ask(ALICE, StorageCommand::MessageListRequest, &request, soon());
    let answering = async {
        one.far.frame().await;
        // It says nothing from here on, and nobody waits for it.
        other.says_it_owns(Some(2));
        let frame = other.far.frame().await;
        other.link.answer(&frame, Kind::Ask.number(), &answer(1)).unwrap();
        let frame = other.far.frame().await;
        other.link.answer(&frame, Kind::Ask.number(), &answer(2)).unwrap();
    };
    let (asked, ()) = tokio::join!(asking, answering);
    assert_eq!(asked.unwrap().by[0].epoch, 2);
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_change_that_may_have_been_made_is_not_asked_for_again() {
    let shutdown = Shutdown::default();
    let (client, mut one) = owned(&shutdown).await;
    for command in [StorageCommand::ChangeSignatureRequest, StorageCommand::RemoveSessionRequest] {
        let request = RemoveSessionRequest { session_type: 1, session_id: 2, ..Default::default() };
        let asking = client.ask(ALICE, command, &request, soon());
        let answering = async {
            one.far.frame().await;
            one.link.reset("the test ends it");
        };
        let (asked, ()) = tokio::join!(asking, answering);
        assert_eq!(asked.unwrap_err(), CallError::Closed, "{command:?}");
        one.link = one.far.link().await;
        one.says_it_owns(Some(1));
        assert!(client.ready(soon()).await);
    }
    // What does the same twice is asked for again: nothing else comes.
    let request = history();
    let asking = client.ask(ALICE, StorageCommand::MessageListRequest, &request, soon());
    let answering = async {
        let ask: Ask = one.far.frame().await.parse().unwrap();
        one.link.reset("the test ends it");
        one.link = one.far.link().await;
        one.says_it_owns(Some(1));
        let frame = one.far.frame().await;
        assert_eq!(frame.parse::<Ask>().unwrap(), ask);
        one.link.answer(&frame, Kind::Ask.number(), &answer(1)).unwrap();
    };
    let (asked, ()) = tokio::join!(asking, answering);
    asked.unwrap();
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn one_message_that_two_calls_send_is_stored_once_and_both_hear_of_it() {
    let shutdown = Shutdown::default();
    let (client, [mut one]) = linked(&shutdown).await;
    one.says_it_owns(Some(1));
    let (first, second) = (client.send(message(1), soon()), client.send(message(1), soon()));
    let answering = async {
        let submit = one.submit().await;
        one.answer(&submit, Outcome::Ok, Some(4));
        // The one whose place was taken asks again.
        let again = one.submit().await;
        assert_eq!((again.client_msg_id.clone(), again.resend()), (submit.client_msg_id, true));
        one.answer(&again, Outcome::Ok, Some(4));
    };
    let (first, second, ()) = tokio::join!(first, second, answering);
    assert_eq!((first.unwrap().msg_id, second.unwrap().msg_id), (MsgId(4), MsgId(4)));
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_request_is_asked_as_the_user_of_the_owner() {
    let shutdown = Shutdown::default();
    let (client, mut one) = owned(&shutdown).await;
    let request = history();
    let asking = client.ask(ALICE, StorageCommand::MessageListRequest, &request, soon());
    let answering = async {
        let frame = one.far.frame().await;
        let ask: Ask = frame.parse().unwrap();
        assert_eq!((ask.user, ask.command), (1, 0x0309));
        assert_eq!(MessageListRequest::decode(ask.body).unwrap(), request);
        let body = MessageListReply { msg_id_begin: 3, ..Default::default() }.encode_to_vec();
        let answer = Answer { body: Some(body.into()), ..answer(1) };
        one.link.answer(&frame, Kind::Ask.number(), &answer).unwrap();
    };
    let (answer, ()) = tokio::join!(asking, answering);
    let reply = MessageListReply::decode(answer.unwrap().body.unwrap()).unwrap();
    assert_eq!(reply.msg_id_begin, 3);
    shutdown.drain(PATIENCE).await.unwrap();
}

fn removal() -> RemoveSessionRequest {
    RemoveSessionRequest { session_type: 1, session_id: 2, ..Default::default() }
}

#[tokio::test]
async fn what_may_have_been_carried_out_is_not_asked_for_again_and_a_read_is() {
    let shutdown = Shutdown::default();
    let (client, mut one) = owned(&shutdown).await;
    let change = removal();
    let changing = client.ask(ALICE, StorageCommand::RemoveSessionRequest, &change, soon());
    let read = history();
    let reading = client.ask(ALICE, StorageCommand::MessageListRequest, &read, soon());
    let answering = async {
        for _asked in 0..2 {
            one.far.frame().await;
        }
        one.link.reset("the test ends it");
        one.link = one.far.link().await;
        one.says_it_owns(Some(1));
        let frame = one.far.frame().await;
        assert_eq!(frame.parse::<Ask>().unwrap().command, 0x0309);
        one.link.answer(&frame, Kind::Ask.number(), &answer(1)).unwrap();
    };
    let (changed, read, ()) = tokio::join!(changing, reading, answering);
    assert_eq!(changed, Err(CallError::Closed));
    assert!(read.is_ok(), "{read:?}");
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_former_owner_is_believed_that_something_was_changed_and_not_that_nothing_was() {
    let shutdown = Shutdown::default();
    let (client, [mut one]) = linked(&shutdown).await;
    one.says_it_owns(Some(2));
    assert!(client.ready(soon()).await);
    let change = removal();
    let ask = || client.ask(ALICE, StorageCommand::RemoveSessionRequest, &change, soon());
    let (answer, ()) = tokio::join!(ask(), one.answer_change(2, false));
    assert_eq!(answer.unwrap().changed, Some(false), "the newest owner is believed that");
    let answering = async {
        one.answer_change(1, false).await;
        one.answer_change(1, true).await;
    };
    let (answer, ()) = tokio::join!(ask(), answering);
    assert_eq!(answer.unwrap().changed, Some(true));
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_users_groups_are_those_that_all_owners_name_once_all_name_them_completely() {
    let shutdown = Shutdown::default();
    let (client, [mut one, mut other]) = two_owners(&shutdown).await;
    let answering = async {
        for round in 0..2 {
            for (proxy, partition) in [(&mut one, 0), (&mut other, 1)] {
                let frame = proxy.far.frame().await;
                let asked: MembershipsRequest = frame.parse().unwrap();
                assert_eq!((asked.user, asked.partitions), (ALICE.0, vec![partition]));
                let by = Owned { partition, epoch: 1 };
                let upto_offset = 10 + u64::from(partition);
                let memberships = Memberships {
                    complete: round == 1 || partition == 0,
                    groups: vec![Membership { group: 7 + partition, ..Membership::default() }],
                    reached: vec![Reached { by, upto_offset }],
                };
                proxy.link.answer(&frame, Kind::Memberships.number(), &memberships).unwrap();
            }
        }
    };
    let (joined, ()) = tokio::join!(client.owners.memberships(ALICE), answering);
    let joined = joined.unwrap();
    let groups: Vec<u32> = joined.groups.iter().map(|one| one.group).collect();
    assert_eq!((groups, joined.reached), (vec![7, 8], vec![10, 11]));
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn an_administrators_request_goes_to_the_db_proxy_that_has_what_it_is_about() {
    let shutdown = Shutdown::default();
    let (client, [mut logins, mut owner]) = linked(&shutdown).await;
    logins.says_it_owns(None);
    let owned = vec![Owned { partition: 0, epoch: 1 }];
    let ownership = Ownership { partitions: 1, owned, logins: false };
    owner.link.send(Kind::Ownership.number(), 0, &ownership).unwrap();
    assert!(client.ready(soon()).await);
    let group = GroupId(7).0;
    let asked = [
        (What::GroupChange(GroupChange { group, ..GroupChange::default() }), true),
        (What::GroupMembers(GroupMembers { group, ..GroupMembers::default() }), true),
        (What::GroupCreate(GroupCreate::default()), true),
        (What::UserList(UserList::default()), false),
    ];
    for (what, is_of_owner) in asked {
        let request = AdminRequest { what: Some(what), by: None };
        let asking = client.administer(&request, soon(), Duration::ZERO);
        let answering = async {
            let proxy = if is_of_owner { &mut owner } else { &mut logins };
            let frame = proxy.far.frame().await;
            assert_eq!(frame.parse::<AdminRequest>().unwrap(), request);
            // It has just lost the group: it is asked again.
            let not_here = AdminAnswer { not_here: Some(true), ..AdminAnswer::default() };
            proxy.link.answer(&frame, Kind::Admin.number(), &not_here).unwrap();
            let frame = proxy.far.frame().await;
            let done = AdminAnswer { done: true, ..AdminAnswer::default() };
            proxy.link.answer(&frame, Kind::Admin.number(), &done).unwrap();
        };
        let (answer, ()) = tokio::join!(asking, answering);
        assert!(answer.unwrap().done, "{request:?}");
    }
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn what_an_administrator_reads_is_asked_again_when_a_link_is_lost_and_a_change_is_not() {
    let shutdown = Shutdown::default();
    let (client, [mut one, mut other]) = linked(&shutdown).await;
    one.says_it_owns(None);
    other.says_it_owns(None);
    let reading = AdminRequest { what: Some(What::UserFind(UserFind::default())), by: None };
    let asking = client.administer(&reading, soon(), Duration::ZERO);
    let answering = async {
        let is_one = tokio::select! {
            _frame = one.far.frame() => true,
            _frame = other.far.frame() => false,
        };
        let (lost, left) = if is_one { (one, other) } else { (other, one) };
        lost.link.reset("on purpose");
        let mut left = left;
        let frame = left.far.frame().await;
        let done = AdminAnswer { done: true, ..AdminAnswer::default() };
        left.link.answer(&frame, Kind::Admin.number(), &done).unwrap();
        left
    };
    let (answer, mut left) = tokio::join!(asking, answering);
    assert!(answer.unwrap().done);

    let change = AdminRequest { what: Some(What::UserKick(UserKick::default())), by: None };
    let asking = client.administer(&change, soon(), Duration::ZERO);
    let losing = async {
        left.far.frame().await;
        left.link.reset("on purpose");
    };
    let (answer, ()) = tokio::join!(asking, losing);
    assert_eq!(answer.unwrap_err(), CallError::Closed);
    shutdown.drain(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn what_one_owner_refuses_is_asked_of_the_next() {
    let shutdown = Shutdown::default();
    let (client, [mut one, mut other]) = two_owners(&shutdown).await;
    let request = AdminRequest { what: Some(What::DemoUsers(DemoUsers::default())), by: None };
    let asking = client.administer(&request, soon(), Duration::ZERO);
    let answering = async {
        for (proxy, done) in [(&mut one, false), (&mut other, true)] {
            let frame = proxy.far.frame().await;
            let not_here = (!done).then_some(true);
            let answer = AdminAnswer { done, not_here, ..AdminAnswer::default() };
            proxy.link.answer(&frame, Kind::Admin.number(), &answer).unwrap();
        }
    };
    let (answer, ()) = tokio::join!(asking, answering);
    assert!(answer.unwrap().done);
    shutdown.drain(PATIENCE).await.unwrap();
}
