//! The daemon is killed under apps: what they write, what must not change, and the wait for another daemon.

#![allow(clippy::unwrap_used, dead_code)]

use super::home::{Home, eventually, kill};
use fornax::pm2::client::Client;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Writes numbered lines for ever, in bursts.
pub const WRITER: &str = "#!/bin/bash\nn=0\nwhile :; do\n  for i in {1..50}; do echo \"line $((n += 1)) of a flood that does not end\"; done\n  sleep 0.02\ndone\n";

/// Python as people write it: without a flush.
pub const PYTHON: &str = "import time\nn = 0\nwhile True:\n    n += 1\n    print(f'line {n} from python')\n    time.sleep(0.001)\n";

/// A Node app that answers messages and counts what it has sent.
pub const NODE: &str = "let n = 0;\nprocess.on('message', (m) => { if (m && m.topic === 'echo') console.log('heard ' + m.data.word); });\nprocess.on('disconnect', () => console.log('DISCONNECTED'));\nsetInterval(() => { n += 1; console.log('line ' + n + ' from node'); process.send({type: 'axm:monitor', data: {sent: {value: n}}}); }, 2);\n";

/// What must not change of an instance.
#[derive(Debug, PartialEq)]
pub struct Identity {
    pub id: u64,
    pub pid: u64,
    pub restarts: u64,
    pub created_at: u64,
    pub unique_id: String,
    pub status: String,
}

pub fn identities(home: &Home) -> BTreeMap<String, Identity> {
    home.list()
        .into_iter()
        .map(|item| {
            let env = &item["pm2_env"];
            let identity = Identity {
                id: item["pm_id"].as_u64().unwrap(),
                pid: item["pid"].as_u64().unwrap(),
                restarts: env["restart_time"].as_u64().unwrap(),
                created_at: env["created_at"].as_u64().unwrap(),
                unique_id: env["unique_id"].as_str().unwrap().to_owned(),
                status: env["status"].as_str().unwrap().to_owned(),
            };
            (
                format!("{}:{}", item["name"].as_str().unwrap(), identity.id),
                identity,
            )
        })
        .collect()
}

pub fn status(home: &Home) -> Value {
    let mut client = Client::connect(&home.root().join("rpc.sock")).unwrap();
    client.call("fornaxStatus", &[json!({})]).unwrap()
}

pub fn keeper_pid(home: &Home) -> u32 {
    u32::try_from(status(home)["keeper"].as_u64().expect("there is a keeper")).unwrap()
}

/// Waits for a daemon that is not this one; how long that took.
pub fn until_another(home: &Home, before: u32) -> Duration {
    let began = Instant::now();
    eventually("another daemon answers", || {
        let mut client = Client::connect(&home.root().join("rpc.sock")).ok()?;
        let told: Value = client.call("fornaxStatus", &[json!({})]).ok()?;
        (told["pid"] != before).then_some(())
    });
    began.elapsed()
}

pub fn kill_daemon(home: &Home) -> Duration {
    let pid = home.daemon_pid().unwrap();
    kill(pid, 9);
    until_another(home, pid)
}

/// Every numbered line once, in order, from the first; how many.
#[track_caller]
pub fn assert_whole(home: &Home, log: &str) -> u64 {
    let text = home.read(log);
    let mut expected = 0;
    for line in text.lines().filter(|line| !line.starts_with("heard ")) {
        let number: u64 = line
            .strip_prefix("line ")
            .and_then(|rest| rest.split(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{log}: a torn line after {expected}: {line:?}"));
        expected += 1;
        assert_eq!(number, expected, "{log}: lost or doubled");
    }
    expected
}
