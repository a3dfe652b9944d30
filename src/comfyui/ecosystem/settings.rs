//! From the settings of a machine to what each instance is given.

use super::args::split_words;
use crate::core::machine::{Arguments, Instance, Machine};
use crate::core::spec::cpus::Cpus;
use crate::core::units::Bytes;
use std::collections::BTreeMap;

/// ComfyUI's flag for memory that it leaves to others.
const RESERVE: &str = "--reserve-vram";

/// What one instance is given besides what all have.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InstanceOptions {
    /// GB of its GPU that it leaves to others.
    pub reserve_vram: Option<f64>,
    /// It is restarted above this.
    pub max_memory: Option<Bytes>,
    /// Where it may run.
    pub cpus: Option<Cpus>,
    /// Flags of its own, after everybody's.
    pub args: Vec<String>,
}

impl InstanceOptions {
    fn of(instance: &Instance) -> Self {
        Self {
            reserve_vram: instance.reserve_vram,
            max_memory: instance.max_memory,
            cpus: instance.cpus.clone(),
            args: words(instance.arguments.as_ref()).unwrap_or_default(),
        }
    }

    /// Its flags and those of everybody, in the order in which the last one counts.
    pub(super) fn flags(&self, everybody: &[String]) -> Vec<String> {
        let mut all = everybody.to_vec();
        if let Some(gb) = self.reserve_vram {
            all.extend([RESERVE.to_owned(), gb.to_string()]);
        }
        all.extend(self.args.iter().cloned());
        all
    }
}

/// Flags as words. `None`: a quote is left open.
pub fn words(arguments: Option<&Arguments>) -> Option<Vec<String>> {
    match arguments {
        None => Some(Vec::new()),
        Some(Arguments::List(list)) => Some(list.clone()),
        Some(Arguments::Text(text)) => split_words(text),
    }
}

/// What every instance is given, and what single ones are, by number.
pub fn instance_options(machine: &Machine) -> (InstanceOptions, BTreeMap<u32, InstanceOptions>) {
    let every = machine.every_instance();
    let one = |(number, instance): (&String, &Instance)| {
        let number = number.parse().ok()?;
        Some((number, InstanceOptions::of(&instance.over(&every))))
    };
    let single = machine.instances.iter().filter_map(one).collect();
    (InstanceOptions::of(&every), single)
}

/// Every flag that some instance is given by the operator, to be compared with those that a tree knows.
pub fn all_arguments(machine: &Machine) -> Vec<String> {
    let (every, single) = instance_options(machine);
    let everybody = words(machine.arguments.as_ref()).unwrap_or_default();
    let mut all = every.flags(&everybody);
    all.extend(single.values().flat_map(|one| one.flags(&[])));
    all
}
