//! Every order in which messages, lists and pages can come.

use bytes::Bytes;

use super::*;
use crate::message::Kind;

const PEER: Conversation = Conversation::user(2);

#[test]
fn messages_in_order_are_handed_out_at_once() {
    let mut lines = listed(&[]);
    for id in 1..=3 {
        lines.on_message(message(id));
        assert_eq!(drain(&mut lines), [id.to_string()]);
    }
    assert!(lines.take_gaps().is_empty());
}

#[test]
fn a_message_that_comes_twice_is_handed_out_once() {
    let mut lines = listed(&[]);
    for id in [1, 1, 2, 1, 2] {
        lines.on_message(message(id));
    }
    assert_eq!(drain(&mut lines), ["1", "2"]);
}

#[test]
fn one_message_under_two_numbers_is_handed_out_once() {
    let mut lines = listed(&[]);
    let id = Some(ClientMsgId([9; 16]));
    lines.on_message(Message { client_msg_id: id, ..message(1) });
    lines.on_message(Message { client_msg_id: id, ..message(2) });
    lines.on_message(message(3));
    assert_eq!(drain(&mut lines), ["1", "3"]);
}

#[test]
fn an_id_is_remembered_until_4096_others_have_come() {
    let sent = |id: u32| {
        let client_msg_id = Some(ClientMsgId(u128::from(id).to_be_bytes()));
        Message { client_msg_id, ..message(id) }
    };
    let again = Message { msg_id: MsgId(9_999), ..sent(1) };
    let mut recent = RecentIds::default();
    for id in 1..=4096 {
        assert!(!recent.is_repeat(&sent(id)));
    }
    assert!(recent.is_repeat(&again));
    assert!(!recent.is_repeat(&sent(4097)));
    assert!(!recent.is_repeat(&again), "it is forgotten");
    assert_eq!((recent.places.len(), recent.order.len()), (RECENT_IDS_MAX, RECENT_IDS_MAX));
}

#[test]
fn a_gap_that_closes_by_itself_asks_for_nothing() {
    let mut lines = listed(&[]);
    lines.on_message(message(2));
    assert_eq!(drain(&mut lines), [""; 0]);
    assert_eq!(lines.take_gaps(), [PEER]);
    lines.on_message(message(1));
    assert_eq!(drain(&mut lines), ["1", "2"]);
    lines.on_gap_due(PEER);
    assert_eq!(lines.next_ask(), None);
}

#[test]
fn a_gap_that_stays_is_filled_from_the_history() {
    let mut lines = listed(&[]);
    lines.on_message(message(1));
    lines.on_message(message(4));
    assert_eq!(drain(&mut lines), ["1"]);
    lines.on_gap_due(PEER);
    let ask = lines.next_ask().unwrap();
    assert_eq!((ask.begin, ask.count), (3, 2));
    lines.on_page(ask, vec![message(3), message(2)]);
    assert_eq!(drain(&mut lines), ["2", "3", "4"]);
    assert_eq!(lines.next_ask(), None);
}

#[test]
fn nothing_is_handed_out_before_the_first_list() {
    let mut lines = Timelines::new(StartFrom::Newest, &HashMap::new());
    lines.on_message(message(8));
    lines.on_message(message(9));
    assert_eq!(drain(&mut lines), [""; 0]);
    // The list was made after 8 and 9 came; both are new all the same.
    lines.on_list(&[listing(9)], true);
    assert_eq!(drain(&mut lines), ["8", "9"]);
}

#[test]
fn a_conversation_that_was_not_in_the_first_list_begins_with_its_first_message() {
    let mut lines = listed(&[]);
    lines.on_message(message(2)); // The push of 1 was overtaken, by our own answer for example.
    lines.on_message(message(1));
    assert_eq!(drain(&mut lines), ["1", "2"]);

    let mut lines = listed(&[]);
    lines.on_lost();
    lines.on_list(&[listing(3)], true);
    assert_eq!(serve(&mut lines, &(1..=3).collect::<Vec<_>>()), ["1", "2", "3"]);
}

