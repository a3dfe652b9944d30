//! The flags of `fornax simulate`: ComfyUI's own where they matter for one instance per GPU, and the simulator's.

use super::fault::Fault;
use crate::core::units::Bytes;
use clap::Args;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// How a simulated ComfyUI is started. An unknown flag is a usage error (exit 2), as in ComfyUI.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true, group = clap::ArgGroup::new("vram_mode").args(["cpu", "gpu_only", "highvram", "normalvram", "lowvram", "novram"]))]
pub struct SimulateOptions {
    /// Address to listen on; the bare flag listens on every IPv4 address.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1", num_args = 0..=1, default_missing_value = "0.0.0.0")]
    pub listen: IpAddr,
    /// Port to listen on; 0 takes a free one, told in the ready line.
    #[arg(long, value_name = "P", default_value_t = 8188)]
    pub port: u16,

    /// Seconds that one prompt takes, 0 to 1,000,000. A prompt whose nodes are all cached takes none.
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    pub seconds: f64,
    /// Progress steps of one prompt, 0 to 10,000. Without it: the sampler's own number, or 10 where the graph has no sampler.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub steps: Option<u32>,
    /// Share of prompts that end in an execution error, 0 to 1.
    #[arg(long, value_name = "R", default_value = "0", value_parser = share)]
    pub fail_rate: f64,
    /// Decides which prompts fail: the same seed fails the same ones.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Seconds the imports take before the port is bound (ComfyUI binds last), 0 to 1,000,000.
    #[arg(long, value_name = "S", default_value = "0", value_parser = seconds)]
    pub start_delay: f64,
    /// Simulated VRAM in bytes, or with a unit: 24G, 8192M.
    #[arg(long, value_name = "BYTES", default_value = "24G", value_parser = size)]
    pub vram: Bytes,
    /// A fault to show, repeatable: silence, dead-prompt-thread, slow-accept[=SECONDS], unavailable, no-history,
    /// crash-after=N, crash-during=N, ignore-sigint, hold-lock, cuda-poisoned, out-of-vram, import-failed=NAME, no-driver.
    #[arg(long = "fault", value_name = "KIND", value_parser = Fault::parse)]
    pub faults: Vec<Fault>,

    /// Holds models, input, output, temp and user where no flag of its own moves them. Without it: a new directory in the
    /// system's temporary directory, removed at a clean exit.
    #[arg(long, value_name = "D")]
    pub base_directory: Option<PathBuf>,
    /// Where saved pictures go.
    #[arg(long, value_name = "D")]
    pub output_directory: Option<PathBuf>,
    /// Where uploads go.
    #[arg(long, value_name = "D")]
    pub input_directory: Option<PathBuf>,
    /// D/temp holds previews. It is deleted at the start and at a clean exit, as in ComfyUI.
    #[arg(long, value_name = "D")]
    pub temp_directory: Option<PathBuf>,
    /// Must exist, as in ComfyUI.
    #[arg(long, value_name = "D")]
    pub user_directory: Option<PathBuf>,
    /// Accepted, and must exist; the simulator lists only the models of its base directory and one of its own.
    #[arg(long, value_name = "F", num_args = 1.., action = clap::ArgAction::Append)]
    pub extra_model_paths_config: Vec<PathBuf>,
    /// Accepted; the simulator has no database.
    #[arg(long, value_name = "U")]
    pub database_url: Option<String>,

    /// Simulate a machine without a GPU.
    #[arg(long)]
    pub cpu: bool,
    /// Accepted. The simulated device is cuda:0 whatever the number, as in ComfyUI.
    #[arg(long, value_name = "N")]
    pub cuda_device: Option<u32>,
    /// Send previews of the sampler's picture, as binary websocket messages.
    #[arg(long, value_name = "M", default_value = "none", value_parser = ["none", "auto", "latent2rgb", "taesd"])]
    pub preview_method: String,
    /// Execute every node of every prompt anew.
    #[arg(long)]
    pub cache_none: bool,
    /// Leave the graph out of the pictures.
    #[arg(long)]
    pub disable_metadata: bool,
    /// The largest body taken, in MiB, 1 to 4096.
    #[arg(long, value_name = "MB", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_upload_size: u32,
    /// ComfyUI flags that change nothing here.
    #[command(flatten)]
    pub ignored: IgnoredFlags,
}

/// Flags of ComfyUI 0.3.64 that are taken so that one command line serves both, and that change nothing in a simulation.
#[derive(Debug, Clone, Default, Args)]
pub struct IgnoredFlags {
    /// Accepted.
    #[arg(long)]
    pub gpu_only: bool,
    /// Accepted.
    #[arg(long)]
    pub highvram: bool,
    /// Accepted.
    #[arg(long)]
    pub normalvram: bool,
    /// Accepted.
    #[arg(long)]
    pub lowvram: bool,
    /// Accepted.
    #[arg(long)]
    pub novram: bool,
    /// Accepted.
    #[arg(long, value_name = "GB")]
    pub reserve_vram: Option<f64>,
    /// Accepted.
    #[arg(long)]
    pub use_flash_attention: bool,
    /// Accepted.
    #[arg(long)]
    pub disable_all_custom_nodes: bool,
    /// Accepted.
    #[arg(long)]
    pub disable_api_nodes: bool,
    /// Accepted.
    #[arg(long)]
    pub disable_auto_launch: bool,
}

