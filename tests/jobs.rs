//! Jobs on a machine of simulated ComfyUIs: the real daemon, real instances, killed as they come.

#![allow(clippy::unwrap_used)]

mod support;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::time::Duration;
use support::disk::SmallDisk;
use support::eventually;
use support::jobs::{Machine, graph};

fn job(workflow: Value) -> Value {
    json!({"workflow": workflow})
}

fn kinds(job: &Value) -> Vec<&str> {
    let attempts = job["attempts"].as_array().unwrap();
    attempts
        .iter()
        .map(|attempt| attempt["outcome"]["kind"].as_str().unwrap_or("-"))
        .collect()
}

#[test]
fn a_job_goes_from_its_workflow_to_its_picture_and_a_key_is_one_job() {
    let machine = Machine::new(&["--seconds 0.2 --steps 3"], &[]);
    assert_eq!(machine.ask("GET", "/jobs", "", b"").json()["count"], 0);
    assert!(
        !machine.home.root().join("jobs").exists(),
        "a question made a store"
    );
    let mut wanted = job(graph(1));
    wanted["idempotency_key"] = json!("order 7");
    let id = machine.submit(&wanted);
    let events = machine.ask("GET", &format!("/jobs/{id}/events"), "", b"");
    let text = String::from_utf8(events.body).unwrap();
    assert!(
        text.contains("event: progress") && text.contains("event: done"),
        "{text}"
    );
    let done = machine.until(&id, &["done"]);
    machine.is_done(&done);
    assert_eq!(kinds(&done), ["success"]);
    assert_eq!(done["outputs"][0]["name"], "pic_00001_.png");
    // Nothing is left with the instance: the store has it.
    eventually("the instance's copy is gone", || {
        let left = std::fs::read_dir(machine.home.apps().join("gpu0/output")).unwrap();
        (left
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("fornax-"))
            .count()
            == 0)
            .then_some(())
    });
    let again = machine.post(&wanted);
    assert_eq!(
        (again.status, again.json()["id"].as_str()),
        (200, Some(id.as_str()))
    );
    let other = machine.post(&json!({"workflow": graph(2), "idempotency_key": "order 7"}));
    assert_eq!(other.status, 409);
    assert_eq!(machine.output(&id, "..%2f..%2f..%2fhttp.token").status, 404);
    assert_eq!(machine.output("..", "x").status, 404);
    assert_eq!(machine.ask("GET", "/jobs/nonsense", "", b"").status, 404);
    // The same graph again is executed again: its outputs are its own.
    let twin = machine.until(&machine.submit(&job(graph(1))), &["done"]);
    machine.is_done(&twin);
}

#[test]
fn an_instance_that_dies_costs_an_attempt_and_both_are_told() {
    let machine = Machine::new(&["--seconds 3", "--seconds 3"], &[]);
    let id = machine.submit(&job(graph(1)));
    let running = machine.until(&id, &["running"]);
    let first = running["attempts"][0]["instance"]
        .as_str()
        .unwrap()
        .to_owned();
    machine.shoot(&first);
    let done = machine.until(&id, &["done"]);
    machine.is_done(&done);
    assert_eq!(kinds(&done), ["instance_lost", "success"]);
    assert_eq!(done["attempts"][0]["outcome"]["running"], true);
    assert_ne!(done["attempts"][1]["instance"], first.as_str());
    assert_ne!(
        done["attempts"][0]["prompt_id"],
        done["attempts"][1]["prompt_id"]
    );
}

#[test]
fn a_job_of_one_attempt_is_never_run_again() {
    let machine = Machine::new(&["--seconds 3", "--seconds 3"], &[]);
    let id = machine.submit(&json!({"workflow": graph(1), "limits": {"attempts": 1}}));
    let running = machine.until(&id, &["running"]);
    machine.shoot(running["attempts"][0]["instance"].as_str().unwrap());
    let dead = machine.until(&id, &["dead"]);
    assert_eq!(kinds(&dead), ["instance_lost"]);
    let error = dead["error"].as_str().unwrap();
    assert!(error.contains("attempt"), "{error}");
}

