//! `startup` and `unstartup`, and what the unit's main process does when systemd starts, watches, restarts and stops it.
//! No systemd runs here: a fake `systemctl` takes the commands, and a real socket the notifications.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::home::{kill, lives};
use support::{Home, eventually};

const LOOP: &str = "#!/bin/bash\necho up\nwhile true; do sleep 0.05; done\n";

/// A machine whose init systems are files: their commands are written down.
struct Machine {
    home: Home,
    path: String,
}

impl Machine {
    fn new() -> Self {
        let home = Home::new();
        let bin = home.apps().join("fake");
        std::fs::create_dir(&bin).unwrap();
        for program in [
            "systemctl",
            "update-rc.d",
            "chkconfig",
            "rc-update",
            "rc-service",
        ] {
            home.app(
                &format!("fake/{program}"),
                "#!/bin/sh\nhere=$(dirname \"$0\")\necho \"$(basename \"$0\") $*\" >> \"$here/ran\"\n[ \"$1\" = list-jobs ] && cat \"$here/jobs\" 2>/dev/null\nexit 0\n",
            );
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        Self { home, path }
    }

    fn root(&self) -> PathBuf {
        self.home.apps().join("root")
    }

    fn run(&self, words: &[&str]) -> support::Ran {
        let root = self.root();
        let env = [
            ("PATH", self.path.as_str()),
            ("FORNAX_INIT_ROOT", root.to_str().unwrap()),
        ];
        self.home.run_with(words, &env)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn ran(&self) -> Vec<String> {
        let path = self.home.apps().join("fake/ran");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }

    fn jobs(&self, text: &str) {
        std::fs::write(self.home.apps().join("fake/jobs"), text).unwrap();
    }

    /// The unit's main process, as systemd starts it.
    fn start_unit(&self, socket: &Path, watchdog: Duration) -> Child {
        self.home
            .command(self.home.program(), &["systemd-unit"])
            .env("PATH", &self.path)
            .env("NOTIFY_SOCKET", socket)
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
            .env("FORNAX_UNIT", "pm2-test.service")
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }
}

/// systemd's end of the notifications.
struct Ear {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Ear {
    fn new(machine: &Machine) -> Self {
        let path = machine.home.apps().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(45)))
            .unwrap();
        Self { socket, path }
    }

    /// Waits for a word; those before it are passed over.
    fn until(&self, word: &str) -> String {
        loop {
            let mut buffer = [0; 512];
            let length = self
                .socket
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("`{word}` was not said: {error}"));
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if said.contains(word) {
                return said;
            }
        }
    }
}

fn code(child: &mut Child) -> Option<i32> {
    eventually("the unit's process ends", || child.try_wait().unwrap()).code()
}

#[test]
fn a_unit_is_written_enabled_and_taken_away_again() {
    let machine = Machine::new();
    let told = machine
        .run(&[
            "startup",
            "-u",
            "root",
            "--hp",
            "/srv/50% \"x\"",
            "--wait-ip",
        ])
        .ok();
    assert!(
        told.out.contains("[PM2] Init System found: systemd"),
        "{told:?}"
    );
    assert!(told.out.contains("$ pm2 save"), "{told:?}");
    let unit = machine.read("etc/systemd/system/pm2-root.service");
    for line in [
        "Type=notify".to_owned(),
        "WatchdogSec=120".to_owned(),
        "KillMode=process".to_owned(),
        "OOMPolicy=continue".to_owned(),
        "User=root".to_owned(),
        "Environment=\"PM2_HOME=/srv/50%% \\\"x\\\"/.pm2\"".to_owned(),
        "After=network-online.target".to_owned(),
        "WantedBy=network-online.target".to_owned(),
        format!(
            "ExecStart=\"{}\" systemd-unit",
            machine.home.program().display()
        ),
        format!("ExecReload=\"{}\" update", machine.home.program().display()),
    ] {
        assert!(unit.lines().any(|have| have == line), "{line} in {unit}");
    }
    assert!(!unit.contains("PIDFile"), "{unit}");
    assert_eq!(
        machine.ran(),
        ["systemctl daemon-reload", "systemctl enable pm2-root"]
    );
    let file = machine.root().join("etc/systemd/system/pm2-root.service");
    match Command::new("systemd-analyze")
        .arg("verify")
        .arg(&file)
        .output()
    {
        Ok(verified) => {
            let words = String::from_utf8_lossy(&verified.stderr).into_owned();
            let about_us: Vec<&str> = words
                .lines()
                .filter(|line| line.contains("pm2-root.service"))
                .collect();
            assert!(about_us.is_empty(), "{words}");
        }
        Err(_) => println!("NOT TESTED: systemd-analyze is not installed"),
    }
    machine
        .run(&["unstartup", "systemd", "-u", "root"])
        .ok()
        .says("Init file disabled.");
    assert!(!file.exists());
    assert_eq!(
        machine.ran(),
        [
            "systemctl stop pm2-root",
            "systemctl disable pm2-root",
            "systemctl daemon-reload"
        ]
    );
    machine
        .run(&["unstartup", "-u", "root"])
        .fails("does not exist");
    // Nothing of this wants a daemon.
    assert!(machine.home.processes().is_empty());
}

