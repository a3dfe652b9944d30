//! One line of the list, read from one item of `jlist` (`getMonitorData`) without touching its environment.

use super::scalar::Scalar;
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// What the list shows of an instance.
///
/// Reading one never fails on a missing or odd field, which is left at its default: a foreign daemon may serve the
/// list. Everything that is not named here, the environment above all, is skipped without being copied.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProcRow {
    /// The process id; `None` when it is unknown, 0 when it is not running.
    pub pid: Option<u32>,
    /// The app's name.
    pub name: String,
    /// The namespace.
    pub namespace: Option<String>,
    /// PM2's number for the instance.
    pub pm_id: u32,
    /// The app's version; PM2 says `N/A` when it found none.
    pub version: Option<String>,
    /// `fork_mode` or `cluster_mode`.
    pub mode: String,
    /// The last start, in milliseconds since the Unix epoch.
    pub pm_uptime: Option<u64>,
    /// How often it was restarted.
    pub restarts: Option<u64>,
    /// PM2's word for its state; empty when unknown.
    pub status: String,
    /// CPU use in percent of one core.
    pub cpu: f64,
    /// Memory in use, in bytes.
    pub memory: u64,
    /// The user it runs as.
    pub username: Option<String>,
    /// The number of another user that it runs as.
    pub uid: Option<u32>,
    /// Its files are watched.
    pub watch: bool,
    /// Its cron pattern, if it has one.
    pub cron_restart: Option<String>,
    /// It is a module, and belongs in the second table.
    pub pmx_module: bool,
    /// `monitor` has marked it.
    pub is_marked: bool,
    /// The process that a module asked to have measured in its place.
    pub measured_pid: Option<u32>,
    /// When it was first started, in milliseconds since the Unix epoch.
    pub created_at: Option<u64>,
    /// Restarts in a row before it ran long enough.
    pub unstable_restarts: u64,
    /// The script.
    pub exec_path: Option<String>,
    /// The file of its standard output.
    pub out_log_path: Option<String>,
    /// The file of its standard error.
    pub err_log_path: Option<String>,
    /// The file with its process id.
    pub pid_path: Option<String>,
}

impl ProcRow {
    /// The mode as the tables write it. PM2 calls everything that is not `fork_mode` a cluster.
    pub fn mode_word(&self) -> &'static str {
        if self.mode == "fork_mode" {
            "fork"
        } else {
            "cluster"
        }
    }

    /// How long it has been running, as `45s`; `0` when it is not online.
    pub fn uptime(&self, now_ms: u64) -> String {
        match self.pm_uptime {
            Some(since) if self.status == "online" => {
                super::units::uptime(now_ms.saturating_sub(since))
            }
            _ => "0".to_owned(),
        }
    }

    /// Reads the reply of `getMonitorData`, or what `jlist` prints.
    ///
    /// # Errors
    /// Only when `json` is not an array of objects.
    pub fn list_from_json(json: &[u8]) -> Result<Vec<ProcRow>, serde_json::Error> {
        serde_json::from_slice(json)
    }

    fn set_env<'de, A: MapAccess<'de>>(
        &mut self,
        key: EnvKey,
        map: &mut A,
    ) -> Result<(), A::Error> {
        if key == EnvKey::Other {
            return map.next_value::<IgnoredAny>().map(drop);
        }
        if key == EnvKey::AxmOptions {
            let Skim(options) = map.next_value::<Skim<Options>>()?;
            self.measured_pid = options.pid;
            return Ok(());
        }
        let value: Scalar = map.next_value()?;
        match key {
            EnvKey::Name => self.name = value.text().unwrap_or_default(),
            EnvKey::Namespace => self.namespace = value.text(),
            EnvKey::Version => self.version = value.text(),
            EnvKey::ExecMode => self.mode = value.text().unwrap_or_default(),
            EnvKey::PmUptime => self.pm_uptime = value.whole(),
            EnvKey::RestartTime => self.restarts = value.whole(),
            EnvKey::Status => self.status = value.text().unwrap_or_default(),
            EnvKey::Username => self.username = value.text(),
            EnvKey::Uid => self.uid = pid(&value),
            EnvKey::Watch => self.watch = value.truthy(),
            EnvKey::CronRestart => self.cron_restart = value.text().filter(|text| text != "0"),
            EnvKey::PmxModule => self.pmx_module = value.truthy(),
            EnvKey::KmMonitored => self.is_marked = value.truthy(),
            EnvKey::CreatedAt => self.created_at = value.whole(),
            EnvKey::UnstableRestarts => self.unstable_restarts = value.whole().unwrap_or_default(),
            EnvKey::PmExecPath => self.exec_path = value.text(),
            EnvKey::PmOutLogPath => self.out_log_path = value.text(),
            EnvKey::PmErrLogPath => self.err_log_path = value.text(),
            EnvKey::PmPidPath => self.pid_path = value.text(),
            EnvKey::PmId => self.pm_id = pid(&value).unwrap_or(self.pm_id),
            EnvKey::AxmOptions | EnvKey::Other => {}
        }
        Ok(())
    }
}