#[test]
fn what_was_missed_during_an_outage_is_fetched_in_order() {
    let history: Vec<u32> = (1..=1000).collect();
    let mut lines = listed(&[listing(50)]);
    lines.on_lost();
    lines.on_message(message(1000));
    lines.on_list(&[listing(999)], true);
    let expected: Vec<String> = (51..=1000).map(|id| id.to_string()).collect();
    assert_eq!(serve(&mut lines, &history), expected);
}

#[test]
fn the_beginning_means_all_there_is() {
    let mut lines = Timelines::new(StartFrom::Beginning, &HashMap::new());
    lines.on_list(&[listing(250)], true);
    let expected: Vec<String> = (1..=250).map(|id| id.to_string()).collect();
    assert_eq!(serve(&mut lines, &(1..=250).collect::<Vec<_>>()), expected);
}

#[test]
fn a_mark_of_the_program_is_where_it_goes_on() {
    let mut lines =
        Timelines::new(StartFrom::Newest, &HashMap::from([(PEER, MsgId(7)), (OTHER, MsgId(3))]));
    lines.on_message(message(7));
    lines.on_list(&[listing(9)], true);
    assert_eq!(serve(&mut lines, &(1..=9).collect::<Vec<_>>()), ["8", "9"]);
    assert_eq!(lines.not_in(&[listing(9)]), [OTHER]);
}

#[test]
fn numbers_that_the_history_does_not_have_are_skipped_and_told() {
    let mut lines = listed(&[listing(1)]);
    lines.on_message(message(2));
    lines.on_message(message(10));
    assert_eq!(drain(&mut lines), ["2"]);
    lines.on_gap_due(PEER);
    assert_eq!(serve(&mut lines, &[1, 2, 5, 6, 8, 10]), ["3-4", "5", "6", "7-7", "8", "9-9", "10"]);
}

#[test]
fn a_group_joined_late_begins_at_the_join_after_few_questions() {
    let mut lines = Timelines::new(StartFrom::Beginning, &HashMap::new());
    lines.on_list(&[listing(1_000_003)], true);
    let history = [1_000_000, 1_000_001, 1_000_002, 1_000_003];
    let mut asked = 0;
    let mut got = Vec::new();
    while let Some(ask) = lines.next_ask() {
        asked += 1;
        lines.on_page(ask, page(ask, &history, 100));
        got.extend(drain(&mut lines));
    }
    assert_eq!(got, ["1000000", "1000001", "1000002", "1000003"]);
    assert!(asked < 200, "{asked} questions");
}

#[test]
fn pages_that_are_cut_short_are_not_taken_for_the_end() {
    let history: Vec<u32> = (1..=300).collect();
    let mut lines = Timelines::new(StartFrom::Beginning, &HashMap::new());
    lines.on_list(&[listing(300)], true);
    let mut got = Vec::new();
    while let Some(ask) = lines.next_ask() {
        lines.on_page(ask, page(ask, &history, 7));
        got.extend(drain(&mut lines));
    }
    let expected: Vec<String> = (1..=300).map(|id| id.to_string()).collect();
    assert_eq!(got, expected);
}

#[test]
fn a_page_that_fails_is_asked_for_again_and_one_that_is_denied_is_not() {
    let mut lines = listed(&[listing(1)]);
    lines.on_message(message(3));
    lines.on_gap_due(PEER);
    let ask = lines.next_ask().unwrap();
    lines.on_page_failed(ask, false);
    assert_eq!(lines.next_ask(), None);
    lines.on_gap_due(PEER);
    let again = lines.next_ask().unwrap();
    assert_eq!(again, ask);
    lines.on_page_denied(again);
    assert_eq!(drain(&mut lines), ["2-2", "3"]);
    assert_eq!(lines.next_ask(), None);
}

#[test]
fn pages_shrink_until_they_are_answered() {
    let history: Vec<u32> = (1..=250).collect();
    let mut lines = Timelines::new(StartFrom::Beginning, &HashMap::new());
    lines.on_list(&[listing(250)], true);
    let mut got = Vec::new();
    let mut failed = 0;
    while let Some(ask) = lines.next_ask() {
        if ask.count > 3 {
            failed += 1;
            lines.on_page_failed(ask, true);
            lines.on_gap_due(PEER);
        } else {
            lines.on_page(ask, page(ask, &history, 100));
            got.extend(drain(&mut lines));
        }
    }
    let expected: Vec<String> = (1..=250).map(|id| id.to_string()).collect();
    assert_eq!(got, expected);
    assert_eq!(failed, 5);
}

