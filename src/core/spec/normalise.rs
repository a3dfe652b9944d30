//! From an app as written to what PM2's client hands its daemon: the input of `prepare` (pm2-behaviour 3.6, 5.3 to 5.6).
//!
//! What it yields is compared with real PM2 in `tests/pm2_config_parity.rs`; each deliberate difference is noted there.

pub use super::context::{Host, Origin, StartContext, User};
use super::issue::SpecIssue;
use super::keys::{self, KEYS};
use super::{env, interpreter, owner, paths, raw};
use crate::core::units::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

/// An app ready for `prepare`: the keys real PM2 sends, and `fornax` if the app has that block.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct AppConf(pub Map<String, Value>);

impl AppConf {
    /// The app's name.
    pub fn name(&self) -> &str {
        self.text("name")
    }

    /// The text under `key`, empty if there is none.
    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

type Conf = Map<String, Value>;

/// Keys of an app that runs, as options of a restart give them: its new values, in the forms that [`app`] would give them, and the home
/// of the user it is to run as.
///
/// # Errors
/// What is wrong with them, all together.
pub fn changes(
    given: &Conf,
    ctx: &StartContext,
    host: &dyn Host,
) -> Result<(Conf, Option<String>), Vec<SpecIssue>> {
    let mut conf = raw::canonical(given)?;
    units(&mut conf);
    let home = owner::resolve(&mut conf, given, ctx, host).map_err(|issue| vec![issue])?;
    Ok((conf, home))
}

/// Resolves one app. Every problem of its keys is reported together; what only shows on this machine (a script or an
/// interpreter that is missing, an unknown user) is reported after that.
pub fn app(app: &Conf, ctx: &StartContext, host: &dyn Host) -> Result<AppConf, Vec<SpecIssue>> {
    let written = with_overrides(app, ctx);
    let mut conf = raw::canonical(&written)?;
    name(&mut conf, ctx).map_err(|issue| vec![issue])?;
    switches(&mut conf, &written, ctx);
    units(&mut conf);
    let mut issues = Vec::new();
    if conf.get("env").is_some_and(Value::is_string) {
        issues.push(SpecIssue::new(
            "/env",
            "is text, which pm2 cannot start an app with either",
            "write it as an object: { \"NAME\": \"value\" }",
        ));
    }
    let cwd = paths::resolve(&ctx.cwd, text(&conf, "cwd").unwrap_or_default());
    if let Err(error) = super::app::cron(conf.get("cron_restart")) {
        issues.push(
            SpecIssue::new(
                pointer_as_written("cron_restart", &written),
                error.to_string(),
                "write five fields, or six with seconds first: \"0 4 * * *\" is daily at four",
            )
            .in_pm2_words(format!("Cron pattern error: {error}")),
        );
    }
    if let Err(issue) = launch(&mut conf, &written, &cwd, ctx, host) {
        issues.push(issue);
    }
    let home = owner::resolve(&mut conf, &written, ctx, host).unwrap_or_else(|issue| {
        issues.push(issue);
        None
    });
    if !issues.is_empty() {
        return Err(issues);
    }
    conf.insert("pm_cwd".into(), cwd.as_str().into());
    let app_name = text(&conf, "name").unwrap_or_default().to_string();
    paths::place_files(&mut conf, &app_name, &cwd, ctx);
    environment(&mut conf, &app_name, home.as_deref(), ctx);
    conf.insert("username".into(), ctx.username.as_str().into());
    conf.insert("km_link".into(), false.into());
    Ok(AppConf(conf))
}

/// The app with what the command line says about it.
fn with_overrides(app: &Conf, ctx: &StartContext) -> Conf {
    let mut written = app.clone();
    match ctx.origin {
        Origin::Script => {
            written.extend(
                ctx.overrides
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone())),
            );
            written.entry("watch").or_insert(Value::Bool(false));
            written
                .entry("filter_env")
                .or_insert(Value::Array(Vec::new()));
        }
        Origin::Config => {
            for (key, value) in &ctx.overrides {
                let lacking = || app.get(key).is_none_or(raw::is_falsy);
                let counts = match key.as_str() {
                    "uid" | "gid" | "cwd" => true,
                    "namespace" | "watch" => lacking(),
                    _ => false,
                };
                if counts {
                    written.insert(key.clone(), value.clone());
                }
            }
        }
    }
    written
}

