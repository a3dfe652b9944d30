//! Which of PyTorch's indices fits the machine (comfyui-facts 5.2).

/// Where PyTorch's own indices lie; a name such as `cu128` is added.
pub const BASE: &str = "https://download.pytorch.org/whl/";

/// The CUDA versions that PyTorch has wheels for, the newest first.
const CUDA: [(u32, u32); 8] = [
    (13, 0),
    (12, 9),
    (12, 8),
    (12, 6),
    (12, 4),
    (12, 1),
    (11, 8),
    (11, 7),
];

/// Where torch is taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Index {
    /// The index that packages come from anyway.
    Ordinary,
    /// This one, with the ordinary one beside it.
    Url(String),
}

/// What a machine has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Machine<'a> {
    /// The CUDA version of the driver (`12.8`); `None` without a driver.
    pub cuda: Option<&'a str>,
    /// It is to be run on the processor only.
    pub cpu: bool,
}

/// The index for a setting of `torch_index`, and why it was chosen.
///
/// # Errors
/// `auto`, and a driver that no wheel fits; what is wrong and how to mend it.
pub fn choose(setting: &str, machine: Machine<'_>) -> Result<(Index, String), String> {
    match setting {
        "auto" => automatic(machine),
        "pypi" => Ok((Index::Ordinary, "as set".to_owned())),
        url if url.contains("://") => Ok((Index::Url(url.to_owned()), "as set".to_owned())),
        name => Ok((Index::Url(format!("{BASE}{name}")), "as set".to_owned())),
    }
}

fn automatic(machine: Machine<'_>) -> Result<(Index, String), String> {
    let named = |name: &str, why: String| Ok((Index::Url(format!("{BASE}{name}")), why));
    if machine.cpu {
        return named("cpu", "ComfyUI is to run on the processor".to_owned());
    }
    let Some(cuda) = machine.cuda else {
        return named("cpu", "no NVIDIA driver was found".to_owned());
    };
    let why = format!("the driver has CUDA {cuda}");
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok());
    let mut parts = cuda.split('.');
    let (Some(major), minor) = (number(parts.next()), number(parts.next()).unwrap_or(0)) else {
        return Err(format!(
            "the driver's CUDA version {cuda:?} cannot be read; set `torch_index` in fornax.json"
        ));
    };
    let fits = CUDA.iter().find(|wheel| **wheel <= (major, minor));
    // Within one major version an older driver runs newer wheels.
    let close = CUDA.iter().rev().find(|wheel| wheel.0 == major);
    match fits.filter(|wheel| wheel.0 == major).or(close).or(fits) {
        Some((major, minor)) => named(&format!("cu{major}{minor}"), why),
        None => Err(format!(
            "{why}, which is too old for every torch there is; update the driver, or set `torch_index` to `cpu`"
        )),
    }
}

/// Requirements that hold the torch packages at one version: `torchaudio` may lag behind `torch` on an index, and does not
/// work then (comfyui-facts 5.1). `found` are the versions that a resolver chose; `None` if they go together.
pub fn aligned(requirements: &[String], found: &[(String, String)]) -> Option<Vec<String>> {
    let version = |name: &str| {
        found
            .iter()
            .find(|(known, _)| known == name)
            .and_then(|(_, version)| minor_of(version))
    };
    let (torch, audio) = (version("torch")?, version("torchaudio")?);
    // What the operator has pinned is the operator's.
    let pinned = |name: &str| !requirements.iter().any(|requirement| requirement == name);
    if torch == audio || pinned("torch") || pinned("torchaudio") {
        return None;
    }
    let older = torch.min(audio);
    let hold = |requirement: &String| match requirement.as_str() {
        "torch" | "torchaudio" => format!("{requirement}=={}.{}.*", older.0, older.1),
        _ => requirement.clone(),
    };
    Some(requirements.iter().map(hold).collect())
}

/// `2.7.1+cu128` → `(2, 7)`.
fn minor_of(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(cuda: Option<&str>, cpu: bool) -> String {
        match choose("auto", Machine { cuda, cpu }) {
            Ok((Index::Url(url), _)) => url.trim_start_matches(BASE).to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_index_goes_by_the_drivers_cuda() {
        for (cuda, want) in [
            ("13.2", "cu130"),
            ("13.0", "cu130"),
            ("12.9", "cu129"),
            ("12.8", "cu128"),
            ("12.7", "cu126"),
            ("12.0", "cu121"),
            ("11.8", "cu118"),
            ("14.1", "cu130"),
        ] {
            assert_eq!(auto(Some(cuda), false), want, "{cuda}");
        }
        assert_eq!(auto(None, false), "cpu");
        assert_eq!(auto(Some("12.8"), true), "cpu");
        assert!(auto(Some("10.2"), false).contains("too old"));
        assert!(auto(Some("x"), false).contains("cannot be read"));
    }

    #[test]
    fn a_setting_is_taken_as_it_is() {
        let of = |text| choose(text, Machine::default()).unwrap().0;
        assert_eq!(of("pypi"), Index::Ordinary);
        assert_eq!(of("cu126"), Index::Url(format!("{BASE}cu126")));
        assert_eq!(
            of("https://h/simple"),
            Index::Url("https://h/simple".into())
        );
    }

    #[test]
    fn an_audio_that_lags_behind_holds_the_others_back() {
        let list = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let found = |torch: &str, audio: &str| {
            [("torch", torch), ("torchaudio", audio)].map(|(n, v)| (n.to_owned(), v.to_owned()))
        };
        let trio = list(&["torch", "torchvision", "torchaudio"]);
        let held = aligned(&trio, &found("2.15.0+cu132", "2.11.0")).unwrap();
        assert_eq!(held, ["torch==2.11.*", "torchvision", "torchaudio==2.11.*"]);
        assert_eq!(aligned(&trio, &found("2.7.1", "2.7.0+cu128")), None);
        let pinned = list(&["torch==2.15.0", "torchaudio"]);
        assert_eq!(aligned(&pinned, &found("2.15.0", "2.11.0")), None);
    }
}
