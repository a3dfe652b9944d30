//! The JSON of refused prompts and of a node's faults, as `POST /prompt` answers them.

use serde_json::{Map, Value, json};

/// Why a prompt is not accepted.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// 400, with this body: what is wrong with the whole prompt as `error`, and with its nodes as `node_errors`.
    Answer(Box<Value>),
    /// Not a graph at all: ComfyUI fails on it and answers 500.
    Malformed,
}

impl Refusal {
    /// A refusal of the whole prompt.
    pub(super) fn new(kind: &str, message: &str, details: impl Into<String>) -> Self {
        Self::with_nodes(kind, message, details, Map::new())
    }

    /// A refusal with the nodes at fault.
    pub(super) fn with_nodes(
        kind: &str,
        message: &str,
        details: impl Into<String>,
        node_errors: Map<String, Value>,
    ) -> Self {
        Refusal::Answer(Box::new(
            json!({"error": fault(kind, message, details, json!({})), "node_errors": node_errors}),
        ))
    }

    /// No `prompt` in the submission.
    pub(super) fn no_prompt() -> Self {
        Self::new("no_prompt", "No prompt provided", "No prompt provided")
    }
}

/// One fault of a node or a prompt.
pub(super) fn fault(kind: &str, message: &str, details: impl Into<String>, extra: Value) -> Value {
    json!({"type": kind, "message": message, "details": details.into(), "extra_info": extra})
}

/// An input that is not there.
pub(super) fn missing(input: &str) -> Value {
    fault(
        "required_input_missing",
        "Required input is missing",
        input,
        json!({"input_name": input}),
    )
}

/// A link that is none.
pub(super) fn bad_link(input: &str, config: &Value, received: &Value) -> Value {
    fault(
        "bad_linked_input",
        "Bad linked input, must be a length-2 list of [node_id, slot_index]",
        input,
        json!({"input_name": input, "input_config": config, "received_value": received}),
    )
}

/// A link to an output of another type.
pub(super) fn mismatch(
    input: &str,
    config: &Value,
    wanted: &str,
    received: &str,
    link: &Value,
) -> Value {
    fault(
        "return_type_mismatch",
        "Return type mismatch between linked nodes",
        format!("{input}, received_type({received}) mismatch input_type({wanted})"),
        json!({"input_name": input, "input_config": config, "received_type": received, "linked_node": link}),
    )
}

/// A value that is not of the input's type.
pub(super) fn wrong_type(
    input: &str,
    config: &Value,
    wanted: &str,
    received: &Value,
    why: &str,
) -> Value {
    fault(
        "invalid_input_type",
        &format!("Failed to convert an input value to a {wanted} value"),
        format!("{input}, {}, {why}", shown(received)),
        json!({"input_name": input, "input_config": config, "received_value": received, "exception_message": why}),
    )
}

/// A number outside its range; `below` tells on which side.
pub(super) fn out_of_range(
    input: &str,
    config: &Value,
    received: &Value,
    limit: &Value,
    below: bool,
) -> Value {
    let (kind, words) = if below {
        ("value_smaller_than_min", "smaller than min")
    } else {
        ("value_bigger_than_max", "bigger than max")
    };
    fault(
        kind,
        &format!("Value {received} {words} of {limit}"),
        input,
        json!({"input_name": input, "input_config": config, "received_value": received}),
    )
}

/// A choice that is not offered here, such as a model that is missing.
pub(super) fn not_in_list(
    input: &str,
    config: &Value,
    received: &Value,
    offered: &[Value],
) -> Value {
    const MOST_SHOWN: usize = 20;
    let long = offered.len() > MOST_SHOWN;
    let offered = if long {
        format!("(list of length {})", offered.len())
    } else {
        format!(
            "[{}]",
            offered.iter().map(quoted).collect::<Vec<_>>().join(", ")
        )
    };
    fault(
        "value_not_in_list",
        "Value not in list",
        format!("{input}: '{}' not in {offered}", shown(received)),
        json!({"input_name": input, "input_config": if long { &Value::Null } else { config }, "received_value": received}),
    )
}

/// What a node's own check refused.
pub(super) fn custom(input: &str, config: &Value, received: &Value, why: &str) -> Value {
    fault(
        "custom_validation_failed",
        "Custom validation failed for node",
        format!("{input} - {why}"),
        json!({"input_name": input, "input_config": config, "received_value": received}),
    )
}

/// A graph that cannot be walked: a link to nowhere, or a circle.
pub(super) fn exception(kind: &str, why: &str) -> Value {
    fault(
        "exception_during_validation",
        "Exception when validating node",
        why,
        json!({"exception_type": kind, "exception_message": why, "traceback": []}),
    )
}

fn shown(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn quoted(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), |text| format!("'{text}'"))
}
