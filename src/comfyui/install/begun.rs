//! What an install goes on with: a build that was cut off, a copy of what runs, or an empty one.

use super::child;
use super::copy;
use super::error::{InstallError, io_in};
use super::git::{self, GitError};
use super::layout::{Build, Layout};
use super::progress::now_ms;
use super::record::{BuildState, Plan, Record};
use super::run::Options;
use crate::core::machine::Installer;
use std::fs;
use std::path::PathBuf;

/// The build to go on with: one that was cut off and begins the same way, else a copy of what runs, else an empty one.
pub(super) fn begun(
    layout: &Layout,
    plan: &Plan,
    options: &Options<'_>,
) -> Result<(Build, Record), InstallError> {
    let current = layout.current();
    let previous = layout.previous();
    let mut unfinished = None;
    for build in layout.builds() {
        if Some(&build) == current.as_ref() || Some(&build) == previous.as_ref() {
            continue;
        }
        let Some(record) = Record::of(&build) else {
            git::remove(&build.dir).map_err(io_in("preflight", "remove", &build.dir))?;
            continue;
        };
        if record.state == BuildState::Building {
            unfinished = Some((build, record));
        }
    }
    super::upkeep::remove_parts(layout).map_err(io_in(
        "preflight",
        "clear",
        &layout.builds_dir(),
    ))?;
    if let Some((build, record)) = unfinished {
        if record.plan.same_base(plan) && !options.fresh {
            return Ok((build, record));
        }
        git::remove(&build.dir).map_err(io_in("preflight", "remove", &build.dir))?;
    }
    let build = layout.next();
    let mut record = Record::begun(plan.clone(), now_ms());
    let base = current.and_then(|build| Record::of(&build).map(|record| (build, record)));
    match base {
        Some((from, old)) if old.plan.same_base(plan) && !options.fresh && !options.locked => {
            copy::build(&from, &build).map_err(io_in("preflight", "copy to", &build.dir))?;
            record.copied_from = Some(from.id);
            record.tree = old.tree;
            record.python = old.python;
            record.python_version = old.python_version;
            record.installer = old.installer;
            record.torch_index = old.torch_index;
            record.nodes = old.nodes;
            record.constraints = old.constraints;
            let kept = ["environment", "torch"];
            record.steps = old
                .steps
                .into_iter()
                .filter(|done| {
                    kept.contains(&done.step.as_str())
                        || done.step == "requirements" && old.plan.packages == plan.packages
                })
                .collect();
        }
        _ => fs::create_dir_all(&build.dir).map_err(io_in("preflight", "make", &build.dir))?,
    }
    // Until this is there the folder counts for nothing, and is removed by the next run.
    record
        .write(&build)
        .map_err(io_in("preflight", "write", &build.record()))?;
    Ok((build, record))
}

/// uv, if it is there and may be used. It does not count the packages of another Python as installed.
pub(super) fn uv(plan: &Plan) -> Result<Option<PathBuf>, InstallError> {
    let found = child::in_path("uv");
    match plan.installer {
        Installer::Pip => Ok(None),
        Installer::Auto if plan.system_site_packages => Ok(None),
        Installer::Auto => Ok(found),
        Installer::Uv => found.map(Some).ok_or_else(|| InstallError::Cannot {
            what: "there is no uv in PATH".to_owned(),
            mend: "install it, or set `installer` in fornax.json to \"pip\"".to_owned(),
        }),
    }
}

pub(super) fn of_git(step: &'static str, error: GitError) -> InstallError {
    InstallError::Step {
        step,
        what: error.what,
        mend: error.mend,
        lines: error.lines,
    }
}
