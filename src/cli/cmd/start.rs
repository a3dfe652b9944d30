//! `start`: a script, a program, a shell command, a file, or something that is known already (pm2 7.0.4, spec 6.5).

use super::act::{self, Action};
use super::restart_env::{merged_env, own_env, without_env};
use super::{carry, list, logs, template};
use crate::cli::options;
use crate::cli::render::ProcRow;
use crate::cli::session::{Session, Told};
use crate::cli::start_context;
use crate::config::{self, Ecosystem, SystemHost};
use crate::core::ids::PmId;
use crate::core::spec::context::{Origin, StartContext};
use crate::core::spec::issue::SpecIssue;
use crate::core::spec::normalise::{self, AppConf};
use crate::core::spec::raw;
use crate::pm2::client::ClientError;
use anyhow::bail;
use clap::ArgMatches;
use serde_json::{Map, Value, json};
use std::path::Path;

pub use super::read::load;

/// Runs `start` on its targets, and prints the list.
pub fn run(session: &mut Session, matches: &ArgMatches, rest: &[String]) -> anyhow::Result<()> {
    let attached = options::flag(matches, "attach");
    let before = if attached { runs(session)? } else { Vec::new() };
    targets(session, matches, rest)?;
    list::after_action(session, matches)?;
    if attached {
        let started = runs(session)?
            .into_iter()
            .filter(|run| !before.contains(run));
        logs::follow_started(session, started.map(|(id, _)| id).collect())?;
    }
    Ok(())
}

/// Every instance, with its last start.
fn runs(session: &mut Session) -> anyhow::Result<Vec<(u32, Option<u64>)>> {
    let rows = session.rows()?;
    Ok(rows.iter().map(|row| (row.pm_id, row.pm_uptime)).collect())
}

/// Starts every target.
pub fn targets(session: &mut Session, matches: &ArgMatches, rest: &[String]) -> anyhow::Result<()> {
    let mut targets: Vec<String> = matches
        .get_many::<String>("targets")
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    if options::flag(matches, "container") || options::flag(matches, "dist") {
        session.output.error(
            "`--container` is not supported: give the container's own command to `start`, as in `start \"docker run --rm IMAGE\"`",
        );
        bail!(Told);
    }
    if targets.is_empty() {
        let found = config::discover(&std::env::current_dir()?);
        targets.push(found.map_or_else(
            || "ecosystem.config.js".to_owned(),
            |path| path.to_string_lossy().into_owned(),
        ));
    }
    for target in &targets {
        if target == "-" || config::names_config_file(target) {
            config_file(session, matches, target, Action::Restart)?;
        } else {
            word(session, matches, target, rest)?;
        }
    }
    Ok(())
}

/// One word that is no file: something known, else a script.
fn word(
    session: &mut Session,
    matches: &ArgMatches,
    target: &str,
    rest: &[String],
) -> anyhow::Result<()> {
    let rows = session.rows()?;
    let bare = !target.contains('/') && Path::new(target).extension().is_none();
    let known = rows.iter().any(|row| {
        row.name == target
            || row.namespace.as_deref() == Some(target)
            || row.pm_id.to_string() == target
    });
    if target == "all" || (bare && (known || target.parse::<u32>().is_ok())) {
        act::one(session, matches, Action::Restart, target, rest, true)?;
        session.output.done("Process successfully started");
        return Ok(());
    }
    script(session, matches, target, &rows, rest)
}

