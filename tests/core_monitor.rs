//! The monitor of a ComfyUI against scripts of what can be seen of it, look by look.

#![allow(clippy::unwrap_used)]

use fornax::core::monitor::cause::Cause;
use fornax::core::monitor::cures::Cure;
use fornax::core::monitor::facts::{Activity, Answer, Carried, Effect, Event, Look, Note};
use fornax::core::monitor::lines::{Phase, Told};
use fornax::core::monitor::machine::Monitor;
use fornax::core::monitor::signs::Sign;
use fornax::core::probe::Verdict;
use fornax::core::spec::monitor::Monitor as Settings;
use fornax::core::units::Millis;
use proptest::prelude::*;

/// A monitor and its clock; every look is one period after the last.
struct Seen {
    monitor: Monitor,
    settings: Settings,
    now: Millis,
    effects: Vec<(Millis, Effect)>,
}

impl Seen {
    fn new(settings: Settings) -> Self {
        let carried = Carried::new(&settings);
        Self::after(settings, carried)
    }

    fn after(settings: Settings, carried: Carried) -> Self {
        let start = Millis::from_secs(600);
        Self {
            monitor: Monitor::new(settings, start, carried, false, Millis(0)),
            settings,
            now: Millis(0),
            effects: Vec::new(),
        }
    }

    /// Up, with its first canary passed.
    fn up(settings: Settings) -> Self {
        let mut seen = Self::new(settings);
        seen.look(Answer::Queue(0), Sign::Works);
        assert_eq!(seen.verdict(), Verdict::Healthy);
        seen.event(Event::CanaryPassed);
        seen
    }

    fn look(&mut self, answer: Answer, sign: Sign) {
        self.look_at(answer, sign, None);
    }

    fn look_at(&mut self, answer: Answer, sign: Sign, thread_gone: Option<bool>) {
        self.now = self.now.plus(self.settings.period);
        let look = Look {
            answer,
            sign,
            thread_gone,
        };
        let effects = self.monitor.look(look, self.now);
        let now = self.now;
        self.effects
            .extend(effects.into_iter().map(|effect| (now, effect)));
    }

    fn looks(&mut self, for_: Millis, answer: Answer, sign: Sign) {
        let until = self.now.plus(for_);
        while self.now < until {
            self.look(answer, sign);
        }
    }

    fn event(&mut self, event: Event) {
        let effects = self.monitor.event(event, self.now);
        let now = self.now;
        self.effects
            .extend(effects.into_iter().map(|effect| (now, effect)));
    }

    fn verdict(&self) -> Verdict {
        self.monitor.diagnosis().verdict
    }

    fn cures(&self) -> Vec<(Millis, Cure, Cause)> {
        let cure = |(at, effect): &(Millis, Effect)| match effect {
            Effect::Cure(cure, cause) => Some((*at, *cure, *cause)),
            Effect::Canary | Effect::Note(_) => None,
        };
        self.effects.iter().filter_map(cure).collect()
    }

    fn noted(&self, wanted: &Note) -> bool {
        self.effects
            .iter()
            .any(|(_, effect)| *effect == Effect::Note(wanted.clone()))
    }
}

#[test]
fn it_is_starting_with_its_phase_and_healthy_with_its_first_answer() {
    let mut seen = Seen::new(Settings::default());
    seen.look(Answer::Refused, Sign::Works);
    assert_eq!(seen.verdict(), Verdict::Starting);
    seen.event(Event::Told(Told::Phase(Phase::Nodes)));
    assert!(
        seen.monitor
            .diagnosis()
            .message
            .contains("node packs are imported")
    );
    assert_eq!(seen.monitor.activity().as_str(), "starting");
    seen.look(Answer::Queue(0), Sign::Works);
    assert_eq!(seen.verdict(), Verdict::Healthy);
    assert!(seen.noted(&Note::Up(Millis::from_secs(10))));
    assert!(
        matches!(seen.effects.last(), Some((_, Effect::Canary))),
        "it is proven at once"
    );
}

#[test]
fn a_start_that_never_ends_is_told_and_not_cured() {
    let mut seen = Seen::new(Settings::default());
    seen.looks(Millis::from_secs(700), Answer::Refused, Sign::Works);
    let told = seen.monitor.diagnosis();
    assert_eq!(
        (told.verdict, told.cause),
        (Verdict::Unhealthy, Some(Cause::StartTimeout))
    );
    assert!(seen.cures().is_empty());
    seen.look(Answer::Queue(0), Sign::Works);
    assert_eq!(
        seen.verdict(),
        Verdict::Healthy,
        "late is better than never"
    );
}

