//! What daemon and keeper say to each other (docs/adr/0002): fixed words in small packets, so that the keeper parses nothing.
//!
//! The keeper outlives daemons of several versions, so these bytes never change their meaning; a new word gets a new number, and
//! a keeper passes over numbers that it does not know.

use super::exit::ExitCause;
use super::ids::{Generation, PmId};
use super::signal::Signal;

/// The variable that tells a daemon on which descriptor its keeper listens.
pub const SOCKET_VARIABLE: &str = "FORNAX_KEEPER";
/// The variable that tells a new keeper on which descriptor a daemon that lost its own talks to it.
pub const ORPHAN_VARIABLE: &str = "FORNAX_KEEPER_FOR";
/// The variable that tells it that daemon's pid.
pub const ORPHAN_PID_VARIABLE: &str = "FORNAX_KEEPER_FOR_PID";
/// The variable that tells a keeper, executed anew, in which descriptor its predecessor left what it knew.
pub const MEMORY_VARIABLE: &str = "FORNAX_KEEPER_MEMORY";
/// The variable that tells a daemon how the one before it ended.
pub const PREDECESSOR_VARIABLE: &str = "FORNAX_PREDECESSOR";

/// The longest packet, in bytes.
pub const LONGEST: usize = 1 + MOST_KEYS * KEY_BYTES;
/// The most descriptors that one packet carries, each with its key.
pub const MOST_KEYS: usize = 4;
const KEY_BYTES: usize = 13;

/// What a held descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Held {
    /// The writing end of a run's standard input.
    Input = 1,
    /// The reading end of its standard output.
    Output = 2,
    /// The reading end of its standard error.
    Errors = 3,
    /// Our end of its channel.
    Channel = 4,
    /// The lock file of a GPU lease; of an instance, generation 0.
    Lease = 5,
    /// The lock file of the home.
    HomeLock = 6,
    /// The listener of `rpc.sock`.
    Rpc = 7,
    /// The listener of `pub.sock`.
    Pub = 8,
    /// The listener of HTTP.
    Http = 9,
    /// The memory file of the table.
    Table = 10,
    /// The memory file of the log journal.
    Logs = 11,
    /// A listening socket that workers share, of id 0; of id 1 the memory file that says what it is. Its number stands in
    /// `generation`.
    Listener = 12,
}

impl Held {
    const ALL: [Held; 12] = [
        Held::Input,
        Held::Output,
        Held::Errors,
        Held::Channel,
        Held::Lease,
        Held::HomeLock,
        Held::Rpc,
        Held::Pub,
        Held::Http,
        Held::Table,
        Held::Logs,
        Held::Listener,
    ];

    /// By its number; `None` for one of a later version.
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|held| *held as u8 == number)
    }
}

/// The name of a held descriptor. One that is held again under its name replaces the former.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What it is.
    pub held: Held,
    /// Of which instance; 0 where it is nobody's.
    pub id: PmId,
    /// Of which run; 0 where it is no run's.
    pub generation: Generation,
}

impl Key {
    /// Of a run.
    pub fn run(held: Held, id: PmId, generation: Generation) -> Self {
        Self {
            held,
            id,
            generation,
        }
    }

    /// Of the daemon itself.
    pub fn own(held: Held) -> Self {
        Self::run(held, PmId(0), Generation(0))
    }

    fn write(self, out: &mut Vec<u8>) {
        out.push(self.held as u8);
        out.extend(self.id.0.to_le_bytes());
        out.extend(self.generation.0.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let held = Held::of_number(*bytes.first()?)?;
        let id = u32::from_le_bytes(bytes.get(1..5)?.try_into().ok()?);
        let generation = u64::from_le_bytes(bytes.get(5..13)?.try_into().ok()?);
        Some(Self::run(held, PmId(id), Generation(generation)))
    }
}

/// From the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Keep the descriptors that come with this, one for each key.
    Hold(Vec<Key>),
    /// Close one.
    Release(Key),
    /// Close everything of a run.
    ReleaseRun(PmId, Generation),
    /// How has this child ended? It stays to be asked again.
    Peek(u32),
    /// This child's end is written down: let it go.
    Reap(u32),
    /// Give me all that you hold.
    Fetch,
    /// I work.
    Ready,
    /// My end is wanted: end with me.
    Bye,
    /// The descriptor that comes with this is the program to start in my place when I end.
    Replace,
}

/// How a child stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It runs.
    Alive,
    /// It has ended.
    Ended(ExitCause),
    /// It is not the keeper's child, or no longer.
    Unknown,
}

/// From the keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The descriptors that come with this are held under these keys.
    Holding(Vec<Key>),
    /// That was all.
    HoldingNoMore,
    /// The answer to a `Peek`.
    Status(u32, Standing),
    /// Some child has ended.
    ChildEnded,
}

