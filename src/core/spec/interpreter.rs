//! Which program runs the script: as written, by its extension, by its shebang (pm2-behaviour 5.4).

use super::context::{Host, StartContext};
use super::issue::SpecIssue;

/// How a script is launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The interpreter, or `none` to execute the script itself.
    pub interpreter: String,
    /// Arguments the interpreter needs, before any of the app's own.
    pub extra_args: Vec<String>,
}

impl Launch {
    pub(super) fn by(interpreter: impl Into<String>) -> Self {
        Self {
            interpreter: interpreter.into(),
            extra_args: Vec::new(),
        }
    }
}

/// How much of a script is read to tell text from a binary, in bytes (pm2 7.0.4).
const HEAD: usize = 512;

/// PM2's table of extensions. TypeScript is a case of its own.
const BY_EXTENSION: [(&str, &str); 8] = [
    ("js", "node"),
    ("py", "python"),
    ("sh", "bash"),
    ("rb", "ruby"),
    ("php", "php"),
    ("pl", "perl"),
    ("coffee", "coffee"),
    ("ls", "lsc"),
];

/// Checks an interpreter that was asked for: a name in PATH, an absolute path, `none`, or `node@<version>` of nvm.
/// `pointer` is where it was asked for.
pub fn given(
    asked: &str,
    pointer: &str,
    ctx: &StartContext,
    host: &dyn Host,
) -> Result<Launch, SpecIssue> {
    if asked == "none" {
        return Ok(Launch::by("none"));
    }
    if let Some(version) = asked.strip_prefix("node@") {
        return nvm(version, pointer, ctx, host);
    }
    available(asked, pointer, ctx, host).map(Launch::by)
}

/// Chooses the interpreter of the script at `path`, which exists.
pub fn choose(path: &str, ctx: &StartContext, host: &dyn Host) -> Result<Launch, SpecIssue> {
    let file = path.rsplit('/').next().unwrap_or(path);
    let extension = file
        .rfind('.')
        .filter(|at| *at > 0)
        .map_or("", |at| &file[at + 1..]);
    match extension {
        "ts" | "tsx" => typescript(ctx, host),
        "py" if !on_path("python", ctx, host) && on_path("python3", ctx, host) => {
            Ok(Launch::by("python3"))
        }
        _ => match BY_EXTENSION.iter().find(|(known, _)| *known == extension) {
            Some((_, program)) => available(program, "/script", ctx, host).map(Launch::by),
            None => by_content(path, ctx, host),
        },
    }
}

/// Whether the interpreter is one for which `instances` means cluster mode.
pub fn clusters(interpreter: &str) -> bool {
    let base = interpreter.rsplit('/').next().unwrap_or(interpreter);
    base.ends_with("node") || base.ends_with("bun")
}

fn path_env(ctx: &StartContext) -> &str {
    ctx.var("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin")
}

fn on_path(program: &str, ctx: &StartContext, host: &dyn Host) -> bool {
    host.which(program, path_env(ctx)).is_some()
}

fn available(
    program: &str,
    pointer: &str,
    ctx: &StartContext,
    host: &dyn Host,
) -> Result<String, SpecIssue> {
    if on_path(program, ctx, host) {
        return Ok(program.to_string());
    }
    Err(SpecIssue::new(
        pointer,
        format!("interpreter {program} is not in PATH"),
        format!("install {program}, or set `interpreter` to the absolute path of one"),
    )
    .in_pm2_words(format!(
        "Interpreter {program} is NOT AVAILABLE in PATH. (type 'which {program}' to double check.)"
    ))
    .about_an_absence())
}

fn nvm(
    version: &str,
    pointer: &str,
    ctx: &StartContext,
    host: &dyn Host,
) -> Result<Launch, SpecIssue> {
    let fallback = ctx.var("HOME").map(|home| format!("{home}/.nvm"));
    let root = ctx
        .var("NVM_DIR")
        .map(str::to_string)
        .or(fallback)
        .unwrap_or_default();
    let node = format!(
        "{root}/versions/node/v{}/bin/node",
        version.trim_start_matches('v')
    );
    if host.is_executable(&node) {
        return Ok(Launch::by(node));
    }
    Err(SpecIssue::new(
        pointer,
        format!("there is no {node}"),
        format!("run `nvm install {version}`, and give the version in full, such as node@20.20.2"),
    )
    .about_an_absence())
}

