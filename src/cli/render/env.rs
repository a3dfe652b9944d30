//! `pm2 env ID`: what an instance's record holds besides PM2's own bookkeeping.

use super::js;
use super::style::{Style, paint, plain};
use serde_json::Value;

/// The fields that PM2 leaves out (found by feeding pm2 7.0.4 a record with some 170 keys).
const LEFT_OUT: [&str; 40] = [
    "args",
    "automation",
    "autorestart",
    "autostart",
    "axm_actions",
    "axm_dynamic",
    "axm_monitor",
    "axm_options",
    "command",
    "created_at",
    "env",
    "exec_interpreter",
    "exec_mode",
    "exit_code",
    "filter_env",
    "instance_var",
    "instances",
    "kill_retry_time",
    "merge_logs",
    "name",
    "node_args",
    "pm_cwd",
    "pm_err_log_path",
    "pm_exec_path",
    "pm_id",
    "pm_out_log_path",
    "pm_pid_path",
    "pm_uptime",
    "pmx",
    "pmx_module",
    "prev_restart_delay",
    "restart_time",
    "status",
    "stop_exit_codes",
    "treekill",
    "unstable_restarts",
    "username",
    "versioning",
    "vizion",
    "watch",
];

/// Another field that PM2 leaves out, which has no meaning on Linux.
const WINDOWS_ONLY: &str = "windowsHide";

/// The lines `key: value` of a `pm2_env`, each with a line break, last key first as PM2 prints them. Objects are
/// left out; arrays are joined by commas.
pub fn lines(pm2_env: &Value, colour: bool) -> String {
    let entries = pm2_env.as_object().into_iter().flatten().rev();
    let shown =
        entries.filter(|(key, _)| !LEFT_OUT.contains(&key.as_str()) && *key != WINDOWS_ONLY);
    let lines = shown.filter_map(|(key, value)| {
        let value = js::text(value)?; // An object: left out.
        Some(format!(
            "{}: {}\n",
            plain(key, false),
            paint(&value, &[Style::Green], colour)
        ))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bookkeeping_and_objects_are_left_out_and_the_order_is_reversed() {
        let env = json!({
            "name": "a", "zz": 1, "A": null, "B": {"c": 1}, "C": [1, 2, [3]], "D": true, "E": "two\nlines",
            "windowsHide": true, "namespace": "default",
        });
        assert_eq!(
            lines(&env, false),
            "namespace: default\nE: two\nlines\nD: true\nC: 1,2,3\nA: \nzz: 1\n"
        );
        assert!(
            lines(&env, true)
                .starts_with("namespace: \x1b[32mdefault\x1b[39m\nE: \x1b[32mtwo\x1b[39m\n")
        );
    }

    #[test]
    fn what_is_no_record_has_no_lines() {
        assert_eq!(lines(&json!(null), true), "");
    }
}