#[test]
fn a_job_that_instances_die_of_is_dead_after_two_and_what_waited_there_is_not_blamed() {
    let machine = Machine::new(&["--seconds 0.5 --fault crash-during=1"], &[]);
    let poison = machine.submit(&job(graph(1)));
    let dead = machine.until(&poison, &["dead"]);
    assert_eq!(kinds(&dead), ["instance_lost", "instance_lost"]);
    assert!(
        dead["error"].as_str().unwrap().contains("2 instances died"),
        "{dead}"
    );
    assert_eq!(
        machine.ask("GET", "/jobs?state=dead", "", b"").json()["count"],
        1
    );
}

#[test]
fn a_daemon_that_is_killed_loses_nothing_and_runs_nothing_twice() {
    let mut machine = Machine::new(&["--seconds 0.4", "--seconds 0.4"], &[]);
    let ids: Vec<String> = (0..12)
        .map(|color| machine.submit(&job(graph(color))))
        .collect();
    machine.until(&ids[0], &["running", "fetching", "done"]);
    machine.shoot_daemon();
    for id in &ids {
        let done = machine.until(id, &["done"]);
        machine.is_done(&done);
        assert_eq!(kinds(&done), ["success"], "{done:#}");
    }
}

#[test]
fn what_comfyui_refuses_or_takes_in_part_is_told_with_its_nodes() {
    let machine = Machine::new(&["--seconds 0.1"], &[]);
    let unknown = machine.submit(&job(
        json!({"1": {"class_type": "NoSuchNode", "inputs": {}}}),
    ));
    let failed = machine.until(&unknown, &["failed"]);
    assert!(
        failed["error"].as_str().unwrap().contains("NoSuchNode"),
        "{failed}"
    );
    let mut half = graph(1);
    half["4"] = json!({"class_type": "SaveImage", "inputs": {"filename_prefix": "broken"}});
    let refused = machine.until(&machine.submit(&job(half.clone())), &["failed", "done"]);
    assert_eq!(
        (refused["state"].as_str(), kinds(&refused)),
        (Some("failed"), vec!["partial"])
    );
    assert!(refused["node_errors"]["4"].is_object(), "{refused}");
    let partly = json!({"workflow": half, "limits": {"partial": true}});
    machine.is_done(&machine.until(&machine.submit(&partly), &["failed", "done"]));
    for (body, status) in [
        (json!({"workflow": {"nodes": [], "links": []}}), 400),
        (json!({"workflow": []}), 400),
        (json!({"workflow": graph(1), "priority": 5000}), 400),
        (json!({"workflow": graph(1), "surprise": 1}), 400),
        (
            json!({"workflow": graph(1), "webhook": {"url": "http://169.254.169.254/"}}),
            400,
        ),
        (
            json!({"workflow": graph(1), "inputs": [{"name": "x", "data": "?"}]}),
            400,
        ),
    ] {
        assert_eq!(machine.post(&body).status, status, "{body}");
    }
    let large = machine.ask("POST", "/jobs", "", &vec![b' '; 100_000_000]);
    assert_eq!(large.status, 413);
    assert!(machine.home.get("/ready").0 == 200);
}

#[test]
fn with_nothing_healthy_a_job_waits_as_long_as_it_may_and_a_full_queue_says_so() {
    let machine = Machine::new(&[], &[("FORNAX_JOBS_QUEUE", "1")]);
    let waiting = machine.submit(&json!({"workflow": graph(1), "limits": {"queue_seconds": 3}}));
    let told = machine.job(&waiting);
    assert_eq!(told["state"], "queued");
    assert!(
        told["waits_for"]
            .as_str()
            .unwrap()
            .contains("no ComfyUI runs"),
        "{told}"
    );
    let full = machine.post(&job(graph(2)));
    assert_eq!(full.status, 429);
    assert!(full.head.contains("retry-after: 5"), "{}", full.head);
    let failed = machine.until(&waiting, &["failed"]);
    assert!(
        failed["error"]
            .as_str()
            .unwrap()
            .contains("within its limit"),
        "{failed}"
    );
    assert!(failed["attempts"].as_array().unwrap().is_empty());
}

