//! The names of the files in PM2_HOME (spec 1.1), with PM2's overrides by environment (spec 1.2).

use std::path::{Path, PathBuf};

/// PM2_HOME and what lies in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
    rpc: PathBuf,
    events: PathBuf,
    pid: PathBuf,
    dump: PathBuf,
    dump_backup: PathBuf,
    module_conf: PathBuf,
    log: PathBuf,
    logs: PathBuf,
    pids: PathBuf,
    modules: PathBuf,
    reload_lock: PathBuf,
}

impl Home {
    /// From the environment: `OVER_HOME`, `PM2_HOME`, `~/.pm2`, else `/etc/.pm2`; and each path by its own variable.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let root = set("OVER_HOME")
            .or_else(|| set("PM2_HOME"))
            .map(PathBuf::from)
            .or_else(|| set("HOME").map(|home| Path::new(&home).join(".pm2")))
            .unwrap_or_else(|| PathBuf::from("/etc/.pm2"));
        let path = |variable: &str, name: &str| {
            set(variable).map_or_else(|| root.join(name), PathBuf::from)
        };
        Self {
            rpc: path("PM2_DAEMON_RPC_PORT", "rpc.sock"),
            events: path("PM2_DAEMON_PUB_PORT", "pub.sock"),
            pid: path("PM2_PID_FILE_PATH", "pm2.pid"),
            dump: path("PM2_DUMP_FILE_PATH", "dump.pm2"),
            dump_backup: path("PM2_DUMP_BACKUP_FILE_PATH", "dump.pm2.bak"),
            module_conf: path("PM2_MODULE_CONF_FILE", "module_conf.json"),
            log: path("PM2_LOG_FILE_PATH", "pm2.log"),
            logs: path("PM2_DEFAULT_LOG_PATH", "logs"),
            pids: path("PM2_DEFAULT_PID_PATH", "pids"),
            modules: path("PM2_DEFAULT_MODULE_PATH", "modules"),
            reload_lock: path("PM2_RELOAD_LOCKFILE", "reload.lock"),
            root,
        }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The request socket.
    pub fn rpc_socket(&self) -> PathBuf {
        self.rpc.clone()
    }

    /// The event socket.
    pub fn pub_socket(&self) -> PathBuf {
        self.events.clone()
    }

    /// The daemon's pid.
    pub fn pid_file(&self) -> PathBuf {
        self.pid.clone()
    }

    /// The saved list.
    pub fn dump_file(&self) -> PathBuf {
        self.dump.clone()
    }

    /// The list saved before it.
    pub fn dump_backup(&self) -> PathBuf {
        self.dump_backup.clone()
    }

    /// What `pm2 set` writes.
    pub fn module_conf(&self) -> PathBuf {
        self.module_conf.clone()
    }

    /// The daemon's own log.
    pub fn log_file(&self) -> PathBuf {
        self.log.clone()
    }

    /// Apps' logs.
    pub fn logs(&self) -> PathBuf {
        self.logs.clone()
    }

    /// Apps' pids.
    pub fn pids(&self) -> PathBuf {
        self.pids.clone()
    }

    /// Modules.
    pub fn modules(&self) -> PathBuf {
        self.modules.clone()
    }

    /// PM2's reload lock.
    pub fn reload_lock(&self) -> PathBuf {
        self.reload_lock.clone()
    }

    /// Ours: held by the daemon as long as it lives.
    pub fn lock_file(&self) -> PathBuf {
        self.root.join("fornax.lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(env: &[(&str, &str)]) -> Home {
        Home::from_env(&|name| {
            env.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_home_is_the_first_that_is_named() {
        for (env, want) in [
            (&[("OVER_HOME", "/a"), ("PM2_HOME", "/b")][..], "/a"),
            (&[("PM2_HOME", "/b"), ("HOME", "/home/u")], "/b"),
            (&[("PM2_HOME", ""), ("HOME", "/home/u")], "/home/u/.pm2"),
            (&[], "/etc/.pm2"),
        ] {
            assert_eq!(home(env).root(), Path::new(want));
        }
    }

    #[test]
    fn a_path_can_be_moved_by_its_own_variable() {
        let home = home(&[
            ("PM2_HOME", "/b"),
            ("PM2_DAEMON_RPC_PORT", "/run/r.sock"),
            ("PM2_DEFAULT_LOG_PATH", "/var/log/apps"),
        ]);
        assert_eq!(
            (home.rpc_socket(), home.logs()),
            ("/run/r.sock".into(), "/var/log/apps".into())
        );
        assert_eq!(home.pub_socket(), Path::new("/b/pub.sock"));
    }
}
