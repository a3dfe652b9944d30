//! `fornax run workflow.json`: a job from its file to its outputs.

use super::http::{self, Api};
use super::job_bar::Bar;
use crate::cli::session::{Session, Told, print};
use crate::core::workflow;
use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How often a daemon that has gone is tried to be reached again, and how long in all.
const AGAIN: Duration = Duration::from_millis(500);
const TRIES: u32 = 120;

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The workflow in ComfyUI's API format (Workflow > Export (API)); - reads standard input.
    workflow: PathBuf,
    /// Set an input of a node: 6.text="a cat", 3.seed=7. Repeatable.
    #[arg(long, value_name = "NODE.INPUT=VALUE")]
    set: Vec<String>,
    /// Upload a file, under the name that the workflow calls it by: cat.png=pictures/cat.png. Repeatable.
    #[arg(long, value_name = "NAME=FILE")]
    input: Vec<String>,
    /// Where outputs go.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Higher is sooner, -1000 to 1000.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    priority: i32,
    /// The same key is the same job, however often it is asked for.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Print the job's id and do not wait for it.
    #[arg(long)]
    detach: bool,
    /// Print the job as JSON when it is settled.
    #[arg(long)]
    json: bool,
    /// Show no progress.
    #[arg(short, long)]
    quiet: bool,
}

/// Runs it. Exit code 0 when its outputs are there, 1 when it could not be done.
pub fn run(session: &mut Session, args: &RunArgs) -> anyhow::Result<ExitCode> {
    let (media, body) = body(args)?;
    let api = Api::of(session)?;
    http::block(async {
        let accepted = api
            .ask(Method::POST, "/jobs", &media, body)
            .await?
            .json()
            .await?;
        let id = accepted["id"]
            .as_str()
            .context("the daemon told no id")?
            .to_owned();
        if args.detach {
            print(&if args.json {
                format!("{accepted}\n")
            } else {
                format!("{id}\n")
            });
            return Ok(ExitCode::SUCCESS);
        }
        follow(&api, &id, args.quiet || args.json).await?;
        let job = api
            .ask(Method::GET, &format!("/jobs/{id}"), "", Bytes::new())
            .await?
            .json()
            .await?;
        let state = job["state"].as_str().unwrap_or_default();
        let saved = if state == "done" {
            save(&api, &job, &args.output).await?
        } else {
            Vec::new()
        };
        if args.json {
            print(&format!("{job}\n"));
        } else {
            for path in saved {
                print(&format!("{}\n", path.display()));
            }
        }
        if state == "done" {
            return Ok(ExitCode::SUCCESS);
        }
        let why = job["error"].as_str().unwrap_or("no reason was told");
        session.output.error(&format!("job {id} is {state}: {why}"));
        Err(Told.into())
    })
}

/// The request's media type and body.
fn body(args: &RunArgs) -> anyhow::Result<(String, Bytes)> {
    let name = args.workflow.display();
    let text = if args.workflow == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?
    } else {
        std::fs::read_to_string(&args.workflow).with_context(|| format!("cannot read {name}"))?
    };
    let mut graph: Value =
        serde_json::from_str(&text).with_context(|| format!("{name} is not JSON"))?;
    workflow::check(&graph).with_context(|| format!("{name} is no workflow"))?;
    for assignment in &args.set {
        workflow::set(&mut graph, assignment).map_err(|why| anyhow::anyhow!("--set: {why}"))?;
    }
    let job = json!({"workflow": graph, "priority": args.priority, "idempotency_key": args.key, "caller": "fornax run"});
    if args.input.is_empty() {
        return Ok(("application/json".to_owned(), job.to_string().into()));
    }
    let boundary = format!("fornax-{}", uuid::Uuid::new_v4().simple());
    let mut form = Vec::new();
    write!(
        form,
        "--{boundary}\r\nContent-Disposition: form-data; name=\"job\"\r\n\r\n{job}\r\n"
    )?;
    for input in &args.input {
        let Some((name, file)) = input.split_once('=') else {
            bail!("--input: `{input}` is not NAME=FILE");
        };
        if name.contains(['"', '\r', '\n', '\\']) {
            bail!("--input: `{name}` is no name of a file");
        }
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
        write!(
            form,
            "--{boundary}\r\nContent-Disposition: form-data; name=\"input\"; filename=\"{name}\"\r\nContent-Type: application/octet-stream\r\n\r\n"
        )?;
        form.extend_from_slice(&bytes);
        form.extend_from_slice(b"\r\n");
    }
    write!(form, "--{boundary}--\r\n")?;
    Ok((
        format!("multipart/form-data; boundary={boundary}"),
        form.into(),
    ))
}

/// Follows it until it is settled; a daemon that goes and comes back is followed on.
async fn follow(api: &Api, id: &str, silent: bool) -> anyhow::Result<()> {
    let mut bar = Bar::new(silent);
    let (mut last, mut tries) = (String::new(), 0);
    loop {
        let followed = followed(api, id, &mut bar, &mut last).await;
        match followed {
            Ok(true) => return Ok(()),
            Ok(false) => tries = 0,
            Err(error) if tries >= TRIES => return Err(error),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// One connection's events. `true`: it is settled.
async fn followed(api: &Api, id: &str, bar: &mut Bar, last: &mut String) -> anyhow::Result<bool> {
    let mut answer = api.follow(&format!("/jobs/{id}/events"), last).await?;
    if answer.status != 200 {
        answer.json().await?;
        return Ok(false);
    }
    let mut held = String::new();
    while let Some(piece) = answer.piece().await? {
        held.push_str(&String::from_utf8_lossy(&piece));
        while let Some(end) = held.find("\n\n") {
            let event: String = held.drain(..end + 2).collect();
            let field = |name: &str| {
                event
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .unwrap_or_default()
            };
            let (kind, data) = (field("event: "), field("data: "));
            if !field("id: ").is_empty() {
                *last = field("id: ").to_owned();
            }
            let data: Value = serde_json::from_str(data).unwrap_or_default();
            if !kind.is_empty() {
                bar.show(kind, &data);
            }
            if matches!(kind, "done" | "failed" | "cancelled" | "dead") {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Saves all outputs, each whole or not at all.
async fn save(api: &Api, job: &Value, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut saved = Vec::new();
    for output in job["outputs"].as_array().into_iter().flatten() {
        let (Some(name), Some(url)) = (output["name"].as_str(), output["url"].as_str()) else {
            continue;
        };
        // The daemon's names are parts of paths; another one's are not followed anywhere.
        if Path::new(name).file_name().and_then(|part| part.to_str()) != Some(name) {
            bail!("the daemon told an output of the name {name:?}, which is no file's name");
        }
        let (path, part) = (folder.join(name), folder.join(format!(".{name}.part")));
        let mut answer = api.follow(url, "").await?;
        if answer.status != 200 {
            answer.json().await?;
            bail!("the output {name} could not be fetched");
        }
        let failed = || format!("cannot write {}", path.display());
        let mut file = std::fs::File::create(&part).with_context(failed)?;
        while let Some(piece) = answer.piece().await? {
            file.write_all(&piece).with_context(failed)?;
        }
        std::fs::rename(&part, &path).with_context(failed)?;
        saved.push(path);
    }
    Ok(saved)
}
