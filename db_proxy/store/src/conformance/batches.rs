//! Batches, progress and owners.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::future::join_all;
use proto::ids::{MsgId, Offset, UserId};
use proto::record::LogId;

use super::{LOG, Owner, group, mark, member, message, row, single, someone, talk};
use crate::{Batch, Progress, Store, StoreError};

pub(crate) async fn the_first_owner_begins_before_the_first_record(store: &dyn Store) {
    let progress = store.claim("first".to_owned(), LOG).await.unwrap();

    let fresh = Progress { epoch: 1, applied: Offset(0), applied_crc: 0, fold_version: 0 };
    assert_eq!(progress, fresh);
}

pub(crate) async fn each_owner_gets_the_next_epoch_and_the_progress_of_the_last(store: &dyn Store) {
    let mut first = Owner::of(store).await;
    first.write(Batch { applied_crc: u32::MAX, fold_version: 3, ..Batch::default() }).await;

    let second = store.claim("second".to_owned(), LOG).await.unwrap();
    assert_eq!(
        second,
        Progress { epoch: 2, applied: Offset(1), applied_crc: u32::MAX, fold_version: 3 }
    );
}

pub(crate) async fn another_log_is_refused_and_changes_nothing(store: &dyn Store) {
    let mut owner = Owner::of(store).await;

    let error = store.claim("other".to_owned(), LogId([8; 16])).await.unwrap_err();
    let StoreError::Refused(text) = error else { panic!("{error}") };
    assert!(text.contains(&"07".repeat(16)) && text.contains(&"08".repeat(16)), "{text}");

    owner.write(talk(1, 2, 1)).await;
}

pub(crate) async fn a_batch_becomes_visible_with_its_progress(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    owner.write(talk(1, 2, 3)).await;

    let stored = store.conversation(single(1, 2), 10).await.unwrap();
    assert_eq!(stored.row, Some(talk(1, 2, 3).conversations.remove(0)));
    assert_eq!(stored.recent, talk(1, 2, 3).messages);
    assert_eq!(store.claim("next".to_owned(), LOG).await.unwrap().applied, Offset(1));
}

pub(crate) async fn a_batch_of_an_older_epoch_is_fenced_and_leaves_nothing(store: &dyn Store) {
    let zombie = Owner::of(store).await;
    let mut owner = Owner::of(store).await;

    assert_fenced(&zombie.try_write(talk(1, 2, 3)).await);
    assert_nothing_written(store).await;
    owner.write(talk(1, 2, 3)).await;
}

pub(crate) async fn a_batch_that_does_not_continue_the_last_is_fenced_and_leaves_nothing(
    store: &dyn Store,
) {
    let mut owner = Owner::of(store).await;
    owner.write(Batch::default()).await;

    for after in [0, 2] {
        let batch = Batch { applied: Offset(after + 1), ..talk(1, 2, 3) };
        assert_fenced(&store.commit(owner.epoch, Offset(after), batch).await);
        assert_nothing_written(store).await;
    }
    owner.write(talk(1, 2, 3)).await;
}

pub(crate) async fn a_batch_without_an_owner_is_fenced(store: &dyn Store) {
    for epoch in [0, 1] {
        let batch = Batch { applied: Offset(1), ..talk(1, 2, 3) };
        assert_fenced(&store.commit(epoch, Offset(0), batch).await);
    }
    assert_nothing_written(store).await;
}

/// An owner that does not know whether a commit arrived asks for the progress. An owner that writes
/// again all the same must not be taken for a broken fold, which ends the process.
pub(crate) async fn a_batch_written_again_is_fenced(store: &dyn Store) {
    let owner = Owner::of(store).await;
    owner.try_write(talk(1, 2, 3)).await.unwrap();

    assert_fenced(&owner.try_write(talk(1, 2, 3)).await);
}

pub(crate) async fn a_batch_may_hold_nothing_but_progress(store: &dyn Store) {
    let owner = Owner::of(store).await;
    let batch = Batch { applied: Offset(1_000_000), ..Batch::default() };
    store.commit(owner.epoch, Offset(0), batch).await.unwrap();

    let progress = store.claim("next".to_owned(), LOG).await.unwrap();
    assert_eq!(progress.applied, Offset(1_000_000));
}

pub(crate) async fn unreadable_records_are_taken(store: &dyn Store) {
    let mut owner = Owner::of(store).await;
    let unreadable = vec![
        (Offset(1), Bytes::new()),
        (Offset(2), Bytes::from_static(b"\0\xff")),
        (Offset(u64::MAX), Bytes::from(vec![0xff; 100_000])),
    ];

    owner.write(Batch { unreadable, ..Batch::default() }).await;
}

