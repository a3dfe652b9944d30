//! A graph in ComfyUI's API format: is it one, and what of it is changed before it is submitted.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The largest number of nodes. ComfyUI itself has no bound.
const NODES: usize = 10_000;
/// Endings of names of models (comfyui-facts 4.8).
const MODELS: [&str; 9] = [
    ".safetensors",
    ".ckpt",
    ".pt",
    ".pt2",
    ".bin",
    ".pth",
    ".sft",
    ".gguf",
    ".onnx",
];

/// Why something is no graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkflowError {
    /// No object.
    #[error("a workflow is an object of nodes by id, in ComfyUI's API format")]
    NoObject,
    /// No node at all.
    #[error("the workflow has no nodes")]
    Empty,
    /// The format of the editor.
    #[error(
        "this is the editor's format (`nodes`, `links`); export it in the API format: in ComfyUI, Workflow > Export (API)"
    )]
    Editor,
    /// Too large.
    #[error("the workflow has {0} nodes; the most is {NODES}")]
    TooMany(usize),
    /// One node is none.
    #[error("node `{0}` has no `class_type`, or its `inputs` are no object")]
    Node(String),
}

/// Whether it is a graph in API format.
pub fn check(workflow: &Value) -> Result<&Map<String, Value>, WorkflowError> {
    let nodes = workflow.as_object().ok_or(WorkflowError::NoObject)?;
    if nodes.is_empty() {
        return Err(WorkflowError::Empty);
    }
    if nodes.get("nodes").is_some_and(Value::is_array) {
        return Err(WorkflowError::Editor);
    }
    if nodes.len() > NODES {
        return Err(WorkflowError::TooMany(nodes.len()));
    }
    for (id, node) in nodes {
        let has_class = node.get("class_type").is_some_and(Value::is_string);
        let has_inputs = node.get("inputs").is_none_or(Value::is_object);
        if !has_class || !has_inputs {
            return Err(WorkflowError::Node(id.chars().take(100).collect()));
        }
    }
    Ok(nodes)
}

/// The same text for the same graph, whoever wrote it: no white space, keys in order, `1.0` as `1`.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    let listed = |text: &mut String,
                  open,
                  close,
                  items: &mut dyn Iterator<Item = (Option<&str>, &Value)>| {
        text.push(open);
        for (at, (key, item)) in items.enumerate() {
            if at > 0 {
                text.push(',');
            }
            if let Some(key) = key {
                text.push_str(&Value::from(key).to_string());
                text.push(':');
            }
            write(item, text);
        }
        text.push(close);
    };
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map
                .iter()
                .map(|(key, value)| (Some(key.as_str()), value))
                .collect();
            members.sort_unstable_by_key(|(key, _)| *key);
            listed(text, '{', '}', &mut members.into_iter());
        }
        Value::Array(items) => listed(text, '[', ']', &mut items.iter().map(|item| (None, item))),
        // JavaScript writes 1 for 1.0, Python does not.
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(whole) if whole.fract() == 0.0 && whole.abs() < 9_007_199_254_740_992.0 => {
                text.push_str(&format!("{whole:.0}"));
            }
            _ => text.push_str(&number.to_string()),
        },
        Value::String(_) | Value::Bool(_) | Value::Null => text.push_str(&value.to_string()),
    }
}

fn inputs(workflow: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let nodes = workflow.as_object().into_iter().flat_map(Map::values);
    let inputs = nodes.filter_map(|node| node.get("inputs").and_then(Value::as_object));
    inputs.flatten()
}

/// The models that it names, for placement.
pub fn models(workflow: &Value) -> Vec<String> {
    let mut found: Vec<String> = inputs(workflow)
        .filter_map(|(_, value)| value.as_str())
        .filter(|text| {
            let text = text.to_ascii_lowercase();
            MODELS.iter().any(|ending| text.ends_with(ending))
        })
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    found.truncate(64);
    found
}

/// Makes it an attempt of its own: what it saves goes below `folder`, so that ComfyUI has nothing cached that it could tell
/// instead, and two attempts never write one file. A file uploaded as `(asked for, there as)` is named as it is there.
pub fn prepare(workflow: &mut Value, folder: &str, uploads: &BTreeMap<String, String>) {
    let nodes = workflow
        .as_object_mut()
        .into_iter()
        .flat_map(Map::values_mut);
    for node in nodes {
        let Some(inputs) = node.get_mut("inputs").and_then(Value::as_object_mut) else {
            continue;
        };
        for (name, value) in inputs {
            let Value::String(text) = value else {
                continue;
            };
            if name == "filename_prefix" {
                *text = format!("{folder}/{text}");
            } else if let Some(there) = uploads.get(text.as_str()) {
                *text = there.clone();
            }
        }
    }
}

