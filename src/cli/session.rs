//! What every command works with: the home, the output, and the daemon behind the socket.

use super::render::{ProcRow, message};
use crate::core::spec::home::Home;

use crate::pm2::client::{Client, ClientError};
use crate::sys::{notify, owner, private};
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take to come up.
const BOOT_LIMIT: Duration = Duration::from_secs(20);

/// A failure that has been told already: only the exit code is left.
#[derive(Debug, thiserror::Error)]
#[error("already told")]
pub struct Told;

/// Where a command's words go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Nothing but data and errors is printed.
    pub silent: bool,
    /// Of what a command says of its work nothing is printed; errors are.
    pub quiet: bool,
    /// Colour codes are wanted on standard output.
    pub colour: bool,
}

impl Output {
    /// `[PM2] …` on standard output.
    pub fn done(&self, text: &str) {
        self.line(&message::done(text, self.colour));
    }

    /// `[PM2][WARN] …` on standard output.
    pub fn warn(&self, text: &str) {
        self.line(&message::warn(text, self.colour));
    }

    /// A line as it is, unless silent.
    pub fn line(&self, text: &str) {
        if !self.silent && !self.quiet {
            print(&format!("{text}\n"));
        }
    }

    /// `[PM2][ERROR] …` on standard error.
    pub fn error(&self, text: &str) {
        if !self.silent {
            eprintln!(
                "{}",
                message::error(text, std::io::stderr().is_terminal() && self.colour)
            );
        }
    }

    /// An error as PM2 says some: on standard error, without a prefix.
    pub fn plain_error(&self, text: &str) {
        if !self.silent {
            eprintln!("{text}");
        }
    }

    /// `[PM2][WARN] …` on standard error, as PM2 says that nothing was found.
    pub fn warn_aloud(&self, text: &str) {
        if !self.silent {
            eprintln!(
                "{}",
                message::warn(text, std::io::stderr().is_terminal() && self.colour)
            );
        }
    }
}

/// Writes to standard output. Whoever reads it may have gone (`| head`), which is no failure.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("cannot write to standard output: {error}");
        std::process::exit(1);
    }
}

/// One command's run.
pub struct Session {
    /// PM2_HOME.
    pub home: Home,
    /// Where words go.
    pub output: Output,
    /// Where a daemon that this command starts is to serve HTTP; else `FORNAX_HTTP` says.
    pub http: Option<String>,
    /// `--parallel`: for how many instances an action is at a time.
    pub parallel: Option<usize>,
    /// A daemon that this command starts ends with it, however it ends.
    pub owns_daemon: bool,
    /// Called once when this command has started a daemon, with nothing told: modules start with it.
    pub on_start: Option<fn(&mut Session) -> anyhow::Result<()>>,
    client: Option<Client>,
}

impl Session {
    /// Nothing is connected yet.
    pub fn new(home: Home, output: Output) -> Self {
        Self {
            home,
            output,
            http: None,
            parallel: None,
            owns_daemon: false,
            on_start: None,
            client: None,
        }
    }

    /// The daemon, started if none runs. `quiet`: its start is not told, since what follows must be pure data.
    pub fn daemon(&mut self, quiet: bool) -> anyhow::Result<&mut Client> {
        let mut started = false;
        if self.client.is_none() {
            self.client = Some(match self.connect()? {
                Some(client) => client,
                None => {
                    let told = if quiet {
                        Output {
                            silent: true,
                            ..self.output
                        }
                    } else {
                        self.output
                    };
                    told.done(&format!(
                        "Spawning PM2 daemon with pm2_home={}",
                        self.home.root().display()
                    ));
                    self.spawn_daemon()?;
                    told.done("PM2 Successfully daemonized");
                    let client = self.connect()?.context(
                        "the daemon has come up and gone again; see pm2.log in PM2_HOME",
                    )?;
                    started = true;
                    client
                }
            });
        }
        if let Some(then) = self.on_start.take_if(|_| started) {
            let told = std::mem::replace(&mut self.output.silent, true);
            let done = then(self);
            self.output.silent = told;
            done?;
        }
        self.client.as_mut().context("connected above")
    }

    /// The daemon, if one runs.
    pub fn running_daemon(&mut self) -> anyhow::Result<Option<&mut Client>> {
        if self.client.is_none() {
            self.client = self.connect()?;
        }
        Ok(self.client.as_mut())
    }

    /// Whatever is connected is over, after `kill` for one.
    pub fn disconnect(&mut self) {
        self.client = None;
    }

