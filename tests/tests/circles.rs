//! No file of a crate knows one that knows it, directly or through others. So each can be read, tested and
//! moved with what is below it alone.
//!
//! What a file knows are the names that it takes from other files: in `use`, and in paths. A file that only
//! re-exports a name does not know it; a file that takes the name from there knows the file that
//! has it. Tests and what is compiled for them alone do not count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

type Module = Vec<String>;

/// What stands in one file.
#[derive(Debug, Default)]
struct File {
    /// The paths that it uses, as they are written.
    paths: BTreeSet<Vec<String>>,
    /// What `use` brings in: by its name here.
    imports: HashMap<String, Vec<String>>,
    /// The same, for others too.
    exports: HashMap<String, Vec<String>>,
    /// All names in it, but for those in `use` and `mod`.
    words: BTreeSet<String>,
}

#[test]
fn no_file_knows_one_that_knows_it() {
    let mut circles = Vec::new();
    let mut count = 0;
    for source in crates() {
        let files = files(&source);
        count += files.len();
        let knows = |module: &Module| known(&files, module);
        let direct: BTreeMap<&Module, BTreeSet<Module>> =
            files.keys().map(|module| (module, knows(module))).collect();
        for module in files.keys() {
            if let Some(way) = way_back(&direct, module) {
                circles.push(format!("{}: {way}", source.display()));
            }
        }
    }
    assert!(count > 200, "the files are found: {count}");
    assert!(circles.is_empty(), "circles of files:\n{}", circles.join("\n"));
}

/// The files on the shortest way from a file to itself.
fn way_back(direct: &BTreeMap<&Module, BTreeSet<Module>>, from: &Module) -> Option<String> {
    let mut ways: Vec<Vec<&Module>> = vec![vec![from]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way.last().expect("it begins with a file");
            for next in direct.get(*last).into_iter().flatten() {
                if next == from {
                    let names = way.iter().chain([&from]).map(|module| module.join("::"));
                    return Some(names.collect::<Vec<_>>().join(" -> "));
                }
                if seen.insert(next) {
                    longer.push(way.iter().copied().chain([next]).collect());
                }
            }
        }
        ways = longer;
    }
    None
}

/// The other files that a file takes names from.
fn known(files: &BTreeMap<Module, File>, module: &Module) -> BTreeSet<Module> {
    let file = &files[module];
    let exported = file.exports.iter().filter(|(name, _)| file.words.contains(*name));
    let taken = file.imports.values().chain(exported.map(|(_, path)| path));
    let paths = file.paths.iter().map(|path| match file.imports.get(&path[0]) {
        Some(import) => import.iter().chain(&path[1..]).cloned().collect(),
        None => path.clone(),
    });
    taken
        .cloned()
        .chain(paths)
        .filter_map(|path| home(files, &absolute(files, module, &path)?, 0))
        .filter(|home| home != module)
        .collect()
}

/// A path of this crate, from its root on.
fn absolute(files: &BTreeMap<Module, File>, module: &Module, path: &[String]) -> Option<Module> {
    let child = || [module.as_slice(), &path[..1]].concat();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([module.as_slice(), &path[1..]].concat()),
        "super" => {
            let up = path.iter().take_while(|part| *part == "super").count();
            let above = module.get(..module.len().checked_sub(up)?)?;
            Some([above, &path[up..]].concat())
        }
        _ if files.contains_key(&child()) => Some([module.as_slice(), path].concat()),
        _ => None,
    }
}

/// The file that has the name at the end of a path. `None` for a path that ends with a file.
fn home(files: &BTreeMap<Module, File>, path: &[String], depth: usize) -> Option<Module> {
    let len = (0..=path.len()).rev().find(|len| files.contains_key(&path[..*len]))?;
    let (module, rest) = path.split_at(len);
    let name = rest.first()?;
    let export = files[module].exports.get(name).filter(|_| depth < 8);
    let from = export.and_then(|export| absolute(files, &module.to_vec(), export));
    match from {
        Some(from) => home(files, &[&from[..], &rest[1..]].concat(), depth + 1),
        None => Some(module.to_vec()),
    }
}

/// The source folders of the crates of the workspace that are no tests.
fn crates() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize();
    let root = root.expect("the workspace");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("it can be read");
    let manifest: toml::Table = manifest.parse().expect("it is TOML");
    let members = manifest["workspace"]["members"].as_array().into_iter().flatten();
    let members = members.filter_map(toml::Value::as_str);
    members
        .filter(|name| !name.starts_with("tests"))
        .map(|name| root.join(name).join("src"))
        .collect()
}

fn files(source: &Path) -> BTreeMap<Module, File> {
    let mut files = BTreeMap::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_test = path.file_stem().is_some_and(|stem| stem == "tests" || stem == "test");
            if is_test || path.ends_with("main.rs") || path.ends_with("bin") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(&path).expect("a source can be read");
                let module = path.strip_prefix(source).expect("it is in there").with_extension("");
                let parts = module.iter().filter_map(|part| part.to_str());
                let module = parts.filter(|part| *part != "lib").map(str::to_owned).collect();
                files.insert(module, read(&tokens(&text)));
            }
        }
    }
    files
}