#[test]
fn a_cancel_hits_the_named_job_only() {
    let machine = Machine::new(&["--seconds 4 --steps 40"], &[]);
    let ids: Vec<String> = (0..3)
        .map(|color| machine.submit(&job(graph(color))))
        .collect();
    machine.until(&ids[0], &["running"]);
    machine.until(&ids[1], &["placed"]);
    let cancel = |id: &str| {
        machine
            .ask("DELETE", &format!("/jobs/{id}"), "", b"")
            .status
    };
    assert_eq!(cancel(&ids[2]), 200);
    assert_eq!(machine.job(&ids[2])["state"], "cancelled");
    assert_eq!(cancel(&ids[0]), 202);
    assert_eq!(
        machine.until(&ids[0], &["cancelled", "done"])["state"],
        "cancelled"
    );
    let second = machine.until(&ids[1], &["done", "cancelled"]);
    machine.is_done(&second);
    assert_eq!(kinds(&second), ["success"]);
    assert_eq!(cancel(&ids[1]), 409);
    assert_eq!(cancel("58620c44-ee57-4953-aaf4-c16f038c8a98"), 404);
}

#[test]
fn a_drained_instance_finishes_what_it_has_and_takes_no_more_also_after_the_daemons_death() {
    let mut machine = Machine::new(&["--seconds 0.3", "--seconds 0.3"], &[]);
    machine
        .home
        .run(&["drain", "gpu0"])
        .ok()
        .says("takes no more jobs");
    let told = machine.ask("GET", "/services/gpu0/health", "", b"").json();
    assert_eq!(
        (&told["draining"], &told["status"]),
        (&json!(true), &json!("healthy"))
    );
    machine.shoot_daemon();
    for color in 0..4 {
        let done = machine.until(&machine.submit(&job(graph(color))), &["done"]);
        assert_eq!(done["attempts"][0]["instance"], "gpu1", "{done}");
    }
    machine.home.run(&["drain", "gpu0", "--undo"]).ok();
    machine.home.run(&["drain", "gpu1"]).ok();
    let done = machine.until(&machine.submit(&job(graph(9))), &["done"]);
    assert_eq!(done["attempts"][0]["instance"], "gpu0");
}

#[test]
fn an_instance_that_hangs_is_given_up_and_the_job_is_done_elsewhere() {
    let machine = Machine::new(&["--seconds 0.2 --fault silence", "--seconds 0.2"], &[]);
    // Whichever websocket opens first gets the first job: the other one is let in when the job hangs.
    machine.home.run(&["drain", "gpu1"]).ok();
    // Longer than the 2 s after which a silent prompt is looked for: that it is found running is no progress.
    let id = machine.submit(&json!({"workflow": graph(1), "limits": {"stall_seconds": 3}}));
    let hangs = machine.until(&id, &["running"]);
    assert_eq!(hangs["attempts"][0]["instance"], "gpu0");
    machine.home.run(&["drain", "gpu1", "--undo"]).ok();
    let done = machine.until(&id, &["done", "failed", "dead"]);
    machine.is_done(&done);
    assert_eq!(kinds(&done), ["stalled", "success"], "{done:#}");
    assert_eq!(done["attempts"][1]["instance"], "gpu1");
    eventually("the one that hung was restarted", || {
        let told = machine.ask("GET", "/services/gpu0/health", "", b"").json();
        (told["restarts"].as_u64() > Some(0)).then_some(())
    });
}

