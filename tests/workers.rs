//! The example workers, on a machine of simulated ComfyUIs: what is killed or stopped meanwhile costs no item.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use support::eventually;
use support::home::kill;
use support::jobs::{Machine, graph};

const NODE: (&str, &str) = ("node", "examples/worker-node/worker.js");
const PYTHON: (&str, &str) = ("python3", "examples/worker-python/worker.py");
const FLAGS: [&str; 2] = ["--seconds 0.5 --steps 3"; 2];

/// A worker that runs; killed at the end of the test.
struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    fn start(machine: &Machine, (program, script): (&str, &str), name: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
        let log = machine.home.apps().join(format!("{name}.log"));
        let child = machine
            .home
            .command(Path::new(program), &[script.to_str().unwrap()])
            .env("FORNAX_URL", format!("http://{}", machine.address))
            .env("WORK_DIR", work(machine))
            .env("WORKER_NAME", name)
            .env("WORKER_LEASE_SECONDS", "4")
            .stdout(std::fs::File::create(&log).unwrap())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn until_it_says(&self, words: &str) {
        eventually(&format!("the worker says {words:?}"), || {
            let text = std::fs::read_to_string(&self.log).unwrap();
            text.contains(words).then_some(())
        });
    }

    fn stop(&mut self, signal: i32) -> Option<i32> {
        kill(self.child.id(), signal);
        eventually("the worker ends", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It has usually ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_missing((program, _): (&str, &str)) -> bool {
    let ran = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    let missing = !ran.is_ok_and(|status| status.success());
    if missing {
        println!("NOT RUN: no {program} in PATH, so none of its workers");
    }
    missing
}

fn work(machine: &Machine) -> PathBuf {
    machine.home.apps().join("work")
}

/// The JSON files of one of the worker's folders.
fn names(machine: &Machine, folder: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(work(machine).join(folder)) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".json"))
        .collect();
    names.sort();
    names
}

fn until_done(machine: &Machine, count: usize) {
    eventually(&format!("{count} items are done"), || {
        (names(machine, "done").len() >= count).then_some(())
    });
}

fn put(machine: &Machine, count: u32) {
    let folder = work(machine).join("new");
    std::fs::create_dir_all(&folder).unwrap();
    for number in 0..count {
        let item = serde_json::to_string_pretty(&graph(number)).unwrap();
        std::fs::write(folder.join(format!("item{number}.json")), item).unwrap();
    }
}

/// Each item has its output, was one job, and nothing is left over.
fn all_is_there(machine: &Machine, count: u32) {
    let jobs = machine.ask("GET", "/jobs?limit=1000", "", b"").json();
    assert_eq!(jobs["count"], count, "an item was two jobs: {jobs:#}");
    for number in 0..count {
        let file = format!("outputs/item{number}/pic_00001_.png");
        let picture = std::fs::read(work(machine).join(&file)).unwrap();
        assert!(picture.starts_with(b"\x89PNG"), "{file}");
    }
    assert_eq!(names(machine, "new"), [""; 0]);
    assert_eq!(names(machine, "done").len(), count as usize);
}

/// Shoots the instance that works.
fn shoot_one_at_work(machine: &Machine) {
    let instance = eventually("a job runs", || {
        let jobs = machine.ask("GET", "/jobs?state=running", "", b"").json();
        let attempts = jobs["jobs"][0]["attempts"].as_array()?;
        Some(attempts.last()?["instance"].as_str()?.to_owned())
    });
    machine.shoot(&instance);
}

fn an_instance_is_shot_and_a_worker_stopped(kind: (&str, &str)) {
    if is_missing(kind) {
        return;
    }
    let machine = Machine::new(&FLAGS, &[]);
    put(&machine, 12);
    std::fs::write(work(&machine).join("new/broken.json"), "{").unwrap();
    machine.home.run(&["stop", "gpu0", "gpu1"]).ok();
    let mut first = Worker::start(&machine, kind, "first");
    first.until_it_says("0 of 2 ComfyUIs take jobs");
    assert_eq!(names(&machine, "new").len(), 13, "claimed for nobody");
    machine.home.run(&["start", "gpu0"]).ok();
    first.until_it_says("1 of 2 ComfyUIs take jobs");
    until_done(&machine, 1);
    machine.home.run(&["start", "gpu1"]).ok();
    let mut second = Worker::start(&machine, kind, "second");
    second.until_it_says("claimed");
    shoot_one_at_work(&machine);
    until_done(&machine, 3);
    assert_eq!(first.stop(15), Some(0));
    assert_eq!(names(&machine, "claimed/first"), [""; 0]);
    until_done(&machine, 12);
    assert_eq!(second.stop(2), Some(0));
    all_is_there(&machine, 12);
    assert_eq!(names(&machine, "failed"), ["broken.json"]);
    let why = std::fs::read_to_string(work(&machine).join("failed/broken.json.txt")).unwrap();
    assert!(why.contains("it is no JSON"), "{why}");
}

#[test]
fn node_loses_no_item() {
    an_instance_is_shot_and_a_worker_stopped(NODE);
}

#[test]
fn python_loses_no_item() {
    an_instance_is_shot_and_a_worker_stopped(PYTHON);
}

#[test]
fn what_a_killed_worker_held_is_done_by_one_in_another_language_as_the_same_jobs() {
    if is_missing(NODE) || is_missing(PYTHON) {
        return;
    }
    let machine = Machine::new(&FLAGS, &[]);
    put(&machine, 6);
    let mut killed = Worker::start(&machine, NODE, "killed");
    killed.until_it_says(": job ");
    assert_eq!(killed.stop(9), None);
    assert_ne!(names(&machine, "claimed/killed"), [""; 0]);
    let mut heir = Worker::start(&machine, PYTHON, "heir");
    heir.until_it_says("killed has let it go");
    until_done(&machine, 6);
    assert_eq!(heir.stop(15), Some(0));
    all_is_there(&machine, 6);
}

#[test]
fn a_machine_that_refuses_gets_its_item_back_later() {
    for kind in [NODE, PYTHON] {
        if is_missing(kind) {
            continue;
        }
        let machine = Machine::new(&FLAGS[..1], &[("FORNAX_JOBS_QUEUE", "1")]);
        machine.submit(&json!({"workflow": graph(900)}));
        put(&machine, 2);
        let mut worker = Worker::start(&machine, kind, "patient");
        worker.until_it_says("returned, 429");
        until_done(&machine, 2);
        assert_eq!(worker.stop(15), Some(0));
        assert_eq!(names(&machine, "failed"), [""; 0]);
    }
}
