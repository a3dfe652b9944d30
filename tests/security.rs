//! Who may talk to the real daemon, and what hostile words, names and neighbours come to: the model is docs/security.md.

#![allow(clippy::unwrap_used)]

mod support;

use nix::unistd::{Gid, Uid, geteuid, setfsgid, setfsuid};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{Home, eventually, pm2_client::write};

/// An app that stays, and says nothing.
const QUIET: &str = "#!/bin/sh\nexec sleep 1000\n";
const SECRET: &str = "hunter2-f8c1b0";
/// What a planted link points to; some of the files that it stands for are read as JSON.
const PRECIOUS: &str = r#"{"precious": {}}"#;
/// Nobody's user id.
const NOBODY: u32 = 65534;

/// Runs `look` on a thread that the kernel takes for another user's wherever files and sockets are opened.
fn as_another_user<T: Send>(look: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setfsgid(Gid::from_raw(NOBODY));
            setfsuid(Uid::from_raw(NOBODY));
            // The second call tells what the first one came to.
            assert_eq!(setfsuid(Uid::from_raw(NOBODY)), Uid::from_raw(NOBODY));
            look()
        });
        thread.join().unwrap()
    })
}

/// Only root can be somebody else for a moment.
fn can_be_another_user(test: &str) -> bool {
    let root = geteuid().is_root();
    if !root {
        eprintln!("NOT RUN: {test}: it needs root, to look at the home as another user");
    }
    root
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn tree(folder: &Path, found: &mut Vec<PathBuf>) {
    found.push(folder.to_owned());
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            tree(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

/// Whether this thread may read a file, list a folder or connect to a socket.
fn opens(path: &Path) -> bool {
    let tried = if path.extension().is_some_and(|ending| ending == "sock") {
        UnixStream::connect(path).map(drop)
    } else {
        std::fs::File::open(path).map(drop)
    };
    match tried {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{path:?}");
            false
        }
    }
}

fn connect(home: &Home) -> fornax::pm2::client::Client {
    fornax::pm2::client::Client::connect(&home.root().join("rpc.sock")).unwrap()
}

// Another user of the machine.

#[test]
fn another_user_opens_nothing_in_a_home_that_was_open() {
    if !can_be_another_user("another_user_opens_nothing_in_a_home_that_was_open") {
        return;
    }
    let home = Home::with(&[("FORNAX_HTTP", "127.0.0.1:0"), ("SECRET", SECRET)]);
    let outer = home.root().parent().unwrap().to_owned();
    mode(&outer, 0o755);
    std::fs::create_dir(home.root()).unwrap();
    mode(&home.root(), 0o777);
    let app = home.app("quiet.sh", QUIET);
    home.run(&["start", &app])
        .ok()
        .says("Other users could write");
    home.run(&["set", "a:b", "c"]).ok();
    for _ in 0..2 {
        home.run(&["save"]).ok();
    }
    std::fs::write(home.root().join("http.token"), "0123456789abcdef").unwrap();
    mode(&home.root().join("http.token"), 0o600);
    let mut paths = Vec::new();
    tree(&home.root(), &mut paths);
    assert!(paths.len() > 10, "{paths:?}");
    assert!(
        as_another_user(|| opens(&outer)),
        "it would refuse anything"
    );
    let opened: Vec<_> =
        as_another_user(|| paths.iter().filter(|path| opens(path)).cloned().collect());
    assert_eq!(opened, Vec::<PathBuf>::new());
    // And if its owner opens it again: what is secret is closed by itself.
    mode(&home.root(), 0o755);
    for name in [
        "rpc.sock",
        "pub.sock",
        "dump.pm2",
        "dump.pm2.bak",
        "module_conf.json",
        "pm2.log",
        "fornax.lock",
        "http.token",
    ] {
        let path = home.root().join(name);
        assert!(path.exists(), "{name}");
        assert!(!as_another_user(|| opens(&path)), "{name}");
    }
}

#[test]
fn sockets_are_the_owners_from_their_first_moment() {
    let root = can_be_another_user("connecting in sockets_are_the_owners_from_their_first_moment");
    let open = tempfile::tempdir().unwrap();
    mode(open.path(), 0o1777);
    let [rpc, events] = ["rpc.sock", "pub.sock"].map(|name| open.path().join(name));
    let home = Home::with(&[
        ("PM2_DAEMON_RPC_PORT", rpc.to_str().unwrap()),
        ("PM2_DAEMON_PUB_PORT", events.to_str().unwrap()),
    ]);
    let ended = AtomicBool::new(false);
    let look = || {
        let mut modes = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            for path in [&rpc, &events] {
                if let Ok(found) = std::fs::symlink_metadata(path) {
                    modes.push(found.mode() & 0o777);
                }
                assert!(!root || UnixStream::connect(path).is_err(), "{path:?}");
            }
        }
        modes
    };
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| if root { as_another_user(look) } else { look() });
        let (program, line) = (
            home.program().to_str().unwrap(),
            "umask 0; exec \"$0\" \"$1\"",
        );
        for _ in 0..5 {
            for word in ["ping", "kill"] {
                home.run_as(Path::new("/bin/sh"), &["-c", line, program, word])
                    .ok();
            }
        }
        ended.store(true, Ordering::Relaxed);
        let modes = watcher.join().unwrap();
        assert!(!modes.is_empty(), "no socket was ever seen");
        assert!(modes.iter().all(|mode| *mode == 0o600), "{modes:?}");
    });
}

