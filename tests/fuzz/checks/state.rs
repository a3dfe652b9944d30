//! What one daemon hands to the next: entries, one a line, or the one object of schema 1. What can be read can go on: no id and
//! no generation comes twice, every event can be taken.

use fornax::core::exit::ExitCause;
use fornax::core::ids::Generation;
use fornax::core::instance::{Effect, Event, Machine, Policy};
use fornax::core::spec::app::Defaults;
use fornax::core::units::Millis;
use fornax::daemon::state::{Entry, SCHEMA, TableState};
use fornax::daemon::table::Table;
use fornax::daemon::wire;
use serde_json::Value;

const WALL_MS: u64 = 1_767_225_600_000;

pub fn check(data: &[u8]) {
    let lines = data
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    for read in [TableState::from_entries(lines), TableState::from_text(data)] {
        let restored = read.and_then(|state| {
            assert!(state.schema <= SCHEMA);
            let mono = state.mono;
            Ok((Table::restore(state, Defaults::default(), WALL_MS)?, mono))
        });
        match restored {
            Ok((table, mono)) => taken_over(table, mono),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn taken_over(mut table: Table, mono: Millis) {
    written_again(&table);
    let ids: Vec<_> = table.instances.keys().copied().collect();
    for id in &ids {
        let view = table.view(*id).unwrap();
        let mut record = String::new();
        wire::record(&view, &mut record);
        serde_json::from_str::<Value>(&record).unwrap();
    }
    let next = table.take_id();
    assert!(!ids.contains(&next), "{next} is taken");
    let fresh = table.take_generations();
    for instance in table.instances.values_mut() {
        assert!(
            instance.machine.generation < fresh,
            "a generation comes twice"
        );
        goes_on(instance.machine.clone(), &instance.spec.policy, mono);
    }
}

/// What goes on is written by the same daemon later.
fn written_again(table: &Table) {
    let entries = |table: &Table| {
        let mut entries = vec![table.head(7, "mark", 8)];
        for (id, instance) in &table.instances {
            entries.push(Entry::Conf(*id, instance.conf.to_map()));
            entries.push(table.entry(*id));
        }
        entries.iter().map(Entry::to_bytes).collect::<Vec<_>>()
    };
    let first = entries(table);
    let state = TableState::from_entries(first.iter().map(Vec::as_slice)).unwrap();
    let again = Table::restore(state, Defaults::default(), WALL_MS).unwrap();
    assert_eq!(entries(&again), first);
}

/// Its timers, a crash, its restart, and a stop.
fn goes_on(mut machine: Machine, policy: &Policy, now: Millis) {
    machine.timers(policy, now);
    let mut step = |event: fn(Generation) -> Event| {
        let event = event(machine.generation);
        for effect in machine.step(policy, event, now).unwrap() {
            if let Effect::Arm(_, _, at) = effect {
                assert!(at >= now, "a timer of the past: {at:?}");
            }
        }
    };
    let exited = |generation| Event::Exited {
        generation,
        cause: ExitCause::Code(1),
        leftovers: false,
    };
    step(exited);
    step(|_| Event::Restart { deps_met: true });
    for _ in 0..3 {
        step(|generation| Event::Spawned {
            generation,
            pid: 4_000_000,
        });
        step(exited);
        step(|_| Event::Start { deps_met: true });
    }
    step(|_| Event::Restart { deps_met: false });
    step(|_| Event::Stop);
    step(exited);
}
