//! Where the databases of the store on servers are, and how they are used.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::metrics::ReplicaMetrics;
use crate::rules;

/// How the store on servers is used.
#[derive(Clone)]
pub struct MySqlOptions {
    /// Where conversations are: `mysql://user:password@host:3306/database`, one for each shard.
    /// Partition `p` is in number `p % length`. TLS: `?require_ssl=true`.
    pub shards: Vec<String>,
    /// Where history may be read as well: none, or a replica of each shard in the same order, where ""
    /// is a shard without one.
    pub replicas: Vec<String>,
    /// Counts what is read there.
    pub replica_metrics: ReplicaMetrics,
    /// Where logins are; `None` = in the first shard.
    pub users: Option<String>,
    /// A file of authorities (PEM): every connection is TLS, and every server must have a
    /// certificate of theirs.
    pub authorities: Option<PathBuf>,
    /// How many reads of each database may run at once, each on a connection of its own.
    pub readers: usize,
    /// How many writes.
    pub writers: usize,
    /// Which partition this object serves, from 0.
    pub part: u32,
    /// How many there are, for ever: written down in each shard.
    pub partitions: u32,
    /// How long a call may take.
    pub limits: MySqlLimits,
    /// Hears of a batch that gives a message's number a second time. If it returns, the batch is
    /// refused.
    pub on_broken_fold: fn(&str),
}

/// How long a call may take, before it is answered with "unavailable".
#[derive(Debug, Clone, Copy)]
pub struct MySqlLimits {
    /// To wait for a free connection, and to make a new one.
    pub connect: Duration,
    /// A read as a whole.
    pub read: Duration,
    /// Each statement of a write.
    pub write: Duration,
    /// A read from a replica as a whole, before the primary is asked instead.
    pub replica: Duration,
    /// How long a replica is left alone after it has failed or was late.
    pub replica_rest: Duration,
}

impl Default for MySqlLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            read: Duration::from_secs(2),
            write: Duration::from_secs(6),
            replica: Duration::from_millis(300),
            replica_rest: Duration::from_secs(5),
        }
    }
}

impl MySqlOptions {
    /// One database for everything, one partition.
    pub fn new(url: String) -> Self {
        Self {
            shards: vec![url],
            replicas: Vec::new(),
            replica_metrics: ReplicaMetrics::default(),
            users: None,
            authorities: None,
            readers: 16,
            writers: 4,
            part: 0,
            partitions: 1,
            limits: MySqlLimits::default(),
            on_broken_fold: rules::abort,
        }
    }
}

/// Without the URLs: they have passwords.
impl fmt::Debug for MySqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlOptions")
            .field("shards", &self.shards.len())
            .field("replicas", &self.replicas.len())
            .field("users", &self.users.is_some())
            .field("part", &self.part)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_shown_without_what_is_secret_in_them() {
        let url = "mysql://u:s3cret@h/chat".to_owned();
        let options = MySqlOptions {
            replicas: vec![url.clone(), url.clone()],
            users: Some(url.clone()),
            part: 3,
            partitions: 8,
            ..MySqlOptions::new(url)
        };
        let shown = format!("{options:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("mysql:"), "{shown}");
        for said in ["shards: 1", "replicas: 2", "users: true", "part: 3", "partitions: 8"] {
            assert!(shown.contains(said), "{said}: {shown}");
        }
    }

    #[test]
    fn a_single_url_is_for_everything_and_a_broken_fold_ends_the_process() {
        let options = MySqlOptions::new("mysql://u@h/chat".to_owned());
        assert_eq!((options.part, options.partitions, options.users), (0, 1, None));
        assert!(options.replicas.is_empty() && options.authorities.is_none());
        assert!(std::ptr::fn_addr_eq(options.on_broken_fold, rules::abort as fn(&str)));
        // A read from a replica is given up long before the primary's would be.
        let MySqlLimits { read, write, replica, .. } = options.limits;
        assert!(replica * 2 < read && read < write);
    }
}
