//! Runs real PM2's client against a listener in place of its daemon, and notes what it sends.

// A helper of tests: what it cannot do ends the test.
#![allow(clippy::unwrap_used)]

use serde::Serialize;
use serde_json::{Map, Value, json};
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// What came of a start.
#[derive(Default, Serialize)]
pub struct Outcome {
    /// The inputs of `prepare`, in order.
    pub prepares: Vec<Value>,
    /// What it said is wrong, without prefixes.
    pub says: Vec<String>,
}

impl Outcome {
    /// The same with the names of this machine replaced, so that it can be compared with another's.
    pub fn without_places(self, root: &str) -> Self {
        let node = node().map_or_else(|| "/no/node".to_string(), |node| node.display().to_string());
        let plain = |text: String| {
            text.replace(&format!("{root}/bin/node"), "<NODE>")
                .replace(&node, "<NODE>")
                .replace(root, "<ROOT>")
        };
        let user = format!("\"username\":\"{}\"", username());
        let prepares = json!(self.prepares)
            .to_string()
            .replace(&user, "\"username\":\"<USER>\"");
        Self {
            prepares: serde_json::from_str(&plain(prepares)).unwrap(),
            says: self.says.into_iter().map(plain).collect(),
        }
    }
}

/// The pm2 to compare with, if one was named.
pub fn find() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FORNAX_PM2") {
        return Some(
            PathBuf::from(path)
                .canonicalize()
                .expect("FORNAX_PM2 names a pm2"),
        );
    }
    let modules = PathBuf::from(std::env::var_os("FORNAX_NODE_MODULES")?);
    modules.join(".bin/pm2").canonicalize().ok()
}

/// The user who runs the test, as the system calls it.
pub fn username() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid())
        .unwrap()
        .map(|user| user.name)
        .unwrap_or_default()
}

/// Writes a file and its folders.
pub fn write(path: &Path, text: &str, mode: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn node() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join("node"))
        .find(|node| node.is_file())?
        .canonicalize()
        .ok()
}

/// Whether there is a node to evaluate configs with.
pub fn node_is_here() -> bool {
    node().is_some()
}

/// The only programs in PATH: every machine then finds the same, and the client can install nothing.
pub fn lay_out_programs(bin: &Path) {
    for name in ["bash", "sh", "python3", "tool"] {
        write(&bin.join(name), "\u{0}", 0o755);
    }
    match node() {
        Some(node) => symlink(node, bin.join("node")).unwrap(),
        None => write(&bin.join("node"), "\u{0}", 0o755),
    }
}

/// How long one run of the client may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `pm2 start` in `root/app` and returns what it sent and said.
pub fn run(
    pm2: &Path,
    root: &Path,
    start: &[String],
    env: &Map<String, Value>,
    module_conf: &Value,
) -> Outcome {
    let home = root.join("pm2");
    if module_conf.is_object() {
        std::fs::write(home.join("module_conf.json"), module_conf.to_string()).unwrap();
    }
    let rpc = UnixListener::bind(home.join("rpc.sock")).unwrap();
    let _pub = UnixListener::bind(home.join("pub.sock")).unwrap();
    // Far more than a config of the corpus has apps.
    let (sender, prepares) = sync_channel(64);
    std::thread::spawn(move || {
        for client in rpc.incoming() {
            let (Ok(client), sender) = (client, sender.clone()) else {
                return;
            };
            std::thread::spawn(move || answer(client, &sender));
        }
    });
    let mut child = Command::new(node().expect("a pm2 was named, so there is a node"))
        .arg(pm2)
        .arg("start")
        .args(start)
        .current_dir(root.join("app"))
        .env_clear()
        .envs(
            env.iter()
                .map(|(name, value)| (name, value.as_str().unwrap())),
        )
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(root.join("out")).unwrap())
        .stderr(std::fs::File::create(root.join("err")).unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("pm2 start {start:?} did not end within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = ["out", "err"]
        .map(|name| std::fs::read_to_string(root.join(name)).unwrap())
        .concat();
    let mut says: Vec<String> = Vec::new();
    for words in output.lines().filter_map(said) {
        // For a script, all that was said is said once more on one line.
        if words != says.join(",") {
            says.push(words);
        }
    }
    Outcome {
        prepares: prepares.try_iter().collect(),
        says,
    }
}

/// A line that says that something is wrong, without its prefix.
fn said(line: &str) -> Option<String> {
    let words = line
        .strip_prefix("[PM2][WARN] ")
        .or(line.strip_prefix("[PM2][ERROR] "))?;
    let words = words.strip_prefix("Error: ").unwrap_or(words).trim();
    let progress = [
        "Applications ",
        "App ",
        "Folder does not exist",
        "Environment [",
    ];
    (!progress.iter().any(|start| words.starts_with(start))).then(|| words.to_string())
}

/// Answers a client's calls until it closes (AMP frames; pm2-behaviour 3.1 and 3.2).
fn answer(mut client: UnixStream, prepares: &SyncSender<Value>) -> io::Result<()> {
    loop {
        let mut meta = [0];
        client.read_exact(&mut meta)?;
        let mut parts = Vec::new();
        for _ in 0..meta[0] & 15 {
            let mut length = [0; 4];
            client.read_exact(&mut length)?;
            let mut part = vec![0; u32::from_be_bytes(length) as usize];
            client.read_exact(&mut part)?;
            parts.push(part);
        }
        let call: Value = serde_json::from_slice(&parts[0][2..])?;
        let argument = call["args"][0].clone();
        let result = match call["method"].as_str().unwrap_or_default() {
            "getVersion" => json!("7.0.4"),
            "getMonitorData" => json!([]),
            "prepare" => {
                prepares.send(argument.clone()).map_err(io::Error::other)?;
                let mut env = argument;
                env["pm_id"] = json!(0);
                env["status"] = json!("online");
                json!([{"process": {"pid": 1}, "pid": 1, "pm_id": 0, "pm2_env": env}])
            }
            _ => json!({}),
        };
        let reply = format!("j:{}", json!({"args": [result]}));
        client.write_all(&[0x12])?;
        for part in [reply.as_bytes(), &parts[1]] {
            client.write_all(
                &u32::try_from(part.len())
                    .map_err(io::Error::other)?
                    .to_be_bytes(),
            )?;
            client.write_all(part)?;
        }
    }
}
