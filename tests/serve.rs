//! `pm2 serve`, the real program: what it serves, what it does not, and how it is supervised.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use support::home::free_ports;
use support::{Home, eventually};

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn has(&self, line: &str) -> bool {
        self.head
            .lines()
            .any(|have| have.eq_ignore_ascii_case(line))
    }
}

/// A request as it is, so that no client tidies its path.
fn ask(port: u16, method: &str, path: &str, more: &str) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(45)))
        .unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n"
    )
    .unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        body: bytes[end + 4..].to_vec(),
        head,
    }
}

fn listens(port: u16) {
    eventually("it listens", || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
}

/// A site, and beside it a secret.
fn site(home: &Home) -> std::path::PathBuf {
    let root = home.apps().join("site");
    std::fs::create_dir_all(root.join("sub/deep")).unwrap();
    std::fs::write(home.apps().join("secret"), "secret").unwrap();
    for (name, text) in [
        ("index.html", "<p>index</p>"),
        ("other.html", "other"),
        ("a.js", "let x"),
        ("style.css", "p {}"),
        ("picture.png", "png"),
        ("unknown.zzz", "?"),
        (".env", "hidden"),
        ("404.html", "nothing here"),
        ("a b&<i>.txt", "odd"),
        ("sub/x.txt", "0123456789"),
        ("sub/deep/index.html", "deep"),
    ] {
        std::fs::write(root.join(name), text).unwrap();
    }
    std::os::unix::fs::symlink("../secret", root.join("leak")).unwrap();
    std::os::unix::fs::symlink("..", root.join("up")).unwrap();
    std::os::unix::fs::symlink("sub/x.txt", root.join("within")).unwrap();
    root
}

#[test]
fn files_are_served_with_their_kind_in_part_and_never_from_outside() {
    let home = Home::new();
    let root = site(&home);
    let port = free_ports(1);
    let told = home
        .run(&["serve", root.to_str().unwrap(), &port.to_string()])
        .ok();
    assert!(
        told.out
            .contains(&format!("Serving {} on port {port}", root.display())),
        "{told:?}"
    );
    listens(port);
    let item = home.item(&format!("static-page-server-{port}"));
    assert_eq!(item["pm2_env"]["PM2_SERVE_PORT"], port.to_string());
    assert_eq!(item["pm2_env"]["exec_mode"], "fork_mode");
    let get = |path: &str| ask(port, "GET", path, "");
    for (path, kind, text) in [
        ("/", "text/html; charset=utf-8", "<p>index</p>"),
        ("/other.html?x=1", "text/html; charset=utf-8", "other"),
        ("/a.js", "text/javascript; charset=utf-8", "let x"),
        ("/style.css", "text/css; charset=utf-8", "p {}"),
        ("/picture.png", "image/png", "png"),
        ("/unknown.zzz", "text/plain; charset=utf-8", "?"),
        ("/a%20b&%3Ci%3E.txt", "text/plain; charset=utf-8", "odd"),
        ("/within", "text/plain; charset=utf-8", "0123456789"),
        ("/sub/deep/", "text/html; charset=utf-8", "deep"),
    ] {
        let answer = get(path);
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, text),
            "{path}"
        );
        assert!(
            answer.has(&format!("content-type: {kind}")),
            "{path}: {}",
            answer.head
        );
        assert!(
            answer.has("access-control-allow-origin: *"),
            "{}",
            answer.head
        );
    }
    // Nothing of this is served, by whatever way.
    for path in [
        "/leak",
        "/up/secret",
        "/up/",
        "/../secret",
        "/..%2fsecret",
        "/%2e%2e/secret",
        "/sub/../../secret",
        "/sub/%2e%2e%2f%2e%2e%2fsecret",
        "/.env",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/sub/x.txt/..%2f..%2f..%2fsecret",
        "/%00",
        "/..\\secret",
        "/%",
    ] {
        let answer = get(path);
        assert!(
            (400..500).contains(&answer.status),
            "{path}: {}",
            answer.head
        );
        assert!(
            !answer.text().contains("secret") && !answer.text().contains("hidden"),
            "{path}"
        );
        assert!(!answer.text().contains("root:"), "{path}");
    }
    let missing = get("/missing");
    assert_eq!(
        (missing.status, missing.text().as_str()),
        (404, "nothing here")
    );
    assert_eq!(get("/sub/").status, 404);
    let folder = get("/sub");
    assert!(
        folder.status == 301 && folder.has("location: /sub/"),
        "{}",
        folder.head
    );
    assert!(!ask(port, "GET", "//sub", "").head.contains("location: //"));

    let part = ask(port, "GET", "/sub/x.txt", "Range: bytes=2-4\r\n");
    assert_eq!((part.status, part.text().as_str()), (206, "234"));
    assert!(part.has("content-range: bytes 2-4/10"), "{}", part.head);
    let end = ask(port, "GET", "/sub/x.txt", "Range: bytes=-3\r\n");
    assert_eq!((end.status, end.text().as_str()), (206, "789"));
    assert_eq!(
        ask(port, "GET", "/sub/x.txt", "Range: bytes=10-\r\n").status,
        416
    );
    let head = ask(port, "HEAD", "/sub/x.txt", "");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.has("content-length: 10"), "{}", head.head);
    let stamp = head
        .head
        .lines()
        .find_map(|line| line.strip_prefix("last-modified: "))
        .unwrap()
        .to_owned();
    let same = ask(
        port,
        "GET",
        "/sub/x.txt",
        &format!("If-Modified-Since: {stamp}\r\n"),
    );
    assert_eq!((same.status, same.body.len()), (304, 0));
    let refused = ask(port, "POST", "/", "Content-Length: 0\r\n");
    assert!(refused.status == 405 && refused.has("allow: GET, HEAD, OPTIONS"));
    // A large file comes whole, by a reader who dawdles too.
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(root.join("large.bin"), &large).unwrap();
    assert!(ask(port, "GET", "/large.bin", "").body == large);
    home.run(&["delete", "all"]).ok();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn a_page_of_many_paths_a_listing_and_a_lock() {
    let home = Home::new();
    let root = site(&home);
    let root = root.to_str().unwrap();
    let ports = free_ports(3);
    let [spa, ftp, locked] = [ports, ports + 1, ports + 2];
    home.run(&["serve", root, &spa.to_string(), "--spa"]).ok();
    home.run(&[
        "serve",
        root,
        "--port",
        &ftp.to_string(),
        "--ftp",
        "--name",
        "files",
    ])
    .ok();
    home.run(&[
        "expose",
        root,
        &locked.to_string(),
        "--basic-auth-username",
        "user",
        "--basic-auth-password",
        "pass:word",
    ])
    .ok();
    for port in [spa, ftp, locked] {
        listens(port);
    }
    assert_eq!(home.status("files"), "online");
    for (path, text) in [
        ("/", "<p>index</p>"),
        ("/some/where", "<p>index</p>"),
        ("/some/other.html", "other"),
        ("/sub/x.txt", "0123456789"),
    ] {
        let answer = ask(spa, "GET", path, "");
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, text),
            "{path}"
        );
    }
    assert_eq!(ask(spa, "GET", "/leak", "").status, 403);
    let page = ask(ftp, "GET", "/sub/", "");
    assert!(page.status == 200 && page.text().contains("x.txt") && page.text().contains("deep/"));
    std::fs::remove_file(format!("{root}/index.html")).unwrap();
    let page = ask(ftp, "GET", "/", "").text();
    assert!(
        page.contains("a b&amp;&lt;i&gt;.txt") && page.contains("a%20b%26%3Ci%3E.txt"),
        "{page}"
    );
    assert!(!page.contains(".env") && !page.contains("<i>"), "{page}");

    let refused = ask(locked, "GET", "/other.html", "");
    assert_eq!(refused.status, 401);
    assert!(refused.has("www-authenticate: Basic realm=\"Authentication service\""));
    for wrong in ["dXNlcjp3cm9uZw==", "", "dXNlcjpwYXNzOndvcmQ", "\u{0}"] {
        let header = format!("Authorization: Basic {wrong}\r\n");
        assert!(
            matches!(ask(locked, "GET", "/other.html", &header).status, 400 | 401),
            "{wrong}"
        );
    }
    let let_in = "Authorization: Basic dXNlcjpwYXNzOndvcmQ=\r\n";
    assert_eq!(ask(locked, "GET", "/other.html", let_in).text(), "other");
    home.run(&["serve", root, "1", "--basic-auth-username", "user"])
        .fails("go together");
    home.run(&["serve", "nowhere"]).fails("is no folder");
    home.run(&["serve", root, "many"]).fails("is no port");
}

