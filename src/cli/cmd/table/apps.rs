//! What starts, ends and changes apps.

use super::{Entry, Words, word};
use crate::cli::cmd::act::Action;
use crate::cli::cmd::{act, scale, start};
use crate::cli::options::CONTAINER;

/// What starts, ends and changes apps.
pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        name: "start",
        aliases: &[],
        words: Words::Targets(0),
        options: CONTAINER,
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
        words: Words::Named(&["json"], &[]),
        options: &[],
        help: "start or restart the apps of a file",
        run: |s, m, _| start::file_command(s, m, word(m, "json"), Action::Restart),
    },
    Entry {
        name: "startOrReload",
        aliases: &[],
        words: Words::Named(&["json"], &[]),
        options: &[],
        help: "start or reload the apps of a file",
        run: |s, m, _| start::file_command(s, m, word(m, "json"), Action::Reload),
    },
    Entry {
        name: "startOrGracefulReload",
        aliases: &[],
        words: Words::Named(&["json"], &[]),
        options: &[],
        help: "start or reload the apps of a file",
        run: |s, m, _| start::file_command(s, m, word(m, "json"), Action::Reload),
    },
    Entry {
        name: "scale",
        aliases: &[],
        words: Words::Named(&["app_name", "number"], &[]),
        options: &[],
        help: "change how many instances an app has (4, or +2)",
        run: |s, m, _| scale::run(s, m, word(m, "app_name"), word(m, "number")),
    },
    Entry {
        name: "reset",
        aliases: &[],
        words: Words::Named(&["name|id|all"], &[]),
        options: &[],
        help: "set restart counters to zero",
        run: |s, m, _| scale::reset(s, m, word(m, "name|id|all")),
    },
];
