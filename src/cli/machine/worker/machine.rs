//! What is there: the ComfyUIs of this machine, which of them take jobs, and what each of them has.

use super::fit::{Abilities, Needs};
use crate::cli::machine::http::Api;
use crate::cli::machine::plain_session;
use crate::comfyui::client::Client;
use crate::gpu::inventory::{Inventory, detect};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// All is looked at anew so often, also when nothing was told.
const PERIOD: Duration = Duration::from_secs(5);
/// A daemon that is not there is looked for so often.
const AGAIN: Duration = Duration::from_millis(500);
/// Models and memory of an instance are asked for so often; classes once in its life.
const FRESH: Duration = Duration::from_secs(60);

/// The machine at one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Changes whenever anything else does.
    pub version: u64,
    /// Its ComfyUIs.
    pub instances: Vec<Instance>,
    /// Why nothing can be asked, if so.
    pub note: Option<String>,
    /// Its GPUs by the driver's word.
    pub gpus: Value,
    /// Where its daemon is.
    pub api: Option<Api>,
}

/// One ComfyUI.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    pub name: String,
    pub generation: u64,
    pub status: String,
    pub message: String,
    pub draining: bool,
    pub gpu: Value,
    /// What it has, once it could be asked in this life.
    pub abilities: Option<Arc<Abilities>>,
}

impl Instance {
    fn takes(&self) -> bool {
        self.status == "healthy" && !self.draining && self.abilities.is_some()
    }
}

impl View {
    /// Before anything was looked at.
    pub fn unknown() -> Self {
        let note = "asks the daemon what is there";
        Self {
            note: Some(note.to_owned()),
            ..Self::default()
        }
    }

    /// How many take jobs.
    pub fn taking(&self) -> usize {
        self.instances.iter().filter(|one| one.takes()).count()
    }

    /// Whether any that takes jobs could do this one; else what is lacking.
    pub fn fits(&self, needs: &Needs) -> Result<(), String> {
        let mut lacking = None;
        for one in self.instances.iter().filter(|one| one.takes()) {
            let abilities = one.abilities.as_deref();
            match abilities.and_then(|abilities| abilities.lacks(needs)) {
                None => return Ok(()),
                Some(lacks) => lacking = Some(format!("{} lacks {lacks}", one.name)),
            }
        }
        Err(lacking.unwrap_or_else(|| "no ComfyUI takes jobs".to_owned()))
    }

    /// How it stands, in a line.
    pub fn words(&self) -> String {
        if let Some(note) = &self.note {
            return note.clone();
        }
        let all = self.instances.len();
        let head = format!("{} of {all} ComfyUIs take jobs", self.taking());
        let idle = self.instances.iter().filter(|one| !one.takes());
        let why: Vec<String> = idle
            .map(|one| match (one.draining, one.status.as_str()) {
                (true, _) => format!("{} is draining", one.name),
                (_, "healthy") => format!("{} has not told what it has yet", one.name),
                (_, status) => format!("{} is {status}: {}", one.name, one.message),
            })
            .collect();
        match why.is_empty() {
            true => head,
            false => format!("{head}; {}", why.join("; ")),
        }
    }

    /// What is told to others, field by field; lists as JSON.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let mut models: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut nodes: Vec<&str> = Vec::new();
        for abilities in self
            .instances
            .iter()
            .filter_map(|one| one.abilities.as_deref())
        {
            nodes.extend(abilities.classes.keys().map(String::as_str));
            for (folder, names) in &abilities.models {
                models
                    .entry(folder)
                    .or_default()
                    .extend(names.iter().map(String::as_str));
            }
        }
        nodes.sort_unstable();
        nodes.dedup();
        for names in models.values_mut() {
            names.sort_unstable();
            names.dedup();
        }
        let instances: Vec<Value> = self
            .instances
            .iter()
            .map(|one| {
                let abilities = one.abilities.as_deref();
                json!({
                    "service": one.name, "status": one.status, "draining": one.draining, "takes": one.takes(),
                    "generation": one.generation, "gpu": one.gpu,
                    "comfyui": abilities.map(|has| &has.version), "device": abilities.map(|has| &has.device),
                    "vram_total": abilities.map(|has| has.vram_total), "vram_free": abilities.map(|has| has.vram_free),
                })
            })
            .collect();
        vec![
            ("taking", self.taking().to_string()),
            ("why", self.words()),
            ("instances", Value::from(instances).to_string()),
            ("gpus", self.gpus.to_string()),
            ("models", json!(models).to_string()),
            ("nodes", json!(nodes).to_string()),
        ]
    }
}

/// What an instance has told, and when.
struct Known {
    abilities: Arc<Abilities>,
    at: Instant,
}

