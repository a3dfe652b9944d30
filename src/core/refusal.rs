//! Why a ComfyUI refuses a graph, and what is to be done about it (comfyui-facts 4.3).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a refusal means for whoever wants the graph run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalClass {
    /// Code of a node raised while it was asked: once more may help.
    Once,
    /// A model or a file is missing there: another instance may have it.
    Elsewhere,
    /// A class of nodes is missing there: another set of nodes may have it.
    NodeSet,
    /// No instance will take it as it is.
    Permanent,
}

/// A refusal, or what was wrong with a graph that was taken in part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// ComfyUI's `error.type`; `partly_invalid` for a graph taken in part.
    pub kind: String,
    /// In words: its message, and what each node's errors say.
    pub message: String,
    /// What it means.
    pub class: RefusalClass,
    /// ComfyUI's `node_errors`, as they came.
    pub node_errors: Map<String, Value>,
}

/// So many node errors are told in the message.
const TOLD: usize = 3;

impl Refusal {
    /// Reads ComfyUI's reply.
    pub fn read(told: &Value) -> Self {
        let error = told.get("error").unwrap_or(&Value::Null);
        let node_errors = told
            .get("node_errors")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        let kind = text(error, "type").unwrap_or("partly_invalid").to_owned();
        let mut words: Vec<String> = text(error, "message")
            .or_else(|| error.as_str())
            .map(str::to_owned)
            .into_iter()
            .collect();
        words.extend(
            text(error, "details")
                .filter(|details| {
                    !details.is_empty() && words.first().is_none_or(|first| first != details)
                })
                .map(str::to_owned),
        );
        let inner = inner_errors(&node_errors);
        words.extend(inner.iter().take(TOLD).map(|inner| {
            format!(
                "node {} ({}): {} ({})",
                inner.node, inner.class, inner.message, inner.details
            )
        }));
        if inner.len() > TOLD {
            words.push(format!("and {} more", inner.len() - TOLD));
        }
        Self {
            class: class(&kind, inner.iter().map(|inner| inner.kind)),
            message: words.join("; "),
            kind,
            node_errors,
        }
    }
}

struct Inner<'a> {
    node: &'a str,
    class: &'a str,
    kind: &'a str,
    message: &'a str,
    details: &'a str,
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

fn inner_errors(node_errors: &Map<String, Value>) -> Vec<Inner<'_>> {
    let mut all = Vec::new();
    for (node, told) in node_errors {
        let errors = told.get("errors").and_then(Value::as_array);
        for error in errors.into_iter().flatten() {
            all.push(Inner {
                node,
                class: text(told, "class_type").unwrap_or("?"),
                kind: text(error, "type").unwrap_or_default(),
                message: text(error, "message").unwrap_or_default(),
                details: text(error, "details").unwrap_or_default(),
            });
        }
    }
    all
}

/// By the outer type; where that points inside, by the worst of the inner ones.
fn class<'a>(kind: &str, inner: impl Iterator<Item = &'a str>) -> RefusalClass {
    match kind {
        "invalid_prompt" | "missing_node_type" => RefusalClass::NodeSet,
        "prompt_outputs_failed_validation" | "partly_invalid" => inner
            .map(|kind| match kind {
                "value_not_in_list" => RefusalClass::Elsewhere,
                "exception_during_validation" | "exception_during_inner_validation" => {
                    RefusalClass::Once
                }
                _ => RefusalClass::Permanent,
            })
            .max()
            .unwrap_or(RefusalClass::Permanent),
        _ => RefusalClass::Permanent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn failed(kinds: &[&str]) -> Value {
        let errors: Vec<Value> = kinds
            .iter()
            .map(|kind| json!({"type": kind, "message": "m", "details": "d"}))
            .collect();
        json!({
            "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation", "details": ""},
            "node_errors": {"1": {"errors": errors, "class_type": "Load"}},
        })
    }

    #[test]
    fn each_type_has_its_class_and_the_worst_inner_one_counts() {
        for (told, want) in [
            (
                json!({"error": {"type": "no_prompt"}}),
                RefusalClass::Permanent,
            ),
            (
                json!({"error": {"type": "invalid_prompt"}}),
                RefusalClass::NodeSet,
            ),
            (
                json!({"error": {"type": "prompt_no_outputs"}}),
                RefusalClass::Permanent,
            ),
            (
                json!({"error": {"type": "invalid_prompt_id"}}),
                RefusalClass::Permanent,
            ),
            (failed(&["value_not_in_list"]), RefusalClass::Elsewhere),
            (failed(&["exception_during_validation"]), RefusalClass::Once),
            (
                failed(&["value_not_in_list", "value_bigger_than_max"]),
                RefusalClass::Permanent,
            ),
            (failed(&[]), RefusalClass::Permanent),
            (
                json!({"node_errors": failed(&["value_not_in_list"])["node_errors"]}),
                RefusalClass::Elsewhere,
            ),
        ] {
            assert_eq!(Refusal::read(&told).class, want, "{told}");
        }
        let told = Refusal::read(&failed(&["value_bigger_than_max"; 5]));
        assert_eq!(told.kind, "prompt_outputs_failed_validation");
        assert!(
            told.message.contains("node 1 (Load): m (d)") && told.message.ends_with("and 2 more"),
            "{}",
            told.message
        );
    }

    proptest! {
        #[test]
        fn no_reply_panics(text in "\\PC{0,200}") {
            let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
            Refusal::read(&value);
            Refusal::read(&json!({"error": value, "node_errors": {"1": {"errors": [value]}}}));
        }
    }
}
