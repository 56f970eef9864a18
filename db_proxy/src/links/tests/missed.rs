//! What a gateway that missed something is told: what changed, and what it fetches then.

use std::collections::{BTreeMap, BTreeSet};

use fold::admission::Change;
use partition::test::gated::Gate;
use partition::test::{group, message, single};
use proto::client::{GroupChange, GroupMembersNotify};
use proto::cluster::wire::Reached;
use proto::cluster::wire::{Changed, Changes, Follow, Publish};

use super::*;

#[tokio::test]
async fn a_gateway_without_a_cursor_hears_of_what_comes_from_now_on() {
    let mut server = Server::start().await;
    server.proxy.send(message(single(1, 2), 1)).await;
    let last = server.last();
    server.follow(None);
    let first = server.changes().await;
    assert_eq!((first.after_offset, first.upto_offset), (last, last));
    assert_eq!((first.epoch, first.partition, first.forgotten), (server.proxy.epoch, 0, None));
    assert!(first.conversations.is_empty());
    server.proxy.send(message(single(1, 2), 1)).await;
    server.proxy.send(message(single(1, 3), 1)).await;
    server.proxy.send(message(single(1, 2), 1)).await;
    let changed = server.changed_until(last, last + 3).await;
    let expected = [(single(1, 2).number(), last + 3), (single(1, 3).number(), last + 2)];
    assert_eq!(changed, BTreeMap::from(expected));
    server.stop().await;
}

#[tokio::test]
async fn a_gateway_goes_on_from_its_cursor_and_is_moved_along_by_records_that_no_client_sees() {
    let mut server = Server::start().await;
    server.proxy.send(message(single(1, 2), 1)).await;
    let cursor = server.last();
    server.proxy.send(message(single(1, 3), 1)).await;
    let after_it = server.last();
    server.follow(Some(cursor));
    assert_eq!(
        server.changed_until(cursor, after_it).await,
        BTreeMap::from([(single(1, 3).number(), after_it)])
    );
    let mark = Change::Shield { conversation: single(1, 3), user: UserId(1), on: true };
    server.proxy.change(mark).await;
    assert!(server.changed_until(after_it, after_it + 1).await.is_empty());
    server.follow(Some(after_it + 1));
    let nothing = server.changes().await;
    assert_eq!((nothing.after_offset, nothing.upto_offset), (after_it + 1, after_it + 1));
    server.follow(Some(cursor));
    let changed = server.changed_until(cursor, after_it + 1).await;
    assert_eq!(changed.len(), 1, "asked for once more");
    server.stop().await;
}

#[tokio::test]
async fn a_gateway_of_another_log_was_forgotten() {
    let mut server = Server::start().await;
    server.proxy.send(message(single(1, 2), 1)).await;
    let last = server.last();
    server.follow(Some(last + 1));
    let forgotten = server.changes().await;
    assert_eq!(forgotten.forgotten, Some(true));
    assert_eq!((forgotten.after_offset, forgotten.upto_offset), (last, last));
    server.proxy.send(message(single(1, 2), 1)).await;
    assert_eq!(server.changed_until(last, last + 1).await.len(), 1, "it goes on from there");
    server.follow(Some(u64::MAX));
    assert_eq!(server.changes().await.forgotten, Some(true));
    server.stop().await;
}

#[tokio::test]
async fn a_gateway_that_follows_a_partition_that_is_not_here_hears_nothing_of_it() {
    let mut server = Server::start().await;
    let follow = Follow { partition: 1, after_offset: None };
    server.link.send(Kind::Follow.number(), 0, &follow).unwrap();
    server.follow(None);
    assert_eq!(server.changes().await.partition, 0, "the link is as good as before");
    server.stop().await;
}

