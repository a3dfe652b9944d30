//! Whether a value may stand under its key, in our words and in PM2's (pm2-behaviour 5.2).

use super::issue::{SpecIssue, pointer_step};
use super::keys::{Key, Kind};
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_long_value_is_cut_in_messages() {
        assert_eq!(
            shown(&json!("x".repeat(50))),
            format!("\"{}…\"", "x".repeat(40))
        );
    }
}
