//! `monit`: the apps, their logs and figures, live, in a terminal of whatever size (pm2 7.0.4, spec 6.17).

mod draw;
mod feed;
mod view;

use super::session::{Session, Told};
use super::signals::Signals;
use anyhow::{Context, bail};
use feed::{Feed, News};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::io::IsTerminal;
use std::time::Duration;
use view::{Pane, View};

/// How long a key is waited for before news are looked at.
const TURN: Duration = Duration::from_millis(80);
/// News taken before the screen is drawn again.
const NEWS_A_TURN: usize = 2_000;

/// `pm2 monit`: until `q`, Esc, Ctrl-C or a signal.
pub fn run(session: &mut Session) -> anyhow::Result<()> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        session.output.error(
            "monit wants a terminal; `pm2 list`, `pm2 logs` and `pm2 jlist` work without one",
        );
        bail!(Told);
    }
    session.daemon(false)?;
    let feed = Feed::start(session)?;
    let signals = Signals::watch()?;
    // Raw mode and the other screen, left again by a panic too.
    let mut terminal = ratatui::try_init().context("cannot take over the terminal")?;
    let shown = watch(&mut terminal, &feed, &signals);
    let restored = ratatui::try_restore().context("cannot give the terminal back; `reset` does");
    shown.and(restored)
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    feed: &Feed,
    signals: &Signals,
) -> anyhow::Result<()> {
    let mut view = View::default();
    let mut changed = true;
    while !signals.came() {
        for news in feed.take(NEWS_A_TURN) {
            changed = true;
            match news {
                News::Apps(apps) => view.set_apps(apps),
                News::Line { id, is_err, text } => view.add_line(id, is_err, &text),
                News::Missed(count) => view.missed += count,
                News::Trouble(what) => view.trouble = what,
            }
        }
        if changed {
            terminal.draw(|frame| draw::frame(frame, &view))?;
            changed = false;
        }
        if event::poll(TURN)? {
            changed = true;
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && !press(&mut view, key)
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// What a key does; `false` for the end.
fn press(view: &mut View, key: KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if control => return false,
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Right | KeyCode::Tab => view.focus = view.focus.next(),
        KeyCode::Left | KeyCode::BackTab => view.focus = view.focus.before(),
        KeyCode::Up | KeyCode::Char('k') => match view.focus {
            Pane::List => view.select(-1),
            Pane::Logs | Pane::Metrics | Pane::Facts => view.scroll(1),
        },
        KeyCode::Down | KeyCode::Char('j') => match view.focus {
            Pane::List => view.select(1),
            Pane::Logs | Pane::Metrics | Pane::Facts => view.scroll(-1),
        },
        KeyCode::PageUp => view.scroll(10),
        KeyCode::PageDown => view.scroll(-10),
        KeyCode::Home => view.scroll(isize::MAX),
        KeyCode::End => view.scroll(isize::MIN),
        _ => {}
    }
    true
}

#[cfg(test)]
mod tests {
    use super::view::App;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    pub(super) fn app(id: u32, name: &str, status: &str) -> App {
        App::read(
            &json!({"pid": 7, "name": name, "pm_id": id, "monit": {"cpu": 1.5, "memory": 1 << 20}, "pm2_env": {
                "status": status, "restart_time": 2, "pm_uptime": 1_000, "exec_mode": "fork_mode",
                "axm_monitor": {"Loop delay": {"value": "1.5", "unit": "ms"}}}}),
            61_000,
        )
    }

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    fn screen(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw::frame(frame, view)).unwrap();
        terminal.backend().to_string()
    }

    fn full() -> View {
        let mut view = View::default();
        view.set_apps((0..30).map(|id| app(id, "web", "online")).collect());
        view.add_line(0, false, "a line of \u{1b}[31mred\u{1b}[0m\ttext\u{7}");
        view.add_line(0, true, "an error");
        view
    }

    #[test]
    fn keys_select_switch_scroll_and_end() {
        let mut view = full();
        assert!(press(&mut view, key(KeyCode::Down)));
        assert_eq!(view.selected().unwrap().id, 1);
        assert!(press(&mut view, key(KeyCode::Up)) && press(&mut view, key(KeyCode::Up)));
        assert_eq!(view.selected().unwrap().id, 0);
        assert!(press(&mut view, key(KeyCode::Tab)));
        assert_eq!(view.focus, Pane::Logs);
        assert!(press(&mut view, key(KeyCode::Left)) && press(&mut view, key(KeyCode::Left)));
        assert_eq!(view.focus, Pane::Facts);
        assert!(!press(&mut view, key(KeyCode::Char('q'))));
        assert!(!press(&mut view, key(KeyCode::Esc)));
        assert!(!press(
            &mut view,
            KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)
        ));
    }

    #[test]
    fn everything_is_on_a_large_screen() {
        let view = full();
        let shown = screen(&view, 120, 40);
        for words in [
            "Process List",
            "[ 0] web",
            "Logs of web (0)",
            "a line of red text",
            "an error",
            "Custom Metrics",
            "Loop delay",
            "1.5 ms",
            "Metadata",
            "Restarts",
            "online",
            "q quit",
        ] {
            assert!(shown.contains(words), "{words} in\n{shown}");
        }
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}'));
    }

    #[test]
    fn a_small_screen_shows_the_list_and_the_pane_in_focus() {
        let mut view = full();
        let shown = screen(&view, 40, 12);
        assert!(
            shown.contains("1.0mb") && shown.contains("q quit"),
            "{shown}"
        );
        assert!(
            shown.contains("[ 0] web") && shown.contains("an error"),
            "{shown}"
        );
        view.focus = Pane::Facts;
        let shown = screen(&view, 40, 12);
        assert!(
            shown.contains("Metadata") && !shown.contains("an error"),
            "{shown}"
        );
        view.select(29);
        assert!(screen(&view, 40, 12).contains("[29] web"));
    }

    #[test]
    fn no_size_and_no_state_panics() {
        for view in [View::default(), full()] {
            for width in [1, 2, 5, 19, 40, 79, 80, 200] {
                for height in [0, 1, 2, 3, 5, 12, 19, 20, 60] {
                    screen(&view, width, height);
                }
            }
        }
        let empty = screen(&View::default(), 80, 24);
        assert!(empty.contains("no app"), "{empty}");
    }
}
