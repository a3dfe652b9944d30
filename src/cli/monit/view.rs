//! What is shown, as data: apps, the chosen one, the pane in focus, and the last lines of each app.

use super::super::render::units;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};

/// Lines kept of one app.
const LINES: usize = 500;
/// The longest line that is kept, in characters.
const LONGEST: usize = 2_000;

/// The parts of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pane {
    /// The apps.
    #[default]
    List,
    /// The chosen app's lines.
    Logs,
    /// Its own figures.
    Metrics,
    /// What it is.
    Facts,
}

impl Pane {
    /// The one to the right.
    pub fn next(self) -> Self {
        match self {
            Pane::List => Pane::Logs,
            Pane::Logs => Pane::Metrics,
            Pane::Metrics => Pane::Facts,
            Pane::Facts => Pane::List,
        }
    }

    /// The one to the left.
    pub fn before(self) -> Self {
        match self {
            Pane::List => Pane::Facts,
            Pane::Logs => Pane::List,
            Pane::Metrics => Pane::Logs,
            Pane::Facts => Pane::Metrics,
        }
    }
}

/// One instance.
#[derive(Debug, Clone, PartialEq)]
pub struct App {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its status, in PM2's words.
    pub status: String,
    /// Share of a core, in percent.
    pub cpu: f64,
    /// Bytes.
    pub memory: u64,
    /// Names and values of its own figures.
    pub metrics: Vec<(String, String)>,
    /// Names and values of what it is.
    pub facts: Vec<(&'static str, String)>,
}

impl App {
    /// From an item of PM2's list. `now_ms`: milliseconds since the Unix epoch.
    pub fn read(item: &Value, now_ms: u64) -> Self {
        let env = &item["pm2_env"];
        let text = |value: &Value| match value {
            Value::String(text) => plain(text),
            Value::Null => "N/A".to_owned(),
            other => other.to_string(),
        };
        let status = text(&env["status"]);
        let uptime = match (status.as_str(), env["pm_uptime"].as_u64()) {
            ("online", Some(since)) => units::uptime(now_ms.saturating_sub(since)),
            _ => "0".to_owned(),
        };
        let metrics = env["axm_monitor"].as_object().into_iter().flatten();
        let metrics = metrics
            .map(|(name, metric)| {
                let unit = metric["unit"].as_str().unwrap_or_default();
                let value = text(&metric["value"]);
                (
                    plain(name),
                    format!("{value} {}", plain(unit)).trim_end().to_owned(),
                )
            })
            .collect();
        let mode = text(&env["exec_mode"]);
        Self {
            id: item["pm_id"].as_u64().unwrap_or_default() as u32,
            name: text(&item["name"]),
            cpu: item["monit"]["cpu"].as_f64().unwrap_or_default(),
            memory: item["monit"]["memory"].as_u64().unwrap_or_default(),
            metrics,
            facts: vec![
                ("App Name", text(&item["name"])),
                ("Namespace", text(&env["namespace"])),
                ("Version", text(&env["version"])),
                ("Restarts", text(&env["restart_time"])),
                ("Uptime", uptime),
                ("Status", status.clone()),
                ("Pid", text(&item["pid"])),
                ("Script path", text(&env["pm_exec_path"])),
                ("Script args", text(&env["args"])),
                ("Interpreter", text(&env["exec_interpreter"])),
                ("Exec mode", mode.trim_end_matches("_mode").to_owned()),
                ("Node.js version", text(&env["node_version"])),
                ("watch & reload", text(&env["watch"])),
                ("Unstable restarts", text(&env["unstable_restarts"])),
            ],
            status,
        }
    }
}

/// A kept line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// From standard error.
    pub is_err: bool,
    /// Without anything that a terminal would obey.
    pub text: String,
}

/// Owner: the loop that draws.
#[derive(Debug, Default)]
pub struct View {
    /// By id.
    pub apps: Vec<App>,
    /// Which part of the screen keys are for.
    pub focus: Pane,
    /// How far back the logs are scrolled, in lines.
    pub back: usize,
    /// Lines that came too fast for us.
    pub missed: u64,
    /// What is wrong, if something is.
    pub trouble: Option<String>,
    chosen: u32,
    lines: BTreeMap<u32, VecDeque<Line>>,
}

