//! Named causes: what is wrong with a ComfyUI, in words that a person can act on, and how a text that it printed tells it.

use serde::{Deserialize, Serialize};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The thread that runs prompts has ended: every job "runs" for ever, and every route answers.
    DeadPromptThread,
    /// A node holds the interpreter's lock: nothing is answered.
    InterpreterLockHeld,
    /// A node waits for something that does not come.
    NodeHung,
    /// It works without a step, an event or an end for longer than it may.
    NoProgress,
    /// The CUDA context is lost: every later job fails.
    CudaContextPoisoned,
    /// The GPU's memory does not suffice, again and again.
    OutOfVram,
    /// The machine's memory does not suffice.
    OutOfRam,
    /// Node packs could not be imported.
    ImportFailures,
    /// Another program has its port.
    PortClash,
    /// There is no NVIDIA driver.
    MissingDriver,
    /// torch and the driver or the GPU do not fit.
    TorchMismatch,
    /// A Python package is missing.
    MissingPackage,
    /// It was started with a flag that it does not know, or that contradict each other.
    BadFlag,
    /// A file or folder that it was told to use does not exist.
    MissingFile,
    /// Its database cannot be used.
    Database,
    /// A library has crashed (a signal such as SIGSEGV).
    NativeCrash,
    /// It does not come up.
    StartTimeout,
    /// It does not answer, and works.
    Unresponsive,
    /// The canary job failed.
    CanaryFailed,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Cause; 19] = [
        Cause::DeadPromptThread,
        Cause::InterpreterLockHeld,
        Cause::NodeHung,
        Cause::NoProgress,
        Cause::CudaContextPoisoned,
        Cause::OutOfVram,
        Cause::OutOfRam,
        Cause::ImportFailures,
        Cause::PortClash,
        Cause::MissingDriver,
        Cause::TorchMismatch,
        Cause::MissingPackage,
        Cause::BadFlag,
        Cause::MissingFile,
        Cause::Database,
        Cause::NativeCrash,
        Cause::StartTimeout,
        Cause::Unresponsive,
        Cause::CanaryFailed,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::DeadPromptThread => "dead_prompt_thread",
            Cause::InterpreterLockHeld => "interpreter_lock_held",
            Cause::NodeHung => "node_hung",
            Cause::NoProgress => "no_progress",
            Cause::CudaContextPoisoned => "cuda_context_poisoned",
            Cause::OutOfVram => "out_of_vram",
            Cause::OutOfRam => "out_of_ram",
            Cause::ImportFailures => "import_failures",
            Cause::PortClash => "port_clash",
            Cause::MissingDriver => "missing_driver",
            Cause::TorchMismatch => "torch_mismatch",
            Cause::MissingPackage => "missing_package",
            Cause::BadFlag => "bad_flag",
            Cause::MissingFile => "missing_file",
            Cause::Database => "database",
            Cause::NativeCrash => "native_crash",
            Cause::StartTimeout => "start_timeout",
            Cause::Unresponsive => "unresponsive",
            Cause::CanaryFailed => "canary_failed",
        }
    }

    /// What it means, in one sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Cause::DeadPromptThread => {
                "the thread that runs prompts has ended; jobs wait for ever although every route answers"
            }
            Cause::InterpreterLockHeld => {
                "it answers nothing: a node holds the interpreter's lock in native code"
            }
            Cause::NodeHung => "a node waits for something that does not come",
            Cause::NoProgress => {
                "it works, but no step or end of the job has been seen for too long"
            }
            Cause::CudaContextPoisoned => "its CUDA context is lost; every later job fails",
            Cause::OutOfVram => "the GPU's memory did not suffice, several times in a row",
            Cause::OutOfRam => "the machine's memory did not suffice",
            Cause::ImportFailures => "node packs could not be imported",
            Cause::PortClash => "another program has its port",
            Cause::MissingDriver => "there is no NVIDIA driver",
            Cause::TorchMismatch => "torch does not fit the driver or the GPU",
            Cause::MissingPackage => "a Python package is missing",
            Cause::BadFlag => {
                "this ComfyUI does not know one of its flags, or two contradict each other"
            }
            Cause::MissingFile => "a file or folder that it was told to use does not exist",
            Cause::Database => "its database cannot be used",
            Cause::NativeCrash => "a native library has crashed",
            Cause::StartTimeout => "it has not come up within its start-up limit",
            Cause::Unresponsive => "it is too busy to answer",
            Cause::CanaryFailed => "it did not complete the canary job",
        }
    }
}

