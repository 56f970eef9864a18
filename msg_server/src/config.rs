//! The gateway's settings.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use daemon::{ClusterConfig, ConfigError, ListenTlsConfig, Network, ProcessConfig, Settings};
use db_client::hooks::{self, HookSettings};
use proto::limits::MESSAGE_BODY_MAX;
use serde::Deserialize;

/// The longest body of a text message that may be allowed.
const TEXT_BYTES_CEILING: usize = 256 << 10;

/// The gateway's settings, as in its file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What has nothing to do with the daemon's work.
    pub process: ProcessConfig,
    /// How this daemon proves to the others that it is one of them.
    pub cluster: ClusterConfig,
    /// Where clients connect without TLS; nowhere if not set.
    pub listen: Option<SocketAddr>,
    /// Where clients connect with TLS.
    pub tls: Option<ListenTlsConfig>,
    /// Allows `listen` to be an address that other machines reach. Old clients need it: anybody who can
    /// listen on the way reads what they send.
    pub allow_plain: bool,
    /// What clients are told to connect to: a host or an address. The listening address if not set.
    pub advertise_host: Option<String>,
    /// A second address for the same.
    pub advertise_backup_host: Option<String>,
    /// The port that clients are told, if it is not the one listened on.
    pub advertise_port: Option<u16>,
    /// The login_servers, which send clients here. As `ip:port` or `name:port`.
    pub login_servers: Vec<String>,
    /// The route_servers, all replicas.
    pub route_servers: Vec<String>,
    /// The db_proxies.
    pub db_proxies: Vec<String>,
    /// TCP balancers in front of the listening ports, as addresses and networks: what comes from them
    /// begins with a PROXY header (version 1 or 2, before TLS), which says where the client is.
    pub proxies: Vec<Network>,
    /// What one client, and all together, may use.
    pub limits: LimitsConfig,
    /// Programs that are asked about messages before they are admitted. Taken up by a reload.
    pub hooks: Vec<HookSettings>,
}

/// The table `[limits]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Clients at once, on each listener. Beyond, the one that has been there for longest without a
    /// login makes way; if all are logged in, more wait in the kernel's backlog.
    pub connections_max: usize,
    /// Clients at once, on each listener, from one address (IPv6: one /64) other than loopback. 0 = no
    /// limit.
    pub connections_per_ip_max: usize,
    /// From the connection to the accepted login.
    pub login_limit_s: u64,
    /// From one byte of a frame to the next; before the login from its first byte to its last.
    pub partial_frame_limit_s: u64,
    /// A frame that was begun may take as long as it would at so many bytes a second, besides.
    pub frame_bytes_per_s_min: u32,
    /// Silence of a PC client.
    pub idle_pc_limit_s: u64,
    /// Silence of a mobile client. Android is silent for four minutes.
    pub idle_mobile_limit_s: u64,
    /// Without progress in writing to a client.
    pub write_limit_s: u64,
    /// Frames that may wait for one client because somebody else sent something.
    pub outbox_frames_max: u32,
    /// Bytes of such frames.
    pub outbox_bytes_max: usize,
    /// Bytes of such frames of all clients together.
    pub outbox_bytes_total_max: usize,
    /// Messages that one user sends in a second, in the long run.
    pub sends_per_s: u32,
    /// Messages that one user may send at once after a pause.
    pub sends_burst: u32,
    /// Bytes of messages that one user sends in a second, in the long run.
    pub sent_bytes_per_s: u32,
    /// Bytes of messages that one user may send at once after a pause.
    pub sent_bytes_burst: u32,
    /// What one user may ask in a second, in the long run; a small look-up is 1, all users are 100.
    pub questions_per_s: u32,
    /// What one user may ask at once after a pause.
    pub questions_burst: u32,
    /// Changes of one user's signature and picture in a minute.
    pub profile_changes_per_minute: u32,
    /// Seconds between two pieces of news of one user that go to everybody.
    pub told_every_s: u64,
    /// Groups made, and times that members are added, of one user in a minute.
    pub group_changes_per_minute: u32,
    /// Messages of one client that are not answered yet.
    pub unanswered_max: u32,
    /// Bytes of unanswered messages of all clients together.
    pub unanswered_bytes_total_max: usize,
    /// The longest content of a text message.
    pub text_bytes_max: usize,
    /// The longest content of a voice message.
    pub voice_bytes_max: usize,
    /// Unknown or misplaced commands of one client in a minute; beyond, it is closed.
    pub junk_per_minute_max: u32,
    /// Users that one client hears of when more than 1,000 are online: those it asked about last. 8
    /// bytes each, for each client that asks.
    pub watched_max: usize,
    /// Conversations that are remembered since they changed in the last seconds, to drop what comes
    /// twice and to notice what is missing.
    pub conversations_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            process: ProcessConfig::default(),
            cluster: ClusterConfig::default(),
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 8000))),
            tls: None,
            allow_plain: false,
            advertise_host: None,
            advertise_backup_host: None,
            advertise_port: None,
            login_servers: Vec::new(),
            route_servers: Vec::new(),
            db_proxies: Vec::new(),
            proxies: Vec::new(),
            limits: LimitsConfig::default(),
            hooks: Vec::new(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_max: 100_000,
            connections_per_ip_max: 10_000,
            login_limit_s: 15,
            partial_frame_limit_s: 10,
            frame_bytes_per_s_min: 2_048,
            idle_pc_limit_s: 120,
            idle_mobile_limit_s: 300,
            write_limit_s: 30,
            outbox_frames_max: 256,
            outbox_bytes_max: 64 << 10,
            outbox_bytes_total_max: 256 << 20,
            sends_per_s: 50,
            sends_burst: 200,
            sent_bytes_per_s: 2_000_000,
            sent_bytes_burst: 20_000_000,
            questions_per_s: 200,
            questions_burst: 12_000,
            profile_changes_per_minute: 60,
            told_every_s: 10,
            group_changes_per_minute: 10,
            unanswered_max: 32,
            unanswered_bytes_total_max: 128 << 20,
            text_bytes_max: 64 << 10,
            voice_bytes_max: MESSAGE_BODY_MAX,
            junk_per_minute_max: 10,
            watched_max: 10_000,
            conversations_max: 65_536,
        }
    }
}

