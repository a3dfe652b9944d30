//! `docs/pm2-compatibility.md` names every command, alias, option, config key, method and event of PM2, in the state that the facts give it.

#![allow(clippy::unwrap_used)] // it reads our own files

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn path(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

fn text(below: &str) -> String {
    std::fs::read_to_string(path(below)).unwrap_or_else(|error| panic!("{below}: {error}"))
}

fn json(below: &str) -> Value {
    serde_json::from_str(&text(below)).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// The rows of the tables below a heading, up to the next heading, without their first two lines.
fn rows(document: &str, heading: &str) -> Vec<Vec<String>> {
    let mut lines = document.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "there is no heading `{heading}`");
    let rows: Vec<Vec<String>> = lines
        .take_while(|line| !line.starts_with('#'))
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split(" | ").map(cell).collect())
        .collect();
    assert!(!rows.is_empty(), "`{heading}` has no rows");
    rows
}

fn cell(text: &str) -> String {
    text.trim().to_owned()
}

/// What stands in backticks.
fn quoted(text: &str) -> BTreeSet<String> {
    let parts = text.split('`').skip(1).step_by(2);
    parts.map(str::to_owned).collect()
}

fn page() -> String {
    text("docs/pm2-compatibility.md")
}

/// `-s` and `--silent` of an option.
fn option_names(option: &Value) -> BTreeSet<String> {
    let long = format!("--{}", option["long"].as_str().unwrap());
    let short = option["short"].as_str().map(|short| format!("-{short}"));
    short.into_iter().chain([long]).collect()
}

/// The state of an option; one of a single command works unless it says otherwise.
fn state(of: &Value) -> &str {
    of["state"].as_str().unwrap_or("works")
}

/// What stands in one and not in the other, in words.
fn differences<T: Ord + std::fmt::Debug>(facts: &BTreeSet<T>, named: &BTreeSet<T>) -> Vec<String> {
    let missing = facts.difference(named).map(|it| format!("missing: {it:?}"));
    let strange = named.difference(facts).map(|it| format!("strange: {it:?}"));
    missing.chain(strange).collect()
}

fn assert_same<T: Ord + std::fmt::Debug>(facts: &BTreeSet<T>, named: &BTreeSet<T>) {
    assert!(!facts.is_empty(), "there are no facts");
    let differ = differences(facts, named);
    assert!(differ.is_empty(), "docs/pm2-compatibility.md: {differ:#?}");
}

#[test]
fn every_command_and_alias_is_named_with_its_state() {
    let facts = json("tests/fixtures/pm2-cli.json");
    let wanted: BTreeSet<_> = list(&facts, "commands")
        .iter()
        .flat_map(|command| {
            let names = list(command, "names").iter();
            names.map(|name| (name.as_str().unwrap().to_owned(), state(command).to_owned()))
        })
        .collect();
    let named = rows(&page(), "## Commands")
        .iter()
        .flat_map(|row| {
            quoted(&row[0])
                .into_iter()
                .map(|name| (name, row[1].clone()))
        })
        .collect();
    assert_same(&wanted, &named);
}

#[test]
fn every_option_is_named_with_its_state() {
    let facts = json("tests/fixtures/pm2-cli.json");
    let wanted: BTreeSet<_> = list(&facts, "options")
        .iter()
        .map(|option| (option_names(option), state(option).to_owned()))
        .collect();
    let named = rows(&page(), "## Options")
        .iter()
        .map(|row| (quoted(&row[0]), row[1].clone()))
        .collect();
    assert_same(&wanted, &named);
}

#[test]
fn every_option_of_a_single_command_is_named_with_its_state() {
    let facts = json("tests/fixtures/pm2-cli.json");
    let mut wanted = BTreeSet::new();
    for command in list(&facts, "commands") {
        let name = command["names"][0].as_str().unwrap();
        for option in list(command, "options") {
            let name = BTreeSet::from([name.to_owned()]);
            wanted.insert((name, option_names(option), state(option).to_owned()));
        }
    }
    let named = rows(&page(), "### Of single commands")
        .iter()
        .map(|row| (quoted(&row[0]), quoted(&row[1]), row[2].clone()))
        .collect();
    assert_same(&wanted, &named);
}