#[tokio::test]
async fn a_gateway_is_told_what_changes_of_members_came_to() {
    let mut server = Server::start().await;
    server.proxy.make_group(1, &[1, 2, 3]).await;
    let cursor = server.last();
    server.proxy.send(message(group(1), 1)).await;
    server.proxy.change_members(1, &[4, 5], &[]).await;
    server.proxy.change_members(1, &[], &[5, 2]).await;
    let last_of_members = server.last();
    server.proxy.send(message(group(1), 1)).await;
    let last = server.last();

    server.settle().await;
    server.follow(Some(cursor));
    let changes = server.changes_upto(last).await;
    let [changed] = &changes.conversations[..] else { panic!("{changes:?}") };
    assert_eq!((changed.conversation, changed.offset), (group(1).number(), last));
    let members = changed.members.as_ref().unwrap();
    assert_eq!((members.msg_id, members.member_version), (0, 3));
    assert_eq!((members.offset, members.prev_offset), (last_of_members, cursor));
    assert_eq!((&members.added[..], &members.removed[..]), (&[4][..], &[2, 5][..]));
    assert_eq!(members.first_visible, Some(2), "one message was there before he came");
    assert_eq!((members.epoch, members.partition), (server.proxy.epoch, 0));
    assert_eq!((members.origin, members.client_msg_id.clone()), (None, None));
    let [left, joined] = &notices(members)[..] else { panic!("{members:?}") };
    assert_eq!((left.change(), &left.changed_ids[..]), (GroupChange::Remove, &[2, 5][..]));
    assert_eq!((joined.change(), &joined.changed_ids[..]), (GroupChange::Add, &[4][..]));
    assert_eq!((&left.current_ids, &joined.current_ids), (&vec![1, 3, 4], &vec![1, 3, 4]));

    server.follow(Some(cursor - 1));
    let changes = server.changes_upto(last).await;
    let members = changes.conversations[0].members.clone().unwrap();
    assert_eq!(members.added, [1, 3, 4], "the group was made then");
    assert_eq!((members.first_visible, members.frame.is_empty()), (None, false));
    server.stop().await;
}

#[tokio::test]
async fn clients_are_not_told_of_a_group_that_was_only_made() {
    let mut server = Server::start().await;
    let cursor = server.last();
    server.proxy.make_group(1, &[1, 2]).await;
    server.follow(Some(cursor));
    let changes = server.changes_upto(cursor + 1).await;
    let members = changes.conversations[0].members.clone().unwrap();
    assert!(members.frame.is_empty());
    assert_eq!((&members.added[..], members.member_version), (&[1, 2][..], 1));
    server.stop().await;
}

/// Both where the next owner folds the records again, and where it only remembers them.
#[tokio::test]
async fn a_gateway_goes_on_after_a_restart_of_the_owner() {
    for stored in [false, true] {
        let setup = Setup { segment_bytes: 32 << 20, store_writer: stored, ..Setup::new() };
        let server = Server::with(setup.start().await).await;
        server.proxy.make_group(1, &[1, 2]).await;
        let cursor = server.last();
        server.proxy.send(message(single(1, 2), 1)).await;
        server.proxy.change_members(1, &[3], &[]).await;
        server.proxy.send(message(group(1), 3)).await;
        let last = server.last();
        if stored {
            server.proxy.stored().await;
        }
        let setup = server.kill().await;

        let mut server = Server::with(setup.start().await).await;
        assert_eq!(server.last(), last + 1, "the new owner's own record");
        server.follow(Some(cursor));
        let changes = server.changes_upto(last + 1).await;
        let told: Vec<_> =
            changes.conversations.iter().map(|c| (c.conversation, c.offset)).collect();
        assert_eq!(told, [(single(1, 2).number(), last - 2), (group(1).number(), last)]);
        let members = changes.conversations[1].members.clone().unwrap();
        assert_eq!((&members.added[..], members.first_visible), (&[3][..], Some(1)));
        let fetched = server.fetch_after(group(1).number(), (1, 9), cursor).await;
        let fetched: Vec<_> = fetched.publishes.iter().map(|p| (p.msg_id, p.offset)).collect();
        assert_eq!(fetched, [(0, last - 1), (1, last)]);

        server.proxy.send(message(group(1), 1)).await;
        let publish = server.publication().await;
        assert_eq!((publish.msg_id, publish.offset), (2, last + 2));
        assert_eq!((publish.prev_offset, publish.member_version), (last, 2), "as before");
        server.kill().await;
    }
}

