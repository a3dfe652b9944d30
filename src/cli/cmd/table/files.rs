//! What writes files for people, and moves working trees.

use super::{Entry, Words, optional, word};
use crate::cli::cmd::git::{self, Step};
use crate::cli::cmd::{completion, template};

/// What writes files for people, and moves working trees.
pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        name: "pull",
        aliases: &[],
        words: Words::Named(&["name"], &["commit_id"]),
        options: &[],
        help: "an app's working tree to what its remote has, and reload",
        run: |s, m, _| git::run(s, m, word(m, "name"), Step::Pull(optional(m, "commit_id"))),
    },
    Entry {
        name: "forward",
        aliases: &[],
        words: Words::Named(&["name"], &[]),
        options: &[],
        help: "an app's working tree to the next commit, and reload",
        run: |s, m, _| git::run(s, m, word(m, "name"), Step::Forward),
    },
    Entry {
        name: "backward",
        aliases: &[],
        words: Words::Named(&["name"], &[]),
        options: &[],
        help: "an app's working tree to the commit before, and reload",
        run: |s, m, _| git::run(s, m, word(m, "name"), Step::Backward),
    },
    Entry {
        name: "ecosystem",
        aliases: &["init"],
        words: Words::Named(&[], &["mode"]),
        options: &[],
        help: "write an ecosystem file to begin with (simple: a short one)",
        run: |s, m, _| template::ecosystem(s, optional(m, "mode")),
    },
    Entry {
        name: "examples",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "command lines to begin with",
        run: |s, _, _| template::examples(s),
    },
    Entry {
        name: "completion",
        aliases: &[],
        words: Words::Named(&[], &["install|uninstall|fish"]),
        options: &[],
        help: "completion for bash, zsh and fish",
        run: |s, m, rest| completion::run(s, optional(m, "install|uninstall|fish"), rest),
    },
];
