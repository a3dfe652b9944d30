//! Whether this machine can do a job: what the job needs against what its instances have.

use crate::core::workflow;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What a job needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Classes of nodes.
    pub nodes: BTreeSet<String>,
    /// What looks like a model in its workflow: class, input, name. It counts where that input is a choice of files.
    pub named: Vec<(String, String, String)>,
    /// Models that its producer asks for.
    pub models: BTreeSet<String>,
    /// Memory of the device, in bytes.
    pub vram: u64,
}

/// What one ComfyUI has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Its node classes; for each, the inputs that are a choice out of a list.
    pub classes: HashMap<String, HashSet<String>>,
    /// Its models by folder, as it names them.
    pub models: BTreeMap<String, Vec<String>>,
    /// Memory of its device as the driver tells it, in bytes.
    pub vram_total: u64,
    /// Of that, free.
    pub vram_free: u64,
    /// `cuda:0 NVIDIA …`, `cpu`.
    pub device: String,
    /// Its version.
    pub version: String,
}

impl Needs {
    /// Of a graph.
    pub fn of(graph: &Value) -> Self {
        let models = workflow::models(graph);
        let mut needs = Self::default();
        for node in graph
            .as_object()
            .into_iter()
            .flat_map(|nodes| nodes.values())
        {
            let class = node["class_type"].as_str().unwrap_or_default();
            needs.nodes.insert(class.to_owned());
            for (input, value) in node["inputs"].as_object().into_iter().flatten() {
                let text = value.as_str().unwrap_or_default();
                if models.iter().any(|model| model == text) {
                    let named = (class.to_owned(), input.clone(), text.to_owned());
                    needs.named.push(named);
                }
            }
        }
        needs
    }
}

impl Abilities {
    /// What `/object_info` tells: classes, and which of their inputs are choices.
    pub fn classes_of(object_info: &Value) -> HashMap<String, HashSet<String>> {
        let classes = object_info.as_object().into_iter().flatten();
        classes
            .map(|(class, told)| {
                let kinds = ["required", "optional"].iter();
                let inputs = kinds.filter_map(|kind| told["input"][*kind].as_object());
                let choices = inputs.flatten().filter(|(_, of)| {
                    of[0].is_array() || (of[0] == "COMBO" && of[1]["options"].is_array())
                });
                (
                    class.clone(),
                    choices.map(|(name, _)| name.clone()).collect(),
                )
            })
            .collect()
    }

    fn has_model(&self, name: &str) -> bool {
        let mut folders = self.models.values();
        folders.any(|models| models.iter().any(|model| model == name))
    }

    /// What it lacks for a job, in words; `None` if nothing.
    pub fn lacks(&self, needs: &Needs) -> Option<String> {
        let class = |class: &&String| !self.classes.contains_key(*class);
        if let Some(class) = needs.nodes.iter().find(class) {
            return Some(format!("the node class {class}"));
        }
        let of_workflow = needs.named.iter().filter(|(class, input, _)| {
            let choices = self.classes.get(class);
            choices.is_some_and(|choices| choices.contains(input))
        });
        let mut models = of_workflow.map(|(_, _, name)| name).chain(&needs.models);
        if let Some(model) = models.find(|model| !self.has_model(model)) {
            return Some(format!("the model {model}"));
        }
        (self.vram_total < needs.vram).then(|| {
            format!(
                "{} bytes of device memory (it has {})",
                needs.vram, self.vram_total
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn abilities() -> Abilities {
        let told = json!({
            "Load": {"input": {"required": {"ckpt_name": [["a.safetensors"], {}]}}},
            "Later": {"input": {"optional": {"lora": ["COMBO", {"options": []}]}}},
            "Save": {"input": {"required": {"name": ["STRING", {}]}}},
        });
        Abilities {
            classes: Abilities::classes_of(&told),
            models: BTreeMap::from([("checkpoints".to_owned(), vec!["a.safetensors".to_owned()])]),
            vram_total: 8 << 30,
            ..Abilities::default()
        }
    }

    #[test]
    fn a_job_fits_where_its_classes_models_and_memory_are() {
        let graph = |class: &str, input: &str, value: &str| json!({"1": {"class_type": class, "inputs": {input: value}}});
        for (graph, lacks) in [
            (graph("Load", "ckpt_name", "a.safetensors"), None),
            (
                graph("Load", "ckpt_name", "b.safetensors"),
                Some("b.safetensors"),
            ),
            (
                graph("Later", "lora", "c.safetensors"),
                Some("c.safetensors"),
            ),
            // A text that ends like a model and is no choice is no model.
            (graph("Save", "name", "out.bin"), None),
            (graph("Other", "x", "y"), Some("the node class Other")),
        ] {
            let lacking = abilities().lacks(&Needs::of(&graph));
            match lacks {
                None => assert_eq!(lacking, None, "{graph}"),
                Some(words) => assert!(lacking.unwrap().contains(words), "{graph}"),
            }
        }
        let needs = |vram, model: &str| Needs {
            vram,
            models: [model.to_owned()].into(),
            ..Needs::default()
        };
        assert_eq!(abilities().lacks(&needs(8 << 30, "a.safetensors")), None);
        assert!(
            abilities()
                .lacks(&needs(9 << 30, "a.safetensors"))
                .is_some()
        );
        assert!(abilities().lacks(&needs(0, "z.ckpt")).is_some());
    }
}
