//! `fornax.depends_on` across the apps of a file: names that nobody has, and circles that nobody leaves.

use super::error::Problem;
use super::load::{Ecosystem, LocatedApp};
use crate::core::spec::issue::SpecIssue;
use serde_json::Value;
use std::collections::HashMap;

/// One app of the file: where it stands, its name, and the names it depends on.
struct Node<'a> {
    app: &'a LocatedApp,
    name: &'a str,
    needs: Vec<&'a str>,
}

/// What is wrong with the dependencies of a file. `known` are apps that the daemon has besides. Apps without a name of their own
/// can't be depended on, and are left out.
pub fn dependency_problems(ecosystem: &Ecosystem, known: &[String]) -> Vec<Problem> {
    let nodes: Vec<Node<'_>> = ecosystem.apps.iter().filter_map(node).collect();
    let by_name: HashMap<&str, &Node<'_>> = nodes.iter().map(|node| (node.name, node)).collect();
    let mut problems = Vec::new();
    for node in &nodes {
        for need in &node.needs {
            let pointer = format!(
                "/fornax/depends_on/{}",
                need.replace('~', "~0").replace('/', "~1")
            );
            let issue = if let Some(circle) = circle(node, need, &by_name) {
                let what = format!("waits for itself ({circle})");
                Some(SpecIssue::new(
                    pointer,
                    what,
                    "take one of these dependencies out",
                ))
            } else if !by_name.contains_key(need) && !known.iter().any(|name| name == need) {
                let what = format!("no app is called `{need}`");
                Some(SpecIssue::new(pointer, what, "name an app of this file"))
            } else {
                None
            };
            problems.extend(issue.map(|issue| ecosystem.locate(node.app, &issue)));
        }
    }
    problems
}

fn node(app: &LocatedApp) -> Option<Node<'_>> {
    let needs = app
        .raw
        .get("fornax")
        .and_then(|block| block.get("depends_on"));
    let needs = needs.and_then(Value::as_object).into_iter().flatten();
    Some(Node {
        app,
        name: app.raw.get("name")?.as_str()?,
        needs: needs.map(|(name, _)| name.as_str()).collect(),
    })
}

/// The way from `node` by `first` back to `node`, if there is one: `a -> b -> a`.
fn circle(node: &Node<'_>, first: &str, by_name: &HashMap<&str, &Node<'_>>) -> Option<String> {
    let mut ways = vec![vec![node.name.to_owned(), first.to_owned()]];
    let mut seen = vec![first.to_owned()];
    while let Some(way) = ways.pop() {
        let last = way.last()?;
        if last == node.name {
            return Some(way.join(" -> "));
        }
        for next in by_name
            .get(last.as_str())
            .into_iter()
            .flat_map(|node| &node.needs)
        {
            if *next == node.name || !seen.iter().any(|name| name == next) {
                seen.push((*next).to_owned());
                ways.push(way.iter().cloned().chain([(*next).to_owned()]).collect());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, parse};

    fn problems(text: &str, known: &[&str]) -> Vec<String> {
        let ecosystem = parse("e.json", text, Format::Json).unwrap();
        let known: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
        dependency_problems(&ecosystem, &known)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn circles_and_unknown_names_are_told_with_their_place() {
        let app = |name: &str, needs: &str| {
            format!(
                "{{name: '{name}', script: 'x', fornax: {{depends_on: {{{needs}: 'healthy'}}}}}}"
            )
        };
        let both = format!("[{},\n{}]", app("a", "b"), app("b", "a"));
        let told = problems(&both, &[]);
        assert_eq!(told.len(), 2);
        assert!(
            told[0].contains("a -> b -> a") && told[0].contains("e.json:1:"),
            "{told:?}"
        );
        assert!(problems(&app("c", "c"), &[])[0].contains("c -> c"));
        assert!(problems(&app("a", "zzz"), &[])[0].contains("no app is called `zzz`"));
        assert!(problems(&app("a", "zzz"), &["zzz"]).is_empty());
    }
}
