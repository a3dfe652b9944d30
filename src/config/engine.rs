//! JavaScript configs where there is no Node: evaluated by an engine of our own (QuickJS), with what configs use of Node around it.
//!
//! The engine lives for one evaluation, in a thread of its own, and is not so much as touched by any other command. It has a limit
//! of time, memory and stack; what it lacks is named when a config uses it.

mod host;
mod modules;

use rquickjs::context::EvalOptions;
use rquickjs::{
    CatchResultExt, CaughtError, Context, Ctx, Exception, Function, Object, Runtime, TypedArray,
    Value,
};
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// What Node gives a config and the engine does not.
const PRELUDE: &str = include_str!("engine/prelude.js");

/// What an evaluation may take, in bytes: its heap, its stack, and the stack of the thread around it.
const HEAP: usize = 256 << 20;
const STACK: usize = 4 << 20;
const THREAD: usize = 8 << 20;

/// The largest file that a config may read, in bytes.
const FILE: u64 = 16 << 20;

/// What stands around a CommonJS module; its first line is the file's first line.
const WRAPPER: (&str, &str) = (
    "(function (exports, require, module, __filename, __dirname) { ",
    "\n})",
);

/// Names that Node has and the engine lacks: a config that asks for one hears so.
const NODES_OWN: [&str; 24] = [
    "fetch",
    "setTimeout",
    "setInterval",
    "setImmediate",
    "clearTimeout",
    "clearInterval",
    "clearImmediate",
    "AbortController",
    "TextEncoder",
    "TextDecoder",
    "crypto",
    "performance",
    "WebAssembly",
    "Intl",
    "structuredClone",
    "Event",
    "EventTarget",
    "Headers",
    "Request",
    "Response",
    "atob",
    "btoa",
    "Blob",
    "navigator",
];

/// Why there is no config, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// What is wrong.
    pub(super) what: String,
    /// The line in the file, from 1.
    pub(super) line: Option<u32>,
    /// The column, from 1.
    pub(super) column: Option<u32>,
}

/// What is evaluated.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    /// A file, by its absolute path.
    File(&'a Path),
    /// One expression.
    Expression(&'a str),
}

/// Evaluates it and returns JSON text: what it exports as `config`, if that is anything, and what it did to its environment as `env`.
/// What it prints goes to standard error.
pub(super) fn evaluate(
    source: Source<'_>,
    argv: &[String],
    patience: Duration,
) -> Result<String, Failure> {
    let run = || {
        let deadline = Instant::now() + patience;
        inner(source, argv, deadline).map_err(|failure| match Instant::now() >= deadline {
            true => plain(format!("it did not end within {} s", patience.as_secs())),
            false => failure,
        })
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("fornax-engine".to_owned())
            .stack_size(THREAD)
            .spawn_scoped(scope, run);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(plain("the engine has failed".to_owned())),
            Err(error) => Err(plain(format!("the engine cannot be started: {error}"))),
        }
    })
}

fn plain(what: String) -> Failure {
    Failure {
        what,
        line: None,
        column: None,
    }
}

fn inner(source: Source<'_>, argv: &[String], deadline: Instant) -> Result<String, Failure> {
    let none = |error: rquickjs::Error| plain(format!("the engine cannot be started: {error}"));
    let runtime = Runtime::new().map_err(none)?;
    runtime.set_memory_limit(HEAP);
    runtime.set_max_stack_size(STACK);
    runtime.set_interrupt_handler(Some(Box::new(move || Instant::now() >= deadline)));
    runtime.set_loader(modules::Resolver, modules::Loader);
    let context = Context::full(&runtime).map_err(none)?;
    context.with(|ctx| {
        let done = match source {
            Source::File(path) => file(&ctx, path, argv),
            Source::Expression(text) => expression(&ctx, text, argv),
        };
        done.catch(&ctx).map_err(|error| failure(source, error))
    })
}

