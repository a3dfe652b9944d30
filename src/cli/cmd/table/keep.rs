//! What is kept: the saved list, the settings, the daemon itself.

use super::{Entry, Words, optional, word};
use crate::cli::cmd::{daemon, dump, store, update};

/// What is kept: the saved list, the settings, the daemon itself.
pub(super) const ENTRIES: &[Entry] = &[
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
        name: "set",
        aliases: &[],
        words: Words::Named(&[], &["key", "value"]),
        options: &[],
        help: "store a setting (without one: open them all in $EDITOR)",
        run: |s, m, _| store::set(s, optional(m, "key"), optional(m, "value")),
    },
    Entry {
        name: "multiset",
        aliases: &[],
        words: Words::Named(&["keys and values"], &[]),
        options: &[],
        help: "store several settings: \"key value key value\"",
        run: |s, m, _| store::multiset(s, word(m, "keys and values")),
    },
    Entry {
        name: "get",
        aliases: &[],
        words: Words::Named(&[], &["key"]),
        options: &[],
        help: "show a setting, or all",
        run: |s, m, _| store::get(s, optional(m, "key")),
    },
    Entry {
        name: "conf",
        aliases: &[],
        words: Words::Named(&[], &["key", "value"]),
        options: &[],
        help: "show the settings of a module, or all",
        run: |s, m, _| store::conf(s, optional(m, "key"), optional(m, "value")),
    },
    Entry {
        name: "config",
        aliases: &[],
        words: Words::Named(&["key"], &["value"]),
        options: &[],
        help: "show a setting, or store it",
        run: |s, m, _| store::config(s, word(m, "key"), optional(m, "value")),
    },
    Entry {
        name: "unset",
        aliases: &[],
        words: Words::Named(&["key"], &[]),
        options: &[],
        help: "remove a setting",
        run: |s, m, _| store::unset(s, word(m, "key")),
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
        name: "deepUpdate",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "as update; npm has no part in it",
        run: |s, m, _| daemon::deep_update(s, m),
    },
];
