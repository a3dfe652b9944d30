//! Ecosystem files from the outside: what loads, what is said when it does not, and the published JSON Schema.

// The helpers of this test: what they cannot do ends it.
#![allow(clippy::unwrap_used)]

mod support;

use fornax::config::{self, CheckOptions, ConfigError, SystemHost, schema::ecosystem_schema};
use fornax::core::spec::normalise::{Host, Origin, StartContext};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use support::Home;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn options(cwd: &Path) -> CheckOptions {
    let path = std::env::var("PATH").unwrap();
    CheckOptions {
        context: StartContext {
            origin: Origin::Config,
            cwd: cwd.display().to_string(),
            env: Map::from_iter([
                ("PATH".to_string(), path.into()),
                ("SECRET".to_string(), "x".into()),
            ]),
            overrides: Map::new(),
            env_name: None,
            deploy_env: Map::new(),
            pm2_home: "/home/me/.pm2".into(),
            log_dir: "/home/me/.pm2/logs".into(),
            pid_dir: "/home/me/.pm2/pids".into(),
            username: "me".into(),
            programmatic: false,
            module_conf: Map::new(),
        },
        whole_env: false,
    }
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn node_is_here(what: &str) -> bool {
    let here = SystemHost
        .which("node", &std::env::var("PATH").unwrap())
        .is_some();
    if !here {
        println!("not tested, for there is no node: {what}");
    }
    here
}

/// Every ecosystem file under `examples/`.
fn examples() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![repository().join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "json")
                && path.file_name().unwrap() != "package.json"
                // A workflow, for the workers.
                && path.file_name().unwrap() != "sample.json"
            {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() >= 4, "{found:?}");
    found
}

#[test]
fn the_published_schema_is_the_one_made_from_the_code() {
    let path = repository().join("ecosystem/ecosystem.schema.json");
    let made = format!("{:#}\n", ecosystem_schema());
    if std::env::var_os("FORNAX_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        published == made,
        "{} is not what the code makes of it; run `FORNAX_BLESS=1 cargo test --test config` and commit the file",
        path.display()
    );
}

#[test]
fn the_published_schema_of_the_machine_is_the_one_made_from_the_code() {
    let path = repository().join("ecosystem/fornax.schema.json");
    let made = format!("{:#}\n", fornax::core::machine::schema());
    if std::env::var_os("FORNAX_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap_or_default(),
        made,
        "run with FORNAX_BLESS=1"
    );
    let schema = jsonschema::validator_for(&fornax::core::machine::schema()).unwrap();
    assert!(
        schema.is_valid(&serde_json::json!({"machine": {"gpus": [0], "arguments": ["--lowvram"]}}))
    );
    assert!(!schema.is_valid(&serde_json::json!({"machine": {"reposittory": "x"}})));
}

#[test]
fn the_shipped_lists_of_nodes_are_read() {
    for (name, count) in [("config_nodes.json", 62), ("config_nodes_test.json", 7)] {
        let text = std::fs::read_to_string(repository().join("ecosystem").join(name)).unwrap();
        let manifest = fornax::core::comfyui::manifest::read(name, &text).unwrap();
        assert_eq!(manifest.nodes.len(), count);
        assert!(manifest.nodes.iter().all(|node| !node.url.contains(' ')));
    }
}

