//! GPUs against the real system: leases between real processes, and NVML against a stand-in library.

// Helpers of tests may unwrap as tests do; clippy.toml reaches only the test functions themselves.
#![allow(clippy::unwrap_used)]

use fornax::core::units::Bytes;
use fornax::gpu::inventory::{detect, simulated};
use fornax::gpu::lease::{self, Lease, LeaseError, Owner};
use fornax::gpu::{nvml, render};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const UUID: &str = "GPU-11111111-2222-3333-4444-555555555555";

fn owner(app: &str) -> Owner {
    Owner::this_process("/home/someone/.pm2", app)
}

/// A process that holds the lock of `UUID` and is killed when the test ends, however it ends.
struct Holder(Child);

impl Holder {
    /// Holds it with util-linux's `flock`, leaving `note` in the file. `{pid}` and `{start}` are the holder's own.
    fn start(dir: &Path, note: &str) -> Self {
        let path = dir.join(format!("{UUID}.lock"));
        let source = dir.join("note");
        std::fs::write(&source, note).unwrap();
        let script = r#"
            exec 9<>"$0" && flock -n 9 || exit 1
            start=$(sed 's/.*) //' /proc/$$/stat | cut -d' ' -f20)
            sed "s/{pid}/$$/; s/{start}/$start/" "$1" > "$0"
            echo locked
            exec sleep 600
        "#;
        let mut child = Command::new("bash")
            .args(["-c", script])
            .args([&path, &source])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash is needed for this test");
        let mut line = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut line).unwrap();
        let holder = Self(child);
        assert_eq!(line, "locked\n", "this test needs util-linux's flock");
        holder
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn kill_hard(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const NOTE: &str = r#"{"pid":{pid},"start_time":{start},"holder":"/home/alice/.pm2","app":"comfyui-gpu0","since":1}"#;

#[test]
fn a_gpu_held_by_another_process_is_refused_in_words_that_name_it() {
    let dir = tempfile::tempdir().unwrap();
    let holder = Holder::start(dir.path(), NOTE);
    let error = Lease::acquire(dir.path(), UUID, &owner("mine")).unwrap_err();
    assert!(matches!(&error, LeaseError::Held { pid, .. } if *pid == holder.pid()));
    assert_eq!(
        error.to_string(),
        format!(
            "GPU {UUID} is leased to app comfyui-gpu0 of the daemon in /home/alice/.pm2 (pid {}); stop that app \
             first, or give this one another GPU",
            holder.pid()
        )
    );
    let seen = lease::owner(dir.path(), UUID).unwrap();
    assert_eq!(
        (seen.app.as_str(), seen.pid),
        ("comfyui-gpu0", holder.pid())
    );
}

#[test]
fn a_lease_dies_with_a_holder_that_is_killed_and_its_note_counts_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = Holder::start(dir.path(), NOTE);
    assert!(Lease::acquire(dir.path(), UUID, &owner("mine")).is_err());
    holder.kill_hard();
    let seen = lease::owner(dir.path(), UUID);
    assert_eq!(seen, None, "its note is still there, its writer is not");
    let lease = Lease::acquire(dir.path(), UUID, &owner("mine")).unwrap();
    assert_eq!(lease.uuid(), UUID);
    assert_eq!(lease::owner(dir.path(), UUID).unwrap().app, "mine");
}

#[test]
fn a_holder_without_a_readable_note_is_not_given_somebody_elses_name() {
    let dead = r#"{"pid":1,"start_time":1,"holder":"/h","app":"long-gone","since":1}"#;
    for note in ["", "not json", &NOTE[..20], dead, &"x".repeat(100_000)] {
        let dir = tempfile::tempdir().unwrap();
        let holder = Holder::start(dir.path(), note);
        let error = Lease::acquire(dir.path(), UUID, &owner("mine")).unwrap_err();
        match &error {
            LeaseError::HeldByStranger { pid, .. } => {
                assert!(pid.is_none_or(|pid| pid == holder.pid()), "{error}");
            }
            other => panic!("{other:?}"),
        }
        assert!(!error.to_string().contains("long-gone"), "{error}");
    }
}

#[test]
fn a_note_cannot_write_to_the_readers_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let note = NOTE.replace("comfyui", r"\u001b[2Jevil\n");
    let _holder = Holder::start(dir.path(), &note);
    let error = Lease::acquire(dir.path(), UUID, &owner("mine")).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("evil") && !text.contains('\x1b') && !text.contains('\n'),
        "{text:?}"
    );
}