#[test]
fn other_init_systems_get_a_script_that_works_and_those_of_other_systems_are_explained() {
    let machine = Machine::new();
    let app = machine.home.app("a.sh", LOOP);
    machine.home.run(&["start", &app]).ok();
    machine.home.run(&["save"]).ok();
    machine.home.run(&["kill"]).ok();
    let user = fornax::cli::session::user_name();
    // PM2_HOME of the script is `<hp>/.pm2`.
    let hp = machine.home.root().parent().unwrap().join("hp");
    std::fs::create_dir(&hp).unwrap();
    std::os::unix::fs::symlink(machine.home.root(), hp.join(".pm2")).unwrap();
    for (system, commands) in [
        ("upstart", vec!["update-rc.d abcdef defaults"]),
        (
            "systemv",
            vec!["chkconfig --add abcdef", "chkconfig abcdef on"],
        ),
    ] {
        let words = ["startup", system, "-u", &user, "--hp", hp.to_str().unwrap()];
        machine
            .run(&[&words[..], &["--service-name", "abcdef"]].concat())
            .ok();
        assert_eq!(machine.ran(), commands);
        let script = machine.root().join("etc/init.d/abcdef");
        let script_says = |verb: &str| {
            let ran = machine
                .home
                .command(&script, &[verb])
                .env_remove("PM2_HOME")
                .output()
                .unwrap();
            (
                ran.status.code(),
                String::from_utf8_lossy(&ran.stdout).into_owned(),
            )
        };
        assert_eq!(script_says("start").0, Some(0));
        assert_eq!(machine.home.status("a"), "online");
        let (code, said) = script_says("status");
        assert!(code == Some(0) && said.contains("online"), "{said}");
        let pid = machine.home.pid("a");
        assert_eq!(script_says("reload").0, Some(0));
        assert_eq!(machine.home.pid("a"), pid);
        assert_eq!(script_says("stop").0, Some(0));
        assert!(!lives(pid));
        assert_eq!(script_says("dance").0, Some(2));
        machine
            .run(&["unstartup", system, "--service-name", "abcdef"])
            .ok();
        assert!(!script.exists());
        machine.ran();
    }
    machine.run(&["startup", "openrc", "-u", "root"]).ok();
    assert_eq!(machine.ran(), ["rc-update add pm2 default"]);
    assert!(machine.read("etc/init.d/pm2").contains("openrc-run"));
    machine
        .run(&["startup", "launchd"])
        .fails("init system of macOS");
    machine
        .run(&["startup", "dos"])
        .fails("Unknown platform / init system name");
    machine
        .run(&["startup", "systemd", "-u", "a;b", "--hp", "/x"])
        .fails("is no name of a user");
}

