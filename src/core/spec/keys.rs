//! The one table of PM2's app keys: names, types, aliases, limits and meaning (pm2 7.0.4; pm2-behaviour 5.3).

use serde_json::Value;

/// The JSON type a key accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A number, or text that reads as one.
    Number,
    /// `true` or `false`.
    Flag,
    /// A list.
    List,
    /// An object.
    Object,
}

impl Kind {
    /// PM2's word for it in its messages.
    pub fn pm2_word(self) -> &'static str {
        match self {
            Kind::Text => "[object String]",
            Kind::Number => "[object Number]",
            Kind::Flag => "[object Boolean]",
            Kind::List => "[object Array]",
            Kind::Object => "[object Object]",
        }
    }

    /// The word for a person, with its article.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Number => "a number",
            Kind::Flag => "true or false",
            Kind::List => "a list",
            Kind::Object => "an object",
        }
    }

    /// JSON Schema's word for it.
    pub fn schema_word(self) -> &'static str {
        match self {
            Kind::Text => "string",
            Kind::Number => "number",
            Kind::Flag => "boolean",
            Kind::List => "array",
            Kind::Object => "object",
        }
    }

    /// Whether `value` is of this type.
    pub fn holds(self, value: &Value) -> bool {
        match self {
            Kind::Text => value.is_string(),
            Kind::Number => value.is_number(),
            Kind::Flag => value.is_boolean(),
            Kind::List => value.is_array(),
            Kind::Object => value.is_object(),
        }
    }
}

/// A rule that text under a key must follow.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    /// As a regular expression, for the JSON Schema.
    pub regex: &'static str,
    /// What PM2 says it should be.
    pub pm2_hint: &'static str,
    /// The check itself.
    pub check: fn(&str) -> bool,
}

/// One key of an app.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name in PM2.
    pub name: &'static str,
    /// The types it accepts. Text under a key whose first type is a list is split into arguments.
    pub kinds: &'static [Kind],
    /// Other names, in order of preference. The camelCase form of `name` is one more.
    pub aliases: &'static [&'static str],
    /// The least number accepted.
    pub min: Option<u32>,
    /// The rule its text must follow.
    pub pattern: Option<Pattern>,
    /// Its default as JSON text; empty when there is none.
    pub default: &'static str,
    /// What it means.
    pub doc: &'static str,
}

impl Key {
    /// `max_restarts` as `maxRestarts`; `None` for a name of a single word.
    pub fn camel(&self) -> Option<String> {
        if !self.name.contains('_') {
            return None;
        }
        let mut out = String::with_capacity(self.name.len());
        let mut upper = false;
        for c in self.name.chars() {
            match c {
                '_' => upper = true,
                c if upper => {
                    out.push(c.to_ascii_uppercase());
                    upper = false;
                }
                c => out.push(c),
            }
        }
        Some(out)
    }

    /// Whether text under it is split into a list of arguments.
    pub fn splits(&self) -> bool {
        self.kinds.first() == Some(&Kind::List) && self.kinds.contains(&Kind::Text)
    }
}

/// Finds a key by its PM2 name.
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// What an `env_<name>` block may be.
pub const ENV_BLOCK_KINDS: &[Kind] = &[Kind::Object, Kind::Text];

const TEXT: &[Kind] = &[Kind::Text];
const NUMBER: &[Kind] = &[Kind::Number];
const FLAG: &[Kind] = &[Kind::Flag];
const OBJECT: &[Kind] = &[Kind::Object];
const ARGS: &[Kind] = &[Kind::List, Kind::Text];
const ID: &[Kind] = &[Kind::Number, Kind::Text];

