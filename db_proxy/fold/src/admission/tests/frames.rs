//! Frames of clients that repeat them.

use super::*;

#[test]
fn the_gateway_of_the_earlier_connection_is_asked_about_a_frame_that_may_repeat() {
    let mut state = with_group(GroupType::Normal);
    state.window.insert(framed(8, 1, None), Seen::Again(known_at(5)), Offset(4), NOW_MS - 6_000);
    let change = Change::Send(Message { identity: framed(9, 2, Some(0)), ..send(group(), 2) });
    let need = Need::Repeats {
        connection: Connection { gateway_boot: 77, session: 1 },
        sender: UserId(MEMBER),
        client_msg_id: known_at(5).client_msg_id,
        offset: Offset(4),
        age_ms: 0,
    };
    assert_eq!(judge(&state, &change), Admission::Needs(need));
    let told = |repeats| Facts { repeats, ..Facts::default() };
    let judged = |repeats| admit(&state, &change, &told(repeats), NOW_MS);
    assert_eq!(judged(Some((Offset(4), true))), Admission::Known(known_at(5)));
    assert_eq!(
        judged(Some((Offset(3), true))),
        Admission::Needs(need),
        "what was said of another record says nothing of this one"
    );
    let Admission::Append(record::Change::Message(message)) = judged(Some((Offset(4), false)))
    else {
        panic!("it is a new message")
    };
    assert_eq!(message.repeats_after, Some(4), "the fold must not find that record either");
    assert_eq!((message.gateway_boot, message.session), (Some(77), Some(2)));
}

#[test]
fn an_unanswered_frame_that_comes_behind_its_own_repeat_is_the_same_message() {
    let mut state = with_group(GroupType::Normal);
    state.window.insert(framed(8, 2, None), Seen::Again(known_at(5)), Offset(4), NOW_MS);
    let first = |waited_ms| Message {
        waited_ms: Some(waited_ms),
        ..Message { identity: framed(9, 1, Some(0)), ..send(group(), 2) }
    };
    let judged =
        |waited_ms| admit(&state, &Change::Send(first(waited_ms)), &Facts::default(), NOW_MS + 500);
    assert_eq!(judged(500), Admission::Known(known_at(5)));
    // That one came before: its own connection says whether this one repeats it.
    assert!(matches!(judged(499), Admission::Needs(Need::Repeats { .. })));
}

#[test]
fn a_frame_on_the_same_connection_or_after_an_answer_repeats_none() {
    let mut state = with_group(GroupType::Normal);
    state.window.insert(framed(8, 1, None), Seen::Again(known_at(5)), Offset(4), NOW_MS);
    for identity in [framed(9, 1, Some(0)), framed(9, 2, None), framed(9, 2, Some(4))] {
        let change = Change::Send(Message { identity, ..send(group(), 2) });
        let Admission::Append(record::Change::Message(message)) = judge(&state, &change) else {
            panic!("{identity:?}")
        };
        assert_eq!(message.repeats_after.map(Offset), identity.frame.repeats_after);
    }
}
