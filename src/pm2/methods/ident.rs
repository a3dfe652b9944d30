//! Ids as clients send them: PM2 takes any value for a key of its table, so an id may be a number or text, and an error says it
//! back as JavaScript would write it.

use crate::core::ids::PmId;
use serde_json::Value;

/// A value as JavaScript makes text of it. `None`: it was not given at all.
pub(super) fn text(value: Option<&Value>) -> String {
    match value {
        None => "undefined".to_owned(),
        Some(Value::Null) => "null".to_owned(),
        Some(Value::Bool(truth)) => truth.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) => text.clone(),
        // Of an element that is null nothing is left.
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| {
                if item.is_null() {
                    String::new()
                } else {
                    text(Some(item))
                }
            })
            .collect::<Vec<_>>()
            .join(","),
        Some(Value::Object(_)) => "[object Object]".to_owned(),
    }
}

/// The id that a value names, if its text is one.
pub(super) fn id(value: Option<&Value>) -> Option<PmId> {
    let text = text(value);
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(PmId(number))
}

/// What stands in for `{id}`, where a method takes that too.
pub(super) fn unwrapped(value: Option<&Value>) -> Option<&Value> {
    value.and_then(|value| value.get("id")).or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_is_written_as_javascript_writes_it() {
        for (value, want) in [
            (json!(null), "null"),
            (json!(true), "true"),
            (json!(-1), "-1"),
            (json!(1.5), "1.5"),
            (json!("a"), "a"),
            (json!([]), ""),
            (json!([0, null, "x"]), "0,,x"),
            (json!({"id": 0}), "[object Object]"),
        ] {
            assert_eq!(text(Some(&value)), want);
        }
        assert_eq!(text(None), "undefined");
    }

    #[test]
    fn only_what_is_written_as_a_number_is_an_id() {
        for (value, want) in [
            (json!(7), Some(7)),
            (json!("7"), Some(7)),
            (json!([7]), Some(7)),
            (json!("07"), None),
            (json!(" 7"), None),
            (json!("+7"), None),
            (json!(-1), None),
            (json!(4_294_967_296_u64), None),
            (json!({"id": 7}), None),
            (json!(null), None),
        ] {
            assert_eq!(id(Some(&value)), want.map(PmId), "{value}");
        }
    }
}
