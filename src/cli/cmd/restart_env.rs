//! What a restart carries of the environment, and of the app's own variables.

use crate::core::spec::normalise::AppConf;
use crate::core::spec::raw;
use serde_json::{Map, Value};

/// What a restart from a file carries: with variables of its own, those; else the whole environment of this shell.
pub(super) fn merged_env(conf: &AppConf, own_env: &[String]) -> Value {
    let all = conf
        .0
        .get("env")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let mut env: Map<String, Value> = if own_env.is_empty() {
        all
    } else {
        all.into_iter()
            .filter(|(name, _)| own_env.contains(name))
            .collect()
    };
    env.insert("current_conf".to_owned(), without_env(conf));
    Value::Object(env)
}

/// The keys of an app, without its environment.
pub(super) fn without_env(conf: &AppConf) -> Value {
    Value::Object(
        conf.0
            .iter()
            .filter(|(key, _)| *key != "env")
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    )
}

/// The names of the app's own variables, of its `env` and every `env_<name>` block.
pub(super) fn own_env(app: &Map<String, Value>) -> Vec<String> {
    let blocks = app
        .iter()
        .filter(|(key, _)| *key == "env" || raw::is_env_block(key));
    blocks
        .filter_map(|(_, block)| block.as_object())
        .flat_map(Map::keys)
        .cloned()
        .collect()
}
