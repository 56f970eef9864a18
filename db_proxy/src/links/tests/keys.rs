//! Keys for the HTTP API, and why requests of administrators are not carried out.

use proto::api_key::{ApiKey, Scope};
use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{
    AdminAnswer, AdminError, ApiKeyCreate, ApiKeyFind, ApiKeyLine, ApiKeyList, ApiKeyRevoke,
    GroupDelete, UserAdd, UserFind, UserKick,
};
use store::keys::KeyStore;

use super::*;
use crate::admin::keys::{KEYS_MAX, LIFETIME_MAX};

fn create(name: &str, scopes: &[&str]) -> ApiKeyCreate {
    let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    ApiKeyCreate { name: name.to_owned(), scopes, rate: Some(5), lifetime_s: None }
}

/// A key is looked for to which this secret was shown.
fn find(id: [u8; 8], secret: &[u8]) -> What {
    let shown = ring::digest::digest(&ring::digest::SHA256, secret).as_ref().to_vec();
    What::ApiKeyFind(ApiKeyFind { id: id.to_vec().into(), shown: Some(shown.into()) })
}

async fn code(server: &Server, what: What) -> AdminError {
    let answer = server.try_administer(what).await;
    assert!(!answer.done && answer.error.is_some(), "{answer:?}");
    answer.error_code()
}

impl Server {
    async fn listed(&self) -> Vec<ApiKeyLine> {
        self.administer(What::ApiKeyList(ApiKeyList {})).await.api_keys
    }
}

#[tokio::test]
async fn a_key_is_told_once_and_found_by_its_id_with_the_hash_of_its_secret() {
    let server = Server::start().await;
    let wanted = ApiKeyCreate { lifetime_s: Some(60), ..create("hr", &["read", "users"]) };
    let made = server.administer(What::ApiKeyCreate(wanted)).await;
    let key = ApiKey::parse(made.api_key.as_deref().unwrap()).unwrap();
    let listed = server.listed().await;
    let [line] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((line.name.as_str(), &line.id[..], line.rate), ("hr", &key.id[..], Some(5)));
    assert_eq!(line.scopes, ["read", "users"]);
    assert_eq!((line.expires - line.made, line.used), (60, 0));
    assert_eq!(line.hash, None, "a list has no hashes");

    let found = server.administer(find(key.id, b"a guess")).await;
    let secret = ring::digest::digest(&ring::digest::SHA256, &key.secret);
    assert_eq!(found.api_keys[0].hash.as_deref(), Some(secret.as_ref()));
    assert_eq!(server.listed().await[0].used, 0, "a wrong secret is no use of the key");
    server.administer(find(key.id, &key.secret)).await;
    let used = server.listed().await[0].used;
    assert!(used >= line.made, "{used}");
    // Within a minute it is not noted again.
    server.proxy.store.use_key(store::keys::ApiKeyId(key.id), used + 30).await.unwrap();
    server.administer(find(key.id, &key.secret)).await;
    assert_eq!(server.listed().await[0].used, used + 30);
    server.stop().await;
}

#[tokio::test]
async fn a_key_that_is_revoked_is_unknown_and_its_name_is_free() {
    let server = Server::start().await;
    let revoke = || What::ApiKeyRevoke(ApiKeyRevoke { name: "hr".to_owned() });
    assert_eq!(code(&server, revoke()).await, AdminError::NotFound);
    let made = server.administer(What::ApiKeyCreate(create("hr", &["send"]))).await;
    let key = ApiKey::parse(made.api_key.as_deref().unwrap()).unwrap();
    server.administer(revoke()).await;
    assert_eq!(code(&server, find(key.id, &key.secret)).await, AdminError::NotFound);
    assert_eq!(server.listed().await, []);
    let again = server.administer(What::ApiKeyCreate(create("hr", &["send"]))).await;
    assert_ne!(again.api_key, made.api_key);
    server.stop().await;
}

