//! A machine of simulated ComfyUIs, each with flags of its own, and its jobs over HTTP.

#![allow(clippy::unwrap_used, dead_code)]

use super::home::{Home, eventually, free_ports, kill};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A home with ComfyUIs.
pub struct Machine {
    pub home: Home,
    pub address: String,
    pub base: u16,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// A graph that saves one picture.
pub fn graph(color: u32) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": color}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "pic"}},
    })
}

impl Machine {
    /// One ComfyUI for each set of flags of `fornax simulate`.
    pub fn new(flags: &[&str], env: &[(&str, &str)]) -> Self {
        let all: Vec<_> = [("FORNAX_HTTP", "127.0.0.1:0")]
            .iter()
            .chain(env)
            .copied()
            .collect();
        let home = Home::with(&all);
        let base = free_ports(u16::try_from(flags.len().max(1)).unwrap());
        let apps: Vec<Value> = flags
            .iter()
            .enumerate()
            .map(|(at, flags)| {
                let port = base + u16::try_from(at).unwrap();
                let folder = home.apps().join(format!("gpu{at}"));
                let mut args = vec!["simulate".to_owned(), "--port".to_owned(), port.to_string()];
                args.extend(["--base-directory".to_owned(), folder.to_str().unwrap().to_owned()]);
                args.extend(["--output-directory".to_owned(), folder.join("output").to_str().unwrap().to_owned()]);
                args.extend(flags.split_whitespace().map(str::to_owned));
                std::fs::create_dir_all(folder.join("output")).unwrap();
                json!({
                    "name": format!("gpu{at}"), "script": home.program(), "interpreter": "none", "args": args,
                    "restart_delay": 100, "max_restarts": 1000, "min_uptime": 100,
                    "fornax": {"type": "comfyui", "port": port, "probe": {
                        "http": {"path": "/prompt"},
                        "startup": {"period": "100ms", "failure_threshold": 600},
                        "readiness": {"period": "500ms", "failure_threshold": 10},
                    }},
                })
            })
            .collect();
        let file = home.apps().join("ecosystem.json");
        std::fs::write(&file, json!({"apps": apps}).to_string()).unwrap();
        if flags.is_empty() {
            home.run(&["ping"]).ok();
        } else {
            home.run(&["start", file.to_str().unwrap()]).ok();
        }
        let address = home.http();
        let machine = Self {
            home,
            address,
            base,
        };
        for at in 0..flags.len() {
            machine
                .home
                .run(&["wait", &format!("gpu{at}"), "--timeout", "40s"])
                .ok();
        }
        machine
    }

    /// Real ComfyUIs on the processor: `FORNAX_COMFYUI` is their folder, `FORNAX_COMFYUI_PYTHON` their Python.
    pub fn real(count: usize, env: &[(&str, &str)]) -> Self {
        let all: Vec<_> = [("FORNAX_HTTP", "127.0.0.1:0")]
            .iter()
            .chain(env)
            .copied()
            .collect();
        let home = Home::with(&all);
        let base = free_ports(u16::try_from(count).unwrap());
        let (tree, python) = (
            std::env::var("FORNAX_COMFYUI").unwrap(),
            std::env::var("FORNAX_COMFYUI_PYTHON").unwrap(),
        );
        let apps: Vec<Value> = (0..count)
            .map(|at| {
                let port = base + u16::try_from(at).unwrap();
                let folder = home.apps().join(format!("gpu{at}"));
                let mut args = ["--cpu", "--disable-all-custom-nodes", "--port"].map(str::to_owned).to_vec();
                args.push(port.to_string());
                for name in ["output", "input", "temp", "user"] {
                    let path = folder.join(name);
                    std::fs::create_dir_all(&path).unwrap();
                    args.extend([format!("--{name}-directory"), path.to_str().unwrap().to_owned()]);
                }
                args.extend(["--database-url".to_owned(), format!("sqlite:///{}/comfy.db", folder.display())]);
                json!({
                    "name": format!("gpu{at}"), "script": "main.py", "cwd": tree, "interpreter": python, "args": args,
                    "restart_delay": 100, "max_restarts": 1000, "min_uptime": 100,
                    "fornax": {"type": "comfyui", "port": port, "probe": {
                        "http": {"path": "/prompt"},
                        "startup": {"period": "250ms", "failure_threshold": 2000},
                        "readiness": {"period": "2s", "failure_threshold": 10},
                    }},
                })
            })
            .collect();
        let file = home.apps().join("ecosystem.json");
        std::fs::write(&file, json!({"apps": apps}).to_string()).unwrap();
        home.run(&["start", file.to_str().unwrap()]).ok();
        let address = home.http();
        let machine = Self {
            home,
            address,
            base,
        };
        for at in 0..count {
            let waited = || {
                machine
                    .ask(
                        "GET",
                        &format!("/services/gpu{at}/health?wait=healthy&timeout=50s"),
                        "",
                        b"",
                    )
                    .status
            };
            assert!(
                (0..6).any(|_| waited() == 200),
                "a real ComfyUI did not come up"
            );
        }
        machine
    }

