//! What every store must do, whichever database is behind it.
//!
//! Each check gets an empty store. [`suite`] makes one test of each for one kind of store.

use bytes::Bytes;
use proto::ids::{ClientMsgId, ConversationId, GroupId, MsgId, Offset, UserId};
use proto::record::LogId;

use super::{
    Batch, ConversationRow, GroupRow, MarkRow, MemberRow, MessageRow, NewUser, Store, StoreError,
};

pub(super) mod batches;
pub(super) mod consumers;
pub(super) mod exactness;
pub(super) mod filling;
pub(super) mod history;
pub(super) mod keys;
pub(super) mod lists;
pub(super) mod people;
pub(super) mod tokens;
pub(super) mod webhooks;

/// Makes a test of each check. `$fresh` is an async function whose result has a method
/// `store(&self) -> &dyn Store`; the store is empty, and goes when the result is dropped.
macro_rules! suite {
    ($fresh:path) => {
        crate::conformance::suite! { $fresh; batches:
            the_first_owner_begins_before_the_first_record,
            each_owner_gets_the_next_epoch_and_the_progress_of_the_last,
            another_log_is_refused_and_changes_nothing,
            a_batch_becomes_visible_with_its_progress,
            a_batch_of_an_older_epoch_is_fenced_and_leaves_nothing,
            a_batch_that_does_not_continue_the_last_is_fenced_and_leaves_nothing,
            a_batch_without_an_owner_is_fenced,
            a_batch_written_again_is_fenced,
            a_batch_may_hold_nothing_but_progress,
            unreadable_records_are_taken,
            what_was_applied_is_flushed_when_asked_for,
            both_sides_write_and_read_at_the_same_time,
            a_batch_that_is_fenced_leaves_nothing_of_any_table,
            a_batch_of_many_rows_is_written_whole,
        }
        crate::conformance::suite! { $fresh; history:
            a_page_is_newest_first_and_within_its_range,
            messages_are_found_by_their_places,
            a_message_is_found_by_its_senders_id,
            of_two_messages_with_one_id_the_first_is_found,
            a_changed_message_is_found_with_the_checksum_of_what_was_sent,
            own_messages_are_counted_within_the_range,
            a_conversation_is_read_whole,
            an_unknown_conversation_is_empty_and_has_the_epoch,
            two_users_exist_only_if_both_do,
            a_group_has_no_two_users,
            many_messages_are_found_by_their_places,
            a_place_that_is_asked_for_twice_is_no_harm,
        }
        crate::conformance::suite! { $fresh; lists:
            both_users_of_a_conversation_have_it_in_their_lists,
            a_conversation_without_a_message_is_in_no_list,
            a_group_is_in_the_lists_of_members_past_and_present,
            groups_are_counted_that_users_are_in_now,
            a_deleted_group_stays_and_is_in_no_list_of_groups,
            a_list_has_the_users_own_marks,
            lists_that_are_asked_for_together_are_those_of_each_user,
            user_zero_has_no_conversations,
            members_marks_and_conversations_keep_their_last_state,
            groups_come_by_number_with_their_present_members,
            groups_of_many_users_are_counted,
            a_member_who_is_back_is_counted_again,
        }
        crate::conformance::suite! { $fresh; people:
            a_user_is_found_by_exact_name_and_by_number,
            users_without_a_number_get_the_next_one,
            a_taken_name_refuses_all,
            a_taken_number_refuses_all,
            existing_names_are_skipped_when_asked_for,
            users_come_by_name_in_pages,
            every_change_raises_the_stamp,
            a_change_is_kept,
            a_change_of_an_unknown_user_is_an_error,
            a_hash_made_anew_replaces_only_the_one_it_was_made_of,
            few_users_share_a_stamp,
            users_come_by_stamp_and_number,
            there_is_one_department_to_begin_with,
            device_tokens_are_taken_and_forgotten,
            a_group_number_is_given_out_once,
            a_chosen_group_number_is_given_out_once,
            numbers_that_are_taken_in_a_row_are_passed_over,
            many_users_come_in_the_order_asked_for,
            what_is_taken_is_found_among_many,
            a_page_of_users_ends_in_the_middle_of_a_stamp,
            no_users_are_made_of_none,
        }
        crate::conformance::suite! { $fresh; tokens:
            a_family_is_kept_as_it_is,
            a_family_begins_only_while_the_users_row_is_as_it_was_checked,
            a_family_changes_only_from_what_it_is,
            of_too_many_families_the_one_used_longest_ago_ends,
            families_that_have_expired_go_when_another_begins,
            of_many_that_have_expired_a_few_go_at_a_time,
            a_user_who_is_unknown_has_no_tokens_and_is_noted_all_the_same,
            a_family_in_the_place_of_another_is_what_it_is_changed_to,
            what_ends_a_users_logins_ends_all_tokens_and_tickets,
            one_family_ends_alone,
            revocations_come_by_number_and_are_forgotten_in_time,
            a_ticket_is_taken_once,
            a_ticket_is_kept_only_for_a_family_that_has_not_ended,
            tickets_that_have_ended_are_forgotten,
        }
        crate::conformance::suite! { $fresh; keys:
            a_key_comes_back_as_it_was_kept,
            of_two_keys_with_one_name_or_one_id_the_first_stays,
            keys_come_by_name_as_its_bytes_are,
            the_latest_use_of_a_key_is_noted,
            a_key_that_is_forgotten_is_gone_and_its_name_is_free,
        }
        crate::conformance::suite! { $fresh; webhooks:
            a_webhook_comes_back_as_it_was_kept,
            a_number_is_given_once_and_a_name_to_one_webhook,
            a_webhook_is_changed_by_those_who_know_its_version,
            what_is_given_up_is_listed_once_and_the_oldest_go_first,
            what_is_given_up_goes_with_its_webhook,
        }
        crate::conformance::suite! { $fresh; consumers:
            a_consumer_is_made_once_and_moves_from_where_it_is,
            an_owner_that_was_replaced_moves_no_consumer,
            a_consumer_that_is_forgotten_may_be_made_again,
            records_that_became_messages_have_their_numbers,
            consumers_come_by_name_and_each_has_its_own_place,
            a_consumer_may_move_anywhere_from_where_it_is,
        }
        crate::conformance::suite! { $fresh; exactness:
            every_text_of_a_user_comes_back_as_it_was,
            every_text_of_a_group_comes_back_as_it_was,
            every_body_comes_back_as_it_was,
            the_greatest_numbers_come_back_as_they_were,
        }
    };
    ($fresh:path; $module:ident: $($check:ident,)*) => {
        $(
            #[tokio::test]
            async fn $check() {
                let fresh = $fresh().await;
                crate::conformance::$module::$check(fresh.store()).await;
            }
        )*
    };
}
pub(super) use suite;

