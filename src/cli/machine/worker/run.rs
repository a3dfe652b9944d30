//! The worker's loop: claims what this machine can do while it can do it, renews leases, and returns what it holds at its end.

use super::entry::Entry;
use super::held::Held;
use super::job::{Ended, Work};
use super::keys::Keys;
use super::machine::{self, View};
use super::options::{Limits, URL, WorkerArgs};
use super::queue::{Pending, Queue};
use crate::cli::machine::http;
use crate::cli::session::Session;
use crate::sys::lockfile::{LockError, LockFile, Share};
use anyhow::{Context, bail};
use redis::RedisError;
use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What was given back is looked for so often.
const SCAN: Duration = Duration::from_secs(1);
/// Entries looked at in one step of that.
const PAGE: usize = 50;
/// Entries remembered that this machine cannot do; with more all are looked at again.
const UNFIT: usize = 10_000;
/// How long the loop rests when there is nothing to do, or Redis is gone.
const REST: Duration = Duration::from_millis(500);
/// How long the end may take beyond the grace: PM2 kills after 1.6 s unless told otherwise.
const END: Duration = Duration::from_millis(1400);

/// Runs until SIGTERM or SIGINT.
pub fn run(session: &mut Session, args: &WorkerArgs) -> anyhow::Result<ExitCode> {
    let (limits, target) = (args.limits()?, args.target()?);
    let home = session.home.root().to_owned();
    let host = nix::unistd::gethostname().context("cannot tell the host's name")?;
    let name = args
        .name
        .clone()
        .unwrap_or_else(|| format!("{}:{}", host.to_string_lossy(), home.display()));
    if name.is_empty() || name == "-" || name.len() > 200 || name.chars().any(char::is_control) {
        bail!("--name: a name has 1 to 200 bytes, without control characters, and is not `-`");
    }
    // Two of one name would renew each other's leases.
    let lock = home.join("worker.lock");
    let _lock =
        LockFile::try_acquire(&lock, name.as_bytes(), Share::Owner).map_err(
            |error| match error {
                LockError::Held { .. } => anyhow::anyhow!(
                    "a worker runs in {} already; one serves all its ComfyUIs",
                    home.display()
                ),
                other => anyhow::Error::new(other)
                    .context("cannot take the worker's lock; is there a daemon in this home?"),
            },
        )?;
    if args.tells_password() {
        say!(
            "the password of Redis stands on the command line, where everybody here can read it; set {URL} instead"
        );
    }
    let shown = target.shown.clone();
    let queue = Queue::new(target, Keys::new(args.prefix.clone()), name, limits);
    say!(
        "{} takes jobs of {}jobs at {shown}, lease {:?}",
        queue.me,
        args.prefix,
        limits.lease
    );
    let worker = async {
        let (views, seen) = watch::channel(Arc::new(View::unknown()));
        let over = CancellationToken::new();
        let observer = tokio::spawn(machine::observe(views, over.clone()));
        let work = Work {
            queue: Arc::new(queue),
            views: seen,
        };
        let ended = Worker::new(work, args.depth, args.deliveries, limits)
            .run()
            .await;
        over.cancel();
        observer.await.context("the observer has failed")?;
        ended
    };
    http::block(worker)?;
    Ok(ExitCode::SUCCESS)
}

/// The loop. Owner of all that is claimed: its task.
struct Worker {
    work: Work,
    depth: usize,
    deliveries: u64,
    limits: Limits,
    held: HashMap<String, Arc<Held>>,
    tasks: JoinSet<(String, String, Ended)>,
    /// What this machine cannot do, by the version of its view then.
    unfit: HashMap<String, u64>,
    stop: CancellationToken,
    /// When leases are renewed next, what was given back is looked for, and claiming goes on.
    renew_at: Instant,
    scan_at: Instant,
    claim_at: Instant,
    /// What was told last of the machine, and when it was advertised.
    said: String,
    advertised: (u64, usize),
    done: u64,
}

