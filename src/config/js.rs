//! JavaScript configs, evaluated by the machine's own `node`, and where there is none by the engine of ours: the exports come back as JSON.

use super::engine;
use super::error::{ConfigError, Problem};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// How long a config may take to be evaluated.
const PATIENCE: Duration = Duration::from_secs(30);

/// What node runs. It is told the file, or nothing when an expression comes on stdin, a mark that no
/// output of the config can contain by chance, and our own command line, which a config sees as PM2's. The config's own output goes to stderr. A file is imported, so that
/// CommonJS, ES modules and `export default` all work; what CommonJS exports stands whole under `default` only.
const EVALUATOR: &str = r"
const [, file, mark, words] = process.argv;
process.argv = [process.execPath, ...JSON.parse(words)];
const before = { ...process.env };
const changes = () => Object.fromEntries([...new Set([...Object.keys(before), ...Object.keys(process.env)])]
  .filter((name) => before[name] !== process.env[name]).map((name) => [name, process.env[name] ?? null]));
const fs = require('fs'), url = require('url'), vm = require('vm');
process.stdout.write = process.stderr.write.bind(process.stderr);
const answer = (body) => {
  const bytes = Buffer.from('\n' + mark + JSON.stringify(body));
  for (let at = 0; at < bytes.length;) {
    try { at += fs.writeSync(1, bytes, at); } catch (e) { if (e.code !== 'EAGAIN') throw e; }
  }
  process.exit(0);
};
const fail = (error) => {
  const stack = String((error && error.stack) || error);
  const names = file === '' ? [] : [file, fs.realpathSync(file)].flatMap((name) => [name, url.pathToFileURL(name).href]);
  let line = null, column = null;
  for (const name of names) {
    const found = stack.split(name + ':')[1];
    const digits = found && /^(\d+)(?::(\d+))?/.exec(found);
    if (digits && line === null) { line = Number(digits[1]); column = digits[2] ? Number(digits[2]) : null; }
  }
  const what = error && error.message ? (error.name || 'Error') + ': ' + error.message : String(error);
  answer({ error: what.split('\n')[0], line, column });
};
process.on('uncaughtException', fail);
process.on('unhandledRejection', fail);
const tells = (o) => o && (Array.isArray(o) || 'apps' in Object(o) || 'pm2' in Object(o) || 'script' in Object(o));
const unwrap = (exports) => {
  const layers = [exports, exports.default, Object(exports.default).default].filter((o) => o !== undefined && o !== null);
  const config = [layers[1], layers[2], layers[0]].find(tells) || layers[1] || layers[0];
  if (typeof config === 'function') throw new TypeError('the file exports a function, not the config itself');
  return config === exports ? { ...exports } : config;
};
const read = () => vm.runInThisContext('(' + fs.readFileSync(0, 'utf8') + '\n)');
const config = file === '' ? Promise.resolve().then(read) : import(url.pathToFileURL(file).href).then(unwrap);
config.then((config) => answer({ config, env: changes() })).catch(fail);
";

/// What a config comes to.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Evaluated {
    /// What it exports.
    pub config: Value,
    /// The variables of its process that it has set, or with `null` removed: `dotenv` does so, and PM2's apps inherit them.
    #[serde(default)]
    pub env: Map<String, Value>,
}

/// What node answers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Failed {
        error: String,
        line: Option<u32>,
        column: Option<u32>,
    },
    Done(Evaluated),
    Nothing {},
}

/// Who evaluates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evaluator {
    /// `node` of `PATH`.
    Node,
    /// The engine that is built in.
    Embedded,
}

/// Evaluates `path` and returns what it exports: by node, or where there is none by the engine that is built in. Takes at most
/// 30 s and `max` bytes. What the config prints goes to our stderr. Blocks.
pub(super) fn evaluate(name: &str, path: &Path, max: u64) -> Result<Evaluated, ConfigError> {
    let path = absolute(path)?;
    match by_node(name, &path.to_string_lossy(), "", max) {
        Some(outcome) => outcome,
        None => by_engine(name, engine::Source::File(&path), max),
    }
}

/// [`evaluate`] by one of the two, to be compared with the other. A `node` that is not there is an error.
///
/// # Errors
/// As of a config file that cannot be loaded.
pub fn evaluate_by(evaluator: Evaluator, path: &Path, max: u64) -> Result<Evaluated, ConfigError> {
    let (name, path) = (path.display().to_string(), absolute(path)?);
    match evaluator {
        Evaluator::Node => by_node(&name, &path.to_string_lossy(), "", max).unwrap_or_else(|| {
            Err(ConfigError::Node {
                path: path.clone(),
                source: io::ErrorKind::NotFound.into(),
            })
        }),
        Evaluator::Embedded => by_engine(&name, engine::Source::File(&path), max),
    }
}

