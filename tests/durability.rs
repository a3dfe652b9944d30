//! What is on disk survives: writers killed at any moment, full disks, broken files, and dumps that real PM2 has written.

#![allow(clippy::unwrap_used)]

mod support;

use fornax::pm2::client::Client;
use fornax::sys::files::{self, Readers};
use fornax::sys::versions::Versioned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::disk::SmallDisk;
use support::home::{kill, lives};
use support::{Home, eventually};

const APP: &str = "#!/bin/bash\nexec sleep 1000\n";
/// Apps that are there from the beginning and are never deleted.
const PINNED: usize = 8;

/// A small generator (xorshift), so that a run can be repeated with its seed.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::env::var("FORNAX_SEED")
            .ok()
            .and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 2_654_435_761 + 1);
        println!("FORNAX_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// How many kills: `FORNAX_KILLS`, else so many.
fn kills(default: usize) -> usize {
    let asked = std::env::var("FORNAX_KILLS")
        .ok()
        .and_then(|text| text.parse().ok());
    asked.unwrap_or(default)
}

fn names(records: &[Value]) -> BTreeSet<String> {
    let name = |record: &Value| record["name"].as_str().unwrap().to_owned();
    records.iter().map(name).collect()
}

fn files_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

// ---- the writer alone

const WRITER_FOLDER: &str = "FORNAX_TEST_WRITER_FOLDER";

/// Lines that can be told whole from half: all of one number, and as many as it says.
fn content(number: u64) -> String {
    let lines = 200 + (number % 7) * 300;
    format!(
        "{lines}\n{}",
        format!("{number}\n").repeat(usize::try_from(lines).unwrap())
    )
}

fn number_in(bytes: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let (lines, rest) = text.split_once('\n').ok_or("no first line")?;
    let numbers: BTreeSet<&str> = rest.lines().collect();
    match (numbers.len(), rest.lines().count().to_string() == lines) {
        (1, true) => rest
            .lines()
            .next()
            .unwrap()
            .parse()
            .map_err(|_| "no number".to_owned()),
        (kinds, whole) => Err(format!("{kinds} kinds of lines, all there: {whole}")),
    }
}

fn versioned(folder: &Path) -> Versioned {
    Versioned::triple(folder.join("state"), folder.join("state.bak"))
}

#[test]
#[ignore = "the process that `a_writer_killed_at_any_moment_leaves_whole_files` kills"]
fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(WRITER_FOLDER) else {
        println!("to be started by another test only");
        return;
    };
    let file = versioned(Path::new(&folder));
    let mut number = file.read(number_in).version.map_or(0, |(number, _)| number);
    loop {
        number += 1;
        let writing = file.lock(Duration::from_secs(10)).unwrap();
        let text = content(number);
        writing
            .replace(text.as_bytes(), Readers::Owner, |old| {
                number_in(old).map(drop)
            })
            .unwrap();
        drop(writing);
        files::replace(
            &Path::new(&folder).join("acknowledged"),
            number.to_string().as_bytes(),
            Readers::Owner,
        )
        .unwrap();
    }
}