#[test]
fn one_process_cannot_lease_a_gpu_twice_and_a_dropped_lease_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let first = Lease::acquire(dir.path(), UUID, &owner("one")).unwrap();
    let error = Lease::acquire(dir.path(), UUID, &owner("two")).unwrap_err();
    assert!(matches!(&error, LeaseError::Held { app, .. } if app == "one"));
    let other = Lease::acquire(dir.path(), "SIM-00-1", &owner("two"));
    other.expect("another GPU is another lease");
    drop(first);
    assert_eq!(lease::owner(dir.path(), UUID), None);
    Lease::acquire(dir.path(), UUID, &owner("two")).unwrap();
}

#[test]
fn a_uuid_that_is_a_path_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for uuid in ["", "../x", "a/b", "a.b", "GPU 1", "a\0b", &"a".repeat(97)] {
        let error = Lease::acquire(dir.path(), uuid, &owner("a")).unwrap_err();
        assert!(matches!(error, LeaseError::BadUuid { .. }), "{uuid:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_folder_is_made_for_every_user_and_the_variable_names_it() {
    let parent = tempfile::tempdir().unwrap();
    let wanted = parent.path().join("leases");
    let env = |name: &str| (name == lease::DIR_VARIABLE).then(|| wanted.clone().into_os_string());
    assert_eq!(lease::directory(&env).unwrap(), wanted);
    let mode = wanted.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);
    let link = parent.path().join("link");
    std::os::unix::fs::symlink(&wanted, &link).unwrap();
    let error = Lease::acquire(&link, UUID, &owner("a")).unwrap_err();
    assert!(
        matches!(error, LeaseError::Dir { .. }),
        "a link could point anywhere: {error}"
    );
    let nowhere = |_: &str| Some("/proc/no/such/folder".into());
    let error = lease::directory(&nowhere).unwrap_err().to_string();
    assert!(
        error.contains("/proc/no/such/folder") && error.contains("FORNAX_LEASE_DIR"),
        "{error}"
    );
}

/// Runs a shell command as another user than root. `None` (and a word) where that cannot be done.
fn as_nobody(command: &str) -> Option<String> {
    let tried = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "sh",
            "-c",
            command,
        ])
        .output();
    match tried {
        Ok(out) if !out.stderr.starts_with(b"setpriv") => {
            Some(String::from_utf8_lossy(&out.stdout).into_owned())
        }
        _ => {
            println!("NOT RUN: needs root and util-linux's setpriv to act as two users");
            None
        }
    }
}

#[test]
fn a_second_user_can_lock_what_the_first_left_and_cannot_remove_it() {
    let parent = tempfile::tempdir().unwrap();
    std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let dir = parent.path().join("leases");
    drop(Lease::acquire(&dir, UUID, &owner("root's")).unwrap());
    let ours = dir.join(format!("{UUID}.lock"));
    let theirs = dir.join("SIM-9.lock");
    let command = format!(
        "flock -n {0} echo locked; rm -f {0} 2>/dev/null || echo kept; echo x > {1} && echo made",
        ours.display(),
        theirs.display()
    );
    let Some(said) = as_nobody(&command) else {
        return;
    };
    assert_eq!(said, "locked\nkept\nmade\n");
    // The other way round: another user's file in a sticky folder, which the kernel guards against O_CREAT.
    let lease = Lease::acquire(&dir, "SIM-9", &owner("root's"));
    lease.expect("a file that another user made can be locked");
}

