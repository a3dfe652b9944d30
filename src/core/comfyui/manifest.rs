//! The list of custom nodes (comfyui-facts 1.6): every key of it, the forms it comes in, and what is wrong with it.

use crate::core::json;
use crate::core::machine::is_commit;
use crate::core::positions::Positions;
use crate::core::problem::Problem;
use crate::core::spec::fornax_check::unreadable;
use crate::core::spec::issue::{SpecIssue, pointer_step};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The most that a list may hold, in bytes.
pub const MAX_BYTES: u64 = 4 << 20;
/// The most nodes of one list.
const MAX_NODES: usize = 2_000;
/// Where the keys are listed.
const SCHEMA: &str = "docs/comfyui.md";

/// One custom node as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The folder under `custom_nodes`. Without one it is the last part of the URL.
    #[serde(default)]
    pub name: String,
    /// The git repository: a URL or a path. A leading `git clone ` is taken off.
    #[serde(alias = "repositoryUrl")]
    pub url: String,
    /// The branch or tag; else the repository's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit; else the newest of the branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Submodules too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recursive: bool,
    /// Install what its `requirements.txt` names. Default `true`.
    #[serde(default = "yes")]
    pub requirements: bool,
    /// Written to `.env` in its folder; `${VAR}` and `${VAR:-default}` are filled in from the environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Run by `sh` in its folder after everything else; its failure costs nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_script: Option<String>,
    /// Lower ones are installed first; those without one last, in the order of the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install_order: Option<i64>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

fn yes() -> bool {
    true
}

/// A list that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The nodes, in the order in which they are installed.
    pub nodes: Vec<Node>,
}

/// Reads a list: `{"custom_nodes": [ … ]}`, a bare list, or an object keyed by name.
///
/// # Errors
/// Everything that is wrong, each with line, column and key.
pub fn read(file: &str, text: &str) -> Result<Manifest, Vec<Problem>> {
    let (value, positions) = json::parse(file, text).map_err(|problem| vec![*problem])?;
    let entries = match entries(value) {
        Ok(entries) => entries,
        Err(issue) => {
            return Err(vec![Problem::placed(
                file,
                &positions,
                &issue.pointer,
                &issue,
            )]);
        }
    };
    let mut problems = Vec::new();
    let mut nodes: Vec<(String, Node)> = Vec::new();
    for (pointer, name, entry) in entries {
        match one(&pointer, name, entry) {
            Ok(node) => {
                let twin = nodes
                    .iter()
                    .find(|(_, known)| known.name.eq_ignore_ascii_case(&node.name));
                if twin.is_some() {
                    problems.push(SpecIssue::new(
                        format!("{pointer}/name"),
                        format!("{:?} stands in the list twice", node.name),
                        "remove one of the two, or give it another folder by `name`",
                    ));
                }
                nodes.push((pointer, node));
            }
            Err(issues) => problems.extend(issues),
        }
    }
    if nodes.len() > MAX_NODES {
        problems.push(SpecIssue::new(
            "",
            format!("holds more than {MAX_NODES} nodes"),
            "split it",
        ));
    }
    if !problems.is_empty() {
        return Err(placed(file, &positions, &problems));
    }
    let mut nodes: Vec<Node> = nodes.into_iter().map(|(_, node)| node).collect();
    // Stable: those without an order stay as they are written.
    nodes.sort_by_key(|node| node.install_order.unwrap_or(i64::MAX));
    Ok(Manifest { nodes })
}

fn placed(file: &str, positions: &Positions, issues: &[SpecIssue]) -> Vec<Problem> {
    issues
        .iter()
        .map(|issue| Problem::placed(file, positions, &issue.pointer, issue))
        .collect()
}

type Entries = Vec<(String, Option<String>, Value)>;

