//! The names of keys, fields and states in Redis.

/// The states that end a job.
pub const SETTLED: [&str; 4] = ["done", "failed", "cancelled", "dead"];

/// Keys of one queue: all begin with its prefix, `fornax:` unless told otherwise. With a hash tag in it, as in `{fornax}:`, all of
/// them lie in one slot of a cluster.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Of this prefix.
    pub fn new(prefix: String) -> Self {
        Self { prefix }
    }

    /// The stream of jobs.
    pub fn jobs(&self) -> String {
        format!("{}jobs", self.prefix)
    }

    /// The stream of results: one entry for each job that is settled.
    pub fn results(&self) -> String {
        format!("{}results", self.prefix)
    }

    /// The stream of jobs that nobody takes any more, with the reason.
    pub fn dead(&self) -> String {
        format!("{}dead", self.prefix)
    }

    /// The channel on which each change is told.
    pub fn events(&self) -> String {
        format!("{}events", self.prefix)
    }

    /// The hash of one job: where it is.
    pub fn job(&self, id: &str) -> String {
        format!("{}job:{id}", self.prefix)
    }

    /// The hash of one job's outputs: file name, bytes.
    pub fn outputs(&self, id: &str) -> String {
        format!("{}outputs:{id}", self.prefix)
    }

    /// The machines, by when they were last heard of.
    pub fn machines(&self) -> String {
        format!("{}machines", self.prefix)
    }

    /// The hash of one machine: what is there.
    pub fn machine(&self, name: &str) -> String {
        format!("{}machine:{name}", self.prefix)
    }

    /// What the machine's job store knows a job by. After it was taken back from there, it is another one.
    pub fn idempotency(&self, id: &str, run: u64) -> String {
        match run {
            0 => format!("{}{id}", self.prefix),
            run => format!("{}{id}~{run}", self.prefix),
        }
    }
}
