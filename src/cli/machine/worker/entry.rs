//! An entry of the stream of jobs: is it a job, and what does it need.

use super::fit::Needs;
use crate::core::units::Bytes;
use crate::core::workflow;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The longest id, in bytes: with prefix and run it is a key of the job store.
const ID: usize = 150;
/// The largest job, in bytes: what `POST /jobs` takes.
const JOB: usize = 16 << 20;

/// An entry as Redis tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Redis' id.
    pub id: String,
    /// In order.
    pub fields: Vec<(String, Vec<u8>)>,
}

/// A job that somebody wants done.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The producer's id, else that of the entry.
    pub id: String,
    /// What `POST /jobs` takes.
    pub body: Map<String, Value>,
    /// What a machine must have for it.
    pub needs: Needs,
    /// It is not to be run again once a machine that had it is lost.
    pub once: bool,
}

/// What a producer may ask for beyond what its workflow names.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Requires {
    vram: Option<Value>,
    models: Vec<String>,
    nodes: Vec<String>,
}

impl Entry {
    /// A field's text, if there is one and it is text.
    fn text(&self, name: &str) -> Result<Option<&str>, String> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        let Some((_, bytes)) = found else {
            return Ok(None);
        };
        let text = std::str::from_utf8(bytes);
        text.map(Some)
            .map_err(|_| format!("the field `{name}` is no UTF-8"))
    }

    /// The id that results go under, also of an entry that is no job.
    pub fn name(&self) -> String {
        let given = self.text("id").ok().flatten();
        match given.filter(|id| is_id(id)) {
            Some(id) => id.to_owned(),
            None => self.id.clone(),
        }
    }

    /// Reads it as a job, or says what is wrong with it.
    pub fn order(&self) -> Result<Order, String> {
        if let Some(id) = self.text("id")?.filter(|id| !is_id(id)) {
            return Err(format!(
                "the id has {} bytes; it may have 1 to {ID}, without control characters",
                id.len()
            ));
        }
        let text = self.text("job")?.ok_or("there is no field `job`")?;
        if text.len() > JOB {
            return Err(format!(
                "the job has {} bytes; the most is {JOB}",
                text.len()
            ));
        }
        let job: Value =
            serde_json::from_str(text).map_err(|error| format!("`job` is not JSON: {error}"))?;
        let Value::Object(job) = job else {
            return Err("`job` is no object".to_owned());
        };
        let is_job = ["workflow", "prompt"].iter().any(|key| {
            job.get(*key)
                .is_some_and(|graph| graph.is_object() && graph.get("class_type").is_none())
        });
        let body = if is_job {
            job
        } else {
            Map::from_iter([("workflow".to_owned(), Value::Object(job))])
        };
        let graph = body.get("workflow").or(body.get("prompt"));
        let graph = graph.unwrap_or(&Value::Null);
        workflow::check(graph).map_err(|error| error.to_string())?;
        let mut needs = Needs::of(graph);
        if let Some(text) = self.text("requires")? {
            let requires: Requires = serde_json::from_str(text)
                .map_err(|error| format!("`requires` cannot be read: {error}"))?;
            needs.vram = requires.vram.map_or(Ok(0), |size| bytes(&size))?;
            needs.models.extend(requires.models);
            needs.nodes.extend(requires.nodes);
        }
        let once = match self.text("once")? {
            None | Some("" | "0" | "false") => false,
            Some("1" | "true") => true,
            Some(other) => return Err(format!("`once` is true or false, not `{other}`")),
        };
        Ok(Order {
            id: self.name(),
            body,
            needs,
            once,
        })
    }
}

fn is_id(id: &str) -> bool {
    (1..=ID).contains(&id.len()) && !id.chars().any(char::is_control)
}

/// A number of bytes, or a text such as `16G`.
fn bytes(size: &Value) -> Result<u64, String> {
    let parsed = match size {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => Bytes::parse(text).map(|bytes| bytes.0),
        _ => None,
    };
    parsed.ok_or_else(|| format!("`requires.vram` is no size: {size}; write 16G"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn entry(fields: &[(&str, &str)]) -> Entry {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
        Entry {
            id: "17-0".to_owned(),
            fields: fields.iter().map(own).collect(),
        }
    }

    const GRAPH: &str =
        r#"{"1": {"class_type": "Load", "inputs": {"ckpt_name": "a.safetensors"}}}"#;

    #[test]
    fn a_workflow_and_a_job_are_both_jobs() {
        let plain = entry(&[("job", GRAPH)]).order().unwrap();
        assert_eq!((plain.id.as_str(), plain.once), ("17-0", false));
        assert!(plain.needs.nodes.contains("Load"));
        assert_eq!(
            plain.needs.named,
            [(
                "Load".to_owned(),
                "ckpt_name".to_owned(),
                "a.safetensors".to_owned()
            )]
        );
        let text = format!(r#"{{"workflow": {GRAPH}, "priority": 3}}"#);
        let full = entry(&[
            ("id", "order 7"),
            ("job", &text),
            ("requires", r#"{"vram": "16G", "models": ["b.ckpt"]}"#),
            ("once", "1"),
            ("note", "mine"),
        ]);
        let full = full.order().unwrap();
        assert_eq!((full.id.as_str(), full.once), ("order 7", true));
        assert_eq!(
            (full.needs.vram, &full.body["priority"]),
            (16 << 30, &json!(3))
        );
        assert!(full.needs.models.contains("b.ckpt"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let long = "x".repeat(151);
        for (fields, words) in [
            (vec![("work", GRAPH)], "no field `job`"),
            (vec![("job", "{")], "not JSON"),
            (vec![("job", "[1]")], "no object"),
            (vec![("job", "{}")], "no nodes"),
            (
                vec![("job", r#"{"nodes": [], "links": []}"#)],
                "editor's format",
            ),
            (
                vec![("job", GRAPH), ("requires", r#"{"ram": 1}"#)],
                "`requires` cannot be read",
            ),
            (
                vec![("job", GRAPH), ("requires", r#"{"vram": "much"}"#)],
                "no size",
            ),
            (
                vec![("job", GRAPH), ("once", "perhaps")],
                "`once` is true or false",
            ),
            (vec![("job", GRAPH), ("id", &long)], "151 bytes"),
        ] {
            let why = entry(&fields).order().unwrap_err();
            assert!(why.contains(words), "{fields:?}: {why}");
        }
        assert_eq!(entry(&[("id", &long)]).name(), "17-0");
    }

    proptest! {
        #[test]
        fn no_entry_panics(fields in proptest::collection::vec(
            ("job|id|requires|once|\\PC{0,5}", proptest::collection::vec(any::<u8>(), 0..60)), 0..6)
        ) {
            let _ = Entry { id: "1-1".to_owned(), fields }.order();
        }
    }
}
