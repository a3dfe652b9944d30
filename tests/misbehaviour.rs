//! Clients that say nothing, too much, half of it, or don't listen: the real daemon stays small, and nobody else notices.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Home, eventually};

const MIB: u64 = 1 << 20;
/// What the daemon may hold beyond what it began with, whatever its clients do; docs/security.md says it.
const MORE_MEMORY: u64 = 256 * MIB;

/// Writes as fast as it can.
const FLOOD: &str = "#!/bin/sh\nexec yes 'a line of a log that comes again and again, and says nothing that was not said before'\n";

/// A daemon with a bystander who asks now and then.
struct Rig {
    home: Home,
    http: String,
    pid: u32,
    rss: u64,
    fds: usize,
    threads: u64,
}

impl Rig {
    fn new() -> Self {
        let home = Home::with(&[("FORNAX_HTTP", "127.0.0.1:0")]);
        home.run(&["ping"]).ok();
        let pid = home.daemon_pid().unwrap();
        let http = home.http();
        let mut rig = Self {
            home,
            http,
            pid,
            rss: 0,
            fds: 0,
            threads: 0,
        };
        rig.bystanders_are_served();
        (rig.rss, rig.fds, rig.threads) =
            (rig.field("VmRSS"), rig.open_fds(), rig.field("Threads"));
        rig
    }

    /// A figure of /proc/PID/status; memory in bytes.
    fn field(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        let number: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        if line.ends_with("kB") {
            number * 1024
        } else {
            number
        }
    }

    fn open_fds(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid))
            .unwrap()
            .count()
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.home.root().join(name)
    }

    fn rpc(&self) -> UnixStream {
        UnixStream::connect(self.socket("rpc.sock")).unwrap()
    }

    fn http(&self) -> TcpStream {
        TcpStream::connect(&self.http).unwrap()
    }

    /// Each of the three doors answers others.
    fn bystanders_are_served(&self) {
        self.home.run(&["ping"]).ok();
        let _: Vec<Value> = serde_json::from_str(&self.home.run(&["jlist"]).ok().out).unwrap();
        assert!(matches!(
            support::home::get(&self.http, "/health").0,
            200 | 503
        ));
    }

    #[track_caller]
    fn is_small(&self) {
        let more = self.field("VmRSS").saturating_sub(self.rss);
        eprintln!(
            "{} MiB more than at rest, {} descriptors",
            more / MIB,
            self.open_fds()
        );
        assert!(more < MORE_MEMORY, "{} MiB more", more / MIB);
        // Three listeners of 256, and a little for whoever asks meanwhile.
        assert!(
            self.open_fds() < self.fds + 3 * 256 + 40,
            "{}",
            self.open_fds()
        );
    }

    /// Once the clients have gone, so has what they took.
    fn nothing_is_left(&self) {
        eventually("descriptors and threads are as before", || {
            // An app that was started meanwhile, and blocking threads that wait for more work, are no leak.
            (self.open_fds() <= self.fds + 16 && self.field("Threads") <= self.threads + 16)
                .then_some(())
        });
    }
}

fn call(method: &str) -> Vec<u8> {
    let call = format!("j:{{\"type\":\"call\",\"method\":\"{method}\",\"args\":[{{}}]}}");
    frame(&[call.as_bytes(), b"s:1:0"])
}

fn frame(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0x10 | u8::try_from(parts.len()).unwrap()];
    for part in parts {
        bytes.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

/// Whether the other side closes, without or with a reset.
fn is_closed(stream: &mut (impl Read + ?Sized)) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return matches!(
                    error.kind(),
                    std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
                );
            }
        }
    }
}

#[test]
fn five_hundred_silent_connections_at_each_door_hold_nobody_up() {
    let rig = Rig::new();
    let bus = fornax::pm2::client::BusClient::connect(&rig.socket("pub.sock")).unwrap();
    drop(bus);
    let (mut unix, mut tcp) = (Vec::new(), Vec::new());
    for _ in 0..500 {
        unix.push(rig.rpc());
        unix.push(UnixStream::connect(rig.socket("pub.sock")).unwrap());
        tcp.push(rig.http());
    }
    rig.bystanders_are_served();
    rig.is_small();
    // A listener of another process is not closed for those of this one.
    let mut listener = rig.home.spawn(rig.home.program(), &["logs", "--raw"]);
    eventually("it listens", || {
        let told = rig.home.run(&["ping"]).ok();
        told.out.contains("pong").then_some(())
    });
    for _ in 0..300 {
        unix.push(UnixStream::connect(rig.socket("pub.sock")).unwrap());
    }
    let app = rig.home.app(
        "say.sh",
        "#!/bin/sh\nfor i in $(seq 1000); do echo 'heard all the same'; sleep 0.1; done\n",
    );
    rig.home.run(&["start", &app]).ok();
    eventually("the listener hears", || {
        listener
            .output()
            .contains("heard all the same")
            .then_some(())
    });
    assert!(listener.child.try_wait().unwrap().is_none());
    drop(listener);
    drop(unix);
    drop(tcp);
    rig.home.run(&["delete", "say"]).ok();
    rig.nothing_is_left();
    rig.bystanders_are_served();
}

