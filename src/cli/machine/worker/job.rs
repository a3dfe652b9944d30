//! One job from its claim to its result: handed to the daemon, followed there, and told to Redis.

use super::entry::Order;
use super::held::Held;
use super::keys::SETTLED;
use super::machine::View;
use super::queue::Queue;
use crate::cli::machine::http::Api;
use bytes::Bytes;
use hyper::Method;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// From one try to reach the daemon to the next.
const AGAIN: Duration = Duration::from_millis(500);
/// Steps are noted no more often.
const NOTED: Duration = Duration::from_millis(500);
/// How long taking a job back may take when we are to end.
const TAKE_BACK: Duration = Duration::from_millis(800);
/// How long nothing is claimed after the daemon could not be given anything.
const REST: Duration = Duration::from_secs(2);

/// How it ended here.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its result is told; the state.
    Settled(String),
    /// It was given back; nothing is to be claimed for so long.
    Returned(Option<Duration>),
    /// It is somebody else's, or Redis does not take its result.
    Lost,
}

/// What a job's task works with.
#[derive(Clone)]
pub struct Work {
    pub queue: Arc<Queue>,
    pub views: watch::Receiver<Arc<View>>,
}

/// Why following it ended.
enum Followed {
    Settled,
    /// The daemon does not know it.
    Unknown,
    Lost,
    Stop,
}

/// Now, in UTC.
pub fn now() -> String {
    jiff::Timestamp::now()
        .round(jiff::Unit::Millisecond)
        .map_or_else(|_| String::new(), |at| at.to_string())
}

impl Work {
    /// Where the daemon is, if it is there.
    pub fn api(&self) -> Option<Api> {
        self.views.borrow().api.clone()
    }

    /// Does it.
    pub async fn run(self, held: Arc<Held>, order: Order) -> Ended {
        let (queue, id) = (&self.queue, order.id.as_str());
        let Some((run, handed)) = queue.known(id, &held.lost).await else {
            return Ended::Lost;
        };
        if let Some(other) = handed.filter(|other| order.once && *other != queue.me) {
            let reason =
                format!("{other} had it and was lost, and it is not to be run again (`once`)");
            return self.bury(held, reason).await;
        }
        let claimed = [
            ("state", "claimed".to_owned()),
            ("machine", queue.me.clone()),
            ("handed", queue.me.clone()),
            ("entry", held.entry.id.clone()),
            ("deliveries", held.deliveries.to_string()),
            ("claimed_at", now()),
        ];
        if !queue.note_surely(id, &claimed, &held.lost).await {
            return Ended::Lost;
        }
        loop {
            let job = match self.submit(&held, &order, run).await {
                Ok(job) => job,
                Err(ended) => return ended,
            };
            match self.follow(&held, id, &job).await {
                Followed::Settled => return self.report(&held, id, &job).await,
                Followed::Unknown => {
                    say!("{id}: the daemon does not know job {job} any more; handing it in again")
                }
                Followed::Lost => {
                    say!("{id} is another machine's now");
                    if self.take_back(&job).await {
                        return self.report(&held, id, &job).await;
                    }
                    return Ended::Lost;
                }
                Followed::Stop => {
                    // With Redis gone it goes on here, and is found under its key by whoever claims it here next.
                    let ended = self.give_back(&held, id, true, None).await;
                    if ended != Ended::Lost && self.take_back(&job).await {
                        return self.report(&held, id, &job).await;
                    }
                    return ended;
                }
            }
        }
    }

