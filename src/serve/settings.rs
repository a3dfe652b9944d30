//! What a server is told by its environment: PM2's `PM2_SERVE_…` variables.

use std::path::PathBuf;

/// Where and how files are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The folder; nothing outside it is served.
    pub root: PathBuf,
    /// The address to listen on.
    pub host: String,
    /// The port; 0 for any.
    pub port: u16,
    /// What `/` means, and with `spa` every path that is not there; below the folder, without a slash before it.
    pub homepage: String,
    /// A page of many paths: what is not there is the homepage.
    pub spa: bool,
    /// Folders are listed.
    pub listings: bool,
    /// Name and password, if they are asked for.
    pub login: Option<(String, String)>,
}

impl Settings {
    /// Reads the environment, or says what is wrong with it.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let yes = |name: &str| set(name).is_some_and(|value| value == "true");
        let port = set("PM2_SERVE_PORT").unwrap_or_else(|| "8080".to_owned());
        let port = port.parse().map_err(|_| {
            format!("`{port}` is no port: PM2_SERVE_PORT wants a number up to 65535")
        })?;
        let login = if yes("PM2_SERVE_BASIC_AUTH") {
            let name = set("PM2_SERVE_BASIC_AUTH_USERNAME");
            let password = set("PM2_SERVE_BASIC_AUTH_PASSWORD");
            // Without either, whoever wanted a lock would have none.
            Some(name.zip(password).ok_or(
                "PM2_SERVE_BASIC_AUTH wants PM2_SERVE_BASIC_AUTH_USERNAME and PM2_SERVE_BASIC_AUTH_PASSWORD",
            )?)
        } else {
            None
        };
        let homepage = set("PM2_SERVE_HOMEPAGE").unwrap_or_else(|| "index.html".to_owned());
        Ok(Self {
            root: set("PM2_SERVE_PATH")
                .unwrap_or_else(|| ".".to_owned())
                .into(),
            host: set("PM2_SERVE_HOST").unwrap_or_else(|| "0.0.0.0".to_owned()),
            port,
            homepage: homepage.trim_start_matches('/').to_owned(),
            spa: yes("PM2_SERVE_SPA"),
            listings: yes("PM2_SERVE_FTP"),
            login,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_as_pm2_reads_it() {
        let plain = Settings::from_env(&|_| None).unwrap();
        assert_eq!((plain.port, plain.host.as_str()), (8080, "0.0.0.0"));
        assert_eq!(plain.homepage, "index.html");
        assert_eq!(plain.login, None);
        let env = |name: &str| {
            let value = match name {
                "PM2_SERVE_PORT" => "81",
                "PM2_SERVE_HOMEPAGE" => "/start.html",
                "PM2_SERVE_SPA" | "PM2_SERVE_BASIC_AUTH" => "true",
                "PM2_SERVE_FTP" => "false",
                "PM2_SERVE_BASIC_AUTH_USERNAME" => "u",
                "PM2_SERVE_BASIC_AUTH_PASSWORD" => "p",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let set = Settings::from_env(&env).unwrap();
        assert!(set.spa && !set.listings && set.port == 81);
        assert_eq!(set.homepage, "start.html");
        assert_eq!(set.login, Some(("u".to_owned(), "p".to_owned())));
        let half = |name: &str| env(name).filter(|_| !name.ends_with("PASSWORD"));
        assert!(Settings::from_env(&half).is_err());
        assert!(
            Settings::from_env(&|name| (name == "PM2_SERVE_PORT").then(|| "x".to_owned())).is_err()
        );
    }
}
