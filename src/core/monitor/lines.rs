//! Reads a ComfyUI's log line by line: how far its start has come, which node packs it could not import, and how its jobs end
//! (comfyui-facts 4.4).

use super::cause::{Cause, told_by};

/// Names of packs that are kept; further failures are counted.
const KEPT: usize = 256;
/// Longest name kept, in bytes.
const NAME: usize = 200;
/// Longest part of a line that is looked at, in bytes.
const LINE: usize = 4096;

/// How far a start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing has been said yet.
    Launching,
    /// Scripts of node packs run before the imports.
    Prestartup,
    /// torch and the core are being imported.
    Core,
    /// Node packs are being imported.
    Nodes,
    /// The port is about to be bound.
    Binding,
    /// It has said that it listens.
    Listening,
}

impl Phase {
    /// In words, for `starting up: …`.
    pub fn words(self) -> &'static str {
        match self {
            Phase::Launching => "Python starts",
            Phase::Prestartup => "node packs prepare",
            Phase::Core => "torch and the core are imported",
            Phase::Nodes => "node packs are imported",
            Phase::Binding => "the server starts",
            Phase::Listening => "it listens",
        }
    }
}

/// What a line tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The start has come so far. [`Phase::Core`] after [`Phase::Listening`]: it has started anew in the same process.
    Phase(Phase),
    /// This node pack, or module of the core, could not be imported.
    ImportFailed(String),
    /// A prompt was accepted.
    GotPrompt,
    /// A prompt has ended, in whatever way.
    Executed,
    /// A node failed: ComfyUI's heading of its traceback. What follows tells why.
    NodeFailed,
    /// Something is wrong.
    Trouble(Cause),
    /// These weights are being put on the device.
    Loads(String),
    /// ComfyUI-Manager starts it anew.
    Reboot,
}

/// Reads the lines of one run. Owner: its monitor.
#[derive(Debug, Default)]
pub struct Lines {
    table: bool,
    failed: Vec<String>,
    more: usize,
}

impl Lines {
    /// Takes a line.
    pub fn read(&mut self, line: &str) -> Option<Told> {
        let line = cut(line, LINE).trim_end();
        // The manager of node packs stamps and tags its own lines.
        let text = line.trim_start();
        if text.starts_with("Import times for custom nodes:") {
            self.table = true;
            return Some(Told::Phase(Phase::Nodes));
        }
        if text.starts_with("Prestartup times for custom nodes:") {
            self.table = false;
            return Some(Told::Phase(Phase::Prestartup));
        }
        if let Some((failed, path)) = row(text) {
            return (self.table && failed).then(|| self.failed(path)).flatten();
        }
        if let Some(module) = text.strip_prefix("IMPORT FAILED: ") {
            return self.failed(module);
        }
        if !text.is_empty() {
            self.table = false;
        }
        if text.starts_with("Checkpoint files will always be loaded safely") {
            // A start in the same process begins with an empty table.
            self.failed.clear();
            self.more = 0;
            return Some(Told::Phase(Phase::Core));
        }
        if text.starts_with("[Prompt Server] web root") {
            return Some(Told::Phase(Phase::Nodes));
        }
        if text.starts_with("Starting server") {
            return Some(Told::Phase(Phase::Binding));
        }
        if text.starts_with("To see the GUI go to:") {
            return Some(Told::Phase(Phase::Listening));
        }
        if text.starts_with("got prompt") {
            return Some(Told::GotPrompt);
        }
        if text.starts_with("Prompt executed in") {
            return Some(Told::Executed);
        }
        if text.starts_with("!!! Exception during processing !!!") {
            return Some(told_by(text).map_or(Told::NodeFailed, Told::Trouble));
        }
        if let Some(model) = text.strip_prefix("Requested to load ") {
            return Some(Told::Loads(cut(model, NAME).to_owned()));
        }
        if text.starts_with("Restarting...") {
            return Some(Told::Reboot);
        }
        if text.starts_with("Cannot import ") || text.starts_with("Failed to initialize database") {
            return None;
        }
        told_by(text).map(Told::Trouble)
    }

    /// What could not be imported, by name, in the order told.
    pub fn import_failures(&self) -> &[String] {
        &self.failed
    }

    /// Further failures beyond those kept.
    pub fn more_failures(&self) -> usize {
        self.more
    }

    fn failed(&mut self, path: &str) -> Option<Told> {
        let name = name(path);
        if self.failed.iter().any(|known| known == name) {
            return None;
        }
        if self.failed.len() == KEPT {
            self.more += 1;
            return None;
        }
        self.failed.push(name.to_owned());
        Some(Told::ImportFailed(name.to_owned()))
    }
}

