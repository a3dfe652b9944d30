//! From `fornax.json`, the variables and the list of nodes to what is wanted.

use super::error::InstallError;
use super::layout::Layout;
use super::record::{Plan, Record};
use crate::comfyui::files::read_limited;
use crate::core::comfyui::manifest::{self, Manifest};
use crate::core::comfyui::torch::{self, Index};
use crate::core::machine::{FornaxFile, Machine, with_fallbacks};
use crate::core::problem::Problem;
use std::io;
use std::path::{Path, PathBuf};

/// ComfyUI's own repository.
pub const UPSTREAM: &str = "https://github.com/comfyanonymous/ComfyUI";
/// The list of nodes that is taken if it is there.
pub const NODES: &str = "config_nodes.json";
/// The most that `fornax.json` may hold, in bytes.
const LIMIT: u64 = 1 << 20;

/// The machine section with everything filled in that variables say.
///
/// # Errors
/// What is wrong with the file or with a variable, each with its place.
pub fn machine(
    layout: &Layout,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Machine, InstallError> {
    let path = layout.settings_file();
    let name = path.display().to_string();
    let file = match read_limited(&path, LIMIT) {
        Ok(text) => FornaxFile::read(&name, &text).map_err(InstallError::Settings)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => FornaxFile::default(),
        Err(error) => return Err(unreadable(&path, &error)),
    };
    with_fallbacks(file.machine, env).map_err(InstallError::Settings)
}

fn unreadable(path: &Path, error: &io::Error) -> InstallError {
    InstallError::Settings(vec![Problem {
        file: path.display().to_string(),
        line: None,
        column: None,
        key: String::new(),
        what: format!("cannot be read: {error}"),
        mend: "check the path and its permissions".to_owned(),
        pm2: None,
    }])
}

/// The list of nodes: where it is, if there is one or one was asked for.
pub fn nodes_file(layout: &Layout, machine: &Machine) -> PathBuf {
    let name = machine.nodes.as_deref().unwrap_or(NODES);
    layout.workspace().root().join(name)
}

/// The custom nodes that are wanted.
///
/// # Errors
/// The list is wrong, or was asked for and is not there.
pub fn nodes(layout: &Layout, machine: &Machine) -> Result<Manifest, InstallError> {
    let path = nodes_file(layout, machine);
    match read_limited(&path, manifest::MAX_BYTES) {
        Ok(text) => {
            manifest::read(&path.display().to_string(), &text).map_err(InstallError::Settings)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && machine.nodes.is_none() => {
            Ok(Manifest::default())
        }
        Err(error) => Err(unreadable(&path, &error)),
    }
}

/// What the machine itself says to the choice of a torch.
#[derive(Debug, Clone, Default)]
pub struct Hardware {
    /// ComfyUI is to run on the processor.
    pub cpu: bool,
    /// The CUDA version of the driver.
    pub cuda: Option<String>,
}

/// What is wanted.
///
/// # Errors
/// The list of nodes is wrong, or no torch fits the driver.
pub fn plan(layout: &Layout, machine: &Machine, hardware: &Hardware) -> Result<Plan, InstallError> {
    let setting = machine.torch_index.as_deref().unwrap_or("auto");
    let current = layout.current().and_then(|build| Record::of(&build));
    let torch_source = match (setting, hardware.cpu, current) {
        // A torch for a GPU runs on the processor too: trying `--cpu` costs no other environment.
        ("auto", true, Some(current)) => current.plan.torch_source,
        _ => {
            let given = torch::Machine {
                cuda: hardware.cuda.as_deref(),
                cpu: hardware.cpu,
            };
            let (index, _) =
                torch::choose(setting, given).map_err(|what| InstallError::Cannot {
                    what,
                    mend: "see `fornax gpu list`".to_owned(),
                })?;
            match index {
                Index::Ordinary => "pypi".to_owned(),
                Index::Url(url) => url,
            }
        }
    };
    let trio = || {
        ["torch", "torchvision", "torchaudio"]
            .map(str::to_owned)
            .to_vec()
    };
    let repository = machine.repository.as_deref().unwrap_or(UPSTREAM);
    Ok(Plan {
        repository: manifest::plain_url(repository).to_owned(),
        branch: machine.branch.clone(),
        commit: machine.commit.clone(),
        python: machine.python.clone(),
        system_site_packages: machine.system_site_packages.unwrap_or(false),
        installer: machine.installer.unwrap_or_default(),
        torch_source,
        torch: machine.torch.clone().unwrap_or_else(trio),
        packages: machine.packages.clone(),
        nodes: nodes(layout, machine)?.nodes,
    })
}
