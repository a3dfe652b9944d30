//! Every path that the documents name exists.

#![allow(clippy::unwrap_used)] // it reads our own files

use std::path::{Path, PathBuf};

/// The folders whose paths are checked; what else stands in backticks is no path of ours.
const FOLDERS: [&str; 8] = [
    "src/",
    "tests/",
    "examples/",
    "ecosystem/",
    "docs/",
    "benches/",
    ".ci/",
    ".config/",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            documents(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "md") {
            found.push(path);
        }
    }
}

/// README.md and its neighbours, and everything under `docs`.
fn all_documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(root())
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect();
    for folder in ["docs", "examples", "ecosystem", "benches", "tests"] {
        documents(&root().join(folder), &mut found);
    }
    found
}

/// The paths in backticks, on one line: ``src/core/{exit,ids}.rs`` stands for two, a `*` or `<…>` for a pattern.
fn paths_of(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if in_block {
            continue;
        }
        for quoted in line.split('`').skip(1).step_by(2) {
            if FOLDERS.iter().any(|folder| quoted.starts_with(folder))
                && !quoted.contains(['*', '<', ' ', '…', '$'])
            {
                found.extend(alternatives(quoted));
            }
        }
    }
    found
}

fn alternatives(path: &str) -> Vec<String> {
    match (path.find('{'), path.find('}')) {
        (Some(open), Some(close)) if open < close => path[open + 1..close]
            .split(',')
            .flat_map(|part| {
                alternatives(&format!(
                    "{}{}{}",
                    &path[..open],
                    part.trim(),
                    &path[close + 1..]
                ))
            })
            .collect(),
        _ => vec![path.to_owned()],
    }
}

/// Without what points into a file: `#anchor`, `:12`, `::item`.
fn file_of(path: &str) -> &str {
    let end = path.find(['#', ':']).unwrap_or(path.len());
    path[..end].trim_end_matches(['/', '.', ','])
}

#[test]
fn every_path_named_in_the_documents_exists() {
    let mut missing = Vec::new();
    for document in all_documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for path in paths_of(&text) {
            if !root().join(file_of(&path)).exists() {
                let name = document.strip_prefix(root()).unwrap();
                missing.push(format!("{}: `{path}`", name.display()));
            }
        }
    }
    assert!(missing.is_empty(), "missing:\n{}", missing.join("\n"));
}

#[test]
fn every_link_to_a_file_of_ours_leads_somewhere() {
    let mut missing = Vec::new();
    for document in all_documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        let folder = document.parent().unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let is_ours = !target.contains("://")
                && !target.starts_with(['#', '<'])
                && !target.contains(' ')
                && !target.starts_with("mailto:")
                && !target.is_empty();
            if is_ours && !folder.join(file_of(target)).exists() {
                let name = document.strip_prefix(root()).unwrap();
                missing.push(format!("{}: ({target})", name.display()));
            }
        }
    }
    assert!(missing.is_empty(), "missing:\n{}", missing.join("\n"));
}

#[test]
fn the_reader_of_documents_finds_paths_and_leaves_the_rest() {
    let text = "See `src/core/{exit,ids}.rs`, `src/*.rs` and `cargo test`.\n```\n`src/gone.rs`\n```\n`docs/adr/0001.md#why`";
    assert_eq!(
        paths_of(text),
        [
            "src/core/exit.rs",
            "src/core/ids.rs",
            "docs/adr/0001.md#why"
        ]
    );
    assert_eq!(file_of("docs/adr/0001.md#why"), "docs/adr/0001.md");
}
