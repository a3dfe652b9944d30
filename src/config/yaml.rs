//! YAML 1.2 as PM2 reads it (only `true` and `false` are booleans), with the place of each key and value.

use super::error::{ConfigError, Problem};
use crate::core::positions::{Place, Positions};
use crate::core::spec::issue::pointer_step;
use crate::core::spec::raw::whole_or_real;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;
use std::fmt;

/// Parses one YAML document. Anchors and merge keys work; of a key written twice the last one counts.
pub fn parse(file: &str, text: &str) -> Result<(Value, Positions), ConfigError> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    let root: Spanned<Tree> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map(|l| place(l.line(), l.column()));
        ConfigError::Malformed(Box::new(Problem {
            file: file.to_string(),
            line: place.map(|p| p.line),
            column: place.map(|p| p.column),
            key: String::new(),
            what: format!("is not YAML: {}", error.without_snippet()),
            mend: "see what stands at this place; indent with spaces, and quote text that has a colon".to_string(),
            pm2: Some(format!("File {file} malformated")),
        }))
    })?;
    let mut positions = Positions::default();
    let start = place_of(&root);
    let value = plain(root, &mut String::new(), start, &mut positions);
    Ok((value, positions))
}

/// A YAML value that knows where its parts stand.
enum Tree {
    Scalar(Value),
    List(Vec<Spanned<Tree>>),
    Object(Vec<(Spanned<String>, Spanned<Tree>)>),
}

fn plain(
    tree: Spanned<Tree>,
    pointer: &mut String,
    key: Place,
    positions: &mut Positions,
) -> Value {
    positions.note(pointer, key, place_of(&tree));
    let length = pointer.len();
    match tree.value {
        Tree::Scalar(value) => value,
        Tree::List(items) => {
            let mut out = Vec::with_capacity(items.len());
            for (index, item) in items.into_iter().enumerate() {
                pointer.push_str(&format!("/{index}"));
                let at = place_of(&item);
                out.push(plain(item, pointer, at, positions));
                pointer.truncate(length);
            }
            Value::Array(out)
        }
        Tree::Object(members) => {
            let mut out = Map::new();
            for (name, value) in members {
                pointer.push_str(&pointer_step(&name.value));
                let at = place_of(&name);
                let value = plain(value, pointer, at, positions);
                pointer.truncate(length);
                out.insert(name.value, value);
            }
            Value::Object(out)
        }
    }
}

fn place_of<T>(spanned: &Spanned<T>) -> Place {
    place(spanned.referenced.line(), spanned.referenced.column())
}

fn place(line: u64, column: u64) -> Place {
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Place {
        line: number(line),
        column: number(column),
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, true or false, null, a list or a map")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(
            whole_or_real(value).map_or(Value::Null, Value::Number),
        ))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = access.next_entry()? {
            members.push(member);
        }
        Ok(Tree::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_is_read_as_pm2_reads_it() {
        let text = "apps:\n  - &base\n    script: a.js\n    name: yes\n    env: {A: on, E: ~, F: 1e3, T: true, S: '5'}\n  - <<: *base\n    name: z\n    kill_timeout: soon\n";
        let (value, positions) = parse("e.yml", text).unwrap();
        assert_eq!(
            value,
            json!({"apps": [
                {"script": "a.js", "name": "yes", "env": {"A": "on", "E": null, "F": 1000, "T": true, "S": "5"}},
                {"script": "a.js", "name": "z", "env": {"A": "on", "E": null, "F": 1000, "T": true, "S": "5"}, "kill_timeout": "soon"},
            ]})
        );
        assert_eq!(
            positions.find("/apps/1/kill_timeout", false),
            Some(Place {
                line: 8,
                column: 19
            })
        );
        assert_eq!(
            positions.find("/apps/1/kill_timeout", true),
            Some(Place { line: 8, column: 5 })
        );
    }

    #[test]
    fn broken_yaml_names_its_line() {
        let error = parse("e.yml", "apps:\n  - script: [a\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("e.yml:") && error.contains("is not YAML"),
            "{error}"
        );
    }
}
