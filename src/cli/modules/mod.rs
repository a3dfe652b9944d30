//! Modules: `install`, `uninstall`, `module:*`, and their start with the daemon (pm2 7.0.4, spec 6.16). npm does the fetching.

mod author;
mod fetch;
mod manifest;
mod record;

pub use author::{generate, package, publish};

use super::cmd::{list, start};
use super::program;
use super::session::{Session, Told};
use super::start_context;
use crate::config;
use crate::core::spec::context::Origin;
use crate::core::spec::normalise::{self, AppConf};
use anyhow::{Context, bail};
use clap::ArgMatches;
use manifest::Manifest;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// PM2's module that is built in here: log rotation.
const BUILT_IN: &str = "pm2-logrotate";
/// How long `--safe` looks at a module's behaviour without a time of its own, in milliseconds.
pub const SAFE: &str = "3000";
/// How often it looks.
const LOOK: Duration = Duration::from_millis(200);

/// `[PM2][Module] …`.
fn tell(session: &Session, text: &str) {
    session.output.line(&format!("[PM2][Module] {text}"));
}

/// `pm2 install WORD`: a name of npm, a folder, a tarball, an address of git; `.` for the module in this folder, watched.
pub fn install(
    session: &mut Session,
    matches: &ArgMatches,
    word: Option<&str>,
) -> anyhow::Result<()> {
    let word =
        word.context("name a module: a name of npm, a folder, a tarball, or an address of git")?;
    if word.split('@').next() == Some(BUILT_IN) {
        built_in(session);
        return Ok(());
    }
    let safe = super::options::value(matches, "safe").map(str::parse::<u64>);
    let safe = match safe.transpose() {
        Ok(safe) => safe.map(Duration::from_millis),
        Err(_) => bail!("`--safe` takes milliseconds"),
    };
    if word == "." {
        install_here(session, matches)?;
    } else if super::options::flag(matches, "tarball") || fetch::is_module_tarball(word) {
        install_tarball(session, matches, word)?;
    } else {
        install_package(session, matches, word, safe)?;
    }
    list::after_action(session, matches)
}

fn built_in(session: &Session) {
    tell(
        session,
        "pm2-logrotate is built in: logs are rotated without it, nothing is fetched",
    );
    tell(
        session,
        "its settings are taken as they are: pm2 set pm2-logrotate:max_size 10M, :retain 30, :compress true …",
    );
}

/// The module in this folder, for its author: restarted when its files change, and not recorded.
fn install_here(session: &mut Session, matches: &ArgMatches) -> anyhow::Result<()> {
    tell(session, "Installing local NPM module");
    let manifest = Manifest::read(&std::env::current_dir()?)?;
    tell(
        session,
        "Installing local module in DEVELOPMENT MODE with WATCH auto restart",
    );
    run(session, matches, &manifest, Run::Watched)?;
    tell(session, "Module successfully installed and launched");
    Ok(())
}

/// A package of npm. What was there before comes back if this one cannot be fetched, started, or (with `--safe`) misbehaves.
fn install_package(
    session: &mut Session,
    matches: &ArgMatches,
    word: &str,
    safe: Option<Duration>,
) -> anyhow::Result<()> {
    tell(session, &format!("Installing NPM {word} module"));
    let folder = session.home.modules();
    crate::sys::private::folder(session.home.root())?;
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    tell(session, &format!("Calling [NPM] to install {word} ..."));
    let registry = record::registry(session);
    let fetched = match fetch::by_npm(word, &folder, registry.as_deref()) {
        Ok(fetched) => fetched,
        Err(error) => {
            session.output.error(&format!(
                "Installation failed via NPM, what was installed before is as it was: {error:#}"
            ));
            bail!(Told);
        }
    };
    let name = fetched.name.clone();
    let place = place_of(session, &name)?;
    let package = place.join("node_modules").join(&name);
    let before = fetch::set_aside(&place)?;
    let placed = fetched.move_to(&place);
    let tried = placed.and_then(|()| {
        let manifest = Manifest::read(&package)?;
        record::defaults(session, &manifest)?;
        stop(session, &name)?;
        run(session, matches, &manifest, Run::Installed)?;
        match safe {
            Some(limit) => behaves(session, &name, limit),
            None => Ok(()),
        }
    });
    if let Err(error) = tried {
        session
            .output
            .error(&format!("module {name} was not installed: {error:#}"));
        stop(session, &name)?;
        fetch::take_back(before, &place)?;
        if let Ok(manifest) = Manifest::read(&package) {
            run(session, matches, &manifest, Run::Installed)?;
            session.output.error("the version before it is back");
        }
        bail!(Told);
    }
    if let Some(before) = before {
        // What cannot be removed now is in nobody's way.
        let _ = std::fs::remove_dir_all(before);
    }
    record::add(session, matches, &name)?;
    tell(session, "Module successfully installed and launched");
    tell(session, "Checkout module options: `$ pm2 conf`");
    Ok(())
}

