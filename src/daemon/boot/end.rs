//! What ends a daemon, and what it does then: stop every app, or leave them all to a successor.

use super::super::command::Command;
use super::super::dump;
use super::super::handle::Handle;
use super::super::succession::HandOver;
use super::legacy::CHECKED;
use crate::adapters::keeper::Keeper;
use crate::adapters::tree::Roots;
use crate::core::keeping::{self, Held, Key};
use crate::core::spec::home::Home;
use crate::sys::spawn::{self, SpawnPlan};
use crate::sys::{packets, program};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// How long the end may take before the daemon goes anyway. Longer than any sensible stop ladder.
const END_LIMIT: Duration = Duration::from_secs(120);
/// How soon another keeper is tried when one could not be started.
const KEEPER_AGAIN: Duration = Duration::from_secs(5);
/// How long a new program may take to look at the table.
const CHECK_WITHIN: Duration = Duration::from_secs(10);

/// Why a daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Somebody wants it gone, and its apps with it.
    Wanted,
    /// A successor takes over: the apps go on.
    HandOver,
}

/// Tells the client that asked for the end.
pub fn tell_mourner(handle: &Handle) {
    if let Some(pid) = handle.mourner.get() {
        // It may have gone, which is as good.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(*pid),
            nix::sys::signal::Signal::SIGQUIT,
        );
    }
}

/// The signals a daemon lives by (spec 2.2).
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    reload: tokio::signal::unix::Signal,
    child: tokio::signal::unix::Signal,
}

impl Signals {
    /// From now on they are ours.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            reload: signal(SignalKind::user_defined2())?,
            child: signal(SignalKind::child())?,
        })
    }

    /// Until the daemon is to end.
    pub async fn serve(
        mut self,
        handle: &Handle,
        keeper: &Keeper,
        home: &Home,
        mut hand_overs: mpsc::Receiver<HandOver>,
    ) -> End {
        // A task of its own: what is done below must not keep us from hearing how a child has ended.
        let hearing = keeper.clone();
        let mut keeper_lost = tokio::spawn(async move { hearing.hear().await });
        let (mut lost, mut again) = (false, Duration::ZERO);
        let ended_by = loop {
            tokio::select! {
                () = handle.shutdown.cancelled() => return End::Wanted,
                _ = self.terminate.recv() => break "SIGTERM",
                _ = self.interrupt.recv() => break "SIGINT",
                _ = self.quit.recv() => break "SIGQUIT",
                _ = self.hangup.recv() => tracing::info!("SIGHUP ignored"),
                _ = self.reload.recv() => {
                    tracing::info!(target: "pm2", "Reloading logs...");
                    // An error means that the plane has ended.
                    let _ = handle.plane.reopen_all().await;
                }
                _ = self.child.recv() => reap_strays(&handle.roots).await,
                () = keeper.child_ended() => reap_strays(&handle.roots).await,
                _ = &mut keeper_lost, if !lost => lost = true,
                () = tokio::time::sleep(again), if lost => match found_keeper(keeper, home) {
                    Ok(()) => return End::HandOver,
                    Err(error) => {
                        tracing::error!(%error, "the keeper was killed and no other one could be started yet: apps do not outlive this daemon");
                        again = KEEPER_AGAIN;
                    }
                },
                Some((program, reply)) = hand_overs.recv() => {
                    let refused = replace(&program, handle, keeper).await;
                    let accepted = refused.is_ok();
                    if let Err(why) = &refused {
                        tracing::warn!(program = %program.display(), why, "the program was not replaced");
                    }
                    // Whoever asked may have gone; what was decided holds.
                    drop(reply.send(refused));
                    if accepted {
                        return End::HandOver;
                    }
                }
            }
        };
        tracing::info!(signal = ended_by, "told to end");
        tracing::info!(target: "pm2", "pm2 has been killed by signal, dumping process list before exit...");
        handle.bus.publish("pm2:kill", || {
            r#"{"status":"killed","msg":"pm2 has been killed by SIGNAL"}"#.to_owned()
        });
        if let Err(error) = dump::save(&handle.snapshot(), &home.dump_file(), &home.dump_backup()) {
            tracing::error!(%error, "cannot save the process list");
        }
        handle.shutdown.cancel();
        End::Wanted
    }
}

