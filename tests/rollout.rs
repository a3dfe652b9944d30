//! Updates that one instance tries before the others take them: real git, Python and pip, a small tree whose server is the
//! simulator.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use support::home::{free_ports, kill};
use support::install::Place;
use support::{Ran, eventually};

const NAMES: [&str; 2] = ["comfyui-gpu0", "comfyui-gpu1"];

/// A workspace whose two instances run.
fn up() -> (Place, u16) {
    let place = Place::with(&[
        ("FORNAX_HTTP", "127.0.0.1:0"),
        ("FORNAX_SIMULATOR", env!("CARGO_BIN_EXE_fornax")),
    ]);
    let pack = place.repository("pack", "pack");
    place.nodes(json!([{"name": "pack", "url": pack, "requirements": true}]));
    let base = free_ports(2);
    let words = ["up", "--cpu", "--gpus", "0,1", "--base-port"];
    let base_text = base.to_string();
    let up: Vec<&str> = words.into_iter().chain([base_text.as_str()]).collect();
    place.home.run(&up).ok();
    (place, base)
}

/// The build that an instance runs.
fn build(place: &Place, name: &str) -> String {
    let cwd = std::fs::read_link(format!("/proc/{}/cwd", place.home.pid(name))).unwrap();
    let parts: Vec<&str> = cwd.to_str().unwrap().split('/').collect();
    parts[parts.len() - 2].to_owned()
}

fn builds(place: &Place) -> [String; 2] {
    NAMES.map(|name| build(place, name))
}

fn told(place: &Place, path: &str) -> Value {
    serde_json::from_str(&place.home.get(path).1).unwrap()
}

fn current(place: &Place) -> String {
    let to = std::fs::read_link(place.workspace().join("builds/current")).unwrap();
    to.to_str().unwrap().to_owned()
}

/// As it was before the update: both run, take jobs, and nothing is left of the trial.
fn is_as_before(place: &Place, pids: [u32; 2]) {
    assert_eq!(builds(place), ["0001", "0001"]);
    assert_eq!(current(place), "0001");
    assert!(!place.workspace().join("builds/trial").exists());
    assert!(!place.workspace().join("builds/previous").exists());
    assert_eq!(
        place.home.pid(NAMES[1]),
        pids[1],
        "the other was not touched"
    );
    for service in told(place, "/services")["services"].as_array().unwrap() {
        assert_eq!(service["status"], "healthy", "{service}");
        assert_ne!(service["draining"], true, "{service}");
    }
}

fn pids(place: &Place) -> [u32; 2] {
    NAMES.map(|name| place.home.pid(name))
}

fn update(place: &Place) -> Ran {
    place.comfyui(&["update", "--cpu"])
}

#[test]
fn a_good_update_is_tried_by_one_and_then_taken_by_all_and_rolled_back_one_by_one() {
    let (place, base) = up();
    assert_eq!(builds(&place), ["0001", "0001"]);
    update(&place).ok().says("nothing is newer");
    place.set_version("0.3.65");
    let before = pids(&place);
    let ran = update(&place).ok();
    for words in [
        "comfyui-gpu0 tries build 0002",
        "comfyui-gpu0 runs a canary job",
        "from now on every start is of build 0002",
        "comfyui-gpu1 is being restarted",
        "build 0002 runs, on 2 instances",
    ] {
        let log = place.home.read("pm2.log");
        assert!(log.contains(words), "{words}: {ran:#?}");
    }
    assert_eq!(builds(&place), ["0002", "0002"]);
    assert!(pids(&place).iter().all(|pid| !before.contains(pid)));
    assert_eq!(place.version(), "0.3.65");
    assert!(!place.workspace().join("builds/trial").exists());
    let state = told(&place, "/comfyui/rollout");
    assert_eq!(
        (&state["state"], &state["error"]),
        (&json!("done"), &Value::Null)
    );
    assert_eq!(state["renewed"], json!(NAMES));

    // Between jobs: the one with a job is restarted when that has ended, and its job is done.
    let workflow = place.home.app("job.json", &json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 7}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }).to_string());
    let ids: Vec<String> = (0..4)
        .map(|n| {
            let set = format!("1.color={n}");
            let ran = place
                .home
                .run(&["run", &workflow, "--set", &set, "--detach"])
                .ok();
            ran.out.trim().to_owned()
        })
        .collect();
    place
        .comfyui(&["rollback"])
        .ok()
        .says("build 0001 runs, on 2 instances");
    assert_eq!(builds(&place), ["0001", "0001"]);
    assert_eq!(place.version(), "0.3.64");
    for id in ids {
        let job = eventually("the job is done", || {
            let job = told(&place, &format!("/jobs/{id}"));
            (job["state"] == "done").then_some(job)
        });
        assert_eq!(
            job["attempts"].as_array().unwrap().len(),
            1,
            "no job was thrown away: {job}"
        );
    }
    let _ = base;
    place.home.run(&["down"]).ok();
}