/// A tarball with a folder `module` in it.
fn install_tarball(session: &mut Session, matches: &ArgMatches, word: &str) -> anyhow::Result<()> {
    tell(session, "Installing TAR module");
    tell(session, &format!("Installing package {word}"));
    let folder = session.home.modules();
    crate::sys::private::folder(session.home.root())?;
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    tell(session, "Depackaging module...");
    let unpacked = fetch::by_tar(word, &folder)?;
    let name = unpacked.name.clone();
    tell(session, &format!("Module name is {name}"));
    let place = place_of(session, &name)?;
    let before = fetch::set_aside(&place)?;
    let tried = unpacked.move_to(&place).and_then(|()| {
        let manifest = Manifest::read(&place)?;
        tell(
            session,
            &format!("Module depackaged in {}", place.display()),
        );
        record::defaults(session, &manifest)?;
        stop(session, &name)?;
        run(session, matches, &manifest, Run::Tarball)
    });
    if let Err(error) = tried {
        fetch::take_back(before, &place)?;
        return Err(error);
    }
    if let Some(before) = before {
        let _ = std::fs::remove_dir_all(before);
    }
    record::add_tarball(session, &name, word)?;
    tell(session, "Module INSTALLED and STARTED");
    Ok(())
}

/// `pm2 module:update [NAME]`: the newest version of one, or of all that npm has fetched.
pub fn update(
    session: &mut Session,
    matches: &ArgMatches,
    name: Option<&str>,
) -> anyhow::Result<()> {
    if name == Some(BUILT_IN) {
        built_in(session);
        return Ok(());
    }
    let known = record::packages(session);
    let wanted: Vec<String> = match name {
        None | Some("all") => known,
        Some(name) if known.iter().any(|known| known == name) => vec![name.to_owned()],
        Some(_) => bail!("Unknown module"),
    };
    for name in wanted {
        install_package(session, matches, &format!("{name}@latest"), None)?;
    }
    list::after_action(session, matches)
}

/// `pm2 uninstall NAME|all`.
pub fn uninstall(
    session: &mut Session,
    matches: &ArgMatches,
    name: Option<&str>,
) -> anyhow::Result<()> {
    let name = name.context("name a module, or all")?;
    tell(session, &format!("Uninstalling module {name}"));
    if name == BUILT_IN {
        tell(session, "pm2-logrotate is built in: its rotation goes on");
        return Ok(());
    }
    let mut known = record::packages(session);
    known.extend(record::tarballs(session));
    let wanted: Vec<String> = match name {
        "all" => known,
        // One that its author runs from a folder is not recorded.
        name if known.iter().any(|known| known == name) || is_running(session, name)? => {
            vec![name.to_owned()]
        }
        _ => {
            session.output.error("[Module] Unknown module");
            bail!(Told);
        }
    };
    for name in wanted {
        stop(session, &name)?;
        record::remove(session, &name)?;
        let place = place_of(session, &name)?;
        match std::fs::remove_dir_all(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                bail!("cannot remove {}: {error}", place.display())
            }
            _ => tell(session, &format!("Module {name} is removed")),
        }
    }
    list::after_action(session, matches)
}

/// `pm2 module:list`.
pub fn tell_all(session: &mut Session) -> anyhow::Result<()> {
    session.output.line(&format!("{BUILT_IN}: built in"));
    for name in record::packages(session) {
        let package = place_of(session, &name)?.join("node_modules").join(&name);
        tell_one(session, &name, &package, "npm");
    }
    for name in record::tarballs(session) {
        let package = place_of(session, &name)?;
        tell_one(session, &name, &package, "tarball");
    }
    Ok(())
}

fn tell_one(session: &Session, name: &str, package: &Path, from: &str) {
    let what = match Manifest::read(package) {
        Ok(manifest) => format!("{} ({from})", manifest.version),
        Err(error) => format!("{error:#}"),
    };
    session.output.line(&format!("{name}: {what}"));
}

