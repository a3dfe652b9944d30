//! Unfinished lines are shown in their files, and the engine is stopped at every step of that.

#[cfg(test)]
mod tests {
    use super::super::rig::*;
    use crate::adapters::logs::*;
    use crate::core::ids::Stream;
    use crate::core::logline::{CUT_MARK, SHOW_LIMIT};
    use proptest::prelude::*;
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    fn at_once() -> LogOptions {
        LogOptions {
            show_after: Duration::ZERO,
            ..LogOptions::default()
        }
    }

    fn showing(config: impl FnOnce(&Path) -> LogConfig, stops: Vec<u64>, tear: u8) -> Rig {
        Rig::with(at_once(), config, stops, tear)
    }

    /// Each stream has its own file, and nothing else.
    fn own_files(dir: &Path, max_size: u64) -> LogConfig {
        LogConfig {
            combined_file: None,
            ..files(dir, LogFormat::Raw, max_size)
        }
    }

    fn text(rig: &Rig, name: &str) -> String {
        fs::read_to_string(rig.path(name)).unwrap_or_default()
    }

    /// Cut lines put together again.
    fn uncut(log: &str) -> String {
        let mark = String::from_utf8(CUT_MARK.to_vec()).unwrap();
        let mut lines: Vec<String> = Vec::new();
        let mut open: [Option<usize>; 2] = [None, None];
        for line in log.lines() {
            // The test's error lines have capitals only.
            let which = usize::from(line.starts_with(char::is_uppercase));
            let (part, goes_on) = match line.strip_suffix(&mark) {
                Some(part) => (part, true),
                None => (line, false),
            };
            let at = match open[which].take() {
                Some(at) => at,
                None => {
                    lines.push(String::new());
                    lines.len() - 1
                }
            };
            lines[at].push_str(part);
            if goes_on {
                open[which] = Some(at);
            }
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn a_line_is_shown_before_it_ends_and_goes_on_where_it_stands() {
        let mut rig = showing(|dir| own_files(dir, 0), Vec::new(), 0);
        let mut shown = String::new();
        for part in ["Name? ", "Ada\nAge? ", "36\n\nDone", ".", "\n"] {
            rig.write(0, part.as_bytes());
            rig.settle();
            shown.push_str(part);
            assert_eq!(text(&rig, "out.log"), shown);
        }
        check_numbers(&rig, Stream::Out, 4);
        // Only so much of a long one.
        rig.write(0, "x".repeat(SHOW_LIMIT + 10).as_bytes());
        rig.settle();
        assert_eq!(text(&rig, "out.log").len(), shown.len() + SHOW_LIMIT);
        rig.finish();
        assert_eq!(text(&rig, "out.log").len(), shown.len() + SHOW_LIMIT + 11);
    }

    #[test]
    fn an_unfinished_line_is_no_line_to_a_reader() {
        let mut rig = showing(|dir| own_files(dir, 0), Vec::new(), 0);
        rig.write(0, b"one\ntwo\nthr");
        rig.settle();
        let query = TailQuery {
            targets: vec![TailTarget::Stream(RUN.0, Stream::Out)],
            limit: 10,
            since_ms: None,
            grep: None,
        };
        for (again, want) in [
            (false, vec![(1, "one"), (2, "two")]),
            (true, vec![(1, "one"), (2, "two"), (3, "three")]),
        ] {
            if again {
                rig.write(0, b"ee\nfou");
                rig.settle();
                rig.plane.quiesce();
                rig.adopt();
            }
            let lines = rig.plane.tail(&query).unwrap().lines;
            let told: Vec<(u64, &str)> = lines
                .iter()
                .map(|line| (line.seq.unwrap(), line.text.as_str()))
                .collect();
            assert_eq!(told, want);
        }
        assert_eq!(text(&rig, "out.log"), "one\ntwo\nthree\nfou");
    }

    #[test]
    fn other_formats_show_whole_lines_only() {
        for format in formats()
            .into_iter()
            .filter(|format| *format != LogFormat::Raw)
        {
            let mut rig = showing(|dir| files(dir, format.clone(), 0), Vec::new(), 0);
            rig.write(0, b"one\ntwo");
            rig.settle();
            assert_eq!(text(&rig, "out.log").lines().count(), 1);
            rig.finish();
            check(&rig, "one\ntwo\n", "");
        }
    }

    #[test]
    fn a_file_of_two_streams_marks_a_line_that_the_other_one_cuts() {
        let mut rig = showing(|dir| files(dir, LogFormat::Raw, 0), Vec::new(), 0);
        rig.write(1, b"PROMPT");
        rig.settle();
        assert_eq!(text(&rig, "all.log"), "PROMPT");
        rig.write(0, b"o");
        rig.settle();
        assert_eq!(
            text(&rig, "all.log"),
            "PROMPT",
            "what is unfinished cuts nothing"
        );
        rig.write(0, b"ne\n");
        rig.settle();
        let mark = String::from_utf8(CUT_MARK.to_vec()).unwrap();
        assert_eq!(text(&rig, "all.log"), format!("PROMPT{mark}\none\n"));
        rig.write(1, b" GOES ON");
        rig.settle();
        rig.write(1, b"\n");
        rig.settle();
        assert_eq!(
            text(&rig, "all.log"),
            format!("PROMPT{mark}\none\n GOES ON\n")
        );
        assert_eq!(text(&rig, "err.log"), "PROMPT GOES ON\n");
        rig.finish();
        let stats = rig.stats();
        for sink in &stats.sinks {
            let log = fs::read_to_string(sink.path.as_ref().unwrap()).unwrap();
            assert_eq!(
                (sink.lines, sink.bytes),
                (log.lines().count() as u64, log.len() as u64)
            );
        }
    }

    #[test]
    fn a_line_stays_in_the_file_that_shows_its_beginning() {
        let mut rig = showing(|dir| own_files(dir, 20), Vec::new(), 0);
        rig.write(0, b"first line\nbegun ");
        rig.settle();
        rig.write(0, b"and much longer than a file may be\nlast\n");
        rig.settle();
        assert_eq!(text(&rig, "out.log"), "last\n");
        assert_eq!(
            text(&rig, "out.log.1"),
            "first line\nbegun and much longer than a file may be\n"
        );
        rig.write(0, b"a part that does not fit");
        rig.settle();
        assert_eq!(text(&rig, "out.log"), "a part that does not fit");
        assert_eq!(text(&rig, "out.log.1"), "last\n");
    }

    #[test]
    fn what_others_do_to_the_file_meanwhile_costs_what_they_took_only() {
        let mut rig = showing(|dir| own_files(dir, 0), Vec::new(), 0);
        rig.write(0, b"one\nbegun");
        rig.settle();
        rig.plane
            .flush(vec![rig.path("out.log")])
            .blocking_recv()
            .unwrap();
        rig.write(0, b" ended\n");
        rig.settle();
        assert_eq!(text(&rig, "out.log"), " ended\n");

        let mut rig = showing(|dir| own_files(dir, 0), Vec::new(), 0);
        rig.write(0, b"one\nagain");
        rig.settle();
        fs::rename(rig.path("out.log"), rig.path("out.log.1")).unwrap();
        rig.plane.reopen_all().blocking_recv().unwrap();
        rig.write(0, b" and on\nlast\n");
        rig.settle();
        assert_eq!(text(&rig, "out.log.1"), "one\nagain");
        assert_eq!(text(&rig, "out.log"), " and on\nlast\n");
        check_numbers(&rig, Stream::Out, 4);
    }

    #[test]
    fn a_run_that_nobody_takes_over_ends_its_shown_line() {
        let mut rig = showing(|dir| files(dir, LogFormat::Raw, 0), Vec::new(), 0);
        rig.write(0, b"whole\nnot whole");
        rig.settle();
        rig.plane.quiesce();
        rig.leave();
        for name in ["out.log", "all.log"] {
            assert_eq!(text(&rig, name), "whole\nnot whole\n");
        }
    }

    #[test]
    fn a_stop_at_any_step_splits_and_doubles_no_shown_line() {
        for (nth, tear) in [0, 100, 255].into_iter().enumerate() {
            let (first, apart) = if is_long() {
                (1, 1)
            } else {
                (1 + nth as u64, 3)
            };
            'steps: for step in (first..).step_by(apart) {
                for second in [None, Some(1 + step % 13)] {
                    let config = |dir: &Path| own_files(dir, 60);
                    let stops = [Some(step), second].into_iter().flatten().collect();

                    let mut rig = showing(config, stops, tear);
                    rig.write(0, b"one\nthis is ");
                    rig.settle();
                    rig.write(1, b"E1\nE2");
                    rig.settle();
                    rig.write(0, b"the second line, and it is shown in parts");
                    rig.settle();
                    rig.write(0, b"\nand this is the third");
                    rig.settle();
                    rig.write(0, b", which");
                    rig.settle();
                    rig.write(1, b" ends here\n");
                    rig.write(0, b" is the last line");
                    rig.finish();
                    let out = "one\nthis is the second line, and it is shown in parts\nand this is the third, which is the last line\n";
                    let told = format!("step {step}, then {second:?}, tear {tear}");
                    assert_eq!(whole_log(&rig.path("out.log")), out, "{told}");
                    assert_eq!(
                        whole_log(&rig.path("err.log")),
                        "E1\nE2 ends here\n",
                        "{told}"
                    );
                    check_numbers(&rig, Stream::Out, 3);
                    let stats = rig.stats();
                    for sink in &stats.sinks {
                        let log = whole_log(sink.path.as_ref().unwrap());
                        let counted = (sink.lines, sink.bytes, sink.outside_changes);
                        assert_eq!(
                            counted,
                            (log.lines().count() as u64, log.len() as u64, 0),
                            "{told}"
                        );
                    }
                    if rig.deaths == 0 {
                        assert!(step > 100, "only {step} steps");
                        break 'steps;
                    }
                }
            }
        }
    }

    #[test]
    fn a_stop_while_one_line_cuts_another_loses_none() {
        for tear in [0, 128, 255] {
            for step in 1.. {
                let mut rig = showing(
                    |dir| files(dir, LogFormat::Raw, 0),
                    vec![step, 1 + step % 7],
                    tear,
                );
                rig.write(1, b"THE LONG ");
                rig.settle();
                rig.write(0, b"one\ntw");
                rig.settle();
                rig.write(1, b"ERROR");
                rig.settle();
                rig.write(0, b"o\n");
                rig.settle();
                rig.write(1, b" ENDS\n");
                rig.finish();
                let told = format!("step {step}, tear {tear}");
                assert_eq!(whole_log(&rig.path("out.log")), "one\ntwo\n", "{told}");
                assert_eq!(
                    whole_log(&rig.path("err.log")),
                    "THE LONG ERROR ENDS\n",
                    "{told}"
                );
                let all = uncut(&whole_log(&rig.path("all.log")));
                let mut lines: Vec<&str> = all.lines().collect();
                lines.sort_unstable();
                assert_eq!(lines, ["THE LONG ERROR ENDS", "one", "two"], "{told}");
                if rig.deaths == 0 {
                    assert!(step > 60, "only {step} steps");
                    break;
                }
            }
        }
    }

    proptest! {
        // The same cases each time, unless more of them are asked for.
        #![proptest_config(ProptestConfig { cases: cases(), rng_seed: seed(), ..ProptestConfig::default() })]
        #[test]
        fn shown_lines_in_any_chunks_survive_any_stops(
            out in texts("O"),
            err in texts("E"),
            chunks in proptest::collection::vec((0usize..2, 1usize..40_000), 1..60),
            stops in proptest::collection::vec(1u64..120, 0..12),
            tear in any::<u8>(),
            max_size in prop_oneof![Just(0u64), 3000u64..100_000],
        ) {
            let mut rig = showing(|dir| own_files(dir, max_size), stops, tear);
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
            prop_assert_eq!(whole_log(&rig.path("out.log")), out.clone() + "\n");
            prop_assert_eq!(whole_log(&rig.path("err.log")), err.clone() + "\n");
            check_numbers(&rig, Stream::Out, out.lines().count() as u64);
            check_numbers(&rig, Stream::Err, err.lines().count() as u64);
        }
    }
}
