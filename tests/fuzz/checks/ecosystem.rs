//! From the text of an ecosystem file to what the daemon is handed, on a machine that has what is asked for.

use fornax::config::{self, Format, LocatedApp, Problem};
use fornax::core::spec::app::{AppSpec, Defaults};
use fornax::core::spec::context::{Host, Origin, StartContext, User};
use fornax::core::spec::{instances, normalise};
use serde_json::{Map, Value, json};

/// How deep an app's values may nest: what recurses over them must not run out of stack.
const DEEPEST: usize = 128;

/// Checks all of it; the apps, if it could be read.
pub fn check(text: &str, format: Format) -> Option<Vec<LocatedApp>> {
    let ecosystem = match config::parse_data("e", text, format) {
        Ok(ecosystem) => ecosystem,
        Err(error) => {
            placed(&error.into_problem(), text);
            return None;
        }
    };
    for problem in config::dependency_problems(&ecosystem, &[]) {
        placed(&problem, text);
    }
    let mut context = context();
    context.deploy_env = ecosystem.deploy_env("production");
    for app in &ecosystem.apps {
        assert!(
            app.raw.values().all(|value| depth(value) <= DEEPEST),
            "it nests too deep"
        );
        match normalise::app(&app.raw, &context, &Machine) {
            Ok(conf) => taken(&conf.0),
            Err(issues) => {
                assert!(!issues.is_empty(), "an app is refused for a reason");
                for issue in issues {
                    placed(&ecosystem.locate(app, &issue), text);
                }
            }
        }
    }
    Some(ecosystem.apps)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// A daemon takes what a check has let pass, and again after it has been written down.
fn taken(conf: &Map<String, Value>) {
    let spec = AppSpec::from_map(conf, Defaults::default()).unwrap();
    let again: Map<String, Value> = serde_json::from_str(&json!(conf).to_string()).unwrap();
    assert_eq!(
        AppSpec::from_map(&again, Defaults::default()).unwrap(),
        spec
    );
    assert!(spec.exec_path.starts_with('/'), "{}", spec.exec_path);
    assert!(spec.cwd.starts_with('/'), "{}", spec.cwd);
    assert!(instances::count(conf, 4).0 >= 1);
}

/// A problem is told in one line, and its place is one of the file.
fn placed(problem: &Problem, text: &str) {
    let said = problem.to_string();
    assert!(said.starts_with("e:") && !problem.mend.is_empty(), "{said}");
    let lines = text
        .split(['\n', '\r', '\u{2028}', '\u{2029}', '\u{85}'])
        .count();
    if let (Some(line), Some(column)) = (problem.line, problem.column) {
        assert!((1..=lines + 1).contains(&(line as usize)), "{said}");
        assert!(
            (1..=text.chars().count() + 2).contains(&(column as usize)),
            "{said}"
        );
    }
}

/// Equal, where numbers of the same value are: a lenient reader need not know how a number was written.
pub fn assert_same(strict: &Value, lenient: &Value, key: &str) {
    match (strict, lenient) {
        (Value::Number(a), Value::Number(b)) => assert_eq!(a.as_f64(), b.as_f64(), "{key}"),
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{key}");
            a.iter().zip(b).for_each(|(a, b)| assert_same(a, b, key));
        }
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.len(), b.len(), "{key}");
            for (key, value) in a {
                assert_same(value, &b[key], key);
            }
        }
        (a, b) => assert_eq!(a, b, "{key}"),
    }
}

fn context() -> StartContext {
    let map = |value: Value| value.as_object().unwrap().clone();
    StartContext {
        origin: Origin::Config,
        cwd: "/srv".to_owned(),
        env: map(json!({"HOME": "/home/fuzz", "PATH": "/usr/bin:/bin"})),
        overrides: Map::new(),
        env_name: Some("production".to_owned()),
        deploy_env: Map::new(),
        pm2_home: "/home/fuzz/.pm2".to_owned(),
        log_dir: "/home/fuzz/.pm2/logs".to_owned(),
        pid_dir: "/home/fuzz/.pm2/pids".to_owned(),
        username: "fuzz".to_owned(),
        programmatic: false,
        module_conf: map(json!({"web": {"PORT": 3000}})),
    }
}

/// A machine on which every file is there, and some begin with a shebang.
struct Machine;

impl Host for Machine {
    fn exists(&self, path: &str) -> bool {
        !path.contains("none")
    }

    fn is_dir(&self, path: &str) -> bool {
        path.ends_with('/')
    }

    fn is_executable(&self, path: &str) -> bool {
        path.contains("bin")
    }

    fn which(&self, program: &str, _: &str) -> Option<String> {
        let plain = !program.is_empty() && !program.contains('/') && !program.contains("none");
        plain.then(|| format!("/usr/bin/{program}"))
    }

    fn read_head(&self, path: &str, limit: usize) -> Vec<u8> {
        let mut head = format!("#!/usr/bin/env {path} -x\n").into_bytes();
        head.truncate(limit);
        head
    }

    fn user(&self, name_or_id: &str) -> Option<User> {
        let home = "/home/fuzz".to_owned();
        (name_or_id == "fuzz").then_some(User {
            uid: 1000,
            gid: 1000,
            home,
        })
    }

    fn group(&self, name_or_id: &str) -> Option<u32> {
        name_or_id.parse().ok()
    }

    fn is_root(&self) -> bool {
        true
    }

    fn cpus(&self) -> usize {
        4
    }

    fn node_version(&self, _: &str) -> Option<(u32, u32)> {
        Some((20, 20))
    }
}