#[test]
fn a_page_of_an_earlier_connection_is_not_taken() {
    let mut lines = listed(&[listing(1)]);
    lines.on_message(message(3));
    lines.on_gap_due(PEER);
    let ask = lines.next_ask().unwrap();
    lines.on_lost();
    lines.on_page(ask, vec![]);
    assert_eq!(drain(&mut lines), [""; 0]);
    lines.on_list(&[listing(3)], true);
    assert_eq!(serve(&mut lines, &[1, 2, 3]), ["2", "3"]);
}

#[test]
fn what_is_not_taken_is_dropped_and_fetched_again() {
    let many = 3000;
    let mut lines = listed(&[]);
    for id in 1..=many {
        lines.on_message(message(id)); // Nothing is taken out meanwhile.
    }
    let held = lines.lines.get(&PEER).unwrap().held.len();
    assert!(held <= HELD_MAX, "{held} held");
    let expected: Vec<String> = (1..=many).map(|id| id.to_string()).collect();
    assert_eq!(serve(&mut lines, &(1..=many).collect::<Vec<_>>()), expected);
}

/// Every order of arrival, with every message pushed late, twice or only in the history.
#[test]
fn whatever_order_things_come_in_each_message_is_handed_out_once_and_in_order() {
    for seed in 1..=500_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut lines = listed(&[]);
        let total = u32::try_from(1 + next(700)).unwrap();
        let mut known = 0;
        let mut got = Vec::new();
        for _ in 0..next(400) {
            known = (known + u32::try_from(next(4)).unwrap()).min(total);
            let back = u32::try_from(next(5)).unwrap();
            match next(8) {
                0 => lines.on_gap_due(PEER),
                1 => {
                    lines.on_lost();
                    lines.on_list(&[], true);
                }
                2 => {
                    let history: Vec<u32> = (1..=known).collect();
                    if let Some(ask) = lines.next_ask() {
                        lines.on_page(ask, page(ask, &history, 100));
                    }
                }
                3 => got.extend(drain(&mut lines)),
                _ if known > back => lines.on_message(message(known - back)),
                _ => {}
            }
        }
        lines.on_lost();
        lines.on_list(&[listing(total)], true);
        got.extend(serve(&mut lines, &(1..=total).collect::<Vec<_>>()));
        let expected: Vec<String> = (1..=total).map(|id| id.to_string()).collect();
        assert_eq!(got, expected, "seed {seed}");
    }
}

#[test]
fn after_a_list_that_was_cut_off_what_is_unread_is_where_a_new_conversation_begins() {
    let mut lines = Timelines::new(StartFrom::Newest, &HashMap::new());
    lines.on_list(&[], false);
    lines.on_lost();
    // It may have been there before, and only not been listed.
    lines.on_list(&[Listed { conversation: PEER, latest: 9, unread: 2 }], false);
    assert_eq!(serve(&mut lines, &(1..=9).collect::<Vec<_>>()), ["8", "9"]);
    // One that is in no list at all begins with the message that shows it.
    lines.on_message(Message { conversation: OTHER, ..message(5) });
    assert_eq!(drain(&mut lines), ["5"]);
    assert!(lines.take_gaps().is_empty());
    // More unread than there is: nothing is below the first.
    let third = Conversation::user(3);
    lines.on_list(&[Listed { conversation: third, latest: 2, unread: 7 }], false);
    assert_eq!(lines.next_ask().map(|ask| (ask.begin, ask.count)), Some((2, 2)));
}

#[test]
fn a_head_that_is_told_is_asked_for_at_once_and_one_that_is_known_is_not() {
    let mut lines = listed(&[listing(5)]);
    for known in [0, 4, 5] {
        lines.on_head(PEER, known);
        assert_eq!(lines.next_ask(), None, "{known}");
    }
    lines.on_head(PEER, 7);
    assert!(lines.take_gaps().is_empty(), "it will not close by itself");
    let ask = lines.next_ask().unwrap();
    assert_eq!((ask.begin, ask.count), (7, 2));
    assert_eq!(lines.next_ask(), None, "once");
    lines.on_page(ask, page(ask, &[6, 7], 100));
    assert_eq!(drain(&mut lines), ["6", "7"]);
}

