//! Picks the program by the name it is called under, and turns its outcome into an exit code.

use fornax::core::spec::home::Home;
use fornax::daemon::boot::{self, BootOptions, Servers};
use fornax::{cli, http, pm2};
use std::io::Write;
use std::process::ExitCode;

/// Where HTTP listens unless `FORNAX_HTTP` says otherwise.
const HTTP: &str = "127.0.0.1:9090";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    if args.get(1).is_some_and(|word| word == "daemon") && args.len() == 2 {
        return daemon();
    }
    cli::program::run(&args)
}

/// The daemon, in this process. Whoever started it waits for one word on our standard input, which is a pipe of theirs then.
fn daemon() -> ExitCode {
    let promised = std::env::var_os("FORNAX_READY_FD").is_some();
    if promised {
        // It fails for a session leader, which is as good.
        let _ = nix::unistd::setsid();
    }
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
    let servers = Servers {
        sockets: |rpc, events, handle, tasks| {
            Box::pin(pm2::server::serve(rpc, events, handle, tasks))
        },
        http: |handle, address, requests, state| {
            Box::pin(http::serve(handle, address, requests, state))
        },
    };
    match boot::run(options, &servers, || say("ready\n")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error}\n"));
            let _ = writeln!(std::io::stderr(), "fornax: {error}");
            ExitCode::FAILURE
        }
    }
}
