//! What is remembered by hand, and against a model that keeps everything.

use proptest::prelude::*;
use proto::ids::GroupId;

use super::*;

#[test]
fn each_conversation_that_changed_is_named_once_with_its_last_record() {
    let mut published = Published::new(Offset(10));
    for (offset, number) in [(11, 1), (13, 2), (14, 1), (20, 3)] {
        published.enter(Offset(offset), group(number), None);
    }
    let delta = published.delta(Offset(10), Offset(19)).unwrap();
    assert_eq!(delta.upto, Offset(19), "marks and repetitions move it along too");
    let changed: Vec<_> = delta.changed.iter().map(|c| (c.conversation, c.offset.0)).collect();
    assert_eq!(changed, [(group(1), 14), (group(2), 13)]);
    let nothing = published.delta(Offset(14), Offset(19)).unwrap();
    assert_eq!((nothing.upto, nothing.changed.len()), (Offset(19), 0));
    let backwards = published.delta(Offset(20), Offset(19)).unwrap();
    assert_eq!((backwards.upto, backwards.changed.len()), (Offset(20), 0));
    assert_eq!(published.delta(Offset(u64::MAX), Offset(19)).unwrap().upto, Offset(u64::MAX));
}

#[test]
fn what_lies_before_the_beginning_is_not_known() {
    let mut published = Published::new(Offset(10));
    assert_eq!(published.delta(Offset(9), Offset(20)), None);
    published.reach_back(Offset(5));
    published.enter(Offset(6), group(1), None);
    assert_eq!(published.covers_from(), Offset(5));
    assert_eq!(published.delta(Offset(5), Offset(20)).unwrap().changed.len(), 1);
    assert_eq!(published.delta(Offset(4), Offset(20)), None);
}

#[test]
fn changes_of_members_are_told_with_who_they_were_about() {
    let mut published = Published::new(Offset(0));
    published.enter(Offset(1), group(1), Some(member_change(&[1, 2], &[])));
    published.enter(Offset(2), group(1), None);
    published.enter(Offset(3), group(1), Some(member_change(&[], &[2])));
    published.enter(Offset(4), group(2), Some(member_change(&[3], &[])));
    let delta = published.delta(Offset(1), Offset(4)).unwrap();
    assert_eq!(delta.changed[0].members, [(Offset(3), member_change(&[], &[2]))]);
    assert_eq!(delta.changed[1].members, [(Offset(4), member_change(&[3], &[]))]);
    let of = |after, upto| {
        let members = published.members_of(group(1), Offset(after), Offset(upto));
        members.map(|(offset, _touched)| offset.0).collect::<Vec<_>>()
    };
    assert_eq!(of(0, 9), [1, 3]);
    assert_eq!(of(1, 2), Vec::<u64>::new());
    assert_eq!(of(2, 3), [3]);
    assert_eq!(of(u64::MAX, 0), Vec::<u64>::new());
}

#[test]
fn one_record_is_looked_up_by_its_place() {
    let mut published = Published::new(Offset(3));
    published.enter(Offset(5), group(1), Some(member_change(&[1], &[])));
    published.enter(Offset(8), group(2), None);
    assert_eq!(published.members_at(Offset(5)), Some(&member_change(&[1], &[])));
    assert_eq!(published.members_at(Offset(8)), None, "a message");
    assert!(published.contains(Offset(5)) && published.contains(Offset(8)));
    for nothing in [0, 4, 6, 9] {
        assert!(
            !published.contains(Offset(nothing)) && published.members_at(Offset(nothing)).is_none()
        );
    }
}

#[test]
fn too_much_at_once_comes_in_parts() {
    let max = u32::try_from(CONVERSATIONS_MAX).unwrap();
    let mut published = Published::new(Offset(0));
    for number in 1..=max + 1 {
        published.enter(Offset(u64::from(number)), group(number), None);
    }
    let first = published.delta(Offset(0), Offset(u64::MAX)).unwrap();
    assert_eq!((first.changed.len(), first.upto.0), (CONVERSATIONS_MAX, u64::from(max)));
    let rest = published.delta(first.upto, Offset(u64::MAX)).unwrap();
    assert_eq!((rest.changed.len(), rest.upto), (1, Offset(u64::MAX)));

    let mut published = Published::new(Offset(0));
    let groups = u64::try_from(GROUPS_MAX).unwrap();
    for number in 1..=groups + 1 {
        let number_32 = u32::try_from(number).unwrap();
        published.enter(Offset(2 * number), group(number_32), Some(member_change(&[1], &[])));
        published.enter(Offset(2 * number + 1), group(number_32), Some(member_change(&[2], &[])));
    }
    let first = published.delta(Offset(0), Offset(1_000)).unwrap();
    assert_eq!((first.changed.len(), first.upto.0), (GROUPS_MAX, 2 * groups + 1));

    let mut published = Published::new(Offset(0));
    let many: Vec<u32> = (1..=70_000).collect();
    for offset in 1..=3 {
        published.enter(Offset(offset), group(1), Some(member_change(&many, &[])));
    }
    for after in 0..3 {
        let delta = published.delta(Offset(after), Offset(3)).unwrap();
        assert_eq!(delta.upto, Offset(after + 1), "but one always fits");
    }

    let mut published = Published::new(Offset(0));
    let too_many: Vec<u32> = (1..=u32::try_from(NAMED_MAX).unwrap() + 1).collect();
    published.enter(Offset(1), group(1), Some(member_change(&too_many, &[])));
    let delta = published.delta(Offset(0), Offset(1)).unwrap();
    assert_eq!((delta.changed.len(), delta.upto), (1, Offset(1)), "however many it names");
}

