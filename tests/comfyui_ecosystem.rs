//! The generated ecosystem: what it says, that the real PM2 runs it, and that the real ComfyUI takes its command line.
//!
//! `FORNAX_PM2` names a pm2 program, `FORNAX_COMFYUI` a ComfyUI tree and `FORNAX_COMFYUI_PYTHON` its Python. What is not
//! given is not run, and says so.

// Helpers of tests may unwrap as tests do; clippy.toml reaches only the test functions themselves.
#![allow(clippy::unwrap_used)]

use fornax::comfyui::ecosystem;
use fornax::comfyui::ecosystem::{
    BASE_PORT, EcosystemError, EcosystemOptions, SimulateSettings, Target, Written, generate, write,
};
use fornax::comfyui::tree;
use fornax::comfyui::workspace::Workspace;
use fornax::core::machine::FornaxFile;
use fornax::core::spec::fornax::{FornaxBlock, GpuRef};
use fornax::gpu::inventory::simulated;
use serde_json::{Value, json};
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn workspace(root: &Path) -> Workspace {
    Workspace::resolve(Some(root), &|_| None).unwrap()
}

fn gpu(index: u32) -> GpuRef {
    GpuRef {
        index,
        uuid: Some(format!("GPU-{index}")),
        name: Some("NVIDIA H200".into()),
    }
}

fn options(root: &Path, targets: Vec<Target>) -> EcosystemOptions {
    EcosystemOptions {
        workspace: workspace(root),
        targets,
        base_port: BASE_PORT,
        every: Default::default(),
        instances: Default::default(),
        extra_args: Vec::new(),
        simulate: None,
        fornax_exe: "/opt/fornax/bin/fornax".into(),
        cores: 16,
        known_flags: None,
        installer: false,
    }
}

/// The value after a flag.
fn value_of<'a>(app: &'a Value, flag: &str) -> Option<&'a str> {
    let args = app["args"].as_array().unwrap();
    let at = args.iter().position(|arg| arg == flag)?;
    args.get(at + 1)?.as_str()
}

#[test]
fn two_gpus_make_two_apps_that_share_nothing_but_models_and_code() {
    let targets = vec![Target::Real(gpu(0)), Target::Real(gpu(1))];
    let value = generate(&options(Path::new("/ws"), targets)).unwrap();
    let [zero, one] = value["apps"].as_array().unwrap().as_slice() else {
        panic!("{value}");
    };
    insta::assert_snapshot!(format!("{zero:#}"));
    assert_eq!(one["name"], "comfyui-gpu1");
    assert_eq!(value_of(one, "--port"), Some("8189"));
    assert_eq!(one["env"]["CUDA_VISIBLE_DEVICES"], "1");
    for flag in [
        "--output-directory",
        "--input-directory",
        "--temp-directory",
        "--user-directory",
        "--database-url",
    ] {
        assert!(
            value_of(one, flag).unwrap().contains("/instances/gpu1/"),
            "{flag}"
        );
        assert_ne!(value_of(zero, flag), value_of(one, flag), "{flag}");
    }
    for same in ["--extra-model-paths-config", "--listen"] {
        assert_eq!(value_of(zero, same), value_of(one, same));
    }
    for app in [zero, one] {
        let block: FornaxBlock = serde_json::from_value(app["fornax"].clone()).unwrap();
        assert_eq!(
            serde_json::to_value(&block).unwrap(),
            app["fornax"],
            "nothing is lost on the way back"
        );
        let grace: u64 = block.stop.iter().map(|step| step.wait.0).sum();
        assert!(
            app["kill_timeout"].as_u64().unwrap() > grace,
            "PM2 waits as long as the ladder takes"
        );
    }
}

