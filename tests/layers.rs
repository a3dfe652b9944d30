//! Reads the source: imports go down the layers only, and the habits that a machine can check hold.

#![allow(clippy::unwrap_used)] // it reads our own files

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What a layer may import from others: a module, or a part of one.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("sys", &["core"]),
    ("keeper", &["core", "sys"]),
    ("adapters", &["core", "sys"]),
    ("gpu", &["core", "sys"]),
    ("config", &["core", "sys"]),
    ("comfyui", &["core", "sys"]),
    ("serve", &[]),
    ("daemon", &["core", "sys", "adapters", "gpu"]),
    (
        "fleet",
        &[
            "core",
            "sys",
            "gpu",
            "comfyui::client",
            "comfyui::files",
            "comfyui::install",
            "comfyui::models",
            "comfyui::workspace",
            "adapters::logs",
            "adapters::runner",
            "daemon::handle",
            "daemon::snapshot",
            "daemon::command",
        ],
    ),
    (
        "jobs",
        &[
            "core",
            "sys",
            "comfyui::client",
            "daemon::handle",
            "daemon::snapshot",
            "daemon::command",
        ],
    ),
    ("pm2", SERVERS),
    ("http", SERVERS),
    (
        "cli",
        &["core", "sys", "config", "comfyui", "gpu", "pm2::client"],
    ),
];

/// What serves a protocol sees the daemon by its handle and its views only.
const SERVERS: &[&str] = &[
    "core",
    "daemon::handle",
    "daemon::snapshot",
    "daemon::bus",
    "daemon::command",
    "daemon::crowd",
    "daemon::wire",
    "daemon::settings",
    "daemon::launch",
    "daemon::reserve",
    "adapters::logs",
    "fleet",
    "jobs",
];

/// What `core` may not name: it does no I/O, knows no clock, and does not throw dice.
const NOT_IN_CORE: &[&str] = &[
    "tokio",
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::os",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "rand::",
    "uuid::",
    "nix::",
    "libc::",
];

/// Files longer than 400 lines (tests apart), and why each may be.
const LONG: &[(&str, &str)] = &[
    ("src/cli/options.rs", "a table of PM2's options"),
    ("src/core/instance.rs", "the machine: one state, one match"),
    ("src/core/spec/keys.rs", "a table of PM2's app keys"),
];

struct Source {
    /// `src/core/ids.rs`.
    path: String,
    /// Without comments, strings and what is compiled for tests only.
    code: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    files.sort();
    assert!(files.len() > 100, "the source has not been found");
    let read = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).unwrap();
        Source {
            path: file
                .strip_prefix(root())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned(),
            code: plain(without_tests(&text)),
            text,
        }
    };
    files.iter().map(read).collect()
}

/// A file's tests are its last part, or all of it.
fn without_tests(text: &str) -> &str {
    if let Some((before, _)) = text.split_once("#![cfg(test)]") {
        return before;
    }
    let is_start = |at: &usize| {
        text[*at..]
            .trim_start_matches("#[cfg(test)]")
            .trim_start()
            .starts_with("mod ")
    };
    text.match_indices("#[cfg(test)]")
        .map(|(at, _)| at)
        .find(is_start)
        .map_or(text, |at| &text[..at])
}

/// The code alone: comments go, and what stands between quotes.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['/', '"', '\'']) {
        out.push_str(&rest[..at]);
        let here = &rest[at..];
        rest = if here.starts_with("//") {
            &here[here.find('\n').unwrap_or(here.len())..]
        } else if here.starts_with('"') {
            let hashes = out.len() - out.trim_end_matches('#').len();
            let raw = out.trim_end_matches('#').ends_with('r');
            out.push_str("\"\"");
            after_string(here, raw, hashes)
        } else if let Some(length) = char_literal(here) {
            out.push_str("' '");
            &here[length..]
        } else {
            out.push_str(&here[..1]);
            &here[1..]
        };
    }
    out + rest
}

fn after_string(text: &str, raw: bool, hashes: usize) -> &str {
    if raw {
        let end = format!("\"{}", "#".repeat(hashes));
        let at = text[1..].find(&end).expect("a raw string ends");
        return &text[1 + at + end.len()..];
    }
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return &text[at + 1..],
            _ => {}
        }
    }
    panic!("a string without an end: {:.80}", text);
}

/// The length of `'x'` or `'\n'`; `None` for a lifetime.
fn char_literal(text: &str) -> Option<usize> {
    let mut letters = text.char_indices().skip(1);
    let (_, first) = letters.next()?;
    if first == '\\' {
        let end = text[3..].find('\'')?;
        return Some(3 + end + 1);
    }
    let (at, second) = letters.next()?;
    (second == '\'').then_some(at + 1)
}

/// `src/http/logs.rs` → `["http", "logs"]`.
fn module(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    inner
        .split('/')
        .filter(|part| *part != "mod")
        .map(str::to_owned)
        .collect()
}

