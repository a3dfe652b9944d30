//! Reads a ComfyUI's log line by line: how far its start has come, which node packs it could not import, and how its jobs end
//! (comfyui-facts 4.4).

use super::super::comfyui::imports::{Import, Reader};
use super::cause::{Cause, told_by};

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
    imports: Reader,
}

impl Lines {
    /// Takes a line.
    pub fn read(&mut self, line: &str) -> Option<Told> {
        let line = cut(line, LINE).trim_end();
        if let Some(failed) = self.imported(line) {
            return Some(Told::ImportFailed(failed));
        }
        let text = line.trim_start();
        if text.starts_with("Import times for custom nodes:") {
            return Some(Told::Phase(Phase::Nodes));
        }
        if text.starts_with("Prestartup times for custom nodes:") {
            return Some(Told::Phase(Phase::Prestartup));
        }
        if text.starts_with("Checkpoint files will always be loaded safely") {
            // A start in the same process begins with an empty table.
            self.imports = Reader::default();
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
        // What packs die of is theirs.
        if text.starts_with("Cannot import ") || text.starts_with("Failed to initialize database") {
            return None;
        }
        told_by(text).map(Told::Trouble)
    }

    /// What could not be imported: node packs, then modules of the core.
    pub fn import_failures(&self) -> Vec<Import> {
        let told = self.imports.told();
        told.failed().chain(&told.core).cloned().collect()
    }

    /// The name of what a line says could not be imported.
    fn imported(&mut self, line: &str) -> Option<String> {
        let count = |reader: &Reader| (reader.told().nodes.len(), reader.told().core.len());
        let before = count(&self.imports);
        self.imports.line(line);
        let after = count(&self.imports);
        let told = self.imports.told();
        let new = if after.0 > before.0 {
            told.nodes.last()
        } else if after.1 > before.1 {
            told.core.last()
        } else {
            None
        };
        let failed = new.filter(|import| !import.ok)?;
        Some(cut(&failed.name, NAME).to_owned())
    }
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
        let failed = lines.import_failures();
        let names: Vec<_> = failed.iter().map(|import| import.name.as_str()).collect();
        assert_eq!(names, ["broken", "nodes_audio.py"]);
        assert_eq!(failed[0].why, "No module named 'nothing'");
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
        assert_eq!(lines.import_failures()[0].name, "x");
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
    }
}