/// One conversation in which much is said is little to tell, and much to go through under a lock.
#[test]
fn many_records_of_one_conversation_are_gone_through_in_parts() {
    let max = u64::try_from(SCANNED_MAX).unwrap();
    let mut published = Published::new(Offset(0));
    for offset in 1..=max + 1 {
        published.enter(Offset(offset), group(1), None);
    }
    let first = published.delta(Offset(0), Offset(u64::MAX)).unwrap();
    assert_eq!((first.changed.len(), first.upto), (1, Offset(max)));
    assert_eq!(first.changed[0].offset, Offset(max));
    let rest = published.delta(first.upto, Offset(u64::MAX)).unwrap();
    assert_eq!((rest.changed.len(), rest.upto), (1, Offset(u64::MAX)));
}

#[test]
fn when_it_is_full_the_oldest_goes() {
    let mut published = Published::of(Offset(0), 3, 4);
    for offset in 1..=4 {
        published.enter(Offset(offset), group(1), None);
    }
    assert_eq!(published.covers_from(), Offset(1));
    assert_eq!(published.delta(Offset(0), Offset(9)), None);
    published.enter(Offset(5), group(1), Some(member_change(&[1, 2], &[3])));
    published.enter(Offset(6), group(1), Some(member_change(&[1, 2], &[])));
    assert_eq!(published.covers_from(), Offset(5), "five users are too many");
    assert_eq!(published.members_of(group(1), Offset(0), Offset(9)).count(), 1);
    published.enter(Offset(7), group(1), Some(member_change(&[1, 2, 3, 4, 5], &[])));
    assert_eq!((published.covers_from(), published.users), (Offset(7), 0));
}

proptest! {
    #[test]
    fn asked_again_and_again_it_tells_everything_that_it_covers(
        records in prop::collection::vec((1_u64..4, 1_u32..5, prop::bool::weighted(0.2)), 0..60),
        entries_max in 1_usize..40,
        users_max in 1_usize..20,
        (after, upto) in (0_u64..150, 0_u64..150),
    ) {
        let mut published = Published::of(Offset(5), entries_max, users_max);
        let mut model = Vec::new();
        let mut offset = 5;
        for (step, number, has_members) in records {
            offset += step;
            let member_change = has_members.then(|| member_change(&[1, 2], &[number]));
            published.enter(Offset(offset), group(number), member_change.clone());
            model.push((Offset(offset), group(number), member_change));
        }
        let kept = model.iter().filter(|record| record.0 > published.covers_from()).count();
        prop_assert_eq!(kept, published.entries.len());
        prop_assert!(kept <= entries_max);
        let (after, upto) = (Offset(after), Offset(upto));
        let Some(delta) = published.delta(after, upto) else {
            prop_assert!(after < published.covers_from());
            return Ok(());
        };
        prop_assert!(after >= published.covers_from());
        prop_assert_eq!(delta.upto, upto.max(after), "so little fits");
        let in_range = |offset: Offset| offset > after && offset <= upto;
        for number in 1..5 {
            let of_it: Vec<_> = model
                .iter()
                .filter(|record| record.1 == group(number) && in_range(record.0))
                .collect();
            let told: Vec<_> =
                delta.changed.iter().filter(|c| c.conversation == group(number)).collect();
            prop_assert_eq!(told.len(), usize::from(!of_it.is_empty()));
            let Some(told) = told.first() else { continue };
            prop_assert_eq!(told.offset, of_it.last().unwrap().0);
            let members: Vec<_> = of_it
                .iter()
                .filter_map(|record| Some((record.0, record.2.clone()?)))
                .collect();
            let by_group: Vec<_> = published
                .members_of(group(number), after, upto)
                .map(|(offset, member_change)| (offset, member_change.clone()))
                .collect();
            prop_assert_eq!(&told.members, &members);
            prop_assert_eq!(by_group, members);
        }
    }
}

fn group(number: u32) -> ConversationId {
    ConversationId::group(GroupId(number)).unwrap()
}

fn member_change(added: &[u32], removed: &[u32]) -> MemberChange {
    let users = |numbers: &[u32]| numbers.iter().copied().map(UserId).collect();
    MemberChange { actor: UserId(9), added: users(added), removed: users(removed), created: false }
}
