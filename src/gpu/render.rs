//! The inventory as a table for people.

use super::inventory::{Gpu, Inventory};
use crate::core::units::Bytes;
use comfy_table::{CellAlignment, Table, presets};
use std::fmt::Write;

/// The columns and whether they hold numbers.
const COLUMNS: [(&str, bool); 8] = [
    ("gpu", true),
    ("name", false),
    ("memory", true),
    ("used", true),
    ("temp", true),
    ("util", true),
    ("leased to", false),
    ("uuid", false),
];

/// Where a cell has nothing to tell.
const NOTHING: &str = "-";

/// The table of `fornax gpu list`: a row a GPU, then its processes, then the driver and the note. Ends with a newline.
/// `colour` makes the header bold cyan, as PM2's tables are.
pub fn table(inventory: &Inventory, colour: bool) -> String {
    let mut out = String::new();
    if inventory.gpus.is_empty() {
        out.push_str("no GPUs\n");
    } else {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(COLUMNS.map(|(name, _)| name));
        for (column, (_, numeric)) in table.column_iter_mut().zip(COLUMNS) {
            if numeric {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for gpu in &inventory.gpus {
            table.add_row(row(gpu));
        }
        let text = table.to_string();
        for (at, line) in text.lines().enumerate() {
            // Line 0 is the frame, line 1 the header. Coloured last, so that the escapes do not count as width.
            match colour && at == 1 {
                true => out.push_str(&coloured(line)),
                false => out.push_str(line.trim_end()),
            }
            out.push('\n');
        }
        for gpu in &inventory.gpus {
            for process in gpu.processes.iter().flatten() {
                let name = process.name.as_deref().unwrap_or("unknown program");
                let memory = size(process.memory_used);
                // Writing to a String cannot fail.
                let _ = writeln!(
                    out,
                    "gpu {}: pid {} {name}, {memory}",
                    gpu.index, process.pid
                );
            }
        }
    }
    if let Some(driver) = &inventory.driver {
        let cuda = inventory.cuda.as_deref().unwrap_or("unknown");
        // Writing to a String cannot fail.
        let _ = writeln!(out, "driver {driver}, CUDA {cuda}");
    }
    if let Some(note) = &inventory.note {
        out.push_str(note);
        out.push('\n');
    }
    out
}

fn row(gpu: &Gpu) -> [String; 8] {
    let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
    [
        gpu.index.to_string(),
        match gpu.mig {
            true => format!("{} (MIG)", gpu.name),
            false => gpu.name.clone(),
        },
        size(gpu.memory_total),
        size(gpu.memory_used),
        or_nothing(gpu.temperature_c.map(|degrees| format!("{degrees} °C"))),
        or_nothing(gpu.utilisation_percent.map(|share| format!("{share} %"))),
        or_nothing(gpu.lease.as_ref().map(|owner| owner.app.clone())),
        gpu.uuid.clone(),
    ]
}

/// A size in GiB with one decimal: what a person compares model sizes with.
fn size(bytes: Option<Bytes>) -> String {
    match bytes {
        Some(Bytes(bytes)) => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
        None => NOTHING.to_owned(),
    }
}

/// The header line with its words in bold cyan.
fn coloured(header: &str) -> String {
    COLUMNS.iter().fold(header.to_owned(), |line, (name, _)| {
        line.replacen(
            &format!(" {name} "),
            &format!(" \x1b[1m\x1b[36m{name}\x1b[39m\x1b[22m "),
            1,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::inventory::GpuProcess;
    use crate::gpu::lease::Owner;

    fn inventory() -> Inventory {
        let mut inventory = crate::gpu::inventory::simulated(2, std::path::Path::new("/w"));
        let gpu = &mut inventory.gpus[0];
        gpu.name = "NVIDIA H200".into();
        gpu.uuid = "GPU-0a".into();
        gpu.temperature_c = Some(41);
        gpu.utilisation_percent = Some(7);
        gpu.lease = Some(Owner {
            pid: 1,
            start_time: 1,
            holder: "/h".into(),
            app: "comfyui-gpu0".into(),
            since: 0,
        });
        gpu.processes = Some(vec![GpuProcess {
            pid: 99,
            name: Some("python".into()),
            memory_used: Some(Bytes(3 << 29)),
        }]);
        inventory.driver = Some("570.1".into());
        inventory.cuda = Some("12.8".into());
        inventory.gpus[1].uuid = "SIM-1".into();
        inventory
    }

    #[test]
    fn the_table_tells_every_reading_and_a_dash_for_what_is_unknown() {
        insta::assert_snapshot!(table(&inventory(), false), @r"
        ┌─────┬───────────────┬──────────┬─────────┬───────┬──────┬──────────────┬────────┐
        │ gpu ┆ name          ┆   memory ┆    used ┆  temp ┆ util ┆ leased to    ┆ uuid   │
        ╞═════╪═══════════════╪══════════╪═════════╪═══════╪══════╪══════════════╪════════╡
        │   0 ┆ NVIDIA H200   ┆ 24.0 GiB ┆ 0.0 GiB ┆ 41 °C ┆  7 % ┆ comfyui-gpu0 ┆ GPU-0a │
        │   1 ┆ Simulated GPU ┆ 24.0 GiB ┆ 0.0 GiB ┆     - ┆    - ┆ -            ┆ SIM-1  │
        └─────┴───────────────┴──────────┴─────────┴───────┴──────┴──────────────┴────────┘
        gpu 0: pid 99 python, 1.5 GiB
        driver 570.1, CUDA 12.8
        these GPUs are simulated; nothing was asked of a driver
        ");
    }

    #[test]
    fn colour_changes_the_header_and_nothing_else() {
        let (plain, colour) = (table(&inventory(), false), table(&inventory(), true));
        assert!(!plain.contains('\x1b'));
        let stripped = ["\x1b[1m", "\x1b[36m", "\x1b[39m", "\x1b[22m"]
            .iter()
            .fold(colour.clone(), |text, code| text.replace(code, ""));
        assert_eq!(stripped, plain);
        assert_eq!(colour.matches("\x1b[36m").count(), COLUMNS.len());
        assert_eq!(
            colour.lines().filter(|line| line.contains('\x1b')).count(),
            1
        );
    }

    #[test]
    fn no_gpus_and_why() {
        let none = Inventory {
            note: Some("no NVIDIA driver: why".into()),
            ..Inventory::default()
        };
        assert_eq!(table(&none, true), "no GPUs\nno NVIDIA driver: why\n");
    }
}
