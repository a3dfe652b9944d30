//! The log plane with real pipes and real files.

// Helpers here are not in `#[test]` functions, where clippy would let them unwrap by itself.
#![allow(clippy::unwrap_used)]

use fornax::adapters::logs::*;
use fornax::core::ids::{Generation, PmId, Stream};
use fornax::core::spec::fornax::LogRotation;
use fornax::core::units::Bytes as Size;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A plane and a folder for its files.
struct Rig {
    plane: LogPlane,
    dir: tempfile::TempDir,
}

/// A run's writing ends.
struct App {
    out: File,
    err: File,
    instance: PmId,
    generation: Generation,
}

const NO_ROTATION: LogRotation = LogRotation {
    rotate: false,
    max_size: Size(0),
    retain: 0,
    compress: false,
};

impl Rig {
    fn new() -> Self {
        Self::with(LogOptions::default())
    }

    fn with(options: LogOptions) -> Self {
        Self {
            plane: LogPlane::start(options, Some(Journal::create().unwrap())).unwrap(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, format: LogFormat) -> LogConfig {
        LogConfig {
            out_file: Some(self.path("out.log")),
            err_file: Some(self.path("err.log")),
            format,
            rotation: NO_ROTATION,
            ..LogConfig::default()
        }
    }

    fn attach(&self, id: u32, generation: u64, config: LogConfig) -> App {
        let (out, out_end) = pipe();
        let (err, err_end) = pipe();
        let (instance, generation) = (PmId(id), Generation(generation));
        let logs = RunLogs {
            instance,
            generation,
            name: format!("app{id}"),
            namespace: "default".to_owned(),
            out,
            err,
            config: Arc::new(config),
        };
        self.plane.attach(logs).unwrap();
        App {
            out: out_end.into(),
            err: err_end.into(),
            instance,
            generation,
        }
    }

    fn finish(&self, app: &App) -> Finished {
        self.plane
            .finish(app.instance, app.generation)
            .blocking_recv()
            .unwrap()
    }

    fn stats(&self) -> PlaneStats {
        self.plane.stats().blocking_recv().unwrap()
    }

    fn tail(&self, targets: Vec<TailTarget>, limit: usize) -> TailAnswer {
        self.plane
            .tail(&TailQuery {
                targets,
                limit,
                since_ms: None,
                grep: None,
            })
            .unwrap()
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = std::io::pipe().unwrap();
    (read.into(), write.into())
}

fn text(path: &Path) -> String {
    String::from_utf8(fs::read(path).unwrap()).unwrap()
}

/// Waits for `what`, at most ten seconds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The text of a log and its rotated files, oldest first.
fn whole_log(path: &Path) -> String {
    let mut parts = vec![text(path)];
    for n in 1.. {
        let plain = PathBuf::from(format!("{}.{n}", path.display()));
        let zipped = PathBuf::from(format!("{}.{n}.gz", path.display()));
        assert!(!(plain.exists() && zipped.exists()), "{n} is there twice");
        if plain.exists() {
            parts.push(text(&plain));
        } else if zipped.exists() {
            let mut unzipped = String::new();
            flate2::read::GzDecoder::new(File::open(zipped).unwrap())
                .read_to_string(&mut unzipped)
                .unwrap();
            parts.push(unzipped);
        } else {
            break;
        }
    }
    parts.reverse();
    parts.concat()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Takes items until `done` lines came or were missed; gives the lines in order and the gaps.
fn collect(follower: &mut Follower, done: u64) -> (Vec<(u64, String)>, u64) {
    let (mut lines, mut missed) = (Vec::new(), 0);
    runtime().block_on(async {
        while (lines.len() as u64) + missed < done {
            let item = tokio::time::timeout(Duration::from_secs(20), follower.recv()).await;
            match item.expect("an item in time").expect("the plane lives") {
                FollowItem::Missed(count) => missed += count,
                FollowItem::Lines(batch) => {
                    let text = String::from_utf8(batch.text.to_vec()).unwrap();
                    assert_eq!(text.lines().count() as u64, batch.count);
                    lines.extend(
                        text.lines()
                            .enumerate()
                            .map(|(n, line)| (batch.first_seq + n as u64, line.to_owned())),
                    );
                }
            }
        }
    });
    (lines, missed)
}

#[test]
fn lines_reach_their_files_and_the_tail_waits_for_its_end() {
    let rig = Rig::new();
    let mut app = rig.attach(
        0,
        1,
        LogConfig {
            combined_file: Some(rig.path("deep/er/all.log")),
            ..rig.config(LogFormat::Raw)
        },
    );
    app.out.write_all(b"one\ntw").unwrap();
    until("the first line", || {
        fs::read(rig.path("out.log")).is_ok_and(|t| t == b"one\n")
    });
    app.out.write_all("o é\r\nthree".as_bytes()).unwrap();
    app.err.write_all(b"bad \xff\xfe\n").unwrap();
    let finished = rig.finish(&app);
    assert_eq!(text(&rig.path("out.log")), "one\ntwo é\r\nthree\n");
    assert_eq!(fs::read(rig.path("err.log")).unwrap(), b"bad \xff\xfe\n");
    assert_eq!(finished.stderr_tail, ["bad \u{fffd}\u{fffd}"]);
    let combined = fs::read(rig.path("deep/er/all.log")).unwrap();
    assert_eq!(
        combined
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .count(),
        4
    );
    app.out.write_all(b"a child lives on\n").unwrap();
    drop(app);
    until("the late line", || {
        text(&rig.path("out.log")).ends_with("a child lives on\n")
    });
    until("the streams to close", || rig.stats().streams == 0);
}

#[test]
fn stamps_and_json_are_written_as_pm2_does_but_a_line_at_a_time() {
    let rig = Rig::new();
    let mut app = rig.attach(4, 1, rig.config(LogFormat::Stamped("[at] YYYY".to_owned())));
    app.out.write_all(b"a\nb").unwrap();
    rig.finish(&app);
    let stamped = text(&rig.path("out.log"));
    let year = &stamped[3..7];
    assert_eq!(stamped, format!("at {year}: a\nat {year}: b\n"));
    rig.plane
        .set_config(
            app.instance,
            Arc::new(LogConfig {
                err_file: Some(rig.path("json.log")),
                ..rig.config(LogFormat::Json(None))
            }),
        )
        .unwrap();
    app.err.write_all(b"x \"y\"\nz").unwrap();
    rig.finish(&app);
    let json: Vec<serde_json::Value> = text(&rig.path("json.log"))
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(json.len(), 2);
    assert_eq!(
        (json[0]["message"].as_str(), json[0]["type"].as_str()),
        (Some("x \"y\""), Some("err"))
    );
    assert_eq!(
        (json[1]["process_id"].as_u64(), json[1]["app_name"].as_str()),
        (Some(4), Some("app4"))
    );
    assert!(json[0]["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn a_flood_loses_no_line_across_rotation_and_gzip() {
    let rig = Rig::new();
    let rotation = LogRotation {
        rotate: true,
        max_size: Size(1 << 20),
        retain: 1000,
        compress: true,
    };
    let app = rig.attach(
        0,
        1,
        LogConfig {
            rotation,
            ..rig.config(LogFormat::Raw)
        },
    );
    const LINES: usize = 200_000;
    let mut out = app.out.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let mut chunk = String::new();
        for n in 0..LINES {
            chunk.push_str(&format!("line {n} {}\n", "x".repeat(n % 97)));
            if chunk.len() > 50_000 {
                out.write_all(chunk.as_bytes()).unwrap();
                chunk.clear();
            }
        }
        out.write_all(chunk.as_bytes()).unwrap();
    });
    writer.join().unwrap();
    rig.finish(&app);
    let stats = rig.stats();
    let sink = stats
        .sinks
        .iter()
        .find(|sink| sink.path.as_deref() == Some(&*rig.path("out.log")))
        .unwrap();
    assert_eq!((sink.lines, sink.dropped_lines), (LINES as u64, 0));
    assert!(sink.rotations >= 10, "{sink:?}");
    let rotations = sink.rotations;
    until("everything compressed", || {
        (1..=rotations).all(|n| {
            rig.path(&format!("out.log.{n}.gz")).exists()
                && !rig.path(&format!("out.log.{n}")).exists()
        })
    });
    let log = whole_log(&rig.path("out.log"));
    let mut count = 0;
    for (n, line) in log.lines().enumerate() {
        assert_eq!(line, format!("line {n} {}", "x".repeat(n % 97)));
        count += 1;
    }
    assert_eq!(count, LINES);
    for n in 1..=rotations {
        assert!(!rig.path("out.log.gz.partial").exists(), "{n}");
    }
    let tail = rig.tail(vec![TailTarget::Stream(PmId(0), Stream::Out)], 10_000);
    assert!(tail.complete);
    let want: Vec<(Option<u64>, String)> = (LINES - 10_000..LINES)
        .map(|n| {
            (
                Some(n as u64 + 1),
                format!("line {n} {}", "x".repeat(n % 97)),
            )
        })
        .collect();
    let got: Vec<(Option<u64>, String)> = tail.lines.into_iter().map(|l| (l.seq, l.text)).collect();
    assert_eq!(got.len(), want.len());
    assert_eq!(got, want);
}

#[test]
fn rotation_keeps_so_many_files_and_a_huge_line_still_goes_somewhere() {
    let rig = Rig::new();
    let rotation = LogRotation {
        rotate: true,
        max_size: Size(100),
        retain: 2,
        compress: false,
    };
    let mut app = rig.attach(
        0,
        1,
        LogConfig {
            rotation,
            ..rig.config(LogFormat::Raw)
        },
    );
    for n in 0..20 {
        app.out.write_all(format!("{n:049}\n").as_bytes()).unwrap();
    }
    app.out.write_all(&[b'h'; 500]).unwrap();
    app.out.write_all(b"\nlast\n").unwrap();
    rig.finish(&app);
    assert_eq!(text(&rig.path("out.log")), "last\n");
    assert_eq!(text(&rig.path("out.log.1")), "h".repeat(500) + "\n");
    assert_eq!(
        text(&rig.path("out.log.2")),
        format!("{:049}\n{:049}\n", 18, 19)
    );
    assert!(!rig.path("out.log.3").exists());
}

#[test]
fn writers_of_one_file_never_mix_within_a_line() {
    let rig = Rig::new();
    let shared = |format| LogConfig {
        out_file: Some(rig.path("out.log")),
        err_file: Some(rig.path("out.log")),
        ..rig.config(format)
    };
    let apps: Vec<App> = (0..3)
        .map(|id| rig.attach(id, 1, shared(LogFormat::Raw)))
        .collect();
    std::thread::scope(|scope| {
        for app in &apps {
            for (name, pipe) in [("out", &app.out), ("err", &app.err)] {
                scope.spawn(move || {
                    let mut pipe = pipe;
                    for n in 0..2000 {
                        let line = format!("{}-{name} {n} {}\n", app.instance, "y".repeat(n % 300));
                        let (a, b) = line.split_at(line.len() / 2);
                        pipe.write_all(a.as_bytes()).unwrap();
                        pipe.write_all(b.as_bytes()).unwrap();
                    }
                });
            }
        }
    });
    apps.iter().for_each(|app| drop(rig.finish(app)));
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    for line in text(&rig.path("out.log")).lines() {
        let mut words = line.split(' ');
        let n = next.entry(words.next().unwrap().to_owned()).or_default();
        assert_eq!(words.next().unwrap(), n.to_string());
        assert_eq!(words.next().unwrap(), "y".repeat(*n % 300));
        *n += 1;
    }
    assert_eq!(next.values().copied().collect::<Vec<_>>(), vec![2000; 6]);
}

#[test]
fn a_progress_bar_and_an_endless_line_are_cut_and_nothing_of_them_is_lost() {
    let rig = Rig::new();
    let mut app = rig.attach(0, 1, rig.config(LogFormat::Raw));
    let bar: String = (0..20_000)
        .map(|n| format!("{:3}% of it\r", n % 100))
        .collect();
    app.out.write_all(bar.as_bytes()).unwrap();
    until("the bar is written before its line ends", || {
        fs::metadata(rig.path("out.log")).is_ok_and(|m| m.len() > 100_000)
    });
    app.err.write_all("é".repeat(1_200_000).as_bytes()).unwrap();
    rig.finish(&app);
    let out = text(&rig.path("out.log"));
    assert_eq!(out.replace('\n', ""), bar);
    assert!(out.lines().all(|line| line.len() <= 64 << 10));
    let err = text(&rig.path("err.log"));
    assert_eq!(
        err.replace(" [fornax: line continues]\n", "").trim_end(),
        "é".repeat(1_200_000)
    );
    assert_eq!(err.matches("[fornax: line continues]").count(), 2);
}

#[test]
fn a_failed_run_tells_its_last_ten_lines_of_stderr() {
    let rig = Rig::new();
    let mut app = rig.attach(
        0,
        1,
        LogConfig {
            disabled: true,
            ..rig.config(LogFormat::Raw)
        },
    );
    for n in 0..30 {
        app.err
            .write_all(format!("{n} {}\n", "é".repeat(600)).as_bytes())
            .unwrap();
    }
    let tail = rig.finish(&app).stderr_tail;
    assert_eq!(tail.len(), 10);
    assert!(
        tail.iter()
            .enumerate()
            .all(|(n, line)| line.starts_with(&format!("{} é", n + 20))
                && line.chars().count() == 500)
    );
    assert!(!rig.path("err.log").exists(), "disable_logs writes nothing");
    assert_eq!(
        rig.plane
            .finish(PmId(9), Generation(9))
            .blocking_recv()
            .unwrap(),
        Finished::default()
    );
}

/// A small file system of its own; unmounted at the end.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
            .arg(at)
            .output();
        done.is_ok_and(|output| output.status.success())
            .then(|| Self(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .output()
            .unwrap();
    }
}

#[test]
fn a_full_disk_costs_lines_which_are_counted_and_told() {
    let rig = Rig::new();
    let Some(disk) = Tmpfs::mount(&rig.path("small")) else {
        println!(
            "full disk: no right to mount a tmpfs, /dev/full is used instead: recovery is not shown"
        );
        let mut app = rig.attach(
            0,
            1,
            LogConfig {
                out_file: Some("/dev/full".into()),
                ..rig.config(LogFormat::Raw)
            },
        );
        app.out.write_all(b"a\nb\n").unwrap();
        rig.finish(&app);
        assert_eq!(
            (
                rig.stats().total.dropped_lines,
                rig.stats().total.dropped_bytes
            ),
            (2, 4)
        );
        return;
    };
    println!("full disk: a tmpfs of 256 KiB is used");
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![0; 100 << 10]).unwrap();
    let log = disk.0.join("out.log");
    let mut app = rig.attach(
        0,
        1,
        LogConfig {
            out_file: Some(log.clone()),
            ..rig.config(LogFormat::Raw)
        },
    );
    for n in 0..4000 {
        app.out
            .write_all(format!("{n:06} {}\n", "z".repeat(90)).as_bytes())
            .unwrap();
    }
    rig.finish(&app);
    let total = rig.stats().total;
    assert!(total.dropped_lines > 1000, "{total:?}");
    assert_eq!(total.dropped_bytes, total.dropped_lines * 98);
    assert!(text(&log).ends_with("z\n"), "no torn line");
    assert!(
        rig.stats()
            .sinks
            .iter()
            .any(|sink| sink.trouble.as_deref() == Some("No space left on device"))
    );
    fs::remove_file(&ballast).unwrap();
    until("the notice, without a further line", || {
        text(&log).contains("[fornax]")
    });
    app.out.write_all(b"alive\n").unwrap();
    rig.finish(&app);
    let total = rig.stats().total;
    let written = text(&log);
    let notices: Vec<&str> = written
        .lines()
        .filter(|line| line.starts_with("[fornax]"))
        .collect();
    let want = format!(
        "[fornax] {} lines ({} bytes) dropped: No space left on device",
        total.dropped_lines, total.dropped_bytes
    );
    assert_eq!(notices, [want]);
    let kept = written
        .lines()
        .filter(|line| line.ends_with('z') && line.len() == 97)
        .count() as u64;
    assert_eq!(kept + total.dropped_lines, 4000);
    assert!(written.ends_with("alive\n"));
    let mut follower = rig
        .plane
        .follow(
            Filter::default(),
            vec![Position {
                instance: PmId(0),
                stream: Stream::Out,
                after_seq: 0,
            }],
        )
        .unwrap();
    let (lines, missed) = collect(&mut follower, 4002);
    assert_eq!(
        (lines.len() as u64, missed),
        (kept + 2, total.dropped_lines),
        "a resumed follower learns of the hole"
    );
    assert_eq!(lines.last().unwrap(), &(4002, "alive".to_owned()));
    let tail = rig.tail(vec![TailTarget::Stream(PmId(0), Stream::Out)], 10_000);
    let told: Vec<(u64, String)> = tail
        .lines
        .into_iter()
        .map(|line| (line.seq.unwrap(), line.text))
        .collect();
    assert_eq!(
        told, lines,
        "a tail numbers lines as a follower does, before and after the hole"
    );
}

#[test]
fn a_file_that_cannot_be_opened_is_tried_again() {
    let rig = Rig::new();
    fs::write(rig.path("wall"), "a file, not a folder").unwrap();
    let log = rig.path("wall/out.log");
    let mut app = rig.attach(
        0,
        1,
        LogConfig {
            out_file: Some(log.clone()),
            ..rig.config(LogFormat::Raw)
        },
    );
    app.out.write_all(b"lost\n").unwrap();
    rig.finish(&app);
    assert_eq!(rig.stats().total.dropped_lines, 1);
    fs::remove_file(rig.path("wall")).unwrap();
    until("the notice", || {
        log.exists() && text(&log) == "[fornax] 1 lines (5 bytes) dropped: Not a directory\n"
    });
    app.out.write_all(b"kept\n").unwrap();
    rig.finish(&app);
    assert!(text(&log).ends_with("dropped: Not a directory\nkept\n"));
}

#[test]
fn an_outside_truncation_leaves_no_hole_and_outside_moves_are_noticed() {
    let rig = Rig::new();
    let log = rig.path("out.log");
    let mut app = rig.attach(0, 1, rig.config(LogFormat::Raw));
    app.out.write_all(b"before\n").unwrap();
    rig.finish(&app);
    fs::copy(&log, rig.path("copy")).unwrap();
    File::options()
        .write(true)
        .open(&log)
        .unwrap()
        .set_len(0)
        .unwrap();
    app.out.write_all(b"after\n").unwrap();
    rig.finish(&app);
    assert_eq!(text(&log), "after\n");
    fs::remove_file(&log).unwrap();
    app.out.write_all(b"anew\n").unwrap();
    rig.finish(&app);
    assert_eq!(text(&log), "anew\n");
    fs::rename(&log, rig.path("out.log.1")).unwrap();
    rig.plane.reopen_all().blocking_recv().unwrap();
    app.out.write_all(b"reopened\n").unwrap();
    rig.finish(&app);
    assert_eq!(
        (text(&log), text(&rig.path("out.log.1"))),
        ("reopened\n".to_owned(), "anew\n".to_owned())
    );
    fs::rename(&log, rig.path("elsewhere")).unwrap();
    until("a new file within a second or so", || {
        app.out.write_all(b"tick\n").unwrap();
        rig.finish(&app);
        log.exists()
    });
    let outside = rig
        .stats()
        .sinks
        .iter()
        .map(|s| s.outside_changes)
        .sum::<u64>();
    assert_eq!(outside, 4);
    assert_eq!(
        rig.plane
            .flush(vec![log.clone(), rig.path("none")])
            .blocking_recv()
            .unwrap()
            .len(),
        0
    );
    assert_eq!(text(&log), "");
}

#[test]
fn a_line_left_open_by_an_earlier_writer_is_not_glued_to() {
    let rig = Rig::new();
    fs::write(rig.path("out.log"), "half").unwrap();
    let mut app = rig.attach(0, 1, rig.config(LogFormat::Raw));
    app.out.write_all(b"whole\n").unwrap();
    rig.finish(&app);
    assert_eq!(text(&rig.path("out.log")), "half\nwhole\n");
}

#[test]
fn a_slow_follower_is_told_exactly_how_many_lines_it_lost() {
    let rig = Rig::with(LogOptions {
        follower_bytes: 10_000,
        follower_batches: 1024,
        ..LogOptions::default()
    });
    let mut slow = rig
        .plane
        .follow(
            Filter {
                stream: Some(Stream::Out),
                ..Filter::default()
            },
            Vec::new(),
        )
        .unwrap();
    let mut app = rig.attach(0, 1, rig.config(LogFormat::Raw));
    for n in 0..5000 {
        app.out.write_all(format!("line {n}\n").as_bytes()).unwrap();
        if n % 100 == 0 {
            rig.finish(&app);
        }
    }
    app.err.write_all(b"not wanted\n").unwrap();
    rig.finish(&app);
    let (lines, missed) = collect(&mut slow, 5000);
    assert!(missed > 3000, "{missed}");
    assert_eq!(lines.len() as u64 + missed, 5000);
    for (n, (seq, line)) in lines.iter().enumerate() {
        assert_eq!(
            (*seq, line.as_str()),
            (
                missed + n as u64 + 1,
                &*format!("line {}", missed + n as u64)
            )
        );
    }
    assert_eq!(rig.stats().missed_lines, missed);
    drop(slow);
    assert_eq!(rig.stats().followers, 0);
}

#[test]
fn a_follower_resumes_from_any_line_without_gap_or_repeat_across_rotation_and_restarts() {
    let rig = Rig::new();
    let rotation = LogRotation {
        rotate: true,
        max_size: Size(200_000),
        retain: 60,
        compress: true,
    };
    let config = LogConfig {
        rotation,
        ..rig.config(LogFormat::Raw)
    };
    let mut app = rig.attach(0, 1, config.clone());
    const LINES: u64 = 60_000;
    for n in 1..=LINES / 2 {
        app.out
            .write_all(format!("{n} {}\n", "r".repeat(100)).as_bytes())
            .unwrap();
    }
    rig.finish(&app);
    drop(app);
    until("the first run's streams to close", || {
        rig.stats().streams == 0
    });
    let mut app = rig.attach(0, 2, config);
    let plane = rig.plane.clone();
    let writer = std::thread::spawn(move || {
        for n in LINES / 2 + 1..=LINES {
            app.out
                .write_all(format!("{n} {}\n", "r".repeat(100)).as_bytes())
                .unwrap();
        }
        plane
            .finish(app.instance, app.generation)
            .blocking_recv()
            .unwrap();
        app
    });
    for after_seq in [0, 12_345, LINES / 2, LINES / 2 + 7] {
        let mut follower = rig
            .plane
            .follow(
                Filter::default(),
                vec![Position {
                    instance: PmId(0),
                    stream: Stream::Out,
                    after_seq,
                }],
            )
            .unwrap();
        let (lines, missed) = collect(&mut follower, LINES - after_seq);
        assert_eq!(
            (lines.len() as u64, missed),
            (LINES - after_seq, 0),
            "after {after_seq}"
        );
        for (n, (seq, line)) in lines.iter().enumerate() {
            let want = after_seq + n as u64 + 1;
            assert_eq!(*seq, want);
            assert!(line.starts_with(&format!("{want} ")), "{want}: {line}");
        }
    }
    drop(writer.join().unwrap());
}

#[test]
fn what_was_rotated_away_counts_as_missed() {
    let rig = Rig::new();
    let rotation = LogRotation {
        rotate: true,
        max_size: Size(1000),
        retain: 2,
        compress: false,
    };
    let mut app = rig.attach(
        0,
        1,
        LogConfig {
            rotation,
            ..rig.config(LogFormat::Raw)
        },
    );
    for n in 1..=100 {
        app.out.write_all(format!("{n:099}\n").as_bytes()).unwrap();
        rig.finish(&app);
    }
    let mut follower = rig
        .plane
        .follow(
            Filter::default(),
            vec![Position {
                instance: PmId(0),
                stream: Stream::Out,
                after_seq: 3,
            }],
        )
        .unwrap();
    let (lines, missed) = collect(&mut follower, 97);
    assert_eq!((lines.len(), missed), (30, 67));
    assert_eq!(lines[0].0, 71);
    app.out.write_all(b"live\n").unwrap();
    assert_eq!(collect(&mut follower, 1).0, [(101, "live".to_owned())]);
}

#[test]
fn the_tail_of_a_huge_file_reads_its_end_only() {
    let rig = Rig::new();
    let path = rig.path("huge.log");
    let mut huge = File::create(&path).unwrap();
    huge.set_len(10 << 30).unwrap();
    let mut huge_end = File::options().append(true).open(&path).unwrap();
    for n in 0..300 {
        huge_end
            .write_all(format!("{}end {n}\n", if n == 0 { "\n" } else { "" }).as_bytes())
            .unwrap();
    }
    huge.flush().unwrap();
    let target = vec![TailTarget::Path(path.clone())];
    let answer = rig.tail(target.clone(), 200);
    assert_eq!(answer.lines.len(), 200);
    assert_eq!(
        (
            answer.lines[0].text.as_str(),
            answer.lines[199].text.as_str()
        ),
        ("end 100", "end 299")
    );
    assert!(
        answer.complete && answer.read_bytes <= 128 << 10,
        "{}",
        answer.read_bytes
    );
    let grep = Some(regex::bytes::Regex::new("^end 29[0-9]$").unwrap());
    let found = rig
        .plane
        .tail(&TailQuery {
            targets: target,
            limit: 50,
            since_ms: None,
            grep,
        })
        .unwrap();
    assert_eq!(found.lines.len(), 10);
    assert!(!found.complete, "the search has its limit");
    assert!(found.read_bytes <= 66 << 20, "{}", found.read_bytes);
}

#[test]
fn a_tail_goes_on_into_rotated_files_and_merges_streams_by_time() {
    let rig = Rig::new();
    let rotation = LogRotation {
        rotate: true,
        max_size: Size(50),
        retain: 5,
        compress: true,
    };
    let mut app = rig.attach(
        0,
        1,
        LogConfig {
            rotation,
            ..rig.config(LogFormat::Raw)
        },
    );
    for n in 0..12 {
        app.out
            .write_all(format!("out {n:020}\n").as_bytes())
            .unwrap();
    }
    rig.finish(&app);
    std::thread::sleep(Duration::from_millis(150));
    app.err
        .write_all(("long ".to_owned() + &"l".repeat(100_000) + "\n").as_bytes())
        .unwrap();
    rig.finish(&app);
    until("compressed", || {
        rig.path("out.log.5.gz").exists() && !rig.path("out.log.5").exists()
    });
    let targets = vec![
        TailTarget::Stream(PmId(0), Stream::Err),
        TailTarget::Stream(PmId(0), Stream::Out),
        TailTarget::Path(rig.path("out.log")),
    ];
    let answer = rig.tail(targets, 11);
    assert_eq!(answer.lines.len(), 11);
    for (n, line) in answer.lines[..10].iter().enumerate() {
        assert_eq!(
            (line.text.as_str(), line.seq, line.stream),
            (
                &*format!("out {:020}", n + 2),
                Some(n as u64 + 3),
                Some(Stream::Out)
            )
        );
    }
    let long = &answer.lines[10];
    assert!(
        long.text.ends_with("lll [fornax: 34469 bytes more]") && long.text.len() < 66_000,
        "{}",
        &long.text[long.text.len() - 50..]
    );
    let since = long.at_ms.unwrap();
    let recent = rig
        .plane
        .tail(&TailQuery {
            targets: vec![
                TailTarget::Stream(PmId(0), Stream::Out),
                TailTarget::Stream(PmId(0), Stream::Err),
            ],
            limit: 100,
            since_ms: Some(since),
            grep: None,
        })
        .unwrap();
    assert_eq!(
        recent.lines.len(),
        1,
        "{:?}",
        recent
            .lines
            .iter()
            .map(|l| (&l.text[..10], l.at_ms))
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_flood_does_not_starve_another_stream() {
    let rig = Rig::new();
    let flooder = rig.attach(
        0,
        1,
        LogConfig {
            out_file: None,
            ..rig.config(LogFormat::Raw)
        },
    );
    let mut quiet = rig.attach(
        1,
        1,
        LogConfig {
            out_file: Some(rig.path("quiet.log")),
            ..rig.config(LogFormat::Raw)
        },
    );
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (flag, mut out) = (Arc::clone(&stop), flooder.out.try_clone().unwrap());
    let flood = std::thread::spawn(move || {
        let block = b"flood flood flood\n".repeat(4000);
        while !flag.load(std::sync::atomic::Ordering::Relaxed) {
            out.write_all(&block).unwrap();
        }
    });
    until("the flood", || rig.stats().read_bytes > 10 << 20);
    for n in 1..=20 {
        quiet.out.write_all(b"here\n").unwrap();
        let begun = Instant::now();
        until("a quiet line", || {
            fs::metadata(rig.path("quiet.log")).is_ok_and(|m| m.len() == n * 5)
        });
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    flood.join().unwrap();
}

#[test]
fn a_shutdown_writes_what_is_in_the_pipes_and_ends_followers() {
    let rig = Rig::new();
    let mut follower = rig.plane.follow(Filter::default(), Vec::new()).unwrap();
    let mut app = rig.attach(0, 1, rig.config(LogFormat::Raw));
    app.out.write_all(b"a\nlast words").unwrap();
    rig.plane.shutdown();
    assert_eq!(text(&rig.path("out.log")), "a\nlast words\n");
    assert_eq!(
        collect(&mut follower, 2).0,
        [(1, "a".to_owned()), (2, "last words".to_owned())]
    );
    assert_eq!(runtime().block_on(follower.recv()), None);
    assert!(rig.plane.stats().blocking_recv().is_err());
    rig.plane.shutdown();
}

#[test]
fn of_a_shared_file_each_follower_and_each_tail_gets_its_own_lines() {
    let rig = Rig::new();
    let shared = LogConfig {
        out_file: Some(rig.path("all.log")),
        err_file: Some(rig.path("all.log")),
        ..rig.config(LogFormat::Raw)
    };
    let mut apps: Vec<App> = (0..3).map(|id| rig.attach(id, 7, shared.clone())).collect();
    for n in 0..1000 {
        for app in &mut apps {
            app.out
                .write_all(format!("{} out {n}\n", app.instance).as_bytes())
                .unwrap();
            app.err
                .write_all(format!("{} err {n}\n", app.instance).as_bytes())
                .unwrap();
        }
        if n % 50 == 0 {
            apps.iter().for_each(|app| drop(rig.finish(app)));
        }
    }
    apps.iter().for_each(|app| drop(rig.finish(app)));
    let filter = Filter {
        instances: Some(vec![PmId(1)]),
        ..Filter::default()
    };
    let position = |stream| Position {
        instance: PmId(1),
        stream,
        after_seq: 0,
    };
    let mut follower = rig
        .plane
        .follow(filter, vec![position(Stream::Out), position(Stream::Err)])
        .unwrap();
    let (lines, missed) = collect(&mut follower, 2000);
    assert_eq!((lines.len(), missed), (2000, 0));
    for word in ["out", "err"] {
        let of_stream: Vec<&str> = lines
            .iter()
            .map(|(_, line)| line.as_str())
            .filter(|line| line.contains(word))
            .collect();
        let want: Vec<String> = (0..1000).map(|n| format!("1 {word} {n}")).collect();
        assert_eq!(of_stream, want);
    }
    let seen = |stream, after_seq| Position {
        instance: PmId(1),
        stream,
        after_seq,
    };
    let both = vec![
        seen(Stream::Out, lines[900].0),
        seen(Stream::Err, lines[1500].0),
    ];
    let mut later = rig
        .plane
        .follow(
            Filter {
                instances: Some(vec![PmId(1)]),
                ..Filter::default()
            },
            both,
        )
        .unwrap();
    assert_eq!(
        collect(&mut later, 499).0,
        lines[1501..],
        "the later position is what was seen of the file"
    );
    apps[0].out.write_all(b"not for it\n").unwrap();
    rig.finish(&apps[0]);
    apps[1].out.write_all(b"live\n").unwrap();
    assert_eq!(collect(&mut follower, 1).0, [(6002, "live".to_owned())]);

    let tail = rig.tail(
        vec![
            TailTarget::Stream(PmId(2), Stream::Err),
            TailTarget::Stream(PmId(0), Stream::Out),
        ],
        4000,
    );
    assert_eq!(tail.lines.len(), 2001);
    assert!(tail.lines.iter().all(|line| match line.target {
        0 => line.text.starts_with("2 err") && line.stream == Some(Stream::Err),
        _ =>
            (line.text.starts_with("0 out") || line.text == "not for it")
                && line.instance == Some(PmId(0)),
    }));
}

#[test]
fn a_stream_without_a_position_is_live_while_others_are_read_back() {
    let rig = Rig::new();
    let mut app = rig.attach(0, 1, rig.config(LogFormat::Raw));
    for n in 0..20_000 {
        app.out.write_all(format!("old {n}\n").as_bytes()).unwrap();
    }
    rig.finish(&app);
    let mut follower = rig
        .plane
        .follow(
            Filter::default(),
            vec![Position {
                instance: PmId(0),
                stream: Stream::Out,
                after_seq: 0,
            }],
        )
        .unwrap();
    until("the follower to be known", || rig.stats().followers == 1);
    app.err.write_all(b"new\n").unwrap();
    rig.finish(&app);
    let (lines, missed) = collect(&mut follower, 20_001);
    assert_eq!((lines.len(), missed), (20_001, 0));
    assert_eq!(lines.last().unwrap(), &(1, "new".to_owned()));
}

#[test]
fn what_is_no_regular_file_never_blocks_the_plane() {
    let rig = Rig::new();
    let fifo = rig.path("fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let config = LogConfig {
        out_file: Some("/dev/full".into()),
        err_file: Some(fifo.clone()),
        combined_file: Some(rig.path("all.log")),
        ..rig.config(LogFormat::Raw)
    };
    let mut app = rig.attach(0, 1, config);
    app.out.write_all(b"a\nb\n").unwrap();
    app.err.write_all(b"nobody reads\n").unwrap();
    rig.finish(&app);
    assert_eq!(fs::metadata(rig.path("all.log")).unwrap().len(), 17);
    let stats = rig.stats();
    assert_eq!((stats.total.dropped_lines, stats.total.lines), (3, 3));
    let trouble = |path: &Path| {
        stats
            .sinks
            .iter()
            .find(|sink| sink.path.as_deref() == Some(path))
            .unwrap()
            .trouble
            .clone()
            .unwrap()
    };
    assert_eq!(trouble(Path::new("/dev/full")), "No space left on device");
    assert_eq!(trouble(&fifo), "No such device or address");
    assert_eq!(rig.tail(vec![TailTarget::Path(fifo)], 10).lines, []);
}

#[test]
fn a_rotation_that_fails_costs_no_line() {
    let rig = Rig::new();
    fs::create_dir_all(rig.path("out.log.1/in the way")).unwrap();
    let rotation = LogRotation {
        rotate: true,
        max_size: Size(100),
        retain: 3,
        compress: false,
    };
    let mut app = rig.attach(
        0,
        1,
        LogConfig {
            rotation,
            ..rig.config(LogFormat::Raw)
        },
    );
    fs::create_dir_all(rig.path("out.log.3/in the way")).unwrap();
    for n in 0..50 {
        app.out
            .write_all(format!("{n}\n").repeat(20).as_bytes())
            .unwrap();
    }
    rig.finish(&app);
    assert_eq!(text(&rig.path("out.log")).lines().count(), 1000);
    assert_eq!(
        (rig.stats().total.dropped_lines, rig.stats().total.rotations),
        (0, 0)
    );
}

#[test]
fn no_file_still_means_followers() {
    let rig = Rig::new();
    let mut follower = rig
        .plane
        .follow(
            Filter {
                name: Some("app3".to_owned()),
                ..Filter::default()
            },
            Vec::new(),
        )
        .unwrap();
    let config = LogConfig {
        out_file: Some("/dev/null".into()),
        err_file: None,
        format: LogFormat::Stamped("[T]".to_owned()),
        ..LogConfig::default()
    };
    for generation in [1, 2] {
        let mut app = rig.attach(3, generation, config.clone());
        app.out.write_all(b"x\ny").unwrap();
        rig.finish(&app);
    }
    assert_eq!(
        collect(&mut follower, 4).0,
        [(1, "T: x"), (2, "T: y"), (3, "T: x"), (4, "T: y")].map(|(n, l)| (n, l.to_owned()))
    );
    assert_eq!(rig.stats().total.bytes, 0);
}

#[test]
fn an_idle_plane_sleeps() {
    let rig = Rig::new();
    let mut app = rig.attach(0, 1, rig.config(LogFormat::Raw));
    app.out.write_all(b"a line\nand a half").unwrap();
    rig.finish(&app);
    let before = rig.stats().wakeups;
    // The absence of an event has no event to wait for: a window of time is looked at.
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        rig.stats().wakeups - before <= 4,
        "{} wake-ups while idle",
        rig.stats().wakeups - before
    );
}
