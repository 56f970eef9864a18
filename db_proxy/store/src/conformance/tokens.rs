//! Resume tokens and tickets.

use futures_util::future::join_all;
use proto::ids::UserId;

use super::numbered;
use crate::tokens::{
    FAMILIES_MAX, FamilyId, FamilyRow, NewFamily, REPLACED_MAX, SecretHash, TicketRow,
};
use crate::{Store, UserChange};

/// A number that no signed column of 32 bits holds.
const LATE_S: u64 = 5_000_000_000;

pub(super) async fn user(store: &dyn Store, id: u32) -> u32 {
    store.add_users(vec![numbered(id, &format!("u{id}"))], false).await.unwrap();
    stamp(store, id).await
}

async fn stamp(store: &dyn Store, id: u32) -> u32 {
    store.users(vec![UserId(id)]).await.unwrap()[0].stamp
}

pub(super) fn row(user: u32, number: u8) -> FamilyRow {
    FamilyRow {
        id: FamilyId([number; 16]),
        user: UserId(user),
        client_type: 0x11,
        current: SecretHash([number; 32]),
        next: None,
        replaced: Vec::new(),
        used_s: LATE_S + u64::from(number),
        expires_s: LATE_S + 1_000,
    }
}

pub(super) async fn begin(store: &dyn Store, row: FamilyRow) -> bool {
    let stamp = stamp(store, row.user.0).await;
    store.add_family(NewFamily { row, stamp }).await.unwrap()
}

fn ticket(user: u32, number: u8, expires_s: u64) -> TicketRow {
    TicketRow { hash: SecretHash([number; 32]), user: UserId(user), client_type: 1, expires_s }
}

pub(crate) async fn a_family_is_kept_as_it_is(store: &dyn Store) {
    user(store, 1).await;
    let full = FamilyRow {
        next: Some(SecretHash([0xff; 32])),
        replaced: (0..REPLACED_MAX).map(|n| SecretHash([u8::try_from(n).unwrap(); 32])).collect(),
        client_type: u32::MAX,
        ..row(1, 0)
    };
    for family in [row(1, 255), full] {
        assert!(begin(store, family.clone()).await);
        assert_eq!(store.family(family.id).await.unwrap(), Some(family));
    }
    assert_eq!(store.family(FamilyId([9; 16])).await.unwrap(), None);
}

pub(crate) async fn a_family_begins_only_while_the_users_row_is_as_it_was_checked(
    store: &dyn Store,
) {
    let checked = user(store, 1).await;
    store.change_user(UserId(1), UserChange::Password("new".to_owned())).await.unwrap();
    let now = stamp(store, 1).await;
    for (user, stamp) in [(1, checked), (1, now + 1), (2, now)] {
        let begun = store.add_family(NewFamily { row: row(user, 1), stamp }).await.unwrap();
        assert!(!begun, "{user} {stamp}");
    }
    store.change_user(UserId(1), UserChange::Status(3)).await.unwrap();
    assert!(!begin(store, row(1, 1)).await, "who has left gets none");
    assert_eq!(store.family(FamilyId([1; 16])).await.unwrap(), None);
}

pub(crate) async fn a_family_changes_only_from_what_it_is(store: &dyn Store) {
    user(store, 1).await;
    let first = row(1, 1);
    begin(store, first.clone()).await;
    let sent = FamilyRow { next: Some(SecretHash([2; 32])), ..first.clone() };
    let kept = FamilyRow {
        current: SecretHash([2; 32]),
        replaced: vec![first.current],
        used_s: LATE_S + 7,
        expires_s: LATE_S + 8,
        ..first.clone()
    };
    assert!(store.change_family(first.clone(), sent.clone()).await.unwrap());
    assert!(!store.change_family(first.clone(), kept.clone()).await.unwrap(), "`next` is another");
    assert!(store.change_family(sent.clone(), kept.clone()).await.unwrap());
    assert!(!store.change_family(sent, first).await.unwrap(), "`current` is another");
    assert_eq!(store.family(kept.id).await.unwrap(), Some(kept));
    assert!(!store.change_family(row(1, 3), row(1, 3)).await.unwrap(), "there is none");

    // If several changes come at once, only one is made.
    let from = store.family(FamilyId([1; 16])).await.unwrap().unwrap();
    let changes = (10..20).map(|number| {
        let to = FamilyRow { next: Some(SecretHash([number; 32])), ..from.clone() };
        store.change_family(from.clone(), to)
    });
    let made = join_all(changes).await.into_iter().filter(|made| *made.as_ref().unwrap()).count();
    assert_eq!(made, 1);
}