/// Names and signs. Comments, texts and what is compiled for tests alone are left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < chars.len() {
        let rest = &chars[at..];
        let begins = |with: &str| with.chars().eq(rest.iter().copied().take(with.len()));
        let is_word = |c: &char| c.is_alphanumeric() || *c == '_';
        let raw = usize::from(rest[0] == 'r') * rest[1..].iter().take_while(|c| **c == '#').count();
        if begins("//") {
            at += rest.iter().take_while(|c| **c != '\n').count();
        } else if raw > 0 && rest.get(1 + raw) == Some(&'"') {
            let end: Vec<char> = format!("\"{}", "#".repeat(raw)).chars().collect();
            let body = &rest[2 + raw..];
            let len = body.windows(end.len()).position(|some| some == end).unwrap_or(body.len());
            at += 2 + raw + len + end.len();
        } else if rest[0] == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += 1 + usize::from(chars[at] == '\\');
            }
            at += 1;
        } else if rest[0] == '\'' && (rest.get(2) == Some(&'\'') || rest.get(1) == Some(&'\\')) {
            at += 2 + usize::from(rest[1] == '\\');
            at += chars[at..].iter().take_while(|c| **c != '\'').count() + 1;
        } else if is_word(&rest[0]) {
            let word: String = rest.iter().copied().take_while(is_word).collect();
            at += word.chars().count();
            tokens.push(word);
        } else {
            let sign = if begins("::") { "::".to_owned() } else { rest[0].to_string() };
            at += sign.len().min(rest.len());
            if !sign.trim().is_empty() {
                tokens.push(sign);
            }
        }
    }
    without_tests(&tokens)
}

fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is = |offset: usize, word: &str| tokens.get(at + offset).is_some_and(|it| it == word);
        let is_cfg = is(0, "#") && is(1, "[") && is(2, "cfg") && is(3, "(");
        let is_tests = is_cfg && (is(4, "test") || (is(4, "all") && is(6, "test")));
        if !is_tests {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        // The attributes, and then the item: to its closing brace, or to the semicolon.
        let mut depth = 0_usize;
        loop {
            let Some(token) = tokens.get(at) else { return kept };
            at += 1;
            match token.as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => {
                    depth -= 1;
                    if depth == 0 && token == "}" {
                        break;
                    }
                }
                ";" | "," if depth == 0 => break,
                _ => {}
            }
        }
    }
    kept
}

fn read(tokens: &[String]) -> File {
    let mut file = File::default();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "use" => {
                let mut taken = Vec::new();
                let is_public = is_public(&tokens[..at]);
                at += 1;
                tree(tokens, &mut at, &[], &mut taken);
                let into = if is_public { &mut file.exports } else { &mut file.imports };
                into.extend(taken);
            }
            "mod" => at += 2,
            word if is_name(word) => {
                let mut path = vec![tokens[at].clone()];
                while tokens.get(at + 1).is_some_and(|sign| sign == "::")
                    && tokens.get(at + 2).is_some_and(|next| is_name(next))
                {
                    path.push(tokens[at + 2].clone());
                    at += 2;
                }
                file.words.insert(path[0].clone());
                if path.len() > 1 {
                    file.paths.insert(path);
                }
                at += 1;
            }
            _ => at += 1,
        }
    }
    file
}

/// Whether what comes next is public, in whatever way.
fn is_public(before: &[String]) -> bool {
    let before = match before.last().map(String::as_str) {
        Some(")") => &before[..before.iter().rposition(|sign| sign == "(").unwrap_or(0)],
        _ => before,
    };
    before.last().is_some_and(|word| word == "pub")
}

/// Reads one tree of a `use`: each path with the name that it has here.
fn tree(
    tokens: &[String],
    at: &mut usize,
    prefix: &[String],
    taken: &mut Vec<(String, Vec<String>)>,
) {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(*at) {
        *at += 1;
        match token.as_str() {
            "::" => continue,
            "{" => {
                while tokens.get(*at).is_some_and(|next| next != "}") {
                    tree(tokens, at, &path, taken);
                    *at += usize::from(tokens.get(*at).is_some_and(|next| next == ","));
                }
                *at += 1;
                return;
            }
            "self" if path.len() > prefix.len() || !prefix.is_empty() => {}
            word if is_name(word) || word == "*" => path.push(word.to_owned()),
            _ => {
                *at -= 1;
                break;
            }
        }
        let next = tokens.get(*at).map(String::as_str);
        if next == Some("as") {
            taken.push((tokens[*at + 1].clone(), path));
            *at += 2;
            return;
        }
        if next != Some("::") {
            break;
        }
    }
    if let Some(name) = path.last() {
        taken.push((name.clone(), path.clone()));
    }
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}
