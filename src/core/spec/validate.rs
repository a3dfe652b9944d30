//! Whether a value may stand under its key, in our words and in PM2's (pm2-behaviour 5.2); and the `fornax` block.

use super::fornax::{FornaxBlock, Probe, Thresholds};
use super::issue::{SpecIssue, pointer_step};
use super::keys::{Key, Kind};
use crate::core::units::Millis;
use serde_json::Value;

/// Checks a value, already brought to its type, under the name it was written with. `None` if it may stand.
pub fn value(key: &Key, written: &str, value: &Value) -> Option<SpecIssue> {
    if let Some(issue) = kinds(key.name, written, key.kinds, value) {
        return Some(issue);
    }
    if let (Some(min), Some(number)) = (key.min, value.as_f64())
        && number < f64::from(min)
    {
        return Some(
            SpecIssue::new(
                pointer_step(written),
                format!("{value} is less than {min}"),
                format!("write {min} or more"),
            )
            .in_pm2_words(format!(
                "The minimum of \"{}\" is {min}, but now is {value}",
                key.name
            )),
        );
    }
    let (pattern, text) = (key.pattern?, value.as_str()?);
    if (pattern.check)(text) {
        return None;
    }
    Some(
        SpecIssue::new(
            pointer_step(written),
            format!("found {}", shown(value)),
            pattern.pm2_hint,
        )
        .in_pm2_words(format!(
            "Verify \"{}\" with regex failed, {}",
            key.name, pattern.pm2_hint
        )),
    )
}

/// Checks that a value is of one of `kinds`. `None` if it is.
pub fn kinds(name: &str, written: &str, kinds: &[Kind], value: &Value) -> Option<SpecIssue> {
    if kinds.iter().any(|kind| kind.holds(value)) {
        return None;
    }
    let words: Vec<_> = kinds.iter().map(|kind| kind.word()).collect();
    let pm2: Vec<_> = kinds.iter().map(|kind| kind.pm2_word()).collect();
    Some(
        SpecIssue::new(
            pointer_step(written),
            format!("expected {}, found {}", words.join(" or "), shown(value)),
            mend(kinds, value),
        )
        .in_pm2_words(format!(
            "Expect \"{name}\" to be a typeof {}, but now is {}",
            pm2.join(" / "),
            pm2_type(value)
        )),
    )
}

fn mend(kinds: &[Kind], value: &Value) -> &'static str {
    match (kinds, value) {
        ([Kind::Flag, ..], Value::String(_)) => "write true or false without quotes",
        ([Kind::Flag], Value::Number(_)) => "write true or false",
        (kinds, Value::Number(_) | Value::Bool(_)) if kinds.contains(&Kind::Text) => {
            "put it in quotes"
        }
        (kinds, _) if kinds.contains(&Kind::Number) => {
            "write a whole number, for a time in milliseconds"
        }
        (kinds, Value::String(_)) if kinds.contains(&Kind::List) => "write it as a list: [ … ]",
        (kinds, _) if kinds.contains(&Kind::Object) => "write it as an object: { … }",
        _ => "change it, or leave the key out",
    }
}

fn pm2_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "[object Null]",
        Value::Bool(_) => "[object Boolean]",
        Value::Number(_) => "[object Number]",
        Value::String(_) => "[object String]",
        Value::Array(_) => "[object Array]",
        Value::Object(_) => "[object Object]",
    }
}

/// A value as shown in a message: short, and whole if it is short.
pub fn shown(value: &Value) -> String {
    /// The longest text quoted in full, in characters.
    const LONGEST: usize = 40;
    match value {
        Value::Object(_) => "an object".to_string(),
        Value::Array(_) => "a list".to_string(),
        Value::String(text) if text.chars().count() > LONGEST => {
            let start: String = text.chars().take(LONGEST).collect();
            format!("\"{start}…\"")
        }
        other => other.to_string(),
    }
}

/// Reads the `fornax` block. Its unknown keys are errors, and what it says must make sense. Returns it as JSON, with
/// its units resolved.
pub fn fornax(value: &Value) -> Result<Value, Vec<SpecIssue>> {
    let block: FornaxBlock =
        serde_path_to_error::deserialize(value).map_err(|error| vec![unreadable(&error)])?;
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

fn unreadable(error: &serde_path_to_error::Error<serde_json::Error>) -> SpecIssue {
    let mut pointer = "/fornax".to_string();
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
        let (what, mend) = match nearest(unknown, &known) {
            Some(near) => (
                format!("unknown key `{unknown}`; did you mean `{near}`?"),
                format!("write `{near}`, or leave it out"),
            ),
            None => (
                format!("unknown key `{unknown}`"),
                format!("use one of {}", known.join(", ")),
            ),
        };
        return SpecIssue::new(pointer, what, mend).about_the_key();
    }
    let mend = match message.starts_with("missing field") {
        true => "add it",
        false => "see `fornax` in ecosystem/ecosystem.schema.json for what it may be",
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
        let found = fornax(&json!({"prob": {}})).unwrap_err();
        assert_eq!(found[0].pointer, "/fornax/prob");
        assert!(
            found[0]
                .what
                .contains("unknown key `prob`; did you mean `probe`?"),
            "{}",
            found[0]
        );
        let found = fornax(&json!({"port": 80, "probe": {"http": {"paht": "/"}}})).unwrap_err();
        assert_eq!(found[0].key(), "fornax.probe.http.paht");
        assert!(
            found[0].what.ends_with("did you mean `path`?"),
            "{}",
            found[0]
        );
        let found = fornax(&json!({"zzzzzzzz": 1})).unwrap_err();
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
            let found = fornax(&block).unwrap_err();
            assert_eq!(found[0].key(), key, "{block}: {}", found[0]);
        }
    }

    #[test]
    fn a_long_value_is_cut_in_messages() {
        assert_eq!(
            shown(&json!("x".repeat(50))),
            format!("\"{}…\"", "x".repeat(40))
        );
    }
}