#[test]
fn a_node_that_waits_for_ever_is_found_within_two_looks_past_the_limit_interrupted_and_restarted() {
    let mut seen = Seen::up(Settings::default());
    seen.look(Answer::Queue(1), Sign::Works);
    let (begun, limit) = (seen.now, seen.settings.stall);
    seen.looks(Millis::from_secs(300), Answer::Queue(1), Sign::None);
    let cures = seen.cures();
    let late = cures[0].0.0 - begun.0 - limit.0;
    assert!(late <= 2 * seen.settings.period.0, "{late} ms");
    let kinds: Vec<_> = cures
        .iter()
        .map(|(_, cure, cause)| (*cure, *cause))
        .collect();
    assert_eq!(
        kinds,
        [
            (Cure::Interrupt, Cause::NodeHung),
            (Cure::Restart, Cause::NodeHung)
        ]
    );
    assert_eq!(seen.verdict(), Verdict::Dead);
}

#[test]
fn an_interrupt_that_helps_is_the_only_cure() {
    let mut seen = Seen::up(Settings::default());
    seen.looks(Millis::from_secs(130), Answer::Queue(1), Sign::None);
    assert_eq!(seen.cures().len(), 1);
    seen.look(Answer::Queue(0), Sign::Works);
    assert!(seen.noted(&Note::Cured(Cause::NodeHung, Some(Cure::Interrupt))));
    seen.looks(Millis::from_secs(300), Answer::Queue(0), Sign::None);
    assert_eq!(seen.cures().len(), 1);
    assert_eq!(seen.verdict(), Verdict::Healthy);
}

#[test]
fn a_dead_prompt_thread_that_is_known_is_found_at_once_and_only_restarted() {
    let mut seen = Seen::up(Settings::default());
    seen.look_at(Answer::Queue(1), Sign::Works, Some(true));
    assert_eq!(
        seen.cures(),
        [(seen.now, Cure::Restart, Cause::DeadPromptThread)]
    );
    let mut idle = Seen::up(Settings::default());
    idle.look_at(Answer::Queue(0), Sign::None, Some(false));
    assert_eq!(
        idle.verdict(),
        Verdict::Healthy,
        "a thread of a node pack may end"
    );
}

#[test]
fn one_that_answers_nothing_and_does_nothing_has_its_lock_held() {
    let mut seen = Seen::up(Settings::default());
    seen.look(Answer::Queue(1), Sign::Works);
    seen.looks(Millis::from_secs(15), Answer::Late, Sign::None);
    let told = seen.monitor.diagnosis();
    assert_eq!(
        (told.verdict, told.cause),
        (Verdict::Unhealthy, Some(Cause::Unresponsive))
    );
    assert!(seen.cures().is_empty());
    seen.looks(Millis::from_secs(120), Answer::Late, Sign::None);
    let kinds: Vec<_> = seen
        .cures()
        .iter()
        .map(|(_, cure, cause)| (*cure, *cause))
        .collect();
    assert_eq!(kinds, [(Cure::Restart, Cause::InterpreterLockHeld)]);
}

#[test]
fn one_that_loads_for_minutes_without_an_answer_is_told_and_let_be() {
    let mut seen = Seen::up(Settings::default());
    seen.look(Answer::Queue(1), Sign::Works);
    seen.looks(Millis::from_secs(540), Answer::Late, Sign::Works);
    assert!(seen.cures().is_empty());
    seen.look(Answer::Queue(1), Sign::Works);
    assert_eq!(seen.verdict(), Verdict::Healthy);
}

#[test]
fn a_manager_that_starts_it_anew_in_place_makes_it_starting_not_hung() {
    for form in [0, 1, 2] {
        let mut seen = Seen::up(Settings::default());
        match form {
            0 => seen.event(Event::Told(Told::Reboot)),
            1 => seen.event(Event::Told(Told::Phase(Phase::Core))),
            _ => seen.look(Answer::Refused, Sign::Works),
        }
        assert_eq!(seen.verdict(), Verdict::Starting, "{form}");
        seen.looks(Millis::from_secs(200), Answer::Refused, Sign::Works);
        assert_eq!(seen.verdict(), Verdict::Starting, "{form}");
        assert!(
            seen.monitor
                .diagnosis()
                .message
                .starts_with("starting anew")
        );
        seen.look(Answer::Queue(0), Sign::Works);
        assert_eq!(seen.verdict(), Verdict::Healthy, "{form}");
        assert!(seen.cures().is_empty());
    }
}

