//! `watch`, `ignore_watch`, `watch_delay` and `watch_options` of an app, as pm2 7.0.4 takes them (spec 4.7).

use super::pattern::Pattern;
use crate::core::spec::paths::resolve;
use crate::core::units::Millis;
use serde_json::{Map, Value};

/// Nothing must have changed for so long before the restart.
const QUIET: Millis = Millis(50);
/// How often a polled tree is looked at, as chokidar's `interval`.
const POLL: Millis = Millis(100);
/// The shortest `interval` that is taken.
const SHORTEST_POLL: Millis = Millis(20);
/// How long `awaitWriteFinish: true` waits.
const WRITE_FINISH: Millis = Millis(2_000);

/// What of the file system an app is watched by. Equal ones share their watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchSpec {
    /// Where relative paths count from; absolute.
    pub cwd: String,
    /// Files, folders and globs.
    pub paths: Vec<Pattern>,
    /// Paths and globs that are left out.
    pub ignored: Vec<Pattern>,
    /// Dotfiles and whatever has `node_modules` in its name are left out: PM2's default, where the app has no list.
    pub default_ignores: bool,
    /// PM2's `watch_delay`: from a change to the restart.
    pub delay: Millis,
    /// How long nothing must have changed.
    pub quiet: Millis,
    /// Looked at this often instead of being told by the kernel.
    pub poll: Option<Millis>,
    /// Links to folders are walked.
    pub follow_links: bool,
    /// What exists when watching begins counts as changed.
    pub initial: bool,
    /// How many folders below a path are walked.
    pub depth: Option<usize>,
}

impl WatchSpec {
    /// From an app's configuration. `None`: it is not watched.
    pub fn from_map(map: &Map<String, Value>, cwd: &str) -> Option<Self> {
        let watched = match map.get("watch")? {
            Value::Bool(true) => Vec::new(),
            Value::String(text) if text == "true" => Vec::new(),
            Value::String(text) if !text.is_empty() && text != "false" => vec![text.clone()],
            Value::Array(_) => texts(map.get("watch")),
            _ => return None,
        };
        let empty = Map::new();
        let options = map
            .get("watch_options")
            .and_then(Value::as_object)
            .unwrap_or(&empty);
        let flag = |name: &str| options.get(name).and_then(Value::as_bool);
        let number = |name: &str| options.get(name).and_then(Value::as_u64);
        let cwd = match options.get("cwd").and_then(Value::as_str) {
            Some(own) => resolve(cwd, own),
            None => resolve(cwd, ""),
        };
        let (left_out, taken): (Vec<String>, Vec<String>) =
            watched.into_iter().partition(|path| path.starts_with('!'));
        let given = [options.get("ignored"), map.get("ignore_watch")];
        let given = given.into_iter().flatten().find(|value| !value.is_null());
        let ignored = texts(given);
        let left_out = left_out.iter().map(|path| &path[1..]);
        let pattern = |path: &str| Pattern::new(&cwd, path);
        let paths = if taken.is_empty() {
            vec![Pattern::Path(cwd.clone())]
        } else {
            taken.iter().map(|path| pattern(path)).collect()
        };
        let quiet = match options.get("awaitWriteFinish") {
            Some(Value::Bool(true)) => WRITE_FINISH,
            Some(Value::Object(finish)) => finish
                .get("stabilityThreshold")
                .and_then(Value::as_u64)
                .map_or(WRITE_FINISH, Millis),
            _ => QUIET,
        };
        Some(Self {
            paths,
            ignored: ignored
                .iter()
                .map(String::as_str)
                .chain(left_out)
                .map(pattern)
                .collect(),
            default_ignores: given.is_none(),
            delay: delay(map.get("watch_delay")),
            quiet: quiet.max(QUIET),
            poll: (flag("usePolling") == Some(true)).then(|| {
                number("interval").map_or(POLL, |interval| Millis(interval).max(SHORTEST_POLL))
            }),
            follow_links: flag("followSymlinks") != Some(false),
            initial: flag("ignoreInitial") == Some(false),
            depth: number("depth").and_then(|depth| usize::try_from(depth).ok()),
            cwd,
        })
    }

    /// A path as the log names it: relative to the app's folder where it lies in it.
    pub fn shown<'a>(&self, path: &'a str) -> &'a str {
        match path.strip_prefix(&self.cwd) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') || self.cwd == "/" => {
                rest.trim_start_matches('/')
            }
            _ => path,
        }
    }
}

