//! Files of a ComfyUI: what names one, downloads piece by piece, uploads.

use super::calls::{Ask, Client, escaped, success};
use super::error::ClientError;
use super::line::{Body, Line};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::Request;
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::time::Duration;

/// Which of ComfyUI's folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// What is kept.
    Output,
    /// What was uploaded.
    Input,
    /// Previews; gone at the next start.
    Temp,
}

impl FileKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            FileKind::Output => "output",
            FileKind::Input => "input",
            FileKind::Temp => "temp",
        }
    }
}

/// A file as ComfyUI names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileRef {
    /// Its name, without a folder.
    pub filename: String,
    /// Its folder below the kind's; empty for none.
    #[serde(default)]
    pub subfolder: String,
    /// Below which folder.
    #[serde(rename = "type")]
    pub kind: FileKind,
}

impl FileRef {
    /// From an object with a `filename`; without a type it is an output.
    pub(super) fn of(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        Some(Self {
            filename: text("filename")?.to_owned(),
            subfolder: text("subfolder").unwrap_or_default().to_owned(),
            kind: match text("type") {
                Some("temp") => FileKind::Temp,
                Some("input") => FileKind::Input,
                _ => FileKind::Output,
            },
        })
    }

    fn query(&self) -> String {
        format!(
            "/view?filename={}&subfolder={}&type={}",
            escaped(&self.filename),
            escaped(&self.subfolder),
            self.kind.as_str()
        )
    }
}

/// A file on its way to us.
pub struct Download {
    line: Line,
    body: Incoming,
    path: String,
    stall: Duration,
    most: u64,
    taken: u64,
    /// How many bytes it has, if that was told.
    pub length: Option<u64>,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download")
            .field("path", &self.path)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

impl Download {
    /// The next piece; `None` at its end. A file that ends early is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let next = self.line.drive(self.body.frame());
            let frame = tokio::time::timeout(self.stall, next).await;
            let frame = frame.map_err(|_| ClientError::Late {
                method: "GET",
                path: self.path.clone(),
                limit: self.stall,
            })?;
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|source| ClientError::Broken {
                method: "GET",
                path: self.path.clone(),
                source,
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            self.taken += data.len() as u64;
            if self.taken > self.most {
                return Err(ClientError::TooLarge {
                    path: self.path.clone(),
                    limit: self.most,
                });
            }
            return Ok(Some(data));
        }
    }
}

/// A file to give.
#[derive(Debug, Clone)]
pub struct Upload<'a> {
    /// The name it is wanted under. ComfyUI may choose another: the reply counts.
    pub name: &'a str,
    /// Below the kind's folder; empty for none.
    pub subfolder: &'a str,
    /// How many bytes there are.
    pub length: u64,
    /// Whether another file of that name is replaced.
    pub overwrite: bool,
}

impl Client {
    /// `GET /view`: a file, piece by piece; `None` if it is not there. `most` bounds it, in bytes.
    pub async fn view(&self, file: &FileRef, most: u64) -> Result<Option<Download>, ClientError> {
        let ask = Ask::get(file.query());
        let mut line = self.open().await?;
        let path = ask.route();
        let late = |_| ClientError::Late {
            method: "GET",
            path: path.clone(),
            limit: self.limits.stall,
        };
        let response = tokio::time::timeout(self.limits.stall, self.head(&mut line, &ask));
        let response = response.await.map_err(late)??;
        match response.status().as_u16() {
            404 => return Ok(None),
            200 => {}
            status => {
                return Err(ClientError::Status {
                    path,
                    status,
                    said: String::new(),
                });
            }
        }
        let header = response.headers().get(CONTENT_LENGTH);
        let length = header.and_then(|value| value.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: u64| length > most) {
            return Err(ClientError::TooLarge { path, limit: most });
        }
        Ok(Some(Download {
            line,
            body: response.into_body(),
            path,
            stall: self.limits.stall,
            most,
            taken: 0,
            length,
        }))
    }

    /// `POST /upload/image` of any file; tells under which name it is there. `bytes` must give as many as `file.length` says.
    pub async fn upload<S>(&self, file: Upload<'_>, bytes: S) -> Result<FileRef, ClientError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        const PATH: &str = "/upload/image";
        let boundary = format!("fornax-{}", uuid::Uuid::new_v4().simple());
        let field = |name: &str, value: &str| {
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            )
        };
        let head = format!(
            "{}{}{}--{boundary}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{}\"\r\nContent-Type: application/octet-stream\r\n\r\n",
            field("type", "input"),
            field("subfolder", file.subfolder),
            field("overwrite", if file.overwrite { "true" } else { "false" }),
            // What would end the quoted text or the line (RFC 7578, 2).
            file.name.replace(['"', '\r', '\n', '\\'], "_"),
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let length = head.len() as u64 + file.length + tail.len() as u64;
        let around = |text: String| stream::once(async move { Ok(Bytes::from(text)) });
        let all = around(head).chain(bytes).chain(around(tail));
        let body = Body::new(StreamBody::new(all.map(|piece| piece.map(Frame::data))));
        let request = Request::post(PATH)
            .header(HOST, self.address.to_string())
            .header(CONTENT_LENGTH, length)
            .header(
                CONTENT_TYPE,
                format!("multipart/form-data; boundary={boundary}"),
            )
            .body(body)
            .map_err(|source| ClientError::Unaskable {
                what: PATH.to_owned(),
                source,
            })?;
        // At 1 MiB a second at least.
        let limit = self.limits.stall + Duration::from_secs(file.length >> 20);
        let mut line = self.open().await?;
        let sent = async {
            let response = line
                .send(request)
                .await
                .map_err(|source| ClientError::Broken {
                    method: "POST",
                    path: PATH.to_owned(),
                    source,
                })?;
            let status = response.status().as_u16();
            let body = self.whole(&mut line, response, "POST", PATH).await?;
            success(PATH, super::calls::Answered { status, body })
        };
        let late = |_| ClientError::Late {
            method: "POST",
            path: PATH.to_owned(),
            limit,
        };
        let body = tokio::time::timeout(limit, sent).await.map_err(late)??;
        let unreadable = |source| ClientError::Unreadable {
            path: PATH.to_owned(),
            source,
        };
        let named: Named = serde_json::from_slice(&body).map_err(unreadable)?;
        Ok(FileRef {
            filename: named.name,
            subfolder: named.subfolder,
            kind: named.kind,
        })
    }
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(default)]
    subfolder: String,
    #[serde(rename = "type")]
    kind: FileKind,
}
