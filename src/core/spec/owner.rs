//! Whom an app runs as: names become numbers.

use super::context::{Host, StartContext};
use super::issue::SpecIssue;
use super::normalise::pointer_as_written;
use serde_json::{Map, Value};

/// Resolves `uid` and `gid` to numbers. Returns the home folder of the user.
pub(super) fn resolve(
    conf: &mut Map<String, Value>,
    written: &Map<String, Value>,
    ctx: &StartContext,
    host: &dyn Host,
) -> Result<Option<String>, SpecIssue> {
    let (uid, gid) = (id(conf, "uid"), id(conf, "gid"));
    if uid.is_none() && gid.is_none() {
        return Ok(None);
    }
    let first = if uid.is_some() { "uid" } else { "gid" };
    if !host.is_root() && ctx.var("NODE_ENV") != Some("test") {
        return Err(SpecIssue::new(
            pointer_as_written(first, written),
            "only root may start an app as another user",
            "run as root, or leave `uid` and `gid` out",
        )
        .in_pm2_words("To use UID and GID please run PM2 as root"));
    }
    let unknown = |key: &str, kind: &str, name: &str| {
        SpecIssue::new(
            pointer_as_written(key, written),
            format!("there is no {kind} {name}"),
            format!("name a {kind} of this machine"),
        )
    };
    let mut home = None;
    if let Some(name) = uid {
        let user = host.user(&name).ok_or_else(|| {
            unknown("uid", "user", &name).in_pm2_words(format!("User {name} cannot be found"))
        })?;
        conf.insert("uid".into(), user.uid.into());
        conf.insert("gid".into(), user.gid.into());
        home = Some(user.home);
    }
    if let Some(name) = gid {
        let group = host.group(&name).ok_or_else(|| {
            unknown("gid", "group", &name).in_pm2_words(format!("Group {name} cannot be found"))
        })?;
        conf.insert("gid".into(), group.into());
    }
    Ok(home)
}

/// A user or group as text, whether it was written as a name or as a number.
fn id(conf: &Map<String, Value>, key: &str) -> Option<String> {
    conf.get(key).map(|value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_string)
    })
}