const MODE: Pattern = Pattern {
    regex: "^(cluster|fork)(_mode)?$",
    pm2_hint: "it should be \"cluster\"(\"cluster_mode\") or \"fork\"(\"fork_mode\") only",
    check: |text| matches!(text, "cluster" | "cluster_mode" | "fork" | "fork_mode"),
};
const SIZE: Pattern = Pattern {
    regex: "^\\d+(G|M|K)?$",
    pm2_hint: "it should be a NUMBER - byte, \"[NUMBER]G\"(Gigabyte), \"[NUMBER]M\"(Megabyte) or \"[NUMBER]K\"(Kilobyte)",
    check: |text| number_with_unit(text, &['G', 'M', 'K']),
};
const TIME: Pattern = Pattern {
    regex: "^\\d+(h|m|s)?$",
    pm2_hint: "it should be a NUMBER - milliseconds, \"[NUMBER]h\"(hours), \"[NUMBER]m\"(minutes) or \"[NUMBER]s\"(seconds)",
    check: |text| number_with_unit(text, &['h', 'm', 's']),
};

fn number_with_unit(text: &str, units: &[char]) -> bool {
    let digits = text.strip_suffix(units).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// A time in milliseconds. pm2 7.0.4 takes a negative one, and its timers then don't wait; here it is an error.
const fn duration(name: &'static str, doc: &'static str) -> Key {
    Key {
        min: Some(0),
        ..plain(name, NUMBER, doc)
    }
}

const fn plain(name: &'static str, kinds: &'static [Kind], doc: &'static str) -> Key {
    Key {
        name,
        kinds,
        aliases: &[],
        min: None,
        pattern: None,
        default: "",
        doc,
    }
}

const fn with_default(
    name: &'static str,
    kinds: &'static [Kind],
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        default,
        ..plain(name, kinds, doc)
    }
}

const fn aliased(
    name: &'static str,
    kinds: &'static [Kind],
    aliases: &'static [&'static str],
    doc: &'static str,
) -> Key {
    Key {
        aliases,
        ..plain(name, kinds, doc)
    }
}

