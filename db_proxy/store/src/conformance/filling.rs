//! Something in the tables of logins and consumers, for the tests that damage it.

use super::{consumers, tokens};
use crate::Store;

/// User 1, a family of their tokens, and a consumer at the beginning of the log.
pub(crate) async fn fill_logins(store: &dyn Store, epoch: u64) {
    tokens::user(store, 1).await;
    assert!(tokens::begin(store, tokens::row(1, 1)).await);
    let at = consumers::at(0, epoch);
    assert!(store.move_consumer(epoch, "push".to_owned(), None, at).await.unwrap());
}
