//! The steps that change the environment: making it, torch, requirements; and what holds versions.

use super::Work;
use crate::comfyui::install::error::{InstallError, io_in};
use crate::comfyui::install::run::Moving;
use crate::comfyui::install::{packages, python, whole};
use crate::core::comfyui::torch;
use crate::sys::files::{self, Readers};
use std::collections::BTreeSet;
use std::path::Path;

impl Work<'_> {
    pub(super) fn environment(&mut self) -> Result<(), InstallError> {
        let python = self.python()?;
        python::make(
            self.teller,
            self.root(),
            &python,
            &self.build,
            self.uv.as_deref(),
            self.plan.system_site_packages,
        )?;
        self.record.python = Some(python.executable.display().to_string());
        self.record.python_version = Some(python.version_text());
        self.record.installer = Some(if self.uv.is_some() { "uv" } else { "pip" }.to_owned());
        self.record.constraints.clear();
        self.record.dirty = false;
        Ok(())
    }

    /// Around everything that changes the environment: a pip that was cut off is known afterwards, and made good.
    pub(super) fn with_pip<T>(
        &mut self,
        how: impl FnOnce(&mut Self) -> Result<T, InstallError>,
    ) -> Result<T, InstallError> {
        if self.record.dirty {
            let site = python::site_packages(&self.build)?;
            let broken = whole::mend(&site).map_err(io_in("environment", "mend", &site))?;
            if !broken.is_empty() {
                self.teller.line(&format!(
                    "not whole, installed again: {}",
                    broken.join(", ")
                ));
            }
        }
        self.record.dirty = true;
        self.write()?;
        let outcome = how(self)?;
        self.record.dirty = false;
        Ok(outcome)
    }

    pub(super) fn torch(&mut self) -> Result<(), InstallError> {
        self.with_pip(Self::install_torch)
    }

    pub(super) fn install_torch(&mut self) -> Result<(), InstallError> {
        let mut held = self.held_by_lock();
        self.hold(&held)?;
        let seen = self.seen()?;
        let names: Vec<String> = self
            .plan
            .torch
            .iter()
            .filter_map(|text| packages::name_of(text))
            .collect();
        let all_there = self.plan.system_site_packages
            && names
                .iter()
                .all(|name| seen.iter().any(|package| package.name == *name));
        if all_there {
            self.teller
                .line("torch comes with the Python that was given");
        } else {
            self.fetch_torch()?;
        }
        let seen = self.seen()?;
        for package in seen.iter().filter(|package| names.contains(&package.name)) {
            let pin = format!("{}=={}", package.name, package.version);
            if !held.contains(&pin) {
                held.retain(|known| packages::name_of(known).as_ref() != Some(&package.name));
                held.push(pin);
            }
        }
        self.hold(&held)
    }

    pub(super) fn fetch_torch(&mut self) -> Result<(), InstallError> {
        let source = match &self.lock {
            Some(lock) if self.options.locked => lock.torch_index.clone(),
            _ => Some(self.plan.torch_source.clone()).filter(|source| source != "pypi"),
        };
        let mut sources = vec![source.clone()];
        // Any torch runs on the processor, so the ordinary index serves where PyTorch's own cannot be reached.
        if source.as_deref() == Some(&format!("{}cpu", torch::BASE)) {
            sources.push(None);
        }
        let mut failure = None;
        for source in sources {
            let index = source.as_deref();
            self.teller.say("which torch?", Some(0.0));
            let packages = self.packages();
            let mut requirements = self.plan.torch.clone();
            if let Some(found) = packages.resolve(&requirements, index)
                && let Some(held) = torch::aligned(&requirements, &found)
            {
                let note = format!(
                    "torch and torchaudio would be of different versions; held to {}",
                    held.join(" ")
                );
                self.teller.line(&note);
                requirements = held;
            }
            let args: Vec<&str> = requirements.iter().map(String::as_str).collect();
            let python = self.build.python();
            let ran = packages
                .install(&args, self.root(), index)
                .map_err(io_in("torch", "run", &python))?;
            if ran.ok {
                self.record.torch_index = source;
                return Ok(());
            }
            let (what, mend) = ran.cause();
            failure = Some(InstallError::Step {
                step: "torch",
                what: format!("{}: {what}", index.unwrap_or("the package index")),
                mend: format!(
                    "{mend}; `torch_index` and `torch` in fornax.json say what is installed"
                ),
                lines: ran.tail(),
            });
        }
        Err(failure.expect("there is one source at least"))
    }

    /// Versions of the lock file, where nothing is to move. A lock of another torch or another Python holds nothing, and what the
    /// settings name themselves is theirs.
    pub(super) fn held_by_lock(&self) -> Vec<String> {
        let Some(lock) = &self.lock else {
            return Vec::new();
        };
        let minor = |version: &str| {
            version
                .splitn(3, '.')
                .take(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let wanted = Some(&self.plan.torch_source).filter(|source| *source != "pypi");
        let fits = lock.torch_index.as_ref() == wanted
            && self.record.python_version.as_deref().map(minor) == Some(minor(&lock.python));
        let stays = self.options.moving == Moving::Nothing && self.record.copied_from.is_none();
        if !(self.options.locked || fits && stays) {
            return Vec::new();
        }
        let named: BTreeSet<String> = self
            .plan
            .packages
            .iter()
            .filter_map(|text| packages::name_of(text))
            .collect();
        let is_free = |pin: &str| packages::name_of(pin).is_some_and(|name| named.contains(&name));
        lock.packages
            .iter()
            .filter(|pin| pin.contains("==") && !pin.contains(" @ "))
            .filter(|pin| self.options.locked || !is_free(pin))
            .cloned()
            .collect()
    }

    pub(super) fn hold(&mut self, pins: &[String]) -> Result<(), InstallError> {
        self.record.constraints = pins.to_vec();
        let path = self.packages().constraints_file();
        let text: String = pins.iter().map(|pin| format!("{pin}\n")).collect();
        files::replace(&path, text.as_bytes(), Readers::Anybody).map_err(io_in(
            "requirements",
            "write",
            &path,
        ))
    }

    pub(super) fn seen(&self) -> Result<Vec<whole::Package>, InstallError> {
        let site = python::site_packages(&self.build)?;
        let mut path = vec![site];
        if self.plan.system_site_packages {
            let asked = python::ask(self.teller, self.root(), &self.build.python());
            path.extend(asked.map(|python| python.path).unwrap_or_default());
        }
        Ok(self.packages().seen(&path))
    }

    pub(super) fn requirements(&mut self) -> Result<(), InstallError> {
        self.with_pip(|work| {
            let tree = work.build.tree();
            let file = tree.join("requirements.txt");
            let text = crate::comfyui::files::read_limited(&file, 1 << 20).map_err(io_in(
                "requirements",
                "read",
                &file,
            ))?;
            // Those that an older tree or list held may move with the new one.
            let torch: BTreeSet<String> = work
                .plan
                .torch
                .iter()
                .filter_map(|text| packages::name_of(text))
                .collect();
            let mut held: Vec<String> = work
                .record
                .constraints
                .iter()
                .filter(|pin| packages::name_of(pin).is_some_and(|name| torch.contains(&name)))
                .cloned()
                .collect();
            for pin in work.held_by_lock() {
                if !held
                    .iter()
                    .any(|known| packages::name_of(known) == packages::name_of(&pin))
                {
                    held.push(pin);
                }
            }
            work.hold(&held)?;
            work.must_install("requirements", &["-r", "requirements.txt"], &tree)?;
            if !work.plan.packages.is_empty() {
                let args: Vec<&str> = work.plan.packages.iter().map(String::as_str).collect();
                work.must_install("requirements", &args, &tree)?;
            }
            work.hold_core(&text, held)
        })
    }

    pub(super) fn must_install(
        &self,
        step: &'static str,
        args: &[&str],
        cwd: &Path,
    ) -> Result<(), InstallError> {
        let python = self.build.python();
        let ran = self
            .packages()
            .install(args, cwd, None)
            .map_err(io_in(step, "run", &python))?;
        if ran.ok {
            return Ok(());
        }
        let (what, mend) = ran.cause();
        Err(InstallError::Step {
            step,
            what,
            mend,
            lines: ran.tail(),
        })
    }

    /// What ComfyUI itself asks for is held from here on: a node that wants another version fails alone.
    pub(super) fn hold_core(
        &mut self,
        requirements: &str,
        mut held: Vec<String>,
    ) -> Result<(), InstallError> {
        let seen = self.seen()?;
        let (lines, _) = packages::lines(requirements);
        let asked = lines.iter().chain(&self.plan.packages);
        for name in asked.filter_map(|line| packages::name_of(line)) {
            let known = held
                .iter()
                .any(|pin| packages::name_of(pin).as_ref() == Some(&name));
            let package = seen
                .iter()
                .find(|package| package.name == name && package.url.is_none());
            if let (Some(package), false) = (package, known) {
                held.push(format!("{}=={}", package.name, package.version));
            }
        }
        self.hold(&held)
    }
}
