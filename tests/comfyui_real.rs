//! The real ComfyUI on the processor, two instances: installed by the first `up`, updated, and cured. Minutes, and two GB.
//!
//! `FORNAX_COMFYUI` names a git repository of ComfyUI and `FORNAX_COMFYUI_PYTHON` a Python that has its requirements. Without
//! them nothing is run, and that is printed; the same paths are taken with small trees in tests/install.rs and tests/rollout.rs.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::Ran;
use support::home::{free_ports, get};
use support::install::{Place, git, look};
use support::model_server::{ModelServer, Served};

/// ComfyUI takes a minute to come up on a busy machine without a GPU.
const PATIENCE: Duration = Duration::from_secs(600);
const NAMES: [&str; 2] = ["comfyui-gpu0", "comfyui-gpu1"];

/// A pack of the project's own: a node that ends the thread it runs in, and a route that starts ComfyUI anew in the same
/// process, as the Manager's reboot does.
const PACK: &str = r#"
import os
import sys
from aiohttp import web
from server import PromptServer
import smallnode

class Exits:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "test", "run", (), True
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"n": ("INT", {"default": 0})}}
    def run(self, n):
        sys.exit(3)

@PromptServer.instance.routes.post("/test/reboot")
async def reboot(request):
    os.execv(sys.executable, [sys.executable] + sys.argv)

NODE_CLASS_MAPPINGS = {"TestExits": Exits}
"#;

/// What a server that cannot serve is, to a check that only imports.
const DIES: &str = r#"
async def _dies(self, *a, **k):
    print("RuntimeError: this version cannot serve", file=sys.stderr, flush=True)
    os._exit(3)
PromptServer.start_multi_address = _dies
"#;

struct Real {
    place: Place,
    base: u16,
}

impl Real {
    /// A command, which may take as long as ComfyUI does.
    fn run(&self, args: &[&str]) -> Ran {
        let program = Path::new(env!("CARGO_BIN_EXE_fornax"));
        let mut command = self.place.home.command(program, args);
        let (sender, ended) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || sender.send(command.stdin(Stdio::null()).output()));
        let done = ended
            .recv_timeout(PATIENCE)
            .expect("it ends in time")
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran {
            code: done.status.code().unwrap_or(-1),
            out: text(&done.stdout),
            err: text(&done.stderr),
        }
    }

    fn up(&self) -> Ran {
        let base = self.base.to_string();
        self.run(&["up", "--cpu", "--gpus", "0,1", "--base-port", &base])
    }

    fn told(&self, path: &str) -> Value {
        serde_json::from_str(&self.place.home.get(path).1).unwrap()
    }

    fn service(&self, name: &str) -> Value {
        self.told(&format!("/services/{name}/health"))
    }

    fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            let now = NAMES.map(|name| self.service(name)["message"].clone());
            assert!(
                Instant::now() < until,
                "it never came to this: {what}; {now:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn builds(&self) -> [String; 2] {
        NAMES.map(|name| {
            let cwd = std::fs::read_link(format!("/proc/{}/cwd", self.place.home.pid(name)));
            let cwd = cwd.unwrap();
            let build = cwd.parent().unwrap().file_name().unwrap();
            build.to_str().unwrap().to_owned()
        })
    }

    fn update(&self) -> Ran {
        self.run(&["comfyui", "update", "--cpu"])
    }

    fn pack(&self, text: &str) {
        std::fs::write(self.place.repo("pack").join("__init__.py"), text).unwrap();
        self.place.commit("pack", "next");
    }

    fn healthy(&self) {
        self.until("both are healthy", || {
            let all = NAMES.map(|name| self.service(name)["status"].clone());
            all.iter().all(|status| status == "healthy").then_some(())
        });
    }
}

