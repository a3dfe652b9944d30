//! What the keeper holds: descriptors under their keys. It grows in steps and never shrinks; 24 bytes each.

use crate::core::ids::{Generation, PmId};
use crate::core::keeping::{Held, Key};
use std::os::fd::OwnedFd;

/// The most that is held. Four descriptors a run: eight thousand runs.
const MOST: usize = 1 << 15;

/// Owner: the keeper.
#[derive(Debug, Default)]
pub struct Table {
    entries: Vec<(Key, OwnedFd)>,
}

impl Table {
    /// Keeps a descriptor; one of the same name is closed. `false`: the table is full.
    pub fn hold(&mut self, key: Key, fd: OwnedFd) -> bool {
        if let Some(entry) = self.entries.iter_mut().find(|(known, _)| *known == key) {
            entry.1 = fd;
            return true;
        }
        if self.entries.len() >= MOST {
            return false;
        }
        self.entries.push((key, fd));
        true
    }

    /// Closes one.
    pub fn release(&mut self, key: Key) {
        self.entries.retain(|(known, _)| *known != key);
    }

    /// Closes everything of a run.
    pub fn release_run(&mut self, id: PmId, generation: Generation) {
        let of_run = |key: &Key| {
            (key.id, key.generation) == (id, generation)
                && matches!(
                    key.held,
                    Held::Input | Held::Output | Held::Errors | Held::Channel
                )
        };
        self.entries.retain(|(key, _)| !of_run(key));
    }

    /// Everything.
    pub fn entries(&self) -> &[(Key, OwnedFd)] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_name_is_held_once_and_a_run_is_released_as_a_whole() {
        let mut table = Table::default();
        let (id, generation) = (PmId(1), Generation(5));
        for held in [Held::Input, Held::Output, Held::Output, Held::Errors] {
            assert!(table.hold(Key::run(held, id, generation), fd()));
        }
        assert!(table.hold(Key::own(Held::Rpc), fd()));
        assert!(table.hold(Key::run(Held::Output, id, generation.next()), fd()));
        assert_eq!(table.entries().len(), 5);
        table.release_run(id, generation);
        let left: Vec<Held> = table.entries().iter().map(|(key, _)| key.held).collect();
        assert_eq!(left, [Held::Rpc, Held::Output]);
        table.release(Key::own(Held::Rpc));
        assert_eq!(table.entries().len(), 1);
    }
}
