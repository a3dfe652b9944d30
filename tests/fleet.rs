//! What is watched, named and cured of a ComfyUI, with the real daemon and simulated instances that show each fault.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use support::home::free_ports;
use support::{Home, eventually};

/// A home with one simulated instance, `comfyui-gpu0`, and its port.
struct Instance {
    home: Home,
    port: u16,
}

impl Instance {
    fn start(faults: &[&str], monitor: Value) -> Self {
        let one = Self::new(faults, monitor);
        one.home.run(&["start", "ecosystem.json"]).ok();
        one
    }

    fn new(faults: &[&str], monitor: Value) -> Self {
        let home = Home::with(&[("FORNAX_HTTP", "127.0.0.1:0")]);
        let port = free_ports(1);
        let mut args = vec!["simulate", "--seconds", "0.05", "--steps", "2", "--port"]
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>();
        args.push(port.to_string());
        for fault in faults {
            args.extend(["--fault".to_owned(), (*fault).to_owned()]);
        }
        let mut settings = json!({
            "period": 200, "stall": "2s", "waiting": "20s", "busy": "60s", "unanswered": "20s", "canary": 0,
            "restarts": 1, "restart_window": "10m",
        });
        for (key, value) in monitor.as_object().unwrap() {
            settings[key] = value.clone();
        }
        let ecosystem = json!({"apps": [{
            "name": "comfyui-gpu0",
            "script": home.program(),
            "interpreter": "none",
            "args": args,
            "max_restarts": 3,
            "min_uptime": "2s",
            "fornax": {
                "type": "comfyui",
                "port": port,
                "monitor": settings,
                "stop": [{"signal": "SIGINT", "wait": "1s"}, {"signal": "SIGTERM", "wait": "1s"}],
            },
        }]});
        home.app("ecosystem.json", &ecosystem.to_string());
        Self { home, port }
    }

    fn told(&self) -> Value {
        let (_, body) = self.home.get("/health/comfyui/instances/0");
        serde_json::from_str(&body).unwrap()
    }

    fn until(&self, what: &str, mut is: impl FnMut(&Value) -> bool) -> Value {
        eventually(what, || Some(self.told()).filter(|told| is(told)))
    }

    fn healthy(self) -> Self {
        self.until("it is healthy", |told| told["status"] == "healthy");
        self
    }

    fn job(&self) {
        let graph = json!({
            "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": uuid::Uuid::new_v4().as_u128() as u32 & 0xff_ffff}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        });
        let body = json!({"prompt": graph, "prompt_id": uuid::Uuid::new_v4().to_string()});
        let (status, answer) = post(self.port, "/prompt", &body.to_string(), "");
        assert_eq!(status, 200, "{answer}");
    }

    fn has_event(told: &Value, what: &str, cause: &str) -> bool {
        let events = told["monitor"]["events"].as_array().unwrap();
        events
            .iter()
            .any(|event| event["what"] == what && event["cause"] == cause)
    }

    fn has_cure(told: &Value, words: &str) -> bool {
        let events = told["monitor"]["events"].as_array().unwrap();
        events.iter().any(|event| {
            event["what"] == "cure" && event["message"].as_str().unwrap().contains(words)
        })
    }
}