fn name(conf: &mut Conf, ctx: &StartContext) -> Result<(), SpecIssue> {
    let Some(script) = text(conf, "script").map(str::to_string) else {
        return Err(SpecIssue::new(
            "",
            "the app has no `script`",
            "add `script`: a path, a name in PATH or a command line",
        )
        .in_pm2_words("No script path - aborting")
        .about_an_absence());
    };
    let mut name = text(conf, "name").map_or_else(|| paths::default_name(&script), str::to_string);
    if name.is_empty() {
        return Err(SpecIssue::new(
            "/script",
            format!("`{script}` gives the app no name: it names no file"),
            "name the file that is to run, or give the app a `name`",
        ));
    }
    if let (Some(Value::Bool(true)), Some(env)) = (conf.get("append_env_to_name"), &ctx.env_name) {
        name = format!("{name}-{env}");
    }
    for (key, name) in [
        ("name", Some(name.as_str())),
        ("namespace", text(conf, "namespace")),
    ] {
        if let Some(fault) = name.and_then(paths::name_fault) {
            let pointer = format!("/{key}");
            return Err(SpecIssue::new(pointer, fault, "choose another name"));
        }
    }
    conf.insert("name".into(), name.into());
    Ok(())
}

/// Keys that set other keys, then the defaults that PM2 stores.
fn switches(conf: &mut Conf, written: &Conf, ctx: &StartContext) {
    if is_true(conf, "time") || ctx.var("ASZ_MODE").is_some() {
        conf.insert("log_date_format".into(), "YYYY-MM-DDTHH:mm:ss".into());
    }
    if ctx.var("PM2_DEEP_MONITORING").is_some() {
        conf.insert("deep_monitoring".into(), true.into());
    }
    if let Some(disabled) = conf.shift_remove("disable_trace")
        && disabled == Value::Bool(true)
    {
        conf.insert("trace".into(), false.into());
    }
    if conf.get("automation") == Some(&Value::Bool(false)) {
        conf.insert("pmx".into(), false.into());
    }
    if conf.shift_remove("execute_command") == Some(Value::Bool(true)) {
        conf.insert("exec_mode".into(), "fork_mode".into());
    }
    if let Some(mode) =
        text(conf, "exec_mode").map(|mode| mode.trim_end_matches("_mode").to_string())
    {
        conf.insert("exec_mode".into(), format!("{mode}_mode").into());
    }
    let single = conf.get("instances").is_none_or(raw::is_falsy)
        && text(conf, "exec_mode") != Some("cluster_mode");
    if single && written.get("merge_logs").is_none_or(Value::is_null) {
        conf.insert("merge_logs".into(), true.into());
    }
    if conf.get("merge_logs") == Some(&Value::Bool(false)) {
        conf.shift_remove("merge_logs");
    }
    for key in KEYS.iter().filter(|key| STORED.contains(&key.name)) {
        let default = serde_json::from_str(key.default).unwrap_or(Value::Null);
        conf.entry(key.name).or_insert(default);
    }
}

/// The keys whose defaults PM2's client writes out; the others' are the daemon's affair.
const STORED: [&str; 11] = [
    "namespace",
    "node_args",
    "vizion",
    "autostart",
    "autorestart",
    "instance_var",
    "pmx",
    "automation",
    "treekill",
    "windowsHide",
    "kill_retry_time",
];

/// Sizes in bytes and times in milliseconds.
fn units(conf: &mut Conf) {
    if let Some(bytes) = text(conf, "max_memory_restart").and_then(Bytes::parse) {
        conf.insert("max_memory_restart".into(), bytes.0.into());
    }
    if let Some(ms) = text(conf, "min_uptime").and_then(crate::core::units::Millis::parse) {
        conf.insert("min_uptime".into(), ms.0.into());
    }
    if text(conf, "cron_restart") == Some("0") {
        conf.insert("cron_restart".into(), 0.into());
    }
}

/// Whether the app's `fornax` block says what must have been installed before it can run.
fn has_install_checks(conf: &Conf) -> bool {
    let checks = conf.get("fornax").and_then(|block| block.get("install"));
    checks
        .and_then(Value::as_array)
        .is_some_and(|checks| !checks.is_empty())
}

