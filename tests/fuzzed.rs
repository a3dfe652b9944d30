//! The checks of the fuzz targets (`tests/fuzz`), over the committed corpora and over what proptest makes up.

#![allow(clippy::unwrap_used)] // the rig around the tests fails a test by panicking, too

#[path = "fuzz/checks/mod.rs"]
mod checks;

use checks::TARGETS;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Files of one corpus, at most.
const FILES: usize = 30;
/// Bytes of one file, at most.
const BYTES: usize = 4096;

fn folder(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz")
        .join(part)
}

fn names(folder: &Path) -> BTreeSet<String> {
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| stem(entry.unwrap().path()))
        .collect()
}

/// The files of a target's corpus, by their names.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let data = std::fs::read(&path).unwrap();
        (path, data)
    };
    let files = std::fs::read_dir(folder("corpus").join(target)).unwrap();
    let mut files: Vec<_> = files.map(read).collect();
    files.sort();
    files
}

/// Runs a target on each file of its corpus.
fn replay(target: &str, check: checks::Check) {
    let files = corpus(target);
    let count = files.len();
    assert!((5..=FILES).contains(&count), "{count} files for {target}");
    for (path, data) in files {
        assert!(data.len() <= BYTES, "{} is too large", path.display());
        println!("{}", path.display());
        check(&data);
    }
}

macro_rules! replays {
    ($($target:ident)*) => {
        const REPLAYED: &[&str] = &[$(stringify!($target)),*];
        mod the_corpus_of {
            $(#[test] fn $target() { super::replay(stringify!($target), super::checks::$target::check); })*
        }
    };
}

replays! { axon channel ecosystem_json ecosystem_yaml http keeper log_lines rpc state words }

#[test]
fn every_target_has_a_program_a_corpus_and_a_replay() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let replayed: BTreeSet<String> = REPLAYED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(replayed, targets);
    assert_eq!(names(&folder("fuzz_targets")), targets);
    assert_eq!(names(&folder("corpus")), targets);
    let manifest = std::fs::read_to_string(folder("Cargo.toml")).unwrap();
    for target in &targets {
        let line = format!("name = \"{target}\"");
        assert!(manifest.contains(&line), "{target} is not in Cargo.toml");
    }
}

/// So many cases. What fails becomes a file of the corpus, so nothing else is kept of it.
fn cases(count: u32) -> ProptestConfig {
    ProptestConfig {
        cases: count,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// One change to a file.
#[derive(Debug, Clone)]
enum Edit {
    Put(Index, u8),
    Insert(Index, Vec<u8>),
    Cut(Index, Index),
    Double(Index, Index),
}

/// Bytes that mean something to one parser or another.
fn telling() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "\"",
        "\\",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\n",
        "\r",
        "\0",
        "-",
        "-1",
        "0",
        "1e400",
        "null",
        "true",
        "{}",
        "[]",
        "18446744073709551615",
        "9223372036854775807",
        "4294967296",
        "é",
        "\u{2028}",
        "\\u0000",
        "\\ud800",
        "%ff",
        "&",
        "?",
        "*",
    ]);
    prop_oneof![
        3 => words.prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Put(at, byte)),
        (any::<Index>(), telling()).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Edit::Cut(from, to)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Edit::Double(from, to)),
    ]
}

fn edited(mut data: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    let between = |data: &[u8], from: &Index, to: &Index| {
        let (from, to) = (from.index(data.len() + 1), to.index(data.len() + 1));
        from.min(to)..from.max(to).min(from.min(to) + 40)
    };
    for edit in edits {
        match edit {
            Edit::Put(_, _) if data.is_empty() => {}
            Edit::Put(at, byte) => {
                let at = at.index(data.len());
                data[at] = *byte;
            }
            Edit::Insert(at, bytes) => {
                let at = at.index(data.len() + 1);
                data.splice(at..at, bytes.iter().copied());
            }
            Edit::Cut(from, to) => drop(data.drain(between(&data, from, to))),
            Edit::Double(from, to) => {
                let piece = data[between(&data, from, to)].to_vec();
                let at = to.index(data.len() + 1);
                data.splice(at..at, piece);
            }
        }
    }
    data
}

