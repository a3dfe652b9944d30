//! `startup`, `unstartup`: an init script, so that the saved list is there after a boot (pm2 7.0.4, spec 6.12).

mod files;
mod system;
pub mod watcher;

use super::options;
use super::session::{Output, Session, Told, print, user_name};
use crate::sys::files as safe;
use anyhow::{Context, bail};
use clap::ArgMatches;
use files::Facts;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use system::{Named, System};

/// The variable that names another root folder to write under, for tests and images.
const ROOT_VARIABLE: &str = "FORNAX_INIT_ROOT";

/// What one run is about.
struct Plan {
    system: System,
    facts: Facts,
    root: Option<PathBuf>,
}

impl Plan {
    fn file(&self) -> PathBuf {
        let path = self.system.file(&self.facts.name);
        match &self.root {
            Some(root) => root.join(path.trim_start_matches('/')),
            None => path.into(),
        }
    }
}

/// `pm2 startup [PLATFORM]`.
pub fn startup(
    session: &mut Session,
    matches: &ArgMatches,
    named: Option<&str>,
) -> anyhow::Result<()> {
    let output = session.output;
    let plan = plan(&output, matches, named)?;
    demand_root(&output, matches, &plan, "startup", "setup")?;
    let (text, file) = (plan.system.text(&plan.facts), plan.file());
    let commands = plan.system.enabling(&plan.facts.name);
    let listed: Vec<String> = commands
        .iter()
        .map(|words| format!("'{}'", words.join(" ")))
        .collect();
    output.line(&format!("Platform {}", plan.system.name()));
    output.line(&format!("Template\n{text}"));
    output.line(&format!("Target path\n{}", file.display()));
    output.line(&format!("Command list\n[ {} ]", listed.join(", ")));
    output.done(&format!("Writing init configuration in {}", file.display()));
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    safe::replace(&file, text.as_bytes(), safe::Readers::Anybody)
        .with_context(|| format!("cannot write {}", file.display()))?;
    let mode = std::fs::Permissions::from_mode(plan.system.mode());
    std::fs::set_permissions(&file, mode)
        .with_context(|| format!("cannot set the mode of {}", file.display()))?;
    output.done("Making script booting at startup...");
    for words in &commands {
        output.done(&format!("[-] Executing: {}...", words.join(" ")));
        execute(words).inspect_err(|_| {
            output.error(&format!(
                "{} is written, and not enabled yet",
                file.display()
            ));
        })?;
        output.done("[v] Command successfully executed.");
    }
    output.line("+---------------------------------------+");
    output.done("Freeze a process list on reboot via:");
    output.line("$ pm2 save\n");
    output.done("Remove init script via:");
    output.line(&format!("$ pm2 unstartup {}", plan.system.name()));
    Ok(())
}

/// `pm2 unstartup [PLATFORM]`.
pub fn unstartup(
    session: &mut Session,
    matches: &ArgMatches,
    named: Option<&str>,
) -> anyhow::Result<()> {
    let output = session.output;
    let plan = plan(&output, matches, named)?;
    demand_root(&output, matches, &plan, "unstartup", "unsetup")?;
    let file = plan.file();
    if !file.exists() {
        bail!(
            "{} does not exist; if the script has another name, say `--service-name NAME` or `-u USER`",
            file.display()
        );
    }
    for words in plan.system.disabling(&plan.facts.name) {
        output.done(&format!("[-] Executing: {}...", words.join(" ")));
        // Each of them may be done already; what counts is that the file goes.
        if let Err(error) = execute(&words) {
            output.warn(&error.to_string());
        }
    }
    std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    if plan.system == System::Systemd {
        // Without it systemd goes on with the unit that it has read.
        let _ = execute(&["systemctl".to_owned(), "daemon-reload".to_owned()]);
    }
    output.done("Init file disabled.");
    Ok(())
}

