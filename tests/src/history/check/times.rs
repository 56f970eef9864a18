//! Times of messages: one for each, wherever it is told, and none before that of an earlier message.

use std::collections::BTreeMap;

use super::{Findings, Rule};
use crate::history::event::{Conv, Delivery, What};
use crate::history::index::{Cite, Index};

pub(super) fn check(index: &Index<'_>, found: &mut Findings) {
    let mut times = Times { index, told: BTreeMap::new(), found };
    for (place, event) in index.events.iter().enumerate() {
        match &event.what {
            What::Ok { mid, msg_id, time } => {
                if let Some(send) = index.by_mid(*mid) {
                    times.saw((send.conv, *msg_id), *time, Cite::event(place));
                }
            }
            What::Push(it) | What::Shown(it) | What::Wire(it) => {
                let Delivery { conv, msg_id, time, .. } = *it;
                times.saw((conv, msg_id), time, Cite::event(place));
            }
            What::Pull { conv, rows, .. } | What::Stored { conv, rows, .. } => {
                for (row, it) in rows.iter().enumerate() {
                    times.saw((*conv, it.msg_id), it.time, Cite::row(place, row));
                }
            }
            _ => {}
        }
    }
    times.rise();
}

struct Times<'a> {
    index: &'a Index<'a>,
    /// The time of each message, and where it was told first.
    told: BTreeMap<(Conv, u32), (u32, Cite)>,
    found: &'a mut Findings,
}

impl Times<'_> {
    fn saw(&mut self, message: (Conv, u32), time: Option<u32>, cite: Cite) {
        let Some(time) = time else { return };
        let (first, by) = *self.told.entry(message).or_insert((time, cite));
        if first != time {
            let (conv, msg_id) = message;
            self.found.add(Rule::H3, conv, &evidence(self.index, [by, cite]), || {
                format!("{conv}: {msg_id} was taken at {first} and at {time}")
            });
        }
    }

    fn rise(self) {
        let mut before: Option<((Conv, u32), (u32, Cite))> = None;
        for (message, told) in self.told {
            let (conv, msg_id) = message;
            if let Some(((of, earlier), (time, cite))) = before
                && of == conv
                && time > told.0
            {
                self.found.add(Rule::H4, conv, &evidence(self.index, [cite, told.1]), || {
                    let later = told.0;
                    format!(
                        "{conv}: {msg_id} was taken at {later}, and {earlier} before it at {time}"
                    )
                });
            }
            before = Some((message, told));
        }
    }
}

/// An answer says where it belongs by what it answers.
fn evidence(index: &Index<'_>, cites: [Cite; 2]) -> Vec<Cite> {
    let said = cites.into_iter().flat_map(|cite| index.evidence(cite.event));
    cites.into_iter().chain(said).collect()
}
