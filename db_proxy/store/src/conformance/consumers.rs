//! Where the consumers of the log are, and the numbers of its messages.

use super::*;
use crate::{ConsumerCursor, ConsumerRow, MessageRecord};

pub(super) fn at(offset: u64, epoch: u64) -> ConsumerCursor {
    ConsumerCursor { log: LOG, offset: Offset(offset), epoch }
}

async fn move_to(
    owner: &Owner<'_>,
    name: &str,
    from: Option<ConsumerCursor>,
    to: ConsumerCursor,
) -> bool {
    owner.store.move_consumer(owner.epoch, name.to_owned(), from, to).await.unwrap()
}

fn consumer(name: &str, cursor: ConsumerCursor) -> ConsumerRow {
    ConsumerRow { name: name.to_owned(), cursor }
}

pub(crate) async fn a_consumer_is_made_once_and_moves_from_where_it_is(store: &dyn Store) {
    let owner = Owner::of(store).await;
    assert_eq!(store.consumers().await.unwrap(), []);
    assert!(move_to(&owner, "push", None, at(5, 1)).await);
    assert!(!move_to(&owner, "push", None, at(9, 1)).await, "it is there already");
    assert!(move_to(&owner, "Push", None, at(1, 1)).await, "another name");
    assert!(!move_to(&owner, "push", Some(at(4, 1)), at(9, 1)).await, "it is not there");
    let of_other_log = ConsumerCursor { log: LogId([8; 16]), ..at(5, 1) };
    assert!(!move_to(&owner, "push", Some(of_other_log), at(9, 1)).await, "it is in another log");
    assert!(move_to(&owner, "push", Some(at(5, 1)), at(u64::MAX >> 1, 7)).await);
    assert!(!move_to(&owner, "audit", Some(at(5, 1)), at(9, 1)).await, "there is none");
    let expected = [consumer("Push", at(1, 1)), consumer("push", at(u64::MAX >> 1, 7))];
    assert_eq!(store.consumers().await.unwrap(), expected);
}

pub(crate) async fn an_owner_that_was_replaced_moves_no_consumer(store: &dyn Store) {
    let nobody = store.move_consumer(1, "push".to_owned(), None, at(1, 1)).await;
    assert!(matches!(nobody, Err(StoreError::Fenced(_))), "{nobody:?}");
    let old = Owner::of(store).await;
    assert!(move_to(&old, "push", None, at(1, 1)).await);
    let new = Owner::of(store).await;
    for (name, from) in [("push", Some(at(1, 1))), ("audit", None)] {
        let moved = store.move_consumer(old.epoch, name.to_owned(), from, at(2, 1)).await;
        assert!(matches!(moved, Err(StoreError::Fenced(_))), "{moved:?}");
    }
    assert_eq!(store.consumers().await.unwrap(), [consumer("push", at(1, 1))]);
    assert!(move_to(&new, "push", Some(at(1, 1)), at(3, 2)).await);
}

pub(crate) async fn a_consumer_that_is_forgotten_may_be_made_again(store: &dyn Store) {
    let owner = Owner::of(store).await;
    assert!(!store.forget_consumer("push".to_owned()).await.unwrap());
    assert!(move_to(&owner, "push", None, at(5, 1)).await);
    assert!(store.forget_consumer("push".to_owned()).await.unwrap());
    assert_eq!(store.consumers().await.unwrap(), []);
    assert!(move_to(&owner, "push", None, at(2, 1)).await);
}

pub(crate) async fn records_that_became_messages_have_their_numbers(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    owner.write(talk(1, 2, 3)).await;
    let first = message(single(1, 2), 1, 1);
    let again = MessageRow { msg_id: MsgId(4), offset: Offset(2_000), ..first.clone() };
    let batch = Batch {
        messages: vec![again.clone()],
        conversations: vec![row(single(1, 2), 4)],
        ..Batch::default()
    };
    owner.write(batch).await;
    let of = |row: &MessageRow| MessageRecord {
        offset: row.offset,
        conversation: row.conversation,
        sender: row.sender,
        client_msg_id: row.client_msg_id,
    };
    let second = message(single(1, 2), 2, 2);
    // Sent again, at another place of the log; of another conversation; of another sender.
    let repeated = MessageRecord { offset: Offset(1_500), ..of(&first) };
    let elsewhere = MessageRecord { conversation: single(1, 3), ..of(&first) };
    let of_another = MessageRecord { sender: UserId(2), ..of(&first) };
    let asked = vec![of(&first), repeated, elsewhere, of_another, of(&again), of(&second)];
    let mut found = store.numbers(asked.clone()).await.unwrap();
    found.sort_unstable();
    let expected = [(1_001, 1), (1_002, 2), (2_000, 4)];
    assert_eq!(found, expected.map(|(offset, msg_id)| (Offset(offset), MsgId(msg_id))));
    assert_eq!(store.numbers(Vec::new()).await.unwrap(), []);
    let many = asked.into_iter().cycle().take(600).collect();
    assert!(store.numbers(many).await.unwrap().len() >= 3);
}

pub(crate) async fn consumers_come_by_name_and_each_has_its_own_place(store: &dyn Store) {
    let owner = Owner::of(store).await;
    let longest = "x".repeat(64);
    let names = ["push", "audit", "b.2", "B-1", longest.as_str()];
    for (name, offset) in names.into_iter().zip(1..) {
        assert!(move_to(&owner, name, None, at(offset, 1)).await);
    }
    assert!(store.forget_consumer("audit".to_owned()).await.unwrap());
    assert!(!store.forget_consumer("PUSH".to_owned()).await.unwrap(), "another name");
    let expected = [
        consumer("B-1", at(4, 1)),
        consumer("b.2", at(3, 1)),
        consumer("push", at(1, 1)),
        consumer(&longest, at(5, 1)),
    ];
    assert_eq!(store.consumers().await.unwrap(), expected);
}

pub(crate) async fn a_consumer_may_move_anywhere_from_where_it_is(store: &dyn Store) {
    let owner = Owner::of(store).await;
    assert!(move_to(&owner, "push", None, at(5, 0)).await);
    // What is known of its epoch does not matter, and it may stay where it is.
    assert!(move_to(&owner, "push", Some(at(5, 9)), at(5, 2)).await);
    assert!(move_to(&owner, "push", Some(at(5, 2)), at(5, 2)).await);
    let other_log = ConsumerCursor { log: LogId([8; 16]), ..at(0, 3) };
    assert!(move_to(&owner, "push", Some(at(5, 2)), other_log).await, "it begins anew");
    assert_eq!(store.consumers().await.unwrap(), [consumer("push", other_log)]);
    // Taking over moves none of them.
    Owner::of(store).await;
    assert_eq!(store.consumers().await.unwrap(), [consumer("push", other_log)]);
}