#[test]
fn without_a_driver_there_are_no_gpus_and_the_note_says_why() {
    let started = Instant::now();
    let inventory = nvml::detect(&["libfornax-no-such-library.so.1"]);
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    assert!(inventory.gpus.is_empty());
    let note = inventory.note.clone().unwrap();
    assert!(
        note.starts_with("no NVIDIA driver: ") && note.contains("libfornax-no-such-library"),
        "{note}"
    );
    assert!(render::table(&inventory, false).starts_with("no GPUs\nno NVIDIA driver: "));
    let json = serde_json::to_value(&inventory).unwrap();
    assert_eq!(json["gpus"], serde_json::json!([]));
}

#[test]
fn this_machine_is_described_with_gpus_or_with_a_reason() {
    let inventory = detect();
    println!("{}", render::table(&inventory, false));
    assert!(!inventory.gpus.is_empty() || inventory.note.is_some());
}

#[test]
fn simulated_gpus_can_be_leased() {
    let dir = tempfile::tempdir().unwrap();
    let inventory = simulated(2, dir.path());
    let leases = dir.path().join("leases");
    let _held = Lease::acquire(&leases, &inventory.gpus[1].uuid, &owner("comfyui-gpu1")).unwrap();
    let seen = inventory.with_leases(&leases);
    assert_eq!(seen.gpus[0].lease, None);
    assert_eq!(seen.gpus[1].lease.as_ref().unwrap().app, "comfyui-gpu1");
}

/// A library that answers as NVML does for four cards: a whole one, one that can tell nothing but its name, one that
/// fell off the bus, and one in MIG mode.
const STAND_IN: &str = r#"
#include <stdio.h>
#include <string.h>
typedef struct { char legacy[16]; unsigned domain, bus, device, id, sub; char bus_id[32]; } pci_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process_t;
enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, SMALL = 7, LOST = 15 };
static int devices[4];
#define AT(d) ((int)((int *)(d) - devices))
#define MUTE(d) if (AT(d) == 1) return UNSUPPORTED
int nvmlInit_v2(void) { return OK; }
int nvmlShutdown(void) { return OK; }
int nvmlSystemGetDriverVersion(char *out, unsigned n) { snprintf(out, n, "570.86.15"); return OK; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { *out = 12080; return OK; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = 4; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **out) {
  if (i > 3) return INVALID;
  if (i == 2) return LOST;
  *out = &devices[i]; return OK;
}
int nvmlDeviceGetUUID(void *d, char *out, unsigned n) { snprintf(out, n, "GPU-%d", AT(d)); return OK; }
int nvmlDeviceGetName(void *d, char *out, unsigned n) { snprintf(out, n, "Card %d", AT(d)); return OK; }
int nvmlDeviceGetMemoryInfo_v2(void *d, memory_t *m) {
  MUTE(d); m->total = 24ULL << 30; m->used = 3ULL << 30; m->free = 21ULL << 30; return OK;
}
int nvmlDeviceGetTemperature(void *d, int sensor, unsigned *out) { MUTE(d); *out = 40 + AT(d); return OK; }
int nvmlDeviceGetUtilizationRates(void *d, unsigned *out) { MUTE(d); out[0] = 55; out[1] = 5; return OK; }
int nvmlDeviceGetPciInfo_v3(void *d, pci_t *p) {
  MUTE(d); memset(p, 0, sizeof *p); snprintf(p->bus_id, 32, "00000000:%02X:00.0", AT(d) + 1); return OK;
}
int nvmlDeviceGetMigMode(void *d, unsigned *now, unsigned *later) { MUTE(d); *now = *later = AT(d) == 3; return OK; }
static int list(void *d, unsigned *n, process_t *out, unsigned pid) {
  MUTE(d);
  if (AT(d) == 3) { *n = 0; return OK; }
  if (*n < 2) { *n = 2; return SMALL; }
  *n = 2;
  out[0].pid = 4242; out[0].used = 1ULL << 30; out[0].gi = out[0].ci = 0xFFFFFFFF;
  out[1].pid = pid; out[1].used = ~0ULL; out[1].gi = out[1].ci = 0xFFFFFFFF;
  return OK;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *n, process_t *out) { return list(d, n, out, 7); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *d, unsigned *n, process_t *out) { return list(d, n, out, 8); }
int nvmlSystemGetProcessName(unsigned pid, char *out, unsigned n) {
  if (pid != 4242) return 6;
  snprintf(out, n, "/venv/bin/python\033[2J"); return OK;
}
"#;

/// Compiles a stand-in; `None` (and a word) without a C compiler.
fn compile(dir: &Path, source: &str) -> Option<PathBuf> {
    let (from, to) = (dir.join("nvml.c"), dir.join("libstandin.so"));
    std::fs::write(&from, source).unwrap();
    let ran = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&to, &from])
        .status();
    match ran {
        Ok(status) => {
            assert!(status.success(), "the stand-in does not compile");
            Some(to)
        }
        Err(error) => {
            println!("NOT RUN: no C compiler to build the stand-in for NVML ({error})");
            None
        }
    }
}

