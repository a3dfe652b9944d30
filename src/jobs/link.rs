//! One ComfyUI run as the engine's tasks talk to it: its websocket, submissions, looks.

use super::report::{Delivery, Found, Report};
use super::store::{Folders, Input, Store};
use crate::comfyui::client::{Client, ClientError, Submission, Submitted, Upload};
use crate::core::workflow;
use bytes::Bytes;
use futures_util::{Stream, stream};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Between two attempts to open the websocket.
const REOPEN: Duration = Duration::from_millis(500);
/// Pieces of an upload, in bytes.
const PIECE: usize = 256 << 10;

/// A run of an instance that jobs go to. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// Counts links: late news of one that is over are told by it.
    pub serial: u64,
    /// Talks to it.
    pub client: Arc<Client>,
    /// Whose events the websocket brings.
    pub client_id: Arc<str>,
    /// Where it writes its outputs, if that is known and on this machine.
    pub output: Option<PathBuf>,
    /// Cancelled when the run is over.
    pub over: CancellationToken,
}

/// Keeps the websocket open and passes on what comes, until the run is over.
pub(super) async fn listen(link: Link, reports: mpsc::Sender<Report>) {
    let over = link.over.clone();
    let tell = async |report| reports.send(report).await.is_err();
    let listening = async {
        loop {
            if let Ok(mut events) = link.client.events(&link.client_id).await {
                if tell(Report::Socket {
                    link: link.serial,
                    open: true,
                })
                .await
                {
                    return;
                }
                while let Ok(event) = events.next().await {
                    if tell(Report::Event {
                        link: link.serial,
                        event,
                    })
                    .await
                    {
                        return;
                    }
                }
                if tell(Report::Socket {
                    link: link.serial,
                    open: false,
                })
                .await
                {
                    return;
                }
            }
            tokio::time::sleep(REOPEN).await;
        }
    };
    tokio::select! {
        () = over.cancelled() => {}
        () = listening => {}
    }
}

/// What is to be delivered.
pub(super) struct Parcel {
    pub job: String,
    pub prompt_id: String,
    /// The graph, if it is at hand; else it is read from the store.
    pub workflow: Option<String>,
    pub inputs: Vec<Input>,
}

/// The folder that an attempt saves in, below the instance's outputs.
pub(super) fn folder(prompt_id: &str) -> String {
    format!("fornax-{prompt_id}")
}

/// Uploads a job's inputs and submits its graph.
pub(super) async fn deliver(
    link: &Link,
    store: &Store,
    folders: &Folders,
    parcel: Parcel,
) -> Delivery {
    let text = match parcel.workflow {
        Some(text) => text,
        None => match store.workflow(&parcel.job).await {
            Ok(Some(text)) => text,
            Ok(None) => return Delivery::NotTaken("its workflow is not in the store".to_owned()),
            Err(error) => return Delivery::NotTaken(error.to_string()),
        },
    };
    let mut there = BTreeMap::new();
    for input in &parcel.inputs {
        let path = folders.inputs(&parcel.job).join(&input.file);
        match upload(link, input, path).await {
            Ok(name) => drop(there.insert(input.name.clone(), name)),
            Err(why) => {
                return Delivery::NotTaken(format!("cannot upload `{}`: {why}", input.name));
            }
        }
    }
    let prompt = serde_json::from_str::<Value>(&text).and_then(|mut graph| {
        workflow::prepare(&mut graph, &folder(&parcel.prompt_id), &there);
        serde_json::value::to_raw_value(&graph)
    });
    let prompt: Box<RawValue> = match prompt {
        Ok(prompt) => prompt,
        Err(error) => return Delivery::NotTaken(format!("its workflow cannot be read: {error}")),
    };
    let submission = Submission {
        prompt: &prompt,
        prompt_id: &parcel.prompt_id,
        client_id: &link.client_id,
        front: false,
        extra_data: None,
    };
    match link.client.submit(&submission).await {
        Ok(Submitted::Accepted { .. }) => Delivery::Taken,
        Ok(Submitted::Partial { refusal, .. }) => Delivery::Partial(refusal),
        Ok(Submitted::Refused(refusal)) => Delivery::Refused(refusal),
        Err(error) if error.is_unheard() || error.status().is_some() => {
            Delivery::NotTaken(error.to_string())
        }
        Err(error) => Delivery::Unsure(error.to_string()),
    }
}

/// Gives it a name that only this content has, so that nothing is replaced and nothing renamed.
async fn upload(link: &Link, input: &Input, path: PathBuf) -> Result<String, String> {
    let name = format!(
        "{}-{}",
        input.digest.get(..16).unwrap_or_default(),
        input.file
    );
    let file = Upload {
        name: &name,
        subfolder: "",
        length: input.bytes,
        overwrite: false,
    };
    let there = link.client.upload(file, read(path)).await;
    let there = there.map_err(|error: ClientError| error.to_string())?;
    Ok(if there.subfolder.is_empty() {
        there.filename
    } else {
        format!("{}/{}", there.subfolder, there.filename)
    })
}

/// A file, piece by piece, read on threads that may block.
fn read(path: PathBuf) -> impl Stream<Item = io::Result<Bytes>> {
    enum Reading {
        Closed(PathBuf),
        Open(std::fs::File),
    }
    stream::try_unfold(Reading::Closed(path), |state| async {
        let piece = tokio::task::spawn_blocking(move || {
            let mut file = match state {
                Reading::Closed(path) => std::fs::File::open(path)?,
                Reading::Open(file) => file,
            };
            let mut piece = vec![0; PIECE];
            let length = file.read(&mut piece)?;
            piece.truncate(length);
            Ok::<_, io::Error>((length > 0).then(|| (Bytes::from(piece), Reading::Open(file))))
        });
        piece.await.map_err(io::Error::other)?
    })
}

/// Where a prompt is. Between a prompt's last place in the queue and its entry in the history there is no gap; one that ended
/// between our two questions is found by the third.
pub(super) async fn look(link: &Link, prompt_id: &str) -> Found {
    let looking = async {
        if let Some(entry) = link.client.history(prompt_id).await? {
            return Ok(Found::Ended(Box::new(entry)));
        }
        let queue = link.client.queue().await?;
        if queue.running.iter().any(|id| id == prompt_id) {
            return Ok(Found::Running);
        }
        if queue.holds(prompt_id) {
            return Ok(Found::Waiting);
        }
        Ok(match link.client.history(prompt_id).await? {
            Some(entry) => Found::Ended(Box::new(entry)),
            None => Found::Nowhere,
        })
    };
    let found: Result<Found, ClientError> = looking.await;
    found.unwrap_or_else(|error| Found::Unanswered(error.to_string()))
}

/// Takes a prompt back: it is not begun, or is interrupted at its next step.
pub(super) async fn take_back(link: &Link, prompt_id: &str) {
    for told in [
        link.client.delete_pending(&[prompt_id]).await,
        link.client.interrupt(Some(prompt_id)).await,
    ] {
        if let Err(error) = told {
            tracing::debug!(prompt_id, %error, "a prompt could not be taken back");
        }
    }
}
