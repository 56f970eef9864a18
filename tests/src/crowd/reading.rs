//! Reads everything in the end, as an old client does.

use std::collections::{BTreeMap, HashMap};

use client::{ClientType, Conversation, TlsConfig};
use futures_util::{StreamExt, stream};
use proto::client::MessageInfo;

use super::shared::{READER, Shared, conv, row};
use crate::Device;
use crate::history::{Connection, Conv, Progress, Row, What};

/// The newest messages that everybody reads. One member reads all of them.
const READ_MAX: u32 = 2_000;
/// Messages on one page.
const PAGE: u32 = 100;

/// Users who read at the same time.
const AT_ONCE: usize = 16;

/// Lets every user read all of the user's conversations.
pub(super) async fn read_all(gateway: &str, tls: Option<&TlsConfig>, shared: &Shared, last: u32) {
    // One of the people reads the whole of each. Users who entered later see less.
    let mut readers: HashMap<Conv, u32> = HashMap::new();
    for user in 1..=last.min(shared.people()) {
        for conversation in shared.places(user) {
            readers.entry(conv(user, conversation)).or_insert(user);
        }
    }
    let readers = &readers;
    let read = |user| async move {
        // A phone, which displaces no session that is still there.
        let mut device = Device::log_in_over(gateway, tls, user, ClientType::Android).await;
        read(&mut device, shared, readers, user).await;
    };
    stream::iter(1..=last).for_each_concurrent(AT_ONCE, read).await;
}

/// Lets a user read all.
async fn read(device: &mut Device, shared: &Shared, readers: &HashMap<Conv, u32>, user: u32) {
    let state = |state| What::Session { user, device: READER, state, class: None };
    shared.recorder.record(state(Connection::Connected));
    let unread = unread(device, shared, user).await;
    for conversation in shared.places(user) {
        let conv = conv(user, conversation);
        let head = device.latest(conversation).await;
        let unread = unread.get(&conversation).copied().unwrap_or(0);
        shared.recorder.record(What::Derived { user, conv, unread, head });
        let asked = Some(shared.recorder.last());
        if readers.get(&conv) == Some(&user) {
            let all = device.history(conversation).await;
            let rows = all.iter().map(|info| row(info, conversation)).collect();
            shared.recorder.record(What::Stored { conv, from: 1, rows });
        } else {
            let rows = newest(device, conversation).await;
            let complete_upto = rows.first().map_or(0, |newest| newest.msg_id);
            let oldest = rows.last().map_or(1, |oldest| oldest.msg_id);
            let from = if rows.len() >= READ_MAX as usize { oldest } else { 1 };
            let (device, to_head) = (READER, true);
            let pull = What::Pull { user, device, conv, from, complete_upto, asked, to_head, rows };
            shared.recorder.record(pull);
        }
    }
    shared.recorder.record(state(Connection::Disconnected));
}

/// How many messages a user has not read. Marks that nobody has confirmed are set once more before that: from then
/// on it is known how far the user has read, and so how many there must be.
async fn unread(device: &mut Device, shared: &Shared, user: u32) -> BTreeMap<Conversation, u32> {
    let mut marked = Vec::new();
    for conversation in shared.places(user) {
        let conv = conv(user, conversation);
        let upto = shared.recorder.read(|events| {
            let marks = events.iter().filter_map(|event| match event.what {
                What::Mark { user: of, conv: there, upto, .. } if (of, there) == (user, conv) => {
                    Some(upto)
                }
                _ => None,
            });
            marks.max()
        });
        if let Some(upto) = upto {
            device.read(conversation, upto).await;
            marked.push((conv, upto));
        }
    }
    // It is answered after the marks.
    let unread = device.unread().await;
    for (conv, upto) in marked {
        let phase = Progress::Ok;
        shared.recorder.record(What::Mark { user, conv, upto, phase });
    }
    unread
}

/// The newest messages, the newest first.
async fn newest(device: &mut Device, conversation: Conversation) -> Vec<Row> {
    let mut all: Vec<MessageInfo> = device.page(conversation, 0, PAGE).await;
    while let Some(oldest) = all.last().map(|info| info.msg_id).filter(|oldest| *oldest > 1)
        && all.len() < READ_MAX as usize
    {
        let page = device.page(conversation, oldest - 1, PAGE).await;
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    all.iter().map(|info| row(info, conversation)).collect()
}