async fn reap_strays(roots: &Arc<Roots>) {
    let roots = Arc::clone(roots);
    // A storm of exits is one look, not one each.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let _ = tokio::task::spawn_blocking(move || roots.reap_strays()).await;
}

/// Every app stopped, all at once: whoever is slow costs only itself.
pub async fn stop_all(handle: &Handle) {
    let snapshot = handle.snapshot();
    // Nothing comes back while it is being taken down.
    let _ = handle.call(Command::StopRestarting).await;
    let deletions = snapshot
        .instances
        .iter()
        .map(|view| handle.call(Command::Delete(view.id)));
    let all = futures_util::future::join_all(deletions);
    if tokio::time::timeout(END_LIMIT, all).await.is_err() {
        tracing::error!("not every app could be stopped in time");
    }
}

/// Has the keeper execute another program in our place, once that one has shown that it can read our table.
async fn replace(program: &Path, handle: &Handle, keeper: &Keeper) -> Result<(), String> {
    let open = std::fs::File::open(program)
        .map_err(|error| format!("cannot open {}: {error}", program.display()))?;
    let table = keeper.copy(Key::own(Held::Table)).ok_or(
        "this daemon has no keeper (FORNAX_NO_KEEPER), so it can only be stopped and started",
    )?;
    let mut check = std::process::Command::new(program);
    check
        .args(["daemon", "check"])
        .env_clear()
        .stdin(table)
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let roots = Arc::clone(&handle.roots);
    let checked =
        tokio::task::spawn_blocking(move || roots.run_helper(&mut check, CHECK_WITHIN)).await;
    let named = program.display();
    let output = match checked {
        Ok(Ok(Some(output))) => output,
        Ok(Ok(None)) => return Err(format!("{named} did not say whether it can go on")),
        Ok(Err(error)) => return Err(format!("cannot execute {named}: {error}")),
        Err(error) => return Err(error.to_string()),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || !said.starts_with(CHECKED) {
        let why = String::from_utf8_lossy(&output.stderr);
        let why = why.lines().last().unwrap_or("it is no Fornax that can");
        return Err(format!("{named} cannot go on from here: {why}"));
    }
    match keeper.replace(open.as_fd()) {
        Ok(true) => {
            tracing::info!(program = %named, said = said.trim(), "making room for another program");
            Ok(())
        }
        Ok(false) => Err("there is no keeper".to_owned()),
        Err(error) => Err(format!("the keeper cannot be reached: {error}")),
    }
}

/// Our keeper was killed: starts another, which holds what the old one held and will start our successor when we end. Our apps
/// can't become its children; it adopts them.
fn found_keeper(keeper: &Keeper, home: &Home) -> io::Result<()> {
    tracing::error!("the keeper was killed; starting another one, and a daemon under it");
    let (ours, theirs) = packets::pair()?;
    let entry = |text: String| spawn::c_string("a text", text).map_err(io::Error::other);
    let mut env = Vec::new();
    for (name, value) in std::env::vars() {
        if name != keeping::SOCKET_VARIABLE {
            env.push(entry(format!("{name}={value}"))?);
        }
    }
    env.push(entry(format!("{}=3", keeping::ORPHAN_VARIABLE))?);
    env.push(entry(format!(
        "{}={}",
        keeping::ORPHAN_PID_VARIABLE,
        std::process::id()
    ))?);
    let null = || {
        std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
    };
    let errors = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
    let stdio: [OwnedFd; 3] = [
        null()?.into(),
        errors(io::stdout().as_fd())?,
        errors(io::stderr().as_fd())?,
    ];
    let plan = SpawnPlan {
        program: spawn::c_path(
            "the program's path",
            &program::named(Path::new(program::OWN)),
        )
        .map_err(io::Error::other)?,
        args: vec![
            entry(format!("fornax keeper ({})", home.root().display()))?,
            entry("daemon".to_owned())?,
        ],
        env,
        cwd: entry(".".to_owned())?,
        stdio,
        channel: Some(theirs),
        user: None,
        cgroup: None,
        sibling: false,
    };
    spawn::spawn(plan).map_err(io::Error::other)?;
    keeper.hand_over(ours.as_fd())?;
    // Ours stays open until this process is gone: its end is how the keeper learns of it.
    std::mem::forget(ours);
    Ok(())
}
