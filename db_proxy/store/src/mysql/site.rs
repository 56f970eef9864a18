//! All databases of a site: which there are, what each is for, and whether they belong together.

use std::time::Duration;

use futures_util::FutureExt;
use ring::rand::{SecureRandom, SystemRandom};

use super::address::Address;
use super::failure::refusal;
use super::options::{MySqlLimits, MySqlOptions};
use super::pool::{Bounds, Pool};
use super::replica::Replica;
use super::schema::{self, IMPORTED, Original, Role, SITE, Side};
use super::shared_reads::SharedReads;
use crate::{StoreError, UserConversation};

/// A step of a migration may rewrite a table of many gigabytes.
const MIGRATION_STEP_MAX: Duration = Duration::from_hours(24);

/// One database: reads never wait for writes.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) reads: Pool,
    pub(super) writes: Pool,
    /// Users' lists that several partitions are asked for.
    pub(super) lists: SharedReads<UserConversation>,
    /// Where history may be read as well.
    pub(super) replica: Option<Replica>,
}

impl Database {
    fn new(address: &Address, options: &MySqlOptions) -> Self {
        let MySqlLimits { connect, read, write, .. } = options.limits;
        let reads =
            Bounds { connections: options.readers, wait: connect, step: read, whole: Some(read) };
        let writes =
            Bounds { connections: options.writers, wait: connect, step: write, whole: None };
        Self {
            reads: Pool::new(address.clone(), reads),
            writes: Pool::new(address.clone(), writes),
            lists: SharedReads::default(),
            replica: None,
        }
    }
}

/// The databases of a site.
#[derive(Debug)]
pub(super) struct Databases {
    pub(super) shards: Vec<Database>,
    /// `None`: logins are in the first shard.
    people: Option<Database>,
}

impl Databases {
    /// Where logins are.
    pub(super) fn people(&self) -> Option<&Database> {
        self.people.as_ref().or(self.shards.first())
    }

    /// Every database once: the shards, then that of logins, if it is one of its own.
    pub(super) fn all(&self) -> impl Iterator<Item = &Database> {
        self.shards.iter().chain(&self.people)
    }

    /// Opens all databases, if all are as they must be.
    pub(super) async fn open(options: &MySqlOptions) -> Result<Self, StoreError> {
        Self::open_all(options, true).await
    }

    /// The same of databases into which an import may not be finished.
    pub(super) async fn open_unfinished(options: &MySqlOptions) -> Result<Self, StoreError> {
        Self::open_all(options, false).await
    }

    async fn open_all(options: &MySqlOptions, to_serve: bool) -> Result<Self, StoreError> {
        let mut site = None;
        let mut databases = Vec::new();
        let mut originals = Vec::new();
        let replicas = if to_serve { replicas(options)? } else { Vec::new() };
        for (address, mut role) in layout(options)? {
            let database = Database::new(&address, options);
            let facts = role.facts.clone();
            role.facts.extend(site.clone().map(|site| (SITE, site)));
            let found = database.writes.attempt(|link| {
                let (address, role) = (address.clone(), role.clone());
                async move {
                    schema::check(link, &address, &role).await?;
                    if to_serve {
                        schema::check_imported(link, &address).await?;
                    }
                    Ok((schema::fact(link, SITE).await?, schema::fact(link, IMPORTED).await?))
                }
                .boxed()
            });
            let (found, imported) = found.await.map_err(|failure| refusal(failure, &address))?;
            site = site.or(found);
            databases.push(database);
            let site = site.clone().unwrap_or_default();
            originals.push(Original { facts, site, imported });
        }
        // After all primaries: while one of those is waited for, replicas are not reported at each try.
        for ((database, original), replica) in databases.iter_mut().zip(originals).zip(replicas) {
            if let Some(address) = replica {
                database.replica = Some(Replica::open(address, original, options).await?);
            }
        }
        let people = options.users.is_some().then(|| databases.pop()).flatten();
        Ok(Self { shards: databases, people })
    }
}

/// Brings all databases of a site to the current version.
pub(super) async fn migrate(options: &MySqlOptions) -> Result<(), StoreError> {
    let bounds = Bounds {
        connections: 1,
        wait: options.limits.connect,
        step: MIGRATION_STEP_MAX,
        whole: None,
    };
    let mut site: Option<String> = None;
    for (address, mut role) in layout(options)? {
        role.facts.extend(site.clone().map(|site| (SITE, site)));
        let offered = match &site {
            Some(site) => site.clone(),
            None => new_site()?,
        };
        let pool = Pool::new(address.clone(), bounds);
        let migrated = pool.attempt(|link| {
            let (address, role, offered) = (address.clone(), role.clone(), offered.clone());
            async move { schema::migrate(link, &address, &role, &offered).await }.boxed()
        });
        // The first one's is that of all.
        site = Some(migrated.await.map_err(|failure| refusal(failure, &address))?);
    }
    Ok(())
}

