//! Loading an ecosystem file: by its name JSON, YAML or JavaScript, then its apps, each with where it stands.

use super::error::{ConfigError, Problem};
use super::{js, json, yaml};
use crate::core::positions::Positions;
use crate::core::spec::issue::SpecIssue;
use crate::core::spec::raw::whole_or_real;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The most an ecosystem file may hold, and the most a JavaScript config may come to: 10 MiB.
pub const MAX_BYTES: u64 = 10 << 20;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lenient JSON; also what comes on stdin.
    Json,
    /// YAML 1.2.
    Yaml,
    /// JavaScript, evaluated by node or by the engine that is built in.
    JavaScript,
}

impl Format {
    /// By the file's name, as PM2 tells them apart.
    pub fn of(name: &str) -> Self {
        if name.contains(".config.js") && !name.contains(".config.json")
            || name.contains(".config.cjs")
            || name.contains(".config.mjs")
        {
            Format::JavaScript
        } else if name.contains(".yml") || name.contains(".yaml") {
            Format::Yaml
        } else {
            Format::Json
        }
    }
}

/// A loaded file.
#[derive(Debug, Clone)]
pub struct Ecosystem {
    /// Its apps in their order.
    pub apps: Vec<LocatedApp>,
    /// Its `deploy` block.
    pub deploy: Option<Map<String, Value>>,
    /// Its `static` list: folders to be served by PM2's static server.
    pub statics: Vec<Value>,
    /// Variables that the config has set in its own process, `null` for one that it has removed: its apps inherit them.
    pub env: Map<String, Value>,
    /// The file itself.
    pub source: Source,
}

/// One app as written.
#[derive(Debug, Clone)]
pub struct LocatedApp {
    /// Its keys, untouched.
    pub raw: Map<String, Value>,
    /// Where it stands in the file, as a JSON pointer.
    pub pointer: String,
}

/// The file an ecosystem came from.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name as given.
    pub file: String,
    /// Where its keys stand, as far as the format tells.
    positions: Positions,
}

impl Ecosystem {
    /// The issue of an app as a problem of this file, with line, column and the whole key.
    pub fn locate(&self, app: &LocatedApp, issue: &SpecIssue) -> Problem {
        self.source
            .problem(&format!("{}{}", app.pointer, issue.pointer), issue)
    }

    /// The variables that `deploy.<env>.env` sets, which `--env <env>` puts over `env`.
    pub fn deploy_env(&self, env: &str) -> Map<String, Value> {
        let block = self
            .deploy
            .as_ref()
            .and_then(|deploy| deploy.get(env)?.get("env")?.as_object());
        block.cloned().unwrap_or_default()
    }
}

impl Ecosystem {
    /// Does to an environment what the config has done to its own.
    pub fn change_env(&self, env: &mut Map<String, Value>) {
        for (name, value) in &self.env {
            match value {
                Value::Null => drop(env.shift_remove(name)),
                value => drop(env.insert(name.clone(), value.clone())),
            }
        }
    }
}

impl Source {
    fn problem(&self, pointer: &str, issue: &SpecIssue) -> Problem {
        Problem::placed(&self.file, &self.positions, pointer, issue)
    }

    fn malformed(&self, pointer: &str, what: &str, mend: &str) -> ConfigError {
        ConfigError::Malformed(Box::new(
            self.problem(pointer, &SpecIssue::new(pointer, what, mend)),
        ))
    }
}