#[test]
fn the_real_comfyui_installs_updates_and_is_cured() {
    let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (Some(tree), Some(python)) = (given("FORNAX_COMFYUI"), given("FORNAX_COMFYUI_PYTHON"))
    else {
        println!(
            "NOT RUN: FORNAX_COMFYUI and FORNAX_COMFYUI_PYTHON are not set, so nothing is shown with the real ComfyUI"
        );
        return;
    };
    // What the given Python lacks comes from the usual index.
    let place = Place::with(&[("FORNAX_HTTP", "127.0.0.1:0"), ("PIP_NO_INDEX", "0")]);
    // A clone of its own, to make versions that do not work.
    std::fs::remove_dir_all(place.repo("ComfyUI")).unwrap();
    let cloned = Command::new("git")
        .args(["clone", "-q", &tree])
        .arg(place.repo("ComfyUI"))
        .status();
    assert!(cloned.unwrap().success());
    git(&place.repo("ComfyUI"), &["checkout", "-q", "-B", "master"]);
    let pack = place.repository("pack", "pack");
    place.repository("pack-broken", "broken");
    place.settings(json!({"python": python, "system_site_packages": true, "torch": ["torch"]}));
    place.nodes(json!([
        {"name": "pack", "url": pack, "requirements": true},
        {"name": "broken", "url": place.repo("broken")},
    ]));
    let real = Real {
        place,
        base: free_ports(2),
    };
    real.pack(PACK);
    first_up_installs_and_the_second_changes_nothing(&real);
    a_model_comes_through_breaks_and_both_see_it(&real);
    a_dead_prompt_thread_is_found_and_cured(&real);
    a_reboot_in_place_is_starting(&real);
    a_good_update_reaches_both_and_bad_ones_nobody(&real);
    real.run(&["down"]).ok();
}

fn first_up_installs_and_the_second_changes_nothing(real: &Real) {
    real.up().ok().says("All 3 services are ready");
    assert_eq!(real.place.node("pack")["state"], "installed");
    let told = real.until("the nodes are told", || {
        let told = real.told("/health/comfyui/installation");
        (told["nodes"]["total"] == 2).then_some(told)
    });
    assert_eq!(told["status"], "installed");
    assert_eq!(told["nodes"]["troubled"][0]["name"], "broken");
    assert_eq!(told["nodes"]["troubled"][0]["state"], "import_failed");
    let (builds, pids) = (
        real.place.workspace().join("builds"),
        NAMES.map(|name| real.place.home.pid(name)),
    );
    let before = |dir: &Path| {
        // Python writes its caches whenever it likes.
        let mut all = look(dir);
        all.retain(|(path, ..)| !path.to_string_lossy().contains("__pycache__"));
        all
    };
    let was = before(&builds);
    real.up().ok().says("installed as wanted");
    assert_eq!(before(&builds), was);
    assert_eq!(NAMES.map(|name| real.place.home.pid(name)), pids);
}

fn a_model_comes_through_breaks_and_both_see_it(real: &Real) {
    let header = br#"{"lora.up.weight":{"dtype":"F32","shape":[64,64],"data_offsets":[0,16384]}}"#;
    let mut body = (header.len() as u64).to_le_bytes().to_vec();
    body.extend_from_slice(header);
    body.extend((0..16_384u32).map(|n| (n * 7) as u8));
    let server = ModelServer::new();
    let served = Served {
        breaks: Some(6_000),
        ..Served::plain(body)
    };
    server.put("/tiny.safetensors", served);
    let models = json!({"models": [{"folder": "loras", "url": server.url("/tiny.safetensors")}]});
    let workspace = real.place.workspace();
    std::fs::write(workspace.join("models.json"), models.to_string()).unwrap();
    // And a link to a file that lies elsewhere.
    std::fs::create_dir_all(workspace.join("sd_models/Lora")).unwrap();
    std::fs::write(workspace.join("sd_models/Lora/other.safetensors"), "x").unwrap();
    let links = json!({"symlinks": [{"source": "Lora/other.safetensors", "target": "loras/linked.safetensors"}]});
    std::fs::write(workspace.join("static-models.json"), links.to_string()).unwrap();
    real.run(&[
        "comfyui", "models", "pull", "--wait", "20", "--tries", "100",
    ])
    .ok();
    assert!(
        server.count("/tiny.safetensors") > 2,
        "it was not broken off"
    );
    for port in [real.base, real.base + 1] {
        let (_, loras) = get(&format!("127.0.0.1:{port}"), "/models/loras");
        for name in ["tiny.safetensors", "linked.safetensors"] {
            assert!(loras.contains(name), "{port}: {loras}");
        }
    }
    real.until("it is told", || {
        (real.told("/health/comfyui/models")["store"]["there"] == 1).then_some(())
    });
}

