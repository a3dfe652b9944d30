//! PM2's command line as one table: options, their shapes, and the app keys they set (pm2 7.0.4, spec 6.4).

use crate::core::units::Millis;
use clap::{Arg, ArgAction, ArgMatches};
use serde_json::{Map, Value};

/// The shape of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// On or off.
    Flag,
    /// Takes a value.
    Value,
    /// Takes a value or none; none stands for this.
    Optional(&'static str),
    /// Takes a value, several times.
    Many,
    /// Takes a value or none, several times; none stands for this.
    OptionalMany(&'static str),
}

/// What an option says about the app that is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sets {
    /// Nothing: the command itself looks at it.
    Nothing,
    /// This key, to the option's value.
    Key(&'static str),
    /// This key, to true.
    True(&'static str),
    /// This key, to false.
    False(&'static str),
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// Its name, without the dashes.
    pub long: &'static str,
    /// Its letter.
    pub short: Option<char>,
    /// Its shape.
    pub shape: Shape,
    /// What it sets.
    pub sets: Sets,
    /// What it is for.
    pub help: &'static str,
}

/// One option, in short.
pub const fn opt(
    long: &'static str,
    short: Option<char>,
    shape: Shape,
    sets: Sets,
    help: &'static str,
) -> Opt {
    Opt {
        long,
        short,
        shape,
        sets,
        help,
    }
}

use Sets::{False, Key, Nothing, True};
use Shape::{Flag, Many, Optional, OptionalMany, Value as One};

/// Options that every command takes, before or after its name.
pub const GLOBAL: &[Opt] = &[
    opt(
        "silent",
        Some('s'),
        Flag,
        Nothing,
        "print nothing but errors",
    ),
    opt(
        "ext",
        None,
        One,
        Nothing,
        "watch only files with these endings",
    ),
    opt("name", Some('n'), One, Key("name"), "name of the app"),
    opt(
        "mini-list",
        Some('m'),
        Flag,
        Nothing,
        "print the list without a table",
    ),
    opt(
        "interpreter",
        None,
        One,
        Key("interpreter"),
        "program that runs the script (none: the script itself)",
    ),
    opt(
        "interpreter-args",
        None,
        One,
        Key("node_args"),
        "arguments of the interpreter",
    ),
    opt(
        "node-args",
        None,
        One,
        Key("node_args"),
        "arguments of node",
    ),
    opt(
        "output",
        Some('o'),
        One,
        Key("out_file"),
        "file of standard output",
    ),
    opt(
        "error",
        Some('e'),
        One,
        Key("error_file"),
        "file of standard error",
    ),
    opt(
        "log",
        Some('l'),
        Optional("true"),
        Key("log_file"),
        "file of both",
    ),
    opt(
        "filter-env",
        None,
        OptionalMany(""),
        Key("filter_env"),
        "leave out variables whose name contains this",
    ),
    opt("log-type", None, One, Key("log_type"), "raw or json"),
    opt(
        "log-date-format",
        None,
        One,
        Key("log_date_format"),
        "date before each line, in dayjs tokens",
    ),
    opt("time", None, Flag, True("time"), "date before each line"),
    opt(
        "disable-logs",
        None,
        Flag,
        True("disable_logs"),
        "write no logs",
    ),
    opt(
        "env",
        None,
        One,
        Nothing,
        "use env_<NAME> of the ecosystem file",
    ),
    opt(
        "update-env",
        Some('a'),
        Flag,
        Nothing,
        "take over the shell's environment",
    ),
    opt(
        "force",
        Some('f'),
        Flag,
        Nothing,
        "start although it runs already",
    ),
    opt(
        "instances",
        Some('i'),
        One,
        Key("instances"),
        "how many instances (max, or -1 for one less)",
    ),
    opt("parallel", None, One, Nothing, "how many actions at once"),
    opt(
        "shutdown-with-message",
        None,
        Flag,
        True("shutdown_with_message"),
        "stop by message instead of signal",
    ),
    opt("pid", Some('p'), One, Key("pid_file"), "pid file"),
    opt(
        "kill-timeout",
        Some('k'),
        One,
        Key("kill_timeout"),
        "milliseconds from the stop signal to SIGKILL",
    ),
    opt(
        "listen-timeout",
        None,
        One,
        Key("listen_timeout"),
        "milliseconds to become ready",
    ),
    opt(
        "max-memory-restart",
        None,
        One,
        Key("max_memory_restart"),
        "restart above this memory (100M)",
    ),
    opt(
        "restart-delay",
        None,
        One,
        Key("restart_delay"),
        "milliseconds before each restart",
    ),
    opt(
        "exp-backoff-restart-delay",
        None,
        One,
        Key("exp_backoff_restart_delay"),
        "first of growing delays, in milliseconds",
    ),
    opt(
        "execute-command",
        Some('x'),
        Flag,
        True("execute_command"),
        "run in fork mode",
    ),
    opt(
        "max-restarts",
        None,
        Optional("15"),
        Key("max_restarts"),
        "unstable restarts before it is given up",
    ),
    opt(
        "user",
        Some('u'),
        One,
        Key("user"),
        "run as this user; of `startup`: whose daemon is started",
    ),
    opt("uid", None, One, Key("uid"), "run as this user"),
    opt("gid", None, One, Key("gid"), "run as this group"),
    opt(
        "namespace",
        None,
        One,
        Key("namespace"),
        "namespace of the app",
    ),
    opt("cwd", None, One, Key("cwd"), "working directory"),
    opt(
        "hp",
        None,
        One,
        Nothing,
        "home of the start-up script's user",
    ),
    opt(
        "wait-ip",
        None,
        Flag,
        Nothing,
        "start-up script waits for the network",
    ),
    opt(
        "service-name",
        None,
        One,
        Nothing,
        "name of the start-up script",
    ),
    opt(
        "cron",
        Some('c'),
        One,
        Key("cron_restart"),
        "restart by this cron pattern",
    ),
    opt(
        "cron-restart",
        None,
        One,
        Key("cron_restart"),
        "restart by this cron pattern",
    ),
    opt(
        "write",
        Some('w'),
        Flag,
        True("write"),
        "write the configuration beside the app",
    ),
    opt("no-daemon", None, Flag, Nothing, "stay in the foreground"),
    opt(
        "source-map-support",
        None,
        Flag,
        True("source_map_support"),
        "source maps on",
    ),
    opt(
        "disable-source-map-support",
        None,
        Flag,
        True("disable_source_map_support"),
        "source maps off",
    ),
    opt("only", None, One, Nothing, "only these apps of the file"),
    opt(
        "wait-ready",
        None,
        Flag,
        True("wait_ready"),
        "online when the app says `ready`",
    ),
    opt(
        "merge-logs",
        None,
        Flag,
        True("merge_logs"),
        "one log file for all instances",
    ),
    opt(
        "watch",
        None,
        OptionalMany("true"),
        Key("watch"),
        "restart when files change",
    ),
    opt(
        "ignore-watch",
        None,
        Many,
        Key("ignore_watch"),
        "paths that are not watched",
    ),
    opt(
        "watch-delay",
        None,
        One,
        Key("watch_delay"),
        "wait after a change",
    ),
    opt("no-color", None, Flag, Nothing, "no colours"),
    opt("no-colors", None, Flag, Nothing, "no colours"),
    opt("no-vizion", None, Flag, False("vizion"), "no git metadata"),
    opt(
        "no-autostart",
        None,
        Flag,
        False("autostart"),
        "register, do not start",
    ),
    opt(
        "no-autorestart",
        None,
        Flag,
        False("autorestart"),
        "do not restart when it ends",
    ),
    opt(
        "stop-exit-codes",
        None,
        One,
        Key("stop_exit_codes"),
        "exit code after which it is not restarted",
    ),
    opt(
        "no-treekill",
        None,
        Flag,
        False("treekill"),
        "signal the root process only",
    ),
    opt("no-pmx", None, Flag, False("pmx"), "no agent"),
    opt("no-automation", None, Flag, False("automation"), "no agent"),
    opt(
        "trace",
        None,
        Flag,
        True("trace"),
        "for PM2's own service: noted, without effect",
    ),
    opt(
        "disable-trace",
        None,
        Flag,
        True("disable_trace"),
        "for PM2's own service: noted, without effect",
    ),
    opt(
        "sort",
        None,
        One,
        Nothing,
        "order of the list: name, id, memory … and :asc or :desc",
    ),
    opt(
        "attach",
        None,
        Flag,
        Nothing,
        "follow the logs after the start",
    ),
    opt(
        "v8",
        None,
        Flag,
        True("v8"),
        "for PM2's own service: noted, without effect",
    ),
    opt(
        "event-loop-inspector",
        None,
        Flag,
        True("event_loop_inspector"),
        "for PM2's own service: noted, without effect",
    ),
    opt(
        "deep-monitoring",
        None,
        Flag,
        True("deep_monitoring"),
        "for PM2's own service: noted, without effect",
    ),
];

/// Options of `start` that run an app in a container, which is not supported.
pub const CONTAINER: &[Opt] = &[
    opt("fresh", None, Flag, Nothing, "containers: not supported"),
    opt("daemon", None, Flag, Nothing, "containers: not supported"),
    opt(
        "container",
        None,
        Flag,
        Nothing,
        "containers: not supported",
    ),
    opt("dist", None, Flag, Nothing, "containers: not supported"),
    opt(
        "image-name",
        None,
        Optional(""),
        Nothing,
        "containers: not supported",
    ),
    opt(
        "node-version",
        None,
        Optional(""),
        Nothing,
        "containers: not supported",
    ),
    opt(
        "dockerdaemon",
        None,
        Flag,
        Nothing,
        "containers: not supported",
    ),
];

/// Options of `logs`.
pub const LOGS: &[Opt] = &[
    opt("json", None, Flag, Nothing, "one JSON object a line"),
    opt("format", None, Flag, Nothing, "key=value form"),
    opt("raw", None, Flag, Nothing, "lines as the app wrote them"),
    opt("err", None, Flag, Nothing, "standard error only"),
    opt("out", None, Flag, Nothing, "standard output only"),
    opt(
        "lines",
        None,
        One,
        Nothing,
        "so many lines of each file first (15)",
    ),
    opt(
        "timestamp",
        None,
        Optional("YYYY-MM-DD-HH:mm:ss"),
        Nothing,
        "date before each line",
    ),
    opt(
        "nostream",
        None,
        Flag,
        Nothing,
        "print the files' last lines and end",
    ),
    opt("highlight", None, Optional(""), Nothing, "mark this text"),
];

/// The option as the parser knows it.
pub fn arg(option: &Opt) -> Arg {
    let arg = Arg::new(option.long).long(option.long).help(option.help);
    let arg = match option.short {
        Some(letter) => arg.short(letter),
        None => arg,
    };
    match option.shape {
        Flag => arg.action(ArgAction::SetTrue),
        One => arg
            .action(ArgAction::Set)
            .overrides_with(option.long)
            // Whatever comes next is its value: `--node-args "--inspect"` (pm2 7.0.4).
            .allow_hyphen_values(true),
        Optional(default) => arg
            .action(ArgAction::Set)
            .overrides_with(option.long)
            .num_args(0..=1)
            .default_missing_value(default),
        Many => arg.action(ArgAction::Append).allow_hyphen_values(true),
        OptionalMany(default) => arg
            .action(ArgAction::Append)
            .num_args(0..=1)
            .default_missing_value(default),
    }
}

/// Whether a flag was given. `false` too where the command does not know it.
pub fn flag(matches: &ArgMatches, name: &str) -> bool {
    matches
        .try_get_one::<bool>(name)
        .ok()
        .flatten()
        .copied()
        .unwrap_or(false)
}

/// The value of an option, if it was given.
pub fn value<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a str> {
    matches
        .try_get_one::<String>(name)
        .ok()
        .flatten()
        .map(String::as_str)
}

/// All values of an option that may be given several times.
fn all(matches: &ArgMatches, name: &str) -> Vec<String> {
    let values = matches.try_get_many::<String>(name).ok().flatten();
    values.into_iter().flatten().cloned().collect()
}

/// The app keys that the options set.
pub fn app_keys(matches: &ArgMatches) -> Map<String, Value> {
    let mut keys = Map::new();
    for option in GLOBAL {
        let given = || value(matches, option.long).map(str::to_owned);
        match option.sets {
            Key("watch") => {
                let paths = all(matches, option.long);
                let (whole, paths): (Vec<_>, Vec<_>) =
                    paths.into_iter().partition(|path| path == "true");
                if !paths.is_empty() {
                    keys.insert("watch".to_owned(), Value::from(paths));
                } else if !whole.is_empty() {
                    keys.insert("watch".to_owned(), Value::Bool(true));
                }
            }
            Key("ignore_watch") => {
                let words: Vec<String> = all(matches, option.long)
                    .iter()
                    .flat_map(|words| words.split_whitespace())
                    .map(str::to_owned)
                    .collect();
                if !words.is_empty() {
                    keys.insert("ignore_watch".to_owned(), Value::from(words));
                }
            }
            // Seconds here, milliseconds in a file (pm2 7.0.4).
            Key("watch_delay") => {
                if let Some(text) = given() {
                    let millis = text.parse::<f64>().ok().map(|seconds| seconds * 1_000.0);
                    let millis = millis
                        .map(|millis| millis as u64)
                        .or_else(|| Millis::parse(&text).map(|millis| millis.0));
                    let value = millis.map_or_else(|| Value::from(text), Value::from);
                    keys.insert("watch_delay".to_owned(), value);
                }
            }
            Key("log_file") => {
                if let Some(text) = given() {
                    keys.insert(
                        "log_file".to_owned(),
                        if text == "true" {
                            Value::Bool(true)
                        } else {
                            Value::from(text)
                        },
                    );
                }
            }
            Key(key) if matches!(option.shape, Many | OptionalMany(_)) => {
                let mut all = all(matches, option.long);
                // Every name holds the empty text.
                all.retain(|text| !text.is_empty());
                if !all.is_empty() {
                    keys.insert(key.to_owned(), Value::from(all));
                }
            }
            Key(key) => {
                if let Some(text) = given() {
                    keys.insert(key.to_owned(), Value::from(text));
                }
            }
            True(key) if flag(matches, option.long) => {
                drop(keys.insert(key.to_owned(), Value::Bool(true)))
            }
            False(key) if flag(matches, option.long) => {
                drop(keys.insert(key.to_owned(), Value::Bool(false)))
            }
            True(_) | False(_) | Nothing => {}
        }
    }
    keys
}