#[test]
fn every_example_loads_and_keeps_to_the_schema() {
    let schema = jsonschema::validator_for(&ecosystem_schema()).unwrap();
    for path in examples() {
        let text = std::fs::read_to_string(&path).unwrap();
        let value: Value = json5::from_str(&text).unwrap();
        let errors: Vec<String> = schema
            .iter_errors(&value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
        let ecosystem = config::load(&path).unwrap();
        for app in &ecosystem.apps {
            if let Err(issues) = fornax::core::spec::raw::canonical(&app.raw) {
                panic!("{}: {issues:?}", path.display());
            }
        }
    }
}

#[test]
fn the_schema_holds_for_every_fixture_that_pm2_takes() {
    let schema = jsonschema::validator_for(&ecosystem_schema()).unwrap();
    let mut checked = 0;
    for entry in std::fs::read_dir(repository().join("tests/fixtures/pm2-config")).unwrap() {
        let path = entry.unwrap().path();
        let fixture: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let clean = fixture["pm2"]["says"].as_array().is_some_and(Vec::is_empty)
            && fixture["pm2"]["prepares"][0].is_object();
        let Some(text) = fixture["files"]["ecosystem.json"]
            .as_str()
            .filter(|_| clean)
        else {
            continue;
        };
        let Ok(value) = json5::from_str::<Value>(text.trim_start_matches('\u{feff}')) else {
            continue;
        };
        // Falsy values that PM2 ignores are no example to follow, nor is a number in a list of one.
        if ["falsy-says-nothing", "zero-and-false-snake", "numbers"]
            .iter()
            .any(|name| path.ends_with(format!("{name}.json")))
        {
            continue;
        }
        let errors: Vec<String> = schema
            .iter_errors(&value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
        checked += 1;
    }
    assert!(checked > 10, "{checked}");
}

#[test]
fn the_schema_refuses_what_we_refuse() {
    let schema = jsonschema::validator_for(&ecosystem_schema()).unwrap();
    for text in [
        r#"{"apps": [{"script": "a", "kill_timeout": "soon"}]}"#,
        r#"{"apps": [{"script": "a", "max_memory_restart": "10MB"}]}"#,
        r#"{"apps": [{"script": "a", "fornax": {"prob": {}}}]}"#,
        r#"{"apps": [{"script": "a", "fornax": {"port": 70000}}]}"#,
        r#"{"apps": [{"name": "a"}]}"#,
        r#"{"apps": [{"script": "a", "autorestart": "yes"}]}"#,
    ] {
        assert!(
            !schema.is_valid(&serde_json::from_str(text).unwrap()),
            "{text}"
        );
    }
}

#[test]
fn each_problem_names_file_line_column_and_key() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text, want) in [
        (
            "e.json",
            "{\n  // one\n  apps: [{\n    script: 'sleep 1',\n    kill_timeout: 'soon',\n    killTimeoutt: 5,\n    fornax: {\n      prob: {}\n    }\n  }]\n}",
            vec![
                "e.json:5:19: apps[0].kill_timeout: expected a number, found \"soon\"; write a whole number, for a time in milliseconds",
                "e.json:8:7: apps[0].fornax.prob: unknown key `prob`; did you mean `probe`?",
            ],
        ),
        (
            "e.yaml",
            "apps:\n  - script: sleep 1\n    autorestart: 'no'\n",
            vec![
                "e.yaml:3:18: apps[0].autorestart: expected true or false, found \"no\"; write true or false without quotes",
            ],
        ),
        (
            "f.json",
            "[{\"name\": \"x\"}]",
            vec!["f.json:1:2: [0]: the app has no `script`; add `script`"],
        ),
        (
            "g.json",
            "{script: 'nope.js'}",
            vec!["g.json:1:10: script: script not found: "],
        ),
        ("h.json", "{apps: [", vec!["h.json:1:8: is not JSON: "]),
    ] {
        let path = write(dir.path(), name, text);
        let report = config::check(&path, &options(dir.path()));
        let shown: Vec<String> = report
            .problems
            .iter()
            .map(|p| {
                p.to_string()
                    .replace(&format!("{}/", dir.path().display()), "")
            })
            .collect();
        assert_eq!(shown.len(), want.len(), "{shown:#?}");
        for (shown, want) in shown.iter().zip(want) {
            assert!(shown.starts_with(want), "{shown}\nwanted {want}");
        }
        assert!(!report.ok);
    }
}

#[test]
fn a_check_tells_what_the_apps_come_out_as_without_the_shells_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(
        dir.path(),
        "e.json",
        "{apps: [{script: 'sleep 1', name: 'nap', env: {A: 1}}]}",
    );
    let report = config::check(&path, &options(dir.path()));
    assert!(report.ok, "{report}");
    let env = &report.apps[0].conf.0["env"];
    assert_eq!(env["A"], 1);
    assert!(
        env.get("SECRET").is_none() && env.get("PATH").is_none(),
        "{env}"
    );
    assert!(report.to_string().contains("nap: none "), "{report}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(
        (&json["ok"], &json["apps"][0]["name"]),
        (&Value::Bool(true), &Value::from("nap"))
    );
}

#[test]
fn the_file_meant_when_none_is_named_is_found() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(config::discover(dir.path()), None);
    let json = write(dir.path(), "ecosystem.json", "[]");
    assert_eq!(config::discover(dir.path()), Some(json));
    let js = write(dir.path(), "ecosystem.config.js", "");
    assert_eq!(config::discover(dir.path()), Some(js));
}

#[test]
fn a_missing_a_huge_and_an_unreadable_file_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        config::load(&dir.path().join("none.json")),
        Err(ConfigError::NotFound(_))
    ));
    assert!(matches!(
        config::load(dir.path()),
        Err(ConfigError::Unreadable { .. })
    ));
    let huge = dir.path().join("huge.json");
    std::fs::File::create(&huge)
        .unwrap()
        .set_len(config::MAX_BYTES + 1)
        .unwrap();
    assert!(
        matches!(config::load(&huge), Err(ConfigError::TooLarge { bytes, .. }) if bytes == config::MAX_BYTES + 1)
    );
}

