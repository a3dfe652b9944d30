//! What belongs to PM2's own service: two flags that work here too, and what only that service can do.

use super::{Entry, Words, optional};
use crate::cli::cmd::cloud;
use crate::cli::options::{Opt, Sets, Shape, opt};

const INFO_NODE: Opt = opt(
    "info-node",
    None,
    Shape::Optional(""),
    Sets::Nothing,
    "the service's address",
);

const LINK: &[Opt] = &[INFO_NODE];

const PLUS: &[Opt] = &[
    INFO_NODE,
    opt(
        "discrete",
        Some('d'),
        Shape::Flag,
        Sets::Nothing,
        "say nothing",
    ),
    opt(
        "install-all",
        None,
        Shape::Flag,
        Sets::Nothing,
        "all modules",
    ),
];

/// What belongs to PM2's own service.
pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        name: "monitor",
        aliases: &[],
        words: Words::Named(&[], &["name|id|all"]),
        options: &[],
        help: "mark an app as monitored (in jlist)",
        run: |s, m, _| cloud::mark(s, m, optional(m, "name|id|all"), true),
    },
    Entry {
        name: "unmonitor",
        aliases: &[],
        words: Words::Named(&[], &["name|id|all"]),
        options: &[],
        help: "take that mark away",
        run: |s, m, _| cloud::mark(s, m, optional(m, "name|id|all"), false),
    },
    Entry {
        name: "link",
        aliases: &[],
        words: Words::Named(&[], &["secret", "public", "name"]),
        options: LINK,
        help: "PM2's own service: not supported",
        run: |s, _, _| cloud::refuse(s, "link"),
    },
    Entry {
        name: "unlink",
        aliases: &[],
        words: Words::Named(&[], &[]),
        options: &[],
        help: "PM2's own service: not supported",
        run: |s, _, _| cloud::refuse(s, "unlink"),
    },
    Entry {
        name: "plus",
        aliases: &["register"],
        words: Words::Named(&[], &["command", "option"]),
        options: PLUS,
        help: "PM2's own service: not supported",
        run: |s, _, _| cloud::refuse(s, "plus"),
    },
    Entry {
        name: "login",
        aliases: &[],
        words: Words::Named(&[], &[]),
        options: &[],
        help: "PM2's own service: not supported",
        run: |s, _, _| cloud::refuse(s, "login"),
    },
    Entry {
        name: "logout",
        aliases: &[],
        words: Words::Named(&[], &[]),
        options: &[],
        help: "PM2's own service: not supported",
        run: |s, _, _| cloud::refuse(s, "logout"),
    },
    Entry {
        name: "open",
        aliases: &[],
        words: Words::Named(&[], &[]),
        options: &[],
        help: "PM2's own service: not supported",
        run: |s, _, _| cloud::refuse(s, "open"),
    },
    Entry {
        name: "install-otel",
        aliases: &[],
        words: Words::Named(&[], &[]),
        options: &[],
        help: "PM2's own service: not supported",
        run: |s, _, _| cloud::refuse(s, "install-otel"),
    },
    Entry {
        name: "uninstall-otel",
        aliases: &[],
        words: Words::Named(&[], &[]),
        options: &[],
        help: "PM2's own service: not supported",
        run: |s, _, _| cloud::refuse(s, "uninstall-otel"),
    },
    Entry {
        name: "create",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "PM2's own templates: not supported",
        run: |s, _, _| {
            cloud::refuse_for(
                s,
                "create",
                "fetches templates of PM2's; `fornax init` writes an ecosystem file to begin with",
            )
        },
    },
    Entry {
        name: "autoinstall",
        aliases: &[],
        words: Words::None,
        options: &[],
        help: "does not work in PM2 either",
        run: |s, _, _| {
            cloud::refuse_for(
                s,
                "autoinstall",
                "does not work in pm2 7.0.4 either; name what to start",
            )
        },
    },
];