impl View {
    /// The apps as they are now. The chosen one stays it as long as it is there.
    pub fn set_apps(&mut self, mut apps: Vec<App>) {
        apps.sort_by_key(|app| app.id);
        if !apps.iter().any(|app| app.id == self.chosen) {
            let near = apps.iter().find(|app| app.id > self.chosen).or(apps.last());
            self.chosen = near.map_or(0, |app| app.id);
            self.back = 0;
        }
        self.lines
            .retain(|id, _| apps.iter().any(|app| app.id == *id));
        self.apps = apps;
    }

    /// A line of an app. It may be known before the app itself is.
    pub fn add_line(&mut self, id: u32, is_err: bool, text: &str) {
        let lines = self.lines.entry(id).or_default();
        for text in text.lines() {
            lines.push_back(Line {
                is_err,
                text: plain(text),
            });
            if lines.len() > LINES {
                lines.pop_front();
            } else if id == self.chosen && self.back > 0 {
                // What is being read stays where it is.
                self.back += 1;
            }
        }
    }

    /// The chosen app.
    pub fn selected(&self) -> Option<&App> {
        self.apps.get(self.position()?)
    }

    /// Where it stands in the list.
    pub fn position(&self) -> Option<usize> {
        self.apps.iter().position(|app| app.id == self.chosen)
    }

    /// Chooses one so many places further down.
    pub fn select(&mut self, by: isize) {
        let Some(at) = self.position() else { return };
        let at = at.saturating_add_signed(by).min(self.apps.len() - 1);
        self.chosen = self.apps[at].id;
        self.back = 0;
    }

    /// Scrolls the logs back by so many lines.
    pub fn scroll(&mut self, by: isize) {
        let most = self.lines().count().saturating_sub(1);
        self.back = self.back.saturating_add_signed(by).min(most);
    }

    /// The chosen app's lines.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = &Line> + ExactSizeIterator {
        static NONE: VecDeque<Line> = VecDeque::new();
        self.lines.get(&self.chosen).unwrap_or(&NONE).iter()
    }
}

/// Text without escape sequences and control characters: an app must not paint on our screen.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut letters = text.chars();
    let mut length = 0;
    while let Some(letter) = letters.next() {
        if length >= LONGEST {
            break;
        }
        match letter {
            '\u{1b}' => match letters.next() {
                // CSI: up to its last letter.
                Some('[') => {
                    while letters
                        .next()
                        .is_some_and(|next| !('@'..='~').contains(&next))
                    {}
                }
                // OSC: up to BEL or ST.
                Some(']') => {
                    while let Some(next) = letters.next() {
                        if next == '\u{7}' || (next == '\u{1b}' && letters.next().is_some()) {
                            break;
                        }
                    }
                }
                _ => {}
            },
            '\t' => {
                out.push(' ');
                length += 1;
            }
            letter if letter.is_control() => {}
            letter => {
                out.push(letter);
                length += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::app;
    use super::*;

    #[test]
    fn the_chosen_app_stays_chosen_while_others_come_and_go() {
        let mut view = View::default();
        view.set_apps([3, 5, 8].map(|id| app(id, "a", "online")).into());
        view.select(1);
        assert_eq!(view.selected().unwrap().id, 5);
        view.set_apps([5, 8].map(|id| app(id, "a", "online")).into());
        assert_eq!(view.selected().unwrap().id, 5);
        view.set_apps([8].map(|id| app(id, "a", "online")).into());
        assert_eq!(view.selected().unwrap().id, 8);
        view.set_apps(Vec::new());
        assert!(view.selected().is_none());
        view.select(1);
        view.scroll(-1);
    }

    #[test]
    fn lines_are_bounded_plain_and_stay_in_place_while_they_are_read() {
        let mut view = View::default();
        view.set_apps(vec![app(0, "a", "online")]);
        for number in 0..LINES + 10 {
            view.add_line(0, false, &format!("{number}\n"));
        }
        assert_eq!(view.lines().len(), LINES);
        assert_eq!(view.lines().next_back().unwrap().text, "509");
        view.add_line(
            0,
            true,
            "\u{1b}[1;31mx\u{1b}]0;title\u{7}y\u{1b}]8;;u\u{1b}\\z\r\u{8}",
        );
        assert_eq!(view.lines().next_back().unwrap().text, "xyz");
        view.add_line(0, false, &"w".repeat(LONGEST * 2));
        assert_eq!(view.lines().next_back().unwrap().text.len(), LONGEST);
        view.scroll(isize::MAX);
        assert_eq!(view.back, LINES - 1);
        view.scroll(isize::MIN);
        assert_eq!(view.back, 0);
    }
}
