//! A run's lines, from the log plane: what it has said so far, then what it says.

use crate::adapters::logs::{Filter, FollowItem, Follower, LogPlane, TailQuery, TailTarget};
use crate::core::comfyui::imports::Import;
use crate::core::ids::{PmId, Stream};
use crate::core::monitor::lines::{Lines, Told};
use crate::daemon::snapshot::InstanceView;
use std::collections::HashMap;
use std::sync::Arc;

/// Lines that are read back at most.
const BACK: usize = 2_000;
/// Longest line that is looked at, in bytes.
const LINE: usize = 8 << 10;

/// The log of one run. Owner: its monitor's task.
pub(super) struct Log {
    follower: Option<Follower>,
    id: PmId,
    lines: Lines,
    form: Form,
    /// The last line of each stream that was read back.
    read_to: HashMap<Stream, u64>,
}

/// How the plane writes a line.
#[derive(Debug, Clone, Copy)]
enum Form {
    Raw,
    /// `date: line`.
    Stamped,
    /// `{"message": "line\n", …}`.
    Json,
}

impl Log {
    /// Begins to follow, and reads back what the run has said before. Blocking.
    pub fn open(plane: &LogPlane, view: &InstanceView) -> (Self, Vec<Told>) {
        let filter = Filter {
            instances: Some(vec![view.id]),
            ..Filter::default()
        };
        // It fails when the daemon ends.
        let follower = plane.follow(filter, Vec::new()).ok();
        let logs = &view.spec.logs;
        let form = match (logs.json, &logs.date_format) {
            (true, _) => Form::Json,
            (false, Some(_)) => Form::Stamped,
            (false, None) => Form::Raw,
        };
        let mut log = Self {
            follower,
            id: view.id,
            lines: Lines::default(),
            form,
            read_to: HashMap::new(),
        };
        let mut paths: Vec<_> = [&logs.out, &logs.err]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        paths.dedup();
        if logs.disabled || paths.is_empty() {
            return (log, Vec::new());
        }
        let query = TailQuery {
            targets: paths.into_iter().map(TailTarget::Path).collect(),
            limit: BACK,
            since_ms: Some(view.started_at_ms),
            grep: None,
        };
        let mut told = Vec::new();
        if let Ok(answer) = plane.tail(&query) {
            for line in &answer.lines {
                let ours = line.instance.is_none_or(|instance| instance == view.id);
                let since = line.at_ms.is_some_and(|at| at >= view.started_at_ms);
                if !ours || !since {
                    continue;
                }
                if let Some((stream, seq)) = line.stream.zip(line.seq) {
                    log.read_to.insert(stream, seq);
                }
                let text = log.plain(&line.text);
                told.extend(text.and_then(|text| log.lines.read(&text)));
            }
        }
        (log, told)
    }

    /// What the next lines tell. Never returns once the plane has ended.
    pub async fn next(&mut self) -> Vec<Told> {
        loop {
            let Some(follower) = &mut self.follower else {
                return std::future::pending().await;
            };
            match follower.recv().await {
                None => self.follower = None,
                Some(FollowItem::Missed(_)) => {}
                Some(FollowItem::Lines(batch)) => {
                    // A run's lines are all written before its successor is spawned.
                    if batch.instance != self.id {
                        continue;
                    }
                    let from = self.read_to.get(&batch.stream).copied().unwrap_or(0);
                    let told = self.read(&batch.text, batch.first_seq, from);
                    if !told.is_empty() {
                        return told;
                    }
                }
            }
        }
    }

    /// What could not be imported.
    pub fn import_failures(&self) -> Vec<Import> {
        self.lines.import_failures()
    }

    fn read(&mut self, text: &[u8], first: u64, from: u64) -> Vec<Told> {
        let mut told = Vec::new();
        for (seq, line) in (first..).zip(text.split(|byte| *byte == b'\n')) {
            if seq <= from || line.is_empty() {
                continue;
            }
            let line = String::from_utf8_lossy(&line[..line.len().min(LINE)]);
            // A progress bar draws over itself; what counts is what it ends with.
            let line = line.trim_end_matches('\r');
            let line = line.rsplit('\r').next().unwrap_or(line).to_owned();
            let plain = self.plain(&line);
            told.extend(plain.and_then(|text| self.lines.read(&text)));
        }
        told
    }

    /// The line as the run has written it.
    fn plain(&self, line: &str) -> Option<String> {
        match self.form {
            Form::Raw => Some(line.to_owned()),
            Form::Stamped => Some(
                line.split_once(": ")
                    .map_or(line, |(_, text)| text)
                    .to_owned(),
            ),
            Form::Json => {
                let value: serde_json::Value = serde_json::from_str(line).ok()?;
                Some(value.get("message")?.as_str()?.trim_end().to_owned())
            }
        }
    }
}

/// Opens it where that may block.
pub(super) async fn open(plane: LogPlane, view: Arc<InstanceView>) -> Option<(Log, Vec<Told>)> {
    let opened = tokio::task::spawn_blocking(move || Log::open(&plane, &view)).await;
    opened.ok()
}