#[test]
fn a_home_of_another_user_is_refused_and_left_as_it_is() {
    if !can_be_another_user("a_home_of_another_user_is_refused_and_left_as_it_is") {
        return;
    }
    let home = Home::new();
    std::fs::create_dir(home.root()).unwrap();
    mode(&home.root(), 0o755);
    chown(home.root(), Some(NOBODY), None).unwrap();
    home.run(&["ping"])
        .fails("belongs to another user")
        .says("chown");
    let mut daemon = home.spawn(home.program(), &["daemon"]);
    assert_eq!(daemon.code(), Some(1));
    assert!(
        daemon.output().contains("belongs to another user"),
        "{}",
        daemon.output()
    );
    let mut paths = Vec::new();
    tree(&home.root(), &mut paths);
    assert_eq!(paths, [home.root()]);
    assert_eq!(
        std::fs::metadata(home.root()).unwrap().mode() & 0o777,
        0o755
    );
}

#[test]
fn planted_links_are_replaced_and_what_they_point_to_is_untouched() {
    let home = Home::new();
    let victim = home.apps().join("victim");
    std::fs::create_dir(home.root()).unwrap();
    let plant = |name: &str| {
        std::fs::write(&victim, PRECIOUS).unwrap();
        mode(&victim, 0o644);
        // What is there already is only what a test before has put there.
        let _ = std::fs::remove_file(home.root().join(name));
        symlink(&victim, home.root().join(name)).unwrap();
    };
    let untouched = |name: &str| {
        assert_eq!(
            std::fs::read_to_string(&victim).unwrap(),
            PRECIOUS,
            "{name}"
        );
        assert_eq!(
            std::fs::metadata(&victim).unwrap().mode() & 0o777,
            0o644,
            "{name}"
        );
    };
    let names = [
        "rpc.sock",
        "pub.sock",
        "pm2.pid",
        "dump.pm2.bak",
        "module_conf.json",
    ];
    names.iter().for_each(|name| plant(name));
    home.run(&["start", &home.app("quiet.sh", QUIET)]).ok();
    home.run(&["set", "a:b", "c"]).ok();
    for name in ["rpc.sock", "pub.sock"] {
        let found = std::fs::symlink_metadata(home.root().join(name)).unwrap();
        assert!(found.file_type().is_socket(), "{name}");
    }
    let daemon = home.daemon_pid().unwrap();
    let temporary = format!(".dump.pm2.{daemon}.tmp");
    plant("dump.pm2");
    plant(&temporary);
    support::home::kill(daemon, 15);
    eventually("the daemon has saved its list and gone", || {
        (!support::home::lives(daemon)).then_some(())
    });
    for name in names.into_iter().chain(["dump.pm2", &temporary]) {
        untouched(name);
        let found = std::fs::symlink_metadata(home.root().join(name));
        // What was planted as the list was none, so it did not become the backup; and a temporary file that is there already
        // is not used.
        let is_left = name == "dump.pm2.bak" || name == temporary || found.is_err();
        assert!(is_left || !found.unwrap().is_symlink(), "{name}");
    }
    assert!(home.read("dump.pm2").contains("quiet"));
    plant("fornax.lock");
    home.run(&["ping"]).fails("symbolic link");
    untouched("fornax.lock");
    std::fs::remove_file(home.root().join("fornax.lock")).unwrap();
    std::fs::write(home.root().join("rpc.sock"), "a file").unwrap();
    home.run(&["ping"]).fails("not a socket");
    assert_eq!(home.read("rpc.sock"), "a file");
}

