//! From an instance to one of the six states that port 9090 tells, with the reason.

use super::table::Instance;
use crate::core::exit::LastExit;
use crate::core::instance::{FailReason, IdleReason, State};
use crate::core::probe::Verdict;
use crate::core::restart::{DoneReason, GiveUpReason};
use crate::core::service::{Dependency, ServiceStatus};
use crate::core::spec::fornax::Condition;

/// The most that is taken of what an app says of itself, in characters.
const SAID: usize = 300;

/// `(state, why, completed)`.
pub fn assess(instance: &Instance, waiting_for: &[Dependency]) -> (ServiceStatus, String, bool) {
    use ServiceStatus::{Healthy, NotConfigured, NotInstalled, Starting, Stopped, Unhealthy};
    let told = |status, message: String| (status, message, false);
    match &instance.machine.state {
        State::Idle(IdleReason::Disabled) => told(
            NotConfigured,
            "switched off: `fornax.enabled` is false".to_owned(),
        ),
        State::Idle(IdleReason::Ended(reason)) => ended(instance, *reason),
        State::Idle(_) if instance.missing.is_some() => {
            told(NotInstalled, instance.missing.clone().unwrap_or_default())
        }
        State::Idle(IdleReason::Asked) => told(Stopped, "ended on request".to_owned()),
        State::Idle(IdleReason::NotStarted) => {
            told(Stopped, "registered, not started yet".to_owned())
        }
        State::Waiting => told(Starting, waiting(waiting_for)),
        State::Spawning => told(Starting, "being started".to_owned()),
        State::Starting(_) => told(
            Starting,
            "waiting for it to say that it is ready".to_owned(),
        ),
        State::Online(run) => match (asked(instance), &instance.probe) {
            (false, _) if instance.spec.fornax.kind.as_deref() == Some("one-shot") => {
                told(Starting, at_work(instance, run.pid))
            }
            (false, _) => told(Healthy, format!("runs as pid {}", run.pid)),
            (true, None) => told(Starting, "its probe has not been answered yet".to_owned()),
            (true, Some((Verdict::Starting, why))) if instance.spec.fornax.monitor.is_some() => {
                told(Starting, why.clone())
            }
            (true, Some((Verdict::Starting, why))) => told(Starting, format!("starting up: {why}")),
            (true, Some((Verdict::Healthy, why))) => told(Healthy, why.clone()),
            (true, Some((Verdict::Unhealthy | Verdict::Dead, why))) => told(Unhealthy, why.clone()),
        },
        State::Stopping(stopping) if stopping.asked && instance.machine.wanted => {
            let why = instance.upkeep.why.as_ref();
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            told(Unhealthy, format!("being restarted{why}"))
        }
        State::Stopping(stopping) if stopping.asked => told(Unhealthy, "being stopped".to_owned()),
        State::Stopping(_) => told(
            Unhealthy,
            "it has ended, and the processes it left behind are being ended".to_owned(),
        ),
        // ComfyUI-Manager's reboot under a supervisor: it ends with code 0, and means to be started again.
        State::Backoff { .. } if instance.spec.fornax.monitor.is_some() && ended_well(instance) => {
            told(
                Starting,
                "starting anew: it ended with exit code 0, as for a reboot of its own".to_owned(),
            )
        }
        State::Backoff { .. } => {
            let wait = crate::core::units::Millis(
                instance.machine.memory.last_backoff.0.max(
                    instance
                        .spec
                        .policy
                        .restart
                        .restart_delay
                        .unwrap_or_default()
                        .0,
                ),
            );
            told(
                Unhealthy,
                format!(
                    "crashed ({}); waits {wait} before its restart",
                    cause(instance)
                ),
            )
        }
        State::Failed(FailReason::CouldNotStart {
            reason,
            not_installed: true,
        }) => told(NotInstalled, reason.clone()),
        State::Failed(FailReason::CouldNotStart {
            reason,
            not_installed: false,
        }) => told(Unhealthy, format!("could not be started: {reason}")),
        State::Failed(FailReason::GaveUp(GiveUpReason::TooManyUnstable(count))) => told(
            Unhealthy,
            format!(
                "given up after {count} unstable runs in a row; the last one: {}{}",
                cause(instance),
                last_line(instance)
            ),
        ),
        State::Failed(FailReason::GaveUp(GiveUpReason::BudgetSpent(budget))) => {
            let limit = format!("more than {} restarts within {}", budget.max, budget.window);
            told(
                Unhealthy,
                format!(
                    "given up: {limit}; the last run: {}{}",
                    cause(instance),
                    last_line(instance)
                ),
            )
        }
        State::Failed(FailReason::CannotBeKilled(_)) => told(
            Unhealthy,
            "not even SIGKILL ends it: a process is stuck in the kernel".to_owned(),
        ),
    }
}

