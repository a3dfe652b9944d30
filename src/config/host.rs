//! What the core asks of the machine, answered by the machine.

use crate::core::spec::context::{Host, User};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The real machine. It holds nothing: each question is asked anew.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemHost;

impl Host for SystemHost {
    fn exists(&self, path: &str) -> bool {
        Path::new(path).exists()
    }

    fn is_dir(&self, path: &str) -> bool {
        Path::new(path).is_dir()
    }

    fn is_executable(&self, path: &str) -> bool {
        Path::new(path)
            .metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    }

    fn which(&self, program: &str, path_env: &str) -> Option<String> {
        if program.contains('/') {
            return (program.starts_with('/') && self.is_executable(program))
                .then(|| program.to_string());
        }
        path_env
            .split(':')
            .filter(|dir| dir.starts_with('/') && !program.is_empty())
            .map(|dir| format!("{}/{program}", dir.trim_end_matches('/')))
            .find(|path| self.is_executable(path))
    }

    fn read_head(&self, path: &str, limit: usize) -> Vec<u8> {
        let mut head = Vec::new();
        // A pipe or a device would block or never end; only a plain file has a head.
        if Path::new(path).is_file()
            && let Ok(file) = File::open(path)
            && file.take(limit as u64).read_to_end(&mut head).is_err()
        {
            head.clear();
        }
        head
    }

    fn user(&self, name_or_id: &str) -> Option<User> {
        use nix::unistd::{Uid, User as Entry};
        let entry = match name_or_id.parse() {
            Ok(uid) => Entry::from_uid(Uid::from_raw(uid)),
            Err(_) => Entry::from_name(name_or_id),
        };
        let entry = entry.ok().flatten()?;
        Some(User {
            uid: entry.uid.as_raw(),
            gid: entry.gid.as_raw(),
            home: entry.dir.display().to_string(),
        })
    }

    fn group(&self, name_or_id: &str) -> Option<u32> {
        use nix::unistd::Group;
        if let Ok(gid) = name_or_id.parse() {
            return Some(gid);
        }
        Group::from_name(name_or_id)
            .ok()
            .flatten()
            .map(|group| group.gid.as_raw())
    }

    fn is_root(&self) -> bool {
        nix::unistd::geteuid().is_root()
    }

    fn cpus(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    fn node_version(&self, node: &str) -> Option<(u32, u32)> {
        let output = Command::new(node)
            .arg("--version")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let mut parts = text.trim().strip_prefix('v')?.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// The machine as it will be once what an app's `fornax.install` names is there: files that do not exist yet are taken to.
/// The daemon looks again before each start, and tells what is missing.
#[derive(Debug, Clone, Copy, Default)]
pub struct InstalledHost;

impl Host for InstalledHost {
    fn exists(&self, _: &str) -> bool {
        true
    }

    fn is_dir(&self, path: &str) -> bool {
        SystemHost.is_dir(path)
    }

    fn is_executable(&self, path: &str) -> bool {
        !SystemHost.exists(path) || SystemHost.is_executable(path)
    }

    fn which(&self, program: &str, path_env: &str) -> Option<String> {
        SystemHost
            .which(program, path_env)
            .or_else(|| program.starts_with('/').then(|| program.to_string()))
    }

    fn read_head(&self, path: &str, limit: usize) -> Vec<u8> {
        SystemHost.read_head(path, limit)
    }

    fn user(&self, name_or_id: &str) -> Option<User> {
        SystemHost.user(name_or_id)
    }

    fn group(&self, name_or_id: &str) -> Option<u32> {
        SystemHost.group(name_or_id)
    }

    fn is_root(&self) -> bool {
        SystemHost.is_root()
    }

    fn cpus(&self) -> usize {
        SystemHost.cpus()
    }

    fn node_version(&self, node: &str) -> Option<(u32, u32)> {
        SystemHost.node_version(node)
    }
}

/// The host to resolve an app against: with a list of what must be installed, that list speaks for what is missing.
pub fn host_for(app: &Map<String, Value>) -> &'static dyn Host {
    let install = app.get("fornax").and_then(|block| block.get("install"));
    match install.and_then(Value::as_array) {
        Some(checks) if !checks.is_empty() => &InstalledHost,
        _ => &SystemHost,
    }
}
