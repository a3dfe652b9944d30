//! Files written by hand as lenient JSON: comments, bare keys, single quotes, trailing commas, a byte order mark, duplicate keys.

use super::positions::{MAX_DEPTH, Place, Positions, TooDeep};
use super::problem::Problem;
use super::spec::fornax_check::unreadable;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Parses lenient JSON (JSON5). Of a key written twice the last one counts.
///
/// # Errors
/// The text is no JSON, or nests deeper than [`MAX_DEPTH`]: with its line and column.
pub fn parse(file: &str, text: &str) -> Result<(Value, Positions), Box<Problem>> {
    let malformed = |place: Option<Place>, what: String, mend: &str| {
        Box::new(Problem {
            file: file.to_owned(),
            line: place.map(|place| place.line),
            column: place.map(|place| place.column),
            key: String::new(),
            what,
            mend: mend.to_owned(),
            pm2: None,
        })
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // Before the parser proper, which recurses without a limit of its own.
    let positions = Positions::of_json(text).map_err(|TooDeep(place)| {
        malformed(
            Some(place),
            format!("nests deeper than {MAX_DEPTH} levels"),
            "flatten it",
        )
    })?;
    let value = json5::from_str(text).map_err(|error| {
        let start = Place { line: 1, column: 1 };
        let place = error.position().map_or(start, |p| Place {
            line: number(p.line),
            column: number(p.column),
        });
        let what = error
            .code()
            .map_or_else(|| error.to_string(), |code| code.to_string());
        malformed(
            Some(place),
            format!("is not JSON: {what}"),
            "see what stands before this place",
        )
    })?;
    Ok((value, positions))
}

/// Parses a file into a type; an unknown key, a missing one or a value of another kind is told with its place. `schema` is
/// where it says what may be written.
///
/// # Errors
/// The first problem.
pub fn read<T: DeserializeOwned>(
    file: &str,
    text: &str,
    schema: &str,
) -> Result<(T, Positions), Box<Problem>> {
    let (value, positions) = parse(file, text)?;
    match serde_path_to_error::deserialize(&value) {
        Ok(read) => Ok((read, positions)),
        Err(error) => {
            let issue = unreadable("", schema, &error);
            let problem = Problem::placed(file, &positions, &issue.pointer, &issue);
            Err(Box::new(problem))
        }
    }
}

/// json5 counts lines and columns from 0.
fn number(from_zero: usize) -> u32 {
    u32::try_from(from_zero + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct File {
        machine: Machine,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Machine {
        branch: String,
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_its_key() {
        for (text, want) in [
            (
                "{machine: {\n branhc: 'x'}}",
                "f:2:2: machine.branhc: unknown key `branhc`; did you mean `branch`?",
            ),
            (
                "{machine: {\n branch: 5}}",
                "f:2:10: machine.branch: invalid type: integer `5`, expected a string; see the schema for what it may be",
            ),
            (
                "{machine: {}}",
                "f:1:11: machine: missing field `branch`; add it",
            ),
            (
                "",
                "f:1:1: is not JSON: EOF parsing value; see what stands before this place",
            ),
        ] {
            let problem = read::<File>("f", text, "the schema").unwrap_err();
            assert_eq!(problem.to_string(), want);
        }
    }

    proptest::proptest! {
        /// serde_json without `float_roundtrip` is off in the last bit of some.
        #[test]
        fn a_number_is_the_nearest_one_in_both_of_our_readers(digits in "[1-9]\\.[0-9]{1,30}", exponent in -300..300) {
            let text = format!("{digits}e{exponent}");
            let nearest: f64 = text.parse().unwrap();
            proptest::prop_assert_eq!(parse("f", &text).unwrap().0.as_f64(), Some(nearest));
            proptest::prop_assert_eq!(serde_json::from_str::<f64>(&text).unwrap(), nearest);
        }
    }
}