/// Loads an ecosystem file. Blocks: it reads the file, and for JavaScript runs node.
pub fn load(path: &Path) -> Result<Ecosystem, ConfigError> {
    let name = path.display().to_string();
    let unreadable = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => ConfigError::NotFound(path.into()),
        _ => ConfigError::Unreadable {
            path: path.into(),
            source,
        },
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() && metadata.is_dir() {
        return Err(unreadable(std::io::Error::from(
            std::io::ErrorKind::IsADirectory,
        )));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > MAX_BYTES {
        let bytes = metadata.len().max(text.len() as u64);
        return Err(ConfigError::TooLarge {
            path: path.into(),
            bytes,
            max: MAX_BYTES,
        });
    }
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    match Format::of(&file_name) {
        Format::JavaScript => {
            let evaluated = js::evaluate(&name, path, MAX_BYTES)?;
            let env = evaluated.env;
            Ok(Ecosystem {
                env,
                ..placed(&name, evaluated.config, Positions::default())?
            })
        }
        format => parse(&name, &String::from_utf8_lossy(&text), format),
    }
}

/// Reads an ecosystem from text, such as stdin's. What is no lenient JSON is tried as a JavaScript expression;
/// if it is none either, the error is the JSON parser's.
pub fn parse(name: &str, text: &str, format: Format) -> Result<Ecosystem, ConfigError> {
    let (value, positions) = data(name, text, format).or_else(|error| {
        if format == Format::Yaml {
            return Err(error);
        }
        let evaluated = js::evaluate_expression(name, text, MAX_BYTES).map_err(|_| error)?;
        Ok((
            evaluated.config,
            Positions::of_json(text).unwrap_or_default(),
        ))
    })?;
    placed(name, value, positions)
}

/// [`parse`] for a text that must be data: nothing is evaluated.
pub fn parse_data(name: &str, text: &str, format: Format) -> Result<Ecosystem, ConfigError> {
    let (value, positions) = data(name, text, format)?;
    placed(name, value, positions)
}

fn data(name: &str, text: &str, format: Format) -> Result<(Value, Positions), ConfigError> {
    match format {
        Format::Yaml => yaml::parse(name, text),
        Format::Json | Format::JavaScript => json::parse(name, text),
    }
}

fn placed(name: &str, value: Value, positions: Positions) -> Result<Ecosystem, ConfigError> {
    let file = name.to_string();
    ecosystem(value, Source { file, positions })
}

/// Finds the apps: a list, one app, or either under `apps` or `pm2`.
fn ecosystem(mut value: Value, source: Source) -> Result<Ecosystem, ConfigError> {
    whole_numbers(&mut value);
    let mut top = match value {
        Value::Object(top) => top,
        Value::Array(apps) => {
            let apps = located(apps, "", &source)?;
            return Ok(Ecosystem {
                apps,
                deploy: None,
                statics: Vec::new(),
                env: Map::new(),
                source,
            });
        }
        _ => {
            return Err(source.malformed(
                "",
                "is neither a list nor an object",
                "write { \"apps\": [ … ] }",
            ));
        }
    };
    let deploy = match top.shift_remove("deploy") {
        Some(Value::Object(deploy)) => Some(deploy),
        _ => None,
    };
    let statics = match top.shift_remove("static") {
        Some(Value::Array(statics)) => statics,
        _ => Vec::new(),
    };
    let under = ["apps", "pm2"]
        .into_iter()
        .find(|key| top.contains_key(*key));
    let apps =
        match under.and_then(|key| top.shift_remove(key).map(|apps| (format!("/{key}"), apps))) {
            Some((pointer, Value::Array(apps))) => located(apps, &pointer, &source)?,
            Some((pointer, Value::Object(raw))) => vec![LocatedApp { raw, pointer }],
            Some((pointer, _)) => {
                return Err(source.malformed(
                    &pointer,
                    "is not a list of apps",
                    "write a list of objects: [ { \"script\": \"app.js\" } ]",
                ));
            }
            None if statics.is_empty() => vec![LocatedApp {
                raw: top,
                pointer: String::new(),
            }],
            None => Vec::new(),
        };
    Ok(Ecosystem {
        apps,
        deploy,
        statics,
        env: Map::new(),
        source,
    })
}

fn located(apps: Vec<Value>, under: &str, source: &Source) -> Result<Vec<LocatedApp>, ConfigError> {
    apps.into_iter()
        .enumerate()
        .map(|(index, app)| {
            let pointer = format!("{under}/{index}");
            match app {
                Value::Object(raw) => Ok(LocatedApp { raw, pointer }),
                _ => Err(source.malformed(
                    &pointer,
                    "is not an app",
                    "write an object with a `script`: { \"script\": \"app.js\" }",
                )),
            }
        })
        .collect()
}

/// `1000.0` becomes `1000`, as JavaScript writes it.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(whole) = number.as_f64().and_then(whole_or_real) {
                *number = whole;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(members) => members.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(text: &str) -> Vec<String> {
        parse("e.json", text, Format::Json)
            .unwrap()
            .apps
            .into_iter()
            .map(|app| app.pointer)
            .collect()
    }

    #[test]
    fn the_apps_are_found_in_every_shape_of_file() {
        for (text, want) in [
            ("[{script: 'a'}, {script: 'b'}]", vec!["/0", "/1"]),
            ("{script: 'a'}", vec![""]),
            ("{apps: [{script: 'a'}]}", vec!["/apps/0"]),
            ("{pm2: [{script: 'a'}]}", vec!["/pm2/0"]),
            ("{apps: {script: 'a'}}", vec!["/apps"]),
            ("{apps: []}", vec![]),
            ("{static: [{path: '.'}]}", vec![]),
        ] {
            assert_eq!(pointers(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_no_app_is_named_with_its_place() {
        for (text, want) in [
            ("{\napps: [{}, 5]}", "e.json:2:12: apps[1]: is not an app"),
            ("{apps: 'x'}", "e.json:1:8: apps: is not a list"),
            ("5", "e.json:1:1: is neither"),
            ("{apps:[\n{script:}]}", "e.json:2:9: is not JSON"),
            ("", "e.json:1:1: is not JSON"),
        ] {
            let error = parse("e.json", text, Format::Json).unwrap_err().to_string();
            assert!(error.starts_with(want), "{error}");
        }
    }

    #[test]
    fn a_format_is_told_by_the_name() {
        for (name, want) in [
            ("ecosystem.config.js", Format::JavaScript),
            ("e.config.mjs", Format::JavaScript),
            ("ecosystem.config.json", Format::Json),
            ("e.json5", Format::Json),
            ("e.yml", Format::Yaml),
            ("-", Format::Json),
        ] {
            assert_eq!(Format::of(name), want, "{name}");
        }
    }
}
