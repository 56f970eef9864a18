//! Order: numbers rise for each device in each conversation as it spoke; and what was said after
//! something else was acknowledged has the higher number, also if another user said it.

use std::collections::HashMap;

use super::{Findings, Rule};
use crate::history::event::Conv;
use crate::history::index::{Index, Send};

pub(super) fn check(index: &Index<'_>, found: &mut Findings) {
    let mut last_of: HashMap<(u32, u32, Conv), (u32, &Send)> = HashMap::new();
    for send in &index.sends {
        if let Some((msg_id, _)) = send.ok {
            let device = (send.user, send.device, send.conv);
            if let Some((before, first)) = last_of.get(&device)
                && msg_id <= *before
            {
                let conv = send.conv;
                let mut cites = index.evidence(first.invoke);
                cites.extend(index.evidence(send.invoke));
                found.add(Rule::H4, conv, &cites, || {
                    let user = send.user;
                    format!("{conv}: u{user} said {before} before {msg_id}")
                });
            }
            last_of.insert(device, (msg_id, send));
        }
        check_real_time(index, send, found);
    }
}

/// Also for what was not acknowledged but is in the history.
fn check_real_time(index: &Index<'_>, send: &Send, found: &mut Findings) {
    let conv = send.conv;
    let Some(msg_id) = send.number() else { return };
    let Some((before, by)) = index.acked_before(conv, send.invoke) else { return };
    if msg_id > before {
        return;
    }
    let mut cites = index.evidence(by);
    cites.extend(index.evidence(send.invoke));
    found.add(Rule::H4, conv, &cites, || {
        format!("{conv}: {before} was acknowledged before {msg_id} was said")
    });
}
