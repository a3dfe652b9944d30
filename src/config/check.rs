//! `fornax check FILE`: what the apps come out as, or every problem with its file, line and key.

use super::dependencies::dependency_problems;
use super::error::Problem;
use super::host::host_for;
use super::load::{Ecosystem, load};
use crate::core::spec::normalise::{self, AppConf, Origin, StartContext};
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::path::Path;

/// How a file is checked.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// The circumstances of the start it is checked for. `deploy_env` is filled in from the file, `origin` is `Config`.
    pub context: StartContext,
    /// Show environments in full. Without it only the names and values that the app itself sets are shown.
    pub whole_env: bool,
}

/// What came out. Serialised, it is the output of `fornax check --json`.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// The file as it was named.
    pub file: String,
    /// Whether there is no problem.
    pub ok: bool,
    /// The apps that are in order.
    pub apps: Vec<CheckedApp>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// One app that is in order.
#[derive(Debug, Clone, Serialize)]
pub struct CheckedApp {
    /// Its name.
    pub name: String,
    /// What would be handed to the daemon.
    pub conf: AppConf,
}

/// Checks a file as if its apps were to be started. Blocks. It never fails: what goes wrong is in the report.
pub fn check(path: &Path, options: &CheckOptions) -> CheckReport {
    let file = path.display().to_string();
    match load(path) {
        Ok(ecosystem) => checked(file, &ecosystem, options),
        Err(error) => CheckReport {
            file,
            ok: false,
            apps: Vec::new(),
            problems: vec![error.into_problem()],
        },
    }
}

fn checked(file: String, ecosystem: &Ecosystem, options: &CheckOptions) -> CheckReport {
    let mut context = options.context.clone();
    context.origin = Origin::Config;
    ecosystem.change_env(&mut context.env);
    if let Some(env) = &context.env_name {
        context.deploy_env = ecosystem.deploy_env(env);
    }
    let (mut apps, mut problems) = (Vec::new(), Vec::new());
    for app in &ecosystem.apps {
        match normalise::app(&app.raw, &context, host_for(&app.raw)) {
            Ok(mut conf) => {
                if !options.whole_env {
                    own_env_only(&mut conf, &context);
                }
                apps.push(CheckedApp {
                    name: conf.name().to_string(),
                    conf,
                });
            }
            Err(issues) => problems.extend(issues.iter().map(|issue| ecosystem.locate(app, issue))),
        }
    }
    problems.extend(dependency_problems(ecosystem, &[]));
    CheckReport {
        file,
        ok: problems.is_empty(),
        apps,
        problems,
    }
}

/// Leaves out what the shell gives, which is long and may hold secrets.
fn own_env_only(conf: &mut AppConf, context: &StartContext) {
    if let Some(Value::Object(env)) = conf.0.get_mut("env") {
        env.retain(|name, value| context.env.get(name) != Some(value));
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for app in &self.apps {
            let conf = &app.conf;
            let mode = conf.text("exec_mode").trim_end_matches("_mode");
            let instances = conf
                .0
                .get("instances")
                .map_or_else(|| "1".to_string(), Value::to_string);
            writeln!(
                f,
                "{}: {} {} ({mode}, instances {instances})",
                app.name,
                conf.text("exec_interpreter"),
                conf.text("pm_exec_path")
            )?;
        }
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        match (self.apps.len(), self.problems.len()) {
            (apps, 0) => write!(f, "{}: {apps} app(s), no problem", self.file),
            (apps, problems) => write!(
                f,
                "{}: {apps} app(s) in order, {problems} problem(s)",
                self.file
            ),
        }
    }
}
