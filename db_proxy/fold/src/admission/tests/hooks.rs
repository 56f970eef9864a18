//! Messages that are only looked for, and those that a hook has changed.

use super::*;

fn looked_for(send: Message) -> Change {
    Change::Send(Message { known_only: true, ..send })
}

fn verdict(hook: &str) -> log::HookVerdict {
    log::HookVerdict { hook: hook.to_owned(), outcome: log::HookOutcome::Changed.into() }
}

#[test]
fn a_new_message_that_is_only_looked_for_is_not_known_whatever_else_is_known_of_it() {
    let state = with_group(GroupType::Normal);
    let new = looked_for(send(group(), MEMBER));
    assert_eq!(judge(&state, &new), Admission::Refused(Reason::NotKnown));
    // What would be refused anyhow need not be asked about.
    let forbidden = looked_for(send(group(), OUTSIDER));
    assert_eq!(judge(&state, &forbidden), Admission::Refused(Reason::NotMember));
    let state = loaded(two(), false);
    let to_nobody = looked_for(send(two(), CREATOR));
    let missing = Facts { peers_exist: Some(false), ..Facts::default() };
    assert_eq!(admit(&state, &to_nobody, &missing, NOW_MS), Admission::Refused(Reason::NoSuchPeer));
}

#[test]
fn a_message_that_is_looked_for_is_found_in_the_window_and_in_the_store() {
    let mut state = with_group(GroupType::Normal);
    let sent = Message { resend: true, ..send(group(), MEMBER) };
    let looked = looked_for(sent.clone());
    assert!(matches!(judge(&state, &looked), Admission::Needs(Need::Stored(..))));
    let told = |stored| Facts { stored, ..Facts::default() };
    let found = admit(&state, &looked, &told(InStore::Found(known_at(5))), NOW_MS);
    assert_eq!(found, Admission::Known(known_at(5)));
    let missing = admit(&state, &looked, &told(InStore::Missing), NOW_MS);
    assert_eq!(missing, Admission::Refused(Reason::NotKnown));
    state.window.insert(sent.identity, Seen::New(known_at(5)), Offset(4), NOW_MS);
    assert_eq!(judge(&state, &looked), Admission::Known(known_at(5)));
    let content_crc = CONTENT_CRC + 1;
    let other = Message { identity: Identity { content_crc, ..sent.identity }, ..sent };
    assert_eq!(judge(&state, &looked_for(other)), Admission::Refused(Reason::IdReused));
}

#[test]
fn a_frame_that_is_looked_for_is_judged_like_one_that_is_sent() {
    let mut state = with_group(GroupType::Normal);
    state.window.insert(framed(8, 1, None), Seen::Again(known_at(5)), Offset(4), NOW_MS - 6_000);
    let looked = looked_for(Message { identity: framed(9, 2, Some(0)), ..send(group(), 2) });
    assert!(matches!(judge(&state, &looked), Admission::Needs(Need::Repeats { .. })));
    let told = |repeats| Facts { repeats: Some((Offset(4), repeats)), ..Facts::default() };
    let judged = |repeats| admit(&state, &looked, &told(repeats), NOW_MS);
    assert_eq!(judged(true), Admission::Known(known_at(5)));
    assert_eq!(judged(false), Admission::Refused(Reason::NotKnown));
}

#[test]
fn what_hooks_said_is_in_the_record_and_what_was_sent_only_if_it_is_not_the_body() {
    let state = with_group(GroupType::Normal);
    let record = |identity, hooks: Vec<log::HookVerdict>| {
        let send = Message { identity, hooks, ..send(group(), MEMBER) };
        match judge(&state, &Change::Send(send)) {
            Admission::Append(record::Change::Message(message)) => message,
            other => panic!("{other:?}"),
        }
    };
    let content_crc = content_crc(0x11, b"body");
    let as_sent = Identity { content_crc, ..identity(1) };
    let hooks = vec![verdict("words"), verdict("archive")];
    let message = record(as_sent, hooks.clone());
    assert_eq!((message.hooks, message.sent_crc), (hooks.clone(), None));
    let other = Identity { content_crc: content_crc ^ 1, ..as_sent };
    assert_eq!(record(other, hooks).sent_crc, Some(content_crc ^ 1));
    assert_eq!(record(other, Vec::new()).sent_crc, None, "nobody has changed it");
}
