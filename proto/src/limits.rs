//! Sizes that both ends of a client connection rely on.

/// Length of the header that every frame starts with, and so the least length of a frame.
pub const HEADER_LEN: usize = 16;

/// The largest frame that a connection may send before its login: until then it is not known to be a
/// user's.
pub const LIMIT_BEFORE_LOGIN: usize = 4 * KIB;

/// The largest frame that a logged-in client may send. Voice messages are the largest there are.
pub const LIMIT_AFTER_LOGIN: usize = 512 * KIB;

/// The largest frame that may go to a client.
///
/// Android closes the connection at anything above 409,600 bytes. The margin is room for fields
/// that [`extend`](crate::frame::extend) adds.
pub const LIMIT_TO_CLIENT: usize = 409_600 - 1_600;

/// The largest frame with a command that this build does not know. Such a frame is skipped, so
/// there is no reason to hold much of it in memory.
pub const LIMIT_UNKNOWN_COMMAND: usize = 64 * KIB;

/// How far ahead of the bytes that really came the reading buffer may grow. A header may promise
/// half a megabyte; only bytes that arrive make us hold that much.
pub(crate) const RESERVE_AHEAD: usize = 16 * KIB;

pub(crate) const KIB: usize = 1024;

/// The longest `msg_data` of one message, in bytes. What is accepted must fit a frame to a client
/// ([`LIMIT_TO_CLIENT`]), alone or as the only message on a page of history.
pub const MESSAGE_BODY_MAX: usize = 400_000;

/// How many hooks a site has at most: what each of them said of a message stands in its record.
pub const HOOKS_MAX: usize = 8;

/// The longest name of a hook, in bytes.
pub const HOOK_NAME_LEN_MAX: usize = 64;

/// The longest reason that a hook may give for refusing a message, in bytes of UTF-8.
pub const HOOK_REASON_LEN_MAX: usize = 256;
