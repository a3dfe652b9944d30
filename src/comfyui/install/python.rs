//! Finding a Python that serves, and making an environment with it.

use super::child::{Run, in_path};
use super::error::InstallError;
use super::layout::Build;
use super::progress::Teller;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Tried in this order: many node packs have no wheels for the newest (comfyui-facts 5.1).
const CANDIDATES: [&str; 5] = [
    "python3.12",
    "python3.11",
    "python3.13",
    "python3.10",
    "python3",
];

/// The oldest that ComfyUI takes.
const OLDEST: (u32, u32) = (3, 9);

/// Asks an interpreter about itself.
const ASK: &str = "import json, sys, importlib.util as u
print(json.dumps({'version': list(sys.version_info[:3]), 'executable': sys.executable, 'prefix': sys.prefix,
 'base_prefix': sys.base_prefix, 'can_venv': all(u.find_spec(m) is not None for m in ('venv', 'ensurepip')),
 'path': [p for p in sys.path if p]}))";

/// What an interpreter says of itself.
#[derive(Debug, Clone, Deserialize)]
pub struct Python {
    /// Major, minor, micro.
    pub version: (u32, u32, u32),
    /// Its own path.
    pub executable: PathBuf,
    prefix: String,
    base_prefix: String,
    can_venv: bool,
    /// Where it looks for modules.
    pub path: Vec<PathBuf>,
}

impl Python {
    /// `3.11.7`.
    pub fn version_text(&self) -> String {
        let (major, minor, micro) = self.version;
        format!("{major}.{minor}.{micro}")
    }

    /// It belongs to an environment.
    fn is_in_venv(&self) -> bool {
        self.prefix != self.base_prefix
    }
}

/// Asks an interpreter.
pub fn ask(teller: &Teller<'_>, workspace: &Path, python: &Path) -> Result<Python, String> {
    let ran = Run::new(teller, workspace, python)
        .args(["-c", ASK])
        .limit(60)
        .run()
        .map_err(|error| format!("cannot be run: {error}"))?;
    let line = ran.lines.iter().rev().find(|line| line.starts_with('{'));
    match (ran.ok, line.map(|line| serde_json::from_str(line))) {
        (true, Some(Ok(python))) => Ok(python),
        _ => Err(ran.cause().0),
    }
}

/// The Python that is asked for, or the first that serves.
///
/// # Errors
/// There is none, or what was asked for does not serve.
pub fn find(
    teller: &Teller<'_>,
    workspace: &Path,
    wanted: Option<&str>,
    uv: bool,
) -> Result<Python, InstallError> {
    let cannot = |what: String, mend: &str| InstallError::Cannot {
        what,
        mend: mend.to_owned(),
    };
    let serves = |path: &Path| -> Result<Python, String> {
        let python = ask(teller, workspace, path)?;
        let (major, minor, _) = python.version;
        if (major, minor) < OLDEST {
            return Err(format!(
                "is Python {major}.{minor}, and ComfyUI needs 3.9 or later"
            ));
        }
        if !uv && !python.can_venv {
            return Err("cannot make environments (no venv module)".to_owned());
        }
        Ok(python)
    };
    if let Some(wanted) = wanted {
        let path = match wanted.contains('/') {
            true => workspace.join(wanted),
            false => in_path(wanted).ok_or_else(|| {
                cannot(
                    format!("there is no {wanted} in PATH"),
                    "install it, or set `python` in fornax.json",
                )
            })?,
        };
        return serves(&path).map_err(|why| {
            cannot(
                format!("the Python {} {why}", path.display()),
                "set `python` in fornax.json to another; on Debian install python3-venv",
            )
        });
    }
    let mut why_not = Vec::new();
    for name in CANDIDATES {
        let Some(path) = in_path(name) else { continue };
        match serves(&path) {
            Ok(python) => return Ok(python),
            Err(why) => why_not.push(format!("{name} {why}")),
        }
    }
    let tried = match why_not.is_empty() {
        true => "there is no python3 in PATH".to_owned(),
        false => format!("no Python here serves: {}", why_not.join("; ")),
    };
    Err(cannot(
        tried,
        "install Python 3.10 to 3.13 with its venv module (on Debian python3-venv), or set `python` in fornax.json",
    ))
}

/// Makes the environment of a build anew.
///
/// # Errors
/// Python or uv fails.
pub fn make(
    teller: &Teller<'_>,
    workspace: &Path,
    python: &Python,
    build: &Build,
    uv: Option<&Path>,
    system_site_packages: bool,
) -> Result<(), InstallError> {
    const STEP: &str = "environment";
    let venv = build.venv();
    super::git::remove(&venv).map_err(super::error::io_in(STEP, "remove", &venv))?;
    let by_python = || Run::new(teller, workspace, &python.executable).args(["-m", "venv"]);
    let finish = |run: Run<'_>| {
        let run = match system_site_packages {
            true => run.args(["--system-site-packages"]),
            false => run,
        };
        run.args([&venv])
            .limit(600)
            .run()
            .map_err(super::error::io_in(STEP, "run", &python.executable))
    };
    let mut ran = match uv {
        // With pip in it: install scripts of nodes call it.
        Some(uv) => finish(
            Run::new(teller, workspace, uv)
                .args(["venv", "--seed", "--quiet", "--python"])
                .args([&python.executable])
                .args(super::packages::like_pip()),
        )?,
        None => finish(by_python())?,
    };
    if !ran.ok && uv.is_some() && python.can_venv {
        // uv takes pip from the index; Python has one of its own.
        super::git::remove(&venv).map_err(super::error::io_in(STEP, "remove", &venv))?;
        ran = finish(by_python())?;
    }
    if !ran.ok {
        let (what, mend) = ran.cause();
        return Err(InstallError::Step {
            step: STEP,
            what,
            mend,
            lines: ran.tail(),
        });
    }
    if system_site_packages && python.is_in_venv() {
        // An environment made within an environment sees the base's packages, not the other's.
        see_through(build, python)?;
    }
    Ok(())
}

fn see_through(build: &Build, python: &Python) -> Result<(), InstallError> {
    const STEP: &str = "environment";
    let site = site_packages(build)?;
    let sites: Vec<String> = python
        .path
        .iter()
        .filter(|path| path.starts_with(&python.prefix) && path.ends_with("site-packages"))
        .map(|path| format!("{}\n", path.display()))
        .collect();
    let file = site.join("fornax_base.pth");
    std::fs::write(&file, sites.concat()).map_err(super::error::io_in(STEP, "write", &file))
}

/// The environment's folder of packages.
///
/// # Errors
/// There is none.
pub fn site_packages(build: &Build) -> Result<PathBuf, InstallError> {
    let lib = build.venv().join("lib");
    let versions =
        std::fs::read_dir(&lib).map_err(super::error::io_in("environment", "read", &lib))?;
    versions
        .flatten()
        .map(|version| version.path().join("site-packages"))
        .find(|site| site.is_dir())
        .ok_or_else(|| InstallError::Cannot {
            what: format!("{} has no site-packages", build.venv().display()),
            mend: "run it again with --fresh".to_owned(),
        })
}
