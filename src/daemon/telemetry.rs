//! The daemon's own log, in PM2's form: `2026-01-01T00:00:00: PM2 log: …`, to `pm2.log` and, as `log:PM2`, to the bus.

use super::bus::Bus;
use super::own_log::OwnLog;
use crate::core::spec::app::TIME_FORMAT;
use crate::sys::localtime;
use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Milliseconds since the Unix epoch.
pub fn wall_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as u64)
}

/// Sends what is logged to standard error (which is `pm2.log`, the file at `path`) and to the bus. `FORNAX_LOG` filters, default
/// `info`.
pub fn install(bus: Bus, path: &Path) {
    let filter = EnvFilter::try_from_env("FORNAX_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let format = std::env::var("PM2_LOG_DATE_FORMAT").unwrap_or_else(|_| TIME_FORMAT.to_owned());
    // A second daemon in one process happens in tests only; the first one's log is theirs too.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(DaemonLog {
            bus,
            format,
            file: Mutex::new(OwnLog::new(path)),
        })
        .try_init();
}

struct DaemonLog {
    bus: Bus,
    /// dayjs tokens; empty: no stamp, and nothing on the bus (spec 1.3).
    format: String,
    /// A lock, not a message: a line is to be out when the call returns, whatever comes next.
    file: Mutex<OwnLog>,
}

impl<S: Subscriber> Layer<S> for DaemonLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut words = Words::default();
        event.record(&mut words);
        let kind = if *event.metadata().level() <= Level::WARN {
            "error"
        } else {
            "log"
        };
        let text = format!("{}{}", words.message, words.fields);
        let at = wall_ms();
        let stamp = if self.format.is_empty() {
            String::new()
        } else {
            format!("{}: ", localtime::text(&self.format, at))
        };
        let line = format!("{stamp}PM2 {kind}: {text}\n");
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(&line);
        if !self.format.is_empty() {
            self.bus.publish("log:PM2", || {
                let data = serde_json::Value::from(format!("{text}\n"));
                format!(r#"{{"process":{{"pm_id":"PM2","name":"PM2","rev":null}},"at":{at},"data":{data}}}"#)
            });
        }
    }
}

#[derive(Default)]
struct Words {
    message: String,
    fields: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }
}
