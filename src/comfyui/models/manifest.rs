//! The model manifest: which files are wanted, where they come from, and which links lead to them.
//!
//! One JSON object with the keys `models`, `symlinks` and `no_index`, each a list and each optional; keys that begin with `//` are
//! comments. The last two are those of the `static-models.json` files that exist (comfyui-facts 1.7), so such a file is a manifest
//! without models. The JSON Schema is `ecosystem/models.schema.json`.

mod read;

use super::source::Source;
use crate::comfyui::files::read_limited;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// The largest manifest, in bytes.
const LIMIT: u64 = 4 << 20;

/// A file that is wanted. It comes from exactly one of `url`, `huggingface` and `civitai`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its name in the folder; may have sub-folders (`SD1.5/x.safetensors`). Left out: the last part of the URL, or of Hugging
    /// Face's file. Civitai's addresses have none, so it is needed there.
    #[serde(default)]
    pub name: Option<String>,
    /// The folder below the workspace's `models`: `checkpoints`, `loras`, `vae` …
    pub folder: String,
    /// An http or https address.
    #[serde(default)]
    pub url: Option<String>,
    /// A file of a repository on Hugging Face.
    #[serde(default)]
    pub huggingface: Option<HuggingFace>,
    /// A version of a model on Civitai.
    #[serde(default)]
    pub civitai: Option<Civitai>,
    /// The file's SHA-256, 64 hexadecimal digits. Left out: what Hugging Face and Civitai tell of the file is checked.
    #[serde(default)]
    #[schemars(regex(pattern = r"^[0-9A-Fa-f]{64}$"))]
    pub sha256: Option<String>,
    /// The file's size in bytes.
    #[serde(default)]
    pub size: Option<u64>,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
}

/// A file of a repository on Hugging Face.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HuggingFace {
    /// `owner/name`.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$"))]
    pub repo: String,
    /// The file's path in it.
    pub file: String,
    /// A branch, tag or commit. A commit never changes.
    #[serde(default = "main_branch")]
    pub revision: String,
}

fn main_branch() -> String {
    "main".to_owned()
}

/// A version of a model on Civitai.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Civitai {
    /// The version's id: the last part of `https://civitai.com/api/download/models/<id>`.
    pub version: u64,
}

/// A link of `static-models.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// The real file, below the workspace's `sd_models`.
    pub source: String,
    /// The link's path below the workspace's `models`.
    pub target: String,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
}

/// A file that is not counted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoIndex {
    /// Its path; what comes before `/models/` in an absolute one does not matter.
    pub path: String,
    /// For people.
    #[serde(default)]
    pub reason: Option<String>,
}

/// A wanted file, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its path below the models folder: `checkpoints/x.safetensors`.
    pub file: String,
    /// Its folder: the path's first part.
    pub folder: String,
    /// Where it comes from.
    pub source: Source,
    /// Its SHA-256 in lower case.
    pub sha256: Option<String>,
    /// Its size in bytes.
    pub size: Option<u64>,
}

/// What is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Files, no two of one path.
    pub models: Vec<Wanted>,
    /// Links.
    pub links: Vec<Link>,
    /// Paths below the models folder that are not counted.
    pub not_indexed: Vec<String>,
}

/// What is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// The key, as `models[2].sha256`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// How to mend it.
    pub mend: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}; {}", self.what, self.mend)
    }
}

impl std::error::Error for ManifestError {}

impl Manifest {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or the first thing that is wrong in it.
    pub fn load(file: &Path) -> Result<Self, ManifestError> {
        let text = read_limited(file, LIMIT).map_err(|error| ManifestError {
            file: file.to_owned(),
            line: 0,
            key: String::new(),
            what: format!("cannot be read: {error}"),
            mend: "check the path and its permissions".to_owned(),
        })?;
        Self::parse(file, &text)
    }

