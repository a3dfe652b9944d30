//! The table as Markdown.

use super::manager::Kind;
use super::measure::{Floors, Results};
use super::process::Memory;
use std::fmt::Write;

type Columns = [(Kind, Option<Results>)];

/// The table, and under it what does not fit into it.
pub fn render(results: &Columns, floors: &Floors) -> String {
    let mut out = String::from("| |");
    for (kind, _) in results {
        let _ = write!(out, " {} |", kind.name());
    }
    out += " budget |\n|---|";
    out += &"---|".repeat(results.len() + 1);
    out.push('\n');
    let mut row = |title: &str, budget: &str, cell: &dyn Fn(&Results) -> String| {
        let _ = write!(out, "| {title} |");
        for (_, measured) in results {
            let text = measured.as_ref().map_or("not run".to_owned(), cell);
            let _ = write!(out, " {text} |");
        }
        let _ = writeln!(out, " {budget} |");
    };
    row("daemon boot, ms", "≤ 20", &|r| number(&r.boot));
    row("RSS idle / at 100 apps, MB", "≤ 5 / ≤ 8", &|r| {
        both(
            &megabytes(&r.idle, |m| m.rss),
            &megabytes(&r.loaded, |m| m.rss),
        )
    });
    row("start 100 apps from one file, ms", "≤ 250", &|r| {
        number(&r.start)
    });
    row("list at 100 apps, ms", "≤ 3", &|r| number(&r.list));
    let bash = number(&floors.bash);
    row(
        &format!(
            "SIGKILL of an app to its successor's first line, ms (bare spawn of bash: {bash})"
        ),
        "≤ 2.5",
        &|r| number(&r.successor),
    );
    row("restart command, ms", "≤ 15", &|r| number(&r.restart));
    let cat = number(&floors.cat);
    row(
        &format!(
            "log flood, 2,000,000 lines of 100 bytes, raw / with timestamps, MB/s (pipe to cat to file: {cat})"
        ),
        "≥ 300 / ≥ 250",
        &|r| both(&r.flood_raw, &r.flood_stamped),
    );
    row(
        "daemon CPU for that flood with timestamps, s",
        "≤ 0.5",
        &|r| number(&r.flood_cpu),
    );
    out.push('\n');
    for (kind, measured) in results {
        if let Some(measured) = measured {
            notes(&mut out, kind.name(), measured);
        }
    }
    out
}

fn notes(out: &mut String, name: &str, measured: &Results) {
    let pair = |part: fn(&Memory) -> f64| {
        both(
            &megabytes(&measured.idle, part),
            &megabytes(&measured.loaded, part),
        )
    };
    // Writing to a string cannot fail.
    if !measured.idle.is_empty() {
        let _ = writeln!(
            out,
            "- {name}, idle / at 100 apps, MB: PSS {}, RssAnon {}",
            pair(|m| m.pss),
            pair(|m| m.anon)
        );
    }
    for (what, samples) in [
        (
            "exec of the daemon to its first accepted connection",
            &measured.accepts,
        ),
        ("the start command alone", &measured.start_command),
    ] {
        if !samples.is_empty() {
            let _ = writeln!(out, "- {name}, {what}: {} ms", number(samples));
        }
    }
}

fn megabytes(samples: &[Memory], part: fn(&Memory) -> f64) -> Vec<f64> {
    samples.iter().map(|memory| part(memory) / 1024.0).collect()
}

fn both(left: &[f64], right: &[f64]) -> String {
    format!("{} / {}", number(left), number(right))
}

/// The median, to three figures or so; a dash when the row was not asked for.
fn number(samples: &[f64]) -> String {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = match sorted.len() {
        0 => return "-".to_owned(),
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    };
    match median {
        big if big >= 100.0 => format!("{big:.0}"),
        middling if middling >= 10.0 => format!("{middling:.1}"),
        small => format!("{small:.2}"),
    }
}
