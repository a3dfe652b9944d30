//! The client of one ComfyUI, against the simulated one over real sockets, and against servers that misbehave.

#![allow(
    clippy::unwrap_used,
    reason = "in a test an unwrap is the failure to report"
)]

use bytes::Bytes;
use clap::Parser;
use fornax::comfyui::client::{
    Client, ClientError, Event, FileKind, Limits, Outcome, Submission, Submitted, Upload,
};
use fornax::comfyui::simulate::{self, SimulateOptions};
use fornax::core::refusal::RefusalClass;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: SimulateOptions,
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("no {what} within {DEADLINE:?}"))
}

/// A simulated ComfyUI in this process; it ends when the sender is dropped.
async fn comfyui(flags: &str) -> (SocketAddr, oneshot::Sender<()>) {
    let words = format!("simulate --port 0 {flags}");
    let options = Flags::try_parse_from(words.split_whitespace())
        .unwrap()
        .options;
    let (send, address) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(simulate::serve(
        options,
        move |bound| send.send(bound).unwrap(),
        async move { drop(stopped.await) },
    ));
    (within("ready", address).await.unwrap(), stop)
}

fn graph(prefix: &str) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    })
}

async fn submit(client: &Client, graph: &Value, id: &str) -> Result<Submitted, ClientError> {
    let prompt = RawValue::from_string(graph.to_string()).unwrap();
    let submission = Submission {
        prompt: &prompt,
        prompt_id: id,
        client_id: "tester",
        front: false,
        extra_data: None,
    };
    within("submission", client.submit(&submission)).await
}

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[tokio::test]
async fn a_prompt_is_followed_to_its_picture() {
    let (address, _stop) = comfyui("--seconds 0.2 --steps 4 --preview-method auto").await;
    let client = Client::new(address);
    let mut events = within("events", client.events("tester")).await.unwrap();
    let id = new_id();
    let submitted = submit(&client, &graph("followed"), &id).await.unwrap();
    assert!(
        matches!(submitted, Submitted::Accepted { .. }),
        "{submitted:?}"
    );
    let queue = client.queue().await.unwrap();
    assert!(queue.holds(&id) || client.history(&id).await.unwrap().is_some());
    let (mut started, mut steps, mut executed) = (false, 0, false);
    loop {
        match within("event", events.next()).await.unwrap() {
            Event::Started { prompt_id } => started = prompt_id == id,
            Event::States { prompt_id, nodes } if prompt_id == id => steps += nodes.len(),
            Event::Executed {
                prompt_id, output, ..
            } => {
                executed = prompt_id == id && output["images"].is_array();
            }
            Event::Ended { prompt_id } if prompt_id.as_ref() == Some(&id) => break,
            _ => {}
        }
    }
    assert!(started && executed && steps > 0);
    // The last event says that the history is there.
    let entry = client.history(&id).await.unwrap().expect("its history");
    assert_eq!(entry.outcome(), Outcome::Success);
    let (node, file) = entry.files().remove(0);
    assert_eq!((node.as_str(), file.kind), ("3", FileKind::Output));
    let mut download = client
        .view(&file, 1 << 20)
        .await
        .unwrap()
        .expect("the file");
    let (length, mut bytes) = (download.length, Vec::new());
    while let Some(piece) = within("piece", download.next()).await.unwrap() {
        bytes.extend(piece);
    }
    assert!(bytes.starts_with(b"\x89PNG"));
    assert!(length.is_none_or(|length| length == bytes.len() as u64));
    assert!(
        matches!(
            client.view(&file, 10).await,
            Err(ClientError::TooLarge { .. })
        ) || length.is_none()
    );
    let missing = fornax::comfyui::client::FileRef {
        filename: "no such file.png".into(),
        ..file
    };
    assert!(client.view(&missing, 1 << 20).await.unwrap().is_none());
    assert_eq!(client.remaining().await.unwrap(), 0);
    let stats = client.system_stats().await.unwrap();
    assert_eq!(stats.system.comfyui_version, "0.3.64");
    assert!(stats.devices[0].vram_total > 0);
    client.free(true, true).await.unwrap();
    client.forget(&[&id]).await.unwrap();
    assert!(client.history(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn refusals_are_classified_and_a_half_is_told_from_a_whole() {
    let (address, _stop) = comfyui("--seconds 0").await;
    let client = Client::new(address);
    let unknown = json!({"1": {"class_type": "NoSuchNode", "inputs": {}}});
    let Submitted::Refused(refusal) = submit(&client, &unknown, &new_id()).await.unwrap() else {
        panic!("an unknown class was taken");
    };
    assert_eq!(
        (refusal.class, refusal.kind.as_str()),
        (RefusalClass::NodeSet, "invalid_prompt")
    );
    let mut half = graph("half");
    half["4"] = json!({"class_type": "SaveImage", "inputs": {"filename_prefix": "broken"}});
    let Submitted::Partial { refusal, .. } = submit(&client, &half, &new_id()).await.unwrap()
    else {
        panic!("a half was not told");
    };
    assert_eq!(refusal.class, RefusalClass::Permanent);
    assert!(refusal.node_errors.contains_key("4"), "{refusal:?}");
    let model = json!({
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "missing.safetensors"}},
        "2": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    });
    let Submitted::Refused(refusal) = submit(&client, &model, &new_id()).await.unwrap() else {
        panic!("a missing model was taken");
    };
    assert_eq!(
        refusal.class,
        RefusalClass::Elsewhere,
        "{}",
        refusal.message
    );
}

#[tokio::test]
async fn only_the_named_prompt_is_interrupted_or_taken_out() {
    let (address, _stop) = comfyui("--seconds 30 --steps 300").await;
    let client = Client::new(address);
    let (first, second, third) = (new_id(), new_id(), new_id());
    for id in [&first, &second, &third] {
        submit(&client, &graph(id), id).await.unwrap();
    }
    within("a running prompt", async {
        while client.queue().await.unwrap().running != [first.clone()] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    client.interrupt(Some(&second)).await.unwrap();
    client.delete_pending(&[&second]).await.unwrap();
    let queue = client.queue().await.unwrap();
    assert_eq!(
        (&queue.running, &queue.pending),
        (&vec![first.clone()], &vec![third.clone()])
    );
    client.interrupt(Some(&first)).await.unwrap();
    let entry = within("the interrupt", async {
        loop {
            if let Some(entry) = client.history(&first).await.unwrap() {
                return entry;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(entry.outcome(), Outcome::Interrupted);
}

#[tokio::test]
async fn an_upload_is_there_under_the_name_of_the_reply() {
    let (address, _stop) = comfyui("--seconds 0").await;
    let client = Client::new(address);
    let give = |bytes: &'static [u8]| {
        let file = Upload {
            name: "in \"1\".png",
            subfolder: "",
            length: bytes.len() as u64,
            overwrite: false,
        };
        let pieces = bytes
            .chunks(3)
            .map(|piece| Ok(Bytes::from_static(piece)))
            .collect::<Vec<_>>();
        client.upload(file, futures_util::stream::iter(pieces))
    };
    let first = within("upload", give(b"first picture")).await.unwrap();
    let second = within("upload", give(b"another one")).await.unwrap();
    assert_eq!(first.kind, FileKind::Input);
    assert_ne!(first.filename, second.filename);
    let mut download = client
        .view(&second, 100)
        .await
        .unwrap()
        .expect("the upload");
    let mut bytes = Vec::new();
    while let Some(piece) = within("piece", download.next()).await.unwrap() {
        bytes.extend(piece);
    }
    assert_eq!(bytes, b"another one");
}

/// A server that answers every connection with these bytes and then stays silent; it tells how often it was asked.
async fn says(
    answer: &'static [u8],
) -> (SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer).await;
            held.push(stream);
        }
    });
    (address, asked)
}

#[tokio::test]
async fn what_hangs_is_given_up_and_what_is_too_large_is_not_held() {
    let limits = Limits {
        call: Duration::from_millis(200),
        submit: Duration::from_millis(200),
        stall: Duration::from_millis(200),
        reply: 1000,
    };
    let (silent, _) = says(b"").await;
    let client = Client::with_limits(silent, limits);
    assert!(matches!(
        client.remaining().await,
        Err(ClientError::Late { .. })
    ));
    let late = submit(&client, &graph("late"), &new_id())
        .await
        .unwrap_err();
    assert!(!late.is_unheard(), "{late}");
    let (endless, _) = says(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{").await;
    let client = Client::with_limits(endless, limits);
    assert!(matches!(
        client.queue().await,
        Err(ClientError::Late { .. })
    ));
    let (large, _) = says(
        Box::leak(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n{}",
                "x".repeat(2000)
            )
            .into_boxed_str(),
        )
        .as_bytes(),
    )
    .await;
    let client = Client::with_limits(large, limits);
    assert!(matches!(
        client.queue().await,
        Err(ClientError::TooLarge { .. })
    ));
    let (odd, _) = says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]").await;
    let client = Client::with_limits(odd, limits);
    assert!(matches!(
        client.remaining().await,
        Err(ClientError::Unreadable { .. })
    ));
    let (sick, _) =
        says(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy").await;
    let client = Client::with_limits(sick, limits);
    let error = client.remaining().await.unwrap_err();
    assert_eq!(
        (error.status(), error.to_string().as_str()),
        (Some(503), "/prompt answered 503: busy")
    );
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let error = Client::new(nobody).remaining().await.unwrap_err();
    assert!(error.is_unheard(), "{error}");
}

#[tokio::test]
async fn a_kept_connection_is_used_again_and_a_closed_one_is_not() {
    let (address, asked) = says(
        b"HTTP/1.1 200 OK\r\nContent-Length: 37\r\n\r\n{\"exec_info\": {\"queue_remaining\": 0}}\n",
    )
    .await;
    let client = Client::new(address);
    assert_eq!(within("answer", client.remaining()).await.unwrap(), 0);
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
    // The simulator closes its connections when it ends; the next one on that port is asked on a new connection.
    let (address, stop) = comfyui("--seconds 0").await;
    let client = Client::new(address);
    for _ in 0..3 {
        assert_eq!(within("answer", client.remaining()).await.unwrap(), 0);
    }
    drop(stop);
    let gone = within("the end", async {
        loop {
            if let Err(error) = client.remaining().await {
                return error;
            }
        }
    })
    .await;
    let _ = gone;
    let (port, again) = (
        address.port(),
        Flags::try_parse_from(["simulate", "--port", &address.port().to_string()]).unwrap(),
    );
    let (send, ready) = oneshot::channel();
    tokio::spawn(simulate::serve(
        again.options,
        move |bound| send.send(bound).unwrap(),
        std::future::pending(),
    ));
    assert_eq!(within("ready again", ready).await.unwrap().port(), port);
    assert_eq!(within("answer", client.remaining()).await.unwrap(), 0);
}

#[tokio::test]
async fn the_end_of_an_instance_ends_its_events() {
    let (address, stop) = comfyui("--seconds 0").await;
    let client = Client::new(address);
    let mut events = within("events", client.events("tester")).await.unwrap();
    assert!(matches!(
        within("status", events.next()).await,
        Ok(Event::Status { remaining: 0 })
    ));
    drop(stop);
    within("the end", async { while events.next().await.is_ok() {} }).await;
}
