//! Writing down what has changed, for a daemon that comes after a sudden end of this one (docs/adr/0002).

use super::Daemon;
use crate::core::ids::PmId;
use crate::core::spec::conf::Conf;
use crate::daemon::state::Entry;
use crate::daemon::world::World;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What has been written. Owner: the loop.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// `next_id` and `next_generation`.
    head: Option<(u32, u64)>,
    /// The sum of an instance's last entry, and its configuration.
    apps: HashMap<PmId, (u64, Conf)>,
    /// Roots that may be reaped once their end is written.
    pub(super) ended: Vec<u32>,
}

impl<W: World> Daemon<W> {
    /// Writes what is new of these instances. Before an effect that another daemon must know of, and before an answer.
    pub(super) fn remember(&mut self, ids: impl IntoIterator<Item = PmId>) {
        if !self.world.remembers() {
            return;
        }
        let mut entries = Vec::new();
        let head = (self.table.next_id, self.table.next_generation);
        if self.written.head != Some(head) {
            self.written.head = Some(head);
            entries.push(self.head_entry());
        }
        for id in ids {
            self.note(id, &mut entries);
        }
        if !entries.is_empty() && self.world.remember(&entries) {
            self.remember_all();
        }
    }

    /// What is written no longer is worth keeping: everything again, in a new place.
    pub(super) fn remember_all(&mut self) {
        if !self.world.remembers() {
            return;
        }
        self.written.apps.clear();
        let mut entries = vec![self.head_entry()];
        let ids: Vec<PmId> = self.table.instances.keys().copied().collect();
        for id in ids {
            self.note(id, &mut entries);
        }
        self.world.remember_anew(entries);
    }

    /// The ends that have been written down.
    pub(super) fn reap_ended(&mut self) {
        for pid in std::mem::take(&mut self.written.ended) {
            self.world.reap(pid);
        }
    }

    fn head_entry(&self) -> Vec<u8> {
        self.table
            .head(self.epoch_ms, &self.world.mark(), self.life)
            .to_bytes()
    }

    fn note(&mut self, id: PmId, entries: &mut Vec<Vec<u8>>) {
        let Some(instance) = self.table.instances.get(&id) else {
            if self.written.apps.remove(&id).is_some() {
                entries.push(Entry::Gone(id).to_bytes());
            }
            return;
        };
        let known = self.written.apps.get(&id);
        if known.is_none_or(|(_, conf)| *conf != instance.conf) {
            entries.push(Entry::Conf(id, instance.conf.to_map()).to_bytes());
        }
        let entry = self.table.entry(id).to_bytes();
        let mut hasher = DefaultHasher::new();
        entry.hash(&mut hasher);
        let sum = hasher.finish();
        if known.is_none_or(|(before, _)| *before != sum) {
            entries.push(entry);
        }
        self.written.apps.insert(id, (sum, instance.conf.clone()));
    }
}