/// The names and aliases of the table of keys, as they are written in its source.
fn keys_of(source: &str) -> BTreeSet<(String, BTreeSet<String>)> {
    let (_, table) = source.split_once("pub const KEYS: [Key; ").unwrap();
    let (count, table) = table.split_once(']').unwrap();
    let (table, _) = table.split_once("\n];").unwrap();
    let mut keys = BTreeSet::new();
    let starts = ["plain(", "aliased(", "with_default(", "duration("];
    let mut lines = table.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(behind) = starts
            .iter()
            .find_map(|start| line.split_once(start).map(|(_, behind)| behind))
        else {
            continue;
        };
        // The name stands on the same line, or alone on the next.
        let first = if behind.is_empty() {
            lines.peek().unwrap()
        } else {
            behind
        };
        let name = first.split('"').nth(1).unwrap().to_owned();
        let mut aliases = BTreeSet::new();
        if line.contains("aliased(") {
            let listed = lines
                .find(|line| line.trim_start().starts_with("&[\""))
                .unwrap();
            aliases.extend(listed.split('"').skip(1).step_by(2).map(str::to_owned));
        }
        keys.insert((name, aliases));
    }
    assert_eq!(keys.len().to_string(), count, "not every key was read");
    keys
}

#[test]
fn every_config_key_and_its_other_names_are_named() {
    let wanted = keys_of(&text("src/core/spec/keys.rs"));
    let named = rows(&page(), "## Config keys")
        .iter()
        .map(|row| (quoted(&row[0]).pop_first().unwrap(), quoted(&row[1])))
        .collect();
    assert_same(&wanted, &named);
}

#[test]
fn every_config_that_comes_out_otherwise_is_named() {
    let mut wanted = BTreeSet::new();
    for entry in std::fs::read_dir(path("tests/fixtures/pm2-config")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let case = json(&format!("tests/fixtures/pm2-config/{name}"));
        if case["differs"].is_string() {
            wanted.insert(name);
        }
    }
    let named = rows(&page(), "### Where files come out otherwise")
        .iter()
        .map(|row| quoted(&row[0]).pop_first().unwrap())
        .collect();
    assert_same(&wanted, &named);
}

#[test]
fn every_method_is_named() {
    let facts = json("tests/fixtures/pm2-rpc/methods.json");
    let wanted = facts["methods"].as_object().unwrap().keys().cloned();
    let named = rows(&page(), "## RPC methods")
        .iter()
        .map(|row| quoted(&row[0]).pop_first().unwrap())
        .collect();
    assert_same(&wanted.collect(), &named);
}

#[test]
fn every_event_of_the_bus_is_named() {
    let topics = |document: &str, heading: &str| -> BTreeSet<String> {
        let rows = rows(document, heading);
        rows.iter().flat_map(|row| quoted(&row[0])).collect()
    };
    let mut wanted = topics(&text("docs/pm2-protocol.md"), "## The bus");
    // Ours, and told below the table.
    assert!(wanted.remove("fornax:missed"));
    assert_same(&wanted, &topics(&page(), "## Bus events"));
}

#[test]
fn every_state_is_explained_and_counted() {
    let page = page();
    let facts = json("tests/fixtures/pm2-cli.json");
    let explained: BTreeSet<String> = rows(&page, "# PM2 compatibility")
        .into_iter()
        .map(|row| row[0].clone())
        .collect();
    for (heading, at) in [
        ("## Commands", 1),
        ("## Options", 1),
        ("### Of single commands", 2),
        ("## Config keys", 2),
        ("## RPC methods", 1),
        ("## Bus events", 1),
    ] {
        for row in rows(&page, heading) {
            assert!(explained.contains(&row[at]), "{heading}: {row:?}");
        }
    }
    let commands = list(&facts, "commands");
    let single: usize = commands.iter().map(|it| list(it, "options").len()).sum();
    for (count, what) in [
        (commands.len(), "commands"),
        (list(&facts, "options").len() + single, "options"),
        (rows(&page, "## Config keys").len(), "config keys"),
        (rows(&page, "## RPC methods").len(), "RPC methods"),
    ] {
        assert!(
            page.contains(&format!("| {count} {what} |")),
            "{count} {what}"
        );
    }
}
