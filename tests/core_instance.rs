//! The state machine of one instance, by random histories: whatever happens in whatever order, these rules hold.

use fornax::core::exit::ExitCause;
use fornax::core::ids::Generation;
use fornax::core::instance::{
    Effect, Event, FailReason, IdleReason, Machine, Policy, Run, State, Timer,
};
use fornax::core::restart::RestartPolicy;
use fornax::core::signal::Signal;
use fornax::core::spec::fornax::{RestartBudget, StopStep};
use fornax::core::status::Status;
use fornax::core::units::Millis;
use proptest::prelude::*;

/// What may happen, told without generations: the world below knows which one is meant.
#[derive(Debug, Clone)]
enum Op {
    Start(bool),
    Stop,
    Restart(bool),
    DependenciesMet,
    SpawnAnswered(bool),
    Ready,
    Exit { code: i32, leftovers: bool },
    TreeEmpty,
    EarliestTimer,
    Wait(u64),
    Late(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => any::<bool>().prop_map(Op::Start),
        2 => Just(Op::Stop),
        3 => any::<bool>().prop_map(Op::Restart),
        2 => Just(Op::DependenciesMet),
        6 => prop::bool::weighted(0.9).prop_map(Op::SpawnAnswered),
        2 => Just(Op::Ready),
        5 => (0..3_i32, any::<bool>()).prop_map(|(code, leftovers)| Op::Exit { code, leftovers }),
        4 => Just(Op::TreeEmpty),
        6 => Just(Op::EarliestTimer),
        2 => (0..5_000_u64).prop_map(Op::Wait),
        2 => (0..6_u8).prop_map(Op::Late),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let restart = (
        any::<bool>(),
        1..5_u32,
        prop::option::of(0..3_000_u64),
        prop::option::of(1..200_u64),
        prop::option::of(1..4_u32),
    );
    let stop = (0..3_usize, prop::bool::weighted(0.7), any::<bool>());
    (restart, stop, any::<bool>()).prop_map(
        |((autorestart, max_restarts, delay, backoff, budget), stop, wait_ready)| Policy {
            treekill: stop.1,
            by_message: stop.2,
            restart: RestartPolicy {
                autorestart,
                max_restarts,
                restart_delay: delay.map(Millis),
                exp_backoff: backoff.map(Millis),
                stop_exit_codes: vec![2],
                budget: budget.map(|max| RestartBudget {
                    max,
                    window: Millis(10_000),
                }),
                ..RestartPolicy::default()
            },
            ladder: [Signal::INT, Signal::TERM, Signal(1)][..stop.0]
                .iter()
                .map(|signal| StopStep {
                    signal: *signal,
                    wait: Millis(500),
                })
                .collect(),
            wait_ready,
            listen_timeout: Millis(3_000),
            worker: false,
        },
    )
}

/// The world as it would really be: at most one spawn under way or run alive, and the timers that were asked for.
struct World {
    machine: Machine,
    policy: Policy,
    now: u64,
    spawning: Option<Generation>,
    /// A run whose root lives.
    root: Option<Generation>,
    /// A run whose root has gone and whose descendants live.
    leftovers: Option<Generation>,
    /// The same without treekill, when they are nobody's business.
    abandoned: Option<Generation>,
    timers: Vec<(Generation, Timer, Millis)>,
    wanted: bool,
}

impl World {
    fn new(policy: Policy) -> Self {
        Self {
            machine: Machine::new(IdleReason::NotStarted, Generation(1 << 32), Millis(0)),
            policy,
            now: 0,
            spawning: None,
            root: None,
            leftovers: None,
            abandoned: None,
            timers: Vec::new(),
            wanted: false,
        }
    }

    fn lives(&self) -> bool {
        self.spawning.is_some() || self.root.is_some() || self.leftovers.is_some()
    }

