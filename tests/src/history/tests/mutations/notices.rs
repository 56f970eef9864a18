//! Spoils times, what comes on connections, and what devices are told besides messages.

use super::{any, rows};
use crate::Random;
use crate::history::event::{Change, Class, Connection, Conv, Delivery, Event, Sha, What};

fn insert(events: &mut Vec<Event>, place: usize, what: What) {
    let event = Event { what, ..events[place.min(events.len() - 1)].clone() };
    events.insert(place, event);
}

/// Where the end of a run begins.
fn end_of(events: &[Event]) -> Option<usize> {
    events.iter().position(|event| matches!(event.what, What::Final { .. }))
}

pub(super) fn change_time(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place =
        any(events, random, |what| matches!(what, What::Stored { rows, .. } if rows.len() > 9))?;
    let time = &mut rows(&mut events[place])[4].time;
    *time = time.map(|time| time + 1);
    Some(())
}

/// The last message of a conversation was taken before all others, as everybody says.
pub(super) fn turn_time_back(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place =
        any(events, random, |what| matches!(what, What::Stored { rows, .. } if rows.len() > 9))?;
    let at = events[place].what.conv()?;
    let last = rows(&mut events[place]).last()?.msg_id;
    let said = events[..place].iter().filter_map(|event| match event.what {
        What::Invoke { conv, mid, .. } if conv == at => Some(mid),
        _ => None,
    });
    let said: std::collections::HashSet<_> = said.collect();
    for event in events {
        let is_there = event.what.conv() == Some(at);
        match &mut event.what {
            What::Ok { mid, msg_id, time } if said.contains(mid) && *msg_id == last => {
                *time = Some(1);
            }
            What::Push(it) | What::Shown(it) | What::Wire(it) if is_there && it.msg_id == last => {
                it.time = Some(1);
            }
            what if is_there => {
                for row in what.rows_mut().into_iter().flatten().filter(|row| row.msg_id == last) {
                    row.time = Some(1);
                }
            }
            _ => {}
        }
    }
    Some(())
}

/// Three frames that came to one connection from one conversation of two, one after the other, of which
/// the second was said after the login.
fn frames(events: &[Event], random: &mut Random) -> Option<[usize; 3]> {
    let mut found = Vec::new();
    for (first, event) in events.iter().enumerate() {
        let What::Wire(it) = event.what else { continue };
        let device = (it.user, it.device);
        let same = |what: &What| {
            matches!(what, What::Wire(at)
                if (at.user, at.device) == device && at.conv == it.conv)
        };
        let ends = |what: &What| {
            matches!(what, What::Session { user, device: number, state: Connection::Connected, .. }
                if (*user, *number) == device)
        };
        let session = events[first + 1..].iter().take_while(|event| !ends(&event.what));
        let mut next = session.enumerate().filter(|(_, event)| same(&event.what));
        if let (Some((second, _)), Some((third, _)), None) =
            (next.next(), next.next(), it.conv.0.as_group())
        {
            let second = first + 1 + second;
            let begins = events[..first].iter().rposition(|event| ends(&event.what));
            let said = |event: &Event| {
                matches!((&event.what, &events[second].what),
                (What::Invoke { mid, .. }, What::Wire(it)) if it.mid == Some(*mid))
            };
            if events.iter().position(said) > begins {
                found.push([first, second, first + 1 + third]);
            }
        }
    }
    random.shuffle(&mut found);
    found.first().copied()
}

pub(super) fn drop_frame(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let [_, second, _] = frames(events, random)?;
    events.remove(second);
    Some(())
}

pub(super) fn repeat_frame(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let [_, second, _] = frames(events, random)?;
    let what = events[second].what.clone();
    insert(events, second + 1, what);
    Some(())
}

pub(super) fn swap_frames(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let [_, second, third] = frames(events, random)?;
    let what = events[second].what.clone();
    events[second].what = std::mem::replace(&mut events[third].what, what);
    Some(())
}