/// Text counts as one, of a list only the texts: what JavaScript wrote as a regular expression arrives as `{}`, and PM2 has no
/// use for that either.
fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) if !text.is_empty() => vec![text.clone()],
        Some(Value::Array(items)) => items
            .iter()
            .filter_map(Value::as_str)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}

/// Milliseconds; text from the command line is seconds, or `4000ms`.
fn delay(value: Option<&Value>) -> Millis {
    match value {
        Some(Value::Number(number)) => Millis(number.as_u64().unwrap_or(0)),
        Some(Value::String(text)) => {
            let text = text.trim();
            match (text.parse::<f64>(), Millis::parse(text)) {
                (Ok(seconds), _) if seconds > 0.0 => Millis((seconds * 1_000.0) as u64),
                (_, Some(millis)) => millis,
                _ => Millis(0),
            }
        }
        _ => Millis(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(map: Value) -> Option<WatchSpec> {
        WatchSpec::from_map(map.as_object().unwrap(), "/srv/app")
    }

    #[test]
    fn what_watch_may_be() {
        let path = |text: &str| Pattern::Path(text.to_owned());
        let paths = |watch: Value| spec(json!({"watch": watch})).map(|spec| spec.paths);
        let cwd = Some(vec![path("/srv/app")]);
        for off in [
            json!(false),
            json!(null),
            json!("false"),
            json!(""),
            json!(0),
            json!({}),
        ] {
            assert_eq!(paths(off.clone()), None, "{off}");
        }
        for whole in [
            json!(true),
            json!([]),
            json!("true"),
            json!(["."]),
            json!(["!x"]),
        ] {
            assert_eq!(paths(whole.clone()), cwd, "{whole}");
        }
        let listed = paths(json!(["src", "./lib/*.js", "/etc/app.conf", "../up"]));
        let scripts = Pattern::Glob {
            base: "/srv/app/lib".to_owned(),
            glob: "*.js".to_owned(),
        };
        let want = vec![
            path("/srv/app/src"),
            scripts,
            path("/etc/app.conf"),
            path("/srv/up"),
        ];
        assert_eq!(listed, Some(want));
        assert_eq!(spec(json!({})), None);
    }

    #[test]
    fn options_are_those_of_pm2_and_chokidar() {
        let plain = spec(json!({"watch": true})).unwrap();
        assert_eq!(
            (plain.poll, plain.follow_links, plain.initial),
            (None, true, false)
        );
        assert_eq!((plain.delay, plain.quiet), (Millis(0), Millis(50)));
        assert!(plain.default_ignores && plain.ignored.is_empty());
        let full = spec(json!({"watch": true, "watch_delay": 700, "ignore_watch": "logs", "watch_options": {
            "usePolling": true, "interval": 5, "followSymlinks": false, "ignoreInitial": false, "depth": 2,
            "awaitWriteFinish": {"stabilityThreshold": 300}, "cwd": "sub"}}))
        .unwrap();
        assert_eq!(full.cwd, "/srv/app/sub");
        assert_eq!(
            full.ignored,
            [Pattern::Path("/srv/app/sub/logs".to_owned())]
        );
        assert!(!full.default_ignores);
        assert_eq!(
            (full.poll, full.follow_links, full.initial),
            (Some(Millis(20)), false, true)
        );
        assert_eq!(
            (full.delay, full.quiet, full.depth),
            (Millis(700), Millis(300), Some(2))
        );
        let over =
            json!({"watch": true, "ignore_watch": ["a"], "watch_options": {"ignored": ["b", {}]}});
        assert_eq!(
            spec(over).unwrap().ignored,
            [Pattern::Path("/srv/app/b".to_owned())]
        );
    }

    #[test]
    fn a_delay_is_a_number_of_milliseconds_or_text_in_seconds() {
        let cases = [
            (json!(250), 250),
            (json!("2"), 2_000),
            (json!("0.5"), 500),
            (json!("4000ms"), 4_000),
            (json!("soon"), 0),
            (json!(-5), 0),
            (json!(null), 0),
        ];
        for (written, want) in cases {
            assert_eq!(delay(Some(&written)), Millis(want), "{written}");
        }
    }

    #[test]
    fn a_path_is_shown_as_seen_from_the_app() {
        let spec = spec(json!({"watch": true})).unwrap();
        for (path, want) in [
            ("/srv/app/src/a.js", "src/a.js"),
            ("/srv/app", ""),
            ("/srv/application", "/srv/application"),
            ("/etc/x", "/etc/x"),
        ] {
            assert_eq!(spec.shown(path), want);
        }
    }
}
