//! The queue in Redis: claims, leases, notes and results, each a step of Redis'.

use super::connection::Connection;
use super::entry::Entry;
use super::keys::Keys;
use super::options::{Limits, Target};
use super::scripts;
use redis::{Cmd, ErrorKind, RedisError, Value};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The group of all workers of a queue.
const GROUP: &str = "fornax";
/// Who holds what no worker holds: an entry that was given back.
const NOBODY: &str = "-";
/// How long new entries are waited for at once, in milliseconds. So long may a stop take longer.
const BLOCK_MS: u64 = 500;
/// Results and dead letters kept, about.
const KEPT: u64 = 10_000;

/// An entry that was delivered and is not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Redis' id.
    pub id: String,
    /// How often it was claimed, this time among them.
    pub deliveries: u64,
}

/// The queue. Shared by the tasks of all jobs.
pub struct Queue {
    pub keys: Keys,
    /// What we are called there.
    pub me: String,
    pub limits: Limits,
    talk: Connection,
    /// For new entries only: Redis answers nothing else on it while it waits for them.
    claims: Connection,
}

fn failed(words: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Parse, words))
}

impl Queue {
    pub fn new(target: Target, keys: Keys, me: String, limits: Limits) -> Self {
        let target = Arc::new(target);
        Self {
            keys,
            me,
            limits,
            talk: Connection::new(Arc::clone(&target), true),
            claims: Connection::new(target, false),
        }
    }

    /// Makes the stream and its group, if they are not there.
    pub async fn found(&self) -> Result<(), RedisError> {
        let mut command = redis::cmd("XGROUP");
        command
            .arg("CREATE")
            .arg(self.keys.jobs())
            .arg(GROUP)
            .arg("0")
            .arg("MKSTREAM");
        match self.talk.ask::<()>(&command).await {
            Err(error) if error.code() != Some("BUSYGROUP") => Err(error),
            _ => Ok(()),
        }
    }

    /// Claims new entries, at most so many; waits a moment for the first. It is not to be dropped before it has ended: what
    /// was claimed then would be ours without our knowing.
    pub async fn claim_new(&self, most: usize) -> Result<Vec<Entry>, RedisError> {
        let mut command = redis::cmd("XREADGROUP");
        command
            .arg("GROUP")
            .arg(GROUP)
            .arg(&self.me)
            .arg("COUNT")
            .arg(most)
            .arg("BLOCK");
        command
            .arg(BLOCK_MS)
            .arg("STREAMS")
            .arg(self.keys.jobs())
            .arg(">");
        let answer: Value = self.claims.ask(&command).await?;
        let Value::Array(mut streams) = answer else {
            return Ok(Vec::new());
        };
        match streams.pop() {
            Some(Value::Array(stream)) => entries(stream.into_iter().nth(1).unwrap_or_default()),
            _ => Ok(Vec::new()),
        }
    }

    /// Entries that were delivered and are nobody's now: their machines are lost, or have given them back. From `after` on.
    pub async fn waiting(&self, after: &str, most: usize) -> Result<Vec<Pending>, RedisError> {
        let mut command = redis::cmd("XPENDING");
        command
            .arg(self.keys.jobs())
            .arg(GROUP)
            .arg("IDLE")
            .arg(self.lease_ms());
        command.arg(after).arg("+").arg(most);
        pending(self.talk.ask(&command).await?, Some(&self.me))
    }

    /// What is ours by Redis' word.
    pub async fn ours(&self) -> Result<Vec<Pending>, RedisError> {
        let mut command = redis::cmd("XPENDING");
        command
            .arg(self.keys.jobs())
            .arg(GROUP)
            .arg("-")
            .arg("+")
            .arg(1000)
            .arg(&self.me);
        pending(self.talk.ask(&command).await?, None)
    }

    /// An entry's content; `None` if it was removed.
    pub async fn read(&self, id: &str) -> Result<Option<Entry>, RedisError> {
        let mut command = redis::cmd("XRANGE");
        command.arg(self.keys.jobs()).arg(id).arg(id);
        Ok(entries(self.talk.ask(&command).await?)?.pop())
    }