    fn connect(&self) -> anyhow::Result<Option<Client>> {
        match Client::connect(&self.home.rpc_socket()) {
            Ok(client) => Ok(Some(client)),
            Err(ClientError::Connect { source, path }) => match source.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => Ok(None),
                std::io::ErrorKind::PermissionDenied => {
                    self.output
                        .error("Permission denied, to give access to current user:");
                    eprintln!(
                        "$ sudo chown {0}:{0} {1} {2}",
                        user_name(),
                        path.display(),
                        self.home.pub_socket().display()
                    );
                    bail!(Told)
                }
                std::io::ErrorKind::InvalidInput => bail!(
                    "{} is too long for a socket (107 bytes at most); choose a shorter PM2_HOME",
                    path.display()
                ),
                _ => Err(ClientError::Connect { source, path }.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Starts a daemon and waits until it says that it is ready. Where another one has the home it is either coming up, and
    /// answers in a moment, or ending, and lets go of the home when its last app has ended.
    fn spawn_daemon(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + BOOT_LIMIT;
        loop {
            let said = self.spawn_once()?;
            if said.starts_with("ready") || self.connect()?.is_some() {
                return Ok(());
            }
            if !said.contains("runs already") || Instant::now() > deadline {
                let reason = match said.trim() {
                    "" => "it ended at once; see pm2.log in PM2_HOME",
                    reason => reason,
                };
                bail!("the daemon did not come up: {reason}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts a daemon of this very program; what it says of itself.
    fn spawn_once(&self) -> anyhow::Result<String> {
        let root = self.home.root();
        let others_wrote =
            private::folder(root).with_context(|| format!("cannot use {}", root.display()))?;
        if others_wrote {
            self.output.warn(&format!(
                "Other users could write to {} until now; look at what lies in it, dump.pm2 above all",
                root.display()
            ));
        }
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.home.log_file())
            .with_context(|| format!("cannot write {}", self.home.log_file().display()))?;
        let exe = std::env::current_exe().context("cannot find our own program file")?;
        let (mut ready, promise) = std::io::pipe().context("cannot make a pipe")?;
        let mut command = Command::new(&exe);
        command
            .arg0(format!("fornax keeper ({})", root.display()))
            .arg("daemon")
            .env("FORNAX_READY_FD", "0")
            .env("PM2_HOME", root)
            .env_remove("FORNAX_INSTANCE")
            .env_remove("NODE_CHANNEL_FD")
            .env_remove(owner::VARIABLE)
            .stdin(Stdio::from(promise))
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log));
        for name in notify::VARIABLES {
            command.env_remove(name);
        }
        if let Some(us) = owner::ourselves().filter(|_| self.owns_daemon) {
            command.env(owner::VARIABLE, us);
        }
        if let Some(address) = &self.http {
            command.env("FORNAX_HTTP", address);
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", exe.display()))?;
        // The command keeps our copies of the descriptors; the pipe ends only when it is gone.
        drop(command);
        let mut said = String::new();
        ready
            .read_to_string(&mut said)
            .context("cannot hear from the daemon")?;
        if !said.starts_with("ready") {
            // It has ended, or is about to.
            let _ = child.wait();
        }
        Ok(said)
    }

    /// All instances, without their environments.
    pub fn rows(&mut self) -> anyhow::Result<Vec<ProcRow>> {
        let ask = [json!({"env": false})];
        let mut rows: Vec<ProcRow> = match self.daemon(false)?.call("getMonitorData", &ask) {
            // A daemon that was killed or replaced has a successor, and asking twice changes nothing.
            Err(ClientError::Broken { .. }) => {
                self.disconnect();
                self.daemon(false)?.call("getMonitorData", &ask)?
            }
            told => told?,
        };
        name_users(&mut rows);
        Ok(rows)
    }

    /// All instances, whole.
    pub fn items(&mut self, quiet: bool) -> anyhow::Result<Vec<Value>> {
        Ok(self.daemon(quiet)?.call("getMonitorData", &[json!({})])?)
    }
}

/// Tells of each row who runs it, and not who has started it (pm2 7.0.4).
pub fn name_users(rows: &mut [ProcRow]) {
    for row in rows {
        if let Some(uid) = row.uid {
            row.username = Some(name_of(nix::unistd::Uid::from_raw(uid)));
        }
    }
}

/// Who runs this command.
pub fn user_name() -> String {
    name_of(nix::unistd::getuid())
}

fn name_of(uid: nix::unistd::Uid) -> String {
    nix::unistd::User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name)
}

/// Milliseconds since the Unix epoch.
pub fn wall_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as u64)
}