/// Takes one request on a port: its head and body.
fn receive(listener: &TcpListener, answer: &str) -> (String, String) {
    let (stream, _) = listener.accept().unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    answered(stream, answer).unwrap()
}

/// Reads one request and answers it.
fn answered(stream: impl Read + Write, answer: &str) -> std::io::Result<(String, String)> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let head = head.to_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap();
    let mut body = vec![0; length.lines().next().unwrap().trim().parse().unwrap()];
    reader.read_exact(&mut body)?;
    reader.get_mut().write_all(answer.as_bytes())?;
    reader.get_mut().flush()?;
    Ok((head, String::from_utf8(body).unwrap()))
}

/// Takes requests by TLS until one comes whole; who does not believe our certificate goes before.
fn receive_by_tls(listener: &TcpListener, folder: &std::path::Path) -> (String, String, usize) {
    let certificates = CertificateDer::pem_file_iter(folder.join("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates.map(Result::unwrap).collect(), key)
        .unwrap();
    let config = std::sync::Arc::new(config);
    let mut strangers = 0;
    loop {
        let (stream, _) = listener.accept().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let session = rustls::ServerConnection::new(std::sync::Arc::clone(&config)).unwrap();
        let mut stream = rustls::StreamOwned::new(session, stream);
        match answered(&mut stream, "HTTP/1.1 204 Yes\r\nConnection: close\r\n\r\n") {
            Ok((head, body)) => return (head, body, strangers),
            Err(_) => strangers += 1,
        }
    }
}

#[test]
fn an_https_webhook_goes_only_to_whom_an_authority_vouches_for() {
    if !support::tls::has("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    support::tls::certify(folder.path());
    let ca = folder.path().join("ca.pem");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "https://localhost:{}/done",
        listener.local_addr().unwrap().port()
    );
    let wanted = json!({"workflow": graph(1), "webhook": {"url": url, "secret": "a secret"}});
    // Nobody vouches for it: nothing is told, and the job is done all the same.
    let stranger = Machine::new(&["--seconds 0.1"], &[]);
    stranger.is_done(&stranger.until(&stranger.submit(&wanted), &["done"]));
    let path = folder.path().to_owned();
    let (told, waiting) = std::sync::mpsc::sync_channel(1);
    let server = std::thread::spawn(move || told.send(receive_by_tls(&listener, &path)).unwrap());
    stranger
        .home
        .until_file_has("pm2.log", "no TLS with localhost");
    let friend = Machine::new(
        &["--seconds 0.1"],
        &[("FORNAX_WEBHOOK_CA", ca.to_str().unwrap())],
    );
    let id = friend.submit(&wanted);
    friend.is_done(&friend.until(&id, &["done"]));
    let (head, body, strangers) = waiting.recv_timeout(Duration::from_secs(45)).unwrap();
    server.join().unwrap();
    assert!(strangers > 0, "the stranger was not turned away");
    assert!(head.contains(&format!("webhook-id: {id}")) && head.contains("webhook-signature: v1,"));
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(told["data"]["id"], json!(id));
}

#[test]
fn a_key_is_one_job_however_its_workflow_is_written() {
    let machine = Machine::new(&["--seconds 0.1"], &[]);
    let post = |workflow: &str| {
        let body = format!("{{\"idempotency_key\": \"a\", \"workflow\": {workflow}}}");
        machine.ask("POST", "/jobs", "", body.as_bytes())
    };
    assert_eq!(post("{}").status, 401, "there was no token yet");
    let first = post(
        r#"{"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":64,"batch_size":1,"color":7}},"3":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"p"}}}"#,
    );
    assert_eq!(first.status, 202, "{:?}", first.json());
    let again = post(
        r#" { "3": { "inputs": { "filename_prefix": "p", "images": ["1", 0] }, "class_type": "SaveImage" },
          "1": { "class_type": "EmptyImage", "inputs": { "color": 7.0, "batch_size": 1, "height": 64, "width": 64 } } } "#,
    );
    assert_eq!(
        (again.status, &again.json()["id"]),
        (200, &first.json()["id"])
    );
    let other = post(
        r#"{"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":64,"batch_size":1,"color":8}},"3":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"p"}}}"#,
    );
    assert_eq!(other.status, 409);
}

/// Reads the machine's events until `enough`; the text so far.
fn events(machine: &Machine, last: &str, enough: impl Fn(&str) -> bool) -> String {
    let mut stream = std::net::TcpStream::connect(&machine.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let header = if last.is_empty() {
        String::new()
    } else {
        format!("Last-Event-ID: {last}\r\n")
    };
    write!(
        stream,
        "GET /events HTTP/1.1\r\nHost: localhost\r\n{header}\r\n"
    )
    .unwrap();
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    while !enough(&text) {
        let length = stream.read(&mut piece).unwrap();
        assert!(length > 0, "it ended: {text}");
        text.push_str(&String::from_utf8_lossy(&piece[..length]));
    }
    text
}

#[test]
fn who_follows_the_machine_and_comes_back_is_told_what_became_of_jobs_meanwhile() {
    let mut machine = Machine::new(&["--seconds 0.1"], &[]);
    let first = machine.submit(&job(graph(1)));
    machine.until(&first, &["done"]);
    let id = machine.submit(&job(graph(2)));
    let text = events(&machine, "", |text| {
        text.contains(&format!("\"job\":\"{id}\"")) || machine.job(&id)["state"] == "done"
    });
    assert!(text.contains("event: service"), "{text}");
    machine.until(&id, &["done"]);
    // From the first event of this daemon on: both jobs, each state once, in order.
    let life = {
        let told = machine.ask("GET", &format!("/jobs/{id}/events"), "", b"");
        let told = String::from_utf8(told.body).unwrap();
        let id = told
            .lines()
            .find_map(|line| line.strip_prefix("id: "))
            .unwrap()
            .to_owned();
        id.split_once('.').unwrap().0.to_owned()
    };
    let done = |text: &str, id: &str| {
        text.split("\n\n")
            .any(|event| event.contains(id) && event.contains("\"state\":\"done\""))
    };
    let text = events(&machine, &format!("{life}.1"), |text| done(text, &id));
    assert!(
        done(&text, &first) && !text.contains("event: missed"),
        "{text}"
    );
    let seen: Vec<u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix(&format!("id: {life}."))?.parse().ok())
        .collect();
    assert!(
        seen.len() >= 6 && seen.is_sorted_by(|a, b| a < b) && seen[0] == 2,
        "{seen:?}"
    );
    // Of a daemon that is no more nothing is kept, and that is said.
    machine.shoot_daemon();
    let text = events(&machine, &format!("{life}.1"), |text| {
        text.contains("event: missed")
    });
    assert!(text.contains("event: service"));
}

#[test]
fn a_webhook_is_signed_and_tried_again_and_one_that_never_answers_holds_up_nobody() {
    let machine = Machine::new(&["--seconds 0.1"], &[]);
    let (silent, listener) = (
        TcpListener::bind("127.0.0.1:0").unwrap(),
        TcpListener::bind("127.0.0.1:0").unwrap(),
    );
    let hook = |listener: &TcpListener| json!({"url": format!("http://{}/done", listener.local_addr().unwrap()), "secret": "a secret"});
    let stuck = machine.submit(&json!({"workflow": graph(1), "webhook": hook(&silent)}));
    machine.is_done(&machine.until(&stuck, &["done"]));
    let id = machine.submit(&json!({"workflow": graph(2), "webhook": hook(&listener)}));
    let no = "HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (_, first) = receive(&listener, no);
    let (head, body) = receive(&listener, "HTTP/1.1 204 Yes\r\nConnection: close\r\n\r\n");
    assert_eq!(first, body);
    assert!(
        head.contains(&format!("webhook-id: {id}")) && head.contains("webhook-signature: v1,"),
        "{head}"
    );
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&told["type"], &told["data"]["id"]),
        (&json!("job.done"), &json!(id))
    );
    assert!(!body.contains("a secret"));
    machine.is_done(&machine.until(&machine.submit(&job(graph(3))), &["done"]));
}

