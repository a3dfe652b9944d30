//! Running a program of somebody else's: every line into the log, the last ones kept, a limit of time.

use super::progress::Teller;
use crate::core::comfyui::diagnosis;
use crate::sys::{parent, procfs};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// The variable by which what an installer runs is known to the next one.
pub const MARKER: &str = "FORNAX_INSTALL";

/// Lines kept of what was run.
const LINES: usize = 400;
/// The longest line, in bytes; a longer one is cut.
const LINE: usize = 16 << 10;
/// Lines on their way from the pipe; when so many wait, the program waits.
const WAITING: usize = 256;
/// A disk with less room than this counts as full, in bytes.
const FULL: u64 = 1 << 20;
/// What a program that has ended may leave in its pipe is read for so long: something else may hold it open.
const DRAIN: Duration = Duration::from_secs(2);

/// Hears each line.
type Each<'a> = Box<dyn FnMut(&str) + 'a>;

/// A program to be run.
pub struct Run<'a> {
    teller: &'a Teller<'a>,
    workspace: &'a Path,
    command: Command,
    limit: Duration,
    each: Option<Each<'a>>,
}

/// What became of it.
#[derive(Debug)]
pub struct Ran {
    /// It ended with code 0.
    pub ok: bool,
    /// How it ended, in words.
    pub how: String,
    /// Its last lines, both streams, without secrets.
    pub lines: Vec<String>,
}

impl Ran {
    /// The cause by name, and how to mend it.
    pub fn cause(&self) -> (String, String) {
        match diagnosis::cause(self.lines.iter().map(String::as_str)) {
            Some(cause) => (cause.what, cause.mend),
            None => {
                let last = self.lines.iter().rev().find(|line| !line.trim().is_empty());
                let said =
                    last.map_or_else(String::new, |line| format!("; it said: {}", line.trim()));
                (
                    format!("{}{said}", self.how),
                    "see .fornax/install.log in the workspace".to_owned(),
                )
            }
        }
    }

    /// The last lines for a message.
    pub fn tail(&self) -> Vec<String> {
        let skip = self.lines.len().saturating_sub(12);
        self.lines[skip..].to_vec()
    }
}

impl<'a> Run<'a> {
    /// A program, with nothing on its standard input.
    pub fn new(teller: &'a Teller<'a>, workspace: &'a Path, program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command
            .stdin(Stdio::null())
            .env_remove("NODE_CHANNEL_FD")
            .env_remove("NODE_CHANNEL_SERIALIZATION_MODE")
            .env("PYTHONUNBUFFERED", "1");
        // An environment that the operator has activated is not ours.
        for name in ["VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "CONDA_PREFIX"] {
            command.env_remove(name);
        }
        Self {
            teller,
            workspace,
            command,
            limit: Duration::from_secs(3_600),
            each: None,
        }
    }

