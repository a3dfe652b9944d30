//! Executes one prompt: visits its nodes in order, takes the simulated time, and tells the client in ComfyUI's order.

use super::cache::{Cache, Plan};
use super::fault::Fault;
use super::graph;
use super::jobs::Job;
use super::make::{self, Failure, Made, Thing};
use super::picture;
use super::shared::Shared;
use super::told::Teller;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Steps of a prompt whose graph has no sampler.
const USUAL_STEPS: u32 = 10;

/// How a prompt ended.
pub(super) enum Outcome {
    /// With this history entry.
    Ended(Value),
    /// It took the prompt thread with it.
    ThreadDied,
}

/// One prompt in execution. Owner: the worker.
pub(super) struct Execution<'a, 't> {
    shared: &'a Arc<Shared>,
    job: &'a Arc<Job>,
    cache: &'a mut Cache,
    teller: &'a mut Teller<'t>,
    plan: Plan,
    /// The nodes that take the simulated time.
    workers: Vec<String>,
    /// Which prompt of this process it is, from 1.
    ordinal: u64,
    executed: Vec<String>,
    shown: Map<String, Value>,
    meta: Map<String, Value>,
}

/// Executes a prompt up to the last `execution_*` message.
pub(super) async fn execute(
    shared: &Arc<Shared>,
    job: &Arc<Job>,
    cache: &mut Cache,
    catalogue: &Map<String, Value>,
    teller: &mut Teller<'_>,
    ordinal: u64,
) -> Outcome {
    teller.execution("execution_start", json!({"prompt_id": job.id}));
    if shared.options.cache_none {
        cache.clear();
    }
    let plan = cache
        .plan(&job.prompt, &job.outputs, catalogue, &shared.places)
        .unwrap_or_else(Plan::nothing);
    teller.execution(
        "execution_cached",
        json!({"nodes": plan.cached, "prompt_id": job.id}),
    );
    let new = || plan.visits.iter().filter(|node| !plan.is_cached(node));
    let mut workers: Vec<String> = new()
        .filter(|node| graph::class(&job.prompt, node) == Some("KSampler"))
        .cloned()
        .collect();
    if workers.is_empty() {
        workers.extend(new().next().cloned());
    }
    let execution = Execution {
        shared,
        job,
        cache,
        teller,
        plan,
        workers,
        ordinal,
        executed: Vec::new(),
        shown: Map::new(),
        meta: Map::new(),
    };
    execution.run().await
}

impl Execution<'_, '_> {
    async fn run(mut self) -> Outcome {
        let mut failed = None;
        for node in self.plan.visits.clone() {
            if self.plan.is_cached(&node) {
                self.show_cached(&node);
                continue;
            }
            self.teller.state(&node, json!(0.0), json!(1.0), "running");
            self.teller.executing(&node);
            if self.shared.has(&Fault::HoldLock) {
                self.shared.hold.notify_one();
                std::future::pending::<()>().await;
            }
            if self.shared.has(&Fault::Silence) {
                std::future::pending::<()>().await;
            }
            if self.shared.has(&Fault::DeadPromptThread) {
                return Outcome::ThreadDied;
            }
            if let Err(failure) = self.node(&node).await {
                failed = Some((node, failure));
                break;
            }
        }
        self.cache.keep_only(&self.plan);
        let success = failed.is_none();
        match failed {
            None => self
                .teller
                .execution("execution_success", json!({"prompt_id": self.job.id})),
            Some((node, failure)) => self.tell_failure(&node, failure),
        }
        if !success {
            self.shown.clear();
            self.meta.clear();
        }
        Outcome::Ended(json!({
            "prompt": self.job.item(),
            "outputs": self.shown,
            "status": {"status_str": if success { "success" } else { "error" }, "completed": success, "messages": self.teller.take_kept()},
            "meta": self.meta,
        }))
    }

    fn show_cached(&mut self, node: &str) {
        if let Some(shown) = self
            .cache
            .result(&self.plan, node)
            .and_then(|made| made.shown.clone())
        {
            self.show(node, shown);
        }
        self.teller.state(node, json!(1), json!(1), "finished");
    }

    fn show(&mut self, node: &str, shown: Value) {
        self.teller.executed(node, &shown);
        self.shown.insert(node.to_owned(), shown);
        let meta = json!({"node_id": node, "display_node": node, "parent_node": null, "real_node_id": node});
        self.meta.insert(node.to_owned(), meta);
    }

    async fn node(&mut self, node: &str) -> Result<(), Failure> {
        if self.shared.jobs.is_interrupted() {
            return Err(Failure::Interrupted);
        }
        if self.workers.iter().any(|worker| worker == node) {
            self.work(node).await?;
        }
        let seed = self.plan.signature(node);
        let made = make::make(self.shared, self.job, node, seed, |linked| {
            self.cache.result(&self.plan, linked)
        })
        .await?;
        if let Some(shown) = made.shown.clone() {
            self.show(node, shown);
        }
        self.cache.insert(&self.plan, node, made);
        self.executed.push(node.to_owned());
        let (value, max) = self.teller.last_steps(node);
        self.teller.state(node, value, max, "finished");
        Ok(())
    }

