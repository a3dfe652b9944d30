//! Our `prepare` input against that of PM2 7.0.4's own client, for a corpus of configs in `tests/fixtures/pm2-config`.
//!
//! Each fixture holds the files, the arguments of `pm2 start`, and what real PM2 then sent to its daemon. With the path of
//! a pm2 in `FORNAX_PM2` (or of a `node_modules` in `FORNAX_NODE_MODULES`) the real client is run again, against a listener
//! of ours in place of its daemon, and must still send the same; with `FORNAX_BLESS=1` as well, the fixtures are rewritten.
//! Where we differ on purpose, the fixture says why (`differs`) and what we send (`ours`).

// The helpers of this test: what they cannot do ends it.
#![allow(clippy::unwrap_used)]

mod support;

use fornax::config::{self, Evaluator, SystemHost};
use fornax::core::spec::context::Host;
use fornax::core::spec::normalise::{self, Origin, StartContext};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use support::pm2_client::{self, Outcome};

/// A fixture laid out in a folder of its own.
struct Case {
    file: PathBuf,
    fixture: Value,
    home: tempfile::TempDir,
}

impl Case {
    fn lay_out(file: PathBuf) -> Self {
        let fixture: Value =
            serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let home = tempfile::tempdir().unwrap();
        let case = Self {
            file,
            fixture,
            home,
        };
        for (name, text) in case.fixture["files"].as_object().unwrap() {
            let (name, mode) = name
                .strip_prefix('+')
                .map_or((name.as_str(), 0o644), |name| (name, 0o755));
            pm2_client::write(&case.app().join(name), text.as_str().unwrap(), mode);
        }
        for folder in ["pm2/logs", "pm2/pids", "pm2/modules"] {
            std::fs::create_dir_all(case.root().join(folder)).unwrap();
        }
        std::fs::write(case.root().join("pm2/touch"), "1").unwrap();
        pm2_client::lay_out_programs(&case.root().join("bin"));
        case
    }

    fn root(&self) -> PathBuf {
        self.home.path().canonicalize().unwrap()
    }

    fn app(&self) -> PathBuf {
        self.root().join("app")
    }

    fn env(&self) -> Map<String, Value> {
        let root = self.root().display().to_string();
        let mut env = Map::new();
        env.insert("PATH".into(), format!("{root}/bin").into());
        env.insert("HOME".into(), root.as_str().into());
        env.insert("PM2_HOME".into(), format!("{root}/pm2").into());
        env.insert("PM2_DISCRETE_MODE".into(), "1".into());
        env.insert("NO_COLOR".into(), "1".into());
        env.extend(self.fixture["env"].as_object().cloned().unwrap_or_default());
        env
    }

    fn start(&self) -> Vec<String> {
        serde_json::from_value(self.fixture["start"].clone()).unwrap()
    }

