//! The life of a simulated instance: ComfyUI's start in its order, the run, and its ends with their exit codes.

use super::bind::SlowListener;
use super::error::SimulateError;
use super::fault::Fault;
use super::options::SimulateOptions;
use super::places::Places;
use super::routes;
use super::shared::{COMFYUI_VERSION, Shared};
use super::worker;
use std::future::{Future, IntoFuture};
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// How long requests in flight may take after the end was asked for.
const LAST_REQUESTS: Duration = Duration::from_secs(1);
/// How long a picture that is being written may take after that.
const LAST_WRITES: Duration = Duration::from_secs(2);
/// One mebibyte, ComfyUI's MB.
const MB: u64 = 1024 * 1024;

/// Runs an instance until `shutdown` ends, then ends as ComfyUI does after SIGINT: jobs are thrown away, websockets are cut
/// without a close frame, the temp directory is removed.
///
/// `ready` is told the bound address once connections are taken, before the ready line is printed. Everything that ComfyUI
/// would print goes to stderr.
///
/// # Errors
/// A usage error, a directory that cannot be made, or a port that is taken; nothing is left running then.
pub async fn serve(
    options: SimulateOptions,
    ready: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<(), SimulateError> {
    let places = Places::prepare(&options)?;
    let shared = Arc::new(Shared::new(options, places));
    // Connections live in tasks of the HTTP server: they end with this future, however it ends.
    let _ends_connections = shared.stop.clone().drop_guard();
    match live(&shared, ready, shutdown).await {
        Ok(()) => {
            shared.console.line("\nStopped server");
            shared.places.clean()
        }
        Err(error) => {
            shared.places.forget_own();
            Err(error)
        }
    }
}

async fn live(
    shared: &Arc<Shared>,
    ready: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<(), SimulateError> {
    let mut shutdown = std::pin::pin!(shutdown);
    print_start(shared);
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64(shared.options.start_delay)) => {}
        () = &mut shutdown => return Ok(()),
    }
    if shared.has(&Fault::NoDriver) {
        return Err(SimulateError::NoDriver);
    }
    print_imported(shared);
    let address = SocketAddr::new(shared.options.listen, shared.options.port);
    let delay = shared.options.faults.iter().find_map(|fault| match fault {
        Fault::SlowAccept(delay) => Some(*delay),
        _ => None,
    });
    let listener = SlowListener::bind(address, delay.unwrap_or_default()).await?;
    let bound = listener.address()?;
    ready(bound);
    shared
        .console
        .line(format!("To see the GUI go to: http://{bound}"));
    worker::spawn(shared).map_err(|source| SimulateError::Setup {
        what: "the thread that runs prompts",
        source,
    })?;
    let server = axum::serve(listener, routes::router(shared.clone()))
        .with_graceful_shutdown(shared.stop.clone().cancelled_owned());
    let mut server = std::pin::pin!(server.into_future());
    tokio::select! {
        ended = &mut server => ended.map_err(|source| SimulateError::Server { source })?,
        () = shared.hold.notified() => hold(),
        () = shutdown => {}
    }
    shared.stop.cancel();
    // A request that outlives the limit is cut off by the end of the process.
    let _ = tokio::time::timeout(LAST_REQUESTS, server).await;
    Ok(())
}

/// Blocks this thread, which answers everything, for ever.
fn hold() {
    loop {
        std::thread::park();
    }
}

/// The lines up to the custom nodes, in the order of ComfyUI 0.3.64.
fn print_start(shared: &Shared) {
    let (console, options) = (&shared.console, &shared.options);
    for (name, given, path) in [
        ("output", &options.output_directory, &shared.places.output),
        ("input", &options.input_directory, &shared.places.input),
        ("temp", &options.temp_directory, &shared.places.temp),
    ] {
        // ComfyUI tells only of those that a flag moved; a base directory of our own making must be told, to be found.
        if given.is_some() || options.base_directory.is_none() {
            console.line(format!("Setting {name} directory to: {}", path.display()));
        }
    }
    if let Some(path) = &options.user_directory {
        console.line(format!("Setting user directory to: {}", path.display()));
    }
    console.line("Checkpoint files will always be loaded safely.");
    let ram = shared.ram().0;
    let vram = if options.cpu { ram } else { options.vram.0 };
    console.line(format!(
        "Total VRAM {} MB, total RAM {} MB",
        vram / MB,
        ram / MB
    ));
    console.line(format!("pytorch version: {}", routes::PYTORCH));
    console.line(format!(
        "Set vram state to: {}",
        if options.cpu {
            "DISABLED"
        } else {
            "NORMAL_VRAM"
        }
    ));
    console.line(format!("Device: {}", routes::device(options)));
}

/// The lines from the imports' end to the bind.
fn print_imported(shared: &Shared) {
    let console = &shared.console;
    console.line(format!("Python version: {}", routes::PYTHON));
    console.line(format!("ComfyUI version: {COMFYUI_VERSION}"));
    console.line(format!("ComfyUI frontend version: {}", routes::FRONTEND));
    console.line("[Prompt Server] web root: built in (simulated)");
    let failed = shared
        .options
        .faults
        .iter()
        .filter_map(|fault| match fault {
            Fault::ImportFailed(name) => Some(name),
            _ => None,
        });
    let failed: Vec<&String> = failed.collect();
    if !failed.is_empty() {
        for name in &failed {
            console.line(format!(
                "Cannot import /workspace/ComfyUI/custom_nodes/{name} module for custom nodes: simulated"
            ));
        }
        console.line("\nImport times for custom nodes:");
        for name in &failed {
            console.line(format!(
                "   0.0 seconds (IMPORT FAILED): /workspace/ComfyUI/custom_nodes/{name}"
            ));
        }
        console.line("");
    }
    console.line("Starting server\n");
}

/// `fornax simulate`: runs an instance as a process of its own. SIGINT ends it cleanly with exit code 0; SIGTERM is left at its
/// default, as in ComfyUI. A failed start gives ComfyUI's exit code.
pub fn run(options: SimulateOptions) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(source) => {
            return failed(&SimulateError::Setup {
                what: "the async runtime",
                source,
            });
        }
    };
    let ignores_sigint = options.faults.contains(&Fault::IgnoreSigint);
    let (send_handler, handler) = oneshot::channel();
    // Until the port is bound a SIGINT ends the process by the signal itself, as it ends ComfyUI's imports. The receiver lives
    // as long as the server, so that a send cannot fail.
    let ready = move |_| drop(send_handler.send(sigint_handler()));
    let shutdown = async move {
        let Ok(Some(mut interrupts)) = handler.await else {
            return std::future::pending().await;
        };
        while interrupts.recv().await.is_some() {
            if !ignores_sigint {
                return;
            }
        }
    };
    let ended = runtime.block_on(serve(options, ready, shutdown));
    runtime.shutdown_timeout(LAST_WRITES);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Takes over SIGINT. `None` if it was ignored when the process began: Python then installs no handler either, and a
/// supervisor's test must see that.
fn sigint_handler() -> Option<Signal> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = mask
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let sigint = 1 << (SignalKind::interrupt().as_raw_value() - 1);
    if ignored & sigint != 0 {
        return None;
    }
    signal(SignalKind::interrupt())
        .map_err(|error| tracing::warn!(%error, "SIGINT cannot be handled"))
        .ok()
}

fn failed(error: &SimulateError) -> ExitCode {
    // A closed stderr must not change the exit code.
    let _ = writeln!(std::io::stderr(), "{error}");
    ExitCode::from(error.exit_code())
}
