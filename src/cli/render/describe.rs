//! `pm2 describe`: everything that is known of one instance, in PM2's two-column tables.

use super::blocks;
use super::grid::{Cell, Grid};
use super::js;
use super::style::{Style, paint, plain};
use super::table::status_style;
use super::units;
use serde_json::Value;

/// How titles look.
const TITLE: &[Style] = &[Style::Bold, Style::Inverse];
/// How hints look.
const HINT: &[Style] = &[Style::White, Style::Italic];
/// Characters of an environment value that are shown.
const MAX_ENV_VALUE: usize = 40;

/// Describes one item of `getMonitorData`.
///
/// `local_env` is the environment of the caller, in its order: variables that the app has with another value are
/// listed. `now_ms` is the present in milliseconds since the Unix epoch. What Fornax knows beyond PM2 (health, the
/// last exit) follows after PM2's blocks.
pub fn describe<'a>(
    item: &Value,
    local_env: impl IntoIterator<Item = (&'a str, &'a str)>,
    now_ms: u64,
    colour: bool,
) -> String {
    let page = Page {
        item,
        env: item.get("pm2_env").unwrap_or(&Value::Null),
        now_ms,
        colour,
    };
    let mut out = page.module_infos();
    out += &page.title(&format!(
        "Describing process with id {} - name {}",
        page.id(),
        page.name()
    ));
    out += &page.table(page.facts());
    out += &page.process_configuration();
    out += &page.revision();
    out += &page.actions();
    out += &page.metrics();
    out += &page.divergent_env(local_env);
    out += &page.hints();
    out += &blocks::fornax(page.env.get("fornax_state"), now_ms, colour);
    out
}

struct Page<'a> {
    item: &'a Value,
    env: &'a Value,
    now_ms: u64,
    colour: bool,
}

