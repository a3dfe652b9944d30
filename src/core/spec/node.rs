//! What Node is given beside an app's own arguments: our agent, and source maps (pm2-behaviour 5.4, 7.1).

use serde_json::{Map, Value};

/// Flags beside which no file is loaded first: what is snapshotted or run would hold it, or it may not be read.
const ALONE: [&str; 12] = [
    "--build-snapshot",
    "--snapshot-blob",
    "--experimental-sea-config",
    "--permission",
    "--experimental-permission",
    "--policy",
    "--experimental-policy",
    "--test",
    "--check",
    "-c",
    "--version",
    "-v",
];

/// Whether an interpreter is Node itself. What only ends in its name, `ts-node` say, takes other arguments.
pub fn is_node(interpreter: &str) -> bool {
    let base = interpreter.rsplit('/').next().unwrap_or(interpreter);
    matches!(base, "node" | "nodejs")
}

/// Whether the app is run with our agent: a Node app, unless it says `pmx: false` or `automation: false`.
pub fn takes_agent(map: &Map<String, Value>, interpreter: Option<&str>, args: &[String]) -> bool {
    let off = |key: &str| map.get(key).is_some_and(is_false);
    let options = map
        .get("env")
        .and_then(|env| env.get("NODE_OPTIONS"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    let mut flags = args
        .iter()
        .map(String::as_str)
        .chain(options.split_whitespace());
    interpreter.is_some_and(is_node) && !off("pmx") && !off("automation") && !flags.any(is_alone)
}

fn is_alone(flag: &str) -> bool {
    ALONE.contains(&flag.split('=').next().unwrap_or(flag))
}

fn is_false(value: &Value) -> bool {
    value == false || value == "false"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn agent(conf: Value, interpreter: &str, args: &[&str]) -> bool {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        takes_agent(conf.as_object().unwrap(), Some(interpreter), &args)
    }

    #[test]
    fn node_apps_take_the_agent_unless_they_refuse_it() {
        assert!(agent(json!({}), "node", &[]));
        assert!(agent(
            json!({"pmx": true}),
            "/opt/node-20/bin/node",
            &["--max-old-space-size=100"]
        ));
        assert!(!takes_agent(&Map::new(), None, &[]));
        for interpreter in ["bun", "ts-node", "babel-node", "python3", "bash", "deno"] {
            assert!(!agent(json!({}), interpreter, &[]), "{interpreter}");
        }
        for refused in [
            json!({"pmx": false}),
            json!({"pmx": "false"}),
            json!({"automation": false}),
            json!({"env": {"NODE_OPTIONS": "--inspect --experimental-permission"}}),
        ] {
            assert!(!agent(refused.clone(), "node", &[]), "{refused}");
        }
        for flag in ["--build-snapshot", "--snapshot-blob=x.blob", "--permission"] {
            assert!(!agent(json!({}), "node", &[flag]), "{flag}");
        }
    }
}
