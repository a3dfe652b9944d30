//! What a worker tells its primary: how it stands, and where it wants to listen, read with all the freedom that Node takes.

use crate::core::cluster::{Family, ListenerKey};
use serde_json::Value;

/// libuv's `UV_TCP_IPV6ONLY` and `UV_UDP_IPV6ONLY`.
const IPV6_ONLY: u64 = 1;
/// libuv's `UV_UDP_REUSEADDR`.
const UDP_REUSEADDR: u64 = 4;
/// Node's backlog where none is given.
const BACKLOG: i32 = 511;
/// The longest address taken, in bytes; no path or number is longer.
const ADDRESS: usize = 4096;

/// What the loop is to know of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterFact {
    /// Node is up in it; its script is about to run.
    Online,
    /// It listens: PM2's reload goes on.
    Listening,
    /// It has closed its channel: its servers are closed, or it has gone.
    Disconnected,
}

/// A listen of a worker. One that is `exclusive`, and with that one with `reusePort`, never gets here: Node binds it in the worker.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Query {
    pub key: ListenerKey,
    pub backlog: i32,
    pub ipv6_only: bool,
    pub reuse_address: bool,
    pub readable_all: bool,
    pub writable_all: bool,
    /// What all servers of this key share, as the first one has it: TLS ticket keys.
    pub data: Value,
}

impl Query {
    /// `None` for one that Node would not send.
    pub fn read(app: &str, message: &Value) -> Option<Self> {
        let number = |key: &str| message.get(key).and_then(Value::as_i64);
        let family = match message.get("addressType") {
            Some(Value::Number(kind)) if kind.as_i64() == Some(4) => Family::Tcp4,
            Some(Value::Number(kind)) if kind.as_i64() == Some(6) => Family::Tcp6,
            Some(Value::String(kind)) if kind == "udp4" => Family::Udp4,
            Some(Value::String(kind)) if kind == "udp6" => Family::Udp6,
            Some(Value::Number(_)) | Some(Value::Null) | None => Family::Unix,
            Some(_) => return None,
        };
        let address = message
            .get("address")
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty());
        if address.is_some_and(|text| text.len() > ADDRESS) {
            return None;
        }
        let key = ListenerKey {
            app: app.to_owned(),
            address: address.map(str::to_owned),
            port: number("port").unwrap_or(-1),
            family,
            fd: number("fd").filter(|fd| *fd >= 0),
            index: message.get("index").and_then(Value::as_u64).unwrap_or(0),
        };
        let flags = message.get("flags").and_then(Value::as_u64).unwrap_or(0);
        let is = |flag| flags & flag != 0;
        let truth = |key: &str| {
            message
                .get(key)
                .is_some_and(|value| *value == Value::Bool(true))
        };
        Some(Self {
            backlog: number("backlog")
                .and_then(|size| i32::try_from(size).ok())
                .filter(|size| *size > 0)
                .unwrap_or(BACKLOG),
            ipv6_only: is(IPV6_ONLY),
            reuse_address: !family.is_udp() || is(UDP_REUSEADDR),
            readable_all: truth("readableAll"),
            writable_all: truth("writableAll"),
            data: message.get("data").cloned().unwrap_or(Value::Null),
            key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_way_to_listen_is_understood() {
        let read = |message: Value| Query::read("web", &message).unwrap();
        let any = read(
            json!({"act": "queryServer", "index": 1, "address": null, "port": 80, "addressType": 4, "backlog": 0, "data": null}),
        );
        assert_eq!(
            (any.key.family, any.key.port, any.backlog),
            (Family::Tcp4, 80, BACKLOG)
        );
        assert_eq!((any.key.address, any.key.index), (None, 1));
        let six =
            read(json!({"address": "::", "port": 0, "addressType": 6, "flags": 1, "backlog": 9}));
        assert_eq!(
            (six.key.family, six.ipv6_only, six.backlog),
            (Family::Tcp6, true, 9)
        );
        let path =
            read(json!({"address": "/run/x", "port": -1, "addressType": -1, "readableAll": true}));
        assert_eq!(
            (path.key.family, path.readable_all, path.writable_all),
            (Family::Unix, true, false)
        );
        let udp = read(
            json!({"address": "0.0.0.0", "port": 53, "addressType": "udp4", "flags": 4, "fd": -1}),
        );
        assert_eq!(
            (udp.key.family, udp.reuse_address, udp.key.fd),
            (Family::Udp4, true, None)
        );
        let strange = [
            json!({"addressType": "ipx"}),
            json!({"addressType": {}, "port": 1}),
            json!({"addressType": 4, "address": "x".repeat(ADDRESS + 1)}),
        ];
        for message in strange {
            assert_eq!(Query::read("web", &message), None);
        }
    }
}