impl LimitsConfig {
    /// From the connection to the accepted login.
    pub(crate) fn login_limit(&self) -> Duration {
        Duration::from_secs(self.login_limit_s)
    }

    /// From one byte of a frame to the next; before the login from its first byte to its last.
    pub(crate) fn partial_frame_limit(&self) -> Duration {
        Duration::from_secs(self.partial_frame_limit_s)
    }

    /// Without progress in writing to a client.
    pub(crate) fn write_limit(&self) -> Duration {
        Duration::from_secs(self.write_limit_s)
    }

    /// Silence of a client of that class: 0 PC, 1 mobile.
    pub(crate) fn idle_limit(&self, device_class: u32) -> Duration {
        let seconds =
            if device_class == 0 { self.idle_pc_limit_s } else { self.idle_mobile_limit_s };
        Duration::from_secs(seconds)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("connections_max", self.connections_max > 0),
            ("login_limit_s", self.login_limit_s > 0),
            ("partial_frame_limit_s", self.partial_frame_limit_s > 0),
            ("frame_bytes_per_s_min", self.frame_bytes_per_s_min > 0),
            ("idle_pc_limit_s", self.idle_pc_limit_s > 0),
            ("idle_mobile_limit_s", self.idle_mobile_limit_s > 0),
            ("write_limit_s", self.write_limit_s > 0),
            ("outbox_frames_max", self.outbox_frames_max > 0),
            ("sends_per_s", self.sends_per_s > 0),
            ("sends_burst", self.sends_burst > 0),
            ("sent_bytes_per_s", self.sent_bytes_per_s > 0),
            ("sent_bytes_burst", self.sent_bytes_burst > 0),
            ("questions_per_s", self.questions_per_s > 0),
            ("questions_burst", self.questions_burst > 0),
            ("profile_changes_per_minute", self.profile_changes_per_minute > 0),
            ("told_every_s", self.told_every_s > 0),
            ("group_changes_per_minute", self.group_changes_per_minute > 0),
            ("unanswered_max", self.unanswered_max > 0),
            ("watched_max", self.watched_max > 0),
            ("conversations_max", self.conversations_max > 0),
        ];
        if let Some((name, _zero)) = positive.iter().find(|(_name, positive)| !positive) {
            return Err(ConfigError::new(format!("limits.{name}"), "must be at least 1"));
        }
        if self.outbox_bytes_max < 4096 {
            return Err(ConfigError::new("limits.outbox_bytes_max", "must be at least 4096"));
        }
        if self.unanswered_bytes_total_max < 1 << 20 {
            let allowed = "must be at least 1048576";
            return Err(ConfigError::new("limits.unanswered_bytes_total_max", allowed));
        }
        if self.text_bytes_max > TEXT_BYTES_CEILING {
            let allowed = format!("must be at most {TEXT_BYTES_CEILING}");
            return Err(ConfigError::new("limits.text_bytes_max", allowed));
        }
        if self.voice_bytes_max > MESSAGE_BODY_MAX {
            let allowed = format!("must be at most {MESSAGE_BODY_MAX}: Android takes no more");
            return Err(ConfigError::new("limits.voice_bytes_max", allowed));
        }
        Ok(())
    }
}