fn plan(output: &Output, matches: &ArgMatches, named: Option<&str>) -> anyhow::Result<Plan> {
    let found = System::find(&|program| on_path(program).is_some());
    if let Some(found) = found {
        output.done(&format!("Init System found: {}", found.name()));
    }
    let system = match named.map(System::named) {
        Some(Named::Known(system)) => system,
        Some(Named::Foreign(os)) => bail!(
            "`{}` is an init system of {os}; this program is for Linux, whose are systemd, openrc, upstart and systemv",
            named.unwrap_or_default()
        ),
        Some(Named::Unknown) => bail!(
            "Unknown platform / init system name `{}`; known are systemd, openrc, upstart and systemv",
            named.unwrap_or_default()
        ),
        None => found.context(
            "Init system not found; name one: systemd, openrc, upstart or systemv (in a container use pm2-runtime)",
        )?,
    };
    if let Some(found) = found.filter(|found| *found != system) {
        output.warn(&format!(
            "this machine seems to use {}, and you say {}; without a name `pm2 startup` takes the former",
            found.name(),
            system.name()
        ));
    }
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = options::value(matches, "user")
        .map(str::to_owned)
        .or_else(|| set("USER"))
        .unwrap_or_else(user_name);
    let user_home = || {
        let known = nix::unistd::User::from_name(&user).ok().flatten();
        known.map(|user| user.dir.to_string_lossy().into_owned())
    };
    let home = options::value(matches, "hp")
        .map(|home| format!("{}/.pm2", home.trim_end_matches('/')))
        .or_else(|| set("PM2_HOME"))
        .or_else(|| user_home().map(|home| format!("{home}/.pm2")))
        .or_else(|| set("HOME").map(|home| format!("{home}/.pm2")))
        .with_context(|| format!("there is no user `{user}`; name a home by `--hp DIR`"))?;
    let home = std::path::absolute(&home).map_or(home, |path| path.display().to_string());
    let name = options::value(matches, "service-name")
        .map_or_else(|| system.default_name(&user), str::to_owned);
    for (what, word) in [("a user", &user), ("a service", &name)] {
        if word.is_empty() || !word.chars().all(is_plain) {
            bail!("`{word}` is no name of {what}: letters, digits and . _ - @ make one");
        }
    }
    let path = set("PATH").unwrap_or_default();
    for (what, word) in [("PATH", &path), ("the home", &home)] {
        if word.chars().any(char::is_control) {
            bail!("{what} holds a control character, which no init script can carry");
        }
    }
    Ok(Plan {
        system,
        root: std::env::var_os(ROOT_VARIABLE).map(Into::into),
        facts: Facts {
            name,
            user,
            path,
            pm2_home: home,
            program: std::env::current_exe().context("cannot find our own program file")?,
            wait_ip: options::flag(matches, "wait-ip"),
        },
    })
}

fn is_plain(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "._-@".contains(letter)
}

/// Only root writes init scripts; for others PM2 prints the line to type.
fn demand_root(
    output: &Output,
    matches: &ArgMatches,
    plan: &Plan,
    verb: &str,
    what: &str,
) -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() || plan.root.is_some() {
        return Ok(());
    }
    output.done(&format!(
        "To {what} the Startup Script, copy/paste the following command:"
    ));
    let program = if options::value(matches, "user").is_some() {
        "pm2".to_owned()
    } else {
        called_as(&plan.facts.program).display().to_string()
    };
    let folder = Path::new(&program)
        .parent()
        .map_or_else(String::new, |at| at.display().to_string());
    let path = if folder.is_empty() {
        "$PATH".to_owned()
    } else {
        format!("$PATH:{folder}")
    };
    let home = &plan.facts.pm2_home;
    let (variable, option) = match home.strip_suffix("/.pm2") {
        Some(home) => (String::new(), format!(" --hp {home}")),
        None => (format!(" PM2_HOME={home}"), String::new()),
    };
    print(&format!(
        "sudo env PATH={path}{variable} {program} {verb} {} -u {}{option}\n",
        plan.system.name(),
        plan.facts.user
    ));
    bail!(Told)
}

/// The name this program was found under, such as /usr/local/bin/pm2: `startup` is PM2's command, and called by its own name
/// it takes it too.
fn called_as(program: &Path) -> PathBuf {
    let typed = std::env::args().next().unwrap_or_default();
    let path = if typed.contains('/') {
        std::path::absolute(&typed).ok()
    } else {
        on_path(&typed)
    };
    path.filter(|path| path.exists())
        .unwrap_or_else(|| program.to_owned())
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn execute(words: &[String]) -> anyhow::Result<()> {
    let line = words.join(" ");
    let [program, arguments @ ..] = words else {
        return Ok(());
    };
    let status = Command::new(program)
        .args(arguments)
        .status()
        .with_context(|| format!("cannot execute `{line}`"))?;
    if !status.success() {
        bail!("`{line}`: {status}");
    }
    Ok(())
}
