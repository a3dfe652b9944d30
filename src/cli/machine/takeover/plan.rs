//! What a takeover moves, and what it cannot.

use crate::cli::cmd::dump;
use crate::core::spec::conf;
use serde_json::{Map, Value};
use std::path::Path;

/// One instance as it is to come up with us.
#[derive(Debug)]
pub struct App {
    /// Its name.
    pub name: String,
    /// Its id under PM2. Ours are counted from 0, in the same order.
    pub id: u64,
    /// It has a process now.
    pub runs: bool,
    /// It is a worker of PM2's cluster.
    pub cluster: bool,
    /// What `prepare` is given.
    pub conf: Map<String, Value>,
    status: String,
}

/// All of it.
#[derive(Debug)]
pub struct Plan {
    /// In the order of PM2's ids.
    pub apps: Vec<App>,
    /// PM2's modules, which stay behind.
    modules: Vec<String>,
}

impl Plan {
    /// From PM2's list. `home`: where the apps will be.
    pub fn of(items: Vec<Value>, home: &Path) -> Self {
        let (mut apps, mut modules) = (Vec::new(), Vec::new());
        for item in items {
            let env = &item["pm2_env"];
            let name = env["name"].as_str().unwrap_or_default().to_owned();
            if env["pmx_module"] == true {
                modules.push(name);
                continue;
            }
            let status = env["status"].as_str().unwrap_or_default().to_owned();
            let restarts = env["restart_time"].clone();
            let Value::Object(record) = conf::dumped(env.clone()) else {
                continue;
            };
            let mut conf = dump::restorable(record).0;
            conf.insert("fornax_restart_time".to_owned(), restarts);
            if let Some(env) = conf.get_mut("env").and_then(Value::as_object_mut) {
                env.insert(
                    "PM2_HOME".to_owned(),
                    home.to_string_lossy().into_owned().into(),
                );
            }
            apps.push(App {
                id: item["pm_id"].as_u64().unwrap_or_default(),
                runs: matches!(status.as_str(), "online" | "launching" | "stopping"),
                cluster: env["exec_mode"] == "cluster_mode",
                name,
                conf,
                status,
            });
        }
        apps.sort_by_key(|app| app.id);
        Self { apps, modules }
    }

    /// What is said before anything is done. `restartable`: PM2 can be started again if this fails.
    pub fn lines(&self, restartable: bool) -> Vec<String> {
        let mut lines: Vec<String> = self
            .apps
            .iter()
            .map(|app| {
                let mode = if app.cluster { "cluster" } else { "fork" };
                let then = match app.status.as_str() {
                    "stopped" => "stays stopped",
                    _ if app.runs => "is restarted",
                    _ => "is started anew",
                };
                format!(
                    "  {:<4} {:<24} {mode:<8} {:<16} {then}",
                    app.id, app.name, app.status
                )
            })
            .collect();
        lines.push("Names, order, environments, options, log files and restart counters come along. Not moved:".to_owned());
        let running = self.apps.iter().filter(|app| app.runs).count();
        if running > 0 {
            lines.push(format!("  - processes: a running one belongs to the manager that started it, so {running} are stopped and started again"));
        }
        if self.apps.iter().any(|app| app.cluster && app.runs) {
            lines.push(
                "  - connections open to cluster workers, which PM2's daemon has in its hands"
                    .to_owned(),
            );
        }
        if self
            .apps
            .iter()
            .enumerate()
            .any(|(at, app)| app.id != at as u64)
        {
            lines.push(
                "  - gaps between ids: they are counted from 0, in the same order".to_owned(),
            );
        }
        for module in &self.modules {
            lines.push(format!(
                "  - the module {module}: install it here again, with `fornax install {module}`"
            ));
        }
        lines.push("  - a boot script of PM2 (`pm2 startup`): remove it with PM2's `unstartup`, and run `fornax startup`".to_owned());
        if !restartable {
            lines.push("PM2's program was not found: should this fail, its list is in dump.pm2, and `pm2 resurrect` starts it".to_owned());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_be_moved_is_said_and_only_that() {
        let item = |id: u64, name: &str, more: Value| {
            let mut env = json!({"name": name, "pm_exec_path": "/a.js", "pm_cwd": "/", "status": "online", "exec_mode": "fork_mode", "restart_time": 3, "instances": 2, "env": {"PM2_HOME": "/old", "A": "1"}});
            env.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            json!({"pm_id": id, "name": name, "pm2_env": env})
        };
        let plan = Plan::of(
            vec![
                item(4, "web", json!({"exec_mode": "cluster_mode"})),
                item(0, "one", json!({"status": "stopped"})),
                item(1, "m", json!({"pmx_module": true})),
            ],
            Path::new("/new"),
        );
        let names: Vec<&str> = plan.apps.iter().map(|app| &*app.name).collect();
        assert_eq!(names, ["one", "web"]);
        let conf = &plan.apps[1].conf;
        assert_eq!(conf["env"], json!({"PM2_HOME": "/new", "A": "1"}));
        assert_eq!(conf["fornax_restart_time"], 3);
        assert!(!conf.contains_key("instances") && !conf.contains_key("pm_id"));
        let said = plan.lines(true).join("\n");
        for words in [
            "stays stopped",
            "so 1 are stopped",
            "cluster workers",
            "the module m",
            "gaps",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
        let said = Plan::of(Vec::new(), Path::new("/new"))
            .lines(true)
            .join("\n");
        for words in ["processes", "cluster", "module", "gaps", "not found"] {
            assert!(!said.contains(words), "{words}: {said}");
        }
    }
}
