//! The daemon's side of its keeper (docs/adr/0002): what is held there for a successor, and how children end.
//!
//! Without a keeper the daemon is the parent itself: children are waited for here, and nothing is held for anybody.

use crate::core::ids::{Generation, PmId};
use crate::core::keeping::{self, Held, Key, Notice, Order, Standing};
use crate::sys::{fds, packets, pidfd};
use nix::poll::{PollFd, PollFlags, poll};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};

/// How long the keeper may take to hand out what it holds.
const FETCH_WITHIN: Duration = Duration::from_secs(5);
/// How long a thread that may block waits for a keeper that does not read.
const HOLD_WITHIN: Duration = Duration::from_secs(1);
/// How long the keeper may take to tell of an end by itself. Several ends at once may reach it as one.
const TELLS_WITHIN: Duration = Duration::from_millis(1);
/// So many ends are kept until their runners ask; of others they ask the keeper.
const ENDS_KEPT: usize = 256;
/// How soon a question is asked again that the keeper had no room for.
const ASK_AGAIN: Duration = Duration::from_millis(2);

/// What a keeper handed out.
pub type Inheritance = HashMap<Key, OwnedFd>;

/// The keeper, or none. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Keeper {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    socket: OwnedFd,
    /// The parent of all apps.
    pid: u32,
    /// Locks, not messages: each is taken for a map access, by the loop's tasks and by the threads that launch runs.
    ends: Mutex<Ends>,
    held: Mutex<HashMap<Key, OwnedFd>>,
    child_ended: Notify,
}

/// What the keeper has told of ended children, and who waits to be told.
#[derive(Debug, Default)]
struct Ends {
    asked: HashMap<u32, oneshot::Sender<Standing>>,
    /// The latest ends that nobody had asked for yet, oldest first.
    told: VecDeque<(u32, Standing)>,
}

enum Known {
    Told(Standing),
    NotYet(oneshot::Receiver<Standing>),
}

impl Ends {
    fn of(&mut self, pid: u32) -> Known {
        if let Some(at) = self.told.iter().position(|(told, _)| *told == pid)
            && let Some((_, standing)) = self.told.remove(at)
        {
            return Known::Told(standing);
        }
        let (reply, answer) = oneshot::channel();
        self.asked.insert(pid, reply);
        Known::NotYet(answer)
    }

    fn take(&mut self, pid: u32, standing: Standing) {
        if let Some(reply) = self.asked.remove(&pid) {
            // Whoever asked may have gone.
            drop(reply.send(standing));
        } else if matches!(standing, Standing::Ended(_)) {
            self.told.retain(|(told, _)| *told != pid);
            self.told.push_back((pid, standing));
            if self.told.len() > ENDS_KEPT {
                self.told.pop_front();
            }
        }
    }
}

impl Keeper {
    /// The keeper that started us, if one did, with all that it holds. To be asked once.
    pub fn connect() -> io::Result<(Self, Inheritance)> {
        let Some(number) = std::env::var(keeping::SOCKET_VARIABLE)
            .ok()
            .and_then(|number| number.parse().ok())
        else {
            return Ok((Self::default(), Inheritance::new()));
        };
        let socket = fds::take_over(number)?;
        let inherited = fetch(&socket)?;
        let held = inherited
            .iter()
            .map(|(key, fd)| Ok((*key, fd.try_clone()?)))
            .collect::<io::Result<_>>()?;
        let inner = Inner {
            socket,
            pid: std::os::unix::process::parent_id(),
            ends: Mutex::default(),
            held: Mutex::new(held),
            child_ended: Notify::new(),
        };
        let keeper = Self {
            inner: Some(Arc::new(inner)),
        };
        Ok((keeper, inherited))
    }

    /// The pid of the parent of all apps, if it is not us.
    pub fn pid(&self) -> Option<u32> {
        self.inner.as_ref().map(|inner| inner.pid)
    }