#[tokio::test]
async fn while_the_store_is_away_what_needs_it_waits_and_nothing_is_left_out() {
    for away in [Gate::Away, Gate::Closed] {
        let mut server = Server::start().await;
        server.proxy.make_group(1, &[1, 2]).await;
        let cursor = server.last();
        server.proxy.send(message(single(1, 2), 1)).await;
        server.proxy.change_members(1, &[3], &[]).await;
        server.proxy.send(message(single(1, 3), 1)).await;
        let last = server.last();
        server.proxy.stored().await;
        server.proxy.store.reads.send_replace(away);
        server.proxy.state().lock().fold.conversations.clear();
        server.follow(Some(cursor));
        let first = server.changed_until(cursor, cursor + 1).await;
        assert_eq!(first, BTreeMap::from([(single(1, 2).number(), cursor + 1)]), "{away:?}");
        server.proxy.store.reads.send_replace(Gate::Open);
        let changed = server.changed_until(cursor + 1, last).await;
        let expected = [(group(1).number(), cursor + 2), (single(1, 3).number(), last)];
        assert_eq!(changed, BTreeMap::from(expected), "{away:?}");
        server.stop().await;
    }
}

#[tokio::test]
async fn what_is_fetched_is_what_came_after_the_record_that_is_known() {
    for stored in [false, true] {
        let setup = Setup { segment_bytes: 32 << 20, store_writer: stored, ..Setup::new() };
        let server = Server::with(setup.start().await).await;
        let two = single(1, 2);
        let mut offsets = Vec::new();
        for _ in 0..100 {
            server.proxy.send(message(two, 1)).await;
            offsets.push(server.last());
            server.proxy.send(message(single(1, 3), 1)).await;
        }
        if stored {
            server.proxy.stored().await;
            // From the store alone: what is read next finds nothing in memory.
            server.proxy.state().lock().fold.conversations.clear();
        }
        for (from, to) in [(1, 1_000), (40, 60), (60, 40), (101, 200), (1, 0)] {
            for after in 0..=server.last() {
                let fetched = server.fetch_after(two.number(), (from, to), after).await;
                let expected: Vec<(u32, u64)> = (1_u32..)
                    .zip(offsets.iter().copied())
                    .filter(|(id, offset)| (from..=to).contains(id) && *offset > after)
                    .collect();
                let got: Vec<_> = fetched.publishes.iter().map(|p| (p.msg_id, p.offset)).collect();
                assert_eq!(got, expected, "{from}..={to} after {after}");
                assert!(fetched.complete);
                assert!(fetched.complete_upto >= to.min(100), "{}", fetched.complete_upto);
            }
        }
        if stored { server.stop().await } else { drop(server.kill().await) }
    }
}

#[tokio::test]
async fn much_that_is_fetched_comes_in_pieces_from_the_oldest_on() {
    let server = Server::start().await;
    server.proxy.make_group(1, &[1, 2]).await;
    let cursor = server.last();
    server.proxy.change_members(1, &[3], &[]).await;
    for number in 1..=60_u32 {
        let mut send = message(group(1), 1);
        send.body = Bytes::from(vec![1; 200_000]);
        assert_eq!(server.proxy.send(send).await, number);
        if number == 50 {
            server.proxy.change_members(1, &[4], &[]).await;
        }
    }
    let (mut next, mut ids, mut pieces) = (1, Vec::new(), 0);
    let mut added = Vec::new();
    loop {
        let fetched = server.fetch_after(group(1).number(), (next, u32::MAX), cursor).await;
        pieces += 1;
        assert!(fetched.publishes.is_sorted_by_key(|publish| publish.offset));
        assert!(fetched.publishes.iter().all(|publish| publish.offset > cursor));
        for publish in &fetched.publishes {
            ids.extend((publish.msg_id > 0).then_some(publish.msg_id));
            added.extend(&publish.added);
        }
        assert_eq!(ids.last().copied(), Some(fetched.complete_upto), "progress");
        next = fetched.complete_upto + 1;
        if fetched.complete {
            break;
        }
        assert!(!added.contains(&4) || next > 50, "he comes after message 50");
    }
    assert!((2..=4).contains(&pieces), "{pieces}");
    assert_eq!(ids, (1..=60).collect::<Vec<_>>());
    assert_eq!((added.first(), added.contains(&4)), (Some(&3), true));
    server.stop().await;
}