    /// Claims an entry that nobody holds; `false` if another one was quicker.
    pub async fn claim(&self, id: &str) -> Result<bool, RedisError> {
        let mut command = redis::cmd("XCLAIM");
        command
            .arg(self.keys.jobs())
            .arg(GROUP)
            .arg(&self.me)
            .arg(self.lease_ms())
            .arg(id);
        let claimed: Value = self.talk.ask(&command).await?;
        Ok(matches!(claimed, Value::Array(found) if found.iter().any(|entry| *entry != Value::Nil)))
    }

    /// An entry that was removed from the stream is done with.
    pub async fn drop_entry(&self, id: &str) -> Result<(), RedisError> {
        self.talk
            .ask(redis::cmd("XACK").arg(self.keys.jobs()).arg(GROUP).arg(id))
            .await
    }

    fn lease_ms(&self) -> u64 {
        u64::try_from(self.limits.lease.as_millis()).unwrap_or(u64::MAX)
    }

    fn keep_s(&self) -> u64 {
        self.limits.keep.as_secs()
    }

    /// Renews leases; tells which are not ours any more.
    pub async fn renew(&self, ids: &[String]) -> Result<Vec<String>, RedisError> {
        let mut command = script(scripts::RENEW, &[self.keys.jobs()]);
        command.arg(GROUP).arg(&self.me).arg(ids);
        self.talk.ask(&command).await
    }

    /// Gives an entry back; with `again` it is another run for the job store of whoever gets it.
    pub async fn give_back(&self, id: &str, job: &str, again: bool) -> Result<(), RedisError> {
        let mut command = script(scripts::GIVE_BACK, &[self.keys.jobs(), self.keys.job(job)]);
        command
            .arg(GROUP)
            .arg(&self.me)
            .arg(NOBODY)
            .arg(self.lease_ms())
            .arg(id);
        command.arg(u8::from(again)).arg(&self.me);
        self.talk.ask(&command).await
    }

    /// Notes where a job is. What cannot be noted now is told by the next note.
    pub async fn note(&self, job: &str, fields: &[(&str, String)]) -> Result<(), RedisError> {
        self.talk.ask(&self.noting(job, fields)).await
    }

    /// The same, until it is noted; `false` if it could not be.
    pub async fn note_surely(
        &self,
        job: &str,
        fields: &[(&str, String)],
        over: &CancellationToken,
    ) -> bool {
        let noted: Option<i64> = self.talk.patiently(&self.noting(job, fields), over).await;
        noted.is_some()
    }

    fn noting(&self, job: &str, fields: &[(&str, String)]) -> Cmd {
        let mut command = script(scripts::NOTE, &[self.keys.job(job), self.keys.events()]);
        command.arg(self.keep_s()).arg(news(job, fields));
        for (name, value) in fields {
            command.arg(name).arg(value);
        }
        command
    }

    /// What is known of a job: its run, and to which machine it was handed.
    pub async fn known(
        &self,
        job: &str,
        over: &CancellationToken,
    ) -> Option<(u64, Option<String>)> {
        let mut command = redis::cmd("HMGET");
        command.arg(self.keys.job(job)).arg("run").arg("handed");
        let told: (Option<u64>, Option<String>) = self.talk.patiently(&command, over).await?;
        Some((told.0.unwrap_or(0), told.1))
    }

    /// Puts an output into Redis.
    pub async fn put(&self, job: &str, name: &str, bytes: &[u8], over: &CancellationToken) -> bool {
        let key = self.keys.outputs(job);
        let put: Option<i64> = self
            .talk
            .patiently(redis::cmd("HSET").arg(&key).arg(name).arg(bytes), over)
            .await;
        let mut expire = redis::cmd("EXPIRE");
        expire.arg(&key).arg(self.keep_s());
        put.is_some() && self.talk.patiently::<i64>(&expire, over).await.is_some()
    }