fn file(ctx: &Ctx<'_>, path: &Path, argv: &[String]) -> rquickjs::Result<String> {
    let own = prelude(ctx, argv)?;
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = real.to_string_lossy().into_owned();
    let exports: Value<'_> = match own
        .get::<_, Function<'_>>("isModule")?
        .call((name.as_str(),))?
    {
        true => modules::evaluate(ctx.clone(), name)?.into_value(),
        false => own.get::<_, Function<'_>>("load")?.call((name,))?,
    };
    own.get::<_, Function<'_>>("answer")?.call((exports,))
}

fn expression(ctx: &Ctx<'_>, text: &str, argv: &[String]) -> rquickjs::Result<String> {
    let own = prelude(ctx, argv)?;
    let value: Value<'_> = ctx.eval_with_options(format!("({text}\n)"), options("expression"))?;
    own.get::<_, Function<'_>>("plain")?.call((value,))
}

/// Sloppy code of a file, as CommonJS is.
fn options(file: &str) -> EvalOptions {
    let mut options = EvalOptions::default();
    options.global = true;
    options.strict = false;
    options.filename = Some(file.to_owned());
    options
}

/// Makes the world of a config, and returns our calls into it.
fn prelude<'js>(ctx: &Ctx<'js>, argv: &[String]) -> rquickjs::Result<Object<'js>> {
    let make: Function<'js> = ctx.eval_with_options(PRELUDE, options("fornax"))?;
    let env: serde_json::Map<String, serde_json::Value> = std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into(),
            )
        })
        .collect();
    let start = json!({
        "env": env, "argv": argv, "version": env!("CARGO_PKG_VERSION"), "pid": std::process::id(), "ppid": nix::unistd::getppid().as_raw(),
        "arch": if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" },
        "uid": nix::unistd::geteuid().as_raw(), "gid": nix::unistd::getegid().as_raw(),
        "cwd": std::env::current_dir().unwrap_or_default().to_string_lossy(),
    });
    let start = ctx.json_parse(start.to_string())?;
    if let Some(start) = start.as_object() {
        start.set("compile", Function::new(ctx.clone(), compile)?)?;
        start.set("esm", Function::new(ctx.clone(), modules::evaluate)?)?;
    }
    let host = Function::new(ctx.clone(), |op: String, args: String| {
        host::answer(&op, &args)
    })?;
    let decode = Function::new(ctx.clone(), decode)?;
    let encode = Function::new(ctx.clone(), |ctx: Ctx<'js>, text: String| {
        TypedArray::<u8>::new(ctx, text.into_bytes())
    })?;
    let print = Function::new(ctx.clone(), |text: String| {
        // If standard error is closed there is nobody to tell.
        let _ = std::io::stderr().write_all(text.as_bytes());
    })?;
    let read = Function::new(ctx.clone(), read_bytes)?;
    let own: Object<'js> = make.call((host, read, decode, encode, print, start))?;
    let globals: Object<'js> = ctx.globals().get("__fornax")?;
    for name in ["isModule", "resolve", "standIn"] {
        globals.set(name, own.get::<_, Value<'js>>(name)?)?;
    }
    Ok(own)
}

fn compile<'js>(ctx: Ctx<'js>, file: String, text: String) -> rquickjs::Result<Function<'js>> {
    // A line for the kernel is a comment here.
    let text = if text.starts_with("#!") {
        format!("//{text}")
    } else {
        text
    };
    let text = text.trim_start_matches('\u{feff}');
    ctx.eval_with_options(format!("{}{text}{}", WRAPPER.0, WRAPPER.1), options(&file))
}

fn decode(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read_bytes<'js>(ctx: Ctx<'js>, path: String) -> rquickjs::Result<TypedArray<'js, u8>> {
    match host::read(Path::new(&path), FILE) {
        Ok(bytes) => TypedArray::new(ctx, bytes),
        Err(error) => Err(Exception::throw_message(
            &ctx,
            &format!("cannot read {path}: {error}"),
        )),
    }
}