#[test]
fn a_build_whose_pack_does_not_import_any_more_is_taken_back() {
    let (place, _) = up();
    let before = pids(&place);
    std::fs::write(
        place.repo("pack").join("__init__.py"),
        "raise RuntimeError('worse than before')\n",
    )
    .unwrap();
    place.commit("pack", "broken");
    update(&place).fails("pack does not import any more, and did before");
    is_as_before(&place, before);
    let state = told(&place, "/comfyui/rollout");
    assert_eq!(state["state"], "failed");
    let why = "pack does not import any more";
    assert!(state["error"].as_str().unwrap().contains(why), "{state}");
    assert!(place.home.read("pm2.log").contains(why));
    // It can be mended, and is then taken.
    std::fs::write(
        place.repo("pack").join("__init__.py"),
        "NODE_CLASS_MAPPINGS = {}\n",
    )
    .unwrap();
    place.commit("pack", "mended");
    update(&place).ok();
    let ids = builds(&place);
    assert!(ids[0] == ids[1] && ids[0] != "0001", "{ids:?}");
    place.home.run(&["down"]).ok();
}

#[test]
fn a_build_whose_server_dies_or_whose_jobs_fail_is_taken_back() {
    let (place, _) = up();
    let before = pids(&place);
    let faults = |text: &str| {
        std::fs::write(place.repo("ComfyUI").join("faults"), text).unwrap();
        place.commit("ComfyUI", text);
    };
    faults("no-driver");
    update(&place).fails("comfyui-gpu0 has ended: exit code 1");
    is_as_before(&place, before);
    faults("cuda-poisoned");
    update(&place).fails("the canary job of comfyui-gpu0 did not pass");
    is_as_before(&place, before);
    place.home.run(&["down"]).ok();
}

#[test]
fn a_rollout_outlives_the_command_and_the_daemon() {
    let (place, _) = up();
    place.set_version("0.3.65");
    // The canary takes its time, so that there is a middle.
    let slow = "import time\ntime.sleep(3)\nNODE_CLASS_MAPPINGS = {}\n";
    std::fs::write(place.repo("pack").join("__init__.py"), slow).unwrap();
    place.commit("pack", "slow");
    let program = Path::new(env!("CARGO_BIN_EXE_fornax"));
    let mut command = place.home.command(program, &["comfyui", "update", "--cpu"]);
    let mut asked = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the canary is being restarted", || {
        let state = told(&place, "/comfyui/rollout");
        (state["state"] == "trying" && state["drained"] == json!([NAMES[0]])).then_some(())
    });
    asked.kill().unwrap();
    asked.wait().unwrap();
    let daemon = place.home.daemon_pid().unwrap();
    kill(daemon, 9);
    eventually("the next daemon serves", || {
        place.home.daemon_pid().filter(|pid| *pid != daemon)
    });
    eventually("both run the new build", || {
        let state = std::fs::read_to_string(place.workspace().join(".fornax/rollout.json")).ok()?;
        state.contains("\"done\"").then_some(())
    });
    assert_eq!(builds(&place), ["0002", "0002"]);
    for service in told(&place, "/services")["services"].as_array().unwrap() {
        assert_ne!(service["draining"], true, "{service}");
    }
    place.home.run(&["down"]).ok();
}