#[test]
fn a_writer_killed_at_any_moment_leaves_whole_files() {
    let kills = kills(200);
    let mut dice = Dice::new();
    let folder = tempfile::tempdir().unwrap();
    let file = versioned(folder.path());
    let acknowledged = || {
        let text = std::fs::read_to_string(folder.path().join("acknowledged"));
        text.map_or(0, |text| text.parse::<u64>().expect("whole"))
    };
    let mut moments = BTreeSet::new();
    for turn in 0..kills {
        let before = acknowledged();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "writes_until_it_is_killed",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(WRITER_FOLDER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Most kills fall while it writes, some while it starts.
        if turn % 10 != 0 {
            eventually("the writer writes", || {
                (acknowledged() > before).then_some(())
            });
        }
        std::thread::sleep(Duration::from_micros(dice.below(2_500)));
        child.kill().unwrap();
        child.wait().unwrap();
        moments.insert(
            files_in(folder.path())
                .join(" ")
                .replace(|c: char| c.is_ascii_digit(), ""),
        );
        let found = file.read(number_in);
        assert!(found.broken.is_empty(), "{:?}", found.broken);
        let known = acknowledged();
        if known > 0 {
            let (number, from) = found.version.expect("there is a version");
            assert_eq!(from, file.path(), "the file itself is always there");
            // Later ones than the last known were written and not acknowledged, one for each kill at the worst.
            assert!(number >= known, "{number} after {known}");
        }
    }
    println!(
        "{kills} kills, {} versions, moments seen: {moments:#?}",
        acknowledged()
    );
    assert!(moments.len() > 2, "the kills fell at different moments");
    let writing = file.lock(Duration::ZERO).unwrap();
    let text = content(1);
    writing
        .replace(text.as_bytes(), Readers::Owner, |old| {
            number_in(old).map(drop)
        })
        .unwrap();
    files::replace(&folder.path().join("acknowledged"), b"1", Readers::Owner).unwrap();
    let left = files_in(folder.path());
    assert!(!left.iter().any(|name| name.ends_with(".tmp")), "{left:?}");
}

// ---- the whole program

/// What `prepare` takes.
fn conf(name: &str, script: &str, autostart: bool) -> Value {
    let folder = Path::new(script).parent().unwrap();
    json!({
        "name": name, "pm_exec_path": script, "exec_interpreter": "none", "exec_mode": "fork_mode",
        "pm_cwd": folder, "autostart": autostart, "namespace": "default",
        "pm_out_log_path": "/dev/null", "pm_err_log_path": "/dev/null",
        "pm_pid_path": folder.join(format!("{name}.pid")),
        // By this its processes are known as this test's.
        "env": {"PM2_HOME": folder.parent().unwrap().join("pm2")},
    })
}

fn client(home: &Home) -> Option<Client> {
    Client::connect(&home.root().join("rpc.sock")).ok()
}

fn prepare(client: &mut Client, conf: Value) -> Option<u64> {
    let made: Value = client.call("prepare", &[conf]).ok()?;
    made[0]["pm2_env"]["pm_id"].as_u64()
}

/// `save` by the command, in a process that may be killed.
struct Savers<'a> {
    home: &'a Home,
    at_work: Mutex<Vec<u32>>,
    saved: AtomicU64,
}

