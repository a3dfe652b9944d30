//! `fornax comfyui models list|pull|verify|gc`.

mod progress;

use crate::cli::render::units;
use crate::cli::session::print;
use crate::comfyui::models::event::Step;
use crate::comfyui::models::gc::{self, Kind, Rubbish};
use crate::comfyui::models::links::{LinkReport, LinkState};
use crate::comfyui::models::manifest::Manifest;
use crate::comfyui::models::pull::{self, MOST_AT_ONCE, PullOptions, PullReport};
use crate::comfyui::models::source::Hosts;
use crate::comfyui::models::status::{self, State, Status};
use crate::comfyui::models::store::Store;
use crate::comfyui::workspace::Workspace;
use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use progress::Progress;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// What is asked about models.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// The models that are wanted, and how they stand.
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Load what is missing; goes on where an earlier pull was broken off.
    Pull {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        how: How,
    },
    /// Read the models again and compare their sums; what has not changed since it was read is not read again.
    Verify {
        #[command(flatten)]
        common: Common,
        /// Read every file.
        #[arg(long)]
        all: bool,
    },
    /// List what is not needed: leftovers of downloads, and loaded files that no manifest wants any more.
    Gc {
        #[command(flatten)]
        common: Common,
        /// Remove it.
        #[arg(long)]
        yes: bool,
        /// Only list it, as without --yes.
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// A manifest; may be given several times [default: models.json and static-models.json of the workspace].
    #[arg(long, value_name = "FILE")]
    manifest: Vec<PathBuf>,
    /// The folder of ComfyUI and everything it needs [env: FORNAX_WORKSPACE, WORKSPACE_PATH; else /workspace].
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct How {
    /// Downloads at a time.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=MOST_AT_ONCE as i64))]
    at_once: u8,
    /// Give a connection up when nothing comes for so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    stall: u64,
    /// Give a file up after so many failures in a row that brought nothing.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1000))]
    tries: u32,
    /// The first wait between tries, in milliseconds; it doubles up to 30 s.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=30_000))]
    wait: u64,
    /// Overwrite other files that stand in the place of wanted ones.
    #[arg(long)]
    replace: bool,
}

/// Runs it. Exit code 0 if every wanted model is there, else 1.
pub fn run(args: &ModelsArgs) -> anyhow::Result<ExitCode> {
    let whole = match &args.command {
        ModelsCommand::List { common } => {
            let (store, manifest) = common.open()?;
            common.show(&status::look(&store, &manifest), status_text)?
        }
        ModelsCommand::Verify { common, all } => {
            let (store, manifest) = common.open()?;
            let status =
                status::verify(&store, &manifest, *all, &|file| eprintln!("reading {file}"));
            common.show(
                &status.map_err(|error| anyhow!(error.whole()))?,
                status_text,
            )?
        }
        ModelsCommand::Pull { common, how } => pull(common, how)?,
        ModelsCommand::Gc {
            common,
            yes,
            dry_run: _,
        } => {
            let (store, manifest) = common.open_all()?;
            let found = gc::gc(&store, &manifest, *yes).map_err(|error| anyhow!(error.whole()))?;
            match common.json {
                true => print(&format!("{}\n", serde_json::to_string_pretty(&found)?)),
                false => print(&rubbish_text(&found, *yes)),
            }
            true
        }
    };
    Ok(if whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Brings the models of a workspace while ComfyUI is installed: of `manifest`, else of the workspace's own manifests, if there are
/// any. `tell` hears of each file.
///
/// # Errors
/// In one sentence, what did not come.
pub fn bring(
    workspace: &Workspace,
    manifest: Option<&str>,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<(), String> {
    let store = Store::of(workspace);
    let files = match manifest {
        Some(name) => vec![workspace.root().join(name)],
        None => store.default_manifests(),
    };
    if files.is_empty() {
        return Ok(());
    }
    let manifest = read(&store, &files).map_err(|error| format!("{error:#}"))?;
    let hosts = Hosts::from_env(&|name| std::env::var(name).ok());
    let options = PullOptions::usual(hosts.map_err(|error| error.to_string())?);
    let report = pull::pull(&store, &manifest, &options, &|file, step| match step {
        Step::Begin { .. } => tell(file),
        Step::Bytes {
            have,
            total: Some(total),
        } if total > 0 => tell(&format!("{file} {} %", have.saturating_mul(100) / total)),
        _ => {}
    })
    .map_err(|error| error.whole())?;
    let missing: Vec<String> = report
        .files
        .iter()
        .filter_map(|file| Some(format!("{}: {}", file.file, file.error.as_ref()?)))
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "{}; `fornax comfyui models pull` goes on",
            missing.join("; ")
        )),
    }
}

fn pull(common: &Common, how: &How) -> anyhow::Result<bool> {
    let (store, manifest) = common.open()?;
    let hosts = Hosts::from_env(&|name| std::env::var(name).ok())?;
    let options = PullOptions {
        at_once: how.at_once.into(),
        stall: Duration::from_secs(how.stall),
        tries: how.tries,
        wait: Duration::from_millis(how.wait),
        replace: how.replace,
        ..PullOptions::usual(hosts)
    };
    let progress = Progress::new(manifest.models.len());
    let report = pull::pull(&store, &manifest, &options, &|file, step| {
        progress.take(file, step)
    });
    progress.end();
    let report = report.map_err(|error| anyhow!(error.whole()))?;
    match common.json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&report)?)),
        false => print(&pull_text(&report)),
    }
    Ok(report.is_whole())
}

