//! The watching of one run: looks at its pace, hears what it says, and carries out what the core's monitor wants.

use super::book::Book;
use super::canary::{self, Ran};
use super::log;
use super::view::{CanaryReport, Devices, IncidentKind, LOADED};
use super::{counters, cure};
use crate::adapters::runner::RunHandle;
use crate::comfyui::client::{self, Client, ClientError, Events, Limits};
use crate::core::monitor::cures::Cure;
use crate::core::monitor::facts::{Answer, Carried, Diagnosis, Effect, Event, Look};
use crate::core::monitor::lines::{Phase, Told};
use crate::core::monitor::machine::Monitor;
use crate::core::monitor::signs::{self, Counters, PromptThread, Sign};
use crate::core::probe::Verdict;
use crate::core::service::ServiceStatus;
use crate::core::spec::fornax::Thresholds;
use crate::core::spec::monitor::Monitor as Settings;
use crate::core::units::Millis;
use crate::daemon::handle::Handle;
use crate::daemon::snapshot::InstanceView;
use crate::gpu::meter::Meter;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The largest answer taken, in bytes: a queue holds whole graphs.
const REPLY: u64 = 32 << 20;
/// What one monitor may be told.
#[derive(Debug)]
pub(super) enum RunOrder {
    /// Its job goes on.
    Progress(Option<(u64, u64)>),
    /// Run the canary job now.
    Canary,
}

/// Whom to watch.
pub(super) struct Watching {
    pub handle: Handle,
    pub book: Book,
    pub view: Arc<InstanceView>,
    pub settings: Settings,
    pub orders: mpsc::Receiver<RunOrder>,
}

/// Something that was begun and has ended.
enum Done {
    Canary(Ran, Vec<(u32, u64)>, Vec<(u32, u64)>),
    Cure(Cure, String),
}

/// Watches until it is aborted.
pub(super) async fn run(watching: Watching) {
    let Watching {
        handle,
        book,
        view,
        settings,
        mut orders,
    } = watching;
    let Some((mut log, told)) = log::open(handle.plane.clone(), Arc::clone(&view)).await else {
        return;
    };
    let up = view.service.status == ServiceStatus::Healthy;
    let mut watch = Watch::new(handle, book, view, settings, up);
    for told in told {
        watch.told(told, up);
    }
    watch.meter().await;
    loop {
        watch.report(&log);
        tokio::select! {
            biased;
            Some(done) = watch.work.join_next() => watch.done(done.ok()),
            told = log.next() => told.into_iter().for_each(|told| watch.told(told, false)),
            heard = heard(&mut watch.socket) => watch.heard(heard),
            Some(order) = orders.recv() => watch.order(order),
            () = tokio::time::sleep_until(watch.next_look) => watch.look().await,
        }
    }
}

/// The next event of the websocket; never, without one.
async fn heard(socket: &mut Option<Events>) -> Result<client::Event, ClientError> {
    match socket {
        Some(socket) => socket.next().await,
        None => std::future::pending().await,
    }
}

pub(super) struct Watch {
    pub(super) handle: Handle,
    pub(super) book: Book,
    pub(super) view: Arc<InstanceView>,
    pub(super) settings: Settings,
    pub(super) startup: Thresholds,
    pub(super) client: Arc<Client>,
    pub(super) monitor: Monitor,
    /// What the monitor's clock counts from, the same for all runs.
    pub(super) began: Instant,
    pub(super) next_look: Instant,
    pub(super) run: Option<Arc<RunHandle>>,
    pub(super) meter: Option<Arc<Meter>>,
    pub(super) socket: Option<Events>,
    pub(super) before: Option<(Instant, Counters)>,
    pub(super) thread: PromptThread,
    pub(super) threads_known: bool,
    pub(super) work: JoinSet<Done>,
    pub(super) told: Option<Diagnosis>,
    pub(super) answered_in: Option<Duration>,
    pub(super) loaded: Vec<String>,
    pub(super) canary: Option<CanaryReport>,
    pub(super) devices: Option<Devices>,
    pub(super) devices_at: Option<Instant>,
}

