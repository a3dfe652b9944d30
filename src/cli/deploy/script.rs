//! What is run on the machine: a script of sh, in which every value is quoted.

use super::target::Target;
use anyhow::bail;
use std::path::Path;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Clone.
    Setup,
    /// Deploy the target's reference, or this one.
    Deploy(Option<String>),
    /// Deploy what was deployed so many times ago.
    Revert(u32),
    /// Tell what is deployed.
    Current,
    /// Tell what was before.
    Previous,
    /// Tell all.
    List,
    /// Run this.
    Run(String),
}

impl Job {
    /// By the words behind the environment.
    pub fn of(words: &[String]) -> anyhow::Result<Self> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Ok(match words[..] {
            [] | ["update" | "deploy"] => Job::Deploy(None),
            ["setup"] => Job::Setup,
            ["revert"] => Job::Revert(1),
            ["revert", times] => match times.parse() {
                Ok(times) if times > 0 => Job::Revert(times),
                _ => bail!("`revert {times}`: a number from 1 on is wanted"),
            },
            ["curr" | "current"] => Job::Current,
            ["prev" | "previous"] => Job::Previous,
            ["list"] => Job::List,
            ["exec" | "run", ..] if words.len() > 1 => Job::Run(words[1..].join(" ")),
            ["ref", name] if !name.starts_with('-') => Job::Deploy(Some(name.to_owned())),
            _ => bail!("`{}` is no command of deploy", words.join(" ")),
        })
    }
}

/// A word as sh takes it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The script. Its body is a function, read whole before it runs, so that nothing in it reads the rest of it as input.
pub fn of(job: &Job, target: &Target, file: &Path, environment: &str) -> String {
    let mut body = String::from("set -e\n");
    let mut line = |text: String| {
        body += &text;
        body.push('\n');
    };
    line(format!("path={}", path(&target.path)));
    for (name, value) in &target.env {
        line(format!("export {name}={}", quoted(value)));
    }
    line("export SHARED=\"$path/shared\"".to_owned());
    match job {
        Job::Setup => setup(target, &mut line),
        Job::Deploy(reference) => {
            let reference = reference.as_ref().unwrap_or(&target.reference);
            line(format!("wanted={}", quoted(reference)));
            deploy(target, file, environment, &mut line);
        }
        Job::Revert(times) => {
            line(format!(
                "wanted=$(tail -n {} \"$path/.deploys\" | head -n 1)",
                u64::from(*times) + 1
            ));
            line(format!(
                "[ \"$(wc -l < \"$path/.deploys\")\" -gt {times} ] || {{ echo 'nothing was deployed that long ago' >&2; exit 1; }}"
            ));
            deploy(target, file, environment, &mut line);
        }
        Job::Current => line("tail -n 1 \"$path/.deploys\"".to_owned()),
        Job::Previous => {
            line("[ \"$(wc -l < \"$path/.deploys\")\" -gt 1 ] || { echo 'nothing was deployed before' >&2; exit 1; }".to_owned());
            line("tail -n 2 \"$path/.deploys\" | head -n 1".to_owned());
        }
        Job::List => {
            line("cd \"$path/source\"".to_owned());
            line("tac \"$path/.deploys\" | while read -r commit; do git log -1 --format='%h %cI %s' \"$commit\" --; done".to_owned());
        }
        Job::Run(command) => {
            line("cd \"$path/current\"".to_owned());
            line(command.clone());
        }
    }
    format!("fornax_deploy() {{\n{body}}}\nfornax_deploy < /dev/null\n")
}

/// `~/…` means the home there, as in PM2.
fn path(path: &str) -> String {
    match path.strip_prefix("~/") {
        Some(rest) => format!("\"$HOME\"/{}", quoted(rest)),
        None => quoted(path),
    }
}

fn setup(target: &Target, line: &mut impl FnMut(String)) {
    line("if [ -e \"$path/source/.git\" ]; then echo \"$path is set up already; deploy with: update\" >&2; exit 1; fi".to_owned());
    if let Some(hook) = &target.pre_setup {
        step(line, &format!("hook pre-setup `{hook}`"));
        line(format!("( set +e\n{hook}\n)"));
    }
    step(line, "creating folders");
    line("mkdir -p \"$path/shared/logs\" \"$path/shared/pids\"".to_owned());
    step(line, &format!("cloning {}", target.repo));
    let depth = if target.shallow { " --depth=5" } else { "" };
    let branch = target.reference.strip_prefix("origin/");
    let branch = branch.map_or_else(String::new, |branch| {
        format!(" --branch {}", quoted(branch))
    });
    line(format!(
        "git clone -q{depth}{branch} -- {} \"$path/source\"",
        quoted(&target.repo)
    ));
    line("ln -sfn \"$path/source\" \"$path/current\"".to_owned());
    if let Some(hook) = &target.post_setup {
        step(line, &format!("hook post-setup `{hook}`"));
        line(format!("( cd \"$path/current\"\nset +e\n{hook}\n)"));
    }
    step(line, "setup complete");
}

fn deploy(target: &Target, file: &Path, environment: &str, line: &mut impl FnMut(String)) {
    line("if [ ! -e \"$path/source/.git\" ]; then echo \"$path is not set up; first: setup\" >&2; exit 1; fi".to_owned());
    line("cd \"$path/source\"".to_owned());
    if let Some(hook) = &target.pre_deploy {
        step(line, &format!("hook pre-deploy `{hook}`"));
        line(format!("( set +e\n{hook}\n)"));
    }
    step(line, "fetching updates");
    let depth = if target.shallow { " --depth=5" } else { "" };
    line(format!("git fetch -q{depth} --all --tags"));
    line("printf '  ○ resetting HEAD to %s\\n' \"$wanted\"".to_owned());
    line("git reset -q --hard \"$wanted\" --".to_owned());
    line("ln -sfn \"$path/source\" \"$path/current\"".to_owned());
    line("git rev-parse HEAD >> \"$path/.deploys\"".to_owned());
    let hook = target.post_deploy.clone().unwrap_or_else(|| {
        format!(
            "pm2 startOrRestart {} --env {}",
            quoted(&file.to_string_lossy()),
            quoted(environment)
        )
    });
    step(line, &format!("executing post-deploy `{hook}`"));
    line(format!("( cd \"$path/current\"\nset +e\n{hook}\n)"));
    line("printf '  ○ successfully deployed %s\\n' \"$wanted\"".to_owned());
}

fn step(line: &mut impl FnMut(String), what: &str) {
    line(format!("printf '  ○ %s\\n' {}", quoted(what)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_pm2s() {
        let job = |line: &str| {
            Job::of(
                &line
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>(),
            )
        };
        for (line, wanted) in [
            ("", Job::Deploy(None)),
            ("update", Job::Deploy(None)),
            ("setup", Job::Setup),
            ("revert", Job::Revert(1)),
            ("revert 3", Job::Revert(3)),
            ("curr", Job::Current),
            ("previous", Job::Previous),
            ("list", Job::List),
            ("exec ls -l", Job::Run("ls -l".to_owned())),
            ("ref v1.2", Job::Deploy(Some("v1.2".to_owned()))),
        ] {
            assert_eq!(job(line).unwrap(), wanted, "{line}");
        }
        for bad in ["revert 0", "revert x", "exec", "ref --x", "dance"] {
            assert!(job(bad).is_err(), "{bad}");
        }
    }
}