    /// Hands it to the daemon, which has it on disk then; its id there.
    async fn submit(&self, held: &Arc<Held>, order: &Order, run: u64) -> Result<String, Ended> {
        let mut body = order.body.clone();
        let key = self.queue.keys.idempotency(&order.id, run);
        body.insert("idempotency_key".to_owned(), key.into());
        body.entry("caller").or_insert_with(|| "redis".into());
        let body = Bytes::from(Value::Object(body).to_string());
        let (began, mut told) = (Instant::now(), String::new());
        loop {
            if held.stop.is_cancelled() {
                return Err(self.give_back(held, &order.id, false, None).await);
            }
            if held.lost.is_cancelled() {
                return Err(Ended::Lost);
            }
            let asked = async {
                let api = self
                    .api()
                    .ok_or_else(|| anyhow::anyhow!("the daemon is not there"))?;
                let answer = api
                    .ask(Method::POST, "/jobs", "application/json", body.clone())
                    .await?;
                let wait = answer
                    .header("retry-after")
                    .and_then(|text| text.parse().ok());
                let status = answer.status;
                let told: Value = serde_json::from_slice(&answer.whole().await?)?;
                anyhow::Ok((status, wait, told))
            };
            let why = match asked.await {
                Ok((200 | 202, _, told)) if told["id"].is_string() => {
                    held.hear();
                    return Ok(told["id"].as_str().unwrap_or_default().to_owned());
                }
                Ok((status @ (400 | 409 | 413 | 422), _, told)) => {
                    let said = told["error"].as_str().unwrap_or("no reason was told");
                    let reason = format!("the machine refuses it ({status}): {said}");
                    return Err(self.clone().bury(Arc::clone(held), reason).await);
                }
                Ok((429, wait, _)) => {
                    let pause = Some(Duration::from_secs(wait.unwrap_or(5)));
                    return Err(self.give_back(held, &order.id, false, pause).await);
                }
                Ok((status, _, told)) => {
                    format!("{status} {}", told["error"].as_str().unwrap_or_default())
                }
                Err(error) => format!("{error:#}"),
            };
            if why != told {
                say!("{} cannot be handed in now: {why}", order.id);
                told = why;
            }
            if began.elapsed() >= self.queue.limits.lease / 2 {
                return Err(self.give_back(held, &order.id, false, Some(REST)).await);
            }
            tokio::select! {
                () = held.stop.cancelled() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Follows it until it is settled; a daemon that goes and comes back is followed on.
    async fn follow(&self, held: &Held, id: &str, job: &str) -> Followed {
        let mut last = String::new();
        let mut noted = Instant::now() - NOTED;
        let following = async {
            loop {
                match self.followed(held, id, job, &mut last, &mut noted).await {
                    Ok(Some(followed)) => return followed,
                    Ok(None) | Err(_) => tokio::time::sleep(AGAIN).await,
                }
            }
        };
        let stop = async {
            held.stop.cancelled().await;
            tokio::time::sleep(self.queue.limits.grace).await;
        };
        tokio::select! {
            biased;
            followed = following => followed,
            () = held.lost.cancelled() => Followed::Lost,
            () = stop => Followed::Stop,
        }
    }

    /// One connection's events; `None`: it has ended before the job.
    async fn followed(
        &self,
        held: &Held,
        id: &str,
        job: &str,
        last: &mut String,
        noted: &mut Instant,
    ) -> anyhow::Result<Option<Followed>> {
        let Some(api) = self.api() else {
            return Ok(None);
        };
        let mut answer = api.follow(&format!("/jobs/{job}/events"), last).await?;
        match answer.status {
            200 => {}
            404 => return Ok(Some(Followed::Unknown)),
            _ => return Ok(None),
        }
        let mut text = String::new();
        while let Some(piece) = answer.piece().await? {
            held.hear();
            text.push_str(&String::from_utf8_lossy(&piece));
            while let Some(end) = text.find("\n\n") {
                let event: String = text.drain(..end + 2).collect();
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .unwrap_or_default()
                };
                if !field("id: ").is_empty() {
                    *last = field("id: ").to_owned();
                }
                let kind = field("event: ");
                if SETTLED.contains(&kind) {
                    return Ok(Some(Followed::Settled));
                }
                let data: Value = serde_json::from_str(field("data: ")).unwrap_or_default();
                self.tell(id, job, kind, &data, noted).await;
            }
        }
        Ok(None)
    }

    /// Tells where it is. Redis may be gone: then the next change tells it.
    async fn tell(&self, id: &str, job: &str, kind: &str, data: &Value, noted: &mut Instant) {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let fields = match kind {
            "" => return,
            "progress" if noted.elapsed() < NOTED => return,
            "progress" => vec![
                ("node", text(&data["node"])),
                ("value", text(&data["value"])),
                ("max", text(&data["max"])),
            ],
            state => vec![
                ("state", state.to_owned()),
                ("job", job.to_owned()),
                ("attempt", text(&data["attempt"])),
                ("instance", text(&data["instance"])),
                ("message", text(&data["message"])),
            ],
        };
        *noted = Instant::now();
        // An error has been told where the connection is made.
        drop(self.queue.note(id, &fields).await);
    }

    /// Asks the daemon to let go of it. `true`: it has been settled before, so there is a result.
    async fn take_back(&self, job: &str) -> bool {
        let Some(api) = self.api() else {
            return false;
        };
        let path = format!("/jobs/{job}");
        let asked = api.ask(Method::DELETE, &path, "", Bytes::new());
        matches!(tokio::time::timeout(TAKE_BACK, asked).await, Ok(Ok(answer)) if answer.status == 409)
    }

    /// Gives it back to the queue. With `again` its job here was taken back, so the next one is another.
    async fn give_back(
        &self,
        held: &Held,
        id: &str,
        again: bool,
        pause: Option<Duration>,
    ) -> Ended {
        let state = [
            ("state", "returned".to_owned()),
            ("message", format!("returned by {}", self.queue.me)),
        ];
        // An error has been told where the connection is made; then it is claimable after its lease.
        drop(self.queue.note(id, &state).await);
        match self.queue.give_back(&held.entry.id, id, again).await {
            Ok(()) => {
                say!("{id} is returned");
                Ended::Returned(pause)
            }
            Err(_) => {
                say!("{id} could not be returned; others may claim it when its lease is over");
                Ended::Lost
            }
        }
    }
}
