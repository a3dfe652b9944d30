//! `fornax comfyui nodes list | add | remove | update | freeze`.

use super::install::{PlaceArgs, at, go, options};
use super::{edit, show};
use crate::cli::session::print;
use crate::comfyui::install::{self as installer, Moving};
use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Map, Value};
use std::process::ExitCode;

/// What is asked about custom nodes.
#[derive(Debug, Args)]
pub struct NodesArgs {
    #[command(subcommand)]
    command: NodesCommand,
}

#[derive(Debug, Subcommand)]
enum NodesCommand {
    /// The nodes of the list, and what came of each.
    List(PlaceArgs),
    /// Add a node to the list, and install it.
    Add {
        /// Its git repository.
        url: String,
        /// The folder under custom_nodes [default: the repository's name].
        #[arg(long)]
        name: Option<String>,
        /// The branch or tag.
        #[arg(long)]
        branch: Option<String>,
        /// The commit.
        #[arg(long)]
        commit: Option<String>,
        /// Submodules too.
        #[arg(long)]
        recursive: bool,
        /// Leave its requirements.txt alone.
        #[arg(long)]
        no_requirements: bool,
        /// Change the list only.
        #[arg(long)]
        no_install: bool,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Take nodes out of the list, and out of what is installed.
    Remove {
        /// Their folders.
        #[arg(required = true)]
        names: Vec<String>,
        /// Change the list only.
        #[arg(long)]
        no_install: bool,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Fetch the newest of these nodes, or of all without a commit of their own; tries again what failed.
    Update {
        /// Their folders.
        names: Vec<String>,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Print the list with the commit of each node that is installed.
    Freeze {
        /// Write it into the list.
        #[arg(long)]
        write: bool,
        #[command(flatten)]
        place: PlaceArgs,
    },
}

/// Does it.
pub fn run(args: &NodesArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        NodesCommand::List(place) => list(place),
        NodesCommand::Add {
            url,
            name,
            branch,
            commit,
            recursive,
            no_requirements,
            no_install,
            place,
        } => {
            let mut entry = Map::new();
            let texts = [("name", name), ("branch", branch), ("commit", commit)];
            entry.insert("url".to_owned(), Value::String(url.clone()));
            for (key, text) in texts {
                if let Some(text) = text {
                    entry.insert(key.to_owned(), Value::String(text.clone()));
                }
            }
            if *recursive {
                entry.insert("recursive".to_owned(), Value::Bool(true));
            }
            entry.insert("requirements".to_owned(), Value::Bool(!no_requirements));
            let found = at(place)?;
            let file = installer::nodes_file(&found.layout, &found.machine);
            let node = edit::add(&file, Value::Object(entry))?;
            if *no_install {
                print(&format!("{} is in {}\n", node.name, file.display()));
                return Ok(ExitCode::SUCCESS);
            }
            apply(place, Moving::Nothing)
        }
        NodesCommand::Remove {
            names,
            no_install,
            place,
        } => {
            let found = at(place)?;
            let file = installer::nodes_file(&found.layout, &found.machine);
            edit::remove(&file, names)?;
            if *no_install {
                print(&format!(
                    "{} without {}\n",
                    file.display(),
                    names.join(", ")
                ));
                return Ok(ExitCode::SUCCESS);
            }
            apply(place, Moving::Nothing)
        }
        NodesCommand::Update { names, place } => {
            let found = at(place)?;
            let known = |name: &String| found.plan.nodes.iter().any(|node| node.name == *name);
            if let Some(name) = names.iter().find(|name| !known(name)) {
                bail!("the list has no node {name}; `fornax comfyui nodes list` shows it");
            }
            let all = found.plan.nodes.iter().map(|node| node.name.clone());
            let names = match names.is_empty() {
                true => all.collect(),
                false => names.clone(),
            };
            apply(place, Moving::Nodes(names))
        }
        NodesCommand::Freeze { write, place } => freeze(place, *write),
    }
}

fn apply(place: &PlaceArgs, moving: Moving) -> anyhow::Result<ExitCode> {
    let found = at(place)?;
    let mut options = options(&found);
    options.moving = moving;
    go(&found, place, &options)
}

fn list(place: &PlaceArgs) -> anyhow::Result<ExitCode> {
    let found = at(place)?;
    let report = installer::report(&found.layout, &found.plan);
    match place.json {
        true => print(&format!(
            "{}\n",
            serde_json::to_string_pretty(&report.nodes)?
        )),
        false => print(&show::nodes(&report.nodes)),
    }
    Ok(ExitCode::SUCCESS)
}

fn freeze(place: &PlaceArgs, write: bool) -> anyhow::Result<ExitCode> {
    let found = at(place)?;
    let report = installer::report(&found.layout, &found.plan);
    let commit = |name: &str| {
        let node = report.nodes.iter().find(|node| node.name == name)?;
        node.commit.clone()
    };
    let file = installer::nodes_file(&found.layout, &found.machine);
    let text = edit::frozen(&file, &commit)?;
    match write {
        true => {
            edit::write(&file, &text)?;
            print(&format!(
                "{} holds the commits that are installed\n",
                file.display()
            ));
        }
        false => print(&text),
    }
    Ok(ExitCode::SUCCESS)
}
