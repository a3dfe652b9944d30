//! Picks the program by the name it is called under, and turns its outcome into an exit code.

use fornax::core::keeping;
use fornax::core::spec::home::Home;
use fornax::daemon::boot::{self, BootOptions, Servers};
use fornax::daemon::owner;
use fornax::jobs::{self, JobSettings, Jobs};
use fornax::{cli, fleet, http, keeper, pm2, serve};
use std::io::Write;
use std::process::ExitCode;

/// Where HTTP listens unless `FORNAX_HTTP` says otherwise.
const HTTP: &str = "127.0.0.1:9090";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    match words[..] {
        ["daemon"] if is_kept() => return daemon(),
        ["daemon"] => return keeper(),
        ["daemon", "check"] => return check(),
        ["static-server"] => return serve::run(),
        _ => {}
    }
    cli::program::run(&args)
}

/// This process is to be the daemon itself: a keeper has started it, or there is to be none.
fn is_kept() -> bool {
    std::env::var_os(keeping::SOCKET_VARIABLE).is_some()
        || std::env::var_os("FORNAX_NO_KEEPER").is_some_and(|value| value == "1")
}

/// The keeper, and under it the daemon.
fn keeper() -> ExitCode {
    // It fails for a session leader, which is as good.
    let _ = nix::unistd::setsid();
    let home = Home::from_env(&|name| std::env::var(name).ok());
    let title = format!("PM2 v7.0.4: God Daemon ({})", home.root().display());
    match keeper::run(&title) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if std::env::var_os("FORNAX_READY_FD").is_some() {
                // The starter may have gone.
                let _ = nix::unistd::write(std::io::stdin(), format!("{error}\n").as_bytes());
            }
            let _ = writeln!(std::io::stderr(), "fornax: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether this program could go on from the table on standard input, asked by a daemon that is to be replaced.
fn check() -> ExitCode {
    let table = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned();
    let checked = table
        .map_err(|error| error.to_string())
        .and_then(boot::check);
    match checked {
        Ok(said) => {
            println!(
                "{said}, {} {}",
                env!("CARGO_PKG_NAME"),
                env!("CARGO_PKG_VERSION")
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The daemon, in this process. Whoever started it waits for one word on our standard input, which is a pipe of theirs then.
fn daemon() -> ExitCode {
    let promised = std::env::var_os("FORNAX_READY_FD").is_some();
    if promised {
        // It fails for a session leader, which is as good.
        let _ = nix::unistd::setsid();
    }
    // What it was executed by may be a path of /proc.
    let _ = nix::sys::prctl::set_name(c"fornax");
    let say = move |word: &str| {
        if promised {
            // The starter may have gone.
            let _ = nix::unistd::write(std::io::stdin(), word.as_bytes());
            let null = std::fs::OpenOptions::new().read(true).open("/dev/null");
            let _ = null.map(nix::unistd::dup2_stdin);
        }
    };
    let env = |name: &str| std::env::var(name).ok();
    let options = BootOptions {
        home: Home::from_env(&env),
        http: env("FORNAX_HTTP")
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| HTTP.to_owned()),
    };
    let (fleet, fleet_server) = fleet::open();
    let (jobs, jobs_inbox) = Jobs::new(JobSettings::from_env(options.home.root(), env));
    let jobs_server = jobs.clone();
    let servers = Servers {
        sockets: Box::new(|rpc, events, handle, tasks| {
            Box::pin(pm2::server::serve(rpc, events, handle, tasks))
        }),
        http: Box::new(|handle, address, requests, state| {
            Box::pin(http::serve(handle, fleet, jobs, address, requests, state))
        }),
        others: vec![
            Box::new(|handle| Box::pin(owner::watch(handle))),
            Box::new(|handle| Box::pin(fleet::serve(fleet_server, handle))),
            Box::new(|handle| Box::pin(jobs::serve(handle, jobs_server, jobs_inbox))),
        ],
    };
    match boot::run(options, servers, || say("ready\n")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error}\n"));
            let _ = writeln!(std::io::stderr(), "fornax: {error}");
            ExitCode::FAILURE
        }
    }
}
