//! Changing the list of custom nodes in its file, and nothing else of it.

use crate::core::comfyui::manifest::{self, Node};
use crate::core::problem::Problem;
use crate::sys::files::{self, Readers};
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::path::Path;

/// Adds an entry.
pub fn add(file: &Path, entry: Value) -> anyhow::Result<Node> {
    change(file, |list| {
        list.push(entry);
        Ok(())
    })?
    .pop()
    .context("the list is empty")
}

/// Takes entries out by the name of their folder.
pub fn remove(file: &Path, names: &[String]) -> anyhow::Result<()> {
    change(file, |list| {
        for name in names {
            let before = list.len();
            list.retain(|entry| name_of(entry) != *name);
            if list.len() == before {
                let known: Vec<String> = list.iter().map(name_of).collect();
                let near: Vec<&str> = known.iter().map(String::as_str).collect();
                let hint = crate::core::spec::fornax_check::nearest(name, &near)
                    .map_or_else(String::new, |near| format!("; did you mean {near}?"));
                bail!("{} has no node {name}{hint}", file.display());
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// The list with these commits, as text.
pub fn frozen(file: &Path, commit: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<String> {
    let mut value = read(file)?;
    for entry in list(&mut value, file)? {
        let name = name_of(entry);
        if let (Some(commit), Value::Object(entry)) = (commit(&name), entry) {
            entry.insert("commit".to_owned(), Value::String(commit));
        }
    }
    Ok(format!("{value:#}\n"))
}

/// Writes the list.
pub fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    files::replace(file, text.as_bytes(), Readers::Anybody)
        .with_context(|| format!("cannot write {}", file.display()))
}

/// The nodes in the order of the file.
fn change(
    file: &Path,
    how: impl FnOnce(&mut Vec<Value>) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Node>> {
    let mut value = read(file)?;
    how(list(&mut value, file)?)?;
    let text = format!("{value:#}\n");
    let read = manifest::read(&file.display().to_string(), &text).map_err(|problems| {
        let told: Vec<String> = problems.iter().map(Problem::to_string).collect();
        anyhow::anyhow!("{}", told.join("\n"))
    })?;
    write(file, &text)?;
    Ok(read.nodes)
}

fn read(file: &Path) -> anyhow::Result<Value> {
    match std::fs::read_to_string(file) {
        Ok(text) => serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not plain JSON, so that it can only be edited by hand",
                file.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(json!({"custom_nodes": []}))
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn list<'a>(value: &'a mut Value, file: &Path) -> anyhow::Result<&'a mut Vec<Value>> {
    let found = match value {
        Value::Array(list) => Some(list),
        Value::Object(object) => match object.get_mut("custom_nodes") {
            Some(Value::Array(list)) => Some(list),
            _ => None,
        },
        _ => None,
    };
    found.with_context(|| format!("{} holds no list; edit it by hand", file.display()))
}

fn name_of(entry: &Value) -> String {
    let url = entry["url"].as_str().or(entry["repositoryUrl"].as_str());
    let by_url = manifest::name_of_url(manifest::plain_url(url.unwrap_or_default()));
    entry["name"].as_str().unwrap_or(by_url).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_and_go_and_the_others_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("n.json");
        let node = add(&file, json!({"url": "https://h/o/one.git"})).unwrap();
        assert_eq!(node.name, "one");
        add(&file, json!({"url": "two", "branch": "b"})).unwrap();
        let error = add(&file, json!({"url": "other/two"})).unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
        let text = frozen(&file, &|name| (name == "two").then(|| "a".repeat(40))).unwrap();
        assert!(text.contains("aaaa") && !std::fs::read_to_string(&file).unwrap().contains("aaaa"));
        let error = remove(&file, &["tow".into()]).unwrap_err();
        assert!(error.to_string().contains("did you mean two"), "{error}");
        remove(&file, &["one".into()]).unwrap();
        let left: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(
            left,
            json!({"custom_nodes": [{"url": "two", "branch": "b"}]})
        );
    }
}