/// Every named key; `env_<name>` blocks come on top. In the order in which PM2 stores and reports them.
// One key a line.
#[rustfmt::skip]
pub const KEYS: [Key; 64] = [
    aliased(
        "script",
        TEXT,
        &["exec", "cmd", "command"],
        "The program to run: a path, a name in PATH, or a command line with spaces, which bash runs. Required.",
    ),
    plain(
        "name",
        TEXT,
        "The app's name. Default: the script's file name without its last extension.",
    ),
    plain(
        "name_prefix",
        TEXT,
        "Kept with the app, and of no effect on its name when started from a file (pm2 7.0.4).",
    ),
    plain(
        "filter_env",
        &[Kind::Flag, Kind::List, Kind::Text],
        "Variables of the shell not to inherit: text names one; a list drops every name that contains one of its entries; true keeps only the basic ones (PATH, HOME and the like).",
    ),
    with_default(
        "namespace",
        TEXT,
        "\"default\"",
        "A group of apps that commands can name.",
    ),
    plain(
        "install_url",
        TEXT,
        "For modules: where it was installed from.",
    ),
    plain(
        "cwd",
        TEXT,
        "The folder it runs in, and from which relative paths count. Also sets PWD.",
    ),
    plain(
        "args",
        ARGS,
        "Arguments of the script: a list, or text that is split at spaces outside quotes.",
    ),
    aliased(
        "exec_interpreter",
        TEXT,
        &["interpreter"],
        "The program that runs the script, or \"none\". Default: by the script's extension, else its shebang.",
    ),
    Key {
        default: "[]",
        ..aliased(
            "node_args",
            ARGS,
            &["interpreter_args", "interpreterArgs"],
            "Arguments of the interpreter.",
        )
    },
    aliased(
        "out_file",
        TEXT,
        &["out", "output", "out_log"],
        "Where stdout is written; /dev/null for nowhere. Default: <name>-out.log in the log folder.",
    ),
    aliased(
        "error_file",
        TEXT,
        &["error", "err", "err_file", "err_log"],
        "Where stderr is written; /dev/null for nowhere. Default: <name>-error.log in the log folder.",
    ),
    aliased(
        "log_file",
        &[Kind::Flag, Kind::Text],
        &["log"],
        "A third file with both; true for <name>.log in the log folder.",
    ),
    plain(
        "disable_logs",
        FLAG,
        "Write no logs and send none to followers.",
    ),
    plain(
        "log_type",
        TEXT,
        "\"json\" for one JSON object a line; otherwise lines are written as they are.",
    ),
    plain(
        "log_date_format",
        TEXT,
        "A date put before every line, in the letters of moment.js: YYYY-MM-DD HH:mm:ss.",
    ),
    plain(
        "time",
        FLAG,
        "The same as log_date_format \"YYYY-MM-DDTHH:mm:ss\".",
    ),
    Key {
        default: "{}",
        ..plain(
            "env",
            &[Kind::Object, Kind::Text],
            "Variables of its environment, over the shell's.",
        )
    },
    Key {
        pattern: Some(SIZE),
        min: Some(0),
        ..plain(
            "max_memory_restart",
            &[Kind::Text, Kind::Number],
            "Restart it when it holds more memory: bytes, or text with K, M or G (1024-based). 0: no limit.",
        )
    },
    duration(
        "restart_delay",
        "How long to wait before an automatic restart, in ms.",
    ),
    duration(
        "exp_backoff_restart_delay",
        "The first wait before an automatic restart, in ms; then half as much again each time, up to 15000. 0: off.",
    ),
    plain(
        "source_map_support",
        FLAG,
        "Node uses source maps, so that stacks name the lines that people wrote. It does without this key too.",
    ),
    plain(
        "disable_source_map_support",
        FLAG,
        "Node uses no source maps.",
    ),
    plain(
        "wait_ready",
        FLAG,
        "Online only once it says \"ready\" on its IPC channel, or listen_timeout has passed.",
    ),
    Key {
        default: "1",
        ..plain(
            "instances",
            NUMBER,
            "How many processes: a number, \"max\" or 0 for one per CPU, negative for so many fewer than that. A Node script then runs in cluster mode.",
        )
    },
    duration(
        "kill_timeout",
        "How long a stopping app may take before SIGKILL, in ms. Default 1600.",
    ),
    plain(
        "shutdown_with_message",
        FLAG,
        "Stop it by the IPC message \"shutdown\" instead of a signal.",
    ),
    duration(
        "listen_timeout",
        "How long to wait for it to listen or to be ready, in ms. Default 3000.",
    ),
    aliased(
        "cron_restart",
        &[Kind::Text, Kind::Number],
        &["cron"],
        "Restart it at these times: five cron fields, or six with seconds first. 0: never.",
    ),
    aliased(
        "merge_logs",
        FLAG,
        &["combine_logs"],
        "All instances write to one file. Default: true unless in cluster mode or with instances.",
    ),
    with_default(
        "vizion",
        FLAG,
        "true",
        "Look up git metadata, where enabled.",
    ),
    with_default(
        "autostart",
        FLAG,
        "true",
        "Start it when it is added; false only registers it.",
    ),
    with_default("autorestart", FLAG, "true", "Start it again when it ends."),
    plain(
        "stop_exit_codes",
        &[Kind::List, Kind::Number],
        "Exit codes after which it is not started again.",
    ),
    duration(
        "watch_delay",
        "How long to wait after a change before the restart, in ms.",
    ),
    plain(
        "watch",
        &[Kind::Flag, Kind::List, Kind::Text],
        "Restart it when files change: true for cwd, or a path, or a list of paths.",
    ),
    plain(
        "ignore_watch",
        ARGS,
        "Paths and globs that watch leaves out, seen from cwd. Default: dotfiles and node_modules.",
    ),
    plain(
        "watch_options",
        OBJECT,
        "More options for watching, in chokidar's words.",
    ),
    Key {
        pattern: Some(TIME),
        min: Some(100),
        ..plain(
            "min_uptime",
            &[Kind::Number, Kind::Text],
            "An end sooner than this is a crash: ms, or text with s, m or h. At least 100. Default 1000.",
        )
    },
    Key {
        min: Some(0),
        ..plain(
            "max_restarts",
            NUMBER,
            "After so many crashes in a row it is given up (errored). Default 16.",
        )
    },
    Key {
        pattern: Some(MODE),
        default: "\"fork\"",
        ..plain(
            "exec_mode",
            TEXT,
            "\"fork\", or \"cluster\" for Node scripts that share ports.",
        )
    },
    plain("execute_command", FLAG, "Forces fork mode."),
    plain(
        "force",
        FLAG,
        "Start it even if the same script runs under the same name.",
    ),
    plain(
        "append_env_to_name",
        FLAG,
        "With --env E, the name becomes <name>-<E>.",
    ),
    plain(
        "post_update",
        &[Kind::List],
        "Commands to run after pulling from git.",
    ),
    plain(
        "trace",
        FLAG,
        "Of no effect: tracing belongs to PM2's own service.",
    ),
    plain("disable_trace", FLAG, "Sets trace to false."),
    plain("v8", FLAG, "Of no effect: a metric of PM2's own service."),
    plain(
        "event_loop_inspector",
        FLAG,
        "Of no effect: a metric of PM2's own service.",
    ),
    plain(
        "deep_monitoring",
        FLAG,
        "Of no effect: a metric of PM2's own service.",
    ),
    plain(
        "increment_var",
        TEXT,
        "A variable that is one higher in each instance.",
    ),
    with_default(
        "instance_var",
        TEXT,
        "\"NODE_APP_INSTANCE\"",
        "The variable that tells an instance its index.",
    ),
    with_default(
        "pmx",
        &[Kind::Flag, Kind::Text],
        "true",
        "false: no agent is put into Node apps (docs/node.md).",
    ),
    with_default("automation", FLAG, "true", "false also sets pmx to false."),
    with_default(
        "treekill",
        FLAG,
        "true",
        "Stop its child processes with it.",
    ),
    plain("port", NUMBER, "Sets PORT in its environment."),
    plain(
        "username",
        TEXT,
        "Overwritten with the name of the user who starts it.",
    ),
    aliased(
        "uid",
        ID,
        &["user"],
        "The user it runs as, by name or number. Needs root. Also sets HOME.",
    ),
    plain(
        "gid",
        ID,
        "The group it runs as, by name or number. Default: the user's own.",
    ),
    with_default("windowsHide", FLAG, "true", "Of no effect on Linux."),
    Key {
        default: "100",
        ..duration(
            "kill_retry_time",
            "While it is stopping, how often to look whether it has ended, in ms.",
        )
    },
    plain(
        "write",
        FLAG,
        "Kept with the app; the command line's -w writes <name>-pm2.json.",
    ),
    plain(
        "io",
        OBJECT,
        "Options for the @pm2/io library; handed over as JSON in the variable io.",
    ),
    aliased(
        "pid_file",
        TEXT,
        &["pid"],
        "Where the process id is written. Default: <name>-<pm_id>.pid in the pid folder.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_name_or_alias_is_taken_twice() {
        let mut seen = BTreeSet::new();
        for key in &KEYS {
            for name in std::iter::once(key.name.to_string())
                .chain(key.aliases.iter().map(ToString::to_string))
                .chain(key.camel())
            {
                assert!(
                    seen.insert(name.clone()) || key.aliases.contains(&name.as_str()),
                    "{name} is taken twice"
                );
            }
        }
    }

    #[test]
    fn camel_case_is_made_of_snake_case() {
        assert_eq!(
            key("max_memory_restart").and_then(Key::camel).as_deref(),
            Some("maxMemoryRestart")
        );
        assert_eq!(key("watch").and_then(Key::camel), None);
    }

    #[test]
    fn patterns_take_what_pm2_takes() {
        for (key_name, text, want) in [
            ("max_memory_restart", "10M", true),
            ("max_memory_restart", "10MB", false),
            ("max_memory_restart", "10m", false),
            ("max_memory_restart", "1.5G", false),
            ("max_memory_restart", "G", false),
            ("min_uptime", "10s", true),
            ("min_uptime", "10x", false),
            ("exec_mode", "cluster_mode", true),
            ("exec_mode", "Cluster", false),
        ] {
            let pattern = key(key_name).and_then(|k| k.pattern).unwrap();
            assert_eq!((pattern.check)(text), want, "{key_name} {text}");
        }
    }
}
