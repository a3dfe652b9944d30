//! The engine is stopped at every step of the journal, as a SIGKILL there would, and a successor adopts what it left.

#[cfg(test)]
mod tests {
    use super::super::Journal;
    use super::super::rig::*;
    use crate::adapters::logs::*;
    use crate::core::ids::Stream;
    use proptest::prelude::*;
    use std::fs;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    #[test]
    fn a_stop_at_any_step_costs_no_line() {
        for format in formats() {
            // Some two lines for each file.
            let max_size = if format == LogFormat::Raw { 90 } else { 250 };
            for (nth, tear) in [0, 100, 255].into_iter().enumerate() {
                // Each step with one of the tears, or in the long version with all.
                let (first, apart) = if is_long() {
                    (1, 1)
                } else {
                    (1 + nth as u64, 3)
                };
                for step in (first..).step_by(apart) {
                    let config = |dir: &Path| {
                        let mut config = files(dir, format.clone(), max_size);
                        config.rotation.retain = 6;
                        config
                    };
                    let mut rig = Rig::new(config, vec![step], tear);
                    rig.write(0, b"one\ntwo\nthr");
                    rig.settle();
                    rig.write(0, b"ee\nfour");
                    rig.write(1, b"E1\nE2");
                    rig.settle();
                    rig.write(0, b" and more, so that it is rotated\nfive\n");
                    rig.settle();
                    rig.write(0, b"an unfinished line");
                    rig.settle();
                    rig.write(0, b" goes on");
                    rig.finish();
                    let out = "one\ntwo\nthree\nfour and more, so that it is rotated\nfive\nan unfinished line goes on";
                    check(&rig, out, "E1\nE2");
                    if rig.deaths == 0 {
                        assert!(step > 100, "only {step} steps");
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn a_second_stop_while_the_first_is_made_up_for_costs_no_line_and_no_number() {
        let last = if is_long() { 40 } else { 8 };
        for second in 1..=last {
            // Each pair of steps with one of the formats, or in the long version with all.
            for (nth, format) in formats().into_iter().enumerate() {
                let (first, apart) = if is_long() {
                    (1, 1)
                } else {
                    (1 + nth as u64, 3)
                };
                for step in (first..).step_by(apart) {
                    let config = |dir: &Path| files(dir, format.clone(), 0);
                    let mut rig = Rig::new(config, vec![step, second], 255);
                    rig.write(0, b"one\ntwo\nthr");
                    rig.write(1, b"E1\nE2");
                    rig.settle();
                    rig.write(0, b"ee\nfour");
                    rig.finish();
                    check(&rig, "one\ntwo\nthree\nfour", "E1\nE2");
                    let stats = rig.stats();
                    let outside: u64 = stats.sinks.iter().map(|sink| sink.outside_changes).sum();
                    assert_eq!(outside, 0, "our own lines count as another program's");
                    if rig.deaths == 0 {
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn dropped_lines_are_told_once_wherever_the_daemon_is_killed() {
        for tear in [0, 120, 255] {
            for step in 1.. {
                let config = |dir: &Path| {
                    // No folder can be made where a file is.
                    fs::write(dir.join("sub"), "").unwrap();
                    LogConfig {
                        out_file: Some(dir.join("sub/out.log")),
                        ..LogConfig::default()
                    }
                };
                let mut rig = Rig::new(config, Vec::new(), tear);
                rig.write(0, b"1\n2\n");
                rig.settle();
                rig.write(0, b"3\n4");
                rig.settle();
                rig.plane.quiesce();
                rig.stops = vec![step];
                rig.adopt();
                fs::remove_file(rig.path("sub")).unwrap();
                let deadline = Instant::now() + Duration::from_secs(10);
                while !fs::read_to_string(rig.path("sub/out.log"))
                    .is_ok_and(|log| log.ends_with('\n'))
                {
                    rig.settle();
                    assert!(Instant::now() < deadline, "nothing was told");
                    std::thread::sleep(Duration::from_millis(1));
                }
                rig.settle();
                rig.write(0, b"\n5\n");
                rig.finish();
                let log = whole_log(&rig.path("sub/out.log"));
                let notice = "[fornax] 3 lines (6 bytes) dropped: Not a directory\n";
                assert_eq!(log, format!("{notice}4\n5\n"), "step {step}, tear {tear}");
                let stats = rig.stats();
                assert_eq!((stats.total.lines, stats.total.dropped_lines), (3, 3));
                if rig.deaths == 1 {
                    break;
                }
            }
        }
    }

    #[test]
    fn numbers_go_on_and_a_follower_resumes_where_it_was() {
        let config = |dir: &Path| files(dir, LogFormat::Raw, 60);
        let mut rig = Rig::new(config, Vec::new(), 0);
        for n in 1..=20 {
            rig.write(0, format!("line {n}\n").as_bytes());
            rig.settle();
        }
        rig.plane.quiesce();
        rig.adopt();
        rig.write(0, b"line 21\nline 22\n");
        rig.settle();
        for after_seq in 0..22 {
            let position = Position {
                instance: RUN.0,
                stream: Stream::Out,
                after_seq,
            };
            let filter = Filter {
                name: Some("app".to_owned()),
                ..Filter::default()
            };
            let mut follower = rig.plane.follow(filter, vec![position]).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let mut next = after_seq + 1;
            runtime.block_on(async {
                while next <= 22 {
                    let item = tokio::time::timeout(Duration::from_secs(10), follower.recv());
                    match item.await.unwrap().unwrap() {
                        FollowItem::Lines(batch) => {
                            assert_eq!((batch.first_seq, batch.instance), (next, RUN.0));
                            for line in std::str::from_utf8(&batch.text).unwrap().lines() {
                                assert_eq!(line, format!("line {next}"));
                                next += 1;
                            }
                        }
                        FollowItem::Missed(lines) => panic!("{lines} lines missed after {next}"),
                    }
                }
            });
        }
        let stats = rig.stats();
        let out = stats.sinks.iter().find(|s| s.path == rig.config.out_file);
        assert_eq!(out.unwrap().lines, 22);
    }

    #[test]
    fn a_run_that_nobody_takes_over_loses_no_unfinished_line() {
        for format in formats() {
            let mut rig = Rig::new(|dir| files(dir, format.clone(), 0), Vec::new(), 0);
            rig.write(0, b"whole\nnot whole");
            rig.settle();
            rig.plane.quiesce();
            rig.leave();
            for name in ["out.log", "all.log"] {
                let log = whole_log(&rig.path(name));
                assert_eq!(log.lines().count(), 2, "{log}");
                assert!(log.contains("not whole"));
            }
        }
    }

    #[test]
    fn a_journal_of_another_version_or_kind_is_refused() {
        let (journal, other) = (Journal::create().unwrap(), Journal::create().unwrap());
        let (fd, damaged) = (copy(&journal.fd()), copy(&other.fd()));
        assert!(journal.born_ms() > 1_700_000_000_000);
        journal.kept.words.store(1, 3);
        let error = Journal::adopt(fd).unwrap_err();
        let (found, known) = (3, 2);
        assert!(
            matches!(error, JournalError::Version { found: f, known: k } if (f, k) == (found, known))
        );
        other.kept.words.store(6, u64::MAX);
        assert!(matches!(
            Journal::adopt(damaged),
            Err(JournalError::Damaged)
        ));
        let (read, _write) = pipe();
        assert!(matches!(Journal::adopt(read), Err(JournalError::Foreign)));
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(matches!(
            Journal::adopt(file.into()),
            Err(JournalError::Foreign)
        ));
    }

    #[test]
    fn a_full_journal_still_logs() {
        let dir = tempfile::tempdir().unwrap();
        let plane =
            LogPlane::start(LogOptions::default(), Some(Journal::create().unwrap())).unwrap();
        // A path too long for a slot is what a full table is: there is no slot.
        let deep: PathBuf = std::iter::repeat_n("d".repeat(200), 6).collect();
        let path = dir.path().join(deep).join("out.log");
        let ((out, mut out_end), (err, _err_end)) = (pipe(), pipe());
        let config = LogConfig {
            out_file: Some(path.clone()),
            ..LogConfig::default()
        };
        let (name, namespace) = ("a".to_owned(), "b".to_owned());
        let (instance, generation) = RUN;
        plane
            .attach(RunLogs {
                instance,
                generation,
                name,
                namespace,
                out,
                err,
                config: Arc::new(config),
            })
            .unwrap();
        out_end.write_all(b"one\ntwo").unwrap();
        plane.quiesce();
        // Without protection an unfinished line is written at the end, whichever end it is; what is in the pipe is not read.
        let log = fs::read_to_string(&path).unwrap_or_default();
        assert!(["", "one\ntwo\n"].contains(&log.as_str()), "{log:?}");
    }

    proptest! {
        // The same cases each time, unless more of them are asked for.
        #![proptest_config(ProptestConfig { cases: cases(), rng_seed: seed(), ..ProptestConfig::default() })]
        #[test]
        fn any_stops_in_any_chunks_cost_no_line(
            out in texts("O"),
            err in texts("E"),
            chunks in proptest::collection::vec((0usize..2, 1usize..40_000), 1..60),
            stops in proptest::collection::vec(1u64..120, 0..12),
            tear in any::<u8>(),
            format in 0usize..3,
            max_size in prop_oneof![Just(0u64), 3000u64..100_000],
        ) {
            let format = formats()[format].clone();
            let mut rig = Rig::new(|dir| files(dir, format, max_size), stops, tear);
            let mut rest = [out.as_bytes(), err.as_bytes()];
            for (at, length) in chunks {
                let (chunk, after) = rest[at].split_at(length.min(rest[at].len()));
                rest[at] = after;
                rig.write(at, chunk);
                if length % 3 > 0 {
                    rig.settle();
                }
            }
            rig.write(0, rest[0]);
            rig.write(1, rest[1]);
            rig.finish();
            check(&rig, &out, &err);
        }
    }
}
