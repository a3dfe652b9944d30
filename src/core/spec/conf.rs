//! An instance's configuration as it came over the wire, kept compact: JSON text, whose environment many instances share.
//!
//! PM2's clients want every key back (`jlist`), the environment twice. Text costs a tenth of a tree of values.

use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Keys that tell how a run goes, not how it is configured: the daemon writes them itself, whatever a dump says.
pub const RUNTIME_KEYS: [&str; 19] = [
    "vizion_running",
    "env",
    "status",
    "pm_uptime",
    "axm_actions",
    "axm_monitor",
    "axm_options",
    "axm_dynamic",
    "created_at",
    "pm_id",
    "unique_id",
    "restart_time",
    "unstable_restarts",
    "version",
    "node_version",
    "exit_code",
    "prev_restart_delay",
    "fornax_state",
    "_tree_pids",
];

/// What a list shows of a configuration, its name apart.
const LISTED: [&str; 7] = [
    "namespace",
    "exec_mode",
    "username",
    "uid",
    "watch",
    "pmx_module",
    "_km_monitored",
];

/// Keys that belong to one life of an instance, which PM2 leaves out of its dump.
const NOT_DUMPED: [&str; 4] = ["instances", "pm_id", "prev_restart_delay", "fornax_state"];

/// Whether these bytes are a dump: a JSON array, of whatever.
///
/// # Errors
/// What the parser says, with line and column.
pub fn is_dump(bytes: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<Vec<serde::de::IgnoredAny>>(bytes)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// A `pm2_env` as it is dumped.
pub fn dumped(mut env: Value) -> Value {
    if let Some(map) = env.as_object_mut() {
        map.retain(|key, _| !NOT_DUMPED.contains(&key.as_str()));
    }
    env
}

/// The configuration of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conf {
    /// Its keys but the environment, as the inside of a JSON object.
    pub head: Arc<str>,
    /// Those of them that a list shows.
    pub listed: Arc<str>,
    /// Its environment but `own`, as a JSON object.
    pub env: Arc<str>,
    /// The variable of its environment that bears the app's own name, as the inside of a JSON object; often empty. PM2 gives
    /// one to every app of a file, and no two apps could share their environment with it.
    pub own: Box<str>,
    /// The environment again as the inside of a JSON object, without what `head` or the daemon says itself.
    pub flat: Arc<str>,
}

impl Conf {
    /// From the object that `prepare` carries.
    pub fn new(map: &Map<String, Value>) -> Self {
        let empty = Map::new();
        let env = map.get("env").and_then(Value::as_object).unwrap_or(&empty);
        // The daemon adds it: here it would keep two apps of one shell from sharing their text.
        let told = |key: &str| key != "unique_id";
        let configured = |key: &str| map.contains_key(key) || RUNTIME_KEYS.contains(&key);
        let name = map.get("name").and_then(Value::as_str);
        let own = |key: &str| Some(key) == name && !configured(key);
        let shared = || env.iter().filter(|(key, _)| told(key) && !own(key));
        Self {
            head: inside(
                map.iter()
                    .filter(|(key, _)| !RUNTIME_KEYS.contains(&key.as_str())),
            )
            .into(),
            listed: inside(map.iter().filter(|(key, _)| LISTED.contains(&key.as_str()))).into(),
            env: format!("{{{}}}", inside(shared())).into(),
            own: inside(env.iter().filter(|(key, _)| own(key))).into(),
            flat: inside(shared().filter(|(key, _)| !configured(key))).into(),
        }
    }

    /// Back to the object.
    pub fn to_map(&self) -> Map<String, Value> {
        let object = format!("{{{}}}", self.head);
        let mut map: Map<String, Value> =
            serde_json::from_str(&object).expect("head was written by Conf::new");
        map.insert("env".to_owned(), Value::Object(self.env_map()));
        map
    }

    /// The environment as an object.
    pub fn env_map(&self) -> Map<String, Value> {
        let written = "env and own were written by Conf::new";
        let mut env: Map<String, Value> = serde_json::from_str(&self.env).expect(written);
        let own: Map<String, Value> =
            serde_json::from_str(&format!("{{{}}}", self.own)).expect(written);
        env.extend(own);
        env
    }

    /// What the process sees: each scalar of the configuration and of the environment, as text (pm2 7.0.4, spec 1.4).
    /// The environment wins over a configuration key of the same name.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut seen = BTreeMap::new();
        for object in [
            &*format!("{{{}}}", self.head),
            &self.env,
            &*format!("{{{}}}", self.own),
        ] {
            // Straight from the text: an app that has crashed waits for this.
            serde_json::Deserializer::from_str(object)
                .deserialize_map(Scalars(&mut seen))
                .expect("head, env and own were written by Conf::new");
        }
        seen
    }
}

/// Puts the scalars of a JSON object into a map, as text.
struct Scalars<'a>(&'a mut BTreeMap<String, String>);

impl<'de> Visitor<'de> for Scalars<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<String>()? {
            match entries.next_value::<Value>()? {
                Value::String(text) => drop(self.0.insert(key, text)),
                other => drop(scalar(&other).map(|text| self.0.insert(key, text))),
            }
        }
        Ok(())
    }
}

/// A JSON scalar as an environment variable's text.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Array(_) | Value::Object(_) => None,
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
    }
}

fn inside<'a>(entries: impl Iterator<Item = (&'a String, &'a Value)>) -> String {
    let mut out = String::new();
    for (key, value) in entries {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(&Value::String(key.clone()).to_string());
        out.push(':');
        out.push_str(&value.to_string());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn conf(value: Value) -> Conf {
        Conf::new(value.as_object().unwrap())
    }

    #[test]
    fn what_goes_in_comes_out_less_the_runtime_keys() {
        let value = json!({"name": "a\"b", "args": ["x"], "env": {"A": "1", "name": "shadowed"}, "pm_id": 7, "status": "online"});
        let conf = conf(value);
        assert_eq!(
            Value::Object(conf.to_map()),
            json!({"name": "a\"b", "args": ["x"], "env": {"A": "1", "name": "shadowed"}})
        );
        assert_eq!(&*conf.flat, r#""A":"1""#);
    }

    #[test]
    fn what_a_list_shows_is_kept_apart_in_the_words_it_came_in() {
        let listed = |value| conf(value).listed.to_string();
        let app = json!({"name": "a", "watch": ["src"], "args": ["x"], "namespace": 7, "env": {"watch": "1"}});
        assert_eq!(listed(app), r#""watch":["src"],"namespace":7"#);
        assert_eq!(listed(json!({"name": "a"})), "");
    }

    #[test]
    fn apps_of_one_file_have_equal_texts_but_for_the_variable_of_their_name() {
        let of = |name: &str| {
            conf(json!({"name": name, "env": {"A": "1", name: "{}", "unique_id": name}}))
        };
        let (one, two) = (of("one"), of("two"));
        assert_eq!((&one.env, &one.flat), (&two.env, &two.flat));
        assert_eq!(Value::Object(one.env_map()), json!({"A": "1", "one": "{}"}));
        assert_eq!(one.environment()["one"], "{}");
    }

    #[test]
    fn the_process_sees_scalars_only_and_its_own_environment_wins() {
        let conf = conf(
            json!({"name": "a", "watch": false, "args": ["x"], "port": 80, "env": {"name": "mine", "N": 1, "O": {}, "Z": null}}),
        );
        let seen = conf.environment();
        let want = [
            ("N", "1"),
            ("name", "mine"),
            ("port", "80"),
            ("watch", "false"),
        ];
        assert_eq!(
            seen.iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect::<Vec<_>>(),
            want
        );
    }
}