/// An exception with its place in the file.
fn failure(source: Source<'_>, error: CaughtError<'_>) -> Failure {
    let (what, stack) = match &error {
        CaughtError::Exception(exception) => {
            let name: String = exception.as_object().get("name").unwrap_or_default();
            let message = exception.message().unwrap_or_default();
            let first = message.lines().next().unwrap_or_default();
            (
                format!("{name}: {first}"),
                exception.stack().unwrap_or_default(),
            )
        }
        CaughtError::Value(value) => {
            let text = value.as_string().and_then(|text| text.to_string().ok());
            (
                text.unwrap_or_else(|| format!("it threw a value ({})", value.type_name())),
                String::new(),
            )
        }
        CaughtError::Error(rquickjs::Error::WouldBlock) => (
            "it waits for something that never comes".to_owned(),
            String::new(),
        ),
        CaughtError::Error(error) => (error.to_string(), String::new()),
    };
    let what = match what
        .strip_prefix("ReferenceError: ")
        .and_then(|rest| rest.strip_suffix(" is not defined"))
    {
        Some(name) if NODES_OWN.contains(&name.trim_matches('\'')) => {
            format!(
                "{} is not in the JavaScript engine built into fornax; install Node.js to use it",
                name.trim_matches('\'')
            )
        }
        _ if what.starts_with("InternalError: out of memory") => {
            format!("it took more than {} MiB of memory", HEAP >> 20)
        }
        _ => what,
    };
    let place = match source {
        Source::File(path) => [path.to_owned(), path.canonicalize().unwrap_or_default()]
            .iter()
            .find_map(|path| place(&stack, path)),
        Source::Expression(_) => None,
    };
    let (line, column) = place.unzip();
    // The first line stands behind the wrapper.
    let wrapper = u32::try_from(WRAPPER.0.len()).unwrap_or_default();
    let column = column.map(|column| {
        if line == Some(1) && column > wrapper {
            column - wrapper
        } else {
            column
        }
    });
    Failure { what, line, column }
}

