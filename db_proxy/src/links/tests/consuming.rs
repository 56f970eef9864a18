//! What a consumer of the log gets over its link, and what it may not ask.

use partition::test::{message, single};
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{ConsumerForget, ConsumerLine, ConsumerList, Records};
use store::{ConsumerCursor, ConsumerStore as _};

use super::*;

/// A consumer's link, and the far end of it.
async fn consumer(server: &Server) -> (Far, Link) {
    let who = far::identity(Role::Consumer, "push", 9);
    let (mut far, link) = Far::dial(server.addr, who, &server.proxy.shutdown).await;
    let (_link, first) = far.frame().await;
    let ownership: Ownership = first.parse().unwrap();
    assert_eq!(ownership.owned, [server.proxy.owned()], "first of all it is told who owns what");
    (far, link)
}

async fn records(far: &mut Far) -> Records {
    let (_link, frame) = far.frame().await;
    assert_eq!(Kind::from_number(frame.kind), Some(Kind::Records));
    frame.parse().unwrap()
}

#[tokio::test]
async fn a_consumer_is_sent_records_until_its_link_is_down_and_then_the_next_one_is() {
    let server = Server::start().await;
    let msg_id = server.proxy.send(message(single(1, 2), 1)).await;
    let consume = Consume {
        name: "push".to_owned(),
        from_oldest: Some(true),
        from_ms: None,
        unhandled_max: None,
        partition: 0,
        ..Consume::default()
    };
    let (mut first, link) = consumer(&server).await;
    link.send(Kind::Consume.number(), 0, &consume).unwrap();
    let sent = records(&mut first).await;
    assert_eq!(sent.records.last().and_then(|record| record.msg_id), Some(msg_id));
    let (name, upto_offset) = ("push".to_owned(), sent.upto_offset);
    let handled = Handled { name, partition: 0, upto_offset };
    let (mut second, other) = consumer(&server).await;
    other.send(Kind::Consume.number(), 0, &consume).unwrap();
    // Of a partition that is not owned here nothing comes.
    let elsewhere = Consume { partition: 1, ..consume };
    other.send(Kind::Consume.number(), 0, &elsewhere).unwrap();
    link.send(Kind::Handled.number(), 0, &handled).unwrap();
    let second_msg_id = server.proxy.send(message(single(1, 2), 1)).await;
    let next = records(&mut first).await;
    assert_eq!(next.after_offset, upto_offset);
    drop(first);
    link.reset("the test ends it");
    let again = records(&mut second).await;
    assert_eq!(again.records.last().and_then(|record| record.msg_id), Some(second_msg_id));
    assert_eq!(again.after_offset, upto_offset, "what was handled does not come again");
    server.stop().await;
}

#[tokio::test]
async fn a_consumer_asks_for_records_and_nothing_else() {
    let server = Server::start().await;
    for kind in [Kind::Submit, Kind::Ask, Kind::Verify, Kind::Follow, Kind::Admin] {
        let (_far, link) = consumer(&server).await;
        link.send_raw(kind.number(), 1, &[]).unwrap();
        let cut_off = async {
            while !link.is_closed() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, cut_off).await.unwrap_or_else(|_| panic!("{kind:?}"));
    }
    // And a gateway does not ask for records.
    let consume = Consume { name: "push".to_owned(), partition: 0, ..Consume::default() };
    server.link.send(Kind::Consume.number(), 0, &consume).unwrap();
    let nothing = server.answer(1, Command::Heartbeat, &client::LogoutRequest::default()).await;
    assert_eq!(nothing, ignored(), "it is passed over");
    server.stop().await;
}

#[tokio::test]
async fn an_administrator_sees_how_far_consumers_are_and_forgets_them() {
    let server = Server::start().await;
    let listed = server.administer(What::ConsumerList(ConsumerList {})).await;
    assert_eq!(listed.consumers, []);
    server.proxy.send(message(single(1, 2), 1)).await;
    server.proxy.stored().await;
    let (proxy, log) = (&server.proxy, server.proxy.log);
    let cursor = ConsumerCursor { log, offset: Offset(1), epoch: proxy.epoch };
    for name in ["push", "audit"] {
        let made = proxy.store.move_consumer(proxy.epoch, name.to_owned(), None, cursor).await;
        assert!(made.unwrap());
    }
    let listed = server.administer(What::ConsumerList(ConsumerList {})).await;
    let stored_offset = proxy.state().last().0;
    let expected = ["audit", "push"].map(|name| ConsumerLine {
        name: name.to_owned(),
        partition: 0,
        offset: 1,
        stored_offset,
    });
    assert_eq!(listed.consumers, expected);
    let forget = || What::ConsumerForget(ConsumerForget { name: "push".to_owned() });
    server.administer(forget()).await;
    let error = server.refused(forget()).await;
    assert!(error.contains("consumer push does not exist"), "{error}");
    let listed = server.administer(What::ConsumerList(ConsumerList {})).await;
    assert_eq!(listed.consumers, expected[..1]);
    server.stop().await;
}