pub(crate) async fn of_too_many_families_the_one_used_longest_ago_ends(store: &dyn Store) {
    user(store, 1).await;
    user(store, 2).await;
    begin(store, row(2, 200)).await;
    let most = u8::try_from(FAMILIES_MAX).unwrap();
    // The first is used last.
    begin(store, FamilyRow { used_s: LATE_S + 100, ..row(1, 1) }).await;
    for number in 2..=most + 2 {
        begin(store, row(1, number)).await;
    }
    for number in 1..=most + 2 {
        let there = store.family(FamilyId([number; 16])).await.unwrap().is_some();
        assert_eq!(there, !(2..=3).contains(&number), "{number}");
    }
    assert!(store.family(FamilyId([200; 16])).await.unwrap().is_some(), "it is another user's");
}

pub(crate) async fn families_that_have_expired_go_when_another_begins(store: &dyn Store) {
    for id in [1, 2] {
        user(store, id).await;
    }
    let expires_s = LATE_S + 10;
    for number in [1, 2] {
        begin(store, FamilyRow { used_s: LATE_S, expires_s, ..row(1, number) }).await;
    }
    let there =
        |number| async move { store.family(FamilyId([number; 16])).await.unwrap().is_some() };
    begin(store, FamilyRow { used_s: expires_s + 3_600, ..row(2, 3) }).await;
    assert!(there(1).await && there(2).await, "clocks may differ");
    begin(store, FamilyRow { used_s: expires_s + 3_601, ..row(2, 4) }).await;
    assert!(!there(1).await && !there(2).await);
    assert!(there(4).await);
}

pub(crate) async fn what_ends_a_users_logins_ends_all_tokens_and_tickets(store: &dyn Store) {
    for id in [1, 2] {
        user(store, id).await;
    }
    begin(store, row(2, 200)).await;
    assert!(store.add_ticket(ticket(2, 200, LATE_S), None, 0).await.unwrap());
    let changes = [
        Some(UserChange::Password("new".to_owned())),
        Some(UserChange::Status(3)),
        Some(UserChange::Status(0)),
        None,
    ];
    for (newest, change) in (0..).zip(changes) {
        if change != Some(UserChange::Status(0)) {
            assert!(begin(store, row(1, 1)).await && begin(store, row(1, 2)).await, "{change:?}");
        }
        assert!(store.add_ticket(ticket(1, 1, LATE_S), None, 0).await.unwrap());
        match change.clone() {
            Some(change) => store.change_user(UserId(1), change).await.unwrap(),
            None => store.revoke_tokens(UserId(1), None, 0).await.unwrap(),
        }
        for number in [1, 2] {
            let family = store.family(FamilyId([number; 16])).await.unwrap();
            assert_eq!(family, None, "{change:?}");
        }
        let taken = store.take_ticket(SecretHash([1; 32])).await.unwrap();
        assert_eq!(taken, None, "{change:?}");
        assert_eq!(store.newest_revocation().await.unwrap(), newest + 1, "{change:?}");
        let noted = store.revocations_after(newest, 10).await.unwrap();
        assert_eq!((noted.len(), noted[0].number), (1, newest + 1), "{change:?}");
        assert_eq!((noted[0].user, noted[0].family), (UserId(1), None), "{change:?}");
    }
    for change in [UserChange::Sign("s".to_owned()), UserChange::PushShield(true)] {
        store.change_user(UserId(2), change).await.unwrap();
    }
    assert!(store.family(FamilyId([200; 16])).await.unwrap().is_some(), "it is another user's");
    let taken = store.take_ticket(SecretHash([200; 32])).await.unwrap();
    assert_eq!(taken, Some(ticket(2, 200, LATE_S)), "it is another user's");
}

