//! Spoils what devices were told.

use std::collections::HashMap;

use proto::ids::Parties;

use super::{acked, any, rows, said_once};
use crate::Random;
use crate::history::event::{Change, Connection, Delivery, Event, Mid, Phase, Progress, Sha, What};

pub(super) fn invent_push(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(events, random, |what| matches!(what, What::Push(_)))?;
    let What::Push(it) = events[place].what else { return None };
    let last = events.iter().rposition(
        |event| matches!(event.what, What::Push(at) if (at.user, at.conv) == (it.user, it.conv)),
    )?;
    let What::Push(newest) = events[last].what else { return None };
    let head = events.iter().find_map(|event| match &event.what {
        What::Stored { conv, rows, .. } if *conv == it.conv => Some(rows.len()),
        _ => None,
    })?;
    let msg_id = u32::try_from(head).ok()? + 1;
    let push = What::Push(Delivery { msg_id, sha: Sha([9; 16]), ..newest });
    (newest.msg_id + 1 == msg_id)
        .then(|| events.insert(last + 1, Event { what: push, ..events[last].clone() }))
}

/// Something that was shown, before which and after which more was shown to that device there.
pub(super) fn shown(events: &[Event], random: &mut Random) -> Option<usize> {
    let mut last = HashMap::new();
    for event in events {
        if let What::Shown(it) = event.what {
            last.insert((it.user, it.conv), it.msg_id);
        }
    }
    let is_last = |it: &Delivery| last.get(&(it.user, it.conv)) == Some(&it.msg_id);
    let fits = |it: &Delivery| it.msg_id > 1 && it.user <= 20 && !is_last(it);
    any(events, random, |what| matches!(what, What::Shown(it) if fits(it)))
}

pub(super) fn drop_shown(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = shown(events, random)?;
    events.remove(place);
    Some(())
}

pub(super) fn repeat_shown(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = shown(events, random)?;
    let again = events[place].clone();
    events.insert(place + 1, again);
    Some(())
}

pub(super) fn skip_shown(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = shown(events, random)?;
    let What::Shown(it) = events[place].what else { return None };
    let (first, last) = (it.msg_id, it.msg_id);
    let Delivery { user, device, conv, .. } = it;
    events[place].what = What::Skipped { user, device, conv, first, last };
    Some(())
}

/// Two pushes to one device in one conversation, one right after the other in one session.
pub(super) fn pushes(events: &[Event], random: &mut Random) -> Option<(usize, usize, usize)> {
    let mut runs = Vec::new();
    for (first, event) in events.iter().enumerate() {
        let What::Push(it) = event.what else { continue };
        let later = events.iter().enumerate().skip(first + 1);
        let mut next = later.take_while(|(_, event)| {
            !matches!(event.what,
            What::Session { user, device, state: Connection::Disconnected, .. }
                if (user, device) == (it.user, it.device))
        });
        let mut next = next.by_ref().filter(|(_, event)| {
            matches!(event.what, What::Push(at)
            if (at.user, at.device, at.conv) == (it.user, it.device, it.conv))
        });
        if let (Some((second, _)), Some((third, _))) = (next.next(), next.next()) {
            runs.push((first, second, third));
        }
    }
    random.shuffle(&mut runs);
    runs.first().copied()
}

pub(super) fn drop_push(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (_, place, _) = pushes(events, random)?;
    events.remove(place);
    Some(())
}

pub(super) fn swap_pushes(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (_, second, third) = pushes(events, random)?;
    let what = events[second].what.clone();
    events[second].what = std::mem::replace(&mut events[third].what, what);
    Some(())
}

pub(super) fn repeat_push(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let (_, second, _) = pushes(events, random)?;
    let again = events[second].clone();
    events.insert(second + 1, again);
    Some(())
}

pub(super) fn drop_pulled_row(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(
        events,
        random,
        |what| matches!(what, What::Pull { rows, device: 100, .. } if rows.len() > 3),
    )?;
    rows(&mut events[place]).remove(1);
    Some(())
}

pub(super) fn empty_pull(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = any(
        events,
        random,
        |what| matches!(what, What::Pull { rows, device: 100, .. } if rows.len() > 3),
    )?;
    let What::Pull { rows, complete_upto, .. } = &mut events[place].what else { return None };
    rows.clear();
    *complete_upto = 0;
    Some(())
}

