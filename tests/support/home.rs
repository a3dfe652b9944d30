//! The real program in a home of its own, and a guard that leaves no process of it behind.

// A helper of tests: what it cannot do ends the test, and no test uses all of it.
#![allow(clippy::unwrap_used, dead_code)]

use serde_json::Value;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take before the test fails. Long: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(45);
/// How long a command may take: some make Python environments with the real pip.
const COMMAND_PATIENCE: Duration = Duration::from_secs(180);
/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(10);

/// Waits until `look` gives something.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "it never came to this: {what}");
        std::thread::sleep(PERIOD);
    }
}

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub out: String,
    /// What it complained of.
    pub err: String,
}

impl Ran {
    /// It must have succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// It must have failed as PM2 fails.
    #[track_caller]
    pub fn fails(self, words: &str) -> Self {
        assert_eq!(self.code, 1, "{self:#?}");
        assert!(
            self.err.contains(words) || self.out.contains(words),
            "`{words}` is not said: {self:#?}"
        );
        self
    }

    /// Its output must hold these words.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(
            self.out.contains(words) || self.err.contains(words),
            "`{words}` is not said: {self:#?}"
        );
        self
    }
}

/// The program under test: the one built with it, or another one that `FORNAX_BIN` names (benchmarks of a release build).
fn program() -> PathBuf {
    let other = std::env::var_os("FORNAX_BIN").map(PathBuf::from);
    other.unwrap_or_else(|| env!("CARGO_BIN_EXE_fornax").into())
}

/// A PM2_HOME, and beside it a folder for apps.
pub struct Home {
    dir: tempfile::TempDir,
    program: PathBuf,
    env: Vec<(String, String)>,
}

impl Home {
    /// Without HTTP.
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// With these variables, which win over the usual ones.
    pub fn with(env: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("fx").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("apps")).unwrap();
        Self {
            dir,
            program: program(),
            env: env
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    /// Another home whose GPUs are leased in the same folder.
    pub fn neighbour(&self) -> Self {
        let leases = self.dir.path().join("leases");
        Self::with(&[("FORNAX_LEASE_DIR", leases.to_str().unwrap())])
    }

    /// PM2_HOME.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("pm2")
    }

    /// The folder of apps, where commands run.
    pub fn apps(&self) -> PathBuf {
        self.dir.path().join("apps")
    }

    /// A file in PM2_HOME, as text.
    pub fn read(&self, name: &str) -> String {
        let path = self.root().join(name);
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    /// Writes an app's file, executable; its path.
    pub fn app(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.apps().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Another name for the program.
    pub fn link(&self, name: &str) -> PathBuf {
        let bin = self.dir.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let path = bin.join(name);
        std::os::unix::fs::symlink(&self.program, &path).unwrap();
        path
    }

    /// The command, not started yet.
    pub fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        let own = |name: &str| self.dir.path().join(name).to_str().unwrap().to_owned();
        command
            .args(args)
            .current_dir(self.apps())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", own("user"))
            .env("TZ", "UTC")
            .env("PM2_HOME", self.root())
            .env("FORNAX_HTTP", "off")
            .env("FORNAX_LEASE_DIR", own("leases"))
            .env("FORNAX_WORKSPACE", own("workspace"))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs `fornax` with these arguments.
    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, &[])
    }

    /// The same with variables of this run only.
    pub fn run_with(&self, args: &[&str], env: &[(&str, &str)]) -> Ran {
        let mut command = self.command(&self.program, args);
        command.envs(env.iter().copied());
        finish(command)
    }

    /// Runs it under another name.
    pub fn run_as(&self, program: &Path, args: &[&str]) -> Ran {
        finish(self.command(program, args))
    }

    /// Starts it and comes back at once, with its output in a file of its own beside the home.
    pub fn spawn(&self, program: &Path, args: &[&str]) -> Running {
        static SPAWNED: AtomicU32 = AtomicU32::new(0);
        let number = SPAWNED.fetch_add(1, Ordering::Relaxed);
        let out = self.dir.path().join(format!("spawned-{number}.out"));
        let file = std::fs::File::create(&out).unwrap();
        let mut command = self.command(program, args);
        command.stdout(file.try_clone().unwrap()).stderr(file);
        Running {
            child: command.spawn().unwrap(),
            out,
        }
    }

