//! What shows apps and the daemon.

use super::{Entry, Words, optional, word};
use crate::cli::cmd::{daemon, list, report, show};
use crate::cli::options::{self, Opt, Sets, Shape, opt};

const SLIST: &[Opt] = &[opt(
    "tree",
    Some('t'),
    Shape::Flag,
    Sets::Nothing,
    "as a tree",
)];

/// What shows apps and the daemon.
pub(super) const ENTRIES: &[Entry] = &[
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
        words: Words::Named(&["name|id"], &[]),
        options: &[],
        help: "everything about one app",
        run: |s, m, _| show::describe(s, word(m, "name|id")),
    },
    Entry {
        name: "env",
        aliases: &[],
        words: Words::Named(&["id"], &[]),
        options: &[],
        help: "an app's environment",
        run: |s, m, _| show::env(s, word(m, "id")),
    },
    Entry {
        name: "id",
        aliases: &[],
        words: Words::Named(&["name"], &[]),
        options: &[],
        help: "the ids of a name",
        run: |s, m, _| show::id(s, word(m, "name")),
    },
    Entry {
        name: "pid",
        aliases: &[],
        words: Words::Named(&[], &["name"]),
        options: &[],
        help: "the pids of a name, or of all",
        run: |s, m, _| show::pid(s, optional(m, "name")),
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
        name: "report",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "facts about daemon, machine and apps, for whoever is to help",
        run: |s, m, _| report::report(s, m),
    },
    Entry {
        name: "slist",
        aliases: &["sysinfos"],
        words: Words::None,
        options: SLIST,
        help: "the machine's figures",
        run: |s, m, _| report::sysinfos(s, options::flag(m, "tree")),
    },
    Entry {
        name: "profile:cpu",
        aliases: &[],
        words: Words::Named(&[], &["time"]),
        options: &[],
        help: "PM2's own daemon only: not supported",
        run: |s, _, _| report::profile(s, "profile:cpu"),
    },
    Entry {
        name: "profile:mem",
        aliases: &[],
        words: Words::Named(&[], &["time"]),
        options: &[],
        help: "PM2's own daemon only: not supported",
        run: |s, _, _| report::profile(s, "profile:mem"),
    },
];
