//! What our command line prints and returns, against real PM2 7.0.4: the same lines for both, one after the other, each in a home
//! of its own. Runs where `FORNAX_PM2` names a pm2, and says so where it does not.

#![allow(clippy::unwrap_used)]

mod support;

use regex::Regex;
use std::path::{Path, PathBuf};
use support::Home;
use support::home::Ran;

/// The command lines.
const LINES: &[&str] = &[
    "list",
    "jlist",
    "prettylist",
    "id nope",
    "pid nope",
    "pid",
    "describe nope",
    "env 99",
    "stop nope",
    "stop 99",
    "restart nope",
    "restart 99",
    "reload nope",
    "reload 99",
    "delete nope",
    "delete 99",
    "stop all",
    "restart all",
    "delete all",
    "stop /no/",
    "scale nope 2",
    "reset nope",
    "sendSignal SIGUSR2 nope",
    "sendSignal SIGUSR2 99",
    "send 99 x",
    "attach nope",
    "trigger nope a",
    "trigger 99 a",
    "flush nope",
    "save",
    "cleardump",
    "get missing",
    "unset missing",
    "pull nope",
    "forward nope",
    "backward nope",
    "logs nope --nostream",
    "start nofile.js",
    "start nofile.json",
    "start bad.json",
    "start web.sh --interpreter nointerp",
    "start web.sh --kill-timeout x",
    "start web.sh --max-memory-restart 10MB",
    "start web.sh -c badpattern",
    "start web.sh --env production",
    "start web.sh --name a",
    "start web.sh --name a",
    "start web.sh --name a -f",
    "start a",
    "start web.sh --name many -i 2",
    "id a",
    "id many",
    "describe a",
    "restart a",
    "restart a many",
    "restart 0",
    "reload a",
    "stop a",
    "stop a",
    "restart a --update-env",
    "restart a --name b",
    "id b",
    "stop /b/",
    "restart b --watch",
    "restart b --watch",
    "delete 1",
    "scale many 3",
    "scale many +1",
    "scale many 2",
    "scale many 2",
    "reset many",
    "reset 99",
    "sendSignal SIGCONT many",
    "sendSignal SIGNOPE many",
    "start apps.json",
    "start apps.json",
    "start apps.json --only two",
    "restart apps.json",
    "reload apps.json",
    "startOrRestart apps.json",
    "startOrReload apps.json --only one",
    "startOrGracefulReload apps.json",
    "restart apps.json --env nope",
    "stop apps.json",
    "delete apps.json",
    "start apps.yaml",
    "start apps.config.js --env production",
    "delete apps.config.js",
    "start ns.json",
    "restart back",
    "stop back",
    "delete back",
    "set m:k v",
    "set m.k2 v2",
    "get m:k",
    "get m",
    "get",
    "conf",
    "conf m",
    "config m:k",
    "config m:k w",
    "multiset \"n:x 1 n:y 2\"",
    "unset m:k",
    "flush",
    "reloadLogs",
    "save",
    "monitor many",
    "unmonitor all",
    "monitor nope",
    "restart many --env production",
    "restart",
    "scale many",
    "send",
    "list --nope",
    "nonsense",
    "save extra",
    "list --sort name:desc",
    "list --sort nope",
    "ecosystem simple",
    "delete all",
    "cleardump",
    "start -x web.sh --name last --no-autorestart",
    "stop last -s",
    "restart last --silent",
    "delete last",
    "start web.sh --name val --interpreter-args -e --kill-timeout 900",
    "start web.sh --name -odd",
    "start web.sh --name",
    "restart val --max-memory-restart 200M --min-uptime 2s",
    "restart val --user nosuch",
    "start web.sh --name who --user nosuch",
    "reload val",
    "start apps.json --only one --env production",
    "logs val --nostream --lines 1 --json",
    "delete all",
];

/// Lines whose words are ours on purpose, and why; their exit codes are PM2's all the same.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("jlist", "JSON, which has a test of its own"),
    ("prettylist", "Node's words for the same"),
    ("start bad.json", "the file, line and column, and no stack"),
    ("describe a", "health and the last exit, and no links"),
    ("reset 99", "no stack"),
    ("nonsense", "another help"),
    ("save extra", "another help"),
    ("flush", "each instance has a file of its own"),
    ("ecosystem simple", "another example"),
    ("restart val --user nosuch", "no stack"),
    ("start web.sh --name who --user nosuch", "once, not twice"),
];

