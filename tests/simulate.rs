//! The simulated ComfyUI, asked over real sockets: routes, message order, refusals, faults, and the ends of its process.

#![allow(
    clippy::unwrap_used,
    reason = "in a test an unwrap is the failure to report"
)]

use clap::Parser;
use fornax::comfyui::simulate::{self, SimulateError, SimulateOptions};
use futures_util::{SinkExt, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// How long any one answer may take before the test fails.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: SimulateOptions,
}

fn options(flags: &str) -> SimulateOptions {
    Flags::try_parse_from(std::iter::once("simulate").chain(flags.split_whitespace()))
        .unwrap()
        .options
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("no {what} within {DEADLINE:?}"))
}

/// An instance in this process, on a free port.
struct Instance {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), SimulateError>>,
}

impl Instance {
    async fn start(flags: &str) -> Self {
        let options = options(&format!("--port 0 --seconds 0 {flags}"));
        let (send_address, address) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let ready = move |bound| send_address.send(bound).unwrap();
        let task = tokio::spawn(simulate::serve(options, ready, async move {
            drop(stopped.await)
        }));
        let address = within("ready", address).await.unwrap();
        Self {
            address,
            stop,
            task,
        }
    }

    /// Ends it as SIGINT would.
    async fn stop(self) {
        self.stop.send(()).unwrap();
        within("end", self.task).await.unwrap().unwrap();
    }

