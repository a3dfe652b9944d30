//! `stop`, `restart`, `reload`, `delete`: one action on everything that is meant (pm2 7.0.4, spec 6.1, 6.2).

use super::carry::{self, Announced};
use super::{list, logs, start};
use crate::cli::options;
use crate::cli::render::ProcRow;
use crate::cli::render::logs::Mode;
use crate::cli::session::{Session, Told};
use crate::cli::start_context;
use crate::config::{self, SystemHost};
use crate::core::ids::PmId;
use crate::core::select::{Candidate, Target};
use crate::core::spec::app::TIME_FORMAT;
use crate::core::spec::context::Origin;
use crate::core::spec::{normalise, raw};
use anyhow::bail;
use clap::ArgMatches;
use serde_json::{Map, Value, json};

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// End it.
    Stop,
    /// End it if it runs, and start it.
    Restart,
    /// The same, without a gap where the app can.
    Reload,
    /// End it and forget it.
    Delete,
}

impl Action {
    /// The RPC method.
    pub fn method(self) -> &'static str {
        match self {
            Action::Stop => "stopProcessId",
            Action::Restart => "restartProcessId",
            Action::Reload => "reloadProcessId",
            Action::Delete => "deleteProcessId",
        }
    }

    /// The word in `process:event`.
    pub(super) fn event(self) -> &'static str {
        match self {
            Action::Stop => "stop",
            Action::Restart => "restart",
            Action::Reload => "reload",
            Action::Delete => "delete",
        }
    }
}

/// Runs the command on its targets, one after the other; the first that fails ends it.
pub fn run(
    session: &mut Session,
    matches: &ArgMatches,
    action: Action,
    rest: &[String],
) -> anyhow::Result<()> {
    let targets: Vec<String> = matches
        .get_many::<String>("targets")
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    if options::value(matches, "env").is_some()
        && !targets.iter().any(|target| config::is_config_file(target))
    {
        session
            .output
            .error("Using --env [env] without passing the ecosystem.config.js does not work");
        bail!(Told);
    }
    for target in &targets {
        if target == "-" || config::is_config_file(target) {
            config_file(session, matches, action, target)?;
        } else {
            one(session, matches, action, target, rest, false)?;
        }
    }
    // PM2 shows none after a reload.
    if action != Action::Reload {
        list::after_action(session, matches)?;
    }
    if options::flag(matches, "attach") {
        logs::follow_all(session, Mode::Prefixed)?;
    }
    Ok(())
}

/// The apps that a file names.
fn config_file(
    session: &mut Session,
    matches: &ArgMatches,
    action: Action,
    target: &str,
) -> anyhow::Result<()> {
    if matches!(action, Action::Restart | Action::Reload) {
        return start::config_file(session, matches, target, action);
    }
    let ecosystem = start::load(session, target)?;
    let only = start::only(matches);
    for app in &ecosystem.apps {
        let Ok(keys) = raw::canonical(&app.raw) else {
            continue;
        };
        let context = start_context::gather(session, matches, Origin::Config, &[])?;
        let conf =
            crate::core::spec::normalise::app(&app.raw, &context, config::host_for(&app.raw));
        let name = conf.map_or_else(
            |_| {
                keys.get("name")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            },
            |conf| conf.name().to_owned(),
        );
        if start::is_meant(&only, &name) {
            let rows = session.rows()?;
            let ids: Vec<PmId> = rows
                .iter()
                .filter(|row| row.name == name)
                .map(|row| PmId(row.pm_id))
                .collect();
            start::tell_cron(session, &keys);
            // What is not there needs no stop (pm2 7.0.4).
            if ids.is_empty() {
                continue;
            }
            carry::out(
                session,
                action,
                &name,
                &ids,
                &rows,
                &Value::Null,
                Announced::No,
            )?;
        }
    }
    Ok(())
}