impl Savers<'_> {
    /// `true`: the command has said that the list is saved. With nothing to save it succeeds, too.
    fn save(&self) -> bool {
        let mut command = self.home.command(self.home.program(), &["save"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child: Child = command.spawn().unwrap();
        self.at_work.lock().unwrap().push(child.id());
        // Not under the lock: the kill is to fall while it works. The pid is taken out before it is reaped.
        let mut said = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        self.at_work
            .lock()
            .unwrap()
            .retain(|pid| *pid != child.id());
        child.wait().unwrap();
        let saved = said.contains("Successfully saved");
        self.saved.fetch_add(u64::from(saved), Ordering::Relaxed);
        saved
    }

    fn kill_one(&self, dice: &mut Dice) -> bool {
        let at_work = self.at_work.lock().unwrap();
        let Some(pid) = at_work.get(usize::try_from(dice.below(4)).unwrap() % at_work.len().max(1))
        else {
            return false;
        };
        kill(*pid, 9);
        true
    }
}

/// What the clients share with the one who kills.
#[derive(Default)]
struct Traffic {
    /// The latest mark that a save has been told of; 0: none.
    floor: AtomicU64,
    /// How many commands are under way.
    busy: AtomicU64,
    pause: AtomicBool,
    stop: AtomicBool,
    /// How often the apps have been brought back. A client whose connection has broken makes a new one after that, as a
    /// person would: in a daemon that a saver has started meanwhile, with an empty list, it would begin a list of its own.
    revived: AtomicU64,
}

/// A client's connection, from one revival to the next.
#[derive(Default)]
struct Connection {
    client: Option<Client>,
    of: Option<u64>,
}

impl Connection {
    fn get(&mut self, home: &Home, traffic: &Traffic) -> Option<&mut Client> {
        let revived = traffic.revived.load(Ordering::SeqCst);
        if self.of != Some(revived) {
            *self = Self {
                client: client(home),
                of: Some(revived),
            };
        }
        self.client.as_mut()
    }
}

impl Traffic {
    /// Takes turns until it is told to stop; none while there is a pause. `None`: the daemon was killed meanwhile.
    fn turns(&self, mut turn: impl FnMut() -> Option<()>) {
        while !self.stop.load(Ordering::SeqCst) {
            self.busy.fetch_add(1, Ordering::SeqCst);
            if self.pause.load(Ordering::SeqCst) || turn().is_none() {
                self.busy.fetch_sub(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(1));
            } else {
                self.busy.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    fn run(&self, script: &str, savers: &Savers<'_>) {
        let home = savers.home;
        std::thread::scope(|scope| {
            for who in 0..2 {
                // Starts and deletes, and lets somebody else save.
                scope.spawn(move || {
                    let mut connection = Connection::default();
                    self.turns(|| {
                        let client = connection.get(home, self)?;
                        let id = prepare(client, conf(&format!("churn-{who}"), script, true))?;
                        let deleted = client.call::<Value>("deleteProcessId", &[json!(id)]);
                        deleted.ok().map(drop)
                    });
                });
            }
            scope.spawn(|| self.turns(|| savers.save().then_some(())));
            // Starts an app, saves, and from then on it must be in the dump until the next one is.
            scope.spawn(|| {
                let (mut number, mut connection) = (1, Connection::default());
                self.turns(|| {
                    let client = connection.get(home, self)?;
                    let id = prepare(client, conf(&format!("mark-{number}"), script, false))?;
                    if savers.save() {
                        self.floor.store(number, Ordering::SeqCst);
                        delete_other_marks(client, id)?;
                    }
                    number += 1;
                    Some(())
                });
            });
        });
    }
}

/// By their names: after a resurrection ids are others.
fn delete_other_marks(client: &mut Client, latest: u64) -> Option<()> {
    let list: Vec<Value> = client.call("getMonitorData", &[json!({})]).ok()?;
    for item in list {
        if item["name"].as_str()?.starts_with("mark-") && item["pm_id"] != latest {
            let id = item["pm_id"].clone();
            client.call::<Value>("deleteProcessId", &[id]).ok()?;
        }
    }
    Some(())
}

fn dumped(home: &Home) -> Vec<Value> {
    let bytes = std::fs::read(home.root().join("dump.pm2")).unwrap();
    serde_json::from_slice(&bytes).expect("the dump is whole")
}

fn check_dump(home: &Home, floor: u64) {
    let names = names(&dumped(home));
    for pinned in 0..PINNED {
        assert!(
            names.contains(&format!("pinned-{pinned}")),
            "lost: {names:?}"
        );
    }
    let marks = names
        .iter()
        .filter_map(|name| name.strip_prefix("mark-")?.parse::<u64>().ok());
    let latest = marks.max().unwrap_or(0);
    assert!(
        latest >= floor,
        "mark-{floor} was saved, and the dump has {latest}"
    );
    let broken = files_in(&home.root())
        .into_iter()
        .filter(|name| name.contains("broken"));
    assert_eq!(broken.count(), 0);
}

/// What a killed daemon has left running and no daemon knows.
fn end_orphans(home: &Home) {
    let known: BTreeSet<u64> = home
        .list()
        .iter()
        .filter_map(|item| item["pid"].as_u64())
        .collect();
    for pid in home.processes() {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let is_app = environ
            .split(|byte| *byte == 0)
            .any(|variable| variable.starts_with(b"FORNAX_INSTANCE="));
        if is_app && !known.contains(&u64::from(pid)) {
            kill(pid, 9);
        }
    }
}

#[test]
fn no_saved_app_is_lost_when_daemon_and_savers_are_killed_amid_traffic() {
    let kills = kills(40);
    let mut dice = Dice::new();
    // Without a keeper, which would wait ever longer between daemons, and bring the list back: this is the harder case.
    let home = Home::with(&[("FORNAX_NO_KEEPER", "1")]);
    let script = home.app("app.sh", APP);
    home.run(&["ping"]).ok();
    let mut rpc = client(&home).unwrap();
    for pinned in 0..PINNED {
        prepare(&mut rpc, conf(&format!("pinned-{pinned}"), &script, false)).unwrap();
    }
    home.run(&["save"]).ok();
    let savers = Savers {
        home: &home,
        at_work: Mutex::default(),
        saved: AtomicU64::new(0),
    };
    let traffic = Traffic::default();
    let floor = || traffic.floor.load(Ordering::SeqCst);
    let (mut of_daemon, mut of_savers) = (0, 0);
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| traffic.run(&script, &savers));
        let violence = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while of_daemon + of_savers < kills {
                std::thread::sleep(Duration::from_micros(dice.below(40_000)));
                if of_savers > 0 && (of_daemon + of_savers) % 100 == 0 {
                    println!("{of_daemon} daemons and {of_savers} savers killed");
                }
                if dice.below(4) != 0 {
                    of_savers += usize::from(savers.kill_one(&mut dice));
                    check_dump(&home, floor());
                    continue;
                }
                let pid = home.daemon_pid().expect("a daemon runs");
                kill(pid, 9);
                of_daemon += 1;
                traffic.pause.store(true, Ordering::SeqCst);
                eventually("no command is under way", || {
                    (traffic.busy.load(Ordering::SeqCst) == 0).then_some(())
                });
                check_dump(&home, floor());
                // A zombie is not enough: its other threads may still hold its socket open.
                eventually("the daemon has gone", || {
                    (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
                });
                home.run(&["resurrect"]).ok();
                let (listed, saved) = (names(&home.list()), names(&dumped(&home)));
                assert!(
                    saved.is_subset(&listed),
                    "saved {saved:?}, back are {listed:?}"
                );
                end_orphans(&home);
                traffic.revived.fetch_add(1, Ordering::SeqCst);
                traffic.pause.store(false, Ordering::SeqCst);
            }
        }));
        traffic.stop.store(true, Ordering::SeqCst);
        clients.join().unwrap();
        violence.unwrap();
    });
    println!(
        "{of_daemon} daemons and {of_savers} savers killed, {} saves, mark {}",
        savers.saved.load(Ordering::Relaxed),
        floor()
    );
    assert!(savers.saved.load(Ordering::Relaxed) > 0);
    end_orphans(&home);
    // The next save clears away what the killed ones have left.
    home.run(&["save"]).ok();
    let left: Vec<String> = files_in(&home.root())
        .into_iter()
        .filter(|name| name.ends_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    check_dump(&home, floor());
}

