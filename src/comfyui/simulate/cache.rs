//! What earlier prompts made, by a signature of the node and all that it needs: an identical node is not executed again.

use super::graph;
use super::make::Made;
use super::nodes;
use super::places::{self, Places};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The results of the last prompt's nodes. Only these are kept (ComfyUI 0.3.64, classic cache), so that it is bounded by one
/// graph. Owner: the worker.
#[derive(Default)]
pub(super) struct Cache {
    results: HashMap<u64, Made>,
}

/// What one prompt needs, in order, and what of it is there.
pub(super) struct Plan {
    /// The nodes to visit, each after what it needs; outputs are visited even if cached, what only cached nodes need is not.
    pub visits: Vec<String>,
    /// The nodes whose results are there, in the graph's order.
    pub cached: Vec<String>,
    signatures: HashMap<String, u64>,
}

impl Plan {
    /// A plan without a node.
    pub(super) fn nothing() -> Self {
        Self {
            visits: Vec::new(),
            cached: Vec::new(),
            signatures: HashMap::new(),
        }
    }

    /// The signature of a node, which is also the seed of what it draws.
    pub(super) fn signature(&self, node: &str) -> u64 {
        self.signatures.get(node).copied().unwrap_or_default()
    }

    /// True if this node need not be executed.
    pub(super) fn is_cached(&self, node: &str) -> bool {
        self.cached.iter().any(|cached| cached == node)
    }
}

impl Cache {
    /// Plans a prompt. `None` if its graph is a circle, which validation refuses before.
    pub(super) fn plan(
        &self,
        prompt: &Map<String, Value>,
        outputs: &[String],
        catalogue: &Map<String, Value>,
        places: &Places,
    ) -> Option<Plan> {
        let roots = || outputs.iter().map(String::as_str);
        let all = graph::needed_first(roots(), |id| nodes::needs(prompt, catalogue, id)).ok()?;
        let mut signatures: HashMap<String, u64> = HashMap::new();
        for id in &all {
            let signature = signature(prompt, id, &signatures, places);
            signatures.insert((*id).to_owned(), signature);
        }
        let there = |id: &str| {
            signatures
                .get(id)
                .is_some_and(|signature| self.results.contains_key(signature))
        };
        let needed = |id| match there(id) {
            true => Vec::new(),
            false => nodes::needs(prompt, catalogue, id)
                .into_iter()
                .filter(|id| !there(id))
                .collect(),
        };
        let visits = graph::needed_first(roots(), needed)
            .ok()?
            .into_iter()
            .map(str::to_owned)
            .collect();
        let cached = prompt.keys().filter(|id| there(id)).cloned().collect();
        Some(Plan {
            visits,
            cached,
            signatures,
        })
    }

    /// The result of a node of this plan.
    pub(super) fn result(&self, plan: &Plan, node: &str) -> Option<&Made> {
        self.results.get(plan.signatures.get(node)?)
    }

    /// Keeps the result of a node.
    pub(super) fn insert(&mut self, plan: &Plan, node: &str, made: Made) {
        self.results.insert(plan.signature(node), made);
    }

    /// Forgets what this plan did not need.
    pub(super) fn keep_only(&mut self, plan: &Plan) {
        let kept: std::collections::HashSet<u64> = plan.signatures.values().copied().collect();
        self.results.retain(|signature, _| kept.contains(signature));
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.results.clear();
    }
}

fn signature(
    prompt: &Map<String, Value>,
    id: &str,
    known: &HashMap<String, u64>,
    places: &Places,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    let class = graph::class(prompt, id).unwrap_or_default();
    class.hash(&mut hasher);
    let mut inputs: Vec<_> = graph::inputs(prompt, id).into_iter().flatten().collect();
    inputs.sort_by_key(|(name, _)| name.as_str());
    for (name, value) in inputs {
        name.hash(&mut hasher);
        match graph::link(value).and_then(|link| Some((known.get(link.node)?, link.slot))) {
            Some(linked) => linked.hash(&mut hasher),
            None => value.to_string().hash(&mut hasher),
        }
        if class == "LoadImage"
            && let Some(path) = value
                .as_str()
                .and_then(|name| places::inside(&places.input, "", name).ok())
            && let Ok(file) = path.metadata()
        {
            (file.len(), file.modified().ok()).hash(&mut hasher);
        }
    }
    hasher.finish()
}
