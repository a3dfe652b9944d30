//! Walks over a prompt's graph: links between nodes, and an order in which each node comes after what it needs.

use serde_json::{Map, Value};
use std::collections::HashSet;
use std::hash::Hash;

/// A link from an input to another node's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link<'a> {
    /// The other node's id.
    pub node: &'a str,
    /// Which of its outputs, from 0.
    pub slot: usize,
}

/// Reads `[node id, output index]`. `None` if it is anything else.
pub(super) fn link(value: &Value) -> Option<Link<'_>> {
    match value.as_array()?.as_slice() {
        [node, slot] => Some(Link {
            node: node.as_str()?,
            slot: usize::try_from(slot.as_u64()?).ok()?,
        }),
        _ => None,
    }
}

/// The class of a node, if it has one.
pub(super) fn class<'a>(prompt: &'a Map<String, Value>, id: &str) -> Option<&'a str> {
    prompt.get(id)?.get("class_type")?.as_str()
}

/// The inputs of a node, if it has any.
pub(super) fn inputs<'a>(
    prompt: &'a Map<String, Value>,
    id: &str,
) -> Option<&'a Map<String, Value>> {
    prompt.get(id)?.get("inputs")?.as_object()
}

/// The graph needs itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cycle;

/// Every node that the roots need, the roots too, each after all that it needs. Iterative: a graph from outside may be as deep
/// as it is large, and must not use up the stack.
pub(super) fn needed_first<N: Copy + Eq + Hash>(
    roots: impl IntoIterator<Item = N>,
    needs: impl Fn(N) -> Vec<N>,
) -> Result<Vec<N>, Cycle> {
    let (mut done, mut open, mut order) = (HashSet::new(), HashSet::new(), Vec::new());
    for root in roots {
        if done.contains(&root) {
            continue;
        }
        let mut path = vec![(root, needs(root).into_iter())];
        open.insert(root);
        while let Some((node, rest)) = path.last_mut() {
            let node = *node;
            match rest.next() {
                Some(next) if open.contains(&next) => return Err(Cycle),
                Some(next) if done.contains(&next) => {}
                Some(next) => {
                    open.insert(next);
                    path.push((next, needs(next).into_iter()));
                }
                None => {
                    path.pop();
                    open.remove(&node);
                    done.insert(node);
                    order.push(node);
                }
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn only_a_pair_of_id_and_index_is_a_link() {
        assert_eq!(link(&json!(["1", 0])), Some(Link { node: "1", slot: 0 }));
        for value in [
            json!(["1"]),
            json!(["1", -1]),
            json!([1, 0]),
            json!("1"),
            json!(["1", 0, 0]),
            json!(null),
        ] {
            assert_eq!(link(&value), None, "{value}");
        }
    }

    #[test]
    fn a_chain_of_a_hundred_thousand_nodes_does_not_use_up_the_stack() {
        let order = needed_first([100_000u32], |node| {
            node.checked_sub(1).into_iter().collect()
        })
        .unwrap();
        assert_eq!(order.len(), 100_001);
        assert_eq!(order[0], 0);
    }

    proptest! {
        #[test]
        fn each_node_comes_after_what_it_needs_or_there_is_a_cycle(edges in proptest::collection::vec((0u8..12, 0u8..12), 0..30)) {
            let needs = |node: u8| edges.iter().filter(|edge| edge.0 == node).map(|edge| edge.1).collect::<Vec<_>>();
            if let Ok(order) = needed_first(0..12u8, needs) {
                prop_assert_eq!(order.len(), 12);
                let place = |node: u8| order.iter().position(|other| *other == node);
                for (node, need) in &edges {
                    prop_assert!(place(*need) < place(*node));
                }
            }
        }
    }
}
