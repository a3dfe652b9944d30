//! Taking over a run that another daemon has spawned: its descriptors come from the keeper, its process lives on.

use super::channel::Channel;
use super::cluster::WorkerSeat;
use super::ending::Ending;
use super::facts::RunFacts;
use super::keeper::Inheritance;
use super::logs::{LogConfig, RunLogs};
use super::runner::{self, CHANNEL_QUEUE, Launched, RunHandle, Running, Told};
use super::tree::Tree;
use crate::core::cluster::Sched;
use crate::core::ids::{Generation, PmId};
use crate::core::keeping::{Held, Key};
use crate::sys::{pidfd, procfs};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A run to take over.
#[derive(Debug)]
pub struct AdoptPlan {
    /// The instance.
    pub id: PmId,
    /// The run.
    pub generation: Generation,
    /// Its root process.
    pub pid: u32,
    /// What makes it known.
    pub facts: RunFacts,
    /// What the loop knows of it already.
    pub told: Told,
    /// Its app's name.
    pub name: Arc<str>,
    /// Its app's namespace.
    pub namespace: Arc<str>,
    /// The file its pid stands in.
    pub pid_path: Option<PathBuf>,
    /// Where its output goes.
    pub logs: Arc<LogConfig>,
    /// It is a worker of Node's cluster, served in this way.
    pub cluster: Option<Sched>,
}

/// Serves the run from now on; what it lacks of its descriptors is told in the daemon's log. To be called within a runtime.
pub fn adopt(
    plan: AdoptPlan,
    ctx: Running,
    inherited: &mut Inheritance,
) -> impl Future<Output = ()> + use<> {
    let mut take = |held| inherited.remove(&Key::run(held, plan.id, plan.generation));
    let (input, channel) = (take(Held::Input), take(Held::Channel));
    let mut plan = attach(plan, &ctx, inherited);
    // What was written is of the run before.
    if plan.told == Told::Nothing {
        plan.facts = RunFacts::of_newborn(plan.pid);
    }
    ctx.roots.adopt(plan.pid);
    let marker = ctx.marker(plan.id, plan.generation);
    let tree = Tree::adopted(plan.pid, &plan.facts, marker, Arc::clone(&ctx.roots));
    let (outbox, inbox) = mpsc::channel(CHANNEL_QUEUE);
    let clustered = plan.cluster.is_some();
    if let Some(sched) = plan.cluster {
        let (app, outbox) = (Arc::clone(&plan.name), outbox.clone());
        let seat = WorkerSeat { app, sched, outbox };
        ctx.cluster.enter((plan.id, plan.generation), seat);
    }
    let handle = RunHandle::new(plan.pid, tree, input, outbox, plan.facts.oom_kills);
    // A pid that belongs to another process by now is none of ours.
    let same = procfs::stat(plan.pid).is_some_and(|now| {
        plan.facts
            .start_time
            .is_none_or(|start| start == now.start_time)
    });
    let ending = if same {
        Ending::of(plan.pid, pidfd::open(plan.pid), ctx.keeper.clone())
    } else {
        Ending::past(plan.pid, ctx.keeper.clone())
    };
    let launched = Launched {
        handle: Arc::new(handle),
        ending,
        channel: channel.and_then(|fd| Channel::new(fd).ok()),
        outbox: inbox,
    };
    runner::serve(
        (plan.id, plan.generation),
        launched,
        plan.told,
        plan.pid_path,
        clustered,
        ctx,
    )
}

/// Gives the run's pipes to the log plane.
pub fn attach(plan: AdoptPlan, ctx: &Running, inherited: &mut Inheritance) -> AdoptPlan {
    let mut take = |held| inherited.remove(&Key::run(held, plan.id, plan.generation));
    let (Some(out), Some(err)) = (take(Held::Output), take(Held::Errors)) else {
        tracing::error!(
            app = &*plan.name,
            instance = plan.id.0,
            pid = plan.pid,
            "its output pipes are lost: what it writes is not seen until it is restarted"
        );
        return plan;
    };
    let logs = RunLogs {
        instance: plan.id,
        generation: plan.generation,
        name: plan.name.to_string(),
        namespace: plan.namespace.to_string(),
        out,
        err,
        config: Arc::clone(&plan.logs),
    };
    if let Err(error) = ctx.plane.attach(logs) {
        tracing::error!(pid = plan.pid, %error, "an app's output is lost");
    }
    plan
}
