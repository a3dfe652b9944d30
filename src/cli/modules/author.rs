//! For a module's author: `module:generate`, `package`, `publish`.

use super::manifest::{self, Manifest};
use super::tell;
use crate::cli::session::Session;
use anyhow::{Context, bail};
use serde_json::json;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

/// The main file of a new module: it needs no package, Node's own channel is enough.
const MAIN: &str = "// Settings come as variables: `pm2 set NAME:every 5` changes this one.
const every = Number(process.env.every) || 10;
let ticks = 0;

function tell(type, data) {
  if (process.send) process.send({ type, data });
}

// An action: `pm2 trigger NAME reset`.
tell('axm:action', { action_name: 'reset', action_type: 'custom', arity: 0 });
process.on('message', (message) => {
  if (message === 'reset' || message.msg === 'reset') {
    ticks = 0;
    tell('axm:reply', { return: { ticks }, action_name: 'reset' });
  }
});

setInterval(() => {
  ticks += 1;
  // A metric: shown by `pm2 describe` and `pm2 monit`.
  tell('axm:monitor', { ticks: { value: ticks, type: 'ticks', historic: true } });
}, every * 1000);
";

/// `pm2 module:generate [NAME]`: a folder with a module that works.
pub fn generate(session: &Session, name: Option<&str>) -> anyhow::Result<()> {
    let name = name.unwrap_or("sample-module");
    if !manifest::is_name(name) || name.starts_with('@') {
        bail!("`{name}` is no name of a package");
    }
    let folder = std::env::current_dir()?.join(name);
    std::fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let package = json!({
        "name": name,
        "version": "1.0.0",
        "description": "a module of PM2",
        "main": "index.js",
        "apps": [{"script": "index.js", "merge_logs": true, "max_memory_restart": "200M"}],
        "config": {"every": 10},
    });
    let text = serde_json::to_string_pretty(&package)? + "\n";
    std::fs::write(folder.join("package.json"), text)?;
    std::fs::write(folder.join("index.js"), MAIN.replace("NAME", name))?;
    tell(
        session,
        &format!("Module sample created in folder: {}", folder.display()),
    );
    session.output.line(&format!(
        "\nStart module in development mode:\n$ cd {name}/\n$ pm2 install .\n\nModule Log:\n$ pm2 logs {name}\n\nUninstall module:\n$ pm2 uninstall {name}"
    ));
    Ok(())
}

/// `pm2 package [FOLDER]`: a tarball that `pm2 install` takes.
pub fn package(session: &Session, folder: Option<&str>) -> anyhow::Result<()> {
    let folder = std::path::absolute(folder.unwrap_or("."))?;
    let manifest = Manifest::read(&folder)?;
    let version = manifest.version.replace('.', "-");
    let plain = manifest.name.trim_start_matches('@').replace('/', "-");
    let name = format!("{plain}-v{version}.tar.gz");
    let file = folder.join(&name);
    tell(
        session,
        &format!("Gziping {} to {}", folder.display(), file.display()),
    );
    let exclude = |what: &str| -> OsString { format!("--exclude=./{what}").into() };
    let taken: Vec<OsString> = vec![
        "-czf".into(),
        "-".into(),
        "-C".into(),
        folder.into(),
        exclude(&name),
        exclude(".git"),
        "--transform=s,^\\.,module,".into(),
        ".".into(),
    ];
    // It is there before tar looks: a folder that changes meanwhile is an error of tar's.
    let into =
        std::fs::File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
    let ended = std::process::Command::new("tar")
        .args(&taken)
        .stdout(into)
        .status()
        .context("cannot start tar; install it")?;
    if !ended.success() {
        // Half of one helps nobody.
        let _ = std::fs::remove_file(&file);
        bail!("tar: {ended}");
    }
    tell(session, &format!("Module packaged in {}", file.display()));
    Ok(())
}

/// `pm2 publish [FOLDER]`: the next version, committed and tagged where there is a git repository, goes to npm and is pushed.
pub fn publish(session: &Session, folder: Option<&str>) -> anyhow::Result<()> {
    let folder = std::path::absolute(folder.unwrap_or("."))?;
    let before = Manifest::read(&folder)?;
    run_in(&folder, "npm", &["version", "patch"])?;
    let after = Manifest::read(&folder)?;
    tell(
        session,
        &format!(
            "Publishing {} {} (was {})",
            after.name, after.version, before.version
        ),
    );
    run_in(&folder, "npm", &["publish"])?;
    let has_remote = Command::new("git")
        .args(["remote", "get-url", "origin"])
        .current_dir(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if has_remote {
        run_in(&folder, "git", &["push", "--follow-tags", "origin", "HEAD"])?;
    }
    tell(session, "Module published");
    Ok(())
}

fn run_in(folder: &Path, program: &str, words: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(program)
        .args(words)
        .current_dir(folder)
        .status()
        .with_context(|| format!("cannot execute {program}"))?;
    if !status.success() {
        bail!("{program} {}: {status}", words.join(" "));
    }
    Ok(())
}