/// Lets a client say how far it is, after something was shown to it.
pub(super) fn watermark(events: &mut Vec<Event>, place: usize, by: [i64; 2]) -> Option<()> {
    let What::Shown(Delivery { user, device, conv, msg_id, .. }) = events[place].what else {
        return None;
    };
    for by in by {
        let upto = u32::try_from(i64::from(msg_id) + by).ok()?;
        let what = What::Watermark { user, device, conv, upto };
        events.insert(place + 1, Event { what, ..events[place].clone() });
    }
    Some(())
}

pub(super) fn raise_watermark(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    // In the end, so that what follows is not in conflict with it too.
    let place = shown(events, random)?;
    let What::Shown(it) = events[place].what else { return None };
    let last = events.iter().rposition(|event| {
        matches!(event.what, What::Shown(at)
        if (at.user, at.conv) == (it.user, it.conv))
    })?;
    watermark(events, last, [1, 0])
}

pub(super) fn lower_watermark(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let place = shown(events, random)?;
    watermark(events, place, [-1, 0])
}

pub(super) fn tell_stranger(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let fits = |it: &Delivery| it.conv.0.as_group().is_none();
    let place = any(events, random, |what| matches!(what, What::Push(it) if fits(it)))?;
    let What::Push(it) = events[place].what else { return None };
    let (low, high) = match it.conv.0.parties() {
        Parties::Single(low, high) => (low.0, high.0),
        Parties::Group(_) => return None,
    };
    let user = (1..=3).find(|user| *user != low && *user != high)?;
    let what = What::Push(Delivery { user, device: 3, ..it });
    events.insert(place + 1, Event { what, ..events[place].clone() });
    Some(())
}

/// After a removal, another user's next message goes to the removed user too.
pub(super) fn read_on(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let removed = any(events, random, |what| {
        matches!(what, What::Change { change: Change::Remove, phase: Progress::Ok, .. })
    })?;
    let What::Change { conv, user, .. } = events[removed].what else { return None };
    let until = events[removed..].iter().position(|event| {
        matches!(event.what, What::Change { user: it, change: Change::Add, .. } if it == user)
    });
    let until = until.map_or(events.len(), |until| removed + until);
    let acked = acked(events);
    let once = said_once(events);
    let fits = |mid: &Mid, sha: &Sha| acked.contains(mid) && once.contains(sha);
    let said = events[removed..until].iter().find_map(|event| match event.what {
        What::Invoke { conv: it, sha, mid, .. } if it == conv && fits(&mid, &sha) => Some(sha),
        _ => None,
    })?;
    let place =
        events.iter().position(|event| matches!(event.what, What::Shown(it) if it.sha == said))?;
    let What::Shown(it) = events[place].what else { return None };
    let what = What::Push(Delivery { user, device: 2, ..it });
    (place < until).then(|| events.insert(place + 1, Event { what, ..events[place].clone() }))
}

pub(super) fn delay_delivery(events: &mut Vec<Event>, random: &mut Random) -> Option<()> {
    let healed = events
        .iter()
        .rposition(|event| matches!(event.what, What::Nemesis { phase: Phase::End, .. }))?;
    let acked: Vec<Sha> = {
        let oks: Vec<Mid> = events[..healed]
            .iter()
            .filter_map(|event| match event.what {
                What::Ok { mid, .. } => Some(mid),
                _ => None,
            })
            .collect();
        let said = events.iter().filter_map(|event| match event.what {
            What::Invoke { mid, sha, .. } if oks.contains(&mid) => Some(sha),
            _ => None,
        });
        let once = said_once(events);
        said.filter(|sha| once.contains(sha)).collect()
    };
    let reconnects = |it: &Delivery| {
        events[healed..].iter().any(|event| {
            matches!(event.what, What::Session { user, device, .. }
                if (user, device) == (it.user, it.device))
        })
    };
    let fits = |place: &usize| {
        matches!(events[*place].what, What::Shown(it)
        if acked.contains(&it.sha) && !reconnects(&it))
    };
    let mut places: Vec<usize> = (healed..events.len()).filter(fits).collect();
    random.shuffle(&mut places);
    let &place = places.first()?;
    for event in &mut events[place..] {
        event.us += 6_000_000;
    }
    Some(())
}