    /// Feeds one event and holds every effect against the world.
    fn feed(&mut self, event: Event) -> Vec<Effect> {
        let effects = self
            .machine
            .step(&self.policy, event.clone(), Millis(self.now))
            .unwrap_or_default();
        for effect in &effects {
            match effect {
                Effect::Spawn(generation) => {
                    assert!(!self.lives(), "{event:?} gave a second live generation");
                    assert!(self.wanted, "{event:?} started what nobody wants");
                    assert_eq!(*generation, self.machine.generation);
                    self.spawning = Some(*generation);
                }
                Effect::Disconnect(_) => {}
                Effect::SignalTree(generation, _) => {
                    assert_eq!(Some(*generation), self.root.or(self.leftovers));
                }
                Effect::SignalRoot(generation, _) => {
                    assert!(!self.policy.treekill);
                    assert_eq!(Some(*generation), self.root, "a root that has gone");
                }
                Effect::AskToStop(generation, _) => {
                    assert!(self.policy.by_message);
                    assert_eq!(Some(*generation), self.root, "a root that has gone");
                }
                Effect::Arm(generation, timer, at) => {
                    assert!(*at >= Millis(self.now));
                    self.timers.push((*generation, *timer, *at));
                }
                Effect::Announce(_) => {}
            }
        }
        self.hold();
        effects
    }

    /// What must be so in every state.
    fn hold(&self) {
        let state = &self.machine.state;
        match self.machine.status() {
            Status::Stopped | Status::WaitingRestart => {
                assert!(!self.lives(), "{state:?} while something lives");
            }
            Status::Online => assert!(self.root.is_some(), "{state:?} without a process"),
            _ => {}
        }
        assert_eq!(self.machine.run().is_some(), self.root.is_some());
        if matches!(state, State::Failed(reason) if !matches!(reason, FailReason::CannotBeKilled(_)))
        {
            assert!(!self.lives(), "{state:?} while something lives");
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Start(deps_met) => {
                self.wanted = true;
                self.feed(Event::Start {
                    deps_met: *deps_met,
                });
            }
            Op::Restart(deps_met) => {
                self.wanted = true;
                self.feed(Event::Restart {
                    deps_met: *deps_met,
                });
            }
            Op::Stop => {
                self.wanted = false;
                self.feed(Event::Stop);
            }
            Op::DependenciesMet => drop(self.feed(Event::DependenciesMet)),
            Op::SpawnAnswered(success) => self.answer_spawn(*success),
            Op::Ready => {
                if let Some(generation) = self.root {
                    self.feed(Event::Ready { generation });
                }
            }
            Op::Exit { code, leftovers } => self.exit(*code, *leftovers),
            Op::TreeEmpty => self.empty_tree(),
            Op::EarliestTimer => self.fire(),
            Op::Wait(millis) => self.now += millis,
            Op::Late(kind) => self.late(*kind),
        }
    }

    fn answer_spawn(&mut self, success: bool) {
        let Some(generation) = self.spawning.take() else {
            return;
        };
        if success {
            self.root = Some(generation);
            self.feed(Event::Spawned {
                generation,
                pid: 77,
            });
        } else {
            self.feed(Event::SpawnFailed {
                generation,
                reason: "no such file".to_owned(),
                not_installed: false,
            });
        }
    }

    fn exit(&mut self, code: i32, leftovers: bool) {
        let Some(generation) = self.root.take() else {
            return;
        };
        if self.policy.treekill {
            self.leftovers = leftovers.then_some(generation);
        } else {
            self.abandoned = leftovers.then_some(generation);
        }
        self.feed(Event::Exited {
            generation,
            cause: ExitCause::Code(code),
            leftovers,
        });
    }

    fn empty_tree(&mut self) {
        if let Some(generation) = self.leftovers.take().or_else(|| self.abandoned.take()) {
            self.feed(Event::TreeEmpty { generation });
        }
    }

    fn fire(&mut self) {
        let earliest = (0..self.timers.len()).min_by_key(|at| self.timers[*at].2);
        if let Some(at) = earliest {
            let (generation, kind, when) = self.timers.remove(at);
            self.now = self.now.max(when.0);
            self.feed(Event::Timer { generation, kind });
        }
    }

    /// Something of a past run: it must change nothing.
    fn late(&mut self, kind: u8) {
        let generation = Generation(self.machine.generation.0 - 1);
        let event = match kind {
            0 => Event::Timer {
                generation,
                kind: Timer::Backoff,
            },
            1 => Event::Timer {
                generation,
                kind: Timer::Rung(0),
            },
            2 => Event::Exited {
                generation,
                cause: ExitCause::Code(1),
                leftovers: false,
            },
            3 => Event::Spawned { generation, pid: 5 },
            4 => Event::TreeEmpty { generation },
            _ => Event::Ready { generation },
        };
        let before = self.machine.clone();
        let effects = self
            .machine
            .step(&self.policy, event.clone(), Millis(self.now));
        assert_eq!(effects, None, "{event:?} of a past run was taken");
        assert_eq!(self.machine, before);
    }