#[tokio::test]
async fn keys_that_cannot_be_are_refused() {
    let server = Server::start().await;
    server.administer(What::ApiKeyCreate(create("hr", &["read"]))).await;
    let refused = async |create| code(&server, What::ApiKeyCreate(create)).await;
    assert_eq!(refused(create("hr", &["read"])).await, AdminError::Taken);
    let longest = LIFETIME_MAX.as_secs();
    let lasts = ApiKeyCreate { lifetime_s: Some(longest), ..create("old", &["read"]) };
    server.administer(What::ApiKeyCreate(lasts)).await;
    for wrong in [
        create("", &["read"]),
        create("h r", &["read"]),
        create("ci", &[]),
        create("ci", &["everything"]),
        ApiKeyCreate { lifetime_s: Some(longest + 1), ..create("ci", &["read"]) },
    ] {
        assert_eq!(refused(wrong.clone()).await, AdminError::Invalid, "{wrong:?}");
    }
    let known = server.refused(What::ApiKeyCreate(create("ci", &["all"]))).await;
    assert!(Scope::ALL.iter().all(|scope| known.contains(scope.name())), "{known}");
    for id in [vec![], vec![1; 7], vec![1; 9]] {
        let find = What::ApiKeyFind(ApiKeyFind { id: id.into(), shown: None });
        assert_eq!(code(&server, find).await, AdminError::NotFound);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_site_has_so_many_keys() {
    let server = Server::start().await;
    for number in 1..KEYS_MAX as u64 {
        let row = store::keys::ApiKeyRow {
            id: store::keys::ApiKeyId(number.to_be_bytes()),
            name: format!("key-{number}"),
            hash: store::tokens::SecretHash([0; 32]),
            scopes: 1,
            rate: 0,
            made_s: 1,
            expires_s: 0,
            used_s: 0,
        };
        assert!(server.proxy.store.add_key(row).await.unwrap());
    }
    server.administer(What::ApiKeyCreate(create("last", &["read"]))).await;
    let more = What::ApiKeyCreate(create("more", &["read"]));
    assert_eq!(code(&server, more).await, AdminError::Invalid);
    server.stop().await;
}

#[tokio::test]
async fn a_user_is_found_by_number_or_by_name() {
    let server = Server::start().await;
    let name = || Some("anna".to_owned());
    let password = "a long password".to_owned();
    let add = UserAdd { name: "anna".to_owned(), password, nick: None, department: Some(3) };
    let id = server.administer(What::UserAdd(add)).await.id;
    for find in [UserFind { id, name: None }, UserFind { id: None, name: name() }] {
        let found = server.administer(What::UserFind(find)).await.users;
        let [user] = &found[..] else { panic!("{found:?}") };
        assert_eq!((Some(user.id), user.name.as_str(), user.department), (id, "anna", 3));
    }
    for (find, expected) in [
        (UserFind { id: Some(4_000_000), name: None }, AdminError::NotFound),
        (UserFind { id: None, name: Some("Anna".to_owned()) }, AdminError::NotFound),
        (UserFind { id, name: name() }, AdminError::Invalid),
        (UserFind::default(), AdminError::Invalid),
    ] {
        assert_eq!(code(&server, What::UserFind(find)).await, expected);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_program_is_told_by_a_number_why_nothing_was_done() {
    let server = Server::start().await;
    let nobody = UserKick { name: "nobody".to_owned() };
    assert_eq!(code(&server, What::UserKick(nobody)).await, AdminError::NotFound);
    let none = GroupDelete { group: 4_000 };
    assert_eq!(code(&server, What::GroupDelete(none)).await, AdminError::NotFound);
    let bad = UserAdd { name: " anna".to_owned(), ..UserAdd::default() };
    assert_eq!(code(&server, What::UserAdd(bad)).await, AdminError::Invalid);
    let unknown = server.try_administer_raw(None).await;
    assert_eq!(unknown.error_code(), AdminError::Invalid);
    server.stop().await;
}

impl Server {
    async fn try_administer_raw(&self, what: Option<What>) -> AdminAnswer {
        let (_far, admin) = self.admin().await;
        let request = AdminRequest { what, by: Some("hr".to_owned()) };
        admin.call(Kind::Admin.number(), &request, PATIENCE).await.unwrap()
    }
}
