//! What the log says of the changes that administrators and API keys make.

use proto::cluster::wire::admin_request::What;
use proto::cluster::wire::{AdminAnswer, AdminError};
use tracing::info;

/// A change that is asked for: who asks, what is done, and to what.
#[derive(Debug)]
pub(super) struct Change {
    by: String,
    what: &'static str,
    to: String,
}

impl Change {
    /// `None` if nothing is to be changed.
    pub(super) fn of(by: Option<&str>, what: Option<&What>) -> Option<Self> {
        let (what, to) = match what? {
            What::UserAdd(add) => ("user added", add.name.clone()),
            What::UserPassword(password) => ("password changed", password.name.clone()),
            What::UserDisable(disable) if disable.enable() => {
                ("user enabled", disable.name.clone())
            }
            What::UserDisable(disable) => ("user disabled", disable.name.clone()),
            What::UserUnlock(unlock) => ("delays lifted", unlock.name.clone()),
            What::UserKick(kick) => ("sessions ended", kick.name.clone()),
            What::UserTicket(ticket) => ("ticket made", ticket.name.clone()),
            What::GroupCreate(create) => ("group created", create.name.clone()),
            What::GroupChange(change) => ("members changed", format!("group {}", change.group)),
            What::GroupDelete(delete) => ("group deleted", format!("group {}", delete.group)),
            What::DemoUsers(demo) => ("demonstration made", format!("{} users", demo.count)),
            What::ConsumerForget(forget) => ("consumer forgotten", forget.name.clone()),
            What::ApiKeyCreate(create) => ("API key created", create.name.clone()),
            What::ApiKeyRevoke(revoke) => ("API key revoked", revoke.name.clone()),
            What::WebhookAdd(add) => ("webhook added", add.name().to_owned()),
            What::WebhookRemove(remove) => ("webhook removed", webhook(remove.webhook)),
            What::WebhookSwitch(switch) if switch.on => ("webhook on", webhook(switch.webhook)),
            What::WebhookSwitch(switch) => ("webhook off", webhook(switch.webhook)),
            What::WebhookRotate(rotate) => ("webhook secret changed", webhook(rotate.webhook)),
            What::WebhookReplay(replay) => ("webhook replayed", webhook(replay.webhook)),
            What::WebhookGone(gone) => ("webhook gone", webhook(gone.webhook)),
            What::UserList(_)
            | What::UserFind(_)
            | What::UserSessions(_)
            | What::GroupList(_)
            | What::GroupMembers(_)
            | What::ConsumerList(_)
            | What::ApiKeyList(_)
            | What::ApiKeyFind(_)
            | What::WebhookList(_)
            | What::WebhookFailures(_)
            // The api_server that gives an event up says so in its own log.
            | What::WebhookGaveUp(_) => return None,
        };
        let by = by.map_or_else(|| "talkhub admin".to_owned(), |key| format!("API key {key}"));
        Some(Self { by, what, to })
    }

    /// Says what became of it.
    pub(super) fn log(&self, answer: &AdminAnswer) {
        let Self { by, what, to } = self;
        let refused = (!answer.done).then(|| answer.error_code());
        // It is asked of another db_proxy, which will say.
        if answer.not_here() {
            return;
        }
        match refused {
            None => info!(by, to, id = answer.id, "{what}"),
            Some(why) => info!(by, to, why = name(why), "refused: {what}"),
        }
    }
}

fn webhook(number: u32) -> String {
    format!("webhook {number}")
}

const fn name(why: AdminError) -> &'static str {
    match why {
        AdminError::Invalid => "not allowed",
        AdminError::NotFound => "not found",
        AdminError::Taken => "taken",
        AdminError::NotNow => "not now",
        AdminError::Other => "other",
    }
}