/// Parts of what ComfyUI, torch and Python print, in the order in which they are looked for: the more telling first.
const SAID: &[(&str, Cause)] = &[
    ("Found no NVIDIA driver", Cause::MissingDriver),
    ("Torch not compiled with CUDA", Cause::TorchMismatch),
    ("no kernel image is available", Cause::TorchMismatch),
    (
        "NVIDIA driver on your system is too old",
        Cause::TorchMismatch,
    ),
    ("illegal memory access", Cause::CudaContextPoisoned),
    ("device-side assert", Cause::CudaContextPoisoned),
    ("unspecified launch failure", Cause::CudaContextPoisoned),
    ("misaligned address", Cause::CudaContextPoisoned),
    (
        "illegal instruction was encountered",
        Cause::CudaContextPoisoned,
    ),
    ("uncorrectable ECC error", Cause::CudaContextPoisoned),
    ("GPU has fallen off the bus", Cause::CudaContextPoisoned),
    ("CUDA out of memory", Cause::OutOfVram),
    ("CUDA error: out of memory", Cause::OutOfVram),
    ("OutOfMemoryError", Cause::OutOfVram),
    ("Got an OOM, unloading", Cause::OutOfVram),
    (
        "DefaultCPUAllocator: can't allocate memory",
        Cause::OutOfRam,
    ),
    ("MemoryError", Cause::OutOfRam),
    ("Cannot allocate memory", Cause::OutOfRam),
    ("address already in use", Cause::PortClash),
    ("is already in use on address", Cause::PortClash),
    ("is already taken by", Cause::PortClash),
    ("ASSETS_STARTUP_FAILED", Cause::Database),
    ("No module named", Cause::MissingPackage),
    ("unrecognized arguments", Cause::BadFlag),
    ("not allowed with argument", Cause::BadFlag),
    ("expected one argument", Cause::BadFlag),
    ("invalid choice", Cause::BadFlag),
    ("FileNotFoundError", Cause::MissingFile),
];

/// The cause that a line of output tells, if it tells one.
pub fn told_by(line: &str) -> Option<Cause> {
    let found = SAID.iter().find(|(part, _)| line.contains(part));
    found.map(|(_, cause)| *cause)
}

/// The cause of an end: by what it said last, or by the signal. `lines` are its last ones, oldest first.
pub fn of_exit(signal: Option<i32>, out_of_memory: bool, lines: &[String]) -> Option<Cause> {
    if out_of_memory {
        return Some(Cause::OutOfRam);
    }
    // Signals that the kernel sends for a fault: ILL, TRAP, ABRT, BUS, FPE, SEGV (signal(7)).
    if signal.is_some_and(|signal| [4, 5, 6, 7, 8, 11].contains(&signal)) {
        return Some(Cause::NativeCrash);
    }
    lines.iter().rev().find_map(|line| told_by(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_told_apart() {
        for (line, want) in [
            (
                "OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8188): address already in use",
                Some(Cause::PortClash),
            ),
            (
                "Port 8188 is already in use on address 127.0.0.1",
                Some(Cause::PortClash),
            ),
            (
                "RuntimeError: Found no NVIDIA driver on your system. Please check",
                Some(Cause::MissingDriver),
            ),
            (
                "ModuleNotFoundError: No module named 'requests'",
                Some(Cause::MissingPackage),
            ),
            (
                "main.py: error: unrecognized arguments: --nonsense",
                Some(Cause::BadFlag),
            ),
            (
                "RuntimeError: CUDA error: an illegal memory access was encountered",
                Some(Cause::CudaContextPoisoned),
            ),
            (
                "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB",
                Some(Cause::OutOfVram),
            ),
            (
                "RuntimeError: [enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory",
                Some(Cause::OutOfRam),
            ),
            ("Prompt executed in 0.01 seconds", None),
            ("", None),
        ] {
            assert_eq!(told_by(line), want, "{line}");
        }
    }

    #[test]
    fn an_end_is_named_by_the_killer_the_signal_or_the_last_words() {
        let lines = |text: &str| vec!["Traceback".to_owned(), text.to_owned(), String::new()];
        assert_eq!(of_exit(Some(9), true, &[]), Some(Cause::OutOfRam));
        assert_eq!(of_exit(Some(11), false, &[]), Some(Cause::NativeCrash));
        assert_eq!(of_exit(Some(2), false, &lines("KeyboardInterrupt")), None);
        let said =
            lines("FileNotFoundError: [Errno 2] No such file or directory: '/x/custom_nodes'");
        assert_eq!(of_exit(None, false, &said), Some(Cause::MissingFile));
    }

    #[test]
    fn every_cause_has_its_word_once() {
        let words: std::collections::BTreeSet<&str> =
            Cause::ALL.iter().map(|cause| cause.as_str()).collect();
        assert_eq!(words.len(), Cause::ALL.len());
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
            assert!(!cause.meaning().is_empty());
        }
    }
}
