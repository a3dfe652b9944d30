//! A module's package.json: its name, and the apps that it wants to be run.

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The longest package.json that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// What package.json says.
#[derive(Debug)]
pub struct Manifest {
    /// The package's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Settings with their defaults.
    pub config: Map<String, Value>,
    folder: PathBuf,
    whole: Map<String, Value>,
}

/// Whether a text is the name of a package of npm; it is a part of paths.
pub fn is_name(name: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && part.len() <= 214
            && part
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || "-._~".contains(letter))
    };
    match name.strip_prefix('@') {
        Some(scoped) => scoped
            .split_once('/')
            .is_some_and(|(scope, name)| plain(scope) && plain(name)),
        None => plain(name),
    }
}

impl Manifest {
    /// Reads the package in a folder.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        use std::io::Read;
        let path = folder.join("package.json");
        let cannot = || format!("cannot read {}", path.display());
        let mut text = String::new();
        std::fs::File::open(&path)
            .with_context(cannot)?
            .take(LONGEST)
            .read_to_string(&mut text)
            .with_context(cannot)?;
        let whole: Map<String, Value> = serde_json::from_str(&text).with_context(cannot)?;
        let name = whole.get("name").and_then(Value::as_str);
        let name = name.unwrap_or_default().to_owned();
        if !is_name(&name) {
            bail!(
                "{}: `name` is `{name}`, which is no name of a package",
                path.display()
            );
        }
        Ok(Self {
            version: whole
                .get("version")
                .and_then(Value::as_str)
                .unwrap_or("N/A")
                .to_owned(),
            config: whole
                .get("config")
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default(),
            folder: folder.to_owned(),
            name,
            whole,
        })
    }

    /// Its apps, as an ecosystem file would write them: `apps` or `pm2`, else its first program, else its main file.
    pub fn apps(&self, tarball: bool, watched: bool) -> anyhow::Result<Vec<Map<String, Value>>> {
        let mut apps: Vec<Map<String, Value>> =
            match self.whole.get("apps").or(self.whole.get("pm2")) {
                Some(Value::Array(apps)) => {
                    apps.iter().filter_map(Value::as_object).cloned().collect()
                }
                Some(Value::Object(app)) => vec![app.clone()],
                _ => Vec::new(),
            };
        if apps.is_empty() {
            let script = match self.whole.get("bin") {
                Some(Value::String(program)) => Some(program.clone()),
                Some(Value::Object(programs)) => programs
                    .values()
                    .next()
                    .and_then(Value::as_str)
                    .map(str::to_owned),
                _ => None,
            };
            let main = self.whole.get("main").and_then(Value::as_str);
            let script = script
                .or(main.map(str::to_owned))
                .unwrap_or_else(|| "index.js".to_owned());
            apps.push(Map::from_iter([("script".to_owned(), json!(script))]));
        }
        let alone = apps.len() == 1;
        for app in &mut apps {
            let script = app
                .get("script")
                .or(app.get("exec"))
                .and_then(Value::as_str);
            let stem = script
                .and_then(|script| Path::new(script).file_stem())
                .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
            if stem.is_empty() {
                bail!("{}: an app of it names no `script`", self.folder.display());
            }
            let own = app
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or(&stem)
                .to_owned();
            let name = match (tarball, alone) {
                (false, true) => self.name.clone(),
                (true, true) if own == self.name => own,
                _ => format!("{}:{own}", self.name),
            };
            app.insert("name".to_owned(), json!(name));
            app.insert("cwd".to_owned(), json!(self.folder));
            if watched {
                app.insert("watch".to_owned(), json!(true));
            }
        }
        Ok(apps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere() {
        for good in ["pm2-probe", "@scope/name", "a.b-c_d~", "X1"] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "", ".", "..", "../x", "a/b", "@a", "@a/", "@/b", "@a/../b", "-x", ".hidden", "a b",
            "a\0",
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    fn names(package: Value, tarball: bool) -> Vec<(String, String)> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("package.json"), package.to_string()).unwrap();
        let apps = Manifest::read(folder.path())
            .unwrap()
            .apps(tarball, false)
            .unwrap();
        let text = |app: &Map<String, Value>, key: &str| app[key].as_str().unwrap().to_owned();
        apps.iter()
            .map(|app| (text(app, "name"), text(app, "script")))
            .collect()
    }

    #[test]
    fn apps_are_found_and_named_as_pm2_does() {
        let pair = |name: &str, script: &str| (name.to_owned(), script.to_owned());
        assert_eq!(
            names(json!({"name": "m", "main": "x.js"}), false),
            [pair("m", "x.js")]
        );
        assert_eq!(names(json!({"name": "m"}), false), [pair("m", "index.js")]);
        assert_eq!(
            names(
                json!({"name": "m", "main": "x.js", "bin": {"b": "bin.js"}}),
                false
            ),
            [pair("m", "bin.js")]
        );
        let one = json!({"name": "m", "apps": [{"name": "other", "script": "a.js"}]});
        assert_eq!(names(one.clone(), false), [pair("m", "a.js")]);
        assert_eq!(names(one, true), [pair("m:other", "a.js")]);
        assert_eq!(
            names(
                json!({"name": "m", "pm2": {"name": "m", "script": "a.js"}}),
                true
            ),
            [pair("m", "a.js")]
        );
        assert_eq!(
            names(
                json!({"name": "m", "apps": [{"script": "a.js"}, {"name": "b", "script": "b.js"}]}),
                false
            ),
            [pair("m:a", "a.js"), pair("m:b", "b.js")]
        );
    }
}