    /// One request, with the token once there is one.
    pub fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        let token = self.home.read("http.token");
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n{headers}\r\n",
            token.trim(),
            body.len()
        )
        .unwrap();
        // One that refuses a body does not read it.
        let _ = stream.write_all(body);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let at = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .expect("a head");
        let head = String::from_utf8_lossy(&bytes[..at]).to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = head.contains("transfer-encoding: chunked");
        let body = bytes.split_off(at + 4);
        Reply {
            status,
            head,
            body: if chunked { unchunked(&body) } else { body },
        }
    }

    /// Asks for a job, making the token first if need be.
    pub fn post(&self, job: &Value) -> Reply {
        if self.home.read("http.token").is_empty() {
            assert_eq!(self.ask("POST", "/jobs", "", b"").status, 401);
        }
        self.ask("POST", "/jobs", "", job.to_string().as_bytes())
    }

    /// A job's id, once it is accepted.
    pub fn submit(&self, job: &Value) -> String {
        let reply = self.post(job);
        assert_eq!(
            reply.status,
            202,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    pub fn job(&self, id: &str) -> Value {
        self.ask("GET", &format!("/jobs/{id}"), "", b"").json()
    }

    /// Waits until it is in one of these states.
    pub fn until(&self, id: &str, states: &[&str]) -> Value {
        eventually(&format!("job {id} is {states:?}"), || {
            let job = self.job(id);
            states
                .contains(&job["state"].as_str().unwrap_or_default())
                .then_some(job)
        })
    }

    pub fn output(&self, id: &str, name: &str) -> Reply {
        self.ask("GET", &format!("/jobs/{id}/outputs/{name}"), "", b"")
    }

    /// It must be done, with a picture.
    pub fn is_done(&self, job: &Value) {
        assert_eq!(job["state"], "done", "{job:#}");
        let output = &job["outputs"][0];
        let reply = self.output(
            job["id"].as_str().unwrap(),
            output["name"].as_str().unwrap(),
        );
        assert_eq!(reply.status, 200);
        assert!(reply.body.starts_with(b"\x89PNG"));
        assert_eq!(reply.body.len() as u64, output["bytes"].as_u64().unwrap());
    }

    /// Kills the process of an instance.
    pub fn shoot(&self, name: &str) {
        kill(self.home.pid(name), 9);
    }

    /// Kills the daemon; its keeper starts the next one.
    pub fn shoot_daemon(&mut self) {
        let pid = self.home.daemon_pid().unwrap();
        kill(pid, 9);
        eventually("another daemon", || {
            self.home.daemon_pid().filter(|now| *now != pid)
        });
        self.address = eventually("it serves", || {
            fornax::pm2::client::Client::connect(&self.home.root().join("rpc.sock")).ok()?;
            let address = self.home.http();
            TcpStream::connect(&address).is_ok().then_some(address)
        });
    }
}

fn unchunked(body: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), body);
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap().trim(), 16)
            .unwrap_or(0);
        if length == 0 || rest.len() < end + 2 + length {
            break;
        }
        out.extend_from_slice(&rest[end + 2..end + 2 + length]);
        rest = &rest[(end + 4 + length).min(rest.len())..];
    }
    out
}
