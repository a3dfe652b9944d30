//! The routes of one ComfyUI as functions, over a few connections that are kept between calls.

use super::error::ClientError;
use super::line::{Body, Line};
use super::replies::{HistoryEntry, Queue, Remaining, SystemStats};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Connections kept for the next call; a further one is closed after its call.
const KEPT: usize = 4;
/// So much of a refusal's body is repeated, in characters.
const SAID: usize = 200;

/// What a call may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a whole call, except downloads, uploads and submissions.
    pub call: Duration,
    /// For a submission: ComfyUI validates the graph meanwhile, which may list model folders.
    pub submit: Duration,
    /// A transfer without a byte for so long has failed.
    pub stall: Duration,
    /// The largest answer that is held in memory, in bytes. `/queue` and `/object_info` can be megabytes.
    pub reply: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(10),
            submit: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            reply: 64 << 20,
        }
    }
}

/// One ComfyUI. Calls may run at the same time.
#[derive(Debug)]
pub struct Client {
    pub(super) address: SocketAddr,
    pub(super) limits: Limits,
    /// A lock and not a task: it is held to push or pop only.
    idle: Mutex<Vec<Line>>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

/// What is asked.
pub(super) struct Ask {
    pub method: Method,
    /// With its query.
    pub path: String,
    /// A body and its type.
    pub body: Option<(Bytes, &'static str)>,
}

impl Ask {
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            body: None,
        }
    }

    pub fn post(path: &str, body: Bytes) -> Self {
        Self {
            method: Method::POST,
            path: path.to_owned(),
            body: Some((body, "application/json")),
        }
    }

    pub fn route(&self) -> String {
        route(&self.path)
    }

    fn word(&self) -> &'static str {
        if self.method == Method::GET {
            "GET"
        } else {
            "POST"
        }
    }
}

/// A path without its query.
pub(super) fn route(path: &str) -> String {
    path.split('?').next().unwrap_or_default().to_owned()
}

/// An answer held in memory.
pub(super) struct Answered {
    pub status: u16,
    pub body: Bytes,
}

impl Client {
    /// A client of the ComfyUI at `address`. Connects when it is first asked something.
    pub fn new(address: SocketAddr) -> Self {
        Self::with_limits(address, Limits::default())
    }