/// One word: `all`, a pattern, a name, a namespace or an id. `starting`: `start` was the command.
pub fn one(
    session: &mut Session,
    matches: &ArgMatches,
    action: Action,
    word: &str,
    rest: &[String],
    starting: bool,
) -> anyhow::Result<()> {
    let rows = session.rows()?;
    let target = parse(session, word)?;
    let ids = select(&target, &rows);
    if matches!(action, Action::Restart | Action::Reload)
        && !starting
        && !options::flag(matches, "update-env")
    {
        session
            .output
            .line("Use --update-env to update environment variables");
    }
    if ids.is_empty() {
        match &target {
            Target::All | Target::Pattern(_) => session.output.warn_aloud("No process found"),
            Target::Word(word) => match target.id_meant() {
                // The daemon has the words for an unknown id, which differ by method.
                Some(id) => return carry::apply(session, action, word, &[id], &rows, &json!({})),
                None => session
                    .output
                    .error(&format!("Process or Namespace {word} not found")),
            },
        }
        bail!(Told);
    }
    let env = restart_env(session, matches, action, rest, starting)?;
    if action == Action::Restart && !starting && options::app_keys(matches).contains_key("watch") {
        carry::tell_watch(session, "toggleWatch", action, &ids)?;
    }
    carry::apply(session, action, word, &ids, &rows, &env)
}

/// What a restart by name carries: the keys given as options, and with `--update-env` the shell's environment.
fn restart_env(
    session: &Session,
    matches: &ArgMatches,
    action: Action,
    rest: &[String],
    starting: bool,
) -> anyhow::Result<Value> {
    if !matches!(action, Action::Restart | Action::Reload) {
        return Ok(Value::Null);
    }
    let mut env = if options::flag(matches, "update-env") {
        start_context::client_env()
    } else {
        Map::new()
    };
    let mut given = options::app_keys(matches);
    if action == Action::Restart && !starting {
        // It is toggled, and no value.
        given.remove("watch");
    }
    if given.get("time") == Some(&Value::Bool(true)) {
        // Over a format that it had before (pm2 7.0.4).
        given.insert("log_date_format".to_owned(), Value::from(TIME_FORMAT));
    }
    if !rest.is_empty() {
        given.insert("args".to_owned(), Value::from(rest.to_vec()));
    }
    if std::env::var_os("PM2_DEEP_MONITORING").is_some() {
        given.insert("deep_monitoring".to_owned(), Value::Bool(true));
    }
    // `--node-args=null` takes the key away.
    let (taken, given): (Map<String, Value>, Map<String, Value>) =
        given.into_iter().partition(|(_, value)| value == "null");
    if given.is_empty() && taken.is_empty() {
        return Ok(Value::Object(env));
    }
    let context = start_context::gather(session, matches, Origin::Script, rest)?;
    match normalise::changes(&given, &context, &SystemHost) {
        Ok((mut keys, home)) => {
            if let Some(home) = home {
                env.insert("HOME".to_owned(), Value::from(home));
            }
            start::tell_cron(session, &keys);
            if let Err(error) = crate::core::spec::app::cron(keys.get("cron_restart")) {
                session
                    .output
                    .error(&format!("Cron pattern error: {error}"));
                bail!(Told);
            }
            if let Some(interpreter) = keys.remove("interpreter") {
                keys.insert("exec_interpreter".to_owned(), interpreter);
            }
            keys.extend(taken);
            env.insert("current_conf".to_owned(), Value::Object(keys));
            Ok(Value::Object(env))
        }
        Err(issues) => {
            for issue in issues {
                session.output.error(&start::words(&issue));
            }
            bail!(Told)
        }
    }
}

/// Parses a target, or tells why it can't be.
pub fn parse(session: &Session, word: &str) -> anyhow::Result<Target> {
    Target::parse(word).map_err(|error| {
        session.output.error(&error.to_string());
        Told.into()
    })
}

/// The instances meant.
pub fn select(target: &Target, rows: &[ProcRow]) -> Vec<PmId> {
    let candidates: Vec<Candidate<'_>> = rows
        .iter()
        .map(|row| Candidate {
            id: PmId(row.pm_id),
            name: &row.name,
            namespace: row.namespace.as_deref().unwrap_or("default"),
            script: row.exec_path.as_deref().unwrap_or_default(),
            module: row.pmx_module,
        })
        .collect();
    // Without a folder no relative path means a script.
    let cwd = std::env::current_dir().unwrap_or_default();
    target.select(&candidates, &cwd.to_string_lossy())
}
