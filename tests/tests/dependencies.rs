//! What we build upon: licences, where it comes from, and what must not be among it.
//!
//! `cargo deny` checks the same and more (`.cargo/deny.toml`), where it is installed. This needs nothing
//! but cargo itself. The lists are those of `.cargo/deny.toml`: it is read here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

/// Where packages come from that are not ours, as cargo names it.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Of these two versions would be two runtimes, two kinds of TLS, or two kinds of one type at a border.
const ONCE: [&str; 7] = ["tokio", "rustls", "ring", "prost", "bytes", "hyper", "tracing"];

/// What `cargo metadata` says.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Clone, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Clone, Deserialize)]
struct Dependency {
    name: String,
    req: String,
    path: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    dependencies: Vec<String>,
}

/// The lists in `.cargo/deny.toml`.
#[derive(Debug, Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Debug, Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    #[serde(default)]
    wrappers: Vec<String>,
    reason: String,
}

impl Metadata {
    /// Of everything that is built for this machine, with all features.
    fn read() -> Self {
        let version = Command::new(cargo()).arg("-vV").output().expect("cargo runs").stdout;
        let version = String::from_utf8(version).expect("its version is text");
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        let output = Command::new(cargo())
            .args(["metadata", "--locked", "--all-features", "--format-version", "1"])
            .args(["--filter-platform", host.expect("cargo names its host")])
            .arg("--manifest-path")
            .arg(root().join("Cargo.toml"))
            .output()
            .expect("cargo runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cargo metadata: {complaint}");
        let metadata: Self = serde_json::from_slice(&output.stdout).expect("it is JSON");
        metadata.used()
    }

    /// Without packages that the lock file knows and nobody uses here.
    fn used(self) -> Self {
        let used: BTreeSet<&str> = self.resolve.nodes.iter().map(|node| node.id.as_str()).collect();
        let packages = self.packages.iter().filter(|package| used.contains(package.id.as_str()));
        Self { packages: packages.cloned().collect(), resolve: self.resolve }
    }

    fn strangers(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.source.is_some())
    }

    /// Packages whose licence is none of those allowed.
    fn unlicensed(&self, allowed: &BTreeSet<String>) -> Vec<String> {
        let is_free = |package: &&Package| {
            let licence = package.license.as_deref();
            licence.is_some_and(|licence| is_allowed(licence, allowed))
        };
        let wrong = self.strangers().filter(|package| !is_free(package));
        wrong.map(|package| format!("{}: {:?}", package.title(), package.license)).collect()
    }

    /// Packages from elsewhere than the registry.
    fn foreign(&self) -> Vec<String> {
        let elsewhere =
            self.strangers().filter(|package| package.source.as_deref() != Some(REGISTRY));
        elsewhere.map(|package| format!("{}: {:?}", package.title(), package.source)).collect()
    }

    /// Packages that must not be used at all, or by these users alone.
    fn banned(&self, bans: &[Ban]) -> Vec<String> {
        let mut wrong = Vec::new();
        for ban in bans {
            for package in self.packages.iter().filter(|package| package.name == ban.name) {
                for user in self.users_of(package) {
                    if !ban.wrappers.contains(&user.name) {
                        let (name, user) = (&package.name, user.title());
                        wrong.push(format!("{user} uses {name}: {}", ban.reason));
                    }
                }
            }
        }
        wrong
    }

    fn users_of(&self, package: &Package) -> Vec<&Package> {
        let uses = |node: &&Node| node.dependencies.contains(&package.id);
        let users: BTreeSet<&str> =
            self.resolve.nodes.iter().filter(uses).map(|node| node.id.as_str()).collect();
        self.packages.iter().filter(|other| users.contains(other.id.as_str())).collect()
    }

    /// Dependencies of ours of which any version is taken.
    fn any_version(&self) -> Vec<String> {
        let ours = self.packages.iter().filter(|package| package.source.is_none());
        let all = ours.flat_map(|package| {
            let wild =
                |dependency: &&Dependency| dependency.path.is_none() && dependency.req == "*";
            package.dependencies.iter().filter(wild).map(move |other| (package, other))
        });
        all.map(|(package, other)| format!("{} takes any {}", package.title(), other.name))
            .collect()
    }

    /// The versions of packages of which there are several.
    fn several_versions(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for package in &self.packages {
            versions.entry(&package.name).or_default().insert(&package.version);
        }
        versions.retain(|_name, versions| versions.len() > 1);
        versions
    }
}