/// The log that the checks' batches come from.
const LOG: LogId = LogId([7; 16]);

/// An owner of the partition that writes one batch after the other.
struct Owner<'a> {
    store: &'a dyn Store,
    epoch: u64,
    applied: Offset,
}

impl<'a> Owner<'a> {
    async fn of(store: &'a dyn Store) -> Self {
        let progress = store.claim("owner".to_owned(), LOG).await.unwrap();
        Self { store, epoch: progress.epoch, applied: progress.applied }
    }

    /// Writes a batch of one more record.
    async fn write(&mut self, batch: Batch) {
        self.try_write(batch).await.unwrap();
        self.applied = self.applied.next();
    }

    async fn try_write(&self, batch: Batch) -> Result<(), StoreError> {
        let batch = Batch { applied: self.applied.next(), ..batch };
        self.store.commit(self.epoch, self.applied, batch).await
    }
}

/// The conversation of two users.
fn single(one: u32, other: u32) -> ConversationId {
    ConversationId::single(UserId(one), UserId(other)).unwrap()
}

/// The conversation of a group.
fn group(number: u32) -> ConversationId {
    ConversationId::group(GroupId(number)).unwrap()
}

/// A message that differs from every other in each of its fields.
fn message(conversation: ConversationId, msg_id: u32, sender: u32) -> MessageRow {
    let mut client_msg_id = [0; 16];
    client_msg_id[..8].copy_from_slice(&conversation.number().to_be_bytes());
    client_msg_id[12..].copy_from_slice(&msg_id.to_be_bytes());
    MessageRow {
        conversation,
        msg_id: MsgId(msg_id),
        sender: UserId(sender),
        client_msg_id: ClientMsgId(client_msg_id),
        offset: Offset(u64::from(msg_id) + 1_000),
        timestamp_ms: u64::from(msg_id) + 1_800_000_000_000,
        kind: msg_id % 2 + 1,
        body: Bytes::from(format!("message {msg_id} of {conversation}")),
    }
}

/// Messages `1..=head` of a conversation of two users, by turns of both, and its row.
fn talk(one: u32, other: u32, head: u32) -> Batch {
    let conversation = single(one, other);
    let sender = |msg_id| if msg_id % 2 == 1 { one } else { other };
    Batch {
        messages: (1..=head).map(|id| message(conversation, id, sender(id))).collect(),
        conversations: vec![row(conversation, head)],
        ..Batch::default()
    }
}

/// A conversation's row; a group's has a group's columns.
fn row(id: ConversationId, head: u32) -> ConversationRow {
    ConversationRow {
        id,
        head: MsgId(head),
        last_offset: Offset(u64::from(head) + 1_000),
        last_message_ms: if head == 0 { 0 } else { u64::from(head) + 1_800_000_000_000 },
        group: id.as_group().map(|group| GroupRow {
            name: format!("group {}", group.0),
            avatar: String::new(),
            creator: UserId(1),
            kind: 1,
            version: 1,
            deleted: false,
        }),
    }
}

/// A membership that begins with the first message.
fn member(group: u32, user: u32, leave: Option<u32>) -> MemberRow {
    MemberRow { group: GroupId(group), user: UserId(user), join: MsgId(1), leave: leave.map(MsgId) }
}

/// A mark of a user who has read up to `read`.
fn mark(conversation: ConversationId, user: u32, read: u32) -> MarkRow {
    MarkRow {
        conversation,
        user: UserId(user),
        read: MsgId(read),
        own_up_to_read: 1,
        own_total: 2,
        removed_at: MsgId(0),
        shield: false,
    }
}

/// A user to be made, with the next free number.
fn someone(name: &str) -> NewUser {
    NewUser {
        id: None,
        name: name.to_owned(),
        nick: format!("{name} the user"),
        password_hash: format!("$argon2id${name}"),
        department: 1,
    }
}

/// A user to be made with a number.
fn numbered(id: u32, name: &str) -> NewUser {
    NewUser { id: Some(UserId(id)), ..someone(name) }
}