impl Watch {
    fn new(
        handle: Handle,
        book: Book,
        view: Arc<InstanceView>,
        settings: Settings,
        up: bool,
    ) -> Self {
        let startup = view
            .spec
            .fornax
            .probe
            .as_ref()
            .map_or_else(Thresholds::startup, |probe| probe.startup);
        let limit = Millis(startup.period.0.max(10) * u64::from(startup.failure_threshold.max(1)));
        let port = view.spec.fornax.port.unwrap_or(0);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let limits = Limits {
            call: settings.timeout().duration(),
            submit: Duration::from_secs(20),
            stall: Duration::from_secs(20),
            reply: REPLY,
        };
        let carried = book.with(
            view.id,
            || Carried::new(&settings),
            |kept| kept.carried.clone(),
        );
        let (now, began) = (Instant::now(), book.epoch());
        let since = Millis(began.elapsed().as_millis() as u64);
        Self {
            client: Arc::new(Client::with_limits(address, limits)),
            monitor: Monitor::new(settings, limit, carried, up, since),
            began,
            next_look: now + startup.initial_delay.duration(),
            run: handle.runs.get(view.id, view.generation),
            meter: None,
            socket: None,
            before: None,
            thread: PromptThread::default(),
            threads_known: false,
            work: JoinSet::new(),
            told: None,
            answered_in: None,
            loaded: Vec::new(),
            canary: None,
            devices: None,
            devices_at: None,
            handle,
            book,
            view,
            settings,
            startup,
        }
    }

    /// Opens the driver's figures of its GPU, if it has a real one.
    async fn meter(&mut self) {
        let gpu = self.view.spec.fornax.gpu.as_ref();
        let Some(uuid) = gpu.and_then(|gpu| gpu.uuid.clone()) else {
            return;
        };
        let opened = tokio::task::spawn_blocking(move || Meter::open(&uuid)).await;
        self.meter = opened.ok().flatten().map(Arc::new);
    }

    pub(super) fn now(&self) -> Millis {
        Millis(self.began.elapsed().as_millis() as u64)
    }

    /// One look: asks it, reads its counters, and lets the core judge.
    async fn look(&mut self) {
        let begun = Instant::now();
        let asked = self.client.remaining().await;
        let answer = match &asked {
            Ok(queue) => {
                self.answered_in = Some(begun.elapsed());
                Answer::Queue(*queue)
            }
            Err(ClientError::Connect { .. }) => Answer::Refused,
            Err(_) => Answer::Late,
        };
        if asked.is_err() {
            self.answered_in = None;
        }
        let counters = self.counters().await;
        let sign = match (&self.before, &counters) {
            (Some((at, before)), Some(now)) => {
                let passed = Millis(begun.duration_since(*at).as_millis() as u64);
                signs::between(before, now, passed, self.thread.known())
            }
            // Nothing can be compared yet, or at all.
            _ => Sign::None,
        };
        let thread_gone = match &counters {
            Some(now) if self.threads_known => self.thread.gone(&now.switches),
            _ => None,
        };
        if answer != Answer::Refused
            && asked.is_ok()
            && !self.threads_known
            && let Some(now) = &counters
        {
            self.thread.at_ready(&now.switches);
            self.threads_known = true;
        }
        if let Some(counters) = counters {
            self.before = Some((begun, counters));
        }
        let look = Look {
            answer,
            sign,
            thread_gone,
        };
        let effects = self.monitor.look(look, self.now());
        self.carry_out(effects);
        if asked.is_ok() {
            self.listen().await;
            self.ask_itself().await;
        } else if answer == Answer::Refused {
            (self.socket, self.threads_known) = (None, false);
        }
        let period = match self.monitor.diagnosis().verdict {
            Verdict::Starting => self.startup.period.min(self.settings.period),
            Verdict::Healthy | Verdict::Unhealthy | Verdict::Dead => self.settings.period,
        };
        // From the beginning of this look, so that one that had to wait for its answer does not delay the next.
        self.next_look =
            (begun + period.duration()).max(Instant::now() + Duration::from_millis(50));
    }