/// Starts what is recorded and does not run: called when a command has started the daemon.
pub fn start_recorded(session: &mut Session) -> anyhow::Result<()> {
    let (packages, tarballs) = (record::packages(session), record::tarballs(session));
    if packages.is_empty() && tarballs.is_empty() {
        return Ok(());
    }
    let none = program::no_options();
    let mut places = Vec::new();
    for name in packages {
        places.push((
            place_of(session, &name)?.join("node_modules").join(&name),
            name,
            Run::Installed,
        ));
    }
    for name in tarballs {
        places.push((place_of(session, &name)?, name, Run::Tarball));
    }
    for (package, name, how) in places {
        let started = match is_running(session, &name)? {
            true => Ok(()),
            false => {
                Manifest::read(&package).and_then(|manifest| run(session, &none, &manifest, how))
            }
        };
        // One that is broken keeps neither the others nor the apps from starting.
        if let Err(error) = started {
            eprintln!("[PM2][WARN] module {name} was not started: {error:#}");
        }
    }
    Ok(())
}

/// How a module is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    Installed,
    Tarball,
    Watched,
}

/// Where a module lies. Its name is a package's, so that it leads nowhere else.
fn place_of(session: &Session, name: &str) -> anyhow::Result<PathBuf> {
    if !manifest::is_name(name) {
        bail!("`{name}` is no name of a package");
    }
    Ok(session.home.modules().join(name))
}

fn run(
    session: &mut Session,
    matches: &ArgMatches,
    manifest: &Manifest,
    how: Run,
) -> anyhow::Result<()> {
    let apps = manifest.apps(how == Run::Tarball, how == Run::Watched)?;
    let confs = confs(session, matches, &apps)?;
    stop(session, &manifest.name)?;
    if !start::prepare_all(session, confs)? {
        bail!("it could not be started; see pm2.log in PM2_HOME");
    }
    Ok(())
}

/// A module's apps, ready to be registered: only what its package says and `pm2 set` has stored counts.
fn confs(
    session: &Session,
    matches: &ArgMatches,
    apps: &[Map<String, Value>],
) -> anyhow::Result<Vec<AppConf>> {
    let mut context = start_context::gather(session, matches, Origin::Config, &[])?;
    let mut confs = Vec::new();
    for app in apps {
        if let Some(folder) = app.get("cwd").and_then(Value::as_str) {
            folder.clone_into(&mut context.cwd);
        }
        match normalise::app(app, &context, config::host_for(app)) {
            Ok(mut conf) => {
                conf.0.insert("pmx_module".to_owned(), Value::Bool(true));
                confs.push(conf);
            }
            Err(issues) => {
                let told: Vec<String> = issues.iter().map(start::words).collect();
                bail!("{}", told.join("; "));
            }
        }
    }
    Ok(confs)
}

/// The ids of a module's processes: of its name, or of `name:part`.
fn ids(session: &mut Session, name: &str) -> anyhow::Result<Vec<u32>> {
    let part = format!("{name}:");
    Ok(session
        .rows()?
        .iter()
        .filter(|row| row.pmx_module && (row.name == name || row.name.starts_with(&part)))
        .map(|row| row.pm_id)
        .collect())
}

fn is_running(session: &mut Session, name: &str) -> anyhow::Result<bool> {
    Ok(!ids(session, name)?.is_empty())
}

fn stop(session: &mut Session, name: &str) -> anyhow::Result<()> {
    for id in ids(session, name)? {
        let _: Value = session
            .daemon(true)?
            .call("deleteProcessId", &[json!(id)])?;
    }
    Ok(())
}

/// Whether a module stays online without a restart for so long.
fn behaves(session: &mut Session, name: &str, limit: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + limit;
    let ids = ids(session, name)?;
    while Instant::now() < until {
        std::thread::sleep(LOOK.min(limit));
        let rows = session.rows()?;
        for row in rows.iter().filter(|row| ids.contains(&row.pm_id)) {
            if row.restarts.unwrap_or_default() > 0
                || !matches!(row.status.as_str(), "online" | "launching")
            {
                bail!(
                    "it is {} after {} restarts",
                    row.status,
                    row.restarts.unwrap_or_default()
                );
            }
        }
    }
    Ok(())
}
