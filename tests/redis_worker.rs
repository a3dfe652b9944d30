//! `fornax worker` on a real Redis, with machines of simulated ComfyUIs: what dies meanwhile costs no job.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::collections::HashMap;
use support::eventually;
use support::home::{kill, lives};
use support::jobs::{Machine, graph};
use support::redis::{PASSWORD, Redis, Worker};

/// A short lease, as a machine is to be given up soon.
const LEASE: [&str; 2] = ["--lease", "4s"];

fn put(redis: &Redis, from: u32, count: u32) {
    for number in from..from + count {
        let (id, job) = (format!("order {number}"), graph(number).to_string());
        redis.add(&[("id", &id), ("job", &job)]);
    }
}

/// How many prompts the instances of a machine say that they have executed to the end.
fn executed(machine: &Machine) -> usize {
    let logs = std::fs::read_dir(machine.home.root().join("logs")).unwrap();
    let texts = logs
        .flatten()
        .map(|file| std::fs::read_to_string(file.path()).unwrap_or_default());
    texts
        .map(|text| text.matches("Prompt executed in").count())
        .sum()
}

/// Each of these jobs has one result, is done, and its picture is in Redis.
fn all_is_there(redis: &Redis, count: u32) {
    let results = redis.results(count as usize);
    let mut ids: HashMap<&str, usize> = HashMap::new();
    for result in &results {
        *ids.entry(&result["id"]).or_default() += 1;
        assert_eq!(result["state"], "done", "{result:#?}");
    }
    for number in 0..count {
        let id = format!("order {number}");
        assert_eq!(
            ids.get(id.as_str()),
            Some(&1),
            "{id} has not one result: {results:#?}"
        );
        let job = redis.hash(&format!("fornax:job:{id}"));
        assert_eq!(job["state"], "done");
        let outputs: Value = serde_json::from_str(&job["outputs"]).unwrap();
        let output = &outputs[0];
        let key = format!("fornax:outputs:{id}");
        let picture: Vec<u8> = redis.ask(&["HGET", &key, output["name"].as_str().unwrap()]);
        assert!(picture.starts_with(b"\x89PNG"));
        assert_eq!(picture.len() as u64, output["bytes"].as_u64().unwrap());
    }
    eventually("nothing is pending", || {
        redis.pending().is_empty().then_some(())
    });
    assert_eq!(redis.ask::<usize>(&["XLEN", "fornax:jobs"]), 0);
}

/// The machine's power is cut: everything of it ends at once.
fn cut(machine: &Machine) {
    eventually("nothing of the machine lives", || {
        let all = machine.home.processes();
        for pid in &all {
            kill(*pid, 9);
        }
        all.iter().all(|pid| !lives(*pid)).then_some(())
    });
}

#[test]
fn two_machines_share_one_queue_and_killing_one_loses_nothing() {
    let Some(redis) = Redis::start(false) else {
        return;
    };
    let flags = ["--seconds 0.3 --steps 3"; 2];
    let (one, two) = (Machine::new(&flags, &[]), Machine::new(&flags, &[]));
    put(&redis, 0, 24);
    let mut first = Worker::start(&one.home, &redis, "one", &LEASE);
    let _second = Worker::start(&two.home, &redis, "two", &LEASE);
    redis.results(4);
    let both: usize = eventually("both work", || {
        let machines: Vec<String> = redis
            .stream("fornax:results")
            .into_iter()
            .map(|result| result["machine"].clone())
            .collect();
        let at = |name: &str| machines.iter().filter(|machine| *machine == name).count();
        (at("one") > 0 && at("two") > 0).then_some(machines.len())
    });
    assert!(both < 24, "all was done before anything was killed");
    // A worker that is killed and started again goes on with what it had, and nothing is run twice for it.
    first.stop(9);
    drop(first);
    let first = Worker::start(&one.home, &redis, "one", &LEASE);
    all_is_there(&redis, 24);
    assert_eq!(
        executed(&one) + executed(&two),
        24,
        "something was run twice"
    );
    // The whole machine dies at work: the other one does what it had, once its leases are over.
    put(&redis, 24, 16);
    first.until_it_says("claimed order 2");
    eventually("the first machine works at it", || {
        (redis.pending().get("one") > Some(&1) && executed(&one) > 0).then_some(())
    });
    let had = redis.pending()["one"];
    cut(&one);
    all_is_there(&redis, 40);
    let (here, there) = (executed(&one), executed(&two));
    assert!(
        here + there <= 40 + had,
        "{here} and {there}, with {had} in work at the cut"
    );
    drop(first);
}

#[test]
fn results_wait_for_a_redis_that_is_gone_and_nothing_is_done_twice() {
    let Some(mut redis) = Redis::start(false) else {
        return;
    };
    let machine = Machine::new(&["--seconds 0.5", "--seconds 0.5"], &[]);
    put(&redis, 0, 8);
    let worker = Worker::start(&machine.home, &redis, "one", &LEASE);
    redis.results(1);
    eventually("jobs are in work", || {
        (redis.pending().get("one") > Some(&2)).then_some(())
    });
    redis.end();
    worker.until_it_says("cannot be reached");
    eventually("what was in work is done here", || {
        let jobs = machine.ask("GET", "/jobs?limit=100", "", b"").json();
        let all = jobs["jobs"].as_array().unwrap().clone();
        all.iter().all(|job| job["state"] == "done").then_some(())
    });
    redis.begin();
    worker.until_it_says("is there again");
    all_is_there(&redis, 8);
    assert_eq!(executed(&machine), 8, "something was run twice");
    assert!(!worker.log().contains(PASSWORD));
}

