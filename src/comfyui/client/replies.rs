//! What ComfyUI's routes answer, as far as we read it. Unknown members are ignored: later versions add some.

use super::files::FileRef;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::fmt;

#[derive(Deserialize)]
pub(super) struct Remaining {
    pub exec_info: ExecInfo,
}

#[derive(Deserialize)]
pub(super) struct ExecInfo {
    pub queue_remaining: u64,
}

/// `GET /queue`: the ids of prompts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Queue {
    /// At most one, in practice.
    #[serde(rename = "queue_running", deserialize_with = "ids")]
    pub running: Vec<String>,
    /// In the order that ComfyUI keeps them, which is a heap's.
    #[serde(rename = "queue_pending", deserialize_with = "ids")]
    pub pending: Vec<String>,
}

impl Queue {
    /// It runs or waits.
    pub fn holds(&self, prompt_id: &str) -> bool {
        let mut all = self.running.iter().chain(&self.pending);
        all.any(|id| id == prompt_id)
    }
}

/// An item is `[number, id, graph, extra, outputs]`, and later perhaps more.
struct Item(String);

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Second;
        impl<'de> Visitor<'de> for Second {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an item of ComfyUI's queue")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Item, A::Error> {
                let missing = || serde::de::Error::custom("it has no id");
                items.next_element::<IgnoredAny>()?.ok_or_else(missing)?;
                let id = items.next_element()?.ok_or_else(missing)?;
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Item(id))
            }
        }
        deserializer.deserialize_seq(Second)
    }
}

fn ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let items = Vec::<Item>::deserialize(deserializer)?;
    Ok(items.into_iter().map(|Item(id)| id).collect())
}

/// `GET /system_stats`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SystemStats {
    /// The process and its machine.
    pub system: System,
    /// Devices, in torch's order.
    #[serde(default)]
    pub devices: Vec<Device>,
}

/// The process and its machine.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct System {
    /// `0.3.64`, say.
    #[serde(default)]
    pub comfyui_version: String,
    /// `3.11.7 (main, …)`.
    #[serde(default)]
    pub python_version: String,
    /// `2.15.0+cu132`.
    #[serde(default)]
    pub pytorch_version: String,
    /// Its command line: tells that the answer comes from the process that we mean.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Of the machine, in bytes.
    #[serde(default)]
    pub ram_free: u64,
}

/// A device as torch sees it: index 0 in the process, whatever the machine calls it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Device {
    /// `cuda:0 NVIDIA …`, `cpu`.
    #[serde(default)]
    pub name: String,
    /// `cuda`, `cpu`.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// In bytes. On the processor it is the machine's memory.
    #[serde(default)]
    pub vram_total: u64,
    /// In bytes. Low in an idle instance too: models stay loaded.
    #[serde(default)]
    pub vram_free: u64,
}

/// How a prompt ended: one entry of `/history`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct HistoryEntry {
    /// By output node; empty after a failure, even if files have been written.
    #[serde(default)]
    pub outputs: Map<String, Value>,
    /// Absent in histories that a node has tampered with.
    #[serde(default)]
    pub status: Option<HistoryStatus>,
}

/// `status` of an entry.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct HistoryStatus {
    /// `success` or `error`.
    #[serde(default)]
    pub status_str: String,
    /// It ran to its end.
    #[serde(default)]
    pub completed: bool,
    /// `[type, data]` each.
    #[serde(default)]
    pub messages: Vec<(String, Value)>,
}

/// An entry in one word.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ran to its end.
    Success,
    /// Somebody interrupted it.
    Interrupted,
    /// A node failed.
    Failed {
        /// Which; empty if it is not told.
        node_id: String,
        /// Its class.
        node_type: String,
        /// `torch.OutOfMemoryError`, say.
        exception_type: String,
        /// Its text.
        exception_message: String,
    },
}

impl HistoryEntry {
    /// How it ended.
    pub fn outcome(&self) -> Outcome {
        let text = |data: &Value, name: &str| {
            let text = data.get(name).and_then(Value::as_str);
            text.unwrap_or_default().trim().to_owned()
        };
        let Some(status) = &self.status else {
            return Outcome::Success;
        };
        if status.status_str == "success" {
            return Outcome::Success;
        }
        let said = |kind: &str| status.messages.iter().find(|(name, _)| name == kind);
        if said("execution_interrupted").is_some() {
            return Outcome::Interrupted;
        }
        let nothing = Value::Null;
        let data = said("execution_error").map_or(&nothing, |(_, data)| data);
        Outcome::Failed {
            node_id: text(data, "node_id"),
            node_type: text(data, "node_type"),
            exception_type: text(data, "exception_type"),
            exception_message: text(data, "exception_message"),
        }
    }

    /// Every file that its outputs name, whatever their key: `images`, `gifs`, `audio`, …
    pub fn files(&self) -> Vec<(String, FileRef)> {
        let mut files = Vec::new();
        for (node, output) in &self.outputs {
            let lists = output.as_object().into_iter().flat_map(Map::values);
            for item in lists.filter_map(Value::as_array).flatten() {
                if let Some(file) = FileRef::of(item) {
                    files.push((node.clone(), file));
                }
            }
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comfyui::client::FileKind;
    use serde_json::json;

    #[test]
    fn a_queue_is_read_for_its_ids_whatever_else_an_item_holds() {
        let text = r#"{"queue_running": [[9, "a", {"1": {}}, {}, ["3"], {"later": 1}]], "queue_pending": [[10.5, "b"]], "new": 1}"#;
        let queue: Queue = serde_json::from_str(text).unwrap();
        assert_eq!(queue.running, ["a"]);
        assert_eq!(queue.pending, ["b"]);
        assert!(queue.holds("b") && !queue.holds("c"));
        let broken =
            serde_json::from_str::<Queue>(r#"{"queue_running": [[9]], "queue_pending": []}"#);
        assert!(broken.is_err());
    }

    fn entry(value: Value) -> HistoryEntry {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn files_are_found_under_every_key_and_in_no_other_shape() {
        let told = entry(json!({"outputs": {
            "3": {"images": [{"filename": "a.png", "subfolder": "x", "type": "output"}], "animated": [true], "text": ["words"]},
            "4": {"gifs": [{"filename": "b.mp4", "type": "temp", "format": "video/mp4"}]},
            "5": "odd",
        }, "prompt": ["ignored"]}));
        let files = told.files();
        let names: Vec<_> = files
            .iter()
            .map(|(node, file)| (&node[..], &file.filename[..], file.kind))
            .collect();
        assert_eq!(
            names,
            [
                ("3", "a.png", FileKind::Output),
                ("4", "b.mp4", FileKind::Temp)
            ]
        );
        assert_eq!(files[0].1.subfolder, "x");
    }

    #[test]
    fn outcomes_are_told_apart() {
        let status = |word: &str, messages: Value| {
            entry(json!({"status": {"status_str": word, "completed": false, "messages": messages}}))
        };
        assert_eq!(status("success", json!([])).outcome(), Outcome::Success);
        let interrupted =
            json!([["execution_start", {}], ["execution_interrupted", {"node_id": "2"}]]);
        assert_eq!(status("error", interrupted).outcome(), Outcome::Interrupted);
        let failed = json!([["execution_error", {"node_id": "2", "node_type": "X", "exception_type": "ValueError", "exception_message": "no\n"}]]);
        let want = Outcome::Failed {
            node_id: "2".into(),
            node_type: "X".into(),
            exception_type: "ValueError".into(),
            exception_message: "no".into(),
        };
        assert_eq!(status("error", failed).outcome(), want);
    }
}