impl Package {
    fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

/// Whether a licence, which may be several (SPDX: `AND` before `OR`, brackets, `WITH` an exception), is
/// one that is allowed. `/` is an old way to write `OR`.
fn is_allowed(licence: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = licence.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().collect::<Vec<_>>();
    // So that the last word is at the end of a stack.
    words.reverse();
    let fine = any_of(&mut words, allowed);
    fine && words.is_empty()
}

fn any_of(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    let mut fine = all_of(words, allowed);
    while words.pop_if(|word| *word == "OR").is_some() {
        // Not `||`: what follows is to be read whatever came before.
        fine |= all_of(words, allowed);
    }
    fine
}

fn all_of(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    let mut fine = one(words, allowed);
    while words.pop_if(|word| *word == "AND").is_some() {
        fine &= one(words, allowed);
    }
    fine
}

fn one(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    match words.pop() {
        Some("(") => {
            let fine = any_of(words, allowed);
            words.pop_if(|word| *word == ")").is_some() && fine
        }
        Some(name) if words.pop_if(|word| *word == "WITH").is_some() => {
            let exception = words.pop().unwrap_or_default();
            allowed.contains(&format!("{name} WITH {exception}"))
        }
        Some(name) => allowed.contains(name),
        None => false,
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// The cargo that runs this test.
fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_unset| "cargo".to_owned())
}

fn deny() -> Deny {
    let file = root().join(".cargo/deny.toml");
    let text = std::fs::read_to_string(&file).expect("read .cargo/deny.toml");
    toml::from_str(&text).expect("it is as cargo deny wants it")
}

#[test]
fn everything_that_is_built_upon_is_free_and_from_the_registry_and_not_banned() {
    let (metadata, deny) = (Metadata::read(), deny());
    assert!(metadata.packages.len() > 100, "packages are found: {}", metadata.packages.len());
    let wrong = [
        ("licences that are not allowed", metadata.unlicensed(&deny.licenses.allow)),
        ("not from the registry", metadata.foreign()),
        ("banned", metadata.banned(&deny.bans.deny)),
        ("any version is taken", metadata.any_version()),
    ];
    for (what, found) in wrong {
        assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
    }
}

/// A second version costs time to build and is a question for a review; of a few it is a mistake.
#[test]
fn of_what_must_agree_there_is_one_version() {
    let metadata = Metadata::read();
    for (name, versions) in metadata.several_versions() {
        let versions: Vec<&str> = versions.into_iter().collect();
        println!("several versions of {name}: {}", versions.join(", "));
        assert!(!ONCE.contains(&name), "several versions of {name}: {versions:?}");
    }
}

mod itself {
    use super::*;

    fn package(name: &str, license: Option<&str>, source: Option<&str>) -> Package {
        Package {
            id: format!("{name} 1"),
            name: name.to_owned(),
            version: "1".to_owned(),
            license: license.map(str::to_owned),
            source: source.map(str::to_owned),
            dependencies: Vec::new(),
        }
    }

    /// `a` is ours and uses `b` and `c`, and `b` uses `c`.
    fn three(b: Package, c: Package) -> Metadata {
        let ours = package("a", None, None);
        let node = |package: &Package, uses: &[&Package]| Node {
            id: package.id.clone(),
            dependencies: uses.iter().map(|other| other.id.clone()).collect(),
        };
        let nodes = vec![node(&ours, &[&b, &c]), node(&b, &[&c]), node(&c, &[])];
        Metadata { packages: vec![ours, b, c], resolve: Resolve { nodes } }
    }

    fn fine(name: &str) -> Package {
        package(name, Some("MIT"), Some(REGISTRY))
    }

    fn allowed() -> BTreeSet<String> {
        ["MIT", "Zlib", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into()
    }

    #[test]
    fn a_licence_is_allowed_if_one_side_of_or_and_both_of_and_are() {
        for (licence, expected) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("MIT OR GPL-3.0", true),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0/MIT", true),
            ("MIT AND GPL-3.0", false),
            ("MIT AND Zlib", true),
            ("MIT OR GPL-3.0 AND Zlib", true),
            ("GPL-3.0 OR MIT AND BSD", false),
            ("(MIT OR GPL-3.0) AND Zlib", true),
            ("(MIT OR GPL-3.0) AND BSD", false),
            ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
            ("MIT WITH LLVM-exception", false),
            ("(MIT", false),
            ("MIT MIT", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(licence, &allowed()), expected, "{licence}");
        }
    }

    #[test]
    fn each_fault_is_found_and_named() {
        let metadata = three(fine("b"), fine("c"));
        assert_eq!(metadata.unlicensed(&allowed()), [""; 0]);
        assert_eq!(metadata.foreign(), [""; 0]);

        let copyleft = three(package("b", Some("GPL-3.0"), Some(REGISTRY)), fine("c"));
        assert_eq!(copyleft.unlicensed(&allowed()).len(), 1);
        let silent = three(package("b", None, Some(REGISTRY)), fine("c"));
        assert_eq!(silent.unlicensed(&allowed()).len(), 1);
        let git = "git+https://example.com/b";
        assert_eq!(three(package("b", Some("MIT"), Some(git)), fine("c")).foreign().len(), 1);

        let ban = |wrappers: &[&str]| Ban {
            name: "c".to_owned(),
            wrappers: wrappers.iter().map(|name| (*name).to_owned()).collect(),
            reason: "one is enough".to_owned(),
        };
        assert_eq!(metadata.banned(&[ban(&[])]).len(), 2);
        assert_eq!(metadata.banned(&[ban(&["b"])]), ["a 1 uses c: one is enough"]);
        assert_eq!(metadata.banned(&[ban(&["b", "a"])]), [""; 0]);

        let second = Package { id: "c 2".to_owned(), version: "2".to_owned(), ..fine("c") };
        let mut several = three(fine("b"), fine("c"));
        assert!(several.several_versions().is_empty());
        several.packages.push(second);
        assert_eq!(several.several_versions()["c"], ["1", "2"].into());

        let mut wild = three(fine("b"), fine("c"));
        let any = |path: Option<&str>| Dependency {
            name: "c".to_owned(),
            req: "*".to_owned(),
            path: path.map(str::to_owned),
        };
        wild.packages[1].dependencies.push(any(None));
        wild.packages[0].dependencies.push(any(Some("/ours")));
        assert_eq!(wild.any_version(), [""; 0], "strangers may, and of ours there is one version");
        wild.packages[0].dependencies.push(any(None));
        assert_eq!(wild.any_version(), ["a 1 takes any c"]);
    }
}