fn a_dead_prompt_thread_is_found_and_cured(real: &Real) {
    let graph =
        json!({"prompt": {"1": {"class_type": "TestExits", "inputs": {"n": 1}}}}).to_string();
    let pid = real.place.home.pid(NAMES[1]);
    let url = format!("127.0.0.1:{}", real.base + 1);
    post(&url, "/prompt", &graph);
    let events = real.until("it is named and cured", || {
        let told = real.told(&format!("/health/comfyui/instances/{}", NAMES[1]));
        let events = told["monitor"]["events"].as_array()?.clone();
        let has = |what: &str, cause: &str| {
            events
                .iter()
                .any(|event| event["what"] == what && event["cause"] == cause)
        };
        has("cure", "dead_prompt_thread").then_some(events)
    });
    assert!(
        events.iter().any(|event| event["what"] == "ill"),
        "{events:?}"
    );
    real.until("another run of it has begun", || {
        let now = real.service(NAMES[1])["pid"].as_u64()?;
        (now != u64::from(pid)).then_some(())
    });
    real.healthy();
}

fn a_reboot_in_place_is_starting(real: &Real) {
    let (pid, url) = (
        real.place.home.pid(NAMES[0]),
        format!("127.0.0.1:{}", real.base),
    );
    let restarts = real.service(NAMES[0])["restarts"].clone();
    post(&url, "/test/reboot", "{}");
    let mut seen = Vec::new();
    real.until("it has started anew", || {
        let status = real.service(NAMES[0])["status"].clone();
        if seen.last() != Some(&status) {
            seen.push(status);
        }
        (seen.len() > 1 && seen.last()? == "healthy").then_some(())
    });
    assert!(
        seen.iter()
            .all(|status| status == "healthy" || status == "starting"),
        "{seen:?}"
    );
    assert!(seen.contains(&json!("starting")), "{seen:?}");
    assert_eq!(real.place.home.pid(NAMES[0]), pid, "the same process");
    assert_eq!(real.service(NAMES[0])["restarts"], restarts);
}

fn a_good_update_reaches_both_and_bad_ones_nobody(real: &Real) {
    real.place.set_version("99.1.0");
    real.update().ok().says("build 0002 runs, on 2 instances");
    assert_eq!(real.builds(), ["0002", "0002"]);
    real.healthy();
    real.pack("raise RuntimeError('broken on purpose')\n");
    real.update()
        .fails("pack does not import any more, and did before: broken on purpose");
    assert_eq!(real.builds(), ["0002", "0002"]);
    real.healthy();
    real.pack(PACK);
    let server = real.place.repo("ComfyUI").join("server.py");
    let text = std::fs::read_to_string(&server).unwrap();
    std::fs::write(&server, text + DIES).unwrap();
    real.place.commit("ComfyUI", "dies");
    real.update().fails("this version cannot serve");
    assert_eq!(real.builds(), ["0002", "0002"]);
    real.healthy();
    assert_eq!(real.told("/comfyui/rollout")["state"], "failed");
}

/// The answer is nobody's business: some of these never come.
fn post(address: &str, path: &str, body: &str) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
}
