//! Proving a build (comfyui-facts 5.4): torch against the driver, every import by ComfyUI itself, and its table read.

use super::child::{Ran, Run};
use super::error::{InstallError, io_in};
use super::layout::Build;
use super::progress::Teller;
use crate::comfyui::tree;
use crate::core::comfyui::diagnosis;
use crate::core::comfyui::help;
use crate::core::comfyui::imports::{Imports, Reader};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

/// How long the imports may take, in seconds: sixty packs on a cold disk.
const LIMIT: u64 = 1_200;
/// How long `--help` may take, in seconds.
const HELP: u64 = 60;
const STEP: &str = "validate";

/// What is proven.
pub struct Proof<'a> {
    /// Hears of it.
    pub teller: &'a Teller<'a>,
    /// The workspace.
    pub workspace: &'a Path,
    /// The build.
    pub build: &'a Build,
    /// Torch is to see a GPU.
    pub gpu: bool,
}

/// What the imports came to.
#[derive(Debug)]
pub enum Imported {
    /// ComfyUI starts.
    Starts(Imports),
    /// It does not.
    Dies(Box<Ran>),
}

impl Proof<'_> {
    /// Whether torch can use the GPU.
    ///
    /// # Errors
    /// It cannot, with the reason.
    pub fn torch(&self) -> Result<(), InstallError> {
        if !self.gpu {
            return Ok(());
        }
        const ASK: &str = "import torch
torch.zeros(1).cuda()
print('torch', torch.__version__, 'CUDA', torch.version.cuda)";
        let ran = Run::new(self.teller, self.workspace, self.build.python())
            .args(["-c", ASK])
            .limit(300)
            .run()
            .map_err(io_in(STEP, "run", &self.build.python()))?;
        if ran.ok {
            return Ok(());
        }
        let (what, mend) = ran.cause();
        Err(InstallError::Step {
            step: STEP,
            what: format!("torch cannot use the GPU: {what}"),
            mend,
            lines: ran.tail(),
        })
    }

    /// The flags that its own `--help` lists; where that fails, those that stand in its source.
    ///
    /// # Errors
    /// It could not be run at all.
    pub fn flags(&self) -> Result<BTreeSet<String>, InstallError> {
        let text = RefCell::new(String::new());
        let ran = Run::new(self.teller, self.workspace, self.build.python())
            .args(["main.py", "--help"])
            .cwd(&self.build.tree())
            .env("COLUMNS", "400")
            .limit(HELP)
            .each(|line| text.borrow_mut().extend([line, "\n"]))
            .run()
            .map_err(io_in(STEP, "run", &self.build.python()))?;
        let told = help::flags(&text.into_inner());
        Ok(match ran.ok && !told.is_empty() {
            true => told,
            false => tree::flags_of(&self.build.tree()).unwrap_or_default(),
        })
    }

    /// Has ComfyUI import everything, without binding a port or touching anybody's folders.
    ///
    /// # Errors
    /// It could not be run at all.
    pub fn imports(&self) -> Result<Imported, InstallError> {
        let scratch = self.build.dir.join("check");
        super::git::remove(&scratch).map_err(io_in(STEP, "remove", &scratch))?;
        let known = self.flags()?;
        let knows = |flag: &str| known.is_empty() || known.contains(flag);
        let mut args = vec!["main.py".to_owned(), "--quick-test-for-ci".to_owned()];
        for (flag, name) in [
            ("--temp-directory", "temp"),
            ("--output-directory", "output"),
            ("--input-directory", "input"),
            ("--user-directory", "user"),
        ] {
            let dir = scratch.join(name);
            std::fs::create_dir_all(&dir).map_err(io_in(STEP, "make", &dir))?;
            if knows(flag) {
                args.extend([flag.to_owned(), dir.display().to_string()]);
            }
        }
        if knows("--database-url") {
            args.push("--database-url".to_owned());
            args.push(format!(
                "sqlite:///{}",
                scratch.join("comfyui.db").display()
            ));
        }
        // Instances that run may have filled the cards; what torch says to them was asked before.
        if knows("--cpu") {
            args.push("--cpu".to_owned());
        }
        let nodes = self.build.nodes();
        std::fs::create_dir_all(&nodes).map_err(io_in(STEP, "make", &nodes))?;
        let reader = RefCell::new(Reader::default());
        let ran = Run::new(self.teller, self.workspace, self.build.python())
            .args(args)
            .cwd(&self.build.tree())
            .env("CUDA_VISIBLE_DEVICES", "")
            .limit(LIMIT)
            .each(|line| reader.borrow_mut().line(line))
            .run()
            .map_err(io_in(STEP, "run", &self.build.python()))?;
        // It holds nothing that anybody wants.
        let _ = super::git::remove(&scratch);
        Ok(match ran.ok {
            true => Imported::Starts(reader.into_inner().finish()),
            false => Imported::Dies(Box::new(ran)),
        })
    }
}

/// The package that would mend a start that died of a missing module, if it is one that trees forget to require.
pub fn missing_package(ran: &Ran) -> Option<&'static str> {
    let module = diagnosis::missing_module(ran.lines.iter().map(String::as_str))?;
    diagnosis::package_of(module.split('.').next().unwrap_or(&module))
}

/// What to say of files of ComfyUI's own that did not import.
pub fn core_notes(imports: &Imports) -> Vec<String> {
    imports
        .core
        .iter()
        .map(|import| match diagnosis::cause([import.why.as_str()]) {
            Some(cause) => format!(
                "{} did not import: {}; {}",
                import.name, cause.what, cause.mend
            ),
            None if import.why.is_empty() => format!("{} did not import", import.name),
            None => format!("{} did not import: {}", import.name, import.why),
        })
        .collect()
}
