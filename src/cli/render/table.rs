//! The list of apps and the list of modules, in the three layouts that PM2 has for wide and narrow terminals.

use super::grid::{Cell, Grid, length};
use super::row::ProcRow;
use super::sort::Sort;
use super::style::{Style, paint};
use super::units;

/// How the list is to be drawn.
#[derive(Debug, Clone, Copy, Default)]
pub struct TableOptions {
    /// The terminal's width in columns; `None` when the output is no terminal, which gets the full table.
    pub width: Option<u16>,
    /// Colour codes are wanted.
    pub colour: bool,
    /// The order; `None` is by name.
    pub sort: Option<Sort>,
    /// The present, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// How much of the list fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Every column.
    Full,
    /// Without namespace, version, pid, uptime, user and watching.
    Condensed,
    /// Id, name, status, CPU and memory.
    Mini,
}

/// PM2's `pm2 list`: the table of apps and, when there are modules, theirs. Every line ends with a line break.
pub fn list(rows: &[ProcRow], opts: &TableOptions) -> String {
    let layout = layout(rows, opts.width);
    let sort = opts.sort.unwrap_or_default();
    let mut sorted: Vec<&ProcRow> = rows.iter().collect();
    sorted.sort_by(|a, b| sort.compare(a, b));
    let (modules, apps): (Vec<&ProcRow>, Vec<&ProcRow>) =
        sorted.into_iter().partition(|row| row.pmx_module);
    let mut out = draw(&apps, &app_columns(layout), rows, opts);
    if !modules.is_empty() {
        let title = if modules.len() > 1 {
            "Modules"
        } else {
            "Module"
        };
        out += &paint(title, &[Style::Bold], opts.colour);
        out.push('\n');
        out += &draw(&modules, &module_columns(layout), rows, opts);
    }
    out
}

/// The layout that `list` uses on a terminal of `width` columns: the widest whose table of apps fits, else the
/// narrowest.
pub fn layout(rows: &[ProcRow], width: Option<u16>) -> Layout {
    let Some(width) = width.map(usize::from) else {
        return Layout::Full;
    };
    let fits = |layout| Grid::total_width(&widths(&app_columns(layout), rows)) <= width;
    if fits(Layout::Full) {
        Layout::Full
    } else if fits(Layout::Condensed) {
        Layout::Condensed
    } else {
        Layout::Mini
    }
}

/// What a column shows, and how wide it is with its padding.
struct Column {
    head: &'static str,
    width: Width,
    cell: fn(&ProcRow, u64) -> Cell,
}

/// The width of a column.
#[derive(Clone, Copy)]
enum Width {
    Fixed(usize),
    /// The longest id and two more, at least 4.
    Id,
    /// The longest name and five more, at most this.
    Name(usize),
}

/// Room for the name when there is nothing to list (pm2 7.0.4).
const EMPTY_NAME_WIDTH: usize = 11;

fn widths(columns: &[Column], rows: &[ProcRow]) -> Vec<usize> {
    let longest_id = rows
        .iter()
        .map(|row| row.pm_id.to_string().len())
        .max()
        .unwrap_or(0);
    let longest_name = rows
        .iter()
        .map(|row| length(&row.name) + 5)
        .max()
        .unwrap_or(EMPTY_NAME_WIDTH);
    let width = |column: &Column| match column.width {
        Width::Fixed(width) => width,
        Width::Id => (longest_id + 2).max(4),
        Width::Name(most) => longest_name.min(most),
    };
    columns.iter().map(width).collect()
}

fn draw(shown: &[&ProcRow], columns: &[Column], all: &[ProcRow], opts: &TableOptions) -> String {
    let grid = Grid {
        head: columns.iter().map(|column| column.head).collect(),
        rows: shown
            .iter()
            .map(|row| {
                columns
                    .iter()
                    .map(|column| (column.cell)(row, opts.now_ms))
                    .collect()
            })
            .collect(),
        widths: widths(columns, all),
        keyed: true,
    };
    grid.draw(opts.colour)
}

fn column(head: &'static str, width: usize, cell: fn(&ProcRow, u64) -> Cell) -> Column {
    Column {
        head,
        width: Width::Fixed(width),
        cell,
    }
}

fn id_column() -> Column {
    Column {
        head: "id",
        width: Width::Id,
        cell: |row, _| row.pm_id.to_string().into(),
    }
}

