//! The daemon's HTTP, asked by commands: one request a connection, in a small runtime of its own.

use crate::cli::session::Session;
use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long the head of an answer may take; followed ones come at once.
const HEAD_WITHIN: Duration = Duration::from_secs(120);

/// Where to ask, and as whom.
#[derive(Debug, Clone)]
pub struct Api {
    address: String,
    home: PathBuf,
}

/// An answer that comes piece by piece.
pub struct Answer {
    /// Its status code.
    pub status: u16,
    response: Response<Incoming>,
    _driving: tokio::task::JoinHandle<()>,
}

impl Answer {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The next piece; `None` at its end.
    pub async fn piece(&mut self) -> anyhow::Result<Option<Bytes>> {
        while let Some(frame) = self.response.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// All of it.
    pub async fn whole(mut self) -> anyhow::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(piece) = self.piece().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// All of it as JSON; an answer that is no success is an error of its words.
    pub async fn json(self) -> anyhow::Result<Value> {
        let status = self.status;
        let body = self.whole().await?;
        let value: Value =
            serde_json::from_slice(&body).context("the daemon's answer cannot be read")?;
        if status >= 400 {
            bail!(
                "{}",
                value["error"]
                    .as_str()
                    .or(value["message"].as_str())
                    .unwrap_or("the daemon refused")
            );
        }
        Ok(value)
    }
}

impl Api {
    /// Of the daemon that runs; an error tells what to do where there is none, or no HTTP.
    pub fn of(session: &mut Session) -> anyhow::Result<Self> {
        if session.running_daemon()?.is_none() {
            bail!(
                "no daemon runs in {}; start the machine with `fornax up`",
                session.home.root().display()
            );
        }
        let home = session.home.root().to_owned();
        let told: Value = session.daemon(true)?.call("fornaxStatus", &[json!({})])?;
        match told["http"]["address"].as_str() {
            Some(address) if told["http"]["state"] == "listening" => Ok(Self {
                address: address.to_owned(),
                home,
            }),
            _ => bail!(
                "the daemon serves no HTTP, by which jobs are given; start it with FORNAX_HTTP=127.0.0.1:9090, or `fornax up --http ADDR`"
            ),
        }
    }

    /// The token, once there is one.
    fn token(&self) -> Option<String> {
        let given = std::env::var("FORNAX_HTTP_TOKEN")
            .ok()
            .filter(|token| !token.is_empty());
        given.or_else(|| {
            std::fs::read_to_string(self.home.join("http.token"))
                .ok()
                .map(|text| text.trim().to_owned())
        })
    }

    /// Asks. The first change ever makes the token: then it is asked once more.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        media: &str,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let answer = self.once(&method, path, media, body.clone(), &[]).await?;
        if answer.status == 401 {
            return self.once(&method, path, media, body, &[]).await;
        }
        Ok(answer)
    }

    /// Asks to be told events, from where it was left.
    pub async fn follow(&self, path: &str, last: &str) -> anyhow::Result<Answer> {
        let headers: &[(&str, &str)] = if last.is_empty() {
            &[]
        } else {
            &[("last-event-id", last)]
        };
        self.once(&Method::GET, path, "", Bytes::new(), headers)
            .await
    }

    async fn once(
        &self,
        method: &Method,
        path: &str,
        media: &str,
        body: Bytes,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        let stream = TcpStream::connect(&self.address).await;
        let stream =
            stream.with_context(|| format!("cannot connect to the daemon at {}", self.address))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(HOST, &self.address);
        if let Some(token) = self.token() {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if !media.is_empty() {
            request = request.header(CONTENT_TYPE, media);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sent = sender.send_request(request.body(Full::new(body))?);
        let response = tokio::time::timeout(HEAD_WITHIN, sent)
            .await
            .context("the daemon does not answer")??;
        Ok(Answer {
            status: response.status().as_u16(),
            response,
            _driving: driving,
        })
    }
}

/// Runs a command that asks by HTTP.
pub fn block<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("cannot start a runtime")?.block_on(work)
}
