//! The variables that existing machines set, taken where `fornax.json` is silent: each is read for one setting only.

use super::settings::{Arguments, Gpus, Machine};
use crate::core::problem::Problem;

/// The variables that stand for one setting; the first that is set and not empty counts.
#[derive(Debug, Clone, Copy)]
pub struct Fallback {
    /// The setting.
    pub key: &'static str,
    /// The variables, the strongest first (comfyui-facts 1.4, 1.8, 1.9, 1.14).
    pub variables: &'static [&'static str],
    /// What they may hold.
    pub holds: &'static str,
}

/// Every variable that is read.
pub const FALLBACKS: &[Fallback] = &[
    Fallback {
        key: "enabled",
        variables: &["ENABLE_COMFYUI"],
        holds: "`false` switches it off",
    },
    Fallback {
        key: "repository",
        variables: &["COMFYUI_REPO_URL", "COMFY_REPO_URL"],
        holds: "a URL",
    },
    Fallback {
        key: "branch",
        variables: &["COMFYUI_BRANCH"],
        holds: "a branch",
    },
    Fallback {
        key: "commit",
        variables: &["COMFYUI_COMMIT"],
        holds: "a commit; `null` counts as unset",
    },
    Fallback {
        key: "base_port",
        variables: &[
            "COMFYUI_BASE_PORT",
            "COMFYUI_PORT_START",
            "WORKER_BASE_COMFYUI_PORT",
        ],
        holds: "a port",
    },
    Fallback {
        key: "arguments",
        variables: &["COMFY_ARGS"],
        holds: "flags, split as a shell does",
    },
    Fallback {
        key: "cpu",
        variables: &["COMFYUI_CPU_MODE", "TEST_MODE", "MOCK_GPU", "GPU_MODE"],
        holds: "`true` or `1`; of GPU_MODE `mock`",
    },
    Fallback {
        key: "gpus",
        variables: &["TEST_GPUS", "NUM_GPUS", "MACHINE_NUM_GPUS", "MOCK_GPU_NUM"],
        holds: "how many; TEST_GPUS also means `cpu`, the last two count with GPU_MODE=mock only",
    },
    Fallback {
        key: "nodes",
        variables: &["STORAGE_TEST_MODE", "AWS_TEST_MODE"],
        holds: "`true` takes the short list, `config_nodes_test.json`",
    },
    Fallback {
        key: "pull_models",
        variables: &["SKIP_MODEL_DOWNLOAD"],
        holds: "`true` leaves the models alone",
    },
    Fallback {
        key: "http",
        variables: &["HEALTH_PORT", "MACHINE_HEALTH_PORT"],
        holds: "a port, on 127.0.0.1",
    },
];

