//! What is installed and which models are there, as `/health/comfyui/installation` and `/health/comfyui/models` tell it: from what
//! the fleet has seen last.

use super::answer;
use super::rollout;
use crate::fleet::{Facts, View};
use serde_json::{Value, json};

/// What the builds and the installer say, beside the state of the installation.
pub(super) fn tell_build(view: &View, body: &mut Value) {
    let mut put = |key: &str, value: Value| body[key] = value;
    let facts = view.facts.as_deref();
    let record = facts.and_then(|facts| facts.record.as_deref());
    let tree = record.and_then(|record| record.tree.as_ref());
    put("workspace", json!(facts.map(|facts| &facts.workspace)));
    put("build", json!(facts.and_then(|facts| facts.build.as_ref())));
    put(
        "previous",
        json!(facts.and_then(|facts| facts.previous.as_ref())),
    );
    put("repository", json!(tree.map(|tree| &tree.url)));
    put("branch", json!(tree.and_then(|tree| tree.branch.as_ref())));
    put("commit", json!(tree.map(|tree| &tree.commit)));
    put(
        "torch_index",
        json!(record.and_then(|record| record.torch_index.as_ref())),
    );
    put(
        "packages",
        json!(record.map(|record| record.packages.len())),
    );
    put(
        "notes",
        json!(record.map_or(&[][..], |record| &record.notes)),
    );
    put("nodes", facts.map_or(Value::Null, nodes));
    put("install", facts.map_or(Value::Null, install));
    put(
        "update",
        view.rollout.as_deref().map_or(Value::Null, rollout::told),
    );
}

/// The custom nodes: how many, and which are not as they should be.
fn nodes(facts: &Facts) -> Value {
    use crate::fleet::NodeState;
    let Some(record) = &facts.record else {
        return Value::Null;
    };
    let all = &record.nodes;
    let count = |state| all.values().filter(|node| node.state == state).count();
    let failed: Vec<Value> = all
        .iter()
        .filter(|(_, node)| node.state != NodeState::Installed)
        .map(|(name, node)| {
            json!({
                "name": name,
                "state": node.state,
                "url": node.url,
                "commit": node.commit,
                "problems": node.problems,
            })
        })
        .collect();
    json!({
        "total": all.len(),
        "installed": count(NodeState::Installed),
        "incomplete": count(NodeState::Incomplete),
        "failed": count(NodeState::Failed),
        "import_failed": count(NodeState::ImportFailed),
        "troubled": failed,
    })
}

/// What the installer does, or has done last.
fn install(facts: &Facts) -> Value {
    let Some(state) = &facts.installer else {
        return Value::Null;
    };
    json!({
        "state": state.outcome,
        "phase": state.phase,
        "step": state.step,
        "of": state.of,
        "percent": state.percent,
        "message": state.message,
        "build": state.build,
        "error": state.error,
        "pid": state.pid,
        "began_at": answer::iso(state.began_ms),
        "updated_at": answer::iso(state.updated_ms),
        "steps": state.steps,
    })
}

/// The models that are wanted, and how they come.
pub(super) fn models(view: &View) -> Value {
    let Some(facts) = &view.facts else {
        return Value::Null;
    };
    let models = &facts.models;
    let pulls: Vec<Value> = models
        .pulls
        .iter()
        .map(|pull| {
            json!({
                "state": pull.outcome,
                "pid": pull.pid,
                "files": pull.files,
                "done": pull.done,
                "failed": pull.failed,
                "coming": pull.coming,
                "failures": pull.failures,
                "began_at": answer::iso(pull.began_ms),
                "updated_at": answer::iso(pull.updated_ms),
            })
        })
        .collect();
    json!({
        "workspace": facts.workspace,
        "error": models.error,
        "wanted": models.wanted,
        "there": models.whole,
        "bytes": models.bytes,
        "files": models.files,
        "links": models.links,
        "pulls": pulls,
    })
}
