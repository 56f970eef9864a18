//! Honesty and vacuity: what was answered, and whether enough happened.

use super::{Findings, Rule, Thresholds};
use crate::history::event::Mid;
use crate::history::figures::Figures;
use crate::history::index::{Cite, Index};

/// Honesty: what is known is never taken back, and nothing is answered that was not said.
pub(super) fn check(index: &Index<'_>, found: &mut Findings) {
    for (place, event) in index.events.iter().enumerate() {
        if let Some(mid) = event.what.outcome_of() {
            check_answer(index, mid, place, found);
        }
    }
    for send in &index.sends {
        if let (Some((_, ok)), Some(fail)) = (send.ok, send.fail) {
            let cites = [send.invoke, ok, fail].map(Cite::event);
            found.add(Rule::H11, send.conv, &cites, || {
                let (conv, user) = (send.conv, send.user);
                format!("{conv}: a message of u{user} was both acknowledged and refused")
            });
        }
    }
}

fn check_answer(index: &Index<'_>, mid: Mid, place: usize, found: &mut Findings) {
    match index.by_mid(mid) {
        None => found.add(Rule::H11, None, &[Cite::event(place)], || {
            format!("{mid} is answered, and nobody said it")
        }),
        Some(send) if place < send.invoke => {
            let cites = [place, send.invoke].map(Cite::event);
            found.add(Rule::H11, send.conv, &cites, || {
                format!("{mid} is answered before it is said")
            });
        }
        Some(_) => {}
    }
}

/// Vacuity: too little happened, or too little was looked at, for the rest to mean anything.
pub(super) fn check_vacuity(
    index: &Index<'_>,
    figures: &Figures,
    thresholds: &Thresholds,
    found: &mut Findings,
) {
    let needs = [
        ("messages acknowledged", figures.acked, thresholds.min_acked),
        ("faults fired", figures.faults.values().sum(), thresholds.min_faults),
        ("messages sent again", figures.retries, thresholds.min_retries),
        ("messages missed and fetched", figures.repairs, thresholds.min_repairs),
    ];
    for (what, count, least) in needs {
        if count < least {
            found.void.push(format!("{count} {what}, of at least {least}"));
        }
    }
    let mut unread: Vec<_> =
        index.said_in().filter(|conv| !index.dumps.contains_key(conv)).collect();
    unread.sort_unstable();
    if let Some(conv) = unread.first() {
        let count = unread.len();
        found.void.push(format!("{count} histories were not read in the end, such as {conv}"));
    }
    for (first, second) in &index.unsound {
        let (first, second) = (index.events[*first].at, index.events[*second].at);
        found.void.push(format!("events {first} and {second} name two messages alike"));
    }
}