#[test]
fn a_full_disk_under_the_store_refuses_jobs_and_loses_none() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("small");
    let Some(disk) = SmallDisk::mount(&folder, "2m") else {
        return;
    };
    let store = folder.join("jobs");
    let machine = Machine::new(
        &["--seconds 0.1"],
        &[("FORNAX_JOBS_DIR", store.to_str().unwrap())],
    );
    machine.is_done(&machine.until(&machine.submit(&job(graph(1))), &["done"]));
    let ballast = disk.fill();
    let refused = (0..50)
        .map(|color| {
            let mut large = job(graph(color));
            large["workflow"]["1"]["inputs"]["note"] = json!("x".repeat(20_000));
            machine.post(&large)
        })
        .find(|reply| reply.status != 202);
    let refused = refused.expect("a job was refused");
    assert_eq!(
        refused.status,
        507,
        "{}",
        String::from_utf8_lossy(&refused.body)
    );
    assert!(
        refused.json()["error"]
            .as_str()
            .unwrap()
            .contains("FORNAX_JOBS_DIR")
    );
    std::fs::remove_file(ballast).unwrap();
    eventually("jobs are taken again", || {
        (machine.post(&job(graph(99))).status == 202).then_some(())
    });
    eventually("none is left behind", || {
        let left = machine
            .ask("GET", "/jobs?state=queued,placed,running,fetching", "", b"")
            .json();
        (left["count"] == 0).then_some(())
    });
    let all = machine.ask("GET", "/jobs?limit=1000", "", b"").json();
    for job in all["jobs"].as_array().unwrap() {
        machine.is_done(job);
    }
}