/// A connection is told what was said on it.
pub(super) fn tell_own(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let is_own = |it: &Delivery| it.sender == it.user;
    let said: Vec<(usize, u32, Sha)> = events
        .iter()
        .enumerate()
        .filter_map(|(place, event)| match event.what {
            What::Invoke { user, sha, .. } => Some((place, user, sha)),
            _ => None,
        })
        .collect();
    let answered = super::acked(events);
    let mut places = Vec::new();
    for (place, event) in events.iter().enumerate() {
        let What::Shown(it) = event.what else { continue };
        let began = events[..place].iter().rposition(|event| {
            matches!(event.what,
                What::Session { user, device: 1, state: Connection::Connected, .. }
                    if user == it.user)
        });
        let is_new = said
            .iter()
            .any(|(at, user, sha)| (*user, *sha) == (it.user, it.sha) && Some(*at) > began);
        if is_own(&it) && is_new && it.mid.is_some_and(|mid| answered.contains(&mid)) {
            places.push(place);
        }
    }
    random.shuffle(&mut places);
    let &place = places.first()?;
    let What::Shown(it) = events[place].what else { return None };
    insert(events, place, What::Wire(it));
    Some(())
}

pub(super) fn send_frame_to_stranger(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let fits = |it: &Delivery| it.conv.0.as_group().is_none() && it.user > 3;
    let place = any(events, random, |what| matches!(what, What::Wire(it) if fits(it)))?;
    let What::Wire(it) = events[place].what else { return None };
    let user = (1..=3).find(|user| *user != it.sender)?;
    insert(events, place, What::Wire(Delivery { user, ..it }));
    (it.conv != Conv::single(user, it.sender)).then_some(())
}

pub(super) fn tell_false_mark(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(events, random, |what| matches!(what, What::MarkTold { .. }))?;
    let What::MarkTold { upto, .. } = &mut events[place].what else { return None };
    *upto += 1_000;
    Some(())
}

pub(super) fn tell_mark_twice(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(events, random, |what| matches!(what, What::MarkTold { .. }))?;
    let what = events[place].what.clone();
    insert(events, place + 1, what);
    Some(())
}

pub(super) fn throw_out(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(events, random, |what| {
        matches!(what, What::Session { state: Connection::Connected, class: Some(Class::Pc), .. })
    })?;
    let What::Session { user, device, .. } = events[place].what else { return None };
    insert(events, place + 1, What::Kicked { user, device });
    Some(())
}

pub(super) fn seat_two(events: &mut Vec<Event>, _random: &mut Random) -> Option<()> {
    let end = end_of(events)?;
    let class = Some(Class::Mobile);
    for state in [Connection::Connected, Connection::Connecting] {
        insert(events, end, What::Session { user: 4, device: 9, state, class });
    }
    Some(())
}

/// A device is told nothing of a change of a member.
pub(super) fn tell_no_members(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    // A device that is connected again meanwhile need not be told.
    let place = any(events, random, |what| {
        matches!(what, What::MembersTold { change: Change::Remove, .. })
    })?;
    let What::MembersTold { user: told, .. } = events[place].what else { return None };
    let end = end_of(events)?;
    let stays = !events[place..end]
        .iter()
        .any(|event| matches!(event.what, What::Session { user, device: 1, .. } if user == told));
    events.remove(place);
    let hears_more = events
        .iter()
        .any(|event| matches!(event.what, What::MembersTold { user, .. } if user == told));
    (stays && hears_more).then_some(())
}

pub(super) fn tell_members_twice(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(events, random, |what| matches!(what, What::MembersTold { .. }))?;
    let what = events[place].what.clone();
    insert(events, place + 1, what);
    Some(())
}

pub(super) fn tell_false_members(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(events, random, |what| matches!(what, What::MembersTold { .. }))?;
    let What::MembersTold { who, .. } = &mut events[place].what else { return None };
    who.push(99);
    Some(())
}

/// What a device was told last of a user is not true, and does not become so.
pub(super) fn tell_false_presence(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    // Around a fault no device need be told.
    events.retain(|event| !matches!(event.what, What::Nemesis { .. }));
    let place = any(events, random, |what| matches!(what, What::Presence { .. }))?;
    let What::Presence { user, who, .. } = events[place].what else { return None };
    let last = events.iter().rposition(|event| {
        matches!(event.what, What::Presence { user: it, who: of, .. } if (it, of) == (user, who))
    })?;
    // On its last connection.
    let stays = !events[last..]
        .iter()
        .any(|event| matches!(event.what, What::Session { user: it, device: 1, .. } if it == user));
    let What::Presence { online, .. } = &mut events[last].what else { return None };
    *online = !*online;
    let end = end_of(events)?;
    for event in &mut events[end..] {
        event.us += 6_000_000;
    }
    stays.then_some(())
}