impl Common {
    /// The workspace and what is wanted in it.
    fn open(&self) -> anyhow::Result<(Store, Manifest)> {
        let store = self.store()?;
        let files = if self.manifest.is_empty() {
            store.default_manifests()
        } else {
            self.manifest.clone()
        };
        Ok((store.clone(), read(&store, &files)?))
    }

    /// The same, with the workspace's own manifests even where others are named: what they want is needed too.
    fn open_all(&self) -> anyhow::Result<(Store, Manifest)> {
        let store = self.store()?;
        let mut files = store.default_manifests();
        files.extend(self.manifest.iter().cloned());
        Ok((store.clone(), read(&store, &files)?))
    }

    fn store(&self) -> anyhow::Result<Store> {
        let workspace =
            Workspace::resolve(self.workspace.as_deref(), &|name| std::env::var_os(name))?;
        Ok(Store::of(&workspace))
    }

    fn show(&self, status: &Status, text: impl Fn(&Status) -> String) -> anyhow::Result<bool> {
        match self.json {
            true => print(&format!("{}\n", serde_json::to_string_pretty(status)?)),
            false => print(&text(status)),
        }
        Ok(status.is_whole())
    }
}

fn read(store: &Store, files: &[PathBuf]) -> anyhow::Result<Manifest> {
    if files.is_empty() {
        bail!(
            "there is no model manifest in {}; put a models.json there (ecosystem/models.json is an example), or name one with --manifest",
            store.root().display()
        );
    }
    let mut all = Manifest::default();
    for file in files {
        all = all
            .join(Manifest::load(file)?)
            .map_err(|error| anyhow!(error))?;
    }
    Ok(all)
}

fn status_text(status: &Status) -> String {
    let mut text = String::new();
    for file in &status.files {
        let size = file.size.map_or_else(|| "-".to_owned(), units::memory);
        let (word, why) = match &file.state {
            State::Whole => ("whole", String::new()),
            State::Unchecked => (
                "unchecked",
                "its sum has not been compared; `verify` does".to_owned(),
            ),
            State::Missing => ("missing", format!("from {}", file.source)),
            State::Partial { have } => (
                "partial",
                format!("{} are there; `pull` goes on", units::memory(*have)),
            ),
            State::Differs { what } => ("differs", what.clone()),
        };
        let line = format!("{word:<9}  {size:>8}  {}  {why}", file.file);
        text.push_str(&format!("{}\n", line.trim_end()));
    }
    text + &links_text(&status.links) + &folders_text(&status.unlisted_folders)
}

fn pull_text(report: &PullReport) -> String {
    let count = |word: &str| {
        report
            .files
            .iter()
            .filter(|file| file.outcome == word)
            .count()
    };
    let bytes: u64 = report.files.iter().map(|file| file.bytes).sum();
    let mut text = links_text(&report.links) + &folders_text(&report.unlisted_folders);
    let unchecked = report
        .files
        .iter()
        .filter(|file| file.error.is_none() && !file.checked)
        .count();
    if unchecked > 0 {
        text.push_str(&format!(
            "{unchecked} of them without a sum to compare: give `sha256` in the manifest\n"
        ));
    }
    text.push_str(&format!(
        "{} models: {} there, {} loaded ({}), {} linked, {} failed\n",
        report.files.len(),
        count("there"),
        count("loaded"),
        units::memory(bytes),
        count("linked"),
        count("failed")
    ));
    text
}

fn links_text(links: &[LinkReport]) -> String {
    let line = |link: &LinkReport| {
        let (word, why) = match &link.state {
            LinkState::There => ("link", format!("to {}", link.source)),
            LinkState::Made => ("link", format!("to {}, made", link.source)),
            LinkState::Missing => ("no link", "its file is there; `pull` makes it".to_owned()),
            LinkState::Dangling { misses } => {
                ("no link", format!("{} is not there", misses.display()))
            }
            LinkState::Occupied { what } => ("no link", format!("{what} has its name")),
            LinkState::Failed { why } => ("no link", why.clone()),
        };
        format!("{word:<9}  {:>8}  {}  {why}\n", "-", link.target)
    };
    links.iter().map(line).collect()
}

fn folders_text(folders: &BTreeSet<String>) -> String {
    let line = |name: &String| {
        format!(
            "ComfyUI does not look into {name}: add `{name}: {name}/` to extra_model_paths.yaml, which has been edited\n"
        )
    };
    folders.iter().map(line).collect()
}

fn rubbish_text(found: &[Rubbish], removed: bool) -> String {
    let mut text = String::new();
    for rubbish in found {
        let word = match rubbish.kind {
            Kind::Leftover => "leftover",
            Kind::Unreferenced => "unreferenced",
            Kind::Resumable => "resumable, stays",
            Kind::Foreign => "not loaded by fornax, stays",
            Kind::InUse => "being loaded, stays",
        };
        let word = if rubbish.removed {
            format!("{word}, removed")
        } else {
            word.to_owned()
        };
        text.push_str(&format!(
            "{:>8}  {}  {word}\n",
            units::memory(rubbish.bytes),
            rubbish.file
        ));
    }
    let bytes: u64 = found
        .iter()
        .filter(|rubbish| rubbish.kind.goes())
        .map(|rubbish| rubbish.bytes)
        .sum();
    let count = found.iter().filter(|rubbish| rubbish.kind.goes()).count();
    text.push_str(&match (count, removed) {
        (0, _) => "nothing to remove\n".to_owned(),
        (_, true) => format!("{count} files removed, {} freed\n", units::memory(bytes)),
        (_, false) => format!(
            "{count} files, {}; --yes removes them\n",
            units::memory(bytes)
        ),
    });
    text
}
