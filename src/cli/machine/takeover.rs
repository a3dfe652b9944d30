//! `fornax takeover`: the apps of a running PM2 come to us, with nothing lost if that fails half-way.

mod plan;

use crate::cli::cmd::{daemon, dump};
use crate::cli::session::{Session, Told};
use crate::core::spec::home::Home;
use crate::pm2::client::{Client, ClientError};
use anyhow::{Context, bail};
use clap::Args;
use plan::Plan;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// Exit code where no daemon runs, as of `status`.
const NO_DAEMON: u8 = 3;

/// Options of `takeover`.
#[derive(Debug, Args)]
pub struct TakeoverArgs {
    /// The PM2_HOME of the PM2 that is taken over [default: our own].
    #[arg(long, value_name = "HOME")]
    pub from: Option<PathBuf>,
    /// Only say what would be done, and what cannot be moved.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask, at a terminal, before PM2 is stopped.
    #[arg(long, short)]
    pub yes: bool,
}

/// How PM2 can be started again: its Node, and its program.
struct Restarter {
    node: PathBuf,
    program: PathBuf,
}

/// Asks PM2, says what will be, saves its list, stops it, and starts the same apps.
pub fn run(session: &mut Session, args: &TakeoverArgs) -> anyhow::Result<ExitCode> {
    let output = session.output;
    let home = session.home.root().to_owned();
    let from = match &args.from {
        Some(from) => std::path::absolute(from).context("cannot tell where --from is")?,
        None => home.clone(),
    };
    let mut theirs = Session::new(
        Home::from_env(&|name| (name == "PM2_HOME").then(|| from.to_string_lossy().into_owned())),
        output,
    );
    let Some(client) = theirs.running_daemon()? else {
        output.error(&format!(
            "no PM2 runs in {}; name its PM2_HOME with --from, or `fornax resurrect` a list that it has saved",
            from.display()
        ));
        return Ok(ExitCode::from(NO_DAEMON));
    };
    let asked: Result<Value, ClientError> = client.call("fornaxStatus", &[json!({})]);
    match asked {
        Err(ClientError::Foreign { .. }) => {}
        Ok(_) => {
            output.error(&format!(
                "the daemon in {} is Fornax already; there is nothing to take over",
                from.display()
            ));
            bail!(Told);
        }
        Err(error) => return Err(error.into()),
    }
    if from != home && session.running_daemon()?.is_some() {
        output.error(&format!(
            "a daemon runs in {} already; stop it first (`fornax kill`), or set PM2_HOME to the home that is to have the apps",
            home.display()
        ));
        bail!(Told);
    }
    let version: String = theirs.daemon(true)?.call("getVersion", &[json!({})])?;
    let restarter = restarter(theirs.daemon(true)?);
    let plan = Plan::of(theirs.items(true)?, &home);
    output.line(&format!(
        "PM2 {version} in {} runs what follows:",
        from.display()
    ));
    for line in plan.lines(restarter.is_some()) {
        output.line(&line);
    }
    if args.dry_run {
        output.line("Nothing has been done (--dry-run).");
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && std::io::stdin().is_terminal() && !confirmed()? {
        output.line("Nothing has been done.");
        return Ok(ExitCode::FAILURE);
    }
    // From here on PM2's own `resurrect` brings back what runs now.
    let quiet = std::mem::replace(&mut theirs.output.silent, true);
    dump::write_list(&mut theirs, false)?;
    output.done(&format!(
        "PM2's list is saved in {}",
        theirs.home.dump_file().display()
    ));
    let stopped = daemon::kill(&mut theirs);
    theirs.output.silent = quiet;
    if let Err(error) = stopped {
        output.error(&format!("PM2 has not ended: {error}"));
        return undo(session, restarter.as_ref(), &theirs);
    }
    output.done("PM2 has ended");
    match start(session, &plan) {
        Ok(()) => {
            output.done(&format!(
                "Fornax runs {} instances in {}; `fornax save` makes them come back at boot",
                plan.apps.len(),
                home.display()
            ));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            output.error(&error.to_string());
            undo(session, restarter.as_ref(), &theirs)
        }
    }
}

/// Starts our daemon and every app, in PM2's order. One that ran under PM2 and cannot be started is an error.
fn start(session: &mut Session, plan: &Plan) -> anyhow::Result<()> {
    let output = session.output;
    let confs = plan.apps.iter().map(|app| Value::Object(app.conf.clone()));
    let calls: Vec<(&str, Vec<Value>)> = confs.map(|conf| ("prepare", vec![conf])).collect();
    let answers = session.daemon(true)?.call_all(&calls)?;
    let mut lost = Vec::new();
    for (app, answer) in plan.apps.iter().zip(answers) {
        match answer {
            Ok(_) => output.line(&format!("[PM2] [{}]({}) ✓", app.name, app.id)),
            Err(error) if app.runs => lost.push(format!("{} ({error})", app.name)),
            // It did not run under PM2 either, and is in our list with its cause.
            Err(error) => output.warn(&format!("{}: {error}", app.name)),
        }
    }
    if !lost.is_empty() {
        bail!("cannot be started here: {}", lost.join("; "));
    }
    Ok(())
}

/// What we have started ends, and PM2 starts its list again.
fn undo(
    session: &mut Session,
    restarter: Option<&Restarter>,
    theirs: &Session,
) -> anyhow::Result<ExitCode> {
    let output = session.output;
    let home = theirs.home.root().display();
    output.line("Going back to PM2");
    session.disconnect();
    session.output.silent = true;
    // A daemon that never came up has nothing to end.
    let ended = daemon::kill_if_ours(session);
    session.output.silent = output.silent;
    ended?;
    let by_hand = format!("PM2_HOME={home} pm2 resurrect");
    let Some(Restarter { node, program }) = restarter else {
        output.error(&format!("bring its apps back with: {by_hand}"));
        bail!(Told);
    };
    let restored = Command::new(node)
        .arg(program)
        .arg("resurrect")
        .env("PM2_HOME", theirs.home.root())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    match restored {
        Ok(status) if status.success() => {
            output.error(&format!(
                "nothing has been taken over: PM2 runs its apps again in {home}"
            ));
        }
        Ok(_) | Err(_) => output.error(&format!(
            "PM2 could not be started again; bring its apps back with: {by_hand}"
        )),
    }
    bail!(Told)
}

/// PM2's daemon tells which Node runs which file of it; its program lies beside that.
fn restarter(client: &mut Client) -> Option<Restarter> {
    let report: Value = client.call("getReport", &[json!({})]).ok()?;
    let word = |at: usize| Some(PathBuf::from(report["argv"].get(at)?.as_str()?));
    let program = word(1)?.parent()?.parent()?.join("bin/pm2");
    let node = word(0)?;
    (node.is_file() && program.is_file()).then_some(Restarter { node, program })
}

fn confirmed() -> anyhow::Result<bool> {
    print!("Stop PM2 and start these with Fornax? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
