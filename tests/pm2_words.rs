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
fn stacks_name_the_lines_people_wrote() {
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
    // A map inside the script counts as well; what we add is nothing that the app sees.
    let inline = home.app(
        "inline.js",
        "console.log(JSON.stringify(process.execArgv), process.title); throw new Error('mapped');\n//# sourceMappingURL=data:application/json;base64,eyJ2ZXJzaW9uIjozLCJzb3VyY2VzIjpbIm0udHMiXSwibmFtZXMiOltdLCJtYXBwaW5ncyI6IkFBQ0EifQ==\n",
    );
    home.run(&["start", &inline, "--no-autorestart"]).ok();
    home.until_file_has("logs/inline-error.log", "m.ts:2");
    home.until_file_has("logs/inline-out.log", &format!("[] node {inline}"));
}

#[test]
fn an_app_is_found_in_the_list_of_processes_by_its_node_and_script() {
    let home = Home::new();
    let app = home.app("t.js", "setInterval(() => {}, 1000);\n");
    home.run(&["start", &app]).ok();
    home.run_with(
        &["start", &app, "--name", "named"],
        &[("PROCESS_TITLE", "mine")],
    )
    .ok();
    for (name, title) in [("t", format!("node {app}")), ("named", "mine".to_owned())] {
        let path = format!("/proc/{}/cmdline", home.pid(name));
        support::eventually("its title is set", || {
            let told = std::fs::read(&path).unwrap_or_default();
            let told = String::from_utf8_lossy(&told).into_owned();
            (told.trim_end_matches('\0') == title).then_some(())
        });
    }
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

#[test]
fn two_scales_at_once_make_as_many_as_the_later_one_says() {
    let home = Home::new();
    let app = home.app("a.sh", LOOP);
    home.run(&["start", &app, "-i", "1"]).ok();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| home.run(&["scale", "a", "4"]));
        }
    });
    assert_eq!(home.list().len(), 4);
    home.run(&["scale", "a", "2"])
        .ok()
        .says("Applying action deleteProcessId on app [0](ids: [ 0 ])");
}

#[test]
fn words_too_many_are_refused_where_pm2_refuses_them() {
    let home = Home::new();
    for command in ["save", "cleardump", "resurrect", "kill", "prettylist"] {
        let ran = home.run(&[command, "word"]);
        assert_eq!(ran.code, 1, "{command}");
        assert!(
            ran.out.contains("Unknown command argument: word"),
            "{command}"
        );
    }
    home.run(&["jlist", "word"]).ok();
}

