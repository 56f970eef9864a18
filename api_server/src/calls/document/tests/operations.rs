//! What each call is, in the order of the document.

use super::made::{EventKind, Operation};
use crate::calls::groups::{Change, Group, Made, NewGroup};
use crate::calls::messages::{self, AllUnread, Answered, Outgoing, Said};
use crate::calls::users::{self, NewPassword, NewTicket, NewUser, Sessions, Ticket, User};
use crate::calls::webhooks::{self, Failure, MadeSecret, NewSecret, NewWebhook, Replay, Webhook};
use crate::paging::{self, Page};
use crate::webhooks::{GapData, GroupData, MembersData, MessageData};

/// All calls.
pub(super) fn all() -> Vec<Operation> {
    [users(), sessions(), groups(), messages(), webhooks()].concat()
}

fn users() -> Vec<Operation> {
    vec![
        Operation::new("get", "/v1/users", "read", "List users")
            .says("All users, by name, page by page; or the one of a name.")
            .query::<users::Wanted>()
            .answers_page::<User>("PageOfUsers", "A page of users."),
        Operation::new("post", "/v1/users", "users", "Make a user")
            .body::<NewUser>()
            .answers::<User>(201, "User", "The user.")
            .problem(409, "taken", "The name is taken."),
        Operation::new("get", "/v1/users/{user}", "read", "Show a user").answers::<User>(
            200,
            "User",
            "The user.",
        ),
        Operation::new("put", "/v1/users/{user}/password", "users", "Set a password")
            .says("The user's sessions end.")
            .body::<NewPassword>()
            .done(),
        Operation::new("put", "/v1/users/{user}/disabled", "users", "Disable a user")
            .says("The user's sessions end, and logins are refused.")
            .done(),
        Operation::new("delete", "/v1/users/{user}/disabled", "users", "Enable a user").done(),
    ]
}

fn sessions() -> Vec<Operation> {
    vec![
        Operation::new("get", "/v1/users/{user}/sessions", "read", "List a user's sessions")
            .answers::<Sessions>(200, "Sessions", "The sessions."),
        Operation::new("delete", "/v1/users/{user}/sessions", "users", "End a user's sessions")
            .says("Clients cannot come back by themselves: their tokens end, too.")
            .done(),
        Operation::new("post", "/v1/users/{user}/tickets", "users", "Make a ticket")
            .says("A ticket logs in once, in place of the password.")
            .body::<NewTicket>()
            .answers::<Ticket>(201, "Ticket", "The ticket."),
    ]
}

fn groups() -> Vec<Operation> {
    vec![
        Operation::new("get", "/v1/groups", "read", "List groups")
            .says("All groups, by number. One that was just made may be missing for a moment.")
            .query::<paging::Wanted>()
            .answers_page::<Group>("PageOfGroups", "A page of groups."),
        Operation::new("post", "/v1/groups", "groups", "Make a group")
            .body::<NewGroup>()
            .answers::<Made>(201, "MadeGroup", "The number of the group.")
            .problem(404, "not_found", "One of the users does not exist."),
        Operation::new("delete", "/v1/groups/{group}", "groups", "Delete a group")
            .says("All members leave, for good.")
            .done(),
        Operation::new("get", "/v1/groups/{group}/members", "read", "List a group's members")
            .query::<paging::Wanted>()
            .answers::<Page<u32>>(200, "PageOfNumbers", "A page of numbers of users."),
        Operation::new("post", "/v1/groups/{group}/members", "groups", "Change a group's members")
            .says("Members stay members, and others stay others: it may be sent again.")
            .body::<Change>()
            .done(),
    ]
}

