//! What a reader sees while others write, and what belongs to which partition.

use futures_util::future::{join_all, try_join_all};
use proto::ids::GroupId;

use super::proxy::Proxy;
use super::*;
use crate::{GroupRow, MemberRow};

#[tokio::test]
async fn a_conversation_is_read_as_of_one_moment_while_batches_are_written() {
    let fresh = fresh().await;
    let epoch = fresh.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    let writing = commit_records(&fresh, epoch, 1..=60);
    let reading = async {
        let mut seen = 0;
        loop {
            let stored = fresh.conversation(two(), 25).await.unwrap();
            let head = stored.row.map_or(0, |row| row.head.0);
            let newest = stored.recent.last().map_or(0, |message| message.msg_id.0);
            assert_eq!(head, newest);
            assert_eq!(stored.epoch, epoch);
            assert!(head >= seen);
            seen = head;
        }
    };
    tokio::select! {
        () = writing => {}
        never = reading => never,
    }
    assert_dense(&fresh, 60).await;
}

/// So many partitions in one database.
async fn fresh_of_partitions(partitions: u32) -> Fresh {
    let (owner, user) = blocking(|| database(MariaDb::shared())).await;
    let of = |url| MySqlOptions { partitions, ..options(url) };
    made(of(owner), of(user)).await
}

#[tokio::test]
async fn each_partition_has_its_own_progress_and_lists() {
    let zero = fresh_of_partitions(3).await;
    let two = zero.for_partition(2).unwrap();
    assert!(zero.for_partition(3).is_none());

    let epoch = zero.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    commit_records(&zero, epoch, 1..=3).await;
    let other = LogId([8; 16]);
    let progress = two.claim("owner".to_owned(), other).await.unwrap();
    assert_eq!((progress.epoch, progress.applied), (1, Offset(0)));
    two.commit(progress.epoch, Offset(0), group_batch(5)).await.unwrap();

    assert_eq!(zero.flushed_progress().await.unwrap(), Offset(3));
    assert_eq!(two.flushed_progress().await.unwrap(), Offset(1));
    assert_eq!(zero.groups(0, 10).await.unwrap(), []);
    let groups = two.groups(0, 10).await.unwrap();
    assert_eq!(
        groups.iter().map(|(row, members)| (row.id, *members)).collect::<Vec<_>>(),
        [(group(5), 1)]
    );
    for (store, expected) in [(&*zero, super::two()), (&two, group(5))] {
        let list = store.conversations_of(UserId(1)).await.unwrap();
        assert_eq!(list.iter().map(|entry| entry.row.id).collect::<Vec<_>>(), [expected]);
    }
    // Group numbers are the site's.
    let taken = zero.allocate_group(Some(GroupId(5))).await;
    assert!(matches!(taken, Err(StoreError::Taken(_))), "{taken:?}");
}

#[tokio::test]
async fn the_owner_of_each_partition_is_told_and_its_consumers_are_its_own() {
    let zero = fresh_of_partitions(2).await;
    let one = zero.for_partition(1).unwrap();
    assert_eq!(zero.look().await.unwrap(), None);
    let progress = zero.claim("first".to_owned(), LOG).await.unwrap();
    commit_records(&zero, progress.epoch, 1..=2).await;
    let claimed = zero.look().await.unwrap().unwrap();
    assert_eq!((claimed.owner.as_str(), claimed.log), ("first", LOG));
    assert_eq!((claimed.progress.epoch, claimed.progress.applied), (1, Offset(2)));
    assert_eq!(claimed.progress.applied_crc, 2);
    assert_eq!(one.look().await.unwrap(), None, "another partition");
    zero.claim("second".to_owned(), LOG).await.unwrap();
    assert_eq!(zero.look().await.unwrap().unwrap().owner, "second");

    one.claim("third".to_owned(), LOG).await.unwrap();
    for (store, epoch, offset) in [(&*zero, 2, 5), (&one, 1, 7)] {
        let at = ConsumerCursor { log: LOG, offset: Offset(offset), epoch };
        assert!(store.move_consumer(epoch, "push".to_owned(), None, at).await.unwrap());
    }
    assert!(zero.forget_consumer("push".to_owned()).await.unwrap());
    assert_eq!(zero.consumers().await.unwrap(), []);
    let left = one.consumers().await.unwrap();
    assert_eq!((left.len(), left[0].cursor.offset), (1, Offset(7)));
}