#[test]
fn half_requests_crowd_nobody_out_of_http() {
    let rig = Rig::new();
    let mut half = Vec::new();
    for at in 0..400 {
        let mut stream = rig.http();
        let head = &b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: "[..at % 40];
        stream.write_all(head).unwrap();
        half.push(stream);
        if at % 50 == 49 {
            rig.bystanders_are_served();
        }
    }
    rig.is_small();
    let mut oldest = half.swap_remove(0);
    oldest
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    assert!(is_closed(&mut oldest), "it made room");
    drop(half);
    rig.nothing_is_left();
}

#[test]
fn garbage_is_closed_and_half_a_frame_is_waited_for_in_bounds() {
    let rig = Rig::new();
    let announced = |size: u32| [&[0x11][..], &size.to_be_bytes(), b"j:{"].concat();
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 100_000],
        vec![0x10; 100_000],
        vec![0xff; 100_000],
        announced(u32::MAX),
        announced(17 << 20),
    ] {
        let mut stream = rig.rpc();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        // It may be closed before it has taken everything.
        let _ = stream.write_all(&garbage);
        assert!(is_closed(&mut stream), "{:?}", &garbage[..8]);
        rig.bystanders_are_served();
    }
    // Frames that would be answered, if they ever came to an end: small ones, and large ones that only two may be at once.
    let mut half = Vec::new();
    for size in [60 << 10, 15 << 20] {
        for _ in 0..100 {
            let mut stream = rig.rpc();
            stream.write_all(&announced(size)).unwrap();
            stream.set_nonblocking(true).unwrap();
            half.push(stream);
        }
    }
    let until = Instant::now() + Duration::from_secs(3);
    let bytes = vec![b' '; 64 << 10];
    let mut sent = 0_u64;
    while Instant::now() < until {
        for stream in &mut half[100..] {
            sent += stream.write(&bytes).unwrap_or(0) as u64;
        }
    }
    eprintln!("{} MiB of half frames were sent", sent / MIB);
    rig.is_small();
    rig.bystanders_are_served();
    drop(half);
    rig.nothing_is_left();
    rig.bystanders_are_served();
}

#[test]
fn a_gigabyte_at_any_door_is_not_taken_in() {
    let rig = Rig::new();
    let chunk = vec![b'x'; 1 << 20];
    let mut head = frame(&[b"j:{}"]);
    head.extend([0x11, 0x40, 0, 0, 0]);
    let doors: [(&str, Box<dyn Write>, &[u8]); 4] = [
        ("rpc.sock", Box::new(rig.rpc()), &head),
        (
            "pub.sock",
            Box::new(UnixStream::connect(rig.socket("pub.sock")).unwrap()),
            b"",
        ),
        (
            "an http head",
            Box::new(rig.http()),
            b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
        ),
        (
            "an http body",
            Box::new(rig.http()),
            b"POST /logs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824\r\n\r\n",
        ),
    ];
    for (door, mut stream, head) in doors {
        let mut taken = 0;
        let mut ended = stream.write_all(head).is_err();
        while !ended && taken < 1024 * MIB {
            ended = stream.write_all(&chunk).is_err();
            taken += chunk.len() as u64;
        }
        eprintln!("{door}: {} MiB were taken", taken / MIB);
        assert!(ended && taken < 64 * MIB, "{door} took {} MiB", taken / MIB);
        rig.is_small();
        rig.bystanders_are_served();
    }
    rig.nothing_is_left();
}

#[test]
fn a_message_of_many_tiny_values_is_refused() {
    let rig = Rig::new();
    let call = format!(
        "j:{{\"type\":\"call\",\"method\":\"prepare\",\"args\":[{}0]}}",
        "0,".repeat(7 << 20)
    );
    let mut stream = rig.rpc();
    stream
        .write_all(&frame(&[call.as_bytes(), b"s:1:0"]))
        .unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.contains("more than 250000 values"), "{answer}");
    rig.is_small();
    rig.bystanders_are_served();
}