fn post(port: u16, path: &str, body: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

/// A job that never ends is found, named, and cured by a restart; afterwards all is well.
fn is_found_and_cured(fault: &str, cause: &str) {
    let one = Instance::start(&[fault], json!({})).healthy();
    one.job();
    let cured = one.until("it is restarted", |told| {
        told["status"] == "healthy" && told["restarts"] == 1
    });
    assert!(Instance::has_event(&cured, "ill", cause), "{cured:#}");
    assert!(Instance::has_event(&cured, "cure", cause), "{cured:#}");
    let why = cured["last_exit"]["why"].as_str().unwrap().to_owned();
    assert!(why.contains("it is being restarted"), "{why}");
    assert!(
        one.home
            .read("pm2.log")
            .contains(&format!("cause=\"{cause}\""))
    );
}

#[test]
fn a_node_that_waits_for_ever_is_interrupted_then_its_instance_restarted() {
    is_found_and_cured("silence", "node_hung");
}

#[test]
fn a_dead_prompt_thread_is_named_and_cured() {
    is_found_and_cured("dead-prompt-thread", "dead_prompt_thread");
}

#[test]
fn a_held_interpreter_lock_is_named_and_cured_although_sigint_does_nothing() {
    is_found_and_cured("hold-lock", "interpreter_lock_held");
}

#[test]
fn a_lost_cuda_context_is_named_and_cured() {
    is_found_and_cured("cuda-poisoned", "cuda_context_poisoned");
}

#[test]
fn want_of_gpu_memory_is_cured_by_freeing_it() {
    let one = Instance::start(&["out-of-vram"], json!({})).healthy();
    one.job();
    one.until("the first is told of", |told| {
        Instance::has_event(told, "job", "out_of_vram")
    });
    one.job();
    one.until("its memory is freed", |told| {
        Instance::has_cure(told, "free its memory")
    });
    one.job();
    let told = one.until("it is well again", |told| {
        told["status"] == "healthy" && Instance::has_event(told, "cured", "out_of_vram")
    });
    assert_eq!(told["restarts"], 0);
}

#[test]
fn a_canary_job_finds_a_hang_before_any_job_does() {
    let one = Instance::start(
        &["dead-prompt-thread"],
        json!({"canary": "1s", "restarts": 0}),
    );
    let told = one.until("it is given up", |told| {
        Instance::has_event(told, "given_up", "dead_prompt_thread")
    });
    assert_eq!(told["status"], "unhealthy");
    assert_eq!(told["restarts"], 0, "no budget, no restart");
}

#[test]
fn a_canary_job_passes_and_leaves_no_trace() {
    let one = Instance::start(&[], json!({"canary": "500ms"})).healthy();
    let told = one.until("it has run", |told| {
        told["monitor"]["canary"]["passed"] == true
    });
    assert!(told["monitor"]["canary"]["took_ms"].is_u64());
    eventually("its history is empty", || {
        let (_, body) = support::home::get(&format!("127.0.0.1:{}", one.port), "/history");
        // The next one may be under way.
        (body.trim() == "{}").then_some(())
    });
}

#[test]
fn a_node_pack_that_fails_to_import_is_named_and_the_instance_is_healthy() {
    let one = Instance::start(&["import-failed=broken_pack"], json!({})).healthy();
    let told = one.until("the pack is named", |told| {
        told["monitor"]["import_failures"][0]["name"] == "broken_pack"
    });
    assert_eq!(told["status"], "healthy");
    assert_eq!(told["monitor"]["import_failures"][0]["why"], "simulated");
    let (status, body) = one.home.get("/health/comfyui");
    assert_eq!(status, 200);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["import_failures"][0]["name"], "broken_pack");
}

#[test]
fn a_missing_driver_and_a_taken_port_are_named_with_the_last_words() {
    let driver = Instance::start(&["no-driver"], json!({}));
    let told = driver.until("the cause is named", |told| {
        told["monitor"]["cause"] == "missing_driver"
    });
    let message = told["monitor"]["message"].as_str().unwrap();
    assert!(message.contains("Found no NVIDIA driver"), "{message}");

    let clash = Instance::new(&[], json!({}));
    let _holder = std::net::TcpListener::bind(("127.0.0.1", clash.port)).unwrap();
    clash.home.run(&["start", "ecosystem.json"]);
    let told = clash.until("the cause is named", |told| {
        told["monitor"]["cause"] == "port_clash"
    });
    assert_eq!(told["status"], "unhealthy");
}

#[test]
fn the_old_monitors_routes_answer_and_change_nothing_without_the_token() {
    let one = Instance::start(&[], json!({})).healthy();
    let address = one.home.http();
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let (status, body) = one.home.get("/pm2/list");
    let list: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &list[0]["pm2_env"]["status"]),
        (200, &json!("online"))
    );
    assert!(!body.contains("\"env\""), "{body}");
    let (status, body) = one.home.get("/pm2/logs?service=comfyui-gpu0&lines=100");
    assert_eq!(status, 200);
    assert!(body.contains("To see the GUI go to"), "{body}");
    let (status, body) = one
        .home
        .get("/comfyui/logs?gpu=0&type=error&lines=100&stream=false");
    assert_eq!(status, 200);
    assert!(body.contains("Starting server"), "{body}");
    assert_eq!(one.home.get("/comfyui/logs?gpu=x").0, 400);
    assert_eq!(one.home.get("/comfyui/logs?gpu=7").0, 404);
    assert_eq!(one.home.get("/pm2/logs").0, 400);
    assert_eq!(one.home.get("/refresh-status").0, 200);
    assert_eq!(one.home.get("/restart/machine").0, 405);

    let pid = one.home.pid("comfyui-gpu0");
    assert_eq!(
        post(port, "/restart/service?service=comfyui-gpu0", "", "").0,
        401
    );
    assert_eq!(post(port, "/restart/machine", "", "").0, 401);
    assert_eq!(one.home.pid("comfyui-gpu0"), pid);
    let token = eventually("the token is made", || {
        Some(one.home.read("http.token")).filter(|token| !token.trim().is_empty())
    });
    let header = format!("Authorization: Bearer {}\r\n", token.trim());
    assert_eq!(post(port, "/restart/service", "", &header).0, 400);
    assert_eq!(
        post(port, "/restart/service?service=nobody", "", &header).0,
        404
    );
    let (status, answer) = post(port, "/restart/service?service=comfyui-gpu0", "", &header);
    assert_eq!(status, 200, "{answer}");
    eventually("it has been restarted", || {
        (one.home.pid("comfyui-gpu0") != pid && one.home.status("comfyui-gpu0") == "online")
            .then_some(())
    });
}