#[test]
fn a_full_disk_keeps_the_last_good_save() {
    let home = Home::new();
    let Some(disk) = SmallDisk::mount(&home.root(), "512k") else {
        return;
    };
    let script = home.app("app.sh", APP);
    home.run(&["ping"]).ok();
    let mut rpc = client(&home).unwrap();
    let first = prepare(&mut rpc, conf("first", &script, true)).unwrap();
    home.run(&["save"]).ok();
    let before = std::fs::read(home.root().join("dump.pm2")).unwrap();
    let ballast = disk.fill();
    prepare(&mut rpc, conf("second", &script, true)).unwrap();
    home.run(&["save"])
        .fails("No space left on device")
        .says("is kept");
    home.run(&["set", "a:b", "c"])
        .fails("No space left on device");
    assert_eq!(std::fs::read(home.root().join("dump.pm2")).unwrap(), before);
    // The apps do not notice, and the end of the daemon loses nothing either.
    assert_eq!(
        (home.status("first"), home.status("second")),
        ("online".into(), "online".into())
    );
    let daemon = home.daemon_pid().unwrap();
    drop(rpc);
    kill(daemon, 15);
    eventually("the daemon has ended", || (!lives(daemon)).then_some(()));
    assert_eq!(std::fs::read(home.root().join("dump.pm2")).unwrap(), before);
    assert!(
        !files_in(&home.root())
            .iter()
            .any(|name| name.ends_with(".tmp"))
    );
    std::fs::remove_file(ballast).unwrap();
    home.run(&["resurrect"]).ok();
    assert_eq!(home.item("first")["pm_id"], first);
    home.run(&["save"]).ok();
    home.run(&["kill"]).ok();
    drop(disk);
}

#[test]
fn a_broken_dump_is_kept_aside_and_the_one_before_it_is_used() {
    let home = Home::new();
    let script = home.app("app.sh", APP);
    home.run(&["start", &script, "--name", "one"]).ok();
    home.run(&["save"]).ok();
    home.run(&["start", &script, "--name", "two"]).ok();
    home.run(&["save"]).ok();
    home.run(&["start", &script, "--name", "three"]).ok();
    home.run(&["save"]).ok();
    home.run(&["delete", "all"]).ok();
    // An empty list replaces no full one.
    home.run(&["save"]).ok().says("skipping save");
    home.run(&["kill"]).ok();
    let dump = home.root().join("dump.pm2");
    let whole = std::fs::read(&dump).unwrap();
    std::fs::write(&dump, &whole[..whole.len() / 2]).unwrap();
    let ran = home.run(&["resurrect"]).ok().says("dump.pm2.bak");
    assert!(
        ran.err.contains("Failed to read dump file") && ran.err.contains("dump.pm2.broken-"),
        "{ran:?}"
    );
    assert_eq!(names(&home.list()), ["one", "two"].map(String::from).into());
    let aside = files_in(&home.root())
        .into_iter()
        .find(|name| name.starts_with("dump.pm2.broken-"))
        .unwrap();
    assert_eq!(
        std::fs::read(home.root().join(aside)).unwrap(),
        &whole[..whole.len() / 2]
    );
    // The broken one gone, both others are still there: one of them is the third.
    home.run(&["delete", "all"]).ok();
    std::fs::write(home.root().join("dump.pm2.bak"), "{}").unwrap();
    home.run(&["resurrect"]).ok().says("dump.pm2.bak.1");
    assert_eq!(names(&home.list()), ["one"].map(String::from).into());
}