    /// Its arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Its folder.
    pub fn cwd(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// A variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Without a variable of ours.
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// How long it may take; then it is killed.
    pub fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Is given each line as it comes.
    pub fn each(mut self, each: impl FnMut(&str) + 'a) -> Self {
        self.each = Some(Box::new(each));
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It could not be started.
    pub fn run(mut self) -> io::Result<Ran> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let marker = format!(
            "{}#{}-{count}",
            self.workspace.display(),
            std::process::id()
        );
        self.command.env(MARKER, &marker);
        self.teller.line(&format!("$ {}", shown(&self.command)));
        let (reader, writer) = io::pipe()?;
        self.command.stdout(writer.try_clone()?).stderr(writer);
        parent::die_with_us(&mut self.command);
        let mut child = self.command.spawn()?;
        // Its copies of the pipe's end would keep us reading for ever.
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        let (sender, receiver) = sync_channel::<String>(WAITING);
        let thread = std::thread::Builder::new()
            .name("fornax-lines".to_owned())
            .spawn(move || split(reader, &mut |line| sender.send(line).is_ok()))?;
        let deadline = Instant::now() + self.limit;
        let mut lines = VecDeque::new();
        let mut ended: Option<(ExitStatus, Instant)> = None;
        let mut late = false;
        loop {
            match receiver.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => {
                    let line = self.teller.masked(&line);
                    self.teller.line(&line);
                    if let Some(each) = &mut self.each {
                        each(&line);
                    }
                    if lines.len() == LINES {
                        lines.pop_front();
                    }
                    lines.push_back(line);
                }
                Err(RecvTimeoutError::Disconnected) if ended.is_some() => break,
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if ended.is_none() {
                ended = child.try_wait()?.map(|status| (status, Instant::now()));
            }
            if ended.is_none() && !late && Instant::now() > deadline {
                late = true;
                // It may have ended this moment.
                let _ = child.kill();
                end_marked(&|value| value == marker);
            }
            if ended.is_some_and(|(_, at)| at.elapsed() > DRAIN) {
                break;
            }
        }
        drop(receiver);
        // It ends with the pipe, or with its next line, of which nobody hears.
        if thread.is_finished() {
            let _ = thread.join();
        }
        let how = match (late, ended) {
            (true, _) => format!("took longer than {} s and was ended", self.limit.as_secs()),
            (false, Some((status, _))) => status.to_string(),
            (false, None) => "has ended".to_owned(),
        };
        let ok = !late && ended.is_some_and(|(status, _)| status.success());
        // Many a program does not say why it could not write.
        if !ok && super::upkeep::free(self.workspace).is_ok_and(|free| free < FULL) {
            lines.push_back(format!(
                "{}: no space left on device",
                self.workspace.display()
            ));
        }
        Ok(Ran {
            ok,
            how,
            lines: lines.into(),
        })
    }
}

/// Ends whatever an installer that was killed has left running for this workspace. How many there were.
pub fn end_leftovers(workspace: &Path) -> usize {
    let prefix = format!("{}#", workspace.display());
    let ours = format!("{prefix}{}-", std::process::id());
    let mut ended = 0;
    // What is killed may just have started something.
    for _ in 0..50 {
        let found = end_marked(&|value| value.starts_with(&prefix) && !value.starts_with(&ours));
        if found == 0 {
            break;
        }
        ended = ended.max(found);
        std::thread::sleep(Duration::from_millis(20));
    }
    ended
}

fn end_marked(is: &dyn Fn(&str) -> bool) -> usize {
    let mut ended = 0;
    for process in procfs::all() {
        let alive = !process.is_dead() && process.pid != std::process::id();
        if alive && procfs::environ_value(process.pid, MARKER).is_some_and(|value| is(&value)) {
            ended += 1;
            if let Ok(pidfd) = crate::sys::pidfd::open(process.pid) {
                // Gone is what is wanted.
                let _ = crate::sys::pidfd::signal(
                    std::os::fd::AsFd::as_fd(&pidfd),
                    crate::core::signal::Signal::KILL,
                );
            }
        }
    }
    ended
}

/// Calls `take` with each line, at a `\n` or a `\r`, until it says no or the pipe ends.
fn split(mut pipe: impl Read, take: &mut dyn FnMut(String) -> bool) {
    let mut buffer = [0_u8; 8 << 10];
    let mut line: Vec<u8> = Vec::new();
    loop {
        let length = match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for byte in &buffer[..length] {
            match byte {
                b'\n' | b'\r' => {
                    if !line.is_empty() && !take(String::from_utf8_lossy(&line).into_owned()) {
                        return;
                    }
                    line.clear();
                }
                _ if line.len() < LINE => line.push(*byte),
                _ => {}
            }
        }
    }
    if !line.is_empty() {
        take(String::from_utf8_lossy(&line).into_owned());
    }
}

/// The command as a person would type it.
fn shown(command: &Command) -> String {
    let word = |text: &OsStr| {
        let text = crate::core::comfyui::manifest::redacted(&text.to_string_lossy());
        match text.contains([' ', '\'', '"', '$', '\\']) || text.is_empty() {
            true => format!("{text:?}"),
            false => text,
        }
    };
    let all = std::iter::once(command.get_program()).chain(command.get_args());
    all.map(word).collect::<Vec<_>>().join(" ")
}

/// A program in PATH.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(OsString::from(name)))
        .find(|file| {
            file.is_file() && nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok()
        })
}
