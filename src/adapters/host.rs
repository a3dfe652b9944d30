//! The machine's own figures, as PM2's `getSystemData` tells them (pm2 7.0.4, spec 3.5): CPU, memory, network, disks.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

/// A sector of /proc/diskstats, in bytes, whatever the disk's own sectors are (proc(5)).
const SECTOR: u64 = 512;
/// Bytes in PM2's megabyte.
const MEGABYTE: f64 = 1024.0 * 1024.0;

/// Counters that only mean something against the ones before.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counters {
    /// Busy and total CPU time, in ticks.
    cpu: (u64, u64),
    /// Received and sent bytes by interface.
    net: BTreeMap<String, (u64, u64)>,
    /// Bytes read and written by all disks.
    disk: (u64, u64),
}

/// The machine's figures over time. Owner: the sampling task.
#[derive(Debug, Default)]
pub struct HostSampler {
    last: Option<(Instant, Counters)>,
}

impl HostSampler {
    /// The figures since the call before; rates are 0 at the first one.
    pub fn sample(&mut self) -> Value {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let now = Counters {
            cpu: cpu(&read("/proc/stat")),
            net: network(&read("/proc/net/dev")),
            disk: disks(&read("/proc/diskstats")),
        };
        let at = Instant::now();
        let (before, seconds) = match self.last.take() {
            Some((since, counters)) => {
                (counters, at.duration_since(since).as_secs_f64().max(0.001))
            }
            None => (now.clone(), 1.0),
        };
        let figures = figures(&before, &now, seconds, &read("/proc/meminfo"));
        self.last = Some((at, now));
        Value::Object(figures)
    }
}

fn figures(before: &Counters, now: &Counters, seconds: f64, meminfo: &str) -> Map<String, Value> {
    let mut all = Map::new();
    let mut put = |name: &str, value: Value, unit: &str| {
        all.insert(
            name.to_owned(),
            json!({"value": value, "type": "metric", "unit": unit, "historic": true}),
        );
    };
    let rate = |old: u64, new: u64| {
        json!((new.saturating_sub(old) as f64 / seconds / MEGABYTE * 1000.0).round() / 1000.0)
    };
    let (busy, total) = (
        now.cpu.0.saturating_sub(before.cpu.0),
        now.cpu.1.saturating_sub(before.cpu.1),
    );
    put(
        "CPU Usage",
        json!((busy as f64 * 100.0 / total.max(1) as f64).round()),
        "%",
    );
    put("CPU Temperature", json!(-1), "°C");
    let (total, available) = (
        memory(meminfo, "MemTotal:"),
        memory(meminfo, "MemAvailable:"),
    );
    let used = total.saturating_sub(available);
    put(
        "RAM Usage",
        json!((used as f64 * 1000.0 / total.max(1) as f64).round() / 10.0),
        "%",
    );
    put("RAM Total", json!(total), "b");
    put("RAM Available", json!(available), "b");
    put("RAM Active", json!(used), "b");
    for (name, (received, sent)) in &now.net {
        let old = before.net.get(name).copied().unwrap_or((*received, *sent));
        put(&format!("net:rx_5:{name}"), rate(old.0, *received), "mb/s");
        put(&format!("net:tx_5:{name}"), rate(old.1, *sent), "mb/s");
    }
    put("Disk Reads", rate(before.disk.0, now.disk.0), "mb/s");
    put("Disk Writes", rate(before.disk.1, now.disk.1), "mb/s");
    all
}

/// The first line of /proc/stat: user nice system idle iowait …
fn cpu(text: &str) -> (u64, u64) {
    let line = text
        .lines()
        .find(|line| line.starts_with("cpu "))
        .unwrap_or_default();
    let ticks: Vec<u64> = line
        .split_ascii_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|field| field.parse().ok())
        .collect();
    let total: u64 = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (total - idle, total)
}

/// /proc/net/dev, without the loopback interface.
fn network(text: &str) -> BTreeMap<String, (u64, u64)> {
    let interface = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let fields: Vec<u64> = rest
            .split_ascii_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        Some((name.trim().to_owned(), (*fields.first()?, *fields.get(8)?)))
    };
    text.lines()
        .filter_map(interface)
        .filter(|(name, _)| name != "lo")
        .collect()
}

/// /proc/diskstats: whole disks only, since their partitions are counted in them.
fn disks(text: &str) -> (u64, u64) {
    let disk = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let name = fields.get(2)?;
        let virtual_disk = ["loop", "ram", "dm-", "md"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        // A disk may have a number in its name too: nvme0n1, whose partitions have a `p`.
        let numbered_disk = name.starts_with("nvme") && !name.contains('p');
        let partition = !numbered_disk && name.ends_with(|c: char| c.is_ascii_digit());
        if virtual_disk || partition {
            return None;
        }
        Some((
            fields.get(5)?.parse::<u64>().ok()?,
            fields.get(9)?.parse::<u64>().ok()?,
        ))
    };
    let (read, written) = text
        .lines()
        .filter_map(disk)
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    (read * SECTOR, written * SECTOR)
}

/// A line of /proc/meminfo, in bytes.
fn memory(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_procs_forms() {
        assert_eq!(
            cpu("cpu  10 0 20 60 10 0 0 0 0 0\ncpu0 1 1 1 1\n"),
            (30, 100)
        );
        let dev = "Inter-|   Receive\n face |bytes\n    lo: 5 0 0 0 0 0 0 0 5 0\n  eth0: 100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0\n";
        assert_eq!(
            network(dev),
            BTreeMap::from([("eth0".to_owned(), (100, 200))])
        );
        let stats = " 254 0 vda 1 0 8 0 1 0 16 0 0\n 254 1 vda1 1 0 8 0 1 0 16 0 0\n 259 0 nvme0n1 1 0 2 0 1 0 4 0 0\n 259 1 nvme0n1p1 1 0 2 0 1 0 4 0 0\n 7 0 loop0 1 0 9 0 1 0 9 0 0\n";
        assert_eq!(disks(stats), (10 * 512, 20 * 512));
        assert_eq!(
            memory("MemTotal:  2 kB\nMemAvailable: 1 kB\n", "MemTotal:"),
            2048
        );
    }

    #[test]
    fn rates_are_per_second_and_in_megabytes() {
        let before = Counters {
            cpu: (0, 0),
            net: BTreeMap::from([("e".to_owned(), (0, 0))]),
            disk: (0, 0),
        };
        let now = Counters {
            cpu: (50, 200),
            net: BTreeMap::from([("e".to_owned(), (4 << 20, 1 << 20))]),
            disk: (0, 2 << 20),
        };
        let figures = figures(&before, &now, 2.0, "");
        let value = |name: &str| figures[name]["value"].as_f64().unwrap();
        assert_eq!(
            (
                value("CPU Usage"),
                value("net:rx_5:e"),
                value("net:tx_5:e"),
                value("Disk Writes")
            ),
            (25.0, 2.0, 0.5, 1.0)
        );
    }
}