#[test]
fn a_save_over_a_broken_dump_keeps_both_it_and_the_good_one_before() {
    let home = Home::new();
    let script = home.app("app.sh", APP);
    home.run(&["start", &script, "--name", "one"]).ok();
    home.run(&["save"]).ok();
    home.run(&["save"]).ok();
    std::fs::write(home.root().join("dump.pm2"), "[{").unwrap();
    let ran = home.run(&["save"]).ok();
    assert!(ran.err.contains("dump.pm2.broken-"), "{ran:?}");
    for name in ["dump.pm2", "dump.pm2.bak"] {
        let records: Vec<Value> = serde_json::from_str(&home.read(name)).unwrap();
        assert_eq!(names(&records), ["one"].map(String::from).into());
    }
}

#[test]
fn broken_settings_are_kept_aside_and_the_ones_before_are_used() {
    let home = Home::new();
    home.run(&["set", "mod:a", "1"]).ok();
    home.run(&["set", "mod:b", "2"]).ok();
    std::fs::write(home.root().join("module_conf.json"), "{\"mod\": ").unwrap();
    let ran = home.run(&["get", "mod:a"]).ok().says("1");
    assert!(ran.err.contains("module_conf.json.broken-"), "{ran:?}");
    home.run(&["set", "mod:c", "3"]).ok();
    let conf: Value = serde_json::from_str(&home.read("module_conf.json")).unwrap();
    assert_eq!(conf["mod"], json!({"a": "1", "c": "3"}));
}

#[test]
fn many_settings_at_once_are_all_kept() {
    let home = Home::new();
    let runs: Vec<_> = (0..12)
        .map(|n| {
            home.command(home.program(), &["set", &format!("mod:k{n}"), "x"])
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    let conf: Value = serde_json::from_str(&home.read("module_conf.json")).unwrap();
    assert_eq!(conf["mod"].as_object().unwrap().len(), 12, "{conf}");
}

#[test]
fn a_dump_that_real_pm2_has_written_is_resurrected() {
    let home = Home::new();
    home.app(
        "w.sh",
        "#!/bin/bash\necho \"worker $1 $KEEP\"\nexec sleep 1000\n",
    );
    home.app("a.js", "setInterval(() => {}, 1000)\n");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state/pm2-7.0.4.dump");
    let text = std::fs::read_to_string(fixture).unwrap();
    let apps: PathBuf = home.apps();
    let text = text
        .replace("<APPS>", apps.to_str().unwrap())
        .replace("<HOME>", home.root().to_str().unwrap())
        .replace("<USER>", apps.to_str().unwrap());
    std::fs::create_dir_all(home.root()).unwrap();
    std::fs::write(home.root().join("dump.pm2"), text).unwrap();
    let ran = home.run(&["resurrect"]).ok();
    assert!(ran.err.is_empty(), "{ran:?}");
    assert_eq!(home.status("idle"), "stopped");
    home.until_status("worker", "online");
    home.until_file_has("logs/worker-out.log", "worker --x w");
    let items = home.list();
    let web: Vec<&Value> = items.iter().filter(|item| item["name"] == "web").collect();
    let numbers: BTreeSet<u64> = web
        .iter()
        .map(|item| item["pm2_env"]["NODE_APP_INSTANCE"].as_u64().unwrap())
        .collect();
    assert_eq!((web.len(), numbers), (2, [0, 1].into()));
    for item in web {
        assert_eq!(
            (&item["pm2_env"]["KEEP"], &item["pm2_env"]["exec_mode"]),
            (&json!("yes"), &json!("cluster_mode"))
        );
    }
    assert_eq!(home.item("worker")["pm2_env"]["max_restarts"], 7);
    // Saved by us it holds the same apps.
    home.run(&["save"]).ok();
    assert_eq!(
        names(&dumped(&home)),
        ["idle", "web", "worker"].map(String::from).into()
    );
}