#[test]
fn ecosystem_files_name_servers_by_script_and_by_static() {
    let home = Home::new();
    site(&home);
    let ports = free_ports(2);
    let eco = home.app(
        "eco.json",
        &serde_json::json!({
            "apps": [{"name": "front", "script": "serve", "env": {"PM2_SERVE_PORT": ports, "PM2_SERVE_PATH": "./site"}}],
            "static": [{"path": "./site", "port": ports + 1, "spa": true, "basic_auth": {"username": "u", "password": "p"}}],
        })
        .to_string(),
    );
    home.run(&["start", &eco]).ok();
    listens(ports);
    listens(ports + 1);
    assert_eq!(ask(ports, "GET", "/other.html", "").text(), "other");
    assert_eq!(ask(ports + 1, "GET", "/any/path", "").status, 401);
    let header = "Authorization: Basic dTpw\r\n";
    assert_eq!(
        ask(ports + 1, "GET", "/any/path", header).text(),
        "<p>index</p>"
    );
    home.run(&["restart", &eco]).ok();
    listens(ports);
    home.run(&["stop", &eco]).ok();
    assert!(TcpStream::connect(("127.0.0.1", ports)).is_err());
    assert!(TcpStream::connect(("127.0.0.1", ports + 1)).is_err());
    home.run(&["delete", &eco]).ok();
    assert!(home.list().is_empty());
}
