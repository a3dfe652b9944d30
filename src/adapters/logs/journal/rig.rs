//! What a keeper would hold and the plane that is at work, for tests: the engine is stopped at chosen steps of the journal, as a SIGKILL
//! there would, and a successor adopts what it left.

#![cfg(test)]

use super::Journal;
use super::turn::Progress;
use crate::adapters::logs::*;
use crate::core::ids::{Generation, PmId, Stream};
use crate::core::spec::fornax::LogRotation;
use crate::core::units::Bytes;
use crate::sys::shm;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use proptest::prelude::*;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(super) const RUN: (PmId, Generation) = (PmId(7), Generation(3));

/// What a keeper would hold, and the plane that is at work now.
pub(super) struct Rig {
    pub(super) plane: LogPlane,
    options: LogOptions,
    pub(super) memfd: OwnedFd,
    pub(super) reads: [OwnedFd; 2],
    pub(super) writes: [File; 2],
    pub(super) config: Arc<LogConfig>,
    pub(super) dir: tempfile::TempDir,
    /// After how many steps the next planes are stopped, the last first; none: never.
    pub(super) stops: Vec<u64>,
    /// A torn write is cut at this fraction of a whole one, in 1/256.
    pub(super) tear: u8,
    pub(super) deaths: usize,
}