    /// Takes this node's share of the prompt's time, in steps.
    async fn work(&mut self, node: &str) -> Result<(), Failure> {
        let options = &self.shared.options;
        let steps = options.steps.unwrap_or_else(|| self.own_steps(node));
        let total = Duration::from_secs_f64(options.seconds / self.workers.len().max(1) as f64);
        let start = Instant::now();
        let half = steps.div_ceil(2);
        for step in 1..=steps {
            tokio::time::sleep_until(start + total * step / steps).await;
            // A sleep of no time does not yield, and the routes share this thread.
            tokio::task::yield_now().await;
            if self.shared.jobs.is_interrupted() {
                return Err(Failure::Interrupted);
            }
            if step == half {
                self.trouble()?;
            }
            self.teller.step(node, step, steps);
            self.preview(node);
            self.shared.console.progress(step, steps, start.elapsed());
        }
        if steps == 0 {
            tokio::time::sleep_until(start + total).await;
            self.trouble()?;
        }
        if self.shared.jobs.is_interrupted() {
            Err(Failure::Interrupted)
        } else {
            Ok(())
        }
    }

    /// What is to go wrong in the middle of this prompt.
    fn trouble(&self) -> Result<(), Failure> {
        if self.shared.has(&Fault::CrashDuring(self.ordinal)) {
            std::process::abort();
        }
        if self.shared.has(&Fault::CudaPoisoned) {
            return Err(Failure::Raised {
                kind: "RuntimeError",
                message: "CUDA error: an illegal memory access was encountered\n".into(),
            });
        }
        if self.shared.has(&Fault::OutOfVram) && !self.shared.freed.load(Ordering::Relaxed) {
            return Err(Failure::out_of_memory());
        }
        if fails(
            self.shared.options.seed,
            self.ordinal,
            self.shared.options.fail_rate,
        ) {
            return Err(Failure::Raised {
                kind: "RuntimeError",
                message: "simulated failure (--fail-rate)\n".into(),
            });
        }
        Ok(())
    }

    fn own_steps(&self, node: &str) -> u32 {
        let steps =
            graph::inputs(&self.job.prompt, node).and_then(|inputs| inputs.get("steps")?.as_u64());
        steps
            .and_then(|steps| u32::try_from(steps).ok())
            .map_or(USUAL_STEPS, |steps| steps.min(10_000))
    }

    fn preview(&self, node: &str) {
        if self.shared.options.preview_method == "none" {
            return;
        }
        let latent = graph::inputs(&self.job.prompt, node)
            .and_then(|inputs| graph::link(inputs.get("latent_image")?));
        let made = latent.and_then(|link| self.cache.result(&self.plan, link.node));
        if let Some(Made {
            value: Some(Thing::Latent(latent)),
            ..
        }) = made
        {
            let picture = picture::Picture {
                fill: picture::Fill::Gradient(self.plan.signature(node)),
                ..latent.clone()
            };
            // A preview is an extra: one that cannot be drawn is left out.
            if let Ok(png) = picture.thumbnail() {
                self.teller.preview(node, &png);
            }
        }
    }

    fn tell_failure(&mut self, node: &str, failure: Failure) {
        let class = graph::class(&self.job.prompt, node).unwrap_or_default();
        let console = &self.shared.console;
        match failure {
            Failure::Interrupted => {
                console.line("Processing interrupted");
                let data = json!({"prompt_id": self.job.id, "node_id": node, "node_type": class, "executed": self.executed});
                self.teller.execution("execution_interrupted", data);
            }
            Failure::Raised { kind, message } => {
                let traceback = [
                    "  File \"/workspace/ComfyUI/execution.py\", line 496, in execute\n    <simulated>\n".to_owned(),
                    format!("  File \"/workspace/ComfyUI/nodes.py\", line 1, in {class}\n    <simulated>\n"),
                ];
                let trimmed = message.trim_end();
                console.line(format!("!!! Exception during processing !!! {trimmed}"));
                console.line(format!(
                    "Traceback (most recent call last):\n{}{kind}: {trimmed}",
                    traceback.concat()
                ));
                if kind == "torch.OutOfMemoryError" {
                    console.line("Got an OOM, unloading all loaded models.");
                    self.shared.loaded.store(0, Ordering::Relaxed);
                }
                let data = json!({
                    "prompt_id": self.job.id, "node_id": node, "node_type": class, "executed": self.executed,
                    "exception_message": message, "exception_type": kind, "traceback": traceback,
                    "current_inputs": self.current_inputs(node), "current_outputs": self.job.prompt.keys().collect::<Vec<_>>(),
                });
                self.teller.execution("execution_error", data);
            }
        }
    }

    fn current_inputs(&self, node: &str) -> Map<String, Value> {
        let inputs = graph::inputs(&self.job.prompt, node).into_iter().flatten();
        let shown = |value: &Value| match graph::link(value) {
            Some(link) => json!([format!("<output {} of node {}>", link.slot, link.node)]),
            None => json!([value]),
        };
        inputs
            .map(|(name, value)| (name.clone(), shown(value)))
            .collect()
    }
}

/// Decides whether a prompt fails: the same for the same seed, and a share `rate` over many prompts.
fn fails(seed: u64, ordinal: u64, rate: f64) -> bool {
    let drawn = picture::mix(picture::mix(seed) ^ ordinal) >> 11;
    (drawn as f64) < rate * (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::fails;

    #[test]
    fn the_share_of_failures_is_kept_and_repeats_with_the_seed() {
        let count = |seed, rate| {
            (1..=10_000)
                .filter(|ordinal| fails(seed, *ordinal, rate))
                .count()
        };
        assert_eq!(count(1, 0.0), 0);
        assert_eq!(count(1, 1.0), 10_000);
        assert!((2_300..2_700).contains(&count(7, 0.25)));
        assert_eq!(count(7, 0.25), count(7, 0.25));
    }
}
