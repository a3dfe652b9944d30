//! Words, options and targets of PM2's command line that its own end-to-end scripts rely on (pm2 7.0.4).

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::Home;

const LOOP: &str = "#!/bin/bash\necho up $1\nwhile true; do sleep 0.05; done\n";

fn count(text: &str, word: &str) -> usize {
    text.matches(word).count()
}

#[test]
fn an_app_is_meant_by_the_path_of_its_script_as_seen_from_here() {
    let home = Home::new();
    home.app("web.sh", LOOP);
    home.run(&["start", "web.sh", "--name", "other"]).ok();
    home.run(&["restart", "web.sh"]).ok();
    home.run(&["restart", "./web.sh"]).ok();
    assert_eq!(home.item("other")["pm2_env"]["restart_time"], 2);
    home.run(&["stop", &format!("{}/web.sh", home.apps().display())])
        .ok();
    assert_eq!(home.status("other"), "stopped");
    home.run(&["delete", "web.js"]).fails("web.js not found");
}

#[test]
fn scripts_that_count_words_in_prettylist_count_apps() {
    let home = Home::new();
    let app = home.app("a.sh", LOOP);
    home.run(&["start", &app, "-i", "3"]).ok();
    let list = home.run(&["prettylist"]).ok().out;
    assert_eq!(count(&list, "online"), 3);
    assert_eq!(count(&list, "restart_time: 0"), 3);
    home.run(&["stop", "a"]).ok();
    let list = home.run(&["prettylist"]).ok().out;
    assert_eq!((count(&list, "online"), count(&list, "stopped")), (0, 3));
}

#[test]
fn a_setting_restarts_the_app_that_its_section_is_named_like() {
    let home = Home::new();
    let app = home.app("a.sh", LOOP);
    home.run(&["start", &app]).ok();
    let env = |key: &str| home.item("a")["pm2_env"]["env"][key].clone();
    home.run(&["set", "a:colour", "red"])
        .ok()
        .says("Module a restarted");
    assert_eq!(env("colour"), "red");
    assert_eq!(env("a")["colour"], "red");
    let said = home.run(&["multiset", "a:size 9 b:other 1"]).ok().out;
    assert!(said.contains("$ pm2 set a:size 9") && !said.contains("b:other"));
    assert_eq!(env("size"), "9");
    assert_eq!(home.item("a")["pm2_env"]["restart_time"], 2);
    home.run(&["config", "b:other"])
        .ok()
        .says("Value for module b key other: 1");
    home.run(&["get", "a"]).ok().says("Copy/Paste line");
    home.run(&["multiset", "a:size"]).fails("has no value");
}

#[test]
fn options_on_a_restart_change_keys_and_null_takes_them_away() {
    let home = Home::new();
    let app = home.app("n.js", "setInterval(() => {}, 1000);\n");
    home.run(&["start", &app]).ok();
    let key = |key: &str| home.item("n")["pm2_env"][key].clone();
    home.run(&["restart", "n", "--node-args=--harmony"]).ok();
    assert_eq!(key("node_args"), serde_json::json!(["--harmony"]));
    home.run(&["restart", "n", "--node-args=null"]).ok();
    assert_eq!(key("node_args"), Value::Null);
    home.run_with(&["restart", "n"], &[("PM2_DEEP_MONITORING", "true")])
        .ok();
    assert_eq!(key("deep_monitoring"), true);
    home.run(&["monitor", "n"]).ok();
    assert_eq!(key("_km_monitored"), true);
    home.run(&["unmonitor", "n"]).ok();
    assert_eq!(key("_km_monitored"), false);
}

#[test]
fn stacks_name_the_lines_people_wrote_where_a_source_map_lies_beside_the_script() {
    let home = Home::new();
    home.app("m.ts", "\nthrow new Error('mapped')\n");
    // Line 1 of the script is line 2 of the source.
    home.app(
        "m.js.map",
        r#"{"version":3,"file":"m.js","sources":["m.ts"],"names":[],"mappings":"AACA"}"#,
    );
    let app = home.app(
        "m.js",
        "throw new Error('mapped');\n//# sourceMappingURL=m.js.map\n",
    );
    home.run(&["start", &app, "--no-autorestart"]).ok();
    home.until_file_has("logs/m-error.log", "m.ts:2");
    home.run(&[
        "start",
        &app,
        "--name",
        "plain",
        "--no-autorestart",
        "--disable-source-map-support",
    ])
    .ok();
    let told = home.until_file_has("logs/plain-error.log", "m.js:1");
    assert!(!told.contains("m.ts"));
}

#[test]
fn two_cluster_apps_share_an_address_as_with_pm2() {
    let home = Home::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|free| free.local_addr())
        .unwrap()
        .port();
    let app = home.app(
        "h.js",
        "require('http').createServer((q, a) => a.end(process.env.name)).listen(+process.env.AT, '127.0.0.1');\n",
    );
    let at = port.to_string();
    for name in ["one", "two"] {
        home.run_with(&["start", &app, "--name", name, "-i", "1"], &[("AT", &at)])
            .ok();
    }
    let mut seen = std::collections::HashSet::new();
    support::eventually("both answer", || {
        let address = format!("127.0.0.1:{port}");
        std::net::TcpStream::connect(&address).ok()?;
        seen.insert(support::home::get(&address, "/").1);
        (seen.len() == 2).then_some(())
    });
    assert_eq!(home.item("two")["pm2_env"]["restart_time"], 0);
}
