//! What each call is, in the order of the document.

use super::made::Operation;
use crate::calls::groups::{self, Change, Group, Made, NewGroup};
use crate::calls::messages::{self, AllUnread, Answered, Outgoing, Said};
use crate::calls::users::{self, NewPassword, NewTicket, NewUser, Sessions, Ticket, User};
use crate::paging::Page;

/// All calls.
pub(super) fn all() -> Vec<Operation> {
    [users(), sessions(), groups(), messages()].concat()
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
            .query::<groups::Wanted>()
            .answers_page::<Group>("PageOfGroups", "A page of groups."),
        Operation::new("post", "/v1/groups", "groups", "Make a group")
            .body::<NewGroup>()
            .answers::<Made>(201, "MadeGroup", "The number of the group.")
            .problem(404, "not_found", "One of the users does not exist."),
        Operation::new("delete", "/v1/groups/{group}", "groups", "Delete a group")
            .says("All members leave, for good.")
            .done(),
        Operation::new("get", "/v1/groups/{group}/members", "read", "List a group's members")
            .query::<groups::Wanted>()
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
            .problem(404, "not_found", "The sender, the recipient or the group does not exist.")
            .problem(409, "full", "The conversation has used up its numbers.")
            .problem(422, "idempotency_key_reused", "The name was used for another message."),
    ]
}
