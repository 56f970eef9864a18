//! What comes in on links: gateways report how full they are.

use std::collections::HashMap;
use std::sync::Arc;

use daemon::link::{Link, LinkFrame, LinkHandler};
use parking_lot::Mutex;
use proto::cluster::Kind;
use proto::cluster::wire::{LoadReport, LoadVerdict};
use tracing::{debug, info, warn};

use crate::gateways::{ClientAddress, Source, Verdict};
use crate::reports::Reports;

/// The handler of all links of gateways.
#[derive(Debug)]
pub(crate) struct Links {
    reports: Arc<Reports>,
    /// What was answered last on each link that is up, by the link's number.
    verdicts: Mutex<HashMap<u64, Verdict>>,
}

impl Links {
    pub(crate) fn new(reports: Arc<Reports>) -> Self {
        Self { reports, verdicts: Mutex::default() }
    }

    fn take(&self, link: &Link, frame: &LinkFrame, report: LoadReport) -> Result<(), &'static str> {
        let name = report.name.clone();
        let source = Source { link: link.id(), boot: link.peer().boot };
        let verdict = self.reports.take(report, source)?;
        let before = self.verdicts.lock().insert(link.id(), verdict.clone());
        if before.as_ref() != Some(&verdict) {
            tell(link, frame, &name, &verdict);
        }
        Ok(())
    }
}

/// Tells the gateway and the operator whether its reports count from now on.
fn tell(link: &Link, frame: &LinkFrame, name: &str, verdict: &Verdict) {
    let peer = link.peer().addr;
    let refused = match verdict {
        Verdict::Taken => {
            info!(name, %peer, "a gateway reports");
            None
        }
        Verdict::NameTaken(ClientAddress { host, port, .. }) => {
            warn!(
                name, %peer, given = %format_args!("{host}:{port}"),
                "a second gateway of this name is refused: set cluster.name to a name of its own"
            );
            Some(format!("the gateway at {host}:{port} has the name {name}"))
        }
    };
    let verdict = LoadVerdict { refused };
    if let Err(error) = link.answer(frame, Kind::LoadReport.number(), &verdict) {
        debug!(%error, ?link, "no verdict");
    }
}

impl LinkHandler for Links {
    fn up(&self, _link: &Link) {
        // A gateway counts from its first report on.
    }

    fn frame(&self, link: &Link, frame: LinkFrame) {
        if Kind::from_number(frame.kind) != Some(Kind::LoadReport) {
            debug!(kind = frame.kind, "a message that is not for a login_server");
            return;
        }
        let report = frame.parse().map_err(|_error| "a report that cannot be read");
        if let Err(problem) = report.and_then(|report| self.take(link, &frame, report)) {
            warn!(gateway = link.peer().name, problem, "closing the link");
            link.reset(problem);
        }
    }

    fn down(&self, link: &Link) {
        self.reports.lost(link.id());
        self.verdicts.lock().remove(&link.id());
    }
}
