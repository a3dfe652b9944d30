//! One environment of a `deploy` block: PM2's keys, checked.

use anyhow::{Context, bail};
use serde_json::Value;

/// Where and what is deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Machines, one after another; `localhost` is this one, without ssh.
    pub hosts: Vec<String>,
    /// The repository, as git takes it.
    pub repo: String,
    /// What of it: `origin/main`, a tag, a commit.
    pub reference: String,
    /// The folder there.
    pub path: String,
    /// Variables of hooks, in their order.
    pub env: Vec<(String, String)>,
    /// Only the newest commits are fetched.
    pub shallow: bool,
    /// Commands of a shell, here before anything is done there.
    pub pre_deploy_local: Option<String>,
    /// There, before the repository is cloned.
    pub pre_setup: Option<String>,
    /// There, after it was.
    pub post_setup: Option<String>,
    /// There, before the new commit is fetched.
    pub pre_deploy: Option<String>,
    /// There, after it is in place.
    pub post_deploy: Option<String>,
    user: Option<String>,
    key: Option<String>,
    port: Option<String>,
    options: Vec<String>,
    agent: bool,
}

impl Target {
    /// Reads an environment of the block.
    pub fn read(block: &Value) -> anyhow::Result<Self> {
        let block = block.as_object().context("it must be an object")?;
        let text = |key: &str| -> anyhow::Result<Option<String>> {
            match block.get(key) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) if text.is_empty() => Ok(None),
                Some(Value::String(text)) => Ok(Some(text.clone())),
                Some(Value::Number(number)) => Ok(Some(number.to_string())),
                Some(_) => bail!("`{key}` must be text"),
            }
        };
        let wanted = |key: &str| text(key)?.with_context(|| format!("`{key}` is missing"));
        let list = |key: &str| -> anyhow::Result<Vec<String>> {
            match block.get(key) {
                Some(Value::Array(items)) => items
                    .iter()
                    .map(|item| {
                        let item = item.as_str().or_else(|| item["host"].as_str());
                        item.map(str::to_owned)
                            .with_context(|| format!("`{key}` must hold text"))
                    })
                    .collect(),
                _ => Ok(text(key)?.into_iter().collect()),
            }
        };
        let hosts = list("host")?;
        if hosts.is_empty() {
            bail!("`host` is missing");
        }
        let path = wanted("path")?;
        let reference = text("ref")?.unwrap_or_else(|| "origin/master".to_owned());
        let (user, repo) = (text("user")?, wanted("repo")?);
        // What begins with a dash would be an option of ssh or git.
        for (key, words) in [
            ("host", hosts.iter().collect::<Vec<_>>()),
            ("ref", vec![&reference]),
            ("repo", vec![&repo]),
            ("path", vec![&path]),
            ("user", user.iter().collect()),
        ] {
            if let Some(word) = words
                .iter()
                .find(|word| word.starts_with('-') || word.chars().any(char::is_control))
            {
                bail!(
                    "`{key}`: `{word}` is refused: it begins with a dash or holds control characters"
                );
            }
        }
        let mut env = Vec::new();
        for (name, value) in block
            .get("env")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let is_name = !name.is_empty()
                && !name.starts_with(|first: char| first.is_ascii_digit())
                && name
                    .chars()
                    .all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
            if !is_name {
                bail!("`env`: `{name}` is no name of a variable");
            }
            let value = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            env.push((name.clone(), value));
        }
        Ok(Self {
            hosts,
            repo,
            reference,
            path: path.trim_end_matches('/').to_owned(),
            env,
            shallow: text("fetch")?.is_some_and(|fetch| fetch == "fast"),
            pre_deploy_local: text("pre-deploy-local")?,
            pre_setup: text("pre-setup")?,
            post_setup: text("post-setup")?,
            pre_deploy: text("pre-deploy")?,
            post_deploy: text("post-deploy")?,
            user,
            key: text("key")?,
            port: text("port")?,
            options: list("ssh_options")?,
            agent: block.get("forward-agent").is_some_and(|agent| {
                agent.as_bool() == Some(true) || agent == "yes" || agent == "true"
            }),
        })
    }

    /// The words of ssh for a host, up to the command.
    pub fn ssh(&self, host: &str) -> Vec<String> {
        let mut words = vec!["ssh".to_owned()];
        for option in &self.options {
            words.extend(["-o".to_owned(), option.clone()]);
        }
        if let Some(key) = &self.key {
            words.extend(["-i".to_owned(), key.clone()]);
        }
        if let Some(port) = &self.port {
            words.extend(["-p".to_owned(), port.clone()]);
        }
        if self.agent {
            words.push("-A".to_owned());
        }
        words.push("--".to_owned());
        words.push(match &self.user {
            Some(user) if !host.contains('@') => format!("{user}@{host}"),
            _ => host.to_owned(),
        });
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ssh_gets_words_and_no_shell() {
        let target = Target::read(&json!({
            "user": "me", "host": ["a", {"host": "b"}, "you@c"], "repo": "git@x:y.git", "path": "/srv/x/", "port": 2222,
            "key": "/k ey", "ssh_options": ["StrictHostKeyChecking=no", "A=b"], "forward-agent": "yes",
        }))
        .unwrap();
        assert_eq!(target.hosts, ["a", "b", "you@c"]);
        assert_eq!(target.path, "/srv/x");
        assert_eq!(target.reference, "origin/master");
        assert_eq!(
            target.ssh("a"),
            [
                "ssh",
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "A=b",
                "-i",
                "/k ey",
                "-p",
                "2222",
                "-A",
                "--",
                "me@a"
            ]
        );
        assert_eq!(target.ssh("you@c").last().unwrap(), "you@c");
    }

    #[test]
    fn what_would_be_an_option_or_is_missing_is_refused_with_its_key() {
        let whole = json!({"host": "h", "repo": "r", "path": "/p", "ref": "origin/main"});
        assert!(Target::read(&whole).is_ok());
        for (key, value, words) in [
            ("host", json!("-oProxyCommand=x"), "`host`"),
            ("ref", json!("--upload-pack=x"), "`ref`"),
            ("repo", json!("-x"), "`repo`"),
            ("path", json!(null), "`path` is missing"),
            ("host", json!([]), "`host` is missing"),
            ("env", json!({"A;b": 1}), "`env`"),
            ("path", json!({}), "`path` must be text"),
        ] {
            let mut block = whole.clone();
            block[key] = value;
            let error = Target::read(&block).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(Target::read(&json!("x")).is_err());
    }
}