    /// Has descriptors held, in the order of the call: what is held before a child is made is there if we end right after. May
    /// block for as long as the keeper does not read, up to a second.
    pub fn hold(&self, entries: &[(Key, BorrowedFd<'_>)]) -> io::Result<()> {
        let Some(inner) = &self.inner else {
            return Ok(());
        };
        for part in entries.chunks(keeping::MOST_KEYS) {
            let (keys, fds): (Vec<Key>, Vec<BorrowedFd<'_>>) = part.iter().copied().unzip();
            inner.say(&Order::Hold(keys), &fds, HOLD_WITHIN)?;
        }
        let mut held = lock(&inner.held);
        for (key, fd) in entries {
            held.insert(*key, fd.try_clone_to_owned()?);
        }
        Ok(())
    }

    /// One is held no longer.
    pub fn release(&self, key: Key) {
        if let Some(inner) = &self.inner
            && lock(&inner.held).remove(&key).is_some()
        {
            inner.tell(&Order::Release(key));
        }
    }

    /// Nothing of a run is held any longer.
    pub fn release_run(&self, id: PmId, generation: Generation) {
        let Some(inner) = &self.inner else { return };
        lock(&inner.held).retain(|key, _| {
            let of_run = matches!(
                key.held,
                Held::Input | Held::Output | Held::Errors | Held::Channel
            );
            !of_run || (key.id, key.generation) != (id, generation)
        });
        inner.tell(&Order::ReleaseRun(id, generation));
    }

    /// How a child has ended. It stays a zombie until [`Keeper::reap`], so that whoever comes after us can ask again.
    ///
    /// Mostly the keeper has told already, or is about to; it is asked when nothing has come for a moment.
    pub fn standing(&self, pid: u32) -> impl Future<Output = Standing> + use<> {
        let inner = self.inner.clone();
        let known = inner.as_ref().map(|inner| lock(&inner.ends).of(pid));
        async move {
            let (Some(inner), Some(known)) = (inner, known) else {
                return pidfd::peek(pid);
            };
            let mut answer = match known {
                Known::Told(standing) => return standing,
                Known::NotYet(answer) => answer,
            };
            if let Ok(told) = tokio::time::timeout(TELLS_WITHIN, &mut answer).await {
                return told.unwrap_or(Standing::Unknown);
            }
            while let Err(error) = inner.peek(pid) {
                if error.kind() != io::ErrorKind::WouldBlock {
                    // The keeper has gone. A successor of ours will find out.
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
            answer.await.unwrap_or(Standing::Unknown)
        }
    }

    /// A child has just been made: what was told of that number before was of another process. An end of its own that is
    /// forgotten with it is asked for.
    pub fn born(&self, pid: u32) {
        if let Some(inner) = &self.inner {
            lock(&inner.ends).told.retain(|(told, _)| *told != pid);
        }
    }

    /// What is known of a child's end is written down: the kernel may forget it.
    pub fn reap(&self, pid: u32) {
        match &self.inner {
            Some(inner) => inner.tell(&Order::Reap(pid)),
            None => drop(pidfd::reap(pid)),
        }
    }

    /// We work.
    pub fn ready(&self) {
        if let Some(inner) = &self.inner {
            inner.tell(&Order::Ready);
        }
    }

    /// Our end is wanted: the keeper ends with us.
    pub fn bye(&self) {
        if let Some(inner) = &self.inner {
            inner.tell(&Order::Bye);
        }
    }

    /// What is to be executed in our place when we end. `false`: there is no keeper to do it.
    pub fn replace(&self, program: BorrowedFd<'_>) -> io::Result<bool> {
        match &self.inner {
            Some(inner) => inner
                .say(&Order::Replace, &[program], HOLD_WITHIN)
                .map(|()| true),
            None => Ok(false),
        }
    }

    /// Has a new keeper, behind `socket`, hold all that is held: ours is gone.
    pub fn hand_over(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let Some(inner) = &self.inner else {
            return Ok(());
        };
        for (key, fd) in lock(&inner.held).iter() {
            patiently(
                socket,
                &Order::Hold(vec![*key]).encode(),
                &[fd.as_fd()],
                HOLD_WITHIN,
            )?;
        }
        Ok(())
    }

    /// A copy of what is held under this name.
    pub fn copy(&self, key: Key) -> Option<OwnedFd> {
        let inner = self.inner.as_ref()?;
        lock(&inner.held).get(&key)?.try_clone().ok()
    }

    /// Some child has ended: perhaps an orphan, which nobody else waits for. Never, without a keeper: the signal tells it then.
    pub async fn child_ended(&self) {
        match &self.inner {
            Some(inner) => inner.child_ended.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Hears the keeper until it is gone; never ends without one.
    pub async fn hear(&self) {
        let Some(inner) = self.inner.clone() else {
            return std::future::pending().await;
        };
        let Ok(socket) = inner.socket.try_clone().and_then(readable) else {
            tracing::error!("the keeper cannot be heard");
            return std::future::pending().await;
        };
        let mut buffer = [0; keeping::LONGEST];
        loop {
            let Ok(mut ready) = socket.readable().await else {
                return;
            };
            let received =
                packets::receive(inner.socket.as_fd(), &mut buffer, &mut Default::default());
            match received {
                Ok(0) => return,
                Ok(length) => inner.take(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(_) => return,
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "the safe constructor; an OwnedFd is never swapped under the poller here"
)]
fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, tokio::io::Interest::READABLE)
}

impl Inner {
    fn peek(&self, pid: u32) -> io::Result<()> {
        packets::send(self.socket.as_fd(), &Order::Peek(pid).encode(), &[])
    }

    fn take(&self, packet: &[u8]) {
        match Notice::decode(packet) {
            Some(Notice::Status(pid, standing)) => lock(&self.ends).take(pid, standing),
            Some(Notice::ChildEnded) => self.child_ended.notify_one(),
            Some(Notice::Holding(_) | Notice::HoldingNoMore) | None => {}
        }
    }

    fn say(&self, order: &Order, fds: &[BorrowedFd<'_>], limit: Duration) -> io::Result<()> {
        patiently(self.socket.as_fd(), &order.encode(), fds, limit)
    }

    /// Without an answer, and without hope if the keeper has gone: its end is heard elsewhere.
    fn tell(&self, order: &Order) {
        if let Err(error) = self.say(order, &[], HOLD_WITHIN) {
            tracing::debug!(?order, %error, "the keeper was not told");
        }
    }
}

fn patiently(
    socket: BorrowedFd<'_>,
    packet: &[u8],
    fds: &[BorrowedFd<'_>],
    limit: Duration,
) -> io::Result<()> {
    let until = Instant::now() + limit;
    loop {
        match packets::send(socket, packet, fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                let mut room = [PollFd::new(socket, PollFlags::POLLOUT)];
                // Interrupted or not, it is tried again.
                let _ = poll(&mut room, 50_u16);
            }
            done => return done,
        }
    }
}

fn fetch(socket: &OwnedFd) -> io::Result<Inheritance> {
    patiently(socket.as_fd(), &Order::Fetch.encode(), &[], FETCH_WITHIN)?;
    let until = Instant::now() + FETCH_WITHIN;
    let mut inherited = Inheritance::new();
    let mut buffer = [0; keeping::LONGEST];
    loop {
        let mut fds = Default::default();
        match packets::receive(socket.as_fd(), &mut buffer, &mut fds) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => match Notice::decode(&buffer[..length]) {
                Some(Notice::Holding(keys)) => {
                    inherited.extend(keys.into_iter().zip(fds.into_iter().flatten()));
                }
                Some(Notice::HoldingNoMore) => return Ok(inherited),
                Some(Notice::Status(..) | Notice::ChildEnded) | None => {}
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() > until {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                let mut word = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                // Interrupted or not, it is tried again.
                let _ = poll(&mut word, 100_u16);
            }
            Err(error) => return Err(error),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A map is whole after any panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
