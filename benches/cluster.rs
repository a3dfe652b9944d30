//! Keep-alive HTTP through a cluster of two workers: Fornax, round robin and shared, beside PM2, in one run, for a service that writes a
//! line for each request and for one that writes nothing. Prints the tables of `docs/benchmarks.md`.
//!
//! Run: `cargo bench --bench cluster -- [--rounds N] [--seconds S] [--connections C]`. It wants `wrk` and Node in PATH. `FORNAX_PM2`
//! names PM2's program, `FORNAX_BIN` another build of ours. Ends with code 1 if a request failed.

#[allow(dead_code)] // the comparison uses the rest of it
#[path = "compare/process.rs"]
mod process;

use process::MARK;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An answer of some size, as an API gives one.
const SILENT: &str = "const body = JSON.stringify({ hello: 'x'.repeat(100) });
require('http').createServer((request, response) => response.end(body)).listen(process.env.PORT, '127.0.0.1');\n";
/// The same, and a line in the log for each request.
const LOGGING: &str = "const body = JSON.stringify({ hello: 'x'.repeat(100) });
require('http').createServer((request, response) => {
  console.log(`${new Date().toISOString()} ${request.method} ${request.url} 200`);
  response.end(body);
}).listen(process.env.PORT, '127.0.0.1');\n";
/// How long workers may take to answer.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Pm2,
    RoundRobin,
    Shared,
}

impl Way {
    const ALL: [Way; 3] = [Way::Pm2, Way::RoundRobin, Way::Shared];

    fn name(self) -> &'static str {
        match self {
            Way::Pm2 => "PM2 (round robin)",
            Way::RoundRobin => "Fornax, round robin",
            Way::Shared => "Fornax, shared",
        }
    }

    fn program(self) -> Option<PathBuf> {
        let named = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
        match self {
            Way::Pm2 => named("FORNAX_PM2"),
            Way::RoundRobin | Way::Shared => {
                named("FORNAX_BIN").or_else(|| Some(env!("CARGO_BIN_EXE_fornax").into()))
            }
        }
    }
}

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Logging,
    Silent,
}

impl Service {
    const ALL: [Service; 2] = [Service::Logging, Service::Silent];

    fn name(self) -> &'static str {
        match self {
            Service::Logging => "a log line for each request",
            Service::Silent => "no log lines",
        }
    }

    fn script(self) -> &'static str {
        match self {
            Service::Logging => LOGGING,
            Service::Silent => SILENT,
        }
    }
}

struct Options {
    rounds: usize,
    seconds: u64,
    connections: u32,
}