#[test]
fn a_javascript_config_that_throws_names_its_line() {
    if !node_is_here("a config that throws") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, text, want) in [
        (
            "e.config.js",
            "\n\nthrow new Error('boom')\n",
            ":3:7: Error: boom;",
        ),
        (
            "f.config.js",
            "module.exports = {\napps: [{script: 'a',,}]}\n",
            ":2: SyntaxError: Unexpected token ','",
        ),
        (
            "g.config.js",
            "module.exports = () => ({})\n",
            ": TypeError: the file exports a function",
        ),
        (
            "h.config.mjs",
            "import './none.mjs'\n",
            ": Error: Cannot find module",
        ),
        (
            "i.config.js",
            "process.exit(3)\n",
            ": exports nothing that is JSON",
        ),
    ] {
        let error = config::load(&write(dir.path(), name, text))
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("{name}{want}")), "{error}");
    }
}

#[test]
fn what_a_javascript_config_prints_does_not_reach_its_apps() {
    if !node_is_here("a config that prints") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let text = "console.log('{\"config\": 1}');require('child_process').spawnSync('echo', ['noise'], {stdio: 'inherit'});\
                setInterval(() => {}, 1000);module.exports = {apps: [{script: 'a', name: 'é\\u2028'}], deploy: {e: {env: {A: '1'}}}}";
    let ecosystem = config::load(&write(dir.path(), "e.config.js", text)).unwrap();
    assert_eq!(ecosystem.apps[0].raw["name"], "é\u{2028}");
    assert_eq!(ecosystem.deploy_env("e")["A"], "1");
}

/// A home in whose PATH there is no node: a shell and what the apps of these tests call.
fn without_node(bin: &Path) -> Home {
    for name in ["bash", "sh", "sleep"] {
        let real = SystemHost
            .which(name, &std::env::var("PATH").unwrap())
            .unwrap();
        std::os::unix::fs::symlink(real, bin.join(name)).unwrap();
    }
    Home::with(&[("PATH", bin.to_str().unwrap())])
}

#[test]
fn javascript_configs_start_apps_where_there_is_no_node() {
    let bin = tempfile::tempdir().unwrap();
    let home = without_node(bin.path());
    home.app("run.sh", "exec sleep 600\n");
    home.app("lib.js", "exports.name = (word) => `${word}-by-engine`\n");
    home.app(
        "e.config.js",
        "console.log('noise of the config')\nprocess.stdout.write('more noise\\n')\nprocess.env.SET_BY_CONFIG = 1\n\
         module.exports = { apps: [{ script: 'run.sh', name: require('./lib').name(process.argv[2]), env: { HERE: __dirname === process.cwd() } }] }\n",
    );
    let ran = home.run(&["start", "e.config.js"]).ok();
    assert!(
        !ran.out.contains("noise")
            && ran.err.contains("noise of the config")
            && ran.err.contains("more noise"),
        "{ran:#?}"
    );
    let item = home.until_status("start-by-engine", "online");
    assert_eq!(item["pm2_env"]["env"]["SET_BY_CONFIG"], "1");
    assert_eq!(item["pm2_env"]["env"]["HERE"], true);
    home.app("m.config.mjs", "import { name } from './lib.js'\nexport default { apps: [{ script: 'run.sh', name: name('esm') }] }\n");
    home.run(&["start", "m.config.mjs"]).ok();
    home.until_status("esm-by-engine", "online");
    home.app(
        "computed.json",
        "{apps: [{script: 'run.sh', name: ['a', 'b'].join('+')}]}\n",
    );
    home.run(&["start", "computed.json"]).ok();
    home.until_status("a+b", "online");
}

#[test]
fn check_shows_what_an_evaluated_config_comes_to_or_where_it_is_wrong() {
    let bin = tempfile::tempdir().unwrap();
    let home = without_node(bin.path());
    home.app("run.sh", "exec sleep 600\n");
    home.app(
        "e.config.js",
        "console.log('noise')\nmodule.exports = [{ script: 'run.sh', kill_timeout: 1000 * 3 }]\n",
    );
    let ran = home.run(&["check", "e.config.js", "--json"]).ok();
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        report["apps"][0]["conf"]["kill_timeout"], 3000,
        "{report:#}"
    );
    home.app(
        "bad.config.js",
        "const cp = require('child_process')\n\nconst v = cp.execSync('date')\n",
    );
    home.run(&["check", "bad.config.js"])
        .fails("bad.config.js:3")
        .fails("child_process.execSync is not in the JavaScript engine built into fornax")
        .fails("there is no `node` in PATH");
}
