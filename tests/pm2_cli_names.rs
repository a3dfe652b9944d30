//! Every command, alias and option that `pm2 --help` and each command's help name, against our own table, so that none drifts.
//! The facts are in `fixtures/pm2-cli.json`, with what became of each; docs/pm2-compatibility.md is made of it.

#![allow(clippy::unwrap_used)]

use clap::Command;
use fornax::cli::cmd::table;
use serde_json::Value;
use std::collections::HashSet;

fn facts() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pm2-cli.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list(value, key).iter().map(text).collect()
}

/// What is wrong with our view of an option, in words.
fn option_fault(of: &Command, option: &Value) -> Option<String> {
    let long = option["long"].as_str().unwrap();
    let Some(arg) = of.get_arguments().find(|arg| arg.get_long() == Some(long)) else {
        return Some(format!("--{long} is not known"));
    };
    let takes = arg.get_num_args().unwrap_or_default();
    let takes_values = arg.get_action().takes_values();
    let shape = match option["value"].as_str().unwrap() {
        "none" => !takes_values || takes.min_values() == 0,
        "required" => takes_values,
        "optional" => takes_values && takes.min_values() == 0,
        other => panic!("{other}"),
    };
    if !shape {
        return Some(format!("--{long} takes other values"));
    }
    let short = option["short"].as_str()?.chars().next();
    let knows = |arg: &clap::Arg| {
        let mut all = arg.get_short_and_visible_aliases().unwrap_or_default();
        all.extend(arg.get_all_short_aliases().unwrap_or_default());
        all.extend(arg.get_short());
        short.is_none_or(|short| all.contains(&short))
    };
    // Two of PM2's options have the letter c, and mean the same; a letter of a command that is a global one's already stays that.
    let known = of.get_arguments().any(knows);
    (!known).then(|| format!("-{} is not known", short.unwrap_or_default()))
}

#[test]
fn every_global_option_is_known_in_its_shape() {
    let mut whole = table::parser("pm2");
    // With `--help`, which the parser adds by itself.
    whole.build();
    let faults: Vec<String> = list(&facts(), "options")
        .iter()
        .filter_map(|option| option_fault(&whole, option))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_command_and_alias_is_known_with_its_words_and_options() {
    let mut whole = table::parser("pm2");
    // Global options reach the commands.
    whole.build();
    let mut faults = Vec::new();
    for command in list(&facts(), "commands") {
        if command["state"] == "missing" {
            continue;
        }
        for name in texts(command, "names") {
            let Some(ours) = whole.find_subcommand(&name) else {
                faults.push(format!("{name} is not known"));
                continue;
            };
            let options = list(command, "options").iter();
            faults.extend(
                options
                    .filter_map(|option| option_fault(ours, option))
                    .map(|fault| format!("{name}: {fault}")),
            );
            let words = texts(command, "words");
            let required = words.iter().filter(|word| word.starts_with('<')).count();
            let parses = |count: usize| {
                let line = ["pm2", &name].map(str::to_owned).into_iter();
                let line = line.chain((0..count).map(|at| format!("word{at}")));
                table::parser("pm2").try_get_matches_from(line).is_ok()
            };
            if !parses(required) || !parses(words.len()) || (required > 0 && parses(required - 1)) {
                faults.push(format!("{name} takes other words than {words:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn nothing_in_our_table_is_unknown_to_pm2_without_being_listed_here() {
    let ours = ["log", "completion", "module:list", "module:package"];
    let facts = facts();
    let known: HashSet<String> = list(&facts, "commands")
        .iter()
        .flat_map(|command| texts(command, "names"))
        .collect();
    let strange: Vec<&str> = table::commands()
        .flat_map(|entry| entry.aliases.iter().chain([&entry.name]).copied())
        .filter(|name| !known.contains(*name) && !ours.contains(name))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn the_facts_are_whole() {
    let facts = facts();
    let commands = list(&facts, "commands");
    let names: usize = commands
        .iter()
        .map(|command| texts(command, "names").len())
        .sum();
    let own: usize = commands
        .iter()
        .map(|command| list(command, "options").len())
        .sum();
    // pm2 7.0.4: 80 commands and 11 aliases, 67 options, 38 of single commands.
    assert_eq!((commands.len(), names), (80, 91));
    assert_eq!((list(&facts, "options").len(), own), (67, 38));
    let states = facts["states"].as_object().unwrap();
    for item in commands.iter().chain(list(&facts, "options")) {
        assert!(
            states.contains_key(item["state"].as_str().unwrap()),
            "{item}"
        );
    }
}
