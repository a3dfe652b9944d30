//! The line under the list that tells how the machine is doing.

use super::js;
use super::style::{Style, paint};
use super::table::Layout;
use serde_json::Value;

/// From which value on a figure is yellow, and above which value it is red (as observed on pm2 7.0.4).
struct Levels {
    /// At this value and above it deserves a look.
    yellow: f64,
    /// Above this value it is too much.
    red: f64,
}

const CPU: Levels = Levels {
    yellow: 40.0,
    red: 70.0,
};
const HEAT: Levels = Levels {
    yellow: 50.0,
    red: 70.0,
};
const RAM: Levels = Levels {
    yellow: 70.0,
    red: 90.0,
};
const RATE: Levels = Levels {
    yellow: 10.0,
    red: 20.0,
};
const FAULTS: Levels = Levels {
    yellow: 1.0,
    red: 10.0,
};
const DISK_USE: Levels = Levels {
    yellow: 80.0,
    red: 90.0,
};

/// A file system is named only when it is fuller than this, in percent.
const SHOWN_DISK_USE: f64 = 60.0;

/// `host metrics | cpu: 4% | ram usage: 2.1% | eth0: ⇓ …mb/s ⇑ …mb/s | disk: ⇓ …mb/s ⇑ …mb/s`, without a line break.
///
/// `metrics` is the reply of `getSystemData`; `None` when it is empty, as it is with `pm2:sysmonit` off. Interfaces
/// without traffic are left out, and so are the disks below the full table.
pub fn line(metrics: &Value, layout: Layout, colour: bool) -> Option<String> {
    let metrics = metrics.as_object().filter(|map| !map.is_empty())?; // Nothing to tell.
    let line = Line { metrics, colour };
    let mut parts = vec![paint("host metrics", &[Style::Bold, Style::Cyan], colour)];
    let mut cpu = format!(
        "{}: {}",
        line.word("cpu"),
        line.figure("CPU Usage", "%", &CPU)
    );
    if line.value("CPU Temperature") > 0.0 {
        cpu += &format!(" {}", line.figure("CPU Temperature", "º", &HEAT));
    }
    parts.push(cpu);
    parts.push(format!(
        "{}: {}",
        line.word("ram usage"),
        line.figure("RAM Usage", "%", &RAM)
    ));
    parts.extend(line.networks());
    if layout == Layout::Full {
        parts.push(line.disks());
    }
    Some(parts.join(" | "))
}

struct Line<'a> {
    metrics: &'a serde_json::Map<String, Value>,
    colour: bool,
}

impl Line<'_> {
    fn word(&self, text: &str) -> String {
        paint(text, &[Style::Bold], self.colour)
    }

    fn value(&self, key: &str) -> f64 {
        let value = self.metrics.get(key).and_then(|metric| metric.get("value"));
        let text = || value?.as_str()?.parse().ok(); // Text that is no number counts as no figure.
        value.and_then(Value::as_f64).or_else(text).unwrap_or(0.0)
    }

    fn figure(&self, key: &str, unit: &str, levels: &Levels) -> String {
        self.coloured(self.value(key), unit, levels)
    }

    fn coloured(&self, value: f64, unit: &str, levels: &Levels) -> String {
        let styles: &[Style] = if value > levels.red {
            &[Style::Bold, Style::Red]
        } else if value >= levels.yellow {
            &[Style::Bold, Style::Yellow]
        } else if value > 0.0 {
            &[Style::Green]
        } else {
            &[]
        };
        paint(&format!("{}{unit}", js::number(value)), styles, self.colour)
    }

    fn networks(&self) -> Vec<String> {
        let names = self
            .metrics
            .keys()
            .filter_map(|key| key.strip_prefix("net:rx_5:"));
        let busy = names.filter(|name| {
            self.value(&format!("net:rx_5:{name}")) > 0.0
                || self.value(&format!("net:tx_5:{name}")) > 0.0
        });
        busy.map(|name| self.network(name)).collect()
    }

    fn network(&self, name: &str) -> String {
        let rate = |kind: &str| self.figure(&format!("net:{kind}_5:{name}"), "mb/s", &RATE);
        let mut text = format!("{}: ⇓ {} ⇑ {}", self.word(name), rate("rx"), rate("tx"));
        for (word, kind) in [("err", "errors"), ("drop", "dropped")] {
            let count = self.value(&format!("net:rx_{kind}_60:{name}"))
                + self.value(&format!("net:tx_{kind}_60:{name}"));
            if count > 0.0 {
                text += &format!(
                    " {} {}",
                    self.word(word),
                    self.coloured(count, "/min", &FAULTS)
                );
            }
        }
        text
    }

    fn disks(&self) -> String {
        let rate = |key: &str| self.figure(key, "mb/s", &RATE);
        let mut text = format!(
            "{}: ⇓ {} ⇑ {}",
            self.word("disk"),
            rate("Disk Reads"),
            rate("Disk Writes")
        );
        for key in self.metrics.keys() {
            let Some(mount) = key.strip_prefix("fs:use:") else {
                continue;
            };
            let used = self.value(key);
            if used > SHOWN_DISK_USE {
                let mount = paint(mount, &[Style::Gray], self.colour);
                text += &format!(" {mount} {}", self.coloured(used, "%", &DISK_USE));
            }
        }
        text
    }
}
