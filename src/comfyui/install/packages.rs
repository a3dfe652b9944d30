//! Installing packages into a build's environment, by uv or pip: one at a time, under one file of constraints.

use super::child::{Ran, Run};
use super::layout::Build;
use super::progress::Teller;
use super::whole::{self, Package, normal};
use serde_json::Value;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// How long one installation may take, in seconds: torch over a slow line.
const LIMIT: u64 = 2 * 3_600;

/// What installs packages for one build.
pub struct Packages<'a> {
    /// Hears of it.
    pub teller: &'a Teller<'a>,
    /// The workspace.
    pub workspace: &'a Path,
    /// Whose environment.
    pub build: &'a Build,
    /// uv, where it is used; else the environment's pip.
    pub uv: Option<&'a Path>,
}

impl Packages<'_> {
    /// The file that holds versions for whatever is installed.
    pub fn constraints_file(&self) -> PathBuf {
        self.build.dir.join("constraints.txt")
    }

    fn command(&self) -> Run<'_> {
        match self.uv {
            Some(uv) => Run::new(self.teller, self.workspace, uv)
                .args(["pip", "install", "--python"])
                .args([self.build.python()])
                .args(like_pip()),
            None => Run::new(self.teller, self.workspace, self.build.python())
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--no-input",
                    "--disable-pip-version-check",
                    "--progress-bar",
                    "off",
                    "--no-warn-script-location",
                ])
                .env("PIP_ROOT_USER_ACTION", "ignore"),
        }
        .limit(LIMIT)
    }

    /// Installs what `args` name: requirements, or `-r` and a file. `index` stands in the place of the ordinary one.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn install(&self, args: &[&str], cwd: &Path, index: Option<&str>) -> io::Result<Ran> {
        let teller = self.teller;
        let mut run = self.command().cwd(cwd);
        if let Some(index) = index {
            run = run.args(["--index-url", index]);
        }
        let constraints = self.constraints_file();
        if constraints.is_file() {
            run = run.args(["-c"]).args([&constraints]);
        }
        run.args(args)
            .each(|line| {
                if let Some(doing) = doing(line) {
                    teller.say(&doing, None);
                }
            })
            .run()
    }

    /// The versions that `requirements` come to, without installing anything; `None` where that cannot be told.
    pub fn resolve(
        &self,
        requirements: &[String],
        index: Option<&str>,
    ) -> Option<Vec<(String, String)>> {
        let report = self.build.dir.join("resolved.json");
        let mut run = self.command();
        if let Some(index) = index {
            run = run.args(["--index-url", index]);
        }
        run = match self.uv {
            Some(_) => run.args(["--dry-run"]),
            None => run
                .args(["--dry-run", "--quiet", "--report"])
                .args([&report]),
        };
        let ran = run.args(requirements).run().ok()?;
        if !ran.ok {
            return None;
        }
        if self.uv.is_some() {
            // `+ torch==2.7.0`, one a line.
            let added = |line: &String| {
                let (name, version) = line.trim().strip_prefix("+ ")?.split_once("==")?;
                Some((normal(name), version.trim().to_owned()))
            };
            return Some(ran.lines.iter().filter_map(added).collect());
        }
        let text = crate::comfyui::files::read_limited(&report, 64 << 20).ok()?;
        // It is of no use any more.
        let _ = std::fs::remove_file(&report);
        let report: Value = serde_json::from_str(&text).ok()?;
        let one = |item: &Value| {
            let name = item["metadata"]["name"].as_str()?;
            Some((
                normal(name),
                item["metadata"]["version"].as_str()?.to_owned(),
            ))
        };
        Some(
            report["install"]
                .as_array()?
                .iter()
                .filter_map(one)
                .collect(),
        )
    }

    /// Everything that the environment sees, by name; its own first.
    pub fn seen(&self, path: &[PathBuf]) -> Vec<Package> {
        let mut all: Vec<Package> = Vec::new();
        for site in path {
            for package in whole::packages(site) {
                if !all.iter().any(|known| known.name == package.name) {
                    all.push(package);
                }
            }
        }
        all
    }
}

/// uv does not read pip's settings: what is set for pip only is handed on.
pub(super) fn like_pip() -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["--index-strategy".into(), "unsafe-best-match".into()];
    let pairs = [
        (
            "PIP_INDEX_URL",
            &["UV_INDEX_URL", "UV_DEFAULT_INDEX"][..],
            "--default-index",
        ),
        (
            "PIP_EXTRA_INDEX_URL",
            &["UV_EXTRA_INDEX_URL", "UV_INDEX"],
            "--index",
        ),
        ("PIP_FIND_LINKS", &["UV_FIND_LINKS"], "--find-links"),
    ];
    for (pip, uv, flag) in pairs {
        let is_set = uv.iter().any(|name| std::env::var_os(name).is_some());
        let Some(value) = std::env::var(pip).ok().filter(|_| !is_set) else {
            continue;
        };
        for word in value.split_whitespace() {
            args.extend([flag.into(), word.into()]);
        }
    }
    if std::env::var_os("PIP_NO_INDEX").is_some() && std::env::var_os("UV_NO_INDEX").is_none() {
        args.push("--no-index".into());
    }
    args
}

/// A line of pip or uv that says what it is at.
fn doing(line: &str) -> Option<String> {
    let line = line.trim();
    let words = [
        "Collecting ",
        "Downloading ",
        "Installing collected packages",
        "Building wheel",
        "Resolved ",
        "Prepared ",
        "Installed ",
    ];
    let is = words.iter().any(|word| line.starts_with(word));
    is.then(|| line.split(" (from").next().unwrap_or(line).to_owned())
}

/// The name of a requirement; `None` for options, comments and URLs.
pub fn name_of(requirement: &str) -> Option<String> {
    let text = requirement.trim();
    if text.is_empty() || text.starts_with(['-', '#', '.', '/']) || text.starts_with("git+") {
        return None;
    }
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)))
        .unwrap_or(text.len());
    let is_url = text[end..].starts_with("://");
    (end > 0 && !is_url).then(|| normal(&text[..end]))
}

/// The requirements of a file that stand for themselves, and the options that hold for all of them.
pub fn lines(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut requirements, mut options) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.starts_with('-') && !line.starts_with("-e ") && !line.starts_with("-r ") {
            true => options.extend(line.split_whitespace().map(str::to_owned)),
            false => requirements.push(line.to_owned()),
        }
    }
    (requirements, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_has_a_name() {
        for (text, want) in [
            ("torch", Some("torch")),
            ("Pillow>=9 ; python_version > '3.8'", Some("pillow")),
            (
                "comfyui_frontend_package==1.2",
                Some("comfyui-frontend-package"),
            ),
            ("opencv-python[x]~=4", Some("opencv-python")),
            ("--extra-index-url https://h", None),
            ("git+https://h/r", None),
            ("https://h/x.whl", None),
            ("# note", None),
        ] {
            assert_eq!(name_of(text).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn a_file_of_requirements_falls_into_lines_and_options() {
        let text =
            "# c\n--extra-index-url https://h\n\na>=1 # why\nb @ https://h/b#egg=b\n-r other.txt\n";
        let (requirements, options) = lines(text);
        assert_eq!(
            requirements,
            ["a>=1", "b @ https://h/b#egg=b", "-r other.txt"]
        );
        assert_eq!(options, ["--extra-index-url", "https://h"]);
    }
}
