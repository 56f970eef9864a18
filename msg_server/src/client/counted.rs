//! A connection among those that were opened and closed: it is counted in both, whatever becomes of it, so
//! that the difference is how many there are.

use std::sync::Arc;

use tracing::debug;

use crate::client::closing::CloseReason;
use crate::metrics::ClosedLabel;
use crate::parts::Parts;

/// A connection that was accepted.
#[derive(Debug)]
pub(crate) struct Counted {
    parts: Arc<Parts>,
    is_closed: bool,
}

impl Counted {
    /// A connection is accepted.
    pub(crate) fn open(parts: &Arc<Parts>) -> Self {
        parts.metrics.opened.inc();
        Self { parts: Arc::clone(parts), is_closed: false }
    }

    /// It has ended, or cannot go on. Only the first reason counts.
    pub(crate) fn close(&mut self, reason: CloseReason) {
        if !std::mem::replace(&mut self.is_closed, true) {
            // At debug level whatever the reason: a stranger can cause any of them at will.
            debug!(%reason, "closed");
            self.parts.metrics.closed.get_or_create(&ClosedLabel { reason }).inc();
        }
    }
}

impl Drop for Counted {
    /// What ends a connection without a reason of its own is the end of the process.
    fn drop(&mut self) {
        self.close(CloseReason::Stopping);
    }
}

#[cfg(test)]
mod tests {
    use daemon::{Metrics, Shutdown};
    use proto::text::TextCipher;

    use super::*;
    use crate::Config;

    #[test]
    fn a_connection_is_closed_once_whatever_becomes_of_it() {
        let page = Metrics::new("msg_server");
        let parts =
            Parts::new(&Config::default(), &TextCipher::default(), 1, &page, Shutdown::default());
        let parts = Arc::new(parts);
        let closed = |reason| parts.metrics.closed.get_or_create(&ClosedLabel { reason }).get();
        let mut failed = Counted::open(&parts);
        failed.close(CloseReason::TlsFailed);
        failed.close(CloseReason::Kicked);
        drop(failed);
        assert_eq!((closed(CloseReason::TlsFailed), closed(CloseReason::Kicked)), (1, 0));
        drop(Counted::open(&parts));
        assert_eq!((parts.metrics.opened.get(), closed(CloseReason::Stopping)), (2, 1));
    }
}
