//! What may differ between the instances of a machine: memory, processors, flags.

use super::settings::Arguments;
use crate::core::spec::cpus::Cpus;
use crate::core::spec::issue::SpecIssue;
use crate::core::units::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most memory that may be kept back on a card, in GB.
const MOST_VRAM: f64 = 1_024.0;
/// The least memory after which an instance is restarted: importing torch takes more than half of it.
const LEAST_MEMORY: Bytes = Bytes(1 << 30);
/// The highest number of an instance: its port is the base port plus it.
const MOST: u32 = 65_534;

/// Settings of one instance, over those of the machine. Unknown keys are errors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Instance {
    /// Memory of its GPU that it leaves to others, in GB: ComfyUI's `--reserve-vram`. 0 to 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve_vram: Option<f64>,
    /// It is restarted when its processes hold more memory than this: a number of bytes, or `24G`. 1G or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<Bytes>,
    /// The processors it may run on: a list such as `0-7,16-23`, or `auto` for those of its GPU's NUMA node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    /// Flags for it, after those of the machine: a list, or one text that is split as a shell does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Arguments>,
}

impl Instance {
    /// What is well formed and cannot work; `at` is its place in the file.
    pub(super) fn senseless(&self, at: &str) -> Vec<SpecIssue> {
        let mut issues = Vec::new();
        if self
            .reserve_vram
            .is_some_and(|gb| !(0.0..=MOST_VRAM).contains(&gb))
        {
            issues.push(SpecIssue::new(
                format!("{at}/reserve_vram"),
                "is out of range",
                "write GB, 0 to 1024, such as 1.5",
            ));
        }
        if self.max_memory.is_some_and(|bytes| bytes < LEAST_MEMORY) {
            issues.push(SpecIssue::new(
                format!("{at}/max_memory"),
                "is less than an idle ComfyUI holds, which would be restarted for ever",
                "write 1G or more",
            ));
        }
        issues
    }

    /// These settings where they are given, else those of `other`; the flags of both, the other's first, are not joined here.
    pub fn over(&self, other: &Self) -> Self {
        Self {
            reserve_vram: self.reserve_vram.or(other.reserve_vram),
            max_memory: self.max_memory.or(other.max_memory),
            cpus: self.cpus.clone().or_else(|| other.cpus.clone()),
            arguments: self.arguments.clone(),
        }
    }
}

/// What is wrong with settings by the number of the instance.
pub(super) fn senseless(all: &BTreeMap<String, Instance>) -> Vec<SpecIssue> {
    let one = |(number, instance): (&String, &Instance)| {
        let at = format!("/instances/{number}");
        let mut issues = instance.senseless(&at);
        let plain = number
            .parse::<u32>()
            .ok()
            .filter(|n| *n <= MOST && n.to_string() == *number);
        if plain.is_none() {
            issues.push(SpecIssue::new(
                at,
                format!("{number:?} is no number of an instance"),
                "write the index of its GPU, or its number on the processor: \"0\"",
            ));
        }
        issues
    };
    all.iter().flat_map(one).collect()
}
