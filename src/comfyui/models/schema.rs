//! The JSON Schema of manifests, made from the types that read them.

use super::manifest::{Link, Model, NoIndex};
use schemars::JsonSchema;
use serde_json::{Value, json};

/// The models that a workspace wants, and links to models that lie elsewhere.
#[derive(JsonSchema)]
#[schemars(title = "Model manifest")]
#[expect(dead_code, reason = "its shape is the schema")]
struct File {
    #[schemars(rename = "$schema")]
    schema: Option<String>,
    /// Files to be pulled.
    models: Option<Vec<Model>>,
    /// Links below `models` to files below `sd_models`.
    symlinks: Option<Vec<Link>>,
    /// Files that are not counted.
    no_index: Option<Vec<NoIndex>>,
}

/// The schema as it stands in `ecosystem/models.schema.json` (JSON Schema 2020-12).
pub fn manifest_schema() -> Value {
    let mut schema = schemars::SchemaGenerator::default()
        .into_root_schema_for::<File>()
        .to_value();
    // What the types cannot say: comments, and one source for each model.
    schema["patternProperties"] = json!({"^//": {"description": "A comment."}});
    schema["additionalProperties"] = false.into();
    schema["$defs"]["Model"]["oneOf"] = ["url", "huggingface", "civitai"]
        .map(|source| json!({"required": [source]}))
        .into_iter()
        .collect();
    schema
}