/// Bun, or a Node that strips types: by itself from 22.18 and 23.6, with a flag from 22.6 (nodejs.org, "Modules: TypeScript").
fn typescript(ctx: &StartContext, host: &dyn Host) -> Result<Launch, SpecIssue> {
    if on_path("bun", ctx, host) {
        return Ok(Launch::by("bun"));
    }
    let version = host
        .which("node", path_env(ctx))
        .and_then(|node| host.node_version(&node));
    match version {
        Some(v) if v >= (23, 6) || ((22, 18)..(23, 0)).contains(&v) => Ok(Launch::by("node")),
        Some(v) if v >= (22, 6) => Ok(Launch { interpreter: "node".into(), extra_args: vec!["--experimental-strip-types".into()] }),
        _ => Err(SpecIssue::new(
            "/script",
            "TypeScript needs bun, or Node.js 22.18 or newer",
            "install one of them, or set `interpreter`, for example to ts-node",
        )
        .in_pm2_words(
            "TypeScript apps require bun, Node.js >= 22.18 (native type stripping) or a custom interpreter (e.g. --interpreter ts-node)",
        )
        .about_an_absence()),
    }
}

/// A binary is executed itself. A text is run as its shebang says (pm2 7.0.4 ignores it), else by Node.
fn by_content(path: &str, ctx: &StartContext, host: &dyn Host) -> Result<Launch, SpecIssue> {
    let head = if host.is_dir(path) {
        Vec::new()
    } else {
        host.read_head(path, HEAD)
    };
    if looks_binary(&head) {
        return Ok(Launch::by("none"));
    }
    match shebang(&head) {
        Some(program) if !clusters(&program) => {
            if host.is_executable(path) {
                return Ok(Launch::by("none"));
            }
            available(&program, "/script", ctx, host).map(Launch::by)
        }
        _ => match host.which("node", path_env(ctx)) {
            Some(node) => Ok(Launch::by(node)),
            None => available("node", "/script", ctx, host).map(Launch::by),
        },
    }
}

fn looks_binary(head: &[u8]) -> bool {
    let odd = head
        .iter()
        .filter(|b| !matches!(b, 7..=13 | 27 | 32..=126 | 128..))
        .count();
    head.contains(&0)
        || odd * 10 > head.len()
        || (std::str::from_utf8(head).is_err_and(|e| e.error_len().is_some())
            && high_bytes(head) * 10 > head.len())
}

fn high_bytes(head: &[u8]) -> usize {
    head.iter().filter(|b| **b >= 128).count()
}

/// The program a `#!` line names; the one after `env` where it goes through that.
fn shebang(head: &[u8]) -> Option<String> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_whitespace();
    let program = words.next()?;
    if program.ends_with("/env") {
        return words
            .find(|word| !word.starts_with('-') && !word.contains('='))
            .map(str::to_string);
    }
    Some(program.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shebang_names_its_program() {
        for (head, want) in [
            ("#!/bin/sh\necho", Some("/bin/sh")),
            ("#! /usr/bin/env python3\n", Some("python3")),
            ("#!/usr/bin/env -S FOO=1 node --x\n", Some("node")),
            ("#!/usr/bin/env\n", None),
            ("console.log(1)", None),
            ("#!", None),
        ] {
            assert_eq!(shebang(head.as_bytes()).as_deref(), want, "{head}");
        }
    }

    #[test]
    fn text_in_any_language_is_no_binary() {
        for (head, want) in [
            (&b"console.log('x')\n"[..], false),
            ("# вся строка по-русски\n".as_bytes(), false),
            (b"", false),
            (b"\x7fELF\x02\x01\x01\x00", true),
            (b"\x01\x02\x03\x04abc", true),
            (b"\xff\xfe\xfa\xfbabc", true),
        ] {
            assert_eq!(looks_binary(head), want, "{head:?}");
        }
    }

    #[test]
    fn only_node_and_bun_cluster() {
        for (interpreter, want) in [
            ("node", true),
            ("/opt/node/bin/node", true),
            ("bun", true),
            ("bash", false),
            ("none", false),
        ] {
            assert_eq!(clusters(interpreter), want, "{interpreter}");
        }
    }
}
