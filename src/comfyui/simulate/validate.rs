//! Decides whether a prompt may run: ComfyUI's checks of classes, links, types, ranges and choices, with its error shapes.

use super::graph;
use super::nodes;
use super::refusal::{self, Refusal};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Nodes in one graph; a larger one is refused, because each step tells the state of all.
const MOST_NODES: usize = 2_000;

/// A prompt that may run, at least in part.
#[derive(Debug, PartialEq)]
pub(super) struct Valid {
    /// The output nodes that may be executed.
    pub outputs: Vec<String>,
    /// What is wrong with the others, by node id.
    pub node_errors: Map<String, Value>,
}

/// Checks a prompt against the catalogue, and turns its values into the types that the inputs want, as ComfyUI does. With
/// `targets`, only these output nodes count.
pub(super) fn validate(
    prompt: &mut Map<String, Value>,
    catalogue: &Map<String, Value>,
    targets: Option<&[String]>,
) -> Result<Valid, Refusal> {
    if prompt.len() > MOST_NODES {
        let details = format!("{} nodes; the simulator takes {MOST_NODES}", prompt.len());
        return Err(Refusal::new(
            "invalid_prompt",
            "Cannot execute because the graph is too large.",
            details,
        ));
    }
    let outputs = output_nodes(prompt, catalogue, targets)?;
    let mut checked = Checked::default();
    let (mut good, mut node_errors, mut words) = (Vec::new(), Map::new(), Vec::new());
    for output in outputs {
        if checked.tree(prompt, catalogue, &output) {
            good.push(output);
            continue;
        }
        words.extend(
            checked
                .faults(&output)
                .iter()
                .map(|fault| format!("{}: {}", text(&fault["message"]), text(&fault["details"]))),
        );
        for id in &checked.order {
            let faults = checked.faults(id);
            if !faults.is_empty() {
                let class = graph::class(prompt, id);
                let entry = node_errors.entry(id.clone()).or_insert_with(
                    || json!({"errors": faults, "dependent_outputs": [], "class_type": class}),
                );
                if let Some(dependents) = entry["dependent_outputs"].as_array_mut() {
                    dependents.push(Value::from(output.as_str()));
                }
            }
        }
    }
    if good.is_empty() {
        let message = "Prompt outputs failed validation";
        return Err(Refusal::with_nodes(
            "prompt_outputs_failed_validation",
            message,
            words.join("\n"),
            node_errors,
        ));
    }
    Ok(Valid {
        outputs: good,
        node_errors,
    })
}

/// The output nodes wanted, after a check that every node has a class that exists.
fn output_nodes(
    prompt: &Map<String, Value>,
    catalogue: &Map<String, Value>,
    targets: Option<&[String]>,
) -> Result<Vec<String>, Refusal> {
    let mut outputs = Vec::new();
    for (id, node) in prompt {
        let Some(node) = node.as_object() else {
            return Err(Refusal::Malformed);
        };
        let details = format!("Node ID '#{id}'");
        let Some(class) = node.get("class_type") else {
            return Err(Refusal::new(
                "invalid_prompt",
                "Cannot execute because a node is missing the class_type property.",
                details,
            ));
        };
        let Some(info) = class.as_str().and_then(|class| catalogue.get(class)) else {
            let message = format!(
                "Cannot execute because node {} does not exist.",
                text(class)
            );
            return Err(Refusal::new("invalid_prompt", &message, details));
        };
        if nodes::is_output(info) && targets.is_none_or(|targets| targets.contains(id)) {
            outputs.push(id.clone());
        }
    }
    if outputs.is_empty() {
        return Err(Refusal::new(
            "prompt_no_outputs",
            "Prompt has no outputs",
            "",
        ));
    }
    Ok(outputs)
}

/// What is known of each node so far, over all outputs.
#[derive(Default)]
struct Checked {
    order: Vec<String>,
    nodes: HashMap<String, (bool, Vec<Value>)>,
}

impl Checked {
    fn faults(&self, id: &str) -> &[Value] {
        self.nodes.get(id).map_or(&[], |(_, faults)| faults)
    }

    /// Checks all that an output needs, and then the output. True if it may run.
    fn tree(
        &mut self,
        prompt: &mut Map<String, Value>,
        catalogue: &Map<String, Value>,
        output: &str,
    ) -> bool {
        let order: Vec<String> = {
            let graph = &*prompt;
            match graph::needed_first([output], |id| nodes::needs(graph, catalogue, id)) {
                Ok(order) => order.into_iter().map(str::to_owned).collect(),
                Err(graph::Cycle) => {
                    self.note(
                        output.to_owned(),
                        false,
                        vec![refusal::exception(
                            "DependencyCycleError",
                            "Dependency cycle detected",
                        )],
                    );
                    return false;
                }
            }
        };
        for id in order {
            if !self.nodes.contains_key(&id) {
                let (valid, faults) = self.node(prompt, catalogue, &id);
                self.note(id, valid, faults);
            }
        }
        self.nodes.get(output).is_some_and(|(valid, _)| *valid)
    }

    fn note(&mut self, id: String, valid: bool, faults: Vec<Value>) {
        self.order.push(id.clone());
        self.nodes.insert(id, (valid, faults));
    }

