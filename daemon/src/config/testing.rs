//! Settings for tests of what every daemon does with its own.

use serde::Deserialize;

use super::error::ConfigError;
use super::listen_tls::ListenTlsConfig;
use super::process::ProcessConfig;
use super::settings::Settings;

/// The settings of a daemon that has no others.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct TestConfig {
    pub(crate) tls: Option<ListenTlsConfig>,
    pub(crate) process: ProcessConfig,
}

impl Settings for TestConfig {
    const NAME: &'static str = "test";

    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn process(&self) -> &ProcessConfig {
        &self.process
    }
}