    /// What this house makes of it.
    fn ours(&self) -> Outcome {
        let start = self.start();
        let root = self.root().display().to_string();
        let is_file = config::is_config_file(&start[0]);
        let env = self.env();
        let mut context = StartContext {
            origin: if is_file {
                Origin::Config
            } else {
                Origin::Script
            },
            cwd: self.app().display().to_string(),
            programmatic: env.contains_key("PM2_PROGRAMMATIC") || env.contains_key("pm_id"),
            env,
            overrides: self.fixture["options"]
                .as_object()
                .cloned()
                .unwrap_or_default(),
            env_name: start
                .iter()
                .position(|arg| arg == "--env")
                .map(|at| start[at + 1].clone()),
            deploy_env: Map::new(),
            pm2_home: format!("{root}/pm2"),
            log_dir: format!("{root}/pm2/logs"),
            pid_dir: format!("{root}/pm2/pids"),
            username: pm2_client::username(),
            module_conf: self.fixture["module_conf"]
                .as_object()
                .cloned()
                .unwrap_or_default(),
        };
        let mut outcome = Outcome::default();
        let apps = if is_file {
            match config::load(&self.app().join(&start[0])) {
                Ok(ecosystem) => {
                    ecosystem.change_env(&mut context.env);
                    context.deploy_env = context
                        .env_name
                        .as_ref()
                        .map(|env| ecosystem.deploy_env(env))
                        .unwrap_or_default();
                    ecosystem.apps.into_iter().map(|app| app.raw).collect()
                }
                Err(error) => {
                    outcome.says.extend(
                        error
                            .into_problem()
                            .pm2
                            .map(|words| words.replace(&format!("{root}/app/"), "")),
                    );
                    Vec::new()
                }
            }
        } else {
            vec![Map::from_iter([(
                "script".to_string(),
                start[0].as_str().into(),
            )])]
        };
        for app in apps {
            match normalise::app(&app, &context, &SystemHost) {
                Ok(conf) => outcome.prepares.push(Value::Object(conf.0)),
                Err(issues) => outcome
                    .says
                    .extend(issues.into_iter().filter_map(|issue| issue.pm2)),
            }
        }
        outcome.without_places(&root)
    }
}

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pm2-config");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn what_we_send_to_the_daemon_is_what_pm2_sends() {
    let pm2 = pm2_client::find();
    if pm2.is_none() {
        println!(
            "no pm2 here (FORNAX_PM2, FORNAX_NODE_MODULES): compared with what was captured from pm2 7.0.4 only"
        );
    }
    let bless = std::env::var_os("FORNAX_BLESS").is_some();
    let mut differences = Vec::new();
    for file in fixtures() {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let mut case = Case::lay_out(file);
        if case.fixture["needs_root"] == true && !SystemHost.is_root() {
            println!("{name}: not compared, for it needs root");
            continue;
        }
        if case.fixture["needs_node"] == true && !pm2_client::node_is_here() {
            println!("{name}: not compared, for there is no node");
            continue;
        }
        if let Some(pm2) = &pm2 {
            let theirs = pm2_client::run(
                pm2,
                &case.root(),
                &case.start(),
                &case.env(),
                &case.fixture["module_conf"],
            );
            let captured = json!(theirs.without_places(&case.root().display().to_string()));
            if bless {
                case.fixture["pm2"] = captured;
            } else {
                compare(
                    &format!("{name}: real pm2 against its fixture"),
                    &captured,
                    &case.fixture["pm2"],
                    &mut differences,
                );
            }
        }
        let ours = json!(case.ours());
        let deliberate = case.fixture["differs"].is_string();
        if bless && deliberate {
            case.fixture["ours"] = ours.clone();
        }
        let want = if deliberate {
            &case.fixture["ours"]
        } else {
            &case.fixture["pm2"]
        };
        compare(&format!("{name}: ours"), &ours, want, &mut differences);
        if deliberate && case.fixture["ours"] == case.fixture["pm2"] {
            differences.push(format!("{name}: says that we differ, and we do not"));
        }
        if bless {
            std::fs::write(&case.file, format!("{:#}\n", case.fixture)).unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

/// Whether the fixture's config is JavaScript proper.
fn is_javascript(case: &Case) -> bool {
    let start = &case.start()[0];
    config::is_config_file(start) && config::Format::of(start) == config::Format::JavaScript
}

#[test]
fn the_engine_of_ours_comes_to_what_node_comes_to() {
    if !pm2_client::node_is_here() {
        println!("not compared, for there is no node");
        return;
    }
    let (mut compared, mut differences) = (0, Vec::new());
    for file in fixtures() {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let case = Case::lay_out(file);
        if !is_javascript(&case) {
            continue;
        }
        let path = case.app().join(&case.start()[0]);
        let by = |who| config::evaluate_by(who, &path, config::MAX_BYTES);
        let (node, ours) = (by(Evaluator::Node), by(Evaluator::Embedded));
        compared += 1;
        match (node, ours) {
            (Ok(node), Ok(ours)) if node == ours => {}
            (Err(node), Err(ours)) => {
                let (node, ours) = (node.into_problem(), ours.into_problem());
                // Syntax errors are seen at other places by other parsers; the line of what is thrown is a fact.
                if !node.what.starts_with("SyntaxError") && node.line != ours.line {
                    differences.push(format!("{name}: node says {node}, the engine {ours}"));
                }
            }
            (node, ours) => differences.push(format!(
                "{name}: node comes to {node:?}, the engine to {ours:?}"
            )),
        }
    }
    assert!(compared >= 25, "only {compared} configs were compared");
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

/// Notes each key in which two outcomes differ.
fn compare(what: &str, got: &Value, want: &Value, differences: &mut Vec<String>) {
    if got == want {
        return;
    }
    if got["says"] != want["says"] {
        differences.push(format!(
            "{what} says {}, wanted {}",
            got["says"], want["says"]
        ));
    }
    let (got, want) = (apps(got), apps(want));
    if got.len() != want.len() {
        differences.push(format!("{what}: {} apps, wanted {}", got.len(), want.len()));
    }
    for (got, want) in got.iter().zip(&want) {
        let keys = got
            .keys()
            .chain(want.keys().filter(|key| !got.contains_key(*key)));
        for key in keys.filter(|key| got.get(*key) != want.get(*key)) {
            let shown =
                |value: Option<&Value>| value.map_or("nothing".to_string(), Value::to_string);
            differences.push(format!(
                "{what}: {key} is {}, wanted {}",
                shown(got.get(key)),
                shown(want.get(key))
            ));
        }
    }
}

fn apps(outcome: &Value) -> Vec<Map<String, Value>> {
    let list = outcome["prepares"].as_array().cloned().unwrap_or_default();
    list.into_iter()
        .filter_map(|app| app.as_object().cloned())
        .collect()
}