/// A row of either table: `   0.1 seconds (IMPORT FAILED): /path`.
fn row(text: &str) -> Option<(bool, &str)> {
    let (seconds, rest) = text.split_once(" seconds")?;
    let number = !seconds.is_empty() && seconds.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let (mark, path) = rest.split_once(": ")?;
    match mark.trim() {
        "" => number.then_some((false, path)),
        "(IMPORT FAILED)" => number.then_some((true, path)),
        "(PRESTARTUP FAILED)" => number.then_some((false, path)),
        _ => None,
    }
}

/// A pack is known by the last part of its path.
fn name(path: &str) -> &str {
    let path = path.trim().trim_end_matches('/');
    let name = path.rsplit('/').next().unwrap_or(path);
    cut(name, NAME)
}

fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &str) -> (Vec<Told>, Lines) {
        let mut lines = Lines::default();
        let told = text.lines().filter_map(|line| lines.read(line)).collect();
        (told, lines)
    }

    #[test]
    fn a_start_is_followed_and_failed_packs_are_known_by_name() {
        let (told, lines) = all("\
Prestartup times for custom nodes:
   0.4 seconds: /w/custom_nodes/ComfyUI-Manager
   0.1 seconds (PRESTARTUP FAILED): /w/custom_nodes/early

Checkpoint files will always be loaded safely.
Total VRAM 7961 MB, total RAM 7961 MB
[Prompt Server] web root: /w/web
Cannot import /w/custom_nodes/broken module for custom nodes: No module named 'nothing'

Import times for custom nodes:
   0.0 seconds: /w/custom_nodes/websocket_image_save.py
   1.3 seconds (IMPORT FAILED): /w/custom_nodes/broken

WARNING: some comfy_extras/ nodes did not import correctly. This may be because they are missing some dependencies.

IMPORT FAILED: nodes_audio.py

Starting server

To see the GUI go to: http://127.0.0.1:8188
got prompt
Prompt executed in 0.01 seconds");
        assert_eq!(lines.import_failures(), ["broken", "nodes_audio.py"]);
        assert_eq!(
            told,
            [
                Told::Phase(Phase::Prestartup),
                Told::Phase(Phase::Core),
                Told::Phase(Phase::Nodes),
                Told::Phase(Phase::Nodes),
                Told::ImportFailed("broken".into()),
                Told::ImportFailed("nodes_audio.py".into()),
                Told::Phase(Phase::Binding),
                Told::Phase(Phase::Listening),
                Told::GotPrompt,
                Told::Executed,
            ]
        );
    }

    #[test]
    fn a_row_counts_under_its_heading_only_and_a_new_start_begins_anew() {
        let (told, _) = all("   0.1 seconds (IMPORT FAILED): /w/custom_nodes/x");
        assert_eq!(told, []);
        let (_, mut lines) =
            all("Import times for custom nodes:\n   0.1 seconds (IMPORT FAILED): /w/x/");
        assert_eq!(lines.import_failures(), ["x"]);
        lines.read("Checkpoint files will always be loaded safely.");
        assert!(lines.import_failures().is_empty());
    }

    #[test]
    fn the_failure_of_a_job_names_its_cause() {
        let (told, _) = all("\
!!! Exception during processing !!! CUDA error: an illegal memory access was encountered
!!! Exception during processing !!! division by zero
Traceback (most recent call last):
Got an OOM, unloading all loaded models.
Requested to load SDXLClipModel");
        assert_eq!(
            told,
            [
                Told::Trouble(Cause::CudaContextPoisoned),
                Told::NodeFailed,
                Told::Trouble(Cause::OutOfVram),
                Told::Loads("SDXLClipModel".into()),
            ]
        );
    }

    proptest! {
        #[test]
        fn any_line_is_read(text in prop::collection::vec(".{0,200}", 0..20)) {
            let mut lines = Lines::default();
            for line in &text {
                // Any answer is right; only a panic is wrong.
                let _ = lines.read(line);
            }
        }

        #[test]
        fn what_is_kept_is_bounded(count in 0_usize..600) {
            let mut lines = Lines::default();
            lines.read("Import times for custom nodes:");
            for pack in 0..count {
                lines.read(&format!("   0.0 seconds (IMPORT FAILED): /n/{pack}"));
            }
            prop_assert_eq!(lines.import_failures().len() + lines.more_failures(), count);
            prop_assert!(lines.import_failures().len() <= KEPT);
        }
    }
}
