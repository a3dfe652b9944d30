//! The text of a table handed over. What can be read can go on: no id or generation comes twice, every event can be taken.

use fornax::core::exit::ExitCause;
use fornax::core::instance::{Effect, Event};
use fornax::core::spec::app::Defaults;
use fornax::core::units::Millis;
use fornax::daemon::state::SCHEMA;
use fornax::daemon::table::Table;
use fornax::daemon::wire;
use serde_json::Value;

const WALL_MS: u64 = 1_760_000_000_000;

pub fn check(data: &[u8]) {
    let (mut table, mono) = match Table::from_state(data, Defaults::default(), WALL_MS) {
        Ok(read) => read,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    written_again(&table, mono);
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

fn written_again(table: &Table, mono: Millis) {
    let state = table.to_state(mono);
    assert_eq!(state.schema, SCHEMA);
    let text = serde_json::to_vec(&state).unwrap();
    let (again, mono) = Table::from_state(&text, Defaults::default(), WALL_MS).unwrap();
    assert_eq!(again.to_state(mono), state);
}

/// A crash, its restart, and a stop.
fn goes_on(
    mut machine: fornax::core::instance::Machine,
    policy: &fornax::core::instance::Policy,
    now: Millis,
) {
    let mut step = |event: fn(fornax::core::ids::Generation) -> Event| {
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