#[test]
fn a_page_holds_a_hundred_and_a_window_no_more() {
    let mut lines = listed(&[listing(10)]);
    lines.on_head(PEER, 500);
    let ask = lines.next_ask().unwrap();
    assert_eq!((ask.begin, ask.count), (110, 100), "from the mark upwards");
    let history: Vec<u32> = (1..=500).collect();
    lines.on_page(ask, page(ask, &history, 40));
    assert_eq!(drain(&mut lines), [""; 0], "what is below comes first");
    let rest = lines.next_ask().unwrap();
    assert_eq!((rest.begin, rest.count), (70, 60), "downwards within the window");
    // What is not of the page is not taken: above it, and below the mark.
    let mut answer = page(rest, &history, 100);
    answer.extend([message(10), message(300)]);
    lines.on_page(rest, answer);
    let expected: Vec<String> = (11..=110).map(|id| id.to_string()).collect();
    assert_eq!(drain(&mut lines), expected);
    assert!(lines.lines[&PEER].held.is_empty(), "what was not asked for is not kept");
    assert_eq!(lines.next_ask().map(|ask| ask.begin), Some(210));
}

#[test]
fn what_comes_by_itself_while_a_page_is_asked_for_is_handed_out_once() {
    let mut lines = listed(&[]);
    lines.on_message(message(4));
    lines.on_gap_due(PEER);
    let ask = lines.next_ask().unwrap();
    for id in [2, 1, 3] {
        lines.on_message(message(id));
    }
    assert_eq!(drain(&mut lines), ["1", "2", "3", "4"]);
    lines.on_page(ask, page(ask, &[1, 2, 3, 4], 100));
    assert_eq!(drain(&mut lines), [""; 0]);
    lines.on_message(message(5));
    assert_eq!(drain(&mut lines), ["5"]);
}

#[test]
fn conversations_do_not_wait_for_each_other() {
    let mut lines = listed(&[]);
    lines.on_message(message(3));
    lines.on_message(Message { conversation: OTHER, ..message(1) });
    assert_eq!(drain(&mut lines), ["1"], "of the other one");
    assert_eq!(lines.take_gaps(), [PEER]);
    // The same id in another conversation, or of another sender, is another message.
    let id = Some(ClientMsgId([9; 16]));
    lines.on_message(Message { client_msg_id: id, conversation: OTHER, ..message(2) });
    let from = UserId(3);
    lines.on_message(Message { client_msg_id: id, conversation: OTHER, from, ..message(3) });
    assert_eq!(drain(&mut lines), ["2", "3"]);
}

const OTHER: Conversation = Conversation::group(2);

/// Conversations after a first list.
fn listed(list: &[Listed]) -> Timelines {
    let mut lines = Timelines::new(StartFrom::Newest, &HashMap::new());
    lines.on_list(list, true);
    lines
}

fn listing(latest: u32) -> Listed {
    Listed { conversation: PEER, latest, unread: 0 }
}

fn message(id: u32) -> Message {
    Message {
        conversation: PEER,
        msg_id: MsgId(id),
        from: UserId(2),
        create_time: 0,
        kind: Kind::Text,
        data: Bytes::new(),
        client_msg_id: None,
    }
}

/// What a server with this history answers, at most `most` messages at a time.
fn page(ask: Ask, history: &[u32], most: usize) -> Vec<Message> {
    let count = usize::try_from(ask.count).unwrap().min(most);
    let older = history.iter().rev().filter(|&&id| id <= ask.begin);
    older.take(count).map(|&id| message(id)).collect()
}

/// Hands out everything, with a server that answers every question.
fn serve(lines: &mut Timelines, history: &[u32]) -> Vec<String> {
    let mut got = drain(lines);
    while let Some(ask) = lines.next_ask() {
        lines.on_page(ask, page(ask, history, 100));
        got.extend(drain(lines));
    }
    got
}

fn drain(lines: &mut Timelines) -> Vec<String> {
    let show = |delivery| match delivery {
        Delivery::Message(message) => message.msg_id.0.to_string(),
        Delivery::Skipped { first, last, .. } => format!("{}-{}", first.0, last.0),
    };
    std::iter::from_fn(|| lines.next_delivery()).map(show).collect()
}
