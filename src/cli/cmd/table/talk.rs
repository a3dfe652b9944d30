//! What talks to running apps, and what they wrote.

use super::{Entry, Words, optional, word};
use crate::cli::cmd::{daemon, logs, signal, talk, template};
use crate::cli::options::{self, LOGS};

/// What talks to running apps, and what they wrote.
pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        name: "sendSignal",
        aliases: &[],
        words: Words::Named(&["signal", "pm2_id|name"], &[]),
        options: &[],
        help: "send a signal to an app",
        run: |s, m, _| signal::run(s, m, word(m, "signal"), word(m, "pm2_id|name")),
    },
    Entry {
        name: "send",
        aliases: &[],
        words: Words::Named(&["pm_id", "line"], &[]),
        options: &[],
        help: "send a line to an app's standard input",
        run: |s, m, _| signal::send(s, m, word(m, "pm_id"), word(m, "line")),
    },
    Entry {
        name: "attach",
        aliases: &[],
        words: Words::Named(&["pm_id"], &["separator"]),
        options: &[],
        help: "type to an app, and see what it writes",
        run: |s, m, _| talk::attach(s, word(m, "pm_id"), optional(m, "separator")),
    },
    Entry {
        name: "trigger",
        aliases: &[],
        words: Words::Named(&["id|proc_name|namespace|all", "action_name"], &["params"]),
        options: &[],
        help: "call an action that apps offer",
        run: |s, m, _| {
            let target = word(m, "id|proc_name|namespace|all");
            talk::trigger(s, target, word(m, "action_name"), optional(m, "params"))
        },
    },
    Entry {
        name: "inspect",
        aliases: &[],
        words: Words::Named(&["name"], &[]),
        options: &[],
        help: "open Node's inspector in an app",
        run: |s, m, _| talk::inspect(s, word(m, "name")),
    },
    Entry {
        name: "logs",
        aliases: &["log"],
        words: Words::Named(&[], &["target"]),
        options: LOGS,
        help: "the last lines, then new ones as they come",
        run: |s, m, _| logs::run(s, m),
    },
    Entry {
        name: "flush",
        aliases: &[],
        words: Words::Named(&[], &["name|id"]),
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
        name: "logrotate",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "tell the system's logrotate of the log files",
        run: |s, m, _| template::logrotate(s, options::value(m, "user")),
    },
];
