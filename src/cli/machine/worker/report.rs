//! A job's end, told to Redis: its outputs first, then its result, and a dead letter where nobody is to take it again.

use super::held::Held;
use super::job::{Ended, Work, now};
use super::keys::SETTLED;
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// From one try to reach the daemon to the next.
const AGAIN: Duration = Duration::from_millis(500);

impl Work {
    /// An entry that nobody is to take again: it is told as dead, with the reason.
    pub async fn bury(self, held: Arc<Held>, reason: String) -> Ended {
        held.finish();
        let id = held.entry.name();
        say!("{id} is dead: {reason}");
        let result = self.result(&held, &id, "dead", &[("error", reason.clone())]);
        self.settle(&held, &id, result, Some(reason)).await
    }

    /// Brings its result to Redis: outputs first, then its end.
    pub async fn report(&self, held: &Held, id: &str, job: &str) -> Ended {
        let told = loop {
            let asked = async {
                let api = self.api()?;
                let answer = api
                    .ask(Method::GET, &format!("/jobs/{job}"), "", Bytes::new())
                    .await
                    .ok()?;
                answer.json().await.ok()
            };
            match asked.await {
                Some(told) if SETTLED.contains(&told["state"].as_str().unwrap_or_default()) => {
                    break told;
                }
                _ => tokio::time::sleep(AGAIN).await,
            }
        };
        // From here on it needs the daemon no more, and its lease is renewed until its result is told.
        held.finish();
        let state = told["state"].as_str().unwrap_or_default();
        let Some(outputs) = self.outputs(held, id, &told).await else {
            return Ended::Lost;
        };
        let attempts: Vec<Value> = told["attempts"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|attempt| json!({"number": attempt["number"], "instance": attempt["instance"], "outcome": attempt["outcome"]["kind"], "message": attempt["message"]}))
            .collect();
        let error = told["error"].as_str().unwrap_or_default().to_owned();
        let fields = [
            ("job", job.to_owned()),
            ("attempts", Value::from(attempts).to_string()),
            ("outputs", Value::from(outputs).to_string()),
            ("error", error.clone()),
        ];
        let result = self.result(held, id, state, &fields);
        let dead = (state == "dead").then_some(error);
        self.settle(held, id, result, dead).await
    }

    /// Puts its outputs into Redis, as far as they are small enough, and tells of all of them.
    async fn outputs(&self, held: &Held, id: &str, told: &Value) -> Option<Vec<Value>> {
        let (mut all, mut room) = (Vec::new(), self.queue.limits.inline);
        for output in told["outputs"].as_array().into_iter().flatten() {
            let bytes = output["bytes"].as_u64().unwrap_or(u64::MAX);
            let mut output = output.clone();
            let mut inline = false;
            if bytes <= room {
                let url = output["url"].as_str().unwrap_or_default();
                let name = output["name"].as_str().unwrap_or_default();
                if let Some(content) = self
                    .fetch(url)
                    .await
                    .filter(|content| content.len() as u64 == bytes)
                {
                    if !self.queue.put(id, name, &content, &held.lost).await {
                        return None;
                    }
                    (inline, room) = (true, room - bytes);
                }
            }
            output["inline"] = inline.into();
            all.push(output);
        }
        Some(all)
    }

    async fn fetch(&self, url: &str) -> Option<Vec<u8>> {
        let answer = self
            .api()?
            .ask(Method::GET, url, "", Bytes::new())
            .await
            .ok()?;
        match answer.status {
            200 => answer.whole().await.ok(),
            _ => None,
        }
    }

    fn result(
        &self,
        held: &Held,
        id: &str,
        state: &str,
        more: &[(&'static str, String)],
    ) -> Vec<(&'static str, String)> {
        let mut result = vec![
            ("id", id.to_owned()),
            ("state", state.to_owned()),
            ("machine", self.queue.me.clone()),
            ("entry", held.entry.id.clone()),
            ("deliveries", held.deliveries.to_string()),
            ("ended_at", now()),
        ];
        result.extend_from_slice(more);
        result
    }

    async fn settle(
        &self,
        held: &Held,
        id: &str,
        result: Vec<(&'static str, String)>,
        dead: Option<String>,
    ) -> Ended {
        let state = result
            .iter()
            .find(|(name, _)| *name == "state")
            .map_or("", |(_, state)| state)
            .to_owned();
        let letter: Vec<(&str, String)> = match dead {
            Some(reason) => vec![
                ("id", id.to_owned()),
                ("reason", reason),
                ("machine", self.queue.me.clone()),
                ("deliveries", held.deliveries.to_string()),
                ("ended_at", now()),
            ],
            None => Vec::new(),
        };
        // A result counts also when the lease has been lost: it is the first, or it is dropped there.
        let over = CancellationToken::new();
        match self
            .queue
            .settle(&held.entry, id, &result, &letter, &over)
            .await
        {
            Some(true) => Ended::Settled(state),
            Some(false) => {
                say!("{id} had been settled before; this result is dropped");
                Ended::Lost
            }
            None => Ended::Lost,
        }
    }
}