#[test]
fn answers_that_nobody_reads_do_not_pile_up() {
    let rig = Rig::new();
    // A list of some size: the environment goes with it.
    let sleep = rig.home.app("sleep.sh", "#!/bin/sh\nexec sleep 1000\n");
    let large = "x".repeat(100_000);
    rig.home
        .run_with(
            &["start", &sleep, "-i", "20", "--name", "many"],
            &[("LARGE", &large)],
        )
        .ok();
    let size = rig.home.run(&["jlist"]).ok().out.len();
    assert!(size > 2_000_000, "{size}");
    let lines = rig.home.app("lines.sh", "#!/bin/sh\nyes \"$(head -c 900 /dev/zero | tr '\\0' x)\" | head -n 12000\nexec sleep 1000\n");
    rig.home.run(&["start", &lines, "--name", "lines"]).ok();
    eventually("the lines are there", || {
        let (_, body) = rig.home.get("/services/lines/logs?limit=10000&format=text");
        (body.len() > 7 << 20).then_some(())
    });
    let mut rude: Vec<Box<dyn Read>> = Vec::new();
    for at in 0..150 {
        let mut stream = rig.rpc();
        stream.set_nonblocking(true).unwrap();
        // What does not fit its socket is not sent: the daemon has stopped to read by then.
        let _ = stream.write(&call("getMonitorData").repeat(200));
        rude.push(Box::new(stream));
        let mut stream = rig.http();
        stream.set_nonblocking(true).unwrap();
        let _ = stream
            .write(b"GET /services/lines/logs?limit=10000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        rude.push(Box::new(stream));
        if at % 30 == 29 {
            rig.bystanders_are_served();
        }
    }
    let mut most = 0;
    for _ in 0..5 {
        rig.bystanders_are_served();
        most = most.max(rig.field("VmRSS").saturating_sub(rig.rss));
    }
    eprintln!(
        "at most {} MiB more, with answers of {} and 8 MiB",
        most / MIB,
        size as u64 / MIB
    );
    assert!(most < MORE_MEMORY, "{} MiB", most / MIB);
    drop(rude);
    rig.bystanders_are_served();
}

#[test]
fn two_hundred_followers_that_do_not_read_cost_nobody_else_anything() {
    let rig = Rig::new();
    let mut unread = Vec::new();
    let mut refused = 0;
    for _ in 0..200 {
        let mut stream = rig.http();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
            .write_all(b"GET /logs?follow=true&limit=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        match &start[9..] {
            b"200" => unread.push(stream),
            b"503" => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((unread.len(), refused), (64, 136));
    let bus: Vec<_> = (0..200)
        .map(|_| UnixStream::connect(rig.socket("pub.sock")).unwrap())
        .collect();
    rig.home
        .run(&["start", &rig.home.app("flood.sh", FLOOD), "--name", "flood"])
        .ok();
    let written = || {
        let (_, body) = rig.home.get("/status");
        let told: Value = serde_json::from_str(&body).unwrap();
        told["logs"]["written_bytes"].as_u64()
    };
    let before = eventually("it is told", written);
    eventually("fifty megabytes have been written", || {
        rig.is_small();
        written().filter(|bytes| *bytes > before + 50 * MIB)
    });
    rig.bystanders_are_served();
    rig.is_small();
    drop(unread);
    drop(bus);
    eventually("there are seats again", || {
        let mut stream = rig.http();
        stream
            .write_all(b"GET /logs?follow=true&limit=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        (&start[9..] == b"200").then_some(())
    });
    rig.home.run(&["delete", "flood"]).ok();
    rig.nothing_is_left();
}

#[test]
fn when_descriptors_run_out_the_idle_make_room_and_nothing_spins() {
    let rig = Rig::new();
    let limit = |soft: usize| {
        let set = Command::new("prlimit")
            .args(["--pid", &rig.pid.to_string(), &format!("--nofile={soft}:")])
            .status();
        set.is_ok_and(|set| set.success())
    };
    if !limit(rig.open_fds() + 12) {
        eprintln!(
            "NOT RUN: when_descriptors_run_out_the_idle_make_room_and_nothing_spins: it needs prlimit of util-linux"
        );
        return;
    }
    let (mut unix, mut tcp) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        unix.push(rig.rpc());
        unix.push(UnixStream::connect(rig.socket("pub.sock")).unwrap());
        tcp.push(rig.http());
    }
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", rig.pid)).unwrap();
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse().unwrap())
            .collect();
        fields[0] + fields[1]
    };
    let (before, log) = (ticks(), rig.home.read("pm2.log").len());
    // Who is shed to make room may be the one who asks: it is answered the next time.
    eventually("the socket answers", || {
        (rig.home.run(&["ping"]).code == 0).then_some(())
    });
    eventually("HTTP answers", || {
        let mut stream = TcpStream::connect(&rig.http).ok()?;
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.starts_with("HTTP/1.1 ").then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    let used = ticks() - before;
    eprintln!("{used} ticks of a hundredth second in two seconds");
    assert!(used < 100, "it spins: {used} ticks");
    assert!(
        rig.home.read("pm2.log").len() < log + 4_000,
        "it fills its log"
    );
    assert!(limit(4096));
    drop(unix);
    drop(tcp);
    rig.bystanders_are_served();
    rig.nothing_is_left();
}