#[test]
fn ports_follow_the_index_and_never_overflow_or_clash() {
    let of = |base_port, targets| {
        let options = EcosystemOptions {
            base_port,
            ..options(Path::new("/ws"), targets)
        };
        generate(&options).map(|value| {
            let apps = value["apps"].as_array().unwrap().clone();
            apps.iter()
                .map(|app| app["fornax"]["port"].as_u64().unwrap())
                .collect::<Vec<_>>()
        })
    };
    let (three, five) = (Target::Real(gpu(3)), Target::Real(gpu(5)));
    assert_eq!(
        of(8188, vec![five.clone(), three.clone()]),
        Ok(vec![8193, 8191])
    );
    assert_eq!(of(65_530, vec![five.clone()]), Ok(vec![65_535]));
    assert!(matches!(
        of(65_531, vec![five.clone()]),
        Err(EcosystemError::PortRange { port: 65_536, .. })
    ));
    let huge = Target::Cpu(u32::MAX);
    assert!(matches!(
        of(u16::MAX, vec![huge]),
        Err(EcosystemError::PortRange { .. })
    ));
    assert_eq!(
        of(8188, vec![three.clone(), Target::Cpu(3)]),
        Err(EcosystemError::SamePort { port: 8191 })
    );
    assert_eq!(of(8188, vec![]), Err(EcosystemError::NoTargets));
}

#[test]
fn threads_are_shared_out_and_never_none() {
    for (cores, gpus, want) in [
        (16, 2, "8"),
        (16, 3, "5"),
        (2, 8, "1"),
        (0, 1, "1"),
        (1, 1, "1"),
    ] {
        let targets = (0..gpus).map(|index| Target::Real(gpu(index))).collect();
        let options = EcosystemOptions {
            cores,
            ..options(Path::new("/ws"), targets)
        };
        let value = generate(&options).unwrap();
        assert_eq!(
            value["apps"][0]["env"]["OMP_NUM_THREADS"], want,
            "{cores} cores, {gpus} GPUs"
        );
    }
}

#[test]
fn the_operators_flags_reach_every_kind_of_instance() {
    let targets = vec![
        Target::Real(gpu(0)),
        Target::Simulated(gpu(1)),
        Target::Cpu(2),
    ];
    let options = EcosystemOptions {
        extra_args: vec!["--preview-method".into(), "auto".into()],
        simulate: Some(SimulateSettings {
            args: vec!["--seconds".into(), "2".into()],
        }),
        ..options(Path::new("/ws"), targets)
    };
    let value = generate(&options).unwrap();
    for app in value["apps"].as_array().unwrap() {
        assert_eq!(
            value_of(app, "--preview-method"),
            Some("auto"),
            "{}",
            app["name"]
        );
    }
    let [real, sim, cpu] = value["apps"].as_array().unwrap().as_slice() else {
        panic!();
    };
    let has_cpu = |app: &Value| app["args"].as_array().unwrap().contains(&json!("--cpu"));
    assert!(!has_cpu(real) && !has_cpu(sim) && has_cpu(cpu));
    assert_eq!(
        (&sim["script"], &sim["args"][0]),
        (&json!("/opt/fornax/bin/fornax"), &json!("simulate"))
    );
    assert_eq!(
        (&sim["interpreter"], value_of(sim, "--seconds")),
        (&json!("none"), Some("2"))
    );
    assert_eq!(cpu["name"], "comfyui-gpu2");
    assert_eq!(cpu["env"]["CUDA_VISIBLE_DEVICES"], "");
    assert_eq!(
        cpu["fornax"].get("gpu"),
        None,
        "the processor is not leased"
    );
}

#[test]
fn a_tree_without_a_database_is_not_given_one() {
    let known = ["--port", "--preview-method"].map(str::to_owned);
    let options = EcosystemOptions {
        known_flags: Some(known.into()),
        ..options(Path::new("/ws"), vec![Target::Cpu(0)])
    };
    let value = generate(&options).unwrap();
    assert_eq!(value_of(&value["apps"][0], "--database-url"), None);
}

#[test]
fn a_program_that_pm2_would_hand_to_a_shell_is_refused() {
    for exe in ["/opt/my tools/fornax", "fornax", "./fornax"] {
        let options = EcosystemOptions {
            fornax_exe: exe.into(),
            ..options(Path::new("/ws"), vec![Target::Simulated(gpu(0))])
        };
        assert!(
            matches!(generate(&options), Err(EcosystemError::Exe { .. })),
            "{exe}"
        );
    }
}