/// Somebody asks how it is.
fn asked(instance: &Instance) -> bool {
    let fornax = &instance.spec.fornax;
    fornax.probe.is_some() || fornax.monitor.is_some()
}

fn ended_well(instance: &Instance) -> bool {
    let exit = instance.last_exit.as_ref();
    exit.is_some_and(|exit| exit.cause.is_success())
}

fn ended(instance: &Instance, reason: DoneReason) -> (ServiceStatus, String, bool) {
    let success = instance
        .last_exit
        .as_ref()
        .is_some_and(|exit| exit.cause.is_success());
    match (reason, success) {
        (_, true) => (
            ServiceStatus::Healthy,
            "completed: exit code 0".to_owned(),
            true,
        ),
        (DoneReason::StopExitCode, false) => (
            ServiceStatus::Stopped,
            format!("ended with {}, one of its stop_exit_codes", cause(instance)),
            false,
        ),
        (DoneReason::NoAutorestart, false) => (
            ServiceStatus::Unhealthy,
            format!("failed: {}{}", cause(instance), last_line(instance)),
            false,
        ),
    }
}

/// What a one-shot says of itself over its channel (`phase`, `progress`, `message` among its metrics), bounded.
fn at_work(instance: &Instance, pid: u32) -> String {
    let said = |name: &str| {
        let value = instance.axm.monitor.get(name)?.get("value")?.as_str()?;
        let value: String = value.chars().take(SAID).collect();
        (!value.is_empty()).then_some(value)
    };
    match (said("phase"), said("progress"), said("message")) {
        (Some(phase), Some(progress), Some(message)) => format!("{phase} ({progress}): {message}"),
        (_, _, Some(message)) => message,
        _ => format!("at work (pid {pid})"),
    }
}

fn waiting(dependencies: &[Dependency]) -> String {
    let open: Vec<String> = dependencies
        .iter()
        .filter(|dependency| !dependency.met)
        .map(|dependency| match dependency.status {
            Some(status) => format!(
                "{} to be {} (it is {})",
                dependency.name,
                dependency.condition.as_str(),
                status.as_str()
            ),
            None => format!(
                "{} to be {} (no app of that name is known)",
                dependency.name,
                dependency.condition.as_str()
            ),
        })
        .collect();
    format!("waiting for {}", open.join(", "))
}

fn cause(instance: &Instance) -> String {
    instance
        .last_exit
        .as_ref()
        .map_or_else(|| "never ran".to_owned(), |exit| exit.cause.to_string())
}

fn last_line(instance: &Instance) -> String {
    let line = |exit: &LastExit| {
        exit.stderr_tail
            .iter()
            .rev()
            .find(|line| !line.trim().is_empty())
            .map(|line| line.trim().to_owned())
    };
    instance
        .last_exit
        .as_deref()
        .and_then(line)
        .map_or_else(String::new, |line| format!("; it said: {line}"))
}

/// Whether an instance has reached what a dependant waits for.
pub fn meets(instance: &Instance, condition: Condition) -> bool {
    match condition {
        Condition::Started => instance.machine.run().is_some() || instance.service.completed,
        Condition::Healthy => instance.service.status == ServiceStatus::Healthy,
        Condition::Completed => instance.service.completed,
    }
}

/// How bad a state is for whoever depends on it: the lowest is the worst.
pub fn rank(status: ServiceStatus) -> u8 {
    match status {
        ServiceStatus::NotConfigured => 0,
        ServiceStatus::NotInstalled => 1,
        ServiceStatus::Stopped => 2,
        ServiceStatus::Unhealthy => 3,
        ServiceStatus::Starting => 4,
        ServiceStatus::Healthy => 5,
    }
}