    /// The path of the program itself.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// All instances, as `jlist` tells them.
    pub fn list(&self) -> Vec<Value> {
        let ran = self.run(&["jlist"]).ok();
        serde_json::from_str(&ran.out)
            .unwrap_or_else(|error| panic!("jlist is not JSON ({error}): {}", ran.out))
    }

    /// One instance of `jlist`.
    pub fn item(&self, name: &str) -> Value {
        self.list()
            .into_iter()
            .find(|item| item["name"] == name)
            .unwrap_or_else(|| panic!("`{name}` is not listed"))
    }

    /// Its status.
    pub fn status(&self, name: &str) -> String {
        self.item(name)["pm2_env"]["status"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Waits for a status.
    pub fn until_status(&self, name: &str, status: &str) -> Value {
        eventually(&format!("{name} is {status}"), || {
            let item = self.item(name);
            (item["pm2_env"]["status"] == status).then_some(item)
        })
    }

    /// The pid of an instance that runs.
    pub fn pid(&self, name: &str) -> u32 {
        u32::try_from(self.item(name)["pid"].as_u64().unwrap()).unwrap()
    }

    /// The daemon's pid.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.read("pm2.pid").trim().parse().ok()
    }

    /// Waits until a file in PM2_HOME holds these words.
    pub fn until_file_has(&self, name: &str, words: &str) -> String {
        eventually(&format!("{name} holds `{words}`"), || {
            Some(self.read(name)).filter(|text| text.contains(words))
        })
    }

    /// Where the daemon serves HTTP: told by `fornax status`.
    pub fn http(&self) -> String {
        let mut client =
            fornax::pm2::client::Client::connect(&self.root().join("rpc.sock")).unwrap();
        eventually("HTTP listens", || {
            let told: Value = client
                .call("fornaxStatus", &[serde_json::json!({})])
                .unwrap();
            told["http"]["address"].as_str().map(str::to_owned)
        })
    }

    /// Status code and body of a GET on the daemon's HTTP.
    pub fn get(&self, path: &str) -> (u16, String) {
        get(&self.http(), path)
    }

    /// Every process that has this home in its environment.
    pub fn processes(&self) -> Vec<u32> {
        let marker = format!("PM2_HOME={}", self.root().display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if environ
                .split(|byte| *byte == 0)
                .any(|variable| variable == marker.as_bytes())
            {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- pm2.log of the failed test:\n{}", self.read("pm2.log"));
        }
        let mut command = self.command(&self.program, &["kill"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            std::thread::sleep(PERIOD);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.processes().is_empty() && Instant::now() < deadline {
            std::thread::sleep(PERIOD);
        }
        let left = self.processes();
        let names: Vec<String> = left.iter().map(|pid| command_line(*pid)).collect();
        for pid in &left {
            kill(*pid, 9);
        }
        if !std::thread::panicking() {
            assert!(left.is_empty(), "left behind: {names:?}");
        }
    }
}

/// A command that goes on beside the test. Killed at the end, if it still runs.
pub struct Running {
    /// The process.
    pub child: Child,
    out: PathBuf,
}

impl Running {
    /// What it has printed so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Waits for its end.
    pub fn code(&mut self) -> Option<i32> {
        eventually("the command ends", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has usually ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn finish(mut command: Command) -> Ran {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let reader = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = reader(Box::new(child.stdout.take().unwrap()));
    let err = reader(Box::new(child.stderr.take().unwrap()));
    let deadline = Instant::now() + COMMAND_PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{command:?} did not end within {COMMAND_PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Ran {
        code: status.code().unwrap_or(-1),
        out: out.join().unwrap(),
        err: err.join().unwrap(),
    }
}

/// Status code and body of a GET.
pub fn get(address: &str, path: &str) -> (u16, String) {
    use std::io::Write;
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// Sends a signal; whoever has gone is passed over.
pub fn kill(pid: u32, signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()),
        signal,
    );
}

/// Whether a process lives; a zombie does not.
pub fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        !state.starts_with(['Z', 'X'])
    })
}

fn command_line(pid: u32) -> String {
    let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!(
        "{pid}: {}",
        String::from_utf8_lossy(&text).replace('\0', " ")
    )
}

/// A port that was free a moment ago, with `count - 1` free ones after it.
pub fn free_ports(count: u16) -> u16 {
    loop {
        let first = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let all = (first..first.saturating_add(count))
            .all(|port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
        if all && first < u16::MAX - count {
            return first;
        }
    }
}
