//! ComfyUI's command line: what Fornax sets for each instance, and what the operator adds.

use super::{EcosystemError, Target};
use crate::comfyui::workspace::Workspace;
use crate::core::spec::fornax_check::nearest;
use std::collections::BTreeSet;

/// Flags that differ from instance to instance, so that one value for all would break them.
const OURS: [&str; 7] = [
    "--port",
    "--output-directory",
    "--input-directory",
    "--temp-directory",
    "--user-directory",
    "--database-url",
    // It overwrites CUDA_VISIBLE_DEVICES inside ComfyUI (comfyui-facts 1.5).
    "--cuda-device",
];

/// Memory modes that ComfyUI refuses beside `--cpu`.
const NOT_WITH_CPU: [&str; 5] = [
    "--gpu-only",
    "--highvram",
    "--normalvram",
    "--lowvram",
    "--novram",
];

/// The shortest abbreviation that is taken for one of [`OURS`]: Python's parser accepts `--output-d`.
const ABBREVIATION: usize = 5;

/// Splits `COMFY_ARGS` into words as a shell does, without expanding anything: blanks separate, quotes and backslashes
/// keep. `None` if a quote is left open or a backslash ends the text.
pub fn split_words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

/// Checks the operator's flags against ours, against CPU mode, and against those the tree knows.
pub(super) fn check(
    extra: &[String],
    cpu: bool,
    known: Option<&BTreeSet<String>>,
) -> Result<(), EcosystemError> {
    for flag in extra.iter().filter_map(|arg| flag_of(arg)) {
        let ours = OURS
            .iter()
            .any(|ours| *ours == flag || flag.len() >= ABBREVIATION && ours.starts_with(flag));
        if ours && !known.is_some_and(|known| !OURS.contains(&flag) && known.contains(flag)) {
            return Err(EcosystemError::OurFlag {
                flag: flag.to_owned(),
            });
        }
        if cpu && NOT_WITH_CPU.contains(&flag) {
            return Err(EcosystemError::NotWithCpu {
                flag: flag.to_owned(),
            });
        }
    }
    unknown_flag(extra, known).map_or(Ok(()), Err)
}

/// The first of these arguments that is a flag which a tree does not know. Without a list, all are taken to be known.
pub fn unknown_flag(extra: &[String], known: Option<&BTreeSet<String>>) -> Option<EcosystemError> {
    let known = known?;
    // Python's parser takes the beginning of a flag for the flag.
    let knows = |flag: &str| known.iter().any(|known| known.starts_with(flag));
    let mut flags = extra.iter().filter_map(|arg| flag_of(arg));
    let flag = flags.find(|flag| !knows(flag))?;
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    Some(EcosystemError::UnknownFlag {
        flag: flag.to_owned(),
        near: nearest(flag, &names).map(str::to_owned),
    })
}

/// The flags of one instance: ours, then the operator's.
pub(super) fn instance(
    workspace: &Workspace,
    target: &Target,
    port: u16,
    extra: &[String],
    known: Option<&BTreeSet<String>>,
) -> Vec<String> {
    let dirs = workspace.instance(&target.slot());
    let given = |flag: &str| extra.iter().any(|arg| flag_of(arg) == Some(flag));
    let knows = |flag: &str| known.is_none_or(|known| known.contains(flag));
    let mut args: Vec<String> = Vec::new();
    let mut push = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
    if !given("--listen") {
        push("--listen", "127.0.0.1".to_owned());
    }
    push("--port", port.to_string());
    for (flag, dir) in [
        ("--output-directory", &dirs.output),
        ("--input-directory", &dirs.input),
        ("--temp-directory", &dirs.temp),
        ("--user-directory", &dirs.user),
        ("--extra-model-paths-config", &workspace.extra_model_paths()),
    ] {
        push(flag, dir.display().to_string());
    }
    // A tree without a database would end with a usage error on the flag.
    if knows("--database-url") {
        push(
            "--database-url",
            format!("sqlite:///{}", dirs.database.display()),
        );
    }
    if matches!(target, Target::Cpu(_)) && !given("--cpu") {
        args.push("--cpu".to_owned());
    }
    args.extend(extra.iter().cloned());
    args
}

/// The flag that an argument is, without a value after `=`.
fn flag_of(arg: &str) -> Option<&str> {
    let flag = arg.split_once('=').map_or(arg, |(flag, _)| flag);
    (flag.len() > 2 && flag.starts_with("--")).then_some(flag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        for (text, want) in [
            ("", &[][..]),
            ("  --a   b\t\n", &["--a", "b"]),
            ("--a='b c' \"d 'e'\" f\\ g", &["--a=b c", "d 'e'", "f g"]),
            (r#""" '' a"" "\$\n\"""#, &["", "", "a", r#"$\n""#]),
            ("$HOME `id` *", &["$HOME", "`id`", "*"]),
        ] {
            assert_eq!(split_words(text).unwrap(), want, "{text}");
        }
        for text in ["'a", "\"a", "a\\", "\"a\\"] {
            assert_eq!(split_words(text), None, "{text}");
        }
    }

    #[test]
    fn a_flag_that_differs_by_instance_is_not_the_operators() {
        let words = |text| split_words(text).unwrap();
        for text in [
            "--port 1",
            "--port=1",
            "--cuda-device 0",
            "--output-dir x",
            "--user=/x",
            "--databas x",
        ] {
            let error = check(&words(text), false, None).unwrap_err();
            assert!(
                matches!(error, EcosystemError::OurFlag { .. }),
                "{text}: {error}"
            );
        }
        for text in [
            "",
            "--listen 0.0.0.0",
            "--preview-method auto",
            "--cpu",
            "--use-flash-attention",
            "-- x",
        ] {
            check(&words(text), false, None).unwrap();
        }
        check(&words("--lowvram"), false, None).unwrap();
        let error = check(&words("--lowvram"), true, None).unwrap_err();
        assert!(matches!(error, EcosystemError::NotWithCpu { .. }));
    }

    #[test]
    fn a_flag_that_the_tree_does_not_know_is_refused_before_it_costs_a_start() {
        let known: BTreeSet<String> = ["--preview-method", "--temp"].map(str::to_owned).into();
        check(&["--preview-m".into(), "auto".into()], false, Some(&known)).unwrap();
        check(&["--temp".into()], false, Some(&known)).expect("a flag of its own in this tree");
        let error = check(&["--normalvram".into()], false, Some(&known)).unwrap_err();
        assert!(matches!(error, EcosystemError::UnknownFlag { .. }));
    }

    proptest! {
        #[test]
        fn quoted_words_come_back_whole(words in prop::collection::vec("[^']{0,12}", 0..6)) {
            let text: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            prop_assert_eq!(split_words(&text.join(" ")), Some(words));
        }

        #[test]
        fn any_text_is_split_or_refused(text in ".{0,200}") {
            // Either answer is right; only a panic is wrong.
            let _ = split_words(&text);
        }
    }
}
