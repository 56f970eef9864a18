//! Spoils what was said, what was answered, and what the histories of the end say.

use std::collections::{HashMap, HashSet};

use super::{acked, any, rows, said_once};
use crate::Random;
use crate::history::event::{Conv, Event, Mid, Row, Sha, What};

/// A history with enough rows, and the acknowledged rows in it whose words were said once.
pub(super) fn dump(events: &[Event], random: &mut Random) -> Option<(usize, Vec<usize>)> {
    let place = any(events, random, |what| {
        // Where members come and go follows from the numbers in the second group.
        matches!(what, What::Stored { conv, rows, .. } if rows.len() > 9 && *conv != Conv::group(2))
    })?;
    let What::Stored { rows, .. } = &events[place].what else { return None };
    let acked = acked(events);
    let said = events.iter().filter_map(|event| match event.what {
        What::Invoke { sha, mid, .. } if acked.contains(&mid) => Some(sha),
        _ => None,
    });
    let once = said_once(events);
    let said: HashSet<Sha> = said.filter(|sha| once.contains(sha)).collect();
    let is_acked = |row: &usize| said.contains(&rows[*row].sha);
    Some((place, (0..rows.len()).filter(is_acked).collect()))
}

pub(super) fn drop_last_row(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (place, acked) = dump(events, random)?;
    let rows = rows(&mut events[place]);
    (acked.last() == Some(&(rows.len() - 1))).then(|| rows.pop()).flatten().map(drop)
}

pub(super) fn drop_middle_row(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (place, acked) = dump(events, random)?;
    rows(&mut events[place]).remove(acked[acked.len() / 2]);
    Some(())
}

pub(super) fn drop_from_final(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (stored, acked) = dump(events, random)?;
    let row = rows(&mut events[stored]).get(acked[acked.len() / 2]).copied()?;
    let conv = events[stored].what.conv()?;
    let place = any(events, random, |what| {
        matches!(what, What::Final { conv: it, has, .. }
        if *it == conv && has.iter().any(|(first, last)| *first < row.msg_id && row.msg_id < *last))
    })?;
    let What::Final { has, .. } = &mut events[place].what else { return None };
    let (first, last) = has[0];
    *has = vec![(first, row.msg_id - 1), (row.msg_id + 1, last)];
    Some(())
}

pub(super) fn repeat_row(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (place, acked) = dump(events, random)?;
    let rows = rows(&mut events[place]);
    let msg_id = u32::try_from(rows.len()).ok()? + 1;
    let time = rows.last()?.time;
    rows.push(Row { msg_id, time, ..rows[acked[1]] });
    Some(())
}

pub(super) fn list_row_twice(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (place, acked) = dump(events, random)?;
    let rows = rows(&mut events[place]);
    rows.push(rows[acked[2]]);
    Some(())
}

pub(super) fn change_mid(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(events, random, |what| matches!(what, What::Shown(_)))?;
    let What::Shown(it) = &mut events[place].what else { return None };
    it.mid = Some(Mid([9; 16]));
    Some(())
}

pub(super) fn swap_rows(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (place, acked) = dump(events, random)?;
    let rows = rows(&mut events[place]);
    let (one, other) = (acked[1], acked[3]);
    (rows[one].msg_id, rows[other].msg_id) = (rows[other].msg_id, rows[one].msg_id);
    Some(())
}

pub(super) fn renumber_row(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (place, acked) = dump(events, random)?;
    let rows = rows(&mut events[place]);
    let last = rows.len() - 1;
    rows[last].msg_id += 1;
    (acked.last() == Some(&last)).then_some(())
}

pub(super) fn change_ack(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (place, acked) = dump(events, random)?;
    let row = rows(&mut events[place])[acked[acked.len() - 1]];
    let name = events.iter().find_map(|event| match event.what {
        What::Invoke { sha, mid, .. } if sha == row.sha => Some(mid),
        _ => None,
    })?;
    for event in events {
        match &mut event.what {
            What::Ok { mid, msg_id, .. } if *mid == name => *msg_id = 1,
            _ => {}
        }
    }
    Some(())
}

pub(super) fn change_shown(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(events, random, |what| matches!(what, What::Shown(_)))?;
    let What::Shown(it) = &mut events[place].what else { return None };
    (it.sha, it.mid) = (Sha([9; 16]), None);
    Some(())
}

/// Of two messages in the same words one is not there.
pub(super) fn drop_second(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (place, row, _) = said_again(events, random)?;
    let rows = rows(&mut events[place]);
    rows.remove(row);
    Some(())
}

/// Two messages in the same words are acknowledged as one.
pub(super) fn join_two(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (place, row, first) = said_again(events, random)?;
    let second = rows(&mut events[place])[row];
    let said: Vec<Mid> = events
        .iter()
        .filter_map(|event| match event.what {
            What::Invoke { sha, mid, .. } if sha == second.sha => Some(mid),
            _ => None,
        })
        .collect();
    for event in events {
        match &mut event.what {
            What::Ok { mid, msg_id, .. } if said.contains(mid) => *msg_id = first,
            _ => {}
        }
    }
    Some(())
}

/// Words that were said twice are there a third time.
pub(super) fn store_third(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (place, row, _) = said_again(events, random)?;
    let rows = rows(&mut events[place]);
    let msg_id = u32::try_from(rows.len()).ok()? + 1;
    let time = rows.last()?.time;
    rows.push(Row { msg_id, time, ..rows[row] });
    Some(())
}