#[test]
fn what_is_no_job_and_what_kills_its_machines_are_dead_letters_and_stop_nobody() {
    let Some(redis) = Redis::start(false) else {
        return;
    };
    let poison = "--seconds 0.2 --fault crash-during=1";
    let (sick, sound) = (
        Machine::new(&[poison], &[]),
        Machine::new(&["--seconds 0.2"], &[]),
    );
    redis.add(&[("id", "half"), ("job", "{\"1\":")]);
    redis.add(&[("note", "no job at all")]);
    // Claimed five times by machines that are no more.
    let often = redis.add(&[("id", "often"), ("job", &graph(1).to_string())]);
    redis.ask::<()>(&["XGROUP", "CREATE", "fornax:jobs", "fornax", "0"]);
    redis.ask::<redis::Value>(&[
        "XREADGROUP",
        "GROUP",
        "fornax",
        "gone",
        "STREAMS",
        "fornax:jobs",
        ">",
    ]);
    redis.ask::<redis::Value>(&[
        "XCLAIM",
        "fornax:jobs",
        "fornax",
        "gone",
        "0",
        &often,
        "IDLE",
        "60000",
        "RETRYCOUNT",
        "5",
        "JUSTID",
    ]);
    redis.add(&[
        ("id", "twice"),
        (
            "job",
            &json!({"workflow": graph(2), "surprise": 1}).to_string(),
        ),
    ]);
    let mut worker = Worker::start(&sick.home, &redis, "sick", &LEASE);
    worker.until_it_says("often is dead");
    redis.add(&[("id", "killer"), ("job", &graph(3).to_string())]);
    let killed = eventually("the killer's result", || {
        redis
            .stream("fornax:results")
            .into_iter()
            .find(|result| result["id"] == "killer")
    });
    assert_eq!(killed["state"], "dead", "{killed:#?}");
    let attempts: Value = serde_json::from_str(&killed["attempts"]).unwrap();
    assert_eq!(attempts.as_array().unwrap().len(), 2, "{attempts}");
    assert_eq!(worker.stop(15), Some(0));
    let _other = Worker::start(&sound.home, &redis, "sound", &LEASE);
    put(&redis, 0, 2);
    let results = redis.results(7);
    let of = |id: &str| results.iter().find(|result| result["id"] == id).unwrap();
    assert_eq!(
        (
            of("order 0")["state"].as_str(),
            of("order 1")["state"].as_str()
        ),
        ("done", "done")
    );
    let dead: HashMap<String, String> = redis
        .stream("fornax:dead")
        .into_iter()
        .map(|letter| (letter["id"].clone(), letter["reason"].clone()))
        .collect();
    assert_eq!(dead.len(), 5, "{dead:#?}");
    for (id, words) in [
        ("half", "not JSON"),
        ("often", "claimed 5 times"),
        ("twice", "surprise"),
        ("killer", "2 instances died"),
    ] {
        assert!(dead[id].contains(words), "{dead:#?}");
    }
    let letters = redis.stream("fornax:dead");
    let half = letters
        .iter()
        .find(|letter| letter["id"] == "half")
        .unwrap();
    assert_eq!(half["entry.job"], "{\"1\":", "as it came");
}

#[test]
fn a_worker_that_is_stopped_returns_its_jobs_and_another_machine_does_them_at_once() {
    let Some(redis) = Redis::start(false) else {
        return;
    };
    let (slow, quick) = (
        Machine::new(&["--seconds 40 --steps 400"], &[]),
        Machine::new(&["--seconds 0.2"], &[]),
    );
    // With a lease of an hour nothing is taken over but what is given back.
    let lease = ["--lease", "1h"];
    let mut first = Worker::start(&slow.home, &redis, "slow", &lease);
    put(&redis, 0, 2);
    eventually("one of them runs", || {
        let states: Vec<String> = (0..2)
            .filter_map(|number| {
                redis
                    .hash(&format!("fornax:job:order {number}"))
                    .remove("state")
            })
            .collect();
        states.iter().any(|state| state == "running").then_some(())
    });
    assert_eq!(first.stop(15), Some(0));
    assert_eq!(redis.pending(), HashMap::from([("-".to_owned(), 2)]));
    assert_eq!(redis.ask::<usize>(&["EXISTS", "fornax:machine:slow"]), 0);
    let _second = Worker::start(&quick.home, &redis, "quick", &lease);
    all_is_there(&redis, 2);
    assert_eq!(redis.stream("fornax:dead").len(), 0);
    // The first machine has let go of them.
    let jobs = eventually("they are cancelled there", || {
        let jobs = slow.ask("GET", "/jobs", "", b"").json();
        let all = jobs["jobs"].as_array().unwrap().clone();
        all.iter()
            .all(|job| job["state"] == "cancelled")
            .then_some(all)
    });
    assert_eq!(jobs.len(), 2);
}

