//! Every command in one table: its name, aliases, arguments and what it is for. Help, parsing and a test read it.

mod apps;
mod cloud;
mod files;
mod keep;
mod large;
mod look;
mod talk;

use crate::cli::options::{self, GLOBAL, Opt};
use crate::cli::session::Session;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// How many words a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// None.
    None,
    /// By name: these, and then some of those.
    Named(&'static [&'static str], &'static [&'static str]),
    /// Any number, at least so many; kept as `targets`.
    Targets(usize),
}

/// What runs a command: the session, what was parsed, and the words behind `--`.
type Handler = fn(&mut Session, &ArgMatches, &[String]) -> anyhow::Result<()>;

/// One command.
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// Its words.
    pub words: Words,
    /// Options of its own.
    pub options: &'static [Opt],
    /// What it is for.
    pub help: &'static str,
    /// What runs it.
    pub run: Handler,
}

fn word<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).map_or("", String::as_str)
}

fn optional<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a str> {
    matches.get_one::<String>(name).map(String::as_str)
}

/// PM2's commands, in the groups that help shows them in.
const GROUPS: [&[Entry]; 7] = [
    apps::ENTRIES,
    look::ENTRIES,
    talk::ENTRIES,
    keep::ENTRIES,
    files::ENTRIES,
    large::ENTRIES,
    cloud::ENTRIES,
];

/// Every command.
pub fn commands() -> impl Iterator<Item = &'static Entry> {
    GROUPS.into_iter().flatten()
}

/// The command as the parser knows it.
pub fn command(entry: &Entry) -> Command {
    let mut command = Command::new(entry.name)
        .about(entry.help)
        .aliases(entry.aliases)
        .disable_help_subcommand(true);
    for option in entry.options {
        command = command.arg(options::arg(option));
    }
    match entry.words {
        Words::None => command.arg(ignored()),
        Words::Named(required, optional) => {
            let required = required.iter().map(|name| Arg::new(*name).required(true));
            let optional = optional.iter().map(|name| Arg::new(*name));
            command.args(required.chain(optional)).arg(ignored())
        }
        Words::Targets(least) => {
            let targets = Arg::new("targets")
                .value_name("id|name|namespace|all|json|stdin")
                .num_args(least..)
                .action(ArgAction::Append);
            command.arg(if least > 0 {
                targets.required(true)
            } else {
                targets
            })
        }
    }
}

/// PM2 ignores extra words of most commands.
fn ignored() -> Arg {
    Arg::new("ignored").num_args(0..).hide(true)
}

/// The whole of PM2's command line.
pub fn parser(program: &'static str) -> Command {
    parser_of(program, commands())
}

/// The part of it that these words can mean: a few commands, which build ten times faster than all of them. What it
/// understands, the whole understands likewise; what it does not, the whole has better words about.
pub fn parser_for(program: &'static str, words: &[String]) -> Command {
    let named = |entry: &&Entry| {
        words
            .iter()
            .any(|word| word == entry.name || entry.aliases.contains(&word.as_str()))
    };
    parser_of(program, commands().filter(named))
}

fn parser_of(program: &'static str, entries: impl Iterator<Item = &'static Entry>) -> Command {
    let mut parser = Command::new(program)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .subcommand_required(false)
        .allow_external_subcommands(false);
    for option in GLOBAL {
        parser = parser.arg(options::arg(option).global(true));
    }
    parser = parser.arg(
        Arg::new("version")
            .long("version")
            .short('v')
            .short_alias('V')
            .action(ArgAction::SetTrue)
            .help("print the version"),
    );
    parser.subcommands(entries.map(command))
}

/// Commands that take no further words; all others ignore them (pm2 7.0.4, spec 6.1).
const STRICT: [&str; 5] = ["dump", "cleardump", "resurrect", "kill", "prettylist"];

/// The first word too many, for a command that takes none.
pub fn surplus<'a>(entry: &Entry, matches: &'a ArgMatches) -> Option<&'a str> {
    let words = matches.try_get_many::<String>("ignored").ok()??;
    let mut words = words.map(String::as_str);
    words.next().filter(|_| STRICT.contains(&entry.name))
}

/// The entry that a parsed name means.
pub fn find(name: &str) -> Option<&'static Entry> {
    commands().find(|entry| entry.name == name || entry.aliases.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_parser_is_sound() {
        parser("pm2").debug_assert();
    }

    #[test]
    fn the_part_for_some_words_understands_them_as_the_whole_does() {
        for line in [
            "list",
            "ls -m",
            "-s list",
            "start app.js --name list -i 2",
            "restart all --update-env",
            "--name stop delete stop",
            "--version",
            "",
        ] {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let typed = || std::iter::once("pm2".to_owned()).chain(words.clone());
            let whole = parser("pm2").try_get_matches_from(typed()).unwrap();
            let part = parser_for("pm2", &words)
                .try_get_matches_from(typed())
                .unwrap();
            assert_eq!(part.subcommand(), whole.subcommand(), "{line}");
            let flags = |matches: &ArgMatches| {
                ["version", "silent", "mini-list"].map(|name| options::flag(matches, name))
            };
            assert_eq!(flags(&part), flags(&whole), "{line}");
        }
        for line in ["lst", "list --no-such", "stop", "--help"] {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let typed = std::iter::once("pm2".to_owned()).chain(words.clone());
            assert!(
                parser_for("pm2", &words)
                    .try_get_matches_from(typed)
                    .is_err(),
                "{line}"
            );
        }
    }

    #[test]
    fn no_name_means_two_commands() {
        let mut seen = HashSet::new();
        for name in commands().flat_map(|entry| entry.aliases.iter().chain([&entry.name])) {
            assert!(seen.insert(name), "{name}");
        }
    }
}