    /// Settles a job, until that is done; `Some(false)` if it had been settled before.
    pub async fn settle(
        &self,
        entry: &Entry,
        job: &str,
        result: &[(&str, String)],
        dead: &[(&str, String)],
        over: &CancellationToken,
    ) -> Option<bool> {
        let keys = &self.keys;
        let all = [
            keys.jobs(),
            keys.job(job),
            keys.results(),
            keys.dead(),
            keys.events(),
        ];
        let mut command = script(scripts::SETTLE, &all);
        command
            .arg(GROUP)
            .arg(&entry.id)
            .arg(self.keep_s())
            .arg(KEPT)
            .arg(news(job, result));
        command.arg(result.len() * 2);
        for (name, value) in result {
            command.arg(name).arg(value);
        }
        if !dead.is_empty() {
            for (name, value) in dead {
                command.arg(name).arg(value);
            }
            // As it came, so that a person can put it back.
            for (name, value) in &entry.fields {
                command.arg(format!("entry.{name}")).arg(value);
            }
        }
        let settled: i64 = self.talk.patiently(&command, over).await?;
        Some(settled == 1)
    }

    /// Tells what this machine is. It is forgotten when it was not told for three leases.
    pub async fn advertise(
        &self,
        fields: &[(&str, String)],
        now_ms: u64,
    ) -> Result<(), RedisError> {
        let (key, all) = (self.keys.machine(&self.me), self.keys.machines());
        let mut pipe = redis::pipe();
        pipe.cmd("HSET").arg(&key);
        for (name, value) in fields {
            pipe.arg(name).arg(value);
        }
        pipe.ignore();
        pipe.cmd("PEXPIRE")
            .arg(&key)
            .arg(self.lease_ms() * 3)
            .ignore();
        pipe.cmd("ZADD")
            .arg(&all)
            .arg(now_ms)
            .arg(&self.me)
            .ignore();
        let oldest = now_ms.saturating_sub(self.lease_ms() * 3);
        pipe.cmd("ZREMRANGEBYSCORE")
            .arg(&all)
            .arg("-inf")
            .arg(oldest)
            .ignore();
        self.talk.ask_all(&pipe).await
    }

    /// This machine takes no more.
    pub async fn withdraw(&self) -> Result<(), RedisError> {
        self.talk
            .ask::<i64>(redis::cmd("ZREM").arg(self.keys.machines()).arg(&self.me))
            .await?;
        self.talk
            .ask(redis::cmd("DEL").arg(self.keys.machine(&self.me)))
            .await
    }
}

fn script(text: &str, keys: &[String]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(text).arg(keys.len()).arg(keys);
    command
}

/// What is told on the channel.
fn news(job: &str, fields: &[(&str, String)]) -> String {
    let mut told = serde_json::Map::from_iter([("id".to_owned(), job.into())]);
    told.extend(
        fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_str().into())),
    );
    serde_json::Value::Object(told).to_string()
}

/// An entry as Redis tells it: without fields if it was removed.
type Told = (String, Option<Vec<(String, Vec<u8>)>>);

/// `[[id, [name, value, …]], …]`; an entry without fields was removed.
fn entries(answer: Value) -> Result<Vec<Entry>, RedisError> {
    let all: Vec<Told> = redis::from_redis_value(answer)?;
    let whole = |(id, fields): (String, Option<_>)| {
        Some(Entry {
            id,
            fields: fields?,
        })
    };
    Ok(all.into_iter().filter_map(whole).collect())
}

/// `[[id, consumer, idle, deliveries], …]`, without those of `not`.
fn pending(answer: Value, not: Option<&str>) -> Result<Vec<Pending>, RedisError> {
    let all: Vec<(String, String, u64, u64)> = redis::from_redis_value(answer)
        .map_err(|_| failed("XPENDING answered something else than entries"))?;
    let theirs = all
        .into_iter()
        .filter(|(_, consumer, ..)| Some(consumer.as_str()) != not);
    Ok(theirs
        .map(|(id, _, _, deliveries)| Pending { id, deliveries })
        .collect())
}