    /// Checks one node's own inputs. It is invalid without a fault of its own if a node it needs is invalid.
    fn node(
        &self,
        prompt: &mut Map<String, Value>,
        catalogue: &Map<String, Value>,
        id: &str,
    ) -> (bool, Vec<Value>) {
        let Some(info) = graph::class(prompt, id).and_then(|class| catalogue.get(class)) else {
            return (false, Vec::new());
        };
        let Some(inputs) = graph::inputs(prompt, id) else {
            return (false, vec![refusal::exception("KeyError", "'inputs'")]);
        };
        let (mut valid, mut faults, mut converted) = (true, Vec::new(), Vec::new());
        for (name, config) in nodes::required(info) {
            match inputs.get(name) {
                None => faults.push(refusal::missing(name)),
                Some(value) if value.is_array() => {
                    match self.linked(prompt, catalogue, name, config, value) {
                        Ok(linked_is_valid) => valid &= linked_is_valid,
                        Err(fault) => faults.push(fault),
                    }
                }
                Some(value) => match convert(name, config, value) {
                    Ok(new) => converted.push((name.to_owned(), new)),
                    Err(fault) => faults.push(fault),
                },
            }
        }
        valid &= faults.is_empty();
        if let Some(inputs) = prompt
            .get_mut(id)
            .and_then(|node| node.get_mut("inputs"))
            .and_then(Value::as_object_mut)
        {
            inputs.extend(converted);
        }
        (valid, faults)
    }

    /// Checks a link. The result tells whether the node it links to is valid.
    fn linked(
        &self,
        prompt: &Map<String, Value>,
        catalogue: &Map<String, Value>,
        name: &str,
        config: &Value,
        value: &Value,
    ) -> Result<bool, Value> {
        let Some(link) = graph::link(value) else {
            return Err(refusal::bad_link(name, config, value));
        };
        let Some(info) = graph::class(prompt, link.node).and_then(|class| catalogue.get(class))
        else {
            return Err(refusal::exception("KeyError", &format!("'{}'", link.node)));
        };
        let Some(received) = info["output"].get(link.slot).and_then(Value::as_str) else {
            return Err(refusal::exception("IndexError", "list index out of range"));
        };
        let wanted = wanted_type(config);
        if received != wanted {
            return Err(refusal::mismatch(name, config, wanted, received, value));
        }
        Ok(self.nodes.get(link.node).is_some_and(|(valid, _)| *valid))
    }
}

fn wanted_type(config: &Value) -> &str {
    config[0].as_str().unwrap_or("COMBO")
}

/// Turns a value into what the input wants, or says why it cannot be.
fn convert(name: &str, config: &Value, value: &Value) -> Result<Value, Value> {
    if let Some(offered) = config[0].as_array() {
        let upload = config[1]["image_upload"] == true;
        return match offered.contains(value) {
            true => Ok(value.clone()),
            false if upload => Err(refusal::custom(
                name,
                config,
                value,
                &format!("Invalid image file: {}", text(value)),
            )),
            false => Err(refusal::not_in_list(name, config, value, offered)),
        };
    }
    let wanted = wanted_type(config);
    let new = match wanted {
        "INT" => integer(value),
        "FLOAT" => float(value),
        "STRING" => Ok(Value::from(text(value))),
        _ => Ok(value.clone()),
    };
    let new = new.map_err(|why| refusal::wrong_type(name, config, wanted, value, &why))?;
    for (limit, below) in [(&config[1]["min"], true), (&config[1]["max"], false)] {
        if let Some((number, bound)) = compare(&new, limit)
            && (if below {
                number < bound
            } else {
                number > bound
            })
        {
            return Err(refusal::out_of_range(name, config, &new, limit, below));
        }
    }
    Ok(new)
}

/// Both as a common, ordered form; `None` where either is no number.
fn compare(value: &Value, limit: &Value) -> Option<(Comparable, Comparable)> {
    match (value.as_i128(), limit.as_i128()) {
        (Some(value), Some(limit)) => Some((Comparable::Whole(value), Comparable::Whole(limit))),
        _ => Some((
            Comparable::Broken(value.as_f64()?),
            Comparable::Broken(limit.as_f64()?),
        )),
    }
}

#[derive(PartialEq, PartialOrd)]
enum Comparable {
    Whole(i128),
    Broken(f64),
}

trait AsWhole {
    fn as_i128(&self) -> Option<i128>;
}

impl AsWhole for Value {
    fn as_i128(&self) -> Option<i128> {
        self.as_i64()
            .map(i128::from)
            .or_else(|| self.as_u64().map(i128::from))
    }
}

/// Python's `int()`.
fn integer(value: &Value) -> Result<Value, String> {
    match value {
        Value::Number(number) if number.is_f64() => {
            Ok(Value::from(number.as_f64().unwrap_or_default() as i64))
        }
        Value::Number(_) => Ok(value.clone()),
        Value::Bool(value) => Ok(Value::from(i64::from(*value))),
        Value::String(text) => text
            .trim()
            .parse::<i64>()
            .map(Value::from)
            .map_err(|_| format!("invalid literal for int() with base 10: '{text}'")),
        other => Err(format!(
            "int() argument must be a string, a bytes-like object or a real number, not '{}'",
            kind(other)
        )),
    }
}

/// Python's `float()`.
fn float(value: &Value) -> Result<Value, String> {
    match value {
        Value::Number(number) => Ok(Value::from(number.as_f64().unwrap_or_default())),
        Value::Bool(value) => Ok(Value::from(f64::from(u8::from(*value)))),
        Value::String(text) => text
            .trim()
            .parse::<f64>()
            .map(Value::from)
            .map_err(|_| format!("could not convert string to float: '{text}'")),
        other => Err(format!(
            "float() argument must be a string or a real number, not '{}'",
            kind(other)
        )),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Object(_) => "dict",
        Value::Array(_) => "list",
        Value::Bool(_) | Value::Number(_) | Value::String(_) => "str",
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