#[test]
fn a_home_with_a_hostile_name_is_a_name_and_nothing_more() {
    let outer = tempfile::Builder::new().prefix("fx").tempdir().unwrap();
    for name in [
        "a b",
        "$(touch pwned)",
        "'; touch pwned; '",
        "`touch pwned`",
        "a\nb",
    ] {
        let root = outer.path().join(name);
        let home = Home::with(&[("PM2_HOME", root.to_str().unwrap())]);
        let app = home.app("quiet.sh", QUIET);
        home.run(&["start", &app]).ok();
        assert_eq!(home.list().len(), 1, "{name:?}");
        assert!(root.join("rpc.sock").exists(), "{name:?}");
        home.run(&["kill"]).ok();
        assert!(!home.apps().join("pwned").exists(), "{name:?}");
    }
    let long = outer.path().join("x".repeat(120));
    let home = Home::with(&[("PM2_HOME", long.to_str().unwrap())]);
    home.run(&["ping"]).fails("too long");
}

#[test]
fn nothing_listens_beyond_loopback_and_localhost_is_both_of_its_addresses() {
    let home = Home::with(&[("FORNAX_HTTP", "localhost:0")]);
    let temporary = home.apps().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    home.run_with(&["ping"], &[("TMPDIR", temporary.to_str().unwrap())])
        .ok();
    let address = home.http();
    let port = address.rsplit_once(':').unwrap().1;
    assert_eq!(support::home::get(&address, "/health").0, 200);
    match std::net::TcpListener::bind("[::1]:0") {
        Ok(_) => assert_eq!(
            support::home::get(&format!("[::1]:{port}"), "/health").0,
            200
        ),
        Err(error) => eprintln!("NOT RUN: ::1: this machine has none ({error})"),
    }
    let fds = std::fs::read_dir(format!("/proc/{}/fd", home.daemon_pid().unwrap())).unwrap();
    let sockets: Vec<String> = fds
        .flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter_map(|to| {
            Some(
                to.to_str()?
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .to_owned(),
            )
        })
        .collect();
    let mut listening = 0;
    for table in ["tcp", "tcp6", "udp", "udp6", "raw"] {
        let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if sockets
                .iter()
                .any(|inode| words.get(9) == Some(&inode.as_str()))
            {
                let local = words[1].split(':').next().unwrap();
                assert!(
                    local == "0100007F" || local == "00000000000000000000000001000000",
                    "{table}: {line}"
                );
                listening += 1;
            }
        }
    }
    assert!(listening >= 1);
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}

// Pages and programs that ask over HTTP.