fn messages() -> Vec<Operation> {
    vec![
        Operation::new("get", "/v1/users/{user}/messages", "read", "Read a history")
            .says("What a user sees of a conversation, the newest first. Give one of `with_user` and `in_group`.")
            .query::<messages::Wanted>()
            .answers_page::<Said>("PageOfMessages", "A page of messages."),
        Operation::new("get", "/v1/users/{user}/unread", "read", "Count unread messages")
            .answers::<AllUnread>(200, "AllUnread", "The counts."),
        Operation::new("post", "/v1/messages", "send", "Send a message")
            .says(
                "Answered when the message is durable. With an `Idempotency-Key` the request may be sent again, at \
                 any time and to any server: the message is stored once, and answered with its number.",
            )
            .named()
            .body::<Outgoing>()
            .answers::<Answered>(200, "Sent", "What became of the message to each user of a list.")
            .answers::<Answered>(201, "Sent", "The message is stored.")
            .problem(403, "not_member", "The sender is not a member.")
            .problem(403, "blocked", "The recipient does not hear the sender.")
            .problem(403, "muted", "The sender may not write there now.")
            .problem(403, "refused", "The message was refused.")
            .problem(403, "refused_by_hook", "A hook of the site refused it: `detail` is its reason.")
            .problem(404, "not_found", "The sender, the recipient or the group does not exist.")
            .problem(409, "full", "The conversation has used up its numbers.")
            .problem(422, "idempotency_key_reused", "The name was used for another message."),
    ]
}

fn webhooks() -> Vec<Operation> {
    let of_one = |method, path, summary| {
        let operation = Operation::new(method, path, "admin", summary);
        operation.problem(404, "not_found", "There is no such webhook.")
    };
    vec![
        Operation::new("get", "/v1/webhooks", "admin", "List webhooks")
            .says("All webhooks, by number, on one page.")
            .answers_page::<Webhook>("PageOfWebhooks", "All webhooks."),
        Operation::new("post", "/v1/webhooks", "admin", "Make a webhook")
            .says("Its secret is told once. What happens from now on is sent.")
            .body::<NewWebhook>()
            .answers::<webhooks::Made>(201, "MadeWebhook", "The webhook and its secret.")
            .problem(409, "taken", "The name is taken."),
        of_one("get", "/v1/webhooks/{webhook}", "Show a webhook").answers::<Webhook>(
            200,
            "Webhook",
            "The webhook.",
        ),
        of_one("delete", "/v1/webhooks/{webhook}", "Remove a webhook").done(),
        of_one("put", "/v1/webhooks/{webhook}/disabled", "Disable a webhook")
            .says("Nothing is sent until it is enabled. Its place in the log stays.")
            .done(),
        of_one("delete", "/v1/webhooks/{webhook}/disabled", "Enable a webhook")
            .says("It goes on from there, also if the endpoint was gone.")
            .done(),
        of_one("post", "/v1/webhooks/{webhook}/secrets", "Change a webhook's secret")
            .body::<NewSecret>()
            .answers::<MadeSecret>(201, "MadeSecret", "The new secret: it is told once."),
        of_one("get", "/v1/webhooks/{webhook}/failures", "List a webhook's failures")
            .says("Events that were given up, the last first.")
            .query::<paging::Wanted>()
            .answers_page::<Failure>("PageOfFailures", "A page of events."),
        of_one("post", "/v1/webhooks/{webhook}/replays", "Replay a webhook")
            .says("What happened since then is sent again, as far as the log reaches back.")
            .body::<Replay>()
            .done(),
    ]
}

/// All events that endpoints of webhooks are sent.
pub(super) fn events() -> Vec<EventKind> {
    vec![
        EventKind::of::<MessageData>(
            "message.created",
            "MessageCreated",
            "Somebody said something.",
        ),
        EventKind::of::<GroupData>("group.created", "GroupCreated", "A group was made."),
        EventKind::of::<MembersData>(
            "members.changed",
            "MembersChanged",
            "Users joined or left a group, or it was deleted.",
        ),
        EventKind::of::<GapData>(
            "gap",
            "Gap",
            "Records of the log were lost to the webhook, because it was behind for too long.",
        ),
    ]
}