/// Evaluates `text` as one JavaScript expression, as PM2 does with every `.json`: `process.env.X` and sums work. Limits as
/// of [`evaluate`].
pub(super) fn evaluate_expression(
    name: &str,
    text: &str,
    max: u64,
) -> Result<Evaluated, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    by_node(name, "", text, max)
        .unwrap_or_else(|| by_engine(name, engine::Source::Expression(text), max))
}

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|source| ConfigError::Unreadable {
        path: path.into(),
        source,
    })
}

/// What the user typed: a config sees it behind `node`, as PM2's sees PM2's.
fn words() -> Vec<String> {
    std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

fn by_engine(name: &str, source: engine::Source<'_>, max: u64) -> Result<Evaluated, ConfigError> {
    let argv: Vec<String> = std::iter::once("/usr/bin/node".to_owned())
        .chain(words())
        .collect();
    let wrong = |what: String, line, column, mend: &str| malformed(name, what, line, column, mend);
    match engine::evaluate(source, &argv, PATIENCE) {
        Ok(text) if text.len() as u64 > max => Err(wrong(
            format!("comes to more than {max} bytes"),
            None,
            None,
            "export less",
        )),
        Ok(text) => match serde_json::from_str(&text) {
            Ok(Answer::Done(evaluated)) => Ok(evaluated),
            Ok(_) | Err(_) => Err(nothing(name)),
        },
        Err(engine::Failure { what, line, column }) => Err(wrong(
            what,
            line,
            column,
            "mend it there (there is no `node` in PATH, so the engine of fornax has evaluated it)",
        )),
    }
}

/// `None`: there is no node.
fn by_node(
    name: &str,
    file: &str,
    stdin: &str,
    max: u64,
) -> Option<Result<Evaluated, ConfigError>> {
    let mark = format!("fornax-{}:", uuid::Uuid::new_v4());
    let words = serde_json::Value::from(words()).to_string();
    let child = Command::new("node")
        .args([
            "--input-type=commonjs",
            "-e",
            EVALUATOR,
            "--",
            file,
            &mark,
            &words,
        ])
        .stdin(if stdin.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .spawn();
    let failed = |source| ConfigError::Node {
        path: name.into(),
        source,
    };
    let output = match child {
        Ok(child) => converse(child, stdin, max).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => Err(failed(error)),
    };
    Some(output.and_then(|output| answer(name, &mark, &output)))
}

/// What node has answered.
fn answer(name: &str, mark: &str, output: &[u8]) -> Result<Evaluated, ConfigError> {
    let text = String::from_utf8_lossy(output);
    let (noise, body) = text
        .rsplit_once(&format!("\n{mark}"))
        .unwrap_or((&text, "{}"));
    if !noise.is_empty() {
        // What the config's own child processes wrote; if stderr is closed there is nobody to tell.
        let _ = io::stderr().write_all(noise.as_bytes());
    }
    match serde_json::from_str(body) {
        Ok(Answer::Done(evaluated)) => Ok(evaluated),
        Ok(Answer::Failed {
            error,
            line,
            column,
        }) => Err(malformed(
            name,
            error,
            line,
            column,
            "mend it there; `node` on the file shows the same",
        )),
        Ok(Answer::Nothing {}) | Err(_) => Err(nothing(name)),
    }
}

fn nothing(name: &str) -> ConfigError {
    let what = "exports nothing that is JSON".to_owned();
    malformed(
        name,
        what,
        None,
        None,
        "end it with `module.exports = { apps: [ … ] }`",
    )
}

fn malformed(
    name: &str,
    what: String,
    line: Option<u32>,
    column: Option<u32>,
    mend: &str,
) -> ConfigError {
    ConfigError::Malformed(Box::new(Problem {
        file: name.to_string(),
        line,
        column,
        key: String::new(),
        what,
        mend: mend.to_string(),
        pm2: Some(format!("File {name} malformated")),
    }))
}

/// Hands the child its stdin, waits for it to end and returns its stdout; kills it when it takes too long or writes too
/// much.
fn converse(mut child: Child, stdin: &str, max: u64) -> io::Result<Vec<u8>> {
    if let Some(mut pipe) = child.stdin.take() {
        // It reads all of it before it writes anything; if it died at once, that shows below.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let Some(stdout) = child.stdout.take() else {
        return Err(io::Error::other("stdout was not piped"));
    };
    // One message ever: the reader's result.
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let mut output = Vec::new();
        let result = stdout
            .take(max + 1)
            .read_to_end(&mut output)
            .map(|_| output);
        // The receiver is gone when its patience ran out; the result is then of no use.
        let _ = sender.send(result);
    });
    let result = match receiver.recv_timeout(PATIENCE) {
        Ok(Ok(output)) if output.len() as u64 > max => {
            Err(io::Error::other(format!("it wrote more than {max} bytes")))
        }
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it did not end within {} s", PATIENCE.as_secs()),
        )),
    };
    if result.is_err() {
        child.kill()?;
    }
    child.wait()?;
    result
}