#[test]
fn a_form_brings_files_and_the_command_line_brings_outputs() {
    let machine = Machine::new(&["--seconds 0.1"], &[]);
    let file = machine.home.apps().join("workflow.json");
    std::fs::write(&file, graph(1).to_string()).unwrap();
    let ran = machine
        .home
        .run(&[
            "run",
            file.to_str().unwrap(),
            "--set",
            "1.color=7",
            "-o",
            "out",
        ])
        .ok();
    assert!(ran.out.contains("out/pic_00001_.png"), "{ran:?}");
    assert!(ran.err.is_empty(), "progress without a terminal: {ran:?}");
    let picture = std::fs::read(machine.home.apps().join("out/pic_00001_.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    std::fs::write(machine.home.apps().join("cat.png"), &picture).unwrap();
    let load = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "loaded"}},
    });
    std::fs::write(&file, load.to_string()).unwrap();
    let ran = machine.home.run(&[
        "run",
        file.to_str().unwrap(),
        "--input",
        "cat.png=cat.png",
        "-o",
        "out",
    ]);
    assert!(ran.code == 0 || ran.err.contains("LoadImage"), "{ran:?}");
    machine
        .home
        .run(&["run", file.to_str().unwrap(), "--set", "9.x=1"])
        .fails("there are 1, 3");
    machine.home.run(&["jobs"]).ok().says("done");
    let id = machine.submit(&job(json!({"1": {"class_type": "Nope", "inputs": {}}})));
    machine.until(&id, &["failed"]);
    machine
        .home
        .run(&["jobs", "show", &id])
        .ok()
        .says("refused");
    machine
        .home
        .run(&["jobs", "list", "--state", "failed"])
        .ok()
        .says(&id);
    machine
        .home
        .run(&["wait", "nobody", "--timeout", "100ms"])
        .fails("no service `nobody`");
    let reply = machine.ask(
        "GET",
        "/services/gpu0/health?wait=unhealthy&timeout=200ms",
        "",
        b"",
    );
    assert_eq!(reply.status, 200);
}