    async fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = if headers.contains("Content-Length") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let host = if headers.contains("Host:") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.address)
        };
        let head =
            format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{length}{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut bytes = Vec::new();
        within(path, stream.read_to_end(&mut bytes)).await.unwrap();
        Reply::read(&bytes)
    }

    async fn get(&self, path: &str) -> Reply {
        self.request("GET", path, "", b"").await
    }

    async fn post(&self, path: &str, body: &Value) -> Reply {
        self.request(
            "POST",
            path,
            "Content-Type: application/json\r\n",
            body.to_string().as_bytes(),
        )
        .await
    }

    /// Submits a graph for the client "tester" and gives the prompt's id.
    async fn submit(&self, graph: &Value) -> String {
        let reply = self
            .post("/prompt", &json!({"prompt": graph, "client_id": "tester"}))
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["prompt_id"].as_str().unwrap().to_owned()
    }

    /// The history entry of a prompt, once it is there.
    async fn finished(&self, id: &str) -> Value {
        within("history entry", async {
            loop {
                let mut history = self.get(&format!("/history/{id}")).await.json();
                if !history[id].is_null() {
                    return history[id].take();
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    async fn listen(&self, client: &str) -> Listener {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (socket, _) = client_async(
            format!("ws://{}/ws?clientId={client}", self.address),
            stream,
        )
        .await
        .unwrap();
        let mut listener = Listener { socket };
        let first = listener.next().await;
        assert_eq!(first["type"], "status");
        assert_eq!(first["data"]["sid"], client);
        listener
    }
}

struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn read(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .expect("a reply has a head");
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        assert!(
            !head.to_ascii_lowercase().contains("transfer-encoding"),
            "{head}"
        );
        Self {
            status: head.split_whitespace().nth(1).unwrap().parse().unwrap(),
            head,
            body: bytes[end + 4..].to_vec(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.head, self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

struct Listener {
    socket: WebSocketStream<TcpStream>,
}

impl Listener {
    /// The next text message; binary ones give `{"type": "binary", "event": n}`.
    async fn next(&mut self) -> Value {
        loop {
            match within("message", self.socket.next())
                .await
                .expect("an open websocket")
                .unwrap()
            {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Binary(bytes) => {
                    let event = u32::from_be_bytes(bytes[..4].try_into().unwrap());
                    return json!({"type": "binary", "event": event, "length": bytes.len()});
                }
                Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Messages up to the last one of a prompt.
    async fn prompt(&mut self) -> Vec<Value> {
        let mut messages = Vec::new();
        loop {
            let message = self.next().await;
            let last = message["type"] == "executing" && message["data"]["node"].is_null();
            messages.push(message);
            if last {
                return messages;
            }
        }
    }

    async fn until(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await;
            if message["type"] == kind {
                return message;
            }
        }
    }
}

fn types(messages: &[Value]) -> Vec<&str> {
    messages
        .iter()
        .map(|message| message["type"].as_str().unwrap())
        .collect()
}

/// EmptyImage → SaveImage.
fn empty_image(prefix: &str) -> Value {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 255}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    })
}

/// The usual graph from text to picture, without a model.
fn text_to_picture(seed: u64) -> Value {
    json!({
        "3": {"class_type": "KSampler", "inputs": {
            "seed": seed, "steps": 4, "cfg": 8, "sampler_name": "euler", "scheduler": "normal", "denoise": 1,
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "simulated.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 48, "height": 32, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a forge in space", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "picture"}},
    })
}

fn pixels(png: &[u8]) -> (u32, u32, Vec<u8>) {
    let mut reader = png::Decoder::new(Cursor::new(png)).read_info().unwrap();
    let mut data = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut data).unwrap();
    (info.width, info.height, data)
}

#[tokio::test]
async fn a_picture_of_the_graphs_size_and_colour_comes_back_through_view() {
    let instance = Instance::start("").await;
    let id = instance.submit(&empty_image("sub/sample")).await;
    let entry = instance.finished(&id).await;
    let image = json!({"filename": "sample_00001_.png", "subfolder": "sub", "type": "output"});
    assert_eq!(entry["outputs"], json!({"3": {"images": [image]}}));
    assert_eq!(entry["status"]["status_str"], "success");
    assert_eq!(
        entry["meta"]["3"],
        json!({"node_id": "3", "display_node": "3", "parent_node": null, "real_node_id": "3"})
    );
    assert_eq!(entry["prompt"][1], id.as_str());
    assert_eq!(entry["prompt"][4], json!(["3"]));
    let reply = instance
        .get("/api/view?filename=sample_00001_.png&subfolder=sub&type=output")
        .await;
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("image/png"), "{}", reply.head);
    assert_eq!(pixels(&reply.body), (64, 32, [0, 0, 255].repeat(64 * 32)));
    for (query, status) in [
        ("filename=missing.png", 404),
        ("type=output", 400),
        ("filename=../sub/sample_00001_.png", 400),
        ("filename=a.png&type=elsewhere", 400),
        ("filename=passwd&subfolder=../../../etc", 403),
        ("filename=passwd&subfolder=/etc", 403),
    ] {
        assert_eq!(
            instance.get(&format!("/view?{query}")).await.status,
            status,
            "{query}"
        );
    }
    instance.stop().await;
}

#[tokio::test]
async fn the_messages_of_a_prompt_come_in_comfyuis_order() {
    let instance = Instance::start("--steps 2").await;
    let mut listener = instance.listen("tester").await;
    let id = instance.submit(&empty_image("a")).await;
    let messages = listener.prompt().await;
    let expected = [
        "status",
        "status",
        "execution_start",
        "execution_cached",
        "progress_state",
        "executing",
        "progress_state",
        "progress",
        "progress_state",
        "progress",
        "progress_state",
        "progress_state",
        "executing",
        "executed",
        "progress_state",
        "execution_success",
        "status",
        "executing",
    ];
    assert_eq!(types(&messages), expected);
    assert_eq!(
        messages[1],
        json!({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 1}}}})
    );
    assert_eq!(messages[3]["data"]["nodes"], json!([]));
    assert_eq!(
        messages[5]["data"],
        json!({"node": "1", "display_node": "1", "prompt_id": id})
    );
    assert_eq!(
        messages[7]["data"],
        json!({"value": 1, "max": 2, "prompt_id": id, "node": "1"})
    );
    let state = |value: Value, max: Value, state: &str, node: &str| {
        json!({"value": value, "max": max, "state": state, "node_id": node, "prompt_id": id, "display_node_id": node,
               "parent_node_id": null, "real_node_id": node})
    };
    let first = json!({"1": state(json!(0.0), json!(1.0), "running", "1")});
    assert_eq!(
        messages[4]["data"],
        json!({"prompt_id": id, "nodes": first})
    );
    let last = json!({"1": state(json!(2), json!(2), "finished", "1"), "3": state(json!(1.0), json!(1.0), "finished", "3")});
    assert_eq!(messages[14]["data"]["nodes"], last);
    assert_eq!(
        messages[16]["data"]["status"]["exec_info"]["queue_remaining"],
        0
    );
    assert_eq!(messages[17]["data"], json!({"node": null, "prompt_id": id}));
    assert!(!instance.finished(&id).await.is_null());

    let again = instance.submit(&empty_image("a")).await;
    let messages = listener.prompt().await;
    let expected = [
        "status",
        "status",
        "execution_start",
        "execution_cached",
        "executed",
        "progress_state",
        "execution_success",
        "status",
        "executing",
    ];
    assert_eq!(types(&messages), expected);
    assert_eq!(messages[3]["data"]["nodes"], json!(["1", "3"]));
    assert_eq!(
        messages[4]["data"]["output"]["images"][0]["filename"],
        "a_00001_.png"
    );
    assert_eq!(messages[5]["data"]["nodes"]["3"]["value"], json!(1));
    let entry = instance.finished(&again).await;
    let kept: Vec<&Value> = entry["status"]["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| &message[0])
        .collect();
    assert_eq!(
        kept,
        ["execution_start", "execution_cached", "execution_success"]
    );

    instance.submit(&empty_image("b")).await;
    let messages = listener.prompt().await;
    assert_eq!(messages[3]["data"]["nodes"], json!(["1"]));
    assert_eq!(
        messages[4]["data"]["nodes"]
            .as_object()
            .unwrap()
            .keys()
            .collect::<Vec<_>>(),
        ["3"]
    );
    instance.post("/free", &json!({"free_memory": true})).await;
    instance.submit(&empty_image("b")).await;
    assert_eq!(listener.prompt().await[3]["data"]["nodes"], json!([]));
    instance.stop().await;
}

#[tokio::test]
async fn refused_prompts_have_the_shapes_that_comfyui_gave() {
    let instance = Instance::start("").await;
    let whole = |kind: &str, message: &str, details: &str| json!({"error": {"type": kind, "message": message, "details": details, "extra_info": {}}, "node_errors": {}});
    let missing = |input: &str| json!({"type": "required_input_missing", "message": "Required input is missing", "details": input, "extra_info": {"input_name": input}});
    let width = json!(["INT", {"default": 512, "min": 1, "max": 16384, "step": 1}]);
    let too_wide = json!({
        "type": "value_bigger_than_max", "message": "Value 99999999 bigger than max of 16384", "details": "width",
        "extra_info": {"input_name": "width", "input_config": width, "received_value": 99999999},
    });
    let save =
        json!({"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}});
    let failed = |nodes: Value| {
        json!({
            "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation", "details": "", "extra_info": {}},
            "node_errors": nodes,
        })
    };
    for (submission, expected) in [
        (
            json!({}),
            whole("no_prompt", "No prompt provided", "No prompt provided"),
        ),
        (
            json!({"prompt": {"1": {"class_type": "NoSuchNode", "inputs": {}}}}),
            whole(
                "invalid_prompt",
                "Cannot execute because node NoSuchNode does not exist.",
                "Node ID '#1'",
            ),
        ),
        (
            json!({"prompt": {"1": {"inputs": {}}}}),
            whole(
                "invalid_prompt",
                "Cannot execute because a node is missing the class_type property.",
                "Node ID '#1'",
            ),
        ),
        (
            json!({"prompt": {"1": empty_image("x")["1"]}}),
            whole("prompt_no_outputs", "Prompt has no outputs", ""),
        ),
        (
            json!({"prompt": {"1": {"class_type": "EmptyImage", "inputs": {"width": 99999999, "height": 64, "batch_size": 1}}, "3": save}}),
            failed(
                json!({"1": {"errors": [too_wide, missing("color")], "dependent_outputs": ["3"], "class_type": "EmptyImage"}}),
            ),
        ),
    ] {
        let reply = instance.post("/prompt", &submission).await;
        assert_eq!(
            (reply.status, reply.json()),
            (400, expected),
            "{submission}"
        );
    }

    let mut graph = text_to_picture(1);
    graph["4"]["inputs"]["ckpt_name"] = json!("missing.safetensors");
    let refused = instance
        .post("/prompt", &json!({"prompt": graph}))
        .await
        .json();
    let error = &refused["node_errors"]["4"]["errors"][0];
    assert_eq!(error["type"], "value_not_in_list");
    assert_eq!(
        error["details"],
        "ckpt_name: 'missing.safetensors' not in ['simulated.safetensors']"
    );
    assert_eq!(refused["node_errors"].as_object().unwrap().len(), 1);

    for (node, input, value, kind) in [
        ("3", "images", json!(["1"]), "bad_linked_input"),
        (
            "3",
            "images",
            json!(["9", 0]),
            "exception_during_validation",
        ),
        (
            "3",
            "images",
            json!(["1", 7]),
            "exception_during_validation",
        ),
        ("1", "width", json!("wide"), "invalid_input_type"),
        ("1", "width", json!(0), "value_smaller_than_min"),
    ] {
        let mut graph = empty_image("x");
        graph[node]["inputs"][input] = value.clone();
        let refused = instance
            .post("/prompt", &json!({"prompt": graph}))
            .await
            .json();
        assert_eq!(
            refused["node_errors"][node]["errors"][0]["type"], kind,
            "{value}"
        );
    }
    let mut graph = text_to_picture(1);
    graph["9"]["inputs"]["images"] = json!(["3", 0]);
    let refused = instance
        .post("/prompt", &json!({"prompt": graph}))
        .await
        .json();
    let error = &refused["node_errors"]["9"]["errors"][0];
    assert_eq!(
        error["details"],
        "images, received_type(LATENT) mismatch input_type(IMAGE)"
    );

    let mut half = empty_image("half");
    half["4"] = json!({"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}});
    let reply = instance.post("/prompt", &json!({"prompt": half})).await;
    assert_eq!(reply.status, 200);
    let accepted = reply.json();
    let broken = json!({"errors": [missing("images")], "dependent_outputs": ["4"], "class_type": "SaveImage"});
    assert_eq!(accepted["node_errors"], json!({"4": broken}));
    assert!(
        accepted["number"].as_u64().unwrap() > 10,
        "failed submissions count: {accepted}"
    );
    let entry = instance
        .finished(accepted["prompt_id"].as_str().unwrap())
        .await;
    assert_eq!(entry["prompt"][4], json!(["3"]));
    instance.stop().await;
}

#[tokio::test]
async fn circles_wrong_shapes_and_huge_graphs_are_refused_and_the_server_goes_on() {
    let instance = Instance::start("").await;
    let sampler = |from: &str| {
        let mut node = text_to_picture(1)["3"].clone();
        node["inputs"]["latent_image"] = json!([from, 0]);
        node
    };
    let mut circle = text_to_picture(1);
    circle["3"] = sampler("30");
    circle["30"] = sampler("3");
    let refused = instance.post("/prompt", &json!({"prompt": circle})).await;
    assert_eq!(refused.status, 400);
    assert_eq!(
        refused.json()["node_errors"]["9"]["errors"][0]["extra_info"]["exception_type"],
        "DependencyCycleError"
    );
    for body in [
        json!({"prompt": []}),
        json!({"prompt": {"1": 5}}),
        json!({"prompt": {}, "number": "first"}),
    ] {
        assert_eq!(instance.post("/prompt", &body).await.status, 500, "{body}");
    }
    let many: serde_json::Map<String, Value> = (0..3000)
        .map(|id| (id.to_string(), empty_image("x")["1"].clone()))
        .collect();
    assert_eq!(
        instance
            .post("/prompt", &json!({"prompt": many}))
            .await
            .json()["error"]["type"],
        "invalid_prompt"
    );
    let deep = format!("{{\"prompt\": {}", "[".repeat(100_000));
    assert_eq!(
        instance
            .request("POST", "/prompt", "", deep.as_bytes())
            .await
            .status,
        500
    );
    assert_eq!(
        instance.get("/prompt").await.json(),
        json!({"exec_info": {"queue_remaining": 0}})
    );
    instance.stop().await;
}

#[tokio::test]
async fn an_interrupt_ends_only_the_job_it_names() {
    let instance = Instance::start("--steps 10000 --seconds 1000").await;
    let mut listener = instance.listen("tester").await;
    let running = instance.submit(&empty_image("running")).await;
    let waiting = instance.submit(&empty_image("waiting")).await;
    listener.until("progress").await;
    let queue = instance.get("/queue").await.json();
    assert_eq!(queue["queue_running"][0][1], running.as_str());
    assert_eq!(queue["queue_pending"][0][1], waiting.as_str());
    assert_eq!(
        instance.get(&format!("/history/{running}")).await.json(),
        json!({})
    );

    assert_eq!(
        instance
            .post("/interrupt", &json!({"prompt_id": waiting}))
            .await
            .status,
        200
    );
    listener.until("progress").await;
    assert_eq!(
        instance.get("/prompt").await.json()["exec_info"]["queue_remaining"],
        2
    );

    instance
        .post("/interrupt", &json!({"prompt_id": running}))
        .await;
    let told = listener.until("execution_interrupted").await;
    assert_eq!(told["data"]["prompt_id"], running.as_str());
    let entry = instance.finished(&running).await;
    assert_eq!(entry["status"]["status_str"], "error");
    assert_eq!(entry["status"]["messages"][2][1]["node_type"], "EmptyImage");
    assert_eq!(entry["outputs"], json!({}));

    let started = listener.until("execution_start").await;
    assert_eq!(started["data"]["prompt_id"], waiting.as_str());
    instance.request("POST", "/interrupt", "", b"").await;
    assert_eq!(
        instance.finished(&waiting).await["status"]["completed"],
        false
    );
    instance.stop().await;
}

#[tokio::test]
async fn the_queue_can_be_reordered_and_emptied_and_the_history_paged() {
    let instance = Instance::start("--steps 0 --seconds 0.5").await;
    let mut ids = Vec::new();
    for (number, front) in [("a", false), ("b", false), ("c", false), ("d", true)] {
        let body = json!({"prompt": empty_image(number), "front": front, "prompt_id": format!("job-{number}")});
        ids.push(
            instance.post("/prompt", &body).await.json()["prompt_id"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
        // The others come while the first one runs.
        while number == "a" && instance.get("/queue").await.json()["queue_running"] == json!([]) {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(ids, ["job-a", "job-b", "job-c", "job-d"]);
    let waiting = instance.get("/queue").await.json()["queue_pending"].clone();
    assert_eq!(
        waiting
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item[1].clone())
            .collect::<Vec<_>>(),
        ["job-d", "job-b", "job-c"]
    );
    assert_eq!(
        instance
            .post("/queue", &json!({"delete": ["job-b", "job-a"]}))
            .await
            .status,
        200
    );
    for id in ["job-a", "job-d", "job-c"] {
        instance.finished(id).await;
    }
    let keys = |history: Value| {
        history
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        keys(instance.get("/history").await.json()),
        ["job-a", "job-d", "job-c"]
    );
    assert_eq!(
        keys(instance.get("/history?max_items=1").await.json()),
        ["job-c"]
    );
    assert_eq!(
        keys(instance.get("/history?max_items=1&offset=0").await.json()),
        ["job-a"]
    );
    assert_eq!(instance.get("/history?max_items=x").await.status, 500);
    instance
        .post("/history", &json!({"delete": ["job-d"]}))
        .await;
    assert_eq!(
        keys(instance.get("/history").await.json()),
        ["job-a", "job-c"]
    );
    instance.post("/history", &json!({"clear": true})).await;
    assert_eq!(instance.get("/history").await.json(), json!({}));
    instance.stop().await;
}

#[tokio::test]
async fn what_the_instance_says_of_itself_has_comfyuis_fields() {
    let instance = Instance::start("--cpu --database-url sqlite:///x.db --vram 8G").await;
    let stats = instance.get("/system_stats").await.json();
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        keys(&stats["system"]),
        [
            "os",
            "ram_total",
            "ram_free",
            "comfyui_version",
            "required_frontend_version",
            "installed_templates_version",
            "required_templates_version",
            "python_version",
            "pytorch_version",
            "embedded_python",
            "argv"
        ]
    );
    assert_eq!(
        keys(&stats["devices"][0]),
        [
            "name",
            "type",
            "index",
            "vram_total",
            "vram_free",
            "torch_vram_total",
            "torch_vram_free"
        ]
    );
    assert_eq!(stats["devices"][0]["name"], "cpu");
    assert_eq!(stats["system"]["argv"][0], "main.py");
    assert_eq!(
        instance.get("/features").await.json(),
        json!({"supports_preview_metadata": true, "max_upload_size": 104857600})
    );
    assert_eq!(
        instance
            .get("/models")
            .await
            .json()
            .as_array()
            .unwrap()
            .len(),
        20
    );
    assert_eq!(
        instance.get("/models/checkpoints").await.json(),
        json!(["simulated.safetensors"])
    );
    assert_eq!(instance.get("/models/nothing").await.status, 404);
    assert_eq!(
        instance.get("/users").await.json(),
        json!({"storage": "server", "migrated": true})
    );
    for path in ["/embeddings", "/extensions"] {
        assert_eq!(instance.get(path).await.json(), json!([]), "{path}");
    }
    assert_eq!(instance.get("/").await.status, 200);
    let info = instance.get("/object_info/EmptyImage").await.json();
    assert_eq!(
        info["EmptyImage"]["input"]["required"]["color"][1]["max"],
        16777215
    );
    assert_eq!(instance.get("/object_info/Nothing").await.json(), json!({}));
    let all = instance.get("/api/object_info").await.json();
    assert_eq!(all.as_object().unwrap().len(), 9);
    assert_eq!(all["SaveImage"]["input"]["hidden"]["prompt"], "PROMPT");
    instance.stop().await;

    let gpu = Instance::start("--vram 8G --cuda-device 3").await;
    let device = gpu.get("/system_stats").await.json()["devices"][0].clone();
    assert_eq!(device["name"], "cuda:0 Simulated GPU");
    assert_eq!(
        (&device["vram_total"], &device["vram_free"]),
        (&json!(8u64 << 30), &json!(8u64 << 30))
    );
    let id = gpu.submit(&text_to_picture(1)).await;
    gpu.finished(&id).await;
    assert_eq!(
        gpu.get("/system_stats").await.json()["devices"][0]["vram_free"],
        json!(6u64 << 30)
    );
    gpu.stop().await;
}

#[tokio::test]
async fn bodies_and_origins_that_comfyui_refuses_are_refused() {
    let instance = Instance::start("").await;
    for path in ["/prompt", "/queue", "/history", "/free"] {
        let reply = instance.request("POST", path, "", b"{bad").await;
        assert_eq!(
            (reply.status, reply.text().as_str()),
            (
                500,
                "500 Internal Server Error\n\nServer got itself in trouble"
            ),
            "{path}"
        );
    }
    assert_eq!(
        instance
            .request("POST", "/prompt", "Content-Length: 104857601\r\n", b"")
            .await
            .status,
        413
    );
    assert_eq!(
        instance
            .request("GET", "/queue", "Origin: http://evil.example\r\n", b"")
            .await
            .status,
        403
    );
    assert_eq!(
        instance
            .request(
                "GET",
                "/queue",
                "Host: machine.example\r\nOrigin: http://evil.example\r\n",
                b""
            )
            .await
            .status,
        200
    );
    assert_eq!(instance.get("/nothing").await.status, 404);
    assert_eq!(
        instance.request("DELETE", "/queue", "", b"").await.status,
        405
    );
    instance.stop().await;
    let small = Instance::start("--max-upload-size 1").await;
    let large = json!({"prompt": {}, "padding": "x".repeat(2 << 20)}).to_string();
    assert_eq!(
        small
            .request(
                "POST",
                "/prompt",
                "Expect: 100-continue\r\n",
                large.as_bytes()
            )
            .await
            .status,
        413
    );
    small.stop().await;
}

fn form(name: &str, content: &[u8], extra: &str) -> Vec<u8> {
    let head = format!(
        "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{name}\"\r\n\r\n"
    );
    [
        head.as_bytes(),
        content,
        b"\r\n",
        extra.as_bytes(),
        b"--b--\r\n",
    ]
    .concat()
}

#[tokio::test]
async fn an_upload_keeps_its_name_for_the_same_content_and_can_be_loaded() {
    let instance = Instance::start("").await;
    let kind = "Content-Type: multipart/form-data; boundary=b\r\n";
    let id = instance.submit(&empty_image("source")).await;
    instance.finished(&id).await;
    let png = instance.get("/view?filename=source_00001_.png").await.body;
    for (content, name) in [
        (png.as_slice(), "in.png"),
        (&png, "in.png"),
        (b"other", "in (1).png"),
        (b"third", "in (2).png"),
    ] {
        let reply = instance
            .request("POST", "/upload/image", kind, &form("in.png", content, ""))
            .await;
        assert_eq!(
            reply.json(),
            json!({"name": name, "subfolder": "", "type": "input"})
        );
    }
    let subfolder = "--b\r\nContent-Disposition: form-data; name=\"subfolder\"\r\n\r\n../..\r\n";
    for body in [
        form("../in.png", b"x", ""),
        form("in.png", b"x", subfolder),
        b"--b--\r\n".to_vec(),
    ] {
        assert_eq!(
            instance
                .request("POST", "/upload/image", kind, &body)
                .await
                .status,
            400
        );
    }
    let graph = |image: &str| {
        json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": image}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        })
    };
    let id = instance.submit(&graph("in.png")).await;
    let image = instance.finished(&id).await["outputs"]["2"]["images"][0].clone();
    assert_eq!(image["type"], "temp");
    let preview = instance
        .get(&format!(
            "/view?filename={}&type=temp",
            image["filename"].as_str().unwrap()
        ))
        .await;
    assert_eq!(pixels(&preview.body), pixels(&png));
    let refused = instance
        .post("/prompt", &json!({"prompt": graph("missing.png")}))
        .await
        .json();
    let error = &refused["node_errors"]["1"]["errors"][0];
    assert_eq!(
        (&error["type"], &error["details"]),
        (
            &json!("custom_validation_failed"),
            &json!("image - Invalid image file: missing.png")
        )
    );
    instance.stop().await;
}

#[tokio::test]
async fn a_sampler_reports_its_own_steps_and_draws_by_its_seed() {
    let instance = Instance::start("--preview-method auto").await;
    let mut listener = instance.listen("tester").await;
    let flags = json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}});
    listener
        .socket
        .send(Message::text(flags.to_string()))
        .await
        .unwrap();
    assert_eq!(listener.next().await["data"]["max_upload_size"], 104857600);
    let mut drawn = Vec::new();
    for (number, seed) in [(1, 7), (2, 8), (3, 7)] {
        let id = instance.submit(&text_to_picture(seed)).await;
        let messages = listener.prompt().await;
        let steps: Vec<&Value> = messages
            .iter()
            .filter(|message| message["type"] == "progress")
            .map(|message| &message["data"]["value"])
            .collect();
        assert_eq!(steps, [1, 2, 3, 4]);
        let previews = messages
            .iter()
            .filter(|message| message["event"] == 4)
            .count();
        assert_eq!(previews, 4);
        assert_eq!(
            instance.finished(&id).await["status"]["status_str"],
            "success"
        );
        drawn.push(
            instance
                .get(&format!("/view?filename=picture_0000{number}_.png"))
                .await
                .body,
        );
    }
    let drawn: Vec<_> = drawn.iter().map(|png| pixels(png)).collect();
    assert_eq!((drawn[0].0, drawn[0].1), (48, 32));
    assert_ne!(drawn[0], drawn[1]);
    assert_eq!(drawn[0], drawn[2]);
    instance.stop().await;
}

#[tokio::test]
async fn two_instances_with_directories_of_their_own_do_not_collide() {
    let root = tempfile::tempdir().unwrap();
    let flags = |name: &str| {
        let directory = root.path().join(name);
        let user = directory.join("user");
        std::fs::create_dir_all(&user).unwrap();
        let directory = directory.display();
        format!(
            "--output-directory {directory}/output --input-directory {directory}/input --temp-directory {directory} --user-directory {}",
            user.display()
        )
    };
    let (a, b) = (
        Instance::start(&flags("a")).await,
        Instance::start(&flags("b")).await,
    );
    let marker = root.path().join("a/temp/marker");
    std::fs::write(&marker, "a's").unwrap();
    for round in 0..3 {
        for instance in [&a, &b] {
            let mut graph = empty_image("same");
            graph["1"]["inputs"]["color"] = json!(round);
            let id = instance.submit(&graph).await;
            instance.finished(&id).await;
        }
    }
    for name in ["a", "b"] {
        for number in 1..=3 {
            let file = root
                .path()
                .join(name)
                .join(format!("output/same_0000{number}_.png"));
            assert!(file.is_file(), "{}", file.display());
        }
    }
    b.stop().await;
    assert!(marker.exists());
    a.stop().await;
    assert!(!marker.exists());
}

#[tokio::test]
async fn an_end_cuts_websockets_without_a_close_frame_frees_the_port_and_removes_the_temp_directory()
 {
    let root = tempfile::tempdir().unwrap();
    let base = root.path().display().to_string();
    let instance = Instance::start(&format!(
        "--base-directory {base} --steps 1000 --seconds 1000"
    ))
    .await;
    let address = instance.address;
    let mut listener = instance.listen("tester").await;
    instance.submit(&empty_image("thrown-away")).await;
    listener.until("progress").await;
    assert!(root.path().join("temp").is_dir());
    instance.stop().await;
    let end = within("websocket's end", async {
        loop {
            match listener.socket.next().await {
                Some(Ok(Message::Close(_))) => return "closed",
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return "cut",
            }
        }
    })
    .await;
    assert_eq!(end, "cut");
    assert!(!root.path().join("temp").exists());
    assert!(root.path().join("output").is_dir());
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_start_that_fails_has_comfyuis_words_and_exit_code() {
    let instance = Instance::start("").await;
    let serve = |flags: String| simulate::serve(options(&flags), |_| (), std::future::pending());
    let busy = serve(format!("--port {}", instance.address.port()))
        .await
        .unwrap_err();
    assert_eq!(
        busy.to_string(),
        format!(
            "OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', {}): address already in use",
            instance.address.port()
        )
    );
    assert_eq!(busy.exit_code(), 1);
    let missing = serve("--port 0 --extra-model-paths-config /no/such.yaml".into())
        .await
        .unwrap_err();
    assert!(
        missing
            .to_string()
            .starts_with("FileNotFoundError: [Errno 2] No such file or directory: '/no/such.yaml'")
    );
    assert_eq!(missing.exit_code(), 1);
    assert_eq!(
        serve("--port 0 --user-directory /no/such".into())
            .await
            .unwrap_err()
            .exit_code(),
        2
    );
    instance.stop().await;
}

#[tokio::test]
async fn a_failing_node_is_told_and_the_next_prompt_runs() {
    let instance = Instance::start("--fail-rate 1").await;
    let mut listener = instance.listen("tester").await;
    let id = instance.submit(&empty_image("x")).await;
    let messages = listener.prompt().await;
    let error = messages
        .iter()
        .find(|message| message["type"] == "execution_error")
        .unwrap();
    let keys: Vec<&String> = error["data"].as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "prompt_id",
            "node_id",
            "node_type",
            "executed",
            "exception_message",
            "exception_type",
            "traceback",
            "current_inputs",
            "current_outputs",
            "timestamp"
        ]
    );
    assert_eq!(
        types(&messages)[messages.len() - 3..],
        ["execution_error", "status", "executing"]
    );
    let entry = instance.finished(&id).await;
    assert_eq!(
        (&entry["status"]["status_str"], &entry["meta"]),
        (&json!("error"), &json!({}))
    );
    instance.stop().await;

    let small = Instance::start("--vram 1M").await;
    let mut listener = small.listen("tester").await;
    let mut large = empty_image("large");
    large["1"]["inputs"]["width"] = json!(16384);
    small.submit(&large).await;
    let error = listener.until("execution_error").await;
    assert_eq!(error["data"]["exception_type"], "torch.OutOfMemoryError");
    let id = small.submit(&empty_image("small")).await;
    assert_eq!(small.finished(&id).await["status"]["status_str"], "success");
    small.stop().await;
}

#[tokio::test]
async fn a_hanging_job_and_a_dead_prompt_thread_leave_every_route_answering() {
    for fault in ["silence", "dead-prompt-thread"] {
        let instance = Instance::start(&format!("--fault {fault}")).await;
        let mut listener = instance.listen("tester").await;
        let first = instance.submit(&empty_image("a")).await;
        instance.submit(&empty_image("b")).await;
        listener.until("executing").await;
        instance
            .post("/interrupt", &json!({"prompt_id": first}))
            .await;
        let silent = tokio::time::timeout(
            Duration::from_millis(300),
            listener.until("execution_interrupted"),
        )
        .await;
        assert!(silent.is_err(), "{fault}");
        assert_eq!(
            instance.get("/prompt").await.json()["exec_info"]["queue_remaining"],
            2
        );
        assert_eq!(instance.get("/system_stats").await.status, 200);
        instance.stop().await;
    }
}

#[tokio::test]
async fn the_other_faults_show_from_outside() {
    let unavailable = Instance::start("--fault unavailable").await;
    assert_eq!(unavailable.get("/prompt").await.status, 503);
    unavailable.stop().await;

    let forgetful = Instance::start("--fault no-history").await;
    let mut listener = forgetful.listen("tester").await;
    let id = forgetful.submit(&empty_image("a")).await;
    assert!(types(&listener.prompt().await).contains(&"execution_success"));
    assert_eq!(
        forgetful.get(&format!("/history/{id}")).await.json(),
        json!({})
    );
    forgetful.stop().await;

    let slow = Instance::start("--fault slow-accept=0.3").await;
    let asked = std::time::Instant::now();
    assert_eq!(slow.get("/prompt").await.status, 200);
    assert!(asked.elapsed() >= Duration::from_millis(300));
    slow.stop().await;
}

#[tokio::test]
async fn job_messages_go_to_the_jobs_client_and_the_progress_of_nobodys_job_to_all() {
    let instance = Instance::start("--steps 1").await;
    let (mut mine, mut other) = (
        instance.listen("tester").await,
        instance.listen("other").await,
    );
    instance.submit(&empty_image("a")).await;
    mine.prompt().await;
    instance
        .post("/prompt", &json!({"prompt": empty_image("b")}))
        .await;
    let mut seen = Vec::new();
    while seen.len() < 9 {
        seen.push(other.next().await["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        seen,
        [
            "status",
            "status",
            "status",
            "status",
            "status",
            "progress_state",
            "progress_state",
            "progress",
            "progress_state"
        ]
    );
    instance.stop().await;
}

#[tokio::test]
async fn the_start_lines_come_in_order_and_a_follower_gets_the_new_ones() {
    let instance = Instance::start("--start-delay 0.1").await;
    let text: String = instance
        .get("/internal/logs")
        .await
        .json()
        .as_str()
        .unwrap()
        .to_owned();
    let ready = format!("To see the GUI go to: http://{}", instance.address);
    let mut at = 0;
    for line in [
        "Checkpoint files will always be loaded safely.",
        "Total VRAM 24576 MB, total RAM",
        "pytorch version:",
        "Set vram state to:",
        "Device: cuda:0 Simulated GPU",
        "Python version:",
        "ComfyUI version: 0.3.64",
        "ComfyUI frontend version:",
        "[Prompt Server] web root:",
        "Starting server",
        &ready,
    ] {
        at += text[at..]
            .find(line)
            .unwrap_or_else(|| panic!("{line:?} is not after {at} in {text}"));
    }
    let mut listener = instance.listen("tester").await;
    let wish = json!({"clientId": "tester", "enabled": true}).to_string();
    assert_eq!(
        instance
            .request("PATCH", "/internal/logs/subscribe", "", wish.as_bytes())
            .await
            .status,
        200
    );
    let id = instance.submit(&empty_image("a")).await;
    let logs = listener.until("logs").await;
    assert_eq!(logs["data"]["entries"][0]["m"], "got prompt\n");
    assert_eq!(logs["data"]["size"], json!({"cols": 80, "rows": 24}));
    instance.finished(&id).await;
    let raw = within("the job's last line", async {
        loop {
            let raw = instance.get("/internal/logs/raw").await.json();
            if raw.to_string().contains("Prompt executed in") {
                return raw;
            }
        }
    })
    .await;
    let entries = raw["entries"].as_array().unwrap();
    assert!(
        entries
            .iter()
            .any(|entry| entry["m"].as_str().unwrap().starts_with("\r100%|")),
        "{raw}"
    );
    instance.stop().await;
}

/// Not a check of its own: the process that the tests below start is this test binary, asked for this test with the flags of
/// `fornax simulate` in its environment.
#[test]
fn simulate_as_a_process() {
    let Ok(flags) = std::env::var(PROCESS_FLAGS) else {
        return;
    };
    let code = simulate::run(options(&flags));
    std::process::exit(if code == ExitCode::SUCCESS {
        0
    } else if code == ExitCode::from(2) {
        2
    } else {
        1
    });
}

/// The environment variable that turns the test above into a simulated ComfyUI.
const PROCESS_FLAGS: &str = "FORNAX_TEST_SIMULATE_FLAGS";

/// An instance in a process of its own.
struct Process {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    fn start(flags: &str) -> Self {
        Self::spawn(Command::new(std::env::current_exe().unwrap()), flags)
    }

    /// As a parent that ignores SIGINT would: a background job of a script.
    fn start_with_sigint_ignored(flags: &str) -> Self {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "trap '' INT; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap());
        Self::spawn(shell, flags)
    }

    fn spawn(mut command: Command, flags: &str) -> Self {
        let mut child = command
            .args(["simulate_as_a_process", "--exact", "--nocapture"])
            .env(PROCESS_FLAGS, format!("--seconds 0 {flags}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = sync_channel(1000);
        std::thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| send.send(line))
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line that begins so, and gives what follows.
    fn line(&mut self, start: &str) -> String {
        loop {
            let line = self
                .lines
                .recv_timeout(DEADLINE)
                .unwrap_or_else(|error| panic!("{error}: no {start:?} in {:#?}", self.seen));
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
            self.seen.push(line);
        }
    }

    fn address(&mut self) -> SocketAddr {
        self.line("To see the GUI go to: http://").parse().unwrap()
    }

    fn submit(&self, address: SocketAddr) {
        let body = json!({"prompt": empty_image("a")}).to_string();
        let head = format!(
            "POST /prompt HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all((head + &body).as_bytes()).unwrap();
        // A client that goes before it has its answer takes its request with it.
        let mut answer = [0_u8; 12];
        std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Its exit code, or minus the number of the signal that ended it.
    fn end(&mut self) -> i32 {
        let ended = loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => self.seen.push(line),
                Err(why) => break why,
            }
        };
        assert_eq!(
            ended,
            RecvTimeoutError::Disconnected,
            "still running: {:#?}",
            self.seen
        );
        let status = self.child.wait().unwrap();
        status.code().unwrap_or_else(|| -status.signal().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Only a failed test leaves it running; where it has ended both calls fail or do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sigint_ends_the_process_cleanly_and_sigterm_at_once() {
    let root = tempfile::tempdir().unwrap();
    let temp = root.path().join("temp");
    let flags = format!("--port 0 --base-directory {}", root.path().display());
    let mut process = Process::start(&flags);
    process.address();
    assert!(temp.exists());
    process.signal(Signal::SIGINT);
    process.line("Stopped server");
    assert_eq!(process.end(), 0);
    assert!(!temp.exists());

    let mut process = Process::start(&flags);
    process.address();
    process.signal(Signal::SIGTERM);
    assert_eq!(process.end(), -(Signal::SIGTERM as i32));
    assert!(temp.exists());

    let mut process = Process::start(&format!("{flags} --start-delay 100"));
    process.line("Device:");
    process.signal(Signal::SIGINT);
    assert_eq!(process.end(), -(Signal::SIGINT as i32));

    for mut process in [
        Process::start(&format!("{flags} --fault ignore-sigint")),
        Process::start_with_sigint_ignored(&flags),
    ] {
        let address = process.address();
        process.signal(Signal::SIGINT);
        process.submit(address);
        process.line("Prompt executed in");
        process.signal(Signal::SIGTERM);
        assert_eq!(process.end(), -(Signal::SIGTERM as i32));
    }
}

#[test]
fn crashes_are_real_and_failed_starts_have_their_exit_codes() {
    for fault in ["crash-after=1", "crash-during=1"] {
        let root = tempfile::tempdir().unwrap();
        let mut process = Process::start(&format!(
            "--port 0 --fault {fault} --base-directory {}",
            root.path().display()
        ));
        let address = process.address();
        process.submit(address);
        assert_eq!(process.end(), -(Signal::SIGABRT as i32), "{fault}");
    }
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut process = Process::start(&format!("--port {}", holder.local_addr().unwrap().port()));
    process.line("OSError: [Errno 98] error while attempting to bind on address");
    assert_eq!(process.end(), 1);
    let mut process = Process::start("--port 0 --user-directory /no/such/directory");
    process.line("argument --user-directory:");
    assert_eq!(process.end(), 2);
}
