//! The JSON Schema of ecosystem files, made from the table of keys and from [`FornaxBlock`].

use crate::core::spec::fornax::FornaxBlock;
use crate::core::spec::keys::{ENV_BLOCK_KINDS, KEYS, Key, Kind};
use serde_json::{Map, Value, json};

/// The schema as it stands in `ecosystem/ecosystem.schema.json` (JSON Schema 2020-12).
pub fn ecosystem_schema() -> Value {
    let mut fornax = schemars::SchemaGenerator::default()
        .into_root_schema_for::<FornaxBlock>()
        .to_value();
    let mut definitions = Map::new();
    if let Some(fornax) = fornax.as_object_mut() {
        fornax.shift_remove("$schema");
        if let Some(Value::Object(inner)) = fornax.shift_remove("$defs") {
            definitions.extend(inner);
        }
    }
    definitions.insert("fornax".into(), fornax);
    definitions.insert("app".into(), app());
    definitions.insert(
        "apps".into(),
        json!({"description": "The apps: a list, or a single one.", "anyOf": [
            {"type": "array", "items": {"$ref": "#/$defs/app"}},
            {"$ref": "#/$defs/app"},
        ]}),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Ecosystem file",
        "description": "Apps for fornax and PM2. The file may be an object with `apps`, a list of apps, or a single app.",
        "anyOf": [
            {
                "type": "object",
                "required": ["apps"],
                "properties": {
                    "$schema": {"type": "string"},
                    "apps": {"$ref": "#/$defs/apps"},
                    "deploy": {"type": "object", "description": "Hosts to deploy to, by environment.", "additionalProperties": {"type": "object"}},
                    "static": {"type": "array", "description": "Folders to serve by HTTP.", "items": {"type": "object"}},
                },
            },
            {"type": "object", "required": ["pm2"], "properties": {"pm2": {"$ref": "#/$defs/apps"}}},
            {"type": "array", "items": {"$ref": "#/$defs/app"}},
            {"$ref": "#/$defs/app"},
        ],
        "$defs": definitions,
    })
}

fn app() -> Value {
    let mut properties = Map::new();
    for key in &KEYS {
        properties.insert(key.name.into(), property(key, key.doc.to_string()));
        for alias in key
            .aliases
            .iter()
            .map(ToString::to_string)
            .chain(key.camel())
        {
            properties
                .entry(alias)
                .or_insert_with(|| property(key, format!("The same as `{}`.", key.name)));
        }
    }
    properties.insert("fornax".into(), json!({"$ref": "#/$defs/fornax"}));
    let script = KEYS
        .iter()
        .find(|key| key.name == "script")
        .map(|key| key.aliases)
        .unwrap_or_default();
    let ways: Vec<Value> = std::iter::once("script")
        .chain(script.iter().copied())
        .map(|name| json!({"required": [name]}))
        .collect();
    json!({
        "type": "object",
        "description": "One app. Keys that are not listed are ignored, except inside `fornax`.",
        "anyOf": ways,
        "properties": properties,
        "patternProperties": {
            "^env_\\S*$": {
                "description": "More variables, over `env`, when started with --env and the rest of this key's name.",
                "type": types(ENV_BLOCK_KINDS),
            },
        },
    })
}

/// The types a value may be written in. Text that reads as a number is taken for one.
fn property(key: &Key, doc: String) -> Value {
    let mut out = Map::new();
    out.insert("description".into(), doc.into());
    let numeric = key.kinds.contains(&Kind::Number);
    let mut kinds = key.kinds.to_vec();
    if numeric && !kinds.contains(&Kind::Text) {
        kinds.push(Kind::Text);
    }
    out.insert("type".into(), types(&kinds));
    let pattern = match (key.pattern, numeric && !key.kinds.contains(&Kind::Text)) {
        (Some(pattern), _) => Some(pattern.regex),
        (None, true) if key.name == "instances" => Some("^\\s*(max|-?\\d+)\\s*$"),
        (None, true) => Some("^\\s*[+-]?(\\d+\\.?\\d*|\\.\\d+)([eE][+-]?\\d+)?\\s*$"),
        (None, false) => None,
    };
    if let Some(pattern) = pattern {
        out.insert("pattern".into(), pattern.into());
    }
    if let Some(min) = key.min {
        out.insert("minimum".into(), min.into());
    }
    if let Ok(default) = serde_json::from_str::<Value>(key.default) {
        out.insert("default".into(), default);
    }
    Value::Object(out)
}

fn types(kinds: &[Kind]) -> Value {
    match kinds {
        [kind] => kind.schema_word().into(),
        kinds => kinds
            .iter()
            .map(|kind| Value::from(kind.schema_word()))
            .collect(),
    }
}
