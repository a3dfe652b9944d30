//! Options of `fornax worker`, and where its Redis is. What is secret in the address is shown nowhere.

use crate::core::units::{Bytes, Millis};
use anyhow::{Context, bail};
use clap::Args;
use redis::{Client, ConnectionAddr, IntoConnectionInfo, TlsCertificates};
use std::path::PathBuf;
use std::time::Duration;

/// The variable that the address is best told by: command lines can be read by everybody.
pub const URL: &str = "FORNAX_REDIS_URL";

/// Options of `worker`.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Redis: redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss:// with TLS, or unix:///PATH. By default FORNAX_REDIS_URL.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Certificates (PEM) that a server of rediss:// may be signed by, instead of the machine's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// What all keys of the queue begin with.
    #[arg(long, value_name = "TEXT", default_value = "fornax:")]
    pub prefix: String,
    /// What this machine is called; the same after a restart, and another one's never. By default host and port.
    #[arg(long)]
    pub name: Option<String>,
    /// A machine that has not been heard of for so long has lost its jobs to the others: 5s to 1h.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    lease: String,
    /// Jobs held for each ComfyUI that takes jobs.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub depth: u32,
    /// When it is to end, jobs may go on so long before they are returned.
    #[arg(long, value_name = "TIME", default_value = "0s")]
    grace: String,
    /// A job that was claimed so often, and whose machines were lost each time, is dead.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub deliveries: u64,
    /// Outputs are put into Redis up to this size for each job; larger ones stay here. 0: none are.
    #[arg(long, value_name = "SIZE", default_value = "8M")]
    inline: String,
    /// What became of a job, and its outputs, are kept in Redis for so long.
    #[arg(long, value_name = "TIME", default_value = "7d")]
    keep: String,
}

/// What the options come to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// See `--lease`.
    pub lease: Duration,
    /// See `--grace`.
    pub grace: Duration,
    /// See `--inline`, in bytes.
    pub inline: u64,
    /// See `--keep`.
    pub keep: Duration,
}

/// Where Redis is.
pub struct Target {
    /// Connects.
    pub client: Client,
    /// The address without user and password.
    pub shown: String,
}

impl WorkerArgs {
    /// The times and sizes.
    pub fn limits(&self) -> anyhow::Result<Limits> {
        let time = |option: &str, text: &str| {
            let time = Millis::parse(text).map(Millis::duration);
            time.with_context(|| format!("{option}: `{text}` is no time; write 500ms, 60s or 10m"))
        };
        let lease = time("--lease", &self.lease)?;
        // Less, and a busy machine loses jobs that it works at.
        if lease < Duration::from_secs(2) || lease > Duration::from_secs(3600) {
            bail!(
                "--lease: `{}` is not from 2s to 1h; a lease is renewed four times in its length",
                self.lease
            );
        }
        let inline = Bytes::parse(&self.inline);
        Ok(Limits {
            lease,
            grace: time("--grace", &self.grace)?,
            inline: inline
                .with_context(|| format!("--inline: `{}` is no size; write 8M", self.inline))?
                .0,
            keep: time("--keep", &self.keep)?.max(Duration::from_secs(60)),
        })
    }

    /// Reads the address; nothing is connected yet. An error repeats nothing of it.
    pub fn target(&self) -> anyhow::Result<Target> {
        let given = self.redis.clone().filter(|url| !url.is_empty());
        let by_variable = || std::env::var(URL).ok().filter(|url| !url.is_empty());
        let url = given.or_else(by_variable).with_context(|| {
            format!("which Redis? give --redis redis://HOST:6379, or set {URL}")
        })?;
        let info = url.as_str().into_connection_info().context(
            "the address of Redis cannot be read; it is redis://[USER:PASSWORD@]HOST:PORT/DB, rediss://… or unix:///PATH",
        )?;
        let db = info.redis_settings().db();
        let shown = match info.addr() {
            ConnectionAddr::Tcp(host, port) => format!("redis://{host}:{port}/{db}"),
            ConnectionAddr::TcpTls { host, port, .. } => format!("rediss://{host}:{port}/{db}"),
            ConnectionAddr::Unix(path) => format!("unix://{}", path.display()),
            _ => "redis".to_owned(),
        };
        let client = match &self.ca {
            Some(file) => {
                let root_cert = std::fs::read(file)
                    .with_context(|| format!("--ca: cannot read {}", file.display()))?;
                let certificates = TlsCertificates {
                    client_tls: None,
                    root_cert: Some(root_cert),
                };
                Client::build_with_tls(info, certificates)
            }
            None => Client::open(info),
        };
        let client = client.with_context(|| format!("cannot use {shown}"))?;
        Ok(Target { client, shown })
    }

    /// A password stands on the command line, where everybody on the machine can read it.
    pub fn tells_password(&self) -> bool {
        let info = self
            .redis
            .as_deref()
            .map(IntoConnectionInfo::into_connection_info);
        info.is_some_and(|info| info.is_ok_and(|info| info.redis_settings().password().is_some()))
    }
}
