//! Modules with the real program: fetched by the real npm from folders and tarballs, without a network.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::process::Command;
use support::{Home, eventually};

const MAIN: &str = "console.log('alpha=' + process.env.alpha); setInterval(() => {}, 1000);\n";

/// A module in a folder of its own.
fn module(home: &Home, folder: &str, version: &str, main: &str) -> String {
    let path = home.apps().join(folder);
    std::fs::create_dir_all(&path).unwrap();
    let package = json!({"name": "mymod", "version": version, "main": "index.js", "config": {"alpha": "x", "num": 3}});
    std::fs::write(path.join("package.json"), package.to_string()).unwrap();
    std::fs::write(path.join("index.js"), main).unwrap();
    path.to_str().unwrap().to_owned()
}

fn has_npm() -> bool {
    let there = Command::new("npm").arg("--version").output().is_ok();
    if !there {
        println!("NOT TESTED: npm is not installed");
    }
    there
}

fn conf(home: &Home) -> Value {
    serde_json::from_str(&home.read("module_conf.json")).unwrap()
}

#[test]
fn a_module_is_fetched_run_apart_from_apps_started_with_the_daemon_and_taken_away() {
    if !has_npm() {
        return;
    }
    let home = Home::new();
    let folder = module(&home, "one", "1.2.3", MAIN);
    let told = home.run(&["install", &folder]).ok();
    assert!(
        told.out.contains("[PM2][Module] Calling [NPM] to install"),
        "{told:?}"
    );
    assert!(
        told.out.contains("Module\n"),
        "no list of modules: {told:?}"
    );
    let item = home.until_status("mymod", "online");
    assert_eq!(item["pm2_env"]["pmx_module"], true);
    assert_eq!(item["pm2_env"]["version"], "1.2.3");
    let installed = home.root().join("modules/mymod/node_modules/mymod");
    assert_eq!(item["pm2_env"]["pm_cwd"], installed.to_str().unwrap());
    // Its defaults are settings, and settings are variables.
    assert_eq!(conf(&home)["mymod"], json!({"alpha": "x", "num": 3}));
    home.until_file_has("logs/mymod-out.log", "alpha=x");
    assert!(conf(&home)["module-db-v2"]["mymod"].is_object());

    // Not an app: `all` passes it over, and it is not saved.
    home.run(&["stop", "all"]);
    home.run(&["delete", "all"]);
    assert_eq!(home.status("mymod"), "online");
    home.run(&["kill"]).ok();
    home.run(&["list"]).ok();
    home.until_status("mymod", "online");
    home.run(&["module:list"]).ok().says("mymod: 1.2.3 (npm)");

    // A version that does not stay up is not kept.
    let pid = home.pid("mymod");
    let bad = module(&home, "two", "2.0.0", "process.exit(1)\n");
    home.run(&["install", &bad, "--safe", "20000"])
        .fails("the version before it is back");
    let item = home.until_status("mymod", "online");
    assert_eq!(item["pm2_env"]["version"], "1.2.3");
    assert_ne!(home.pid("mymod"), pid);
    let good = module(&home, "three", "3.0.0", MAIN);
    home.run(&["install", &good, "--safe", "500"]).ok();
    assert_eq!(
        home.until_status("mymod", "online")["pm2_env"]["version"],
        "3.0.0"
    );
    assert!(home.run(&["install", "./nowhere"]).code != 0);
    assert_eq!(home.status("mymod"), "online");

    home.run(&["uninstall", "mymod"]).ok();
    assert!(home.list().is_empty());
    assert!(!home.root().join("modules/mymod").exists());
    assert!(conf(&home).get("module-db-v2").is_none());
    let left: Vec<_> = std::fs::read_dir(home.root().join("modules"))
        .unwrap()
        .flatten()
        .collect();
    assert!(left.is_empty(), "{left:?}");
    home.run(&["uninstall", "mymod"]).fails("Unknown module");
    home.run(&["install", "../../x; touch y"]);
    assert!(!home.apps().join("y").exists());
}

#[test]
fn pm2s_tarballs_are_packed_and_installed() {
    let home = Home::new();
    let folder = module(&home, "one", "1.2.3", MAIN);
    home.run(&["package", &folder])
        .ok()
        .says("Module packaged in");
    let tarball = format!("{folder}/mymod-v1-2-3.tar.gz");
    home.run(&["install", &tarball])
        .ok()
        .says("Module INSTALLED and STARTED");
    home.until_status("mymod:index", "online");
    assert_eq!(conf(&home)["tar-modules"]["mymod"]["source"], "tarball");
    home.run(&["kill"]).ok();
    home.run(&["ping"]).ok();
    home.until_status("mymod:index", "online");
    home.run(&["uninstall", "all"]).ok();
    assert!(home.list().is_empty());
    home.run(&["install", "--tarball", "/nowhere.tar.gz"])
        .fails("there is no tarball");
}

#[test]
fn an_author_makes_a_module_and_runs_it_from_its_folder() {
    let home = Home::new();
    home.run(&["module:generate", "fresh"])
        .ok()
        .says("Module sample created");
    home.run(&["module:generate", "../x"])
        .fails("is no name of a package");
    let mut command = home.command(home.program(), &["install", "."]);
    let ran = command
        .current_dir(home.apps().join("fresh"))
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(
        ran.status.success() && out.contains("DEVELOPMENT MODE"),
        "{ran:?}"
    );
    let item = home.until_status("fresh", "online");
    assert_eq!(item["pm2_env"]["watch"], true);
    eventually("its action is announced", || {
        let actions = home.item("fresh")["pm2_env"]["axm_actions"].clone();
        actions
            .as_array()?
            .iter()
            .any(|action| action["action_name"] == "reset")
            .then_some(())
    });
    home.run(&["uninstall", "fresh"]).ok();
    assert!(home.list().is_empty());
}

#[test]
fn log_rotation_is_built_in_and_never_fails_for_want_of_a_network() {
    let home = Home::with(&[("npm_config_registry", "http://127.0.0.1:1/")]);
    home.run(&["install", "pm2-logrotate"])
        .ok()
        .says("built in");
    home.run(&["install", "pm2-logrotate@latest"]).ok();
    home.run(&["set", "pm2-logrotate:max_size", "1M"]).ok();
    home.run(&["module:update", "pm2-logrotate"]).ok();
    home.run(&["uninstall", "pm2-logrotate"])
        .ok()
        .says("goes on");
    assert!(home.run(&["install"]).code != 0);
}
