//! The screen, from the view. Four panes where there is room, else the list and the pane in focus.

use super::super::render::units;
use super::view::{App, Pane, View};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Wrap};

/// From this size on all four panes are shown.
const LARGE: (u16, u16) = (80, 20);
/// What keys do.
const KEYS: &str = " ←/→ Tab: pane   ↑/↓: select or scroll   q quit ";
/// The same where there is little room.
const FEW_KEYS: &str = " Tab pane  ↑/↓ select  q quit ";
/// From this width on there is room.
const KEYS_FROM: u16 = 50;

/// Draws everything.
pub fn frame(frame: &mut Frame<'_>, view: &View) {
    let area = frame.area();
    let [main, footer] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(area);
    if area.width >= LARGE.0 && area.height >= LARGE.1 {
        let [top, bottom] =
            Layout::vertical([Constraint::Percentage(65), Constraint::Min(8)]).areas(main);
        let [left, right] =
            Layout::horizontal([Constraint::Percentage(35), Constraint::Min(0)]).areas(top);
        let [below_left, below_right] =
            Layout::horizontal([Constraint::Percentage(35), Constraint::Min(0)]).areas(bottom);
        list(frame, left, view);
        logs(frame, right, view);
        metrics(frame, below_left, view);
        facts(frame, below_right, view);
    } else {
        let [top, bottom] =
            Layout::vertical([Constraint::Percentage(45), Constraint::Min(0)]).areas(main);
        list(frame, top, view);
        match view.focus {
            Pane::List | Pane::Logs => logs(frame, bottom, view),
            Pane::Metrics => metrics(frame, bottom, view),
            Pane::Facts => facts(frame, bottom, view),
        }
    }
    let keys = match area.width {
        KEYS_FROM.. => KEYS,
        _ => FEW_KEYS,
    };
    let words = match (&view.trouble, view.missed) {
        (Some(trouble), _) => Span::styled(format!(" {trouble}"), Style::new().fg(Color::Red)),
        (None, 0) => Span::styled(keys, Style::new().add_modifier(Modifier::DIM)),
        (None, missed) => Span::styled(
            format!("{keys}  {missed} lines came too fast "),
            Style::new().fg(Color::Yellow),
        ),
    };
    frame.render_widget(Paragraph::new(Line::from(words)), footer);
}

fn block(title: String, focused: bool) -> Block<'static> {
    let style = match focused {
        true => Style::new().fg(Color::Cyan),
        false => Style::new().fg(Color::DarkGray),
    };
    Block::bordered().title(title).border_style(style)
}

fn colour(status: &str) -> Color {
    match status {
        "online" => Color::Green,
        "launching" | "stopping" => Color::Blue,
        "waiting restart" => Color::Yellow,
        _ => Color::Red,
    }
}

fn list(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let block = block(" Process List ".to_owned(), view.focus == Pane::List);
    let room = usize::from(block.inner(area).height);
    let width = usize::from(block.inner(area).width);
    let at = view.position().unwrap_or_default();
    // The chosen one is always to be seen.
    let first = at.saturating_sub(room.saturating_sub(1));
    let mut lines: Vec<Line<'_>> = view
        .apps
        .iter()
        .enumerate()
        .skip(first)
        .take(room)
        .map(|(row, app)| item(app, width, row == at))
        .collect();
    if view.apps.is_empty() {
        lines.push(Line::from("no app is there"));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn item(app: &App, width: usize, chosen: bool) -> Line<'_> {
    let memory = units::memory(app.memory);
    let name = format!("[{:>2}] {}", app.id, app.name);
    let taken = name.chars().count() + app.status.len();
    // What there is no room for is left out.
    let figures = [
        format!(" Mem: {memory:>8}  CPU: {:>4.0} %  ", app.cpu),
        format!(" {memory:>7} {:>3.0}% ", app.cpu),
    ]
    .into_iter()
    .find(|figures| taken + figures.chars().count() <= width)
    .unwrap_or_else(|| " ".to_owned());
    let room = width.saturating_sub(figures.chars().count() + app.status.len());
    let name: String = name.chars().take(room).collect();
    let name_style = match chosen {
        true => Style::new().add_modifier(Modifier::REVERSED),
        false => Style::new(),
    };
    Line::from(vec![
        Span::styled(format!("{name:room$}"), name_style),
        Span::raw(figures),
        Span::styled(app.status.as_str(), Style::new().fg(colour(&app.status))),
    ])
}

fn logs(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let mut title = match view.selected() {
        Some(app) => format!(" Logs of {} ({}) ", app.name, app.id),
        None => " Logs ".to_owned(),
    };
    if view.back > 0 {
        title += &format!("· {} back ", view.back);
    }
    let block = block(title, view.focus == Pane::Logs);
    let inner = block.inner(area);
    let width = usize::from(inner.width).max(1);
    let mut room = usize::from(inner.height);
    let mut shown = Vec::new();
    for line in view.lines().rev().skip(view.back) {
        if room == 0 {
            break;
        }
        // Wrapped by hand, so that the last lines end at the bottom whatever their length.
        let letters: Vec<char> = line.text.chars().collect();
        let mut rows: Vec<String> = letters
            .chunks(width)
            .map(|row| row.iter().collect())
            .collect();
        if rows.is_empty() {
            rows.push(String::new());
        }
        let style = match line.is_err {
            true => Style::new().fg(Color::Red),
            false => Style::new(),
        };
        for row in rows.into_iter().rev().take(room) {
            shown.push(Line::styled(row, style));
            room -= 1;
        }
    }
    shown.reverse();
    frame.render_widget(Paragraph::new(shown).block(block), area);
}

fn metrics(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let lines: Vec<Line<'_>> = view.selected().map_or_else(Vec::new, |app| {
        app.metrics
            .iter()
            .map(|(name, value)| pair(name, value, 24))
            .collect()
    });
    let block = block(" Custom Metrics ".to_owned(), view.focus == Pane::Metrics);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn facts(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let lines: Vec<Line<'_>> = view.selected().map_or_else(Vec::new, |app| {
        app.facts
            .iter()
            .map(|(name, value)| pair(name, value, 20))
            .collect()
    });
    let block = block(" Metadata ".to_owned(), view.focus == Pane::Facts);
    let text = Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .block(block);
    frame.render_widget(text, area);
}

fn pair<'a>(name: &'a str, value: &'a str, width: usize) -> Line<'a> {
    Line::from(vec![
        Span::styled(
            format!("{name:width$} "),
            Style::new().add_modifier(Modifier::BOLD),
        ),
        Span::raw(value),
    ])
}
