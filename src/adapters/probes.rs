//! Asking a run how it is: by HTTP, TCP or a command. The thresholds and the verdict are the core's.

use super::event::{RunEvent, RunEventKind};
use super::tree::Roots;
use crate::core::ids::{Generation, PmId};
use crate::core::probe::{ProbeMachine, Verdict};
use crate::core::spec::fornax::{ExecProbe, HttpProbe, Probe};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// A probe of one run.
#[derive(Debug)]
pub struct ProbePlan {
    /// The instance.
    pub id: PmId,
    /// The run.
    pub generation: Generation,
    /// What to ask, and when.
    pub probe: Probe,
    /// The app's port, for probes that name none.
    pub port: Option<u16>,
    /// Where an exec probe runs.
    pub cwd: String,
    /// With which environment.
    pub env: BTreeMap<String, String>,
    /// What another daemon had found, and told, before.
    pub before: Option<(Verdict, String)>,
}

/// Asks until the task is aborted; tells every change of the verdict or of the reason for a bad one.
pub async fn watch(plan: ProbePlan, events: mpsc::Sender<RunEvent>, roots: Arc<Roots>) {
    let mut machine = match &plan.before {
        Some((verdict, _)) => ProbeMachine::resumed(&plan.probe, *verdict),
        None => ProbeMachine::new(&plan.probe),
    };
    if plan.before.is_none() {
        tokio::time::sleep(machine.initial_delay().duration()).await;
    }
    let mut told = plan.before.clone();
    loop {
        let answer = tokio::time::timeout(
            machine.timeout().duration(),
            ask(&plan, &roots, machine.timeout().duration()),
        )
        .await;
        let answer =
            answer.unwrap_or_else(|_| Err(format!("no answer within {}", machine.timeout())));
        let verdict = machine.answer(answer.is_ok());
        let detail = match answer {
            Ok(detail) | Err(detail) => detail,
        };
        let news = told.as_ref().is_none_or(|(old, why)| {
            *old != verdict || (verdict != Verdict::Healthy && *why != detail)
        });
        if news {
            told = Some((verdict, detail.clone()));
            let kind = RunEventKind::Probe { verdict, detail };
            if events
                .send(RunEvent {
                    id: plan.id,
                    generation: plan.generation,
                    kind,
                })
                .await
                .is_err()
            {
                return;
            }
        }
        tokio::time::sleep(machine.period().duration()).await;
    }
}

/// One question. `Ok` and `Err` both carry the answer in words.
async fn ask(plan: &ProbePlan, roots: &Arc<Roots>, limit: Duration) -> Result<String, String> {
    if let Some(http) = &plan.probe.http {
        return ask_http(http, plan.port).await;
    }
    if let Some(tcp) = &plan.probe.tcp {
        let (host, port) = address(tcp.host.as_deref(), tcp.port.or(plan.port))?;
        return connect(&host, port)
            .await
            .map(|_| format!("{host}:{port} accepts connections"));
    }
    match &plan.probe.exec {
        Some(exec) => ask_command(exec, plan, Arc::clone(roots), limit).await,
        None => Ok("online".to_owned()),
    }
}

fn address(host: Option<&str>, port: Option<u16>) -> Result<(String, u16), String> {
    let port = port
        .ok_or_else(|| "the probe has no port; set `fornax.port` or the probe's own".to_owned())?;
    Ok((host.unwrap_or("127.0.0.1").to_owned(), port))
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("cannot connect to {host}:{port}: {error}"))
}

async fn ask_http(http: &HttpProbe, default_port: Option<u16>) -> Result<String, String> {
    let (host, port) = address(http.host.as_deref(), http.port.or(default_port))?;
    let stream = connect(&host, port).await?;
    let broken =
        |error: hyper::Error| format!("GET {} on port {port} broke off: {error}", http.path);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let request = hyper::Request::get(&http.path)
        .header(hyper::header::HOST, format!("{host}:{port}"))
        .header(hyper::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("the probe's path {:?} is no URL path: {error}", http.path))?;
    let mut answered = std::pin::pin!(sender.send_request(request));
    // The connection is driven here, not in a task of its own, so that it ends with the question. The body is not read.
    let response = tokio::select! {
        biased;
        response = &mut answered => response,
        // A server that closes at once ends the connection in the very step that brings its answer.
        _ = connection => answered.await,
    }
    .map_err(broken)?;
    let status = response.status().as_u16();
    let passed = http
        .status
        .map_or((200..400).contains(&status), |want| want == status);
    let words = format!("GET {} on port {port} answered {status}", http.path);
    if passed { Ok(words) } else { Err(words) }
}

async fn ask_command(
    exec: &ExecProbe,
    plan: &ProbePlan,
    roots: Arc<Roots>,
    limit: Duration,
) -> Result<String, String> {
    let Some((program, args)) = exec.command.split_first() else {
        return Err("the probe's command is empty".to_owned());
    };
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(&plan.env)
        .current_dir(&plan.cwd);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let asked = tokio::task::spawn_blocking(move || roots.run_helper(&mut command, limit)).await;
    match asked {
        Ok(Ok(Some(output))) if output.status.success() => {
            Ok(format!("`{program}` ended with code 0"))
        }
        Ok(Ok(Some(output))) => Err(format!("`{program}` ended with {}", output.status)),
        Ok(Ok(None)) => Err(format!(
            "`{program}` did not end within {} ms",
            limit.as_millis()
        )),
        Ok(Err(error)) => Err(format!("cannot run the probe `{program}`: {error}")),
        Err(error) => Err(format!("the probe's thread failed: {error}")),
    }
}
