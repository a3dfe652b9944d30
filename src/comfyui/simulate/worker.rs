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

/// How long a crash waits for the messages before it.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Runs until it is dropped. With the fault `dead-prompt-thread` it hangs after the first prompt has begun.
pub(super) async fn run(shared: Arc<Shared>) {
    let catalogue = nodes::catalogue(&[], &[]);
    let mut cache = Cache::default();
    let mut ordinal = 0;
    loop {
        let Some(job) = shared.jobs.take() else {
            free(&shared, &mut cache);
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
                Outcome::ThreadDied => return std::future::pending().await,
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
        free(&shared, &mut cache);
    }
}

/// Does what `/free` asked for.
fn free(shared: &Shared, cache: &mut Cache) {
    let wish = shared.jobs.take_free();
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
