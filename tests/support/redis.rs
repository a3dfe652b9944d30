//! A real Redis of the test's own, and a worker of Fornax on it.

#![allow(clippy::unwrap_used, dead_code)]

use super::eventually;
use super::home::{Home, free_ports, kill};
use super::tls;
use redis::{Connection, FromRedisValue};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// What nobody but Redis and the workers may know.
pub const PASSWORD: &str = "open-sesame-7";

/// A server that keeps what it is told over its death.
pub struct Redis {
    dir: tempfile::TempDir,
    port: u16,
    tls: bool,
    child: Option<Child>,
}

impl Redis {
    /// Starts one; `None`, and it is said, where there is no redis-server.
    pub fn start(by_tls: bool) -> Option<Self> {
        if !(tls::has("redis-server") && (!by_tls || tls::has("openssl"))) {
            return None;
        }
        let mut redis = Self {
            dir: tempfile::Builder::new().prefix("fxr").tempdir().unwrap(),
            port: free_ports(1),
            tls: by_tls,
            child: None,
        };
        if by_tls {
            tls::certify(redis.dir.path());
        }
        redis.begin();
        Some(redis)
    }

    /// Where its authority's certificate is.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Starts the server, and waits until it answers.
    pub fn begin(&mut self) {
        let port = self.port.to_string();
        let ports = match self.tls {
            true => vec![
                "--port",
                "0",
                "--tls-port",
                &port,
                "--tls-cert-file",
                "cert.pem",
                "--tls-key-file",
                "key.pem",
                "--tls-ca-cert-file",
                "ca.pem",
                "--tls-auth-clients",
                "no",
            ],
            false => vec!["--port", &port],
        };
        let child = Command::new("redis-server")
            .args(ports)
            .args([
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
            ])
            .args(["--requirepass", PASSWORD, "--unixsocket", "sock"])
            .current_dir(self.dir.path())
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
        eventually("redis answers", || {
            let pong: String = redis::cmd("PING").query(&mut self.connect()?).ok()?;
            (pong == "PONG").then_some(())
        });
    }

    /// SIGKILL.
    pub fn end(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Its address with the password.
    pub fn url(&self) -> String {
        let (scheme, host) = if self.tls {
            ("rediss", "localhost")
        } else {
            ("redis", "127.0.0.1")
        };
        format!("{scheme}://:{PASSWORD}@{host}:{}/0", self.port)
    }

    fn connect(&self) -> Option<Connection> {
        let socket = self.dir.path().join("sock");
        let client = redis::Client::open(format!("unix://{}?pass={PASSWORD}", socket.display()));
        client.unwrap().get_connection().ok()
    }

    /// One command.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let answer = command.query(&mut self.connect().expect("redis is there"));
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Adds an entry; its id.
    pub fn add(&self, fields: &[(&str, &str)]) -> String {
        let mut words = vec!["XADD", "fornax:jobs", "*"];
        for (name, value) in fields {
            words.extend([*name, *value]);
        }
        self.ask(&words)
    }

    /// Entries of a stream, each by field.
    pub fn stream(&self, key: &str) -> Vec<HashMap<String, String>> {
        let all: Vec<(String, HashMap<String, String>)> = self.ask(&["XRANGE", key, "-", "+"]);
        all.into_iter().map(|(_, fields)| fields).collect()
    }

    /// Waits until so many results are there.
    pub fn results(&self, count: usize) -> Vec<HashMap<String, String>> {
        eventually(&format!("{count} results"), || {
            Some(self.stream("fornax:results")).filter(|all| all.len() >= count)
        })
    }

    /// A hash.
    pub fn hash(&self, key: &str) -> HashMap<String, String> {
        self.ask(&["HGETALL", key])
    }

    /// Who holds how many entries that are not settled.
    pub fn pending(&self) -> HashMap<String, usize> {
        let all: Vec<(String, String, u64, u64)> =
            self.ask(&["XPENDING", "fornax:jobs", "fornax", "-", "+", "1000"]);
        let mut by = HashMap::new();
        for (_, consumer, ..) in all {
            *by.entry(consumer).or_default() += 1;
        }
        by
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A worker that runs; killed at the end of the test.
pub struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    pub fn start(home: &Home, redis: &Redis, name: &str, more: &[&str]) -> Self {
        let log = home.apps().join(format!("worker-{name}.log"));
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let args: Vec<&str> = ["worker", "--name", name]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        let child = home
            .command(home.program(), &args)
            .env("FORNAX_REDIS_URL", redis.url())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn until_it_says(&self, words: &str) {
        eventually(&format!("the worker says {words:?}"), || {
            self.log().contains(words).then_some(())
        });
    }

    /// Its exit code, once it has ended by this signal.
    pub fn stop(&mut self, signal: i32) -> Option<i32> {
        kill(self.child.id(), signal);
        eventually("the worker ends", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.log.display(), self.log());
        }
        // It has usually ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