fn main() {
    let options = parse(std::env::args().skip(1)).unwrap_or_else(|reason| {
        eprintln!("cluster: {reason}; see the head of benches/cluster.rs");
        std::process::exit(2);
    });
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    // However it ends, nothing of it is left running.
    let whole = std::panic::catch_unwind(|| measure(&options, folder.path()));
    process::end_marked(folder.path());
    if !matches!(whole, Ok(true)) {
        std::process::exit(1);
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        rounds: 5,
        seconds: 8,
        connections: 64,
    };
    while let Some(arg) = args.next() {
        let mut number = || {
            let value = args.next().and_then(|value| value.parse::<u32>().ok());
            value
                .filter(|number| *number > 0)
                .ok_or(format!("{arg} needs a number from 1"))
        };
        match arg.as_str() {
            // Cargo adds it.
            "--bench" => {}
            "--rounds" => options.rounds = number()? as usize,
            "--seconds" => options.seconds = number()?.into(),
            "--connections" => options.connections = number()?,
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    Ok(options)
}

/// The clusters of one service stand at once, and are asked in turns, so that a busy moment of the machine is everybody's.
fn measure(options: &Options, folder: &Path) -> bool {
    let failed: u64 = Service::ALL
        .iter()
        .map(|service| compare(*service, options, folder))
        .sum();
    println!(
        "\nMedians of {} rounds of {} s; {failed} requests failed.",
        options.rounds, options.seconds
    );
    failed == 0
}

/// One table. How many requests failed.
fn compare(service: Service, options: &Options, folder: &Path) -> u64 {
    let script = folder.join(format!("{service:?}.js"));
    std::fs::write(&script, service.script()).expect("a script can be written");
    let mut clusters = Vec::new();
    for way in Way::ALL {
        match way.program() {
            Some(program) => clusters.push(Cluster::start(way, program, folder, &script)),
            None => eprintln!("not run: no PM2 in FORNAX_PM2"),
        }
    }
    let mut failed = 0;
    for round in 0..options.rounds {
        for cluster in &mut clusters {
            let (rate, errors) = wrk(cluster.port, options);
            eprintln!("round {round}: {} {rate:.0} requests/s", cluster.way.name());
            cluster.rates.push(rate);
            failed += errors;
        }
    }
    let pm2 = clusters
        .iter()
        .find(|cluster| cluster.way == Way::Pm2)
        .map(|cluster| median(&cluster.rates));
    println!(
        "\n| cluster of 2, keep-alive HTTP, {} connections, {} | requests/s | of PM2's | budget |",
        options.connections,
        service.name()
    );
    println!("|---|---|---|---|");
    for cluster in &clusters {
        let rate = median(&cluster.rates);
        let share = pm2.map_or_else(|| "–".to_owned(), |pm2| format!("{:.2} ×", rate / pm2));
        let budget = match cluster.way {
            Way::Pm2 => "",
            Way::RoundRobin => "≥ 1.0 ×",
            Way::Shared => "≥ 1.2 ×",
        };
        println!(
            "| {} | {rate:.0} | {share} | {budget} |",
            cluster.way.name()
        );
        cluster.run(&["kill"]);
    }
    failed
}

/// A manager with two workers, in a home of its own.
struct Cluster {
    way: Way,
    program: PathBuf,
    home: PathBuf,
    mark: PathBuf,
    port: u16,
    rates: Vec<f64>,
}

impl Cluster {
    fn start(way: Way, program: PathBuf, folder: &Path, script: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let cluster = Self {
            way,
            program,
            home: script.with_extension(format!("{way:?}")),
            mark: folder.to_owned(),
            port,
            rates: Vec::new(),
        };
        cluster.run(&["start", script.to_str().expect("a plain path"), "-i", "2"]);
        let until = Instant::now() + UP_WITHIN;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "{way:?} does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        cluster
    }

    fn run(&self, words: &[&str]) {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .env(MARK, &self.mark)
            .env("PM2_HOME", &self.home)
            .env("PM2_DISABLE_VERSION_CHECK", "true")
            .env("FORNAX_HTTP", "off")
            .env("PORT", self.port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if self.way == Way::Shared {
            command.env("NODE_CLUSTER_SCHED_POLICY", "none");
        }
        let status = command.status().expect("the manager can be run");
        assert!(status.success(), "{:?} {words:?}: {status}", self.way);
    }
}

/// Requests a second, and how many failed.
fn wrk(port: u16, options: &Options) -> (f64, u64) {
    let told = Command::new("wrk")
        .args(["-t1", &format!("-c{}", options.connections)])
        .arg(format!("-d{}s", options.seconds))
        .arg(format!("http://127.0.0.1:{port}/"))
        .output()
        .expect("wrk is in PATH");
    let text = String::from_utf8_lossy(&told.stdout);
    let rate = text
        .lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix("Requests/sec:")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or_else(|| panic!("wrk tells no rate: {text}"));
    // `Socket errors: connect 0, read 0, write 0, timeout 0` and `Non-2xx or 3xx responses: N`, where there are any.
    let errors = text
        .lines()
        .filter(|line| line.contains("Socket errors") || line.contains("Non-2xx"))
        .flat_map(|line| line.split(|letter: char| !letter.is_ascii_digit()))
        .filter_map(|number| number.parse::<u64>().ok())
        .sum::<u64>();
    let of_the_words = text.matches("Non-2xx or 3xx").count() as u64 * 5;
    (rate, errors - of_the_words)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
