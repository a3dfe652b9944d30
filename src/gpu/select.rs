//! Choosing GPUs by `--gpus`: a list of indices, or a count.

use super::inventory::{Gpu, Inventory};

/// The most GPUs a selection may name: more than any machine has.
const LIMIT: usize = 64;

/// What `--gpus` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// These indices, each once, in the order given.
    Indices(Vec<u32>),
    /// The first so many.
    Count(u32),
}

/// Why a selection means nothing here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectionError {
    /// Neither a list nor a count.
    #[error(
        "{text:?} does not select GPUs; write indices with commas (0,1 or 1,), or a count (2) where one is asked for"
    )]
    Malformed {
        /// What was given.
        text: String,
    },
    /// An index twice.
    #[error("GPU {index} is selected twice; name it once")]
    Twice {
        /// The index.
        index: u32,
    },
    /// No such GPU.
    #[error("there is no GPU {index}; {have}")]
    Unknown {
        /// The index.
        index: u32,
        /// What there is.
        have: String,
    },
    /// Too few.
    #[error("{wanted} GPUs are wanted; {have}")]
    TooFew {
        /// How many are wanted.
        wanted: u32,
        /// What there is.
        have: String,
    },
}

/// Reads a comma list of indices: `0`, `0,1`, `1,` (a comma at the end is allowed).
///
/// # Errors
/// Malformed text, an index twice, more than 64 of them.
pub fn parse_indices(text: &str) -> Result<Vec<u32>, SelectionError> {
    let malformed = || SelectionError::Malformed {
        text: text.chars().take(80).collect(),
    };
    let list = text.trim();
    let list = list.strip_suffix(',').unwrap_or(list);
    let mut indices = Vec::new();
    for part in list.split(',') {
        let digits = part.trim();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        let index = digits.parse().map_err(|_| malformed())?;
        if indices.contains(&index) {
            return Err(SelectionError::Twice { index });
        }
        if indices.len() == LIMIT {
            return Err(malformed());
        }
        indices.push(index);
    }
    Ok(indices)
}

/// Reads what `fornax comfyui ecosystem --gpus` takes: with a comma indices (`0,1`; `1,` for GPU 1 alone), without one a
/// count from 1 to 64 (`2`: the first two).
///
/// # Errors
/// As [`parse_indices`]; a count of 0.
pub fn parse_selection(text: &str) -> Result<Selection, SelectionError> {
    let indices = parse_indices(text)?;
    match indices.as_slice() {
        [count] if !text.contains(',') => match *count {
            1..=64 => Ok(Selection::Count(*count)),
            _ => Err(SelectionError::Malformed {
                text: text.to_owned(),
            }),
        },
        _ => Ok(Selection::Indices(indices)),
    }
}

impl Inventory {
    /// The selected GPUs, in the order asked for.
    ///
    /// # Errors
    /// An index that is not there, or a count above what there is; the message names what there is.
    pub fn select(&self, selection: &Selection) -> Result<Vec<Gpu>, SelectionError> {
        match selection {
            Selection::Indices(indices) => {
                let find = |index: &u32| {
                    self.gpus
                        .iter()
                        .find(|gpu| gpu.index == *index)
                        .cloned()
                        .ok_or_else(|| SelectionError::Unknown {
                            index: *index,
                            have: self.have(),
                        })
                };
                indices.iter().map(find).collect()
            }
            Selection::Count(count) => {
                let wanted = usize::try_from(*count).unwrap_or(usize::MAX);
                match self.gpus.get(..wanted) {
                    Some(first) => Ok(first.to_vec()),
                    None => Err(SelectionError::TooFew {
                        wanted: *count,
                        have: self.have(),
                    }),
                }
            }
        }
    }

    /// What there is, as the end of a sentence.
    fn have(&self) -> String {
        let list: Vec<String> = self
            .gpus
            .iter()
            .map(|gpu| format!("{} ({})", gpu.index, gpu.name))
            .collect();
        match (list.is_empty(), &self.note) {
            (false, _) => format!("this machine has {}", list.join(", ")),
            (true, Some(note)) => format!("this machine has none: {note}"),
            (true, None) => "this machine has none".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::inventory::simulated;
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn a_comma_makes_a_list_and_a_bare_number_a_count() {
        for (text, want) in [
            ("0,1", Selection::Indices(vec![0, 1])),
            (" 3 , 1 ", Selection::Indices(vec![3, 1])),
            ("1,", Selection::Indices(vec![1])),
            ("2", Selection::Count(2)),
            ("64", Selection::Count(64)),
        ] {
            assert_eq!(parse_selection(text), Ok(want), "{text}");
        }
        for text in [
            "",
            ",",
            "0",
            "65",
            "-1",
            "+1",
            "a",
            "0,,1",
            "0;1",
            "0,1,,",
            "1.0",
            "99999999999999",
        ] {
            assert!(
                matches!(parse_selection(text), Err(SelectionError::Malformed { .. })),
                "{text}"
            );
        }
        assert_eq!(
            parse_selection("1,1"),
            Err(SelectionError::Twice { index: 1 })
        );
        assert_eq!(
            parse_indices("0"),
            Ok(vec![0]),
            "a list of one where only lists are taken"
        );
    }

    #[test]
    fn an_unknown_index_is_named_beside_what_there_is() {
        let inventory = simulated(2, Path::new("/w"));
        let picked = inventory.select(&Selection::Indices(vec![1, 0])).unwrap();
        assert_eq!(
            picked.iter().map(|gpu| gpu.index).collect::<Vec<_>>(),
            [1, 0]
        );
        let error = inventory
            .select(&Selection::Indices(vec![0, 7]))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no GPU 7; this machine has 0 (Simulated GPU), 1 (Simulated GPU)"
        );
        let none = Inventory {
            note: Some("no NVIDIA driver: none was found".into()),
            ..Inventory::default()
        };
        let error = none.select(&Selection::Count(3)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "3 GPUs are wanted; this machine has none: no NVIDIA driver: none was found"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,200}") {
            // A returned error is as good as a value here: only a panic is wrong.
            let _ = parse_selection(&text);
        }
    }
}
