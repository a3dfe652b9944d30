//! The worker: ComfyUI's prompt thread. Takes prompts one at a time until the server ends, or a fault ends it.

use super::cache::Cache;
use super::execute::{self, Outcome};
use super::fault::Fault;
use super::nodes;
use super::shared::Shared;
use super::told::Teller;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a picture that is being written may take once the server ends.
const LAST_WRITES: Duration = Duration::from_secs(2);
/// How long a crash waits for the messages before it.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Runs until it is dropped. With the fault `dead-prompt-thread` it ends after the first prompt has begun.
pub(super) async fn run(shared: Arc<Shared>) {
    let catalogue = nodes::catalogue(&[], &[]);
    let mut cache = Cache::default();
    let mut ordinal = 0;
    loop {
        // What was asked before a prompt came is done before it.
        free(&shared, &mut cache);
        let Some(job) = shared.jobs.take() else {
            shared.jobs.woken().await;
            continue;
        };
        shared.tell_queue();
        ordinal += 1;
        let start = Instant::now();
        let mut teller = Teller::new(&shared.clients, &shared.current, job.clone());
        let entry =
            match execute::execute(&shared, &job, &mut cache, &catalogue, &mut teller, ordinal)
                .await
            {
                Outcome::Ended(entry) => entry,
                Outcome::ThreadDied => return,
            };
        shared
            .jobs
            .finish(&job, (!shared.has(&Fault::NoHistory)).then_some(entry));
        shared.tell_queue();
        teller.nothing_executing();
        shared
            .console
            .line(executed_line(start.elapsed().as_secs_f64()));
        if shared
            .options
            .faults
            .iter()
            .any(|fault| matches!(fault, Fault::CrashAfter(jobs) if ordinal >= *jobs))
        {
            // The last messages of this prompt are still on their way to the clients.
            tokio::time::sleep(LAST_WORDS).await;
            std::process::abort();
        }
    }
}

/// Runs it on a thread of its own, as ComfyUI does: whoever looks from outside sees it end. The thread ends with the server.
pub(super) fn spawn(shared: &Arc<Shared>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let shared = Arc::clone(shared);
    std::thread::Builder::new()
        .name("prompt-worker".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let stop = shared.stop.clone();
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = run(Arc::clone(&shared)) => {}
                }
            });
            runtime.shutdown_timeout(LAST_WRITES);
        })?;
    Ok(())
}

/// Does what `/free` asked for.
fn free(shared: &Shared, cache: &mut Cache) {
    let wish = shared.jobs.take_free();
    if wish.models || wish.memory {
        shared.freed.store(true, Ordering::Relaxed);
    }
    if wish.models || wish.memory {
        shared.loaded.store(0, Ordering::Relaxed);
    }
    if wish.memory {
        cache.clear();
    }
}

/// ComfyUI's words: hours and minutes from ten minutes on.
fn executed_line(seconds: f64) -> String {
    if seconds > 600.0 {
        let whole = seconds as u64;
        return format!(
            "Prompt executed in {:02}:{:02}:{:02}",
            whole / 3600,
            whole / 60 % 60,
            whole % 60
        );
    }
    format!("Prompt executed in {seconds:.2} seconds")
}
