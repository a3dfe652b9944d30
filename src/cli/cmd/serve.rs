//! `serve`, and what `script: "serve"` and `static` mean in an ecosystem file (pm2 7.0.4, spec 6.13).

use super::act::Action;
use super::{list, start};
use crate::cli::options;
use crate::cli::session::Session;
use crate::config::{self, Ecosystem, Format, LocatedApp};
use anyhow::{Context, bail};
use clap::ArgMatches;
use serde_json::{Map, Value, json};

/// The word by which this program becomes the server.
pub const WORD: &str = "static-server";
/// The port that is served on unless one is named.
const PORT: &str = "8080";

/// `pm2 serve [PATH] [PORT]`.
pub fn run(
    session: &mut Session,
    matches: &ArgMatches,
    path: Option<&str>,
    port: Option<&str>,
) -> anyhow::Result<()> {
    let port = port
        .or_else(|| options::value(matches, "port"))
        .map(str::to_owned)
        .or_else(|| std::env::var("PM2_SERVE_PORT").ok())
        .unwrap_or_else(|| PORT.to_owned());
    if port.parse::<u16>().is_err() {
        bail!("`{port}` is no port; 1 to 65535 are");
    }
    let folder = path
        .map(str::to_owned)
        .or_else(|| std::env::var("PM2_SERVE_PATH").ok())
        .unwrap_or_else(|| ".".to_owned());
    let folder = std::path::absolute(&folder)
        .ok()
        .and_then(|folder| folder.canonicalize().ok())
        .filter(|folder| folder.is_dir())
        .with_context(|| format!("`{folder}` is no folder to serve"))?;
    let name = options::value(matches, "name")
        .map_or_else(|| format!("static-page-server-{port}"), str::to_owned);
    let mut env = Map::from_iter([
        ("PM2_SERVE_PORT".to_owned(), json!(port)),
        ("PM2_SERVE_PATH".to_owned(), json!(folder)),
    ]);
    for (option, variable) in [("spa", "PM2_SERVE_SPA"), ("ftp", "PM2_SERVE_FTP")] {
        if options::flag(matches, option) {
            env.insert(variable.to_owned(), json!("true"));
        }
    }
    let login = ["username", "password"].map(|part| {
        options::value(matches, &format!("basic-auth-{part}"))
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
    });
    match login {
        [Some(user), Some(password)] => insert_login(&mut env, &json!(user), &json!(password)),
        [None, None] => {}
        _ => bail!("--basic-auth-username and --basic-auth-password go together"),
    }
    session
        .output
        .done(&format!("Serving {} on port {port}", folder.display()));
    let app = json!({ "name": name, "script": "serve", "cwd": folder, "env": env });
    let mut ecosystem = config::parse("serve", &app.to_string(), Format::Json)?;
    understand(&mut ecosystem)?;
    start::ecosystem(session, matches, &ecosystem, Action::Restart)?;
    list::after_action(session, matches)
}

fn insert_login(env: &mut Map<String, Value>, user: &Value, password: &Value) {
    env.insert("PM2_SERVE_BASIC_AUTH".to_owned(), json!("true"));
    env.insert("PM2_SERVE_BASIC_AUTH_USERNAME".to_owned(), user.clone());
    env.insert("PM2_SERVE_BASIC_AUTH_PASSWORD".to_owned(), password.clone());
}

/// Apps whose script is `serve` become this program as a server, and what `static` names becomes such apps.
pub fn understand(ecosystem: &mut Ecosystem) -> anyhow::Result<()> {
    for app in &mut ecosystem.apps {
        if app.raw.get("script") == Some(&json!("serve")) {
            become_server(&mut app.raw)?;
        }
    }
    for (at, wanted) in std::mem::take(&mut ecosystem.statics).iter().enumerate() {
        let mut raw = of_static(wanted)
            .with_context(|| format!("`static[{at}]` in {}", ecosystem.source.file))?;
        become_server(&mut raw)?;
        let pointer = format!("/static/{at}");
        ecosystem.apps.push(LocatedApp { raw, pointer });
    }
    Ok(())
}

/// An entry of `static` as an app.
fn of_static(wanted: &Value) -> anyhow::Result<Map<String, Value>> {
    let wanted = wanted.as_object().context("an object is wanted")?;
    let text = |key: &str| match wanted.get(key) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Some(value.to_string()),
        _ => None,
    };
    let port = text("port").unwrap_or_else(|| PORT.to_owned());
    let mut env = Map::from_iter([
        ("PM2_SERVE_PORT".to_owned(), json!(port)),
        (
            "PM2_SERVE_PATH".to_owned(),
            json!(text("path").unwrap_or_else(|| ".".to_owned())),
        ),
    ]);
    for (key, variable) in [
        ("spa", "PM2_SERVE_SPA"),
        ("ftp", "PM2_SERVE_FTP"),
        ("host", "PM2_SERVE_HOST"),
        ("homepage", "PM2_SERVE_HOMEPAGE"),
    ] {
        if let Some(text) = text(key) {
            env.insert(variable.to_owned(), json!(text));
        }
    }
    match wanted.get("basic_auth") {
        None | Some(Value::Null | Value::Bool(false)) => {}
        Some(login) => match (login.get("username"), login.get("password")) {
            (Some(user @ Value::String(_)), Some(password @ Value::String(_))) => {
                insert_login(&mut env, user, password);
            }
            // Whoever wanted a lock must not be left without one.
            _ => bail!("`basic_auth` wants `username` and `password`, both text"),
        },
    }
    let name = text("name").unwrap_or_else(|| format!("static-page-server-{port}"));
    Ok(Map::from_iter([
        ("name".to_owned(), json!(name)),
        ("env".to_owned(), Value::Object(env)),
    ]))
}

fn become_server(app: &mut Map<String, Value>) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find our own program file")?;
    for (key, value) in [
        ("script", json!(program)),
        ("args", json!([WORD])),
        ("interpreter", json!("none")),
        ("exec_mode", json!("fork")),
    ] {
        app.insert(key.to_owned(), value);
    }
    Ok(())
}
