//! What the words of git, pip, uv and Python mean: the cause by name, and how to mend it.

use regex::Regex;
use std::sync::LazyLock;

/// A cause that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// What it is, in words that scripts may match.
    pub what: String,
    /// How to mend it.
    pub mend: String,
}

/// A pattern of one line, what it means with `$1` for its first group, and what to do. The first that is found counts, so
/// what is told of the machine stands before what follows from it.
const KNOWN: &[(&str, &str, &str)] = &[
    (
        r"(?i)no space left on device|ENOSPC|disk quota exceeded",
        "the disk is full",
        "free some room (`fornax comfyui clean` removes old builds), and run it again",
    ),
    (
        r"(?i)read-only file system",
        "the file system is read-only",
        "mount it writable, or choose another --workspace",
    ),
    (
        r"(?i)could not resolve host:? ?([^ ;]*)|temporary failure in name resolution|name or service not known",
        "the network cannot be reached: no address for $1",
        "check the network, its DNS and its proxy settings, and run it again",
    ),
    (
        r"(?i)repository '([^']*)' (?:does not exist|not found)|fatal: '([^']*)' does not appear to be a git repository|remote: repository not found|repository .* does not exist",
        "there is no such repository",
        "check the URL",
    ),
    (
        r"(?i)could not read username|authentication failed|terminal prompts disabled|permission denied \(publickey",
        "the repository is private or does not exist: the server asks for a login",
        "check the URL, or give git credentials that need no terminal",
    ),
    (
        r"(?i)remote branch (\S+) not found|couldn't find remote ref (\S+)",
        "the repository has no branch or tag $1",
        "check `branch`",
    ),
    (
        r"(?i)not our ref|reference is not a tree|unable to read tree|bad object|did not match any file\(s\) known to git|unknown revision",
        "the repository has no such commit",
        "check `commit`",
    ),
    (
        r"(?i)ensurepip is not available|no module named ensurepip|no module named venv",
        "this Python cannot make environments",
        "install its venv package (python3-venv), or install uv, or set `python` in fornax.json",
    ),
    (
        r"(?i)externally-managed-environment",
        "this Python is managed by the system and takes no packages",
        "leave `python` to fornax, or give a Python of your own",
    ),
    (
        r"(?i)different CUDA versions?|compiled with different CUDA",
        "torch and torchaudio were built for different CUDA versions",
        "install both from one index: set `torch_index`, or name versions that go together in `torch` (fornax.json)",
    ),
    (
        r"(?i)torch not compiled with cuda enabled",
        "this torch was built without CUDA",
        "set `torch_index` in fornax.json to the index of your driver's CUDA, such as cu128, and install again",
    ),
    (
        r"(?i)no kernel image is available",
        "this torch was not built for this GPU",
        "set `torch_index` in fornax.json: cu126 for GTX 10 and older, cu128 or later for RTX 50",
    ),
    (
        r"(?i)NVIDIA driver on your system is too old",
        "the NVIDIA driver is too old for this torch",
        "update the driver, or set `torch_index` in fornax.json to an older CUDA",
    ),
    (
        r"(?i)found no NVIDIA driver",
        "there is no NVIDIA driver",
        "install it, or use --cpu",
    ),
    (
        r"No matching distribution found for (.+)|No solution found .* ([A-Za-z0-9_.-]+) was not found in the package registry|Could not find a version that satisfies the requirement ([^ ]+)",
        "there is no package that fits $1",
        "check its name and version, the Python version, and the package index",
    ),
    (
        r"(?i)ResolutionImpossible|conflicting dependencies|cannot install .* because these package versions have|your requirements are unsatisfiable",
        "its requirements contradict what is installed",
        "ask for other versions; what ComfyUI itself needs is held, `packages` in fornax.json changes that",
    ),
    (
        r"(?i)THESE PACKAGES DO NOT MATCH THE HASHES|hash mismatch",
        "a package that was fetched is not the one that was promised",
        "clear the cache of pip or uv, and run it again",
    ),
    (
        r"ModuleNotFoundError: No module named '([^']+)'|No module named '([^']+)'",
        "the Python module $1 is missing",
        "add the package that holds it to `packages` in fornax.json",
    ),
    (
        r"(?i)connection refused|connection timed out|network is unreachable|read timed out|operation timed out|connection reset|failed to connect|transfer closed|early EOF|operation too slow",
        "the connection failed",
        "check the network, and run it again; what is done stays done",
    ),
    (
        r"(?i)command '?(?:gcc|cc|g\+\+|x86_64-linux-gnu-gcc)'? failed|error: microsoft visual|unable to find vcvarsall|no such file or directory: '(?:gcc|cc)'",
        "a package had to be built, and there is no compiler",
        "install gcc and the Python headers (build-essential, python3-dev)",
    ),
    (
        r"(?i)permission denied",
        "permission was denied",
        "check who owns the workspace",
    ),
    (
        r"(?i)unrecognized arguments: (.+)",
        "this ComfyUI does not know $1",
        "leave it out of `arguments`, or update the tree",
    ),
    (
        r"(?i)\bSyntaxError: (.+)",
        "a Python file cannot be read: $1",
        "check that the Python version suits it",
    ),
    (
        r"\bImportError: (.+)",
        "an import failed: $1",
        "check the package that it names",
    ),
];

