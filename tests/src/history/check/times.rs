//! Times of messages: one for each, wherever it is told, and none before that of an earlier message.

use std::collections::BTreeMap;

use super::{Findings, Rule};
use crate::history::event::{Conv, Delivery, What};
use crate::history::index::{Cite, Index};

/// The time of each message, and where it was told first.
type Times = BTreeMap<(Conv, u32), (u32, Cite)>;

pub(super) fn check(index: &Index<'_>, found: &mut Findings) {
    let mut times = Times::new();
    for (place, event) in index.events.iter().enumerate() {
        match &event.what {
            What::Ok { mid, msg_id, time } => {
                if let Some(send) = index.by_mid(*mid) {
                    saw(index, &mut times, (send.conv, *msg_id), *time, Cite::event(place), found);
                }
            }
            What::Push(it) | What::Shown(it) | What::Wire(it) => {
                let Delivery { conv, msg_id, time, .. } = *it;
                saw(index, &mut times, (conv, msg_id), time, Cite::event(place), found);
            }
            What::Pull { conv, rows, .. } | What::Stored { conv, rows, .. } => {
                for (row, it) in rows.iter().enumerate() {
                    saw(
                        index,
                        &mut times,
                        (*conv, it.msg_id),
                        it.time,
                        Cite::row(place, row),
                        found,
                    );
                }
            }
            _ => {}
        }
    }
    times_rise(index, times, found);
}

fn times_rise(index: &Index<'_>, times: Times, found: &mut Findings) {
    let mut before: Option<((Conv, u32), (u32, Cite))> = None;
    for (message, told) in times {
        if let Some(((conv, earlier), (time, cite))) = before
            && conv == message.0
            && time > told.0
        {
            found.add(Rule::H4, conv, &evidence(index, [cite, told.1]), || {
                let (msg_id, later) = (message.1, told.0);
                format!("{conv}: {msg_id} was taken at {later}, and {earlier} before it at {time}")
            });
        }
        before = Some((message, told));
    }
}

fn saw(
    index: &Index<'_>,
    times: &mut Times,
    message: (Conv, u32),
    time: Option<u32>,
    cite: Cite,
    found: &mut Findings,
) {
    let Some(time) = time else { return };
    let (first, by) = *times.entry(message).or_insert((time, cite));
    if first != time {
        let (conv, msg_id) = message;
        found.add(Rule::H3, conv, &evidence(index, [by, cite]), || {
            format!("{conv}: {msg_id} was taken at {first} and at {time}")
        });
    }
}

/// An answer says where it belongs by what it answers.
fn evidence(index: &Index<'_>, cites: [Cite; 2]) -> Vec<Cite> {
    let said = cites.into_iter().flat_map(|cite| index.evidence(cite.event));
    cites.into_iter().chain(said).collect()
}
