//! JavaScript configs, evaluated by the machine's own `node`: its exports come back as JSON.

use super::error::{ConfigError, Problem};
use serde::Deserialize;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// How long a config may take to be evaluated.
const PATIENCE: Duration = Duration::from_secs(30);

/// What node runs. `process.argv[1]` is the file, or empty when an expression comes on stdin; `[2]` is a mark that no
/// output of the config can contain by chance. The config's own output goes to stderr. A file is imported, so that
/// CommonJS, ES modules and `export default` all work; what CommonJS exports stands whole under `default` only.
const EVALUATOR: &str = r"
const [, file, mark] = process.argv;
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
config.then((config) => answer({ config })).catch(fail);
";

/// What the evaluator answers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Failed {
        error: String,
        line: Option<u32>,
        column: Option<u32>,
    },
    Done {
        config: Value,
    },
    Nothing {},
}

/// Evaluates `path` and returns what it exports. Takes at most 30 s and `max` bytes. What the config prints goes to our
/// stderr. Blocks.
pub fn evaluate(name: &str, path: &Path, max: u64) -> Result<Value, ConfigError> {
    let path = std::path::absolute(path).map_err(|source| ConfigError::Unreadable {
        path: path.into(),
        source,
    })?;
    run(name, &path.to_string_lossy(), "", max)
}

/// Evaluates `text` as one JavaScript expression, as PM2 does with every `.json`: `process.env.X` and sums work. Limits as
/// of [`evaluate`].
pub fn evaluate_expression(name: &str, text: &str, max: u64) -> Result<Value, ConfigError> {
    run(name, "", text, max)
}

fn run(name: &str, file: &str, stdin: &str, max: u64) -> Result<Value, ConfigError> {
    let mark = format!("fornax-{}:", uuid::Uuid::new_v4());
    let child = Command::new("node")
        .args(["--input-type=commonjs", "-e", EVALUATOR, "--", file, &mark])
        .stdin(if stdin.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ConfigError::NodeMissing(name.into()),
            _ => ConfigError::Node {
                path: name.into(),
                source,
            },
        })?;
    let output = converse(child, stdin, max).map_err(|source| ConfigError::Node {
        path: name.into(),
        source,
    })?;
    let text = String::from_utf8_lossy(&output);
    let (noise, body) = text
        .rsplit_once(&format!("\n{mark}"))
        .unwrap_or((&text, "{}"));
    if !noise.is_empty() {
        // What the config's own child processes wrote; if stderr is closed there is nobody to tell.
        let _ = io::stderr().write_all(noise.as_bytes());
    }
    let (what, line, column, mend) = match serde_json::from_str(body) {
        Ok(Answer::Done { config }) => return Ok(config),
        Ok(Answer::Failed {
            error,
            line,
            column,
        }) => (
            error,
            line,
            column,
            "mend it there; `node` on the file shows the same",
        ),
        Ok(Answer::Nothing {}) | Err(_) => (
            "exports nothing that is JSON".to_string(),
            None,
            None,
            "end it with `module.exports = { apps: [ … ] }`",
        ),
    };
    Err(ConfigError::Malformed(Box::new(Problem {
        file: name.to_string(),
        line,
        column,
        key: String::new(),
        what,
        mend: mend.to_string(),
        pm2: Some(format!("File {name} malformated")),
    })))
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
