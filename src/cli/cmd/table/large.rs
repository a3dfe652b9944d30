//! Commands that are programs of their own: init scripts, servers, deployment, modules, the live view.

use super::{Entry, Words, optional};
use crate::cli::cmd::serve;
use crate::cli::options::{self, Opt, Sets, Shape, opt};
use crate::cli::{deploy, modules, monit, startup};
use clap::ArgMatches;

const INSTALL: &[Opt] = &[
    opt(
        "tarball",
        None,
        Shape::Flag,
        Sets::Nothing,
        "it is one of PM2's tarballs",
    ),
    opt(
        "safe",
        None,
        Shape::Optional(modules::SAFE),
        Sets::Nothing,
        "take the version before back if it does not stay online for so many milliseconds",
    ),
    opt(
        "install",
        None,
        Shape::Flag,
        Sets::Nothing,
        "accepted, without effect",
    ),
    opt(
        "docker",
        None,
        Shape::Flag,
        Sets::Nothing,
        "accepted, without effect",
    ),
    opt(
        "v1",
        None,
        Shape::Flag,
        Sets::Nothing,
        "accepted, without effect",
    ),
];

const UPDATE: &[Opt] = &[opt(
    "tarball",
    None,
    Shape::Flag,
    Sets::Nothing,
    "accepted, without effect",
)];

const PUBLISH: &[Opt] = &[opt(
    "npm",
    None,
    Shape::Flag,
    Sets::Nothing,
    "accepted, without effect",
)];

const SERVE: &[Opt] = &[
    opt(
        "port",
        None,
        Shape::Optional("8080"),
        Sets::Nothing,
        "port to listen on (8080)",
    ),
    opt(
        "spa",
        None,
        Shape::Flag,
        Sets::Nothing,
        "what is not there is the homepage",
    ),
    opt("ftp", None, Shape::Flag, Sets::Nothing, "list folders"),
    opt(
        "basic-auth-username",
        None,
        Shape::Optional(""),
        Sets::Nothing,
        "name that is asked for",
    ),
    opt(
        "basic-auth-password",
        None,
        Shape::Optional(""),
        Sets::Nothing,
        "its password",
    ),
    opt(
        "monitor",
        None,
        Shape::Optional(""),
        Sets::Nothing,
        "of PM2's cloud: ignored",
    ),
];

/// The words of a command that takes any number, and those behind `--`.
fn targets(matches: &ArgMatches, rest: &[String]) -> Vec<String> {
    let words = matches.get_many::<String>("targets").into_iter().flatten();
    words.chain(rest).cloned().collect()
}

/// Commands that are programs of their own.
pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        name: "monit",
        aliases: &["imonit", "dashboard", "dash"],
        words: Words::None,
        options: &[],
        help: "apps, logs and figures, live, in this terminal",
        run: |s, _, _| monit::run(s),
    },
    Entry {
        name: "serve",
        aliases: &["expose"],
        words: Words::Named(&[], &["path", "port-word"]),
        options: SERVE,
        help: "serve the files of a folder by HTTP",
        run: |s, m, _| serve::run(s, m, optional(m, "path"), optional(m, "port-word")),
    },
    Entry {
        name: "deploy",
        aliases: &[],
        words: Words::Targets(1),
        options: &[],
        help: "deploy a git repository: [FILE] ENVIRONMENT [setup|update|revert|current|previous|list|exec|ref]",
        run: |s, m, rest| deploy::run(s, &targets(m, rest), options::flag(m, "force")),
    },
    Entry {
        name: "startup",
        aliases: &[],
        words: Words::Named(&[], &["platform"]),
        options: &[],
        help: "write an init script, so that what is saved is there after a boot",
        run: |s, m, _| startup::startup(s, m, optional(m, "platform")),
    },
    Entry {
        name: "unstartup",
        aliases: &[],
        words: Words::Named(&[], &["platform"]),
        options: &[],
        help: "remove the init script",
        run: |s, m, _| startup::unstartup(s, m, optional(m, "platform")),
    },
    Entry {
        name: "install",
        aliases: &["module:install"],
        words: Words::Named(&["module"], &[]),
        options: INSTALL,
        help: "install a module: a name of npm, a folder, a tarball, an address of git",
        run: |s, m, _| modules::install(s, m, optional(m, "module")),
    },
    Entry {
        name: "uninstall",
        aliases: &["module:uninstall"],
        words: Words::Named(&["module"], &[]),
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
        words: Words::Named(&["module"], &[]),
        options: UPDATE,
        help: "fetch the newest version of a module, or of all",
        run: |s, m, _| modules::update(s, m, optional(m, "module")),
    },
    Entry {
        name: "module:generate",
        aliases: &[],
        words: Words::Named(&[], &["app_name"]),
        options: &[],
        help: "make a folder with a module that works",
        run: |s, m, _| modules::generate(s, optional(m, "app_name")),
    },
    Entry {
        name: "package",
        aliases: &["module:package"],
        words: Words::Named(&[], &["target"]),
        options: &[],
        help: "pack a module as a tarball",
        run: |s, m, _| modules::package(s, optional(m, "target")),
    },
    Entry {
        name: "publish",
        aliases: &["module:publish"],
        words: Words::Named(&[], &["folder"]),
        options: PUBLISH,
        help: "give a module its next version and send it to npm",
        run: |s, m, _| modules::publish(s, optional(m, "folder")),
    },
];