impl Order {
    /// Its packet.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LONGEST);
        match self {
            Order::Hold(keys) => {
                out.push(1);
                keys.iter().for_each(|key| key.write(&mut out));
            }
            Order::Release(key) => {
                out.push(2);
                key.write(&mut out);
            }
            Order::ReleaseRun(id, generation) => {
                out.push(3);
                Key::run(Held::Input, *id, *generation).write(&mut out);
            }
            Order::Peek(pid) => word(&mut out, 4, *pid),
            Order::Reap(pid) => word(&mut out, 5, *pid),
            Order::Fetch => out.push(6),
            Order::Ready => out.push(7),
            Order::Bye => out.push(8),
            Order::Replace => out.push(9),
        }
        out
    }

    /// `None`: a word that this version does not know.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let (number, rest) = packet.split_first()?;
        Some(match number {
            1 => Order::Hold(keys(rest)?),
            2 => Order::Release(Key::read(rest)?),
            3 => Key::read(rest).map(|key| Order::ReleaseRun(key.id, key.generation))?,
            4 => Order::Peek(number_of(rest)?),
            5 => Order::Reap(number_of(rest)?),
            6 => Order::Fetch,
            7 => Order::Ready,
            8 => Order::Bye,
            9 => Order::Replace,
            _ => return None,
        })
    }
}

impl Notice {
    /// Its packet.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LONGEST);
        match self {
            Notice::Holding(keys) => {
                out.push(1);
                keys.iter().for_each(|key| key.write(&mut out));
            }
            Notice::HoldingNoMore => out.push(2),
            Notice::Status(pid, standing) => {
                word(&mut out, 3, *pid);
                let (kind, value) = match standing {
                    Standing::Alive => (0, 0),
                    Standing::Ended(ExitCause::Signal(signal)) => (2, signal.0),
                    Standing::Ended(cause) => (1, cause.pm2_code()),
                    Standing::Unknown => (3, 0),
                };
                out.push(kind);
                out.extend(value.to_le_bytes());
            }
            Notice::ChildEnded => out.push(4),
        }
        out
    }

    /// `None`: a word that this version does not know.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let (number, rest) = packet.split_first()?;
        Some(match number {
            1 => Notice::Holding(keys(rest)?),
            2 => Notice::HoldingNoMore,
            3 => {
                let value = i32::from_le_bytes(rest.get(5..9)?.try_into().ok()?);
                let standing = match rest.get(4)? {
                    0 => Standing::Alive,
                    1 => Standing::Ended(ExitCause::Code(value)),
                    2 => Standing::Ended(ExitCause::Signal(Signal(value))),
                    _ => Standing::Unknown,
                };
                Notice::Status(number_of(rest)?, standing)
            }
            4 => Notice::ChildEnded,
            _ => return None,
        })
    }
}

fn word(out: &mut Vec<u8>, number: u8, value: u32) {
    out.push(number);
    out.extend(value.to_le_bytes());
}

fn number_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn keys(bytes: &[u8]) -> Option<Vec<Key>> {
    bytes.chunks(KEY_BYTES).map(Key::read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_understood_as_it_was_meant() {
        let key = Key::run(Held::Errors, PmId(7), Generation(3 << 32 | 1));
        for order in [
            Order::Hold(vec![key; MOST_KEYS]),
            Order::Release(Key::own(Held::Rpc)),
            Order::ReleaseRun(PmId(1), Generation(2)),
            Order::Peek(4711),
            Order::Reap(1),
            Order::Fetch,
            Order::Ready,
            Order::Bye,
            Order::Replace,
        ] {
            let packet = order.encode();
            assert!(packet.len() <= LONGEST);
            assert_eq!(Order::decode(&packet), Some(order));
        }
        for notice in [
            Notice::Holding(vec![key]),
            Notice::HoldingNoMore,
            Notice::Status(5, Standing::Alive),
            Notice::Status(5, Standing::Ended(ExitCause::Code(9))),
            Notice::Status(5, Standing::Ended(ExitCause::Signal(Signal::KILL))),
            Notice::Status(5, Standing::Unknown),
            Notice::ChildEnded,
        ] {
            assert_eq!(Notice::decode(&notice.encode()), Some(notice));
        }
    }

    #[test]
    fn what_is_unknown_or_cut_is_no_word() {
        for packet in [&[][..], &[99], &[4, 1], &[2, 77, 0, 0, 0, 0], &[1, 1]] {
            assert_eq!(Order::decode(packet), None, "{packet:?}");
        }
        assert_eq!(Notice::decode(&[3, 1, 0, 0, 0]), None);
    }
}
