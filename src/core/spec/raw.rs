//! From an app as written to its canonical keys: aliases, camelCase, numbers as text, lists as text (pm2-behaviour 5.2).

use super::args;
use super::fornax_check;
use super::issue::SpecIssue;
use super::keys::{ENV_BLOCK_KINDS, KEYS, Key, Kind};
use super::validate;
use serde_json::{Map, Number, Value};

/// The name of the block that PM2 does not know.
pub const FORNAX: &str = "fornax";

/// Keys whose 0 means "none" and is left out, rather than handed on as a limit or a delay of nothing.
const ZERO_IS_UNSET: [&str; 2] = ["max_memory_restart", "exp_backoff_restart_delay"];

/// Reads `raw` into canonical keys: the 64 of PM2, the `env_<name>` blocks, and `fornax` as a checked block. Keys that
/// PM2 does not know are left out, as PM2 does. Every problem is reported, in the table's order.
pub fn canonical(raw: &Map<String, Value>) -> Result<Map<String, Value>, Vec<SpecIssue>> {
    let mut out = Map::new();
    let mut issues = Vec::new();
    for key in &KEYS {
        if let Some((written, value)) = pick(key, raw) {
            let value = coerce(key, value);
            match validate::value(key, written, &value) {
                None => drop(out.insert(key.name.to_string(), value)),
                // PM2 never looks at a false, 0 or "" in a snake_case key, so a file may carry one that is no use.
                Some(_) if is_falsy(&raw[written]) && key.name.contains('_') => {}
                Some(issue) => issues.push(issue),
            }
        }
    }
    for (written, value) in raw.iter().filter(|(name, _)| is_env_block(name)) {
        match validate::kinds(written, written, ENV_BLOCK_KINDS, value) {
            None => drop(out.insert(written.clone(), value.clone())),
            Some(issue) => issues.push(issue),
        }
    }
    if let Some(value) = raw.get(FORNAX) {
        match fornax_check::read(value) {
            Ok(block) => drop(out.insert(FORNAX.to_string(), block)),
            Err(found) => issues.extend(found),
        }
    }
    if issues.is_empty() {
        Ok(out)
    } else {
        Err(issues)
    }
}

/// Whether `name` is an `env_<name>` block (`^env_\S*$`).
pub fn is_env_block(name: &str) -> bool {
    name.strip_prefix("env_")
        .is_some_and(|rest| !rest.contains(char::is_whitespace))
}

/// The name under which `key` was written in `raw`, and its value: the first that says something of its own name and
/// its aliases; failing that a plain `false` or 0. (pm2 7.0.4 loses `false` and 0 in snake_case keys; here they count.)
pub fn pick<'a>(key: &Key, raw: &'a Map<String, Value>) -> Option<(&'a str, &'a Value)> {
    let camel = key.camel();
    let names = || {
        std::iter::once(key.name)
            .chain(key.aliases.iter().copied())
            .chain(camel.as_deref())
    };
    let entry = |name: &str| {
        raw.get_key_value(name)
            .map(|(name, value)| (name.as_str(), value))
    };
    let says_something = names()
        .filter_map(entry)
        .find(|(_, value)| !is_falsy(value));
    says_something.or_else(|| {
        names()
            .filter_map(entry)
            .find(|(_, value)| counts_though_falsy(key, value))
    })
}

fn counts_though_falsy(key: &Key, value: &Value) -> bool {
    match value {
        Value::Bool(false) => key.kinds.contains(&Kind::Flag),
        Value::Number(_) => !ZERO_IS_UNSET.contains(&key.name),
        Value::String(_) => key.name == "args",
        _ => false,
    }
}