/// Each entry with its place, and the name that its key gives it.
fn entries(value: Value) -> Result<Entries, SpecIssue> {
    let listed = |base: &str, list: Vec<Value>| {
        let entry = |(at, entry)| (format!("{base}/{at}"), None, entry);
        list.into_iter().enumerate().map(entry).collect()
    };
    let shape = |pointer: &str| {
        SpecIssue::new(
            pointer,
            "is no list of nodes",
            "write {\"custom_nodes\": [ … ]}",
        )
    };
    let mut object = match value {
        Value::Array(list) => return Ok(listed("", list)),
        Value::Object(object) => object,
        _ => return Err(shape("")),
    };
    match object.shift_remove("custom_nodes") {
        Some(Value::Array(list)) => Ok(listed("/custom_nodes", list)),
        Some(Value::Object(keyed)) => Ok(by_name("/custom_nodes", keyed)),
        Some(_) => Err(shape("/custom_nodes")),
        None => {
            // Neither a list nor a node: `{"nodes": [ … ]}` would be taken for a node of that name.
            let wrong = object
                .iter()
                .find(|(key, entry)| !key.starts_with("//") && !entry.is_object());
            match wrong {
                Some((key, _)) => Err(SpecIssue::new(
                    pointer_step(key),
                    format!("`{key}` is no list of nodes"),
                    "write {\"custom_nodes\": [ … ]}",
                )
                .about_the_key()),
                None => Ok(by_name("", object)),
            }
        }
    }
}

fn by_name(base: &str, keyed: Map<String, Value>) -> Entries {
    keyed
        .into_iter()
        .filter(|(name, _)| !name.starts_with("//"))
        .map(|(name, entry)| (format!("{base}{}", pointer_step(&name)), Some(name), entry))
        .collect()
}

fn one(pointer: &str, name: Option<String>, mut entry: Value) -> Result<Node, Vec<SpecIssue>> {
    if let Value::Object(entry) = &mut entry {
        entry.retain(|key, value| !key.starts_with("//") && !value.is_null());
        if let (Some(name), false) = (name, entry.contains_key("name")) {
            entry.insert("name".to_owned(), Value::String(name));
        }
    }
    let mut node: Node = serde_path_to_error::deserialize(&entry)
        .map_err(|error| vec![unreadable(pointer, SCHEMA, &error)])?;
    node.url = plain_url(&node.url).to_owned();
    if node.name.is_empty() {
        node.name = name_of_url(&node.url).to_owned();
    }
    let mut issues = Vec::new();
    let mut wrong = |key: &str, what: String, mend: &str| {
        issues.push(SpecIssue::new(format!("{pointer}/{key}"), what, mend));
    };
    if !is_folder(&node.name) {
        wrong(
            "name",
            format!("{:?} is no name of a folder", node.name),
            "write the name alone, without `/`, not beginning with `.` or `-`",
        );
    }
    if node.url.is_empty() || node.url.starts_with('-') || node.url.chars().any(char::is_control) {
        wrong(
            "url",
            format!("{:?} is no repository", node.url),
            "write what `git clone` takes",
        );
    }
    if let Some(branch) = &node.branch
        && (branch.is_empty() || branch.starts_with('-') || branch.chars().any(char::is_control))
    {
        wrong(
            "branch",
            format!("{branch:?} is no branch"),
            "write the name of a branch or tag",
        );
    }
    if let Some(commit) = &node.commit
        && !is_commit(commit)
    {
        wrong(
            "commit",
            format!("{commit:?} is no commit"),
            "write 7 to 64 hexadecimal digits",
        );
    }
    for key in node.env.keys() {
        if key.is_empty() || key.contains(['=', '\n', '\r', '\0']) {
            wrong(
                "env",
                format!("{key:?} is no name of a variable"),
                "write letters, digits and `_`",
            );
        }
    }
    match issues.is_empty() {
        true => Ok(node),
        false => Err(issues),
    }
}

/// Without the `git clone ` that some lists have before a URL.
pub fn plain_url(url: &str) -> &str {
    let url = url.trim();
    url.strip_prefix("git clone ").unwrap_or(url).trim()
}

/// The last part of a URL, without `.git`.
pub fn name_of_url(url: &str) -> &str {
    let url = url.trim_end_matches('/');
    let last = url.rsplit(['/', ':']).next().unwrap_or(url);
    last.strip_suffix(".git").unwrap_or(last)
}

