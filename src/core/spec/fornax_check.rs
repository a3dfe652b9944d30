//! Reading the `fornax` block: unknown keys are errors, with the near one named, and what it says must make sense.

use super::fornax::{FornaxBlock, Probe, Thresholds};
use super::issue::{SpecIssue, pointer_step};
use super::monitor::Monitor;
use crate::core::units::Millis;
use serde_json::Value;

/// Where the block's schema stands.
const SCHEMA: &str = "`fornax` in ecosystem/ecosystem.schema.json";

/// Reads the `fornax` block. Its unknown keys are errors, and what it says must make sense. Returns it as JSON, with
/// its units resolved.
pub fn read(value: &Value) -> Result<Value, Vec<SpecIssue>> {
    let block: FornaxBlock = serde_path_to_error::deserialize(value)
        .map_err(|error| vec![unreadable("/fornax", SCHEMA, &error)])?;
    let issues = senseless(&block);
    if !issues.is_empty() {
        return Err(issues);
    }
    serde_json::to_value(&block).map_err(|error| {
        vec![SpecIssue::new(
            "/fornax",
            format!("cannot be written as JSON: {error}"),
            "report this as a bug of fornax",
        )]
    })
}

/// What a reader of JSON complains of, below `base` (a JSON pointer), as an issue. `schema` is where what is allowed stands.
pub(crate) fn unreadable(
    base: &str,
    schema: &str,
    error: &serde_path_to_error::Error<serde_json::Error>,
) -> SpecIssue {
    let mut pointer = base.to_string();
    for step in error.path() {
        match step {
            serde_path_to_error::Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            serde_path_to_error::Segment::Map { key } => pointer.push_str(&pointer_step(key)),
            serde_path_to_error::Segment::Enum { variant } => {
                pointer.push_str(&pointer_step(variant))
            }
            serde_path_to_error::Segment::Unknown => {}
        }
    }
    let message = error.inner().to_string();
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let unknown = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.collect();
        if !pointer.ends_with(&pointer_step(unknown)) {
            pointer.push_str(&pointer_step(unknown));
        }
        let mend = match nearest(unknown, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("use one of {}", known.join(", ")),
        };
        let what = format!("unknown key `{unknown}`");
        return SpecIssue::new(pointer, what, mend).about_the_key();
    }
    let mend = match message.starts_with("missing field") {
        true => "add it".to_owned(),
        false => format!("see {schema} for what it may be"),
    };
    SpecIssue::new(pointer, message, mend)
}

/// The candidate nearest to `word`, if one is near enough to be what was meant: two letters off, or a third of a long one.
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let (distance, best) = candidates.iter().map(|c| (distance(word, c), *c)).min()?;
    let letters = best.chars().count();
    (distance <= (letters / 3).max(2) && distance < letters).then_some(best)
}

/// Levenshtein's distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn senseless(block: &FornaxBlock) -> Vec<SpecIssue> {
    let mut issues = Vec::new();
    if block.port == Some(0) {
        issues.push(SpecIssue::new(
            "/fornax/port",
            "0 is no port to listen on",
            "write 1 to 65535",
        ));
    }
    if let Some(probe) = &block.probe {
        senseless_probe(probe, block.port, &mut issues);
    }
    if let Some(monitor) = &block.monitor {
        senseless_monitor(monitor, block.port, &mut issues);
    }
    if block.restart_budget.is_some_and(|budget| budget.max == 0) {
        issues.push(SpecIssue::new(
            "/fornax/restart_budget/max",
            "0 restarts is no budget",
            "write 1 or more, or set autorestart to false",
        ));
    }
    if block
        .restart_budget
        .is_some_and(|budget| budget.window.0 == 0)
    {
        issues.push(SpecIssue::new(
            "/fornax/restart_budget/window",
            "a window of no time limits nothing",
            "write a time such as \"10m\"",
        ));
    }
    for (at, check) in block.install.iter().enumerate() {
        if check.path.is_empty() {
            issues.push(SpecIssue::new(
                format!("/fornax/install/{at}/path"),
                "is empty",
                "write the path that must exist",
            ));
        }
    }
    if block
        .logs
        .is_some_and(|logs| logs.rotate && logs.max_size.0 == 0)
    {
        issues.push(SpecIssue::new(
            "/fornax/logs/max_size",
            "0 would rotate at every line",
            "write a size such as \"10M\"",
        ));
    }
    issues
}

fn senseless_monitor(monitor: &Monitor, port: Option<u16>, issues: &mut Vec<SpecIssue>) {
    if port.unwrap_or(0) == 0 {
        issues.push(SpecIssue::new(
            "/fornax/monitor",
            "has no port to ask at",
            "set `fornax.port`",
        ));
    }
    if !(100..=60_000).contains(&monitor.period.0) {
        issues.push(SpecIssue::new(
            "/fornax/monitor/period",
            "is not between 100 ms and 60 s",
            "write a time such as \"5s\"",
        ));
    }
    for (key, limit) in [
        ("stall", monitor.stall),
        ("waiting", monitor.waiting),
        ("busy", monitor.busy),
        ("unanswered", monitor.unanswered),
    ] {
        if limit < monitor.period {
            issues.push(SpecIssue::new(
                format!("/fornax/monitor/{key}"),
                "is shorter than the time between two looks",
                "write a longer time, such as \"2m\"",
            ));
        }
    }
}