#[test]
fn a_job_goes_where_its_model_was_used_last() {
    let machine = Machine::new(&["--seconds 0.1", "--seconds 0.1"], &[]);
    let run = |model: &str| {
        let mut graph = graph(1);
        graph["1"]["inputs"]["note"] = json!(model);
        let done = machine.until(&machine.submit(&job(graph)), &["done"]);
        done["attempts"][0]["instance"].as_str().unwrap().to_owned()
    };
    machine.home.run(&["drain", "gpu1"]).ok();
    assert_eq!(run("a.safetensors"), "gpu0");
    machine.home.run(&["drain", "gpu1", "--undo"]).ok();
    machine.home.run(&["drain", "gpu0"]).ok();
    assert_eq!(run("b.safetensors"), "gpu1");
    machine.home.run(&["drain", "gpu0", "--undo"]).ok();
    eventually("both take jobs", || {
        let told = machine.ask("GET", "/services", "", b"").json();
        let all = told["services"].as_array().unwrap().clone();
        all.iter()
            .all(|service| service["draining"] == false && service["status"] == "healthy")
            .then_some(())
    });
    // By turns the other one would have been next each time.
    for (model, instance) in [
        ("b", "gpu1"),
        ("b", "gpu1"),
        ("a", "gpu0"),
        ("a", "gpu0"),
        ("b", "gpu1"),
    ] {
        assert_eq!(run(&format!("{model}.safetensors")), instance);
    }
}

#[test]
fn previews_are_told_to_who_wants_them_only() {
    let machine = Machine::new(&["--seconds 2 --preview-method auto"], &[]);
    let words =
        json!({"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}});
    let sampler = json!({
        "3": {"class_type": "KSampler", "inputs": {
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
            "seed": 7, "steps": 10, "cfg": 8.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        }},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "simulated.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "6": words, "7": words,
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "cat"}},
    });
    let id = machine.submit(&job(sampler));
    let follow = |query: &str| {
        let told = machine.ask("GET", &format!("/jobs/{id}/events{query}"), "", b"");
        String::from_utf8(told.body).unwrap()
    };
    let (with, without) = std::thread::scope(|scope| {
        let with = scope.spawn(|| follow("?preview=true"));
        (with.join().unwrap(), follow(""))
    });
    let preview = with
        .split("\n\n")
        .find(|event| event.contains("event: preview"))
        .unwrap_or_else(|| panic!("no preview: {with}"));
    let data: Value = serde_json::from_str(preview.split("data: ").nth(1).unwrap()).unwrap();
    assert!(
        data["data"].as_str().unwrap().len() > 100
            && data["type"].as_str().unwrap().starts_with("image/"),
        "{data}"
    );
    assert!(!without.contains("event: preview"));
}

#[test]
fn settled_jobs_are_forgotten_with_their_outputs_when_their_time_is_over() {
    let mut machine = Machine::new(&["--seconds 0.1"], &[("FORNAX_JOBS_KEEP", "1s")]);
    let id = machine.submit(&job(graph(1)));
    machine.is_done(&machine.until(&id, &["done"]));
    let folder = machine.home.root().join("jobs/outputs").join(&id);
    assert!(folder.is_dir());
    eventually("a second has passed since its end", || {
        let ended: jiff::Timestamp = machine.job(&id)["ended_at"].as_str()?.parse().ok()?;
        (jiff::Timestamp::now().as_second() > ended.as_second() + 1).then_some(())
    });
    // A daemon looks when it starts, and then every minute.
    machine.shoot_daemon();
    eventually("it is forgotten", || {
        let told = machine.ask("GET", &format!("/jobs/{id}"), "", b"").status;
        (told == 404 && !folder.exists()).then_some(())
    });
}
