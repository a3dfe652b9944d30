//! What a pull tells while it runs.

/// A step of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Its bytes are about to come.
    Begin {
        /// What is there of it already.
        have: u64,
        /// All of it, if known.
        total: Option<u64>,
    },
    /// Some have come. At most ten times a second for a file.
    Bytes {
        /// What is there.
        have: u64,
        /// All of it, if known.
        total: Option<u64>,
    },
    /// It has come whole and is checked, or a part that was there is read again.
    Checking,
    /// It will be tried again.
    Again {
        /// Why.
        why: String,
        /// After how long, in milliseconds.
        wait_ms: u64,
    },
    /// Another process loads it.
    Waiting {
        /// Which one, if known.
        pid: Option<u32>,
    },
    /// It is done.
    End(Outcome),
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was there.
    There,
    /// It was loaded: so many bytes in this run, and all of it.
    Loaded {
        /// Bytes that came in this run.
        bytes: u64,
        /// Bytes of the file.
        size: u64,
    },
    /// Another file of the workspace is the same: it has a second name now.
    Linked {
        /// That file, below the models folder.
        to: String,
    },
    /// It is not there.
    Failed {
        /// Why, and how to mend it.
        why: String,
    },
}

/// Who hears of steps: the file's path below the models folder, and the step. Called from several threads.
pub type Listener<'a> = dyn Fn(&str, Step) + Sync + 'a;