impl Worker {
    fn new(work: Work, depth: u32, deliveries: u64, limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            work,
            depth: depth as usize,
            deliveries,
            limits,
            held: HashMap::new(),
            tasks: JoinSet::new(),
            unfit: HashMap::new(),
            stop: CancellationToken::new(),
            renew_at: now,
            scan_at: now,
            claim_at: now,
            said: String::new(),
            advertised: (0, 0),
            done: 0,
        }
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let stop = self.stop.clone();
        let mut signals = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        tokio::spawn(async move {
            tokio::select! { _ = signals.0.recv() => {}, _ = signals.1.recv() => {} }
            stop.cancel();
        });
        while !self.stop.is_cancelled() {
            while let Some(ended) = self.tasks.try_join_next() {
                self.ended(ended);
            }
            if let Err(error) = self.turn().await {
                // A connection that cannot be made has been told; what Redis refuses has not.
                if !error.is_io_error() && !error.is_timeout() {
                    self.say(format!("redis: {error}"));
                }
                // What is there, and what is ours there, is looked at first when it is back.
                self.renew_at = Instant::now();
                self.rest(REST).await;
            }
        }
        self.end().await;
        Ok(())
    }

    /// One turn: leases, what others gave back, new entries.
    async fn turn(&mut self) -> Result<(), RedisError> {
        let view = Arc::clone(&self.work.views.borrow_and_update());
        if Instant::now() >= self.renew_at {
            self.renew(&view).await?;
            self.renew_at = Instant::now() + self.limits.lease / 4;
            self.advertised = (0, 0);
        }
        if self.advertised != (view.version, self.held.len()) {
            self.advertise(&view).await?;
            self.advertised = (view.version, self.held.len());
        }
        self.say(view.words());
        let free = (view.taking() * self.depth).saturating_sub(self.held.len());
        if free == 0 || Instant::now() < self.claim_at {
            self.rest(REST).await;
            return Ok(());
        }
        if Instant::now() >= self.scan_at {
            self.scan(&view, free).await?;
            self.scan_at = Instant::now() + SCAN;
        }
        let free = (view.taking() * self.depth).saturating_sub(self.held.len());
        if free > 0 {
            for entry in self.work.queue.claim_new(free).await? {
                self.take(entry, 1, Some(&view)).await?;
            }
        }
        Ok(())
    }

    /// Waits for anything that could be news.
    async fn rest(&mut self, most: Duration) {
        let ended = tokio::select! {
            Some(ended) = self.tasks.join_next() => Some(ended),
            _ = self.work.views.changed() => None,
            () = self.stop.cancelled() => None,
            () = tokio::time::sleep(most) => None,
        };
        if let Some(ended) = ended {
            self.ended(ended);
        }
    }

    /// Renews what goes on, hears what is lost, and takes up what is ours without our knowing: from a life before this one, or
    /// from an answer that never came.
    async fn renew(&mut self, view: &View) -> Result<(), RedisError> {
        let queue = Arc::clone(&self.work.queue);
        queue.found().await?;
        let alive = self
            .held
            .iter()
            .filter(|(_, held)| held.is_alive(self.limits.lease));
        let ids: Vec<String> = alive.map(|(id, _)| id.clone()).collect();
        if !ids.is_empty() {
            for id in queue.renew(&ids).await? {
                if let Some(held) = self.held.get(&id) {
                    held.lost.cancel();
                }
            }
        }
        for Pending { id, deliveries } in queue.ours().await? {
            if self.held.contains_key(&id) {
                continue;
            }
            match queue.read(&id).await? {
                Some(entry) => {
                    // One that was never handed in here may be one that this machine cannot do.
                    let known = queue.known(&entry.name(), &self.stop).await;
                    let is_here = known.and_then(|(_, handed)| handed).as_ref() == Some(&queue.me);
                    let view = (!is_here).then_some(view);
                    self.take(entry, deliveries, view).await?;
                }
                None => queue.drop_entry(&id).await?,
            }
        }
        Ok(())
    }

    /// Claims what others have given back, or lost.
    async fn scan(&mut self, view: &View, free: usize) -> Result<(), RedisError> {
        let queue = Arc::clone(&self.work.queue);
        let (mut after, mut free) = ("-".to_owned(), free);
        while free > 0 && !self.stop.is_cancelled() {
            let page = queue.waiting(&after, PAGE).await?;
            for Pending { id, deliveries } in &page {
                if free == 0 || self.unfit.get(id) == Some(&view.version) {
                    continue;
                }
                let Some(entry) = queue.read(id).await? else {
                    queue.drop_entry(id).await?;
                    continue;
                };
                let unfit = entry
                    .order()
                    .ok()
                    .and_then(|order| view.fits(&order.needs).err());
                if unfit.is_some() {
                    self.is_unfit(id, view);
                } else if queue.claim(id).await? {
                    self.take(entry, deliveries + 1, None).await?;
                    free -= 1;
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = format!("({}", last.id),
                _ => break,
            }
        }
        Ok(())
    }

    fn is_unfit(&mut self, id: &str, view: &View) {
        if self.unfit.len() >= UNFIT {
            self.unfit.clear();
        }
        self.unfit.insert(id.to_owned(), view.version);
    }

    /// Begins with an entry that is ours. With a view: if this machine can do it; else it is given back.
    async fn take(
        &mut self,
        entry: Entry,
        deliveries: u64,
        view: Option<&View>,
    ) -> Result<(), RedisError> {
        let (id, name) = (entry.id.clone(), entry.name());
        let order = entry.order();
        if let (Ok(order), Some(view)) = (&order, view)
            && let Err(lacking) = view.fits(&order.needs)
        {
            say!("{name} is not for this machine: {lacking}");
            self.is_unfit(&id, view);
            let waits = [("state", "waiting".to_owned()), ("message", lacking)];
            self.work.queue.note(&name, &waits).await?;
            return self.work.queue.give_back(&id, &name, false).await;
        }
        let held = Arc::new(Held::new(entry, deliveries, &self.stop));
        self.held.insert(id.clone(), Arc::clone(&held));
        let (work, most) = (self.work.clone(), self.deliveries);
        self.tasks.spawn(async move {
            let ended = match order {
                Err(reason) => work.bury(held, reason).await,
                Ok(_) if deliveries > most => {
                    let reason =
                        format!("it was claimed {most} times, and each machine was lost with it");
                    work.bury(held, reason).await
                }
                Ok(order) => {
                    say!("claimed {name}");
                    work.run(held, order).await
                }
            };
            (id, name, ended)
        });
        Ok(())
    }

    fn ended(&mut self, ended: Result<(String, String, Ended), tokio::task::JoinError>) {
        let Ok((id, name, ended)) = ended else {
            // It panicked, which is a fault of ours: its entry is taken up again at the next renewal.
            say!("a job's task has failed");
            return;
        };
        self.held.remove(&id);
        match ended {
            Ended::Settled(state) => {
                self.done += 1;
                say!("{name} is {state}");
            }
            Ended::Returned(Some(pause)) => self.claim_at = Instant::now() + pause,
            Ended::Returned(None) | Ended::Lost => {}
        }
    }

    async fn advertise(&self, view: &View) -> Result<(), RedisError> {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let mut fields = view.fields();
        fields.push(("held", self.held.len().to_string()));
        fields.push(("settled", self.done.to_string()));
        fields.push(("fornax", env!("CARGO_PKG_VERSION").to_owned()));
        fields.push(("pid", std::process::id().to_string()));
        fields.push(("updated_ms", now_ms.to_string()));
        self.work.queue.advertise(&fields, now_ms).await
    }

    /// Says how things stand, if it is something else than before.
    fn say(&mut self, words: String) {
        if words != self.said {
            say!("{words}");
            self.said = words;
        }
    }

    /// Every job's task knows that it is to end; what they have not returned then is free after its lease.
    async fn end(&mut self) {
        say!(
            "ending: {} jobs are returned, or finished within {:?}",
            self.held.len(),
            self.limits.grace
        );
        let end = Instant::now() + self.limits.grace + END;
        while let Ok(Some(ended)) = tokio::time::timeout_at(end, self.tasks.join_next()).await {
            self.ended(ended);
        }
        if !self.held.is_empty() {
            say!(
                "{} jobs could not be returned; others may claim them when their lease is over",
                self.held.len()
            );
        }
        self.tasks.abort_all();
        // It is forgotten by itself if this fails.
        drop(tokio::time::timeout(Duration::from_millis(200), self.work.queue.withdraw()).await);
    }
}
