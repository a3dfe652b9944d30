//! The apps that are managed: bash scripts that stamp the time in their first line, and each manager's file about them.

use super::manager::Kind;
use super::process::{text, until};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// One app of a file.
pub struct App {
    /// Its name.
    pub name: String,
    /// The script bash runs.
    pub script: PathBuf,
    /// Where each of its runs appends a line: the time it began and its pid.
    pub stamps: PathBuf,
}

/// One run of an app, as it told it.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Seconds since the epoch.
    pub at: f64,
    /// The run's process.
    pub pid: i32,
}

impl App {
    /// An app that stamps the time and then does what `then` says.
    pub fn new(folder: &Path, name: &str, then: &str) -> Self {
        let script = folder.join(format!("{name}.sh"));
        let stamps = folder.join(format!("{name}.stamps"));
        let body = format!(
            "#!/bin/bash\necho \"$EPOCHREALTIME $$\" >> '{}'\n{then}\n",
            stamps.display()
        );
        fs::write(&script, body).expect("the script can be written");
        Self {
            name: name.to_owned(),
            script,
            stamps,
        }
    }

    /// Apps that stamp and sleep.
    pub fn sleepers(folder: &Path, count: usize) -> Vec<Self> {
        (0..count)
            .map(|number| Self::new(folder, &format!("app-{number:03}"), "exec sleep 1000000"))
            .collect()
    }

    /// Waits for the run with this number, counted from 0.
    pub fn stamp(&self, number: usize) -> Stamp {
        until(&format!("run {number} of {}", self.name), || {
            let lines = text(&self.stamps);
            // The last piece is no whole line yet.
            let whole = lines.rsplit_once('\n')?.0;
            let (at, pid) = whole.lines().nth(number)?.split_once(' ')?;
            Some(Stamp {
                at: at.parse().ok()?,
                pid: pid.parse().ok()?,
            })
        })
    }
}

/// Writes the file that `kind` starts these apps from. `stamped`: their log lines get the time in front.
pub fn write_file(kind: Kind, folder: &Path, apps: &[App], stamped: bool) -> PathBuf {
    let (name, body) = match kind {
        Kind::Fornax | Kind::Pm2 => ("apps.json", ecosystem(apps, stamped)),
        Kind::OxMgr => ("oxfile.toml", oxfile(apps, stamped)),
    };
    let path = folder.join(name);
    fs::write(&path, body).expect("the file can be written");
    path
}

fn ecosystem(apps: &[App], stamped: bool) -> String {
    let apps: Vec<_> = apps
        .iter()
        .map(|app| {
            let mut entry = json!({
                "name": app.name, "script": app.script, "interpreter": "bash", "max_restarts": 100_000,
            });
            if stamped {
                entry["log_date_format"] = json!("YYYY-MM-DDTHH:mm:ss");
            }
            entry
        })
        .collect();
    json!({ "apps": apps }).to_string()
}

fn oxfile(apps: &[App], stamped: bool) -> String {
    let mut file = "version = 1\n".to_owned();
    for app in apps {
        file += &format!(
            "\n[[apps]]\nname = \"{}\"\ncommand = \"bash {}\"\nrestart_policy = \"always\"\nmax_restarts = 100000\ncrash_restart_limit = 0\n",
            app.name,
            app.script.display()
        );
        if stamped {
            file += "log_date_format = \"%Y-%m-%dT%H:%M:%S\"\n";
        }
    }
    file
}