/// As at a login, where the owner of all partitions asks for what each of them has.
#[tokio::test]
async fn the_lists_of_all_partitions_are_one_query_for_each_database() {
    const PARTITIONS: u32 = 8;
    let fresh = fresh_of_two_shards(0, PARTITIONS).await;
    let proxy = Proxy::to(MariaDb::shared().port()).await;
    let first = MySqlStore::open(through(&fresh.options, proxy.port)).await.unwrap();
    let stores: Vec<Arc<MySqlStore>> =
        (0..PARTITIONS).map(|part| Arc::new(first.for_partition(part).unwrap())).collect();
    for (part, store) in (0..PARTITIONS).zip(&stores) {
        let log = LogId([u8::try_from(part).unwrap(); 16]);
        let progress = store.claim("owner".to_owned(), log).await.unwrap();
        // Nothing is in the last one.
        if part < PARTITIONS - 1 {
            store.commit(progress.epoch, Offset(0), group_batch(part + 1)).await.unwrap();
        }
    }

    proxy.executed();
    let lists = try_join_all(stores.iter().map(|store| store.conversations_of(UserId(1))));
    let lists = lists.await.unwrap();
    assert_eq!(proxy.executed(), 2);
    for (part, list) in (0..PARTITIONS).zip(lists) {
        let ids: Vec<_> = list.iter().map(|entry| entry.row.id).collect();
        let expected: &[_] = if part < PARTITIONS - 1 { &[group(part + 1)] } else { &[] };
        assert_eq!(ids, expected, "partition {part}");
        assert_eq!(ids, listed(&stores[part as usize]).await, "asked alone");
    }
    assert_eq!(proxy.executed(), PARTITIONS, "one after the other");

    // Some of them are owned elsewhere: those are not asked for.
    let some = [1, 3, 6];
    let lists = join_all(some.map(|part| listed(&stores[part]))).await;
    assert_eq!(lists, [vec![group(2)], vec![group(4)], vec![group(7)]]);
    assert_eq!(proxy.executed(), 2);
}

async fn listed(store: &MySqlStore) -> Vec<ConversationId> {
    let list = store.conversations_of(UserId(1)).await.unwrap();
    list.iter().map(|entry| entry.row.id).collect()
}

/// Each db_proxy has its own connections; turns are taken in the database.
#[tokio::test]
async fn several_db_proxies_give_out_each_number_name_and_stamp_once() {
    const ROUNDS: u32 = 15;
    let fresh = fresh().await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(MySqlStore::open(fresh.options.clone()).await.unwrap());
    }
    let work = others.iter().enumerate().map(|(number, store)| async move {
        let (mut users, mut groups, mut named) = (Vec::new(), Vec::new(), 0);
        for round in 0..ROUNDS {
            let own = user(&format!("{number}-{round}"));
            users.extend(store.add_users(vec![own], false).await.unwrap());
            // All want the same name; one gets it.
            named +=
                u32::from(store.add_users(vec![user(&format!("{round}"))], false).await.is_ok());
            groups.push(store.allocate_group(None).await.unwrap());
            store.set_device_token(UserId(1), 0x11, Some("token".to_owned())).await.unwrap();
        }
        (users, groups, named)
    });
    let done = join_all(work).await;

    let users: HashSet<_> = done.iter().flat_map(|(users, _, _)| users).collect();
    let groups: HashSet<_> = done.iter().flat_map(|(_, groups, _)| groups).collect();
    assert_eq!((users.len(), groups.len()), (45, 45));
    assert_eq!(done.iter().map(|(_, _, named)| named).sum::<u32>(), ROUNDS);
    let (all, newest) = fresh.users_since(Since::default(), usize::MAX).await.unwrap();
    let stamps: HashSet<_> = all.iter().map(|user| user.stamp).collect();
    assert_eq!((all.len(), stamps.len()), (60, 60));
    assert_eq!(stamps.into_iter().max(), Some(newest));
}

#[tokio::test]
async fn a_phones_token_belongs_to_its_last_user() {
    let fresh = fresh().await;
    for user in [1, 2] {
        let token = Some("token".to_owned());
        fresh.set_device_token(UserId(user), 0x11, token).await.unwrap();
    }
    fresh.set_device_token(UserId(3), 0x11, Some("other".to_owned())).await.unwrap();
    fresh.set_device_token(UserId(3), 0x11, None).await.unwrap();

    let database = database_of(&fresh.options);
    let sql = format!("SELECT user_id, token FROM {database}.device_token");
    assert_eq!(blocking(move || MariaDb::shared().sql(&sql)).await, "2\ttoken\n");
}

#[tokio::test]
async fn unreadable_records_are_kept_for_inspection() {
    let fresh = fresh().await;
    let epoch = fresh.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    let unreadable = vec![(Offset(1), Bytes::from_static(b"\0\xffwhat"))];
    let batch = Batch { unreadable, ..Batch { applied: Offset(1), ..Batch::default() } };
    fresh.commit(epoch, Offset(0), batch).await.unwrap();

    let database = database_of(&fresh.options);
    let sql = format!("SELECT part, log_offset, HEX(payload) FROM {database}.unreadable");
    assert_eq!(blocking(move || MariaDb::shared().sql(&sql)).await, "0\t1\t00FF77686174\n");
}

fn group(number: u32) -> ConversationId {
    ConversationId::group(GroupId(number)).unwrap()
}

fn group_batch(number: u32) -> Batch {
    let made = GroupRow {
        name: "group".to_owned(),
        avatar: String::new(),
        creator: UserId(1),
        kind: 1,
        version: 1,
        deleted: false,
    };
    let row = ConversationRow {
        id: group(number),
        head: MsgId(0),
        last_offset: Offset(1),
        last_message_ms: 0,
        group: Some(made),
    };
    let member = MemberRow { group: GroupId(number), user: UserId(1), join: MsgId(1), leave: None };
    Batch {
        applied: Offset(1),
        conversations: vec![row],
        members: vec![member],
        ..Batch::default()
    }
}
