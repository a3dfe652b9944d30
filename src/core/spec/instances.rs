//! From an app to its instances: how many, and what each gets of its own (pm2 7.0.4, spec 3.6, 4.8, 4.9).

use crate::core::ids::PmId;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The most instances of one app: a typing error must not start a million processes.
pub const MOST: usize = 1_000;

/// How many instances a `prepare` asks for: `(count, numbered)`. Without `instances` (a restored dump) it is one, which
/// keeps the number it has.
pub fn count(map: &Map<String, Value>, cpus: usize) -> (usize, bool) {
    let asked = match map.get("instances") {
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::String(text)) if text == "max" => Some(0),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    let cpus = i64::try_from(cpus).unwrap_or(1);
    match asked {
        None => (1, false),
        Some(0) => (cpus.max(1) as usize, true),
        Some(less) if less < 0 => ((cpus + less).max(1) as usize, true),
        Some(more) => (usize::try_from(more).unwrap_or(usize::MAX), true),
    }
}

/// The indexes and the increments that an app's instances have: what the next one is numbered by.
#[derive(Debug, Default)]
pub struct Numbering {
    taken: BTreeSet<u64>,
    last: Option<i64>,
}

impl Numbering {
    /// Of the instances there are, when `conf` is the next one's.
    pub fn of<'a>(
        existing: impl Iterator<Item = Map<String, Value>> + 'a,
        conf: &Map<String, Value>,
    ) -> Self {
        let variable = conf.get("increment_var").and_then(Value::as_str);
        let mut numbering = Self::default();
        for map in existing {
            numbering.taken.extend(index(&map));
            let own = variable.and_then(|variable| map.get(variable)?.as_i64());
            numbering.last = numbering.last.max(own);
        }
        numbering
    }

    /// Gives the next instance the lowest index that is free and the next increment.
    pub fn number(&mut self, conf: &mut Map<String, Value>) {
        let free = (0..).find(|index| !self.taken.contains(index)).unwrap_or(0);
        self.taken.insert(free);
        set_index(conf, free);
        self.last = set_increment(conf, self.last).or(self.last);
    }
}

/// The variable that tells an instance its index.
pub fn index_variable(map: &Map<String, Value>) -> String {
    match map.get("instance_var").and_then(Value::as_str) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "NODE_APP_INSTANCE".to_owned(),
    }
}

/// Writes the instance's index where PM2 does.
fn set_index(map: &mut Map<String, Value>, index: u64) {
    let variable = index_variable(map);
    map.insert(variable, Value::from(index));
}

/// The index an instance has.
fn index(map: &Map<String, Value>) -> Option<u64> {
    map.get(&index_variable(map)).and_then(Value::as_u64)
}

/// Gives the instance its value of `increment_var`: the first keeps the number in its environment (0 if none), each
/// further one gets the last one's plus one.
fn set_increment(map: &mut Map<String, Value>, last: Option<i64>) -> Option<i64> {
    let variable = map.get("increment_var")?.as_str()?.to_owned();
    let env = map.get("env").and_then(Value::as_object);
    let own = env.and_then(|env| counted(env, &variable));
    let value = last.map_or(own.unwrap_or(0), |last| last.saturating_add(1));
    map.insert(variable.clone(), Value::from(value));
    if let Some(env) = map.get_mut("env").and_then(Value::as_object_mut) {
        env.insert(variable, Value::from(value));
    }
    Some(value)
}

/// The number that a variable holds.
fn counted(env: &Map<String, Value>, variable: &str) -> Option<i64> {
    match env.get(variable)? {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A restart whose environment has the variable of `increment_var` gives the instance that value, as to every other (pm2 7.0.4).
pub fn recount(map: &mut Map<String, Value>, env: &Map<String, Value>) {
    let variable = map.get("increment_var").and_then(Value::as_str);
    let told = variable.and_then(|variable| Some((variable.to_owned(), counted(env, variable)?)));
    if let Some((variable, value)) = told {
        map.insert(variable, Value::from(value));
    }
}

/// Numbers the instance's files: `x.log` becomes `x-3.log`, unless its logs are merged; `x.pid` always.
pub fn set_paths(map: &mut Map<String, Value>, id: PmId) {
    let merged = map
        .get("merge_logs")
        .is_some_and(|value| *value == Value::Bool(true));
    if !merged {
        for key in ["pm_out_log_path", "pm_err_log_path", "pm_log_path"] {
            renumber(map, key, ".log", id);
        }
    }
    renumber(map, "pm_pid_path", ".pid", id);
}

fn renumber(map: &mut Map<String, Value>, key: &str, extension: &str, id: PmId) {
    if let Some(Value::String(path)) = map.get_mut(key)
        && let Some(stem) = path.strip_suffix(extension)
    {
        let digits = stem.rfind('-').filter(|at| {
            stem.len() > at + 1 && stem[at + 1..].bytes().all(|byte| byte.is_ascii_digit())
        });
        let stem = digits.map_or(stem, |at| &stem[..at]);
        *path = format!("{stem}-{id}{extension}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn instances_are_counted_from_the_cpus() {
        for (value, want) in [
            (json!({}), (1, false)),
            (json!({"instances": 3}), (3, true)),
            (json!({"instances": 0}), (4, true)),
            (json!({"instances": "max"}), (4, true)),
            (json!({"instances": -1}), (3, true)),
            (json!({"instances": -9}), (1, true)),
        ] {
            assert_eq!(count(&map(value.clone()), 4), want, "{value}");
        }
        let existing = [0, 1, 3].map(|index| map(json!({"NODE_APP_INSTANCE": index})));
        let mut next = map(json!({}));
        Numbering::of(existing.into_iter(), &next).number(&mut next);
        assert_eq!(next["NODE_APP_INSTANCE"], 2);
    }

    #[test]
    fn files_are_numbered_unless_merged() {
        let mut numbered = map(
            json!({"pm_out_log_path": "/l/a-out.log", "pm_err_log_path": "/l/b-12.log", "pm_pid_path": "/p/web-2.pid"}),
        );
        set_paths(&mut numbered, PmId(7));
        assert_eq!(
            Value::Object(numbered),
            json!({"pm_out_log_path": "/l/a-out-7.log", "pm_err_log_path": "/l/b-7.log", "pm_pid_path": "/p/web-7.pid"})
        );
        let mut merged = map(
            json!({"pm_out_log_path": "/l/a.log", "merge_logs": true, "pm_pid_path": "/p/a.pid"}),
        );
        set_paths(&mut merged, PmId(7));
        assert_eq!(
            Value::Object(merged),
            json!({"pm_out_log_path": "/l/a.log", "merge_logs": true, "pm_pid_path": "/p/a-7.pid"})
        );
    }

    #[test]
    fn an_increment_starts_at_the_environments_number() {
        let mut first = map(json!({"increment_var": "PORT", "env": {"PORT": "3000"}}));
        assert_eq!(set_increment(&mut first, None), Some(3000));
        let mut second = map(json!({"increment_var": "PORT", "env": {"PORT": 3000}}));
        assert_eq!(set_increment(&mut second, Some(3000)), Some(3001));
        assert_eq!(second["env"]["PORT"], 3001);
        let mut again = second.clone();
        recount(&mut again, &map(json!({"PORT": "3000"})));
        assert_eq!(again["PORT"], 3000);
        recount(&mut again, &map(json!({"OTHER": 1, "PORT": "none"})));
        assert_eq!(again["PORT"], 3000);
        let mut last = map(json!({"increment_var": "PORT", "env": {}}));
        assert_eq!(set_increment(&mut last, Some(i64::MAX)), Some(i64::MAX));
    }
}
