//! Paths of an app: resolved as Node resolves them, and the log and pid files PM2 gives it (pm2-behaviour 1.1, 4.9).
//!
//! The `-<pm_id>` in file names is put there by the daemon, once the id is known.

use super::context::StartContext;
use serde_json::{Map, Value};

/// `path` as seen from `base`, which is absolute: `.` and `..` resolved, doubled slashes and a last one dropped.
pub fn resolve(base: &str, path: &str) -> String {
    let whole = if path.starts_with('/') {
        path.to_string()
    } else {
        format!("{base}/{path}")
    };
    let mut steps: Vec<&str> = Vec::new();
    for step in whole.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()),
            step => steps.push(step),
        }
    }
    format!("/{}", steps.join("/"))
}

/// The file name of a script without its last extension: `./sub/a.js` is `a`, `node ./x.js --v=1.2` is `x.js --v=1`.
pub fn default_name(script: &str) -> String {
    let file = script
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(script);
    match file.rfind('.') {
        Some(at) if at > 0 => file[..at].to_string(),
        _ => file.to_string(),
    }
}

/// The longest name of an app or a namespace, in bytes: a file's name holds 255, and more than the name stands in it.
const LONGEST_NAME: usize = 200;

/// What is wrong with the name of an app or a namespace. Line ends and escape sequences in one would forge lines of logs and
/// terminals; a NUL can be handed to no program.
pub fn name_fault(name: &str) -> Option<String> {
    if name.len() > LONGEST_NAME {
        Some(format!("it is longer than {LONGEST_NAME} bytes"))
    } else {
        let control = name.chars().find(|c| c.is_control())?;
        Some(format!("it holds the control character {control:?}"))
    }
}

/// A name as part of a file name: each character but letters, digits, `.`, `-` and `\` becomes `-`.
pub fn file_name(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '\\') {
                c
            } else {
                '-'
            }
        })
        .collect()
}

/// Takes the log and pid keys out of `conf` and puts the resolved paths in their place.
pub fn place_files(conf: &mut Map<String, Value>, name: &str, cwd: &str, ctx: &StartContext) {
    let file = file_name(name);
    let at = |text: &str| match text {
        "NULL" | "/dev/null" => "/dev/null".to_string(),
        text => resolve(cwd, &expand_home(text, ctx)),
    };
    let written = |key: &str, conf: &mut Map<String, Value>| match conf.shift_remove(key) {
        Some(Value::String(text)) => Some(at(&text)),
        Some(Value::Bool(true)) => Some(format!("{}/{file}.log", ctx.log_dir)),
        _ => None,
    };
    if let Some(path) = written("log_file", conf) {
        conf.insert("pm_log_path".into(), path.into());
    }
    let out =
        written("out_file", conf).unwrap_or_else(|| format!("{}/{file}-out.log", ctx.log_dir));
    conf.insert("pm_out_log_path".into(), out.into());
    let error =
        written("error_file", conf).unwrap_or_else(|| format!("{}/{file}-error.log", ctx.log_dir));
    conf.insert("pm_err_log_path".into(), error.into());
    let pid = written("pid_file", conf).unwrap_or_else(|| format!("{}/{file}.pid", ctx.pid_dir));
    conf.insert("pm_pid_path".into(), pid.into());
}

/// `~` and `~/…` with the client's HOME in its place.
fn expand_home(path: &str, ctx: &StartContext) -> String {
    match (path.strip_prefix('~'), ctx.var("HOME")) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            format!("{home}{rest}")
        }
        _ => path.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_resolve_as_node_resolves_them() {
        for (base, path, want) in [
            ("/srv", "a.js", "/srv/a.js"),
            ("/srv", "./sub/../a.js", "/srv/a.js"),
            ("/srv", "/bin//ls/", "/bin/ls"),
            ("/srv", "", "/srv"),
            ("/", "../..", "/"),
            ("/srv", "~", "/srv/~"),
        ] {
            assert_eq!(resolve(base, path), want, "{base} {path}");
        }
    }

    #[test]
    fn a_script_gives_its_app_a_name() {
        for (script, want) in [
            ("a.js", "a"),
            ("./sub/web.server.js", "web.server"),
            ("sub/", "sub"),
            (".", "."),
            (".hidden", ".hidden"),
            ("node ./once.js --v=1.2", "once.js --v=1"),
            ("python3 -c 'print(1)'", "python3 -c 'print(1)'"),
            ("python3 -m http.server 80", "python3 -m http"),
        ] {
            assert_eq!(default_name(script), want);
        }
    }

    #[test]
    fn odd_characters_of_a_name_become_dashes_in_files() {
        assert_eq!(file_name("my app/é_x"), "my-app---x");
        assert_eq!(file_name(r"web-2.b\c"), r"web-2.b\c");
    }
}