fn script(
    session: &mut Session,
    matches: &ArgMatches,
    target: &str,
    rows: &[ProcRow],
    rest: &[String],
) -> anyhow::Result<()> {
    let mut context = start_context::gather(session, matches, Origin::Script, rest)?;
    context.overrides.remove("script");
    let app = Map::from_iter([("script".to_owned(), Value::from(target))]);
    tell_cron(session, &context.overrides);
    let conf = match normalise::app(&app, &context, &SystemHost) {
        Ok(conf) => conf,
        Err(issues) => return refuse(session, &issues),
    };
    let same = rows.iter().find(|row| {
        row.name == conf.name() && row.exec_path.as_deref() == Some(conf.text("pm_exec_path"))
    });
    if let Some(row) = same.filter(|_| !options::flag(matches, "force")) {
        if matches!(row.status.as_str(), "stopped" | "errored" | "stopping") {
            let name = row.name.clone();
            let ids: Vec<PmId> = rows
                .iter()
                .filter(|row| row.name == name)
                .map(|row| PmId(row.pm_id))
                .collect();
            let env = json!({"current_conf": without_env(&conf)});
            carry::apply(session, Action::Restart, &name, &ids, rows, &env)?;
            session.output.done("Process successfully started");
            return Ok(());
        }
        session
            .output
            .error("Script already launched, add -f option to force re-execution");
        bail!(Told);
    }
    if options::flag(matches, "write") {
        template::conf(session, target, &conf)?;
    }
    let mode = conf.text("exec_mode").to_owned();
    let count = conf.0.get("instances").and_then(Value::as_i64).unwrap_or(1);
    let instances = match count {
        1 => "(1 instance)".to_owned(),
        0 => "(max instances)".to_owned(),
        count => format!("({count} instances)"),
    };
    session.output.done(&format!(
        "Starting {} in {mode} {instances}",
        conf.text("pm_exec_path")
    ));
    match session
        .daemon(false)?
        .call::<Value>("prepare", &[Value::Object(conf.0)])
    {
        Ok(_) => {
            session.output.done("Done.");
            Ok(())
        }
        Err(ClientError::Refused(words)) => {
            session.output.error(&words);
            bail!(Told)
        }
        Err(error) => Err(error.into()),
    }
}

/// `startOrRestart` and its like: a file, then the list.
pub fn file_command(
    session: &mut Session,
    matches: &ArgMatches,
    file: &str,
    action: Action,
) -> anyhow::Result<()> {
    config_file(session, matches, file, action)?;
    list::after_action(session, matches)
}

/// A file: what runs is restarted (or reloaded) with what the file says, the rest is started (spec 5.7).
pub fn config_file(
    session: &mut Session,
    matches: &ArgMatches,
    target: &str,
    action: Action,
) -> anyhow::Result<()> {
    let loaded = load(session, target)?;
    ecosystem(session, matches, &loaded, action)
}

/// The same for what a file holds.
pub fn ecosystem(
    session: &mut Session,
    matches: &ArgMatches,
    ecosystem: &Ecosystem,
    action: Action,
) -> anyhow::Result<()> {
    let mut context = start_context::gather(session, matches, Origin::Config, &[])?;
    ecosystem.change_env(&mut context.env);
    let only = only(matches);
    let mut confs = Vec::new();
    let (mut failed, mut is_wrong) = (false, false);
    for app in &ecosystem.apps {
        let mut context = context.clone();
        if let Some(env) = &context.env_name {
            let known = app.raw.contains_key(&format!("env_{env}"));
            let name = app.raw.get("name").and_then(Value::as_str);
            if !known && name.is_none_or(|name| is_meant(&only, name)) {
                session.output.warn(&format!(
                    "Environment [{env}] is not defined in process file"
                ));
            }
            context.deploy_env = ecosystem.deploy_env(env);
        }
        if let Ok(keys) = raw::canonical(&app.raw) {
            let name = keys.get("name").and_then(Value::as_str);
            if name.is_none_or(|name| is_meant(&only, name)) {
                tell_cron(session, &keys);
            }
        }
        match conf_of(session, &app.raw, &context)? {
            Ok(conf) => {
                if is_meant(&only, conf.name()) {
                    confs.push((conf, own_env(&app.raw)));
                }
            }
            Err(issues) => {
                let name = app
                    .raw
                    .get("name")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                if name.is_empty() || is_meant(&only, name) {
                    for issue in &issues {
                        session
                            .output
                            .error(&format!("Error: {}", ecosystem.locate(app, issue)));
                    }
                    failed = true;
                    is_wrong |= issues.iter().any(|issue| !issue.is_absence);
                }
            }
        }
    }
    if is_wrong {
        // A file with a mistake in it starts nothing.
        bail!(Told);
    }
    let rows = session.rows()?;
    let (known, new): (Vec<_>, Vec<_>) = confs
        .into_iter()
        .partition(|(conf, _)| rows.iter().any(|row| row.name == conf.name()));
    for (conf, own_env) in &known {
        let ids: Vec<PmId> = rows
            .iter()
            .filter(|row| row.name == conf.name())
            .map(|row| PmId(row.pm_id))
            .collect();
        carry::apply(
            session,
            action,
            conf.name(),
            &ids,
            &rows,
            &merged_env(conf, own_env),
        )?;
    }
    if !new.is_empty() {
        let names: Vec<&str> = new.iter().map(|(conf, _)| conf.name()).collect();
        session.output.warn(&format!(
            "Applications {} not running, starting...",
            names.join(", ")
        ));
    }
    failed |= !prepare_all(session, new.into_iter().map(|(conf, _)| conf).collect())?;
    if failed {
        bail!(Told);
    }
    Ok(())
}