#[test]
fn a_job_goes_only_where_it_can_be_done_and_only_while_something_is_healthy() {
    let Some(redis) = Redis::start(false) else {
        return;
    };
    let machine = Machine::new(&["--seconds 0.1"], &[]);
    machine.home.run(&["stop", "gpu0"]).ok();
    let worker = Worker::start(&machine.home, &redis, "one", &LEASE);
    worker.until_it_says("0 of 1 ComfyUIs take jobs; gpu0 is stopped");
    put(&redis, 0, 1);
    redis.add(&[
        ("id", "other"),
        (
            "job",
            &json!({"1": {"class_type": "NoSuchNode", "inputs": {}}}).to_string(),
        ),
    ]);
    redis.add(&[
        ("id", "large"),
        ("job", &graph(7).to_string()),
        ("requires", r#"{"vram": "4000G"}"#),
    ]);
    let told = eventually("it tells why", || {
        Some(redis.hash("fornax:machine:one"))
            .filter(|told| told.get("taking").map(String::as_str) == Some("0"))
    });
    assert!(told["why"].contains("gpu0 is stopped"), "{told:#?}");
    assert!(redis.pending().is_empty(), "claimed for nobody");
    machine.home.run(&["start", "gpu0"]).ok();
    all_of(&redis, "order 0", "done");
    worker.until_it_says("other is not for this machine: gpu0 lacks the node class NoSuchNode");
    worker.until_it_says("large is not for this machine");
    assert_eq!(redis.pending(), HashMap::from([("-".to_owned(), 2)]));
    let told = redis.hash("fornax:machine:one");
    let (nodes, instances): (Vec<String>, Value) = (
        serde_json::from_str(&told["nodes"]).unwrap(),
        serde_json::from_str(&told["instances"]).unwrap(),
    );
    assert!(nodes.iter().any(|node| node == "EmptyImage"), "{nodes:?}");
    assert!(
        instances[0]["vram_total"].as_u64() > Some(1 << 30),
        "{instances}"
    );
    assert!(told["models"].starts_with('{'), "{}", told["models"]);
    // One of each home only.
    let again = machine.home.run(&["worker", "--redis", &redis.url()]);
    again.fails("runs in").says("already");
}

/// Waits for one job's result.
fn all_of(redis: &Redis, id: &str, state: &str) {
    let result = eventually(&format!("a result of {id}"), || {
        redis
            .stream("fornax:results")
            .into_iter()
            .find(|result| result["id"] == id)
    });
    assert_eq!(result["state"], state, "{result:#?}");
}

#[test]
fn a_job_that_is_not_to_run_twice_is_dead_when_its_machine_is_lost() {
    let Some(redis) = Redis::start(false) else {
        return;
    };
    let (one, two) = (
        Machine::new(&["--seconds 30"], &[]),
        Machine::new(&["--seconds 0.1"], &[]),
    );
    redis.add(&[
        ("id", "once"),
        ("job", &graph(1).to_string()),
        ("once", "true"),
    ]);
    let worker = Worker::start(&one.home, &redis, "one", &LEASE);
    eventually("it runs", || {
        let state = redis.hash("fornax:job:once").remove("state");
        (state.as_deref() == Some("running")).then_some(())
    });
    cut(&one);
    drop(worker);
    let _second = Worker::start(&two.home, &redis, "two", &LEASE);
    all_of(&redis, "once", "dead");
    let letter = redis.stream("fornax:dead").remove(0);
    assert!(
        letter["reason"].contains("one had it and was lost"),
        "{letter:#?}"
    );
    assert_eq!(executed(&two), 0);
}

#[test]
fn with_tls_the_server_is_known_by_its_authority_and_the_password_is_shown_nowhere() {
    let Some(redis) = Redis::start(true) else {
        return;
    };
    let machine = Machine::new(&["--seconds 0.1"], &[]);
    put(&redis, 0, 1);
    let mut stranger = Worker::start(&machine.home, &redis, "stranger", &LEASE);
    stranger.until_it_says("cannot be reached");
    assert_eq!(stranger.stop(15), Some(0));
    assert!(redis.stream("fornax:results").is_empty());
    let ca = redis.ca();
    let more = [LEASE[0], LEASE[1], "--ca", ca.to_str().unwrap()];
    let worker = Worker::start(&machine.home, &redis, "one", &more);
    all_is_there(&redis, 1);
    for log in [stranger.log(), worker.log()] {
        assert!(
            log.contains("rediss://localhost:") && !log.contains(PASSWORD),
            "{log}"
        );
    }
    let none = machine
        .home
        .run(&["worker", "--redis", &format!("redis://:{PASSWORD}@[")]);
    let said = format!("{}{}", none.out, none.err);
    assert!(
        none.code == 1 && !said.contains(PASSWORD) && said.contains("redis://[USER"),
        "{said}"
    );
}
