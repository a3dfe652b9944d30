//! A workspace with real git, Python and pip, a small tree that starts as ComfyUI does, and packages that need no network.

#![allow(clippy::unwrap_used, dead_code)]

use super::home::{Home, Ran};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/comfyui")
        .join(name)
}

/// Wheels that pip finds without a network; made once.
pub fn wheels() -> &'static Path {
    static WHEELS: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = WHEELS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let packages = [
            &["smallcore", "1.0"][..],
            &["smalltorch", "2.0"],
            &["smallnode", "1.0"],
            &["smallnode", "1.1"],
            &["smallclash", "1.0", "smallcore<1"],
            &["requests", "1.0"],
        ];
        for package in packages {
            let made = Command::new("python3")
                .arg(fixture("make_wheel.py"))
                .arg(dir.path())
                .args(package)
                .status();
            assert!(made.unwrap().success());
        }
        dir
    });
    dir.path()
}

/// A home, a workspace, and repositories.
pub struct Place {
    pub home: Home,
}

impl Place {
    pub fn new() -> Self {
        Self::with(&[])
    }

    pub fn with(env: &[(&str, &str)]) -> Self {
        let mut all = vec![
            ("PIP_NO_INDEX", "1"),
            ("PIP_FIND_LINKS", wheels().to_str().unwrap()),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
        ];
        all.extend(env);
        let place = Self {
            home: Home::with(&all),
        };
        std::fs::create_dir_all(place.workspace()).unwrap();
        place.repository("tree", "ComfyUI");
        place.settings(json!({}));
        place
    }

    pub fn workspace(&self) -> PathBuf {
        self.home.apps().parent().unwrap().join("workspace")
    }

    pub fn repo(&self, name: &str) -> PathBuf {
        self.home.apps().parent().unwrap().join("repos").join(name)
    }

    /// A git repository made from a fixture.
    pub fn repository(&self, from: &str, name: &str) -> PathBuf {
        let dir = self.repo(name);
        copy(&fixture(from), &dir);
        git(&dir, &["init", "-q", "-b", "master"]);
        self.commit(name, "one");
        dir
    }

    pub fn commit(&self, name: &str, message: &str) -> String {
        let dir = self.repo(name);
        git(&dir, &["add", "-A"]);
        git(
            &dir,
            &[
                "-c",
                "user.name=t",
                "-c",
                "user.email=t@t",
                "commit",
                "-qm",
                message,
            ],
        );
        git(&dir, &["rev-parse", "HEAD"])
    }

    /// `fornax.json`, over what all tests have.
    pub fn settings(&self, over: Value) {
        let mut machine = json!({
            "repository": self.repo("ComfyUI"), "torch": ["smalltorch"], "torch_index": "pypi", "installer": "pip"
        });
        let all = machine.as_object_mut().unwrap();
        all.extend(over.as_object().unwrap().clone());
        let text = json!({"machine": machine}).to_string();
        std::fs::write(self.workspace().join("fornax.json"), text).unwrap();
    }

    pub fn nodes(&self, list: Value) {
        let text = json!({"custom_nodes": list}).to_string();
        std::fs::write(self.workspace().join("config_nodes.json"), text).unwrap();
    }

    pub fn comfyui(&self, args: &[&str]) -> Ran {
        let all: Vec<&str> = std::iter::once("comfyui")
            .chain(args.iter().copied())
            .collect();
        self.home.run(&all)
    }

    pub fn install(&self) -> Ran {
        self.comfyui(&["install", "--cpu"])
    }

    pub fn report(&self) -> Value {
        let ran = self.comfyui(&["status", "--cpu", "--json"]).ok();
        serde_json::from_str(&ran.out).unwrap()
    }

    pub fn node(&self, name: &str) -> Value {
        let report = self.report();
        let nodes = report["nodes"].as_array().unwrap();
        nodes
            .iter()
            .find(|node| node["name"] == name)
            .unwrap()
            .clone()
    }

    pub fn lock(&self) -> Value {
        let text = std::fs::read_to_string(self.workspace().join("fornax.lock.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub fn in_tree(&self, path: &str) -> PathBuf {
        self.workspace().join("ComfyUI").join(path)
    }

    pub fn version(&self) -> Value {
        self.report()["version"].clone()
    }

    pub fn set_version(&self, version: &str) -> String {
        let text = format!("__version__ = \"{version}\"\n");
        std::fs::write(self.repo("ComfyUI").join("comfyui_version.py"), text).unwrap();
        self.commit("ComfyUI", version)
    }
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

pub fn git(dir: &Path, args: &[&str]) -> String {
    let done = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// Every file of a folder with its size and time, to see that nothing was changed.
pub fn look(dir: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let meta = entry.path().symlink_metadata().unwrap();
            if meta.is_dir() {
                dirs.push(entry.path());
            } else {
                found.push((entry.path(), meta.ino(), meta.modified().unwrap()));
            }
        }
    }
    found.sort();
    found
}
