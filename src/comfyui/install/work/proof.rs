//! The steps that concern nodes, and proving it all.

use super::Work;
use crate::comfyui::ecosystem;
use crate::comfyui::install::error::{InstallError, io_in};
use crate::comfyui::install::nodes::{self, Setup, Task};
use crate::comfyui::install::record::{BuildState, Lock, NodeState};
use crate::comfyui::install::run::Moving;
use crate::comfyui::install::validate::{self, Imported, Proof};
use crate::comfyui::install::{python, whole};
use crate::comfyui::tree;
use crate::core::comfyui::imports::Imports;
use std::collections::BTreeSet;
use std::fs;

/// How many modules that a tree forgets to require are mended in one install.
const MENDED: usize = 6;

impl Work<'_> {
    pub(super) fn nodes(&mut self) -> Result<(), InstallError> {
        self.with_pip(Self::install_nodes)
    }

    pub(super) fn install_nodes(&mut self) -> Result<(), InstallError> {
        let dir = self.build.nodes();
        fs::create_dir_all(&dir).map_err(io_in("nodes", "make", &dir))?;
        let wanted: BTreeSet<&str> = self
            .plan
            .nodes
            .iter()
            .map(|node| node.name.as_str())
            .collect();
        let gone: Vec<String> = self
            .record
            .nodes
            .keys()
            .filter(|name| !wanted.contains(name.as_str()))
            .cloned()
            .collect();
        for name in gone {
            nodes::remove(&dir, &name)?;
            self.record.nodes.remove(&name);
        }
        for entry in fs::read_dir(&dir)
            .map_err(io_in("nodes", "read", &dir))?
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') && name.ends_with(".part") {
                nodes::remove(&dir, &name)?;
            }
        }
        let mut tasks = Vec::new();
        for node in &self.plan.nodes {
            let moves = match &self.options.moving {
                Moving::Nothing => false,
                Moving::Everything => true,
                Moving::Nodes(names) => names.contains(&node.name),
            };
            let known = self.record.nodes.get(&node.name);
            let as_it_was = known.is_some_and(|known| {
                known.wanted == *node
                    && matches!(known.state, NodeState::Installed | NodeState::ImportFailed)
            }) && dir.join(&node.name).is_dir();
            if as_it_was && !moves {
                continue;
            }
            let locked = self
                .lock
                .as_ref()
                .and_then(|lock| lock.nodes.get(&node.name));
            let commit = self.commit(
                &node.url,
                node.branch.as_deref(),
                node.commit.as_deref(),
                moves,
                locked,
            );
            tasks.push(Task {
                node: node.clone(),
                commit,
            });
        }
        let git = self.git();
        let count = tasks.len();
        let version = tree::version(&self.build.tree());
        nodes::obtain(git, &dir, &tasks, self.options.clones, |at, got| {
            let node = &tasks[at].node;
            self.teller.say(
                &format!("{}/{count} {}", at + 1, node.name),
                Some(at as f64 / count as f64),
            );
            let record = match got {
                Err(error) => nodes::failed(node, &error),
                Ok(tree) => {
                    let same = self.record.nodes.get(&node.name).is_some_and(|known| {
                        known.wanted == *node
                            && known.commit.as_ref() == Some(&tree.commit)
                            && known.state == NodeState::Installed
                    });
                    if same {
                        return Ok(());
                    }
                    let packages = self.packages();
                    let setup = Setup {
                        packages: &packages,
                        comfyui: version.as_deref(),
                        env: &*self.options.env,
                    };
                    setup.run(node, &tree)?
                }
            };
            for problem in &record.problems {
                self.teller.line(&format!("-- {}: {problem}", node.name));
            }
            self.record.nodes.insert(node.name.clone(), record);
            self.write()
        })
    }

    pub(super) fn validate(&mut self) -> Result<(), InstallError> {
        self.check_flags()?;
        let imports = self.prove()?;
        self.record.notes = validate::core_notes(&imports);
        for import in imports.nodes.iter().filter(|import| !import.ok) {
            if let Some(node) = self.record.nodes.get_mut(&import.name) {
                node.state = NodeState::ImportFailed;
                let why = format!("import failed: {}", import.why);
                if !node.problems.contains(&why) {
                    node.problems.push(why);
                }
            } else {
                self.record.notes.push(format!(
                    "the node {} did not import: {}",
                    import.name, import.why
                ));
            }
        }
        for (name, node) in &mut self.record.nodes {
            let imported = imports
                .nodes
                .iter()
                .any(|import| import.name == *name && import.ok);
            if imported && node.state == NodeState::ImportFailed {
                node.problems
                    .retain(|problem| !problem.starts_with("import failed:"));
                node.state = match node.problems.is_empty() {
                    true => NodeState::Installed,
                    false => NodeState::Incomplete,
                };
            }
        }
        self.record.imports = imports;
        let site = python::site_packages(&self.build)?;
        self.record.packages = whole::packages(&site)
            .into_iter()
            .map(|package| match package.url {
                Some(url) => format!("{} @ {url}", package.name),
                None => format!("{}=={}", package.name, package.version),
            })
            .collect();
        self.record.state = BuildState::Ready;
        Ok(())
    }

    /// An unknown flag would end every start with a usage error.
    fn check_flags(&mut self) -> Result<(), InstallError> {
        let proof = Proof {
            teller: self.teller,
            workspace: self.root(),
            build: &self.build,
            gpu: false,
        };
        self.record.flags = proof.flags()?;
        let known = Some(&self.record.flags).filter(|flags| !flags.is_empty());
        match ecosystem::unknown_flag(&self.options.arguments, known) {
            None => Ok(()),
            Some(unknown) => Err(InstallError::Step {
                step: "validate",
                what: unknown.to_string(),
                mend: "what runs is left as it is".to_owned(),
                lines: Vec::new(),
            }),
        }
    }

    /// ComfyUI imports everything; a module that its tree forgets to require is installed on the way.
    pub(super) fn prove(&mut self) -> Result<Imports, InstallError> {
        let mut mended = Vec::new();
        loop {
            let outcome = {
                let proof = Proof {
                    teller: self.teller,
                    workspace: self.root(),
                    build: &self.build,
                    gpu: !self.options.hardware.cpu && self.options.hardware.cuda.is_some(),
                };
                proof.torch()?;
                proof.imports()?
            };
            let ran = match outcome {
                Imported::Starts(imports) => return Ok(imports),
                Imported::Dies(ran) => ran,
            };
            match validate::missing_package(&ran) {
                Some(package) if !mended.contains(&package) && mended.len() < MENDED => {
                    self.teller.line(&format!(
                        "the tree needs {package} and does not say so; it is installed"
                    ));
                    self.teller.say(
                        &format!("installing {package}, which the tree needs and does not name"),
                        None,
                    );
                    mended.push(package);
                    self.with_pip(|work| work.must_install("validate", &[package], work.root()))?;
                }
                _ => {
                    let (what, mend) = ran.cause();
                    return Err(InstallError::Step {
                        step: "validate",
                        what: format!("ComfyUI does not start: {what}"),
                        mend,
                        lines: ran.tail(),
                    });
                }
            }
        }
    }

    pub(super) fn same_as_lock(&self) -> Result<(), InstallError> {
        let made = Lock::of(&self.record);
        let differs = |what: String| InstallError::Step {
            step: "validate",
            what: format!("this is not what the lock file says: {what}"),
            mend: "install without --locked to move, or undo the change".to_owned(),
            lines: Vec::new(),
        };
        let (Some(made), Some(lock)) = (made, &self.lock) else {
            return Err(differs("it has no tree".to_owned()));
        };
        if made.repository.commit != lock.repository.commit {
            return Err(differs(format!("ComfyUI is at {}", made.repository.commit)));
        }
        for (name, node) in &lock.nodes {
            if made.nodes.get(name).map(|made| &made.commit) != Some(&node.commit) {
                return Err(differs(format!(
                    "the node {name} is not at {}",
                    node.commit
                )));
            }
        }
        let has: BTreeSet<&String> = made.packages.iter().collect();
        match lock.packages.iter().find(|package| !has.contains(package)) {
            Some(package) => Err(differs(format!("there is no {package}"))),
            None => Ok(()),
        }
    }
}