    async fn counters(&mut self) -> Option<Counters> {
        if self.run.is_none() {
            self.run = self.handle.runs.get(self.view.id, self.view.generation);
        }
        let (run, meter) = (self.run.clone()?, self.meter.clone());
        let read = move || counters::read(&run, meter.as_ref(), true);
        tokio::task::spawn_blocking(read).await.ok()
    }

    /// Opens the websocket, if it is not open.
    async fn listen(&mut self) {
        if self.socket.is_none() {
            let id = format!("fornax-{}", uuid::Uuid::new_v4());
            let opening = self.client.events(&id);
            let opened = tokio::time::timeout(self.settings.timeout().duration(), opening).await;
            // Without it, the looks alone tell.
            self.socket = opened.ok().and_then(Result::ok);
        }
    }

    /// `past`: it was said before this daemon watched, and only what could not be imported still matters.
    fn told(&mut self, told: Told, past: bool) {
        match &told {
            Told::Loads(name) => {
                self.loaded.retain(|known| known != name);
                self.loaded.push(name.clone());
                if self.loaded.len() > LOADED {
                    self.loaded.remove(0);
                }
            }
            Told::Phase(Phase::Core) | Told::Reboot => self.loaded.clear(),
            _ => {}
        }
        if past {
            return;
        }
        // The port is open with this line: there is no need to wait for the next look.
        if told == Told::Phase(Phase::Listening) {
            self.next_look = Instant::now();
        }
        let effects = self.monitor.event(Event::Told(told), self.now());
        self.carry_out(effects);
    }

    fn heard(&mut self, heard: Result<client::Event, ClientError>) {
        let event = match heard {
            Ok(client::Event::Status { remaining }) => Event::Queue(remaining),
            Ok(client::Event::Step { value, max, .. }) => {
                Event::Progress(Some((value.max(0.0) as u64, max.max(0.0) as u64)))
            }
            Ok(client::Event::Other { .. }) => return,
            Ok(_) => Event::Progress(None),
            Err(_) => {
                // It has gone, or starts anew: a look tells.
                self.socket = None;
                self.next_look = self
                    .next_look
                    .min(Instant::now() + Duration::from_millis(200));
                return;
            }
        };
        let effects = self.monitor.event(event, self.now());
        self.carry_out(effects);
    }

    fn order(&mut self, order: RunOrder) {
        match order {
            RunOrder::Progress(step) => {
                let effects = self.monitor.event(Event::Progress(step), self.now());
                self.carry_out(effects);
            }
            RunOrder::Canary => self.run_canary(),
        }
    }

    fn done(&mut self, done: Option<Done>) {
        match done {
            Some(Done::Canary(ran, before, after)) => {
                if ran.alone {
                    self.thread.canary(&before, &after);
                }
                self.canary = Some(ran.report);
                let effects = self.monitor.event(ran.event, self.now());
                self.carry_out(effects);
            }
            Some(Done::Cure(cure, what)) => {
                self.note(IncidentKind::Cure, None, what);
                if cure == Cure::Free {
                    self.loaded.clear();
                }
            }
            // A task that panicked has told so.
            None => {
                let effects = self.monitor.event(Event::CanaryVoid, self.now());
                self.carry_out(effects);
            }
        }
    }

    fn run_canary(&mut self) {
        let (client, run) = (Arc::clone(&self.client), self.run.clone());
        self.work.spawn(async move {
            let threads = || {
                run.as_ref()
                    .map_or_else(Vec::new, |run| crate::sys::procfs::thread_switches(run.pid))
            };
            let before = threads();
            let ran = canary::run(&client).await;
            Done::Canary(ran, before, threads())
        });
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Canary => self.run_canary(),
                Effect::Note(note) => self.tell(note),
                Effect::Cure(Cure::Restart, cause) => {
                    let message = "restarts it".to_owned();
                    self.note(IncidentKind::Cure, Some(cause), message);
                }
                Effect::Cure(cure, _) => {
                    let client = Arc::clone(&self.client);
                    self.work
                        .spawn(async move { Done::Cure(cure, cure::apply(cure, &client).await) });
                }
            }
        }
        self.tell_loop();
    }
}