#[test]
fn a_lost_cuda_context_is_restarted_and_want_of_memory_only_when_it_stays() {
    let mut lost = Seen::up(Settings::default());
    lost.event(Event::Told(Told::Trouble(Cause::CudaContextPoisoned)));
    assert_eq!(
        lost.cures(),
        [(lost.now, Cure::Restart, Cause::CudaContextPoisoned)]
    );

    let mut small = Seen::up(Settings::default());
    let job = |seen: &mut Seen, trouble: Option<Cause>| {
        seen.event(Event::Told(Told::GotPrompt));
        if let Some(cause) = trouble {
            // It is told in three lines or so.
            seen.event(Event::Told(Told::Trouble(cause)));
            seen.event(Event::Told(Told::Trouble(cause)));
        }
        seen.event(Event::Told(Told::Executed));
        seen.look(Answer::Queue(0), Sign::Works);
    };
    for _ in 0..5 {
        job(&mut small, Some(Cause::OutOfVram));
        job(&mut small, None);
    }
    assert!(small.cures().is_empty(), "one job in two was too large");
    assert!(small.noted(&Note::Job(Cause::OutOfVram)));
    job(&mut small, Some(Cause::OutOfVram));
    job(&mut small, Some(Cause::OutOfVram));
    assert_eq!(small.verdict(), Verdict::Unhealthy);
    job(&mut small, Some(Cause::OutOfVram));
    let kinds: Vec<_> = small.cures().iter().map(|(_, cure, _)| *cure).collect();
    assert_eq!(kinds, [Cure::Free, Cure::Restart]);
}

#[test]
fn free_that_helps_ends_the_want_of_memory() {
    let mut seen = Seen::up(Settings::default());
    for _ in 0..2 {
        seen.event(Event::Told(Told::GotPrompt));
        seen.event(Event::Told(Told::Trouble(Cause::OutOfVram)));
        seen.event(Event::Told(Told::Executed));
    }
    seen.event(Event::Told(Told::GotPrompt));
    seen.event(Event::Told(Told::Executed));
    assert!(seen.noted(&Note::Cured(Cause::OutOfVram, Some(Cure::Free))));
    assert_eq!(seen.verdict(), Verdict::Healthy);
}

#[test]
fn past_its_budget_it_is_told_as_given_up_and_left_alone() {
    let settings = Settings {
        restarts: 1,
        ..Settings::default()
    };
    let mut first = Seen::up(settings);
    first.event(Event::Told(Told::Trouble(Cause::CudaContextPoisoned)));
    let mut second = Seen::after(settings, first.monitor.carried());
    second.look(Answer::Queue(0), Sign::Works);
    second.event(Event::CanaryPassed);
    second.event(Event::Told(Told::Trouble(Cause::CudaContextPoisoned)));
    second.looks(Millis::from_secs(600), Answer::Queue(0), Sign::None);
    assert!(second.cures().is_empty());
    let told = second.monitor.diagnosis();
    assert_eq!(told.verdict, Verdict::Unhealthy);
    assert!(
        told.message.contains("a person must act"),
        "{}",
        told.message
    );
    let given_up = second
        .effects
        .iter()
        .filter(|(_, effect)| matches!(effect, Effect::Note(Note::GivenUp(..))));
    assert_eq!(given_up.count(), 1);
}

#[test]
fn a_canary_that_does_not_end_finds_a_hang_that_no_job_has_shown() {
    let mut seen = Seen::up(Settings::default());
    seen.event(Event::CanaryLost);
    assert_eq!(seen.verdict(), Verdict::Unhealthy);
    assert_eq!(seen.cures()[0].1, Cure::Interrupt);
    let mut broken = Seen::up(Settings::default());
    broken.event(Event::CanaryFailed("no space left on device".into()));
    assert_eq!(broken.verdict(), Verdict::Healthy, "once may be chance");
    broken.event(Event::CanaryFailed("no space left on device".into()));
    assert!(broken.monitor.diagnosis().message.contains("no space left"));
    assert!(broken.cures().is_empty(), "a restart frees no disk");
    broken.event(Event::CanaryPassed);
    assert_eq!(broken.verdict(), Verdict::Healthy);
}