/// A history with two rows in the same words, both acknowledged, and no other message with them: the
/// second of them, which is not the last row, and the number of the first.
fn said_again(events: &[Event], random: &mut Random) -> Option<(usize, usize, u32)> {
    let acked = acked(events);
    let mut said: HashMap<Sha, Vec<Mid>> = HashMap::new();
    for event in events {
        if let What::Invoke { sha, mid, .. } = event.what {
            said.entry(sha).or_default().push(mid);
        }
    }
    let is_pair = |sha: &Sha| {
        said.get(sha)
            .is_some_and(|mids| mids.len() == 2 && mids.iter().all(|mid| acked.contains(mid)))
    };
    let mut found = Vec::new();
    for (place, event) in events.iter().enumerate() {
        let What::Stored { conv, rows, .. } = &event.what else { continue };
        if *conv == Conv::group(2) {
            continue; // Where members come and go follows from the numbers there.
        }
        let before_last = rows.iter().enumerate().take(rows.len() - 1);
        for (row, it) in before_last.filter(|(_, it)| is_pair(&it.sha)) {
            let first = rows.iter().take(row).find(|first| first.sha == it.sha);
            found.extend(first.map(|first| (place, row, first.msg_id)));
        }
    }
    random.shuffle(&mut found);
    found.first().copied()
}

/// Two messages of one device in one conversation that were unanswered at the same time.
pub(super) fn swap_invokes(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let acked = acked(events);
    let mut pairs = Vec::new();
    for (first, event) in events.iter().enumerate() {
        let What::Invoke { user, conv, mid, .. } = event.what else { continue };
        if conv == Conv::group(2) {
            continue; // Where members come and go follows from the numbers there.
        }
        for (second, event) in events.iter().enumerate().skip(first + 1).take(2_000) {
            match event.what {
                What::Ok { mid: it, .. } if it == mid => break,
                What::Invoke { user: by, conv: at, mid: other, .. } if (by, at) == (user, conv) => {
                    if acked.contains(&mid) && acked.contains(&other) {
                        pairs.push((first, second));
                    }
                    break;
                }
                _ => {}
            }
        }
    }
    random.shuffle(&mut pairs);
    let &(one, other) = pairs.first()?;
    let names = |what: &What| match *what {
        What::Invoke { mid, sha, .. } => Some((mid, sha)),
        _ => None,
    };
    let (first, second) = (names(&events[one].what)?, names(&events[other].what)?);
    for (place, new) in [(one, second), (other, first)] {
        if let What::Invoke { mid, sha, .. } = &mut events[place].what {
            (*mid, *sha) = new;
        }
    }
    Some(())
}

/// One message that was stored below another is said only after that one was acknowledged.
pub(super) fn delay_invoke(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let mut moves = Vec::new();
    for (place, event) in events.iter().enumerate() {
        let What::Invoke { user, conv, mid, .. } = event.what else { continue };
        if conv == Conv::group(2) {
            continue; // Where members come and go moves with it.
        }
        let own = events.iter().enumerate().skip(place).find_map(|(at, event)| match event.what {
            What::Ok { mid: it, msg_id, .. } if it == mid => Some((at, msg_id)),
            _ => None,
        });
        let Some((end, low)) = own else { continue };
        let higher = (place..end).find(|at| {
            let What::Ok { mid: it, msg_id, .. } = events[*at].what else { return false };
            let by = events.iter().find_map(|event| match event.what {
                What::Invoke { user, conv, mid, .. } if mid == it => Some((user, conv)),
                _ => None,
            });
            by.is_some_and(|(by, at)| by != user && at == conv) && msg_id > low
        });
        let again = |higher: usize| {
            events[place + 1..higher].iter().any(|event| {
                matches!(event.what, What::Invoke { user: by, conv: at, .. }
                    if (by, at) == (user, conv))
            })
        };
        moves.extend(higher.filter(|higher| !again(*higher)).map(|higher| (place, higher)));
    }
    random.shuffle(&mut moves);
    let &(from, to) = moves.first()?;
    let event = events.remove(from);
    events.insert(to, event);
    Some(())
}

pub(super) fn invent_row(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (place, _) = dump(events, random)?;
    let rows = rows(&mut events[place]);
    let msg_id = u32::try_from(rows.len()).ok()? + 1;
    rows.push(Row { msg_id, sender: 1, sha: Sha([9; 16]), mid: None, time: None });
    Some(())
}

pub(super) fn refuse_stored(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(events, random, |what| matches!(what, What::Ok { .. }))?;
    let mid = events[place].what.outcome_of()?;
    // Where members come and go depends on acknowledgements.
    let conv = events.iter().find_map(|event| match event.what {
        What::Invoke { conv, mid: it, .. } if it == mid => Some(conv),
        _ => None,
    });
    events[place].what = What::Fail { mid, code: 3 };
    conv.filter(|conv| *conv != Conv::group(2)).map(drop)
}

pub(super) fn change_unread(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(events, random, |what| matches!(what, What::Derived { user: ..=20, .. }))?;
    let What::Derived { unread, .. } = &mut events[place].what else { return None };
    *unread += 1;
    Some(())
}

pub(super) fn change_head(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(events, random, |what| matches!(what, What::Derived { user: ..=20, .. }))?;
    let What::Derived { head, .. } = &mut events[place].what else { return None };
    *head += 1;
    Some(())
}

pub(super) fn take_back(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(events, random, |what| matches!(what, What::Ok { .. }))?;
    let what = What::Fail { mid: events[place].what.outcome_of()?, code: 3 };
    events.insert(place + 1, Event { what, ..events[place].clone() });
    Some(())
}

pub(super) fn answer_nothing(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(events, random, |what| matches!(what, What::Ok { .. }))?;
    let what = What::Ok { mid: Mid([9; 16]), msg_id: 1, time: None };
    events.insert(place + 1, Event { what, ..events[place].clone() });
    Some(())
}