/// Every path that leaves the layer, as `daemon::handle`; braces are opened.
fn imports(source: &Source) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let code = &source.code;
    for (at, _) in code.match_indices("crate::") {
        open("", &code[at + 7..], &mut found);
    }
    let home = module(&source.path);
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut ups = 0;
        while let Some(next) = rest.strip_prefix("super::") {
            rest = next;
            ups += 1;
        }
        // One step up leads to the file's own parent; only who goes on to the crate's root leaves the layer.
        if ups >= home.len() {
            open("", rest, &mut found);
        }
    }
    found
}

/// Adds `a::b` for what begins at `text`, or each of them for `a::{b, c}` and `{a, b}`.
fn open(prefix: &str, text: &str, found: &mut BTreeSet<String>) {
    if let Some(inner) = text.strip_prefix('{') {
        let mut depth = 1;
        let mut start = 0;
        for (at, letter) in inner.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 || (depth == 1 && letter == ',') {
                open(prefix, inner[start..at].trim_start(), found);
                start = at + 1;
            }
            if depth == 0 {
                return;
            }
        }
        return;
    }
    let word = |text: &str| {
        let end = text
            .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .unwrap_or(text.len());
        text[..end].to_owned()
    };
    let first = word(text);
    if first.is_empty() {
        return;
    }
    if !prefix.is_empty() {
        found.insert(format!("{prefix}::{first}"));
        return;
    }
    match text[first.len()..].strip_prefix("::") {
        Some(rest) => open(&first, rest, found),
        None => drop(found.insert(first)),
    }
}

fn report(offences: &[String]) {
    assert!(
        offences.is_empty(),
        "{} offences:\n{}",
        offences.len(),
        offences.join("\n")
    );
}

#[test]
fn imports_go_down_the_layers_only() {
    let layers: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut offences = Vec::new();
    let mut seen = 0;
    for source in sources() {
        let home = module(&source.path);
        if matches!(home[0].as_str(), "main" | "lib") {
            continue;
        }
        let Some(allowed) = layers.get(home[0].as_str()) else {
            offences.push(format!("{}: `{}` is in no layer", source.path, home[0]));
            continue;
        };
        for import in imports(&source) {
            seen += 1;
            let top = import.split("::").next().unwrap();
            let own = top == home[0] || !layers.contains_key(top);
            if !own && !allowed.contains(&top) && !allowed.contains(&import.as_str()) {
                offences.push(format!("{}: imports {import}", source.path));
            }
        }
    }
    assert!(seen > 200, "only {seen} imports have been read");
    report(&offences);
}

#[test]
fn the_core_does_no_io_and_knows_no_clock() {
    let mut offences = Vec::new();
    for source in sources() {
        if !source.path.starts_with("src/core/") {
            continue;
        }
        for (number, line) in source.code.lines().enumerate() {
            for word in NOT_IN_CORE.iter().filter(|word| line.contains(**word)) {
                offences.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
    }
    report(&offences);
}

#[test]
fn only_sys_is_unsafe() {
    let is_unsafe = |code: &str| {
        code.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .any(|word| word == "unsafe")
    };
    let offences: Vec<String> = sources()
        .iter()
        .filter(|source| !source.path.starts_with("src/sys/") && is_unsafe(&source.code))
        .map(|source| source.path.clone())
        .collect();
    report(&offences);
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    let mut offences = Vec::new();
    for source in sources() {
        for (number, line) in source.code.lines().enumerate() {
            if line.contains(".unwrap()") || line.contains(".unwrap_err()") {
                offences.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    report(&offences);
}

#[test]
fn every_long_file_has_a_reason_and_every_reason_a_long_file() {
    let long: BTreeSet<String> = sources()
        .iter()
        .filter(|source| without_tests(&source.text).lines().count() > 400)
        .map(|source| source.path.clone())
        .collect();
    let named: BTreeSet<String> = LONG.iter().map(|(path, _)| (*path).to_owned()).collect();
    let unnamed: Vec<String> = long.difference(&named).cloned().collect();
    report(&unnamed);
    let stale: Vec<String> = named.difference(&long).cloned().collect();
    report(&stale);
}

#[test]
fn every_file_says_its_job_in_its_first_line() {
    let offences: Vec<String> = sources()
        .iter()
        .filter(|source| {
            source
                .text
                .strip_prefix("//! ")
                .and_then(|job| job.lines().next())
                .is_none_or(|line| line.len() <= 10)
        })
        .map(|source| source.path.clone())
        .collect();
    report(&offences);
}

#[test]
fn the_reader_sees_through_braces_comments_and_strings() {
    let code = plain(
        "// crate::daemon::x\nuse crate::{sys::{a, b}, daemon::table as t};\nlet s = \"crate::cli::y\"; let q = '\"'; crate::gpu::lease(); let r = r#\"a\"b\"#; fn f<'a>() {}",
    );
    let source = Source {
        path: "src/core/x.rs".to_owned(),
        text: String::new(),
        code,
    };
    let seen: Vec<String> = imports(&source).into_iter().collect();
    assert_eq!(seen, ["daemon::table", "gpu::lease", "sys::a", "sys::b"]);
}
