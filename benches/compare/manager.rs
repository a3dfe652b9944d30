//! A process manager under test: its program, its own home and ports, and its words for the same things.

use super::apps::{self, App};
use super::process::{MARK, marked, text, until};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Whose manager it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The real PM2.
    Pm2,
    /// OxMgr.
    OxMgr,
    /// Ours.
    Fornax,
}

impl Kind {
    /// In the order of the table's columns.
    pub const ALL: [Kind; 3] = [Kind::Pm2, Kind::OxMgr, Kind::Fornax];

    /// The column's title.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Pm2 => "PM2",
            Kind::OxMgr => "OxMgr",
            Kind::Fornax => "Fornax",
        }
    }

    /// What `--managers` calls it.
    pub fn key(self) -> &'static str {
        match self {
            Kind::Pm2 => "pm2",
            Kind::OxMgr => "oxmgr",
            Kind::Fornax => "fornax",
        }
    }

    /// Where its program is; `None`: not on this machine.
    pub fn program(self) -> Option<PathBuf> {
        let named = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
        match self {
            Kind::Fornax => {
                named("FORNAX_BIN").or_else(|| Some(env!("CARGO_BIN_EXE_fornax").into()))
            }
            Kind::OxMgr => named("FORNAX_OXMGR"),
            Kind::Pm2 => named("FORNAX_PM2").or_else(|| {
                let path = std::env::var_os("PATH")?;
                std::env::split_paths(&path)
                    .map(|folder| folder.join("pm2"))
                    .find(|file| file.is_file())
            }),
        }
    }
}

/// One manager with a home that nobody has used before. What it started ends with it.
pub struct Manager {
    /// Whose.
    pub kind: Kind,
    /// Where scripts, stamps and the home are.
    pub folder: PathBuf,
    program: PathBuf,
    ports: [u16; 2],
}

impl Manager {
    /// A fresh one under `scratch`; `number` tells it from the others.
    pub fn new(kind: Kind, program: &Path, scratch: &Path, number: usize) -> Self {
        let mut at = number;
        let folder = loop {
            let folder = scratch.join(format!("{}-{at}", kind.key()));
            if fs::create_dir(&folder).is_ok() {
                break folder;
            }
            at += 1;
        };
        let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let ports = listeners.map(|listener| listener.local_addr().expect("it is bound").port());
        Self {
            kind,
            folder,
            program: program.to_owned(),
            ports,
        }
    }

    /// Its home folder.
    pub fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// Its program with these arguments, in its own environment and without a terminal.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env(MARK, &self.folder);
        match self.kind {
            Kind::Fornax => command
                .env("PM2_HOME", self.home())
                .env("FORNAX_HTTP", format!("127.0.0.1:{}", self.ports[0])),
            Kind::Pm2 => command
                .env("PM2_HOME", self.home())
                .env("PM2_DISABLE_VERSION_CHECK", "true"),
            Kind::OxMgr => command
                .env("OXMGR_HOME", self.home())
                .env("OXMGR_DAEMON_ADDR", format!("127.0.0.1:{}", self.ports[0]))
                .env("OXMGR_API_ADDR", format!("127.0.0.1:{}", self.ports[1]))
                // Its default keeps 100 MB, which would lose half of the flood.
                .env("OXMGR_LOG_MAX_FILES", "100"),
        };
        command
    }

    /// Runs a command to its end and says how many milliseconds it took.
    pub fn time(&self, args: &[&str]) -> f64 {
        let mut command = self.command(args);
        let begun = Instant::now();
        let status = command.status().expect("the manager's program can be run");
        let taken = begun.elapsed().as_secs_f64() * 1e3;
        assert!(
            status.success(),
            "{} {args:?} failed: {status}",
            self.kind.name()
        );
        taken
    }

    /// The cheapest command that starts a daemon where none runs, timed. OxMgr has no `ping`.
    pub fn boot(&self) -> f64 {
        match self.kind {
            Kind::Fornax | Kind::Pm2 => self.time(&["ping"]),
            Kind::OxMgr => self.time(&["list"]),
        }
    }

    /// Starts apps from one file; the command's own time.
    pub fn start(&self, apps: &[App], stamped: bool) -> f64 {
        let file = apps::write_file(self.kind, &self.folder, apps, stamped);
        let file = file.to_str().expect("our paths are UTF-8");
        match self.kind {
            Kind::Fornax | Kind::Pm2 => self.time(&["start", file]),
            Kind::OxMgr => self.time(&["apply", file]),
        }
    }

    /// The daemon's pid, once there is one.
    pub fn daemon(&self) -> i32 {
        until("the daemon's pid", || match self.kind {
            Kind::Fornax | Kind::Pm2 => text(&self.home().join("pm2.pid")).trim().parse().ok(),
            Kind::OxMgr => self.processes().into_iter().find(|pid| {
                let line = text(Path::new(&format!("/proc/{pid}/cmdline")));
                line.contains("oxmgr") && line.contains("daemon")
            }),
        })
    }

    /// The folder its apps' logs are in.
    pub fn logs(&self) -> PathBuf {
        self.home().join("logs")
    }

    /// Ends the daemon and all its apps, by its own word first.
    pub fn end(self) {
        let word: &[&str] = match self.kind {
            Kind::Fornax | Kind::Pm2 => &["kill"],
            Kind::OxMgr => &["daemon", "stop"],
        };
        // What does not obey is killed below.
        let _ = self.command(word).status();
        super::process::end_marked(&self.folder);
        // A leftover goes with the scratch folder.
        let _ = fs::remove_dir_all(&self.folder);
    }

    fn processes(&self) -> Vec<i32> {
        marked(&self.folder)
    }
}
