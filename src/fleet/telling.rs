//! What a watched run tells: the loop its verdict, the book what happened, everybody its report.

use super::book::incident;
use super::log::Log;
use super::view::{Devices, IncidentKind, Report};
use super::watch::Watch;
use crate::core::monitor::cause::Cause;
use crate::core::monitor::cures::Cure;
use crate::core::monitor::facts::Note;
use crate::core::probe::Verdict;
use crate::daemon::command::Command;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is asked what it says of itself.
const STATS_EVERY: Duration = Duration::from_secs(30);
/// Names of node packs in the message of a healthy instance.
const NAMED: usize = 5;

impl Watch {
    pub(super) fn tell(&mut self, note: Note) {
        let (kind, cause, message) = match note {
            Note::Up(took) => (IncidentKind::Start, None, format!("came up within {took}")),
            Note::Reboots => (
                IncidentKind::Start,
                None,
                "starts anew, in the same process".to_owned(),
            ),
            Note::Ill(cause, why) => (IncidentKind::Ill, Some(cause), why),
            Note::Job(cause) => (
                IncidentKind::Job,
                Some(cause),
                "a job failed for want of memory".to_owned(),
            ),
            Note::ImportFailed(pack) => (
                IncidentKind::Import,
                Some(Cause::ImportFailures),
                format!("node pack {pack} could not be imported"),
            ),
            Note::Cured(cause, cure) => {
                let by = cure.map_or("by itself", |cure| match cure {
                    Cure::Interrupt => "by an interrupt",
                    Cure::Free => "by freeing memory",
                    Cure::Restart => "by a restart",
                });
                (IncidentKind::Cured, Some(cause), format!("well again {by}"))
            }
            Note::GivenUp(cause, why) => (
                IncidentKind::GivenUp,
                Some(cause),
                format!("{why}; its restarts are used up"),
            ),
        };
        self.note(kind, cause, message);
    }

    pub(super) fn note(&self, kind: IncidentKind, cause: Option<Cause>, message: String) {
        let note = incident(self.view.generation, kind, cause, message);
        self.book.note(self.view.id, &self.view.spec.name, note);
    }

    /// The loop learns of every change of the verdict or of its reason.
    pub(super) fn tell_loop(&mut self) {
        let diagnosis = self.monitor.diagnosis();
        let carried = self.monitor.carried();
        self.book.with(
            self.view.id,
            || carried.clone(),
            |kept| kept.carried = carried.clone(),
        );
        if self.told.as_ref() == Some(&diagnosis) {
            return;
        }
        let command = Command::Verdict {
            id: self.view.id,
            generation: self.view.generation,
            verdict: diagnosis.verdict,
            why: diagnosis.message.clone(),
        };
        let reply = tokio::sync::oneshot::channel().0;
        // A full queue means that the loop is behind: the next look tells it.
        if self.handle.commands.try_send((command, reply)).is_ok() {
            self.told = Some(diagnosis);
        }
    }

    pub(super) fn report(&mut self, log: &Log) {
        let mut diagnosis = self.monitor.diagnosis();
        let failures = log.import_failures();
        if diagnosis.verdict == Verdict::Healthy && !failures.is_empty() {
            let names: Vec<&str> = failures
                .iter()
                .take(NAMED)
                .map(|import| import.name.as_str())
                .collect();
            let more = if failures.len() > NAMED { ", …" } else { "" };
            diagnosis.message = format!(
                "{}; could not import: {}{more}",
                diagnosis.message,
                names.join(", ")
            );
        }
        self.book.publish(Report {
            diagnosis: Some(diagnosis),
            activity: Some(self.monitor.activity()),
            queue: self.monitor.queue(),
            quiet_ms: self.monitor.quiet_for(self.now()).map(|quiet| quiet.0),
            quiet_limit_ms: self.monitor.quiet_limit().0,
            answered_in_ms: self.answered_in.map(|took| took.as_millis() as u64),
            import_failures: failures,
            loaded: self.loaded.clone(),
            canary: self.canary.clone(),
            devices: self.devices.clone(),
            restarts_left: self.monitor.carried().budget.left(self.now()),
            ..Report::of(&self.view)
        });
    }

    /// What it says of itself, now and then.
    pub(super) async fn ask_itself(&mut self) {
        if self.devices_at.is_some_and(|at| at.elapsed() < STATS_EVERY) {
            return;
        }
        self.devices_at = Some(Instant::now());
        let Ok(stats) = self.client.system_stats().await else {
            return;
        };
        let device = stats.devices.first();
        self.devices = Some(Devices {
            comfyui: stats.system.comfyui_version.clone(),
            python: stats.system.python_version.clone(),
            torch: stats.system.pytorch_version.clone(),
            device: device.map_or_else(String::new, |device| device.name.clone()),
            kind: device.map_or_else(String::new, |device| device.kind.clone()),
            vram_total: device.map_or(0, |device| device.vram_total),
            vram_free: device.map_or(0, |device| device.vram_free),
        });
    }
}