/// Looks until it is told to end, and tells what has changed.
pub async fn observe(views: watch::Sender<Arc<View>>, over: CancellationToken) {
    let observing = async {
        let mut known: HashMap<(String, u64), Known> = HashMap::new();
        let mut gpus = Inventory::default();
        let mut asked: Option<Instant> = None;
        loop {
            let Some(api) = find().await else {
                tell(
                    &views,
                    View {
                        note: Some(
                            "no daemon serves port 9090 in this home; waiting for it".to_owned(),
                        ),
                        ..View::default()
                    },
                );
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            let events = api.follow("/events", "").await;
            let mut events = events.ok().filter(|answer| answer.status == 200);
            loop {
                let Ok(services) = services(&api).await else {
                    break;
                };
                let real = |one: &Instance| {
                    one.gpu["uuid"]
                        .as_str()
                        .is_some_and(|uuid| !uuid.starts_with("SIM-"))
                };
                if services.iter().any(|(one, _)| real(one))
                    && asked.is_none_or(|at| at.elapsed() >= FRESH)
                {
                    asked = Some(Instant::now());
                    gpus = tokio::task::spawn_blocking(detect)
                        .await
                        .unwrap_or_default();
                }
                let view = look(services, &mut known, &gpus).await;
                tell(
                    &views,
                    View {
                        api: Some(api.clone()),
                        ..view
                    },
                );
                let Some(answer) = events.as_mut() else { break };
                let changed = async {
                    loop {
                        let piece = answer.piece().await.ok().flatten()?;
                        let text = String::from_utf8_lossy(&piece);
                        // Jobs are told there too, and are no news here.
                        if text.contains("event: service") || text.contains("event: removed") {
                            return Some(());
                        }
                    }
                };
                if matches!(tokio::time::timeout(PERIOD, changed).await, Ok(None)) {
                    break;
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::select! {
        () = over.cancelled() => {}
        () = observing => {}
    }
}

/// Where the daemon of this home serves HTTP.
async fn find() -> Option<Api> {
    let found = tokio::task::spawn_blocking(|| Api::of(&mut plain_session()).ok());
    found.await.ok().flatten()
}

/// Its ComfyUIs, and where each of them is.
async fn services(api: &Api) -> anyhow::Result<Vec<(Instance, Option<SocketAddr>)>> {
    let told = api
        .ask(Method::GET, "/services", "", Bytes::new())
        .await?
        .json()
        .await?;
    let all = told["services"].as_array().into_iter().flatten();
    let ours = all.filter(|service| service["type"] == "comfyui" && service["enabled"] != false);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(ours
        .map(|service| {
            let endpoint = text(&service["endpoint"]);
            let address = endpoint
                .strip_prefix("http://")
                .and_then(|rest| rest.parse().ok());
            let instance = Instance {
                name: text(&service["name"]),
                generation: service["generation"].as_u64().unwrap_or(0),
                status: text(&service["status"]),
                message: text(&service["message"]),
                draining: service["draining"] == true,
                gpu: service["gpu"].clone(),
                abilities: None,
            };
            (instance, address)
        })
        .collect())
}

/// Adds what each has, asked anew where that is due.
async fn look(
    services: Vec<(Instance, Option<SocketAddr>)>,
    known: &mut HashMap<(String, u64), Known>,
    gpus: &Inventory,
) -> View {
    let mut view = View {
        gpus: json!(gpus.gpus),
        ..View::default()
    };
    known.retain(|(name, generation), _| {
        services
            .iter()
            .any(|(one, _)| one.name == *name && one.generation == *generation)
    });
    for (mut one, address) in services {
        let key = (one.name.clone(), one.generation);
        let is_due = known
            .get(&key)
            .is_none_or(|known| known.at.elapsed() >= FRESH);
        if let Some(address) = address.filter(|_| is_due && one.status == "healthy") {
            let before = known.get(&key).map(|known| Arc::clone(&known.abilities));
            match abilities(address, before.as_deref()).await {
                Ok(mut has) => {
                    let uuid = one.gpu["uuid"].as_str();
                    let card = gpus.gpus.iter().find(|gpu| Some(gpu.uuid.as_str()) == uuid);
                    if let Some(total) = card.and_then(|card| card.memory_total) {
                        has.vram_total = total.0;
                    }
                    let fresh = Known {
                        abilities: Arc::new(has),
                        at: Instant::now(),
                    };
                    known.insert(key.clone(), fresh);
                }
                Err(error) => say!("{} could not be asked what it has: {error}", one.name),
            }
        }
        one.abilities = known.get(&key).map(|known| Arc::clone(&known.abilities));
        view.instances.push(one);
    }
    view
}

async fn abilities(
    address: SocketAddr,
    before: Option<&Abilities>,
) -> Result<Abilities, crate::comfyui::client::ClientError> {
    let client = Client::new(address);
    let classes = match before {
        Some(before) => before.classes.clone(),
        None => Abilities::classes_of(&client.object_info().await?),
    };
    let mut models = BTreeMap::new();
    for folder in client.model_folders().await? {
        let names = client.models(&folder).await?.unwrap_or_default();
        if !names.is_empty() {
            models.insert(folder, names);
        }
    }
    let stats = client.system_stats().await?;
    let device = stats.devices.first();
    Ok(Abilities {
        classes,
        models,
        vram_total: device.map_or(0, |device| device.vram_total),
        vram_free: device.map_or(0, |device| device.vram_free),
        device: device.map(|device| device.name.clone()).unwrap_or_default(),
        version: stats.system.comfyui_version,
    })
}

/// Tells it if it is another one than before.
fn tell(views: &watch::Sender<Arc<View>>, view: View) {
    views.send_if_modified(|told| {
        let same =
            told.instances == view.instances && told.note == view.note && told.gpus == view.gpus;
        if same && told.api.is_some() == view.api.is_some() && told.version > 0 {
            return false;
        }
        let version = told.version + 1;
        *told = Arc::new(View { version, ..view });
        true
    });
}