pub(super) fn pipe() -> (OwnedFd, File) {
    let (read, write) = std::io::pipe().unwrap();
    let write = OwnedFd::from(write);
    fcntl(&write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    (read.into(), write.into())
}

pub(super) fn copy(fd: &impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

impl Rig {
    pub(super) fn new(config: impl FnOnce(&Path) -> LogConfig, stops: Vec<u64>, tear: u8) -> Self {
        Self::with(LogOptions::default(), config, stops, tear)
    }

    pub(super) fn with(
        options: LogOptions,
        config: impl FnOnce(&Path) -> LogConfig,
        mut stops: Vec<u64>,
        tear: u8,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Arc::new(config(dir.path()));
        let ((out, out_end), (err, err_end)) = (pipe(), pipe());
        stops.reverse();
        let mut journal = Journal::create().unwrap();
        if let Some(steps) = stops.pop() {
            journal.stop_after(steps);
        }
        let memfd = copy(&journal.fd());
        let plane = LogPlane::start(options.clone(), Some(journal)).unwrap();
        let rig = Self {
            plane,
            options,
            memfd,
            reads: [out, err],
            writes: [out_end, err_end],
            config,
            dir,
            stops,
            tear,
            deaths: 0,
        };
        rig.attach();
        rig
    }

    pub(super) fn attach(&self) {
        let _ = self.plane.attach(RunLogs {
            instance: RUN.0,
            generation: RUN.1,
            name: "app".to_owned(),
            namespace: "default".to_owned(),
            out: copy(&self.reads[0]),
            err: copy(&self.reads[1]),
            config: Arc::clone(&self.config),
        });
    }

    /// A successor, after the engine was stopped.
    pub(super) fn adopt(&mut self) {
        self.plane.shutdown();
        self.deaths += 1;
        let mut journal = Journal::adopt(copy(&self.memfd)).unwrap();
        if journal.kept.open {
            self.tear(&journal.kept.stored_progress());
        }
        if let Some(steps) = self.stops.pop() {
            journal.stop_after(steps);
        }
        self.plane = LogPlane::start(self.options.clone(), Some(journal)).unwrap();
        self.attach();
    }

    /// The figures. On a busy machine the stop may come as late as here: then they are its successor's.
    pub(super) fn stats(&mut self) -> PlaneStats {
        loop {
            match self.plane.stats().blocking_recv() {
                Ok(stats) => return stats,
                Err(_) => self.adopt(),
            }
        }
    }

    /// A successor that nobody attaches the run to; it ends.
    pub(super) fn leave(&mut self) {
        let journal = Journal::adopt(copy(&self.memfd)).unwrap();
        self.plane = LogPlane::start(self.options.clone(), Some(journal)).unwrap();
        self.plane.adoption_done().unwrap();
        self.plane.shutdown();
    }

    /// A write that was under way may have been done in part only.
    pub(super) fn tear(&self, was: &Progress) {
        let files = fs::read_dir(self.dir.path()).unwrap().flatten();
        for file in files.filter(|file| was.part > 0 && file.path().is_file()) {
            let meta = file.metadata().unwrap();
            if (meta.dev(), meta.ino()) == was.identity && meta.len() > was.size {
                let kept = (meta.len() - was.size) * u64::from(self.tear) / 255;
                let file = OpenOptions::new().write(true).open(file.path()).unwrap();
                file.set_len(was.size + kept).unwrap();
            }
        }
    }

    /// Waits until what was written is taken, and its turn is over.
    pub(super) fn settle(&mut self) {
        loop {
            let is_empty = self.reads.iter().all(|pipe| shm::waiting(pipe) == Ok(0));
            match self.plane.stats().blocking_recv() {
                Ok(_) if is_empty => return,
                Ok(_) => std::thread::yield_now(),
                Err(_) => self.adopt(),
            }
        }
    }

    pub(super) fn write(&mut self, at: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.writes[at].write(bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    if self.plane.stats().blocking_recv().is_err() {
                        self.adopt();
                    }
                }
            }
        }
    }

    pub(super) fn finish(&mut self) {
        while self.plane.finish(RUN.0, RUN.1).blocking_recv().is_err() {
            self.adopt();
        }
        // A pipe that was ready before may be looked at once more.
        let mut quiet = 0;
        while quiet < 3 {
            match self.plane.stats().blocking_recv() {
                Ok(_) => quiet += 1,
                Err(_) => {
                    quiet = 0;
                    self.adopt();
                }
            }
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// The text of a log and its rotated files, oldest first.
pub(super) fn whole_log(path: &Path) -> String {
    let mut parts = vec![fs::read(path).unwrap_or_default()];
    for n in 1.. {
        match fs::read(format!("{}.{n}", path.display())) {
            Ok(part) => parts.push(part),
            Err(_) => break,
        }
    }
    assert!(
        parts
            .iter()
            .all(|part| part.is_empty() || part.ends_with(b"\n")),
        "a file ends within a line"
    );
    parts.reverse();
    String::from_utf8(parts.concat()).unwrap()
}

pub(super) fn files(dir: &Path, format: LogFormat, max_size: u64) -> LogConfig {
    LogConfig {
        out_file: Some(dir.join("out.log")),
        err_file: Some(dir.join("err.log")),
        combined_file: Some(dir.join("all.log")),
        format,
        rotation: LogRotation {
            rotate: max_size > 0,
            max_size: Bytes(max_size),
            retain: 100,
            compress: false,
        },
        ..LogConfig::default()
    }
}

/// The messages of a log's lines.
pub(super) fn messages(log: &str, format: &LogFormat) -> Vec<String> {
    let message = |line: &str| match format {
        LogFormat::Raw => line.to_owned(),
        LogFormat::Stamped(_) => {
            let (stamp, rest) = line.split_at(25);
            assert!(stamp.ends_with(": "), "{line}");
            rest.to_owned()
        }
        LogFormat::Json(_) => {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["message"].as_str().unwrap().to_owned()
        }
    };
    log.lines().map(message).collect()
}

pub(super) fn formats() -> [LogFormat; 3] {
    [
        LogFormat::Raw,
        LogFormat::Stamped("YYYY-MM-DDTHH:mm:ss.SSS".to_owned()),
        LogFormat::Json(None),
    ]
}

/// What all files must hold in the end.
pub(super) fn check(rig: &Rig, out: &str, err: &str) {
    let format = &rig.config.format;
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let read = |name| messages(&whole_log(&rig.path(name)), format);
    assert_eq!(read("out.log"), lines(out));
    assert_eq!(read("err.log"), lines(err));
    let (errors, rest) = read("all.log")
        .into_iter()
        .partition::<Vec<_>, _>(|line| line.starts_with('E'));
    assert_eq!(rest, lines(out));
    assert_eq!(errors, lines(err));
    check_numbers(rig, Stream::Out, out.lines().count() as u64);
    check_numbers(rig, Stream::Err, err.lines().count() as u64);
    let stats = rig.plane.stats().blocking_recv().unwrap();
    for sink in &stats.sinks {
        let log = whole_log(sink.path.as_ref().unwrap());
        let told = (sink.lines, sink.bytes, sink.dropped_lines);
        assert_eq!(told, (log.lines().count() as u64, log.len() as u64, 0));
    }
}

/// A follower is told every line of a stream from the files, by its number.
pub(super) fn check_numbers(rig: &Rig, stream: Stream, count: u64) {
    let position = Position {
        instance: RUN.0,
        stream,
        after_seq: 0,
    };
    let mut follower = rig.plane.follow(Filter::default(), vec![position]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut known = 0;
    runtime.block_on(async {
        while known < count {
            let item = tokio::time::timeout(Duration::from_secs(10), follower.recv());
            match item.await.unwrap().unwrap() {
                FollowItem::Lines(batch) => {
                    assert_eq!((batch.first_seq, batch.stream), (known + 1, stream));
                    known += batch.count;
                }
                FollowItem::Missed(lines) => panic!("{lines} lines missed after {known}"),
            }
        }
    });
}

/// `FORNAX_LONG_TESTS=1`: many more steps and cases.
pub(super) fn is_long() -> bool {
    std::env::var_os("FORNAX_LONG_TESTS").is_some()
}

/// Lines of many lengths, with an unfinished one at the end.
pub(super) fn texts(prefix: &'static str) -> impl Strategy<Value = String> {
    let length = prop_oneof![6 => 0usize..40, 2 => 40usize..3000, 1 => 3000usize..90_000];
    proptest::collection::vec(length, 1..40).prop_map(move |lengths| {
        let line = |(n, length): (usize, &usize)| format!("{prefix}{n}{}", "é".repeat(*length / 2));
        let lines: Vec<String> = lengths.iter().enumerate().map(line).collect();
        lines.join("\n")
    })
}

/// `FORNAX_LONG_TESTS=1`: many more, and others each time.
pub(super) fn cases() -> u32 {
    if is_long() { 5000 } else { 50 }
}

pub(super) fn seed() -> proptest::test_runner::RngSeed {
    use proptest::test_runner::RngSeed;
    if is_long() {
        RngSeed::Random
    } else {
        RngSeed::Fixed(3)
    }
}
