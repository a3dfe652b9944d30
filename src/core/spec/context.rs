//! What an app's meaning depends on besides its own keys: who starts it, from where, and what the machine has.

use serde_json::{Map, Value};

/// How the app was named: PM2 treats the two a little differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `start app.js --options`: the options are the app's keys.
    Script,
    /// `start ecosystem.config.js --options`: few options reach the apps.
    Config,
}

/// The circumstances of a start. All paths are absolute.
#[derive(Debug, Clone)]
pub struct StartContext {
    /// By script or by file.
    pub origin: Origin,
    /// The folder the command was given in.
    pub cwd: String,
    /// The client's environment, in its order.
    pub env: Map<String, Value>,
    /// Options of the command line under PM2's key names or aliases (`name`, `instances`, `output`, `interpreter`).
    /// For a script all count; for a file only `namespace`, `watch`, `uid`, `gid` and `cwd` do, as in PM2.
    pub overrides: Map<String, Value>,
    /// `--env E`.
    pub env_name: Option<String>,
    /// `deploy.<E>.env` of the file; it goes over `env` and under `env_<E>`.
    pub deploy_env: Map<String, Value>,
    /// PM2's home folder.
    pub pm2_home: String,
    /// The folder of log files that are not named in the app.
    pub log_dir: String,
    /// The folder of pid files that are not named in the app.
    pub pid_dir: String,
    /// The user who gives the command.
    pub username: String,
    /// Started by a program or inside an app of PM2's (`PM2_PROGRAMMATIC` or `pm_id` is set): PM2's own fields are then not
    /// inherited from the environment.
    pub programmatic: bool,
    /// The `pm2 set` store (`module_conf.json`): the section named like the app goes into its environment.
    pub module_conf: Map<String, Value>,
}

impl StartContext {
    /// A variable of the client's environment, where it is text.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env.get(name).and_then(Value::as_str)
    }
}

/// A user as the system knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The number of the user's own group.
    pub gid: u32,
    /// The home folder.
    pub home: String,
}

/// What has to be asked of the machine. The core only asks; `config::SystemHost` answers.
pub trait Host {
    /// Whether something is at this path.
    fn exists(&self, path: &str) -> bool;
    /// Whether a folder is at this path.
    fn is_dir(&self, path: &str) -> bool;
    /// Whether a file that may be executed is at this path.
    fn is_executable(&self, path: &str) -> bool;
    /// The first executable file called `program` in the folders of `path_env`, which are separated by colons. A program
    /// given as an absolute path is looked for there alone.
    fn which(&self, program: &str, path_env: &str) -> Option<String>;
    /// The first bytes of a file, at most `limit`; empty if it cannot be read.
    fn read_head(&self, path: &str, limit: usize) -> Vec<u8>;
    /// A user by name or number.
    fn user(&self, name_or_id: &str) -> Option<User>;
    /// The number of a group by name or number.
    fn group(&self, name_or_id: &str) -> Option<u32>;
    /// Whether this is root, who alone may start an app as another user.
    fn is_root(&self) -> bool;
    /// How many CPUs there are, 1 or more.
    fn cpus(&self) -> usize;
    /// The version of the Node at this path: major and minor. `None` if it does not say.
    fn node_version(&self, node: &str) -> Option<(u32, u32)>;
}
