//! The gateway: the daemon that clients connect to.
//!
//! A client holds one TCP connection to one gateway. The gateway checks who the client is, passes
//! its requests on, and delivers what others send it. It stores nothing: a message is handed to
//! storage, and its sender is told "stored" only after storage has said so.
//!
//! # How the modules know each other
//!
//! ```text
//! listener ──► connection ──► service ──┬──► commands, sending             what a client may do
//!                                       ├──► allowances, costs, limits     and how much of it
//!                                       └──► login, requests ──┐
//!                                                              ▼
//! peers ──────► ownership ────────────────────────────────► gateway ──► marks, news
//! what others   what follows when                              │
//! say           a partition moves                              ▼
//!                                                     delivery, presence   what clients hear of others
//!                                                              │
//!                                                              ▼
//! outbox ◄── session ◄── registry ◄───────────────────────── parts ──► hub, storage, sends
//!
//! storage ──► claims, partitions, routing, merging       whom a question goes to
//! ```
//!
//! Arrows lead one way: no module knows one that knows it, directly or through others. What needs
//! several parts is given [`Parts`](parts::Parts); what needs delivery, presence, marks or news as well
//! is given the [`Gateway`](gateway::Gateway).
//!
//! Start reading at `connection`, then `service`; for the way back at `delivery`; for clusters of
//! several db_proxies at `ownership`.
//!
//! # Invariants
//!
//! - Nothing is written to disk.
//! - "Stored" is written to a client only after storage has said so.
//! - Who a client is, is what its login said, never what its frames say.
//! - Nothing but login, heartbeat and hello is served before the login is accepted, and the first
//!   push comes after its answer.
//! - A client that does not read loses its connection. It costs no other client anything.

mod allowances;
mod answer_parts;
mod closing;
mod commands;
mod config;
mod connection;
mod connections;
mod costs;
mod counted;
mod delivery;
mod drain;
mod frames;
mod frames_told;
mod gateway;
mod hub;
mod kicks;
mod limits;
mod listener;
mod load;
mod logbook;
mod login;
mod marks;
mod membership;
mod metrics;
mod news;
mod outbox;
mod ownership;
mod partial;
mod parts;
mod peers;
mod presence;
mod profiles;
mod readiness;
mod refusals;
mod registry;
mod requests;
mod seen;
mod sending;
mod sends;
mod service;
mod session;
mod start;
mod timers;
mod tokens;
mod watched;
mod waves;

#[cfg(test)]
mod tests;

pub use config::{Config, LimitsConfig};
pub use start::run;
