//! Fornax beside PM2 and OxMgr on this machine: prints the table of `docs/benchmarks.md`.
//!
//! Run: `cargo bench --bench compare -- [--rows boot,memory,start,list,successor,restart,flood] [--rounds N]
//! [--managers fornax,pm2,oxmgr]`. `FORNAX_PM2` and `FORNAX_OXMGR` name the others' programs, `FORNAX_BIN`
//! another build of ours.

#[path = "compare/apps.rs"]
mod apps;
#[path = "compare/flood.rs"]
mod flood;
#[path = "compare/manager.rs"]
mod manager;
#[path = "compare/measure.rs"]
mod measure;
#[path = "compare/process.rs"]
mod process;
#[path = "compare/table.rs"]
mod table;

use manager::{Kind, Manager};
use measure::{Results, Row};

fn main() {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("compare: {reason}");
            std::process::exit(2);
        }
    };
    let scratch = tempfile::tempdir().expect("a temporary folder can be made");
    let mut results = Vec::new();
    for kind in Kind::ALL {
        let program = options
            .managers
            .contains(&kind)
            .then(|| kind.program())
            .flatten();
        let measured = program.map(|program| {
            let mut measured = Results::default();
            for row in &options.rows {
                eprintln!("{}: {}", kind.name(), row.name());
                let make = |round: usize| Manager::new(kind, &program, scratch.path(), round);
                row.measure(&make, options.rounds, &mut measured);
                process::end_marked(scratch.path());
            }
            measured
        });
        results.push((kind, measured));
    }
    let floors = measure::floors(scratch.path(), &options.rows, options.rounds);
    process::end_marked(scratch.path());
    print!("{}", table::render(&results, &floors));
}

/// What the command line asks for.
struct Options {
    rows: Vec<Row>,
    managers: Vec<Kind>,
    rounds: usize,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            rows: Row::ALL.to_vec(),
            managers: Kind::ALL.to_vec(),
            rounds: 7,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                // Cargo adds it.
                "--bench" => {}
                "--rounds" => {
                    options.rounds = value()?
                        .parse()
                        .ok()
                        .filter(|rounds| *rounds > 0)
                        .ok_or("--rounds needs a number from 1")?;
                }
                "--rows" => options.rows = chosen(&value()?, &Row::ALL, |row| row.name())?,
                "--managers" => {
                    options.managers = chosen(&value()?, &Kind::ALL, |kind| kind.key())?
                }
                _ => {
                    return Err(format!(
                        "unknown option {arg}; see the head of benches/compare.rs"
                    ));
                }
            }
        }
        Ok(options)
    }
}

/// The items named in a list with commas.
fn chosen<T: Copy>(
    text: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<Vec<T>, String> {
    let known: Vec<&str> = all.iter().map(|item| name(*item)).collect();
    text.split(',')
        .map(|word| {
            let found = all.iter().find(|item| name(**item) == word);
            found
                .copied()
                .ok_or_else(|| format!("{word} is none of {}", known.join(", ")))
        })
        .collect()
}