/// `path:line:column` in a stack.
fn place(stack: &str, path: &Path) -> Option<(u32, u32)> {
    let rest = stack.split_once(&format!("{}:", path.display()))?.1;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    let line = numbers.next()?.parse().ok()?;
    Some((
        line,
        numbers
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(1),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value as Json;

    fn run(text: &str) -> Result<Json, Failure> {
        run_for(text, Duration::from_secs(60))
    }

    fn run_for(text: &str, patience: Duration) -> Result<Json, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("e.config.js");
        std::fs::write(&path, text).unwrap();
        evaluate(
            Source::File(&path),
            &["node".to_owned(), "pm2".to_owned()],
            patience,
        )
        .map(|text| serde_json::from_str(&text).unwrap())
    }

    fn fails(text: &str) -> String {
        run(text).unwrap_err().what
    }

    #[test]
    fn what_the_engine_lacks_is_named_when_it_is_used_and_not_before() {
        let unused = "const { execSync } = Object(require('child_process')).nothing || {}; require('crypto'); module.exports = {script: 'a'}";
        assert!(
            fails(unused).contains(
                "child_process.nothing is not in the JavaScript engine built into fornax"
            )
        );
        assert!(
            run("require('crypto'); require('node:zlib'); module.exports = {script: 'a'}").is_ok()
        );
        for (text, want) in [
            (
                "require('child_process').execSync('date')",
                "child_process.execSync",
            ),
            ("require('fs').writeFileSync('x', 'y')", "fs.writeFileSync"),
            ("fetch('http://x')", "fetch is not in"),
            ("setTimeout(() => {}, 1)", "setTimeout is not in"),
            (
                "process.exit(3)",
                "the config ended the process: process.exit(3)",
            ),
            ("require('left-pad')", "Cannot find module 'left-pad'"),
        ] {
            let what = fails(text);
            assert!(what.contains(want), "{text}: {what}");
        }
    }

    #[test]
    fn an_endless_config_ends_and_a_greedy_one_too() {
        let endless = run_for("while (true) {}", Duration::from_millis(300)).unwrap_err();
        assert!(endless.what.contains("did not end within"), "{endless:?}");
        let greedy = fails("const all = []; for (;;) all.push(new Array(1e6).fill(all.length))");
        assert!(greedy.contains("256 MiB of memory"), "{greedy}");
        let deep = fails("const f = () => 1 + f(); f()");
        assert!(deep.contains("stack") || deep.contains("call"), "{deep}");
        let waits = fails("export const apps = await new Promise(() => {})");
        assert!(waits.contains("never comes"), "{waits}");
        let catches = run_for(
            "for (;;) { try { for (;;) {} } catch {} }",
            Duration::from_millis(300),
        )
        .unwrap_err();
        assert!(catches.what.contains("did not end within"), "{catches:?}");
    }

    #[test]
    fn a_mistake_has_its_line_and_column() {
        let place = |text: &str| {
            let failure = run(text).unwrap_err();
            (failure.line, failure.column)
        };
        assert_eq!(place("\nthrow new Error('x')").0, Some(2));
        assert_eq!(place("   boom()"), (Some(1), Some(4)));
        assert_eq!(
            place("module.exports = {\n  a: 1,\n  b: [1\n}\n").0,
            Some(4)
        );
    }

    #[test]
    fn bytes_paths_and_addresses_are_as_in_node() {
        let text = r#"
            const path = require('path'), { fileURLToPath, pathToFileURL } = require('url'), util = require('util');
            module.exports = { script: 'a', got: [
                path.normalize('/a//../..//b/'), path.normalize('./'), path.normalize('../a/../..'), path.join('', ''), path.join('a', '..', '../b'), path.dirname('/a'), path.dirname('a/b//'),
                path.basename('/x/y.tar.gz', '.gz'), path.extname('.bashrc'), path.extname('a.b.'), path.relative('/a/b/c', '/a/d'), path.relative('/a', '/a'), path.resolve('/a', '..', 'b', './c'),
                path.format(path.parse('/home/u/x.txt')), JSON.stringify(path.parse('x/y')), path.isAbsolute('a'),
                Buffer.from('häß€').toString('hex'), Buffer.from('68c3a4', 'hex').toString(), Buffer.from('any carnal pleas').toString('base64'), Buffer.from('YW55IGNhcm5hbCBwbGVhcw==', 'base64').toString(),
                Buffer.concat([Buffer.from('a'), Buffer.from('b')]).toString(), Buffer.byteLength('€'),
                fileURLToPath('file:///a%20b'), pathToFileURL('/a b#').href, new URL('../x?y=1#z', 'http://u:p@h:81/a/b/c').href, new URL('http://h/?a=b%20c&a=d').searchParams.getAll('a').join(),
                util.format('%s-%d-%j %%', 'a', 4, {b: 1}, 'more'),
            ] };"#;
        let got = run(text).unwrap()["config"]["got"].clone();
        assert_eq!(
            got,
            json!([
                "/b/",
                "./",
                "../..",
                ".",
                "../b",
                "/",
                "a",
                "y.tar",
                "",
                ".",
                "../../d",
                "",
                "/b/c",
                "/home/u/x.txt",
                r#"{"root":"","dir":"x","base":"y","ext":"","name":"y"}"#,
                false,
                "68c3a4c39fe282ac",
                "hä",
                "YW55IGNhcm5hbCBwbGVhcw==",
                "any carnal pleas",
                "ab",
                3,
                "/a b",
                "file:///a%20b%23",
                "http://u:p@h:81/a/x?y=1#z",
                "b c,d",
                "a-4-{\"b\":1} % more",
            ])
        );
    }

    #[test]
    fn a_config_sees_its_command_line_and_its_changes_of_the_environment_are_told() {
        let got = run("process.env.FX_NEW = 5; delete process.env.PATH; module.exports = { script: process.argv.slice(1).join(), n: process.env.PATH }").unwrap();
        assert_eq!(got["config"]["script"], "pm2");
        assert_eq!(got["env"], json!({"FX_NEW": "5", "PATH": null}));
    }
}
