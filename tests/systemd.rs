//! Our unit under a real systemd: it runs as process 1 of namespaces of its own, over unit files that nobody else sees.
//! Where that can't be had (no root, no systemd, no namespaces) it is printed that nothing was shown.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use support::{Home, eventually};

const SYSTEMD: &str = "/lib/systemd/systemd";
/// Units that ours and systemd's defaults name. Only they exist: nothing of this machine is set up or cleaned.
const TARGETS: [&str; 8] = [
    "test",
    "sysinit",
    "basic",
    "shutdown",
    "network",
    "multi-user",
    "umount",
    "final",
];
const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount --bind "$1" /etc/systemd/system
exec env -i PATH="$PATH" container=other SYSTEMD_UNIT_PATH=/etc/systemd/system "$2" --system --unit=test.target --log-target=console --log-level=notice
"#;
const LOOP: &str = "#!/bin/bash\nn=0\nwhile true; do echo line $((n++)); sleep 0.05; done\n";

/// A running systemd. It ends, with all below it, when this is dropped.
struct Machine {
    unshare: Child,
    pid: u32,
}

impl Machine {
    fn boot(units: &Path) -> Option<Self> {
        for target in TARGETS {
            let text = format!("[Unit]\nDescription={target}\nDefaultDependencies=no\n");
            std::fs::write(units.join(format!("{target}.target")), text).unwrap();
        }
        let spaces = [
            "-p",
            "-m",
            "-C",
            "-u",
            "-i",
            "-f",
            "--mount-proc",
            "--kill-child",
        ];
        let unshare = Command::new("unshare")
            .args(spaces)
            .args(["bash", "-c", BOOT, "boot"])
            .args([units, Path::new(SYSTEMD)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut machine = Self { unshare, pid: 0 };
        let own = machine.unshare.id();
        eventually("systemd answers, or will not run here", || {
            if machine.unshare.try_wait().unwrap().is_some() {
                return Some(());
            }
            let path = format!("/proc/{own}/task/{own}/children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            machine.pid = children.trim().parse().ok()?;
            let asked = machine.within(&["systemctl", "is-system-running"]).output();
            let state = String::from_utf8_lossy(&asked.ok()?.stdout).into_owned();
            (state.trim() == "running").then_some(())
        });
        machine
            .unshare
            .try_wait()
            .unwrap()
            .is_none()
            .then_some(machine)
    }

    fn within(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.pid.to_string(), "-p", "-m", "-C", "-u", "-i"])
            .args(words)
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn systemctl(&self, words: &[&str]) -> String {
        let Output {
            status,
            stdout,
            stderr,
        } = self
            .within(&[&["systemctl"], words].concat())
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr),
        );
        assert!(status.success(), "systemctl {words:?}: {out}{err}");
        out.trim().to_owned()
    }

    fn property(&self, name: &str) -> String {
        self.systemctl(&["show", "-p", name, "--value", "ours"])
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its first process takes all others with it.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// `pm2` in a home, within the machine.
struct Inside<'a> {
    machine: &'a Machine,
    home: &'a Home,
}

impl Inside<'_> {
    #[track_caller]
    fn pm2(&self, words: &[&str]) -> String {
        let home = format!("PM2_HOME={}", self.home.root().display());
        let program = self.home.program().to_str().unwrap();
        let line = [
            &["env", &home, "FORNAX_HTTP=off", "USER=root", program],
            words,
        ]
        .concat();
        let ran = self.machine.within(&line).output().unwrap();
        let out = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(
            ran.status.success(),
            "{words:?}: {out}{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        out
    }

    /// As they are within.
    fn pids(&self) -> Vec<String> {
        ["a", "b"]
            .map(|name| self.pm2(&["pid", name]).trim().to_owned())
            .to_vec()
    }
}

fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("only root may make namespaces with a systemd in them");
    }
    let there = |path: &str| PathBuf::from(path).exists();
    (!there(SYSTEMD) || !there("/etc/systemd/system")).then_some("systemd is not installed")
}

#[test]
fn under_systemd_a_restart_and_a_reload_of_the_unit_restart_no_app() {
    if let Some(why) = missing() {
        return println!("NOT RUN: {why}");
    }
    let home = Home::new();
    let units = home.apps().join("units");
    std::fs::create_dir(&units).unwrap();
    let Some(machine) = Machine::boot(&units) else {
        return println!("NOT RUN: systemd does not start in namespaces here");
    };
    let inside = Inside {
        machine: &machine,
        home: &home,
    };
    let said = inside.pm2(&["startup", "systemd", "--service-name", "ours"]);
    assert!(units.join("ours.service").is_file(), "{said}");
    machine.systemctl(&["start", "ours"]);
    let app = home.app("a.sh", LOOP);
    for name in ["a", "b"] {
        inside.pm2(&["start", &app, "--name", name]);
    }
    inside.pm2(&["save"]);
    let pids = inside.pids();
    let watcher = machine.property("MainPID");

    machine.systemctl(&["restart", "ours"]);
    assert_eq!(inside.pids(), pids);
    assert_ne!(machine.property("MainPID"), watcher);
    machine.systemctl(&["reload", "ours"]);
    assert_eq!(inside.pids(), pids);
    assert_eq!(machine.systemctl(&["is-active", "ours"]), "active");

    // The watcher is killed: systemd brings it back, and nothing else has changed.
    machine.systemctl(&["kill", "--kill-who=main", "-s", "KILL", "ours"]);
    eventually("the watcher is back", || {
        let now = [
            machine.property("NRestarts"),
            machine.property("ActiveState"),
        ];
        (now == ["1", "active"]).then_some(())
    });
    assert_eq!(inside.pids(), pids);

    // Stopped, nothing is left of it in the unit's group; started, what was saved is there.
    machine.systemctl(&["stop", "ours"]);
    assert_eq!(machine.property("ActiveState"), "inactive");
    eventually("no process of the home is left", || {
        home.processes().is_empty().then_some(())
    });
    machine.systemctl(&["start", "ours"]);
    let again = inside.pids();
    assert!(again.iter().all(|pid| !pids.contains(pid)), "{again:?}");
    inside.pm2(&["unstartup", "systemd", "--service-name", "ours"]);
    assert!(!units.join("ours.service").exists());
}
