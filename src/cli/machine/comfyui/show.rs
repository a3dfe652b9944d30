//! How an installation is told to people.

use crate::comfyui::install::{NodeReport, NodeState, Report, State};
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Prints each new word of an installer, on standard error.
pub struct Progress {
    silent: bool,
    began: Instant,
    last: Mutex<String>,
}

impl Progress {
    /// Begins now.
    pub fn new(silent: bool) -> Self {
        Self {
            silent,
            began: Instant::now(),
            last: Mutex::new(String::new()),
        }
    }

    /// Tells a state, unless it was told.
    pub fn tell(&self, state: &State) {
        if self.silent || state.outcome != "running" {
            return;
        }
        let line = format!(
            "{:>3}% {}/{} {:<12} {}",
            state.percent, state.step, state.of, state.phase, state.message
        );
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != line {
            eprintln!("{:>6.1}s {line}", self.began.elapsed().as_secs_f64());
            *last = line;
        }
    }
}

/// A whole report.
pub fn report(report: &Report) -> String {
    let mut out = String::new();
    let none = "-".to_owned();
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| none.clone());
    let rows = [
        ("ComfyUI", report.message.clone()),
        ("workspace", report.workspace.clone()),
        ("repository", report.repository.clone()),
        ("version", or(&report.version)),
        ("commit", or(&report.commit)),
        ("build", or(&report.build)),
        ("previous", or(&report.previous)),
        ("python", or(&report.python)),
        (
            "torch from",
            report
                .torch_index
                .clone()
                .unwrap_or_else(|| "the package index".to_owned()),
        ),
        ("packages", report.packages.to_string()),
        ("nodes", count(&report.nodes)),
    ];
    for (name, value) in rows {
        // A String takes everything.
        let _ = writeln!(out, "{name:<12}{value}");
    }
    out + &troubles(report)
}

fn count(nodes: &[NodeReport]) -> String {
    let of = |state| {
        nodes
            .iter()
            .filter(|node| node.state == Some(state))
            .count()
    };
    let installed = of(NodeState::Installed);
    let mut text = format!("{installed} of {} installed", nodes.len());
    for state in [
        NodeState::Incomplete,
        NodeState::Failed,
        NodeState::ImportFailed,
    ] {
        if of(state) > 0 {
            let _ = write!(text, ", {} {}", of(state), state.as_str());
        }
    }
    text
}

/// What did not go well, by name.
pub fn troubles(report: &Report) -> String {
    let mut out = String::new();
    for node in &report.nodes {
        let state = node.state.filter(|state| *state != NodeState::Installed);
        if let Some(state) = state {
            let _ = writeln!(out, "node {}: {}", node.name, state.as_str());
            for problem in &node.problems {
                let _ = writeln!(out, "  {problem}");
            }
        }
        if !node.unset.is_empty() {
            let _ = writeln!(
                out,
                "node {}: its .env lacks {} (not set)",
                node.name,
                node.unset.join(", ")
            );
        }
    }
    for note in &report.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

/// The nodes as a table.
pub fn nodes(nodes: &[NodeReport]) -> String {
    let width = nodes
        .iter()
        .map(|node| node.name.len())
        .max()
        .unwrap_or(4)
        .max(4);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:<width$}  {:<13}  {:<10}  repository",
        "name", "state", "commit"
    );
    for node in nodes {
        let state = match (node.state, node.wanted) {
            (Some(_), false) => "to be removed",
            (Some(state), true) => state.as_str(),
            (None, _) => "not installed",
        };
        let commit: String = node
            .commit
            .as_deref()
            .unwrap_or("-")
            .chars()
            .take(10)
            .collect();
        let _ = writeln!(
            out,
            "{:<width$}  {state:<13}  {commit:<10}  {}",
            node.name, node.url
        );
    }
    out
}
