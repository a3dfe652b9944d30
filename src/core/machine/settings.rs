//! The settings as they are written, and what they may be.

use super::instances::{self, Instance};
use crate::core::json;
use crate::core::positions::Positions;
use crate::core::problem::Problem;
use crate::core::spec::cpus::Cpus;
use crate::core::spec::issue::SpecIssue;
use crate::core::units::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Where the schema stands.
const SCHEMA: &str = "ecosystem/fornax.schema.json";

/// The most clones at once that may be asked for.
pub const MAX_CLONES: u32 = 16;

/// `<workspace>/fornax.json`. Unknown keys are errors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FornaxFile {
    /// For editors.
    #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// This machine.
    pub machine: Machine,
}

/// What is installed on this machine and how it runs. A setting that is not given may come from a variable (docs/comfyui.md
/// lists them), else it has its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Machine {
    /// `false`: ComfyUI is neither installed nor run on this machine. Default `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The git repository of ComfyUI, a fork or upstream: a URL or a path. Default: upstream on GitHub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The branch (or tag) to follow. Default: the repository's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit to stay at, 7 to 64 hexadecimal digits. Default: the newest of the branch when it is installed or updated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The Python that the environment is made with: a path, or a name in PATH such as `python3.12`. Default: the first of
    /// python3.12, python3.11, python3.13, python3.10, python3 that serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python: Option<String>,
    /// The environment also sees the packages of that Python, such as the torch of a container image. Default `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_site_packages: Option<bool>,
    /// What installs packages. Default `auto`: uv if it is in PATH, else pip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub installer: Option<Installer>,
    /// Where torch comes from: `auto` (by the driver's CUDA version), `pypi` (the ordinary index), a name of PyTorch's own
    /// index such as `cpu` or `cu128`, or a URL. Default `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torch_index: Option<String>,
    /// The torch packages, installed together and first; a list of requirements. Default: torch, torchvision, torchaudio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torch: Option<Vec<String>>,
    /// Further requirements, installed with ComfyUI's own, such as `numpy<2`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// The list of custom nodes, relative to the workspace. Default: `config_nodes.json`, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,
    /// The list of models, relative to the workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<String>,
    /// `false`: an install leaves the models alone. Default `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_models: Option<bool>,
    /// Flags for every ComfyUI: a list, or one text that is split as a shell does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Arguments>,
    /// Memory of its GPU that each ComfyUI leaves to others, in GB: its `--reserve-vram`. 0 to 1024. Default: ComfyUI's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve_vram: Option<f64>,
    /// A ComfyUI is restarted when its processes hold more memory than this: a number of bytes, or `24G`. 1G or more. Default: no
    /// limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<Bytes>,
    /// The processors that each may run on: a list such as `0-7,16-23`, or `auto` for those of its GPU's NUMA node. Default: `auto`
    /// with a GPU, all on the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    /// Settings of single instances, over these, by the index of the GPU (on the processor the instance's number): `{"0": {…}}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub instances: BTreeMap<String, Instance>,
    /// The GPUs to run on: `"all"` (the default), how many, or a list of indices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Gpus>,
    /// Run on the processor instead, one instance for each of `gpus`. Default `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<bool>,
    /// The port of instance 0; instance N gets this plus N. Default 8188.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_port: Option<u16>,
    /// Where health is told: an address such as `127.0.0.1:9090`, or `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// How many repositories are cloned at once, 1 to 16. Default 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clones: Option<u32>,
}

/// What installs packages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Installer {
    /// uv if it is there, else pip.
    #[default]
    Auto,
    /// uv, or an error.
    Uv,
    /// The environment's pip.
    Pip,
}

/// Flags for ComfyUI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Arguments {
    /// To be split as a shell does.
    Text(String),
    /// Split already.
    List(Vec<String>),
}

/// Which GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Gpus {
    /// So many, from index 0.
    Count(u32),
    /// These, by index.
    List(Vec<u32>),
    /// `all`, or what `--gpus` takes.
    Word(String),
}

impl Gpus {
    /// As `--gpus` of `up` takes it: indices, or `None` for all.
    pub fn indices(&self) -> Option<String> {
        let list = |indices: &mut dyn Iterator<Item = u32>| {
            let words: Vec<String> = indices.map(|index| index.to_string()).collect();
            words.join(",")
        };
        match self {
            Gpus::Count(count) => Some(list(&mut (0..*count))),
            Gpus::List(indices) => Some(list(&mut indices.iter().copied())),
            Gpus::Word(word) if word == "all" => None,
            Gpus::Word(word) => Some(word.clone()),
        }
    }
}

impl FornaxFile {
    /// Reads the text of a file called `file`.
    ///
    /// # Errors
    /// Everything that is wrong, each with line, column and key.
    pub fn read(file: &str, text: &str) -> Result<Self, Vec<Problem>> {
        let (read, positions): (Self, Positions) =
            json::read(file, text, SCHEMA).map_err(|problem| vec![*problem])?;
        let problems: Vec<Problem> = read
            .machine
            .senseless()
            .iter()
            .map(|issue| {
                Problem::placed(
                    file,
                    &positions,
                    &format!("/machine{}", issue.pointer),
                    issue,
                )
            })
            .collect();
        match problems.is_empty() {
            true => Ok(read),
            false => Err(problems),
        }
    }
}