fn senseless_probe(probe: &Probe, port: Option<u16>, issues: &mut Vec<SpecIssue>) {
    let ways = [
        probe.http.is_some(),
        probe.tcp.is_some(),
        probe.exec.is_some(),
    ];
    if ways.iter().filter(|way| **way).count() != 1 {
        issues.push(SpecIssue::new(
            "/fornax/probe",
            "a probe asks in exactly one way",
            "give one of `http`, `tcp` and `exec`",
        ));
    }
    let asked_port = probe
        .http
        .as_ref()
        .map(|http| ("http", http.port))
        .or(probe.tcp.as_ref().map(|tcp| ("tcp", tcp.port)));
    if let Some((way, own)) = asked_port
        && own.or(port).unwrap_or(0) == 0
    {
        issues.push(SpecIssue::new(
            format!("/fornax/probe/{way}"),
            "has no port to ask at",
            format!("set `fornax.port` or `fornax.probe.{way}.port`"),
        ));
    }
    if probe
        .http
        .as_ref()
        .is_some_and(|http| !http.path.starts_with('/'))
    {
        issues.push(SpecIssue::new(
            "/fornax/probe/http/path",
            "does not begin with /",
            "write a path such as \"/health\"",
        ));
    }
    if probe
        .exec
        .as_ref()
        .is_some_and(|exec| exec.command.is_empty())
    {
        issues.push(SpecIssue::new(
            "/fornax/probe/exec/command",
            "is empty",
            "write the program and its arguments",
        ));
    }
    let phases = [
        ("startup", Some(probe.startup)),
        ("readiness", Some(probe.readiness)),
        ("liveness", probe.liveness),
    ];
    for (name, thresholds) in phases {
        if let Some(thresholds) = thresholds {
            senseless_thresholds(name, &thresholds, issues);
        }
    }
}

fn senseless_thresholds(name: &str, thresholds: &Thresholds, issues: &mut Vec<SpecIssue>) {
    let at = |key: &str| format!("/fornax/probe/{name}/{key}");
    if thresholds.period < Millis(10) {
        issues.push(SpecIssue::new(
            at("period"),
            format!("{} is too short", thresholds.period),
            "write 10 ms or more",
        ));
    }
    if thresholds.timeout == Millis(0) {
        issues.push(SpecIssue::new(
            at("timeout"),
            "leaves no time to answer",
            "write a time such as \"5s\"",
        ));
    }
    for (key, count) in [
        ("failure_threshold", thresholds.failure_threshold),
        ("success_threshold", thresholds.success_threshold),
    ] {
        if count == 0 {
            issues.push(SpecIssue::new(
                at(key),
                "0 answers make no verdict",
                "write 1 or more",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_unknown_key_of_the_fornax_block_is_named_with_the_near_one() {
        let found = read(&json!({"prob": {}})).unwrap_err();
        assert_eq!(found[0].pointer, "/fornax/prob");
        assert_eq!(
            found[0].to_string(),
            "fornax.prob: unknown key `prob`; did you mean `probe`?"
        );
        let found = read(&json!({"port": 80, "probe": {"http": {"paht": "/"}}})).unwrap_err();
        assert_eq!(found[0].key(), "fornax.probe.http.paht");
        assert_eq!(found[0].mend, "did you mean `path`?");
        let found = read(&json!({"zzzzzzzz": 1})).unwrap_err();
        assert!(
            found[0].mend.starts_with("use one of type, enabled"),
            "{}",
            found[0]
        );
    }

    #[test]
    fn what_makes_no_sense_is_told_by_key() {
        for (block, key) in [
            (json!(5), "fornax"),
            (json!({"port": 0}), "fornax.port"),
            (json!({"port": 70000}), "fornax.port"),
            (json!({"probe": {}}), "fornax.probe"),
            (
                json!({"probe": {"http": {"path": "/"}}}),
                "fornax.probe.http",
            ),
            (
                json!({"port": 1, "probe": {"http": {"path": "x"}}}),
                "fornax.probe.http.path",
            ),
            (
                json!({"probe": {"exec": {"command": []}}}),
                "fornax.probe.exec.command",
            ),
            (
                json!({"port": 1, "probe": {"tcp": {}, "readiness": {"period": 1}}}),
                "fornax.probe.readiness.period",
            ),
            (
                json!({"port": 1, "probe": {"tcp": {}, "liveness": {"failure_threshold": 0}}}),
                "fornax.probe.liveness.failure_threshold",
            ),
            (
                json!({"restart_budget": {"max": 0, "window": "1m"}}),
                "fornax.restart_budget.max",
            ),
            (
                json!({"stop": [{"signal": "SIGNOPE", "wait": 1}]}),
                "fornax.stop[0].signal",
            ),
            (json!({"gpu": {}}), "fornax.gpu"),
            (json!({"install": [{"path": ""}]}), "fornax.install[0].path"),
            (json!({"logs": {"max_size": "0"}}), "fornax.logs.max_size"),
        ] {
            let found = read(&block).unwrap_err();
            assert_eq!(found[0].key(), key, "{block}: {}", found[0]);
        }
    }
}
