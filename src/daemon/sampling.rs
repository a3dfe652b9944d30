//! Tasks beside the loop: figures of every run, and a look now and then whether what was missing has been installed.

use super::command::Command;
use super::handle::Handle;
use super::snapshot::Usages;
use super::world;
use crate::adapters::host::HostSampler;
use crate::adapters::sampler::Sampler;
use crate::adapters::tree::Roots;
use crate::core::service::ServiceStatus;
use crate::sys::heap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How old figures get when nobody asks.
const PERIOD: Duration = Duration::from_secs(5);
/// How often they are taken at most, however many ask.
const SHORTEST: Duration = Duration::from_millis(250);
/// How long figures that nobody waits for are put off: whoever has just asked for older ones is served first.
const AFTER_ANSWER: Duration = Duration::from_millis(20);
/// New instances since code was released last that make a start of its own.
const MANY: usize = 16;
/// How often an installation is looked at.
const INSTALL_PERIOD: Duration = Duration::from_secs(5);

/// Measures until the daemon ends.
pub async fn run(
    handle: Handle,
    roots: Arc<Roots>,
    usages: watch::Sender<Arc<Usages>>,
    host: watch::Sender<Arc<serde_json::Value>>,
) {
    let mut sampler = (Sampler::default(), HostSampler::default());
    host.send_replace(Arc::new(sampler.1.sample()));
    let mut snapshots = handle.snapshots.clone();
    let mut released = None;
    let mut last = tokio::time::Instant::now();
    let mut wanted = None;
    loop {
        tokio::select! {
            () = handle.shutdown.cancelled() => return,
            () = handle.sample.notified() => {
                // Somebody waits for a run's first figures: those alone, at once.
                if handle.has_unmeasured() {
                    sampler = first_figures(&handle, &roots, &usages, sampler).await;
                    continue;
                }
                // Figures of a moment ago serve whoever asks again.
                if last.elapsed() >= SHORTEST {
                    wanted.get_or_insert_with(|| tokio::time::Instant::now() + AFTER_ANSWER);
                }
                continue;
            }
            () = tokio::time::sleep_until(wanted.unwrap_or(last + PERIOD)) => {}
        }
        let asked = wanted.take().is_some();
        last = tokio::time::Instant::now();
        let (runs, roots) = (handle.runs.all(), Arc::clone(&roots));
        // Nobody waits, and something has happened since: the moment to give back what it needed.
        let quiet = !asked && (released.is_none() || snapshots.has_changed().unwrap_or(false));
        let mut started = false;
        if quiet {
            let instances = snapshots.borrow_and_update().instances.len();
            started = released.is_none_or(|before| instances >= before + MANY);
            // After a `delete`, few are many again.
            released = Some(
                released
                    .filter(|_| !started)
                    .unwrap_or(instances)
                    .min(instances),
            );
        }
        let work = tokio::task::spawn_blocking(move || {
            let figures = sampler.0.sample(&roots, &runs);
            let machine = sampler.1.sample();
            if quiet {
                heap::trim();
            }
            if started {
                heap::release_program();
            }
            (sampler, figures, machine)
        });
        // A panic in the sampler would lose its memory, not the daemon.
        sampler = match work.await {
            Ok((sampler, figures, machine)) => {
                usages.send_replace(Arc::new(figures));
                host.send_replace(Arc::new(machine));
                sampler
            }
            Err(_) => Default::default(),
        };
    }
}

/// Measures the runs that have no figures yet, beside those that have.
async fn first_figures(
    handle: &Handle,
    roots: &Arc<Roots>,
    usages: &watch::Sender<Arc<Usages>>,
    mut samplers: (Sampler, HostSampler),
) -> (Sampler, HostSampler) {
    let known = Arc::clone(&usages.borrow());
    let mut runs = handle.runs.all();
    runs.retain(|(id, generation, _)| {
        known
            .get(id)
            .is_none_or(|(measured, _)| measured != generation)
    });
    let roots = Arc::clone(roots);
    let work = tokio::task::spawn_blocking(move || {
        let figures = samplers.0.first(&roots, &runs);
        (samplers, figures)
    });
    // A panic in the sampler would lose its memory, not the daemon.
    let Ok((samplers, figures)) = work.await else {
        return Default::default();
    };
    let mut all = Usages::clone(&known);
    all.extend(figures);
    usages.send_replace(Arc::new(all));
    samplers
}

/// Looks at installations of apps that are down, so that port 9090 can tell `not_installed` from `stopped`.
pub async fn recheck_installs(handle: Handle) {
    loop {
        let snapshot = handle.snapshot();
        let down = snapshot.instances.iter().filter(|view| {
            view.pid.is_none()
                && !view.spec.fornax.install.is_empty()
                && matches!(
                    view.service.status,
                    ServiceStatus::Stopped | ServiceStatus::NotInstalled
                )
        });
        for view in down {
            let spec = Arc::clone(&view.spec);
            let missing = tokio::task::spawn_blocking(move || {
                world::missing(&spec.fornax.install, &spec.cwd)
            })
            .await
            .unwrap_or_default();
            // It may have been deleted meanwhile.
            let _ = handle
                .call(Command::Installed {
                    id: view.id,
                    missing,
                })
                .await;
        }
        tokio::select! {
            () = handle.shutdown.cancelled() => return,
            () = tokio::time::sleep(INSTALL_PERIOD) => {}
        }
    }
}