pub(crate) async fn one_family_ends_alone(store: &dyn Store) {
    for id in [1, 2] {
        user(store, id).await;
    }
    begin(store, row(1, 1)).await;
    begin(store, row(1, 2)).await;
    assert!(store.add_ticket(ticket(1, 1, LATE_S), None, 0).await.unwrap());
    store.revoke_tokens(UserId(2), Some(FamilyId([1; 16])), 0).await.unwrap();
    assert!(store.family(FamilyId([1; 16])).await.unwrap().is_some(), "of another user");

    store.revoke_tokens(UserId(1), Some(FamilyId([1; 16])), 0).await.unwrap();
    assert_eq!(store.family(FamilyId([1; 16])).await.unwrap(), None);
    assert_eq!(store.family(FamilyId([2; 16])).await.unwrap(), Some(row(1, 2)));
    assert!(store.take_ticket(SecretHash([1; 32])).await.unwrap().is_some());
    let noted = store.revocations_after(1, 10).await.unwrap();
    assert_eq!(noted[0].family, Some(FamilyId([1; 16])));
}

pub(crate) async fn revocations_come_by_number_and_are_forgotten_in_time(store: &dyn Store) {
    for id in 1..=3 {
        user(store, id).await;
        store.revoke_tokens(UserId(id), None, 0).await.unwrap();
    }
    let noted = |after, count| async move {
        let noted = store.revocations_after(after, count).await.unwrap();
        noted.into_iter().map(|noted| (noted.number, noted.user.0)).collect::<Vec<_>>()
    };
    assert_eq!(noted(0, 2).await, [(1, 1), (2, 2)]);
    assert_eq!(noted(2, 2).await, [(3, 3)]);
    // A time after all of them. The number goes on all the same.
    store.revoke_tokens(UserId(1), None, LATE_S).await.unwrap();
    store.revoke_tokens(UserId(2), None, 0).await.unwrap();
    assert!(noted(0, 10).await.iter().all(|(number, _user)| *number > 3));
    assert_eq!(noted(4, 10).await, [(5, 2)]);
}

pub(crate) async fn a_ticket_is_taken_once(store: &dyn Store) {
    user(store, 1).await;
    let kept = ticket(1, 7, LATE_S);
    begin(store, row(1, 1)).await;
    assert!(store.add_ticket(kept, Some(FamilyId([1; 16])), LATE_S - 1).await.unwrap());
    let taken = join_all((0..20).map(|_try| store.take_ticket(kept.hash))).await;
    let taken: Vec<_> = taken.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(taken, [kept]);
    assert_eq!(store.take_ticket(SecretHash([8; 32])).await.unwrap(), None);
}

pub(crate) async fn a_ticket_is_kept_only_for_a_family_that_has_not_ended(store: &dyn Store) {
    for id in [1, 2] {
        user(store, id).await;
    }
    begin(store, row(1, 1)).await;
    let family = Some(FamilyId([1; 16]));
    assert!(!store.add_ticket(ticket(2, 1, LATE_S), family, 0).await.unwrap(), "another user's");
    assert!(!store.add_ticket(ticket(1, 1, LATE_S), Some(FamilyId([2; 16])), 0).await.unwrap());
    store.revoke_tokens(UserId(1), family, 0).await.unwrap();
    assert!(!store.add_ticket(ticket(1, 1, LATE_S), family, 0).await.unwrap(), "it has ended");
    assert_eq!(store.take_ticket(SecretHash([1; 32])).await.unwrap(), None);
}