#[tokio::test]
async fn what_comes_after_the_messages_asked_for_is_not_told_with_them() {
    let server = Server::start().await;
    server.proxy.make_group(1, &[1, 2]).await;
    let cursor = server.last();
    server.proxy.change_members(1, &[3], &[]).await;
    server.proxy.send(message(group(1), 1)).await;
    server.proxy.change_members(1, &[4], &[]).await;
    let fetched = server.fetch_after(group(1).number(), (1, 0), cursor).await;
    let [members] = &fetched.publishes[..] else { panic!("{fetched:?}") };
    assert!(fetched.complete);
    assert_eq!((members.offset, members.prev_offset), (cursor + 1, cursor));
    assert_eq!((&members.added[..], members.member_version), (&[3][..], 2));
    server.stop().await;
}

/// Members come and go while a user writes. A gateway that applies what it fetches, from any place
/// to any other, delivers no message to a member who had left before it, and ends with the members of
/// the last place.
#[tokio::test]
async fn changes_of_members_are_fetched_in_their_place_among_the_messages() {
    // The many users that are added one after another are not held.
    let setup = Setup { hold: Duration::ZERO, segment_bytes: 32 << 20, ..Setup::new() };
    let server = Server::with(setup.start().await).await;
    server.proxy.make_group(1, &[1, 2, 3]).await;
    let mut members = BTreeSet::from([1, 2, 3]);
    let first = server.last();
    let mut at: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::from([(first, members.clone())]);
    let (mut changes, mut messages) = (Vec::new(), Vec::new());
    for step in 0..40_u32 {
        let user = 2 + step * 7 % 5;
        if step % 3 > 0 {
            server.proxy.send(message(group(1), 1)).await;
            messages.push(server.last());
        } else if members.remove(&user) {
            server.proxy.change_members(1, &[], &[user]).await;
            changes.push((server.last(), GroupChange::Remove, user));
        } else {
            server.proxy.change_members(1, &[user], &[]).await;
            members.insert(user);
            changes.push((server.last(), GroupChange::Add, user));
        }
        at.insert(server.last(), members.clone());
    }
    let version_at = |offset| 1 + changes.iter().filter(|(it, ..)| *it <= offset).count() as u64;
    for (&after, before) in &at {
        for to in [0, 1, 5, 13, u32::MAX] {
            let fetched = server.fetch_after(group(1).number(), (1, to), after).await;
            let publishes = fetched.publishes;
            assert!(fetched.complete);
            assert!(publishes.is_sorted_by(|one, next| one.offset < next.offset));
            let mut known = before.clone();
            for publish in &publishes {
                if publish.msg_id > 0 {
                    assert_eq!(known, at[&publish.offset], "{} after {after}", publish.msg_id);
                    continue;
                }
                assert_eq!(publish.member_version, version_at(publish.offset), "after {after}");
                known.extend(&publish.added);
                known.retain(|user| !publish.removed.contains(user));
            }
            // Up to the next message, which is not asked for.
            let next = messages.get(to as usize).copied().unwrap_or(u64::MAX);
            let upto = *at.range(..next.max(after + 1)).next_back().unwrap().0;
            assert_eq!(known, at[&upto], "from {after} up to message {to}");
            let told = publishes.iter().filter(|publish| publish.msg_id == 0).flat_map(notices);
            let told: Vec<_> = told.map(|it| (it.change(), it.changed_ids[0])).collect();
            let made = changes.iter().filter(|(it, ..)| *it > after && *it <= upto);
            assert_eq!(told, made.map(|&(_, change, user)| (change, user)).collect::<Vec<_>>());
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn of_too_many_changes_of_members_clients_are_told_what_they_came_to() {
    let setup = Setup { hold: Duration::ZERO, segment_bytes: 32 << 20, ..Setup::new() };
    let server = Server::with(setup.start().await).await;
    server.proxy.make_group(1, &[1, 2]).await;
    let cursor = server.last();
    server.proxy.change_members(1, &[4], &[]).await;
    server.proxy.change_members(1, &[], &[2]).await;
    for count in 3..=65 {
        let (add, remove) = if count % 2 == 1 { (&[3][..], &[][..]) } else { (&[][..], &[3][..]) };
        server.proxy.change_members(1, add, remove).await;
        let fetched = server.fetch_after(group(1).number(), (1, 0), cursor).await;
        let [all] = &fetched.publishes[..] else { panic!("{fetched:?}") };
        let told: Vec<_> = notices(all).into_iter().map(|it| it.changed_ids).collect();
        match count {
            64 => assert_eq!(told.len(), 64),
            65 => assert_eq!(told, [vec![2], vec![3, 4]]),
            _ => {}
        }
    }
    server.stop().await;
}

/// Each notice names the members as well.
#[tokio::test]
async fn of_changes_of_a_huge_group_clients_are_told_what_they_came_to() {
    let setup = Setup { hold: Duration::ZERO, segment_bytes: 32 << 20, ..Setup::new() };
    let server = Server::with(setup.start().await).await;
    for (number, members, expected) in [(1, 49_990, 2), (2, 50_010, 1)] {
        let everybody: Vec<u32> = (1..=members).collect();
        server.proxy.make_group(number, &everybody).await;
        let cursor = server.last();
        server.proxy.change_members(number, &[60_000], &[]).await;
        server.proxy.change_members(number, &[], &[60_000]).await;
        let fetched = server.fetch_after(group(number).number(), (1, 0), cursor).await;
        assert_eq!(fetched.publishes.len(), 1, "{members} members");
        assert_eq!(notices(&fetched.publishes[0]).len(), expected, "{members} members");
    }
    server.stop().await;
}

#[tokio::test]
async fn memberships_say_up_to_where_they_are_known() {
    let server = Server::start().await;
    server.proxy.make_group(1, &[1, 2]).await;
    let request = MembershipsRequest { user: 1, partitions: vec![0] };
    let memberships: Memberships =
        server.link.call(Kind::Memberships.number(), &request, PATIENCE).await.unwrap();
    let by = server.proxy.owned();
    assert_eq!(memberships.reached, [Reached { by, upto_offset: server.last() }]);
    server.stop().await;
}

/// What clients are told by a publication about members.
pub(super) fn notices(publish: &Publish) -> Vec<GroupMembersNotify> {
    let mut bytes = bytes::BytesMut::from(&publish.frame[..]);
    let next = || proto::frame::decode(&mut bytes, LIMIT_TO_CLIENT).unwrap();
    std::iter::from_fn(next).map(|frame| frame.parse().unwrap()).collect()
}

impl Server {
    fn last(&self) -> u64 {
        self.proxy.state().last().0
    }

    fn follow(&self, after_offset: Option<u64>) {
        let follow = Follow { partition: 0, after_offset };
        self.link.send(Kind::Follow.number(), 0, &follow).unwrap();
    }

    /// Waits until what was folded is old enough to be told at once.
    async fn settle(&mut self) {
        let last = self.last();
        self.follow(Some(last - 1));
        self.changes_upto(last).await;
    }

    /// The next changes that the gateway is told.
    async fn changes(&mut self) -> Changes {
        self.next(Kind::Changes).await
    }

    pub(super) async fn publication(&mut self) -> Publish {
        self.next(Kind::Publish).await
    }

    async fn next<M: Message + Default>(&mut self, kind: Kind) -> M {
        loop {
            let (_link, frame) = self.gateway.frame().await;
            if frame.kind == kind.number() {
                return frame.parse().unwrap();
            }
        }
    }

    /// What it is told until it reaches `upto`, which must go on without a hole. Conversations that
    /// come twice are those of the later message.
    async fn changes_upto(&mut self, upto: u64) -> Changes {
        let mut all = self.changes().await;
        while all.upto_offset < upto {
            let next = self.changes().await;
            assert_eq!(next.after_offset, all.upto_offset, "no hole");
            assert!(next.upto_offset > next.after_offset, "never nothing at all");
            all.upto_offset = next.upto_offset;
            all.conversations.extend(next.conversations);
        }
        assert_eq!((all.upto_offset, all.forgotten), (upto, None));
        all
    }

    async fn changed_until(&mut self, after: u64, upto: u64) -> BTreeMap<u64, u64> {
        let changes = self.changes_upto(upto).await;
        assert_eq!(changes.after_offset, after);
        let of = |changed: &Changed| (changed.conversation, changed.offset);
        changes.conversations.iter().map(of).collect()
    }

    async fn fetch_after(&self, conversation: u64, (from, to): (u32, u32), after: u64) -> Fetched {
        let request = FetchRequest { conversation, from, to, after_offset: Some(after) };
        self.link.call(Kind::Fetch.number(), &request, PATIENCE).await.unwrap()
    }

    async fn kill(self) -> Setup {
        self.requests.idle().await;
        let Self { proxy, link, gateway, requests, .. } = self;
        drop((link, gateway, requests));
        proxy.kill().await
    }
}
