//! Every command in one table: its name, aliases, arguments and what it is for. Help, parsing and a test read it.

use super::act::Action;
use super::{act, daemon, dump, list, logs, scale, serve, show, signal, start, store, update};
use crate::cli::deploy;
use crate::cli::modules;
use crate::cli::monit;
use crate::cli::options::{self, GLOBAL, INSTALL, LOGS, Opt, SERVE};
use crate::cli::session::Session;
use crate::cli::startup;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// How many words a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// None.
    None,
    /// Exactly these, by name.
    Required(&'static [&'static str]),
    /// One or none.
    Optional(&'static str),
    /// As many of these as are given, by name.
    Optionals(&'static [&'static str]),
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

/// The words of a command that takes any number, and those behind `--`.
fn targets(matches: &ArgMatches, rest: &[String]) -> Vec<String> {
    let words = matches.get_many::<String>("targets").into_iter().flatten();
    words.chain(rest).cloned().collect()
}

/// PM2's commands.
pub const COMMANDS: &[Entry] = &[
    Entry {
        name: "start",
        aliases: &[],
        words: Words::Targets(0),
        options: &[],
        help: "start a script, program, shell command, ecosystem file, or a known app",
        run: |s, m, rest| start::run(s, m, rest),
    },
    Entry {
        name: "stop",
        aliases: &[],
        words: Words::Targets(1),
        options: &[],
        help: "stop apps",
        run: |s, m, rest| act::run(s, m, Action::Stop, rest),
    },
    Entry {
        name: "restart",
        aliases: &[],
        words: Words::Targets(1),
        options: &[],
        help: "restart apps",
        run: |s, m, rest| act::run(s, m, Action::Restart, rest),
    },
    Entry {
        name: "reload",
        aliases: &[],
        words: Words::Targets(1),
        options: &[],
        help: "restart apps, without a gap where they can",
        run: |s, m, rest| act::run(s, m, Action::Reload, rest),
    },
    Entry {
        name: "delete",
        aliases: &["del"],
        words: Words::Targets(1),
        options: &[],
        help: "stop apps and forget them",
        run: |s, m, rest| act::run(s, m, Action::Delete, rest),
    },
    Entry {
        name: "startOrRestart",
        aliases: &[],
        words: Words::Required(&["file"]),
        options: &[],
        help: "start or restart the apps of a file",
        run: |s, m, _| start::file_command(s, m, word(m, "file"), Action::Restart),
    },
    Entry {
        name: "startOrReload",
        aliases: &[],
        words: Words::Required(&["file"]),
        options: &[],
        help: "start or reload the apps of a file",
        run: |s, m, _| start::file_command(s, m, word(m, "file"), Action::Reload),
    },
    Entry {
        name: "startOrGracefulReload",
        aliases: &[],
        words: Words::Required(&["file"]),
        options: &[],
        help: "start or reload the apps of a file",
        run: |s, m, _| start::file_command(s, m, word(m, "file"), Action::Reload),
    },
    Entry {
        name: "scale",
        aliases: &[],
        words: Words::Required(&["name", "number"]),
        options: &[],
        help: "change how many instances an app has (4, or +2)",
        run: |s, m, _| scale::run(s, m, word(m, "name"), word(m, "number")),
    },
    Entry {
        name: "reset",
        aliases: &[],
        words: Words::Required(&["name|id|all"]),
        options: &[],
        help: "set restart counters to zero",
        run: |s, m, _| scale::reset(s, m, word(m, "name|id|all")),
    },
    Entry {
        name: "list",
        aliases: &["ls", "l", "ps", "status"],
        words: Words::None,
        options: &[],
        help: "list apps",
        run: |s, m, _| list::run(s, m),
    },
    Entry {
        name: "jlist",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "list apps as JSON",
        run: |s, _, _| list::jlist(s),
    },
    Entry {
        name: "prettylist",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "list apps as Node prints objects",
        run: |s, _, _| list::prettylist(s),
    },
    Entry {
        name: "describe",
        aliases: &["desc", "info", "show"],
        words: Words::Required(&["name|id"]),
        options: &[],
        help: "everything about one app",
        run: |s, m, _| show::describe(s, word(m, "name|id")),
    },
    Entry {
        name: "env",
        aliases: &[],
        words: Words::Required(&["id"]),
        options: &[],
        help: "an app's environment",
        run: |s, m, _| show::env(s, word(m, "id")),
    },
    Entry {
        name: "id",
        aliases: &[],
        words: Words::Required(&["name"]),
        options: &[],
        help: "the ids of a name",
        run: |s, m, _| show::id(s, word(m, "name")),
    },
    Entry {
        name: "pid",
        aliases: &[],
        words: Words::Optional("name"),
        options: &[],
        help: "the pids of a name, or of all",
        run: |s, m, _| show::pid(s, optional(m, "name")),
    },
    Entry {
        name: "logs",
        aliases: &["log"],
        words: Words::Optional("target"),
        options: LOGS,
        help: "the last lines, then new ones as they come",
        run: |s, m, _| logs::run(s, m),
    },
    Entry {
        name: "flush",
        aliases: &[],
        words: Words::Optional("name|id"),
        options: &[],
        help: "empty log files",
        run: |s, m, _| logs::flush(s, optional(m, "name|id")),
    },
    Entry {
        name: "reloadLogs",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "open log files anew",
        run: |s, _, _| daemon::reload_logs(s),
    },
    Entry {
        name: "dump",
        aliases: &["save"],
        words: Words::None,
        options: &[],
        help: "save the list for resurrect",
        run: |s, m, _| dump::save(s, m),
    },
    Entry {
        name: "cleardump",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "save an empty list",
        run: |s, _, _| dump::clear(s),
    },
    Entry {
        name: "resurrect",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "start what was saved",
        run: |s, m, _| dump::resurrect(s, m),
    },
    Entry {
        name: "install",
        aliases: &["module:install"],
        words: Words::Optional("module"),
        options: INSTALL,
        help: "install a module: a name of npm, a folder, a tarball, an address of git",
        run: |s, m, _| modules::install(s, m, optional(m, "module")),
    },
    Entry {
        name: "uninstall",
        aliases: &["module:uninstall"],
        words: Words::Optional("module"),
        options: &[],
        help: "uninstall a module, or all",
        run: |s, m, _| modules::uninstall(s, m, optional(m, "module")),
    },
    Entry {
        name: "module:list",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "list installed modules",
        run: |s, _, _| modules::tell_all(s),
    },
    Entry {
        name: "module:update",
        aliases: &[],
        words: Words::Optional("module"),
        options: &[],
        help: "fetch the newest version of a module, or of all",
        run: |s, m, _| modules::update(s, m, optional(m, "module")),
    },
    Entry {
        name: "module:generate",
        aliases: &[],
        words: Words::Optional("app_name"),
        options: &[],
        help: "make a folder with a module that works",
        run: |s, m, _| modules::generate(s, optional(m, "app_name")),
    },
    Entry {
        name: "package",
        aliases: &["module:package"],
        words: Words::Optional("target"),
        options: &[],
        help: "pack a module as a tarball",
        run: |s, m, _| modules::package(s, optional(m, "target")),
    },
    Entry {
        name: "publish",
        aliases: &["module:publish"],
        words: Words::Optional("folder"),
        options: &[],
        help: "give a module its next version and send it to npm",
        run: |s, m, _| modules::publish(s, optional(m, "folder")),
    },
    Entry {
        name: "monit",
        aliases: &["imonit", "dashboard", "dash"],
        words: Words::None,
        options: &[],
        help: "apps, logs and figures, live, in this terminal",
        run: |s, _, _| monit::run(s),
    },
    Entry {
        name: "deploy",
        aliases: &[],
        words: Words::Targets(0),
        options: &[],
        help: "deploy a git repository: [FILE] ENVIRONMENT [setup|update|revert|current|previous|list|exec|ref]",
        run: |s, m, rest| deploy::run(s, &targets(m, rest), options::flag(m, "force")),
    },
    Entry {
        name: "serve",
        aliases: &["expose"],
        words: Words::Optionals(&["path", "port-word"]),
        options: SERVE,
        help: "serve the files of a folder by HTTP",
        run: |s, m, _| serve::run(s, m, optional(m, "path"), optional(m, "port-word")),
    },
    Entry {
        name: "startup",
        aliases: &[],
        words: Words::Optional("platform"),
        options: &[],
        help: "write an init script, so that what is saved is there after a boot",
        run: |s, m, _| startup::startup(s, m, optional(m, "platform")),
    },
    Entry {
        name: "unstartup",
        aliases: &[],
        words: Words::Optional("platform"),
        options: &[],
        help: "remove the init script",
        run: |s, m, _| startup::unstartup(s, m, optional(m, "platform")),
    },
    Entry {
        name: "sendSignal",
        aliases: &[],
        words: Words::Required(&["signal", "name|id"]),
        options: &[],
        help: "send a signal to an app",
        run: |s, m, _| signal::run(s, m, word(m, "signal"), word(m, "name|id")),
    },
    Entry {
        name: "send",
        aliases: &[],
        words: Words::Required(&["id", "line"]),
        options: &[],
        help: "send a line to an app's standard input",
        run: |s, m, _| signal::send(s, m, word(m, "id"), word(m, "line")),
    },
    Entry {
        name: "set",
        aliases: &[],
        words: Words::Required(&["key", "value"]),
        options: &[],
        help: "store a setting",
        run: |s, m, _| store::set(s, word(m, "key"), word(m, "value")),
    },
    Entry {
        name: "get",
        aliases: &[],
        words: Words::Optional("key"),
        options: &[],
        help: "show a setting, or all",
        run: |s, m, _| store::get(s, optional(m, "key")),
    },
    Entry {
        name: "conf",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "show all settings",
        run: |s, _, _| store::get(s, None),
    },
    Entry {
        name: "unset",
        aliases: &[],
        words: Words::Required(&["key"]),
        options: &[],
        help: "remove a setting",
        run: |s, m, _| store::unset(s, word(m, "key")),
    },
    Entry {
        name: "ping",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "ask whether the daemon answers (and start it)",
        run: |s, _, _| daemon::ping(s),
    },
    Entry {
        name: "update",
        aliases: &["updatePM2"],
        words: Words::None,
        options: &[],
        help: "hand the daemon over to this program; no app is restarted",
        run: |s, m, _| update::update(s, m),
    },
    Entry {
        name: "kill",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "stop everything, the daemon too",
        run: |s, _, _| daemon::kill(s),
    },
    Entry {
        name: "report",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "facts about the daemon",
        run: |s, _, _| daemon::report(s),
    },
];

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
        Words::Required(names) => names.iter().fold(command, |command, name| {
            command.arg(Arg::new(*name).required(true).allow_hyphen_values(false))
        }),
        Words::Optional(name) => command.arg(Arg::new(name)),
        Words::Optionals(names) => names
            .iter()
            .fold(command, |command, name| command.arg(Arg::new(*name))),
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
    parser_of(program, COMMANDS.iter())
}

/// The part of it that these words can mean: a few commands, which build ten times faster than all of them. What it
/// understands, the whole understands likewise; what it does not, the whole has better words about.
pub fn parser_for(program: &'static str, words: &[String]) -> Command {
    let named = |entry: &&Entry| {
        words
            .iter()
            .any(|word| word == entry.name || entry.aliases.contains(&word.as_str()))
    };
    parser_of(program, COMMANDS.iter().filter(named))
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

/// The entry that a parsed name means.
pub fn find(name: &str) -> Option<&'static Entry> {
    COMMANDS
        .iter()
        .find(|entry| entry.name == name || entry.aliases.contains(&name))
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
        for name in COMMANDS
            .iter()
            .flat_map(|entry| entry.aliases.iter().chain([&entry.name]))
        {
            assert!(seen.insert(name), "{name}");
        }
    }
}
