//! What a daemon is told of its links.

use super::frame::LinkFrame;
use super::handle::Link;

/// What a daemon does with its links. Everything here is called from the link's own task: it must
/// not block and should be short, since the link reads nothing meanwhile.
pub trait LinkHandler: Send + Sync + 'static {
    /// A link is up: it can be sent to from now on.
    fn up(&self, link: &Link);

    /// A frame has come in that is no answer to a [`Link::call`]. Its body is a part of the read
    /// buffer: copy what is kept for long.
    fn frame(&self, link: &Link, frame: LinkFrame);

    /// All frames of one read have been handed over; for what is better done once for many.
    fn batch_end(&self, _link: &Link) {}

    /// The link is down: nothing sent to it from now on arrives, and of what was sent before, the
    /// last may not have arrived.
    fn down(&self, link: &Link);
}
