//! The faults a simulated instance can be told to show: the troubles of a real ComfyUI, on demand.

use super::options;
use std::time::Duration;

/// One fault.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Every job hangs for ever; HTTP goes on answering, an interrupt has no effect, SIGINT works.
    Silence,
    /// The first job ends the thread that runs prompts: it "runs" for ever, and so do all behind it.
    DeadPromptThread,
    /// Each connection is taken only after this long (the kernel completes the handshake before).
    SlowAccept(Duration),
    /// Every route answers 503.
    Unavailable,
    /// Jobs succeed and never appear in the history.
    NoHistory,
    /// The process aborts (SIGABRT) as soon as this many jobs have been executed; 0 is 1.
    CrashAfter(u64),
    /// The process aborts (SIGABRT) in the middle of this job, counted from 1.
    CrashDuring(u64),
    /// The first job stops everything: nothing is answered any more, and only SIGTERM or SIGKILL ends it, as when a node holds
    /// the interpreter's lock.
    HoldLock,
    /// Every job fails as CUDA does once its context is lost.
    CudaPoisoned,
    /// Every job fails for want of GPU memory, until `/free` has been asked for.
    OutOfVram,
    /// A node pack of this name could not be imported.
    ImportFailed(String),
    /// The start ends for want of an NVIDIA driver.
    NoDriver,
    /// SIGINT has no effect, as when a node holds the interpreter's lock.
    IgnoreSigint,
}

impl Fault {
    /// Reads `silence`, `crash-after=3`, … The error names the kinds.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (kind, value) = match text.split_once('=') {
            Some((kind, value)) => (kind, Some(value)),
            None => (text, None),
        };
        match (kind, value) {
            ("silence", None) => Ok(Fault::Silence),
            ("dead-prompt-thread", None) => Ok(Fault::DeadPromptThread),
            ("slow-accept", None) => Ok(Fault::SlowAccept(Duration::from_secs(5))),
            ("slow-accept", Some(value)) => Ok(Fault::SlowAccept(Duration::from_secs_f64(options::seconds(value)?))),
            ("unavailable", None) => Ok(Fault::Unavailable),
            ("no-history", None) => Ok(Fault::NoHistory),
            ("crash-after", Some(value)) => count(value).map(Fault::CrashAfter),
            ("crash-during", Some(value)) => count(value).map(Fault::CrashDuring),
            ("ignore-sigint", None) => Ok(Fault::IgnoreSigint),
            ("hold-lock", None) => Ok(Fault::HoldLock),
            ("cuda-poisoned", None) => Ok(Fault::CudaPoisoned),
            ("out-of-vram", None) => Ok(Fault::OutOfVram),
            ("import-failed", Some(name)) if !name.is_empty() => Ok(Fault::ImportFailed(name.to_owned())),
            ("no-driver", None) => Ok(Fault::NoDriver),
            _ => Err("expected one of: silence, dead-prompt-thread, slow-accept[=SECONDS], unavailable, no-history, crash-after=N, \
                      crash-during=N, ignore-sigint, hold-lock, cuda-poisoned, out-of-vram, import-failed=NAME, no-driver"
                .into()),
        }
    }
}

fn count(value: &str) -> Result<u64, String> {
    value
        .parse()
        .map_err(|_| format!("{value:?} is not a number of prompts"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_and_nothing_else() {
        for (text, want) in [
            ("silence", Some(Fault::Silence)),
            ("dead-prompt-thread", Some(Fault::DeadPromptThread)),
            (
                "slow-accept",
                Some(Fault::SlowAccept(Duration::from_secs(5))),
            ),
            (
                "slow-accept=0.5",
                Some(Fault::SlowAccept(Duration::from_millis(500))),
            ),
            ("unavailable", Some(Fault::Unavailable)),
            ("no-history", Some(Fault::NoHistory)),
            ("crash-after=2", Some(Fault::CrashAfter(2))),
            ("crash-during=1", Some(Fault::CrashDuring(1))),
            ("ignore-sigint", Some(Fault::IgnoreSigint)),
            ("hold-lock", Some(Fault::HoldLock)),
            ("cuda-poisoned", Some(Fault::CudaPoisoned)),
            ("out-of-vram", Some(Fault::OutOfVram)),
            ("import-failed=x", Some(Fault::ImportFailed("x".to_owned()))),
            ("no-driver", Some(Fault::NoDriver)),
            ("import-failed=", None),
            ("crash-after", None),
            ("crash-after=-1", None),
            ("silence=1", None),
            ("slow-accept=inf", None),
            ("", None),
        ] {
            assert_eq!(Fault::parse(text).ok(), want, "{text:?}");
        }
    }
}