/// A stand-in for ComfyUI: tells what it was started with, answers `/prompt`, and takes 2.5 s to end cleanly, as ComfyUI.
const STAND_IN: &str = r#"
import http.server, json, os, signal, sys, time
args = sys.argv[1:]
value = lambda flag: args[args.index(flag) + 1]
out = value("--output-directory")
def stop(*_):
    time.sleep(2.5)
    open(os.path.join(out, "ended-cleanly"), "w").close()
    sys.exit(0)
signal.signal(signal.SIGINT, stop)
seen = {"args": args, "cwd": os.getcwd(), "env": {k: os.environ.get(k) for k in
    ["CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS", "PYTHONUNBUFFERED"]}}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(seen).encode()
        self.send_response(200 if self.path == "/prompt" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.HTTPServer((value("--listen"), int(value("--port"))), Handler).serve_forever()
"#;

/// Two neighbouring free ports; the first of them.
fn two_free_ports() -> u16 {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
    panic!("no two neighbouring ports are free");
}

/// The body of `GET path`, once the port answers 200; fails after `limit`.
fn get(port: u16, path: &str, limit: Duration) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        match reply.split_once("\r\n\r\n") {
            Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
            _ => Err(std::io::Error::other(reply)),
        }
    };
    let deadline = Instant::now() + limit;
    loop {
        match ask() {
            Ok(body) => return body,
            Err(error) => assert!(Instant::now() < deadline, "port {port}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The real PM2 with a home of its own; its daemon and apps end with the test.
struct Pm2 {
    program: PathBuf,
    home: PathBuf,
}

impl Pm2 {
    /// `None` (and a word) unless `FORNAX_PM2` is set.
    fn find(home: PathBuf) -> Option<Self> {
        let Some(program) = std::env::var_os("FORNAX_PM2") else {
            println!("NOT RUN: the comparison with the real PM2; set FORNAX_PM2 to its program");
            return None;
        };
        Some(Self {
            program: program.into(),
            home,
        })
    }

    fn run(&self, args: &[&str]) -> String {
        let out = Command::new(&self.program)
            .args(args)
            .env("PM2_HOME", &self.home)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(
            out.status.success(),
            "{args:?}: {text}{}",
            String::from_utf8_lossy(&out.stderr)
        );
        text
    }

    /// Name, status and restarts of each app.
    fn list(&self) -> Vec<(String, String, u64)> {
        let text = self.run(&["jlist"]);
        let json = text.lines().rfind(|line| line.starts_with('[')).unwrap();
        let list: Vec<Value> = serde_json::from_str(json).unwrap();
        let tell = |app: &Value| {
            let env = &app["pm2_env"];
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (
                text(&app["name"]),
                text(&env["status"]),
                env["restart_time"].as_u64().unwrap(),
            )
        };
        list.iter().map(tell).collect()
    }
}

impl Drop for Pm2 {
    fn drop(&mut self) {
        self.run(&["kill"]);
    }
}

/// The Python that runs this machine's scripts, not a shim that picks one.
fn system_python() -> PathBuf {
    let out = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .expect("this test needs python3");
    String::from_utf8(out.stdout).unwrap().trim().into()
}

/// Starts the generated file under the real PM2, and checks what each app saw and how it ended.
fn runs_under_pm2(options: &EcosystemOptions, home: &Path) {
    let Some(pm2) = Pm2::find(home.to_owned()) else {
        return;
    };
    let workspace = &options.workspace;
    let slots: Vec<String> = options.targets.iter().map(Target::slot).collect();
    workspace.prepare_dirs(&slots).unwrap();
    let mut value = generate(options).unwrap();
    // Real PM2 must not mind keys that are not its own, beside the apps as in them.
    value["$schema"] = json!("https://example.invalid/ecosystem.schema.json");
    assert_eq!(write(workspace, &value, false).unwrap(), Written::Written);
    let said = pm2.run(&["start", workspace.ecosystem_file().to_str().unwrap()]);
    assert!(
        !said.contains("[WARN] Expect") && !said.contains("ERROR"),
        "{said}"
    );

    for app in value["apps"].as_array().unwrap() {
        let port = u16::try_from(app["fornax"]["port"].as_u64().unwrap()).unwrap();
        let seen: Value =
            serde_json::from_str(&get(port, "/prompt", Duration::from_secs(20))).unwrap();
        assert_eq!(seen["args"], app["args"]);
        assert_eq!(seen["cwd"], app["cwd"]);
        assert_eq!(seen["env"], app["env"]);
    }
    let names = |status: &str| -> Vec<(String, String, u64)> {
        let name = |target: &Target| (target.app_name(), status.to_owned(), 0);
        options.targets.iter().map(name).collect()
    };
    assert_eq!(pm2.list(), names("online"));
    pm2.run(&["stop", "all"]);
    assert_eq!(pm2.list(), names("stopped"));
    for slot in &slots {
        let proof = workspace.instance(slot).output.join("ended-cleanly");
        assert!(proof.exists(), "{slot} was killed before it had ended");
    }
}

#[test]
fn the_real_pm2_runs_an_installed_tree_and_lets_it_end_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("my workspace");
    let targets = vec![Target::Real(gpu(0)), Target::Cpu(1)];
    let options = EcosystemOptions {
        base_port: two_free_ports(),
        extra_args: vec!["--preview-method".into(), "a b".into()],
        ..options(&root, targets)
    };
    let (tree, python) = (options.workspace.tree(), options.workspace.python());
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::create_dir_all(python.parent().unwrap()).unwrap();
    symlink(system_python(), python).unwrap();
    std::fs::write(tree.join("main.py"), STAND_IN).unwrap();
    runs_under_pm2(&options, &dir.path().join("pm2"));
}

#[test]
fn the_real_pm2_runs_simulated_gpus() {
    let dir = tempfile::tempdir().unwrap();
    let exe = dir.path().join("fornax");
    std::fs::write(&exe, format!("#!{}\n{STAND_IN}", system_python().display())).unwrap();
    std::fs::set_permissions(&exe, std::fs::Permissions::from_mode(0o755)).unwrap();
    let root = dir.path().join("my workspace");
    let gpus = simulated(2, &root).gpus;
    let options = EcosystemOptions {
        base_port: two_free_ports(),
        fornax_exe: exe,
        ..options(
            &root,
            gpus.iter()
                .map(|gpu| Target::Simulated(gpu.reference()))
                .collect(),
        )
    };
    runs_under_pm2(&options, &dir.path().join("pm2"));
}

/// A child that is ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It has usually ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_real_comfyui_takes_the_generated_command_line() {
    let given = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (Some(tree), Some(python)) = (given("FORNAX_COMFYUI"), given("FORNAX_COMFYUI_PYTHON"))
    else {
        println!(
            "NOT RUN: the real ComfyUI; set FORNAX_COMFYUI to its tree and FORNAX_COMFYUI_PYTHON to its Python"
        );
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("my workspace");
    std::fs::create_dir(&root).unwrap();
    symlink(tree, root.join("ComfyUI")).unwrap();
    let workspace = workspace(&root).with_python(&python, &|_| None).unwrap();
    let state = tree::inspect(&workspace);
    println!("{state:?}");
    assert!(matches!(state, tree::TreeState::Installed { .. }));
    let port = two_free_ports();
    let options = EcosystemOptions {
        base_port: port,
        extra_args: ["--disable-all-custom-nodes", "--preview-method", "auto"]
            .map(str::to_owned)
            .into(),
        known_flags: tree::flags(&workspace),
        installer: false,
        workspace: workspace.clone(),
        ..options(&root, vec![Target::Cpu(0)])
    };
    workspace.prepare_dirs(&["gpu0".into()]).unwrap();
    let value = generate(&options).unwrap();
    let app = &value["apps"][0];
    let model = workspace
        .models()
        .join("checkpoints/fornax-test.safetensors");
    std::fs::write(model, "").unwrap();
    let mut command = Command::new(app["interpreter"].as_str().unwrap());
    command
        .current_dir(app["cwd"].as_str().unwrap())
        .arg(app["script"].as_str().unwrap());
    command.args(
        app["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(|arg| arg.as_str().unwrap()),
    );
    command.envs(
        app["env"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(k, v)| (k, v.as_str().unwrap())),
    );
    let mut child = Ended(
        command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap(),
    );

    let limit = Duration::from_secs(180);
    assert!(get(port, "/prompt", limit).contains("queue_remaining"));
    let listed = get(port, "/models/checkpoints", limit);
    assert!(
        listed.contains("fornax-test.safetensors"),
        "shared models are seen: {listed}"
    );
    let folders = get(port, "/models", limit);
    for folder in std::fs::read_dir(workspace.models()).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        let merged = ["clip", "unet", "t2i_adapter", "configs"].contains(&name.as_str());
        assert!(
            merged || folders.contains(&format!("\"{name}\"")),
            "{name} is not in {folders}"
        );
    }
    let database = workspace.instance("gpu0").database;
    assert!(database.exists(), "the database is the instance's own");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(child.0.wait().unwrap().success(), "SIGINT ends it cleanly");
}

#[test]
fn memory_processors_and_flags_are_set_for_all_and_for_single_instances() {
    let text = r#"{"machine": {"arguments": "--preview-method auto", "reserve_vram": 1.5, "max_memory": "48G",
        "instances": {"1": {"reserve_vram": 4, "max_memory": "24G", "cpus": "0-3", "arguments": ["--lowvram"]}}}}"#;
    let machine = FornaxFile::read("fornax.json", text).unwrap().machine;
    let (every, instances) = ecosystem::instance_options(&machine);
    let dir = tempfile::tempdir().unwrap();
    let mut options = EcosystemOptions {
        every,
        instances,
        extra_args: ecosystem::words(machine.arguments.as_ref()).unwrap(),
        ..options(dir.path(), vec![Target::Real(gpu(0)), Target::Real(gpu(1))])
    };
    let made = generate(&options).unwrap();
    let (zero, one) = (&made["apps"][0], &made["apps"][1]);
    assert_eq!(value_of(zero, "--reserve-vram"), Some("1.5"));
    assert_eq!(value_of(one, "--reserve-vram"), Some("4"));
    assert_eq!(zero["max_memory_restart"], 48u64 << 30);
    assert_eq!(one["max_memory_restart"], 24u64 << 30);
    assert_eq!(
        (&zero["fornax"]["cpus"], &one["fornax"]["cpus"]),
        (&json!("auto"), &json!("0,1,2,3"))
    );
    let has = |app: &Value, flag: &str| {
        app["args"]
            .as_array()
            .unwrap()
            .iter()
            .any(|arg| arg == flag)
    };
    assert!(!has(zero, "--lowvram") && has(one, "--lowvram"));
    assert!(has(zero, "--preview-method") && has(one, "--preview-method"));
    // The flags of a single instance are checked too.
    let known = ["--preview-method", "--reserve-vram"].map(str::to_owned);
    options.known_flags = Some(known.into());
    let error = generate(&options).unwrap_err();
    assert!(matches!(error, EcosystemError::UnknownFlag { flag, .. } if flag == "--lowvram"));
    for (wrong, want) in [
        (
            r#"{"machine": {"reserve_vram": -1}}"#,
            "machine.reserve_vram: is out of range",
        ),
        (
            r#"{"machine": {"instances": {"0": {"max_memory": "10M"}}}}"#,
            "machine.instances[0].max_memory: is less than",
        ),
        (
            r#"{"machine": {"instances": {"gpu0": {}}}}"#,
            "\"gpu0\" is no number of an instance",
        ),
        (
            r#"{"machine": {"instances": {"0": {"cpu": "0"}}}}"#,
            "did you mean `cpus`?",
        ),
        (r#"{"machine": {"cpus": "some"}}"#, "write \"auto\""),
    ] {
        let told = FornaxFile::read("fornax.json", wrong).unwrap_err();
        assert!(told[0].to_string().contains(want), "{wrong}: {}", told[0]);
    }
}