pub(crate) async fn what_was_applied_is_flushed_when_asked_for(store: &dyn Store) {
    assert_eq!(store.flushed_progress().await.unwrap(), Offset(0));
    let mut owner = Owner::of(store).await;
    assert_eq!(store.flushed_progress().await.unwrap(), Offset(0));

    owner.write(talk(1, 2, 3)).await;
    owner.write(talk(1, 3, 3)).await;
    assert_eq!(store.flushed_progress().await.unwrap(), Offset(2));
    assert_eq!(store.flushed_progress().await.unwrap(), Offset(2));
}

pub(crate) async fn both_sides_write_and_read_at_the_same_time(store: &dyn Store) {
    const ROUNDS: u32 = 20;
    let mut owner = Owner::of(store).await;
    let batches = async {
        for other in 0..ROUNDS {
            owner.write(talk(1, other + 2, 50)).await;
        }
    };
    let users = join_all(
        (0..ROUNDS).map(|number| store.add_users(vec![someone(&format!("user{number}"))], false)),
    );
    let groups = join_all((0..ROUNDS).map(|_| store.allocate_group(None)));
    let lists = join_all((0..ROUNDS).map(|_| store.conversations_of(UserId(1))));
    let ((), users, groups, lists) = tokio::join!(batches, users, groups, lists);

    let users: HashSet<_> = users.into_iter().flat_map(Result::unwrap).collect();
    let groups: HashSet<_> = groups.into_iter().map(Result::unwrap).collect();
    assert_eq!((users.len(), groups.len()), (20, 20));
    // A batch is wholly there or not at all, whenever one looks.
    assert!(lists.into_iter().flat_map(Result::unwrap).all(|entry| entry.row.head == MsgId(50)));
    assert_eq!(store.conversations_of(UserId(1)).await.unwrap().len(), 20);
}

fn assert_fenced(result: &Result<(), StoreError>) {
    assert!(matches!(result, Err(StoreError::Fenced(_))), "expected Fenced, got {result:?}");
}

async fn assert_nothing_written(store: &dyn Store) {
    let stored = store.conversation(single(1, 2), 10).await.unwrap();
    assert_eq!(stored.row, None);
    assert_eq!(stored.recent, []);
    assert_eq!(store.messages(single(1, 2), MsgId(0), MsgId::MAX, 10).await.unwrap(), []);
}

pub(crate) async fn a_batch_that_is_fenced_leaves_nothing_of_any_table(store: &dyn Store) {
    let zombie = Owner::of(store).await;
    Owner::of(store).await;
    let batch = Batch {
        conversations: vec![row(group(1), 1), row(single(1, 2), 1)],
        members: vec![member(1, 1, None)],
        marks: vec![mark(group(1), 1, 1)],
        messages: vec![message(group(1), 1, 1)],
        ..Batch::default()
    };
    assert_fenced(&zombie.try_write(batch).await);
    let stored = store.conversation(group(1), 9).await.unwrap();
    assert_eq!((stored.row, stored.recent), (None, Vec::new()));
    assert!(stored.members.is_empty() && stored.marks.is_empty());
    assert!(store.conversations_of(UserId(1)).await.unwrap().is_empty());
    assert_eq!(store.groups(0, 9).await.unwrap(), []);
    assert_eq!(store.flushed_progress().await.unwrap(), Offset(0));
}

/// More rows than one statement has, of every table.
pub(crate) async fn a_batch_of_many_rows_is_written_whole(store: &dyn Store) {
    const MANY: u32 = 1_500;
    let mut owner = Owner::of(store).await;
    let groups = |first| (first..first + MANY).map(|number| row(group(number), 1));
    let batch = Batch {
        conversations: groups(1).collect(),
        members: (1..=MANY).map(|user| member(7, user, None)).collect(),
        marks: (1..=MANY).map(|user| mark(group(7), user, user)).collect(),
        messages: (1..=MANY).map(|number| message(group(number), 1, number)).collect(),
        unreadable: (1..=MANY).map(|n| (Offset(n.into()), Bytes::new())).collect(),
        ..Batch::default()
    };
    let marks = batch.marks.clone();
    owner.write(batch).await;
    let stored = store.conversation(group(7), 9).await.unwrap();
    let members: Vec<_> = stored.members.iter().map(|member| member.user.0).collect();
    assert_eq!(members, (1..=MANY).collect::<Vec<_>>());
    assert_eq!(stored.marks, marks);
    let all = store.groups(0, usize::MAX).await.unwrap();
    assert!(all.iter().map(|(row, _members)| row).eq(&groups(1).collect::<Vec<_>>()));
    let places = (1..=MANY).map(|number| (group(number), MsgId(1))).collect();
    assert_eq!(store.messages_at(places).await.unwrap().len(), MANY as usize);
}