fn new_site() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| StoreError::Unavailable("the system gives no random numbers".to_owned()))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// Which databases there are and what is in each: the shards in order, then that of logins, if it
/// is one of its own.
fn layout(options: &MySqlOptions) -> Result<Vec<(Address, Role)>, StoreError> {
    let authorities = options.authorities.as_deref();
    if options.shards.is_empty() {
        return Err(StoreError::Refused("no MySQL URL is given".to_owned()));
    }
    if options.part >= options.partitions {
        let (part, partitions) = (options.part, options.partitions);
        let text = format!("partition {part} is asked for, but there are {partitions}");
        return Err(StoreError::Refused(text));
    }
    let mut layout = Vec::new();
    for (number, url) in options.shards.iter().enumerate() {
        let mut sides = vec![Side::Fold];
        if number == 0 && options.users.is_none() {
            sides.push(Side::People);
        }
        let facts = vec![
            ("partitions", options.partitions.to_string()),
            ("shards", options.shards.len().to_string()),
            ("shard", (number + 1).to_string()),
        ];
        layout.push((Address::parse(url, authorities)?, Role { sides, facts }));
    }
    if let Some(url) = &options.users {
        let role = Role { sides: vec![Side::People], facts: Vec::new() };
        layout.push((Address::parse(url, authorities)?, role));
    }
    Ok(layout)
}

/// The replica of each shard, if it has one.
fn replicas(options: &MySqlOptions) -> Result<Vec<Option<Address>>, StoreError> {
    let (replicas, shards) = (options.replicas.len(), options.shards.len());
    if replicas != 0 && replicas != shards {
        return Err(StoreError::Refused(format!(
            "there are {replicas} MySQL replicas and {shards} databases: name one for each, or \"\" for \
             a database without one"
        )));
    }
    let parse = |url: &String| Address::parse(url, options.authorities.as_deref());
    let some = |url: &String| (!url.is_empty()).then(|| parse(url)).transpose();
    options.replicas.iter().map(some).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(shards: &[&str], users: Option<&str>) -> MySqlOptions {
        let url = |name: &&str| format!("mysql://u@h/{name}");
        MySqlOptions {
            shards: shards.iter().map(url).collect(),
            users: users.map(|name| url(&name)),
            part: 1,
            partitions: 6,
            ..MySqlOptions::new(String::new())
        }
    }

    #[test]
    fn each_database_has_its_place_and_knows_how_many_there_are() {
        let of = |options: &MySqlOptions| -> Vec<(String, Vec<Side>, Vec<String>)> {
            let told = |(address, role): (Address, Role)| {
                let facts = role.facts.iter().map(|(name, value)| format!("{name} {value}"));
                (address.database().to_owned(), role.sides.clone(), facts.collect())
            };
            layout(options).unwrap().into_iter().map(told).collect()
        };
        let shard = |name: &str, sides: &[Side], number: u32| {
            let facts = ["partitions 6".to_owned(), "shards 2".to_owned()];
            let facts = facts.into_iter().chain([format!("shard {number}")]).collect();
            (name.to_owned(), sides.to_vec(), facts)
        };
        let both = [Side::Fold, Side::People];
        let without = of(&options(&["a", "b"], None));
        assert_eq!(without, [shard("a", &both, 1), shard("b", &[Side::Fold], 2)]);
        let with = of(&options(&["a", "b"], Some("logins")));
        let logins = ("logins".to_owned(), vec![Side::People], Vec::new());
        assert_eq!(with, [shard("a", &[Side::Fold], 1), shard("b", &[Side::Fold], 2), logins]);
    }

    #[test]
    fn a_partition_or_a_replica_that_cannot_be_is_refused() {
        let refused = |options: &MySqlOptions, said: &str| {
            let error = layout(options).map(drop).and(replicas(options).map(drop)).unwrap_err();
            let StoreError::Refused(text) = error else { panic!("{error}") };
            assert!(text.contains(said), "{text}");
        };
        let two = options(&["a", "b"], None);
        refused(&options(&[], Some("logins")), "no MySQL URL");
        refused(&MySqlOptions { part: 6, ..two.clone() }, "partition 6");
        layout(&MySqlOptions { part: 5, ..two.clone() }).unwrap();
        let with = |urls: &[&str]| MySqlOptions {
            replicas: urls.iter().map(|url| (*url).to_owned()).collect(),
            ..two.clone()
        };
        let url = "mysql://u@h/copy";
        refused(&with(&[url]), "1 MySQL replicas and 2 databases");
        refused(&with(&[url, "", url]), "3 MySQL replicas");
        refused(&with(&["", "mysql://u@h"]), "names no database");
        assert!(replicas(&two).unwrap().is_empty());
        let some = replicas(&with(&["", url])).unwrap();
        let named: Vec<_> = some.iter().map(|one| one.as_ref().map(Address::database)).collect();
        assert_eq!(named, [None, Some("copy")]);
    }

    #[test]
    fn every_site_has_a_number_of_its_own() {
        let (one, other) = (new_site().unwrap(), new_site().unwrap());
        assert_ne!(one, other);
        let is_digit = |digit: char| digit.is_ascii_digit() || ('a'..='f').contains(&digit);
        assert!(one.len() == 32 && one.chars().all(is_digit), "{one}");
    }
}