/// A URL without user and password, for people and logs.
pub fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let host_end = rest.find('/').unwrap_or(rest.len());
    match rest[..host_end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

/// The password in a URL, which must not stand in any log.
pub fn password_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let host_end = rest.find('/').unwrap_or(rest.len());
    let user = &rest[..rest[..host_end].rfind('@')?];
    Some(user.split_once(':').map_or(user, |(_, password)| password))
}

/// Whether a name may stand for a folder of its own under `custom_nodes`.
fn is_folder(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && !name.starts_with(['.', '-'])
        && name != "__pycache__"
        && !name
            .chars()
            .any(|c| c == '/' || c == '\\' || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problems(text: &str) -> Vec<String> {
        let problems = read("n.json", text).unwrap_err();
        problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn every_form_of_the_list_is_read() {
        let entry = r#"{"name": "A", "url": "git clone https://h/o/a.git", "requirements": true}"#;
        for text in [
            format!(r#"{{"custom_nodes": [{entry}]}}"#),
            format!("[{entry}]"),
            format!(r#"{{"// note": "", "A": {entry}}}"#),
            r#"{"A": {"url": "https://h/o/a.git"}}"#.to_owned(),
            r#"[{"name": "A", "repositoryUrl": "https://h/o/a.git", "branch": null}]"#.to_owned(),
        ] {
            let nodes = read("n", &text).unwrap().nodes;
            assert_eq!(nodes.len(), 1);
            let node = &nodes[0];
            assert_eq!(
                (node.name.as_str(), node.url.as_str()),
                ("A", "https://h/o/a.git")
            );
            assert!(node.requirements && node.branch.is_none());
        }
        let named = read("n", r#"[{"url": "git@h:o/some-node.git"}]"#).unwrap();
        assert_eq!(named.nodes[0].name, "some-node");
    }

    #[test]
    fn the_order_of_installing_is_the_given_one_first() {
        let text = r#"[{"url":"a"},{"url":"b","install_order":2},{"url":"c"},{"url":"d","install_order":1}]"#;
        let nodes = read("n", text).unwrap().nodes;
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["d", "b", "a", "c"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_key() {
        for (text, want) in [
            (
                "{\"custom_nodes\": [\n {\"name\": \"a\", \"ulr\": \"x\"}]}",
                "n.json:2:16: custom_nodes[0].ulr: unknown key `ulr`; did you mean `url`?",
            ),
            (
                "[{name: 'a'}]",
                "n.json:1:2: [0]: missing field `url`; add it",
            ),
            (
                "{nodes: []}",
                "n.json:1:2: nodes: `nodes` is no list of nodes; write {\"custom_nodes\": [ … ]}",
            ),
            ("[{name: '../x', url: 'u'}]", "n.json:1:9: [0].name:"),
            ("[{url: '--upload-pack=x'}]", "n.json:1:8: [0].url:"),
            ("[{url: 'u', commit: 'main'}]", "n.json:1:21: [0].commit:"),
            (
                "[{url: 'h/a'}, {url: 'o/A'}]",
                "n.json:1:16: [1].name: \"A\" stands in the list twice",
            ),
            ("[{url: 'u', env: {'A=B': 'x'}}]", "n.json:1:18: [0].env:"),
            ("5", "n.json:1:1: is no list of nodes"),
        ] {
            let told = problems(text);
            assert!(
                told.iter().any(|line| line.starts_with(want)),
                "{text}: {told:?}"
            );
        }
        assert_eq!(problems("[{url: '-'}, {url: '-'}]").len(), 2 + 2);
    }

    #[test]
    fn passwords_are_not_shown() {
        for (url, want) in [
            ("https://me:secret@h/o/r", "https://h/o/r"),
            ("https://h/o/r@v1", "https://h/o/r@v1"),
            ("git@h:o/r", "git@h:o/r"),
        ] {
            assert_eq!(redacted(url), want);
        }
        assert_eq!(password_of("https://me:secret@h/o/r"), Some("secret"));
        assert_eq!(password_of("https://token@h/o/r"), Some("token"));
        assert_eq!(password_of("https://h/o/r@v1"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]{}:,'\"a-z/. 0]{0,80}") {
            let _ = read("n", &text);
        }
    }
}