#[test]
fn a_sampler_that_stops_making_steps_is_found_long_before_a_load_would_be() {
    let mut seen = Seen::up(Settings::default());
    for step in 1..=10 {
        seen.look(Answer::Queue(1), Sign::Works);
        seen.event(Event::Progress(Some((step, 20))));
    }
    assert_eq!(seen.monitor.activity(), Activity::Sampling);
    let last = seen.now;
    seen.looks(Millis::from_secs(1_000), Answer::Queue(1), Sign::Works);
    let found = seen.cures()[0];
    assert_eq!(found.2, Cause::NoProgress);
    assert!(found.0.0 - last.0 < 200_000, "{}", found.0.0 - last.0);

    let mut through = Seen::up(Settings::default());
    for step in 1..=20 {
        through.look(Answer::Queue(1), Sign::Works);
        through.event(Event::Progress(Some((step, 20))));
    }
    through.looks(Millis::from_secs(1_000), Answer::Queue(1), Sign::Works);
    assert!(through.cures().is_empty(), "its pictures are being decoded");
}

/// What a job that goes on may show for a while: a kind of sign, and for how long.
fn living() -> impl Strategy<Value = (Sign, u64, bool)> {
    prop_oneof![
        // Silence below the limit, then an event.
        (1_u64..115).prop_map(|secs| (Sign::None, secs, false)),
        (1_u64..880).prop_map(|secs| (Sign::Stirs, secs, false)),
        (1_u64..2_600).prop_map(|secs| (Sign::Works, secs, false)),
        // Too busy to answer.
        (1_u64..590).prop_map(|secs| (Sign::Works, secs, true)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_job_that_goes_on_is_ever_cured(pieces in prop::collection::vec(living(), 1..12)) {
        let mut seen = Seen::up(Settings::default());
        seen.look(Answer::Queue(1), Sign::Works);
        for (sign, secs, mute) in pieces {
            let answer = if mute { Answer::Late } else { Answer::Queue(1) };
            seen.looks(Millis::from_secs(secs), answer, sign);
            seen.look(Answer::Queue(1), Sign::Works);
            seen.event(Event::Progress(None));
        }
        prop_assert_eq!(seen.cures(), []);
        prop_assert_eq!(seen.verdict(), Verdict::Healthy);
    }

    #[test]
    fn a_job_that_shows_nothing_is_always_found(before in prop::collection::vec(living(), 0..4)) {
        let mut seen = Seen::up(Settings::default());
        for (sign, secs, _) in before {
            seen.looks(Millis::from_secs(secs), Answer::Queue(1), sign);
            seen.event(Event::Progress(None));
        }
        seen.look(Answer::Queue(1), Sign::Works);
        let (begun, limit) = (seen.now, seen.monitor.quiet_limit());
        prop_assert!(limit.0 <= 4 * seen.settings.stall.0);
        seen.looks(limit.plus(Millis::from_secs(20)), Answer::Queue(1), Sign::None);
        let found = seen.cures()[0].0;
        prop_assert!(found.0 - begun.0 <= limit.0 + 2 * seen.settings.period.0);
    }

    #[test]
    fn whatever_comes_restarts_stay_within_the_budget(
        looks in prop::collection::vec((0_u8..4, 0_u8..3, 0_u8..8), 1..400)
    ) {
        let settings = Settings { restarts: 2, restart_window: Millis::from_secs(1_000_000), ..Settings::default() };
        let mut carried = Carried::new(&settings);
        let mut seen = Seen::after(settings, carried.clone());
        let mut restarts = 0;
        for (answer, sign, event) in looks {
            let answer = [Answer::Queue(0), Answer::Queue(2), Answer::Late, Answer::Refused][usize::from(answer)];
            let sign = [Sign::None, Sign::Stirs, Sign::Works][usize::from(sign)];
            seen.looks(Millis::from_secs(60), answer, sign);
            match event {
                0 => seen.event(Event::Told(Told::Trouble(Cause::CudaContextPoisoned))),
                1 => seen.event(Event::CanaryLost),
                2 => seen.event(Event::Told(Told::Trouble(Cause::OutOfVram))),
                3 => seen.event(Event::Told(Told::Executed)),
                4 => seen.event(Event::Told(Told::Reboot)),
                _ => {}
            }
            if seen.verdict() == Verdict::Dead {
                restarts += 1;
                carried = seen.monitor.carried();
                let now = seen.now;
                seen = Seen::after(settings, carried.clone());
                seen.now = now;
            }
        }
        prop_assert!(restarts <= 2, "{}", restarts);
    }
}