impl Machine {
    /// What holds of every instance, its flags apart.
    pub fn every_instance(&self) -> Instance {
        Instance {
            reserve_vram: self.reserve_vram,
            max_memory: self.max_memory,
            cpus: self.cpus.clone(),
            arguments: None,
        }
    }

    /// What is well formed and cannot work.
    pub(super) fn senseless(&self) -> Vec<SpecIssue> {
        let mut issues = Vec::new();
        let texts = [
            ("repository", &self.repository),
            ("branch", &self.branch),
            ("python", &self.python),
            ("torch_index", &self.torch_index),
            ("nodes", &self.nodes),
            ("models", &self.models),
            ("http", &self.http),
        ];
        for (key, text) in texts {
            let Some(text) = text else { continue };
            if text.trim().is_empty() {
                issues.push(SpecIssue::new(
                    format!("/{key}"),
                    "is empty",
                    "leave it out",
                ));
            } else if text.starts_with('-') || text.chars().any(char::is_control) {
                issues.push(SpecIssue::new(
                    format!("/{key}"),
                    format!("{text:?} would be taken for an option"),
                    "write it without the leading `-`",
                ));
            }
        }
        if let Some(commit) = &self.commit
            && !is_commit(commit)
        {
            issues.push(SpecIssue::new(
                "/commit",
                format!("{commit:?} is no commit"),
                "write 7 to 64 hexadecimal digits; a branch or tag goes under `branch`",
            ));
        }
        if self.base_port == Some(0) {
            issues.push(SpecIssue::new(
                "/base_port",
                "0 is no port to listen on",
                "write 1 to 65535",
            ));
        }
        if self.clones.is_some_and(|n| n == 0 || n > MAX_CLONES) {
            issues.push(SpecIssue::new(
                "/clones",
                "is out of range",
                format!("write 1 to {MAX_CLONES}"),
            ));
        }
        if self.torch.as_ref().is_some_and(Vec::is_empty) {
            issues.push(SpecIssue::new(
                "/torch",
                "is an empty list",
                "leave it out; ComfyUI does not run without torch",
            ));
        }
        let lists = [
            ("torch", self.torch.as_deref().unwrap_or_default()),
            ("packages", &self.packages),
        ];
        for (key, list) in lists {
            for (at, text) in list.iter().enumerate() {
                if text.starts_with('-') || text.trim().is_empty() || text.contains(['\n', '\r']) {
                    issues.push(SpecIssue::new(
                        format!("/{key}/{at}"),
                        format!("{text:?} is no requirement"),
                        "write a package, such as `numpy<2`",
                    ));
                }
            }
        }
        issues.extend(self.every_instance().senseless(""));
        issues.extend(instances::senseless(&self.instances));
        match &self.gpus {
            Some(Gpus::Count(0)) => issues.push(SpecIssue::new(
                "/gpus",
                "0 GPUs is nothing to run on",
                "write 1 or more, or set `enabled` to false",
            )),
            Some(Gpus::List(list)) if list.is_empty() => issues.push(SpecIssue::new(
                "/gpus",
                "is an empty list",
                "write \"all\", or the indices of GPUs",
            )),
            _ => {}
        }
        issues
    }
}

/// Whether a text may name a commit.
pub(crate) fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The schema of `fornax.json`, as it stands in `ecosystem/fornax.schema.json` (JSON Schema 2020-12).
pub fn schema() -> Value {
    schemars::SchemaGenerator::default()
        .into_root_schema_for::<FornaxFile>()
        .to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let problems = FornaxFile::read("fornax.json", text).unwrap_err();
        problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn a_full_file_is_read() {
        let text = r#"{machine: {repository: "https://example.org/C", branch: "forward", gpus: [0, 1],
            arguments: "--preview-method auto", clones: 8, torch_index: "cu128", installer: "uv"}}"#;
        let read = FornaxFile::read("f", text).unwrap().machine;
        assert_eq!(read.branch.as_deref(), Some("forward"));
        assert_eq!(read.gpus.unwrap().indices().as_deref(), Some("0,1"));
        assert_eq!(read.installer, Some(Installer::Uv));
        assert_eq!(FornaxFile::read("f", "{}").unwrap(), FornaxFile::default());
    }

    #[test]
    fn each_problem_names_its_line_and_its_key() {
        let all = problems("{machine: {\n commit: 'main',\n clones: 99,\n packages: ['-e .']}}");
        assert_eq!(
            all,
            [
                "fornax.json:2:10: machine.commit: \"main\" is no commit; write 7 to 64 hexadecimal digits; a branch or tag goes under `branch`",
                "fornax.json:3:10: machine.clones: is out of range; write 1 to 16",
                "fornax.json:4:13: machine.packages[0]: \"-e .\" is no requirement; write a package, such as `numpy<2`",
            ]
        );
        assert_eq!(
            problems("{machine: {\n  reposittory: 'x'}}"),
            [
                "fornax.json:2:3: machine.reposittory: unknown key `reposittory`; did you mean `repository`?"
            ]
        );
        assert!(problems("{machine: {installer: 'conda'}}")[0].contains("unknown variant"));
        assert!(problems("{machine: {branch: '--upload-pack=x'}}")[0].contains("option"));
    }
}
