//! Where a database is: a URL, taken apart.

use std::fmt;
use std::path::Path;

use mysql_async::{Opts, OptsBuilder, SslOpts};

use crate::StoreError;

/// More prepared statements than one connection ever uses.
const STATEMENTS_MAX: usize = 256;

/// One database of one server, and how to get in.
#[derive(Clone)]
pub(super) struct Address {
    options: Opts,
    name: String,
    database: String,
}

/// Without the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Address {
    /// Takes a URL apart. With a file of authorities the connection must be TLS, and the server's
    /// certificate one of theirs.
    pub(super) fn parse(url: &str, authorities: Option<&Path>) -> Result<Self, StoreError> {
        // Not the URL itself: it has the password.
        let refused = |why: &str| {
            StoreError::Refused(format!(
                "a MySQL URL is wrong: {why}; it must look like \
                 mysql://user:password@host:3306/database"
            ))
        };
        let parsed = Opts::from_url(url).map_err(|error| refused(&error.to_string()))?;
        let Some(database) = parsed.db_name().map(str::to_owned) else {
            return Err(refused("it names no database"));
        };
        let Some(user) = parsed.user() else { return Err(refused("it names no user")) };
        let host = parsed.ip_or_hostname();
        let name = format!("MySQL {user}@{host}:{}/{database}", parsed.tcp_port());
        let mut tls = parsed.ssl_opts().cloned();
        if let Some(file) = authorities {
            let file = file.to_path_buf().into();
            let with = tls.unwrap_or_else(SslOpts::default);
            tls = Some(with.with_root_certs(vec![file]).with_disable_built_in_roots(true));
        }
        let options = OptsBuilder::from_opts(parsed)
            // A row that an UPDATE finds counts, also if it had those values already.
            .client_found_rows(true)
            .prefer_socket(false)
            .stmt_cache_size(STATEMENTS_MAX)
            .ssl_opts(tls)
            .into();
        Ok(Self { options, name, database })
    }

    /// For the driver.
    pub(super) fn options(&self) -> Opts {
        self.options.clone()
    }

    /// For people: server, user and database.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The database.
    pub(super) fn database(&self) -> &str {
        &self.database
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_all_but_the_password() {
        let url = "mysql://talkhub:s3cret@db.example:3307/chat?tcp_nodelay=true";
        let address = Address::parse(url, None).unwrap();
        assert_eq!(address.name(), "MySQL talkhub@db.example:3307/chat");
        assert_eq!(format!("{address:?}"), address.name());
        assert_eq!(address.database(), "chat");
    }

    #[test]
    fn a_wrong_url_is_refused_in_one_line_without_its_password() {
        for url in [
            "",
            "chat",
            "http://u:s3cret@h/chat",
            "mysql://u:s3cret@h",
            "mysql://u:s3cret@h/",
            "mysql://h/chat",
            "mysql://u:s3cret@h:port/chat",
            "mysql://u:s3cret@h/chat?what=1",
            "mysql://u:s3cret@h/chat?require_ssl=1",
        ] {
            let error = Address::parse(url, None).unwrap_err();
            let StoreError::Refused(text) = error else { panic!("{error}") };
            assert!(!text.contains("s3cret") && !text.contains('\n'), "{url}: {text}");
        }
    }

    #[test]
    fn a_connection_is_encrypted_if_its_url_says_so_or_authorities_are_named() {
        let of = |url: &str, file: Option<&str>| {
            Address::parse(url, file.map(Path::new)).unwrap().options()
        };
        let plain = "mysql://u@h/chat";
        assert!(of(plain, None).ssl_opts().is_none());
        let asked = of("mysql://u@h/chat?require_ssl=true", None);
        assert!(!asked.ssl_opts().unwrap().disable_built_in_roots());
        for url in [plain, "mysql://u@h/chat?require_ssl=true"] {
            let known = of(url, Some("authorities.pem"));
            let tls = known.ssl_opts().unwrap();
            // Those that are named, and no others.
            assert_eq!(tls.root_certs().len(), 1, "{url}");
            assert!(tls.disable_built_in_roots() && !tls.accept_invalid_certs(), "{url}");
        }
    }

    #[test]
    fn a_connection_goes_to_the_port_that_is_named() {
        let address = Address::parse("mysql://u@localhost/chat", None).unwrap();
        assert_eq!(address.name(), "MySQL u@localhost:3306/chat");
        // Not by a socket that the server tells of: that might be another server's.
        assert!(!address.options().prefer_socket());
        assert!(address.options().client_found_rows());
    }
}
