//! Telling how far an install is: the state file, the log, the app's channel, and whoever listens.

use super::layout::Layout;
use super::record::{StepRecord, write_json};
use crate::sys::fds;
use crate::sys::files::Readers;
use nix::sys::socket::{MsgFlags, send};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The log is begun anew past this, in bytes; the one before it is kept as `.1`.
const LOG_LIMIT: u64 = 16 << 20;
/// Messages within one phase are told at most this often.
const PACE: Duration = Duration::from_millis(200);
/// The longest message, in characters.
const MESSAGE_LIMIT: usize = 300;

/// `.fornax/install.json`: what the installer does, or has done last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The installer's pid.
    pub pid: u32,
    /// When it began, in milliseconds since the Unix epoch.
    pub began_ms: u64,
    /// When this was written.
    pub updated_ms: u64,
    /// The step that it is at.
    pub phase: String,
    /// Its number, from 1.
    pub step: u32,
    /// How many there are.
    pub of: u32,
    /// What it does, in words.
    pub message: String,
    /// How far it is, 0 to 100.
    pub percent: u32,
    /// The build that is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// `running`, `done` or `failed`.
    pub outcome: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The steps of this run and their seconds.
    #[serde(default)]
    pub steps: Vec<StepRecord>,
}

/// Called with each change.
pub type Listener<'a> = Box<dyn Fn(&State) + Send + Sync + 'a>;

/// What an installer tells of itself. Shared by the threads that clone; each lock is held for a write.
pub struct Teller<'a> {
    layout: Layout,
    state: Mutex<(State, Instant)>,
    log: Mutex<File>,
    secrets: Mutex<Vec<String>>,
    channel: Option<OwnedFd>,
    listener: Listener<'a>,
}

impl<'a> Teller<'a> {
    /// Opens the log and says that it begins.
    ///
    /// # Errors
    /// The log cannot be opened.
    pub fn new(layout: &Layout, of: u32, listener: Listener<'a>) -> io::Result<Self> {
        let path = layout.log_file();
        if path.metadata().is_ok_and(|meta| meta.len() > LOG_LIMIT) {
            std::fs::rename(&path, path.with_extension("log.1"))?;
        }
        let log = OpenOptions::new().append(true).create(true).open(&path)?;
        let now = now_ms();
        let state = State {
            pid: std::process::id(),
            began_ms: now,
            updated_ms: now,
            phase: "preflight".to_owned(),
            step: 1,
            of,
            message: "beginning".to_owned(),
            percent: 0,
            build: None,
            outcome: "running".to_owned(),
            error: None,
            steps: Vec::new(),
        };
        Ok(Self {
            layout: layout.clone(),
            state: Mutex::new((state, Instant::now())),
            log: Mutex::new(log),
            secrets: Mutex::new(Vec::new()),
            channel: channel(),
            listener,
        })
    }

    /// A text that is not to stand in any log.
    pub fn hide(&self, secret: &str) {
        // Short ones are words such as `1` or `llama3`, which hide nothing and would make a log unreadable.
        if secret.len() >= 6 {
            held(&self.secrets).push(secret.to_owned());
        }
    }

    /// A line for the log; secrets are taken out.
    pub fn line(&self, line: &str) {
        let line = self.masked(line);
        // A log that cannot be written is no reason to end an install that can go on.
        let _ = writeln!(held(&self.log), "{line}");
    }

    /// The text without secrets.
    pub fn masked(&self, text: &str) -> String {
        let secrets = held(&self.secrets);
        let mut text = text.to_owned();
        for secret in secrets.iter() {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), "***");
            }
        }
        text
    }

    /// Another step begins.
    pub fn phase(&self, phase: &str, step: u32, message: &str) {
        self.line(&format!("== {} {phase}: {message}", stamp()));
        self.change(true, |state| {
            state.phase = phase.to_owned();
            state.step = step;
            state.percent = (step - 1) * 100 / state.of.max(1);
            state.message = message.to_owned();
        });
    }

    /// What is done within a step; `part` of it, 0 to 1, is behind us.
    pub fn say(&self, message: &str, part: Option<f64>) {
        let message: String = self.masked(message).chars().take(MESSAGE_LIMIT).collect();
        self.change(false, |state| {
            state.message = message;
            if let Some(part) = part {
                let step = f64::from(state.step.saturating_sub(1)) + part.clamp(0.0, 1.0);
                // 0 to 100, since the step is at most `of`.
                state.percent = (step * 100.0 / f64::from(state.of.max(1))) as u32;
            }
        });
    }

    /// The build that is made.
    pub fn build(&self, id: &str) {
        self.change(false, |state| state.build = Some(id.to_owned()));
    }

    /// A step is done.
    pub fn done(&self, step: &str, seconds: f64) {
        self.line(&format!("== {} {step}: done in {seconds:.1} s", stamp()));
        let step = step.to_owned();
        self.change(false, |state| {
            state.steps.push(StepRecord { step, seconds })
        });
    }

    /// It has ended.
    pub fn end(&self, outcome: Result<&str, String>) {
        self.change(true, |state| match outcome {
            Ok(message) => {
                state.outcome = "done".to_owned();
                state.percent = 100;
                state.message = message.to_owned();
            }
            Err(error) => {
                state.outcome = "failed".to_owned();
                state.message = error.lines().next().unwrap_or_default().to_owned();
                state.error = Some(error);
            }
        });
    }

    fn change(&self, always: bool, how: impl FnOnce(&mut State)) {
        let mut held = held(&self.state);
        how(&mut held.0);
        held.0.updated_ms = now_ms();
        (self.listener)(&held.0);
        if !always && held.1.elapsed() < PACE {
            return;
        }
        held.1 = Instant::now();
        // It is for people; the next change writes it again.
        let _ = write_json(&self.layout.state_file(), &held.0, Readers::Anybody);
        if let Some(channel) = &self.channel {
            tell(channel, &held.0);
        }
    }

    /// What was told last.
    pub fn state(&self) -> State {
        held(&self.state).0.clone()
    }
}

/// The state as the last installer left it.
pub fn last(layout: &Layout) -> Option<State> {
    let text = crate::comfyui::files::read_limited(&layout.state_file(), 1 << 20).ok()?;
    serde_json::from_str(&text).ok()
}

/// Our end of the channel of Node's kind that Fornax gives its apps.
fn channel() -> Option<OwnedFd> {
    let number: i32 = std::env::var("NODE_CHANNEL_FD").ok()?.parse().ok()?;
    let is_socket = std::fs::read_link(format!("/proc/self/fd/{number}"))
        .is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
    match (3..1_024).contains(&number) && is_socket {
        true => fds::take_over(number).ok(),
        false => None,
    }
}

/// One message in pm2's words for metrics. A daemon that does not read is not waited for.
fn tell(channel: &OwnedFd, state: &State) {
    let value = |value: String| json!({"value": value, "type": "install", "historic": false});
    let message = json!({"type": "axm:monitor", "data": {
        "phase": value(state.phase.clone()),
        "step": value(format!("{}/{}", state.step, state.of)),
        "progress": value(format!("{}%", state.percent)),
        "message": value(state.message.clone()),
    }});
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    // The next change tells the same and more.
    let _ = send(
        channel.as_raw_fd(),
        format!("{message}\n").as_bytes(),
        flags,
    );
}

/// Milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// A time for the log.
fn stamp() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
