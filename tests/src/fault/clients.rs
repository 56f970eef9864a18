//! What clients do to themselves: they move from gateway to gateway, log in while something is said,
//! and send again what they have sent.

mod habits;
mod hop;
mod login_race;
mod resend;

use client::{ClientType, Connection, hello};

use super::Scenario;
use crate::Site;
use crate::device::get_in;

/// The scenarios of this folder.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "hop",
        about: "a user's devices move between the gateways every 2 s while they receive 50 messages/s, their old sockets left half-open: complete 2 s after each login, no gap, nothing twice",
        short: 4,
        long: 150,
        run: hop::run,
    },
    Scenario {
        name: "login-race",
        about: "a login within ±50 ms of a message: the message is in the history or pushed, within 2 s",
        short: 60,
        long: 2_000,
        run: login_race::run,
    },
    Scenario {
        name: "habits",
        about: "old clients with their habits: one number for every frame, numbers from 1 after a restart, the same words from a PC and a phone, to a user and to a group of one number, Windows' repeats over lost answers, kills and standing still: what was acknowledged is stored, each as its own; a repeat is stored once",
        short: 12,
        long: 400,
        run: habits::run,
    },
    Scenario {
        name: "windows-resend",
        about: "what is sent again, on the same connection or through the other gateway, over kills, is stored once and answered with its number; a timeout is no refusal",
        short: 10,
        long: 300,
        run: resend::run,
    },
];

/// Logs a user in at the gateway with this index, with the extension if so wished.
async fn logged_in(
    site: &Site,
    gateway: usize,
    user: (u32, ClientType),
    extended: bool,
) -> Connection {
    let gateway = site.gateways.get(gateway).expect("there are two gateways");
    get_in(gateway, None, user, extended.then(hello)).await.0
}