/// Finds the script and its interpreter, and says in which mode it runs.
fn launch(
    conf: &mut Conf,
    written: &Conf,
    cwd: &str,
    ctx: &StartContext,
    host: &dyn Host,
) -> Result<(), SpecIssue> {
    let script = match conf.shift_remove("script") {
        Some(Value::String(script)) => script,
        _ => String::new(),
    };
    let pointer_of = |name: &str| pointer_as_written(name, written);
    let path_env = ctx.var("PATH").unwrap_or_default();
    let resolved = paths::resolve(cwd, &script);
    let found = host.exists(&resolved);
    if script.contains(' ') && !found {
        let shell = host
            .which("bash", path_env)
            .or_else(|| host.which("sh", path_env))
            .unwrap_or_else(|| "/bin/sh".into());
        conf.insert("args".into(), vec!["-c".to_string(), script].into());
        conf.insert("pm_exec_path".into(), shell.into());
        conf.insert("exec_interpreter".into(), "none".into());
    } else {
        let in_path = || {
            if script.contains('/') {
                None
            } else {
                host.which(&script, path_env)
            }
        };
        // What is still to be installed need not be there: the daemon looks at each start, and tells `not_installed`.
        let to_install = has_install_checks(conf);
        let later = || to_install.then(|| resolved.clone());
        let Some(path) = found
            .then(|| resolved.clone())
            .or_else(in_path)
            .or_else(later)
        else {
            return Err(SpecIssue::new(
                pointer_of("script"),
                format!("script not found: {resolved}"),
                "check the path; it counts from `cwd`, else from the folder of the command",
            )
            .in_pm2_words(format!("Script not found: {resolved}"))
            .about_an_absence());
        };
        let asked = text(conf, "exec_interpreter");
        let chosen = match asked {
            Some(asked) => interpreter::given(asked, &pointer_of("exec_interpreter"), ctx, host),
            None => interpreter::choose(&path, ctx, host).map_err(|issue| SpecIssue {
                pointer: pointer_of("script"),
                ..issue
            }),
        };
        let chosen = match chosen {
            Err(_) if to_install => interpreter::Launch::by(asked.unwrap_or("none")),
            chosen => chosen?,
        };
        if let (false, Some(Value::Array(args))) =
            (chosen.extra_args.is_empty(), conf.get_mut("node_args"))
        {
            args.splice(0..0, chosen.extra_args.into_iter().map(Value::from));
        }
        conf.insert("exec_interpreter".into(), chosen.interpreter.into());
        conf.insert("pm_exec_path".into(), path.into());
    }
    if !conf.contains_key("exec_mode") {
        let clusters = conf.contains_key("instances")
            && interpreter::clusters(text(conf, "exec_interpreter").unwrap_or_default());
        conf.insert(
            "exec_mode".into(),
            if clusters {
                "cluster_mode"
            } else {
                "fork_mode"
            }
            .into(),
        );
    }
    conf.entry("instances").or_insert(Value::from(1));
    Ok(())
}

fn environment(conf: &mut Conf, name: &str, home: Option<&str>, ctx: &StartContext) {
    let block = match conf.shift_remove("env") {
        Some(Value::Object(block)) => block,
        _ => Conf::new(),
    };
    let chosen = ctx
        .env_name
        .as_ref()
        .and_then(|env| conf.get(&format!("env_{env}")));
    let env = env::assemble(
        &env::Layers {
            name,
            cwd: text(conf, "cwd"),
            io: conf.get("io"),
            block: &block,
            port: conf.get("port"),
            home,
            python: text(conf, "exec_interpreter")
                .is_some_and(|interpreter| interpreter.contains("python")),
            chosen: chosen.and_then(Value::as_object),
            filter: conf.get("filter_env"),
        },
        ctx,
    );
    conf.insert("env".into(), Value::Object(env));
}

/// The pointer of a key under the name it was written with, so that a message can name it.
pub(super) fn pointer_as_written(name: &str, written: &Conf) -> String {
    let under = keys::key(name)
        .and_then(|key| raw::pick(key, written))
        .map_or(name, |(under, _)| under);
    super::issue::pointer_step(under)
}

fn text<'a>(conf: &'a Conf, key: &str) -> Option<&'a str> {
    conf.get(key).and_then(Value::as_str)
}

fn is_true(conf: &Conf, key: &str) -> bool {
    conf.get(key) == Some(&Value::Bool(true))
}