    /// Everything that is under way comes to its end: every process dies of the next signal.
    fn calm(&mut self) {
        for _ in 0..1_000 {
            if self.spawning.is_some() {
                self.answer_spawn(true);
            } else if self.root.is_some() {
                self.exit(0, false);
            } else if self.leftovers.is_some() {
                self.empty_tree();
            } else {
                return;
            }
        }
        panic!("it never comes to rest");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_history_gives_two_live_generations_or_starts_the_unwanted(policy in policy(), ops in prop::collection::vec(op(), 1..80)) {
        let mut world = World::new(policy);
        for op in &ops {
            world.apply(op);
        }
    }

    #[test]
    fn a_stop_ends_in_idle_or_failed_once_all_is_delivered(policy in policy(), ops in prop::collection::vec(op(), 0..60)) {
        let mut world = World::new(policy);
        for op in ops.iter().chain([&Op::Stop]) {
            world.apply(op);
        }
        world.calm();
        prop_assert!(world.machine.stop_settled(), "{:?}", world.machine.state);
        prop_assert!(!world.machine.wanted);
        let spawned = world.timers.clone().into_iter().any(|(generation, kind, _)| {
            world.feed(Event::Timer { generation, kind }).iter().any(|effect| matches!(effect, Effect::Spawn(_)))
        });
        prop_assert!(!spawned);
    }

    #[test]
    fn a_stop_whose_signals_are_all_ignored_fails_after_the_ladder_and_the_kills(policy in policy()) {
        let rungs = policy.ladder.len() + fornax::core::stop::KILL_TRIES;
        let mut world = World::new(policy);
        for op in [Op::Start(true), Op::SpawnAnswered(true), Op::Stop] {
            world.apply(&op);
        }
        for _ in 0..rungs {
            let rung = world.timers.iter().position(|(_, kind, _)| matches!(kind, Timer::Rung(_))).unwrap();
            let (generation, kind, at) = world.timers.remove(rung);
            world.now = at.0;
            world.feed(Event::Timer { generation, kind });
        }
        let stuck = matches!(world.machine.state, State::Failed(FailReason::CannotBeKilled(_)));
        prop_assert!(stuck, "{:?}", world.machine.state);
        // Nothing new beside what could not be killed; once it goes, what is wanted comes.
        world.apply(&Op::Start(true));
        prop_assert_eq!(world.machine.status(), Status::Stopping);
        world.exit(0, true);
        world.empty_tree();
        prop_assert_eq!(&world.machine.state, &State::Spawning);
    }

    #[test]
    fn a_restart_during_a_stop_ends_online(policy in policy(), leftovers in any::<bool>(), early in any::<bool>(), crashed in any::<bool>()) {
        let mut world = World::new(policy);
        world.apply(&Op::Start(true));
        world.apply(&Op::SpawnAnswered(true));
        if crashed {
            // What it leaves behind is being ended when the person comes.
            world.apply(&Op::Exit { code: 1, leftovers: true });
        } else {
            world.apply(&Op::Stop);
        }
        if early {
            world.apply(&Op::Restart(true));
        }
        world.apply(&Op::Exit { code: 0, leftovers });
        if !early && world.leftovers.is_none() {
            world.apply(&Op::Restart(true));
        }
        world.apply(&Op::Restart(true));
        if world.leftovers.is_some() {
            world.apply(&Op::TreeEmpty);
        }
        world.apply(&Op::SpawnAnswered(true));
        if world.root.is_none() {
            // The second wish was for a run that had just been launched.
            world.apply(&Op::SpawnAnswered(true));
        }
        if world.machine.status() == Status::Stopping {
            world.apply(&Op::Exit { code: 0, leftovers: false });
            world.apply(&Op::SpawnAnswered(true));
        }
        world.apply(&Op::Ready);
        prop_assert_eq!(world.machine.status(), Status::Online);
    }
}

fn waiting_for_ready() -> World {
    let mut world = World::new(Policy {
        restart: RestartPolicy::default(),
        ladder: fornax::core::stop::pm2_ladder(Signal::INT, None),
        treekill: true,
        by_message: false,
        wait_ready: true,
        listen_timeout: Millis(3_000),
        worker: false,
    });
    world.apply(&Op::Start(true));
    world
}

/// Quirk 44 of pm2 7.0.4: there, the app ends online.
#[test]
fn a_stop_while_it_launches_wins_over_its_readiness() {
    let mut world = waiting_for_ready();
    world.apply(&Op::SpawnAnswered(true));
    assert_eq!(world.machine.status(), Status::Launching);
    world.apply(&Op::Stop);
    world.apply(&Op::Ready);
    world.apply(&Op::EarliestTimer);
    assert_eq!(world.machine.status(), Status::Stopping);
    world.apply(&Op::Exit {
        code: 1,
        leftovers: false,
    });
    while !world.timers.is_empty() {
        world.apply(&Op::EarliestTimer);
    }
    assert_eq!(world.machine.state, State::Idle(IdleReason::Asked));
}

#[test]
fn a_stop_before_the_spawn_is_answered_ends_the_run_as_soon_as_it_is_there() {
    let mut world = waiting_for_ready();
    world.apply(&Op::Stop);
    let generation = world.machine.generation;
    world.spawning = None;
    world.root = Some(generation);
    let effects = world.feed(Event::Spawned {
        generation,
        pid: 77,
    });
    assert_eq!(
        effects.first(),
        Some(&Effect::SignalTree(generation, Signal::INT))
    );
    assert_eq!(
        world.machine.run(),
        Some(Run {
            pid: 77,
            since: Millis(0)
        })
    );
}

#[test]
fn a_worker_that_has_left_its_servers_is_asked_by_signal_and_not_by_message() {
    let mut world = waiting_for_ready();
    world.policy.by_message = true;
    world.policy.worker = true;
    world.apply(&Op::SpawnAnswered(true));
    world.apply(&Op::Ready);
    let generation = world.machine.generation;
    let effects = world.feed(Event::Retire);
    assert!(
        effects.contains(&Effect::Disconnect(generation)),
        "{effects:?}"
    );
    // Its channel is closed by then.
    let effects = world.feed(Event::Timer {
        generation,
        kind: Timer::Leave,
    });
    assert!(
        effects.contains(&Effect::SignalTree(generation, Signal::INT)),
        "{effects:?}"
    );
}

#[test]
fn an_app_that_never_says_ready_is_online_after_its_listen_timeout() {
    let mut world = waiting_for_ready();
    world.apply(&Op::SpawnAnswered(true));
    world.apply(&Op::EarliestTimer);
    assert_eq!((world.machine.status(), world.now), (Status::Online, 3_000));
}

#[test]
fn a_handover_keeps_every_state_word_for_word() {
    let mut world = waiting_for_ready();
    for op in [
        Op::SpawnAnswered(true),
        Op::Ready,
        Op::Stop,
        Op::Exit {
            code: 3,
            leftovers: true,
        },
    ] {
        let text = serde_json::to_string(&world.machine).unwrap();
        assert_eq!(
            serde_json::from_str::<Machine>(&text).unwrap(),
            world.machine
        );
        world.apply(&op);
    }
}

#[test]
fn a_wait_without_end_is_not_over_at_once() {
    let policy = Policy {
        worker: false,
        restart: RestartPolicy {
            exp_backoff: Some(Millis(u64::MAX)),
            max_restarts: 1_000,
            ..RestartPolicy::default()
        },
        ladder: vec![StopStep {
            signal: Signal::INT,
            wait: Millis(u64::MAX),
        }],
        treekill: true,
        by_message: false,
        wait_ready: true,
        listen_timeout: Millis(u64::MAX),
    };
    let now = Millis(5_000);
    let mut machine = Machine::new(IdleReason::NotStarted, Generation::default(), now);
    let arms = |effects: Option<Vec<Effect>>| {
        let at = |effect: &Effect| match effect {
            Effect::Arm(_, _, at) => Some(*at),
            _ => None,
        };
        effects.unwrap().iter().filter_map(at).collect::<Vec<_>>()
    };
    let run = |machine: &mut Machine, event: fn(Generation) -> Event| {
        let event = event(machine.generation);
        arms(machine.step(&policy, event, now))
    };
    let never = [Millis(u64::MAX)];
    run(&mut machine, |_| Event::Start { deps_met: true });
    let spawned = |generation| Event::Spawned {
        generation,
        pid: 4_711,
    };
    assert_eq!(run(&mut machine, spawned), never);
    let crashed = |generation| Event::Exited {
        generation,
        cause: ExitCause::Code(1),
        leftovers: false,
    };
    assert_eq!(run(&mut machine, crashed), never);
    run(&mut machine, |_| Event::Start { deps_met: true });
    run(&mut machine, spawned);
    assert_eq!(run(&mut machine, |_| Event::Stop), never);
}
