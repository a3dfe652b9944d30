//! The words of `pm2-runtime` and `pm2-dev`: PM2's options, their own, and unknown ones, which are accepted as PM2 does.

use crate::cli::options::{self, GLOBAL, Opt, Sets, Shape};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};

const fn own(long: &'static str, shape: Shape, help: &'static str) -> Opt {
    Opt {
        long,
        short: None,
        shape,
        sets: Sets::Nothing,
        help,
    }
}

/// Options of `pm2-runtime` alone.
const RUNTIME: &[Opt] = &[
    own("raw", Shape::Flag, "the apps' lines as they are (default)"),
    own("formatted", Shape::Flag, "<id>|<name> before each line"),
    own("format", Shape::Flag, "key=value form"),
    own("json", Shape::Flag, "one JSON object a line"),
    own("delay", Shape::Value, "seconds to wait before the start"),
    own(
        "web",
        Shape::Optional("9615"),
        "where HTTP listens: a port of 127.0.0.1, or of PM2_API_IPADDR",
    ),
    own(
        "no-auto-exit",
        Shape::Flag,
        "stay when nothing runs any more",
    ),
    own("secret", Shape::Optional(""), "of PM2's cloud: ignored"),
    own("public", Shape::Optional(""), "of PM2's cloud: ignored"),
    own(
        "machine-name",
        Shape::Optional(""),
        "of PM2's cloud: ignored",
    ),
];

/// Options of `pm2-dev` alone.
const DEV: &[Opt] = &[
    own("raw", Shape::Flag, "the apps' lines as they are"),
    own(
        "timestamp",
        Shape::Optional("YYYY-MM-DD-HH:mm:ss"),
        "date before each line",
    ),
    own(
        "ignore",
        Shape::Optional(""),
        "paths that are not watched, with commas between them",
    ),
    own(
        "post-exec",
        Shape::Optional(""),
        "shell command to run after each restart",
    ),
    own(
        "silent-exec",
        Shape::Flag,
        "do not print what that command prints",
    ),
    own("test-mode", Shape::Flag, "start, leave the daemon, and end"),
    own("auto-exit", Shape::Flag, "end when nothing runs any more"),
];

/// The parser of one of both.
pub fn parser(name: &'static str, dev: bool) -> Command {
    let own = if dev { DEV } else { RUNTIME };
    let mut parser = Command::new(name)
        .disable_version_flag(true)
        .override_usage(format!(
            "{name} [start] <script|ecosystem file> [options] [-- arguments]"
        ));
    for option in own.iter().chain(GLOBAL) {
        parser = parser.arg(options::arg(option));
    }
    parser
        .arg(
            Arg::new("version")
                .long("version")
                .short('V')
                .short_alias('v')
                .action(ArgAction::SetTrue)
                .help("print the version"),
        )
        .arg(
            Arg::new("targets")
                .value_name("script|ecosystem file")
                .num_args(0..)
                .action(ArgAction::Append),
        )
}

/// Understands what was typed: what it means, and those words that are understood. What is not known is told on standard
/// error and left out.
pub fn parse(
    name: &'static str,
    dev: bool,
    words: &[String],
) -> Result<(ArgMatches, Vec<String>), clap::Error> {
    let mut words: Vec<String> = words.to_vec();
    let verbs: &[&str] = if dev { &["start", "run"] } else { &["start"] };
    if words
        .first()
        .is_some_and(|word| verbs.contains(&word.as_str()))
    {
        words.remove(0);
    }
    loop {
        let typed = std::iter::once(name.to_owned()).chain(words.iter().cloned());
        let error = match parser(name, dev).try_get_matches_from(typed) {
            Ok(matches) => return Ok((matches, words)),
            Err(error) => error,
        };
        let unknown = match (error.kind(), error.get(ContextKind::InvalidArg)) {
            (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) => word.clone(),
            _ => return Err(error),
        };
        let at = words
            .iter()
            .position(|word| *word == unknown || word.starts_with(&format!("{unknown}=")));
        let Some(at) = at else { return Err(error) };
        eprintln!("[PM2][WARN] {name} does not know `{unknown}`; it is left out");
        words.remove(at);
    }
}

/// The same for words that are understood, after options that hold unless the words say otherwise.
pub fn parse_after(
    name: &'static str,
    dev: bool,
    defaults: Vec<String>,
    words: Vec<String>,
) -> Result<ArgMatches, clap::Error> {
    let typed = std::iter::once(name.to_owned())
        .chain(defaults)
        .chain(words);
    parser(name, dev).try_get_matches_from(typed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_parsers_are_sound() {
        parser("pm2-runtime", false).debug_assert();
        parser("pm2-dev", true).debug_assert();
    }

    #[test]
    fn a_verb_before_the_script_may_be_left_out_and_unknown_options_are_dropped() {
        for line in [
            "start app.js -i 4 --no-auto-exit",
            "app.js --whatever -i 4 --no-auto-exit --other=3",
        ] {
            let (matches, words) = parse("pm2-runtime", false, &typed(line)).unwrap();
            assert_eq!(words, ["app.js", "-i", "4", "--no-auto-exit"]);
            assert_eq!(options::value(&matches, "targets"), Some("app.js"));
            assert_eq!(options::value(&matches, "instances"), Some("4"));
            assert!(options::flag(&matches, "no-auto-exit"));
        }
        assert!(parse("pm2-runtime", false, &typed("a.js --name")).is_err());
        let (dev, _) = parse("pm2-dev", true, &typed("run a.js --ignore x,y")).unwrap();
        assert_eq!(options::value(&dev, "ignore"), Some("x,y"));
    }

    #[test]
    fn what_is_typed_wins_over_the_defaults() {
        let given = |line| {
            let defaults = typed("--output=/dev/null");
            let matches = parse_after("pm2-runtime", false, defaults, typed(line)).unwrap();
            options::value(&matches, "output").map(str::to_owned)
        };
        assert_eq!(given("a.js").as_deref(), Some("/dev/null"));
        assert_eq!(given("a.js -o x.log").as_deref(), Some("x.log"));
    }
}