pub(crate) async fn tickets_that_have_ended_are_forgotten(store: &dyn Store) {
    user(store, 1).await;
    assert!(store.add_ticket(ticket(1, 1, 10), None, 0).await.unwrap());
    assert!(store.add_ticket(ticket(1, 2, 11), None, 0).await.unwrap());
    assert!(store.add_ticket(ticket(1, 3, 100), None, 11).await.unwrap());
    for (number, there) in [(1, false), (2, true), (3, true)] {
        let taken = store.take_ticket(SecretHash([number; 32])).await.unwrap();
        assert_eq!(taken.is_some(), there, "{number}");
    }
}

pub(crate) async fn of_many_that_have_expired_a_few_go_at_a_time(store: &dyn Store) {
    const FEW: u8 = 16;
    for id in 1..=3 {
        user(store, id).await;
    }
    // Those with the greater number expire later.
    for number in 1..=FEW + 4 {
        let expires_s = LATE_S + u64::from(number);
        let user = if number <= 10 { 1 } else { 2 };
        begin(store, FamilyRow { used_s: LATE_S, expires_s, ..row(user, number) }).await;
    }
    let left = async || {
        let mut left = Vec::new();
        for number in 1..=FEW + 4 {
            if store.family(FamilyId([number; 16])).await.unwrap().is_some() {
                left.push(number);
            }
        }
        left
    };
    let used_s = LATE_S + 10_000;
    begin(store, FamilyRow { used_s, expires_s: used_s + 1, ..row(3, 200) }).await;
    assert_eq!(left().await, [FEW + 1, FEW + 2, FEW + 3, FEW + 4]);
    begin(store, FamilyRow { used_s, expires_s: used_s + 1, ..row(3, 201) }).await;
    assert_eq!(left().await, [0; 0]);
}

pub(crate) async fn a_user_who_is_unknown_has_no_tokens_and_is_noted_all_the_same(
    store: &dyn Store,
) {
    assert_eq!(store.newest_revocation().await.unwrap(), 0);
    assert_eq!(store.revocations_after(0, 9).await.unwrap(), []);
    store.revoke_tokens(UserId(9), Some(FamilyId([1; 16])), 0).await.unwrap();
    let noted = store.revocations_after(0, 9).await.unwrap();
    assert_eq!((noted.len(), noted[0].number, noted[0].user), (1, 1, UserId(9)));
    assert_eq!(store.newest_revocation().await.unwrap(), 1);
    assert_eq!(store.revocations_after(0, 0).await.unwrap(), []);
    assert_eq!(store.revocations_after(1, 9).await.unwrap(), []);
    // A user who does not exist begins no family, whatever the stamp.
    let family = NewFamily { row: row(9, 2), stamp: 0 };
    assert!(!store.add_family(family).await.unwrap());
    assert!(store.add_ticket(ticket(9, 1, LATE_S), None, 0).await.unwrap(), "as an administrator");
}

pub(crate) async fn a_family_in_the_place_of_another_is_what_it_is_changed_to(store: &dyn Store) {
    user(store, 1).await;
    let (first, other) = (row(1, 1), row(1, 2));
    begin(store, first.clone()).await;
    begin(store, other.clone()).await;
    let next = Some(SecretHash([9; 32]));
    let full = FamilyRow {
        next,
        replaced: vec![SecretHash([7; 32]); REPLACED_MAX],
        current: SecretHash([8; 32]),
        used_s: LATE_S + 50,
        expires_s: LATE_S + 60,
        ..first.clone()
    };
    assert!(store.change_family(first.clone(), full.clone()).await.unwrap());
    assert_eq!(store.family(first.id).await.unwrap(), Some(full.clone()));
    assert_eq!(store.family(other.id).await.unwrap(), Some(other), "the other stays");
    // Of what is compared, each part must be as it was.
    let wrong = FamilyRow { current: SecretHash([1; 32]), ..full.clone() };
    assert!(!store.change_family(wrong, first.clone()).await.unwrap());
    let wrong = FamilyRow { next: Some(SecretHash([1; 32])), ..full.clone() };
    assert!(!store.change_family(wrong, first.clone()).await.unwrap());
    assert!(store.change_family(full, first.clone()).await.unwrap());
    assert_eq!(store.family(first.id).await.unwrap(), Some(first), "nothing is left of it");
}