/// JavaScript's idea of nothing: null, false, 0 and "".
pub fn is_falsy(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Brings a value to the type its key wants, where PM2 would: text that reads as a number, `"max"`, text to split.
fn coerce(key: &Key, value: &Value) -> Value {
    if key.name == "instances" && value.as_str() == Some("max") {
        return Value::from(0);
    }
    if key.kinds.contains(&Kind::Number)
        && let Some(number) = as_number(value)
    {
        return Value::Number(number);
    }
    match value {
        Value::String(text) if key.splits() => args::split(text).into(),
        other => other.clone(),
    }
}

/// The number that `value` reads as: a number, text of one, or a list of just one of these.
fn as_number(value: &Value) -> Option<Number> {
    match value {
        Value::Number(number) => Some(number.clone()),
        Value::String(text) => parse_number(text.trim()),
        Value::Array(items) => match items.as_slice() {
            [item] => as_number(item),
            _ => None,
        },
        _ => None,
    }
}

fn parse_number(text: &str) -> Option<Number> {
    if !text.bytes().any(|b| b.is_ascii_digit())
        || text
            .bytes()
            .any(|b| b.is_ascii_alphabetic() && !b.eq_ignore_ascii_case(&b'e'))
    {
        return None;
    }
    let number: f64 = text.parse().ok()?;
    whole_or_real(number)
}

/// `number` as an integer where it is one, as JavaScript prints it.
pub fn whole_or_real(number: f64) -> Option<Number> {
    /// The largest integer that JavaScript holds exactly.
    const EXACT: f64 = 9_007_199_254_740_991.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        Some(Number::from(number as i64))
    } else {
        Number::from_f64(number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::issue::pointer_step;
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(app: Value) -> Result<Value, Vec<String>> {
        canonical(app.as_object().unwrap())
            .map(Value::Object)
            .map_err(|issues| issues.into_iter().filter_map(|issue| issue.pm2).collect())
    }

    #[test]
    fn values_are_brought_to_their_types() {
        for (app, want) in [
            (
                json!({"kill_timeout": "1e3"}),
                json!({"kill_timeout": 1000}),
            ),
            (json!({"kill_timeout": " 5 "}), json!({"kill_timeout": 5})),
            (json!({"kill_timeout": [5]}), json!({"kill_timeout": 5})),
            (json!({"max_restarts": "5.5"}), json!({"max_restarts": 5.5})),
            (
                json!({"stop_exit_codes": [0]}),
                json!({"stop_exit_codes": 0}),
            ),
            (
                json!({"stop_exit_codes": [0, 130]}),
                json!({"stop_exit_codes": [0, 130]}),
            ),
            (json!({"instances": "max"}), json!({"instances": 0})),
            (json!({"args": "a 'b c'"}), json!({"args": ["a", "b c"]})),
            (json!({"args": ["a b", 5]}), json!({"args": ["a b", 5]})),
            (json!({"watch": "a b"}), json!({"watch": "a b"})),
            (json!({"foo": 1, "exec_timeout": 7}), json!({})),
            (json!({"kill_timeout": null, "env": null}), json!({})),
            (
                json!({"maxMemoryRestart": "1M"}),
                json!({"max_memory_restart": "1M"}),
            ),
            (
                json!({"env_x": {"A": 1}, "envx": {}}),
                json!({"env_x": {"A": 1}}),
            ),
        ] {
            assert_eq!(read(app.clone()), Ok(want), "{app}");
        }
    }

    #[test]
    fn the_first_name_that_says_something_wins() {
        for (app, want) in [
            (
                json!({"out": "1", "output": "2", "out_file": "0"}),
                json!({"out_file": "0"}),
            ),
            (json!({"out": "1", "output": "2"}), json!({"out_file": "1"})),
            (
                json!({"out_file": "", "outFile": "c"}),
                json!({"out_file": "c"}),
            ),
            (
                json!({"wait_ready": false, "waitReady": true}),
                json!({"wait_ready": true}),
            ),
        ] {
            assert_eq!(read(app.clone()), Ok(want), "{app}");
        }
    }

    #[test]
    fn zero_and_false_count_where_they_mean_something() {
        for (app, want) in [
            (
                json!({"max_restarts": 0, "wait_ready": false, "kill_retry_time": 0}),
                json!({"wait_ready": false, "max_restarts": 0, "kill_retry_time": 0}),
            ),
            (
                json!({"restart_delay": 0, "autorestart": false}),
                json!({"restart_delay": 0, "autorestart": false}),
            ),
            (
                json!({"max_memory_restart": 0, "exp_backoff_restart_delay": 0}),
                json!({}),
            ),
            (
                json!({"min_uptime": 0, "max_memory_restart": false, "out_file": false, "env": ""}),
                json!({}),
            ),
            (
                json!({"log_date_format": "", "namespace": "", "args": ""}),
                json!({"args": []}),
            ),
            (json!({"cron_restart": 0}), json!({"cron_restart": 0})),
        ] {
            assert_eq!(read(app.clone()), Ok(want), "{app}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_pm2s_words_all_at_once() {
        let found = read(json!({"kill_timeout": "soon", "min_uptime": 50, "autorestart": "yes", "max_restarts": -1})).unwrap_err();
        assert_eq!(
            found,
            [
                "Expect \"kill_timeout\" to be a typeof [object Number], but now is [object String]",
                "Expect \"autorestart\" to be a typeof [object Boolean], but now is [object String]",
                "The minimum of \"min_uptime\" is 100, but now is 50",
                "The minimum of \"max_restarts\" is 0, but now is -1",
            ]
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z_]{1,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_value_under_any_key_panics(at in 0..KEYS.len() + 2, value in any_json()) {
            let name = KEYS.get(at).map_or(if at == KEYS.len() { FORNAX } else { "env_x" }, |key| key.name);
            let raw = Map::from_iter([(name.to_string(), value)]);
            if let Err(issues) = canonical(&raw) {
                for issue in issues {
                    prop_assert!(issue.pointer.starts_with(&pointer_step(name)), "{issue}");
                    prop_assert!(!issue.mend.is_empty());
                }
            }
        }
    }
}
