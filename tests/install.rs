//! Installing ComfyUI: real git, real Python, real pip, with a small tree that starts as ComfyUI does. The real one: tests/comfyui_real.rs.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::disk::SmallDisk;
use support::eventually;
use support::home::free_ports;
use support::install::{Place, git, look};
use support::model_server::{Gate, ModelServer, Served};

#[test]
fn an_empty_workspace_becomes_an_install_nodes_fail_alone_and_a_second_run_changes_nothing() {
    let place = Place::with(&[("A_TOKEN", "a-very-secret-text")]);
    let pack = place.repository("pack", "pack");
    place.repository("pack-broken", "broken");
    place.nodes(json!([
        {"name": "pack", "url": format!("git clone {}", pack.display()), "requirements": true,
         "env": {"TOKEN": "${A_TOKEN}", "GREETING": "${GREETING:-hello}", "GONE": "${GONE}"}},
        {"name": "broken", "url": place.repo("broken"), "requirements": true},
        {"name": "nowhere", "url": place.repo("nowhere"), "requirements": true},
    ]));
    assert_eq!(place.report()["standing"], "not_installed");
    place
        .install()
        .ok()
        .says("node broken: import failed")
        .says("lacks GONE");

    let report = place.report();
    assert_eq!(report["standing"], "installed", "{report:#}");
    assert_eq!(report["version"], "0.3.64");
    assert_eq!(place.node("pack")["state"], "installed");
    assert_eq!(place.node("pack")["project"], "fornax-pack 1.0.0");
    assert_eq!(place.node("broken")["state"], "import_failed");
    assert!(
        place.node("broken")["problems"][0]
            .as_str()
            .unwrap()
            .contains("a_module_that_nobody_has")
    );
    assert_eq!(place.node("nowhere")["state"], "failed");
    assert!(
        place.node("nowhere")["problems"][0]
            .as_str()
            .unwrap()
            .contains("no such repository")
    );
    assert!(!place.in_tree("custom_nodes/nowhere").exists());

    let env = place.in_tree("custom_nodes/pack/.env");
    let text = std::fs::read_to_string(&env).unwrap();
    assert_eq!(text, "GONE=\nGREETING=hello\nTOKEN=a-very-secret-text\n");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(env.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let made =
        std::fs::read_to_string(place.in_tree("custom_nodes/pack/made_by_install.txt")).unwrap();
    assert!(
        made.contains("builds/0001/venv") && made.contains("smallnode 1.1"),
        "{made}"
    );
    for file in ["install.log", "install.json"] {
        let text = std::fs::read_to_string(place.workspace().join(".fornax").join(file)).unwrap();
        assert!(!text.contains("a-very-secret-text"), "{file}");
    }
    let record = std::fs::read_to_string(place.workspace().join("builds/0001/build.json")).unwrap();
    assert!(!record.contains("a-very-secret-text") && record.contains("${A_TOKEN}"));

    let before = look(&place.workspace());
    place.install().ok().says("nothing was changed");
    let after = look(&place.workspace());
    let changed: Vec<_> = before.iter().filter(|file| !after.contains(file)).collect();
    // The installer's own lock is taken and let go.
    assert!(
        changed
            .iter()
            .all(|(path, _, _)| path.ends_with("install.lock")),
        "{changed:?}"
    );
    assert_eq!(before.len(), after.len());
    place
        .comfyui(&["validate", "--cpu"])
        .fails("the node broken does not import");
}

#[test]
fn an_install_killed_at_ten_moments_comes_to_its_end() {
    let place = Place::new();
    let pack = place.repository("pack", "pack");
    place.nodes(json!([{"name": "pack", "url": pack, "requirements": true}]));
    let mut kills = 0;
    let mut step = 0_u64;
    // From nothing several times: a run that goes on where another was cut off is soon done.
    while kills < 10 {
        step += 1;
        let mut child = place
            .home
            .command(place.home.program(), &["comfyui", "install", "--cpu"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Spread over a run, the same each time.
        let deadline = Instant::now() + Duration::from_millis(150 + (step * 977) % 2_600);
        while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "nothing was cut off in this run");
            std::fs::remove_dir_all(place.workspace().join("builds")).unwrap();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    place.install().ok();
    assert_eq!(place.report()["standing"], "installed");
    assert_eq!(place.node("pack")["state"], "installed");
    place.comfyui(&["validate", "--cpu"]).ok();
    let left: Vec<_> = std::fs::read_dir(place.workspace().join("builds"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".part"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_a_killed_installer_has_left_running_is_ended_by_the_next() {
    let place = Place::new();
    let pack = place.repository("pack", "pack");
    let script = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\nif not os.path.exists('second'):\n    open('second', 'w').close()\n    time.sleep(600)\n";
    std::fs::write(
        pack.join("install.py"),
        format!("{script}open('made_by_install.txt', 'w').close()\n"),
    )
    .unwrap();
    place.commit("pack", "slow");
    place.nodes(json!([{"name": "pack", "url": pack, "requirements": true}]));
    let mut child = place
        .home
        .command(place.home.program(), &["comfyui", "install", "--cpu"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid_file = place
        .workspace()
        .join("builds/0001/ComfyUI/custom_nodes/pack/pid");
    let pid = eventually("install.py runs", || {
        std::fs::read_to_string(&pid_file).ok()?.parse::<u32>().ok()
    });
    place
        .install()
        .fails("another installer is at work")
        .says(&format!("(pid {})", child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    place.install().ok();
    let gone = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(!gone.contains("install.py"), "{gone}");
    assert_eq!(place.node("pack")["state"], "installed");
}

#[test]
fn an_update_moves_what_floats_beside_what_runs_and_rollback_brings_it_back() {
    let place = Place::new();
    let pack = place.repository("pack", "pack");
    let pinned = place.repository("pack", "pinned");
    let commit = git(&pinned, &["rev-parse", "HEAD"]);
    place.nodes(json!([
        {"name": "pack", "url": pack, "requirements": true},
        {"name": "pinned", "url": pinned, "commit": commit, "requirements": true},
    ]));
    place.install().ok();
    let old = place.lock();
    // What a person, or the Manager, has put there comes along.
    std::fs::write(
        place.in_tree("custom_nodes/by_hand.py"),
        "NODE_CLASS_MAPPINGS = {}\n",
    )
    .unwrap();
    place.set_version("0.3.65");
    for name in ["pack", "pinned"] {
        std::fs::write(place.repo(name).join("new.txt"), "new").unwrap();
        place.commit(name, "two");
    }
    place.install().ok().says("nothing was changed");
    assert_eq!(place.version(), "0.3.64");
    place.comfyui(&["update", "--cpu"]).ok();
    assert_eq!(place.version(), "0.3.65");
    assert!(place.in_tree("custom_nodes/pack/new.txt").exists());
    assert!(!place.in_tree("custom_nodes/pinned/new.txt").exists());
    assert!(place.in_tree("custom_nodes/by_hand.py").exists());
    assert_ne!(place.lock(), old);
    let pip = std::fs::read_to_string(place.workspace().join("builds/0002/venv/bin/pip")).unwrap();
    assert!(pip.contains("builds/0002/venv"), "{pip}");

    place.comfyui(&["rollback"]).ok();
    assert_eq!(place.version(), "0.3.64");
    assert_eq!(place.lock(), old);
    place.comfyui(&["rollback"]).ok();
    assert_eq!(place.version(), "0.3.65");

    // A version that does not start does not become the one that runs.
    std::fs::write(
        place.repo("ComfyUI").join("main.py"),
        "import a_module_that_nobody_has\n",
    )
    .unwrap();
    place.commit("ComfyUI", "broken");
    place
        .comfyui(&["update", "--cpu"])
        .fails("the Python module a_module_that_nobody_has is missing");
    assert_eq!(place.version(), "0.3.65");
    place.comfyui(&["clean"]).ok();
    let left = std::fs::read_dir(place.workspace().join("builds"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_dir() && !entry.path().is_symlink())
        .count();
    assert_eq!(left, 1, "only what runs");
}

#[test]
fn from_a_lock_file_the_same_is_made_elsewhere() {
    let place = Place::new();
    let pack = place.repository("pack", "pack");
    place.nodes(json!([{"name": "pack", "url": pack, "requirements": true}]));
    place.settings(json!({"packages": ["smallnode==1.0"]}));
    place.install().ok();
    let lock = place.lock();
    assert!(
        lock["packages"]
            .as_array()
            .unwrap()
            .contains(&json!("smallnode==1.0")),
        "{lock:#}"
    );
    // Since then everything has moved, and the setting is gone.
    place.set_version("0.4.0");
    std::fs::write(pack.join("new.txt"), "new").unwrap();
    place.commit("pack", "two");
    place.settings(json!({}));
    std::fs::remove_dir_all(place.workspace().join("builds")).unwrap();
    place.comfyui(&["install", "--cpu", "--locked"]).ok();
    assert_eq!(place.version(), "0.3.64");
    assert_eq!(place.lock(), lock);
    place.comfyui(&["update", "--cpu", "--fresh"]).ok();
    assert_eq!(place.version(), "0.4.0");
    assert!(
        place.lock()["packages"]
            .as_array()
            .unwrap()
            .contains(&json!("smallnode==1.1"))
    );
}

#[test]
fn the_list_of_nodes_is_edited_by_command() {
    let place = Place::new();
    let pack = place.repository("pack", "pack");
    place.install().ok();
    let url = pack.to_str().unwrap();
    place
        .comfyui(&["nodes", "add", url, "--name", "mine", "--cpu"])
        .ok();
    assert_eq!(place.node("mine")["state"], "installed");
    let frozen = place.comfyui(&["nodes", "freeze"]).ok();
    assert!(
        frozen.out.contains(&git(&pack, &["rev-parse", "HEAD"])),
        "{frozen:?}"
    );
    std::fs::write(pack.join("new.txt"), "new").unwrap();
    place.commit("pack", "two");
    place.comfyui(&["nodes", "update", "mine", "--cpu"]).ok();
    assert!(place.in_tree("custom_nodes/mine/new.txt").exists());
    place
        .comfyui(&["nodes", "update", "mien"])
        .fails("no node mien");
    place
        .comfyui(&["nodes", "list"])
        .ok()
        .says("mine")
        .says("installed");
    place.comfyui(&["nodes", "remove", "mine", "--cpu"]).ok();
    assert!(!place.in_tree("custom_nodes/mine").exists());
    assert!(place.in_tree("main.py").exists());
}

#[test]
fn bad_input_is_named_and_what_worked_still_works() {
    let place = Place::new();
    place.install().ok();
    let good = place.version();
    let cases = [
        (
            json!({"repository": "/nowhere/at/all"}),
            "there is no such repository",
        ),
        (
            json!({"branch": "no-such-branch"}),
            "no branch or tag no-such-branch",
        ),
        (
            json!({"commit": "0123456789abcdef0123456789abcdef01234567"}),
            "no such commit: 0123456789",
        ),
        (
            json!({"repositroy": "x"}),
            "machine.repositroy: unknown key `repositroy`; did you mean `repository`?",
        ),
        (
            json!({"commit": "main"}),
            "machine.commit: \"main\" is no commit",
        ),
        (
            json!({"packages": ["no-such-package-at-all"]}),
            "there is no package that fits no-such-package-at-all",
        ),
        (
            json!({"torch": ["no-such-torch"]}),
            "there is no package that fits no-such-torch",
        ),
        (
            json!({"python": "no-such-python"}),
            "there is no no-such-python in PATH",
        ),
    ];
    for (over, want) in cases {
        place.settings(over);
        let ran = place.install().fails(want);
        assert!(!ran.err.contains("Traceback"), "{ran:?}");
        assert!(place.in_tree("main.py").is_file());
    }
    place.settings(json!({}));
    place.nodes(json!([{"name": "a", "ulr": "x"}]));
    place
        .install()
        .fails("config_nodes.json:1:")
        .says("unknown key `ulr`; did you mean `url`?");
    std::fs::remove_file(place.workspace().join("config_nodes.json")).unwrap();
    place.install().ok().says("nothing was changed");
    assert_eq!(place.version(), good);
    let ran = place
        .home
        .run_with(&["comfyui", "install"], &[("NUM_GPUS", "many")]);
    ran.fails("variable NUM_GPUS: \"many\" is no number of GPUs");
}

#[test]
fn a_node_that_fails_to_install_is_named_and_costs_itself_only() {
    let place = Place::new();
    for name in ["impossible", "clash", "script", "later", "good"] {
        place.repository("pack", name);
    }
    std::fs::write(
        place.repo("impossible").join("requirements.txt"),
        "smallnode\nno-such-package-at-all==7\n",
    )
    .unwrap();
    std::fs::write(
        place.repo("clash").join("requirements.txt"),
        "smallnode\nsmallclash\n",
    )
    .unwrap();
    std::fs::write(
        place.repo("script").join("install.py"),
        "import sys\nopen('made_by_install.txt', 'w').close()\nsys.exit(3)\n",
    )
    .unwrap();
    let text = "[project]\nname = \"later\"\n[tool.comfy]\nrequires-comfyui = \">=99\"\n";
    std::fs::write(place.repo("later").join("pyproject.toml"), text).unwrap();
    let names = ["impossible", "clash", "script", "later"];
    names
        .iter()
        .for_each(|name| drop(place.commit(name, "two")));
    let entry = |name: &&str| json!({"name": name, "url": place.repo(name), "requirements": true});
    place.nodes(names.iter().chain(&["good"]).map(entry).collect());
    place.install().ok();
    for (name, why) in [
        (
            "impossible",
            "no-such-package-at-all==7: there is no package that fits",
        ),
        ("clash", "smallclash: its requirements contradict"),
        ("script", "install.py failed: exit status: 3"),
        ("later", "requires ComfyUI >=99, and this is 0.3.64"),
    ] {
        let node = place.node(name);
        assert_eq!(node["state"], "incomplete", "{node:#}");
        assert!(
            node["problems"][0].as_str().unwrap().contains(why),
            "{node:#}"
        );
    }
    assert_eq!(place.node("good")["state"], "installed");
    assert_eq!(place.report()["standing"], "installed");
}

#[test]
fn a_package_that_the_tree_forgets_to_require_is_installed_on_the_way() {
    let place = Place::new();
    let main = place.repo("ComfyUI").join("main.py");
    let text = std::fs::read_to_string(&main).unwrap();
    std::fs::write(
        &main,
        text.replace("import smallcore", "import requests\nimport smallcore"),
    )
    .unwrap();
    place.commit("ComfyUI", "needs requests");
    place.install().ok();
    assert!(
        place.lock()["packages"]
            .as_array()
            .unwrap()
            .contains(&json!("requests==1.0"))
    );
}

#[test]
fn a_full_disk_is_named_and_the_install_goes_on_when_there_is_room() {
    let place = Place::new();
    let workspace = place.home.apps().parent().unwrap().join("small");
    let Some(disk) = SmallDisk::mount(&workspace, "40m") else {
        return;
    };
    let small = workspace.to_str().unwrap();
    let settings = place.workspace().join("fornax.json");
    std::fs::copy(&settings, workspace.join("fornax.json")).unwrap();
    let install = ["comfyui", "install", "--cpu", "--workspace", small];
    place
        .home
        .run(&install)
        .fails("the disk of")
        .says("MB free");
    drop(disk);
    let disk = SmallDisk::mount(&workspace, "80m").unwrap();
    std::fs::copy(
        place.workspace().join("fornax.json"),
        workspace.join("fornax.json"),
    )
    .unwrap();
    // Room at the beginning, and none half way.
    let mut child = place
        .home
        .command(place.home.program(), &install)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the environment is begun", || {
        workspace.join("builds/0001/venv").exists().then_some(())
    });
    let ballast = disk.fill();
    let mut said = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(
        said.contains("disk is full") || said.contains("No space left"),
        "{said}"
    );
    std::fs::remove_file(ballast).unwrap();
    place.home.run(&install).ok();
    place.home.run(&install).ok().says("nothing was changed");
}

#[test]
fn up_installs_by_itself_shows_it_and_changes_nothing_the_second_time() {
    let place = Place::with(&[("FORNAX_HTTP", "127.0.0.1:0")]);
    let pack = place.repository("pack", "pack");
    place.nodes(json!([{"name": "pack", "url": pack, "requirements": true}]));
    let base = free_ports(2);
    let (base, url) = (base.to_string(), format!("127.0.0.1:{base}"));
    let up = ["up", "--cpu", "--gpus", "0,1", "--base-port", &base];
    let ran = place.home.run(&up).ok();
    for words in [
        "comfyui-install starting      clone (",
        "comfyui-install starting      validate (",
        "comfyui-install healthy       completed",
        "comfyui-gpu1   starting      waiting for comfyui-install to be completed",
        "All 3 services are ready",
    ] {
        assert!(ran.out.contains(words), "{words}: {ran:#?}");
    }
    let (_, stats) = support::home::get(&url, "/system_stats");
    assert!(stats.contains("/builds/0001/ComfyUI"), "{stats}");
    let pids = [
        place.home.pid("comfyui-gpu0"),
        place.home.pid("comfyui-gpu1"),
    ];
    let before = look(&place.workspace().join("builds"));
    place
        .home
        .run(&up)
        .ok()
        .says("ComfyUI is installed as wanted");
    assert_eq!(look(&place.workspace().join("builds")), before);
    assert_eq!(
        [
            place.home.pid("comfyui-gpu0"),
            place.home.pid("comfyui-gpu1")
        ],
        pids
    );

    // A mere switch does not reach into what runs; the next start takes it.
    place.set_version("0.3.65");
    place.comfyui(&["update", "--cpu", "--no-canary"]).ok();
    assert!(
        support::home::get(&url, "/system_stats")
            .1
            .contains("0.3.64")
    );
    place.home.run(&["restart", "comfyui-gpu0"]).ok();
    eventually("the new build runs", || {
        std::net::TcpStream::connect(&url).ok()?;
        let (_, stats) = support::home::get(&url, "/system_stats");
        (stats.contains("0.3.65") && stats.contains("/builds/0002/")).then_some(())
    });
    place.home.run(&["down"]).ok();
}

#[test]
fn up_tells_why_an_install_failed() {
    let place = Place::new();
    place.settings(json!({"repository": "/nowhere/at/all"}));
    place
        .home
        .run(&["up", "--cpu", "--base-port", &free_ports(1).to_string()])
        .fails("comfyui-install has ended: exit code 1")
        .says("there is no such repository; check the URL");
}

#[test]
fn a_tree_made_by_hand_is_left_alone() {
    let place = Place::new();
    std::fs::create_dir(place.workspace().join("ComfyUI")).unwrap();
    place
        .install()
        .fails("was not made by fornax and is left as it is");
    assert_eq!(place.report()["standing"], "by_hand");
}

#[test]
fn uv_is_used_where_it_is() {
    if Command::new("uv").arg("--version").output().is_err() {
        println!("NOT RUN: there is no uv in PATH");
        return;
    }
    let place = Place::new();
    let pack = place.repository("pack", "pack");
    place.nodes(json!([{"name": "pack", "url": pack, "requirements": true}]));
    place.settings(json!({"installer": "uv"}));
    place.install().ok();
    assert_eq!(place.node("pack")["state"], "installed");
    let log = std::fs::read_to_string(place.workspace().join(".fornax/install.log")).unwrap();
    assert!(log.contains("/uv pip install --python"), "{log}");
}

#[test]
fn failed_nodes_and_models_are_told_on_9090_by_name() {
    let place = Place::with(&[
        ("FORNAX_HTTP", "127.0.0.1:0"),
        ("FORNAX_SIMULATOR", env!("CARGO_BIN_EXE_fornax")),
    ]);
    let pack = place.repository("pack", "pack");
    place.repository("pack-broken", "broken");
    place.nodes(json!([
        {"name": "pack", "url": pack, "requirements": true},
        {"name": "broken", "url": place.repo("broken")},
        {"name": "nowhere", "url": place.repo("nowhere")},
    ]));
    let server = ModelServer::new();
    let body: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    server.put("/good.safetensors", Served::plain(body));
    let gate = Arc::new(Gate::default());
    let slow = Served {
        gate: Some((1_000, Arc::clone(&gate))),
        ..Served::plain(vec![7; 5_000])
    };
    server.put("/slow.safetensors", slow);
    let models = json!({"models": [
        {"folder": "loras", "url": server.url("/good.safetensors")},
        {"folder": "vae", "url": server.url("/none.safetensors")},
    ]});
    let manifest = place.workspace().join("models.json");
    std::fs::write(&manifest, models.to_string()).unwrap();
    let base = free_ports(1).to_string();
    place.home.run(&["up", "--cpu", "--base-port", &base]).ok();
    let ask = |path: &str| -> Value { serde_json::from_str(&place.home.get(path).1).unwrap() };
    let told = eventually("the installation is told", || {
        let told = ask("/health/comfyui/installation");
        (told["install"]["state"] == "done" && told["nodes"]["total"] == 3).then_some(told)
    });
    assert_eq!(
        (&told["status"], &told["build"]),
        (&json!("installed"), &json!("0001"))
    );
    assert_eq!(told["commit"], place.lock()["repository"]["commit"]);
    let troubled = told["nodes"]["troubled"].as_array().unwrap();
    let problem = |name: &str| {
        let node = troubled.iter().find(|node| node["name"] == name).unwrap();
        (node["state"].clone(), node["problems"].to_string())
    };
    assert_eq!(troubled.len(), 2, "{told}");
    assert_eq!(problem("broken").0, "import_failed");
    assert_eq!(problem("nowhere").0, "failed");
    assert!(problem("nowhere").1.contains("there is no such repository"));
    let store = eventually("the models are told", || {
        let told = ask("/health/comfyui/models")["store"].clone();
        (told["there"] == 1 && told["pulls"][0]["state"] == "failed").then_some(told)
    });
    assert_eq!(
        (&store["wanted"], &store["bytes"]),
        (&json!(2), &json!(200_000))
    );
    assert_eq!(store["files"][0]["file"], "vae/none.safetensors");
    assert_eq!(store["files"][0]["state"], "missing");
    let why = store["pulls"][0]["failures"]["vae/none.safetensors"]
        .as_str()
        .unwrap();
    assert!(why.contains("404"), "{why}");

    // A pull by hand shows while it comes, and so does one that is killed.
    let models = json!({"models": [{"folder": "vae", "url": server.url("/slow.safetensors")}]});
    std::fs::write(&manifest, models.to_string()).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_fornax"));
    let pull = ["comfyui", "models", "pull"];
    let mut pulls = place
        .home
        .command(program, &pull)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the download shows", || {
        let told = ask("/health/comfyui/models")["store"]["pulls"][0].clone();
        let coming = &told["coming"]["vae/slow.safetensors"];
        (told["state"] == "running" && coming["total"] == 5_000).then_some(())
    });
    pulls.kill().unwrap();
    pulls.wait().unwrap();
    eventually("its end shows", || {
        let told = ask("/health/comfyui/models")["store"]["pulls"][0].clone();
        (told["state"] == "broken_off").then_some(())
    });
    gate.open();
    place.home.run(&pull).ok();
    eventually("the model is there", || {
        (ask("/health/comfyui/models")["store"]["there"] == 1).then_some(())
    });
    place.home.run(&["down"]).ok();
}

#[test]
fn a_flag_that_the_tree_does_not_know_is_named_before_anything_runs_with_it() {
    let place = Place::new();
    // A flag that no source file spells: only the tree's own --help tells of it.
    let args = place.repo("ComfyUI").join("comfy/cli_args.py");
    let text = std::fs::read_to_string(&args).unwrap();
    let made =
        "for name in ['ake', 'oke']:\n    parser.add_argument('--' + 'br' + name)\nargs = parser";
    std::fs::write(&args, text.replacen("args = parser", made, 1)).unwrap();
    place.commit("ComfyUI", "made");
    place.settings(json!({"arguments": "--brake 1 --previw-method auto"}));
    place
        .install()
        .fails("this ComfyUI does not know --previw-method (did you mean --preview-method?)");
    place.settings(json!({"arguments": "--brake 1", "instances": {"1": {"arguments": "--nope"}}}));
    place.install().fails("this ComfyUI does not know --nope");
    place.settings(json!({"arguments": "--brake 1"}));
    place.install().ok();
    let ecosystem = place.comfyui(&["ecosystem", "--cpu"]).ok();
    assert!(ecosystem.out.contains("--brake"));
    // With it installed, it is told at once, and what runs is let be.
    place.settings(json!({"arguments": "--broke 1 --brake 2 --nope"}));
    place
        .home
        .run(&["up", "--cpu", "--base-port", &free_ports(1).to_string()])
        .fails("this ComfyUI does not know --nope");
}