/// What a machine's variables say, looked up once each.
struct Said(Vec<(&'static str, String)>);

impl Said {
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The first that is set of those that stand for `key`.
    fn first(&self, key: &str) -> Option<(&'static str, &str)> {
        let fallback = FALLBACKS.iter().find(|fallback| fallback.key == key)?;
        fallback
            .variables
            .iter()
            .find_map(|name| self.get(name).map(|value| (*name, value)))
    }

    fn is_true(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true"))
    }

    fn text(&self, key: &str) -> Option<String> {
        self.first(key).map(|(_, value)| value.to_owned())
    }
}

/// Fills in what the file does not say from the variables. `env` looks one up.
///
/// # Errors
/// A variable that holds no number where one is wanted, or what the setting itself may not be.
pub fn with_fallbacks(
    machine: Machine,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Machine, Vec<Problem>> {
    let names = FALLBACKS.iter().flat_map(|fallback| fallback.variables);
    let said = Said(
        names
            .filter_map(|name| {
                let value = env(name)?.trim().to_owned();
                (!value.is_empty()).then_some((*name, value))
            })
            .collect(),
    );
    let mut problems = Vec::new();
    let mut number = |found: Option<(&'static str, &str)>, max: u32, what: &str| {
        let (name, text) = found?;
        match text.parse::<u32>() {
            Ok(value) if (1..=max).contains(&value) => Some(value),
            _ => {
                problems.push(problem(
                    name,
                    &format!("{text:?} is no {what}"),
                    &format!("set it to 1 to {max}, or unset it"),
                ));
                None
            }
        }
    };
    let port = u32::from(u16::MAX);
    let base_port = match machine.base_port {
        Some(_) => None,
        None => number(said.first("base_port"), port, "port"),
    };
    let http = match machine.http {
        Some(_) => None,
        None => number(said.first("http"), port, "port"),
    };
    let mock = said.get("GPU_MODE") == Some("mock");
    let counts: &[&'static str] = match mock {
        true => &["MACHINE_NUM_GPUS", "MOCK_GPU_NUM", "TEST_GPUS", "NUM_GPUS"],
        false => &["TEST_GPUS", "NUM_GPUS"],
    };
    let count = counts
        .iter()
        .find_map(|name| said.get(name).map(|value| (*name, value)));
    let gpus = match machine.gpus {
        Some(_) => None,
        None => number(count, 64, "number of GPUs"),
    };
    let short = said.is_true("STORAGE_TEST_MODE") || said.is_true("AWS_TEST_MODE");
    let on_processor = mock
        || said.get("TEST_GPUS").is_some()
        || ["COMFYUI_CPU_MODE", "TEST_MODE", "MOCK_GPU"]
            .iter()
            .any(|name| said.is_true(name));
    let off = said
        .get("ENABLE_COMFYUI")
        .is_some_and(|value| value.eq_ignore_ascii_case("false"));
    let filled = Machine {
        enabled: machine.enabled.or(off.then_some(false)),
        repository: machine.repository.or_else(|| said.text("repository")),
        branch: machine.branch.or_else(|| said.text("branch")),
        commit: machine
            .commit
            .or_else(|| said.text("commit").filter(|commit| commit != "null")),
        base_port: machine
            .base_port
            .or(base_port.and_then(|port| u16::try_from(port).ok())),
        arguments: machine
            .arguments
            .or_else(|| said.text("arguments").map(Arguments::Text)),
        cpu: machine.cpu.or(on_processor.then_some(true)),
        gpus: machine.gpus.or(gpus.map(Gpus::Count)),
        nodes: machine
            .nodes
            .or(short.then(|| "config_nodes_test.json".to_owned())),
        pull_models: machine
            .pull_models
            .or(said.is_true("SKIP_MODEL_DOWNLOAD").then_some(false)),
        http: machine
            .http
            .or(http.map(|port| format!("127.0.0.1:{port}"))),
        ..machine
    };
    for issue in filled.senseless() {
        let key = issue.pointer.trim_start_matches('/');
        let name = said.first(key).map_or("fornax.json", |(name, _)| name);
        problems.push(problem(name, &issue.what, &issue.mend));
    }
    match problems.is_empty() {
        true => Ok(filled),
        false => Err(problems),
    }
}

fn problem(variable: &str, what: &str, mend: &str) -> Problem {
    Problem {
        file: format!("variable {variable}"),
        line: None,
        column: None,
        key: String::new(),
        what: what.to_owned(),
        mend: mend.to_owned(),
        pm2: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn filled(machine: Machine, list: &[(&str, &str)]) -> Result<Machine, Vec<Problem>> {
        with_fallbacks(machine, &|name| {
            list.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn each_variable_stands_for_one_setting() {
        let mut seen = BTreeSet::new();
        for name in FALLBACKS.iter().flat_map(|fallback| fallback.variables) {
            assert!(seen.insert(name), "{name} is read twice");
        }
    }

    #[test]
    fn the_file_wins_over_the_variables_and_three_names_of_a_port_are_one_setting() {
        let file = Machine {
            branch: Some("mine".into()),
            ..Machine::default()
        };
        let got = filled(
            file,
            &[
                ("COMFYUI_BRANCH", "forward"),
                ("COMFYUI_COMMIT", "null"),
                ("COMFY_REPO_URL", "https://example.org/C"),
                ("WORKER_BASE_COMFYUI_PORT", "3001"),
                ("COMFYUI_PORT_START", "9188"),
                ("HEALTH_PORT", "9092"),
            ],
        )
        .unwrap();
        assert_eq!(got.branch.as_deref(), Some("mine"));
        assert_eq!(got.commit, None);
        assert_eq!(got.repository.as_deref(), Some("https://example.org/C"));
        assert_eq!(got.base_port, Some(9188));
        assert_eq!(got.http.as_deref(), Some("127.0.0.1:9092"));
        assert_eq!(filled(Machine::default(), &[]).unwrap(), Machine::default());
    }

    #[test]
    fn mock_gpus_mean_the_processor() {
        for (list, gpus) in [
            (&[("TEST_GPUS", "2")][..], Some(2)),
            (&[("GPU_MODE", "mock"), ("MOCK_GPU_NUM", "3")], Some(3)),
            (&[("MOCK_GPU", "1"), ("NUM_GPUS", "4")], Some(4)),
            (&[("TEST_MODE", "true")], None),
        ] {
            let got = filled(Machine::default(), list).unwrap();
            assert_eq!(got.cpu, Some(true), "{list:?}");
            assert_eq!(got.gpus, gpus.map(Gpus::Count), "{list:?}");
        }
        let got = filled(
            Machine::default(),
            &[("GPU_MODE", "actual"), ("MOCK_GPU_NUM", "3")],
        );
        assert_eq!(got.unwrap(), Machine::default());
    }

    #[test]
    fn a_variable_that_makes_no_sense_is_named() {
        let problems = filled(
            Machine::default(),
            &[("NUM_GPUS", "two"), ("COMFYUI_COMMIT", "main")],
        )
        .unwrap_err();
        let told: Vec<String> = problems.iter().map(Problem::to_string).collect();
        assert!(
            told[0].starts_with("variable NUM_GPUS: \"two\" is no number of GPUs"),
            "{told:?}"
        );
        assert!(told[1].starts_with("variable COMFYUI_COMMIT:"), "{told:?}");
    }
}
