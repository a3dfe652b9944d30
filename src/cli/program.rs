//! From the words typed to an exit code: which program, which command, what is silent, what has colour.

use super::cmd::table;
use super::machine;
use super::modules;
use super::options;
use super::render::message;
use super::runtime;
use super::session::{Output, Session, Told, print};
use super::startup;
use crate::core::spec::home::Home;
use crate::sys::signals;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::io::IsTerminal;
use std::process::ExitCode;

/// What this binary is, by the name it is called under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `fornax`: PM2's commands and its own.
    Fornax,
    /// `pm2`.
    Pm2,
    /// `pm2-runtime` and `pm2-docker`: in the foreground.
    Pm2Runtime,
    /// `pm2-dev`.
    Pm2Dev,
}

impl Program {
    /// By the last part of the path.
    pub fn of(arg0: &str) -> Self {
        match arg0.rsplit('/').next().unwrap_or_default() {
            "pm2" => Program::Pm2,
            "pm2-runtime" | "pm2-docker" => Program::Pm2Runtime,
            "pm2-dev" => Program::Pm2Dev,
            _ => Program::Fornax,
        }
    }

    /// What this process was called as.
    pub fn own() -> Self {
        Self::of(&std::env::args().next().unwrap_or_default())
    }

    fn name(self) -> &'static str {
        match self {
            Program::Fornax => "fornax",
            Program::Pm2 => "pm2",
            Program::Pm2Runtime => "pm2-runtime",
            Program::Pm2Dev => "pm2-dev",
        }
    }
}

/// Runs a command line, its program's name first.
pub fn run(args: &[String]) -> ExitCode {
    // As Node does at its start.
    signals::may_interrupt();
    let program = Program::of(args.first().map_or("", String::as_str));
    // What follows `--` belongs to the app, whatever it looks like.
    let split = args
        .iter()
        .position(|arg| arg == "--")
        .unwrap_or(args.len());
    let (words, rest) = (
        &args[1.min(split)..split],
        args.get(split + 1..).unwrap_or_default(),
    );
    let outcome = match program {
        Program::Pm2Runtime | Program::Pm2Dev => runtime::run(program.name(), words, rest),
        // What the systemd unit runs, under whatever name.
        Program::Fornax | Program::Pm2 if *words == ["systemd-unit"] => startup::watcher::run(),
        Program::Fornax if words.first().is_some_and(|word| machine::is_ours(word)) => {
            machine::run(words, rest)
        }
        Program::Fornax | Program::Pm2 => pm2(program, words, rest),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if error.is::<Told>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!(
                "{}",
                message::error(&told(&error), std::io::stderr().is_terminal())
            );
            ExitCode::FAILURE
        }
    }
}

fn pm2(program: Program, words: &[String], rest: &[String]) -> anyhow::Result<ExitCode> {
    let help = || {
        table::parser(program.name()).render_help().to_string()
            + if program == Program::Fornax {
                machine::HELP
            } else {
                ""
            }
    };
    let typed = || std::iter::once(program.name().to_owned()).chain(words.iter().cloned());
    let part = table::parser_for(program.name(), words).try_get_matches_from(typed());
    let matches =
        match part.or_else(|_| table::parser(program.name()).try_get_matches_from(typed())) {
            Ok(matches) => matches,
            Err(error) => return Ok(misuse(&error, &help())),
        };
    if options::flag(&matches, "version") {
        print(&match program {
            Program::Fornax => format!("{}\n", env!("CARGO_PKG_VERSION")),
            _ => "7.0.4\n".to_owned(),
        });
        return Ok(ExitCode::SUCCESS);
    }
    let Some((name, matches)) = matches.subcommand() else {
        print(&help());
        return Ok(ExitCode::FAILURE);
    };
    let Some(entry) = table::find(name) else {
        print(&help());
        return Ok(ExitCode::FAILURE);
    };
    if let Some(word) = table::surplus(entry, matches) {
        print(&format!("[PM2] \nUnknown command argument: {word}\n"));
        print(&help());
        return Ok(ExitCode::FAILURE);
    }
    let mut session = session(matches);
    if options::flag(matches, "no-daemon") {
        let command = |session: &mut Session| (entry.run)(session, matches, rest);
        return runtime::no_daemon::run(&mut session, command);
    }
    (entry.run)(&mut session, matches, rest)?;
    Ok(ExitCode::SUCCESS)
}

/// An error and its causes, each said once: many of our messages name their cause themselves.
fn told(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if words.is_empty() {
            words = cause;
        } else if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

/// The matches of a command line without options.
pub fn no_options() -> clap::ArgMatches {
    clap::ArgMatches::default()
}

/// A session as the options and the environment want it.
pub fn session(matches: &clap::ArgMatches) -> Session {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let plain = options::flag(matches, "no-color")
        || options::flag(matches, "no-colors")
        || set("NO_COLOR").is_some()
        || set("TERM").is_some_and(|term| term == "dumb");
    let forced = set("FORCE_COLOR").is_some_and(|value| value != "0");
    let output = Output {
        silent: options::flag(matches, "silent") || set("PM2_SILENT").is_some(),
        quiet: false,
        colour: !plain && (forced || std::io::stdout().is_terminal()),
    };
    let mut session = Session::new(Home::from_env(&|name| std::env::var(name).ok()), output);
    session.parallel = options::value(matches, "parallel").and_then(|text| text.parse().ok());
    session.on_start = Some(modules::start_recorded);
    session
}

/// A command line that can't be understood, in PM2's words.
fn misuse(error: &clap::Error, help: &str) -> ExitCode {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::DisplayHelp => {
            print(&error.render().to_string());
            return ExitCode::SUCCESS;
        }
        ErrorKind::InvalidSubcommand => {
            let near = context(ContextKind::SuggestedSubcommand);
            let hint = if near.is_empty() {
                String::new()
            } else {
                format!(": did you mean `{near}`?")
            };
            print(&format!(
                "{}
",
                message::error(&format!("Command not found{hint}"), false)
            ));
            print(help);
        }
        ErrorKind::UnknownArgument => eprintln!(
            "\n  error: unknown option `{}'\n",
            context(ContextKind::InvalidArg)
        ),
        ErrorKind::InvalidValue if context(ContextKind::InvalidValue).is_empty() => {
            let written = context(ContextKind::InvalidArg);
            let long = written
                .trim_start_matches('-')
                .split(' ')
                .next()
                .unwrap_or_default();
            let letter = options::GLOBAL
                .iter()
                .find(|option| option.long == long)
                .and_then(|option| option.short)
                .map_or_else(String::new, |letter| format!("-{letter} "));
            eprintln!("\n  error: option `{letter}{written}' argument missing\n");
        }
        ErrorKind::MissingRequiredArgument => {
            let names = context(ContextKind::InvalidArg);
            // As PM2, one at a time.
            let name = names.split(' ').next().unwrap_or_default();
            let name = name.trim_matches(|c| matches!(c, '<' | '>' | '.'));
            eprintln!("\n  error: missing required argument `{name}'\n");
        }
        _ => eprintln!("{error}"),
    }
    ExitCode::FAILURE
}
