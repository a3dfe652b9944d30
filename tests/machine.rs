//! Fornax's own commands on a machine without GPUs: `up`, `down`, `status`, `check`.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::home::{free_ports, kill};
use support::{Home, eventually};

fn served() -> Home {
    Home::with(&[("FORNAX_HTTP", "127.0.0.1:0")])
}

fn up(home: &Home, count: u16) -> u16 {
    let port = free_ports(count);
    let (count, base) = (count.to_string(), port.to_string());
    home.run(&["up", "--simulate", &count, "--base-port", &base])
        .ok();
    port
}

fn service(home: &Home, name: &str) -> Value {
    let (_, body) = home.get(&format!("/services/{name}/health"));
    serde_json::from_str(&body).unwrap()
}

#[test]
fn up_ends_with_healthy_instances_a_killed_one_returns_and_down_leaves_nothing() {
    let home = served();
    let port = up(&home, 2);
    for gpu in 0..2 {
        let told = service(&home, &format!("comfyui-gpu{gpu}"));
        assert_eq!(told["status"], "healthy", "{told}");
        let address = format!("127.0.0.1:{}", port + gpu);
        assert_eq!(support::home::get(&address, "/system_stats").0, 200);
    }
    assert_eq!(home.get("/health").0, 200);
    home.run(&["status"]).ok().says("comfyui-gpu1");

    let pid = home.pid("comfyui-gpu0");
    kill(pid, 9);
    eventually("the loss is seen", || {
        let told = service(&home, "comfyui-gpu0");
        (told["restarts"] == 1 || told["status"] != "healthy").then_some(())
    });
    let told = eventually("it is healthy again", || {
        let told = service(&home, "comfyui-gpu0");
        (told["status"] == "healthy" && told["restarts"] == 1).then_some(told)
    });
    assert_ne!(told["pid"], pid);
    assert_eq!(service(&home, "comfyui-gpu1")["restarts"], 0);

    home.run(&["down"]).ok();
    assert!(home.processes().is_empty());
    assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
    home.run(&["down"]).ok().says("nothing runs");
}

#[test]
fn up_again_leaves_what_runs_alone() {
    let home = served();
    let port = up(&home, 1);
    let pid = home.pid("comfyui-gpu0");
    home.run(&["up", "--simulate", "1", "--base-port", &port.to_string()])
        .ok()
        .says("runs already");
    assert_eq!(home.pid("comfyui-gpu0"), pid);
}

#[test]
fn up_fails_with_the_cause_when_the_http_port_is_busy() {
    let home = Home::new();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let base = free_ports(1).to_string();
    home.run(&[
        "up",
        "--simulate",
        "1",
        "--base-port",
        &base,
        "--http",
        &address,
    ])
    .fails(&address);
}

#[test]
fn up_without_a_comfyui_says_that_it_is_not_installed() {
    let home = Home::new();
    home.run(&["up", "--cpu", "--no-install"])
        .fails("not_installed");
}

#[test]
fn up_says_which_instance_died_and_what_it_said() {
    let home = Home::new();
    let port = free_ports(1);
    let _holder = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    home.run(&["up", "--simulate", "1", "--base-port", &port.to_string()])
        .fails(&format!("port {port} is already taken"));
}

#[test]
fn a_second_manager_is_refused_the_gpu_with_the_holders_pid() {
    let home = Home::new();
    up(&home, 1);
    let holder = home.daemon_pid().unwrap();
    let other = home.neighbour();
    let base = free_ports(1).to_string();
    let workspace = home.apps().parent().unwrap().join("workspace");
    other
        .run(&[
            "up",
            "--simulate",
            "1",
            "--base-port",
            &base,
            "--workspace",
            workspace.to_str().unwrap(),
        ])
        .fails(&holder.to_string());
    assert_eq!(home.status("comfyui-gpu0"), "online");
    // The lease dies with its holders, the daemon and its keeper; each would start the other again.
    eventually("the first manager has gone", || {
        let left = home.processes();
        for pid in &left {
            kill(*pid, 9);
        }
        left.is_empty().then_some(())
    });
    other.run(&["restart", "all"]).ok();
    other.until_status("comfyui-gpu0", "online");
}

#[test]
fn in_the_foreground_it_ends_cleanly_on_sigterm() {
    let home = Home::new();
    let base = free_ports(1).to_string();
    let program = home.program().to_owned();
    let mut running = home.spawn(
        &program,
        &[
            "up",
            "--simulate",
            "1",
            "--base-port",
            &base,
            "--foreground",
        ],
    );
    eventually("it is healthy", || {
        home.root().join("rpc.sock").exists().then_some(())
    });
    eventually("it is healthy", || {
        home.list()
            .first()
            .is_some_and(|item| item["pm2_env"]["fornax_state"]["service_status"] == "healthy")
            .then_some(())
    });
    kill(running.child.id(), 15);
    assert_eq!(running.code(), Some(0), "{}", running.output());
    assert!(home.processes().is_empty());
}

#[test]
fn an_ecosystem_file_that_was_edited_is_kept() {
    let home = Home::new();
    let port = up(&home, 1).to_string();
    let file = home
        .apps()
        .parent()
        .unwrap()
        .join("workspace/ecosystem.config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let edited = text.replace("\"comfyui-gpu0\"", "\"mine\"");
    assert_ne!(text, edited);
    std::fs::write(&file, &edited).unwrap();
    home.run(&["down"]).ok();
    home.run(&["up", "--simulate", "1", "--base-port", &port])
        .ok()
        .says("Kept");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), edited);
    assert_eq!(home.status("mine"), "online");
    home.run(&["down"]).ok();
    home.run(&["up", "--simulate", "1", "--base-port", &port, "--force"])
        .ok();
    assert!(
        std::fs::read_to_string(&file)
            .unwrap()
            .contains("comfyui-gpu0")
    );
}

#[test]
fn check_names_the_file_the_line_and_the_key() {
    let home = Home::new();
    let file = home.app(
        "eco.json",
        "{\n  \"apps\": [{\n    \"name\": \"a\",\n    \"script\": \"a.sh\",\n    \"fornax\": {\n      \"prot\": 8188\n    }\n  }]\n}\n",
    );
    let ran = home.run(&["check", &file]).fails("prot");
    assert!(ran.err.contains("eco.json:6"), "{}", ran.err);
}

#[test]
fn what_is_not_installed_is_told_on_http_too() {
    let home = served();
    home.run(&["up", "--cpu", "--no-install"])
        .fails("not_installed");
    let (status, body) = home.get("/services/comfyui-gpu0/health");
    assert!(body.contains("\"not_installed\""), "{status} {body}");
}
