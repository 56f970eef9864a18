//! What is said where Kafka was left out.

use std::io::Write;

use daemon::{BoxError, StartRefused};

use super::health::Health;
use super::records::{Replay, Shown};
use crate::config::Config;

pub(super) fn inspect(_: &Config, _: Shown, _: &mut dyn Write) -> Result<Health, BoxError> {
    Err(left_out())
}

pub(super) fn verify(_: &Config, _: Shown, _: &mut dyn Write) -> Result<Health, BoxError> {
    Err(left_out())
}

pub(super) fn replay(_: &Config, _: Replay<'_>, _: &mut dyn Write) -> Result<Health, BoxError> {
    Err(left_out())
}

fn left_out() -> BoxError {
    let why = "the log is in Kafka, and this db_proxy was built without it: build it with \
               `--features kafka`";
    Box::new(StartRefused(why.to_owned()))
}
