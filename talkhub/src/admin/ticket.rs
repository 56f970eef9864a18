//! Tickets, as an administrator asks for them and reads them.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use proto::client::ClientType;
use proto::cluster::wire::{AdminAnswer, UserTicket};

/// Kinds of clients.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum Device {
    Windows,
    Mac,
    Ios,
    Android,
}

/// A ticket of a user for such a client.
pub(super) fn wanted(name: &str, device: Device) -> UserTicket {
    let kind = match device {
        Device::Windows => ClientType::Windows,
        Device::Mac => ClientType::Mac,
        Device::Ios => ClientType::Ios,
        Device::Android => ClientType::Android,
    };
    let client_type = u32::try_from(i32::from(kind)).unwrap_or_default();
    UserTicket { name: name.to_owned(), client_type }
}

/// The ticket in hex digits, alone on its line, so that a script can take it.
pub(super) fn shown(answer: &AdminAnswer) -> String {
    HEXLOWER.encode(answer.ticket.as_deref().unwrap_or_default())
}

/// What [`shown`] showed; `None` if it is something else.
pub(crate) fn read(digits: &str) -> Option<Vec<u8>> {
    let ticket = HEXLOWER_PERMISSIVE.decode(digits.trim().as_bytes()).ok();
    ticket.filter(|ticket| !ticket.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_is_a_kind_of_client() {
        let devices = [Device::Windows, Device::Mac, Device::Ios, Device::Android];
        let kinds = devices.map(|device| wanted("anna", device).client_type);
        assert_eq!(kinds, [0x01, 0x02, 0x11, 0x12]);
    }

    #[test]
    fn what_is_shown_is_read_and_nothing_else() {
        let ticket: Vec<u8> = (0..=255).collect();
        let answer = AdminAnswer { ticket: Some(ticket.clone().into()), ..AdminAnswer::default() };
        assert_eq!(read(&shown(&answer)), Some(ticket));
        assert_eq!(read(" 0aFF\n"), Some(vec![10, 255]));
        for text in ["", "0", "0a0", "0g", "\u{e4}\u{e4}", "0a 0b"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
