//! Models: pulled by the real program from servers that misbehave, killed on the way, verified, linked and cleared away.

#![allow(clippy::unwrap_used)]

mod support;

use fornax::comfyui::models::manifest::Manifest;
use fornax::comfyui::models::schema::manifest_schema;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use support::disk::SmallDisk;
use support::model_server::{Gate, ModelServer, Served};
use support::{Home, Ran, eventually};

const TOKEN: &str = "hf_a-secret-of-the-operator";

/// Bytes that no two offsets share for long.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    };
    let mut out: Vec<u8> = Vec::with_capacity(length + 8);
    while out.len() < length {
        out.extend(next());
    }
    out.truncate(length);
    out
}

/// By the system's own program.
fn sha256(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let out = std::process::Command::new("sha256sum")
        .arg(file.path())
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap()[..64].to_owned()
}

/// A workspace with a manifest, and commands in it.
struct Shop {
    home: Home,
}

impl Shop {
    fn new(env: &[(&str, &str)]) -> Self {
        let home = Home::with(env);
        let shop = Self { home };
        std::fs::create_dir_all(shop.root()).unwrap();
        shop
    }

    fn root(&self) -> PathBuf {
        self.home.apps().parent().unwrap().join("workspace")
    }

    fn model(&self, file: &str) -> PathBuf {
        self.root().join("models").join(file)
    }

    fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.model(file)).unwrap()
    }

    fn want(&self, models: Value) {
        std::fs::write(
            self.root().join("models.json"),
            json!({ "models": models }).to_string(),
        )
        .unwrap();
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.home.run(&[&["comfyui", "models"], args].concat())
    }

    fn pull(&self) -> Ran {
        self.run(&["pull", "--wait", "1", "--tries", "8"])
    }

    fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(&[args, &["--json"]].concat());
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:#?}"))
    }

    /// What lies in a folder of models, `.part` files too.
    fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.model(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Begins a pull and waits until so many bytes of a file are there.
    fn begin(&self, file: &str, bytes: u64) -> std::process::Child {
        let mut command = self
            .home
            .command(self.home.program(), &["comfyui", "models", "pull"]);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let part = self.model(&format!("{file}.part"));
        eventually("a part has come", || {
            part.metadata()
                .is_ok_and(|meta| meta.len() >= bytes)
                .then_some(())
        });
        child
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn models_come_whole_through_a_server_that_breaks_connections() {
    let (server, shop) = (ModelServer::new(), Shop::new(&[]));
    let bodies: Vec<Vec<u8>> = (1..=4)
        .map(|seed| bytes(seed, 1_500_000 + usize::try_from(seed).unwrap()))
        .collect();
    let mut models = Vec::new();
    for (at, body) in bodies.iter().enumerate() {
        let path = format!("/m{at}.safetensors");
        server.put(
            &path,
            Served {
                breaks: Some(600_000),
                ..Served::plain(body.clone())
            },
        );
        models.push(json!({"folder": "loras", "url": server.url(&path), "sha256": sha256(body), "size": body.len()}));
    }
    shop.want(models.into());
    let ran = shop.run(&["pull", "--wait", "1", "--tries", "50"]).ok();
    assert!(
        ran.err.contains("the connection ended after") || ran.err.contains("the connection broke"),
        "{ran:#?}"
    );
    for (at, body) in bodies.iter().enumerate() {
        assert!(
            shop.read(&format!("loras/m{at}.safetensors")) == *body,
            "file {at} differs"
        );
    }
    assert_eq!(shop.names("loras").len(), 4, "{:?}", shop.names("loras"));
    let seen = server.seen();
    assert!(
        seen.len() > 8
            && seen
                .iter()
                .all(|seen| seen.from() == 0 || seen.header("if-range") == Some("\"v1\"")),
        "{seen:#?}"
    );
    shop.pull().ok().says("4 there, 0 loaded");
    assert_eq!(
        server.seen().len(),
        seen.len(),
        "a second pull asks for nothing"
    );
}

#[test]
fn a_pull_killed_on_its_way_goes_on_where_it_was() {
    let (server, shop, gate) = (
        ModelServer::new(),
        Shop::new(&[]),
        Arc::new(Gate::default()),
    );
    let body = bytes(7, 3_000_000);
    server.put(
        "/big.bin",
        Served {
            gate: Some((1_000_000, Arc::clone(&gate))),
            ..Served::plain(body.clone())
        },
    );
    shop.want(json!([{"folder": "vae", "url": server.url("/big.bin"), "sha256": sha256(&body)}]));
    let mut child = shop.begin("vae/big.bin", 900_000);
    child.kill().unwrap();
    child.wait().unwrap();
    let have = shop.model("vae/big.bin.part").metadata().unwrap().len();
    shop.run(&["list"]).fails("partial").says("`pull` goes on");
    gate.open();
    shop.pull().ok().says("going on at");
    assert!(shop.read("vae/big.bin") == body);
    let last = server.seen().pop().unwrap();
    assert_eq!(
        last.from() as u64,
        have,
        "it goes on at the first byte that is missing"
    );
    assert_eq!(shop.names("vae"), ["big.bin"]);
    shop.run(&["list"]).ok().says("whole");
}

#[test]
fn a_part_of_a_file_that_has_changed_is_thrown_away() {
    let (server, shop, gate) = (
        ModelServer::new(),
        Shop::new(&[]),
        Arc::new(Gate::default()),
    );
    server.put(
        "/x.bin",
        Served {
            gate: Some((500_000, Arc::clone(&gate))),
            ..Served::plain(bytes(1, 900_000))
        },
    );
    shop.want(json!([{"folder": "vae", "url": server.url("/x.bin")}]));
    let mut child = shop.begin("vae/x.bin", 500_000);
    child.kill().unwrap();
    child.wait().unwrap();
    gate.open();
    let new = bytes(2, 900_000);
    server.put(
        "/x.bin",
        Served {
            etag: Some("\"v2\"".to_owned()),
            ..Served::plain(new.clone())
        },
    );
    shop.pull().ok().says("without a sum to compare");
    assert!(shop.read("vae/x.bin") == new);
    assert_eq!(
        server.seen().pop().unwrap().header("if-range"),
        Some("\"v1\"")
    );
}

#[test]
fn a_server_without_range_is_asked_for_the_whole_again() {
    let (server, shop, gate) = (
        ModelServer::new(),
        Shop::new(&[]),
        Arc::new(Gate::default()),
    );
    let body = bytes(3, 800_000);
    let served = Served {
        range: false,
        gate: Some((400_000, Arc::clone(&gate))),
        ..Served::plain(body.clone())
    };
    server.put("/x.bin", served);
    shop.want(json!([{"folder": "vae", "url": server.url("/x.bin"), "sha256": sha256(&body)}]));
    let mut child = shop.begin("vae/x.bin", 400_000);
    child.kill().unwrap();
    child.wait().unwrap();
    gate.open();
    shop.pull().ok();
    assert!(shop.read("vae/x.bin") == body);
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn lengths_that_are_lies_end_in_the_right_file_or_in_an_error() {
    let (server, shop) = (ModelServer::new(), Shop::new(&[]));
    let body = bytes(4, 300_000);
    let lying = |lie| Served {
        lie,
        etag: None,
        ..Served::plain(body.clone())
    };
    server.put("/more.bin", lying(1000));
    server.put("/less.bin", lying(-1000));
    shop.want(json!([
        {"folder": "vae", "name": "more.bin", "url": server.url("/more.bin"), "size": 300_000},
        {"folder": "vae", "name": "less.bin", "url": server.url("/less.bin"), "sha256": sha256(&body)},
    ]));
    let ran = shop.run(&["pull", "--wait", "1", "--tries", "3"]);
    let ran = ran
        .fails("has 301000 bytes and the manifest says 300000")
        .fails("is not what is wanted: sha256");
    assert!(ran.out.contains("2 failed"), "{ran:#?}");
    assert_eq!(
        shop.names("vae"),
        [
            "less.bin.part",
            "less.bin.part.json",
            "more.bin.part",
            "more.bin.part.json"
        ]
        .into_iter()
        .filter(|name| shop.model(&format!("vae/{name}")).exists())
        .collect::<Vec<_>>()
    );
}

#[test]
fn a_wrong_file_is_set_aside_and_taken_once_the_manifest_is_corrected() {
    let (server, shop) = (ModelServer::new(), Shop::new(&[]));
    let body = bytes(5, 200_000);
    server.put("/x.bin", Served::plain(body.clone()));
    let want = |sum: &str| {
        shop.want(json!([{"folder": "vae", "url": server.url("/x.bin"), "sha256": sum}]));
    };
    want(&"0".repeat(64));
    shop.pull().fails(&sha256(&body));
    assert!(!shop.model("vae/x.bin").exists());
    assert_eq!(
        server.seen().len(),
        1,
        "a file in one piece is not loaded twice"
    );
    want(&sha256(&body));
    shop.pull().ok();
    assert!(shop.read("vae/x.bin") == body);
    assert_eq!(server.seen().len(), 1, "what came was what is wanted now");
    // The manifest wants another file under this name: what Fornax has loaded may go, what somebody else put there may not.
    let other = bytes(6, 200_000);
    server.put("/x.bin", Served::plain(other.clone()));
    want(&sha256(&other));
    shop.pull().ok();
    assert!(shop.read("vae/x.bin") == other);
    std::fs::write(shop.model("vae/x.bin"), "mine").unwrap();
    std::fs::remove_file(shop.root().join(".fornax/models-index.json")).unwrap();
    shop.pull().fails("pull with --replace");
    assert_eq!(shop.read("vae/x.bin"), b"mine");
    shop.run(&["pull", "--replace"]).ok();
    assert!(shop.read("vae/x.bin") == other);
}

#[test]
fn hugging_faces_token_stays_with_its_host_and_its_sum_is_checked() {
    let (face, cdn) = (ModelServer::new(), ModelServer::new());
    let body = bytes(8, 400_000);
    let linked = |sum: String| {
        [
            ("location", cdn.url("/cdn/abc?Signature=signed-secret")),
            ("x-linked-etag", format!("\"{sum}\"")),
            ("x-linked-size", "400000".to_owned()),
        ]
        .to_vec()
    };
    let redirect = |sum: String| Served {
        status: Some((302, linked(sum))),
        ..Served::plain(Vec::new())
    };
    face.put("/o/r/resolve/main/d/x.safetensors", redirect(sha256(&body)));
    cdn.put(
        "/cdn/abc",
        Served {
            breaks: Some(300_000),
            ..Served::plain(body.clone())
        },
    );
    let shop = Shop::new(&[("HF_ENDPOINT", &face.url("")), ("HF_TOKEN", TOKEN)]);
    shop.want(json!([{"folder": "checkpoints", "huggingface": {"repo": "o/r", "file": "d/x.safetensors"}}]));
    let ran = shop.run(&["pull", "--wait", "1", "--tries", "50"]).ok();
    assert!(shop.read("checkpoints/x.safetensors") == body);
    let asked = format!("Bearer {TOKEN}");
    assert!(
        face.seen()
            .iter()
            .all(|seen| seen.header("authorization") == Some(&asked))
    );
    assert!(!cdn.seen().is_empty());
    assert!(
        cdn.seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none()),
        "{:#?}",
        cdn.seen()
    );
    let shown = ran.out + &ran.err;
    assert!(
        !shown.contains(TOKEN) && !shown.contains("signed-secret"),
        "{shown}"
    );

    // Another content under the sum that was announced.
    face.put(
        "/o/r/resolve/main/d/x.safetensors",
        redirect(sha256(b"other")),
    );
    shop.want(
        json!([{"folder": "vae", "huggingface": {"repo": "o/r", "file": "d/x.safetensors"}}]),
    );
    shop.run(&["pull", "--wait", "1", "--tries", "50"])
        .fails(&format!("wanted {}", sha256(b"other")));
    assert!(!shop.model("vae/x.safetensors").exists());
    // What the manifest says is compared before anything is loaded.
    let before = cdn.seen().len();
    shop.want(json!([{"folder": "loras", "huggingface": {"repo": "o/r", "file": "d/x.safetensors"}, "sha256": sha256(&body)}, {"folder": "vae", "huggingface": {"repo": "o/r", "file": "d/x.safetensors"}, "size": 7}]));
    std::fs::remove_file(shop.root().join(".fornax/models-index.json")).unwrap();
    shop.pull()
        .fails("announces sha256")
        .fails("the manifest says 7");
    assert!(cdn.seen().len() - before <= 2, "only heads are looked at");
    for file in walk(&shop.root()) {
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        assert!(
            !text.contains(TOKEN) && !text.contains("signed-secret"),
            "{file:?}"
        );
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(walk(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn civitais_sum_is_asked_for_and_a_page_for_people_is_no_model() {
    let (civitai, cdn) = (ModelServer::new(), ModelServer::new());
    let body = bytes(9, 100_000);
    let facts = json!({"files": [
        {"name": "other.ckpt", "hashes": {"SHA256": "0".repeat(64)}},
        {"name": "x.safetensors", "primary": true, "hashes": {"SHA256": sha256(&body).to_uppercase()}},
    ]});
    civitai.put(
        "/api/v1/model-versions/7",
        Served::plain(facts.to_string().into_bytes()),
    );
    civitai.put(
        "/api/download/models/7",
        Served::status(307, &[("location", &cdn.url("/x?sig=1"))]),
    );
    cdn.put("/x", Served::plain(body.clone()));
    let shop = Shop::new(&[
        ("CIVITAI_ENDPOINT", &civitai.url("")),
        ("CIVITAI_API_TOKEN", TOKEN),
    ]);
    shop.want(json!([{"folder": "loras", "name": "x.safetensors", "civitai": {"version": 7}}]));
    let report = shop.json(&["pull"]);
    assert_eq!(
        (
            report["files"][0]["outcome"].as_str(),
            report["files"][0]["checked"].as_bool()
        ),
        (Some("loaded"), Some(true)),
        "{report:#}"
    );
    assert!(
        civitai
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_some())
    );
    assert!(
        cdn.seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
    let page = Served {
        headers: vec![("content-type", "text/html; charset=utf-8".to_owned())],
        ..Served::plain(b"<html>log in".to_vec())
    };
    cdn.put("/x", page);
    shop.want(json!([{"folder": "loras", "name": "y.safetensors", "civitai": {"version": 7}}]));
    // The sum is known here already, so the first file is linked unless it goes.
    std::fs::remove_file(shop.model("loras/x.safetensors")).unwrap();
    shop.pull()
        .fails("sent a web page")
        .fails("CIVITAI_API_TOKEN");
}

#[test]
fn what_will_not_change_is_told_at_once_and_what_may_is_tried_again() {
    let (face, server) = (ModelServer::new(), ModelServer::new());
    let shop = Shop::new(&[("HF_ENDPOINT", &face.url(""))]);
    face.put("/o/gated/resolve/main/x.bin", Served::status(401, &[]));
    server.put("/private.bin", Served::status(403, &[]));
    server.put("/busy.bin", Served::status(503, &[("retry-after", "0")]));
    server.put(
        "/loop.bin",
        Served::status(302, &[("location", "/loop.bin")]),
    );
    server.put("/teapot.bin", Served::status(418, &[]));
    let url = |path: &str| json!({"folder": "vae", "url": server.url(path)});
    shop.want(json!([
        {"folder": "vae", "huggingface": {"repo": "o/gated", "file": "x.bin"}},
        url("/none.bin"), url("/private.bin"), url("/busy.bin"), url("/loop.bin"), url("/teapot.bin"),
    ]));
    let report = shop.json(&["pull", "--tries", "3", "--wait", "1"]);
    let error = |at: usize| report["files"][at]["error"].as_str().unwrap().to_owned();
    for (at, words) in [
        (0, "set HF_TOKEN to a token of yours"),
        (1, "does not exist (HTTP 404)"),
        (2, "take another source"),
        (3, "it answered HTTP 503, 3 times in a row"),
        (4, "redirects more than ten times"),
        (5, "answered HTTP 418"),
    ] {
        assert!(error(at).contains(words), "{at}: {}", error(at));
    }
    for (path, times) in [
        ("/none.bin", 1),
        ("/private.bin", 1),
        ("/busy.bin", 3),
        ("/loop.bin", 11),
        ("/teapot.bin", 1),
    ] {
        assert_eq!(server.count(path), times, "{path}");
    }
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let (server, shop, gate) = (
        ModelServer::new(),
        Shop::new(&[]),
        Arc::new(Gate::default()),
    );
    server.put(
        "/x.bin",
        Served {
            gate: Some((100_000, Arc::clone(&gate))),
            ..Served::plain(bytes(10, 200_000))
        },
    );
    shop.want(json!([{"folder": "vae", "url": server.url("/x.bin")}]));
    let ran = shop.run(&["pull", "--stall", "1", "--tries", "2", "--wait", "1"]);
    ran.fails("nothing came").fails("100000 bytes are kept");
    gate.open();
    shop.pull().ok();
    assert_eq!(server.seen().pop().unwrap().from(), 100_000);
}

#[test]
fn two_pulls_at_once_load_a_file_once() {
    let (server, shop, gate) = (
        ModelServer::new(),
        Shop::new(&[]),
        Arc::new(Gate::default()),
    );
    let body = bytes(11, 1_000_000);
    server.put(
        "/x.bin",
        Served {
            gate: Some((300_000, Arc::clone(&gate))),
            ..Served::plain(body.clone())
        },
    );
    shop.want(json!([{"folder": "vae", "url": server.url("/x.bin"), "sha256": sha256(&body)}]));
    let first = shop.begin("vae/x.bin", 300_000);
    let mut running = shop
        .home
        .spawn(shop.home.program(), &["comfyui", "models", "pull"]);
    eventually("the second waits", || {
        running
            .output()
            .contains(&format!("waiting for process {}", first.id()))
            .then_some(())
    });
    gate.open();
    let first = first.wait_with_output().unwrap();
    assert!(first.status.success(), "{}", text(&first));
    assert_eq!(running.code(), Some(0), "{}", running.output());
    assert!(
        running.output().contains("1 there, 0 loaded"),
        "{}",
        running.output()
    );
    assert!(shop.read("vae/x.bin") == body);
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn one_content_is_loaded_once_and_has_as_many_names_as_are_wanted() {
    use std::os::unix::fs::MetadataExt;
    let (server, shop) = (ModelServer::new(), Shop::new(&[]));
    let body = bytes(12, 50_000);
    server.put("/x.bin", Served::plain(body.clone()));
    server.put("/mirror.bin", Served::plain(body.clone()));
    let entry = |folder: &str, path: &str| json!({"folder": folder, "name": "x.bin", "url": server.url(path), "sha256": sha256(&body)});
    shop.want(json!([
        entry("unet", "/x.bin"),
        entry("diffusion_models", "/mirror.bin")
    ]));
    shop.pull().ok().says("the same as unet/x.bin, linked");
    assert_eq!(server.seen().len(), 1);
    // In a later pull too.
    shop.want(json!([
        entry("unet", "/x.bin"),
        entry("diffusion_models", "/mirror.bin"),
        entry("checkpoints", "/mirror.bin")
    ]));
    shop.pull().ok().says("2 there, 0 loaded (0b), 1 linked");
    assert_eq!(server.seen().len(), 1);
    assert_eq!(
        shop.model("checkpoints/x.bin").metadata().unwrap().nlink(),
        3
    );
}

#[test]
fn a_full_disk_keeps_what_has_come_and_says_how_much_is_needed() {
    let (server, shop) = (ModelServer::new(), Shop::new(&[]));
    let Some(disk) = SmallDisk::mount(&shop.root().join("models"), "2m") else {
        return;
    };
    let body = bytes(13, 1_500_000);
    server.put("/x.bin", Served::plain(body.clone()));
    // Its size is not known before: it fills the disk.
    server.put(
        "/endless.bin",
        Served {
            headers: vec![("x", "y".to_owned())],
            ..Served::plain(bytes(14, 5_000_000))
        },
    );
    shop.want(json!([{"folder": "vae", "url": server.url("/endless.bin")}]));
    shop.pull().fails("5000000 more bytes are needed");
    assert_eq!(server.seen().len(), 1, "no room is no reason to try again");
    std::fs::remove_dir_all(shop.model("vae")).unwrap();
    let ballast = disk.fill();
    let keep = std::fs::File::options().write(true).open(&ballast).unwrap();
    keep.set_len(ballast.metadata().unwrap().len() - 1_000_000)
        .unwrap();
    shop.want(json!([{"folder": "vae", "url": server.url("/x.bin"), "sha256": sha256(&body)}]));
    let ran = shop
        .pull()
        .fails("no room for")
        .fails("make room and run the same command again");
    assert!(
        ran.err.contains("1500000 more bytes are needed"),
        "{ran:#?}"
    );
    drop(keep);
    std::fs::remove_file(ballast).unwrap();
    shop.pull().ok();
    assert!(shop.read("vae/x.bin") == body);
}

#[test]
fn verify_finds_what_has_changed_and_gc_takes_only_what_is_ours() {
    let (server, shop) = (ModelServer::new(), Shop::new(&[]));
    let (one, two) = (bytes(15, 30_000), bytes(16, 30_000));
    server.put("/one.bin", Served::plain(one.clone()));
    server.put("/two.bin", Served::plain(two));
    let entry = |path: &str| json!({"folder": "vae", "url": server.url(path)});
    shop.want(json!([entry("/one.bin"), entry("/two.bin")]));
    shop.pull().ok();
    shop.run(&["verify"]).ok();
    let read = shop.run(&["verify", "--all"]).ok();
    assert!(read.err.contains("reading vae/one.bin"), "{read:#?}");
    // A bit that turned on the disk: neither size nor time tells of it.
    let path = shop.model("vae/one.bin");
    let time = path.metadata().unwrap().modified().unwrap();
    let mut bad = one.clone();
    bad[20_000] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(time)
        .unwrap();
    shop.run(&["verify"]).ok();
    shop.run(&["verify", "--all"])
        .fails("its bytes have changed since");

    for (name, text) in [
        ("vae/hand.bin", "mine"),
        ("vae/gone.bin.part", "x"),
        ("vae/gone.bin.part.json", "{}"),
        ("vae/two.bin.part", "left"),
    ] {
        std::fs::write(shop.model(name), text).unwrap();
    }
    shop.want(json!([entry("/two.bin"), entry("/three.bin")]));
    std::fs::write(shop.model("vae/three.bin.part"), "half").unwrap();
    std::fs::write(
        shop.root().join("static-models.json"),
        json!({"no_index": [{"path": "/x/models/vae/kept.bin"}]}).to_string(),
    )
    .unwrap();
    std::fs::write(shop.model("vae/kept.bin"), "kept").unwrap();
    let kinds = |found: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        found
            .as_array()
            .unwrap()
            .iter()
            .map(|rubbish| (text(&rubbish["file"]), text(&rubbish["kind"])))
            .collect()
    };
    let want = [
        ("vae/gone.bin.part", "leftover"),
        ("vae/gone.bin.part.json", "leftover"),
        ("vae/hand.bin", "foreign"),
        ("vae/one.bin", "unreferenced"),
        ("vae/three.bin.part", "resumable"),
        ("vae/two.bin.part", "leftover"),
    ]
    .map(|(file, kind)| (file.to_owned(), kind.to_owned()));
    assert_eq!(kinds(&shop.json(&["gc", "--dry-run"])), want);
    let before = shop.names("vae");
    shop.run(&["gc"]).ok().says("--yes removes them");
    assert_eq!(shop.names("vae"), before, "a listing removes nothing");
    shop.run(&["gc", "--yes"]).ok().says("4 files removed");
    assert_eq!(
        shop.names("vae"),
        ["hand.bin", "kept.bin", "three.bin.part", "two.bin"]
    );
}

#[test]
fn gc_leaves_what_is_being_loaded_and_wants_a_manifest() {
    let (server, shop, gate) = (
        ModelServer::new(),
        Shop::new(&[]),
        Arc::new(Gate::default()),
    );
    shop.run(&["gc", "--yes"])
        .fails("there is no model manifest");
    server.put(
        "/x.bin",
        Served {
            gate: Some((10_000, Arc::clone(&gate))),
            ..Served::plain(bytes(17, 20_000))
        },
    );
    shop.want(json!([{"folder": "vae", "url": server.url("/x.bin")}]));
    let child = shop.begin("vae/x.bin", 10_000);
    shop.want(json!([]));
    let found = shop.json(&["gc", "--yes"]);
    assert!(
        found
            .as_array()
            .unwrap()
            .iter()
            .all(|rubbish| rubbish["kind"] == "in_use"),
        "{found:#}"
    );
    gate.open();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn static_links_are_made_dangling_ones_told_and_new_folders_listed() {
    let shop = Shop::new(&[]);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("ecosystem/static-models.json");
    std::fs::copy(example, shop.root().join("static-models.json")).unwrap();
    let real = shop
        .root()
        .join("sd_models/Stable-diffusion/v1-5-pruned.safetensors");
    std::fs::create_dir_all(real.parent().unwrap()).unwrap();
    std::fs::write(&real, "weights").unwrap();
    let ran = shop.pull().ok();
    assert_eq!(ran.out.matches("is not there").count(), 4, "{ran:#?}");
    assert_eq!(shop.read("checkpoints/v1-5-pruned.safetensors"), b"weights");
    let report = shop.json(&["list"]);
    assert_eq!(report["links"][0]["state"], "there", "{report:#}");
    assert_eq!(report["links"][1]["state"], "dangling");

    let server = ModelServer::new();
    server.put("/x.bin", Served::plain(b"x".to_vec()));
    shop.want(json!([{"folder": "my_pack", "url": server.url("/x.bin")}]));
    shop.pull().ok();
    let list = shop.root().join("extra_model_paths.yaml");
    let text = std::fs::read_to_string(&list).unwrap();
    assert!(
        text.contains("    \"my_pack\": \"my_pack/\"\n")
            && text.contains("    ipadapter: ipadapter/\n"),
        "{text}"
    );
    std::fs::write(&list, "mine: {}\n").unwrap();
    shop.pull().ok().says("ComfyUI does not look into my_pack");
}

#[test]
fn a_pull_as_a_managed_app_tells_its_progress_to_the_manager() {
    let (server, shop, gate) = (
        ModelServer::new(),
        Shop::new(&[]),
        Arc::new(Gate::default()),
    );
    server.put(
        "/x.bin",
        Served {
            gate: Some((10_000, Arc::clone(&gate))),
            ..Served::plain(bytes(18, 20_000))
        },
    );
    shop.want(json!([{"folder": "vae", "url": server.url("/x.bin")}]));
    let program = shop.home.program().to_str().unwrap().to_owned();
    shop.home
        .run(&[
            "start",
            &program,
            "--name",
            "pull",
            "--interpreter",
            "none",
            "--no-autorestart",
            "--",
            "comfyui",
            "models",
            "pull",
        ])
        .ok();
    let figure = || {
        shop.home.item("pull")["pm2_env"]["axm_monitor"]["Models"]["value"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    eventually("its progress is seen", || {
        figure().contains("0/1 models").then_some(())
    });
    gate.open();
    shop.home.until_status("pull", "stopped");
    assert!(shop.read("vae/x.bin") == bytes(18, 20_000));
}

#[test]
fn a_manifest_with_a_mistake_is_refused_with_file_line_and_key() {
    let shop = Shop::new(&[]);
    std::fs::write(shop.root().join("models.json"), "{\"models\": [\n  {\"folder\": \"vae\",\n   \"url\": \"https://h/x\", \"sha256\": \"abc\"}]}").unwrap();
    shop.pull()
        .fails("models.json:3: models[0].sha256: is not a SHA-256 sum");
    shop.run(&["pull", "--manifest", "/nowhere/m.json"])
        .fails("/nowhere/m.json: cannot be read");
    let wrong = shop.run(&["pull", "--at-once", "99"]);
    assert_eq!(wrong.code, 2, "{wrong:#?}");
    let proxy = Shop::new(&[("HF_ENDPOINT", "not an address")]);
    proxy.want(json!([]));
    proxy.pull().fails("HF_ENDPOINT is no http address");
}

#[test]
fn the_published_schema_is_the_one_made_from_the_code_and_the_examples_keep_to_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ecosystem");
    let made = format!("{:#}\n", manifest_schema());
    let path = folder.join("models.schema.json");
    if std::env::var_os("FORNAX_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap_or_default(),
        made,
        "run this test with FORNAX_BLESS=1"
    );
    let schema = jsonschema::validator_for(&manifest_schema()).unwrap();
    for name in ["models.json", "static-models.json"] {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let errors: Vec<String> = schema
            .iter_errors(&value)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
        Manifest::load(&folder.join(name)).unwrap();
    }
    for wrong in [
        json!({"models": [{"folder": "x"}]}),
        json!({"modles": []}),
        json!({"models": [{"folder": "x", "url": "https://h/x", "sha256": "abc"}]}),
    ] {
        assert!(!schema.is_valid(&wrong), "{wrong}");
    }
}
