//! A table with box borders: fixed or fitted columns, one space of padding, long cells cut with an ellipsis.

use super::style::{Style, paint, plain};
use std::borrow::Cow;

/// One cell: its text without colour codes, and how it is coloured.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    styles: &'static [Style],
}

impl Cell {
    /// A cell in `styles`. Control characters are taken out; a line break is kept for fitted tables.
    pub fn styled(text: &str, styles: &'static [Style]) -> Self {
        Self {
            text: plain(text, true),
            styles,
        }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell::styled(text.as_ref(), &[])
    }
}

/// How headings and key columns look.
const KEY: &[Style] = &[Style::Bold, Style::Cyan];

/// A table to be drawn.
#[derive(Debug, Default)]
pub struct Grid {
    /// The heading row, if there is one.
    pub head: Vec<&'static str>,
    /// The rows, each with one cell a column.
    pub rows: Vec<Vec<Cell>>,
    /// The width of each column with its two spaces of padding; empty to fit the longest cell.
    pub widths: Vec<usize>,
    /// The first column holds keys, and is coloured as the headings are.
    pub keyed: bool,
}

impl Grid {
    /// The width of the drawn table in columns, borders included.
    pub fn total_width(widths: &[usize]) -> usize {
        widths.iter().sum::<usize>() + widths.len() + 1
    }

    /// Draws the table; every line ends with a line break. A table without headings and rows is nothing.
    pub fn draw(&self, colour: bool) -> String {
        let widths = if self.widths.is_empty() {
            self.fitted()
        } else {
            self.widths.clone()
        };
        if widths.is_empty() {
            return String::new();
        }
        let rule = |left: &str, cross: &str, right: &str| {
            let bars: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
            paint(
                &format!("{left}{}{right}", bars.join(cross)),
                &[Style::Gray],
                colour,
            ) + "\n"
        };
        let mut out = rule("┌", "┬", "┐");
        if !self.head.is_empty() {
            let head: Vec<Cell> = self.head.iter().map(Cell::from).collect();
            self.draw_row(&head, &widths, true, colour, &mut out);
            if !self.rows.is_empty() {
                out += &rule("├", "┼", "┤");
            }
        }
        for row in &self.rows {
            self.draw_row(row, &widths, false, colour, &mut out);
        }
        out + &rule("└", "┴", "┘")
    }

    /// The width of each column when it fits its longest line.
    fn fitted(&self) -> Vec<usize> {
        let columns = self
            .rows
            .iter()
            .map(Vec::len)
            .max()
            .unwrap_or(0)
            .max(self.head.len());
        (0..columns)
            .map(|at| {
                let cells = self
                    .rows
                    .iter()
                    .filter_map(|row| row.get(at))
                    .flat_map(|cell| cell.text.split('\n'));
                let longest = cells.map(length).max().unwrap_or(0);
                longest.max(self.head.get(at).map_or(0, |text| length(text))) + 2
            })
            .collect()
    }

    fn draw_row(
        &self,
        row: &[Cell],
        widths: &[usize],
        is_head: bool,
        colour: bool,
        out: &mut String,
    ) {
        let lines = |cell: &Cell| cell.text.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let height = row.iter().map(lines).max().unwrap_or(1);
        let border = paint("│", &[Style::Gray], colour);
        for line in 0..height {
            for (at, width) in widths.iter().enumerate() {
                let inner = width.saturating_sub(2);
                let text = row
                    .get(at)
                    .and_then(|cell| cell.text.split('\n').nth(line))
                    .unwrap_or_default();
                let text = cut(text, inner);
                let fill = inner.saturating_sub(length(&text)) + 1;
                *out += &border;
                if is_head || (self.keyed && at == 0) {
                    let padded = format!(" {text}{:fill$}", "");
                    *out += &paint(&padded, KEY, colour);
                } else {
                    out.push(' ');
                    match row.get(at).map_or(&[][..], |cell| cell.styles) {
                        [] => *out += &text,
                        styles => *out += &paint(&text, styles, colour),
                    }
                    out.extend(std::iter::repeat_n(' ', fill));
                }
            }
            *out += &border;
            out.push('\n');
        }
    }
}

/// PM2 counts characters, not terminal columns, so a wide script is padded as if it were narrow; so do we, since
/// scripts cut its lines by character.
pub fn length(text: &str) -> usize {
    text.chars().count()
}

/// `text`, or its first `width - 1` characters and an ellipsis.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if length(text) <= width {
        return text.into();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fitted_table_has_the_width_of_its_longest_line() {
        let grid = Grid {
            rows: vec![
                vec!["a".into(), "one\nlonger".into()],
                vec!["key".into(), "".into()],
            ],
            ..Grid::default()
        };
        assert_eq!(
            grid.draw(false),
            "┌─────┬────────┐\n│ a   │ one    │\n│     │ longer │\n│ key │        │\n└─────┴────────┘\n"
        );
    }

    #[test]
    fn a_fixed_column_cuts_what_is_too_long() {
        let grid = Grid {
            head: vec!["name"],
            rows: vec![vec!["abcdef".into()]],
            widths: vec![6],
            keyed: false,
        };
        assert_eq!(
            grid.draw(false),
            "┌──────┐\n│ name │\n├──────┤\n│ abc… │\n└──────┘\n"
        );
    }

    #[test]
    fn an_empty_table_is_nothing_and_a_bare_heading_has_no_rule() {
        assert_eq!(Grid::default().draw(true), "");
        assert_eq!(
            Grid {
                head: vec!["id"],
                ..Grid::default()
            }
            .draw(false),
            "┌────┐\n│ id │\n└────┘\n"
        );
    }
}