static COMPILED: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    KNOWN
        .iter()
        .map(|(pattern, _, _)| Regex::new(pattern).expect("the patterns are tested"))
        .collect()
});

/// The cause that lines of output tell of, if it is a known one.
pub fn cause<'a>(lines: impl IntoIterator<Item = &'a str> + Clone) -> Option<Cause> {
    for (pattern, (_, what, mend)) in COMPILED.iter().zip(KNOWN) {
        for line in lines.clone() {
            let Some(found) = pattern.captures(line) else {
                continue;
            };
            let group = found.iter().skip(1).flatten().next();
            let group = group.map_or("", |group| group.as_str().trim());
            let what = what.replace("$1", group);
            return Some(Cause {
                what: what.trim_end_matches([' ', ':']).to_owned(),
                mend: (*mend).to_owned(),
            });
        }
    }
    None
}

/// The Python module that output says is missing.
pub fn missing_module<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let found = lines.into_iter().find_map(|line| {
        let rest = line
            .split("ModuleNotFoundError: No module named '")
            .nth(1)?;
        rest.split('\'').next()
    })?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    (!found.is_empty() && found.chars().all(plain)).then(|| found.to_owned())
}

/// The package that holds a module which trees forget to require (comfyui-facts 5.1); `None` for others.
pub fn package_of(module: &str) -> Option<&'static str> {
    match module {
        "requests" => Some("requests"),
        "filelock" => Some("filelock"),
        "packaging" => Some("packaging"),
        "typing_extensions" => Some("typing-extensions"),
        "setuptools" | "pkg_resources" => Some("setuptools"),
        "yaml" => Some("pyyaml"),
        "PIL" => Some("pillow"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_tools_are_understood() {
        for (line, want) in [
            (
                "fatal: repository '/x/none' does not exist",
                "there is no such repository",
            ),
            (
                "fatal: '/x' does not appear to be a git repository",
                "there is no such repository",
            ),
            (
                "warning: Could not find remote branch nope to clone.\nfatal: Remote branch nope not found in upstream origin",
                "the repository has no branch or tag nope",
            ),
            (
                "fatal: unable to access 'https://h/': Could not resolve host: h.example",
                "the network cannot be reached: no address for h.example",
            ),
            (
                "fatal: reference is not a tree: 0123456789",
                "the repository has no such commit",
            ),
            (
                "error: [Errno 28] No space left on device: '/x'",
                "the disk is full",
            ),
            (
                "ERROR: No matching distribution found for nope==9",
                "there is no package that fits nope==9",
            ),
            (
                "ModuleNotFoundError: No module named 'requests'",
                "the Python module requests is missing",
            ),
            (
                "RuntimeError: Detected that PyTorch and TorchAudio were compiled with different CUDA versions.",
                "torch and torchaudio were built for different CUDA versions",
            ),
            (
                "AssertionError: Torch not compiled with CUDA enabled",
                "this torch was built without CUDA",
            ),
            (
                "main.py: error: unrecognized arguments: --nope",
                "this ComfyUI does not know --nope",
            ),
        ] {
            let cause = cause(line.lines()).map(|cause| cause.what);
            assert_eq!(cause.as_deref(), Some(want), "{line}");
        }
        assert_eq!(cause(["all is well"]), None);
    }

    #[test]
    fn a_missing_module_is_found_and_only_known_ones_are_mended() {
        let lines = ["x", "ModuleNotFoundError: No module named 'requests'"];
        assert_eq!(missing_module(lines).as_deref(), Some("requests"));
        assert_eq!(
            missing_module(["ModuleNotFoundError: No module named '--x'"]),
            None
        );
        assert_eq!(package_of("requests"), Some("requests"));
        assert_eq!(package_of("comfy"), None);
    }
}
