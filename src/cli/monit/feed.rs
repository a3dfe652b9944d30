//! Where news come from: a thread that asks for the list, and one that hears the bus.

use super::view::App;
use crate::cli::session::{Session, wall_ms};
use crate::pm2::client::{BusClient, Client, ClientError};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// How often the list is asked for (pm2 7.0.4: 800 ms).
const PERIOD: Duration = Duration::from_millis(800);
/// How long an answer may take before it is called trouble.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// News that wait to be taken; further lines are dropped and counted.
const WAITING: usize = 4_096;

/// What has happened.
pub enum News {
    /// All apps, as they are now.
    Apps(Vec<App>),
    /// Lines of one.
    Line {
        /// Of which.
        id: u32,
        /// From standard error.
        is_err: bool,
        /// Its text.
        text: String,
    },
    /// So many lines came too fast.
    Missed(u64),
    /// Nobody answers, and why; or all is well again.
    Trouble(Option<String>),
}

/// Both threads. They end with this process.
pub struct Feed {
    news: Receiver<News>,
    dropped: Arc<AtomicU64>,
}

impl Feed {
    /// From now on.
    pub fn start(session: &Session) -> anyhow::Result<Self> {
        let (sender, news) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let (rpc, bus) = (session.home.rpc_socket(), session.home.pub_socket());
        let (apps, lost) = (sender.clone(), Arc::clone(&dropped));
        std::thread::Builder::new()
            .name("fornax-list".to_owned())
            .spawn(move || ask(&rpc, &apps))?;
        std::thread::Builder::new()
            .name("fornax-bus".to_owned())
            .spawn(move || hear(&bus, &sender, &lost))?;
        Ok(Self { news, dropped })
    }

    /// What has come since, at most so much.
    pub fn take(&self, most: usize) -> Vec<News> {
        let mut taken: Vec<News> = self.news.try_iter().take(most).collect();
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            taken.push(News::Missed(dropped));
        }
        taken
    }
}

fn ask(socket: &Path, news: &SyncSender<News>) {
    let mut client: Option<Client> = None;
    loop {
        let asked = apps(&mut client, socket);
        let told = match asked {
            Ok(apps) => [News::Apps(apps), News::Trouble(None)],
            Err(error) => {
                client = None;
                [News::Trouble(Some(error.to_string())), News::Missed(0)]
            }
        };
        for told in told {
            if news.send(told).is_err() {
                return;
            }
        }
        std::thread::sleep(PERIOD);
    }
}

fn apps(client: &mut Option<Client>, socket: &Path) -> Result<Vec<App>, ClientError> {
    if client.is_none() {
        let mut fresh = Client::connect(socket)?;
        // Without a limit it would wait for ever, which is no worse than not asking.
        let _ = fresh.set_limit(ANSWER_WITHIN);
        *client = Some(fresh);
    }
    let Some(client) = client else {
        return Ok(Vec::new());
    };
    let items: Vec<Value> = client.call("getMonitorData", &[json!({"env": false})])?;
    let now = wall_ms();
    Ok(items.iter().map(|item| App::read(item, now)).collect())
}

fn hear(socket: &Path, news: &SyncSender<News>, dropped: &AtomicU64) {
    loop {
        if let Ok(mut bus) = BusClient::connect(socket) {
            while let Ok((topic, payload)) = bus.next_event() {
                let is_err = match topic.as_str() {
                    "log:out" => false,
                    "log:err" => true,
                    _ => continue,
                };
                let payload: Value = serde_json::from_str(&payload).unwrap_or_default();
                let (Some(id), Some(text)) = (
                    payload["process"]["pm_id"].as_u64(),
                    payload["data"].as_str(),
                ) else {
                    continue;
                };
                let line = News::Line {
                    id: id as u32,
                    is_err,
                    text: text.to_owned(),
                };
                if news.try_send(line).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        // Its successor listens on the same socket.
        std::thread::sleep(PERIOD);
    }
}