fn name_column(most: usize) -> Column {
    Column {
        head: "name",
        width: Width::Name(most),
        cell: |row, _| match row.is_marked {
            true => one_line(&format!("[M] {}", row.name)),
            false => one_line(&row.name),
        },
    }
}

fn app_columns(layout: Layout) -> Vec<Column> {
    match layout {
        Layout::Full => vec![
            id_column(),
            name_column(40),
            column("namespace", 13, |row, _| or_na(row.namespace.as_deref())),
            column("version", 9, version),
            column("mode", 9, mode),
            column("pid", 10, |row, _| optional(row.pid)),
            column("uptime", 8, |row, now_ms| row.uptime(now_ms).into()),
            column("↺", 6, restarts),
            column("status", 11, status),
            column("cpu", 10, cpu),
            column("mem", 10, memory),
            column("user", 10, user),
            column("watching", 10, watching),
        ],
        Layout::Condensed => vec![
            id_column(),
            name_column(20),
            column("mode", 10, mode),
            column("↺", 6, restarts),
            column("status", 11, status),
            column("cpu", 10, cpu),
            column("memory", 10, memory),
        ],
        Layout::Mini => mini_columns(),
    }
}

fn module_columns(layout: Layout) -> Vec<Column> {
    match layout {
        Layout::Full => vec![
            id_column(),
            column("module", 30, |row, _| one_line(&row.name)),
            column("version", 15, version),
            column("pid", 10, |row, _| optional(row.measured_pid.or(row.pid))),
            column("status", 10, status),
            column("↺", 6, restarts),
            column("cpu", 10, cpu),
            column("mem", 10, memory),
            column("user", 10, user),
        ],
        Layout::Condensed => vec![
            id_column(),
            name_column(20),
            column("status", 10, status),
            column("cpu", 10, cpu),
            column("mem", 10, memory),
        ],
        Layout::Mini => mini_columns(),
    }
}

fn mini_columns() -> Vec<Column> {
    vec![
        id_column(),
        name_column(16),
        column("status", 11, status),
        column("cpu", 8, cpu),
        column("mem", 10, memory),
    ]
}

/// A line break would tear a fixed row apart.
fn one_line(text: &str) -> Cell {
    text.replace('\n', " ").into()
}

fn or_na(text: Option<&str>) -> Cell {
    one_line(text.unwrap_or("N/A"))
}

fn optional<T: ToString>(value: Option<T>) -> Cell {
    value
        .map_or_else(String::new, |value| value.to_string())
        .into()
}

fn version(row: &ProcRow, _: u64) -> Cell {
    or_na(row.version.as_deref())
}

fn mode(row: &ProcRow, _: u64) -> Cell {
    match row.mode_word() {
        "fork" => Cell::styled("fork", &[Style::Inverse, Style::Bold]),
        word => Cell::styled(word, &[Style::Blue, Style::Bold]),
    }
}

fn restarts(row: &ProcRow, _: u64) -> Cell {
    optional(row.restarts)
}

fn status(row: &ProcRow, _: u64) -> Cell {
    Cell::styled(&row.status.replace('\n', " "), status_style(&row.status))
}

/// How a status word is coloured: green when running, blue on the way there, red otherwise.
pub(super) fn status_style(status: &str) -> &'static [Style] {
    match status {
        "online" => &[Style::Green, Style::Bold],
        "launching" => &[Style::Blue, Style::Bold],
        _ => &[Style::Red, Style::Bold],
    }
}

fn cpu(row: &ProcRow, _: u64) -> Cell {
    format!("{}%", super::js::number(row.cpu)).into()
}

fn memory(row: &ProcRow, _: u64) -> Cell {
    // PM2's size ends with a space, and that space counts when the cell is cut.
    format!("{} ", units::memory(row.memory)).into()
}

fn user(row: &ProcRow, _: u64) -> Cell {
    Cell::styled(
        &row.username
            .as_deref()
            .unwrap_or_default()
            .replace('\n', " "),
        &[Style::Bold],
    )
}

fn watching(row: &ProcRow, _: u64) -> Cell {
    match row.watch {
        true => Cell::styled("enabled", &[Style::Green, Style::Bold]),
        false => Cell::styled("disabled", &[Style::Gray]),
    }
}
