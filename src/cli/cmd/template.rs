//! Files that PM2 writes for people: an ecosystem file to begin with, the system's logrotate file, and examples to read.

use crate::cli::session::{Session, Told, print, user_name};
use crate::core::spec::normalise::AppConf;
use crate::core::spec::paths;
use anyhow::{Context, bail};
use serde_json::{Map, Value};
use std::fs;
use std::path::Path;

/// `ecosystem`, `init`.
const WHOLE: &str = "\
module.exports = {
  apps: [
    {
      name: 'web',
      script: './index.js',
      instances: 1,
      max_memory_restart: '500M',
      env: { NODE_ENV: 'development' },
      env_production: { NODE_ENV: 'production' },
    },
    {
      name: 'worker',
      script: './worker.py',
      watch: ['./worker.py'],
    },
  ],

  deploy: {
    production: {
      user: 'USER',
      host: ['HOST'],
      ref: 'origin/main',
      repo: 'git@example.com:user/repository.git',
      path: '/srv/app',
      'post-deploy': 'npm ci && pm2 startOrReload ecosystem.config.js --env production',
    },
  },
};
";

/// `init simple`.
const SIMPLE: &str = "\
module.exports = {
  apps: [
    {
      name: 'app1',
      script: './app.js',
    },
  ],
};
";

/// `examples`.
const EXAMPLES: &str = "\
Start
  pm2 start app.js                        a Node script
  pm2 start app.js -i max                 one worker for each processor
  pm2 start train.py -- --epochs 3        a Python script and its arguments
  pm2 start ./server --interpreter none   a program
  pm2 start \"npm run dev\" --name dev      a command line
  pm2 start                               what ecosystem.config.js says

Look
  pm2 ls                                  all apps
  pm2 describe app                        everything about one
  pm2 logs app --lines 100                what it wrote, and what it writes
  pm2 monit                               figures as they change

Change
  pm2 restart app --update-env            with this shell's environment
  pm2 reload app                          without a failed request
  pm2 scale app +2                        two more instances
  pm2 stop all ; pm2 delete all

Keep
  pm2 save                                the list, for the next boot
  pm2 startup                             start it at boot
";

/// `pm2 ecosystem [simple]`: writes `ecosystem.config.js` here.
pub fn ecosystem(session: &Session, mode: Option<&str>) -> anyhow::Result<()> {
    let path = std::env::current_dir()?.join("ecosystem.config.js");
    let text = if mode == Some("simple") {
        SIMPLE
    } else {
        WHOLE
    };
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    session
        .output
        .line(&format!("File {} generated", path.display()));
    Ok(())
}

/// `pm2 examples`.
pub fn examples(_: &Session) -> anyhow::Result<()> {
    print(EXAMPLES);
    Ok(())
}

/// `pm2 logrotate`: the system's logrotate is told of the log files. Fornax rotates by itself; this is for who wants the other.
pub fn logrotate(session: &Session, user: Option<&str>) -> anyhow::Result<()> {
    let user = user.map_or_else(user_name, str::to_owned);
    // It becomes a file's name and a word in it.
    if nix::unistd::User::from_name(&user).ok().flatten().is_none() {
        session
            .output
            .error(&format!("User {user:?} cannot be found"));
        bail!(Told);
    }
    if !nix::unistd::getuid().is_root() {
        session
            .output
            .done("You have to run this command as root. Execute the following command:");
        let program = std::env::current_exe()?;
        session.output.line(&format!(
            "      sudo env PM2_HOME={} {} logrotate -u {user}",
            session.home.root().display(),
            program.display()
        ));
        bail!(Told);
    }
    let folder = Path::new("/etc/logrotate.d");
    if !folder.is_dir() {
        session
            .output
            .error("/etc/logrotate.d does not exist; install logrotate, or leave it to Fornax, which rotates by itself");
        bail!(Told);
    }
    let path = folder.join(format!("pm2-{user}"));
    let text = format!(
        "{} {}/*.log {{\n    weekly\n    rotate 12\n    missingok\n    notifempty\n    compress\n    delaycompress\n    copytruncate\n    create 0640 {user} {user}\n}}\n",
        session.home.log_file().display(),
        session.home.logs().display(),
    );
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    session.output.done(&format!(
        "Logrotate configuration added to {}",
        path.display()
    ));
    Ok(())
}

/// `--write`: what the app comes out as, in `<name>-pm2.json` here, for `start` to read. The shell's variables stay out of it.
pub fn conf(session: &Session, target: &str, conf: &AppConf) -> anyhow::Result<()> {
    let path = std::env::current_dir()?.join(format!("{}-pm2.json", paths::file_name(conf.name())));
    session
        .output
        .done(&format!("Writing configuration to {}", path.display()));
    let mut app = Map::from_iter([("script".to_owned(), Value::from(target))]);
    let made = |key: &str| {
        key.starts_with("pm_")
            || matches!(key, "env" | "exec_interpreter" | "exec_mode" | "km_link")
    };
    let kept = conf.0.iter().filter(|(key, _)| !made(key));
    app.extend(kept.map(|(key, value)| (key.clone(), value.clone())));
    std::fs::write(&path, serde_json::to_string_pretty(&app)?)
        .with_context(|| format!("cannot write {}", path.display()))
}