/// Sets `node.input` to a value: the value is JSON if it can be read as such, else text. Errors name what there is.
pub fn set(workflow: &mut Value, assignment: &str) -> Result<(), String> {
    let wrong = || format!("`{assignment}` is not NODE.INPUT=VALUE, as in 6.text=\"a cat\"");
    let (place, text) = assignment.split_once('=').ok_or_else(wrong)?;
    let (node, input) = place.rsplit_once('.').ok_or_else(wrong)?;
    let known: Vec<String> = workflow
        .as_object()
        .map(|nodes| nodes.keys().take(20).cloned().collect())
        .unwrap_or_default();
    let Some(found) = workflow.get_mut(node) else {
        return Err(format!(
            "there is no node `{node}`; there are {}",
            known.join(", ")
        ));
    };
    let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    let inputs = found
        .as_object_mut()
        .and_then(|node| {
            node.entry("inputs")
                .or_insert_with(|| Map::new().into())
                .as_object_mut()
        })
        .ok_or_else(|| format!("node `{node}` has no inputs"))?;
    // A text stays one where it was one, also if it looks like a number.
    let value = match (inputs.get(input), value) {
        (Some(Value::String(_)), Value::Number(_) | Value::Bool(_) | Value::Null) => {
            Value::from(text)
        }
        (_, value) => value,
    };
    inputs.insert(input.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn graph() -> Value {
        json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
            "2": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd/XL.safetensors"}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "out/pic"}},
        })
    }

    /// The same value written in another way: keys backwards, whole numbers with a fraction.
    fn otherwise(value: &Value) -> Value {
        match value {
            Value::Object(map) => map
                .iter()
                .rev()
                .map(|(key, value)| (key.clone(), otherwise(value)))
                .collect(),
            Value::Array(items) => items.iter().map(otherwise).collect(),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => json!(whole as f64),
                None => value.clone(),
            },
            other => other.clone(),
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            (-1000.0..1000.0).prop_map(|number: f64| json!(number)),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-c\"\\\\]{0,3}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_graph_has_one_canonical_text_and_that_text_is_it(value in any_json(), other in any_json()) {
            let text = canonical(&value);
            prop_assert_eq!(&canonical(&otherwise(&value)), &text);
            let read: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(canonical(&read), text.clone());
            // Equal but for the order of keys, which this comparison does not see, and for 1 and 1.0, which both read as.
            if otherwise(&value) != otherwise(&other) {
                prop_assert_ne!(canonical(&other), text);
            }
        }
    }

    #[test]
    fn what_is_no_graph_is_told_how_to_be_one() {
        assert!(check(&graph()).is_ok());
        assert_eq!(check(&json!([])), Err(WorkflowError::NoObject));
        assert_eq!(check(&json!({})), Err(WorkflowError::Empty));
        assert_eq!(
            check(&json!({"nodes": [], "links": []})),
            Err(WorkflowError::Editor)
        );
        assert_eq!(
            check(&json!({"1": {"inputs": {}}})),
            Err(WorkflowError::Node("1".into()))
        );
        assert_eq!(
            check(&json!({"1": {"class_type": "X", "inputs": 3}})),
            Err(WorkflowError::Node("1".into()))
        );
    }

    #[test]
    fn an_attempt_saves_in_a_folder_of_its_own_and_reads_what_was_uploaded() {
        let mut workflow = graph();
        prepare(
            &mut workflow,
            "fornax-1",
            &BTreeMap::from([("cat.png".into(), "cat (1).png".into())]),
        );
        assert_eq!(
            workflow["3"]["inputs"]["filename_prefix"],
            "fornax-1/out/pic"
        );
        assert_eq!(workflow["1"]["inputs"]["image"], "cat (1).png");
        assert_eq!(workflow["3"]["inputs"]["images"], json!(["1", 0]));
        assert_eq!(models(&workflow), ["sd/XL.safetensors"]);
    }

    #[test]
    fn an_assignment_keeps_text_text_and_names_what_is_missing() {
        let mut workflow = graph();
        set(&mut workflow, "1.image=7").unwrap();
        set(&mut workflow, "3.batch=7").unwrap();
        set(&mut workflow, "3.note=a=b c").unwrap();
        assert_eq!(workflow["1"]["inputs"]["image"], "7");
        assert_eq!(workflow["3"]["inputs"]["batch"], 7);
        assert_eq!(workflow["3"]["inputs"]["note"], "a=b c");
        assert!(
            set(&mut workflow, "9.x=1")
                .unwrap_err()
                .contains("there are 1, 2, 3")
        );
        assert!(set(&mut workflow, "x").is_err());
    }
}