/// Lines that end otherwise on purpose, and why.
const OTHER_CODE: &[(&str, &str)] = &[("list --sort nope", "a wrong field is an error")];

/// Colours, moments, paths and tables out: what is left is what scripts look for. Concurrent starts end in any order.
fn plain(text: &str, root: &Path, apps: &Path) -> Vec<String> {
    let colours = Regex::new(r"\x1b\[[0-9;?]*[A-Za-z]").unwrap();
    let text = colours.replace_all(text, "");
    let text = text.replace(root.to_str().unwrap(), "HOME");
    let text = text.replace(apps.to_str().unwrap(), "APPS");
    let shown = |line: &&str| {
        !line.trim().is_empty()
            && !line.starts_with(['│', '┌', '├', '└'])
            && !line.starts_with("host metrics")
    };
    let mut lines: Vec<String> = text
        .lines()
        .map(str::trim_end)
        .filter(shown)
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

fn lay_out(home: &Home) {
    let script = "#!/bin/bash\necho up\nwhile true; do sleep 0.05; done\n";
    for (name, text) in [
        ("web.sh", script),
        ("bad.json", "{\"apps\": ["),
        (
            "apps.json",
            r#"{"apps": [{"name": "one", "script": "web.sh"}, {"name": "two", "script": "web.sh", "env_production": {"A": "1"}}]}"#,
        ),
        ("apps.yaml", "apps:\n  - name: one\n    script: web.sh\n"),
        (
            "apps.config.js",
            "module.exports = {apps: [{name: 'one', script: 'web.sh', env_production: {B: '2'}}]}\n",
        ),
        (
            "ns.json",
            r#"[{"name": "n1", "script": "web.sh", "namespace": "back"}, {"name": "n2", "script": "web.sh", "namespace": "back"}]"#,
        ),
    ] {
        home.app(name, text);
    }
}

#[test]
fn a_hundred_command_lines_print_and_end_as_with_pm2() {
    let Some(real) = std::env::var_os("FORNAX_PM2").map(PathBuf::from) else {
        println!("not run: FORNAX_PM2 names no pm2 7.0.4");
        return;
    };
    let (theirs, ours) = (Home::new(), Home::new());
    let program = ours.link("pm2");
    let mut faults = Vec::new();
    for home in [&theirs, &ours] {
        lay_out(home);
        std::fs::create_dir_all(home.root()).unwrap();
        // Without it PM2 greets a first user.
        std::fs::write(home.root().join("touch"), "1").unwrap();
    }
    theirs.run_as(&real, &["ping"]).ok();
    ours.run_as(&program, &["ping"]).ok();
    for line in LINES {
        let words = fornax::core::spec::args::split(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (left, right) = std::thread::scope(|scope| {
            let left = scope.spawn(|| theirs.run_as(&real, &words));
            (ours.run_as(&program, &words), left.join().unwrap())
        });
        let (ran, wanted): (Ran, Ran) = (left, right);
        let is_in = |list: &[(&str, &str)]| list.iter().any(|(other, _)| other == line);
        if ran.code != wanted.code && !is_in(OTHER_CODE) {
            faults.push(format!(
                "`{line}` ends with {}, pm2's with {}",
                ran.code, wanted.code
            ));
        }
        if is_in(OTHER_WORDS) || is_in(OTHER_CODE) {
            continue;
        }
        for (what, ours_said, theirs_said) in [
            ("stdout", &ran.out, &wanted.out),
            ("stderr", &ran.err, &wanted.err),
        ] {
            let said = plain(ours_said, &ours.root(), &ours.apps());
            let want = plain(theirs_said, &theirs.root(), &theirs.apps());
            if said != want {
                faults.push(format!("`{line}`, {what}: {said:#?}, pm2's: {want:#?}"));
            }
        }
    }
    // Its daemon is not ours to clean up by itself.
    theirs.run_as(&real, &["kill"]).ok();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