fn pid(value: &Scalar) -> Option<u32> {
    value.whole().and_then(|number| u32::try_from(number).ok()) // A number past 32 bits is no pid.
}

#[derive(Deserialize, PartialEq)]
#[serde(field_identifier, rename_all = "snake_case")]
enum ItemKey {
    Pid,
    Name,
    PmId,
    Pm2Env,
    Monit,
    #[serde(other)]
    Other,
}

#[derive(Deserialize, PartialEq)]
#[serde(field_identifier, rename_all = "snake_case")]
enum EnvKey {
    Name,
    Namespace,
    Version,
    ExecMode,
    PmUptime,
    RestartTime,
    Status,
    Username,
    Uid,
    Watch,
    CronRestart,
    PmxModule,
    #[serde(rename = "_km_monitored")]
    KmMonitored,
    CreatedAt,
    UnstableRestarts,
    PmExecPath,
    PmOutLogPath,
    PmErrLogPath,
    PmPidPath,
    PmId,
    AxmOptions,
    #[serde(other)]
    Other,
}

#[derive(Deserialize, PartialEq)]
#[serde(field_identifier, rename_all = "snake_case")]
enum FigureKey {
    Pid,
    Cpu,
    Memory,
    #[serde(other)]
    Other,
}

/// Reads part of an object; anything that is not an object gives the default.
trait FromEntries: Default {
    fn take<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<bool, A::Error>;
}

/// `axm_options` and `monit`: the numbers wanted of them.
#[derive(Default)]
struct Options {
    pid: Option<u32>,
    cpu: f64,
    memory: u64,
}

impl FromEntries for Options {
    fn take<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<bool, A::Error> {
        let Some(key) = map.next_key::<FigureKey>()? else {
            return Ok(false);
        };
        if key == FigureKey::Other {
            map.next_value::<IgnoredAny>()?;
            return Ok(true);
        }
        let value: Scalar = map.next_value()?;
        match key {
            FigureKey::Pid => self.pid = pid(&value),
            FigureKey::Cpu => self.cpu = value.number().unwrap_or_default(),
            FigureKey::Memory => self.memory = value.whole().unwrap_or_default(),
            FigureKey::Other => {}
        }
        Ok(true)
    }
}

/// The entries of `pm2_env`, written into a row.
#[derive(Default)]
struct Env(ProcRow);

impl FromEntries for Env {
    fn take<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<bool, A::Error> {
        match map.next_key::<EnvKey>()? {
            Some(key) => self.0.set_env(key, map).map(|()| true),
            None => Ok(false),
        }
    }
}

/// A whole item, in whatever order its keys come.
#[derive(Default)]
struct Item {
    pid: Option<u32>,
    name: Option<String>,
    pm_id: Option<u32>,
    env: Env,
    monit: Options,
}

impl FromEntries for Item {
    fn take<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<bool, A::Error> {
        match map.next_key::<ItemKey>()? {
            Some(ItemKey::Pid) => self.pid = pid(&map.next_value()?),
            Some(ItemKey::Name) => self.name = map.next_value::<Scalar>()?.text(),
            Some(ItemKey::PmId) => self.pm_id = pid(&map.next_value()?),
            Some(ItemKey::Pm2Env) => self.env = map.next_value::<Skim<Env>>()?.0,
            Some(ItemKey::Monit) => self.monit = map.next_value::<Skim<Options>>()?.0,
            Some(ItemKey::Other) => map.next_value::<IgnoredAny>().map(drop)?,
            None => return Ok(false),
        }
        Ok(true)
    }
}

impl<'de> Deserialize<'de> for ProcRow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let item = deserializer.deserialize_map(SkimVisitor::<Item>(PhantomData))?;
        let mut row = item.env.0;
        row.pid = item.pid;
        row.pm_id = item.pm_id.unwrap_or(row.pm_id);
        row.name = item.name.unwrap_or(row.name);
        row.cpu = item.monit.cpu;
        row.memory = item.monit.memory;
        Ok(row)
    }
}

/// Wraps a `FromEntries` so that it reads from any value.
struct Skim<T>(T);

impl<'de, T: FromEntries> Deserialize<'de> for Skim<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(SkimVisitor(PhantomData))
            .map(Skim)
    }
}

struct SkimVisitor<T>(PhantomData<T>);

impl<'de, T: FromEntries> Visitor<'de> for SkimVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object that describes a process, as in the output of jlist")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut value = T::default();
        while value.take(&mut map)? {}
        Ok(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(T::default())
    }

    fn visit_unit<E: de::Error>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<T, E> {
        Ok(T::default())
    }
}