impl Default for SimulateOptions {
    fn default() -> Self {
        Self {
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8188,
            seconds: 1.0,
            steps: None,
            fail_rate: 0.0,
            seed: 0,
            start_delay: 0.0,
            vram: Bytes(24 << 30),
            faults: Vec::new(),
            base_directory: None,
            output_directory: None,
            input_directory: None,
            temp_directory: None,
            user_directory: None,
            extra_model_paths_config: Vec::new(),
            database_url: None,
            cpu: false,
            cuda_device: None,
            preview_method: "none".into(),
            cache_none: false,
            disable_metadata: false,
            max_upload_size: 100,
            ignored: IgnoredFlags::default(),
        }
    }
}

impl SimulateOptions {
    /// The largest body taken, in bytes.
    pub(super) fn body_limit(&self) -> usize {
        self.max_upload_size as usize * 1024 * 1024
    }

    /// What `/system_stats` shows as `argv`: the flags by which a client proves that the answer comes from this instance.
    pub(super) fn argv(&self) -> Vec<String> {
        let mut argv: Vec<String> = ["main.py", "--listen"].map(String::from).to_vec();
        argv.push(self.listen.to_string());
        argv.extend(["--port".into(), self.port.to_string()]);
        for (flag, path) in [
            ("--base-directory", &self.base_directory),
            ("--output-directory", &self.output_directory),
            ("--input-directory", &self.input_directory),
            ("--temp-directory", &self.temp_directory),
            ("--user-directory", &self.user_directory),
        ] {
            if let Some(path) = path {
                argv.extend([flag.into(), path.display().to_string()]);
            }
        }
        for path in &self.extra_model_paths_config {
            argv.extend([
                "--extra-model-paths-config".into(),
                path.display().to_string(),
            ]);
        }
        if let Some(url) = &self.database_url {
            argv.extend(["--database-url".into(), url.clone()]);
        }
        if let Some(device) = self.cuda_device {
            argv.extend(["--cuda-device".into(), device.to_string()]);
        }
        if let Some(gigabytes) = self.ignored.reserve_vram {
            argv.extend(["--reserve-vram".into(), gigabytes.to_string()]);
        }
        if self.preview_method != "none" {
            argv.extend(["--preview-method".into(), self.preview_method.clone()]);
        }
        if self.max_upload_size != 100 {
            argv.extend(["--max-upload-size".into(), self.max_upload_size.to_string()]);
        }
        for (flag, given) in [
            ("--cpu", self.cpu),
            ("--cache-none", self.cache_none),
            ("--disable-metadata", self.disable_metadata),
            ("--gpu-only", self.ignored.gpu_only),
            ("--highvram", self.ignored.highvram),
            ("--normalvram", self.ignored.normalvram),
            ("--lowvram", self.ignored.lowvram),
            ("--novram", self.ignored.novram),
            ("--use-flash-attention", self.ignored.use_flash_attention),
            (
                "--disable-all-custom-nodes",
                self.ignored.disable_all_custom_nodes,
            ),
            ("--disable-api-nodes", self.ignored.disable_api_nodes),
            ("--disable-auto-launch", self.ignored.disable_auto_launch),
        ] {
            if given {
                argv.push(flag.into());
            }
        }
        argv
    }
}

/// Reads a number of seconds within the range that a timer takes.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    within(text, 1_000_000.0, "seconds from 0 to 1000000")
}

fn share(text: &str) -> Result<f64, String> {
    within(text, 1.0, "a share from 0 to 1")
}

fn within(text: &str, most: f64, expected: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=most).contains(&value) => Ok(value),
        _ => Err(format!("expected {expected}")),
    }
}

fn size(text: &str) -> Result<Bytes, String> {
    Bytes::parse(text)
        .ok_or_else(|| "expected bytes, or a number with K, M or G, such as 24G".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: SimulateOptions,
    }

    fn parse(line: &str) -> Result<SimulateOptions, clap::Error> {
        Cli::try_parse_from(std::iter::once("simulate").chain(line.split_whitespace()))
            .map(|cli| cli.options)
    }

    #[test]
    fn no_flag_gives_the_documented_defaults() {
        assert_eq!(
            format!("{:?}", parse("").unwrap()),
            format!("{:?}", SimulateOptions::default())
        );
    }

    #[test]
    fn flags_that_comfyui_does_not_know_or_that_exclude_each_other_exit_with_2() {
        for line in [
            "--no-such-flag",
            "--cpu --lowvram",
            "--fail-rate 1.5",
            "--seconds nan",
            "--fault nonsense",
            "--vram 24GB",
        ] {
            let error = parse(line).map(|_| ()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn argv_shows_the_flags_given() {
        let options =
            parse("--port 8204 --cpu --output-directory /o --cuda-device 3 --vram 8G").unwrap();
        assert_eq!(options.vram, Bytes(8 << 30));
        assert_eq!(
            options.argv(),
            [
                "main.py",
                "--listen",
                "127.0.0.1",
                "--port",
                "8204",
                "--output-directory",
                "/o",
                "--cuda-device",
                "3",
                "--cpu"
            ]
        );
    }
}