#[test]
fn what_is_typed_to_an_attached_app_is_answered() {
    use std::io::Write;
    let home = Home::new();
    let app = home.app(
        "cat.sh",
        "#!/bin/bash\nwhile read -r line; do echo \"got $line\"; done\n",
    );
    home.run(&["start", &app]).ok();
    let mut attached = home
        .command(home.program(), &["attach", "0"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut input = attached.stdin.take().unwrap();
    input.write_all(b"hello\nthere\n").unwrap();
    home.until_file_has("logs/cat-out.log", "got hello\ngot there");
    drop(input);
    assert!(attached.wait().unwrap().success());
}

#[test]
fn an_action_that_an_app_offers_is_triggered_and_its_reply_printed() {
    let home = Home::new();
    let app = home.app(
        "ax.js",
        "process.send({type: 'axm:action', data: {action_name: 'hello', action_type: 'custom', arity: 1}});\n\
         process.on('message', (m) => {\n\
           const [name, opts] = typeof m === 'string' ? [m, null] : [m.msg, m.opts];\n\
           if (name === 'hello') process.send({type: 'axm:reply', data: {return: {ok: opts || 1}, action_name: name}});\n\
         });\n",
    );
    home.run(&["start", &app, "--no-pmx"]).ok();
    support::eventually("the action is known", || {
        let item = home.item("ax");
        item["pm2_env"]["axm_actions"].as_array()?.first().map(drop)
    });
    home.run(&["trigger", "ax", "hello"])
        .ok()
        .says("1 processes have received command hello")
        .says("[ax:0:default]={\"ok\":1}");
    home.run(&["trigger", "0", "hello", "p"])
        .ok()
        .says("[ax:0:default]={\"ok\":\"p\"}");
    home.run(&["trigger", "0", "nope"])
        .fails("Action doesn't exist nope for ax");
    home.run(&["trigger", "99", "hello"]).fails("99 id unknown");
}

#[test]
fn a_working_tree_goes_forward_and_back_and_its_app_with_it() {
    let home = Home::with(&[("PM2_ENABLE_GIT_PARSING", "true")]);
    let git = |folder: &std::path::Path, words: &[&str]| {
        let ran = std::process::Command::new("git")
            .arg("-C")
            .arg(folder)
            .args(["-c", "user.name=n", "-c", "user.email=a@b.invalid"])
            .args(words)
            .output();
        match ran {
            Ok(ran) => {
                assert!(ran.status.success(), "{words:?}: {ran:?}");
                Some(String::from_utf8(ran.stdout).unwrap().trim().to_owned())
            }
            Err(error) => {
                println!("not run: git: {error}");
                None
            }
        }
    };
    let (origin, work) = (home.apps().join("origin.git"), home.apps().join("work"));
    if git(&home.apps(), &["init", "-q", "--bare", "origin.git"]).is_none() {
        return;
    }
    git(
        &home.apps(),
        &["clone", "-q", origin.to_str().unwrap(), "work"],
    );
    std::fs::write(work.join("a.sh"), LOOP).unwrap();
    let mut commits = Vec::new();
    for version in ["one", "two", "three"] {
        std::fs::write(work.join("version"), version).unwrap();
        git(&work, &["add", "."]);
        git(&work, &["commit", "-q", "-m", version]);
        git(&work, &["push", "-q", "-u", "origin", "HEAD"]);
        commits.push(git(&work, &["rev-parse", "HEAD"]).unwrap());
    }
    git(&work, &["reset", "-q", "--hard", "HEAD~1"]);
    let file = work.join("eco.json");
    std::fs::write(
        &file,
        serde_json::json!({"apps": [{"name": "g", "script": "a.sh", "cwd": work, "post_update": ["cp version seen"]}]})
            .to_string(),
    )
    .unwrap();
    home.run(&["start", file.to_str().unwrap()]).ok();
    let revision = |commit: &str| {
        support::eventually("the revision is told", || {
            let told = home.item("g")["pm2_env"]["versioning"].clone();
            (told["revision"] == commit).then_some(told)
        })
    };
    let told = revision(&commits[1]);
    assert_eq!(told["comment"], "two\n");
    assert_eq!(
        (&told["prev_rev"], &told["next_rev"]),
        (&commits[0].as_str().into(), &commits[2].as_str().into())
    );
    home.run(&["pull", "g"])
        .ok()
        .says(&format!("Current commit {}", commits[2]));
    assert_eq!(std::fs::read_to_string(work.join("seen")).unwrap(), "three");
    revision(&commits[2]);
    home.run(&["pull", "g"]).ok().says("Already up-to-date");
    home.run(&["backward", "g"]).ok();
    home.run(&["backward", "0"]).ok();
    revision(&commits[0]);
    home.run(&["backward", "g"]).fails("");
    home.run(&["forward", "g"]).ok();
    revision(&commits[1]);
    home.run(&["pull", "g", &commits[0]]).ok();
    revision(&commits[0]);
    std::fs::write(work.join("version"), "mine").unwrap();
    home.run(&["forward", "g"]).fails("commit or stash");
    assert_eq!(
        std::fs::read_to_string(work.join("version")).unwrap(),
        "mine"
    );
    assert_eq!(home.item("g")["pm2_env"]["restart_time"], 5);
}

#[test]
fn completion_knows_commands_options_and_apps_and_its_lines_come_and_go() {
    let home = Home::new();
    let app = home.app("web-app.sh", LOOP);
    let ask = |words: &[&str]| {
        let line: Vec<&str> = ["completion", "--"].iter().chain(words).copied().collect();
        let at = (words.len() - 1).to_string();
        home.run_with(&line, &[("COMP_CWORD", &at)]).ok().out
    };
    assert_eq!(ask(&["pm2", "startOrG"]), "startOrGracefulReload\n");
    assert_eq!(ask(&["pm2", "stop", "web"]), "");
    home.run(&["start", &app]).ok();
    assert_eq!(ask(&["pm2", "stop", "web"]), "web-app\n");
    assert_eq!(ask(&["pm2", "logs", "--nost"]), "--nostream\n");
    let person = home.apps().join("person");
    std::fs::create_dir(&person).unwrap();
    std::fs::write(person.join(".bashrc"), "mine\n").unwrap();
    let at = |what: &str, shell: &str| {
        let person = person.to_str().unwrap();
        home.run_with(&["completion", what], &[("HOME", person), ("SHELL", shell)])
    };
    at("install", "/bin/bash").ok();
    at("install", "/bin/bash").ok();
    let text = std::fs::read_to_string(person.join(".bashrc")).unwrap();
    assert_eq!(count(&text, "###-begin-pm2-completion-###"), 1);
    at("uninstall", "/bin/bash").ok();
    assert_eq!(
        std::fs::read_to_string(person.join(".bashrc")).unwrap(),
        "mine\n"
    );
    at("install", "/usr/bin/fish").ok();
    assert!(person.join(".config/fish/completions/pm2.fish").is_file());
    at("install", "/bin/csh").fails("neither bash, zsh nor fish");
}

#[test]
fn real_shells_complete_by_it() {
    let home = Home::new();
    let pm2 = home.link("pm2");
    let path = format!(
        "{}:{}",
        pm2.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let shells: [(&str, &[&str], &str); 2] = [
        (
            "bash",
            &["--norc", "-c"],
            "source <(pm2 completion); COMP_WORDS=(pm2 startOrG); COMP_CWORD=1; COMP_LINE='pm2 startOrG'; COMP_POINT=12; \
             _pm2_complete; echo \"${COMPREPLY[@]}\"",
        ),
        (
            "fish",
            &["--no-config", "-c"],
            "pm2 completion fish | source; complete -C 'pm2 startOrG'",
        ),
    ];
    for (shell, options, script) in shells {
        if std::process::Command::new(shell)
            .arg("--version")
            .output()
            .is_err()
        {
            println!("NOT TESTED: there is no {shell}");
            continue;
        }
        let words = [options, &[script][..]].concat();
        let mut command = home.command(shell.as_ref(), &words);
        let ran = command.env("PATH", &path).output().unwrap();
        let told = String::from_utf8_lossy(&ran.stdout);
        assert_eq!(told.trim(), "startOrGracefulReload", "{shell}: {ran:?}");
    }
}

#[test]
fn a_list_whose_reader_leaves_ends_quietly() {
    let home = Home::new();
    let app = home.app("a.sh", LOOP);
    home.run(&["start", &app, "-i", "30"]).ok();
    let program = home.program().display().to_string();
    for command in [
        "list",
        "prettylist",
        "jlist",
        "--help",
        "list -m",
        "logs --nostream",
    ] {
        let line = format!("{program} {command} | head -c 1");
        let ran = home
            .command(std::path::Path::new("/bin/bash"), &["-c", &line])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&ran.stderr);
        assert!(told.is_empty(), "{command}: {told}");
    }
}