    /// Reads a text; `file` is for messages.
    ///
    /// # Errors
    /// The first thing that is wrong in it.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ManifestError> {
        read::Reader { file, text }.manifest()
    }

    /// This and another: where both want a file, it must be the same one.
    ///
    /// # Errors
    /// The path that two sources are given for.
    pub fn join(mut self, other: Self) -> Result<Self, String> {
        for wanted in other.models {
            match self.models.iter().find(|known| known.file == wanted.file) {
                Some(known) if known.source != wanted.source || known.sha256 != wanted.sha256 => {
                    return Err(format!(
                        "two manifests want {} from different sources; keep one of them",
                        wanted.file
                    ));
                }
                Some(_) => {}
                None => self.models.push(wanted),
            }
        }
        for link in other.links {
            if !self.links.contains(&link) {
                self.links.push(link);
            }
        }
        self.not_indexed.extend(other.not_indexed);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(Path::new("m.json"), text)
    }

    #[test]
    fn every_source_is_read_and_the_name_taken_from_it() {
        let sum = "A".repeat(64);
        let manifest = read(&format!(
            r#"{{"// note": "", "$schema": "x", "models": [
                {{"folder": "vae", "url": "https://h/a/b%20c.pt?download=true", "size": 3, "sha256": "{sum}"}},
                {{"folder": "loras", "huggingface": {{"repo": "o/r", "file": "d/e.safetensors"}}}},
                {{"folder": "loras", "name": "SD/x.safetensors", "civitai": {{"version": 7}}, "description": "d"}}
            ]}}"#
        ))
        .unwrap();
        let files: Vec<&str> = manifest
            .models
            .iter()
            .map(|wanted| wanted.file.as_str())
            .collect();
        assert_eq!(
            files,
            [
                "vae/b c.pt",
                "loras/e.safetensors",
                "loras/SD/x.safetensors"
            ]
        );
        assert_eq!(manifest.models[0].sha256, Some("a".repeat(64)));
        assert_eq!(manifest.models[2].folder, "loras");
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_key() {
        for (text, want) in [
            (
                "{\n\"models\": [\n{\"folder\": \"vae\",\n\"url\": \"https://h/x\",\n\"sha265\": \"\"}]}",
                "m.json:5: models[0].sha265: unknown field",
            ),
            (
                "{\"models\": [{\"folder\": \"vae\", \"url\": \"https://h/x\"},\n{\"folder\": \"vae\",\n \"size\": \"12\", \"url\": \"https://h/y\"}]}",
                "m.json:3: models[1].size: invalid type",
            ),
            (
                "{\"models\": [{\"folder\": \"vae\",\n\"url\": \"ftp://h/x\"}]}",
                "m.json:2: models[0].url:",
            ),
            (
                "{\"models\": [{\"folder\": \"vae\"}]}",
                "m.json:1: models[0].url: ",
            ),
            (
                "{\"models\": [{\"url\": \"https://h/x\",\n\"folder\": \"../vae\"}]}",
                "m.json:2: models[0].folder: is absolute, or has",
            ),
            (
                "{\"models\": [{\"folder\": \"vae\", \"civitai\": {\"version\": 1}}]}",
                "m.json:1: models[0].name: is missing",
            ),
            (
                "{\"models\": [{\"folder\": \"vae\", \"url\": \"https://h/x\"},\n{\"folder\": \"vae\", \"url\": \"https://i/x\"}]}",
                "m.json:2: models[1].name: vae/x is wanted twice",
            ),
            (
                "{\"models\": [{\"folder\": \"vae\", \"huggingface\": {\"repo\": \"../x\", \"file\": \"a\"}}]}",
                "m.json:1: models[0].huggingface.repo: ",
            ),
            (
                "{\"symlinks\": [{\"source\": \"a\",\n\"target\": \"/etc/x\"}]}",
                "m.json:2: symlinks[0].target: is absolute",
            ),
            ("{\"model_symlinks\": []}", "name it `symlinks`"),
            ("{\"models\": {}}", "m.json:1: models: is not a list"),
            ("{\n\"models\": [,]}", "m.json:2"),
            ("[]", "m.json:1"),
            ("", "m.json:1"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}\n{error}");
        }
    }

    #[test]
    fn the_users_static_models_are_a_manifest_and_two_manifests_join() {
        let text = r#"{"// Updated: x": "", "symlinks": [{"source": "Stable-diffusion/a.safetensors", "target": "checkpoints/a.safetensors", "description": "A"}],
            "no_index": [{"path": "/workspace/shared/models/checkpoints/a.safetensors", "reason": "r"}]}"#;
        let one = read(text).unwrap();
        assert_eq!(one.not_indexed, ["checkpoints/a.safetensors"]);
        let two = read(r#"{"models": [{"folder": "vae", "url": "https://h/x"}]}"#).unwrap();
        let both = one.clone().join(two.clone()).unwrap().join(one).unwrap();
        assert_eq!((both.links.len(), both.models.len()), (1, 1));
        let other = read(r#"{"models": [{"folder": "vae", "url": "https://i/x"}]}"#).unwrap();
        assert!(two.join(other).unwrap_err().contains("vae/x"));
    }
}