/// An app of a file. One that runs is found by its name, also where its script can't be found from here: a relative path counts from the
/// folder of the command, which may be another than at its start (pm2 7.0.4).
fn conf_of(
    session: &mut Session,
    app: &Map<String, Value>,
    context: &StartContext,
) -> anyhow::Result<Result<AppConf, Vec<SpecIssue>>> {
    let issues = match normalise::app(app, context, config::host_for(app)) {
        Err(issues) if issues.iter().all(|issue| issue.is_absence) => issues,
        told => return Ok(told),
    };
    let Some(name) = app.get("name").and_then(Value::as_str) else {
        return Ok(Err(issues));
    };
    let rows = session.rows()?;
    let Some(script) = rows
        .iter()
        .find(|row| row.name == name)
        .and_then(|row| row.exec_path.as_deref())
    else {
        return Ok(Err(issues));
    };
    let Ok(mut app) = raw::canonical(app) else {
        return Ok(Err(issues));
    };
    app.insert("script".to_owned(), Value::from(script));
    Ok(normalise::app(&app, context, config::host_for(&app)))
}

/// Registers apps, all at once. `false` when one was refused; the others run all the same.
pub fn prepare_all(session: &mut Session, confs: Vec<AppConf>) -> anyhow::Result<bool> {
    let output = session.output;
    let names: Vec<String> = confs.iter().map(|conf| conf.name().to_owned()).collect();
    for conf in confs
        .iter()
        .filter(|conf| conf.0.get("wait_ready") == Some(&Value::Bool(true)))
    {
        output.warn(&format!(
            "App {} has option 'wait_ready' set, waiting for app to be ready...",
            conf.name()
        ));
    }
    let calls: Vec<(&str, Vec<Value>)> = confs
        .into_iter()
        .map(|conf| ("prepare", vec![Value::Object(conf.0)]))
        .collect();
    let mut all = true;
    for (answer, name) in session
        .daemon(false)?
        .call_all(&calls)?
        .into_iter()
        .zip(names)
    {
        match answer {
            Ok(records) => {
                let count = records.as_array().map_or(1, Vec::len);
                output.done(&format!("App [{name}] launched ({count} instances)"));
            }
            Err(ClientError::Refused(words)) => {
                output.error(&format!("Error: {name}: {words}"));
                all = false;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

/// Says that an app has a cron pattern, or has one no longer, as PM2 does before it looks at it.
pub fn tell_cron(session: &Session, keys: &Map<String, Value>) {
    match keys.get("cron_restart") {
        Some(Value::String(pattern)) if pattern == "0" => {
            session.output.done("disabling cron restart");
        }
        Some(Value::Number(_)) => session.output.done("disabling cron restart"),
        Some(Value::String(pattern)) if !pattern.is_empty() => {
            session.output.done(&format!("cron restart at {pattern}"));
        }
        Some(_) | None => {}
    }
}

/// `--only a,b`.
pub fn only(matches: &ArgMatches) -> Option<Vec<String>> {
    let words = options::value(matches, "only")?;
    Some(
        words
            .split([',', ' '])
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect(),
    )
}

/// Whether `--only` leaves this app in.
pub fn is_meant(only: &Option<Vec<String>>, name: &str) -> bool {
    only.as_ref()
        .is_none_or(|only| only.iter().any(|word| word == name))
}

/// PM2's words for an issue where it has some, else ours.
pub fn words(issue: &SpecIssue) -> String {
    issue.pm2.clone().unwrap_or_else(|| issue.to_string())
}

fn refuse(session: &Session, issues: &[SpecIssue]) -> anyhow::Result<()> {
    for issue in issues {
        let words = words(issue);
        // PM2 says twice what is wrong with a value.
        if ["Expect ", "Verify ", "The minimum "]
            .iter()
            .any(|begun| words.starts_with(begun))
        {
            session.output.warn(&words);
        }
        session.output.error(&words);
    }
    bail!(Told)
}
