//! Freshness: how soon everybody has everything once nothing is hurt.

use std::time::Duration;

use super::view::Late;
use super::{Findings, Rule};
use crate::history::figures::{Freshness, quantile};
use crate::history::index::{Cite, Index};

/// How long each device that is online took to have everything that was acknowledged before the
/// last fault ended, from then on or from when it was connected again.
pub(super) fn check(
    index: &Index<'_>,
    late: Vec<Late>,
    limit: Option<Duration>,
    found: &mut Findings,
) -> Option<Freshness> {
    let healed = index.healed?;
    let healed_us = index.us(healed);
    let (mut took, mut reconnected) = (Vec::new(), 0);
    for Late { user, device, connected, last } in late {
        let connected_us = connected.map_or(0, |place| index.us(place));
        let begin = connected_us.max(healed_us);
        reconnected = reconnected.max(begin - healed_us);
        let us = last.map_or(0, |last| index.us(last).saturating_sub(begin));
        took.push(us);
        if let (Some(last), Some(limit)) = (last, limit)
            && u128::from(us) > limit.as_micros()
        {
            let mut cites = vec![Cite::event(healed), Cite::event(last)];
            cites.extend(connected.filter(|place| *place > healed).map(Cite::event));
            found.add(Rule::H9, index.what(last).conv(), &cites, || {
                format!("u{user}/{device} had everything after {} ms only", us / 1_000)
            });
        }
    }
    took.sort_unstable();
    Some(Freshness {
        devices: took.len(),
        p99_us: quantile(&took, 0.99),
        max_us: took.last().copied().unwrap_or(0),
        reconnected_us: reconnected,
    })
}