/// What comes back for these bytes until the connection closes.
fn ask(home: &Home, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(home.http()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    // It may have been refused before its end.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    // What was not read by the daemon makes the end a reset.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}

fn with_http() -> Home {
    let home = Home::with(&[("FORNAX_HTTP", "127.0.0.1:0")]);
    home.run(&["ping"]).ok();
    home
}

#[test]
fn a_name_that_was_rebound_to_this_machine_is_not_answered() {
    let home = with_http();
    for (host, code) in [
        ("localhost", 200),
        ("LocalHost:9090", 200),
        ("localhost.:80", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:9090", 200),
        ("[0:0:0:0:0:0:0:1]", 200),
        ("rebind.example.org", 403),
        ("localhost.example.org", 403),
        ("127.0.0.1.example.org", 403),
        ("example.org:127.0.0.1", 403),
        ("0.0.0.0:9090", 403),
        ("[::]:9090", 403),
        ("2130706433", 403),
        ("0x7f.1", 403),
        ("localhost@example.org", 403),
        ("localhost#.example.org", 403),
        ("", 403),
    ] {
        let answer = ask(
            &home,
            format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        assert_eq!(status(&answer), code, "{host:?}: {answer}");
    }
    for request in [
        "GET http://example.org/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET http://localhost@example.org/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: example.org\r\nConnection: close\r\n\r\n",
        "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n",
    ] {
        let answer = ask(&home, request.as_bytes());
        assert!(matches!(status(&answer), 400 | 403), "{answer}");
    }
}

#[test]
fn a_page_of_another_site_gets_nothing_and_changes_nothing() {
    let home = with_http();
    let request = |method: &str, headers: &str| {
        let text = format!(
            "{method} /services HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n"
        );
        ask(&home, text.as_bytes())
    };
    for headers in [
        "Origin: https://example.org\r\n",
        "Origin: null\r\n",
        "Origin: http://localhost:3000\r\n",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n",
    ] {
        let answer = request("GET", headers);
        assert_eq!(status(&answer), 403, "{headers}: {answer}");
    }
    for method in [
        "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO",
    ] {
        let answer = request(method, "Origin: https://example.org\r\n");
        assert!(
            matches!(status(&answer), 400 | 403 | 405),
            "{method}: {answer}"
        );
    }
    for answer in [
        request("GET", ""),
        request(
            "OPTIONS",
            "Origin: https://example.org\r\nAccess-Control-Request-Method: POST\r\n",
        ),
    ] {
        let head = answer.to_lowercase();
        assert!(!head.contains("access-control-allow"), "{answer}");
        assert!(
            head.contains("cross-origin-resource-policy: same-origin"),
            "{answer}"
        );
        assert!(head.contains("x-content-type-options: nosniff"), "{answer}");
    }
}

#[test]
fn no_request_is_hidden_in_another() {
    let home = with_http();
    let hidden = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let length = hidden.len();
    for (headers, body) in [
        (
            format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
            format!("0\r\n\r\n{hidden}"),
        ),
        (
            format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
            format!("0\r\n\r\n{hidden}"),
        ),
        (
            "Transfer-Encoding: chunked\r\n".to_owned(),
            format!("0\r\n\r\n{hidden}"),
        ),
        (
            "Transfer-Encoding: xchunked\r\n".to_owned(),
            hidden.to_owned(),
        ),
        (
            "Transfer-Encoding: chunked, identity\r\n".to_owned(),
            hidden.to_owned(),
        ),
        (
            format!("Content-Length: 0\r\nContent-Length: {length}\r\n"),
            hidden.to_owned(),
        ),
        (format!("Content-Length: +{length}\r\n"), hidden.to_owned()),
        (
            format!("Content-Length: {length}, 0\r\n"),
            hidden.to_owned(),
        ),
        ("Content-Length : 0\r\n".to_owned(), hidden.to_owned()),
        ("X: a\r\n b\r\n".to_owned(), hidden.to_owned()),
        ("X: a\0b\r\n".to_owned(), hidden.to_owned()),
    ] {
        let request = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n{body}");
        let answer = ask(&home, request.as_bytes());
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "{headers:?}: {answer}"
        );
        assert_eq!(status(&answer), 400, "{headers:?}: {answer}");
    }
    // A body of a stated length is passed over as a whole.
    let request = format!(
        "GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{hidden}GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    );
    let answer = ask(&home, request.as_bytes());
    assert!(!answer.contains("\"program\""), "{answer}");
    // Several requests at once are answered one after the other.
    let many = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
    let request =
        format!("{many}GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = ask(&home, request.as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 51);
    for large in [
        format!(
            "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "x".repeat(100_000)
        ),
        format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
            "X: y\r\n".repeat(1_000)
        ),
    ] {
        let answer = ask(&home, large.as_bytes());
        assert!(matches!(status(&answer), 414 | 431), "{answer}");
    }
}

#[test]
fn no_path_leads_out_of_the_logs() {
    let home = with_http();
    home.run(&["start", &home.app("quiet.sh", QUIET)]).ok();
    for name in [
        "..",
        "../..",
        "..%2f..%2fdump.pm2",
        "%2e%2e%2f%2e%2e%2fpm2.log",
        "..%5c..%5cpm2.log",
        "%252e%252e%252fpm2.log",
        "quiet%00",
        "quiet%00.log",
        "quiet%0d%0aX-Evil:%201",
        "%ff%fe",
        "/etc/passwd",
        "file:%2f%2f%2fetc%2fpasswd",
        "~",
    ] {
        for route in ["logs", "health"] {
            let (code, body) = home.get(&format!("/services/{name}/{route}"));
            assert!(matches!(code, 400 | 404), "{name}: {code} {body}");
            assert!(
                !body.contains("root:") && !body.contains("God Daemon"),
                "{name}: {body}"
            );
        }
    }
    for path in [
        "/../../etc/passwd",
        "//etc/passwd",
        "/logs/../../etc/passwd",
        "/%2e%2e/pm2.log",
    ] {
        let (code, body) = home.get(path);
        assert_eq!(code, 404, "{path}: {body}");
    }
}

#[test]
fn a_pattern_made_to_take_for_ever_does_not() {
    let home = with_http();
    let app = home.app(
        "as.sh",
        "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8 9; do head -c 60000 /dev/zero | tr '\\0' a; echo '!'; done\nexec sleep 1000\n",
    );
    home.run(&["start", &app, "--name", "as"]).ok();
    let all = eventually("the lines are written", || {
        let (_, body) = home.get("/services/as/logs?format=text");
        (body.lines().count() == 9).then_some(body)
    });
    assert!(all.len() > 500_000);
    for pattern in [
        "(a%2B)%2B$",
        "(a|aa)%2B$",
        "(a*)*$",
        "(.*a){12}$",
        "(a%3F){40}a{40}$",
    ] {
        let (code, body) = home.get(&format!("/services/as/logs?grep={pattern}&format=text"));
        assert!(matches!(code, 200 | 400), "{pattern}: {code}");
        assert!(body.len() < 10_000_000);
        assert_eq!(home.get("/health").0, 200);
    }
    let bomb = "(".repeat(200) + &"a{9}{9}{9}{9}".repeat(10) + &")".repeat(200);
    assert_eq!(home.get(&format!("/logs?grep={bomb}")).0, 400);
    let name = "a".repeat(200);
    home.run(&["start", &home.app("quiet.sh", QUIET), "--name", &name])
        .ok();
    home.run(&["stop", "/(a+)+$/"]).ok();
    home.until_status(&name, "stopped");
    home.run(&["stop", &format!("/{}/", "(a{1000}){1000}{1000}")])
        .fails("regular expression");
}

#[test]
fn values_of_the_environment_are_told_to_nobody_but_the_owner() {
    let home = Home::with(&[("FORNAX_HTTP", "127.0.0.1:0"), ("API_KEY", SECRET)]);
    home.run(&["start", &home.app("quiet.sh", QUIET)]).ok();
    home.run(&[
        "start",
        &home.app("bad.sh", "#!/bin/sh\necho oh >&2\nexit 3\n"),
        "--no-autorestart",
    ])
    .ok();
    home.until_status("bad", "stopped");
    // A program that cannot be started at all.
    let mut rpc = connect(&home);
    let conf = json!({
        "name": "gone", "pm_exec_path": "/no/such/program", "pm_cwd": home.apps(), "exec_interpreter": "none",
        "env": {"API_KEY": SECRET, "NUL": format!("{SECRET}\0")}, "pm_out_log_path": "/dev/null", "pm_err_log_path": "/dev/null",
    });
    let error = rpc
        .call::<Value>("prepare", &[conf])
        .unwrap_err()
        .to_string();
    assert!(!error.contains(SECRET), "{error}");
    for path in [
        "/health",
        "/ready",
        "/services",
        "/services/quiet/health",
        "/services/bad/health",
        "/services/bad/logs",
        "/services/gone/health",
        "/logs",
        "/status",
        "/version",
        "/metrics",
        &format!("/nowhere?token={SECRET}"),
        &format!("/logs?token={SECRET}"),
    ] {
        let (_, body) = home.get(path);
        assert!(!body.contains(SECRET), "{path}: {body}");
    }
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["list"],
        &["describe", "gone"],
    ] {
        let ran = home.run(words);
        assert!(
            !ran.out.contains(SECRET) && !ran.err.contains(SECRET),
            "{ran:?}"
        );
    }
    home.run(&["save"]).ok();
    let mut paths = Vec::new();
    tree(&home.root(), &mut paths);
    for path in paths.iter().filter(|path| path.is_file()) {
        let found = std::fs::read(path).unwrap();
        let holds = found
            .windows(SECRET.len())
            .any(|bytes| bytes == SECRET.as_bytes());
        let is_dump = path.file_name().is_some_and(|name| name == "dump.pm2");
        assert_eq!(holds, is_dump, "{path:?}");
    }
}

// Words that are taken for more than words.

fn app_conf(home: &Home, extra: Value) -> Value {
    let file = |name: &str| home.root().join("logs").join(name);
    let mut conf = json!({
        "name": "app", "pm_exec_path": home.app("quiet.sh", QUIET), "pm_cwd": home.apps(), "exec_interpreter": "none",
        "env": {"PM2_HOME": home.root()}, "pm_out_log_path": file("out.log"), "pm_err_log_path": file("err.log"),
    });
    conf.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    conf
}

#[test]
fn names_are_names_or_are_refused() {
    let home = with_http();
    let mut rpc = connect(&home);
    let before = home.read("pm2.log").lines().count();
    for name in [
        "a\nPM2 log: forged",
        "\u{1b}[2J",
        "a\0b",
        "a\rb",
        &"x".repeat(201),
        &"x".repeat(10_000_000),
    ] {
        for key in ["name", "namespace"] {
            let error = rpc
                .call::<Value>("prepare", &[app_conf(&home, json!({ key: name }))])
                .unwrap_err()
                .to_string();
            assert!(error.contains(key) && error.len() < 1_000, "{error}");
        }
    }
    assert!(!home.read("pm2.log").contains("\nPM2 log: forged"));
    assert!(home.read("pm2.log").lines().count() < before + 100);
    assert!(home.list().is_empty());
    let names = [
        "__proto__",
        "constructor",
        "hasOwnProperty",
        "$(touch pwned)",
        "; touch pwned #",
        "`touch pwned`",
        "../../escape",
        "a'b\"c",
        "<script>",
        "%s%n",
        "größe",
    ];
    for name in names {
        home.run(&["start", &home.app("quiet.sh", QUIET), "--name", name])
            .ok();
        assert_eq!(home.item(name)["pm2_env"]["status"], "online", "{name}");
        let (_, told) = home.get("/services");
        let told: Value = serde_json::from_str(&told).unwrap();
        assert!(
            told["services"]
                .as_array()
                .unwrap()
                .iter()
                .any(|service| service["name"] == name),
            "{name}"
        );
        home.run(&["delete", name]).ok();
    }
    assert!(home.list().is_empty());
    assert!(!home.apps().join("pwned").exists());
    let outer = home.root().parent().unwrap().to_owned();
    let mut paths = Vec::new();
    tree(&outer, &mut paths);
    let strays: Vec<_> = paths
        .iter()
        .filter(|path| {
            path.to_string_lossy().contains("escape")
                && !path.starts_with(home.root().join("logs"))
                && !path.starts_with(home.root().join("pids"))
        })
        .collect();
    assert!(strays.is_empty(), "{strays:?}");
}

#[test]
fn arguments_scripts_and_folders_are_not_run_by_a_shell() {
    let home = Home::new();
    let out = home.apps().join("said");
    let script = home.app(
        "say it; touch pwned.sh",
        &format!(
            "#!/bin/sh\nprintf '%s|' \"$@\" > {}\nexec sleep 1000\n",
            out.display()
        ),
    );
    let folder = home.apps().join("$(touch pwned)");
    std::fs::create_dir(&folder).unwrap();
    home.run(&[
        "start",
        &script,
        "--name",
        "say",
        "--cwd",
        folder.to_str().unwrap(),
        "--",
        "$(touch pwned)",
        "; touch pwned",
        "a b",
    ])
    .ok();
    let said = eventually("it has said its arguments", || {
        std::fs::read_to_string(&out)
            .ok()
            .filter(|said| said.contains("a b"))
    });
    assert_eq!(said, "$(touch pwned)|; touch pwned|a b|");
    // Commands that pm2 7 hands to a shell or a root's file: such words are refused, and nothing is run for them.
    for words in [
        &["startup", "systemd", "--service-name", "x; touch pwned #"][..],
        &["unstartup", "systemd", "--service-name", "x; touch pwned #"],
        &["logrotate", "-u", "root\n}\npostrotate\ntouch pwned"],
        &["install", "x; touch pwned"],
        &["install", "$(touch pwned).tgz"],
        &["deploy", "production; touch pwned"],
        &["open", "; touch pwned"],
        &["link", "$(touch pwned)", "x"],
    ] {
        let ran = home.run(words);
        assert_ne!(ran.code, 0, "{words:?}: {ran:?}");
    }
    let mut paths = Vec::new();
    tree(home.root().parent().unwrap(), &mut paths);
    let made = paths
        .iter()
        .filter(|path| path.file_name().is_some_and(|name| name == "pwned"));
    assert_eq!(made.count(), 0);
}

#[test]
fn keys_and_methods_that_javascript_knows_are_nothing_special() {
    let home = Home::new();
    for key in [
        "__proto__:polluted",
        "__proto__.polluted",
        "constructor.prototype.polluted",
        "a:__proto__:b",
    ] {
        home.run(&["set", key, "yes"]).ok();
    }
    let stored: Value = serde_json::from_str(&home.read("module_conf.json")).unwrap();
    for (key, value) in stored.as_object().unwrap() {
        assert!(
            value.is_string() && key.contains("polluted") || key == "a:__proto__:b",
            "{key}"
        );
    }
    home.run(&["unset", "__proto__:polluted"]).ok();
    home.run(&["ping"]).ok();
    let mut rpc = connect(&home);
    for method in [
        "__proto__",
        "constructor",
        "toString",
        "hasOwnProperty",
        "remoteV2",
        "remote",
        "eval",
        "",
    ] {
        let error = rpc
            .call::<Value>(method, &[json!({})])
            .unwrap_err()
            .to_string();
        assert!(error.contains("does not exist"), "{method}: {error}");
    }
    let conf = app_conf(
        &home,
        json!({"__proto__": {"polluted": "yes"}, "constructor": {"prototype": {"polluted": "yes"}}}),
    );
    let _: Value = rpc.call("prepare", &[conf]).unwrap();
    let environment = std::fs::read(format!("/proc/{}/environ", home.pid("app"))).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("polluted"));
    for (key, value) in [("env", json!({"A": "a\0b"})), ("args", json!(["a\0b"]))] {
        let conf = app_conf(&home, json!({"name": key, key: value}));
        let error = rpc
            .call::<Value>("prepare", &[conf])
            .unwrap_err()
            .to_string();
        assert!(error.contains("NUL"), "{error}");
    }
    // Larger than any program can be given, and nested deeper than any stack.
    let conf = app_conf(
        &home,
        json!({"name": "large", "env": {"A": "x".repeat(10_000_000)}}),
    );
    assert!(rpc.call::<Value>("prepare", &[conf]).is_err());
    let mut deep = UnixStream::connect(home.root().join("rpc.sock")).unwrap();
    let call = format!("j:{}", "[".repeat(1_000_000));
    deep.write_all(&[0x11]).unwrap();
    deep.write_all(&u32::try_from(call.len()).unwrap().to_be_bytes())
        .unwrap();
    deep.write_all(call.as_bytes()).unwrap();
    let mut answer = [0; 64];
    assert!(
        deep.read(&mut answer).unwrap() > 0,
        "it is answered, not taken down"
    );
    home.run(&["ping"]).ok();
}

#[test]
fn lines_of_a_log_cannot_forge_events_or_lines() {
    let home = with_http();
    let script = "#!/bin/sh\nprintf 'a\\rb\\n\\ndata: {}\\n\\nevent: restarted\\nid: 1.0o9\\n\\033[2Jx\\n\"},{\"\\nend\\n'\nexec sleep 1000\n";
    let app = home.app("forge.sh", script);
    home.run(&["start", &app, "--name", "forge", "--log-type", "json"])
        .ok();
    home.until_file_has("logs/forge-out.log", "end");
    let log = home.read("logs/forge-out.log");
    for line in log.lines() {
        let told: Value = serde_json::from_str(line).unwrap();
        assert_eq!(told["app_name"], "forge");
    }
    let mut stream = TcpStream::connect(home.http()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream
        .write_all(b"GET /services/forge/logs?follow=true HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while !text.contains("end\\\"") && !text.contains("\"line\":\"end\"") {
        let length = stream.read(&mut bytes).unwrap();
        assert!(length > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
    let (_, events) = text.split_once("\r\n\r\n").unwrap();
    assert!(
        !events.contains('\r') && !events.contains('\u{1b}'),
        "{events:?}"
    );
    for line in events.lines() {
        assert!(
            !line.starts_with("event:") && line != "data: {}" && line != "id: 1.0o9",
            "{line}"
        );
        if let Some(data) = line.strip_prefix("data: ") {
            let told: Value = serde_json::from_str(data).unwrap();
            assert_eq!(told["service"], "forge");
        }
    }
}

#[test]
fn a_negative_time_is_an_error_that_names_its_place() {
    let home = Home::new();
    let app = home.app("quiet.sh", QUIET);
    for key in [
        "kill_timeout",
        "listen_timeout",
        "restart_delay",
        "exp_backoff_restart_delay",
        "watch_delay",
        "kill_retry_time",
        "max_memory_restart",
        "max_restarts",
        "min_uptime",
    ] {
        let file = home.apps().join("ecosystem.json");
        write(
            &file,
            &format!("{{\n \"apps\": [{{\n  \"script\": \"{app}\",\n  \"{key}\": -5\n }}]\n}}"),
            0o644,
        );
        home.run(&["start", "ecosystem.json"]).fails(key).says("-5");
    }
    assert!(home.list().is_empty());
}

#[test]
fn http_moves_between_addresses_of_one_port_though_its_keeper_holds_them() {
    let home = with_http();
    let port = home.http().rsplit_once(':').unwrap().1.to_owned();
    let mut rpc = connect(&home);
    for host in ["localhost", "127.0.0.1"] {
        let wanted = format!("{host}:{port}");
        let _: Value = rpc
            .call("fornaxListen", &[json!({ "address": wanted })])
            .unwrap();
        assert_eq!(home.http(), format!("127.0.0.1:{port}"));
        assert_eq!(home.get("/health").0, 200);
    }
    let before = home.daemon_pid().unwrap();
    support::home::kill(before, 9);
    eventually("another daemon serves the same port", || {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).ok()?;
        stream
            .write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        (home.daemon_pid()? != before && text.contains("200")).then_some(())
    });
}

#[test]
fn the_document_names_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let document = read("docs/security.md");
    let mut tests = String::new();
    let mut folders = vec![root.join("tests"), root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                tests.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let named: Vec<&str> = document
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| {
            word.len() > 30
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        })
        .collect();
    assert!(named.len() >= 12, "{named:?}");
    for name in named {
        assert!(tests.contains(&format!("fn {name}()")), "{name}");
    }
}
