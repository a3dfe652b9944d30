//! What the daemon takes from its environment and from PM2's `module_conf.json`.

use crate::core::signal::Signal;
use crate::core::spec::app::Defaults;
use crate::core::spec::fornax::LogRotation;
use crate::core::units::{Bytes, Millis};
use crate::sys::versions::Versioned;
use serde_json::Value;
use std::path::Path;

/// Settings that apply to every app.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Log rotation where an app says nothing.
    pub rotation: LogRotation,
    /// Stop and readiness defaults.
    pub defaults: Defaults,
    /// How often memory limits are looked at (`PM2_WORKER_INTERVAL`).
    pub worker_interval: Millis,
}

/// pm2 7.0.4's worker interval.
const WORKER_INTERVAL: Millis = Millis(30_000);
/// The shortest one taken: figures are no fresher.
const SHORTEST_WORKER_INTERVAL: Millis = Millis(250);

impl Default for Settings {
    fn default() -> Self {
        Self {
            rotation: LogRotation::default(),
            defaults: Defaults::default(),
            worker_interval: WORKER_INTERVAL,
        }
    }
}

impl Settings {
    /// From `module_conf.json` (its text, if there is one) and the daemon's environment. What can't be read keeps its default.
    pub fn load(module_conf: Option<&str>, env: impl Fn(&str) -> Option<String>) -> Self {
        let number = |name| env(name).and_then(|text| text.parse().ok()).map(Millis);
        let mut defaults = Defaults::default();
        defaults.kill_timeout = number("PM2_KILL_TIMEOUT").unwrap_or(defaults.kill_timeout);
        defaults.listen_timeout =
            number("PM2_GRACEFUL_LISTEN_TIMEOUT").unwrap_or(defaults.listen_timeout);
        defaults.kill_signal = env("PM2_KILL_SIGNAL")
            .and_then(|name| Signal::parse(&name))
            .unwrap_or(defaults.kill_signal);
        // PM2 takes any value but an empty one for yes.
        defaults.by_message = env("PM2_KILL_USE_MESSAGE").is_some_and(|text| !text.is_empty());
        let conf: Value = module_conf
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        Self {
            rotation: rotation(&conf["pm2-logrotate"]),
            defaults,
            worker_interval: number("PM2_WORKER_INTERVAL").map_or(WORKER_INTERVAL, |interval| {
                interval.max(SHORTEST_WORKER_INTERVAL)
            }),
        }
    }
}

/// The text of `module_conf.json`; where it is broken it is set aside, told, and the one before it is used.
pub fn stored(path: &Path) -> Option<String> {
    let mut backup = path.as_os_str().to_owned();
    backup.push(".bak");
    let found = Versioned::pair(path.to_owned(), backup.into()).read(|bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if text.trim().is_empty() {
            return Ok(text);
        }
        let parsed: Result<serde::de::IgnoredAny, _> = serde_json::from_str(&text);
        parsed.map(|_| text).map_err(|error| error.to_string())
    });
    for broken in found.broken {
        tracing::warn!(%broken, "the settings cannot be read");
    }
    found.version.map(|(text, _)| text)
}

/// The keys people set today for the pm2-logrotate module: `max_size`, `retain`, `compress`. Its `rotateInterval` is a clock
/// we don't need: size alone bounds the disk.
fn rotation(section: &Value) -> LogRotation {
    let text = |key: &str| match &section[key] {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    };
    let default = LogRotation::default();
    LogRotation {
        rotate: text("rotate").is_none_or(|word| word != "false"),
        max_size: text("max_size")
            .and_then(|size| Bytes::parse(&size))
            .filter(|size| *size > Bytes(0))
            .unwrap_or(default.max_size),
        // The module's word for "keep everything" is `all`.
        retain: text("retain").map_or(default.retain, |count| {
            if count == "all" {
                u32::MAX
            } else {
                count.parse().unwrap_or(default.retain)
            }
        }),
        compress: text("compress").is_some_and(|word| word == "true"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logrotate_modules_keys_set_the_built_in_rotation() {
        let conf = r#"{"pm2-logrotate": {"max_size": "5M", "retain": "7", "compress": "true"}}"#;
        let settings = Settings::load(Some(conf), |_| None);
        let want = LogRotation {
            rotate: true,
            max_size: Bytes(5 << 20),
            retain: 7,
            compress: true,
        };
        assert_eq!(settings.rotation, want);
        assert_eq!(
            Settings::load(Some("not json"), |_| None).rotation,
            LogRotation::default()
        );
    }

    #[test]
    fn the_environment_changes_the_stop_defaults() {
        let env = |name: &str| match name {
            "PM2_KILL_TIMEOUT" => Some("4000".to_owned()),
            "PM2_KILL_SIGNAL" => Some("SIGTERM".to_owned()),
            _ => None,
        };
        let defaults = Settings::load(None, env).defaults;
        assert_eq!(
            (defaults.kill_timeout, defaults.kill_signal),
            (Millis(4_000), Signal::TERM)
        );
    }
}