    /// The same with limits of the caller's.
    pub fn with_limits(address: SocketAddr, limits: Limits) -> Self {
        Self {
            address,
            limits,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `GET /prompt`: how many prompts are pending or running. The cheapest question.
    pub async fn remaining(&self) -> Result<u64, ClientError> {
        let told: Remaining = self.json(Ask::get("/prompt")).await?;
        Ok(told.exec_info.queue_remaining)
    }

    /// `GET /queue`: which prompts run and wait. The graphs are not kept.
    pub async fn queue(&self) -> Result<Queue, ClientError> {
        self.json(Ask::get("/queue")).await
    }

    /// `GET /history/{id}`: how a prompt ended; `None` while it is pending or runs, and when it is unknown.
    pub async fn history(&self, prompt_id: &str) -> Result<Option<HistoryEntry>, ClientError> {
        let path = format!("/history/{}", escaped(prompt_id));
        let mut told: HashMap<String, HistoryEntry> = self.json(Ask::get(path)).await?;
        Ok(told.remove(prompt_id))
    }

    /// `GET /system_stats`: version, memory, devices.
    pub async fn system_stats(&self) -> Result<SystemStats, ClientError> {
        self.json(Ask::get("/system_stats")).await
    }

    /// `GET /models`: the names of the model folders.
    pub async fn model_folders(&self) -> Result<Vec<String>, ClientError> {
        self.json(Ask::get("/models")).await
    }

    /// `GET /models/{folder}`: the files in one model folder; `None` for a folder it does not know.
    pub async fn models(&self, folder: &str) -> Result<Option<Vec<String>>, ClientError> {
        match self
            .json(Ask::get(format!("/models/{}", escaped(folder))))
            .await
        {
            Err(ClientError::Status { status: 404, .. }) => Ok(None),
            told => told.map(Some),
        }
    }

    /// `GET /object_info`: the classes of nodes by name, with their inputs. Dear: megabytes, built anew by each call.
    pub async fn object_info(&self) -> Result<Value, ClientError> {
        self.json(Ask::get("/object_info")).await
    }

    /// `POST /interrupt`: ends this prompt if it is the one that runs; without an id, whatever runs. Returns before it has ended.
    pub async fn interrupt(&self, prompt_id: Option<&str>) -> Result<(), ClientError> {
        let body = prompt_id.map_or_else(|| json!({}), |id| json!({"prompt_id": id}));
        self.tell("/interrupt", &body).await
    }

    /// `POST /queue`: takes prompts that have not begun out of the queue; others are left alone.
    pub async fn delete_pending(&self, prompt_ids: &[&str]) -> Result<(), ClientError> {
        self.tell("/queue", &json!({"delete": prompt_ids})).await
    }

    /// `POST /free`: takes effect when the prompt thread is next idle.
    pub async fn free(&self, unload_models: bool, free_memory: bool) -> Result<(), ClientError> {
        let body = json!({"unload_models": unload_models, "free_memory": free_memory});
        self.tell("/free", &body).await
    }

    /// `POST /history`: forgets how these prompts ended.
    pub async fn forget(&self, prompt_ids: &[&str]) -> Result<(), ClientError> {
        self.tell("/history", &json!({"delete": prompt_ids})).await
    }

    async fn tell(&self, path: &str, body: &Value) -> Result<(), ClientError> {
        let ask = Ask::post(path, body.to_string().into());
        let answered = self.ask(ask, self.limits.call).await?;
        success(path, answered).map(drop)
    }

    /// Asks, and reads a success as JSON.
    pub(super) async fn json<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, ClientError> {
        let path = ask.route();
        let answered = self.ask(ask, self.limits.call).await?;
        let body = success(&path, answered)?;
        serde_json::from_slice(&body).map_err(|source| ClientError::Unreadable { path, source })
    }

    /// Asks, and holds the whole answer. A question that only asks is asked again when a kept connection turns out to be closed.
    pub(super) async fn ask(&self, ask: Ask, limit: Duration) -> Result<Answered, ClientError> {
        let late = ClientError::Late {
            method: ask.word(),
            path: ask.route(),
            limit,
        };
        let asked = async {
            if let Some(mut line) = self.kept() {
                let again = ask.method == Method::GET;
                match self.ask_on(&mut line, &ask).await {
                    Err(ClientError::Broken { .. }) if again => {}
                    answered => {
                        self.keep(line);
                        return answered;
                    }
                }
            }
            let mut line = self.open().await?;
            let answered = self.ask_on(&mut line, &ask).await;
            self.keep(line);
            answered
        };
        tokio::time::timeout(limit, asked)
            .await
            .unwrap_or(Err(late))
    }

    async fn ask_on(&self, line: &mut Line, ask: &Ask) -> Result<Answered, ClientError> {
        let response = self.head(line, ask).await?;
        let status = response.status().as_u16();
        let body = self.whole(line, response, ask.word(), &ask.path).await?;
        Ok(Answered { status, body })
    }

    /// Sends the question and waits for the head of its answer.
    pub(super) async fn head(
        &self,
        line: &mut Line,
        ask: &Ask,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(&ask.path)
            .header(HOST, self.address.to_string());
        let bytes = ask.body.as_ref().map(|(bytes, media)| {
            request = std::mem::take(&mut request).header(CONTENT_TYPE, *media);
            bytes.clone()
        });
        let body = Full::new(bytes.unwrap_or_default()).map_err(|never| match never {});
        let request = request
            .body(Body::new(body))
            .map_err(|source| ClientError::Unaskable {
                what: ask.path.clone(),
                source,
            })?;
        line.send(request)
            .await
            .map_err(|source| ClientError::Broken {
                method: ask.word(),
                path: ask.route(),
                source,
            })
    }

    /// The rest of an answer, held in memory.
    pub(super) async fn whole(
        &self,
        line: &mut Line,
        response: Response<Incoming>,
        method: &'static str,
        path: &str,
    ) -> Result<Bytes, ClientError> {
        let mut body = response.into_body();
        let mut held = BytesMut::new();
        while let Some(frame) = line.drive(body.frame()).await {
            let frame = frame.map_err(|source| ClientError::Broken {
                method,
                path: route(path),
                source,
            })?;
            let data = frame.into_data().unwrap_or_default();
            if (held.len() + data.len()) as u64 > self.limits.reply {
                return Err(ClientError::TooLarge {
                    path: route(path),
                    limit: self.limits.reply,
                });
            }
            held.extend_from_slice(&data);
        }
        Ok(held.freeze())
    }

    /// A new connection.
    pub(super) async fn open(&self) -> Result<Line, ClientError> {
        let address = self.address;
        Line::open(address)
            .await
            .map_err(|source| ClientError::Connect { address, source })
    }

    fn kept(&self) -> Option<Line> {
        loop {
            let line = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            let mut line = line?;
            if line.is_usable() {
                return Some(line);
            }
        }
    }

    fn keep(&self, mut line: Line) {
        if line.is_usable() {
            line.rest();
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < KEPT {
                idle.push(line);
            }
        }
    }
}

/// The body of a success.
pub(super) fn success(path: &str, answered: Answered) -> Result<Bytes, ClientError> {
    if (200..300).contains(&answered.status) {
        return Ok(answered.body);
    }
    let said = String::from_utf8_lossy(&answered.body[..answered.body.len().min(4 * SAID)]);
    Err(ClientError::Status {
        path: route(path),
        status: answered.status,
        said: said.trim().chars().take(SAID).collect(),
    })
}

/// Text as part of a path or a query: all but letters, digits and `-._~` is escaped (RFC 3986, 2.3).
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
