//! Keys of programs that use the HTTP API.

use super::*;
use crate::keys::{ApiKeyId, ApiKeyRow};
use crate::tokens::SecretHash;

fn key(number: u8, name: &str) -> ApiKeyRow {
    ApiKeyRow {
        id: ApiKeyId([number; 8]),
        name: name.to_owned(),
        hash: SecretHash([number; 32]),
        scopes: 5,
        rate: 20,
        made_s: 1_000,
        expires_s: 2_000,
        used_s: 0,
    }
}

async fn names(store: &dyn Store) -> Vec<String> {
    store.keys().await.unwrap().into_iter().map(|key| key.name).collect()
}

pub(crate) async fn a_key_comes_back_as_it_was_kept(store: &dyn Store) {
    let greatest = ApiKeyRow {
        scopes: u32::MAX,
        rate: u32::MAX,
        made_s: u64::MAX >> 1,
        expires_s: u64::MAX >> 1,
        used_s: u64::MAX >> 1,
        ..key(255, &"x".repeat(64))
    };
    let least = ApiKeyRow { scopes: 0, rate: 0, made_s: 0, expires_s: 0, ..key(0, "0") };
    for key in [greatest, least] {
        assert_eq!(store.key(key.id).await.unwrap(), None);
        assert!(store.add_key(key.clone()).await.unwrap());
        assert_eq!(store.key(key.id).await.unwrap(), Some(key));
    }
}

pub(crate) async fn of_two_keys_with_one_name_or_one_id_the_first_stays(store: &dyn Store) {
    assert!(store.add_key(key(1, "hr")).await.unwrap());
    assert!(!store.add_key(key(2, "hr")).await.unwrap(), "its name is taken");
    let with_its_id = ApiKeyRow { hash: SecretHash([9; 32]), ..key(1, "ci") };
    assert!(!store.add_key(with_its_id).await.unwrap(), "its id is taken");
    assert_eq!(store.keys().await.unwrap(), [key(1, "hr")]);
}

pub(crate) async fn keys_come_by_name_as_its_bytes_are(store: &dyn Store) {
    assert_eq!(names(store).await, [""; 0]);
    for (number, name) in (1..).zip(["hr", "HR", "ci.2", "ci-1"]) {
        assert!(store.add_key(key(number, name)).await.unwrap(), "{name}");
    }
    assert_eq!(names(store).await, ["HR", "ci-1", "ci.2", "hr"]);
}

pub(crate) async fn the_latest_use_of_a_key_is_noted(store: &dyn Store) {
    assert!(store.add_key(key(1, "hr")).await.unwrap());
    assert!(store.add_key(key(2, "ci")).await.unwrap());
    for used_s in [1_500, 1_700, 1_600] {
        store.use_key(ApiKeyId([1; 8]), used_s).await.unwrap();
    }
    store.use_key(ApiKeyId([3; 8]), 1_800).await.unwrap();
    let used = store.keys().await.unwrap().into_iter().map(|key| key.used_s);
    assert_eq!(used.collect::<Vec<_>>(), [0, 1_700], "another key is as it was");
}

pub(crate) async fn a_key_that_is_forgotten_is_gone_and_its_name_is_free(store: &dyn Store) {
    assert!(!store.forget_key("hr".to_owned()).await.unwrap());
    assert!(store.add_key(key(1, "hr")).await.unwrap());
    assert!(!store.forget_key("HR".to_owned()).await.unwrap(), "another name");
    assert!(store.forget_key("hr".to_owned()).await.unwrap());
    assert_eq!(store.key(ApiKeyId([1; 8])).await.unwrap(), None);
    assert!(store.add_key(key(2, "hr")).await.unwrap());
}