impl Config {
    /// What clients are told to connect to.
    pub(crate) fn advertised_host(&self) -> String {
        match (&self.advertise_host, self.first_listen()) {
            (Some(host), _) => host.clone(),
            (None, Some(addr)) => addr.ip().to_string(),
            (None, None) => String::new(),
        }
    }

    fn first_listen(&self) -> Option<SocketAddr> {
        self.listen.or(self.tls.as_ref().map(|tls| tls.listen))
    }
}

impl Settings for Config {
    const NAME: &'static str = "msg_server";

    fn check(&self) -> Result<(), ConfigError> {
        self.cluster.check()?;
        self.limits.check()?;
        hooks::check(&self.hooks)?;
        let Some(first) = self.first_listen() else {
            return Err(ConfigError::new("listen", "must be set, or the table `tls`"));
        };
        if let Some(plain) = self.listen
            && !plain.ip().is_loopback()
            && !self.allow_plain
        {
            let allowed = "must be a loopback address unless `allow_plain` is true";
            return Err(ConfigError::new("listen", allowed));
        }
        if self.advertise_host.is_none() && is_any(first.ip()) {
            let allowed = "must be set when the listening address is not one that clients can use";
            return Err(ConfigError::new("advertise_host", allowed));
        }
        if self.advertise_host.as_ref().is_some_and(String::is_empty) {
            return Err(ConfigError::new("advertise_host", "must not be empty"));
        }
        if self.db_proxies.is_empty() {
            return Err(ConfigError::new("db_proxies", "must name at least one"));
        }
        if self.route_servers.is_empty() {
            return Err(ConfigError::new("route_servers", "must name at least one"));
        }
        Ok(())
    }

    fn process(&self) -> &ProcessConfig {
        &self.process
    }
}

fn is_any(ip: IpAddr) -> bool {
    ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use daemon::Secret;

    use super::*;

    fn valid() -> Config {
        Config {
            cluster: ClusterConfig {
                key: Some(Secret::new("0123456789abcdef")),
                ..ClusterConfig::default()
            },
            db_proxies: vec!["127.0.0.1:1".to_owned()],
            route_servers: vec!["127.0.0.1:2".to_owned()],
            ..Config::default()
        }
    }

    fn refusal(change: impl FnOnce(&mut Config)) -> String {
        let mut config = valid();
        change(&mut config);
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_with_a_key_and_peers_are_valid() {
        valid().check().unwrap();
    }

    #[test]
    fn plain_text_beyond_loopback_must_be_asked_for() {
        let open = |config: &mut Config| config.listen = Some("10.0.0.1:8000".parse().unwrap());
        assert!(refusal(open).contains("allow_plain"));
        let mut config = valid();
        open(&mut config);
        config.allow_plain = true;
        config.check().unwrap();
        assert_eq!(config.advertised_host(), "10.0.0.1");
    }

    #[test]
    fn clients_are_never_told_an_address_that_is_none() {
        let refused = refusal(|config| {
            config.listen = Some("0.0.0.0:8000".parse().unwrap());
            config.allow_plain = true;
        });
        assert!(refused.contains("advertise_host"), "{refused}");
    }

    #[test]
    fn limits_that_would_break_clients_are_refused() {
        assert!(refusal(|config| config.limits.voice_bytes_max = 480 << 10).contains("Android"));
        assert!(refusal(|config| config.limits.sends_burst = 0).contains("limits.sends_burst"));
        assert!(refusal(|config| config.listen = None).contains("listen"));
        assert!(refusal(|config| config.db_proxies.clear()).contains("db_proxies"));
    }
}