#[test]
fn every_reading_of_the_driver_is_told_and_a_lost_card_does_not_hide_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = compile(dir.path(), STAND_IN) else {
        return;
    };
    let inventory = nvml::detect(&["libfornax-no-such-library.so.1", library.to_str().unwrap()]);
    assert_eq!(inventory.driver.as_deref(), Some("570.86.15"));
    assert_eq!(inventory.cuda.as_deref(), Some("12.8"));
    let note = inventory.note.as_deref().unwrap();
    assert!(
        note.starts_with("GPU 2 cannot be read: device fell off the bus"),
        "{note}"
    );
    let [whole, mute, mig] = inventory.gpus.as_slice() else {
        panic!("{inventory:?}");
    };
    assert_eq!(
        (whole.index, whole.uuid.as_str(), whole.name.as_str()),
        (0, "GPU-0", "Card 0")
    );
    assert_eq!(
        (whole.memory_total, whole.memory_used),
        (Some(Bytes(24 << 30)), Some(Bytes(3 << 30)))
    );
    assert_eq!(
        (whole.temperature_c, whole.utilisation_percent, whole.mig),
        (Some(40), Some(55), false)
    );
    assert_eq!(whole.pci_bus_id.as_deref(), Some("00000000:01:00.0"));
    let told: Vec<_> = whole
        .processes
        .iter()
        .flatten()
        .map(|process| (process.pid, process.name.as_deref(), process.memory_used))
        .collect();
    let python = Some("/venv/bin/python[2J");
    assert_eq!(
        told,
        [
            (7, None, None),
            (8, None, None),
            (4242, python, Some(Bytes(1 << 30)))
        ]
    );
    assert_eq!(
        (mute.index, mute.name.as_str(), mute.memory_total),
        (1, "Card 1", None)
    );
    assert_eq!(
        (&mute.processes, mute.temperature_c, &mute.pci_bus_id),
        (&None, None, &None)
    );
    assert_eq!(
        (mig.index, mig.mig, mig.processes.as_deref()),
        (3, true, Some(&[][..]))
    );
}

#[test]
fn a_library_without_its_kernel_module_is_told_apart_from_no_library() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = compile(dir.path(), "int nvmlInit_v2(void) { return 9; }") else {
        return;
    };
    let inventory = nvml::detect(&[library.to_str().unwrap()]);
    let note = inventory.note.unwrap();
    assert!(
        note.contains("kernel module is not loaded") && note.contains("modprobe"),
        "{note}"
    );
}