#[test]
fn whoever_is_not_root_is_told_the_line_to_type() {
    let machine = Machine::new();
    let mut command = machine
        .home
        .command("setpriv".as_ref(), &["--reuid=65534", "--clear-groups"]);
    let ran = command
        .arg(machine.home.program())
        .args(["startup", "systemd"])
        .env("PATH", &machine.path)
        .env("USER", "nobody")
        .output();
    let reachable = Command::new("setpriv")
        .args(["--reuid=65534", "--clear-groups"])
        .arg(machine.home.program())
        .arg("--version")
        .output()
        .is_ok_and(|ran| ran.status.success());
    if !reachable {
        println!("NOT TESTED: wants root, setpriv, and a program that others may run");
        return;
    }
    let ran = ran.unwrap();
    let out = String::from_utf8_lossy(&ran.stdout);
    assert_eq!(ran.status.code(), Some(1));
    let line = out.lines().last().unwrap();
    assert!(line.starts_with("sudo env PATH=$PATH:/"), "{out}");
    let home = format!(" PM2_HOME={} ", machine.home.root().display());
    assert!(line.contains(&home), "{out}");
    assert!(line.ends_with(" startup systemd -u nobody"), "{out}");
}

#[test]
fn the_unit_resurrects_says_that_it_is_ready_and_restarts_without_restarting_an_app() {
    let machine = Machine::new();
    let ear = Ear::new(&machine);
    let app = machine.home.app("a.sh", LOOP);
    machine.home.run(&["start", &app]).ok();
    machine.home.run(&["save"]).ok();
    machine.home.run(&["kill"]).ok();
    let second = Duration::from_secs(1);
    let mut unit = machine.start_unit(&ear.path, second);
    assert!(ear.until("READY=1").contains("supervising 1 processes"));
    ear.until("WATCHDOG=1");
    let pid = machine.home.pid("a");
    // Neither the daemon nor the app is to talk to systemd.
    for process in machine.home.processes() {
        let environ = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        let environ = String::from_utf8_lossy(&environ).into_owned();
        assert!(
            process == unit.id() || !environ.contains("NOTIFY_SOCKET"),
            "{process}"
        );
    }
    // The keeper's death is not the unit's.
    let keeper =
        std::fs::read_to_string(format!("/proc/{}/stat", machine.home.daemon_pid().unwrap()));
    let keeper = keeper.unwrap();
    let keeper = keeper.rsplit(')').next().unwrap().split_whitespace().nth(1);
    let first_daemon = machine.home.daemon_pid();
    kill(keeper.unwrap().parse().unwrap(), 9);
    eventually("another daemon is there", || {
        (machine.home.daemon_pid() != first_daemon).then_some(())
    });
    ear.until("WATCHDOG=1");
    assert_eq!(machine.home.pid("a"), pid);

    machine.jobs("  17 pm2-test.service restart running\n");
    kill(unit.id(), 15);
    ear.until("STOPPING=1");
    assert_eq!(code(&mut unit), Some(0));
    assert!(lives(pid));
    let mut unit = machine.start_unit(&ear.path, second);
    ear.until("READY=1");
    assert_eq!(
        machine.home.pid("a"),
        pid,
        "a restarted unit restarted an app"
    );

    machine.jobs("  18 pm2-test.service stop running\n");
    kill(unit.id(), 15);
    ear.until("STOPPING=1");
    assert_eq!(code(&mut unit), Some(0));
    assert!(!lives(pid));
    assert_eq!(machine.home.daemon_pid(), None);

    // What a person ends, systemd does not bring back: a success is no failure.
    let mut unit = machine.start_unit(&ear.path, second);
    ear.until("READY=1");
    machine.home.run(&["kill"]).ok();
    assert_eq!(code(&mut unit), Some(0));
}

#[test]
fn a_daemon_that_is_stuck_is_replaced_and_its_apps_live_on() {
    let machine = Machine::new();
    let ear = Ear::new(&machine);
    let app = machine.home.app("a.sh", LOOP);
    machine.home.run(&["start", &app]).ok();
    let pid = machine.home.pid("a");
    let mut unit = machine.start_unit(&ear.path, Duration::from_secs(2));
    ear.until("READY=1");
    let stuck = machine.home.daemon_pid().unwrap();
    kill(stuck, 19);
    eventually("another daemon is there", || {
        machine
            .home
            .daemon_pid()
            .is_some_and(|pid| pid != stuck)
            .then_some(())
    });
    ear.until("WATCHDOG=1");
    assert_eq!(machine.home.pid("a"), pid);
    kill(unit.id(), 15);
    assert_eq!(code(&mut unit), Some(0));
    assert!(!lives(pid));
}
