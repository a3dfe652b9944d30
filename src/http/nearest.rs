//! The name that was probably meant.

/// Longer words are not compared, in characters.
const LONGEST: usize = 64;

/// The candidate that differs least from `word`, if it differs by no more than a third of it (at least 1, at most 3 edits).
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word: Vec<char> = word.to_lowercase().chars().collect();
    if word.is_empty() || word.len() > LONGEST {
        return None;
    }
    let most = (word.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.to_lowercase().chars().collect();
            let close = letters.len().abs_diff(word.len()) <= most && letters.len() <= LONGEST;
            close.then(|| (distance(&word, &letters), candidate))
        })
        .filter(|(edits, _)| *edits <= most)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_nonsense_finds_none() {
        let names = ["comfyui-gpu0", "comfyui-gpu1", "worker"];
        for (word, want) in [
            ("worke", Some("worker")),
            ("WORKER", Some("worker")),
            ("comfyui-gpu", Some("comfyui-gpu0")),
            ("comfui-gpu1", Some("comfyui-gpu1")),
            ("redis", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, names), want, "{word:?}");
        }
        assert_eq!(nearest(&"x".repeat(10_000), names), None);
    }
}