impl Page<'_> {
    fn title(&self, text: &str) -> String {
        title(text, self.colour)
    }

    fn table(&self, rows: Vec<Vec<Cell>>) -> String {
        let keyed = rows.first().is_some_and(|row| row.len() > 1);
        Grid {
            rows,
            keyed,
            ..Grid::default()
        }
        .draw(self.colour)
    }

    fn id(&self) -> String {
        let id = self.env.get("pm_id").or_else(|| self.item.get("pm_id"));
        id.and_then(js::text).unwrap_or_else(|| "N/A".to_owned())
    }

    fn name(&self) -> String {
        let name = self.env.get("name").or_else(|| self.item.get("name"));
        plain(&name.and_then(js::text).unwrap_or_default(), false)
    }

    /// The value of a field as text; `None` when it is missing, `null`, or an object.
    fn text(&self, key: &str) -> Option<String> {
        self.env
            .get(key)
            .filter(|value| !value.is_null())
            .and_then(js::text)
    }

    fn facts(&self) -> Vec<Vec<Cell>> {
        let status = self.text("status").unwrap_or_default();
        let mut rows = vec![vec![
            "status".into(),
            Cell::styled(&status, status_style(&status)),
        ]];
        let mut add = |label: &str, value: Option<String>| {
            rows.push(vec![
                label.into(),
                value.unwrap_or_else(|| "N/A".to_owned()).into(),
            ]);
        };
        let field = |key: &str| self.text(key);
        add("name", Some(self.name()));
        add("namespace", field("namespace"));
        add("version", field("version"));
        add("restarts", field("restart_time"));
        for (label, key) in [
            ("max memory restart", "max_memory_restart"),
            ("cron restart", "cron_restart"),
        ] {
            if let Some(value) = field(key) {
                add(label, Some(value));
            }
        }
        add("uptime", Some(self.uptime(&status)));
        if let Some(path) = field("pm_log_path") {
            add("entire log path", Some(path));
        }
        add("script path", field("pm_exec_path"));
        add("script args", self.words("args"));
        add("error log path", field("pm_err_log_path"));
        add("out log path", field("pm_out_log_path"));
        add("pid path", field("pm_pid_path"));
        add("interpreter", field("exec_interpreter"));
        add(
            "interpreter args",
            self.words("node_args").filter(|words| !words.is_empty()),
        );
        add("script id", Some(self.id()));
        add("exec cwd", field("pm_cwd"));
        add("exec mode", field("exec_mode"));
        add("node.js version", field("node_version"));
        let node_env = self.env.get("env").and_then(|env| env.get("NODE_ENV"));
        add(
            "node env",
            node_env.and_then(js::text).filter(|text| !text.is_empty()),
        );
        let watched = match self.env.get("watch").unwrap_or(&Value::Null) {
            Value::Null | Value::Bool(false) => Cell::from("✘"),
            _ => Cell::styled("✔", &[Style::Green, Style::Bold]),
        };
        rows.push(vec!["watch & reload".into(), watched]);
        let mut add = |label: &str, value: Option<String>| {
            rows.push(vec![
                label.into(),
                value.unwrap_or_else(|| "N/A".to_owned()).into(),
            ]);
        };
        add("unstable restarts", field("unstable_restarts"));
        add(
            "created at",
            self.env
                .get("created_at")
                .and_then(Value::as_i64)
                .and_then(units::iso),
        );
        rows
    }

    fn uptime(&self, status: &str) -> String {
        match self.env.get("pm_uptime").and_then(Value::as_u64) {
            Some(since) if status == "online" => units::uptime(self.now_ms.saturating_sub(since)),
            _ => "0".to_owned(),
        }
    }

    /// A list of arguments, joined by spaces.
    fn words(&self, key: &str) -> Option<String> {
        match self.env.get(key)? {
            Value::Null => None,
            Value::Array(words) => {
                let words: Vec<String> = words.iter().filter_map(js::text).collect();
                Some(words.join(" "))
            }
            other => js::text(other),
        }
    }

    fn module_infos(&self) -> String {
        let Some(infos) = self
            .env
            .pointer("/axm_options/human_info")
            .and_then(Value::as_array)
        else {
            return String::new();
        };
        let mut rows: Vec<Vec<Cell>> = vec![vec!["Module name".into(), self.name().into()]];
        rows.extend(
            infos
                .iter()
                .map(|info| (0..2).map(|at| shown(info.get(at)).into()).collect()),
        );
        format!(
            "\n{}{}",
            self.title(&format!("Module {} infos", self.name())),
            self.table(rows)
        )
    }

    fn process_configuration(&self) -> String {
        let Some(conf) = self
            .env
            .pointer("/axm_options/module_conf")
            .and_then(Value::as_object)
        else {
            return String::new();
        };
        if conf.is_empty() {
            return String::new();
        }
        let rows = conf
            .iter()
            .map(|(key, value)| vec![key.into(), shown(Some(value)).into()])
            .collect();
        format!("Process configuration\n{}", self.table(rows))
    }

    fn revision(&self) -> String {
        let Some(versioning) = self.env.get("versioning").filter(|value| value.is_object()) else {
            return String::new();
        };
        let field = |key: &str| {
            versioning
                .get(key)
                .filter(|value| !value.is_null())
                .and_then(js::text)
        };
        let or_na = |key: &str| Cell::from(field(key).unwrap_or_else(|| "N/A".to_owned()));
        let rows = vec![
            vec!["revision control".into(), or_na("type")],
            vec!["remote url".into(), or_na("url")],
            vec!["repository root".into(), or_na("repo_path")],
            vec!["last update".into(), or_na("update_time")],
            vec!["revision".into(), or_na("revision")],
            vec![
                "comment".into(),
                Cell::from(field("comment").unwrap_or_default().trim()),
            ],
            vec!["branch".into(), or_na("branch")],
        ];
        self.title("Revision control metadata") + &self.table(rows)
    }

    fn actions(&self) -> String {
        let actions = self.env.get("axm_actions").and_then(Value::as_array);
        let names = actions
            .into_iter()
            .flatten()
            .filter_map(|action| action.get("action_name").and_then(js::text));
        let rows: Vec<Vec<Cell>> = names.map(|name| vec![name.into()]).collect();
        if rows.is_empty() {
            return String::new();
        }
        let hint = format!(" Trigger via: pm2 trigger {} <action_name>", self.name());
        format!(
            "{}{}{}\n\n",
            self.title("Actions available"),
            self.table(rows),
            paint(&hint, HINT, self.colour)
        )
    }

    fn metrics(&self) -> String {
        let metrics = self.env.get("axm_monitor").and_then(Value::as_object);
        let rows: Vec<Vec<Cell>> = metrics
            .into_iter()
            .flatten()
            .map(|(name, metric)| vec![name.into(), metric_text(metric).into()])
            .collect();
        if rows.is_empty() {
            return String::new();
        }
        self.title("Code metrics value") + &self.table(rows)
    }

    /// The caller's variables that the app has with another value, with the app's value.
    fn divergent_env<'a>(&self, local_env: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
        let differing = local_env.into_iter().filter_map(|(key, local)| {
            let value = self
                .env
                .get(key)
                .filter(|value| !value.is_object())
                .and_then(js::text)?; // Not the app's.
            (!value.is_empty() && value != local).then(|| {
                let start: String = value.chars().take(MAX_ENV_VALUE).collect();
                vec![key.into(), start.into()]
            })
        });
        let rows: Vec<Vec<Cell>> = differing.collect();
        let table = if rows.is_empty() {
            "\n".to_owned()
        } else {
            self.table(rows)
        };
        self.title("Divergent env variables from local env") + &table
    }

    fn hints(&self) -> String {
        let hints = [
            format!(" Read its output: pm2 logs {} --lines 1000", self.name()),
            format!(" See its whole environment: pm2 env {}", self.id()),
            " Watch its CPU and memory: pm2 monit".to_owned(),
        ];
        let lines: Vec<String> = hints
            .iter()
            .map(|hint| paint(hint, HINT, self.colour))
            .collect();
        format!("\n{}\n", lines.join("\n"))
    }
}

/// A title on its own line.
pub(super) fn title(text: &str, colour: bool) -> String {
    paint(&format!(" {text} "), TITLE, colour) + "\n"
}

/// A value for a cell: text as it is, an object as JSON.
fn shown(value: Option<&Value>) -> String {
    value
        .map(|value| js::text(value).unwrap_or_else(|| value.to_string()))
        .unwrap_or_default()
}

/// `7 req/min`: the value of a metric and its unit, or the metric itself when it is a plain value.
fn metric_text(metric: &Value) -> String {
    let Value::Object(fields) = metric else {
        return shown(Some(metric));
    };
    let value = match fields.get("value") {
        None | Some(Value::Null) => "N/A".to_owned(),
        Some(value) => shown(Some(value)),
    };
    match fields
        .get("unit")
        .and_then(js::text)
        .filter(|unit| !unit.is_empty())
    {
        Some(unit) => format!("{value} {unit}"),
        None => value,
    }
}
