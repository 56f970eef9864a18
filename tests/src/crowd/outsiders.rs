//! People who enter a group and leave it while others talk there.

use std::sync::Arc;
use std::time::Duration;

use client::{CallError, Client};
use proto::client::GroupChange;
use proto::ids::{GroupId, UserId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::shared::{LIBRARY, Shared, Stage};
use crate::history::{Change, Conv, Progress, What};
use crate::{PATIENCE, Random};

/// Between two changes.
const PAUSE: Duration = Duration::from_millis(300);
/// Before something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// Makes the group; its first member is the one whose client this is.
pub(super) async fn make_group(client: &Client, people: u32) -> GroupId {
    let members: Vec<UserId> = (1..=people).map(UserId).collect();
    let began = Instant::now();
    loop {
        match client.create_group("comings and goings", &members).await {
            Ok(group) => return group,
            Err(error) => assert!(began.elapsed() < PATIENCE, "a group is made: {error}"),
        }
        sleep(AGAIN).await;
    }
}

/// Adds and removes them one at a time, by random choice.
pub(super) async fn come_and_go(
    client: Client,
    shared: Arc<Shared>,
    (group, outsiders): (GroupId, Vec<u32>),
    stage: watch::Receiver<Stage>,
) {
    let mut random = Random::from_seed(outsiders.len() as u64);
    let mut members = vec![false; outsiders.len()];
    while *stage.borrow() == Stage::Talking {
        let which = random.index(outsiders.len());
        let change = if members[which] { Change::Remove } else { Change::Add };
        let changer = Changer { client: &client, shared: &shared, group, user: outsiders[which] };
        if !changer.change(change).await {
            return;
        }
        members[which] = !members[which];
        sleep(PAUSE).await;
    }
}

struct Changer<'a> {
    client: &'a Client,
    shared: &'a Shared,
    group: GroupId,
    user: u32,
}

impl Changer<'_> {
    /// Asks until there is an answer. Returns whether it goes on.
    async fn change(&self, change: Change) -> bool {
        if change == Change::Remove {
            self.shared.state().members.remove(&self.user);
        }
        self.record(change, Progress::Invoke);
        let wanted = match change {
            Change::Add => GroupChange::Add,
            Change::Remove => GroupChange::Remove,
        };
        let mut is_certain = true;
        loop {
            match self.client.change_group(self.group, wanted, &[UserId(self.user)]).await {
                Ok(_members) => {
                    let at = self.record(change, Progress::Ok);
                    if change == Change::Add {
                        self.shared.state().members.insert(self.user, at);
                    }
                    return true;
                }
                Err(CallError::Ended) => return false,
                Err(CallError::Failed(code)) if is_certain => {
                    self.record(change, Progress::Info);
                    let user = self.user;
                    self.shared.complain(format!("{change:?} of u{user} failed with {code}"));
                    return true;
                }
                // An earlier attempt may have succeeded.
                Err(CallError::Failed(_)) => {
                    self.record(change, Progress::Info);
                    return true;
                }
                Err(_error) => is_certain = false,
            }
            sleep(AGAIN).await;
        }
    }

    fn record(&self, change: Change, phase: Progress) -> u64 {
        let (conv, user) = (Conv::group(self.group.0), self.user);
        self.shared.recorder.record(What::Change {
            conv,
            user,
            change,
            phase,
            by: Some((1, LIBRARY)),
        })
    }
}