/// Files of a target's corpus with a few changes.
fn near_the_corpus_of(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let files: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, data)| data).collect();
    (
        prop::sample::select(files),
        prop::collection::vec(edit(), 1..6),
    )
        .prop_map(|(data, edits): (Vec<u8>, _)| edited(data, &edits))
}

macro_rules! edits {
    ($($target:ident: $cases:literal)*) => {
        mod what_is_near_the_corpus_of {
            use super::*;
            $(
                #[test]
                fn $target() {
                    proptest!(cases($cases), |(data in near_the_corpus_of(stringify!($target)))| {
                        checks::$target::check(&data);
                    });
                }
            )*
        }
    };
}

edits! {
    axon: 150 channel: 60 ecosystem_json: 150 ecosystem_yaml: 150 http: 60 keeper: 150 log_lines: 200 rpc: 40 state: 150 words: 150
}

/// Any JSON, with numbers at every edge.
fn value() -> impl Strategy<Value = Value> {
    let number = prop::sample::select(vec![
        json!(0),
        json!(-1),
        json!(1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u32::MAX),
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        "(\\PC{0,6}|true|false|max|SIGINT|10s|1G|/srv/x.sh|a 'b c'|\\* \\* \\* \\* \\*)"
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-zA-Z_]{0,6}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// An app's keys, each with any value at all.
fn app() -> impl Strategy<Value = Map<String, Value>> {
    let keys: Vec<&str> = fornax::core::spec::keys::KEYS
        .iter()
        .map(|key| key.name)
        .collect();
    let known = (prop::sample::select(keys).prop_map(str::to_owned), value());
    prop::collection::vec(known, 0..5).prop_map(|members| members.into_iter().collect())
}

proptest! {
    #![proptest_config(cases(80))]

    #[test]
    fn an_app_of_any_keys_is_read_as_json_and_as_yaml(mut app in app(), script: bool) {
        if script {
            app.insert("script".to_owned(), json!("app.sh"));
        }
        let text = json!({"apps": [app]}).to_string();
        checks::ecosystem_json::check(text.as_bytes());
        checks::ecosystem_yaml::check(text.as_bytes());
    }

    #[test]
    fn a_prepare_of_any_keys_is_answered(extra in app(), then in value()) {
        let mut conf = json!({"name": "x", "pm_exec_path": "/srv/x.sh", "pm_cwd": "/srv", "exec_interpreter": "none", "env": {}});
        conf.as_object_mut().unwrap().extend(extra);
        let prepare = json!({"type": "call", "method": "prepare", "args": [conf]});
        let restart = json!({"type": "call", "method": "restartProcessId", "args": [{"id": 1, "env": {"current_conf": then}}]});
        checks::rpc::check(format!("{prepare}\n{restart}").as_bytes());
    }

    #[test]
    fn a_table_with_any_value_in_any_place_is_refused_or_goes_on(place in any::<Index>(), put in value()) {
        let corpus = corpus("state");
        let (_, entries) = corpus.iter().find(|(path, _)| path.ends_with("entries")).unwrap();
        let lines = entries.split(|byte| *byte == b'\n');
        let mut table: Value = lines.map(|line| serde_json::from_slice::<Value>(line).unwrap()).collect();
        let mut pointers = Vec::new();
        list(&table, &mut String::new(), &mut pointers);
        *table.pointer_mut(&pointers[place.index(pointers.len())]).unwrap() = put;
        let lines: Vec<String> = table.as_array().unwrap_or(&Vec::new()).iter().map(Value::to_string).collect();
        checks::state::check(lines.join("\n").as_bytes());
    }
}

/// The JSON pointers of all values in `value`.
fn list(value: &Value, here: &mut String, found: &mut Vec<String>) {
    found.push(here.clone());
    let mut go = |step: &str, inner: &Value| {
        let length = here.len();
        here.push('/');
        here.push_str(step);
        list(inner, here, found);
        here.truncate(length);
    };
    match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(at, item)| go(&at.to_string(), item)),
        Value::Object(members) => members.iter().for_each(|(key, item)| go(key, item)),
        _ => {}
    }
}
